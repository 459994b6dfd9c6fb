/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Tasks and loops: scheduling, waits across threads, timers, stacks. Every test runs on
 * both engines.
 */
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/loop_impl.h"
#include "base/math.h"
#include "base/task.h"
#include "tests/unit/support_engine.h"

/* A log of what ran, in order. */
static char log_text[256];

static void note(char c)
{
	size_t n = strlen(log_text);

	assert_true(n + 1 < sizeof(log_text));
	log_text[n] = c;
	log_text[n + 1] = 0;
}

static int return_seven(void *arg)
{
	assert_ptr_equal(arg, log_text);
	assert_non_null(task_self());
	assert_non_null(loop_self());
	assert_string_equal(loop_engine_name(loop_self()), engine_in_use);
	return 7;
}

static void result_of_the_first_task_is_the_loops(void **state)
{
	(void)state;
	assert_int_equal(loop_run(return_seven, log_text, NULL), 7);
	assert_null(loop_self());
}

static void unknown_engine_is_refused(void **state)
{
	struct err err = ERR_INIT;

	(void)state;
	assert_int_equal(loop_set_engine("kqueue", &err), -EINVAL);
	assert_non_null(strstr(err.msg, "kqueue"));
}

static void note_and_yield(void *arg)
{
	for (int i = 0; i < 3; i++) {
		note(*(char *)arg);
		task_yield();
	}
}

static int spawn_two(void *arg)
{
	(void)arg;
	assert_int_equal(task_spawn(NULL, note_and_yield, "a"), 0);
	assert_int_equal(task_spawn(NULL, note_and_yield, "b"), 0);
	note('m');
	return 0;
}

static void spawned_tasks_take_turns_and_outlive_the_first(void **state)
{
	(void)state;
	log_text[0] = 0;
	run_in_loop(spawn_two, NULL);
	assert_string_equal(log_text, "mababab");
}

/* Timers whose deadlines have passed, so that only the heap decides on the order. */
#define TIMERS 500

struct numbered {
	struct timer timer;
	unsigned number;
};

static unsigned fired;
static const struct numbered *last_fired;

static void check_order(struct timer *t)
{
	const struct numbered *n = (struct numbered *)t;

	if (last_fired) {
		uint64_t a = last_fired->timer.deadline_ns, b = n->timer.deadline_ns;
		assert_true(a < b || (a == b && last_fired->number < n->number));
	}
	last_fired = n;
	fired++;
}

static void timers_fire_in_order_of_deadline_then_of_setting(void **state)
{
	struct numbered *n = calloc(TIMERS, sizeof(*n));
	struct timer_heap heap = {.root = NULL};
	uint32_t seed = 7;

	(void)state;
	last_fired = NULL;
	fired = 0;
	for (unsigned i = 0; i < TIMERS; i++) {
		seed = seed * 1664525 + 1013904223;
		n[i].number = i;
		timer_add(&heap, &n[i].timer, (seed >> 8) % 100, check_order);
		if (i % 3 == 0) /* from inside the heap, at its top, at its leaves */
			timer_remove(&heap, &n[i / 3 * 2].timer);
		if (i % 3 == 0)
			timer_add(&heap, &n[i / 3 * 2].timer, UINT64_MAX, check_order);
	}
	unsigned far = 0;
	for (unsigned i = 0; i < TIMERS; i++)
		far += n[i].timer.deadline_ns == UINT64_MAX;
	assert_true(far > 0 && far < TIMERS);
	timer_expire(&heap);
	assert_int_equal(fired, TIMERS - far);
	for (unsigned i = 0; i < TIMERS; i++) {
		if (n[i].timer.deadline_ns == UINT64_MAX)
			timer_remove(&heap, &n[i].timer);
	}
	assert_null(heap.root);
	free(n);
}

static void sleep_and_note(void *arg)
{
	const char *s = arg;

	task_sleep_ns((uint64_t)(s[0] - '0') * 3000000);
	note(s[1]);
}

static unsigned many_done;

static void sleep_random(void *arg)
{
	uint64_t ns = (uintptr_t)arg, deadline = monotonic_ns() + ns;

	task_sleep_ns(ns);
	assert_true(monotonic_ns() >= deadline);
	many_done++;
}

static int spawn_many_sleepers(void *arg)
{
	uint32_t seed = 1;

	(void)arg;
	for (int i = 0; i < 100; i++) {
		seed = seed * 1664525 + 1013904223;
		assert_int_equal(task_spawn(NULL, sleep_random,
					 (void *)(uintptr_t)((seed >> 8) % 20000000)),
			0);
	}
	return 0;
}

static void no_sleeper_wakes_early(void **state)
{
	(void)state;
	many_done = 0;
	run_in_loop(spawn_many_sleepers, NULL);
	assert_int_equal(many_done, 100);
}

static int yield_while_timer(void *arg)
{
	(void)arg;
	/* The timer must fire although this task is ready all the time. */
	assert_int_equal(task_spawn(NULL, sleep_and_note, "1t"), 0);
	while (!log_text[0])
		task_yield();
	return 0;
}

