/* SPDX-License-Identifier: BSD-2-Clause */
/* Opening nodes and looking at their bytes in unit tests. */
#ifndef BYRE_TESTS_UNIT_SUPPORT_BLK_H
#define BYRE_TESTS_UNIT_SUPPORT_BLK_H

#include <stddef.h>

#include "block/blk.h"

/* Opens the protocol node or filter that "driver=…,key=value" describes; fails the test
 * with the message where it cannot. */
struct blk *node_open(const char *options, unsigned flags);
/* The same for what must fail; the message is in err. Returns -err->code. */
int node_refused(const char *options, unsigned flags, struct err *err);

/* Writes, or expects, `bytes` bytes of one value. */
void node_fill(struct blk *b, uint64_t offset, size_t bytes, int value);
void node_expect(struct blk *b, uint64_t offset, size_t bytes, int value);

/* A test for a group of run_on_engines: runs `fn`, a void function without arguments, as
 * a task. */
#define LOOP_TEST(fn)                                                                    \
	{                                                                                \
#fn, test_in_loop, NULL, NULL, (void *)fn                                \
	}
void test_in_loop(void **state);

/* Runs fn(arg, i) for i in 0…n-1 at once, each on a loop of its own; the first error. */
int on_loops(unsigned n, int (*fn)(void *arg, unsigned i), void *arg);

#endif
