/* SPDX-License-Identifier: BSD-2-Clause */
/* The checksum of the tables that firmware and systems look for (ACPI 5.2.3, SMBIOS 5.2.1). */
#ifndef BYRE_VMM_CHECKSUM_H
#define BYRE_VMM_CHECKSUM_H

#include <stddef.h>
#include <stdint.h>

/* What the bytes lack so that their sum is 0. */
static inline uint8_t checksum(const uint8_t *p, size_t bytes)
{
	uint8_t sum = 0;

	while (bytes--)
		sum = (uint8_t)(sum + *p++);
	return (uint8_t)-sum;
}

#endif
