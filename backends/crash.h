/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Power cuts: what a crash node (see crash.c) has recorded, and what the disk may look
 * like if the power had gone at any moment of it.
 *
 * Time is counted in events: each operation has one where it begins and one where it
 * ends. A cut `at` N happens after the first N events. What of the operations so far is
 * on the disk then:
 *
 * - What ended well before a flush began that itself ended well before the cut is there,
 *   exactly. So is a write that ended well with BLK_FUA.
 * - All else is open: it may be there, or not, or some of its 512-byte sectors, each
 *   operation by itself, later ones without earlier ones.
 * - Changes of size are kept in order, as a journal does: one that is missing takes those
 *   after it along, and what was written past a cut that did not happen. A stable write
 *   holds those before it.
 */
#ifndef BYRE_BACKENDS_CRASH_H
#define BYRE_BACKENDS_CRASH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "block/blk.h"

struct crash_log;

enum crash_kind {
	CRASH_WRITE,
	CRASH_ZERO,
	CRASH_DISCARD,
	CRASH_FLUSH,
	CRASH_RESIZE, /* bytes is the new size */
	CRASH_KINDS,
};

#define CRASH_NEVER UINT64_MAX

struct crash_op {
	enum crash_kind kind;
	bool fua;
	int result; /* once ended: 0 or -errno */
	uint64_t offset, bytes;
	uint64_t begin,
		end; /* events; end is CRASH_NEVER where the log stops before it */
	const uint8_t *data; /* writes: what was to be written */
};

/* ---- recording ------------------------------------------------------------------- */

/* The nearest crash node at or below root; NULL where there is none. */
struct blk *crash_find(struct blk *root);
/* The node's log, one reference for the caller: it outlives the node. Reading it while
 * requests are in flight is not allowed. */
struct crash_log *crash_log_get(struct blk *b);
void crash_log_put(struct crash_log *log);
/* Reads a log that log=PATH wrote, perhaps in another process and cut off at its end. */
int crash_log_load(struct crash_log **out, const char *path, struct err *err);

uint64_t crash_events(const struct crash_log *log);
/* Operations in the order they began; borrowed. */
const struct crash_op *crash_ops(const struct crash_log *log, size_t *n);

/* ---- replay ---------------------------------------------------------------------- */

enum crash_mode {
	CRASH_KEEP,   /* all that is open is there */
	CRASH_DROP,   /* none of it */
	CRASH_SUBSET, /* bit i of seed: the i-th open operation is there, from 64 on all
			 are */
	CRASH_RANDOM, /* kept, dropped, torn, as seed has it; those in flight in any order
		       */
};

struct crash_cut {
	uint64_t at; /* events that have happened, at most crash_events() */
	enum crash_mode mode;
	uint64_t seed;
};

/* How many operations are open at a cut: 2^n subsets are all there is without tearing. */
size_t crash_open_ops(const struct crash_log *log, uint64_t at);
/* True where operation i is there for sure at the cut. */
bool crash_is_stable(const struct crash_log *log, size_t i, uint64_t at);
/* Makes dst, which holds what the disk held when recording began, the disk after the cut.
 * The same log and cut give the same disk. 0 or the error of a request to dst. */
int crash_replay(
	const struct crash_log *log, const struct crash_cut *cut, struct blk *dst);

#endif
