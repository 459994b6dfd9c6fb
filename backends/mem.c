/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The mem driver: a sparse RAM disk for tests and benchmarks. "mem:NAME" (or name=NAME)
 * is a segment that lives as long as the process, so that the same bytes can be opened
 * again; without a name the disk lives as long as the node. size= is that of a new
 * segment, 0 by default; writes past the end make it longer.
 *
 * Bytes lie in 64 KiB pages under a tree of fixed depth, indexed by page number, 12 bits
 * a level: an empty disk of any size costs one node. Locks, always taken in this order:
 *
 * 1. `life`, shared by all who follow the tree, alone for whoever takes pages out of it;
 * 2. a stripe by page number around each copy to or from the page, so that requests that
 *    overlap get each page whole from one of them;
 * 3. `grow` around adding to the tree; readers see a pointer appear, whole
 * (release/acquire).
 *
 * Nothing here waits for long or parks, so they are the thread library's locks.
 */
#include "backends/mem.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/iov.h"
#include "base/math.h"
#include "block/driver.h"
#include "block/format.h"

#define PAGE_BITS  16
#define PAGE_BYTES ((uint64_t)1 << PAGE_BITS)
#define NODE_BITS  12
#define NODE_SLOTS (1u << NODE_BITS)
#define LEVELS     4 /* 16 + 4 * 12 bits: every offset */
#define STRIPES    64

struct node {
	void *slot[NODE_SLOTS]; /* nodes, on the last level pages */
};

struct segment {
	char *name; /* NULL: belongs to one node */
	struct segment *next;
	unsigned users; /* under table_lock: nodes, and one for being in the table */
	uint64_t bytes; /* under life alone, or grow */
	_Atomic uint64_t pages;
	struct node root;
	pthread_rwlock_t life;
	pthread_mutex_t grow;
	pthread_mutex_t stripe[STRIPES];
};

struct mem {
	struct segment *seg;
};

static pthread_mutex_t table_lock = PTHREAD_MUTEX_INITIALIZER;
static struct segment *table;

/* ---- the tree -------------------------------------------------------------------- */

static unsigned slot_of(uint64_t page, unsigned level)
{
	return page >> (LEVELS - 1 - level) * NODE_BITS & (NODE_SLOTS - 1);
}

static void *load_slot(void **slot)
{
	return __atomic_load_n(slot, __ATOMIC_ACQUIRE);
}

/* The page, NULL where it is all zeros. life is held. */
static uint8_t *find_page(struct segment *seg, uint64_t page)
{
	struct node *n = &seg->root;

	for (unsigned level = 0; level < LEVELS - 1 && n; level++)
		n = load_slot(&n->slot[slot_of(page, level)]);
	return n ? load_slot(&n->slot[slot_of(page, LEVELS - 1)]) : NULL;
}

/* What the slot points to, made where there is nothing yet. grow is held. */
static void *fill_slot(void **slot, size_t bytes)
{
	void *p = *slot;

	if (!p) {
		p = calloc(1, bytes);
		if (p)
			__atomic_store_n(slot, p, __ATOMIC_RELEASE);
	}
	return p;
}

static uint8_t *make_page(struct segment *seg, uint64_t page)
{
	uint8_t *p = find_page(seg, page);
	struct node *n = &seg->root;

	if (p)
		return p;
	pthread_mutex_lock(&seg->grow);
	for (unsigned level = 0; level < LEVELS - 1 && n; level++)
		n = fill_slot(&n->slot[slot_of(page, level)], sizeof(*n));
	if (n) {
		void **slot = &n->slot[slot_of(page, LEVELS - 1)];

		if (!*slot && fill_slot(slot, PAGE_BYTES))
			atomic_fetch_add(&seg->pages, 1);
		p = *slot;
	}
	pthread_mutex_unlock(&seg->grow);
	return p;
}

/* The first page at or after `page` and below `limit` that is there; limit if none is.
 * life is held. */
static uint64_t next_page(struct segment *seg, uint64_t page, uint64_t limit)
{
	while (page < limit) {
		struct node *n = &seg->root;
		uint64_t span;

		for (unsigned level = 0; level < LEVELS; level++) {
			n = load_slot(&n->slot[slot_of(page, level)]);
			if (!n) {
				/* Nothing below this slot: on with the next. */
				span = (uint64_t)1 << (LEVELS - 1 - level) * NODE_BITS;
				page = round_down(page, span) + span;
				break;
			}
		}
		if (n)
			return page;
	}
	return limit;
}

