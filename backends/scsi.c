/* SPDX-License-Identifier: BSD-2-Clause */
/* SPC-4 data. See scsi.h. */
#include "backends/scsi.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/endian.h"
#include "base/math.h"
#include "block/storage.h"

/* ---- VPD page 0x83 --------------------------------------------------------------- */

#define PAGE_DEVICE_ID    0x83
#define PAGE_HEADER       4
#define DESIGNATOR_HEADER 4

enum designator_type {
	DESIGNATOR_T10 = 1,
	DESIGNATOR_EUI = 2,
	DESIGNATOR_NAA = 3,
	DESIGNATOR_PORT_GROUP = 5,
	DESIGNATOR_NAME = 8,
};
enum { ABOUT_UNIT = 0, ABOUT_PORT = 1 };

struct designator {
	unsigned type, about;
	const uint8_t *data;
	size_t bytes;
};

/* The one at *at, which moves on. False at the end. */
static bool next_designator(
	const uint8_t *page, size_t bytes, size_t *at, struct designator *out)
{
	const uint8_t *d;

	if (bytes < PAGE_HEADER || page[1] != PAGE_DEVICE_ID)
		return false;
	bytes = MIN(bytes, (size_t)be16_load(page + 2) + PAGE_HEADER);
	if (*at < PAGE_HEADER)
		*at = PAGE_HEADER;
	if (bytes - *at < DESIGNATOR_HEADER || *at > bytes)
		return false;
	d = page + *at;
	if (bytes - *at - DESIGNATOR_HEADER < d[3])
		return false;
	*out = (struct designator){.type = d[1] & 0xf,
		.about = d[1] >> 4 & 3,
		.data = d + DESIGNATOR_HEADER,
		.bytes = d[3]};
	*at += DESIGNATOR_HEADER + out->bytes;
	return true;
}

/* The higher the more lasting; 0: no name of the unit. */
static unsigned rank(const struct designator *d)
{
	if (d->about != ABOUT_UNIT || !d->bytes)
		return 0;
	switch (d->type) {
	case DESIGNATOR_NAA:
		return 5 + (d->bytes == 16); /* a longer one was not cut */
	case DESIGNATOR_EUI:
		return 4;
	case DESIGNATOR_NAME:
		return 3;
	case DESIGNATOR_T10:
		return 2;
	default:
		return 0;
	}
}

static char *hex_name(const char *prefix, const struct designator *d)
{
	size_t n = strlen(prefix);
	char *name = malloc(n + 2 * d->bytes + 1);

	if (!name)
		return NULL;
	memcpy(name, prefix, n);
	name[n] = '\0';
	for (size_t i = 0; i < d->bytes; i++)
		snprintf(name + n + 2 * i, 3, "%02x", d->data[i]);
	return name;
}

/* Padding goes, and what is not printable. */
static char *text_name(const char *prefix, const struct designator *d)
{
	size_t n = strlen(prefix), bytes = d->bytes;
	char *name = malloc(n + bytes + 1);

	if (!name)
		return NULL;
	memcpy(name, prefix, n);
	while (bytes && (d->data[bytes - 1] == ' ' || !d->data[bytes - 1]))
		bytes--;
	for (size_t i = 0; i < bytes; i++)
		name[n + i] = d->data[i] > ' ' && d->data[i] < 0x7f ? d->data[i] : '_';
	name[n + bytes] = '\0';
	return name;
}

int scsi_identity(const uint8_t *page, size_t bytes, char **out)
{
	struct designator d, best = {0};
	size_t at = 0;

	while (next_designator(page, bytes, &at, &d))
		if (rank(&d) > rank(&best))
			best = d;
	if (!rank(&best))
		return -ENOTSUP;
	if (best.type == DESIGNATOR_NAA || best.type == DESIGNATOR_EUI)
		*out = hex_name(best.type == DESIGNATOR_NAA ? "naa." : "eui.", &best);
	else
		*out = text_name(best.type == DESIGNATOR_T10 ? "t10." : "name.", &best);
	return *out ? 0 : -ENOMEM;
}

int scsi_port_group(const uint8_t *page, size_t bytes)
{
	struct designator d;
	size_t at = 0;

	while (next_designator(page, bytes, &at, &d))
		if (d.about == ABOUT_PORT && d.type == DESIGNATOR_PORT_GROUP &&
			d.bytes >= 4)
			return be16_load(d.data + 2);
	return -1;
}

/* ---- target port groups ---------------------------------------------------------- */

#define OPCODE_MAINTENANCE_IN     0xa3
#define ACTION_REPORT_PORT_GROUPS 0x0a

void scsi_report_port_groups(struct scsi_command *c, void *in, uint32_t bytes)
{
	*c = (struct scsi_command){
		.cdb = {OPCODE_MAINTENANCE_IN, ACTION_REPORT_PORT_GROUPS},
		.cdb_bytes = 12,
		.in = in,
		.in_bytes = bytes};
	be32_store(c->cdb + 6, bytes);
}

/* Asymmetric access states (SPC-4, table 298), and the preferred bit. */
static unsigned priority_of(uint8_t state)
{
	switch (state & 0xf) {
	case 0x0:
		return state & 0x80 ? BLK_PATH_PREFERRED : BLK_PATH_OPTIMIZED;
	case 0x1:
		return BLK_PATH_NON_OPTIMIZED;
	case 0x2:
		return BLK_PATH_STANDBY;
	case 0x4: /* depends on the block */
		return BLK_PATH_NON_OPTIMIZED + 1;
	default: /* unavailable, offline, transitioning */
		return BLK_PATH_UNAVAILABLE;
	}
}

unsigned scsi_group_priority(const uint8_t *list, size_t bytes, int group)
{
	size_t at = 4;

	if (bytes < 4)
		return BLK_PATH_OPTIMIZED;
	bytes = MIN(bytes, (size_t)be32_load(list) + 4);
	while (at <= bytes && bytes - at >= 8) {
		const uint8_t *d = list + at;

		if (be16_load(d + 2) == group)
			return priority_of(d[0]);
		at += 8 + 4 * (size_t)d[7];
	}
	return BLK_PATH_OPTIMIZED;
}
