/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A virtio block device as a driver sees it, without KVM: found on PCI, set up, read and
 * written through rings of both layouts that are made as the specification says, against a
 * flat model; then rings that are made as no specification says, which may break the device
 * until it is reset and nothing else; and what was under way when the machine stopped.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backends/fault.h"
#include "base/math.h"
#include "block/blk.h"
#include "support_virtio.h"
#include "vmm/virtio_blk.h"

#define DISK_BYTES (1 * MiB)
#define HEADER     GUEST_DATA /* 16 bytes for each request */
#define STATUS     (GUEST_DATA + 0x1000)
#define DATA       (GUEST_DATA + 0x10000) /* 64 KiB for each request */
#define DATA_BYTES 0x10000u
#define TABLE      (DATA + 0x100000) /* where it is made by hand */
#define SIZE       64u
#define FLUSH      (1ull << 9)
#define DISCARD    (1ull << 13)
#define ZEROES     (1ull << 14)
#define INDIRECT   (1ull << VIRTIO_F_INDIRECT_DESC)
#define EVENT_IDX  (1ull << VIRTIO_F_EVENT_IDX)
#define PACKED     (1ull << VIRTIO_F_RING_PACKED)
#define RING_RESET (1ull << VIRTIO_F_RING_RESET)

/* Each kind of rings that there is. */
static const uint64_t rings[] = {0, EVENT_IDX, INDIRECT, EVENT_IDX | INDIRECT, PACKED,
	PACKED | EVENT_IDX, PACKED | INDIRECT, PACKED | EVENT_IDX | INDIRECT};

static struct guest g;
static struct blk *disk_node;
static struct disk *disk;

/* ---- requests -------------------------------------------------------------------- */

struct blk_header {
	uint32_t type, reserved;
	uint64_t sector;
};

/* Fills in a chain whose data, in the i-th place, is cut into pieces; how many segments. */
static unsigned chain(struct guest_buffer *b, unsigned i, uint32_t type, uint64_t sector,
	uint32_t bytes, unsigned pieces)
{
	struct blk_header header = {type, 0, sector};
	bool in = type == 0 || type == 8;
	uint64_t data = DATA + (uint64_t)i * DATA_BYTES;
	uint32_t piece = bytes / MAX(pieces, 1u), done = 0;
	unsigned n = 0;

	memcpy(guest_at(&g, HEADER + 16 * i), &header, sizeof(header));
	*(uint8_t *)guest_at(&g, STATUS + i) = 0xee;
	b[n++] = (struct guest_buffer){HEADER + 16 * i, 16, false};
	for (unsigned k = 1; k <= pieces && bytes; k++) {
		uint32_t part = k < pieces ? piece : bytes - done;

		b[n++] = (struct guest_buffer){data + done, part, in};
		done += part;
	}
	b[n++] = (struct guest_buffer){STATUS + i, 1, true};
	return n;
}

static uint8_t status(unsigned i)
{
	return *(uint8_t *)guest_at(&g, STATUS + i);
}

/* The status of one request. */
static unsigned request(uint32_t type, uint64_t sector, uint32_t bytes, unsigned pieces)
{
	struct guest_buffer b[GUEST_TABLE];
	uint32_t written;
	unsigned id = guest_offer(&g, 0, b, chain(b, 0, type, sector, bytes, pieces));

	assert_int_equal(guest_wait(&g, 0, &written), id);
	return status(0);
}

static int make_on(const char *what, enum disk_policy policy)
{
	struct disk_options o = {.serial = "disk0",
		.discard = true,
		.on_read_error = policy,
		.on_write_error = policy};
	struct opts *opts = opts_new();
	struct err err = ERR_INIT;

	guest_make(&g);
	assert_int_equal(opts_parse(opts, what, NULL, &err), 0);
	o.blk = disk_node = blk_open(NULL, opts, BLK_O_RDWR | BLK_O_PROTOCOL, &err);
	opts_free(opts);
	assert_non_null(disk_node);
	assert_int_equal(disk_new(&g.vm, &o, &disk, &err), 0);
	assert_int_equal(virtio_blk_new(&g.vm, g.pci, disk, 2, true, &err), 0);
	guest_start(&g);
	assert_int_equal(guest_config_read(&g, 1, 0), 0x10421af4);
	assert_true(guest_config_read(&g, 1, 0x2c) >> 16 >= 0x40); /* 4.1.2.1 */
	return 0;
}

static int make(void **state)
{
	(void)state;
	return make_on("driver=mem,size=1M", DISK_REPORT);
}

static int make_to_fail(void **state)
{
	(void)state;
	return make_on("driver=fault,file.driver=mem,file.size=1M", DISK_STOP);
}

/* Large, and keeps nothing. */
static int make_large(void **state)
{
	(void)state;
	return make_on("driver=null-co,size=8G", DISK_REPORT);
}

