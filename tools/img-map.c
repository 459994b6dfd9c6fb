/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * byre-img map: where the bytes of a disk lie, in which file of the chain. For people
 * only what has to be read, for programs every extent, neighbours that go on alike
 * joined.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/math.h"
#include "tools/img.h"

static const char help[] =
	"Show where the data of an image lies.  Usage:\n\n"
	"  %s map [-f FMT | --image-opts] [-s OFFSET] [-l LENGTH] [-U]\n"
	"        [--output human|json] [--object OBJDEF] FILENAME\n\n"
	"Options:\n"
	"  -h, --help\n     show this text\n"
	"  -f, --format FMT\n     the image's format; found out from its contents by "
	"default\n"
	"  --image-opts\n     FILENAME is a list of options "
	"(driver=...,file.filename=...)\n"
	"  -s, --start-offset OFFSET\n     begin here\n"
	"  -l, --max-length LENGTH\n     show that much of the disk\n"
	"  --output human|json\n     form of the output (human)\n"
	"  -U, --force-share\n     open the image even if another program writes to it\n"
	"  --object OBJDEF\n     an object such as a secret\n";

/* A row of the output. */
struct row {
	uint64_t start, bytes, host_offset;
	unsigned depth;
	bool data, zero, present, compressed, has_offset;
	const struct blk *host;
};

static void print_json_row(const struct row *r, bool last)
{
	static const char *const text[] = {"false", "true"};

	printf("{ \"start\": %" PRIu64 ", \"length\": %" PRIu64 ", \"depth\": %u, "
	       "\"present\": %s, \"zero\": %s, \"data\": %s, \"compressed\": %s",
		r->start, r->bytes, r->depth, text[r->present], text[r->zero],
		text[r->data], text[r->compressed]);
	if (r->has_offset)
		printf(", \"offset\": %" PRIu64, r->host_offset);
	printf(last ? "}]\n" : "},\n");
}

static int print_human_row(const struct blk *b, const struct row *r)
{
	if (!r->data || r->zero)
		return 0;
	if (!r->has_offset || !r->host) {
		tool_error(
			"%s: File contains external, encrypted or compressed clusters.",
			blk_filename(b));
		return -ENOTSUP;
	}
	tool_line(stdout, "%#-16" PRIx64 "%#-16" PRIx64 "%#-16" PRIx64 "%s", r->start,
		r->bytes, r->host_offset, blk_filename(r->host));
	return 0;
}

/* A map may have more rows than anyone waits for: it ends when nobody can read it. */
static int print_row(const struct blk *b, const struct row *r, bool json, bool last)
{
	int ret = 0;

	if (json)
		print_json_row(r, last);
	else
		ret = print_human_row(b, r);
	return ret < 0 ? ret : tool_check_stdout();
}

static bool goes_on(const struct row *a, const struct row *b)
{
	return a->data == b->data && a->zero == b->zero && a->present == b->present &&
	       a->compressed == b->compressed && a->depth == b->depth &&
	       a->has_offset == b->has_offset && a->host == b->host &&
	       (!a->has_offset || a->host_offset + a->bytes == b->host_offset);
}

static void row_of(const struct blk_extent *ext, struct row *r)
{
	memset(r, 0, sizeof(*r));
	r->start = ext->offset;
	r->bytes = ext->bytes;
	r->depth = ext->depth;
	r->data = ext->flags & BLK_EXT_DATA;
	r->zero = ext->flags & BLK_EXT_ZERO;
	r->present = ext->flags & BLK_EXT_ALLOCATED;
	r->compressed = ext->flags & BLK_EXT_COMPRESSED;
	if (ext->flags & BLK_EXT_HOST) {
		r->has_offset = true;
		r->host_offset = ext->host_offset;
		r->host = ext->host;
	}
}

/* The extent at `offset`. A disk counts in sectors: what is past the last byte is zeros.
 */
static int look_up(struct blk *b, uint64_t offset, uint64_t bytes, struct row *r)
{
	uint64_t size = blk_size(b);
	struct blk_extent ext = {.offset = offset, .bytes = bytes};
	int ret;

	if (offset >= size) {
		ret = size ? blk_extent_above(b, NULL, size - 1, 1, &ext) : 0;
		if (ret < 0)
			return ret;
		ext.flags = (ext.flags & ~(unsigned)BLK_EXT_DATA) | BLK_EXT_ZERO;
		ext.host_offset += offset - (size - 1);
		ext.offset = offset;
		ext.bytes = bytes;
	} else {
		ret = blk_extent_above(b, NULL, offset, MIN(bytes, size - offset), &ext);
	}
	if (!ret)
		row_of(&ext, r);
	return ret;
}

static int print_map(struct blk *b, uint64_t offset, uint64_t end, bool json)
{
	struct row row = {.start = offset}, next;
	bool have = false;
	int ret = 0;

	if (json)
		putchar('[');
	else
		printf("%-16s%-16s%-16s%s\n", "Offset", "Length", "Mapped to", "File");
	for (; offset < end; offset += next.bytes) {
		ret = look_up(b, offset, end - offset, &next);
		if (ret < 0) {
			tool_error("%s: could not read the extent at byte %" PRIu64
				   ": %s",
				blk_filename(b), offset, strerror(-ret));
			return ret;
		}
		if (have && goes_on(&row, &next)) {
			row.bytes += next.bytes;
			continue;
		}
		if (have)
			ret = print_row(b, &row, json, false);
		if (ret < 0)
			return ret;
		row = next;
		have = true;
	}
	return print_row(b, &row, json, true); /* an empty map has one empty row */
}

int img_map(int argc, char **argv)
{
	static const struct option options[] = {
		{"help", no_argument, NULL, 'h'},
		{"format", required_argument, NULL, 'f'},
		{"image-opts", no_argument, NULL, IMG_OPT_IMAGE_OPTS},
		{"start-offset", required_argument, NULL, 's'},
		{"max-length", required_argument, NULL, 'l'},
		{"output", required_argument, NULL, IMG_OPT_OUTPUT},
		{"force-share", no_argument, NULL, 'U'},
		{"object", required_argument, NULL, IMG_OPT_OBJECT},
		{NULL, 0, NULL, 0},
	};
	struct img_common common = {.command = "map", .help = help};
	uint64_t start = 0, length = INT64_MAX, size;
	struct tool_image image;
	struct blk *b;
	int c, ret;

	while ((c = getopt_long(argc, argv, "hf:s:l:U", options, NULL)) >= 0) {
		if (c == 's')
			ret = tool_size(optarg, "start offset", &start) ? 1 : -1;
		else if (c == 'l')
			ret = tool_size(optarg, "max length", &length) ? 1 : -1;
		else
			ret = img_common_option(&common, c);
		if (ret >= 0)
			return ret;
	}
	ret = img_expect_names("map", argc, 1, "one image file name");
	if (ret)
		return ret;
	image = (struct tool_image){argv[optind], common.format, common.image_opts, NULL};
	if (img_check_image_opts(common.image_opts, common.format))
		return 1;
	b = tool_open(&image, common.share ? BLK_O_SHARE : 0);
	if (!b)
		return 1;
	size = tool_disk_bytes(b);
	ret = print_map(b, start,
		start < size ? start + MIN(length, size - start) : start, common.json);
	return tool_close(b, ret) < 0 ? 1 : 0;
}
