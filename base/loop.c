/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Loops: which task runs next, and when the thread sleeps.
 *
 * A task that parks switches straight to the next ready one. When none is left, or after
 * LOOP_BUDGET switches, the loop itself (on the thread's own stack) takes a turn: it
 * empties the inbox, runs what timers are due, and asks the engine, which sends the
 * system calls that tasks have queued in one batch and collects results.
 *
 * Waking a loop from another thread. `inbox` is NULL, a list of tasks, or LOOP_ASLEEP:
 * 1. Before the engine may sleep, the loop changes the inbox from NULL to LOOP_ASLEEP.
 * That fails where a task is in it, and then the loop does not sleep.
 * 2. Who pushes a task and thereby replaces LOOP_ASLEEP, and nobody else, writes once to
 *    wake_fd. So a wake-up is never lost, and a busy loop is never written to.
 * 3. After the sleep the loop takes the inbox; where LOOP_ASLEEP is gone from it, one
 * write is on its way: wakes_due counts those. A loop is closed only when it has read
 * them all. So a write never goes to a descriptor that has become another file, although
 * the task it announces may by then have run and ended.
 */
#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/loop_impl.h"

/* Bounds how long tasks that only yield or wake each other keep I/O waiting. */
#define LOOP_BUDGET 256

#define LOOP_ASLEEP ((struct task *)1)

static __thread struct loop *self_loop;

static int engine_chosen = -1; /* enum loop_engine; atomic; -1: the environment's */

struct loop *loop_self(void)
{
	return self_loop;
}

struct task *task_self(void)
{
	return self_loop ? self_loop->current : NULL;
}

static void queue_push(struct task_queue *q, struct task *t)
{
	t->next = NULL;
	if (q->head)
		q->tail->next = t;
	else
		q->head = t;
	q->tail = t;
}

static struct task *queue_pop(struct task_queue *q)
{
	struct task *t = q->head;

	if (t)
		q->head = t->next;
	return t;
}

static void wake_loop(int wake_fd)
{
	uint64_t one = 1;
	ssize_t n;

	do {
		n = write(wake_fd, &one, sizeof(one));
	} while (n < 0 && errno == EINTR);
	assert(n == sizeof(one));
}

static void inbox_push(struct loop *l, struct task *t)
{
	struct task *old = __atomic_load_n(&l->inbox, __ATOMIC_RELAXED);
	int wake_fd = l->wake_fd; /* once t is in, *l may go away */

	do {
		t->next = old == LOOP_ASLEEP ? NULL : old;
	} while (!__atomic_compare_exchange_n(
		&l->inbox, &old, t, true, __ATOMIC_RELEASE, __ATOMIC_RELAXED));
	if (old == LOOP_ASLEEP)
		wake_loop(wake_fd);
}

/* Moves the inbox to the ready queue, oldest first. slept: LOOP_ASLEEP was in it. */
static void inbox_take(struct loop *l, bool slept)
{
	if (!slept && !__atomic_load_n(&l->inbox, __ATOMIC_RELAXED))
		return;

	struct task *list = __atomic_exchange_n(&l->inbox, NULL, __ATOMIC_ACQUIRE);
	if (slept && list == LOOP_ASLEEP)
		return;
	if (slept)
		l->wakes_due++;

	struct task *oldest = NULL;
	while (list) {
		struct task *t = list;
		list = t->next;
		t->next = oldest;
		oldest = t;
	}
	while (oldest) {
		struct task *t = oldest;
		oldest = t->next;
		queue_push(&l->ready, t);
	}
}

static bool inbox_sleep(struct loop *l)
{
	struct task *none = NULL;

	return __atomic_compare_exchange_n(
		&l->inbox, &none, LOOP_ASLEEP, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}

void loop_read_wake(struct loop *l)
{
	uint64_t n;
	ssize_t got;

	do {
		got = read(l->wake_fd, &n, sizeof(n));
	} while (got < 0 && errno == EINTR);
	assert(got == sizeof(n));
	/* A write can be seen before the inbox is taken: the count wraps, and is made up
	 * for when it is. */
	l->wakes_due -= (unsigned)n;
}

void task_ready(struct task *t)
{
	if (t->loop == self_loop)
		queue_push(&self_loop->ready, t);
	else
		inbox_push(t->loop, t);
}

/* The stack that was left last can be given back once we are on another. */
static void reap_dead(struct loop *l)
{
	if (l->dead) {
		task_free(l->dead);
		l->dead = NULL;
	}
}

/* What to switch to: the next ready task, or the loop itself. */
static struct ctx *next_ctx(struct loop *l)
{
	l->current = NULL;
	if (l->budget) {
		l->budget--;
		l->current = queue_pop(&l->ready);
	}
	return l->current ? &l->current->ctx : &l->root;
}

void task_park(void)
{
	struct loop *l = self_loop;
	struct task *t = l->current;
	struct ctx *next = next_ctx(l);

	if (next == &t->ctx) /* it was ready already */
		return;
	ctx_switch(&t->ctx, next);
	reap_dead(l);
}

void task_main(struct task *t)
{
	struct loop *l = t->loop;

	reap_dead(l);
	t->fn(t->arg);
	assert(l->current == t);
	l->dead = t;
	__atomic_fetch_sub(&l->tasks, 1, __ATOMIC_RELAXED);
	ctx_leave(&t->ctx, next_ctx(l));
}

void task_yield(void)
{
	struct task *t = task_self();

	if (!t)
		return;
	queue_push(&t->loop->ready, t);
	task_park();
}

struct sleeper {
	struct timer timer;
	struct task *task;
};

static void sleep_over(struct timer *timer)
{
	task_ready(((struct sleeper *)timer)->task);
}

void task_sleep_ns(uint64_t ns)
{
	struct sleeper s = {.task = task_self()};

	if (!s.task) {
		uint64_t deadline = deadline_after(ns);
		struct timespec ts = {
			(time_t)(deadline / 1000000000u), (long)(deadline % 1000000000u)};
		while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL) ==
			EINTR)
			;
		return;
	}
	timer_add(&s.task->loop->timers, &s.timer, deadline_after(ns), sleep_over);
	task_park();
}

