/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Reference counts and the allocator.
 *
 * Counts change in memory only (ref_cache, reft); commit.c writes them before anything that
 * relies on them. An allocation never waits for a commit: it takes what is free now and else
 * extends the file. A missing refcount block counts zero for all its clusters; it is made
 * when one of them is first counted, and lies right behind the run that needed it, so that a
 * new image describes itself without a special case.
 *
 * The refcount table is an array that grows in memory; commit.c moves it on disk.
 */
#include "qcow2/qcow2.h"

uint64_t qcow2_refcount_load(const uint8_t *block, unsigned order, uint64_t i)
{
	switch (order) {
	case 0:
	case 1:
	case 2: {
		unsigned width = 1u << order, per = 8u >> order;

		return (block[i / per] >> (i % per * width)) & ((1u << width) - 1);
	}
	case 3:
		return block[i];
	case 4:
		return be16_get(((const be16 *)block)[i]);
	case 5:
		return be32_get(((const be32 *)block)[i]);
	default:
		return be64_get(((const be64 *)block)[i]);
	}
}

void qcow2_refcount_store(uint8_t *block, unsigned order, uint64_t i, uint64_t value)
{
	switch (order) {
	case 0:
	case 1:
	case 2: {
		unsigned width = 1u << order, per = 8u >> order;
		unsigned shift = i % per * width, mask = ((1u << width) - 1) << shift;

		block[i / per] = (block[i / per] & ~mask) | value << shift;
		break;
	}
	case 3:
		block[i] = value;
		break;
	case 4:
		((be16 *)block)[i] = be16_put(value);
		break;
	case 5:
		((be32 *)block)[i] = be32_put(value);
		break;
	default:
		((be64 *)block)[i] = be64_put(value);
		break;
	}
}

/* Counts a slice of a refcount block holds. */
static uint64_t slice_counts(const struct qcow2 *q)
{
	return ((uint64_t)q->ref_cache.slice_bytes * 8) >> q->refcount_order;
}

/* Host offset of the slice that counts a cluster; 0 where there is no block. */
static uint64_t slice_offset(const struct qcow2 *q, uint64_t cluster)
{
	uint64_t rb = cluster >> q->refblock_bits;
	uint64_t in_block = cluster & ((1ull << q->refblock_bits) - 1);

	if (rb >= q->reft_entries || !q->reft[rb])
		return 0;
	return q->reft[rb] + in_block / slice_counts(q) * q->ref_cache.slice_bytes;
}

static int get_locked(struct qcow2 *q, uint64_t cluster, uint64_t *out)
{
	uint64_t offset = slice_offset(q, cluster);
	struct qcow2_slice *s;
	int ret;

	*out = 0;
	if (!offset)
		return 0;
	ret = qcow2_cache_get(&q->ref_cache, offset, &s);
	if (ret < 0)
		return ret;
	pthread_mutex_lock(&q->ref_cache.lock);
	*out = qcow2_refcount_load(s->data, q->refcount_order, cluster % slice_counts(q));
	pthread_mutex_unlock(&q->ref_cache.lock);
	qcow2_cache_put(&q->ref_cache, s);
	return 0;
}

int qcow2_refcount_get(struct qcow2 *q, uint64_t cluster, uint64_t *out)
{
	int ret;

	task_lock(&q->alloc_lock);
	ret = get_locked(q, cluster, out);
	task_unlock(&q->alloc_lock);
	return ret;
}

/* A count reached zero: the cluster is free from here on. */
static void cluster_freed(struct qcow2 *q, uint64_t cluster)
{
	uint64_t offset = cluster << q->cluster_bits;

	q->alloc_hint = MIN(q->alloc_hint, cluster);
	q->reft_full[cluster >> q->refblock_bits] = 0;
	if (q->compressed_next && qcow2_cluster_of(q, q->compressed_next) == cluster)
		q->compressed_next = 0;
	if (!qcow2_overlap_ok(q, QCOW2_DATA, offset, 1)) {
		qcow2_cache_drop(&q->l2_cache, offset, q->cluster_bytes);
		qcow2_overlap_mark(q, QCOW2_DATA, offset, q->cluster_bytes);
	}
}

