/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Loading a kernel. See boot.h. Facts: Documentation/arch/x86/boot.rst of Linux, and the PVH
 * interface in Xen's public headers' documentation (docs/misc/pvh.pandoc).
 *
 * Low memory while it starts:
 *
 *	0x06000  PVH's start information, its map and module list
 *	0x07000  Linux's boot parameters ("zero page")
 *	0x20000  the command line
 *	0x9fc00  from here to 1 MiB reserved; ACPI's tables at 0xe0000
 *	1 MiB    the kernel
 *	...      the initramfs, as high as it may be
 */
#include "vmm/boot.h"

#include <elf.h>
#include <stdlib.h>
#include <string.h>

#include "base/endian.h"
#include "base/math.h"
#include "vmm/hostfile.h"

#define START_INFO   0x6000ull
#define START_MAP    0x6100ull
#define START_MODULE 0x6800ull
#define ZERO_PAGE    0x7000ull
#define CMDLINE      0x20000ull
#define CMDLINE_MAX  0x10000ull
#define LOW_END      0x9fc00ull
#define HIGH_START   0x100000ull
#define PAGE         4096ull
#define HEAD_BYTES                                                                       \
	0x290ull /* as much as is looked at of a bzImage's, and more than of an ELF's */

#define MAP_RAM      1
#define MAP_RESERVED 2

struct boot {
	struct hostfile kernel, initrd; /* the second with no bytes: none */
	uint8_t head[HEAD_BYTES];       /* of the kernel; zeros after its end */
	char *cmdline;
	uint64_t rsdp;
};

static int find_room(struct vm *vm, uint64_t at, uint64_t bytes, const char *what,
	void **host, struct err *err)
{
	*host = memory_at(&vm->memory, at, bytes);
	if (*host)
		return 0;
	return err_set(err, ENOMEM,
		"%s: %llu bytes at 0x%llx do not fit into the guest's memory", what,
		(unsigned long long)bytes, (unsigned long long)at);
}

static int put(struct vm *vm, uint64_t at, const void *data, uint64_t bytes,
	const char *what, struct err *err)
{
	void *host;
	int ret = find_room(vm, at, bytes, what, &host, err);

	if (ret == 0)
		memcpy(host, data, bytes);
	return ret;
}

/* From this offset in the file to its end. */
static int put_file(struct vm *vm, uint64_t at, const struct hostfile *f, uint64_t offset,
	struct err *err)
{
	uint64_t bytes = f->bytes - offset;
	void *host;
	int ret = find_room(vm, at, bytes, f->name, &host, err);

	return ret ? ret : hostfile_read(f, offset, host, bytes, err);
}

/* ---- the map of memory ----------------------------------------------------------- */

struct range {
	uint64_t base, bytes;
	uint32_t type;
};

static unsigned make_map(const struct vm *vm, struct range map[4])
{
	const struct memory *m = &vm->memory;
	unsigned n = 0;

	map[n++] = (struct range){0, LOW_END, MAP_RAM};
	map[n++] = (struct range){LOW_END, HIGH_START - LOW_END, MAP_RESERVED};
	map[n++] = (struct range){HIGH_START, m->region[0].bytes - HIGH_START, MAP_RAM};
	if (m->n > 1)
		map[n++] = (struct range){m->region[1].base, m->region[1].bytes, MAP_RAM};
	return n;
}

/* ---- initramfs and command line -------------------------------------------------- */

struct placed {
	uint64_t at, bytes;
};

/* As high as it may be, and not into the kernel. */
static int put_initrd(struct vm *vm, const struct hostfile *f, uint64_t highest,
	uint64_t lowest, struct placed *out, struct err *err)
{
	uint64_t top = MIN(vm->memory.region[0].bytes, highest + 1);

	*out = (struct placed){0, 0};
	if (!f->bytes)
		return 0;
	if (top < lowest || f->bytes > top - lowest ||
		round_down(top - f->bytes, PAGE) < lowest)
		return err_set(err, ENOMEM,
			"%s: there is no room for it in the guest's memory", f->name);
	out->bytes = f->bytes;
	out->at = round_down(top - f->bytes, PAGE);
	return put_file(vm, out->at, f, 0, err);
}

