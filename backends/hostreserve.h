/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Persistent reservations (reserve.h) on the kernel's block devices. Changes go by the
 * kernel's own calls, which know of all paths of a multipath device; what there is is read
 * by SCSI commands, as the kernel has no call for that on all releases.
 */
#ifndef BYRE_BACKENDS_HOSTRESERVE_H
#define BYRE_BACKENDS_HOSTRESERVE_H

#include "backends/reserve.h"
#include "base/err.h"
#include "base/opts.h"

struct json;
struct blk;

/* The reservation of one open device. */
struct host_reserve {
	bool wanted; /* reservation=on */
	uint64_t key;
	bool held;
};

/* reservation=, reservation-key=. */
int host_reserve_options(struct host_reserve *r, struct opts *opts, struct err *err);
/* Takes it for a writer, or joins another path that has (-EBADE: it has not); a reader is
 * refused where another has it. */
int host_reserve_begin(struct host_reserve *r, int fd, const char *filename, bool writer,
	bool join, struct err *err);
/* -EBADE where it was taken away. Asks the device. */
int host_reserve_check(const struct host_reserve *r, int fd);
void host_reserve_end(struct host_reserve *r, int fd);
/* Adds the holders of keys to an array; nothing where the device has no reservations. */
void host_reserve_holders(int fd, struct json *array);
/* A guest's own, as the operations of storage.h. */
int host_reserve_pass_begin(
	const struct host_reserve *r, struct blk *b, int fd, struct err *err);
int host_reserve_pass(int fd, struct blk_pr *pr);
int host_reserve_break(const struct host_reserve *r, int fd, const char *filename,
	const char *holder, struct err *err);

#endif
