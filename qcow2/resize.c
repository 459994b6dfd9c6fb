/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Growing and shrinking, and preallocation.
 *
 * The disk's size and the place and length of L1 lie in the header's first sector, which is
 * written whole. Growing: a new, longer L1 is stable before the header names it, and what the
 * new part holds is stable before the header says the size; a crash before leaks tables, or
 * leaves zeros past the old end. Shrinking: the size falls first, and what lies behind it is
 * freed then; a crash between leaves clusters there that nobody reads, and that growing again
 * wipes.
 */
#include "qcow2/qcow2.h"

/* Writes the longer table at a new place and takes it for ours. Nobody else runs. */
static int l1_move(struct qcow2 *q, uint32_t entries, struct err *err)
{
	uint64_t bytes = (uint64_t)entries * 8, *copy = calloc(entries, sizeof(*copy));
	_Atomic uint64_t *l1 = calloc(entries, sizeof(*l1));
	uint8_t *dirty = calloc(entries / 64 + 1, 1);
	struct qcow2_alloc a;
	int ret;

	if (!l1 || !dirty || !copy) {
		ret = -ENOMEM;
		goto out;
	}
	ret = qcow2_alloc(q, div_round_up(bytes, q->cluster_bytes), true, &a);
	if (ret < 0)
		goto out;
	for (uint32_t i = 0; i < q->l1_entries; i++) {
		copy[i] = q->l1[i];
		l1[i] = copy[i];
	}
	ret = qcow2_overlap_mark(q, QCOW2_K_L1, a.offset, bytes);
	if (ret == 0)
		ret = qcow2_table_write(q, QCOW2_K_L1, a.offset, entries, copy);
	if (ret < 0) {
		qcow2_overlap_mark(q, QCOW2_DATA, a.offset, bytes);
		qcow2_unalloc(q, a.offset, bytes);
		goto out;
	}
	if (q->l1_entries)
		qcow2_free_later(q, q->l1_offset, (uint64_t)q->l1_entries * 8, false);
	free((void *)q->l1);
	free(q->l1_dirty);
	q->l1 = l1;
	q->l1_dirty = dirty;
	q->l1_any_dirty = false;
	q->l1_entries = entries;
	q->l1_offset = a.offset;
	q->header_stale = true;
	l1 = NULL;
	dirty = NULL;
out:
	free(copy);
	free(dirty);
	free((void *)l1);
	return ret < 0 ? err_errno(err, -ret,
				 "Could not make an L1 table of %" PRIu32 " entries",
				 entries)
		       : 0;
}

/*
 * A longer L1. What the old one names is committed, so a crash after the header's switch
 * reads what was stable before. The second commit writes the counts, then the header, then
 * frees the old table. A header larger than the disk needs is fine, so the size can wait.
 */
int qcow2_l1_grow(struct qcow2 *q, uint32_t entries, struct err *err)
{
	int ret;

	task_lock(&q->commit_lock);
	ret = qcow2_commit_held(q); /* no entry is to a table that is not written */
	if (ret < 0)
		err_errno(err, -ret, "Could not write out metadata");
	else if ((ret = l1_move(q, entries, err)) == 0 &&
		 (ret = qcow2_commit_held(q)) < 0)
		err_errno(err, -ret, "Could not write the new L1 table");
	task_unlock(&q->commit_lock);
	return ret;
}

/* What is inside the new size is stable before the header says the size. Where that fails the
 * disk keeps its old size, and the next commit makes the header say so. */
static int size_change(struct qcow2 *q, uint64_t old, uint64_t bytes, struct err *err)
{
	int ret;

	task_lock(&q->commit_lock);
	ret = qcow2_commit_held(q);
	blk_set_size(q->b, bytes);
	if (ret == 0)
		ret = qcow2_header_write(q);
	if (ret == 0)
		ret = blk_flush(q->file);
	if (ret < 0) {
		blk_set_size(q->b, old);
		q->header_stale = true;
		err_errno(err, -ret, "Could not write the new size");
	}
	task_unlock(&q->commit_lock);
	return ret;
}

