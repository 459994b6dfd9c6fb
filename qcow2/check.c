/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Check: does every cluster have the count of its references, and is every reference one
 * that can be?
 *
 *	1 references	the header, L1 tables, what L2 tables name, the snapshot table,
 * LUKS header, bitmaps, the refcount structure: counted into `refs` 2 counts	each
 * refcount block is compared with `refs` 3 flags		the copied flag of each
 * active entry is compared with the count
 *
 * An L2 table that several L1 tables share is read once and counts as often as it is
 * named: time does not grow with the number of snapshots that share tables. Where counts
 * and flags agree at first sight (no count above one, every entry flagged) step 3 reads
 * nothing.
 *
 * Lines and numbers are those of qemu-img check as its output shows. It differs where
 * that one would harm: clusters are not called free while a table that may name them
 * cannot be followed, and entries that only a reader with more indulgence could follow are
 * findings.
 */
#include "qcow2/check.h"

/* ---- references ------------------------------------------------------------------ */

static int too_many(struct check *c, int ret)
{
	return count_error(c->err, ret, c->refs.limit);
}

/* What lies past the end of the file is not counted, but remembered where that is cheap: a
 * repair that makes the file longer must not put anything else there. */
static void note_beyond(struct check *c, uint64_t first, uint64_t last, uint64_t n)
{
	first = MAX(first, c->n_clusters);
	last = MIN(last, first + QCOW2_MAX_L1_BYTES / BLK_SECTOR);
	for (uint64_t i = first; i <= last && !count_add(&c->beyond, i, n); i++)
		;
}

/* One reference to such a range that the repair takes away. */
static void forget_beyond(struct check *c, uint64_t offset, uint64_t bytes)
{
	uint64_t last = qcow2_cluster_of(c->q, offset + bytes - 1);
	uint64_t first = MAX(qcow2_cluster_of(c->q, offset), c->n_clusters);

	for (uint64_t i = first; i <= last; i++)
		if (count_get(&c->beyond, i))
			count_sub(&c->beyond, i, 1);
}

/* Counts the clusters of a byte range n times; a range that leaves the file is a finding.
 */
static int count_range(
	struct check *c, uint64_t offset, uint64_t bytes, uint64_t n, uint64_t key)
{
	uint64_t end, first = qcow2_cluster_of(c->q, offset), last;
	int ret = 0;

	if (!bytes)
		return 0;
	if (add_overflow(offset, bytes - 1, &end))
		end = UINT64_MAX;
	last = qcow2_cluster_of(c->q, end);
	if (last >= c->n_clusters) {
		check_found(c, FOUND_PAST_END, key, offset, bytes, 0);
		c->out->corruptions++;
		note_beyond(c, first, last, n);
		return 0;
	}
	for (uint64_t i = first; !ret && i <= last; i++)
		ret = count_add(&c->refs, i, n);
	return ret ? too_many(c, ret) : 0;
}

static int count_bitmap_range(void *arg, uint64_t offset, uint64_t bytes)
{
	return count_range(arg, offset, bytes, 1, 0);
}

/* L2 tables are gathered, not yet read. */
static int count_l1_entry(struct check *c, uint64_t entry, bool active, uint32_t index)
{
	uint64_t offset = entry & QCOW2_OFFSET_MASK,
		 cluster = qcow2_cluster_of(c->q, offset);
	int ret;

	if (entry & QCOW2_L1_RESERVED) {
		check_found(c, FOUND_L1_RESERVED, 0, entry, 0, 0);
		c->out->corruptions++;
	}
	if (!offset &&
		(entry &
			QCOW2_COPIED)) { /* a table was there: whose clusters these are */
		check_found(c, FOUND_L1_NOWHERE, 0, entry, 0, 0);
		c->out->corruptions++;
		c->incomplete = true;
	}
	if (!offset)
		return 0;
	if (!is_aligned(offset, c->q->cluster_bytes)) {
		check_found(c, FOUND_L1_UNALIGNED, 0, offset, 0, 0);
		c->out->corruptions++;
		c->incomplete = true;
		return 0;
	}
	if (cluster >= c->n_clusters) {
		c->incomplete = true;
		return count_range(c, offset, c->q->cluster_bytes, 1, 0);
	}
	if (active && !(entry & QCOW2_COPIED))
		c->copied_wrong++;
	ret = count_add(&c->refs, cluster, 1);
	if (ret)
		return too_many(c, ret);
	if (l2_set_add(&c->l2, offset, active, index))
		return err_set(c->err, ENOMEM, "no memory for the list of L2 tables");
	return 0;
}

static int count_l1(struct check *c, uint64_t offset, uint32_t entries, bool active)
{
	uint64_t *table;
	int ret = count_range(c, offset, (uint64_t)entries * sizeof(be64), 1, 0);

	if (ret)
		return ret;
	ret = qcow2_table_read(c->q, offset, entries, &table);
	if (ret)
		return err_errno(c->err, -ret,
			"could not read the L1 table at 0x%" PRIx64, offset);
	for (uint32_t i = 0; !ret && i < entries; i++)
		if (table[i])
			ret = count_l1_entry(c, table[i], active, i);
	free(table);
	return ret;
}

