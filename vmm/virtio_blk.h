/* SPDX-License-Identifier: BSD-2-Clause */
/* A virtio block device (virtio 1.2, 5.2) over any node of the block layer. */
#ifndef BYRE_VMM_VIRTIO_BLK_H
#define BYRE_VMM_VIRTIO_BLK_H

#include "block/blk.h"
#include "vmm/virtio.h"

struct virtio_blk_options {
	struct blk *blk; /* the caller's, and open for longer than the machine lives */
	unsigned queues; /* 1 to VIRTIO_QUEUES_MAX: loops that serve it at once */
	const char *serial; /* at most 20 bytes; NULL: none */
	bool discard;	    /* the guest may give space back */
};

int virtio_blk_new(struct vm *vm, struct pci *pci, const struct virtio_blk_options *o,
	struct err *err);

#endif
