/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Queues of a network card that the kernel serves itself (vhost-net, linux/vhost.h): packets go
 * between the guest's split rings and a tap device without this process. What is left to it is
 * starting and stopping, and the guest's interrupts.
 *
 * The kernel looks guest-physical addresses up in the table of memory that it is given, and
 * gives up a queue whose rings make no sense: err_fd tells.
 *
 * What the kernel has not used when a queue stops is all that was offered and not used: a
 * network uses chains in the order of their offering. So the place in the used ring is all of a
 * queue's state, and a queue may go from the kernel to us and back.
 */
#ifndef BYRE_VMM_VHOST_H
#define BYRE_VMM_VHOST_H

#include "vmm/virtio.h"

/* Serves one pair of queues: the first receives. */
struct vhost {
	int fd; /* of /dev/vhost-net */
	struct {
		/* The guest's notification, which only the kernel hears; the kernel's for the
		 * guest; the kernel's that it has given up. */
		int kick_fd, call_fd, err_fd;
	} queue[2];
};

/* NULL with err set: the kernel has none, or not with what we need. Before the process is
 * confined, as it makes a thread of the kernel. */
struct vhost *vhost_net_open(struct err *err);
void vhost_free(struct vhost *h); /* NULL is fine */

/* On the queue's loop. Starts the queue that is `which` of its pair on the tap device, at the first
 * chain that was not used; -errno. */
int vhost_start(struct vhost *h, unsigned which, struct virtio_queue *q, int tap_fd);
/* The kernel touches the rings no more when it returns, and the queue has its place. */
void vhost_stop(struct vhost *h, unsigned which, struct virtio_queue *q);
/* Takes packets from the tap device and to it (tap_fd), or leaves them (-1), while it runs. */
int vhost_set_tap(struct vhost *h, unsigned which, int tap_fd);

#endif
