/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the kernel tells about a block device in sysfs: what it is, what it can, which disk
 * it is whichever path leads there.
 */
#ifndef BYRE_BACKENDS_DEVFACTS_H
#define BYRE_BACKENDS_DEVFACTS_H

#include <stdbool.h>
#include <stdint.h>

struct json;

struct dev_facts {
	const char *kind; /* "scsi", "nvme", "multipath", "lvm", "loop", … */
	unsigned partition; /* its number; 0: a whole disk */
	char vendor[32], model[64];
	char wwid[160];	 /* the whole disk's name in the world; "" where it has none */
	char access[32]; /* SCSI: the path's state, in the words of SPC-4; "" unknown */
	bool preferred;	 /* SCSI: the target would rather have this path used */
	unsigned paths;	 /* multipath: how many lead there */
	bool rotational, read_only;
	uint32_t logical_block, physical_block, optimal_io; /* bytes; 0 = unknown */
	uint64_t discard_granularity, discard_max, zeroes_max; /* bytes; 0 = it cannot */
};

/* From the device's folder, /sys/dev/block/MAJOR:MINOR. What is not there stays 0. */
void dev_facts_read(const char *dir, struct dev_facts *out);
/* Puts them into an object. */
void dev_facts_describe(const struct dev_facts *f, struct json *o);
/* The disk's or partition's identity as storage.h has it, malloc'd; -ENOTSUP. */
int dev_facts_identity(const struct dev_facts *f, char **out);
/* What the target says of this path as enum blk_path_priority. */
unsigned dev_facts_priority(const struct dev_facts *f);

#endif
