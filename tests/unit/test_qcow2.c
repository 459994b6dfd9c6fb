/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The QCOW2 engine where two things meet: a request and an exclusive operation, a commit
 * and a header written for another reason, an operation and the tables it could not read
 * again. Each of these once left an image that lied.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "backends/fault.h"
#include "block/format.h"
#include "qcow2/qcow2.h"
#include "support_blk.h"
#include "support_engine.h"
#include "support_files.h"

static struct blk *b;

static void make(const char *options)
{
	struct opts *o = opts_new();
	struct err err = ERR_INIT;

	assert_int_equal(opts_parse(o, options, NULL, &err), 0);
	if (blk_create(scratch_path("a.qcow2"), "qcow2", o, &err))
		fail_msg("%s", err.msg);
	opts_free(o);
}

static struct blk *open_image(const char *more, unsigned flags)
{
	struct opts *o = opts_new();
	struct err err = ERR_INIT;
	struct blk *node;

	opts_set(o, "driver", "qcow2");
	opts_set(o, "file.driver", "fault");
	opts_set(o, "file.file.driver", "file");
	opts_set(o, "file.file.filename", scratch_path("a.qcow2"));
	assert_int_equal(opts_parse(o, more, NULL, &err), 0);
	node = blk_open(NULL, o, flags, &err);
	if (!node)
		fail_msg("%s", err.msg);
	opts_free(o);
	return node;
}

/* The header as it is on disk now. */
static struct qcow2_header header_now(uint64_t *file_bytes)
{
	FILE *f = fopen(scratch_path("a.qcow2"), "re");
	struct qcow2_header h;

	assert_non_null(f);
	assert_int_equal(fread(&h, sizeof(h), 1, f), 1);
	fseek(f, 0, SEEK_END);
	*file_bytes = (uint64_t)ftell(f);
	fclose(f);
	return h;
}

/* What another opener would find, were the process gone now: no lie but one that the dirty
 * bit tells of. */
static void expect_honest(void)
{
	struct blk_check c = {0};
	struct err err = ERR_INIT;
	struct blk *other;
	uint64_t bytes;

	if (be64_get(header_now(&bytes).incompatible_features) & QCOW2_INCOMPAT_DIRTY)
		return;
	other = open_image("", BLK_O_CHECK | BLK_O_SHARE);
	assert_int_equal(blk_check(other, &c, 0, &err), 0);
	assert_int_equal(c.corruptions, 0);
	blk_close(other);
}

/* ---- a writer and an exclusive operation ----------------------------------------- */

static unsigned delay;

static int write_later(void *arg)
{
	uint64_t offset = *(const uint64_t *)arg;

	for (unsigned i = 0; i < delay; i++)
		task_sleep_ns(50000);
	node_fill(b, offset, 256 << 10, 0x5a);
	return 0;
}

static int repair(void *arg)
{
	struct blk_check c = {0};
	struct err err = ERR_INIT;

	(void)arg;
	return blk_check(b, &c, BLK_FIX_LEAKS | BLK_FIX_ERRORS, &err);
}

static int take_snapshot(void *arg)
{
	struct err err = ERR_INIT;

	(void)arg;
	return blk_snapshot_create(b, "s", &err);
}

static void beside(int (*operation)(void *arg))
{
	static const uint64_t offset = 1 << 20;
	struct task_group g;

	make("size=64M,lazy_refcounts=on");
	b = open_image("", BLK_O_RDWR);
	node_fill(b, 0, 256 << 10, 1);
	task_group_init(&g);
	assert_int_equal(task_group_spawn(&g, NULL, operation, NULL), 0);
	assert_int_equal(
		task_group_spawn(&g, NULL, write_later, (void *)(uintptr_t)&offset), 0);
	assert_int_equal(task_group_wait(&g), 0);
	assert_int_equal(blk_flush(b), 0);
	expect_honest();
	node_expect(b, offset, 256 << 10, 0x5a);
	assert_int_equal(blk_close(b), 0);
}

static void a_writer_that_waited_for_a_repair_sets_the_dirty_bit_again(void)
{
	for (delay = 0; delay < 4; delay++)
		beside(repair);
}

static void a_writer_that_waited_for_a_snapshot_sets_the_dirty_bit_again(void)
{
	for (delay = 0; delay < 16; delay++)
		beside(take_snapshot);
}

/* ---- a table that moves, and a header written meanwhile -------------------------- */

static uint64_t first_place;

static int fill_up(void *arg)
{
	(void)arg;
	for (uint64_t i = 0; i < 10; i++)
		node_fill(b, i << 20, 1 << 20, 7);
	blk_flush(b); /* fails where the image has been found corrupt by then */
	return 0;
}

