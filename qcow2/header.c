/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The header cluster: read with every field checked (I4), written whole from what we hold.
 *
 * What we do not know we keep: header fields past ours, header extensions, the feature name
 * table (ours is written where the image had none). A write replaces the header cluster; its
 * fields that must change together (table offsets and counts, size) share the first sector,
 * which a disk writes as one.
 */
#include "qcow2/qcow2.h"

#include <stdarg.h>
#include <stdio.h>

/* ---- reading --------------------------------------------------------------------- */

static int check_geometry(struct qcow2 *q, const struct qcow2_header *h, struct err *err)
{
	uint32_t bits = be32_get(h->cluster_bits), order = be32_get(h->refcount_order);
	uint32_t length = be32_get(h->header_length);

	if (bits < QCOW2_MIN_CLUSTER_BITS || bits > QCOW2_MAX_CLUSTER_BITS)
		return err_set(err, EINVAL, "Unsupported cluster size: 2^%" PRIu32, bits);
	q->cluster_bits = bits;
	q->cluster_bytes = 1u << bits;
	if (q->version == 2) {
		q->header_length = QCOW2_V2_HEADER_BYTES;
		q->refcount_order = 4;
		return 0;
	}
	if (length < QCOW2_V3_HEADER_BYTES || length % 8 || length > q->cluster_bytes)
		return err_set(err, EINVAL,
			"qcow2 header length %" PRIu32
			" is not a multiple of 8 from %u to the cluster size",
			length, QCOW2_V3_HEADER_BYTES);
	if (order > 6)
		return err_set(err, EINVAL,
			"Reference count entry width of 2^%" PRIu32
			" bits is too large; the maximum is 64 bits",
			order);
	q->header_length = length;
	q->refcount_order = order;
	return 0;
}

/* The name the image gives a feature, from its feature name table. */
static void feature_name(const struct qcow2 *q, unsigned bit, char *buf, size_t bytes)
{
	for (size_t i = 0; i < q->n_exts; i++) {
		const struct qcow2_feature_name *f = (const void *)q->exts[i].data;
		size_t n = q->exts[i].bytes / sizeof(*f);

		if (q->exts[i].type != QCOW2_EXT_FEATURE_NAMES)
			continue;
		for (; n; n--, f++) {
			if (f->type != 0 || f->bit != bit || !f->name[0])
				continue;
			snprintf(buf, bytes, "%.46s", f->name);
			return;
		}
	}
	snprintf(
		buf, bytes, "Unknown incompatible feature: %" PRIx64, (uint64_t)1 << bit);
}

static int check_features(struct qcow2 *q, struct err *err)
{
	uint64_t unknown = q->incompatible & ~(uint64_t)QCOW2_INCOMPAT_KNOWN;
	char name[64];

	if (unknown) {
		feature_name(q, __builtin_ctzll(unknown), name, sizeof(name));
		return err_set(err, ENOTSUP, "Unsupported qcow2 feature(s): %s", name);
	}
	if ((q->incompatible & QCOW2_INCOMPAT_EXTL2) &&
		q->cluster_bits < QCOW2_MIN_EXTL2_BITS)
		return err_set(err, EINVAL,
			"Extended L2 entries are only supported with cluster sizes of at "
			"least %u bytes",
			1u << QCOW2_MIN_EXTL2_BITS);
	if ((q->autoclear & QCOW2_AUTOCLEAR_DATA_FILE_RAW) &&
		!(q->incompatible & QCOW2_INCOMPAT_DATA_FILE))
		q->autoclear &= ~(uint64_t)QCOW2_AUTOCLEAR_DATA_FILE_RAW;
	return 0;
}

static int check_compression(
	struct qcow2 *q, const struct qcow2_header *h, struct err *err)
{
	uint8_t type = q->header_length > 104 ? h->compression_type : 0;

