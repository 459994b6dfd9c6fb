/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Extents of layers that are drawn: one character is one unit of 512 bytes.
 *
 *	D data   z zeros   . nothing here   h data whose host has a hole
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "base/math.h"
#include "block/driver.h"

#define UNIT 512u

static const struct {
	const char *name, *map, *backing;
} drawings[] = {
	{"alone", "DDz..h", NULL},
	{"top", "D.......z.....", "middle"},
	{"middle", ".D..z...", "base"},
	{"base", "DDDD..DDDDDDDD", NULL},
	{"over-long", "....", "base"},
};

/* ---- drivers: host, whose units are holes where drawings have h; and layers ------ */

static int host_open(struct blk *b, struct opts *opts, struct err *err)
{
	(void)err;
	b->state = strdup(opts_take(opts, "filename"));
	b->size = (1000 + strlen(b->state)) * UNIT;
	return 0;
}

static const char *map_of(const char *name)
{
	for (size_t i = 0; i < ARRAY_LEN(drawings); i++)
		if (!strcmp(drawings[i].name, name))
			return drawings[i].map;
	return "";
}

/* Units 1000 and on hold the drawing's. */
static int host_extent(
	struct blk *b, uint64_t offset, uint64_t bytes, struct blk_extent *out)
{
	const char *map = map_of(b->state);
	size_t i = offset / UNIT - 1000;

	(void)bytes;
	assert_true(offset / UNIT >= 1000 && i < strlen(map));
	out->bytes = UNIT - offset % UNIT;
	out->bytes = MIN(out->bytes, bytes);
	out->flags = BLK_EXT_ALLOCATED | (map[i] == 'h' ? BLK_EXT_ZERO : BLK_EXT_DATA);
	return 0;
}

static int host_preadv(
	struct blk *b, uint64_t offset, uint64_t bytes, const struct iovec *iov, int niov)
{
	(void)b;
	(void)offset;
	(void)bytes;
	(void)iov;
	(void)niov;
	return -EIO; /* no test reads */
}

static const char *const host_schemes[] = {"file", NULL};

static const struct blk_driver host_driver = {
	.name = "host",
	.kind = BLK_PROTOCOL,
	.schemes = host_schemes,
	.open = host_open,
	.preadv = host_preadv,
	.extent = host_extent,
};

static int layer_open(struct blk *b, struct opts *opts, struct err *err)
{
	const char *backing = NULL, *map = "";

	if (!blk_open_child(b, opts, "file", NULL, b->flags, err))
		return -err->code;
	for (size_t i = 0; i < ARRAY_LEN(drawings); i++)
		if (!strcmp(drawings[i].name, b->file->filename)) {
			map = drawings[i].map;
			backing = drawings[i].backing;
		}
	b->size = strlen(map) * UNIT;
	b->limits.request_align = UNIT;
	if (backing) {
		b->backing_name = strdup(backing);
		b->backing_format = strdup("layer");
	}
	return 0;
}

static int layer_extent(
	struct blk *b, uint64_t offset, uint64_t bytes, struct blk_extent *out)
{
	const char *map = map_of(b->filename);
	size_t i = offset / UNIT, n = 1;

	assert_true(is_aligned(offset | bytes, UNIT));
	while (n < bytes / UNIT && map[i + n] == map[i])
		n++;
	out->bytes = n * UNIT;
	if (map[i] == 'z')
		out->flags = BLK_EXT_ZERO | BLK_EXT_ALLOCATED;
	else if (map[i] != '.')
		out->flags =
			BLK_EXT_DATA | BLK_EXT_ALLOCATED | BLK_EXT_HOST | BLK_EXT_RECURSE;
	out->host = b->file;
	out->host_offset = (1000 + i) * UNIT;
	return 0;
}

static const struct blk_driver layer_driver = {
	.name = "layer",
	.kind = BLK_FORMAT,
	.open = layer_open,
	.preadv = host_preadv,
	.extent = layer_extent,
};

const struct blk_driver *const blk_drivers[] = {&host_driver, &layer_driver, NULL};

static struct blk *open_layer(const char *name)
{
	struct err err = ERR_INIT;
	struct blk *b = blk_open_format(name, "layer", 0, &err);

	if (!b)
		fail_msg("%s", err.msg);
	return b;
}

/* ---- one layer ------------------------------------------------------------------- */

static void assert_extent(const struct blk_extent *e, uint64_t bytes, unsigned flags)
{
	assert_int_equal(e->bytes, bytes);
	assert_int_equal(e->flags, flags);
}

