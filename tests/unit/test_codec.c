/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Codecs: what is compressed comes back, foreign readers take it, foreign streams are
 * read, and no stream, however broken, writes outside the cluster's buffer.
 */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#include "base/math.h"
#include "block/codec.h"

#define GUARD      64
#define GUARD_BYTE 0xa5

static const size_t cluster_sizes[] = {
	512, 1024, 4096, 8192, 16384, 32768, 65536, 2 * MiB};
static const enum codec codecs[] = {CODEC_ZLIB, CODEC_ZSTD};

enum content { ZEROS, TEXT, FAR_MATCHES, CONTENTS };

static uint32_t next_random(uint32_t *state)
{
	*state = *state * 1664525 + 1013904223;
	return *state >> 8;
}

/* FAR_MATCHES repeats random runs from up to the whole buffer behind: the distances that
 * a 12-bit window cannot hold. */
static void fill(uint8_t *buf, size_t bytes, enum content content, uint32_t seed)
{
	uint32_t state = seed;
	size_t pos = 0;

	if (content == ZEROS) {
		memset(buf, 0, bytes);
		return;
	}
	while (pos < bytes) {
		size_t run = MIN(4 + next_random(&state) % 60, bytes - pos);
		size_t back = next_random(&state) % 40000;

		if (content == FAR_MATCHES && next_random(&state) % 3 && back >= run &&
			back <= pos)
			memcpy(buf + pos, buf + pos - back, run);
		else if (content == FAR_MATCHES)
			for (size_t i = 0; i < run; i++)
				buf[pos + i] = next_random(&state);
		else
			for (size_t i = 0; i < run; i++)
				buf[pos + i] =
					"etaoin shrdlu\n<>"[next_random(&state) &
							    next_random(&state) & 15];
		pos += run;
	}
}

/* A buffer that notices a byte written past its end. */
static uint8_t *guarded_new(size_t bytes)
{
	uint8_t *p = malloc(bytes + GUARD);

	assert_non_null(p);
	memset(p, GUARD_BYTE, bytes + GUARD);
	return p;
}

static void guarded_check(const uint8_t *p, size_t bytes)
{
	for (size_t i = 0; i < GUARD; i++)
		assert_int_equal(p[bytes + i], GUARD_BYTE);
}

static int zlib12_inflate(
	uint8_t *dst, size_t dst_bytes, const uint8_t *src, size_t src_bytes)
{
	z_stream z = {0};
	int ret;

	assert_int_equal(inflateInit2(&z, -12), Z_OK);
	z.next_in = (z_const Bytef *)src;
	z.avail_in = (uInt)src_bytes;
	z.next_out = dst;
	z.avail_out = (uInt)dst_bytes;
	ret = inflate(&z, Z_FINISH);
	if (ret == Z_STREAM_END && z.avail_out)
		ret = Z_BUF_ERROR;
	inflateEnd(&z);
	return ret;
}

static size_t zlib12_deflate(
	uint8_t *dst, size_t dst_bytes, const uint8_t *src, size_t src_bytes)
{
	z_stream z = {0};
	size_t n;

	assert_int_equal(deflateInit2(&z, Z_DEFAULT_COMPRESSION, Z_DEFLATED, -12, 9,
				 Z_DEFAULT_STRATEGY),
		Z_OK);
	z.next_in = (z_const Bytef *)src;
	z.avail_in = (uInt)src_bytes;
	z.next_out = dst;
	z.avail_out = (uInt)dst_bytes;
	assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
	n = z.total_out;
	deflateEnd(&z);
	return n;
}

/* Compresses, appends garbage up to a sector as in a host cluster, and reads it back here
 * and by the foreign reader. */
static void check_round_trip(enum codec codec, enum content content, size_t bytes)
{
	uint8_t *plain = malloc(bytes), *packed = guarded_new(bytes + 512),
		*back = guarded_new(bytes);
	ssize_t n;

	fill(plain, bytes, content, (uint32_t)bytes + content);
	n = codec_compress(codec, packed, bytes, plain, bytes);
	assert_true(n > 0 && (size_t)n <= bytes);

	assert_int_equal(
		codec_decompress(codec, back, bytes, packed, (size_t)n + 512), 0);
	assert_memory_equal(plain, back, bytes);
	guarded_check(back, bytes);

	memset(back, 0, bytes);
	if (codec == CODEC_ZLIB)
		assert_int_equal(
			zlib12_inflate(back, bytes, packed, (size_t)n), Z_STREAM_END);
	else
		assert_int_equal(ZSTD_decompress(back, bytes, packed, (size_t)n), bytes);
	assert_memory_equal(plain, back, bytes);
	free(plain);
	free(packed);
	free(back);
}

