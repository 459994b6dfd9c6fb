/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Sparse counters: sums are kept whatever their width and wherever they lie, memory stays
 * under its limit, and what cannot be counted is an error. L2 tables: one entry each.
 */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>

#include "qcow2/count.h"

static void sums_are_kept(void **state)
{
	struct count c;

	(void)state;
	count_init(&c, 1 << 20);
	assert_int_equal(count_get(&c, 0), 0);
	assert_int_equal(count_get(&c, UINT64_MAX >> 9), 0);
	for (uint64_t i = 0; i < 10000; i++)
		assert_int_equal(count_add(&c, i, i % 7), 0);
	assert_int_equal(count_add(&c, 5, 3), 0);
	for (uint64_t i = 0; i < 10000; i++)
		assert_int_equal(count_get(&c, i), i % 7 + (i == 5 ? 3 : 0));
	count_sub(&c, 6, 6);
	assert_int_equal(count_get(&c, 6), 0);
	assert_int_equal(count_get(&c, 10000), 0);
	count_destroy(&c);
}

static void counters_widen_and_saturate(void **state)
{
	struct count c;

	(void)state;
	count_init(&c, 1 << 20);
	assert_int_equal(count_add(&c, 4000, UINT16_MAX), 0);
	assert_int_equal(count_add(&c, 4001, 1), 0);
	assert_int_equal(count_add(&c, 4000, 1), 0);
	assert_int_equal(count_get(&c, 4000), 65536);
	assert_int_equal(count_get(&c, 4001), 1);
	assert_int_equal(count_add(&c, 4000, 5), 0);
	assert_int_equal(count_get(&c, 4000), 65541);
	assert_int_equal(count_add(&c, 4001, UINT64_MAX), 0);
	assert_true(count_get(&c, 4001) == UINT64_MAX);
	/* A sum that wraps must not pass for a small one. */
	assert_int_equal(count_add(&c, 9000, 7), 0);
	assert_int_equal(count_add(&c, 9000, UINT64_MAX - 3), 0);
	assert_true(count_get(&c, 9000) == UINT64_MAX);
	count_destroy(&c);
}

static void memory_is_bounded(void **state)
{
	struct count c;
	uint64_t i = 0;
	int ret;

	(void)state;
	count_init(&c, 256 << 10);
	while (!(ret = count_add(&c, i * 1000003, 1)))
		i++;
	assert_int_equal(ret, -EFBIG);
	assert_in_range(i, 20, 64); /* chunks of 4 KiB and their table */
	assert_true(c.bytes <= c.limit);
	/* What was counted stays, and what has a chunk can still be counted. */
	assert_int_equal(count_add(&c, 0, 1), 0);
	assert_int_equal(count_get(&c, 0), 2);
	while (i--)
		assert_int_equal(count_get(&c, i * 1000003), i ? 1 : 2);
	count_destroy(&c);
}

static void chunks_come_in_order(void **state)
{
	const uint64_t at[] = {1ull << 50, 3, 77777, 1ull << 40, 5000, 4};
	struct count_chunk **v;
	struct count c;

	(void)state;
	count_init(&c, 1 << 20);
	for (size_t i = 0; i < sizeof(at) / sizeof(at[0]); i++)
		assert_int_equal(count_add(&c, at[i], i + 1), 0);
	assert_int_equal(c.n_chunks, 5);
	assert_int_equal(count_sorted(&c, &v), 0);
	assert_int_equal(v[0]->index, 0);
	assert_int_equal(v[1]->index, 5000 >> COUNT_CHUNK_BITS);
	assert_int_equal(v[2]->index, 77777 >> COUNT_CHUNK_BITS);
	assert_int_equal(v[3]->index, (1ull << 40) >> COUNT_CHUNK_BITS);
	assert_int_equal(v[4]->index, (1ull << 50) >> COUNT_CHUNK_BITS);
	assert_int_equal(count_chunk_get(v[0], 3), 2);
	assert_null(count_find(&c, 1));
	free(v);
	count_destroy(&c);
}

static void an_l2_table_is_one(void **state)
{
	struct l2_set s;

	(void)state;
	l2_set_init(&s);
	assert_null(l2_set_find(&s, 65536));
	for (uint32_t i = 0; i < 5000; i++)
		assert_int_equal(l2_set_add(&s, 65536ull * (i + 1), i % 2, i), 0);
	for (uint32_t i = 0; i < 5000; i++)
		assert_int_equal(l2_set_add(&s, 65536ull * (i + 1), true, i + 9), 0);
	assert_int_equal(s.n, 5000);
	for (uint32_t i = 0; i < 5000; i++) {
		const struct l2_table *t = l2_set_find(&s, 65536ull * (i + 1));

		assert_non_null(t);
		assert_int_equal(t->active, i % 2 ? 2 : 1);
		assert_int_equal(t->inactive, i % 2 ? 0 : 1);
		assert_int_equal(t->l1_index, i % 2 ? i : i + 9);
	}
	assert_null(l2_set_find(&s, 65536ull * 5001));
	l2_set_destroy(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sums_are_kept),
		cmocka_unit_test(counters_widen_and_saturate),
		cmocka_unit_test(memory_is_bounded),
		cmocka_unit_test(chunks_come_in_order),
		cmocka_unit_test(an_l2_table_is_one),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
