/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Commands of SATA disks (ATA8-ACS). See ahci_impl.h. A write is stable after a flush, or at
 * once with FUA or where the guest has turned the write cache off.
 */
#include "vmm/ahci_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/endian.h"
#include "base/iov.h"
#include "base/math.h"

enum command {
	DATA_SET_MANAGEMENT = 0x06,
	RECALIBRATE = 0x10,
	READ_SECTORS = 0x20,
	READ_SECTORS_ONCE = 0x21,
	READ_SECTORS_EXT = 0x24,
	READ_DMA_EXT = 0x25,
	READ_NATIVE_MAX_EXT = 0x27,
	READ_MULTIPLE_EXT = 0x29,
	READ_LOG_EXT = 0x2f,
	WRITE_SECTORS = 0x30,
	WRITE_SECTORS_ONCE = 0x31,
	WRITE_SECTORS_EXT = 0x34,
	WRITE_DMA_EXT = 0x35,
	WRITE_MULTIPLE_EXT = 0x39,
	WRITE_DMA_FUA_EXT = 0x3d,
	READ_VERIFY = 0x40,
	READ_VERIFY_ONCE = 0x41,
	READ_VERIFY_EXT = 0x42,
	READ_QUEUED = 0x60,
	WRITE_QUEUED = 0x61,
	DIAGNOSTIC = 0x90,
	INITIALIZE_PARAMETERS = 0x91,
	SMART = 0xb0,
	READ_MULTIPLE = 0xc4,
	WRITE_MULTIPLE = 0xc5,
	SET_MULTIPLE = 0xc6,
	READ_DMA = 0xc8,
	WRITE_DMA = 0xca,
	WRITE_MULTIPLE_FUA_EXT = 0xce,
	STANDBY_IMMEDIATE = 0xe0,
	IDLE_IMMEDIATE = 0xe1,
	STANDBY = 0xe2,
	IDLE = 0xe3,
	CHECK_POWER_MODE = 0xe5,
	SLEEP = 0xe6,
	FLUSH_CACHE = 0xe7,
	FLUSH_CACHE_EXT = 0xea,
	IDENTIFY_DEVICE = 0xec,
	SET_FEATURES = 0xef,
	READ_NATIVE_MAX = 0xf8,
};

#define PAGE        512u
#define DEVICE_LBA  0x40
#define DEVICE_FUA  0x80 /* of queued writes */
#define MULTIPLE    16u  /* sectors at most */
#define TRIM_PAGES  8u   /* of ranges, of one command */
#define QUEUE_DEPTH AHCI_SLOTS
#define PRESERVING  0x06 /* a feature of SATA's: settings outlive a COMRESET */
#define SMART_MID   0x4f
#define SMART_HIGH  0xc2

/* ---- the task file --------------------------------------------------------------- */

static uint64_t lba48(const uint8_t *fis)
{
	return fis[4] | (uint64_t)fis[5] << 8 | (uint64_t)fis[6] << 16 |
	       (uint64_t)fis[8] << 24 | (uint64_t)fis[9] << 32 | (uint64_t)fis[10] << 40;
}

static uint64_t lba28(const uint8_t *fis)
{
	return fis[4] | (uint64_t)fis[5] << 8 | (uint64_t)fis[6] << 16 |
	       (uint64_t)(fis[7] & 0xf) << 24;
}

static void put_lba(uint8_t *fis, uint64_t lba)
{
	for (unsigned i = 0; i < 3; i++) {
		fis[4 + i] = (uint8_t)(lba >> 8 * i);
		fis[8 + i] = (uint8_t)(lba >> (24 + 8 * i));
	}
}

static int fail(struct ahci_command *c, uint8_t error, int ret)
{
	c->status = ATA_READY | ATA_ERROR;
	c->error = error;
	return ret;
}

static int refuse(struct ahci_command *c)
{
	return fail(c, ERROR_ABORT, -EINVAL);
}

