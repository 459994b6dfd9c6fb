/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Zeros and discards: changes of L2 entries alone.
 *
 * The old clusters go to the free list and are punched after the next commit (I5): a crash
 * before it leaves the old entries on clusters that still hold the old data.
 */
#include "qcow2/qcow2.h"

#define ZERO_CLUSTERS 128u

/* What becomes of whole clusters. */
struct wipe {
	struct qcow2 *q;
	bool keep;          /* a cluster that is ours stays reserved */
	bool unallocated;   /* version 2: the entry goes, nothing lies behind it */
	bool leave_missing; /* an entry that says nothing stays so */
	bool forget;        /* beyond the disk: whatever it is, it goes */
	struct qcow2_entry old[ZERO_CLUSTERS];
	bool dropped[ZERO_CLUSTERS];
};

static struct qcow2_entry zero_entry(const struct qcow2 *q, uint64_t desc)
{
	return q->extl2 ? (struct qcow2_entry){desc, QCOW2_SUB_ALL << 32}
			: (struct qcow2_entry){desc | QCOW2_ZERO, 0};
}

static bool says_nothing(const struct qcow2 *q, struct qcow2_entry e)
{
	return !(e.desc & ~QCOW2_ZERO) && (q->extl2 ? !e.bitmap : !(e.desc & QCOW2_ZERO));
}

static void wipe_entry(void *arg, uint32_t i, struct qcow2_entry *e)
{
	struct wipe *w = arg;
	const struct qcow2 *q = w->q;

	w->old[i] = *e;
	w->dropped[i] = false;
	if (w->leave_missing && says_nothing(q, *e))
		return;
	if (qcow2_entry_owned(q, *e) && (w->keep || q->external_data) && !w->forget) {
		*e = zero_entry(q, e->desc & (QCOW2_OFFSET_MASK | QCOW2_COPIED));
		return;
	}
	w->dropped[i] = true;
	*e = w->unallocated ? (struct qcow2_entry){0, 0} : zero_entry(q, 0);
}

/* Whole clusters, within one slice and ZERO_CLUSTERS. */
static int wipe_clusters(struct wipe *w, uint64_t offset, uint32_t n)
{
	struct qcow2 *q = w->q;
	struct qcow2_inflight f;
	int ret;

	qcow2_inflight_begin(q, &f, qcow2_cluster_of(q, offset), n);
	ret = qcow2_entries_read(
		q, offset, n, w->old); /* refuses entries that cannot be */
	if (ret == 0)
		ret = qcow2_l2_prepare(q, offset);
	if (ret == 0)
		ret = qcow2_l2_update(q, offset, n, wipe_entry, w);
	qcow2_inflight_end(q, &f);
	for (uint32_t i = 0; i < n && ret == 0; i++)
		if (w->dropped[i])
			qcow2_entry_drop(q, w->old[i]);
	return ret;
}

/* Bytes from offset on, whole clusters of them, in which nothing needs a change: no table is
 * made for those. */
static int skip_nothing(
	struct wipe *w, uint64_t offset, uint64_t bytes, uint64_t *skipped)
{
	struct qcow2 *q = w->q;
	struct qcow2_run run;
	int ret = qcow2_map(q, offset, round_up(bytes, q->cluster_bytes), &run);

	*skipped = 0;
	/* With subclusters, what shows the backing file may hold a reserved cluster. */
	if (ret == 0 && (run.type == QCOW2_UNALLOCATED
					? w->leave_missing && !(w->forget && run.reserved)
					: run.type == QCOW2_ZERO_PLAIN))
		*skipped = round_down(run.bytes, q->cluster_bytes);
	return ret;
}

static int wipe_range(struct wipe *w, uint64_t offset, uint64_t bytes)
{
	struct qcow2 *q = w->q;
	int ret = 0;

	assert(is_aligned(offset, q->cluster_bytes));
	while (bytes && ret == 0) {
		uint64_t n = MIN(div_round_up(bytes, q->cluster_bytes),
			qcow2_slice_left(q, offset));
		uint64_t step;

		ret = skip_nothing(w, offset, bytes, &step);
		if (ret == 0 && !step) {
			n = MIN(n, (uint64_t)ZERO_CLUSTERS);
			step = n << q->cluster_bits;
			ret = wipe_clusters(w, offset, (uint32_t)n);
		}
		offset += step;
		bytes -= MIN(bytes, step);
	}
	return ret;
}

