/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The disk after a power cut; the rules are in crash.h.
 *
 * Operations are applied in the order they ended, those in flight last: that is an order
 * every disk may have carried them out in, so that what is stable lands on top of what
 * was open before it, and below what came after. The fate of each open operation is drawn
 * from a generator of its own, seeded with the cut's seed and its number: fates do not
 * depend on one another, nor on how the code asks for them.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "backends/crash_log.h"
#include "base/math.h"

enum fate { FATE_KEEP, FATE_DROP, FATE_TEAR };

struct replay {
	const struct crash_log *log;
	const struct crash_cut *cut;
	struct blk *dst;
	uint64_t horizon;    /* what ended before this event is stable */
	size_t held;         /* turns before this one are followed by something stable */
	size_t n_open;       /* open operations seen so far */
	bool resize_dropped; /* and so are all later ones */
	uint64_t ceiling;    /* nothing is written from here on */
};

/* ---- chance ---------------------------------------------------------------------- */

/* splitmix64: every seed is a good one. */
static uint64_t next_random(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15u;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

static uint64_t seed_of(const struct crash_cut *cut, size_t i)
{
	uint64_t state = cut->seed;

	return next_random(&state) + i * 0xd1342543de82ef95u;
}

/* ---- what is stable -------------------------------------------------------------- */

/* The beginning of the last flush to begin of those that ended well before the cut. */
static uint64_t horizon_at(const struct crash_log *log, uint64_t at)
{
	uint64_t horizon = 0;

	for (size_t i = 0; i < log->n; i++) {
		const struct crash_op *op = &log->ops[i];

		if (op->kind == CRASH_FLUSH && op->end < at && op->result == 0)
			horizon = MAX(horizon, op->begin);
	}
	return horizon;
}

static bool is_stable(const struct crash_op *op, uint64_t horizon, uint64_t at)
{
	return op->end < at && op->result == 0 && (op->end < horizon || op->fua);
}

static bool is_open(const struct crash_op *op, uint64_t horizon, uint64_t at)
{
	return op->kind != CRASH_FLUSH && op->begin < at && !is_stable(op, horizon, at);
}

bool crash_is_stable(const struct crash_log *log, size_t i, uint64_t at)
{
	assert(i < log->n);
	return is_stable(&log->ops[i], horizon_at(log, at), at);
}

size_t crash_open_ops(const struct crash_log *log, uint64_t at)
{
	uint64_t horizon = horizon_at(log, at);
	size_t n = 0;

	for (size_t i = 0; i < log->n; i++)
		n += is_open(&log->ops[i], horizon, at);
	return n;
}

/* ---- order ----------------------------------------------------------------------- */

struct turn {
	uint64_t key;
	size_t i;
};

static int turn_compare(const void *a, const void *b)
{
	const struct turn *x = a, *y = b;

	if (x->key != y->key)
		return x->key < y->key ? -1 : 1;
	return x->i < y->i ? -1 : x->i > y->i;
}

/* The operations begun before the cut in the order they are applied; the caller frees. */
static struct turn *make_turns(
	const struct crash_log *log, const struct crash_cut *cut, size_t *n)
{
	struct turn *turns = malloc((log->n + 1) * sizeof(*turns));
	uint64_t state = cut->seed ^ 0x5851f42d4c957f2du;

	*n = 0;
	for (size_t i = 0; turns && i < log->n && log->ops[i].begin < cut->at; i++) {
		const struct crash_op *op = &log->ops[i];
		uint64_t key = op->end;

		if (op->end >= cut->at) /* in flight */
			key = cut->at +
			      (cut->mode == CRASH_RANDOM ? next_random(&state) >> 1 : i);
		turns[(*n)++] = (struct turn){key, i};
	}
	if (turns)
		qsort(turns, *n, sizeof(*turns), turn_compare);
	return turns;
}

/* ---- applying -------------------------------------------------------------------- */

/* Part of an operation, [start, end) of the disk. */
static int apply_part(
	struct replay *r, const struct crash_op *op, uint64_t start, uint64_t end)
{
	end = MIN(end, r->ceiling);
	if (op->kind == CRASH_DISCARD)
		end = MIN(end, blk_size(r->dst));
	if (start >= end)
		return 0;
	if (op->kind == CRASH_WRITE)
		return blk_pwrite(
			r->dst, start, op->data + (start - op->offset), end - start, 0);
	/* Zeros for a discard too: what a disk may make of it that hurts the most. */
	return blk_zero(r->dst, start, end - start, BLK_MAY_UNMAP);
}

static int apply_resize(struct replay *r, const struct crash_op *op, bool keep)
{
	if (keep && !r->resize_dropped)
		return blk_resize(r->dst, op->bytes, BLK_PREALLOC_OFF, NULL);
	r->resize_dropped = true;
	/* What came after a cut that is missing has nowhere to be. */
	if (op->bytes < blk_size(r->dst))
		r->ceiling = MIN(r->ceiling, op->bytes);
	return 0;
}

/* The file may have grown where the data has not come. */
static int grow_only(struct replay *r, const struct crash_op *op)
{
	uint64_t end = MIN(op->offset + op->bytes, r->ceiling);

	if (op->kind == CRASH_DISCARD || end <= blk_size(r->dst))
		return 0;
	return blk_resize(r->dst, end, BLK_PREALLOC_OFF, NULL);
}

/* Some sectors: the first ones, the last ones, or any. */
static int apply_torn(struct replay *r, const struct crash_op *op, uint64_t state)
{
	uint64_t first = round_down(op->offset, BLK_SECTOR), end = op->offset + op->bytes;
	uint64_t sectors = div_round_up(end - first, BLK_SECTOR);
	uint64_t border = first + next_random(&state) % (sectors + 1) * BLK_SECTOR;
	unsigned how = next_random(&state) % 3;
	int ret = 0;

	border = MAX(MIN(border, end), op->offset);
	if (next_random(&state) % 4 == 0)
		ret = grow_only(r, op);
	if (ret < 0)
		return ret;
	/* Sector by sector only where that is few: a long zero request is one or two
	 * runs. */
	if (how == 0 || (op->kind != CRASH_WRITE && sectors > 4096))
		return apply_part(r, op, op->offset, border);
	if (how == 1)
		return apply_part(r, op, border, end);
	for (uint64_t at = op->offset; at < end && ret == 0;) {
		uint64_t next = MIN(round_down(at, BLK_SECTOR) + BLK_SECTOR, end);

		if (next_random(&state) & 1)
			ret = apply_part(r, op, at, next);
		at = next;
	}
	return ret;
}

static enum fate choose_fate(struct replay *r, uint64_t *state)
{
	size_t bit = r->n_open++;

	switch (r->cut->mode) {
	case CRASH_KEEP:
		return FATE_KEEP;
	case CRASH_DROP:
		return FATE_DROP;
	case CRASH_SUBSET:
		return bit >= 64 || r->cut->seed >> bit & 1 ? FATE_KEEP : FATE_DROP;
	case CRASH_RANDOM:
		break;
	}
	switch (next_random(state) % 5) {
	case 0:
	case 1:
		return FATE_KEEP;
	case 2:
	case 3:
		return FATE_DROP;
	default:
		return FATE_TEAR;
	}
}

static int apply(struct replay *r, size_t i, size_t turn)
{
	const struct crash_op *op = &r->log->ops[i];
	uint64_t state = seed_of(r->cut, i);
	enum fate fate = FATE_KEEP;

	if (is_open(op, r->horizon, r->cut->at))
		fate = choose_fate(r, &state);
	switch (op->kind) {
	case CRASH_FLUSH:
		return 0;
	case CRASH_RESIZE:
		return apply_resize(r, op, fate == FATE_KEEP || turn < r->held);
	default:
		break;
	}
	if (fate == FATE_TEAR)
		return apply_torn(r, op, state);
	return fate == FATE_KEEP ? apply_part(r, op, op->offset, op->offset + op->bytes)
				 : 0;
}

int crash_replay(
	const struct crash_log *log, const struct crash_cut *cut, struct blk *dst)
{
	struct replay r = {.log = log,
		.cut = cut,
		.dst = dst,
		.horizon = horizon_at(log, cut->at),
		.ceiling = UINT64_MAX};
	struct turn *turns;
	size_t n;
	int ret = 0;

	assert(cut->at <= log->events);
	turns = make_turns(log, cut, &n);
	if (!turns)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++)
		if (is_stable(&log->ops[turns[i].i], r.horizon, cut->at))
			r.held = i;
	for (size_t i = 0; i < n && ret == 0; i++)
		ret = apply(&r, turns[i].i, i);
	free(turns);
	return ret;
}