static void what_is_packed_comes_back_here_and_elsewhere(void **unused)
{
	(void)unused;
	for (size_t i = 0; i < ARRAY_LEN(codecs); i++)
		for (size_t j = 0; j < ARRAY_LEN(cluster_sizes); j++)
			for (int content = 0; content < CONTENTS; content++) {
				/* Too little repeats in a small cluster of noise. */
				if (content == FAR_MATCHES && cluster_sizes[j] < 65536)
					continue;
				check_round_trip(codecs[i], content, cluster_sizes[j]);
			}
}

static void noise_does_not_fit_and_stays_inside(void **unused)
{
	uint8_t *plain = malloc(65536), *packed = guarded_new(65536);
	uint32_t state = 7;

	(void)unused;
	for (size_t i = 0; i < 65536; i++)
		plain[i] = next_random(&state);
	for (size_t i = 0; i < ARRAY_LEN(codecs); i++) {
		assert_int_equal(
			codec_compress(codecs[i], packed, 65535, plain, 65536), -ENOSPC);
		assert_int_equal(
			codec_compress(codecs[i], packed, 0, plain, 65536), -ENOSPC);
		guarded_check(packed, 65536);
	}
	free(plain);
	free(packed);
}

/* Whatever room is given: it fits and reads back, or it is -ENOSPC, and then a context
 * that failed works again. */
static void any_room_is_kept_to(void **unused)
{
	uint8_t plain[4096], back[4096];

	(void)unused;
	fill(plain, sizeof(plain), TEXT, 3);
	for (size_t i = 0; i < ARRAY_LEN(codecs); i++) {
		ssize_t fits = codec_compress(codecs[i], back, sizeof(back), plain, 4096);
		bool fitted = false;

		assert_true(fits > 0);
		for (size_t room = 1; room < (size_t)fits + 64; room++) {
			uint8_t *packed = guarded_new(room);
			ssize_t n = codec_compress(codecs[i], packed, room, plain, 4096);

			guarded_check(packed, room);
			if (n != -ENOSPC) {
				assert_true(n > 0 && (size_t)n <= room);
				assert_int_equal(codec_decompress(codecs[i], back, 4096,
							 packed, (size_t)n),
					0);
				assert_memory_equal(plain, back, 4096);
				fitted = true;
			}
			free(packed);
		}
		assert_true(fitted);
	}
}

static void output_is_no_bigger_than_zlib_level_6(void **unused)
{
	(void)unused;
	for (size_t j = 0; j < ARRAY_LEN(cluster_sizes); j++) {
		size_t bytes = cluster_sizes[j];
		uint8_t *plain = malloc(bytes), *packed = malloc(bytes);
		ssize_t n;

		/* Repeats of runs within the 4 KiB that both can see, in text. */
		fill(plain, bytes, TEXT, 5);
		for (size_t pos = 1024; pos + 96 <= bytes; pos += 160)
			memcpy(plain + pos, plain + pos - 900, 96);
		n = codec_compress(CODEC_ZLIB, packed, bytes, plain, bytes);
		assert_true(n > 0);
		/* Single small clusters differ by a few bytes either way. */
		assert_in_range(n, 1,
			zlib12_deflate(packed, bytes, plain, bytes) * 101 / 100 + 4);
		free(plain);
		free(packed);
	}
}

static void streams_of_zlib_with_a_small_window_are_read(void **unused)
{
	uint8_t *plain = malloc(65536), *packed = malloc(70000), *back = malloc(65536);

	(void)unused;
	for (int content = 0; content < CONTENTS; content++) {
		size_t n;

		fill(plain, 65536, content, 11);
		n = zlib12_deflate(packed, 70000, plain, 65536);
		memset(packed + n, 0xff, 70000 - n);
		assert_int_equal(
			codec_decompress(CODEC_ZLIB, back, 65536, packed, 70000), 0);
		assert_memory_equal(plain, back, 65536);
	}
	free(plain);
	free(packed);
	free(back);
}

