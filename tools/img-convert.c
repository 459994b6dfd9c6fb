/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * byre-img convert: copies one image, or several one after another, into a new one or
 * over an existing one.
 *
 * Order: arguments, sources, options of the target — only then is the target touched.
 * From there on every failure, and a signal, leaves no half-written file under its name:
 * what we made is removed, what was there before (-n, or a device) is called incomplete.
 * Success means that the target was flushed, unless -t unsafe gave that up.
 *
 * qemu-img's default for the target is unsafe. Ours costs the time the storage takes for what
 * the page cache still holds at the end: of 1.4 GiB, 0.2 to 0.5 s on a virtual disk where the
 * copy itself takes 1.5 s, nothing in memory.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/math.h"
#include "block/copy.h"
#include "block/driver.h"
#include "tools/img.h"

#define MAX_SPARSE_BYTES (16 * MiB)
#define DEFAULT_SPARSE   4096u

static const char help[] =
	"Copy images into a new one, of another format if wanted.  Usage:\n\n"
	"  %s convert [-f SRC_FMT | --image-opts] [-T SRC_CACHE] [-l SNAPSHOT] [-U]\n"
	"        [-O TGT_FMT] [-o TGT_OPTS | --target-image-opts] [-t TGT_CACHE] [-c] "
	"[-n]\n"
	"        [-B BACKING_FILENAME [-F BACKING_FMT]] [-S SPARSE_SIZE] [-C] [-W]\n"
	"        [-m TASKS] [-r RATE] [--salvage] [--target-is-zero] [-p] [-q]\n"
	"        [--object OBJDEF] SRC_FILENAME [SRC_FILENAME2 ...] TGT_FILENAME\n\n"
	"Options:\n"
	"  -h, --help\n     show this text\n"
	"  -q, --quiet\n     no output but errors\n"
	"  -p, --progress\n     show how far it is\n"
	"  -f, --source-format SRC_FMT\n     format of the sources; found out by "
	"default\n"
	"  --image-opts, --source-image-opts\n"
	"     SRC_FILENAMEs are lists of options (driver=...,file.filename=...)\n"
	"  -l, --source-snapshot SNAPSHOT\n     the source as this snapshot saw it\n"
	"  -T, --source-cache SRC_CACHE\n     cache mode of the sources (writeback)\n"
	"  -O, --target-format TGT_FMT\n     format of the target (raw)\n"
	"  --target-image-opts\n     TGT_FILENAME is a list of options; needs -n\n"
	"  -o, --target-options TGT_OPTS\n     options of the new image ('-o help' lists "
	"them)\n"
	"  -c, --compress\n     store the data compressed\n"
	"  -t, --target-cache TGT_CACHE\n"
	"     cache mode of the target (writeback, flushed at the end; unsafe: not "
	"flushed)\n"
	"  -B, --backing BACKING_FILENAME\n"
	"     put the target on top of this; it holds what the source's backing file "
	"does\n"
	"  -F, --backing-format BACKING_FMT\n     format of BACKING_FILENAME\n"
	"  -n, --no-create\n     write over an existing target\n"
	"  --target-is-zero\n     the existing target is known to read as zeros\n"
	"  -S, --sparse-size SPARSE_SIZE\n"
	"     zeros that make a hole (4k); 0: none do, everything is written\n"
	"  -U, --force-share\n     open sources even if another program writes to them\n"
	"  -r, --rate RATE\n     bytes a second at most\n"
	"  -m, --parallel TASKS\n     requests at once, 1 to 16 (8)\n"
	"  -C, --copy-range-offloading\n     let the system copy, by reflink if it can\n"
	"  --salvage\n     go on where the source cannot be read, with zeros\n"
	"  -W, --oob-writes\n     write in any order\n"
	"  --object OBJDEF\n     an object such as a secret\n";

enum {
	OPT_TARGET_OPTS = IMG_OPT_FIRST,
	OPT_TARGET_ZERO,
	OPT_SALVAGE,
	OPT_BITMAPS,
	OPT_SKIP_BITMAPS,
};

