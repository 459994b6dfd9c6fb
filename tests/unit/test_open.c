/* SPDX-License-Identifier: BSD-2-Clause */
/* Opening: names, options, probing, chains of backing files and what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/math.h"
#include "support_odd.h"

/* A protocol that is not for paths, as an image might name it. */
static int far_open(struct blk *b, struct opts *opts, struct err *err)
{
	(void)b;
	(void)opts;
	return err_set(err, EHOSTUNREACH, "far away");
}
static int far_parse(const char *name, struct opts *opts, struct err *err)
{
	(void)err;
	opts_set(opts, "url", name);
	return 0;
}
static const char *const far_schemes[] = {"far", NULL};
static const struct blk_driver far_driver = {.name = "far",
	.kind = BLK_PROTOCOL,
	.schemes = far_schemes,
	.parse_name = far_parse,
	.open = far_open};

const struct blk_driver *const blk_drivers[] = {
	&odd_driver, &plain_driver, &fmt_driver, &pass_driver, &far_driver, NULL};

static int clear(void **state)
{
	(void)state;
	odd_clear();
	return 0;
}

/* Opens by options "a=1,b=2" beside a name. */
static struct blk *try_open(
	const char *name, const char *options, unsigned flags, struct err *err)
{
	struct opts *o = opts_new();
	struct blk *b;

	*err = (struct err)ERR_INIT;
	assert_int_equal(opts_parse(o, options, NULL, err), 0);
	b = blk_open(name, o, flags, err);
	opts_free(o);
	assert_int_equal(!b, err->code > 0 && err->msg[0]);
	return b;
}

static struct blk *must_open(const char *name, const char *options, unsigned flags)
{
	struct err err;
	struct blk *b = try_open(name, options, flags, &err);

	if (!b)
		fail_msg("%s %s: %s", name ? name : "", options, err.msg);
	return b;
}

static void must_fail(
	const char *name, const char *options, unsigned flags, int code, const char *msg)
{
	struct err err;
	struct blk *b = try_open(name, options, flags, &err);

	if (b)
		fail_msg("%s %s did open", name ? name : "", options);
	assert_string_equal(err.msg, msg);
	assert_int_equal(err.code, code);
}

/* ---- names ----------------------------------------------------------------------- */

static void the_same_image_by_many_names(void **state)
{
	static const struct {
		const char *name, *options;
	} rows[] = {
		{"dir/i", ""},
		{"file:dir/i", ""},
		{"odd:dir/i", ""},
		{"dir/i", "driver=fmt"},
		{NULL, "file.filename=dir/i"},
		{NULL, "driver=fmt,file.filename=dir/i"},
		{NULL, "driver=fmt,file.driver=odd,file.filename=dir/i"},
		{NULL, "driver=fmt,file=dir/i"},
		{NULL, "driver=fmt,file.driver=plain,file.file.filename=dir/i"},
		{"json:{\"driver\": \"fmt\", \"file\": {\"driver\": \"odd\", "
		 "\"filename\": \"dir/i\"}}",
			""},
		{"json:{\"file.filename\": \"dir/i\"}", ""},
		{"json:{\"file\": {\"filename\": \"x\"}}", "file.filename=dir/i"},
		{NULL, "driver=pass,file.filename=dir/i"},
		{NULL, "driver=fmt,file.driver=pass,file.file.filename=dir/i"},
	};

	(void)state;
	odd_add_fmt("dir/i", 8192, false, NULL, NULL);
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct blk *b = must_open(rows[i].name, rows[i].options, BLK_O_RDWR);

		assert_string_equal(blk_filename(b), "dir/i");
		assert_int_equal(blk_size(b), 8192);
		assert_int_equal(blk_pwrite(b, 0, "x", 1, 0), 0);
		assert_int_equal(blk_close(b), 0);
		assert_int_equal(odd_find("dir/i")->opens, 0);
	}
}

