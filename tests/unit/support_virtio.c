/* SPDX-License-Identifier: BSD-2-Clause */
/* A guest's side of virtio. See support_virtio.h. */
#include "support_virtio.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/math.h"
#include "tests/unit/support_bare.h"

#define NEXT      1u
#define WRITE     2u
#define INDIRECT  4u
#define FLAG_USED (1u << 15)

struct descriptor {
	uint64_t address;
	uint32_t bytes;
	uint16_t a, b; /* split: flags, next; packed: id, flags */
};

/* ---- the machine ----------------------------------------------------------------- */

void guest_make(struct guest *g)
{
	struct err err = ERR_INIT;
	int ret;

	memset(g, 0, sizeof(*g));
	bare_make(&g->vm, GUEST_MEMORY);
	ret = pci_new(&g->vm, &g->pci, &err);
	assert(ret == 0);
}

void guest_go_on(struct guest *g)
{
	bare_start(&g->vm);
}

void guest_stop(struct guest *g)
{
	bare_stop(&g->vm);
}

void guest_start(struct guest *g)
{
	bare_reset(&g->vm);
	guest_go_on(g);
	g->slot = 1;
	g->bar = guest_config_read(g, 1, 0x20) & ~0xfu;
	guest_config_write(g, 1, 0x04, 0x406);
}

void guest_free(struct guest *g)
{
	vm_free(&g->vm);
}

uint8_t *guest_save(struct guest *g, size_t *bytes)
{
	struct state *s = state_new();
	const uint8_t *data;
	uint8_t *copy;

	assert(s);
	bare_state(&g->vm, s);
	assert(state_ret(s, NULL) == 0);
	data = state_data(s, bytes);
	copy = malloc(*bytes);
	assert(copy);
	memcpy(copy, data, *bytes);
	state_free(s);
	return copy;
}

int guest_load(struct guest *g, const uint8_t *data, size_t bytes)
{
	struct state *s = state_open(data, bytes);
	struct err err = ERR_INIT;
	int ret;

	assert(s);
	bare_reset(&g->vm);
	bare_state(&g->vm, s);
	ret = state_ret(s, &err);
	state_free(s);
	return ret;
}

void *guest_at(struct guest *g, uint64_t address)
{
	return memory_at(&g->vm.memory, address, 1);
}

uint32_t guest_config_read(struct guest *g, unsigned slot, unsigned reg)
{
	return bare_config_read(&g->vm, slot, reg);
}

void guest_config_write(struct guest *g, unsigned slot, unsigned reg, uint32_t value)
{
	bare_config_write(&g->vm, slot, reg, value);
}

uint64_t guest_get(struct guest *g, unsigned offset, unsigned bytes)
{
	return bus_read(&g->vm.mmio, g->bar + offset, bytes);
}

void guest_set(struct guest *g, unsigned offset, unsigned bytes, uint64_t value)
{
	bus_write(&g->vm.mmio, g->bar + offset, bytes, value);
}

bool guest_is_broken(struct guest *g)
{
	return guest_get(g, 0x14, 1) & 64;
}

/* ---- set-up ---------------------------------------------------------------------- */

static uint8_t *ring(struct guest *g, unsigned q, uint64_t part)
{
	return guest_at(g, GUEST_RINGS + q * GUEST_RING_BYTES + part);
}

void guest_set_up_queue(struct guest *g, unsigned q, unsigned size)
{
	uint64_t at = GUEST_RINGS + q * GUEST_RING_BYTES;

	assert(size <= GUEST_SIZE_MAX && q < GUEST_QUEUES);
	memset(guest_at(g, at), 0, GUEST_RING_BYTES);
	g->queue[q] = (struct guest_queue){
		.size = size, .free = size, .avail_lap = true, .used_lap = true};
	guest_set(g, 0x16, 2, q);
	guest_set(g, 0x18, 2, size);
	guest_set(g, 0x20, 8, at + GUEST_DESC);
	guest_set(g, 0x28, 4, at + GUEST_AVAIL);
	guest_set(g, 0x2c, 4, 0);
	guest_set(g, 0x30, 8, at + GUEST_USED);
	guest_set(g, 0x1c, 2, 1);
}

void guest_set_up(struct guest *g, uint64_t features, unsigned queues, unsigned size)
{
	features |= 1ull << VIRTIO_F_VERSION_1;
	g->packed = features >> VIRTIO_F_RING_PACKED & 1;
	g->event_idx = features >> VIRTIO_F_EVENT_IDX & 1;
	g->indirect = features >> VIRTIO_F_INDIRECT_DESC & 1;
	guest_set(g, 0x14, 1, 0);
	guest_set(g, 0x14, 1, 3);
	guest_set(g, 0x08, 4, 0);
	guest_set(g, 0x0c, 4, features & UINT32_MAX);
	guest_set(g, 0x08, 4, 1);
	guest_set(g, 0x0c, 4, features >> 32);
	guest_set(g, 0x14, 1, 11);
	assert(guest_get(g, 0x14, 1) == 11);
	for (unsigned i = 0; i < queues; i++)
		guest_set_up_queue(g, i, size);
	guest_set(g, 0x14, 1, 15);
}

