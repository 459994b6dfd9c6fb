/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Requests in flight, and who has to wait for whom.
 *
 * A request enters the list before it waits, and waits only for older ones: there is no
 * cycle, and a request that waits already holds back later ones. Two requests are in
 * conflict where they overlap and one of them is serialising, or one of them writes and
 * the node orders all its requests.
 */
#ifndef BYRE_BLOCK_TRACK_H
#define BYRE_BLOCK_TRACK_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/task.h"

struct track {
	pthread_mutex_t lock; /* never held over a wait */
	struct tracked *oldest, *newest;
	bool order_all;
};

/* One request; lives in the frame of who makes it. */
struct tracked {
	uint64_t start, end; /* bytes */
	bool write, serialising;
	struct tracked *older, *newer;
	struct waiter *waiters;
};

void track_init(struct track *t, bool order_all);
void track_destroy(struct track *t);
/* Fills r, enters it and waits until nothing older is in its way. */
void track_begin(struct track *t, struct tracked *r, uint64_t start, uint64_t end,
	bool write, bool serialising);
void track_end(struct track *t, struct tracked *r);

#endif
