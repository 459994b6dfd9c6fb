/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The snapshot table: entries of variable length, read with every length checked, and
 * written whole to a new place. The header's count and offset share its first sector, so
 * a crash leaves the old table or the new one.
 *
 * Entries keep what we do not know: extra data past the icount goes back as it came.
 */
#include "qcow2/snaptable.h"

/* The longest entry there can be, and so how much has to be in the window at least. */
#define ENTRY_MAX                                                                        \
	(sizeof(struct qcow2_snapshot_entry) + QCOW2_MAX_SNAPSHOT_EXTRA +                \
		2 * (size_t)UINT16_MAX + 8)
#define WINDOW_BYTES (1u << 20)

/* ---- reading --------------------------------------------------------------------- */

struct window {
	uint8_t *buf;
	uint64_t start; /* offset in the file of buf[0] */
	size_t bytes;
};

/* At least ENTRY_MAX bytes from offset on, zeros past the end of the file. */
static int window_at(
	struct qcow2 *q, struct window *w, uint64_t offset, const uint8_t **out)
{
	uint64_t size = blk_size(q->file), there;
	int ret = 0;

	if (!w->bytes || offset + ENTRY_MAX > w->start + w->bytes) {
		there = offset >= size ? 0 : MIN(size - offset, (uint64_t)WINDOW_BYTES);
		w->start = offset;
		w->bytes = WINDOW_BYTES;
		memset(w->buf + there, 0, WINDOW_BYTES - there);
		ret = there ? blk_pread(q->file, offset, w->buf, there) : 0;
	}
	*out = w->buf + (offset - w->start);
	/* One code for what cannot be read now, whatever the storage calls it: a repair must
	 * not take it for a table that is broken. */
	return ret ? -EIO : 0;
}

static void parse_extra(const struct qcow2 *q, const struct qcow2_snapshot_entry *e,
	const uint8_t *data, struct qcow2_snap *s)
{
	struct qcow2_snapshot_extra x = {0};
	uint32_t bytes = be32_get(e->extra_data_size);

	memcpy(&x, data, MIN((size_t)bytes, sizeof(x)));
	s->extra_bytes = bytes;
	s->vm_state_bytes =
		bytes >= 8 ? be64_get(x.vm_state_size) : be32_get(e->vm_state_size);
	s->disk_bytes = bytes >= 16 ? be64_get(x.disk_size) : blk_size(q->b);
	s->icount = bytes >= 24 ? be64_get(x.icount) : UINT64_MAX;
	s->unknown_extra_bytes = bytes > sizeof(x) ? bytes - sizeof(x) : 0;
}

/* Text as it lies in the table, which ends without a zero byte. */
static char *text_dup(const uint8_t *text, size_t bytes)
{
	char *copy = malloc(bytes + 1);

	if (copy) {
		memcpy(copy, text, bytes);
		copy[bytes] = 0;
	}
	return copy;
}

/* The disk is read whatever its snapshots are called. Who writes, or checks, relies on where
 * the table ends. */
static bool only_reading(const struct qcow2 *q)
{
	return blk_read_only(q->b) && !(q->b->flags & BLK_O_CHECK);
}

/* An entry whose id or name leaves the file: a size is wrong. The snapshot is still there if
 * its L1 table is; else the entry was read from where none begins. */
static bool worth_keeping(const struct qcow2 *q, const struct qcow2_snap *s)
{
	uint64_t bytes = (uint64_t)s->l1_entries * sizeof(be64);

	return bytes && bytes <= QCOW2_MAX_L1_BYTES &&
	       is_aligned(s->l1_offset, q->cluster_bytes) &&
	       range_inside(s->l1_offset, bytes, blk_size(q->file));
}

/* What there is of an id and a name from `at` on: no more than the file has, and nothing from
 * the next cluster, which may hold something else. */