static int put_cmdline(struct vm *vm, const char *cmdline, uint64_t most, struct err *err)
{
	size_t bytes = strlen(cmdline) + 1;

	if (bytes > MIN(most + 1, CMDLINE_MAX))
		return err_set(err, E2BIG,
			"the kernel's command line is longer than %llu bytes",
			(unsigned long long)MIN(most, CMDLINE_MAX - 1));
	return put(vm, CMDLINE, cmdline, bytes, "command line", err);
}

/* ---- bzImage --------------------------------------------------------------------- */

/* Offsets in the file's head, and so in the zero page. */
enum {
	RSDP_ADDRESS = 0x070,
	E820_ENTRIES = 0x1e8,
	SETUP_SECTS = 0x1f1,
	HEADER_MAGIC = 0x202,
	VERSION = 0x206,
	TYPE_OF_LOADER = 0x210,
	LOADFLAGS = 0x211,
	RAMDISK_IMAGE = 0x218,
	RAMDISK_SIZE = 0x21c,
	CMD_LINE_PTR = 0x228,
	INITRD_ADDR_MAX = 0x22c,
	CMDLINE_SIZE = 0x238,
	PREF_ADDRESS = 0x258,
	INIT_SIZE = 0x260,
	E820_TABLE = 0x2d0,
};
#define MAGIC         0x53726448 /* "HdrS" */
#define VERSION_LEAST 0x20a      /* has init_size */
#define LOADED_HIGH   0x01
#define OTHER_LOADER  0xff
#define E820_BYTES    20

static bool is_bzimage(const struct boot *b)
{
	return b->kernel.bytes > HEAD_BYTES && le32_load(b->head + HEADER_MAGIC) == MAGIC;
}

static void put_e820(const struct vm *vm, uint8_t *zero_page)
{
	struct range map[4];
	unsigned n = make_map(vm, map);

	zero_page[E820_ENTRIES] = (uint8_t)n;
	for (unsigned i = 0; i < n; i++) {
		uint8_t *e = zero_page + E820_TABLE + i * E820_BYTES;

		le64_store(e, map[i].base);
		le64_store(e + 8, map[i].bytes);
		le32_store(e + 16, map[i].type);
	}
}

/* Where the kernel's memory ends while it unpacks itself. */
static uint64_t end_of_bzimage(const uint8_t *head)
{
	return MAX(le64_load(head + PREF_ADDRESS), HIGH_START) +
	       le32_load(head + INIT_SIZE);
}

static int boot_bzimage(struct vm *vm, const struct boot *b, struct err *err)
{
	const struct hostfile *f = &b->kernel;
	const uint8_t *head = b->head;
	uint64_t setup = (head[SETUP_SECTS] ? head[SETUP_SECTS] : 4) * 512ull + 512;
	uint8_t *page = memory_at(&vm->memory, ZERO_PAGE, PAGE);
	unsigned version = head[VERSION] | head[VERSION + 1] << 8;
	struct placed initrd;
	int ret;

	if (version < VERSION_LEAST || !(head[LOADFLAGS] & LOADED_HIGH) ||
		setup >= f->bytes)
		return err_set(err, ENOTSUP,
			"%s: a kernel of boot protocol %u.%02u, which is too old, or a "
			"part of one",
			f->name, version >> 8, version & 0xff);
	ret = put_file(vm, HIGH_START, f, setup, err);
	ret = ret ? ret
		  : put_cmdline(vm, b->cmdline, le32_load(head + CMDLINE_SIZE), err);
	ret = ret ? ret
		  : put_initrd(vm, &b->initrd, le32_load(head + INITRD_ADDR_MAX),
			    MAX(end_of_bzimage(head), HIGH_START + f->bytes), &initrd,
			    err);
	if (ret)
		return ret;
	memset(page, 0, PAGE);
	memcpy(page + SETUP_SECTS, head + SETUP_SECTS,
		MIN((uint64_t)HEADER_MAGIC + head[0x201], HEAD_BYTES) - SETUP_SECTS);
	page[TYPE_OF_LOADER] = OTHER_LOADER;
	le32_store(page + RAMDISK_IMAGE, (uint32_t)initrd.at);
	le32_store(page + RAMDISK_SIZE, (uint32_t)initrd.bytes);
	le32_store(page + CMD_LINE_PTR, (uint32_t)CMDLINE);
	le64_store(page + RSDP_ADDRESS, b->rsdp);
	put_e820(vm, page);
	vm->entry = (uint32_t)HIGH_START;
	vm->entry_esi = (uint32_t)ZERO_PAGE;
	return 0;
}