	if (!!(q->incompatible & QCOW2_INCOMPAT_COMPRESSION) != (type != 0))
		return err_set(err, EINVAL,
			"qcow2: Compression type incompatible feature bit must %s",
			type ? "be set" : "not be set");
	if (type > 1)
		return err_set(err, ENOTSUP, "qcow2: unknown compression type: %u", type);
	q->codec = type ? CODEC_ZSTD : CODEC_ZLIB;
	return 0;
}

/* Offset and size of a table: aligned, and inside what a file can be. */
static int check_table(const struct qcow2 *q, const char *what, uint64_t offset,
	uint64_t bytes, uint64_t limit, struct err *err)
{
	if (bytes > limit)
		return err_set(err, EFBIG,
			"%s too large (%" PRIu64 " bytes, at most %" PRIu64 ")", what,
			bytes, limit);
	if (!is_aligned(offset, q->cluster_bytes) || offset > (uint64_t)INT64_MAX - bytes)
		return err_set(
			err, EINVAL, "%s offset invalid (0x%" PRIx64 ")", what, offset);
	return 0;
}

static int check_tables(struct qcow2 *q, const struct qcow2_header *h, struct err *err)
{
	uint64_t size = be64_get(h->size);
	uint64_t reft_bytes = (uint64_t)be32_get(h->refcount_table_clusters)
			      << q->cluster_bits;
	int ret;

	q->reft_clusters = be32_get(h->refcount_table_clusters);
	q->reft_offset = be64_get(h->refcount_table_offset);
	q->l1_entries = be32_get(h->l1_size);
	q->l1_offset = be64_get(h->l1_table_offset);
	q->n_snaps = be32_get(h->nb_snapshots);
	q->snaps_offset = be64_get(h->snapshots_offset);
	if (size > BLK_MAX_SIZE)
		return err_set(err, EFBIG, "Image size %" PRIu64 " is too large", size);
	if (q->reft_clusters == 0 && !(q->b->flags & BLK_O_CHECK))
		return err_set(
			err, EINVAL, "Image does not contain a reference count table");
	ret = check_table(q, "Reference count table", q->reft_offset, reft_bytes,
		QCOW2_MAX_REFTABLE_BYTES, err);
	if (ret == 0)
		ret = check_table(q, "Active L1 table", q->l1_offset,
			(uint64_t)q->l1_entries * 8, QCOW2_MAX_L1_BYTES, err);
	if (ret < 0)
		return ret;
	if (q->n_snaps > QCOW2_MAX_SNAPSHOTS)
		return err_set(err, EFBIG,
			"Snapshot table too large (%" PRIu32 " snapshots)", q->n_snaps);
	/* Without snapshots too: the peer does not open such an image, so nor is it clean. */
	if (!is_aligned(q->snaps_offset, q->cluster_bytes) || q->snaps_offset > INT64_MAX)
		return err_set(err, EINVAL,
			"Snapshot table offset invalid (0x%" PRIx64 ")", q->snaps_offset);
	if (q->l1_entries < qcow2_l1_needed(q, size))
		return err_set(err, EINVAL,
			"L1 table is too small (%" PRIu32
			" entries, the disk needs %" PRIu64 ")",
			q->l1_entries, qcow2_l1_needed(q, size));
	q->b->size = size;
	return 0;
}

static int ext_string(const uint8_t *data, uint32_t bytes, char **out)
{
	free(*out);
	*out = strndup((const char *)data, bytes);
	return *out ? 0 : -ENOMEM;
}

static int ext_keep(struct qcow2 *q, uint32_t type, const uint8_t *data, uint32_t bytes)
{
	struct qcow2_ext *exts = realloc(q->exts, (q->n_exts + 1) * sizeof(*exts));
	uint8_t *copy = malloc(bytes ? bytes : 1);

	if (exts)
		q->exts = exts;
	if (!exts || !copy) {
		free(copy);
		return -ENOMEM;
	}
	memcpy(copy, data, bytes);
	exts[q->n_exts++] = (struct qcow2_ext){type, bytes, copy};
	return 0;
}

