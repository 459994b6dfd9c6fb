/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Waits and locks, between any mix of tasks, loops and plain threads.
 *
 * A lock is a few words under a spin word that is held for a handful of instructions,
 * never across a switch or a system call; whoever must wait queues a waiter of its own
 * frame. Fairness is by handing over: who releases gives the lock to the head of the
 * queue, so it is never free while somebody waits, and nobody overtakes. Wake-ups come
 * after the spin word is released, and by then the lock may be gone: the one woken may
 * free it.
 *
 * The spin word costs one atomic exchange to take and a plain store to release, as much
 * as a compare-and-swap on a lock word without one would. A thread that is preempted
 * while it holds one is given the processor by those who spin (sched_yield).
 *
 * waiter.state: WAITER_PARKED is set by the waiter before it sleeps, WAITER_WOKEN by the
 * waker; whoever comes second knows what is left to do. WAITER_WRITER tells a rwlock what
 * the waiter is after, and is set before the waiter is queued.
 */
#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <sched.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/loop_impl.h"

#define WAITER_PARKED 1u
#define WAITER_WOKEN  2u
#define WAITER_WRITER (1u << 31)

void waiter_init(struct waiter *w)
{
	*w = (struct waiter){.task = task_self()};
}

static void futex_wait(uint32_t *word, uint32_t value)
{
	syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

void waiter_wait(struct waiter *w)
{
	assert(w->task == task_self());

	uint32_t s = __atomic_fetch_or(&w->state, WAITER_PARKED, __ATOMIC_ACQ_REL);
	assert(!(s & WAITER_PARKED));
	if (s & WAITER_WOKEN)
		return;
	if (w->task) {
		task_park();
		s = __atomic_load_n(&w->state, __ATOMIC_ACQUIRE);
		assert(s & WAITER_WOKEN);
		return;
	}
	s |= WAITER_PARKED;
	while (!(s & WAITER_WOKEN)) {
		futex_wait(&w->state, s);
		s = __atomic_load_n(&w->state, __ATOMIC_ACQUIRE);
	}
}

void waiter_wake(struct waiter *w)
{
	struct task *t = w->task;

	/* From here on *w is gone, unless a task has parked: that one stays until it is
	 * made ready. */
	uint32_t s = __atomic_fetch_or(&w->state, WAITER_WOKEN, __ATOMIC_ACQ_REL);
	assert(!(s & WAITER_WOKEN));
	if (!(s & WAITER_PARKED))
		return;
	if (t)
		task_ready(t);
	else /* Only the address is used; at worst a stranger is woken and looks again. */
		syscall(SYS_futex, &w->state, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

static void spin_lock(uint32_t *spin)
{
	unsigned tries = 0;

	while (__atomic_exchange_n(spin, 1, __ATOMIC_ACQUIRE)) {
		while (__atomic_load_n(spin, __ATOMIC_RELAXED)) {
			if (++tries % 64 == 0)
				sched_yield();
		}
	}
}

static void spin_unlock(uint32_t *spin)
{
	__atomic_store_n(spin, 0, __ATOMIC_RELEASE);
}

static void waiters_push(struct waiter **head, struct waiter **tail, struct waiter *w)
{
	w->next = NULL;
	if (*head)
		(*tail)->next = w;
	else
		*head = w;
	*tail = w;
}

static struct waiter *waiters_pop(struct waiter **head)
{
	struct waiter *w = *head;

	if (w)
		*head = w->next;
	return w;
}

/* Wakes a whole list; a waiter's link must be read before it is woken. */
static void waiters_wake(struct waiter *w)
{
	while (w) {
		struct waiter *next = w->next;
		waiter_wake(w);
		w = next;
	}
}

/* Who a mutex's owner is: the task, or a token of the thread. Only ever compared. */
static struct task *self_token(void)
{
	static __thread char thread_token;
	struct task *t = task_self();

	return t ? t : (struct task *)(void *)&thread_token;
}

static void set_owner(struct task_mutex *m, struct task *owner)
{
	__atomic_store_n(&m->owner, owner, __ATOMIC_RELAXED);
}

bool task_mutex_held(const struct task_mutex *m)
{
	return __atomic_load_n(&m->owner, __ATOMIC_RELAXED) == self_token();
}

void task_lock(struct task_mutex *m)
{
	struct waiter w;

	assert(!task_mutex_held(m));
	spin_lock(&m->spin);
	if (!m->locked) {
		m->locked = true;
		spin_unlock(&m->spin);
	} else {
		waiter_init(&w);
		waiters_push(&m->head, &m->tail, &w);
		spin_unlock(&m->spin);
		waiter_wait(&w); /* task_unlock left it locked, for us */
	}
	set_owner(m, self_token());
}

bool task_trylock(struct task_mutex *m)
{
	spin_lock(&m->spin);
	bool taken = !m->locked;
	m->locked = true;
	spin_unlock(&m->spin);
	if (taken)
		set_owner(m, self_token());
	return taken;
}

void task_unlock(struct task_mutex *m)
{
	assert(task_mutex_held(m));
	set_owner(m, NULL);
	spin_lock(&m->spin);
	struct waiter *w = waiters_pop(&m->head);
	if (!w)
		m->locked = false;
	spin_unlock(&m->spin);
	if (w)
		waiter_wake(w);
}

/*
 * struct task_rwlock. While readers > 0 the head of the queue, if there is one, is a
 * writer; while a writer holds it, anything may be queued; free means nobody is queued.
 */

static void rw_enqueue(struct task_rwlock *l, struct waiter *w, uint32_t kind)
{
	waiter_init(w);
	w->state = kind;
	waiters_push(&l->head, &l->tail, w);
}

static bool is_writer(const struct waiter *w)
{
	return __atomic_load_n(&w->state, __ATOMIC_RELAXED) & WAITER_WRITER;
}

/* The lock has just become free: gives it to the writer, or to all the readers, at the
 * head of the queue, and returns them as a list to be woken. */
static struct waiter *rw_grant(struct task_rwlock *l)
{
	struct waiter *first = l->head, *last = NULL;

	if (!first)
		return NULL;
	if (is_writer(first)) {
		l->writer = true;
		last = first;
	} else {
		for (struct waiter *w = first; w && !is_writer(w); w = w->next) {
			l->readers++;
			last = w;
		}
	}
	l->head = last->next;
	last->next = NULL;
	return first;
}

void task_rdlock(struct task_rwlock *l)
{
	struct waiter w;

	spin_lock(&l->spin);
	if (!l->writer && !l->head) {
		l->readers++;
		spin_unlock(&l->spin);
		return;
	}
	rw_enqueue(l, &w, 0);
	spin_unlock(&l->spin);
	waiter_wait(&w);
}

void task_rdunlock(struct task_rwlock *l)
{
	struct waiter *woken = NULL;

	spin_lock(&l->spin);
	assert(l->readers && !l->writer);
	if (!--l->readers)
		woken = rw_grant(l);
	spin_unlock(&l->spin);
	waiters_wake(woken);
}

void task_wrlock(struct task_rwlock *l)
{
	struct waiter w;

	spin_lock(&l->spin);
	if (!l->writer && !l->readers) {
		assert(!l->head);
		l->writer = true;
		spin_unlock(&l->spin);
		return;
	}
	rw_enqueue(l, &w, WAITER_WRITER);
	spin_unlock(&l->spin);
	waiter_wait(&w);
}

void task_wrunlock(struct task_rwlock *l)
{
	spin_lock(&l->spin);
	assert(l->writer && !l->readers);
	l->writer = false;
	struct waiter *woken = rw_grant(l);
	spin_unlock(&l->spin);
	waiters_wake(woken);
}

void task_cond_wait(struct task_cond *c, struct task_mutex *m)
{
	struct waiter w;

	assert(task_mutex_held(m));
	waiter_init(&w);
	waiters_push(&c->head, &c->tail, &w);
	task_unlock(m);
	waiter_wait(&w);
	task_lock(m);
}

void task_cond_signal(struct task_cond *c)
{
	struct waiter *w = waiters_pop(&c->head);

	if (w)
		waiter_wake(w);
}

void task_cond_broadcast(struct task_cond *c)
{
	struct waiter *all = c->head;

	c->head = NULL;
	waiters_wake(all);
}

/* Groups. The last member to end touches the group for the last time when it releases the
 * mutex; only then can task_group_wait return and the group go away. */

struct member {
	struct task_group *group;
	int (*fn)(void *arg);
	void *arg;
};
_Static_assert(
	sizeof(struct member) <= TASK_PAYLOAD_BYTES, "a member is a task's payload");

void task_group_init(struct task_group *g)
{
	memset(g, 0, sizeof(*g));
}

static void group_begin(struct task_group *g)
{
	task_lock(&g->lock);
	g->running++;
	task_unlock(&g->lock);
}

static void group_end(struct task_group *g, int ret)
{
	task_lock(&g->lock);
	if (!g->ret)
		g->ret = ret;
	if (!--g->running)
		task_cond_broadcast(&g->idle);
	task_unlock(&g->lock);
}

static void run_member(void *arg)
{
	const struct member *m = arg;

	group_end(m->group, m->fn(m->arg));
}

int task_group_spawn(
	struct task_group *g, struct loop *loop, int (*fn)(void *arg), void *arg)
{
	struct member m = {g, fn, arg};

	group_begin(g);
	if (!loop && !loop_self()) {
		group_end(g, fn(arg));
		return 0;
	}
	int ret = task_spawn_with(loop, run_member, &m, sizeof(m));
	if (ret)
		group_end(g, 0);
	return ret;
}

int task_group_wait(struct task_group *g)
{
	task_lock(&g->lock);
	while (g->running)
		task_cond_wait(&g->idle, &g->lock);
	int ret = g->ret;
	g->ret = 0;
	task_unlock(&g->lock);
	return ret;
}
