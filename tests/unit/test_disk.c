/* SPDX-License-Identifier: BSD-2-Clause */
/* Disks between devices and the block layer: limits, errors. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>

#include "backends/fault.h"
#include "base/math.h"
#include "base/task.h"
#include "tests/unit/support_machine.h"

static struct board b;

static int make(void **state)
{
	struct disk_options o = {.id = "d0"};

	(void)state;
	board_new(&b, 1 * MiB, &o, BLK_O_RDWR);
	return 0;
}

static int make_stopping(void **state)
{
	struct disk_options o = {.id = "d0", .on_write_error = DISK_STOP};

	(void)state;
	board_new(&b, 1 * MiB, &o, BLK_O_RDWR);
	return 0;
}

static int unmake(void **state)
{
	(void)state;
	board_free(&b);
	return 0;
}

static int read_some(void)
{
	static uint8_t data[4096];
	struct iovec iov = {data, sizeof(data)};

	return disk_read(b.disk, 0, &iov, 1);
}

/* Requests whose turn had not come when the machine stopped are made again, and wait again; they do not
 * wait behind themselves. */
static void a_turn_that_was_not_used_is_given_back(void **state)
{
	const struct disk_limits slow = {.iops = {1}, .bps = {0, 64}}; /* a minute each */
	const struct disk_limits none = {.iops = {0}};
	uint64_t now;

	(void)state;
	board_start(&b);
	disk_set_limits(b.disk, &slow);
	assert_int_equal(read_some(), 0);
	board_stop(&b);
	for (unsigned i = 0; i < 100; i++)
		assert_int_equal(read_some(), -ECANCELED);
	now = clock_ns();
	assert_true(b.disk->next_iops_ns[0] <= now + 1000000000);
	assert_true(b.disk->next_bps_ns[1] <= now + 64000000000);
	disk_set_limits(b.disk, &none);
	board_start(&b);
	assert_int_equal(read_some(), 0);
	board_stop(&b);
}

/* As an overdraft: requests that came together wait one behind the other. */
static void turns_are_taken(void **state)
{
	const struct disk_limits slow = {.iops = {100}};
	uint64_t begin;

	(void)state;
	board_start(&b);
	disk_set_limits(b.disk, &slow);
	begin = clock_ns();
	for (unsigned i = 0; i < 20; i++)
		assert_int_equal(read_some(), 0);
	assert_true(clock_ns() - begin >= 90000000); /* some may go at once */
	board_stop(&b);
}

/* Its file system became read-only, say. */
static void storage_that_refuses_a_write_stops_the_machine(void **state)
{
	static uint8_t data[4096];
	struct iovec iov = {data, sizeof(data)};

	(void)state;
	for (unsigned i = 0; i < 2; i++) {
		struct fault_plan plan = {
			.ops = FAULT_WRITE, .at = 1, .error = i ? EINVAL : EROFS};

		board_start(&b);
		fault_arm(fault_find(b.blk), &plan);
		assert_int_equal(disk_write(b.disk, 0, &iov, 1, 0), -ECANCELED);
		board_wait_stop(&b);
	}
	board_start(&b);
	assert_int_equal(disk_write(b.disk, 0, &iov, 1, 0), 0);
	board_stop(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(
			storage_that_refuses_a_write_stops_the_machine, make_stopping,
			unmake),
		cmocka_unit_test_setup_teardown(turns_are_taken, make, unmake),
		cmocka_unit_test_setup_teardown(
			a_turn_that_was_not_used_is_given_back, make, unmake),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
