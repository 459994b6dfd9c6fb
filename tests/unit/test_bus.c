/* SPDX-License-Identifier: BSD-2-Clause */
/* Address spaces of the machine: what is where, what is nowhere, and guest memory's bounds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>

#include "base/math.h"
#include "vmm/bus.h"
#include "vmm/memory.h"

#define SPACE 4096

static uint64_t last_offset, last_value;

static uint64_t read_back(void *dev, uint64_t offset, unsigned bytes)
{
	last_offset = offset;
	return (uintptr_t)dev * 0x0101010101010101u + bytes;
}

static void write_back(void *dev, uint64_t offset, unsigned bytes, uint64_t value)
{
	(void)dev;
	(void)bytes;
	last_offset = offset;
	last_value = value;
}

static const struct bus_ops ops = {read_back, write_back};

static void accesses_reach_who_claims_them(void **state)
{
	struct bus b;

	(void)state;
	bus_init(&b);
	assert_int_equal(bus_add(&b, 0x3f8, 8, &ops, (void *)1), 0);
	assert_int_equal(bus_add(&b, 0x70, 2, &ops, (void *)2), 0);
	assert_int_equal(bus_read(&b, 0x3fa, 1), 2);
	assert_int_equal(last_offset, 2);
	assert_int_equal(bus_read(&b, 0x71, 1), 3);
	bus_write(&b, 0x3f8, 2, 0x12345678);
	assert_int_equal(last_value, 0x5678);
	/* Nobody's, and half of somebody's. */
	assert_int_equal(bus_read(&b, 0x72, 1), 0xff);
	assert_int_equal(bus_read(&b, 0x3ff, 2), 0xffff);
	assert_true(bus_read(&b, 0x3f7, 8) == UINT64_MAX);
	bus_write(&b, 0x72, 4, 9);
	assert_int_equal(last_value, 0x5678);
	assert_int_equal(bus_add(&b, 0x3fc, 8, &ops, NULL), -EEXIST);
	assert_int_equal(bus_add(&b, 0x3f0, 9, &ops, NULL), -EEXIST);
	assert_int_equal(bus_add(&b, 0x3f0, 8, &ops, NULL), 0);
	assert_int_equal(bus_add(&b, UINT64_MAX - 3, 4, &ops, NULL), 0);
	assert_int_equal(bus_add(&b, UINT64_MAX - 8, 16, &ops, NULL), -EINVAL);
	assert_int_equal(bus_add(&b, 0, 0, &ops, NULL), -EINVAL);
	bus_remove(&b, 0x3f8);
	assert_int_equal(bus_read(&b, 0x3fa, 1), 0xff);
	bus_remove(&b, 0x3f9); /* begins nowhere */
	bus_free(&b);
}

/* Random ranges against an array of owners. */
static void ranges_come_and_go(void **state)
{
	uint8_t owner[SPACE] = {0};
	unsigned seed = 3;
	struct bus b;

	(void)state;
	bus_init(&b);
	for (unsigned i = 0; i < 20000; i++) {
		unsigned base = (unsigned)rand_r(&seed) % SPACE;
		unsigned bytes = 1 + (unsigned)rand_r(&seed) % 100, who = 1 + i % 255;
		bool fits = base + bytes <= SPACE;

		for (unsigned at = base; at < base + bytes && fits; at++)
			fits = !owner[at];
		if (owner[base] && (base == 0 || owner[base - 1] != owner[base])) {
			bus_remove(&b, base);
			for (unsigned at = base, w = owner[base];
				at < SPACE && owner[at] == w; at++)
				owner[at] = 0;
		} else if (fits) {
			assert_int_equal(
				bus_add(&b, base, bytes, &ops, (void *)(uintptr_t)who),
				0);
			for (unsigned at = base; at < base + bytes; at++)
				owner[at] = (uint8_t)who;
		} else if (base + bytes <= SPACE) {
			assert_int_equal(bus_add(&b, base, bytes, &ops, NULL), -EEXIST);
		}
		base = (unsigned)rand_r(&seed) % SPACE;
		assert_int_equal(bus_read(&b, base, 1),
			owner[base] ? (uint8_t)(owner[base] + 1) : 0xff);
	}
	bus_free(&b);
}

static void memory_ends_where_it_ends(void **state)
{
	struct memory_options o = {.bytes = 4 * GiB};
	struct err err = ERR_INIT;
	struct memory m;

	(void)state;
	assert_int_equal(memory_new(&m, &o, &err), 0);
	assert_int_equal(memory_bytes(&m), 4 * GiB);
	assert_non_null(memory_at(&m, 0, MEMORY_HOLE_START));
	assert_null(memory_at(&m, 0, MEMORY_HOLE_START + 1));
	assert_null(memory_at(&m, MEMORY_HOLE_START, 1));
	assert_null(memory_at(&m, MEMORY_HOLE_START - 1, 2));
	assert_non_null(memory_at(&m, MEMORY_HOLE_END, GiB));
	assert_null(memory_at(&m, MEMORY_HOLE_END, GiB + 1));
	assert_null(memory_at(&m, UINT64_MAX, 2));
	assert_null(memory_at(&m, 4096, UINT64_MAX));
	memory_free(&m);
	o.bytes = MEMORY_MIN + 4096;
	assert_int_equal(memory_new(&m, &o, &err), -EINVAL);
	o.bytes = 2 * MiB;
	assert_int_equal(memory_new(&m, &o, &err), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(accesses_reach_who_claims_them),
		cmocka_unit_test(ranges_come_and_go),
		cmocka_unit_test(memory_ends_where_it_ends),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
