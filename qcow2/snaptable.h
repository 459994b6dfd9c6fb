/* SPDX-License-Identifier: BSD-2-Clause */
/* The snapshot table, for snapshot.c: finding entries, and putting a new table in place.
 */
#ifndef BYRE_QCOW2_SNAPTABLE_H
#define BYRE_QCOW2_SNAPTABLE_H

#include "qcow2/qcow2.h"

/* Index by id or by name, -1 where there is none. */
int64_t snap_by_id(const struct qcow2 *q, const char *id);
int64_t snap_by_name(const struct qcow2 *q, const char *name);

/* A table to replace the one on disk: made, written, switched to, then the old one
 * dropped. */
struct snap_table {
	struct qcow2_snap
		*snaps; /* n of them; strings are those of the entries they came from */
	uint32_t n;
	uint8_t *buf;
	uint64_t bytes;
	uint64_t offset; /* 0: no clusters */
};

/* Serialises t->snaps and allocates clusters for it. */
int snap_table_make(struct qcow2 *q, struct snap_table *t, struct err *err);
/* Writes it to its new place; nothing points there yet. Does not flush. */
int snap_table_write(struct qcow2 *q, const struct snap_table *t);
/* After a write of the header that failed: it may have happened all the same, so the old
 * contents (which q has again) are written over it before anything is freed. Where that
 * fails too nobody knows which tables count: nothing is written any more. */
void snap_header_restore(struct qcow2 *q);
/* Exchanges q's table for t in memory and in the header (one sector); flushes before and
 * after. t has the old one then. On failure q is as before. */
int snap_table_switch(struct qcow2 *q, struct snap_table *t);
/* Gives back the clusters (nothing points there any more, or ever did), frees t->buf. */
int snap_table_drop(struct qcow2 *q, struct snap_table *t);

#endif
