/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Writes that a server has acknowledged and may yet lose: it keeps them in memory until it
 * is told to flush, and may be started anew before that. Copies stay here from the
 * acknowledgement to the next completed flush, and are written again, in their order, when
 * a connection was lost in between.
 *
 * No lock: it belongs to one loop, or is used under its owner's.
 */
#ifndef BYRE_BACKENDS_UNFLUSHED_H
#define BYRE_BACKENDS_UNFLUSHED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct unflushed_write {
	uint64_t offset, bytes;
	uint64_t seq; /* ascending */
	bool zero;    /* a zero request of these flags; no data */
	unsigned flags;
	struct unflushed_write *next;
	uint8_t data[];
};

struct unflushed_segment;

struct unflushed {
	struct unflushed_write *head, *tail;
	struct unflushed_segment *oldest, *newest, *spare;
	unsigned spares;
	uint64_t seq;	   /* of the last one added */
	size_t held_bytes; /* of memory */
};

/* Keeps a copy, of a large write in pieces. -ENOMEM. */
int unflushed_add(struct unflushed *u, uint64_t offset, const struct iovec *iov, int niov);
int unflushed_add_zero(struct unflushed *u, uint64_t offset, uint64_t bytes, unsigned flags);
/* What came of a request that the server may have flushed for: true where it may have lost what it had
 * before, which it does not say again. Not so for want of room, or where it did nothing. */
bool unflushed_is_in_doubt(int ret);
/* What came of writing a copy again: true where it may do at another time. */
bool unflushed_may_fit_later(int ret);
/* A flush that began when u->seq was `seq` has completed. */
void unflushed_drop(struct unflushed *u, uint64_t seq);
void unflushed_free(struct unflushed *u);

#endif
