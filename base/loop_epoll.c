/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The epoll engine: for kernels and containers that refuse io_uring. Readiness comes from
 * epoll; file I/O, which epoll knows nothing of, is done by the worker pool. Only what is
 * read from the page cache is read right here, where the file system can tell
 * (RWF_NOWAIT): a trip through a worker costs ten times as much as copying 4 KiB.
 *
 * A descriptor is in the epoll set only while somebody polls it (one-shot, then taken
 * out), so that closing and reusing its number between polls needs no notice. Several
 * tasks may poll one descriptor: it is registered for the union of what they want.
 */
#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/aio.h"
#include "base/iov.h"
#include "base/loop_impl.h"

#define EVENTS_A_TURN 64
#define BUCKETS       64 /* a power of two */
#define SMALL_BYTES   (64u << 10)

struct fd_waiter {
	struct task *task;
	struct epoll *engine;
	int fd;
	short events;
	short res; /* 0: timed out */
	bool timed;
	struct timer timer;
	struct fd_waiter *next;
};

struct epoll {
	int fd;
	struct fd_waiter *buckets[BUCKETS]; /* by fd */
};

static struct fd_waiter **bucket(struct epoll *e, int fd)
{
	return &e->buckets[(unsigned)fd % BUCKETS];
}

static int epoll_open(struct loop *l, struct err *err)
{
	struct epoll *e = calloc(1, sizeof(*e));
	struct epoll_event ev = {.events = EPOLLIN, .data.fd = l->wake_fd};

	if (!e)
		return err_set(err, ENOMEM, "no memory for an epoll loop");
	e->fd = epoll_create1(EPOLL_CLOEXEC);
	if (e->fd < 0 || epoll_ctl(e->fd, EPOLL_CTL_ADD, l->wake_fd, &ev)) {
		int code = errno;
		if (e->fd >= 0)
			close(e->fd);
		free(e);
		return err_errno(err, code, "epoll cannot be had");
	}
	l->engine = e;
	return 0;
}

static void epoll_close(struct loop *l)
{
	struct epoll *e = l->engine;

	for (int i = 0; i < BUCKETS; i++)
		assert(!e->buckets[i]);
	close(e->fd);
	free(e);
}

/* Makes the registration of fd fit its waiters. -errno only where there are some. */
static int register_fd(struct epoll *e, int fd)
{
	struct epoll_event ev = {.data.fd = fd};

	for (const struct fd_waiter *w = *bucket(e, fd); w; w = w->next) {
		if (w->fd == fd)
			ev.events |= (uint32_t)(unsigned short)w->events | EPOLLONESHOT;
	}
	if (!ev.events) {
		epoll_ctl(e->fd, EPOLL_CTL_DEL, fd, NULL); /* fails where it was closed */
		return 0;
	}
	if (!epoll_ctl(e->fd, EPOLL_CTL_ADD, fd, &ev))
		return 0;
	if (errno == EEXIST && !epoll_ctl(e->fd, EPOLL_CTL_MOD, fd, &ev))
		return 0;
	return -errno;
}

static void unlink_waiter(struct fd_waiter *w)
{
	struct fd_waiter **at = bucket(w->engine, w->fd);

	while (*at != w)
		at = &(*at)->next;
	*at = w->next;
}

static void answer_fd(struct loop *l, int fd, uint32_t events)
{
	struct epoll *e = l->engine;
	struct fd_waiter **at = bucket(e, fd);

	while (*at) {
		struct fd_waiter *w = *at;
		short got =
			(short)(events & ((unsigned short)w->events | POLLERR | POLLHUP));
		if (w->fd != fd || !got) {
			at = &w->next;
			continue;
		}
		*at = w->next;
		if (w->timed)
			timer_remove(&l->timers, &w->timer);
		w->res = got;
		task_ready(w->task);
	}
	register_fd(
		e, fd); /* those that are left were registered before: it cannot fail */
}