static int ext_bitmaps(
	struct qcow2 *q, const uint8_t *data, uint32_t bytes, struct err *err)
{
	if (bytes != sizeof(q->bitmaps_ext))
		return err_set(err, EINVAL,
			"bitmaps_ext: Invalid extension size (%" PRIu32 ")", bytes);
	memcpy(&q->bitmaps_ext, data, bytes);
	q->has_bitmaps_ext = true;
	return 0;
}

static int ext_crypto(
	struct qcow2 *q, const uint8_t *data, uint32_t bytes, struct err *err)
{
	struct qcow2_ext_crypto x;

	if (q->crypt_method != QCOW2_CRYPT_LUKS)
		return err_set(err, EINVAL,
			"CRYPTO header extension only expected with LUKS encryption "
			"method");
	if (bytes != sizeof(x))
		return err_set(err, EINVAL,
			"CRYPTO header extension size %" PRIu32 ", but expected size %zu",
			bytes, sizeof(x));
	memcpy(&x, data, sizeof(x));
	q->luks_offset = be64_get(x.offset);
	q->luks_bytes = be64_get(x.length);
	if (q->luks_offset == 0 || !is_aligned(q->luks_offset, q->cluster_bytes) ||
		q->luks_offset > INT64_MAX - QCOW2_MAX_LUKS_HEADER)
		return err_set(err, EINVAL,
			"Encryption header offset '%" PRIu64
			"' is not a multiple of cluster size '%" PRIu32 "'",
			q->luks_offset, q->cluster_bytes);
	if (q->luks_bytes == 0 || q->luks_bytes > QCOW2_MAX_LUKS_HEADER)
		return err_set(err, EINVAL,
			"Encryption header length %" PRIu64 " is out of range",
			q->luks_bytes);
	return 0;
}

static int ext_take(struct qcow2 *q, uint32_t type, const uint8_t *data, uint32_t bytes,
	struct err *err)
{
	int ret;

	switch (type) {
	case QCOW2_EXT_BACKING_FORMAT:
		if (bytes > 31)
			return err_set(err, EINVAL,
				"ERROR: ext_backing_format: len=%" PRIu32
				" too large (>=32)",
				bytes);
		ret = ext_string(data, bytes, &q->b->backing_format);
		break;
	case QCOW2_EXT_DATA_FILE:
		ret = ext_string(data, bytes, &q->data_file_name);
		break;
	case QCOW2_EXT_BITMAPS:
		return ext_bitmaps(q, data, bytes, err);
	case QCOW2_EXT_CRYPTO:
		return ext_crypto(q, data, bytes, err);
	default:
		ret = ext_keep(q, type, data, bytes);
		break;
	}
	return ret < 0 ? err_set(err, ENOMEM,
				 "no memory for header extension 0x%08" PRIx32, type)
		       : 0;
}

static int read_extensions(
	struct qcow2 *q, const uint8_t *cluster, uint64_t end, struct err *err)
{
	uint64_t at = q->header_length;
	int ret;

	while (at < end) {
		struct qcow2_ext_header x;
		uint32_t bytes, type;

		if (end - at < sizeof(x))
			break; /* no room for an end marker: as if there were one */
		memcpy(&x, cluster + at, sizeof(x));
		type = be32_get(x.type);
		bytes = be32_get(x.length);
		at += sizeof(x);
		if (type == QCOW2_EXT_END)
			return 0;
		if (bytes > end - at)
			return err_set(err, EINVAL,
				"Header extension too large (0x%08" PRIx32
				" at offset %" PRIu64 ": %" PRIu32 " bytes)",
				type, at - 8, bytes);
		ret = ext_take(q, type, cluster + at, bytes, err);
		if (ret < 0)
			return ret;
		at += round_up(bytes, 8);
	}
	return 0;
}