/* Meets a lie as soon as the refcount table has a new place in memory. */
static int meet_a_lie(void *arg)
{
	const struct qcow2 *q = b->state;
	uint64_t bytes;
	uint8_t buf[512];
	struct qcow2_header h;

	(void)arg;
	while (q->reft_offset == first_place)
		task_yield();
	assert_int_equal(blk_pread(b, 32 << 20, buf, sizeof(buf)), -EIO);
	h = header_now(&bytes);
	assert_true(be64_get(h.incompatible_features) & QCOW2_INCOMPAT_CORRUPT);
	assert_true(be64_get(h.refcount_table_offset) == first_place ||
		    be64_get(h.refcount_table_offset) +
				    (uint64_t)be32_get(h.refcount_table_clusters) * 512 <=
			    bytes);
	return 0;
}

/* The entry of the guest cluster at `offset` gets a bit that no entry has. */
static void spoil_entry(uint64_t offset)
{
	const struct qcow2 *q = b->state;
	uint64_t l2 = q->l1[offset / qcow2_l2_span(q)] & QCOW2_OFFSET_MASK;
	uint64_t at = l2 + offset % qcow2_l2_span(q) / q->cluster_bytes * 8;
	uint8_t entry[8];

	assert_int_equal(blk_pread(q->file, at, entry, 8), 0);
	entry[7] ^= 0x40;
	assert_int_equal(blk_pwrite(q->file, at, entry, 8, 0), 0);
}

static void a_header_names_no_table_that_is_not_written(void)
{
	struct task_group g;

	make("size=64M,cluster_size=512");
	b = open_image("", BLK_O_RDWR);
	node_fill(b, 32 << 20, 512, 1);
	assert_int_equal(blk_flush(b), 0);
	spoil_entry(32 << 20);
	assert_int_equal(blk_close(b), 0);
	b = open_image("", BLK_O_RDWR);
	first_place = ((const struct qcow2 *)b->state)->reft_offset;
	task_group_init(&g);
	assert_int_equal(task_group_spawn(&g, NULL, fill_up, NULL), 0);
	assert_int_equal(task_group_spawn(&g, NULL, meet_a_lie, NULL), 0);
	assert_int_equal(task_group_wait(&g), 0);
	blk_close(b);
}

/* ---- tables that could not be read again ----------------------------------------- */

static void no_extent_is_zero_because_its_table_is_gone(void)
{
	for (uint64_t at = 1; at <= 14; at++) {
		struct fault_plan plan = {
			.ops = FAULT_READ, .at = at, .error = EIO, .sticky = true};
		struct err err = ERR_INIT;
		struct blk_extent e = {0};
		int ret;

		make("size=64M");
		b = open_image("", BLK_O_RDWR);
		node_fill(b, 0, 1 << 20, 9);
		assert_int_equal(blk_flush(b), 0);
		assert_int_equal(blk_close(b), 0);
		b = open_image("", BLK_O_RDWR);
		fault_arm(fault_find(b), &plan);
		blk_snapshot_create(b, "s", &err);
		fault_disarm(fault_find(b));
		ret = blk_extent(b, 0, 1 << 20, &e);
		assert_true(ret < 0 || !(e.flags & BLK_EXT_ZERO));
		blk_close(b);
	}
}

/* ---- VM state -------------------------------------------------------------------- */

static struct iovec state_part(void)
{
	static uint8_t data[64 << 10];

	return (struct iovec){data, sizeof(data)};
}

static bool looked;

static int look_at_state(void *arg)
{
	struct iovec part = state_part();
	int ret = blk_vm_state_of(b, "s", 0, &part, 1);

	(void)arg;
	looked = true;
	return ret;
}

/* As soon as the tables are another's, which is over at once where nothing had to be waited for. */
static int flush_meanwhile(void *arg)
{
	const struct qcow2 *q = b->state;

	(void)arg;
	while (!q->epochs.exclusive && !looked)
		task_yield();
	return blk_flush(b);
}

static uint64_t leaks_of(struct blk *node)
{
	struct blk_check c = {0};
	struct err err = ERR_INIT;

	assert_int_equal(blk_check(node, &c, 0, &err), 0);
	assert_int_equal(c.corruptions, 0);
	return c.leaks;
}

/* The file system is full: the disk is as it was, and with room again all is as if it had not
 * been. */
