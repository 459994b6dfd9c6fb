/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Persistent bitmaps, as far as an engine that does not maintain them must know them:
 * which clusters they hold, what to tell about them, and that they go stale at the first
 * write.
 *
 * The specification (Bitmaps): an enabled bitmap ("auto") must see every write. Ours does
 * not, so before the first write it is flagged in use on disk, which every reader takes
 * as inconsistent. The flags are changed in place; nothing else of the directory is.
 */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "qcow2/qcow2.h"

#define MIN_GRANULARITY_BITS 9u
#define MAX_GRANULARITY_BITS 31u
#define MAX_NAME_BYTES       1023u
/* Of all bitmaps together: a 1 PiB disk with ten bitmaps of 64 KiB granularity stays
 * below. */
#define MAX_TABLE_ENTRIES (16u << 20)
#define TABLE_PIECE       (128u << 10) /* entries read at once */
#define KNOWN_FLAGS                                                                      \
	(QCOW2_BITMAP_IN_USE | QCOW2_BITMAP_AUTO | QCOW2_BITMAP_EXTRA_COMPATIBLE)

struct directory {
	uint8_t *buf;
	size_t bytes;
	uint64_t offset;
	uint32_t n;
};

/* One entry, checked. */
struct bitmap {
	uint64_t table_offset;
	uint32_t table_entries, flags;
	unsigned granularity_bits;
	char name[MAX_NAME_BYTES + 1];
	size_t entry_bytes;
};

static int directory_read(struct qcow2 *q, struct directory *d, struct err *err)
{
	const struct qcow2_ext_bitmaps *ext = &q->bitmaps_ext;
	int ret;

	d->n = be32_get(ext->nb_bitmaps);
	d->offset = be64_get(ext->directory_offset);
	d->bytes = be64_get(ext->directory_size);
	if (!d->n || d->n > QCOW2_MAX_BITMAPS)
		return err_set(err, EINVAL,
			"bitmaps extension: number of bitmaps is %" PRIu32, d->n);
	if (be32_get(ext->reserved))
		return err_set(err, EINVAL,
			"bitmaps extension: reserved field is 0x%" PRIx32,
			be32_get(ext->reserved));
	if (d->bytes < d->n * sizeof(struct qcow2_bitmap_entry) ||
		d->bytes > QCOW2_MAX_BITMAP_DIRECTORY)
		return err_set(err, EINVAL, "bitmap directory size %zu is out of range",
			d->bytes);
	if (!d->offset || !is_aligned(d->offset, q->cluster_bytes) ||
		!range_inside(d->offset, d->bytes, blk_size(q->file)))
		return err_set(err, EINVAL,
			"bitmap directory offset 0x%" PRIx64 " is invalid", d->offset);
	d->buf = malloc(d->bytes);
	if (!d->buf)
		return err_set(err, ENOMEM, "no memory for the bitmap directory");
	ret = blk_pread(q->file, d->offset, d->buf, d->bytes);
	if (ret) /* always EIO: not to be taken for a directory that is broken */
		return err_errno(err, EIO, "could not read the bitmap directory");
	return 0;
}

/* Clusters of a bitmap's data, each an entry of its table. */
static uint64_t data_clusters(
	uint64_t disk_bytes, unsigned granularity_bits, uint64_t cluster_bytes)
{
	uint64_t bits = div_round_up(disk_bytes, 1ull << granularity_bits);

	return div_round_up(div_round_up(bits, 8), cluster_bytes);
}

/* A bitmap in use says nothing about the disk, so it may be of another size. */
static bool fits_disk(const struct qcow2 *q, const struct bitmap *b)
{
	return (b->flags & QCOW2_BITMAP_IN_USE) ||
	       b->table_entries == data_clusters(blk_size(q->b), b->granularity_bits,
					   q->cluster_bytes);
}

static int bitmap_check(const struct qcow2 *q, const struct bitmap *b, unsigned type,
	uint32_t extra, struct err *err)
{
	const char *what = NULL;

	if (!b->table_entries || !b->table_offset ||
		!is_aligned(b->table_offset, q->cluster_bytes) ||
		b->table_offset >= QCOW2_HOST_LIMIT)
		what = "its table is not where one can be";
	else if (b->table_entries > MAX_TABLE_ENTRIES)
		what = "its table is too large";
	else if (b->flags & ~KNOWN_FLAGS)
		what = "reserved flags are set";
	else if (type != 1)
		what = "it is of an unknown type";
	else if (b->granularity_bits < MIN_GRANULARITY_BITS ||
		 b->granularity_bits > MAX_GRANULARITY_BITS)
		what = "its granularity is out of range";
	else if (extra && !(b->flags & QCOW2_BITMAP_EXTRA_COMPATIBLE))
		what = "it has extra data of an unknown kind";
	else if (!fits_disk(q, b))
		what = "its table is not of the disk's size";
	if (!what)
		return 0;
	return err_set(err, EINVAL, "bitmap '%s' is invalid: %s", b->name, what);
}

