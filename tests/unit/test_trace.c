/* SPDX-License-Identifier: BSD-2-Clause */
/* The trace instrument: each operation is told once, with its result. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "backends/fault.h"
#include "backends/trace.h"
#include "base/math.h"
#include "block/driver.h"
#include "tests/unit/support_blk.h"
#include "tests/unit/support_engine.h"
#include "tests/unit/support_files.h"

struct seen {
	struct trace_op op[16];
	unsigned n;
};

static void see(void *arg, const struct trace_op *op)
{
	struct seen *s = arg;

	assert_true(s->n < ARRAY_LEN(s->op));
	s->op[s->n++] = *op;
}

static void each_operation_is_told_and_counted(void)
{
	struct blk *b = node_open("driver=trace,file.driver=fault,file.file.driver=mem,"
				  "file.file.size=1M",
		BLK_O_RDWR);
	struct fault_plan plan = {.ops = FAULT_FLUSH, .at = 1, .error = EIO};
	struct trace_counter c[TRACE_KINDS];
	struct seen s = {.n = 0};

	assert_ptr_equal(trace_find(b), b);
	trace_set_callback(b, see, &s);
	node_fill(b, 4096, 512, 1);
	node_expect(b, 4096, 512, 1);
	fault_arm(fault_find(b), &plan);
	assert_int_equal(blk_flush(b), -EIO);
	assert_int_equal(blk_resize(b, 2 * MiB, BLK_PREALLOC_OFF, NULL), 0);
	trace_set_callback(b, NULL, NULL);
	assert_int_equal(blk_flush(b), 0);

	assert_int_equal(s.n, 4);
	assert_int_equal(s.op[0].kind, TRACE_WRITE);
	assert_int_equal(s.op[0].offset, 4096);
	assert_int_equal(s.op[0].bytes, 512);
	assert_int_equal(s.op[1].kind, TRACE_READ);
	assert_int_equal(s.op[2].kind, TRACE_FLUSH);
	assert_int_equal(s.op[2].result, -EIO);
	assert_int_equal(s.op[3].kind, TRACE_RESIZE);
	assert_int_equal(s.op[3].bytes, 2 * MiB);
	assert_true(s.op[1].start_ns >= s.op[0].start_ns + s.op[0].ns);

	trace_counters(b, c);
	assert_int_equal(c[TRACE_FLUSH].ops, 2);
	assert_int_equal(c[TRACE_FLUSH].failed, 1);
	assert_int_equal(c[TRACE_WRITE].bytes, 512);
	assert_int_equal(c[TRACE_DISCARD].ops, 0);
	assert_int_equal(blk_close(b), 0);
}

static void log_has_a_line_for_each_operation(void)
{
	const char *path = scratch_path("trace.log");
	char options[600], line[200], what[32], flags[32];
	unsigned long long offset, bytes, ns;
	struct blk *b;
	int result;
	FILE *f;

	snprintf(options, sizeof(options),
		"driver=trace,file.driver=mem,file.size=1M,log=%s", path);
	b = node_open(options, BLK_O_RDWR);
	node_fill(b, 65536, 4096, 1);
	assert_int_equal(blk_zero(b, 0, 4096, 0), 0);
	assert_int_equal(blk_close(b), 0);
	f = fopen(path, "r");
	assert_non_null(f);
	assert_non_null(fgets(line, sizeof(line), f));
	assert_int_equal(sscanf(line, "%*d.%*9d %31s %llu %llu %31s %d %llu\n", what,
				 &offset, &bytes, flags, &result, &ns),
		6);
	assert_string_equal(what, "write");
	assert_int_equal(offset, 65536);
	assert_int_equal(bytes, 4096);
	assert_string_equal(flags, "-");
	assert_int_equal(result, 0);
	assert_non_null(fgets(line, sizeof(line), f));
	assert_non_null(strstr(line, " zero 0 4096 "));
	fclose(f);
}

static void log_that_cannot_be_written_is_an_error(void)
{
	struct err err;
	struct blk *b;

	assert_int_equal(
		node_refused("driver=trace,file.driver=mem,log=/absent/x", 0, &err),
		-ENOENT);
	b = node_open("driver=trace,file.driver=mem,log=/dev/full", BLK_O_RDWR);
	node_fill(b, 0, 512, 1);
	assert_int_equal(blk_close(b), -ENOSPC);
}

static int write_some(void *arg, unsigned i)
{
	char buf[512] = {0};
	int ret = 0;

	for (unsigned n = 0; n < 100 && ret == 0; n++)
		ret = blk_pwrite(arg, (n * 4 + i) * 512, buf, sizeof(buf), 0);
	return ret;
}

static void counters_are_right_under_several_loops(void **state)
{
	struct blk *b = node_open("driver=trace,file.driver=mem", BLK_O_RDWR);
	struct trace_counter c[TRACE_KINDS];

	(void)state;
	assert_int_equal(on_loops(4, write_some, b), 0);
	trace_counters(b, c);
	assert_int_equal(c[TRACE_WRITE].ops, 400);
	assert_int_equal(blk_size(b), 400 * 512);
	assert_int_equal(blk_close(b), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		LOOP_TEST(each_operation_is_told_and_counted),
		LOOP_TEST(log_has_a_line_for_each_operation),
		LOOP_TEST(log_that_cannot_be_written_is_an_error),
		cmocka_unit_test(counters_are_right_under_several_loops),
	};

	return run_on_engines("trace", tests, ARRAY_LEN(tests));
}
