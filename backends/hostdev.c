/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The host_device driver: an image on a block device (a disk, a partition, an LVM volume,
 * a LUN, a loop device). Its size is the device's: nothing grows by being written past.
 *
 * Zeros go the best way the device takes: unmapped, zeroed by the device, zeroed by the
 * kernel; discards by BLKDISCARD. What is refused once is not asked again.
 */
#include <assert.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <unistd.h>
#include <linux/fs.h>

#include "backends/devfacts.h"
#include "backends/posix.h"
#include "base/aio.h"
#include "base/iov.h"
#include "base/json.h"
#include "base/math.h"
#include "block/storage.h"

/* A new image on a device must not be taken for what was there: its first bytes, where
 * every format keeps its magic, become zeros. */
#define CREATE_CLEAR_BYTES 4096u

struct hostdev {
	struct posix p;
	atomic_bool no_punch, no_zero_range, no_zeroout, no_discard;
	atomic_int direct_fd; /* for check_path, where p.fd is not direct; -1: not open */
};

static struct hostdev *dev_of(const struct blk *b)
{
	return b->state;
}

/* ---- open ------------------------------------------------------------------------ */

static void read_facts(dev_t dev, struct dev_facts *out)
{
	char dir[64];

	snprintf(dir, sizeof(dir), "/sys/dev/block/%u:%u", major(dev), minor(dev));
	dev_facts_read(dir, out);
}

/* The kernel opens such a device for writing, and refuses each write later. */
static int refuse_read_only(int fd, const char *filename, struct err *err)
{
	int read_only = 0;

	if (ioctl(fd, BLKROGET, &read_only) != 0 || !read_only)
		return 0;
	return err_set(
		err, EACCES, "Could not open '%s': the device is read-only", filename);
}

int hostdev_attach(struct blk *b, struct posix *p, struct err *err)
{
	struct hostdev *d = dev_of(b);
	struct dev_facts facts;
	uint64_t bytes, granularity;
	int sector, ret = 0;

	assert(b->drv->state_bytes == sizeof(*d));
	if (b->flags & BLK_O_RDWR)
		ret = refuse_read_only(p->fd, b->filename, err);
	if (!ret && (ioctl(p->fd, BLKGETSIZE64, &bytes) != 0 ||
			    ioctl(p->fd, BLKSSZGET, &sector) != 0))
		ret = err_errno(err, errno, "Could not open '%s'", b->filename);
	/* One of several paths is told when. */
	if (!ret && !(b->flags & BLK_O_PATH))
		ret = host_reserve_begin(&p->reserve, p->fd, b->filename,
			b->flags & BLK_O_RDWR, false, err);
	if (ret) {
		posix_close(p);
		return ret;
	}
	read_facts(p->st.st_rdev, &facts);
	d->p = *p;
	atomic_store(&d->direct_fd, -1);
	b->size = MIN(bytes, BLK_MAX_SIZE);
	b->limits.zero_align = MAX((uint32_t)sector, b->limits.request_align);
	granularity = facts.discard_granularity;
	b->limits.discard_align = b->limits.zero_align;
	if (is_pow2(granularity) && granularity <= GiB)
		b->limits.discard_align =
			MAX(b->limits.discard_align, (uint32_t)granularity);
	if (facts.zeroes_max)
		b->caps |= BLK_CAP_ZERO_UNMAP;
	return 0;
}

static int hostdev_open(struct blk *b, struct opts *opts, struct err *err)
{
	struct posix p = {0};
	int ret = posix_open(b, &p, opts, err);

	if (ret < 0)
		return ret;
	if (!S_ISBLK(p.st.st_mode)) {
		posix_close(&p);
		return err_set(err, EINVAL,
			"'host_device' driver requires '%s' to be a block device",
			b->filename);
	}
	return hostdev_attach(b, &p, err);
}

static int hostdev_reflag(struct blk *b, struct err *err)
{
	return posix_reflag(b, &dev_of(b)->p, err);
}