/* One count, before anything is known of the structure: 0 where that leads nowhere. */
static int peek_count(struct check *c, uint64_t cluster, uint64_t *count)
{
	struct qcow2 *q = c->q;
	uint64_t index = cluster >> q->refblock_bits, block;
	uint64_t i = cluster & ((1ull << q->refblock_bits) - 1);
	unsigned order = q->refcount_order;
	uint8_t word[8];
	be64 entry;
	int ret;

	*count = 0;
	if (index >= ((uint64_t)q->reft_clusters << q->cluster_bits) / sizeof(entry))
		return 0;
	ret = qcow2_meta_read(
		q, q->reft_offset + index * sizeof(entry), &entry, sizeof(entry));
	block = ret ? 0 : be64_get(entry);
	if (!block || !is_aligned(block, q->cluster_bytes) || block > INT64_MAX / 2)
		return ret;
	ret = qcow2_meta_read(q, block + (i << order) / 64 * 8, word, sizeof(word));
	if (!ret)
		*count = qcow2_refcount_load(word, order, i & ((64u >> order) - 1));
	return ret;
}

/*
 * An active L1 table that the file does not have any more: counted there, so the file was cut
 * short, and not the offset in the header is wrong. What it named is lost, and it reads as
 * zeros already; given its clusters back, it can be written. A crash leaves a longer file.
 */
static int reach_l1(struct check *c)
{
	struct qcow2 *q = c->q;
	uint64_t end = q->l1_offset + (uint64_t)q->l1_entries * sizeof(be64);
	uint64_t clusters = div_round_up(end, q->cluster_bytes), count = 1;
	int ret = 0;

	/* Not where a dirty image is repaired on the way to something else: nobody would know
	 * that the disk has become empty. */
	if (!(c->fix & BLK_FIX_ERRORS) || !(q->b->flags & BLK_O_CHECK) ||
		!q->l1_entries || clusters <= c->n_clusters)
		return 0;
	for (uint64_t i = MAX(qcow2_cluster_of(q, q->l1_offset), c->n_clusters);
		!ret && count && i < clusters; i++)
		ret = peek_count(c, i, &count);
	if (ret || !count)
		return ret ? err_errno(c->err, -ret, "could not read refcounts") : 0;
	check_say(c, false,
		"Repairing active L1 table at 0x%" PRIx64
		" beyond the end of the file: what it named there is lost",
		q->l1_offset);
	ret = blk_zero(
		q->file, (clusters << q->cluster_bits) - BLK_SECTOR, BLK_SECTOR, 0);
	if (ret)
		return err_errno(c->err, -ret, "could not grow the file");
	c->n_clusters = clusters;
	c->out->corruptions++;
	c->out->corruptions_fixed++;
	return 0;
}

static int count_snapshot(struct check *c, const struct qcow2_snap *s)
{
	if (c->q->external_data) {
		c->incomplete = true;
		return 0;
	}
	if (!is_aligned(s->l1_offset, c->q->cluster_bytes)) {
		check_say(c, true,
			"ERROR snapshot %s (%s) l1_offset=%#" PRIx64
			": L1 table is not cluster aligned; snapshot table entry "
			"corrupted",
			s->id, s->name, s->l1_offset);
	} else if ((uint64_t)s->l1_entries * sizeof(be64) > QCOW2_MAX_L1_BYTES) {
		check_say(c, true,
			"ERROR snapshot %s (%s) l1_size=%#" PRIx32
			": L1 table is too large; snapshot table entry corrupted",
			s->id, s->name, s->l1_entries);
	} else {
		if (s->l1_entries &&
			qcow2_cluster_of(c->q, s->l1_offset) >= c->n_clusters)
			c->incomplete = true;
		return count_l1(c, s->l1_offset, s->l1_entries, false);
	}
	c->out->corruptions++;
	c->incomplete = true;
	return 0;
}

/* The table, as far as it can be read. Where errors are repaired the rest is cut off: where an
 * entry ends nobody knows, so nothing behind a broken one can be found. */
static bool read_snapshots(struct check *c)
{
	struct qcow2 *q = c->q;
	uint32_t claimed = q->n_snaps, readable;
	struct err err = ERR_INIT;

	qcow2_snapshots_forget(q);
	if (!qcow2_snapshots_read(q, &readable, &err))
		return true;
	c->out->corruptions++;
	if (!(c->fix & BLK_FIX_ERRORS) || err.code == ENOMEM || err.code == EIO) {
		check_say(c, true, "ERROR %s", err.msg);
		c->incomplete = true;
		return false;
	}
	check_say(c, false, "Repairing %s", err.msg);
	check_say(c, false, "Discarding %" PRIu32 " unreadable snapshots",
		claimed - readable);
	q->n_snaps = readable;
	c->out->corruptions_fixed++;
	c->fix_header = true;
	return !qcow2_snapshots_read(q, NULL, &err);
}

/* Entries that a rewrite of the table makes whole. */
static void find_unfinished(struct check *c)
{
	struct qcow2 *q = c->q;

	for (uint32_t i = 0; i < q->n_snaps; i++) {
		if (!check_snapshot_unfinished(q, &q->snaps[i]))
			continue;
		check_say(c, !(c->fix & BLK_FIX_ERRORS),
			"%s snapshot table entry %" PRIu32 " %s",
			c->fix & BLK_FIX_ERRORS ? "Repairing" : "ERROR", i,
			q->snaps[i].clipped ? "ends outside the file" : "is incomplete");
		c->out->corruptions++;
		c->fix_snapshots = true;
	}
}

