/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The crash instrument, its recording half (replay is in crash_replay.c). Operations are
 * passed on; each that changes the disk is noted when it begins, with its data, and when
 * it ends. Reads are not of interest. Copies are refused, so that they come as reads and
 * writes.
 *
 *	driver=crash,file.filename=x            the log is in memory (crash_log_get)
 *	driver=crash,file.filename=x,log=PATH   and also in a file (crash_log_load)
 *
 * The file: a header of 16 bytes, "BYRECRSH" and the version as le64, then for each event
 * a record, and after the record of a write's beginning its data.
 *
 *	at  bytes
 *	 0  1  type: 1 begin, 2 end
 *	 1  1  kind (enum crash_kind)
 *	 2  1  1: FUA
 *	 4  4  result, negative errno (end)
 *	 8  8  number of the operation, from 0, in the order they began
 *	16  8  offset (begin)
 *	24  8  bytes (begin)
 *
 * A log cut off in a record or its data ends before it.
 */
#include <assert.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backends/crash_log.h"
#include "backends/filter.h"
#include "base/endian.h"
#include "base/iov.h"
#include "base/math.h"

#define LOG_MAGIC     "BYRECRSH"
#define LOG_VERSION   1
#define LOG_MAX_BYTES (4 * GiB) /* of recorded data in memory */
#define LOG_MAX_OPS   (1u << 24)

enum { RECORD_BEGIN = 1, RECORD_END = 2 };

struct log_header {
	uint8_t magic[8];
	le64 version;
};

struct log_record {
	uint8_t type, kind, fua, unused;
	le32 result;
	le64 op, offset, bytes;
};

_Static_assert(sizeof(struct log_header) == 16, "log header");
_Static_assert(sizeof(struct log_record) == 32, "log record");

struct crash {
	struct crash_log *log;
	FILE *file;  /* under the log's lock */
	bool broken; /* the file ends in half a record: nothing more is let through */
};

extern const struct blk_driver blk_crash_driver;

static struct crash *crash_of(const struct blk *b)
{
	return b->state;
}

/* ---- the log --------------------------------------------------------------------- */

static struct crash_log *log_new(void)
{
	struct crash_log *log = calloc(1, sizeof(*log));

	if (log) {
		pthread_mutex_init(&log->lock, NULL);
		atomic_store(&log->users, 1);
	}
	return log;
}

void crash_log_put(struct crash_log *log)
{
	if (!log || atomic_fetch_sub(&log->users, 1) != 1)
		return;
	for (size_t i = 0; i < log->n; i++)
		free((void *)log->ops[i].data);
	free(log->ops);
	pthread_mutex_destroy(&log->lock);
	free(log);
}

struct blk *crash_find(struct blk *root)
{
	return filter_find(root, &blk_crash_driver);
}

struct crash_log *crash_log_get(struct blk *b)
{
	struct crash_log *log = crash_of(b)->log;

	atomic_fetch_add(&log->users, 1);
	return log;
}

uint64_t crash_events(const struct crash_log *log)
{
	return log->events;
}

const struct crash_op *crash_ops(const struct crash_log *log, size_t *n)
{
	*n = log->n;
	return log->ops;
}

/* Adds op, whose data the log owns from now on where it returns 0. The lock is held. */
static int log_begin(struct crash_log *log, struct crash_op *op)
{
	uint64_t data_bytes = op->data ? op->bytes : 0;

	if (log->n == log->room) {
		size_t room = log->room ? log->room * 2 : 256;
		struct crash_op *ops = realloc(log->ops, room * sizeof(*ops));

		if (!ops)
			return -ENOMEM;
		log->ops = ops;
		log->room = room;
	}
	if (log->n >= LOG_MAX_OPS || data_bytes > LOG_MAX_BYTES - log->data_bytes)
		return -ENOSPC;
	log->data_bytes += data_bytes;
	op->begin = log->events++;
	op->end = CRASH_NEVER;
	log->ops[log->n++] = *op;
	return 0;
}

static void log_end(struct crash_log *log, size_t i, int result)
{
	assert(i < log->n && log->ops[i].end == CRASH_NEVER);
	log->ops[i].end = log->events++;
	log->ops[i].result = result;
}

/* ---- the log file ---------------------------------------------------------------- */

static int file_begin(FILE *f, size_t i, const struct crash_op *op)
{
	struct log_record r = {.type = RECORD_BEGIN,
		.kind = op->kind,
		.fua = op->fua,
		.op = le64_put(i),
		.offset = le64_put(op->offset),
		.bytes = le64_put(op->bytes)};

	if (fwrite(&r, sizeof(r), 1, f) != 1)
		return -EIO;
	return !op->data || fwrite(op->data, 1, op->bytes, f) == op->bytes ? 0 : -EIO;
}

