/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Virtio block devices. See virtio_blk.h.
 *
 * A request is a chain: header, data, and a status byte at its very end. Each is a task of
 * the queue's loop and goes straight to the block layer with the guest's own buffers.
 *
 * A write is acknowledged when the block layer has it; it is stable after a flush, or at
 * once where the guest did not negotiate flushes (5.2.6.2).
 */
#include "vmm/virtio_blk.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/endian.h"
#include "base/iov.h"
#include "base/math.h"

#define SERIAL_BYTES 20ull
/* Of one request. */
#define DISCARD_RANGES 32u
#define ZEROES_RANGES  1u
#define RANGE_SECTORS  (BLK_MAX_REQUEST / BLK_SECTOR)

enum feature {
	F_SEG_MAX = 2,
	F_RO = 5,
	F_BLK_SIZE = 6,
	F_FLUSH = 9,
	F_MQ = 12,
	F_DISCARD = 13,
	F_WRITE_ZEROES = 14,
};
enum type {
	TYPE_IN = 0,
	TYPE_OUT = 1,
	TYPE_FLUSH = 4,
	TYPE_GET_ID = 8,
	TYPE_DISCARD = 11,
	TYPE_WRITE_ZEROES = 13
};
enum status { STATUS_OK = 0, STATUS_ERROR = 1, STATUS_UNSUPPORTED = 2 };

/* struct virtio_blk_config. */
enum config {
	CAPACITY = 0,
	SEG_MAX = 12,
	BLOCK_SIZE = 20,
	QUEUES = 34,
	MAX_DISCARD_SECTORS = 36,
	MAX_DISCARD_RANGES = 40,
	DISCARD_ALIGNMENT = 44,
	MAX_ZEROES_SECTORS = 48,
	MAX_ZEROES_RANGES = 52,
	ZEROES_MAY_UNMAP = 56,
	CONFIG_BYTES = 60,
};

struct header {
	le32 type, reserved;
	le64 sector;
};
struct range {
	le64 sector;
	le32 sectors, flags;
};
#define RANGE_UNMAP 1

struct virtio_blk {
	struct virtio_device virtio; /* first */
	struct disk *disk;
};

static struct virtio_blk *blk_of(struct virtio_device *d)
{
	return (struct virtio_blk *)d;
}

/* ---- requests -------------------------------------------------------------------- */

struct work {
	struct virtio_blk *v;
	struct virtio_chain *c;
	struct header header;
	struct iovec *data; /* of what is to be read or written */
	int n_data;
	uint64_t bytes, offset;
};

/* Whole sectors inside the disk. */
static bool in_range(const struct work *w)
{
	uint64_t size = round_down(disk_bytes(w->v->disk), BLK_SECTOR);

	return w->bytes % BLK_SECTOR == 0 && w->bytes <= BLK_MAX_REQUEST &&
	       le64_get(w->header.sector) <= size / BLK_SECTOR &&
	       w->bytes <= size - w->offset;
}

static int do_read(struct work *w)
{
	if (!in_range(w))
		return -EINVAL;
	return w->bytes ? disk_read(w->v->disk, w->offset, w->data, w->n_data) : 0;
}

static int do_write(struct work *w)
{
	unsigned flags = virtio_has(&w->v->virtio, F_FLUSH) ? 0 : BLK_FUA;

	if (w->v->disk->read_only)
		return -EROFS;
	if (!in_range(w))
		return -EINVAL;
	return w->bytes ? disk_write(w->v->disk, w->offset, w->data, w->n_data, flags)
			: 0;
}

/* The driver has been told how much of it there may be. A flag that means nothing here is not
 * an error but something that is not supported (5.2.6.2). */
static int check_range(const struct work *w, const struct range *r, bool zeroes)
{
	uint64_t size = disk_bytes(w->v->disk) / BLK_SECTOR;
	uint64_t sector = le64_get(r->sector), sectors = le32_get(r->sectors);

	if (le32_get(r->flags) & ~(zeroes ? RANGE_UNMAP : 0u))
		return -ENOTSUP;
	return sectors <= RANGE_SECTORS && range_inside(sector, sectors, size) ? 0
									       : -EINVAL;
}

