/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The copy engine that convert and its kin share: several tasks take turns at the next
 * piece of the source, skip what reads as zeros, and write pieces in parallel; where the
 * target lays clusters out as they come, writes keep the guest's order so that results
 * are reproducible.
 */
#ifndef BYRE_BLOCK_COPY_H
#define BYRE_BLOCK_COPY_H

#include <stdatomic.h>

#include "block/blk.h"

#define COPY_MAX_PARALLEL 16u

struct copy_source {
	struct blk *b;
	uint64_t bytes; /* how much of it counts, from 0; past its end are zeros */
};

struct copy_job {
	/* Sources are concatenated to make the disk. */
	const struct copy_source *sources;
	size_t n_sources;
	struct blk *dst;
	struct blk
		*base; /* ranges that come from it (in sources[0]'s chain) are skipped */
	uint64_t min_sparse; /* bytes of zeros worth a hole; 0: write zeros out; 4096
				default */
	bool compressed;     /* write BLK_COMPRESSED */
	bool target_is_zero; /* dst itself holds nothing yet: zeros need no write where no
			      * backing file of dst would show through */
	uint64_t backing_bytes; /* length of dst's backing file, 0 without one */
	bool out_of_order;      /* -W */
	bool copy_offload;      /* try blk_copy_range */
	bool salvage;           /* unreadable sectors become zeros, counted */
	unsigned parallel;      /* requests in flight, 1..COPY_MAX_PARALLEL; 0: 8 */
	uint64_t rate_bytes;    /* per second; 0: no limit */
	atomic_bool
		*cancel; /* set by a signal handler: ends with -ECANCELED; may be NULL */
	/* Both are called by one task at a time, from any thread; may be NULL. */
	void (*progress)(void *arg, uint64_t done_bytes, uint64_t total_bytes);
	void (*salvaged)(
		void *arg, uint64_t offset, int code); /* code: the errno value */
	void *arg;

	/* Results. */
	uint64_t salvaged_bytes;
};

/* True where a dst just created reads as zeros wherever nothing was written. */
bool copy_starts_zero(const struct blk *dst);

/* Runs the job to its end. Does not flush: the caller decides. err names the image, the
 * offset and what was being done. */
int copy_run(struct copy_job *job, struct err *err);

#endif