static int unmake(void **state)
{
	(void)state;
	guest_free(&g);
	return blk_close(disk_node);
}

/* ---- as it should be ------------------------------------------------------------- */

static void it_is_found_on_pci(void **state)
{
	uint32_t size;

	(void)state;
	assert_int_equal(guest_config_read(&g, 0, 0), 0x12378086);
	assert_true(guest_config_read(&g, 2, 0) == UINT32_MAX);
	guest_config_write(&g, 1, 0x20, UINT32_MAX);
	size = guest_config_read(&g, 1, 0x20);
	assert_int_equal(size, 0xffffc000);
	guest_config_write(&g, 1, 0x20, 0xd0000000);
	g.bar = 0xd0000000;
	assert_int_equal(guest_get(&g, 0x12, 2), 2); /* queues */
	assert_int_equal(guest_get(&g, 0x2000, 8), DISK_BYTES / 512);
	guest_config_write(&g, 1, 0x20, 0x1000); /* over RAM it is nowhere */
	assert_int_equal(guest_get(&g, 0x12, 2), 0xffff);
	guest_config_write(&g, 1, 0x20, 0xd0000000);
	assert_int_equal(guest_get(&g, 0x12, 2), 2);
}

static uint32_t config_get(unsigned reg, unsigned bytes)
{
	bus_write(&g.vm.pio, 0xcf8, 4, 0x80000800u | (reg & ~3u));
	return (uint32_t)bus_read(&g.vm.pio, 0xcfc + reg % 4, bytes);
}

static void config_set(unsigned reg, unsigned bytes, uint32_t value)
{
	bus_write(&g.vm.pio, 0xcf8, 4, 0x80000800u | (reg & ~3u));
	bus_write(&g.vm.pio, 0xcfc + reg % 4, bytes, value);
}

/* Where this capability of virtio's is in configuration space, and what links to it. */
static unsigned find_capability(unsigned type, unsigned *link)
{
	unsigned at;

	for (*link = 0x34; (at = config_get(*link, 1)); *link = at + 1)
		if (config_get(at, 1) == 9 && config_get(at + 3, 1) == type)
			break;
	assert_true(at);
	return at;
}

static void open_window(unsigned at, uint8_t bar, uint32_t offset, uint32_t bytes)
{
	config_set(at + 4, 1, bar);
	config_set(at + 8, 4, offset);
	config_set(at + 12, 4, bytes);
}

static uint32_t look(unsigned at, uint32_t offset, uint32_t bytes)
{
	open_window(at, 4, offset, bytes);
	return config_get(at + 16, bytes);
}

static void registers_are_reached_through_configuration_space(void **state)
{
	static const struct {
		uint8_t bar;
		uint32_t offset, bytes;
	} shut[] = {{4, 0x4000, 1}, {4, 0x3fff, 2}, {4, UINT32_MAX, 1},
		{4, 0xfffffffc, 4}, {4, 0x13, 2}, {4, 0, 0}, {4, 0, 3}, {4, 0, 8},
		{4, 0, UINT32_MAX}, {0, 0, 4}, {5, 0, 4}, {6, 0, 4}, {255, 0, 4}};
	unsigned link, at = find_capability(5, &link);

	(void)state;
	assert_int_equal(config_get(at + 2, 1), 20);
	assert_int_equal(config_get(at + 1, 1), 0);
	guest_set_up(&g, FLUSH, 2, SIZE);
	guest_config_write(&g, 1, 0x04, 0x404); /* no BAR is anywhere */
	assert_int_equal(guest_get(&g, 0x12, 2), 0xffff);
	assert_int_equal(look(at, 0x12, 2), 2);
	assert_int_equal(look(at, 0x14, 1), 15);
	assert_int_equal(look(at, 0x2000, 4), DISK_BYTES / 512);
	open_window(at, 4, 0x16, 2);
	config_set(at + 16, 2, 1);
	assert_int_equal(look(at, 0x16, 2), 1);
	open_window(at, 4, 0x14, 1);
	assert_int_equal(config_get(at + 16, 4), 15); /* only what was asked for */
	config_set(at + 16, 4, 0xffffff00);
	assert_int_equal(look(at, 0x14, 1), 0);
	open_window(at, 1, 0, 4); /* MSI-X's table */
	config_set(at + 16, 4, 0xfee00000);
	config_set(at + 16, 4, 0xfee01000);
	assert_int_equal(config_get(at + 16, 4), 0xfee01000);
	for (unsigned i = 0; i < ARRAY_LEN(shut); i++) {
		open_window(at, shut[i].bar, shut[i].offset, shut[i].bytes);
		config_set(at + 16, 4, 0xabcd1234); /* it is kept, and that is all */
		assert_int_equal(config_get(at + 16, 4), 0xabcd1234);
	}
	guest_stop(&g);
	guest_start(&g);
	assert_int_equal(config_get(at + 12, 4), 0); /* shut again */
	assert_int_equal(config_get(at + 4, 1), 0);
}