static void a_snapshot_that_finds_no_room_leaves_nothing(void)
{
	struct err err = ERR_INIT;
	bool changed;

	make("size=16M");
	b = open_image("", BLK_O_RDWR);
	node_fill(b, 0, 1 << 20, 1);
	assert_int_equal(blk_snapshot_create(b, "s", &err), 0);
	node_fill(b, 0, 1 << 19, 2);
	fault_set_limit(fault_find(b), blk_size(b->file));
	assert_int_equal(blk_snapshot_apply(b, "s", &changed, &err), -ENOSPC);
	assert_false(changed);
	assert_int_equal(blk_snapshot_create(b, "t", &err), -ENOSPC);
	node_expect(b, 0, 1 << 19, 2);
	fault_set_limit(fault_find(b), UINT64_MAX);
	assert_int_equal(blk_snapshot_create(b, "t", &err), 0);
	assert_int_equal(blk_snapshot_apply(b, "s", &changed, &err), 0);
	assert_true(changed);
	node_expect(b, 0, 1 << 20, 1);
	assert_int_equal(leaks_of(b), 0);
	assert_int_equal(blk_close(b), 0);
}

/* What is looked at are another disk's tables, in the place of this one's. */
static void the_state_of_a_snapshot_is_read_beside_a_flush(void)
{
	struct iovec part = state_part();
	struct err err = ERR_INIT;
	struct task_group g;

	make("size=256M,cluster_size=4k");
	b = open_image("", BLK_O_RDWR);
	node_fill(b, 0, 1 << 20, 1);
	assert_int_equal(blk_vm_state_write(b, 0, &part, 1), 0);
	assert_int_equal(blk_snapshot_create_with(b, "s", part.iov_len, 0, &err), 0);
	for (uint64_t i = 0; i < 100; i++)
		node_fill(b, i << 21, 64 << 10, 2);
	looked = false;
	task_group_init(&g);
	assert_int_equal(task_group_spawn(&g, NULL, look_at_state, NULL), 0);
	assert_int_equal(task_group_spawn(&g, NULL, flush_meanwhile, NULL), 0);
	assert_int_equal(task_group_wait(&g), 0);
	assert_int_equal(blk_close(b), 0);
	b = open_image("", BLK_O_RDWR);
	for (uint64_t i = 0; i < 100; i++)
		node_expect(b, i << 21, 64 << 10, 2);
	assert_int_equal(blk_close(b), 0);
}

static int write_state(void *arg)
{
	struct iovec part = state_part();

	return blk_vm_state_write(b, *(const uint64_t *)arg, &part, 1);
}

/* Each needs a longer L1. */
static void state_is_written_on_several_loops(void)
{
	static const uint64_t offset[] = {100 << 20, 200 << 20, 300 << 20};
	struct loop *loop[ARRAY_LEN(offset)];
	struct err err = ERR_INIT;
	struct task_group g;

	for (size_t i = 0; i < ARRAY_LEN(offset); i++)
		assert_non_null(loop[i] = loop_start(&err));
	for (unsigned round = 0; round < 20; round++) {
		make("size=1M,cluster_size=4k");
		b = open_image("", BLK_O_RDWR);
		task_group_init(&g);
		for (size_t i = 0; i < ARRAY_LEN(offset); i++)
			assert_int_equal(task_group_spawn(&g, loop[i], write_state,
						 (void *)(uintptr_t)&offset[i]),
				0);
		assert_int_equal(task_group_wait(&g), 0);
		assert_int_equal(blk_close(b), 0);
	}
	for (size_t i = 0; i < ARRAY_LEN(offset); i++)
		loop_stop(loop[i]);
}

/* ---- a cache that would hold all of it ------------------------------------------- */

static void growing_over_a_backing_file_keeps_memory_in_bounds(void)
{
	const struct qcow2 *q;
	struct err err = ERR_INIT;

	make("size=1M,cluster_size=4k,backing_file=none,backing_fmt=raw");
	b = open_image(
		"l2-cache-size=1M,backing.driver=null-co,backing.size=4G", BLK_O_RDWR);
	q = b->state;
	assert_int_equal(blk_resize(b, 4ull << 30, BLK_PREALLOC_OFF, &err), 0);
	assert_in_range(q->l2_cache.count, 1, 2 * q->l2_cache.limit);
	assert_int_equal(blk_close(b), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		LOOP_TEST(a_writer_that_waited_for_a_repair_sets_the_dirty_bit_again),
		LOOP_TEST(a_writer_that_waited_for_a_snapshot_sets_the_dirty_bit_again),
		LOOP_TEST(a_header_names_no_table_that_is_not_written),
		LOOP_TEST(no_extent_is_zero_because_its_table_is_gone),
		LOOP_TEST(a_snapshot_that_finds_no_room_leaves_nothing),
		LOOP_TEST(the_state_of_a_snapshot_is_read_beside_a_flush),
		LOOP_TEST(state_is_written_on_several_loops),
		LOOP_TEST(growing_over_a_backing_file_keeps_memory_in_bounds),
	};

	return run_on_engines("qcow2", tests, ARRAY_LEN(tests));
}
