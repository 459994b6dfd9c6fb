/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * ACPI's tables of this board (ACPI 6.4): RSDP, XSDT, FADT, MADT and a DSDT with the PCI bus,
 * its interrupts, the serial port and the way to turn it off.
 */
#ifndef BYRE_VMM_ACPI_H
#define BYRE_VMM_ACPI_H

#include "vmm/vm.h"

#define ACPI_START 0xe0000ull
#define ACPI_END   0x100000ull

/* Into the guest's memory from ACPI_START on, for kernels that start without firmware.
 * *rsdp is where it begins. */
int acpi_install(struct vm *vm, uint64_t *rsdp, struct err *err);

#endif
