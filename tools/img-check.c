/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * byre-img check: looks for inconsistencies of an image and repairs them with -r.
 * Findings go to stderr as they are met, the summary to stdout. What was repaired is
 * checked again, and it is that state the exit code tells.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "tools/img.h"

/* Exit codes. */
enum {
	CHECK_CLEAN = 0,
	CHECK_FAILED = 1,
	CHECK_CORRUPT = 2,
	CHECK_LEAKS = 3,
	CHECK_UNSUPPORTED = 63,
};

static const char help[] =
	"Look for inconsistencies of an image, and repair them.  Usage:\n\n"
	"  %s check [-f FMT | --image-opts] [-T CACHE] [-r leaks|all] [-U] [-q]\n"
	"        [--output human|json] [--object OBJDEF] FILENAME\n\n"
	"Options:\n"
	"  -h, --help\n     show this text\n"
	"  -q, --quiet\n     print what was found only\n"
	"  -f, --format FMT\n     the image's format; found out from its contents by "
	"default\n"
	"  --image-opts\n     FILENAME is a list of options "
	"(driver=...,file.filename=...)\n"
	"  -T, --cache CACHE\n     cache mode of the image (writeback)\n"
	"  -U, --force-share\n     open the image even if another program writes to it\n"
	"  --output human|json\n     form of the output (human)\n"
	"  -r, --repair leaks|all\n     repair clusters that nothing refers to, or "
	"everything\n"
	"  --object OBJDEF\n     an object such as a secret\n\n"
	"Exit codes: 0 no errors, 1 the check could not be done, 2 errors, 3 leaked "
	"clusters\n"
	"only, 63 the format has no check.\n";

static void report(void *arg, bool error, const char *line)
{
	(void)arg;
	(void)error;
	tool_line(stderr, "%s", line);
}

static void put_count(struct json *o, const char *key, uint64_t n)
{
	if (n)
		json_put_int(o, key, (int64_t)n);
}

static void print_json(
	const struct blk_check *c, const char *filename, const char *format)
{
	struct json *o = json_new_object();
	char *text;

	put_count(o, "image-end-offset", c->image_end_offset);
	put_count(o, "compressed-clusters", c->compressed_clusters);
	put_count(o, "total-clusters", c->total_clusters);
	put_count(o, "corruptions", c->corruptions);
	put_count(o, "corruptions-fixed", c->corruptions_fixed);
	json_put_int(o, "check-errors", (int64_t)c->check_errors);
	put_count(o, "leaks", c->leaks);
	put_count(o, "leaks-fixed", c->leaks_fixed);
	put_count(o, "allocated-clusters", c->allocated_clusters);
	json_put_string(o, "filename", filename);
	json_put_string(o, "format", format);
	put_count(o, "fragmented-clusters", c->fragmented_clusters);
	text = json_dump(o, 4);
	printf("%s\n", text);
	free(text);
	json_free(o);
}

static void print_errors(const struct blk_check *c)
{
	if (!c->corruptions && !c->leaks && !c->check_errors)
		printf("No errors were found on the image.\n");
	if (c->corruptions)
		printf("\n%" PRIu64 " errors were found on the image.\n"
		       "Data may be corrupted, or further writes to the image may "
		       "corrupt it.\n",
			c->corruptions);
	if (c->leaks)
		printf("\n%" PRIu64 " leaked clusters were found on the image.\n"
		       "This means waste of disk space, but no harm to data.\n",
			c->leaks);
	if (c->check_errors)
		printf("\n%" PRIu64 " internal errors have occurred during the check.\n",
			c->check_errors);
}

static double percent(uint64_t part, uint64_t whole)
{
	return 100.0 * (double)part / (double)whole;
}

static void print_human(const struct blk_check *c)
{
	print_errors(c);
	if (c->total_clusters && c->allocated_clusters)
		printf("%" PRIu64 "/%" PRIu64 " = %0.2f%% allocated, %0.2f%% fragmented, "
		       "%0.2f%% compressed clusters\n",
			c->allocated_clusters, c->total_clusters,
			percent(c->allocated_clusters, c->total_clusters),
			percent(c->fragmented_clusters, c->allocated_clusters),
			percent(c->compressed_clusters, c->allocated_clusters));
	if (c->image_end_offset)
		printf("Image end offset: %" PRIu64 "\n", c->image_end_offset);
}

