/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Fuzz target: a hostile guest. The first bytes choose a device (a virtio block device, or a
 * SCSI adapter with two disks) and how its storage fails; the rest is a program of register
 * accesses, writes to memory, chains and notifications.
 *
 * Whatever the guest does: no crash, no hang; a state that was saved can be loaded; and after
 * a reset the device is as new.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/math.h"
#include "block/blk.h"
#include "vmm/virtio_blk.h"
#include "vmm/virtio_scsi.h"

#define STEPS_MAX 200u
#define RINGS     0x100000ull
#define RING_STEP 0x4000ull
#define AVAIL     0x1000ull
#define USED      0x2000ull
#define DATA      0x200000ull

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);
int LLVMFuzzerInitialize(int *argc, char ***argv);

static struct guest {
	struct vm vm;
	struct pci *pci;
	struct blk *node[2];
	struct disk *disk[2];
	uint64_t bar;
	const uint8_t *data; /* the program */
	size_t bytes;
	bool packed;
	struct {
		unsigned size, avail;
		bool lap;
	} queue[4];
} g;

/* ---- the program's bytes; zeros when there are no more ---------------------------- */

static uint64_t take(unsigned bytes)
{
	uint64_t value = 0;

	bytes = (unsigned)MIN((size_t)bytes, g.bytes);
	memcpy(&value, g.data, bytes);
	g.data += bytes;
	g.bytes -= bytes;
	return value;
}

/* Where something is, or nothing. */
static uint64_t place(void)
{
	static const uint64_t places[] = {RINGS, RINGS + AVAIL, RINGS + USED, DATA,
		DATA + 0x1000, DATA + 0x2000, DATA + 0x10000, RINGS + RING_STEP,
		RINGS + 2 * RING_STEP, RINGS + 2 * RING_STEP + AVAIL, (16 << 20) - 64,
		UINT64_MAX - 64, 0xfee00000};
	uint64_t at = places[take(1) % ARRAY_LEN(places)];

	return at + take(1) % 128;
}

/* ---- the machine ----------------------------------------------------------------- */

static void reg(unsigned offset, unsigned bytes, uint64_t value)
{
	bus_write(&g.vm.mmio, g.bar + offset, bytes, value);
}

static void each_device(bool start)
{
	__atomic_store_n(&g.vm.stopping, !start, __ATOMIC_RELEASE);
	for (struct device *d = g.vm.devices; d; d = d->next)
		if (start ? d->ops->start != NULL : d->ops->stop != NULL)
			(start ? d->ops->start : d->ops->stop)(d);
}

static void reset_all(void)
{
	for (struct device *d = g.vm.devices; d; d = d->next)
		if (d->ops->reset)
			d->ops->reset(d);
}

static void all_state(struct state *s)
{
	struct err err = ERR_INIT;

	if (!s)
		abort();
	for (struct device *d = g.vm.devices; d; d = d->next) {
		unsigned version;

		if (!d->ops->state)
			continue;
		version = state_begin(s, d->ops->name, d->instance, d->ops->version);
		if (version)
			d->ops->state(d, s, version);
		state_end(s);
	}
	if (state_ret(s, &err)) {
		fprintf(stderr, "%s\n", err.msg);
		abort();
	}
}

/* It stops, and goes on as it was, maybe elsewhere. */
static void stop_and_go(bool elsewhere)
{
	struct state *saved, *loaded;
	const uint8_t *data;
	size_t bytes;

	each_device(false);
	if (elsewhere) {
		saved = state_new();
		all_state(saved);
		data = state_data(saved, &bytes);
		loaded = state_open(data, bytes);
		reset_all();
		all_state(loaded);
		state_free(loaded);
		state_free(saved);
	}
	g.vm.wanted = VM_STATUS_RUNNING;
	each_device(true);
}

