/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The file driver: an image in a regular file. Where the name turns out to be a block
 * device the node becomes one of hostdev.c.
 *
 * Size. b->size never runs behind what a completed request wrote: requests that reach
 * past it hold `grow` shared and raise it when they end, resize holds it alone, so that a
 * size measured before a write never undoes it.
 *
 * What the file system refuses (punching holes, zeroing ranges, cloning) is learned from
 * the first refusal and not asked again.
 *
 * Extents come from lseek(SEEK_DATA, SEEK_HOLE), which has no asynchronous form. A trip
 * to the worker pool costs more than the call, so one trip looks ahead: one run at first,
 * twice as many each time the walk goes on where the last trip ended. A kept run is
 * believed while `changes` and the file's own stamp (times, size, blocks) are what they
 * were before the run was looked up: the first tells of changes made here, counted after
 * each, the second of those others make. Writers skip counting until extents are first
 * asked for.
 */
#include <assert.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <linux/fs.h>

#include "backends/fsfacts.h"
#include "backends/posix.h"
#include "base/aio.h"
#include "base/iov.h"
#include "base/math.h"
#include "block/storage.h"

#define RUNS_MAX         256u
#define DISCARD_UNIT_MAX (64 * KiB)

struct stamp {
	uint64_t changes;
	struct timespec mtime;
	off_t size;
	blkcnt_t blocks;
};

struct run {
	uint64_t start, end; /* bytes */
	bool data;
};

struct runs {
	pthread_mutex_t lock;
	struct run run[RUNS_MAX]; /* adjacent, ascending */
	unsigned n;
	unsigned ahead; /* how many the next trip may look up */
	struct stamp stamp;
};

struct file {
	struct posix p;
	struct task_rwlock grow;
	atomic_bool no_punch, no_zero_range, no_allocate, no_seek, no_clone, no_copy;
	atomic_bool extents_asked;
	_Atomic uint64_t changes;
	struct runs runs;
};

static struct file *file_of(const struct blk *b)
{
	return b->state;
}

/* ---- open and close -------------------------------------------------------------- */

/* Discards below the file system's block only write zeros into it. Network file systems
 * tell their transfer size instead. */
static uint32_t discard_unit(const struct stat *st)
{
	uint64_t n = st->st_blksize;

	return is_pow2(n) && n >= BLK_SECTOR && n <= DISCARD_UNIT_MAX ? n : 4096;
}

static int file_open(struct blk *b, struct opts *opts, struct err *err)
{
	struct file *f = file_of(b);
	int ret = posix_open(b, &f->p, opts, err);

	if (ret < 0)
		return ret;
	if (S_ISBLK(f->p.st.st_mode)) {
		struct posix p = f->p;

		b->drv = &blk_host_device_driver;
		assert(b->drv->state_bytes <= sizeof(*f));
		memset(f, 0, sizeof(*f));
		return hostdev_attach(b, &p, err);
	}
	if ((uint64_t)f->p.st.st_size > BLK_MAX_SIZE) {
		posix_close(&f->p);
		return err_set(err, EFBIG,
			"Could not open '%s': the file is too large (%lld bytes)",
			b->filename, (long long)f->p.st.st_size);
	}
	pthread_mutex_init(&f->runs.lock, NULL);
	atomic_store(&f->no_seek, fs_hides_unwritten_data(f->p.fd));
	b->size = f->p.st.st_size;
	b->limits.discard_align = MAX(discard_unit(&f->p.st), b->limits.request_align);
	b->caps |= BLK_CAP_GROW | BLK_CAP_ZERO_INIT | BLK_CAP_ZERO_UNMAP;
	return 0;
}

static int file_reflag(struct blk *b, struct err *err)
{
	return posix_reflag(b, &file_of(b)->p, err);
}

static int file_close(struct blk *b)
{
	struct file *f = file_of(b);

	posix_close(&f->p);
	pthread_mutex_destroy(&f->runs.lock);
	return 0;
}

/* ---- size ------------------------------------------------------------------------ */

/* Brackets a request that may reach past the end. True where it does. */
static bool grow_begin(struct blk *b, uint64_t end)
{
	if (end <= blk_size(b))
		return false;
	task_rdlock(&file_of(b)->grow);
	return true;
}

