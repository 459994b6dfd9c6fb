/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * I/O commands of NVMe (6), and where their data lies. See nvme_impl.h. Each is a task of its
 * queue's lane and goes straight to the disk with the guest's own buffers.
 *
 * A write is stable after a flush, or at once with FUA or where the guest has turned the write
 * cache off.
 */
#include "vmm/nvme_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/iov.h"
#include "base/math.h"

enum opcode {
	FLUSH = 0x00,
	WRITE = 0x01,
	READ = 0x02,
	WRITE_ZEROES = 0x08,
	DATASET = 0x09,
};
#define DW12_FUA           (1u << 30)
#define DW12_DEALLOCATE    (1u << 25)
#define DATASET_DEALLOCATE (1u << 2)
#define RANGES_MAX         256u

struct range {
	le32 attributes, blocks;
	le64 first;
};

/* ---- buffers (4.3) --------------------------------------------------------------- */

/* A piece that lies in one page; what follows on the last one becomes part of it. */
static uint16_t add_segment(struct nvme_request *r, uint64_t address, uint64_t bytes)
{
	uint8_t *host = memory_at(&r->sq->n->vm->memory, address, bytes);
	struct iovec *last = r->niov ? &r->iov[r->niov - 1] : NULL;

	if (!host)
		return NVME_TRANSFER_ERROR;
	if (last && (uint8_t *)last->iov_base + last->iov_len == host)
		last->iov_len += bytes;
	else
		r->iov[r->niov++] = (struct iovec){host, bytes};
	return NVME_OK;
}

/* The n-th entry of the list that begins there, which goes on at its page's last entry if
 * there is more; `left` pages are to come. Each is read once. */
static uint16_t next_entry(
	struct nvme_request *r, uint64_t *list, uint64_t left, uint64_t *entry)
{
	const struct memory *m = &r->sq->n->vm->memory;
	le64 value;
	const void *at;

	if (*list % NVME_PAGE == NVME_PAGE - sizeof(value) && left > 1) {
		at = memory_at(m, *list, sizeof(value));
		if (!at)
			return NVME_TRANSFER_ERROR;
		memcpy(&value, at, sizeof(value));
		*list = le64_get(value);
		if (*list % NVME_PAGE)
			return NVME_PRP_OFFSET;
	}
	at = memory_at(m, *list, sizeof(value));
	if (!at)
		return NVME_TRANSFER_ERROR;
	memcpy(&value, at, sizeof(value));
	*entry = le64_get(value);
	*list += sizeof(value);
	return *entry % NVME_PAGE ? NVME_PRP_OFFSET : NVME_OK;
}

static uint16_t map_list(struct nvme_request *r, uint64_t list, uint64_t bytes)
{
	uint16_t status = list % 8 ? NVME_PRP_OFFSET : NVME_OK;
	uint64_t page;

	while (bytes && status == NVME_OK) {
		uint64_t n = MIN(bytes, (uint64_t)NVME_PAGE);

		status = next_entry(r, &list, div_round_up(bytes, NVME_PAGE), &page);
		if (status == NVME_OK)
			status = add_segment(r, page, n);
		bytes -= n;
	}
	return status;
}

uint16_t nvme_map(struct nvme_request *r, uint64_t bytes)
{
	uint64_t prp1 = le64_get(r->command.prp1), prp2 = le64_get(r->command.prp2);
	uint64_t first = MIN(bytes, NVME_PAGE - prp1 % NVME_PAGE);
	uint16_t status;

	r->niov = 0;
	if (bytes > NVME_MOST_BYTES)
		return NVME_INVALID_FIELD;
	if (!bytes)
		return NVME_OK;
	if (prp1 % 4)
		return NVME_PRP_OFFSET;
	status = add_segment(r, prp1, first);
	bytes -= first;
	if (status || !bytes)
		return status;
	if (bytes > NVME_PAGE)
		return map_list(r, prp2, bytes);
	return prp2 % NVME_PAGE ? NVME_PRP_OFFSET : add_segment(r, prp2, bytes);
}

/* ---- commands -------------------------------------------------------------------- */

struct work {
	struct nvme_request *r;
	struct disk *disk;
	uint64_t first, blocks; /* of the disk */
	uint32_t flags;         /* of what it writes */
	bool again;             /* the machine is stopping: it is made again */
};

/* What the guest gets to see of an error of the disk's. */
static uint16_t status_of(struct work *w, int ret, bool read)
{
	switch (ret) {
	case 0:
		return NVME_OK;
	case -ECANCELED:
		w->again = true;
		return NVME_LATER;
	case -EROFS:
		return NVME_WRITE_PROTECTED;
	case -ENOSPC:
	case -EDQUOT:
		return NVME_CAPACITY;
	default:
		return read ? NVME_READ_ERROR : NVME_WRITE_FAULT;
	}
}

static bool in_range(const struct work *w, uint64_t first, uint64_t blocks)
{
	return range_inside(first, blocks, disk_bytes(w->disk) / BLK_SECTOR);
}

