/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Options: one ordered list of key=value strings serves -o, --image-opts, --object and
 * json:{…}. Nested JSON is flattened: {"file": {"filename": "x"}} is file.filename=x, and
 * array elements get their index as key (portals.0=…). Values are strings; the typed
 * getters say what they expected.
 *
 * Whoever reads an option takes it; what nobody took is an error that names the key
 * (opts_check_unused), so a misspelt option is never ignored.
 */
#ifndef BYRE_BASE_OPTS_H
#define BYRE_BASE_OPTS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

struct opts;

struct opts *opts_new(void);
struct opts *opts_dup(const struct opts *o);
void opts_free(struct opts *o);

/* Adds the options of "a=1,b=2". ",," is a comma inside a value. A first word without '='
 * belongs to implied_key if that is not NULL; another word without '=' is a switch:
 * "key" is key=on, "nokey" is key=off. A later option of a key replaces an earlier one. */
int opts_parse(struct opts *o, const char *text, const char *implied_key, struct err *err);
/* Adds the members of a JSON object, flattened. Depth and number are bounded. */
int opts_parse_json(struct opts *o, const char *text, struct err *err);
/* Adds every option of `from` (replacing those of the same key) under prefix. */
void opts_merge(struct opts *o, const struct opts *from, const char *prefix);
void opts_set(struct opts *o, const char *key, const char *value);
void opts_setf(struct opts *o, const char *key, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
void opts_del(struct opts *o, const char *key);

/* Look without taking. NULL where it is not set. The string lives as long as the option. */
const char *opts_peek(const struct opts *o, const char *key);
bool opts_has_prefix(const struct opts *o, const char *prefix);
bool opts_empty(const struct opts *o);

/* Take. `*out` is untouched where the key is not set (set the default before). */
const char *opts_take(struct opts *o, const char *key);
int opts_take_bool(struct opts *o, const char *key, bool *out, struct err *err);
int opts_take_u64(struct opts *o, const char *key, uint64_t *out, struct err *err);
/* Whole seconds, at most OPTS_SECONDS_MAX, as nanoseconds. */
#define OPTS_SECONDS_MAX (1u << 20)
int opts_take_seconds(struct opts *o, const char *key, uint64_t *out_ns, struct err *err);
int opts_take_size(struct opts *o, const char *key, uint64_t *out, struct err *err);
/* *out becomes the index in names[], a NULL-terminated list. */
int opts_take_enum(struct opts *o, const char *key, const char *const *names, int *out,
	struct err *err);
/* Moves every option "prefix…" out of o into a new set with the prefix cut off. */
struct opts *opts_take_prefix(struct opts *o, const char *prefix);

/* The key of the first option nobody took; NULL where all were. */
const char *opts_first_unused(const struct opts *o);
/* -EINVAL naming the first option nobody took. */
int opts_check_unused(const struct opts *o, struct err *err);

/* Calls fn for each option in order, taken or not. */
void opts_each(const struct opts *o, void (*fn)(const char *key, const char *value, void *arg),
	void *arg);

#endif