static int hostdev_close(struct blk *b)
{
	struct hostdev *d = dev_of(b);
	int fd = atomic_load(&d->direct_fd);

	if (fd >= 0)
		close(fd);
	/* What several paths hold is given up by the node over them. */
	if (!(b->flags & BLK_O_PATH))
		host_reserve_end(&d->p.reserve, d->p.fd);
	posix_close(&d->p);
	return 0;
}

/* ---- data ------------------------------------------------------------------------ */

static int hostdev_preadv(
	struct blk *b, uint64_t offset, uint64_t bytes, const struct iovec *iov, int niov)
{
	return posix_preadv(b, &dev_of(b)->p, offset, bytes, iov, niov);
}

/* Whose reservation the device is not any more changes nothing on it. */
static bool is_taken(const struct blk *b)
{
	return posix_failed(&dev_of(b)->p) == -EBADE;
}

/* What came of a change tells that, too. */
static int note_taken(const struct blk *b, int ret)
{
	struct posix *p = &dev_of(b)->p;

	if (ret == -EBADE && p->reserve.held)
		posix_fail(p, ret);
	return ret;
}

static int hostdev_pwritev(struct blk *b, uint64_t offset, uint64_t bytes,
	const struct iovec *iov, int niov, unsigned flags)
{
	if (is_taken(b))
		return -EBADE;
	return note_taken(
		b, posix_pwritev(b, &dev_of(b)->p, offset, bytes, iov, niov, flags));
}

/* What the kernel wrote before it knew that the reservation was another's it tells here, or
 * not at all where that one has given it up again: so the device is asked. */
static int hostdev_flush(struct blk *b)
{
	struct posix *p = &dev_of(b)->p;
	int ret = posix_flush(p), lost = host_reserve_check(&p->reserve, p->fd);

	if (lost == -EBADE)
		posix_fail(p, lost);
	return ret ? ret : lost;
}

/* Turns "this device cannot" into -ENOTSUP, kept in *refused. */
static int judge(int ret, atomic_bool *refused)
{
	if (ret != -EOPNOTSUPP && ret != -ENOTTY && ret != -ENOSYS)
		return ret == -EINVAL ? -ENOTSUP : ret;
	atomic_store(refused, true);
	return -ENOTSUP;
}

static int dev_fallocate(struct hostdev *d, atomic_bool *refused, int mode,
	uint64_t offset, uint64_t bytes)
{
	if (atomic_load(refused))
		return -ENOTSUP;
	return judge(aio_fallocate(d->p.fd, mode | FALLOC_FL_KEEP_SIZE, offset, bytes),
		refused);
}

static int dev_ioctl(struct hostdev *d, atomic_bool *refused, unsigned long request,
	uint64_t offset, uint64_t bytes)
{
	uint64_t range[2] = {offset, bytes};

	if (atomic_load(refused))
		return -ENOTSUP;
	return judge(posix_ioctl(d->p.fd, request, range), refused);
}

static int hostdev_zero(struct blk *b, uint64_t offset, uint64_t bytes, unsigned flags)
{
	struct hostdev *d = dev_of(b);
	int ret = -ENOTSUP;

	if (is_taken(b))
		return -EBADE;
	if (flags & BLK_MAY_UNMAP)
		ret = dev_fallocate(d, &d->no_punch, FALLOC_FL_PUNCH_HOLE, offset, bytes);
	/* These write zeros out inside the kernel where the device has nothing better. */
	if (ret == -ENOTSUP && !(flags & BLK_NO_FALLBACK)) {
		ret = dev_fallocate(
			d, &d->no_zero_range, FALLOC_FL_ZERO_RANGE, offset, bytes);
		if (ret == -ENOTSUP)
			ret = dev_ioctl(d, &d->no_zeroout, BLKZEROOUT, offset, bytes);
	}
	posix_changed(&d->p);
	note_taken(b, ret);
	if (ret == 0 && flags & BLK_FUA)
		ret = posix_flush(&d->p);
	return ret;
}