/* But for so many bytes of it. */
static int do_range(struct work *w, const struct range *r, uint64_t but, bool zeroes)
{
	struct disk_range range = {.offset = le64_get(r->sector) * BLK_SECTOR + but,
		.bytes = (uint64_t)le32_get(r->sectors) * BLK_SECTOR - but,
		.done = &w->c->done};

	if (!zeroes)
		return disk_discard(w->v->disk, &range);
	range.flags = (le32_get(r->flags) & RANGE_UNMAP ? BLK_MAY_UNMAP : 0) |
		      (virtio_has(&w->v->virtio, F_FLUSH) ? 0 : BLK_FUA);
	return disk_zero(w->v->disk, &range);
}

/* Where it was held half-way it goes on from there. */
static int do_all(struct work *w, const struct range *r, size_t n, bool zeroes)
{
	uint64_t before = w->c->done;
	int ret = 0;

	for (size_t i = 0; i < n && ret == 0; i++) {
		uint64_t bytes = (uint64_t)le32_get(r[i].sectors) * BLK_SECTOR;
		uint64_t but = MIN(before, bytes);

		before -= but;
		ret = do_range(w, &r[i], but, zeroes);
	}
	return ret;
}

/* All of them are looked at before the first is done. */
static int do_ranges(struct work *w, bool zeroes)
{
	struct range r[DISCARD_RANGES];
	unsigned most = zeroes ? ZEROES_RANGES : DISCARD_RANGES;
	size_t n = w->bytes / sizeof(r[0]);
	int ret = 0;

	if (w->v->disk->read_only)
		return -EROFS;
	if (!n || w->bytes % sizeof(r[0]) || n > most)
		return -EINVAL;
	iov_to_buf(w->data, w->n_data, 0, r, w->bytes);
	for (size_t i = 0; i < n && ret == 0; i++)
		ret = check_range(w, &r[i], zeroes);
	return ret ? ret : do_all(w, r, n, zeroes);
}

static int get_id(struct work *w)
{
	char serial[DISK_SERIAL_MAX] = "";

	w->bytes = MIN(w->bytes, SERIAL_BYTES);
	strcpy(serial, w->v->disk->serial);
	iov_from_buf(w->data, w->n_data, 0, serial, w->bytes);
	return 0;
}

static int do_work(struct work *w)
{
	switch (le32_get(w->header.type)) {
	case TYPE_IN:
		return do_read(w);
	case TYPE_OUT:
		return do_write(w);
	case TYPE_FLUSH:
		return disk_flush(w->v->disk);
	case TYPE_GET_ID:
		return get_id(w);
	case TYPE_DISCARD:
		return virtio_has(&w->v->virtio, F_DISCARD) ? do_ranges(w, false)
							    : -ENOTSUP;
	case TYPE_WRITE_ZEROES:
		return virtio_has(&w->v->virtio, F_WRITE_ZEROES) ? do_ranges(w, true)
								 : -ENOTSUP;
	default:
		return -ENOTSUP;
	}
}

static bool takes_data(uint32_t type)
{
	return type == TYPE_IN || type == TYPE_GET_ID;
}

/* Cuts the chain up: the header at its start, the status at its end, data in between. */
static bool parse(struct work *w, struct iovec *segments)
{
	struct virtio_chain *c = w->c;
	uint64_t skip;

	if (c->out_bytes < sizeof(w->header) || !c->in_bytes)
		return false;
	iov_to_buf(c->iov, (int)c->n_out, 0, &w->header, sizeof(w->header));
	w->offset = le64_get(w->header.sector) * BLK_SECTOR;
	w->data = segments;
	if (takes_data(le32_get(w->header.type))) {
		w->bytes = c->in_bytes - 1;
		w->n_data =
			iov_slice(segments, c->iov + c->n_out, (int)c->n_in, 0, w->bytes);
	} else {
		skip = sizeof(w->header);
		w->bytes = c->out_bytes - skip;
		w->n_data = iov_slice(segments, c->iov, (int)c->n_out, skip, w->bytes);
	}
	return true;
}

static uint8_t status_of(int ret)
{
	return ret == 0 ? STATUS_OK : ret == -ENOTSUP ? STATUS_UNSUPPORTED : STATUS_ERROR;
}

