/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Sparse counters and the set of L2 tables; see count.h.
 *
 * Both are open-addressed hash tables with linear probing, at most half full, that never
 * forget a key.
 */
#include "qcow2/count.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/math.h"

#define NARROW_BYTES (COUNT_CHUNK * sizeof(uint16_t))
#define WIDE_BYTES   (COUNT_CHUNK * sizeof(uint64_t))
/* No cluster index shifts down to it. */
#define NO_INDEX UINT64_MAX

/* Counters of 16 bits are cut from slabs and go with them. A whole image's counters are
 * several MiB that are touched once: in huge pages that costs a few faults and not thousands. */
#define SLAB_BYTES  (2u << 20)
#define FIRST_BYTES (16 * NARROW_BYTES)

struct count_slab {
	struct count_slab *next;
	uint8_t *data; /* zeros where not used */
	size_t used, bytes;
};

static struct count_chunk nowhere = {.index = NO_INDEX};

static size_t hash(uint64_t key, size_t n_slots)
{
	return (key * 0x9e3779b97f4a7c15ull >> 32) & (n_slots - 1);
}

void count_init(struct count *c, size_t limit_bytes)
{
	*c = (struct count){.last = &nowhere, .limit = limit_bytes};
}

int count_error(struct err *err, int ret, size_t limit_bytes)
{
	if (ret == -EFBIG)
		return err_set(err, EFBIG,
			"references are spread over too many clusters: counting them "
			"would take more than %zu MiB",
			limit_bytes >> 20);
	return err_errno(err, -ret, "could not count references");
}

void count_destroy(struct count *c)
{
	for (size_t i = 0; i < c->n_slots; i++) {
		if (!c->slots[i])
			continue;
		free(c->slots[i]->v64);
		free(c->slots[i]);
	}
	free(c->slots);
	while (c->slab) {
		struct count_slab *s = c->slab;

		c->slab = s->next;
		munmap(s->data, s->bytes);
		free(s);
	}
	count_init(c, c->limit);
}

/* Where a chunk is, or would go. */
static struct count_chunk **slot_of(const struct count *c, uint64_t index)
{
	size_t i = hash(index, c->n_slots);

	while (c->slots[i] && c->slots[i]->index != index)
		i = (i + 1) & (c->n_slots - 1);
	return &c->slots[i];
}

struct count_chunk *count_find(const struct count *c, uint64_t index)
{
	return c->n_slots ? *slot_of(c, index) : NULL;
}

static int take_bytes(struct count *c, size_t bytes)
{
	if (bytes > c->limit - c->bytes)
		return -EFBIG;
	c->bytes += bytes;
	return 0;
}

