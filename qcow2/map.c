/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Guest offsets to host offsets: L1, L2 and what their entries may say.
 *
 * Readers take the L1 entry with one atomic load and find the L2 slice in the cache; only a
 * slice that is not there costs I/O, and no lock is held over it (I7). An entry is checked
 * each time it is used (I4): nothing decides by an offset that is unaligned, reserved, or
 * outside the file.
 */
#include "qcow2/qcow2.h"

struct position {
	uint32_t l1_index;
	uint64_t l2_offset;    /* host offset of the table; 0: none */
	uint64_t slice_offset; /* host offset of the slice */
	uint32_t index;        /* first entry in the slice */
};

uint64_t qcow2_slice_left(const struct qcow2 *q, uint64_t offset)
{
	return q->slice_entries - qcow2_cluster_of(q, offset) % q->slice_entries;
}

static int locate(struct qcow2 *q, uint64_t offset, struct position *p)
{
	uint64_t l1_index = offset >> (q->cluster_bits + q->l2_bits), entry;
	uint64_t in_table = qcow2_cluster_of(q, offset) & ((1ull << q->l2_bits) - 1);

	*p = (struct position){.index = in_table % q->slice_entries};
	if (l1_index >= q->l1_entries)
		return 0;
	p->l1_index = (uint32_t)l1_index;
	entry = q->l1[l1_index];
	p->l2_offset = entry & QCOW2_OFFSET_MASK;
	if (!p->l2_offset)
		return 0;
	if (!is_aligned(p->l2_offset, q->cluster_bytes))
		return qcow2_set_corrupt(q,
			"L2 table offset 0x%" PRIx64 " unaligned (L1 index: 0x%" PRIx64
			")",
			p->l2_offset, l1_index);
	if (!range_inside(p->l2_offset, q->cluster_bytes,
		    MAX(blk_size(q->file), q->fresh_from)))
		return qcow2_set_corrupt(q,
			"L2 table offset 0x%" PRIx64
			" outside the file (L1 index: 0x%" PRIx64 ")",
			p->l2_offset, l1_index);
	p->slice_offset =
		p->l2_offset + in_table / q->slice_entries * q->l2_cache.slice_bytes;
	return 0;
}

static struct qcow2_entry entry_load(
	const struct qcow2 *q, const uint8_t *data, uint32_t i)
{
	struct qcow2_entry e = {0};
	const be64 *words = (const be64 *)(data + (size_t)i * q->l2_entry_bytes);

	e.desc = be64_get(words[0]);
	if (q->extl2)
		e.bitmap = be64_get(words[1]);
	return e;
}

static void entry_store(
	const struct qcow2 *q, uint8_t *data, uint32_t i, struct qcow2_entry e)
{
	be64 *words = (be64 *)(data + (size_t)i * q->l2_entry_bytes);

	words[0] = be64_put(e.desc);
	if (q->extl2)
		words[1] = be64_put(e.bitmap);
}

static bool has_host(const struct qcow2 *q, struct qcow2_entry e)
{
	return (e.desc & QCOW2_OFFSET_MASK) ||
	       (q->external_data && (e.desc & QCOW2_COPIED));
}

/* Allocation and zero bits may not both be set, nor be set for nothing. */
static int subcluster_type(struct qcow2_entry e, unsigned sc, bool host)
{
	uint64_t alloc = e.bitmap >> sc & 1, zero = e.bitmap >> (32 + sc) & 1;

	if (alloc && zero)
		return -EIO;
	if (alloc)
		return host ? (int)QCOW2_NORMAL : -EIO;
	if (zero)
		return host ? QCOW2_ZERO_ALLOC : QCOW2_ZERO_PLAIN;
	return QCOW2_UNALLOCATED;
}

