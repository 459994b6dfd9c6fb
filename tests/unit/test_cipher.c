/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Sector ciphers: the vectors of IEEE 1619, and every mode, length and position against
 * the library's own XTS and CBC called a sector at a time.
 */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <openssl/evp.h>

#include "base/endian.h"
#include "base/math.h"
#include "block/cipher.h"

#define SECTORS 37 /* more than one run, and a run's tail that is not four abreast */
#define BYTES   (SECTORS * CIPHER_SECTOR)

struct variant {
	const char *mode;
	size_t key_bytes;
};

static const struct variant variants[] = {
	{"xts-plain64", 32},
	{"xts-plain64", 48},
	{"xts-plain64", 64},
	{"xts-plain", 64},
	{"xts-essiv:sha256", 64},
	{"cbc-plain64", 16},
	{"cbc-plain64", 24},
	{"cbc-plain64", 32},
	{"cbc-plain", 32},
	{"cbc-essiv:sha256", 16},
	{"cbc-essiv:sha256", 32},
	{"ecb", 16},
	{"ecb", 32},
};

static uint8_t key[64];
static uint8_t plain[BYTES];

static struct cipher *make(const struct variant *v)
{
	struct err err = ERR_INIT;
	struct cipher *c = NULL;

	assert_int_equal(cipher_new(&c, "aes", v->mode, key, v->key_bytes, &err), 0);
	return c;
}

static void encrypt_one(const EVP_CIPHER *type, const uint8_t *k, const uint8_t *iv,
	uint8_t *dst, const uint8_t *src, int bytes)
{
	EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
	int n = 0;

	assert_non_null(ctx);
	assert_true(EVP_EncryptInit_ex(ctx, type, NULL, k, iv));
	EVP_CIPHER_CTX_set_padding(ctx, 0);
	assert_true(EVP_EncryptUpdate(ctx, dst, &n, src, bytes));
	assert_int_equal(n, bytes);
	EVP_CIPHER_CTX_free(ctx);
}

static const EVP_CIPHER *aes(const char *mode, size_t bytes)
{
	const bool cbc = !strncmp(mode, "cbc", 3);

	switch (bytes) {
	case 16:
		return cbc ? EVP_aes_128_cbc() : EVP_aes_128_ecb();
	case 24:
		return cbc ? EVP_aes_192_cbc() : EVP_aes_192_ecb();
	default:
		return cbc ? EVP_aes_256_cbc() : EVP_aes_256_ecb();
	}
}

/* One sector as a textbook has it. XTS with 192-bit keys, which the library has not, is
 * built from ECB. */
static void reference(
	const struct variant *v, uint64_t sector, uint8_t *dst, const uint8_t *src)
{
	uint8_t iv[16] = {0}, hash[32];
	le64 number = le64_put(strstr(v->mode, "plain64") || strstr(v->mode, "essiv")
				       ? sector
				       : (uint32_t)sector);
	size_t half = v->key_bytes / 2;

	memcpy(iv, &number, 8);
	if (strstr(v->mode, "essiv")) {
		assert_true(
			EVP_Digest(key, v->key_bytes, hash, NULL, EVP_sha256(), NULL));
		encrypt_one(EVP_aes_256_ecb(), hash, NULL, iv, iv, 16);
	}
	if (strncmp(v->mode, "xts", 3)) {
		encrypt_one(aes(v->mode, v->key_bytes), key, iv, dst, src, CIPHER_SECTOR);
	} else if (half != 24) {
		encrypt_one(half == 16 ? EVP_aes_128_xts() : EVP_aes_256_xts(), key, iv,
			dst, src, CIPHER_SECTOR);
	} else {
		encrypt_one(EVP_aes_192_ecb(), key + 24, NULL, iv, iv, 16);
		for (size_t at = 0; at < CIPHER_SECTOR; at += 16) {
			int carry = iv[15] >> 7;

			for (int i = 0; i < 16; i++)
				dst[at + i] = src[at + i] ^ iv[i];
			encrypt_one(EVP_aes_192_ecb(), key, NULL, dst + at, dst + at, 16);
			for (int i = 0; i < 16; i++)
				dst[at + i] ^= iv[i];
			for (int i = 15; i > 0; i--)
				iv[i] = iv[i] << 1 | iv[i - 1] >> 7;
			iv[0] = iv[0] << 1 ^ (carry ? 0x87 : 0);
		}
	}
}

