/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * LUKS version 1: how a passphrase becomes the volume key (LUKS On-Disk Format
 * Specification 1.2.3; numbers are big-endian, offsets of key material and payload in
 * 512-byte sectors).
 *
 *	0	header of 592 bytes, with eight slots in it
 *	4096	key material of slot 0: the volume key, split into 4000 stripes that
 *		are all needed to get it back, encrypted with a key made of the
 *		passphrase
 *	...	key material of slots 1 to 7, each on the next 4096 bytes
 *	payload	the disk, encrypted with the volume key
 *
 * Opening tries every active slot: PBKDF2 of the passphrase, decrypt the material, merge
 * the stripes, and PBKDF2 of what comes out against the digest in the header.
 *
 * 1. The header is checked whole before any field of it is used: names end, slots lie
 *    between header and payload and apart from each other, lengths and iterations are
 *    bounded. Memory is bounded by LUKS_MAX_KEY * LUKS_STRIPES, the time a slot takes by
 *    LUKS_MAX_ITERATIONS.
 * 2. Keys and what they are made of are wiped on every path before their memory is freed.
 * 3. A new header is written last, after the key material it names: until then the volume
 *    is not a LUKS volume to anybody.
 * 4. Everything that computes runs on a worker, everything that does I/O does not.
 */
#include "block/luks.h"

#include <assert.h>
#include <inttypes.h>
#include <limits.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/rand.h>

#include "base/aio.h"
#include "base/endian.h"
#include "base/iov.h"
#include "base/json.h"
#include "base/math.h"

#define LUKS_SECTOR         512u
#define LUKS_SLOTS          8
#define LUKS_STRIPES        4000u
#define LUKS_ALIGN          4096u /* of key material that we write */
#define LUKS_SLOT_ACTIVE    0x00ac71f3u
#define LUKS_SLOT_INACTIVE  0x0000deadu
#define LUKS_SALT           32
#define LUKS_DIGEST         20
#define LUKS_UUID           40
#define LUKS_MAX_KEY        64u /* bytes: AES-256-XTS */
#define LUKS_MIN_ITERATIONS 1000u
/* About a minute of SHA-256 for a slot; cryptsetup's default of two seconds makes some
 * millions. */
#define LUKS_MAX_ITERATIONS (1u << 28)
/* What a wrong passphrase costs: all slots and a check of the key for each, in runs of the
 * hash. A few minutes. */
#define LUKS_MAX_RUNS (1ull << 29)

struct luks_disk_slot {
	be32 state;
	be32 iterations;
	uint8_t salt[LUKS_SALT];
	be32 material_sector;
	be32 stripes;
};

struct luks_disk_header {
	uint8_t magic[6];
	be16 version;
	char cipher[32];
	char mode[32]; /* "xts-plain64", "cbc-essiv:sha256" */
	char hash[32]; /* of PBKDF2 and of the stripes */
	be32 payload_sector;
	be32 key_bytes;
	uint8_t digest[LUKS_DIGEST];
	uint8_t digest_salt[LUKS_SALT];
	be32 digest_iterations;
	char uuid[LUKS_UUID];
	struct luks_disk_slot slot[LUKS_SLOTS];
};

_Static_assert(sizeof(struct luks_disk_slot) == 48, "key slot");
_Static_assert(sizeof(struct luks_disk_header) == 592, "header");
_Static_assert(offsetof(struct luks_disk_header, payload_sector) == 104, "header");
_Static_assert(offsetof(struct luks_disk_header, slot) == 208, "header");

static const uint8_t luks_magic[6] = {'L', 'U', 'K', 'S', 0xba, 0xbe};

struct luks {
	struct luks_disk_header header; /* checked */
	EVP_MD *md;
	char mode[32];         /* before the '-' */
	char ivgen[32];        /* after it */
	char ivgen_hash[32];   /* after the ':'; or "" */
	struct cipher *cipher; /* NULL while locked */
};

/* By the names that headers use; the library has more digests than make sense here. The
 * caller frees it. */
