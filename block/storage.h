/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What only the place where bytes live can tell or do: which disk it is, what it can, how
 * its paths are. Protocol drivers have these operations beside those of driver.h; filters
 * are looked through. Each may block, and may be called beside data calls.
 */
#ifndef BYRE_BLOCK_STORAGE_H
#define BYRE_BLOCK_STORAGE_H

#include "block/blk.h"

struct json;

/* Preference among paths to one disk, the higher the better: as SPC-4 names the access
 * states of a target port group. Any other number in between will do. */
enum blk_path_priority {
	BLK_PATH_UNAVAILABLE = 0, /* not usable now */
	BLK_PATH_STANDBY = 1,
	BLK_PATH_NON_OPTIMIZED = 10,
	BLK_PATH_OPTIMIZED = 50,
	BLK_PATH_PREFERRED = 80,
};

/* A command about persistent reservations (SPC-4, 6.15 and 6.16), as a guest gives it to its disk. */
struct blk_pr {
	uint8_t action, scope_type; /* the second and third byte of the command */
	const uint8_t *out;	    /* OUT: the parameter list, BLK_PR_OUT_BYTES; NULL: IN */
	uint8_t *in;
	size_t in_bytes, got;
};
#define BLK_PR_OUT_BYTES 24u
enum blk_pr_action { /* of OUT */
	BLK_PR_REGISTER = 0,
	BLK_PR_RESERVE = 1,
	BLK_PR_RELEASE = 2,
	BLK_PR_CLEAR = 3,
	BLK_PR_PREEMPT = 4,
	BLK_PR_PREEMPT_AND_ABORT = 5,
	BLK_PR_REGISTER_IGNORING = 6,
};

struct blk_storage_ops {
	/* The disk's name in the world, the same whichever way it is reached and however its
	 * URL is spelled ("naa.6001405…", "nfs:FSID:FILEID"), malloc'd. -ENOTSUP where nothing
	 * proves it. */
	int (*identity)(struct blk *b, char **out);
	/* Two nodes of this driver have one identity: false where that is chance. May be missing: it
	 * never is. */
	bool (*is_same)(const struct blk *a, const struct blk *b);
	/* Puts members into the object `facts`: what this place can do, how it is doing. */
	void (*describe)(struct blk *b, struct json *facts);
	/* One of several paths (BLK_O_PATH): can it be used now, and how much is it worth?
	 * 0 with *priority; -errno where it cannot. */
	int (*check_path)(struct blk *b, unsigned *priority);
	/* That this path was lost is known where the other paths are: until then all its requests end
	 * with an error of the path, also over another connection. May be missing. */
	void (*note_loss)(struct blk *b);
	/* After it no request sent earlier by this program lands any more, whichever path it
	 * took, that had not been answered. No request is in flight on b. */
	int (*fence)(struct blk *b);

	/* Locks of the place itself: who holds any, as an array of objects with "holder" (the word
	 * that break_lock takes) and what else is known: "kind", "host", "pid", "program", "since". */
	struct json *(*holders)(struct blk *b, struct err *err);
	/* Takes the lock away from that holder, whose writes fail from then on. */
	int (*break_lock)(struct blk *b, const char *holder, struct err *err);
	/* One of several paths (others take what they were asked for when they are opened):
	 * reserves the disk, or joins the reservation that another path of the same node has
	 * taken. 0 where the node was not asked to, too. -EBUSY where it is another's; -EBADE
	 * where it is not ours any more. */
	int (*reserve)(struct blk *b, bool join, struct err *err);
	/* Gives up what is held by all paths, before the first is closed. */
	void (*release)(struct blk *b);
	/* From now on reservations are its user's, who gives pr() commands: the node has none of
	 * its own, and a conflict is the answer to a request and no more. -EBUSY with err set where
	 * the node was opened to reserve the disk itself; -ENOTSUP where there are none. */
	int (*pr_begin)(struct blk *b, struct err *err);
	/* 0 with pr->got; -EBADE: reservation conflict; -ENOTSUP: not by this device, or not in this
	 * form. An error of the path where it may have been done, and must not be repeated (blk_pr_repeats).
	 * Of several paths to the disk all are one initiator. */
	int (*pr)(struct blk *b, struct blk_pr *pr);
};

/* Whether b is read through the disk that the protocol node below `place` is, by whatever name. One that no
 * server tells apart (NBD) is known by its name only. */
bool blk_is_read_through(struct blk *b, struct blk *place);

/* As the operations, -ENOTSUP where the driver has none. */
int blk_identity(struct blk *b, char **out);
int blk_check_path(struct blk *b, unsigned *priority);
void blk_note_loss(struct blk *b);
int blk_fence(struct blk *b);
bool blk_can_fence(struct blk *b);
/* NULL, or -ENOTSUP, with err set where the place has no locks of its own. */
struct json *blk_holders(struct blk *b, struct err *err);
int blk_break_lock(struct blk *b, const char *holder, struct err *err);
int blk_reserve(struct blk *b, bool join, struct err *err); /* 0 where there is none */
void blk_release(struct blk *b);
/* Of a disk that is all of its place: raw, and nothing left out. */
int blk_pr_begin(struct blk *b, struct err *err);
int blk_pr(struct blk *b, struct blk_pr *pr);
/* Whether it does the same when it is given again, since an answer was lost on the way: registering,
 * preempting and clearing would be refused for having been done. */
bool blk_pr_repeats(const struct blk_pr *pr);
/* The facts of a protocol node as an object of the caller's; NULL where there are none. */
struct json *blk_describe(struct blk *b);

#endif
