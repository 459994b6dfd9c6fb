/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Threads of loops and workers: how they are made.
 *
 * A thread takes over from the one that makes it what that one has given up: a filter on its
 * system calls is for good, and for all that come after it. A loop may be started from
 * anywhere, also from a thread that was left with very little. So a program that confines
 * its threads has one of them make all others, and each gives up at its start what it does
 * not need (thread_set_maker).
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>

#include "base/loop_impl.h"

static __thread bool is_maker;

struct making {
	pthread_t *thread;
	void *(*fn)(void *arg);
	void *arg;
	int ret;
	bool done;
	struct making *next;
};

static struct {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct making *first;
	bool there; /* atomic */
	void (*entered)(void);
} maker = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, NULL, false, NULL};

static int make(pthread_t *thread, void *(*fn)(void *arg), void *arg)
{
	sigset_t block, old;
	int ret;

	sigfillset(&block);
	sigdelset(&block, SIGSEGV);
	sigdelset(&block, SIGBUS);
	sigdelset(&block, SIGFPE);
	sigdelset(&block, SIGILL);
	sigdelset(&block, SIGTRAP);
	sigdelset(&block, SIGPROF);
	sigdelset(&block, THREAD_CALL_SIGNAL);
	pthread_sigmask(SIG_SETMASK, &block, &old);
	ret = pthread_create(thread, NULL, fn, arg);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return -ret;
}

/* ---- the maker ------------------------------------------------------------------- */

static void *enter(void *arg)
{
	struct making *m = arg;
	void *(*fn)(void *) = m->fn;
	void *fn_arg = m->arg;

	pthread_mutex_lock(&maker.lock);
	m->done = true; /* *m is gone after this */
	pthread_cond_broadcast(&maker.changed);
	pthread_mutex_unlock(&maker.lock);
	maker.entered();
	return fn(fn_arg);
}

static void *maker_main(void *arg)
{
	(void)arg;
	is_maker = true;
	pthread_mutex_lock(&maker.lock);
	__atomic_store_n(&maker.there, true, __ATOMIC_RELEASE);
	pthread_cond_broadcast(&maker.changed);
	for (;;) {
		struct making *m = maker.first;

		if (!m) {
			pthread_cond_wait(&maker.changed, &maker.lock);
			continue;
		}
		maker.first = m->next;
		m->ret = make(m->thread, enter, m);
		if (m->ret) {
			m->done = true;
			pthread_cond_broadcast(&maker.changed);
		}
	}
	return NULL;
}

/* The new thread waits for the lock, so that *thread is written before it runs. */
static int have_made(pthread_t *thread, void *(*fn)(void *arg), void *arg)
{
	struct making m = {.thread = thread, .fn = fn, .arg = arg};

	pthread_mutex_lock(&maker.lock);
	m.next = maker.first;
	maker.first = &m;
	pthread_cond_broadcast(&maker.changed);
	while (!m.done)
		pthread_cond_wait(&maker.changed, &maker.lock);
	pthread_mutex_unlock(&maker.lock);
	return m.ret;
}

int thread_set_maker(void (*entered)(void), struct err *err)
{
	pthread_t thread;
	int ret;

	maker.entered = entered;
	ret = make(&thread, maker_main, NULL);
	if (ret)
		return err_errno(err, -ret, "cannot start a thread");
	pthread_detach(thread);
	pthread_mutex_lock(&maker.lock);
	while (!maker.there)
		pthread_cond_wait(&maker.changed, &maker.lock);
	pthread_mutex_unlock(&maker.lock);
	return 0;
}

bool thread_is_maker(void)
{
	return is_maker;
}

int thread_start(pthread_t *thread, void *(*fn)(void *arg), void *arg)
{
	if (__atomic_load_n(&maker.there, __ATOMIC_ACQUIRE))
		return have_made(thread, fn, arg);
	return make(thread, fn, arg);
}