/* ---- ELF by PVH ------------------------------------------------------------------ */

#define PVH_NOTE  18 /* XEN_ELFNOTE_PHYS32_ENTRY */
#define NOTES_MAX 16384u
#define PVH_MAGIC 0x336ec578

struct pvh_start {
	le32 magic, version, flags, modules;
	le64 module_list, cmdline, rsdp, map;
	le32 map_entries, reserved;
};
struct pvh_module {
	le64 address, bytes, cmdline, reserved;
};
struct pvh_range {
	le64 base, bytes;
	le32 type, reserved;
};

static bool is_elf(const struct boot *b)
{
	return b->kernel.bytes > sizeof(Elf64_Ehdr) &&
	       memcmp(b->head, ELFMAG, SELFMAG) == 0;
}

static bool find_entry(const uint8_t *notes, uint64_t bytes, uint32_t *entry)
{
	uint64_t at = 0;
	Elf64_Nhdr note;

	while (at <= bytes && bytes - at >= sizeof(note)) {
		uint64_t name, desc;

		memcpy(&note, notes + at, sizeof(note));
		name = at + sizeof(note);
		desc = name + round_up(note.n_namesz, 4);
		at = desc + round_up(note.n_descsz, 4);
		if (note.n_type == PVH_NOTE && note.n_namesz == 4 && note.n_descsz >= 4 &&
			at <= bytes && !memcmp(notes + name, "Xen", 4)) {
			*entry = le32_load(notes + desc);
			return true;
		}
	}
	return false;
}

static int load_notes(const struct hostfile *f, const Elf64_Phdr *ph, uint32_t *entry,
	bool *found, struct err *err)
{
	uint8_t notes[NOTES_MAX];
	int ret;

	if (ph->p_filesz > sizeof(notes) ||
		!range_inside(ph->p_offset, ph->p_filesz, f->bytes))
		return 0;
	ret = hostfile_read(f, ph->p_offset, notes, ph->p_filesz, err);
	if (ret == 0 && !*found)
		*found = find_entry(notes, ph->p_filesz, entry);
	return ret;
}

static int load_segment(struct vm *vm, const struct hostfile *f, const Elf64_Phdr *ph,
	uint64_t *highest, struct err *err)
{
	uint8_t *host = memory_at(&vm->memory, ph->p_paddr, ph->p_memsz);

	if (!host || ph->p_filesz > ph->p_memsz || ph->p_paddr < HIGH_START ||
		!range_inside(ph->p_offset, ph->p_filesz, f->bytes))
		return err_set(err, EINVAL,
			"%s: a part of 0x%llx bytes for 0x%llx, which is not the guest's "
			"memory "
			"or not in the file",
			f->name, (unsigned long long)ph->p_memsz,
			(unsigned long long)ph->p_paddr);
	memset(host + ph->p_filesz, 0, ph->p_memsz - ph->p_filesz);
	*highest = MAX(*highest, ph->p_paddr + ph->p_memsz);
	return hostfile_read(f, ph->p_offset, host, ph->p_filesz, err);
}

static int load_elf(struct vm *vm, const struct boot *b, uint32_t *entry,
	uint64_t *highest, struct err *err)
{
	const struct hostfile *f = &b->kernel;
	Elf64_Ehdr eh;
	Elf64_Phdr ph;
	bool found = false;
	int ret = 0;

	memcpy(&eh, b->head, sizeof(eh));
	if (eh.e_ident[EI_CLASS] != ELFCLASS64 || eh.e_machine != EM_X86_64 ||
		eh.e_phentsize != sizeof(ph) ||
		!range_inside(eh.e_phoff, (uint64_t)eh.e_phnum * sizeof(ph), f->bytes))
		return err_set(err, EINVAL, "%s: not an ELF kernel for x86-64", f->name);
	for (unsigned i = 0; i < eh.e_phnum && ret == 0; i++) {
		ret = hostfile_read(f, eh.e_phoff + i * sizeof(ph), &ph, sizeof(ph), err);
		if (ret == 0 && ph.p_type == PT_LOAD && ph.p_memsz)
			ret = load_segment(vm, f, &ph, highest, err);
		if (ret == 0 && ph.p_type == PT_NOTE)
			ret = load_notes(f, &ph, entry, &found, err);
	}
	if (ret == 0 && !found)
		ret = err_set(
			err, ENOTSUP, "%s: an ELF kernel without a PVH entry", f->name);
	return ret;
}

