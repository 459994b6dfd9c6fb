/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Internal snapshots: create, apply, delete, list, load.
 *
 * A snapshot is a copy of the L1 table; what it and the active table both reach counts
 * twice. Each operation knows first what it will change, and refuses before any of it (a
 * count that would not fit, a table that cannot be). Then, with no request in flight and
 * nothing dirty in memory, it changes tables on disk in bulk:
 *
 *	1 new clusters (an L1 table, the snapshot table) are allocated and committed
 *	2 dirty bit, on version 3					(I6)
 *	3 counts that rise
 *	4 copied flags that go; the new tables
 *	5 the header: one sector, the moment it happens
 *	6 counts that fall
 *	7 copied flags that come
 *	8 dirty bit off; what the old tables held is freed
 *
 * with a flush between them. A crash before 5 leaves the old state, one after it the new
 * one. Beside that, one before 3 leaves leaks only, one before 6 too; between 3 and 4, and
 * between 6 and 7, counts and flags disagree. No order can avoid that: hence the dirty
 * bit, by which the next opener repairs it. Version 2 has none; there what is left over is
 * flags on clusters whose count is right, which a check repairs, and a count is never
 * below its references.
 *
 * An operation that fails after 2 is undone or completed by a repair on the spot.
 */
#include "qcow2/check.h"
#include "qcow2/snaptable.h"

#include <limits.h>
#include <stdio.h>

enum op_kind { CREATE, APPLY, DELETE };

struct operation {
	struct qcow2 *q;
	struct err *err;
	enum op_kind kind;
	struct l2_set l2;
	struct count up, down; /* by how much counts change */
	bool stale;            /* tables that will be shared have copied flags */

	struct snap_table
		table; /* create, delete: the new snapshot table; the old once switched */
	struct qcow2_snap odd; /* the entry that one of the two tables has */
	uint64_t *l1;          /* the active L1 table, as read or as it shall be */
	uint64_t new_l1;       /* clusters allocated for an L1 table; 0: none */
	uint32_t new_l1_entries;
	uint64_t old_l1; /* an L1 table that is freed at the end; 0: none */
	uint32_t old_l1_entries;
	bool was_dirty, changing, switched;
};

static void op_init(
	struct operation *op, struct qcow2 *q, enum op_kind kind, struct err *err)
{
	*op = (struct operation){.q = q, .kind = kind, .err = err};
	op->was_dirty = q->incompatible & QCOW2_INCOMPAT_DIRTY;
	l2_set_init(&op->l2);
	count_init(&op->up, qcow2_count_limit(q));
	count_init(&op->down, op->up.limit);
}

/* ---- what the tables reach ------------------------------------------------------- */

static int bad_table(struct operation *op, const char *what, uint64_t value)
{
	err_set(op->err, EIO, "%s: 0x%" PRIx64, what, value);
	err_hint(op->err, "Check and repair the image first.");
	return -EIO;
}

static bool inside_file(const struct qcow2 *q, uint64_t offset, uint64_t bytes)
{
	return range_inside(offset, bytes,
		round_up(MIN(blk_size(q->file), BLK_MAX_SIZE), q->cluster_bytes));
}

static int gather_l1(
	struct operation *op, const uint64_t *l1, uint32_t entries, bool active)
{
	struct qcow2 *q = op->q;

	for (uint32_t i = 0; i < entries; i++) {
		uint64_t offset = l1[i] & QCOW2_OFFSET_MASK;

		if (l1[i] & QCOW2_L1_RESERVED)
			return bad_table(op, "reserved bits in an L1 entry", l1[i]);
		if (!offset)
			continue;
		if (!is_aligned(offset, q->cluster_bytes) ||
			!inside_file(q, offset, q->cluster_bytes))
			return bad_table(op, "an L2 table cannot be there", offset);
		if (l2_set_add(&op->l2, offset, active, i))
			return err_set(
				op->err, ENOMEM, "no memory for the list of L2 tables");
	}
	return 0;
}

/* References that the operation adds to, or takes from, what this table names. */
static uint64_t weight(const struct operation *op, const struct l2_table *t, bool up)
{
	switch (op->kind) {
	case CREATE:
		return up ? t->active : 0;
	case DELETE:
		return up ? 0 : t->inactive;
	default: /* the snapshot's references become the active ones */
		if (up)
			return t->inactive > t->active ? t->inactive - t->active : 0;
		return t->active > t->inactive ? t->active - t->inactive : 0;
	}
}

struct gather {
	struct operation *op;
	struct count *into;
	const uint64_t *weights; /* per table read */
};

static int add_range(struct gather *g, uint64_t offset, uint64_t bytes, uint64_t n)
{
	struct qcow2 *q = g->op->q;
	uint64_t last = qcow2_cluster_of(q, offset + bytes - 1);
	int ret = 0;

	for (uint64_t i = qcow2_cluster_of(q, offset); !ret && i <= last; i++)
		ret = count_add(g->into, i, n);
	return ret ? count_error(g->op->err, ret, g->into->limit) : 0;
}

