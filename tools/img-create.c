/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * byre-img create: a new image, empty or on top of a backing file. Everything that can be
 * wrong with the arguments is found before the file is touched.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "block/driver.h"
#include "tools/img.h"

static const char help[] =
	"Make a new image.  Usage:\n\n"
	"  %s create [-f FMT] [-o OPTIONS] [-b BACKING_FILENAME [-F BACKING_FMT]] [-u]\n"
	"        [-q] [--object OBJDEF] FILENAME [SIZE[bkKMGTPE]]\n\n"
	"Options:\n"
	"  -h, --help\n     show this text\n"
	"  -q, --quiet\n     no output but errors\n"
	"  -f, --format FMT\n     format of the new image (raw)\n"
	"  -o, --options OPTIONS\n     options of the format ('-o help' lists them)\n"
	"  -b, --backing BACKING_FILENAME\n     what the new image shows until it is "
	"written\n"
	"  -F, --backing-format BACKING_FMT\n     format of BACKING_FILENAME\n"
	"  -u, --backing-unsafe\n     do not open the backing file\n"
	"  --object OBJDEF\n     an object such as a secret\n"
	"  SIZE\n     of the disk; that of the backing file where there is one\n";

struct create {
	struct img_common common;
	struct opts *opts; /* everything goes in here: -o, then -b, -F and SIZE over it */
	const char *backing, *backing_format;
	const char *filename, *size;
	bool help, unsafe;
};

static int fault(const struct create *c, const struct err *err)
{
	tool_report(c->filename, err);
	return -err->code;
}

/* The size of the disk, and that the backing file is what it should be. */
static int look_at_backing(struct create *c, const char *name, struct err *err)
{
	const char *format = opts_peek(c->opts, "backing_fmt");
	struct blk *b = NULL;
	int ret;

	ret = img_open_backing(c->filename, name, format, c->unsafe ? NULL : &b, err);
	if (!ret && !format) {
		ret = err_set(
			err, EINVAL, "Backing file specified without backing format");
		if (b)
			err_hint(err, "Detected format of %s.", blk_driver_name(b));
	}
	if (!ret && b && !opts_peek(c->opts, "size"))
		opts_setf(c->opts, "size", "%" PRIu64, tool_disk_bytes(b));
	blk_close(b);
	return ret;
}

static int check_backing(
	struct create *c, const struct img_target *target, struct err *err)
{
	const char *name;
	int ret = img_set_backing(
		target, c->opts, c->backing, c->backing_format, &name, err);

	return ret || !name ? ret : look_at_backing(c, name, err);
}

static int set_size(struct create *c, struct err *err)
{
	uint64_t bytes;

	if (!c->size)
		return 0;
	if (tool_size(c->size, "image size", &bytes) < 0)
		return -EINVAL; /* it has been said */
	if (opts_peek(c->opts, "size"))
		return err_set(err, EINVAL, "The image size must be specified only once");
	opts_setf(c->opts, "size", "%" PRIu64, bytes);
	return 0;
}

static int create(struct create *c)
{
	const char *format = c->common.format ? c->common.format : "raw";
	struct err err = ERR_INIT;
	struct img_target target;

	if (set_size(c, &err) < 0)
		return err.code ? fault(c, &err) : -EINVAL;
	if (img_target_find(format, c->filename, &target, &err) < 0)
		return fault(c, &err);
	if (c->help) {
		img_print_options(&target);
		return 0;
	}
	if (img_check_options(&target, c->opts, &err) < 0 ||
		check_backing(c, &target, &err) < 0)
		return fault(c, &err);
	if (!opts_peek(c->opts, "size")) {
		err_set(&err, EINVAL, "Image creation needs a size parameter");
		return fault(c, &err);
	}
	if (!c->common.quiet)
		img_print_formatting(c->filename, format, &target, c->opts);
	return img_make(c->filename, format, c->opts, &err) < 0 ? fault(c, &err) : 0;
}

static int help_without_file(const struct create *c)
{
	const char *format = c->common.format ? c->common.format : "raw";
	struct err err = ERR_INIT;
	struct img_target target;

	if (img_target_find(format, NULL, &target, &err) < 0) {
		tool_report(NULL, &err);
		return 1;
	}
	img_print_options(&target);
	return 0;
}

static int parse(struct create *c, int opt)
{
	switch (opt) {
	case 'o':
		if (img_wants_help(optarg)) {
			c->help = true;
			return -1;
		}
		return img_parse_options(c->opts, optarg) < 0 ? 1 : -1;
	case 'b':
		c->backing = optarg;
		return -1;
	case 'F':
		c->backing_format = optarg;
		return -1;
	case 'u':
		c->unsafe = true;
		return -1;
	default:
		return img_common_option(&c->common, opt);
	}
}

static int parse_all(struct create *c, int argc, char **argv)
{
	static const struct option options[] = {
		{"help", no_argument, NULL, 'h'},
		{"quiet", no_argument, NULL, 'q'},
		{"format", required_argument, NULL, 'f'},
		{"options", required_argument, NULL, 'o'},
		{"backing", required_argument, NULL, 'b'},
		{"backing-format", required_argument, NULL, 'F'},
		{"backing-unsafe", no_argument, NULL, 'u'},
		{"object", required_argument, NULL, IMG_OPT_OBJECT},
		{NULL, 0, NULL, 0},
	};
	int opt, ret;

	while ((opt = getopt_long(argc, argv, "hqf:o:b:F:u", options, NULL)) >= 0) {
		ret = parse(c, opt);
		if (ret >= 0)
			return ret;
	}
	if (optind == argc)
		return c->help ? help_without_file(c)
			       : img_usage("create", "Expecting image file name");
	c->filename = argv[optind++];
	if (optind < argc)
		c->size = argv[optind++];
	if (optind < argc)
		return img_usage("create", "Unexpected argument: %s", argv[optind]);
	return -1;
}

int img_create(int argc, char **argv)
{
	struct create c = {
		.common = {.command = "create", .help = help}, .opts = opts_new()};
	int ret = parse_all(&c, argc, argv);

	if (ret < 0)
		ret = create(&c) < 0 ? 1 : 0;
	opts_free(c.opts);
	return ret;
}