int ata_judge(struct ahci_command *c, int ret, bool read)
{
	switch (ret) {
	case 0:
	case -ECANCELED:
	case -EFAULT:
		return ret;
	case -EINVAL:
	case -ENOTSUP:
	case -EROFS:
	case -EOVERFLOW:
		return fail(c, ERROR_ABORT, ret);
	case -ERANGE:
		return fail(c, ERROR_RANGE, ret);
	default:
		fail(c, read ? ERROR_MEDIUM : ERROR_ABORT, ret);
		if (!read)
			c->status |= ATA_FAULT;
		return ret;
	}
}

void ahci_tell_tray(const struct ahci_port *p)
{
	if (!p->disk)
		return;
	__atomic_store_n(&p->disk->tray_open, p->ejected, __ATOMIC_RELAXED);
	__atomic_store_n(&p->disk->tray_locked, p->locked, __ATOMIC_RELAXED);
}

void ata_default_settings(struct ahci_port *p)
{
	p->write_cache = p->preserves = true;
	p->multiple = MULTIPLE;
}

void ata_reset(struct ahci_port *p)
{
	p->ejected = p->locked = false;
	memset(p->sense, 0, sizeof(p->sense));
	memset(p->queue_error, 0, sizeof(p->queue_error));
	p->queue_error[0] = 0x80; /* none was queued */
	ahci_tell_tray(p);
}

/* ---- pages of data --------------------------------------------------------------- */

void ata_put_word(uint8_t *page, unsigned word, unsigned value)
{
	le16_store(page + 2 * word, (uint16_t)value);
}

void ata_put_text(uint8_t *page, unsigned word, unsigned words, const char *text)
{
	size_t length = strlen(text);

	for (unsigned i = 0; i < 2 * words; i++)
		page[2 * word + (i ^ 1)] = i < length ? (uint8_t)text[i] : ' ';
}

/* The last byte makes the sum of all 0. */
static void put_checksum(uint8_t *page)
{
	unsigned sum = 0;

	for (unsigned i = 0; i < PAGE - 1; i++)
		sum += page[i];
	page[PAGE - 1] = (uint8_t)-sum;
}

static int give_page(struct ahci_command *c, const uint8_t *page)
{
	c->pio_in = true;
	return ahci_room(c) < PAGE ? -EOVERFLOW : ahci_give(c, page, PAGE, PAGE);
}

/* ---- identify (7.16) ------------------------------------------------------------- */

static uint64_t sectors_of(const struct ahci_command *c)
{
	return disk_bytes(c->p->disk) / BLK_SECTOR;
}

static bool trims(const struct ahci_command *c)
{
	return c->p->disk->discard && !c->p->disk->read_only;
}

/* What BIOSes took for cylinders, heads and sectors. */
static void put_geometry(uint8_t *p, uint64_t sectors)
{
	uint64_t cylinders = MIN(sectors / (16 * 63), (uint64_t)16383);
	uint32_t all = (uint32_t)(cylinders * 16 * 63);

	ata_put_word(p, 1, (unsigned)cylinders);
	ata_put_word(p, 3, 16);
	ata_put_word(p, 6, 63);
	ata_put_word(p, 53, 7);
	ata_put_word(p, 54, (unsigned)cylinders);
	ata_put_word(p, 55, 16);
	ata_put_word(p, 56, 63);
	le32_store(p + 2 * 57, all);
}

/* Command sets: what there is, and what of it is on. */
static void put_sets(const struct ahci_command *c, uint8_t *p)
{
	unsigned cache = c->p->write_cache ? 1u << 5 : 0;

	ata_put_word(p, 80, 0x01f0);                       /* ATA-4 to ATA8-ACS */
	ata_put_word(p, 82, 1u << 5 | 1u << 3 | 1u);       /* cache, power, SMART */
	ata_put_word(p, 83, 0x4000 | 1u << 10 | 3u << 12); /* 48 bits, flushes */
	ata_put_word(p, 84, 0x4000 | 1u << 5 | 1u << 6);   /* logs, FUA */
	ata_put_word(p, 85, cache | 1u << 3 | 1u);
	ata_put_word(p, 86, 1u << 10 | 3u << 12);
	ata_put_word(p, 87, 0x4000 | 1u << 5 | 1u << 6);
}

