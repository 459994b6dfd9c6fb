/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The fault instrument: a disk that fails when told to. Operations are counted by kind;
 * the plan names one by its number, and it fails, once or with all that follow, before,
 * half-way through or after it took effect. A limit makes the disk full at a size.
 *
 *	driver=fault,file.filename=x,ops=write+flush,fail-at=3,errno=ENOSPC,sticky=on
 *	driver=fault,file.filename=x,limit=1M
 */
#include "backends/fault.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "backends/filter.h"
#include "base/iov.h"
#include "base/math.h"
#include "base/size.h"

#define KINDS 6

struct fault {
	pthread_mutex_t lock; /* over all below; never held across an operation */
	struct fault_plan plan;
	uint64_t matched; /* operations the plan has counted */
	uint64_t limit;
	uint64_t count[KINDS], hits;
};

static const char *const kind_names[KINDS + 2] = {
	"read", "write", "flush", "zero", "discard", "resize", "any", NULL};

extern const struct blk_driver blk_fault_driver;

static struct fault *fault_of(struct blk *b)
{
	return b->state;
}

/* ---- deciding -------------------------------------------------------------------- */

/* Counts one operation of `kind` that would leave the child `end` bytes long. 0: let it
 * pass; else the errno value, and what it shall do first. */
static int decide(
	struct blk *b, enum fault_op kind, uint64_t end, enum fault_effect *effect)
{
	struct fault *f = fault_of(b);
	const struct fault_plan *p = &f->plan;
	int error = 0;

	*effect = FAULT_NONE;
	pthread_mutex_lock(&f->lock);
	f->count[__builtin_ctz(kind)]++;
	if (p->at && p->ops & kind) {
		f->matched++;
		if (f->matched == p->at || (f->matched > p->at && p->sticky)) {
			error = p->error;
			*effect = p->effect;
		}
	}
	if (!error && end > f->limit && end > blk_size(b))
		error = ENOSPC;
	f->hits += error != 0;
	pthread_mutex_unlock(&f->lock);
	return error;
}

/* ---- operations ------------------------------------------------------------------ */

static int fault_preadv(
	struct blk *b, uint64_t offset, uint64_t bytes, const struct iovec *iov, int niov)
{
	enum fault_effect effect;
	int error = decide(b, FAULT_READ, 0, &effect);

	return error ? -error : filter_preadv(b, offset, bytes, iov, niov);
}

static void write_half(
	struct blk *b, uint64_t offset, uint64_t bytes, const struct iovec *iov, int niov)
{
	uint64_t half = round_down(bytes / 2, MAX(b->limits.request_align, BLK_SECTOR));
	struct iovec *part = malloc(niov * sizeof(*part));

	if (part && half)
		filter_pwritev(
			b, offset, half, part, iov_slice(part, iov, niov, 0, half), 0);
	free(part);
}

static int fault_pwritev(struct blk *b, uint64_t offset, uint64_t bytes,
	const struct iovec *iov, int niov, unsigned flags)
{
	enum fault_effect effect;
	int error = decide(b, FAULT_WRITE, offset + bytes, &effect);

	if (!error)
		return filter_pwritev(b, offset, bytes, iov, niov, flags);
	if (effect == FAULT_HALF)
		write_half(b, offset, bytes, iov, niov);
	if (effect == FAULT_ALL)
		filter_pwritev(b, offset, bytes, iov, niov, flags);
	return -error;
}

static int fault_flush(struct blk *b)
{
	enum fault_effect effect;
	int error = decide(b, FAULT_FLUSH, 0, &effect);

	if (!error || effect == FAULT_ALL) {
		int ret = filter_flush(b);

		return error ? -error : ret;
	}
	return -error;
}

static int fault_zero(struct blk *b, uint64_t offset, uint64_t bytes, unsigned flags)
{
	enum fault_effect effect;
	int error = decide(b, FAULT_ZERO, offset + bytes, &effect);

	if (!error)
		return filter_zero(b, offset, bytes, flags);
	if (effect == FAULT_ALL)
		filter_zero(b, offset, bytes, flags);
	return -error;
}

static int fault_discard(struct blk *b, uint64_t offset, uint64_t bytes)
{
	enum fault_effect effect;
	int error = decide(b, FAULT_DISCARD, 0, &effect);

	if (!error)
		return filter_discard(b, offset, bytes);
	if (effect == FAULT_ALL)
		filter_discard(b, offset, bytes);
	return -error;
}

static int fault_resize(
	struct blk *b, uint64_t bytes, enum blk_prealloc prealloc, struct err *err)
{
	enum fault_effect effect;
	int error = decide(b, FAULT_RESIZE, bytes, &effect);

	if (!error)
		return filter_resize(b, bytes, prealloc, err);
	if (effect == FAULT_ALL)
		filter_resize(b, bytes, prealloc, NULL);
	return err_errno(
		err, error, "Failed to resize the file (a fault made on purpose)");
}

/* A copy counts as a write of its target. */
static int fault_copy_range(struct blk *src, uint64_t src_offset, struct blk *dst,
	uint64_t dst_offset, uint64_t bytes, unsigned flags)
{
	enum fault_effect effect;
	int error = decide(src, FAULT_READ, 0, &effect);

	if (!error)
		error = decide(dst, FAULT_WRITE, dst_offset + bytes, &effect);
	return error ? -error
		     : filter_copy_range(src, src_offset, dst, dst_offset, bytes, flags);
}

