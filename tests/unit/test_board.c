/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The board's own devices, without KVM: what firmware reads (fw_cfg, ACPI's tables by its
 * script, SMBIOS), flash, hot-plug; and of each device that what was saved and loaded is
 * saved again as the same bytes, whatever the guest had written.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "backends/fault.h"
#include "base/endian.h"
#include "base/math.h"
#include "block/blk.h"
#include "tests/unit/support_bare.h"
#include "tests/unit/support_blk.h"
#include "vmm/flash.h"
#include "vmm/fwcfg.h"
#include "vmm/hotplug.h"
#include "vmm/pci.h"
#include "vmm/smbios.h"
#include "vmm/acpi.h"

#define FLASH_AT    0xffc00000ull
#define FLASH_BYTES (16 * KiB)

static struct board {
	struct vm vm;
	struct serial *serial;
	struct chardev *typed;
	struct power *power;
	struct pci *pci;
	struct hotplug *hotplug;
	struct fwcfg *fwcfg;
	struct acpi acpi;
	struct smbios smbios;
	struct blk *vars;
	unsigned ejected;
} b;

static void ejected(void *arg, unsigned slot)
{
	(void)arg;
	b.ejected |= 1u << slot;
}

static void make_flash(struct err *err)
{
	uint8_t ones[FLASH_BYTES];

	memset(ones, 0xff, sizeof(ones));
	b.vars = node_open("driver=fault,file.driver=mem", BLK_O_RDWR);
	assert_int_equal(blk_resize(b.vars, FLASH_BYTES, BLK_PREALLOC_OFF, err), 0);
	assert_int_equal(blk_pwrite(b.vars, 0, ones, sizeof(ones), 0), 0);
	assert_int_equal(flash_new(&b.vm, VM_SLOT_ROM, FLASH_AT, b.vars, err), 0);
}

static int make(void **state)
{
	struct smbios_options smbios = {.uuid = "00112233-4455-6677-8899-aabbccddeeff"};
	struct err err = ERR_INIT;

	(void)state;
	memset(&b, 0, sizeof(b));
	bare_make(&b.vm, 32 * MiB);
	b.vm.cpus = 6;
	b.vm.topology = (struct vm_topology){1, 3, 2};
	b.typed = chardev_open("none", &err);
	assert_non_null(b.typed);
	assert_int_equal(serial_new(&b.vm, b.typed, &b.serial, &err), 0);
	assert_int_equal(rtc_new(&b.vm, &err), 0);
	assert_int_equal(power_new(&b.vm, &b.power, &err), 0);
	assert_int_equal(pci_new(&b.vm, &b.pci, &err), 0);
	assert_int_equal(piix_new(&b.vm, b.pci, &err), 0);
	assert_int_equal(hotplug_new(&b.vm, b.power, &b.hotplug, &err), 0);
	hotplug_set_ejected(b.hotplug, ejected, NULL);
	make_flash(&err);
	assert_int_equal(fwcfg_new(&b.vm, &b.fwcfg, &err), 0);
	assert_int_equal(acpi_build(&b.vm, &b.acpi, &err), 0);
	assert_int_equal(smbios_build(&b.vm, &smbios, &b.smbios, &err), 0);
	assert_int_equal(acpi_offer(b.fwcfg, &b.acpi), 0);
	assert_int_equal(smbios_offer(b.fwcfg, &b.smbios), 0);
	bare_reset(&b.vm);
	return 0;
}

static int unmake(void **state)
{
	(void)state;
	b.vm.cpus = 0;
	vm_free(&b.vm);
	acpi_free(&b.acpi);
	smbios_free(&b.smbios);
	chardev_close(b.typed);
	return blk_close(b.vars);
}

static void out(uint16_t port, unsigned bytes, uint32_t value)
{
	bus_write(&b.vm.pio, port, bytes, value);
}

static uint32_t in(uint16_t port, unsigned bytes)
{
	return (uint32_t)bus_read(&b.vm.pio, port, bytes);
}

/* ---- fw_cfg ---------------------------------------------------------------------- */

static void read_item(uint16_t key, void *data, size_t bytes)
{
	out(0x510, 2, key);
	for (size_t i = 0; i < bytes; i++)
		((uint8_t *)data)[i] = (uint8_t)in(0x511, 1);
}

