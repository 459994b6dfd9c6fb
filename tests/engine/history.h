/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a disk may read as after an accident, sector by sector.
 *
 * Each change of a sector is a version: when it was asked for, when it was done, and what
 * the sector then holds, as a hash. Time is the caller's: any number that grows. After an
 * accident at time T the last flush that was done by T says what is certain: the newest
 * version that was done before that flush began. A sector must read as that one or as any
 * later one that was asked for before T; each may have happened or not. Anything else is
 * lost data, or another place's.
 *
 * A change that failed may have happened too, at any time after it was asked for, but it
 * makes nothing certain.
 *
 * The disk's size changes as its sectors do: those past its end hold HISTORY_ABSENT.
 */
#ifndef BYRE_TESTS_ENGINE_HISTORY_H
#define BYRE_TESTS_ENGINE_HISTORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "block/blk.h"

#define HISTORY_ABSENT 1u /* no sector of data hashes to these two */
#define HISTORY_ZERO   2u
#define HISTORY_NEVER  UINT64_MAX

struct history_op {
	uint64_t begin, end; /* end HISTORY_NEVER: not done, or failed */
};

struct history_version {
	uint32_t op;
	uint64_t hash;
};

struct history_sector {
	struct history_version *v;
	uint32_t n, cap;
};

struct history_flush {
	uint64_t begin, end;
};

struct history_snapshot {
	char name[16];
	uint64_t *hashes;          /* of all sectors; 0: not known for sure */
	uint32_t created, deleted; /* operations; deleted UINT32_MAX: not asked for */
};

struct history {
	uint64_t n_sectors; /* the largest the disk gets */
	struct history_sector *sectors;
	struct history_op *ops;
	uint32_t n_ops, cap_ops;
	struct history_flush *flushes;
	size_t n_flushes, cap_flushes;
	struct history_snapshot *snaps;
	size_t n_snaps, cap_snaps;
};

uint64_t history_hash(const uint8_t sector[BLK_SECTOR]);

/* data[0, bytes) is certain from the start; what is behind it is absent. */
void history_init(
	struct history *h, const uint8_t *data, uint64_t bytes, uint64_t max_bytes);
void history_free(struct history *h);

/* An operation is asked for at a time; its versions follow; then it is done, or not. */
uint32_t history_begin(struct history *h, uint64_t time);
void history_end(struct history *h, uint32_t op, uint64_t time);
/* hash 0: it may be anything, as after the return to a snapshot of which that is so. */
void history_set(struct history *h, uint32_t op, uint64_t sector, uint64_t hash);
/* The newest version's hash, or 0 where a later failure leaves it open. */
uint64_t history_newest(const struct history *h, uint64_t sector);
void history_flushed(struct history *h, uint64_t begin, uint64_t end);

void history_snapshot_created(struct history *h, uint32_t op, const char *name);
void history_snapshot_deleted(struct history *h, uint32_t op, const char *name);

/* True where operation op was done before the last flush that was done by `time` began.
 */
bool history_is_certain(const struct history *h, uint32_t op, uint64_t time);
/* 0, or -EIO with the first sector that reads as it must not. */
int history_check(const struct history *h, struct blk *b, uint64_t time, struct err *err);
/* The same for a snapshot, which b has been switched to. */
int history_check_snapshot(const struct history *h, const struct history_snapshot *s,
	struct blk *b, struct err *err);

#endif
