/* SPDX-License-Identifier: BSD-2-Clause */
/* See common-tree.h. Recursion is bounded: values come from json_parse (64 levels) or
 * from the drivers' own facts. */
#include "tools/common-tree.h"

#include <inttypes.h>
#include <stdio.h>

#include "tools/common.h"

static void print_value(const struct json *v, unsigned depth)
{
	switch (json_kind_of(v)) {
	case JSON_STRING:
		tool_line(stdout, " %s", json_string_of(v));
		return;
	case JSON_INT:
		printf(" %" PRId64 "\n", json_int_of(v));
		return;
	case JSON_BOOL:
		printf(" %s\n", json_bool_of(v) ? "true" : "false");
		return;
	default:
		putchar('\n');
		tool_print_tree(v, depth + 1);
	}
}

static int print_member(const char *key, const struct json *v, void *arg)
{
	unsigned depth = *(unsigned *)arg;

	printf("%*s", (int)(4 * depth), "");
	for (; *key; key++)
		putchar(*key == '-' ? ' ' : *key);
	putchar(':');
	print_value(v, depth);
	return 0;
}

void tool_print_tree(const struct json *v, unsigned depth)
{
	switch (json_kind_of(v)) {
	case JSON_OBJECT:
		json_object_each(v, print_member, &depth);
		return;
	case JSON_ARRAY:
		for (size_t i = 0; i < json_array_len(v); i++) {
			printf("%*s[%zu]:", (int)(4 * depth), "", i);
			print_value(json_array_at(v, i), depth);
		}
		return;
	default:
		return;
	}
}
