/* SPDX-License-Identifier: BSD-2-Clause */
/* What both layouts of rings share. See vring.h. */
#include "vmm/vring.h"

#include <errno.h>

uint8_t *vring_at(const struct virtio_queue *q, uint64_t address)
{
	return memory_at(&q->d->vm->memory, address, 1); /* fits() was asked */
}

int vring_add(struct virtio_chain *c, const struct vring_segment *s)
{
	unsigned n = c->n_out + c->n_in;
	void *host;

	if (n == VIRTIO_CHAIN_MAX || (!s->write && c->n_in))
		return -EINVAL;
	host = memory_at(&c->q->d->vm->memory, s->address, s->bytes);
	if (!host || !s->bytes)
		return -EINVAL;
	c->iov[n] = (struct iovec){host, s->bytes};
	if (s->write) {
		c->n_in++;
		c->in_bytes += s->bytes;
	} else {
		c->n_out++;
		c->out_bytes += s->bytes;
	}
	return 0;
}

const uint8_t *vring_table(
	const struct virtio_queue *q, const struct vring_segment *s, unsigned *entries)
{
	*entries = s->bytes / VRING_DESC_BYTES;
	if (!s->bytes || s->bytes % VRING_DESC_BYTES || *entries > VIRTIO_CHAIN_MAX)
		return NULL;
	return memory_at(&q->d->vm->memory, s->address, s->bytes);
}
