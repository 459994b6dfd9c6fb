/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What SCSI targets say, and lies in it: identities and port groups of VPD page 0x83, groups'
 * states, and the names in reservation keys.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backends/reserve.h"
#include "block/storage.h"

/* A page of designators: T10, a port's group, an EUI, an 8-byte and a 16-byte NAA. */
static const uint8_t page[] = {
	0,
	0x83,
	0,
	68,
	2,
	0x01,
	0,
	12,
	'V',
	'E',
	'N',
	'D',
	'O',
	'R',
	' ',
	' ',
	'd',
	'1',
	' ',
	0,
	1,
	0x15,
	0,
	4,
	0,
	0,
	0x01,
	0x02,
	1,
	0x02,
	0,
	8,
	1,
	2,
	3,
	4,
	5,
	6,
	7,
	8,
	1,
	0x03,
	0,
	8,
	0x50,
	0,
	0,
	0,
	0,
	0,
	0,
	1,
	1,
	0x03,
	0,
	16,
	0x60,
	1,
	2,
	3,
	4,
	5,
	6,
	7,
	8,
	9,
	10,
	11,
	12,
	13,
	14,
	15,
};

static void expect_identity(const uint8_t *p, size_t bytes, const char *wanted)
{
	char *name = NULL;

	assert_int_equal(scsi_identity(p, bytes, &name), wanted ? 0 : -ENOTSUP);
	if (wanted)
		assert_string_equal(name, wanted);
	free(name);
}

static void the_most_lasting_name_is_taken(void **state)
{
	(void)state;
	expect_identity(page, sizeof(page), "naa.600102030405060708090a0b0c0d0e0f");
	/* Cut off after each of them, as an allocation length does. */
	expect_identity(page, sizeof(page) - 1, "naa.5000000000000001");
	expect_identity(page, sizeof(page) - 21, "eui.0102030405060708");
	expect_identity(page, 4 + 16 + 8, "t10.VENDOR__d1");
	expect_identity(page, 4 + 15, NULL);
	expect_identity(page, 3, NULL);
	assert_int_equal(scsi_port_group(page, sizeof(page)), 0x102);
	assert_int_equal(scsi_port_group(page, 4 + 16), -1);
}

static void a_page_that_lies_names_nothing(void **state)
{
	uint8_t lie[sizeof(page)];

	(void)state;
	memcpy(lie, page, sizeof(page));
	lie[1] = 0x80; /* another page */
	expect_identity(lie, sizeof(lie), NULL);
	memcpy(lie, page, sizeof(page));
	lie[2] = lie[3] = 0xff; /* longer than it is */
	expect_identity(lie, sizeof(lie), "naa.600102030405060708090a0b0c0d0e0f");
	lie[7] = 0xff; /* a designator longer than the page */
	expect_identity(lie, sizeof(lie), NULL);
	for (unsigned seed = 0; seed < 20000; seed++) {
		unsigned r = seed;
		char *name = NULL;

		memcpy(lie, page, sizeof(page));
		for (int i = 0; i < 4; i++)
			lie[(unsigned)rand_r(&r) % sizeof(lie)] = (uint8_t)rand_r(&r);
		if (scsi_identity(lie, (unsigned)rand_r(&r) % (sizeof(lie) + 1), &name) ==
			0)
			free(name);
		scsi_port_group(lie, sizeof(lie));
		scsi_group_priority(lie, sizeof(lie), 1);
	}
}

