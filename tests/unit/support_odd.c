/* SPDX-License-Identifier: BSD-2-Clause */
/* Odd disks in memory: see support_odd.h. */
#include "support_odd.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/iov.h"
#include "base/math.h"

static struct odd_disk *disks;

struct odd_disk *odd_find(const char *name)
{
	for (struct odd_disk *d = disks; d; d = d->next)
		if (!strcmp(d->name, name))
			return d;
	return NULL;
}

struct odd_disk *odd_add(const char *name, uint64_t size)
{
	struct odd_disk *d = calloc(1, sizeof(*d));

	assert(d && size <= ODD_ROOM && !odd_find(name));
	snprintf(d->name, sizeof(d->name), "%s", name);
	d->size = size;
	pthread_mutex_init(&d->lock, NULL);
	d->next = disks;
	disks = d;
	return d;
}

void odd_clear(void)
{
	while (disks) {
		struct odd_disk *d = disks;

		assert(d->opens == 0 && !d->ops);
		disks = d->next;
		pthread_mutex_destroy(&d->lock);
		free(d);
	}
}

/* ---- odd ------------------------------------------------------------------------- */

struct odd {
	struct odd_disk *disk;
};

static struct odd_disk *disk_of(const struct blk *b)
{
	return ((struct odd *)b->state)->disk;
}

static int odd_open(struct blk *b, struct opts *opts, struct err *err)
{
	const char *name = opts_take(opts, "filename");
	struct odd_disk *d = name ? odd_find(name) : NULL;

	if (!name || !name[0])
		return err_set(err, EINVAL, "The '%s' block driver requires a file name",
			b->drv->name);
	if (!d)
		return err_errno(err, ENOENT, "Could not open '%s'", name);
	if (d->read_only && (b->flags & BLK_O_RDWR))
		return err_errno(err, EACCES, "Could not open '%s'", name);
	if (d->busy && (b->flags & (BLK_O_RDWR | BLK_O_SHARE_WRITE)) == BLK_O_RDWR)
		return err_set(err, EAGAIN, "'%s' is in use", name);
	((struct odd *)b->state)->disk = d;
	b->limits = d->limits;
	b->caps = d->caps;
	b->size = d->size;
	d->opens++;
	d->flags = b->flags;
	return 0;
}

static int odd_close(struct blk *b)
{
	disk_of(b)->opens--;
	return disk_of(b)->close_ret;
}

static int odd_reflag(struct blk *b, struct err *err)
{
	(void)err;
	disk_of(b)->flags = b->flags;
	return 0;
}

static void check_memory(
	const struct blk *b, uint64_t bytes, const struct iovec *iov, int niov)
{
	assert(niov > 0 && niov <= IOV_LIMIT);
	assert(iov_bytes(iov, niov) == bytes);
	assert(bytes <= b->limits.max_transfer);
	for (int i = 0; i < niov; i++)
		assert(is_aligned(
			(uintptr_t)iov[i].iov_base | (i + 1 < niov ? iov[i].iov_len : 0),
			b->limits.mem_align));
}

static void enter(
	struct blk *b, struct odd_op *op, uint64_t offset, uint64_t bytes, bool write)
{
	struct odd_disk *d = disk_of(b);
	uint64_t limit = b->caps & BLK_CAP_GROW && write
				 ? ODD_ROOM
				 : round_up(d->size, b->limits.request_align);

	assert(bytes > 0 && is_aligned(offset | bytes, b->limits.request_align));
	pthread_mutex_lock(&d->lock);
	assert(range_inside(offset, bytes, limit));
	d->largest = MAX(d->largest, bytes);
	*op = (struct odd_op){
		.start = offset, .end = offset + bytes, .write = write, .next = d->ops};
	for (struct odd_op *o = d->ops; o && d->no_overlap; o = o->next)
		assert(o->end <= op->start || op->end <= o->start ||
			(!o->write && !write));
	d->ops = op;
	pthread_mutex_unlock(&d->lock);
	if (d->yields)
		task_yield();
}

static void leave(struct blk *b, struct odd_op *op)
{
	struct odd_disk *d = disk_of(b);
	struct odd_op **link;

	if (d->yields)
		task_yield();
	pthread_mutex_lock(&d->lock);
	for (link = &d->ops; *link != op; link = &(*link)->next)
		;
	*link = op->next;
	pthread_mutex_unlock(&d->lock);
}

static int odd_preadv(
	struct blk *b, uint64_t offset, uint64_t bytes, const struct iovec *iov, int niov)
{
	struct odd_disk *d = disk_of(b);
	struct odd_op op;

