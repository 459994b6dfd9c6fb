/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * byre-img measure: how large a file a new image needs, empty or filled from another.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "block/driver.h"
#include "tools/img.h"

static const char help[] =
	"Tell how large a file a new image needs.  Usage:\n\n"
	"  %s measure [-f FMT | --image-opts] [-O OUTPUT_FMT] [-o OPTIONS]\n"
	"        [-l SNAPSHOT] [-U] [--output human|json] [--object OBJDEF]\n"
	"        (--size SIZE | FILENAME)\n\n"
	"Options:\n"
	"  -h, --help\n     show this text\n"
	"  -O, --target-format FMT\n     format of the new image (raw)\n"
	"  -o, --target-options OPTIONS\n     options of the new image\n"
	"  -s, --size SIZE\n     of an empty disk of this size\n"
	"  -f, --format FMT\n     the source's format; found out from its contents by "
	"default\n"
	"  --image-opts\n     FILENAME is a list of options "
	"(driver=...,file.filename=...)\n"
	"  -l, --snapshot SNAPSHOT\n     the source as this snapshot saw it\n"
	"  --output human|json\n     form of the output (human)\n"
	"  -U, --force-share\n     open the source even if another program writes to it\n"
	"  --object OBJDEF\n     an object such as a secret\n";

struct measure {
	struct img_common common;
	const char *target_format, *snapshot, *filename;
	struct opts *opts;
	uint64_t size;
	bool has_size;
};

static void print_measure(const struct blk_measure *m, bool as_json)
{
	struct json *o;
	char *text;

	if (!as_json) {
		printf("required size: %" PRIu64 "\nfully allocated size: %" PRIu64 "\n",
			m->required, m->fully_allocated);
		if (m->has_bitmaps)
			printf("bitmaps size: %" PRIu64 "\n", m->bitmaps);
		return;
	}
	o = json_new_object();
	if (m->has_bitmaps)
		json_put_int(o, "bitmaps", (int64_t)m->bitmaps);
	json_put_int(o, "required", (int64_t)m->required);
	json_put_int(o, "fully-allocated", (int64_t)m->fully_allocated);
	text = json_dump(o, 4);
	printf("%s\n", text);
	free(text);
	json_free(o);
}

/* What only the file below would be told says nothing about the size. */
static void drop_option(const char *key, const char *value, void *arg)
{
	const struct measure *m = arg;
	const struct img_target format = {.format = blk_driver_find(m->target_format)};

	(void)value;
	if (!img_has_option(&format, key))
		opts_del(m->opts, key);
}

/* The options are those of a new image in a file. */
static int check_target(struct measure *m)
{
	struct err err = ERR_INIT;
	struct img_target target;
	struct opts *given;

	target.protocol = blk_driver_for_name("a file");
	target.format = blk_driver_find(m->target_format);
	if (!target.format || target.format->kind == BLK_FILTER)
		err_set(&err, EINVAL, "Unknown file format '%s'", m->target_format);
	else if (!target.format->format || !target.format->format->measure)
		err_set(&err, ENOTSUP,
			"Block driver '%s' does not support size measurement",
			m->target_format);
	if (err.code) {
		tool_report(NULL, &err);
		return -EINVAL;
	}
	if (img_check_options(&target, m->opts, &err) < 0) {
		tool_report(NULL, &err);
		tool_error("Invalid options for file format '%s'", m->target_format);
		return -EINVAL;
	}
	given = opts_dup(m->opts);
	opts_each(given, drop_option, m);
	opts_free(given);
	return 0;
}

static int check_arguments(const struct measure *m)
{
	if (m->has_size && m->filename)
		tool_error("--size N cannot be used together with a filename.");
	else if (!m->filename &&
		 (m->common.image_opts || m->common.format || m->snapshot))
		tool_error("--image-opts, -f, and -l require a filename argument.");
	else if (!m->filename && !m->has_size)
		tool_error("Either --size N or one filename must be specified.");
	else
		return img_check_image_opts(m->common.image_opts, m->common.format);
	return -EINVAL;
}

static int measure(struct measure *m)
{
	struct tool_image image = {
		m->filename, m->common.format, m->common.image_opts, NULL};
	struct err err = ERR_INIT;
	struct blk_measure result = {0};
	struct blk *src = NULL;
	int ret = -EINVAL;

	if (m->filename) {
		src = tool_open(&image, m->common.share ? BLK_O_SHARE : 0);
		if (!src)
			return -EINVAL;
		if (m->snapshot && img_load_snapshot(src, m->snapshot) < 0)
			goto out;
	}
	if (check_target(m) < 0)
		goto out;
	opts_setf(m->opts, "size", "%" PRIu64, src ? tool_disk_bytes(src) : m->size);
	ret = blk_measure(m->target_format, m->opts, src, &result, &err);
	if (ret < 0)
		tool_report(NULL, &err);
	else
		print_measure(&result, m->common.json);
out:
	return tool_close(src, ret);
}

static int parse(struct measure *m, int c)
{
	switch (c) {
	case 'O':
		m->target_format = optarg;
		return -1;
	case 'o':
		return img_parse_options(m->opts, optarg) < 0 ? 1 : -1;
	case 'l':
		m->snapshot = optarg;
		return -1;
	case 's':
		m->has_size = true;
		return tool_size(optarg, "image size", &m->size) < 0 ? 1 : -1;
	default:
		return img_common_option(&m->common, c);
	}
}

int img_measure(int argc, char **argv)
{
	static const struct option options[] = {
		{"help", no_argument, NULL, 'h'},
		{"target-format", required_argument, NULL, 'O'},
		{"target-options", required_argument, NULL, 'o'},
		{"options", required_argument, NULL, 'o'},
		{"size", required_argument, NULL, 's'},
		{"format", required_argument, NULL, 'f'},
		{"image-opts", no_argument, NULL, IMG_OPT_IMAGE_OPTS},
		{"snapshot", required_argument, NULL, 'l'},
		{"output", required_argument, NULL, IMG_OPT_OUTPUT},
		{"force-share", no_argument, NULL, 'U'},
		{"object", required_argument, NULL, IMG_OPT_OBJECT},
		{NULL, 0, NULL, 0},
	};
	struct measure m = {
		.common = {.command = "measure", .help = help},
		.target_format = "raw",
		.opts = opts_new(),
	};
	int c, ret = -1;

	while (ret < 0 &&
		(c = getopt_long(argc, argv, "hf:O:o:s:l:U", options, NULL)) >= 0)
		ret = parse(&m, c);
	if (ret < 0 && argc - optind > 1) {
		tool_error("At most one filename argument is allowed.");
		ret = 1;
	}
	if (ret < 0) {
		m.filename = optind < argc ? argv[optind] : NULL;
		ret = check_arguments(&m) < 0 || measure(&m) < 0 ? 1 : 0;
	}
	opts_free(m.opts);
	return ret;
}
