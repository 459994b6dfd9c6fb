/* SPDX-License-Identifier: BSD-2-Clause */
/* An AHCI 1.3.1 controller on PCI, with SATA disks and CD-ROM drives at its ports. */
#ifndef BYRE_VMM_AHCI_H
#define BYRE_VMM_AHCI_H

#include "vmm/disk.h"
#include "vmm/pci.h"

#define AHCI_PORTS 6u

struct ahci;

int ahci_new(struct vm *vm, struct pci *pci, struct ahci **out, struct err *err);
/* To the next free port, before the machine runs; -ENOSPC where all are taken. A CD-ROM drive
 * has the disk as its medium, in blocks of 2048 bytes, and never writes. */
int ahci_attach(struct ahci *a, struct disk *disk, bool cdrom, struct err *err);

#endif
