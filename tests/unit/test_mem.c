/* SPDX-License-Identifier: BSD-2-Clause */
/* RAM disks (mem) and disks that keep nothing (null-co, null-aio). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "backends/mem.h"
#include "base/iov.h"
#include "base/math.h"
#include "block/driver.h"
#include "block/format.h"
#include "tests/unit/support_blk.h"
#include "tests/unit/support_engine.h"

#define PAGE (64 * KiB)

static void named_segment_keeps_its_bytes(void)
{
	struct blk *b = node_open("driver=mem,name=kept,size=1M", BLK_O_RDWR);

	assert_int_equal(blk_size(b), MiB);
	node_fill(b, 70000, 5, 'x');
	assert_int_equal(blk_close(b), 0);
	b = node_open("driver=mem,name=kept", 0);
	assert_int_equal(blk_size(b), MiB);
	node_expect(b, 70000, 5, 'x');
	mem_drop("kept");
	node_expect(b, 70000, 5, 'x'); /* who has it open keeps it */
	assert_int_equal(blk_close(b), 0);
	b = node_open("driver=mem,name=kept", 0);
	assert_int_equal(blk_size(b), 0);
	assert_int_equal(blk_close(b), 0);
	mem_drop("kept");
}

static void name_with_a_scheme_creates_and_opens_a_segment(void)
{
	const struct blk_driver *mem = blk_driver_find("mem");
	struct opts *opts = opts_new();
	struct err err = ERR_INIT;
	struct blk *b = blk_open("mem:made", NULL, BLK_O_RDWR | BLK_O_PROTOCOL, &err);

	assert_non_null(b);
	node_fill(b, 0, 512, 1);
	assert_int_equal(blk_close(b), 0);
	opts_set(opts, "size", "2M");
	assert_int_equal(mem->format->create("mem:made", NULL, opts, &err), 0);
	b = blk_open("mem:made", NULL, BLK_O_RDWR | BLK_O_PROTOCOL, &err);
	assert_non_null(b);
	assert_int_equal(blk_size(b), 2 * MiB);
	node_expect(b, 0, 512, 0);
	assert_int_equal(blk_resize(b, MiB, BLK_PREALLOC_FULL, &err), -ENOTSUP);
	assert_int_equal(blk_close(b), 0);
	opts_set(opts, "size", "8E");
	assert_true(mem->format->create("mem:made", NULL, opts, &err) < 0);
	opts_free(opts);
	mem_drop("made");
}

static void copy_of_a_segment_is_independent(void)
{
	struct blk *b = node_open("driver=mem,name=orig,size=10M", BLK_O_RDWR), *c;

	node_fill(b, 3 * MiB, MiB, 1);
	assert_int_equal(mem_copy("orig", "copy"), 0);
	node_fill(b, 3 * MiB, MiB, 2);
	c = node_open("driver=mem,name=copy", BLK_O_RDWR);
	assert_int_equal(blk_size(c), 10 * MiB);
	node_expect(c, 3 * MiB, MiB, 1);
	node_expect(c, 0, 3 * MiB, 0);
	assert_int_equal(mem_pages_bytes("copy"), MiB);
	assert_int_equal(blk_close(b), 0);
	assert_int_equal(blk_close(c), 0);
	assert_int_equal(mem_copy("absent", "copy"), -ENOENT);
	mem_drop("orig");
	mem_drop("copy");
}

static void huge_disk_costs_what_is_written(void)
{
	struct blk *b = node_open("driver=mem,name=huge,size=4E", BLK_O_RDWR);
	uint64_t far = (uint64_t)3 << 60;
	struct blk_extent e;

	node_fill(b, far + 123, 2 * PAGE, 7);
	node_expect(b, far + 123, 2 * PAGE, 7);
	node_expect(b, far - PAGE, PAGE + 123, 0);
	assert_int_equal(mem_pages_bytes("huge"), 3 * PAGE);
	assert_int_equal(blk_allocated(b), 3 * PAGE);
	assert_int_equal(b->drv->extent(b, 0, far + GiB, &e), 0);
	assert_int_equal(e.bytes, far);
	assert_true(e.flags & BLK_EXT_ZERO);
	assert_int_equal(b->drv->extent(b, far, GiB, &e), 0);
	assert_int_equal(e.bytes, 3 * PAGE);
	assert_true(e.flags & BLK_EXT_DATA);
	assert_int_equal(blk_zero(b, far + 10, 3 * PAGE, BLK_MAY_UNMAP), 0);
	assert_int_equal(mem_pages_bytes("huge"), PAGE);
	node_expect(b, far, 4 * PAGE, 0);
	assert_int_equal(blk_close(b), 0);
	mem_drop("huge");
}

