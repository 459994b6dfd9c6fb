/* SPDX-License-Identifier: BSD-2-Clause */
/* Errors: codes, prefixes, hints, and texts longer than their room. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "base/err.h"

static void set_keeps_last_message_and_returns_negative_code(void **state)
{
	struct err err = ERR_INIT;

	(void)state;
	assert_int_equal(err_set(&err, ENOENT, "first %d", 1), -ENOENT);
	assert_int_equal(err_set(&err, EINVAL, "second %s", "x"), -EINVAL);
	assert_int_equal(err.code, EINVAL);
	assert_string_equal(err.msg, "second x");
}

static void message_may_use_the_old_one(void **state)
{
	struct err err = ERR_INIT;

	(void)state;
	err_set(&err, EIO, "inner");
	err_set(&err, EIO, "outer: %s", err.msg);
	assert_string_equal(err.msg, "outer: inner");
}

static void errno_text_is_appended(void **state)
{
	struct err err = ERR_INIT;

	(void)state;
	assert_int_equal(err_errno(&err, ENOENT, "open '%s'", "a"), -ENOENT);
	assert_string_equal(err.msg, "open 'a': No such file or directory");
}

static void prefix_keeps_code_and_hint(void **state)
{
	struct err err = ERR_INIT;

	(void)state;
	err_set(&err, EPERM, "no");
	err_hint(&err, "try %s", "harder");
	assert_int_equal(err_prefix(&err, "disk%d", 3), -EPERM);
	assert_string_equal(err.msg, "disk3: no");
	assert_string_equal(err.hint, "try harder");
	err_set(&err, EPERM, "again");
	assert_string_equal(err.hint, "");
}

static void null_err_still_fails(void **state)
{
	(void)state;
	assert_int_equal(err_set(NULL, EINVAL, "x"), -EINVAL);
	assert_int_equal(err_errno(NULL, EINVAL, "x"), -EINVAL);
	assert_int_equal(err_prefix(NULL, "x"), -EIO);
	err_hint(NULL, "x");
}

static void long_texts_are_cut_with_dots(void **state)
{
	struct err err = ERR_INIT;
	char text[3000];

	(void)state;
	memset(text, 'a', sizeof(text));
	text[sizeof(text) - 1] = 0;
	err_set(&err, EINVAL, "%s", text);
	assert_int_equal(strlen(err.msg), sizeof(err.msg) - 1);
	assert_string_equal(err.msg + sizeof(err.msg) - 5, "a...");
	err_hint(&err, "%s", text);
	assert_string_equal(err.hint + sizeof(err.hint) - 5, "a...");
	err_prefix(&err, "%s", "disk");
	assert_memory_equal(err.msg, "disk: aaa", 9);
	assert_int_equal(strlen(err.msg), sizeof(err.msg) - 1);
	assert_string_equal(err.msg + sizeof(err.msg) - 4, "...");
}

static void names_stay_on_the_line(void **state)
{
	struct err err = ERR_INIT;

	(void)state;
	err_errno(&err, ENOENT, "'%s'", "a\nb\x1b[2J\t\x7f");
	assert_string_equal(err.msg, "'a?b?[2J?\?': No such file or directory");
	err_prefix(&err, "%s", "x\ry");
	assert_memory_equal(err.msg, "x?y: 'a?b", 9);
	err_hint(&err, "%s", "a\nb");
	assert_string_equal(err.hint, "a?b");
	err_set(&err, EINVAL, "%s", "caf\xc3\xa9 \xe4\xba\x9b \xc2\xa0 \xc2\x9b!");
	assert_string_equal(err.msg, "caf\xc3\xa9 \xe4\xba\x9b \xc2\xa0 ?\?!");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(set_keeps_last_message_and_returns_negative_code),
		cmocka_unit_test(message_may_use_the_old_one),
		cmocka_unit_test(errno_text_is_appended),
		cmocka_unit_test(prefix_keeps_code_and_hint),
		cmocka_unit_test(null_err_still_fails),
		cmocka_unit_test(long_texts_are_cut_with_dots),
		cmocka_unit_test(names_stay_on_the_line),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
