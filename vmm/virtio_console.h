/* SPDX-License-Identifier: BSD-2-Clause */
/* A virtio console (virtio 1.2, 5.3) with one port. */
#ifndef BYRE_VMM_VIRTIO_CONSOLE_H
#define BYRE_VMM_VIRTIO_CONSOLE_H

#include "vmm/chardev.h"
#include "vmm/virtio.h"

/* The character device is the caller's, and is there for as long as the machine. */
int virtio_console_new(
	struct vm *vm, struct pci *pci, struct chardev *chardev, struct err *err);

#endif
