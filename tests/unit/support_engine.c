/* SPDX-License-Identifier: BSD-2-Clause */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <time.h>

#include <cmocka.h>

#include "base/task.h"
#include "tests/unit/support_engine.h"

const char *engine_in_use;

static int nothing(void *arg)
{
	(void)arg;
	return 0;
}

int run_on_engines(const char *group, const struct CMUnitTest *tests, size_t n)
{
	static const char *const engines[] = {"io_uring", "epoll"};
	int failed = 0;

	for (int i = 0; i < 2; i++) {
		struct err err = ERR_INIT;
		char name[64];

		engine_in_use = engines[i];
		loop_set_engine(engine_in_use, NULL);
		if (loop_run(nothing, NULL, &err)) {
			print_message(
				"%s: not on %s: %s\n", group, engine_in_use, err.msg);
			failed += i; /* epoll is everywhere */
			continue;
		}
		snprintf(name, sizeof(name), "%s on %s", group, engine_in_use);
		failed += _cmocka_run_group_tests(name, tests, n, NULL, NULL);
	}
	return failed;
}

void run_in_loop(int (*fn)(void *arg), void *arg)
{
	struct err err = ERR_INIT;
	int ret = loop_run(fn, arg, &err);

	if (ret)
		print_error("loop_run: %d %s\n", ret, err.msg);
	assert_int_equal(ret, 0);
	assert_null(loop_self());
	assert_null(task_self());
}

uint64_t monotonic_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}
