/* SPDX-License-Identifier: BSD-2-Clause */
/* See filter.h. */
#include "backends/filter.h"

#include "block/format.h"

int filter_open(struct blk *b, struct opts *opts, struct err *err)
{
	b->file = blk_open_child(b, opts, "file", NULL, b->flags, err);
	if (!b->file)
		return -err->code;
	b->size = blk_size(b->file);
	b->limits = b->file->limits;
	b->caps = b->file->caps;
	return 0;
}

/* After a request that may have made the child longer. Only ever up: of two that end at
 * once the one that looked first may come last. */
static void follow_size(struct blk *b)
{
	uint64_t now = blk_size(b), size = blk_size(b->file);

	while (now < size && !__atomic_compare_exchange_n(&b->size, &now, size, true,
				     __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
		;
}

int filter_preadv(
	struct blk *b, uint64_t offset, uint64_t bytes, const struct iovec *iov, int niov)
{
	(void)bytes;
	return blk_preadv(b->file, offset, iov, niov, 0);
}

int filter_pwritev(struct blk *b, uint64_t offset, uint64_t bytes,
	const struct iovec *iov, int niov, unsigned flags)
{
	int ret = blk_pwritev(b->file, offset, iov, niov, flags);

	(void)bytes;
	follow_size(b);
	return ret;
}

int filter_flush(struct blk *b)
{
	return blk_flush(b->file);
}

int filter_zero(struct blk *b, uint64_t offset, uint64_t bytes, unsigned flags)
{
	int ret = blk_zero(b->file, offset, bytes, flags | BLK_NO_FALLBACK);

	follow_size(b);
	return ret;
}

int filter_discard(struct blk *b, uint64_t offset, uint64_t bytes)
{
	return blk_discard(b->file, offset, bytes);
}

int filter_extent(struct blk *b, uint64_t offset, uint64_t bytes, struct blk_extent *out)
{
	return blk_extent(b->file, offset, bytes, out);
}

int filter_resize(
	struct blk *b, uint64_t bytes, enum blk_prealloc prealloc, struct err *err)
{
	int ret = blk_resize(b->file, bytes, prealloc, err);

	blk_set_size(b, blk_size(b->file));
	return ret;
}

int filter_copy_range(struct blk *src, uint64_t src_offset, struct blk *dst,
	uint64_t dst_offset, uint64_t bytes, unsigned flags)
{
	int ret = blk_copy_range(
		src->file, src_offset, dst->file, dst_offset, bytes, flags);

	follow_size(dst);
	return ret;
}

int64_t filter_allocated(struct blk *b)
{
	return blk_allocated(b->file);
}

struct blk *filter_find(struct blk *root, const struct blk_driver *drv)
{
	struct blk *found = NULL;

	/* The tree is as deep as files lie in files: a few levels. Chains are walked. */
	for (; root && !found; root = root->backing) {
		if (root->drv == drv)
			return root;
		found = root->file ? filter_find(root->file, drv) : NULL;
		if (!found && root->data_file)
			found = filter_find(root->data_file, drv);
	}
	return found;
}
