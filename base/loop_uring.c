/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The io_uring engine; the only file that knows liburing.
 *
 * An operation is an entry in the submission queue whose user data is a struct op in the
 * waiting task's frame. Entries are sent when no task is ready, all in one system call
 * that also waits, or when the queue is full. The completion queue may overflow: the
 * kernel then keeps the rest (IORING_FEAT_NODROP) and gives it when it is next asked.
 *
 * The loop's wake_fd is read through the ring. That read is queued before a sleep and
 * stays queued over many, until somebody writes.
 *
 * Reads and writes of LARGE_BYTES or more that go through the page cache are handed to
 * the kernel's workers at once (IOSQE_ASYNC). Left to itself the kernel copies them
 * inside the call that submits them, one after the other, on the loop's processor, while
 * the tasks that could work on what has arrived wait; with workers two processors copy,
 * and the loop runs meanwhile. The hand-over costs about 3 us of processor time, a copy
 * of LARGE_BYTES some 30. Smaller ones, direct I/O, and a request that is alone on its
 * loop are better off without. (That the kernel queues buffered writes of one file behind
 * each other is welcome: they take turns at the inode's lock anyway, and worker threads
 * of ours would spin on it.)
 *
 * Kernels from 5.11 on will do; older ones, which cannot bound a wait without an
 * operation for it, get the epoll engine.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>

#include "base/iov.h"
#include "base/loop_impl.h"

#define SQ_ENTRIES  256
#define CQ_ENTRIES  1024
#define LARGE_BYTES (256u << 10)

struct op {
	struct task *task; /* NULL: the poll of wake_fd */
	int res;
};

struct uring {
	struct io_uring ring;
	struct op wake;
	bool wake_queued;
	unsigned in_flight; /* but the poll of wake_fd */
};

/* user_data of requests whose completion says nothing. */
#define UNHEARD 0

static bool kernel_has_ops(struct io_uring *ring)
{
	static const int needed[] = {IORING_OP_READ, IORING_OP_WRITE, IORING_OP_READV,
		IORING_OP_WRITEV, IORING_OP_FSYNC, IORING_OP_FALLOCATE,
		IORING_OP_POLL_ADD, IORING_OP_ASYNC_CANCEL};
	const unsigned features =
		IORING_FEAT_NODROP | IORING_FEAT_FAST_POLL | IORING_FEAT_EXT_ARG;

	if ((ring->features & features) != features)
		return false;
	struct io_uring_probe *p = io_uring_get_probe_ring(ring);
	bool all = p != NULL;
	for (size_t i = 0; all && i < sizeof(needed) / sizeof(needed[0]); i++)
		all = io_uring_opcode_supported(p, needed[i]);
	io_uring_free_probe(p);
	return all;
}

/* Task work is run when we ask for completions, not by an interrupt; each step needs a
 * newer kernel: 6.1, 5.19, any. */
static int ring_init(struct io_uring *ring)
{
	static const unsigned ways[] = {
		IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
		IORING_SETUP_COOP_TASKRUN,
		0,
	};
	int ret = -EINVAL;

	for (size_t i = 0; ret == -EINVAL && i < sizeof(ways) / sizeof(ways[0]); i++) {
		struct io_uring_params p = {
			.flags = ways[i] | IORING_SETUP_CQSIZE, .cq_entries = CQ_ENTRIES};
		ret = io_uring_queue_init_params(SQ_ENTRIES, ring, &p);
	}
	return ret;
}

static int uring_open(struct loop *l, struct err *err)
{
	if (ctx_on_valgrind()) /* 3.19 stops all threads while one waits in the ring */
		return err_set(err, ENOSYS, "io_uring cannot be used under valgrind");

	struct uring *u = calloc(1, sizeof(*u));
	if (!u)
		return err_set(err, ENOMEM, "no memory for an io_uring");
	int ret = ring_init(&u->ring);
	if (ret) {
		free(u);
		return err_errno(err, -ret, "io_uring cannot be had");
	}
	if (!kernel_has_ops(&u->ring)) {
		io_uring_queue_exit(&u->ring);
		free(u);
		return err_set(err, ENOSYS, "this kernel's io_uring is too old");
	}
	l->engine = u;
	return 0;
}

static void uring_close(struct loop *l)
{
	struct uring *u = l->engine;

	assert(!u->in_flight);
	io_uring_queue_exit(&u->ring);
	free(u);
}

static void complete(struct loop *l, const struct io_uring_cqe *cqe)
{
	struct uring *u = l->engine;
	struct op *op = (struct op *)(uintptr_t)cqe->user_data;

	if (cqe->user_data == UNHEARD || cqe->user_data == LIBURING_UDATA_TIMEOUT)
		return;
	if (op == &u->wake) {
		u->wake_queued = false;
		loop_read_wake(l);
		return;
	}
	u->in_flight--;
	op->res = cqe->res;
	task_ready(op->task);
}

static void reap(struct loop *l)
{
	struct uring *u = l->engine;
	struct io_uring_cqe *cqe;
	unsigned head, n = 0;

	io_uring_for_each_cqe(&u->ring, head, cqe)
	{
		complete(l, cqe);
		n++;
	}
	io_uring_cq_advance(&u->ring, n);
}

/* What may come of io_uring_enter: EBUSY and EAGAIN mean that completions must be taken,
 * or memory be had, before more can be sent; what was not sent stays queued. */
static void check_enter(int ret)
{
	assert(ret >= 0 || ret == -ETIME || ret == -EINTR || ret == -EBUSY ||
		ret == -EAGAIN);
	if (ret == -EAGAIN)
		sched_yield();
}