/* ---- rings ----------------------------------------------------------------------- */

static uint16_t load(const void *p)
{
	return __atomic_load_n((const uint16_t *)p, __ATOMIC_SEQ_CST);
}

static void store(void *p, uint16_t value)
{
	__atomic_store_n((uint16_t *)p, value, __ATOMIC_SEQ_CST);
}

static struct descriptor *table(struct guest *g, unsigned q)
{
	return (struct descriptor *)(void *)ring(g, q, GUEST_DESC);
}

static unsigned free_id(const struct guest_queue *k)
{
	unsigned id = 0;

	while (k->descs[id])
		id++;
	assert(id < k->size);
	return id;
}

static unsigned write_table(struct guest *g, unsigned q, unsigned id,
	const struct guest_buffer *b, unsigned n)
{
	struct descriptor *t =
		(void *)(ring(g, q, GUEST_INDIRECT) + id % 64 * GUEST_TABLE * sizeof(*t));

	assert(n <= GUEST_TABLE && g->queue[q].size <= 64);
	for (unsigned i = 0; i < n; i++) {
		unsigned flags = b[i].write ? WRITE : 0;

		t[i] = (struct descriptor){b[i].address, b[i].bytes, 0, (uint16_t)flags};
		if (g->packed)
			continue;
		t[i].a = (uint16_t)(flags | (i + 1 < n ? NEXT : 0));
		t[i].b = (uint16_t)(i + 1);
	}
	return (unsigned)(GUEST_RINGS + q * GUEST_RING_BYTES + GUEST_INDIRECT +
			  id % 64 * GUEST_TABLE * sizeof(*t));
}

/* The flags that say whose it is: available in this lap. */
static uint16_t lap_flags(bool lap)
{
	return lap ? 1u << 7 : FLAG_USED;
}

static void step(const struct guest_queue *k, uint16_t *at, bool *lap, unsigned n)
{
	*at = (uint16_t)(*at + n);
	if (*at >= k->size) {
		*at = (uint16_t)(*at - k->size);
		*lap = !*lap;
	}
}

/* The head's flags come last: with them all of it is the device's. */
static void write_packed(struct guest *g, unsigned q, unsigned id,
	const struct guest_buffer *b, unsigned n, unsigned extra)
{
	struct guest_queue *k = &g->queue[q];
	uint16_t at = k->next_avail, head = at, head_flags = 0;
	bool lap = k->avail_lap;

	for (unsigned i = 0; i < n; i++) {
		struct descriptor *d = &table(g, q)[at];
		uint16_t flags =
			(uint16_t)(lap_flags(lap) | extra | (b[i].write ? WRITE : 0) |
				   (i + 1 < n ? NEXT : 0));

		d->address = b[i].address;
		d->bytes = b[i].bytes;
		d->a = (uint16_t)id;
		if (i)
			store(&d->b, flags);
		else
			head_flags = flags;
		step(k, &at, &lap, 1);
	}
	store(&table(g, q)[head].b, head_flags);
	k->next_avail = at;
	k->avail_lap = lap;
}

/* Descriptors are those that no chain has: a chain's id is its first. */
static unsigned write_split(struct guest *g, unsigned q, const struct guest_buffer *b,
	unsigned n, unsigned extra)
{
	struct guest_queue *k = &g->queue[q];
	unsigned head = free_id(k), at = head, last = head;

	for (unsigned i = 0; i < n; i++) {
		struct descriptor *d;

		at = free_id(k);
		k->descs[at] = 1;
		if (i) {
			table(g, q)[last].b = (uint16_t)at;
			k->link[last] = (uint16_t)at;
		}
		d = &table(g, q)[at];
		d->address = b[i].address;
		d->bytes = b[i].bytes;
		d->a = (uint16_t)(extra | (b[i].write ? WRITE : 0) |
				  (i + 1 < n ? NEXT : 0));
		last = at;
	}
	k->descs[head] = (uint16_t)n;
	store(ring(g, q, GUEST_AVAIL) + 4 + 2 * (k->next_avail % k->size),
		(uint16_t)head);
	k->next_avail++;
	store(ring(g, q, GUEST_AVAIL) + 2, k->next_avail);
	return head;
}

/* Does the device want to hear that descriptors from `from` on were offered, n of them? */
static bool is_kick_wanted(
	struct guest *g, unsigned q, unsigned from, bool lap, unsigned n)
{
	struct guest_queue *k = &g->queue[q];
	uint8_t *used = ring(g, q, GUEST_USED);
	unsigned event;