/* States of before there was a window. */
static void a_state_without_a_window_is_loaded(void **state)
{
	unsigned link, at = find_capability(5, &link);
	uint8_t *saved, *again;
	size_t bytes, bytes_again, config = 0;

	(void)state;
	guest_set_up(&g, FLUSH, 1, SIZE);
	guest_stop(&g);
	saved = guest_save(&g, &bytes);
	while (memcmp(saved + config, "\xf4\x1a\x42\x10", 4) != 0)
		config++;
	assert_int_equal(saved[config + link], at);
	saved[config + link] = 0;
	memset(saved + config + at, 0, 20);
	assert_int_equal(guest_load(&g, saved, bytes), 0);
	assert_int_equal(find_capability(5, &link), at);
	again = guest_save(&g, &bytes_again);
	assert_int_equal(bytes, bytes_again);
	assert_int_equal(again[config + link], at);
	assert_int_equal(again[config + at + 3], 5);
	guest_go_on(&g);
	assert_int_equal(look(at, 0x14, 1), 15);
	assert_int_equal(request(4, 0, 0, 0), 0);
	free(saved);
	free(again);
}

static void features_are_those_offered(void **state)
{
	(void)state;
	guest_set(&g, 0x14, 1, 0);
	guest_set(&g, 0x14, 1, 3);
	guest_set(&g, 0x08, 4, 0);
	guest_set(&g, 0x0c, 4, 1u << 1); /* SIZE_MAX, which is not offered */
	guest_set(&g, 0x08, 4, 1);
	guest_set(&g, 0x0c, 4, 1);
	guest_set(&g, 0x14, 1, 11);
	assert_int_equal(guest_get(&g, 0x14, 1) & 8, 0);
	guest_set(&g, 0x14, 1, 0);
	guest_set(&g, 0x14, 1, 11); /* without VERSION_1 */
	assert_int_equal(guest_get(&g, 0x14, 1) & 8, 0);
}

/* A few at once, each in a part of the disk of its own. */
#define AT_ONCE    8u
#define PART_BYTES (DISK_BYTES / AT_ONCE)

struct one {
	uint32_t type, bytes;
	uint64_t sector;
};

static struct one random_one(unsigned i, unsigned *seed)
{
	static const uint32_t types[] = {0, 0, 1, 1, 4, 13};
	struct one r = {.type = types[rand_r(seed) % 6]};

	r.bytes = (1 + (unsigned)rand_r(seed) % 32) * 512;
	r.sector = (i * PART_BYTES +
			   (unsigned)rand_r(seed) % (PART_BYTES / 512 - 32) * 512) /
		   512;
	return r;
}

static void offer_one(struct one *r, unsigned i, uint8_t *model, unsigned *seed)
{
	uint8_t *data = guest_at(&g, DATA + i * DATA_BYTES);
	struct guest_buffer b[GUEST_TABLE];
	uint32_t bytes = r->bytes;

	if (r->type == 13) {
		struct {
			uint64_t sector;
			uint32_t sectors, flags;
		} range = {r->sector, r->bytes / 512, (unsigned)rand_r(seed) & 1};

		memcpy(data, &range, sizeof(range));
		memset(model + r->sector * 512, 0, r->bytes);
		bytes = sizeof(range);
	}
	if (r->type == 4)
		bytes = 0;
	if (r->type == 0)
		memset(data, 0xdd, bytes);
	if (r->type == 1) {
		for (uint32_t k = 0; k < bytes; k++)
			data[k] = (uint8_t)rand_r(seed);
		memcpy(model + r->sector * 512, data, bytes);
	}
	guest_offer(&g, 0, b,
		chain(b, i, r->type, r->sector, bytes, 1 + (unsigned)rand_r(seed) % 5));
}

static void requests_against_a_model(void **state)
{
	uint8_t *model = calloc(1, DISK_BYTES);
	unsigned seed = 5;

	(void)state;
	for (unsigned round = 0; round < 4 * ARRAY_LEN(rings); round++) {
		uint64_t layout = rings[round % ARRAY_LEN(rings)];

		guest_set_up(&g, FLUSH | DISCARD | ZEROES | layout, 1,
			layout & PACKED ? 61 : SIZE);
		for (unsigned i = 0; i < 100; i++) {
			unsigned n = 1 + (unsigned)rand_r(&seed) % AT_ONCE;
			struct one r[AT_ONCE];
			uint32_t written;

			for (unsigned k = 0; k < n; k++) {
				r[k] = random_one(k, &seed);
				offer_one(&r[k], k, model, &seed);
			}
			for (unsigned k = 0; k < n; k++)
				assert_true(guest_wait(&g, 0, &written) >= 0);
			for (unsigned k = 0; k < n; k++) {
				assert_int_equal(status(k), 0);
				if (r[k].type == 0)
					assert_memory_equal(
						guest_at(&g, DATA + k * DATA_BYTES),
						model + r[k].sector * 512, r[k].bytes);
			}
		}
		assert_true(g.queue[0].kicks > 0);
	}
	free(model);
}