static struct io_uring_sqe *get_sqe(struct loop *l)
{
	struct uring *u = l->engine;
	struct io_uring_sqe *sqe;

	while (!(sqe = io_uring_get_sqe(&u->ring))) {
		int ret = io_uring_submit(&u->ring);
		check_enter(ret);
		if (ret < 0) {
			io_uring_get_events(&u->ring);
			reap(l);
		}
	}
	return sqe;
}

static void queue_wake_poll(struct loop *l)
{
	struct uring *u = l->engine;

	if (u->wake_queued)
		return;
	struct io_uring_sqe *sqe = get_sqe(l);
	io_uring_prep_poll_add(sqe, l->wake_fd, POLLIN);
	io_uring_sqe_set_data(sqe, &u->wake);
	u->wake_queued = true;
}

static void uring_turn(struct loop *l, int64_t timeout_ns)
{
	struct uring *u = l->engine;
	struct io_uring_cqe *cqe;
	int ret = 0;

	if (timeout_ns)
		queue_wake_poll(l);
	if (timeout_ns < 0) {
		ret = io_uring_submit_and_wait(&u->ring, 1);
	} else if (timeout_ns > 0) {
		struct __kernel_timespec ts = {
			timeout_ns / 1000000000, timeout_ns % 1000000000};
		ret = io_uring_submit_and_wait_timeout(&u->ring, &cqe, 1, &ts, NULL);
	} else if (u->in_flight) {
		ret = io_uring_submit_and_get_events(&u->ring);
	}
	check_enter(ret);
	reap(l);
}

/* Parks until the operation that has just been queued is done. */
static int wait_op(struct loop *l, struct io_uring_sqe *sqe, struct op *op)
{
	struct uring *u = l->engine;

	op->task = task_self();
	io_uring_sqe_set_data(sqe, op);
	u->in_flight++;
	task_park();
	return op->res;
}

static ssize_t wait_rw(
	struct loop *l, struct io_uring_sqe *sqe, const struct iovec *iov, int niov)
{
	struct uring *u = l->engine;
	struct op op;

	if ((u->in_flight || l->ready.head) && iov_bytes(iov, niov) >= LARGE_BYTES &&
		!(fcntl(sqe->fd, F_GETFL) & O_DIRECT))
		io_uring_sqe_set_flags(sqe, IOSQE_ASYNC);
	return wait_op(l, sqe, &op);
}

static ssize_t uring_preadv(
	struct loop *l, int fd, const struct iovec *iov, int niov, uint64_t offset)
{
	struct io_uring_sqe *sqe = get_sqe(l);

	if (niov == 1 && iov->iov_len <= INT32_MAX)
		io_uring_prep_read(
			sqe, fd, iov->iov_base, (unsigned)iov->iov_len, offset);
	else
		io_uring_prep_readv(sqe, fd, iov, (unsigned)niov, offset);
	return wait_rw(l, sqe, iov, niov);
}

static ssize_t uring_pwritev(struct loop *l, int fd, const struct iovec *iov, int niov,
	uint64_t offset, int rw_flags)
{
	struct io_uring_sqe *sqe = get_sqe(l);

	if (niov == 1 && iov->iov_len <= INT32_MAX)
		io_uring_prep_write(
			sqe, fd, iov->iov_base, (unsigned)iov->iov_len, offset);
	else
		io_uring_prep_writev(sqe, fd, iov, (unsigned)niov, offset);
	sqe->rw_flags = rw_flags;
	return wait_rw(l, sqe, iov, niov);
}

static int uring_fdatasync(struct loop *l, int fd)
{
	struct io_uring_sqe *sqe = get_sqe(l);
	struct op op;

	io_uring_prep_fsync(sqe, fd, IORING_FSYNC_DATASYNC);
	return wait_op(l, sqe, &op);
}

static int uring_fallocate(
	struct loop *l, int fd, int mode, uint64_t offset, uint64_t bytes)
{
	struct io_uring_sqe *sqe = get_sqe(l);
	struct op op;

	io_uring_prep_fallocate(sqe, fd, mode, (off_t)offset, (off_t)bytes);
	return wait_op(l, sqe, &op);
}

struct poll_op {
	struct op op;
	struct timer timer;
	bool timed_out;
};

/* The poll still completes, with ECANCELED unless it was answered just before. */
static void poll_timeout(struct timer *t)
{
	struct poll_op *p =
		(struct poll_op *)((char *)t - offsetof(struct poll_op, timer));
	struct io_uring_sqe *sqe = get_sqe(loop_self());

	io_uring_prep_cancel(sqe, &p->op, 0);
	sqe->user_data = UNHEARD;
	p->timed_out = true;
}

static int uring_poll(struct loop *l, int fd, short events, int64_t timeout_ns)
{
	struct io_uring_sqe *sqe = get_sqe(l);
	struct poll_op p = {.timed_out = false};

	io_uring_prep_poll_add(sqe, fd, (unsigned short)events);
	if (timeout_ns > 0)
		timer_add(&l->timers, &p.timer, deadline_after((uint64_t)timeout_ns),
			poll_timeout);
	int ret = wait_op(l, sqe, &p.op);
	if (timeout_ns > 0 && !p.timed_out)
		timer_remove(&l->timers, &p.timer);
	return p.timed_out && ret == -ECANCELED ? 0 : ret;
}

const struct loop_ops loop_ops_uring = {
	.name = "io_uring",
	.open = uring_open,
	.close = uring_close,
	.turn = uring_turn,
	.preadv = uring_preadv,
	.pwritev = uring_pwritev,
	.fdatasync = uring_fdatasync,
	.fallocate = uring_fallocate,
	.poll = uring_poll,
};
