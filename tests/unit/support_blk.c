/* SPDX-License-Identifier: BSD-2-Clause */
#include "tests/unit/support_blk.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/iov.h"
#include "base/task.h"
#include "tests/unit/support_engine.h"

#define LOOPS_MAX 8

static struct blk *open_described(const char *options, unsigned flags, struct err *err)
{
	struct opts *opts = opts_new();
	struct blk *b = NULL;

	if (opts_parse(opts, options, NULL, err) == 0)
		b = blk_open(NULL, opts, flags | BLK_O_PROTOCOL, err);
	opts_free(opts);
	return b;
}

struct blk *node_open(const char *options, unsigned flags)
{
	struct err err = ERR_INIT;
	struct blk *b = open_described(options, flags, &err);

	if (!b)
		fail_msg("%s: %s", options, err.msg);
	return b;
}

int node_refused(const char *options, unsigned flags, struct err *err)
{
	memset(err, 0, sizeof(*err));
	assert_null(open_described(options, flags, err));
	assert_true(err->code > 0);
	assert_true(err->msg[0]);
	return -err->code;
}

void node_fill(struct blk *b, uint64_t offset, size_t bytes, int value)
{
	uint8_t *buf = buf_alloc(bytes);

	assert_non_null(buf);
	memset(buf, value, bytes);
	assert_int_equal(blk_pwrite(b, offset, buf, bytes, 0), 0);
	buf_free(buf);
}

void node_expect(struct blk *b, uint64_t offset, size_t bytes, int value)
{
	uint8_t *buf = buf_alloc(bytes);

	assert_non_null(buf);
	memset(buf, ~value, bytes);
	assert_int_equal(blk_pread(b, offset, buf, bytes), 0);
	for (size_t i = 0; i < bytes; i++)
		if (buf[i] != (uint8_t)value)
			fail_msg("byte at %llu is 0x%02x, not 0x%02x",
				(unsigned long long)(offset + i), buf[i], (uint8_t)value);
	buf_free(buf);
}

static int call(void *fn)
{
	((void (*)(void))fn)();
	return 0;
}

void test_in_loop(void **state)
{
	run_in_loop(call, *state);
}

struct share {
	int (*fn)(void *arg, unsigned i);
	void *arg;
	unsigned i;
};

static int run_share(void *arg)
{
	struct share *s = arg;

	return s->fn(s->arg, s->i);
}

int on_loops(unsigned n, int (*fn)(void *arg, unsigned i), void *arg)
{
	struct share shares[LOOPS_MAX];
	struct loop *loops[LOOPS_MAX];
	struct task_group group;
	struct err err = ERR_INIT;
	int ret;

	assert_true(n <= LOOPS_MAX);
	task_group_init(&group);
	for (unsigned i = 0; i < n; i++) {
		shares[i] = (struct share){fn, arg, i};
		loops[i] = loop_start(&err);
		assert_non_null(loops[i]);
		assert_int_equal(
			task_group_spawn(&group, loops[i], run_share, &shares[i]), 0);
	}
	ret = task_group_wait(&group);
	for (unsigned i = 0; i < n; i++)
		loop_stop(loops[i]);
	return ret;
}