static int count_snapshots(struct check *c)
{
	struct qcow2 *q = c->q;
	uint64_t entries = q->l1_entries;
	int ret;

	if (!q->n_snaps || !read_snapshots(c) || !q->n_snaps)
		return 0;
	if (q->external_data) {
		check_say(c, true, "ERROR %" PRIu32 " snapshots in image with data file",
			q->n_snaps);
		c->out->corruptions++;
	}
	find_unfinished(c);
	for (uint32_t i = 0; i < q->n_snaps; i++)
		if (q->snaps[i].l1_entries <= QCOW2_MAX_L1_BYTES / sizeof(be64))
			entries += q->snaps[i].l1_entries;
	if (entries > QCOW2_MAX_L1_ENTRIES)
		return err_set(c->err, EFBIG,
			"the L1 tables of snapshots are too large: %" PRIu64 " entries",
			entries);
	ret = count_range(c, q->snaps_offset, q->snaps_bytes, 1, 0);
	for (uint32_t i = 0; !ret && i < q->n_snaps; i++)
		ret = count_snapshot(c, &q->snaps[i]);
	return ret;
}

static int range_is_inside(void *arg, uint64_t offset, uint64_t bytes)
{
	const struct check *c = arg;

	if (c->fix & BLK_FIX_ERRORS)
		return qcow2_cluster_of(c->q, offset + bytes - 1) < c->n_clusters
			       ? 0
			       : -ERANGE;
	return 0; /* told when it is counted */
}

/* Bitmaps that cannot be read are worth nothing: repairing removes them. */
static int count_bitmaps(struct check *c)
{
	struct qcow2 *q = c->q;
	bool errors = c->fix & BLK_FIX_ERRORS;
	struct err err = ERR_INIT;

	if (!q->has_bitmaps_ext || !(q->autoclear & QCOW2_AUTOCLEAR_BITMAPS))
		return 0;
	if (!qcow2_bitmaps_each_range(q, range_is_inside, c, &err))
		return qcow2_bitmaps_each_range(q, count_bitmap_range, c, &err)
			       ? too_many(c, -err.code)
			       : 0;
	c->out->corruptions++;
	if (!errors || err.code == ENOMEM || err.code == EIO) {
		check_say(c, true, "ERROR %s", err.msg);
		c->incomplete = true;
		return 0;
	}
	check_say(c, false, "Repairing %s: removing all bitmaps", err.msg);
	q->has_bitmaps_ext = false;
	q->autoclear &= ~(uint64_t)QCOW2_AUTOCLEAR_BITMAPS;
	c->out->corruptions_fixed++;
	c->fix_header = true;
	return 0;
}

static int count_other(struct check *c)
{
	struct qcow2 *q = c->q;
	int ret = count_range(c, q->luks_offset, q->luks_bytes, 1, 0);

	return ret ? ret : count_bitmaps(c);
}

/* ---- L2 tables ------------------------------------------------------------------- */

/* What one L2 entry is, for the counters of the report. */
static void tally(
	struct check *c, const struct l2_table *t, uint64_t offset, uint64_t *next)
{
	if (!t->active)
		return;
	c->out->allocated_clusters++;
	if (*next && offset != *next)
		c->out->fragmented_clusters++;
	*next = offset + c->q->cluster_bytes;
}

static int count_compressed(struct check *c, const struct l2_table *t, uint64_t key,
	uint64_t desc, uint64_t bitmap)
{
	struct qcow2 *q = c->q;
	uint64_t offset = desc & q->compressed_offset_mask;
	uint64_t sectors =
		(desc & ~(QCOW2_COPIED | QCOW2_COMPRESSED)) >> q->compressed_shift;

	if (q->external_data) {
		check_found(
			c, FOUND_COMPRESSED_DATA_FILE, key, key & UINT32_MAX, desc, 0);
		c->out->corruptions++;
		return 0;
	}
	if (bitmap) {
		check_found(c, FOUND_BITMAP_COMPRESSED, key, key & UINT32_MAX, desc, 0);
		c->out->corruptions++;
	}
	if (t->active) {
		c->out->compressed_clusters++;
		c->out->allocated_clusters++;
		c->out->fragmented_clusters++;
		if (desc & QCOW2_COPIED)
			c->copied_wrong++;
	}
	return count_range(c, offset,
		(sectors + 1) * BLK_SECTOR - (offset & (BLK_SECTOR - 1)),
		(uint64_t)t->active + t->inactive, key);
}

static void check_bitmap(
	struct check *c, uint64_t key, uint64_t offset, bool host, uint64_t bitmap)
{
	uint64_t alloc = bitmap & QCOW2_SUB_ALL, zero = bitmap >> 32;

	if (host && (alloc & zero)) {
		check_found(c, FOUND_BITMAP_BAD, key, offset, 0, 0);
		c->out->corruptions++;
	} else if (!host && alloc) {
		check_found(c, FOUND_BITMAP_UNALLOCATED, key, 0, 0, 0);
		c->out->corruptions++;
	}
}

/* An entry whose host offset is not on a cluster. True where it is, or will be, cleared.
 */
static bool unaligned(struct check *c, uint64_t key, uint64_t desc, uint64_t bitmap)
{
	uint64_t offset = desc & QCOW2_OFFSET_MASK;

	c->out->corruptions++;
	if (!check_prealloc_bad(c->q, desc, bitmap)) {
		check_found(c, FOUND_DATA_UNALIGNED, key, offset, 0, 0);
		return false;
	}
	if (c->fix & BLK_FIX_ERRORS) {
		check_found(c, FIXED_PREALLOC_UNALIGNED, key, offset, 0, 0);
		c->fix_entries = true;
		return true;
	}
	check_found(c, FOUND_PREALLOC_UNALIGNED, key, offset, 0, 0);
	return false;
}

