/* SPDX-License-Identifier: BSD-2-Clause */
/* See workload.h. */
#include "tests/engine/workload.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/iov.h"
#include "base/math.h"
#include "base/task.h"
#include "block/format.h"

#define MAX_BATCH 6

enum request_kind { REQ_WRITE, REQ_ZERO, REQ_DISCARD, REQ_COMPRESSED };

struct request {
	struct workload *w;
	struct blk *b;
	enum request_kind kind;
	unsigned flags;
	uint64_t sector, n;
	uint8_t *buf;
	uint32_t op;
	int ret;
};

static uint64_t now(struct workload *w)
{
	return w->time(w->arg);
}

/* Notes a failure. An error is a known number, and control calls explain theirs. */
static int note(struct workload *w, const char *what, int ret, const struct err *said,
	struct err *err)
{
	if (!ret)
		return 0;
	if (w->trace)
		printf("  %s: %s%s%s\n", what, strerror(-ret), said ? ": " : "",
			said ? said->msg : "");
	if (!w->failures++)
		err_set(&w->err, EIO, "%s: %s", what, said ? said->msg : strerror(-ret));
	if (ret > 0 || ret < -4095)
		return err_set(err, EIO, "%s returned %d", what, ret);
	if (said && !said->msg[0])
		return err_set(err, EIO, "%s failed without a message", what);
	return 0;
}

/* ---- data ------------------------------------------------------------------------ */

/* Data like no other sector's: a stamp, and something that may compress. */
static void stamp(struct workload *w, uint8_t *buf, uint64_t n_sectors)
{
	config_fill(&w->rng, buf, n_sectors * BLK_SECTOR);
	for (uint64_t i = 0; i < n_sectors; i++) {
		uint64_t mark = 0xb17e000000000000u | ++w->stamp;

		memcpy(buf + i * BLK_SECTOR, &mark, sizeof(mark));
	}
}

static void set_versions(struct request *r)
{
	for (uint64_t i = 0; i < r->n; i++)
		history_set(r->w->history, r->op, r->sector + i,
			r->buf ? history_hash(r->buf + i * BLK_SECTOR) : HISTORY_ZERO);
}

static int request_run(void *arg)
{
	struct request *r = arg;
	uint64_t offset = r->sector * BLK_SECTOR, bytes = r->n * BLK_SECTOR;

	switch (r->kind) {
	case REQ_WRITE:
	case REQ_COMPRESSED:
		r->ret = blk_pwrite(r->b, offset, r->buf, bytes, r->flags);
		break;
	case REQ_ZERO:
		r->ret = blk_zero(r->b, offset, bytes, r->flags);
		break;
	case REQ_DISCARD:
		r->ret = blk_discard(r->b, offset, bytes);
		break;
	}
	return 0;
}

/* A discard that is done has zeroed some sectors and left others: the disk tells which.
 * The versions (all zero so far) of those that were left go away again. */
static int discard_settle(struct request *r)
{
	struct history *h = r->w->history;
	uint8_t *buf = buf_alloc(r->n * BLK_SECTOR);
	int ret = buf ? blk_pread(r->b, r->sector * BLK_SECTOR, buf, r->n * BLK_SECTOR)
		      : -ENOMEM;

	for (uint64_t i = 0; !ret && i < r->n; i++) {
		struct history_sector *s = &h->sectors[r->sector + i];

		if (history_hash(buf + i * BLK_SECTOR) != HISTORY_ZERO)
			s->n--;
	}
	buf_free(buf);
	return ret;
}

static const char *const request_names[] = {
	"write", "zero", "discard", "compressed write"};

/* A request inside sectors [lo, hi). False where none fits. */
static bool request_make(
	struct workload *w, struct request *r, struct blk *b, uint64_t lo, uint64_t hi)
{
	uint64_t cluster = config_cluster_bytes(w->cfg) / BLK_SECTOR;
	uint64_t most = rng_one_in(&w->rng, 4) ? cluster * 3 : MAX(cluster / 2, 2u);
	uint64_t end;