/* Adds delta (1 or -1) to the counts [first, first + n), all in this slice; *done says how
 * many it did. cluster_freed takes other leaf locks under ref_cache.lock, never the reverse. */
static int slice_add(struct qcow2 *q, struct qcow2_slice *s, uint64_t first, uint64_t n,
	int delta, uint64_t *done)
{
	unsigned order = q->refcount_order;
	uint64_t i = first % slice_counts(q);
	int ret = 0;

	pthread_mutex_lock(&q->ref_cache.lock);
	for (*done = 0; *done < n; ++*done) {
		uint64_t v = qcow2_refcount_load(s->data, order, i + *done);

		if (v == (delta > 0 ? q->refcount_max : 0)) {
			ret = delta > 0 ? -ERANGE : -EIO;
			break;
		}
		qcow2_refcount_store(s->data, order, i + *done, v + delta);
		if (v + delta == 0)
			cluster_freed(q, first + *done);
	}
	if (*done)
		qcow2_cache_mark_dirty(&q->ref_cache, s, (i << order) / 8,
			((i + *done - 1) << order) / 8 + 1);
	pthread_mutex_unlock(&q->ref_cache.lock);
	return ret;
}

/* Every block the range needs exists. All or nothing. */
static int counts_add(struct qcow2 *q, uint64_t first, uint64_t n, int delta)
{
	uint64_t per = slice_counts(q), at = first, end = first + n;
	bool lie = false; /* a count of zero falls */
	int ret = 0;

	while (at < end && ret == 0) {
		uint64_t step = MIN(per - at % per, end - at), done = 0;
		uint64_t offset = slice_offset(q, at);
		struct qcow2_slice *s;

		if (!offset) {
			lie = true;
			ret = -EIO;
			break;
		}
		ret = qcow2_cache_get(&q->ref_cache, offset, &s);
		if (ret < 0)
			break;
		ret = slice_add(q, s, at, step, delta, &done);
		lie = ret == -EIO;
		qcow2_cache_put(&q->ref_cache, s);
		at += done;
	}
	if (ret == 0)
		return 0;
	if (at > first && delta > 0)
		counts_add(q, first, at - first, -delta);
	if (lie)
		return qcow2_set_corrupt(
			q, "cluster %" PRIu64 " is freed, but its refcount is zero", at);
	return ret;
}

/* ---- refcount blocks ------------------------------------------------------------- */

/* How many entries the table gets that has to have so many. */
static uint64_t reft_grown(const struct qcow2 *q, uint64_t entries)
{
	uint64_t want = MAX(entries, q->reft_entries + q->reft_entries / 2);

	return entries <= q->reft_entries ? q->reft_entries
					  : round_up(want, q->cluster_bytes / 8);
}

static int reft_grow(struct qcow2 *q, uint64_t entries)
{
	uint64_t want = reft_grown(q, entries);
	_Atomic uint64_t *reft;
	uint8_t *dirty, *full;

	if (entries * 8 > QCOW2_MAX_REFTABLE_BYTES)
		return -EFBIG;
	want = MIN(want, QCOW2_MAX_REFTABLE_BYTES / 8);
	reft = realloc(q->reft, want * 8);
	if (reft)
		q->reft = reft;
	dirty = realloc(q->reft_dirty, want / 64 + 1);
	if (dirty)
		q->reft_dirty = dirty;
	full = realloc(q->reft_full, want);
	if (full)
		q->reft_full = full;
	if (!reft || !dirty || !full)
		return -ENOMEM;
	memset((void *)(reft + q->reft_entries), 0, (want - q->reft_entries) * 8);
	memset(full + q->reft_entries, 0, want - q->reft_entries);
	memset(dirty, 1, want / 64 + 1); /* it moves: all of it is written */
	q->reft_entries = want;
	q->reft_any_dirty = true;
	return 0;
}

