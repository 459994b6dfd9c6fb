/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What is to be done when the machine has ended, however it did, and what its own process may not do any more then
 * (confine.h): a process that was made before waits for its end.
 *
 * Everything here before confine_process(), but for the ends.
 */
#ifndef BYRE_VMM_AFTERWARDS_H
#define BYRE_VMM_AFTERWARDS_H

#include <sys/types.h>
#include <time.h>

#include "base/err.h"

/* Standard input, output and error become null, an open /dev/null. Nothing where that is -1. */
void leave_terminal(int null);
/* Those that are made from now on have no terminal: the machine goes into the background. */
void afterwards_leave_terminal(void);
/* fn is called in a process that is a copy of this one as it is now, without its threads, so it makes system calls only.
 * Returns what afterwards_end() takes, or -errno with err set. */
int afterwards_begin(void (*fn)(void *arg), void *arg, struct err *err);
/* The machine has ended: fn is called, and waited for. -1: nothing. */
void afterwards_end(int fd);

#define LEFTOVERS_MAX 8u

/* Files that stand while the machine runs, and for no longer. Zero with fd -1 is none. */
struct leftovers {
	struct leftover {
		char *path;
		dev_t dev; /* which file it is: another of that name may be there in the end, and */
		ino_t ino; /* have the number of one that is gone, but not its time */
		struct timespec modified;
	} file[LEFTOVERS_MAX];
	unsigned n;
	int fd;
};

/* A file that is there, and not written any more; LEFTOVERS_MAX of them. */
void leftovers_note(struct leftovers *l, const char *path);
/* From now on they go with this process. Nothing where there are none. */
int leftovers_watch(struct leftovers *l, struct err *err);
void leftovers_remove(struct leftovers *l);

#endif
