/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A driver whose chains the test puts together by hand, descriptor by descriptor, in split
 * rings: on the machine and the set-up of support_virtio.h.
 */
#ifndef BYRE_TESTS_UNIT_SUPPORT_DRIVER_H
#define BYRE_TESTS_UNIT_SUPPORT_DRIVER_H

#include "tests/unit/support_virtio.h"

#define DRIVER_MEMORY	((uint64_t)GUEST_MEMORY)
#define DRIVER_BUFFERS	0x400000ull /* guest-physical: free for the test from here on */
#define DRIVER_SIZE	64u	    /* of a queue */

#define DRIVER_NEXT  1u
#define DRIVER_WRITE 2u

struct driver {
	struct guest guest;
	uint16_t offered[GUEST_QUEUES];
};

/* An empty machine; then the test adds its device. */
void driver_make(struct driver *d);
/* Resets and starts it; the device is in slot 1 and of this ID. */
void driver_start(struct driver *d, uint16_t id);
void driver_stop(struct driver *d);
void driver_go_on(struct driver *d);
void driver_free(struct driver *d);

uint64_t driver_get(struct driver *d, unsigned offset, unsigned bytes);
void driver_set(struct driver *d, unsigned offset, unsigned bytes, uint64_t value);
uint64_t driver_config(struct driver *d, unsigned offset, unsigned bytes);
uint64_t driver_features(struct driver *d);
/* From reset to DRIVER_OK with queues 0 to queues - 1. */
void driver_set_up(struct driver *d, uint64_t features, unsigned queues);

void *driver_at(struct driver *d, uint64_t address);
void driver_put(struct driver *d, unsigned queue, unsigned i, uint64_t address, uint32_t bytes,
	unsigned flags, unsigned next);
void driver_offer(struct driver *d, unsigned queue, uint16_t head);
/* How many were used so far, and of the n-th its head and bytes. */
uint16_t driver_used(struct driver *d, unsigned queue);
uint32_t driver_used_head(struct driver *d, unsigned queue, unsigned n);
uint32_t driver_used_bytes(struct driver *d, unsigned queue, unsigned n);
/* Until n were or more, or it is broken. Fails the test after seconds. */
void driver_wait(struct driver *d, unsigned queue, uint16_t n);
/* One descriptor is the chain, and it is waited for: the bytes that were written. */
uint32_t driver_do(struct driver *d, unsigned queue, uint64_t address, uint32_t bytes,
	unsigned flags);
bool driver_broken(struct driver *d);
void driver_wait_broken(struct driver *d);

/* The machine has to be stopped. Saves, resets, loads and saves again: the same bytes. */
void driver_check_state(struct driver *d);

#endif
