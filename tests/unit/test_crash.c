/* SPDX-License-Identifier: BSD-2-Clause */
/* The crash instrument: what must survive a power cut does, and all the rest may not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "backends/crash.h"
#include "backends/mem.h"
#include "base/iov.h"
#include "base/math.h"
#include "block/driver.h"
#include "block/format.h"
#include "tests/unit/support_blk.h"
#include "tests/unit/support_engine.h"
#include "tests/unit/support_files.h"

#define UNIT 4096

static struct blk *open_crash(void)
{
	return node_open("driver=crash,file.driver=mem", BLK_O_RDWR | BLK_O_DISCARD);
}

/* Closes the recorded disk; what is left is its log. */
static struct crash_log *finish(struct blk *b)
{
	struct crash_log *log = crash_log_get(b);

	assert_int_equal(blk_close(b), 0);
	return log;
}

/* The disk after a cut, from an empty one. */
static struct blk *after(
	const struct crash_log *log, uint64_t at, enum crash_mode mode, uint64_t seed)
{
	struct blk *b = node_open("driver=mem", BLK_O_RDWR);
	struct crash_cut cut = {at, mode, seed};

	assert_int_equal(crash_replay(log, &cut, b), 0);
	return b;
}

/* The value of the 512 bytes at offset; 0 past the end. Fails where they are mixed. */
static int sector_at(struct blk *b, uint64_t offset)
{
	uint8_t buf[512];

	if (offset >= blk_size(b))
		return 0;
	assert_true(blk_size(b) >= offset + 512);
	assert_int_equal(blk_pread(b, offset, buf, sizeof(buf)), 0);
	for (int i = 1; i < 512; i++)
		assert_int_equal(buf[i], buf[0]);
	return buf[0];
}

static uint64_t event_of(
	const struct crash_log *log, enum crash_kind kind, unsigned nth, bool end)
{
	size_t n;
	const struct crash_op *ops = crash_ops(log, &n);

	for (size_t i = 0; i < n; i++)
		if (ops[i].kind == kind && nth-- == 0)
			return end ? ops[i].end : ops[i].begin;
	fail_msg("no such operation");
	return 0;
}

static void flushed_data_survives_every_cut(void)
{
	struct blk *b = open_crash(), *d;
	struct crash_log *log;
	uint64_t flushed;

	node_fill(b, 0, UNIT, 'a');
	node_fill(b, UNIT, UNIT, 'b');
	assert_int_equal(blk_flush(b), 0);
	node_fill(b, 0, UNIT, 'c');
	log = crash_log_get(b); /* closing flushes once more */
	flushed = event_of(log, CRASH_FLUSH, 0, true);

	for (uint64_t at = 0; at <= crash_events(log); at++) {
		for (uint64_t seed = 0; seed < 50; seed++) {
			d = after(log, at, CRASH_RANDOM, seed);
			for (int i = 0; i < 8 && at > flushed; i++) {
				int first = sector_at(d, i * 512);

				assert_true(first == 'a' || first == 'c');
				assert_int_equal(sector_at(d, UNIT + i * 512), 'b');
			}
			blk_close(d);
		}
		d = after(log, at, CRASH_DROP, 0);
		assert_int_equal(sector_at(d, 0), at > flushed ? 'a' : 0);
		blk_close(d);
		d = after(log, at, CRASH_KEEP, 0);
		assert_int_equal(sector_at(d, UNIT), at > 2 ? 'b' : 0);
		blk_close(d);
	}
	crash_log_put(log);
	assert_int_equal(blk_close(b), 0);
}

static void every_subset_of_open_writes_can_be_had(void)
{
	struct blk *b = open_crash(), *d;
	struct crash_log *log;
	unsigned seen = 0;
	uint64_t at;

	for (int i = 0; i < 4; i++)
		node_fill(b, i * UNIT, UNIT, 1 + i);
	log = crash_log_get(b);
	at = crash_events(log);
	assert_int_equal(crash_open_ops(log, at), 4);
	assert_int_equal(crash_open_ops(log, 3), 2); /* the second one is in flight */
	for (unsigned mask = 0; mask < 16; mask++) {
		unsigned got = 0;

		d = after(log, at, CRASH_SUBSET, mask);
		for (int i = 0; i < 4; i++)
			if (sector_at(d, i * UNIT) == 1 + i)
				got |= 1u << i;
		assert_int_equal(got, mask);
		seen |= 1u << got;
		blk_close(d);
	}
	assert_int_equal(seen, 0xffff);
	crash_log_put(log);
	assert_int_equal(blk_close(b), 0);
}

