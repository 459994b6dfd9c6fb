/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What is to be done when the machine has ended, however it did, and what its own process may not do any more then
 * (confine.h): a process that was made before waits for its end.
 *
 * Everything here before confine_process(), but for the ends.
 */
#ifndef BYRE_VMM_AFTERWARDS_H
#define BYRE_VMM_AFTERWARDS_H

#include <stdbool.h>
#include <sys/types.h>

#include "base/err.h"

/* fn is called in a process that is a copy of this one as it is now, without its threads, so it makes system calls only. It
 * has no terminal unless it speaks. Returns what afterwards_end() takes, or -errno with err set. */
int afterwards_begin(void (*fn)(void *arg), void *arg, bool speaks, struct err *err);
/* The machine has ended: fn is called, and waited for until it, and what it has executed, is through. -1: nothing. */
void afterwards_end(int fd);

#define LEFTOVERS_MAX 16u

/* Files that stand while the machine runs, and for no longer. Zero with fd -1 is none. */
struct leftovers {
	struct leftover {
		char *path;
		dev_t dev; /* which file it is: another of that name may be there in the end */
		ino_t ino;
	} file[LEFTOVERS_MAX];
	unsigned n;
	int fd;
};

/* A file that is there. What is too much, or no memory, stays behind. */
void leftovers_note(struct leftovers *l, const char *path);
/* From now on they go with this process. Nothing where there are none. */
int leftovers_watch(struct leftovers *l, struct err *err);
void leftovers_remove(struct leftovers *l);

#endif
