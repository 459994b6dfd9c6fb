/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A node's connection to its server, which may break and be made again: what the network
 * backends share. The driver knows how to connect and how to make one request; this knows
 * when.
 *
 *	UP ──lost──> DOWN ──connected, writes repeated──> UP
 *
 * 1. Requests run on the node's home loop, while the session is UP. One that ends with
 *    SESSION_LOST was in flight when the connection broke: it waits until the session is UP
 *    again, and is made again. So is every other one; requests of the same range never run
 *    at once (BLK_CAP_SERIALISE), so that repeating keeps their order.
 * 2. A server that was started anew has lost what was not flushed. Acknowledged writes are
 *    kept until a flush has completed (unflushed.h), and repeated before the session is UP
 *    again. KEPT_MAX bounds them: past it a write waits for a flush, which has begun beside
 *    the writes when half of that was reached. Where such a flush fails, the next write that
 *    waits or the next flush is told, once.
 *    A server that fails to flush may have lost what it had, and not say so twice: all that
 *    is kept is written again, over a new connection, before the next flush.
 * 3. A request that has had no answer for timeout_ns breaks the connection. What is still in
 *    the socket then must not arrive later, over data written since: sockets are closed
 *    so that the kernel forgets what it has not sent (SO_LINGER of 0). What the server has
 *    received it may carry out later: later changes of the same range wait as long as the server
 *    had it without an answer, two to fifteen seconds (doubts.h); so does closing, after which
 *    another may write.
 * 4. Requests wait for a lost connection at most reconnect_ns, then end with SESSION_LOST
 *    (-ENOLINK to whoever made them); trying goes on until the node is closed. So does one
 *    whose every attempt breaks the connection, three and more, after reconnect_ns and two times
 *    timeout_ns.
 * 5. One of several paths to the same disk (BLK_O_PATH) waits for nothing and keeps nothing:
 *    what it repeated later could undo what another path has written since. After a loss every
 *    request ends with SESSION_LOST, also when there is another connection, until whoever knows
 *    the other paths has noted it (session_note_loss): none is answered by a server that has
 *    forgotten before that is known.
 */
#ifndef BYRE_BACKENDS_SESSION_H
#define BYRE_BACKENDS_SESSION_H

#include <stdatomic.h>

#include "backends/doubts.h"
#include "backends/remote.h"
#include "backends/unflushed.h"
#include "block/driver.h"

#define SESSION_LOST   (-ENOLINK)
#define SESSION_UNSENT (-EHOSTDOWN)

struct session_ops {
	/* All on the home loop. connect leaves nothing behind where it fails, and starts
	 * something that calls session_tick now and then. */
	int (*connect)(struct blk *b, struct err *err);
	/* Frees what connect made; no request is in flight. `clean`: says goodbye first. */
	void (*disconnect)(struct blk *b, bool clean);
	/* Breaks the connection: requests in flight end, with SESSION_LOST. */
	void (*cut)(struct blk *b);
	/* One request each, also for a kept write. zero and flush may be missing: the server
	 * cannot zero; what it has acknowledged is stable. */
	int (*write)(struct blk *b, uint64_t offset, const struct iovec *iov, int niov,
		unsigned flags);
	int (*zero)(struct blk *b, uint64_t offset, uint64_t bytes, unsigned flags);
	int (*flush)(struct blk *b);
	/* Shows the server that the client is there, with one request. Every two seconds. May be
	 * missing: the server does not forget. */
	int (*renew)(struct blk *b);
	/* A server that connects again ends what it was sent over the old connection. */
	bool ends_old;
};

struct session_request;

struct session {
	struct blk *b;
	const struct session_ops *ops;
	struct loop *home;
	uint64_t reconnect_ns, timeout_ns; /* timeout 0: none */
	bool keeps;			   /* acknowledged writes until they are flushed */
	atomic_bool passes; /* reservations are a guest's, and so are conflicts */
	atomic_bool untold; /* of several paths one: that it was lost has not been noted yet */

	/* Home loop. */
	bool up, closing, connected;
	bool returning; /* the task that connects again is under way */
	bool told;	/* that another file is there now */
	bool renewing;
	uint64_t renewed_ns;
	bool flushing;	/* one that nobody asked for is under way */
	int behind_error; /* what came of it, to be told once */
	bool in_flush;	  /* one of any kind is */
	uint64_t flushes; /* begun */
	int flush_ret;	  /* of the last that ended */
	unsigned epoch, stable[2]; /* of flushes; stable changes in flight, begun in even and odd ones */
	unsigned connections;	   /* made again */
	bool doubtful;	/* a flush failed: what was acknowledged before is written again */
	int sync_error; /* a write that could not be repeated: answers every flush for good */
	uint64_t up_since_ns, down_since_ns;
	uint64_t brief_ns; /* what is waited after connections that lasted no second */
	struct session_request *oldest, *newest; /* in flight */
	struct task_mutex lock; /* under it conditions are waited for */
	struct task_cond changed;
	bool doubts_changes;
	struct doubts doubts;
	struct unflushed kept;
};

/* Options of every network node: reconnect-delay= (seconds, 0: a lost connection is an
 * error), timeout= (seconds without an answer, 0: none; one of several paths waits less). */
int session_options(struct session *s, const struct blk *b, struct opts *opts, struct err *err);
/* Starts the home loop and connects. Blocks. */
int session_open(struct session *s, struct blk *b, const struct session_ops *ops, struct err *err);
/* Also after a failed session_open. */
void session_close(struct session *s);

/* Looks for what has waited too long. Some five times a second, on the home loop. */
void session_tick(struct session *s);
/* The connection was found broken, perhaps with no request in flight that would find it: it is
 * made again at once, for what hangs on it. On the home loop. */
void session_lost(struct session *s);
/* Of several paths one, of which it is known that it was lost: it may be used again when it is up.
 * On any loop; does not block. */
void session_note_loss(struct session *s);

/* Runs issue(b, arg) on the home loop as above. */
int session_run(struct session *s, int (*issue)(struct blk *b, void *arg), void *arg);
/* The same, but it is not made again: SESSION_LOST where it may have been done or not,
 * SESSION_UNSENT where it was not. */
int session_run_once(struct session *s, int (*issue)(struct blk *b, void *arg), void *arg);
/* As session_run for what changes the disk, which is kept until it is flushed. Flags as the
 * driver operations have them. */
int session_write(struct session *s, uint64_t offset, const struct iovec *iov, int niov,
	unsigned flags);
int session_zero(struct session *s, uint64_t offset, uint64_t bytes, unsigned flags);
/* And for other changes of that range, which are not repeated once they were answered: discarding,
 * a new size (from there to the end of all). */
int session_change(struct session *s, uint64_t offset, uint64_t bytes,
	int (*issue)(struct blk *b, void *arg), void *arg);
int session_flush(struct session *s);

#endif