static EVP_MD *hash_fetch(const char *name, struct err *err)
{
	static const char *const known[] = {
		"sha1", "sha224", "sha256", "sha384", "sha512", "ripemd160", "md5"};
	EVP_MD *md = NULL;

	for (size_t i = 0; i < ARRAY_LEN(known) && !md; i++) {
		if (!strcmp(name, known[i]))
			md = EVP_MD_fetch(NULL, name, NULL);
	}
	if (!md)
		err_set(err, ENOTSUP, "Hash algorithm '%s' not supported", name);
	return md;
}

/* The mode as cipher.h wants it: ECB has no IVs, whatever is said of them. */
static const char *cipher_mode(const struct luks *l)
{
	return !strcmp(l->mode, "ecb") ? "ecb" : l->header.mode;
}

static size_t material_bytes(uint32_t key_bytes)
{
	return (size_t)round_up((uint64_t)key_bytes * LUKS_STRIPES, LUKS_SECTOR);
}

/* ---- checking what was read ------------------------------------------------------ */

static int check_text(const char *text, size_t bytes, const char *what, struct err *err)
{
	if (strnlen(text, bytes) == bytes)
		return err_set(err, EINVAL, "LUKS header %s is not NUL terminated", what);
	return 0;
}

/* Splits "cbc-essiv:sha256". */
static int parse_mode(struct luks *l, struct err *err)
{
	char *dash, *colon;

	strcpy(l->mode, l->header.mode);
	dash = strchr(l->mode, '-');
	if (!dash && !strcmp(l->mode, "ecb")) {
		strcpy(l->ivgen, "plain64");
		return 0;
	}
	if (!dash)
		return err_set(err, EINVAL, "Unexpected cipher mode string format '%s'",
			l->header.mode);
	*dash = '\0';
	strcpy(l->ivgen, dash + 1);
	colon = strchr(l->ivgen, ':');
	if (colon) {
		*colon = '\0';
		strcpy(l->ivgen_hash, colon + 1);
	}
	return 0;
}

static int check_slot(const struct luks_disk_header *h, int i, uint64_t header_end,
	uint64_t limit, struct err *err)
{
	const struct luks_disk_slot *s = &h->slot[i];
	const uint64_t bytes = material_bytes(be32_get(h->key_bytes));
	const uint64_t start = (uint64_t)be32_get(s->material_sector) * LUKS_SECTOR;
	const uint32_t state = be32_get(s->state), iterations = be32_get(s->iterations);

	if (state != LUKS_SLOT_ACTIVE && state != LUKS_SLOT_INACTIVE)
		return err_set(err, EINVAL,
			"Keyslot %d state (active/disable) is corrupted (0x%08" PRIx32
			")",
			i, state);
	if (be32_get(s->stripes) != LUKS_STRIPES)
		return err_set(err, EINVAL,
			"Keyslot %d is corrupted (stripes %" PRIu32 " != %u)", i,
			be32_get(s->stripes), LUKS_STRIPES);
	if (state == LUKS_SLOT_ACTIVE && !iterations)
		return err_set(err, EINVAL, "Keyslot %d iteration count is zero", i);
	if (state == LUKS_SLOT_ACTIVE && iterations > LUKS_MAX_ITERATIONS)
		return err_set(err, EINVAL,
			"Keyslot %d iteration count %" PRIu32 " is above the limit of %u",
			i, iterations, LUKS_MAX_ITERATIONS);
	if (start < header_end)
		return err_set(
			err, EINVAL, "Keyslot %d is overlapping with the LUKS header", i);
	if (!range_inside(
		    start, bytes, (uint64_t)be32_get(h->payload_sector) * LUKS_SECTOR))
		return err_set(err, EINVAL,
			"Keyslot %d is overlapping with the encrypted payload", i);
	if (!range_inside(start, bytes, limit))
		return err_set(err, EINVAL,
			"Keyslot %d at 0x%" PRIx64 " lies outside the header's %" PRIu64
			" bytes",
			i, start, limit);
	for (int j = 0; j < i; j++) {
		if (ranges_overlap(start, bytes,
			    (uint64_t)be32_get(h->slot[j].material_sector) * LUKS_SECTOR,
			    bytes))
			return err_set(err, EINVAL,
				"Keyslots %d and %d are overlapping in the header", j, i);
	}
	return 0;
}