static void odd_names_are_refused_in_words(void **state)
{
	(void)state;
	odd_add_fmt("i", 8192, false, NULL, NULL);
	must_fail("nosuch", "", 0, ENOENT,
		"Could not open 'nosuch': No such file or directory");
	must_fail("no:such", "", 0, EINVAL, "Unknown protocol 'no'");
	must_fail("i", "driver=zip", 0, EINVAL, "Unknown driver 'zip'");
	must_fail(NULL, "", 0, EINVAL, "Must specify either driver or file");
	must_fail(NULL, "driver=fmt", 0, EINVAL,
		"A block device must be specified for \"file\"");
	must_fail(NULL, "driver=odd", 0, EINVAL,
		"The 'odd' block driver requires a file name");
	must_fail("", "", 0, EINVAL, "The 'odd' block driver requires a file name");
	must_fail("i", "driver=fmt,file.filename=j", 0, EINVAL,
		"Can't specify 'file' and 'filename' options at the same time");
	must_fail("i", "driver=odd,filename=j", 0, EINVAL,
		"'i': a file name was given, and another with the option 'filename'");
	must_fail("json:[]", "", 0, EINVAL,
		"Could not parse the JSON options: Invalid JSON object given");
	must_fail("json:{\"driver\": \"fmt\", \"file\": null}", "", 0, EINVAL,
		"A block device must be specified for \"file\"");
	must_fail("far://x/y", "", 0, EHOSTUNREACH, "far away");
}

static void a_path_may_have_a_colon(void **state)
{
	struct blk *b;

	(void)state;
	odd_add_fmt("./a:b", 8192, true, "c:d", NULL);
	odd_add_fmt("a:b", 4096, true, "e", "plain");
	odd_add("./e", 512);
	must_fail("./a:b", "", 0, EPERM,
		"Could not open backing file: The image names 'c:d', which is not a "
		"plain path: "
		"refused");
	b = must_open("file:a:b", "", 0);
	assert_string_equal(blk_filename(b), "./a:b");
	assert_string_equal(blk_filename(blk_backing(b)), "./e");
	blk_close(b);
}

/* ---- options --------------------------------------------------------------------------
 */

static void options_nobody_knows_are_named(void **state)
{
	(void)state;
	odd_add_fmt("i", 8192, false, "base", NULL);
	odd_add_fmt("base", 8192, false, NULL, NULL);
	must_fail("i", "colour=red", 0, EINVAL,
		"Block format 'fmt' does not support the option 'colour'");
	must_fail("i", "file.colour=red", 0, EINVAL,
		"Block protocol 'odd' doesn't support the option 'colour'");
	must_fail("i", "backing.colour=red", 0, EINVAL,
		"Could not open backing file: Block format 'fmt' does not support the "
		"option "
		"'colour'");
	must_fail("i", "driver=plain,backing.driver=fmt", 0, EINVAL,
		"Driver 'plain' does not support backing files");
	must_fail("i", "flag=maybe", 0, EINVAL, "Parameter 'flag' expects 'on' or 'off'");
	must_fail("i", "read-only=maybe", 0, EINVAL,
		"Parameter 'read-only' expects 'on' or 'off'");
	must_fail("i", "cache.direct=maybe", 0, EINVAL,
		"Parameter 'cache.direct' expects 'on' or 'off'");
	must_fail("i", "discard=maybe", 0, EINVAL, "Invalid discard option");
	must_fail("i", "node-name=1ab", 0, EINVAL, "Invalid node-name: '1ab'");
	must_fail("i", "node-name=a/b", 0, EINVAL, "Invalid node-name: 'a/b'");
	must_fail("i", "detect-zeroes=unmap", 0, EINVAL,
		"setting detect-zeroes to unmap is not allowed without setting discard "
		"operation "
		"to unmap");
	must_fail("i", "force-share=on", BLK_O_RDWR, EINVAL,
		"force-share=on can only be used with read-only images");
	assert_int_equal(odd_find("i")->opens + odd_find("base")->opens, 0);
}

static void every_node_has_the_common_options(void **state)
{
	struct blk *b;
	unsigned all = BLK_O_DIRECT | BLK_O_NO_FLUSH | BLK_O_DISCARD | BLK_O_ZEROES |
		       BLK_O_ZEROES_UNMAP | BLK_O_SHARE;

	(void)state;
	odd_add_fmt("i", 8192, false, NULL, NULL);
	b = must_open("i",
		"node-name=disk0,cache.direct=on,cache.no-flush=on,discard=unmap,"
		"detect-zeroes=unmap,read-only=on,force-share=on,flag=on",
		BLK_O_RDWR);
	assert_true(blk_read_only(b));
	assert_int_equal(blk_flags(b) & all, all);
	assert_int_equal(odd_find("i")->flags & (BLK_O_ZEROES | BLK_O_ZEROES_UNMAP), 0);
	assert_true(odd_find("i")->flags & BLK_O_DIRECT);
	blk_close(b);
	b = must_open("i", "cache.direct=off,file.node-name=f,file.cache.direct=on",
		BLK_O_DIRECT);
	assert_false(blk_flags(b) & BLK_O_DIRECT);
	assert_true(odd_find("i")->flags & BLK_O_DIRECT);
	blk_close(b);
	b = must_open("i", "read-only=off", 0); /* gives no more than was asked */
	assert_true(blk_read_only(b));
	blk_close(b);
}