static int set_up(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(key); i++)
		key[i] = i * 37 + 11;
	for (size_t i = 0; i < sizeof(plain); i++)
		plain[i] = i * i >> 3 ^ i;
	return 0;
}

/* IEEE 1619-2007, annex B: vectors 4 (AES-128, unit 0) and 10 (AES-256, unit 0xff): the
 * first 16 of 512 bytes. The rest is what the next test is for. */
static void the_vectors_of_ieee_1619(void **state)
{
	static const uint8_t keys[64] = {0x27, 0x18, 0x28, 0x18, 0x28, 0x45, 0x90, 0x45,
		0x23, 0x53, 0x60, 0x28, 0x74, 0x71, 0x35, 0x26, 0x62, 0x49, 0x77, 0x57,
		0x24, 0x70, 0x93, 0x69, 0x99, 0x59, 0x57, 0x49, 0x66, 0x96, 0x76, 0x27,
		0x31, 0x41, 0x59, 0x26, 0x53, 0x58, 0x97, 0x93, 0x23, 0x84, 0x62, 0x64,
		0x33, 0x83, 0x27, 0x95, 0x02, 0x88, 0x41, 0x97, 0x16, 0x93, 0x99, 0x37,
		0x51, 0x05, 0x82, 0x09, 0x74, 0x94, 0x45, 0x92};
	static const uint8_t first128[16] = {0x27, 0xa7, 0x47, 0x9b, 0xef, 0xa1, 0xd4,
		0x76, 0x48, 0x9f, 0x30, 0x8c, 0xd4, 0xcf, 0xa6, 0xe2};
	static const uint8_t first256[16] = {0x1c, 0x3b, 0x3a, 0x10, 0x2f, 0x77, 0x03,
		0x86, 0xe4, 0x83, 0x6c, 0x99, 0xe3, 0x70, 0xcf, 0x9b};
	uint8_t key128[32], in[512], out[512];
	struct err err = ERR_INIT;
	struct cipher *c;

	(void)state;
	for (size_t i = 0; i < sizeof(in); i++)
		in[i] = i;
	memcpy(key128, keys, 16);
	memcpy(key128 + 16, keys + 32, 16);
	assert_int_equal(cipher_new(&c, "aes", "xts-plain64", key128, 32, &err), 0);
	assert_int_equal(cipher_encrypt(c, 0, out, in, 512), 0);
	assert_memory_equal(out, first128, 16);
	cipher_free(c);
	assert_int_equal(cipher_new(&c, "aes", "xts-plain64", keys, 64, &err), 0);
	assert_int_equal(cipher_encrypt(c, 0xff, out, in, 512), 0);
	assert_memory_equal(out, first256, 16);
	cipher_free(c);
}

/* Sector numbers around 2^32 tell plain from plain64; every length from one sector on. */
static void every_mode_is_what_the_library_does_a_sector_at_a_time(void **state)
{
	static const uint64_t starts[] = {0, 5, UINT32_MAX - 3ull, 1ull << 40};
	static uint8_t expect[BYTES], got[BYTES + 16];

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(variants); i++) {
		struct cipher *c = make(&variants[i]);

		for (size_t j = 0; j < ARRAY_LEN(starts); j++) {
			for (uint64_t s = 0; s < SECTORS; s++)
				reference(&variants[i], starts[j] + s,
					expect + s * CIPHER_SECTOR,
					plain + s * CIPHER_SECTOR);
			for (size_t n = CIPHER_SECTOR; n <= BYTES; n += CIPHER_SECTOR) {
				memset(got, 0, sizeof(got));
				assert_int_equal(
					cipher_encrypt(c, starts[j], got, plain, n), 0);
				assert_memory_equal(got, expect, n);
				assert_int_equal(got[n], 0);
				assert_int_equal(
					cipher_decrypt(c, starts[j], got, got, n), 0);
				assert_memory_equal(got, plain, n);
			}
		}
		cipher_free(c);
	}
}