static int add_odd(struct gather *g, uint64_t desc, uint64_t n)
{
	struct qcow2 *q = g->op->q;
	uint64_t offset = desc & QCOW2_OFFSET_MASK, bytes = q->cluster_bytes;

	if (desc & QCOW2_COMPRESSED) {
		uint64_t sectors = (desc & ~(QCOW2_COPIED | QCOW2_COMPRESSED)) >>
				   q->compressed_shift;

		offset = desc & q->compressed_offset_mask;
		bytes = (sectors + 1) * BLK_SECTOR - (offset & (BLK_SECTOR - 1));
	} else if ((desc & QCOW2_L2_RESERVED) || !is_aligned(offset, q->cluster_bytes)) {
		return bad_table(g->op, "an L2 entry cannot be", desc);
	} else if (!offset) {
		return 0;
	}
	if (!inside_file(q, offset, bytes))
		return bad_table(g->op, "an L2 entry points outside the file", desc);
	return add_range(g, offset, bytes, n);
}

static int gather_table(void *arg, size_t i, uint8_t *cluster, bool *changed)
{
	struct gather *g = arg;
	const struct qcow2 *q = g->op->q;
	const uint64_t plain = QCOW2_OFFSET_MASK & ~(uint64_t)(q->cluster_bytes - 1);
	const uint64_t end = div_round_up(blk_size(q->file), q->cluster_bytes);
	const be64 *words = (const be64 *)cluster;
	const uint32_t n = 1u << q->l2_bits, step = q->extl2 ? 2 : 1;
	const uint64_t times = g->weights[i];
	uint64_t copied = 0;
	int ret = 0;

	(void)changed;
	for (uint32_t j = 0; !ret && j < n; j++) {
		uint64_t desc = be64_get(words[j * step]), offset = desc & ~QCOW2_COPIED;

		if (!offset)
			continue;
		copied |= desc;
		if ((offset & ~plain) || offset >> q->cluster_bits >= end)
			ret = add_odd(g, desc, times);
		else if ((ret = count_add(g->into, offset >> q->cluster_bits, times)))
			ret = count_error(g->op->err, ret, g->into->limit);
	}
	g->op->stale |= (copied & QCOW2_COPIED) != 0;
	return ret;
}

/* Counts into op->up or op->down what the tables with a weight reach, themselves
 * included. */
static int gather(struct operation *op, bool up)
{
	size_t n = 0, most = MAX(op->l2.n, (size_t)1);
	uint64_t *offsets = malloc(most * sizeof(*offsets));
	uint64_t *weights = malloc(most * sizeof(*weights));
	struct gather g = {
		.op = op, .into = up ? &op->up : &op->down, .weights = weights};
	int ret = 0;

	if (!offsets || !weights)
		ret = err_set(op->err, ENOMEM, "no memory for the list of L2 tables");
	for (size_t i = 0; !ret && i < op->l2.n; i++) {
		uint64_t w = weight(op, &op->l2.v[i], up);

		if (!w)
			continue;
		offsets[n] = op->l2.v[i].offset;
		weights[n++] = w;
		ret = add_range(&g, op->l2.v[i].offset, 1, w);
	}
	if (!ret)
		ret = qcow2_clusters_each(
			op->q, QCOW2_K_L2, offsets, n, gather_table, &g);
	if (ret && !op->err->code)
		err_errno(op->err, -ret, "could not read L2 tables");
	free(offsets);
	free(weights);
	return ret;
}

/* What rises and falls by as much stays. */
static int cancel_out(struct operation *op)
{
	struct count_chunk **chunks;
	int ret = count_sorted(&op->down, &chunks);

	if (ret)
		return err_set(op->err, ENOMEM, "no memory to count references");
	for (size_t i = 0; i < op->down.n_chunks; i++) {
		struct count_chunk *d = chunks[i], *u = count_find(&op->up, d->index);

		for (unsigned pos = 0; u && pos < COUNT_CHUNK; pos++) {
			uint64_t x = count_chunk_get(d, pos), y = count_chunk_get(u, pos);
			uint64_t both = MIN(x, y);

			count_chunk_set(d, pos, x - both);
			count_chunk_set(u, pos, y - both);
		}
	}
	free(chunks);
	return 0;
}

/* ---- counts in bulk -------------------------------------------------------------- */

enum count_step { VERIFY_RAISE, VERIFY_LOWER, RAISE, LOWER };

struct bulk {
	struct operation *op;
	struct count *delta;
	const uint64_t *index; /* of refcount blocks */
	enum count_step step;
};

static int count_too_low(
	struct operation *op, uint64_t cluster, uint64_t count, uint64_t by)
{
	err_set(op->err, EIO,
		"cluster %" PRIu64 " is referenced, but its refcount is %" PRIu64
		" (at least %" PRIu64 " expected)",
		cluster, count, by);
	err_hint(op->err, "Check and repair the image first.");
	return -EIO;
}

static int cannot_change(
	const struct bulk *b, uint64_t cluster, uint64_t count, uint64_t by)
{
	struct operation *op = b->op;

	if (b->step == VERIFY_RAISE && count)
		return err_set(op->err, EINVAL,
			"the refcount of cluster %" PRIu64
			" would exceed the maximum refcount (%" PRIu64
			", with %u refcount bits)",
			cluster, op->q->refcount_max, 1u << op->q->refcount_order);
	return count_too_low(op, cluster, count, by);
}

/* True where count may change by n. A cluster in use has a count; none falls below zero.
 */
