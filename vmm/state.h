/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The saved state of a machine's parts: sections, each with a name, a number and a version,
 * and in it a row of fields. A part describes its fields once, for both ways: the same
 * calls put a field into what is saved or take it out of what is loaded.
 *
 *	static void serial_state(struct device *d, struct state *s, unsigned version)
 *	{
 *		state_u8(s, &serial->ier);
 *		...
 *	}
 *
 * What is loaded comes from a file and is believed as little as a guest: a part checks its
 * values (state_check) before it uses one as an index, a count or an address. Errors stick:
 * after the first nothing is loaded any more, fields keep what they had, and state_ret()
 * tells. Integers are little-endian.
 */
#ifndef BYRE_VMM_STATE_H
#define BYRE_VMM_STATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

#define STATE_NAME_MAX	  32u
#define STATE_SECTION_MAX (64u << 20) /* bytes */

struct state;

/* For saving: grows as needed. NULL: no memory. */
struct state *state_new(void);
/* For loading: the bytes stay the caller's and are there for as long as the state. */
struct state *state_open(const uint8_t *data, size_t bytes);
void state_free(struct state *s);
/* What was saved; it lives as long as the state. */
const uint8_t *state_data(const struct state *s, size_t *bytes);

bool state_loading(const struct state *s);
/* 0, or -errno with err set where something went wrong since the start. */
int state_ret(const struct state *s, struct err *err);
/* Loading: the value cannot be. Saving: never to be called. One line without the section. */
void state_fail(struct state *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* While loading: fails with this text where ok is false; whether all is well so far. */
bool state_check(struct state *s, bool ok, const char *what);

/* A section. Loading: the next one has to be this; its version, at most `version`, is
 * returned (0 after an error). Ending it: all of it has to have been taken. */
unsigned state_begin(struct state *s, const char *name, unsigned instance, unsigned version);
void state_end(struct state *s);
void state_skip(struct state *s); /* loading: the rest of it is taken unseen */
/* Loading: the name and number of the next section; false where there is none, or after an
 * error. */
bool state_peek(const struct state *s, char name[STATE_NAME_MAX], unsigned *instance);

void state_u8(struct state *s, uint8_t *v);
void state_u16(struct state *s, uint16_t *v);
void state_u32(struct state *s, uint32_t *v);
void state_u64(struct state *s, uint64_t *v);
void state_bool(struct state *s, bool *v);
void state_bytes(struct state *s, void *v, size_t bytes);

#endif