static int read_backing_name(struct qcow2 *q, const struct qcow2_header *h,
	const uint8_t *cluster, struct err *err)
{
	uint64_t offset = be64_get(h->backing_file_offset);
	uint32_t bytes = be32_get(h->backing_file_size);

	if (!offset)
		return 0;
	if (offset > q->cluster_bytes || bytes > q->cluster_bytes - offset)
		return err_set(err, EINVAL,
			"Invalid backing file offset (0x%" PRIx64 ", %" PRIu32 " bytes)",
			offset, bytes);
	if (bytes > QCOW2_MAX_BACKING_NAME)
		return err_set(err, EINVAL,
			"Backing file name too long (%" PRIu32 " bytes)", bytes);
	if (bytes && memchr(cluster + offset, 0, bytes))
		return err_set(err, EINVAL, "Backing file name has a zero byte in it");
	if (bytes == 0)
		return 0;
	if (q->autoclear & QCOW2_AUTOCLEAR_DATA_FILE_RAW)
		return err_set(err, EINVAL,
			"An image with a raw external data file cannot have a backing "
			"file");
	return ext_string(cluster + offset, bytes, &q->b->backing_name) == 0
		       ? 0
		       : err_set(err, ENOMEM, "no memory for the backing file name");
}

/* What follows from the header alone. */
static void derive(struct qcow2 *q)
{
	unsigned bits = q->cluster_bits;

	q->extl2 = q->incompatible & QCOW2_INCOMPAT_EXTL2;
	q->external_data = q->incompatible & QCOW2_INCOMPAT_DATA_FILE;
	q->external_raw =
		q->external_data && (q->autoclear & QCOW2_AUTOCLEAR_DATA_FILE_RAW);
	q->lazy_refcounts = q->compatible & QCOW2_COMPAT_LAZY_REFCOUNTS;
	q->l2_entry_bytes = q->extl2 ? 16 : 8;
	q->l2_bits = bits - (q->extl2 ? 4 : 3);
	q->subcluster_bits = q->extl2 ? bits - 5 : bits;
	q->subcluster_bytes = 1u << q->subcluster_bits;
	q->refblock_bits = bits + 3 - q->refcount_order;
	q->refcount_max = q->refcount_order == 6
				  ? UINT64_MAX
				  : (1ull << (1u << q->refcount_order)) - 1;
	q->compressed_shift = 62 - (bits - 8);
	q->compressed_offset_mask = (1ull << q->compressed_shift) - 1;
	q->encrypted = q->crypt_method != QCOW2_CRYPT_NONE;
}

static int read_fixed(struct qcow2 *q, struct qcow2_header *h, struct err *err)
{
	int ret;

	memset(h, 0, sizeof(*h));
	ret = blk_pread(q->file, 0, h, sizeof(*h));
	if (ret < 0)
		return err_errno(err, -ret, "Could not read qcow2 header");
	if (be32_get(h->magic) != QCOW2_MAGIC)
		return err_set(err, EINVAL, "Image is not in qcow2 format");
	q->version = be32_get(h->version);
	if (q->version != 2 && q->version != 3)
		return err_set(err, ENOTSUP, "Unsupported qcow2 version %u", q->version);
	if (be32_get(h->crypt_method) > QCOW2_CRYPT_LUKS)
		return err_set(err, EINVAL, "Unsupported encryption method %" PRIu32,
			be32_get(h->crypt_method));
	q->crypt_method = be32_get(h->crypt_method);
	if (q->version == 3) {
		q->incompatible = be64_get(h->incompatible_features);
		q->compatible = be64_get(h->compatible_features);
		q->autoclear = be64_get(h->autoclear_features);
	}
	return check_geometry(q, h, err);
}