static int check_size(struct qcow2 *q, uint64_t bytes, struct err *err)
{
	uint64_t entries = qcow2_l1_needed(q, bytes);

	if (bytes > BLK_MAX_SIZE || entries * 8 > QCOW2_MAX_L1_BYTES)
		return err_set(err, EFBIG,
			"The image size is too large for file format 'qcow2' "
			"(try using a larger cluster size)");
	if (q->n_snaps && q->version < 3)
		return err_set(
			err, ENOTSUP, "Can't resize a v2 image which has snapshots");
	return 0;
}

/* ---- preallocation --------------------------------------------------------------- */

struct prealloc {
	struct qcow2 *q;
	uint64_t host;
};

static void prealloc_entry(void *arg, uint32_t i, struct qcow2_entry *e)
{
	struct prealloc *p = arg;
	const struct qcow2 *q = p->q;

	e->desc = (p->host + ((uint64_t)i << q->cluster_bits)) | QCOW2_COPIED;
	/* Zeros do not decrypt to zeros: such clusters are reserved, and say that they are. Over
	 * a backing file subclusters go on showing what is there. */
	if (q->extl2 && q->b->backing_name)
		return;
	if (q->extl2)
		e->bitmap = q->encrypted ? QCOW2_SUB_ALL << 32 : QCOW2_SUB_ALL;
	else if (q->encrypted)
		e->desc |= QCOW2_ZERO;
}

static int prealloc_some(struct qcow2 *q, uint64_t offset, uint64_t n, uint64_t *got)
{
	struct qcow2_alloc a = {.offset = offset, .n = n};
	struct prealloc p = {.q = q};
	int ret = qcow2_l2_prepare(q, offset);

	if (ret == 0 && !q->external_data)
		ret = qcow2_alloc(q, n, false, &a);
	if (ret < 0)
		return ret;
	if (!q->external_data && !a.fresh && !q->encrypted)
		ret = blk_zero(q->file, a.offset, a.n << q->cluster_bits, 0);
	p.host = a.offset;
	if (ret == 0)
		ret = qcow2_l2_update(q, offset, (uint32_t)a.n, prealloc_entry, &p);
	if (ret < 0 && !q->external_data)
		qcow2_unalloc(q, a.offset, a.n << q->cluster_bits);
	*got = a.n;
	return ret;
}

/* Reserves host clusters for the guest range; those that have one keep it. */
static int prealloc_range(struct qcow2 *q, uint64_t offset, uint64_t end)
{
	int ret = 0;

	offset = round_up(offset, q->cluster_bytes);
	while (offset < end && ret == 0) {
		uint64_t n = MIN(div_round_up(end - offset, q->cluster_bytes),
			qcow2_slice_left(q, offset));
		struct qcow2_run run;

		ret = qcow2_map(q, offset, n << q->cluster_bits, &run);
		if (ret < 0)
			break;
		n = run.bytes >> q->cluster_bits;
		if (n && (run.type == QCOW2_UNALLOCATED || run.type == QCOW2_ZERO_PLAIN))
			ret = prealloc_some(q, offset, n, &n);
		n = MAX(n, (uint64_t)1);
		offset += n << q->cluster_bits;
		if (ret == 0)
			ret = qcow2_commit_if_pressed(q);
	}
	return ret;
}

/* Bytes of data clusters, tables and counts for a range, generously. */
static uint64_t prealloc_bytes(const struct qcow2 *q, uint64_t bytes)
{
	uint64_t clusters = div_round_up(bytes, q->cluster_bytes);
	uint64_t tables = div_round_up(clusters, 1ull << q->l2_bits) + 1;
	uint64_t blocks = div_round_up(clusters + tables, 1ull << q->refblock_bits) + 1;

	return (clusters + tables + blocks) << q->cluster_bits;
}

