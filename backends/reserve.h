/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A LUN for one writer: SCSI-3 persistent reservations (SPC-4, 5.13), the same over iSCSI and
 * on the kernel's devices.
 *
 * The writer registers its key by every path it uses and reserves the unit "write exclusive,
 * registrants only": others may read, and whoever's registration is taken away by another's
 * PREEMPT gets RESERVATION CONFLICT for every write from then on. Keys tell who holds it: the
 * end of the host's name and the process.
 *
 * A reservation outlives its program, as it must. One left by a program that was killed is
 * broken by hand (byre-img lock).
 */
#ifndef BYRE_BACKENDS_RESERVE_H
#define BYRE_BACKENDS_RESERVE_H

#include <stdbool.h>

#include "backends/scsi.h"
#include "base/err.h"
#include "block/storage.h"

struct json;

/* PERSISTENT RESERVE OUT (SPC-4, 6.16), whose service action (enum blk_pr_action) is the
 * second byte. */
#define RESERVE_OPCODE_OUT 0x5f

#define RESERVE_KEYS_MAX 64
#define RESERVE_NAME_MAX 64

/* Runs a command: 0, -EBADE for RESERVATION CONFLICT, -ENOTSUP for one that the unit does not
 * know, or another -errno. */
typedef int reserve_run(void *ctx, struct scsi_command *c);

struct reserve_state {
	uint64_t keys[RESERVE_KEYS_MAX]; /* one for each path that is registered */
	unsigned n_keys;
	bool held;
	uint64_t holder; /* key */
	unsigned type;
};

/* The key of this process: five bytes of the host's name, three of the pid. Never 0. */
uint64_t reserve_own_key(void);
/* "node1, pid 1234", or the number of a key of another make. Of a host's name that is longer
 * than five bytes the end, after "…". */
void reserve_name(uint64_t key, char name[RESERVE_NAME_MAX]);

int reserve_look(reserve_run *run, void *ctx, struct reserve_state *out);
/* Registers and reserves. -EBUSY with the other's key in *holder where it is held, under
 * whatever key; nothing stays registered on failure. */
int reserve_take(reserve_run *run, void *ctx, uint64_t key, uint64_t *holder);
/* Registers another path of who holds it under this key. -EBADE where nobody does. */
int reserve_join(reserve_run *run, void *ctx, uint64_t key);
/* True where it is held under this key, which is registered. */
bool reserve_is_ours(const struct reserve_state *now, uint64_t key);
/* Gives it up by all paths, also those that are gone. */
void reserve_drop(reserve_run *run, void *ctx, uint64_t key);
/* Takes it from the victim and gives it up. -ENOENT where that key is not registered. */
int reserve_break(reserve_run *run, void *ctx, uint64_t key, uint64_t victim);
/* The same for the operation of storage.h: the victim as reserve_describe names it. */
int reserve_break_named(reserve_run *run, void *ctx, uint64_t key, const char *filename,
	const char *victim, struct err *err);
/* A guest's own command. */
int reserve_pass(reserve_run *run, void *ctx, struct blk_pr *pr);
/* Makes another path like those that a guest has registered under this key: by one of them at
 * least it is registered still, else nothing is done: a path that comes back must not undo what
 * another host did. Key 0: the guest has unregistered. */
int reserve_follow(reserve_run *run, void *ctx, uint64_t key);
/* One object for each key, however many paths it has, into an array as `holders` of
 * storage.h has them. */
void reserve_describe(const struct reserve_state *now, struct json *array);

#endif
