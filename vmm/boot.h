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
};

struct boot;

/* Opens the files; they are kept, since each reset loads them again, and nothing may be
 * opened then any more. NULL with err set. Blocks. */
struct boot *boot_open(const struct boot_options *o, struct err *err);
void boot_close(struct boot *b);

/* Puts all of it into the guest's memory; rsdp is where ACPI begins. -errno with err set. */
int boot_load(struct vm *vm, struct boot *b, uint64_t rsdp, struct err *err);

#endif