/* The size, and the number. */
static uint32_t find_file(const char *name, uint16_t *key)
{
	uint8_t count[4], entry[64];
	uint32_t found = 0;

	out(0x510, 2, FWCFG_DIRECTORY);
	for (unsigned i = 0; i < 4; i++)
		count[i] = (uint8_t)in(0x511, 1);
	for (uint32_t n = be32_load(count); n; n--) {
		for (unsigned i = 0; i < sizeof(entry); i++)
			entry[i] = (uint8_t)in(0x511, 1);
		if (strcmp((char *)entry + 8, name) == 0) {
			found = be32_load(entry);
			*key = be16_load(entry + 4);
		}
	}
	return found;
}

static uint8_t *read_file(const char *name, uint32_t *bytes)
{
	uint16_t key = 0;
	uint8_t *data;

	*bytes = find_file(name, &key);
	assert_true(*bytes > 0);
	data = malloc(*bytes);
	read_item(key, data, *bytes);
	return data;
}

static void firmware_finds_items_and_files(void **state)
{
	uint8_t signature[6], id[4];

	(void)state;
	read_item(FWCFG_SIGNATURE, signature, sizeof(signature));
	assert_memory_equal(signature, "QEMU\0\0", 6); /* zeros behind the end */
	read_item(FWCFG_ID, id, sizeof(id));
	assert_int_equal(id[0], 3);
	assert_int_equal(in(0x514, 4), 0x554d4551); /* "QEMU", and " CFG" */
	assert_int_equal(in(0x518, 4), 0x47464320);
	read_item(0x3000, signature, sizeof(signature));
	assert_memory_equal(signature, "\0\0\0\0\0\0", 6);
}

/* A request at 1 MiB; its control field afterwards. */
static uint32_t dma(uint32_t control, uint32_t bytes, uint64_t address)
{
	uint8_t *p = memory_at(&b.vm.memory, MiB, 16);

	be32_store(p, control);
	be32_store(p + 4, bytes);
	be64_store(p + 8, address);
	out(0x514, 4, 0);
	out(0x518, 4, __builtin_bswap32((uint32_t)MiB));
	return be32_load(p);
}

static void firmware_reads_by_dma_and_only_into_memory(void **state)
{
	uint8_t *to = memory_at(&b.vm.memory, 2 * MiB, 64);

	(void)state;
	memset(to, 0xee, 64);
	assert_int_equal(dma(FWCFG_SIGNATURE << 16 | 8 | 2, 8, 2 * MiB), 0);
	assert_memory_equal(to, "QEMU\0\0\0\0\xee", 9);
	assert_int_equal(dma(FWCFG_SIGNATURE << 16 | 8 | 4, 2, 0), 0); /* skips */
	assert_int_equal(dma(2, 2, 2 * MiB), 0);
	assert_memory_equal(to, "MU", 2);
	assert_int_equal(dma(2, 16, 32 * MiB - 8), 1);
	assert_int_equal(dma(2, UINT32_MAX, 0), 1);
	assert_int_equal(dma(2, 16, UINT64_MAX - 4), 1);
	assert_int_equal(dma(16, 4, 2 * MiB), 1); /* nothing can be written */
	out(0x514, 4, UINT32_MAX);                /* a request that is nowhere */
	out(0x518, 4, UINT32_MAX);
}

/* ---- ACPI's tables, as firmware puts them ---------------------------------------- */

static uint8_t sum_of(const uint8_t *p, size_t bytes)
{
	uint8_t sum = 0;

	while (bytes--)
		sum = (uint8_t)(sum + *p++);
	return sum;
}

#define PLACE 0x7fe0000u /* where this firmware puts the tables */

static uint64_t load_field(const uint8_t *p, unsigned bytes)
{
	return bytes == 8 ? le64_load(p) : le32_load(p);
}

static void store_field(uint8_t *p, unsigned bytes, uint64_t value)
{
	if (bytes == 8)
		le64_store(p, value);
	else
		le32_store(p, (uint32_t)value);
}

static void run_script(uint8_t *tables, uint8_t *rsdp)
{
	uint32_t bytes;
	uint8_t *script = read_file("etc/table-loader", &bytes);

	assert_int_equal(bytes % 128, 0);
	for (const uint8_t *p = script; p < script + bytes; p += 128) {
		const char *file = (const char *)p + 4;
		uint8_t *data = strcmp(file, "etc/acpi/rsdp") == 0 ? rsdp : tables;

		if (le32_load(p) == 2) {
			uint8_t *field = data + le32_load(p + 116);
			unsigned n = p[120];

			assert_string_equal((const char *)p + 60, "etc/acpi/tables");
			store_field(field, n, load_field(field, n) + PLACE);
		} else if (le32_load(p) == 3) {
			data[le32_load(p + 60)] = 0;
			data[le32_load(p + 60)] = (uint8_t)-sum_of(
				data + le32_load(p + 64), le32_load(p + 68));
		} else {
			assert_int_equal(le32_load(p), 1);
		}
	}
	free(script);
}

