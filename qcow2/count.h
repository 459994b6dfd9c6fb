/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Accounting for whole-image passes: how often each host cluster is referenced (struct
 * count), and from where each L2 table is (struct l2_set).
 *
 * Counters lie in chunks that are allocated when touched, found through a hash, with the
 * last one kept at hand: tables name neighbouring clusters one after another, so the
 * usual cost is a comparison and an addition. A chunk begins with 16-bit counters and
 * becomes a 64-bit one when a counter would not fit. Memory is bounded by the limit
 * given: a hostile file can claim any size and name clusters all over it.
 *
 * Neither structure locks: their callers fill them from tasks of one loop, which run one
 * at a time and do not park inside (table.c).
 */
#ifndef BYRE_QCOW2_COUNT_H
#define BYRE_QCOW2_COUNT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

#define COUNT_CHUNK_BITS 11u
#define COUNT_CHUNK      (1u << COUNT_CHUNK_BITS) /* counters */

struct count_chunk {
	uint64_t index; /* counters [index << COUNT_CHUNK_BITS, + COUNT_CHUNK) */
	uint16_t *v16;  /* NULL when wide */
	uint64_t *v64;  /* NULL unless wide */
};

struct count_slab; /* memory that chunks are cut from */

struct count {
	struct count_chunk *last; /* never NULL: a chunk no index matches at first */
	struct count_chunk **slots;
	size_t n_slots, n_chunks; /* n_slots is a power of two, or 0 */
	struct count_slab *slab;  /* the newest */
	size_t bytes, limit;      /* memory used and allowed */
};

void count_init(struct count *c, size_t limit_bytes);
void count_destroy(struct count *c);
/* Words for what count_add returned. */
int count_error(struct err *err, int ret, size_t limit_bytes);

/* The chunk of counters from index << COUNT_CHUNK_BITS on; NULL where all are 0. */
struct count_chunk *count_find(const struct count *c, uint64_t index);
/* Every chunk in ascending order; *out is malloc'd, n_chunks long. -ENOMEM. */
int count_sorted(const struct count *c, struct count_chunk ***out);

/* The way of all cases that count_add does not finish itself. */
int count_add_slow(struct count *c, uint64_t i, uint64_t n);

/* Adds n to counter i; sums stay at UINT64_MAX. -ENOMEM, or -EFBIG above the limit. */
static inline int count_add(struct count *c, uint64_t i, uint64_t n)
{
	struct count_chunk *k = c->last;
	uint64_t sum;

	if (k->index != i >> COUNT_CHUNK_BITS || !k->v16)
		return count_add_slow(c, i, n);
	sum = k->v16[i & (COUNT_CHUNK - 1)] + n;
	if (sum > UINT16_MAX || sum < n)
		return count_add_slow(c, i, n);
	k->v16[i & (COUNT_CHUNK - 1)] = (uint16_t)sum;
	return 0;
}

static inline uint64_t count_chunk_get(const struct count_chunk *k, unsigned pos)
{
	return k->v16 ? k->v16[pos] : k->v64[pos];
}
void count_chunk_set(
	struct count_chunk *k, unsigned pos, uint64_t value); /* fits already */

uint64_t count_get_slow(struct count *c, uint64_t i);

/* 0 where nothing was counted. Not const: it remembers the chunk. */
static inline uint64_t count_get(struct count *c, uint64_t i)
{
	if (c->last->index == i >> COUNT_CHUNK_BITS)
		return count_chunk_get(c->last, i & (COUNT_CHUNK - 1));
	return count_get_slow(c, i);
}

/* Takes n away; asserts that it is there. */
void count_sub(struct count *c, uint64_t i, uint64_t n);

/* One L2 table, however many L1 entries name it: it is read once, and what it refers to
 * counts once for each of them. */
struct l2_table {
	uint64_t offset;
	uint32_t active;   /* references from the active L1 */
	uint32_t inactive; /* from those of snapshots */
	uint32_t l1_index; /* where the first of them was, in an active L1 if in any */
};

struct l2_set {
	struct l2_table *v; /* in the order they were met */
	size_t n, cap;
	uint32_t *slots; /* index in v, plus one */
	size_t n_slots;
};

void l2_set_init(struct l2_set *s);
void l2_set_destroy(struct l2_set *s);
/* -ENOMEM. */
int l2_set_add(struct l2_set *s, uint64_t offset, bool active, uint32_t l1_index);
const struct l2_table *l2_set_find(const struct l2_set *s, uint64_t offset);

#endif
