/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Probing: what a file is by its first bytes. Every format says how sure it is; the most
 * sure one wins. raw, which anything is, says BLK_PROBE_ANY, so a disk whose guest writes
 * the right bytes at its start can pass for another format: io.c guards against that.
 */
#include "block/gate.h"

#include "base/iov.h"
#include "base/math.h"
#include "block/format.h"

const struct blk_driver *blk_probe_head(
	const uint8_t *buf, size_t bytes, const char *filename, int *score)
{
	const struct blk_driver *best = NULL;

	*score = 0;
	for (size_t i = 0; blk_drivers[i]; i++) {
		const struct blk_format_ops *ops = blk_drivers[i]->format;
		int n = ops && ops->probe ? ops->probe(buf, bytes, filename) : 0;

		if (n > *score) {
			best = blk_drivers[i];
			*score = n;
		}
	}
	return best;
}

int blk_probe_node(
	struct blk *file, const struct blk_driver **out, int *score, struct err *err)
{
	size_t bytes = MIN(blk_size(file), (uint64_t)BLK_PROBE_BYTES);
	uint8_t *buf = buf_alloc(BLK_PROBE_BYTES);
	int ret = buf ? 0 : -ENOMEM;

	if (!ret && bytes)
		ret = blk_pread(file, 0, buf, bytes);
	if (ret) {
		buf_free(buf);
		return err_errno(
			err, -ret, "Could not read image for determining its format");
	}
	*out = blk_probe_head(buf, bytes, blk_filename(file), score);
	buf_free(buf);
	if (!*out)
		return err_set(err, ENOTSUP,
			"Could not determine image format: No compatible "
			"driver found");
	return 0;
}

const char *blk_probe(struct blk *file, struct err *err)
{
	const struct blk_driver *drv;
	int score;

	return blk_probe_node(file, &drv, &score, err) ? NULL : drv->name;
}