static void grow_end(struct blk *b, uint64_t end, int ret)
{
	struct stat st;

	/* A write that failed half-way left bytes past the old end. They must not show up
	 * as the zeros of a later growth. */
	if (ret < 0)
		end = fstat(file_of(b)->p.fd, &st) == 0 ? st.st_size : 0;
	blk_raise_size(b, end);
	task_rdunlock(&file_of(b)->grow);
}

static void note_change(struct file *f)
{
	posix_changed(&f->p);
	if (atomic_load(&f->extents_asked))
		atomic_fetch_add(&f->changes, 1);
}

/* ---- data ------------------------------------------------------------------------ */

static int file_preadv(
	struct blk *b, uint64_t offset, uint64_t bytes, const struct iovec *iov, int niov)
{
	return posix_preadv(b, &file_of(b)->p, offset, bytes, iov, niov);
}

static int file_pwritev(struct blk *b, uint64_t offset, uint64_t bytes,
	const struct iovec *iov, int niov, unsigned flags)
{
	struct file *f = file_of(b);
	bool grows = grow_begin(b, offset + bytes);
	int ret = posix_pwritev(b, &f->p, offset, bytes, iov, niov, flags);

	if (grows)
		grow_end(b, offset + bytes, ret);
	note_change(f);
	return ret;
}

static int file_flush(struct blk *b)
{
	return posix_flush(&file_of(b)->p);
}

/* fallocate, with what it cannot do here turned into -ENOTSUP and kept in *refused. */
static int try_fallocate(
	struct file *f, atomic_bool *refused, int mode, uint64_t offset, uint64_t bytes)
{
	int ret;

	if (atomic_load(refused))
		return -ENOTSUP;
	ret = aio_fallocate(f->p.fd, mode, offset, bytes);
	if (ret == -EOPNOTSUPP || ret == -ENOSYS) {
		atomic_store(refused, true);
		return -ENOTSUP;
	}
	/* Of this range only: some file systems want whole blocks. */
	return ret == -EINVAL ? -ENOTSUP : ret;
}

static int punch(struct file *f, uint64_t offset, uint64_t bytes)
{
	return try_fallocate(f, &f->no_punch, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
		offset, bytes);
}

/* Makes the file at least `end` bytes long. Alone, since ftruncate with a size measured
 * before another's growth would cut that off. */
static int grow_to(struct blk *b, uint64_t end)
{
	struct file *f = file_of(b);
	struct stat st;
	int ret = 0;

	task_wrlock(&f->grow);
	if (fstat(f->p.fd, &st) != 0)
		ret = -errno;
	else if ((uint64_t)st.st_size < end)
		ret = posix_ftruncate(f->p.fd, end);
	if (ret == 0)
		blk_raise_size(b, end);
	task_wrunlock(&f->grow);
	return ret;
}

/* Zeros that keep their space: a zeroed range, or a hole filled in again. */
static int zero_allocated(struct file *f, uint64_t offset, uint64_t bytes)
{
	int ret =
		try_fallocate(f, &f->no_zero_range, FALLOC_FL_ZERO_RANGE, offset, bytes);

	if (ret != -ENOTSUP || atomic_load(&f->no_allocate))
		return ret;
	ret = punch(f, offset, bytes);
	return ret < 0 ? ret : try_fallocate(f, &f->no_allocate, 0, offset, bytes);
}

static int file_zero(struct blk *b, uint64_t offset, uint64_t bytes, unsigned flags)
{
	struct file *f = file_of(b);
	uint64_t end = offset + bytes;
	int ret = -ENOTSUP;
	bool grows;

	if (flags & BLK_MAY_UNMAP) {
		ret = punch(f, offset, bytes);
		if (ret == 0 && end > blk_size(b))
			ret = grow_to(b, end);
	}
	if (ret == -ENOTSUP) {
		grows = grow_begin(b, end);
		ret = zero_allocated(f, offset, bytes);
		if (grows)
			grow_end(b, end, ret);
	}
	note_change(f);
	if (ret == 0 && flags & BLK_FUA)
		ret = posix_flush(&f->p);
	return ret;
}

