/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The fault test. A random workload runs on an image once, and the operations on its file
 * are counted. Then it runs again from the same start for each of them: operation N fails,
 * with EIO or ENOSPC, once or with all that follow, without effect, half done, or done all
 * the same. After each run:
 *
 * 1. nothing crashed, every error was one a call may give, and control calls explained it;
 * 2. the image, opened without faults, reads as what the last flush that succeeded made
 *    certain, or later versions (tests/engine/history.h);
 * 3. check finds leaks at most; with all its operations failing from N on an image is as
 *    after a power cut at N.
 */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "backends/fault.h"
#include "backends/mem.h"
#include "base/math.h"
#include "base/task.h"
#include "block/format.h"
#include "tests/engine/config.h"
#include "tests/engine/disk.h"
#include "tests/engine/history.h"
#include "tests/engine/workload.h"

#define BASE_SEGMENT "base"
#define WORK_SEGMENT "work"

struct test {
	struct config cfg;
	struct rng rng;
	uint64_t workload_seed;
	unsigned steps;
	uint8_t *initial;
	uint64_t max_bytes;
	bool trace;

	struct fault_plan plan;
	struct history history;
	struct workload workload;
	uint64_t clock;
	uint64_t operations; /* of the run without faults, by kind of plan.ops */
	bool hit;
	struct err err;
};

static uint64_t tick(void *arg)
{
	struct test *t = arg;

	return ++t->clock;
}

/* ---- one run --------------------------------------------------------------------- */

/* The workload with the plan armed; the disk fails until the image is closed. */
static int run_task(void *arg)
{
	struct test *t = arg;
	struct blk *b = config_open_through(
		&t->cfg, "fault", BLK_O_RDWR | BLK_O_DISCARD, &t->err);
	struct blk *fault;
	int ret;

	if (!b)
		return err_prefix(&t->err, "opening for the workload");
	fault = fault_find(b);
	t->operations = fault_count(fault, FAULT_CHANGES);
	if (t->plan.at)
		fault_arm(fault, &t->plan);
	ret = workload_run(&t->workload, b, &t->err);
	t->operations = fault_count(fault, FAULT_CHANGES) - t->operations;
	t->hit = fault_hits(fault) != 0;
	/* A close that cannot write says so; what was flushed before is certain all the same. */
	if (blk_close(b) && !t->hit && !ret && !t->plan.at)
		ret = err_set(&t->err, EIO, "closing failed without a fault");
	return ret;
}

static int run_workload(struct test *t)
{
	int ret = mem_copy(BASE_SEGMENT, WORK_SEGMENT);

	if (ret)
		return err_errno(&t->err, -ret, "copying the image");
	history_free(&t->history);
	history_init(&t->history, t->initial, t->cfg.disk_bytes, t->max_bytes);
	t->clock = 0;
	t->workload = (struct workload){
		.cfg = &t->cfg,
		.rng = {t->workload_seed},
		.history = &t->history,
		.max_bytes = t->max_bytes,
		.steps = t->steps,
		.trace = t->trace,
		.time = tick,
		.arg = t,
	};
	return loop_run(run_task, t, &t->err);
}

/* ---- its verdict ----------------------------------------------------------------- */