	memset(r, 0, sizeof(*r));
	if (lo >= hi)
		return false;
	r->w = w;
	r->b = b;
	r->sector = rng_between(&w->rng, lo, hi - 1);
	end = MIN(hi, r->sector + rng_between(&w->rng, 1, most));
	r->kind = rng_one_in(&w->rng, 2) ? REQ_WRITE
					 : (enum request_kind)rng_below(&w->rng, 4);
	if (r->kind == REQ_COMPRESSED || rng_one_in(&w->rng, 3)) {
		uint64_t first = round_up(r->sector, cluster),
			 last = round_up(end, cluster);

		if (last > hi)
			last = hi * BLK_SECTOR == blk_size(b) ? hi
							      : round_down(hi, cluster);
		if (first < last) {
			r->sector = first;
			end = last;
		} else if (r->kind == REQ_COMPRESSED) {
			r->kind = REQ_WRITE;
		}
	}
	if (r->kind == REQ_COMPRESSED && !config_has_compression(w->cfg))
		r->kind = REQ_WRITE;
	r->n = end - r->sector;
	if (r->kind == REQ_COMPRESSED)
		r->flags = BLK_COMPRESSED;
	else if (r->kind == REQ_ZERO)
		r->flags = rng_one_in(&w->rng, 2) ? BLK_MAY_UNMAP : 0;
	else if (r->kind == REQ_WRITE && rng_one_in(&w->rng, 12))
		r->flags = BLK_FUA;
	return true;
}

/* Several requests at once, each on sectors of its own. */
static int batch(struct workload *w, struct blk *b, struct err *err)
{
	uint64_t sectors = blk_size(b) / BLK_SECTOR;
	unsigned n = (unsigned)rng_between(&w->rng, 1, MAX_BATCH), made = 0;
	struct request reqs[MAX_BATCH];
	struct task_group group;
	uint64_t began = now(w);
	int ret = 0;

	for (unsigned i = 0; i < n; i++) {
		struct request *r = &reqs[made];

		if (!request_make(w, r, b, sectors * i / n, sectors * (i + 1) / n))
			continue;
		if (r->kind == REQ_WRITE || r->kind == REQ_COMPRESSED) {
			r->buf = buf_alloc(r->n * BLK_SECTOR);
			if (!r->buf)
				abort();
			stamp(w, r->buf, r->n);
		}
		r->op = history_begin(w->history, began);
		set_versions(r);
		if (w->trace)
			printf("op %u at %" PRIu64 ": %s sectors %" PRIu64 "+%" PRIu64
			       " flags %u\n",
				r->op, began, request_names[r->kind], r->sector, r->n,
				r->flags);
		made++;
	}
	task_group_init(&group);
	for (unsigned i = 0; i < made; i++)
		if (task_group_spawn(&group, NULL, request_run, &reqs[i]))
			abort();
	task_group_wait(&group);
	for (unsigned i = 0; i < made; i++) {
		struct request *r = &reqs[i];

		if (!r->ret && r->kind == REQ_DISCARD)
			r->ret = discard_settle(r);
		if (!r->ret)
			history_end(w->history, r->op, now(w));
		if (!ret)
			ret = note(w, request_names[r->kind], r->ret, NULL, err);
		buf_free(r->buf);
	}
	return ret;
}

static int flush(struct workload *w, struct blk *b, struct err *err)
{
	uint64_t began = now(w);
	int ret = blk_flush(b);

	if (w->trace)
		printf("flush from %" PRIu64 " to %" PRIu64 "\n", began, now(w));
	if (!ret)
		history_flushed(w->history, began, now(w));
	return note(w, "flush", ret, NULL, err);
}

/* ---- snapshots and size ---------------------------------------------------------- */

static int snapshot_create(struct workload *w, struct blk *b, struct err *err)
{
	struct err said = ERR_INIT;
	char name[16];
	uint32_t op;
	int ret;

	if (w->n_names == ARRAY_LEN(w->names))
		return 0;
	snprintf(name, sizeof(name), "snap%u", ++w->snapshots_made);
	op = history_begin(w->history, now(w));
	if (w->trace)
		printf("op %u at %" PRIu64 ": snapshot create %s\n", op, now(w), name);
	ret = blk_snapshot_create(b, name, &said);
	if (!ret) {
		history_end(w->history, op, now(w));
		history_snapshot_created(w->history, op, name);
		memcpy(w->names[w->n_names++], name, sizeof(name));
	}
	/* Counts of few bits, and clusters that many compressed ones share. */
	if (ret && strstr(said.msg, "maximum refcount"))
		return 0;
	return note(w, "snapshot create", ret, &said, err);
}