/* Frees the pages of [first, end). life is held alone. */
static void drop_pages(struct segment *seg, uint64_t first, uint64_t end)
{
	for (uint64_t page = next_page(seg, first, end); page < end;
		page = next_page(seg, page + 1, end)) {
		struct node *n = &seg->root;

		for (unsigned level = 0; level < LEVELS - 1; level++)
			n = n->slot[slot_of(page, level)];
		free(n->slot[slot_of(page, LEVELS - 1)]);
		n->slot[slot_of(page, LEVELS - 1)] = NULL;
		atomic_fetch_sub(&seg->pages, 1);
	}
}

static void free_node(struct node *n, unsigned level)
{
	for (unsigned i = 0; i < NODE_SLOTS; i++) {
		if (level < LEVELS - 1 && n->slot[i])
			free_node(n->slot[i], level + 1);
		free(n->slot[i]);
	}
}

/* ---- segments -------------------------------------------------------------------- */

static struct segment *segment_new(const char *name, uint64_t bytes)
{
	struct segment *seg = calloc(1, sizeof(*seg));

	if (!seg || (name && !(seg->name = strdup(name)))) {
		free(seg);
		return NULL;
	}
	seg->bytes = bytes;
	seg->users = 1;
	pthread_rwlock_init(&seg->life, NULL);
	pthread_mutex_init(&seg->grow, NULL);
	for (unsigned i = 0; i < STRIPES; i++)
		pthread_mutex_init(&seg->stripe[i], NULL);
	return seg;
}

/* table_lock is held. */
static void segment_put(struct segment *seg)
{
	if (--seg->users)
		return;
	free_node(&seg->root, 0);
	pthread_rwlock_destroy(&seg->life);
	pthread_mutex_destroy(&seg->grow);
	for (unsigned i = 0; i < STRIPES; i++)
		pthread_mutex_destroy(&seg->stripe[i]);
	free(seg->name);
	free(seg);
}

/* table_lock is held. */
static struct segment *table_find(const char *name)
{
	struct segment *seg = table;

	while (seg && strcmp(seg->name, name) != 0)
		seg = seg->next;
	return seg;
}

static void table_remove(const char *name)
{
	for (struct segment **p = &table; *p; p = &(*p)->next) {
		if (strcmp((*p)->name, name) == 0) {
			struct segment *seg = *p;

			*p = seg->next;
			segment_put(seg);
			return;
		}
	}
}

static void table_add(struct segment *seg)
{
	seg->next = table;
	table = seg;
}

/* The segment of that name, made with `bytes` where there is none; NULL: no memory. */
static struct segment *segment_get(const char *name, uint64_t bytes)
{
	struct segment *seg;

	if (!name)
		return segment_new(NULL, bytes);
	pthread_mutex_lock(&table_lock);
	seg = table_find(name);
	if (!seg && (seg = segment_new(name, bytes)))
		table_add(seg);
	if (seg)
		seg->users++;
	pthread_mutex_unlock(&table_lock);
	return seg;
}

void mem_drop(const char *name)
{
	pthread_mutex_lock(&table_lock);
	table_remove(name);
	pthread_mutex_unlock(&table_lock);
}

uint64_t mem_pages_bytes(const char *name)
{
	struct segment *seg;
	uint64_t bytes = 0;

	pthread_mutex_lock(&table_lock);
	seg = table_find(name);
	if (seg)
		bytes = atomic_load(&seg->pages) * PAGE_BYTES;
	pthread_mutex_unlock(&table_lock);
	return bytes;
}

static int copy_pages(struct segment *from, struct segment *to)
{
	uint64_t end = div_round_up(from->bytes, PAGE_BYTES);

	for (uint64_t page = next_page(from, 0, end); page < end;
		page = next_page(from, page + 1, end)) {
		uint8_t *p = make_page(to, page);

		if (!p)
			return -ENOMEM;
		memcpy(p, find_page(from, page), PAGE_BYTES);
	}
	return 0;
}

int mem_copy(const char *from_name, const char *to_name)
{
	struct segment *from, *to = NULL;
	int ret = -ENOENT;

	pthread_mutex_lock(&table_lock);
	from = table_find(from_name);
	if (from) {
		to = segment_new(to_name, from->bytes);
		ret = to ? copy_pages(from, to) : -ENOMEM;
	}
	if (ret == 0) {
		table_remove(to_name);
		table_add(to);
	} else if (to) {
		segment_put(to);
	}
	pthread_mutex_unlock(&table_lock);
	return ret;
}

/* ---- the driver ------------------------------------------------------------------ */

static struct segment *seg_of(const struct blk *b)
{
	return ((struct mem *)b->state)->seg;
}