/* Any entry at all; the loops below spare it the plain ones. */
static int count_entry(struct check *c, const struct l2_table *t, uint64_t key,
	uint64_t desc, uint64_t bitmap, uint64_t *next)
{
	struct qcow2 *q = c->q;
	uint64_t offset = desc & QCOW2_OFFSET_MASK, guest;
	bool host = offset || (q->external_data && (desc & QCOW2_COPIED));

	if (desc & QCOW2_COMPRESSED)
		return count_compressed(c, t, key, desc, bitmap);
	if ((desc & QCOW2_L2_RESERVED) ||
		((desc & QCOW2_ZERO) && (q->extl2 || q->version < 3))) {
		check_found(c, FOUND_L2_RESERVED, key, desc, 0, 0);
		c->out->corruptions++;
	}
	if (q->extl2)
		check_bitmap(c, key, offset, host, bitmap);
	if (!host)
		return 0;
	if (!is_aligned(offset, q->cluster_bytes) && unaligned(c, key, desc, bitmap))
		return 0;
	tally(c, t, offset, next);
	if (t->active && !(desc & QCOW2_COPIED))
		c->copied_wrong++;
	if (!q->external_data)
		return count_range(c, offset, q->cluster_bytes,
			(uint64_t)t->active + t->inactive, key);
	guest = ((uint64_t)t->l1_index << (q->l2_bits + q->cluster_bits)) +
		((key & UINT32_MAX) << q->cluster_bits);
	if (offset != guest) {
		check_found(c, FOUND_DATA_FILE_OFFSET, key, guest, offset, 0);
		c->out->corruptions++;
	}
	return 0;
}

/* Plain entries, and runs of nothing, take a few instructions each. */
static int count_table_plain(struct check *c, const struct l2_table *t, uint64_t key,
	const be64 *entries, uint32_t n)
{
	const struct qcow2 *q = c->q;
	const uint64_t plain = QCOW2_OFFSET_MASK & ~(uint64_t)(q->cluster_bytes - 1);
	const uint64_t times = (uint64_t)t->active + t->inactive;
	uint64_t next = 0, allocated = 0, fragmented = 0, uncopied = 0;
	int ret = 0;

	for (uint32_t i = 0; i < n; i++) {
		uint64_t desc = be64_get(entries[i]), offset = desc & ~QCOW2_COPIED;
		uint64_t cluster = offset >> q->cluster_bits;

		if (!offset)
			continue;
		if ((offset & ~plain) || cluster >= c->n_clusters) {
			ret = count_entry(c, t, key + i, desc, 0, &next);
			if (ret)
				return ret;
			continue;
		}
		allocated++;
		fragmented += next && offset != next;
		next = offset + q->cluster_bytes;
		uncopied += !(desc & QCOW2_COPIED);
		ret = count_add(&c->refs, cluster, times);
		if (ret)
			return too_many(c, ret);
	}
	if (t->active) {
		c->out->allocated_clusters += allocated;
		c->out->fragmented_clusters += fragmented;
		c->copied_wrong += uncopied;
	}
	return 0;
}

static int count_table(void *arg, size_t i, uint8_t *cluster, bool *changed)
{
	struct check *c = arg;
	const struct qcow2 *q = c->q;
	const struct l2_table *t = &c->l2.v[i];
	const be64 *words = (const be64 *)cluster;
	uint64_t key = (uint64_t)i << 32, next = 0;
	uint32_t n = 1u << q->l2_bits;
	int ret = 0;

	(void)changed;
	if (!q->extl2 && !q->external_data)
		return count_table_plain(c, t, key, words, n);
	if (!q->extl2) {
		for (uint32_t j = 0; !ret && j < n; j++)
			ret = count_entry(c, t, key + j, be64_get(words[j]), 0, &next);
		return ret;
	}
	for (uint32_t j = 0; !ret && j < n; j++) {
		uint64_t desc = be64_get(words[2 * j]),
			 bitmap = be64_get(words[2 * j + 1]);

		if (desc || bitmap)
			ret = count_entry(c, t, key + j, desc, bitmap, &next);
	}
	return ret;
}

static int count_tables(struct check *c)
{
	uint64_t *offsets = malloc(MAX(c->l2.n, (size_t)1) * sizeof(*offsets));
	int ret;

	if (!offsets)
		return err_set(c->err, ENOMEM, "no memory for the list of L2 tables");
	for (size_t i = 0; i < c->l2.n; i++)
		offsets[i] = c->l2.v[i].offset;
	ret = qcow2_clusters_each(c->q, QCOW2_K_L2, offsets, c->l2.n, count_table, c);
	free(offsets);
	if (ret && !c->err->code)
		err_errno(c->err, -ret, "could not read L2 tables");
	return ret;
}

/* ---- the refcount structure ------------------------------------------------------ */