static void put_transfer_modes(uint8_t *p)
{
	ata_put_word(p, 63, 0x0007); /* multiword DMA to 2 */
	ata_put_word(p, 64, 0x0003); /* PIO 3 and 4 */
	for (unsigned i = 65; i <= 68; i++)
		ata_put_word(p, i, 120); /* ns */
	ata_put_word(p, 88, 0x407f);     /* Ultra DMA to 6, which is chosen */
}

static int identify(struct ahci_command *c)
{
	const struct ahci_port *port = c->p;
	uint64_t sectors = sectors_of(c);
	uint8_t p[PAGE] = {0};

	ata_put_word(p, 0, 0x0040);
	put_geometry(p, sectors);
	ata_put_text(p, 10, 10, port->disk->serial);
	ata_put_text(p, 23, 4, AHCI_FIRMWARE);
	ata_put_text(p, 27, 20, "Byre SATA disk");
	ata_put_word(p, 47, 0x8000 | MULTIPLE);
	ata_put_word(p, 49, 0x0f00); /* DMA, LBA, IORDY */
	ata_put_word(p, 50, 0x4000);
	ata_put_word(p, 59, port->multiple ? 0x0100u | port->multiple : 0);
	le32_store(p + 2 * 60, (uint32_t)MIN(sectors, (uint64_t)0x0fffffff));
	put_transfer_modes(p);
	ata_put_word(p, 75, QUEUE_DEPTH - 1);
	ata_put_word(p, 76, 1u << 8 | 7u << 1); /* NCQ; to 6 Gbit/s */
	ata_put_word(p, 78, 1u << 6);
	ata_put_word(p, 79, port->preserves ? 1u << 6 : 0);
	put_sets(c, p);
	le64_store(p + 2 * 100, sectors);
	ata_put_word(p, 105, trims(c) ? TRIM_PAGES : 0);
	ata_put_word(p, 106, 0x4000); /* sectors of 512 bytes */
	ata_put_word(p, 169, trims(c));
	ata_put_word(p, 217, 1); /* does not turn */
	p[PAGE - 2] = 0xa5;
	put_checksum(p);
	return give_page(c, p);
}

/* ---- reading and writing --------------------------------------------------------- */

struct transfer {
	uint64_t first, sectors;
	bool write, fua;
};

static int do_transfer(struct ahci_command *c, const struct transfer *t)
{
	struct disk *disk = c->p->disk;
	uint64_t offset = t->first * BLK_SECTOR, bytes = t->sectors * BLK_SECTOR;
	int ret;

	if (t->write && disk->read_only)
		return -EROFS;
	if (!range_inside(t->first, t->sectors, sectors_of(c)))
		return -ERANGE;
	ret = ahci_map(c, bytes);
	if (ret)
		return ret;
	if (t->write)
		ret = disk_write(disk, offset, c->iov, c->niov,
			t->fua || !c->p->write_cache ? BLK_FUA : 0);
	else
		ret = disk_read(disk, offset, c->iov, c->niov);
	if (ret == 0)
		c->moved = bytes;
	return ret;
}

/* 28 bits: 0 sectors are 256. */
static int transfer28(struct ahci_command *c, bool write)
{
	const uint8_t *fis = c->fis;
	struct transfer t = {
		.first = lba28(fis), .sectors = fis[12] ? fis[12] : 256, .write = write};

	if (!(fis[7] & DEVICE_LBA))
		return refuse(c);
	return ata_judge(c, do_transfer(c, &t), !write);
}

/* 48 bits: 0 sectors are 65536. */
static int transfer48(struct ahci_command *c, bool write, bool fua)
{
	unsigned sectors = le16_load(c->fis + 12);
	struct transfer t = {.first = lba48(c->fis),
		.sectors = sectors ? sectors : 65536,
		.write = write,
		.fua = fua};

	return ata_judge(c, do_transfer(c, &t), !write);
}

bool ata_is_queued(const struct ahci_command *c)
{
	return c->fis[2] == READ_QUEUED || c->fis[2] == WRITE_QUEUED;
}