static int file_discard(struct blk *b, uint64_t offset, uint64_t bytes)
{
	int ret = punch(file_of(b), offset, bytes);

	note_change(file_of(b));
	return ret;
}

/* ---- extents --------------------------------------------------------------------- */

struct lookup {
	struct file *f;
	uint64_t offset, end; /* of interest */
	struct run *run;
	unsigned n, max;
};

/* Adds the run at pos; returns its end, 0 where the file cannot tell. */
static uint64_t look_at(struct lookup *l, uint64_t pos)
{
	struct run *run = &l->run[l->n];
	int fd = l->f->p.fd;
	off_t data = lseek(fd, pos, SEEK_DATA), hole;

	if (data < 0 && errno != ENXIO)
		return 0;
	if (data < 0 || (uint64_t)data > pos) {
		/* ENXIO: no data up to the end, or past it. */
		*run = (struct run){pos, data < 0 ? UINT64_MAX : (uint64_t)data, false};
	} else {
		hole = lseek(fd, pos, SEEK_HOLE);
		if (hole < 0 && errno != ENXIO)
			return 0;
		/* The file changed between the two questions: data is never wrong. */
		if (hole < 0 || (uint64_t)hole <= pos)
			hole = pos + 1;
		*run = (struct run){pos, hole, true};
	}
	l->n++;
	return run->end;
}

static long lookup_work(void *arg)
{
	struct lookup *l = arg;
	uint64_t pos = l->offset;

	while (l->n < l->max && pos < l->end) {
		pos = look_at(l, pos);
		if (!pos)
			return l->n ? 0 : -ENOTSUP;
	}
	return 0;
}

/* Taken before looking, so that a change made meanwhile shows. */
static int take_stamp(struct file *f, struct stamp *out)
{
	struct stat st;

	out->changes = atomic_load(&f->changes);
	if (fstat(f->p.fd, &st) != 0)
		return -errno;
	out->mtime = st.st_mtim;
	out->size = st.st_size;
	out->blocks = st.st_blocks;
	return 0;
}

static bool stamp_equal(const struct stamp *a, const struct stamp *b)
{
	return a->changes == b->changes && a->mtime.tv_sec == b->mtime.tv_sec &&
	       a->mtime.tv_nsec == b->mtime.tv_nsec && a->size == b->size &&
	       a->blocks == b->blocks;
}

static bool runs_find(const struct runs *r, uint64_t offset, struct run *out)
{
	unsigned lo = 0, hi = r->n;

	while (lo < hi) {
		unsigned mid = lo + (hi - lo) / 2;

		if (r->run[mid].end <= offset)
			lo = mid + 1;
		else
			hi = mid;
	}
	if (lo == r->n || r->run[lo].start > offset)
		return false;
	*out = r->run[lo];
	return true;
}

/* How far the next trip looks: further where it goes on from the last one. */
static unsigned runs_ahead(struct runs *r, uint64_t offset)
{
	bool goes_on = r->n && r->run[r->n - 1].end == offset;

	r->ahead = goes_on ? MIN(r->ahead * 2, RUNS_MAX) : 1;
	return r->ahead;
}

static int look_up(struct file *f, struct lookup *l, const struct stamp *stamp)
{
	struct runs *r = &f->runs;
	long ret;

	l->run = malloc(l->max * sizeof(*l->run));
	if (!l->run)
		return -ENOMEM;
	ret = worker_call(WORKER_BLOCKING, lookup_work, l);
	if (ret == 0) {
		pthread_mutex_lock(&r->lock);
		memcpy(r->run, l->run, l->n * sizeof(*l->run));
		r->n = l->n;
		r->stamp = *stamp;
		pthread_mutex_unlock(&r->lock);
	}
	return ret;
}

