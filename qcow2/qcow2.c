/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Opening, closing, and the driver's table. What the parts do together is told in qcow2.h.
 */
#include "qcow2/qcow2.h"

#define SLICE_BYTES     (16u << 10)
#define L2_CACHE_BYTES  (32u << 20) /* maps 256 GiB of 64 KiB clusters */
#define REF_CACHE_BYTES (4u << 20)
#define L2_ENTRY_MIN    512u

static int tables_alloc(struct qcow2 *q)
{
	size_t l1 = MAX(q->l1_entries, 1u);

	q->l1 = calloc(l1, sizeof(*q->l1));
	q->l1_dirty = calloc(l1 / 64 + 1, 1);
	q->reft = calloc(q->reft_entries, sizeof(*q->reft));
	q->reft_dirty = calloc(q->reft_entries / 64 + 1, 1);
	q->reft_full = calloc(q->reft_entries, 1);
	return q->l1 && q->l1_dirty && q->reft && q->reft_dirty && q->reft_full ? 0
										: -ENOMEM;
}

static void tables_free(struct qcow2 *q)
{
	free((void *)q->l1);
	free(q->l1_dirty);
	free((void *)q->reft);
	free(q->reft_dirty);
	free(q->reft_full);
	q->l1 = NULL;
	q->reft = NULL;
	q->l1_dirty = q->reft_dirty = q->reft_full = NULL;
	q->l1_any_dirty = q->reft_any_dirty = false;
	q->header_stale = false;
	q->loaded = false;
}

static int load_l1(struct qcow2 *q, struct err *err)
{
	uint64_t *table = NULL;
	int ret = qcow2_table_read(q, q->l1_offset, q->l1_entries, &table);

	if (ret < 0)
		return err_errno(
			err, -ret, "Could not read L1 table at 0x%" PRIx64, q->l1_offset);
	for (uint32_t i = 0; i < q->l1_entries; i++)
		q->l1[i] = table[i];
	free(table);
	return 0;
}

static int load_reft(struct qcow2 *q, struct err *err)
{
	uint64_t *table = NULL;
	int ret = qcow2_table_read(q, q->reft_offset, q->reft_entries, &table);

	if (ret < 0)
		return err_errno(err, -ret, "Could not read refcount table at 0x%" PRIx64,
			q->reft_offset);
	for (uint64_t i = 0; i < q->reft_entries && ret == 0; i++) {
		uint64_t block = table[i];

		if (is_aligned(block, q->cluster_bytes) && block < INT64_MAX)
			q->reft[i] = block;
		else if (!blk_read_only(q->b))
			ret = err_set(err, EIO,
				"Refcount block %" PRIu64 " at 0x%" PRIx64
				" is not on a cluster",
				i, block);
	}
	free(table);
	return ret;
}

int qcow2_tables_load(struct qcow2 *q, struct err *err)
{
	int ret;

	tables_free(q);
	qcow2_cache_drop_all(&q->l2_cache);
	qcow2_cache_drop_all(&q->ref_cache);
	q->freed.n = q->stable.n = q->grace.n = 0;
	q->alloc_hint = 0;
	q->compressed_next = 0;
	q->reft_entries = ((uint64_t)q->reft_clusters << q->cluster_bits) / 8;
	q->fresh_from = round_up(blk_size(q->file), q->cluster_bytes);
	if (tables_alloc(q) < 0)
		return err_set(err, ENOMEM, "no memory for the tables");
	ret = load_l1(q, err);
	if (ret == 0)
		ret = load_reft(q, err);
	q->overlap.off = false;
	if (ret == 0 && !blk_read_only(q->b))
		ret = qcow2_overlap_build(q, err);
	q->loaded = ret == 0;
	return ret;
}

/* ---- open ------------------------------------------------------------------------ */

struct settings {
	uint64_t l2_cache, ref_cache;
	uint64_t l2_entry; /* checked only */
	bool lazy, lazy_given;
};

/* Options of the peer's driver. Those about its own cache and overlap checks are read and
 * have no effect: ours are always complete. */
