/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * byre-img lock: who holds an image, where that can be known; whether it could be had for
 * writing; and the lock of one who is gone, broken by whoever names the holder. What is
 * looked at is the place where the image lies: nothing is locked, and no format is read.
 */
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "block/storage.h"
#include "tools/img.h"

static const char help[] =
	"Show, test or break the locks of an image.  Usage:\n\n"
	"  %s lock [--image-opts] [--object OBJDEF] [--output human|json]\n"
	"        [--test | --break HOLDER] FILENAME\n\n"
	"Options:\n"
	"  -h, --help\n     show this text\n"
	"  -q, --quiet\n     print nothing but errors\n"
	"  --image-opts\n     FILENAME is a list of options "
	"(driver=...,file.filename=...)\n"
	"  --object OBJDEF\n     an object such as a secret\n"
	"  --output human|json\n     form of the output (human)\n"
	"  --test\n     exit with 0 where nobody holds a lock, and with 1 where somebody "
	"does\n"
	"  --break HOLDER\n     take the lock away from HOLDER, as this command shows "
	"it; what\n"
	"     that program has not written yet is lost to it\n";

enum { OPT_TEST = IMG_OPT_FIRST, OPT_BREAK };

static const char *text_of(const struct json *o, const char *key)
{
	const struct json *v = json_get(o, key);

	return v ? json_string_of(v) : NULL;
}

static void print_holder(const struct json *o)
{
	static const char *const more[] = {"host", "program", "since", "locks"};

	tool_line(stdout, "%s: %s%s%s", text_of(o, "kind"), text_of(o, "holder"),
		text_of(o, "name") ? ", by " : "",
		text_of(o, "name") ? text_of(o, "name") : "");
	for (size_t i = 0; i < sizeof(more) / sizeof(*more); i++)
		if (text_of(o, more[i]))
			tool_line(stdout, "    %s: %s", more[i], text_of(o, more[i]));
}

static void print_holders(const char *filename, const struct json *list)
{
	if (!json_array_len(list))
		tool_line(stdout, "%s: nobody holds a lock", filename);
	for (size_t i = 0; i < json_array_len(list); i++)
		print_holder(json_array_at(list, i));
}

static void print_json(const struct json *list)
{
	char *text = json_dump(list, 4);

	printf("%s\n", text);
	free(text);
}

/* The exit code. */
static int show(struct blk *b, const struct img_common *common, bool test)
{
	struct err err = ERR_INIT;
	struct json *list = blk_holders(b, &err);
	size_t n;

	if (!list) {
		tool_report(NULL, &err);
		return 1;
	}
	n = json_array_len(list);
	if (common->json)
		print_json(list);
	else if (!common->quiet)
		print_holders(blk_filename(b), list);
	json_free(list);
	return test && n ? 1 : 0;
}

static int break_lock(struct blk *b, const char *holder)
{
	struct err err = ERR_INIT;

	if (blk_break_lock(b, holder, &err) == 0)
		return 0;
	tool_report(NULL, &err);
	return 1;
}

/* The node where the image lies. */
static struct blk *place_of(struct blk *b)
{
	while (blk_file(b))
		b = blk_file(b);
	return b;
}

int img_lock(int argc, char **argv)
{
	static const struct option options[] = {
		{"help", no_argument, NULL, 'h'},
		{"quiet", no_argument, NULL, 'q'},
		{"image-opts", no_argument, NULL, IMG_OPT_IMAGE_OPTS},
		{"object", required_argument, NULL, IMG_OPT_OBJECT},
		{"output", required_argument, NULL, IMG_OPT_OUTPUT},
		{"test", no_argument, NULL, OPT_TEST},
		{"break", required_argument, NULL, OPT_BREAK},
		{NULL, 0, NULL, 0},
	};
	struct img_common common = {.command = "lock", .help = help};
	const char *holder = NULL;
	struct tool_image image;
	bool test = false;
	struct blk *b;
	int c, ret;

	while ((c = getopt_long(argc, argv, "hq", options, NULL)) >= 0) {
		ret = -1;
		if (c == OPT_TEST)
			test = true;
		else if (c == OPT_BREAK)
			holder = optarg;
		else
			ret = img_common_option(&common, c);
		if (ret >= 0)
			return ret;
	}
	ret = img_expect_names("lock", argc, 1, "one image file name");
	if (ret)
		return ret;
	if (test && holder)
		return img_usage("lock", "--test and --break exclude each other");
	image = (struct tool_image){argv[optind], NULL, common.image_opts, NULL};
	b = tool_open(
		&image, BLK_O_PROTOCOL | BLK_O_NO_IO | BLK_O_NO_BACKING | BLK_O_SHARE);
	if (!b)
		return 1;
	ret = holder ? break_lock(place_of(b), holder) : show(place_of(b), &common, test);
	return tool_close(b, 0) < 0 ? 1 : ret;
}
