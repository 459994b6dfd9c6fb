/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Changes whose connection was lost before their answer came: a server may still have them, and
 * carry them out later. Their own repetition is harmless, being the same bytes; what is written
 * later in the same range has to wait until they have landed or never will. Nobody tells when
 * that is, so each is in doubt for a time.
 *
 * No lock: they belong to one loop, or are used under their owner's.
 */
#ifndef BYRE_BACKENDS_DOUBTS_H
#define BYRE_BACKENDS_DOUBTS_H

#include <stdbool.h>
#include <stdint.h>

struct doubt {
	uint64_t offset, bytes, until_ns;
	bool repeated; /* a copy (unflushed.h) that was written again: it may land over another copy, too */
	struct doubt *next;
};

struct doubts {
	struct doubt *head;
	struct doubt last_resort; /* for want of memory, all of the disk; bytes 0: unused */
};

/* From now on for so long. */
void doubts_add(struct doubts *d, uint64_t offset, uint64_t bytes, bool repeated, uint64_t ns);
/* No longer than that: something has ended them at the server. */
void doubts_shorten(struct doubts *d, uint64_t ns);
/* Those that have passed. */
void doubts_forget(struct doubts *d);

bool doubts_overlap(const struct doubts *d, uint64_t offset, uint64_t bytes);
bool doubts_of_copies(const struct doubts *d);

#endif
