/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * An address space of devices: I/O ports, or memory that is not RAM. Ranges may come and go
 * while the guest runs; an access holds the bus shared for as long as it lasts.
 *
 * Accesses are of 1, 2, 4 or 8 bytes, little-endian, and lie inside one range. What nobody
 * claims reads as ones and takes writes without effect, as on a real board.
 */
#ifndef BYRE_VMM_BUS_H
#define BYRE_VMM_BUS_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct bus_ops {
	/* offset is from the start of the range; bytes is 1, 2, 4 or 8. From any vCPU. */
	uint64_t (*read)(void *dev, uint64_t offset, unsigned bytes);
	void (*write)(void *dev, uint64_t offset, unsigned bytes, uint64_t value);
};

struct bus_range {
	uint64_t base, bytes;
	const struct bus_ops *ops;
	void *dev;
};

struct bus {
	pthread_rwlock_t lock;
	struct bus_range *range; /* ascending, apart */
	unsigned n, room;
};

void bus_init(struct bus *b);
void bus_free(struct bus *b);
/* -EEXIST where another has part of it, -ENOMEM. Not from an access. */
int bus_add(struct bus *b, uint64_t base, uint64_t bytes, const struct bus_ops *ops, void *dev);
/* What begins there; nothing where nothing does. */
void bus_remove(struct bus *b, uint64_t base);

uint64_t bus_read(struct bus *b, uint64_t address, unsigned bytes);
void bus_write(struct bus *b, uint64_t address, unsigned bytes, uint64_t value);

#endif
