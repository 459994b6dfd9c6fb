/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * JSON on jansson. A struct json is a json_t under a name of ours; no other file includes
 * jansson. Printing is done here, since qemu-img's layout (empty brackets on two lines,
 * upper-case escapes for all but printable ASCII) is not one that jansson has.
 */
/* Our kinds and jansson's share names: give its enumerators others. Its json_is_…()
 * macros would pick up ours, so they are not used here. */
#define JSON_OBJECT  JANSSON_OBJECT
#define JSON_ARRAY   JANSSON_ARRAY
#define JSON_STRING  JANSSON_STRING
#define JSON_INTEGER JANSSON_INTEGER
#define JSON_REAL    JANSSON_REAL
#define JSON_TRUE    JANSSON_TRUE
#define JSON_FALSE   JANSSON_FALSE
#define JSON_NULL    JANSSON_NULL
#include <jansson.h>
#undef JSON_OBJECT
#undef JSON_ARRAY
#undef JSON_STRING
#undef JSON_INTEGER
#undef JSON_REAL
#undef JSON_TRUE
#undef JSON_FALSE
#undef JSON_NULL

#include "base/json.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/math.h"

#define TEXT_LIMIT  MiB
#define DEPTH_LIMIT 64
#define NOT_UTF8    0xfffdu

static json_t *in(const struct json *v)
{
	return (json_t *)(uintptr_t)v;
}

static struct json *out(json_t *v)
{
	if (!v)
		abort(); /* no memory; see json.h */
	return (struct json *)v;
}

/*
 * The code point at *p, which moves behind it. What is not UTF-8 (RFC 3629: no overlong
 * forms, no surrogates, nothing above U+10FFFF) is U+FFFD, once for a sequence's bytes.
 */
static uint32_t utf8_next(const unsigned char **p)
{
	static const uint32_t least[] = {0, 0x80, 0x800, 0x10000};
	unsigned char c = *(*p)++;
	uint32_t cp;
	int more, got;

	if (c < 0x80)
		return c;
	more = c >= 0xf8 ? 0 : c >= 0xf0 ? 3 : c >= 0xe0 ? 2 : c >= 0xc0 ? 1 : 0;
	cp = c & (0x3fu >> more);
	for (got = 0; got < more && (**p & 0xc0) == 0x80; got++)
		cp = cp << 6 | (*(*p)++ & 0x3fu);
	if (more == 0 || got < more || cp < least[more] || cp > 0x10ffff ||
		(cp >= 0xd800 && cp < 0xe000))
		return NOT_UTF8;
	return cp;
}

/* Memory streams fail for lack of memory alone. */
static FILE *text_open(char **text, size_t *bytes)
{
	FILE *f = open_memstream(text, bytes);

	if (!f)
		abort();
	return f;
}

static void text_close(FILE *f)
{
	if (fclose(f))
		abort();
}

static void put_utf8(FILE *f, uint32_t cp)
{
	if (cp < 0x80) {
		fputc((int)cp, f);
	} else if (cp < 0x800) {
		fprintf(f, "%c%c", 0xc0 | cp >> 6, 0x80 | (cp & 0x3f));
	} else if (cp < 0x10000) {
		fprintf(f, "%c%c%c", 0xe0 | cp >> 12, 0x80 | (cp >> 6 & 0x3f),
			0x80 | (cp & 0x3f));
	} else {
		fprintf(f, "%c%c%c%c", 0xf0 | cp >> 18, 0x80 | (cp >> 12 & 0x3f),
			0x80 | (cp >> 6 & 0x3f), 0x80 | (cp & 0x3f));
	}
}

struct json *json_new_object(void)
{
	return out(json_object());
}

struct json *json_new_array(void)
{
	return out(json_array());
}

struct json *json_new_string(const char *text)
{
	json_t *v = json_string(text); /* NULL where it is not UTF-8 */
	char *clean;
	size_t bytes;

	if (!v) {
		FILE *f = text_open(&clean, &bytes);

		for (const unsigned char *p = (const unsigned char *)text; *p;)
			put_utf8(f, utf8_next(&p));
		text_close(f);
		v = json_string(clean);
		free(clean);
	}
	return out(v);
}

struct json *json_new_int(int64_t n)
{
	return out(json_integer(n));
}

struct json *json_new_bool(bool b)
{
	return out(json_boolean(b));
}

struct json *json_dup(const struct json *v)
{
	return out(json_deep_copy(in(v)));
}

void json_free(struct json *v)
{
	json_decref(in(v));
}

void json_put(struct json *object, const char *key, struct json *value)
{
	if (json_object_set_new(in(object), key, in(value)))
		abort();
}

void json_add(struct json *array, struct json *value)
{
	if (json_array_append_new(in(array), in(value)))
		abort();
}

void json_put_string(struct json *object, const char *key, const char *text)
{
	json_put(object, key, json_new_string(text));
}

void json_put_int(struct json *object, const char *key, int64_t n)
{
	json_put(object, key, json_new_int(n));
}

void json_put_bool(struct json *object, const char *key, bool b)
{
	json_put(object, key, json_new_bool(b));
}

/* True where brackets nest no deeper than the limit; strings are skipped. Looked at
 * before parsing, so that hostile text costs no stack in anybody's parser. */
static bool depth_is_fine(const char *text)
{
	unsigned depth = 0;
	bool quoted = false;

	for (; *text; text++) {
		if (quoted) {
			if (*text == '\\' && text[1])
				text++;
			else if (*text == '"')
				quoted = false;
		} else if (*text == '"') {
			quoted = true;
		} else if (*text == '{' || *text == '[') {
			if (++depth > DEPTH_LIMIT)
				return false;
		} else if ((*text == '}' || *text == ']') && depth > 0) {
			depth--;
		}
	}
	return true;
}

