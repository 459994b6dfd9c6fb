/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Cluster codecs; the only file that knows the compression libraries.
 *
 * A cluster is one call of a library, from a whole buffer into a whole buffer, on
 * contexts that live as long as the thread: making them anew for each cluster costs
 * zstd a third of its time on clusters of 4 KiB. They are made when first needed and
 * freed when the thread ends. Nothing here is as large as what an image asks for: a zstd
 * frame is decoded straight into the cluster's buffer, so the window that a frame claims
 * is never allocated.
 *
 * Deflate levels. The yardstick is zlib level 6 with a 12-bit window, which is what other
 * writers of compressed clusters use: our output must be no bigger, and then as fast as
 * can be. Measured with libdeflate 1.14 over programs, headers, documents and package
 * lists (size after over size before, and MB/s of one processor):
 *
 *	cluster   zlib 6        level 1       level 2       level 3       level 6
 *	64 KiB    0.497   36    0.491  151    0.480  112    0.478  107    0.467   81
 *	16 KiB    0.500   45    0.507  224    0.501  167    0.499  154    0.490  122
 *	4 KiB     0.523   46    0.532  212    0.528  153    0.527  146    0.521  120
 *	1 KiB     0.610   31    0.614  121    0.612   96    0.612   94    0.609   85
 *
 * Level 1 at 64 KiB is 2 % bigger than zlib on compilers' binaries, though smaller on
 * most else; level 2 was smaller on everything.
 *
 * The window. libdeflate refers back up to 32 KiB, zlib with 12 window bits only 4 KiB.
 * inflateInit2(-12) reads both as long as the whole cluster is inflated by one call into
 * one buffer: inflate copies from what it has already written there and looks into its
 * window only for what an earlier call wrote. The readers of this format do just that;
 * test_codec proves it for every cluster size.
 *
 * zstd level 3 is what the other writers use too: from 64 KiB down each lower level is
 * bigger.
 */
#include "block/codec.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <zlib.h>
#include <zstd.h>
#include <zstd_errors.h>

#ifdef HAVE_LIBDEFLATE
#include <libdeflate.h>
#endif

#include "base/math.h"

#define ZSTD_LEVEL 3

/* One for each thread that ever coded a cluster. */
struct codec_contexts {
#ifdef HAVE_LIBDEFLATE
	struct libdeflate_compressor *deflate[3]; /* by deflate_class */
	struct libdeflate_decompressor *fast_inflate;
#else
	z_stream deflate;
	bool deflate_ready;
#endif
	z_stream inflate;
	bool inflate_ready;
	ZSTD_CCtx *zstd_compress;
	ZSTD_DCtx *zstd_decompress;
};

static pthread_once_t contexts_once = PTHREAD_ONCE_INIT;
static pthread_key_t contexts_key;
static bool contexts_key_made;

static void contexts_free(void *arg)
{
	struct codec_contexts *c = arg;

#ifdef HAVE_LIBDEFLATE
	for (size_t i = 0; i < ARRAY_LEN(c->deflate); i++) {
		if (c->deflate[i])
			libdeflate_free_compressor(c->deflate[i]);
	}
	if (c->fast_inflate)
		libdeflate_free_decompressor(c->fast_inflate);
#else
	if (c->deflate_ready)
		deflateEnd(&c->deflate);
#endif
	if (c->inflate_ready)
		inflateEnd(&c->inflate);
	ZSTD_freeCCtx(c->zstd_compress);
	ZSTD_freeDCtx(c->zstd_decompress);
	free(c);
}

static void contexts_make_key(void)
{
	contexts_key_made = pthread_key_create(&contexts_key, contexts_free) == 0;
}

/* The calling thread's; NULL on lack of memory. */
static struct codec_contexts *contexts_get(void)
{
	struct codec_contexts *c;

	pthread_once(&contexts_once, contexts_make_key);
	if (!contexts_key_made)
		return NULL;
	c = pthread_getspecific(contexts_key);
	if (c)
		return c;
	c = calloc(1, sizeof(*c));
	if (c && pthread_setspecific(contexts_key, c)) {
		free(c);
		return NULL;
	}
	return c;
}

#ifdef HAVE_LIBDEFLATE
static ssize_t deflate_compress(struct codec_contexts *c, void *dst, size_t dst_bytes,
	const void *src, size_t src_bytes)
{
	static const int level[ARRAY_LEN(c->deflate)] = {6, 3, 2};
	int class = src_bytes < 16 * KiB ? 0 : src_bytes < 32 * KiB ? 1 : 2;
	size_t n;

	if (!c->deflate[class])
		c->deflate[class] = libdeflate_alloc_compressor(level[class]);
	if (!c->deflate[class])
		return -EIO;
	n = libdeflate_deflate_compress(
		c->deflate[class], src, src_bytes, dst, dst_bytes);
	return n ? (ssize_t)n : -ENOSPC;
}
#else
static ssize_t deflate_compress(struct codec_contexts *c, void *dst, size_t dst_bytes,
	const void *src, size_t src_bytes)
{
	z_stream *z = &c->deflate;
	int ret;

	if (!c->deflate_ready) {
		if (deflateInit2(z, Z_DEFAULT_COMPRESSION, Z_DEFLATED, -12, 9,
			    Z_DEFAULT_STRATEGY) != Z_OK)
			return -EIO;
		c->deflate_ready = true;
	} else if (deflateReset(z) != Z_OK) {
		return -EIO;
	}
	z->next_in = (z_const Bytef *)src;
	z->avail_in = (uInt)src_bytes;
	z->next_out = dst;
	z->avail_out = (uInt)dst_bytes;
	ret = deflate(z, Z_FINISH);
	if (ret == Z_STREAM_END)
		return (ssize_t)(dst_bytes - z->avail_out);
	return ret == Z_OK || ret == Z_BUF_ERROR ? -ENOSPC : -EIO;
}
#endif