/* Puts an empty block for index rb at a free cluster. Its own count is the caller's. */
static int block_make(struct qcow2 *q, uint64_t rb, uint64_t cluster)
{
	uint64_t offset = cluster << q->cluster_bits;
	int ret = 0;

	if (!qcow2_overlap_ok(q, QCOW2_DATA, offset, q->cluster_bytes))
		return qcow2_set_corrupt(q,
			"cluster %" PRIu64 " is metadata, but its refcount is zero",
			cluster);
	if (rb >= q->reft_entries)
		ret = reft_grow(q, rb + 1);
	if (ret == 0)
		ret = qcow2_overlap_mark(q, QCOW2_K_REFBLOCK, offset, q->cluster_bytes);
	for (uint32_t pos = 0; pos < q->cluster_bytes && ret == 0;
		pos += q->ref_cache.slice_bytes) {
		struct qcow2_slice *s;

		ret = qcow2_cache_new(&q->ref_cache, offset + pos, &s);
		if (ret == 0)
			qcow2_cache_put(&q->ref_cache, s);
	}
	if (ret < 0) {
		qcow2_cache_drop(&q->ref_cache, offset, q->cluster_bytes);
		qcow2_overlap_mark(q, QCOW2_DATA, offset, q->cluster_bytes);
		return ret;
	}
	q->reft[rb] = offset;
	q->reft_dirty[rb / 64] = 1;
	q->reft_any_dirty = true;
	q->reft_full[rb] = 0;
	return 0;
}

/* First cluster from c on that nobody counts. */
static int next_free(struct qcow2 *q, uint64_t *c)
{
	for (;; ++*c) {
		uint64_t v;
		int ret = get_locked(q, *c, &v);

		if (ret < 0 || v == 0)
			return ret;
	}
}

/* Takes back the blocks of the range that did not come to be counted. */
static void blocks_unmake(struct qcow2 *q, uint64_t rb, uint64_t last_rb)
{
	for (; rb <= last_rb && rb < q->reft_entries; rb++) {
		uint64_t offset = q->reft[rb], v = 1;

		if (!offset || get_locked(q, qcow2_cluster_of(q, offset), &v) < 0 || v)
			continue;
		q->reft[rb] = 0;
		qcow2_cache_drop(&q->ref_cache, offset, q->cluster_bytes);
		qcow2_overlap_mark(q, QCOW2_DATA, offset, q->cluster_bytes);
	}
}

/*
 * Makes the blocks that [first, end) lacks, each at the next free cluster behind the range;
 * those clusters may lack blocks in turn, which lie further up, so one pass sees them too.
 * Then counts the blocks' own clusters: the new ones are those still counted zero. *behind is
 * the end of what was used.
 */
static int blocks_ensure(struct qcow2 *q, uint64_t first, uint64_t end, uint64_t *behind)
{
	uint64_t first_rb = first >> q->refblock_bits,
		 last_rb = (end - 1) >> q->refblock_bits;
	bool made = false;
	int ret = 0;

	*behind = end;
	for (uint64_t rb = first_rb; rb <= last_rb && ret == 0; rb++) {
		if (rb < q->reft_entries && q->reft[rb])
			continue;
		ret = next_free(q, behind);
		if (ret == 0)
			ret = block_make(q, rb, *behind);
		if (ret == 0) {
			last_rb = MAX(last_rb, *behind >> q->refblock_bits);
			++*behind;
			made = true;
		}
	}
	for (uint64_t rb = first_rb; made && rb <= last_rb && ret == 0; rb++) {
		uint64_t own = qcow2_cluster_of(q, q->reft[rb]), v;

		ret = get_locked(q, own, &v);
		if (ret == 0 && v == 0)
			ret = counts_add(q, own, 1, 1);
	}
	if (ret < 0)
		blocks_unmake(q, first_rb, last_rb);
	return ret;
}

/* ---- allocation ------------------------------------------------------------------ */

/* Counts of zero from cluster c on, at most n, in c's slice alone. */
static int zeros_at(struct qcow2 *q, uint64_t c, uint64_t n, uint64_t *zeros)
{
	uint64_t per = slice_counts(q), offset = slice_offset(q, c), i = c % per;
	struct qcow2_slice *s;
	int ret;

	n = MIN(n, per - i);
	*zeros = n;
	if (!offset)
		return 0;
	ret = qcow2_cache_get(&q->ref_cache, offset, &s);
	if (ret < 0)
		return ret;
	pthread_mutex_lock(&q->ref_cache.lock);
	for (*zeros = 0; *zeros < n; ++*zeros)
		if (qcow2_refcount_load(s->data, q->refcount_order, i + *zeros))
			break;
	pthread_mutex_unlock(&q->ref_cache.lock);
	qcow2_cache_put(&q->ref_cache, s);
	return 0;
}

