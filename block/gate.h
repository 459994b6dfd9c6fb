/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Inside block/. The gate's state of one node is made when its driver has filled in
 * limits and capabilities, and is constant afterwards but for the list of requests and
 * the lock.
 */
#ifndef BYRE_BLOCK_GATE_H
#define BYRE_BLOCK_GATE_H

#include "block/driver.h"
#include "block/track.h"

struct blk_gate {
	/* Copies of limits in the form the plain path wants. */
	uint64_t align_mask, mem_mask;
	uint32_t max_transfer;
	unsigned plain_flags; /* of a write that need no work here */
	bool plain_read;      /* reads are not tracked */
	bool plain_write;     /* writable, not tracked, not guarded, no zero detection */

	bool track_reads, track_writes;
	struct track track;
	struct task_mutex
		guard; /* one write to the head of a probed raw disk at a time */
};

/* Replaces zeros in b->limits by their meaning and makes b->gate. -ENOMEM. */
int blk_gate_new(struct blk *b);
void blk_gate_free(struct blk *b);

/* node.c: puts a node among its parent's children; takes a node out of the tree and frees it; closes what was opened below it. */
void blk_node_join(struct blk *b, struct blk *parent);
void blk_node_free(struct blk *b);
int blk_close_children(struct blk *b);

/* node.c: b, or what is below it where it is a filter. */
const struct blk *blk_below_filters(const struct blk *b);

/* name.c: the name without a scheme of this driver; and whether it has no scheme at all.
 */
const char *blk_name_rest(const struct blk_driver *drv, const char *filename);
bool blk_name_is_path(const char *name);

/* probe.c: the format that claims a file with this head the most, and its score. NULL and
 * 0 where none does. */
const struct blk_driver *blk_probe_head(
	const uint8_t *buf, size_t bytes, const char *filename, int *score);
/* The same for a node. *out NULL cannot be. */
int blk_probe_node(
	struct blk *file, const struct blk_driver **out, int *score, struct err *err);

#endif
