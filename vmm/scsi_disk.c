/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Commands of a SCSI disk. See scsi_disk.h.
 *
 * The table at the end says which there are, and what may be set in the second byte of each:
 * what is not in it is refused before the command sees it.
 */
#include "vmm/scsi_disk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/endian.h"
#include "base/iov.h"
#include "base/math.h"
#include "vmm/scsi_command.h"

#define CHUNK_BYTES (64u << 10) /* of patterns, and of comparing, for each request */
#define FUA         0x08
#define UNMAP_BIT   0x08
#define NDOB        0x01 /* zeros, which are not sent */
#define BYTCHK      0x06

/* ---- answers --------------------------------------------------------------------- */

unsigned scsi_sense(uint8_t out[SCSI_SENSE_BYTES], enum scsi_sense sense, bool descriptor)
{
	uint8_t key = (uint8_t)(sense >> 16);

	memset(out, 0, SCSI_SENSE_BYTES);
	if (descriptor) {
		out[0] = 0x72;
		out[1] = key;
		be16_store(out + 2, (uint16_t)sense);
		return 8;
	}
	out[0] = 0x70;
	out[2] = key;
	out[7] = SCSI_SENSE_BYTES - 8;
	be16_store(out + 12, (uint16_t)sense);
	return SCSI_SENSE_BYTES;
}

int scsi_check(const struct scsi_disk *s, struct scsi_request *r, enum scsi_sense sense)
{
	bool descriptor = s && __atomic_load_n(&s->descriptor_sense, __ATOMIC_RELAXED);

	r->status = SCSI_CHECK_CONDITION;
	r->sense_bytes = scsi_sense(r->sense, sense, descriptor);
	return 0;
}

int scsi_reply(struct scsi_request *r, const void *data, size_t bytes, uint64_t allowed)
{
	uint64_t n = MIN((uint64_t)bytes, allowed);

	r->overrun = n > r->in_bytes;
	r->done = MIN(n, r->in_bytes);
	iov_from_buf(r->in, r->n_in, 0, data, r->done);
	return 0;
}

/* What the guest is told of an error that the disk had. */
static int settle(const struct scsi_disk *s, struct scsi_request *r, int ret, bool reads)
{
	if (ret == 0 || ret == -ECANCELED)
		return ret;
	r->done = 0;
	if (ret == -EBADE) {
		r->status = SCSI_RESERVATION_CONFLICT;
		return 0;
	}
	if (ret == -EROFS)
		return scsi_check(s, r, SENSE_READ_ONLY);
	if (ret == -ENOSPC || ret == -EDQUOT)
		return scsi_check(s, r, SENSE_NO_SPACE);
	if (ret == -EIO)
		return scsi_check(s, r, reads ? SENSE_READ_ERROR : SENSE_WRITE_ERROR);
	return scsi_check(s, r, SENSE_INTERNAL_FAILURE);
}

/* ---- blocks ---------------------------------------------------------------------- */

struct range {
	uint64_t lba, blocks;
};

/* By the length of the CDB, which its opcode tells. */
static struct range range_of(const uint8_t *cdb)
{
	switch (cdb[0] >> 5) {
	case 0: /* 6 bytes, where no blocks are 256 */
		return (struct range){be32_load(cdb) & 0x1fffff, cdb[4] ? cdb[4] : 256u};
	case 4:
		return (struct range){be64_load(cdb + 2), be32_load(cdb + 10)};
	case 5:
		return (struct range){be32_load(cdb + 2), be32_load(cdb + 6)};
	default:
		return (struct range){be32_load(cdb + 2), be16_load(cdb + 7)};
	}
}

static bool is_inside(const struct scsi_disk *s, const struct range *g)
{
	return range_inside(g->lba, g->blocks, disk_bytes(s->disk) / SCSI_BLOCK);
}

/* The first bytes of a vector; NULL: no memory. Freed by the caller where it is not iov. */
static struct iovec *first(const struct iovec *iov, int *n, uint64_t all, uint64_t bytes)
{
	struct iovec *part;

	if (bytes == all)
		return (struct iovec *)(uintptr_t)iov;
	part = malloc((size_t)*n * sizeof(*part));
	if (part)
		*n = iov_slice(part, iov, *n, 0, bytes);
	return part;
}

