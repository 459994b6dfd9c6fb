/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Starting a Linux kernel without firmware: a bzImage by the 32-bit boot protocol, or an ELF
 * kernel by PVH. Kernel, initramfs, command line, the map of memory and ACPI's tables are
 * put into the guest's memory, and the boot processor's entry into the machine.
 *
 * The files are whoever's: what they say of themselves is checked against their size and
 * the guest's memory.
 */
#ifndef BYRE_VMM_BOOT_H
#define BYRE_VMM_BOOT_H

#include "vmm/vm.h"

struct boot_options {
	const char *kernel, *initrd, *cmdline; /* paths; NULL for the last two: none */
	uint64_t rsdp;			       /* where ACPI begins; 0: there is none */
};

/* -errno with err set. Blocks. */
int boot_linux(struct vm *vm, const struct boot_options *o, struct err *err);

#endif
