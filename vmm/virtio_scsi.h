/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A virtio SCSI host bus adapter (virtio 1.2, 5.6): each disk is unit 0 of a target of its
 * own, numbered as they are attached.
 */
#ifndef BYRE_VMM_VIRTIO_SCSI_H
#define BYRE_VMM_VIRTIO_SCSI_H

#include "vmm/disk.h"
#include "vmm/virtio.h"

#define VIRTIO_SCSI_TARGETS    64u
#define VIRTIO_SCSI_QUEUES_MAX (VIRTIO_QUEUES_MAX - 2u)

struct virtio_scsi;

/* queues: for requests, a loop each, 1 to VIRTIO_SCSI_QUEUES_MAX. packed: such rings are
 * offered. The machine's. */
int virtio_scsi_new(struct vm *vm, struct pci *pci, unsigned queues, bool packed,
	struct virtio_scsi **out, struct err *err);
/* Before the machine runs, or while it stands; the guest is told. -ENOSPC. */
int virtio_scsi_attach(struct virtio_scsi *v, struct disk *disk, struct err *err);

#endif