/* Zeros, on a boundary of their size so that a huge page can be there. */
static uint8_t *map_zeros(size_t bytes)
{
	uint8_t *p = mmap(NULL, 2 * bytes, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	size_t before;

	if (p == MAP_FAILED)
		return NULL;
	before = -(uintptr_t)p & (bytes - 1);
	if (before)
		munmap(p, before);
	munmap(p + before + bytes, bytes - before);
	if (bytes == SLAB_BYTES)
		madvise(p + before, bytes,
			MADV_HUGEPAGE); /* where it is refused, small pages do */
	return p + before;
}

/* Counters for one chunk. */
static uint16_t *narrow_new(struct count *c)
{
	struct count_slab *s = c->slab;

	if (!s || s->used == s->bytes) {
		s = calloc(1, sizeof(*s));
		if (!s)
			return NULL;
		s->bytes = c->slab ? SLAB_BYTES : FIRST_BYTES;
		s->data = map_zeros(s->bytes);
		if (!s->data) {
			free(s);
			return NULL;
		}
		s->next = c->slab;
		c->slab = s;
	}
	s->used += NARROW_BYTES;
	return (uint16_t *)(void *)(s->data + s->used - NARROW_BYTES);
}

static int grow_slots(struct count *c)
{
	size_t n = c->n_slots ? c->n_slots * 2 : 64;
	struct count_chunk **old = c->slots, **slots;
	size_t n_old = c->n_slots;
	int ret = take_bytes(c, (n - n_old) * sizeof(*slots));

	if (ret)
		return ret;
	slots = calloc(n, sizeof(*slots));
	if (!slots)
		return -ENOMEM;
	c->slots = slots;
	c->n_slots = n;
	for (size_t i = 0; i < n_old; i++)
		if (old[i])
			*slot_of(c, old[i]->index) = old[i];
	free(old);
	return 0;
}

static int find_or_add(struct count *c, uint64_t index, struct count_chunk **out)
{
	struct count_chunk **slot, *k;
	int ret;

	if (2 * (c->n_chunks + 1) > c->n_slots) {
		ret = grow_slots(c);
		if (ret)
			return ret;
	}
	slot = slot_of(c, index);
	if (!*slot) {
		ret = take_bytes(c, sizeof(*k) + NARROW_BYTES);
		if (ret)
			return ret;
		k = calloc(1, sizeof(*k));
		if (!k)
			return -ENOMEM;
		k->index = index;
		k->v16 = narrow_new(c);
		if (!k->v16) {
			free(k);
			return -ENOMEM;
		}
		*slot = k;
		c->n_chunks++;
	}
	*out = *slot;
	return 0;
}

static int widen(struct count *c, struct count_chunk *k)
{
	int ret = take_bytes(c, WIDE_BYTES); /* the narrow ones stay in their slab */

	if (ret)
		return ret;
	k->v64 = malloc(WIDE_BYTES);
	if (!k->v64)
		return -ENOMEM;
	for (unsigned i = 0; i < COUNT_CHUNK; i++)
		k->v64[i] = k->v16[i];
	k->v16 = NULL;
	return 0;
}

int count_add_slow(struct count *c, uint64_t i, uint64_t n)
{
	unsigned pos = i & (COUNT_CHUNK - 1);
	struct count_chunk *k;
	uint64_t sum;
	int ret = find_or_add(c, i >> COUNT_CHUNK_BITS, &k);

	if (ret)
		return ret;
	if (add_overflow(count_chunk_get(k, pos), n, &sum))
		sum = UINT64_MAX;
	if (sum > UINT16_MAX && k->v16) {
		ret = widen(c, k);
		if (ret)
			return ret;
	}
	c->last = k;
	count_chunk_set(k, pos, sum);
	return 0;
}

void count_chunk_set(struct count_chunk *k, unsigned pos, uint64_t value)
{
	if (k->v64) {
		k->v64[pos] = value;
	} else {
		assert(value <= UINT16_MAX);
		k->v16[pos] = (uint16_t)value;
	}
}

uint64_t count_get_slow(struct count *c, uint64_t i)
{
	struct count_chunk *k = count_find(c, i >> COUNT_CHUNK_BITS);

	if (!k)
		return 0;
	c->last = k;
	return count_chunk_get(k, i & (COUNT_CHUNK - 1));
}

void count_sub(struct count *c, uint64_t i, uint64_t n)
{
	uint64_t have = count_get(c, i);

	assert(have >= n);
	if (n)
		count_chunk_set(c->last, i & (COUNT_CHUNK - 1), have - n);
}

static int by_index(const void *a, const void *b)
{
	const struct count_chunk *const *x = a, *const *y = b;

	return (*x)->index < (*y)->index ? -1 : (*x)->index > (*y)->index;
}

int count_sorted(const struct count *c, struct count_chunk ***out)
{
	struct count_chunk **v =
		malloc(MAX(c->n_chunks, (size_t)1) * sizeof(struct count_chunk *));
	size_t n = 0;

	if (!v)
		return -ENOMEM;
	for (size_t i = 0; i < c->n_slots; i++)
		if (c->slots[i])
			v[n++] = c->slots[i];
	assert(n == c->n_chunks);
	qsort(v, n, sizeof(struct count_chunk *), by_index);
	*out = v;
	return 0;
}

void l2_set_init(struct l2_set *s)
{
	*s = (struct l2_set){0};
}

void l2_set_destroy(struct l2_set *s)
{
	free(s->v);
	free(s->slots);
	l2_set_init(s);
}

static uint32_t *l2_slot(const struct l2_set *s, uint64_t offset)
{
	size_t i = hash(offset, s->n_slots);

	while (s->slots[i] && s->v[s->slots[i] - 1].offset != offset)
		i = (i + 1) & (s->n_slots - 1);
	return &s->slots[i];
}

static int l2_grow(struct l2_set *s)
{
	size_t n = s->n_slots ? s->n_slots * 2 : 256;
	struct l2_table *v = realloc(s->v, n / 2 * sizeof(*v));
	uint32_t *slots;

	if (!v)
		return -ENOMEM;
	s->v = v;
	s->cap = n / 2;
	slots = calloc(n, sizeof(*slots));
	if (!slots)
		return -ENOMEM;
	free(s->slots);
	s->slots = slots;
	s->n_slots = n;
	for (size_t i = 0; i < s->n; i++)
		*l2_slot(s, s->v[i].offset) = (uint32_t)i + 1;
	return 0;
}

int l2_set_add(struct l2_set *s, uint64_t offset, bool active, uint32_t l1_index)
{
	struct l2_table *t;
	uint32_t *slot;

	if (2 * (s->n + 1) > s->n_slots) {
		/* Indexes are 32 bits wide; tables on disk are fewer by far. */
		if (s->n >= UINT32_MAX / 4 || l2_grow(s))
			return -ENOMEM;
	}
	slot = l2_slot(s, offset);
	if (!*slot) {
		s->v[s->n] = (struct l2_table){.offset = offset, .l1_index = l1_index};
		*slot = (uint32_t)++s->n;
	}
	t = &s->v[*slot - 1];
	if (active) {
		if (!t->active)
			t->l1_index = l1_index;
		t->active++;
	} else {
		t->inactive++;
	}
	return 0;
}

const struct l2_table *l2_set_find(const struct l2_set *s, uint64_t offset)
{
	uint32_t slot = s->n_slots ? *l2_slot(s, offset) : 0;

	return slot ? &s->v[slot - 1] : NULL;
}