static int do_read(struct scsi_disk *s, struct scsi_request *r)
{
	struct range g = range_of(r->cdb);
	uint64_t bytes = g.blocks * SCSI_BLOCK;
	struct iovec *iov;
	int n = r->n_in, ret;

	if (!is_inside(s, &g))
		return scsi_check(s, r, SENSE_LBA_RANGE);
	if (g.blocks > SCSI_BLOCKS_MAX)
		return scsi_check(s, r, SENSE_BAD_CDB);
	r->overrun = bytes > r->in_bytes;
	r->done = bytes = MIN(bytes, r->in_bytes);
	if (!bytes)
		return 0;
	iov = first(r->in, &n, r->in_bytes, bytes);
	if (!iov)
		return -ENOMEM;
	ret = disk_read(s->disk, g.lba * SCSI_BLOCK, iov, n);
	if (iov != r->in)
		free(iov);
	return ret;
}

/* Stable when they end: asked for, or because there is no cache to be flushed. */
static unsigned write_flags(const struct scsi_disk *s, bool fua)
{
	return fua || !__atomic_load_n(&s->write_cache, __ATOMIC_RELAXED) ? BLK_FUA : 0;
}

/* Of what was written with these flags: the guest may have turned the cache off meanwhile, and heard
 * that all is stable. */
static int keep_stable(struct scsi_disk *s, unsigned flags, int ret)
{
	if (ret || (flags & BLK_FUA) ||
		__atomic_load_n(&s->write_cache, __ATOMIC_SEQ_CST))
		return ret;
	return disk_flush(s->disk);
}

/* Data that is not there is not written: nothing is. */
static int do_write(struct scsi_disk *s, struct scsi_request *r)
{
	struct range g = range_of(r->cdb);
	uint64_t bytes = g.blocks * SCSI_BLOCK;
	bool fua = r->cdb[0] >> 5 && (r->cdb[1] & FUA);
	unsigned flags = write_flags(s, fua);
	struct iovec *iov;
	int n = r->n_out, ret;

	if (!is_inside(s, &g))
		return scsi_check(s, r, SENSE_LBA_RANGE);
	if (g.blocks > SCSI_BLOCKS_MAX)
		return scsi_check(s, r, SENSE_BAD_CDB);
	r->overrun = bytes > r->out_bytes;
	if (r->overrun || !bytes)
		return 0;
	iov = first(r->out, &n, r->out_bytes, bytes);
	if (!iov)
		return -ENOMEM;
	r->done = bytes;
	ret = disk_write(s->disk, g.lba * SCSI_BLOCK, iov, n, flags);
	if (iov != r->out)
		free(iov);
	return keep_stable(s, flags, ret);
}

/* The data against the disk, a piece at a time. 1: it is another. */
static int compare(struct scsi_disk *s, struct scsi_request *r, const struct range *g)
{
	uint64_t bytes = g->blocks * SCSI_BLOCK,
		 piece = MIN(bytes, (uint64_t)CHUNK_BYTES);
	uint8_t *here = buf_alloc(piece), *there = buf_alloc(piece);
	int ret = here && there ? 0 : -ENOMEM;

	for (uint64_t at = 0; at < bytes && ret == 0; at += piece) {
		uint64_t n = MIN(piece, bytes - at);
		struct iovec iov = {here, n};

		ret = vm_stopping(s->disk->vm)
			      ? -ECANCELED
			      : disk_read(s->disk, g->lba * SCSI_BLOCK + at, &iov, 1);
		if (ret)
			break;
		iov_to_buf(r->out, r->n_out, at, there, n);
		ret = memcmp(here, there, n) ? 1 : 0;
	}
	buf_free(here);
	buf_free(there);
	return ret;
}

static int do_verify(struct scsi_disk *s, struct scsi_request *r)
{
	struct range g = range_of(r->cdb);
	int ret;

	if (!is_inside(s, &g))
		return scsi_check(s, r, SENSE_LBA_RANGE);
	if (!(r->cdb[1] & BYTCHK) || !g.blocks)
		return 0;
	if ((r->cdb[1] & BYTCHK) != 2)
		return scsi_check(s, r, SENSE_BAD_CDB);
	r->overrun = g.blocks * SCSI_BLOCK > r->out_bytes;
	if (r->overrun)
		return 0;
	r->done = g.blocks * SCSI_BLOCK;
	ret = compare(s, r, &g);
	return ret > 0 ? scsi_check(s, r, SENSE_MISCOMPARE) : ret;
}

static int synchronize_cache(struct scsi_disk *s, struct scsi_request *r)
{
	struct range g = range_of(r->cdb);

	if (!is_inside(s, &g))
		return scsi_check(s, r, SENSE_LBA_RANGE);
	return disk_flush(s->disk);
}

