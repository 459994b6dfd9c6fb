/* SPDX-License-Identifier: BSD-2-Clause */
/* Sizes: each row was tried with qemu-img 10.0 (create -f raw x SIZE, info). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>

#include "base/math.h"
#include "base/size.h"

static void sizes_are_read_as_qemu_img_reads_them(void **state)
{
	static const struct {
		const char *text;
		int ret;
		uint64_t bytes;
	} rows[] = {
		{"512", 0, 512},
		{"1.5G", 0, 1610612736},
		{"0x10", 0, 16},
		{"0X10", 0, 16},
		{"0x0", 0, 0},
		{"0x10b", 0, 267},
		{"0x1E", 0, 30},
		{"1k", 0, 1024},
		{"1K", 0, 1024},
		{"1b", 0, 1},
		{"1B", 0, 1},
		{"1m", 0, 1048576},
		{"1T", 0, 1099511627776},
		{"1P", 0, 1125899906842624},
		{"1e", 0, 1152921504606846976},
		{"7E", 0, 8070450532247928832},
		{"1.5e", 0, 1729382256910270464},
		{"0.9999E", 0, 1152806212456386304},
		{"7.9999999999E", 0, 9223372036739483648},
		{"0.5k", 0, 512},
		{".5k", 0, 512},
		{"1.k", 0, 1024},
		{"1.", 0, 1},
		{"1.0", 0, 1},
		{"1.0b", 0, 1},
		{"0.1k", 0, 102},
		{"0.0005k", 0, 1},
		{"0.0001k", 0, 0},
		{"1.1k", 0, 1126},
		{"1.9999k", 0, 2048},
		{"0.9999999999999999999k", 0, 1024},
		{"1.99999999999999999999", 0, 2},
		{"1.0000000001G", 0, 1073741824},
		{"010", 0, 10},
		{" 1k", 0, 1024},
		{"\t1k", 0, 1024},
		{"+1k", 0, 1024},
		{"9223372036854775807", 0, 9223372036854775807},
		{"9223372036854775808", -ERANGE, 0},
		{"18446744073709551616", -ERANGE, 0},
		{"99999999999999999999", -ERANGE, 0},
		{"8E", -ERANGE, 0},
		{"9E", -ERANGE, 0},
		{"8.0E", -ERANGE, 0},
		{"7.99999999999999999999E", -ERANGE, 0},
		{"18014398509481983.9999k", -ERANGE, 0},
		{"0xffffffffffffffff", -ERANGE, 0},
		{"-1", -ERANGE, 0},
		{"-0", -ERANGE, 0},
		{"-1k", -EINVAL, 0},
		{"", -EINVAL, 0},
		{" ", -EINVAL, 0},
		{"k", -EINVAL, 0},
		{".", -EINVAL, 0},
		{"-", -EINVAL, 0},
		{"1e3", -EINVAL, 0},
		{"1e3k", -EINVAL, 0},
		{"1.5e3k", -EINVAL, 0},
		{"1.5", -EINVAL, 0},
		{"0.5", -EINVAL, 0},
		{"1.5b", -EINVAL, 0},
		{"1.00000000000000000001", -EINVAL, 0},
		{"0x10k", -EINVAL, 0},
		{"0x1.8k", -EINVAL, 0},
		{"0x", -EINVAL, 0},
		{"0xg", -EINVAL, 0},
		{"00x1", -EINVAL, 0},
		{"0b1", -EINVAL, 0},
		{"1k ", -EINVAL, 0},
		{"1 k", -EINVAL, 0},
		{"1kB", -EINVAL, 0},
		{"1KiB", -EINVAL, 0},
		{"1kk", -EINVAL, 0},
		{"1..5k", -EINVAL, 0},
		{"1,5k", -EINVAL, 0},
		{"99999999999999999999x", -EINVAL, 0},
		{"inf", -EINVAL, 0},
		{"nan", -EINVAL, 0},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		uint64_t n = 7777;

		if (size_parse(rows[i].text, 'B', NULL, &n) != rows[i].ret)
			fail_msg("'%s' gave another result", rows[i].text);
		if (n != (rows[i].ret ? 7777 : rows[i].bytes))
			fail_msg("'%s' is not %llu", rows[i].text, (unsigned long long)n);
	}
}

static void end_and_default_unit_are_honoured(void **state)
{
	const char *end;
	uint64_t n;

	(void)state;
	assert_int_equal(size_parse("5:rest", 'M', &end, &n), 0);
	assert_int_equal(n, 5 * MiB);
	assert_string_equal(end, ":rest");
	assert_int_equal(size_parse("5k,", 'M', &end, &n), 0);
	assert_int_equal(n, 5 * KiB);
	assert_string_equal(end, ",");
}

static void sizes_are_printed_as_qemu_img_prints_them(void **state)
{
	static const struct {
		uint64_t bytes;
		const char *text;
	} rows[] = {
		{0, "0 B"},
		{512, "512 B"},
		{999, "999 B"},
		{1024, "1 KiB"},
		{1536, "1.5 KiB"},
		{1022976, "999 KiB"},
		{1023488, "1e+03 KiB"},
		{1024000, "0.977 MiB"},
		{1047552, "0.999 MiB"},
		{1048064, "1 MiB"},
		{1048000000, "999 MiB"},
		{1048051712, "1e+03 MiB"},
		{1048576000, "0.977 GiB"},
		{123457024, "118 MiB"},
		{12345679360, "11.5 GiB"},
		{1099511627776, "1 TiB"},
		{UINT64_MAX, "16 EiB"},
	};
	char buf[32];

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		assert_string_equal(
			size_human(buf, sizeof(buf), rows[i].bytes), rows[i].text);
}

static void whole_numbers_only(void **state)
{
	uint64_t n = 7777;

	(void)state;
	assert_int_equal(u64_parse("18446744073709551616", &n), -ERANGE);
	assert_int_equal(u64_parse("", &n), -EINVAL);
	assert_int_equal(u64_parse("-1", &n), -EINVAL);
	assert_int_equal(u64_parse("1k", &n), -EINVAL);
	assert_int_equal(u64_parse(" 1", &n), -EINVAL);
	assert_int_equal(n, 7777);
	assert_int_equal(u64_parse("18446744073709551615", &n), 0);
	assert_true(n == UINT64_MAX);
	assert_int_equal(u64_parse("0x1fF", &n), 0);
	assert_int_equal(n, 0x1ff);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sizes_are_read_as_qemu_img_reads_them),
		cmocka_unit_test(end_and_default_unit_are_honoured),
		cmocka_unit_test(sizes_are_printed_as_qemu_img_prints_them),
		cmocka_unit_test(whole_numbers_only),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
