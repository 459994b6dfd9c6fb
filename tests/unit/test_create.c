/* SPDX-License-Identifier: BSD-2-Clause */
/* Creating images: what is checked before anything is touched, and what is left when a
 * step fails; and what drivers without an operation answer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "support_odd.h"

const struct blk_driver *const blk_drivers[] = {
	&odd_driver, &plain_driver, &fmt_driver, &pass_driver, NULL};

static int clear(void **state)
{
	(void)state;
	odd_clear();
	return 0;
}

static int create(
	const char *name, const char *format, const char *options, struct err *err)
{
	struct opts *o = opts_new();
	int ret;

	*err = (struct err)ERR_INIT;
	assert_int_equal(opts_parse(o, options, NULL, err), 0);
	ret = blk_create(name, format, o, err);
	assert_int_equal(ret, -err->code);
	opts_free(o);
	return ret;
}

static void images_are_created_and_open(void **state)
{
	struct err err;
	struct blk *b;

	(void)state;
	assert_int_equal(create("new", "fmt", "size=4k", &err), 0);
	b = blk_open("new", NULL, 0, &err);
	assert_non_null(b);
	assert_string_equal(blk_driver_name(b), "fmt");
	assert_int_equal(blk_size(b), 4096);
	blk_close(b);
	assert_int_equal(create("odd:bare", "odd", "size=5000,shelf=3", &err), 0);
	assert_int_equal(odd_find("bare")->size, 5000);
}

static void old_content_is_gone(void **state)
{
	struct odd_disk *d = odd_add("old", 9000);
	struct err err;

	(void)state;
	memset(d->bytes, 7, 9000);
	assert_int_equal(create("old", "fmt", "size=4k,shelf=1", &err), 0);
	assert_int_equal(d->bytes[8000], 0);
	assert_memory_equal(d->bytes, "FMT!", 4);
	assert_int_equal(d->opens, 0);
	/* While it was written nobody else might write to it. */
	assert_int_equal(d->flags & BLK_O_SHARE_WRITE, 0);
}

static void bad_options_touch_nothing(void **state)
{
	struct odd_disk *d = odd_add("old", 9000);
	struct err err;

	(void)state;
	memset(d->bytes, 7, 9000);
	assert_int_equal(create("old", "fmt", "size=4k,colour=red", &err), -EINVAL);
	assert_string_equal(err.msg, "Invalid parameter 'colour'");
	assert_int_equal(create("old", "fmt", "size=4x", &err), -EINVAL);
	assert_int_equal(create("old", "fmt", "size=4k,fails=perhaps", &err), -EINVAL);
	assert_string_equal(err.msg, "Parameter 'fails' expects 'on' or 'off'");
	assert_int_equal(create("old", "fmt", "size=4k,shelf=top", &err), -EINVAL);
	assert_int_equal(create("old", "nosuch", "size=4k", &err), -EINVAL);
	assert_string_equal(err.msg, "Unknown file format 'nosuch'");
	assert_int_equal(create("old", "plain", "size=4k", &err), -ENOTSUP);
	assert_string_equal(
		err.msg, "Format driver 'plain' does not support image creation");
	assert_int_equal(create("nosuch:old", "fmt", "size=4k", &err), -EINVAL);
	assert_string_equal(err.msg, "Unknown protocol 'nosuch'");
	assert_int_equal(d->size, 9000);
	assert_int_equal(d->bytes[8999], 7);
	assert_int_equal(d->writes, 0);
}

static void what_somebody_uses_is_not_touched(void **state)
{
	struct odd_disk *d = odd_add("old", 9000);
	struct err err;

	(void)state;
	d->busy = true;
	assert_int_equal(create("old", "fmt", "size=4k", &err), -EAGAIN);
	assert_string_equal(err.msg, "'old' is in use");
	assert_int_equal(d->size, 9000);
}

static void what_was_made_for_nothing_is_removed(void **state)
{
	struct err err;

	(void)state;
	assert_int_equal(create("new", "fmt", "size=4k,fails=on", &err), -EIO);
	assert_string_equal(err.msg, "told to fail");
	assert_null(odd_find("new"));
	odd_add("old", 9000);
	assert_int_equal(create("old", "fmt", "size=4k,fails=on", &err), -EIO);
	assert_null(
		odd_find("old")); /* what it was is gone, half of a new one is no use */
}

static void a_failing_close_is_a_failing_create(void **state)
{
	struct odd_disk *d = odd_add("old", 0);
	struct err err;

	(void)state;
	d->close_ret = -ENOSPC;
	assert_int_equal(create("old", "fmt", "size=4k", &err), -ENOSPC);
}

static void drivers_say_what_they_cannot_do(void **state)
{
	struct err err = ERR_INIT;
	struct opts *o = opts_new();
	struct blk_snapshot *list;
	struct blk_measure m;
	struct blk_check c = {0};
	struct blk *b;
	bool dirty = true;
	uint32_t cluster = 7;
	bool changed;
	size_t n;

	(void)state;
	odd_add("d", 4096);
	opts_set(o, "driver", "pass");
	opts_set(o, "file.driver", "plain");
	opts_set(o, "file.file.filename", "d");
	b = blk_open(NULL, o, BLK_O_RDWR, &err); /* through a filter */
	assert_non_null(b);
	assert_int_equal(blk_snapshot_create(b, "s", &err), -ENOTSUP);
	assert_string_equal(err.msg, "driver 'plain' does not support snapshots");
	assert_int_equal(blk_snapshot_list(b, &list, &n, &err), -ENOTSUP);
	assert_int_equal(blk_snapshot_apply(b, "s", &changed, &err), -ENOTSUP);
	assert_int_equal(blk_snapshot_delete(b, "s", &err), -ENOTSUP);
	assert_int_equal(blk_snapshot_load(b, "s", &err), -ENOTSUP);
	assert_int_equal(blk_check(b, &c, 0, &err), -ENOTSUP);
	assert_string_equal(err.msg, "This image format does not support checks");
	assert_null(blk_format_info(b));
	blk_traits(b, &cluster, &dirty, NULL);
	assert_int_equal(cluster, 0);
	assert_false(dirty);
	assert_int_equal(blk_allocated(b), 4096);
	blk_close(b);
	opts_free(o);
	o = opts_new();
	assert_int_equal(blk_measure("fmt", o, NULL, &m, &err), -ENOTSUP);
	assert_string_equal(
		err.msg, "Block driver 'fmt' does not support size measurement");
	opts_free(o);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(images_are_created_and_open, clear),
		cmocka_unit_test_teardown(old_content_is_gone, clear),
		cmocka_unit_test_teardown(bad_options_touch_nothing, clear),
		cmocka_unit_test_teardown(what_somebody_uses_is_not_touched, clear),
		cmocka_unit_test_teardown(what_was_made_for_nothing_is_removed, clear),
		cmocka_unit_test_teardown(a_failing_close_is_a_failing_create, clear),
		cmocka_unit_test_teardown(drivers_say_what_they_cannot_do, clear),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