/* ---- zeros and unmapping (SBC-3, 5.28, 5.42) ----------------------------------------- */

/* A block that is not all zeros, over and over. */
static int write_pattern(struct scsi_disk *s, const struct range *g,
	const uint8_t block[SCSI_BLOCK], unsigned flags)
{
	uint64_t bytes = g->blocks * SCSI_BLOCK,
		 piece = MIN(bytes, (uint64_t)CHUNK_BYTES);
	uint8_t *buf = buf_alloc(piece);
	int ret = buf ? 0 : -ENOMEM;

	for (uint64_t at = 0; buf && at < piece; at += SCSI_BLOCK)
		memcpy(buf + at, block, SCSI_BLOCK);
	for (uint64_t at = 0; at < bytes && ret == 0; at += piece) {
		struct iovec iov = {buf, MIN(piece, bytes - at)};

		ret = vm_stopping(s->disk->vm)
			      ? -ECANCELED
			      : disk_write(s->disk, g->lba * SCSI_BLOCK + at, &iov, 1,
					flags);
	}
	buf_free(buf);
	return ret;
}

static int write_same(struct scsi_disk *s, struct scsi_request *r)
{
	bool sixteen = r->cdb[0] >> 5 == 4, unmap = r->cdb[1] & UNMAP_BIT;
	struct range g = range_of(r->cdb);
	unsigned flags = write_flags(s, false);
	uint8_t block[SCSI_BLOCK] = {0};
	int ret;

	if ((unmap && !s->disk->discard) || !g.blocks || g.blocks > SCSI_BLOCKS_MAX)
		return scsi_check(s, r, SENSE_BAD_CDB);
	if (!is_inside(s, &g))
		return scsi_check(s, r, SENSE_LBA_RANGE);
	if (!sixteen || !(r->cdb[1] & NDOB)) {
		r->overrun = r->out_bytes < SCSI_BLOCK;
		if (r->overrun)
			return 0;
		iov_to_buf(r->out, r->n_out, 0, block, SCSI_BLOCK);
		r->done = SCSI_BLOCK;
	}
	if (buf_is_zero(block, SCSI_BLOCK))
		ret = disk_zero(s->disk,
			&(struct disk_range){g.lba * SCSI_BLOCK, g.blocks * SCSI_BLOCK,
				(unmap ? BLK_MAY_UNMAP : 0) | flags, NULL});
	else
		ret = write_pattern(s, &g, block, flags);
	return keep_stable(s, flags, ret);
}

struct unmap_list {
	be16 bytes, descriptor_bytes; /* that follow each */
	be32 reserved;
	struct {
		be64 lba;
		be32 blocks, reserved;
	} range[SCSI_RANGES_MAX];
};
#define UNMAP_HEADER (sizeof(struct unmap_list) - sizeof(((struct unmap_list *)0)->range))

/* Where we say that unmapped blocks read as zeros they have to. */
static int unmap_one(struct scsi_disk *s, const struct range *g)
{
	const struct disk_range r = {.offset = g->lba * SCSI_BLOCK,
		.bytes = g->blocks * SCSI_BLOCK,
		.flags = BLK_MAY_UNMAP};

	return s->disk->discard_zeroes ? disk_zero(s->disk, &r)
				       : disk_discard(s->disk, &r);
}

static int unmap_ranges(struct scsi_disk *s, struct scsi_request *r,
	const struct unmap_list *list, unsigned n)
{
	uint64_t all = 0;
	int ret = 0;

	for (unsigned i = 0; i < 2 * n && ret == 0; i++) {
		struct range g = {be64_get(list->range[i % n].lba),
			be32_get(list->range[i % n].blocks)};

		/* All are looked at before the first is done. */
		if (i >= n)
			ret = unmap_one(s, &g);
		else if (!is_inside(s, &g))
			return scsi_check(s, r, SENSE_LBA_RANGE);
		else if ((all += g.blocks) > SCSI_BLOCKS_MAX)
			return scsi_check(s, r, SENSE_BAD_LIST);
	}
	return ret;
}