/* The run at offset, from what is kept or from the file. -ENOTSUP: it cannot tell. */
static int find_run(struct file *f, uint64_t offset, uint64_t size, struct run *out)
{
	struct lookup l = {.f = f, .offset = offset, .end = size};
	struct stamp stamp;
	bool found;
	int ret;

	atomic_store(&f->extents_asked, true);
	ret = take_stamp(f, &stamp);
	if (ret < 0)
		return ret;
	pthread_mutex_lock(&f->runs.lock);
	if (!stamp_equal(&f->runs.stamp, &stamp))
		f->runs.n = 0;
	found = runs_find(&f->runs, offset, out);
	if (!found)
		l.max = runs_ahead(&f->runs, offset);
	pthread_mutex_unlock(&f->runs.lock);
	if (found)
		return 0;
	ret = look_up(f, &l, &stamp);
	if (ret == 0)
		*out = l.run[0];
	free(l.run);
	return ret;
}

/* Borders inside a unit of direct I/O belong to the data. */
static uint64_t border(const struct blk *b, const struct run *run, uint64_t offset)
{
	uint64_t align = MAX(b->limits.request_align, 1u);

	if (run->end >= BLK_MAX_SIZE)
		return BLK_MAX_SIZE;
	if (run->data)
		return round_up(run->end, align);
	return MAX(round_down(run->end, align), offset);
}

static int file_extent(
	struct blk *b, uint64_t offset, uint64_t bytes, struct blk_extent *out)
{
	struct file *f = file_of(b);
	struct run run = {offset, UINT64_MAX, true};
	uint64_t end;
	int ret;

	if (!atomic_load(&f->no_seek)) {
		ret = find_run(f, offset, MAX(blk_size(b), offset + 1), &run);
		if (ret == -ENOTSUP)
			atomic_store(&f->no_seek, true);
		else if (ret < 0)
			return ret;
	}
	end = border(b, &run, offset);
	if (end == offset) {
		/* A hole that ends inside its first unit: that unit is data. */
		end = offset + b->limits.request_align;
		run.data = true;
	}
	out->bytes = MIN(bytes, end - offset);
	out->flags = (run.data ? BLK_EXT_DATA : BLK_EXT_ZERO) | BLK_EXT_ALLOCATED |
		     BLK_EXT_HOST;
	out->host = b;
	out->host_offset = offset;
	return 0;
}

static int64_t file_allocated(struct blk *b)
{
	struct stat st;

	if (fstat(file_of(b)->p.fd, &st) != 0)
		return -errno;
	return (int64_t)st.st_blocks * 512;
}

/* ---- copying inside the kernel --------------------------------------------------- */

struct copy_call {
	int src_fd, dst_fd;
	uint64_t src_offset, dst_offset, bytes;
	bool clone;
};

static long copy_work(void *arg)
{
	struct copy_call *c = arg;
	loff_t from = c->src_offset, to = c->dst_offset;
	uint64_t left = c->bytes;
	ssize_t n;

	if (c->clone) {
		struct file_clone_range r = {
			c->src_fd, c->src_offset, c->bytes, c->dst_offset};

		return ioctl(c->dst_fd, FICLONERANGE, &r) == 0 ? 0 : -errno;
	}
	while (left) {
		n = copy_file_range(c->src_fd, &from, c->dst_fd, &to, left, 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			/* Only a refusal of the whole lets the caller copy it otherwise.
			 */
			if (left != c->bytes)
				return n < 0 && errno == ENOSPC ? -ENOSPC : -EIO;
			return n < 0 ? -errno : -ENOTSUP;
		}
		left -= n;
	}
	return 0;
}

/* "Not between these", as opposed to "it went wrong". */
static bool is_refusal(long ret)
{
	return ret == -EOPNOTSUPP || ret == -ENOTTY || ret == -EXDEV || ret == -EINVAL ||
	       ret == -ENOSYS || ret == -EPERM || ret == -EBADF || ret == -ETXTBSY;
}

static int run_copy(struct copy_call *c, atomic_bool *refused, bool clone)
{
	long ret;

	if (atomic_load(refused))
		return -ENOTSUP;
	c->clone = clone;
	ret = worker_call(WORKER_BLOCKING, copy_work, c);
	if (!is_refusal(ret))
		return ret;
	/* Those two are about this range or this pair of files. */
	if (ret != -EINVAL && ret != -EXDEV)
		atomic_store(refused, true);
	return -ENOTSUP;
}