static int count_refblock(struct check *c, uint64_t index, uint64_t entry)
{
	struct qcow2 *q = c->q;
	uint64_t offset = entry & QCOW2_REFT_OFFSET_MASK,
		 cluster = qcow2_cluster_of(q, offset);
	enum finding_kind kind = FOUND_REFBLOCK_SHARED;
	uint64_t refs = 0;
	int ret;

	if (!is_aligned(offset, q->cluster_bytes)) {
		kind = FOUND_REFBLOCK_UNALIGNED;
	} else if (cluster >= c->n_clusters) {
		kind = FOUND_REFBLOCK_OUTSIDE;
	} else {
		ret = count_add(&c->refs, cluster, 1);
		if (ret)
			return too_many(c, ret);
		c->block_offset[c->n_blocks] = offset;
		c->block_index[c->n_blocks++] = index;
		refs = count_get(&c->refs, cluster);
		if (refs == 1 && !(entry & QCOW2_REFT_RESERVED))
			return 0;
	}
	if (entry & QCOW2_REFT_RESERVED)
		kind = FOUND_REFT_RESERVED;
	check_found(c, kind, 0, index, refs, 0);
	c->out->corruptions++;
	c->refcount_errors++;
	c->rebuild = true;
	return 0;
}

static int count_refcounts(struct check *c)
{
	struct qcow2 *q = c->q;
	uint64_t bytes = (uint64_t)q->reft_clusters << q->cluster_bits;
	uint64_t entries = bytes / sizeof(be64), before = c->out->corruptions, *table;
	size_t n = 0;
	int ret = count_range(c, q->reft_offset, bytes, 1, 0);

	if (ret)
		return ret;
	if (c->out->corruptions != before)
		forget_beyond(c, q->reft_offset, bytes);
	c->refcount_errors += c->out->corruptions - before;
	if (c->refcount_errors || !entries)
		c->rebuild = true;
	ret = qcow2_table_read(q, q->reft_offset, entries, &table);
	if (ret)
		return err_errno(c->err, -ret, "could not read the refcount table");
	for (uint64_t i = 0; i < entries; i++)
		n += table[i] != 0;
	c->block_offset = malloc(MAX(n, (size_t)1) * sizeof(*c->block_offset));
	c->block_index = malloc(MAX(n, (size_t)1) * sizeof(*c->block_index));
	if (!c->block_offset || !c->block_index)
		ret = err_set(
			c->err, ENOMEM, "no memory for the list of refcount blocks");
	for (uint64_t i = 0; !ret && i < entries; i++)
		if (table[i])
			ret = count_refblock(c, i, table[i]);
	free(table);
	return ret;
}

/* ---- metadata upon metadata ------------------------------------------------------ */

struct range {
	uint64_t first, last; /* clusters */
	enum qcow2_kind kind;
};

struct ranges {
	struct check *c;
	struct range *v;
	size_t n, cap;
};

static int range_add(
	struct ranges *r, enum qcow2_kind kind, uint64_t offset, uint64_t bytes)
{
	if (!bytes)
		return 0;
	if (r->n == r->cap) {
		size_t cap = r->cap ? r->cap * 2 : 256;
		struct range *v = realloc(r->v, cap * sizeof(*v));

		if (!v)
			return -ENOMEM;
		r->v = v;
		r->cap = cap;
	}
	r->v[r->n++] = (struct range){qcow2_cluster_of(r->c->q, offset),
		qcow2_cluster_of(r->c->q, offset + bytes - 1), kind};
	return 0;
}

static int range_add_bitmap(void *arg, uint64_t offset, uint64_t bytes)
{
	return range_add(arg, QCOW2_K_BITMAPS, offset, bytes);
}

static int ranges_gather(struct ranges *r)
{
	struct check *c = r->c;
	struct qcow2 *q = c->q;
	int ret = range_add(r, QCOW2_K_HEADER, 0, q->cluster_bytes);

	if (!ret)
		ret = range_add(r, QCOW2_K_L1, q->l1_offset, (uint64_t)q->l1_entries * 8);
	if (!ret)
		ret = range_add(r, QCOW2_K_REFTABLE, q->reft_offset,
			(uint64_t)q->reft_clusters << q->cluster_bits);
	if (!ret)
		ret = range_add(r, QCOW2_K_LUKS, q->luks_offset, q->luks_bytes);
	for (size_t i = 0; !ret && i < c->n_blocks; i++)
		ret = range_add(
			r, QCOW2_K_REFBLOCK, c->block_offset[i], q->cluster_bytes);
	for (size_t i = 0; !ret && i < c->l2.n; i++)
		ret = range_add(r, QCOW2_K_L2, c->l2.v[i].offset, q->cluster_bytes);
	if (!ret && q->snaps)
		ret = range_add(r, QCOW2_K_SNAPSHOTS, q->snaps_offset, q->snaps_bytes);
	for (uint32_t i = 0; !ret && q->snaps && i < q->n_snaps; i++)
		if (q->snaps[i].l1_offset < QCOW2_HOST_LIMIT)
			ret = range_add(r, QCOW2_K_SNAPSHOT_L1, q->snaps[i].l1_offset,
				(uint64_t)q->snaps[i].l1_entries * 8);
	if (!ret && q->has_bitmaps_ext && (q->autoclear & QCOW2_AUTOCLEAR_BITMAPS) &&
		!c->incomplete)
		ret = qcow2_bitmaps_each_range(q, range_add_bitmap, r, NULL);
	return ret;
}

static int by_first(const void *a, const void *b)
{
	const struct range *x = a, *y = b;

	if (x->first != y->first)
		return x->first < y->first ? -1 : 1;
	return x->kind < y->kind ? -1 : x->kind > y->kind;
}

/* L1 tables of snapshots do not change, so several may be one: counts say how many. */
static bool collide(const struct range *w, const struct range *x)
{
	return x->first <= w->last &&
	       !(x->kind == QCOW2_K_SNAPSHOT_L1 && w->kind == QCOW2_K_SNAPSHOT_L1);
}

