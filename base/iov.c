/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Scatter lists and I/O buffers.
 *
 * Zero detection reads every byte that convert and detect-zeroes see, so it runs at
 * memory speed: blocks of 256 bytes are OR-ed together in wide vectors with one test a
 * block, in a variant for AVX2 where the processor has it. (Function multiversioning by
 * ifunc was rejected: its resolvers run before the sanitizers' runtimes are up.)
 */
#include "base/iov.h"

#include <assert.h>
#include <malloc.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/math.h"

#define BUF_ALIGN 4096u

size_t iov_bytes(const struct iovec *iov, int niov)
{
	size_t sum = 0;

	for (int i = 0; i < niov; i++)
		sum += iov[i].iov_len;
	return sum;
}

/* A walk over the pieces of [pos, pos + bytes). */
struct cursor {
	const struct iovec *iov;
	int niov;
	size_t skip; /* inside *iov */
	size_t left;
};

static struct cursor cursor_at(
	const struct iovec *iov, int niov, size_t pos, size_t bytes)
{
	while (niov > 0 && pos >= iov->iov_len) {
		pos -= iov->iov_len;
		iov++;
		niov--;
	}
	assert(niov > 0 || (pos == 0 && bytes == 0));
	return (struct cursor){.iov = iov, .niov = niov, .skip = pos, .left = bytes};
}

/* The next non-empty piece; false at the end of the range. */
static bool cursor_next(struct cursor *c, struct iovec *piece)
{
	while (c->left > 0) {
		assert(c->niov > 0);
		size_t n = MIN(c->iov->iov_len - c->skip, c->left);

		piece->iov_base = (char *)c->iov->iov_base + c->skip;
		piece->iov_len = n;
		c->left -= n;
		c->skip = 0;
		c->iov++;
		c->niov--;
		if (n > 0)
			return true;
	}
	return false;
}

int iov_slice(
	struct iovec *out, const struct iovec *iov, int niov, size_t pos, size_t bytes)
{
	struct cursor c = cursor_at(iov, niov, pos, bytes);
	int n = 0;

	while (cursor_next(&c, &out[n]))
		n++;
	return n;
}

void iov_to_buf(const struct iovec *iov, int niov, size_t pos, void *buf, size_t bytes)
{
	struct cursor c = cursor_at(iov, niov, pos, bytes);
	struct iovec p;

	for (char *dst = buf; cursor_next(&c, &p); dst += p.iov_len)
		memcpy(dst, p.iov_base, p.iov_len);
}

void iov_from_buf(
	const struct iovec *iov, int niov, size_t pos, const void *buf, size_t bytes)
{
	struct cursor c = cursor_at(iov, niov, pos, bytes);
	struct iovec p;

	for (const char *src = buf; cursor_next(&c, &p); src += p.iov_len)
		memcpy(p.iov_base, src, p.iov_len);
}

void iov_fill(const struct iovec *iov, int niov, size_t pos, int byte, size_t bytes)
{
	struct cursor c = cursor_at(iov, niov, pos, bytes);
	struct iovec p;

	while (cursor_next(&c, &p))
		memset(p.iov_base, byte, p.iov_len);
}

bool iov_is_zero(const struct iovec *iov, int niov, size_t pos, size_t bytes)
{
	struct cursor c = cursor_at(iov, niov, pos, bytes);
	struct iovec p;

	while (cursor_next(&c, &p))
		if (!buf_is_zero(p.iov_base, p.iov_len))
			return false;
	return true;
}

/* 32 bytes: one register with AVX2, two with SSE2 or NEON. */
typedef uint64_t wide __attribute__((vector_size(32), aligned(1), may_alias));
typedef uint64_t word __attribute__((aligned(1), may_alias));

#define ZERO_BLOCK (8 * sizeof(wide))

/* p has `blocks` blocks. Inlined into functions compiled for different processors. */
static inline __attribute__((always_inline)) bool blocks_are_zero(
	const uint8_t *p, size_t blocks)
{
	for (; blocks > 0; blocks--, p += ZERO_BLOCK) {
		const wide *v = (const wide *)p;
		wide sum =
			((v[0] | v[1]) | (v[2] | v[3])) | ((v[4] | v[5]) | (v[6] | v[7]));

		if ((sum[0] | sum[1]) | (sum[2] | sum[3]))
			return false;
	}
	return true;
}

static bool blocks_are_zero_any(const uint8_t *p, size_t blocks)
{
	return blocks_are_zero(p, blocks);
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) static bool blocks_are_zero_avx2(
	const uint8_t *p, size_t blocks)
{
	return blocks_are_zero(p, blocks);
}
#endif

static bool tail_is_zero(const uint8_t *p, size_t bytes)
{
	uint64_t sum = 0;

	for (; bytes >= sizeof(word); bytes -= sizeof(word), p += sizeof(word))
		sum |= *(const word *)p;
	while (bytes-- > 0)
		sum |= *p++;
	return sum == 0;
}

bool buf_is_zero(const void *buf, size_t bytes)
{
	const uint8_t *p = buf;
	size_t blocks = bytes / ZERO_BLOCK;
	bool zero;

	/* Data mostly shows at an end or in the middle: look there before the long way.
	 */
	if (bytes > 0 && (p[0] | p[bytes / 2] | p[bytes - 1]))
		return false;
	if (!tail_is_zero(p + blocks * ZERO_BLOCK, bytes % ZERO_BLOCK))
		return false;
#if defined(__x86_64__)
	if (__builtin_cpu_supports("avx2"))
		zero = blocks_are_zero_avx2(p, blocks);
	else
#endif
		zero = blocks_are_zero_any(p, blocks);
	return zero;
}

/* By default the C library maps a large buffer when it is asked for and unmaps it when it is
 * freed, and each life of it takes a page fault every 4 KiB: more than half the processor time
 * of an encrypted convert. Told so, it keeps them; 32 MiB is the most it takes. */
static void keep_buffers(void)
{
	mallopt(M_MMAP_THRESHOLD, 32 << 20);
	mallopt(M_TRIM_THRESHOLD, 64 << 20);
}

void *buf_alloc(size_t bytes)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	if (bytes == 0 || bytes > SIZE_MAX - BUF_ALIGN)
		return NULL;
	pthread_once(&once, keep_buffers);
	return aligned_alloc(BUF_ALIGN, round_up(bytes, BUF_ALIGN));
}

void buf_free(void *buf)
{
	free(buf);
}