/* The entry at *pos, which moves to the next one. */
static int bitmap_parse(const struct qcow2 *q, const struct directory *d, size_t *pos,
	struct bitmap *b, struct err *err)
{
	struct qcow2_bitmap_entry e;
	uint32_t name_bytes, extra;
	uint64_t need;

	if (d->bytes - *pos < sizeof(e))
		return err_set(err, EINVAL, "bitmap directory ends within an entry");
	memcpy(&e, d->buf + *pos, sizeof(e));
	name_bytes = be16_get(e.name_size);
	extra = be32_get(e.extra_data_size);
	if (!name_bytes || name_bytes > MAX_NAME_BYTES)
		return err_set(
			err, EINVAL, "bitmap name of %" PRIu32 " bytes", name_bytes);
	need = round_up(sizeof(e) + (uint64_t)extra + name_bytes, 8);
	if (need > d->bytes - *pos)
		return err_set(err, EINVAL, "bitmap directory ends within an entry");
	b->table_offset = be64_get(e.table_offset);
	b->table_entries = be32_get(e.table_size);
	b->flags = be32_get(e.flags);
	b->granularity_bits = e.granularity_bits;
	memcpy(b->name, d->buf + *pos + sizeof(e) + extra, name_bytes);
	b->name[name_bytes] = 0;
	b->entry_bytes = need;
	*pos += need;
	return bitmap_check(q, b, e.type, extra, err);
}

/* Calls fn for each bitmap; pos is where its entry lies in the directory. */
static int bitmaps_each(struct qcow2 *q, struct directory *d,
	int (*fn)(void *arg, const struct bitmap *b, size_t pos, struct err *err),
	void *arg, struct err *err)
{
	struct bitmap b;
	size_t pos = 0;
	int ret = directory_read(q, d, err);

	for (uint32_t i = 0; !ret && i < d->n; i++) {
		ret = bitmap_parse(q, d, &pos, &b, err);
		if (!ret)
			ret = fn(arg, &b, pos - b.entry_bytes, err);
	}
	if (!ret && pos != d->bytes)
		ret = err_set(err, EINVAL,
			"bitmap directory has %zu bytes behind its entries",
			d->bytes - pos);
	return ret;
}

struct marking {
	struct directory dir;
	bool all, changed;
};

static int mark_one(void *arg, const struct bitmap *b, size_t pos, struct err *err)
{
	struct marking *m = arg;
	be32 flags = be32_put(b->flags | QCOW2_BITMAP_IN_USE);

	(void)err;
	if ((b->flags & QCOW2_BITMAP_IN_USE) ||
		!(m->all || (b->flags & QCOW2_BITMAP_AUTO)))
		return 0;
	memcpy(m->dir.buf + pos + offsetof(struct qcow2_bitmap_entry, flags), &flags,
		sizeof(flags));
	m->changed = true;
	return 0;
}

int qcow2_bitmaps_mark_in_use(struct qcow2 *q, bool all)
{
	struct marking m = {.all = all};
	struct err err = ERR_INIT;
	int ret;

	if (!q->has_bitmaps_ext || !(q->autoclear & QCOW2_AUTOCLEAR_BITMAPS))
		return 0;
	ret = bitmaps_each(q, &m.dir, mark_one, &m, &err);
	if (ret)
		log_line(LOG_LEVEL_ERROR, "%s: %s", q->b->filename, err.msg);
	/* A crash that tears it leaves some bitmaps flagged and nothing written:
	 * harmless. */
	if (!ret && m.changed)
		ret = qcow2_meta_write(
			q, QCOW2_K_BITMAPS, m.dir.offset, m.dir.buf, m.dir.bytes);
	if (!ret && m.changed)
		ret = blk_flush(q->file);
	free(m.dir.buf);
	return ret;
}

struct ranges {
	struct qcow2 *q;
	uint64_t entries; /* of all tables so far */
	int (*fn)(void *arg, uint64_t offset, uint64_t bytes);
	void *arg;
};