/* A header that makes us hash for hours is no disk's. */
static int check_runs(const struct luks *l, struct err *err)
{
	const struct luks_disk_header *h = &l->header;
	const uint64_t digest_bytes = (uint64_t)EVP_MD_get_size(l->md);
	const uint64_t blocks = div_round_up(be32_get(h->key_bytes), digest_bytes);
	const uint64_t check =
		div_round_up(LUKS_DIGEST, digest_bytes) * be32_get(h->digest_iterations);
	uint64_t runs = 0;

	for (int i = 0; i < LUKS_SLOTS; i++)
		if (be32_get(h->slot[i].state) == LUKS_SLOT_ACTIVE)
			runs += blocks * be32_get(h->slot[i].iterations) + check;
	if (runs <= LUKS_MAX_RUNS)
		return 0;
	return err_set(err, EINVAL,
		"LUKS iteration counts add up to %" PRIu64 " runs of '%s', the limit is "
		"%llu",
		runs, h->hash, LUKS_MAX_RUNS);
}

static int check_header(struct luks *l, uint64_t limit, struct err *err)
{
	const struct luks_disk_header *h = &l->header;
	const uint32_t key_bytes = be32_get(h->key_bytes);
	const uint32_t iterations = be32_get(h->digest_iterations);
	const uint64_t header_end = round_up(sizeof(*h), LUKS_SECTOR);
	int ret;

	if (memcmp(h->magic, luks_magic, sizeof(luks_magic)))
		return err_set(err, EINVAL, "Volume is not in LUKS format");
	if (be16_get(h->version) != 1)
		return err_set(err, ENOTSUP, "LUKS version %u is not supported",
			be16_get(h->version));
	if ((ret = check_text(h->cipher, sizeof(h->cipher), "cipher name", err)) ||
		(ret = check_text(h->mode, sizeof(h->mode), "cipher mode", err)) ||
		(ret = check_text(h->hash, sizeof(h->hash), "hash spec", err)) ||
		(ret = check_text(h->uuid, sizeof(h->uuid), "UUID", err)) ||
		(ret = parse_mode(l, err)))
		return ret;
	l->md = hash_fetch(h->hash, err);
	if (!l->md)
		return -ENOTSUP;
	if (!key_bytes || key_bytes > LUKS_MAX_KEY)
		return err_set(err, EINVAL,
			"Algorithm '%s' with key size %" PRIu32 " bytes not supported",
			h->cipher, key_bytes);
	if (!iterations)
		return err_set(err, EINVAL, "LUKS key iteration count is zero");
	if (iterations > LUKS_MAX_ITERATIONS)
		return err_set(err, EINVAL,
			"LUKS key iteration count %" PRIu32 " is above the limit of %u",
			iterations, LUKS_MAX_ITERATIONS);
	if ((uint64_t)be32_get(h->payload_sector) * LUKS_SECTOR < header_end)
		return err_set(
			err, EINVAL, "LUKS payload is overlapping with the header");
	for (int i = 0; i < LUKS_SLOTS; i++) {
		ret = check_slot(h, i, header_end, limit, err);
		if (ret)
			return ret;
	}
	return check_runs(l, err);
}

/* ---- key material ---------------------------------------------------------------- */

/* Hashes each digest-sized piece of a stripe with its number before it, so that every bit
 * of it depends on the whole piece. */
static int af_diffuse(const EVP_MD *md, uint8_t *stripe, size_t bytes)
{
	const size_t piece = (size_t)EVP_MD_get_size(md);
	uint8_t in[4 + EVP_MAX_MD_SIZE], out[EVP_MAX_MD_SIZE];
	int ok = 1;

	for (size_t at = 0, i = 0; at < bytes && ok; at += piece, i++) {
		const size_t n = MIN(piece, bytes - at);
		be32 number = be32_put((uint32_t)i);

		memcpy(in, &number, 4);
		memcpy(in + 4, stripe + at, n);
		ok = EVP_Digest(in, 4 + n, out, NULL, md, NULL);
		if (ok)
			memcpy(stripe + at, out, n);
	}
	OPENSSL_cleanse(in, sizeof(in));
	OPENSSL_cleanse(out, sizeof(out));
	return ok ? 0 : -EIO;
}

