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
#include "block/luks.h"
#include "block/secret.h"
#include "qcow2/qcow2.h"

#define FIRST_CLUSTERS 3u

const struct blk_create_opt qcow2_create_opts[] = {
	{ "backing_file", "str", "File name of a base image", NULL },
	{ "backing_fmt", "str", "Image format of the base image", NULL },
	{ "cluster_size", "size", "qcow2 cluster size", "65536" },
	{ "compat", "str", "Compatibility level (v2 [0.10] or v3 [1.1])", NULL },
	{ "compression_type", "str", "Compression method used for image cluster compression",
		"zlib" },
	{ "data_file", "str", "File name of an external data file", NULL },
	{ "data_file_raw", "bool (on/off)",
		"The external data file must stay valid as a raw image", NULL },
	{ "encrypt.cipher-alg", "str", "Name of encryption cipher algorithm", NULL },
	{ "encrypt.cipher-mode", "str", "Name of encryption cipher mode", NULL },
	{ "encrypt.format", "str", "Encrypt the image, format choices: 'aes', 'luks'", NULL },
	{ "encrypt.hash-alg", "str", "Name of encryption hash algorithm", NULL },
	{ "encrypt.iter-time", "num", "Time to spend in PBKDF in milliseconds", NULL },
	{ "encrypt.ivgen-alg", "str", "Name of IV generator algorithm", NULL },
	{ "encrypt.ivgen-hash-alg", "str", "Name of IV generator hash algorithm", NULL },
	{ "encrypt.key-secret", "str",
		"ID of secret providing qcow AES key or LUKS passphrase", NULL },
	{ "encryption", "bool (on/off)",
		"Encrypt the image with format 'aes'. (Deprecated in favor of encrypt.format=aes)",
		NULL },
	{ "extended_l2", "bool (on/off)", "Extended L2 tables", "off" },
	{ "lazy_refcounts", "bool (on/off)", "Postpone refcount updates", "off" },
	{ "preallocation", "str",
		"Preallocation mode (allowed values: off, metadata, falloc, full)", NULL },
	{ "refcount_bits", "num", "Width of a reference count entry in bits", "16" },
	{ "size", "size", "Virtual disk size", NULL },
	{ NULL, NULL, NULL, NULL },
};

struct params {
	uint64_t size, cluster_size, refcount_bits;
	unsigned version;
	bool extl2, lazy, raw, luks;
	int codec, prealloc; /* enum codec, enum blk_prealloc */
	const char *backing, *backing_format, *data_file;
	char *secret; /* id; ours */
	struct luks_params luks_params;
};

static int take_encryption(struct opts *opts, struct params *p, struct err *err)
{
	const char *format = opts_take(opts, "encrypt.format"), *id;
	bool legacy = false;
	struct opts *sub;
	int ret = opts_take_bool(opts, "encryption", &legacy, err);

	if (ret < 0)
		return ret;
	if (legacy || (format && !strcmp(format, "aes")))
		return err_set(err, ENOTSUP,
			"legacy AES encryption is only read here; use encrypt.format=luks");
	if (format && strcmp(format, "luks"))
		return err_set(err, EINVAL, "Parameter 'format' does not accept value '%s'",
			format);
	p->luks = format;
	if (!p->luks)
		return 0; /* a stray encrypt.* stays untaken and is refused by its name */
	id = opts_take(opts, "encrypt.key-secret");
	if (!id)
		return err_set(err, EINVAL,
			"Parameter 'encrypt.key-secret' is required for cipher");
	p->secret = strdup(id); /* the option goes with the others of its prefix */
	sub = opts_take_prefix(opts, "encrypt.");
	if (!p->secret || !sub)
		return err_set(err, ENOMEM, "no memory for the options");
	ret = luks_params_take(sub, &p->luks_params, err);
	if (ret == 0)
		ret = opts_check_unused(sub, err);
	opts_free(sub);
	return ret;
}

static int take_version(struct opts *opts, struct params *p, struct err *err)
{
	const char *compat = opts_take(opts, "compat");

	p->version = 3;
	if (!compat || !strcmp(compat, "1.1") || !strcmp(compat, "v3"))
		return 0;
	p->version = 2;
	if (!strcmp(compat, "0.10") || !strcmp(compat, "v2"))
		return 0;
	return err_set(err, EINVAL, "Parameter 'version' does not accept value '%s'", compat);
}

static int take_params(struct opts *opts, struct params *p, struct err *err)
{
	static const char *const codecs[] = { "zlib", "zstd", NULL };
	const char *compression = opts_peek(opts, "compression_type");
	int ret;

	*p = (struct params){ .cluster_size = 65536, .refcount_bits = 16 };
	ret = take_version(opts, p, err);
	if (ret == 0)
		ret = opts_take_size(opts, "size", &p->size, err);
	if (ret == 0)
		ret = opts_take_size(opts, "cluster_size", &p->cluster_size, err);
	if (ret == 0)
		ret = opts_take_u64(opts, "refcount_bits", &p->refcount_bits, err);
	if (ret == 0)
		ret = opts_take_bool(opts, "extended_l2", &p->extl2, err);
	if (ret == 0)
		ret = opts_take_bool(opts, "lazy_refcounts", &p->lazy, err);
	if (ret == 0)
		ret = opts_take_bool(opts, "data_file_raw", &p->raw, err);
	if (ret == 0)
		ret = opts_take_enum(opts, "preallocation", blk_prealloc_names, &p->prealloc, err);
	if (ret == 0 && opts_take_enum(opts, "compression_type", codecs, &p->codec, NULL) < 0)
		ret = err_set(err, EINVAL,
			"Parameter 'compression-type' does not accept value '%s'", compression);
	if (ret == 0)
		ret = take_encryption(opts, p, err);
	p->backing = opts_take(opts, "backing_file");
	p->backing_format = opts_take(opts, "backing_fmt");
	p->data_file = opts_take(opts, "data_file");
	return ret;
}