/* The first free cluster at or behind c. A block seen full from its start is remembered. */
static int skip_used(struct qcow2 *q, uint64_t *c)
{
	uint64_t per = slice_counts(q), block_mask = (1ull << q->refblock_bits) - 1;
	bool from_start = false;

	for (;;) {
		uint64_t rb = *c >> q->refblock_bits, offset = slice_offset(q, *c),
			 i = *c % per;
		struct qcow2_slice *s;
		int ret;

		if (!offset)
			return 0;
		if (q->reft_full[rb]) {
			*c = (rb + 1) << q->refblock_bits;
			continue;
		}
		if (!(*c & block_mask))
			from_start = true;
		ret = qcow2_cache_get(&q->ref_cache, offset, &s);
		if (ret < 0)
			return ret;
		pthread_mutex_lock(&q->ref_cache.lock);
		while (i < per && qcow2_refcount_load(s->data, q->refcount_order, i))
			i++;
		pthread_mutex_unlock(&q->ref_cache.lock);
		qcow2_cache_put(&q->ref_cache, s);
		*c += i - *c % per;
		if (i < per)
			return 0;
		if (from_start && !(*c & block_mask))
			q->reft_full[rb] = 1;
	}
}

/* The end of the clusters there can be: of the format, or of a device that cannot grow. */
static uint64_t cluster_limit(const struct qcow2 *q, int *error)
{
	if (q->file->caps & BLK_CAP_GROW) {
		*error = -EFBIG;
		return QCOW2_HOST_LIMIT >> q->cluster_bits;
	}
	*error = -ENOSPC;
	return qcow2_cluster_of(q, blk_size(q->file));
}

/* A run of at most n free clusters (exactly n where exact), the first there is. */
static int find_run(
	struct qcow2 *q, uint64_t n, bool exact, uint64_t *first, uint64_t *len)
{
	int full;
	uint64_t c = q->alloc_hint, limit = cluster_limit(q, &full);
	bool lowest = true;

	for (;;) {
		uint64_t run = 0, zeros;
		int ret = skip_used(q, &c);

		if (ret < 0)
			return ret;
		if (lowest)
			q->alloc_hint = c;
		lowest = false;
		do {
			ret = zeros_at(q, c + run, n - run, &zeros);
			if (ret < 0)
				return ret;
			run += zeros;
		} while (run < n && zeros && (c + run) % slice_counts(q) == 0);
		if (!exact && c < limit)
			run = MIN(run, limit - c);
		if (c + run > limit)
			return full;
		if (run == n || (run && !exact)) {
			*first = c;
			*len = run;
			return 0;
		}
		c += run;
	}
}

/* The clusters that the refcount table will take when it is moved on disk, which is the next
 * commit's work, and the blocks that count them. Kept free on a device: a commit that finds
 * no room would have promised too much. */
static uint64_t kept_for_reft(const struct qcow2 *q, uint64_t entries)
{
	uint64_t need = div_round_up(reft_grown(q, entries) * 8, q->cluster_bytes);

	return q->reft_moving || need <= q->reft_clusters
		       ? 0
		       : need + (need >> q->refblock_bits) + 2;
}

/* Blocks may be put behind the run: a device has room for them too, or nothing is taken.
 * Goes the way of blocks_ensure, without making any. */
static int check_room(struct qcow2 *q, uint64_t first, uint64_t end)
{
	uint64_t behind = end, last_rb = (end - 1) >> q->refblock_bits;
	int full;

	for (uint64_t rb = first >> q->refblock_bits; rb <= last_rb; rb++) {
		int ret;

		if (rb < q->reft_entries && q->reft[rb])
			continue;
		ret = next_free(q, &behind);
		if (ret < 0)
			return ret;
		last_rb = MAX(last_rb, behind >> q->refblock_bits);
		behind++;
	}
	behind += kept_for_reft(q, last_rb + 1);
	return behind > cluster_limit(q, &full) ? full : 0;
}