static void what_cannot_be_is_an_error_of_the_request(void **state)
{
	(void)state;
	guest_set_up(&g, FLUSH, 1, SIZE);
	assert_int_equal(request(0, DISK_BYTES / 512, 512, 1), 1);
	assert_int_equal(request(1, UINT64_MAX, 512, 1), 1);
	assert_int_equal(request(1, DISK_BYTES / 512 - 1, 1024, 1), 1);
	assert_int_equal(request(0, 0, 100, 1), 1);
	assert_int_equal(request(77, 0, 512, 1), 2);
	assert_int_equal(request(11, 0, 16, 1), 2); /* discard, not negotiated */
	assert_int_equal(request(8, 0, 20, 1), 0);
	assert_memory_equal(guest_at(&g, DATA), "disk0", 6);
	assert_false(guest_is_broken(&g));
}

struct range {
	uint64_t sector;
	uint32_t sectors, flags;
};
#define GIB_SECTORS (1u << 21)

/* The status of a request with as many ranges that are alike. */
static unsigned ranges(uint32_t type, struct range r, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		memcpy(guest_at(&g, DATA + i * sizeof(r)), &r, sizeof(r));
	return request(type, 0, n * sizeof(r), 1);
}

/* What the device announces it holds the driver to. */
static void ranges_are_limited_as_announced(void **state)
{
	const uint64_t *done = &disk->count[DISK_ZERO].requests;

	(void)state;
	guest_set_up(&g, FLUSH | DISCARD | ZEROES, 1, SIZE);
	assert_int_equal(guest_get(&g, 0x2000 + 36, 4), GIB_SECTORS);
	assert_int_equal(guest_get(&g, 0x2000 + 40, 4), 32);
	assert_int_equal(guest_get(&g, 0x2000 + 48, 4), GIB_SECTORS);
	assert_int_equal(guest_get(&g, 0x2000 + 52, 4), 1);
	for (uint32_t type = 11; type <= 13; type += 2) {
		unsigned most = type == 11 ? 32 : 1;

		assert_int_equal(ranges(type, (struct range){8, GIB_SECTORS, 0}, 1), 0);
		assert_int_equal(
			ranges(type, (struct range){8, GIB_SECTORS + 1, 0}, 1), 1);
		assert_int_equal(
			ranges(type, (struct range){8 * GIB_SECTORS, 1, 0}, 1), 1);
		assert_int_equal(ranges(type, (struct range){8, 0, 0}, 1), 0);
		assert_int_equal(ranges(type, (struct range){8, 8, 0}, most), 0);
		assert_int_equal(ranges(type, (struct range){8, 8, 0}, most + 1), 1);
		assert_int_equal(ranges(type, (struct range){8, 8, 2}, 1), 2);
		assert_int_equal(ranges(type, (struct range){8, 8, 1u << 31}, 1), 2);
		assert_int_equal(request(type, 0, 15, 1), 1);
	}
	assert_int_equal(ranges(11, (struct range){8, 8, 1}, 1), 2);
	*(uint64_t *)done = 0;
	assert_int_equal(ranges(13, (struct range){8, GIB_SECTORS, 1}, 1), 0);
	assert_int_equal(*done, 2); /* it is done at once where it is given up */
	assert_int_equal(ranges(13, (struct range){8, GIB_SECTORS, 0}, 1), 0);
	assert_int_equal(*done, 2 + 17);
	assert_false(guest_is_broken(&g));
}

static void what_is_written_of_the_serial_is_told(void **state)
{
	static const uint32_t bytes[] = {5, 20, 21, 512}, told[] = {6, 21, 21, 21};

	(void)state;
	guest_set_up(&g, FLUSH, 1, SIZE);
	for (unsigned i = 0; i < ARRAY_LEN(bytes); i++) {
		struct guest_buffer b[GUEST_TABLE];
		uint32_t written;

		memset(guest_at(&g, DATA), 0xdd, 512);
		guest_offer(&g, 0, b, chain(b, 0, 8, 0, bytes[i], 1));
		assert_true(guest_wait(&g, 0, &written) >= 0);
		assert_int_equal(written, told[i]);
		assert_int_equal(status(0), 0);
		assert_memory_equal(guest_at(&g, DATA), "disk0", 5);
		assert_int_equal(*(uint8_t *)guest_at(&g, DATA + 20), 0xdd);
	}
}