static void auto_read_only_falls_back(void **state)
{
	struct blk *b;

	(void)state;
	odd_add_fmt("i", 8192, false, NULL, NULL)->read_only = true;
	must_fail("i", "", BLK_O_RDWR, EACCES, "Could not open 'i': Permission denied");
	b = must_open("i", "auto-read-only=on,flag=on", BLK_O_RDWR);
	assert_true(blk_read_only(b));
	assert_true(blk_read_only(blk_file(b)));
	blk_close(b);
}

static void cache_modes_replace_each_other(void **state)
{
	unsigned flags = BLK_O_RDWR;

	(void)state;
	assert_int_equal(blk_cache_mode("none", &flags), 0);
	assert_int_equal(flags, BLK_O_RDWR | BLK_O_DIRECT);
	assert_int_equal(blk_cache_mode("directsync", &flags), 0);
	assert_int_equal(flags, BLK_O_RDWR | BLK_O_DIRECT | BLK_O_WRITETHROUGH);
	assert_int_equal(blk_cache_mode("unsafe", &flags), 0);
	assert_int_equal(flags, BLK_O_RDWR | BLK_O_NO_FLUSH);
	assert_int_equal(blk_cache_mode("fast", &flags), -EINVAL);
	assert_int_equal(flags, BLK_O_RDWR | BLK_O_NO_FLUSH);
	assert_int_equal(blk_cache_mode("writethrough", &flags), 0);
	assert_int_equal(flags, BLK_O_RDWR | BLK_O_WRITETHROUGH);
	assert_int_equal(blk_cache_mode("writeback", &flags), 0);
	assert_int_equal(flags, BLK_O_RDWR);
}

/* ---- probing --------------------------------------------------------------------- */

static void probing_decides_who_else_may_write(void **state)
{
	struct blk *b;

	(void)state;
	odd_add("d", 8192);
	odd_add_fmt("i", 8192, false, NULL, NULL);
	b = must_open("d", "", BLK_O_RDWR);
	assert_string_equal(blk_driver_name(b), "plain");
	assert_true(odd_find("d")->flags & BLK_O_SHARE_WRITE);
	blk_close(b);
	b = must_open("i", "", BLK_O_RDWR);
	assert_string_equal(blk_driver_name(b), "fmt");
	assert_false(odd_find("i")->flags & BLK_O_SHARE_WRITE);
	blk_close(b);
	b = must_open("i", "", BLK_O_RDWR | BLK_O_PROTOCOL);
	assert_string_equal(blk_driver_name(b), "odd");
	assert_true(odd_find("i")->flags & BLK_O_SHARE_WRITE);
	blk_close(b);
	b = must_open("i", "driver=plain", BLK_O_RDWR);
	assert_string_equal(blk_driver_name(b), "plain");
	blk_close(b);
	must_fail("d", "driver=fmt", 0, EINVAL, "Image is not in fmt format");
	assert_int_equal(odd_find("d")->opens, 0);
}

static void a_file_that_cannot_be_read_is_no_raw_disk(void **state)
{
	(void)state;
	odd_add("d", 8192)->fail = -EIO;
	must_fail("d", "", 0, EIO,
		"Could not read image for determining its format: Input/output error");
}

/* ---- backing files --------------------------------------------------------------- */

static void chains_open_read_only_beside_the_image(void **state)
{
	struct blk *b, *mid, *base;
	char c;

	(void)state;
	odd_add_fmt("dir/top", 8192, true, "sub/mid", "fmt");
	odd_add_fmt("dir/sub/mid", 8192, true, "/abs/base", NULL);
	memset(odd_add("/abs/base", 600)->bytes, 'b', 600);
	b = must_open("dir/top", "", BLK_O_RDWR | BLK_O_WRITETHROUGH);
	mid = blk_backing(b);
	base = blk_backing(mid);
	assert_string_equal(blk_filename(mid), "dir/sub/mid");
	assert_string_equal(blk_filename(base), "/abs/base");
	assert_string_equal(blk_driver_name(base), "plain");
	assert_null(blk_backing(base));
	assert_string_equal(blk_backing_name(b), "sub/mid");
	assert_string_equal(blk_backing_format(b), "fmt");
	assert_true(blk_read_only(mid) && blk_read_only(base));
	assert_false(odd_find("/abs/base")->flags & (BLK_O_RDWR | BLK_O_WRITETHROUGH));
	assert_int_equal(blk_pread(b, 599, &c, 1), 0);
	assert_int_equal(c, 'b');
	assert_int_equal(blk_pread(b, 600, &c, 1), 0);
	assert_int_equal(c, 0);
	assert_int_equal(blk_close(b), 0);
	assert_int_equal(odd_find("/abs/base")->opens, 0);
}

