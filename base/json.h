/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * JSON glue: the only file that knows jansson. Objects keep the order keys were set in.
 * Setters steal the value they are given. Building never fails half-way: lack of memory
 * aborts (values here are small and ours; input is bounded by json_parse).
 */
#ifndef BYRE_BASE_JSON_H
#define BYRE_BASE_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct json; /* a value; owned by whoever made it until it is set into another */

struct json *json_new_object(void);
struct json *json_new_array(void);
struct json *json_new_string(const char *text); /* bytes that are not UTF-8 are escaped as U+FFFD */
struct json *json_new_int(int64_t n);
struct json *json_new_bool(bool b);
struct json *json_dup(const struct json *v);
void json_free(struct json *v);

void json_put(struct json *object, const char *key, struct json *value);
void json_add(struct json *array, struct json *value);
/* Shorthands of json_put. */
void json_put_string(struct json *object, const char *key, const char *text);
void json_put_int(struct json *object, const char *key, int64_t n);
void json_put_bool(struct json *object, const char *key, bool b);

/* At most 1 MiB of text and 64 levels. */
struct json *json_parse(const char *text, struct err *err);

enum json_kind { JSON_NULL, JSON_BOOL, JSON_INT, JSON_REAL, JSON_STRING, JSON_ARRAY, JSON_OBJECT };
enum json_kind json_kind_of(const struct json *v);
bool json_bool_of(const struct json *v);
int64_t json_int_of(const struct json *v);
double json_real_of(const struct json *v);
const char *json_string_of(const struct json *v);
size_t json_array_len(const struct json *v);
const struct json *json_array_at(const struct json *v, size_t i); /* borrowed */
const struct json *json_get(const struct json *object, const char *key); /* borrowed or NULL */
/* Calls fn for each member in order until it returns non-zero; returns that. */
int json_object_each(const struct json *object,
	int (*fn)(const char *key, const struct json *value, void *arg), void *arg);

/* Text owned by the caller (free). indent 0: one line; else spaces a level, in qemu-img's
 * layout. */
char *json_dump(const struct json *v, unsigned indent);

#endif
