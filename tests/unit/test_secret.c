/* SPDX-License-Identifier: BSD-2-Clause */
/* Secrets: from options and files, raw and base64, and what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "block/secret.h"

static int clear(void **state)
{
	(void)state;
	secrets_clear();
	return 0;
}

static int add(const char *options, struct err *err)
{
	struct opts *o = opts_new();
	int ret;

	*err = (struct err)ERR_INIT;
	assert_int_equal(opts_parse(o, options, NULL, err), 0);
	ret = secret_add(o, err);
	/* The option's copy of a secret that was taken is gone. */
	if (!ret && opts_peek(o, "data"))
		assert_string_equal(opts_peek(o, "data"), "");
	opts_free(o);
	return ret;
}

static void assert_secret(const char *id, const char *bytes, size_t n)
{
	const void *data;
	size_t have;

	assert_int_equal(secret_find(id, &data, &have, NULL), 0);
	assert_int_equal(have, n);
	assert_memory_equal(data, bytes, n);
}

static void secrets_are_found_by_id(void **state)
{
	struct err err;
	const void *data;
	size_t n;

	(void)state;
	assert_int_equal(add("id=s0,data=geheim", &err), 0);
	assert_int_equal(add("id=s.1-b_,data=", &err), 0);
	assert_secret("s0", "geheim", 6);
	assert_secret("s.1-b_", "", 0);
	assert_int_equal(secret_find("s2", &data, &n, &err), -ENOENT);
	assert_string_equal(err.msg, "No secret with id 's2'");
	assert_int_equal(add("id=s0,data=x", &err), -EEXIST);
	assert_secret("s0", "geheim", 6);
	secrets_clear();
	assert_int_equal(secret_find("s0", &data, &n, NULL), -ENOENT);
}

static void base64_is_decoded(void **state)
{
	static const struct {
		const char *text, *bytes; /* NULL: refused */
		size_t n;
	} rows[] = {
		{"", "", 0},
		{"Zg==", "f", 1},
		{"Zm8=", "fo", 2},
		{"Zm9v", "foo", 3},
		{"Zm9v\nYmFy\n", "foobar", 6},
		{"AAD/+/8=", "\0\0\xff\xfb\xff", 5},
		{"Zm9", NULL, 0},
		{"Zg=", NULL, 0},
		{"Z===", NULL, 0},
		{"====", NULL, 0},
		{"Zg==Zg==", NULL, 0},
		{"Zm9*", NULL, 0},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct opts *o = opts_new();
		struct err err = ERR_INIT;

		opts_set(o, "id", "s");
		opts_set(o, "format", "base64");
		opts_set(o, "data", rows[i].text);
		assert_int_equal(secret_add(o, &err), rows[i].bytes ? 0 : -EINVAL);
		if (rows[i].bytes)
			assert_secret("s", rows[i].bytes, rows[i].n);
		else
			assert_string_equal(err.msg, "Secret 's' is not valid base64");
		opts_free(o);
		secrets_clear();
	}
}

static void files_are_taken_as_they_are(void **state)
{
	char path[] = "/tmp/test_secret.XXXXXX", options[100];
	int fd = mkstemp(path);
	struct err err;

	(void)state;
	assert_true(fd >= 0);
	assert_int_equal(write(fd, "line\n\0x", 7), 7);
	snprintf(options, sizeof(options), "id=f,file=%s", path);
	assert_int_equal(add(options, &err), 0);
	assert_secret("f", "line\n\0x", 7);
	/* One byte more than may be. */
	assert_int_equal(ftruncate(fd, (8 << 20) + 1), 0);
	snprintf(options, sizeof(options), "id=big,file=%s", path);
	assert_int_equal(add(options, &err), -EFBIG);
	assert_int_equal(ftruncate(fd, 8 << 20), 0);
	assert_int_equal(add(options, &err), 0);
	close(fd);
	unlink(path);
	snprintf(options, sizeof(options), "id=gone,file=%s", path);
	assert_int_equal(add(options, &err), -ENOENT);
}

static void bad_options_are_refused(void **state)
{
	struct err err;

	(void)state;
	assert_int_equal(add("data=x", &err), -EINVAL);
	assert_int_equal(add("id=1a,data=x", &err), -EINVAL);
	assert_int_equal(add("id=a/b,data=x", &err), -EINVAL);
	assert_int_equal(add("id=s", &err), -EINVAL);
	assert_string_equal(err.msg, "Must provide 'file' or 'data'");
	assert_int_equal(add("id=s,data=x,file=y", &err), -EINVAL);
	assert_string_equal(err.msg, "'file' and 'data' are mutually exclusive");
	assert_int_equal(add("id=s,data=x,format=hex", &err), -EINVAL);
	assert_int_equal(add("id=s,data=x,keyid=y", &err), -EINVAL);
	assert_string_equal(err.msg, "Invalid parameter 'keyid'");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(secrets_are_found_by_id, clear),
		cmocka_unit_test_teardown(base64_is_decoded, clear),
		cmocka_unit_test_teardown(files_are_taken_as_they_are, clear),
		cmocka_unit_test_teardown(bad_options_are_refused, clear),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