/* Takes whatever fills dst, a stream that has not ended there as well: so do others,
 * hence images that need it may exist. 15 window bits read what 12 do. */
static int zlib_inflate(struct codec_contexts *c, void *dst, size_t dst_bytes,
	const void *src, size_t src_bytes)
{
	z_stream *z = &c->inflate;
	int ret;

	if (!c->inflate_ready) {
		if (inflateInit2(z, -15) != Z_OK)
			return -EIO;
		c->inflate_ready = true;
	} else if (inflateReset(z) != Z_OK) {
		return -EIO;
	}
	z->next_in = (z_const Bytef *)src;
	z->avail_in = (uInt)src_bytes;
	z->next_out = dst;
	z->avail_out = (uInt)dst_bytes;
	ret = inflate(z, Z_FINISH);
	if (ret != Z_STREAM_END && ret != Z_OK && ret != Z_BUF_ERROR)
		return -EIO;
	return z->avail_out ? -EIO : 0;
}

/* libdeflate reads good streams, and zlib decides about the rest. */
static int deflate_decompress(struct codec_contexts *c, void *dst, size_t dst_bytes,
	const void *src, size_t src_bytes)
{
#ifdef HAVE_LIBDEFLATE
	if (!c->fast_inflate)
		c->fast_inflate = libdeflate_alloc_decompressor();
	if (c->fast_inflate &&
		libdeflate_deflate_decompress_ex(c->fast_inflate, src, src_bytes, dst,
			dst_bytes, NULL, NULL) == LIBDEFLATE_SUCCESS)
		return 0;
#endif
	return zlib_inflate(c, dst, dst_bytes, src, src_bytes);
}

static ssize_t zstd_compress(struct codec_contexts *c, void *dst, size_t dst_bytes,
	const void *src, size_t src_bytes)
{
	size_t n;

	if (!c->zstd_compress) {
		ZSTD_CCtx *cctx = ZSTD_createCCtx();

		if (!cctx)
			return -EIO;
		n = ZSTD_CCtx_setParameter(cctx, ZSTD_c_compressionLevel, ZSTD_LEVEL);
		if (ZSTD_isError(n)) {
			ZSTD_freeCCtx(cctx);
			return -EIO;
		}
		c->zstd_compress = cctx;
	}
	n = ZSTD_compress2(c->zstd_compress, dst, dst_bytes, src, src_bytes);
	if (!ZSTD_isError(n))
		return (ssize_t)n;
	return ZSTD_getErrorCode(n) == ZSTD_error_dstSize_tooSmall ? -ENOSPC : -EIO;
}

/* The frame's end is found first by walking its block headers, and the decoder gets no
 * byte more: garbage after it would be a second frame to the library. */
static int zstd_decompress(struct codec_contexts *c, void *dst, size_t dst_bytes,
	const void *src, size_t src_bytes)
{
	size_t n = ZSTD_findFrameCompressedSize(src, src_bytes);

	if (ZSTD_isError(n))
		return -EIO;
	if (!c->zstd_decompress)
		c->zstd_decompress = ZSTD_createDCtx();
	if (!c->zstd_decompress)
		return -EIO;
	return ZSTD_decompressDCtx(c->zstd_decompress, dst, dst_bytes, src, n) ==
			       dst_bytes
		       ? 0
		       : -EIO;
}

ssize_t codec_compress(
	enum codec codec, void *dst, size_t dst_bytes, const void *src, size_t src_bytes)
{
	struct codec_contexts *c = contexts_get();

	assert(src_bytes > 0 && src_bytes <= UINT_MAX && dst_bytes <= UINT_MAX);
	if (!c)
		return -EIO;
	if (!dst_bytes)
		return -ENOSPC;
	return codec == CODEC_ZSTD ? zstd_compress(c, dst, dst_bytes, src, src_bytes)
				   : deflate_compress(c, dst, dst_bytes, src, src_bytes);
}

int codec_decompress(
	enum codec codec, void *dst, size_t dst_bytes, const void *src, size_t src_bytes)
{
	struct codec_contexts *c = contexts_get();

	assert(dst_bytes > 0 && src_bytes <= UINT_MAX && dst_bytes <= UINT_MAX);
	if (!c)
		return -EIO;
	return codec == CODEC_ZSTD
		       ? zstd_decompress(c, dst, dst_bytes, src, src_bytes)
		       : deflate_decompress(c, dst, dst_bytes, src, src_bytes);
}
