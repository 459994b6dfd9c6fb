/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Files of the host that the guest is started from: kernels, initramfs, firmware. They are
 * read and not mapped: policies of SELinux let a machine read them only, and one that got
 * shorter is an error then, not a signal.
 */
#ifndef BYRE_VMM_HOSTFILE_H
#define BYRE_VMM_HOSTFILE_H

#include <stdint.h>

#include "base/err.h"

struct hostfile {
	const char *name; /* the caller's */
	int fd;
	uint64_t bytes; /* never 0; when it was opened */
};
#define HOSTFILE_NONE ((struct hostfile){.fd = -1})

/* Opens a regular file with something in it. Nothing stays open on failure. */
int hostfile_open(struct hostfile *f, const char *name, struct err *err);
void hostfile_close(struct hostfile *f);
/* All of the range; -EIO with err set where the file is shorter. Blocks. */
int hostfile_read(const struct hostfile *f, uint64_t offset, void *buf, uint64_t bytes,
	struct err *err);

#endif