/* NCQ (13.6): the count is where features are elsewhere, and the tag has its place. */
static int transfer_queued(struct ahci_command *c)
{
	const uint8_t *fis = c->fis;
	unsigned sectors = fis[3] | (unsigned)fis[11] << 8;
	struct transfer t = {.first = lba48(fis),
		.sectors = sectors ? sectors : 65536,
		.write = fis[2] == WRITE_QUEUED,
		.fua = fis[7] & DEVICE_FUA};

	if (fis[12] >> 3 != c->slot)
		return refuse(c);
	return ata_judge(c, do_transfer(c, &t), !t.write);
}

static int verify(struct ahci_command *c, bool ext)
{
	unsigned count = ext ? le16_load(c->fis + 12) : c->fis[12];
	uint64_t first = ext ? lba48(c->fis) : lba28(c->fis);
	uint64_t sectors = count ? count : ext ? 65536 : 256;

	return ata_judge(
		c, range_inside(first, sectors, sectors_of(c)) ? 0 : -ERANGE, true);
}

/* ---- trim (7.10) ----------------------------------------------------------------- */

static void get_range(const uint8_t *entry, uint64_t *first, uint64_t *sectors)
{
	uint64_t value = le64_load(entry);

	*first = value & 0xffffffffffff;
	*sectors = value >> 48;
}

/* All ranges are looked at before the first is given up. */
static int trim_ranges(struct ahci_command *c, const uint8_t *pages, size_t bytes)
{
	uint64_t first, sectors;
	int ret = 0;

	for (size_t at = 0; at < bytes; at += 8) {
		get_range(pages + at, &first, &sectors);
		if (sectors && !range_inside(first, sectors, sectors_of(c)))
			return -ERANGE;
	}
	for (size_t at = 0; at < bytes && ret == 0; at += 8) {
		get_range(pages + at, &first, &sectors);
		if (sectors)
			ret = disk_discard(c->p->disk,
				&(struct disk_range){.offset = first * BLK_SECTOR,
					.bytes = sectors * BLK_SECTOR});
	}
	return ret;
}

static int trim(struct ahci_command *c)
{
	size_t bytes = (size_t)le16_load(c->fis + 12) * PAGE;
	uint8_t *pages;
	int ret;

	if (!trims(c) || !(c->fis[3] & 1) || !bytes || bytes > TRIM_PAGES * PAGE)
		return refuse(c);
	pages = malloc(bytes);
	ret = pages ? ahci_map(c, bytes) : -ENOMEM;
	if (ret == 0) {
		iov_to_buf(c->iov, c->niov, 0, pages, bytes);
		c->moved = bytes;
		ret = trim_ranges(c, pages, bytes);
	}
	free(pages);
	return ata_judge(c, ret, false);
}

/* ---- the rest -------------------------------------------------------------------- */

static int read_log(struct ahci_command *c)
{
	unsigned log = c->fis[4], page = c->fis[5] | (unsigned)c->fis[9] << 8;
	uint8_t p[PAGE] = {0};

	if (page || le16_load(c->fis + 12) != 1)
		return refuse(c);
	if (log == 0) { /* which there are: its version, and one page of 0x10 */
		ata_put_word(p, 0, 1);
		ata_put_word(p, 0x10, 1);
	} else if (log == 0x10) {
		memcpy(p, c->p->queue_error, sizeof(c->p->queue_error));
		put_checksum(p);
	} else {
		return refuse(c);
	}
	return ata_judge(c, give_page(c, p), true);
}

/* One of SATA's features: the count says which. */
static int set_sata_feature(struct ahci_command *c, bool on)
{
	if (c->fis[12] != PRESERVING)
		return refuse(c);
	c->p->preserves = on;
	return 0;
}

static int set_features(struct ahci_command *c)
{
	switch (c->fis[3]) {
	case 0x02:
		c->p->write_cache = true;
		return 0;
	case 0x82:
		c->p->write_cache = false;
		return ata_judge(c, disk_flush(c->p->disk), false);
	case 0x03: /* a mode of transfer, which SATA does not have */
		return 0;
	case 0x10:
	case 0x90:
		return set_sata_feature(c, c->fis[3] == 0x10);
	default:
		return refuse(c);
	}
}

