/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Fuzz target: a hostile guest, and a hostile saved state, against the board's own devices:
 * fw_cfg with its DMA, flash, serial port, clock, power, hot-plug, PCI's configuration space.
 * The input is a program of accesses to ports and memory; now and then a device's state is
 * saved, changed by the program's bytes, and loaded.
 *
 * Whatever they do: no crash, no hang, nothing outside of the guest's memory; and what is
 * saved can be loaded.
 */
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/math.h"
#include "block/blk.h"
#include "vmm/acpi.h"
#include "vmm/devices.h"
#include "vmm/flash.h"
#include "vmm/fwcfg.h"
#include "vmm/hotplug.h"
#include "vmm/pci.h"
#include "vmm/smbios.h"

#define STEPS_MAX     400u
#define FLASH_AT      0xffc00000ull
#define FLASH_BYTES   (8 * KiB)
#define SECTION_BYTES 44u /* before a device's own */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static struct board {
	struct vm vm;
	struct chardev *typed;
	struct serial *serial;
	struct power *power;
	struct pci *pci;
	struct hotplug *hotplug;
	struct fwcfg *fwcfg;
	struct acpi acpi;
	struct smbios smbios;
	struct blk *vars;
	const uint8_t *data; /* the program */
	size_t bytes;
} b;

static void must(bool ok)
{
	if (!ok)
		abort();
}

/* Zeros when there is no more. */
static uint64_t take(unsigned bytes)
{
	uint64_t value = 0;

	bytes = (unsigned)MIN((size_t)bytes, b.bytes);
	memcpy(&value, b.data, bytes);
	b.data += bytes;
	b.bytes -= bytes;
	return value;
}

/* ---- the board ------------------------------------------------------------------- */

static void make_devices(struct err *err)
{
	b.typed = chardev_open("none", err);
	must(b.typed && serial_new(&b.vm, b.typed, &b.serial, err) == 0);
	must(rtc_new(&b.vm, err) == 0 && power_new(&b.vm, &b.power, err) == 0);
	must(pci_new(&b.vm, &b.pci, err) == 0 && piix_new(&b.vm, b.pci, err) == 0);
	must(hotplug_new(&b.vm, b.power, &b.hotplug, err) == 0);
	b.vars = blk_open("mem:vars", NULL, BLK_O_RDWR | BLK_O_PROTOCOL, err);
	must(b.vars && blk_resize(b.vars, FLASH_BYTES, BLK_PREALLOC_OFF, err) == 0);
	must(flash_new(&b.vm, VM_SLOT_ROM, FLASH_AT, b.vars, err) == 0);
	must(fwcfg_new(&b.vm, &b.fwcfg, err) == 0);
}

static void make(void)
{
	struct memory_options memory = {.bytes = 16 * MiB};
	struct smbios_options smbios = {.uuid = NULL};
	struct err err = ERR_INIT;

	memset(&b, 0, sizeof(b));
	b.vm.kvm_fd = b.vm.fd = -1;
	b.vm.cpus = 2;
	b.vm.topology = (struct vm_topology){1, 2, 1};
	pthread_mutex_init(&b.vm.lock, NULL);
	pthread_cond_init(&b.vm.changed, NULL);
	bus_init(&b.vm.pio);
	bus_init(&b.vm.mmio);
	must(memory_new(&b.vm.memory, &memory, &err) == 0);
	make_devices(&err);
	must(acpi_build(&b.vm, &b.acpi, &err) == 0 && acpi_offer(b.fwcfg, &b.acpi) == 0);
	must(smbios_build(&b.vm, &smbios, &b.smbios, &err) == 0 &&
		smbios_offer(b.fwcfg, &b.smbios) == 0);
	for (struct device *d = b.vm.devices; d; d = d->next)
		if (d->ops->reset)
			d->ops->reset(d);
}

static void unmake(void)
{
	b.vm.cpus = 0;
	vm_free(&b.vm);
	acpi_free(&b.acpi);
	smbios_free(&b.smbios);
	chardev_close(b.typed);
	blk_close(b.vars);
}

/* ---- what a guest does ----------------------------------------------------------- */