static bool may_change(const struct bulk *b, uint64_t count, uint64_t n)
{
	if (b->step == VERIFY_RAISE)
		return count && n <= b->op->q->refcount_max - count;
	return count >= n;
}

/* After LOWER a delta of 1 is left where the count has become one, and 0 elsewhere. */
static int bulk_window(struct bulk *b, uint8_t *block, uint64_t first, uint64_t cluster,
	size_t n, struct count_chunk *k)
{
	unsigned order = b->op->q->refcount_order, pos = cluster & (COUNT_CHUNK - 1);

	for (size_t i = 0; i < n; i++) {
		uint64_t by = count_chunk_get(k, pos + i), count;

		if (!by)
			continue;
		count = order == 4 ? be16_get(((const be16 *)block)[first + i])
				   : qcow2_refcount_load(block, order, first + i);
		if (b->step < RAISE) {
			if (!may_change(b, count, by))
				return cannot_change(b, cluster + i, count, by);
			continue;
		}
		count = b->step == RAISE ? count + by : count - by;
		if (b->step == LOWER)
			count_chunk_set(k, pos + i, count == 1);
		if (order == 4)
			((be16 *)block)[first + i] = be16_put((uint16_t)count);
		else
			qcow2_refcount_store(block, order, first + i, count);
	}
	return 0;
}

static int bulk_block(void *arg, size_t i, uint8_t *block, bool *changed)
{
	struct bulk *b = arg;
	uint64_t n = 1ull << b->op->q->refblock_bits, base = b->index[i] * n;
	int ret = 0;

	for (uint64_t at = 0, step; !ret && at < n; at += step) {
		struct count_chunk *k =
			count_find(b->delta, (base + at) >> COUNT_CHUNK_BITS);

		step = MIN(n - at, (uint64_t)COUNT_CHUNK);
		if (k)
			ret = bulk_window(b, block, at, base + at, step, k);
	}
	*changed = b->step >= RAISE;
	return ret;
}

static bool chunk_used(const struct count_chunk *k, uint64_t pos, uint64_t n)
{
	for (uint64_t i = 0; i < n; i++)
		if (count_chunk_get(k, pos + i))
			return true;
	return false;
}

/* The refcount blocks that count what is in delta: offsets and indexes, ascending. */
static int blocks_of(struct operation *op, struct count *delta, uint64_t **offsets,
	uint64_t **indexes, size_t *n)
{
	struct qcow2 *q = op->q;
	uint64_t per = 1ull << q->refblock_bits, step = MIN(per, (uint64_t)COUNT_CHUNK);
	size_t most = MAX(delta->n_chunks * (COUNT_CHUNK / step), (size_t)1);
	struct count_chunk **chunks;
	int ret = count_sorted(delta, &chunks);

	*n = 0;
	*offsets = malloc(most * sizeof(**offsets));
	*indexes = malloc(most * sizeof(**indexes));
	if (ret || !*offsets || !*indexes)
		ret = err_set(
			op->err, ENOMEM, "no memory for the list of refcount blocks");
	for (size_t i = 0; !ret && i < delta->n_chunks; i++)
		for (uint64_t pos = 0; !ret && pos < COUNT_CHUNK; pos += step) {
			uint64_t x = ((chunks[i]->index << COUNT_CHUNK_BITS) + pos) >>
				     q->refblock_bits;

			if ((*n && (*indexes)[*n - 1] == x) ||
				!chunk_used(chunks[i], pos, step))
				continue;
			if (x >= q->reft_entries || !q->reft[x])
				ret = bad_table(
					op, "clusters in use have no refcount block", x);
			else
				(*offsets)[*n] = q->reft[x];
			(*indexes)[(*n)++] = x;
		}
	free(chunks);
	return ret;
}

static int bulk_counts(struct operation *op, struct count *delta, enum count_step step)
{
	struct bulk b = {.op = op, .delta = delta, .step = step};
	uint64_t *offsets = NULL, *indexes = NULL;
	size_t n;
	int ret;

	if (!delta->n_chunks)
		return 0;
	ret = blocks_of(op, delta, &offsets, &indexes, &n);
	b.index = indexes;
	if (!ret)
		ret = qcow2_clusters_each(
			op->q, QCOW2_K_REFBLOCK, offsets, n, bulk_block, &b);
	free(offsets);
	free(indexes);
	if (ret && !op->err->code)
		err_errno(op->err, -ret, "could not change refcounts");
	return ret;
}

/* ---- copied flags in bulk -------------------------------------------------------- */

struct flags {
	struct operation *op;
	bool set;
};

/* Clears every flag, or sets those of clusters whose count has become one. */
static int flags_table(void *arg, size_t i, uint8_t *cluster, bool *changed)
{
	struct flags *f = arg;
	const struct qcow2 *q = f->op->q;
	const uint32_t n = 1u << q->l2_bits, step = q->extl2 ? 2 : 1;
	be64 *words = (be64 *)cluster;

	(void)i;
	for (uint32_t j = 0; j < n; j++) {
		uint64_t desc = be64_get(words[j * step]),
			 offset = desc & QCOW2_OFFSET_MASK;

		if (!desc || (desc & QCOW2_COMPRESSED) ||
			f->set == !!(desc & QCOW2_COPIED))
			continue;
		if (f->set &&
			(!offset || !count_get(&f->op->down, offset >> q->cluster_bits)))
			continue;
		words[j * step] = be64_put(desc ^ QCOW2_COPIED);
		*changed = true;
	}
	return 0;
}