static void the_script_makes_tables_that_are_sound(void **state)
{
	uint32_t bytes, rsdp_bytes;
	uint8_t *tables = read_file("etc/acpi/tables", &bytes),
		*rsdp = read_file("etc/acpi/rsdp", &rsdp_bytes);
	const uint8_t *xsdt, *fadt, *madt, *dsdt;

	(void)state;
	run_script(tables, rsdp);
	assert_memory_equal(rsdp, "RSD PTR ", 8);
	assert_int_equal(sum_of(rsdp, 20), 0);
	assert_int_equal(sum_of(rsdp, 36), 0);
	xsdt = tables + (le64_load(rsdp + 24) - PLACE);
	assert_memory_equal(xsdt, "XSDT", 4);
	assert_int_equal(sum_of(xsdt, le32_load(xsdt + 4)), 0);
	fadt = tables + (le64_load(xsdt + 36) - PLACE);
	assert_memory_equal(fadt, "FACP", 4);
	assert_int_equal(sum_of(fadt, le32_load(fadt + 4)), 0);
	madt = tables + (le64_load(xsdt + 44) - PLACE);
	assert_memory_equal(madt, "APIC", 4);
	assert_int_equal(sum_of(madt, le32_load(madt + 4)), 0);
	dsdt = tables + (le64_load(fadt + 140) - PLACE);
	assert_memory_equal(dsdt, "DSDT", 4);
	assert_int_equal(le32_load(fadt + 40), le64_load(fadt + 140));
	assert_int_equal(sum_of(dsdt, le32_load(dsdt + 4)), 0);
	assert_true(dsdt + le32_load(dsdt + 4) <= tables + bytes);
	assert_memory_equal(tables + (le32_load(fadt + 36) - PLACE), "FACS", 4);
	free(tables);
	free(rsdp);
}

static void smbios_has_as_many_structures_as_it_says(void **state)
{
	uint32_t bytes, anchor_bytes;
	uint8_t *tables = read_file("etc/smbios/smbios-tables", &bytes),
		*anchor = read_file("etc/smbios/smbios-anchor", &anchor_bytes);
	unsigned n = 0;
	uint8_t *p = tables;

	(void)state;
	while (p < tables + bytes) {
		if (p[0] ==
			1) /* the UUID has its first three parts the other way round */
			assert_memory_equal(p + 8, "\x33\x22\x11\x00\x55\x44\x77\x66", 8);
		p += p[1];
		while (p[0] || p[1])
			p++;
		p += 2;
		n++;
	}
	assert_int_equal(n, le16_load(anchor + 28));
	assert_int_equal(bytes, le16_load(anchor + 22));
	free(tables);
	free(anchor);
}

/* Each field of the number has bits of its own, so numbers have gaps. */
static void processors_are_numbered_by_where_they_are(void **state)
{
	static const struct vm_topology t = {2, 3, 2};
	static const uint32_t want[] = {0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13};

	(void)state;
	for (unsigned i = 0; i < ARRAY_LEN(want); i++)
		assert_int_equal(vcpu_apic_id(&t, i), want[i]);
}

/* ---- hot-plug -------------------------------------------------------------------- */

static void a_new_slot_raises_an_event_and_is_told_once(void **state)
{
	(void)state;
	assert_int_equal(in(POWER_GPE_PORT, 2), 0);
	hotplug_added(b.hotplug, 5);
	hotplug_request_eject(b.hotplug, 6);
	assert_int_equal(in(POWER_GPE_PORT, 2), 1u << HOTPLUG_EVENT);
	assert_int_equal(in(HOTPLUG_PORT, 4), 1u << 5);
	assert_int_equal(in(HOTPLUG_PORT, 4), 0);
	assert_int_equal(in(HOTPLUG_PORT + 4, 4), 1u << 6);
	out(POWER_GPE_PORT, 2, 1u << HOTPLUG_EVENT);
	assert_int_equal(in(POWER_GPE_PORT, 2), 0);
	out(HOTPLUG_PORT + 8, 4, 1u << 6 | 1); /* the bridge does not go */
	assert_int_equal(b.ejected, 1u << 6);
}