static int file_copy_range(struct blk *src, uint64_t src_offset, struct blk *dst,
	uint64_t dst_offset, uint64_t bytes, unsigned flags)
{
	struct file *s = file_of(src), *d = file_of(dst);
	struct copy_call c = {s->p.fd, d->p.fd, src_offset, dst_offset, bytes, false};
	struct stat st;
	bool grows;
	int ret;

	/* What lies past the source's end would not be copied. */
	if (fstat(s->p.fd, &st) != 0 || !range_inside(src_offset, bytes, st.st_size))
		return -ENOTSUP;
	grows = grow_begin(dst, dst_offset + bytes);
	ret = run_copy(&c, &d->no_clone, true);
	if (ret == -ENOTSUP)
		ret = run_copy(&c, &d->no_copy, false);
	if (grows)
		grow_end(dst, dst_offset + bytes, ret);
	note_change(d);
	if (ret == 0 && flags & BLK_FUA)
		ret = posix_flush(&d->p);
	return ret;
}

/* ---- resize ---------------------------------------------------------------------- */

/* Writes zeros over [start, end), whole units of align. */
static int write_zeros(int fd, uint64_t start, uint64_t end)
{
	size_t chunk = MIN(end - start, MiB);
	uint8_t *buf = buf_alloc(chunk);
	struct iovec iov = {.iov_base = buf};
	ssize_t n = 0;

	if (!buf)
		return -ENOMEM;
	memset(buf, 0, chunk);
	while (start < end && n >= 0) {
		iov.iov_len = MIN(end - start, chunk);
		n = aio_pwritev(fd, &iov, 1, start, 0);
		if (n == 0)
			n = -EIO;
		if (n > 0)
			start += n;
	}
	buf_free(buf);
	return n < 0 ? n : 0;
}

static int preallocate(int fd, uint64_t from, uint64_t to, enum blk_prealloc prealloc)
{
	/* Direct I/O takes whole blocks only; what is before the first is allocated with
	 * it. */
	uint64_t start = round_up(from, 4096), end = round_up(to, 4096);
	int ret;

	if (prealloc == BLK_PREALLOC_FALLOC) {
		ret = aio_fallocate(fd, 0, from, to - from);
		if (ret != -EOPNOTSUPP && ret != -ENOSYS)
			return ret;
	}
	ret = start < end ? write_zeros(fd, start, end) : 0;
	if (ret == 0 && end != to)
		ret = posix_ftruncate(fd, to);
	return ret == 0 ? aio_fdatasync(fd) : ret;
}

static int resize_fd(
	int fd, uint64_t from, uint64_t to, enum blk_prealloc prealloc, struct err *err)
{
	int ret;

	if (prealloc == BLK_PREALLOC_METADATA)
		return err_set(err, ENOTSUP, "Unsupported preallocation mode: metadata");
	if (prealloc != BLK_PREALLOC_OFF && to < from)
		return err_set(
			err, ENOTSUP, "Preallocation can't be used for shrinking files");
	ret = posix_ftruncate(fd, to);
	if (ret < 0)
		return err_errno(err, -ret, "Failed to resize the file");
	if (prealloc == BLK_PREALLOC_OFF || to == from)
		return 0;
	ret = preallocate(fd, from, to, prealloc);
	if (ret == 0)
		return 0;
	posix_ftruncate(fd, from);
	return err_errno(err, -ret, "Could not preallocate new data");
}

static int file_resize(
	struct blk *b, uint64_t bytes, enum blk_prealloc prealloc, struct err *err)
{
	struct file *f = file_of(b);
	struct stat st;
	int ret;

	if (bytes > BLK_MAX_SIZE)
		return err_set(err, EFBIG, "The image size is too large");
	task_wrlock(&f->grow);
	if (fstat(f->p.fd, &st) != 0)
		ret = err_errno(err, errno, "Failed to resize the file");
	else
		ret = resize_fd(f->p.fd, st.st_size, bytes, prealloc, err);
	if (ret == 0)
		blk_set_size(b, bytes);
	task_wrunlock(&f->grow);
	note_change(f);
	return ret;
}

/* ---- storage --------------------------------------------------------------------- */

/* Device and inode number name a file on this host. Network file systems make the first
 * up, each mount its own. */
