/* SPDX-License-Identifier: BSD-2-Clause */
/* ACPI's tables. See acpi.h. */
#include "vmm/acpi.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/endian.h"
#include "base/math.h"
#include "vmm/aml.h"
#include "vmm/checksum.h"
#include "vmm/devices.h"
#include "vmm/fwcfg.h"
#include "vmm/hotplug.h"
#include "vmm/pci.h"

#define HEADER_BYTES 36
#define FADT_BYTES   276
#define FACS_BYTES   64
#define LOCAL_APIC   0xfee00000u
#define IO_APIC      0xfec00000u
#define ROOM         (64u << 10)
#define INSTALL_AT   0xe0000ull /* the RSDP, then the tables */
#define TABLES_AFTER 64u        /* bytes behind the RSDP */

/* Room for a table, all zeros; at is its offset. */
static uint8_t *table_new(struct acpi *a, size_t bytes, size_t align, uint32_t *at)
{
	size_t start = round_up(a->bytes, align);

	*at = 0;
	if (start + bytes > a->room) {
		a->full = true;
		return NULL;
	}
	a->bytes = start + bytes;
	*at = (uint32_t)start;
	return a->tables + start;
}

/* A field of 4 or 8 bytes that will hold the address of the table at `target`. */
static void point(struct acpi *a, uint8_t *field, uint32_t bytes, uint32_t target)
{
	assert(a->pointers < ACPI_POINTERS_MAX);
	a->pointer[a->pointers++] =
		(struct acpi_pointer){(uint32_t)(field - a->tables), bytes};
	le32_store(field, target);
}

static void add_sum(struct acpi *a, uint32_t at, uint32_t start, uint32_t bytes)
{
	assert(a->sums < ACPI_SUMS_MAX);
	a->sum[a->sums++] = (struct acpi_sum){at, start, bytes};
}

/* The header (5.2.6); its checksum is made when the table has its place. */
static void seal(
	struct acpi *a, uint8_t *p, const char *signature, uint8_t revision, size_t bytes)
{
	uint32_t at = (uint32_t)(p - a->tables);

