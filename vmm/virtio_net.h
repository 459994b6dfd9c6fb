/* SPDX-License-Identifier: BSD-2-Clause */
/* A virtio network card (virtio 1.2, 5.1) on any network of net.h. */
#ifndef BYRE_VMM_VIRTIO_NET_H
#define BYRE_VMM_VIRTIO_NET_H

#include "vmm/net.h"
#include "vmm/virtio.h"

#define VIRTIO_NET_PAIRS_MAX NET_QUEUES_MAX

struct virtio_net_options {
	struct net *net; /* the caller's; closed after the machine is gone */
	uint8_t mac[6];
	uint16_t mtu; /* that the guest is told; 0: none */
	bool packed;  /* packed rings are offered */
};

struct virtio_net;

/* out, if not NULL, lives as long as the machine. */
int virtio_net_new(struct vm *vm, struct pci *pci, const struct virtio_net_options *o,
	struct virtio_net **out, struct err *err);
/* Pulls the cable, or puts it in. From any thread but a vCPU's. */
void virtio_net_set_link(struct virtio_net *v, bool up);

#endif