struct convert {
	struct img_common common;
	struct opts *opts; /* of the new image */
	const char *target_format, *target_cache, *snapshot, *backing, *backing_format;
	char **names; /* sources, then the target */
	size_t n_sources;
	uint64_t parallel, min_sparse, rate;
	bool help, has_options, has_sparse, compress, no_create, target_opts, target_zero;
	bool offload, out_of_order, salvage, bitmaps, skip_bitmaps;

	struct copy_source *sources;
	struct blk *dst;
	struct opts *keys; /* what opens the new image, of what made it */
	char *created; /* path to remove when all does not go well; NULL: nothing to */
	bool touched;  /* the target is not what it was */
};

static const char *target_name(const struct convert *c)
{
	return c->names[c->n_sources];
}

/*
 * Arguments.
 */

static int check_arguments(const struct convert *c)
{
	const char *fault = NULL;

	if (c->n_sources == 0)
		fault = "Must specify image file name";
	else if (c->skip_bitmaps && !c->bitmaps)
		fault = "Use of --skip-broken-bitmaps requires --bitmaps";
	else if (c->bitmaps)
		fault = "Copying bitmaps is not supported";
	else if (c->target_opts && !c->no_create)
		fault = "--target-image-opts requires use of -n flag";
	else if (c->offload && c->has_sparse)
		fault = "Cannot enable copy offloading when -S is used";
	else if (c->offload && c->compress)
		fault = "Cannot enable copy offloading when -c is used";
	else if (c->offload && c->salvage)
		fault = "Cannot use copy offloading in salvaging mode";
	else if (c->target_zero && !c->no_create)
		fault = "--target-is-zero requires use of -n flag";
	else if (c->target_zero && c->backing)
		fault = "Cannot use --target-is-zero when the destination image has a "
			"backing file";
	else if (c->no_create && c->has_options)
		fault = "-o has no effect when skipping image creation";
	else if (c->backing && c->n_sources > 1)
		fault = "Having a backing file for the target makes no sense when "
			"concatenating "
			"multiple input images";
	else if (c->snapshot && c->n_sources > 1)
		fault = "No support for concatenating multiple snapshot";
	if (fault) {
		tool_error("%s", fault);
		return -EINVAL;
	}
	if (img_check_image_opts(c->common.image_opts, c->common.format) < 0)
		return -EINVAL;
	return img_check_image_opts(c->target_opts, c->target_format);
}

static int parse_sparse(struct convert *c, const char *text)
{
	if (tool_size(text, "buffer size for sparse output", &c->min_sparse) < 0)
		return 1;
	c->has_sparse = true;
	if (is_aligned(c->min_sparse, BLK_SECTOR) && c->min_sparse <= MAX_SPARSE_BYTES)
		return -1;
	tool_error("Invalid buffer size for sparse output specified. Valid sizes are "
		   "multiples of "
		   "%u up to %llu. Select 0 to disable sparse detection (fully allocates "
		   "output).",
		BLK_SECTOR, MAX_SPARSE_BYTES);
	return 1;
}

static int parse_options(struct convert *c, const char *text)
{
	c->has_options = true;
	if (img_wants_help(text)) {
		c->help = true;
		return -1;
	}
	return img_parse_options(c->opts, text) < 0 ? 1 : -1;
}

static int parse_value(struct convert *c, int opt)
{
	switch (opt) {
	case 'O':
		c->target_format = optarg;
		return -1;
	case 'o':
		return parse_options(c, optarg);
	case 't':
		c->target_cache = optarg;
		return -1;
	case 'l':
		c->snapshot = optarg;
		return -1;
	case 'B':
		c->backing = optarg;
		return -1;
	case 'F':
		c->backing_format = optarg;
		return -1;
	case 'S':
		return parse_sparse(c, optarg);
	case 'm':
		return tool_number(optarg, "number of coroutines", 1, COPY_MAX_PARALLEL,
			       &c->parallel) < 0
			       ? 1
			       : -1;
	case 'r':
		return tool_size(optarg, "rate limit", &c->rate) < 0 ? 1 : -1;
	default:
		return img_common_option(&c->common, opt);
	}
}