static void busy_yielding_does_not_starve_timers(void **state)
{
	(void)state;
	log_text[0] = 0;
	run_in_loop(yield_while_timer, NULL);
	assert_string_equal(log_text, "t");
}

static int wake_first(void *arg)
{
	struct waiter w;

	(void)arg;
	waiter_init(&w);
	waiter_wake(&w);
	waiter_wait(&w);
	return 0;
}

static void wake_before_wait_is_kept(void **state)
{
	(void)state;
	assert_int_equal(wake_first(NULL), 0); /* a plain thread */
	run_in_loop(wake_first, NULL);
}

static void wake_arg(void *arg)
{
	waiter_wake(arg);
}

static int wait_for_other_task(void *arg)
{
	struct waiter w;

	(void)arg;
	waiter_init(&w);
	assert_int_equal(task_spawn(NULL, wake_arg, &w), 0);
	waiter_wait(&w);
	return 0;
}

static void task_waits_for_another(void **state)
{
	(void)state;
	run_in_loop(wait_for_other_task, NULL);
}

/* Two sides hand a token to and fro; the plain value in it is protected by nothing else.
 */
struct token {
	struct waiter *other; /* atomic: the side that waits */
	struct waiter ended;
	unsigned value, rounds;
};

static void hand_over(struct token *t, struct waiter *mine)
{
	struct waiter *other = __atomic_exchange_n(&t->other, mine, __ATOMIC_ACQ_REL);

	if (other)
		waiter_wake(other);
}

static void play(struct token *t)
{
	for (unsigned i = 0; i < t->rounds; i++) {
		struct waiter w;
		waiter_init(&w);
		t->value++;
		hand_over(t, &w);
		waiter_wait(&w);
	}
	hand_over(t, NULL);
}

static void play_task(void *arg)
{
	struct token *t = arg;

	/* The second to come: waits until the first has handed over. */
	while (!__atomic_load_n(&t->other, __ATOMIC_ACQUIRE))
		task_yield();
	play(t);
	waiter_wake(&t->ended);
}

static int play_with_loop(void *arg)
{
	struct loop *l = loop_start(NULL);
	struct token t = {.rounds = *(unsigned *)arg};

	assert_non_null(l);
	waiter_init(&t.ended);
	assert_int_equal(task_spawn(l, play_task, &t), 0);
	play(&t);
	waiter_wait(&t.ended);
	assert_int_equal(t.value, 2 * t.rounds);
	loop_stop(l);
	return 0;
}

static void wakes_cross_loops(void **state)
{
	unsigned rounds = 5000;

	(void)state;
	run_in_loop(play_with_loop, &rounds);
}

static void wakes_cross_from_and_to_plain_threads(void **state)
{
	unsigned rounds = 5000;

	(void)state;
	assert_int_equal(play_with_loop(&rounds), 0);
}

/* Spawn storm: each of several threads spawns many tasks on every loop. */
#define STORM_LOOPS 4
#define STORM_TASKS 100

static struct {
	struct loop *loops[STORM_LOOPS];
	unsigned ran, begun;
} storm;

static void storm_leaf(void *arg)
{
	(void)arg;
	task_yield();
	__atomic_fetch_add(&storm.ran, 1, __ATOMIC_RELAXED);
}

static void storm_spread(void *arg)
{
	(void)arg;
	for (int i = 0; i < STORM_TASKS; i++) {
		assert_int_equal(
			task_spawn(storm.loops[i % STORM_LOOPS], storm_leaf, NULL), 0);
		if (i % 20 == 0)
			task_sleep_ns(100000);
	}
}

static void *storm_thread(void *arg)
{
	storm_spread(arg);
	return NULL;
}

static void spawn_storm_from_loops_and_threads_runs_every_task(void **state)
{
	pthread_t threads[2];

	(void)state;
	storm.ran = 0;
	for (int i = 0; i < STORM_LOOPS; i++) {
		storm.loops[i] = loop_start(NULL);
		assert_non_null(storm.loops[i]);
	}
	for (int i = 0; i < 2; i++)
		assert_int_equal(
			pthread_create(&threads[i], NULL, storm_thread, NULL), 0);
	for (int i = 0; i < STORM_LOOPS; i++)
		assert_int_equal(task_spawn(storm.loops[i], storm_spread, NULL), 0);
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	/* Spreading tasks spawn on other loops, which therefore must not stop before. */
	while (__atomic_load_n(&storm.ran, __ATOMIC_RELAXED) !=
		(STORM_LOOPS + 2) * STORM_TASKS)
		task_sleep_ns(1000000);
	for (int i = 0; i < STORM_LOOPS; i++)
		loop_stop(storm.loops[i]);
}

/* Each loop is woken from outside as its last event, over and over: a write to the event
 * descriptor of a loop that is going away would hit whatever has its number by then. */
static void loops_that_end_right_after_a_wake_leave_nothing_behind(void **state)
{
	(void)state;
	for (int i = 0; i < 60; i++) {
		struct loop *l = loop_start(NULL);
		assert_non_null(l);
		storm.ran = 0;
		assert_int_equal(task_spawn(l, storm_leaf, NULL), 0);
		loop_stop(l);
		assert_int_equal(storm.ran, 1);
	}
}

