/* SPDX-License-Identifier: BSD-2-Clause */
/* ACPI's tables. See acpi.h. */
#include "vmm/acpi.h"

#include <string.h>

#include "base/endian.h"
#include "base/math.h"
#include "vmm/aml.h"
#include "vmm/devices.h"
#include "vmm/pci.h"

#define HEADER_BYTES 36
#define RSDP_BYTES   36
#define FADT_BYTES   276
#define LOCAL_APIC   0xfee00000u
#define IO_APIC      0xfec00000u

/* Tables grow one after the other. */
struct tables {
	uint8_t *host;
	uint64_t base;
	size_t room, bytes;
	bool full;
};

static uint8_t checksum(const uint8_t *p, size_t bytes)
{
	uint8_t sum = 0;

	while (bytes--)
		sum = (uint8_t)(sum + *p++);
	return (uint8_t)-sum;
}

/* Room for a table, all zeros. Its address is where it lies. */
static uint8_t *table_new(struct tables *t, size_t bytes, uint64_t *address)
{
	uint8_t *p;

	t->bytes = round_up(t->bytes, 16);
	if (t->bytes + bytes > t->room) {
		t->full = true;
		return NULL;
	}
	p = t->host + t->bytes;
	*address = t->base + t->bytes;
	t->bytes += bytes;
	memset(p, 0, bytes);
	return p;
}

/* The header (5.2.6), when everything else is in the table. */
static void seal(uint8_t *p, const char *signature, uint8_t revision, size_t bytes)
{
	memcpy(p, signature, 4);
	le32_store(p + 4, (uint32_t)bytes);
	p[8] = revision;
	memcpy(p + 10, "BYRE  ", 6);
	memcpy(p + 16, "BYREBRD ", 8);
	le32_store(p + 24, 1);
	memcpy(p + 28, "BYRE", 4);
	le32_store(p + 32, 1);
	p[9] = 0;
	p[9] = checksum(p, bytes);
}

/* ---- DSDT ------------------------------------------------------------------------ */

/* Which line each slot's pins are on (6.2.13). */
static void add_routing(struct aml *a)
{
	aml_mark list, entry;

	aml_name(a, "_PRT");
	list = aml_begin_package(a, (PCI_SLOTS - 1) * 4);
	for (unsigned slot = 1; slot < PCI_SLOTS; slot++)
		for (unsigned pin = 0; pin < 4; pin++) {
			entry = aml_begin_package(a, 4);
			aml_integer(a, slot << 16 | 0xffff);
			aml_integer(a, pin);
			aml_integer(a, 0);
			aml_integer(a, pci_gsi(slot, pin));
			aml_end(a, entry);
		}
	aml_end(a, list);
}

static void add_pci(struct aml *a, const struct vm *vm)
{
	aml_mark device = aml_begin_device(a, "PCI0"), resources;

	aml_name(a, "_HID");
	aml_eisa_id(a, "PNP0A03");
	aml_name(a, "_UID");
	aml_integer(a, 0);
	aml_name(a, "_CRS");
	resources = aml_begin_resources(a);
	aml_bus_range(a, 0, 0xff);
	aml_io(a, 0xcf8, 8);
	aml_io_window(a, 0, 0xcf7);
	aml_io_window(a, 0xd00, 0xffff);
	aml_memory_window(a, pci_window_start(vm), (uint32_t)PCI_WINDOW_END - 1);
	aml_end_resources(a, resources);
	add_routing(a);
	aml_end(a, device);
}

static void add_serial(struct aml *a)
{
	aml_mark device = aml_begin_device(a, "COM1"), resources;

	aml_name(a, "_HID");
	aml_eisa_id(a, "PNP0501");
	aml_name(a, "_UID");
	aml_integer(a, 1);
	aml_name(a, "_CRS");
	resources = aml_begin_resources(a);
	aml_io(a, 0x3f8, 8);
	aml_irq(a, 4);
	aml_end_resources(a, resources);
	aml_end(a, device);
}

static void add_clock(struct aml *a)
{
	aml_mark device = aml_begin_device(a, "RTC"), resources;

	aml_name(a, "_HID");
	aml_eisa_id(a, "PNP0B00");
	aml_name(a, "_CRS");
	resources = aml_begin_resources(a);
	aml_io(a, 0x70, 2);
	aml_end_resources(a, resources);
	aml_end(a, device);
}

static uint64_t add_dsdt(struct tables *t, const struct vm *vm)
{
	struct aml a = {.data = t->host + round_up(t->bytes, 16) + HEADER_BYTES};
	uint64_t address = 0;
	aml_mark block;
	uint8_t *p;

	a.room = t->room - (size_t)(a.data - t->host);
	block = aml_begin_scope(&a, "\\_SB");
	add_pci(&a, vm);
	add_serial(&a);
	add_clock(&a);
	aml_end(&a, block);
	aml_name(&a, "\\_S5");
	block = aml_begin_package(&a, 4);
	aml_integer(&a, POWER_S5);
	aml_integer(&a, POWER_S5);
	aml_integer(&a, 0);
	aml_integer(&a, 0);
	aml_end(&a, block);
	if (a.full) {
		t->full = true;
		return 0;
	}
	t->bytes = round_up(t->bytes, 16);
	address = t->base + t->bytes;
	p = t->host + t->bytes;
	memset(p, 0, HEADER_BYTES);
	t->bytes += HEADER_BYTES + a.bytes;
	seal(p, "DSDT", 2, HEADER_BYTES + a.bytes);
	return address;
}