/* ---- flash ----------------------------------------------------------------------- */

static uint8_t flash_in(uint64_t offset)
{
	return (uint8_t)bus_read(&b.vm.mmio, FLASH_AT + offset, 1);
}

static void flash_out(uint64_t offset, uint8_t value)
{
	bus_write(&b.vm.mmio, FLASH_AT + offset, 1, value);
}

static void flash_is_programmed_and_erased_in_its_image(void **state)
{
	uint8_t block[4096], byte;

	(void)state;
	flash_out(0, 0x50);
	flash_out(0, 0x70);
	assert_int_equal(flash_in(0), 0); /* how firmware knows it from RAM and ROM */
	flash_out(0, 0x10);
	flash_out(4097, 0x5a);
	assert_int_equal(flash_in(0), 0x80);
	flash_out(0, 0xff);
	assert_int_equal(flash_in(4097), 0x5a);
	assert_int_equal(blk_pread(b.vars, 4097, &byte, 1), 0);
	assert_int_equal(byte, 0x5a);
	flash_out(4096, 0x20);
	flash_out(4096, 0xd0);
	flash_out(0, 0xff);
	assert_int_equal(blk_pread(b.vars, 4096, block, sizeof(block)), 0);
	for (unsigned i = 0; i < sizeof(block); i++)
		assert_int_equal(block[i], 0xff);
}

static void fail_vars(unsigned nth)
{
	struct fault_plan plan = {.ops = FAULT_CHANGES, .at = nth, .error = ENOSPC};

	fault_arm(fault_find(b.vars), &plan);
}

static bool is_stored(uint64_t offset, uint8_t value)
{
	uint8_t byte;

	assert_int_equal(blk_pread(b.vars, offset, &byte, 1), 0);
	return byte == value;
}

static void flash_that_found_no_room_is_stored_later(void **state)
{
	(void)state;
	fail_vars(1);
	flash_out(0, 0x10);
	flash_out(4097, 0x5a);
	flash_out(0, 0xff);
	assert_true(is_stored(4097, 0xff));
	flash_out(0, 0x10);
	flash_out(16, 0x5a);
	flash_out(0, 0xff); /* with the next row */
	assert_true(is_stored(16, 0x5a) && is_stored(4097, 0x5a));
	fail_vars(1);
	flash_out(0, 0x10);
	flash_out(17, 0x5a);
	flash_out(0, 0xff);
	assert_true(is_stored(17, 0xff));
	bare_reset(&b.vm); /* or at a reset */
	assert_true(is_stored(17, 0x5a));
	assert_int_equal(b.vm.unstored, 0);
}

/* ---- state ----------------------------------------------------------------------- */

static struct state *save(struct device *d)
{
	struct state *s = state_new();

	assert_int_equal(
		state_begin(s, d->ops->name, 0, d->ops->version), d->ops->version);
	d->ops->state(d, s, d->ops->version);
	state_end(s);
	assert_int_equal(state_ret(s, NULL), 0);
	return s;
}

static void load(struct device *d, const uint8_t *data, size_t bytes)
{
	struct state *s = state_open(data, bytes);

	if (d->ops->reset)
		d->ops->reset(d);
	d->ops->state(d, s, state_begin(s, d->ops->name, 0, d->ops->version));
	state_end(s);
	assert_int_equal(state_ret(s, NULL), 0);
	state_free(s);
}

/* It is told to who restores a machine, and to who ends one. */
static void flash_that_is_never_stored_is_told(void **state)
{
	struct fault_plan full = {
		.ops = FAULT_WRITE, .at = 1, .error = ENOSPC, .sticky = true};
	struct device *d = b.vm.devices;
	struct err err = ERR_INIT;
	struct state *saved, *s;
	const uint8_t *data;
	size_t bytes;

	(void)state;
	while (strcmp(d->ops->name, "flash") != 0)
		d = d->next;
	saved = save(d);
	data = state_data(saved, &bytes);
	fault_arm(fault_find(b.vars), &full);
	s = state_open(data, bytes);
	d->ops->state(d, s, state_begin(s, "flash", 0, d->ops->version));
	assert_int_not_equal(state_ret(s, &err), 0);
	assert_non_null(strstr(err.msg, "No space left"));
	state_free(s);
	state_free(saved);
}

