/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The worker pool: two queues of jobs, each with threads of its own, so that a system
 * call that hangs never keeps a processor from compressing.
 *
 * A job lives in the frame of the function that waits for it. Threads are started when a
 * job finds none idle, and end when they were idle for IDLE_NS. At exit idle ones are
 * joined; one that still runs a job (exit was called from under it) is left to the
 * kernel.
 */
#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <time.h>

#include "base/aio.h"
#include "base/loop_impl.h"

#define BLOCKING_THREADS 64
#define IDLE_NS          5000000000u

struct job {
	long (*fn)(void *arg);
	void *arg;
	long ret;
	struct waiter done;
	struct job *next;
};

struct worker {
	pthread_t thread;
	struct pool *pool;
	bool busy;
	struct worker *next, *prev;
};

struct pool {
	pthread_mutex_t lock;
	pthread_cond_t more;
	struct job *head, *tail;
	struct worker *workers;
	unsigned threads, max_threads;
	unsigned busy;   /* of threads, those in a job */
	unsigned queued; /* jobs nobody has taken */
	bool quit;
	struct worker
		*left; /* at exit: those in a job, so that they are known to be in use */
};

static struct pool pools[2];

static unsigned count_cpus(void)
{
	size_t bytes = CPU_ALLOC_SIZE(CPU_SETSIZE);

	/* The kernel refuses a mask smaller than its own. */
	for (; bytes <= 64 * CPU_ALLOC_SIZE(CPU_SETSIZE); bytes *= 2) {
		cpu_set_t *set = malloc(bytes);
		if (!set)
			break;
		int ret = sched_getaffinity(0, bytes, set);
		int n = ret ? 0 : CPU_COUNT_S(bytes, set);
		free(set);
		if (n > 0)
			return (unsigned)n;
	}
	return 1;
}

static void pool_init(struct pool *p, unsigned max_threads)
{
	pthread_condattr_t attr;

	pthread_mutex_init(&p->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&p->more, &attr);
	pthread_condattr_destroy(&attr);
	p->max_threads = max_threads;
}

static void pools_init(void)
{
	pool_init(&pools[WORKER_CPU], count_cpus());
	pool_init(&pools[WORKER_BLOCKING], BLOCKING_THREADS);
}

static pthread_once_t pools_once = PTHREAD_ONCE_INIT;

static struct pool *pool_get(enum worker_kind kind)
{
	pthread_once(&pools_once, pools_init);
	return &pools[kind];
}

unsigned worker_cpu_count(void)
{
	return pool_get(WORKER_CPU)->max_threads;
}

/* Under the lock. False when it was idle for long enough. */
static bool wait_for_job(struct pool *p)
{
	uint64_t deadline = clock_ns() + IDLE_NS;
	struct timespec ts = {
		(time_t)(deadline / 1000000000u), (long)(deadline % 1000000000u)};
	int ret = 0;

	while (!p->head && !p->quit && ret != ETIMEDOUT)
		ret = pthread_cond_timedwait(&p->more, &p->lock, &ts);
	return p->head && !p->quit;
}

static void run_jobs(struct worker *w)
{
	struct pool *p = w->pool;

	while (p->head || wait_for_job(p)) {
		struct job *j = p->head;
		p->head = j->next;
		p->queued--;
		p->busy++;
		w->busy = true;
		pthread_mutex_unlock(&p->lock);
		j->ret = j->fn(j->arg);
		waiter_wake(&j->done); /* *j is gone after this */
		pthread_mutex_lock(&p->lock);
		w->busy = false;
		p->busy--;
	}
}

static void worker_unlink(struct worker *w)
{
	if (w->prev)
		w->prev->next = w->next;
	else
		w->pool->workers = w->next;
	if (w->next)
		w->next->prev = w->prev;
	w->pool->threads--;
}

static void *worker_main(void *arg)
{
	struct worker *w = arg;
	struct pool *p = w->pool;

	pthread_mutex_lock(&p->lock);
	run_jobs(w);
	bool joined = p->quit;
	if (!joined) {
		pthread_detach(w->thread);
		worker_unlink(w);
	}
	pthread_mutex_unlock(&p->lock);
	if (!joined)
		free(w);
	return NULL;
}

/* Under the lock. */
static bool worker_start(struct pool *p)
{
	struct worker *w = calloc(1, sizeof(*w));

	if (!w)
		return false;
	w->pool = p;
	if (thread_start(&w->thread, worker_main, w)) {
		free(w);
		return false;
	}
	w->next = p->workers;
	if (w->next)
		w->next->prev = w;
	p->workers = w;
	p->threads++;
	return true;
}

/* False where there is no thread and none can be started. */
static bool job_submit(struct pool *p, struct job *j)
{
	pthread_mutex_lock(&p->lock);
	if (p->queued >= p->threads - p->busy && p->threads < p->max_threads)
		worker_start(p);
	bool ok = p->threads > 0;
	if (ok) {
		if (p->head)
			p->tail->next = j;
		else
			p->head = j;
		p->tail = j;
		p->queued++;
		pthread_cond_signal(&p->more);
	}
	pthread_mutex_unlock(&p->lock);
	return ok;
}

long worker_call(enum worker_kind kind, long (*fn)(void *arg), void *arg)
{
	struct job j = {.fn = fn, .arg = arg};

	if (!task_self())
		return fn(arg);
	waiter_init(&j.done);
	if (!job_submit(pool_get(kind), &j))
		return fn(arg);
	waiter_wait(&j.done);
	return j.ret;
}

static void pool_quit(struct pool *p)
{
	pthread_mutex_lock(&p->lock);
	p->quit = true;
	struct worker *w = p->workers;
	p->workers = NULL;
	pthread_cond_broadcast(&p->more);
	while (w) {
		struct worker *next = w->next;
		bool busy = w->busy;
		pthread_mutex_unlock(&p->lock);
		if (busy) {
			pthread_detach(w->thread);
			w->next = p->left;
			p->left = w;
		} else {
			pthread_join(w->thread, NULL);
			free(w);
		}
		pthread_mutex_lock(&p->lock);
		w = next;
	}
	pthread_mutex_unlock(&p->lock);
}

__attribute__((destructor)) static void workers_quit(void)
{
	pool_quit(pool_get(WORKER_CPU));
	pool_quit(pool_get(WORKER_BLOCKING));
}
