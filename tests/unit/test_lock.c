/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Locks, conditions and groups: their rules one by one, then under load from tasks of
 * several loops and plain threads at once, with plain variables under the locks so that
 * ThreadSanitizer sees what a lock forgets to order.
 */
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/math.h"
#include "base/task.h"
#include "tests/unit/support_engine.h"

#define LOOPS        4
#define TASKS_A_LOOP 8
#define THREADS      3
#define CONTENDERS   (LOOPS * TASKS_A_LOOP + THREADS)

struct contender {
	pthread_t thread;
	int (*fn)(void *arg);
	void *arg;
	int ret;
};

static void *contender_main(void *arg)
{
	struct contender *c = arg;

	c->ret = c->fn(c->arg);
	return NULL;
}

/* Runs fn(arg) in CONTENDERS places at once: tasks of LOOPS loops, and plain threads. */
static void contend(int (*fn)(void *arg), void *arg)
{
	struct loop *loops[LOOPS];
	struct contender threads[THREADS];
	struct task_group g;

	task_group_init(&g);
	for (int i = 0; i < LOOPS; i++) {
		loops[i] = loop_start(NULL);
		assert_non_null(loops[i]);
		for (int k = 0; k < TASKS_A_LOOP; k++)
			assert_int_equal(task_group_spawn(&g, loops[i], fn, arg), 0);
	}
	for (int i = 0; i < THREADS; i++) {
		threads[i] = (struct contender){.fn = fn, .arg = arg};
		assert_int_equal(pthread_create(&threads[i].thread, NULL, contender_main,
					 &threads[i]),
			0);
	}
	for (int i = 0; i < THREADS; i++) {
		pthread_join(threads[i].thread, NULL);
		assert_int_equal(threads[i].ret, 0);
	}
	assert_int_equal(task_group_wait(&g), 0);
	for (int i = 0; i < LOOPS; i++)
		loop_stop(loops[i]);
}

static char log_text[64];

static void note(char c)
{
	size_t n = strlen(log_text);

	assert_true(n + 1 < sizeof(log_text));
	log_text[n] = c;
	log_text[n + 1] = 0;
}

static int note_arg(void *arg)
{
	note(*(const char *)arg);
	return 0;
}

/* ---- mutex ----------------------------------------------------------------------- */

static struct task_mutex mutex;

static int lock_and_note(void *arg)
{
	task_lock(&mutex);
	assert_true(task_mutex_held(&mutex));
	task_yield();
	note(*(const char *)arg);
	task_unlock(&mutex);
	assert_false(task_mutex_held(&mutex));
	return 0;
}

static int queue_for_mutex(void *arg)
{
	struct task_group g;

	(void)arg;
	task_group_init(&g);
	task_lock(&mutex);
	for (const char *s = "abcdef"; *s; s++)
		task_group_spawn(&g, NULL, lock_and_note, (void *)s);
	task_yield(); /* now they all wait */
	note('0');
	task_unlock(&mutex);
	/* They were first: a barger must wait for all of them. */
	lock_and_note("1");
	return task_group_wait(&g);
}

static void mutex_is_handed_over_first_come_first_served(void **state)
{
	(void)state;
	log_text[0] = 0;
	run_in_loop(queue_for_mutex, NULL);
	assert_string_equal(log_text, "0abcdef1");
}

static int try_held_mutex(void *arg)
{
	(void)arg;
	assert_false(task_trylock(&mutex));
	assert_false(task_mutex_held(&mutex));
	return 0;
}

static int trylock_both_ways(void *arg)
{
	struct contender other = {.fn = try_held_mutex};

	(void)arg;
	assert_true(task_trylock(&mutex));
	assert_true(task_mutex_held(&mutex));
	assert_int_equal(pthread_create(&other.thread, NULL, contender_main, &other), 0);
	pthread_join(other.thread, NULL);
	assert_int_equal(other.ret, 0);
	task_unlock(&mutex);
	assert_true(task_trylock(&mutex));
	task_unlock(&mutex);
	return 0;
}

