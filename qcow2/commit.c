/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The one place that writes metadata out, in the order of qcow2.h.
 *
 * What a crash leaves, by how far a commit came:
 *	before 1		the image as after the last commit; data written since lies in
 *				clusters nobody counts
 *	in 1 and 2		some counts without a reference: leaks
 *	after 3			all counts, no references: leaks
 *	in 4			any part of the new L2 contents, then of L1's, each pointing to
 *				data, tables and counts that are stable
 *	after 5			the new image; what it dropped is still counted: leaks
 *	after 6			nothing
 *
 * With lazy refcounts, steps 1 and 2 wait for the end; the dirty bit says so on disk.
 */
#include "qcow2/qcow2.h"

/* A commit is due where this many frees wait, or half of a cache is dirty. */
#define FREES_PRESSING 16384u
/* So long who finds no room waits for them. */
#define FREES_NAPS   100u
#define FREES_NAP_NS 1000000u

/* Groups of 64 entries of L1 or the refcount table that disk does not have, copied. */
struct table_capture {
	be64 *entries;
	uint32_t *group;
	size_t n;
};

#define GROUP 64u

/* Under the table's lock. Clears the flags of what it took; -ENOMEM: nothing was taken. */
static int table_capture_take(const _Atomic uint64_t *table, uint64_t entries,
	uint8_t *dirty, struct table_capture *cap)
{
	uint32_t groups = div_round_up(entries, GROUP);
	size_t n = 0;

	*cap = (struct table_capture){0};
	for (uint32_t g = 0; g < groups; g++)
		n += dirty[g];
	if (!n)
		return 0;
	cap->entries = calloc(n * GROUP, sizeof(be64));
	cap->group = calloc(n, sizeof(*cap->group));
	if (!cap->entries || !cap->group) {
		free(cap->entries);
		free(cap->group);
		*cap = (struct table_capture){0};
		return -ENOMEM;
	}
	for (uint32_t g = 0; g < groups; g++) {
		uint64_t first = (uint64_t)g * GROUP, end = MIN(first + GROUP, entries);

		if (!dirty[g])
			continue;
		for (uint64_t i = first; i < end; i++)
			cap->entries[cap->n * GROUP + i - first] = be64_put(table[i]);
		cap->group[cap->n++] = g;
		dirty[g] = 0;
	}
	return 0;
}

static int table_capture_write(struct qcow2 *q, enum qcow2_kind kind, uint64_t offset,
	uint64_t entries, const struct table_capture *cap)
{
	int ret = 0;

	for (size_t i = 0; i < cap->n && ret == 0;) {
		uint64_t first = (uint64_t)cap->group[i] * GROUP;
		size_t run = 1;

		while (i + run < cap->n && cap->group[i + run] == cap->group[i] + run)
			run++;
		ret = qcow2_meta_write(q, kind, offset + first * 8,
			cap->entries + i * GROUP,
			MIN((uint64_t)run * GROUP, entries - first) * 8);
		i += run;
	}
	return ret;
}

/* Under the table's lock. */
static void table_capture_done(
	struct table_capture *cap, uint8_t *dirty, bool *any, int ret)
{
	for (size_t i = 0; i < cap->n && ret < 0; i++) {
		dirty[cap->group[i]] = 1;
		*any = true;
	}
	free(cap->entries);
	free(cap->group);
	*cap = (struct table_capture){0};
}

static int l1_capture_take(struct qcow2 *q, struct table_capture *cap)
{
	int ret = 0;

	*cap = (struct table_capture){0};
	task_lock(&q->l1_lock);
	if (q->l1_any_dirty)
		ret = table_capture_take(q->l1, q->l1_entries, q->l1_dirty, cap);
	if (ret == 0)
		q->l1_any_dirty = false;
	task_unlock(&q->l1_lock);
	return ret;
}

