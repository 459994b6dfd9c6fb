/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The copy engine that convert and its kin share: several tasks take turns at the next
 * piece of the source, skip what reads as zeros, and write pieces in parallel; compressed
 * output keeps its order on disk so that results are reproducible.
 */
#ifndef BYRE_BLOCK_COPY_H
#define BYRE_BLOCK_COPY_H

#include <stdatomic.h>

#include "block/blk.h"

struct copy_source {
	struct blk *b;
	uint64_t bytes; /* how much of it counts, from 0 */
};

struct copy_job {
	/* Sources are concatenated to make the disk. */
	const struct copy_source *sources;
	size_t n_sources;
	struct blk *dst;
	struct blk *base;	 /* ranges that come from it (in sources[0]'s chain) are skipped */
	uint64_t min_sparse;	 /* bytes of zeros worth a hole; 0: write zeros out; 4096 default */
	bool compressed;	 /* write BLK_COMPRESSED */
	bool target_is_zero;	 /* dst reads as zeros (new image): zeros need no write */
	bool dst_has_backing;	 /* zeros must be written as zeros, never left out */
	bool out_of_order;	 /* -W */
	bool copy_offload;	 /* try blk_copy_range */
	bool salvage;		 /* unreadable parts become zeros, counted */
	unsigned parallel;	 /* requests in flight, 1..16; 8 default */
	uint64_t rate_bytes;	 /* per second; 0: no limit */
	atomic_bool *cancel;	 /* set by a signal handler: ends with -ECANCELED */
	void (*progress)(void *arg, uint64_t done_bytes, uint64_t total_bytes);
	void *arg;

	/* Results. */
	uint64_t salvaged_bytes;
};

/* Runs the job to its end. Does not flush: the caller decides. err names offset and what
 * was being done. */
int copy_run(struct copy_job *job, struct err *err);

#endif