struct json *json_parse(const char *text, struct err *err)
{
	json_error_t why;
	json_t *v;

	if (strnlen(text, TEXT_LIMIT + 1) > TEXT_LIMIT) {
		err_set(err, E2BIG, "JSON text is longer than 1 MiB");
		return NULL;
	}
	if (!depth_is_fine(text)) {
		err_set(err, EINVAL, "JSON text nests deeper than %d levels",
			DEPTH_LIMIT);
		return NULL;
	}
	v = json_loads(text, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, &why);
	if (!v)
		err_set(err, EINVAL, "JSON parse error, line %d column %d: %s", why.line,
			why.column, why.text);
	return (struct json *)v;
}

enum json_kind json_kind_of(const struct json *v)
{
	switch (json_typeof(in(v))) {
	case JANSSON_OBJECT:
		return JSON_OBJECT;
	case JANSSON_ARRAY:
		return JSON_ARRAY;
	case JANSSON_STRING:
		return JSON_STRING;
	case JANSSON_INTEGER:
		return JSON_INT;
	case JANSSON_REAL:
		return JSON_REAL;
	case JANSSON_TRUE:
	case JANSSON_FALSE:
		return JSON_BOOL;
	default:
		return JSON_NULL;
	}
}

bool json_bool_of(const struct json *v)
{
	return json_typeof(in(v)) == JANSSON_TRUE;
}

int64_t json_int_of(const struct json *v)
{
	return json_integer_value(in(v));
}

double json_real_of(const struct json *v)
{
	return json_number_value(in(v));
}

const char *json_string_of(const struct json *v)
{
	return json_string_value(in(v));
}

size_t json_array_len(const struct json *v)
{
	return json_array_size(in(v));
}

const struct json *json_array_at(const struct json *v, size_t i)
{
	return (const struct json *)json_array_get(in(v), i);
}

const struct json *json_get(const struct json *object, const char *key)
{
	return (const struct json *)json_object_get(in(object), key);
}

int json_object_each(const struct json *object,
	int (*fn)(const char *key, const struct json *value, void *arg), void *arg)
{
	json_t *o = in(object);

	for (void *it = json_object_iter(o); it; it = json_object_iter_next(o, it)) {
		int ret = fn(json_object_iter_key(it),
			(const struct json *)json_object_iter_value(it), arg);

		if (ret)
			return ret;
	}
	return 0;
}

/* Where the printer is. */
struct printer {
	FILE *f;
	unsigned indent; /* spaces a level; 0: all on one line */
	unsigned level;
	bool first; /* no member of this level printed yet */
};

static void print_string(FILE *f, const char *text)
{
	static const char plain[] = "\"\\\b\f\n\r\t", letters[] = "\"\\bfnrt";

	fputc('"', f);
	for (const unsigned char *p = (const unsigned char *)text; *p;) {
		uint32_t cp = utf8_next(&p);
		const char *short_form = cp < 0x80 ? strchr(plain, (int)cp) : NULL;

		if (short_form)
			fprintf(f, "\\%c", letters[short_form - plain]);
		else if (cp >= 0x20 && cp < 0x7f)
			fputc((int)cp, f);
		else if (cp < 0x10000)
			fprintf(f, "\\u%04" PRIX32, cp);
		else
			fprintf(f, "\\u%04" PRIX32 "\\u%04" PRIX32,
				0xd800 + ((cp - 0x10000) >> 10),
				0xdc00 + ((cp - 0x10000) & 0x3ff));
	}
	fputc('"', f);
}

static void new_line(struct printer *p)
{
	if (p->indent > 0)
		fprintf(p->f, "\n%*s", (int)(p->indent * p->level), "");
}

static void print_value(struct printer *p, const struct json *v);

static void print_separator(struct printer *p)
{
	if (!p->first)
		fputs(p->indent > 0 ? "," : ", ", p->f);
	p->first = false;
	new_line(p);
}

static int print_member(const char *key, const struct json *value, void *arg)
{
	struct printer *p = arg;

	print_separator(p);
	print_string(p->f, key);
	fputs(": ", p->f);
	print_value(p, value);
	return 0;
}

/* Recursion is bounded: parsed text by DEPTH_LIMIT, what we build by its maker. */
static void print_value(struct printer *p, const struct json *v)
{
	bool object = json_kind_of(v) == JSON_OBJECT;

	switch (json_kind_of(v)) {
	case JSON_OBJECT:
	case JSON_ARRAY:
		fputc(object ? '{' : '[', p->f);
		p->level++;
		p->first = true;
		if (object)
			json_object_each(v, print_member, p);
		for (size_t i = 0; !object && i < json_array_len(v); i++) {
			print_separator(p);
			print_value(p, json_array_at(v, i));
		}
		p->level--;
		p->first = false;
		new_line(p);
		fputc(object ? '}' : ']', p->f);
		break;
	case JSON_STRING:
		print_string(p->f, json_string_of(v));
		break;
	case JSON_INT:
		fprintf(p->f, "%" PRId64, json_int_of(v));
		break;
	case JSON_REAL:
		fprintf(p->f, "%.17g", json_real_of(v));
		break;
	case JSON_BOOL:
		fputs(json_bool_of(v) ? "true" : "false", p->f);
		break;
	case JSON_NULL:
		fputs("null", p->f);
		break;
	}
}

char *json_dump(const struct json *v, unsigned indent)
{
	char *text;
	size_t bytes;
	struct printer p = {
		.f = text_open(&text, &bytes), .indent = indent, .first = true};

	print_value(&p, v);
	text_close(p.f);
	return text;
}
