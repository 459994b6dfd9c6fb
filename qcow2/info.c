/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What an image tells about itself: the data of "format-specific" in info --output=json,
 * which the human form prints too. Members come in the order that qemu-img prints them
 * in, so that the two outputs can be compared line by line.
 */
#include <stdlib.h>

#include "base/json.h"
#include "block/luks.h"
#include "qcow2/qcow2.h"

/* Moves a member over, if it is there. Values are copied by way of their text. */
static void put_copy(struct json *to, const struct json *from, const char *key)
{
	const struct json *v = json_get(from, key);
	struct json *copy;
	char *text;

	if (!v)
		return;
	text = json_dump(v, 0);
	copy = json_parse(text, NULL);
	free(text);
	if (copy)
		json_put(to, key, copy);
}

static struct json *encrypt_info(const struct qcow2 *q)
{
	static const char *const order[] = {"ivgen-alg", "detached-header", "hash-alg",
		"cipher-alg", "uuid", "ivgen-hash-alg", "format", "cipher-mode", "slots",
		"payload-offset", "master-key-iters"};
	struct json *o = json_new_object(), *luks = q->luks ? luks_info(q->luks) : NULL;

	if (!luks) {
		json_put_string(
			o, "format", q->crypt_method == QCOW2_CRYPT_AES ? "aes" : "luks");
		return o;
	}
	json_put_string(luks, "format", "luks");
	for (size_t i = 0; i < ARRAY_LEN(order); i++)
		put_copy(o, luks, order[i]);
	json_free(luks);
	return o;
}

struct json *qcow2_info(struct blk *b)
{
	struct qcow2 *q = b->state;
	struct json *o = json_new_object(), *bitmaps;

	json_put_string(o, "compat", q->version < 3 ? "0.10" : "1.1");
	json_put_string(o, "compression-type", q->codec == CODEC_ZSTD ? "zstd" : "zlib");
	if (q->version >= 3)
		json_put_bool(
			o, "lazy-refcounts", q->compatible & QCOW2_COMPAT_LAZY_REFCOUNTS);
	bitmaps = qcow2_bitmaps_info(q);
	if (bitmaps)
		json_put(o, "bitmaps", bitmaps);
	json_put_int(o, "refcount-bits", 1 << q->refcount_order);
	if (q->external_data && q->data_file_name)
		json_put_string(o, "data-file", q->data_file_name);
	if (q->crypt_method != QCOW2_CRYPT_NONE)
		json_put(o, "encrypt", encrypt_info(q));
	if (q->external_data)
		json_put_bool(o, "data-file-raw", q->external_raw);
	if (q->version >= 3) {
		json_put_bool(o, "corrupt", q->incompatible & QCOW2_INCOMPAT_CORRUPT);
		json_put_bool(o, "extended-l2", q->extl2);
	}
	return o;
}