static struct qcow2_places places_now(const struct qcow2 *q)
{
	return (struct qcow2_places){
		.size = blk_size(q->b),
		.l1_offset = q->l1_offset,
		.l1_entries = q->l1_entries,
		.reft_offset = q->reft_offset,
		.reft_clusters = q->reft_clusters,
		.n_snaps = q->n_snaps,
		.snaps_offset = q->n_snaps ? q->snaps_offset : 0,
	};
}

int qcow2_header_read(struct qcow2 *q, struct err *err)
{
	struct qcow2_header h;
	uint64_t ext_end;
	uint8_t *cluster;
	int ret = read_fixed(q, &h, err);

	if (ret < 0)
		return ret;
	cluster = buf_alloc(q->cluster_bytes);
	if (!cluster)
		return err_set(err, ENOMEM, "no memory for the header");
	ret = blk_pread(q->file, 0, cluster, q->cluster_bytes);
	if (ret < 0) {
		ret = err_errno(err, -ret, "Could not read qcow2 header");
		goto out;
	}
	ext_end = be64_get(h.backing_file_offset);
	if (!ext_end || ext_end > q->cluster_bytes)
		ext_end = q->cluster_bytes;
	if (ext_end < q->header_length) {
		ret = err_set(err, EINVAL, "Invalid backing file offset (0x%" PRIx64 ")",
			ext_end);
		goto out;
	}
	ret = read_extensions(q, cluster, ext_end, err);
	if (ret == 0)
		ret = check_features(q, err);
	if (ret == 0)
		ret = check_compression(q, &h, err);
	if (ret == 0)
		ret = read_backing_name(q, &h, cluster, err);
	if (ret < 0)
		goto out;
	derive(q);
	if (q->header_length > QCOW2_HEADER_BYTES) {
		q->header_tail_bytes = q->header_length - QCOW2_HEADER_BYTES;
		q->header_tail = malloc(q->header_tail_bytes);
		if (q->header_tail)
			memcpy(q->header_tail, cluster + QCOW2_HEADER_BYTES,
				q->header_tail_bytes);
		else
			ret = err_set(err, ENOMEM, "no memory for the header");
	}
	if (ret == 0 && q->crypt_method == QCOW2_CRYPT_LUKS && !q->luks_bytes)
		ret = err_set(
			err, EINVAL, "LUKS encryption without its header extension");
	if (ret == 0)
		ret = check_tables(q, &h, err);
	if (ret == 0)
		q->on_disk = places_now(q);
out:
	buf_free(cluster);
	return ret;
}

/* ---- writing --------------------------------------------------------------------- */

struct builder {
	uint8_t *buf;
	size_t at, limit;
	bool full;
};

static void build(struct builder *w, const void *data, size_t bytes)
{
	if (bytes > w->limit - w->at) {
		w->full = true;
		return;
	}
	if (bytes)
		memcpy(w->buf + w->at, data, bytes);
	w->at += bytes;
}

static void build_ext(struct builder *w, uint32_t type, const void *data, size_t bytes)
{
	struct qcow2_ext_header x = {be32_put(type), be32_put((uint32_t)bytes)};
	static const uint8_t zeros[8];

	build(w, &x, sizeof(x));
	build(w, data, bytes);
	build(w, zeros, round_up(bytes, 8) - bytes);
}

static void build_fixed(struct qcow2 *q, const struct qcow2_places *at, struct builder *w)
{
	struct qcow2_header h = {
		.magic = be32_put(QCOW2_MAGIC),
		.version = be32_put(q->version),
		.cluster_bits = be32_put(q->cluster_bits),
		.size = be64_put(at->size),
		.crypt_method = be32_put(q->crypt_method),
		.l1_size = be32_put(at->l1_entries),
		.l1_table_offset = be64_put(at->l1_offset),
		.refcount_table_offset = be64_put(at->reft_offset),
		.refcount_table_clusters = be32_put(at->reft_clusters),
		.nb_snapshots = be32_put(at->n_snaps),
		.snapshots_offset = be64_put(at->snaps_offset),
		.incompatible_features = be64_put(q->incompatible),
		.compatible_features = be64_put(q->compatible),
		.autoclear_features = be64_put(q->autoclear),
		.refcount_order = be32_put(q->refcount_order),
		.header_length = be32_put(q->header_length),
		.compression_type = q->codec == CODEC_ZSTD,
	};

	build(w, &h, MIN((size_t)q->header_length, sizeof(h)));
	build(w, q->header_tail, q->header_tail_bytes);
}

