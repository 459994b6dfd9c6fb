/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The one disk interface.
 *
 * A `struct blk` is a node: a driver and its state over child nodes. A qcow2 image on a
 * local file is two nodes (qcow2 → file), with a backing file four. Nodes form a tree that
 * blk_close() of the root takes down.
 *
 * Threading contract: every data call may be made from any task on any loop, or from a
 * plain thread, at once with others on the same node. Control calls (open, close, resize,
 * and those of format.h) must not run at once with each other on one node; resize may run
 * beside data calls.
 *
 * Data calls: all offsets and lengths are bytes of any alignment. A request completes once,
 * in full, with 0, or with -errno and nothing promised about its range. Concurrent requests
 * that overlap have no defined order between them, but each byte is from one of them. Writes
 * are stable after a later blk_flush() that returned 0 (or at once with BLK_FUA, or when the
 * node was opened with BLK_O_WRITETHROUGH).
 */
#ifndef BYRE_BLOCK_BLK_H
#define BYRE_BLOCK_BLK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/err.h"
#include "base/opts.h"

struct blk;
struct blk_driver;

#define BLK_SECTOR 512u
/* The largest request a caller may make in one call; also the largest disk size is 2^63-1. */
#define BLK_MAX_REQUEST (1u << 30)
#define BLK_MAX_SIZE	((uint64_t)INT64_MAX - (BLK_MAX_REQUEST - 1)) /* whole GiB */
/* Nodes from an image down its backing files. */
#define BLK_MAX_CHAIN 200

/* How to open. */
enum blk_open_flags {
	BLK_O_RDWR = 1 << 0,	     /* else read-only */
	BLK_O_NO_BACKING = 1 << 1,   /* do not open the backing file; reads of its range give zeros */
	BLK_O_NO_IO = 1 << 2,	     /* metadata only: no passphrase needed, no data file, no backing */
	BLK_O_CHECK = 1 << 3,	     /* for check and repair: dirty and corrupt images open */
	BLK_O_DIRECT = 1 << 4,	     /* cache=none, directsync: bypass the host page cache */
	BLK_O_WRITETHROUGH = 1 << 5, /* cache=writethrough, directsync: a write is stable when it ends */
	BLK_O_NO_FLUSH = 1 << 6,     /* cache=unsafe: flushes do nothing */
	BLK_O_SHARE = 1 << 7,	     /* -U: no locks against other users */
	BLK_O_DISCARD = 1 << 8,	     /* discard=unmap: pass discards down (else they do nothing) */
	BLK_O_ZEROES = 1 << 9,	     /* detect-zeroes=on: writes of zeros become zero requests */
	BLK_O_ZEROES_UNMAP = 1 << 10, /* detect-zeroes=unmap */
	BLK_O_PROTOCOL = 1 << 11,    /* stop at the protocol node: no format is opened over it */
	BLK_O_NAMES_TRUSTED = 1 << 12, /* names inside images may carry protocols and json: */
	BLK_O_ALLOW_AES = 1 << 13,   /* writing legacy qcow2 AES is allowed */
	BLK_O_SHARE_WRITE = 1 << 14, /* a driver to its child: others may write there at once,
				      * as no metadata of a format is in it (raw, luks; filters
				      * hand it on; a protocol node opened for itself) */
	BLK_O_BACKED = 1 << 15, /* open.c: others are read through it, so its content stays */
	BLK_O_PATH = 1 << 16,	/* one of several ways to the same disk: a lost connection is
				 * told at once (-ENOLINK), and nothing is repeated on it */
	BLK_O_SOLE_WRITER = 1 << 17, /* nobody else may write there at once whatever the format:
				      * who uses it has structures of his own in it, as a
				      * guest has its file systems */
};

/* Opens "disk.qcow2", "file:disk.img", "json:{…}", "nbd://…", or, with filename NULL, what
 * opts describe (driver=qcow2,file.filename=…). opts may be NULL; it stays the caller's,
 * and every option must be known to a driver. With no driver given the format is probed; a
 * probed raw image is readable, and writable except its first sector becoming another
 * format's magic. Blocks. NULL with err set on failure; nothing stays open or locked. */
struct blk *blk_open(const char *filename, const struct opts *opts, unsigned flags,
	struct err *err);
/* As blk_open with driver=format; format NULL probes. */
struct blk *blk_open_format(const char *filename, const char *format, unsigned flags,
	struct err *err);
/* Flushes (unless BLK_O_NO_FLUSH), releases locks, frees the tree; NULL is fine. The result
 * is that of the flush: what a tool reports as success it has closed with 0. No data call
 * may be in flight. */
int blk_close(struct blk *b);
/* Parses "none", "writeback", "writethrough", "directsync", "unsafe" into flags, replacing
 * those it covers. -EINVAL for another word. */
int blk_cache_mode(const char *mode, unsigned *flags);

/* Facts, fixed from open on except size. Strings live as long as the node. */
const char *blk_filename(const struct blk *b); /* as a person would name it */
const char *blk_driver_name(const struct blk *b);
uint64_t blk_size(const struct blk *b); /* bytes; may grow under a raw file */
bool blk_read_only(const struct blk *b);
unsigned blk_flags(const struct blk *b);
struct blk *blk_file(const struct blk *b);    /* the protocol child of a format; or NULL */
struct blk *blk_backing(const struct blk *b); /* opened backing node; or NULL */
/* Name and format of the backing file as the image says; NULL where it has none. */
const char *blk_backing_name(const struct blk *b);
const char *blk_backing_format(const struct blk *b);
/* True where `path` is a local file that b reads from: itself or anything below it. */
bool blk_uses_file(const struct blk *b, const char *path);