/* In L2 tables of the active L1 (create, delete), or of the snapshot (apply). */
static int change_l2_flags(struct operation *op, bool set)
{
	struct qcow2 *q = op->q;
	struct flags f = {op, set};
	uint64_t *offsets = malloc(MAX(op->l2.n, (size_t)1) * sizeof(*offsets));
	size_t n = 0;
	int ret = offsets ? 0 : -ENOMEM;

	for (size_t i = 0; !ret && i < op->l2.n; i++) {
		const struct l2_table *t = &op->l2.v[i];

		if (!(op->kind == APPLY ? t->inactive : t->active))
			continue;
		offsets[n++] = t->offset;
		if (op->kind == APPLY)
			ret = qcow2_overlap_mark(
				q, QCOW2_K_L2, t->offset, q->cluster_bytes);
	}
	if (!ret)
		ret = qcow2_clusters_each(q, QCOW2_K_L2, offsets, n, flags_table, &f);
	free(offsets);
	return ret ? err_errno(op->err, -ret, "could not change copied flags") : 0;
}

/* The active L1 table on disk gets op->l1, with its flags cleared or set likewise. */
static int change_l1_flags(struct operation *op, bool set)
{
	struct qcow2 *q = op->q;
	int ret;

	for (uint32_t i = 0; i < q->l1_entries; i++) {
		uint64_t offset = op->l1[i] & QCOW2_OFFSET_MASK;

		if (!set)
			op->l1[i] &= ~QCOW2_COPIED;
		else if (offset && count_get(&op->down, offset >> q->cluster_bits))
			op->l1[i] |= QCOW2_COPIED;
	}
	ret = qcow2_table_write(q, QCOW2_K_L1, q->l1_offset, q->l1_entries, op->l1);
	return ret ? err_errno(op->err, -ret, "could not write the L1 table") : 0;
}

/* ---- the frame of an operation --------------------------------------------------- */

static int flush(struct operation *op)
{
	int ret = blk_flush(op->q->file);

	return ret ? err_errno(op->err, -ret, "could not flush") : 0;
}

/* Exclusive mode is on, and nothing dirty in memory, when it returns 0. */
static int enter(struct blk *b, const char *what, struct err *err)
{
	struct qcow2 *q = b->state;
	int ret;

	if (q->external_data)
		return err_set(err, ENOTSUP,
			"cannot %s: internal snapshots do not work with an external data "
			"file",
			what);
	if (blk_read_only(b))
		return err_set(
			err, EACCES, "cannot %s: the image is open read-only", what);
	if (q->corrupt)
		return err_set(err, EIO, "cannot %s: the image is corrupt", what);
	if (q->n_snaps && !q->snaps)
		return err_set(
			err, EIO, "cannot %s: the snapshot table is unreadable", what);
	qcow2_exclusive_begin(q);
	ret = q->loaded ? qcow2_commit_all(q) : -EIO;
	if (!ret)
		return 0;
	qcow2_exclusive_end(q);
	return err_errno(err, -ret, "could not write out metadata");
}

/* Steps 1 and 2: what was allocated becomes stable, then the dirty bit. */
static int start_changing(struct operation *op)
{
	struct qcow2 *q = op->q;
	bool unknown = q->autoclear & ~(uint64_t)QCOW2_AUTOCLEAR_KNOWN;
	int ret = qcow2_commit_all(q);

	if (ret)
		return err_errno(op->err, -ret, "could not write out metadata");
	op->changing = true;
	if (unknown) {
		q->autoclear &= QCOW2_AUTOCLEAR_KNOWN;
		ret = qcow2_header_write(q);
	}
	if (!ret)
		ret = qcow2_set_dirty(q, true);
	return ret ? err_errno(op->err, -ret, "could not prepare the image") : 0;
}

static void give_back(struct operation *op)
{
	if (op->new_l1)
		qcow2_unalloc(
			op->q, op->new_l1, (uint64_t)op->new_l1_entries * sizeof(be64));
	if (op->table.offset)
		qcow2_unalloc(op->q, op->table.offset, op->table.bytes);
	qcow2_commit_all(op->q);
}

/* Counts past the end of the file are nobody's to a repair. What was allocated for this and never written
 * is there. */
static void give_back_unwritten(struct operation *op, uint64_t offset, uint64_t bytes)
{
	uint64_t end = round_up(blk_size(op->q->file), op->q->cluster_bytes);
	uint64_t from = MAX(offset, end);

	if (offset && from < offset + bytes)
		qcow2_unalloc(op->q, from, offset + bytes - from);
}

/* An operation that stopped half-way: the repair sees to it, or nobody writes any more.
 */
static void recover(struct operation *op)
{
	struct blk_check out = {0};

	if (check_whole(op->q, &out, BLK_FIX_LEAKS | BLK_FIX_ERRORS, NULL) ||
		out.corruptions) {
		op->q->corrupt = true;
		err_hint(
			op->err, "The image is not consistent now: check and repair it.");
	} else if (!op->switched) {
		give_back_unwritten(
			op, op->new_l1, (uint64_t)op->new_l1_entries * sizeof(be64));
		give_back_unwritten(op, op->table.offset, op->table.bytes);
		qcow2_commit_all(op->q);
	}
}

