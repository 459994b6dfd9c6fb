/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Files and block devices through the kernel's ordinary calls. See posix.h.
 */
#include "backends/posix.h"

#include <assert.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/vfs.h>
#include <unistd.h>
#include <linux/fs.h>

#include "backends/fsfacts.h"
#include "base/aio.h"
#include "base/iov.h"
#include "base/json.h"
#include "base/math.h"

/* The widest unit of direct I/O that is believed; buf_alloc aligns to as much. */
#define ALIGN_MAX 4096u

/* ---- opening --------------------------------------------------------------------- */

int posix_open_fd(const char *filename, int flags, mode_t mode)
{
	/* O_NONBLOCK: opening a FIFO with no writer must not hang, a tape must not
	 * rewind. */
	int fd = open(filename, flags | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, mode);

	return fd >= 0 ? fd : -errno;
}

int posix_set_blocking(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	/* Left on, io_uring would answer EAGAIN for what has to be read from the disk. */
	if (flags < 0 || fcntl(fd, F_SETFL, flags & ~O_NONBLOCK) < 0)
		return -errno;
	return 0;
}

/* Aligned reads of growing length until the file takes one. An empty file takes any,
 * which says nothing. */
static uint32_t probe_align(int fd)
{
	uint8_t *buf = buf_alloc(ALIGN_MAX);
	uint32_t align = ALIGN_MAX;

	if (!buf)
		return ALIGN_MAX;
	for (uint32_t n = ALIGN_MAX; n >= BLK_SECTOR; n /= 2) {
		if (pread(fd, buf, n, 0) <= 0)
			break;
		align = n;
	}
	buf_free(buf);
	return align;
}

static int no_direct(const char *filename, struct err *err)
{
	return err_set(err, EINVAL,
		"Could not open '%s': filesystem does not support O_DIRECT", filename);
}

static int find_direct_align(struct blk *b, struct posix *p, struct err *err)
{
	uint32_t offset_align = 0, mem_align = 0;
	int sector;
#ifdef STATX_DIOALIGN
	struct statx sx;

	if (statx(p->fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &sx) == 0 &&
		sx.stx_mask & STATX_DIOALIGN) {
		offset_align = sx.stx_dio_offset_align;
		mem_align = sx.stx_dio_mem_align;
		if (!offset_align)
			return no_direct(b->filename, err);
	}
#endif
	if (!offset_align && S_ISBLK(p->st.st_mode) && !ioctl(p->fd, BLKSSZGET, &sector))
		offset_align = sector;
	if (!offset_align)
		offset_align = probe_align(p->fd);
	if (!mem_align)
		mem_align = offset_align;
	if (!is_pow2(offset_align) || !is_pow2(mem_align) || mem_align > ALIGN_MAX)
		return err_set(err, ENOTSUP,
			"Could not open '%s': direct I/O needs an alignment of %u bytes "
			"in the "
			"file and %u in memory",
			b->filename, offset_align, mem_align);
	b->limits.request_align = offset_align;
	b->limits.mem_align = mem_align;
	return 0;
}

enum locking { LOCKING_OFF, LOCKING_ON, LOCKING_AUTO };
static const char *const locking_names[] = {"off", "on", "auto", NULL};
static const char *const aio_names[] = {"threads", "native", "io_uring", NULL};

/* aio, aio-max-batch and drop-cache are the peer's: how requests reach the kernel is the
 * event loop's choice here, and the cache is dropped for migration only. They are checked
 * so that a wrong word is not taken in silence. */
static int take_options(
	struct blk *b, struct opts *opts, struct posix *p, struct err *err)
{
	const char *filename = opts_take(opts, "filename");
	uint64_t batch;
	bool drop;
	int aio, ret;

	if (!filename || !filename[0])
		return err_set(err, EINVAL, "The '%s' block driver requires a file name",
			b->drv->name);
	if (!b->filename && !(b->filename = strdup(filename)))
		return err_errno(err, ENOMEM, "%s", filename);
	ret = opts_take_enum(opts, "locking", locking_names, &p->locking, err);
	if (ret == 0)
		ret = opts_take_enum(opts, "aio", aio_names, &aio, err);
	if (ret == 0)
		ret = opts_take_u64(opts, "aio-max-batch", &batch, err);
	if (ret == 0)
		ret = opts_take_bool(opts, "drop-cache", &drop, err);
	if (ret == 0)
		ret = host_reserve_options(&p->reserve, opts, err);
	return ret;
}

