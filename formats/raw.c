/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * raw: the disk is the file, or a part of it (offset=, size=).
 *
 * Everything is passed through; the child's gate does what has to be done about alignment
 * and fallbacks, so this driver asks for none. Two things are its own:
 *
 * 1. A disk is whole sectors. A file of 1000 bytes is a disk of 1024, and its last 24
 * bytes read as zeros until they are written. That needs a child that grows; the size of
 * one that does not is taken as it is.
 * 2. A raw node in a protocol's place (qcow2 in a part of a file) grows as the file
 * would; as a disk it has an end, and writing past it is an error.
 */
#include <inttypes.h>

#include "base/math.h"
#include "block/driver.h"
#include "block/format.h"

struct raw {
	uint64_t offset; /* of the disk in the file */
	bool fixed;      /* size= was given */
};

/* Finds the part of the file that is the disk. */
static int raw_place(struct blk *b, uint64_t size, struct err *err)
{
	struct raw *s = b->state;
	uint64_t whole = blk_size(b->file);

	if (s->offset > whole)
		return err_set(err, EINVAL,
			"Offset (%" PRIu64 ") cannot be greater than size of the "
			"containing file (%" PRIu64 ")",
			s->offset, whole);
	if (s->fixed && size > whole - s->offset)
		return err_set(err, EINVAL,
			"The sum of offset (%" PRIu64 ") and size (%" PRIu64 ") has to "
			"be smaller or equal to the actual size of the containing file "
			"(%" PRIu64 ")",
			s->offset, size, whole);
	if (s->fixed && !is_aligned(size, BLK_SECTOR))
		return err_set(
			err, EINVAL, "Specified size is not multiple of %u", BLK_SECTOR);
	if (!s->fixed)
		size = whole - s->offset;
	if ((b->file->caps & BLK_CAP_GROW) && !(b->caps & BLK_CAP_GROW))
		size = round_up(size, BLK_SECTOR);
	b->size = size;
	return 0;
}

static int raw_open(struct blk *b, struct opts *opts, struct err *err)
{
	const unsigned passed = BLK_CAP_ZERO_INIT | BLK_CAP_ZERO_UNMAP;
	struct raw *s = b->state;
	unsigned flags = b->flags;
	uint64_t size = 0;
	int ret;

	s->fixed = opts_peek(opts, "size");
	ret = opts_take_size(opts, "offset", &s->offset, err);
	if (!ret)
		ret = opts_take_size(opts, "size", &size, err);
	if (ret)
		return ret;
	/* As a disk it has no metadata in the file. In a protocol's place its parent may,
	 * and what others are read through must not change. */
	if (!(flags & (BLK_O_PROTOCOL | BLK_O_BACKED)))
		flags |= BLK_O_SHARE_WRITE;
	if (!blk_open_child(b, opts, "file", NULL, flags, err))
		return -err->code;
	b->caps = BLK_CAP_FUA | (b->file->caps & passed);
	if ((b->flags & BLK_O_PROTOCOL) && !s->fixed)
		b->caps |= b->file->caps & BLK_CAP_GROW;
	b->limits.optimal = b->file->limits.optimal;
	return raw_place(b, size, err);
}

/* After a write past the end: the disk ends where the file does. */
static void raw_follow(struct blk *b)
{
	const struct raw *s = b->state;
	uint64_t whole = blk_size(b->file);

	blk_raise_size(b, whole - MIN(whole, s->offset));
}

static int raw_preadv(
	struct blk *b, uint64_t offset, uint64_t bytes, const struct iovec *iov, int niov)
{
	const struct raw *s = b->state;

	(void)bytes;
	return blk_preadv(b->file, s->offset + offset, iov, niov, 0);
}

static int raw_pwritev(struct blk *b, uint64_t offset, uint64_t bytes,
	const struct iovec *iov, int niov, unsigned flags)
{
	const struct raw *s = b->state;
	int ret = blk_pwritev(b->file, s->offset + offset, iov, niov, flags);

	if (!ret && offset + bytes > blk_size(b))
		raw_follow(b);
	return ret;
}

static int raw_flush(struct blk *b)
{
	return blk_flush(b->file);
}

static int raw_zero(struct blk *b, uint64_t offset, uint64_t bytes, unsigned flags)
{
	const struct raw *s = b->state;
	int ret = blk_zero(b->file, s->offset + offset, bytes, flags);

	if (!ret && offset + bytes > blk_size(b))
		raw_follow(b);
	return ret;
}

