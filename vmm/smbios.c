/* SPDX-License-Identifier: BSD-2-Clause */
/* SMBIOS. See smbios.h. */
#include "vmm/smbios.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/endian.h"
#include "base/math.h"
#include "vmm/checksum.h"
#include "vmm/fwcfg.h"

#define ROOM           8192u
#define TABLES_AT      (SMBIOS_AT + 32)
#define ANCHOR_HEAD    16 /* that the first checksum covers; the rest is the second's */
#define ONE_DEVICE_MAX (0x7fffull * MiB)

enum type {
	TYPE_BIOS = 0,
	TYPE_SYSTEM = 1,
	TYPE_CHASSIS = 3,
	TYPE_PROCESSOR = 4,
	TYPE_MEMORY_ARRAY = 16,
	TYPE_MEMORY_DEVICE = 17,
	TYPE_MEMORY_MAP = 19,
	TYPE_BOOT = 32,
	TYPE_END = 127,
};
/* Which number a structure has; there is more than one only of processors and maps. */
enum handle {
	HANDLE_BIOS = 0x0000,
	HANDLE_SYSTEM = 0x0100,
	HANDLE_CHASSIS = 0x0300,
	HANDLE_PROCESSOR = 0x0400,
	HANDLE_MEMORY_ARRAY = 0x1000,
	HANDLE_MEMORY_DEVICE = 0x1100,
	HANDLE_MEMORY_MAP = 0x1300,
	HANDLE_BOOT = 0x2000,
	HANDLE_END = 0x7f00,
};
#define NO_HANDLE 0xfffe

/* ---- structures ------------------------------------------------------------------ */

/* The formatted area with its header, then the strings, each with its 0, and one more 0.
 * Strings are given one after the other, each ended by '\n'. */
static void add(struct smbios *s, enum type type, unsigned handle, uint8_t *area,
	uint8_t bytes, const char *strings)
{
	size_t text = strlen(strings), all = bytes + text + (text ? 1u : 2u);
	uint8_t *p = s->tables + s->bytes;

	if (s->bytes + all > s->room) {
		s->full = true;
		return;
	}
	area[0] = (uint8_t)type;
	area[1] = bytes;
	le16_store(area + 2, (uint16_t)handle);
	memcpy(p, area, bytes);
	for (size_t i = 0; i < text; i++)
		p[bytes + i] = strings[i] == '\n' ? 0 : (uint8_t)strings[i];
	s->bytes += all;
	s->structures++;
	s->largest = MAX(s->largest, all);
}

static void add_bios(struct smbios *s)
{
	uint8_t area[24] = {[4] = 1, [5] = 2, [8] = 3};

	le16_store(area + 6, 0xe800);   /* its segment */
	le64_store(area + 10, 1u << 3); /* no characteristics are told */
	area[18] = 0x01;                /* ACPI */
	area[19] = 0x1c;                /* UEFI is supported, it is a virtual machine */
	area[22] = area[23] = 0xff;
	add(s, TYPE_BIOS, HANDLE_BIOS, area, sizeof(area),
		"Byre\n" BYRE_VERSION "\n11/26/2026\n");
}

/* Text with its first three fields little-endian, as 7.2.1 wants it. */
static bool parse_uuid(const char *text, uint8_t out[16])
{
	static const uint8_t order[16] = {
		3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15};
	unsigned n = 0;

	if (strlen(text) != 36)
		return false;
	for (unsigned i = 0; i < 36; i++) {
		if (i == 8 || i == 13 || i == 18 || i == 23) {
			if (text[i] != '-')
				return false;
			continue;
		}
		if (!isxdigit((unsigned char)text[i]))
			return false;
		uint8_t *byte = &out[order[n / 2]];
		int c = tolower((unsigned char)text[i]);

		*byte = (uint8_t)(*byte << 4 | (c <= '9' ? c - '0' : c - 'a' + 10));
		n++;
	}
	return true;
}

static int add_system(struct smbios *s, const struct smbios_options *o, struct err *err)
{
	uint8_t area[27] = {[4] = 1, [5] = 2, [6] = 3, [24] = 6};

	if (o->uuid && !parse_uuid(o->uuid, area + 8))
		return err_set(err, EINVAL, "'%s' is not a UUID", o->uuid);
	add(s, TYPE_SYSTEM, HANDLE_SYSTEM, area, sizeof(area),
		"Byre\nVirtual Machine\n" BYRE_VERSION "\n");
	return 0;
}

static void add_chassis(struct smbios *s)
{
	uint8_t area[22] = {[4] = 1, [5] = 1, [9] = 3, [10] = 3, [11] = 3, [12] = 2};

	add(s, TYPE_CHASSIS, HANDLE_CHASSIS, area, sizeof(area), "Byre\n");
}

static void add_processor(struct smbios *s, unsigned socket, const struct vm_topology *t)
{
	char strings[32];
	uint8_t area[48] = {[4] = 1, [5] = 3, [6] = 1, [7] = 2, [24] = 0x41, [25] = 1};

	le16_store(area + 26, 0xffff); /* caches are not told */
	le16_store(area + 28, 0xffff);
	le16_store(area + 30, 0xffff);
	area[35] = area[36] = (uint8_t)t->cores;
	area[37] = (uint8_t)(t->cores * t->threads);
	le16_store(area + 38, 0x4); /* 64 bits */
	le16_store(area + 40, 1);
	le16_store(area + 42, (uint16_t)t->cores);
	le16_store(area + 44, (uint16_t)t->cores);
	le16_store(area + 46, (uint16_t)(t->cores * t->threads));
	snprintf(strings, sizeof(strings), "CPU %u\nByre\n", socket);
	add(s, TYPE_PROCESSOR, HANDLE_PROCESSOR + socket, area, sizeof(area), strings);
}