int qcow2_entry_type(const struct qcow2 *q, struct qcow2_entry e, unsigned sc)
{
	if (e.desc & QCOW2_COMPRESSED)
		return q->external_data || (e.desc & QCOW2_COPIED) || e.bitmap
			       ? -EIO
			       : (int)QCOW2_COMPRESSED_TYPE;
	if (!is_aligned(e.desc & QCOW2_OFFSET_MASK, q->cluster_bytes) ||
		(e.desc & QCOW2_L2_RESERVED))
		return -EIO;
	if (q->extl2)
		return e.desc & QCOW2_ZERO ? -EIO
					   : subcluster_type(e, sc, has_host(q, e));
	if (e.desc & QCOW2_ZERO && q->version < 3)
		return -EIO;
	if (e.desc & QCOW2_ZERO)
		return has_host(q, e) ? QCOW2_ZERO_ALLOC : QCOW2_ZERO_PLAIN;
	return has_host(q, e) ? QCOW2_NORMAL : QCOW2_UNALLOCATED;
}

static bool entry_valid(const struct qcow2 *q, struct qcow2_entry e)
{
	uint32_t alloc = (uint32_t)e.bitmap, zero = e.bitmap >> 32;

	if (qcow2_entry_type(q, e, 0) < 0)
		return false;
	return !q->extl2 || (!(alloc & zero) && (!alloc || has_host(q, e)));
}

/* In a data file clusters lie where the guest has them; the i-th from the offset on. */
static bool is_in_place(
	const struct qcow2 *q, struct qcow2_entry e, uint64_t offset, uint32_t i)
{
	uint64_t cluster = (qcow2_cluster_of(q, offset) + i) << q->cluster_bits;

	return !q->external_data || !has_host(q, e) ||
	       (e.desc & QCOW2_OFFSET_MASK) == cluster;
}

static void run_compressed(
	const struct qcow2 *q, struct qcow2_entry e, struct qcow2_run *out)
{
	uint64_t sectors = (e.desc >> q->compressed_shift) &
			   ((1ull << (62 - q->compressed_shift)) - 1);

	out->host = e.desc & q->compressed_offset_mask;
	out->compressed_bytes =
		(uint32_t)((sectors + 1) * BLK_SECTOR - (out->host & (BLK_SECTOR - 1)));
}

/* Whether entry e at sc goes on where the run ends. */
static bool run_continues(const struct qcow2 *q, const struct qcow2_run *run,
	struct qcow2_entry e, unsigned sc, int type)
{
	if (type != (int)run->type || type == QCOW2_COMPRESSED_TYPE)
		return false;
	if (type == QCOW2_UNALLOCATED && run->reserved != has_host(q, e))
		return false;
	if (type == QCOW2_ZERO_PLAIN || (type == QCOW2_UNALLOCATED && !run->reserved))
		return true;
	return run->copied == !!(e.desc & QCOW2_COPIED) &&
	       (e.desc & QCOW2_OFFSET_MASK) + ((uint64_t)sc << q->subcluster_bits) ==
		       run->host + run->bytes;
}

/* Under the cache lock: the run from guest offset on, over entries of one slice. */
static int scan(const struct qcow2 *q, const uint8_t *data, uint32_t index,
	uint64_t offset, uint64_t bytes, struct qcow2_run *run)
{
	uint64_t in_cluster = qcow2_in_cluster(q, offset);
	unsigned sc = (unsigned)(in_cluster >> q->subcluster_bits);
	uint64_t step = q->subcluster_bytes - (offset & (q->subcluster_bytes - 1));
	struct qcow2_entry e = entry_load(q, data, index);
	int type = qcow2_entry_type(q, e, sc);

	if (type < 0)
		return type;
	*run = (struct qcow2_run){.type = type, .copied = e.desc & QCOW2_COPIED};
	if (type == QCOW2_COMPRESSED_TYPE) {
		run_compressed(q, e, run);
		run->bytes = MIN(q->cluster_bytes - in_cluster, bytes);
		return 0;
	}
	run->reserved = type == QCOW2_UNALLOCATED && has_host(q, e);
	run->host = (e.desc & QCOW2_OFFSET_MASK) + in_cluster;
	run->bytes = step;
	while (run->bytes < bytes) {
		if (++sc == (q->extl2 ? QCOW2_SUBCLUSTERS : 1)) {
			sc = 0;
			if (++index == q->slice_entries)
				break;
			e = entry_load(q, data, index);
		}
		type = qcow2_entry_type(q, e, sc);
		if (type < 0 || !run_continues(q, run, e, sc, type))
			break; /* a bad entry is told about when it is asked for */
		run->bytes += q->subcluster_bytes;
	}
	run->bytes = MIN(run->bytes, bytes);
	return 0;
}

