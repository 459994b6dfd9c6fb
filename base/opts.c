/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Options: an ordered list of key=value, small enough (OPTS_LIMIT) to be searched from
 * its start. Taking marks an option rather than removing it: the string that opts_take
 * returned lives on, and what stays unmarked is what nobody knew.
 *
 * Lack of memory aborts: options are made by our own code or bounded by their parsers.
 */
#include "base/opts.h"

#include <assert.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/size.h"

/* More than any command line or json: name has use for. */
#define OPTS_LIMIT 4096
#define KEY_LIMIT  1024

struct opt {
	struct opt *next;
	char *key, *value;
	bool taken;
};

struct opts {
	struct opt *first, **end;
	unsigned count;
};

static void *must(void *p)
{
	if (!p)
		abort();
	return p;
}

struct opts *opts_new(void)
{
	struct opts *o = must(calloc(1, sizeof(*o)));

	o->end = &o->first;
	return o;
}

static void opt_free(struct opt *opt)
{
	free(opt->key);
	free(opt->value);
	free(opt);
}

void opts_free(struct opts *o)
{
	struct opt *next;

	if (!o)
		return;
	for (struct opt *p = o->first; p; p = next) {
		next = p->next;
		opt_free(p);
	}
	free(o);
}

static struct opt *find(const struct opts *o, const char *key)
{
	for (struct opt *p = o->first; p; p = p->next)
		if (!strcmp(p->key, key))
			return p;
	return NULL;
}

static void append(struct opts *o, struct opt *opt)
{
	opt->next = NULL;
	*o->end = opt;
	o->end = &opt->next;
	o->count++;
}

/* Takes it off the list; *link is the pointer to it. */
static struct opt *unlink_at(struct opts *o, struct opt **link)
{
	struct opt *p = *link;

	*link = p->next;
	if (!*link)
		o->end = link;
	o->count--;
	return p;
}

void opts_del(struct opts *o, const char *key)
{
	for (struct opt **link = &o->first; *link; link = &(*link)->next)
		if (!strcmp((*link)->key, key)) {
			opt_free(unlink_at(o, link));
			return;
		}
}

static void add(struct opts *o, const char *key, const char *value, bool taken)
{
	struct opt *p = must(calloc(1, sizeof(*p)));

	/* Copy before the old one goes: value may be its string. */
	p->key = must(strdup(key));
	p->value = must(strdup(value));
	p->taken = taken;
	opts_del(o, p->key);
	append(o, p);
}

void opts_set(struct opts *o, const char *key, const char *value)
{
	add(o, key, value, false);
}

void opts_setf(struct opts *o, const char *key, const char *fmt, ...)
{
	va_list ap;
	char *value;

	va_start(ap, fmt);
	if (vasprintf(&value, fmt, ap) < 0)
		abort();
	va_end(ap);
	opts_set(o, key, value);
	free(value);
}

struct opts *opts_dup(const struct opts *o)
{
	struct opts *copy = opts_new();

	for (const struct opt *p = o->first; p; p = p->next)
		add(copy, p->key, p->value, p->taken);
	return copy;
}

void opts_merge(struct opts *o, const struct opts *from, const char *prefix)
{
	for (const struct opt *p = from->first; p; p = p->next) {
		char *key;

		if (asprintf(&key, "%s%s", prefix, p->key) < 0)
			abort();
		opts_set(o, key, p->value);
		free(key);
	}
}

/* As opts_set, for what comes from outside: bounded. */
static int set_bounded(
	struct opts *o, const char *key, const char *value, struct err *err)
{
	if (o->count >= OPTS_LIMIT)
		return err_set(err, E2BIG, "more than %d options", OPTS_LIMIT);
	opts_set(o, key, value);
	return 0;
}

/* One "key=value", "key" or "nokey" of `bytes` bytes with its commas undoubled. */
static int parse_word(
	struct opts *o, char *word, const char *implied_key, struct err *err)
{
	char *eq = strchr(word, '=');