/* Takes [first, first + n): makes blocks, counts, and looks whether something lies there. */
static int take_run(struct qcow2 *q, uint64_t first, uint64_t n, bool *fresh)
{
	uint64_t offset = first << q->cluster_bits, bytes = n << q->cluster_bits,
		 behind = first + n;
	int ret;

	if (!qcow2_overlap_ok(q, QCOW2_DATA, offset, bytes))
		return qcow2_set_corrupt(q,
			"clusters from %" PRIu64
			" are metadata, but their refcount is zero",
			first);
	ret = check_room(q, first, first + n);
	if (ret == 0)
		ret = blocks_ensure(q, first, first + n, &behind);
	if (ret == 0)
		ret = counts_add(q, first, n, 1);
	if (ret < 0)
		return ret;
	*fresh = q->zero_init && offset >= q->fresh_from;
	q->fresh_from = MAX(q->fresh_from, behind << q->cluster_bits);
	if (first == q->alloc_hint)
		q->alloc_hint = first + n;
	return 0;
}

static int alloc_once(struct qcow2 *q, uint64_t n, bool exact, struct qcow2_alloc *out)
{
	uint64_t first = 0;
	int ret = find_run(q, n, exact, &first, &out->n);

	/* At the end of a device the last of them may have to be left to a block. */
	while (ret == 0 && !exact && out->n > 1 &&
		check_room(q, first, first + out->n) == -ENOSPC)
		out->n--;
	if (ret == 0)
		ret = take_run(q, first, out->n, &out->fresh);
	out->offset = first << q->cluster_bits;
	return ret;
}

/* A device that is full may have been made larger since it was last asked, or there is one
 * below who can do it. True where it has grown: by what was wanted or by less. */
static bool device_has_grown(struct qcow2 *q, uint64_t n)
{
	uint64_t before = blk_size(q->file), blocks = (n >> q->refblock_bits) + 2;

	if (q->file->caps & BLK_CAP_GROW || n > QCOW2_HOST_LIMIT >> q->cluster_bits)
		return false;
	blk_resize(q->file, before + ((n + blocks) << q->cluster_bits), BLK_PREALLOC_OFF,
		NULL);
	return blk_size(q->file) > before;
}

static int alloc_locked(struct qcow2 *q, uint64_t n, bool exact, struct qcow2_alloc *out)
{
	int ret;

	do
		ret = alloc_once(q, n, exact, out);
	while (ret == -ENOSPC && device_has_grown(q, n));
	return ret;
}

int qcow2_alloc(struct qcow2 *q, uint64_t n, bool exact, struct qcow2_alloc *out)
{
	int ret;

	assert(n > 0);
	task_lock(&q->alloc_lock);
	ret = alloc_locked(q, n, exact, out);
	task_unlock(&q->alloc_lock);
	return ret;
}

/* Goes on in the cluster of compressed_next, and into the one behind it if that is free. */
static int compressed_append(struct qcow2 *q, uint32_t bytes, uint64_t *offset)
{
	uint64_t at = q->compressed_next, cluster = qcow2_cluster_of(q, at), count,
		 next_count;
	uint64_t left = q->cluster_bytes - qcow2_in_cluster(q, at);
	bool fresh;
	int ret;

	if (!at || qcow2_in_cluster(q, at) == 0)
		return -ENOSPC;
	ret = get_locked(q, cluster, &count);
	if (ret < 0 || count == 0 || count == q->refcount_max)
		return ret < 0 ? ret : -ENOSPC;
	if (bytes > left) {
		ret = get_locked(q, cluster + 1, &next_count);
		if (ret < 0 || next_count)
			return ret < 0 ? ret : -ENOSPC;
		ret = take_run(q, cluster + 1, 1, &fresh);
		if (ret < 0)
			return ret;
	}
	ret = counts_add(q, cluster, 1, 1);
	if (ret < 0) {
		if (bytes > left)
			counts_add(q, cluster + 1, 1, -1);
		return ret;
	}
	*offset = at;
	q->compressed_next = at + bytes;
	return 0;
}

