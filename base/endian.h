/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Byte-ordered integers as they lie on disk and on the wire.
 *
 * They are structs of bytes: alignment 1, usable in packed layouts, and no arithmetic
 * compiles on them by accident. `be64_get(x)` is the only way to a number.
 */
#ifndef BYRE_BASE_ENDIAN_H
#define BYRE_BASE_ENDIAN_H

#include <stdint.h>
#include <string.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "only little-endian hosts are supported"
#endif

#define ENDIAN_TYPE(name, bits)                                                          \
	typedef struct {                                                                 \
		uint8_t b[(bits) / 8];                                                   \
	} name;                                                                          \
	_Static_assert(_Alignof(name) == 1 && sizeof(name) == (bits) / 8, #name)

/* The one exception to "no struct typedefs": they stand for integers. */
ENDIAN_TYPE(be16, 16);
ENDIAN_TYPE(be32, 32);
ENDIAN_TYPE(be64, 64);
ENDIAN_TYPE(le16, 16);
ENDIAN_TYPE(le32, 32);
ENDIAN_TYPE(le64, 64);

#define ENDIAN_ACCESS(name, bits, swap)                                                  \
	static inline uint##bits##_t name##_get(name v)                                  \
	{                                                                                \
		uint##bits##_t n;                                                        \
		memcpy(&n, v.b, sizeof(n));                                              \
		return swap(n);                                                          \
	}                                                                                \
	static inline name name##_put(uint##bits##_t n)                                  \
	{                                                                                \
		name v;                                                                  \
		n = swap(n);                                                             \
		memcpy(v.b, &n, sizeof(n));                                              \
		return v;                                                                \
	}                                                                                \
	/* The same in a buffer of bytes. */                                             \
	static inline uint##bits##_t name##_load(const uint8_t *p)                       \
	{                                                                                \
		name v;                                                                  \
		memcpy(v.b, p, sizeof(v));                                               \
		return name##_get(v);                                                    \
	}                                                                                \
	static inline void name##_store(uint8_t *p, uint##bits##_t n)                    \
	{                                                                                \
		name v = name##_put(n);                                                  \
		memcpy(p, v.b, sizeof(v));                                               \
	}

#define ENDIAN_SAME(n) (n)
ENDIAN_ACCESS(be16, 16, __builtin_bswap16)
ENDIAN_ACCESS(be32, 32, __builtin_bswap32)
ENDIAN_ACCESS(be64, 64, __builtin_bswap64)
ENDIAN_ACCESS(le16, 16, ENDIAN_SAME)
ENDIAN_ACCESS(le32, 32, ENDIAN_SAME)
ENDIAN_ACCESS(le64, 64, ENDIAN_SAME)
#undef ENDIAN_SAME
#undef ENDIAN_ACCESS
#undef ENDIAN_TYPE

#endif
