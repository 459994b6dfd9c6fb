/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The gate under several loops: writes that share a unit do not undo each other, nodes
 * that ask for it see no overlap with a write in it, and a serialising request is alone
 * in its range. Made to run under ThreadSanitizer.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "base/math.h"
#include "support_engine.h"
#include "support_odd.h"

#define LOOPS  3
#define TASKS  4 /* a loop */
#define ROUNDS 150
#define SIZE   (96u << 10)
#define STRIPE 100 /* bytes; no multiple of any unit */

const struct blk_driver *const blk_drivers[] = {&odd_driver, &plain_driver, NULL};

struct worker {
	struct blk *b;
	unsigned id, seed;
	uint8_t model[SIZE];
};

/* Stripe i of the worker's own, which are every LOOPS * TASKS-th. */
#define OWN (SIZE / STRIPE / (LOOPS * TASKS))

static uint64_t own_stripe(const struct worker *w, unsigned i)
{
	return ((uint64_t)i * (LOOPS * TASKS) + w->id) * STRIPE;
}

static int change_stripe(struct worker *w)
{
	uint64_t offset = own_stripe(w, (unsigned)rand_r(&w->seed) % OWN);
	size_t bytes = 1 + (size_t)rand_r(&w->seed) % 60;

	offset += (uint64_t)rand_r(&w->seed) % 40;
	if (rand_r(&w->seed) % 4 == 0) {
		memset(w->model + offset, 0, bytes);
		return blk_zero(w->b, offset, bytes, 0);
	}
	memset(w->model + offset, rand_r(&w->seed) & 0xff, bytes);
	return blk_pwrite(w->b, offset, w->model + offset, bytes, 0);
}

static int work_on_own_stripes(void *arg)
{
	struct worker *w = arg;
	uint8_t now[STRIPE];
	int ret = 0;

	for (int i = 0; i < ROUNDS && !ret; i++)
		ret = change_stripe(w);
	for (unsigned i = 0; i < OWN && !ret; i++) {
		ret = blk_pread(w->b, own_stripe(w, i), now, STRIPE);
		if (!ret && memcmp(now, w->model + own_stripe(w, i), STRIPE))
			ret = -EILSEQ; /* a failing assertion belongs on the main thread
					*/
	}
	return ret;
}

/* Anything anywhere: the driver watches. */
static int work_anywhere(void *arg)
{
	struct worker *w = arg;
	uint8_t *buf = calloc(1, 20000);
	int ret = 0;

	for (int i = 0; i < ROUNDS && !ret; i++) {
		uint64_t offset = (uint64_t)rand_r(&w->seed) % (SIZE - 20000);
		size_t bytes = (size_t)rand_r(&w->seed) % 20000;
		unsigned what = (unsigned)rand_r(&w->seed) % 5;

		if (what == 0)
			ret = blk_zero(w->b, offset, bytes, 0);
		else if (what == 1)
			ret = blk_discard(w->b, offset, bytes);
		else if (what == 2)
			ret = blk_pwrite(w->b, offset, buf, bytes, 0);
		else
			ret = blk_pread(w->b, offset, buf, bytes);
	}
	free(buf);
	return ret;
}

/* Writers serialise, readers do not: the driver watches. */
static int write_alone(void *arg)
{
	struct worker *w = arg;
	int ret = 0;

	for (int i = 0; i < ROUNDS && !ret; i++) {
		uint8_t buf[64] = {0};
		struct iovec iov = {.iov_base = buf, .iov_len = sizeof(buf)};

		if (w->id % 2)
			ret = blk_pwritev(w->b, 1000 + w->id, &iov, 1, BLK_SERIALISE);
		else
			ret = blk_pread(w->b, 990 + w->id, buf, sizeof(buf));
	}
	return ret;
}

struct crowd {
	struct blk *b;
	struct worker *workers;
	int (*fn)(void *arg);
};

static int spawn_all(void *arg)
{
	struct crowd *c = arg;
	struct loop *loops[LOOPS];
	struct task_group g;
	struct err err = ERR_INIT;
	int ret;

	task_group_init(&g);
	for (unsigned i = 0; i < LOOPS; i++) {
		loops[i] = loop_start(&err);
		assert_non_null(loops[i]);
	}
	for (unsigned i = 0; i < LOOPS * TASKS; i++) {
		c->workers[i].b = c->b;
		c->workers[i].id = c->workers[i].seed = i;
		assert_int_equal(
			task_group_spawn(&g, loops[i % LOOPS], c->fn, &c->workers[i]), 0);
	}
	ret = task_group_wait(&g);
	for (unsigned i = 0; i < LOOPS; i++)
		loop_stop(loops[i]);
	return ret;
}

static void run_crowd(struct odd_disk *d, bool track, int (*fn)(void *arg))
{
	struct err err = ERR_INIT;
	struct crowd c = {.fn = fn, .workers = calloc(LOOPS * TASKS, sizeof(*c.workers))};

	d->yields = true;
	c.b = blk_open("d", NULL, BLK_O_RDWR | BLK_O_PROTOCOL | BLK_O_DISCARD, &err);
	assert_non_null(c.b);
	if (track)
		blk_track_requests(c.b);
	run_in_loop(spawn_all, &c);
	assert_int_equal(blk_close(c.b), 0);
	free(c.workers);
	odd_clear();
}

static void writes_that_share_a_unit_all_arrive(void **state)
{
	struct odd_disk *d = odd_add("d", SIZE);

	(void)state;
	d->limits = (struct blk_limits){.request_align = 4096, .mem_align = 512};
	run_crowd(d, false, work_on_own_stripes);
	d = odd_add("d", SIZE);
	d->limits = (struct blk_limits){.request_align = 512};
	d->no_zero = true;
	run_crowd(d, false, work_on_own_stripes);
}

static void ordered_nodes_see_no_overlap(void **state)
{
	struct odd_disk *d = odd_add("d", SIZE);

	(void)state;
	d->limits = (struct blk_limits){.request_align = 512, .max_transfer = 4096};
	d->caps = BLK_CAP_SERIALISE;
	d->no_overlap = true;
	run_crowd(d, false, work_anywhere);
}

static void serialising_requests_are_alone(void **state)
{
	struct odd_disk *d = odd_add("d", SIZE);

	(void)state;
	d->no_overlap = true;
	run_crowd(d, true, write_alone);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(writes_that_share_a_unit_all_arrive),
		cmocka_unit_test(ordered_nodes_see_no_overlap),
		cmocka_unit_test(serialising_requests_are_alone),
	};

	return run_on_engines("order", tests, ARRAY_LEN(tests));
}