static int alloc_compressed_one(struct qcow2 *q, uint32_t bytes, uint64_t *offset)
{
	struct qcow2_alloc a;
	int ret = compressed_append(q, bytes, offset);

	if (ret != -ENOSPC)
		return ret;
	ret = alloc_locked(q, 1, true, &a);
	if (ret < 0)
		return ret;
	if (a.offset & ~q->compressed_offset_mask) {
		counts_add(q, qcow2_cluster_of(q, a.offset), 1, -1);
		return -EFBIG;
	}
	*offset = a.offset;
	q->compressed_next = a.offset + bytes;
	return 0;
}

static void unalloc_locked(struct qcow2 *q, uint64_t offset, uint64_t bytes)
{
	uint64_t first = qcow2_cluster_of(q, offset);

	counts_add(q, first, qcow2_cluster_of(q, offset + bytes - 1) - first + 1, -1);
}

int qcow2_alloc_compressed(
	struct qcow2 *q, size_t n, const uint32_t *bytes, uint64_t *offsets)
{
	int ret = 0;
	size_t i;

	task_lock(&q->alloc_lock);
	for (i = 0; i < n; i++) {
		ret = alloc_compressed_one(q, bytes[i], &offsets[i]);
		if (ret < 0)
			break;
	}
	while (ret < 0 && i-- > 0)
		unalloc_locked(q, offsets[i], bytes[i]);
	task_unlock(&q->alloc_lock);
	return ret;
}

void qcow2_unalloc(struct qcow2 *q, uint64_t offset, uint64_t bytes)
{
	task_lock(&q->alloc_lock);
	unalloc_locked(q, offset, bytes);
	task_unlock(&q->alloc_lock);
}

int qcow2_count_used(struct qcow2 *q, uint64_t end, uint64_t enough, uint64_t *used)
{
	int ret = 0;

	*used = 0;
	task_lock(&q->alloc_lock);
	end = MIN(end, q->reft_entries << q->refblock_bits);
	for (uint64_t c = 0, zeros; c < end && *used < enough && ret == 0;) {
		if (!slice_offset(q, c)) {
			c += slice_counts(q) - c % slice_counts(q);
			continue;
		}
		ret = zeros_at(q, c, end - c, &zeros);
		c += zeros;
		if (!zeros) {
			++*used;
			c++;
		}
	}
	task_unlock(&q->alloc_lock);
	return ret;
}

int qcow2_trim_file(struct qcow2 *q, struct err *err)
{
	uint64_t end = qcow2_cluster_of(q, q->fresh_from), v = 0;
	bool cuts = q->file->caps & BLK_CAP_GROW;
	int ret = 0;

	task_lock(&q->alloc_lock);
	end = MIN(end, q->reft_entries << q->refblock_bits);
	while (end && ret == 0 && v == 0) {
		if (!slice_offset(q, end - 1))
			end = round_down(end - 1, slice_counts(q));
		else if ((ret = get_locked(q, end - 1, &v)) == 0 && v == 0)
			end--;
	}
	if (ret < 0)
		err_errno(err, -ret, "Could not read refcounts");
	else if (cuts && blk_size(q->file) > end << q->cluster_bits)
		ret = blk_resize(q->file, end << q->cluster_bits, BLK_PREALLOC_OFF, err);
	/* What is written behind the new end must not bring back what lay there. */
	if (ret == 0 && (ret = blk_flush(q->file)) < 0)
		err_errno(err, -ret, "Could not flush");
	if (ret == 0 && cuts)
		q->fresh_from = end << q->cluster_bits;
	task_unlock(&q->alloc_lock);
	return ret;
}

/* ---- freeing --------------------------------------------------------------------- */

int qcow2_free_later(struct qcow2 *q, uint64_t offset, uint64_t bytes, bool discard)
{
	struct qcow2_free_list *l = &q->freed;
	struct qcow2_free *tail;

	task_lock(&q->alloc_lock);
	tail = l->n ? &l->v[l->n - 1] : NULL;
	if (tail && tail->discard == discard && tail->offset + tail->bytes == offset &&
		is_aligned(offset | bytes | tail->bytes, q->cluster_bytes)) {
		tail->bytes += bytes;
		task_unlock(&q->alloc_lock);
		return 0;
	}
	if (l->n == l->cap) {
		size_t cap = MAX(l->cap * 2, (size_t)64);
		struct qcow2_free *v = realloc(l->v, cap * sizeof(*v));

		if (!v) { /* it leaks, which a check finds: never a dangling reference */
			task_unlock(&q->alloc_lock);
			return -ENOMEM;
		}
		l->v = v;
		l->cap = cap;
	}
	l->v[l->n++] = (struct qcow2_free){offset, bytes, discard};
	q->freed_hint = l->n;
	task_unlock(&q->alloc_lock);
	return 0;
}

