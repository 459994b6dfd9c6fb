/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The copy engine.
 *
 * Idea: a job is cut into pieces, taken in order under `take` by a few tasks that are
 * spread over a few loops (threads), so that one processor reads and looks for zeros
 * while another writes. A piece is of one kind: data (read, searched for zeros, written),
 * zero (nothing is read), or skipped (the target's backing file has it). Extents are
 * asked for in ranges as long as the source cares to answer and shared by all tasks;
 * neighbours of one kind become one piece, however the source cuts them.
 *
 * Order: a format that allocates as writes come would lay the disk out as chance has it.
 * There (`in_order`) pieces that write carry a sequence number and wait for their turn;
 * the tasks behind read ahead meanwhile, and compress ahead too (blk_pack).
 *
 * Invariants:
 * 1. Every byte of [0, total) belongs to exactly one piece.
 * 2. A piece with a turn passes it on, failed or not: nobody waits for ever.
 * 3. Sequence numbers in flight lie within COPY_MAX_PARALLEL of each other, since each
 * task holds one piece and gives it back after its turn; so turn[] has one waiter a slot.
 * 4. After the first failure no piece is taken and none is written.
 *
 * Lock order: take, then turn_lock; neither is held while data is read or written.
 */
#include "block/copy.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/aio.h"
#include "base/iov.h"
#include "base/math.h"
#include "base/task.h"
#include "block/driver.h"
#include "block/format.h"

#define COPY_DEFAULT_PARALLEL 8u
#define COPY_MAX_LOOPS        4u
/* Small enough that a piece is still in the processor's cache when it is searched for
 * zeros and written, large enough that a request's fixed cost does not show. */
#define COPY_PIECE_BYTES (1 * MiB)
/* Compressed: the clusters of a piece, each of which may be a run of its own; large
 * enough that handing it to a worker does not show. */
#define COPY_PIECE_CLUSTERS    64u
#define COPY_PACK_BYTES        (512 * KiB)
#define COPY_PACK_PARALLEL     6u
#define COPY_OFFLOAD_BYTES     (64 * MiB)
#define COPY_ZERO_PIECE_BYTES  (1 * GiB)
#define COPY_SCAN_BYTES        4096u
#define COPY_CANCEL_CHECK_NSEC 100000000ull

enum piece_kind { PIECE_DATA, PIECE_ZERO, PIECE_SKIP };

struct piece {
	uint64_t offset, bytes;
	enum piece_kind kind;
	bool has_turn;
	uint64_t seq; /* where has_turn */
};

struct copy {
	struct copy_job *job;
	uint64_t total;
	uint64_t align;       /* cut pieces here; the target's cluster */
	uint64_t backed;      /* the target's backing file shows through below this */
	uint64_t piece_bytes; /* of data pieces, and of every task's buffer */
	uint64_t scan_bytes;  /* zeros are looked for in units of this */
	unsigned parallel;
	bool in_order;
	bool split_clusters; /* a cluster may be of several pieces: not when compressing
			      */
	atomic_bool offload; /* copy_range has not refused yet */

	struct task_mutex take;
	uint64_t next; /* first byte nobody has taken */
	size_t source; /* the source that `known` lies in */
	uint64_t source_start;
	uint64_t known; /* up to here kinds are known: [next, known) is all `kind` */
	enum piece_kind kind; /* where next < known */
	uint64_t seq_taken;
	uint64_t rate_free_ns; /* when the rate limit lets the next piece start */

	struct task_mutex turn_lock;
	uint64_t seq_turn; /* the piece that may write */
	struct task_cond turn[COPY_MAX_PARALLEL];
	uint64_t done;
	struct err err; /* of the first failure */
	atomic_int ret; /* 0 while all is well; set under turn_lock */
};

/* A part of a piece to be compressed; packed NULL: zeros. */
struct pack_run {
	uint64_t offset, bytes;
	struct iovec iov;
	struct blk_packed *packed;
};

struct copy_task {
	struct copy *c;
	void *buf; /* piece_bytes */
	struct pack_run runs[COPY_PIECE_CLUSTERS];
	unsigned n_runs;
};

bool copy_starts_zero(const struct blk *dst)
{
	return (dst->caps & BLK_CAP_ZERO_INIT) != 0;
}

static bool cancelled(const struct copy *c)
{
	return c->job->cancel &&
	       atomic_load_explicit(c->job->cancel, memory_order_relaxed);
}

static bool stopped(const struct copy *c)
{
	return atomic_load_explicit(&c->ret, memory_order_relaxed) != 0;
}

/* Keeps the first failure. Returns ret. */
static int fail(
	struct copy *c, const struct blk *b, uint64_t offset, const char *what, int ret)
{
	assert(ret < 0);
	task_lock(&c->turn_lock);
	if (!stopped(c)) {
		if (ret == -ECANCELED)
			err_set(&c->err, ECANCELED, "interrupted at byte %" PRIu64,
				offset);
		else
			err_errno(&c->err, -ret, "%s: error while %s at byte %" PRIu64,
				blk_filename(b), what, offset);
		atomic_store(&c->ret, ret);
	}
	task_unlock(&c->turn_lock);
	return ret;
}

/*
 * Taking a piece: all of this under `take`.
 */

static enum piece_kind extent_kind(const struct copy *c, const struct blk_extent *ext)
{
	if (ext->flags & BLK_EXT_ZERO)
		return PIECE_ZERO;
	if (ext->flags & BLK_EXT_DATA)
		return PIECE_DATA;
	if (ext->flags & BLK_EXT_ALLOCATED)
		return PIECE_DATA;
	return c->job->base ? PIECE_SKIP : PIECE_ZERO;
}

/* Asks what lies at c->known, up to the end of its source. */
static int look_up(struct copy *c, enum piece_kind *kind, uint64_t *bytes)
{
	const struct copy_job *job = c->job;
	struct blk_extent ext;
	uint64_t pos, size;
	int ret;

	while (c->known - c->source_start >= job->sources[c->source].bytes) {
		c->source_start += job->sources[c->source].bytes;
		c->source++;
		assert(c->source < job->n_sources);
	}
	const struct copy_source *src = &job->sources[c->source];
	pos = c->known - c->source_start;
	size = MIN(blk_size(src->b), src->bytes);
	if (pos >= size) {
		*kind = PIECE_ZERO;
		*bytes = src->bytes - pos;
		return 0;
	}
	ret = blk_extent_above(src->b, job->base, pos, size - pos, &ext);
	if (ret < 0) {
		if (!job->salvage)
			return fail(c, src->b, pos, "asking for the extent", ret);
		*kind = PIECE_DATA;
		*bytes = MIN(size - pos, c->piece_bytes);
		return 0;
	}
	assert(ext.bytes > 0 && ext.bytes <= size - pos);
	*kind = extent_kind(c, &ext);
	*bytes = ext.bytes;
	return 0;
}

static uint64_t piece_limit(const struct copy *c, enum piece_kind kind)
{
	if (kind == PIECE_SKIP || (kind == PIECE_ZERO && c->job->min_sparse))
		return COPY_ZERO_PIECE_BYTES;
	if (kind == PIECE_DATA && atomic_load(&c->offload))
		return COPY_OFFLOAD_BYTES;
	return c->piece_bytes;
}

/*
 * Makes [next, known) one run of `kind`, long enough for a piece, or ending where another
 * kind (or the disk) begins. When compressing, runs change on cluster boundaries only: a
 * cluster that is not all of one kind is data.
 */
static int extend_run(struct copy *c)
{
	uint64_t limit, bytes = 0;
	enum piece_kind kind = PIECE_DATA;
	int ret;

	while (c->known < c->total) {
		uint64_t have = c->known - c->next;

		if (have && have >= piece_limit(c, c->kind))
			return 0;
		ret = look_up(c, &kind, &bytes);
		if (ret < 0)
			return ret;
		if (!have || kind == c->kind) {
			c->kind = kind;
			c->known += bytes;
			continue;
		}
		if (c->split_clusters || is_aligned(c->known, c->align))
			return 0;
		/* The kind changes inside a cluster. */
		limit = round_down(c->known, c->align);
		if (c->kind != PIECE_DATA && limit > c->next) {
			c->known =
				limit; /* asked for again when the cluster's turn comes */
			while (c->known < c->source_start) {
				c->source--;
				c->source_start -= c->job->sources[c->source].bytes;
			}
			return 0;
		}
		c->kind = PIECE_DATA;
		c->known = MIN(c->known + bytes, round_up(c->known, c->align));
	}
	return 0;
}

/* The bytes of the piece at c->next. Data is cut on cluster boundaries, zeros where the
 * target's backing file ends. */
static uint64_t piece_cut(const struct copy *c)
{
	uint64_t bytes = MIN(c->known - c->next, piece_limit(c, c->kind));
	uint64_t end = c->next + bytes;

	if (c->kind == PIECE_ZERO && c->next < c->backed)
		end = MIN(end, c->backed);
	else if (end < c->known && round_down(end, c->align) > c->next)
		end = round_down(end, c->align);
	return end - c->next;
}

static bool zero_needs_write(const struct copy *c, uint64_t offset)
{
	const struct copy_job *job = c->job;

	return !job->min_sparse || !job->target_is_zero || offset < c->backed;
}

/* How long the rate limit has this piece wait. */
static uint64_t rate_wait_ns(struct copy *c, const struct piece *p)
{
	uint64_t now, start, cost;

	if (!c->job->rate_bytes || piece_limit(c, p->kind) == COPY_ZERO_PIECE_BYTES)
		return 0;
	now = clock_ns();
	start = MAX(now, c->rate_free_ns);
	cost = (uint64_t)((double)p->bytes * 1e9 / (double)c->job->rate_bytes);
	if (add_overflow(start, cost, &c->rate_free_ns))
		c->rate_free_ns = UINT64_MAX;
	return start - now;
}

/* 1 with a piece, 0 at the end, -errno. */
static int take_piece(struct copy *c, struct piece *p, uint64_t *wait_ns)
{
	int ret = 0;

	task_lock(&c->take);
	if (cancelled(c))
		fail(c, c->job->dst, c->next, "copying", -ECANCELED);
	if (stopped(c) || c->next >= c->total)
		goto out;
	ret = extend_run(c);
	if (ret < 0)
		goto out;
	assert(c->known > c->next);
	p->offset = c->next;
	p->bytes = piece_cut(c);
	p->kind = c->kind;
	c->next += p->bytes;
	p->has_turn = c->in_order &&
		      (p->kind == PIECE_DATA ||
			      (p->kind == PIECE_ZERO && zero_needs_write(c, p->offset)));
	if (p->has_turn)
		p->seq = c->seq_taken++;
	*wait_ns = rate_wait_ns(c, p);
	ret = 1;
out:
	task_unlock(&c->take);
	return ret;
}

/*
 * Reading.
 */

/* Sector by sector where it has to be, halving down to the bad ones. */
static void salvage_read(struct copy *c, struct blk *b, uint64_t offset, uint8_t *buf,
	size_t bytes, uint64_t disk_offset)
{
	int ret = blk_pread(b, offset, buf, bytes);

	if (!ret)
		return;
	if (bytes > BLK_SECTOR) {
		size_t half = (size_t)round_up(bytes / 2, BLK_SECTOR);

		salvage_read(c, b, offset, buf, half, disk_offset);
		salvage_read(c, b, offset + half, buf + half, bytes - half,
			disk_offset + half);
		return;
	}
	memset(buf, 0, bytes);
	task_lock(&c->turn_lock);
	c->job->salvaged_bytes += bytes;
	if (c->job->salvaged)
		c->job->salvaged(c->job->arg, disk_offset, -ret);
	task_unlock(&c->turn_lock);
}

static int read_source(struct copy *c, const struct copy_source *src, uint64_t pos,
	uint8_t *buf, size_t bytes, uint64_t disk_offset)
{
	uint64_t size = MIN(blk_size(src->b), src->bytes);
	size_t have = pos < size ? (size_t)MIN(size - pos, (uint64_t)bytes) : 0;
	int ret;

	if (have < bytes)
		memset(buf + have, 0, bytes - have);
	if (!have)
		return 0;
	if (c->job->salvage) {
		salvage_read(c, src->b, pos, buf, have, disk_offset);
		return 0;
	}
	ret = blk_pread(src->b, pos, buf, have);
	return ret < 0 ? fail(c, src->b, pos, "reading", ret) : 0;
}

/* A piece may lie over several sources. */
static int read_piece(struct copy *c, const struct piece *p, uint8_t *buf)
{
	const struct copy_job *job = c->job;
	uint64_t start = 0, pos = p->offset, end = p->offset + p->bytes;

	for (size_t i = 0; i < job->n_sources && pos < end; i++) {
		uint64_t source_end = start + job->sources[i].bytes;

		if (pos < source_end) {
			uint64_t bytes = MIN(end, source_end) - pos;
			int ret = read_source(c, &job->sources[i], pos - start,
				buf + (pos - p->offset), (size_t)bytes, pos);

			if (ret < 0)
				return ret;
			pos += bytes;
		}
		start = source_end;
	}
	assert(pos == end);
	return 0;
}

/*
 * Writing.
 */

static int write_data(struct copy *c, uint64_t offset, const uint8_t *buf, uint64_t bytes)
{
	int ret = blk_pwrite(c->job->dst, offset, buf, (size_t)bytes, 0);

	return ret < 0 ? fail(c, c->job->dst, offset, "writing", ret) : 0;
}

static int write_zeros_out(struct copy *c, struct copy_task *t, const struct piece *p)
{
	assert(p->bytes <= c->piece_bytes);
	memset(t->buf, 0, (size_t)p->bytes);
	return write_data(c, p->offset, t->buf, p->bytes);
}

static int write_zero(struct copy *c, uint64_t offset, uint64_t bytes)
{
	uint64_t backed = 0;
	int ret;

	if (!zero_needs_write(c, offset))
		return 0;
	if (c->job->target_is_zero)
		backed = MIN(bytes, c->backed - offset);
	ret = blk_zero(c->job->dst, offset, backed ? backed : bytes, BLK_MAY_UNMAP);
	return ret < 0 ? fail(c, c->job->dst, offset, "writing zeros", ret) : 0;
}

/* The run at `offset` of zeros or of data: units of scan_bytes on the disk's grid. Zeros
 * shorter than min_sparse count as data. Returns its length. */
static uint64_t scan_run(const struct copy *c, uint64_t offset, const uint8_t *buf,
	uint64_t bytes, bool *zero)
{
	uint64_t pos = 0, zeros = 0, unit;

	while (pos < bytes) {
		unit = c->scan_bytes - (offset + pos) % c->scan_bytes;
		unit = MIN(unit, bytes - pos);
		if (buf_is_zero(buf + pos, (size_t)unit)) {
			zeros += unit;
		} else if (zeros && (zeros >= c->job->min_sparse)) {
			break;
		} else {
			zeros = 0;
		}
		pos += unit;
	}
	/* Now zeros is a run that ends at pos. It is worth a hole if long, or if it is
	 * all there is: then it goes on in the neighbouring pieces, or is the disk's
	 * tail. */
	if (zeros == pos || zeros >= c->job->min_sparse) {
		*zero = zeros == pos;
		return *zero ? pos : pos - zeros;
	}
	*zero = false;
	return pos;
}

static int write_piece(struct copy *c, struct copy_task *t, const struct piece *p)
{
	const uint8_t *buf = t->buf;
	uint64_t pos = 0, run;
	bool zero;
	int ret;

	if (p->kind == PIECE_ZERO) {
		if (!c->job->min_sparse)
			return write_zeros_out(c, t, p);
		return write_zero(c, p->offset, p->bytes);
	}
	if (!c->job->min_sparse)
		return write_data(c, p->offset, buf, p->bytes);
	for (; pos < p->bytes; pos += run) {
		run = scan_run(c, p->offset + pos, buf + pos, p->bytes - pos, &zero);
		ret = zero ? write_zero(c, p->offset + pos, run)
			   : write_data(c, p->offset + pos, buf + pos, run);
		if (ret < 0)
			return ret;
	}
	return 0;
}

/* By copy_range, where the whole piece is of one source. 1 done, 0 not, -errno. */
static int offload_piece(struct copy *c, const struct piece *p)
{
	const struct copy_job *job = c->job;
	uint64_t start = 0;
	size_t i = 0;
	int ret;

	while (p->offset - start >= job->sources[i].bytes)
		start += job->sources[i++].bytes;
	if (!range_inside(p->offset - start, p->bytes,
		    MIN(job->sources[i].bytes, blk_size(job->sources[i].b))))
		return 0;
	ret = blk_copy_range(
		job->sources[i].b, p->offset - start, job->dst, p->offset, p->bytes, 0);
	if (ret == -ENOTSUP) {
		atomic_store(&c->offload, false);
		return 0;
	}
	return ret < 0 ? fail(c, job->dst, p->offset, "copying", ret) : 1;
}

static void wait_turn(struct copy *c, const struct piece *p)
{
	if (!p->has_turn)
		return;
	task_lock(&c->turn_lock);
	while (c->seq_turn != p->seq)
		task_cond_wait(&c->turn[p->seq % COPY_MAX_PARALLEL], &c->turn_lock);
	task_unlock(&c->turn_lock);
}

static void piece_end(struct copy *c, const struct piece *p)
{
	task_lock(&c->turn_lock);
	if (p->has_turn) {
		assert(c->seq_turn == p->seq);
		c->seq_turn++;
		task_cond_signal(&c->turn[c->seq_turn % COPY_MAX_PARALLEL]);
	}
	c->done += p->bytes;
	if (c->job->progress && !stopped(c))
		c->job->progress(c->job->arg, c->done, c->total);
	task_unlock(&c->turn_lock);
}

static int pack_one(struct copy *c, struct copy_task *t, uint64_t offset, uint8_t *buf,
	uint64_t bytes, bool zero)
{
	struct pack_run *r = &t->runs[t->n_runs];
	int ret = 0;

	assert(t->n_runs < COPY_PIECE_CLUSTERS);
	*r = (struct pack_run){offset, bytes, {buf, bytes}, NULL};
	if (!zero)
		ret = blk_pack(c->job->dst, offset, &r->iov, 1, &r->packed);
	if (ret < 0)
		return fail(c, c->job->dst, offset, "compressing", ret);
	t->n_runs++;
	return 0;
}

/* What of a piece can be done before its turn. */
static int pack_piece(struct copy *c, struct copy_task *t, const struct piece *p)
{
	bool look = c->job->min_sparse, zero = false;
	uint8_t *buf = t->buf;
	uint64_t pos = 0, run;
	int ret = 0;

	if (p->kind == PIECE_ZERO && look)
		return pack_one(c, t, p->offset, NULL, p->bytes, true);
	if (p->kind == PIECE_ZERO)
		memset(buf, 0, (size_t)p->bytes);
	for (; !ret && pos < p->bytes; pos += run) {
		run = p->bytes - pos;
		if (look)
			run = scan_run(c, p->offset + pos, buf + pos, run, &zero);
		ret = pack_one(c, t, p->offset + pos, buf + pos, run, zero);
	}
	return ret;
}

static int write_packed(struct copy *c, struct copy_task *t)
{
	int ret = 0;

	for (unsigned i = 0; !ret && i < t->n_runs && !stopped(c); i++) {
		struct pack_run *r = &t->runs[i];

		if (!r->packed)
			ret = write_zero(c, r->offset, r->bytes);
		else if ((ret = blk_write_packed(c->job->dst, r->packed)) < 0)
			fail(c, c->job->dst, r->offset, "writing", ret);
	}
	return ret;
}

static void packed_free(struct copy *c, struct copy_task *t)
{
	while (t->n_runs)
		blk_packed_free(c->job->dst, t->runs[--t->n_runs].packed);
}

static int read_and_write(struct copy *c, struct copy_task *t, const struct piece *p)
{
	int ret = 0;

	if (p->kind == PIECE_DATA)
		ret = read_piece(c, p, t->buf);
	if (!ret && c->job->compressed && !stopped(c))
		ret = pack_piece(c, t, p);
	wait_turn(c, p);
	if (!ret && !stopped(c))
		ret = c->job->compressed ? write_packed(c, t) : write_piece(c, t, p);
	packed_free(c, t);
	return ret;
}

/* A piece as long as copy_range likes them, after all by hand. */
static int copy_by_hand(struct copy *c, struct copy_task *t, const struct piece *p)
{
	struct piece part = *p;
	int ret = 0;

	for (uint64_t pos = 0; !ret && pos < p->bytes && !stopped(c); pos += part.bytes) {
		part.offset = p->offset + pos;
		part.bytes = MIN(p->bytes - pos,
			p->kind == PIECE_DATA ? c->piece_bytes : p->bytes);
		ret = read_and_write(c, t, &part);
		if (cancelled(c))
			break; /* the next take says so */
	}
	return ret;
}

static void copy_piece(struct copy *c, struct copy_task *t, const struct piece *p)
{
	int ret = 0;

	if (p->kind == PIECE_DATA && atomic_load(&c->offload)) {
		wait_turn(c, p);
		if (!stopped(c))
			ret = offload_piece(c, p);
	}
	if (!ret && p->kind != PIECE_SKIP)
		copy_by_hand(c, t, p);
	/* The turn is waited for even when nothing is written, so that it can be passed
	 * on. */
	wait_turn(c, p);
	piece_end(c, p);
}

static void sleep_for_rate(const struct copy *c, uint64_t ns)
{
	while (ns && !stopped(c) && !cancelled(c)) {
		uint64_t step = MIN(ns, COPY_CANCEL_CHECK_NSEC);

		task_sleep_ns(step);
		ns -= step;
	}
}

static int copy_task_main(void *arg)
{
	struct copy_task *t = arg;
	struct copy *c = t->c;
	uint64_t wait_ns = 0;
	struct piece p;

	t->buf = buf_alloc(c->piece_bytes);
	if (!t->buf)
		return fail(c, c->job->dst, 0, "allocating a buffer", -ENOMEM);
	while (take_piece(c, &p, &wait_ns) > 0) {
		sleep_for_rate(c, wait_ns);
		copy_piece(c, t, &p);
	}
	buf_free(t->buf);
	return atomic_load(&c->ret);
}

/*
 * Setting up.
 */

static void plan(struct copy *c)
{
	struct copy_job *job = c->job;
	uint32_t cluster = 0;

	blk_traits(job->dst, &cluster, NULL, NULL);
	c->align = cluster > COPY_SCAN_BYTES ? cluster : COPY_SCAN_BYTES;
	c->scan_bytes = job->min_sparse >= COPY_SCAN_BYTES ? COPY_SCAN_BYTES : BLK_SECTOR;
	c->piece_bytes = MAX(COPY_PIECE_BYTES, c->align);
	c->parallel = job->parallel ? job->parallel : COPY_DEFAULT_PARALLEL;
	assert(c->parallel <= COPY_MAX_PARALLEL);
	c->in_order = cluster && !job->out_of_order;
	c->split_clusters = !job->compressed;
	atomic_init(&c->offload, job->copy_offload && !job->compressed && !job->salvage);

	if (job->compressed) {
		c->align = cluster ? cluster : c->align;
		c->scan_bytes = c->align;
		c->piece_bytes = MIN(COPY_PACK_BYTES, COPY_PIECE_CLUSTERS * c->align);
		c->piece_bytes = MAX(c->piece_bytes, c->align);
		c->parallel = MIN(c->parallel, COPY_PACK_PARALLEL);
	}
	c->backed = round_up(job->backing_bytes, c->align);
}

/* The rest of the tasks go on loops of their own, as many as there are processors to use.
 */
static unsigned start_loops(const struct copy *c, struct loop **loops)
{
	unsigned n = 0, want = MIN(worker_cpu_count(), COPY_MAX_LOOPS);

	want = MIN(want, c->parallel);
	loops[n++] = NULL; /* our own */
	if (!loop_self())
		return n;
	while (n < want && (loops[n] = loop_start(NULL)))
		n++;
	return n;
}

static int run_tasks(struct copy *c)
{
	struct copy_task *tasks = calloc(c->parallel, sizeof(*tasks));
	struct loop *loops[COPY_MAX_LOOPS];
	struct task_group group;
	unsigned n_loops, i;
	int ret = 0;

	if (!tasks)
		return fail(c, c->job->dst, 0, "starting", -ENOMEM);
	n_loops = start_loops(c, loops);
	task_group_init(&group);
	for (i = 0; i < c->parallel; i++) {
		tasks[i].c = c;
		ret = task_group_spawn(
			&group, loops[i % n_loops], copy_task_main, &tasks[i]);
		if (ret < 0)
			break;
	}
	if (ret < 0 && !i) /* with one task running the job still gets done */
		fail(c, c->job->dst, 0, "starting", ret);
	task_group_wait(&group);
	for (i = 1; i < n_loops; i++)
		loop_stop(loops[i]);
	free(tasks);
	return atomic_load(&c->ret);
}

int copy_run(struct copy_job *job, struct err *err)
{
	struct copy *c;
	int ret;

	assert(job->n_sources > 0);
	assert(!job->base || job->n_sources == 1);
	c = calloc(1, sizeof(*c));
	if (!c)
		return err_set(err, ENOMEM, "out of memory");
	c->job = job;
	for (size_t i = 0; i < job->n_sources; i++)
		c->total += job->sources[i].bytes;
	assert(c->total <= blk_size(job->dst));
	plan(c);
	ret = run_tasks(c);
	assert(ret < 0 || c->done == c->total);
	if (ret < 0)
		ret = err_set(err, -ret, "%s", c->err.msg);
	free(c);
	return ret;
}
