/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Inside the multipath driver. The node (multipath.c) is made of lanes; a request is run over
 * one lane or another (multipath_run.c); a keeper for each lane opens it, asks it now and
 * then, and brings it back (multipath_keep.c). The rules are in multipath.c.
 */
#ifndef BYRE_BACKENDS_MULTIPATH_H
#define BYRE_BACKENDS_MULTIPATH_H

#include "backends/doubts.h"
#include "backends/paths.h"
#include "backends/unflushed.h"
#include "base/task.h"
#include "block/driver.h"

#define SECOND_NS 1000000000ull
#define TICK_NS	  (SECOND_NS / 5)

struct lane {
	struct path path; /* first */
	struct multipath *m;
	unsigned index;
	struct opts *opts;       /* of its node, as "path" and "path.…" */
	unsigned fixed_priority; /* 0: as the path says */
	struct blk *b; /* set once, under the lock; only then anything but UNREACHED */
	char *name;
	struct loop *loop;	  /* of its keeper, whom opening may block */
	bool tried, took_changes; /* since the last flush */
	struct err err;           /* of the first attempt to open */
	int error;                /* for which it was lost */
};

struct multipath {
	struct blk *b;
	struct lane lane[PATHS_MAX];
	bool assume_same;
	uint64_t no_path_ns, check_ns, doubt_ns;
	struct loop *home;
	int wake_fd; /* readable when the node is being closed */
	struct task_rwlock probing;
	struct task_mutex reserving; /* before lock */

	struct task_mutex lock; /* around everything below, and lanes */
	struct task_cond changed;
	struct path_set set;
	bool closing, opening, recovering, recoverer_runs, flushing;
	unsigned tasks;            /* keepers, the ticker, the recoverer */
	unsigned in_flight;        /* requests given to a path */
	uint64_t no_path_since_ns; /* 0: one is up */
	uint64_t lost_ns;          /* since when requests have been held up by a loss; 0: they are not */
	uint64_t held_up_ns; /* the same, but since it was noticed, or since a path came after all were gone */
	unsigned failed_restores;  /* since then */
	int flush_error;           /* answers every flush for good */
	int owes; /* -errno for the next flush: the copies were dropped, or could not be repeated yet */
	unsigned repeats; /* begun, of the copies */
	unsigned flushes, stable[2]; /* so far; stable requests in flight, begun between even and odd */
	bool lacks_fua; /* a lane does; it is flushed for */
	int refused;               /* answers every change: the disk is another's now */
	char *identity;
	bool knows_size;
	struct unflushed kept;
	struct doubts doubts;
	unsigned open_flags;	  /* of lanes */
	bool reserved;		  /* by one lane or more */
	bool passes;		  /* a guest reserves it, not the node */
	/* Under `reserving`: a guest has registered itself, under this key at last; 0: no more. */
	bool guest_registers;
	uint64_t guest_key;

	uint64_t recoveries, last_recovery_ns, repeated_bytes;
};

static inline struct multipath *mp_of(const struct blk *b)
{
	return b->state;
}

/* ---- multipath_run.c ------------------------------------------------------------- */

struct mp_request {
	int (*issue)(struct blk *path, const struct mp_request *r);
	uint64_t offset, bytes;
	const struct iovec *iov;
	int niov;
	unsigned flags;
	void *out; /* the caller's, for issue */
	bool changes, keeps;
	bool once;    /* an answer that is lost is the end */
	bool resizes; /* to `bytes`, whatever lies behind */
};

/* Runs it over one path or another until it is answered. */
int mp_run(struct blk *b, const struct mp_request *r);
/* What only the way can be to blame for. */
bool mp_is_path_error(int ret);
/* Acknowledged changes are kept until they are flushed. */
static inline bool mp_keeps_copies(const struct blk *b)
{
	return !(b->flags & BLK_O_NO_FLUSH);
}


/* The lock is held for all of these. */

/* Waits for a path to be usable, and for recovering to end. -ENOLINK: none in time. */
int mp_next_lane(struct multipath *m, uint64_t bytes, uint32_t not_these, struct lane **out);
/* Gives the lock away while requests are made. */
int mp_flush_all(struct multipath *m);
/* The lane is not to be used, for `error` of a request made at since_ns; where it was in use,
 * recovering begins. */
void mp_lose(struct lane *l, enum path_state state, int error, uint64_t since_ns);
/* After the state of a lane has changed. */
void mp_note_paths(struct multipath *m);
void mp_start_recovering(struct multipath *m);
/* No request begins until all that is kept was written again. */
void mp_recover(struct multipath *m);
/* Nothing is written by this node any more: its reservation was taken away. */
void mp_refuse(struct multipath *m);
/* The last thing such a task does. */
void mp_task_ended(struct multipath *m);

/* ---- multipath_reserve.c; the lock is not held ------------------------------------ */

/* Before a new path is used: the first reserves the disk where the node is to, others join. */
int mp_reserve(struct lane *l, struct blk *b, struct err *err);
/* Before a path is used, also again: it is registered as the others are, where a guest has done that. */
int mp_follow_guest(struct lane *l, struct blk *b, struct err *err);
struct blk_pr;
int mp_pr_begin(struct blk *b, struct err *err); /* of storage.h, as the next */
int mp_pr(struct blk *b, struct blk_pr *pr);

/* ---- multipath_keep.c: tasks ----------------------------------------------------- */

void mp_keep(void *lane);
/* Time passes for those who wait. */
void mp_tick(void *multipath);

#endif
