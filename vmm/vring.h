/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The rings of a virtqueue in guest memory, in both layouts that virtio 1.2 has: split (2.7)
 * and packed (2.8). virtio.c chooses when the guest enables the queue, and sees chains only.
 *
 * Both sides write and read at once. What is published (an index, a descriptor's flags) is
 * stored last; and as each side publishes first and asks then whether the other wants to
 * hear of it, both are sequentially consistent: one of the two, it or we, sees what the
 * other wrote.
 */
#ifndef BYRE_VMM_VRING_H
#define BYRE_VMM_VRING_H

#include "vmm/virtio.h"

struct vring_ops {
	/* Whether its three parts lie in memory, aligned. What follows is called after that. */
	bool (*fits)(const struct virtio_queue *q);
	/* Takes the next chain that the guest offers: 1; 0 where there is none, -EINVAL where
	 * it makes no sense. On the queue's loop, as are listen and look_away. */
	int (*next)(struct virtio_queue *q, struct virtio_chain *c);
	/* The guest is to notify from now on; true where it has offered something already. */
	bool (*listen)(struct virtio_queue *q);
	/* Notifications are of no use for now. */
	void (*look_away)(struct virtio_queue *q);
	/* Gives n > 0 chains back, which the guest sees at once. Under the queue's lock, as is
	 * wants_interrupt. */
	void (*give_back)(struct virtio_queue *q, struct virtio_chain *const *chains,
		const uint32_t *written, unsigned n);
	/* Whether the guest wants to be told of the last n > 0 descriptors that were given back
	 * (of a split ring, chains), about which it was not asked before. */
	bool (*wants_interrupt)(const struct virtio_queue *q, unsigned n);
};

extern const struct vring_ops vring_split, vring_packed;

/* A descriptor in either layout (2.7.5, 2.8.13); of what follows the flags the two have
 * their own ideas. Each is copied before it is looked at. */
struct vring_segment {
	uint64_t address;
	uint32_t bytes;
	bool write; /* by the device */
};

#define VRING_DESC_BYTES    16u
#define VRING_DESC_NEXT	    1u
#define VRING_DESC_WRITE    2u
#define VRING_DESC_INDIRECT 4u

/* Appends it to the chain. -EINVAL: not in memory, empty, out of order, one too many. */
int vring_add(struct virtio_chain *c, const struct vring_segment *s);
/* The table of an indirect descriptor and how many it has; NULL where it makes none. */
const uint8_t *vring_table(const struct virtio_queue *q, const struct vring_segment *s,
	unsigned *entries);
uint8_t *vring_at(const struct virtio_queue *q, uint64_t address);

static inline uint16_t vring_load16(const void *p)
{
	return __atomic_load_n((const uint16_t *)p, __ATOMIC_SEQ_CST);
}

static inline void vring_store16(void *p, uint16_t value)
{
	__atomic_store_n((uint16_t *)p, value, __ATOMIC_SEQ_CST);
}

#endif
