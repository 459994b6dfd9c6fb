/* SPDX-License-Identifier: BSD-2-Clause */
/* A virtio entropy device (virtio 1.2, 5.4): random bytes of the host's kernel. */
#ifndef BYRE_VMM_VIRTIO_RNG_H
#define BYRE_VMM_VIRTIO_RNG_H

#include "vmm/virtio.h"

int virtio_rng_new(struct vm *vm, struct pci *pci, struct err *err);

#endif