	if (eq) {
		*eq = 0;
		return set_bounded(o, word, eq + 1, err);
	}
	if (implied_key)
		return set_bounded(o, implied_key, word, err);
	if (!strncmp(word, "no", 2) && word[2])
		return set_bounded(o, word + 2, "off", err);
	return set_bounded(o, word, "on", err);
}

int opts_parse(struct opts *o, const char *text, const char *implied_key, struct err *err)
{
	char *word = must(malloc(strlen(text) + 1));
	const char *p = text;
	int ret = 0;

	while (*p && !ret) {
		char *w = word;

		while (*p && (*p != ',' || p[1] == ',')) {
			if (*p == ',')
				p++;
			*w++ = *p++;
		}
		*w = 0;
		if (w == word || (*p == ',' && !p[1]))
			ret = err_set(err, EINVAL, "Invalid option list: %s", text);
		else
			ret = parse_word(o, word, implied_key, err);
		implied_key = NULL;
		if (*p)
			p++;
	}
	free(word);
	return ret;
}

/* Where flattening is: the key so far and whom to tell. */
struct flatten {
	struct opts *o;
	struct err *err;
	char key[KEY_LIMIT];
	size_t len;
};

static int flatten_value(struct flatten *f, const struct json *v);

static int flatten_member(const char *key, const struct json *value, void *arg)
{
	struct flatten *f = arg;
	size_t len = f->len;
	int n = snprintf(f->key + len, sizeof(f->key) - len, "%s%s", len ? "." : "", key);
	int ret;

	if (n < 0 || (size_t)n >= sizeof(f->key) - len) {
		f->key[len] = 0;
		return err_set(f->err, EINVAL, "JSON key under '%s' is too long", f->key);
	}
	f->len = len + (size_t)n;
	ret = flatten_value(f, value);
	f->len = len;
	f->key[len] = 0;
	return ret;
}

static int flatten_value(struct flatten *f, const struct json *v)
{
	char text[64];
	int ret = 0;

	switch (json_kind_of(v)) {
	case JSON_OBJECT:
		return json_object_each(v, flatten_member, f);
	case JSON_ARRAY:
		for (size_t i = 0; i < json_array_len(v) && !ret; i++) {
			snprintf(text, sizeof(text), "%zu", i);
			ret = flatten_member(text, json_array_at(v, i), f);
		}
		return ret;
	case JSON_STRING:
		return set_bounded(f->o, f->key, json_string_of(v), f->err);
	case JSON_BOOL:
		return set_bounded(f->o, f->key, json_bool_of(v) ? "on" : "off", f->err);
	case JSON_INT:
		snprintf(text, sizeof(text), "%" PRId64, json_int_of(v));
		return set_bounded(f->o, f->key, text, f->err);
	case JSON_REAL:
		snprintf(text, sizeof(text), "%.17g", json_real_of(v));
		return set_bounded(f->o, f->key, text, f->err);
	case JSON_NULL:
		return set_bounded(f->o, f->key, "", f->err);
	}
	return 0;
}

int opts_parse_json(struct opts *o, const char *text, struct err *err)
{
	struct flatten f = {.o = o, .err = err};
	struct json *v = json_parse(text, err);
	int ret;

	if (!v)
		return err ? -err->code : -EINVAL;
	if (json_kind_of(v) == JSON_OBJECT)
		ret = flatten_value(&f, v);
	else
		ret = err_set(err, EINVAL, "Invalid JSON object given");
	json_free(v);
	return ret;
}

const char *opts_peek(const struct opts *o, const char *key)
{
	const struct opt *p = find(o, key);

	return p ? p->value : NULL;
}

bool opts_has_prefix(const struct opts *o, const char *prefix)
{
	size_t len = strlen(prefix);

	for (const struct opt *p = o->first; p; p = p->next)
		if (!strncmp(p->key, prefix, len))
			return true;
	return false;
}