static uint16_t do_transfer(struct work *w, bool write)
{
	struct nvme_request *r = w->r;
	uint64_t offset = w->first * BLK_SECTOR;
	uint16_t status;
	int ret;

	if (!in_range(w, w->first, w->blocks))
		return NVME_OUT_OF_RANGE;
	status = nvme_map(r, w->blocks * BLK_SECTOR);
	if (status)
		return status;
	ret = write ? disk_write(w->disk, offset, r->iov, r->niov, w->flags)
		    : disk_read(w->disk, offset, r->iov, r->niov);
	return status_of(w, ret, !write);
}

static uint16_t do_zeroes(struct work *w)
{
	uint32_t dw12 = le32_get(w->r->command.dw12);

	if (!in_range(w, w->first, w->blocks))
		return NVME_OUT_OF_RANGE;
	if ((dw12 & DW12_DEALLOCATE) && w->disk->discard)
		w->flags |= BLK_MAY_UNMAP;
	return status_of(w,
		disk_zero(w->disk, &(struct disk_range){w->first * BLK_SECTOR,
					   w->blocks * BLK_SECTOR, w->flags, NULL}),
		false);
}

/* All of them are looked at before the first is given up. Where a machine stops meanwhile they are all
 * given up once more. */
static uint16_t discard_ranges(struct work *w, const struct range *range, unsigned n)
{
	uint64_t done = 0;
	int ret = 0;

	for (unsigned i = 0; i < n; i++)
		if (!in_range(w, le64_get(range[i].first), le32_get(range[i].blocks)))
			return NVME_OUT_OF_RANGE;
	for (unsigned i = 0; i < n && ret == 0; i++)
		ret = disk_discard(w->disk,
			&(struct disk_range){
				.offset = le64_get(range[i].first) * BLK_SECTOR,
				.bytes = (uint64_t)le32_get(range[i].blocks) * BLK_SECTOR,
				.done = &done});
	return status_of(w, ret, false);
}

static uint16_t do_dataset(struct work *w)
{
	struct nvme_request *r = w->r;
	unsigned n = (le32_get(r->command.dw10) & 0xff) + 1;
	struct range *range;
	uint16_t status;

	if (!(le32_get(r->command.dw11) & DATASET_DEALLOCATE))
		return NVME_OK; /* hints, which are not used */
	status = nvme_map(r, n * sizeof(*range));
	if (status)
		return status;
	range = malloc(RANGES_MAX * sizeof(*range));
	if (!range)
		return NVME_INTERNAL_ERROR;
	iov_to_buf(r->iov, r->niov, 0, range, n * sizeof(*range));
	status = discard_ranges(w, range, n);
	free(range);
	return status;
}

static bool is_write(uint8_t opcode)
{
	return opcode == WRITE || opcode == WRITE_ZEROES || opcode == DATASET;
}

static uint16_t do_command(struct work *w)
{
	const struct nvme_command *c = &w->r->command;
	uint32_t nsid = le32_get(c->nsid);

	if (c->flags)
		return NVME_INVALID_FIELD;
	if (nsid != 1 && !(c->opcode == FLUSH && nsid == NVME_ALL))
		return NVME_INVALID_NAMESPACE;
	if (is_write(c->opcode) && w->disk->read_only)
		return NVME_WRITE_PROTECTED;
	switch (c->opcode) {
	case FLUSH:
		return status_of(w, disk_flush(w->disk), false);
	case WRITE:
		return do_transfer(w, true);
	case READ:
		return do_transfer(w, false);
	case WRITE_ZEROES:
		return do_zeroes(w);
	case DATASET:
		return do_dataset(w);
	default:
		return NVME_INVALID_OPCODE;
	}
}

static bool writes_through(const struct nvme *n, const struct nvme_command *c)
{
	return (le32_get(c->dw12) & DW12_FUA) ||
	       !__atomic_load_n(&n->feature[NVME_F_WRITE_CACHE], __ATOMIC_SEQ_CST);
}

/* The guest may have turned the cache off while it was written, and heard that all is stable. */
static uint16_t keep_stable(struct work *w)
{
	const struct nvme_command *c = &w->r->command;

	if (!is_write(c->opcode) || (w->flags & BLK_FUA) ||
		!writes_through(w->r->sq->n, c))
		return NVME_OK;
	return status_of(w, disk_flush(w->disk), false);
}

void nvme_serve_io(void *arg)
{
	struct nvme_request *r = arg;
	const struct nvme_command *c = &r->command;
	struct work w = {.r = r, .disk = r->sq->n->disk};
	uint16_t status;

	w.first = (uint64_t)le32_get(c->dw11) << 32 | le32_get(c->dw10);
	w.blocks = (le32_get(c->dw12) & 0xffff) + 1;
	w.flags = writes_through(r->sq->n, c) ? BLK_FUA : 0;
	status = do_command(&w);
	if (status == NVME_OK)
		status = keep_stable(&w);
	if (w.again)
		nvme_hold(r->sq, c);
	else
		nvme_complete(r->sq, le16_get(c->id), status, 0);
	free(r);
}
