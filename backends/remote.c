/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Contexts on their home loop. See remote.h.
 *
 * A pump never waits longer than TICK_NS: libraries look at their time limits when they
 * are served, and a library that reconnects puts another socket under the same number,
 * which the poll that is under way does not see.
 *
 * Where an answer has come others have often come too: a pump serves up to BURST of them before it
 * lets tasks run, so that these are woken, and ask for more, many at a time.
 */
#include <fcntl.h>
#include <poll.h>
#include <stddef.h>
#include <sys/socket.h>

#include "backends/remote.h"
#include "base/aio.h"

#define TICK_NS 200000000
#define BURST   64

struct hop {
	int (*fn)(void *arg);
	void *arg;
	int ret;
	struct waiter done;
};

static void hop_main(void *arg)
{
	struct hop *h = arg;

	h->ret = h->fn(h->arg);
	waiter_wake(&h->done);
}

int remote_call(struct loop *home, int (*fn)(void *arg), void *arg)
{
	struct hop h = {.fn = fn, .arg = arg};

	if (loop_self() == home)
		return fn(arg);
	waiter_init(&h.done);
	if (task_spawn(home, hop_main, &h))
		return -ENOMEM;
	waiter_wait(&h.done);
	return h.ret;
}

/* A socket that is gone is for the library to notice, which it does when served. */
static int wait_for(struct remote *r, short events)
{
	int fd = r->ops->fd(r->ctx), got;

	if (fd >= 0) {
		got = aio_poll(fd, events, TICK_NS);
		return got > 0 ? got : 0;
	}
	task_sleep_ns(TICK_NS / 10);
	return 0;
}

static void pump_ended(struct remote *r)
{
	if (--r->pumps == 0 && r->ended)
		waiter_wake(r->ended);
}

/* What is so now, of events; nothing else runs meanwhile. */
static int poll_now(struct remote *r, short events)
{
	struct pollfd p = {.fd = r->ops->fd(r->ctx), .events = events};

	return p.fd >= 0 && poll(&p, 1, 0) > 0 ? p.revents : 0;
}

static void read_pump(void *arg)
{
	struct remote *r = arg;

	while (!r->closing) {
		int got = wait_for(r, POLLIN);

		if (r->closing)
			break;
		for (int i = 0; i == 0 || (got && i < BURST); i++) {
			r->ops->service(r->ctx, got);
			got = poll_now(r, POLLIN);
		}
		remote_push(r);
	}
	pump_ended(r);
}

static bool has_more_to_send(struct remote *r)
{
	return !r->closing && (r->ops->events(r->ctx) & POLLOUT);
}

static void write_pump(void *arg)
{
	struct remote *r = arg;

	while (has_more_to_send(r)) {
		int got = wait_for(r, POLLOUT);

		if (!r->closing && got)
			r->ops->service(r->ctx, got);
	}
	r->writing = false;
	pump_ended(r);
}

static int pump_start(struct remote *r, void (*pump)(void *arg))
{
	int ret;

	r->pumps++;
	ret = task_spawn(NULL, pump, r);
	if (ret)
		r->pumps--;
	return ret;
}

int remote_start(struct remote *r, const struct remote_ops *ops, void *ctx)
{
	*r = (struct remote){.ops = ops, .ctx = ctx};
	return pump_start(r, read_pump);
}

void remote_push(struct remote *r)
{
	int got;

	if (r->writing || !has_more_to_send(r))
		return;
	got = poll_now(r, POLLOUT);
	if (got)
		r->ops->service(r->ctx, got);
	if (!has_more_to_send(r))
		return;
	r->writing = true;
	/* Without a stack for the pump the next tick of the other one sends it. */
	if (pump_start(r, write_pump))
		r->writing = false;
}

void remote_wait_begin(struct remote *r, struct remote_wait *w)
{
	waiter_init(&w->done);
	w->abandoned = false;
	w->next = r->waits;
	w->link = &r->waits;
	if (w->next)
		w->next->link = &w->next;
	r->waits = w;
}

void remote_wait_cancel(struct remote_wait *w)
{
	*w->link = w->next;
	if (w->next)
		w->next->link = w->link;
}

bool remote_wait_end(struct remote_wait *w)
{
	waiter_wait(&w->done);
	return !w->abandoned;
}

bool remote_is_wanted(const struct remote_wait *w)
{
	return !w->abandoned;
}

void remote_answer(struct remote_wait *w)
{
	remote_wait_cancel(w);
	waiter_wake(&w->done);
}

void remote_abandon(struct remote *r)
{
	while (r->waits) {
		struct remote_wait *w = r->waits;

		remote_wait_cancel(w);
		w->abandoned = true;
		waiter_wake(&w->done);
	}
}

void remote_forget_unsent(int fd)
{
	struct linger linger = {.l_onoff = 1, .l_linger = 0};

	setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
	/* A child that has it, too, would keep it open: a hook, a script of a network. */
	fcntl(fd, F_SETFD, FD_CLOEXEC);
}

void remote_cut(int fd)
{
	if (fd >= 0)
		shutdown(fd, SHUT_RDWR);
}

void remote_stop(struct remote *r)
{
	struct waiter ended;
	int fd = r->ops->fd(r->ctx);

	r->closing = true;
	if (!r->pumps)
		return;
	remote_cut(fd);
	waiter_init(&ended);
	r->ended = &ended;
	waiter_wait(&ended);
}
