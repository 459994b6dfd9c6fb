/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The power-cut test. A random workload runs on an image over the crash instrument, which
 * records every write, flush and change of size. Then the power goes, many times: at
 * every flush, and at moments in between; with all that was not stable kept, or dropped,
 * or any part of it, torn at 512 bytes and in any order. After each cut:
 *
 * 1. the image opens for writing;
 * 2. each sector reads as what the last flush made certain, or as a later version of the
 *    same sector (tests/engine/history.h): nothing flushed is lost, and no sector shows
 *    another place's data;
 * 3. snapshots that were certain are there, with their data;
 * 4. check finds leaks at most (with lazy refcounts: after the repair that opening did; on
 *    version 2, which has no dirty bit, a snapshot that was cut short may leave copied flags
 *    wrong too), and the repair mends all of it and changes no data;
 * 5. the image can be written on, and what was there before stays as it was. This finds
 *    references to clusters that count as free.
 *
 * The number of states tried is printed.
 */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "backends/crash.h"
#include "backends/mem.h"
#include "base/iov.h"
#include "base/math.h"
#include "base/task.h"
#include "block/format.h"
#include "tests/engine/config.h"
#include "tests/engine/disk.h"
#include "tests/engine/history.h"
#include "tests/engine/workload.h"

#define BASE_SEGMENT "base" /* the image before the workload */
#define WORK_SEGMENT "work" /* while it runs; then a state after a cut */
/* Where no more than this is open at a cut, all subsets of it are tried. */
#define ALL_SUBSETS_OF 4
#define RANDOM_STATES  4

struct test {
	struct config cfg;
	struct rng rng;
	struct history history;
	struct workload workload;
	struct crash_log *log;
	bool trace, with_bitmap;
	uint64_t max_cuts;
	uint64_t only_at, only_seed; /* --at: one state */
	int only_mode;
	uint64_t states;
	struct err err;
};

/* ---- recording ------------------------------------------------------------------- */

static uint64_t event_time(void *arg)
{
	return crash_events(arg);
}

static struct blk *open_segment(const char *name, unsigned flags, struct err *err)
{
	struct opts *o = opts_new();
	struct blk *b;

	opts_set(o, "driver", "mem");
	opts_set(o, "name", name);
	b = blk_open(NULL, o, flags | BLK_O_PROTOCOL, err);
	opts_free(o);
	return b;
}

static int record(void *arg)
{
	struct test *t = arg;
	struct blk *b = config_open_through(
		&t->cfg, "crash", BLK_O_RDWR | BLK_O_DISCARD, &t->err);
	struct err err = ERR_INIT;
	int ret;

	if (!b)
		return err_prefix(&t->err, "opening for the workload");
	t->log = crash_log_get(crash_find(b));
	t->workload.time = event_time;
	t->workload.arg = t->log;
	ret = workload_run(&t->workload, b, &t->err);
	if (!ret && t->workload.failures)
		ret = err_set(&t->err, EIO, "a step failed: %s", t->workload.err.msg);
	if (blk_close(b) && !ret)
		ret = err_set(&err, EIO, "closing after the workload failed");
	return ret;
}

/* ---- states ---------------------------------------------------------------------- */

/* The image after the cut, in WORK_SEGMENT. */
static int make_state(struct test *t, const struct crash_cut *cut)
{
	struct blk *b;
	int ret = mem_copy(BASE_SEGMENT, WORK_SEGMENT);

	if (ret)
		return err_errno(&t->err, -ret, "copying the image");
	b = open_segment(WORK_SEGMENT, BLK_O_RDWR, &t->err);
	if (!b)
		return err_prefix(&t->err, "opening the copy");
	ret = crash_replay(t->log, cut, b);
	if (ret)
		err_errno(&t->err, -ret, "replay");
	blk_close(b);
	return ret;
}

/* Snapshots whose making is certain and whose end was not asked for. */
static int check_snapshots(struct test *t, uint64_t at)
{
	for (size_t i = 0; i < t->history.n_snaps; i++) {
		const struct history_snapshot *s = &t->history.snaps[i];
		struct blk *b;
		int ret;

		if (!history_is_certain(&t->history, s->created, at))
			continue;
		if (s->deleted != UINT32_MAX && t->history.ops[s->deleted].begin <= at)
			continue;
		b = config_open(&t->cfg, 0, &t->err);
		if (!b)
			return err_prefix(&t->err, "opening for snapshot %s", s->name);
		ret = blk_snapshot_load(b, s->name, &t->err);
		if (ret)
			err_prefix(&t->err, "a snapshot that was flushed");
		else
			ret = history_check_snapshot(&t->history, s, b, &t->err);
		blk_close(b);
		if (ret)
			return ret;
	}
	return 0;
}