static void access_port(void)
{
	static const uint16_t bases[] = {0x3f8, 0x70, 0x64, 0x600, 0x608, 0x60c, 0xcf8,
		0xcfc, 0x510, 0x514, 0xae00};
	unsigned how = (unsigned)take(1), bytes = 1u << (how & 3) % 3;
	uint16_t port = (uint16_t)(bases[take(1) % ARRAY_LEN(bases)] + (how >> 4 & 7));

	if (how & 8)
		bus_read(&b.vm.pio, port, bytes);
	else
		bus_write(&b.vm.pio, port, bytes, take(bytes));
}

/* The address as configuration mechanism #1 wants it, so that functions are found. */
static void access_config(void)
{
	uint32_t where = (uint32_t)take(2);

	bus_write(&b.vm.pio, 0xcf8, 4, 0x80000000u | (where & 0x3fff));
	if (where & 0x8000)
		bus_read(&b.vm.pio, 0xcfc, 4);
	else
		bus_write(&b.vm.pio, 0xcfc, 4, take(4));
}

static void access_flash(void)
{
	uint64_t at = FLASH_AT + take(2) % FLASH_BYTES;

	if (at & 1)
		bus_read(&b.vm.mmio, at, 1);
	else
		bus_write(&b.vm.mmio, at, 1, take(1));
}

/* A request of fw_cfg's in memory, big-endian, and its address. */
static void request_dma(void)
{
	uint8_t *p = memory_at(&b.vm.memory, MiB, 16);
	uint64_t words[2] = {take(8), take(8)};

	memcpy(p, words, sizeof(words));
	bus_write(&b.vm.pio, 0x514, 4, take(1) & 1 ? UINT32_MAX : 0);
	bus_write(&b.vm.pio, 0x518, 4, __builtin_bswap32((uint32_t)MiB + (take(1) & 3)));
}

/* ---- what is saved --------------------------------------------------------------- */

static struct device *choose_device(void)
{
	unsigned n = (unsigned)take(1) % 16;
	struct device *d = b.vm.devices;

	while (n-- && d->next)
		d = d->next;
	return d;
}

static int load(struct device *d, const uint8_t *data, size_t bytes)
{
	struct state *s = state_open(data, bytes);
	unsigned version;
	int ret;

	must(s != NULL);
	version = state_begin(s, d->ops->name, 0, d->ops->version);
	if (version)
		d->ops->state(d, s, version);
	state_end(s);
	ret = state_ret(s, NULL);
	state_free(s);
	return ret;
}

static void save_and_load(void)
{
	struct device *d = choose_device();
	unsigned changes = (unsigned)take(1) % 4;
	const uint8_t *data;
	struct state *s;
	uint8_t *copy;
	size_t bytes;

	if (!d->ops->state)
		return;
	s = state_new();
	must(s != NULL);
	state_begin(s, d->ops->name, 0, d->ops->version);
	d->ops->state(d, s, d->ops->version);
	state_end(s);
	must(state_ret(s, NULL) == 0);
	data = state_data(s, &bytes);
	copy = malloc(bytes);
	must(copy != NULL);
	memcpy(copy, data, bytes);
	for (unsigned i = 0; i < changes && bytes > SECTION_BYTES; i++)
		copy[SECTION_BYTES + take(2) % (bytes - SECTION_BYTES)] =
			(uint8_t)take(1);
	must(load(d, copy, bytes) == 0 || changes);
	free(copy);
	state_free(s);
}

/* ---- the target ------------------------------------------------------------------ */

static void step(void)
{
	switch (take(1) % 8) {
	case 0:
	case 1:
	case 2:
		access_port();
		break;
	case 3:
		access_config();
		break;
	case 4:
		access_flash();
		break;
	case 5:
		request_dma();
		break;
	case 6:
		hotplug_added(b.hotplug, (unsigned)take(1) % 32);
		break;
	default:
		save_and_load();
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	log_set_sink(NULL);
	make();
	b.data = data;
	b.bytes = bytes;
	for (unsigned i = 0; i < STEPS_MAX && b.bytes; i++)
		step();
	unmake();
	return 0;
}
