/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The model test: long random sequences of everything a disk can be told, done to an
 * image and to a flat array, which must never differ.
 *
 * A sequence is a number of rounds on one image. In a round several tasks, on one loop,
 * on several, or none (plain calls), each work on a region of their own; regions meet at
 * any byte, so that neighbours share sectors, clusters and tables. Some rounds have all
 * tasks write to one common range: then each byte must be what one of them wrote. Between
 * rounds one thing is done that no data request may run beside: snapshot, resize, reopen,
 * compare. After the sequence the image is opened anew, compared as a whole, each
 * snapshot too, and our check and the installed qemu-img's must find nothing.
 *
 * A discarded range reads as before or as zeros, byte by byte; which of them it is is
 * seen right after and must then stay.
 *
 * The image may be on a server (--url), which is then what is tested; it may break down meanwhile
 * as often as it comes back in time. How long the longest request took is told at the end.
 *
 * Everything is drawn from the seed. With more than one task the order of requests is
 * not, so a failure may take several tries: --runs with the same --seed --again.
 */
#include <getopt.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/iov.h"
#include "base/log.h"
#include "base/math.h"
#include "base/task.h"
#include "block/format.h"
#include "tests/engine/config.h"
#include "tests/engine/disk.h"
#include "tests/engine/rng.h"

#define MAX_TASKS 8
#define MAX_LOOPS 4
#define RETRY_US  100000
/* Patterns of a common range: one bit each in a byte's mask. */
#define PATTERNS 32

/* ThreadSanitizer looks at every byte's accesses: small disks let it see more sequences. */
#if defined(__SANITIZE_THREAD__)
#define MAX_DISK     MiB
#define COMMON_BYTES (8 * KiB)
#else
#define MAX_DISK     (12 * MiB)
#define COMMON_BYTES (128 * KiB)
#endif

struct run {
	struct config cfg;
	struct rng rng;
	struct disk disk;
	struct blk *b;
	struct loop *loops[MAX_LOOPS];
	unsigned n_loops; /* 0: plain calls */
	unsigned n_tasks; /* the most of a round */
	unsigned rounds, ops;
	unsigned snapshots_made;
	bool trace, ask_peer;

	/* A common range: bit p of common[i] says that pattern p was written to byte i.
	 */
	uint64_t common_offset, common_bytes;
	_Atomic uint64_t *common;

	_Atomic uint64_t slowest_ns; /* request */
	uint64_t patience_ns;        /* how long a server may be away when it is wanted */

	pthread_mutex_t lock;
	struct err err; /* the first failure, under lock */
};

/* ---- failures and traces --------------------------------------------------------- */