/* Other hosts cannot see in /proc who has locked the file. */
static void leave_note(struct blk *b, struct posix *p)
{
	struct fs_facts fs = {.reach = FS_REACH_LOCAL};
	struct statfs st;

	if (p->noted || !S_ISREG(p->st.st_mode) || fstatfs(p->fd, &st) != 0)
		return;
	fs_facts_of_mount((uint32_t)st.f_type, NULL, NULL, &fs);
	if (fs.reach != FS_REACH_NETWORK && fs.reach != FS_REACH_CLUSTER)
		return;
	p->noted = strdup(b->filename);
	if (p->noted)
		lock_note_write(p->noted);
}

/* Consistent reading always; a writer also writes, and one that keeps metadata in the
 * file also resizes it and lets nobody else do either. */
static int take_locks(struct blk *b, struct posix *p, struct err *err)
{
	unsigned perm = IMGLOCK_CONSISTENT_READ;
	unsigned shared = IMGLOCK_CONSISTENT_READ | IMGLOCK_WRITE_UNCHANGED;
	struct err lock_err = ERR_INIT;
	int ret;

	if (p->locking == LOCKING_OFF)
		return 0;
	if (b->flags & BLK_O_RDWR)
		perm |= IMGLOCK_WRITE;
	if (b->flags & (BLK_O_SHARE_WRITE | BLK_O_SHARE))
		shared = IMGLOCK_ALL;
	else if (b->flags & BLK_O_RDWR)
		perm |= IMGLOCK_RESIZE;
	ret = imglock_set(&p->lock, p->fd, b->filename, perm, shared, &lock_err);
	if (ret == 0 && (perm & IMGLOCK_WRITE))
		leave_note(b, p);
	if (ret == -ENOTSUP && p->locking == LOCKING_AUTO)
		return 0;
	if (ret < 0 && err)
		*err = lock_err;
	return ret;
}

static int open_node(struct blk *b, struct posix *p, struct err *err)
{
	int flags = b->flags & BLK_O_RDWR ? O_RDWR : O_RDONLY;

	p->direct = b->flags & BLK_O_DIRECT;
	p->fd = posix_open_fd(b->filename, flags | (p->direct ? O_DIRECT : 0), 0);
	if (p->fd == -EINVAL && p->direct)
		return no_direct(b->filename, err);
	if (p->fd < 0)
		return err_errno(err, -p->fd, "Could not open '%s'", b->filename);
	if (fstat(p->fd, &p->st) != 0)
		return err_errno(err, errno, "Could not open '%s'", b->filename);
	if (!S_ISREG(p->st.st_mode) && !S_ISBLK(p->st.st_mode))
		return err_set(err, S_ISDIR(p->st.st_mode) ? EISDIR : EINVAL,
			"Could not open '%s': it is neither a regular file nor a block "
			"device",
			b->filename);
	if (posix_set_blocking(p->fd) < 0)
		return err_errno(err, errno, "Could not open '%s'", b->filename);
	if (p->reserve.wanted && !S_ISBLK(p->st.st_mode))
		return err_set(err, EINVAL,
			"Could not open '%s': only devices have reservations",
			b->filename);
	return p->reserve.wanted ? blk_need(b, BLK_NEEDS_RIGHTS, err) : 0;
}

int posix_open(struct blk *b, struct posix *p, struct opts *opts, struct err *err)
{
	int ret;

	p->fd = -1;
	p->locking = LOCKING_AUTO;
	ret = take_options(b, opts, p, err);
	if (ret == 0)
		ret = open_node(b, p, err);
	if (ret == 0)
		ret = take_locks(b, p, err);
	if (ret == 0 && p->direct)
		ret = find_direct_align(b, p, err);
	if (ret < 0) {
		posix_close(p);
		return ret;
	}
	/* What a writer reads may have been written by one that was killed and be in the page
	 * cache only: its first flush has to cover that too, as a disk's own would. */
	atomic_store(&p->dirty, b->flags & BLK_O_RDWR);
	p->is_path = (b->flags & BLK_O_PATH) && p->direct;
	/* Through the page cache a separate flush costs no more than a stable write, and
	 * keeps one place that remembers failures. */
	if (p->direct)
		b->caps |= BLK_CAP_FUA;
	return 0;
}

int posix_reflag(struct blk *b, struct posix *p, struct err *err)
{
	return take_locks(b, p, err);
}

