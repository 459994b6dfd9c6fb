/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The QCOW2 engine, inside view.
 *
 * Metadata lives in memory first. L1 and the refcount table are held whole; L2 tables and
 * refcount blocks in two caches of slices. A request changes metadata in memory only; one
 * place, commit.c, writes it out, always in this order:
 *
 *	1 refcounts        new references are counted first: a crash here leaks
 *	2 refcount table   after the blocks it points to are stable
 *	3 flush            now data and counts are stable
 *	4 L2 slices, L1    as they were when the commit began, so that nothing newer than the
 *	                   flush of 3 gets out with them; a flush between where both changed
 *	5 flush
 *	6 frees            only now do clusters that lost their last reference before 4 go
 *	                   back to the allocator, or get punched
 *
 * Invariants (DESIGN: qcow2), each with the assertion that watches it:
 * I1 A reference on disk is to a cluster that is counted and written: an L2 entry changes in
 *    memory only after its data write completed (write.c), and goes out by the order above.
 * I2 What a completed flush covered survives: flush is a commit.
 * I3 A metadata write goes only where the overlap map says that kind of metadata lies
 *    (overlap.c: qcow2_overlap_check before each).
 * I4 Numbers from disk are checked where they are read: header.c, map.c, refcount.c.
 * I5 A cluster is reused or punched only after step 5 and after every request that may have
 *    seen its old reference has ended (epoch.c).
 * I6 Snapshot operations on version 3 hold the dirty bit while counts and flags disagree.
 * I7 No lock that is held across I/O is taken by the read path.
 *
 * Lock order: exclusive (epoch.c) → prepare_lock → commit_lock → l1_lock → alloc_lock → header_lock → cache
 * locks and inflight_lock (leaves, never held over a park). A request inside an epoch never waits for
 * commit_lock.
 */
#ifndef BYRE_QCOW2_QCOW2_H
#define BYRE_QCOW2_QCOW2_H

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/aio.h"
#include "base/iov.h"
#include "base/log.h"
#include "base/math.h"
#include "base/task.h"
#include "block/codec.h"
#include "block/driver.h"
#include "block/format.h"
#include "qcow2/format.h"

/* ---- overlap.c: what kind of metadata each host cluster holds -------------------- */

enum qcow2_kind {
	QCOW2_DATA, /* guest data, compressed data, or nothing known */
	QCOW2_K_HEADER,
	QCOW2_K_L1,
	QCOW2_K_L2, /* of the active L1 */
	QCOW2_K_REFTABLE,
	QCOW2_K_REFBLOCK,
	QCOW2_K_SNAPSHOTS,
	QCOW2_K_SNAPSHOT_L1,
	QCOW2_K_LUKS,
	QCOW2_K_BITMAPS, /* directory, tables and data */
};

struct qcow2_overlap {
	pthread_mutex_t lock;
	bool off; /* while a broken image is repaired nothing is known */
	struct qcow2_overlap_chunk **buckets;
	size_t n_buckets, n_chunks;
};

/* ---- cache.c: slices of tables --------------------------------------------------- */

struct qcow2_slice {
	uint64_t offset; /* in the image file; the key */
	struct qcow2_slice *hash_next;
	struct qcow2_slice *clock_prev, *clock_next;
	uint32_t pins; /* not evicted while > 0 */
	bool recent;   /* second chance */
	bool loading;
	int error; /* of a load, seen by those who waited for it */
	struct waiter *waiters;
	uint32_t dirty_lo, dirty_hi; /* bytes of data[] that disk does not have; lo == hi: clean */
	uint8_t *data;		     /* big-endian, as on disk */
};

struct qcow2_cache {
	struct qcow2 *q;
	enum qcow2_kind kind;
	uint32_t slice_bytes;
	pthread_mutex_t lock; /* everything below, and the data of every slice */
	struct qcow2_slice **hash;
	size_t hash_mask;
	struct qcow2_slice *clock; /* circular list */
	size_t count, limit;	   /* slices; limit is exceeded while all are dirty or pinned */
	size_t n_dirty;
};

