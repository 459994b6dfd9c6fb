/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Making an image: three clusters by hand (header, refcount table, one refcount block), and
 * from there on the engine itself, by growing the empty disk to its size.
 *
 *	cluster 0	header
 *	cluster 1	refcount table
 *	cluster 2	refcount block 0, which counts the three
 *	then		L1, and with LUKS the encryption header
 */
#include <sys/stat.h>

#include "block/secret.h"
#include "qcow2/params.h"

#define FIRST_CLUSTERS 3u

/* ---- the first clusters ---------------------------------------------------------- */

/* The header's facts, for qcow2_header_write. */
static int fill_header(struct qcow2 *q, struct blk *b, const struct qcow2_params *p)
{
	q->b = b;
	q->file = b->file;
	q->version = p->version;
	q->cluster_bits = (unsigned)__builtin_ctzll(p->cluster_size);
	q->cluster_bytes = (uint32_t)p->cluster_size;
	q->refcount_order = (unsigned)__builtin_ctzll(p->refcount_bits);
	q->header_length = p->version == 2 ? QCOW2_V2_HEADER_BYTES : QCOW2_HEADER_BYTES;
	q->codec = p->codec;
	q->reft_offset = p->cluster_size;
	q->reft_clusters = 1;
	q->incompatible = (p->data_file ? QCOW2_INCOMPAT_DATA_FILE : 0) |
			  (p->codec != CODEC_ZLIB ? QCOW2_INCOMPAT_COMPRESSION : 0) |
			  (p->extl2 ? QCOW2_INCOMPAT_EXTL2 : 0);
	q->compatible = p->lazy ? QCOW2_COMPAT_LAZY_REFCOUNTS : 0;
	q->autoclear = p->raw ? QCOW2_AUTOCLEAR_DATA_FILE_RAW : 0;
	q->data_file_name = p->data_file ? strdup(p->data_file) : NULL;
	if (p->backing)
		b->backing_name = strdup(p->backing);
	if (p->backing_format)
		b->backing_format = strdup(p->backing_format);
	q->is_new = true;
	q->overlap.off = true; /* there is nothing yet that could be hurt */
	return (p->data_file && !q->data_file_name) || (p->backing && !b->backing_name) ||
			       (p->backing_format && !b->backing_format)
		       ? -ENOMEM
		       : 0;
}

static int write_first_clusters(struct qcow2 *q, const struct qcow2_params *p)
{
	uint8_t *cluster = buf_alloc(q->cluster_bytes);
	be64 block = be64_put(2 * p->cluster_size);
	int ret = cluster ? 0 : -ENOMEM;

	if (ret == 0) {
		memset(cluster, 0, q->cluster_bytes);
		memcpy(cluster, &block, sizeof(block));
		ret = blk_pwrite(q->file, p->cluster_size, cluster, q->cluster_bytes, 0);
	}
	if (ret == 0) {
		memset(cluster, 0, q->cluster_bytes);
		for (unsigned i = 0; i < FIRST_CLUSTERS; i++)
			qcow2_refcount_store(cluster, q->refcount_order, i, 1);
		ret = blk_pwrite(
			q->file, 2 * p->cluster_size, cluster, q->cluster_bytes, 0);
	}
	if (ret == 0)
		ret = qcow2_header_write(q);
	buf_free(cluster);
	return ret;
}

static void node_free(struct blk *b)
{
	if (!b)
		return;
	if (b->data_file)
		blk_close(b->data_file);
	free(b->backing_name);
	free(b->backing_format);
	free(b->filename);
	free(b->state);
	free(b);
}

/* A node of our own over the file that is being made; it never passes the gate. */
static struct blk *node_new(const char *filename, struct blk *file)
{
	struct blk *b = calloc(1, sizeof(*b));

	if (!b)
		return NULL;
	b->drv = &blk_qcow2_driver;
	b->state = calloc(1, sizeof(struct qcow2));
	b->filename = strdup(filename);
	b->file = file;
	b->flags = BLK_O_RDWR | (blk_flags(file) & BLK_O_NO_FLUSH);
	if (b->state && b->filename)
		return b;
	node_free(b);
	return NULL;
}

static int write_empty(const char *filename, struct blk *file,
	const struct qcow2_params *p, struct err *err)
{
	struct blk *b = node_new(filename, file);
	struct qcow2 *q;
	int ret;

	if (!b)
		return err_set(err, ENOMEM, "no memory for the image");
	q = b->state;
	ret = fill_header(q, b, p);
	if (ret == 0)
		ret = write_first_clusters(q, p);
	if (ret < 0)
		err_errno(err, -ret,
			ret == -ENOSPC ? "Could not write qcow2 header: names and "
					 "extensions do not fit in a "
					 "cluster, or the disk is full"
				       : "Could not write qcow2 header");
	free(q->data_file_name);
	node_free(b);
	return ret;
}

/* ---- what the engine adds -------------------------------------------------------- */

