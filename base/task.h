/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Tasks: code that reads as if it blocked.
 *
 * A loop is one thread's event loop (io_uring, or epoll and the worker pool where io_uring
 * is refused). A task is a function with a stack of its own; it runs on one loop, never
 * changes thread, and gives way only where it parks: in I/O (aio.h), in a lock, in a wait.
 *
 * Rules:
 * 1. Outside any task every call here and in aio.h simply blocks the thread. No function of
 *    the project has two versions.
 * 2. Nothing may rely on "no other task can run here": what is shared is under a lock, and
 *    locks work across loops and between tasks and plain threads.
 * 3. Never hold a pthread mutex or a spin lock across a call that may park.
 * 4. Wake-ups carry happens-before: what the waker wrote before is seen after the wait.
 * 5. A stack has TASK_STACK_BYTES with a guard page below. Buffers over 4 KiB belong on the
 *    heap.
 */
#ifndef BYRE_BASE_TASK_H
#define BYRE_BASE_TASK_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

#define TASK_STACK_BYTES (256u << 10)

struct loop;
struct task;

enum loop_engine {
	LOOP_AUTO,  /* io_uring where the kernel lets us, else epoll */
	LOOP_URING, /* fails where io_uring is refused */
	LOOP_EPOLL, /* readiness by epoll, file I/O on the worker pool */
};

/* Chooses the engine of loops made from now on: "auto", "io_uring" or "epoll". The
 * environment variable BYRE_LOOP is read for the default. -EINVAL for another name. */
int loop_set_engine(const char *name, struct err *err);
/* The engine of this loop by its option name: "io_uring" or "epoll". */
const char *loop_engine_name(const struct loop *loop);

/* Makes a loop on the calling thread, runs fn(arg) as its first task, and returns fn's
 * result when it and every task it spawned on this loop have ended. Does not nest. */
int loop_run(int (*fn)(void *arg), void *arg, struct err *err);

/* A loop on a thread of its own, for work spread over several loops. */
struct loop *loop_start(struct err *err);
/* Waits until the loop's tasks have ended, then joins its thread and frees it. May be
 * called from a task of another loop or from a plain thread. */
void loop_stop(struct loop *loop);

/* From now on one thread, which this starts, makes those of loops and workers, whoever asks
 * for them, and each calls `entered` before all else. For programs that confine threads: what
 * one has given up, those that it makes do not get back. Once, from the main thread. */
int thread_set_maker(void (*entered)(void), struct err *err);
bool thread_is_maker(void); /* the calling one */
/* Those threads leave it unblocked, so that something can be done on each (THREAD_CALL_SIGNAL
 * needs <signal.h>). */
#define THREAD_CALL_SIGNAL (SIGRTMIN + 2)

/* The loop of the calling thread, NULL outside. */
struct loop *loop_self(void);
/* The running task, NULL outside any. */
struct task *task_self(void);

/* Starts fn(arg) on a loop, from any thread; NULL means loop_self(). -ENOMEM where there is
 * no stack to be had. The new task first runs when the caller parks or ends. */
int task_spawn(struct loop *loop, void (*fn)(void *arg), void *arg);
/* Lets other ready tasks of this loop run. Nothing outside a task. */
void task_yield(void);
void task_sleep_ns(uint64_t ns);
/* Since some moment in the past: CLOCK_MONOTONIC. */
uint64_t clock_ns(void);

/*
 * A wait for one wake-up. The waiter lives in the waiting function's frame; exactly one
 * wake is due to it. The wake may come before the wait, from any thread, and after it the
 * waker must not touch the waiter.
 */
struct waiter {
	struct task *task; /* NULL: a plain thread waits on `state` */
	uint32_t state;	   /* 0 pending, 1 parked, 2 woken; atomic */
	struct waiter *next;
};

void waiter_init(struct waiter *w);
void waiter_wait(struct waiter *w);
void waiter_wake(struct waiter *w);

/* Fair (first come, first served) mutex for tasks and threads, held across I/O freely.
 * Not recursive. Zero-initialised is unlocked; nothing to destroy. */
struct task_mutex {
	uint32_t spin;
	bool locked;
	struct task *owner; /* for the assertion only */
	struct waiter *head, *tail;
};

void task_lock(struct task_mutex *m);
bool task_trylock(struct task_mutex *m);
void task_unlock(struct task_mutex *m);
bool task_mutex_held(const struct task_mutex *m);

/* Fair readers-writer lock: a waiting writer holds back later readers. Zero-initialised. */
struct task_rwlock {
	uint32_t spin;
	uint32_t readers;
	bool writer;
	struct waiter *head, *tail; /* waiter.state's high bit tells writers; see lock.c */
};

void task_rdlock(struct task_rwlock *l);
void task_rdunlock(struct task_rwlock *l);
void task_wrlock(struct task_rwlock *l);
void task_wrunlock(struct task_rwlock *l);

/* A queue of waiters under the caller's task_mutex, as a condition variable: wakes are not
 * lost, spurious ones do not happen, but recheck the condition all the same. */
struct task_cond {
	struct waiter *head, *tail; /* under the caller's mutex */
};

void task_cond_wait(struct task_cond *c, struct task_mutex *m);
void task_cond_signal(struct task_cond *c);
void task_cond_broadcast(struct task_cond *c);

/*
 * Tasks that are started together and waited for together. The group keeps the first error.
 * Outside any loop task_group_spawn(g, NULL, ...) runs the function at once.
 */
struct task_group {
	struct task_mutex lock;
	struct task_cond idle;
	unsigned running;
	int ret; /* the first error, 0 while there is none */
};

void task_group_init(struct task_group *g);
/* fn's result goes to the group. loop NULL: the caller's. */
int task_group_spawn(struct task_group *g, struct loop *loop, int (*fn)(void *arg), void *arg);
/* Waits until none runs; returns the first error. The group can be used again after it. */
int task_group_wait(struct task_group *g);

#endif