/* ---- epoch.c: requests in flight ------------------------------------------------- */

struct qcow2_epochs {
	pthread_mutex_t lock;
	unsigned current;	/* parity of new requests */
	uint64_t active[2];	/* requests in flight that entered under a parity */
	bool exclusive;		/* held, or waited for: new requests wait */
	struct waiter *waiting; /* requests held back */
	struct waiter *drainer; /* the exclusive operation, waiting for the last request */
};

/* Guest clusters [first, first + n) whose mapping a request is changing. */
struct qcow2_inflight {
	uint64_t first, n;
	struct qcow2_inflight *next;
	struct waiter *waiters;
};

/* A reference that went away in memory: to be dropped once that is stable. */
struct qcow2_free {
	uint64_t offset; /* first host cluster, bytes */
	uint64_t bytes;	 /* as counted: clusters [offset / cs, (offset + bytes - 1) / cs] */
	bool discard;	 /* pass a discard down when the count drops to zero */
};
struct qcow2_free_list {
	struct qcow2_free *v;
	size_t n, cap;
};

struct qcow2_snap { /* the snapshot table in memory */
	uint64_t l1_offset;
	uint32_t l1_entries;
	char *id, *name;
	uint32_t date_sec, date_nsec;
	uint64_t vm_clock_nsec, vm_state_bytes, disk_bytes, icount;
	uint8_t *extra; /* unknown extra data past what we know, kept */
	uint32_t extra_bytes;	    /* of all extra data as read */
	uint32_t unknown_extra_bytes; /* of `extra` */
	bool clipped; /* the entry runs past the end of the file: id and name as far as they go */
};

struct qcow2_places { /* where the header says that things are */
	uint64_t size;
	uint64_t l1_offset, reft_offset, snaps_offset;
	uint32_t l1_entries, reft_clusters, n_snaps;
};

struct qcow2_ext { /* a header extension we keep as it is */
	uint32_t type, bytes;
	uint8_t *data;
};

struct qcow2 {
	struct blk *b;	  /* the node */
	struct blk *file; /* metadata, and data unless there is a data file */
	struct blk *data; /* where data clusters live: file or data file */

	/* Geometry, fixed after open. */
	unsigned version;
	unsigned cluster_bits;
	uint32_t cluster_bytes;
	unsigned refcount_order; /* width is 1 << order bits */
	uint64_t refcount_max;
	bool extl2;
	unsigned l2_entry_bytes;      /* 8 or 16 */
	unsigned l2_bits;	      /* log2 of entries a table */
	unsigned subcluster_bits;     /* = cluster_bits without extl2 */
	uint32_t subcluster_bytes;
	uint32_t slice_entries;	      /* L2 entries a slice */
	unsigned refblock_bits;	      /* log2 of counts a block */
	unsigned compressed_shift;    /* bit where the sector count starts */
	uint64_t compressed_offset_mask;
	enum codec codec;
	bool external_data, external_raw;
	bool lazy_refcounts; /* by the image or by the opener */
	bool encrypted;
	_Atomic bool holes, holes_known; /* read.c: extents ask the file below */
	bool zero_init; /* never written parts of file read as zeros */

	/* Header, under header_lock when changed after open. on_disk is where it says that
	 * things are: the fields below run ahead of it while a commit moves a table. */
	struct task_mutex header_lock, prepare_lock;
	struct qcow2_places on_disk;
	uint64_t incompatible, compatible, autoclear;
	uint32_t header_length;
	uint8_t *header_tail; /* additional header fields past what we know */
	uint32_t header_tail_bytes;
	struct qcow2_ext *exts; /* unknown extensions and feature names, in order */
	size_t n_exts;
	char *data_file_name; /* as in the header; NULL: none */
	uint64_t luks_offset, luks_bytes;
	struct qcow2_ext_bitmaps bitmaps_ext;
	bool has_bitmaps_ext;
	bool is_new; /* its header is being made */
	enum qcow2_crypt crypt_method;
	_Atomic bool write_prepared; /* qcow2_prepare_write has run */
	_Atomic bool corrupt;	     /* found so: no further writes */
	_Atomic bool loaded;	     /* the tables are in memory */