	check_memory(b, bytes, iov, niov);
	enter(b, &op, offset, bytes, false);
	pthread_mutex_lock(&d->lock);
	d->reads++;
	iov_from_buf(iov, niov, 0, d->bytes + offset, bytes);
	pthread_mutex_unlock(&d->lock);
	leave(b, &op);
	return d->fail;
}

/* After a change of [offset, end): the size, and what of it is stable. With d->lock. */
static void changed(struct blk *b, uint64_t offset, uint64_t end, unsigned flags)
{
	struct odd_disk *d = disk_of(b);

	if (end > d->size && !(b->caps & BLK_CAP_GROW)) /* lost, as driver.h allows */
		memset(d->bytes + d->size, 0, end - d->size);
	else if (end > d->size)
		d->size = end;
	blk_set_size(b, d->size);
	if (flags & BLK_FUA) {
		assert(b->caps & BLK_CAP_FUA);
		d->fuas++;
		memcpy(d->stable + offset, d->bytes + offset, end - offset);
	}
}

static int odd_pwritev(struct blk *b, uint64_t offset, uint64_t bytes,
	const struct iovec *iov, int niov, unsigned flags)
{
	struct odd_disk *d = disk_of(b);
	struct odd_op op;

	assert(b->flags & BLK_O_RDWR);
	assert(!(flags & ~(unsigned)(BLK_FUA | BLK_COMPRESSED)));
	assert(!(flags & BLK_COMPRESSED) || (b->caps & BLK_CAP_COMPRESS));
	check_memory(b, bytes, iov, niov);
	enter(b, &op, offset, bytes, true);
	pthread_mutex_lock(&d->lock);
	d->writes++;
	d->written = iov->iov_base;
	if (!d->fail) {
		iov_to_buf(iov, niov, 0, d->bytes + offset, bytes);
		changed(b, offset, offset + bytes, flags);
	}
	pthread_mutex_unlock(&d->lock);
	leave(b, &op);
	return d->fail;
}

static int odd_flush(struct blk *b)
{
	struct odd_disk *d = disk_of(b);

	pthread_mutex_lock(&d->lock);
	d->flushes++;
	if (!d->fail)
		memcpy(d->stable, d->bytes, ODD_ROOM);
	pthread_mutex_unlock(&d->lock);
	return d->fail;
}

static bool whole_units(
	const struct blk *b, uint64_t offset, uint64_t end, uint64_t align)
{
	uint64_t last = round_up(disk_of(b)->size, b->limits.request_align);

	return is_aligned(offset, align) && (is_aligned(end, align) || end == last);
}

static int odd_zero(struct blk *b, uint64_t offset, uint64_t bytes, unsigned flags)
{
	struct odd_disk *d = disk_of(b);
	struct odd_op op;

	assert(b->flags & BLK_O_RDWR);
	assert(!(flags & ~(unsigned)(BLK_FUA | BLK_MAY_UNMAP | BLK_NO_FALLBACK)));
	assert(bytes <= b->limits.max_discard);
	enter(b, &op, offset, bytes, true);
	pthread_mutex_lock(&d->lock);
	assert(whole_units(b, offset, offset + bytes, b->limits.zero_align));
	if (!d->no_zero && !d->fail) {
		d->zeros++;
		d->unmaps += (flags & BLK_MAY_UNMAP) != 0;
		memset(d->bytes + offset, 0, bytes);
		changed(b, offset, offset + bytes, flags);
	}
	pthread_mutex_unlock(&d->lock);
	leave(b, &op);
	return d->no_zero ? -ENOTSUP : d->fail;
}

/* Every other unit is forgotten. */
static int odd_discard(struct blk *b, uint64_t offset, uint64_t bytes)
{
	struct odd_disk *d = disk_of(b);
	uint64_t unit = b->limits.discard_align;
	struct odd_op op;

	assert(b->flags & BLK_O_RDWR);
	assert(bytes <= b->limits.max_discard);
	enter(b, &op, offset, bytes, true);
	pthread_mutex_lock(&d->lock);
	assert(whole_units(b, offset, offset + bytes, unit));
	d->discards++;
	for (uint64_t pos = offset; pos + unit <= offset + bytes; pos += 2 * unit)
		memset(d->bytes + pos, 0, unit);
	pthread_mutex_unlock(&d->lock);
	leave(b, &op);
	return d->fail;
}

static int odd_resize(
	struct blk *b, uint64_t bytes, enum blk_prealloc prealloc, struct err *err)
{
	struct odd_disk *d = disk_of(b);

