/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A virtio memory balloon (virtio 1.2, 5.5): the guest gives memory back to the host, as much as
 * it is asked for, and by itself what it has free.
 */
#ifndef BYRE_VMM_VIRTIO_BALLOON_H
#define BYRE_VMM_VIRTIO_BALLOON_H

#include "vmm/virtio.h"

struct balloon_options {
	uint64_t target; /* bytes that the guest is to have; 0: all */
	bool no_deflate; /* the guest may not take memory back when it has none left */
	bool no_reporting; /* it does not tell of free pages */
	uint64_t stats_ns; /* between two questions for statistics; 0: they are not asked for */
};

/* In the order of their tags (5.5.6.4). */
enum balloon_stat {
	BALLOON_SWAP_IN,
	BALLOON_SWAP_OUT,
	BALLOON_MAJOR_FAULTS,
	BALLOON_MINOR_FAULTS,
	BALLOON_FREE,
	BALLOON_TOTAL,
	BALLOON_AVAILABLE,
	BALLOON_CACHES,
	BALLOON_HUGE_ALLOCATED,
	BALLOON_HUGE_FAILED,
	BALLOON_STATS,
};

struct balloon_stats {
	uint64_t when_ns; /* clock_ns() when they came; 0: never */
	bool has[BALLOON_STATS];
	uint64_t value[BALLOON_STATS];
};

struct balloon;

/* out, if not NULL, lives as long as the machine. */
int balloon_new(struct vm *vm, struct pci *pci, const struct balloon_options *o,
	struct balloon **out, struct err *err);
/* How much memory the guest is to have; more than all of it is all. When it has, and whether, is
 * the guest's affair. From any thread. */
void balloon_set_target(struct balloon *b, uint64_t bytes);
/* How much it has by what it says. */
uint64_t balloon_actual(struct balloon *b);
void balloon_get_stats(struct balloon *b, struct balloon_stats *out);

#endif