	/* L1: entries in host order, read without a lock (atomic), changed under l1_lock. */
	struct task_mutex l1_lock;
	_Atomic uint64_t *l1;
	uint32_t l1_entries;	/* as in the header; may be more than the disk needs */
	uint64_t l1_offset;
	uint8_t *l1_dirty;	/* one flag per 64 entries: under l1_lock */
	bool l1_any_dirty;

	/* Refcounts and allocation: under alloc_lock. */
	struct task_mutex alloc_lock;
	_Atomic uint64_t *reft;	   /* host order */
	uint64_t reft_entries;	   /* in memory: at least what is on disk */
	uint64_t reft_offset;
	uint32_t reft_clusters;	   /* on disk */
	uint8_t *reft_dirty;	   /* one flag per 64 entries */
	bool reft_any_dirty;
	bool reft_moving;	   /* what is allocated now is its new place */
	_Atomic bool header_stale; /* a table moved, or a write of the header failed and nobody
				    * knows what is on disk: the next commit writes it */
	uint8_t *reft_full;	   /* one flag per block: a scan found nothing free */
	uint64_t alloc_hint;	   /* cluster index: none below it is free */
	uint64_t compressed_next;  /* bytes: where the next compressed cluster may start; 0: none */
	_Atomic uint64_t fresh_from; /* bytes: never written at or above, reads as zeros (zero_init) */
	struct qcow2_free_list freed;  /* dropped in memory only: wait for a commit */
	_Atomic size_t freed_hint;     /* entries of freed, for a look without the lock */
	struct qcow2_free_list stable; /* dropped on disk: wait for the next period to begin */
	struct qcow2_free_list grace;  /* wait for the requests of the period before */
	_Atomic uint64_t frees_done;   /* how often some were; changed under commit_lock */

	struct qcow2_cache l2_cache, ref_cache;
	struct qcow2_overlap overlap;
	struct qcow2_epochs epochs;
	struct task_mutex commit_lock;
	pthread_mutex_t inflight_lock;
	struct qcow2_inflight *inflight;

	/* Snapshots: changed in exclusive mode only. */
	struct qcow2_snap *snaps;
	uint32_t n_snaps;
	uint64_t snaps_offset;
	uint64_t snaps_bytes;

	struct luks *luks;	/* crypt.c */
	struct cipher *aes;	/* legacy; owned */
	struct cipher *cipher;	/* of either; NULL: not encrypted or locked */
};

static inline uint64_t qcow2_cluster_of(const struct qcow2 *q, uint64_t offset)
{
	return offset >> q->cluster_bits;
}
static inline uint64_t qcow2_in_cluster(const struct qcow2 *q, uint64_t offset)
{
	return offset & (q->cluster_bytes - 1);
}
/* Guest bytes one L2 table maps. */
static inline uint64_t qcow2_l2_span(const struct qcow2 *q)
{
	return (uint64_t)q->cluster_bytes << q->l2_bits;
}
/* L1 entries a disk of this size needs. */
static inline uint64_t qcow2_l1_needed(const struct qcow2 *q, uint64_t disk_bytes)
{
	return div_round_up(disk_bytes, qcow2_l2_span(q));
}
/* Where VM state begins: the first L2 table that maps nothing of the disk. */
static inline uint64_t qcow2_vm_state_offset(const struct qcow2 *q, uint64_t disk_bytes)
{
	return qcow2_l1_needed(q, disk_bytes) * qcow2_l2_span(q);
}

/* ---- header.c -------------------------------------------------------------------- */

/* Reads and checks the header and its extensions into q (not L1 and the tables). Every
 * message names the field and the value. */
int qcow2_header_read(struct qcow2 *q, struct err *err);
/* Writes the header cluster from q and b (size, backing name) in one write; does not flush.
 * A crash tears at 512 bytes: fields that must change together share the first sector.
 * This is how the places of tables become those on disk, so they must be stable there: whoever
 * writes the header for another reason (a feature bit) writes the places it has now. */