	memcpy(p, signature, 4);
	le32_store(p + 4, (uint32_t)bytes);
	p[8] = revision;
	memcpy(p + 10, "BYRE  ", 6);
	memcpy(p + 16, "BYREBRD ", 8);
	le32_store(p + 24, 1);
	memcpy(p + 28, "BYRE", 4);
	le32_store(p + 32, 1);
	add_sum(a, at + 9, at, (uint32_t)bytes);
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
	hotplug_describe(a);
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

static void add_soft_off(struct aml *a)
{
	aml_mark package;

	aml_name(a, "\\_S5");
	package = aml_begin_package(a, 4);
	aml_integer(a, POWER_S5);
	aml_integer(a, POWER_S5);
	aml_integer(a, 0);
	aml_integer(a, 0);
	aml_end(a, package);
}

static uint32_t add_dsdt(struct acpi *t, const struct vm *vm)
{
	uint32_t at;
	uint8_t *p = table_new(t, HEADER_BYTES, 16, &at);
	struct aml a;
	aml_mark scope;

	if (!p)
		return 0;
	a = (struct aml){.data = p + HEADER_BYTES, .room = t->room - t->bytes};
	scope = aml_begin_scope(&a, "\\_SB");
	add_pci(&a, vm);
	add_serial(&a);
	add_clock(&a);
	aml_end(&a, scope);
	hotplug_describe_event(&a);
	add_soft_off(&a);
	t->full |= a.full;
	t->bytes += a.bytes;
	seal(t, p, "DSDT", 2, HEADER_BYTES + a.bytes);
	return at;
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

/* Firmware's and the system's common memory (5.2.10), which nobody uses here. */
static uint32_t add_facs(struct acpi *t)
{
	uint32_t at;
	uint8_t *p = table_new(t, FACS_BYTES, 64, &at);

	if (p) {
		memcpy(p, "FACS", 4);
		le32_store(p + 4, FACS_BYTES);
		p[32] = 1;
	}
	return at;
}

static uint32_t add_fadt(struct acpi *t, uint32_t dsdt, uint32_t facs)
{
	uint32_t at;
	uint8_t *p = table_new(t, FADT_BYTES, 16, &at);

	if (!p)
		return 0;
	point(t, p + 36, 4, facs);
	point(t, p + 40, 4, dsdt);
	le16_store(p + 46, POWER_SCI);
	le32_store(p + 56, POWER_PORT);     /* PM1a event */
	le32_store(p + 64, POWER_PORT + 4); /* PM1a control */
	le32_store(p + 76, POWER_TIMER_PORT);
	le32_store(p + 80, POWER_GPE_PORT);
	p[88] = 4;
	p[89] = 2;
	p[91] = 4;
	p[92] = 4;
	p[108] = 0x32; /* the century's place in CMOS */
	le32_store(p + 112,
		FADT_WBINVD | FADT_C1 | FADT_NO_SLEEP_BUTTON | FADT_RESET_REGISTER);
	io_address(p + 116, 8, 0xcf9);
	p[128] = 0x06;
	point(t, p + 140, 8, dsdt);
	io_address(p + 148, 32, POWER_PORT);
	io_address(p + 172, 16, POWER_PORT + 4);
	io_address(p + 208, 32, POWER_TIMER_PORT);
	io_address(p + 220, 32, POWER_GPE_PORT);
	seal(t, p, "FACP", 6, FADT_BYTES);
	return at;
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

static uint32_t add_madt(struct acpi *t, const struct vm *vm)
{
	static const uint8_t level_lines[] = {5, POWER_SCI, 10, 11};
	size_t bytes = 44 + vm->cpus * 8 + 12 + 10 * (1 + ARRAY_LEN(level_lines)) + 6;
	uint32_t at;
	uint8_t *table = table_new(t, bytes, 16, &at), *p = table;

	if (!p)
		return 0;
	le32_store(p + 36, LOCAL_APIC);
	le32_store(p + 40, 1); /* there are 8259s, too */
	p += 44;
	for (unsigned i = 0; i < vm->cpus; i++, p += 8) {
		p[1] = 8;
		p[2] = (uint8_t)i;
		p[3] = (uint8_t)vcpu_apic_id(&vm->topology, i);
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
	seal(t, table, "APIC", 4, bytes);
	return at;
}

/* ---- roots ----------------------------------------------------------------------- */

/* RSDT and XSDT: the same list, of four bytes each or of eight. */
static uint32_t add_list(struct acpi *t, const char *signature, uint32_t entry_bytes,
	const uint32_t *tables, unsigned n)
{
	size_t bytes = HEADER_BYTES + entry_bytes * n;
	uint32_t at;
	uint8_t *p = table_new(t, bytes, 16, &at);

	if (!p)
		return 0;
	for (unsigned i = 0; i < n; i++)
		point(t, p + HEADER_BYTES + entry_bytes * i, entry_bytes, tables[i]);
	seal(t, p, signature, 1, bytes);
	return at;
}

enum rsdp { RSDP_SUM = 8, RSDP_RSDT = 16, RSDP_XSDT = 24, RSDP_SUM_OF_ALL = 32 };
#define RSDP_FIRST_BYTES 20 /* that the first checksum covers */

static void fill_rsdp(uint8_t *p, uint32_t rsdt, uint32_t xsdt)
{
	memcpy(p, "RSD PTR ", 8);
	memcpy(p + 9, "BYRE  ", 6);
	p[15] = 2;
	le32_store(p + RSDP_RSDT, rsdt);
	le32_store(p + 20, ACPI_RSDP_BYTES);
	le64_store(p + RSDP_XSDT, xsdt);
}

int acpi_build(const struct vm *vm, struct acpi *a, struct err *err)
{
	uint32_t list[2], dsdt;

	*a = (struct acpi){.tables = calloc(1, ROOM), .room = ROOM};
	if (!a->tables)
		return err_errno(err, ENOMEM, "ACPI's tables");
	dsdt = add_dsdt(a, vm);
	list[0] = add_fadt(a, dsdt, add_facs(a));
	list[1] = add_madt(a, vm);
	fill_rsdp(a->rsdp, add_list(a, "RSDT", 4, list, ARRAY_LEN(list)),
		add_list(a, "XSDT", 8, list, ARRAY_LEN(list)));
	return a->full ? err_set(err, ENOSPC, "ACPI's tables are too large") : 0;
}

void acpi_free(struct acpi *a)
{
	free(a->tables);
	a->tables = NULL;
}

/* ---- into memory ----------------------------------------------------------------- */

int acpi_install(struct vm *vm, const struct acpi *a, uint64_t *rsdp, struct err *err)
{
	uint32_t base = (uint32_t)INSTALL_AT + TABLES_AFTER;
	uint8_t *root = memory_at(&vm->memory, INSTALL_AT, TABLES_AFTER + a->bytes);
	uint8_t *tables = root + TABLES_AFTER;

	if (!root)
		return err_set(
			err, ENOMEM, "ACPI's tables do not fit into the guest's memory");
	memcpy(tables, a->tables, a->bytes);
	for (unsigned i = 0; i < a->pointers; i++) {
		uint8_t *field = tables + a->pointer[i].at;

		le32_store(field, le32_load(field) + base);
	}
	for (unsigned i = 0; i < a->sums; i++)
		tables[a->sum[i].at] =
			checksum(tables + a->sum[i].start, a->sum[i].bytes);
	memcpy(root, a->rsdp, ACPI_RSDP_BYTES);
	le32_store(root + RSDP_RSDT, le32_load(root + RSDP_RSDT) + base);
	le32_store(root + RSDP_XSDT, le32_load(root + RSDP_XSDT) + base);
	root[RSDP_SUM] = checksum(root, RSDP_FIRST_BYTES);
	root[RSDP_SUM_OF_ALL] = checksum(root, ACPI_RSDP_BYTES);
	*rsdp = INSTALL_AT;
	return 0;
}

/* ---- by firmware ----------------------------------------------------------------- */

/* One command of the script; what each has lies behind the first word. */
enum loader_command { LOAD_ALLOCATE = 1, LOAD_POINTER = 2, LOAD_CHECKSUM = 3 };
#define COMMAND_BYTES 128u
#define ZONE_HIGH     1
#define ZONE_FSEG     2
#define TABLES_FILE   "etc/acpi/tables"
#define RSDP_FILE     "etc/acpi/rsdp"

struct script {
	uint8_t data[(4 + ACPI_POINTERS_MAX + ACPI_SUMS_MAX + 4) * COMMAND_BYTES];
	size_t bytes;
};

static uint8_t *add_command(
	struct script *s, enum loader_command command, const char *file)
{
	uint8_t *p = s->data + s->bytes;

	s->bytes += COMMAND_BYTES;
	le32_store(p, command);
	strcpy((char *)p + 4, file);
	return p + 4 + FWCFG_NAME_MAX;
}

static void allocate(struct script *s, const char *file, uint32_t align, uint8_t zone)
{
	uint8_t *p = add_command(s, LOAD_ALLOCATE, file);

	le32_store(p, align);
	p[4] = zone;
}

static void relocate(struct script *s, const char *file, uint32_t at, uint8_t bytes)
{
	uint8_t *p = add_command(s, LOAD_POINTER, file);

	strcpy((char *)p, TABLES_FILE);
	le32_store(p + FWCFG_NAME_MAX, at);
	p[FWCFG_NAME_MAX + 4] = bytes;
}

static void add_up(
	struct script *s, const char *file, uint32_t at, uint32_t start, uint32_t bytes)
{
	uint8_t *p = add_command(s, LOAD_CHECKSUM, file);

	le32_store(p, at);
	le32_store(p + 4, start);
	le32_store(p + 8, bytes);
}

static void write_script(const struct acpi *a, struct script *s)
{
	allocate(s, RSDP_FILE, 16, ZONE_FSEG);
	allocate(s, TABLES_FILE, 64, ZONE_HIGH);
	for (unsigned i = 0; i < a->pointers; i++)
		relocate(s, TABLES_FILE, a->pointer[i].at, (uint8_t)a->pointer[i].bytes);
	for (unsigned i = 0; i < a->sums; i++)
		add_up(s, TABLES_FILE, a->sum[i].at, a->sum[i].start, a->sum[i].bytes);
	relocate(s, RSDP_FILE, RSDP_RSDT, 4);
	relocate(s, RSDP_FILE, RSDP_XSDT, 8);
	add_up(s, RSDP_FILE, RSDP_SUM, 0, RSDP_FIRST_BYTES);
	add_up(s, RSDP_FILE, RSDP_SUM_OF_ALL, 0, ACPI_RSDP_BYTES);
}

int acpi_offer(struct fwcfg *f, const struct acpi *a)
{
	struct script *s = calloc(1, sizeof(*s));
	int ret;

	if (!s)
		return -ENOMEM;
	write_script(a, s);
	ret = fwcfg_add_file(f, TABLES_FILE, a->tables, a->bytes);
	ret = ret ? ret : fwcfg_add_file(f, RSDP_FILE, a->rsdp, ACPI_RSDP_BYTES);
	ret = ret ? ret : fwcfg_add_file(f, "etc/table-loader", s->data, s->bytes);
	free(s);
	return ret;
}