static int parse_option(struct convert *c, int opt)
{
	switch (opt) {
	case 'c':
		c->compress = true;
		return -1;
	case 'n':
		c->no_create = true;
		return -1;
	case 'C':
		c->offload = true;
		return -1;
	case 'W':
		c->out_of_order = true;
		return -1;
	case OPT_TARGET_OPTS:
		c->target_opts = true;
		return -1;
	case OPT_TARGET_ZERO:
		c->target_zero = true;
		return -1;
	case OPT_SALVAGE:
		c->salvage = true;
		return -1;
	case OPT_BITMAPS:
		c->bitmaps = true;
		return -1;
	case OPT_SKIP_BITMAPS:
		c->skip_bitmaps = true;
		return -1;
	default:
		return parse_value(c, opt);
	}
}

/*
 * Sources.
 */

static int open_source(struct convert *c, size_t i, unsigned flags)
{
	struct tool_image image = {
		c->names[i], c->common.format, c->common.image_opts, NULL};
	struct copy_source *src = &c->sources[i];

	src->b = tool_open(&image, flags);
	if (!src->b || (c->snapshot && img_load_snapshot(src->b, c->snapshot) < 0))
		return -EINVAL;
	src->bytes = tool_disk_bytes(src->b);
	return 0;
}

static int open_sources(struct convert *c)
{
	unsigned flags = c->common.share ? BLK_O_SHARE : 0;
	const char *cache = c->common.cache ? c->common.cache : "writeback";

	if (tool_cache(cache, "source cache", &flags) < 0)
		return -EINVAL;
	c->sources = calloc(c->n_sources, sizeof(*c->sources));
	if (!c->sources) {
		tool_error("out of memory");
		return -ENOMEM;
	}
	for (size_t i = 0; i < c->n_sources; i++) {
		int ret = open_source(c, i, flags);

		if (ret < 0)
			return ret;
	}
	return 0;
}

static uint64_t total_bytes(const struct convert *c)
{
	uint64_t total = 0;

	for (size_t i = 0; i < c->n_sources; i++)
		total += c->sources[i].bytes;
	return total;
}

/* After a copy that came to `ret`, which is returned, or -errno. */
static int close_sources(struct convert *c, int ret)
{
	for (size_t i = 0; c->sources && i < c->n_sources; i++)
		ret = tool_close(c->sources[i].b, ret);
	free(c->sources);
	return ret;
}

/*
 * Target.
 */

static const char *format_of(const struct convert *c)
{
	return c->target_format ? c->target_format : "raw";
}

/* -B and -F, or the same in -o, and what has to be known with them. */
static int set_backing(
	struct convert *c, const struct img_target *target, struct err *err)
{
	int ret = img_set_backing(
		target, c->opts, c->backing, c->backing_format, &c->backing, err);

	if (ret || !c->backing)
		return ret;
	if (!opts_peek(c->opts, "backing_fmt"))
		return err_set(err, EINVAL,
			"Use of backing file requires explicit backing format");
	if (c->n_sources > 1)
		return err_set(err, EINVAL,
			"Having a backing file for the target makes no sense when "
			"concatenating "
			"multiple input images");
	return 0;
}

static int check_compression(
	const struct convert *c, const struct img_target *target, struct err *err)
{
	const char *prealloc = opts_peek(c->opts, "preallocation");

	if (!c->compress)
		return 0;
	if (!img_has_option(target, "compression_type"))
		return err_set(err, ENOTSUP,
			"%s: Compression not supported for this file format ('%s')",
			target_name(c), target->format->name);
	if (opts_peek(c->opts, "encrypt.format") || opts_peek(c->opts, "data_file"))
		return err_set(err, ENOTSUP,
			"%s: Compression and %s not supported at the same time",
			target_name(c),
			opts_peek(c->opts, "data_file") ? "a data file" : "encryption");
	if (prealloc && strcmp(prealloc, "off"))
		return err_set(err, ENOTSUP,
			"%s: Compression and preallocation not supported at the same "
			"time",
			target_name(c));
	return 0;
}

