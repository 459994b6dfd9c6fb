/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The overlap map: one byte for each host cluster that holds metadata says of what kind.
 *
 * I3: every metadata write asks it first, and so does every write of guest data and every
 * allocation. It catches images whose refcounts lie (a cluster counted free that is an L2
 * table) before they are damaged further. Chunks of 64 clusters in a hash, so that it costs
 * what the metadata costs and not what the file's size claims.
 *
 * Tables that are copied before they change may be there for several owners, where counts
 * and flags say so; everything else has its clusters for itself.
 */
#include "qcow2/count.h"
#include "qcow2/qcow2.h"

#define CHUNK_BITS     6
#define CHUNK_CLUSTERS (1u << CHUNK_BITS)

struct qcow2_overlap_chunk {
	uint64_t index;
	struct qcow2_overlap_chunk *next;
	uint8_t kind[CHUNK_CLUSTERS];
};

static const char *const kind_names[] = {
	[QCOW2_DATA] = "guest data",
	[QCOW2_K_HEADER] = "the header",
	[QCOW2_K_L1] = "the active L1 table",
	[QCOW2_K_L2] = "an active L2 table",
	[QCOW2_K_REFTABLE] = "the refcount table",
	[QCOW2_K_REFBLOCK] = "a refcount block",
	[QCOW2_K_SNAPSHOTS] = "the snapshot table",
	[QCOW2_K_SNAPSHOT_L1] = "an inactive L1 table",
	[QCOW2_K_LUKS] = "the encryption header",
	[QCOW2_K_BITMAPS] = "bitmaps",
};

void qcow2_overlap_init(struct qcow2_overlap *o)
{
	memset(o, 0, sizeof(*o));
	pthread_mutex_init(&o->lock, NULL);
}

static void overlap_clear(struct qcow2_overlap *o)
{
	for (size_t i = 0; i < o->n_buckets; i++) {
		while (o->buckets[i]) {
			struct qcow2_overlap_chunk *c = o->buckets[i];

			o->buckets[i] = c->next;
			free(c);
		}
	}
	free(o->buckets);
	o->buckets = NULL;
	o->n_buckets = o->n_chunks = 0;
}

void qcow2_overlap_destroy(struct qcow2_overlap *o)
{
	overlap_clear(o);
	pthread_mutex_destroy(&o->lock);
}

/* An image chooses its indexes: they must not choose their bucket. */
static size_t hash(uint64_t index)
{
	return (index * 0x9e3779b97f4a7c15ull) >> 32;
}

static size_t bucket_of(const struct qcow2_overlap *o, uint64_t index)
{
	return hash(index) & (o->n_buckets - 1);
}

static struct qcow2_overlap_chunk *chunk_find(struct qcow2_overlap *o, uint64_t index)
{
	struct qcow2_overlap_chunk *c = NULL;

	if (o->n_buckets)
		c = o->buckets[bucket_of(o, index)];
	while (c && c->index != index)
		c = c->next;
	return c;
}

static int chunks_grow(struct qcow2_overlap *o)
{
	size_t n = o->n_buckets ? o->n_buckets * 2 : 64;
	struct qcow2_overlap_chunk **buckets = calloc(n, sizeof(*buckets));

	if (!buckets)
		return -ENOMEM;
	for (size_t i = 0; i < o->n_buckets; i++) {
		struct qcow2_overlap_chunk *c = o->buckets[i], *next;

		for (; c; c = next) {
			next = c->next;
			c->next = buckets[hash(c->index) & (n - 1)];
			buckets[hash(c->index) & (n - 1)] = c;
		}
	}
	free(o->buckets);
	o->buckets = buckets;
	o->n_buckets = n;
	return 0;
}

static struct qcow2_overlap_chunk *chunk_make(struct qcow2_overlap *o, uint64_t index)
{
	struct qcow2_overlap_chunk *c = chunk_find(o, index), **bucket;

	if (c)
		return c;
	if (o->n_chunks >= o->n_buckets && chunks_grow(o) < 0)
		return NULL;
	c = calloc(1, sizeof(*c));
	if (!c)
		return NULL;
	bucket = &o->buckets[bucket_of(o, index)];
	c->index = index;
	c->next = *bucket;
	*bucket = c;
	o->n_chunks++;
	return c;
}

static uint8_t kind_at(struct qcow2_overlap *o, uint64_t cluster)
{
	struct qcow2_overlap_chunk *c = chunk_find(o, cluster >> CHUNK_BITS);

	return c ? c->kind[cluster & (CHUNK_CLUSTERS - 1)] : QCOW2_DATA;
}

