/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Slices of L2 tables and refcount blocks in memory.
 *
 * A slice is a fixed part of a table, keyed by its offset in the image file, so that one
 * entry costs one small read even with 2 MiB clusters. The lock covers the list, the hash
 * and the bytes, and is never held over a park: who needs a slice that is not there puts an
 * empty one in, marked loading, and reads into it with the lock dropped; others wait on it.
 *
 * Dirty slices are never evicted and never written one by one: commit.c captures all of
 * them at one moment and writes the copies. The limit is therefore soft, and
 * qcow2_commit_if_pressed() keeps it near.
 */
#include "qcow2/qcow2.h"

/* Dirty ranges are widened to this, so that a device with 4 KiB sectors need not read. */
#define DIRTY_UNIT  4096u
#define EVICT_STEPS 128u

static size_t hash_of(const struct qcow2_cache *c, uint64_t offset)
{
	return ((offset / c->slice_bytes) * 0x9e3779b97f4a7c15ull >> 32) & c->hash_mask;
}

int qcow2_cache_init(struct qcow2_cache *c, struct qcow2 *q, enum qcow2_kind kind,
	uint32_t slice_bytes, size_t limit_bytes)
{
	size_t buckets = 64;

	memset(c, 0, sizeof(*c));
	c->q = q;
	c->kind = kind;
	c->slice_bytes = slice_bytes;
	c->limit = MAX(limit_bytes / slice_bytes, (size_t)8);
	while (buckets < c->limit)
		buckets *= 2;
	c->hash_mask = buckets - 1;
	c->hash = calloc(buckets, sizeof(struct qcow2_slice *));
	pthread_mutex_init(&c->lock, NULL);
	return c->hash ? 0 : -ENOMEM;
}

static void unhash(struct qcow2_cache *c, struct qcow2_slice *s)
{
	struct qcow2_slice **link = &c->hash[hash_of(c, s->offset)];

	while (*link != s)
		link = &(*link)->hash_next;
	*link = s->hash_next;
}

static void slice_free(struct qcow2_slice *s)
{
	buf_free(s->data);
	free(s);
}

/* Takes a slice out of everything. Its pins keep it alive; the last put frees it. */
static void slice_remove(struct qcow2_cache *c, struct qcow2_slice *s)
{
	unhash(c, s);
	if (s->clock_next == s) {
		c->clock = NULL;
	} else {
		s->clock_prev->clock_next = s->clock_next;
		s->clock_next->clock_prev = s->clock_prev;
		if (c->clock == s)
			c->clock = s->clock_next;
	}
	s->clock_next = s->clock_prev = NULL;
	if (s->dirty_hi > s->dirty_lo) {
		s->dirty_lo = s->dirty_hi = 0;
		c->n_dirty--;
	}
	c->count--;
	if (!s->pins)
		slice_free(s);
}

/* Second chance: gives up the first slice that was not used since the hand last passed. Not
 * found in a few steps, the cache grows by one: most of it is dirty, and walking all of it
 * for each new slice would take longer with each. */
static void evict_one(struct qcow2_cache *c)
{
	struct qcow2_slice *s = c->clock;
	size_t steps = MIN(2 * c->count, (size_t)EVICT_STEPS);

	for (; steps; steps--, s = s->clock_next) {
		if (s->pins || s->dirty_hi > s->dirty_lo)
			continue;
		if (!s->recent) {
			c->clock = s->clock_next;
			slice_remove(c, s);
			return;
		}
		s->recent = false;
	}
	c->clock = s;
}

static struct qcow2_slice *slice_insert(struct qcow2_cache *c, uint64_t offset)
{
	struct qcow2_slice *s = calloc(1, sizeof(*s));
	size_t h = hash_of(c, offset);

	if (!s)
		return NULL;
	s->data = buf_alloc(c->slice_bytes);
	if (!s->data) {
		free(s);
		return NULL;
	}
	if (c->count >= c->limit)
		evict_one(c);
	s->offset = offset;
	s->pins = 1;
	s->recent = true;
	s->hash_next = c->hash[h];
	c->hash[h] = s;
	if (c->clock) {
		s->clock_next = c->clock;
		s->clock_prev = c->clock->clock_prev;
		s->clock_prev->clock_next = s;
		c->clock->clock_prev = s;
	} else {
		c->clock = s->clock_next = s->clock_prev = s;
	}
	c->count++;
	return s;
}

static struct qcow2_slice *slice_find(struct qcow2_cache *c, uint64_t offset)
{
	struct qcow2_slice *s = c->hash[hash_of(c, offset)];

	while (s && s->offset != offset)
		s = s->hash_next;
	return s;
}

struct qcow2_slice *qcow2_cache_lookup(struct qcow2_cache *c, uint64_t offset)
{
	struct qcow2_slice *s = slice_find(c, offset);

	if (!s || s->loading)
		return NULL;
	s->recent = true;
	return s;
}

