/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a driver is: a file, or a folder, that ends in its table.
 *
 * The gate (io.c) stands before every data operation, so a driver sees only requests that
 * are in range, non-empty, at most limits.max_transfer long, and aligned to
 * limits.request_align in offset, length and (where limits.mem_align > 1) memory. niov <=
 * IOV_LIMIT. The gate asserts that the driver answers 0 or -errno.
 */
#ifndef BYRE_BLOCK_DRIVER_H
#define BYRE_BLOCK_DRIVER_H

#include "base/task.h"
#include "block/blk.h"

struct blk_format_ops;	/* format.h */
struct blk_storage_ops; /* storage.h */
struct blk_gate;       /* io.c: requests in flight */
struct json;

/* Filled in by open; fixed afterwards. Zero means what the comment says, and is replaced by
 * that when open has returned. A size that is no multiple of request_align is fine: requests
 * at the end are rounded up past it, read zeros there and may lose what they write there. */
struct blk_limits {
	uint32_t request_align; /* unit of offsets and lengths; 0 = 1 */
	uint32_t mem_align;	/* where segments start, and end but for the last; 0 = 1 */
	uint32_t max_transfer;	/* bytes a request, multiple of request_align; 0 = BLK_MAX_REQUEST */
	uint32_t optimal;	/* bytes a request works best at (cluster size); 0 = none */
	uint32_t discard_align; /* smaller parts at the edges are left out; 0 = request_align */
	uint32_t zero_align;	/* edges are written as zeros; 0 = request_align */
	uint64_t max_discard;	/* bytes a request of discard or zero; 0 = BLK_MAX_REQUEST */
};

enum blk_caps {
	/* Writes and zeros past the end extend: the driver raises the size before it answers.
	 * Reads past the end give zeros: the gate makes those, the driver never sees them. */
	BLK_CAP_GROW = 1 << 0,
	BLK_CAP_FUA = 1 << 1,	/* pwritev and zero honour BLK_FUA */
	BLK_CAP_ZERO_INIT = 1 << 2, /* a new or grown part reads as zeros without being written */
	BLK_CAP_ZERO_UNMAP = 1 << 3, /* zero with BLK_MAY_UNMAP is fast and gives space back */
	BLK_CAP_SERIALISE = 1 << 4, /* the gate orders every overlapping pair with a write in it */
	BLK_CAP_COMPRESS = 1 << 5,
};

/* What a node does while it is open beyond using the descriptors it has: who confines the
 * process has to leave it that (blk_needs). */
enum blk_needs {
	BLK_NEEDS_NETWORK = 1 << 0, /* makes a broken connection again */
	BLK_NEEDS_FILES = 1 << 1,   /* opens files and devices by their names again */
	BLK_NEEDS_PROGRAM = 1 << 2, /* runs a program */
	BLK_NEEDS_RIGHTS = 1 << 3,  /* sends commands to a device that only root may send */
};

enum blk_driver_kind {
	BLK_PROTOCOL, /* where bytes live */
	BLK_FORMAT,   /* what bytes mean */
	BLK_FILTER,   /* neither: fault, crash, trace; passes format questions to its child */
};

struct blk_driver {
	const char *name;
	enum blk_driver_kind kind;
	bool local;		    /* protocols: the node's filename is a path of this host */
	const char *const *schemes; /* protocols: {"nbd", "nbds", NULL}; "nbd:" or "nbd://" */
	size_t state_bytes;	    /* zeroed b->state of this size is there at open */

	/* Protocols: "scheme:rest" into options (at least filename=). NULL: filename=rest. A
	 * name that stands for another driver's node sets driver= as well. */
	int (*parse_name)(const char *name, struct opts *opts, struct err *err);

	/* Takes its options from opts; fills size, limits, caps, and for formats the backing
	 * name. Children are opened with blk_open_child. On failure it has cleaned up what
	 * close would have, children excepted (the caller closes those). */
	int (*open)(struct blk *b, struct opts *opts, struct err *err);
	/* Writes out what a close must; children are still open. 0 or -errno. */
	int (*close)(struct blk *b);
	/* b->flags has changed in BLK_O_SHARE_WRITE: what an image is may be known only after
	 * its file was opened and probed. Takes other locks. NULL: nothing hangs on it. */
	int (*reflag)(struct blk *b, struct err *err);

