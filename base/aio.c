/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * System calls that wait: from a task through its loop's engine, else made right here.
 *
 * An engine gives what the system call gave, once. Retrying is done here: EINTR at once,
 * EAGAIN after waiting for the descriptor to become ready.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include "base/aio.h"
#include "base/iov.h"
#include "base/loop_impl.h"

ssize_t sys_preadv(
	int fd, const struct iovec *iov, int niov, uint64_t offset, int rw_flags)
{
	ssize_t n;

	do {
		if (rw_flags)
			n = preadv2(fd, iov, niov, (off_t)offset, rw_flags);
		else if (niov == 1)
			n = pread(fd, iov->iov_base, iov->iov_len, (off_t)offset);
		else
			n = preadv(fd, iov, niov, (off_t)offset);
	} while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : n;
}

ssize_t sys_pwritev(
	int fd, const struct iovec *iov, int niov, uint64_t offset, int rw_flags)
{
	ssize_t n;

	do {
		if (rw_flags)
			n = pwritev2(fd, iov, niov, (off_t)offset, rw_flags);
		else if (niov == 1)
			n = pwrite(fd, iov->iov_base, iov->iov_len, (off_t)offset);
		else
			n = pwritev(fd, iov, niov, (off_t)offset);
	} while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : n;
}

int sys_fdatasync(int fd)
{
	int ret;

	do {
		ret = fdatasync(fd);
	} while (ret && errno == EINTR);
	return ret ? -errno : 0;
}

int sys_fallocate(int fd, int mode, uint64_t offset, uint64_t bytes)
{
	int ret;

	do {
		ret = fallocate(fd, mode, (off_t)offset, (off_t)bytes);
	} while (ret && errno == EINTR);
	return ret ? -errno : 0;
}

int sys_poll(int fd, short events, int64_t timeout_ns)
{
	struct pollfd p = {.fd = fd, .events = events};
	uint64_t deadline = timeout_ns > 0 ? deadline_after((uint64_t)timeout_ns) : 0;
	int64_t left = timeout_ns;

	for (;;) {
		struct timespec ts = {
			(time_t)(left / 1000000000), (long)(left % 1000000000)};
		int n = ppoll(&p, 1, timeout_ns < 0 ? NULL : &ts, NULL);
		if (n > 0)
			return p.revents & POLLNVAL ? -EBADF : p.revents;
		if (!n)
			return 0;
		if (errno != EINTR)
			return -errno;
		if (timeout_ns > 0) {
			uint64_t now = clock_ns();
			left = now < deadline ? (int64_t)(deadline - now) : 0;
		}
	}
}

ssize_t aio_preadv(int fd, const struct iovec *iov, int niov, uint64_t offset)
{
	assert(niov > 0 && niov <= IOV_LIMIT && offset <= INT64_MAX);
	for (;;) {
		struct loop *l = task_self() ? loop_self() : NULL;
		ssize_t n = l ? l->ops->preadv(l, fd, iov, niov, offset)
			      : sys_preadv(fd, iov, niov, offset, 0);
		if (n == -EAGAIN)
			aio_poll(fd, POLLIN, -1);
		else if (n != -EINTR)
			return n;
	}
}

ssize_t aio_pwritev(
	int fd, const struct iovec *iov, int niov, uint64_t offset, int rw_flags)
{
	assert(niov > 0 && niov <= IOV_LIMIT && offset <= INT64_MAX);
	for (;;) {
		struct loop *l = task_self() ? loop_self() : NULL;
		ssize_t n = l ? l->ops->pwritev(l, fd, iov, niov, offset, rw_flags)
			      : sys_pwritev(fd, iov, niov, offset, rw_flags);
		if (n == -EAGAIN)
			aio_poll(fd, POLLOUT, -1);
		else if (n != -EINTR)
			return n;
	}
}

int aio_fdatasync(int fd)
{
	struct loop *l = task_self() ? loop_self() : NULL;
	int ret;

	do {
		ret = l ? l->ops->fdatasync(l, fd) : sys_fdatasync(fd);
	} while (ret == -EINTR);
	return ret;
}

int aio_fallocate(int fd, int mode, uint64_t offset, uint64_t bytes)
{
	struct loop *l = task_self() ? loop_self() : NULL;
	int ret;

	assert(offset <= INT64_MAX && bytes <= INT64_MAX);
	do {
		ret = l ? l->ops->fallocate(l, fd, mode, offset, bytes)
			: sys_fallocate(fd, mode, offset, bytes);
	} while (ret == -EINTR);
	return ret;
}

int aio_poll(int fd, short events, int64_t timeout_ns)
{
	struct loop *l = task_self() && timeout_ns ? loop_self() : NULL;

	if (fd < 0) /* poll(2) would wait for nothing */
		return -EBADF;
	return l ? l->ops->poll(l, fd, events, timeout_ns)
		 : sys_poll(fd, events, timeout_ns);
}
