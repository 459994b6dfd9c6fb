/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * raw: whole files, parts of files, and files that end inside a sector.
 */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/math.h"
#include "block/blk.h"
#include "block/format.h"
#include "tests/unit/support_files.h"

#define RDWR (BLK_O_RDWR | BLK_O_DISCARD)

static const char *pattern_file(const char *name, size_t bytes)
{
	const char *path = scratch_file(name, 0);
	FILE *f = fopen(path, "wb");

	assert_non_null(f);
	for (size_t i = 0; i < bytes; i++)
		fputc((int)(i >> 9) + 1, f);
	assert_int_equal(fclose(f), 0);
	return path;
}

static uint64_t file_size(const char *path)
{
	struct stat st;

	assert_int_equal(stat(path, &st), 0);
	return (uint64_t)st.st_size;
}

static int byte_of(const char *path, off_t at)
{
	uint8_t c;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	assert_int_equal(pread(fd, &c, 1, at), 1);
	close(fd);
	return c;
}

static struct blk *open_with(const char *options, unsigned flags, struct err *err)
{
	struct opts *o = opts_new();
	struct blk *b;

	assert_int_equal(opts_parse(o, options, NULL, err), 0);
	b = blk_open(NULL, o, flags, err);
	opts_free(o);
	return b;
}

static struct blk *open_part(const char *path, const char *part, unsigned flags)
{
	struct err err = ERR_INIT;
	char options[512];
	struct blk *b;

	snprintf(options, sizeof(options), "driver=raw,file.filename=%s%s", path, part);
	b = open_with(options, flags, &err);
	if (!b)
		print_error("%s\n", err.msg);
	assert_non_null(b);
	return b;
}

static void a_disk_is_whole_sectors(void **state)
{
	const char *path = pattern_file("odd", 1000);
	struct blk *b = open_part(path, "", RDWR);
	uint8_t buf[1024];

	(void)state;
	assert_int_equal(blk_size(b), 1024);
	memset(buf, 0xff, sizeof(buf));
	assert_int_equal(blk_pread(b, 0, buf, 1024), 0);
	assert_int_equal(buf[511], 1);
	assert_int_equal(buf[999], 2);
	for (int i = 1000; i < 1024; i++)
		assert_int_equal(buf[i], 0);
	assert_int_equal(file_size(path), 1000);

	/* The missing bytes come into being when they are written. */
	assert_int_equal(blk_pwrite(b, 1020, "abcd", 4, 0), 0);
	assert_int_equal(blk_pread(b, 1000, buf, 24), 0);
	assert_memory_equal(buf + 20, "abcd", 4);
	assert_int_equal(buf[19], 0);
	assert_int_equal(blk_close(b), 0);
	assert_int_equal(file_size(path), 1024);
}

static void a_disk_has_an_end(void **state)
{
	struct blk *b = open_part(pattern_file("end", 2048), "", RDWR);
	uint8_t c = 0;

	(void)state;
	assert_int_equal(blk_pwrite(b, 2048, &c, 1, 0), -EIO);
	assert_int_equal(blk_pread(b, 2048, &c, 1), -EIO);
	assert_int_equal(blk_zero(b, 1536, 513, 0), -EIO);
	blk_close(b);
}

static void a_part_is_all_one_can_reach(void **state)
{
	const char *path = pattern_file("part", 8192);
	struct blk *b = open_part(path, ",offset=1000,size=2048", RDWR);
	uint8_t buf[2048];

	(void)state;
	assert_int_equal(blk_size(b), 2048);
	assert_int_equal(blk_pread(b, 0, buf, 2048), 0);
	for (int i = 0; i < 2048; i++)
		assert_int_equal(buf[i], ((1000 + i) >> 9) + 1);
	memset(buf, 0xee, sizeof(buf));
	assert_int_equal(blk_pwrite(b, 0, buf, 2048, BLK_FUA), 0);
	assert_int_equal(blk_pwrite(b, 2047, buf, 2, 0), -EIO);
	assert_int_equal(blk_zero(b, 512, 512, 0), 0);
	assert_int_equal(blk_flush(b), 0);
	assert_int_equal(blk_close(b), 0);
	assert_int_equal(byte_of(path, 999), (999 >> 9) + 1);
	assert_int_equal(byte_of(path, 1000), 0xee);
	assert_int_equal(byte_of(path, 1000 + 512), 0);
	assert_int_equal(byte_of(path, 1000 + 1023), 0);
	assert_int_equal(byte_of(path, 1000 + 1024), 0xee);
	assert_int_equal(byte_of(path, 3047), 0xee);
	assert_int_equal(byte_of(path, 3048), (3048 >> 9) + 1);
	assert_int_equal(file_size(path), 8192);
}