static void open_writes_are_kept_dropped_torn_and_reordered(void)
{
	struct blk *b = open_crash(), *d;
	bool torn = false, reordered = false, none = false, all = false,
	     scattered = false;
	struct crash_log *log;

	node_fill(b, 0, UNIT, 1);
	node_fill(b, UNIT, UNIT, 2);
	log = crash_log_get(b);
	for (uint64_t seed = 0; seed < 400; seed++) {
		int have[2] = {0, 0}, changes = 0;

		d = after(log, crash_events(log), CRASH_RANDOM, seed);
		for (int i = 0; i < 16; i++) {
			int v = sector_at(d, i * 512);

			assert_true(v == 0 || v == 1 + i / 8);
			have[i / 8] += v != 0;
			changes += i % 8 && v != sector_at(d, (i - 1) * 512);
		}
		none |= have[0] + have[1] == 0;
		all |= have[0] + have[1] == 16;
		torn |= have[0] > 0 && have[0] < 8;
		scattered |= changes > 2;
		reordered |= have[0] == 0 && have[1] == 8;
		blk_close(d);
	}
	assert_true(none && all && torn && scattered && reordered);
	crash_log_put(log);
	assert_int_equal(blk_close(b), 0);
}

static void write_with_fua_is_there_alone(void)
{
	struct blk *b = open_crash(), *d;
	uint8_t buf[512];
	struct crash_log *log;

	node_fill(b, 0, 512, 1);
	memset(buf, 2, sizeof(buf));
	assert_int_equal(blk_pwrite(b, 512, buf, sizeof(buf), BLK_FUA), 0);
	log = crash_log_get(b);
	assert_false(crash_is_stable(log, 0, crash_events(log)));
	assert_true(crash_is_stable(log, 1, crash_events(log)));
	assert_false(crash_is_stable(log, 1, crash_events(log) - 1));
	d = after(log, crash_events(log), CRASH_DROP, 0);
	assert_int_equal(sector_at(d, 0), 0);
	assert_int_equal(sector_at(d, 512), 2);
	blk_close(d);
	crash_log_put(log);
	assert_int_equal(blk_close(b), 0);
}

static void zeroing_and_discarding_are_open_too(void)
{
	struct blk *b = open_crash(), *d;
	struct crash_log *log;
	bool torn = false;

	node_fill(b, 0, 2 * UNIT, 5);
	assert_int_equal(blk_flush(b), 0);
	assert_int_equal(blk_zero(b, 0, UNIT, 0), 0);
	assert_int_equal(blk_discard(b, UNIT, UNIT), 0);
	log = crash_log_get(b);
	for (unsigned mask = 0; mask < 4; mask++) {
		d = after(log, crash_events(log), CRASH_SUBSET, mask);
		assert_int_equal(sector_at(d, 0), mask & 1 ? 0 : 5);
		assert_int_equal(sector_at(d, UNIT), mask & 2 ? 0 : 5);
		blk_close(d);
	}
	for (uint64_t seed = 0; seed < 100; seed++) {
		d = after(log, crash_events(log), CRASH_RANDOM, seed);
		torn |= sector_at(d, 0) != sector_at(d, UNIT - 512);
		blk_close(d);
	}
	assert_true(torn);
	crash_log_put(log);
	assert_int_equal(blk_close(b), 0);
}

static void changes_of_size_keep_their_order(void)
{
	struct blk *b = open_crash(), *d;
	struct crash_log *log;

	node_fill(b, 0, 2 * UNIT, 7);
	assert_int_equal(blk_flush(b), 0);
	assert_int_equal(blk_resize(b, UNIT, BLK_PREALLOC_OFF, NULL), 0);     /* bit 0 */
	assert_int_equal(blk_resize(b, 4 * UNIT, BLK_PREALLOC_OFF, NULL), 0); /* bit 1 */
	node_fill(b, UNIT, 512, 8);                                           /* bit 2 */
	node_fill(b, 0, 512, 9);                                              /* bit 3 */
	log = crash_log_get(b);
	for (unsigned mask = 0; mask < 16; mask++) {
		bool cut = mask & 1, grown = (mask & 3) == 3;

		d = after(log, crash_events(log), CRASH_SUBSET, mask);
		/* Without the cut neither the growth nor what was written past it. */
		if (!cut)
			assert_int_equal(blk_size(d), 2 * UNIT);
		if (grown)
			assert_int_equal(blk_size(d), 4 * UNIT);
		assert_int_equal(sector_at(d, UNIT), !cut ? 7 : mask & 4 ? 8 : 0);
		assert_int_equal(sector_at(d, UNIT + 512), cut ? 0 : 7);
		assert_int_equal(sector_at(d, 0), mask & 8 ? 9 : 7);
		blk_close(d);
	}
	crash_log_put(log);
	assert_int_equal(blk_close(b), 0);
}