/* Writing to what is being read: a source itself, or anything that it is read through. */
static int check_not_a_source(const struct convert *c, const struct img_place *place)
{
	for (size_t i = 0; i < c->n_sources; i++) {
		if (!img_is_place_of(place, c->sources[i].b))
			continue;
		tool_error("%s: the target is one of the sources, or a file that one of "
			   "them is read through",
			target_name(c));
		return -EINVAL;
	}
	return 0;
}

static int check_name(const struct convert *c, const char *filename)
{
	struct img_place place = img_look_at_place(filename);
	int ret = check_not_a_source(c, &place);

	img_leave_place(&place);
	return ret;
}

/* One that is open. */
static int check_node(const struct convert *c, struct blk *b)
{
	const struct img_place place = {
		.path = (char *)(uintptr_t)blk_filename(b), .node = b};

	return check_not_a_source(c, &place);
}

static int check_backing(const struct convert *c, struct err *err)
{
	struct blk *b = NULL;
	int ret;

	if (!c->backing)
		return 0;
	ret = img_open_backing(
		target_name(c), c->backing, opts_peek(c->opts, "backing_fmt"), &b, err);
	blk_close(b);
	return ret;
}

/* An encrypted image is opened with the passphrase that it was made with. */
static void keep_keys(const char *key, const char *value, void *arg)
{
	if (!strcmp(key, "key-secret") || !strcmp(key, "encrypt.key-secret") ||
		!strcmp(key, "encrypt.format"))
		opts_set(arg, key, value);
}

/* Neither the image nor its data file, which is made anew, too. */
static int check_places(const struct convert *c)
{
	const char *data_file = opts_peek(c->opts, "data_file");
	int ret = check_name(c, target_name(c));
	char *name = NULL;

	if (ret || !data_file)
		return ret;
	if (blk_resolve_name(target_name(c), data_file, true, &name, NULL))
		return 0; /* which making it will say */
	ret = check_name(c, name);
	free(name);
	return ret;
}

/* Everything about the new image that can be wrong without touching it. */
static int check_target(struct convert *c, struct img_target *target)
{
	struct err err = ERR_INIT;
	int ret;

	ret = img_target_find(format_of(c), target_name(c), target, &err);
	if (!ret)
		ret = img_check_options(target, c->opts, &err);
	if (!ret)
		ret = set_backing(c, target, &err);
	if (!ret)
		ret = check_compression(c, target, &err);
	if (!ret)
		ret = check_backing(c, &err);
	if (ret < 0) {
		tool_report(NULL, &err);
		return ret;
	}
	return check_places(c);
}

/* A regular file that we replace is ours to remove. */
static char *removable_path(const char *filename)
{
	char *path = img_local_path(filename);
	struct stat st;

	if (path && !lstat(path, &st) && !S_ISREG(st.st_mode)) {
		free(path);
		path = NULL;
	}
	return path;
}

static int create_target(struct convert *c)
{
	struct err err = ERR_INIT;
	struct img_target target;

	if (check_target(c, &target) < 0)
		return -EINVAL;
	opts_setf(c->opts, "size", "%" PRIu64, total_bytes(c));
	c->keys = opts_new();
	opts_each(c->opts, keep_keys, c->keys);
	if (img_make(target_name(c), format_of(c), c->opts, &err) < 0) {
		/* What was made is removed already. */
		tool_error("%s: error while converting %s: %s", target_name(c),
			format_of(c), err.msg);
		if (err.hint[0])
			fprintf(stderr, "%s\n", err.hint);
		return -EIO;
	}
	c->created = removable_path(target_name(c));
	c->touched = true;
	return 0;
}

