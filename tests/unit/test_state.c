/* SPDX-License-Identifier: BSD-2-Clause */
/* Saved state: what is saved is loaded, and what is cut off, changed or of another machine is not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "base/math.h"
#include "vmm/state.h"

struct thing {
	uint8_t a;
	uint16_t b;
	uint32_t c;
	uint64_t d;
	bool e;
	char f[5];
};

static const struct thing model = {1, 0x203, 0x4050607, 0x8090a0b0c0d0e0f, true, "five"};

static void describe(struct state *s, struct thing *t, unsigned version)
{
	if (!state_begin(s, "thing", 3, version))
		return;
	state_u8(s, &t->a);
	state_u16(s, &t->b);
	state_u32(s, &t->c);
	state_u64(s, &t->d);
	state_bool(s, &t->e);
	state_bytes(s, t->f, sizeof(t->f));
	state_end(s);
}

static struct state *save(const uint8_t **data, size_t *bytes)
{
	struct thing t = model;
	struct state *s = state_new();

	assert_non_null(s);
	describe(s, &t, 2);
	assert_int_equal(state_ret(s, NULL), 0);
	*data = state_data(s, bytes);
	return s;
}

static int load(const uint8_t *data, size_t bytes, struct thing *t, unsigned version,
	struct err *err)
{
	struct state *s = state_open(data, bytes);
	int ret;

	memset(t, 0, sizeof(*t));
	describe(s, t, version);
	ret = state_ret(s, err);
	state_free(s);
	return ret;
}

static void what_was_saved_is_loaded(void **state)
{
	const uint8_t *data;
	size_t bytes;
	struct state *saved = save(&data, &bytes);
	struct thing t;

	(void)state;
	assert_int_equal(load(data, bytes, &t, 2, NULL), 0);
	assert_int_equal(t.a, model.a);
	assert_int_equal(t.b, model.b);
	assert_int_equal(t.c, model.c);
	assert_true(t.d == model.d);
	assert_true(t.e);
	assert_string_equal(t.f, model.f);
	state_free(saved);
}

static void a_later_version_is_refused(void **state)
{
	const uint8_t *data;
	size_t bytes;
	struct state *saved = save(&data, &bytes);
	struct err err = ERR_INIT;
	struct thing t;

	(void)state;
	assert_int_equal(load(data, bytes, &t, 1, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "thing 3: version 2"));
	assert_int_equal(load(data, bytes, &t, 3, NULL), 0);
	state_free(saved);
}

static void whatever_is_cut_off_is_an_error(void **state)
{
	const uint8_t *data;
	size_t bytes;
	struct state *saved = save(&data, &bytes);
	struct thing t;

	(void)state;
	for (size_t n = 0; n < bytes; n++) {
		uint8_t *cut = malloc(MAX(n, (size_t)1));

		memcpy(cut, data, n);
		assert_int_equal(load(cut, n, &t, 2, NULL), -EINVAL);
		free(cut);
	}
	state_free(saved);
}

static void a_changed_head_is_an_error_and_values_are_checked(void **state)
{
	const uint8_t *data;
	size_t bytes;
	struct state *saved = save(&data, &bytes);
	uint8_t *copy = malloc(bytes);
	struct thing t;

	(void)state;
	for (size_t i = 0; i < 44; i++) {
		memcpy(copy, data, bytes);
		copy[i] ^= 0xff;
		assert_int_equal(load(copy, bytes, &t, 2, NULL), -EINVAL);
	}
	memcpy(copy, data, bytes);
	copy[44 + 15] = 2; /* a yes or no */
	assert_int_equal(load(copy, bytes, &t, 2, NULL), -EINVAL);
	free(copy);
	state_free(saved);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_was_saved_is_loaded),
		cmocka_unit_test(a_later_version_is_refused),
		cmocka_unit_test(whatever_is_cut_off_is_an_error),
		cmocka_unit_test(a_changed_head_is_an_error_and_values_are_checked),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
