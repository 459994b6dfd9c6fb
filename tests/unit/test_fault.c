/* SPDX-License-Identifier: BSD-2-Clause */
/* The fault instrument: it fails what it was told to, and nothing else. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "backends/fault.h"
#include "backends/mem.h"
#include "base/math.h"
#include "block/driver.h"
#include "block/format.h"
#include "tests/unit/support_blk.h"
#include "tests/unit/support_engine.h"
#include "tests/unit/support_files.h"

#define ON_MEM "driver=fault,file.driver=mem,file.size=1M"

static int write_one(struct blk *b, uint64_t offset)
{
	uint8_t buf[1024];

	memset(buf, 0xab, sizeof(buf));
	return blk_pwrite(b, offset, buf, sizeof(buf), 0);
}

static void without_a_plan_it_passes_all_on(void)
{
	struct blk *b = node_open(ON_MEM, BLK_O_RDWR | BLK_O_DISCARD);
	struct blk_extent e;

	assert_int_equal(blk_size(b), MiB);
	assert_string_equal(blk_driver_name(blk_file(b)), "mem");
	node_fill(b, 2 * MiB - 100, 100, 3);
	assert_int_equal(blk_size(b), 2 * MiB);
	assert_int_equal(blk_zero(b, 2 * MiB - 50, 50, 0), 0);
	node_expect(b, 2 * MiB - 100, 50, 3);
	node_expect(b, 2 * MiB - 50, 50, 0);
	assert_int_equal(blk_discard(b, MiB, MiB), 0);
	assert_int_equal(blk_extent(b, 0, MiB, &e), 0);
	assert_true(e.flags & BLK_EXT_ZERO);
	assert_int_equal(blk_resize(b, 3 * MiB, BLK_PREALLOC_OFF, NULL), 0);
	assert_int_equal(blk_size(b), 3 * MiB);
	assert_int_equal(blk_flush(b), 0);
	assert_int_equal(blk_allocated(b), blk_allocated(blk_file(b)));
	assert_int_equal(fault_count(b, FAULT_WRITE), 1);
	assert_int_equal(fault_count(b, FAULT_ANY), 7);
	assert_int_equal(fault_hits(b), 0);
	assert_int_equal(blk_close(b), 0);
}

static void the_nth_of_its_kind_fails_once(void)
{
	struct blk *b = node_open(ON_MEM ",ops=write,fail-at=3,errno=ENOSPC", BLK_O_RDWR);

	for (int i = 1; i <= 6; i++) {
		assert_int_equal(write_one(b, i * 4096), i == 3 ? -ENOSPC : 0);
		assert_int_equal(blk_flush(b), 0);
	}
	node_expect(b, 3 * 4096, 1024, 0);
	node_expect(b, 4 * 4096, 1024, 0xab);
	assert_int_equal(fault_hits(b), 1);
	assert_int_equal(blk_close(b), 0);
}

static void sticky_fault_stays_until_disarmed(void)
{
	struct blk *b = node_open(ON_MEM, BLK_O_RDWR);
	struct fault_plan plan = {
		.ops = FAULT_FLUSH | FAULT_READ, .at = 2, .error = EIO, .sticky = true};
	char c;

	assert_ptr_equal(fault_find(b), b);
	assert_null(fault_find(blk_file(b)));
	fault_arm(b, &plan);
	assert_int_equal(blk_flush(b), 0);
	assert_int_equal(blk_pread(b, 0, &c, 1), -EIO);
	assert_int_equal(blk_flush(b), -EIO);
	assert_int_equal(write_one(b, 0), 0);
	fault_disarm(b);
	assert_int_equal(blk_flush(b), 0);
	assert_int_equal(blk_pread(b, 0, &c, 1), 0);
	assert_int_equal(fault_hits(b), 2);
	assert_int_equal(blk_close(b), 0);
}

static void failed_write_may_have_happened_in_part(void)
{
	struct blk *b = node_open(ON_MEM, BLK_O_RDWR | BLK_O_DISCARD);
	struct fault_plan plan = {.ops = FAULT_WRITE, .at = 1, .error = EIO};

	plan.effect = FAULT_HALF;
	fault_arm(b, &plan);
	assert_int_equal(write_one(b, 0), -EIO);
	node_expect(b, 0, 512, 0xab);
	node_expect(b, 512, 512, 0);
	plan.effect = FAULT_ALL;
	fault_arm(b, &plan);
	assert_int_equal(write_one(b, 8192), -EIO);
	node_expect(b, 8192, 1024, 0xab);
	plan.ops = FAULT_CHANGES;
	plan.sticky = true;
	fault_arm(b, &plan);
	assert_int_equal(blk_zero(b, 8192, 512, 0), -EIO);
	node_expect(b, 8192, 512, 0);
	assert_int_equal(blk_discard(b, 8192 + 512, 512), -EIO);
	node_expect(b, 8192 + 512, 512, 0);
	assert_int_equal(blk_resize(b, 8192, BLK_PREALLOC_OFF, NULL), -EIO);
	assert_int_equal(blk_size(blk_file(b)), 8192);
	assert_int_equal(blk_flush(b), -EIO);
	fault_disarm(b);
	assert_int_equal(blk_close(b), 0);
}

static void full_disk_takes_what_does_not_make_it_longer(void)
{
	struct blk *b = node_open(ON_MEM ",limit=1028k", BLK_O_RDWR);
	struct err err = ERR_INIT;

	assert_int_equal(write_one(b, 0), 0);
	assert_int_equal(write_one(b, MiB), 0);
	assert_int_equal(write_one(b, MiB + 4096), -ENOSPC);
	assert_int_equal(blk_resize(b, 2 * MiB, BLK_PREALLOC_OFF, &err), -ENOSPC);
	assert_true(err.msg[0]);
	assert_int_equal(blk_size(b), MiB + 1024);
	assert_int_equal(write_one(b, 4096), 0);
	fault_set_limit(b, UINT64_MAX);
	assert_int_equal(write_one(b, MiB + 4096), 0);
	fault_set_limit(b, 4096);
	assert_int_equal(write_one(b, MiB), 0);
	assert_int_equal(blk_resize(b, 512, BLK_PREALLOC_OFF, &err), 0);
	assert_int_equal(blk_close(b), 0);
}

static void copy_counts_as_a_read_and_a_write(void)
{
	char options[600];
	struct blk *src, *dst;
	struct fault_plan plan = {.ops = FAULT_WRITE, .at = 1, .error = ENOSPC};
	int ret;

	snprintf(options, sizeof(options),
		"driver=fault,file.driver=file,file.filename=%s",
		scratch_file("copy-src.img", MiB));
	src = node_open(options, BLK_O_RDWR);
	snprintf(options, sizeof(options),
		"driver=fault,file.driver=file,file.filename=%s",
		scratch_file("copy-dst.img", 0));
	dst = node_open(options, BLK_O_RDWR);
	node_fill(src, 0, MiB, 4);
	ret = blk_copy_range(src, 0, dst, 0, MiB, 0);
	assert_true(ret == 0 || ret == -ENOTSUP);
	assert_int_equal(fault_count(src, FAULT_READ), 1);
	assert_int_equal(fault_count(dst, FAULT_WRITE), 1);
	assert_int_equal(blk_size(dst), ret == 0 ? MiB : 0);
	fault_arm(dst, &plan);
	assert_int_equal(blk_copy_range(src, 0, dst, MiB, MiB, 0), -ENOSPC);
	assert_int_equal(blk_close(src), 0);
	assert_int_equal(blk_close(dst), 0);
}

static void wrong_options_are_refused(void)
{
	struct err err;

	assert_int_equal(node_refused(ON_MEM ",ops=wirte", 0, &err), -EINVAL);
	assert_int_equal(node_refused(ON_MEM ",errno=EWHAT", 0, &err), -EINVAL);
	assert_int_equal(node_refused(ON_MEM ",effect=some", 0, &err), -EINVAL);
	assert_int_equal(node_refused(ON_MEM ",fail-at=x", 0, &err), -EINVAL);
	blk_close(node_open(ON_MEM ",ops=read+zero+any,errno=28,effect=half", 0));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		LOOP_TEST(without_a_plan_it_passes_all_on),
		LOOP_TEST(the_nth_of_its_kind_fails_once),
		LOOP_TEST(sticky_fault_stays_until_disarmed),
		LOOP_TEST(failed_write_may_have_happened_in_part),
		LOOP_TEST(full_disk_takes_what_does_not_make_it_longer),
		LOOP_TEST(copy_counts_as_a_read_and_a_write),
		LOOP_TEST(wrong_options_are_refused),
	};

	return run_on_engines("fault", tests, ARRAY_LEN(tests));
}
