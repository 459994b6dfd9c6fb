/* SPDX-License-Identifier: BSD-2-Clause */
/* Limits of a machine's process by a control group, version 2. */
#ifndef BYRE_VMM_CGROUP_H
#define BYRE_VMM_CGROUP_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"

/* 0: as it is. */
struct cgroup_options {
	char path[256]; /* below the root, "machines/web" */
	uint64_t memory_bytes, cpu_percent, pids, io_weight;
};

struct cgroup {
	char path[512];
	bool made; /* by us: removed at the end */
};

/* "PATH[,memory=SIZE][,cpu=PERCENT][,pids=N][,io-weight=N]" */
int cgroup_parse(const char *text, struct cgroup_options *out, struct err *err);
/* Where version 2 is mounted, into 64 bytes. -ENOTSUP with err set. */
int cgroup_find_root(char root[64], struct err *err);

/* The group is there, with its limits; on failure nothing is left behind. The folder above it has
 * to be there. */
int cgroup_make(struct cgroup *g, const char *root, const struct cgroup_options *o,
	struct err *err);
int cgroup_add(const struct cgroup *g, pid_t pid, struct err *err);
/* When its processes have ended. */
void cgroup_remove(const struct cgroup *g);

#endif