static void epoll_turn(struct loop *l, int64_t timeout_ns)
{
	struct epoll *e = l->engine;
	struct epoll_event ev[EVENTS_A_TURN];
	int ms = -1;

	if (timeout_ns >= 0) {
		/* Up, so that a timer is due when the wait is over. */
		int64_t up = timeout_ns / 1000000 + (timeout_ns % 1000000 != 0);
		ms = up > INT_MAX ? INT_MAX : (int)up;
	}
	int n = epoll_wait(e->fd, ev, EVENTS_A_TURN, ms);
	assert(n >= 0 || errno == EINTR);
	for (int i = 0; i < n; i++) {
		if (ev[i].data.fd == l->wake_fd)
			loop_read_wake(l);
		else
			answer_fd(l, ev[i].data.fd, ev[i].events);
	}
}

static void poll_timeout(struct timer *t)
{
	struct fd_waiter *w =
		(struct fd_waiter *)((char *)t - offsetof(struct fd_waiter, timer));

	unlink_waiter(w);
	register_fd(w->engine, w->fd);
	task_ready(w->task);
}

static int epoll_poll(struct loop *l, int fd, short events, int64_t timeout_ns)
{
	struct epoll *e = l->engine;
	struct fd_waiter w = {.task = task_self(),
		.engine = e,
		.fd = fd,
		.events = events,
		.timed = timeout_ns > 0,
		.next = *bucket(e, fd)};

	/* Answers at once what is ready, and regular files, which epoll refuses. */
	int ret = sys_poll(fd, events, 0);
	if (ret)
		return ret;
	*bucket(e, fd) = &w;
	ret = register_fd(e, fd);
	if (ret) {
		unlink_waiter(&w);
		return ret;
	}
	if (w.timed)
		timer_add(&l->timers, &w.timer, deadline_after((uint64_t)timeout_ns),
			poll_timeout);
	task_park();
	return w.res;
}

/* One file operation as a worker's job. */
struct file_op {
	int fd;
	const struct iovec *iov;
	int niov;
	int flags; /* rw_flags, or fallocate's mode */
	uint64_t offset, bytes;
};

static long do_preadv(void *arg)
{
	const struct file_op *o = arg;

	return sys_preadv(o->fd, o->iov, o->niov, o->offset, 0);
}

static long do_pwritev(void *arg)
{
	const struct file_op *o = arg;

	return sys_pwritev(o->fd, o->iov, o->niov, o->offset, o->flags);
}

static long do_fdatasync(void *arg)
{
	const struct file_op *o = arg;

	return sys_fdatasync(o->fd);
}

static long do_fallocate(void *arg)
{
	const struct file_op *o = arg;

	return sys_fallocate(o->fd, o->flags, o->offset, o->bytes);
}

static ssize_t epoll_preadv(
	struct loop *l, int fd, const struct iovec *iov, int niov, uint64_t offset)
{
	struct file_op o = {.fd = fd, .iov = iov, .niov = niov, .offset = offset};
	size_t bytes = iov_bytes(iov, niov);

	(void)l;
	if (bytes <= SMALL_BYTES &&
		sys_preadv(fd, iov, niov, offset, RWF_NOWAIT) == (ssize_t)bytes)
		return (ssize_t)bytes;
	/* Also for what was in the cache in part: only the end of the file reads short.
	 */
	return worker_call(WORKER_BLOCKING, do_preadv, &o);
}

static ssize_t epoll_pwritev(struct loop *l, int fd, const struct iovec *iov, int niov,
	uint64_t offset, int rw_flags)
{
	struct file_op o = {
		.fd = fd, .iov = iov, .niov = niov, .flags = rw_flags, .offset = offset};

	(void)l;
	return worker_call(WORKER_BLOCKING, do_pwritev, &o);
}

static int epoll_fdatasync(struct loop *l, int fd)
{
	struct file_op o = {.fd = fd};

	(void)l;
	return (int)worker_call(WORKER_BLOCKING, do_fdatasync, &o);
}

static int epoll_fallocate(
	struct loop *l, int fd, int mode, uint64_t offset, uint64_t bytes)
{
	struct file_op o = {.fd = fd, .flags = mode, .offset = offset, .bytes = bytes};

	(void)l;
	return (int)worker_call(WORKER_BLOCKING, do_fallocate, &o);
}

const struct loop_ops loop_ops_epoll = {
	.name = "epoll",
	.open = epoll_open,
	.close = epoll_close,
	.turn = epoll_turn,
	.preadv = epoll_preadv,
	.pwritev = epoll_pwritev,
	.fdatasync = epoll_fdatasync,
	.fallocate = epoll_fallocate,
	.poll = epoll_poll,
};
