/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * byre-img compare: whether two images hold the same disk. Where one is longer, its rest
 * has to read as zeros.
 *
 * Several tasks take the next piece in order and compare it; what one finds stops the
 * taking, not the others, so the first difference is the one with the lowest offset.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/iov.h"
#include "base/math.h"
#include "base/task.h"
#include "tools/img.h"

/* Exit codes. */
enum {
	COMPARE_SAME = 0,
	COMPARE_DIFFERENT = 1,
	COMPARE_OPEN_FAILED = 2,
	COMPARE_EXTENT_FAILED = 3,
	COMPARE_READ_FAILED = 4,
};

#define PIECE_BYTES (1 * MiB)
#define TASKS       8u
#define LOOPS       2u

static const char help[] =
	"Tell whether two images hold the same disk.  Usage:\n\n"
	"  %s compare [--image-opts | [-f FMT] [-F FMT]] [-s] [-T CACHE] [-U] [-p] [-q]\n"
	"        [--object OBJDEF] FILENAME1 FILENAME2\n\n"
	"Options:\n"
	"  -h, --help\n     show this text\n"
	"  -q, --quiet\n     no output but errors\n"
	"  -p, --progress\n     show how far it is\n"
	"  -f, --a-format FMT\n     format of FILENAME1; found out from its contents by "
	"default\n"
	"  -F, --b-format FMT\n     format of FILENAME2; found out from its contents by "
	"default\n"
	"  --image-opts\n     FILENAMEs are lists of options "
	"(driver=...,file.filename=...)\n"
	"  -s, --strict\n     sizes and what is allocated must be the same too\n"
	"  -T, --cache CACHE\n     cache mode of both images (writeback)\n"
	"  -U, --force-share\n     open images even if another program writes to them\n"
	"  --object OBJDEF\n     an object such as a secret\n\n"
	"Exit codes: 0 the same, 1 different, 2 an image cannot be opened, 3 an extent "
	"cannot\n"
	"be told, 4 data cannot be read.\n";

enum finding {
	FOUND_NOTHING,
	FOUND_CONTENT,
	FOUND_EXTENT,
	FOUND_EXTENT_ERROR,
	FOUND_READ_ERROR
};

struct side {
	struct blk *b;
	uint64_t size;  /* whole sectors */
	uint64_t until; /* the extent that was looked up last ends here */
	unsigned flags; /* and is this: enum blk_extent_flags */
};

struct compare {
	struct side side[2];
	uint64_t total; /* the longer one */
	bool strict;

	struct task_mutex lock; /* everything below, and side[].until, flags */
	uint64_t next, done;
	enum finding found;
	uint64_t at;   /* where found is not FOUND_NOTHING */
	int code;      /* errno value of errors */
	size_t failed; /* the side with an error */
};

struct piece {
	uint64_t offset, bytes;
	bool data[2]; /* else it reads as zeros */
};

/* Under the lock: keeps what lies lowest. */
static void found(struct compare *c, enum finding what, uint64_t at, size_t side, int ret)
{
	if (c->found != FOUND_NOTHING && c->at <= at)
		return;
	c->found = what;
	c->at = at;
	c->failed = side;
	c->code = -ret;
}

/* What the side is at c->next, and until where; past its end it is zeros. */
static int look_up(const struct compare *c, struct side *s)
{
	struct blk_extent ext;
	uint64_t size = blk_size(s->b);
	int ret;

	if (c->next < s->until)
		return 0;
	if (c->next >= size) {
		s->until = UINT64_MAX;
		s->flags = BLK_EXT_ZERO;
		return 0;
	}
	ret = blk_extent_above(s->b, NULL, c->next, size - c->next, &ext);
	if (ret < 0)
		return ret;
	s->until = c->next + ext.bytes;
	s->flags = ext.flags & (BLK_EXT_DATA | BLK_EXT_ZERO | BLK_EXT_ALLOCATED |
				       BLK_EXT_COMPRESSED | BLK_EXT_HOST);
	return 0;
}

static bool has_data(const struct side *s)
{
	return !(s->flags & BLK_EXT_ZERO) &&
	       (s->flags & (BLK_EXT_DATA | BLK_EXT_ALLOCATED));
}

