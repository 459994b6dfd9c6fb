/* SPDX-License-Identifier: BSD-2-Clause */
/* A JSON value for people to read: one "key: value" a line, four blanks a level, dashes
 * of keys as blanks. */
#ifndef BYRE_TOOLS_COMMON_TREE_H
#define BYRE_TOOLS_COMMON_TREE_H

#include "base/json.h"

/* The members of an object, or elements of an array, at this depth. */
void tool_print_tree(const struct json *v, unsigned depth);

#endif
