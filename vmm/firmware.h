/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Firmware: SeaBIOS or OVMF, as distributions package them for QEMU's PC, below 4 GiB; what it
 * asks the board about (fw_cfg); and the port to which it writes its log.
 */
#ifndef BYRE_VMM_FIRMWARE_H
#define BYRE_VMM_FIRMWARE_H

#include "vmm/acpi.h"
#include "vmm/smbios.h"

struct firmware_options {
	const char *code; /* a file: a ROM of up to 16 MiB that ends at 4 GiB */
	struct blk *vars; /* variables below it; NULL: none. The caller's */
	int log_fd;	  /* where its log goes; -1: nowhere */
};

struct firmware;

/* Everything but the disks must be there; the files are read. */
int firmware_new(struct vm *vm, const struct firmware_options *o, const struct acpi *acpi,
	const struct smbios *smbios, struct firmware **out, struct err *err);
/* At each reset: what a BIOS has in low memory is as it was. */
void firmware_load(struct firmware *f);

/* Where packages have it: "bios" (SeaBIOS), "uefi" (OVMF, with a template for its variables), or
 * a file of that name. NULL with err set where there is none. */
struct firmware_files {
	const char *code, *vars_template;
};
int firmware_find(const char *name, struct firmware_files *out, struct err *err);

#endif