static int file_end(FILE *f, size_t i, int result)
{
	struct log_record r = {.type = RECORD_END,
		.op = le64_put(i),
		.result = le32_put((uint32_t)result)};

	/* Written out with each end: what the recorded program was told must not be
	 * missing from the log where it then dies. */
	return fwrite(&r, sizeof(r), 1, f) == 1 && fflush(f) == 0 ? 0 : -EIO;
}

static int file_open_log(FILE **out, const char *path, struct err *err)
{
	struct log_header h = {.version = le64_put(LOG_VERSION)};
	FILE *f = fopen(path, "we");

	if (!f)
		return err_errno(err, errno, "crash: could not open '%s'", path);
	memcpy(h.magic, LOG_MAGIC, sizeof(h.magic));
	if (fwrite(&h, sizeof(h), 1, f) != 1 || fflush(f) != 0) {
		fclose(f);
		return err_set(err, EIO, "crash: could not write to '%s'", path);
	}
	*out = f;
	return 0;
}

/* A beginning read from a file; false where the file ends in it. */
static bool load_begin(
	FILE *f, uint64_t left, const struct log_record *r, struct crash_op *op)
{
	uint8_t *data = NULL;

	*op = (struct crash_op){.kind = r->kind,
		.fua = r->fua,
		.offset = le64_get(r->offset),
		.bytes = le64_get(r->bytes)};
	if (op->kind != CRASH_WRITE)
		return true;
	if (op->bytes > left)
		return false;
	data = malloc(op->bytes);
	if (!data || fread(data, 1, op->bytes, f) != op->bytes) {
		free(data);
		return false;
	}
	op->data = data;
	return true;
}

static int load_record(struct crash_log *log, FILE *f, uint64_t left,
	const struct log_record *r, bool *more, struct err *err)
{
	uint64_t i = le64_get(r->op);
	struct crash_op op;
	int ret;

	if (r->type == RECORD_END && i < log->n && log->ops[i].end == CRASH_NEVER) {
		int32_t result = (int32_t)le32_get(r->result);

		log_end(log, i, result <= 0 && result > -4096 ? result : -EIO);
		return 0;
	}
	if (r->type != RECORD_BEGIN || i != log->n || r->kind >= CRASH_KINDS ||
		le64_get(r->offset) > BLK_MAX_SIZE || le64_get(r->bytes) > BLK_MAX_SIZE)
		return err_set(err, EINVAL, "event %llu makes no sense",
			(unsigned long long)log->events);
	*more = load_begin(f, left, r, &op);
	if (!*more)
		return 0;
	ret = log_begin(log, &op);
	if (ret < 0) {
		free((void *)op.data);
		return err_errno(
			err, -ret, "event %llu", (unsigned long long)log->events);
	}
	return 0;
}

static int load_all(struct crash_log *log, FILE *f, struct err *err)
{
	struct log_header h;
	struct log_record r;
	bool more = true;
	int ret = 0;
	off_t bytes;

	if (fseeko(f, 0, SEEK_END) != 0 || (bytes = ftello(f)) < 0 ||
		fseeko(f, 0, SEEK_SET) != 0)
		return err_errno(err, errno, "cannot be read");
	if (fread(&h, sizeof(h), 1, f) != 1 ||
		memcmp(h.magic, LOG_MAGIC, sizeof(h.magic)) != 0 ||
		le64_get(h.version) != LOG_VERSION)
		return err_set(err, EINVAL, "is not a log of the crash driver");
	while (ret == 0 && more && fread(&r, sizeof(r), 1, f) == 1)
		ret = load_record(log, f, bytes - ftello(f), &r, &more, err);
	return ret;
}

int crash_log_load(struct crash_log **out, const char *path, struct err *err)
{
	struct crash_log *log;
	FILE *f = fopen(path, "re");
	int ret;

	if (!f)
		return err_errno(err, errno, "%s", path);
	log = log_new();
	ret = log ? load_all(log, f, err) : err_errno(err, ENOMEM, "log");
	fclose(f);
	if (ret < 0) {
		crash_log_put(log);
		return err_prefix(err, "%s", path);
	}
	*out = log;
	return 0;
}

/* ---- recording ------------------------------------------------------------------- */

