/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * CD-ROM drives: packets (SPC-3, MMC-5) in ATA's PACKET command. See ahci_impl.h. The medium is
 * one track of data that fills the disk's whole blocks.
 */
#include "vmm/ahci_impl.h"

#include <errno.h>
#include <string.h>

#include "base/endian.h"
#include "base/math.h"

enum command { DEVICE_RESET = 0x08, IDENTIFY_PACKET = 0xa1, FLUSH_CACHE = 0xe7 };
#define SET_FEATURES 0xef
#define FEATURE_DMA  0x01 /* of PACKET: its data goes by DMA */

enum packet {
	TEST_UNIT_READY = 0x00,
	REQUEST_SENSE = 0x03,
	INQUIRY = 0x12,
	START_STOP = 0x1b,
	PREVENT_REMOVAL = 0x1e,
	READ_CAPACITY = 0x25,
	READ_10 = 0x28,
	READ_TOC = 0x43,
	GET_CONFIGURATION = 0x46,
	GET_EVENTS = 0x4a,
	READ_DISC_INFORMATION = 0x51,
	MODE_SENSE_10 = 0x5a,
	READ_12 = 0xa8,
};

/* Sense: key, code, qualifier. */
#define SENSE(key, code, qualifier) ((key) << 16 | (code) << 8 | (qualifier))
#define NO_MEDIUM                   SENSE(2, 0x3a, 0)
#define READ_ERROR                  SENSE(3, 0x11, 0)
#define BAD_COMMAND                 SENSE(5, 0x20, 0)
#define BAD_LBA                     SENSE(5, 0x21, 0)
#define BAD_FIELD                   SENSE(5, 0x24, 0)
#define IS_LOCKED                   SENSE(5, 0x53, 2)

#define ANSWER_MAX 64u
#define CD_BLOCKS  (360000u) /* of 80 minutes; larger ones are DVDs */
#define LEAD_OUT   0xaa
#define TRACK_DATA 0x14

/* ---- ends ------------------------------------------------------------------------ */

static int sense(struct ahci_command *c, unsigned what)
{
	uint8_t *s = c->p->sense;

	s[0] = (uint8_t)(what >> 16);
	s[1] = (uint8_t)(what >> 8);
	s[2] = (uint8_t)what;
	c->status = ATA_READY | ATA_ERROR;
	c->error = (uint8_t)(s[0] << 4 | (s[0] == 5 ? ERROR_ABORT : 0));
	return -EIO;
}

static int give(struct ahci_command *c, const void *data, uint64_t bytes, uint64_t most)
{
	int ret = ahci_give(c, data, bytes, most);

	c->pio_in = ret == 0 && c->moved && !(c->fis[3] & FEATURE_DMA);
	le16_store(c->answer + 5, (uint16_t)c->moved);
	return ret == -EOVERFLOW ? sense(c, BAD_FIELD) : ret;
}

static uint32_t blocks_of(const struct ahci_command *c)
{
	return (uint32_t)MIN(disk_bytes(c->p->disk) / CD_BLOCK, (uint64_t)UINT32_MAX);
}

static bool has_medium(const struct ahci_command *c)
{
	return blocks_of(c) && !c->p->ejected;
}

/* ---- data ------------------------------------------------------------------------ */

static int read_blocks(struct ahci_command *c, uint32_t first, uint32_t blocks)
{
	uint64_t bytes = (uint64_t)blocks * CD_BLOCK;
	int ret;

	if (!range_inside(first, blocks, blocks_of(c)))
		return sense(c, BAD_LBA);
	if (!blocks)
		return 0;
	if (bytes > BLK_MAX_REQUEST)
		return sense(c, BAD_FIELD);
	ret = ahci_map(c, bytes);
	if (ret == 0)
		ret = disk_read(c->p->disk, (uint64_t)first * CD_BLOCK, c->iov, c->niov);
	if (ret == -EOVERFLOW)
		return sense(c, BAD_FIELD);
	if (ret)
		return ret == -ECANCELED || ret == -EFAULT ? ret : sense(c, READ_ERROR);
	c->moved = bytes;
	c->pio_in = !(c->fis[3] & FEATURE_DMA);
	return 0;
}

static int read_capacity(struct ahci_command *c)
{
	uint8_t p[8];

	be32_store(p, blocks_of(c) - 1);
	be32_store(p + 4, CD_BLOCK);
	return give(c, p, sizeof(p), sizeof(p));
}

/* ---- what it is ------------------------------------------------------------------ */

static int request_sense(struct ahci_command *c)
{
	uint8_t p[18] = {0x70, 0, c->p->sense[0], 0, 0, 0, 0, 10};

	p[12] = c->p->sense[1];
	p[13] = c->p->sense[2];
	memset(c->p->sense, 0, sizeof(c->p->sense));
	return give(c, p, sizeof(p), c->packet[4]);
}

static int inquiry(struct ahci_command *c)
{
	static const char names[] = "Byre    CD-ROM          1   ";
	uint8_t p[36] = {5, 0x80, 5, 0x32, 31};

	if ((c->packet[1] & 1) || c->packet[2])
		return sense(c, BAD_FIELD);
	memcpy(p + 8, names, 28);
	return give(c, p, sizeof(p), be16_load(c->packet + 3));
}