void posix_close(struct posix *p)
{
	if (p->fd < 0)
		return;
	if (p->noted)
		lock_note_remove(p->noted);
	free(p->noted);
	p->noted = NULL;
	imglock_drop(&p->lock, p->fd);
	close(p->fd);
	p->fd = -1;
}

/* ---- who holds it ---------------------------------------------------------------- */

#define HOLDERS_MAX 32

static void add_word(char *words, size_t bytes, const char *before, const char *word)
{
	size_t n = strlen(words);

	snprintf(words + n, bytes - n, "%s%s%s", n ? ", " : "", before, word);
}

static struct json *holder_facts(const struct imglock_holder *h)
{
	struct json *o = json_new_object();
	char word[32] = "unknown", locks[200] = "";

	if (h->owner.pid)
		snprintf(word, sizeof(word), "pid %ld", h->owner.pid);
	for (int bit = 0; bit < 4; bit++)
		if (h->perm & 1u << bit)
			add_word(locks, sizeof(locks), "", imglock_perm_names[bit]);
	for (int bit = 0; bit < 4; bit++)
		if (h->unshared & 1u << bit)
			add_word(locks, sizeof(locks), "no other's ",
				imglock_perm_names[bit]);
	json_put_string(o, "holder", word);
	json_put_string(o, "kind", "file lock");
	if (h->owner.pid)
		json_put_int(o, "pid", h->owner.pid);
	if (h->owner.program[0])
		json_put_string(o, "program", h->owner.program);
	if (h->owner.host[0])
		json_put_string(o, "host", h->owner.host);
	if (h->owner.since[0])
		json_put_string(o, "since", h->owner.since);
	json_put_string(o, "locks", locks);
	return o;
}

struct json *posix_holders(struct blk *b, struct posix *p, struct err *err)
{
	struct imglock_holder list[HOLDERS_MAX];
	struct json *array;
	unsigned n;
	int ret;

	ret = imglock_holders(p->fd, b->filename, list, HOLDERS_MAX, &n);
	if (ret) {
		err_errno(err, -ret, "%s: cannot look at the locks", b->filename);
		return NULL;
	}
	array = json_new_array();
	for (unsigned i = 0; i < n; i++)
		json_add(array, holder_facts(&list[i]));
	if (S_ISBLK(p->st.st_mode))
		host_reserve_holders(p->fd, array);
	return array;
}

int posix_break_lock(struct blk *b, struct posix *p, const char *holder, struct err *err)
{
	if (S_ISBLK(p->st.st_mode))
		return host_reserve_break(&p->reserve, p->fd, b->filename, holder, err);
	return err_set(err, ENOTSUP,
		"%s: a file's lock cannot be broken: it ends with the program that has "
		"it "
		"(%s), or with that program's host",
		b->filename, holder);
}

/* ---- reading --------------------------------------------------------------------- */

/* The rest of a request as a vector of its own; caller frees. NULL: no memory. */
static struct iovec *rest_of(
	const struct iovec *iov, int niov, size_t pos, size_t bytes, int *n)
{
	struct iovec *rest = malloc(niov * sizeof(*rest));

	if (rest)
		*n = iov_slice(rest, iov, niov, pos, bytes);
	return rest;
}

/* Where a request that got `pos` bytes far goes on: direct I/O only from whole units. */
static uint64_t resume_at(const struct blk *b, const struct posix *p, uint64_t pos)
{
	return p->direct ? round_down(pos, b->limits.request_align) : pos;
}

/* The file ends at or before offset. Asked anew each time: others may make it grow. */
static bool past_end(struct posix *p, uint64_t offset)
{
	struct stat st;

	return fstat(p->fd, &st) == 0 && S_ISREG(st.st_mode) &&
	       (uint64_t)st.st_size <= offset;
}

static int read_rest(struct blk *b, struct posix *p, uint64_t offset, uint64_t bytes,
	const struct iovec *iov, int niov, uint64_t done)
{
	struct iovec *rest;
	uint64_t from;
	ssize_t n;
	int n_rest;

	while (done < bytes) {
		if (past_end(p, offset + done)) {
			iov_fill(iov, niov, done, 0, bytes - done);
			return 0;
		}
		from = resume_at(b, p, done);
		rest = rest_of(iov, niov, from, bytes - from, &n_rest);
		if (!rest)
			return -ENOMEM;
		n = aio_preadv(p->fd, rest, n_rest, offset + from);
		free(rest);
		if (n < 0)
			return n;
		/* Nothing new and not at the end of a file that was just there: a device
		 * that shrank, or a file cut off this moment. */
		if (from + n <= done && !past_end(p, offset + done))
			return -EIO;
		done = MAX(done, from + n);
	}
	return 0;
}

