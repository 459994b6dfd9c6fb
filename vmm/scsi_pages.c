/* SPDX-License-Identifier: BSD-2-Clause */
/* What a SCSI disk says about itself: INQUIRY with its pages, and mode pages. See scsi_disk.h. */
#include <errno.h>
#include <string.h>

#include "base/endian.h"
#include "base/iov.h"
#include "base/math.h"
#include "vmm/scsi_command.h"

/* ---- INQUIRY (SPC-4, 6.6) and vital product data (7.8, SBC-3, 6.5) ------------------ */

#define VENDOR  "BYRE    "
#define PRODUCT "Disk            "
#define EVPD    1

enum page {
	PAGE_SUPPORTED = 0x00,
	PAGE_SERIAL = 0x80,
	PAGE_IDENTIFICATION = 0x83,
	PAGE_LIMITS = 0xb0,
	PAGE_CHARACTERISTICS = 0xb1,
	PAGE_PROVISIONING = 0xb2,
};
#define PAGE_MAX 128u

static unsigned standard(uint8_t *p)
{
	p[2] = 6;        /* SPC-4 */
	p[3] = 0x10 | 2; /* LUNs as in SAM; this format */
	p[4] = 74 - 5;
	p[7] = 2; /* many commands at once */
	memcpy(p + 8, VENDOR PRODUCT "1   ", 28);
	be16_store(p + 58, 0x00a0); /* SAM-5 */
	be16_store(p + 60, 0x0460); /* SPC-4 */
	be16_store(p + 62, 0x04c0); /* SBC-3 */
	return 74;
}

/* Ours alone: a number for a disk that has a serial number, the same wherever it is started
 * (FNV-1a). What has none gets no name that could be taken for one. */
static uint64_t local_name(const char *serial)
{
	uint64_t hash = 0xcbf29ce484222325ull;

	for (; *serial; serial++)
		hash = (hash ^ (uint8_t)*serial) * 0x100000001b3ull;
	return 3ull << 60 | hash >> 4; /* NAA 3: locally assigned */
}

static unsigned identification(const struct disk *d, uint8_t *p)
{
	const char *name = d->serial[0] ? d->serial : d->id;
	unsigned bytes = (unsigned)strlen(name), at = 0;

	p[at] = 2;     /* ASCII */
	p[at + 1] = 1; /* of the unit, with the vendor's name first */
	p[at + 3] = (uint8_t)(8 + bytes);
	memcpy(p + at + 4, VENDOR, 8);
	memcpy(p + at + 12, name, bytes);
	at += 12 + bytes;
	if (d->serial[0]) {
		p[at] = 1; /* binary */
		p[at + 1] = 3;
		p[at + 3] = 8;
		be64_store(p + at + 4, local_name(d->serial));
		at += 12;
	}
	return at;
}

static unsigned limits(const struct disk *d, uint8_t *p)
{
	p[0] = 1; /* WRITE SAME of no blocks is none */
	be32_store(p + 4, SCSI_BLOCKS_MAX);
	if (d->discard) {
		be32_store(p + 16, SCSI_BLOCKS_MAX); /* in all of one UNMAP */
		be32_store(p + 20, SCSI_RANGES_MAX);
		be32_store(p + 24, 4096 / SCSI_BLOCK);
	}
	be64_store(p + 32, SCSI_BLOCKS_MAX);
	return 60;
}

static unsigned provisioning(const struct disk *d, uint8_t *p)
{
	if (d->discard) {
		p[1] = 0xe0; /* UNMAP, WRITE SAME (16) and (10) with it */
		p[1] |= d->discard_zeroes ? 1 << 2 : 0;
		p[2] = 2; /* thin */
	}
	return 4;
}

static unsigned supported(const struct disk *d, uint8_t *p)
{
	unsigned n = 0;

	p[n++] = PAGE_SUPPORTED;
	if (d->serial[0])
		p[n++] = PAGE_SERIAL;
	p[n++] = PAGE_IDENTIFICATION;
	p[n++] = PAGE_LIMITS;
	p[n++] = PAGE_CHARACTERISTICS;
	p[n++] = PAGE_PROVISIONING;
	return n;
}