static int do_unmap(struct scsi_disk *s, struct scsi_request *r)
{
	uint64_t bytes = be16_load(r->cdb + 7);
	struct unmap_list list;
	unsigned n;

	if (!s->disk->discard)
		return scsi_check(s, r, SENSE_BAD_OPCODE);
	if (!bytes)
		return 0;
	if (bytes < UNMAP_HEADER || bytes > r->out_bytes)
		return scsi_check(s, r, SENSE_LIST_LENGTH);
	bytes = MIN(bytes, sizeof(list));
	iov_to_buf(r->out, r->n_out, 0, &list, bytes);
	r->done = bytes;
	n = be16_get(list.descriptor_bytes);
	if (n > (bytes - UNMAP_HEADER) || be16_get(list.bytes) < n)
		return scsi_check(s, r, SENSE_BAD_LIST);
	return unmap_ranges(s, r, &list, n / sizeof(list.range[0]));
}

/* ---- reservations (SPC-4, 6.15, 6.16) ------------------------------------------------ */

/* What a device without reservations, or one that does not take this form, answers. */
static int reserve(struct scsi_disk *s, struct scsi_request *r, struct blk_pr *pr)
{
	int ret = disk_reserve(s->disk, pr);

	return ret == -ENOTSUP || ret == -EINVAL ? scsi_check(s, r, SENSE_BAD_CDB) : ret;
}

static int reserve_in(struct scsi_disk *s, struct scsi_request *r)
{
	size_t bytes = be16_load(r->cdb + 7);
	struct blk_pr pr = {.action = r->cdb[1], .in_bytes = bytes};
	int ret;

	if (!s->disk->reservations)
		return scsi_check(s, r, SENSE_BAD_OPCODE);
	if (!bytes)
		return 0;
	pr.in = malloc(bytes);
	if (!pr.in)
		return -ENOMEM;
	ret = reserve(s, r, &pr);
	if (ret == 0 && r->status == SCSI_GOOD)
		scsi_reply(r, pr.in, pr.got, bytes);
	free(pr.in);
	return ret;
}

static int reserve_out(struct scsi_disk *s, struct scsi_request *r)
{
	uint8_t list[BLK_PR_OUT_BYTES];
	struct blk_pr pr = {.action = r->cdb[1], .scope_type = r->cdb[2], .out = list};

	if (!s->disk->reservations)
		return scsi_check(s, r, SENSE_BAD_OPCODE);
	if (pr.action > BLK_PR_REGISTER_IGNORING)
		return scsi_check(s, r, SENSE_BAD_CDB);
	if (be32_load(r->cdb + 5) != sizeof(list) || r->out_bytes < sizeof(list))
		return scsi_check(s, r, SENSE_LIST_LENGTH);
	iov_to_buf(r->out, r->n_out, 0, list, sizeof(list));
	r->done = sizeof(list);
	return reserve(s, r, &pr);
}

/* ---- the unit -------------------------------------------------------------------- */

static int test_unit_ready(struct scsi_disk *s, struct scsi_request *r)
{
	(void)s;
	(void)r;
	return 0;
}

/* It neither spins nor moves; what it has not made stable yet it does when it is stopped. */
static int start_stop(struct scsi_disk *s, struct scsi_request *r)
{
	bool start = r->cdb[4] & 1, media = r->cdb[4] & 2;

	if (media)
		return scsi_check(s, r, SENSE_BAD_CDB);
	if (start || s->disk->read_only)
		return 0;
	return disk_flush(s->disk);
}

static enum scsi_sense take_attention(struct scsi_disk *s)
{
	unsigned set = __atomic_load_n(&s->attention, __ATOMIC_ACQUIRE), bit;

	do {
		bit = set & -set;
	} while (bit && !__atomic_compare_exchange_n(&s->attention, &set, set & ~bit,
				true, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE));
	return !bit                          ? SENSE_NONE
	       : bit == SCSI_ATTENTION_RESET ? SENSE_RESET
					     : SENSE_CAPACITY;
}

static int request_sense(struct scsi_disk *s, struct scsi_request *r)
{
	uint8_t sense[SCSI_SENSE_BYTES];
	unsigned bytes = scsi_sense(sense, take_attention(s), r->cdb[1] & 1);

	return scsi_reply(r, sense, bytes, r->cdb[4]);
}

static int read_capacity_10(struct scsi_disk *s, struct scsi_request *r)
{
	uint64_t blocks = disk_bytes(s->disk) / SCSI_BLOCK;
	uint64_t last = blocks ? blocks - 1 : 0;
	uint8_t p[8];

	be32_store(p, (uint32_t)MIN(last, (uint64_t)UINT32_MAX));
	be32_store(p + 4, SCSI_BLOCK);
	return scsi_reply(r, p, sizeof(p), sizeof(p));
}

