/* SPDX-License-Identifier: BSD-2-Clause */
/* A virtio block device (virtio 1.2, 5.2) over any disk. */
#ifndef BYRE_VMM_VIRTIO_BLK_H
#define BYRE_VMM_VIRTIO_BLK_H

#include "vmm/disk.h"
#include "vmm/virtio.h"

/* queues: loops that serve it at once, 1 to VIRTIO_QUEUES_MAX. packed: such rings are offered. */
int virtio_blk_new(struct vm *vm, struct pci *pci, struct disk *disk, unsigned queues,
	bool packed, struct err *err);

#endif
