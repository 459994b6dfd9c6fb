/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A machine's disk as people write it: a guest has file systems in it, so nobody else may write it
 * at once, whatever its format, unless share-rw=on says that the guests know of each other.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/math.h"
#include "block/format.h"
#include "block/secret.h"
#include "tests/unit/support_files.h"
#include "vmm/disk_options.h"

/* Where tests run there may be no direct I/O, which is what share-rw=on does without cache=. */
#define SHARED_RAW ",format=raw,share-rw=on,cache=writeback"

static const char *image(const char *format, const char *name)
{
	const char *path = scratch_path(name);
	struct opts *o = opts_new();
	struct err err = ERR_INIT;

	opts_set(o, "size", "1M");
	if (!strcmp(format, "luks")) {
		opts_set(o, "key-secret", "key");
		opts_set(o, "iter-time", "0");
	}
	assert_int_equal(blk_create(path, format, o, &err), 0);
	opts_free(o);
	return path;
}

static int open_disk(struct disk_spec *s, const char *path, const char *options)
{
	char text[512];
	struct err err = ERR_INIT;
	int ret;

	snprintf(text, sizeof(text), "file=%s%s", path, options);
	ret = disk_options_open(s, text, &err);
	if (ret == -EAGAIN)
		assert_non_null(strstr(err.hint, "Is another process using the image"));
	return ret;
}

static void close_disk(struct disk_spec *s)
{
	assert_int_equal(blk_close(s->disk.disk.blk), 0);
}

static void is_refused(const char *path, const char *options)
{
	struct disk_spec s;

	assert_int_equal(open_disk(&s, path, options), -EAGAIN);
	assert_null(s.disk.disk.blk);
}

static void a_disk_has_one_machine(void **state)
{
	static const struct {
		const char *format, *options;
	} disks[] = {
		{"raw", ",format=raw"},
		{"raw", ""}, /* probed */
		{"raw", ",format=file"},
		{"luks", ",format=luks,key-secret=key"},
		{"qcow2", ",format=qcow2"},
	};
	struct disk_spec one;

	(void)state;
	for (unsigned i = 0; i < ARRAY_LEN(disks); i++) {
		const char *path = image(disks[i].format, "disk"),
			   *options = disks[i].options;

		assert_int_equal(open_disk(&one, path, options), 0);
		is_refused(path, options);
		close_disk(&one);
		assert_int_equal(open_disk(&one, path, options), 0);
		close_disk(&one);
	}
}

static void a_tool_may_read_it_and_not_write(void **state)
{
	const char *path = image("raw", "disk");
	struct err err = ERR_INIT;
	struct disk_spec one;
	struct blk *reader;

	(void)state;
	assert_int_equal(open_disk(&one, path, ",format=raw"), 0);
	reader = blk_open_format(path, "raw", 0, &err);
	assert_non_null(reader);
	assert_int_equal(blk_close(reader), 0);
	assert_null(blk_open_format(path, "raw", BLK_O_RDWR, &err));
	assert_int_equal(err.code, EAGAIN);
	close_disk(&one);
}

static void a_disk_that_is_read_has_no_writer(void **state)
{
	const char *path = image("raw", "disk");
	struct disk_spec one, two;

	(void)state;
	assert_int_equal(open_disk(&one, path, ",format=raw,readonly"), 0);
	assert_int_equal(open_disk(&two, path, ",format=raw,readonly"), 0);
	is_refused(path, ",format=raw");
	close_disk(&two);
	close_disk(&one);
}

static void a_raw_disk_can_be_shared(void **state)
{
	const char *raw = image("raw", "raw"), *qcow2 = image("qcow2", "qcow2");
	struct disk_spec one, two;

	(void)state;
	assert_int_equal(open_disk(&one, raw, SHARED_RAW), 0);
	is_refused(raw, ",format=raw"); /* both have to say so */
	assert_int_equal(open_disk(&two, raw, SHARED_RAW), 0);
	assert_true(one.shared && two.shared && two.writable);
	close_disk(&two);
	close_disk(&one);

	/* Two programs would write its tables. */
	assert_int_equal(open_disk(&one, qcow2, ",format=qcow2,share-rw=on"), -EINVAL);
	assert_null(one.disk.disk.blk);
}

/* As by two mounts of one server: one of them has the lock for both. */
static void two_names_of_a_file_can_be_paths(void **state)
{
	const char *path = image("raw", "disk");
	char text[768];
	struct err err = ERR_INIT;
	struct disk_spec one;

	(void)state;
	snprintf(text, sizeof(text),
		"driver=raw,file.driver=multipath,file.assume-same=on,file.path.0=%s,"
		"file.path.1.driver=file,file.path.1.filename=%s,file.path.1.locking=off",
		path, path);
	assert_int_equal(disk_options_open(&one, text, &err), 0);
	is_refused(path, ",format=raw");
	close_disk(&one);
}

static void looking_does_not_mind(void **state)
{
	const char *path = image("raw", "disk");
	char text[512];
	struct err err = ERR_INIT;
	struct disk_spec one, look;

	(void)state;
	snprintf(text, sizeof(text), "file=%s,format=raw", path);
	assert_int_equal(open_disk(&one, path, ",format=raw"), 0);
	assert_int_equal(disk_options_look(&look, text, &err), 0);
	assert_true(look.writable && !look.shared);
	assert_int_equal(blk_flags(look.disk.disk.blk) & BLK_O_RDWR, 0);
	close_disk(&look);
	close_disk(&one);
	strcat(text, ",media=cdrom,iface=ahci,cache=writeback,share-rw=on");
	assert_int_equal(disk_options_look(&look, text, &err), 0);
	assert_true(!look.writable && look.shared);
	close_disk(&look);
}

static int set_up(void **state)
{
	struct opts *o = opts_new();
	struct err err = ERR_INIT;
	int ret = opts_parse(o, "id=key,data=open sesame", NULL, &err);

	(void)state;
	ret = ret ? ret : secret_add(o, &err);
	opts_free(o);
	return ret;
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_disk_has_one_machine),
		cmocka_unit_test(a_tool_may_read_it_and_not_write),
		cmocka_unit_test(a_disk_that_is_read_has_no_writer),
		cmocka_unit_test(a_raw_disk_can_be_shared),
		cmocka_unit_test(two_names_of_a_file_can_be_paths),
		cmocka_unit_test(looking_does_not_mind),
	};

	return cmocka_run_group_tests_name("disk options", tests, set_up, NULL);
}
