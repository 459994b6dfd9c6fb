/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the command-line tools share: their name in messages, errors as one line, images
 * named by the usual options, sizes, cache modes, progress, and signals.
 *
 * A program that is started under the peer's name speaks under it: `tool_name` begins
 * every message, so that scripts which look at them find what they expect.
 */
#ifndef BYRE_TOOLS_COMMON_H
#define BYRE_TOOLS_COMMON_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/err.h"
#include "base/opts.h"
#include "block/blk.h"

extern const char *tool_name;

/* `ours`, or `peer` where argv0's last part is that. Both live for ever. */
void tool_set_name(const char *argv0, const char *ours, const char *peer);
/* Called by the peer's name: what it prints for programs is the peer's, no more. */
bool tool_is_peer(void);

/* "NAME: message" on stderr. */
void tool_error(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void tool_warning(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* One line on `out`. Control characters in it become '?': a name out of an image must not
 * begin a line of its own, nor steer the terminal. */
void tool_line(FILE *out, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* An err with its hint as second line; `where` goes before the message unless NULL. */
void tool_report(const char *where, const struct err *err);

/* An image as the command line gives it. */
struct tool_image {
	const char *name;
	const char *format;      /* NULL: probe */
	bool image_opts;         /* name is driver=…,file.filename=… */
	const struct opts *more; /* further options to open it with; NULL: none */
};

/* Opens it; on failure says why and returns NULL. */
struct blk *tool_open(const struct tool_image *image, unsigned flags);
/* Closes it. 0, or -errno with err set where what was written did not all go out. */
int tool_close_quietly(struct blk *b, struct err *err);
/* Closes it after work that came to `ret`. What is wrong now is said unless that was a
 * failure, which has been reported: often it is the same one. Returns ret, or -errno. */
int tool_close(struct blk *b, int ret);

/* --object: a secret. 0, 1 where it only listed what there is, -EINVAL after saying why.
 */
int tool_add_object(const char *text);

/* Replaces the cache bits of *flags. `what` is "cache" or "source cache". 0 or -EINVAL
 * after saying why. */
int tool_cache(const char *mode, const char *what, unsigned *flags);

/* A number with an optional size suffix. `what` names it in the message. 0 or -EINVAL. */
int tool_number(
	const char *text, const char *what, uint64_t min, uint64_t max, uint64_t *out);
int tool_size(const char *text, const char *what, uint64_t *out_bytes);

/* A disk's size as formats count it: whole sectors. */
uint64_t tool_disk_bytes(struct blk *b);

/*
 * Progress: "    (12.34/100%)\r" on stdout whenever it has moved by min_percent, and,
 * shown or not, once after each SIGUSR1.
 */
void progress_begin(bool show, double min_percent);
void progress_update(uint64_t done, uint64_t total);
void progress_end(void);

/*
 * SIGINT, SIGTERM, SIGHUP and SIGQUIT set this instead of ending the process, the first time: the
 * second ends it at once. tool_interrupted is the signal that came, 0 without one.
 */
extern atomic_bool tool_cancel;
void tool_catch_signals(void);
int tool_interrupted(void);
/* While an image is being made, which nothing can interrupt: these signals end the process
 * after removing the file and saying so, or, where it was there before and may not even
 * have been touched, after saying that it is incomplete. NULL: no longer;
 * tool_catch_signals has the same effect. */
void tool_tell_on_signal(const char *path, bool remove);
/* Ends the process by the signal that was caught, so that its parent sees what happened.
 * Does nothing where there was none. */
void tool_die_of_signal(void);

/* Whether everything printed so far went out: 0, or -errno after saying so once. What prints
 * without end asks after each line; tool_flush_stdout, which flushes first, is for the end:
 * a full disk is not a success. */
int tool_check_stdout(void);
int tool_flush_stdout(void);

#endif