static int hostdev_discard(struct blk *b, uint64_t offset, uint64_t bytes)
{
	struct hostdev *d = dev_of(b);
	int ret;

	if (is_taken(b))
		return -EBADE;
	ret = dev_ioctl(d, &d->no_discard, BLKDISCARD, offset, bytes);
	posix_changed(&d->p);
	return note_taken(b, ret);
}

/* ---- size ------------------------------------------------------------------------ */

/* The device's size is looked up anew: a volume may have been grown. A smaller image
 * simply leaves the rest of the device unused. */
static int hostdev_resize(
	struct blk *b, uint64_t bytes, enum blk_prealloc prealloc, struct err *err)
{
	uint64_t now;
	int ret = posix_ioctl(dev_of(b)->p.fd, BLKGETSIZE64, &now);

	if (ret < 0)
		return err_errno(err, -ret, "Could not find the device's size");
	if (prealloc != BLK_PREALLOC_OFF)
		return err_set(err, ENOTSUP, "Unsupported preallocation mode: %s",
			blk_prealloc_names[prealloc]);
	blk_set_size(b, MIN(now, BLK_MAX_SIZE));
	if (bytes > now)
		return err_set(err, ENOSPC, "Cannot grow device files");
	return 0;
}

static int64_t hostdev_allocated(struct blk *b)
{
	struct stat st;

	if (fstat(dev_of(b)->p.fd, &st) != 0)
		return -errno;
	return (int64_t)st.st_blocks * 512; /* of the node, as the peer counts it: 0 */
}

static int clear_start(int fd, const char *filename, uint64_t bytes, struct err *err)
{
	static const uint8_t zeros[CREATE_CLEAR_BYTES];
	struct iovec iov = {(void *)zeros, MIN(bytes, (uint64_t)sizeof(zeros))};
	ssize_t n = iov.iov_len ? aio_pwritev(fd, &iov, 1, 0, 0) : 0;

	return n == (ssize_t)iov.iov_len
		       ? 0
		       : err_errno(err, n < 0 ? -n : EIO,
				 "Could not clear the start of '%s'", filename);
}

int hostdev_create(int fd, const char *filename, uint64_t bytes,
	enum blk_prealloc prealloc, struct err *err)
{
	struct imglock lock = {0};
	uint64_t now;
	int ret;

	if (prealloc != BLK_PREALLOC_OFF)
		return err_set(err, ENOTSUP, "Unsupported preallocation mode: %s",
			blk_prealloc_names[prealloc]);
	ret = refuse_read_only(fd, filename, err);
	if (ret < 0)
		return ret;
	if (ioctl(fd, BLKGETSIZE64, &now) != 0)
		return err_errno(err, errno, "Could not create '%s'", filename);
	if (bytes > now)
		return err_set(err, ENOSPC, "Cannot grow device files");
	ret = imglock_set(&lock, fd, filename, IMGLOCK_WRITE | IMGLOCK_RESIZE,
		IMGLOCK_ALL & ~IMGLOCK_RESIZE, err);
	if (ret < 0 && ret != -ENOTSUP)
		return ret;
	ret = clear_start(fd, filename, now, err);
	imglock_drop(&lock, fd);
	return ret;
}

/* ---- storage --------------------------------------------------------------------- */

static int hostdev_identity(struct blk *b, char **out)
{
	struct dev_facts facts;

	read_facts(dev_of(b)->p.st.st_rdev, &facts);
	return dev_facts_identity(&facts, out);
}

static void hostdev_describe(struct blk *b, struct json *o)
{
	struct dev_facts facts;

	read_facts(dev_of(b)->p.st.st_rdev, &facts);
	dev_facts_describe(&facts, o);
	json_put_string(o, "locks", "this-host"); /* they are the device node's */
}

/* A descriptor that reads past the page cache, which would answer for a device that is
 * gone. */
