/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Snapshots of the running machine. See snapshot.h. What is saved, in an image's VM state or
 * in a file (all integers little-endian):
 *
 *	0       header: magic, version, where what lies and how much of it
 *	4096    vCPUs, chips and devices (state.h)
 *	...     a bit for each page of memory: whether it has anything but zeros
 *	...     the pages, page N at N * 4096 from there; those of zeros are holes
 *
 * so that pages can be written and read in any order, many at once. The header is written
 * last, when all else is stable: what was cut short has no header.
 */
#include "vmm/snapshot.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/endian.h"
#include "base/math.h"
#include "base/task.h"
#include "block/format.h"
#include "vmm/disk.h"

#define PAGE        4096ull
#define CHUNK       (1 * MiB) /* of memory, in one request */
#define CHUNK_PAGES (CHUNK / PAGE)
#define WORKERS     8
#define VERSION     1

static const char magic[8] = "BYRE-VM";

struct header {
	char magic[8];
	le32 version, reserved;
	le64 parts_bytes, memory_bytes;
	le64 bitmap_at, memory_at, end;
};

/* Where it is saved to or loaded from. */
struct place {
	struct blk *b;
	bool is_file;
	const char *
		snapshot; /* reading this one's VM state, from one task; NULL: the image's own */
};

static int put(const struct place *p, uint64_t offset, void *data, uint64_t bytes)
{
	struct iovec iov = {data, bytes};

	if (p->is_file)
		return blk_pwritev(p->b, offset, &iov, 1, 0);
	return blk_vm_state_write(p->b, offset, &iov, 1);
}

static int get(const struct place *p, uint64_t offset, void *data, uint64_t bytes)
{
	struct iovec iov = {data, bytes};

	if (p->is_file)
		return offset > blk_size(p->b) || bytes > blk_size(p->b) - offset
			       ? -EIO
			       : blk_preadv(p->b, offset, &iov, 1, 0);
	return p->snapshot ? blk_vm_state_of(p->b, p->snapshot, offset, &iov, 1)
			   : blk_vm_state_read(p->b, offset, &iov, 1);
}

/* ---- memory ---------------------------------------------------------------------- */

struct transfer {
	const struct place *place;
	const struct memory *memory;
	uint8_t *bitmap;
	uint64_t pages, at;
	bool save;
	uint64_t next; /* chunk; atomic */
};

/* Page N, counted through the regions. */
static uint8_t *page_at(const struct memory *m, uint64_t n)
{
	uint64_t offset = n * PAGE;

	for (unsigned i = 0; i < m->n; i++) {
		if (offset < m->region[i].bytes)
			return m->region[i].host + offset;
		offset -= m->region[i].bytes;
	}
	return NULL;
}

static bool is_zero(const uint8_t *page)
{
	const uint64_t *word = (const void *)page;

	for (unsigned i = 0; i < PAGE / sizeof(*word); i += 4)
		if (word[i] | word[i + 1] | word[i + 2] | word[i + 3])
			return false;
	return true;
}

static bool has_data(const struct transfer *t, uint64_t page)
{
	return t->bitmap[page / 8] >> page % 8 & 1;
}

/* The next pages of a chunk that are all data, from *page on; 0: there are none. Regions are
 * multiples of a chunk, so that a run lies in one. */
static uint64_t next_run(const struct transfer *t, uint64_t *page, uint64_t end)
{
	uint64_t n = 0;

	while (*page < end && !has_data(t, *page))
		(*page)++;
	while (*page + n < end && has_data(t, *page + n))
		n++;
	return n;
}

/* What the guest gave back of the host's pool of huge pages is zeros. Reading it would take it out
 * again, or be the process's end where there is none left. A chunk lies in one. */
static bool is_given_back(const struct memory *m, uint8_t *page)
{
	unsigned char there;

	return m->page_bytes > PAGE && mincore(page, PAGE, &there) == 0 && !(there & 1);
}

static void mark_data(struct transfer *t, uint64_t page, uint64_t end)
{
	if (is_given_back(t->memory, page_at(t->memory, page)))
		return;
	for (; page < end; page++)
		if (!is_zero(page_at(t->memory, page)))
			t->bitmap[page / 8] |= (uint8_t)(1u << page % 8);
}

