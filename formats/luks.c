/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * luks: a whole disk encrypted, behind a LUKS version 1 header (block/luks.h).
 *
 * Sectors are numbered from the start of the payload. Reads are decrypted where they lie;
 * writes are encrypted into a buffer of bounded size, since the caller's memory is not
 * ours to change. A hole in the file decrypts to noise: nothing here is ever known to be
 * zero, and a part that grew reads as noise until it is written.
 *
 * What takes longer than a hop to the worker pool goes there; a caller that wants several
 * processors at work has several requests in flight.
 */
#include <inttypes.h>
#include <pthread.h>

#include "base/aio.h"
#include "base/iov.h"
#include "base/math.h"
#include "block/driver.h"
#include "block/format.h"
#include "block/luks.h"
#include "block/secret.h"

#define PIECE_BYTES  (1u << 20) /* of a write's buffer */
#define SPARES_MAX   16u
#define INLINE_BYTES (32u << 10) /* some 7 us of AES-XTS */

/* A write's buffer while nobody uses it. */
struct spare {
	struct spare *next;
};

struct luks_disk {
	struct luks *luks;
	struct cipher *cipher; /* NULL with BLK_O_NO_IO */
	uint64_t payload;      /* offset in the file */

	pthread_mutex_t lock; /* of what follows */
	struct spare *spares; /* PIECE_BYTES each */
	unsigned n_spares;
};

/* ---- the header's place ---------------------------------------------------------- */

static int header_read(void *arg, uint64_t offset, void *buf, size_t bytes)
{
	return blk_pread(arg, offset, buf, bytes);
}

static int header_write(void *arg, uint64_t offset, const void *buf, size_t bytes)
{
	return blk_pwrite(arg, offset, buf, bytes, 0);
}

static int find_passphrase(
	struct opts *opts, const void **data, size_t *bytes, struct err *err)
{
	const char *id = opts_take(opts, "key-secret");

	if (!id)
		return err_set(
			err, EINVAL, "Parameter 'key-secret' is required for cipher");
	return secret_find(id, data, bytes, err);
}

/* ---- open and close -------------------------------------------------------------- */

static int open_header(struct blk *b, struct opts *opts, struct err *err)
{
	struct luks_disk *d = b->state;
	struct luks_io io = {header_read, header_write, b->file};
	const void *passphrase = NULL;
	size_t bytes = 0;
	int ret = 0;

	if (b->flags & BLK_O_NO_IO)
		opts_take(opts, "key-secret");
	else
		ret = find_passphrase(opts, &passphrase, &bytes, err);
	if (!ret)
		ret = luks_open(&d->luks, &io, blk_size(b->file), passphrase, bytes, err);
	return ret;
}

static int disk_open(struct blk *b, struct opts *opts, struct err *err)
{
	struct luks_disk *d = b->state;
	uint64_t whole;
	int ret;

	if (!blk_open_child(b, opts, "file", NULL, b->flags | BLK_O_SHARE_WRITE, err))
		return -err->code;
	ret = open_header(b, opts, err);
	if (ret)
		return ret;
	d->cipher = luks_cipher(d->luks);
	d->payload = luks_payload_offset(d->luks);
	whole = blk_size(b->file);
	if (d->payload > whole) {
		ret = err_set(err, EINVAL,
			"LUKS payload at 0x%" PRIx64
			" lies outside the file (size 0x%" PRIx64 ")",
			d->payload, whole);
		luks_free(d->luks);
		return ret;
	}
	b->size = b->file->caps & BLK_CAP_GROW
			  ? round_up(whole - d->payload, CIPHER_SECTOR)
			  : round_down(whole - d->payload, CIPHER_SECTOR);
	b->caps = BLK_CAP_FUA;
	b->limits.request_align = CIPHER_SECTOR;
	b->limits.optimal = b->file->limits.optimal;
	pthread_mutex_init(&d->lock, NULL);
	return 0;
}

static int disk_close(struct blk *b)
{
	struct luks_disk *d = b->state;

	while (d->spares) {
		struct spare *spare = d->spares;

		d->spares = spare->next;
		buf_free(spare);
	}
	pthread_mutex_destroy(&d->lock);
	luks_free(d->luks);
	return 0;
}

/* ---- buffers --------------------------------------------------------------------- */

/* Fresh memory of a megabyte costs the kernel as much as encrypting into it costs us, so
 * big buffers are kept. */
static void *buffer_get(struct luks_disk *d, size_t bytes)
{
	struct spare *spare = NULL;

	if (bytes <= INLINE_BYTES)
		return buf_alloc(bytes);
	pthread_mutex_lock(&d->lock);
	if (d->spares) {
		spare = d->spares;
		d->spares = spare->next;
		d->n_spares--;
	}
	pthread_mutex_unlock(&d->lock);
	return spare ? (void *)spare : buf_alloc(PIECE_BYTES);
}

static void buffer_put(struct luks_disk *d, void *buf, size_t bytes)
{
	struct spare *spare = buf;

	if (buf && bytes > INLINE_BYTES) {
		pthread_mutex_lock(&d->lock);
		if (d->n_spares < SPARES_MAX) {
			spare->next = d->spares;
			d->spares = spare;
			d->n_spares++;
			buf = NULL;
		}
		pthread_mutex_unlock(&d->lock);
	}
	buf_free(buf);
}

