/* SPDX-License-Identifier: BSD-2-Clause */
/* Firmware. See firmware.h. */
#include "vmm/firmware.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/endian.h"
#include "base/math.h"
#include "vmm/disk.h"
#include "vmm/flash.h"
#include "vmm/fwcfg.h"
#include "vmm/hostfile.h"

#define ROM_END        MEMORY_HOLE_END
#define LOW_BYTES      (128 * KiB) /* of a BIOS, that are at LOW_AT too */
#define LOW_AT         0xe0000ull
#define BIOS_MAX       (256 * KiB) /* larger ROMs have no use for that */
#define LOG_PORT       0x402
#define LOG_PRESENT    0xe9
#define SLOT_CODE      VM_SLOT_ROM
#define SLOT_VARS      (VM_SLOT_ROM + 1)
#define BOOT_ORDER_MAX 4096u

struct firmware {
	struct device device; /* first */
	struct vm *vm;
	uint8_t low[LOW_BYTES];
	bool has_low;
	int log_fd;
};

/* ---- where it is ----------------------------------------------------------------- */

static const struct {
	const char *name;
	struct firmware_files files;
} known[] = {
	{"bios", {"/usr/share/seabios/bios-256k.bin", NULL}},
	{"bios", {"/usr/share/qemu/bios-256k.bin", NULL}},
	{"uefi", {"/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"}},
	{"uefi", {"/usr/share/edk2/ovmf/OVMF_CODE.fd",
			 "/usr/share/edk2/ovmf/OVMF_VARS.fd"}},
	{"uefi", {"/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"}},
};

int firmware_find(const char *name, struct firmware_files *out, struct err *err)
{
	bool is_known = false;

	for (size_t i = 0; i < ARRAY_LEN(known); i++) {
		if (strcmp(known[i].name, name) != 0)
			continue;
		is_known = true;
		*out = known[i].files;
		if (access(out->code, R_OK) == 0)
			return 0;
	}
	*out = (struct firmware_files){.code = name};
	if (!is_known)
		return 0;
	return err_set(err, ENOENT,
		"firmware '%s' is not installed (Debian's package %s)", name,
		strcmp(name, "bios") == 0 ? "seabios" : "ovmf");
}

/* ---- its log --------------------------------------------------------------------- */

static uint64_t log_read(void *dev, uint64_t offset, unsigned bytes)
{
	(void)dev;
	(void)offset;
	(void)bytes;
	return LOG_PRESENT;
}

static void log_write(void *dev, uint64_t offset, unsigned bytes, uint64_t value)
{
	struct firmware *f = dev;
	uint8_t c = (uint8_t)value;

	(void)offset;
	(void)bytes;
	if (write(f->log_fd, &c, 1) < 0)
		return; /* the log is nobody's need */
}

static const struct bus_ops log_bus = {log_read, log_write};

/* ---- what it asks for ------------------------------------------------------------ */

struct e820 {
	le64 base, bytes;
	le32 type;
};
#define E820_RAM 1

static int offer_memory(struct vm *vm, struct fwcfg *cfg)
{
	struct e820 map[2];
	unsigned n = vm->memory.n;
	int ret;

	for (unsigned i = 0; i < n; i++) {
		map[i].base = le64_put(vm->memory.region[i].base);
		map[i].bytes = le64_put(vm->memory.region[i].bytes);
		map[i].type = le32_put(E820_RAM);
	}
	ret = fwcfg_add_u64(cfg, FWCFG_RAM_SIZE, memory_bytes(&vm->memory));
	return ret ? ret : fwcfg_add_file(cfg, "etc/e820", map, n * sizeof(*map));
}

/* Disks in the order in which they are to be booted: those with a number first. */
static int offer_boot_order(struct vm *vm, struct fwcfg *cfg)
{
	char text[BOOT_ORDER_MAX] = "";
	size_t bytes = 0;
	unsigned next = 0, now;

	do {
		now = next;
		next = UINT32_MAX;
		for (struct disk *d = vm->disks; d; d = d->next) {
			unsigned order = d->boot ? d->boot : UINT32_MAX - 1;

			if (order > now)
				next = MIN(next, order);
			if (order == now && d->boot_path[0] &&
				bytes + strlen(d->boot_path) + 2 < sizeof(text))
				bytes += (size_t)sprintf(
					text + bytes, "%s\n", d->boot_path);
		}
	} while (next != UINT32_MAX);
	if (!bytes)
		return 0;
	text[bytes - 1] = 0; /* lines are between newlines, and all of it ends with a 0 */
	return fwcfg_add_file(cfg, "bootorder", text, bytes);
}

