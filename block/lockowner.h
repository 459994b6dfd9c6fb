/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Who holds the locks of an image's file. Open file description locks carry no pid; the
 * holder is found in two ways, both a courtesy and silent where they fail:
 *
 * 1. On this host /proc/PID/fdinfo lists the locks of every descriptor.
 * 2. For other hosts a writer leaves a note beside the image, ".NAME.owner": host, process,
 *    program, since when. It is written where others can reach the file, and removed at the
 *    end; one that a killed program left says nothing as long as nobody holds a lock.
 */
#ifndef BYRE_BLOCK_LOCKOWNER_H
#define BYRE_BLOCK_LOCKOWNER_H

#include <stdbool.h>

struct lock_owner {
	char host[65];	  /* "": this one */
	long pid;	  /* 0: not known */
	char program[64]; /* "": not known */
	char since[32];	  /* "": not known */
};

/* Calls fn for every lock that others on this host have on the file that fd is open on and
 * has a lock on itself. The search is bounded. Blocks. */
void lock_owners_here(int fd, void (*fn)(void *arg, long pid, long long first, long long last),
	void *arg);
/* A process of this host. */
void lock_owner_of_pid(long pid, struct lock_owner *out);
/* "byre-io, pid 12, on node1, since …" into buf, as far as it is known; "" where nothing is. */
void lock_owner_text(const struct lock_owner *o, char *buf, unsigned long bytes);

/* What a note is, for places that have calls of their own to read and write it: its path
 * beside that of the image, and its text, both malloc'd, NULL without memory. */
#define LOCK_NOTE_MAX 2048 /* bytes of text */
char *lock_note_path(const char *filename);
char *lock_note_text(void);
/* False where it is no note. What is in it is made printable. */
bool lock_note_parse(const char *text, struct lock_owner *out);

/* Beside a local path; failures are of no consequence. */
void lock_note_write(const char *filename);
/* Only that of this process. */
void lock_note_remove(const char *filename);
/* False where there is none that can be read. */
bool lock_note_read(const char *filename, struct lock_owner *out);

#endif