static int table_ranges(struct ranges *r, const struct bitmap *b, const uint64_t *table,
	size_t n, struct err *err)
{
	const uint64_t allowed = QCOW2_OFFSET_MASK | 1;
	uint32_t cs = r->q->cluster_bytes;
	int ret = 0;

	for (size_t i = 0; !ret && i < n; i++) {
		uint64_t offset = table[i] & QCOW2_OFFSET_MASK;

		if ((table[i] & ~allowed) || (offset && (table[i] & 1)) ||
			!is_aligned(offset, cs))
			return err_set(err, EINVAL,
				"bitmap '%s' has an invalid table entry: 0x%" PRIx64,
				b->name, table[i]);
		if (offset)
			ret = r->fn(r->arg, offset, cs);
		if (ret)
			return err_errno(err, -ret, "bitmap '%s': data at 0x%" PRIx64,
				b->name, offset);
	}
	return ret;
}

static int bitmap_ranges(void *arg, const struct bitmap *b, size_t pos, struct err *err)
{
	struct ranges *r = arg;
	int ret;

	(void)pos;
	r->entries += b->table_entries;
	if (r->entries > MAX_TABLE_ENTRIES)
		return err_set(err, EFBIG, "bitmap tables are too large");
	ret = r->fn(r->arg, b->table_offset, (uint64_t)b->table_entries * sizeof(be64));
	if (ret)
		return err_errno(err, -ret, "bitmap '%s': table at 0x%" PRIx64, b->name,
			b->table_offset);
	for (uint32_t at = 0; !ret && at < b->table_entries; at += TABLE_PIECE) {
		size_t n = MIN(b->table_entries - at, TABLE_PIECE);
		uint64_t *table;

		ret = qcow2_table_read(
			r->q, b->table_offset + at * sizeof(be64), n, &table);
		if (ret)
			return err_errno(err, ret == -ENOMEM ? ENOMEM : EIO,
				"could not read the table of bitmap '%s'", b->name);
		ret = table_ranges(r, b, table, n, err);
		free(table);
	}
	return ret;
}

int qcow2_bitmaps_each_range(struct qcow2 *q,
	int (*fn)(void *arg, uint64_t offset, uint64_t bytes), void *arg, struct err *err)
{
	struct ranges r = {.q = q, .fn = fn, .arg = arg};
	struct directory dir = {0};
	int ret = bitmaps_each(q, &dir, bitmap_ranges, &r, err);

	if (!ret) {
		ret = fn(arg, dir.offset, dir.bytes);
		if (ret)
			err_errno(
				err, -ret, "bitmap directory at 0x%" PRIx64, dir.offset);
	}
	free(dir.buf);
	return ret;
}

static int describe(void *arg, const struct bitmap *b, size_t pos, struct err *err)
{
	struct json *flags = json_new_array(), *o = json_new_object();

	(void)pos;
	(void)err;
	if (b->flags & QCOW2_BITMAP_IN_USE)
		json_add(flags, json_new_string("in-use"));
	if (b->flags & QCOW2_BITMAP_AUTO)
		json_add(flags, json_new_string("auto"));
	json_put(o, "flags", flags);
	json_put_string(o, "name", b->name);
	json_put_int(o, "granularity", (int64_t)1 << b->granularity_bits);
	json_add(arg, o);
	return 0;
}

struct json *qcow2_bitmaps_info(struct qcow2 *q)
{
	struct json *list;
	struct directory dir = {0};

	if (!q->has_bitmaps_ext || !(q->autoclear & QCOW2_AUTOCLEAR_BITMAPS))
		return NULL;
	list = json_new_array();
	if (bitmaps_each(q, &dir, describe, list, NULL)) {
		json_free(list);
		list = NULL;
	}
	free(dir.buf);
	return list;
}

struct measuring {
	uint64_t disk_bytes, cluster_bytes, sum, directory_bytes;
};

static int measure_one(void *arg, const struct bitmap *b, size_t pos, struct err *err)
{
	struct measuring *m = arg;
	uint64_t data =
		data_clusters(m->disk_bytes, b->granularity_bits, m->cluster_bytes);

	(void)pos;
	(void)err;
	m->sum += (data + div_round_up(data * sizeof(be64), m->cluster_bytes)) *
		  m->cluster_bytes;
	m->directory_bytes += b->entry_bytes;
	return 0;
}

bool qcow2_bitmaps_measure(struct blk *b, uint64_t cluster_bytes, uint64_t *out)
{
	struct measuring m = {.disk_bytes = blk_size(b), .cluster_bytes = cluster_bytes};
	struct directory dir = {0};
	struct qcow2 *q = b->state;
	bool known = true;

	*out = 0;
	if (strcmp(blk_driver_name(b), "qcow2") != 0 || q->version < 3)
		return false;
	if (q->has_bitmaps_ext && (q->autoclear & QCOW2_AUTOCLEAR_BITMAPS))
		known = !bitmaps_each(q, &dir, measure_one, &m, NULL);
	free(dir.buf);
	*out = m.sum + round_up(m.directory_bytes, cluster_bytes);
	return known;
}