/* ---- FADT (5.2.9) ---------------------------------------------------------------- */

#define FADT_WBINVD          (1u << 0)
#define FADT_C1              (1u << 2)
#define FADT_NO_SLEEP_BUTTON (1u << 5)
#define FADT_RESET_REGISTER  (1u << 10)

static void io_address(uint8_t *p, unsigned bits, uint16_t port)
{
	p[0] = 1;
	p[1] = (uint8_t)bits;
	le64_store(p + 4, port);
}

static uint64_t add_fadt(struct tables *t, uint64_t dsdt)
{
	uint64_t address = 0;
	uint8_t *p = table_new(t, FADT_BYTES, &address);

	if (!p)
		return 0;
	le32_store(p + 40, (uint32_t)dsdt);
	le16_store(p + 46, POWER_SCI);
	le32_store(p + 56, POWER_PORT);     /* PM1a event */
	le32_store(p + 64, POWER_PORT + 4); /* PM1a control */
	le32_store(p + 76, POWER_TIMER_PORT);
	p[88] = 4;
	p[89] = 2;
	p[91] = 4;
	p[108] = 0x32; /* the century's place in CMOS */
	le32_store(p + 112,
		FADT_WBINVD | FADT_C1 | FADT_NO_SLEEP_BUTTON | FADT_RESET_REGISTER);
	io_address(p + 116, 8, 0xcf9);
	p[128] = 0x06;
	le64_store(p + 140, dsdt);
	io_address(p + 148, 32, POWER_PORT);
	io_address(p + 172, 16, POWER_PORT + 4);
	io_address(p + 208, 32, POWER_TIMER_PORT);
	seal(p, "FACP", 6, FADT_BYTES);
	return address;
}

/* ---- MADT (5.2.12) --------------------------------------------------------------- */

#define ACTIVE_HIGH 1
#define LEVEL       0xc

static uint8_t *add_override(uint8_t *p, uint8_t line, uint32_t gsi, uint16_t flags)
{
	p[0] = 2;
	p[1] = 10;
	p[3] = line;
	le32_store(p + 4, gsi);
	le16_store(p + 8, flags);
	return p + 10;
}

static uint64_t add_madt(struct tables *t, const struct vm *vm)
{
	static const uint8_t level_lines[] = {5, POWER_SCI, 10, 11};
	size_t bytes = 44 + vm->cpus * 8 + 12 + 10 * (1 + ARRAY_LEN(level_lines)) + 6;
	uint64_t address = 0;
	uint8_t *table = table_new(t, bytes, &address), *p = table;

	if (!p)
		return 0;
	le32_store(p + 36, LOCAL_APIC);
	le32_store(p + 40, 1); /* there are 8259s, too */
	p += 44;
	for (unsigned i = 0; i < vm->cpus; i++, p += 8) {
		p[1] = 8;
		p[2] = p[3] = (uint8_t)i;
		le32_store(p + 4, 1);
	}
	p[0] = 1;
	p[1] = 12;
	le32_store(p + 4, IO_APIC);
	p += 12;
	p = add_override(p, 0, 2, 0); /* the PIT */
	for (size_t i = 0; i < ARRAY_LEN(level_lines); i++)
		p = add_override(p, level_lines[i], level_lines[i], ACTIVE_HIGH | LEVEL);
	p[0] = 4; /* LINT1 is the NMI of all */
	p[1] = 6;
	p[2] = 0xff;
	p[5] = 1;
	seal(table, "APIC", 4, bytes);
	return address;
}

/* ---- roots ----------------------------------------------------------------------- */

static uint64_t add_xsdt(struct tables *t, const uint64_t *tables, unsigned n)
{
	uint64_t address = 0;
	uint8_t *p = table_new(t, HEADER_BYTES + 8 * n, &address);

	if (!p)
		return 0;
	for (unsigned i = 0; i < n; i++)
		le64_store(p + HEADER_BYTES + 8 * i, tables[i]);
	seal(p, "XSDT", 1, HEADER_BYTES + 8 * n);
	return address;
}

static void fill_rsdp(uint8_t *p, uint64_t xsdt)
{
	memcpy(p, "RSD PTR ", 8);
	memcpy(p + 9, "BYRE  ", 6);
	p[15] = 2;
	le32_store(p + 20, RSDP_BYTES);
	le64_store(p + 24, xsdt);
	p[8] = checksum(p, 20);
	p[32] = checksum(p, RSDP_BYTES);
}

int acpi_install(struct vm *vm, uint64_t *rsdp, struct err *err)
{
	struct tables t = {.base = ACPI_START, .room = ACPI_END - ACPI_START};
	uint64_t list[2];
	uint8_t *root;

	t.host = memory_at(&vm->memory, t.base, t.room);
	root = t.host ? table_new(&t, RSDP_BYTES, rsdp) : NULL;
	if (!root)
		return err_set(
			err, ENOMEM, "ACPI's tables do not fit into the guest's memory");
	list[0] = add_fadt(&t, add_dsdt(&t, vm));
	list[1] = add_madt(&t, vm);
	fill_rsdp(root, add_xsdt(&t, list, ARRAY_LEN(list)));
	return t.full ? err_set(err, ENOSPC, "ACPI's tables are too large") : 0;
}
