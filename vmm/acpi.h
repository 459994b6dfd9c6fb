/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * ACPI's tables of this board (ACPI 6.4): RSDP, RSDT, XSDT, FADT, FACS, MADT and a DSDT with
 * the PCI bus, its interrupts and hot-plug, the serial port and the way to turn it off.
 *
 * They are built as one block that does not know yet where it will lie; either it is put into
 * the guest's memory here, or firmware does that by a script (the table-loader).
 */
#ifndef BYRE_VMM_ACPI_H
#define BYRE_VMM_ACPI_H

#include "vmm/vm.h"

struct fwcfg;

#define ACPI_POINTERS_MAX 16u
#define ACPI_SUMS_MAX	  8u
#define ACPI_RSDP_BYTES	  36u

struct acpi {
	uint8_t *tables;
	size_t bytes, room;
	bool full;
	/* In the tables: fields that hold the offset of another, and checksums. */
	struct acpi_pointer {
		uint32_t at, bytes;
	} pointer[ACPI_POINTERS_MAX];
	unsigned pointers;
	struct acpi_sum {
		uint32_t at, start, bytes;
	} sum[ACPI_SUMS_MAX];
	unsigned sums;
	uint8_t rsdp[ACPI_RSDP_BYTES]; /* points to RSDT and XSDT, by offset */
};

int acpi_build(const struct vm *vm, struct acpi *a, struct err *err);
void acpi_free(struct acpi *a);

/* Into the guest's memory, for kernels that start without firmware: *rsdp is where it begins. */
int acpi_install(struct vm *vm, const struct acpi *a, uint64_t *rsdp, struct err *err);
/* For firmware: the files etc/acpi/tables, etc/acpi/rsdp and etc/table-loader. 0 or -errno. */
int acpi_offer(struct fwcfg *f, const struct acpi *a);

#endif