static void put_locked(struct qcow2_slice *s)
{
	assert(s->pins > 0);
	if (--s->pins == 0 && !s->clock_next) /* removed meanwhile */
		slice_free(s);
}

void qcow2_cache_put(struct qcow2_cache *c, struct qcow2_slice *s)
{
	pthread_mutex_lock(&c->lock);
	put_locked(s);
	pthread_mutex_unlock(&c->lock);
}

static void wake_all(struct waiter *w)
{
	struct waiter *next;

	for (; w; w = next) {
		next = w->next;
		waiter_wake(w);
	}
}

/* Reads a slice that was just inserted; c->lock is held on entry and exit. */
static int slice_load(struct qcow2_cache *c, struct qcow2_slice *s)
{
	struct waiter *waiters;

	s->loading = true;
	pthread_mutex_unlock(&c->lock);
	s->error = qcow2_meta_read(c->q, s->offset, s->data, c->slice_bytes);
	pthread_mutex_lock(&c->lock);
	s->loading = false;
	waiters = s->waiters;
	s->waiters = NULL;
	if (s->error && s->clock_next)
		slice_remove(c, s);
	wake_all(waiters);
	return s->error;
}

static void wait_for_load(struct qcow2_cache *c, struct qcow2_slice *s)
{
	struct waiter w;

	while (s->loading) {
		waiter_init(&w);
		w.next = s->waiters;
		s->waiters = &w;
		pthread_mutex_unlock(&c->lock);
		waiter_wait(&w);
		pthread_mutex_lock(&c->lock);
	}
}

int qcow2_cache_get(struct qcow2_cache *c, uint64_t offset, struct qcow2_slice **out)
{
	struct qcow2_slice *s;
	int ret = 0;

	assert(offset % c->slice_bytes == 0);
	pthread_mutex_lock(&c->lock);
	s = slice_find(c, offset);
	if (s) {
		s->pins++;
		s->recent = true;
		wait_for_load(c, s);
		ret = s->error;
	} else {
		s = slice_insert(c, offset);
		ret = s ? slice_load(c, s) : -ENOMEM;
	}
	if (ret && s)
		put_locked(s);
	pthread_mutex_unlock(&c->lock);
	if (ret == 0)
		*out = s;
	return ret;
}

int qcow2_cache_new(struct qcow2_cache *c, uint64_t offset, struct qcow2_slice **out)
{
	struct qcow2_slice *s;

	pthread_mutex_lock(&c->lock);
	s = slice_find(c, offset);
	if (s) {
		assert(!s->loading); /* the cluster was free: nobody reads it as a table */
		s->pins++;
	} else {
		s = slice_insert(c, offset);
	}
	if (s) {
		memset(s->data, 0, c->slice_bytes);
		qcow2_cache_mark_dirty(c, s, 0, c->slice_bytes);
	}
	pthread_mutex_unlock(&c->lock);
	*out = s;
	return s ? 0 : -ENOMEM;
}

void qcow2_cache_mark_dirty(
	struct qcow2_cache *c, struct qcow2_slice *s, uint32_t lo, uint32_t hi)
{
	uint32_t unit = MIN(DIRTY_UNIT, c->slice_bytes);

	lo = round_down(lo, unit);
	hi = round_up(hi, unit);
	if (s->dirty_hi == s->dirty_lo) {
		c->n_dirty++;
		s->dirty_lo = lo;
		s->dirty_hi = hi;
	} else {
		s->dirty_lo = MIN(s->dirty_lo, lo);
		s->dirty_hi = MAX(s->dirty_hi, hi);
	}
}

void qcow2_cache_drop(struct qcow2_cache *c, uint64_t offset, uint64_t bytes)
{
	pthread_mutex_lock(&c->lock);
	for (uint64_t end = offset + bytes; offset < end; offset += c->slice_bytes) {
		struct qcow2_slice *s = slice_find(c, offset);

		if (s)
			slice_remove(c, s);
	}
	pthread_mutex_unlock(&c->lock);
}

void qcow2_cache_drop_all(struct qcow2_cache *c)
{
	pthread_mutex_lock(&c->lock);
	while (c->clock)
		slice_remove(c, c->clock);
	pthread_mutex_unlock(&c->lock);
}

void qcow2_cache_destroy(struct qcow2_cache *c)
{
	if (!c->q)
		return;
	qcow2_cache_drop_all(c);
	free(c->hash);
	pthread_mutex_destroy(&c->lock);
	c->q = NULL;
}

/* ---- capture: what a commit writes ----------------------------------------------- */

static int capture_slice(struct qcow2_capture *cap, struct qcow2_slice *s)
{
	struct qcow2_capture_part *p = &cap->v[cap->n];

	p->bytes = s->dirty_hi - s->dirty_lo;
	p->data = buf_alloc(p->bytes);
	if (!p->data)
		return -ENOMEM;
	p->lo = s->dirty_lo;
	p->offset = s->offset + p->lo;
	p->slice = s;
	memcpy(p->data, s->data + p->lo, p->bytes);
	cap->n++;
	return 0;
}