static struct task *spawn(struct loop *l, void (*fn)(void *arg), void *arg)
{
	struct task *t = task_alloc();

	if (!t)
		return NULL;
	t->loop = l;
	t->fn = fn;
	t->arg = arg;
	__atomic_fetch_add(&l->tasks, 1, __ATOMIC_RELAXED);
	return t;
}

int task_spawn(struct loop *loop, void (*fn)(void *arg), void *arg)
{
	struct loop *l = loop ? loop : self_loop;

	assert(l);
	struct task *t = spawn(l, fn, arg);
	if (!t)
		return -ENOMEM;
	task_ready(t);
	return 0;
}

int task_spawn_with(
	struct loop *loop, void (*fn)(void *arg), const void *payload, size_t bytes)
{
	struct loop *l = loop ? loop : self_loop;

	assert(l && bytes <= TASK_PAYLOAD_BYTES);
	struct task *t = spawn(l, fn, NULL);
	if (!t)
		return -ENOMEM;
	memcpy(t->payload, payload, bytes);
	t->arg = t->payload;
	task_ready(t);
	return 0;
}

/* One request to the engine; sleeps where there is nothing else to do. */
static void turn(struct loop *l)
{
	int64_t timeout_ns = -1;

	if (l->timers.root) {
		uint64_t now = clock_ns(), at = l->timers.root->deadline_ns;
		uint64_t ns = at > now ? at - now : 0;
		timeout_ns = ns > INT64_MAX ? INT64_MAX : (int64_t)ns;
	}
	if (l->ready.head)
		timeout_ns = 0;

	bool sleeps = timeout_ns && inbox_sleep(l);
	l->ops->turn(l, sleeps ? timeout_ns : 0);
	inbox_take(l, sleeps);
	timer_expire(&l->timers);
}

static void loop_main(struct loop *l)
{
	self_loop = l;
	ctx_init_thread(&l->root);
	for (;;) {
		inbox_take(l, false);
		l->budget = LOOP_BUDGET;
		struct ctx *next = next_ctx(l);
		if (next != &l->root)
			ctx_switch(&l->root, next);
		reap_dead(l);
		if (!__atomic_load_n(&l->tasks, __ATOMIC_RELAXED))
			break;
		turn(l);
	}
	while (l->wakes_due)
		l->ops->turn(l, -1);
	assert(!l->ready.head && !l->timers.root);
	self_loop = NULL;
}

static int engine_by_name(const char *name)
{
	static const char *const names[] = {"auto", "io_uring", "epoll"};

	for (int i = 0; i < 3; i++) {
		if (!strcmp(name, names[i]))
			return i;
	}
	return -1;
}

