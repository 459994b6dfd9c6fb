/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Repair: writes what check.c found wrong, in an order that leaves every reference
 * counted whenever it is cut short:
 *
 *	1 counts that are too low are raised	(or the refcount structure is built anew)
 *	2 entries are cleared, and copied flags where the count is not one
 *	3 counts that are too high are lowered	(not while tables could not be followed)
 *	4 copied flags are set where the count is one
 *
 * with a flush behind each. A crash before 1 leaves the image as it was, one before 3
 * leaks, one before 4 misses flags. On version 3 the dirty bit is held over all of it.
 * Refcount blocks are changed in place only where nothing else lies on them; else a new
 * structure is written behind the end of the file and the header is switched to it last.
 *
 * Metadata goes out with the overlap map off: it is built from what is being repaired. In
 * its place, a block or table is written only where its references prove that it is
 * nothing else (check_l2_writable, and `rebuild` for the refcount structure).
 */
#include "qcow2/check.h"

#define BATCH_BYTES (1u << 20)

static int flush(struct check *c)
{
	int ret = blk_flush(c->q->file);

	return ret ? err_errno(c->err, -ret, "could not flush") : 0;
}

/* ---- counts in place ------------------------------------------------------------- */

struct count_pass {
	struct check *c;
	bool raise;
};

static bool settle(struct count_pass *p, uint8_t *block, uint64_t i, uint64_t cluster,
	uint64_t count)
{
	struct check *c = p->c;
	uint64_t refs = count_get(&c->refs, cluster);

	if (p->raise != (count < refs) || refs > c->q->refcount_max)
		return false;
	/* References past the end of the file are not counted: nor is there a leak. */
	if (cluster >= c->n_clusters)
		return false;
	check_found(c, FIXED_REFCOUNT, cluster, cluster, count, refs);
	qcow2_refcount_store(block, c->q->refcount_order, i, refs);
	if (p->raise)
		c->out->corruptions_fixed++;
	else
		c->out->leaks_fixed++;
	return true;
}

static int settle_block(void *arg, size_t i, uint8_t *block, bool *changed)
{
	struct count_pass *p = arg;
	struct check *c = p->c;
	uint64_t n = 1ull << c->q->refblock_bits, base = c->block_index[i] * n;

	for (uint64_t at = 0, step; at < n; at += step) {
		struct count_chunk *k =
			count_find(&c->disk, (base + at) >> COUNT_CHUNK_BITS);
		unsigned pos = (base + at) & (COUNT_CHUNK - 1);

		step = MIN(n - at, (uint64_t)COUNT_CHUNK);
		for (uint64_t x = 0; k && x < step; x++) {
			uint64_t d = count_chunk_get(k, pos + x);

			if (!d || !settle(p, block, at + x, base + at + x, d - 1))
				continue;
			count_chunk_set(k, pos + x, 0);
			*changed = true;
		}
	}
	return 0;
}

static int settle_counts(struct check *c, bool raise)
{
	struct count_pass p = {c, raise};
	int ret = qcow2_clusters_each(
		c->q, QCOW2_K_REFBLOCK, c->block_offset, c->n_blocks, settle_block, &p);

	if (ret)
		return err_errno(c->err, -ret, "could not repair refcounts");
	return flush(c);
}

/* ---- a new refcount structure ---------------------------------------------------- */

struct layout {
	uint64_t *index; /* of blocks, ascending */
	size_t n, cap;
	uint64_t start; /* cluster: blocks, then the table */
	uint64_t table_clusters;
};

static void drop_old_structure(struct check *c)
{
	struct qcow2 *q = c->q;
	uint64_t first = qcow2_cluster_of(q, q->reft_offset), n = q->reft_clusters;

	if (n && first + n <= c->n_clusters)
		for (uint64_t i = 0; i < n; i++)
			count_sub(&c->refs, first + i, 1);
	for (size_t i = 0; i < c->n_blocks; i++)
		count_sub(&c->refs, qcow2_cluster_of(q, c->block_offset[i]), 1);
}

/* Where not everything could be followed, what is counted on disk stays counted. */
static int keep_counts(struct check *c)
{
	struct count_chunk **chunks;
	size_t n = c->disk.n_chunks;
	int ret = count_sorted(&c->disk, &chunks);

	for (size_t i = 0; !ret && i < n; i++)
		for (unsigned pos = 0; !ret && pos < COUNT_CHUNK; pos++) {
			uint64_t d = count_chunk_get(chunks[i], pos);
			uint64_t cluster = (chunks[i]->index << COUNT_CHUNK_BITS) + pos;
			uint64_t refs = d > 1 ? count_get(&c->refs, cluster) : 0;

			if (d > 1 && d - 1 > refs && cluster < c->n_clusters)
				ret = count_add(&c->refs, cluster, d - 1 - refs);
		}
	if (!ret)
		free(chunks);
	return ret;
}