/* ---- data ------------------------------------------------------------------------ */

struct crypt_job {
	struct cipher *cipher;
	uint64_t offset; /* on the disk */
	const struct iovec *iov;
	int niov;
	size_t pos, bytes; /* in the vector */
	uint8_t *buf;      /* encrypt: where to */
};

static bool whole_sectors(const struct iovec *iov, int niov)
{
	size_t bits = 0;

	for (int i = 0; i < niov; i++)
		bits |= iov[i].iov_len;
	return is_aligned(bits, CIPHER_SECTOR);
}

/* In place; segments are whole sectors, pos is 0. */
static long decrypt_job(void *arg)
{
	const struct crypt_job *job = arg;
	uint64_t sector = job->offset / CIPHER_SECTOR;
	int ret = 0;

	for (int i = 0; i < job->niov && !ret; i++) {
		const struct iovec *v = &job->iov[i];

		ret = cipher_decrypt(
			job->cipher, sector, v->iov_base, v->iov_base, v->iov_len);
		sector += v->iov_len / CIPHER_SECTOR;
	}
	return ret;
}

/* Straight from the segments where they are whole sectors. */
static long encrypt_job(void *arg)
{
	const struct crypt_job *job = arg;
	uint64_t sector = job->offset / CIPHER_SECTOR;
	size_t skip = job->pos, done = 0;
	int ret = 0;

	if (!whole_sectors(job->iov, job->niov)) {
		iov_to_buf(job->iov, job->niov, job->pos, job->buf, job->bytes);
		return cipher_encrypt(
			job->cipher, sector, job->buf, job->buf, job->bytes);
	}
	for (int i = 0; done < job->bytes && !ret; i++) {
		const struct iovec *v = &job->iov[i];
		const size_t at = MIN(skip, v->iov_len);
		const size_t n = MIN(v->iov_len - at, job->bytes - done);

		ret = cipher_encrypt(job->cipher, sector + done / CIPHER_SECTOR,
			job->buf + done, (const uint8_t *)v->iov_base + at, n);
		skip -= at;
		done += n;
	}
	return ret;
}

static int run(long (*fn)(void *arg), struct crypt_job *job)
{
	if (job->bytes <= INLINE_BYTES)
		return (int)fn(job);
	return (int)worker_call(WORKER_CPU, fn, job);
}

/* Segments end inside sectors: through a buffer. */
static int read_bounced(
	struct blk *b, uint64_t offset, uint64_t bytes, const struct iovec *iov, int niov)
{
	struct luks_disk *d = b->state;
	const size_t room = (size_t)MIN(bytes, (uint64_t)PIECE_BYTES);
	void *buf = buffer_get(d, room);
	int ret = buf ? 0 : -ENOMEM;

	for (uint64_t pos = 0; pos < bytes && !ret; pos += room) {
		const size_t n = (size_t)MIN(bytes - pos, (uint64_t)room);
		const struct iovec flat = {buf, n};
		struct crypt_job job = {d->cipher, offset + pos, &flat, 1, 0, n, NULL};

		ret = blk_pread(b->file, d->payload + offset + pos, buf, n);
		if (!ret)
			ret = run(decrypt_job, &job);
		if (!ret)
			iov_from_buf(iov, niov, pos, buf, n);
	}
	buffer_put(d, buf, room);
	return ret;
}

static int disk_preadv(
	struct blk *b, uint64_t offset, uint64_t bytes, const struct iovec *iov, int niov)
{
	const struct luks_disk *d = b->state;
	struct crypt_job job = {d->cipher, offset, iov, niov, 0, bytes, NULL};
	int ret;

	if (!d->cipher)
		return -EIO;
	if (!whole_sectors(iov, niov))
		return read_bounced(b, offset, bytes, iov, niov);
	ret = blk_preadv(b->file, d->payload + offset, iov, niov, 0);
	return ret ? ret : run(decrypt_job, &job);
}

static int disk_pwritev(struct blk *b, uint64_t offset, uint64_t bytes,
	const struct iovec *iov, int niov, unsigned flags)
{
	struct luks_disk *d = b->state;
	const size_t room = (size_t)MIN(bytes, (uint64_t)PIECE_BYTES);
	void *buf;
	int ret = 0;

	if (!d->cipher)
		return -EIO;
	buf = buffer_get(d, room);
	if (!buf)
		return -ENOMEM;
	for (uint64_t pos = 0; pos < bytes && !ret; pos += room) {
		const size_t n = (size_t)MIN(bytes - pos, (uint64_t)room);
		struct crypt_job job = {d->cipher, offset + pos, iov, niov, pos, n, buf};

		ret = run(encrypt_job, &job);
		if (!ret)
			ret = blk_pwrite(
				b->file, d->payload + offset + pos, buf, n, flags);
	}
	buffer_put(d, buf, room);
	return ret;
}

static int disk_flush(struct blk *b)
{
	return blk_flush(b->file);
}