static int move_chunk(struct transfer *t, uint64_t chunk)
{
	uint64_t page = chunk * CHUNK_PAGES, end = MIN(page + CHUNK_PAGES, t->pages), n;
	int ret = 0;

	if (t->save)
		mark_data(t, page, end);
	for (; ret == 0 && (n = next_run(t, &page, end)); page += n) {
		uint8_t *host = page_at(t->memory, page);
		uint64_t at = t->at + page * PAGE;

		ret = t->save ? put(t->place, at, host, n * PAGE)
			      : get(t->place, at, host, n * PAGE);
	}
	return ret;
}

static int work(void *arg)
{
	struct transfer *t = arg;
	uint64_t chunk;
	int ret = 0;

	while (ret == 0) {
		chunk = __atomic_fetch_add(&t->next, 1, __ATOMIC_RELAXED);
		if (chunk * CHUNK_PAGES >= t->pages)
			break;
		ret = move_chunk(t, chunk);
	}
	return ret;
}

static int share_work(void *arg)
{
	struct task_group group;

	task_group_init(&group);
	for (unsigned i = 0; i < WORKERS; i++)
		task_group_spawn(&group, NULL, work, arg);
	return task_group_wait(&group);
}

static int move_memory(struct transfer *t)
{
	struct err err = ERR_INIT;

	return loop_run(share_work, t, &err);
}

/* ---- saving ---------------------------------------------------------------------- */

static void lay_out(struct header *h, const struct vm *vm, size_t parts_bytes)
{
	uint64_t memory = memory_bytes(&vm->memory), bitmap_at, memory_at;

	bitmap_at = PAGE + round_up(parts_bytes, PAGE);
	memory_at = bitmap_at + round_up(memory / PAGE / 8, PAGE);
	*h = (struct header){.version = le32_put(VERSION),
		.parts_bytes = le64_put(parts_bytes),
		.memory_bytes = le64_put(memory),
		.bitmap_at = le64_put(bitmap_at),
		.memory_at = le64_put(memory_at),
		.end = le64_put(memory_at + memory)};
	memcpy(h->magic, magic, sizeof(magic));
}

/* In whole pages, as encrypted images want it. */
static int put_padded(const struct place *p, uint64_t at, const void *data, size_t bytes)
{
	size_t padded = round_up(bytes, PAGE);
	uint8_t *copy = calloc(1, padded);
	int ret = copy ? 0 : -ENOMEM;

	if (copy)
		memcpy(copy, data, bytes);
	ret = ret ? ret : put(p, at, copy, padded);
	free(copy);
	return ret;
}

static int put_memory(struct vm *vm, const struct place *p, const struct header *h)
{
	uint64_t pages = memory_bytes(&vm->memory) / PAGE;
	struct transfer t = {.place = p,
		.memory = &vm->memory,
		.bitmap = calloc(1, round_up(div_round_up(pages, 8), PAGE)),
		.pages = pages,
		.at = le64_get(h->memory_at),
		.save = true};
	int ret = t.bitmap ? move_memory(&t) : -ENOMEM;

	ret = ret ? ret
		  : put_padded(
			    p, le64_get(h->bitmap_at), t.bitmap, div_round_up(pages, 8));
	free(t.bitmap);
	return ret;
}

/* *bytes: how much of VM state there is. */
static int save(struct vm *vm, const struct place *p, uint64_t *bytes, struct err *err)
{
	struct state *s = state_new();
	const uint8_t *parts;
	struct header h;
	size_t n;
	int ret;

	if (!s)
		return err_errno(err, ENOMEM, "snapshot");
	vm_state(vm, s);
	ret = state_ret(s, err);
	parts = state_data(s, &n);
	lay_out(&h, vm, n);
	if (ret == 0) {
		ret = put_padded(p, PAGE, parts, n);
		ret = ret ? ret : put_memory(vm, p, &h);
		ret = ret ? ret : blk_flush(p->b);
		ret = ret ? ret : put_padded(p, 0, &h, sizeof(h));
		if (ret)
			err_errno(err, -ret, "%s: the machine's state cannot be saved",
				blk_filename(p->b));
	}
	*bytes = le64_get(h.end);
	state_free(s);
	return ret;
}

/* ---- loading --------------------------------------------------------------------- */

static int get_header(
	struct vm *vm, const struct place *p, struct header *h, struct err *err)
{
	uint8_t *page = malloc(PAGE);
	uint64_t memory = memory_bytes(&vm->memory);
	struct header want;
	int ret = page ? get(p, 0, page, PAGE) : -ENOMEM;

