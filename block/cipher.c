/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Sector ciphers, all of them made of one primitive: a block cipher run over many
 * independent 16-byte blocks by one call of the library (ECB). A call of OpenSSL costs as
 * much as encrypting some 500 bytes, so a call for each 512-byte sector, with its own IV,
 * halves the speed or worse; and a processor keeps eight blocks in flight only where they
 * do not depend on each other. Hence, for a run of up to RUN_SECTORS sectors:
 *
 *	IVs	the sector numbers are laid side by side and go through one call for
 *		XTS, and through one before it for ESSIV
 *	XTS	block = E(block ^ T) ^ T, with T doubled in GF(2^128) from block to
 *		block: all tweaks first, then one call for the whole run
 *	CBC	decryption is D(block) ^ the encrypted block before it: one call.
 *		Encryption is a chain along each sector, so the run is walked across:
 *		the first blocks of all sectors in one call, then the second ones, and
 *		so on
 *
 * Contexts of the library hold state and belong to one caller at a time. They are kept in
 * a list with the cipher and are as many as there were callers at once.
 */
#include "block/cipher.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/crypto.h>
#include <openssl/evp.h>

#include "base/endian.h"
#include "base/iov.h"
#include "base/math.h"

#define BLOCK_BYTES   16u
#define SECTOR_BLOCKS (CIPHER_SECTOR / BLOCK_BYTES)
/* 16 sectors: blocks and tweaks of a run stay in the first-level cache. */
#define RUN_SECTORS 16u

/* One block, as the processor's vectors see it. The packed twin is for callers' memory.
 */
typedef uint64_t vec __attribute__((vector_size(16)));
typedef int32_t vec32 __attribute__((vector_size(16)));
typedef uint64_t vec_any __attribute__((vector_size(16), aligned(1), may_alias));

enum mode { MODE_ECB, MODE_CBC, MODE_XTS };

/* What the library keeps for one key and direction. */
enum key_use { KEY_ENCRYPT, KEY_DECRYPT, KEY_TWEAK, KEY_ESSIV, KEY_USES };

/* What one call works with. */
struct worker {
	struct worker *next;
	EVP_CIPHER_CTX *key[KEY_USES];
	vec iv[RUN_SECTORS];
	vec blocks[RUN_SECTORS * SECTOR_BLOCKS];
};

struct cipher {
	enum mode mode;
	bool plain32;                  /* the sector number is cut to 32 bits */
	EVP_CIPHER_CTX *key[KEY_USES]; /* copied from; NULL where not used */
	pthread_mutex_t lock;
	struct worker *idle; /* under lock */
};

static void worker_free(struct worker *w)
{
	if (!w)
		return;
	for (int i = 0; i < KEY_USES; i++)
		EVP_CIPHER_CTX_free(w->key[i]);
	OPENSSL_cleanse(w->iv, sizeof(w->iv));
	OPENSSL_cleanse(w->blocks, sizeof(w->blocks));
	buf_free(w);
}

static struct worker *worker_new(struct cipher *c)
{
	struct worker *w = buf_alloc(sizeof(*w));

	if (!w)
		return NULL;
	memset(w, 0, sizeof(*w));
	for (int i = 0; i < KEY_USES; i++) {
		if (!c->key[i])
			continue;
		w->key[i] = EVP_CIPHER_CTX_new();
		if (!w->key[i] || !EVP_CIPHER_CTX_copy(w->key[i], c->key[i])) {
			worker_free(w);
			return NULL;
		}
	}
	return w;
}

static struct worker *worker_get(struct cipher *c)
{
	struct worker *w;

	pthread_mutex_lock(&c->lock);
	w = c->idle;
	if (w)
		c->idle = w->next;
	pthread_mutex_unlock(&c->lock);
	return w ? w : worker_new(c);
}

static void worker_put(struct cipher *c, struct worker *w)
{
	pthread_mutex_lock(&c->lock);
	w->next = c->idle;
	c->idle = w;
	pthread_mutex_unlock(&c->lock);
}

/* The primitive. dst == src is fine. */
static int run_blocks(
	struct worker *w, enum key_use use, void *dst, const void *src, size_t bytes)
{
	int done = 0;

	if (!EVP_CipherUpdate(w->key[use], dst, &done, src, (int)bytes) ||
		(size_t)done != bytes)
		return -EIO;
	return 0;
}

/* w->iv[] for n sectors; for XTS these are the first tweaks. */
static int make_ivs(struct cipher *c, struct worker *w, uint64_t sector, unsigned n)
{
	const size_t bytes = n * BLOCK_BYTES;
	int ret = 0;

	for (unsigned i = 0; i < n; i++) {
		uint64_t number = sector + i;

		w->iv[i] = (vec){c->plain32 ? (uint32_t)number : number, 0};
	}
	if (c->key[KEY_ESSIV])
		ret = run_blocks(w, KEY_ESSIV, w->iv, w->iv, bytes);
	if (!ret && c->mode == MODE_XTS)
		ret = run_blocks(w, KEY_TWEAK, w->iv, w->iv, bytes);
	return ret;
}

