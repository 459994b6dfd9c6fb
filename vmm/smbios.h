/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The SMBIOS tables of this board (DMTF DSP0134, 2.8): system, chassis, processors, memory. As
 * with ACPI's, firmware puts them where it wants, or they lie at SMBIOS_AT.
 */
#ifndef BYRE_VMM_SMBIOS_H
#define BYRE_VMM_SMBIOS_H

#include "vmm/vm.h"

#define SMBIOS_AT	    0xf0000ull
#define SMBIOS_ANCHOR_BYTES 31u

struct fwcfg;

struct smbios_options {
	const char *uuid; /* 36 characters; NULL: none is set */
};

struct smbios {
	uint8_t anchor[SMBIOS_ANCHOR_BYTES]; /* without address and checksums */
	uint8_t *tables;
	size_t bytes, room;
	unsigned structures;
	size_t largest;
	bool full;
};

/* -EINVAL where the UUID is none. */
int smbios_build(const struct vm *vm, const struct smbios_options *o, struct smbios *s,
	struct err *err);
void smbios_free(struct smbios *s);
int smbios_install(struct vm *vm, const struct smbios *s, struct err *err);
/* The files etc/smbios/smbios-anchor and -tables. 0 or -errno. */
int smbios_offer(struct fwcfg *f, const struct smbios *s);

#endif
