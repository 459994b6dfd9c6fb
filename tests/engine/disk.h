/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a disk must read as: a flat array, and one more for each snapshot. The simplest
 * thing that can be right, which the engine is compared with.
 */
#ifndef BYRE_TESTS_ENGINE_DISK_H
#define BYRE_TESTS_ENGINE_DISK_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "block/blk.h"

#define DISK_MAX_SNAPSHOTS 5

struct disk_snapshot {
	char name[16];
	uint8_t *data;
	uint64_t bytes;
};

struct disk {
	uint8_t *data;
	uint64_t bytes;
	uint64_t max_bytes; /* what data has room for */
	struct disk_snapshot snaps[DISK_MAX_SNAPSHOTS];
	unsigned n_snaps;
};

/* False where memory is short. All zeros. */
int disk_init(struct disk *d, uint64_t bytes, uint64_t max_bytes, struct err *err);
void disk_free(struct disk *d);

int disk_snapshot_add(struct disk *d, const char *name, struct err *err);
void disk_snapshot_remove(struct disk *d, unsigned i);
void disk_snapshot_apply(struct disk *d, unsigned i);
/* bytes <= max_bytes; what is new is zero. */
void disk_resize(struct disk *d, uint64_t bytes);

/* 0 where b reads as data[0, bytes); else -EIO with the first place where it does not. */
int disk_compare(struct blk *b, const uint8_t *data, uint64_t bytes, struct err *err);
/* Walks the extents: they must cover the disk, and say zero only of what is. */
int disk_check_extents(
	struct blk *b, const uint8_t *data, uint64_t bytes, struct err *err);
/* What check may find. */
enum disk_tolerance {
	DISK_CLEAN,
	DISK_LEAKS,
	DISK_FLAGS, /* leaks, and copied flags that do not say whether the count is one */
};

/* The engine's own check of an image that was closed. */
int disk_check(struct blk *b, enum disk_tolerance tolerated, struct err *err);

#endif
