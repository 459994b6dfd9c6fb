/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Sector ciphers: a buffer of whole 512-byte sectors is encrypted in place or from one
 * buffer to another, each sector with an IV made from its number. The only file that knows
 * the crypto library for bulk data.
 *
 * AES-XTS is the fast path: tweaks of a run of sectors are computed here and the blocks go
 * through one ECB call, which is several times faster than a call a sector.
 */
#ifndef BYRE_BLOCK_CIPHER_H
#define BYRE_BLOCK_CIPHER_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

#define CIPHER_SECTOR 512u

struct cipher;

/* cipher_name "aes"; mode "xts-plain64", "xts-plain", "cbc-essiv:sha256", "cbc-plain64",
 * "cbc-plain", "ecb" as LUKS headers spell them; key_bytes as LUKS has it (xts: both halves).
 * -ENOTSUP with the name for what the library has not. */
int cipher_new(struct cipher **out, const char *cipher_name, const char *mode,
	const void *key, size_t key_bytes, struct err *err);
void cipher_free(struct cipher *c);

/* dst == src is fine. bytes is a multiple of CIPHER_SECTOR; sector is the number of the
 * first. Thread-safe: several threads may use one cipher at once. 0 or -EIO. */
int cipher_encrypt(struct cipher *c, uint64_t sector, void *dst, const void *src, size_t bytes);
int cipher_decrypt(struct cipher *c, uint64_t sector, void *dst, const void *src, size_t bytes);

#endif