int qcow2_header_write(struct qcow2 *q);
/* Sets or clears the dirty bit with the flushes around it that make it mean something:
 * set: header, flush. clear: flush, header, flush. Version 3 only, no-op if it is so. */
int qcow2_set_dirty(struct qcow2 *q, bool dirty);
/* A lie was found in the image: sets the corrupt bit (version 3, writable) and refuses writes
 * from now on. Returns -EIO. The message goes to standard error's place: err of the caller, or
 * the log where the data path found it. */
int qcow2_set_corrupt(struct qcow2 *q, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
/* Before the first change of the image after open: clears unknown autoclear bits, flags
 * enabled bitmaps in use (bitmap.c), sets the dirty bit for lazy refcounts. Cheap later. An
 * exclusive operation may undo it: who waits for one after this has to look again. */
int qcow2_prepare_write(struct qcow2 *q);

/* ---- table.c: whole-image passes read tables in large parallel batches ----------- */

/* Reads `entries` be64 at offset into host order. *out is malloc'd. Offsets are checked
 * against the file by the caller; what lies past its end reads as zeros. */
int qcow2_table_read(struct qcow2 *q, uint64_t offset, uint64_t entries, uint64_t **out);
int qcow2_table_write(struct qcow2 *q, enum qcow2_kind kind, uint64_t offset, uint64_t entries,
	const uint64_t *table);
/* Calls fn for each cluster at offsets[i] (non-zero, cluster-aligned) in no order, from
 * several tasks at once, with its bytes; adjacent clusters are read in one go, and memory is
 * bounded. fn may change them and set *changed: they are then written back (kind says what
 * they are for the overlap check). Ends at the first error of fn or of I/O. */
int qcow2_clusters_each(struct qcow2 *q, enum qcow2_kind kind, const uint64_t *offsets, size_t n,
	int (*fn)(void *arg, size_t i, uint8_t *cluster, bool *changed), void *arg);

/* ---- overlap.c ------------------------------------------------------------------- */

void qcow2_overlap_init(struct qcow2_overlap *o);
void qcow2_overlap_destroy(struct qcow2_overlap *o);
/* Marks the clusters of a byte range; QCOW2_DATA unmarks. -ENOMEM. */
int qcow2_overlap_mark(struct qcow2 *q, enum qcow2_kind kind, uint64_t offset, uint64_t bytes);
/* I3: true where every cluster of the range is marked as kind. */
bool qcow2_overlap_ok(struct qcow2 *q, enum qcow2_kind kind, uint64_t offset, uint64_t bytes);
/* Builds the map from q's tables (open, and after exclusive operations). A structure that
 * overlaps another is an error naming both; so is a table that is shared though its count
 * or a copied flag denies it. */
int qcow2_overlap_build(struct qcow2 *q, struct err *err);

/* Metadata as it lies in the file, zeros behind its end, whether the node grows or not. */
int qcow2_meta_read(struct qcow2 *q, uint64_t offset, void *buf, size_t bytes);
/* Every metadata write goes through here: overlap check, then the write. */
int qcow2_meta_write(struct qcow2 *q, enum qcow2_kind kind, uint64_t offset, const void *buf,
	size_t bytes);

/* ---- cache.c --------------------------------------------------------------------- */

int qcow2_cache_init(struct qcow2_cache *c, struct qcow2 *q, enum qcow2_kind kind,
	uint32_t slice_bytes, size_t limit_bytes);
void qcow2_cache_destroy(struct qcow2_cache *c); /* nothing dirty or pinned is left */
/* The slice at offset (a multiple of slice_bytes), loaded and pinned. May park. */
int qcow2_cache_get(struct qcow2_cache *c, uint64_t offset, struct qcow2_slice **out);
void qcow2_cache_put(struct qcow2_cache *c, struct qcow2_slice *s);
/* With c->lock held: the slice if it is in memory and valid, not pinned; else NULL. */
struct qcow2_slice *qcow2_cache_lookup(struct qcow2_cache *c, uint64_t offset);
/* Puts a slice of zeros there without reading, dirty as a whole (a new block), pinned. */
int qcow2_cache_new(struct qcow2_cache *c, uint64_t offset, struct qcow2_slice **out);
/* Call with c->lock held, after changing data[lo, hi). */
void qcow2_cache_mark_dirty(struct qcow2_cache *c, struct qcow2_slice *s, uint32_t lo,
	uint32_t hi);
/* Forgets slices in the range: freed clusters. Dirty ones too. */
void qcow2_cache_drop(struct qcow2_cache *c, uint64_t offset, uint64_t bytes);
void qcow2_cache_drop_all(struct qcow2_cache *c);

/* What of the cache disk does not have, copied at one moment. */
struct qcow2_capture_part {
	uint64_t offset; /* in the image file */
	uint32_t bytes;
	uint32_t lo;		   /* in the slice */
	struct qcow2_slice *slice; /* pinned until capture_done */
	uint8_t *data;
};
struct qcow2_capture {
	struct qcow2_capture_part *v;
	size_t n;
};
/* Takes every dirty range, marks it clean, pins the slice. -ENOMEM: nothing was taken. */
int qcow2_cache_capture(struct qcow2_cache *c, struct qcow2_capture *out);
/* Writes the parts, adjacent ones together, several at a time. */
int qcow2_capture_write(struct qcow2 *q, enum qcow2_kind kind, struct qcow2_capture *cap);
/* Unpins; where ret is an error the ranges become dirty again. Frees the copies. */
void qcow2_capture_done(struct qcow2_cache *c, struct qcow2_capture *cap, int ret);

/* ---- refcount.c ------------------------------------------------------------------ */

/* Take alloc_lock themselves. Cluster indexes. */
int qcow2_refcount_get(struct qcow2 *q, uint64_t cluster, uint64_t *out);
/* Finds free clusters, up to n in one run (at least one; all n where exact), counts them one
 * each, and says where. -ENOSPC/-EFBIG where the format ends. */
struct qcow2_alloc {
	uint64_t offset; /* bytes, in the image file */
	uint64_t n;	 /* clusters */
	bool fresh;	 /* never written: reads as zeros without being written */
};
int qcow2_alloc(struct qcow2 *q, uint64_t n, bool exact, struct qcow2_alloc *out);
/* Space for n compressed clusters of bytes[i] each, packed behind the last one and behind
 * each other where they fit, counted. All or nothing. */
int qcow2_alloc_compressed(struct qcow2 *q, size_t n, const uint32_t *bytes, uint64_t *offsets);
/* Gives back what qcow2_alloc gave when it never got a reference. */
void qcow2_unalloc(struct qcow2 *q, uint64_t offset, uint64_t bytes);
/* A reference was dropped in memory: queue it for after the next commit. */
int qcow2_free_later(struct qcow2 *q, uint64_t offset, uint64_t bytes, bool discard);
/* Drops the references of a list now and empties it (commit.c). */
int qcow2_free_apply(struct qcow2 *q, struct qcow2_free_list *list);
/* Clusters below `end` that are counted, but no more than `enough` are looked for. */
int qcow2_count_used(struct qcow2 *q, uint64_t end, uint64_t enough, uint64_t *used);
/* Bytes that counters for all clusters of the image may take (count.h). */
size_t qcow2_count_limit(struct qcow2 *q);
/* Cuts the file behind the last counted cluster. Nothing waits to be freed. */
int qcow2_trim_file(struct qcow2 *q, struct err *err);
/* Room for the refcount table on disk, if memory has outgrown it (commit.c). */
int qcow2_reft_grow_on_disk(struct qcow2 *q);
/* Count i of a block in big-endian form, any width. */
uint64_t qcow2_refcount_load(const uint8_t *block, unsigned order, uint64_t i);
void qcow2_refcount_store(uint8_t *block, unsigned order, uint64_t i, uint64_t value);

/* ---- commit.c -------------------------------------------------------------------- */

/* Everything up to now becomes stable. Not from inside an epoch. */
int qcow2_commit(struct qcow2 *q);
/* The same for who holds commit_lock; counts are written even if lazy. */
int qcow2_commit_held(struct qcow2 *q);
/* For who found no room: waits for what was freed and is not to be had yet, shortly. `before` is
 * frees_done from before the attempt: what came since counts, whoever saw to it. 1: there is more
 * room now, 0: there is not; -errno. Not from inside an epoch. */
int qcow2_commit_frees(struct qcow2 *q, uint64_t before);
/* Commits where too much is dirty or waiting to be freed; call before entering an epoch. */
int qcow2_commit_if_pressed(struct qcow2 *q);
/* For close and exclusive operations (no request in flight): commits until nothing is dirty
 * and nothing waits to be freed, refcounts included even if lazy. */
int qcow2_commit_all(struct qcow2 *q);

/* ---- epoch.c --------------------------------------------------------------------- */

void qcow2_epochs_init(struct qcow2_epochs *e);
/* A data request is in flight between these. Waits while an exclusive operation runs. */
unsigned qcow2_enter(struct qcow2 *q);
void qcow2_leave(struct qcow2 *q, unsigned epoch);
/* Under commit_lock. New requests count in a new period from now on; the one before must
 * have drained. */
void qcow2_epoch_flip(struct qcow2 *q);
/* True where no request from before the last flip is left. */
bool qcow2_epoch_drained(struct qcow2 *q);
/* No data request in flight and none begins between these. Not from inside an epoch. */
void qcow2_exclusive_begin(struct qcow2 *q);
void qcow2_exclusive_end(struct qcow2 *q);
/* Serialise changes of the mapping of guest clusters. */
void qcow2_inflight_begin(struct qcow2 *q, struct qcow2_inflight *f, uint64_t first, uint64_t n);
void qcow2_inflight_end(struct qcow2 *q, struct qcow2_inflight *f);

/* ---- map.c: guest offsets to host offsets ---------------------------------------- */

enum qcow2_type {
	QCOW2_UNALLOCATED, /* read the backing file */
	QCOW2_ZERO_PLAIN,  /* zeros, no host cluster */
	QCOW2_ZERO_ALLOC,  /* zeros, a host cluster is reserved */
	QCOW2_NORMAL,
	QCOW2_COMPRESSED_TYPE,
};

struct qcow2_run {
	enum qcow2_type type;
	uint64_t bytes; /* guest bytes from the offset asked that are alike and contiguous */
	uint64_t host;	/* host offset of the first byte (NORMAL, ZERO_ALLOC); of the stream */
	uint32_t compressed_bytes; /* up to the end of its last sector, or of the file */
	bool copied;		   /* refcount one: may be written in place */
	bool reserved; /* UNALLOCATED subclusters whose cluster has a place at `host` all the same */
};

/* The run at guest offset, at most `bytes` long. Reads L2 through the cache; may park, takes
 * no lock across I/O. -EIO for an entry that cannot be (corrupt bit set, message logged). */
int qcow2_map(struct qcow2 *q, uint64_t offset, uint64_t bytes, struct qcow2_run *out);
/* The two words of an L2 entry, in host order. */
struct qcow2_entry {
	uint64_t desc, bitmap; /* bitmap 0 without extended L2 */
};
/* Validates an entry of guest offset; returns the type of subcluster sc, or -EIO. */
int qcow2_entry_type(const struct qcow2 *q, struct qcow2_entry e, unsigned sc);
/* Makes the L2 table of guest offset exist and be ours alone (copied). Before data writes, so
 * that lack of space is seen early. */
int qcow2_l2_prepare(struct qcow2 *q, uint64_t offset);
/* Reads entries [0, n) of the guest clusters from offset, within one slice. */
int qcow2_entries_read(struct qcow2 *q, uint64_t offset, uint32_t n, struct qcow2_entry *out);
/* Changes entries [0, n) of the guest clusters from offset (within one slice) by fn under the
 * cache lock: fn must not park. The table has been prepared. */
int qcow2_l2_update(struct qcow2 *q, uint64_t offset, uint32_t n,
	void (*fn)(void *arg, uint32_t i, struct qcow2_entry *e), void *arg);
/* Guest clusters from offset to the end of its slice. */
uint64_t qcow2_slice_left(const struct qcow2 *q, uint64_t offset);

/* ---- read.c, write.c, zero.c, compress.c, crypt.c -------------------------------- */

int qcow2_preadv(struct blk *b, uint64_t offset, uint64_t bytes, const struct iovec *iov, int niov);
int qcow2_pwritev(struct blk *b, uint64_t offset, uint64_t bytes, const struct iovec *iov, int niov,
	unsigned flags);
int qcow2_zero(struct blk *b, uint64_t offset, uint64_t bytes, unsigned flags);
int qcow2_discard(struct blk *b, uint64_t offset, uint64_t bytes);
int qcow2_flush(struct blk *b);
/* As qcow2_zero, for [offset, end) and who is in an epoch or in exclusive mode. */
int qcow2_zero_held(struct qcow2 *q, uint64_t offset, uint64_t end, unsigned flags);
/* Clusters past the disk's end (new or old): their entries go, to unallocated. In exclusive
 * mode. */
int qcow2_forget_held(struct qcow2 *q, uint64_t offset, uint64_t end);
int qcow2_extent(struct blk *b, uint64_t offset, uint64_t bytes, struct blk_extent *out);

/* A part of a request's vector. Small ones need no memory; release with qcow2_part_free. */
struct qcow2_part {
	struct iovec small[16];
	struct iovec *iov; /* NULL: no memory */
	int n;
};
void qcow2_part_init(struct qcow2_part *p, const struct iovec *iov, int niov, size_t pos,
	size_t bytes);
void qcow2_part_free(struct qcow2_part *p);

/* What a guest range reads as; inside an epoch. Also past the disk's end, where the VM state
 * of snapshots lies. */
int qcow2_read_guest(struct qcow2 *q, uint64_t offset, uint64_t bytes, const struct iovec *iov,
	int niov);
struct qcow2_change {
	unsigned epoch;
	uint64_t frees_before; /* of qcow2_commit_frees */
};
/* What every change of guest data begins with: the image is fit and prepared for it, not too
 * much is waiting to be committed, and the request is in an epoch. */
int qcow2_change_begin(struct qcow2 *q, struct qcow2_change *c);
/* Leaves the epoch. True: the change came to nothing for want of room, of which there is more now,
 * and is to be begun and made again. */
bool qcow2_change_again(struct qcow2 *q, const struct qcow2_change *c, int ret);
/* Writes guest data; after qcow2_change_begin. */
int qcow2_write_guest(struct qcow2 *q, uint64_t offset, uint64_t bytes, const struct iovec *iov,
	int niov);
/* The entry may be written in place or filled: a cluster of its own, counted once. */
bool qcow2_entry_owned(const struct qcow2 *q, struct qcow2_entry e);
/* Queues what the entry pointed at for freeing, after the entry was replaced in memory. */
void qcow2_entry_drop(struct qcow2 *q, struct qcow2_entry e);
/* The plain bytes of one compressed cluster; `out` has cluster_bytes. */
int qcow2_read_compressed(struct qcow2 *q, const struct qcow2_run *run, uint8_t *out);
int qcow2_write_compressed(struct qcow2 *q, uint64_t offset, uint64_t bytes,
	const struct iovec *iov, int niov);
int qcow2_pack(struct blk *b, uint64_t offset, uint64_t bytes, const struct iovec *iov, int niov,
	struct blk_packed **out);
int qcow2_write_packed(struct blk *b, struct blk_packed *w);
void qcow2_packed_free(struct blk_packed *w);

int qcow2_crypt_open(struct qcow2 *q, struct opts *opts, struct err *err);
void qcow2_crypt_close(struct qcow2 *q);
struct luks_io;
void qcow2_luks_io(struct qcow2 *q, struct luks_io *io); /* to the header's clusters */
/* In place, whole sectors; guest and host offsets of the first byte (DESIGN: LUKS counts from
 * the host offset, legacy AES from the guest's). */
int qcow2_encrypt(struct qcow2 *q, uint64_t guest, uint64_t host, void *buf, size_t bytes);
int qcow2_decrypt(struct qcow2 *q, uint64_t guest, uint64_t host, void *buf, size_t bytes);

/* ---- snapshot.c, check.c, bitmap.c, create.c, resize.c, measure.c, info.c -------- */

/* At open. On failure nothing is kept, and *readable (may be NULL) says how many entries
 * could have been. */
int qcow2_snapshots_read(struct qcow2 *q, uint32_t *readable, struct err *err);
void qcow2_snapshots_forget(struct qcow2 *q);
/* Writes the table anew at another place, with whole extra data. In exclusive mode. */
int qcow2_snapshots_rewrite(struct qcow2 *q, struct err *err);
int qcow2_snapshot_list(struct blk *b, struct blk_snapshot **list, size_t *n, struct err *err);
int qcow2_snapshot_create(struct blk *b, const struct blk_snapshot *what, struct err *err);
int qcow2_snapshot_apply(
	struct blk *b, const char *id_or_name, bool *changed, struct err *err);
int qcow2_snapshot_delete(
	struct blk *b, const char *id_or_name, bool id_first, struct err *err);
int qcow2_snapshot_load(struct blk *b, const char *id_or_name, struct err *err);

int qcow2_check(struct blk *b, struct blk_check *c, unsigned fix, struct err *err);

/* Flags enabled bitmaps (all of them where `all`, as for a resize) in use on disk. */
int qcow2_bitmaps_mark_in_use(struct qcow2 *q, bool all);
/* Calls fn for each range of clusters that bitmaps hold: directory, tables, data. */
int qcow2_bitmaps_each_range(struct qcow2 *q,
	int (*fn)(void *arg, uint64_t offset, uint64_t bytes), void *arg, struct err *err);
struct json *qcow2_bitmaps_info(struct qcow2 *q);
/* Bytes the bitmaps of a node would take in an image of this cluster size. False where the
 * node can have none. */
bool qcow2_bitmaps_measure(struct blk *b, uint64_t cluster_bytes, uint64_t *out);

extern const struct blk_driver blk_qcow2_driver;
extern const struct blk_create_opt qcow2_create_opts[];
int qcow2_create(const char *filename, struct blk *file, struct opts *opts, struct err *err);
int qcow2_measure(struct opts *opts, struct blk *src, struct blk_measure *out, struct err *err);
int qcow2_resize(struct blk *b, uint64_t bytes, enum blk_prealloc prealloc, struct err *err);
/* A longer active L1 table. In exclusive mode, after qcow2_prepare_write. */
int qcow2_l1_grow(struct qcow2 *q, uint32_t entries, struct err *err);
struct json *qcow2_info(struct blk *b);
int qcow2_vm_state_read(struct blk *b, uint64_t offset, const struct iovec *iov, int niov);
int qcow2_vm_state_write(struct blk *b, uint64_t offset, const struct iovec *iov, int niov);
/* From a snapshot's tables, which take the place of the active ones meanwhile. */
int qcow2_vm_state_of(struct blk *b, const char *id_or_name, uint64_t offset,
	const struct iovec *iov, int niov);
int qcow2_vm_state_forget(struct blk *b);
/* In snapshot.c: a copy of the L1 table of a snapshot (malloc) and its length; the size of its
 * disk. -ENOENT. */
int qcow2_snapshot_l1(struct qcow2 *q, const char *id_or_name, _Atomic uint64_t **l1,
	uint32_t *entries, uint64_t *disk_bytes, struct err *err);

/* qcow2.c: open over b->file, which is there already; opts NULL: none. On failure and at the
 * end: qcow2_release. */
int qcow2_open_over(struct blk *b, struct opts *opts, struct err *err);
/* Writes everything out and leaves the image clean. */
int qcow2_settle(struct qcow2 *q);
void qcow2_release(struct qcow2 *q);
/* What open and exclusive operations that rewrote tables on disk both do: reads
 * L1 (offset, entries from q) and the refcount table anew, empties caches, rebuilds the
 * overlap map. */
int qcow2_tables_load(struct qcow2 *q, struct err *err);

#endif