/* Puts the list `from` behind `to`. On lack of memory the clusters leak, no worse. */
static void free_list_move(struct qcow2_free_list *to, struct qcow2_free_list *from)
{
	if (!to->n) {
		struct qcow2_free_list empty = *to;

		*to = *from;
		*from = empty;
		return;
	}
	if (to->n + from->n > to->cap) {
		struct qcow2_free *v = realloc(to->v, (to->n + from->n) * sizeof(*v));

		if (!v) {
			from->n = 0;
			return;
		}
		to->v = v;
		to->cap = to->n + from->n;
	}
	if (from->n)
		memcpy(to->v + to->n, from->v, from->n * sizeof(*from->v));
	to->n += from->n;
	from->n = 0;
}

/* Makes data and counts that were written so far stable. */
static int flush_all(struct qcow2 *q)
{
	int ret = q->data != q->file ? blk_flush(q->data) : 0;

	return ret < 0 ? ret : blk_flush(q->file);
}

/* Step 2: the entries of new refcount blocks, and the header where a table moved. */
static int reft_write(struct qcow2 *q, const struct table_capture *cap)
{
	int ret;

	if (!cap->n && !q->header_stale)
		return 0;
	ret = blk_flush(
		q->file); /* the blocks are stable before an entry says where they are */
	if (ret == 0)
		ret = table_capture_write(
			q, QCOW2_K_REFTABLE, q->reft_offset, q->reft_entries, cap);
	if (ret < 0 || !q->header_stale)
		return ret;
	ret = blk_flush(q->file); /* and a moved table whole before the header does */
	q->header_stale = false;
	if (ret == 0)
		ret = qcow2_header_write(q);
	if (ret < 0)
		q->header_stale = true;
	return ret;
}

/* Steps 1 and 2. Blocks and the table entries that name them are captured at one moment. A
 * count that changes later belongs to the next commit. */
static int refcounts_write(struct qcow2 *q)
{
	struct table_capture table = {0};
	struct qcow2_capture blocks = {0};
	int ret;

	for (;;) {
		ret = qcow2_reft_grow_on_disk(q);
		if (ret < 0)
			return ret;
		task_lock(&q->alloc_lock);
		if (q->reft_entries * 8 <= (uint64_t)q->reft_clusters << q->cluster_bits)
			break;
		task_unlock(&q->alloc_lock); /* outgrown again meanwhile */
	}
	if (q->reft_any_dirty)
		ret = table_capture_take(q->reft, q->reft_entries, q->reft_dirty, &table);
	if (ret == 0)
		q->reft_any_dirty = false;
	if (ret == 0)
		ret = qcow2_cache_capture(&q->ref_cache, &blocks);
	task_unlock(&q->alloc_lock);
	if (ret == 0)
		ret = qcow2_capture_write(q, QCOW2_K_REFBLOCK, &blocks);
	qcow2_capture_done(&q->ref_cache, &blocks, ret);
	if (ret == 0)
		ret = reft_write(q, &table);
	task_lock(&q->alloc_lock);
	table_capture_done(&table, q->reft_dirty, &q->reft_any_dirty, ret);
	task_unlock(&q->alloc_lock);
	return ret;
}

/* Frees what is stable and no longer seen by any request in flight. */
static int frees_advance(struct qcow2 *q)
{
	int ret = 0;

	for (int round = 0; round < 2 && ret == 0; round++) {
		if (q->grace.n && qcow2_epoch_drained(q)) {
			ret = qcow2_free_apply(q, &q->grace);
			q->frees_done++;
		}
		if (!q->grace.n && q->stable.n && qcow2_epoch_drained(q)) {
			qcow2_epoch_flip(q);
			free_list_move(&q->grace, &q->stable);
		}
	}
	return ret;
}

