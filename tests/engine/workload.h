/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A random workload on an image with a history kept beside it, for the tests that look at
 * what an accident leaves: the power cut (tests/crash) and the failing disk
 * (tests/fault).
 *
 * It is a list of steps. A step is a batch of data requests in flight together on places
 * of their own, a flush, or something that runs alone: snapshot, resize. All data
 * requests are of whole sectors, and no two sectors ever written are alike, so that a
 * sector tells where it comes from. The same seed gives the same steps as long as none of
 * them fails.
 */
#ifndef BYRE_TESTS_ENGINE_WORKLOAD_H
#define BYRE_TESTS_ENGINE_WORKLOAD_H

#include "tests/engine/config.h"
#include "tests/engine/history.h"

struct workload {
	const struct config *cfg;
	struct rng rng;
	struct history *history;
	uint64_t max_bytes; /* the disk gets no larger */
	unsigned steps;
	bool trace;
	/* What time it is, in the history's sense. */
	uint64_t (*time)(void *arg);
	void *arg;

	unsigned snapshots_made;
	char names[4][16]; /* snapshots that are thought to be there */
	unsigned n_names;
	uint64_t stamp;
	unsigned failures; /* steps that failed */
	struct err err;    /* the first one */
};

/* Runs the steps on b, as tasks where there is a loop. 0, or -EIO where an error was none
 * that a call may give, or came without a message. Errors as such go into the history. */
int workload_run(struct workload *w, struct blk *b, struct err *err);

#endif