static void a_queue_is_reset_alone(void **state)
{
	(void)state;
	for (unsigned i = 0; i < ARRAY_LEN(rings); i++) {
		guest_set_up(&g, FLUSH | RING_RESET | rings[i], 2, SIZE);
		assert_int_equal(request(1, 0, 512, 1), 0);
		guest_set(&g, 0x16, 2, 0);
		guest_set(&g, 0x3a, 2, 1);
		assert_int_equal(guest_get(&g, 0x3a, 2), 0);
		assert_int_equal(guest_get(&g, 0x1c, 2), 0);
		guest_set(&g, 0x16, 2, 1);
		assert_int_equal(guest_get(&g, 0x1c, 2), 1); /* the other goes on */
		guest_set_up_queue(&g, 0, 32);
		assert_int_equal(request(0, 0, 512, 1), 0);
	}
	guest_set_up(&g, FLUSH, 2, SIZE); /* not where it was not asked for */
	guest_set(&g, 0x3a, 2, 1);
	assert_int_equal(guest_get(&g, 0x1c, 2), 1);
}

/* As a kernel does that starts another in its place. */
static void a_device_that_is_no_master_leaves_memory_alone(void **state)
{
	struct guest_buffer b[GUEST_TABLE];

	(void)state;
	for (unsigned i = 0; i < ARRAY_LEN(rings); i++) {
		guest_set_up(&g, FLUSH | rings[i], 1, SIZE);
		assert_int_equal(request(1, 0, 512, 1), 0);
		guest_config_write(&g, 1, 0x04, 0x402);
		assert_int_equal(guest_get(&g, 0x14, 1) & 4, 0); /* DRIVER_OK */
		guest_offer(&g, 0, b, chain(b, 0, 0, 0, 512, 1));
		guest_config_write(&g, 1, 0x04, 0x406); /* the other, before it resets */
		usleep(10000);
		assert_int_equal(status(0), 0xee);
	}
	guest_set_up(&g, FLUSH, 1, SIZE);
	assert_int_equal(request(0, 0, 512, 1), 0);
}

/* ---- the machine stops ----------------------------------------------------------- */

/* Writes number 0 and 1 fail and are held; others end, and in a packed ring are written over
 * the descriptors of those. */
static void hold_two(void)
{
	struct fault_plan plan = {
		.ops = FAULT_WRITE, .at = 1, .error = EIO, .sticky = true};
	struct guest_buffer b[GUEST_TABLE];
	uint64_t hits = fault_hits(disk_node);
	uint32_t written;

	fault_arm(fault_find(disk_node), &plan);
	for (unsigned i = 0; i < 2; i++) {
		memset(guest_at(&g, DATA + i * DATA_BYTES), 'a' + (int)i, 4096);
		guest_offer(&g, 0, b, chain(b, i, 1, i * 16, 4096, 2));
		while (fault_hits(disk_node) <= hits + i)
			usleep(100);
	}
	fault_disarm(fault_find(disk_node));
	for (unsigned i = 2; i < 6; i++) {
		memset(guest_at(&g, DATA + i * DATA_BYTES), 'a' + (int)i, 4096);
		guest_offer(&g, 0, b, chain(b, i, 1, i * 16, 4096, 2));
		assert_true(guest_wait(&g, 0, &written) >= 0);
		assert_int_equal(status(i), 0);
	}
	assert_int_equal(status(0), 0xee);
	guest_stop(&g);
	assert_int_equal(g.vm.wanted, VM_STATUS_IO_ERROR);
}

static void what_was_held_is_taken_again(void **state)
{
	uint8_t got[4096];

	(void)state;
	for (unsigned i = 0; i < 2 * ARRAY_LEN(rings); i++) {
		size_t bytes, bytes_again;
		uint8_t *saved, *again;
		uint32_t written;
		int ids[2];

		guest_set_up(
			&g, FLUSH | rings[i / 2], 1, rings[i / 2] & PACKED ? 12 : 16);
		hold_two();
		saved = guest_save(&g, &bytes);
		if (i & 1) {
			assert_int_equal(guest_load(&g, saved, bytes), 0);
			again = guest_save(&g, &bytes_again);
			assert_int_equal(bytes, bytes_again);
			assert_memory_equal(saved, again, bytes);
			free(again);
		}
		free(saved);
		guest_go_on(&g);
		for (unsigned k = 0; k < 2; k++) {
			ids[k] = guest_wait(&g, 0, &written);
			assert_true(ids[k] >= 0);
		}
		assert_int_not_equal(ids[0], ids[1]);
		for (unsigned k = 0; k < 6; k++) {
			assert_int_equal(status(k), 0);
			assert_int_equal(blk_pread(disk_node, k * 8192, got, 4096), 0);
			assert_memory_equal(
				got, guest_at(&g, DATA + k * DATA_BYTES), 4096);
		}
		assert_int_equal(request(4, 0, 0, 0), 0);
		g.vm.wanted = VM_STATUS_RUNNING;
	}
}