static void in_place_and_unaligned_memory_give_the_same(void **state)
{
	static uint8_t apart[BYTES], room[BYTES + 3];
	uint8_t *odd = room + 3;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(variants); i++) {
		struct cipher *c = make(&variants[i]);

		assert_int_equal(cipher_encrypt(c, 9, apart, plain, BYTES), 0);
		memcpy(odd, plain, BYTES);
		assert_int_equal(cipher_encrypt(c, 9, odd, odd, BYTES), 0);
		assert_memory_equal(odd, apart, BYTES);
		assert_int_equal(cipher_decrypt(c, 9, apart, odd, BYTES), 0);
		assert_memory_equal(apart, plain, BYTES);
		cipher_free(c);
	}
}

static void what_there_is_not_is_named(void **state)
{
	static const struct {
		const char *name, *mode;
		size_t key_bytes;
		const char *in_message;
	} bad[] = {
		{"serpent", "xts-plain64", 64, "serpent"},
		{"aes", "lrw-benbi", 48, "lrw-benbi"},
		{"aes", "xts-benbi", 64, "benbi"},
		{"aes", "cbc-essiv:none", 32, "essiv:none"},
		{"aes", "cbc-essiv:sha1", 32, "essiv:sha1"},
		{"aes", "cbc-essiv:", 32, "essiv:"},
		{"aes", "cbc", 32, "cbc"},
		{"aes", "", 32, "mode"},
		{"aes", "xts-plain64", 33, "264 bits"},
		{"aes", "xts-plain64", 16, "128 bits"},
		{"aes", "cbc-plain64", 64, "512 bits"},
		{"aes", "ecb", 0, "0 bits"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		struct err err = ERR_INIT;
		struct cipher *c = NULL;

		assert_int_equal(cipher_new(&c, bad[i].name, bad[i].mode, key,
					 bad[i].key_bytes, &err),
			-ENOTSUP);
		assert_null(c);
		assert_non_null(strstr(err.msg, bad[i].in_message));
	}
}

struct shared {
	struct cipher *c;
	const uint8_t *expect;
	unsigned seed;
	int bad;
};

static void *crypt_on_a_thread(void *arg)
{
	struct shared *job = arg;
	uint8_t *buf = malloc(BYTES);

	for (unsigned i = 0; i < 60; i++) {
		size_t first = (job->seed + i) % SECTORS, at = first * CIPHER_SECTOR;

		job->bad |= cipher_encrypt(job->c, first, buf, plain + at, BYTES - at);
		job->bad |= memcmp(buf, job->expect + at, BYTES - at);
		job->bad |= cipher_decrypt(job->c, first, buf, buf, BYTES - at);
		job->bad |= memcmp(buf, plain + at, BYTES - at);
	}
	free(buf);
	return NULL;
}

static void threads_share_one_cipher(void **state)
{
	static uint8_t expect[BYTES];
	pthread_t threads[6];
	struct shared jobs[6];

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(variants); i++) {
		struct cipher *c = make(&variants[i]);

		assert_int_equal(cipher_encrypt(c, 0, expect, plain, BYTES), 0);
		for (unsigned t = 0; t < ARRAY_LEN(threads); t++) {
			jobs[t] = (struct shared){c, expect, t * 5, 0};
			assert_int_equal(pthread_create(&threads[t], NULL,
						 crypt_on_a_thread, &jobs[t]),
				0);
		}
		for (unsigned t = 0; t < ARRAY_LEN(threads); t++) {
			pthread_join(threads[t], NULL);
			assert_int_equal(jobs[t].bad, 0);
		}
		cipher_free(c);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_vectors_of_ieee_1619),
		cmocka_unit_test(every_mode_is_what_the_library_does_a_sector_at_a_time),
		cmocka_unit_test(in_place_and_unaligned_memory_give_the_same),
		cmocka_unit_test(what_there_is_not_is_named),
		cmocka_unit_test(threads_share_one_cipher),
	};

	return cmocka_run_group_tests(tests, set_up, NULL);
}