static void serve(struct virtio_device *d, struct virtio_chain *c)
{
	struct iovec *segments = malloc((c->n_out + c->n_in) * sizeof(*segments));
	struct work w = {.v = blk_of(d), .c = c};
	uint8_t status;
	uint32_t written = 1;
	int ret;

	if (!segments || !parse(&w, segments)) {
		free(segments);
		virtio_break(d, "a request has no header or no place for its status");
		virtio_done(c, 0);
		return;
	}
	ret = do_work(&w);
	if (ret == -ECANCELED) {
		free(segments);
		virtio_hold(c);
		return;
	}
	status = status_of(ret);
	if (takes_data(le32_get(w.header.type)) && status == STATUS_OK)
		written += (uint32_t)w.bytes;
	iov_from_buf(c->iov + c->n_out, (int)c->n_in, c->in_bytes - 1, &status, 1);
	free(segments);
	virtio_done(c, written);
}

/* ---- making one ------------------------------------------------------------------ */

static void blk_device_free(struct virtio_device *d)
{
	free(blk_of(d));
}

static const struct virtio_device_ops ops = {
	.name = "virtio-blk",
	.id = 2,
	.class_code = 0x010000, /* SCSI storage, as others call it */
	.version = 1,
	.serve = serve,
	.free = blk_device_free,
};

/* The disk has another size (5.2.6.1). */
static void resized(void *front)
{
	struct virtio_blk *v = front;
	le64 sectors = le64_put(disk_bytes(v->disk) / BLK_SECTOR);

	virtio_set_config(&v->virtio, CAPACITY, &sectors, sizeof(sectors), true);
}

static void fill_config(struct virtio_blk *v, unsigned queues)
{
	uint8_t *config = v->virtio.config;
	uint64_t features = 1u << F_SEG_MAX | 1u << F_BLK_SIZE | 1u << F_FLUSH;

	v->virtio.config_bytes = CONFIG_BYTES;
	le64_store(config + CAPACITY, disk_bytes(v->disk) / BLK_SECTOR);
	le32_store(config + SEG_MAX, VIRTIO_QUEUE_SIZE - 2);
	le32_store(config + BLOCK_SIZE, BLK_SECTOR);
	le16_store(config + QUEUES, (uint16_t)queues);
	if (queues > 1)
		features |= 1u << F_MQ;
	if (v->disk->read_only)
		features |= 1u << F_RO;
	if (!v->disk->read_only) {
		features |= 1u << F_WRITE_ZEROES;
		le32_store(config + MAX_ZEROES_SECTORS, RANGE_SECTORS);
		le32_store(config + MAX_ZEROES_RANGES, ZEROES_RANGES);
		config[ZEROES_MAY_UNMAP] = v->disk->discard;
	}
	if (!v->disk->read_only && v->disk->discard) {
		features |= 1u << F_DISCARD;
		le32_store(config + MAX_DISCARD_SECTORS, RANGE_SECTORS);
		le32_store(config + MAX_DISCARD_RANGES, DISCARD_RANGES);
		le32_store(config + DISCARD_ALIGNMENT, 8);
	}
	v->virtio.features = features;
}

int virtio_blk_new(struct vm *vm, struct pci *pci, struct disk *disk, unsigned queues,
	bool packed, struct err *err)
{
	struct virtio_blk *v = calloc(1, sizeof(*v));
	int ret;

	if (!v)
		return err_errno(err, ENOMEM, "virtio-blk");
	v->virtio.ops = &ops;
	v->virtio.n_queues = queues;
	v->disk = disk;
	fill_config(v, queues);
	if (packed)
		v->virtio.features |= 1ull << VIRTIO_F_RING_PACKED;
	ret = virtio_add(&v->virtio, vm, pci, -1, err);
	if (ret) {
		free(v);
		return ret;
	}
	disk->iface = "virtio";
	disk->front = v;
	disk->resized = resized;
	disk->plug = &v->virtio.device;
	snprintf(disk->boot_path, sizeof(disk->boot_path), "/pci@i0cf8/scsi@%x/disk@0,0",
		v->virtio.pci.slot);
	return 0;
}
