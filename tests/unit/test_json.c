/* SPDX-License-Identifier: BSD-2-Clause */
/* JSON: qemu-img's layout and escapes, order, and limits on what is parsed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/json_split.h"

static void assert_dump(struct json *v, unsigned indent, const char *expect)
{
	char *text = json_dump(v, indent);

	assert_string_equal(text, expect);
	free(text);
}

static void layout_is_that_of_qemu_img(void **state)
{
	struct json *o = json_new_object(), *list = json_new_array(),
		    *sub = json_new_object();

	(void)state;
	json_put(o, "children", json_new_array());
	json_put_int(o, "virtual-size", 1048576);
	json_put_string(sub, "compat", "1.1");
	json_put_bool(sub, "corrupt", false);
	json_put(o, "data", sub);
	json_put(o, "none", json_new_object());
	json_add(list, json_new_int(-1));
	json_add(list, json_new_bool(true));
	json_put(o, "a-list", list);
	assert_dump(o, 4,
		"{\n"
		"    \"children\": [\n"
		"    ],\n"
		"    \"virtual-size\": 1048576,\n"
		"    \"data\": {\n"
		"        \"compat\": \"1.1\",\n"
		"        \"corrupt\": false\n"
		"    },\n"
		"    \"none\": {\n"
		"    },\n"
		"    \"a-list\": [\n"
		"        -1,\n"
		"        true\n"
		"    ]\n"
		"}");
	assert_dump(o, 0,
		"{\"children\": [], \"virtual-size\": 1048576, \"data\": {\"compat\": "
		"\"1.1\", "
		"\"corrupt\": false}, \"none\": {}, \"a-list\": [-1, true]}");
	json_free(o);
}

static void strings_are_escaped_as_qemu_img_does(void **state)
{
	static const struct {
		const char *text, *dump;
	} rows[] = {
		{"plain", "\"plain\""},
		{"q\"\\/<>\x01\x7f\t", "\"q\\\"\\\\/<>\\u0001\\u007F\\t\""},
		{"\b\f\n\r", "\"\\b\\f\\n\\r\""}, {"\xc3\xa9", "\"\\u00E9\""},
		{"\xf0\x9f\x98\x80", "\"\\uD83D\\uDE00\""}, {"a\xff b", "\"a\\uFFFD b\""},
		{"\xed\xa0\x80", "\"\\uFFFD\""},     /* a surrogate */
		{"\xe2\x82", "\"\\uFFFD\""},         /* cut off */
		{"\xe2\x82z", "\"\\uFFFDz\""},       /* cut off by a plain byte */
		{"\xf4\x90\x80\x80", "\"\\uFFFD\""}, /* above U+10FFFF */
		{"\xc0\x80", "\"\\uFFFD\""},         /* overlong */
	};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct json *v = json_new_string(rows[i].text);

		assert_dump(v, 4, rows[i].dump);
		json_free(v);
	}
}

static int collect_key(const char *key, const struct json *value, void *arg)
{
	(void)value;
	strcat(arg, key);
	return !strcmp(key, "m") ? 42 : 0;
}

static void members_keep_their_order(void **state)
{
	struct err err = ERR_INIT;
	struct json *o =
		json_parse("{\"z\": 1, \"a\": 2.5, \"m\": null, \"b\": [true]}", &err);
	char keys[16] = "";

	(void)state;
	assert_non_null(o);
	assert_int_equal(json_object_each(o, collect_key, keys), 42);
	assert_string_equal(keys, "zam");
	assert_int_equal(json_int_of(json_get(o, "z")), 1);
	assert_true(json_real_of(json_get(o, "a")) == 2.5);
	assert_int_equal(json_kind_of(json_get(o, "a")), JSON_REAL);
	assert_int_equal(json_kind_of(json_get(o, "m")), JSON_NULL);
	assert_int_equal(json_array_len(json_get(o, "b")), 1);
	assert_true(json_bool_of(json_array_at(json_get(o, "b"), 0)));
	assert_null(json_get(o, "q"));
	/* Setting a key again keeps its place. */
	json_put_string(o, "z", "new");
	json_put(o, "b", json_new_array());
	json_put(o, "m", json_new_object());
	assert_dump(o, 0, "{\"z\": \"new\", \"a\": 2.5, \"m\": {}, \"b\": []}");
	json_free(o);
}

static void assert_refused(const char *text, int code)
{
	struct err err = ERR_INIT;

	assert_null(json_parse(text, &err));
	assert_int_equal(err.code, code);
	assert_true(err.msg[0]);
}

