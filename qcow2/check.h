/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Check and repair, shared state: check.c finds, repair.c puts right.
 *
 * Nothing of the engine's memory is trusted but the header. References are counted from
 * the tables into `refs`; the counts on disk are compared with them; copied flags are
 * compared with the counts on disk. `disk` holds, plus one, the counts on disk that
 * differ.
 */
#ifndef BYRE_QCOW2_CHECK_H
#define BYRE_QCOW2_CHECK_H

#include "qcow2/count.h"
#include "qcow2/qcow2.h"

enum finding_kind {
	FOUND_PAST_END,           /* offset, bytes */
	FOUND_L1_RESERVED,        /* entry */
	FOUND_L1_UNALIGNED,       /* offset */
	FOUND_L1_NOWHERE,         /* entry */
	FOUND_L2_RESERVED,        /* entry */
	FOUND_DATA_UNALIGNED,     /* offset */
	FOUND_PREALLOC_UNALIGNED, /* offset */
	FIXED_PREALLOC_UNALIGNED, /* offset */
	FOUND_BITMAP_BAD,         /* offset */
	FOUND_BITMAP_UNALLOCATED,
	FOUND_BITMAP_COMPRESSED,    /* entry number, entry */
	FOUND_COMPRESSED_DATA_FILE, /* entry number, entry */
	FOUND_DATA_FILE_OFFSET,     /* guest offset, host offset */
	FOUND_REFT_RESERVED,        /* block */
	FOUND_REFBLOCK_UNALIGNED,   /* block */
	FOUND_REFBLOCK_OUTSIDE,     /* block */
	FOUND_REFBLOCK_SHARED,      /* block, references */
	FOUND_OVERLAP,              /* cluster, kind, kind */
	FOUND_REFCOUNT_LOW,         /* cluster, count, references */
	FOUND_REFCOUNT_HIGH,
	FIXED_REFCOUNT,
	FOUND_L2_COPIED, /* L1 index, entry, count */
	FIXED_L2_COPIED,
	FOUND_DATA_COPIED, /* entry, count */
	FIXED_DATA_COPIED,
	FOUND_COMPRESSED_COPIED, /* entry */
	FIXED_COMPRESSED_COPIED,
};

struct finding {
	uint64_t key, seq; /* findings are told in this order */
	uint64_t a, b, c;
	enum finding_kind kind;
};

struct check {
	struct qcow2 *q;
	struct blk_check *out;
	unsigned fix;
	struct err *err;

	uint64_t n_clusters; /* of the file, the last one perhaps cut short */
	struct count refs, disk;
	struct count beyond; /* references past the end of the file: where a repair makes it
				longer they come to lie inside */
	struct l2_set l2;
	uint64_t used_end; /* cluster behind the last that is counted on disk */

	/* Refcount blocks that can be read. */
	uint64_t *block_offset;
	uint64_t *block_index;
	size_t n_blocks;

	struct finding *found;
	size_t n_found, cap_found;
	uint64_t n_untold;

	bool lower;      /* counts that are too high are being repaired */
	bool incomplete; /* a table could not be followed: what has no reference may be in
			    use */
	bool overlaps;		/* metadata upon metadata: tables are not written to */
	bool rebuild;    /* the refcount structure itself is broken */
	bool uncountable;   /* more references than a count of this width can say */
	bool fix_snapshots; /* entries are unfinished: the table is written anew */
	bool fix_header;	/* it names fewer structures now: written first */
	bool fix_entries;   /* preallocated entries to be cleared */
	uint64_t refcount_errors; /* findings that rebuilding settles */
	bool any_shared;          /* some count on disk is above one */
	uint64_t copied_wrong; /* active entries that cannot be right with no count above
				  one */
};

/* Notes a finding; cheap when nobody listens. */
void check_found(struct check *c, enum finding_kind kind, uint64_t key, uint64_t x,
	uint64_t y, uint64_t z);
/* Tells the findings so far in order, and forgets them. */
void check_tell(struct check *c);
void check_say(struct check *c, bool error, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* Lines of repairs are told together: those of counts, then those of flags. */
#define KEY_FLAGS (1ull << 62)

/* The count on disk as it is now, past the end of the file too. */
static inline uint64_t check_count(struct check *c, uint64_t cluster)
{
	uint64_t d = count_get(&c->disk, cluster);

	return d ? d - 1 : count_get(&c->refs, cluster);
}

/* True for a preallocated entry of zeros whose host offset cannot be: clearing the offset
 * loses nothing. */
static inline bool check_prealloc_bad(
	const struct qcow2 *q, uint64_t desc, uint64_t bitmap)
{
	return !(desc & QCOW2_COMPRESSED) &&
	       !is_aligned(desc & QCOW2_OFFSET_MASK, q->cluster_bytes) &&
	       (q->extl2 ? !(bitmap & QCOW2_SUB_ALL) : (desc & QCOW2_ZERO) != 0);
}

/* True for an entry that lacks the extra data that version 3 asks for, or its end. */
static inline bool check_snapshot_unfinished(
	const struct qcow2 *q, const struct qcow2_snap *s)
{
	return s->clipped || (q->version >= 3 && s->extra_bytes < 2 * sizeof(be64));
}

/* False where counts and entries already show that every flag is right. */
bool check_flags_needed(const struct check *c);
/* Copied flags of the active tables against the counts on disk. Reports them, or with
 * `repair` changes them: only clears flags where `clear`, else both. */
int check_flags(struct check *c, bool repair, bool clear_only);

/* What qcow2_check does in exclusive mode, with nothing dirty in memory. */
int check_whole(struct qcow2 *q, struct blk_check *out, unsigned fix, struct err *err);

/* Writes what has to be; c->out says what is left. */
int check_repair(struct check *c);

#endif
