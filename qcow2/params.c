/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The options of create and measure: names and help as qemu-img prints them, values checked
 * one by one and then together.
 */
#include "qcow2/params.h"

/* In the order in which qemu-img names them when it creates an image. */
const struct blk_create_opt qcow2_create_opts[] = {
	{"encryption", "bool (on/off)",
		"Encrypt the image with format 'aes'. (Deprecated in favor of "
		"encrypt.format=aes)",
		NULL},
	{"encrypt.format", "str", "Encrypt the image, format choices: 'aes', 'luks'",
		NULL},
	{"encrypt.key-secret", "str",
		"ID of secret providing qcow AES key or LUKS passphrase", NULL},
	{"encrypt.cipher-alg", "str", "Name of encryption cipher algorithm", NULL},
	{"encrypt.cipher-mode", "str", "Name of encryption cipher mode", NULL},
	{"encrypt.ivgen-alg", "str", "Name of IV generator algorithm", NULL},
	{"encrypt.ivgen-hash-alg", "str", "Name of IV generator hash algorithm", NULL},
	{"encrypt.hash-alg", "str", "Name of encryption hash algorithm", NULL},
	{"encrypt.iter-time", "num", "Time to spend in PBKDF in milliseconds", NULL},
	{"cluster_size", "size", "qcow2 cluster size", "65536"},
	{"extended_l2", "bool (on/off)", "Extended L2 tables", "off"},
	{"preallocation", "str",
		"Preallocation mode (allowed values: off, metadata, falloc, full)", NULL},
	{"compression_type", "str",
		"Compression method used for image cluster compression", "zlib"},
	{"size", "size", "Virtual disk size", NULL},
	{"compat", "str", "Compatibility level (v2 [0.10] or v3 [1.1])", NULL},
	{"backing_file", "str", "File name of a base image", NULL},
	{"backing_fmt", "str", "Image format of the base image", NULL},
	{"data_file", "str", "File name of an external data file", NULL},
	{"data_file_raw", "bool (on/off)",
		"The external data file must stay valid as a raw image", NULL},
	{"lazy_refcounts", "bool (on/off)", "Postpone refcount updates", "off"},
	{"refcount_bits", "num", "Width of a reference count entry in bits", "16"},
	{NULL, NULL, NULL, NULL},
};

