/* SPDX-License-Identifier: BSD-2-Clause */
/* Scatter lists against flat copies, and zero detection at every length and place. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "base/iov.h"
#include "base/math.h"

#define TOTAL 700

/* A vector over flat[] with empty and odd segments; returns the number of them. */
static int cut_up(
	unsigned *seed, struct iovec *iov, int limit, uint8_t *flat, size_t bytes)
{
	int n = 0;

	while (bytes > 0 && n < limit - 1) {
		size_t len = (size_t)rand_r(seed) % 60;

		len = MIN(len, bytes);
		iov[n].iov_base = flat;
		iov[n++].iov_len = len;
		flat += len;
		bytes -= len;
	}
	iov[n].iov_base = flat;
	iov[n++].iov_len = bytes;
	return n;
}

static void random_ranges_match_flat_buffer(void **state)
{
	uint8_t flat[TOTAL], model[TOTAL], buf[TOTAL];
	struct iovec iov[40], part[40];
	unsigned seed = 1;

	(void)state;
	for (int round = 0; round < 2000; round++) {
		size_t pos = (size_t)rand_r(&seed) % (TOTAL + 1);
		size_t len = (size_t)rand_r(&seed) % (TOTAL - pos + 1);
		int niov, n, byte = rand_r(&seed) & 0xff;

		for (size_t i = 0; i < TOTAL; i++)
			flat[i] = model[i] = (uint8_t)rand_r(&seed);
		niov = cut_up(&seed, iov, 40, flat, TOTAL);
		assert_int_equal(iov_bytes(iov, niov), TOTAL);

		iov_to_buf(iov, niov, pos, buf, len);
		assert_memory_equal(buf, model + pos, len);

		n = iov_slice(part, iov, niov, pos, len);
		assert_true(n <= niov);
		assert_int_equal(iov_bytes(part, n), len);
		iov_to_buf(part, n, 0, buf, len);
		assert_memory_equal(buf, model + pos, len);

		iov_fill(iov, niov, pos, byte, len);
		memset(model + pos, byte, len);
		assert_memory_equal(flat, model, TOTAL);

		for (size_t i = 0; i < len; i++)
			buf[i] = model[pos + i] = (uint8_t)rand_r(&seed);
		iov_from_buf(iov, niov, pos, buf, len);
		assert_memory_equal(flat, model, TOTAL);

		iov_fill(iov, niov, pos, 0, len);
		assert_true(iov_is_zero(iov, niov, pos, len));
		if (len > 0) {
			flat[pos + (size_t)byte % len] = 1;
			assert_false(iov_is_zero(iov, niov, pos, len));
		}
	}
}

static void one_set_bit_is_found_wherever_it_is(void **state)
{
	enum { SIZE = 1200 };
	uint8_t *buf = calloc(1, SIZE);

	(void)state;
	for (size_t start = 0; start < 40; start += 3)
		for (size_t len = 0; len + start <= SIZE; len += 1 + len / 16) {
			assert_true(buf_is_zero(buf + start, len));
			/* Just outside does not count. */
			if (start > 0)
				buf[start - 1] = 1;
			if (start + len < SIZE)
				buf[start + len] = 1;
			assert_true(buf_is_zero(buf + start, len));
			if (start > 0)
				buf[start - 1] = 0;
			if (start + len < SIZE)
				buf[start + len] = 0;
			for (size_t i = 0; i < len; i++) {
				buf[start + i] = (uint8_t)(1 << i % 8);
				assert_false(buf_is_zero(buf + start, len));
				buf[start + i] = 0;
			}
		}
	free(buf);
}

static void io_buffers_are_aligned(void **state)
{
	(void)state;
	for (size_t n = 1; n < 20000; n = n * 3 + 1) {
		uint8_t *p = buf_alloc(n);

		assert_non_null(p);
		assert_true(is_aligned((uintptr_t)p, 4096));
		memset(p, 1, n);
		buf_free(p);
	}
	assert_null(buf_alloc(0));
	assert_null(buf_alloc(SIZE_MAX));
	buf_free(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(random_ranges_match_flat_buffer),
		cmocka_unit_test(one_set_bit_is_found_wherever_it_is),
		cmocka_unit_test(io_buffers_are_aligned),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