static int check_clean(struct test *t, enum disk_tolerance tolerated, const char *when)
{
	struct blk *b = config_open(&t->cfg, BLK_O_CHECK, &t->err);
	int ret;

	if (!b)
		return err_prefix(&t->err, "opening for check %s", when);
	ret = disk_check(b, tolerated, &t->err);
	blk_close(b);
	return ret ? err_prefix(&t->err, "%s", when) : 0;
}

/* Mends what check found, after which it must find nothing and the disk be what it was. */
static int repair(struct test *t, uint64_t at)
{
	struct blk *b = config_open(&t->cfg, BLK_O_CHECK | BLK_O_RDWR, &t->err);
	struct blk_check c = {0};
	int ret;

	if (!b)
		return err_prefix(&t->err, "opening for repair");
	ret = blk_check(b, &c, BLK_FIX_LEAKS | BLK_FIX_ERRORS, &t->err);
	if (!ret)
		ret = history_check(&t->history, b, at, &t->err);
	if (blk_close(b) && !ret)
		ret = err_set(&t->err, EIO, "closing after the repair failed");
	return ret ? ret : check_clean(t, DISK_CLEAN, "after the repair");
}

/* Everything the disk holds, kept to compare with. */
static int read_all(struct test *t, struct blk *b, uint8_t *buf)
{
	for (uint64_t pos = 0; pos < blk_size(b); pos += 256 * KiB) {
		int ret = blk_pread(b, pos, buf + pos, MIN(blk_size(b) - pos, 256 * KiB));

		if (ret)
			return err_errno(&t->err, -ret, "reading the disk");
	}
	return 0;
}

/* Writes in some places, so that clusters are allocated; the rest must stay. */
static int write_on(struct test *t, struct blk *b, struct rng *r)
{
	uint64_t sectors = blk_size(b) / BLK_SECTOR;
	uint8_t *want = buf_alloc(blk_size(b));
	int ret = want ? read_all(t, b, want) : err_set(&t->err, ENOMEM, "out of memory");

	for (unsigned i = 0; !ret && i < 8; i++) {
		uint64_t s = rng_below(r, sectors);
		uint64_t n = rng_between(r, 1, MIN(sectors - s, 16u));

		config_fill(r, want + s * BLK_SECTOR, n * BLK_SECTOR);
		ret = blk_pwrite(
			b, s * BLK_SECTOR, want + s * BLK_SECTOR, n * BLK_SECTOR, 0);
		if (ret)
			err_errno(&t->err, -ret, "writing after the cut");
		if (!ret && i % 4 == 3 && (ret = blk_flush(b)))
			err_errno(&t->err, -ret, "flush after the cut");
	}
	if (!ret)
		ret = disk_compare(b, want, blk_size(b), &t->err);
	if (ret)
		err_prefix(&t->err, "going on after the cut");
	buf_free(want);
	return ret;
}

static int check_state(struct test *t, const struct crash_cut *cut)
{
	struct rng r = {cut->seed ^ cut->at};
	struct blk *b;
	int ret;

	ret = make_state(t, cut);
	if (ret)
		return ret;
	b = config_open(&t->cfg, BLK_O_RDWR | BLK_O_DISCARD, &t->err);
	if (!b)
		return err_prefix(&t->err, "opening after the cut");
	ret = history_check(&t->history, b, cut->at, &t->err);
	if (blk_close(b) && !ret)
		ret = err_set(&t->err, EIO, "closing after the cut failed");
	if (!ret)
		ret = check_clean(t, t->cfg.version == 2 ? DISK_FLAGS : DISK_LEAKS,
			"after the cut");
	if (!ret)
		ret = check_snapshots(t, cut->at);
	if (!ret && (t->cfg.version == 2 || t->states % 4 == 0))
		ret = repair(t, cut->at);
	if (ret || t->states % 2)
		return ret;
	b = config_open(&t->cfg, BLK_O_RDWR | BLK_O_DISCARD, &t->err);
	if (!b)
		return err_prefix(&t->err, "opening to go on");
	ret = write_on(t, b, &r);
	if (blk_close(b) && !ret)
		ret = err_set(&t->err, EIO, "closing after going on failed");
	if (!ret)
		ret = check_clean(t, DISK_LEAKS, "after going on");
	return ret ? ret : check_snapshots(t, cut->at);
}