static int set_multiple(struct ahci_command *c)
{
	if (c->fis[12] > MULTIPLE || (c->fis[12] && !is_pow2(c->fis[12])))
		return refuse(c);
	c->p->multiple = c->fis[12];
	return 0;
}

static int read_native_max(struct ahci_command *c, bool ext)
{
	uint64_t last = sectors_of(c) ? sectors_of(c) - 1 : 0;

	if (!ext)
		last = MIN(last, (uint64_t)0x0ffffffe);
	put_lba(c->answer, last);
	if (!ext) {
		c->answer[8] = 0;
		c->answer[7] = (uint8_t)(DEVICE_LBA | last >> 24);
	}
	return 0;
}

static int check_power(struct ahci_command *c)
{
	c->answer[12] = 0xff; /* active, or idle */
	return 0;
}

/* A healthy disk's answers; it keeps no attributes. */
static int smart(struct ahci_command *c)
{
	uint8_t p[PAGE] = {1};

	if (c->fis[5] != SMART_MID || c->fis[6] != SMART_HIGH)
		return refuse(c);
	switch (c->fis[3]) {
	case 0xd0: /* data */
	case 0xd1: /* thresholds */
		put_checksum(p);
		return ata_judge(c, give_page(c, p), true);
	case 0xd8: /* on */
	case 0xda: /* is it well: the registers stay */
		return 0;
	default:
		return refuse(c);
	}
}

static int diagnose(struct ahci_command *c)
{
	memset(c->answer + 4, 0, 10);
	c->answer[4] = c->answer[12] = 1; /* the signature */
	return 0;
}

static int move_data(struct ahci_command *c)
{
	switch (c->fis[2]) {
	case READ_MULTIPLE:
	case READ_SECTORS:
	case READ_SECTORS_ONCE:
		c->pio_in = true;
		return transfer28(c, false);
	case READ_DMA:
		return transfer28(c, false);
	case READ_MULTIPLE_EXT:
	case READ_SECTORS_EXT:
		c->pio_in = true;
		return transfer48(c, false, false);
	case READ_DMA_EXT:
		return transfer48(c, false, false);
	case WRITE_MULTIPLE:
	case WRITE_SECTORS:
	case WRITE_SECTORS_ONCE:
	case WRITE_DMA:
		return transfer28(c, true);
	case WRITE_MULTIPLE_EXT:
	case WRITE_SECTORS_EXT:
	case WRITE_DMA_EXT:
		return transfer48(c, true, false);
	case WRITE_MULTIPLE_FUA_EXT:
	case WRITE_DMA_FUA_EXT:
		return transfer48(c, true, true);
	case READ_QUEUED:
	case WRITE_QUEUED:
		return transfer_queued(c);
	default:
		return refuse(c);
	}
}

int ata_command(struct ahci_command *c)
{
	switch (c->fis[2]) {
	case IDENTIFY_DEVICE:
		return ata_judge(c, identify(c), true);
	case FLUSH_CACHE:
	case FLUSH_CACHE_EXT:
		return ata_judge(c, disk_flush(c->p->disk), false);
	case DATA_SET_MANAGEMENT:
		return trim(c);
	case READ_VERIFY:
	case READ_VERIFY_ONCE:
		return verify(c, false);
	case READ_VERIFY_EXT:
		return verify(c, true);
	case READ_LOG_EXT:
		return read_log(c);
	case SET_FEATURES:
		return set_features(c);
	case SET_MULTIPLE:
		return set_multiple(c);
	case READ_NATIVE_MAX:
	case READ_NATIVE_MAX_EXT:
		return read_native_max(c, c->fis[2] == READ_NATIVE_MAX_EXT);
	case CHECK_POWER_MODE:
		return check_power(c);
	case SMART:
		return smart(c);
	case DIAGNOSTIC:
		return diagnose(c);
	case RECALIBRATE:
	case INITIALIZE_PARAMETERS:
	case STANDBY_IMMEDIATE:
	case IDLE_IMMEDIATE:
	case STANDBY:
	case IDLE:
	case SLEEP:
		return 0; /* there is nothing that could rest */
	default:
		return move_data(c);
	}
}