/* Zeroing and resizing against a flat array, edges in and across pages. */
static void ranges_at_any_edges_match_a_flat_array(void)
{
	enum { SIZE = 5 * PAGE };
	struct blk *b = node_open("driver=mem", BLK_O_RDWR);
	uint8_t *want = calloc(1, 2 * SIZE), *got = malloc(SIZE);
	uint64_t size = 0;

	srand(1);
	for (int i = 0; i < 400; i++) {
		uint64_t at = rand() % SIZE, n = 1 + rand() % (SIZE - at);

		switch (rand() % 4) {
		case 0:
			assert_int_equal(blk_resize(b, at, BLK_PREALLOC_OFF, NULL), 0);
			memset(want + at, 0, SIZE - at);
			size = at;
			break;
		case 1:
			n = MIN(n, size > at ? size - at : 0);
			if (n)
				assert_int_equal(blk_zero(b, at, n, 0), 0);
			memset(want + at, 0, n);
			break;
		default:
			node_fill(b, at, n, 1 + i % 255);
			memset(want + at, 1 + i % 255, n);
			size = MAX(size, at + n);
		}
		assert_int_equal(blk_size(b), size);
		if (size)
			assert_int_equal(blk_pread(b, 0, got, size), 0);
		assert_memory_equal(got, want, size);
	}
	free(want);
	free(got);
	assert_int_equal(blk_close(b), 0);
}

static int hammer(void *arg, unsigned i)
{
	struct blk *b = arg;
	uint8_t *buf = malloc(PAGE);
	int ret = 0;

	for (unsigned n = 0; n < 200 && ret == 0; n++) {
		/* All want the same pages; every page is of one writer, or zeros. */
		uint64_t at = (uint64_t)(n % 8) * PAGE;

		memset(buf, 1 + i, PAGE);
		ret = n % 5 == i ? blk_zero(b, at, PAGE, BLK_MAY_UNMAP)
				 : blk_pwrite(b, at, buf, PAGE, 0);
		if (ret == 0)
			ret = blk_pread(b, at, buf, PAGE);
		for (unsigned k = 1; k < PAGE && ret == 0; k++)
			if (buf[k] != buf[0])
				ret = -EILSEQ;
	}
	free(buf);
	return ret;
}

static void pages_stay_whole_under_several_loops(void **state)
{
	struct blk *b = node_open("driver=mem,size=1M", BLK_O_RDWR);

	(void)state;
	assert_int_equal(on_loops(4, hammer, b), 0);
	assert_int_equal(blk_close(b), 0);
}

static void null_takes_everything_and_keeps_nothing(void)
{
	struct blk *b = node_open("driver=null-co,size=10M", BLK_O_RDWR);
	struct blk_extent e;

	assert_int_equal(blk_size(b), 10 * MiB);
	node_fill(b, MiB, MiB, 9);
	node_expect(b, MiB, MiB, 0);
	assert_int_equal(blk_zero(b, 0, MiB, 0), 0);
	assert_int_equal(blk_flush(b), 0);
	assert_int_equal(blk_extent(b, 0, MiB, &e), 0);
	assert_true(e.flags & BLK_EXT_ZERO);
	assert_int_equal(blk_close(b), 0);

	b = node_open("driver=null-aio,read-zeroes=off", 0);
	assert_int_equal(blk_size(b), GiB);
	assert_int_equal(blk_extent(b, 0, MiB, &e), 0);
	assert_true(e.flags & BLK_EXT_DATA);
	assert_int_equal(blk_close(b), 0);
}

static void null_waits_as_long_as_told(void)
{
	struct blk *b = node_open("driver=null-co,latency-ns=20000000", BLK_O_RDWR);
	uint64_t start = monotonic_ns();
	char c = 0;

	assert_int_equal(blk_pread(b, 0, &c, 1), 0);
	assert_int_equal(blk_pwrite(b, 0, &c, 1, 0), 0);
	assert_true(monotonic_ns() - start >= 40000000);
	assert_int_equal(blk_close(b), 0);
}

static void null_takes_no_name(void)
{
	struct err err = ERR_INIT;
	struct blk *b = blk_open("null-co://", NULL, BLK_O_PROTOCOL, &err);

	assert_non_null(b);
	assert_int_equal(blk_close(b), 0);
	assert_null(blk_open("null-co://disk", NULL, BLK_O_PROTOCOL, &err));
	assert_int_equal(err.code, EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		LOOP_TEST(named_segment_keeps_its_bytes),
		LOOP_TEST(name_with_a_scheme_creates_and_opens_a_segment),
		LOOP_TEST(copy_of_a_segment_is_independent),
		LOOP_TEST(huge_disk_costs_what_is_written),
		LOOP_TEST(ranges_at_any_edges_match_a_flat_array),
		cmocka_unit_test(pages_stay_whole_under_several_loops),
		LOOP_TEST(null_takes_everything_and_keeps_nothing),
		LOOP_TEST(null_waits_as_long_as_told),
		LOOP_TEST(null_takes_no_name),
	};

	return run_on_engines("mem", tests, ARRAY_LEN(tests));
}
