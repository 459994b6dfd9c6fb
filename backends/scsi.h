/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What SCSI disks say about themselves and their paths, as bytes of a command's data: SPC-4,
 * the same over iSCSI and from the kernel's devices. Nothing here does I/O. The bytes come
 * from a target that may lie: what does not fit into them is left out.
 */
#ifndef BYRE_BACKENDS_SCSI_H
#define BYRE_BACKENDS_SCSI_H

#include <stddef.h>
#include <stdint.h>

#define SCSI_CDB_MAX 16

/* A command with data in one direction. */
struct scsi_command {
	uint8_t cdb[SCSI_CDB_MAX];
	size_t cdb_bytes;
	const void *out; /* to the target, or NULL */
	size_t out_bytes;
	void *in; /* from the target, or NULL */
	size_t in_bytes;
	size_t got; /* of in */
};

/* The name of the logical unit in the Device Identification page (VPD 0x83; SPC-4, 7.8.6),
 * the most lasting of those it has: "naa.…", "eui.…", "name.…", "t10.…"; malloc'd.
 * -ENOTSUP where it has none, -ENOMEM. */
int scsi_identity(const uint8_t *page, size_t bytes, char **out);
/* From the same page the target port group of the port that answered; -1: none. */
int scsi_port_group(const uint8_t *page, size_t bytes);

/* REPORT TARGET PORT GROUPS (SPC-4, 6.37) into c->in. */
void scsi_report_port_groups(struct scsi_command *c, void *in, uint32_t bytes);
/* What a path by that group is worth (enum blk_path_priority), from the command's data.
 * Groups that are not in it are optimized: a target that does not tell has no other. */
unsigned scsi_group_priority(const uint8_t *list, size_t bytes, int group);

#endif