static void groups_have_their_worth(void **state)
{
	static const uint8_t list[] = {
		0,
		0,
		0,
		36,
		0x80,
		0,
		0,
		1,
		0,
		0,
		0,
		1,
		0,
		0,
		0,
		1, /* preferred, one port */
		0x00,
		0,
		0,
		2,
		0,
		0,
		0,
		0,
		0x01,
		0,
		0,
		3,
		0,
		0,
		0,
		0,
		0x0f,
		0,
		0,
		4,
		0,
		0,
		0,
		0,
	};

	(void)state;
	assert_int_equal(scsi_group_priority(list, sizeof(list), 1), BLK_PATH_PREFERRED);
	assert_int_equal(scsi_group_priority(list, sizeof(list), 2), BLK_PATH_OPTIMIZED);
	assert_int_equal(
		scsi_group_priority(list, sizeof(list), 3), BLK_PATH_NON_OPTIMIZED);
	assert_int_equal(
		scsi_group_priority(list, sizeof(list), 4), BLK_PATH_UNAVAILABLE);
	assert_int_equal(scsi_group_priority(list, sizeof(list), 9), BLK_PATH_OPTIMIZED);
	assert_int_equal(scsi_group_priority(list, 3, 1), BLK_PATH_OPTIMIZED);
}

static void keys_name_their_holder(void **state)
{
	char name[RESERVE_NAME_MAX], pid[32], host[65] = "";
	uint64_t key = reserve_own_key();

	(void)state;
	gethostname(host, sizeof(host) - 1);
	host[strcspn(host, ".")] = '\0';
	reserve_name(key, name);
	snprintf(pid, sizeof(pid), ", pid %u", (unsigned)getpid() & 0xffffff);
	assert_non_null(strstr(name, pid));
	assert_non_null(strstr(name, strlen(host) > 5 ? host + strlen(host) - 5 : host));
	reserve_name(0x6e6f646531000001, name); /* "node1", 1 */
	assert_string_equal(name, "…node1, pid 1");
	reserve_name(0x766d000000001234, name);
	assert_string_equal(name, "vm, pid 4660");
	/* Not of our make: not printable, a hole in the name, no process, no name. */
	reserve_name(0x1b5b6d0000000001, name);
	assert_string_equal(name, "key 0x1b5b6d0000000001");
	reserve_name(0x7600620000000001, name);
	assert_string_equal(name, "key 0x7600620000000001");
	reserve_name(0x766d000000000000, name);
	assert_string_equal(name, "key 0x766d000000000000");
	reserve_name(1, name);
	assert_string_equal(name, "key 0x1");
}

/* ---- a unit with reservations, as far as they are used ---------------------------- */

#define PATHS 4

static struct unit {
	uint64_t key[PATHS]; /* 0: not registered */
	int holder;          /* a path; -1: none */
} unit;

static uint64_t load(const uint8_t *p)
{
	uint64_t n = 0;

	for (int i = 0; i < 8; i++)
		n = n << 8 | p[i];
	return n;
}

static void store(uint8_t *p, uint64_t n)
{
	for (int i = 7; i >= 0; i--, n >>= 8)
		p[i] = (uint8_t)n;
}

static int answer_in(struct scsi_command *c)
{
	uint8_t *in = c->in;
	unsigned n = 0;

	memset(in, 0, c->in_bytes);
	c->got = 8;
	if (c->cdb[1] == 0) {
		for (int i = 0; i < PATHS; i++)
			if (unit.key[i])
				store(in + 8 + 8 * n++, unit.key[i]);
		in[7] = (uint8_t)(8 * n);
		c->got += 8 * n;
	} else if (c->cdb[1] == 1 && unit.holder >= 0) {
		in[7] = 16;
		store(in + 8, unit.key[unit.holder]);
		in[21] = 5;
		c->got = 24;
	}
	return 0;
}

static int preempt(int path, uint64_t victim)
{
	bool held = unit.holder >= 0 && unit.key[unit.holder] == victim;

	for (int i = 0; i < PATHS; i++)
		if (i != path && unit.key[i] == victim)
			unit.key[i] = 0;
	if (held)
		unit.holder = path;
	return 0;
}