static void overlap(
	struct check *c, const struct range *w, const struct range *x, bool moves)
{
	if (!collide(w, x))
		return;
	check_found(c, FOUND_OVERLAP, 0, x->first, w->kind, x->kind);
	c->out->corruptions++;
	if (moves) {
		c->refcount_errors++;
		c->rebuild = true;
	} else {
		c->incomplete = c->overlaps = true;
	}
}

/*
 * Two kinds of metadata in one cluster. Counts alone can be made to agree with that, but
 * no writer may touch such an image. The refcount structure is another case: rebuilding
 * moves it, and the others have the cluster for themselves. (A block in the wrong place has
 * been found already.)
 */
static void find_overlaps_in(struct check *c, const struct ranges *r)
{
	const struct range *widest = NULL, *table = NULL; /* what stays; what moves */

	for (size_t i = 0; i < r->n; i++) {
		const struct range *x = &r->v[i];

		if (x->kind == QCOW2_K_REFBLOCK)
			continue;
		if (widest)
			overlap(c, widest, x, x->kind == QCOW2_K_REFTABLE);
		if (table)
			overlap(c, table, x, true);
		if (x->kind == QCOW2_K_REFTABLE)
			table = x;
		else if (!widest || x->last > widest->last)
			widest = x;
	}
}

static int find_overlaps(struct check *c)
{
	struct ranges r = {.c = c};
	int ret = ranges_gather(&r);

	if (ret)
		err_errno(c->err, -ret, "could not list the metadata");
	qsort(r.v, r.n, sizeof(*r.v), by_first);
	if (!ret)
		find_overlaps_in(c, &r);
	free(r.v);
	return ret;
}

/* ---- counts on disk -------------------------------------------------------------- */

static int mismatch(struct check *c, uint64_t cluster, uint64_t count, uint64_t refs)
{
	int ret = count_add(&c->disk, cluster, count + (count < UINT64_MAX));

	if (ret)
		return too_many(c, ret);
	c->used_end = MAX(c->used_end, cluster + 1);
	c->uncountable |= refs > c->q->refcount_max;
	if (count < refs) {
		c->out->corruptions++;
		c->refcount_errors++;
		check_found(c, FOUND_REFCOUNT_LOW, cluster, cluster, count, refs);
	} else {
		c->out->leaks++;
		check_found(c, FOUND_REFCOUNT_HIGH, cluster, cluster, count, refs);
	}
	return 0;
}

/* n counts of width 16 against n counters: the OR of all differences, and of all counts.
 */
static uint16_t differ16(
	const uint8_t *counts, const uint16_t *refs, size_t n, uint16_t *seen)
{
	uint16_t diff = 0, any = 0;

	for (size_t i = 0; i < n; i++) {
		uint16_t v;

		memcpy(&v, counts + 2 * i, sizeof(v));
		v = __builtin_bswap16(v);
		diff |= v ^ refs[i];
		any |= v;
	}
	*seen = any;
	return diff;
}

/* Counts [first, first + n) of a block, for clusters from `cluster` on, all in one chunk.
 */
static int compare_window(
	struct check *c, const uint8_t *block, uint64_t first, uint64_t cluster, size_t n)
{
	static const uint16_t zeros[COUNT_CHUNK];
	unsigned order = c->q->refcount_order, pos = cluster & (COUNT_CHUNK - 1);
	const struct count_chunk *k = count_find(&c->refs, cluster >> COUNT_CHUNK_BITS);
	int ret = 0;

	if (order == 4 && (!k || k->v16)) {
		uint16_t seen;
		bool same =
			!differ16(block + 2 * first, k ? k->v16 + pos : zeros, n, &seen);

		c->any_shared |= seen > 1;
		for (size_t i = n; seen && cluster + i > c->used_end; i--)
			if (be16_get(((const be16 *)block)[first + i - 1]))
				c->used_end = cluster + i;
		if (same)
			return 0;
	}
	for (size_t i = 0; !ret && i < n; i++) {
		uint64_t count = qcow2_refcount_load(block, order, first + i);
		uint64_t refs = k ? count_chunk_get(k, pos + i) : 0;

		if (count)
			c->used_end = MAX(c->used_end, cluster + i + 1);
		c->any_shared |= count > 1;
		if (count != refs)
			ret = mismatch(c, cluster + i, count, refs);
	}
	return ret;
}

/* Counts of clusters past the end of the file are nobody's leak: what was counted may never
 * have been written. Flags of entries that point there are compared with them all the same. */
static int note_past_end(
	struct check *c, const uint8_t *block, uint64_t first, uint64_t base)
{
	int ret = 0;

	for (uint64_t i = first; !ret && i < 1ull << c->q->refblock_bits; i++) {
		uint64_t count = qcow2_refcount_load(block, c->q->refcount_order, i);

		if (count)
			ret = count_add(&c->disk, base + i, count + (count < UINT64_MAX));
	}
	return ret ? too_many(c, ret) : 0;
}

static int compare_block(void *arg, size_t i, uint8_t *cluster, bool *changed)
{
	struct check *c = arg;
	uint64_t n = 1ull << c->q->refblock_bits, base, inside;
	int ret = 0;

	(void)changed;
	if (c->block_index[i] > (c->n_clusters >> c->q->refblock_bits))
		return 0;
	base = c->block_index[i] * n;
	inside = MIN(n, c->n_clusters - base);
	for (uint64_t at = 0, step; !ret && at < inside; at += step) {
		step = MIN(inside - at, (uint64_t)COUNT_CHUNK);
		ret = compare_window(c, cluster, at, base + at, step);
	}
	return ret ? ret : note_past_end(c, cluster, inside, base);
}

