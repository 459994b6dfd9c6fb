/* SPDX-License-Identifier: BSD-2-Clause */
/* The guest's memory: what is RAM and what is not, and the options of how it is had. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>
#include <sys/mman.h>

#include "base/math.h"
#include "vmm/memory.h"

static void it_lies_around_the_hole(void **state)
{
	struct memory_options o = {.bytes = 4 * GiB};
	struct err err = ERR_INIT;
	struct memory m;

	(void)state;
	assert_int_equal(memory_new(&m, &o, &err), 0);
	assert_true(memory_bytes(&m) == 4 * GiB);
	assert_non_null(memory_at(&m, 0, 3 * GiB));
	assert_null(memory_at(&m, 3 * GiB, 1));
	assert_null(memory_at(&m, 3 * GiB - 1, 2));
	assert_null(memory_at(&m, 4 * GiB - 1, 1));
	assert_non_null(memory_at(&m, 4 * GiB, 1 * GiB));
	assert_null(memory_at(&m, 4 * GiB, 1 * GiB + 1));
	assert_null(memory_at(&m, 5 * GiB, 1));
	assert_null(memory_at(&m, UINT64_MAX, 2));
	assert_null(memory_at(&m, 1, UINT64_MAX));
	memory_free(&m);
}

static void sizes_that_cannot_be_are_refused(void **state)
{
	static const uint64_t sizes[] = {
		0, 1 * MiB, 17 * MiB, 2 << 20 | 4096, 2ull << 40};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
		struct memory_options o = {.bytes = sizes[i]};
		struct err err = ERR_INIT;
		struct memory m;

		assert_int_equal(memory_new(&m, &o, &err), -EINVAL);
		assert_int_equal(m.n, 0);
	}
}

static bool is_resident(const struct memory *m, uint64_t page)
{
	unsigned char there = 0;

	assert_int_equal(mincore(m->region[0].host + page * 4096, 4096, &there), 0);
	return there & 1;
}

static void preallocated_it_is_there_and_else_it_is_not(void **state)
{
	struct memory_options o = {.bytes = 16 * MiB};
	struct err err = ERR_INIT;
	struct memory m;

	(void)state;
	assert_int_equal(memory_new(&m, &o, &err), 0);
	assert_false(is_resident(&m, 0));
	memory_free(&m);
	o.prealloc = true;
	assert_int_equal(memory_new(&m, &o, &err), 0);
	for (uint64_t page = 0; page < o.bytes / 4096; page += 64)
		assert_true(is_resident(&m, page));
	memory_free(&m);
}

static void it_comes_from_the_nodes_that_it_is_bound_to(void **state)
{
	struct memory_options o = {.bytes = 16 * MiB, .nodes = 1, .prealloc = true};
	struct err err = ERR_INIT;
	struct memory m;
	int ret = memory_new(&m, &o, &err);

	(void)state;
	if (ret == -ENOSYS || ret == -EPERM) {
		skip(); /* a kernel without NUMA, or a container that may not */
		return;
	}
	assert_int_equal(ret, 0);
	memory_free(&m);
	o.nodes = 1ull << 63;
	assert_int_equal(memory_new(&m, &o, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "NUMA"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(it_lies_around_the_hole),
		cmocka_unit_test(sizes_that_cannot_be_are_refused),
		cmocka_unit_test(preallocated_it_is_there_and_else_it_is_not),
		cmocka_unit_test(it_comes_from_the_nodes_that_it_is_bound_to),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
