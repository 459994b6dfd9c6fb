/* SPDX-License-Identifier: BSD-2-Clause */
/* Checked and rounding arithmetic. Alignments are powers of two. */
#ifndef BYRE_BASE_MATH_H
#define BYRE_BASE_MATH_H

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>

#define KiB (1ull << 10)
#define MiB (1ull << 20)
#define GiB (1ull << 30)
#define TiB (1ull << 40)

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define MIN(a, b)                                                                        \
	({                                                                               \
		__typeof__(a) min_a = (a);                                               \
		__typeof__(b) min_b = (b);                                               \
		min_a < min_b ? min_a : min_b;                                           \
	})
#define MAX(a, b)                                                                        \
	({                                                                               \
		__typeof__(a) max_a = (a);                                               \
		__typeof__(b) max_b = (b);                                               \
		max_a > max_b ? max_a : max_b;                                           \
	})
#define container_of(ptr, type, member)                                                  \
	((type *)((char *)(ptr) - __builtin_offsetof(type, member)))

static inline bool is_pow2(uint64_t n)
{
	return n && !(n & (n - 1));
}

static inline bool is_aligned(uint64_t n, uint64_t align)
{
	return !(n & (align - 1));
}

static inline uint64_t round_down(uint64_t n, uint64_t align)
{
	return n & ~(align - 1);
}

/* Asserts that it fits: n is validated before it comes here. */
static inline uint64_t round_up(uint64_t n, uint64_t align)
{
	assert(n <= UINT64_MAX - (align - 1));
	return (n + align - 1) & ~(align - 1);
}

static inline uint64_t div_round_up(uint64_t n, uint64_t d)
{
	return n / d + (n % d != 0);
}

/* True where a + b or a * b does not fit; *out is undefined then. */
#define add_overflow(a, b, out) __builtin_add_overflow(a, b, out)
#define mul_overflow(a, b, out) __builtin_mul_overflow(a, b, out)

/* True where [off, off + len) lies inside [0, limit). An empty range at limit does. */
static inline bool range_inside(uint64_t off, uint64_t len, uint64_t limit)
{
	return off <= limit && len <= limit - off;
}

static inline bool ranges_overlap(uint64_t a, uint64_t a_len, uint64_t b, uint64_t b_len)
{
	return a < b + b_len && b < a + a_len;
}

#endif