/* A slice in memory: looked up, or loaded and then pinned. Returns with the lock held. */
static int slice_lock(
	struct qcow2 *q, uint64_t offset, struct qcow2_slice **s, bool *pinned)
{
	struct qcow2_cache *c = &q->l2_cache;
	int ret;

	*pinned = false;
	pthread_mutex_lock(&c->lock);
	*s = qcow2_cache_lookup(c, offset);
	if (*s)
		return 0;
	pthread_mutex_unlock(&c->lock);
	ret = qcow2_cache_get(c, offset, s);
	if (ret < 0)
		return ret;
	*pinned = true;
	pthread_mutex_lock(&c->lock);
	return 0;
}

static void slice_unlock(struct qcow2 *q, struct qcow2_slice *s, bool pinned)
{
	pthread_mutex_unlock(&q->l2_cache.lock);
	if (pinned)
		qcow2_cache_put(&q->l2_cache, s);
}

/* The run's host range lies where host bytes can be. */
static int check_host(struct qcow2 *q, uint64_t offset, const struct qcow2_run *run)
{
	uint64_t end = MAX(blk_size(q->file), q->fresh_from);

	if (run->type == QCOW2_COMPRESSED_TYPE && run->host >= end)
		return qcow2_set_corrupt(q,
			"compressed cluster of guest offset 0x%" PRIx64 " at 0x%" PRIx64
			" lies outside the file",
			offset, run->host);
	if (run->type == QCOW2_NORMAL && q->external_data && run->host != offset)
		return qcow2_set_corrupt(q,
			"guest offset 0x%" PRIx64 " maps to 0x%" PRIx64
			" in the data file",
			offset, run->host);
	return 0;
}

int qcow2_map(struct qcow2 *q, uint64_t offset, uint64_t bytes, struct qcow2_run *out)
{
	uint64_t in_slice = (qcow2_slice_left(q, offset) << q->cluster_bits) -
			    qcow2_in_cluster(q, offset);
	struct qcow2_slice *s;
	struct position p;
	bool pinned;
	int ret = locate(q, offset, &p);

	if (ret < 0)
		return ret;
	if (!p.l2_offset) {
		uint64_t span = qcow2_l2_span(q);

		*out = (struct qcow2_run){.type = QCOW2_UNALLOCATED,
			.bytes = MIN(bytes, span - (offset & (span - 1)))};
		return 0;
	}
	ret = slice_lock(q, p.slice_offset, &s, &pinned);
	if (ret < 0)
		return ret;
	ret = scan(q, s->data, p.index, offset, MIN(bytes, in_slice), out);
	struct qcow2_entry e = entry_load(q, s->data, p.index);
	slice_unlock(q, s, pinned);
	if (ret < 0)
		return qcow2_set_corrupt(q,
			"L2 entry 0x%" PRIx64 " of guest offset 0x%" PRIx64
			" in the table at 0x%" PRIx64 " cannot be",
			e.desc, offset, p.l2_offset);
	return check_host(q, offset, out);
}

int qcow2_entries_read(
	struct qcow2 *q, uint64_t offset, uint32_t n, struct qcow2_entry *out)
{
	struct qcow2_slice *s;
	struct position p;
	bool pinned;
	int ret = locate(q, offset, &p);

	if (ret < 0)
		return ret;
	if (!p.l2_offset) {
		memset(out, 0, n * sizeof(*out));
		return 0;
	}
	assert(p.index + n <= q->slice_entries);
	ret = slice_lock(q, p.slice_offset, &s, &pinned);
	if (ret < 0)
		return ret;
	for (uint32_t i = 0; i < n && ret == 0; i++) {
		out[i] = entry_load(q, s->data, p.index + i);
		if (!entry_valid(q, out[i]) || !is_in_place(q, out[i], offset, i))
			ret = -EIO;
	}
	slice_unlock(q, s, pinned);
	if (ret < 0)
		return qcow2_set_corrupt(q,
			"an L2 entry of guest clusters from 0x%" PRIx64
			" in the table at 0x%" PRIx64 " cannot be",
			offset, p.l2_offset);
	return 0;
}