/* Nobody waits for all of a request that takes long: here 17 pieces, of which 20 a second may
 * be made. */
static void a_long_request_does_not_keep_the_machine(void **state)
{
	struct disk_limits slow = {.iops = {0, 0, 20}}, none = {.iops = {0}};
	struct range r = {8, GIB_SECTORS, 0};
	const uint64_t *done = &disk->count[DISK_ZERO].requests;
	struct guest_buffer b[GUEST_TABLE];
	uint32_t written;
	size_t bytes;
	uint8_t *saved;

	(void)state;
	guest_set_up(&g, FLUSH | ZEROES, 1, SIZE);
	disk_set_limits(disk, &slow);
	memcpy(guest_at(&g, DATA), &r, sizeof(r));
	guest_offer(&g, 0, b, chain(b, 0, 13, 0, sizeof(r), 1));
	while (!__atomic_load_n(done, __ATOMIC_RELAXED))
		usleep(100);
	guest_stop(&g);
	assert_int_equal(status(0), 0xee);
	assert_in_range(*done, 1, 16);
	saved = guest_save(&g, &bytes);
	assert_int_equal(guest_load(&g, saved, bytes), 0);
	free(saved);
	disk_set_limits(disk, &none);
	guest_go_on(&g);
	assert_true(guest_wait(&g, 0, &written) >= 0);
	assert_int_equal(status(0), 0);
}

/* However often the machine stands for a moment. */
static void a_long_request_goes_on_from_where_it_was(void **state)
{
	struct disk_limits slow = {.iops = {0, 0, 100}};
	struct range r = {8, GIB_SECTORS, 0};
	const uint64_t *done = &disk->count[DISK_ZERO].requests;
	struct guest_buffer b[GUEST_TABLE];
	uint32_t written;

	(void)state;
	guest_set_up(&g, FLUSH | ZEROES, 1, SIZE);
	disk_set_limits(disk, &slow);
	memcpy(guest_at(&g, DATA), &r, sizeof(r));
	guest_offer(&g, 0, b, chain(b, 0, 13, 0, sizeof(r), 1));
	for (unsigned i = 1; i <= 10; i += 3) {
		while (__atomic_load_n(done, __ATOMIC_RELAXED) < i)
			usleep(100);
		guest_stop(&g);
		guest_go_on(&g);
	}
	assert_true(guest_wait(&g, 0, &written) >= 0);
	assert_int_equal(status(0), 0);
	assert_int_equal(*done, 17); /* none was made twice */
}

/* A reset by the guest forgets them. */
static void what_was_held_is_gone_with_a_reset(void **state)
{
	(void)state;
	guest_set_up(&g, FLUSH | PACKED, 1, 12);
	hold_two();
	guest_set_up(&g, FLUSH, 1, SIZE);
	guest_go_on(&g);
	assert_int_equal(request(4, 0, 0, 0), 0);
	assert_int_equal(status(0), 0);
}

/* What is loaded is believed as little as a guest. */
static void a_saved_state_that_cannot_be_is_refused(void **state)
{
	unsigned refused = 0, seed = 3;
	size_t bytes;
	uint8_t *saved;

	(void)state;
	guest_set_up(&g, FLUSH | PACKED | EVENT_IDX, 1, 12);
	hold_two();
	saved = guest_save(&g, &bytes);
	for (unsigned i = 0; i < 4000; i++) {
		uint8_t *bad = malloc(bytes);

		memcpy(bad, saved, bytes);
		for (unsigned k = 0; k < 1 + i % 3; k++)
			bad[(unsigned)rand_r(&seed) % bytes] = (uint8_t)rand_r(&seed);
		if (guest_load(&g, bad, bytes - (i % 5 == 0)))
			refused++;
		free(bad);
	}
	assert_true(refused > 1000);
	assert_int_equal(guest_load(&g, saved, bytes), 0);
	free(saved);
}

