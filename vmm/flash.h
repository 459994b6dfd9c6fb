/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Flash memory that ends at 4 GiB or below: firmware's code, read-only, or its variables, which
 * the guest changes by the Intel command set (CFI) and which are kept in a disk image.
 */
#ifndef BYRE_VMM_FLASH_H
#define BYRE_VMM_FLASH_H

#include "block/blk.h"
#include "vmm/vm.h"

#define FLASH_BYTES_MAX (16ull << 20)
#define FLASH_BLOCK	4096u /* what one erase erases */

/* Read-only memory from `base` on, of which the data is copied; slot as for vm_set_slot. */
int flash_new_rom(struct vm *vm, unsigned slot, uint64_t base, const void *data, size_t bytes,
	struct err *err);
/* What is in `blk` (the caller's, open for longer than the machine lives), all of it. */
int flash_new(struct vm *vm, unsigned slot, uint64_t base, struct blk *blk, struct err *err);

#endif