static int open_target(struct convert *c)
{
	struct tool_image image = {target_name(c), c->target_opts ? NULL : format_of(c),
		c->target_opts, c->keys};
	unsigned flags = BLK_O_RDWR | (c->min_sparse ? BLK_O_DISCARD : 0);
	struct blk *file;

	if (tool_cache(c->target_cache ? c->target_cache : "writeback", "cache", &flags) <
		0)
		return -EINVAL;
	c->dst = tool_open(&image, flags);
	if (!c->dst)
		return -EINVAL;
	for (file = c->dst; blk_file(file);)
		file = blk_file(file);
	if (check_node(c, file) < 0 ||
		(c->dst->data_file && check_node(c, c->dst->data_file) < 0))
		return -EINVAL;
	if (c->compress && !(c->dst->caps & BLK_CAP_COMPRESS)) {
		tool_error("%s: Compression not supported for this file format ('%s')",
			blk_filename(c->dst), blk_driver_name(c->dst));
		return -ENOTSUP;
	}
	if (c->no_create && c->backing && !blk_backing(c->dst)) {
		tool_error("%s: it has no backing file, which -B says",
			blk_filename(c->dst));
		return -EINVAL;
	}
	if (c->target_zero && blk_backing(c->dst)) {
		tool_error("Cannot use --target-is-zero when the destination image has a "
			   "backing "
			   "file");
		return -EINVAL;
	}
	if (blk_size(c->dst) < total_bytes(c)) {
		tool_error("%s: output file is smaller than input file (%" PRIu64
			   " of %" PRIu64 " bytes)",
			blk_filename(c->dst), blk_size(c->dst), total_bytes(c));
		return -EINVAL;
	}
	return 0;
}

/*
 * Copying.
 */

static void on_progress(void *arg, uint64_t done, uint64_t total)
{
	(void)arg;
	progress_update(done, total);
}

static void on_salvaged(void *arg, uint64_t offset, int code)
{
	const struct convert *c = arg;

	if (!c->common.quiet)
		tool_warning("error while reading offset %" PRIu64 ": %s", offset,
			strerror(code));
}

static int copy(struct convert *c, struct err *err)
{
	struct copy_job job = {
		.sources = c->sources,
		.n_sources = c->n_sources,
		.dst = c->dst,
		.min_sparse = c->min_sparse,
		.compressed = c->compress,
		.target_is_zero =
			c->target_zero || (!c->no_create && copy_starts_zero(c->dst)),
		.out_of_order = c->out_of_order,
		.copy_offload = c->offload,
		.salvage = c->salvage,
		.parallel = (unsigned)c->parallel,
		.rate_bytes = c->rate,
		.cancel = &tool_cancel,
		.progress = on_progress,
		.salvaged = on_salvaged,
		.arg = c,
	};

	if (blk_backing(c->dst))
		job.backing_bytes = blk_size(blk_backing(c->dst));
	/* What the source's own backing file has, the target's is said to have too. */
	if (c->backing)
		job.base = blk_backing(c->sources[0].b);
	c->touched = true;
	return copy_run(&job, err);
}

/* After a failure: nothing half-written stays under the target's name without a word, and
 * one failure is one line. err has what has not been said yet. */
static void give_up(const struct convert *c, const struct err *err)
{
	bool removed = c->created && !unlink(c->created);
	bool incomplete = !removed && c->touched;

	if (tool_interrupted())
		tool_error("interrupted: '%s' %s", target_name(c),
			removed      ? "has been removed"
			: incomplete ? "is incomplete"
				     : "has not been touched");
	else if (incomplete)
		tool_error("%s%s'%s' is incomplete", err->msg, err->code ? "; " : "",
			target_name(c));
	else if (err->code)
		tool_report(NULL, err);
}

static int copy_to_target(struct convert *c)
{
	struct err err = ERR_INIT;
	unsigned flags;
	int ret = 0, closed;

	/* A wrong cache mode is better found before the target is made. */
	flags = 0;
	if (c->target_cache && tool_cache(c->target_cache, "cache", &flags) < 0)
		return -EINVAL;
	if (!c->no_create)
		ret = create_target(c);
	tool_catch_signals();
	if (!ret)
		ret = open_target(c);
	if (!ret)
		ret = copy(c, &err);
	/* What did not go out is often what the copy has failed with. */
	closed = tool_close_quietly(c->dst, ret < 0 ? NULL : &err);
	if (!ret)
		ret = closed;
	if (!ret && tool_interrupted())
		ret = -ECANCELED;
	if (ret < 0)
		give_up(c, &err);
	return ret;
}

