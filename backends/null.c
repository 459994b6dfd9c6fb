/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * null-co and null-aio: disks that take every write and keep none, to measure what lies
 * above them. size= (1 GiB by default), latency-ns= before each request ends,
 * read-zeroes=: off leaves the reader's buffer as it is, which is what costs nothing. On
 * is the default here, since a buffer left alone shows the program's memory to whoever
 * reads the image.
 */
#include <stdio.h>
#include <string.h>

#include "base/iov.h"
#include "base/math.h"
#include "base/task.h"
#include "block/driver.h"

struct null {
	uint64_t latency_ns;
	bool read_zeroes;
};

static struct null *null_of(const struct blk *b)
{
	return b->state;
}

/* "null-co://" and nothing behind it. */
static int null_parse_name(const char *name, struct opts *opts, struct err *err)
{
	const char *rest = strchr(name, ':');

	(void)opts;
	if (rest && (strcmp(rest, "://") == 0 || strcmp(rest, ":") == 0))
		return 0;
	return err_set(err, EINVAL,
		"The only allowed filename for this driver is '%.*s://'",
		(int)(rest ? rest - name : 0), name);
}

static int null_open(struct blk *b, struct opts *opts, struct err *err)
{
	struct null *n = null_of(b);
	int ret;

	b->size = GiB;
	n->read_zeroes = true;
	if (!b->filename && asprintf(&b->filename, "%s://", b->drv->name) < 0) {
		b->filename = NULL;
		return err_errno(err, ENOMEM, "%s", b->drv->name);
	}
	ret = opts_take_size(opts, "size", &b->size, err);
	if (ret == 0)
		ret = opts_take_u64(opts, "latency-ns", &n->latency_ns, err);
	if (ret == 0)
		ret = opts_take_bool(opts, "read-zeroes", &n->read_zeroes, err);
	if (ret == 0 && b->size > BLK_MAX_SIZE)
		ret = err_set(err, EFBIG, "%s: the size is too large", b->drv->name);
	b->caps |= BLK_CAP_FUA | BLK_CAP_ZERO_UNMAP;
	return ret;
}

static int null_wait(struct blk *b)
{
	struct null *n = null_of(b);

	if (n->latency_ns)
		task_sleep_ns(n->latency_ns);
	return 0;
}

static int null_preadv(
	struct blk *b, uint64_t offset, uint64_t bytes, const struct iovec *iov, int niov)
{
	(void)offset;
	if (null_of(b)->read_zeroes)
		iov_fill(iov, niov, 0, 0, bytes);
	return null_wait(b);
}

static int null_pwritev(struct blk *b, uint64_t offset, uint64_t bytes,
	const struct iovec *iov, int niov, unsigned flags)
{
	(void)offset, (void)bytes, (void)iov, (void)niov, (void)flags;
	return null_wait(b);
}

static int null_zero(struct blk *b, uint64_t offset, uint64_t bytes, unsigned flags)
{
	(void)offset, (void)bytes, (void)flags;
	return null_wait(b);
}

static int null_discard(struct blk *b, uint64_t offset, uint64_t bytes)
{
	(void)offset, (void)bytes;
	return null_wait(b);
}

static int null_extent(
	struct blk *b, uint64_t offset, uint64_t bytes, struct blk_extent *out)
{
	out->bytes = bytes;
	out->flags = (null_of(b)->read_zeroes ? BLK_EXT_ZERO : BLK_EXT_DATA) |
		     BLK_EXT_ALLOCATED | BLK_EXT_HOST;
	out->host = b;
	out->host_offset = offset;
	return 0;
}

static int null_resize(
	struct blk *b, uint64_t bytes, enum blk_prealloc prealloc, struct err *err)
{
	(void)prealloc, (void)err;
	blk_set_size(b, bytes);
	return 0;
}

static int64_t null_allocated(struct blk *b)
{
	(void)b;
	return 0;
}

/* clang-format off: the names differ, nothing else does */
#define NULL_OPERATIONS                                                                  \
	.kind = BLK_PROTOCOL, .state_bytes = sizeof(struct null),                        \
	.parse_name = null_parse_name, .open = null_open, .preadv = null_preadv,         \
	.pwritev = null_pwritev, .flush = null_wait, .zero = null_zero,                  \
	.discard = null_discard, .extent = null_extent, .resize = null_resize,           \
	.allocated = null_allocated
/* clang-format on */

static const char *const null_co_schemes[] = {"null-co", NULL};
static const char *const null_aio_schemes[] = {"null-aio", NULL};

const struct blk_driver blk_null_co_driver = {
	.name = "null-co",
	.schemes = null_co_schemes,
	NULL_OPERATIONS,
};

const struct blk_driver blk_null_aio_driver = {
	.name = "null-aio",
	.schemes = null_aio_schemes,
	NULL_OPERATIONS,
};