static int check_version_2(const struct params *p, struct err *err)
{
	const char *what = p->refcount_bits != 16 ? "Different refcount widths than 16 bits require"
		: p->lazy ? "Lazy refcounts only supported with"
		: p->codec != CODEC_ZLIB ? "Non-zlib compression type is only supported with"
		: p->extl2 ? "Extended L2 entries are only supported with"
		: p->data_file ? "External data files are only supported with"
			       : NULL;

	if (p->version >= 3 || !what)
		return 0;
	return err_set(err, EINVAL, "%s compatibility level 1.1 %s above (use version=v3 or greater)",
		what, p->refcount_bits != 16 ? "or" : "and");
}

/* The disk's L1 table stays within its limit. */
static bool size_fits(const struct params *p)
{
	uint64_t span = p->cluster_size * (p->cluster_size / (p->extl2 ? 16 : 8));

	return p->size <= BLK_MAX_SIZE && div_round_up(p->size, span) * 8 <= QCOW2_MAX_L1_BYTES;
}

static int check_params(const struct params *p, struct err *err)
{
	if (!is_pow2(p->cluster_size) || p->cluster_size < 1u << QCOW2_MIN_CLUSTER_BITS ||
		p->cluster_size > 1u << QCOW2_MAX_CLUSTER_BITS)
		return err_set(err, EINVAL,
			"Cluster size must be a power of two between %u and %uk",
			1u << QCOW2_MIN_CLUSTER_BITS, 1u << (QCOW2_MAX_CLUSTER_BITS - 10));
	if (!is_pow2(p->refcount_bits) || p->refcount_bits > 64)
		return err_set(err, EINVAL,
			"Refcount width must be a power of two and may not exceed 64 bits");
	if (check_version_2(p, err) < 0)
		return -EINVAL;
	if (!size_fits(p))
		return err_set(err, EFBIG, "The image size is too large for file format 'qcow2' "
					   "(try using a larger cluster size)");
	if (p->extl2 && p->cluster_size < 1u << QCOW2_MIN_EXTL2_BITS)
		return err_set(err, EINVAL, "Extended L2 entries are only supported with cluster "
					    "sizes of at least %u bytes", 1u << QCOW2_MIN_EXTL2_BITS);
	if (p->raw && !p->data_file)
		return err_set(err, EINVAL, "data-file-raw requires data-file");
	if (p->raw && p->backing)
		return err_set(err, EINVAL,
			"Backing file and data-file-raw cannot be used at the same time");
	if (p->data_file && p->luks)
		return err_set(err, ENOTSUP, "encryption with an external data file is not supported");
	if (p->backing_format && !p->backing)
		return err_set(err, EINVAL, "Backing format cannot be used without backing file");
	if (p->backing && strlen(p->backing) > QCOW2_MAX_BACKING_NAME)
		return err_set(err, EINVAL, "Backing file name too long (%zu bytes, at most %u)",
			strlen(p->backing), QCOW2_MAX_BACKING_NAME);
	return 0;
}

/* ---- the first clusters -------------------------------------------------------------------------- */

/* The header's facts, for qcow2_header_write. */
static int fill_header(struct qcow2 *q, struct blk *b, const struct params *p)
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
	q->overlap.off = true; /* there is nothing yet that could be hurt */
	return (p->data_file && !q->data_file_name) || (p->backing && !b->backing_name) ||
			(p->backing_format && !b->backing_format)
		? -ENOMEM
		: 0;
}

static int write_first_clusters(struct qcow2 *q, const struct params *p)
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
		ret = blk_pwrite(q->file, 2 * p->cluster_size, cluster, q->cluster_bytes, 0);
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

static int write_empty(const char *filename, struct blk *file, const struct params *p,
	struct err *err)
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
		err_errno(err, -ret, ret == -ENOSPC
				? "Could not write qcow2 header: names and extensions do not fit in a "
				  "cluster, or the disk is full"
				: "Could not write qcow2 header");
	free(q->data_file_name);
	node_free(b);
	return ret;
}

/* ---- what the engine adds -------------------------------------------------------------------------- */

static int make_data_file(const char *filename, const struct params *p, struct err *err)
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

static int make_luks(struct qcow2 *q, const struct params *p, struct err *err)
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
		return err_errno(err, -ret, "Could not make room for the encryption header");
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

static int grow_to_size(const char *filename, struct blk *file, const struct params *p,
	struct err *err)
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

static int make_image(const char *filename, struct blk *file, const struct params *p,
	struct err *err)
{
	int ret = write_empty(filename, file, p, err);

	if (ret == 0 && p->data_file)
		ret = make_data_file(filename, p, err);
	return ret == 0 ? grow_to_size(filename, file, p, err) : ret;
}

int qcow2_create(const char *filename, struct blk *file, struct opts *opts, struct err *err)
{
	struct params p;
	int ret = take_params(opts, &p, err);

	if (ret == 0)
		ret = check_params(&p, err);
	if (ret == 0)
		ret = opts_check_unused(opts, err);
	if (ret == 0 && file)
		ret = make_image(filename, file, &p, err);
	free(p.secret);
	return ret;
}