static int make_data_file(
	const char *filename, const struct qcow2_params *p, struct err *err)
{
	struct opts *opts = opts_new();
	char *path = NULL;
	int ret = blk_resolve_name(filename, p->data_file, true, &path, err);

	if (ret == 0 && !opts)
		ret = err_set(err, ENOMEM, "no memory for the options");
	if (ret == 0) {
		opts_setf(opts, "size", "%d", 0);
		ret = blk_create(path, "raw", opts, err);
	}
	opts_free(opts);
	free(path);
	return ret;
}

static int make_luks(struct qcow2 *q, const struct qcow2_params *p, struct err *err)
{
	uint64_t bytes = luks_header_bytes(&p->luks_params);
	struct qcow2_alloc a;
	const void *secret;
	struct luks_io io;
	size_t secret_bytes;
	int ret = secret_find(p->secret, &secret, &secret_bytes, err);

	if (ret < 0)
		return ret;
	ret = qcow2_alloc(q, div_round_up(bytes, q->cluster_bytes), true, &a);
	if (ret == 0)
		ret = qcow2_overlap_mark(q, QCOW2_K_LUKS, a.offset, bytes);
	if (ret == 0 && !a.fresh)
		ret = blk_zero(q->file, a.offset, a.n << q->cluster_bits, 0);
	if (ret < 0)
		return err_errno(
			err, -ret, "Could not make room for the encryption header");
	q->luks_offset = a.offset;
	q->luks_bytes = bytes;
	q->crypt_method = QCOW2_CRYPT_LUKS;
	q->encrypted = true;
	qcow2_luks_io(q, &io);
	ret = luks_create(&q->luks, &p->luks_params, &io, secret, secret_bytes, err);
	if (ret < 0)
		return ret;
	q->cipher = luks_cipher(q->luks);
	ret = qcow2_header_write(q);
	return ret < 0 ? err_errno(err, -ret, "Could not write qcow2 header") : 0;
}

static int grow_to_size(const char *filename, struct blk *file,
	const struct qcow2_params *p, struct err *err)
{
	struct blk *b = node_new(filename, file);
	struct opts *opts = opts_new();
	struct qcow2 *q;
	int ret;

	if (!b || !opts) {
		node_free(b);
		opts_free(opts);
		return err_set(err, ENOMEM, "no memory for the image");
	}
	q = b->state;
	ret = qcow2_open_over(b, opts, err);
	if (ret == 0 && p->luks)
		ret = make_luks(q, p, err);
	if (ret == 0)
		ret = qcow2_resize(b, round_up(p->size, BLK_SECTOR), p->prealloc, err);
	if (ret == 0 && (ret = qcow2_settle(q)) < 0)
		err_errno(err, -ret, "Could not write the image");
	qcow2_release(q);
	opts_free(opts);
	node_free(b);
	return ret;
}

static int make_image(const char *filename, struct blk *file,
	const struct qcow2_params *p, struct err *err)
{
	int ret = write_empty(filename, file, p, err);

	if (ret == 0 && p->data_file)
		ret = make_data_file(filename, p, err);
	return ret == 0 ? grow_to_size(filename, file, p, err) : ret;
}

static bool is_same_file(const char *a, const char *b)
{
	struct stat sa, sb;

	if (!strcmp(a, b))
		return true;
	return !stat(a, &sa) && !stat(b, &sb) && sa.st_dev == sb.st_dev &&
	       sa.st_ino == sb.st_ino;
}

/* What else can be wrong and is known before anything is written. */
static int look_ahead(const char *filename, const struct qcow2_params *p, struct err *err)
{
	const void *secret;
	size_t bytes;
	char *path, *backing = NULL;
	int ret = p->luks ? secret_find(p->secret, &secret, &bytes, err) : 0;

	if (ret < 0 || !p->data_file)
		return ret;
	ret = blk_resolve_name(filename, p->data_file, true, &path, err);
	if (ret < 0)
		return ret;
	if (is_same_file(path, filename))
		ret = err_set(err, EINVAL, "The data file '%s' is the image itself",
			p->data_file);
	else if (p->backing &&
		 blk_resolve_name(filename, p->backing, true, &backing, NULL) == 0 &&
		 is_same_file(path, backing))
		ret = err_set(err, EINVAL, "The data file '%s' is the backing file",
			p->data_file);
	free(backing);
	free(path);
	return ret;
}

int qcow2_create(
	const char *filename, struct blk *file, struct opts *opts, struct err *err)
{
	struct qcow2_params p;
	int ret = qcow2_params_take(opts, &p, err);

	if (ret == 0)
		ret = qcow2_params_check(&p, err);
	if (ret == 0)
		ret = opts_check_unused(opts, err);
	if (ret == 0)
		ret = look_ahead(filename, &p, err);
	if (ret == 0 && file)
		ret = make_image(filename, file, &p, err);
	qcow2_params_free(&p);
	return ret;
}