static int check_snapshots(struct test *t)
{
	for (size_t i = 0; i < t->history.n_snaps; i++) {
		const struct history_snapshot *s = &t->history.snaps[i];
		struct blk *b;
		int ret;

		if (s->deleted != UINT32_MAX ||
			!history_is_certain(&t->history, s->created, HISTORY_NEVER - 1))
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

static int verdict(struct test *t)
{
	struct blk *b = config_open(&t->cfg, BLK_O_RDWR | BLK_O_DISCARD, &t->err);
	int ret;

	if (!b)
		return err_prefix(&t->err, "opening after the fault");
	ret = history_check(&t->history, b, HISTORY_NEVER - 1, &t->err);
	if (blk_close(b) && !ret)
		ret = err_set(&t->err, EIO, "closing after the fault failed");
	if (ret)
		return ret;
	b = config_open(&t->cfg, BLK_O_CHECK, &t->err);
	if (!b)
		return err_prefix(&t->err, "opening for check");
	ret = disk_check(b, t->cfg.version == 2 ? DISK_FLAGS : DISK_LEAKS, &t->err);
	blk_close(b);
	return ret ? ret : check_snapshots(t);
}

static int try_fault(struct test *t, const struct fault_plan *plan)
{
	int ret;

	t->plan = *plan;
	ret = run_workload(t);
	if (!ret)
		ret = verdict(t);
	if (ret)
		err_prefix(&t->err, "fault --at %" PRIu64 " --error %d --effect %d%s",
			plan->at, plan->error, (int)plan->effect,
			plan->sticky ? " --sticky" : "");
	return ret;
}

/* ---- all faults of a workload ---------------------------------------------------- */

/* Every operation where there are few, else a sample of `most`. */
static int all_faults(struct test *t, uint64_t most, uint64_t *tried)
{
	uint64_t n = t->operations;
	uint64_t count = most && n > most ? most : n;

	for (uint64_t i = 0; i < count; i++) {
		struct fault_plan plan = {
			.ops = FAULT_CHANGES,
			.at = count < n ? rng_between(&t->rng, 1, n) : i + 1,
			.error = rng_one_in(&t->rng, 2) ? EIO : ENOSPC,
			.sticky = rng_one_in(&t->rng, 2),
			.effect = (enum fault_effect)rng_below(&t->rng, 3),
		};
		int ret;

		/* A read that fails leaves nothing behind; now and then is enough. */
		if (rng_one_in(&t->rng, 10))
			plan.ops = FAULT_ANY;
		ret = try_fault(t, &plan);
		(*tried)++;
		if (ret)
			return ret;
	}
	return 0;
}

/* ---- runs ------------------------------------------------------------------------ */

struct settings {
	uint64_t seed, runs, seconds, steps, most;
	uint64_t at, error, effect;
	const char *config;
	bool trace, sticky, verbose, reads;
};

static int prepare(struct test *t, const struct settings *s)
{
	do {
		config_random(&t->cfg, &t->rng, MiB);
	} while (t->cfg.data_file != DATA_FILE_NONE || t->cfg.luks);
	t->cfg.cluster_bytes = MIN(t->cfg.cluster_bytes, 64u * 1024);
	if (s->config && config_parse(&t->cfg, s->config, &t->err))
		return -EINVAL;
	t->cfg.segment = WORK_SEGMENT;
	t->max_bytes = t->cfg.disk_bytes + t->cfg.disk_bytes / 2 + 64 * KiB;
	t->workload_seed = rng_next(&t->rng);
	t->steps = s->steps ? (unsigned)s->steps : (unsigned)rng_between(&t->rng, 5, 30);
	t->initial = calloc(1, t->cfg.disk_bytes);
	if (!t->initial)
		return err_set(&t->err, ENOMEM, "out of memory");
	mem_drop(WORK_SEGMENT);
	if (config_create(&t->cfg, &t->rng, t->initial, &t->err))
		return -EIO;
	if (mem_copy(WORK_SEGMENT, BASE_SEGMENT))
		return err_set(&t->err, EIO, "copying the new image");
	return 0;
}

static int one_run(const struct settings *s, uint64_t seed, uint64_t *tried)
{
	struct test t = {.rng = {seed}};
	char text[CONFIG_TEXT] = "";
	int ret = prepare(&t, s);

	config_text(&t.cfg, text);
	if (s->verbose)
		printf("# seed %" PRIu64 " %s\n", seed, text);
	if (!ret)
		ret = run_workload(&t);
	if (!ret && t.workload.failures)
		ret = err_set(&t.err, EIO, "without a fault: %s", t.workload.err.msg);
	t.trace = s->trace;
	if (!ret && s->at) {
		struct fault_plan plan = {s->reads ? FAULT_ANY : FAULT_CHANGES, s->at,
			(int)s->error, s->sticky, (enum fault_effect)s->effect};

		ret = try_fault(&t, &plan);
		(*tried)++;
	} else if (!ret) {
		ret = all_faults(&t, s->most, tried);
	}
	if (ret)
		printf("# seed %" PRIu64 " config %s: %s%s\n", seed, text, t.err.msg,
			t.plan.ops == FAULT_ANY ? " --reads" : "");
	history_free(&t.history);
	free(t.initial);
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
		{"config", 1, NULL, 'c'}, {"steps", 1, NULL, 'o'}, {"most", 1, NULL, 'm'},
		{"at", 1, NULL, 'A'}, {"error", 1, NULL, 'E'}, {"effect", 1, NULL, 'F'},
		{"sticky", 0, NULL, 'k'}, {"trace", 0, NULL, 'v'},
		{"verbose", 0, NULL, 'V'}, {"reads", 0, NULL, 'r'}, {NULL, 0, NULL, 0}};
	uint64_t *const numbers[] = {['s'] = &s->seed,
		['n'] = &s->runs,
		['t'] = &s->seconds,
		['o'] = &s->steps,
		['m'] = &s->most,
		['A'] = &s->at,
		['E'] = &s->error,
		['F'] = &s->effect};
	int c;

	while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		if (c == 'c')
			s->config = optarg;
		else if (c == 'k')
			s->sticky = true;
		else if (c == 'r')
			s->reads = true;
		else if (c == 'v')
			s->trace = true;
		else if (c == 'V')
			s->verbose = true;
		else if (c != '?')
			*numbers[c] = strtoull(optarg, NULL, 0);
		else
			return -EINVAL;
	}
	return 0;
}

int main(int argc, char **argv)
{
	struct settings s = {.seed = 1, .error = EIO};
	struct err err = ERR_INIT;
	uint64_t until, done = 0, tried = 0;
	int ret = 0;

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (parse_args(&s, argc, argv)) {
		printf("Usage: fault [--seed N] [--runs N | --seconds N] [--config "
		       "KEY=VALUE,...] [--steps N]\n"
		       "             [--most N (faults a workload; 0: all)] [--trace] "
		       "[--verbose]\n"
		       "             [--at N [--error ERRNO] [--effect 0..2] "
		       "[--sticky] [--reads]]\n");
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
		ret = one_run(&s, s.seed + done, &tried);
		done++;
	}
	printf("# %" PRIu64 " faults in %" PRIu64 " workloads from seed %" PRIu64 "\n",
		tried, done, s.seed);
	return ret ? 1 : 0;
}