static int compare_none(
	struct check *c, const struct count_chunk *k, uint64_t pos, uint64_t n)
{
	int ret = 0;

	for (; !ret && n; pos++, n--) {
		uint64_t refs = count_chunk_get(k, pos);

		if (!refs)
			continue;
		c->rebuild = true;
		ret = mismatch(c, (k->index << COUNT_CHUNK_BITS) + pos, 0, refs);
	}
	return ret;
}

/* What is referenced in parts that no block counts. Blocks ascend as the chunks do. */
static int compare_uncounted(struct check *c)
{
	uint64_t step = MIN(1ull << c->q->refblock_bits, (uint64_t)COUNT_CHUNK);
	struct count_chunk **chunks;
	size_t n = c->refs.n_chunks, b = 0;
	int ret = count_sorted(&c->refs, &chunks);

	if (ret)
		return err_set(c->err, ENOMEM, "no memory to compare refcounts");
	for (size_t i = 0; !ret && i < n; i++) {
		uint64_t base = chunks[i]->index << COUNT_CHUNK_BITS;

		for (uint64_t pos = 0; !ret && pos < COUNT_CHUNK; pos += step) {
			uint64_t block = (base + pos) >> c->q->refblock_bits;

			while (b < c->n_blocks && c->block_index[b] < block)
				b++;
			if (b == c->n_blocks || c->block_index[b] != block)
				ret = compare_none(c, chunks[i], pos, step);
		}
	}
	free(chunks);
	return ret;
}

static int compare_counts(struct check *c)
{
	int ret = qcow2_clusters_each(
		c->q, QCOW2_K_REFBLOCK, c->block_offset, c->n_blocks, compare_block, c);

	if (ret && !c->err->code)
		err_errno(c->err, -ret, "could not read refcount blocks");
	return ret ? ret : compare_uncounted(c);
}

/* ---- copied flags ---------------------------------------------------------------- */

struct flags_pass {
	struct check *c;
	const uint32_t *index; /* of the tables read, in c->l2 */
	bool repair, clear_only, lower;
};

/* The count that decides on a flag. While counts are being repaired it is the one that is
 * going to be; a count that stays too low decides nothing: *known is false then. */
static uint64_t deciding_count(const struct flags_pass *p, uint64_t cluster, bool *known)
{
	uint64_t count = check_count(p->c, cluster), refs;

	*known = true;
	if (!p->repair || cluster >= p->c->n_clusters)
		return count;
	refs = count_get(&p->c->refs, cluster);
	*known = count >= refs;
	return p->clear_only && p->lower ? MIN(count, refs) : count;
}

/* Settles one flag: true where it has to be turned. */
static bool flag_wrong(const struct flags_pass *p, uint64_t entry, bool want)
{
	struct check *c = p->c;

	if (want == !!(entry & QCOW2_COPIED))
		return false;
	if (!p->repair) {
		c->out->corruptions++;
		return true;
	}
	if (c->overlaps || (want && p->clear_only))
		return false;
	c->out->corruptions++;
	c->out->corruptions_fixed++;
	return true;
}

static bool turn_entry(struct flags_pass *p, uint64_t key, be64 *word)
{
	struct check *c = p->c;
	const struct qcow2 *q = c->q;
	uint64_t desc = be64_get(*word), offset = desc & QCOW2_OFFSET_MASK, count;
	bool compressed = desc & QCOW2_COMPRESSED, known = true;

	if (compressed)
		count = 0;
	else if (!offset || !is_aligned(offset, q->cluster_bytes))
		return false;
	else if (q->external_data)
		count = 1;
	else
		count = deciding_count(p, offset >> q->cluster_bits, &known);
	if (!known || !flag_wrong(p, desc, count == 1))
		return false;
	if (compressed)
		check_found(c,
			p->repair ? FIXED_COMPRESSED_COPIED : FOUND_COMPRESSED_COPIED,
			key, desc, 0, 0);
	else
		check_found(c, p->repair ? FIXED_DATA_COPIED : FOUND_DATA_COPIED, key,
			desc, count, 0);
	if (p->repair)
		*word = be64_put(desc ^ QCOW2_COPIED);
	return p->repair;
}

static int turn_table(void *arg, size_t i, uint8_t *cluster, bool *changed)
{
	struct flags_pass *p = arg;
	struct check *c = p->c;
	const struct qcow2 *q = c->q;
	const struct l2_table *t = &c->l2.v[p->index[i]];
	unsigned step = q->extl2 ? 2 : 1;
	be64 *words = (be64 *)cluster;

	for (uint32_t j = 0; j < 1u << q->l2_bits; j++) {
		if (!be64_get(words[j * step]))
			continue;
		*changed |=
			turn_entry(p, (KEY_FLAGS | (uint64_t)t->l1_index << 32) + j + 1,
				&words[j * step]);
	}
	return 0;
}

