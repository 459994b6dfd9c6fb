/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Landlock: which files may be opened by name from now on. What is open stays open.
 */
#ifndef BYRE_VMM_LANDLOCK_H
#define BYRE_VMM_LANDLOCK_H

#include "vmm/confine.h"

/* The version of the kernel's interface; 0: it has none, or it is switched off. */
int landlock_version(void);

/* A rule set that allows what options say and nothing else: a descriptor, or -errno with err
 * set. Paths that are not there are left out. */
int landlock_make(const struct confine_options *o, struct err *err);
/* The calling thread. no_new_privs is set. System calls only. */
int landlock_enter(int rules_fd);

#endif
