/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * System calls that wait, made from tasks: the task parks, its loop goes on. From a plain
 * thread they are the system call itself. Results are as of the system call, with -errno in
 * place of errno: short counts are possible here (and only here). EINTR and EAGAIN are
 * retried inside.
 */
#ifndef BYRE_BASE_AIO_H
#define BYRE_BASE_AIO_H

#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

/* Bytes moved, or -errno. niov <= IOV_LIMIT; offset < 2^63. rw_flags: RWF_DSYNC, ... */
ssize_t aio_preadv(int fd, const struct iovec *iov, int niov, uint64_t offset);
ssize_t aio_pwritev(int fd, const struct iovec *iov, int niov, uint64_t offset, int rw_flags);
int aio_fdatasync(int fd);
int aio_fallocate(int fd, int mode, uint64_t offset, uint64_t bytes);
/* Waits until fd is ready for `events` (POLLIN, POLLOUT). Returns the events that are, 0 when
 * timeout_ns passed; timeout_ns < 0 waits for ever. */
int aio_poll(int fd, short events, int64_t timeout_ns);

/*
 * The worker pool. worker_call runs fn(arg) on a pool thread and parks until it is done;
 * outside a task it runs fn right here. fn may block and must not park (no task locks).
 *
 * WORKER_CPU: compress, encrypt, checksum; as many threads as processors, so N callers keep
 * N processors busy. WORKER_BLOCKING: system calls with no asynchronous form (lseek
 * SEEK_DATA, ioctl, copy_file_range); up to 64 threads, started when needed.
 */
enum worker_kind {
	WORKER_CPU,
	WORKER_BLOCKING,
};

long worker_call(enum worker_kind kind, long (*fn)(void *arg), void *arg);
/* Threads that WORKER_CPU work is spread over: the processors this process may use. */
unsigned worker_cpu_count(void);

#endif