/* ---- zero ------------------------------------------------------------------------ */

#define ZERO_BUFFER (64u << 10)

static int write_zeros(struct qcow2 *q, uint64_t offset, uint64_t bytes)
{
	static const uint8_t zeros[ZERO_BUFFER] __attribute__((aligned(4096)));
	struct iovec iov[32]; /* a cluster of 2 MiB */
	int ret = 0;

	while (bytes && ret == 0) {
		uint64_t step = MIN(bytes, (uint64_t)ZERO_BUFFER * ARRAY_LEN(iov)),
			 left = step;
		int n = 0;

		for (; left; left -= iov[n++].iov_len)
			iov[n] = (struct iovec){
				(void *)zeros, MIN(left, (uint64_t)ZERO_BUFFER)};
		ret = qcow2_write_guest(q, offset, step, iov, n);
		offset += step;
		bytes -= step;
	}
	return ret;
}

struct zero_bits {
	uint64_t mask; /* subclusters */
	bool done;     /* false: the cluster is compressed, write it out */
};

static void zero_subclusters(void *arg, uint32_t i, struct qcow2_entry *e)
{
	struct zero_bits *z = arg;

	(void)i;
	z->done = !(e->desc & QCOW2_COMPRESSED);
	if (z->done)
		e->bitmap = (e->bitmap & ~z->mask) | z->mask << 32;
}

/* Whole subclusters within one cluster. */
static int zero_in_cluster(struct qcow2 *q, uint64_t offset, uint64_t bytes, bool *done)
{
	unsigned first = (unsigned)(qcow2_in_cluster(q, offset) >> q->subcluster_bits);
	unsigned n = (unsigned)(bytes >> q->subcluster_bits);
	struct zero_bits z = {.mask = ((1ull << n) - 1) << first};
	struct qcow2_inflight f;
	struct qcow2_entry e;
	int ret;

	qcow2_inflight_begin(q, &f, qcow2_cluster_of(q, offset), 1);
	ret = qcow2_entries_read(q, offset, 1, &e);
	/* Bits of a cluster that a snapshot shares may change: they are in our own table. */
	if (ret == 0)
		ret = qcow2_l2_prepare(q, offset);
	if (ret == 0)
		ret = qcow2_l2_update(q, offset, 1, zero_subclusters, &z);
	qcow2_inflight_end(q, &f);
	*done = z.done;
	return ret;
}

/* Less than a cluster: by subclusters where they fit, else nothing where it reads as zeros
 * already, else written out. */
static int zero_part(struct qcow2 *q, uint64_t offset, uint64_t bytes, unsigned flags)
{
	struct qcow2_run run;
	bool done = false;
	int ret;

	if (q->extl2 && !q->external_raw &&
		is_aligned(offset | bytes, q->subcluster_bytes)) {
		ret = zero_in_cluster(q, offset, bytes, &done);
		if (ret < 0 || done)
			return ret;
	}
	ret = qcow2_map(q, offset, bytes, &run);
	if (ret < 0)
		return ret;
	if (run.bytes == bytes &&
		(run.type == QCOW2_ZERO_PLAIN || run.type == QCOW2_ZERO_ALLOC ||
			(run.type == QCOW2_UNALLOCATED &&
				(!q->b->backing || offset >= blk_size(q->b->backing)))))
		return 0;
	return flags & BLK_NO_FALLBACK ? -ENOTSUP : write_zeros(q, offset, bytes);
}

/* Whole clusters, the last one perhaps cut by the end of the disk. */
static int zero_clusters(struct qcow2 *q, uint64_t offset, uint64_t bytes, unsigned flags)
{
	struct wipe *w;
	int ret = 0;

	/* Version 2 has no way to say zero over a backing file. */
	if (q->version < 3 && (q->b->backing_name || q->b->backing))
		return flags & BLK_NO_FALLBACK ? -ENOTSUP : write_zeros(q, offset, bytes);
	if (q->external_raw)
		ret = blk_zero(q->data, offset, bytes, flags);
	if (ret < 0)
		return ret;
	w = calloc(1, sizeof(*w));
	if (!w)
		return -ENOMEM;
	w->q = q;
	w->keep = !(flags & BLK_MAY_UNMAP) && q->version >= 3;
	w->unallocated = q->version < 3;
	w->leave_missing = q->version < 3;
	ret = wipe_range(w, offset, bytes);
	free(w);
	return ret;
}

