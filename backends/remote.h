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

/*
 * One call to the library, waited for. A library may forget what was in flight when its
 * connection broke, and call back for it only when the context is destroyed: then whoever
 * waits is woken by remote_abandon, and the call is left to its callback. So it lies on the
 * heap, at the head of a struct of the driver's.
 */
struct remote_wait {
	struct waiter done;
	bool abandoned;
	struct remote_wait *next, **link; /* in flight */
};

struct remote {
	const struct remote_ops *ops;
	void *ctx;
	struct remote_wait *waits;
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
/* Before the call is made; where it could not be, remote_wait_cancel, and it is the caller's. */
void remote_wait_begin(struct remote *r, struct remote_wait *w);
void remote_wait_cancel(struct remote_wait *w);
/* Waits. True: answered, and the caller's again. False: abandoned, not to be touched. */
bool remote_wait_end(struct remote_wait *w);
/* First thing in the callback. False: nobody waits any more, free it. Else fill in the
 * answer, then remote_answer. */
bool remote_is_wanted(const struct remote_wait *w);
void remote_answer(struct remote_wait *w);
/* The connection is dead: nobody waits any longer. */
void remote_abandon(struct remote *r);
/* What is sent on this socket and not delivered is forgotten when it is closed: it must not
 * arrive after the connection was given up, nor be kept by a child. */
void remote_forget_unsent(int fd);
/* Breaks a connection: the library finds its socket ended. */
void remote_cut(int fd);
/* Ends the pumps and waits for that, as must be before the context is freed. Cuts the
 * connection to wake them. */
void remote_stop(struct remote *r);

#endif