static int raw_discard(struct blk *b, uint64_t offset, uint64_t bytes)
{
	const struct raw *s = b->state;

	return blk_discard(b->file, s->offset + offset, bytes);
}

/* What of it is data and what a hole the file knows better. */
static int raw_extent(
	struct blk *b, uint64_t offset, uint64_t bytes, struct blk_extent *out)
{
	const struct raw *s = b->state;

	out->bytes = bytes;
	out->flags = BLK_EXT_ALLOCATED | BLK_EXT_HOST | BLK_EXT_RECURSE;
	out->host_offset = s->offset + offset;
	out->host = b->file;
	return 0;
}

static int raw_resize(
	struct blk *b, uint64_t bytes, enum blk_prealloc prealloc, struct err *err)
{
	struct raw *s = b->state;
	int ret;

	if (s->fixed)
		return err_set(err, ENOTSUP, "Cannot resize fixed-size raw disks");
	if (bytes > BLK_MAX_SIZE - s->offset)
		return err_set(err, EFBIG, "Size %" PRIu64 " is too large at this offset",
			bytes);
	ret = blk_resize(b->file, s->offset + bytes, prealloc, err);
	if (ret < 0)
		return ret;
	blk_set_size(b, bytes);
	return 0;
}

static int raw_copy_range(struct blk *src, uint64_t src_offset, struct blk *dst,
	uint64_t dst_offset, uint64_t bytes, unsigned flags)
{
	const struct raw *from = src->state, *to = dst->state;

	return blk_copy_range(src->file, from->offset + src_offset, dst->file,
		to->offset + dst_offset, bytes, flags);
}

static int raw_probe(const uint8_t *buf, size_t bytes, const char *filename)
{
	(void)buf;
	(void)bytes;
	(void)filename;
	return BLK_PROBE_ANY;
}

static int raw_create(
	const char *filename, struct blk *file, struct opts *opts, struct err *err)
{
	int prealloc = BLK_PREALLOC_OFF;
	uint64_t size = 0;
	int ret;

	(void)filename;
	ret = opts_take_size(opts, "size", &size, err);
	if (ret < 0)
		return ret;
	ret = opts_take_enum(opts, "preallocation", blk_prealloc_names, &prealloc, err);
	if (ret < 0)
		return ret;
	if (size > BLK_MAX_SIZE)
		return err_set(err, EFBIG, "Image size %" PRIu64 " is too large", size);
	if (prealloc == BLK_PREALLOC_METADATA)
		return err_set(err, EINVAL, "Unsupported preallocation mode: metadata");
	if (!file)
		return 0;
	return blk_resize(
		file, round_up(size, BLK_SECTOR), (enum blk_prealloc)prealloc, err);
}

static int raw_measure(
	struct opts *opts, struct blk *src, struct blk_measure *out, struct err *err)
{
	uint64_t size = src ? blk_size(src) : 0;
	int ret;

	opts_take(opts, "preallocation");
	ret = opts_take_size(opts, "size", &size, err);
	if (ret < 0)
		return ret;
	if (size > BLK_MAX_SIZE)
		return err_set(err, EFBIG, "Image size %" PRIu64 " is too large", size);
	out->required = out->fully_allocated = round_up(size, BLK_SECTOR);
	return 0;
}

static const struct blk_create_opt raw_create_opts[] = {
	{"size", "size", "Virtual disk size", NULL},
	{"preallocation", "str", "Preallocation mode (allowed values: off, falloc, full)",
		NULL},
	{NULL, NULL, NULL, NULL},
};

static const struct blk_format_ops raw_format_ops = {
	.create_opts = raw_create_opts,
	.probe = raw_probe,
	.create = raw_create,
	.measure = raw_measure,
};

const struct blk_driver blk_raw_driver = {
	.name = "raw",
	.kind = BLK_FORMAT,
	.state_bytes = sizeof(struct raw),
	.open = raw_open,
	.preadv = raw_preadv,
	.pwritev = raw_pwritev,
	.flush = raw_flush,
	.zero = raw_zero,
	.discard = raw_discard,
	.extent = raw_extent,
	.resize = raw_resize,
	.copy_range = raw_copy_range,
	.format = &raw_format_ops,
};