static int convert(struct convert *c)
{
	int ret;

	progress_begin(c->common.progress && !c->common.quiet, 1);
	ret = open_sources(c);
	if (!ret)
		ret = copy_to_target(c);
	ret = close_sources(c, ret);
	if (!ret)
		progress_update(1, 1);
	progress_end();
	opts_free(c->keys);
	free(c->created);
	return ret;
}

static int print_options(const struct convert *c, int names)
{
	struct err err = ERR_INIT;
	struct img_target target;

	/* With a source and a target, the target's protocol counts too. */
	if (img_target_find(format_of(c), names > 1 ? c->names[names - 1] : NULL, &target,
		    &err) < 0) {
		tool_report(NULL, &err);
		return 1;
	}
	img_print_options(&target);
	return 0;
}

static int parse(struct convert *c, int argc, char **argv)
{
	static const struct option options[] = {
		{"help", no_argument, NULL, 'h'},
		{"quiet", no_argument, NULL, 'q'},
		{"progress", no_argument, NULL, 'p'},
		{"source-format", required_argument, NULL, 'f'},
		{"image-opts", no_argument, NULL, IMG_OPT_IMAGE_OPTS},
		{"source-image-opts", no_argument, NULL, IMG_OPT_IMAGE_OPTS},
		{"source-snapshot", required_argument, NULL, 'l'},
		{"snapshot", required_argument, NULL, 'l'},
		{"source-cache", required_argument, NULL, 'T'},
		{"target-format", required_argument, NULL, 'O'},
		{"output-format", required_argument, NULL, 'O'},
		{"target-image-opts", no_argument, NULL, OPT_TARGET_OPTS},
		{"target-options", required_argument, NULL, 'o'},
		{"options", required_argument, NULL, 'o'},
		{"compress", no_argument, NULL, 'c'},
		{"target-cache", required_argument, NULL, 't'},
		{"output-cache", required_argument, NULL, 't'},
		{"backing", required_argument, NULL, 'B'},
		{"backing-format", required_argument, NULL, 'F'},
		{"no-create", no_argument, NULL, 'n'},
		{"target-is-zero", no_argument, NULL, OPT_TARGET_ZERO},
		{"sparse-size", required_argument, NULL, 'S'},
		{"bitmaps", no_argument, NULL, OPT_BITMAPS},
		{"skip-broken-bitmaps", no_argument, NULL, OPT_SKIP_BITMAPS},
		{"force-share", no_argument, NULL, 'U'},
		{"rate", required_argument, NULL, 'r'},
		{"rate-limit", required_argument, NULL, 'r'},
		{"parallel", required_argument, NULL, 'm'},
		{"copy-range-offloading", no_argument, NULL, 'C'},
		{"salvage", no_argument, NULL, OPT_SALVAGE},
		{"oob-writes", no_argument, NULL, 'W'},
		{"object", required_argument, NULL, IMG_OPT_OBJECT},
		{NULL, 0, NULL, 0},
	};
	int opt, ret, names;

	while ((opt = getopt_long(argc, argv, "hqpf:l:T:O:o:ct:B:F:nS:Ur:m:CW", options,
			NULL)) >= 0) {
		ret = parse_option(c, opt);
		if (ret >= 0)
			return ret;
	}
	c->names = argv + optind;
	names = argc - optind;
	if (c->help)
		return print_options(c, names);
	c->n_sources = names > 1 ? (size_t)names - 1 : 0;
	return check_arguments(c) < 0 ? 1 : -1;
}

int img_convert(int argc, char **argv)
{
	struct convert c = {
		.common = {.command = "convert", .help = help},
		.opts = opts_new(),
		.min_sparse = DEFAULT_SPARSE,
	};
	int ret = parse(&c, argc, argv);

	if (ret < 0)
		ret = convert(&c) < 0 ? 1 : 0;
	opts_free(c.opts);
	return ret;
}