static int mem_parse_name(const char *name, struct opts *opts, struct err *err)
{
	(void)err;
	name += strlen("mem:");
	if (name[0])
		opts_set(opts, "name", name);
	return 0;
}

static int mem_open(struct blk *b, struct opts *opts, struct err *err)
{
	struct mem *m = b->state;
	const char *name = opts_take(opts, "name");
	uint64_t bytes = 0;
	int ret = opts_take_size(opts, "size", &bytes, err);

	if (ret < 0)
		return ret;
	if (bytes > BLK_MAX_SIZE)
		return err_set(err, EFBIG, "mem: the size is too large");
	m->seg = segment_get(name, bytes);
	if (!m->seg)
		return err_errno(err, ENOMEM, "mem");
	pthread_rwlock_wrlock(&m->seg->life);
	b->size = m->seg->bytes;
	pthread_rwlock_unlock(&m->seg->life);
	b->caps |= BLK_CAP_GROW | BLK_CAP_FUA | BLK_CAP_ZERO_INIT | BLK_CAP_ZERO_UNMAP;
	return 0;
}

static int mem_close(struct blk *b)
{
	pthread_mutex_lock(&table_lock);
	segment_put(seg_of(b));
	pthread_mutex_unlock(&table_lock);
	return 0;
}

/* How much of [offset, offset + bytes) lies in offset's page. */
static uint64_t in_page(uint64_t offset, uint64_t bytes)
{
	return MIN(bytes, PAGE_BYTES - offset % PAGE_BYTES);
}

static pthread_mutex_t *stripe_of(struct segment *seg, uint64_t offset)
{
	return &seg->stripe[offset / PAGE_BYTES % STRIPES];
}

static int mem_preadv(
	struct blk *b, uint64_t offset, uint64_t bytes, const struct iovec *iov, int niov)
{
	struct segment *seg = seg_of(b);
	uint64_t n;

	pthread_rwlock_rdlock(&seg->life);
	for (uint64_t pos = 0; pos < bytes; pos += n) {
		uint64_t at = offset + pos;
		uint8_t *page = find_page(seg, at / PAGE_BYTES);

		n = in_page(at, bytes - pos);
		if (!page) {
			iov_fill(iov, niov, pos, 0, n);
			continue;
		}
		pthread_mutex_lock(stripe_of(seg, at));
		iov_from_buf(iov, niov, pos, page + at % PAGE_BYTES, n);
		pthread_mutex_unlock(stripe_of(seg, at));
	}
	pthread_rwlock_unlock(&seg->life);
	return 0;
}

