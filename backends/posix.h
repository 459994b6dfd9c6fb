/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What regular files (file.c) and block devices (hostdev.c) share: opening safely, locks,
 * alignment, whole reads and writes, and a flush whose failure is never forgotten.
 */
#ifndef BYRE_BACKENDS_POSIX_H
#define BYRE_BACKENDS_POSIX_H

#include <stdatomic.h>
#include <sys/stat.h>

#include "backends/hostreserve.h"
#include "block/driver.h"
#include "block/format.h"
#include "block/imglock.h"

struct posix {
	int fd;
	bool direct;
	int locking; /* enum locking in posix.c */
	struct imglock lock;
	struct host_reserve reserve; /* of a device */
	char *noted; /* the path beside which a note names this process; NULL: none */
	struct stat st; /* as at open */

	/*
	 * Flush. A file system reports lost writes once and then calls the file clean, so the
	 * first failure is kept and answers every later flush. Flushes take turns: one that
	 * ran beside the failing one would otherwise be told that all is well. Whoever
	 * changes the file says so when the change has ended; the flush that takes the mark
	 * away syncs, and those that waited for it have nothing left to do.
	 */
	struct task_mutex sync_lock;
	atomic_bool dirty;
	atomic_int sync_error; /* 0 or -errno for good */
	bool is_path; /* one of several, without the page cache: who is above writes again all that a
		       * flush that failed did not cover, so that the next may be well */
};

/* Takes the options of both drivers from opts, opens, locks, and finds the alignment into
 * b->limits. What b->filename names must be a regular file or a block device. */
int posix_open(struct blk *b, struct posix *p, struct opts *opts, struct err *err);
void posix_close(struct posix *p);
/* Takes the locks that b->flags now ask for. */
int posix_reflag(struct blk *b, struct posix *p, struct err *err);

/* Opens without following into what would block or act on being opened, for `filename` to
 * be looked at with fstat. flags as of open(2). fd or -errno. */
int posix_open_fd(const char *filename, int flags, mode_t mode);
/* Puts an fd opened so into its ordinary, blocking state. 0 or -errno. */
int posix_set_blocking(int fd);

/* Driver operations. A read past the end of a regular file gives zeros. */
int posix_preadv(struct blk *b, struct posix *p, uint64_t offset, uint64_t bytes,
	const struct iovec *iov, int niov);
int posix_pwritev(struct blk *b, struct posix *p, uint64_t offset, uint64_t bytes,
	const struct iovec *iov, int niov, unsigned flags);
int posix_flush(struct posix *p);
/* From now on every flush fails so; and what they fail with, 0 while they do not. */
void posix_fail(struct posix *p, int error);
int posix_failed(struct posix *p);
/* A change other than by posix_pwritev has ended, well or not. */
void posix_changed(struct posix *p);

/* System calls without an asynchronous form, on the worker pool: their result or -errno. */
int posix_ioctl(int fd, unsigned long request, void *arg);
int posix_ftruncate(int fd, uint64_t bytes);

/* Operations of both drivers (block/storage.h). A file's lock cannot be broken. */
struct json *posix_holders(struct blk *b, struct posix *p, struct err *err);
int posix_break_lock(struct blk *b, struct posix *p, const char *holder, struct err *err);

/* hostdev.c: what file.c hands over to where a file turns out to be a block device. */
extern const struct blk_driver blk_host_device_driver;
int hostdev_attach(struct blk *b, struct posix *p, struct err *err);
int hostdev_create(int fd, const char *filename, uint64_t bytes,
	enum blk_prealloc prealloc, struct err *err);

#endif
