/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A guest's side of virtio, without KVM: a machine of memory and PCI, and a driver that finds
 * one device there, sets it up and offers it chains in either layout of rings. It notifies
 * only when the device wants that, and waits for interrupts: who misses one waits in vain.
 */
#ifndef BYRE_TESTS_SUPPORT_VIRTIO_H
#define BYRE_TESTS_SUPPORT_VIRTIO_H

#include "vmm/virtio.h"

#define GUEST_QUEUES	 8u
#define GUEST_SIZE_MAX	 256u
#define GUEST_MEMORY	 (16u << 20)
#define GUEST_RINGS	 0x100000ull /* queue i's begin at +0x10000 * i */
#define GUEST_RING_BYTES 0x10000ull
#define GUEST_DESC	 0ull
#define GUEST_AVAIL	 0x2000ull
#define GUEST_USED	 0x3000ull
#define GUEST_INDIRECT	 0x4000ull /* a table of 16 for each id */
#define GUEST_TABLE	 16u
#define GUEST_DATA	 0x200000ull /* from here on memory is the test's */

struct guest_buffer {
	uint64_t address;
	uint32_t bytes;
	bool write; /* by the device */
};

struct guest_queue {
	unsigned size, free;
	uint16_t next_avail, last_used;
	bool avail_lap, used_lap;
	uint16_t descs[GUEST_SIZE_MAX]; /* of the chain with this id; 0: none is under way */
	uint16_t link[GUEST_SIZE_MAX];	/* split: the next descriptor of it */
	unsigned kicks;			/* notifications that were wanted */
};

struct guest {
	struct vm vm;
	struct pci *pci;
	unsigned slot;
	uint64_t bar;
	bool packed, event_idx, indirect;
	struct guest_queue queue[GUEST_QUEUES];
};

/* The machine: devices are added between the two. */
void guest_make(struct guest *g);
void guest_start(struct guest *g); /* resets and starts them; slot 1 is the driver's */
void guest_stop(struct guest *g);
void guest_go_on(struct guest *g);
void guest_free(struct guest *g);

/* What the devices save, malloc'd; and back, after a reset: -errno where it is refused. While
 * the machine is stopped. */
uint8_t *guest_save(struct guest *g, size_t *bytes);
int guest_load(struct guest *g, const uint8_t *data, size_t bytes);

void *guest_at(struct guest *g, uint64_t address);
uint32_t guest_config_read(struct guest *g, unsigned slot, unsigned reg);
void guest_config_write(struct guest *g, unsigned slot, unsigned reg, uint32_t value);
uint64_t guest_get(struct guest *g, unsigned offset, unsigned bytes);
void guest_set(struct guest *g, unsigned offset, unsigned bytes, uint64_t value);
bool guest_is_broken(struct guest *g);

/* Reset, features, that many queues of this size, DRIVER_OK. */
void guest_set_up(struct guest *g, uint64_t features, unsigned queues, unsigned size);
/* One queue's rings, empty, and enabled. */
void guest_set_up_queue(struct guest *g, unsigned q, unsigned size);

/* Offers a chain; its id. One has to be free. */
unsigned guest_offer(struct guest *g, unsigned q, const struct guest_buffer *b, unsigned n);
/* The next one that is done: its id, or -1 where there is none now. */
int guest_done(struct guest *g, unsigned q, uint32_t *written);
/* Waits for it; -1 where the device breaks or nothing comes for ten seconds. */
int guest_wait(struct guest *g, unsigned q, uint32_t *written);

/* A descriptor as it is in memory: split id is next; packed flags get those of the lap, but
 * where the driver's position is: that one is offered by guest_offer_raw. */
void guest_put(struct guest *g, unsigned q, unsigned i, uint64_t address, uint32_t bytes,
	uint16_t flags, uint16_t id);
/* Offers what was put at `head` (packed: at the driver's position). Notifies always. */
void guest_offer_raw(struct guest *g, unsigned q, uint16_t head);

#endif
