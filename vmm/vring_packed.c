/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Packed rings (virtio 1.2, 2.8): one ring of descriptors that the driver makes available and
 * the device overwrites when it is done, and two words by which each side says when it wants
 * to be notified.
 *
 *	descriptor   address 64, bytes 32, buffer id 16, flags 16
 *	event        position 15, lap 1; flags 16
 *
 * Whose a descriptor is tell two of its flags, by the lap: each side goes round and round,
 * and its lap is 1 in the first round, 0 in the second, 1 again. Available: AVAIL = the
 * driver's lap, USED its opposite. Used: both the device's lap.
 *
 * Chains end in any order and their used descriptors are written one after the other from
 * next_used on: over those of chains that are still under way. A chain is never read again,
 * therefore, once it was taken.
 */
#include "vmm/vring.h"

#include <errno.h>

#include "base/endian.h"

struct descriptor {
	le64 address;
	le32 bytes;
	le16 id, flags;
};
#define FLAGS      14 /* where they lie in it */
#define FLAG_AVAIL (1u << 7)
#define FLAG_USED  (1u << 15)

/* Event suppression: where, when. */
#define EVENT_FLAGS   2
#define EVENT_BYTES   4
#define EVENT_ENABLE  0
#define EVENT_DISABLE 1
#define EVENT_AT      2
#define EVENT_LAP     (1u << 15)

static bool fits(const struct virtio_queue *q)
{
	const struct memory *m = &q->d->vm->memory;

	return memory_at(m, q->desc, (uint64_t)q->size * sizeof(struct descriptor)) &&
	       memory_at(m, q->avail, EVENT_BYTES) &&
	       memory_at(m, q->used, EVENT_BYTES) && !(q->desc & 15) && !(q->avail & 3) &&
	       !(q->used & 3);
}

static uint8_t *descriptor_at(const struct virtio_queue *q, unsigned i)
{
	return vring_at(q, q->desc) + (size_t)i * sizeof(struct descriptor);
}

static void advance(const struct virtio_queue *q, uint16_t *at, bool *lap, unsigned n)
{
	unsigned to = *at + n;

	if (to >= q->size) {
		to -= q->size;
		*lap = !*lap;
	}
	*at = (uint16_t)to;
}

static bool is_offered(const struct virtio_queue *q)
{
	unsigned flags = vring_load16(descriptor_at(q, q->next_avail) + FLAGS);
	bool avail = flags & FLAG_AVAIL, used = flags & FLAG_USED;

	return avail == q->avail_lap && used != q->avail_lap;
}

/* All of it (2.8.7): the rest of the flags and the ids in the table mean nothing. */
static int walk_table(struct virtio_chain *c, const struct vring_segment *where)
{
	struct descriptor d;
	unsigned entries;
	const uint8_t *table = vring_table(c->q, where, &entries);
	int ret = table ? 0 : -EINVAL;

	for (unsigned i = 0; i < entries && ret == 0; i++) {
		struct vring_segment s;

		memcpy(&d, table + (size_t)i * sizeof(d), sizeof(d));
		s = (struct vring_segment){le64_get(d.address), le32_get(d.bytes),
			le16_get(d.flags) & VRING_DESC_WRITE};
		ret = vring_add(c, &s);
	}
	return ret;
}

/* From next_avail on. The last descriptor has the id. */
static int walk(struct virtio_queue *q, struct virtio_chain *c)
{
	struct descriptor d;
	unsigned at = q->next_avail;

	for (c->descs = 1; c->descs <= q->size; c->descs++) {
		struct vring_segment s;
		unsigned flags;
		int ret;

		memcpy(&d, descriptor_at(q, at), sizeof(d));
		flags = le16_get(d.flags);
		c->id = le16_get(d.id);
		s = (struct vring_segment){
			le64_get(d.address), le32_get(d.bytes), flags & VRING_DESC_WRITE};
		if (flags & VRING_DESC_INDIRECT)
			return (flags & VRING_DESC_NEXT) || c->descs > 1
				       ? -EINVAL
				       : walk_table(c, &s);
		ret = vring_add(c, &s);
		if (ret || !(flags & VRING_DESC_NEXT))
			return ret;
		at = at + 1u < q->size ? at + 1u : 0;
	}
	return -EINVAL; /* it comes back to itself */
}

static int next(struct virtio_queue *q, struct virtio_chain *c)
{
	int ret;

	if (!is_offered(q))
		return 0;
	ret = walk(q, c);
	if (ret)
		return ret;
	advance(q, &q->next_avail, &q->avail_lap, c->descs);
	return 1;
}

static bool listen(struct virtio_queue *q)
{
	uint8_t *event = vring_at(q, q->used);

	if (q->event_idx) {
		vring_store16(event,
			(uint16_t)(q->next_avail | (q->avail_lap ? EVENT_LAP : 0)));
		vring_store16(event + EVENT_FLAGS, EVENT_AT);
	} else {
		vring_store16(event + EVENT_FLAGS, EVENT_ENABLE);
	}
	return is_offered(q);
}

static void look_away(struct virtio_queue *q)
{
	vring_store16(vring_at(q, q->used) + EVENT_FLAGS, EVENT_DISABLE);
}

/* All but the flags; these are returned. */
static uint16_t fill(
	struct virtio_queue *q, const struct virtio_chain *c, uint32_t written)
{
	uint8_t *at = descriptor_at(q, q->next_used);
	bool lap = q->used_lap;

	le32_store(at + offsetof(struct descriptor, bytes), written);
	le16_store(at + offsetof(struct descriptor, id), c->id);
	advance(q, &q->next_used, &q->used_lap, c->descs);
	return (uint16_t)((lap ? FLAG_AVAIL | FLAG_USED : 0) |
			  (written ? VRING_DESC_WRITE : 0));
}

/* The flags last, since with them the rest is the driver's; and those of the first after all
 * others, since it looks at no other before. */
static void give_back(struct virtio_queue *q, struct virtio_chain *const *chains,
	const uint32_t *written, unsigned n)
{
	unsigned from = q->next_used;
	uint16_t first = fill(q, chains[0], written[0]);

	for (unsigned i = 1; i < n; i++) {
		uint8_t *at = descriptor_at(q, q->next_used);

		vring_store16(at + FLAGS, fill(q, chains[i], written[i]));
	}
	vring_store16(descriptor_at(q, from) + FLAGS, first);
}

/* Whether those n have the one among them that the driver named. Its lap tells whether it means
 * the round in which they begin or the next. */
static bool wants_interrupt(const struct virtio_queue *q, unsigned n)
{
	const uint8_t *event = vring_at(q, q->avail);
	unsigned flags = vring_load16(event + EVENT_FLAGS) & 3u, where;
	unsigned end = q->next_used, from;
	bool lap = q->used_lap, this_round;

	if (flags != EVENT_AT || !q->event_idx)
		return flags != EVENT_DISABLE;
	if (n >= q->size)
		return true;
	if (n > end) {
		end += q->size;
		lap = !lap;
	}
	from = end - n;
	where = vring_load16(event);
	this_round = (bool)(where & EVENT_LAP) == lap;
	where = (where & ~EVENT_LAP) + (this_round ? 0 : q->size);
	return where >= from && where < end;
}

const struct vring_ops vring_packed = {
	fits, next, listen, look_away, give_back, wants_interrupt};