static void clip(const struct qcow2 *q, uint64_t at, uint32_t *id, uint32_t *name)
{
	uint64_t end = MIN(blk_size(q->file), round_up(at, q->cluster_bytes));
	uint64_t there = at < end ? end - at : 0;

	*id = (uint32_t)MIN((uint64_t)*id, there);
	*name = (uint32_t)MIN((uint64_t)*name, there - *id);
}

/* The entry at *offset, which moves behind it. s owns what it has even on failure. */
static int parse_entry(struct qcow2 *q, struct window *w, uint64_t *offset, uint32_t i,
	struct qcow2_snap *s, struct err *err)
{
	struct qcow2_snapshot_entry e;
	const uint8_t *p;
	uint32_t extra, id, name;
	int ret = window_at(q, w, *offset, &p);

	if (ret)
		return err_errno(err, -ret, "could not read the snapshot table");
	memcpy(&e, p, sizeof(e));
	extra = be32_get(e.extra_data_size);
	id = be16_get(e.id_size);
	name = be16_get(e.name_size);
	if (extra > QCOW2_MAX_SNAPSHOT_EXTRA)
		return err_set(err, EFBIG,
			"snapshot table entry %" PRIu32
			" has too much extra data (%" PRIu32 " bytes)",
			i, extra);
	s->l1_offset = be64_get(e.l1_table_offset);
	s->l1_entries = be32_get(e.l1_size);
	s->clipped = *offset + sizeof(e) + extra + id + name > blk_size(q->file);
	if (*offset + sizeof(e) > blk_size(q->file) ||
		(s->clipped && !only_reading(q) && !worth_keeping(q, s)))
		return err_set(err, EINVAL,
			"snapshot table entry %" PRIu32
			" lies outside the file (at 0x%" PRIx64 ")",
			i, *offset);
	if (s->clipped)
		clip(q, *offset + sizeof(e) + extra, &id, &name);
	s->date_sec = be32_get(e.date_sec);
	s->date_nsec = be32_get(e.date_nsec);
	s->vm_clock_nsec = be64_get(e.vm_clock_nsec);
	p += sizeof(e);
	parse_extra(q, &e, p, s);
	if (s->unknown_extra_bytes) {
		s->extra = malloc(s->unknown_extra_bytes);
		if (s->extra)
			memcpy(s->extra, p + sizeof(struct qcow2_snapshot_extra),
				s->unknown_extra_bytes);
	}
	p += extra;
	s->id = text_dup(p, id);
	s->name = text_dup(p + id, name);
	if (!s->id || !s->name || (s->unknown_extra_bytes && !s->extra))
		return err_set(err, ENOMEM, "no memory for the snapshot table");
	*offset += round_up(sizeof(e) + extra + id + name, 8);
	return 0;
}

/* Where writing, the table ends where its entries say and every L1 table has a place in the
 * overlap map, unless it is empty; reading and checking get by with less. */
static int check_entry(
	const struct qcow2 *q, const struct qcow2_snap *s, uint32_t i, struct err *err)
{
	if (s->clipped)
		return err_set(err, EINVAL,
			"snapshot table entry %" PRIu32 " ends outside the file", i);
	if (is_aligned(s->l1_offset, q->cluster_bytes) &&
		(uint64_t)s->l1_entries * sizeof(be64) <= QCOW2_MAX_L1_BYTES &&
		(!s->l1_entries || s->l1_offset < QCOW2_HOST_LIMIT))
		return 0;
	return err_set(err, EINVAL,
		"snapshot '%s' has an invalid L1 table: %" PRIu32
		" entries at 0x%" PRIx64,
		s->id, s->l1_entries, s->l1_offset);
}

static void snap_free(struct qcow2_snap *s)
{
	free(s->id);
	free(s->name);
	free(s->extra);
}

void qcow2_snapshots_forget(struct qcow2 *q)
{
	for (uint32_t i = 0; q->snaps && i < q->n_snaps; i++)
		snap_free(&q->snaps[i]);
	free(q->snaps);
	q->snaps = NULL;
	q->snaps_bytes = 0;
}