	if (ret == 0)
		memcpy(h, page, sizeof(*h));
	free(page);
	if (ret)
		return err_errno(err, -ret, "%s: the saved machine cannot be read",
			blk_filename(p->b));
	if (memcmp(h->magic, magic, sizeof(magic)) != 0)
		return err_set(err, EINVAL,
			"%s: what is saved there is no machine of ours",
			blk_filename(p->b));
	if (le32_get(h->version) != VERSION)
		return err_set(err, ENOTSUP,
			"%s: the saved machine is of version %u, and %u is known here",
			blk_filename(p->b), le32_get(h->version), VERSION);
	if (le64_get(h->memory_bytes) != memory)
		return err_set(err, EINVAL,
			"%s: the saved machine had %" PRIu64
			" MiB of memory, and this one has %" PRIu64,
			blk_filename(p->b), (uint64_t)(le64_get(h->memory_bytes) / MiB),
			(uint64_t)(memory / MiB));
	if (le64_get(h->parts_bytes) > STATE_SECTION_MAX)
		return err_set(err, EINVAL,
			"%s: %" PRIu64 " bytes of devices are too many",
			blk_filename(p->b), le64_get(h->parts_bytes));
	lay_out(&want, vm, le64_get(h->parts_bytes));
	if (memcmp(h, &want, sizeof(want)) != 0)
		return err_set(err, EINVAL,
			"%s: the saved machine's header makes no sense",
			blk_filename(p->b));
	return 0;
}

/* Zeros, as of a machine that was just made. */
static void clear_memory(const struct vm *vm)
{
	for (unsigned i = 0; i < vm->memory.n; i++) {
		const struct memory_region *r = &vm->memory.region[i];

		if (madvise(r->host, r->bytes, MADV_DONTNEED))
			memset(r->host, 0, r->bytes);
	}
}

static int get_memory(struct vm *vm, const struct place *p, const struct header *h)
{
	uint64_t pages = memory_bytes(&vm->memory) / PAGE,
		 bytes = round_up(div_round_up(pages, 8), PAGE);
	struct transfer t = {.place = p,
		.memory = &vm->memory,
		.bitmap = malloc(bytes),
		.pages = pages,
		.at = le64_get(h->memory_at)};
	int ret = t.bitmap ? get(p, le64_get(h->bitmap_at), t.bitmap, bytes) : -ENOMEM;

	clear_memory(vm);
	ret = ret ? ret : move_memory(&t);
	free(t.bitmap);
	return ret;
}

struct loaded {
	struct header header;
	uint8_t *parts;
};

static int look_at_parts(struct vm *vm, const struct loaded *l, struct err *err)
{
	struct state *s = state_open(l->parts, le64_get(l->header.parts_bytes));
	int ret;

	if (!s)
		return err_errno(err, ENOMEM, "snapshot");
	vm_state_look(vm, s);
	ret = state_ret(s, err);
	state_free(s);
	return ret;
}

/* Everything but memory, and whether it fits this machine; nothing is changed yet. */
static int look(struct vm *vm, const struct place *p, struct loaded *l, struct err *err)
{
	uint64_t bytes;
	int ret = get_header(vm, p, &l->header, err);

	l->parts = NULL;
	if (ret)
		return ret;
	bytes = round_up(le64_get(l->header.parts_bytes), PAGE);
	l->parts = malloc(MAX(bytes, PAGE));
	ret = l->parts ? get(p, PAGE, l->parts, bytes) : -ENOMEM;
	if (ret)
		return err_errno(err, -ret, "%s: the saved machine cannot be read",
			blk_filename(p->b));
	ret = look_at_parts(vm, l, err);
	return ret ? err_prefix(err, "%s", blk_filename(p->b)) : 0;
}

static int load(struct vm *vm, const struct place *p, struct loaded *l, struct err *err)
{
	struct state *s = state_open(l->parts, le64_get(l->header.parts_bytes));
	int ret = s ? vm_reset(vm) : -ENOMEM;

	ret = ret ? ret : get_memory(vm, p, &l->header);
	if (ret) {
		err_errno(err, -ret, "%s: the saved machine cannot be loaded",
			blk_filename(p->b));
	} else {
		vm_state(vm, s);
		ret = state_ret(s, err);
	}
	if (ret == 0)
		vm_came_back(vm);
	state_free(s);
	return ret;
}