int loop_set_engine(const char *name, struct err *err)
{
	int engine = engine_by_name(name);

	if (engine < 0)
		return err_set(err, EINVAL,
			"unknown loop engine '%s' (auto, io_uring or epoll)", name);
	__atomic_store_n(&engine_chosen, engine, __ATOMIC_RELAXED);
	return 0;
}

const char *loop_engine_name(const struct loop *loop)
{
	return loop->ops->name;
}

static int engine_open(struct loop *l, struct err *err)
{
	int engine = __atomic_load_n(&engine_chosen, __ATOMIC_RELAXED);
	const char *env = getenv("BYRE_LOOP");

	if (engine < 0)
		engine = env && *env ? engine_by_name(env) : LOOP_AUTO;
	if (engine < 0)
		return err_set(err, EINVAL,
			"BYRE_LOOP: unknown loop engine '%s' (auto, io_uring or epoll)",
			env);
	if (engine != LOOP_EPOLL) {
		l->ops = &loop_ops_uring;
		int ret = l->ops->open(l, engine == LOOP_URING ? err : NULL);
		if (!ret || engine == LOOP_URING)
			return ret;
	}
	l->ops = &loop_ops_epoll;
	return l->ops->open(l, err);
}

static int loop_open(struct loop *l, struct err *err)
{
	l->wake_fd = eventfd(0, EFD_CLOEXEC);
	if (l->wake_fd < 0)
		return err_errno(err, errno, "cannot make an event descriptor");

	int ret = engine_open(l, err);
	if (ret)
		close(l->wake_fd);
	return ret;
}

static void loop_close(struct loop *l)
{
	l->ops->close(l);
	close(l->wake_fd);
}

struct first_task {
	int (*fn)(void *arg);
	void *arg;
	int ret;
};

static void run_first(void *arg)
{
	struct first_task *f = arg;

	f->ret = f->fn(f->arg);
}

int loop_run(int (*fn)(void *arg), void *arg, struct err *err)
{
	struct first_task first = {fn, arg, 0};
	struct loop l = {.ops = NULL};

	assert(!self_loop);
	int ret = loop_open(&l, err);
	if (ret)
		return ret;
	struct task *t = spawn(&l, run_first, &first);
	if (t) {
		queue_push(&l.ready, t);
		loop_main(&l);
		ret = first.ret;
	} else {
		ret = err_set(err, ENOMEM, "no memory for a task's stack");
	}
	loop_close(&l);
	return ret;
}

/* The first task of a loop of loop_start: keeps it alive until it is to stop. */
static void keep(void *arg)
{
	struct loop *l = arg;

	waiter_wake(l->started);
	waiter_wait(&l->stop);
}

static void *loop_thread(void *arg)
{
	struct loop *l = arg;

	l->start_ret = loop_open(l, &l->start_err);
	if (l->start_ret) {
		waiter_wake(l->started);
		return NULL;
	}
	struct task *t = spawn(l, keep, l);
	if (!t) {
		loop_close(l);
		l->start_ret =
			err_set(&l->start_err, ENOMEM, "no memory for a task's stack");
		waiter_wake(l->started);
		return NULL;
	}
	l->stop = (struct waiter){.task = t};
	queue_push(&l->ready, t);
	loop_main(l);
	loop_close(l);
	waiter_wake(l->ended);
	return NULL;
}

struct loop *loop_start(struct err *err)
{
	struct loop *l = aligned_alloc(_Alignof(struct loop), sizeof(*l));
	struct waiter started;

	if (!l) {
		err_set(err, ENOMEM, "no memory for a loop");
		return NULL;
	}
	*l = (struct loop){.started = &started};
	waiter_init(&started);
	int ret = thread_start(&l->thread, loop_thread, l);
	if (ret) {
		err_errno(err, -ret, "cannot start a thread");
		free(l);
		return NULL;
	}
	waiter_wait(&started);
	if (l->start_ret) {
		err_set(err, -l->start_ret, "%s", l->start_err.msg);
		pthread_join(l->thread, NULL);
		free(l);
		return NULL;
	}
	return l;
}

void loop_stop(struct loop *l)
{
	struct waiter ended;

	assert(l != self_loop);
	waiter_init(&ended);
	l->ended = &ended;
	waiter_wake(&l->stop);
	waiter_wait(&ended);
	pthread_join(l->thread, NULL); /* it has nothing left to do but end */
	free(l);
}