/* What follows a page's header; 0: there is no such page. */
static unsigned fill_page(const struct disk *d, enum page page, uint8_t *p)
{
	switch (page) {
	case PAGE_SUPPORTED:
		return supported(d, p);
	case PAGE_SERIAL:
		memcpy(p, d->serial, strlen(d->serial));
		return (unsigned)strlen(d->serial);
	case PAGE_IDENTIFICATION:
		return identification(d, p);
	case PAGE_LIMITS:
		return limits(d, p);
	case PAGE_CHARACTERISTICS:
		be16_store(p, 1); /* does not rotate */
		return 60;
	case PAGE_PROVISIONING:
		return provisioning(d, p);
	default:
		return 0;
	}
}

int scsi_inquiry(struct scsi_disk *s, struct scsi_request *r)
{
	uint8_t page[PAGE_MAX] = {0};
	unsigned allowed = be16_load(r->cdb + 3), bytes;

	if (!(r->cdb[1] & EVPD)) {
		if (r->cdb[2])
			return scsi_check(s, r, SENSE_BAD_CDB);
		return scsi_reply(r, page, standard(page), allowed);
	}
	bytes = fill_page(s->disk, r->cdb[2], page + 4);
	if (!bytes)
		return scsi_check(s, r, SENSE_BAD_CDB);
	page[1] = r->cdb[2];
	be16_store(page + 2, (uint16_t)bytes);
	return scsi_reply(r, page, 4 + bytes, allowed);
}

/* ---- mode pages (SPC-4, 7.5; SBC-3, 6.4) --------------------------------------------- */

enum mode_page { MODE_CACHING = 0x08, MODE_CONTROL = 0x0a, MODE_ALL = 0x3f };
enum control { CURRENT = 0, CHANGEABLE = 1, DEFAULT = 2, SAVED = 3 };
#define MODE_DBD       0x08
#define WCE            0x04
#define D_SENSE        0x04
#define DEVICE_WP      0x80
#define DEVICE_DPOFUA  0x10
#define MODE_MAX       64u
#define MODE_LIST_MAX  256u
#define OPCODE_SENSE6  0x1a
#define OPCODE_SELECT6 0x15

/* Of the values of one kind. */
static unsigned mode_page(
	const struct scsi_disk *s, enum mode_page page, enum control which, uint8_t *p)
{
	bool cache = which == CURRENT ? __atomic_load_n(&s->write_cache, __ATOMIC_RELAXED)
				      : true;
	bool descriptor =
		which == CURRENT ? __atomic_load_n(&s->descriptor_sense, __ATOMIC_RELAXED)
				 : which == CHANGEABLE;

	p[0] = (uint8_t)page;
	if (page == MODE_CACHING) {
		p[1] = 18;
		p[2] = cache ? WCE : 0;
		return 20;
	}
	p[1] = 10;
	p[2] = descriptor ? D_SENSE : 0;
	if (which != CHANGEABLE)
		p[3] = 0x10; /* commands may be reordered */
	return 12;
}

/* 0: there is no such page. */
static unsigned mode_pages(
	const struct scsi_disk *s, unsigned page, enum control which, uint8_t *p)
{
	unsigned at = 0;

	if (page == MODE_CACHING || page == MODE_ALL)
		at += mode_page(s, MODE_CACHING, which, p + at);
	if (page == MODE_CONTROL || page == MODE_ALL)
		at += mode_page(s, MODE_CONTROL, which, p + at);
	return at;
}

/* Blocks and their size: short, as larger disks do not fit says all ones. */
static unsigned block_descriptor(const struct disk *d, uint8_t *p)
{
	uint64_t blocks = disk_bytes(d) / SCSI_BLOCK;

	be32_store(p, (uint32_t)MIN(blocks, (uint64_t)UINT32_MAX));
	be32_store(p + 4, SCSI_BLOCK);
	p[4] = 0;
	return 8;
}