/* Step 8. The engine goes on with what is on disk now; then what nobody refers to is
 * freed. */
static int settle(struct operation *op)
{
	struct qcow2 *q = op->q;
	int ret = qcow2_tables_load(q, op->err);

	if (ret)
		return ret;
	if (op->switched && op->table.n)
		ret = qcow2_free_later(q, op->table.offset, op->table.bytes, true);
	if (!ret && op->old_l1)
		ret = qcow2_free_later(
			q, op->old_l1, (uint64_t)op->old_l1_entries * sizeof(be64), true);
	if (!ret)
		ret = qcow2_commit_all(q);
	if (!ret && !op->was_dirty)
		ret = qcow2_set_dirty(q, false);
	return ret ? err_errno(op->err, -ret, "could not finish") : 0;
}

static int leave(struct operation *op, int ret, struct err *err)
{
	bool odd_is_ours = op->kind == CREATE ? !op->switched : op->switched;

	if (!ret)
		ret = settle(op);
	if (ret && op->q->corrupt)
		err_hint(
			op->err, "The image is not consistent now: check and repair it.");
	else if (ret && op->changing)
		recover(op);
	else if (ret)
		give_back(op);
	if (op->kind != APPLY && odd_is_ours) {
		free(op->odd.id);
		free(op->odd.name);
		free(op->odd.extra);
	}
	free(op->table.snaps);
	free(op->table.buf);
	free(op->l1);
	l2_set_destroy(&op->l2);
	count_destroy(&op->up);
	count_destroy(&op->down);
	qcow2_exclusive_end(op->q);
	if (ret) {
		err_set(err, op->err->code ? op->err->code : -ret, "%s", op->err->msg);
		if (op->err->hint[0])
			err_hint(err, "%s", op->err->hint);
	}
	return ret;
}

/* Step 5 of create and delete. */
static int switch_table(struct operation *op)
{
	int ret = snap_table_switch(op->q, &op->table);

	op->switched = !ret;
	return ret ? err_errno(
			     op->err, -ret, "could not switch to the new snapshot table")
		   : 0;
}

static int copy_active_l1(struct operation *op)
{
	struct qcow2 *q = op->q;

	op->l1 = malloc(MAX((size_t)q->l1_entries, (size_t)1) * sizeof(*op->l1));
	if (!op->l1)
		return err_set(op->err, ENOMEM, "no memory for the L1 table");
	for (uint32_t i = 0; i < q->l1_entries; i++)
		op->l1[i] = q->l1[i];
	return gather_l1(op, op->l1, q->l1_entries, true);
}

/* The L1 table of a snapshot, checked as far as its place and size go. */
static int read_l1(
	struct qcow2 *q, const struct qcow2_snap *s, uint64_t **out, struct err *err)
{
	uint64_t bytes = (uint64_t)s->l1_entries * sizeof(be64);
	int ret;

	if (!is_aligned(s->l1_offset, q->cluster_bytes) || bytes > QCOW2_MAX_L1_BYTES ||
		(bytes && !inside_file(q, s->l1_offset, bytes)))
		return err_set(err, EIO,
			"snapshot '%s' has an invalid L1 table: %" PRIu32
			" entries at 0x%" PRIx64,
			s->id, s->l1_entries, s->l1_offset);
	ret = qcow2_table_read(q, s->l1_offset, s->l1_entries, out);
	return ret ? err_errno(err, -ret, "could not read the L1 table of snapshot '%s'",
			     s->id)
		   : 0;
}

/* Clusters for an L1 table, marked as what they will be. */
static int alloc_l1(struct operation *op, enum qcow2_kind kind, uint32_t entries)
{
	uint64_t bytes = (uint64_t)entries * sizeof(be64);
	struct qcow2_alloc a;
	int ret;

	if (!bytes)
		return 0;
	ret = qcow2_alloc(op->q, div_round_up(bytes, op->q->cluster_bytes), true, &a);
	if (!ret) {
		op->new_l1 = a.offset;
		op->new_l1_entries = entries;
		ret = qcow2_overlap_mark(op->q, kind, a.offset, bytes);
	}
	return ret ? err_errno(op->err, -ret, "no clusters for an L1 table") : 0;
}

/* A structure that the last step frees: counts that lie are not to be found out there, with
 * the operation done and yet a failure. */
static int verify_counted(struct operation *op, uint64_t offset, uint64_t bytes)
{
	struct qcow2 *q = op->q;
	uint64_t first = qcow2_cluster_of(q, offset), count;
	uint64_t end = qcow2_cluster_of(q, round_up(offset + bytes, q->cluster_bytes));
	int ret = 0;

	for (uint64_t i = first; !ret && i < end; i++) {
		ret = qcow2_refcount_get(q, i, &count);
		if (ret)
			err_errno(op->err, -ret, "could not read refcounts");
		else if (!count)
			ret = count_too_low(op, i, count, 1);
	}
	return ret;
}