int qcow2_overlap_mark(
	struct qcow2 *q, enum qcow2_kind kind, uint64_t offset, uint64_t bytes)
{
	struct qcow2_overlap *o = &q->overlap;
	uint64_t first = qcow2_cluster_of(q, offset);
	uint64_t last = bytes ? qcow2_cluster_of(q, offset + bytes - 1) : first;
	int ret = 0;

	pthread_mutex_lock(&o->lock);
	for (uint64_t i = first; i <= last && ret == 0; i++) {
		struct qcow2_overlap_chunk *c = kind == QCOW2_DATA
							? chunk_find(o, i >> CHUNK_BITS)
							: chunk_make(o, i >> CHUNK_BITS);

		if (c)
			c->kind[i & (CHUNK_CLUSTERS - 1)] = kind;
		else if (kind != QCOW2_DATA)
			ret = -ENOMEM;
	}
	pthread_mutex_unlock(&o->lock);
	return ret;
}

bool qcow2_overlap_ok(
	struct qcow2 *q, enum qcow2_kind kind, uint64_t offset, uint64_t bytes)
{
	struct qcow2_overlap *o = &q->overlap;
	uint64_t last = qcow2_cluster_of(q, offset + bytes - 1);
	bool ok = true;

	if (o->off)
		return true;
	pthread_mutex_lock(&o->lock);
	for (uint64_t i = qcow2_cluster_of(q, offset); i <= last && ok; i++)
		ok = kind_at(o, i) == kind;
	pthread_mutex_unlock(&o->lock);
	return ok;
}

int qcow2_meta_read(struct qcow2 *q, uint64_t offset, void *buf, size_t bytes)
{
	uint64_t size = blk_size(q->file), there = 0;

	if (offset < size)
		there = MIN(size - offset, (uint64_t)bytes);
	memset((uint8_t *)buf + there, 0, bytes - there);
	return there ? blk_pread(q->file, offset, buf, there) : 0;
}

int qcow2_meta_write(struct qcow2 *q, enum qcow2_kind kind, uint64_t offset,
	const void *buf, size_t bytes)
{
	if (!qcow2_overlap_ok(q, kind, offset, bytes))
		return qcow2_set_corrupt(q,
			"write of %zu bytes of %s at 0x%" PRIx64
			" would overwrite something else",
			bytes, kind_names[kind], offset);
	return blk_pwrite(q->file, offset, buf, bytes, 0);
}

/* ---- what the tables say --------------------------------------------------------- */

/* An image whose honest tables are shared has a few of them. */
#define SHARED_LIMIT ((size_t)64 << 20)

struct claims {
	struct qcow2 *q;
	struct err *err;
	struct count again; /* by how often a cluster is claimed after the first time */
};

/* Tables that are copied before they change may have several owners: an L2 table by the
 * copied flag, the L1 table of a snapshot because nothing changes it at all. */
static bool may_be_shared(enum qcow2_kind kind)
{
	return kind == QCOW2_K_L2 || kind == QCOW2_K_SNAPSHOT_L1;
}

static int claim_cluster(
	struct claims *c, enum qcow2_kind kind, uint64_t offset, uint64_t cluster)
{
	enum qcow2_kind there = kind_at(&c->q->overlap, cluster);

	if (there == QCOW2_DATA)
		return 0;
	if (there != kind || !may_be_shared(kind))
		return err_set(c->err, EIO,
			"%s at 0x%" PRIx64 " overlaps %s in cluster %" PRIu64,
			kind_names[kind], offset, kind_names[there], cluster);
	if (count_add(&c->again, cluster, 1))
		return err_set(c->err, EFBIG, "too many tables are shared");
	return 0;
}

/* Marks a structure that must not lie on another one. */
static int claim(struct claims *c, enum qcow2_kind kind, uint64_t offset, uint64_t bytes)
{
	struct qcow2 *q = c->q;
	uint64_t last = qcow2_cluster_of(q, offset + bytes - 1);
	int ret = 0;

	if (!range_inside(offset, bytes, q->fresh_from))
		return err_set(c->err, EIO, "%s at 0x%" PRIx64 " lies outside the file",
			kind_names[kind], offset);
	for (uint64_t i = qcow2_cluster_of(q, offset); !ret && i <= last; i++)
		ret = claim_cluster(c, kind, offset, i);
	if (ret)
		return ret;
	if (qcow2_overlap_mark(q, kind, offset, bytes) < 0)
		return err_set(c->err, ENOMEM, "no memory for the overlap map");
	return 0;
}

static int claim_bitmaps(void *arg, uint64_t offset, uint64_t bytes)
{
	struct claims *c = arg;
	struct claims quiet = {.q = c->q}; /* the caller says which bitmap it was */

	return claim(&quiet, QCOW2_K_BITMAPS, offset, bytes);
}