/* ---- requests in flight ---------------------------------------------------------- */

static void put(FILE *f, uint64_t n, int bytes)
{
	for (int i = 0; i < bytes; i++)
		fputc(i < 8 ? n >> 8 * i & 0xff : 0, f);
}

/* As the driver writes them; the format is in crash.c. */
static void put_begin(
	FILE *f, enum crash_kind kind, uint64_t op, uint64_t offset, uint64_t bytes)
{
	put(f, 1 | kind << 8, 8);
	put(f, op, 8);
	put(f, offset, 8);
	put(f, bytes, 8);
	for (uint64_t i = 0; kind == CRASH_WRITE && i < bytes; i++)
		fputc('A' + (int)op, f);
}

static void put_end(FILE *f, uint64_t op, int32_t result)
{
	put(f, 2, 4);
	put(f, (uint32_t)result, 4);
	put(f, op, 8);
	put(f, 0, 16);
}

/* write A; write B begins; flush begins; B ends; flush ends; write C fails; flush; write
 * D */
static const char *log_with_overlaps(void)
{
	const char *path = scratch_path("overlap.log");
	FILE *f = fopen(path, "w");

	assert_non_null(f);
	fputs("BYRECRSH", f);
	put(f, 1, 8);
	put_begin(f, CRASH_WRITE, 0, 0, 512);
	put_end(f, 0, 0);
	put_begin(f, CRASH_WRITE, 1, 512, 512);
	put_begin(f, CRASH_FLUSH, 2, 0, 0);
	put_end(f, 1, 0);
	put_end(f, 2, 0);
	put_begin(f, CRASH_WRITE, 3, 1024, 512);
	put_end(f, 3, -EIO);
	put_begin(f, CRASH_FLUSH, 4, 0, 0);
	put_end(f, 4, 0);
	put_begin(f, CRASH_WRITE, 5, 0, 512);
	fclose(f);
	return path;
}

static void flush_covers_only_what_ended_before_it_began(void)
{
	struct err err = ERR_INIT;
	struct crash_log *log;
	struct blk *d;

	assert_int_equal(crash_log_load(&log, log_with_overlaps(), &err), 0);
	assert_int_equal(crash_events(log), 11);
	assert_true(crash_is_stable(log, 0, 6));
	assert_false(crash_is_stable(log, 0, 5));
	assert_false(crash_is_stable(log, 1, 6));
	assert_true(crash_is_stable(log, 1, 10));
	/* A write that failed is promised nothing, not even by a later flush. */
	assert_false(crash_is_stable(log, 3, 11));
	assert_int_equal(crash_open_ops(log, 11), 2);
	d = after(log, 11, CRASH_DROP, 0);
	assert_int_equal(sector_at(d, 0), 'A');
	assert_int_equal(sector_at(d, 512), 'B');
	assert_int_equal(sector_at(d, 1024), 0);
	blk_close(d);
	d = after(log, 11, CRASH_KEEP, 0);
	assert_int_equal(sector_at(d, 0), 'F'); /* in flight */
	assert_int_equal(sector_at(d, 1024), 'D');
	blk_close(d);
	crash_log_put(log);
}

/* ---- log files ------------------------------------------------------------------- */

static void log_file_tells_the_same_story(void)
{
	const char *path = scratch_path("crash.log");
	const struct crash_op *a, *b;
	struct crash_log *mem_log, *file_log;
	struct err err = ERR_INIT;
	char options[600];
	struct blk *node;
	size_t n, m;

	snprintf(options, sizeof(options), "driver=crash,file.driver=mem,log=%s", path);
	node = node_open(options, BLK_O_RDWR | BLK_O_DISCARD);
	node_fill(node, 100, 3000, 1);
	assert_int_equal(blk_flush(node), 0);
	assert_int_equal(blk_zero(node, 0, 512, BLK_FUA), 0);
	assert_int_equal(blk_discard(node, 512, 512), 0);
	assert_int_equal(blk_resize(node, 512, BLK_PREALLOC_OFF, NULL), 0);
	mem_log = finish(node);
	assert_int_equal(crash_log_load(&file_log, path, &err), 0);
	a = crash_ops(mem_log, &n);
	b = crash_ops(file_log, &m);
	assert_int_equal(n, m);
	assert_int_equal(crash_events(mem_log), crash_events(file_log));
	for (size_t i = 0; i < n; i++) {
		assert_int_equal(a[i].kind, b[i].kind);
		assert_int_equal(a[i].fua, b[i].fua);
		assert_int_equal(a[i].offset, b[i].offset);
		assert_int_equal(a[i].bytes, b[i].bytes);
		assert_int_equal(a[i].begin, b[i].begin);
		assert_int_equal(a[i].end, b[i].end);
		assert_int_equal(a[i].result, b[i].result);
		if (a[i].data)
			assert_memory_equal(a[i].data, b[i].data, a[i].bytes);
	}
	crash_log_put(mem_log);
	crash_log_put(file_log);
}