/* MMC-5 5.3: a header of four bytes for each. */
static uint8_t *put_feature(
	uint8_t *p, unsigned code, unsigned flags, const void *data, unsigned bytes)
{
	be16_store(p, (uint16_t)code);
	p[2] = (uint8_t)flags;
	p[3] = (uint8_t)bytes;
	memcpy(p + 4, data, bytes);
	return p + 4 + bytes;
}

static unsigned profile_of(const struct ahci_command *c)
{
	if (!has_medium(c))
		return 0;
	return blocks_of(c) > CD_BLOCKS ? 0x10 : 0x08;
}

static int get_configuration(struct ahci_command *c)
{
	unsigned profile = profile_of(c), kind = c->packet[1] & 3,
		 from = be16_load(c->packet + 2);
	uint8_t profiles[8] = {0, 0x10, profile == 0x10, 0, 0, 0x08, profile == 0x08, 0};
	static const uint8_t core[8] = {0, 0, 0, 7, 1}, removable[4] = {0x29},
			     random[8] = {0, 0, 8, 0, 0, 1}, cd[4];
	const struct {
		unsigned code, flags;
		const void *data;
		unsigned bytes;
	} features[] = {{0x00, 0x03, profiles, 8}, {0x01, 0x0b, core, 8},
		{0x03, 0x03, removable, 4}, {0x10, profile != 0, random, 8},
		{0x1e, 0x08 | (profile == 0x08), cd, 4}};
	uint8_t p[ANSWER_MAX] = {0}, *at = p + 8;

	if (kind == 3)
		return sense(c, BAD_FIELD);
	for (size_t i = 0; i < ARRAY_LEN(features); i++) {
		bool asked =
			kind == 2 ? features[i].code == from : features[i].code >= from;

		if (asked && (kind != 1 || (features[i].flags & 1)))
			at = put_feature(at, features[i].code, features[i].flags,
				features[i].data, features[i].bytes);
	}
	be32_store(p, (uint32_t)(at - p) - 4);
	be16_store(p + 6, (uint16_t)profile);
	return give(c, p, (uint64_t)(at - p), be16_load(c->packet + 7));
}

/* Changes are asked for, not waited for. */
static int get_events(struct ahci_command *c)
{
	uint8_t p[8] = {0, 6, 4, 0x10};

	if (!(c->packet[1] & 1))
		return sense(c, BAD_FIELD);
	if (!(c->packet[4] & 0x10)) { /* of other kinds there are none */
		p[1] = 2;
		p[2] = 0x80;
		return give(c, p, 4, be16_load(c->packet + 7));
	}
	p[5] = has_medium(c) ? 2 : c->p->ejected;
	return give(c, p, sizeof(p), be16_load(c->packet + 7));
}

static int mode_sense(struct ahci_command *c)
{
	unsigned page = c->packet[2] & 0x3f, bytes = 8;
	uint8_t p[ANSWER_MAX] = {0};

	if (c->packet[2] >> 6 == 3 ||
		(page != 0x01 && page != 0x2a && page != 0x3f)) /* 3: saved values */
		return sense(c, BAD_FIELD);
	if (page != 0x2a) { /* error recovery */
		p[bytes] = 0x01;
		p[bytes + 1] = 0x0a;
		bytes += 12;
	}
	if (page != 0x01) { /* capabilities */
		p[bytes] = 0x2a;
		p[bytes + 1] = 0x14;
		p[bytes + 2] = 0x08; /* reads DVD-ROMs */
		p[bytes + 4] = 0x70; /* sessions, both forms of mode 2 */
		p[bytes + 6] = (uint8_t)(0x29 | (c->p->locked ? 2 : 0)); /* a tray */
		be16_store(p + bytes + 8, 706 * 4);                      /* kB/s */
		be16_store(p + bytes + 14, 706 * 4);
		bytes += 22;
	}
	be16_store(p, (uint16_t)(bytes - 2));
	p[2] = has_medium(c) ? 0x01 : 0x70;
	return give(c, p, bytes, be16_load(c->packet + 7));
}

/* ---- the medium ------------------------------------------------------------------ */

/* As minutes, seconds and frames, or as it is. */
static void put_address(uint8_t *p, uint32_t block, bool msf)
{
	uint32_t frame = block + 150;

	be32_store(p, block);
	if (!msf)
		return;
	p[0] = 0;
	p[1] = (uint8_t)MIN(frame / 75 / 60, 255u);
	p[2] = (uint8_t)(frame / 75 % 60);
	p[3] = (uint8_t)(frame % 75);
}

static uint8_t *put_track(uint8_t *p, uint8_t track, uint32_t block, bool msf)
{
	p[1] = TRACK_DATA;
	p[2] = track;
	put_address(p + 4, block, msf);
	return p + 8;
}