/* Streaming writers do not know the size when they write the header. */
static void a_zstd_frame_without_content_size_is_read(void **unused)
{
	uint8_t plain[4096], packed[8192], back[4096];
	ZSTD_CCtx *cctx = ZSTD_createCCtx();
	ZSTD_outBuffer out = {packed, sizeof(packed), 0};
	ZSTD_inBuffer in = {plain, sizeof(plain), 0};

	(void)unused;
	fill(plain, sizeof(plain), TEXT, 21);
	ZSTD_CCtx_setParameter(cctx, ZSTD_c_checksumFlag, 1);
	assert_false(
		ZSTD_isError(ZSTD_compressStream2(cctx, &out, &in, ZSTD_e_continue)));
	while (ZSTD_compressStream2(cctx, &out, &in, ZSTD_e_end))
		;
	ZSTD_freeCCtx(cctx);
	assert_true(
		ZSTD_getFrameContentSize(packed, out.pos) == ZSTD_CONTENTSIZE_UNKNOWN);
	memset(packed + out.pos, 0x5a, 512);
	assert_int_equal(
		codec_decompress(CODEC_ZSTD, back, 4096, packed, out.pos + 512), 0);
	assert_memory_equal(plain, back, 4096);

	packed[out.pos - 1] ^= 1; /* the checksum */
	assert_int_equal(codec_decompress(CODEC_ZSTD, back, 4096, packed, out.pos), -EIO);
}

static void what_follows_the_frame_is_ignored_even_if_it_is_one(void **unused)
{
	uint8_t plain[4096], packed[8192], back[4096 + GUARD];
	ssize_t n;

	(void)unused;
	fill(plain, sizeof(plain), TEXT, 22);
	n = codec_compress(CODEC_ZSTD, packed, 4096, plain, 4096);
	assert_true(n > 0);
	memcpy(packed + n, packed, (size_t)n);
	memset(back, GUARD_BYTE, sizeof(back));
	assert_int_equal(
		codec_decompress(CODEC_ZSTD, back, 4096, packed, (size_t)n * 2), 0);
	assert_memory_equal(plain, back, 4096);
	guarded_check(back, 4096);
	/* Two half clusters are not a cluster. */
	assert_int_equal(codec_decompress(CODEC_ZSTD, back, 4096 * 2 - 4096 / 2, packed,
				 (size_t)n * 2),
		-EIO);
}

static void a_stream_of_another_length_is_refused(void **unused)
{
	uint8_t plain[4096], packed[4096], back[8192 + GUARD];

	(void)unused;
	fill(plain, sizeof(plain), TEXT, 23);
	for (size_t i = 0; i < ARRAY_LEN(codecs); i++) {
		ssize_t n = codec_compress(codecs[i], packed, 4096, plain, 4096);

		assert_true(n > 0);
		assert_int_equal(
			codec_decompress(codecs[i], back, 8192, packed, (size_t)n), -EIO);
		assert_int_equal(
			codec_decompress(codecs[i], back, 4097, packed, (size_t)n), -EIO);
		assert_int_equal(
			codec_decompress(codecs[i], back, 4096, packed, 0), -EIO);
	}
	/* A deflate stream that goes on behind the cluster is taken, as others do. */
	memset(back, GUARD_BYTE, sizeof(back));
	assert_true(codec_compress(CODEC_ZLIB, packed, 4096, plain, 4096) > 0);
	assert_int_equal(codec_decompress(CODEC_ZLIB, back, 2048, packed, 4096), 0);
	assert_memory_equal(plain, back, 2048);
	guarded_check(back, 2048);
}

static void cut_streams_are_errors(void **unused)
{
	uint8_t plain[4096], packed[4096], back[4096];

	(void)unused;
	fill(plain, sizeof(plain), TEXT, 24);
	for (size_t i = 0; i < ARRAY_LEN(codecs); i++) {
		ssize_t n = codec_compress(codecs[i], packed, 4096, plain, 4096);

		assert_true(n > 16);
		/* The last bytes of deflate may hold nothing but the end mark. */
		for (size_t cut = 1; cut < (size_t)n - 4; cut++) {
			uint8_t *exact = malloc(cut); /* ASan sees a read past the end */

			memcpy(exact, packed, cut);
			assert_int_equal(
				codec_decompress(codecs[i], back, 4096, exact, cut),
				-EIO);
			free(exact);
		}
	}
}

