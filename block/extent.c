/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Extents: what a range of a disk is made of. Drivers answer for whole alignment units of
 * their own layer; here the answers are cut to what was asked, joined with what the node
 * that holds the bytes knows of holes, and followed down the chain of backing files.
 */
#include <assert.h>

#include "base/math.h"
#include "block/driver.h"

/* What a driver without an opinion means. */
static void all_data(struct blk *b, uint64_t offset, uint64_t bytes, struct blk_extent *e)
{
	e->bytes = bytes;
	e->flags = BLK_EXT_DATA | BLK_EXT_ALLOCATED;
	if (b->drv->kind == BLK_PROTOCOL) {
		e->flags |= BLK_EXT_HOST;
		e->host_offset = offset;
		e->host = b;
	}
}

/* The driver's answer for whole units, cut back to the range. */
static int ask_driver(
	struct blk *b, uint64_t offset, uint64_t bytes, struct blk_extent *out)
{
	uint64_t align = b->limits.request_align;
	uint64_t start = round_down(offset, align);
	uint64_t whole = round_up(offset + bytes, align) - start;
	struct blk_extent e = {.offset = start};
	int ret = 0;

	if (b->drv->extent)
		ret = b->drv->extent(b, start, whole, &e);
	else
		all_data(b, start, whole, &e);
	if (ret) {
		assert(ret < 0);
		return ret;
	}
	assert(e.bytes > offset - start && e.bytes <= whole);
	assert(!(e.flags & BLK_EXT_HOST) || e.host);
	*out = (struct blk_extent){
		.offset = offset,
		.bytes = MIN(e.bytes - (offset - start), bytes),
		.flags = e.flags & ~(unsigned)BLK_EXT_EOF,
	};
	if (e.flags & BLK_EXT_HOST) {
		out->host = e.host;
		out->host_offset = e.host_offset + (offset - start);
	}
	return 0;
}

/* Adds what the host node knows: its holes read as zeros here too. */
static int ask_host(struct blk_extent *e)
{
	uint64_t size = blk_size(e->host);
	struct blk_extent h;
	int ret;

	if (e->host_offset >= size) {
		e->flags |= BLK_EXT_ZERO;
		return 0;
	}
	ret = blk_extent(
		e->host, e->host_offset, MIN(e->bytes, size - e->host_offset), &h);
	if (ret)
		return ret;
	e->bytes = h.bytes;
	e->flags |= h.flags & (BLK_EXT_ZERO | BLK_EXT_DATA);
	return 0;
}

/* A layer that has nothing reads as its backing file does, and as zeros past that one's
 * end. */
static void unallocated(struct blk *b, struct blk_extent *e)
{
	struct blk *backing = blk_backing(b);
	uint64_t end = backing ? blk_size(backing) : 0;

	if (e->offset >= end)
		e->flags |= BLK_EXT_ZERO;
	else
		e->bytes = MIN(e->bytes, end - e->offset);
}

int blk_extent(struct blk *b, uint64_t offset, uint64_t bytes, struct blk_extent *out)
{
	uint64_t size = blk_size(b);
	struct blk_extent e;
	int ret;

	if (bytes == 0 || offset >= size)
		return -EINVAL;
	ret = ask_driver(b, offset, MIN(bytes, size - offset), &e);
	if (ret)
		return ret;
	if ((e.flags & BLK_EXT_RECURSE) && (e.flags & BLK_EXT_HOST) && e.host != b) {
		ret = ask_host(&e);
		if (ret)
			return ret;
	}
	e.flags &= ~(unsigned)BLK_EXT_RECURSE;
	if (!(e.flags & (BLK_EXT_ALLOCATED | BLK_EXT_ZERO)))
		unallocated(b, &e);
	if (offset + e.bytes == size)
		e.flags |= BLK_EXT_EOF;
	*out = e;
	return 0;
}

int blk_extent_above(struct blk *b, struct blk *base, uint64_t offset, uint64_t bytes,
	struct blk_extent *out)
{
	uint64_t size = blk_size(b);
	struct blk_extent e;
	unsigned depth = 0;

	for (struct blk *n = b, *next;; n = next, depth++) {
		int ret = blk_extent(n, offset, bytes, &e);

		if (ret)
			return ret;
		e.depth = depth;
		next = blk_backing(n);
		if ((e.flags & BLK_EXT_ALLOCATED) || !next || next == base)
			break;
		if (e.flags & BLK_EXT_ZERO) {
			/* next has ended, and hides what base may have there. */
			e.flags |= base ? BLK_EXT_ALLOCATED : 0;
			break;
		}
		bytes = e.bytes;
	}
	e.flags &= ~(unsigned)BLK_EXT_EOF;
	if (offset + e.bytes == size)
		e.flags |= BLK_EXT_EOF;
	*out = e;
	return 0;
}