static int read_capacity_16(struct scsi_disk *s, struct scsi_request *r)
{
	uint64_t blocks = disk_bytes(s->disk) / SCSI_BLOCK;
	uint8_t p[32] = {0};

	be64_store(p, blocks ? blocks - 1 : 0);
	be32_store(p + 8, SCSI_BLOCK);
	if (s->disk->discard) /* LBPME, LBPRZ */
		p[14] = s->disk->discard_zeroes ? 0xc0 : 0x80;
	return scsi_reply(r, p, sizeof(p), be32_load(r->cdb + 10));
}

/* The one that there is. */
static int report_luns(struct scsi_disk *s, struct scsi_request *r)
{
	uint8_t p[16] = {0};

	if (r->cdb[2] > 2)
		return scsi_check(s, r, SENSE_BAD_CDB);
	be32_store(p, r->cdb[2] == 1 ? 0 : 8); /* 1: well-known ones only */
	return scsi_reply(r, p, r->cdb[2] == 1 ? 8 : 16, be32_load(r->cdb + 6));
}

static int report_opcodes(struct scsi_disk *s, struct scsi_request *r);

/* ---- the table ------------------------------------------------------------------- */

enum flags {
	READS = 1 << 0,
	WRITES = 1 << 1,
	ALWAYS = 1 << 2, /* also where a unit attention waits, which stays */
	ACTION = 1 << 3, /* the low bits of the second byte belong to the opcode */
};

static const struct command {
	uint8_t opcode, action, bytes, second; /* bits of the second byte */
	unsigned flags;
	int (*run)(struct scsi_disk *s, struct scsi_request *r);
} commands[] = {
	{0x00, 0, 6, 0x00, 0, test_unit_ready},
	{0x03, 0, 6, 0x01, ALWAYS, request_sense},
	{0x08, 0, 6, 0x1f, READS, do_read},
	{0x0a, 0, 6, 0x1f, WRITES, do_write},
	{0x12, 0, 6, 0x01, ALWAYS, scsi_inquiry},
	{0x15, 0, 6, 0x10, 0, scsi_mode_select},
	{0x1a, 0, 6, 0x08, 0, scsi_mode_sense},
	{0x1b, 0, 6, 0x01, 0, start_stop},
	{0x25, 0, 10, 0x00, 0, read_capacity_10},
	{0x28, 0, 10, 0x18, READS, do_read},
	{0x2a, 0, 10, 0x18, WRITES, do_write},
	{0x2f, 0, 10, 0x16, READS, do_verify},
	{0x35, 0, 10, 0x06, 0, synchronize_cache},
	{0x41, 0, 10, 0x08, WRITES, write_same},
	{0x42, 0, 10, 0x00, WRITES, do_unmap},
	{0x55, 0, 10, 0x10, 0, scsi_mode_select},
	{0x5a, 0, 10, 0x18, 0, scsi_mode_sense},
	{0x5e, 0, 10, 0x1f, 0, reserve_in},
	{0x5f, 0, 10, 0x1f, WRITES, reserve_out},
	{0x88, 0, 16, 0x18, READS, do_read},
	{0x8a, 0, 16, 0x18, WRITES, do_write},
	{0x8f, 0, 16, 0x16, READS, do_verify},
	{0x91, 0, 16, 0x06, 0, synchronize_cache},
	{0x93, 0, 16, 0x09, WRITES, write_same},
	{0x9e, 0x10, 16, 0x1f, ACTION, read_capacity_16},
	{0xa0, 0, 12, 0x00, ALWAYS, report_luns},
	{0xa3, 0x0c, 12, 0x1f, ACTION, report_opcodes},
	{0xa8, 0, 12, 0x18, READS, do_read},
	{0xaa, 0, 12, 0x18, WRITES, do_write},
};
#define NACA 0x04 /* of the last byte */

static const struct command *find(uint8_t opcode, unsigned action)
{
	for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
		const struct command *c = &commands[i];

		if (c->opcode == opcode && (!(c->flags & ACTION) || c->action == action))
			return c;
	}
	return NULL;
}

/* Which bits of its CDB a command looks at. */
static void usage(const struct command *c, uint8_t *p)
{
	memset(p, 0xff, c->bytes);
	p[0] = c->opcode;
	p[1] = c->flags & ACTION ? c->action : c->second;
	p[c->bytes - 1] = 0;
}