static void parts_that_are_not_there_are_refused(void **state)
{
	static const struct {
		const char *part, *message;
	} bad[] = {
		{",offset=8193", "Offset (8193) cannot be greater"},
		{",offset=16M", "Offset (16777216) cannot be greater"},
		{",offset=4096,size=4608", "The sum of offset (4096) and size (4608)"},
		{",size=8704", "The sum of offset (0) and size (8704)"},
		{",offset=512,size=9223372036854775807", "The sum of offset (512)"},
		{",size=1000", "not multiple of 512"},
		{",offset=-1", "offset"},
		{",size=many", "size"},
		{",length=512", "length"},
	};
	const char *path = pattern_file("refused", 8192);

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		struct err err = ERR_INIT;
		char options[512];

		snprintf(options, sizeof(options), "driver=raw,file.filename=%s%s", path,
			bad[i].part);
		assert_null(open_with(options, RDWR, &err));
		assert_non_null(strstr(err.msg, bad[i].message));
	}
}

/* A format in a part of a file writes past its end; a disk never does. */
static void in_a_protocols_place_it_grows(void **state)
{
	const char *path = pattern_file("grow", 1536);
	struct blk *b = open_part(path, ",offset=512", RDWR | BLK_O_PROTOCOL);
	uint8_t buf[4] = {1, 2, 3, 4};

	(void)state;
	assert_int_equal(blk_size(b), 1024);
	assert_int_equal(blk_pwrite(b, 5000, buf, 4, 0), 0);
	assert_int_equal(blk_size(b), 5004);
	assert_int_equal(file_size(path), 5516);
	assert_int_equal(blk_zero(b, 6000, 100, 0), 0);
	assert_int_equal(blk_size(b), 6100);
	assert_int_equal(blk_pread(b, 4998, buf, 4), 0);
	assert_memory_equal(buf, "\0\0\1\2", 4);
	assert_int_equal(blk_pread(b, 1 << 20, buf, 4), 0);
	assert_memory_equal(buf, "\0\0\0\0", 4);
	assert_int_equal(blk_close(b), 0);

	b = open_part(path, ",offset=512,size=1024", RDWR | BLK_O_PROTOCOL);
	assert_int_equal(blk_pwrite(b, 1024, buf, 1, 0), -EIO);
	blk_close(b);
}

static void extents_are_those_of_the_file(void **state)
{
	const char *path = scratch_file("holes", 4 * MiB);
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	struct blk_extent e;
	struct blk *b;

	(void)state;
	assert_int_equal(pwrite(fd, "data", 4, 2 * MiB), 4);
	assert_int_equal(close(fd), 0);
	b = open_part(path, ",offset=1M", 0);
	assert_int_equal(blk_extent(b, 0, 3 * MiB, &e), 0);
	assert_int_equal(e.bytes, 1 * MiB);
	assert_int_equal(e.flags, BLK_EXT_ZERO | BLK_EXT_ALLOCATED | BLK_EXT_HOST);
	assert_int_equal(e.host_offset, 1 * MiB);
	assert_int_equal(blk_extent(b, 1 * MiB, 2 * MiB, &e), 0);
	assert_int_equal(e.flags, BLK_EXT_DATA | BLK_EXT_ALLOCATED | BLK_EXT_HOST);
	assert_int_equal(e.host_offset, 2 * MiB);
	assert_true(e.host == blk_file(b));
	blk_close(b);

	b = open_part(pattern_file("tail", 1000), "", 0);
	assert_int_equal(blk_extent(b, 1000, 24, &e), 0);
	assert_true(e.flags & BLK_EXT_ZERO);
	assert_true(e.flags & BLK_EXT_EOF);
	blk_close(b);
}