static int try_state(struct test *t, uint64_t at, enum crash_mode mode, uint64_t seed)
{
	struct crash_cut cut = {at, mode, seed};
	int ret = check_state(t, &cut);

	t->states++;
	if (ret)
		err_prefix(&t->err, "cut --at %" PRIu64 " --mode %d --cut-seed %" PRIu64,
			at, (int)mode, seed);
	return ret;
}

/* ---- cuts ------------------------------------------------------------------------ */

static int try_cut(struct test *t, uint64_t at)
{
	size_t open = crash_open_ops(t->log, at);
	int ret = try_state(t, at, CRASH_KEEP, 0);

	if (!ret && open)
		ret = try_state(t, at, CRASH_DROP, 0);
	if (open <= ALL_SUBSETS_OF)
		for (uint64_t set = 1; !ret && set + 1 < UINT64_C(1) << open; set++)
			ret = try_state(t, at, CRASH_SUBSET, set);
	for (unsigned i = 0; !ret && open && i < RANDOM_STATES; i++)
		ret = try_state(
			t, at, i % 2 ? CRASH_RANDOM : CRASH_SUBSET, rng_next(&t->rng));
	return ret;
}

/* Every flush's beginning and end, and as many moments again; thinned to max_cuts. */
static size_t choose_cuts(struct test *t, uint64_t *cuts, size_t room)
{
	const struct crash_op *ops;
	uint64_t events = crash_events(t->log);
	size_t n_ops, n = 0;

	ops = crash_ops(t->log, &n_ops);
	for (size_t i = 0; i < n_ops && n + 2 <= room; i++) {
		if (ops[i].kind != CRASH_FLUSH)
			continue;
		cuts[n++] = ops[i].begin;
		if (ops[i].end != CRASH_NEVER)
			cuts[n++] = MIN(ops[i].end + 1, events);
	}
	for (size_t more = n + 8; more-- && n < room;)
		cuts[n++] = rng_below(&t->rng, events + 1);
	for (size_t i = 0; i < n; i++) {
		size_t j = rng_below(&t->rng, n);
		uint64_t swap = cuts[i];

		cuts[i] = cuts[j];
		cuts[j] = swap;
	}
	return t->max_cuts ? MIN(n, t->max_cuts) : n;
}

static int all_cuts(struct test *t)
{
	size_t room = 2 * (crash_events(t->log) + 16), n;
	uint64_t *cuts = calloc(room, sizeof(*cuts));
	int ret = 0;

	if (!cuts)
		return err_set(&t->err, ENOMEM, "out of memory");
	n = choose_cuts(t, cuts, room);
	for (size_t i = 0; !ret && i < n; i++)
		ret = try_cut(t, cuts[i]);
	free(cuts);
	return ret;
}

/* ---- runs ------------------------------------------------------------------------ */

struct settings {
	uint64_t seed, runs, seconds, max_cuts, steps;
	uint64_t at, cut_seed;
	int mode;
	const char *config;
	bool trace, again, verbose;
};

/* No data file: it is a second disk, and a cut is of one. */
static int choose_config(struct test *t, const struct settings *s)
{
	do {
		config_random(&t->cfg, &t->rng, MiB);
	} while (t->cfg.data_file != DATA_FILE_NONE ||
		 (t->cfg.luks && !rng_one_in(&t->rng, 3)));
	t->cfg.cluster_bytes = MIN(t->cfg.cluster_bytes, 64u * 1024);
	if (s->config && config_parse(&t->cfg, s->config, &t->err))
		return -EINVAL;
	t->cfg.segment = WORK_SEGMENT;
	return 0;
}

static int prepare(struct test *t, const struct settings *s)
{
	uint64_t max_bytes = t->cfg.disk_bytes + t->cfg.disk_bytes / 2 + 64 * KiB;
	uint8_t *initial = calloc(1, t->cfg.disk_bytes);
	int ret;

	if (!initial)
		return err_set(&t->err, ENOMEM, "out of memory");
	mem_drop(WORK_SEGMENT);
	ret = config_create(&t->cfg, &t->rng, initial, &t->err);
	if (!ret && mem_copy(WORK_SEGMENT, BASE_SEGMENT))
		ret = err_set(&t->err, EIO, "copying the new image");
	history_init(&t->history, initial, t->cfg.disk_bytes, max_bytes);
	free(initial);
	t->workload = (struct workload){
		.cfg = &t->cfg,
		.rng = {rng_next(&t->rng)},
		.history = &t->history,
		.max_bytes = max_bytes,
		.steps = s->steps ? (unsigned)s->steps
				  : (unsigned)rng_between(&t->rng, 5, 40),
		.trace = s->trace,
	};
	return ret;
}