/* Names for the features we know, so that an older reader's error can say them. */
static void build_feature_names(struct builder *w)
{
	static const struct qcow2_feature_name names[] = {
		{0, 0, "dirty bit"},
		{0, 1, "corrupt bit"},
		{0, 2, "external data file"},
		{0, 3, "compression type"},
		{0, 4, "extended L2 entries"},
		{1, 0, "lazy refcounts"},
		{2, 0, "bitmaps"},
		{2, 1, "raw external data"},
	};

	build_ext(w, QCOW2_EXT_FEATURE_NAMES, names, sizeof(names));
}

/* Those that mean nothing to us, names of features or others. */
static void build_kept(const struct qcow2 *q, struct builder *w, bool names)
{
	for (size_t i = 0; i < q->n_exts; i++)
		if ((q->exts[i].type == QCOW2_EXT_FEATURE_NAMES) == names)
			build_ext(w, q->exts[i].type, q->exts[i].data, q->exts[i].bytes);
}

/* As the image has it. What a write does not change stays where it is, also when another program made
 * the image (the peer, in this order): a crash may leave any of its sectors as they were. */
static void build_extensions(struct qcow2 *q, struct builder *w)
{
	if (q->b->backing_name && q->b->backing_format)
		build_ext(w, QCOW2_EXT_BACKING_FORMAT, q->b->backing_format,
			strlen(q->b->backing_format));
	if (q->data_file_name)
		build_ext(w, QCOW2_EXT_DATA_FILE, q->data_file_name,
			strlen(q->data_file_name));
	if (q->luks_bytes) {
		struct qcow2_ext_crypto x = {
			be64_put(q->luks_offset), be64_put(q->luks_bytes)};

		build_ext(w, QCOW2_EXT_CRYPTO, &x, sizeof(x));
	}
	/* 512-byte clusters have no room for them beside a backing name. */
	if (q->is_new && q->version >= 3 && q->cluster_bytes > 1024)
		build_feature_names(w);
	build_kept(q, w, true);
	if (q->has_bitmaps_ext)
		build_ext(w, QCOW2_EXT_BITMAPS, &q->bitmaps_ext, sizeof(q->bitmaps_ext));
	build_kept(q, w, false);
	build_ext(w, QCOW2_EXT_END, NULL, 0);
}

static int header_write_locked(struct qcow2 *q, const struct qcow2_places *at)
{
	struct builder w = {.limit = q->cluster_bytes};
	struct qcow2_header *h;
	int ret;

	w.buf = buf_alloc(q->cluster_bytes);
	if (!w.buf)
		return -ENOMEM;
	memset(w.buf, 0, q->cluster_bytes);
	build_fixed(q, at, &w);
	build_extensions(q, &w);
	if (q->b->backing_name) {
		size_t bytes = strlen(q->b->backing_name);

		h = (struct qcow2_header *)w.buf;
		h->backing_file_offset = be64_put(w.at);
		h->backing_file_size = be32_put((uint32_t)bytes);
		build(&w, q->b->backing_name, bytes);
	}
	w.at = round_up(w.at, BLK_SECTOR);
	if (w.full)
		ret = -ENOSPC; /* extensions and names do not fit in the first cluster */
	else if (!q->corrupt && !qcow2_overlap_ok(q, QCOW2_K_HEADER, 0, w.at))
		ret = -EIO;
	else /* once the image is said to be corrupt, the bit must get out all the same */
		ret = blk_pwrite(q->file, 0, w.buf, w.at, 0);
	buf_free(w.buf);
	return ret;
}

