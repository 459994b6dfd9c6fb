/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What backends share that reach their server through a library's context: such a context
 * belongs to one thread, and has one socket that wants to be polled and served.
 *
 * A node's context lives on its home loop, a thread of the node's own. Requests from other
 * loops hop there (remote_call) as tasks; there they are straight-line code: start the
 * library's asynchronous call, wait for its callback to wake them. Two pumps keep the
 * context going: one waits until its socket can be read, one, started when needed, until
 * it can be written.
 *
 * Everything here but remote_call is called on the home loop.
 */
#ifndef BYRE_BACKENDS_REMOTE_H
#define BYRE_BACKENDS_REMOTE_H

#include <stdbool.h>

#include "base/task.h"

struct remote_ops {
	int (*fd)(void *ctx);	  /* changes where the library reconnects; < 0: none now */
	int (*events)(void *ctx); /* POLLIN | POLLOUT: what it waits for */
	/* Reads, writes, runs callbacks, looks at its time limits (revents 0). */
	void (*service)(void *ctx, int revents);
};

struct remote {
	const struct remote_ops *ops;
	void *ctx;
	bool closing, writing;
	unsigned pumps;
	struct waiter *ended;
};

/* Runs fn(arg) as a task of the loop and returns its result; right here where this is that
 * loop. -ENOMEM where there is no stack for it. */
int remote_call(struct loop *home, int (*fn)(void *arg), void *arg);

/* Starts the pumps of a context. -ENOMEM. */
int remote_start(struct remote *r, const struct remote_ops *ops, void *ctx);
/* After the library was given something to send: sends it, now or when the socket can. */
void remote_push(struct remote *r);
/* Ends the pumps and waits for that, as must be before the context is freed. Cuts the
 * connection to wake them. */
void remote_stop(struct remote *r);

#endif