static void resizing_moves_the_end_of_the_file(void **state)
{
	const char *path = pattern_file("resize", 4096);
	struct blk *b = open_part(path, ",offset=1024", RDWR);
	struct err err = ERR_INIT;
	uint8_t buf[512];

	(void)state;
	assert_int_equal(blk_resize(b, 8192, BLK_PREALLOC_OFF, &err), 0);
	assert_int_equal(blk_size(b), 8192);
	assert_int_equal(file_size(path), 9216);
	assert_int_equal(blk_pread(b, 3072, buf, 512), 0);
	for (int i = 0; i < 512; i++)
		assert_int_equal(buf[i], 0);
	assert_int_equal(blk_resize(b, 512, BLK_PREALLOC_OFF, &err), 0);
	assert_int_equal(file_size(path), 1536);
	assert_true(blk_resize(b, BLK_MAX_SIZE, BLK_PREALLOC_OFF, &err) < 0);
	assert_int_equal(blk_size(b), 512);
	assert_int_equal(blk_close(b), 0);

	b = open_part(path, ",size=512", RDWR);
	assert_int_equal(blk_resize(b, 1024, BLK_PREALLOC_OFF, &err), -ENOTSUP);
	assert_string_equal(err.msg, "Cannot resize fixed-size raw disks");
	blk_close(b);
}

static int create(const char *path, const char *options, struct err *err)
{
	struct opts *o = opts_new();
	int ret;

	assert_int_equal(opts_parse(o, options, NULL, err), 0);
	ret = blk_create(path, "raw", o, err);
	opts_free(o);
	return ret;
}

static void creating_rounds_up_and_allocates(void **state)
{
	const char *path = scratch_path("created");
	struct err err = ERR_INIT;
	struct stat st;

	(void)state;
	assert_int_equal(create(path, "size=1000", &err), 0);
	assert_int_equal(file_size(path), 1024);
	assert_int_equal(create(path, "size=1M,preallocation=full", &err), 0);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_size, MiB);
	assert_true(st.st_blocks * 512ull >= MiB);
	assert_int_equal(create(path, "size=2M", &err), 0);
	assert_int_equal(stat(path, &st), 0);
	assert_true(st.st_blocks * 512ull < MiB);
}

static void creating_nonsense_is_refused(void **state)
{
	static const char *const bad[][2] = {
		{"size=1M,preallocation=metadata",
			"Unsupported preallocation mode: metadata"},
		{"size=1M,preallocation=some", "some"},
		{"size=9223372036854775807", "too large"},
		{"size=1M,cluster_size=4096", "cluster_size"},
	};
	const char *path = scratch_path("nonsense");

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		struct err err = ERR_INIT;

		assert_true(create(path, bad[i][0], &err) < 0);
		assert_non_null(strstr(err.msg, bad[i][1]));
		assert_int_not_equal(access(path, F_OK), 0); /* nothing is left */
	}
}

static void measuring_is_the_size(void **state)
{
	struct blk_measure m;
	struct err err = ERR_INIT;
	struct opts *o = opts_new();

	(void)state;
	opts_set(o, "size", "1000");
	assert_int_equal(blk_measure("raw", o, NULL, &m, &err), 0);
	assert_int_equal(m.required, 1024);
	assert_int_equal(m.fully_allocated, 1024);
	opts_free(o);
}

static void copies_between_parts_of_files(void **state)
{
	const char *from = pattern_file("from", 64 * KiB),
		   *to = scratch_file("to", 64 * KiB);
	struct blk *src = open_part(from, ",offset=4096", 0);
	struct blk *dst = open_part(to, ",offset=8192", RDWR);
	int ret = blk_copy_range(src, 4096, dst, 0, 8192, 0);

	(void)state;
	assert_int_equal(blk_close(dst), 0);
	blk_close(src);
	if (ret == -ENOTSUP)
		skip(); /* the file system cannot */
	assert_int_equal(ret, 0);
	assert_int_equal(byte_of(to, 8191), 0);
	assert_int_equal(byte_of(to, 8192), 17);
	assert_int_equal(byte_of(to, 8192 + 8191), 32);
	assert_int_equal(byte_of(to, 16384), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_disk_is_whole_sectors),
		cmocka_unit_test(a_disk_has_an_end),
		cmocka_unit_test(a_part_is_all_one_can_reach),
		cmocka_unit_test(parts_that_are_not_there_are_refused),
		cmocka_unit_test(in_a_protocols_place_it_grows),
		cmocka_unit_test(extents_are_those_of_the_file),
		cmocka_unit_test(resizing_moves_the_end_of_the_file),
		cmocka_unit_test(creating_rounds_up_and_allocates),
		cmocka_unit_test(creating_nonsense_is_refused),
		cmocka_unit_test(measuring_is_the_size),
		cmocka_unit_test(copies_between_parts_of_files),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