static int run_check(struct blk *b, struct blk_check *c, unsigned fix)
{
	struct err err = ERR_INIT;
	int ret;

	memset(c, 0, sizeof(*c));
	c->report = report;
	ret = blk_check(b, c, fix, &err);
	if (ret == -ENOTSUP)
		tool_error(
			"%s: This image format does not support checks", blk_filename(b));
	else if (ret < 0)
		tool_error("%s: Check failed: %s", blk_filename(b), err.msg);
	return ret;
}

/* What was repaired is looked at again; only what was repaired is kept of the first time.
 */
static int check_again(
	struct blk *b, struct blk_check *c, const struct img_common *common)
{
	uint64_t leaks = c->leaks_fixed, corruptions = c->corruptions_fixed;
	int ret;

	if (!common->quiet && !common->json) {
		printf("The following inconsistencies were found and repaired:\n\n"
		       "    %" PRIu64 " leaked clusters\n"
		       "    %" PRIu64 " corruptions\n\n"
		       "Double checking the fixed image now...\n",
			leaks, corruptions);
		fflush(stdout);
	}
	ret = run_check(b, c, 0);
	c->leaks_fixed = leaks;
	c->corruptions_fixed = corruptions;
	return ret;
}

static int exit_code(const struct blk_check *c)
{
	if (c->check_errors)
		return CHECK_FAILED;
	if (c->corruptions)
		return CHECK_CORRUPT;
	return c->leaks ? CHECK_LEAKS : CHECK_CLEAN;
}

static int check_image(struct blk *b, const struct img_common *common,
	const char *filename, unsigned fix)
{
	struct blk_check c;
	int ret = run_check(b, &c, fix);

	if (!ret && (c.leaks_fixed || c.corruptions_fixed))
		ret = check_again(b, &c, common);
	if (ret < 0)
		return ret == -ENOTSUP ? CHECK_UNSUPPORTED : CHECK_FAILED;
	if (common->json)
		print_json(&c, filename, blk_driver_name(b));
	else if (!common->quiet)
		print_human(&c);
	return exit_code(&c);
}

static int parse_repair(const char *text, unsigned *fix)
{
	if (!strcmp(text, "leaks"))
		*fix = BLK_FIX_LEAKS;
	else if (!strcmp(text, "all"))
		*fix = BLK_FIX_LEAKS | BLK_FIX_ERRORS;
	else
		return img_usage(
			"check", "--repair (-r) expects 'leaks' or 'all' not '%s'", text);
	return -1;
}

int img_check(int argc, char **argv)
{
	static const struct option options[] = {
		{"help", no_argument, NULL, 'h'},
		{"quiet", no_argument, NULL, 'q'},
		{"format", required_argument, NULL, 'f'},
		{"image-opts", no_argument, NULL, IMG_OPT_IMAGE_OPTS},
		{"cache", required_argument, NULL, 'T'},
		{"force-share", no_argument, NULL, 'U'},
		{"output", required_argument, NULL, IMG_OPT_OUTPUT},
		{"repair", required_argument, NULL, 'r'},
		{"object", required_argument, NULL, IMG_OPT_OBJECT},
		{NULL, 0, NULL, 0},
	};
	struct img_common common = {.command = "check", .help = help};
	unsigned flags = BLK_O_CHECK, fix = 0;
	struct tool_image image;
	struct blk *b;
	int c, ret;

	while ((c = getopt_long(argc, argv, "hqf:T:Ur:", options, NULL)) >= 0) {
		ret = c == 'r' ? parse_repair(optarg, &fix)
			       : img_common_option(&common, c);
		if (ret >= 0)
			return ret;
	}
	ret = img_expect_names("check", argc, 1, "one image file name");
	if (ret)
		return ret;
	image = (struct tool_image){argv[optind], common.format, common.image_opts, NULL};
	if (img_check_image_opts(common.image_opts, common.format) ||
		tool_cache(common.cache ? common.cache : "writeback", "source cache",
			&flags))
		return CHECK_FAILED;
	b = tool_open(&image,
		flags | (fix ? BLK_O_RDWR : 0) | (common.share ? BLK_O_SHARE : 0));
	if (!b)
		return CHECK_FAILED;
	ret = check_image(b, &common, argv[optind], fix);
	if (tool_close(b, ret == CHECK_FAILED ? -EIO : 0) < 0)
		ret = CHECK_FAILED;
	return ret;
}