int qcow2_header_write(struct qcow2 *q)
{
	struct qcow2_places now;
	int ret;

	task_lock(&q->header_lock);
	now = places_now(q);
	ret = header_write_locked(q, &now);
	if (ret == 0)
		q->on_disk = now;
	task_unlock(&q->header_lock);
	return ret;
}

static int set_incompatible(struct qcow2 *q, uint64_t bit, bool on)
{
	uint64_t before;
	int ret;

	task_lock(&q->header_lock);
	if (bit == QCOW2_INCOMPAT_DIRTY && !on && q->lazy_refcounts)
		q->write_prepared = false; /* the next write sets it again */
	before = q->incompatible;
	q->incompatible = on ? before | bit : before & ~bit;
	ret = q->incompatible == before ? 0 : header_write_locked(q, &q->on_disk);
	if (ret < 0) {
		q->incompatible = before;
		q->header_stale = true;
	}
	task_unlock(&q->header_lock);
	return ret;
}

int qcow2_set_dirty(struct qcow2 *q, bool dirty)
{
	int ret = 0;

	if (q->version < 3 || !!(q->incompatible & QCOW2_INCOMPAT_DIRTY) == dirty)
		return 0;
	if (!dirty) /* what the bit warned of is settled, and stable, before it goes */
		ret = blk_flush(q->file);
	if (ret == 0)
		ret = set_incompatible(q, QCOW2_INCOMPAT_DIRTY, dirty);
	if (ret == 0)
		ret = blk_flush(q->file);
	return ret;
}

int qcow2_set_corrupt(struct qcow2 *q, const char *fmt, ...)
{
	char what[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(what, sizeof(what), fmt, ap);
	va_end(ap);
	if (atomic_exchange(&q->corrupt, true))
		return -EIO;
	log_line(LOG_LEVEL_ERROR, "%s: image is corrupt: %s", q->b->filename, what);
	if (q->version >= 3 && !blk_read_only(q->b) &&
		set_incompatible(q, QCOW2_INCOMPAT_CORRUPT, true) == 0)
		blk_flush(q->file);
	return -EIO;
}

static int prepare_write_locked(struct qcow2 *q)
{
	uint64_t autoclear = q->autoclear, incompatible = q->incompatible;
	int ret;

	q->autoclear &= QCOW2_AUTOCLEAR_KNOWN;
	if (q->lazy_refcounts)
		q->incompatible |= QCOW2_INCOMPAT_DIRTY;
	if (q->autoclear == autoclear && q->incompatible == incompatible)
		return 0;
	ret = header_write_locked(q, &q->on_disk);
	if (ret == 0)
		ret = blk_flush(q->file);
	if (ret < 0) {
		q->autoclear = autoclear;
		q->incompatible = incompatible;
		q->header_stale = true;
	}
	return ret;
}

int qcow2_prepare_write(struct qcow2 *q)
{
	int ret = 0;

	if (q->write_prepared)
		return 0;
	if (q->header_stale) /* the dirty bit may be off on disk */
		ret = qcow2_commit(q);
	if (ret < 0)
		return ret;
	task_lock(&q->prepare_lock);
	/* Without header_lock: a write that finds the image corrupt takes that itself. */
	if (!q->write_prepared && q->has_bitmaps_ext &&
		(q->autoclear & QCOW2_AUTOCLEAR_BITMAPS))
		ret = qcow2_bitmaps_mark_in_use(q, false);
	if (!q->write_prepared && ret == 0) {
		task_lock(&q->header_lock);
		ret = prepare_write_locked(q);
		q->write_prepared = ret == 0;
		task_unlock(&q->header_lock);
	}
	task_unlock(&q->prepare_lock);
	return ret;
}