static int verify_freed(struct operation *op)
{
	struct qcow2 *q = op->q;

	if (op->kind == APPLY)
		return verify_counted(
			op, q->l1_offset, (uint64_t)q->l1_entries * sizeof(be64));
	if (op->old_l1 && verify_counted(op, op->old_l1,
				  (uint64_t)op->old_l1_entries * sizeof(be64)))
		return -EIO;
	return q->n_snaps ? verify_counted(op, q->snaps_offset, q->snaps_bytes) : 0;
}

/* What can be refused is refused here. */
static int look_ahead(struct operation *op)
{
	int ret = verify_freed(op);

	if (!ret)
		ret = gather(op, true);
	if (!ret)
		ret = gather(op, false);
	if (!ret)
		ret = cancel_out(op);
	if (!ret)
		ret = bulk_counts(op, &op->up, VERIFY_RAISE);
	if (!ret)
		ret = bulk_counts(op, &op->down, VERIFY_LOWER);
	return ret;
}

/* ---- create ---------------------------------------------------------------------- */

/* One above the highest id that is a number. */
static char *new_id(const struct qcow2 *q)
{
	unsigned long highest = 0;
	char text[24];

	for (uint32_t i = 0; i < q->n_snaps; i++)
		highest = MAX(highest, strtoul(q->snaps[i].id, NULL, 10));
	snprintf(text, sizeof(text), "%lu", highest < ULONG_MAX ? highest + 1 : highest);
	return strdup(text);
}

/* The new table has one entry more; the others share their strings with the old one's. */
static int table_with(struct operation *op, const struct blk_snapshot *what)
{
	struct qcow2 *q = op->q;
	struct qcow2_snap *s = &op->odd;
	int ret;

	s->id = new_id(q);
	/* The peer's tools hold names in 256 bytes; a longer one could not be named
	 * there. */
	s->name = strndup(what->name, 255);
	s->l1_offset = op->new_l1;
	s->l1_entries = q->l1_entries;
	s->date_sec = what->date_sec;
	s->date_nsec = what->date_nsec;
	s->vm_clock_nsec = what->vm_clock_nsec;
	s->vm_state_bytes = what->vm_state_bytes;
	s->icount = what->icount;
	s->disk_bytes = blk_size(q->b);
	s->extra_bytes = sizeof(struct qcow2_snapshot_extra);
	op->table.snaps = calloc(q->n_snaps + 1, sizeof(*s));
	if (!s->id || !s->name || !op->table.snaps)
		return err_set(op->err, ENOMEM, "no memory for the snapshot table");
	if (q->n_snaps)
		memcpy(op->table.snaps, q->snaps, q->n_snaps * sizeof(*s));
	op->table.snaps[q->n_snaps] = *s;
	op->table.n = q->n_snaps + 1;
	ret = snap_table_make(q, &op->table, op->err);
	return ret;
}

static int create_steps(struct operation *op)
{
	struct qcow2 *q = op->q;
	int ret = start_changing(op);

	if (!ret)
		ret = bulk_counts(op, &op->up, RAISE);
	/* A crash before the flush: some counts are too high, which leaks; flags are old.
	 */
	if (!ret)
		ret = flush(op);
	/* Flags go before anything is shared: on version 2 the worst is one too few. */
	if (!ret)
		ret = change_l2_flags(op, false);
	if (!ret)
		ret = change_l1_flags(op, false);
	if (ret)
		return ret;
	ret = qcow2_table_write(
		q, QCOW2_K_SNAPSHOT_L1, op->new_l1, q->l1_entries, op->l1);
	if (!ret)
		ret = snap_table_write(q, &op->table);
	if (ret)
		return err_errno(op->err, -ret, "could not write the snapshot's tables");
	/* A crash before: no snapshot, all of its references leak. After: all is there.
	 */
	return switch_table(op);
}

int qcow2_snapshot_create(struct blk *b, const struct blk_snapshot *what, struct err *err)
{
	struct err local = ERR_INIT;
	struct operation op;
	int ret = enter(b, "create a snapshot", err);

	if (ret)
		return ret;
	op_init(&op, b->state, CREATE, &local);
	ret = copy_active_l1(&op);
	if (!ret)
		ret = look_ahead(&op);
	if (!ret)
		ret = alloc_l1(&op, QCOW2_K_SNAPSHOT_L1, op.q->l1_entries);
	if (!ret)
		ret = table_with(&op, what);
	if (!ret)
		ret = create_steps(&op);
	return leave(&op, ret, err);
}

/* ---- delete ---------------------------------------------------------------------- */

static int table_without(struct operation *op, uint32_t i)
{
	struct qcow2 *q = op->q;
	uint32_t n = q->n_snaps - 1;

	op->odd = q->snaps[i];
	op->table.snaps = calloc(MAX(n, 1u), sizeof(op->odd));
	if (!op->table.snaps)
		return err_set(op->err, ENOMEM, "no memory for the snapshot table");
	memcpy(op->table.snaps, q->snaps, i * sizeof(op->odd));
	memcpy(op->table.snaps + i, q->snaps + i + 1, (n - i) * sizeof(op->odd));
	op->table.n = n;
	return snap_table_make(q, &op->table, op->err);
}

