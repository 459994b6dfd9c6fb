/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * byre run, between its files: what the command line and the configuration file describe.
 */
#ifndef BYRE_TOOLS_BYRE_RUN_H
#define BYRE_TOOLS_BYRE_RUN_H

#include "tools/byre-confine.h"
#include "tools/byre-devices.h"
#include "tools/byre-firmware.h"
#include "vmm/machine.h"

struct run {
	struct machine_options machine;
	struct firmware_choice firmware;
	struct isolation isolation;
	const char *disk[MACHINE_DISKS_MAX]; /* as written; opened when all else is known */
	unsigned n_disks;
	struct device_args devices; /* likewise */
	const char *pidfile;
	bool daemonize;
	struct setting *settings; /* whose texts the rest points to */
};

/* byre-options.c: fills it in. -1: go on; else the exit status, after what there was to say. */
int run_options(struct run *r, int argc, char **argv);
void run_options_free(struct run *r);

/* byre-cpus.c: "8,sockets=2". */
int run_read_topology(const char *text, struct vm_topology *t, struct err *err);

#endif