	if (!g->packed)
		return g->event_idx ? load(used + 4 + 8 * k->size) ==
					      (uint16_t)(k->next_avail - 1)
				    : !(load(used) & 1);
	if (load(used + 2) != 2)
		return load(used + 2) == 0;
	event = load(used);
	if ((bool)(event >> 15) != lap)
		event += k->size;
	event &= 0x7fff;
	return event >= from && event < from + n;
}

static void kick(struct guest *g, unsigned q)
{
	g->queue[q].kicks++;
	guest_set(g, 0x3000 + 4 * q, 2, q);
}

unsigned guest_offer(
	struct guest *g, unsigned q, const struct guest_buffer *b, unsigned n)
{
	struct guest_queue *k = &g->queue[q];
	unsigned from = k->next_avail, id = free_id(k), extra = 0;
	bool lap = k->avail_lap;
	struct guest_buffer one;

	if (g->indirect && n > 1 && n <= GUEST_TABLE) {
		one = (struct guest_buffer){write_table(g, q, id, b, n), n * 16, false};
		b = &one;
		n = 1;
		extra = INDIRECT;
	}
	assert(n <= k->free);
	k->free -= n;
	if (g->packed) {
		k->descs[id] = (uint16_t)n;
		write_packed(g, q, id, b, n, extra);
	} else {
		id = write_split(g, q, b, n, extra);
	}
	if (is_kick_wanted(g, q, from, lap, n))
		kick(g, q);
	return id;
}

static int done_packed(struct guest *g, unsigned q, uint32_t *written)
{
	struct guest_queue *k = &g->queue[q];
	struct descriptor *d = &table(g, q)[k->last_used];
	unsigned flags = load(&d->b), id;

	if ((bool)(flags & FLAG_USED) != k->used_lap ||
		(bool)(flags & 1u << 7) != k->used_lap)
		return -1;
	id = d->a;
	*written = d->bytes;
	assert(id < k->size && k->descs[id]);
	k->free += k->descs[id];
	step(k, &k->last_used, &k->used_lap, k->descs[id]);
	k->descs[id] = 0;
	return (int)id;
}

static int done_split(struct guest *g, unsigned q, uint32_t *written)
{
	struct guest_queue *k = &g->queue[q];
	uint8_t *used = ring(g, q, GUEST_USED);
	uint32_t e[2];
	unsigned id, at, n;

	if (load(used + 2) == k->last_used)
		return -1;
	memcpy(e, used + 4 + 8 * (k->last_used % k->size), sizeof(e));
	k->last_used++;
	id = at = e[0];
	*written = e[1];
	assert(id < k->size && k->descs[id]);
	n = k->descs[id];
	k->free += n;
	while (n--) {
		k->descs[at] = 0;
		at = k->link[at];
	}
	return (int)id;
}

int guest_done(struct guest *g, unsigned q, uint32_t *written)
{
	return g->packed ? done_packed(g, q, written) : done_split(g, q, written);
}

/* An interrupt is wanted for the next chain that ends. */
static void want_interrupt(struct guest *g, unsigned q)
{
	struct guest_queue *k = &g->queue[q];
	uint8_t *avail = ring(g, q, GUEST_AVAIL);

	if (!g->event_idx)
		return;
	if (!g->packed) {
		store(avail + 4 + 2 * k->size, k->last_used);
		return;
	}
	store(avail, (uint16_t)(k->last_used | (k->used_lap ? 1u << 15 : 0)));
	store(avail + 2, 2);
}

int guest_wait(struct guest *g, unsigned q, uint32_t *written)
{
	int id = guest_done(g, q, written);

	if (id >= 0)
		return id;
	want_interrupt(g, q);
	id = guest_done(g, q, written);
	for (unsigned i = 0; id < 0 && !guest_is_broken(g) && i < 200000; i++) {
		if (guest_get(g, 0x1000, 1) & 1)
			id = guest_done(g, q, written);
		else
			usleep(50);
	}
	return id;
}

/* ---- by hand --------------------------------------------------------------------- */

void guest_put(struct guest *g, unsigned q, unsigned i, uint64_t address, uint32_t bytes,
	uint16_t flags, uint16_t id)
{
	struct descriptor *d = &table(g, q)[i];
	const struct guest_queue *k = &g->queue[q];
	uint16_t lap = lap_flags(i == k->next_avail ? !k->avail_lap : k->avail_lap);

	d->address = address;
	d->bytes = bytes;
	d->a = g->packed ? id : flags;
	store(&d->b, g->packed ? flags | lap : id); /* the device may look */
}

void guest_offer_raw(struct guest *g, unsigned q, uint16_t head)
{
	struct guest_queue *k = &g->queue[q];

	if (g->packed) {
		uint16_t *flags = &table(g, q)[k->next_avail].b;

		store(flags, *flags ^ (lap_flags(true) | lap_flags(false)));
	} else {
		store(ring(g, q, GUEST_AVAIL) + 4 + 2 * (k->next_avail % k->size), head);
		k->next_avail++;
		store(ring(g, q, GUEST_AVAIL) + 2, k->next_avail);
	}
	kick(g, q);
}