static int take_settings(struct opts *opts, struct settings *s, struct err *err)
{
	static const char *const accepted[] = {"cache-clean-interval",
		"pass-discard-request", "pass-discard-snapshot", "pass-discard-other",
		"discard-no-unref", NULL};
	static const char *const checks[] = {"none", "constant", "cached", "all", NULL};
	uint64_t total = 0;
	int ret, ignored;

	*s = (struct settings){
		L2_CACHE_BYTES, REF_CACHE_BYTES, L2_ENTRY_MIN, false, false};
	if (!opts)
		return 0;
	for (size_t i = 0; accepted[i]; i++)
		opts_take(opts, accepted[i]);
	ret = opts_take_enum(opts, "overlap-check", checks, &ignored, err);
	if (ret == 0)
		ret = opts_take_enum(
			opts, "overlap-check.template", checks, &ignored, err);
	if (ret == 0)
		ret = opts_take_size(opts, "cache-size", &total, err);
	if (ret == 0 && total)
		s->l2_cache = total - MIN(total / 8, s->ref_cache);
	if (ret == 0)
		ret = opts_take_size(opts, "l2-cache-size", &s->l2_cache, err);
	if (ret == 0)
		ret = opts_take_size(opts, "l2-cache-entry-size", &s->l2_entry, err);
	if (ret == 0)
		ret = opts_take_size(opts, "refcount-cache-size", &s->ref_cache, err);
	s->lazy_given = opts_peek(opts, "lazy-refcounts");
	if (ret == 0)
		ret = opts_take_bool(opts, "lazy-refcounts", &s->lazy, err);
	return ret;
}

/* Slices have the size that suits us, but a size that cannot be is refused as by the
 * peer. */
static int check_l2_entry(
	const struct qcow2 *q, const struct settings *s, struct err *err)
{
	if (s->l2_entry >= L2_ENTRY_MIN && s->l2_entry <= q->cluster_bytes &&
		is_pow2(s->l2_entry))
		return 0;
	return err_set(err, EINVAL,
		"L2 cache entry size must be a power of two between %u and the cluster "
		"size (%" PRIu32 "), not %" PRIu64,
		L2_ENTRY_MIN, q->cluster_bytes, s->l2_entry);
}

static int caches_init(struct qcow2 *q, const struct settings *s, struct err *err)
{
	uint32_t slice = MIN(q->cluster_bytes, SLICE_BYTES);
	uint64_t most =
		div_round_up(blk_size(q->b), q->cluster_bytes) * q->l2_entry_bytes;
	/* A small disk fills little of it, and may grow. */
	uint64_t l2 = MIN(s->l2_cache, MAX(most, (uint64_t)L2_CACHE_BYTES));

	q->slice_entries = slice / q->l2_entry_bytes;
	if (qcow2_cache_init(&q->l2_cache, q, QCOW2_K_L2, slice, l2) < 0 ||
		qcow2_cache_init(
			&q->ref_cache, q, QCOW2_K_REFBLOCK, slice, s->ref_cache) < 0)
		return err_set(err, ENOMEM, "no memory for the metadata caches");
	return 0;
}

static void locks_init(struct qcow2 *q)
{
	pthread_mutex_init(&q->inflight_lock, NULL);
	qcow2_epochs_init(&q->epochs);
	qcow2_overlap_init(&q->overlap);
}

static int open_data_file(struct qcow2 *q, struct opts *opts, struct err *err)
{
	struct blk *b = q->b;
	char *path = NULL;
	int ret = 0;

	q->data = q->file;
	if (q->external_data && opts && (b->flags & BLK_O_NO_IO)) {
		opts_free(opts_take_prefix(opts, "data-file."));
		opts_take(opts, "data-file");
	}
	if (!q->external_data || (b->flags & BLK_O_NO_IO))
		return 0;
	if (q->data_file_name)
		/* The node gets its name after this where only options say what it is. */
		ret = blk_resolve_name(b->filename ? b->filename : q->file->filename,
			q->data_file_name, b->flags & BLK_O_NAMES_TRUSTED, &path, err);
	else if (!opts || !opts_has_prefix(opts, "data-file"))
		ret = err_set(err, EINVAL, "'data-file' is required for this image");
	if (ret == 0) {
		q->data = blk_open_child(b, opts, "data-file", path, b->flags, err);
		b->data_file = q->data;
		ret = q->data ? 0 : -EINVAL;
	}
	free(path);
	return ret;
}