static void a_layer_is_told_as_drawn(void **state)
{
	const unsigned data = BLK_EXT_DATA | BLK_EXT_ALLOCATED | BLK_EXT_HOST;
	struct blk *b = open_layer("alone"); /* DDz..h */
	struct blk_extent e;

	(void)state;
	/* The host is asked unit by unit and may cut an answer short. */
	assert_int_equal(blk_extent(b, 0, 6 * UNIT, &e), 0);
	assert_extent(&e, UNIT, data);
	assert_ptr_equal(e.host, blk_file(b));
	assert_int_equal(e.host_offset, 1000 * UNIT);
	assert_int_equal(blk_extent(b, 2 * UNIT, 4 * UNIT, &e), 0);
	assert_extent(&e, UNIT, BLK_EXT_ZERO | BLK_EXT_ALLOCATED);
	assert_int_equal(blk_extent(b, 3 * UNIT, 3 * UNIT, &e), 0);
	assert_extent(&e, 2 * UNIT, BLK_EXT_ZERO);
	assert_int_equal(blk_extent(b, 5 * UNIT, 3 * UNIT, &e), 0);
	assert_extent(&e, UNIT, data | BLK_EXT_ZERO | BLK_EXT_EOF);
	/* Inside units: cut to what was asked. */
	assert_int_equal(blk_extent(b, 700, 100, &e), 0);
	assert_extent(&e, 100, data);
	assert_int_equal(e.offset, 700);
	assert_int_equal(e.host_offset, 1000 * UNIT + 700);
	assert_int_equal(blk_extent(b, 4 * UNIT + 1, UNIT, &e), 0);
	assert_extent(&e, UNIT - 1, BLK_EXT_ZERO);
	blk_close(b);
}

static void ranges_outside_are_refused(void **state)
{
	struct blk *b = open_layer("alone");
	struct blk_extent e = {.bytes = 77};

	(void)state;
	assert_int_equal(blk_extent(b, 0, 0, &e), -EINVAL);
	assert_int_equal(blk_extent(b, 6 * UNIT, 1, &e), -EINVAL);
	assert_int_equal(blk_extent(b, UINT64_MAX, 1, &e), -EINVAL);
	assert_int_equal(e.bytes, 77);
	assert_int_equal(blk_extent(b, 5 * UNIT, UINT64_MAX, &e), 0);
	assert_int_equal(e.bytes, UNIT);
	blk_close(b);
}

/* ---- chains ---------------------------------------------------------------------------
 */

/* What each unit of b reads from, one character each: the depth of the layer for data, z
 * for zeros a layer has, and for what reads as zeros because nobody has it: the letter of
 * the layer that ends there. */
static void draw(struct blk *b, struct blk *base, char *out)
{
	uint64_t offset = 0, size = blk_size(b);
	struct blk_extent e;

	while (offset < size) {
		char c;

		assert_int_equal(blk_extent_above(b, base, offset, size - offset, &e), 0);
		assert_true(e.bytes > 0 && offset + e.bytes <= size);
		assert_int_equal(!!(e.flags & BLK_EXT_EOF), offset + e.bytes == size);
		if (e.flags & BLK_EXT_DATA)
			c = (char)('0' + e.depth);
		else if (e.flags & BLK_EXT_ALLOCATED)
			c = (char)('A' + e.depth);
		else
			c = e.flags & BLK_EXT_ZERO ? (char)('a' + e.depth) : '.';
		for (uint64_t i = 0; i < e.bytes; i += UNIT)
			*out++ = c;
		offset += e.bytes;
	}
	*out = 0;
}

static void chains_are_followed(void **state)
{
	struct blk *b = open_layer("top"), *middle = blk_backing(b);
	char map[32];

	(void)state;
	/*
	 * top     D.......z.....
	 * middle  .D..z...          (ends before base)
	 * base    DDDD..DDDDDDDD
	 */
	draw(b, NULL, map);
	assert_string_equal(map, "0122Bc22Aaaaaa");
	/* Above base: middle's end hides what base has there. */
	draw(b, blk_backing(middle), map);
	assert_string_equal(map, "01..B...AAAAAA");
	draw(b, middle, map);
	assert_string_equal(map, "0.......Aaaaaa");
	blk_close(b);
}

static void a_backing_file_may_be_longer(void **state)
{
	struct blk *b = open_layer("over-long");
	char map[32];

	(void)state;
	draw(b, NULL, map);
	assert_string_equal(map, "1111");
	blk_close(b);
}

/* A driver without extents: all of it is data, and a protocol's is where it is. */
static void no_opinion_means_data(void **state)
{
	struct opts *o = opts_new();
	struct err err = ERR_INIT;
	struct blk *b;
	struct blk_extent e;

	(void)state;
	opts_set(o, "driver", "layer");
	b = blk_open("alone", o, BLK_O_NO_BACKING, &err);
	assert_non_null(b);
	struct blk_driver mute = host_driver;
	mute.extent = NULL;
	b->file->drv = &mute;
	assert_int_equal(blk_extent(b->file, 100, 5000, &e), 0);
	assert_extent(&e, 5000, BLK_EXT_DATA | BLK_EXT_ALLOCATED | BLK_EXT_HOST);
	assert_int_equal(e.host_offset, 100);
	assert_ptr_equal(e.host, b->file);
	blk_close(b);
	opts_free(o);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_layer_is_told_as_drawn),
		cmocka_unit_test(ranges_outside_are_refused),
		cmocka_unit_test(chains_are_followed),
		cmocka_unit_test(a_backing_file_may_be_longer),
		cmocka_unit_test(no_opinion_means_data),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
