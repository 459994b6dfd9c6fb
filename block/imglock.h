/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Image locks on open file description locks, interoperable with QEMU's: permission bits
 * consistent-read 0, write 1, write-unchanged 2, resize 3. A permission held is a shared
 * lock on byte 100 + bit; one not shared with others is a shared lock on byte 200 + bit.
 * A conflict is found with F_OFD_GETLK for a write lock on the opposite byte. On CIFS all
 * bytes are 2^62 further on.
 */
#ifndef BYRE_BLOCK_IMGLOCK_H
#define BYRE_BLOCK_IMGLOCK_H

#include "base/err.h"
#include "block/lockowner.h"

enum imglock_perm {
	IMGLOCK_CONSISTENT_READ = 1 << 0,
	IMGLOCK_WRITE = 1 << 1,
	IMGLOCK_WRITE_UNCHANGED = 1 << 2,
	IMGLOCK_RESIZE = 1 << 3,
	IMGLOCK_ALL = 15,
};

/* What one open file description holds; zero-initialised for a new one. */
struct imglock {
	unsigned perm, unshared;
};

/* Takes `perm` and shares `shared` with others, replacing what l says fd held. 0; -EAGAIN
 * with a message that names the permission, and as its hint the holder's pid and program
 * where they can be found; -ENOTSUP where the file system has no such locks. On failure
 * nothing is held that was not before. May block (it searches /proc after a refusal). */
int imglock_set(struct imglock *l, int fd, const char *filename, unsigned perm,
	unsigned shared, struct err *err);
/* Gives all of it up, before fd is closed: close() does that only with the last reference to the
 * file, and a ring may hold one until it is torn down, which can be after the process ended. */
void imglock_drop(struct imglock *l, int fd);

/* The message of a refusal, for locks that are not such as these too: `what` is "" or
 * "shared ", the hint names the owner where one is known. -EAGAIN. */
int imglock_refused(const char *filename, const struct lock_owner *owner, const char *what,
	enum imglock_perm perm, struct err *err);

struct imglock_holder {
	struct lock_owner owner;
	unsigned perm, unshared;
};

/* Who else has image locks on the file; the last may stand for those on other hosts, named by
 * the note beside the file where there is one. At most `max`; -errno where the file system
 * has no such locks. May block, as above. */
int imglock_holders(int fd, const char *filename, struct imglock_holder *list, unsigned max,
	unsigned *n);
/* "consistent read", "write", … by bit. */
extern const char *const imglock_perm_names[4];

#endif