static void trylock_takes_a_free_mutex_and_leaves_a_held_one(void **state)
{
	(void)state;
	run_in_loop(trylock_both_ways, NULL);         /* a task against a thread */
	assert_int_equal(trylock_both_ways(NULL), 0); /* two threads */
}

static int unlock_it(void *arg)
{
	(void)arg;
	task_unlock(&mutex);
	return 0;
}

static int unlock_of_anothers(void *arg)
{
	struct task_group g;

	(void)arg;
	task_group_init(&g);
	task_lock(&mutex);
	task_group_spawn(&g, NULL, unlock_it, NULL);
	return task_group_wait(&g);
}

static void unlock_by_another_than_the_owner_aborts(void **state)
{
	int status;
	pid_t pid = fork();

	(void)state;
	assert_true(pid >= 0);
	if (!pid) {
		struct rlimit none = {0, 0};
		setrlimit(RLIMIT_CORE, &none);
		signal(SIGABRT, SIG_DFL);
		fclose(stderr);
		loop_run(unlock_of_anothers, NULL, NULL);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

static struct {
	struct task_mutex lock;
	unsigned inside, count;
} counter;

static int count_under_mutex(void *arg)
{
	unsigned rounds = *(unsigned *)arg;

	for (unsigned i = 0; i < rounds; i++) {
		task_lock(&counter.lock);
		assert_int_equal(counter.inside++, 0);
		counter.count++;
		if (i % 8 == 0)
			task_yield();
		if (i % 64 == 0)
			task_sleep_ns(1000);
		assert_int_equal(--counter.inside, 0);
		task_unlock(&counter.lock);
		if (i % 4 == 0)
			task_yield();
	}
	return 0;
}

static void mutex_excludes_across_loops_and_threads(void **state)
{
	unsigned rounds = 200;

	(void)state;
	memset(&counter, 0, sizeof(counter));
	contend(count_under_mutex, &rounds);
	assert_int_equal(counter.count, CONTENDERS * rounds);
	assert_false(counter.lock.locked);
}

/* ---- readers and writers --------------------------------------------------------- */

static struct task_rwlock rwlock;

static int read_and_note(void *arg)
{
	const char *s = arg;

	task_rdlock(&rwlock);
	note(s[0]);
	task_yield();
	note(s[1]);
	task_rdunlock(&rwlock);
	return 0;
}

static int write_and_note(void *arg)
{
	const char *s = arg;

	task_wrlock(&rwlock);
	note(s[0]);
	task_yield();
	note(s[1]);
	task_wrunlock(&rwlock);
	return 0;
}

static int readers_then_writers(void *arg)
{
	struct task_group g;

	(void)arg;
	task_group_init(&g);
	task_group_spawn(&g, NULL, read_and_note, "aA");
	task_group_spawn(&g, NULL, read_and_note, "bB");
	task_group_spawn(&g, NULL, write_and_note, "xX");
	task_group_spawn(&g, NULL, read_and_note, "cC"); /* held back by the writer */
	task_group_spawn(&g, NULL, read_and_note, "dD");
	task_group_spawn(&g, NULL, write_and_note, "yY");
	return task_group_wait(&g);
}

static void readers_share_and_a_waiting_writer_holds_back_later_ones(void **state)
{
	(void)state;
	log_text[0] = 0;
	run_in_loop(readers_then_writers, NULL);
	assert_string_equal(log_text, "abABxXcdCDyY");
}

static struct {
	struct task_rwlock lock;
	unsigned a, b;    /* equal outside a writer */
	unsigned readers; /* atomic */
} pair;

static int read_or_write_pair(void *arg)
{
	unsigned rounds = *(unsigned *)arg;

	for (unsigned i = 0; i < rounds; i++) {
		if (i % 5 == 0) {
			task_wrlock(&pair.lock);
			assert_int_equal(
				__atomic_load_n(&pair.readers, __ATOMIC_RELAXED), 0);
			pair.a++;
			task_yield();
			pair.b++;
			task_wrunlock(&pair.lock);
			continue;
		}
		task_rdlock(&pair.lock);
		__atomic_add_fetch(&pair.readers, 1, __ATOMIC_RELAXED);
		assert_int_equal(pair.a, pair.b);
		task_yield();
		assert_int_equal(pair.a, pair.b);
		__atomic_sub_fetch(&pair.readers, 1, __ATOMIC_RELAXED);
		task_rdunlock(&pair.lock);
	}
	return 0;
}

static void rwlock_excludes_writers_across_loops_and_threads(void **state)
{
	unsigned rounds = 200;

	(void)state;
	memset(&pair, 0, sizeof(pair));
	contend(read_or_write_pair, &rounds);
	assert_int_equal(pair.a, CONTENDERS * rounds / 5);
}

/* ---- conditions ------------------------------------------------------------------ */

static struct task_cond cond;
static bool open_gate;

static int wait_at_gate(void *arg)
{
	task_lock(&mutex);
	while (!open_gate)
		task_cond_wait(&cond, &mutex);
	note(*(const char *)arg);
	task_unlock(&mutex);
	return 0;
}

static int signal_one_by_one(void *arg)
{
	struct task_group g;

	(void)arg;
	task_group_init(&g);
	task_cond_signal(&cond); /* nobody waits: nothing is remembered */
	open_gate = false;
	for (const char *s = "abcd"; *s; s++)
		task_group_spawn(&g, NULL, wait_at_gate, (void *)s);
	task_yield();
	task_lock(&mutex);
	open_gate = true;
	task_cond_signal(&cond);
	task_unlock(&mutex);
	task_sleep_ns(1000000);
	note('|');
	task_lock(&mutex);
	task_cond_broadcast(&cond);
	task_unlock(&mutex);
	return task_group_wait(&g);
}

static void signal_wakes_one_and_broadcast_all(void **state)
{
	(void)state;
	log_text[0] = 0;
	run_in_loop(signal_one_by_one, NULL);
	assert_string_equal(log_text, "a|bcd");
}

/* A bounded queue: every item put must be taken once. */
static struct {
	struct task_mutex lock;
	struct task_cond not_full, not_empty;
	unsigned items[4];
	unsigned len, next_role;
	uint64_t sum_put, sum_taken;
} pipe_;

static void put(unsigned item)
{
	task_lock(&pipe_.lock);
	while (pipe_.len == ARRAY_LEN(pipe_.items))
		task_cond_wait(&pipe_.not_full, &pipe_.lock);
	pipe_.items[pipe_.len++] = item;
	pipe_.sum_put += item;
	task_cond_signal(&pipe_.not_empty);
	task_unlock(&pipe_.lock);
}

static void take(void)
{
	task_lock(&pipe_.lock);
	while (!pipe_.len)
		task_cond_wait(&pipe_.not_empty, &pipe_.lock);
	pipe_.sum_taken += pipe_.items[--pipe_.len];
	task_cond_signal(&pipe_.not_full);
	task_unlock(&pipe_.lock);
}

static int put_or_take(void *arg)
{
	unsigned rounds = *(unsigned *)arg;
	unsigned role = __atomic_fetch_add(&pipe_.next_role, 1, __ATOMIC_RELAXED);

	/* An even number takes part: half put, half take. The odd one out does both. */
	for (unsigned i = 0; i < rounds; i++) {
		bool both = role == CONTENDERS - 1 && CONTENDERS % 2;
		if (both || role % 2)
			put(role * 1000 + i);
		if (both || role % 2 == 0)
			take();
	}
	return 0;
}

static void no_signal_is_lost_between_loops_and_threads(void **state)
{
	unsigned rounds = 150;

	(void)state;
	memset(&pipe_, 0, sizeof(pipe_));
	contend(put_or_take, &rounds);
	assert_int_equal(pipe_.len, 0);
	assert_true(pipe_.sum_put == pipe_.sum_taken && pipe_.sum_put > 0);
}

/* ---- groups ---------------------------------------------------------------------- */

static int return_arg(void *arg)
{
	task_yield();
	return (int)(intptr_t)arg;
}

static int first_error_wins(void *arg)
{
	struct task_group g;

	(void)arg;
	task_group_init(&g);
	assert_int_equal(task_group_wait(&g), 0); /* none runs */
	task_group_spawn(&g, NULL, return_arg, NULL);
	task_group_spawn(&g, NULL, return_arg, (void *)(intptr_t)-EIO);
	task_group_spawn(&g, NULL, return_arg, (void *)(intptr_t)-ENOSPC);
	assert_int_equal(task_group_wait(&g), -EIO);
	task_group_spawn(&g, NULL, return_arg, NULL);
	assert_int_equal(task_group_wait(&g), 0); /* and the error is forgotten */
	return 0;
}

static void group_keeps_the_first_error_and_can_be_used_again(void **state)
{
	(void)state;
	run_in_loop(first_error_wins, NULL);
}

static void group_outside_a_loop_runs_its_members_at_once(void **state)
{
	struct task_group g;

	(void)state;
	log_text[0] = 0;
	task_group_init(&g);
	assert_int_equal(task_group_spawn(&g, NULL, note_arg, "x"), 0);
	assert_string_equal(log_text, "x");
	assert_int_equal(
		task_group_spawn(&g, NULL, return_arg, (void *)(intptr_t)-EIO), 0);
	assert_int_equal(task_group_wait(&g), -EIO);
}

struct spread {
	struct loop *loops[LOOPS];
	unsigned ran;
};

static int add_one(void *arg)
{
	__atomic_fetch_add((unsigned *)arg, 1, __ATOMIC_RELAXED);
	return 0;
}

/* The group and the counter are freed as soon as the wait returns: the last member must
 * not touch them after it has let the waiter go. */
static int spread_and_free(void *arg)
{
	struct spread *s = arg;

	for (int i = 0; i < 100; i++) {
		struct task_group *g = malloc(sizeof(*g));
		unsigned *n = calloc(1, sizeof(*n));
		assert_true(g && n);
		task_group_init(g);
		for (int k = 0; k < LOOPS; k++)
			assert_int_equal(task_group_spawn(g, s->loops[k], add_one, n), 0);
		assert_int_equal(task_group_wait(g), 0);
		assert_int_equal(*n, LOOPS);
		free(n);
		free(g);
	}
	return 0;
}

static void group_may_be_freed_when_the_wait_returns(void **state)
{
	struct spread s;

	(void)state;
	for (int i = 0; i < LOOPS; i++) {
		s.loops[i] = loop_start(NULL);
		assert_non_null(s.loops[i]);
	}
	run_in_loop(spread_and_free, &s);         /* the waiter is a task */
	assert_int_equal(spread_and_free(&s), 0); /* a thread */
	for (int i = 0; i < LOOPS; i++)
		loop_stop(s.loops[i]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(unlock_by_another_than_the_owner_aborts),
		cmocka_unit_test(mutex_is_handed_over_first_come_first_served),
		cmocka_unit_test(trylock_takes_a_free_mutex_and_leaves_a_held_one),
		cmocka_unit_test(mutex_excludes_across_loops_and_threads),
		cmocka_unit_test(
			readers_share_and_a_waiting_writer_holds_back_later_ones),
		cmocka_unit_test(rwlock_excludes_writers_across_loops_and_threads),
		cmocka_unit_test(signal_wakes_one_and_broadcast_all),
		cmocka_unit_test(no_signal_is_lost_between_loops_and_threads),
		cmocka_unit_test(group_keeps_the_first_error_and_can_be_used_again),
		cmocka_unit_test(group_outside_a_loop_runs_its_members_at_once),
		cmocka_unit_test(group_may_be_freed_when_the_wait_returns),
	};

	return run_on_engines("lock", tests, ARRAY_LEN(tests));
}