int qcow2_snapshots_read(struct qcow2 *q, uint32_t *readable, struct err *err)
{
	bool strict = (q->b->flags & BLK_O_RDWR) && !(q->b->flags & BLK_O_CHECK);
	uint64_t offset = q->snaps_offset;
	struct window w = {0};
	uint32_t i = 0;
	int ret = 0;

	if (!q->n_snaps)
		return 0;
	q->snaps = calloc(q->n_snaps, sizeof(*q->snaps));
	w.buf = buf_alloc(WINDOW_BYTES);
	if (!q->snaps || !w.buf)
		ret = err_set(err, ENOMEM, "no memory for the snapshot table");
	for (; !ret && i < q->n_snaps; i++) {
		ret = parse_entry(q, &w, &offset, i, &q->snaps[i], err);
		if (!ret && strict)
			ret = check_entry(q, &q->snaps[i], i, err);
		if (!ret && offset - q->snaps_offset > QCOW2_MAX_SNAPSHOT_TABLE)
			ret = err_set(err, EFBIG, "the snapshot table is too large");
	}
	buf_free(w.buf);
	if (ret) {
		if (readable)
			*readable = i ? i - 1 : 0;
		qcow2_snapshots_forget(q);
		return ret;
	}
	q->snaps_bytes = offset - q->snaps_offset;
	return 0;
}

/* ---- looking up ------------------------------------------------------------------ */

int64_t snap_by_id(const struct qcow2 *q, const char *id)
{
	for (uint32_t i = 0; q->snaps && i < q->n_snaps; i++)
		if (!strcmp(q->snaps[i].id, id))
			return i;
	return -1;
}

int64_t snap_by_name(const struct qcow2 *q, const char *name)
{
	for (uint32_t i = 0; q->snaps && i < q->n_snaps; i++)
		if (!strcmp(q->snaps[i].name, name))
			return i;
	return -1;
}

/* ---- writing --------------------------------------------------------------------- */

static size_t entry_bytes(const struct qcow2_snap *s)
{
	return round_up(sizeof(struct qcow2_snapshot_entry) +
				sizeof(struct qcow2_snapshot_extra) +
				s->unknown_extra_bytes + strlen(s->id) + strlen(s->name),
		8);
}

static void put_entry(const struct qcow2_snap *s, uint8_t *p)
{
	size_t id = strlen(s->id), name = strlen(s->name);
	struct qcow2_snapshot_entry e = {
		.l1_table_offset = be64_put(s->l1_offset),
		.l1_size = be32_put(s->l1_entries),
		.id_size = be16_put((uint16_t)id),
		.name_size = be16_put((uint16_t)name),
		.date_sec = be32_put(s->date_sec),
		.date_nsec = be32_put(s->date_nsec),
		.vm_clock_nsec = be64_put(s->vm_clock_nsec),
		.vm_state_size = be32_put(s->vm_state_bytes <= UINT32_MAX
						  ? (uint32_t)s->vm_state_bytes
						  : 0),
		.extra_data_size =
			be32_put((uint32_t)sizeof(struct qcow2_snapshot_extra) +
				 s->unknown_extra_bytes),
	};
	struct qcow2_snapshot_extra x = {
		.vm_state_size = be64_put(s->vm_state_bytes),
		.disk_size = be64_put(s->disk_bytes),
		.icount = be64_put(s->icount),
	};

	memcpy(p, &e, sizeof(e));
	p += sizeof(e);
	memcpy(p, &x, sizeof(x));
	p += sizeof(x);
	if (s->unknown_extra_bytes)
		memcpy(p, s->extra, s->unknown_extra_bytes);
	p += s->unknown_extra_bytes;
	memcpy(p, s->id, id);
	memcpy(p + id, s->name, name);
}

