/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * byre-img resize: grows or shrinks the disk of an image, to a size or by one.
 */
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/math.h"
#include "base/size.h"
#include "block/driver.h"
#include "tools/img.h"

static const char help[] =
	"Grow or shrink an image.  Usage:\n\n"
	"  %s resize [-f FMT | --image-opts] [--preallocation PREALLOC] [--shrink]\n"
	"        [-q] [--object OBJDEF] FILENAME [+-]SIZE[bkKMGTPE]\n\n"
	"Options:\n"
	"  -h, --help\n     show this text\n"
	"  -q, --quiet\n     no output but errors\n"
	"  -f, --format FMT\n     the image's format; found out from its contents by "
	"default\n"
	"  --image-opts\n     FILENAME is a list of options "
	"(driver=...,file.filename=...)\n"
	"  --shrink\n     allow the disk to lose its end\n"
	"  --preallocation PREALLOC\n     of the part that is added: off, metadata, "
	"falloc, full\n"
	"  --object OBJDEF\n     an object such as a secret\n"
	"  [+-]SIZE\n     the new size, or by how much to change it\n";

enum { OPT_SHRINK = IMG_OPT_FIRST, OPT_PREALLOC };

struct resize {
	struct img_common common;
	enum blk_prealloc prealloc;
	bool shrink;
	char sign; /* '+', '-', or 0: to `bytes` */
	uint64_t bytes;
};

static int parse_prealloc(const char *text, enum blk_prealloc *out)
{
	for (int i = 0; blk_prealloc_names[i]; i++) {
		if (!strcmp(blk_prealloc_names[i], text)) {
			*out = (enum blk_prealloc)i;
			return -1;
		}
	}
	tool_error("Invalid preallocation mode '%s'", text);
	return 1;
}

static int parse_size(struct resize *r, const char *text)
{
	const char *digits = text;
	int ret;

	if (*text == '+' || *text == '-')
		r->sign = *digits++;
	ret = size_parse(digits, 'B', NULL, &r->bytes);
	if (ret == -ERANGE)
		tool_error("Value '%s' is out of range for parameter 'size'", digits);
	else if (ret < 0)
		tool_error("Parameter 'size' expects a non-negative number with an "
			   "optional suffix "
			   "k, M, G, T, P or E, not '%s'",
			text);
	return ret;
}

/* The new size in bytes; 0 with err set where it cannot be one. */
static uint64_t new_size(const struct resize *r, uint64_t size, struct err *err)
{
	uint64_t total = r->bytes;

	if (r->sign == '-')
		total = r->bytes < size ? size - r->bytes : 0;
	else if (r->sign == '+' && add_overflow(size, r->bytes, &total))
		total = UINT64_MAX;
	if (!total) {
		err_set(err, EINVAL, "New image size must be positive");
		return 0;
	}
	if (total > BLK_MAX_SIZE) {
		err_set(err, EINVAL,
			"New image size %" PRIu64 " is above the largest, %" PRIu64,
			total, (uint64_t)BLK_MAX_SIZE);
		return 0;
	}
	return total;
}

static int failed(const struct blk *b, const struct err *err)
{
	tool_report(blk_filename(b), err);
	return -err->code;
}

/* A device under a format may be larger than what is in it; one that is the disk itself is as large
 * as it is. */
static bool is_device(const struct blk *b)
{
	const struct blk *file = blk_file(b);
	const char *driver = blk_driver_name(b);

	return file && !(file->caps & BLK_CAP_GROW) &&
	       (!strcmp(driver, "raw") || !strcmp(driver, "luks"));
}

static int resize(const struct resize *r, struct blk *b)
{
	struct err err = ERR_INIT;
	/* A raw file may end inside a sector; it is asked for, and told, in whole ones. */
	uint64_t size = tool_disk_bytes(b), total = new_size(r, size, &err);

	if (!total)
		return failed(b, &err);
	if (total <= size && r->prealloc != BLK_PREALLOC_OFF) {
		err_set(&err, EINVAL,
			"Preallocation can only be used for growing images");
		return failed(b, &err);
	}
	if (total < size && !r->shrink) {
		err_set(&err, EINVAL,
			"Use the --shrink option to perform a shrink operation.");
		failed(b, &err);
		tool_warning("%s: shrinking gives up the data beyond byte %" PRIu64
			     " of the disk; make sure that nothing in use is there.",
			blk_filename(b), total);
		return -EINVAL;
	}
	if (total < size && is_device(b)) {
		err_set(&err, ENOTSUP, "Cannot resize device files");
		return failed(b, &err);
	}
	return blk_resize(b, total, r->prealloc, &err) < 0 ? failed(b, &err) : 0;
}

static int parse(struct resize *r, int c)
{
	if (c == OPT_PREALLOC)
		return parse_prealloc(optarg, &r->prealloc);
	if (c == OPT_SHRINK) {
		r->shrink = true;
		return -1;
	}
	return img_common_option(&r->common, c);
}

/* "-20M" or "-.5M" is a size, not options: it is taken out before getopt sees it. Returns it. */
static char *take_negative_size(int *argc, char **argv)
{
	for (int i = 1; i < *argc && strcmp(argv[i], "--"); i++) {
		char *arg = argv[i];

		const char *digits = arg[0] == '-' ? arg + 1 : "";

		if (!isdigit((unsigned char)digits[*digits == '.']))
			continue;
		memmove(&argv[i], &argv[i + 1], (size_t)(*argc - i) * sizeof(*argv));
		(*argc)--;
		return arg;
	}
	return NULL;
}

int img_resize(int argc, char **argv)
{
	static const struct option options[] = {
		{"help", no_argument, NULL, 'h'},
		{"quiet", no_argument, NULL, 'q'},
		{"format", required_argument, NULL, 'f'},
		{"image-opts", no_argument, NULL, IMG_OPT_IMAGE_OPTS},
		{"shrink", no_argument, NULL, OPT_SHRINK},
		{"preallocation", required_argument, NULL, OPT_PREALLOC},
		{"object", required_argument, NULL, IMG_OPT_OBJECT},
		{NULL, 0, NULL, 0},
	};
	struct resize r = {.common = {.command = "resize", .help = help}};
	const char *size = take_negative_size(&argc, argv);
	struct tool_image image;
	struct blk *b;
	int c, ret;

	while ((c = getopt_long(argc, argv, "hqf:", options, NULL)) >= 0) {
		ret = parse(&r, c);
		if (ret >= 0)
			return ret;
	}
	if (argc - optind < (size ? 1 : 2))
		return img_usage("resize", "Expecting image file name and size");
	if (argc - optind > (size ? 1 : 2))
		return img_usage("resize", "Extra argument(s) in command line");
	if (img_check_image_opts(r.common.image_opts, r.common.format) ||
		parse_size(&r, size ? size : argv[optind + 1]) < 0)
		return 1;
	image = (struct tool_image){
		argv[optind], r.common.format, r.common.image_opts, NULL};
	b = tool_open(&image, BLK_O_RDWR);
	if (!b)
		return 1;
	ret = tool_close(b, resize(&r, b));
	if (!ret && !r.common.quiet)
		printf("Image resized.\n");
	return ret < 0 ? 1 : 0;
}