/* An image left dirty has counts that may be wrong: they are made right before anything is
 * written. */
static int repair_dirty(struct qcow2 *q, struct err *err)
{
	struct blk_check c = {0};
	int ret = qcow2_check(q->b, &c, BLK_FIX_LEAKS | BLK_FIX_ERRORS, err);

	if (ret < 0)
		return err_prefix(err, "Could not repair dirty image");
	if (c.corruptions || c.check_errors)
		return err_set(err, EIO,
			"Could not repair dirty image: %" PRIu64 " errors are left",
			c.corruptions + c.check_errors);
	log_line(LOG_LEVEL_INFO,
		"%s: repaired after an unclean shutdown: %" PRIu64 " errors, %" PRIu64
		" leaks",
		q->b->filename, c.corruptions_fixed, c.leaks_fixed);
	return 0;
}

static int open_tables(struct qcow2 *q, struct err *err)
{
	unsigned flags = q->b->flags;

	if (flags & (BLK_O_NO_IO | BLK_O_CHECK)) {
		q->overlap.off = true;
		q->fresh_from = round_up(blk_size(q->file), q->cluster_bytes);
		q->reft_entries = 0;
		return 0;
	}
	if ((flags & BLK_O_RDWR) && (q->incompatible & QCOW2_INCOMPAT_CORRUPT))
		return err_set(err, EACCES,
			"qcow2: Image is corrupt; cannot be opened read/write");
	if ((flags & BLK_O_RDWR) && (q->incompatible & QCOW2_INCOMPAT_DIRTY)) {
		q->overlap.off = true;
		return repair_dirty(q, err); /* loads the tables */
	}
	return qcow2_tables_load(q, err);
}

static void set_facts(struct qcow2 *q)
{
	struct blk *b = q->b;

	b->limits.request_align = q->encrypted ? BLK_SECTOR : 1;
	b->limits.optimal = q->cluster_bytes;
	b->limits.discard_align = q->cluster_bytes;
	if (!q->external_data && !q->encrypted)
		b->caps |= BLK_CAP_COMPRESS;
	if (q->data->caps & BLK_CAP_ZERO_INIT || !q->external_data)
		b->caps |= BLK_CAP_ZERO_INIT;
	if (q->version >= 3 && !q->external_raw)
		b->caps |= BLK_CAP_ZERO_UNMAP;
	q->zero_init = q->file->caps & BLK_CAP_ZERO_INIT;
}

int qcow2_open_over(struct blk *b, struct opts *opts, struct err *err)
{
	struct qcow2 *q = b->state;
	struct settings s;
	int ret;

	q->b = b;
	q->file = q->data = b->file;
	locks_init(q);
	ret = take_settings(opts, &s, err);
	if (ret == 0)
		ret = qcow2_header_read(q, err);
	if (ret == 0 && s.lazy && q->version < 3)
		ret = err_set(err, EINVAL,
			"Lazy refcounts require a qcow2 image with at least qemu 1.1 "
			"compatibility level");
	if (ret == 0 && s.lazy_given)
		q->lazy_refcounts = s.lazy;
	/* Counts that were never written are made anew at the end of the file, which a device has not. */
	if (ret == 0 && !(q->file->caps & BLK_CAP_GROW))
		q->lazy_refcounts = false;
	if (ret == 0)
		ret = check_l2_entry(q, &s, err);
	if (ret == 0)
		ret = caches_init(q, &s, err);
	if (ret == 0 && opts)
		ret = qcow2_crypt_open(q, opts, err);
	if (ret == 0)
		ret = open_data_file(q, opts, err);
	if (ret == 0 &&
		!(b->flags &
			BLK_O_CHECK)) /* a check reads them, and says what is wrong */
		ret = qcow2_snapshots_read(q, NULL, err);
	if (ret == 0) {
		set_facts(q);
		ret = open_tables(q, err);
	}
	return ret;
}

