/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * LUKS version 1 headers (LUKS On-Disk Format Specification 1.2.3): the partition header, 8
 * key slots, PBKDF2, anti-forensic split. Serves formats/luks.c, where the header starts
 * the disk, and qcow2, where it lies in clusters of its own.
 */
#ifndef BYRE_BLOCK_LUKS_H
#define BYRE_BLOCK_LUKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/opts.h"
#include "block/cipher.h"

struct luks;
struct json;

/* Where the header lives: reads or writes bytes at an offset from its start. */
struct luks_io {
	int (*read)(void *arg, uint64_t offset, void *buf, size_t bytes);
	int (*write)(void *arg, uint64_t offset, const void *buf, size_t bytes);
	void *arg;
};

/* True where buf starts with a LUKS 1 magic and version. */
bool luks_probe(const uint8_t *buf, size_t bytes);

/* Reads and validates the header; key slots must lie within io_limit bytes. Whether the
 * payload does is for the caller to say. Without a passphrase (NULL) the volume key stays
 * locked: only the facts can be asked. -EACCES for a passphrase that opens no slot. Parks
 * while a worker computes PBKDF2, for seconds where the volume asks for it. */
int luks_open(struct luks **out, const struct luks_io *io, uint64_t io_limit,
	const void *passphrase, size_t passphrase_bytes, struct err *err);
void luks_free(struct luks *l);

struct luks_params {
	const char *cipher;	 /* "aes" */
	unsigned key_bits;	 /* 128, 192, 256 of the cipher; 256 default */
	const char *mode;	 /* "xts", "cbc", "ecb" */
	const char *ivgen;	 /* "plain64", "plain", "essiv" */
	const char *ivgen_hash;	 /* "sha256" for essiv; NULL */
	const char *hash;	 /* "sha256" (PBKDF2 and AF) */
	unsigned iter_time_ms;	 /* 2000 */
};

/* Takes qemu-img's options (cipher-alg, cipher-mode, ivgen-alg, ivgen-hash-alg, hash-alg,
 * iter-time), with defaults aes-256, xts, plain64, sha256, 2000 ms. Strings are static. */
int luks_params_take(struct opts *opts, struct luks_params *out, struct err *err);
/* Bytes of header and key material for these parameters, up to the payload. */
uint64_t luks_header_bytes(const struct luks_params *p);
/* Writes a new header with one active slot, after its key material, and leaves it open in
 * *out. Key material of the other slots is not written. Parks as luks_open. */
int luks_create(struct luks **out, const struct luks_params *p, const struct luks_io *io,
	const void *passphrase, size_t passphrase_bytes, struct err *err);

/* The payload's cipher; NULL while locked. Owned by l. */
struct cipher *luks_cipher(const struct luks *l);
uint64_t luks_payload_offset(const struct luks *l); /* bytes from the header's start */
/* The object qemu-img info shows (cipher-alg, slots, uuid, …). */
struct json *luks_info(const struct luks *l);

#endif