static int turn_l1(struct flags_pass *p)
{
	struct check *c = p->c;
	struct qcow2 *q = c->q;
	uint64_t *table;
	bool changed = false;
	int ret;

	ret = qcow2_table_read(q, q->l1_offset, q->l1_entries, &table);
	if (ret)
		return ret;
	for (uint32_t i = 0; i < q->l1_entries; i++) {
		uint64_t offset = table[i] & QCOW2_OFFSET_MASK, count;
		bool known;

		if (!offset || !is_aligned(offset, q->cluster_bytes))
			continue;
		count = deciding_count(p, qcow2_cluster_of(q, offset), &known);
		if (!known || !flag_wrong(p, table[i], count == 1))
			continue;
		check_found(c, p->repair ? FIXED_L2_COPIED : FOUND_L2_COPIED,
			KEY_FLAGS | (uint64_t)i << 32, i, table[i], count);
		table[i] ^= QCOW2_COPIED;
		changed = true;
	}
	/* In place: a crash leaves some flags right and some as they were. */
	if (p->repair && changed)
		ret = qcow2_table_write(
			q, QCOW2_K_L1, q->l1_offset, q->l1_entries, table);
	free(table);
	return ret;
}

bool check_flags_needed(const struct check *c)
{
	return c->any_shared || c->copied_wrong || c->out->corruptions || c->out->leaks;
}

int check_flags(struct check *c, bool repair, bool clear_only)
{
	uint64_t *offsets = malloc(MAX(c->l2.n, (size_t)1) * sizeof(*offsets));
	uint32_t *index = malloc(MAX(c->l2.n, (size_t)1) * sizeof(*index));
	struct flags_pass p = {c, index, repair, clear_only, c->lower};
	size_t n = 0;
	int ret = -ENOMEM;

	if (offsets && index) {
		for (size_t i = 0; i < c->l2.n; i++)
			if (c->l2.v[i].active) {
				index[n] = (uint32_t)i;
				offsets[n++] = c->l2.v[i].offset;
			}
		ret = turn_l1(&p);
	}
	if (!ret)
		ret = qcow2_clusters_each(c->q, QCOW2_K_L2, offsets, n, turn_table, &p);
	free(offsets);
	free(index);
	if (!repair)
		check_tell(c);
	return ret ? err_errno(c->err, -ret, "could not %s copied flags",
			     repair ? "repair" : "check")
		   : 0;
}

/* ---- all of it ------------------------------------------------------------------- */

static int count_references(struct check *c)
{
	struct qcow2 *q = c->q;
	int ret = reach_l1(c);

	if (!ret)
		ret = count_range(c, 0, q->cluster_bytes, 1, 0);
	if (!ret)
		ret = count_l1(c, q->l1_offset, q->l1_entries, true);
	if (!ret && qcow2_cluster_of(q, q->l1_offset) >= c->n_clusters && q->l1_entries)
		c->incomplete = true;
	check_tell(c);
	if (!ret)
		ret = count_snapshots(c);
	if (!ret)
		ret = count_other(c);
	check_tell(c);
	if (!ret)
		ret = count_tables(c);
	check_tell(c);
	if (!ret)
		ret = count_refcounts(c);
	if (!ret)
		ret = find_overlaps(c);
	check_tell(c);
	return ret;
}

static int check_run(struct check *c)
{
	struct qcow2 *q = c->q;
	int ret = count_references(c);

	if (ret)
		return ret;
	ret = compare_counts(c);
	check_tell(c);
	if (ret)
		return ret;
	c->out->total_clusters = div_round_up(blk_size(q->b), q->cluster_bytes);
	c->out->image_end_offset = c->used_end << q->cluster_bits;
	if (c->fix)
		return check_repair(c);
	return check_flags_needed(c) ? check_flags(c, false, false) : 0;
}

/* The engine goes on with what is on disk now. What could not be repaired may not load:
 * then the image serves for nothing but another check. */
static int check_reload(struct qcow2 *q, const struct blk_check *out, struct err *err)
{
	struct err lost = ERR_INIT;
	int ret = q->n_snaps && !q->snaps ? -EIO : qcow2_tables_load(q, &lost);

	if (!ret || out->corruptions || out->check_errors) {
		q->overlap.off = ret != 0;
		return 0;
	}
	return err_set(err, lost.code, "%s", lost.msg);
}

int check_whole(struct qcow2 *q, struct blk_check *out, unsigned fix, struct err *err)
{
	struct err local = ERR_INIT;
	struct check c = {.q = q, .out = out, .fix = fix, .err = &local};
	int ret;

	c.n_clusters = div_round_up(blk_size(q->file), q->cluster_bytes);
	count_init(&c.refs, qcow2_count_limit(q));
	count_init(&c.disk, c.refs.limit);
	count_init(&c.beyond, c.refs.limit);
	l2_set_init(&c.l2);
	ret = check_run(&c);
	count_destroy(&c.refs);
	count_destroy(&c.disk);
	count_destroy(&c.beyond);
	l2_set_destroy(&c.l2);
	free(c.block_offset);
	free(c.block_index);
	free(c.found);
	if (fix && !ret)
		ret = check_reload(q, out, &local);
	return ret ? err_set(err, -ret, "%s", local.msg) : 0;
}

int qcow2_check(struct blk *b, struct blk_check *out, unsigned fix, struct err *err)
{
	struct qcow2 *q = b->state;
	int ret = 0;

	if (fix && blk_read_only(b))
		return err_set(err, EACCES, "the image is open read-only");
	qcow2_exclusive_begin(q);
	if (!blk_read_only(b))
		ret = qcow2_commit_all(q);
	ret = ret ? err_errno(err, -ret, "could not write out metadata")
		  : check_whole(q, out, fix, err);
	qcow2_exclusive_end(q);
	return ret;
}