int scsi_mode_sense(struct scsi_disk *s, struct scsi_request *r)
{
	bool six = r->cdb[0] == OPCODE_SENSE6;
	unsigned allowed = six ? r->cdb[4] : be16_load(r->cdb + 7);
	unsigned head = six ? 4 : 8, at = head, blocks = 0, pages;
	uint8_t p[MODE_MAX] = {0}, sub = r->cdb[3], device;

	if (r->cdb[2] >> 6 == SAVED)
		return scsi_check(s, r, SENSE_NO_SAVED);
	if (!(r->cdb[1] & MODE_DBD))
		at += blocks = block_descriptor(s->disk, p + at);
	pages = mode_pages(s, r->cdb[2] & 0x3f, r->cdb[2] >> 6, p + at);
	if (!pages || (sub && sub != 0xff))
		return scsi_check(s, r, SENSE_BAD_CDB);
	at += pages;
	device = (uint8_t)((s->disk->read_only ? DEVICE_WP : 0) | DEVICE_DPOFUA);
	if (six) {
		p[0] = (uint8_t)(at - 1);
		p[2] = device;
		p[3] = (uint8_t)blocks;
	} else {
		be16_store(p, (uint16_t)(at - 2));
		p[3] = device;
		be16_store(p + 6, (uint16_t)blocks);
	}
	return scsi_reply(r, p, at, allowed);
}

/* Whether a page differs from what is there only where it may. */
static bool is_page_fine(const struct scsi_disk *s, const uint8_t *p, unsigned bytes)
{
	uint8_t now[MODE_MAX] = {0}, may[MODE_MAX] = {0};
	unsigned n = 0;

	if ((p[0] & 0x3f) != MODE_ALL) /* that is no page */
		n = mode_pages(s, p[0], CURRENT, now);
	if (!n || bytes < n || p[1] != now[1])
		return false;
	mode_pages(s, p[0], CHANGEABLE, may);
	for (unsigned i = 2; i < n; i++)
		if ((p[i] ^ now[i]) & ~may[i])
			return false;
	return true;
}

static void set_page(struct scsi_disk *s, const uint8_t *p)
{
	if (p[0] == MODE_CACHING)
		__atomic_store_n(&s->write_cache, p[2] & WCE, __ATOMIC_SEQ_CST);
	else
		__atomic_store_n(&s->descriptor_sense, p[2] & D_SENSE, __ATOMIC_RELAXED);
}

/* All pages are looked at before the first is taken. Turning the cache off makes stable what
 * is in it. */
static int take_pages(
	struct scsi_disk *s, struct scsi_request *r, const uint8_t *p, unsigned bytes)
{
	int ret = 0;

	for (unsigned at = 0; at < bytes; at += 2u + p[at + 1])
		if (bytes - at < 2 || !is_page_fine(s, p + at, bytes - at))
			return scsi_check(s, r, SENSE_BAD_LIST);
	for (unsigned at = 0; at < bytes; at += 2u + p[at + 1])
		set_page(s, p + at);
	if (!s->write_cache && !s->disk->read_only)
		ret = disk_flush(s->disk);
	return ret;
}

int scsi_mode_select(struct scsi_disk *s, struct scsi_request *r)
{
	bool six = r->cdb[0] == OPCODE_SELECT6;
	unsigned bytes = six ? r->cdb[4] : be16_load(r->cdb + 7), head = six ? 4 : 8;
	uint8_t p[MODE_LIST_MAX];
	unsigned blocks;

	if (!bytes)
		return 0;
	if (bytes < head || bytes > sizeof(p) || bytes > r->out_bytes)
		return scsi_check(s, r, SENSE_LIST_LENGTH);
	iov_to_buf(r->out, r->n_out, 0, p, bytes);
	r->done = bytes;
	blocks = six ? p[3] : be16_load(p + 6);
	if (blocks > bytes - head)
		return scsi_check(s, r, SENSE_LIST_LENGTH);
	/* Another size of blocks cannot be had. */
	if (blocks && (blocks != 8 || (be32_load(p + head + 4) & 0xffffff) != SCSI_BLOCK))
		return scsi_check(s, r, SENSE_BAD_LIST);
	return take_pages(s, r, p + head + blocks, bytes - head - blocks);
}