static int disk_resize(
	struct blk *b, uint64_t bytes, enum blk_prealloc prealloc, struct err *err)
{
	const struct luks_disk *d = b->state;
	int ret;

	if (!is_aligned(bytes, BLK_SECTOR))
		return err_set(
			err, EINVAL, "The new size must be a multiple of %u", BLK_SECTOR);
	if (bytes > BLK_MAX_SIZE - d->payload)
		return err_set(err, EFBIG, "The image size is too large");
	ret = blk_resize(b->file, d->payload + bytes, prealloc, err);
	if (!ret)
		blk_set_size(b, bytes);
	return ret;
}

/* ---- the format ------------------------------------------------------------------ */

static int disk_probe(const uint8_t *buf, size_t bytes, const char *filename)
{
	(void)filename;
	return luks_probe(buf, bytes) ? 100 : 0;
}

/* What create and measure have in common. */
struct making {
	struct luks_params params;
	const void *passphrase; /* borrowed */
	size_t passphrase_bytes;
	uint64_t header, size; /* bytes */
};

static int take_making(struct opts *opts, struct making *m, struct err *err)
{
	bool detached = false;
	int ret;

	if ((ret = luks_params_take(opts, &m->params, err)) ||
		(ret = find_passphrase(
			 opts, &m->passphrase, &m->passphrase_bytes, err)) ||
		(ret = opts_take_size(opts, "size", &m->size, err)) ||
		(ret = opts_take_bool(opts, "detached-header", &detached, err)))
		return ret;
	if (detached)
		return err_set(err, ENOTSUP, "Detached LUKS headers are not supported");
	m->header = luks_header_bytes(&m->params);
	if (m->size > BLK_MAX_SIZE - m->header - CIPHER_SECTOR)
		return err_set(err, EFBIG, "The image size is too large");
	m->size = round_up(m->size, CIPHER_SECTOR);
	return 0;
}

static int disk_create(
	const char *filename, struct blk *file, struct opts *opts, struct err *err)
{
	struct luks_io io = {header_read, header_write, file};
	int prealloc = BLK_PREALLOC_OFF;
	struct making m = {.size = 0};
	struct luks *l;
	int ret;

	(void)filename;
	if ((ret = take_making(opts, &m, err)) ||
		(ret = opts_take_enum(
			 opts, "preallocation", blk_prealloc_names, &prealloc, err)))
		return ret;
	if (!file)
		return 0;
	if (prealloc == BLK_PREALLOC_METADATA) /* the header, which is there anyway */
		prealloc = BLK_PREALLOC_OFF;
	ret = blk_resize(file, m.header + m.size, (enum blk_prealloc)prealloc, err);
	if (!ret)
		ret = luks_create(
			&l, &m.params, &io, m.passphrase, m.passphrase_bytes, err);
	if (!ret)
		luks_free(l);
	return ret;
}

static int disk_measure(
	struct opts *opts, struct blk *src, struct blk_measure *out, struct err *err)
{
	struct making m = {.size = src ? blk_size(src) : 0};
	int ret;

	opts_take(opts, "preallocation");
	ret = take_making(opts, &m, err);
	if (!ret)
		out->required = out->fully_allocated = m.header + m.size;
	return ret;
}

static struct json *disk_info(struct blk *b)
{
	const struct luks_disk *d = b->state;

	return luks_info(d->luks);
}

static void disk_traits(
	struct blk *b, uint32_t *cluster_bytes, bool *dirty, bool *encrypted)
{
	(void)b;
	*cluster_bytes = 0;
	*dirty = false;
	*encrypted = true;
}

static const struct blk_create_opt luks_create_opts[] = {
	{"size", "size", "Virtual disk size", NULL},
	{"key-secret", "str", "ID of the secret that provides the keyslot passphrase",
		NULL},
	{"cipher-alg", "str", "Name of encryption cipher algorithm", NULL},
	{"cipher-mode", "str", "Name of encryption cipher mode", NULL},
	{"ivgen-alg", "str", "Name of IV generator algorithm", NULL},
	{"ivgen-hash-alg", "str", "Name of IV generator hash algorithm", NULL},
	{"hash-alg", "str", "Name of encryption hash algorithm", NULL},
	{"iter-time", "num", "Time to spend in PBKDF in milliseconds", NULL},
	{"detached-header", "bool (on/off)", "Create a detached LUKS header", NULL},
	{"preallocation", "str", "Preallocation mode (allowed values: off, falloc, full)",
		NULL},
	{NULL, NULL, NULL, NULL},
};

static const struct blk_format_ops luks_format_ops = {
	.create_opts = luks_create_opts,
	.probe = disk_probe,
	.create = disk_create,
	.measure = disk_measure,
	.info = disk_info,
	.traits = disk_traits,
};

const struct blk_driver blk_luks_driver = {
	.name = "luks",
	.kind = BLK_FORMAT,
	.state_bytes = sizeof(struct luks_disk),
	.open = disk_open,
	.close = disk_close,
	.preadv = disk_preadv,
	.pwritev = disk_pwritev,
	.flush = disk_flush,
	.resize = disk_resize,
	.format = &luks_format_ops,
};