static int put_start_info(
	struct vm *vm, const struct boot *b, const struct placed *initrd, struct err *err)
{
	struct pvh_start start = {.magic = le32_put(PVH_MAGIC),
		.version = le32_put(1),
		.modules = le32_put(initrd->bytes != 0),
		.module_list = le64_put(START_MODULE),
		.cmdline = le64_put(CMDLINE),
		.rsdp = le64_put(b->rsdp),
		.map = le64_put(START_MAP)};
	struct pvh_module module = {
		.address = le64_put(initrd->at), .bytes = le64_put(initrd->bytes)};
	struct pvh_range ranges[4] = {0};
	struct range map[4];
	unsigned n = make_map(vm, map);
	int ret;

	for (unsigned i = 0; i < n; i++) {
		ranges[i].base = le64_put(map[i].base);
		ranges[i].bytes = le64_put(map[i].bytes);
		ranges[i].type = le32_put(map[i].type);
	}
	start.map_entries = le32_put(n);
	ret = put(vm, START_INFO, &start, sizeof(start), "PVH", err);
	ret = ret ? ret : put(vm, START_MAP, ranges, sizeof(ranges), "PVH", err);
	return ret ? ret : put(vm, START_MODULE, &module, sizeof(module), "PVH", err);
}

static int boot_elf(struct vm *vm, const struct boot *b, struct err *err)
{
	uint64_t highest = HIGH_START;
	struct placed initrd;
	uint32_t entry = 0;
	int ret = load_elf(vm, b, &entry, &highest, err);

	ret = ret ? ret : put_cmdline(vm, b->cmdline, CMDLINE_MAX - 1, err);
	ret = ret ? ret
		  : put_initrd(vm, &b->initrd, UINT32_MAX, round_up(highest, PAGE),
			    &initrd, err);
	ret = ret ? ret : put_start_info(vm, b, &initrd, err);
	if (ret)
		return ret;
	vm->entry = entry;
	vm->entry_ebx = (uint32_t)START_INFO;
	return 0;
}

/* ---- all of it ------------------------------------------------------------------- */

static int read_head(struct boot *b, struct err *err)
{
	int ret = hostfile_read(
		&b->kernel, 0, b->head, MIN(b->kernel.bytes, sizeof(b->head)), err);

	if (ret == 0 && !is_elf(b) && !is_bzimage(b))
		ret = err_set(err, EINVAL, "%s: neither a bzImage nor an ELF kernel",
			b->kernel.name);
	return ret;
}

int boot_load(struct vm *vm, struct boot *b, uint64_t rsdp, struct err *err)
{
	int ret = read_head(b, err);

	if (ret)
		return ret;
	b->rsdp = rsdp;
	return is_elf(b) ? boot_elf(vm, b, err) : boot_bzimage(vm, b, err);
}

static int open_all(struct boot *b, const struct boot_options *o, struct err *err)
{
	int ret = hostfile_open(&b->kernel, o->kernel, err);

	if (ret == 0)
		ret = read_head(b, err);
	if (ret == 0 && o->initrd)
		ret = hostfile_open(&b->initrd, o->initrd, err);
	b->cmdline = strdup(o->cmdline ? o->cmdline : "");
	return ret == 0 && !b->cmdline ? err_errno(err, ENOMEM, "%s", o->kernel) : ret;
}

struct boot *boot_open(const struct boot_options *o, struct err *err)
{
	struct boot *b = calloc(1, sizeof(*b));

	if (!b) {
		err_errno(err, ENOMEM, "%s", o->kernel);
		return NULL;
	}
	b->kernel = b->initrd = HOSTFILE_NONE;
	if (open_all(b, o, err)) {
		boot_close(b);
		return NULL;
	}
	return b;
}

void boot_close(struct boot *b)
{
	if (!b)
		return;
	hostfile_close(&b->kernel);
	hostfile_close(&b->initrd);
	free(b->cmdline);
	free(b);
}