/* The sum that all stripes but the last make: diffuse(... diffuse(s0) ^ s1 ...) */
static int af_sum(
	const EVP_MD *md, const uint8_t *stripes, size_t key_bytes, uint8_t *sum)
{
	int ret = 0;

	memset(sum, 0, key_bytes);
	for (size_t s = 0; s < LUKS_STRIPES - 1 && !ret; s++) {
		for (size_t i = 0; i < key_bytes; i++)
			sum[i] ^= stripes[s * key_bytes + i];
		ret = af_diffuse(md, sum, key_bytes);
	}
	return ret;
}

/* key = sum ^ last stripe */
static int af_merge(
	const EVP_MD *md, const uint8_t *stripes, size_t key_bytes, uint8_t *key)
{
	const uint8_t *last = stripes + (LUKS_STRIPES - 1) * key_bytes;
	int ret = af_sum(md, stripes, key_bytes, key);

	for (size_t i = 0; i < key_bytes; i++)
		key[i] ^= last[i];
	return ret;
}

static int af_split(
	const EVP_MD *md, const uint8_t *key, size_t key_bytes, uint8_t *stripes)
{
	uint8_t *last = stripes + (LUKS_STRIPES - 1) * key_bytes;
	int ret;

	if (RAND_priv_bytes(stripes, (int)((LUKS_STRIPES - 1) * key_bytes)) != 1)
		return -EIO;
	ret = af_sum(md, stripes, key_bytes, last);
	for (size_t i = 0; i < key_bytes; i++)
		last[i] ^= key[i];
	return ret;
}

static int pbkdf2(const EVP_MD *md, const void *secret, size_t secret_bytes,
	const uint8_t *salt, uint32_t iterations, uint8_t *out, size_t out_bytes)
{
	/* NULL with length 0 would mean another thing to the library. */
	return PKCS5_PBKDF2_HMAC(secret_bytes ? secret : "", (int)secret_bytes, salt,
		       LUKS_SALT, (int)iterations, md, (int)out_bytes, out)
		       ? 0
		       : -EIO;
}

/* One slot's computation, sent to a worker. */
struct slot_job {
	const struct luks *l;
	const struct luks_disk_slot *slot;
	const void *passphrase;
	size_t passphrase_bytes;
	uint8_t *material; /* encrypted stripes, whole sectors */
	uint8_t *key;      /* volume key, LUKS_MAX_KEY bytes */
	struct err *err;
};

/* The cipher that protects the slot's stripes. */
static int slot_cipher(const struct slot_job *job, struct cipher **out)
{
	const struct luks_disk_header *h = &job->l->header;
	const size_t key_bytes = be32_get(h->key_bytes);
	uint8_t derived[LUKS_MAX_KEY];
	int ret;

	ret = pbkdf2(job->l->md, job->passphrase, job->passphrase_bytes, job->slot->salt,
		be32_get(job->slot->iterations), derived, key_bytes);
	if (ret)
		ret = err_set(job->err, EIO, "The crypto library failed in PBKDF2");
	else
		ret = cipher_new(out, h->cipher, cipher_mode(job->l), derived, key_bytes,
			job->err);
	OPENSSL_cleanse(derived, sizeof(derived));
	return ret;
}

static int volume_digest(const struct luks *l, const uint8_t *key, uint8_t *digest)
{
	const struct luks_disk_header *h = &l->header;

	return pbkdf2(l->md, key, be32_get(h->key_bytes), h->digest_salt,
		be32_get(h->digest_iterations), digest, LUKS_DIGEST);
}

/* 1: job->key is the volume key; 0: the passphrase does not open this slot. */
static long slot_unlock(void *arg)
{
	struct slot_job *job = arg;
	const struct luks_disk_header *h = &job->l->header;
	const size_t key_bytes = be32_get(h->key_bytes);
	uint8_t digest[LUKS_DIGEST];
	struct cipher *c = NULL;
	int ret = slot_cipher(job, &c);

	if (ret)
		return ret;
	ret = cipher_decrypt(
		c, 0, job->material, job->material, material_bytes(key_bytes));
	cipher_free(c);
	if (!ret)
		ret = af_merge(job->l->md, job->material, key_bytes, job->key);
	if (!ret)
		ret = volume_digest(job->l, job->key, digest);
	if (ret)
		return err_set(
			job->err, EIO, "The crypto library failed on key material");
	return !CRYPTO_memcmp(digest, h->digest, LUKS_DIGEST);
}

