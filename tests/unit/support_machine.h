/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A machine without KVM for tests of its devices: memory, buses, PCI, and a disk in memory
 * that fails when told to (backends/fault.h). Tests are the guest's driver. Interrupts go
 * nowhere but to the pin's field of the function.
 */
#ifndef BYRE_TESTS_UNIT_SUPPORT_MACHINE_H
#define BYRE_TESTS_UNIT_SUPPORT_MACHINE_H

#include "vmm/disk.h"
#include "vmm/pci.h"

#define BOARD_RAM (16ull << 20)

struct board {
	struct vm vm;
	struct pci *pci;
	struct blk *blk;
	struct disk *disk;
};

/* A disk of this size and these options (their blk is set here). */
void board_new(struct board *b, uint64_t disk_bytes, const struct disk_options *o, unsigned flags);
void board_free(struct board *b);
/* What the machine does to all of its devices. */
void board_reset(struct board *b);
void board_start(struct board *b);
void board_stop(struct board *b);
/* The n-th write (or whatever ops says) from now on fails once with EIO. */
void board_fail(struct board *b, unsigned ops, unsigned nth);
/* Waits until a disk has made the machine stop, and stops it. */
void board_wait_stop(struct board *b);

void *board_at(struct board *b, uint64_t address);
uint32_t board_config_read(struct board *b, unsigned slot, unsigned reg);
void board_config_write(struct board *b, unsigned slot, unsigned reg, uint32_t value);

/* The state of all devices; the caller's to free. While the machine stands. */
struct state *board_save(struct board *b);
int board_load(struct board *b, const uint8_t *data, size_t bytes, struct err *err);
/* The same as an older version would have saved it, whose sections of this name lack the last
 * `fewer` bytes: freed, and loaded after a reset. */
int board_load_older(struct board *b, struct state *s, const char *name, unsigned version,
	size_t fewer, struct err *err);
/* Saved, reset, loaded and saved again it is the same; and whatever bit is changed in what is
 * loaded, the process is well. */
void board_check_state(struct board *b);

#endif