static int file_identity(struct blk *b, char **out)
{
	const struct stat *st = &file_of(b)->p.st;
	struct fs_facts facts;

	fs_facts_of_file(file_of(b)->p.fd, &facts);
	if (facts.reach != FS_REACH_LOCAL)
		return -ENOTSUP;
	return asprintf(out, "file:%llx:%llx", (unsigned long long)st->st_dev,
		       (unsigned long long)st->st_ino) < 0
		       ? -ENOMEM
		       : 0;
}

/* What was tried and refused is known better than by any table. */
static void file_describe(struct blk *b, struct json *o)
{
	struct file *f = file_of(b);
	struct fs_facts facts;

	fs_facts_of_file(f->p.fd, &facts);
	if (atomic_load(&f->no_punch))
		facts.punch_hole = FACT_NO;
	if (atomic_load(&f->no_zero_range))
		facts.zero_range = FACT_NO;
	if (atomic_load(&f->no_seek))
		facts.sparse = FACT_NO;
	fs_facts_describe(&facts, o);
}

/* Whether the file can be read; of an empty one, whether it is still there. */
static int file_check_path(struct blk *b, unsigned *priority)
{
	size_t bytes = b->limits.request_align;
	struct iovec iov = {buf_alloc(bytes), bytes};
	ssize_t n;

	if (!iov.iov_base)
		return -ENOMEM;
	n = aio_preadv(file_of(b)->p.fd, &iov, 1, 0);
	buf_free(iov.iov_base);
	if (n < 0)
		return (int)n;
	*priority = BLK_PATH_OPTIMIZED;
	return 0;
}

static struct json *file_holders(struct blk *b, struct err *err)
{
	return posix_holders(b, &file_of(b)->p, err);
}

static int file_break_lock(struct blk *b, const char *holder, struct err *err)
{
	return posix_break_lock(b, &file_of(b)->p, holder, err);
}

static const struct blk_storage_ops file_storage_ops = {
	.holders = file_holders,
	.break_lock = file_break_lock,
	.identity = file_identity,
	.describe = file_describe,
	.check_path = file_check_path,
};

/* ---- create ---------------------------------------------------------------------- */

struct create {
	uint64_t bytes, extent_hint;
	int prealloc;
	bool nocow, hint_given;
};

static int take_create(struct opts *opts, struct create *c, struct err *err)
{
	int ret = opts_take_size(opts, "size", &c->bytes, err);

	c->hint_given = opts_peek(opts, "extent_size_hint") != NULL;
	if (ret == 0)
		ret = opts_take_enum(
			opts, "preallocation", blk_prealloc_names, &c->prealloc, err);
	if (ret == 0)
		ret = opts_take_bool(opts, "nocow", &c->nocow, err);
	if (ret == 0)
		ret = opts_take_size(opts, "extent_size_hint", &c->extent_hint, err);
	if (ret == 0 && c->prealloc == BLK_PREALLOC_METADATA)
		ret = err_set(err, ENOTSUP, "Unsupported preallocation mode: metadata");
	if (ret == 0 && c->bytes > BLK_MAX_SIZE)
		ret = err_set(err, EFBIG, "The image size is too large");
	if (ret == 0 && c->extent_hint > UINT32_MAX)
		ret = err_set(err, EINVAL, "The extent size hint is too large");
	return ret;
}

/* Both are wishes that only some file systems know; only a hint that was asked for by
 * name is worth an error. */
static int apply_hints(int fd, const struct create *c, struct err *err)
{
	struct fsxattr x;
	int flags;

	if (c->nocow && ioctl(fd, FS_IOC_GETFLAGS, &flags) == 0) {
		flags |= FS_NOCOW_FL;
		if (ioctl(fd, FS_IOC_SETFLAGS, &flags) != 0 && errno != EOPNOTSUPP &&
			errno != EINVAL)
			return err_errno(err, errno, "Could not turn off copy-on-write");
	}
	if (!c->extent_hint)
		return 0;
	if (ioctl(fd, FS_IOC_FSGETXATTR, &x) == 0) {
		x.fsx_xflags |= FS_XFLAG_EXTSIZE;
		x.fsx_extsize = c->extent_hint;
		if (ioctl(fd, FS_IOC_FSSETXATTR, &x) == 0)
			return 0;
	}
	return c->hint_given ? err_errno(err, errno, "Could not set the extent size hint")
			     : 0;
}

