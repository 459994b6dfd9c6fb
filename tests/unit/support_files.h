/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Scratch files for unit tests: a fresh folder for each program, under $TMPDIR, gone when
 * it ends.
 */
#ifndef BYRE_TESTS_UNIT_SUPPORT_FILES_H
#define BYRE_TESTS_UNIT_SUPPORT_FILES_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* "folder/name"; the string lives as long as the program. */
const char *scratch_path(const char *name);
/* Makes or replaces a file of `bytes` zeros, all hole. */
const char *scratch_file(const char *name, uint64_t bytes);

/* Starts argv[0] with stdin and stdout on /dev/null. Its pid, or 0 where the program is
 * not installed. */
pid_t program_start(const char *const argv[]);
/* Runs to the end: the exit status; 127 where it is not installed. */
int program_run(const char *const argv[]);
/* Kills (by pid) and waits. */
void program_stop(pid_t pid);
bool program_there(const char *name);

/* A loop device over a file, with this sector size: its path, or NULL where there is none
 * to be had (not root, no loop driver). It goes away with the last descriptor on it, of
 * which the caller gets one in *fd. */
const char *loop_device(const char *path, unsigned sector_bytes, int *fd);

#endif