/* The next piece that has to be read; false at the end or where something was found. */
static bool take(struct compare *c, struct piece *p)
{
	while (c->found == FOUND_NOTHING && c->next < c->total &&
		!atomic_load(&tool_cancel)) {
		for (size_t i = 0; i < 2; i++) {
			int ret = look_up(c, &c->side[i]);

			if (ret < 0) {
				found(c, FOUND_EXTENT_ERROR, c->next, i, ret);
				return false;
			}
		}
		if (c->strict && c->side[0].flags != c->side[1].flags) {
			found(c, FOUND_EXTENT, c->next, 0, 0);
			return false;
		}
		p->offset = c->next;
		p->bytes = MIN(c->side[0].until, c->side[1].until);
		p->bytes = MIN(p->bytes, c->total) - c->next;
		p->data[0] = has_data(&c->side[0]);
		p->data[1] = has_data(&c->side[1]);
		if (p->data[0] || p->data[1]) {
			p->bytes = MIN(p->bytes, PIECE_BYTES);
			c->next += p->bytes;
			return true;
		}
		c->next += p->bytes;
		c->done += p->bytes;
		progress_update(c->done, c->total);
	}
	return false;
}

static int read_side(const struct side *s, const struct piece *p, void *buf)
{
	uint64_t size = blk_size(s->b);
	size_t have = p->offset < size ? (size_t)MIN(p->bytes, size - p->offset) : 0;

	memset((char *)buf + have, 0, p->bytes - have);
	return have ? blk_pread(s->b, p->offset, buf, have) : 0;
}

static bool sector_differs(
	const struct piece *p, uint8_t *const buf[2], size_t pos, size_t n)
{
	if (p->data[0] && p->data[1])
		return memcmp(buf[0] + pos, buf[1] + pos, n) != 0;
	return !buf_is_zero((p->data[0] ? buf[0] : buf[1]) + pos, n);
}

/* The sector of the piece that differs first; p->bytes where none does. */
static uint64_t first_difference(const struct piece *p, uint8_t *const buf[2])
{
	if (!sector_differs(p, buf, 0, p->bytes))
		return p->bytes;
	for (uint64_t pos = 0; pos < p->bytes; pos += BLK_SECTOR) {
		size_t n = (size_t)MIN(p->bytes - pos, (uint64_t)BLK_SECTOR);

		if (sector_differs(p, buf, pos, n))
			return pos;
	}
	return p->bytes;
}

static void compare_piece(struct compare *c, const struct piece *p, uint8_t *const buf[2])
{
	uint64_t pos;
	int ret;

	for (size_t i = 0; i < 2; i++) {
		ret = p->data[i] ? read_side(&c->side[i], p, buf[i]) : 0;
		if (ret < 0) {
			task_lock(&c->lock);
			found(c, FOUND_READ_ERROR, p->offset, i, ret);
			task_unlock(&c->lock);
			return;
		}
	}
	pos = first_difference(p, buf);
	task_lock(&c->lock);
	if (pos < p->bytes)
		found(c, FOUND_CONTENT, p->offset + pos, 0, 0);
	c->done += p->bytes;
	if (c->found == FOUND_NOTHING)
		progress_update(c->done, c->total);
	task_unlock(&c->lock);
}

static int compare_task(void *arg)
{
	struct compare *c = arg;
	uint8_t *buf[2] = {buf_alloc(PIECE_BYTES), buf_alloc(PIECE_BYTES)};
	struct piece p;
	bool more = true;

	while (more) {
		task_lock(&c->lock);
		if (!buf[0] || !buf[1])
			found(c, FOUND_READ_ERROR, c->next, 0, -ENOMEM);
		more = take(c, &p);
		task_unlock(&c->lock);
		if (more)
			compare_piece(c, &p, buf);
	}
	buf_free(buf[0]);
	buf_free(buf[1]);
	return 0;
}

static void run_tasks(struct compare *c)
{
	struct loop *loops[LOOPS] = {NULL, loop_start(NULL)};
	unsigned n_loops = loops[1] ? 2 : 1, started = 0;
	struct task_group group;

	task_group_init(&group);
	for (unsigned i = 0; i < TASKS; i++) {
		if (!task_group_spawn(&group, loops[i % n_loops], compare_task, c))
			started++;
	}
	if (!started)
		compare_task(c);
	task_group_wait(&group);
	loop_stop(loops[1]);
}