static void add_disk(unsigned i, uint8_t how)
{
	struct disk_options o = {.discard = how & 1,
		.on_read_error = how >> 1 & 3,
		.on_write_error = how >> 3 & 3,
		.serial = how & 32 ? "serial" : NULL};
	struct opts *opts = opts_new();
	struct err err = ERR_INIT;
	char what[128];

	snprintf(what, sizeof(what),
		"driver=fault,file.driver=mem,file.size=1M,ops=any,fail-at=%u,errno=EIO",
		how >> 6 ? 3u * (how >> 6) : 1000000u);
	if (opts_parse(opts, what, NULL, &err))
		abort();
	o.blk = g.node[i] = blk_open(NULL, opts, BLK_O_RDWR | BLK_O_PROTOCOL, &err);
	opts_free(opts);
	if (!o.blk || disk_new(&g.vm, &o, &g.disk[i], &err))
		abort();
}

static void make(bool scsi)
{
	struct memory_options memory = {.bytes = 16 * MiB};
	struct virtio_scsi *v = NULL;
	struct err err = ERR_INIT;

	g.vm.kvm_fd = g.vm.fd = -1;
	pthread_mutex_init(&g.vm.lock, NULL);
	pthread_cond_init(&g.vm.changed, NULL);
	bus_init(&g.vm.pio);
	bus_init(&g.vm.mmio);
	if (memory_new(&g.vm.memory, &memory, &err) || pci_new(&g.vm, &g.pci, &err))
		abort();
	add_disk(0, (uint8_t)take(1));
	add_disk(1, (uint8_t)take(1));
	if (scsi ? virtio_scsi_new(&g.vm, g.pci, 2, true, &v, &err) ||
				virtio_scsi_attach(v, g.disk[0], &err) ||
				virtio_scsi_attach(v, g.disk[1], &err)
		 : virtio_blk_new(&g.vm, g.pci, g.disk[0], 3, true, &err))
		abort();
	reset_all();
	each_device(true);
	bus_write(&g.vm.pio, 0xcf8, 4, 0x80000000u | 1u << 11 | 0x20);
	g.bar = bus_read(&g.vm.pio, 0xcfc, 4) & ~0xfull;
	bus_write(&g.vm.pio, 0xcf8, 4, 0x80000000u | 1u << 11 | 0x04);
	bus_write(&g.vm.pio, 0xcfc, 4, 0x406);
}

/* ---- what the program does ------------------------------------------------------- */

static void set_up(void)
{
	uint64_t layout = take(1), low = take(2);
	uint64_t features = 1ull << VIRTIO_F_VERSION_1 | low |
			    (layout & 1) << VIRTIO_F_RING_PACKED |
			    (layout >> 1 & 1) << VIRTIO_F_EVENT_IDX |
			    (layout >> 2 & 1) << VIRTIO_F_INDIRECT_DESC |
			    (layout >> 3 & 1) << VIRTIO_F_RING_RESET;
	unsigned size = layout >> 4 ? 1u << (layout >> 5) : (layout & 1 ? 7u : 8u);

	g.packed = layout & 1;
	reg(0x14, 1, 0);
	reg(0x08, 4, 0);
	reg(0x04, 4, 0);
	features &= bus_read(&g.vm.mmio, g.bar + 0x04, 4) | 0xffffffffull << 32;
	reg(0x0c, 4, features);
	reg(0x08, 4, 1);
	reg(0x0c, 4, features >> 32);
	reg(0x14, 1, 11);
	for (unsigned i = 0; i < 4; i++) {
		uint64_t at = RINGS + i * RING_STEP;

		memset(memory_at(&g.vm.memory, at, RING_STEP), 0, RING_STEP);
		g.queue[i].size = size;
		g.queue[i].avail = 0;
		g.queue[i].lap = true;
		reg(0x16, 2, i);
		reg(0x18, 2, size);
		reg(0x20, 8, at);
		reg(0x28, 8, at + AVAIL);
		reg(0x30, 8, at + USED);
		reg(0x1c, 2, 1);
	}
	reg(0x14, 1, 15);
}

struct descriptor {
	uint64_t address;
	uint32_t bytes;
	uint16_t a, b;
};

static void put(
	struct descriptor *table, unsigned i, unsigned n, unsigned total, bool lap)
{
	struct descriptor d = {place(), (uint32_t)take(2) % 2048, 0, 0};
	unsigned how = (unsigned)take(1);
	uint16_t flags = (uint16_t)((how & 1 ? 2 : 0) | (how >= 0xf0 ? 4 : 0) |
				    (n + 1 < total ? 1 : 0));