/* T * x in GF(2^128), little-endian as XTS has it: every 64-bit half is shifted, and the
 * bit that left one half comes back as 1 in the next, or as x^7 + x^2 + x + 1 in the
 * first. */
static inline vec tweak_double(vec t)
{
	const vec32 feed = {0x87, 0, 1, 0};
	vec32 sign = (vec32)t >> 31;

	return (t << 1) ^ (vec)(__builtin_shufflevector(sign, sign, 3, 3, 1, 1) & feed);
}

/* Fills the tweaks of n sectors and puts src ^ tweak into dst. Four sectors go abreast,
 * since each doubling waits for the one before. */
static void tweak_in(struct worker *w, unsigned n, vec_any *dst, const vec_any *src)
{
	vec *tweaks = w->blocks;
	unsigned s = 0;

	for (; s + 4 <= n; s += 4) {
		const size_t at = s * SECTOR_BLOCKS;
		vec a = w->iv[s], b = w->iv[s + 1], c = w->iv[s + 2], d = w->iv[s + 3];

		for (unsigned j = 0; j < SECTOR_BLOCKS; j++) {
			size_t i = at + j;

			tweaks[i] = a;
			dst[i] = src[i] ^ a;
			a = tweak_double(a);
			i += SECTOR_BLOCKS;
			tweaks[i] = b;
			dst[i] = src[i] ^ b;
			b = tweak_double(b);
			i += SECTOR_BLOCKS;
			tweaks[i] = c;
			dst[i] = src[i] ^ c;
			c = tweak_double(c);
			i += SECTOR_BLOCKS;
			tweaks[i] = d;
			dst[i] = src[i] ^ d;
			d = tweak_double(d);
		}
	}
	for (; s < n; s++) {
		vec t = w->iv[s];

		for (size_t i = s * SECTOR_BLOCKS; i < (s + 1) * SECTOR_BLOCKS; i++) {
			tweaks[i] = t;
			dst[i] = src[i] ^ t;
			t = tweak_double(t);
		}
	}
}

static int xts_run(
	struct worker *w, enum key_use use, unsigned n, void *dst, const void *src)
{
	vec_any *out = dst;
	int ret;

	tweak_in(w, n, out, src);
	ret = run_blocks(w, use, dst, dst, n * CIPHER_SECTOR);
	if (ret)
		return ret;
	for (size_t i = 0; i < n * SECTOR_BLOCKS; i++)
		out[i] ^= w->blocks[i];
	return 0;
}

static int cbc_encrypt_run(struct worker *w, unsigned n, void *dst, const void *src)
{
	const vec_any *in = src;
	vec_any *out = dst;
	vec *chain = w->iv;
	int ret;

	for (unsigned j = 0; j < SECTOR_BLOCKS; j++) {
		for (unsigned s = 0; s < n; s++)
			chain[s] ^= in[s * SECTOR_BLOCKS + j];
		ret = run_blocks(w, KEY_ENCRYPT, chain, chain, n * BLOCK_BYTES);
		if (ret)
			return ret;
		for (unsigned s = 0; s < n; s++)
			out[s * SECTOR_BLOCKS + j] = chain[s];
	}
	return 0;
}

/* Backwards, since in place the encrypted block before must still be there. */
static int cbc_decrypt_run(struct worker *w, unsigned n, void *dst, const void *src)
{
	const vec_any *in = src;
	vec_any *out = dst;
	int ret = run_blocks(w, KEY_DECRYPT, w->blocks, src, n * CIPHER_SECTOR);

	if (ret)
		return ret;
	for (size_t i = n * SECTOR_BLOCKS; i-- > 0;)
		out[i] = w->blocks[i] ^
			 (i % SECTOR_BLOCKS ? (vec)in[i - 1] : w->iv[i / SECTOR_BLOCKS]);
	return 0;
}

static int crypt_run(struct cipher *c, struct worker *w, enum key_use use,
	uint64_t sector, unsigned n, void *dst, const void *src)
{
	int ret;

	if (c->mode == MODE_ECB)
		return run_blocks(w, use, dst, src, n * CIPHER_SECTOR);
	ret = make_ivs(c, w, sector, n);
	if (ret)
		return ret;
	if (c->mode == MODE_XTS)
		return xts_run(w, use, n, dst, src);
	return use == KEY_ENCRYPT ? cbc_encrypt_run(w, n, dst, src)
				  : cbc_decrypt_run(w, n, dst, src);
}

static int crypt(struct cipher *c, enum key_use use, uint64_t sector, void *dst,
	const void *src, size_t bytes)
{
	struct worker *w;
	int ret = 0;

	assert(is_aligned(bytes, CIPHER_SECTOR));
	w = worker_get(c);
	if (!w)
		return -EIO;
	for (size_t pos = 0; pos < bytes && !ret;) {
		unsigned n =
			(unsigned)MIN((bytes - pos) / CIPHER_SECTOR, (size_t)RUN_SECTORS);

		ret = crypt_run(c, w, use, sector, n, (uint8_t *)dst + pos,
			(const uint8_t *)src + pos);
		sector += n;
		pos += (size_t)n * CIPHER_SECTOR;
	}
	worker_put(c, w);
	return ret;
}

