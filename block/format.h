/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What only formats can: creating, checking, snapshots, measuring, telling about
 * themselves. The blk_* functions find the driver's operation, look through filters, and
 * say which format cannot do it where it has none.
 */
#ifndef BYRE_BLOCK_FORMAT_H
#define BYRE_BLOCK_FORMAT_H

#include "block/blk.h"

struct json;

/* One creation option, for -o help and for checking what was given. */
struct blk_create_opt {
	const char *name;
	const char *type; /* "str", "size", "bool (on/off)", "num" as qemu-img prints them */
	const char *help;
	const char *def; /* default as text, or NULL */
};

enum blk_check_fix { BLK_FIX_LEAKS = 1 << 0, BLK_FIX_ERRORS = 1 << 1 };

struct blk_check {
	uint64_t corruptions, leaks, check_errors;
	uint64_t corruptions_fixed, leaks_fixed;
	uint64_t image_end_offset; /* bytes */
	uint64_t total_clusters, allocated_clusters, fragmented_clusters, compressed_clusters;
	/* One line for each finding, as it is found; NULL: count only. */
	void (*report)(void *arg, bool error, const char *line);
	void *arg;
};

struct blk_snapshot {
	char *id, *name; /* owned by the list */
	uint64_t vm_state_bytes, disk_bytes;
	uint32_t date_sec, date_nsec;
	uint64_t vm_clock_nsec;
	uint64_t icount; /* UINT64_MAX: none */
};

struct blk_measure {
	uint64_t required, fully_allocated; /* bytes */
	uint64_t bitmaps;		    /* bytes; only where has_bitmaps */
	bool has_bitmaps;
};

/* How far into a file formats look for their magic. */
#define BLK_PROBE_BYTES 2048u
/* The score of the format that anything is: raw. */
#define BLK_PROBE_ANY 1

struct blk_format_ops {
	const struct blk_create_opt *create_opts; /* ends in a NULL name */

	/* 0 (not mine) to 100, from the first `bytes` (<= BLK_PROBE_BYTES) of the file. */
	int (*probe)(const uint8_t *buf, size_t bytes, const char *filename);
	/* Makes an image. For a format the protocol node under filename exists already with
	 * size 0 and comes as `file` (open read-write, the caller closes it; nothing else is in
	 * it); for a protocol file is NULL and filename says where. Takes its options; "size"
	 * is bytes. On failure the caller removes the file. With file NULL a format only
	 * checks the options, before anything that was there is truncated. */
	int (*create)(const char *filename, struct blk *file, struct opts *opts, struct err *err);
	/* Protocols: removes what create made. NULL: it stays. */
	int (*remove)(const char *filename);
	int (*measure)(struct opts *opts, struct blk *src, struct blk_measure *out,
		struct err *err);
	int (*check)(struct blk *b, struct blk_check *c, unsigned fix, struct err *err);

	/* The list is the caller's: blk_snapshots_free. */
	int (*snapshot_list)(struct blk *b, struct blk_snapshot **list, size_t *n,
		struct err *err);
	int (*snapshot_create)(struct blk *b, const struct blk_snapshot *what, struct err *err);
	int (*snapshot_apply)(
		struct blk *b, const char *id_or_name, bool *changed, struct err *err);
	/* By an id that it has, or else as qemu-img does by a name. */
	int (*snapshot_delete)(
		struct blk *b, const char *id_or_name, bool id_first, struct err *err);
	/* The same bytes as seen by a snapshot: switches a read-only node to it. */
	int (*snapshot_load)(struct blk *b, const char *id_or_name, struct err *err);
	/* VM state: bytes beside the disk that the next snapshot takes along. */
	int (*vm_state_read)(struct blk *b, uint64_t offset, const struct iovec *iov, int niov);
	int (*vm_state_write)(struct blk *b, uint64_t offset, const struct iovec *iov, int niov);
	int (*vm_state_of)(struct blk *b, const char *id_or_name, uint64_t offset,
		const struct iovec *iov, int niov);
	int (*vm_state_forget)(struct blk *b);

	/* "format-specific" of info --output=json, the data object; NULL: none. */
	struct json *(*info)(struct blk *b);
	/* Cluster size in bytes or 0; dirty and corrupt flags. */
	void (*traits)(struct blk *b, uint32_t *cluster_bytes, bool *dirty, bool *encrypted);
	int (*set_backing)(struct blk *b, const char *name, const char *format,
		struct err *err);
};

/* Creates filename as format with options ("size", "backing_file", …); unknown options are
 * errors. A file that was there is replaced as qemu-img does (truncated) only after the
 * options have been checked. On failure what it made, or had already truncated, is removed. */
int blk_create(const char *filename, const char *format, struct opts *opts, struct err *err);
/* The create operation of protocols whose disks are there already (a LUN, an export): opens
 * it with nobody else writing, checks that "size" fits, and clears its head, so that what
 * was there before is not taken for an image. */
int blk_create_on_device(const char *filename, struct opts *opts, struct err *err);

/* Probes by content: the name of the format's driver. NULL where the file cannot be read. */
const char *blk_probe(struct blk *file, struct err *err);

int blk_check(struct blk *b, struct blk_check *c, unsigned fix, struct err *err);
int blk_snapshot_list(struct blk *b, struct blk_snapshot **list, size_t *n, struct err *err);
void blk_snapshots_free(struct blk_snapshot *list, size_t n);
struct json *blk_snapshot_facts(const struct blk_snapshot *s); /* as JSON has them */
int blk_snapshot_create(struct blk *b, const char *name, struct err *err);
/* The same with so many bytes of VM state, which were written before, of a machine that had
 * run for so long. */
int blk_snapshot_create_with(struct blk *b, const char *name, uint64_t vm_state_bytes,
	uint64_t vm_clock_nsec, struct err *err);
/* *changed: the disk is not what it was before, be it the snapshot's or broken; also after a failure. */
int blk_snapshot_apply(struct blk *b, const char *id_or_name, bool *changed, struct err *err);
/* Where one's name is another's id, the name counts here, and the id for the others. */
int blk_snapshot_delete(struct blk *b, const char *id_or_name, struct err *err);
int blk_snapshot_delete_id(struct blk *b, const char *id, struct err *err);
int blk_snapshot_load(struct blk *b, const char *id_or_name, struct err *err);
/* Data calls. What was never written reads as zeros. Offset and length are multiples of the
 * node's request alignment (512 where it is encrypted). -ENOTSUP where the format has no VM
 * state, -EFBIG past what it can map. */
int blk_vm_state_read(struct blk *b, uint64_t offset, const struct iovec *iov, int niov);
int blk_vm_state_write(struct blk *b, uint64_t offset, const struct iovec *iov, int niov);
/* That of a snapshot, without going back to it; a control call, which reads the snapshot's tables
 * each time. -ENOENT where there is none of that name. */
int blk_vm_state_of(struct blk *b, const char *id_or_name, uint64_t offset,
	const struct iovec *iov, int niov);
/* What was written and is in a snapshot now, or is not wanted any more: gives its space back. */
int blk_vm_state_forget(struct blk *b);
int blk_measure(const char *format, struct opts *opts, struct blk *src, struct blk_measure *out,
	struct err *err);
struct json *blk_format_info(struct blk *b);
/* cluster_bytes 0 where the format has no clusters. */
void blk_traits(struct blk *b, uint32_t *cluster_bytes, bool *dirty, bool *encrypted);
/* -ENOTSUP where it cannot be known. */
int64_t blk_allocated(struct blk *b);

#endif
