/* SPDX-License-Identifier: BSD-2-Clause */
/* JSON values out of a stream. See json_split.h. */
#include "base/json_split.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/math.h"
#include "base/room.h"

#define VALUE_MAX   MiB /* as of json_parse */
#define DEPTH_LIMIT 64u
#define FLUSH       0xffu

struct json_split {
	char *text;
	size_t bytes, room;
	size_t from, at; /* where the value begins, and how far it was looked at */
	unsigned depth;
	bool quoted, escaped;
};

enum step {
	MORE,
	ENDS,        /* with this byte */
	ENDS_BEFORE, /* it: it belongs to the next */
};

struct json_split *json_split_new(void)
{
	return calloc(1, sizeof(struct json_split));
}

void json_split_free(struct json_split *s)
{
	if (!s)
		return;
	free(s->text);
	free(s);
}

static bool is_space(unsigned char c)
{
	return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static int make_room(struct json_split *s, size_t bytes)
{
	char *text = room_grow(s->text, &s->room, bytes, SIZE_MAX);

	if (!text)
		return -ENOMEM;
	s->text = text;
	return 0;
}

int json_split_add(struct json_split *s, const char *data, size_t bytes)
{
	if (s->from) {
		memmove(s->text, s->text + s->from, s->bytes - s->from);
		s->bytes -= s->from;
		s->at -= s->from;
		s->from = 0;
	}
	if (bytes > VALUE_MAX - s->bytes)
		return -E2BIG;
	if (make_room(s, s->bytes + bytes))
		return -ENOMEM;
	memcpy(s->text + s->bytes, data, bytes);
	s->bytes += bytes;
	return 0;
}

static enum step in_string(struct json_split *s, unsigned char c)
{
	if (c < ' ' || c == FLUSH)
		return ENDS;
	if (s->escaped)
		s->escaped = false;
	else if (c == '\\')
		s->escaped = true;
	else if (c == '"')
		s->quoted = false;
	return s->quoted || s->depth ? MORE : ENDS;
}

static enum step outside(struct json_split *s, unsigned char c)
{
	bool bare = s->depth == 0 && s->at > s->from; /* in a word without brackets */

	if (is_space(c))
		return bare ? ENDS_BEFORE : MORE;
	if (c < ' ' || c == FLUSH)
		return ENDS;
	switch (c) {
	case '{':
	case '[':
		if (bare)
			return ENDS_BEFORE;
		return ++s->depth > DEPTH_LIMIT ? ENDS : MORE;
	case '}':
	case ']':
		if (s->depth)
			s->depth--;
		return s->depth ? MORE : ENDS;
	case '"':
		s->quoted = true;
		return MORE;
	default:
		return MORE;
	}
}

/* Looks at one byte. */
static enum step look(struct json_split *s)
{
	unsigned char c = (unsigned char)s->text[s->at];

	return s->quoted ? in_string(s, c) : outside(s, c);
}

static void skip_space(struct json_split *s)
{
	while (s->at == s->from && s->at < s->bytes &&
		is_space((unsigned char)s->text[s->at]))
		s->at = ++s->from;
}

char *json_split_next(struct json_split *s)
{
	enum step step = MORE;
	char *value;

	skip_space(s);
	while (s->at < s->bytes && (step = look(s)) == MORE)
		s->at++;
	if (step == MORE)
		return NULL;
	if (step == ENDS)
		s->at++;
	value = malloc(s->at - s->from + 1);
	if (!value)
		abort(); /* as all of JSON: see json.h */
	memcpy(value, s->text + s->from, s->at - s->from);
	value[s->at - s->from] = 0;
	s->from = s->at;
	s->depth = 0;
	s->quoted = s->escaped = false;
	return value;
}
