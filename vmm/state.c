/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Saved state. See state.h. A section is
 *
 *	name   32 bytes, padded with zeros
 *	instance, version, bytes   32 bits each
 *	fields
 */
#include "vmm/state.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/endian.h"
#include "base/room.h"

#define HEADER_BYTES (STATE_NAME_MAX + 12)

struct state {
	bool loading;
	uint8_t *own;        /* saving */
	const uint8_t *data; /* loading */
	size_t bytes, room, at;
	size_t section, end; /* where the section's fields begin and, loading, end */
	char name[STATE_NAME_MAX];
	unsigned instance;
	struct err err;
};

struct state *state_new(void)
{
	return calloc(1, sizeof(struct state));
}

struct state *state_open(const uint8_t *data, size_t bytes)
{
	struct state *s = state_new();

	if (s) {
		s->loading = true;
		s->data = data;
		s->bytes = bytes;
	}
	return s;
}

void state_free(struct state *s)
{
	if (s)
		free(s->own);
	free(s);
}

const uint8_t *state_data(const struct state *s, size_t *bytes)
{
	*bytes = s->bytes;
	return s->loading ? s->data : s->own;
}

bool state_loading(const struct state *s)
{
	return s->loading;
}

int state_ret(const struct state *s, struct err *err)
{
	return s->err.code ? err_set(err, s->err.code, "%s", s->err.msg) : 0;
}

void state_fail(struct state *s, const char *fmt, ...)
{
	char why[256];
	va_list ap;

	if (s->err.code)
		return;
	va_start(ap, fmt);
	vsnprintf(why, sizeof(why), fmt, ap);
	va_end(ap);
	err_set(&s->err, EINVAL, "the saved state of %s %u: %s",
		s->name[0] ? s->name : "part", s->instance, why);
}

bool state_check(struct state *s, bool ok, const char *what)
{
	if (s->loading && !ok)
		state_fail(s, "%s", what);
	return !s->err.code;
}

/* ---- fields ---------------------------------------------------------------------- */

static bool make_room(struct state *s, size_t bytes)
{
	uint8_t *more = room_grow(s->own, &s->room, s->bytes + bytes, SIZE_MAX);

	if (!more) {
		err_errno(&s->err, ENOMEM, "saved state");
		return false;
	}
	s->own = more;
	return true;
}

void state_bytes(struct state *s, void *v, size_t bytes)
{
	if (s->err.code)
		return;
	if (!s->loading) {
		if (!make_room(s, bytes))
			return;
		memcpy(s->own + s->bytes, v, bytes);
		s->bytes += bytes;
	} else if (bytes > s->end - s->at) {
		state_fail(s, "it is cut off");
	} else {
		memcpy(v, s->data + s->at, bytes);
		s->at += bytes;
	}
}

void state_u8(struct state *s, uint8_t *v)
{
	state_bytes(s, v, 1);
}

void state_u16(struct state *s, uint16_t *v)
{
	state_bytes(s, v, 2); /* hosts are little-endian: base/endian.h */
}

void state_u32(struct state *s, uint32_t *v)
{
	state_bytes(s, v, 4);
}

void state_u64(struct state *s, uint64_t *v)
{
	state_bytes(s, v, 8);
}

void state_bool(struct state *s, bool *v)
{
	uint8_t byte = *v;

	state_u8(s, &byte);
	if (state_check(s, byte <= 1, "a yes or no is neither"))
		*v = byte;
}

/* ---- sections -------------------------------------------------------------------- */

bool state_peek(const struct state *s, char name[STATE_NAME_MAX], unsigned *instance)
{
	const uint8_t *head = s->data + s->at;

	if (s->err.code || s->bytes - s->at < HEADER_BYTES)
		return false;
	memcpy(name, head, STATE_NAME_MAX);
	name[STATE_NAME_MAX - 1] = 0;
	*instance = le32_load(head + STATE_NAME_MAX);
	return true;
}

static void name_section(struct state *s, const char *name, unsigned instance)
{
	assert(strlen(name) < STATE_NAME_MAX);
	memset(s->name, 0, sizeof(s->name));
	strcpy(s->name, name);
	s->instance = instance;
}

/* The bytes of its length are put in when it ends. */
static unsigned begin_saving(struct state *s, unsigned version)
{
	uint8_t head[HEADER_BYTES] = {0};

	memcpy(head, s->name, STATE_NAME_MAX);
	le32_store(head + STATE_NAME_MAX, s->instance);
	le32_store(head + STATE_NAME_MAX + 4, version);
	state_bytes(s, head, sizeof(head));
	s->section = s->bytes;
	return s->err.code ? 0 : version;
}

static unsigned begin_loading(struct state *s, unsigned version)
{
	const uint8_t *head = s->data + s->at;
	uint32_t saved, bytes;

	if (s->bytes - s->at < HEADER_BYTES) {
		state_fail(s, "it is not there");
		return 0;
	}
	if (memcmp(head, s->name, STATE_NAME_MAX) ||
		le32_load(head + STATE_NAME_MAX) != s->instance) {
		state_fail(s, "in its place is that of %.*s %u: it was another machine",
			(int)strnlen((const char *)head, STATE_NAME_MAX - 1), head,
			le32_load(head + STATE_NAME_MAX));
		return 0;
	}
	saved = le32_load(head + STATE_NAME_MAX + 4);
	bytes = le32_load(head + STATE_NAME_MAX + 8);
	if (!saved || saved > version) {
		state_fail(s, "version %u, and %u is the last that is known here", saved,
			version);
		return 0;
	}
	s->at += HEADER_BYTES;
	if (bytes > s->bytes - s->at) {
		state_fail(s, "it is cut off");
		return 0;
	}
	s->end = s->at + bytes;
	return saved;
}

unsigned state_begin(
	struct state *s, const char *name, unsigned instance, unsigned version)
{
	if (s->err.code)
		return 0;
	name_section(s, name, instance);
	return s->loading ? begin_loading(s, version) : begin_saving(s, version);
}

void state_skip(struct state *s)
{
	if (s->loading && !s->err.code)
		s->at = s->end;
}

void state_end(struct state *s)
{
	if (s->err.code)
		return;
	if (!s->loading)
		le32_store(s->own + s->section - 4, (uint32_t)(s->bytes - s->section));
	else if (s->at != s->end)
		state_fail(s, "%zu bytes are more than it has", s->end - s->at);
	s->name[0] = 0;
}