static void wipe_and_free(void *p, size_t bytes)
{
	if (p)
		OPENSSL_cleanse(p, bytes);
	buf_free(p);
}

static int try_slots(struct luks *l, const struct luks_io *io, const void *passphrase,
	size_t passphrase_bytes, uint8_t *key, struct err *err)
{
	const size_t bytes = material_bytes(be32_get(l->header.key_bytes));
	uint8_t *material = buf_alloc(bytes);
	long ret = 0;

	if (!material)
		return err_set(err, ENOMEM, "No memory for LUKS key material");
	for (int i = 0; i < LUKS_SLOTS && !ret; i++) {
		const struct luks_disk_slot *s = &l->header.slot[i];
		struct slot_job job = {
			l, s, passphrase, passphrase_bytes, material, key, err};

		if (be32_get(s->state) != LUKS_SLOT_ACTIVE)
			continue;
		ret = io->read(io->arg,
			(uint64_t)be32_get(s->material_sector) * LUKS_SECTOR, material,
			bytes);
		if (ret)
			ret = err_errno(err, (int)-ret, "Unable to read keyslot %d", i);
		else
			ret = worker_call(WORKER_CPU, slot_unlock, &job);
	}
	wipe_and_free(material, bytes);
	if (!ret)
		return err_set(
			err, EACCES, "Invalid password, cannot unlock any keyslot");
	return ret < 0 ? (int)ret : 0;
}

static int unlock(struct luks *l, const struct luks_io *io, const void *passphrase,
	size_t passphrase_bytes, struct err *err)
{
	uint8_t key[LUKS_MAX_KEY];
	int ret;

	if (passphrase_bytes > INT_MAX)
		return err_set(err, EINVAL, "The passphrase is too long");
	ret = try_slots(l, io, passphrase, passphrase_bytes, key, err);
	if (!ret)
		ret = cipher_new(&l->cipher, l->header.cipher, cipher_mode(l), key,
			be32_get(l->header.key_bytes), err);
	OPENSSL_cleanse(key, sizeof(key));
	return ret;
}

bool luks_probe(const uint8_t *buf, size_t bytes)
{
	return bytes >= 8 && !memcmp(buf, luks_magic, sizeof(luks_magic)) && !buf[6] &&
	       buf[7] == 1;
}

int luks_open(struct luks **out, const struct luks_io *io, uint64_t io_limit,
	const void *passphrase, size_t passphrase_bytes, struct err *err)
{
	struct luks *l;
	int ret;

	if (io_limit < sizeof(l->header))
		return err_set(err, EINVAL,
			"Volume is not in LUKS format: %" PRIu64 " bytes are too short",
			io_limit);
	l = calloc(1, sizeof(*l));
	if (!l)
		return err_set(err, ENOMEM, "No memory for a LUKS header");
	ret = io->read(io->arg, 0, &l->header, sizeof(l->header));
	if (ret)
		ret = err_errno(err, -ret, "Unable to read LUKS header");
	else
		ret = check_header(l, io_limit, err);
	if (!ret && passphrase)
		ret = unlock(l, io, passphrase, passphrase_bytes, err);
	if (ret) {
		luks_free(l);
		return ret;
	}
	*out = l;
	return 0;
}

void luks_free(struct luks *l)
{
	if (!l)
		return;
	cipher_free(l->cipher);
	EVP_MD_free(l->md);
	OPENSSL_cleanse(l, sizeof(*l));
	free(l);
}

/* ---- creating -------------------------------------------------------------------- */