static int read_toc(struct ahci_command *c)
{
	unsigned format = c->packet[2] & 0xf, track = c->packet[6];
	bool msf = c->packet[1] & 2;
	uint8_t p[4 + 2 * 8] = {0, 0, 1, 1}, *at = p + 4;

	if (!format)
		format = c->packet[9] >> 6;
	if (format > 1 || (!format && track > 1 && track != LEAD_OUT))
		return sense(c, BAD_FIELD);
	if (format || track <= 1)
		at = put_track(at, 1, 0, msf);
	if (!format)
		at = put_track(at, LEAD_OUT, blocks_of(c), msf);
	be16_store(p, (uint16_t)(at - p - 2));
	return give(c, p, (uint64_t)(at - p), be16_load(c->packet + 7));
}

static int read_disc_information(struct ahci_command *c)
{
	/* Complete; one session of one track, for any use. */
	uint8_t p[34] = {0, 32, 0x0e, 1, 1, 1, 1, 0x20};

	return give(c, p, sizeof(p), be16_load(c->packet + 7));
}

/* Out and in again, which is all that can be done with it from inside. */
static int start_stop(struct ahci_command *c)
{
	bool start = c->packet[4] & 1, tray = c->packet[4] & 2;

	if (tray && !start && c->p->locked)
		return sense(c, IS_LOCKED);
	if (tray)
		c->p->ejected = !start;
	ahci_tell_tray(c->p);
	return 0;
}

/* ---- all of them ----------------------------------------------------------------- */

static int with_medium(struct ahci_command *c)
{
	const uint8_t *p = c->packet;

	if (!has_medium(c))
		return sense(c, NO_MEDIUM);
	switch (p[0]) {
	case TEST_UNIT_READY:
		return 0;
	case READ_CAPACITY:
		return read_capacity(c);
	case READ_10:
		return read_blocks(c, be32_load(p + 2), be16_load(p + 7));
	case READ_12:
		return read_blocks(c, be32_load(p + 2), be32_load(p + 6));
	case READ_TOC:
		return read_toc(c);
	default:
		return read_disc_information(c);
	}
}

static int do_packet(struct ahci_command *c)
{
	if (c->packet[0] != REQUEST_SENSE)
		memset(c->p->sense, 0, sizeof(c->p->sense));
	c->answer[12] = 3; /* the status is what comes last */
	switch (c->packet[0]) {
	case REQUEST_SENSE:
		return request_sense(c);
	case INQUIRY:
		return inquiry(c);
	case START_STOP:
		return start_stop(c);
	case PREVENT_REMOVAL:
		c->p->locked = c->packet[4] & 1;
		ahci_tell_tray(c->p);
		return 0;
	case GET_CONFIGURATION:
		return get_configuration(c);
	case GET_EVENTS:
		return get_events(c);
	case MODE_SENSE_10:
		return mode_sense(c);
	case TEST_UNIT_READY:
	case READ_CAPACITY:
	case READ_10:
	case READ_12:
	case READ_TOC:
	case READ_DISC_INFORMATION:
		return with_medium(c);
	default:
		return sense(c, BAD_COMMAND);
	}
}

static int identify(struct ahci_command *c)
{
	uint8_t p[512] = {0};

	ata_put_word(p, 0, 0x85c0); /* packets of 12 bytes, a CD-ROM, removable */
	ata_put_text(p, 10, 10, c->p->disk->serial);
	ata_put_text(p, 23, 4, AHCI_FIRMWARE);
	ata_put_text(p, 27, 20, "Byre CD-ROM");
	ata_put_word(p, 49, 0x0b00); /* DMA, LBA, IORDY */
	ata_put_word(p, 53, 6);
	ata_put_word(p, 63, 0x0007);
	ata_put_word(p, 64, 0x0003);
	for (unsigned i = 65; i <= 68; i++)
		ata_put_word(p, i, 120);
	ata_put_word(p, 76, 7u << 1);
	ata_put_word(p, 80, 0x01f0);
	ata_put_word(p, 82, 1u << 4 | 1u << 9); /* packets, device reset */
	ata_put_word(p, 83, 0x4000);
	ata_put_word(p, 84, 0x4000);
	ata_put_word(p, 85, 1u << 4 | 1u << 9);
	ata_put_word(p, 87, 0x4000);
	ata_put_word(p, 88, 0x407f);
	c->pio_in = true;
	return ata_judge(c, ahci_give(c, p, sizeof(p), sizeof(p)), true);
}

int atapi_command(struct ahci_command *c)
{
	switch (c->fis[2]) {
	case ATA_PACKET:
		return do_packet(c);
	case IDENTIFY_PACKET:
		return identify(c);
	case DEVICE_RESET:
		ata_reset(c->p);
		return 0;
	case FLUSH_CACHE:
		return 0;
	case SET_FEATURES:
		if (c->fis[3] == 0x03)
			return 0;
		return ata_judge(c, -EINVAL, true);
	default: /* IDENTIFY DEVICE too: who asks learns by the signature what it is */
		c->answer[4] = c->answer[12] = 1;
		c->answer[5] = 0x14;
		c->answer[6] = 0xeb;
		return ata_judge(c, -EINVAL, true);
	}
}
