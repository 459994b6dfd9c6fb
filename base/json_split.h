/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A stream of JSON values, cut into values. It looks at brackets and quotes and no further: what
 * it hands out is for json_parse(), which refuses what is none.
 *
 * After nonsense it finds its way back by itself: a control character that JSON does not have
 * (a 0, a newline inside of a string), the byte 0xff, or too deep a nesting end a value, and the next byte
 * begins another.
 */
#ifndef BYRE_BASE_JSON_SPLIT_H
#define BYRE_BASE_JSON_SPLIT_H

#include <stddef.h>

struct json_split;

struct json_split *json_split_new(void); /* NULL: no memory */
void json_split_free(struct json_split *s);
/* What was read. -E2BIG: a value is longer than json_parse() takes; there is no going on. -ENOMEM. */
int json_split_add(struct json_split *s, const char *data, size_t bytes);
/* The next value, the caller's (free); NULL: more has to be read first. All are to be taken
 * before more is added. */
char *json_split_next(struct json_split *s);

#endif