int luks_params_take(struct opts *opts, struct luks_params *out, struct err *err)
{
	static const char *const ciphers[] = {"aes-128", "aes-192", "aes-256", NULL};
	static const char *const modes[] = {"ecb", "cbc", "xts", NULL};
	static const char *const ivgens[] = {"plain", "plain64", "essiv", NULL};
	static const char *const hashes[] = {
		"md5", "sha1", "sha224", "sha256", "sha384", "sha512", "ripemd160", NULL};
	int cipher = 2, mode = 2, ivgen = 1, hash = 3, ivgen_hash = 3, ret;
	uint64_t iter_time_ms = 2000;

	if ((ret = opts_take_enum(opts, "cipher-alg", ciphers, &cipher, err)) ||
		(ret = opts_take_enum(opts, "cipher-mode", modes, &mode, err)) ||
		(ret = opts_take_enum(opts, "ivgen-alg", ivgens, &ivgen, err)) ||
		(ret = opts_take_enum(
			 opts, "ivgen-hash-alg", hashes, &ivgen_hash, err)) ||
		(ret = opts_take_enum(opts, "hash-alg", hashes, &hash, err)) ||
		(ret = opts_take_u64(opts, "iter-time", &iter_time_ms, err)))
		return ret;
	if (iter_time_ms > UINT_MAX)
		return err_set(err, ERANGE, "iter-time %" PRIu64 " ms is out of range",
			iter_time_ms);
	*out = (struct luks_params){
		.cipher = "aes",
		.key_bits = 128 + 64 * (unsigned)cipher,
		.mode = modes[mode],
		.ivgen = ivgens[ivgen],
		.ivgen_hash = ivgen == 2 ? hashes[ivgen_hash] : NULL,
		.hash = hashes[hash],
		.iter_time_ms = (unsigned)iter_time_ms,
	};
	return 0;
}

static uint32_t params_key_bytes(const struct luks_params *p)
{
	return p->key_bits / 8 * (strcmp(p->mode, "xts") ? 1 : 2);
}

static uint64_t params_slot_bytes(const struct luks_params *p)
{
	return round_up(material_bytes(params_key_bytes(p)), LUKS_ALIGN);
}

uint64_t luks_header_bytes(const struct luks_params *p)
{
	return LUKS_ALIGN + LUKS_SLOTS * params_slot_bytes(p);
}

static uint64_t thread_time_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* Iterations a second for one digest's length of output. By this thread's own time, and
 * the best of three, so that a busy machine does not make weak volumes. */
static int benchmark(const EVP_MD *md, double *rate)
{
	static const uint8_t salt[LUKS_SALT];
	uint8_t out[EVP_MAX_MD_SIZE];
	int rounds = 0;

	*rate = 0;
	for (uint32_t n = 1u << 13; rounds < 3;) {
		uint64_t start = thread_time_ns(), spent_ns;
		int ret = pbkdf2(
			md, "benchmark", 9, salt, n, out, (size_t)EVP_MD_get_size(md));

		if (ret)
			return ret;
		spent_ns = thread_time_ns() - start;
		if (spent_ns < 10000000 && n < 1u << 26) {
			n *= 2;
			continue;
		}
		*rate = MAX(*rate, n * 1e9 / ((double)spent_ns + 1));
		rounds++;
	}
	return 0;
}

/* PBKDF2 computes a whole digest at a time: out_bytes cost as many as they need. */
static int iterations_for(const EVP_MD *md, double rate, size_t out_bytes, double time_ms,
	uint32_t *out, struct err *err)
{
	double n = rate * time_ms / 1000 /
		   (double)div_round_up(out_bytes, (uint64_t)EVP_MD_get_size(md));

	if (n > LUKS_MAX_ITERATIONS)
		return err_set(err, ERANGE,
			"PBKDF2 iteration count %.0f is above the limit of %u: lower "
			"iter-time",
			n, LUKS_MAX_ITERATIONS);
	*out = n < LUKS_MIN_ITERATIONS ? LUKS_MIN_ITERATIONS : (uint32_t)n;
	return 0;
}

/* As is usual, the volume key's digest takes an eighth of a slot's time. */
static int choose_iterations(struct luks *l, unsigned iter_time_ms, struct err *err)
{
	const uint32_t key_bytes = be32_get(l->header.key_bytes);
	uint32_t slot = LUKS_MIN_ITERATIONS, digest = LUKS_MIN_ITERATIONS;
	double rate;
	int ret;

	if (iter_time_ms) {
		if (benchmark(l->md, &rate))
			return err_set(err, EIO, "The crypto library failed in PBKDF2");
		ret = iterations_for(l->md, rate, key_bytes, iter_time_ms, &slot, err);
		if (!ret)
			ret = iterations_for(l->md, rate, LUKS_DIGEST, iter_time_ms / 8.0,
				&digest, err);
		if (ret)
			return ret;
	}
	l->header.slot[0].iterations = be32_put(slot);
	l->header.digest_iterations = be32_put(digest);
	return 0;
}