/* [offset, end) in three: up to a cluster boundary, whole clusters, the rest. */
int qcow2_zero_held(struct qcow2 *q, uint64_t offset, uint64_t end, unsigned flags)
{
	uint64_t lo = round_up(offset, q->cluster_bytes),
		 hi = round_down(end, q->cluster_bytes);
	int ret = 0;

	if (end == blk_size(q->b))
		hi = end;
	if (lo > hi) /* inside one cluster */
		return zero_part(q, offset, end - offset, flags);
	if (offset < lo)
		ret = zero_part(q, offset, lo - offset, flags);
	if (ret == 0 && lo < hi)
		ret = zero_clusters(q, lo, hi - lo, flags);
	if (ret == 0 && hi < end)
		ret = zero_part(q, hi, end - hi, flags);
	return ret;
}

int qcow2_zero(struct blk *b, uint64_t offset, uint64_t bytes, unsigned flags)
{
	struct qcow2 *q = b->state;
	struct qcow2_change c;
	int ret;

	do {
		ret = qcow2_change_begin(q, &c);
		if (ret < 0)
			return ret;
		ret = qcow2_zero_held(q, offset, offset + bytes, flags);
	} while (qcow2_change_again(q, &c, ret));
	return ret;
}

/* ---- discard --------------------------------------------------------------------- */

/* A change of the disk like any other, though no entry changes. */
static int discard_raw(struct qcow2 *q, uint64_t offset, uint64_t bytes)
{
	struct qcow2_change c;
	int ret = qcow2_change_begin(q, &c);

	if (ret < 0)
		return ret;
	ret = blk_discard(q->data, offset, bytes);
	qcow2_leave(q, c.epoch);
	return ret;
}

/* In an epoch, where the disk's end is certain. */
static int discard_held(struct wipe *w, uint64_t offset, uint64_t end)
{
	struct qcow2 *q = w->q;
	int ret;

	if (end != blk_size(q->b))
		end = round_down(end, q->cluster_bytes);
	if (offset >= end)
		return 0;
	ret = wipe_range(w, offset, end - offset);
	if (ret == 0 && q->external_data)
		ret = blk_discard(q->data, offset, end - offset);
	return ret;
}

int qcow2_discard(struct blk *b, uint64_t offset, uint64_t bytes)
{
	struct qcow2 *q = b->state;
	uint64_t end = offset + bytes;
	struct qcow2_change c;
	struct wipe *w;
	int ret;

	offset = round_up(offset, q->cluster_bytes);
	/* A discard is a hint. Without a zero flag the backing file would shine through. */
	if (offset >= end || (q->version < 3 && (b->backing_name || b->backing)))
		return 0;
	if (q->external_raw) /* the entries stay; zeros would not decrypt to anything sane */
		return q->encrypted ? 0 : discard_raw(q, offset, end - offset);
	w = calloc(1, sizeof(*w));
	if (!w)
		return -ENOMEM;
	/* What is discarded reads as zeros, a backing file's data like our own. */
	*w = (struct wipe){.q = q,
		.unallocated = q->version < 3,
		.leave_missing = !b->backing_name && !b->backing};
	do {
		ret = qcow2_change_begin(q, &c);
		if (ret < 0)
			break;
		ret = discard_held(w, offset, end);
	} while (qcow2_change_again(q, &c, ret));
	free(w);
	return ret;
}

int qcow2_forget_held(struct qcow2 *q, uint64_t offset, uint64_t end)
{
	uint64_t step = qcow2_l2_span(q);
	struct wipe *w = calloc(1, sizeof(*w));
	int ret = w ? 0 : -ENOMEM;

	if (w)
		*w = (struct wipe){.q = q,
			.unallocated = true,
			.leave_missing = true,
			.forget = true};
	for (uint64_t at = offset; at < end && ret == 0; at += MIN(step, end - at)) {
		ret = wipe_range(w, at, MIN(step, end - at));
		if (ret == 0)
			ret = qcow2_commit_if_pressed(q);
	}
	free(w);
	return ret;
}