	(void)prealloc;
	if (bytes > ODD_ROOM)
		return err_set(err, EFBIG, "too large");
	pthread_mutex_lock(&d->lock);
	if (bytes < d->size)
		memset(d->bytes + bytes, 0, d->size - bytes);
	d->size = bytes;
	blk_set_size(b, bytes);
	pthread_mutex_unlock(&d->lock);
	return 0;
}

static int odd_copy_range(struct blk *src, uint64_t src_offset, struct blk *dst,
	uint64_t dst_offset, uint64_t bytes, unsigned flags)
{
	struct odd_op from, to;

	enter(src, &from, src_offset, bytes, false);
	enter(dst, &to, dst_offset, bytes, true);
	pthread_mutex_lock(&disk_of(dst)->lock);
	memmove(disk_of(dst)->bytes + dst_offset, disk_of(src)->bytes + src_offset,
		bytes);
	changed(dst, dst_offset, dst_offset + bytes, flags);
	disk_of(dst)->copies++;
	pthread_mutex_unlock(&disk_of(dst)->lock);
	leave(dst, &to);
	leave(src, &from);
	return 0;
}

static int64_t odd_allocated(struct blk *b)
{
	return (int64_t)disk_of(b)->size;
}

static int odd_create(
	const char *filename, struct blk *file, struct opts *opts, struct err *err)
{
	struct odd_disk *d = odd_find(filename);
	uint64_t size = 0;
	int ret = opts_take_size(opts, "size", &size, err);

	assert(!file);
	opts_take(opts, "shelf");
	if (ret)
		return ret;
	if (size > ODD_ROOM)
		return err_set(err, EFBIG, "too large");
	if (!d)
		d = odd_add(filename, 0);
	d->caps |= BLK_CAP_GROW;
	memset(d->bytes, 0, ODD_ROOM);
	d->size = size;
	return 0;
}

static int odd_remove(const char *filename)
{
	for (struct odd_disk **link = &disks; *link; link = &(*link)->next)
		if (!strcmp((*link)->name, filename)) {
			struct odd_disk *d = *link;

			assert(d->opens == 0);
			*link = d->next;
			pthread_mutex_destroy(&d->lock);
			free(d);
			return 0;
		}
	return -ENOENT;
}

static const struct blk_create_opt odd_create_opts[] = {
	{"size", "size", "Size", NULL},
	{"shelf", "num", "Where it stands", NULL},
	{0},
};

static const struct blk_format_ops odd_ops = {
	.create_opts = odd_create_opts,
	.create = odd_create,
	.remove = odd_remove,
};

static const char *const odd_schemes[] = {"odd", "file", NULL};

const struct blk_driver odd_driver = {
	.name = "odd",
	.kind = BLK_PROTOCOL,
	.schemes = odd_schemes,
	.state_bytes = sizeof(struct odd),
	.open = odd_open,
	.close = odd_close,
	.reflag = odd_reflag,
	.preadv = odd_preadv,
	.pwritev = odd_pwritev,
	.flush = odd_flush,
	.zero = odd_zero,
	.discard = odd_discard,
	.resize = odd_resize,
	.copy_range = odd_copy_range,
	.allocated = odd_allocated,
	.format = &odd_ops,
};

/* ---- what passes everything to its file ------------------------------------------ */

static int pass_open(struct blk *b, struct opts *opts, struct err *err)
{
	unsigned share = b->drv == &plain_driver ? BLK_O_SHARE_WRITE : 0;

	if (!blk_open_child(b, opts, "file", NULL, b->flags | share, err))
		return -err->code;
	b->size = b->file->size;
	b->caps = b->file->caps & (BLK_CAP_FUA | BLK_CAP_ZERO_INIT);
	return 0;
}

static int pass_preadv(
	struct blk *b, uint64_t offset, uint64_t bytes, const struct iovec *iov, int niov)
{
	(void)bytes;
	return blk_preadv(b->file, offset, iov, niov, 0);
}

static int pass_pwritev(struct blk *b, uint64_t offset, uint64_t bytes,
	const struct iovec *iov, int niov, unsigned flags)
{
	(void)bytes;
	return blk_pwritev(b->file, offset, iov, niov, flags);
}

static int pass_flush(struct blk *b)
{
	return blk_flush(b->file);
}

static int pass_zero(struct blk *b, uint64_t offset, uint64_t bytes, unsigned flags)
{
	return blk_zero(b->file, offset, bytes, flags);
}

static int plain_probe(const uint8_t *buf, size_t bytes, const char *filename)
{
	(void)buf;
	(void)bytes;
	(void)filename;
	return BLK_PROBE_ANY;
}

static const struct blk_format_ops plain_ops = {.probe = plain_probe};

