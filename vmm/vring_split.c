/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Split rings (virtio 1.2, 2.7): a table of descriptors, a ring of those that the driver
 * offers, and one of those that the device is done with.
 *
 *	available  flags, index, index[size], used_event
 *	used       flags, index, {head, bytes}[size], avail_event
 *
 * Indexes count on and wrap at 2^16; the places they stand for wrap at the size.
 */
#include "vmm/vring.h"

#include <errno.h>

#include "base/endian.h"

struct descriptor {
	le64 address;
	le32 bytes;
	le16 flags, next;
};

struct used_element {
	le32 id, bytes;
};
#define RING_HEADER        4 /* flags, index */
#define INDEX              2
#define AVAIL_NO_INTERRUPT 1
#define USED_NO_NOTIFY     1

static uint64_t avail_bytes(const struct virtio_queue *q)
{
	return RING_HEADER + 2ull * q->size;
}

static uint64_t used_bytes(const struct virtio_queue *q)
{
	return RING_HEADER + (uint64_t)q->size * sizeof(struct used_element);
}

static bool fits(const struct virtio_queue *q)
{
	const struct memory *m = &q->d->vm->memory;
	uint64_t event = q->event_idx ? 2 : 0;

	return memory_at(m, q->desc, (uint64_t)q->size * sizeof(struct descriptor)) &&
	       memory_at(m, q->avail, avail_bytes(q) + event) &&
	       memory_at(m, q->used, used_bytes(q) + event) && !(q->desc & 15) &&
	       !(q->avail & 1) && !(q->used & 3);
}

/* Follows a table from its i-th descriptor. */
static int walk(struct virtio_chain *c, const uint8_t *table, unsigned entries,
	unsigned i, bool indirect)
{
	struct descriptor d;
	unsigned below;

	for (unsigned steps = 0; steps < entries; steps++) {
		struct vring_segment s;
		unsigned flags;
		int ret;

		if (i >= entries)
			return -EINVAL;
		memcpy(&d, table + (size_t)i * sizeof(d), sizeof(d));
		flags = le16_get(d.flags);
		s = (struct vring_segment){
			le64_get(d.address), le32_get(d.bytes), flags & VRING_DESC_WRITE};
		if (flags & VRING_DESC_INDIRECT) {
			/* Such a table ends the chain (2.7.5.3.1), but there may be
			 * others before it (2.7.5.3.2). */
			if (indirect || (flags & VRING_DESC_NEXT))
				return -EINVAL;
			table = vring_table(c->q, &s, &below);
			return table ? walk(c, table, below, 0, true) : -EINVAL;
		}
		ret = vring_add(c, &s);
		if (ret || !(flags & VRING_DESC_NEXT))
			return ret;
		i = le16_get(d.next);
	}
	return -EINVAL; /* it comes back to itself */
}

/* A guest that offers more than there are descriptors has offered some twice. */
static int next(struct virtio_queue *q, struct virtio_chain *c)
{
	const uint8_t *avail = vring_at(q, q->avail);
	uint16_t offered = (uint16_t)(vring_load16(avail + INDEX) - q->next_avail);
	int ret;

	if (!offered)
		return 0;
	if (offered > q->size)
		return -EINVAL;
	c->id = vring_load16(avail + RING_HEADER + 2 * (q->next_avail % q->size));
	c->descs = 1;
	ret = walk(c, vring_at(q, q->desc), q->size, c->id, false);
	if (ret)
		return ret;
	q->next_avail++;
	return 1;
}

/* With event indexes the guest notifies when its index passes the one that we name, else
 * unless a flag forbids it. */
static bool listen(struct virtio_queue *q)
{
	uint8_t *used = vring_at(q, q->used);

	if (q->event_idx)
		vring_store16(used + used_bytes(q), q->next_avail);
	else
		vring_store16(used, 0);
	return vring_load16(vring_at(q, q->avail) + INDEX) != q->next_avail;
}

static void look_away(struct virtio_queue *q)
{
	if (!q->event_idx) /* its index is about to leave the one that we named behind */
		vring_store16(vring_at(q, q->used), USED_NO_NOTIFY);
}

static void give_back(struct virtio_queue *q, struct virtio_chain *const *chains,
	const uint32_t *written, unsigned n)
{
	uint8_t *used = vring_at(q, q->used);

	for (unsigned i = 0; i < n; i++) {
		struct used_element e = {le32_put(chains[i]->id), le32_put(written[i])};

		memcpy(used + RING_HEADER + sizeof(e) * (q->next_used % q->size), &e,
			sizeof(e));
		q->next_used++;
	}
	vring_store16(used + INDEX, q->next_used);
}

/* Each index is asked about once, after it was passed. */
static bool wants_interrupt(const struct virtio_queue *q, unsigned n)
{
	const uint8_t *avail = vring_at(q, q->avail);

	if (q->event_idx)
		return (uint16_t)(q->next_used - 1 -
				  vring_load16(avail + avail_bytes(q))) < n;
	return !(vring_load16(avail) & AVAIL_NO_INTERRUPT);
}

const struct vring_ops vring_split = {
	fits, next, listen, look_away, give_back, wants_interrupt};