static void metadata_only_opens_the_image_alone(void **state)
{
	struct blk *b;

	(void)state;
	odd_add_fmt("top", 8192, true, "missing", NULL);
	b = must_open("top", "", BLK_O_NO_IO);
	assert_null(blk_backing(b));
	assert_string_equal(blk_backing_name(b), "missing");
	blk_close(b);
	b = must_open("top", "", BLK_O_NO_BACKING);
	assert_null(blk_backing(b));
	blk_close(b);
	b = must_open(
		"json:{\"file\": {\"filename\": \"top\"}, \"backing\": null}", "", 0);
	assert_null(blk_backing(b));
	blk_close(b);
	must_fail("top", "", 0, ENOENT,
		"Could not open backing file: Could not open 'missing': No such file or "
		"directory");
	assert_int_equal(odd_find("top")->opens, 0);
}

static void users_say_what_the_backing_file_is(void **state)
{
	struct blk *b;

	(void)state;
	odd_add_fmt("top", 8192, true, "mid", "fmt");
	odd_add_fmt("mid", 8192, true, "base", "fmt");
	odd_add_fmt("base", 8192, false, NULL, NULL);
	odd_add_fmt("other", 8192, false, NULL, NULL);
	b = must_open("top", "backing.file.filename=other", 0);
	assert_string_equal(blk_filename(blk_backing(b)), "other");
	blk_close(b);
	b = must_open("top", "backing=other", 0);
	assert_string_equal(blk_filename(blk_backing(b)), "other");
	blk_close(b);
	b = must_open("top", "backing.driver=plain", 0); /* how, not what */
	assert_string_equal(blk_filename(blk_backing(b)), "mid");
	assert_string_equal(blk_driver_name(blk_backing(b)), "plain");
	blk_close(b);
	b = must_open("top", "backing.backing.file.filename=other", 0);
	assert_string_equal(blk_filename(blk_backing(b)), "mid");
	assert_string_equal(blk_filename(blk_backing(blk_backing(b))), "other");
	blk_close(b);
	b = must_open("top", "backing.driver=pass,backing.file.filename=mid", 0);
	assert_string_equal(blk_driver_name(blk_backing(b)), "pass");
	assert_string_equal(blk_filename(blk_backing(blk_backing(b))), "base");
	blk_close(b);
}

static void images_name_plain_paths_and_formats_only(void **state)
{
	static const struct {
		const char *backing, *format, *msg;
	} rows[] = {
		{"far://host/x", NULL,
			"The image names 'far://host/x', which is not a plain path: "
			"refused"},
		{"json:{}", NULL,
			"The image names 'json:{}', which is not a plain path: refused"},
		{"odd:base", NULL,
			"The image names 'odd:base', which is not a plain path: refused"},
		{"base", "far",
			"The image says that its backing file is 'far', which is no "
			"format"},
		{"base", "pass",
			"The image says that its backing file is 'pass', which is no "
			"format"},
		{"base", "zip", "Unknown driver 'zip'"},
	};
	struct blk *b;

	(void)state;
	odd_add_fmt("base", 8192, false, NULL, NULL);
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		char msg[200];

		odd_add_fmt("top", 8192, true, rows[i].backing, rows[i].format);
		snprintf(
			msg, sizeof(msg), "Could not open backing file: %s", rows[i].msg);
		must_fail("top", "", 0, strstr(msg, "zip") ? EINVAL : EPERM, msg);
		odd_driver.format->remove("top");
	}
	odd_add_fmt("top", 8192, true, "odd:base", "odd");
	b = must_open("top", "", BLK_O_NAMES_TRUSTED);
	assert_string_equal(blk_driver_name(blk_backing(b)), "odd");
	blk_close(b);
}

static void loops_are_found(void **state)
{
	(void)state;
	odd_add_fmt("a", 8192, true, "b", "fmt");
	odd_add_fmt("b", 8192, true, "c", "fmt");
	odd_add_fmt("c", 8192, true, "b", "fmt");
	odd_add_fmt("self", 8192, true, "self", "fmt");
	must_fail("a", "", 0, ELOOP, "The chain of backing files comes back to 'b'");
	must_fail(
		"self", "", 0, ELOOP, "The chain of backing files comes back to 'self'");
	assert_int_equal(odd_find("b")->opens, 0);
}