static int claim_tables(struct claims *c)
{
	struct qcow2 *q = c->q;
	int ret = claim(c, QCOW2_K_HEADER, 0, q->cluster_bytes);

	if (ret == 0)
		ret = claim(c, QCOW2_K_REFTABLE, q->reft_offset,
			(uint64_t)q->reft_clusters << q->cluster_bits);
	if (ret == 0 && q->l1_entries)
		ret = claim(c, QCOW2_K_L1, q->l1_offset, (uint64_t)q->l1_entries * 8);
	if (ret == 0 && q->luks_bytes)
		ret = claim(c, QCOW2_K_LUKS, q->luks_offset, q->luks_bytes);
	if (ret == 0 && q->n_snaps && q->snaps_bytes)
		ret = claim(c, QCOW2_K_SNAPSHOTS, q->snaps_offset, q->snaps_bytes);
	return ret;
}

/* As many as there are may lie on each other: what bounds them is their sum. */
static int claim_snapshots(struct claims *c)
{
	struct qcow2 *q = c->q;
	uint64_t entries = q->l1_entries;
	int ret = 0;

	for (uint32_t i = 0; i < q->n_snaps && ret == 0; i++) {
		entries += q->snaps[i].l1_entries;
		if (entries > QCOW2_MAX_L1_ENTRIES)
			return err_set(c->err, EFBIG,
				"the L1 tables of snapshots are too large");
		if (q->snaps[i].l1_entries)
			ret = claim(c, QCOW2_K_SNAPSHOT_L1, q->snaps[i].l1_offset,
				(uint64_t)q->snaps[i].l1_entries * 8);
	}
	return ret;
}

/* The first owner that copies a table gives up one reference: the others need theirs. */
static int check_shared_counts(struct claims *c)
{
	struct count_chunk **chunks;
	int ret = count_sorted(&c->again, &chunks);

	if (ret)
		return err_set(c->err, ENOMEM, "no memory for the overlap map");
	for (size_t i = 0; i < c->again.n_chunks && ret == 0; i++)
		for (unsigned pos = 0; pos < COUNT_CHUNK && ret == 0; pos++) {
			uint64_t cluster = (chunks[i]->index << COUNT_CHUNK_BITS) + pos;
			uint64_t again = count_chunk_get(chunks[i], pos), count;

			if (!again)
				continue;
			ret = qcow2_refcount_get(c->q, cluster, &count);
			if (ret)
				err_errno(c->err, -ret, "could not read refcounts");
			else if (count <= again)
				ret = err_set(c->err, EIO,
					"%s at 0x%" PRIx64 " is referenced %" PRIu64
					" times, but its refcount is %" PRIu64,
					kind_names[kind_at(&c->q->overlap, cluster)],
					cluster << c->q->cluster_bits, again + 1, count);
		}
	free(chunks);
	return ret;
}

/* An owner that believes to be the only one would write to the others' table. */
static int check_shared_flags(struct claims *c)
{
	struct qcow2 *q = c->q;

	for (uint32_t i = 0; i < q->l1_entries; i++) {
		uint64_t l2 = q->l1[i] & QCOW2_OFFSET_MASK;

		if ((q->l1[i] & QCOW2_COPIED) &&
			count_get(&c->again, qcow2_cluster_of(q, l2)))
			return err_set(c->err, EIO,
				"L1 entry %" PRIu32
				" has the copied flag, but others share its L2 table at "
				"0x%" PRIx64,
				i, l2);
	}
	return 0;
}

static int claim_all(struct claims *c)
{
	struct qcow2 *q = c->q;
	int ret = claim_tables(c);

	for (uint64_t i = 0; i < q->reft_entries && ret == 0; i++)
		if (q->reft[i])
			ret = claim(c, QCOW2_K_REFBLOCK, q->reft[i], q->cluster_bytes);
	for (uint32_t i = 0; i < q->l1_entries && ret == 0; i++) {
		uint64_t l2 = q->l1[i] & QCOW2_OFFSET_MASK;

		if (l2)
			ret = claim(c, QCOW2_K_L2, l2, q->cluster_bytes);
	}
	if (ret == 0)
		ret = claim_snapshots(c);
	if (ret == 0 && q->has_bitmaps_ext && (q->autoclear & QCOW2_AUTOCLEAR_BITMAPS))
		ret = qcow2_bitmaps_each_range(q, claim_bitmaps, c, c->err);
	if (ret == 0 && c->again.n_chunks)
		ret = check_shared_counts(c);
	if (ret == 0 && c->again.n_chunks)
		ret = check_shared_flags(c);
	return ret;
}

int qcow2_overlap_build(struct qcow2 *q, struct err *err)
{
	struct claims c = {.q = q, .err = err};
	int ret;

	overlap_clear(&q->overlap);
	count_init(&c.again, SHARED_LIMIT);
	ret = claim_all(&c);
	count_destroy(&c.again);
	return ret;
}