	int (*preadv)(struct blk *b, uint64_t offset, uint64_t bytes, const struct iovec *iov,
		int niov);
	int (*pwritev)(struct blk *b, uint64_t offset, uint64_t bytes, const struct iovec *iov,
		int niov, unsigned flags);
	/* BLK_COMPRESSED in two steps (blk_pack); with BLK_CAP_COMPRESS. */
	int (*pack)(struct blk *b, uint64_t offset, uint64_t bytes, const struct iovec *iov,
		int niov, struct blk_packed **out);
	int (*write_packed)(struct blk *b, struct blk_packed *p);
	void (*packed_free)(struct blk_packed *p);
	/* NULL: nothing to do. 0: every write that had ended when it began is stable, those
	 * before a flush that failed included. Where that cannot be known any more, every later
	 * flush fails too: formats order their metadata by it. */
	int (*flush)(struct blk *b);
	/* -ENOTSUP falls back. The end of the disk counts as aligned. */
	int (*zero)(struct blk *b, uint64_t offset, uint64_t bytes, unsigned flags);
	int (*discard)(struct blk *b, uint64_t offset, uint64_t bytes);
	/* NULL: all of it is data. Fills bytes, flags, host_offset, host. */
	int (*extent)(struct blk *b, uint64_t offset, uint64_t bytes, struct blk_extent *out);
	/* Sets the size itself. Devices keep theirs where it is larger. */
	int (*resize)(struct blk *b, uint64_t bytes, enum blk_prealloc prealloc, struct err *err);
	/* Aligned for both and inside src; max_transfer does not count here. dst is of this driver too; -ENOTSUP falls back. */
	int (*copy_range)(struct blk *src, uint64_t src_offset, struct blk *dst,
		uint64_t dst_offset, uint64_t bytes, unsigned flags);
	/* Bytes the disk occupies on its storage; -ENOTSUP where it cannot be known. */
	int64_t (*allocated)(struct blk *b);

	const struct blk_format_ops *format; /* formats; protocols that can create: create */
	const struct blk_storage_ops *storage; /* protocols; NULL: nothing to tell */
};

struct blk {
	const struct blk_driver *drv;
	void *state;
	unsigned flags; /* enum blk_open_flags */
	char *filename;
	uint64_t size; /* bytes; atomic: read it with blk_size, set it with blk_set_size */
	struct blk_limits limits;
	unsigned caps;
	unsigned needs; /* enum blk_needs */
	bool probed; /* raw by probing: block 0 is guarded */

	struct blk *file;      /* formats and filters */
	struct blk *data_file; /* qcow2 with an external data file; closed with the node */
	struct blk *backing;
	char *backing_name, *backing_format; /* as in the image; malloc'd; NULL: none */

	struct blk_gate *gate;

	/* open.c: the tree. Children are what blk_open_child opened, the last one first. */
	struct blk *parent, *children, *sibling;
	unsigned nesting; /* of children: nodes above this one, backing files not counted */
};

/* Every driver of this build, NULL-terminated; written by configure. */
extern const struct blk_driver *const blk_drivers[];

/* enum blk_needs of a node and all below it. */
unsigned blk_needs(const struct blk *b);
/* A driver's open notes what the node needs before it begins anything that takes it. -EPERM, with err
 * set, where the process has given that up. */
int blk_need(struct blk *b, enum blk_needs what, struct err *err);
/* The process is confined: of enum blk_needs only these are to be had from now on. */
void blk_limit_needs(unsigned left);
/* Calls fn for each node of a tree whose filename is the path of a file or device of this
 * host. `backing`: it is, or is below, a backing file. */
void blk_each_path(const struct blk *b,
	void (*fn)(const struct blk *node, bool backing, void *arg), void *arg);

/* By name or by scheme of a file name; NULL where there is none. */
const struct blk_driver *blk_driver_find(const char *name);
const struct blk_driver *blk_driver_for_name(const char *filename);

/* Opens the child that opts describe under "prefix." (file.filename=…), or that a plain
 * "prefix"=name does, or `default_name` where neither says what to open. The child's options
 * are taken out of opts. The child belongs to the parent and is closed after it; as "file"
 * it also becomes parent->file. flags are those of the child, usually parent->flags: what
 * is for the parent alone (detect-zeroes, writethrough, …) is left out here, and under a
 * format the child is a protocol node unless the options say otherwise. */
struct blk *blk_open_child(struct blk *parent, struct opts *opts, const char *prefix,
	const char *default_name, unsigned flags, struct err *err);

/* Hands BLK_O_SHARE_WRITE of `flags` to a child opened already (the reflag operation). */
int blk_reflag(struct blk *b, unsigned flags, struct err *err);

/* A name found inside an image, as a path: relative names are resolved beside `image`. A
 * protocol prefix or json: is -EPERM unless trusted. malloc'd into *out. */
int blk_resolve_name(const char *image, const char *name, bool trusted, char **out,
	struct err *err);

void blk_set_size(struct blk *b, uint64_t bytes);
/* After a write past the end: at least this large. From any thread. */
void blk_raise_size(struct blk *b, uint64_t bytes);

#endif
