/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Fuzz target: any bytes as an image. The first byte says how to open it and what to do
 * with it, the rest is the file.
 *
 * Whatever the file holds: no crash, no hang, bounded memory (the driver's limits see to
 * those two), and what fails says why.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/iov.h"
#include "base/json.h"
#include "base/math.h"
#include "block/blk.h"
#include "block/format.h"

#define CHUNK_BYTES (64 * KiB)
#define WALK_MAX    256

enum {
	MODE_FORMAT = 3, /* which one, see formats[] */
	MODE_WRITE = 1 << 2,
	MODE_REPAIR = 1 << 3,
};

static const char *const formats[] = {NULL, "qcow2", "raw", "luks"};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static struct blk *open_image(const char *name, uint8_t mode, unsigned flags)
{
	struct err err = ERR_INIT;
	struct blk *b = blk_open_format(
		name, formats[mode & MODE_FORMAT], flags | BLK_O_NO_BACKING, &err);

	if (!b && !err.msg[0])
		abort(); /* refused without a word */
	return b;
}

/* How large the disk is decides nothing here: a header may claim any size. */
static void walk_extents(struct blk *b)
{
	uint64_t offset = 0, size = blk_size(b);
	struct blk_extent e;

	for (unsigned i = 0; i < WALK_MAX && offset < size; i++) {
		if (blk_extent(b, offset, size - offset, &e) < 0)
			return;
		if (e.bytes == 0 || e.bytes > size - offset)
			abort();
		offset += e.bytes;
	}
}

static void read_parts(struct blk *b, void *buf)
{
	uint64_t size = blk_size(b), bytes = MIN(size, (uint64_t)CHUNK_BYTES);

	if (!bytes)
		return;
	blk_pread(b, 0, buf, bytes);
	blk_pread(b, round_down((size - bytes) / 2, BLK_SECTOR), buf, bytes);
	blk_pread(b, size - bytes, buf, bytes);
}

static void list_snapshots(struct blk *b)
{
	struct blk_snapshot *list = NULL;
	struct err err = ERR_INIT;
	size_t n = 0;

	if (blk_snapshot_list(b, &list, &n, &err) < 0)
		return;
	blk_snapshots_free(list, n);
}

static void look(struct blk *b, void *buf)
{
	uint32_t cluster_bytes;
	bool dirty, encrypted;

	json_free(blk_format_info(b));
	blk_traits(b, &cluster_bytes, &dirty, &encrypted);
	list_snapshots(b);
	walk_extents(b);
	read_parts(b, buf);
}

static void change(struct blk *b, void *buf)
{
	struct err err = ERR_INIT;
	uint64_t size = blk_size(b), bytes = MIN(size, (uint64_t)CHUNK_BYTES);
	uint64_t middle = round_down((size - bytes) / 2, BLK_SECTOR);
	bool changed;

	if (!bytes || blk_read_only(b))
		return;
	memset(buf, 0xa5, CHUNK_BYTES);
	blk_pwrite(b, middle, buf, bytes, 0);
	blk_zero(b, 0, bytes, BLK_MAY_UNMAP | BLK_NO_FALLBACK);
	blk_discard(b, size - bytes, bytes);
	blk_flush(b);
	blk_snapshot_create(b, "fuzz", &err);
	blk_pwrite(b, 0, buf, MIN(bytes, (uint64_t)BLK_SECTOR), 0);
	blk_snapshot_apply(b, "fuzz", &changed, &err);
	blk_snapshot_delete(b, "fuzz", &err);
}

static void check(const char *name, uint8_t mode)
{
	unsigned fix = mode & MODE_REPAIR ? BLK_FIX_LEAKS | BLK_FIX_ERRORS : 0;
	struct blk *b = open_image(name, mode, BLK_O_CHECK | (fix ? BLK_O_RDWR : 0));
	struct blk_check result = {0};
	struct err err = ERR_INIT;

	if (!b)
		return;
	if (blk_check(b, &result, fix, &err) < 0 && !err.msg[0])
		abort();
	blk_close(b);
}

static void use_image(const char *name, uint8_t mode, void *buf)
{
	struct blk *b = open_image(name, mode, mode & MODE_WRITE ? BLK_O_RDWR : 0);

	if (b) {
		look(b, buf);
		if (mode & MODE_WRITE)
			change(b, buf);
		blk_close(b);
	}
	check(name, mode);
	b = open_image(name, mode, BLK_O_NO_IO);
	if (b) {
		json_free(blk_format_info(b));
		blk_close(b);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	char name[64];
	void *buf;
	int fd;

	if (bytes < 1)
		return 0;
	fd = memfd_create("image", MFD_CLOEXEC);
	buf = buf_alloc(CHUNK_BYTES);
	if (fd < 0 || !buf)
		abort();
	if (write(fd, data + 1, bytes - 1) != (ssize_t)(bytes - 1))
		abort();
	snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
	use_image(name, data[0], buf);
	buf_free(buf);
	close(fd);
	return 0;
}