static int take_encryption(struct opts *opts, struct qcow2_params *p, struct err *err)
{
	const char *format = opts_take(opts, "encrypt.format"), *id;
	bool legacy = false;
	struct opts *sub;
	int ret = opts_take_bool(opts, "encryption", &legacy, err);

	if (ret < 0)
		return ret;
	if (legacy || (format && !strcmp(format, "aes")))
		return err_set(err, ENOTSUP,
			"legacy AES encryption is only read here; use "
			"encrypt.format=luks");
	if (format && strcmp(format, "luks"))
		return err_set(err, EINVAL,
			"Parameter 'format' does not accept value '%s'", format);
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

static int take_version(struct opts *opts, struct qcow2_params *p, struct err *err)
{
	const char *compat = opts_take(opts, "compat");

	p->version = 3;
	if (!compat || !strcmp(compat, "1.1") || !strcmp(compat, "v3"))
		return 0;
	p->version = 2;
	if (!strcmp(compat, "0.10") || !strcmp(compat, "v2"))
		return 0;
	return err_set(
		err, EINVAL, "Parameter 'version' does not accept value '%s'", compat);
}

int qcow2_params_take(struct opts *opts, struct qcow2_params *p, struct err *err)
{
	static const char *const codecs[] = {"zlib", "zstd", NULL};
	const char *compression = opts_peek(opts, "compression_type");
	int ret;

	*p = (struct qcow2_params){.cluster_size = 65536, .refcount_bits = 16};
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
		ret = opts_take_enum(
			opts, "preallocation", blk_prealloc_names, &p->prealloc, err);
	if (ret == 0 &&
		opts_take_enum(opts, "compression_type", codecs, &p->codec, NULL) < 0)
		ret = err_set(err, EINVAL,
			"Parameter 'compression-type' does not accept value '%s'",
			compression);
	if (ret == 0)
		ret = take_encryption(opts, p, err);
	p->backing = opts_take(opts, "backing_file");
	p->backing_format = opts_take(opts, "backing_fmt");
	p->data_file = opts_take(opts, "data_file");
	return ret;
}

static int check_version_2(const struct qcow2_params *p, struct err *err)
{
	const char *what = p->refcount_bits != 16
				   ? "Different refcount widths than 16 bits require"
			   : p->lazy ? "Lazy refcounts only supported with"
			   : p->codec != CODEC_ZLIB
				   ? "Non-zlib compression type is only supported with"
			   : p->extl2     ? "Extended L2 entries are only supported with"
			   : p->data_file ? "External data files are only supported with"
					  : NULL;

	if (p->version >= 3 || !what)
		return 0;
	return err_set(err, EINVAL,
		"%s compatibility level 1.1 %s above (use version=v3 or greater)", what,
		p->refcount_bits != 16 ? "or" : "and");
}

/* The disk's L1 table stays within its limit. */
static bool size_fits(const struct qcow2_params *p)
{
	uint64_t span = p->cluster_size * (p->cluster_size / (p->extl2 ? 16 : 8));

	return p->size <= BLK_MAX_SIZE &&
	       div_round_up(p->size, span) * 8 <= QCOW2_MAX_L1_BYTES;
}

int qcow2_params_check(const struct qcow2_params *p, struct err *err)
{
	if (!is_pow2(p->cluster_size) || p->cluster_size < 1u << QCOW2_MIN_CLUSTER_BITS ||
		p->cluster_size > 1u << QCOW2_MAX_CLUSTER_BITS)
		return err_set(err, EINVAL,
			"Cluster size must be a power of two between %u and %uk",
			1u << QCOW2_MIN_CLUSTER_BITS,
			1u << (QCOW2_MAX_CLUSTER_BITS - 10));
	if (!is_pow2(p->refcount_bits) || p->refcount_bits > 64)
		return err_set(err, EINVAL,
			"Refcount width must be a power of two and may not exceed 64 "
			"bits");
	if (check_version_2(p, err) < 0)
		return -EINVAL;
	if (!size_fits(p))
		return err_set(err, EFBIG,
			"The image size is too large for file format 'qcow2' "
			"(try using a larger cluster size)");
	if (p->extl2 && p->cluster_size < 1u << QCOW2_MIN_EXTL2_BITS)
		return err_set(err, EINVAL,
			"Extended L2 entries are only supported with cluster "
			"sizes of at least %u bytes",
			1u << QCOW2_MIN_EXTL2_BITS);
	if (p->raw && !p->data_file)
		return err_set(err, EINVAL, "data-file-raw requires data-file");
	if (p->raw && p->backing)
		return err_set(err, EINVAL,
			"Backing file and data-file-raw cannot be used at the same time");
	if (p->backing && p->prealloc != BLK_PREALLOC_OFF && !p->extl2)
		return err_set(err, EINVAL,
			"Backing file and preallocation can only be used at the same "
			"time if "
			"extended_l2 is on");
	if (p->backing_format && !p->backing)
		return err_set(err, EINVAL,
			"Backing format cannot be used without backing file");
	if (p->backing_format && !blk_driver_find(p->backing_format))
		return err_set(err, EINVAL,
			"Parameter 'backing-fmt' does not accept value '%s'",
			p->backing_format);
	if (p->backing && strlen(p->backing) > QCOW2_MAX_BACKING_NAME)
		return err_set(err, EINVAL,
			"Backing file name too long (%zu bytes, at most %u)",
			strlen(p->backing), QCOW2_MAX_BACKING_NAME);
	return 0;
}

void qcow2_params_free(struct qcow2_params *p)
{
	free(p->secret);
	p->secret = NULL;
}
