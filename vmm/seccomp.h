/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Filters on system calls, one for each kind of thread. What is not in the table is not
 * there: it ends the process (SIGSYS), or, for finding out, is written to the kernel's log.
 *
 * A filter is inherited and never taken back. The process gets CONFINE_MAIN, which is all that
 * any thread needs; the others are parts of it, which threads take at their start.
 */
#ifndef BYRE_VMM_SECCOMP_H
#define BYRE_VMM_SECCOMP_H

#include <stdbool.h>
#include <linux/filter.h>

#include "base/err.h"
#include "vmm/confine.h"

#define SECCOMP_PROGRAM_MAX 1024u

struct seccomp_program {
	struct sock_filter code[SECCOMP_PROGRAM_MAX];
	unsigned short n;
};

/* needs: enum blk_needs. may_open: files may be opened by name, where Landlock and the file
 * system let it be; else that is refused with EACCES. */
struct seccomp_rules {
	enum confine_filter filter; /* not CONFINE_FILTER_OFF */
	unsigned needs;
	bool may_open;
};

void seccomp_build(struct seccomp_program *p, enum confine_kind kind,
	const struct seccomp_rules *rules);
/* For the calling thread, or all of the process; no_new_privs is set. 0 or -errno. System calls
 * only. */
int seccomp_install(const struct seccomp_program *p, bool all_threads);

#endif