void qcow2_release(struct qcow2 *q)
{
	qcow2_crypt_close(q);
	qcow2_snapshots_forget(q);
	tables_free(q);
	qcow2_cache_destroy(&q->l2_cache);
	qcow2_cache_destroy(&q->ref_cache);
	qcow2_overlap_destroy(&q->overlap);
	for (size_t i = 0; i < q->n_exts; i++)
		free(q->exts[i].data);
	free(q->exts);
	free(q->header_tail);
	free(q->data_file_name);
	free(q->freed.v);
	free(q->stable.v);
	free(q->grace.v);
}

static int qcow2_open(struct blk *b, struct opts *opts, struct err *err)
{
	int ret;

	b->file = blk_open_child(b, opts, "file", NULL, b->flags, err);
	if (!b->file)
		return err && err->code ? -err->code : -EIO;
	ret = qcow2_open_over(b, opts, err);
	if (ret < 0)
		qcow2_release(b->state);
	return ret;
}

/* Everything out, and the dirty bit of lazy refcounts off, as the counts are right now. */
int qcow2_settle(struct qcow2 *q)
{
	int ret;

	if (blk_read_only(q->b) || !q->loaded || q->corrupt)
		return 0;
	ret = qcow2_commit_all(q);
	if (ret == 0 && q->write_prepared)
		ret = qcow2_set_dirty(q, false);
	return ret;
}

static int qcow2_close(struct blk *b)
{
	struct qcow2 *q = b->state;
	int ret = qcow2_settle(q);

	qcow2_release(q);
	return ret;
}

static int qcow2_probe(const uint8_t *buf, size_t bytes, const char *filename)
{
	const struct qcow2_header *h = (const void *)buf;

	(void)filename;
	/* A header that is cut off is a broken qcow2 image, not a raw disk. */
	return bytes >= 8 && be32_get(h->magic) == QCOW2_MAGIC &&
			       be32_get(h->version) >= 2
		       ? 100
		       : 0;
}

static void qcow2_traits(
	struct blk *b, uint32_t *cluster_bytes, bool *dirty, bool *encrypted)
{
	struct qcow2 *q = b->state;

	*cluster_bytes = q->cluster_bytes;
	*dirty = q->incompatible & QCOW2_INCOMPAT_DIRTY;
	*encrypted = q->encrypted;
}

static const struct blk_format_ops qcow2_format_ops = {
	.create_opts = qcow2_create_opts,
	.probe = qcow2_probe,
	.create = qcow2_create,
	.measure = qcow2_measure,
	.check = qcow2_check,
	.snapshot_list = qcow2_snapshot_list,
	.snapshot_create = qcow2_snapshot_create,
	.snapshot_apply = qcow2_snapshot_apply,
	.snapshot_delete = qcow2_snapshot_delete,
	.snapshot_load = qcow2_snapshot_load,
	.vm_state_read = qcow2_vm_state_read,
	.vm_state_write = qcow2_vm_state_write,
	.vm_state_of = qcow2_vm_state_of,
	.vm_state_forget = qcow2_vm_state_forget,
	.info = qcow2_info,
	.traits = qcow2_traits,
};

const struct blk_driver blk_qcow2_driver = {
	.name = "qcow2",
	.kind = BLK_FORMAT,
	.state_bytes = sizeof(struct qcow2),
	.open = qcow2_open,
	.close = qcow2_close,
	.preadv = qcow2_preadv,
	.pwritev = qcow2_pwritev,
	.pack = qcow2_pack,
	.write_packed = qcow2_write_packed,
	.packed_free = qcow2_packed_free,
	.flush = qcow2_flush,
	.zero = qcow2_zero,
	.discard = qcow2_discard,
	.extent = qcow2_extent,
	.resize = qcow2_resize,
	.format = &qcow2_format_ops,
};