static int offer(struct vm *vm, struct fwcfg *cfg, const struct acpi *acpi,
	const struct smbios *smbios)
{
	static const uint8_t no_numa[16];
	int ret = offer_memory(vm, cfg);

	ret = ret ? ret : fwcfg_add_u16(cfg, FWCFG_NO_GRAPHICS, 1);
	ret = ret ? ret : fwcfg_add_u16(cfg, FWCFG_CPUS, (uint16_t)vm->cpus);
	ret = ret ? ret : fwcfg_add_u16(cfg, FWCFG_MAX_CPUS, (uint16_t)vm->cpus);
	ret = ret ? ret : fwcfg_add_u16(cfg, FWCFG_BOOT_MENU, 0);
	ret = ret ? ret : fwcfg_add(cfg, FWCFG_NUMA, no_numa, sizeof(no_numa));
	ret = ret ? ret : acpi_offer(cfg, acpi);
	ret = ret ? ret : smbios_offer(cfg, smbios);
	return ret ? ret : offer_boot_order(vm, cfg);
}

/* ---- its code -------------------------------------------------------------------- */

static int read_code(const char *name, uint8_t **data, size_t *bytes, struct err *err)
{
	struct hostfile f;
	int ret = hostfile_open(&f, name, err);

	if (ret)
		return ret;
	*bytes = (size_t)f.bytes;
	if (f.bytes % 4096 || f.bytes > FLASH_BYTES_MAX)
		ret = err_set(err, EINVAL,
			"%s: %llu bytes are no firmware: a multiple of 4096 up to %llu "
			"MiB",
			name, (unsigned long long)f.bytes, FLASH_BYTES_MAX / MiB);
	*data = ret ? NULL : malloc(*bytes);
	if (ret == 0)
		ret = *data ? hostfile_read(&f, 0, *data, *bytes, err)
			    : err_errno(err, ENOMEM, "%s", name);
	hostfile_close(&f);
	return ret;
}

static int add_code(struct firmware *f, const struct firmware_options *o, struct err *err)
{
	uint8_t *data = NULL;
	size_t bytes = 0;
	int ret = read_code(o->code, &data, &bytes, err);

	if (ret == 0 && bytes <= BIOS_MAX && bytes >= LOW_BYTES) {
		memcpy(f->low, data + bytes - LOW_BYTES, LOW_BYTES);
		f->has_low = true;
	}
	ret = ret ? ret
		  : flash_new_rom(f->vm, SLOT_CODE, ROM_END - bytes, data, bytes, err);
	if (ret == 0 && o->vars)
		ret = flash_new(f->vm, SLOT_VARS, ROM_END - bytes - blk_size(o->vars),
			o->vars, err);
	free(data);
	return ret;
}

void firmware_load(struct firmware *f)
{
	uint8_t *low = memory_at(&f->vm->memory, LOW_AT, LOW_BYTES);

	if (low && f->has_low)
		memcpy(low, f->low, LOW_BYTES);
}

static void firmware_free(struct device *d)
{
	free(d);
}

static const struct device_ops firmware_ops = {
	.name = "firmware",
	.free = firmware_free,
};

int firmware_new(struct vm *vm, const struct firmware_options *o, const struct acpi *acpi,
	const struct smbios *smbios, struct firmware **out, struct err *err)
{
	struct firmware *f = calloc(1, sizeof(*f));
	struct fwcfg *cfg;
	int ret;

	if (!f)
		return err_errno(err, ENOMEM, "firmware");
	f->device.ops = &firmware_ops;
	f->vm = vm;
	f->log_fd = o->log_fd;
	vm_add_device(vm, &f->device);
	ret = add_code(f, o, err);
	ret = ret ? ret : fwcfg_new(vm, &cfg, err);
	if (ret)
		return ret;
	ret = offer(vm, cfg, acpi, smbios);
	if (ret == 0 && f->log_fd >= 0)
		ret = bus_add(&vm->pio, LOG_PORT, 1, &log_bus, f);
	*out = f;
	return ret ? err_errno(err, -ret, "firmware") : 0;
}