static int need_block(struct layout *l, uint64_t index)
{
	if (l->n && l->index[l->n - 1] == index)
		return 0;
	if (l->n == l->cap) {
		size_t cap = l->cap ? l->cap * 2 : 64;
		uint64_t *v = realloc(l->index, cap * sizeof(*v));

		if (!v)
			return -ENOMEM;
		l->index = v;
		l->cap = cap;
	}
	assert(!l->n || l->index[l->n - 1] < index);
	l->index[l->n++] = index;
	return 0;
}

/* Blocks for all that is referenced. */
static int need_blocks(struct check *c, struct layout *l)
{
	struct count_chunk **chunks;
	int ret = count_sorted(&c->refs, &chunks);

	if (ret)
		return ret;
	for (size_t i = 0; !ret && i < c->refs.n_chunks; i++)
		for (unsigned pos = 0; !ret && pos < COUNT_CHUNK; pos++)
			if (count_chunk_get(chunks[i], pos))
				ret = need_block(l,
					((chunks[i]->index << COUNT_CHUNK_BITS) + pos) >>
						c->q->refblock_bits);
	free(chunks);
	return ret;
}

/* Those that the new structure needs for itself, from l->start on; *size is all of it. */
static int need_own_blocks(struct check *c, struct layout *l, uint64_t *size)
{
	struct qcow2 *q = c->q;
	int ret = 0;

	for (*size = 0; !ret;) {
		uint64_t last = (l->start + *size) >> q->refblock_bits;
		uint64_t first = l->start >> q->refblock_bits, bytes;

		if ((last + 1) * sizeof(be64) > QCOW2_MAX_REFTABLE_BYTES)
			return -EFBIG;
		if (l->n)
			first = MAX(first, l->index[l->n - 1] + 1);
		for (uint64_t x = first; !ret && x <= last; x++)
			ret = need_block(l, x);
		bytes = (l->index[l->n - 1] + 1) * sizeof(be64);
		l->table_clusters = div_round_up(bytes, q->cluster_bytes);
		if (*size == l->n + l->table_clusters)
			break;
		*size = l->n + l->table_clusters;
	}
	return ret;
}

/* The last cluster of the range that something refers to though the file ends before it; 0
 * where there is none. */
static uint64_t last_beyond(struct check *c, uint64_t start, uint64_t size)
{
	for (uint64_t i = start + size; i > start; i--)
		if (count_get(&c->beyond, i - 1))
			return i - 1;
	return 0;
}

/* What the longer file makes of references past the old end: clusters of zeros, counted. */
static int take_in(struct check *c, uint64_t from, uint64_t to)
{
	int ret = 0;

	for (uint64_t i = from; !ret && i < to; i++) {
		uint64_t n = count_get(&c->beyond, i);

		ret = n ? count_add(&c->refs, i, n) : 0;
	}
	return ret;
}

/* Behind the end of the file, and behind what refers to clusters there. Growing steps: a
 * hostile image can refer to every third cluster for long. */
static int lay_out(struct check *c, struct layout *l)
{
	uint64_t size = 0, end = c->n_clusters, step = 1, taken;
	int ret;

	l->start = end;
	do {
		ret = take_in(c, l->start, end);
		l->start = end;
		l->n = 0;
		if (!ret)
			ret = need_blocks(c, l);
		if (!ret)
			ret = need_own_blocks(c, l, &size);
		taken = ret ? 0 : last_beyond(c, l->start, size);
		end = MAX(taken + 1, l->start + step);
		step *= 2;
	} while (taken);
	for (uint64_t i = 0; !ret && i < size; i++)
		ret = count_add(&c->refs, l->start + i, 1);
	return ret;
}

static void fill_block(struct check *c, uint64_t index, uint8_t *block)
{
	uint64_t n = 1ull << c->q->refblock_bits;

	memset(block, 0, c->q->cluster_bytes);
	for (uint64_t i = 0; i < n; i++) {
		uint64_t refs = count_get(&c->refs, index * n + i);

		if (!refs)
			continue;
		if (refs > c->q->refcount_max) {
			c->out->corruptions++; /* found anew: this one stays */
			refs = c->q->refcount_max;
		}
		qcow2_refcount_store(block, c->q->refcount_order, i, refs);
	}
}