/* A random (version 4) UUID as text. */
static int make_uuid(char *text)
{
	uint8_t u[16];

	if (RAND_bytes(u, sizeof(u)) != 1)
		return -EIO;
	u[6] = (u[6] & 0x0f) | 0x40;
	u[8] = (u[8] & 0x3f) | 0x80;
	snprintf(text, LUKS_UUID,
		"%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x",
		u[0], u[1], u[2], u[3], u[4], u[5], u[6], u[7], u[8], u[9], u[10], u[11],
		u[12], u[13], u[14], u[15]);
	return 0;
}

/* All of the header but iterations and digest. */
static int make_header(struct luks *l, const struct luks_params *p, struct err *err)
{
	struct luks_disk_header *h = &l->header;
	const uint32_t slot_sectors = (uint32_t)(params_slot_bytes(p) / LUKS_SECTOR);
	int n;

	memcpy(h->magic, luks_magic, sizeof(luks_magic));
	h->version = be16_put(1);
	snprintf(h->cipher, sizeof(h->cipher), "%s", p->cipher);
	snprintf(h->hash, sizeof(h->hash), "%s", p->hash);
	n = snprintf(h->mode, sizeof(h->mode), "%s-%s%s%s", p->mode, p->ivgen,
		p->ivgen_hash ? ":" : "", p->ivgen_hash ? p->ivgen_hash : "");
	assert(n > 0 && (size_t)n < sizeof(h->mode));
	h->payload_sector = be32_put((uint32_t)(luks_header_bytes(p) / LUKS_SECTOR));
	h->key_bytes = be32_put(params_key_bytes(p));
	for (uint32_t i = 0; i < LUKS_SLOTS; i++) {
		h->slot[i].state = be32_put(LUKS_SLOT_INACTIVE);
		h->slot[i].material_sector =
			be32_put(LUKS_ALIGN / LUKS_SECTOR + i * slot_sectors);
		h->slot[i].stripes = be32_put(LUKS_STRIPES);
	}
	h->slot[0].state = be32_put(LUKS_SLOT_ACTIVE);
	if (RAND_bytes(h->digest_salt, LUKS_SALT) != 1 ||
		RAND_bytes(h->slot[0].salt, LUKS_SALT) != 1 || make_uuid(h->uuid))
		return err_set(err, EIO, "The crypto library gave no random numbers");
	l->md = hash_fetch(h->hash, err);
	if (!l->md)
		return -ENOTSUP;
	return parse_mode(l, err);
}

struct create_job {
	struct luks *l;
	unsigned iter_time_ms;
	struct slot_job slot;
};

/* Everything that computes: the key, its digest, and the material of slot 0. */
static long make_keys(void *arg)
{
	struct create_job *job = arg;
	struct luks *l = job->l;
	const size_t key_bytes = be32_get(l->header.key_bytes);
	const size_t bytes = material_bytes(key_bytes);
	uint8_t *key = job->slot.key, *material = job->slot.material;
	struct cipher *c = NULL;
	int ret;

	ret = choose_iterations(l, job->iter_time_ms, job->slot.err);
	if (ret)
		return ret;
	if (RAND_priv_bytes(key, (int)key_bytes) != 1)
		return err_set(
			job->slot.err, EIO, "The crypto library gave no random numbers");
	ret = cipher_new(&l->cipher, l->header.cipher, cipher_mode(l), key, key_bytes,
		job->slot.err);
	if (!ret)
		ret = slot_cipher(&job->slot, &c);
	if (ret)
		return ret;
	memset(material, 0, bytes);
	ret = volume_digest(l, key, l->header.digest);
	if (!ret)
		ret = af_split(l->md, key, key_bytes, material);
	if (!ret)
		ret = cipher_encrypt(c, 0, material, material, bytes);
	cipher_free(c);
	return ret ? err_set(job->slot.err, EIO,
			     "The crypto library failed on key material")
		   : 0;
}

