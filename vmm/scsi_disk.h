/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A disk as a SCSI logical unit (SAM-5, SPC-4, SBC-3): executes command descriptor blocks,
 * whichever transport they came by. Direct-access, 512-byte blocks, one initiator.
 *
 * A CDB and its data come from the guest: each field is checked here, against the disk and
 * against the buffers.
 */
#ifndef BYRE_VMM_SCSI_DISK_H
#define BYRE_VMM_SCSI_DISK_H

#include "vmm/disk.h"

#define SCSI_CDB_BYTES	 32u
#define SCSI_SENSE_BYTES 18u
#define SCSI_BLOCK	 BLK_SECTOR

enum scsi_status {
	SCSI_GOOD = 0x00,
	SCSI_CHECK_CONDITION = 0x02,
	SCSI_RESERVATION_CONFLICT = 0x18,
};

/* What the next command is told in place of being executed, the first that is set. */
enum scsi_attention {
	SCSI_ATTENTION_RESET = 1 << 0,	  /* power on, or by a reset of the transport */
	SCSI_ATTENTION_CAPACITY = 1 << 1, /* the disk has another size */
};

struct scsi_disk {
	struct disk *disk;
	unsigned attention; /* enum scsi_attention; atomic */
	/* Mode pages, as far as they can be changed: atomic. */
	bool write_cache;      /* caching page, WCE */
	bool descriptor_sense; /* control page, D_SENSE */
};

struct scsi_request {
	const uint8_t *cdb; /* SCSI_CDB_BYTES */
	const struct iovec *out, *in; /* data from and to the guest */
	int n_out, n_in;
	uint64_t out_bytes, in_bytes;
	/* The answer. */
	uint8_t status; /* enum scsi_status */
	bool overrun;	/* the command had more data than there was room for */
	uint64_t done;	/* bytes of data that were moved */
	uint8_t sense[SCSI_SENSE_BYTES];
	unsigned sense_bytes;
};

void scsi_disk_init(struct scsi_disk *s, struct disk *disk);
/* As after power-on. */
void scsi_disk_reset(struct scsi_disk *s);
/* From any thread. */
void scsi_disk_attend(struct scsi_disk *s, enum scsi_attention attention);
/* Part of a device's section. */
void scsi_disk_state(struct scsi_disk *s, struct state *state);

/* 0 with the answer in r; -ECANCELED: the machine stops, and all of it is to be done again.
 * From any task; commands run at once with each other. */
int scsi_disk_execute(struct scsi_disk *s, struct scsi_request *r);
/* The answer for a unit that is not there, at a target that is. */
void scsi_no_unit(struct scsi_request *r);

#endif