static int report_one(struct scsi_disk *s, struct scsi_request *r)
{
	unsigned option = r->cdb[2] & 7;
	const struct command *c = find(r->cdb[3], be16_load(r->cdb + 4));
	uint8_t p[4 + 16] = {0};
	bool there = c && (option != 1 || !(c->flags & ACTION));

	p[1] = there ? 3 : 1; /* in the way that the standard has it; not at all */
	if (!there)
		return scsi_reply(r, p, 4, be32_load(r->cdb + 6));
	if (option == 2 && !(c->flags & ACTION))
		return scsi_check(s, r, SENSE_BAD_CDB);
	be16_store(p + 2, c->bytes);
	usage(c, p + 4);
	return scsi_reply(r, p, 4u + c->bytes, be32_load(r->cdb + 6));
}

static int report_all(struct scsi_request *r)
{
	uint8_t p[4 + 8 * ARRAY_LEN(commands)] = {0};

	be32_store(p, sizeof(p) - 4);
	for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
		const struct command *c = &commands[i];
		uint8_t *to = p + 4 + 8 * i;

		to[0] = c->opcode;
		to[3] = c->action;
		to[5] = c->flags & ACTION ? 1 : 0;
		to[7] = c->bytes;
	}
	return scsi_reply(r, p, sizeof(p), be32_load(r->cdb + 6));
}

/* REPORT SUPPORTED OPERATION CODES (SPC-4, 6.35), without timeouts. */
static int report_opcodes(struct scsi_disk *s, struct scsi_request *r)
{
	unsigned option = r->cdb[2] & 7;

	if (r->cdb[2] & ~7u || option > 3)
		return scsi_check(s, r, SENSE_BAD_CDB);
	return option ? report_one(s, r) : report_all(r);
}

int scsi_disk_execute(struct scsi_disk *s, struct scsi_request *r)
{
	const struct command *c = find(r->cdb[0], r->cdb[1] & 0x1f);
	enum scsi_sense attention = SENSE_NONE;

	r->status = SCSI_GOOD;
	r->overrun = false;
	r->done = 0;
	r->sense_bytes = 0;
	if (!c || !(c->flags & ALWAYS))
		attention = take_attention(s);
	if (attention)
		return scsi_check(s, r, attention);
	if (!c)
		return scsi_check(s, r, SENSE_BAD_OPCODE);
	if ((r->cdb[1] & ~c->second) || (r->cdb[c->bytes - 1] & NACA))
		return scsi_check(s, r, SENSE_BAD_CDB);
	if ((c->flags & WRITES) && s->disk->read_only)
		return scsi_check(s, r, SENSE_READ_ONLY);
	return settle(s, r, c->run(s, r), c->flags & READS);
}

void scsi_no_unit(struct scsi_request *r)
{
	uint8_t p[SCSI_SENSE_BYTES + 18] = {0};

	r->status = SCSI_GOOD;
	r->overrun = false;
	r->done = 0;
	r->sense_bytes = 0;
	if (r->cdb[0] == 0x12 && !r->cdb[1]) {
		p[0] = 0x7f; /* nothing, and nothing could be */
		p[4] = sizeof(p) - 5;
		scsi_reply(r, p, sizeof(p), be16_load(r->cdb + 3));
	} else if (r->cdb[0] == 0x03) {
		scsi_reply(r, p, scsi_sense(p, SENSE_NO_UNIT, r->cdb[1] & 1), r->cdb[4]);
	} else if (r->cdb[0] == 0xa0) {
		report_luns(NULL, r);
	} else {
		scsi_check(NULL, r, SENSE_NO_UNIT);
	}
}

/* ---- life ------------------------------------------------------------------------ */

void scsi_disk_init(struct scsi_disk *s, struct disk *disk)
{
	s->disk = disk;
	scsi_disk_reset(s);
}

void scsi_disk_reset(struct scsi_disk *s)
{
	__atomic_store_n(&s->attention, SCSI_ATTENTION_RESET, __ATOMIC_RELEASE);
	__atomic_store_n(&s->write_cache, true, __ATOMIC_RELAXED);
	__atomic_store_n(&s->descriptor_sense, false, __ATOMIC_RELAXED);
}

void scsi_disk_attend(struct scsi_disk *s, enum scsi_attention attention)
{
	__atomic_fetch_or(&s->attention, attention, __ATOMIC_ACQ_REL);
}

void scsi_disk_state(struct scsi_disk *s, struct state *state)
{
	uint32_t attention = s->attention;

	state_u32(state, &attention);
	state_check(state,
		!(attention & ~(SCSI_ATTENTION_RESET | SCSI_ATTENTION_CAPACITY)),
		"a unit attention that there is not");
	s->attention = attention;
	state_bool(state, &s->write_cache);
	state_bool(state, &s->descriptor_sense);
}
