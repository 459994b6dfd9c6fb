/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Several paths to one disk: which of them may be used, and which takes the next request.
 * Bookkeeping only, no I/O; the caller holds a lock around every call (multipath.c).
 *
 * Paths of one priority are a group. Requests go to the best group that has a usable path,
 * and there to the one that the selector names. A better group that comes back is used
 * again as `failback` says.
 */
#ifndef BYRE_BACKENDS_PATHS_H
#define BYRE_BACKENDS_PATHS_H

#include <stdbool.h>
#include <stdint.h>

#include "block/storage.h"

#define PATHS_MAX 16u

enum path_state {
	PATH_UNREACHED, /* never opened yet */
	PATH_UP,
	PATH_STANDBY, /* answers, and serves nothing as long as it says so */
	PATH_FAILED,
};
extern const char *const path_state_names[];

enum path_selector {
	SELECT_ROUND_ROBIN,  /* one after the other */
	SELECT_QUEUE_LENGTH, /* the fewest requests in flight */
	SELECT_SERVICE_TIME, /* the soonest done, by what is in flight and how fast it was */
};
extern const char *const path_selector_names[]; /* NULL-terminated */

#define FAILBACK_NEVER UINT64_MAX

struct path {
	enum path_state state;
	unsigned priority; /* enum blk_path_priority */
	uint64_t since_ns; /* in this state; CLOCK_MONOTONIC */
	unsigned turn;	   /* of round-robin: when it was last picked */
	unsigned in_flight;
	uint64_t bytes_in_flight;
	uint64_t ps_per_byte; /* picoseconds, a moving average; 0: not known yet */

	/* Statistics. */
	uint64_t reads, writes, others, read_bytes, written_bytes;
	uint64_t errors; /* answers that were no success */
	uint64_t losses; /* how often it failed */
	uint64_t busy_ns;
};

struct path_set {
	struct path *path[PATHS_MAX];
	unsigned n;
	enum path_selector selector;
	uint64_t failback_ns; /* how long a better path must have been up to be used again */
	unsigned group;	      /* the priority in use */
	unsigned turn;
};

/* The path for a request of that many bytes; paths whose bit is in `not_these` are left
 * out. NULL: none is up. */
struct path *paths_pick(struct path_set *s, uint64_t bytes, uint32_t not_these, uint64_t now_ns);
/* Around each request. */
void path_begin(struct path *p, uint64_t bytes);
void path_end(struct path *p, uint64_t bytes, uint64_t took_ns);
void path_set_state(struct path *p, enum path_state state, uint64_t now_ns);

#endif
