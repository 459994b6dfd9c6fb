/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Faults on purpose: what tests ask of a fault node (see fault.c) besides opening it. All
 * calls may be made at any time, also with requests in flight.
 */
#ifndef BYRE_BACKENDS_FAULT_H
#define BYRE_BACKENDS_FAULT_H

#include <stdbool.h>
#include <stdint.h>

struct blk;

enum fault_op {
	FAULT_READ = 1 << 0,
	FAULT_WRITE = 1 << 1,
	FAULT_FLUSH = 1 << 2,
	FAULT_ZERO = 1 << 3,
	FAULT_DISCARD = 1 << 4,
	FAULT_RESIZE = 1 << 5,
	FAULT_ANY = (1 << 6) - 1,
	FAULT_CHANGES = FAULT_ANY & ~FAULT_READ,
};

/* How much of it has happened when it is reported as failed. */
enum fault_effect {
	FAULT_NONE,
	FAULT_HALF, /* of a write: its first half, cut at a sector */
	FAULT_ALL,
};

struct fault_plan {
	unsigned ops; /* enum fault_op: which count */
	uint64_t at;  /* the at-th of them from now fails; the first is 1. 0: none */
	int error;    /* errno value, positive */
	bool sticky;  /* and every one after it */
	enum fault_effect effect;
};

/* The nearest fault node at or below root; NULL where there is none. */
struct blk *fault_find(struct blk *root);
/* Replaces the plan; counting for it starts anew. */
void fault_arm(struct blk *b, const struct fault_plan *plan);
void fault_disarm(struct blk *b);
/* Whatever would make the child longer than this fails with ENOSPC; UINT64_MAX: nothing.
 */
void fault_set_limit(struct blk *b, uint64_t bytes);
/* Operations of these kinds since the node was opened, failed ones included. */
uint64_t fault_count(struct blk *b, unsigned ops);
/* How many were made to fail, by plan or limit. */
uint64_t fault_hits(struct blk *b);

#endif