static int preallocate(struct qcow2 *q, uint64_t offset, uint64_t end,
	enum blk_prealloc mode, struct err *err)
{
	bool data = mode == BLK_PREALLOC_FALLOC || mode == BLK_PREALLOC_FULL;
	int ret = 0;

	if (q->encrypted && q->version < 3)
		return err_set(err, ENOTSUP,
			"Preallocation of an encrypted image needs version 3");
	/* A full disk is told before anything refers to it. */
	if (data && !q->external_data && (q->file->caps & BLK_CAP_GROW))
		ret = blk_resize(q->file,
			round_up(blk_size(q->file), q->cluster_bytes) +
				prealloc_bytes(q, end - offset),
			mode, err);
	if (ret == 0 && (ret = prealloc_range(q, offset, end)) < 0)
		err_errno(err, -ret, "Could not preallocate metadata");
	/* Clusters that nothing was written to are part of the file all the same, and what was
	 * taken for tables that were not needed is not. */
	task_lock(&q->alloc_lock);
	if (ret == 0 && (q->file->caps & BLK_CAP_GROW) &&
		q->fresh_from != blk_size(q->file))
		ret = blk_resize(q->file, q->fresh_from, BLK_PREALLOC_OFF, err);
	task_unlock(&q->alloc_lock);
	return ret;
}

/* ---- resize ---------------------------------------------------------------------- */

/* Zeros over what a longer backing file has there, a table at a time: all of its entries
 * change. */
static int cover_backing(struct qcow2 *q, uint64_t offset, uint64_t end)
{
	int ret = 0;

	while (offset < end && ret == 0) {
		uint64_t next =
			MIN(end, round_down(offset, qcow2_l2_span(q)) + qcow2_l2_span(q));

		ret = qcow2_zero_held(q, offset, next, 0);
		if (ret == 0)
			ret = qcow2_commit_if_pressed(q);
		offset = next;
	}
	return ret;
}

/* [offset, end) was not part of the disk: it must read as zeros, whatever a longer backing
 * file has there, or a shrink that was interrupted left, or the VM state of a snapshot that
 * was applied. */
static int zero_new_part(struct qcow2 *q, uint64_t offset, uint64_t end)
{
	uint64_t edge = round_up(offset, q->cluster_bytes), covered;
	uint64_t backing = q->b->backing ? MIN(end, blk_size(q->b->backing)) : 0;
	int ret = 0;

	/* The old end may be no sector's: what is encrypted with it keeps its neighbours. */
	offset = round_up(offset, q->b->limits.request_align);
	covered = MIN(round_up(end, q->cluster_bytes), q->l1_entries * qcow2_l2_span(q));
	if (edge > offset)
		ret = qcow2_zero_held(q, offset, edge, 0);
	if (ret == 0 && edge < covered)
		ret = qcow2_forget_held(q, edge, covered);
	if (ret == 0 && backing > edge)
		ret = cover_backing(q, edge, round_up(backing, q->cluster_bytes));
	return ret;
}

/* What a data file has behind the old end, as a device has, is not the disk's: where clusters are going
 * to refer to it, it becomes zeros. `had`: the data file's size before it grew. */
static int zero_new_data(struct qcow2 *q, uint64_t offset, uint64_t end, uint64_t had)
{
	offset = round_up(offset, q->cluster_bytes);
	end = MIN(end, had);
	return offset < end ? blk_zero(q->data, offset, end - offset, BLK_MAY_UNMAP) : 0;
}

static int grow(
	struct qcow2 *q, uint64_t bytes, enum blk_prealloc prealloc, struct err *err)
{
	uint64_t old = blk_size(q->b), entries = qcow2_l1_needed(q, bytes);
	uint64_t had = q->external_data ? blk_size(q->data) : 0;
	int ret = 0;