static int fill_file(int fd, const struct create *c, struct err *err)
{
	int ret = posix_ftruncate(fd, 0);

	if (ret < 0)
		return err_errno(err, -ret, "Could not clear the old content");
	ret = apply_hints(fd, c, err);
	return ret < 0 ? ret : resize_fd(fd, 0, c->bytes, c->prealloc, err);
}

static int fill_locked(
	int fd, const char *filename, const struct create *c, struct err *err)
{
	struct imglock lock = {0};
	int ret = imglock_set(&lock, fd, filename, IMGLOCK_WRITE | IMGLOCK_RESIZE,
		IMGLOCK_ALL & ~IMGLOCK_RESIZE, err);

	if (ret < 0 && ret != -ENOTSUP)
		return ret;
	ret = fill_file(fd, c, err);
	imglock_drop(&lock, fd);
	return ret;
}

static int create_at(
	int fd, const char *filename, const struct create *c, struct err *err)
{
	struct stat st;

	if (fstat(fd, &st) != 0 || posix_set_blocking(fd) < 0)
		return err_errno(err, errno, "Could not create '%s'", filename);
	if (S_ISBLK(st.st_mode))
		return hostdev_create(fd, filename, c->bytes, c->prealloc, err);
	if (!S_ISREG(st.st_mode))
		return err_set(err, EINVAL,
			"Could not create '%s': it is neither a regular file nor a block "
			"device",
			filename);
	return fill_locked(fd, filename, c, err);
}

/* A file this made is gone again where it fails; one that was there stays. */
static int file_create(
	const char *filename, struct blk *file, struct opts *opts, struct err *err)
{
	struct create c = {.extent_hint = MiB};
	bool made = true;
	int fd, ret;

	(void)file; /* a protocol has no node below it */
	if (strncmp(filename, "file:", 5) == 0)
		filename += 5;
	ret = take_create(opts, &c, err);
	if (ret < 0)
		return ret;
	fd = posix_open_fd(filename, O_RDWR | O_CREAT | O_EXCL, 0644);
	if (fd == -EEXIST) {
		made = false;
		/* O_CREAT still: it may be a link to nowhere, or be gone this moment. */
		fd = posix_open_fd(filename, O_RDWR | O_CREAT, 0644);
	}
	if (fd < 0)
		return err_errno(err, -fd, "Could not create '%s'", filename);
	ret = create_at(fd, filename, &c, err);
	close(fd);
	if (ret < 0 && made)
		unlink(filename);
	return ret;
}

/* Devices stay: they were not made here. */
static int file_remove(const char *filename)
{
	struct stat st;

	if (lstat(filename, &st) != 0)
		return -errno;
	if (!S_ISREG(st.st_mode))
		return -EINVAL;
	return unlink(filename) == 0 ? 0 : -errno;
}

static const struct blk_create_opt file_create_opts[] = {
	{"size", "size", "Virtual disk size", NULL},
	{"nocow", "bool (on/off)", "Turn off copy-on-write (valid only on btrfs)", NULL},
	{"preallocation", "str", "Preallocation mode (allowed values: off, falloc, full)",
		NULL},
	{"extent_size_hint", "size", "Extent size hint for the image file, 0 to disable",
		NULL},
	{NULL, NULL, NULL, NULL},
};

static const struct blk_format_ops file_format_ops = {
	.create_opts = file_create_opts,
	.create = file_create,
	.remove = file_remove,
};

static const char *const file_schemes[] = {"file", NULL};

const struct blk_driver blk_file_driver = {
	.name = "file",
	.kind = BLK_PROTOCOL,
	.local = true,
	.schemes = file_schemes,
	.state_bytes = sizeof(struct file),
	.open = file_open,
	.close = file_close,
	.reflag = file_reflag,
	.preadv = file_preadv,
	.pwritev = file_pwritev,
	.flush = file_flush,
	.zero = file_zero,
	.discard = file_discard,
	.extent = file_extent,
	.resize = file_resize,
	.copy_range = file_copy_range,
	.allocated = file_allocated,
	.format = &file_format_ops,
	.storage = &file_storage_ops,
};