static int write_blocks(struct check *c, const struct layout *l)
{
	struct qcow2 *q = c->q;
	size_t batch = MAX(BATCH_BYTES / q->cluster_bytes, 1u), n;
	uint8_t *buf = buf_alloc(batch * q->cluster_bytes);
	int ret = 0;

	if (!buf)
		return -ENOMEM;
	for (size_t i = 0; !ret && i < l->n; i += n) {
		n = MIN(batch, l->n - i);
		for (size_t x = 0; x < n; x++)
			fill_block(c, l->index[i + x], buf + x * q->cluster_bytes);
		ret = qcow2_meta_write(q, QCOW2_K_REFBLOCK,
			(l->start + i) << q->cluster_bits, buf, n * q->cluster_bytes);
	}
	buf_free(buf);
	return ret;
}

static int write_table(struct check *c, const struct layout *l)
{
	struct qcow2 *q = c->q;
	uint64_t entries = (l->table_clusters << q->cluster_bits) / sizeof(be64);
	uint64_t *table = calloc(entries, sizeof(*table));
	int ret;

	if (!table)
		return -ENOMEM;
	for (size_t i = 0; i < l->n; i++)
		table[l->index[i]] = (l->start + i) << q->cluster_bits;
	ret = qcow2_table_write(q, QCOW2_K_REFTABLE, (l->start + l->n) << q->cluster_bits,
		entries, table);
	free(table);
	return ret;
}

/* One sector has both fields: a crash leaves the old structure or the new one. */
static int switch_table(struct check *c, const struct layout *l)
{
	struct qcow2 *q = c->q;
	uint64_t offset = q->reft_offset;
	uint32_t clusters = q->reft_clusters;
	int ret;

	q->reft_offset = (l->start + l->n) << q->cluster_bits;
	q->reft_clusters = (uint32_t)l->table_clusters;
	ret = qcow2_header_write(q);
	if (ret) {
		q->reft_offset = offset;
		q->reft_clusters = clusters;
	}
	return ret;
}

static int rebuild(struct check *c)
{
	struct layout l = {0};
	int ret = 0;

	check_say(c, false, "Rebuilding refcount structure");
	drop_old_structure(c);
	if (c->incomplete)
		ret = keep_counts(c);
	if (!ret)
		ret = lay_out(c, &l);
	if (!ret)
		ret = write_blocks(c, &l);
	/* A crash up to here leaves clusters behind the end that nobody knows of. */
	if (!ret)
		ret = blk_flush(c->q->file);
	if (!ret)
		ret = write_table(c, &l);
	if (!ret)
		ret = blk_flush(c->q->file);
	if (!ret)
		ret = switch_table(c, &l);
	if (!ret)
		c->out->image_end_offset = (l.start + l.n + l.table_clusters)
					   << c->q->cluster_bits;
	free(l.index);
	if (ret)
		return err_errno(
			c->err, -ret, "could not rebuild the refcount structure");
	c->out->corruptions_fixed += c->refcount_errors;
	if (!c->incomplete)
		c->out->leaks_fixed += c->out->leaks;
	count_destroy(&c->disk); /* all counts on disk are those of refs now */
	return flush(c);
}

/* ---- entries --------------------------------------------------------------------- */

static int clear_entries(void *arg, size_t i, uint8_t *cluster, bool *changed)
{
	struct check *c = arg;
	const struct qcow2 *q = c->q;
	unsigned step = q->extl2 ? 2 : 1;
	be64 *words = (be64 *)cluster;

	(void)i;
	for (uint32_t j = 0; j < 1u << q->l2_bits; j++) {
		be64 *word = &words[j * step];
		uint64_t bitmap = q->extl2 ? be64_get(word[1]) : 0;

		if (!check_prealloc_bad(q, be64_get(*word), bitmap))
			continue;
		*word = be64_put(q->extl2 ? 0 : QCOW2_ZERO);
		c->out->corruptions_fixed++;
		*changed = true;
	}
	return 0;
}

static int repair_entries(struct check *c)
{
	uint64_t *offsets;
	int ret;

	if (!c->fix_entries || c->overlaps)
		return 0;
	offsets = malloc(c->l2.n * sizeof(*offsets));
	if (!offsets)
		return err_set(c->err, ENOMEM, "no memory for the list of L2 tables");
	for (size_t i = 0; i < c->l2.n; i++)
		offsets[i] = c->l2.v[i].offset;
	ret = qcow2_clusters_each(c->q, QCOW2_K_L2, offsets, c->l2.n, clear_entries, c);
	free(offsets);
	return ret ? err_errno(c->err, -ret, "could not repair L2 entries") : 0;
}

/* ---- all of it ------------------------------------------------------------------- */

