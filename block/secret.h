/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Secrets by name: --object secret,id=ID,data=…|file=…[,format=raw|base64] puts one here,
 * encrypt.key-secret=ID finds it. Kept out of core dumps, wiped when freed.
 */
#ifndef BYRE_BLOCK_SECRET_H
#define BYRE_BLOCK_SECRET_H

#include <stddef.h>

#include "base/err.h"
#include "base/opts.h"

/* Takes id and the rest from opts ("secret," already gone). */
int secret_add(struct opts *opts, struct err *err);
/* Borrowed until secrets_clear; -ENOENT naming the id. */
int secret_find(const char *id, const void **data, size_t *bytes, struct err *err);
void secrets_clear(void);

#endif
