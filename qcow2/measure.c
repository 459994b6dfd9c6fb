/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * How large a file an image needs: when every guest cluster is in use, and with just the data
 * of a source. The metadata is the same for both, as tables for the whole disk are counted:
 * the header, L2 tables, L1, the LUKS header, bitmaps (told apart), and the refcount
 * structure, which also counts itself.
 */
#include "qcow2/params.h"

/* Clusters of refcount blocks and their table for n others; they count themselves. */
static uint64_t refcount_clusters(uint64_t n, uint64_t cluster, unsigned bits)
{
	uint64_t per_block = cluster * 8 / bits, blocks = 0, table = 0, all = 0;

	do {
		all = blocks + table;
		blocks = div_round_up(n + all, per_block);
		table = div_round_up(blocks * sizeof(be64), cluster);
	} while (blocks + table != all);
	return all;
}

static int too_large(struct err *err)
{
	return err_set(err, EFBIG,
		"The image size is too large (try using a larger cluster size)");
}

static int metadata_clusters(
	const struct qcow2_params *p, uint64_t data, uint64_t *out, struct err *err)
{
	uint64_t cs = p->cluster_size, entry = p->extl2 ? 16 : 8;
	uint64_t l2 = div_round_up(data * entry, cs),
		 l1 = div_round_up(l2 * sizeof(be64), cs);
	uint64_t n = 1 + l2 + l1;

	if (l2 * sizeof(be64) > QCOW2_MAX_L1_BYTES)
		return too_large(err);
	n += refcount_clusters(n + data, cs, (unsigned)p->refcount_bits);
	/* As qemu-img has it: the counts of the LUKS header's own clusters are left out. */
	if (p->luks)
		n += div_round_up(luks_header_bytes(&p->luks_params), cs);
	*out = n;
	return 0;
}

/* Guest clusters that the source has something in. */
static int source_clusters(struct blk *src, uint64_t cs, uint64_t *out, struct err *err)
{
	uint64_t size = blk_size(src), at = 0, n = 0;

	while (at < size) {
		const unsigned data = BLK_EXT_DATA | BLK_EXT_ALLOCATED;
		struct blk_extent e;
		int ret = blk_extent_above(src, NULL, at, size - at, &e);

		if (ret)
			return err_errno(err, -ret,
				"%s: Unable to get block status at offset %" PRIu64,
				blk_filename(src), at);
		if ((e.flags & BLK_EXT_ZERO) || (e.flags & data) != data) {
			at += e.bytes;
			continue;
		}
		/* The first cluster may have been begun by an extent that was skipped. */
		n += (round_up(at + e.bytes, cs) - round_down(at, cs)) / cs;
		at = round_up(at + e.bytes, cs);
	}
	*out = n;
	return 0;
}

int qcow2_measure(
	struct opts *opts, struct blk *src, struct blk_measure *out, struct err *err)
{
	struct qcow2_params p;
	uint64_t data, used = 0, metadata = 0;
	int ret = qcow2_params_take(opts, &p, err);

	if (!ret)
		ret = qcow2_params_check(&p, err);
	if (!ret)
		ret = opts_check_unused(opts, err);
	if (ret == -EFBIG)
		too_large(err);
	if (ret)
		goto out;
	data = div_round_up(p.size, p.cluster_size);
	ret = metadata_clusters(&p, data, &metadata, err);
	if (ret)
		goto out;
	/* With a backing file nobody knows what it shares with the source: the worst case. */
	if (p.prealloc >= BLK_PREALLOC_FALLOC || (src && p.backing))
		used = data;
	else if (src)
		ret = source_clusters(src, p.cluster_size, &used, err);
	if (ret)
		goto out;
	out->required = (metadata + used) * p.cluster_size;
	out->fully_allocated = (metadata + data) * p.cluster_size;
	out->has_bitmaps = src && p.version >= 3 &&
			   qcow2_bitmaps_measure(src, p.cluster_size, &out->bitmaps);
out:
	qcow2_params_free(&p);
	return ret;
}
