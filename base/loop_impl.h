/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The inside of the task runtime, shared by switch.c, timer.c, loop.c, the two engines
 * and aio.c. Nothing else includes it.
 *
 * Who touches what: everything in a struct loop belongs to the loop's thread but `inbox`
 * and `tasks`, which are atomic, and `wake_fd`, which never changes.
 */
#ifndef BYRE_BASE_LOOP_IMPL_H
#define BYRE_BASE_LOOP_IMPL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <pthread.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "base/err.h"
#include "base/task.h"

/* switch.c: contexts and stacks. */

struct ctx {
	void *sp;
	/* For the sanitizers, who must know on which stack the thread is. */
	const void *stack_bottom;
	size_t stack_bytes;
	void *fake_stack, *fiber;
};

/* Makes c stand for the calling thread's own stack. */
void ctx_init_thread(struct ctx *c);
void ctx_switch(struct ctx *from, struct ctx *to);
/* Leaves `from` for good. */
_Noreturn void ctx_leave(struct ctx *from, struct ctx *to);
bool ctx_on_valgrind(void);

/* The most that task_spawn_with copies. */
#define TASK_PAYLOAD_BYTES 32

/* Lives at the top of its own stack. */
struct task {
	struct ctx ctx;
	struct loop *loop;
	struct task *next; /* in the ready queue, the inbox or the stack cache */
	void (*fn)(void *arg);
	void *arg;
	_Alignas(16) char payload[TASK_PAYLOAD_BYTES];
};

/* A task whose first switch enters task_main(t). NULL: no memory. */
struct task *task_alloc(void);
_Noreturn void task_main(struct task *t); /* loop.c */
/* Must not be called from the task's own stack. */
void task_free(struct task *t);

/* timer.c: a pairing heap, so a timer costs no allocation. */

struct timer {
	uint64_t deadline_ns; /* CLOCK_MONOTONIC */
	uint64_t seq;         /* of equal deadlines the one added first is first */
	void (*fn)(struct timer *t);
	struct timer *child, *next, *prev; /* prev of a first child is its parent */
};

struct timer_heap {
	struct timer *root;
	uint64_t seq;
};

/* now + ns, at most the end of time. */
uint64_t deadline_after(uint64_t ns);
/* fn runs once, on the loop's own stack, unless the timer is removed before. */
void timer_add(struct timer_heap *h, struct timer *t, uint64_t deadline_ns,
	void (*fn)(struct timer *t));
void timer_remove(struct timer_heap *h, struct timer *t);
/* Runs those that are due. */
void timer_expire(struct timer_heap *h);

/* loop.c */

struct task_queue {
	struct task *head, *tail;
};

struct loop {
	const struct loop_ops *ops;
	void *engine;         /* of ops */
	struct task *current; /* NULL while the loop itself runs */
	struct ctx root;
	struct task_queue ready;
	struct task *dead;  /* ended, its stack not yet given back */
	unsigned budget;    /* switches until the engine is asked again */
	unsigned wakes_due; /* writes to wake_fd that are on their way */
	struct timer_heap timers;
	unsigned tasks; /* atomic: live ones, those in the inbox included */
	int wake_fd;    /* eventfd */

	/* Tasks that other threads made ready, last first; LOOP_ASLEEP while the loop
	 * sleeps. */
	_Alignas(64) struct task *inbox;

	/* Loops of loop_start only. */
	_Alignas(64) pthread_t thread;
	struct waiter stop;     /* wakes the keeper: loop.c */
	struct waiter *started; /* of the thread in loop_start */
	struct waiter *ended;   /* of the one in loop_stop; atomic */
	int start_ret;
	struct err start_err;
};

/* An engine. Calls come from the loop's thread; rw and what follows from a task of it. */
struct loop_ops {
	const char *name;
	int (*open)(struct loop *l, struct err *err);
	void (*close)(struct loop *l);
	/* Starts what is queued and makes ready what has completed, waiting for that at
	 * most timeout_ns: 0 not at all, < 0 for ever. A write to wake_fd ends the wait
	 * and is answered with loop_read_wake. */
	void (*turn)(struct loop *l, int64_t timeout_ns);
	ssize_t (*preadv)(struct loop *l, int fd, const struct iovec *iov, int niov,
		uint64_t offset);
	ssize_t (*pwritev)(struct loop *l, int fd, const struct iovec *iov, int niov,
		uint64_t offset, int rw_flags);
	int (*fdatasync)(struct loop *l, int fd);
	int (*fallocate)(
		struct loop *l, int fd, int mode, uint64_t offset, uint64_t bytes);
	/* timeout_ns != 0 */
	int (*poll)(struct loop *l, int fd, short events, int64_t timeout_ns);
};

extern const struct loop_ops loop_ops_uring, loop_ops_epoll;

/* Gives way until task_ready(task_self()). */
void task_park(void);
/* From any thread, once for each park, and only when the task is about to park or has. */
void task_ready(struct task *t);
/* For engines, when wake_fd is readable. */
void loop_read_wake(struct loop *l);
/* Starts fn(copy of payload): saves an allocation where fn's argument is small. */
int task_spawn_with(
	struct loop *loop, void (*fn)(void *arg), const void *payload, size_t bytes);

/* thread.c: pthread_create with the signals that are meant for the process blocked. -errno. */
int thread_start(pthread_t *thread, void *(*fn)(void *arg), void *arg);

/* aio.c: the system calls themselves, EINTR retried, -errno. */
ssize_t sys_preadv(
	int fd, const struct iovec *iov, int niov, uint64_t offset, int rw_flags);
ssize_t sys_pwritev(
	int fd, const struct iovec *iov, int niov, uint64_t offset, int rw_flags);
int sys_fdatasync(int fd);
int sys_fallocate(int fd, int mode, uint64_t offset, uint64_t bytes);
int sys_poll(int fd, short events, int64_t timeout_ns);

#endif