static int direct_fd(struct hostdev *d)
{
	int fd = d->p.direct ? d->p.fd : atomic_load(&d->direct_fd), none = -1;
	char path[64];

	if (fd >= 0)
		return fd;
	/* The device this is now, not what has its name by now. */
	snprintf(path, sizeof(path), "/proc/self/fd/%d", d->p.fd);
	fd = posix_open_fd(path, O_RDONLY | O_DIRECT, 0);
	if (fd >= 0 && posix_set_blocking(fd) < 0) {
		close(fd);
		return -EIO;
	}
	if (fd >= 0 && !atomic_compare_exchange_strong(&d->direct_fd, &none, fd)) {
		close(fd); /* another was quicker */
		fd = none;
	}
	return fd;
}

static int read_first_block(struct hostdev *d, size_t bytes)
{
	struct iovec iov = {NULL, bytes};
	int fd = direct_fd(d);
	ssize_t n;

	if (fd < 0)
		return fd;
	iov.iov_base = buf_alloc(bytes);
	if (!iov.iov_base)
		return -ENOMEM;
	n = aio_preadv(fd, &iov, 1, 0);
	buf_free(iov.iov_base);
	return n < 0 ? (int)n : n == (ssize_t)bytes ? 0 : -EIO;
}

/* A path that the target keeps for later answers reads with an error: that is no fault of
 * it. */
static int hostdev_check_path(struct blk *b, unsigned *priority)
{
	struct hostdev *d = dev_of(b);
	struct dev_facts facts;
	int ret = 0;

	read_facts(d->p.st.st_rdev, &facts);
	if (dev_facts_priority(&facts) > BLK_PATH_STANDBY)
		ret = read_first_block(
			d, MAX(b->limits.request_align, b->limits.zero_align));
	if (ret == 0)
		*priority = dev_facts_priority(&facts);
	return ret;
}

static struct json *hostdev_holders(struct blk *b, struct err *err)
{
	return posix_holders(b, &dev_of(b)->p, err);
}

static int hostdev_reserve(struct blk *b, bool join, struct err *err)
{
	struct posix *p = &dev_of(b)->p;

	return host_reserve_begin(
		&p->reserve, p->fd, b->filename, b->flags & BLK_O_RDWR, join, err);
}

static void hostdev_release(struct blk *b)
{
	struct posix *p = &dev_of(b)->p;

	host_reserve_end(&p->reserve, p->fd);
}

static int hostdev_pr_begin(struct blk *b, struct err *err)
{
	const struct posix *p = &dev_of(b)->p;

	/* A page cache takes writes before the device refuses them, and answers reads for others'. */
	if (!p->direct)
		return err_set(err, EINVAL,
			"%s: a guest can reserve a device only without its page cache "
			"(cache=none)",
			b->filename);
	return host_reserve_pass_begin(&p->reserve, b, p->fd, err);
}

static int hostdev_pr(struct blk *b, struct blk_pr *pr)
{
	return host_reserve_pass(dev_of(b)->p.fd, pr);
}

static int hostdev_break_lock(struct blk *b, const char *holder, struct err *err)
{
	return posix_break_lock(b, &dev_of(b)->p, holder, err);
}

static const struct blk_storage_ops hostdev_storage_ops = {
	.holders = hostdev_holders,
	.break_lock = hostdev_break_lock,
	.reserve = hostdev_reserve,
	.release = hostdev_release,
	.pr_begin = hostdev_pr_begin,
	.pr = hostdev_pr,
	.identity = hostdev_identity,
	.describe = hostdev_describe,
	.check_path = hostdev_check_path,
};

const struct blk_driver blk_host_device_driver = {
	.name = "host_device",
	.kind = BLK_PROTOCOL,
	.local = true,
	.state_bytes = sizeof(struct hostdev),
	.open = hostdev_open,
	.close = hostdev_close,
	.reflag = hostdev_reflag,
	.preadv = hostdev_preadv,
	.pwritev = hostdev_pwritev,
	.flush = hostdev_flush,
	.zero = hostdev_zero,
	.discard = hostdev_discard,
	.resize = hostdev_resize,
	.allocated = hostdev_allocated,
	.storage = &hostdev_storage_ops,
};