static void damaged_log_is_refused_or_ends_early(void)
{
	const char *path = log_with_overlaps();
	struct crash_log *log;
	struct err err = ERR_INIT;
	uint64_t events = 0;
	FILE *f = fopen(path, "r");
	long bytes;

	fseek(f, 0, SEEK_END);
	bytes = ftell(f);
	fclose(f);
	/* Byte by byte from its end: it has fewer and fewer events. */
	for (long n = bytes; n >= 0; n--) {
		int ret;

		assert_int_equal(truncate(path, n), 0);
		ret = crash_log_load(&log, path, &err);
		assert_int_equal(ret, n < 16 ? -EINVAL : 0);
		if (ret < 0)
			continue;
		assert_true(n == bytes || crash_events(log) <= events);
		events = crash_events(log);
		crash_log_put(log);
	}
	/* An end of what never began, and a size past all reason. */
	for (int i = 0; i < 2; i++) {
		f = fopen(path, "w");
		fputs("BYRECRSH", f);
		put(f, 1, 8);
		if (i == 0)
			put_end(f, 7, 0);
		else
			put_begin(f, CRASH_ZERO, 0, 0, UINT64_MAX);
		fclose(f);
		assert_int_equal(crash_log_load(&log, path, &err), -EINVAL);
	}
	assert_int_equal(crash_log_load(&log, scratch_path("absent"), &err), -ENOENT);
}

static void recording_that_cannot_go_on_stops_the_disk(void)
{
	struct blk *b;
	struct err err;
	char buf[512] = {1};

	assert_true(
		node_refused("driver=crash,file.driver=mem,log=/dev/full", 0, &err) < 0);
	assert_int_equal(
		node_refused("driver=crash,file.driver=mem,log=/absent/x", 0, &err),
		-ENOENT);
	b = node_open("driver=trace,file.driver=crash,file.file.driver=mem", BLK_O_RDWR);
	assert_ptr_equal(crash_find(b), blk_file(b));
	assert_null(crash_find(blk_file(blk_file(b))));
	assert_int_equal(blk_pwrite(b, 0, buf, sizeof(buf), 0), 0);
	assert_int_equal(blk_close(b), 0);
}

/* ---- several loops --------------------------------------------------------------- */

static int write_and_flush(void *arg, unsigned i)
{
	uint8_t buf[512];
	int ret = 0;

	memset(buf, 1 + i, sizeof(buf));
	for (unsigned n = 0; n < 50 && ret == 0; n++) {
		ret = blk_pwrite(arg, (n * 4 + i) * 512, buf, sizeof(buf), 0);
		if (ret == 0 && n % 10 == 9)
			ret = blk_flush(arg);
	}
	return ret;
}

static void recording_of_several_loops_is_whole(void **state)
{
	struct blk *b = open_crash(), *d;
	struct crash_log *log;

	(void)state;
	assert_int_equal(on_loops(4, write_and_flush, b), 0);
	log = finish(b);
	/* The last operation of each loop was a flush. */
	assert_int_equal(crash_open_ops(log, crash_events(log)), 0);
	d = after(log, crash_events(log), CRASH_DROP, 0);
	for (unsigned i = 0; i < 200; i++)
		assert_int_equal(sector_at(d, i * 512), 1 + i % 4);
	blk_close(d);
	crash_log_put(log);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		LOOP_TEST(flushed_data_survives_every_cut),
		LOOP_TEST(every_subset_of_open_writes_can_be_had),
		LOOP_TEST(open_writes_are_kept_dropped_torn_and_reordered),
		LOOP_TEST(write_with_fua_is_there_alone),
		LOOP_TEST(zeroing_and_discarding_are_open_too),
		LOOP_TEST(changes_of_size_keep_their_order),
		LOOP_TEST(flush_covers_only_what_ended_before_it_began),
		LOOP_TEST(log_file_tells_the_same_story),
		LOOP_TEST(damaged_log_is_refused_or_ends_early),
		LOOP_TEST(recording_that_cannot_go_on_stops_the_disk),
		cmocka_unit_test(recording_of_several_loops_is_whole),
	};

	return run_on_engines("crash", tests, ARRAY_LEN(tests));
}