/* Data. See the contract on top. */
enum blk_request_flags {
	BLK_FUA = 1 << 0,	 /* stable on completion */
	BLK_MAY_UNMAP = 1 << 1,	 /* zero: space may be given back */
	BLK_NO_FALLBACK = 1 << 2, /* zero: -ENOTSUP rather than write zeros out */
	/* Write: store compressed; offset on a cluster, whole clusters or up to the disk's end.
	 * The clusters of one request are compressed in parallel and laid out in order, so one
	 * request after another gives the same file each time. -ENOTSUP where the format cannot,
	 * -EINVAL for another shape. */
	BLK_COMPRESSED = 1 << 3,
	/* Waits for overlapping requests and holds back later ones; needs blk_track_requests. */
	BLK_SERIALISE = 1 << 4,
};

/* From now on the node keeps track of its requests so that BLK_SERIALISE can order them,
 * which plain requests pay for with a lock. No data call may be in flight. */
void blk_track_requests(struct blk *b);

int blk_preadv(struct blk *b, uint64_t offset, const struct iovec *iov, int niov, unsigned flags);
int blk_pwritev(struct blk *b, uint64_t offset, const struct iovec *iov, int niov, unsigned flags);
int blk_pread(struct blk *b, uint64_t offset, void *buf, size_t bytes);
int blk_pwrite(struct blk *b, uint64_t offset, const void *buf, size_t bytes, unsigned flags);
/* A compressed write in two steps, so that many can be compressed at once and still be laid
 * out in the order in which they are stored. blk_pack compresses: range, shape and errors as
 * for BLK_COMPRESSED. The data stays the caller's and is needed until blk_packed_free, since
 * what does not shrink is stored from there. blk_write_packed stores, once. */
struct blk_packed;
int blk_pack(struct blk *b, uint64_t offset, const struct iovec *iov, int niov,
	struct blk_packed **out);
int blk_write_packed(struct blk *b, struct blk_packed *p);
void blk_packed_free(struct blk *b, struct blk_packed *p);
/* After it the range reads as zeros. */
int blk_zero(struct blk *b, uint64_t offset, uint64_t bytes, unsigned flags);
/* A hint; after it the range reads as anything that was there before or zeros. */
int blk_discard(struct blk *b, uint64_t offset, uint64_t bytes);
int blk_flush(struct blk *b);
/* Copies between nodes by reflink or kernel copy where both ends can: -ENOTSUP where not,
 * and then nothing has been written; ranges must not overlap on one node. */
int blk_copy_range(struct blk *src, uint64_t src_offset, struct blk *dst, uint64_t dst_offset,
	uint64_t bytes, unsigned flags);

/* Extents: the common language of sparse data. */
enum blk_extent_flags {
	BLK_EXT_DATA = 1 << 0,	     /* has to be read */
	BLK_EXT_ZERO = 1 << 1,	     /* reads as zeros */
	BLK_EXT_ALLOCATED = 1 << 2,  /* this layer decides what is read, not the backing file */
	BLK_EXT_HOST = 1 << 3,	     /* host_offset in *host is where the bytes lie, plain */
	BLK_EXT_COMPRESSED = 1 << 4, /* stored compressed */
	BLK_EXT_RECURSE = 1 << 5,    /* driver to gate: the host node knows better about holes */
	BLK_EXT_EOF = 1 << 6,	     /* the extent ends at the end of the disk */
};

struct blk_extent {
	uint64_t offset; /* as asked */
	uint64_t bytes;	 /* > 0, at most what was asked */
	unsigned flags;
	unsigned depth;	      /* layers below the node asked: 0 is the node itself */
	uint64_t host_offset; /* BLK_EXT_HOST */
	struct blk *host;     /* BLK_EXT_HOST: the protocol node */
};

/* The extent that starts at offset in this layer alone, at most bytes long. 0 < bytes,
 * offset < size. */
int blk_extent(struct blk *b, uint64_t offset, uint64_t bytes, struct blk_extent *out);
/* The same through the chain down to, and not including, `base` (NULL: to its end). Without
 * BLK_EXT_ALLOCATED: no layer above base has it. Where a layer has nothing and its backing
 * file has ended, the layer reads as zeros: BLK_EXT_ZERO at its depth, and, as base is then
 * not what is read, ALLOCATED where base lies further down. */
int blk_extent_above(struct blk *b, struct blk *base, uint64_t offset, uint64_t bytes,
	struct blk_extent *out);

enum blk_prealloc { BLK_PREALLOC_OFF, BLK_PREALLOC_METADATA, BLK_PREALLOC_FALLOC, BLK_PREALLOC_FULL };
extern const char *const blk_prealloc_names[]; /* "off", …, NULL */

/* Grows (reading as zeros, backing files notwithstanding) or shrinks. Preallocation is of
 * the new part. -ENOTSUP with a reason where the format cannot. Size in bytes; some formats want
 * a multiple of BLK_SECTOR. */
int blk_resize(struct blk *b, uint64_t bytes, enum blk_prealloc prealloc, struct err *err);

#endif