/* Looks without telling, so that a sound image is not written to. */
static int flags_wrong(struct check *c, bool *wrong)
{
	struct blk_check before = *c->out;
	int ret = 0;

	*wrong = false;
	if (!check_flags_needed(c))
		return 0;
	c->out->report = NULL;
	ret = check_flags(c, false, false);
	*wrong = c->out->corruptions != before.corruptions;
	*c->out = before;
	return ret;
}

/* The header before the first repair: the dirty bit, and nothing that would go stale. */
static int begin(struct check *c)
{
	struct qcow2 *q = c->q;
	bool stale = q->has_bitmaps_ext && !(q->autoclear & QCOW2_AUTOCLEAR_BITMAPS);
	bool unknown = q->autoclear & ~(uint64_t)QCOW2_AUTOCLEAR_KNOWN;
	int ret;

	q->overlap.off = true;
	q->autoclear &= QCOW2_AUTOCLEAR_KNOWN;
	/* The clusters of bitmaps that nobody trusts any more are about to be free. */
	if (stale)
		q->has_bitmaps_ext = false;
	ret = stale || unknown || c->fix_header ? qcow2_header_write(q) : 0;
	if (!ret)
		ret = qcow2_set_dirty(q, true);
	return ret ? err_errno(c->err, -ret, "could not write the header") : flush(c);
}

static int repair_steps(struct check *c)
{
	bool errors = c->fix & BLK_FIX_ERRORS;
	bool flags = errors ||
		     !c->out->corruptions; /* else it is not known what they should be */
	int ret = begin(c);

	c->lower = (c->fix & BLK_FIX_LEAKS) && !c->incomplete && !c->rebuild &&
		   c->out->leaks;
	if (!ret && c->rebuild && errors)
		ret = rebuild(c);
	else if (!ret && c->rebuild)
		check_say(c, true, "ERROR need to rebuild refcount structures");
	else if (!ret && errors && c->refcount_errors)
		ret = settle_counts(c, true);
	if (!ret)
		ret = repair_entries(c);
	if (!ret && flags)
		ret = check_flags(c, true, true);
	if (!ret)
		ret = flush(c);
	if (!ret && c->lower)
		ret = settle_counts(c, false);
	if (!ret && flags)
		ret = check_flags(c, true, false);
	check_tell(c);
	if (!ret && !flags)
		ret = check_flags(c, false, false);
	return ret ? ret : flush(c);
}

/* The counts are sound by now, unless some cannot be: the engine's own allocator can be used.
 */
static int repair_snapshots(struct check *c)
{
	struct qcow2 *q = c->q;
	uint64_t n = 0;
	int ret;

	if (!c->fix_snapshots || !(c->fix & BLK_FIX_ERRORS) || c->incomplete ||
		c->uncountable)
		return 0;
	q->overlap.off = false;
	ret = qcow2_tables_load(q, c->err);
	for (uint32_t i = 0; i < q->n_snaps; i++)
		n += check_snapshot_unfinished(q, &q->snaps[i]);
	if (!ret)
		ret = qcow2_snapshots_rewrite(q, c->err);
	if (!ret)
		c->out->corruptions_fixed += n;
	return ret;
}

/* Dirty and corrupt bits say no more than what is left. */
static int finish(struct check *c, bool was_dirty)
{
	struct qcow2 *q = c->q;
	bool clean = !c->out->corruptions && !c->out->check_errors;
	uint64_t before = q->incompatible;
	int ret = 0;

	if (clean && (before & QCOW2_INCOMPAT_CORRUPT)) {
		q->incompatible &= ~(uint64_t)QCOW2_INCOMPAT_CORRUPT;
		if (!(before & QCOW2_INCOMPAT_DIRTY))
			ret = qcow2_header_write(q);
	}
	if (!ret && (clean || !was_dirty))
		ret = qcow2_set_dirty(q, false);
	if (ret) {
		q->incompatible = before;
		return err_errno(c->err, -ret, "could not write the header");
	}
	if (clean)
		q->corrupt = false;
	return flush(c);
}

int check_repair(struct check *c)
{
	struct blk_check *out = c->out;
	bool was_dirty = c->q->incompatible & QCOW2_INCOMPAT_DIRTY, wrong;
	int ret = flags_wrong(c, &wrong);

	if (!ret && (wrong || out->corruptions || out->leaks))
		ret = repair_steps(c);
	if (!ret)
		ret = repair_snapshots(c);
	if (ret)
		return ret;
	out->corruptions -= out->corruptions_fixed;
	out->leaks -= out->leaks_fixed;
	c->q->overlap.off = true;
	return finish(c, was_dirty);
}
