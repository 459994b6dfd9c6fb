/* SPDX-License-Identifier: BSD-2-Clause */
/* The board: a machine with its devices, as options describe it. */
#ifndef BYRE_VMM_MACHINE_H
#define BYRE_VMM_MACHINE_H

#include "vmm/afterwards.h"
#include "vmm/chardev.h"
#include "vmm/disk.h"
#include "vmm/firmware.h"
#include "vmm/virtio_balloon.h"
#include "vmm/virtio_net.h"

#define MACHINE_DISKS_MAX 24u
#define MACHINE_NETS_MAX  8u
#define MACHINE_QMP_MAX	  4u

struct machine_disk {
	struct disk_options disk;
	unsigned queues;   /* 0: one for each vCPU */
	bool packed;	   /* virtio: packed rings are offered */
	const char *iface; /* of machine_ifaces; NULL: virtio */
	bool cdrom;	   /* ahci, and a disk that is read-only */
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
	struct virtio_net_options net[MACHINE_NETS_MAX];
	unsigned n_nets;
	/* Of the serial port, and of a virtio console (NULL: there is none); the caller's, as are
	 * networks, and closed after machine_free. */
	struct chardev *serial, *console;
	bool rng, balloon;
	struct balloon_options balloon_options;

	const char *name, *uuid; /* what it is called; NULL: nothing */
	bool paused;		 /* it begins standing still */
	bool no_reboot, no_shutdown;
	/* A snapshot of its disks to begin with, or one without disks in a file; NULL: neither. */
	const char *restore, *restore_file;
	const char *qmp[MACHINE_QMP_MAX]; /* sockets that control it (qmp.h) */
	unsigned n_qmp;
};

struct machine;

/* Everything is opened and in place; nothing runs yet. NULL with err set, and then the disks'
 * blk are still the caller's; they are the machine's otherwise. Strings of the options live for
 * as long as it does. */
struct machine *machine_new(const struct machine_options *o, struct err *err);
/* The files of its sockets. */
void machine_note_files(const struct machine *m, struct leftovers *l);
/* Until the guest turns it off, or a signal (SIGTERM, SIGINT, SIGHUP) ends it: 0. The
 * caller has these signals blocked in all threads. */
int machine_run(struct machine *m, struct err *err);
/* Closes its disks, too: 0, or -errno where what was written did not all go out. */
int machine_free(struct machine *m, struct err *err);

/* While it runs, all from the thread of the control socket. The disk goes into a free slot; its
 * blk is the machine's from then on, and may be one that was opened by name (nodes.h). */
int machine_add_disk(struct machine *m, const struct machine_disk *d, struct err *err);
/* Asks the guest to let a disk go that has a slot of its own. When it has done so, and
 * machine_take_ejected() was called, qmp_device_deleted() tells. */
int machine_remove_disk(struct machine *m, const char *id, struct err *err);
void machine_take_ejected(struct machine *m);

#endif