int posix_preadv(struct blk *b, struct posix *p, uint64_t offset, uint64_t bytes,
	const struct iovec *iov, int niov)
{
	ssize_t n = aio_preadv(p->fd, iov, niov, offset);

	if (n < 0)
		return n;
	return (uint64_t)n == bytes ? 0 : read_rest(b, p, offset, bytes, iov, niov, n);
}

/* ---- writing --------------------------------------------------------------------- */

static int write_rest(struct blk *b, struct posix *p, uint64_t offset, uint64_t bytes,
	const struct iovec *iov, int niov, int rw_flags, uint64_t done)
{
	struct iovec *rest;
	uint64_t from;
	ssize_t n;
	int n_rest;

	while (done < bytes) {
		from = resume_at(b, p, done);
		rest = rest_of(iov, niov, from, bytes - from, &n_rest);
		if (!rest)
			return -ENOMEM;
		n = aio_pwritev(p->fd, rest, n_rest, offset + from, rw_flags);
		free(rest);
		if (n < 0)
			return n;
		if (from + n <= done)
			return -EIO;
		done = from + n;
	}
	return 0;
}

void posix_fail(struct posix *p, int error)
{
	int none = 0;

	atomic_compare_exchange_strong(&p->sync_error, &none, error);
}

int posix_failed(struct posix *p)
{
	return atomic_load(&p->sync_error);
}

/* A stable write that failed may have used up the file's one report of earlier losses.
 * Lack of space is found before anything is sent (with direct I/O no write waits to fail), and so is that the
 * device is reserved for another.
 */
static void note_stable_write(struct posix *p, int ret)
{
	if (ret < 0 && ret != -ENOSPC && ret != -EDQUOT && ret != -EBADE && !p->is_path)
		posix_fail(p, ret);
}

/* Mostly the mark is there already: looking first leaves it in every processor's cache. */
void posix_changed(struct posix *p)
{
	if (!atomic_load(&p->dirty))
		atomic_store(&p->dirty, true);
}

int posix_pwritev(struct blk *b, struct posix *p, uint64_t offset, uint64_t bytes,
	const struct iovec *iov, int niov, unsigned flags)
{
	int rw_flags = flags & BLK_FUA ? RWF_DSYNC : 0;
	ssize_t n = aio_pwritev(p->fd, iov, niov, offset, rw_flags);
	int ret = 0;

	if (n < 0)
		ret = n;
	else if ((uint64_t)n != bytes)
		ret = write_rest(b, p, offset, bytes, iov, niov, rw_flags, n);
	if (rw_flags)
		note_stable_write(p, ret);
	posix_changed(p);
	return ret;
}

int posix_flush(struct posix *p)
{
	int ret;

	task_lock(&p->sync_lock);
	ret = atomic_load(&p->sync_error);
	if (ret == 0 && atomic_exchange(&p->dirty, false)) {
		ret = aio_fdatasync(p->fd);
		if (ret < 0 && p->is_path)
			atomic_store(&p->dirty, true);
		else if (ret < 0)
			atomic_store(&p->sync_error, ret);
	}
	task_unlock(&p->sync_lock);
	return ret;
}

/* ---- calls on the worker pool ---------------------------------------------------- */

struct ioctl_call {
	int fd;
	unsigned long request;
	void *arg;
};

static long ioctl_work(void *arg)
{
	struct ioctl_call *c = arg;

	int ret = ioctl(c->fd, c->request, c->arg);

	return ret < 0 ? -errno : ret;
}

int posix_ioctl(int fd, unsigned long request, void *arg)
{
	struct ioctl_call c = {fd, request, arg};

	return worker_call(WORKER_BLOCKING, ioctl_work, &c);
}

struct ftruncate_call {
	int fd;
	off_t bytes;
};

static long ftruncate_work(void *arg)
{
	struct ftruncate_call *c = arg;
	int ret;

	do
		ret = ftruncate(c->fd, c->bytes);
	while (ret < 0 && errno == EINTR);
	return ret < 0 ? -errno : 0;
}

int posix_ftruncate(int fd, uint64_t bytes)
{
	struct ftruncate_call c = {fd, bytes};

	assert(bytes <= INT64_MAX);
	return worker_call(WORKER_BLOCKING, ftruncate_work, &c);
}
