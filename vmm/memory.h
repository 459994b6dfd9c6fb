/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The guest's memory: up to two regions of RAM, below 3 GiB and from 4 GiB on, around the
 * hole where devices lie, and what firmware is read from. A guest-physical address is worth
 * nothing until it was looked up here.
 */
#ifndef BYRE_VMM_MEMORY_H
#define BYRE_VMM_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

#define MEMORY_HOLE_START 0xc0000000ull /* devices, local APICs, firmware */
#define MEMORY_HOLE_END	  0x100000000ull
#define MEMORY_MAX	  (1ull << 40)
#define MEMORY_MIN	  (16ull << 20)

struct memory_region {
	uint64_t base, bytes; /* guest-physical */
	uint8_t *host;
};

struct memory {
	struct memory_region region[2];
	unsigned n;
	uint32_t page_bytes; /* what can be given back at once */
};

struct memory_options {
	uint64_t bytes;	    /* multiple of 2 MiB */
	bool mergeable;	    /* KSM may share equal pages */
	bool huge;	    /* pages of 2 MiB from hugetlbfs; none there: an error */
	bool prealloc;	    /* all of it is there before the guest starts */
	uint64_t nodes;	    /* of the host's NUMA nodes 0 to 63, those that it has to come from;
			     * 0: wherever the kernel takes it */
};

/* Maps it. Nothing stays mapped on failure. */
int memory_new(struct memory *m, const struct memory_options *o, struct err *err);
void memory_free(struct memory *m);

/* The range as the host sees it; NULL unless all of it is RAM. */
void *memory_at(const struct memory *m, uint64_t address, uint64_t bytes);
/* The way back, for what memory_at gave. */
uint64_t memory_address(const struct memory *m, const void *host);
/* Gives the whole pages in a range, which is as memory_at() has it, back to the host. They read as
 * zeros, and are there again when somebody touches them. */
void memory_discard(const struct memory *m, void *host, uint64_t bytes);
/* Bytes of RAM. */
uint64_t memory_bytes(const struct memory *m);

#endif