static void trace_log(const struct test *t)
{
	static const char *const kinds[] = {
		"write", "zero", "discard", "flush", "resize"};
	const struct crash_op *ops;
	size_t n;

	ops = crash_ops(t->log, &n);
	for (size_t i = 0; i < n; i++)
		printf("  [%" PRIu64 ",%" PRId64 "] %s 0x%" PRIx64 "+0x%" PRIx64 "%s\n",
			ops[i].begin, (int64_t)ops[i].end, kinds[ops[i].kind],
			ops[i].offset, ops[i].bytes, ops[i].fua ? " fua" : "");
}

static int one_run(const struct settings *s, uint64_t seed, uint64_t *states)
{
	struct test t = {.rng = {seed}, .max_cuts = s->max_cuts};
	char text[CONFIG_TEXT] = "";
	int ret = choose_config(&t, s);

	if (!ret)
		ret = prepare(&t, s);
	config_text(&t.cfg, text);
	if (s->trace || s->verbose)
		printf("# seed %" PRIu64 " %s steps %u\n", seed, text, t.workload.steps);
	if (!ret)
		ret = loop_run(record, &t, &t.err);
	if (!ret && s->trace)
		trace_log(&t);
	if (!ret && s->mode >= 0)
		ret = try_state(&t, s->at, (enum crash_mode)s->mode, s->cut_seed);
	else if (!ret)
		ret = all_cuts(&t);
	if (ret)
		printf("# seed %" PRIu64 " config %s: %s\n", seed, text, t.err.msg);
	*states += t.states;
	if (t.log)
		crash_log_put(t.log);
	history_free(&t.history);
	return ret;
}

static uint64_t now_sec(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec;
}

static int parse_args(struct settings *s, int argc, char **argv)
{
	static const struct option longs[] = {{"seed", 1, NULL, 's'},
		{"runs", 1, NULL, 'n'}, {"seconds", 1, NULL, 't'},
		{"config", 1, NULL, 'c'}, {"cuts", 1, NULL, 'u'}, {"steps", 1, NULL, 'o'},
		{"at", 1, NULL, 'A'}, {"mode", 1, NULL, 'M'}, {"cut-seed", 1, NULL, 'S'},
		{"trace", 0, NULL, 'v'}, {"again", 0, NULL, 'a'},
		{"verbose", 0, NULL, 'V'}, {NULL, 0, NULL, 0}};
	uint64_t *const numbers[] = {['s'] = &s->seed,
		['n'] = &s->runs,
		['t'] = &s->seconds,
		['u'] = &s->max_cuts,
		['o'] = &s->steps,
		['A'] = &s->at,
		['S'] = &s->cut_seed};
	int c;

	while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		if (c == 'c')
			s->config = optarg;
		else if (c == 'v')
			s->trace = true;
		else if (c == 'a')
			s->again = true;
		else if (c == 'V')
			s->verbose = true;
		else if (c == 'M')
			s->mode = atoi(optarg);
		else if (c != '?')
			*numbers[c] = strtoull(optarg, NULL, 0);
		else
			return -EINVAL;
	}
	return 0;
}

int main(int argc, char **argv)
{
	struct settings s = {.seed = 1, .mode = -1, .max_cuts = 24};
	struct err err = ERR_INIT;
	uint64_t until, done = 0, states = 0;
	int ret = 0;

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (parse_args(&s, argc, argv)) {
		printf("Usage: crash [--seed N] [--runs N | --seconds N] [--again] "
		       "[--config "
		       "KEY=VALUE,...]\n"
		       "             [--steps N] [--cuts N (0: all)] [--trace] "
		       "[--verbose]\n"
		       "             [--at EVENT --mode 0..3 [--cut-seed N]]\n");
		return 2;
	}
	if (config_secret(&err)) {
		printf("# %s\n", err.msg);
		return 2;
	}
	if (!s.runs && !s.seconds)
		s.runs = 1;
	until = now_sec() + s.seconds;
	while (!ret && (s.runs ? done < s.runs : now_sec() < until)) {
		ret = one_run(&s, s.again ? s.seed : s.seed + done, &states);
		done++;
	}
	printf("# %" PRIu64 " crash states of %" PRIu64 " workloads from seed %" PRIu64
	       "\n",
		states, done, s.seed);
	return ret ? 1 : 0;
}