static const struct history_snapshot *find(const struct workload *w, const char *name)
{
	for (size_t i = 0; i < w->history->n_snaps; i++)
		if (!strcmp(w->history->snaps[i].name, name))
			return &w->history->snaps[i];
	abort();
}

static int snapshot_apply(struct workload *w, struct blk *b, struct err *err)
{
	const struct history_snapshot *s;
	struct err said = ERR_INIT;
	bool changed;
	uint32_t op;
	int ret;

	if (!w->n_names)
		return 0;
	s = find(w, w->names[rng_below(&w->rng, w->n_names)]);
	op = history_begin(w->history, now(w));
	if (w->trace)
		printf("op %u at %" PRIu64 ": snapshot apply %s\n", op, now(w), s->name);
	ret = blk_snapshot_apply(b, s->name, &changed, &said);
	for (uint64_t i = 0; changed && i < w->history->n_sectors; i++)
		history_set(w->history, op, i, s->hashes[i]);
	if (!ret)
		history_end(w->history, op, now(w));
	return note(w, "snapshot apply", ret, &said, err);
}

static int snapshot_delete(struct workload *w, struct blk *b, struct err *err)
{
	struct err said = ERR_INIT;
	char name[16];
	unsigned i;
	uint32_t op;
	int ret;

	if (!w->n_names)
		return 0;
	i = rng_below(&w->rng, w->n_names);
	memcpy(name, w->names[i], sizeof(name));
	memmove(w->names[i], w->names[i + 1], (--w->n_names - i) * sizeof(w->names[0]));
	op = history_begin(w->history, now(w));
	history_snapshot_deleted(w->history, op, name);
	if (w->trace)
		printf("op %u at %" PRIu64 ": snapshot delete %s\n", op, now(w), name);
	ret = blk_snapshot_delete(b, name, &said);
	if (!ret)
		history_end(w->history, op, now(w));
	return note(w, "snapshot delete", ret, &said, err);
}

static int resize(struct workload *w, struct blk *b, struct err *err)
{
	uint64_t old = blk_size(b) / BLK_SECTOR;
	uint64_t new = rng_between(&w->rng, 1, w->max_bytes / BLK_SECTOR);
	struct err said = ERR_INIT;
	uint32_t op = history_begin(w->history, now(w));
	int ret;

	for (uint64_t i = new; i < old; i++)
		history_set(w->history, op, i, HISTORY_ABSENT);
	for (uint64_t i = old; i < new; i++)
		history_set(w->history, op, i, HISTORY_ZERO);
	if (w->trace)
		printf("op %u at %" PRIu64 ": resize %" PRIu64 " to %" PRIu64
		       " sectors\n",
			op, now(w), old, new);
	ret = blk_resize(b, new *BLK_SECTOR, BLK_PREALLOC_OFF, &said);
	if (!ret)
		history_end(w->history, op, now(w));
	/* Version 2 has no way to keep a snapshot of another size. */
	if (ret == -ENOTSUP && w->cfg->version == 2 && w->n_names)
		return 0;
	return note(w, "resize", ret, &said, err);
}

/* ---- the list -------------------------------------------------------------------- */

static int step(struct workload *w, struct blk *b, struct err *err)
{
	uint64_t kind = rng_below(&w->rng, 20);

	if (kind < 12)
		return batch(w, b, err);
	if (kind < 16)
		return flush(w, b, err);
	if (kind == 16)
		return resize(w, b, err);
	if (!config_has_snapshots(w->cfg))
		return flush(w, b, err);
	if (kind == 17)
		return snapshot_create(w, b, err);
	if (kind == 18)
		return snapshot_apply(w, b, err);
	return snapshot_delete(w, b, err);
}

int workload_run(struct workload *w, struct blk *b, struct err *err)
{
	for (unsigned i = 0; i < w->steps; i++) {
		int ret = step(w, b, err);

		if (ret)
			return ret;
	}
	return 0;
}
