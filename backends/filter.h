/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the instruments (fault, crash, trace) have in common: they stand over one child,
 * "file", look like it from above, and pass every operation on. These are the passing on.
 *
 * Zeroing is passed on without the fallback of the child's gate: where the child cannot,
 * the gate above writes zeros through the instrument, which then sees a write as there is
 * one.
 */
#ifndef BYRE_BACKENDS_FILTER_H
#define BYRE_BACKENDS_FILTER_H

#include "block/driver.h"

/* Opens the child and takes over its size, limits and capabilities. */
int filter_open(struct blk *b, struct opts *opts, struct err *err);

int filter_preadv(struct blk *b, uint64_t offset, uint64_t bytes, const struct iovec *iov,
	int niov);
int filter_pwritev(struct blk *b, uint64_t offset, uint64_t bytes,
	const struct iovec *iov, int niov, unsigned flags);
int filter_flush(struct blk *b);
int filter_zero(struct blk *b, uint64_t offset, uint64_t bytes, unsigned flags);
int filter_discard(struct blk *b, uint64_t offset, uint64_t bytes);
int filter_extent(struct blk *b, uint64_t offset, uint64_t bytes, struct blk_extent *out);
int filter_resize(
	struct blk *b, uint64_t bytes, enum blk_prealloc prealloc, struct err *err);
int filter_copy_range(struct blk *src, uint64_t src_offset, struct blk *dst,
	uint64_t dst_offset, uint64_t bytes, unsigned flags);
int64_t filter_allocated(struct blk *b);

/* The node of this driver at or below root: through files, data files and backing files,
 * nearest first. NULL where there is none. */
struct blk *filter_find(struct blk *root, const struct blk_driver *drv);

#endif
