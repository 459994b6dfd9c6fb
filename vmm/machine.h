/* SPDX-License-Identifier: BSD-2-Clause */
/* The board: a machine with its devices, as options describe it. */
#ifndef BYRE_VMM_MACHINE_H
#define BYRE_VMM_MACHINE_H

#include "vmm/disk.h"
#include "vmm/firmware.h"

#define MACHINE_DISKS_MAX 24u

struct machine_disk {
	struct disk_options disk; /* its blk is the caller's; closed after machine_free */
	unsigned queues;	  /* 0: one for each vCPU */
	bool packed;		  /* virtio: packed rings are offered */
	const char *iface;	  /* of machine_ifaces; NULL: virtio */
	bool cdrom;		  /* ahci, and a disk that is read-only */
};
extern const char *const machine_ifaces[]; /* "virtio", …, NULL */

struct machine_options {
	struct memory_options memory;
	struct vm_topology topology;
	/* A kernel to start without firmware; or, where it is NULL, firmware. */
	const char *kernel, *initrd, *cmdline;
	struct firmware_options firmware;
	struct smbios_options smbios;
	struct machine_disk disk[MACHINE_DISKS_MAX];
	unsigned n_disks;
	int console_in, console_out; /* descriptors; -1: none */
};

struct machine;

/* Everything is opened and in place; nothing runs yet. NULL with err set. */
struct machine *machine_new(const struct machine_options *o, struct err *err);
/* Until the guest turns it off, or a signal (SIGTERM, SIGINT, SIGHUP) ends it: 0. The
 * caller has these signals blocked in all threads. */
int machine_run(struct machine *m, struct err *err);
void machine_free(struct machine *m);

#endif