bool opts_empty(const struct opts *o)
{
	return !o->first;
}

const char *opts_take(struct opts *o, const char *key)
{
	struct opt *p = find(o, key);

	if (!p)
		return NULL;
	p->taken = true;
	return p->value;
}

int opts_take_bool(struct opts *o, const char *key, bool *out, struct err *err)
{
	static const char *const words[] = {
		"off", "on", "no", "yes", "false", "true", "n", "y", NULL};
	const char *value = opts_take(o, key);

	if (!value)
		return 0;
	for (int i = 0; words[i]; i++)
		if (!strcmp(value, words[i])) {
			*out = i % 2 != 0;
			return 0;
		}
	return err_set(err, EINVAL, "Parameter '%s' expects 'on' or 'off'", key);
}

static int out_of_range(const char *key, const char *value, struct err *err)
{
	return err_set(
		err, ERANGE, "Value '%s' is out of range for parameter '%s'", value, key);
}

int opts_take_u64(struct opts *o, const char *key, uint64_t *out, struct err *err)
{
	const char *value = opts_take(o, key);
	int ret = value ? u64_parse(value, out) : 0;

	if (ret == -ERANGE)
		return out_of_range(key, value, err);
	if (ret)
		return err_set(err, EINVAL, "Parameter '%s' expects a number", key);
	return 0;
}

int opts_take_seconds(struct opts *o, const char *key, uint64_t *out_ns, struct err *err)
{
	uint64_t seconds = *out_ns / 1000000000;
	int ret = opts_take_u64(o, key, &seconds, err);

	if (ret)
		return ret;
	if (seconds > OPTS_SECONDS_MAX)
		return err_set(
			err, EINVAL, "%s: at most %u seconds", key, OPTS_SECONDS_MAX);
	*out_ns = seconds * 1000000000;
	return 0;
}

int opts_take_size(struct opts *o, const char *key, uint64_t *out, struct err *err)
{
	const char *value = opts_take(o, key);
	int ret = value ? size_parse(value, 'B', NULL, out) : 0;

	if (ret == -ERANGE)
		return out_of_range(key, value, err);
	if (ret) {
		err_set(err, EINVAL,
			"Parameter '%s' expects a non-negative number below 2^64", key);
		err_hint(err,
			"Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, "
			"tera-, peta- and exabytes, respectively.");
	}
	return ret;
}

int opts_take_enum(struct opts *o, const char *key, const char *const *names, int *out,
	struct err *err)
{
	const char *value = opts_take(o, key);

	if (!value)
		return 0;
	for (int i = 0; names[i]; i++)
		if (!strcmp(value, names[i])) {
			*out = i;
			return 0;
		}
	return err_set(
		err, EINVAL, "Parameter '%s' does not accept value '%s'", key, value);
}

struct opts *opts_take_prefix(struct opts *o, const char *prefix)
{
	struct opts *sub = opts_new();
	size_t len = strlen(prefix);
	struct opt **link = &o->first;

	while (*link) {
		if (strncmp((*link)->key, prefix, len)) {
			link = &(*link)->next;
			continue;
		}
		struct opt *p = unlink_at(o, link);

		memmove(p->key, p->key + len, strlen(p->key + len) + 1);
		append(sub, p);
	}
	return sub;
}

const char *opts_first_unused(const struct opts *o)
{
	for (const struct opt *p = o->first; p; p = p->next)
		if (!p->taken)
			return p->key;
	return NULL;
}

int opts_check_unused(const struct opts *o, struct err *err)
{
	const char *key = opts_first_unused(o);

	return key ? err_set(err, EINVAL, "Invalid parameter '%s'", key) : 0;
}

void opts_each(const struct opts *o,
	void (*fn)(const char *key, const char *value, void *arg), void *arg)
{
	for (const struct opt *p = o->first; p; p = p->next)
		fn(p->key, p->value, arg);
}