static int answer(void *ctx, struct scsi_command *c)
{
	int path = *(int *)ctx;
	const uint8_t *out = c->out;

	if (c->cdb[0] == 0x5e)
		return answer_in(c);
	assert_int_equal(c->cdb[0], 0x5f);
	assert_int_equal(c->out_bytes, 24);
	if (unit.key[path] != load(out) || (c->cdb[1] && !unit.key[path]))
		return -EBADE;
	switch (c->cdb[1]) {
	case 0:
		unit.key[path] = load(out + 8);
		if (!unit.key[path] && unit.holder == path)
			unit.holder = -1;
		return 0;
	case 1:
		if (unit.holder >= 0 && unit.holder != path)
			return -EBADE;
		unit.holder = path;
		return 0;
	case 2:
		if (unit.holder == path)
			unit.holder = -1;
		return 0;
	case 4:
		return preempt(path, load(out + 8));
	default:
		return -ENOTSUP; /* PREEMPT AND ABORT, as some do */
	}
}

static void one_writer_holds_it_over_all_its_paths(void **state)
{
	struct reserve_state now;
	uint64_t holder = 0;
	int path[PATHS] = {0, 1, 2, 3};

	(void)state;
	unit = (struct unit){.holder = -1};
	assert_int_equal(reserve_join(answer, &path[1], 0xa), -EBADE);
	assert_int_equal(reserve_take(answer, &path[0], 0xa, &holder), 0);
	assert_int_equal(reserve_join(answer, &path[1], 0xa), 0);
	/* The same key is no way in. */
	assert_int_equal(reserve_take(answer, &path[2], 0xa, &holder), -EBUSY);
	assert_int_equal(reserve_take(answer, &path[3], 0xb, &holder), -EBUSY);
	assert_int_equal(holder, 0xa);
	assert_int_equal(reserve_join(answer, &path[3], 0xb), -EBADE);
	/* Whose path is registered under another's key, as all of a host's are, is refused. */
	assert_int_equal(reserve_take(answer, &path[0], 0xc, &holder), -EBUSY);
	assert_int_equal(unit.key[0], 0xa);
	assert_int_equal(reserve_look(answer, &path[3], &now), 0);
	assert_int_equal(now.n_keys, 2);
	assert_true(reserve_is_ours(&now, 0xa));
	assert_false(reserve_is_ours(&now, 0xb));
	/* Given up by one path, for those that are gone as well. */
	reserve_drop(answer, &path[1], 0xa);
	reserve_drop(answer, &path[0], 0xa);
	assert_int_equal(reserve_look(answer, &path[3], &now), 0);
	assert_int_equal(now.n_keys, 0);
	assert_false(now.held);
}

static void a_key_is_broken_by_its_name(void **state)
{
	struct reserve_state now;
	uint64_t holder;
	int path[2] = {0, 1};

	(void)state;
	unit = (struct unit){.holder = -1};
	assert_int_equal(reserve_take(answer, &path[0], 0xa, &holder), 0);
	assert_int_equal(reserve_break(answer, &path[1], 0xb, 0xc), -ENOENT);
	assert_int_equal(unit.key[0], 0xa);
	assert_int_equal(reserve_break(answer, &path[1], 0xb, 0xa), 0);
	assert_int_equal(reserve_look(answer, &path[0], &now), 0);
	assert_int_equal(now.n_keys, 0);
	assert_false(now.held);
	/* Also by the path it was registered on. */
	assert_int_equal(reserve_take(answer, &path[0], 0xa, &holder), 0);
	assert_int_equal(reserve_break(answer, &path[0], 0xb, 0xa), 0);
	assert_int_equal(unit.key[0], 0);
	assert_int_equal(unit.holder, -1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_most_lasting_name_is_taken),
		cmocka_unit_test(a_page_that_lies_names_nothing),
		cmocka_unit_test(groups_have_their_worth),
		cmocka_unit_test(keys_name_their_holder),
		cmocka_unit_test(one_writer_holds_it_over_all_its_paths),
		cmocka_unit_test(a_key_is_broken_by_its_name),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