/* Two nodes of one segment each have a size of their own: writes raise both. */
static void raise_size(struct blk *b, uint64_t end)
{
	struct segment *seg = seg_of(b);
	uint64_t now = blk_size(b);

	pthread_mutex_lock(&seg->grow);
	seg->bytes = MAX(seg->bytes, end);
	pthread_mutex_unlock(&seg->grow);
	while (now < end && !__atomic_compare_exchange_n(&b->size, &now, end, true,
				    __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
		;
}

static int mem_pwritev(struct blk *b, uint64_t offset, uint64_t bytes,
	const struct iovec *iov, int niov, unsigned flags)
{
	struct segment *seg = seg_of(b);
	uint64_t n;
	int ret = 0;

	(void)flags; /* nothing is more stable than the rest */
	pthread_rwlock_rdlock(&seg->life);
	for (uint64_t pos = 0; pos < bytes && ret == 0; pos += n) {
		uint64_t at = offset + pos;
		uint8_t *page = make_page(seg, at / PAGE_BYTES);

		n = in_page(at, bytes - pos);
		if (!page) {
			ret = -ENOSPC;
			break;
		}
		pthread_mutex_lock(stripe_of(seg, at));
		iov_to_buf(iov, niov, pos, page + at % PAGE_BYTES, n);
		pthread_mutex_unlock(stripe_of(seg, at));
	}
	if (offset + bytes > blk_size(b))
		raise_size(b, offset + bytes);
	pthread_rwlock_unlock(&seg->life);
	return ret;
}

/* Zeros part of a page where it is there. life is held alone. */
static void clear_part(struct segment *seg, uint64_t offset, uint64_t bytes)
{
	uint8_t *page = bytes ? find_page(seg, offset / PAGE_BYTES) : NULL;

	if (page)
		memset(page + offset % PAGE_BYTES, 0, bytes);
}

/* life is held alone. */
static void clear_range(struct segment *seg, uint64_t offset, uint64_t end)
{
	uint64_t first = div_round_up(offset, PAGE_BYTES), last = end / PAGE_BYTES;

	if (first > last) {
		clear_part(seg, offset, end - offset);
		return;
	}
	clear_part(seg, offset, first * PAGE_BYTES - offset);
	drop_pages(seg, first, last);
	clear_part(seg, last * PAGE_BYTES, end - last * PAGE_BYTES);
}

static int mem_zero(struct blk *b, uint64_t offset, uint64_t bytes, unsigned flags)
{
	struct segment *seg = seg_of(b);

	(void)flags;
	pthread_rwlock_wrlock(&seg->life);
	clear_range(seg, offset, offset + bytes);
	if (offset + bytes > blk_size(b))
		raise_size(b, offset + bytes);
	pthread_rwlock_unlock(&seg->life);
	return 0;
}

static int mem_discard(struct blk *b, uint64_t offset, uint64_t bytes)
{
	struct segment *seg = seg_of(b);

	pthread_rwlock_wrlock(&seg->life);
	clear_range(seg, offset, offset + bytes);
	pthread_rwlock_unlock(&seg->life);
	return 0;
}

static int mem_extent(
	struct blk *b, uint64_t offset, uint64_t bytes, struct blk_extent *out)
{
	struct segment *seg = seg_of(b);
	uint64_t page = offset / PAGE_BYTES,
		 limit = div_round_up(offset + bytes, PAGE_BYTES);
	uint64_t end;
	bool data;

	pthread_rwlock_rdlock(&seg->life);
	end = next_page(seg, page, limit);
	data = end == page;
	while (data && end < limit && find_page(seg, end))
		end++;
	pthread_rwlock_unlock(&seg->life);
	out->bytes = MIN(bytes, end * PAGE_BYTES - offset);
	out->flags =
		(data ? BLK_EXT_DATA : BLK_EXT_ZERO) | BLK_EXT_ALLOCATED | BLK_EXT_HOST;
	out->host = b;
	out->host_offset = offset;
	return 0;
}

static int mem_resize(
	struct blk *b, uint64_t bytes, enum blk_prealloc prealloc, struct err *err)
{
	struct segment *seg = seg_of(b);

	if (prealloc != BLK_PREALLOC_OFF)
		return err_set(err, ENOTSUP, "Unsupported preallocation mode: %s",
			blk_prealloc_names[prealloc]);
	if (bytes > BLK_MAX_SIZE)
		return err_set(err, EFBIG, "mem: the size is too large");
	pthread_rwlock_wrlock(&seg->life);
	/* What is past the end must be zeros when it comes back. */
	clear_range(seg, bytes, round_up(MAX(seg->bytes, bytes), PAGE_BYTES));
	seg->bytes = bytes;
	blk_set_size(b, bytes);
	pthread_rwlock_unlock(&seg->life);
	return 0;
}

static int64_t mem_allocated(struct blk *b)
{
	return atomic_load(&seg_of(b)->pages) * PAGE_BYTES;
}

/* "mem:NAME" as a new, empty segment. */
static int mem_create(
	const char *filename, struct blk *file, struct opts *opts, struct err *err)
{
	struct segment *seg;
	uint64_t bytes = 0;
	int ret = opts_take_size(opts, "size", &bytes, err);

	(void)file; /* a protocol has no node below it */
	if (ret < 0)
		return ret;
	if (strncmp(filename, "mem:", 4) == 0)
		filename += 4;
	if (!filename[0] || bytes > BLK_MAX_SIZE)
		return err_set(
			err, EINVAL, "mem: a new segment needs a name and a sane size");
	seg = segment_new(filename, bytes);
	if (!seg)
		return err_errno(err, ENOMEM, "mem");
	pthread_mutex_lock(&table_lock);
	table_remove(filename);
	table_add(seg);
	pthread_mutex_unlock(&table_lock);
	return 0;
}

static const struct blk_create_opt mem_create_opts[] = {
	{"size", "size", "Virtual disk size", NULL},
	{NULL, NULL, NULL, NULL},
};

static const struct blk_format_ops mem_format_ops = {
	.create_opts = mem_create_opts,
	.create = mem_create,
};

static const char *const mem_schemes[] = {"mem", NULL};

const struct blk_driver blk_mem_driver = {
	.name = "mem",
	.kind = BLK_PROTOCOL,
	.schemes = mem_schemes,
	.state_bytes = sizeof(struct mem),
	.parse_name = mem_parse_name,
	.open = mem_open,
	.close = mem_close,
	.preadv = mem_preadv,
	.pwritev = mem_pwritev,
	.zero = mem_zero,
	.discard = mem_discard,
	.extent = mem_extent,
	.resize = mem_resize,
	.allocated = mem_allocated,
	.format = &mem_format_ops,
};