	if (q->external_data && blk_size(q->data) < bytes)
		ret = blk_resize(q->data, bytes,
			prealloc == BLK_PREALLOC_METADATA ? BLK_PREALLOC_OFF : prealloc,
			err);
	if (ret == 0 && entries > q->l1_entries)
		ret = qcow2_l1_grow(q, (uint32_t)entries, err);
	if (ret < 0)
		return ret;
	ret = zero_new_part(q, old, bytes);
	if (ret == 0 && !q->encrypted && prealloc != BLK_PREALLOC_OFF)
		ret = zero_new_data(q, old, bytes, had);
	if (ret < 0)
		return err_errno(err, -ret, "Could not zero the new part of the disk");
	if (prealloc != BLK_PREALLOC_OFF)
		ret = preallocate(q, old, bytes, prealloc, err);
	if (ret < 0)
		return ret;
	return size_change(q, old, bytes, err);
}

/* Data that shrinks and grows again is zeros in the part that grew. */
static int data_file_cut(struct qcow2 *q, uint64_t bytes, struct err *err)
{
	/* Which is not what encrypted zeros are: the cluster the end lies in stays whole. */
	uint64_t end = q->encrypted ? round_up(bytes, q->cluster_bytes) : bytes;
	int ret = blk_resize(q->data, end, BLK_PREALLOC_OFF, err);

	if (ret == 0 && (ret = blk_flush(q->data)) < 0)
		err_errno(err, -ret, "Could not flush the data file");
	return ret;
}

static int shrink(struct qcow2 *q, uint64_t bytes, struct err *err)
{
	uint64_t old = blk_size(q->b), edge = round_up(bytes, q->cluster_bytes);
	int ret = size_change(q, old, bytes, err);

	if (ret < 0)
		return ret;
	if (edge > bytes) /* the tail of the last cluster that stays */
		ret = qcow2_zero_held(q, bytes, edge, 0);
	if (ret == 0 && edge < old)
		ret = qcow2_forget_held(q, edge, old);
	if (ret == 0)
		ret = qcow2_commit_all(q);
	if (ret < 0)
		return err_errno(err, -ret, "Could not free the part that was cut off");
	if (q->external_data)
		ret = data_file_cut(q, bytes, err);
	return ret < 0 ? ret : qcow2_trim_file(q, err);
}

static int prepare(struct qcow2 *q, struct err *err)
{
	int ret = q->corrupt || !q->loaded ? -EIO : qcow2_prepare_write(q);

	if (ret == 0 && q->has_bitmaps_ext && (q->autoclear & QCOW2_AUTOCLEAR_BITMAPS))
		ret = qcow2_bitmaps_mark_in_use(q, true);
	return ret < 0 ? err_errno(err, -ret, "Could not prepare the image for writing")
		       : 0;
}

int qcow2_resize(
	struct blk *b, uint64_t bytes, enum blk_prealloc prealloc, struct err *err)
{
	struct qcow2 *q = b->state;
	uint64_t old = blk_size(b);
	int ret;

	if (!is_aligned(bytes, BLK_SECTOR))
		return err_set(
			err, EINVAL, "The new size must be a multiple of %u", BLK_SECTOR);
	ret = check_size(q, bytes, err);
	if (ret < 0)
		return ret;
	if (bytes < old && prealloc != BLK_PREALLOC_OFF)
		return err_set(err, EINVAL,
			"Preallocation can't be used for shrinking an image");
	if (q->external_raw && prealloc == BLK_PREALLOC_OFF && bytes > old)
		prealloc = BLK_PREALLOC_METADATA;
	qcow2_exclusive_begin(q);
	ret = prepare(q, err);
	if (ret == 0 && bytes > old)
		ret = grow(q, bytes, prealloc, err);
	else if (ret == 0 && bytes < old)
		ret = shrink(q, bytes, err);
	qcow2_exclusive_end(q);
	return ret;
}