int cipher_encrypt(
	struct cipher *c, uint64_t sector, void *dst, const void *src, size_t bytes)
{
	return crypt(c, KEY_ENCRYPT, sector, dst, src, bytes);
}

int cipher_decrypt(
	struct cipher *c, uint64_t sector, void *dst, const void *src, size_t bytes)
{
	return crypt(c, KEY_DECRYPT, sector, dst, src, bytes);
}

/* Makes the context that workers copy. */
static int set_key(struct cipher *c, enum key_use use, const void *key, size_t key_bytes,
	struct err *err)
{
	EVP_CIPHER *ecb;
	char name[32];
	int ok;

	snprintf(name, sizeof(name), "AES-%zu-ECB", key_bytes * 8);
	ecb = EVP_CIPHER_fetch(NULL, name, NULL);
	if (!ecb)
		return err_set(err, ENOTSUP, "The crypto library has no %s", name);
	c->key[use] = EVP_CIPHER_CTX_new();
	ok = c->key[use] &&
	     EVP_CipherInit_ex2(c->key[use], ecb, key, NULL, use != KEY_DECRYPT, NULL) &&
	     EVP_CIPHER_CTX_set_padding(c->key[use], 0);
	EVP_CIPHER_free(ecb);
	return ok ? 0 : err_set(err, EIO, "The crypto library failed to set up %s", name);
}

/* "plain", "plain64" or "essiv:HASH". ESSIV's own key is the hash of the whole key. */
static int set_ivgen(struct cipher *c, const char *ivgen, const void *key,
	size_t key_bytes, struct err *err)
{
	uint8_t hash[EVP_MAX_MD_SIZE];
	unsigned hash_bytes = 0;
	const EVP_MD *md;
	int ret;

	if (!strcmp(ivgen, "plain64"))
		return 0;
	if (!strcmp(ivgen, "plain")) {
		c->plain32 = true;
		return 0;
	}
	if (strncmp(ivgen, "essiv:", 6))
		return err_set(err, ENOTSUP, "IV generator '%s' is not supported", ivgen);
	md = EVP_get_digestbyname(ivgen + 6);
	if (!md || !EVP_Digest(key, key_bytes, hash, &hash_bytes, md, NULL) ||
		(hash_bytes != 16 && hash_bytes != 32))
		ret = err_set(err, ENOTSUP, "IV generator '%s' is not supported", ivgen);
	else
		ret = set_key(c, KEY_ESSIV, hash, hash_bytes, err);
	OPENSSL_cleanse(hash, sizeof(hash));
	return ret;
}

static int set_up(struct cipher *c, const char *name, const char *mode,
	const uint8_t *key, size_t key_bytes, struct err *err)
{
	size_t half = key_bytes;
	int ret;

	if (strcmp(name, "aes"))
		return err_set(err, ENOTSUP, "Cipher '%s' is not supported", name);
	if (!strcmp(mode, "ecb"))
		c->mode = MODE_ECB;
	else if (!strncmp(mode, "cbc-", 4))
		c->mode = MODE_CBC;
	else if (!strncmp(mode, "xts-", 4))
		c->mode = MODE_XTS;
	else
		return err_set(err, ENOTSUP, "Cipher mode '%s' is not supported", mode);
	if (c->mode == MODE_XTS)
		half = key_bytes % 2 ? 0 : key_bytes / 2;
	if (half != 16 && half != 24 && half != 32)
		return err_set(err, ENOTSUP, "Cipher %s-%s has no keys of %zu bits", name,
			mode, key_bytes * 8);
	ret = set_key(c, KEY_ENCRYPT, key, half, err);
	if (!ret)
		ret = set_key(c, KEY_DECRYPT, key, half, err);
	if (!ret && c->mode == MODE_XTS)
		ret = set_key(c, KEY_TWEAK, key + half, half, err);
	if (!ret && c->mode != MODE_ECB)
		ret = set_ivgen(c, mode + 4, key, key_bytes, err);
	return ret;
}

int cipher_new(struct cipher **out, const char *cipher_name, const char *mode,
	const void *key, size_t key_bytes, struct err *err)
{
	struct cipher *c = calloc(1, sizeof(*c));
	int ret;

	if (!c)
		return err_set(err, ENOMEM, "No memory for a cipher");
	pthread_mutex_init(&c->lock, NULL);
	ret = set_up(c, cipher_name, mode, key, key_bytes, err);
	if (ret) {
		cipher_free(c);
		return ret;
	}
	*out = c;
	return 0;
}

void cipher_free(struct cipher *c)
{
	if (!c)
		return;
	while (c->idle) {
		struct worker *w = c->idle;

		c->idle = w->next;
		worker_free(w);
	}
	for (int i = 0; i < KEY_USES; i++)
		EVP_CIPHER_CTX_free(c->key[i]);
	pthread_mutex_destroy(&c->lock);
	free(c);
}
