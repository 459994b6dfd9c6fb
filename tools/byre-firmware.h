/* SPDX-License-Identifier: BSD-2-Clause */
/* The firmware of byre run, from its options to open files. */
#ifndef BYRE_TOOLS_BYRE_FIRMWARE_H
#define BYRE_TOOLS_BYRE_FIRMWARE_H

#include "vmm/firmware.h"

struct firmware_choice {
	const char *name;	  /* "bios", "uefi", a file; NULL: bios */
	const char *vars;	  /* a file for its variables; NULL: they are forgotten */
	const char *log;	  /* a file for what it logs; NULL: none */
};

/* Opens it all. A file for variables that is not there is made from the template that comes with the
 * firmware. -errno with err set. */
int firmware_choose(const struct firmware_choice *c, struct firmware_options *out,
	struct err *err);
/* What was opened; after the machine was freed. 0 or -errno of the last flush. */
int firmware_release(struct firmware_options *o);

#endif