static int commit_locked(struct qcow2 *q, bool lazy)
{
	struct qcow2_free_list freed = {0};
	struct qcow2_capture l2 = {0};
	struct table_capture l1 = {0};
	int ret;

	/* Frees first: a free queued later may belong to a change that is not captured. */
	task_lock(&q->alloc_lock);
	free_list_move(&freed, &q->freed);
	q->freed_hint = 0;
	task_unlock(&q->alloc_lock);
	ret = l1_capture_take(q, &l1);
	if (ret == 0)
		ret = qcow2_cache_capture(&q->l2_cache, &l2);
	if (ret == 0 && (!lazy || q->header_stale))
		ret = refcounts_write(q);
	if (ret == 0)
		ret = flush_all(q);
	if (ret == 0 && (l2.n || l1.n)) {
		ret = qcow2_capture_write(q, QCOW2_K_L2, &l2);
		/* A new table is stable before L1 says where it is: its cluster may hold
		 * anything until then. */
		if (ret == 0 && l2.n && l1.n)
			ret = blk_flush(q->file);
		if (ret == 0)
			ret = table_capture_write(
				q, QCOW2_K_L1, q->l1_offset, q->l1_entries, &l1);
		if (ret == 0)
			ret = blk_flush(q->file);
	}
	qcow2_capture_done(&q->l2_cache, &l2, ret);
	task_lock(&q->l1_lock);
	table_capture_done(&l1, q->l1_dirty, &q->l1_any_dirty, ret);
	task_unlock(&q->l1_lock);
	task_lock(&q->alloc_lock);
	free_list_move(ret < 0 ? &q->freed : &q->stable, &freed);
	q->freed_hint = q->freed.n;
	task_unlock(&q->alloc_lock);
	free(freed.v);
	return ret < 0 ? ret : frees_advance(q);
}

int qcow2_commit(struct qcow2 *q)
{
	int ret;

	task_lock(&q->commit_lock);
	ret = commit_locked(q, q->lazy_refcounts);
	task_unlock(&q->commit_lock);
	return ret;
}

int qcow2_commit_held(struct qcow2 *q)
{
	assert(task_mutex_held(&q->commit_lock));
	return commit_locked(q, false);
}

static bool frees_wait(const struct qcow2 *q)
{
	return q->freed_hint || q->stable.n || q->grace.n;
}

/* They are to be had when they are stable, and the requests that may see them have ended: others than
 * this one, which may take a moment. */
int qcow2_commit_frees(struct qcow2 *q, uint64_t before)
{
	bool wait = true;
	int ret = 0;

	for (unsigned i = 0; i < FREES_NAPS && wait && ret == 0; i++) {
		if (i)
			task_sleep_ns(FREES_NAP_NS);
		task_lock(&q->commit_lock);
		if (q->frees_done == before && !q->corrupt)
			ret = q->freed_hint ? commit_locked(q, q->lazy_refcounts)
					    : frees_advance(q); /* the rest is stable */
		wait = q->frees_done == before && frees_wait(q);
		task_unlock(&q->commit_lock);
	}
	return ret ? ret : q->frees_done != before;
}

static bool pressed(struct qcow2 *q)
{
	bool full;

	pthread_mutex_lock(&q->l2_cache.lock);
	full = q->l2_cache.n_dirty > q->l2_cache.limit / 2;
	pthread_mutex_unlock(&q->l2_cache.lock);
	if (full)
		return true;
	pthread_mutex_lock(&q->ref_cache.lock);
	full = q->ref_cache.n_dirty > q->ref_cache.limit / 2;
	pthread_mutex_unlock(&q->ref_cache.lock);
	return full;
}

int qcow2_commit_if_pressed(struct qcow2 *q)
{
	bool frees;
	int ret = 0;

	frees = q->freed_hint > FREES_PRESSING;
	if (!frees && !pressed(q))
		return 0;
	if (!task_trylock(&q->commit_lock))
		return 0; /* another request is at it */
	ret = commit_locked(q, false);
	task_unlock(&q->commit_lock);
	return ret;
}

static bool anything_left(struct qcow2 *q)
{
	return q->l2_cache.n_dirty || q->ref_cache.n_dirty || q->l1_any_dirty ||
	       q->reft_any_dirty || q->freed.n || q->stable.n || q->grace.n;
}

int qcow2_commit_all(struct qcow2 *q)
{
	int ret;

	task_lock(&q->commit_lock);
	do {
		ret = commit_locked(q, false);
	} while (ret == 0 && anything_left(q));
	task_unlock(&q->commit_lock);
	return ret;
}