int qcow2_cache_capture(struct qcow2_cache *c, struct qcow2_capture *out)
{
	struct qcow2_slice *s;
	int ret = 0;

	*out = (struct qcow2_capture){0};
	pthread_mutex_lock(&c->lock);
	if (c->n_dirty) {
		out->v = calloc(c->n_dirty, sizeof(*out->v));
		ret = out->v ? 0 : -ENOMEM;
	}
	s = c->clock;
	for (size_t i = 0; ret == 0 && out->n < c->n_dirty && i < c->count; i++) {
		if (s->dirty_hi > s->dirty_lo)
			ret = capture_slice(out, s);
		s = s->clock_next;
	}
	if (ret == 0) {
		assert(out->n == c->n_dirty);
		for (size_t i = 0; i < out->n; i++) {
			out->v[i].slice->pins++;
			out->v[i].slice->dirty_lo = out->v[i].slice->dirty_hi = 0;
		}
		c->n_dirty = 0;
	}
	pthread_mutex_unlock(&c->lock);
	if (ret < 0) {
		for (size_t i = 0; i < out->n; i++)
			buf_free(out->v[i].data);
		free(out->v);
		*out = (struct qcow2_capture){0};
	}
	return ret;
}

void qcow2_capture_done(struct qcow2_cache *c, struct qcow2_capture *cap, int ret)
{
	pthread_mutex_lock(&c->lock);
	for (size_t i = 0; i < cap->n; i++) {
		struct qcow2_capture_part *p = &cap->v[i];

		if (ret < 0 && p->slice->clock_next)
			qcow2_cache_mark_dirty(c, p->slice, p->lo, p->lo + p->bytes);
		put_locked(p->slice);
		buf_free(p->data);
	}
	pthread_mutex_unlock(&c->lock);
	free(cap->v);
	*cap = (struct qcow2_capture){0};
}

static int by_offset(const void *a, const void *b)
{
	const struct qcow2_capture_part *x = a, *y = b;

	return x->offset < y->offset ? -1 : x->offset > y->offset;
}

#define WRITE_TASKS 8u
#define WRITE_PARTS 64 /* adjacent parts of one request */

struct capture_writer {
	struct qcow2 *q;
	enum qcow2_kind kind;
	struct qcow2_capture *cap;
	atomic_size_t next;
};

/* How many parts from i on lie one behind the other. */
static size_t adjacent(const struct qcow2_capture *cap, size_t i)
{
	size_t n = 1;

	while (n < WRITE_PARTS && i + n < cap->n &&
		cap->v[i + n].offset ==
			cap->v[i + n - 1].offset + cap->v[i + n - 1].bytes)
		n++;
	return n;
}

static int write_parts(struct capture_writer *w, size_t i, size_t n)
{
	struct iovec iov[WRITE_PARTS];
	uint64_t bytes = 0;

	for (size_t k = 0; k < n; k++) {
		iov[k].iov_base = w->cap->v[i + k].data;
		iov[k].iov_len = w->cap->v[i + k].bytes;
		bytes += iov[k].iov_len;
	}
	if (!qcow2_overlap_ok(w->q, w->kind, w->cap->v[i].offset, bytes))
		return qcow2_set_corrupt(w->q,
			"tables at 0x%" PRIx64 " would overwrite something else",
			w->cap->v[i].offset);
	return blk_pwritev(w->q->file, w->cap->v[i].offset, iov, (int)n, 0);
}

static int capture_write_task(void *arg)
{
	struct capture_writer *w = arg;

	for (;;) {
		size_t i = atomic_load(&w->next), n;
		int ret;

		do {
			if (i >= w->cap->n)
				return 0;
			n = adjacent(w->cap, i);
		} while (!atomic_compare_exchange_weak(&w->next, &i, i + n));
		ret = write_parts(w, i, n);
		if (ret < 0)
			return ret;
	}
}

int qcow2_capture_write(struct qcow2 *q, enum qcow2_kind kind, struct qcow2_capture *cap)
{
	struct capture_writer w = {.q = q, .kind = kind, .cap = cap};
	struct task_group g;
	int ret = 0;

	if (cap->n == 0)
		return 0;
	qsort(cap->v, cap->n, sizeof(cap->v[0]), by_offset);
	if (adjacent(cap, 0) == cap->n)
		return write_parts(&w, 0, cap->n);
	task_group_init(&g);
	for (size_t i = 0; i < MIN((size_t)WRITE_TASKS, cap->n) && ret == 0; i++)
		ret = task_group_spawn(&g, NULL, capture_write_task, &w);
	if (ret < 0 && cap->n)
		ret = capture_write_task(&w); /* no stack to be had: do it here */
	int ended = task_group_wait(&g);
	return ret < 0 ? ret : ended;
}
