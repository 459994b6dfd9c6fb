/* SPDX-License-Identifier: BSD-2-Clause */
/* Runs a group of tests on each loop engine that this machine gives us. */
#ifndef BYRE_TESTS_UNIT_SUPPORT_ENGINE_H
#define BYRE_TESTS_UNIT_SUPPORT_ENGINE_H

#include <stddef.h>
#include <stdint.h>

struct CMUnitTest;

/* The engine in use, by its option name. */
extern const char *engine_in_use;

/* Where io_uring is refused, says so and runs the group on epoll only. Returns the number
 * of tests that failed. */
int run_on_engines(const char *group, const struct CMUnitTest *tests, size_t n);

/* Runs fn(arg) as a loop's first task and expects it to return 0. */
void run_in_loop(int (*fn)(void *arg), void *arg);

uint64_t monotonic_ns(void);

#endif