int snap_table_make(struct qcow2 *q, struct snap_table *t, struct err *err)
{
	struct qcow2_alloc a;
	uint64_t at = 0;
	int ret;

	t->bytes = 0;
	t->offset = 0;
	for (uint32_t i = 0; i < t->n; i++)
		t->bytes += entry_bytes(&t->snaps[i]);
	if (t->n > QCOW2_MAX_SNAPSHOTS || t->bytes > QCOW2_MAX_SNAPSHOT_TABLE)
		return err_set(err, EFBIG, "the snapshot table would be too large");
	if (!t->n)
		return 0;
	t->buf = calloc(1, t->bytes);
	if (!t->buf)
		return err_set(err, ENOMEM, "no memory for the snapshot table");
	for (uint32_t i = 0; i < t->n; i++) {
		put_entry(&t->snaps[i], t->buf + at);
		at += entry_bytes(&t->snaps[i]);
	}
	ret = qcow2_alloc(q, div_round_up(t->bytes, q->cluster_bytes), true, &a);
	if (ret)
		return err_errno(err, -ret, "no clusters for the snapshot table");
	t->offset = a.offset;
	return 0;
}

int snap_table_write(struct qcow2 *q, const struct snap_table *t)
{
	int ret;

	if (!t->n)
		return 0;
	ret = qcow2_overlap_mark(q, QCOW2_K_SNAPSHOTS, t->offset, t->bytes);
	return ret ? ret
		   : qcow2_meta_write(q, QCOW2_K_SNAPSHOTS, t->offset, t->buf, t->bytes);
}

static void exchange(struct qcow2 *q, struct snap_table *t)
{
	struct snap_table old = *t;

	t->snaps = q->snaps;
	t->n = q->n_snaps;
	t->offset = q->snaps_offset;
	t->bytes = q->snaps_bytes;
	q->snaps = old.snaps;
	q->n_snaps = old.n;
	q->snaps_offset = old.offset;
	q->snaps_bytes = old.bytes;
}

void snap_header_restore(struct qcow2 *q)
{
	int ret = qcow2_header_write(q);

	if (!ret)
		ret = blk_flush(q->file);
	if (ret)
		q->corrupt = true;
}

int snap_table_switch(struct qcow2 *q, struct snap_table *t)
{
	int ret = blk_flush(q->file);

	if (ret)
		return ret;
	/* A crash before this write leaves the old table; the new one is a leak. */
	exchange(q, t);
	ret = qcow2_header_write(q);
	if (!ret)
		ret = blk_flush(q->file);
	if (ret) {
		exchange(q, t);
		snap_header_restore(q);
	}
	return ret;
}

int snap_table_drop(struct qcow2 *q, struct snap_table *t)
{
	int ret = 0;

	free(t->buf);
	t->buf = NULL;
	if (t->n && t->offset && !q->corrupt)
		ret = qcow2_free_later(q, t->offset, t->bytes, true);
	t->bytes = 0;
	return ret;
}

int qcow2_snapshots_rewrite(struct qcow2 *q, struct err *err)
{
	struct snap_table t = {.snaps = q->snaps, .n = q->n_snaps};
	int ret = snap_table_make(q, &t, err);

	if (!ret) {
		ret = qcow2_commit_all(q);
		if (!ret)
			ret = snap_table_write(q, &t);
		if (!ret)
			ret = snap_table_switch(q, &t);
		if (ret)
			err_errno(err, -ret, "could not write the snapshot table");
	}
	for (uint32_t i = 0; !ret && i < q->n_snaps; i++) {
		q->snaps[i].extra_bytes = (uint32_t)sizeof(struct qcow2_snapshot_extra) +
					  q->snaps[i].unknown_extra_bytes;
		q->snaps[i].clipped = false;
	}
	/* After the switch t is the old table, else the new one: nothing points to it. */
	if (!snap_table_drop(q, &t) && !ret) {
		ret = qcow2_commit_all(q);
		if (ret)
			err_errno(err, -ret, "could not free the old snapshot table");
	}
	return ret;
}
