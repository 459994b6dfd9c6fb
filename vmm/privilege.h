/* SPDX-License-Identifier: BSD-2-Clause */
/* Being nobody in particular: users, capabilities, namespaces. */
#ifndef BYRE_VMM_PRIVILEGE_H
#define BYRE_VMM_PRIVILEGE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"

struct user {
	uid_t uid;
	gid_t gid;
};

/* "NAME", "NAME:GROUP", either also as a number; the group is else the user's own. */
int user_find(const char *text, struct user *out, struct err *err);

/* Of the calling thread; system calls only. 0 or -errno. */
int drop_bounding_set(uint64_t but); /* nothing where it may not */
int drop_capabilities(uint64_t but);
int become_user(const struct user *u); /* and in no further groups */
int set_no_new_privileges(void);
int leave_shared_namespaces(bool network); /* IPC and UTS; also the network's */
/* As sets: 1 << number. What a command to a device needs that only root may send. */
uint64_t device_capabilities(void);

/* While there is one thread: mounts made here are not seen outside, those made outside are seen
 * here. Needs root. */
int own_mounts(struct err *err);
/* For all threads: the root is an empty folder that cannot be written. After own_mounts.
 * 0 or -errno. */
int empty_root(void);

#endif
