/* SPDX-License-Identifier: BSD-2-Clause */
/* A request's memory, and the requests themselves cut into what the block layer takes. */
#include "tools/io.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/iov.h"
#include "base/math.h"
#include "block/format.h"

/* -m: how far off a page's start. */
#define MISALIGN 16u
/* Reads are filled with this first, so that bytes nobody wrote are told from zeros. */
#define READ_FILL 0xab

bool io_buffer_new(struct io_buffer *buf, const struct io *io, const uint64_t *lengths,
	int n, int fill)
{
	uint64_t sum = 0;
	size_t pos = 0;

	memset(buf, 0, sizeof(*buf));
	for (int i = 0; i < n; i++) {
		sum += lengths[i];
		if (sum > IO_MAX_BYTES) {
			printf("The total number of bytes exceed the maximum size "
			       "%" PRIu64 "\n",
				(uint64_t)IO_MAX_BYTES);
			return false;
		}
	}
	buf->bytes = sum;
	buf->alloc = buf_alloc(sum + MISALIGN + 1);
	buf->iov = calloc((size_t)n + 1, sizeof(*buf->iov));
	if (!buf->alloc || !buf->iov) {
		printf("no memory for %" PRIu64 " bytes\n", sum);
		io_buffer_free(buf);
		return false;
	}
	buf->data = (uint8_t *)buf->alloc + (io->misalign ? MISALIGN : 0);
	memset(buf->data, fill < 0 ? READ_FILL : fill, sum);
	for (int i = 0; i < n; i++) {
		if (!lengths[i])
			continue;
		buf->iov[buf->niov].iov_base = buf->data + pos;
		buf->iov[buf->niov++].iov_len = lengths[i];
		pos += lengths[i];
	}
	return true;
}

void io_buffer_free(struct io_buffer *buf)
{
	buf_free(buf->alloc);
	free(buf->iov);
	memset(buf, 0, sizeof(*buf));
}

bool io_buffer_parse(
	struct io_buffer *buf, const struct io *io, int n, char **words, int fill)
{
	uint64_t *lengths = calloc((size_t)n + 1, sizeof(*lengths));
	bool ok = lengths != NULL;

	for (int i = 0; ok && i < n; i++) {
		ok = io_parse_size(words[i], &lengths[i]);
		if (ok && lengths[i] > IO_MAX_BYTES) {
			printf("Argument '%s' exceeds maximum size %" PRIu64 "\n",
				words[i], (uint64_t)IO_MAX_BYTES);
			ok = false;
		}
	}
	ok = ok && io_buffer_new(buf, io, lengths, n, fill);
	free(lengths);
	return ok;
}

int io_buffer_from_file(struct io_buffer *buf, const char *path)
{
	FILE *f = fopen(path, "re");
	size_t have = 0;
	int ret = 0;

	if (!f) {
		ret = -errno;
		fprintf(stderr, "%s: %s\n", path, strerror(errno));
		return ret;
	}
	errno = 0;
	have = fread(buf->data, 1, buf->bytes, f);
	if (ferror(f)) {
		ret = errno ? -errno : -EIO;
		fprintf(stderr, "%s: %s\n", path, strerror(-ret));
	} else if (!have) {
		ret = -EINVAL;
		fprintf(stderr, "%s: file is empty\n", path);
	}
	for (size_t pos = have; !ret && pos < buf->bytes; pos++)
		buf->data[pos] = buf->data[pos - have];
	fclose(f);
	return ret;
}

bool io_verify(const uint8_t *data, size_t bytes, int pattern, uint64_t offset)
{
	for (size_t i = 0; i < bytes; i++) {
		if (data[i] == pattern)
			continue;
		printf("Pattern verification failed at offset %" PRIu64 ", %zu bytes\n",
			offset, bytes);
		return false;
	}
	return true;
}

int io_check_range(struct io *io, uint64_t offset, uint64_t bytes)
{
	return range_inside(offset, bytes, blk_size(io->b)) ? 0 : -EIO;
}

int io_vm_state(struct io *io, uint64_t offset, struct io_buffer *buf, bool write)
{
	if (!buf->bytes)
		return 0;
	return write ? blk_vm_state_write(io->b, offset, buf->iov, buf->niov)
		     : blk_vm_state_read(io->b, offset, buf->iov, buf->niov);
}

/* Runs one transfer in pieces of at most BLK_MAX_REQUEST. */
static int transfer(
	struct io *io, uint64_t offset, struct io_buffer *buf, bool write, unsigned flags)
{
	struct iovec *part = calloc((size_t)buf->niov + 1, sizeof(*part));
	int ret = io_check_range(io, offset, buf->bytes);

	if (!part)
		return -ENOMEM;
	for (size_t pos = 0; !ret && pos < buf->bytes;) {
		size_t n = MIN(buf->bytes - pos, (size_t)BLK_MAX_REQUEST);
		int niov = iov_slice(part, buf->iov, buf->niov, pos, n);

		if (write)
			ret = blk_pwritev(io->b, offset + pos, part, niov, flags);
		else
			ret = blk_preadv(io->b, offset + pos, part, niov, 0);
		pos += n;
	}
	free(part);
	return ret;
}

/* -C: what a backing file gave is written into the image. Whole clusters are not asked
 * for: the image copies the rest of a cluster up by itself. */
static int copy_up(struct io *io, uint64_t offset, struct io_buffer *buf)
{
	for (size_t pos = 0; pos < buf->bytes;) {
		struct blk_extent e;
		int ret = blk_extent(io->b, offset + pos, buf->bytes - pos, &e);

		if (!ret && !(e.flags & BLK_EXT_ALLOCATED))
			ret = blk_pwrite(
				io->b, offset + pos, buf->data + pos, e.bytes, 0);
		if (ret)
			return ret;
		pos += e.bytes;
	}
	return 0;
}

int io_read(struct io *io, uint64_t offset, struct io_buffer *buf)
{
	int ret = transfer(io, offset, buf, false, 0);

	if (!ret && io->source.copy_on_read)
		ret = copy_up(io, offset, buf);
	return ret;
}

int io_write(struct io *io, uint64_t offset, struct io_buffer *buf, unsigned flags)
{
	return transfer(io, offset, buf, true, flags);
}

int io_zero(struct io *io, uint64_t offset, uint64_t bytes, unsigned flags)
{
	int ret = io_check_range(io, offset, bytes);

	for (uint64_t pos = 0; !ret && pos < bytes;) {
		uint64_t n = MIN(bytes - pos, (uint64_t)BLK_MAX_REQUEST);

		ret = blk_zero(io->b, offset + pos, n, flags);
		pos += n;
	}
	return ret;
}
