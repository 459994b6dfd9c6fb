/* SPDX-License-Identifier: BSD-2-Clause */
/* See disk.h. */
#include "tests/engine/disk.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/iov.h"
#include "base/math.h"
#include "block/format.h"

#define PIECE MiB

int disk_init(struct disk *d, uint64_t bytes, uint64_t max_bytes, struct err *err)
{
	memset(d, 0, sizeof(*d));
	d->data = calloc(1, max_bytes);
	if (!d->data)
		return err_set(err, ENOMEM, "out of memory");
	d->bytes = bytes;
	d->max_bytes = max_bytes;
	return 0;
}

void disk_free(struct disk *d)
{
	while (d->n_snaps)
		disk_snapshot_remove(d, d->n_snaps - 1);
	free(d->data);
	memset(d, 0, sizeof(*d));
}

int disk_snapshot_add(struct disk *d, const char *name, struct err *err)
{
	struct disk_snapshot *s = &d->snaps[d->n_snaps];

	if (d->n_snaps == DISK_MAX_SNAPSHOTS)
		return err_set(err, ENOSPC, "no room for a snapshot in the model");
	s->data = malloc(d->bytes);
	if (!s->data)
		return err_set(err, ENOMEM, "out of memory");
	memcpy(s->data, d->data, d->bytes);
	s->bytes = d->bytes;
	snprintf(s->name, sizeof(s->name), "%s", name);
	d->n_snaps++;
	return 0;
}

void disk_snapshot_remove(struct disk *d, unsigned i)
{
	free(d->snaps[i].data);
	d->n_snaps--;
	memmove(&d->snaps[i], &d->snaps[i + 1], (d->n_snaps - i) * sizeof(d->snaps[0]));
}

void disk_snapshot_apply(struct disk *d, unsigned i)
{
	disk_resize(d, d->snaps[i].bytes);
	memcpy(d->data, d->snaps[i].data, d->snaps[i].bytes);
}

void disk_resize(struct disk *d, uint64_t bytes)
{
	if (bytes > d->bytes)
		memset(d->data + d->bytes, 0, bytes - d->bytes);
	d->bytes = bytes;
}

int disk_compare(struct blk *b, const uint8_t *data, uint64_t bytes, struct err *err)
{
	uint8_t *buf = buf_alloc(PIECE);
	int ret = buf ? 0 : err_set(err, ENOMEM, "out of memory");

	if (!ret && blk_size(b) != bytes)
		ret = err_set(err, EIO, "size is %" PRIu64 ", should be %" PRIu64,
			blk_size(b), bytes);
	for (uint64_t pos = 0; !ret && pos < bytes; pos += PIECE) {
		size_t n = MIN(bytes - pos, PIECE), i = 0;

		ret = blk_pread(b, pos, buf, n);
		if (ret) {
			err_errno(err, -ret, "reading %zu bytes at 0x%" PRIx64, n, pos);
			break;
		}
		if (!memcmp(buf, data + pos, n))
			continue;
		while (buf[i] == data[pos + i])
			i++;
		ret = err_set(err, EIO,
			"byte 0x%" PRIx64 " reads as 0x%02x, should be 0x%02x", pos + i,
			buf[i], data[pos + i]);
	}
	buf_free(buf);
	return ret;
}

int disk_check_extents(
	struct blk *b, const uint8_t *data, uint64_t bytes, struct err *err)
{
	for (uint64_t pos = 0; pos < bytes;) {
		struct blk_extent e;
		int ret = blk_extent_above(b, NULL, pos, bytes - pos, &e);

		if (ret)
			return err_errno(err, -ret, "extent at 0x%" PRIx64, pos);
		if (e.offset != pos || !e.bytes || e.bytes > bytes - pos)
			return err_set(err, EIO,
				"extent at 0x%" PRIx64 " claims 0x%" PRIx64 "+0x%" PRIx64,
				pos, e.offset, e.bytes);
		if ((e.flags & BLK_EXT_ZERO) && !buf_is_zero(data + pos, e.bytes))
			return err_set(err, EIO,
				"extent 0x%" PRIx64 "+0x%" PRIx64
				" is called zero and is not",
				pos, e.bytes);
		if (!(e.flags & (BLK_EXT_ZERO | BLK_EXT_DATA)) &&
			!buf_is_zero(data + pos, e.bytes))
			return err_set(err, EIO,
				"extent 0x%" PRIx64 "+0x%" PRIx64
				" has data and denies it",
				pos, e.bytes);
		pos += e.bytes;
	}
	return 0;
}

struct findings {
	uint64_t flags;  /* lines about a copied flag */
	char first[256]; /* other line than that */
};

static void keep(void *arg, bool error, const char *line)
{
	struct findings *f = arg;

	if (error && strstr(line, "OFLAG_COPIED"))
		f->flags++;
	else if (error && !f->first[0])
		snprintf(f->first, sizeof(f->first), "%s", line);
}

int disk_check(struct blk *b, enum disk_tolerance tolerated, struct err *err)
{
	struct findings f = {0, ""};
	struct blk_check c = {.report = keep, .arg = &f};
	int ret = blk_check(b, &c, 0, err);
	uint64_t flags = tolerated == DISK_FLAGS ? f.flags : 0;

	if (ret == -ENOTSUP)
		return 0;
	if (ret)
		return err_prefix(err, "check");
	if (c.corruptions <= flags && !c.check_errors &&
		(tolerated != DISK_CLEAN || !c.leaks))
		return 0;
	return err_set(err, EIO,
		"check found %" PRIu64 " corruptions (%" PRIu64
		" of copied flags), %" PRIu64 " leaks, %" PRIu64 " errors: %s",
		c.corruptions, f.flags, c.leaks, c.check_errors, f.first);
}