/* ---- telling it what to do ------------------------------------------------------- */

struct blk *fault_find(struct blk *root)
{
	return filter_find(root, &blk_fault_driver);
}

void fault_arm(struct blk *b, const struct fault_plan *plan)
{
	struct fault *f = fault_of(b);

	pthread_mutex_lock(&f->lock);
	f->plan = *plan;
	f->matched = 0;
	pthread_mutex_unlock(&f->lock);
}

void fault_disarm(struct blk *b)
{
	fault_arm(b, &(struct fault_plan){0});
}

void fault_set_limit(struct blk *b, uint64_t bytes)
{
	struct fault *f = fault_of(b);

	pthread_mutex_lock(&f->lock);
	f->limit = bytes;
	pthread_mutex_unlock(&f->lock);
}

uint64_t fault_count(struct blk *b, unsigned ops)
{
	struct fault *f = fault_of(b);
	uint64_t n = 0;

	pthread_mutex_lock(&f->lock);
	for (int i = 0; i < KINDS; i++)
		n += ops & 1u << i ? f->count[i] : 0;
	pthread_mutex_unlock(&f->lock);
	return n;
}

uint64_t fault_hits(struct blk *b)
{
	struct fault *f = fault_of(b);
	uint64_t n;

	pthread_mutex_lock(&f->lock);
	n = f->hits;
	pthread_mutex_unlock(&f->lock);
	return n;
}

/* ---- options --------------------------------------------------------------------- */

/* "write+flush" */
static int parse_ops(const char *text, unsigned *out, struct err *err)
{
	unsigned ops = 0;

	for (const char *p = text; *p;) {
		size_t len = strcspn(p, "+");
		int i = 0;

		while (kind_names[i] && (strlen(kind_names[i]) != len ||
						strncmp(kind_names[i], p, len) != 0))
			i++;
		if (!kind_names[i])
			return err_set(
				err, EINVAL, "fault: unknown operation in ops=%s", text);
		ops |= i == KINDS ? (unsigned)FAULT_ANY : 1u << i;
		p += len + (p[len] == '+');
	}
	*out = ops;
	return 0;
}

/* A name of errno(3) that disks use, or its number. */
static int parse_errno(const char *text, int *out, struct err *err)
{
	static const struct {
		const char *name;
		int value;
	} known[] = {{"EIO", EIO}, {"ENOSPC", ENOSPC}, {"EDQUOT", EDQUOT},
		{"EFBIG", EFBIG}, {"EACCES", EACCES}, {"EROFS", EROFS},
		{"ENOMEM", ENOMEM}, {"ETIMEDOUT", ETIMEDOUT}, {"ENXIO", ENXIO},
		{"ENODEV", ENODEV}};
	uint64_t n;

	for (size_t i = 0; i < ARRAY_LEN(known); i++) {
		if (strcmp(text, known[i].name) == 0) {
			*out = known[i].value;
			return 0;
		}
	}
	if (u64_parse(text, &n) < 0 || n == 0 || n >= 4096)
		return err_set(err, EINVAL, "fault: unknown error errno=%s", text);
	*out = n;
	return 0;
}

static int take_plan(struct opts *opts, struct fault *f, struct err *err)
{
	static const char *const effects[] = {"none", "half", "all", NULL};
	const char *ops = opts_take(opts, "ops"), *error = opts_take(opts, "errno");
	int effect = FAULT_NONE, ret = 0;

	f->limit = UINT64_MAX;
	f->plan = (struct fault_plan){.ops = FAULT_ANY, .error = EIO};
	if (ops)
		ret = parse_ops(ops, &f->plan.ops, err);
	if (ret == 0 && error)
		ret = parse_errno(error, &f->plan.error, err);
	if (ret == 0)
		ret = opts_take_u64(opts, "fail-at", &f->plan.at, err);
	if (ret == 0)
		ret = opts_take_bool(opts, "sticky", &f->plan.sticky, err);
	if (ret == 0)
		ret = opts_take_enum(opts, "effect", effects, &effect, err);
	if (ret == 0)
		ret = opts_take_size(opts, "limit", &f->limit, err);
	f->plan.effect = effect;
	return ret;
}

static int fault_open(struct blk *b, struct opts *opts, struct err *err)
{
	struct fault *f = fault_of(b);
	int ret = take_plan(opts, f, err);

	if (ret == 0)
		ret = filter_open(b, opts, err);
	if (ret == 0)
		pthread_mutex_init(&f->lock, NULL);
	return ret;
}

static int fault_close(struct blk *b)
{
	pthread_mutex_destroy(&fault_of(b)->lock);
	return 0;
}

const struct blk_driver blk_fault_driver = {
	.name = "fault",
	.kind = BLK_FILTER,
	.state_bytes = sizeof(struct fault),
	.open = fault_open,
	.close = fault_close,
	.preadv = fault_preadv,
	.pwritev = fault_pwritev,
	.flush = fault_flush,
	.zero = fault_zero,
	.discard = fault_discard,
	.extent = filter_extent,
	.resize = fault_resize,
	.copy_range = fault_copy_range,
	.allocated = filter_allocated,
};
