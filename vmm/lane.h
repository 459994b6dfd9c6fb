/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A lane: a loop, and so a thread, of its own on which a device serves one queue or port of
 * the guest's. Whoever has something for it rings its bell, which KVM can do itself
 * (event_fd as an ioeventfd).
 */
#ifndef BYRE_VMM_LANE_H
#define BYRE_VMM_LANE_H

#include "base/task.h"

struct lane {
	int event_fd;
	/* Starts all that is offered, and returns when there is no more, or lane_stopping(); a
	 * task of the lane's loop, called when it starts and after the bell was rung. It may wait
	 * for the bell itself: aio_poll(event_fd), then lane_clear(). */
	void (*serve)(void *arg);
	void *arg;
	struct loop *loop; /* NULL: it stands */
	bool stopping;	   /* atomic */
};

/* -errno. It stands at first. */
int lane_init(struct lane *l, void (*serve)(void *arg), void *arg);
void lane_destroy(struct lane *l);
/* -errno; nothing where it runs. From tasks of other loops, too, as the next. */
int lane_start(struct lane *l);
/* Returns when every task that serve started has ended; nothing where it stands. */
void lane_stop(struct lane *l);
bool lane_stopping(const struct lane *l);
void lane_ring(struct lane *l); /* from any thread; kept for later where it stands */
void lane_clear(struct lane *l); /* the bell was heard */

#endif
