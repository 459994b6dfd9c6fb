/* SPDX-License-Identifier: BSD-2-Clause */
/* The options an image is made with, as create and measure take them. */
#ifndef BYRE_QCOW2_PARAMS_H
#define BYRE_QCOW2_PARAMS_H

#include "block/luks.h"
#include "qcow2/qcow2.h"

struct qcow2_params {
	uint64_t size, cluster_size, refcount_bits;
	unsigned version;
	bool extl2, lazy, raw, luks;
	int codec, prealloc; /* enum codec, enum blk_prealloc */
	const char *backing, *backing_format, *data_file;
	char *secret; /* id; ours */
	struct luks_params luks_params;
};

/* Takes them out of opts, with defaults. Strings but `secret` are those of opts. To be freed
 * whatever the result. */
int qcow2_params_take(struct opts *opts, struct qcow2_params *p, struct err *err);
void qcow2_params_free(struct qcow2_params *p);
/* Whether they can be had together. */
int qcow2_params_check(const struct qcow2_params *p, struct err *err);

#endif