static int delete_steps(struct operation *op)
{
	int ret = start_changing(op);

	if (!ret) {
		ret = snap_table_write(op->q, &op->table);
		if (ret)
			err_errno(op->err, -ret, "could not write the snapshot table");
	}
	if (!ret)
		ret = switch_table(op);
	/* A crash from here on: the snapshot is gone, its references leak ... */
	if (!ret)
		ret = bulk_counts(op, &op->down, LOWER);
	if (!ret)
		ret = flush(op);
	/* ... or the copied flags of what is no longer shared are missing. */
	if (!ret)
		ret = change_l2_flags(op, true);
	if (!ret)
		ret = change_l1_flags(op, true);
	return ret ? ret : flush(op);
}

static int delete_at(struct operation *op, uint32_t i)
{
	const struct qcow2_snap *s = &op->q->snaps[i];
	uint64_t *l1 = NULL;
	int ret = copy_active_l1(op);

	if (!ret)
		ret = read_l1(op->q, s, &l1, op->err);
	if (!ret)
		ret = gather_l1(op, l1, s->l1_entries, false);
	free(l1);
	op->old_l1 = s->l1_entries ? s->l1_offset : 0;
	op->old_l1_entries = s->l1_entries;
	if (!ret)
		ret = look_ahead(op);
	if (!ret)
		ret = table_without(op, i);
	return ret ? ret : delete_steps(op);
}

/* As qemu-img snapshot -a and convert -l do: an id wins over a name. */
static int64_t find_id_first(const struct qcow2 *q, const char *id_or_name)
{
	int64_t i = snap_by_id(q, id_or_name);

	return i >= 0 ? i : snap_by_name(q, id_or_name);
}

static int64_t find_name_first(const struct qcow2 *q, const char *id_or_name)
{
	int64_t i = snap_by_name(q, id_or_name);

	return i >= 0 ? i : snap_by_id(q, id_or_name);
}

/* qemu-img snapshot -d knows names only; where no snapshot has the name an id will do. */
int qcow2_snapshot_delete(
	struct blk *b, const char *id_or_name, bool id_first, struct err *err)
{
	struct err local = ERR_INIT;
	struct operation op;
	int64_t i;
	int ret = enter(b, "delete a snapshot", err);

	if (ret)
		return ret;
	op_init(&op, b->state, DELETE, &local);
	i = id_first ? find_id_first(op.q, id_or_name)
		     : find_name_first(op.q, id_or_name);
	if (i < 0)
		ret = err_set(&local, ENOENT, "snapshot not found");
	else
		ret = delete_at(&op, (uint32_t)i);
	return leave(&op, ret, err);
}

/* ---- apply ----------------------------------------------------------------------- */

/* Step 5 of apply: table and size of the disk, all in the header's first sector. */
static int switch_l1(struct operation *op, uint64_t disk_bytes)
{
	struct qcow2 *q = op->q;
	uint64_t old_bytes = blk_size(q->b), old_l1 = q->l1_offset;
	uint32_t old_entries = q->l1_entries;
	int ret;

	q->l1_offset = op->new_l1;
	q->l1_entries = op->new_l1_entries;
	blk_set_size(q->b, disk_bytes);
	ret = qcow2_header_write(q);
	if (!ret)
		ret = blk_flush(q->file);
	if (!ret) {
		op->old_l1 = old_entries ? old_l1 : 0;
		op->old_l1_entries = old_entries;
		op->switched = true;
		return 0;
	}
	q->l1_offset = old_l1;
	q->l1_entries = old_entries;
	blk_set_size(q->b, old_bytes);
	snap_header_restore(q);
	return err_errno(op->err, -ret, "could not switch to the snapshot's L1 table");
}

static int apply_steps(struct operation *op, const uint64_t *l1, uint64_t disk_bytes)
{
	struct qcow2 *q = op->q;
	int ret = start_changing(op);

	if (!ret)
		ret = bulk_counts(op, &op->up, RAISE);
	/* Tables that only the snapshot had: their flags mean nothing yet, and must not
	 * when they are shared. */
	if (!ret && op->stale)
		ret = change_l2_flags(op, false);
	if (ret)
		return ret;
	ret = qcow2_table_write(q, QCOW2_K_L1, op->new_l1, op->new_l1_entries, l1);
	if (!ret)
		ret = blk_flush(q->file);
	if (ret)
		return err_errno(op->err, -ret, "could not write the L1 table");
	/* A crash before: the old disk, and leaks. After: the snapshot's, and what the
	 * old one alone referred to leaks. All that is active is shared, so no flag is to
	 * be set. */
	ret = switch_l1(op, disk_bytes);
	if (!ret)
		ret = bulk_counts(op, &op->down, LOWER);
	return ret ? ret : flush(op);
}