static int tell(const struct compare *c, bool quiet)
{
	uint64_t common = MIN(c->side[0].size, c->side[1].size);

	/* A difference before the shorter one's end says enough. */
	if (common < c->total && (c->found == FOUND_NOTHING || c->at >= common) && !quiet)
		printf("Warning: Image size mismatch!\n");
	switch (c->found) {
	case FOUND_NOTHING:
		if (!quiet)
			printf("Images are identical.\n");
		return COMPARE_SAME;
	case FOUND_CONTENT:
		if (!quiet)
			printf("Content mismatch at offset %" PRIu64 "!\n", c->at);
		return COMPARE_DIFFERENT;
	case FOUND_EXTENT:
		if (!quiet)
			printf("Strict mode: Offset %" PRIu64 " block status mismatch!\n",
				c->at);
		return COMPARE_DIFFERENT;
	case FOUND_EXTENT_ERROR:
		tool_error("Sector allocation test failed at offset %" PRIu64
			   " of %s: %s",
			c->at, blk_filename(c->side[c->failed].b), strerror(c->code));
		return COMPARE_EXTENT_FAILED;
	default:
		tool_error("Error while reading offset %" PRIu64 " of %s: %s", c->at,
			blk_filename(c->side[c->failed].b), strerror(c->code));
		return COMPARE_READ_FAILED;
	}
}

static int compare(struct compare *c, const struct img_common *common)
{
	int ret;

	for (size_t i = 0; i < 2; i++)
		c->side[i].size = tool_disk_bytes(c->side[i].b);
	c->total = MAX(c->side[0].size, c->side[1].size);
	progress_begin(common->progress && !common->quiet, 2);
	if (c->strict && c->side[0].size != c->side[1].size) {
		if (!common->quiet)
			printf("Strict mode: Image size mismatch!\n");
		progress_end();
		return COMPARE_DIFFERENT;
	}
	tool_catch_signals();
	run_tasks(c);
	if (tool_interrupted())
		ret = COMPARE_READ_FAILED; /* the signal ends us */
	else
		ret = tell(c, common->quiet);
	progress_end();
	return ret;
}

static int open_and_compare(struct compare *c, const struct img_common *common,
	const struct tool_image images[2])
{
	unsigned flags = common->share ? BLK_O_SHARE : 0;
	int ret = COMPARE_OPEN_FAILED, closed;

	if (tool_cache(common->cache ? common->cache : "writeback", "source cache",
		    &flags) < 0)
		return ret;
	c->side[0].b = tool_open(&images[0], flags);
	if (c->side[0].b)
		c->side[1].b = tool_open(&images[1], flags);
	if (c->side[1].b)
		ret = compare(c, common);
	closed = tool_close(c->side[1].b, ret > COMPARE_DIFFERENT ? -EIO : 0);
	tool_close(c->side[0].b, closed);
	return ret;
}

int img_compare(int argc, char **argv)
{
	static const struct option options[] = {
		{"help", no_argument, NULL, 'h'},
		{"quiet", no_argument, NULL, 'q'},
		{"progress", no_argument, NULL, 'p'},
		{"a-format", required_argument, NULL, 'f'},
		{"b-format", required_argument, NULL, 'F'},
		{"left-format", required_argument, NULL, 'f'},
		{"right-format", required_argument, NULL, 'F'},
		{"image-opts", no_argument, NULL, IMG_OPT_IMAGE_OPTS},
		{"strict", no_argument, NULL, 's'},
		{"cache", required_argument, NULL, 'T'},
		{"force-share", no_argument, NULL, 'U'},
		{"object", required_argument, NULL, IMG_OPT_OBJECT},
		{NULL, 0, NULL, 0},
	};
	struct img_common common = {.command = "compare", .help = help};
	const char *format2 = NULL;
	struct compare c = {.strict = false};
	int opt, ret = -1;

	while ((opt = getopt_long(argc, argv, "hqpf:F:sT:U", options, NULL)) >= 0) {
		if (opt == 'F')
			format2 = optarg;
		else if (opt == 's')
			c.strict = true;
		else
			ret = img_common_option(&common, opt);
		if (ret >= 0) /* 1 would say that the images differ */
			return ret && opt == IMG_OPT_OBJECT ? COMPARE_OPEN_FAILED : ret;
	}
	ret = img_expect_names("compare", argc, 2, "two image file names");
	if (ret)
		return ret;
	if (img_check_image_opts(
		    common.image_opts, common.format ? common.format : format2))
		return COMPARE_OPEN_FAILED;
	return open_and_compare(&c, &common,
		(const struct tool_image[2]){
			{argv[optind], common.format, common.image_opts, NULL},
			{argv[optind + 1], format2, common.image_opts, NULL},
		});
}