static int failed(struct run *r, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
static int failed(struct run *r, const char *fmt, ...)
{
	char msg[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(msg, sizeof(msg), fmt, ap);
	va_end(ap);
	pthread_mutex_lock(&r->lock);
	if (!r->err.code)
		err_set(&r->err, EIO, "%s", msg);
	pthread_mutex_unlock(&r->lock);
	return -EIO;
}

static bool has_failed(struct run *r)
{
	bool yes;

	pthread_mutex_lock(&r->lock);
	yes = r->err.code != 0;
	pthread_mutex_unlock(&r->lock);
	return yes;
}

#define trace(r, ...)                                                                    \
	do {                                                                             \
		if ((r)->trace)                                                          \
			printf(__VA_ARGS__);                                             \
	} while (0)

/* ---- what one task does ---------------------------------------------------------- */

struct worker {
	struct run *run;
	struct rng rng;
	unsigned id;
	uint64_t lo, hi; /* its region; empty: only the common range */
	uint8_t *buf;    /* as large as the region and the common range */
};

struct range {
	uint64_t offset, bytes;
};

/* Some range inside the region, of any alignment or of a likely one. */
static struct range pick(struct worker *w)
{
	uint64_t cluster = config_cluster_bytes(&w->run->cfg);
	uint64_t size = w->hi - w->lo, align, most, start, end;

	switch (rng_below(&w->rng, 4)) {
	case 0:
		align = 1;
		break;
	case 1:
		align = BLK_SECTOR;
		break;
	default:
		align = cluster;
	}
	most = rng_one_in(&w->rng, 10)  ? size
	       : rng_one_in(&w->rng, 2) ? 4 * KiB
					: cluster * 3;
	start = w->lo + rng_below(&w->rng, size);
	end = start + rng_between(&w->rng, 1, MIN(most, w->hi - start));
	if (align > 1) {
		uint64_t s = round_down(start, align), e = round_up(end, align);

		start = s >= w->lo ? s : start;
		end = e <= w->hi ? e : end;
	}
	return (struct range){start, end - start};
}

/* The request's buffer as a vector of some segments. */
static int cut(struct worker *w, size_t bytes, struct iovec iov[4])
{
	int n = 0;
	size_t pos = 0;

	while (n < 3 && pos < bytes && rng_one_in(&w->rng, 2)) {
		size_t part = rng_between(&w->rng, 1, bytes - pos);

		iov[n++] = (struct iovec){w->buf + pos, part};
		pos += part;
	}
	if (pos < bytes)
		iov[n++] = (struct iovec){w->buf + pos, bytes - pos};
	return n;
}

static int op_write(struct worker *w, struct range g)
{
	struct run *r = w->run;
	struct iovec iov[4];
	int niov = cut(w, g.bytes, iov), ret;

	config_fill(&w->rng, w->buf, g.bytes);
	trace(r, "%u: write 0x%" PRIx64 "+0x%" PRIx64 "\n", w->id, g.offset, g.bytes);
	ret = blk_pwritev(
		r->b, g.offset, iov, niov, rng_one_in(&w->rng, 16) ? BLK_FUA : 0);
	if (ret)
		return failed(r, "write 0x%" PRIx64 "+0x%" PRIx64 ": %s", g.offset,
			g.bytes, strerror(-ret));
	memcpy(r->disk.data + g.offset, w->buf, g.bytes);
	return 0;
}

static int op_zero(struct worker *w, struct range g)
{
	struct run *r = w->run;
	unsigned flags = rng_one_in(&w->rng, 2) ? BLK_MAY_UNMAP : 0;
	int ret;

	trace(r, "%u: zero 0x%" PRIx64 "+0x%" PRIx64 " flags %u\n", w->id, g.offset,
		g.bytes, flags);
	ret = blk_zero(r->b, g.offset, g.bytes, flags);
	if (ret)
		return failed(r, "zero 0x%" PRIx64 "+0x%" PRIx64 ": %s", g.offset,
			g.bytes, strerror(-ret));
	memset(r->disk.data + g.offset, 0, g.bytes);
	return 0;
}

static int op_discard(struct worker *w, struct range g)
{
	struct run *r = w->run;
	uint8_t *model = r->disk.data + g.offset;
	int ret;

	trace(r, "%u: discard 0x%" PRIx64 "+0x%" PRIx64 "\n", w->id, g.offset, g.bytes);
	ret = blk_discard(r->b, g.offset, g.bytes);
	if (!ret)
		ret = blk_pread(r->b, g.offset, w->buf, g.bytes);
	if (ret)
		return failed(r, "discard 0x%" PRIx64 "+0x%" PRIx64 " and read: %s",
			g.offset, g.bytes, strerror(-ret));
	for (uint64_t i = 0; i < g.bytes; i++) {
		if (w->buf[i] == model[i])
			continue;
		if (w->buf[i])
			return failed(r,
				"byte 0x%" PRIx64
				" reads as 0x%02x after a discard, was 0x%02x",
				g.offset + i, w->buf[i], model[i]);
		model[i] = 0;
	}
	return 0;
}

/* Whole clusters, or up to the disk's end. */
static int op_compressed(struct worker *w, struct range g)
{
	struct run *r = w->run;
	uint64_t cluster = config_cluster_bytes(&r->cfg), end = g.offset + g.bytes;
	int ret;

	g.offset = round_up(g.offset, cluster);
	if (end != r->disk.bytes)
		end = round_down(end, cluster);
	if (!config_has_compression(&r->cfg) || g.offset >= end)
		return 0;
	g.bytes = end - g.offset;
	config_fill(&w->rng, w->buf, g.bytes);
	trace(r, "%u: compressed 0x%" PRIx64 "+0x%" PRIx64 "\n", w->id, g.offset,
		g.bytes);
	ret = blk_pwrite(r->b, g.offset, w->buf, g.bytes, BLK_COMPRESSED);
	if (ret)
		return failed(r, "compressed write 0x%" PRIx64 "+0x%" PRIx64 ": %s",
			g.offset, g.bytes, strerror(-ret));
	memcpy(r->disk.data + g.offset, w->buf, g.bytes);
	return 0;
}

static int op_read(struct worker *w, struct range g)
{
	struct run *r = w->run;
	struct iovec iov[4];
	int niov = cut(w, g.bytes, iov), ret;
	uint64_t i = 0;

	trace(r, "%u: read 0x%" PRIx64 "+0x%" PRIx64 "\n", w->id, g.offset, g.bytes);
	memset(w->buf, 0xee, g.bytes);
	ret = blk_preadv(r->b, g.offset, iov, niov, 0);
	if (ret)
		return failed(r, "read 0x%" PRIx64 "+0x%" PRIx64 ": %s", g.offset,
			g.bytes, strerror(-ret));
	if (!memcmp(w->buf, r->disk.data + g.offset, g.bytes))
		return 0;
	while (w->buf[i] == r->disk.data[g.offset + i])
		i++;
	return failed(r,
		"read 0x%" PRIx64 "+0x%" PRIx64 ": byte 0x%" PRIx64
		" is 0x%02x, should be 0x%02x",
		g.offset, g.bytes, g.offset + i, w->buf[i], r->disk.data[g.offset + i]);
}

static int op_flush(struct worker *w)
{
	int ret;

	trace(w->run, "%u: flush\n", w->id);
	ret = blk_flush(w->run->b);
	return ret ? failed(w->run, "flush: %s", strerror(-ret)) : 0;
}

/* A write to the common range of a byte that tells which writes it can have come from.
 * The mask is set first: whoever reads may see it early. */
static int op_common(struct worker *w)
{
	struct run *r = w->run;
	uint64_t start = rng_below(&w->rng, r->common_bytes);
	uint64_t bytes = rng_between(&w->rng, 1, r->common_bytes - start);
	unsigned pattern = rng_below(&w->rng, PATTERNS);
	int ret;

	if (rng_one_in(&w->rng, 2)) {
		start = round_down(start, BLK_SECTOR);
		bytes = MIN(round_up(bytes, BLK_SECTOR), r->common_bytes - start);
	}
	if (rng_one_in(&w->rng, 4))
		pattern = 0;
	for (uint64_t i = start; i < start + bytes; i++)
		r->common[i] |= UINT64_C(1) << pattern;
	trace(r, "%u: common %u 0x%" PRIx64 "+0x%" PRIx64 "\n", w->id, pattern,
		r->common_offset + start, bytes);
	if (!pattern) {
		ret = blk_zero(r->b, r->common_offset + start, bytes,
			rng_one_in(&w->rng, 2) ? BLK_MAY_UNMAP : 0);
	} else {
		memset(w->buf, (int)pattern, bytes);
		ret = blk_pwrite(r->b, r->common_offset + start, w->buf, bytes, 0);
	}
	return ret ? failed(r, "write to the common range: %s", strerror(-ret)) : 0;
}

static int one_op(struct worker *w)
{
	if (w->run->common_bytes && (w->lo == w->hi || rng_one_in(&w->rng, 3)))
		return op_common(w);
	if (w->lo == w->hi)
		return op_flush(w);
	switch (rng_below(&w->rng, 16)) {
	case 0 ... 5:
		return op_write(w, pick(w));
	case 6 ... 7:
		return op_zero(w, pick(w));
	case 8 ... 9:
		return op_discard(w, pick(w));
	case 10 ... 11:
		return op_compressed(w, pick(w));
	case 12 ... 14:
		return op_read(w, pick(w));
	default:
		return op_flush(w);
	}
}

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void note_time(struct run *r, uint64_t took_ns)
{
	uint64_t known = r->slowest_ns;

	while (took_ns > known &&
		!atomic_compare_exchange_weak(&r->slowest_ns, &known, took_ns))
		;
}

static int worker_run(void *arg)
{
	struct worker *w = arg;

	for (unsigned i = 0; i < w->run->ops && !has_failed(w->run); i++) {
		uint64_t began_ns = now_ns();

		if (one_op(w))
			return -EIO;
		note_time(w->run, now_ns() - began_ns);
	}
	return 0;
}

/* ---- a round --------------------------------------------------------------------- */

static int compare_bytes(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

/* Cuts [0, hi) into regions for the workers. */
static void deal(struct run *r, struct worker *workers, unsigned n, uint64_t hi)
{
	uint64_t cuts[MAX_TASKS + 1];

	cuts[0] = 0;
	for (unsigned i = 1; i < n; i++) {
		cuts[i] = rng_below(&r->rng, hi + 1);
		if (rng_one_in(&r->rng, 2))
			cuts[i] = round_down(cuts[i], BLK_SECTOR);
	}
	cuts[n] = hi;
	qsort(cuts, n + 1, sizeof(cuts[0]), compare_bytes);
	for (unsigned i = 0; i < n; i++) {
		workers[i].lo = cuts[i];
		workers[i].hi = cuts[i + 1];
	}
}

/* What each byte of the common range became must be something written there, or what it
 * was where nothing was. */
static int common_settle(struct run *r)
{
	uint8_t *model = r->disk.data + r->common_offset;
	uint8_t *buf = malloc(r->common_bytes);
	int ret = buf ? blk_pread(r->b, r->common_offset, buf, r->common_bytes) : -ENOMEM;

	if (ret)
		ret = failed(r, "reading the common range: %s", strerror(-ret));
	for (uint64_t i = 0; !ret && i < r->common_bytes; i++) {
		uint64_t mask = r->common[i];
		bool written = buf[i] < PATTERNS && (mask >> buf[i] & 1);

		if (mask ? !written : buf[i] != model[i])
			ret = failed(r,
				"byte 0x%" PRIx64
				" of the common range is 0x%02x, which nobody wrote",
				r->common_offset + i, buf[i]);
	}
	if (!ret)
		memcpy(model, buf, r->common_bytes);
	free(buf);
	return ret;
}

/* Sets a common range at the disk's end apart. */
static int common_begin(struct run *r)
{
	r->common_bytes = MIN(COMMON_BYTES, r->disk.bytes / 2);
	r->common_offset = r->disk.bytes - r->common_bytes;
	if (rng_one_in(&r->rng, 2))
		r->common_offset -= rng_below(&r->rng, MIN(r->common_offset, 4096u) + 1);
	r->common = calloc(r->common_bytes + 1, sizeof(*r->common));
	return r->common ? 0 : failed(r, "out of memory");
}

static void common_end(struct run *r)
{
	free((void *)r->common);
	r->common = NULL;
	r->common_bytes = 0;
}

static int round_run(struct run *r)
{
	struct worker workers[MAX_TASKS];
	unsigned n = r->n_tasks ? (unsigned)rng_between(&r->rng, 1, r->n_tasks) : 1;
	uint64_t hi = r->disk.bytes;
	struct task_group group;

	memset(workers, 0, sizeof(workers));
	if (n > 1 && rng_one_in(&r->rng, 3) && r->disk.bytes > 2 * BLK_SECTOR) {
		if (common_begin(r))
			return -EIO;
		hi = r->common_offset;
	}
	deal(r, workers, n, hi);
	task_group_init(&group);
	for (unsigned i = 0; i < n; i++) {
		struct worker *w = &workers[i];
		struct loop *loop = r->n_loops ? r->loops[i % r->n_loops] : NULL;

		w->run = r;
		w->id = i;
		w->rng.state = rng_next(&r->rng);
		w->buf = buf_alloc(MAX(w->hi - w->lo, r->common_bytes) + 1);
		if (!w->buf || task_group_spawn(&group, loop, worker_run, w))
			failed(r, "cannot start a task");
	}
	task_group_wait(&group);
	if (r->common_bytes && !has_failed(r))
		common_settle(r);
	common_end(r);
	for (unsigned i = 0; i < n; i++)
		buf_free(workers[i].buf);
	return has_failed(r) ? -EIO : 0;
}

/* ---- between rounds -------------------------------------------------------------- */

/* Counts of few bits cannot count many snapshots, or snapshots of clusters that many
 * compressed ones share: refusing is right, changing something is not, and the next
 * comparison would see it. */
static bool may_refuse(const struct run *r, const struct err *said)
{
	return r->cfg.refcount_bits < 16 && strstr(said->msg, "maximum refcount");
}

static int snapshot_create(struct run *r)
{
	struct err err = ERR_INIT;
	char name[16];

	if (!config_has_snapshots(&r->cfg) || r->disk.n_snaps == DISK_MAX_SNAPSHOTS)
		return 0;
	snprintf(name, sizeof(name), "snap%u", ++r->snapshots_made);
	trace(r, "snapshot create %s\n", name);
	if (blk_snapshot_create(r->b, name, &err))
		return may_refuse(r, &err) ? 0
					   : failed(r, "snapshot create: %s", err.msg);
	return disk_snapshot_add(&r->disk, name, &r->err);
}

static int snapshot_apply(struct run *r)
{
	struct err err = ERR_INIT;
	bool changed;
	unsigned i;

	if (!r->disk.n_snaps)
		return 0;
	i = rng_below(&r->rng, r->disk.n_snaps);
	trace(r, "snapshot apply %s\n", r->disk.snaps[i].name);
	if (blk_snapshot_apply(r->b, r->disk.snaps[i].name, &changed, &err))
		return may_refuse(r, &err) ? 0 : failed(r, "snapshot apply: %s", err.msg);
	disk_snapshot_apply(&r->disk, i);
	return 0;
}

static int snapshot_delete(struct run *r)
{
	struct err err = ERR_INIT;
	unsigned i;

	if (!r->disk.n_snaps)
		return 0;
	i = rng_below(&r->rng, r->disk.n_snaps);
	trace(r, "snapshot delete %s\n", r->disk.snaps[i].name);
	if (blk_snapshot_delete(r->b, r->disk.snaps[i].name, &err))
		return failed(r, "snapshot delete: %s", err.msg);
	disk_snapshot_remove(&r->disk, i);
	return 0;
}

static int resize(struct run *r)
{
	struct err err = ERR_INIT;
	enum blk_prealloc prealloc = BLK_PREALLOC_OFF;
	uint64_t bytes =
		rng_between(&r->rng, 1, r->disk.max_bytes / BLK_SECTOR) * BLK_SECTOR;
	int ret;

	if (config_is_fixed(&r->cfg))
		return 0;
	if (bytes > r->disk.bytes && !r->cfg.raw && !r->cfg.backing &&
		rng_one_in(&r->rng, 3))
		prealloc = (enum blk_prealloc)rng_below(&r->rng, 4);
	trace(r, "resize %" PRIu64 " prealloc %d\n", bytes, (int)prealloc);
	ret = blk_resize(r->b, bytes, prealloc, &err);
	/* With snapshots, or on version 2, the format has its limits. */
	if (ret == -ENOTSUP)
		return 0;
	if (ret)
		return failed(r, "resize from %" PRIu64 " to %" PRIu64 ": %s",
			r->disk.bytes, bytes, err.msg);
	disk_resize(&r->disk, bytes);
	return 0;
}

static struct blk *open_patiently(struct run *r, unsigned flags, struct err *err)
{
	uint64_t until_ns = now_ns() + r->patience_ns;
	struct blk *b;

	do {
		*err = (struct err)ERR_INIT;
		b = config_open(&r->cfg, flags, err);
	} while (!b && now_ns() < until_ns && usleep(RETRY_US) == 0);
	return b;
}

static int create_patiently(struct run *r)
{
	uint64_t until_ns = now_ns() + r->patience_ns;
	struct rng rng = r->rng;
	int ret;

	do {
		r->rng = rng;
		r->err = (struct err)ERR_INIT;
		ret = config_create(&r->cfg, &r->rng, r->disk.data, &r->err);
	} while (ret && now_ns() < until_ns && usleep(RETRY_US) == 0);
	return ret;
}

static int open_image(struct run *r)
{
	static const unsigned modes[] = {0, BLK_O_DISCARD,
		BLK_O_DISCARD | BLK_O_WRITETHROUGH, BLK_O_DISCARD | BLK_O_ZEROES,
		BLK_O_DISCARD | BLK_O_ZEROES_UNMAP};
	struct err err = ERR_INIT;

	r->b = open_patiently(
		r, BLK_O_RDWR | modes[rng_below(&r->rng, ARRAY_LEN(modes))], &err);
	return r->b ? 0 : failed(r, "open: %s", err.msg);
}

static int close_image(struct run *r)
{
	int ret = blk_close(r->b);

	r->b = NULL;
	return ret ? failed(r, "close: %s", strerror(-ret)) : 0;
}

static int reopen(struct run *r)
{
	trace(r, "reopen\n");
	return close_image(r) ? -EIO : open_image(r);
}

static int compare(struct run *r)
{
	trace(r, "compare\n");
	return disk_compare(r->b, r->disk.data, r->disk.bytes, &r->err);
}

/* ---- a sequence ------------------------------------------------------------------ */

static int between(struct run *r)
{
	switch (rng_below(&r->rng, 8)) {
	case 0 ... 1:
		return snapshot_create(r);
	case 2:
		return snapshot_apply(r);
	case 3:
		return snapshot_delete(r);
	case 4:
		return resize(r);
	case 5:
		return reopen(r);
	default:
		return compare(r);
	}
}

/* Each snapshot as a reader of it sees it. */
static int compare_snapshots(struct run *r)
{
	for (unsigned i = 0; i < r->disk.n_snaps; i++) {
		struct disk_snapshot *s = &r->disk.snaps[i];
		struct blk *b = open_patiently(r, 0, &r->err);
		int ret;

		if (!b)
			return err_prefix(&r->err, "open for a snapshot");
		ret = blk_snapshot_load(b, s->name, &r->err);
		if (!ret)
			ret = disk_compare(b, s->data, s->bytes, &r->err);
		blk_close(b);
		if (ret)
			return err_prefix(&r->err, "snapshot %s", s->name);
	}
	return 0;
}

static int ask_peer(struct run *r)
{
	int ret = config_ask_peer(&r->cfg, r->disk.data, r->disk.bytes, &r->err);

	if (ret)
		return ret < 0 ? ret : 0;
	for (unsigned i = 0; !ret && i < r->disk.n_snaps; i++) {
		struct disk_snapshot *s = &r->disk.snaps[i];

		/* qemu-img shows a snapshot in the size the disk has now. */
		if (s->bytes == r->disk.bytes)
			ret = config_ask_peer_snapshot(
				&r->cfg, s->name, s->data, s->bytes, &r->err);
	}
	return ret < 0 ? ret : 0;
}

/* The closed image, looked at from all sides. */
static int verdict(struct run *r)
{
	struct blk *b = open_patiently(r, 0, &r->err);
	int ret;

	if (!b)
		return err_prefix(&r->err, "final open");
	ret = disk_compare(b, r->disk.data, r->disk.bytes, &r->err);
	if (!ret)
		ret = disk_check_extents(b, r->disk.data, r->disk.bytes, &r->err);
	if (!ret)
		ret = disk_check(b, DISK_CLEAN, &r->err);
	blk_close(b);
	if (!ret)
		ret = compare_snapshots(r);
	if (!ret && r->ask_peer)
		ret = ask_peer(r);
	return ret;
}

static int sequence(struct run *r)
{
	int ret = open_image(r);

	for (unsigned i = 0; !ret && i < r->rounds; i++) {
		ret = round_run(r);
		if (!ret)
			ret = between(r);
	}
	if (!ret)
		ret = compare(r);
	if (r->b && close_image(r))
		ret = -EIO;
	return ret ? ret : verdict(r);
}

static int loops_start(struct run *r)
{
	for (unsigned i = 0; i < r->n_loops; i++) {
		r->loops[i] = loop_start(&r->err);
		if (!r->loops[i]) {
			r->n_loops = i;
			return -EIO;
		}
	}
	return 0;
}

/* ---- runs ------------------------------------------------------------------------ */

struct settings {
	uint64_t seed;
	uint64_t runs; /* 0: until seconds have passed */
	uint64_t seconds;
	const char *config; /* what is not left to chance */
	const char *url, *url_opts;
	uint64_t patience; /* seconds */
	int loops, tasks;  /* < 0: chance */
	bool again, trace, no_peer;
	unsigned rounds, ops; /* 0: chance */
};

static int one_run(const struct settings *s, uint64_t seed, uint64_t *slowest_ns)
{
	struct run r = {.rng = {seed}, .lock = PTHREAD_MUTEX_INITIALIZER};
	char text[CONFIG_TEXT];
	uint64_t max_bytes;
	int ret = 0;

	config_random(&r.cfg, &r.rng, MAX_DISK);
	r.cfg.url = s->url;
	r.cfg.url_opts = s->url_opts;
	if (s->url)
		r.cfg.data_file = DATA_FILE_NONE;
	if (s->config)
		ret = config_parse(&r.cfg, s->config, &r.err);
	r.n_loops = s->loops >= 0 ? (unsigned)s->loops : rng_below(&r.rng, MAX_LOOPS);
	r.n_tasks = s->tasks >= 0 ? (unsigned)s->tasks
		    : r.n_loops   ? (unsigned)rng_between(&r.rng, 1, MAX_TASKS)
				  : 1;
	r.rounds = s->rounds ? s->rounds : (unsigned)rng_between(&r.rng, 3, 16);
	r.ops = s->ops ? s->ops : (unsigned)rng_between(&r.rng, 5, 60);
	r.trace = s->trace;
	r.patience_ns = s->patience * 1000000000u;
	r.ask_peer = !s->no_peer;
	config_text(&r.cfg, text);
	trace(&r, "seed %" PRIu64 " %s loops %u tasks %u rounds %u ops %u\n", seed, text,
		r.n_loops, r.n_tasks, r.rounds, r.ops);
	max_bytes = r.cfg.disk_bytes + r.cfg.disk_bytes / 2 + MiB;
	if (!ret)
		ret = disk_init(&r.disk, r.cfg.disk_bytes, max_bytes, &r.err);
	if (!ret)
		ret = create_patiently(&r);
	if (!ret)
		ret = loops_start(&r);
	if (!ret)
		ret = sequence(&r);
	for (unsigned i = 0; i < r.n_loops; i++)
		if (r.loops[i])
			loop_stop(r.loops[i]);
	if (ret)
		printf("# seed %" PRIu64 " config %s loops %u tasks %u: %s\n", seed, text,
			r.n_loops, r.n_tasks, r.err.msg);
	disk_free(&r.disk);
	*slowest_ns = MAX(*slowest_ns, (uint64_t)r.slowest_ns);
	if (!ret)
		config_remove();
	return ret;
}

static void usage(void)
{
	printf("Usage: model [--seed N] [--runs N | --seconds N] [--config "
	       "KEY=VALUE,...]\n"
	       "             [--loops N] [--tasks N] [--rounds N] [--ops N] [--again]\n"
	       "             [--url URL [--url-opts KEY=VALUE,...]] [--no-peer] "
	       "[--trace]\n"
	       "Run i has seed N + i; with --again each has seed N. --loops 0: plain "
	       "calls.\n"
	       "The image of a failed run is left in the current folder.\n");
}

static int parse_args(struct settings *s, int argc, char **argv)
{
	static const struct option longs[] = {{"seed", 1, NULL, 's'},
		{"runs", 1, NULL, 'n'}, {"seconds", 1, NULL, 't'},
		{"config", 1, NULL, 'c'}, {"loops", 1, NULL, 'l'},
		{"tasks", 1, NULL, 'k'}, {"rounds", 1, NULL, 'r'}, {"ops", 1, NULL, 'o'},
		{"again", 0, NULL, 'a'}, {"trace", 0, NULL, 'v'},
		{"no-peer", 0, NULL, 'p'}, {"url", 1, NULL, 'u'},
		{"patience", 1, NULL, 'w'}, {"url-opts", 1, NULL, 'U'},
		{NULL, 0, NULL, 0}};
	int c;

	while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		uint64_t n = optarg ? strtoull(optarg, NULL, 0) : 0;

		switch (c) {
		case 's':
			s->seed = n;
			break;
		case 'n':
			s->runs = n;
			break;
		case 't':
			s->seconds = n;
			break;
		case 'c':
			s->config = optarg;
			break;
		case 'l':
			s->loops = (int)MIN(n, (uint64_t)MAX_LOOPS);
			break;
		case 'k':
			s->tasks = (int)MIN(n, (uint64_t)MAX_TASKS);
			break;
		case 'r':
			s->rounds = (unsigned)n;
			break;
		case 'o':
			s->ops = (unsigned)n;
			break;
		case 'a':
			s->again = true;
			break;
		case 'v':
			s->trace = true;
			break;
		case 'p':
			s->no_peer = true;
			break;
		case 'w':
			s->patience = n;
			break;
		case 'u':
			s->url = optarg;
			break;
		case 'U':
			s->url_opts = optarg;
			break;
		default:
			usage();
			return -EINVAL;
		}
	}
	return 0;
}

static void log_to_stderr(enum log_level level, const char *line)
{
	(void)level;
	fprintf(stderr, "model: %s\n", line);
}

int main(int argc, char **argv)
{
	struct settings s = {.seed = 1, .loops = -1, .tasks = -1};
	struct err err = ERR_INIT;
	uint64_t until_ns, done = 0, slowest_ns = 0;

	setvbuf(stdout, NULL, _IOLBF, 0);
	log_set_sink(log_to_stderr);
	if (parse_args(&s, argc, argv))
		return 2;
	if (config_secret(&err)) {
		printf("# %s\n", err.msg);
		return 2;
	}
	if (!s.runs && !s.seconds)
		s.runs = 1;
	until_ns = now_ns() + s.seconds * 1000000000u;
	while (s.runs ? done < s.runs : now_ns() < until_ns) {
		if (one_run(&s, s.again ? s.seed : s.seed + done, &slowest_ns))
			return 1;
		done++;
	}
	printf("# %" PRIu64 " sequences from seed %" PRIu64
	       ", longest request %.2f seconds\n",
		done, s.seed, (double)slowest_ns / 1e9);
	return 0;
}