static void flipped_bits_never_write_outside(void **unused)
{
	uint8_t plain[4096], packed[4096];
	uint32_t state = 99;

	(void)unused;
	fill(plain, sizeof(plain), TEXT, 25);
	for (size_t i = 0; i < ARRAY_LEN(codecs); i++) {
		ssize_t n = codec_compress(codecs[i], packed, 4096, plain, 4096);

		assert_true(n > 0);
		for (int round = 0; round < 4000; round++) {
			uint8_t *broken = malloc((size_t)n), *back = guarded_new(4096);
			int ret;

			memcpy(broken, packed, (size_t)n);
			for (uint32_t k = 1 + next_random(&state) % 3; k > 0; k--)
				broken[next_random(&state) % (size_t)n] ^=
					1 << next_random(&state) % 8;
			ret = codec_decompress(codecs[i], back, 4096, broken, (size_t)n);
			assert_true(ret == 0 || ret == -EIO);
			guarded_check(back, 4096);
			free(broken);
			free(back);
		}
		/* The context is as good as new. */
		assert_int_equal(
			codec_decompress(codecs[i], plain, 4096, packed, (size_t)n), 0);
	}
}

/* A frame header may claim a window of gigabytes; it costs nothing. */
static void a_frame_that_claims_a_huge_window_is_cheap(void **unused)
{
	/* Magic; no content size; window descriptor 2^41; one last raw block of 512
	 * bytes. */
	uint8_t frame[6 + 3 + 512] = {
		0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xf8, 0x01, 0x10, 0x00};
	uint8_t back[512];
	int ret;

	(void)unused;
	ret = codec_decompress(CODEC_ZSTD, back, 512, frame, sizeof(frame));
	assert_true(ret == 0 || ret == -EIO);
}

static void *code_on_a_thread(void *arg)
{
	uint32_t seed = (uint32_t)(uintptr_t)arg;
	uint8_t *plain = malloc(65536), *packed = malloc(65536), *back = malloc(65536);
	uintptr_t bad = 0;

	for (uint32_t round = 0; round < 8; round++)
		for (size_t i = 0; i < ARRAY_LEN(codecs); i++) {
			size_t bytes = cluster_sizes[(seed + round) % 7];
			ssize_t n;

			fill(plain, bytes, TEXT, seed * 100 + round);
			n = codec_compress(codecs[i], packed, bytes, plain, bytes);
			bad += n <= 0 ||
			       codec_decompress(
				       codecs[i], back, bytes, packed, (size_t)n) ||
			       memcmp(plain, back, bytes);
		}
	free(plain);
	free(packed);
	free(back);
	return (void *)bad;
}

static void threads_share_nothing_and_leave_nothing(void **unused)
{
	pthread_t threads[8];

	(void)unused;
	for (uintptr_t i = 0; i < ARRAY_LEN(threads); i++)
		assert_int_equal(
			pthread_create(&threads[i], NULL, code_on_a_thread, (void *)i),
			0);
	for (size_t i = 0; i < ARRAY_LEN(threads); i++) {
		void *bad;

		assert_int_equal(pthread_join(threads[i], &bad), 0);
		assert_null(bad);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_packed_comes_back_here_and_elsewhere),
		cmocka_unit_test(noise_does_not_fit_and_stays_inside),
		cmocka_unit_test(any_room_is_kept_to),
		cmocka_unit_test(output_is_no_bigger_than_zlib_level_6),
		cmocka_unit_test(streams_of_zlib_with_a_small_window_are_read),
		cmocka_unit_test(a_zstd_frame_without_content_size_is_read),
		cmocka_unit_test(what_follows_the_frame_is_ignored_even_if_it_is_one),
		cmocka_unit_test(a_stream_of_another_length_is_refused),
		cmocka_unit_test(cut_streams_are_errors),
		cmocka_unit_test(flipped_bits_never_write_outside),
		cmocka_unit_test(a_frame_that_claims_a_huge_window_is_cheap),
		cmocka_unit_test(threads_share_nothing_and_leave_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
