/* SPDX-License-Identifier: BSD-2-Clause */
/* Options: parsing, flattening, taking, and the naming of what nobody took. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/opts.h"

static void append_opt(const char *key, const char *value, void *arg)
{
	char *text = arg;

	sprintf(text + strlen(text), "%s<%s>", key, value);
}

static void assert_opts(const struct opts *o, const char *expect)
{
	char text[4096] = "";

	opts_each(o, append_opt, text);
	assert_string_equal(text, expect);
}

static void assert_parsed(const char *text, const char *implied, const char *expect)
{
	struct opts *o = opts_new();
	struct err err = ERR_INIT;

	if (opts_parse(o, text, implied, &err))
		fail_msg("%s: %s", text, err.msg);
	assert_opts(o, expect);
	opts_free(o);
}

static void words_become_options(void **state)
{
	(void)state;
	assert_parsed("", NULL, "");
	assert_parsed("a=1,b=2", NULL, "a<1>b<2>");
	assert_parsed("a=1,b=2,a=3", NULL, "b<2>a<3>");
	assert_parsed("a=x,,y,b=,,", NULL, "a<x,y>b<,>");
	assert_parsed("a=x=y,b=", NULL, "a<x=y>b<>");
	assert_parsed("lazy,nofoo,no", NULL, "lazy<on>foo<off>no<on>");
	assert_parsed("secret,id=x", "qom-type", "qom-type<secret>id<x>");
	assert_parsed("a=1,word", "type", "a<1>word<on>");
	assert_parsed("x,,y,z", "type", "type<x,y>z<on>");
	assert_parsed("=,b=1", NULL, "<>b<1>");
}

static void empty_words_are_refused(void **state)
{
	static const char *const bad[] = {",a=1", "a=1,", ",", "a=1,,,"};

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct opts *o = opts_new();
		struct err err = ERR_INIT;

		assert_int_equal(opts_parse(o, bad[i], NULL, &err), -EINVAL);
		assert_memory_equal(err.msg, "Invalid option list: ", 21);
		opts_free(o);
	}
}

static void json_is_flattened(void **state)
{
	struct opts *o = opts_new();
	struct err err = ERR_INIT;

	(void)state;
	assert_int_equal(
		opts_parse_json(o,
			"{\"driver\": \"qcow2\", \"file\": {\"filename\": \"a b\", "
			"\"x\": {}},"
			"\"n\": -5, \"on\": true, \"off\": false, \"backing\": null,"
			"\"portals\": [\"p\", {\"q\": 1}], \"r\": 0.5}",
			&err),
		0);
	assert_opts(o,
		"driver<qcow2>file.filename<a b>n<-5>on<on>off<off>backing<>portals.0<p>"
		"portals.1.q<1>r<0.5>");
	opts_free(o);
}

static void bad_json_is_refused(void **state)
{
	struct opts *o = opts_new();
	struct err err = ERR_INIT;
	char *text = malloc(1 << 17);
	size_t n = 1;

	(void)state;
	assert_int_equal(opts_parse_json(o, "[1]", &err), -EINVAL);
	assert_string_equal(err.msg, "Invalid JSON object given");
	assert_int_equal(opts_parse_json(o, "{", NULL), -EINVAL);
	strcpy(text, "{");
	for (int i = 0; i < 5000; i++)
		n += (size_t)sprintf(text + n, "%s\"k%d\":%d", i ? "," : "", i, i);
	strcpy(text + n, "}");
	assert_int_equal(opts_parse_json(o, text, &err), -E2BIG);
	strcpy(text, "{\"");
	memset(text + 2, 'k', 2000);
	strcpy(text + 2002, "\": 1}");
	assert_int_equal(opts_parse_json(o, text, &err), -EINVAL);
	free(text);
	opts_free(o);
}

static void what_nobody_took_is_named(void **state)
{
	struct opts *o = opts_new();
	struct err err = ERR_INIT;

	(void)state;
	opts_parse(o, "a=1,b=2", NULL, NULL);
	assert_null(opts_take(o, "zz"));
	assert_string_equal(opts_peek(o, "b"), "2");
	assert_string_equal(opts_take(o, "a"), "1");
	assert_int_equal(opts_check_unused(o, &err), -EINVAL);
	assert_string_equal(err.msg, "Invalid parameter 'b'");
	assert_string_equal(opts_first_unused(o), "b");
	struct opts *copy = opts_dup(o); /* knows what was taken */
	assert_string_equal(opts_first_unused(copy), "b");
	opts_free(copy);
	assert_string_equal(opts_take(o, "b"), "2");
	assert_int_equal(opts_check_unused(o, &err), 0);
	assert_string_equal(opts_take(o, "b"), "2");
	opts_set(o, "b", opts_peek(o, "b")); /* set again: untaken */
	assert_string_equal(opts_first_unused(o), "b");
	opts_free(o);
}