/* Passes down a discard for the clusters of the range that nobody counts any more. */
static int discard_unused(struct qcow2 *q, const struct qcow2_free *f)
{
	uint64_t c = qcow2_cluster_of(q, f->offset);
	uint64_t end = qcow2_cluster_of(q, f->offset + f->bytes - 1) + 1, run, zeros;
	int ret = 0;

	for (; c < end && ret == 0; c += MAX(run, (uint64_t)1)) {
		ret = zeros_at(q, c, end - c, &zeros);
		run = ret == 0 ? zeros : 0;
		if (run)
			blk_discard(
				q->file, c << q->cluster_bits, run << q->cluster_bits);
	}
	return ret;
}

int qcow2_free_apply(struct qcow2 *q, struct qcow2_free_list *list)
{
	int ret = 0;

	task_lock(&q->alloc_lock);
	for (size_t i = 0; i < list->n; i++) {
		const struct qcow2_free *f = &list->v[i];
		uint64_t first = qcow2_cluster_of(q, f->offset);
		uint64_t n = qcow2_cluster_of(q, f->offset + f->bytes - 1) - first + 1;
		int r = counts_add(q, first, n, -1);

		if (r == 0 && f->discard)
			r = discard_unused(q, f);
		ret = ret ? ret : r;
	}
	list->n = 0;
	task_unlock(&q->alloc_lock);
	return ret;
}

/*
 * Memory for counters: an honest image needs two bytes for each cluster it has, whose
 * tables take four times as much on disk. A sparse file that claims to be huge gets no
 * more than what it stores could justify.
 */
size_t qcow2_count_limit(struct qcow2 *q)
{
	uint64_t base = 64 * MiB, most = 4 * GiB;
	int64_t stored =
		q->file->drv->allocated ? q->file->drv->allocated(q->file) : -ENOTSUP;

	if (stored < 0)
		stored = blk_size(q->file);
	return MIN(base + (uint64_t)stored / 4, most);
}

/* ---- the refcount table on disk -------------------------------------------------- */

int qcow2_reft_grow_on_disk(struct qcow2 *q)
{
	uint64_t old_offset = q->reft_offset, need;
	uint32_t old_clusters = q->reft_clusters;
	struct qcow2_alloc a;
	int ret;

	task_lock(&q->alloc_lock);
	need = div_round_up(q->reft_entries * 8, q->cluster_bytes);
	if (need <= q->reft_clusters) {
		task_unlock(&q->alloc_lock);
		return 0;
	}
	/* Counting the new table may outgrow the table once more; then it is too small. */
	q->reft_moving = true;
	for (;;) {
		ret = alloc_locked(q, need, true, &a);
		if (ret < 0)
			break;
		if (div_round_up(q->reft_entries * 8, q->cluster_bytes) <= need)
			break;
		unalloc_locked(q, a.offset, need << q->cluster_bits);
		need = div_round_up(q->reft_entries * 8, q->cluster_bytes);
	}
	q->reft_moving = false;
	if (ret == 0)
		ret = qcow2_overlap_mark(
			q, QCOW2_K_REFTABLE, a.offset, need << q->cluster_bits);
	if (ret == 0) {
		q->reft_offset = a.offset;
		q->reft_clusters = (uint32_t)need;
		q->header_stale = true;
		memset(q->reft_dirty, 1, q->reft_entries / 64 + 1);
		q->reft_any_dirty = true;
	}
	task_unlock(&q->alloc_lock);
	if (ret < 0)
		return ret;
	return qcow2_free_later(
		q, old_offset, (uint64_t)old_clusters << q->cluster_bits, false);
}
