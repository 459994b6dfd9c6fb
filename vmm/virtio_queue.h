/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Queues as the transport (virtio.c) sees them; what devices call is in virtio.h. Between
 * stop and start nothing of a queue runs, and the rest is called only then.
 */
#ifndef BYRE_VMM_VIRTIO_QUEUE_H
#define BYRE_VMM_VIRTIO_QUEUE_H

#include "vmm/virtio.h"

int virtio_queue_init(struct virtio_queue *q, struct virtio_device *d, unsigned index);
void virtio_queue_free(struct virtio_queue *q);
/* As after power-on. */
void virtio_queue_reset(struct virtio_queue *q);
/* The size that the guest wishes; others than there are have no effect. */
void virtio_queue_resize(struct virtio_queue *q, uint64_t size);
/* Chooses the layout by the features; whether its rings lie in memory. */
bool virtio_queue_fits(struct virtio_queue *q);
int virtio_queue_start(struct virtio_queue *q); /* it is enabled; -errno */
void virtio_queue_stop(struct virtio_queue *q); /* nothing where it does not run */
void virtio_queue_kick(struct virtio_queue *q); /* by the guest; from any thread */
void virtio_queue_state(struct virtio_queue *q, struct state *s);

/* virtio.c */
#define VIRTIO_ISR_QUEUE  1u
#define VIRTIO_ISR_CONFIG 2u
bool virtio_is_broken(const struct virtio_device *d);
void virtio_interrupt(struct virtio_device *d, const uint16_t *vector, unsigned isr);

#endif