const struct blk_driver plain_driver = {
	.name = "plain",
	.kind = BLK_FORMAT,
	.open = pass_open,
	.preadv = pass_preadv,
	.pwritev = pass_pwritev,
	.flush = pass_flush,
	.zero = pass_zero,
	.format = &plain_ops,
};

const struct blk_driver pass_driver = {
	.name = "pass",
	.kind = BLK_FILTER,
	.open = pass_open,
	.preadv = pass_preadv,
	.pwritev = pass_pwritev,
	.flush = pass_flush,
	.zero = pass_zero,
};

/* ---- fmt ------------------------------------------------------------------------- */

#define FMT_MAGIC "FMT!"

struct fmt_header {
	char magic[4], empty;
	char backing[200], format[32];
	uint64_t size;
};

struct odd_disk *odd_add_fmt(const char *name, uint64_t size, bool empty,
	const char *backing, const char *backing_format)
{
	struct odd_disk *d = odd_add(name, BLK_SECTOR + size);
	struct fmt_header h = {.magic = FMT_MAGIC, .empty = empty, .size = size};

	snprintf(h.backing, sizeof(h.backing), "%s", backing ? backing : "");
	snprintf(h.format, sizeof(h.format), "%s", backing_format ? backing_format : "");
	memcpy(d->bytes, &h, sizeof(h));
	return d;
}

static int fmt_open(struct blk *b, struct opts *opts, struct err *err)
{
	struct fmt_header *h = b->state;
	bool flag;
	int ret;

	if (!blk_open_child(b, opts, "file", b->filename, b->flags, err))
		return -err->code;
	ret = blk_pread(b->file, 0, h, sizeof(*h));
	if (ret)
		return err_errno(err, -ret, "%s", b->filename);
	if (memcmp(h->magic, FMT_MAGIC, 4))
		return err_set(err, EINVAL, "Image is not in fmt format");
	ret = opts_take_bool(opts, "flag", &flag, err);
	if (ret)
		return ret;
	b->size = h->size;
	if (h->backing[0])
		b->backing_name = strdup(h->backing);
	if (h->format[0])
		b->backing_format = strdup(h->format);
	return 0;
}

/* Where an empty image reads from: its backing file as far as that goes. */
static int fmt_preadv(
	struct blk *b, uint64_t offset, uint64_t bytes, const struct iovec *iov, int niov)
{
	const struct fmt_header *h = b->state;
	uint64_t end = b->backing ? blk_size(b->backing) : 0;
	uint64_t inside = offset < end ? MIN(bytes, end - offset) : 0;
	int ret = 0;
	uint8_t *buf;

	if (!h->empty)
		return blk_preadv(b->file, BLK_SECTOR + offset, iov, niov, 0);
	buf = calloc(1, bytes);
	if (inside)
		ret = blk_pread(b->backing, offset, buf, inside);
	iov_from_buf(iov, niov, 0, buf, bytes);
	free(buf);
	return ret;
}

static int fmt_pwritev(struct blk *b, uint64_t offset, uint64_t bytes,
	const struct iovec *iov, int niov, unsigned flags)
{
	(void)bytes;
	return blk_pwritev(b->file, BLK_SECTOR + offset, iov, niov, flags);
}

static int fmt_probe(const uint8_t *buf, size_t bytes, const char *filename)
{
	(void)filename;
	return bytes >= 4 && !memcmp(buf, FMT_MAGIC, 4) ? 100 : 0;
}

static int fmt_create(
	const char *filename, struct blk *file, struct opts *opts, struct err *err)
{
	struct fmt_header h = {.magic = FMT_MAGIC};
	bool fails = false;
	int ret = opts_take_size(opts, "size", &h.size, err);

	(void)filename;
	ret = ret ? ret : opts_take_bool(opts, "fails", &fails, err);
	if (ret || !file)
		return ret;
	assert(blk_size(file) == 0);
	ret = blk_pwrite(file, 0, &h, sizeof(h), 0);
	if (!ret && fails)
		ret = err_set(err, EIO, "told to fail");
	return ret;
}

static const struct blk_create_opt fmt_create_opts[] = {
	{"size", "size", "Virtual disk size", NULL},
	{"fails", "bool (on/off)", "Fail when half done", NULL},
	{0},
};

static const struct blk_format_ops fmt_ops = {
	.create_opts = fmt_create_opts,
	.probe = fmt_probe,
	.create = fmt_create,
};

const struct blk_driver fmt_driver = {
	.name = "fmt",
	.kind = BLK_FORMAT,
	.state_bytes = sizeof(struct fmt_header),
	.open = fmt_open,
	.preadv = fmt_preadv,
	.pwritev = fmt_pwritev,
	.flush = pass_flush,
	.format = &fmt_ops,
};