static unsigned open_files(void)
{
	unsigned n = 0;

	for (int fd = 0; fd < 1024; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

/* Disks come till there is no slot, and one that has none leaves nothing behind. */
static void a_disk_without_a_slot_leaves_nothing(void **state)
{
	struct err err = ERR_INIT;
	unsigned before;
	int ret;

	(void)state;
	guest_stop(&g);
	do {
		before = open_files();
		ret = virtio_blk_new(&g.vm, g.pci, disk, 4, false, &err);
	} while (ret == 0);
	assert_int_equal(ret, -ENOSPC);
	assert_int_equal(open_files(), before);
	guest_go_on(&g);
}

/* ---- as it should not ------------------------------------------------------------ */

static void expect_broken(void)
{
	uint64_t packed = g.packed ? PACKED : 0;

	guest_offer_raw(&g, 0, 0);
	for (unsigned i = 0; !guest_is_broken(&g) && i < 300000; i++)
		usleep(100);
	assert_true(guest_is_broken(&g));
	guest_set_up(&g, FLUSH | packed, 1, SIZE);
	assert_int_equal(request(0, 0, 512, 1), 0);
	assert_false(guest_is_broken(&g));
	guest_set_up(&g, FLUSH | packed, 1, SIZE);
}

static void put(
	unsigned i, uint64_t address, uint32_t bytes, uint16_t flags, uint16_t next)
{
	guest_put(&g, 0, i, address, bytes, flags, next);
}

/* A write of one sector in as many pieces: of its chain the header and some of the pieces are as
 * they are, and the rest is in a table. Put, and not offered. */
static void put_mixed(unsigned pieces, unsigned plain)
{
	struct blk_header header = {1, 0, 16};
	unsigned n = pieces - plain + 1;

	memcpy(guest_at(&g, HEADER), &header, sizeof(header));
	*(uint8_t *)guest_at(&g, STATUS) = 0xee;
	put(0, HEADER, 16, 1, 1);
	for (unsigned i = 0; i < plain; i++)
		put(1 + i, DATA + 512 / pieces * i, 512 / pieces, 1, (uint16_t)(2 + i));
	put(1 + plain, TABLE, 16 * n, 4, 0);
	for (unsigned i = 0; i < n; i++) {
		bool last = i + 1 == n;
		uint64_t data = DATA + 512 / pieces * (plain + i);
		struct {
			uint64_t address;
			uint32_t bytes;
			uint16_t flags, next;
		} d = {last ? STATUS : data, last ? 1 : 512 / pieces, last ? 2 : 1,
			(uint16_t)(i + 1)};

		memcpy(guest_at(&g, TABLE + 16 * i), &d, sizeof(d));
	}
}

/* What is not in the table comes first (2.7.5.3.2). */
static void a_table_may_end_a_split_chain(void **state)
{
	static const struct {
		unsigned pieces, plain;
	} way[] = {{1, 0}, {1, 1}, {2, 1}, {8, 5}, {512, 3}, {256, 0}};
	uint8_t got[512];

	(void)state;
	for (unsigned i = 0; i < ARRAY_LEN(way); i++) {
		guest_set_up(&g, FLUSH | INDIRECT, 1, SIZE);
		memset(guest_at(&g, DATA), (int)i + 1, 512);
		put_mixed(way[i].pieces, way[i].plain);
		if (way[i].pieces == 512) { /* longer than a chain */
			expect_broken();
			continue;
		}
		guest_offer_raw(&g, 0, 0);
		for (unsigned k = 0; !(guest_get(&g, 0x1000, 1) & 1) && k < 50000; k++)
			usleep(100);
		assert_int_equal(status(0), 0);
		assert_int_equal(blk_pread(disk_node, 8192, got, 512), 0);
		assert_memory_equal(got, guest_at(&g, DATA), 512);
	}
}

static void rings_that_make_no_sense_break_the_device_till_reset(void **state)
{
	(void)state;
	for (unsigned packed = 0; packed < 2; packed++) {
		guest_set_up(&g, FLUSH | (packed ? PACKED : 0), 1, SIZE);
		put(0, GUEST_MEMORY - 8, 16, 1, 1); /* outside of memory */
		expect_broken();
		put(0, UINT64_MAX - 4, 16, 1, 1);
		expect_broken();
		put(0, STATUS, 1, 3, 1); /* what is read after what is written */
		put(1, HEADER, 16, 0, 0);
		expect_broken();
		put(0, HEADER, 0, 1, 1); /* nothing */
		expect_broken();
		put(0, STATUS, 1, 2, 0); /* no header */
		expect_broken();
		put(0, HEADER, 16, 0, 0); /* no place for a status */
		expect_broken();
		put(0, DATA, 17, 4, 0); /* half a descriptor */
		expect_broken();
		put(0, DATA, 0, 4, 0);
		expect_broken();
		put(0, DATA, 16, 5, 1); /* a table and more */
		expect_broken();
		if (packed) {
			put(0, HEADER, 16, 1, 1); /* a table after others */
			put(1, DATA, 16, 4, 0);
			expect_broken();
		}
		memset(guest_at(&g, DATA), 0, 16 * 600); /* a table longer than a chain */
		put(0, DATA, 16 * 513, 4, 0);
		expect_broken();
	}
	for (unsigned i = 0; i < SIZE; i++) /* all the way round */
		put(i, HEADER, 16, 1, (uint16_t)i);
	expect_broken();
	guest_set_up(&g, FLUSH, 1, SIZE);
	put(0, HEADER, 16, 1, 0); /* comes back to itself */
	expect_broken();
	put(0, HEADER, 16, 1, SIZE); /* outside the table */
	expect_broken();
	guest_put(&g, 0, 1, DATA, 16, 4, 0);
	memcpy(guest_at(&g, DATA), (uint8_t *)guest_at(&g, GUEST_RINGS) + 16, 16);
	put(0, DATA, 16, 4, 0); /* a table in a table */
	expect_broken();
	put(0, HEADER, 16, 1, 1); /* the same behind others */
	put(1, DATA, 16, 4, 0);
	expect_broken();
	put(0, HEADER, 16, 1, 1); /* a table and more behind it */
	put(1, DATA, 16, 5, 2);
	put(2, STATUS, 1, 2, 0);
	expect_broken();
	guest_set_up(&g, FLUSH | RING_RESET, 0, 0);
	guest_set(&g, 0x20, 8, GUEST_MEMORY);
	guest_set(&g, 0x1c, 2, 1); /* a queue outside of memory */
	assert_true(guest_is_broken(&g));
}

/* Whatever is in the rings and registers, the process is well and a reset helps. The driver
 * writes where the device reads, on purpose: that is a race by any standard. */
static void random_rings_and_registers(void **state)
{
	static const uint64_t places[] = {HEADER, STATUS, DATA, DATA + 0x1000,
		GUEST_RINGS, GUEST_RINGS + GUEST_AVAIL, GUEST_MEMORY - 1};
	unsigned seed = 11, link, window = find_capability(5, &link);

	(void)state;
#ifdef __SANITIZE_THREAD__
	skip();
#endif
	for (unsigned i = 0; i < 4000; i++) {
		guest_set_up(&g,
			((unsigned)rand_r(&seed) & (FLUSH | DISCARD | ZEROES)) |
				rings[rand_r(&seed) % 8],
			1, SIZE);
		for (unsigned k = 0; k < 8; k++) {
			put(k, places[rand_r(&seed) % 7] + (unsigned)(rand_r(&seed) % 3),
				(unsigned)rand_r(&seed) % 600,
				(uint16_t)(rand_r(&seed) % 8),
				(uint16_t)(rand_r(&seed) % 10));
			memcpy(guest_at(&g, DATA + 16 * k),
				(uint8_t *)guest_at(&g, GUEST_RINGS) + 16 * k, 16);
			((uint8_t *)guest_at(&g, HEADER))[k] =
				(uint8_t)(rand_r(&seed) % 16);
		}
		guest_offer_raw(&g, 0, (uint16_t)(rand_r(&seed) % 70));
		if (rand_r(&seed) % 3 == 0)
			((uint16_t *)guest_at(&g, GUEST_RINGS + GUEST_AVAIL))[1] =
				(uint16_t)rand_r(&seed);
		guest_set(&g, (unsigned)rand_r(&seed) % 0x4000, 1u << rand_r(&seed) % 4,
			(uint64_t)rand_r(&seed));
		guest_get(&g, (unsigned)rand_r(&seed) % 0x4000, 1u << rand_r(&seed) % 4);
		config_set(window + 4 + (unsigned)rand_r(&seed) % 16, 1,
			(uint32_t)rand_r(&seed) % 20);
		config_get((unsigned)rand_r(&seed) % 256, 1u << rand_r(&seed) % 3);
	}
	guest_set_up(&g, FLUSH, 1, SIZE);
	assert_int_equal(request(4, 0, 0, 0), 0);
}

#define TEST(name)         cmocka_unit_test_setup_teardown(name, make, unmake)
#define TEST_LARGE(name)   cmocka_unit_test_setup_teardown(name, make_large, unmake)
#define TEST_TO_FAIL(name) cmocka_unit_test_setup_teardown(name, make_to_fail, unmake)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(it_is_found_on_pci),
		TEST(registers_are_reached_through_configuration_space),
		TEST(a_state_without_a_window_is_loaded),
		TEST(features_are_those_offered),
		TEST(requests_against_a_model),
		TEST(what_cannot_be_is_an_error_of_the_request),
		TEST(a_device_that_is_no_master_leaves_memory_alone),
		TEST_LARGE(ranges_are_limited_as_announced),
		TEST_LARGE(a_long_request_does_not_keep_the_machine),
		TEST_LARGE(a_long_request_goes_on_from_where_it_was),
		TEST(what_is_written_of_the_serial_is_told),
		TEST(a_queue_is_reset_alone),
		TEST(a_disk_without_a_slot_leaves_nothing),
		TEST_TO_FAIL(what_was_held_is_taken_again),
		TEST_TO_FAIL(what_was_held_is_gone_with_a_reset),
		TEST_TO_FAIL(a_saved_state_that_cannot_be_is_refused),
		TEST(a_table_may_end_a_split_chain),
		TEST(rings_that_make_no_sense_break_the_device_till_reset),
		TEST(random_rings_and_registers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
