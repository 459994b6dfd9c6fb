/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Fuzz target: what users type. Option lists, JSON options, JSON values and sizes take
 * any text; what was parsed can be asked for and printed.
 */
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/opts.h"
#include "base/size.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void use_opts(struct opts *o)
{
	struct opts *rest = opts_take_prefix(o, "file.");
	struct opts *copy = opts_dup(o);
	bool flag = false;
	uint64_t n = 0;

	opts_take_bool(o, "a", &flag, NULL);
	opts_take_u64(o, "b", &n, NULL);
	opts_take_size(o, "c", &n, NULL);
	opts_merge(copy, rest, "file.");
	opts_check_unused(o, NULL);
	opts_free(rest);
	opts_free(copy);
}

static void parse_opts(const char *text, bool json)
{
	struct opts *o = opts_new();
	struct err err = ERR_INIT;
	int ret = json ? opts_parse_json(o, text, &err)
		       : opts_parse(o, text, "filename", &err);

	if (ret == 0)
		use_opts(o);
	else if (!err.msg[0])
		abort();
	opts_free(o);
}

static void parse_json(const char *text)
{
	struct err err = ERR_INIT;
	struct json *v = json_parse(text, &err);

	if (!v) {
		if (!err.msg[0])
			abort();
		return;
	}
	free(json_dump(v, 4));
	json_free(v);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	char *text = malloc(bytes + 1);
	uint64_t n;

	if (!text)
		return 0;
	if (bytes)
		memcpy(text, data, bytes);
	text[bytes] = 0;
	parse_opts(text, false);
	parse_opts(text, true);
	parse_json(text);
	size_parse(text, 'B', NULL, &n);
	free(text);
	return 0;
}