static int apply_at(struct operation *op, const struct qcow2_snap *s)
{
	struct qcow2 *q = op->q;
	uint64_t entries =
		MAX(qcow2_l1_needed(q, s->disk_bytes), (uint64_t)s->l1_entries);
	uint64_t *l1 = NULL, *grown;
	int ret = copy_active_l1(op);

	if (!ret)
		ret = read_l1(q, s, &l1, op->err);
	if (!ret)
		ret = gather_l1(op, l1, s->l1_entries, false);
	if (!ret && (entries * sizeof(be64) > QCOW2_MAX_L1_BYTES ||
			    s->disk_bytes > BLK_MAX_SIZE))
		ret = err_set(op->err, EFBIG,
			"snapshot '%s' has an invalid disk size: %" PRIu64, s->id,
			s->disk_bytes);
	if (!ret) {
		grown = realloc(l1, MAX(entries, (uint64_t)1) * sizeof(*l1));
		if (grown)
			l1 = grown;
		else
			ret = err_set(op->err, ENOMEM, "no memory for the L1 table");
	}
	for (uint64_t i = 0; !ret && i < entries; i++)
		l1[i] = i < s->l1_entries ? l1[i] & ~QCOW2_COPIED : 0;
	if (!ret)
		ret = look_ahead(op);
	if (!ret)
		ret = alloc_l1(op, QCOW2_K_L1, (uint32_t)entries);
	if (!ret)
		ret = apply_steps(op, l1, s->disk_bytes);
	free(l1);
	return ret;
}

int qcow2_snapshot_apply(
	struct blk *b, const char *id_or_name, bool *changed, struct err *err)
{
	struct err local = ERR_INIT;
	struct operation op;
	int64_t i;
	int ret = enter(b, "apply a snapshot", err);

	if (ret)
		return ret;
	op_init(&op, b->state, APPLY, &local);
	i = find_id_first(op.q, id_or_name);
	if (i < 0)
		ret = err_set(&local, ENOENT, "snapshot not found");
	if (!ret && qcow2_prepare_write(
			    op.q)) /* the disk is about to change: bitmaps go stale */
		ret = err_set(&local, EIO, "could not prepare the image for writing");
	if (!ret && op.q->snaps[i].disk_bytes != blk_size(b) &&
		qcow2_bitmaps_mark_in_use(op.q, true)) /* none has the new size */
		ret = err_set(&local, EIO, "could not mark bitmaps");
	if (!ret)
		ret = apply_at(&op, &op.q->snaps[i]);
	ret = leave(&op, ret, err);
	*changed = op.switched || op.q->corrupt;
	return ret;
}

/* ---- list and load --------------------------------------------------------------- */

int qcow2_snapshot_list(
	struct blk *b, struct blk_snapshot **list, size_t *n, struct err *err)
{
	struct qcow2 *q = b->state;
	struct blk_snapshot *v;

	if (q->n_snaps && !q->snaps)
		return err_set(err, EIO, "the snapshot table is unreadable");
	v = calloc(MAX(q->n_snaps, 1u), sizeof(*v));
	if (!v)
		return err_set(err, ENOMEM, "no memory for the list of snapshots");
	for (uint32_t i = 0; i < q->n_snaps; i++) {
		const struct qcow2_snap *s = &q->snaps[i];

		v[i] = (struct blk_snapshot){.id = strdup(s->id),
			.name = strdup(s->name),
			.vm_state_bytes = s->vm_state_bytes,
			.disk_bytes = s->disk_bytes,
			.date_sec = s->date_sec,
			.date_nsec = s->date_nsec,
			.vm_clock_nsec = s->vm_clock_nsec,
			.icount = s->icount};
		if (!v[i].id || !v[i].name) {
			blk_snapshots_free(v, i + 1);
			return err_set(
				err, ENOMEM, "no memory for the list of snapshots");
		}
	}
	*list = v;
	*n = q->n_snaps;
	return 0;
}

int qcow2_snapshot_l1(struct qcow2 *q, const char *id_or_name, _Atomic uint64_t **l1,
	uint32_t *entries, uint64_t *disk_bytes, struct err *err)
{
	int64_t i = find_id_first(q, id_or_name);
	const struct qcow2_snap *s;
	uint64_t *table;
	int ret;

	if (i < 0)
		return err_set(err, ENOENT, "Can't find snapshot");
	s = &q->snaps[i];
	if (s->disk_bytes > BLK_MAX_SIZE ||
		qcow2_l1_needed(q, s->disk_bytes) > s->l1_entries)
		return err_set(err, EINVAL,
			"snapshot '%s' has an L1 table too small for its disk", s->id);
	ret = read_l1(q, s, &table, err);
	if (ret)
		return ret;
	*l1 = malloc(MAX((size_t)s->l1_entries, (size_t)1) * sizeof(**l1));
	if (*l1)
		for (uint32_t x = 0; x < s->l1_entries; x++)
			atomic_init(&(*l1)[x], table[x]);
	free(table);
	*entries = s->l1_entries;
	*disk_bytes = s->disk_bytes;
	return *l1 ? 0 : err_set(err, ENOMEM, "no memory for the L1 table");
}

int qcow2_snapshot_load(struct blk *b, const char *id_or_name, struct err *err)
{
	struct qcow2 *q = b->state;
	_Atomic uint64_t *l1;
	uint64_t disk_bytes;
	uint32_t entries;
	int ret;

	if (!blk_read_only(b))
		return err_set(err, EINVAL,
			"only a read-only image can be switched to a snapshot");
	ret = qcow2_snapshot_l1(q, id_or_name, &l1, &entries, &disk_bytes, err);
	if (ret)
		return ret;
	qcow2_exclusive_begin(q);
	free((void *)q->l1);
	q->l1 = l1;
	q->l1_offset = q->snaps[find_id_first(q, id_or_name)].l1_offset;
	q->l1_entries = entries;
	blk_set_size(b, disk_bytes);
	qcow2_exclusive_end(q);
	return 0;
}
