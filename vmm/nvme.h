/* SPDX-License-Identifier: BSD-2-Clause */
/* An NVMe 1.4 controller on PCI with one namespace, which is the disk. */
#ifndef BYRE_VMM_NVME_H
#define BYRE_VMM_NVME_H

#include "vmm/disk.h"
#include "vmm/pci.h"

#define NVME_QUEUES_MAX 64u

/* queues: pairs of I/O queues that the guest may make, 1 to NVME_QUEUES_MAX; each is served
 * by a thread of its own. */
int nvme_new(struct vm *vm, struct pci *pci, struct disk *disk, unsigned queues, struct err *err);

#endif