/* 0 with the operation's number, or -errno and then it must not go on. */
static int begin(
	struct blk *b, struct crash_op op, const struct iovec *iov, int niov, size_t *i)
{
	struct crash *c = crash_of(b);
	uint8_t *data = NULL;
	int ret;

	if (op.kind == CRASH_WRITE) {
		data = malloc(op.bytes);
		if (!data)
			return -ENOMEM;
		iov_to_buf(iov, niov, 0, data, op.bytes);
		op.data = data;
	}
	pthread_mutex_lock(&c->log->lock);
	ret = log_begin(c->log, &op);
	if (ret == 0) {
		*i = c->log->n - 1;
		if (c->file && !c->broken)
			c->broken = file_begin(c->file, *i, &op) < 0;
		if (c->broken) {
			ret = -EIO;
			log_end(c->log, *i, ret);
		}
	} else {
		free(data);
	}
	pthread_mutex_unlock(&c->log->lock);
	return ret;
}

static int end(struct blk *b, size_t i, int result)
{
	struct crash *c = crash_of(b);

	pthread_mutex_lock(&c->log->lock);
	log_end(c->log, i, result);
	if (c->file && !c->broken)
		c->broken = file_end(c->file, i, result) < 0;
	if (c->broken && result == 0)
		result = -EIO;
	pthread_mutex_unlock(&c->log->lock);
	return result;
}

static int crash_pwritev(struct blk *b, uint64_t offset, uint64_t bytes,
	const struct iovec *iov, int niov, unsigned flags)
{
	struct crash_op op = {.kind = CRASH_WRITE,
		.offset = offset,
		.bytes = bytes,
		.fua = flags & BLK_FUA};
	size_t i;
	int ret = begin(b, op, iov, niov, &i);

	return ret ? ret : end(b, i, filter_pwritev(b, offset, bytes, iov, niov, flags));
}

static int crash_flush(struct blk *b)
{
	size_t i;
	int ret = begin(b, (struct crash_op){.kind = CRASH_FLUSH}, NULL, 0, &i);

	return ret ? ret : end(b, i, filter_flush(b));
}

static int crash_zero(struct blk *b, uint64_t offset, uint64_t bytes, unsigned flags)
{
	struct crash_op op = {.kind = CRASH_ZERO,
		.offset = offset,
		.bytes = bytes,
		.fua = flags & BLK_FUA};
	size_t i;
	int ret = begin(b, op, NULL, 0, &i);

	return ret ? ret : end(b, i, filter_zero(b, offset, bytes, flags));
}

static int crash_discard(struct blk *b, uint64_t offset, uint64_t bytes)
{
	struct crash_op op = {.kind = CRASH_DISCARD, .offset = offset, .bytes = bytes};
	size_t i;
	int ret = begin(b, op, NULL, 0, &i);

	return ret ? ret : end(b, i, filter_discard(b, offset, bytes));
}

static int crash_resize(
	struct blk *b, uint64_t bytes, enum blk_prealloc prealloc, struct err *err)
{
	struct crash_op op = {.kind = CRASH_RESIZE, .bytes = bytes};
	size_t i;
	int ret = begin(b, op, NULL, 0, &i);

	if (ret)
		return err_errno(err, -ret, "crash: could not record");
	ret = filter_resize(b, bytes, prealloc, err);
	return end(b, i, ret) == ret ? ret : err_set(err, EIO, "crash: could not record");
}

/* ---- the node -------------------------------------------------------------------- */

static int crash_open(struct blk *b, struct opts *opts, struct err *err)
{
	struct crash *c = crash_of(b);
	const char *path = opts_take(opts, "log");
	int ret = filter_open(b, opts, err);

	if (ret == 0 && path)
		ret = file_open_log(&c->file, path, err);
	if (ret < 0)
		return ret;
	c->log = log_new();
	if (c->log)
		return 0;
	if (c->file)
		fclose(c->file);
	return err_errno(err, ENOMEM, "crash");
}

static int crash_close(struct blk *b)
{
	struct crash *c = crash_of(b);
	int ret = c->file && fclose(c->file) != 0 ? -errno : 0;

	crash_log_put(c->log);
	return ret;
}

const struct blk_driver blk_crash_driver = {
	.name = "crash",
	.kind = BLK_FILTER,
	.state_bytes = sizeof(struct crash),
	.open = crash_open,
	.close = crash_close,
	.preadv = filter_preadv,
	.pwritev = crash_pwritev,
	.flush = crash_flush,
	.zero = crash_zero,
	.discard = crash_discard,
	.extent = filter_extent,
	.resize = crash_resize,
	.allocated = filter_allocated,
};