int qcow2_l2_update(struct qcow2 *q, uint64_t offset, uint32_t n,
	void (*fn)(void *arg, uint32_t i, struct qcow2_entry *e), void *arg)
{
	struct qcow2_slice *s;
	struct position p;
	bool pinned;
	int ret = locate(q, offset, &p);

	if (ret < 0)
		return ret;
	assert(p.l2_offset && (q->l1[p.l1_index] & QCOW2_COPIED));
	assert(p.index + n <= q->slice_entries);
	ret = slice_lock(q, p.slice_offset, &s, &pinned);
	if (ret < 0)
		return ret;
	for (uint32_t i = 0; i < n; i++) {
		struct qcow2_entry e = entry_load(q, s->data, p.index + i);

		fn(arg, i, &e);
		entry_store(q, s->data, p.index + i, e);
	}
	qcow2_cache_mark_dirty(&q->l2_cache, s, p.index * q->l2_entry_bytes,
		(p.index + n) * q->l2_entry_bytes);
	slice_unlock(q, s, pinned);
	return 0;
}

/* ---- L2 tables ------------------------------------------------------------------- */

/* Writes the table at `to`: zeros, or what the shared table at `from` says. It is not
 * referenced by anything yet. */
static int table_fill(struct qcow2 *q, uint64_t to, uint64_t from, bool fresh)
{
	uint32_t step = q->l2_cache.slice_bytes;
	int ret = 0;

	if (!from && !fresh)
		return blk_zero(q->file, to, q->cluster_bytes, 0);
	if (!from) /* zeros already, but the file has to reach that far, entries or not */
		return blk_zero(
			q->file, to + q->cluster_bytes - BLK_SECTOR, BLK_SECTOR, 0);
	for (uint32_t pos = 0; pos < q->cluster_bytes && ret == 0; pos += step) {
		struct qcow2_slice *s;

		ret = qcow2_cache_get(&q->l2_cache, from + pos, &s);
		if (ret < 0)
			break;
		/* A shared table does not change, so its bytes need no lock. */
		ret = blk_pwrite(q->file, to + pos, s->data, step, 0);
		qcow2_cache_put(&q->l2_cache, s);
	}
	return ret;
}

static int l2_own(struct qcow2 *q, uint32_t l1_index)
{
	uint64_t old = q->l1[l1_index] & QCOW2_OFFSET_MASK;
	struct qcow2_alloc a;
	int ret = qcow2_alloc(q, 1, true, &a);

	if (ret < 0)
		return ret;
	ret = qcow2_overlap_mark(q, QCOW2_K_L2, a.offset, q->cluster_bytes);
	if (ret == 0)
		ret = table_fill(q, a.offset, old, a.fresh);
	if (ret < 0) { /* which takes the mark away too */
		qcow2_unalloc(q, a.offset, q->cluster_bytes);
		return ret;
	}
	q->l1[l1_index] = a.offset | QCOW2_COPIED;
	q->l1_dirty[l1_index / 64] = 1;
	q->l1_any_dirty = true;
	if (old)
		qcow2_free_later(q, old, q->cluster_bytes, false);
	return 0;
}

/* A table there that is ours alone; an image may set the flag on nothing. */
static bool table_owned(uint64_t l1_entry)
{
	return (l1_entry & QCOW2_COPIED) && (l1_entry & QCOW2_OFFSET_MASK);
}

int qcow2_l2_prepare(struct qcow2 *q, uint64_t offset)
{
	struct position p;
	int ret = locate(q, offset, &p);

	if (ret < 0)
		return ret;
	if (offset >> (q->cluster_bits + q->l2_bits) >= q->l1_entries)
		return -EFBIG;
	if (table_owned(q->l1[p.l1_index]))
		return 0;
	task_lock(&q->l1_lock);
	if (!table_owned(q->l1[p.l1_index]))
		ret = l2_own(q, p.l1_index);
	task_unlock(&q->l1_lock);
	return ret;
}