static void bad_and_oversized_text_is_refused(void **state)
{
	char deep[200] = "", *big = malloc((1 << 20) + 2);
	struct json *v;

	(void)state;
	assert_refused("{\"a\": 1", EINVAL);
	assert_refused("", EINVAL);
	assert_refused("{\"a\": 1, \"a\": 2}", EINVAL);
	assert_refused("{\"a\": \"\xff\"}", EINVAL);
	assert_refused("{\"a\": 99999999999999999999}", EINVAL);
	memset(big, ' ', 1 << 20);
	strcpy(big + (1 << 20) - 1, "1");
	v = json_parse(big, NULL);
	assert_non_null(v);
	json_free(v);
	strcpy(big + (1 << 20) - 1, "12");
	assert_refused(big, E2BIG);
	free(big);
	memset(deep, '[', 65);
	memset(deep + 65, ']', 65);
	assert_refused(deep, EINVAL);
	deep[129] = 0; /* 64 levels */
	v = json_parse(deep + 1, NULL);
	assert_non_null(v);
	json_free(v);
	/* Brackets in strings are no levels. */
	v = json_parse("\"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["
		       "[[[[[[\\\"[\"",
		NULL);
	assert_non_null(v);
	json_free(v);
}

/* The values of a text that comes in pieces of this size, joined by bars. */
static void assert_split(const char *text, size_t bytes, size_t piece, const char *expect)
{
	struct json_split *s = json_split_new();
	char all[512] = "", *value;

	for (size_t at = 0; at < bytes; at += piece) {
		size_t n = bytes - at < piece ? bytes - at : piece;

		assert_int_equal(json_split_add(s, text + at, n), 0);
		while ((value = json_split_next(s))) {
			strcat(strcat(all, value), "|");
			free(value);
		}
	}
	assert_string_equal(all, expect);
	json_split_free(s);
}

static void a_stream_is_cut_into_its_values(void **state)
{
	static const struct {
		const char *text, *values;
	} rows[] = {
		{"", ""},
		{" {\"a\": 1}\r\n {} ", "{\"a\": 1}|{}|"},
		{"{\"a\": {\"b\": [1, {}]}}{}[]", "{\"a\": {\"b\": [1, {}]}}|{}|[]|"},
		{"{\"}\\\"{\": \"\\\\\"}{}", "{\"}\\\"{\": \"\\\\\"}|{}|"},
		{"{\"half\": ", ""},
		{"word 12 \"a b\"{}", "word|12|\"a b\"|{}|"},
		{"]}{}", "]|}|{}|"},
		{"x]{}", "x]|{}|"},
		{"{\"broken\n{}", "{\"broken\n|{}|"},
		{"{\"broken\": 1 \xff{}", "{\"broken\": 1 \xff|{}|"},
		{"{\"a\" \x01{}", "{\"a\" \x01|{}|"},
	};
	char deep[70];

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		for (size_t piece = 1; piece < 40; piece += 7)
			assert_split(rows[i].text, strlen(rows[i].text), piece,
				rows[i].values);
	assert_split("{\0{}", 4, 4, "{|{}|");
	assert_split("\0{}", 3, 1, "|{}|");
	memset(deep, '[', 65);
	strcpy(deep + 65, "{}");
	assert_split(deep, 67, 67,
		"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["
		"|{}|");
}

static void a_value_of_a_stream_is_bounded(void **state)
{
	struct json_split *s = json_split_new();
	char *big = malloc(1 << 20), *value;

	(void)state;
	memset(big, ' ', 1 << 20);
	for (unsigned i = 0; i < 3; i++) { /* space between values is none of them */
		assert_int_equal(json_split_add(s, big, 1 << 20), 0);
		assert_null(json_split_next(s));
	}
	big[0] = '[';
	big[(1 << 20) - 1] = ']';
	assert_int_equal(json_split_add(s, big, 1 << 20), 0);
	value = json_split_next(s);
	assert_int_equal(strlen(value), 1 << 20);
	free(value);
	assert_int_equal(json_split_add(s, big, (1 << 20) - 1), 0);
	assert_null(json_split_next(s));
	assert_int_equal(json_split_add(s, "x", 1), 0);
	assert_null(json_split_next(s));
	assert_int_equal(json_split_add(s, "x", 1), -E2BIG);
	json_split_free(s);
	free(big);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(layout_is_that_of_qemu_img),
		cmocka_unit_test(strings_are_escaped_as_qemu_img_does),
		cmocka_unit_test(members_keep_their_order),
		cmocka_unit_test(bad_and_oversized_text_is_refused),
		cmocka_unit_test(a_stream_is_cut_into_its_values),
		cmocka_unit_test(a_value_of_a_stream_is_bounded),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
