/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Encryption: LUKS, whose header lies in clusters of its own and whose IVs count from the
 * host offset; and the legacy AES-CBC, whose IVs count from the guest offset, and which is
 * written only when the user insists.
 */
#include "block/luks.h"
#include "block/secret.h"
#include "qcow2/qcow2.h"

/* Below this the hop to a worker costs more than it spreads. */
#define INLINE_BYTES (16u << 10)

static int luks_read(void *arg, uint64_t offset, void *buf, size_t bytes)
{
	struct qcow2 *q = arg;

	if (!range_inside(offset, bytes, q->luks_bytes))
		return -EINVAL;
	return blk_pread(q->file, q->luks_offset + offset, buf, bytes);
}

static int luks_write(void *arg, uint64_t offset, const void *buf, size_t bytes)
{
	struct qcow2 *q = arg;

	if (!range_inside(offset, bytes, q->luks_bytes))
		return -EINVAL;
	return qcow2_meta_write(q, QCOW2_K_LUKS, q->luks_offset + offset, buf, bytes);
}

void qcow2_luks_io(struct qcow2 *q, struct luks_io *io)
{
	*io = (struct luks_io){luks_read, luks_write, q};
}

static int open_luks(struct qcow2 *q, const void *secret, size_t bytes, struct err *err)
{
	struct luks_io io;
	int ret;

	qcow2_luks_io(q, &io);
	ret = luks_open(&q->luks, &io, q->luks_bytes, secret, bytes, err);
	if (ret == 0)
		q->cipher = luks_cipher(q->luks);
	return ret;
}

/* The legacy key is the password itself, cut or padded with zeros to 16 bytes. */
static int open_aes(struct qcow2 *q, const void *secret, size_t bytes, struct err *err)
{
	uint8_t key[16] = {0};
	int ret;

	if (blk_flags(q->b) & BLK_O_RDWR && !(blk_flags(q->b) & BLK_O_ALLOW_AES))
		return err_set(err, EPERM,
			"legacy AES encryption is read-only here; convert the image to "
			"LUKS");
	if (!secret)
		return 0;
	memcpy(key, secret, MIN(bytes, sizeof(key)));
	ret = cipher_new(&q->aes, "aes", "cbc-plain64", key, sizeof(key), err);
	explicit_bzero(key, sizeof(key));
	q->cipher = q->aes;
	return ret;
}

int qcow2_crypt_open(struct qcow2 *q, struct opts *opts, struct err *err)
{
	const char *format = opts_take(opts, "encrypt.format");
	const char *id = opts_take(opts, "encrypt.key-secret");
	const char *want = q->crypt_method == QCOW2_CRYPT_LUKS ? "luks" : "aes";
	const void *secret = NULL;
	size_t bytes = 0;
	int ret = 0;

	if (!q->encrypted) {
		if (format || id)
			return err_set(err, EINVAL,
				"No encryption in image header, but options "
				"specified format '%s'",
				format ? format : "");
		return 0;
	}
	if (format && strcmp(format, want))
		return err_set(err, EINVAL,
			"Header reported '%s' encryption format but options "
			"specify '%s'",
			want, format);
	if (id)
		ret = secret_find(id, &secret, &bytes, err);
	else if (!(blk_flags(q->b) & (BLK_O_NO_IO | BLK_O_CHECK)))
		ret = err_set(err, EINVAL,
			"Parameter 'encrypt.key-secret' is required for cipher");
	if (ret < 0)
		return ret;
	return q->crypt_method == QCOW2_CRYPT_LUKS ? open_luks(q, secret, bytes, err)
						   : open_aes(q, secret, bytes, err);
}

void qcow2_crypt_close(struct qcow2 *q)
{
	luks_free(q->luks);
	cipher_free(q->aes);
	q->luks = NULL;
	q->aes = NULL;
	q->cipher = NULL;
}

struct crypt_job {
	struct cipher *cipher;
	uint64_t sector;
	void *buf;
	size_t bytes;
	bool encrypt;
};

static long crypt_run(void *arg)
{
	struct crypt_job *j = arg;

	return j->encrypt
		       ? cipher_encrypt(j->cipher, j->sector, j->buf, j->buf, j->bytes)
		       : cipher_decrypt(j->cipher, j->sector, j->buf, j->buf, j->bytes);
}

static int crypt_sectors(struct qcow2 *q, bool encrypt, uint64_t guest, uint64_t host,
	void *buf, size_t bytes)
{
	uint64_t from = q->crypt_method == QCOW2_CRYPT_LUKS ? host : guest;
	struct crypt_job j = {q->cipher, from / BLK_SECTOR, buf, bytes, encrypt};

	assert(is_aligned(from | bytes, BLK_SECTOR));
	if (bytes <= INLINE_BYTES)
		return (int)crypt_run(&j);
	return (int)worker_call(WORKER_CPU, crypt_run, &j);
}

int qcow2_encrypt(struct qcow2 *q, uint64_t guest, uint64_t host, void *buf, size_t bytes)
{
	return crypt_sectors(q, true, guest, host, buf, bytes);
}

int qcow2_decrypt(struct qcow2 *q, uint64_t guest, uint64_t host, void *buf, size_t bytes)
{
	return crypt_sectors(q, false, guest, host, buf, bytes);
}