static int create_keys(struct luks *l, const struct luks_params *p,
	const struct luks_io *io, const void *passphrase, size_t passphrase_bytes,
	struct err *err)
{
	const struct luks_disk_slot *slot = &l->header.slot[0];
	const size_t bytes = material_bytes(be32_get(l->header.key_bytes));
	uint8_t key[LUKS_MAX_KEY], *material = buf_alloc(bytes);
	struct create_job job = {l, p->iter_time_ms,
		{l, slot, passphrase, passphrase_bytes, material, key, err}};
	int ret;

	if (!material)
		return err_set(err, ENOMEM, "No memory for LUKS key material");
	ret = (int)worker_call(WORKER_CPU, make_keys, &job);
	OPENSSL_cleanse(key, sizeof(key));
	if (!ret) {
		ret = io->write(io->arg,
			(uint64_t)be32_get(slot->material_sector) * LUKS_SECTOR, material,
			bytes);
		if (ret)
			ret = err_errno(err, -ret, "Unable to write key material");
	}
	wipe_and_free(material, bytes);
	return ret;
}

int luks_create(struct luks **out, const struct luks_params *p, const struct luks_io *io,
	const void *passphrase, size_t passphrase_bytes, struct err *err)
{
	struct luks *l;
	int ret;

	if (passphrase_bytes > INT_MAX)
		return err_set(err, EINVAL, "The passphrase is too long");
	l = calloc(1, sizeof(*l));
	if (!l)
		return err_set(err, ENOMEM, "No memory for a LUKS header");
	ret = make_header(l, p, err);
	if (!ret)
		ret = create_keys(l, p, io, passphrase, passphrase_bytes, err);
	if (!ret) {
		/* A crash before this leaves a volume that nobody takes for LUKS. */
		ret = io->write(io->arg, 0, &l->header, sizeof(l->header));
		if (ret)
			ret = err_errno(err, -ret, "Unable to write LUKS header");
	}
	if (ret) {
		luks_free(l);
		return ret;
	}
	*out = l;
	return 0;
}

/* ---- facts ----------------------------------------------------------------------- */

struct cipher *luks_cipher(const struct luks *l)
{
	return l->cipher;
}

uint64_t luks_payload_offset(const struct luks *l)
{
	return (uint64_t)be32_get(l->header.payload_sector) * LUKS_SECTOR;
}

static struct json *slot_info(const struct luks_disk_slot *s)
{
	const bool active = be32_get(s->state) == LUKS_SLOT_ACTIVE;
	struct json *v = json_new_object();

	json_put_bool(v, "active", active);
	if (active)
		json_put_int(v, "iters", be32_get(s->iterations));
	json_put_int(
		v, "key-offset", (int64_t)be32_get(s->material_sector) * LUKS_SECTOR);
	if (active)
		json_put_int(v, "stripes", be32_get(s->stripes));
	return v;
}

/* Keys in the order that qemu-img prints them. */
struct json *luks_info(const struct luks *l)
{
	const struct luks_disk_header *h = &l->header;
	const unsigned halves = strcmp(l->mode, "xts") ? 1 : 2;
	struct json *v = json_new_object(), *slots = json_new_array();
	char cipher[48];

	snprintf(cipher, sizeof(cipher), "%s-%u", h->cipher,
		be32_get(h->key_bytes) * 8 / halves);
	json_put_string(v, "ivgen-alg", l->ivgen);
	json_put_bool(v, "detached-header", false);
	json_put_string(v, "hash-alg", h->hash);
	json_put_string(v, "cipher-alg", cipher);
	json_put_string(v, "uuid", h->uuid);
	if (l->ivgen_hash[0])
		json_put_string(v, "ivgen-hash-alg", l->ivgen_hash);
	json_put_string(v, "cipher-mode", l->mode);
	for (int i = 0; i < LUKS_SLOTS; i++)
		json_add(slots, slot_info(&h->slot[i]));
	json_put(v, "slots", slots);
	json_put_int(v, "payload-offset", (int64_t)luks_payload_offset(l));
	json_put_int(v, "master-key-iters", be32_get(h->digest_iterations));
	return v;
}