static int unmake_full(void **state)
{
	int ret = unmake(state);

	assert_int_equal(b.vm.unstored, -ENOSPC);
	return ret;
}

static void save_load_save(struct device *d)
{
	struct state *first = save(d), *second;
	size_t bytes, again;
	const uint8_t *data = state_data(first, &bytes);

	load(d, data, bytes);
	second = save(d);
	assert_memory_equal(state_data(second, &again), data, bytes);
	assert_int_equal(again, bytes);
	state_free(first);
	state_free(second);
}

/* What a guest may do to all of the board, but end it. */
static void scribble(unsigned *seed)
{
	static const uint16_t ports[] = {0x3f8, 0x3f9, 0x3fa, 0x3fb, 0x3fc, 0x3ff, 0x70,
		0x71, 0x600, 0x602, 0x60c, 0x60e, 0xcf8, 0xcfc, 0x510, 0x511, 0x514,
		0x518, 0xae00, 0xae08};
	uint16_t port = ports[(unsigned)rand_r(seed) % ARRAY_LEN(ports)];
	unsigned bytes = 1u << rand_r(seed) % 3;

	if (rand_r(seed) % 3)
		out(port, bytes, (uint32_t)rand_r(seed));
	else
		in(port, bytes);
	bus_write(&b.vm.mmio, FLASH_AT + (unsigned)rand_r(seed) % FLASH_BYTES, 1,
		(const uint8_t[]){0x10, 0x20, 0x50, 0x70, 0x90, 0xd0, 0xff,
			0x33}[rand_r(seed) % 8]);
	if (port == 0xcf8)
		out(port, 4, 0x80000000u | (uint32_t)(rand_r(seed) % 0x1000));
}

static void what_is_saved_and_loaded_is_saved_again(void **state)
{
	unsigned seed = 3;

	(void)state;
	for (unsigned i = 0; i < 300; i++) {
		for (unsigned k = 0; k < 50; k++)
			scribble(&seed);
		for (struct device *d = b.vm.devices; d; d = d->next)
			if (d->ops->state)
				save_load_save(d);
	}
}

/* A state whose bytes were changed: loaded or refused, and the board goes on. */
static void a_changed_state_does_no_harm(void **state)
{
	unsigned seed = 4;

	(void)state;
	for (struct device *d = b.vm.devices; d; d = d->next)
		for (unsigned i = 0; d->ops->state && i < 300; i++) {
			struct state *saved = save(d), *s;
			size_t bytes;
			const uint8_t *data = state_data(saved, &bytes);
			uint8_t *copy = malloc(bytes);

			memcpy(copy, data, bytes);
			for (unsigned k = 0; k < 1 + i % 4; k++)
				copy[44 + (unsigned)rand_r(&seed) % (bytes - 44)] =
					(uint8_t)rand_r(&seed);
			s = state_open(copy, bytes);
			d->ops->state(
				d, s, state_begin(s, d->ops->name, 0, d->ops->version));
			for (unsigned k = 0; k < 20; k++)
				scribble(&seed);
			state_free(s);
			free(copy);
			state_free(saved);
			d->ops->reset(d);
		}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(
			firmware_finds_items_and_files, make, unmake),
		cmocka_unit_test_setup_teardown(
			firmware_reads_by_dma_and_only_into_memory, make, unmake),
		cmocka_unit_test_setup_teardown(
			the_script_makes_tables_that_are_sound, make, unmake),
		cmocka_unit_test_setup_teardown(
			smbios_has_as_many_structures_as_it_says, make, unmake),
		cmocka_unit_test(processors_are_numbered_by_where_they_are),
		cmocka_unit_test_setup_teardown(
			a_new_slot_raises_an_event_and_is_told_once, make, unmake),
		cmocka_unit_test_setup_teardown(
			flash_that_found_no_room_is_stored_later, make, unmake),
		cmocka_unit_test_setup_teardown(
			flash_that_is_never_stored_is_told, make, unmake_full),
		cmocka_unit_test_setup_teardown(
			flash_is_programmed_and_erased_in_its_image, make, unmake),
		cmocka_unit_test_setup_teardown(
			what_is_saved_and_loaded_is_saved_again, make, unmake),
		cmocka_unit_test_setup_teardown(
			a_changed_state_does_no_harm, make, unmake),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
