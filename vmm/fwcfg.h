/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The firmware configuration device at 0x510 (QEMU's docs/specs/fw_cfg.rst), with DMA: items by
 * number and files by name, which firmware reads. Items are made before the machine runs
 * and do not change.
 */
#ifndef BYRE_VMM_FWCFG_H
#define BYRE_VMM_FWCFG_H

#include "vmm/vm.h"

#define FWCFG_NAME_MAX 56u /* of a file, with the 0 */

struct fwcfg;

/* Numbers of items that firmware asks for without a name. */
enum fwcfg_key {
	FWCFG_SIGNATURE = 0x00,
	FWCFG_ID = 0x01,
	FWCFG_RAM_SIZE = 0x03,
	FWCFG_NO_GRAPHICS = 0x04,
	FWCFG_CPUS = 0x05,
	FWCFG_NUMA = 0x0d,
	FWCFG_BOOT_MENU = 0x0e,
	FWCFG_MAX_CPUS = 0x0f,
	FWCFG_DIRECTORY = 0x19,
	FWCFG_FILES = 0x20,
};

int fwcfg_new(struct vm *vm, struct fwcfg **out, struct err *err);
/* The data is copied. -ENOSPC where there are too many, -ENOMEM. */
int fwcfg_add(struct fwcfg *f, enum fwcfg_key key, const void *data, size_t bytes);
int fwcfg_add_u16(struct fwcfg *f, enum fwcfg_key key, uint16_t value);
int fwcfg_add_u64(struct fwcfg *f, enum fwcfg_key key, uint64_t value);
int fwcfg_add_file(struct fwcfg *f, const char *name, const void *data, size_t bytes);

#endif