static void typed_values_say_what_they_expect(void **state)
{
	struct opts *o = opts_new();
	struct err err = ERR_INIT;
	static const char *const names[] = {"off", "full", NULL};
	bool flag = true;
	uint64_t n = 7;
	int which = 9;

	(void)state;
	opts_parse(o, "no=off,yes=yes,maybe=abc,num=0x10,neg=-1,size=1.5k,e=full,f=bad",
		NULL, NULL);
	assert_int_equal(opts_take_bool(o, "none", &flag, &err), 0);
	assert_true(flag);
	assert_int_equal(opts_take_bool(o, "no", &flag, &err), 0);
	assert_false(flag);
	assert_int_equal(opts_take_bool(o, "yes", &flag, &err), 0);
	assert_true(flag);
	assert_int_equal(opts_take_bool(o, "maybe", &flag, &err), -EINVAL);
	assert_string_equal(err.msg, "Parameter 'maybe' expects 'on' or 'off'");
	assert_int_equal(opts_take_u64(o, "none", &n, &err), 0);
	assert_int_equal(n, 7);
	assert_int_equal(opts_take_u64(o, "num", &n, &err), 0);
	assert_int_equal(n, 16);
	assert_int_equal(opts_take_u64(o, "maybe", &n, &err), -EINVAL);
	assert_string_equal(err.msg, "Parameter 'maybe' expects a number");
	n = 5000000000;
	assert_int_equal(opts_take_seconds(o, "none", &n, &err), 0);
	assert_int_equal(n, 5000000000);
	assert_int_equal(opts_take_seconds(o, "num", &n, &err), 0);
	assert_int_equal(n, 16000000000);
	opts_set(o, "long", "1048577");
	assert_int_equal(opts_take_seconds(o, "long", &n, &err), -EINVAL);
	assert_string_equal(err.msg, "long: at most 1048576 seconds");
	assert_int_equal(opts_take_seconds(o, "maybe", &n, &err), -EINVAL);
	assert_int_equal(n, 16000000000);
	assert_int_equal(opts_take_size(o, "size", &n, &err), 0);
	assert_int_equal(n, 1536);
	assert_int_equal(opts_take_size(o, "maybe", &n, &err), -EINVAL);
	assert_string_equal(
		err.msg, "Parameter 'maybe' expects a non-negative number below 2^64");
	assert_memory_equal(err.hint, "Optional suffix k, M,", 21);
	assert_int_equal(opts_take_size(o, "neg", &n, &err), -ERANGE);
	assert_string_equal(err.msg, "Value '-1' is out of range for parameter 'neg'");
	assert_int_equal(n, 1536);
	assert_int_equal(opts_take_enum(o, "none", names, &which, &err), 0);
	assert_int_equal(which, 9);
	assert_int_equal(opts_take_enum(o, "e", names, &which, &err), 0);
	assert_int_equal(which, 1);
	assert_int_equal(opts_take_enum(o, "f", names, &which, &err), -EINVAL);
	assert_string_equal(err.msg, "Parameter 'f' does not accept value 'bad'");
	assert_int_equal(opts_check_unused(o, &err), 0);
	opts_free(o);
}

static void prefixes_split_and_merge(void **state)
{
	struct opts *o = opts_new(), *sub;

	(void)state;
	opts_parse(o, "file.filename=x,a=1,file.driver=d,fileb=2", NULL, NULL);
	assert_true(opts_has_prefix(o, "file."));
	sub = opts_take_prefix(o, "file.");
	assert_opts(sub, "filename<x>driver<d>");
	assert_opts(o, "a<1>fileb<2>");
	assert_false(opts_has_prefix(o, "file."));
	opts_setf(o, "fmt", "%d-%s", 5, "x");
	opts_set(o, "file.driver", "old");
	opts_merge(o, sub, "file.");
	assert_opts(o, "a<1>fileb<2>fmt<5-x>file.filename<x>file.driver<d>");
	opts_del(o, "file.driver");
	opts_del(o, "nothing");
	opts_set(o, "last", "1");
	assert_opts(o, "a<1>fileb<2>fmt<5-x>file.filename<x>last<1>");
	assert_false(opts_empty(o));
	opts_free(sub);
	sub = opts_take_prefix(o, "");
	assert_true(opts_empty(o));
	opts_free(sub);
	opts_free(o);
	opts_free(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(words_become_options),
		cmocka_unit_test(empty_words_are_refused),
		cmocka_unit_test(json_is_flattened),
		cmocka_unit_test(bad_json_is_refused),
		cmocka_unit_test(what_nobody_took_is_named),
		cmocka_unit_test(typed_values_say_what_they_expect),
		cmocka_unit_test(prefixes_split_and_merge),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
