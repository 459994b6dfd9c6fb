/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A disk of the machine as people write it: "file=disk.qcow2,id=data,cache=none,werror=stop",
 * for the command line and for the control socket alike.
 */
#ifndef BYRE_VMM_DISK_OPTIONS_H
#define BYRE_VMM_DISK_OPTIONS_H

#include "vmm/machine.h"

/* What a struct machine_disk refers to lives here. */
struct disk_spec {
	struct machine_disk disk;
	char id[DISK_ID_MAX], serial[DISK_SERIAL_MAX];
	bool writable;
	bool shared; /* other machines may write it at once */
};

/* Opens it: disk.disk.blk is the caller's. -EAGAIN with err set where another program writes it. */
int disk_options_open(struct disk_spec *s, const char *text, struct err *err);
/* The same, only to be looked at: nothing is written, and who uses it does not matter. */
int disk_options_look(struct disk_spec *s, const char *text, struct err *err);
/* Takes those of the device (id, serial, werror, …) out of opts and leaves those of the image. */
int disk_options_take(struct disk_spec *s, struct opts *opts, struct err *err);

#endif