static int stop_another(void *arg)
{
	struct loop *l = loop_start(NULL);

	(void)arg;
	assert_non_null(l);
	assert_int_equal(task_spawn(l, sleep_and_note, "1s"), 0);
	loop_stop(l);
	assert_string_equal(log_text, "s");
	return 0;
}

static void stopping_a_loop_from_a_task_waits_for_its_tasks(void **state)
{
	(void)state;
	log_text[0] = 0;
	run_in_loop(stop_another, NULL);
}

/* Bytes of stack that are in use below `top` when depth frames are. */
static size_t use_stack(const volatile char *top, int depth)
{
	volatile char frame[1024];

	memset((char *)frame, depth, sizeof(frame));
	size_t deepest = (size_t)(top - frame);
	if (depth)
		deepest = use_stack(top, depth - 1);
	assert_int_equal(frame[sizeof(frame) - 1], (char)depth);
	return deepest;
}

static void use_stack_task(void *arg)
{
	volatile char top = 0;

	*(size_t *)arg = use_stack(&top, 200);
}

static int spawn_deep(void *arg)
{
	assert_int_equal(task_spawn(NULL, use_stack_task, arg), 0);
	return 0;
}

static void stack_is_as_deep_as_promised(void **state)
{
	size_t used_bytes = 0;

	(void)state;
	run_in_loop(spawn_deep, &used_bytes);
	assert_true(used_bytes > 200 * 1024 && used_bytes < TASK_STACK_BYTES * 4);
}

static int overflow(volatile char *up, uint64_t depth)
{
	volatile char frame[512];

	frame[0] = up ? up[0] : 1;
	return depth ? overflow(frame, depth - 1) + frame[0] : 0;
}

static int overflow_first(void *arg)
{
	(void)arg;
	return overflow(NULL, 1u << 30);
}

static void stack_overflow_hits_the_guard_page(void **state)
{
	int status;
	pid_t pid = fork();

	(void)state;
	assert_true(pid >= 0);
	if (!pid) {
		struct rlimit none = {0, 0};
		setrlimit(RLIMIT_CORE, &none);
		/* On the thread's stack handlers could not run: let the signal kill. */
		signal(SIGSEGV, SIG_DFL);
		signal(SIGBUS, SIG_DFL);
		loop_run(overflow_first, NULL, NULL);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status));
	assert_true(WTERMSIG(status) == SIGSEGV || WTERMSIG(status) == SIGBUS);
}

static int no_stack_left(void *arg)
{
	struct rlimit old, tight;
	int ret = 0;

	(void)arg;
	/* More tasks than the stack cache holds, none running, until there is no memory.
	 */
	assert_int_equal(getrlimit(RLIMIT_AS, &old), 0);
	tight = old;
	tight.rlim_cur = 1;
	assert_int_equal(setrlimit(RLIMIT_AS, &tight), 0);
	unsigned n = 0;
	while (!ret && n < 5000) {
		ret = task_spawn(NULL, storm_leaf, NULL);
		n += !ret;
	}
	assert_int_equal(setrlimit(RLIMIT_AS, &old), 0);
	assert_int_equal(ret, -ENOMEM);
	storm.begun = n;
	return 0;
}

static void spawning_without_memory_is_enomem_and_nothing_is_lost(void **state)
{
	(void)state;
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
	skip(); /* their own mappings fail under the limit */
#endif
#ifdef __has_feature
#if __has_feature(thread_sanitizer) || __has_feature(address_sanitizer)
	skip();
#endif
#endif
	storm.ran = 0;
	run_in_loop(no_stack_left, NULL);
	assert_int_equal(storm.ran, storm.begun);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(stack_overflow_hits_the_guard_page),
		cmocka_unit_test(result_of_the_first_task_is_the_loops),
		cmocka_unit_test(unknown_engine_is_refused),
		cmocka_unit_test(spawned_tasks_take_turns_and_outlive_the_first),
		cmocka_unit_test(timers_fire_in_order_of_deadline_then_of_setting),
		cmocka_unit_test(no_sleeper_wakes_early),
		cmocka_unit_test(busy_yielding_does_not_starve_timers),
		cmocka_unit_test(wake_before_wait_is_kept),
		cmocka_unit_test(task_waits_for_another),
		cmocka_unit_test(wakes_cross_loops),
		cmocka_unit_test(wakes_cross_from_and_to_plain_threads),
		cmocka_unit_test(spawn_storm_from_loops_and_threads_runs_every_task),
		cmocka_unit_test(loops_that_end_right_after_a_wake_leave_nothing_behind),
		cmocka_unit_test(stopping_a_loop_from_a_task_waits_for_its_tasks),
		cmocka_unit_test(stack_is_as_deep_as_promised),
		cmocka_unit_test(spawning_without_memory_is_enomem_and_nothing_is_lost),
	};

	return run_on_engines("task", tests, ARRAY_LEN(tests));
}