static void chains_and_nests_have_an_end(void **state)
{
	char name[32], next[32];
	struct opts *o = opts_new();
	struct err err = ERR_INIT;
	struct blk *b;

	(void)state;
	for (int i = 0; i <= BLK_MAX_CHAIN; i++) {
		snprintf(name, sizeof(name), "n%d", i);
		snprintf(next, sizeof(next), "n%d", i + 1);
		odd_add_fmt(name, 512, true, i < BLK_MAX_CHAIN ? next : NULL, "fmt");
	}
	b = must_open("n1", "", 0);
	assert_int_equal(blk_close(b), 0);
	must_fail("n0", "", 0, ELOOP,
		"The chain of backing files is longer than 200 images");
	/* driver=pass,file.driver=pass,file.file.driver=pass, … */
	for (int depth = 0; depth < 30; depth++) {
		char key[200] = "";

		for (int i = 0; i < depth; i++)
			strcat(key, "file.");
		opts_set(o, strcat(key, "driver"), "pass");
	}
	assert_null(blk_open(NULL, o, 0, &err));
	assert_string_equal(err.msg, "Nodes nest deeper than 16");
	opts_free(o);
}

/* ---- names in images, one by one ------------------------------------------------- */

static void names_are_resolved_beside_the_image(void **state)
{
	static const struct {
		const char *image, *name, *path; /* NULL: refused */
	} rows[] = {
		{"top", "base", "base"},
		{"dir/top", "base", "dir/base"},
		{"dir/top", "./base", "dir/./base"},
		{"/a/b/top", "../base", "/a/b/../base"},
		{"dir/top", "/abs/base", "/abs/base"},
		{"", "base", "base"},
		{"far://host/dir/top", "base", "far://host/dir/base"},
		{"far://host/top?uid=1/2", "base", "far://host/base"},
		{"far://host/dir/top", "/abs/base", "/abs/base"},
		{"far:dir/top", "base", "far:dir/base"},
		{"far:top", "base", "far:base"},
		{"far://host", "evil/x", NULL},
		{"far://host/dir/top", "base?uid=0", NULL},
		{"top", "far:base", NULL},
		{"top", "json:{}", NULL},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct err err = ERR_INIT;
		char *path = NULL;
		int ret =
			blk_resolve_name(rows[i].image, rows[i].name, false, &path, &err);

		assert_int_equal(ret, rows[i].path ? 0 : -EPERM);
		if (rows[i].path)
			assert_string_equal(path, rows[i].path);
		else
			assert_true(err.hint[0]);
		free(path);
	}
}

static void close_reports_what_failed_below(void **state)
{
	struct blk *b;

	(void)state;
	odd_add_fmt("top", 8192, true, "base", "fmt");
	odd_add_fmt("base", 8192, false, NULL, NULL)->close_ret = -EDQUOT;
	b = must_open("top", "", BLK_O_RDWR);
	assert_int_equal(blk_close(b), -EDQUOT);
	assert_int_equal(odd_find("top")->opens + odd_find("base")->opens, 0);
	assert_int_equal(blk_close(NULL), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(the_same_image_by_many_names, clear),
		cmocka_unit_test_teardown(odd_names_are_refused_in_words, clear),
		cmocka_unit_test_teardown(a_path_may_have_a_colon, clear),
		cmocka_unit_test_teardown(options_nobody_knows_are_named, clear),
		cmocka_unit_test_teardown(every_node_has_the_common_options, clear),
		cmocka_unit_test_teardown(auto_read_only_falls_back, clear),
		cmocka_unit_test_teardown(cache_modes_replace_each_other, clear),
		cmocka_unit_test_teardown(probing_decides_who_else_may_write, clear),
		cmocka_unit_test_teardown(
			a_file_that_cannot_be_read_is_no_raw_disk, clear),
		cmocka_unit_test_teardown(chains_open_read_only_beside_the_image, clear),
		cmocka_unit_test_teardown(metadata_only_opens_the_image_alone, clear),
		cmocka_unit_test_teardown(users_say_what_the_backing_file_is, clear),
		cmocka_unit_test_teardown(
			images_name_plain_paths_and_formats_only, clear),
		cmocka_unit_test_teardown(loops_are_found, clear),
		cmocka_unit_test_teardown(chains_and_nests_have_an_end, clear),
		cmocka_unit_test_teardown(names_are_resolved_beside_the_image, clear),
		cmocka_unit_test_teardown(close_reports_what_failed_below, clear),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
