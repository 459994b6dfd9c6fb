/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The trace instrument: what a disk is asked, in the order it answers. One line for each
 * operation to log= (a file that is replaced), a callback for programs, and counters.
 *
 *	1234.000056789 write 65536 4096 fua 0 18250
 *
 * is when it began (CLOCK_MONOTONIC), what, offset, bytes, flags or "-", result and the
 * nanoseconds it took.
 */
#include "backends/trace.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "backends/filter.h"
#include "base/math.h"

struct trace {
	pthread_mutex_t lock; /* over all below; never held across an operation */
	FILE *log;
	void (*fn)(void *arg, const struct trace_op *op);
	void *arg;
	struct trace_counter counters[TRACE_KINDS];
};

static const char *const kind_names[TRACE_KINDS] = {
	"read", "write", "flush", "zero", "discard", "resize", "copy"};

extern const struct blk_driver blk_trace_driver;

static struct trace *trace_of(struct blk *b)
{
	return b->state;
}

/* ---- telling --------------------------------------------------------------------- */

static void print_op(FILE *log, const struct trace_op *op)
{
	static const struct {
		unsigned flag;
		const char *name;
	} names[] = {{BLK_FUA, "fua"}, {BLK_MAY_UNMAP, "unmap"},
		{BLK_NO_FALLBACK, "fast"}, {BLK_COMPRESSED, "compressed"}};
	const char *between = "";

	fprintf(log, "%llu.%09llu %s %llu %llu ",
		(unsigned long long)op->start_ns / 1000000000u,
		(unsigned long long)op->start_ns % 1000000000u, kind_names[op->kind],
		(unsigned long long)op->offset, (unsigned long long)op->bytes);
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		if (op->flags & names[i].flag) {
			fprintf(log, "%s%s", between, names[i].name);
			between = ",";
		}
	}
	fprintf(log, "%s %d %llu\n", *between ? "" : "-", op->result,
		(unsigned long long)op->ns);
}

static int ended(struct blk *b, struct trace_op *op, int result)
{
	struct trace *t = trace_of(b);
	struct trace_counter *c = &t->counters[op->kind];

	op->ns = clock_ns() - op->start_ns;
	op->result = result;
	pthread_mutex_lock(&t->lock);
	c->ops++;
	c->bytes += result == 0 ? op->bytes : 0;
	c->failed += result != 0;
	c->ns += op->ns;
	if (t->log)
		print_op(t->log, op);
	if (t->fn)
		t->fn(t->arg, op);
	pthread_mutex_unlock(&t->lock);
	return result;
}

static struct trace_op begun(
	enum trace_kind kind, uint64_t offset, uint64_t bytes, unsigned flags)
{
	return (struct trace_op){.kind = kind,
		.offset = offset,
		.bytes = bytes,
		.flags = flags,
		.start_ns = clock_ns()};
}

/* ---- operations ------------------------------------------------------------------ */

static int trace_preadv(
	struct blk *b, uint64_t offset, uint64_t bytes, const struct iovec *iov, int niov)
{
	struct trace_op op = begun(TRACE_READ, offset, bytes, 0);

	return ended(b, &op, filter_preadv(b, offset, bytes, iov, niov));
}

static int trace_pwritev(struct blk *b, uint64_t offset, uint64_t bytes,
	const struct iovec *iov, int niov, unsigned flags)
{
	struct trace_op op = begun(TRACE_WRITE, offset, bytes, flags);

	return ended(b, &op, filter_pwritev(b, offset, bytes, iov, niov, flags));
}

static int trace_flush(struct blk *b)
{
	struct trace_op op = begun(TRACE_FLUSH, 0, 0, 0);

	return ended(b, &op, filter_flush(b));
}

static int trace_zero(struct blk *b, uint64_t offset, uint64_t bytes, unsigned flags)
{
	struct trace_op op = begun(TRACE_ZERO, offset, bytes, flags);

	return ended(b, &op, filter_zero(b, offset, bytes, flags));
}

static int trace_discard(struct blk *b, uint64_t offset, uint64_t bytes)
{
	struct trace_op op = begun(TRACE_DISCARD, offset, bytes, 0);

	return ended(b, &op, filter_discard(b, offset, bytes));
}

static int trace_resize(
	struct blk *b, uint64_t bytes, enum blk_prealloc prealloc, struct err *err)
{
	struct trace_op op = begun(TRACE_RESIZE, 0, bytes, 0);

	return ended(b, &op, filter_resize(b, bytes, prealloc, err));
}

static int trace_copy_range(struct blk *src, uint64_t src_offset, struct blk *dst,
	uint64_t dst_offset, uint64_t bytes, unsigned flags)
{
	struct trace_op op = begun(TRACE_COPY, dst_offset, bytes, flags);

	return ended(dst, &op,
		filter_copy_range(src, src_offset, dst, dst_offset, bytes, flags));
}

/* ---- the node -------------------------------------------------------------------- */

struct blk *trace_find(struct blk *root)
{
	return filter_find(root, &blk_trace_driver);
}

void trace_set_callback(
	struct blk *b, void (*fn)(void *arg, const struct trace_op *op), void *arg)
{
	struct trace *t = trace_of(b);

	pthread_mutex_lock(&t->lock);
	t->fn = fn;
	t->arg = arg;
	pthread_mutex_unlock(&t->lock);
}

void trace_counters(struct blk *b, struct trace_counter out[TRACE_KINDS])
{
	struct trace *t = trace_of(b);

	pthread_mutex_lock(&t->lock);
	for (int i = 0; i < TRACE_KINDS; i++)
		out[i] = t->counters[i];
	pthread_mutex_unlock(&t->lock);
}

static int trace_open(struct blk *b, struct opts *opts, struct err *err)
{
	struct trace *t = trace_of(b);
	const char *path = opts_take(opts, "log");
	int ret = filter_open(b, opts, err);

	if (ret < 0)
		return ret;
	if (path) {
		t->log = fopen(path, "we");
		if (!t->log)
			return err_errno(err, errno, "trace: could not open '%s'", path);
	}
	pthread_mutex_init(&t->lock, NULL);
	return 0;
}

/* A log that is not whole must not pass for one. */
static int trace_close(struct blk *b)
{
	struct trace *t = trace_of(b);
	int ret = 0;

	if (t->log) {
		ret = ferror(t->log) ? -EIO : 0;
		if (fclose(t->log) != 0)
			ret = -errno;
	}
	pthread_mutex_destroy(&t->lock);
	return ret;
}

const struct blk_driver blk_trace_driver = {
	.name = "trace",
	.kind = BLK_FILTER,
	.state_bytes = sizeof(struct trace),
	.open = trace_open,
	.close = trace_close,
	.preadv = trace_preadv,
	.pwritev = trace_pwritev,
	.flush = trace_flush,
	.zero = trace_zero,
	.discard = trace_discard,
	.extent = filter_extent,
	.resize = trace_resize,
	.copy_range = trace_copy_range,
	.allocated = filter_allocated,
};
