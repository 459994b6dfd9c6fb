/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Cluster codecs: raw deflate (RFC 1951; zlib's inflate with a 12-bit window reads it when
 * one call inflates all of it into one buffer, see codec.c) and one zstd frame (RFC 8878).
 * Contexts are kept per thread. CPU work runs on the calling thread: callers send it to the
 * worker pool. Buffers are at most 4 GiB - 1.
 */
#ifndef BYRE_BLOCK_CODEC_H
#define BYRE_BLOCK_CODEC_H

#include <stddef.h>
#include <sys/types.h>

enum codec { CODEC_ZLIB, CODEC_ZSTD };

/* Bytes written to dst, or -ENOSPC where it would not fit in dst_bytes (the caller stores
 * the cluster plain), -EIO on a fault of the library. */
ssize_t codec_compress(enum codec codec, void *dst, size_t dst_bytes, const void *src,
	size_t src_bytes);
/* Fills exactly dst_bytes from a stream at the start of src; what follows it in src is
 * ignored (the length in an L2 entry is in sectors). -EIO for a bad or short stream. Never
 * writes past dst_bytes. */
int codec_decompress(enum codec codec, void *dst, size_t dst_bytes, const void *src,
	size_t src_bytes);

#endif