static void add_memory(struct smbios *s, uint64_t bytes)
{
	uint8_t array[23] = {[4] = 1, [5] = 3, [6] = 6};
	uint8_t device[40] = {[14] = 9, [16] = 1, [18] = 7};

	le32_store(array + 7, 0x80000000); /* see the longer field */
	le16_store(array + 11, NO_HANDLE);
	le16_store(array + 13, 1);
	le64_store(array + 15, bytes);
	add(s, TYPE_MEMORY_ARRAY, HANDLE_MEMORY_ARRAY, array, sizeof(array), "");

	le16_store(device + 4, HANDLE_MEMORY_ARRAY);
	le16_store(device + 6, NO_HANDLE);
	le16_store(device + 8, 0xffff); /* widths are not told */
	le16_store(device + 10, 0xffff);
	le16_store(
		device + 12, bytes < ONE_DEVICE_MAX ? (uint16_t)(bytes / MiB) : 0x7fff);
	le16_store(device + 19, 2); /* of a type that is not told */
	le32_store(device + 28, bytes < ONE_DEVICE_MAX ? 0 : (uint32_t)(bytes / MiB));
	add(s, TYPE_MEMORY_DEVICE, HANDLE_MEMORY_DEVICE, device, sizeof(device),
		"DIMM 0\n");
}

static void add_map(struct smbios *s, unsigned i, const struct memory_region *r)
{
	uint8_t area[31] = {[14] = 1};

	le32_store(area + 4, UINT32_MAX); /* see the longer fields */
	le32_store(area + 8, UINT32_MAX);
	le16_store(area + 12, HANDLE_MEMORY_ARRAY);
	le64_store(area + 15, r->base);
	le64_store(area + 23, r->base + r->bytes - 1);
	add(s, TYPE_MEMORY_MAP, HANDLE_MEMORY_MAP + i, area, sizeof(area), "");
}

static void add_rest(struct smbios *s)
{
	uint8_t boot[11] = {0}, end[4] = {0};

	add(s, TYPE_BOOT, HANDLE_BOOT, boot, sizeof(boot), "");
	add(s, TYPE_END, HANDLE_END, end, sizeof(end), "");
}

/* ---- the anchor (5.2.1) ---------------------------------------------------------- */

static void fill_anchor(struct smbios *s)
{
	uint8_t *p = s->anchor;

	memcpy(p, "_SM_", 4);
	p[5] = SMBIOS_ANCHOR_BYTES;
	p[6] = 2;
	p[7] = 8;
	le16_store(p + 8, (uint16_t)s->largest);
	memcpy(p + 16, "_DMI_", 5);
	le16_store(p + 22, (uint16_t)s->bytes);
	le16_store(p + 28, (uint16_t)s->structures);
	p[30] = 0x28;
}

static void sum_up(uint8_t *p)
{
	p[21] = p[4] = 0;
	p[21] = checksum(p + ANCHOR_HEAD, SMBIOS_ANCHOR_BYTES - ANCHOR_HEAD);
	p[4] = checksum(p, SMBIOS_ANCHOR_BYTES);
}

/* ---- all of it ------------------------------------------------------------------- */

int smbios_build(const struct vm *vm, const struct smbios_options *o, struct smbios *s,
	struct err *err)
{
	int ret;

	*s = (struct smbios){.tables = calloc(1, ROOM), .room = ROOM};
	if (!s->tables)
		return err_errno(err, ENOMEM, "SMBIOS");
	add_bios(s);
	ret = add_system(s, o, err);
	if (ret)
		return ret;
	add_chassis(s);
	for (unsigned i = 0; i < vm->topology.sockets; i++)
		add_processor(s, i, &vm->topology);
	add_memory(s, memory_bytes(&vm->memory));
	for (unsigned i = 0; i < vm->memory.n; i++)
		add_map(s, i, &vm->memory.region[i]);
	add_rest(s);
	fill_anchor(s);
	return s->full ? err_set(err, ENOSPC, "SMBIOS: its tables are too large") : 0;
}

void smbios_free(struct smbios *s)
{
	free(s->tables);
	s->tables = NULL;
}

int smbios_install(struct vm *vm, const struct smbios *s, struct err *err)
{
	uint8_t *anchor = memory_at(&vm->memory, SMBIOS_AT, 32 + s->bytes);

	if (!anchor)
		return err_set(
			err, ENOMEM, "SMBIOS does not fit into the guest's memory");
	memcpy(anchor, s->anchor, SMBIOS_ANCHOR_BYTES);
	le32_store(anchor + 24, (uint32_t)TABLES_AT);
	sum_up(anchor);
	memcpy(anchor + 32, s->tables, s->bytes);
	return 0;
}

int smbios_offer(struct fwcfg *f, const struct smbios *s)
{
	int ret = fwcfg_add_file(
		f, "etc/smbios/smbios-anchor", s->anchor, SMBIOS_ANCHOR_BYTES);

	return ret ? ret
		   : fwcfg_add_file(f, "etc/smbios/smbios-tables", s->tables, s->bytes);
}