/* ---- disks ----------------------------------------------------------------------- */

static struct disk *next_writable(struct disk *d)
{
	while (d && d->read_only)
		d = d->next;
	return d;
}

/* 1: the disk has a snapshot of that name; its id is the caller's to free, and what of VM state it has. 0: it has none.
 * The name alone may be another's id. */
static int find_snapshot(const struct disk *d, const char *name, char **id,
	uint64_t *vm_state_bytes, struct err *err)
{
	struct blk_snapshot *list;
	size_t n;
	int ret = blk_snapshot_list(d->blk, &list, &n, err);

	*id = NULL;
	if (ret)
		return err_prefix(err, "disk '%s'", d->id);
	for (size_t i = 0; i < n && !*id; i++) {
		if (strcmp(list[i].name, name) != 0)
			continue;
		*vm_state_bytes = list[i].vm_state_bytes;
		*id = strdup(list[i].id);
		if (!*id)
			ret = err_errno(err, ENOMEM, "disk '%s'", d->id);
	}
	blk_snapshots_free(list, n);
	return ret ? ret : *id != NULL;
}

/* Whether all writable disks have the name (want), or none has. */
static int check_names(struct vm *vm, const char *name, bool want, struct err *err)
{
	uint64_t bytes = 0;
	char *id;
	int ret;

	if (!*name || strlen(name) > 255)
		return err_set(err, EINVAL, "a snapshot's name has 1 to 255 bytes");
	if (!next_writable(vm->disks))
		return err_set(err, ENOTSUP,
			"no disk is writable, so none can take the "
			"machine's state");
	for (struct disk *d = next_writable(vm->disks); d; d = next_writable(d->next)) {
		ret = find_snapshot(d, name, &id, &bytes, err);
		free(id);
		if (ret < 0)
			return ret;
		if (ret != want)
			return err_set(err, want ? ENOENT : EEXIST,
				want ? "disk '%s' has no snapshot '%s'"
				     : "disk '%s' has a snapshot '%s' already",
				d->id, name);
		if (want && d == next_writable(vm->disks) && !bytes)
			return err_set(err, EINVAL,
				"snapshot '%s' of disk '%s' has no machine in it", name,
				d->id);
	}
	return 0;
}

/* NULL with err set. */
static char *id_of_snapshot(const struct disk *d, const char *name, struct err *err)
{
	uint64_t bytes;
	char *id;

	if (find_snapshot(d, name, &id, &bytes, err) == 0)
		err_set(err, ENOENT, "disk '%s' has no snapshot '%s'", d->id, name);
	return id;
}

/* *moved: it is the snapshot's disk now, or half of it; stays where it is the old one yet. */
static int go_back(struct disk *d, const char *name, bool *moved, struct err *err)
{
	char *id = id_of_snapshot(d, name, err);
	bool changed = false;
	int ret = id ? blk_snapshot_apply(d->blk, id, &changed, err) : -err->code;

	*moved |= changed;
	free(id);
	return ret ? err_prefix(err, "disk '%s'", d->id) : 0;
}

/* With one of them gone back and another not there is no machine any more. */
static int disks_go_back(struct vm *vm, const char *name, struct err *err)
{
	bool moved = false;
	int ret = 0;

	for (struct disk *d = next_writable(vm->disks); d && ret == 0;
		d = next_writable(d->next))
		ret = go_back(d, name, &moved, err);
	if (ret && moved)
		vm_fail(vm, "it could not go back to snapshot '%s': %s", name, err->msg);
	return ret;
}

static int flush_disks(struct vm *vm, struct err *err)
{
	for (struct disk *d = next_writable(vm->disks); d; d = next_writable(d->next)) {
		int ret = blk_flush(d->blk);

		if (ret)
			return err_errno(err, -ret, "disk '%s'", d->id);
	}
	return 0;
}

/* 1: it had it. By its id, as the name may be another's. */
static int delete_from(struct disk *d, const char *name, struct err *err)
{
	uint64_t bytes;
	char *id;
	int ret = find_snapshot(d, name, &id, &bytes, err);

	if (ret > 0 && blk_snapshot_delete_id(d->blk, id, err))
		ret = err_prefix(err, "disk '%s'", d->id);
	free(id);
	return ret;
}

/* The first disk, and those behind `end`, do not have it. */
static void delete_until(struct vm *vm, const struct disk *end, const char *name)
{
	for (struct disk *d = next_writable(vm->disks); d && d != end;
		d = next_writable(d->next))
		delete_from(d, name, &(struct err)ERR_INIT);
}

