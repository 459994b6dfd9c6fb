/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A disk of the machine: what stands between a device that the guest drives (virtio-blk,
 * SCSI, NVMe, AHCI) and the block layer: the policy for errors, limits on the rate, statistics,
 * and changes of the size. Devices keep to the protocol of their bus and know none of that.
 *
 * Data calls are made from tasks of any loop, or plain threads, as those of blk.h; offsets
 * and lengths are the caller's to check against disk_bytes().
 */
#ifndef BYRE_VMM_DISK_H
#define BYRE_VMM_DISK_H

#include "block/storage.h"
#include "vmm/vm.h"

#define DISK_ID_MAX	32u /* with the 0 */
#define DISK_SERIAL_MAX 21u /* likewise */
#define DISK_BOOT_MAX	255u

struct disk; /* fields that devices look at are below */

/* What an error of storage becomes. */
enum disk_policy {
	DISK_REPORT, /* an error that the guest sees */
	DISK_IGNORE, /* nothing: it counts as done */
	DISK_STOP,   /* the machine stops; when it goes on, the request is made again */
	DISK_ENOSPC, /* stop where there is no space, else report */
};
extern const char *const disk_policy_names[]; /* "report", …, NULL */

enum disk_kind { DISK_READ, DISK_WRITE, DISK_ZERO, DISK_DISCARD, DISK_FLUSH, DISK_KINDS };

struct disk_limits {
	uint64_t iops[3], bps[3]; /* total, read, write; 0: no limit */
};

struct disk_options {
	const char *id;	    /* NULL: "diskN" */
	struct blk *blk;    /* the caller's, and open for longer than the machine lives */
	const char *serial; /* at most 20 bytes; NULL: none */
	bool discard;	    /* the guest may give space back */
	enum disk_policy on_read_error, on_write_error;
	struct disk_limits limits;
	bool reservations;  /* the guest's persistent reservations are its LUN's (blk_pr) */
	unsigned boot; /* order of booting, 1 to DISK_BOOT_MAX; 0: last */
};

/* As vm->disk_failed is told. */
struct disk_failure {
	const struct disk *disk;
	enum disk_kind kind;
	int error;		  /* errno */
	enum disk_policy action; /* never DISK_ENOSPC */
};

struct disk_count {
	uint64_t requests, failed, bytes, ns;
};


/* Into the machine's list of disks; freed with it. */
int disk_new(struct vm *vm, const struct disk_options *o, struct disk **out, struct err *err);

struct disk {
	struct device device; /* first */
	struct vm *vm;
	struct disk *next; /* vm->disks */
	struct blk *blk;
	char id[DISK_ID_MAX], serial[DISK_SERIAL_MAX];
	struct log_bound said, said_stop; /* of errors; of those that stop the machine */
	char node[DISK_ID_MAX]; /* the name of its image, for those who control it (nodes.h) */
	bool read_only, discard;
	bool reservations;   /* disk_reserve() */
	bool discard_zeroes; /* disk_zero() with BLK_MAY_UNMAP is as good as a discard */
	bool removable;	     /* a CD: its tray is the guest's, and atomic */
	bool tray_open, tray_locked;
	unsigned boot;
	/* The device in front of it: its name on the guest's side, where firmware finds it (the
	 * path that bootorder has; "" where it cannot), and who is told of a new size. */
	const char *iface;
	char boot_path[80];
	void (*resized)(void *front);
	void *front;
	/* The device in front where it is this disk's alone and a PCI function, which can be taken
	 * out of its slot (device.instance) with it; NULL: it stays. */
	struct device *plug;

	enum disk_policy policy[2]; /* of reads; of the rest */
	bool limited;	      /* by any of its limits; atomic */
	pthread_mutex_t lock; /* around what follows */
	struct disk_limits limits;
	uint64_t next_iops_ns[3], next_bps_ns[3];
	struct disk_count count[DISK_KINDS]; /* statistics; atomic */
	uint64_t last_ns;		     /* when a request last ended; atomic */
	uint64_t highest;	     /* end of the furthest write; atomic */
	int last_error;		     /* that stopped the machine; atomic */
	uint64_t error_round;	     /* vm_round() then; atomic, after it */
};

uint64_t disk_bytes(const struct disk *d);

/* 0, or -errno for the guest to see, or -ECANCELED: the machine is stopping, because of
 * this request or while it waited its turn. The device keeps the request and makes it again, from
 * its start, when the machine starts. */
int disk_read(struct disk *d, uint64_t offset, const struct iovec *iov, int niov);
/* flags: BLK_FUA. */
int disk_write(struct disk *d, uint64_t offset, const struct iovec *iov, int niov, unsigned flags);
/* These two are of any length: they are made, limited and counted in pieces. */
struct disk_range {
	uint64_t offset, bytes;
	unsigned flags; /* of zeros: BLK_FUA, BLK_MAY_UNMAP */
	/* A machine that stops cancels it between pieces, and this has grown by what was done, to go on
	 * from there. NULL: it is not cancelled. */
	uint64_t *done;
};
int disk_zero(struct disk *d, const struct disk_range *r);
/* Nothing where the disk does not pass discards on. */
int disk_discard(struct disk *d, const struct disk_range *r);
int disk_flush(struct disk *d);
/* As blk_pr(); whatever the policy for errors, the guest hears of them. */
int disk_reserve(struct disk *d, struct blk_pr *pr);

/* Grows or shrinks it while the machine runs; the guest is told. -errno with err set. */
int disk_resize(struct disk *d, uint64_t bytes, struct err *err);
/* -EINVAL: a total beside one of reads or writes. */
int disk_limits_check(const struct disk_limits *l, struct err *err);
/* From now on, requests that wait their turn excepted. */
void disk_set_limits(struct disk *d, const struct disk_limits *limits);
struct disk_limits disk_limits_of(struct disk *d);
struct disk *disk_find(struct vm *vm, const char *id); /* NULL: none of that name */

#endif