	d.a = g.packed ? (uint16_t)i : flags;
	d.b = g.packed ? (uint16_t)(flags | (lap ? 0x80 : 0x8000)) : (uint16_t)(i + 1);
	memcpy(&table[i], &d, g.packed ? 14 : 16);
	if (g.packed)
		__atomic_store_n(&table[i].b, d.b, __ATOMIC_RELEASE);
}

/* A chain where the driver is in its ring. */
static void offer(void)
{
	unsigned q = (unsigned)take(1) % 4, total = 1 + (unsigned)take(1) % 4;
	uint64_t at = RINGS + q * RING_STEP;
	unsigned size = g.queue[q].size, first = g.queue[q].avail;
	struct descriptor *table = memory_at(&g.vm.memory, at, RING_STEP);
	uint16_t *avail = memory_at(&g.vm.memory, at + AVAIL, RING_STEP - AVAIL);

	if (!size)
		return;
	for (unsigned n = 0; n < total; n++) {
		unsigned i = g.packed ? g.queue[q].avail : n % size;

		put(table, i, n, total, g.queue[q].lap);
		if (g.packed && ++g.queue[q].avail == size) {
			g.queue[q].avail = 0;
			g.queue[q].lap = !g.queue[q].lap;
		}
	}
	if (!g.packed) {
		avail[2 + first % size] = 0;
		__atomic_store_n(&avail[1], (uint16_t)(first + 1), __ATOMIC_RELEASE);
		g.queue[q].avail++;
	}
	reg(0x3000 + 4 * q, 2, q);
	usleep(50);
}

static void write_memory(void)
{
	uint64_t at = place();
	unsigned bytes = (unsigned)take(1) % 64;
	uint8_t *to = memory_at(&g.vm.memory, at, 64);

	bytes = (unsigned)MIN((size_t)bytes, g.bytes);
	if (to)
		memcpy(to, g.data, bytes);
	g.data += bytes;
	g.bytes -= bytes;
}

static void step(void)
{
	struct err err = ERR_INIT;
	unsigned offset, bytes;

	switch (take(1) % 10) {
	case 0:
		offset = (unsigned)take(2) % 0x4000;
		bytes = 1u << take(1) % 4;
		reg(offset, bytes, take(bytes));
		break;
	case 1:
		offset = (unsigned)take(2) % 0x4000;
		bus_read(&g.vm.mmio, g.bar + offset, 1u << take(1) % 4);
		break;
	case 2:
		reg(0x3000 + 4 * (take(1) % 8), 2, 0);
		usleep(20);
		break;
	case 3:
		set_up();
		break;
	case 4:
		stop_and_go(take(1) & 1);
		break;
	case 5:
		disk_resize(g.disk[take(1) % 2], take(2) % 4096 * 512, &err);
		break;
	case 6:
	case 7:
		write_memory();
		break;
	default:
		offer();
	}
}

/* Nothing of what was done lasts. */
static void expect_new(void)
{
	each_device(false);
	reset_all();
	g.vm.wanted = VM_STATUS_RUNNING;
	each_device(true);
	bus_write(&g.vm.pio, 0xcf8, 4, 0x80000000u | 1u << 11 | 0x04);
	bus_write(&g.vm.pio, 0xcfc, 4, 0x406);
	bus_write(&g.vm.pio, 0xcf8, 4, 0x80000000u | 1u << 11 | 0x20);
	g.bar = bus_read(&g.vm.pio, 0xcfc, 4) & ~0xfull;
	if (bus_read(&g.vm.mmio, g.bar + 0x14, 1))
		abort();
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	log_set_sink(NULL);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	memset(&g, 0, sizeof(g));
	g.data = data;
	g.bytes = bytes;
	make(take(1) & 1);
	for (unsigned i = 0; i < STEPS_MAX && g.bytes; i++)
		step();
	expect_new();
	each_device(false);
	vm_free(&g.vm);
	for (unsigned i = 0; i < 2; i++)
		blk_close(g.node[i]);
	return 0;
}