/* The one with the state comes last: until it is there, there is nothing to be restored. */
static int snapshot_disks(
	struct vm *vm, const char *name, uint64_t state_bytes, struct err *err)
{
	struct disk *first = next_writable(vm->disks);
	int ret;

	for (struct disk *d = next_writable(first->next); d; d = next_writable(d->next)) {
		ret = blk_snapshot_create(d->blk, name, err);
		if (ret) {
			delete_until(vm, d, name);
			return err_prefix(err, "disk '%s'", d->id);
		}
	}
	ret = blk_snapshot_create_with(first->blk, name, state_bytes, vm->clock, err);
	if (ret) {
		delete_until(vm, NULL, name);
		return err_prefix(err, "disk '%s'", first->id);
	}
	return 0;
}

int snapshot_save(struct vm *vm, const char *name, struct err *err)
{
	struct place place = {.b = NULL};
	uint64_t bytes;
	int ret = check_names(vm, name, false, err);

	ret = ret ? ret : flush_disks(vm, err);
	if (ret)
		return ret;
	place.b = next_writable(vm->disks)->blk;
	ret = save(vm, &place, &bytes, err);
	ret = ret ? ret : snapshot_disks(vm, name, bytes, err);
	/* It is in the snapshot, or is of no use. */
	blk_vm_state_forget(place.b);
	return ret;
}

int snapshot_load(struct vm *vm, const char *name, struct err *err)
{
	struct place place = {.b = NULL};
	struct loaded l = {.parts = NULL};
	struct disk *first;
	char *id;
	int ret = check_names(vm, name, true, err);

	if (ret)
		return ret;
	first = next_writable(vm->disks);
	id = id_of_snapshot(first, name, err);
	place.b = first->blk;
	place.snapshot = id;
	ret = id ? look(vm, &place, &l, err) : -err->code;
	free(id);
	ret = ret ? ret : disks_go_back(vm, name, err);
	if (ret == 0) {
		place.snapshot = NULL; /* that is what the image has now */
		ret = load(vm, &place, &l, err);
		blk_vm_state_forget(place.b);
		if (ret)
			vm_fail(vm, "snapshot '%s': %s", name, err->msg);
	}
	free(l.parts);
	return ret;
}

int snapshot_delete(struct vm *vm, const char *name, struct err *err)
{
	int ret = 0, one;
	bool found = false;

	for (struct disk *d = next_writable(vm->disks); d; d = next_writable(d->next)) {
		struct err local = ERR_INIT;

		one = delete_from(d, name, &local);
		found |= one > 0;
		if (one >= 0 || one == -ENOTSUP || ret)
			continue; /* a disk that has no snapshots has not this one either */
		ret = one;
		*err = local;
	}
	if (ret == 0 && !found)
		ret = err_set(err, ENOENT, "no disk has a snapshot '%s'", name);
	return ret;
}

/* ---- files ----------------------------------------------------------------------- */

int snapshot_save_file(struct vm *vm, const char *path, struct err *err)
{
	struct place place = {.is_file = true};
	struct opts *opts = opts_new();
	uint64_t bytes;
	int ret, closed;

	opts_setf(opts, "size", "%" PRIu64,
		memory_bytes(&vm->memory) * 2 + STATE_SECTION_MAX);
	ret = blk_create(path, "raw", opts, err);
	opts_free(opts);
	place.b = ret ? NULL : blk_open_format(path, "raw", BLK_O_RDWR, err);
	if (!place.b)
		return -err->code;
	ret = save(vm, &place, &bytes, err);
	if (ret == 0)
		ret = blk_resize(place.b, bytes, BLK_PREALLOC_OFF, err);
	closed = blk_close(place.b);
	if (ret == 0 && closed)
		ret = err_errno(err, -closed, "%s", path);
	if (ret)
		remove(path);
	return ret;
}

int snapshot_load_file(struct vm *vm, struct blk *b, struct err *err)
{
	struct place place = {.is_file = true, .b = b};
	struct loaded l;
	int ret = look(vm, &place, &l, err);

	if (ret == 0) {
		ret = load(vm, &place, &l, err);
		if (ret)
			vm_fail(vm, "%s: %s", blk_filename(b), err->msg);
	}
	free(l.parts);
	return ret;
}
