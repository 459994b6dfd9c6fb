/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A virtio block device as a driver sees it, without KVM: found on PCI, set up, read and
 * written through rings that are made as the specification says, against a flat model; then
 * rings that are made as no specification says, which may break the device until it is
 * reset and nothing else.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/math.h"
#include "block/blk.h"
#include "vmm/virtio_blk.h"

#define DISK_BYTES (1 * MiB)
#define QUEUE      0x100000ull /* guest-physical: rings and buffers */
#define AVAIL      (QUEUE + 0x2000)
#define USED       (QUEUE + 0x3000)
#define INDIRECT   (QUEUE + 0x4000)
#define HEADER     (QUEUE + 0x8000)
#define STATUS     (QUEUE + 0x9000)
#define DATA       (QUEUE + 0x10000)
#define SIZE       64u

struct descriptor {
	uint64_t address;
	uint32_t bytes;
	uint16_t flags, next;
};

static struct machine {
	struct vm vm;
	struct pci *pci;
	struct blk *disk;
	uint64_t bar;
	uint16_t offered;
} m;

/* ---- a driver -------------------------------------------------------------------- */

static void *at(uint64_t address)
{
	return memory_at(&m.vm.memory, address, 1);
}

static uint32_t config_read(unsigned slot, unsigned reg)
{
	bus_write(&m.vm.pio, 0xcf8, 4, 0x80000000u | slot << 11 | reg);
	return (uint32_t)bus_read(&m.vm.pio, 0xcfc, 4);
}

static void config_write(unsigned slot, unsigned reg, uint32_t value)
{
	bus_write(&m.vm.pio, 0xcf8, 4, 0x80000000u | slot << 11 | reg);
	bus_write(&m.vm.pio, 0xcfc, 4, value);
}

static uint64_t get(unsigned offset, unsigned bytes)
{
	return bus_read(&m.vm.mmio, m.bar + offset, bytes);
}

static void set(unsigned offset, unsigned bytes, uint64_t value)
{
	bus_write(&m.vm.mmio, m.bar + offset, bytes, value);
}

static void set_up(uint32_t low_features)
{
	set(0x14, 1, 0);
	assert_int_equal(get(0x14, 1), 0);
	set(0x14, 1, 3);
	set(0x08, 4, 0);
	set(0x0c, 4, low_features);
	set(0x08, 4, 1);
	set(0x0c, 4, 1); /* VERSION_1 */
	set(0x14, 1, 11);
	assert_int_equal(get(0x14, 1), 11);
	set(0x16, 2, 0);
	set(0x18, 2, SIZE);
	set(0x20, 8, QUEUE);
	set(0x28, 4, AVAIL);
	set(0x2c, 4, 0);
	set(0x30, 8, USED);
	memset(at(QUEUE), 0, 0x8000);
	set(0x1c, 2, 1);
	m.offered = 0;
	set(0x14, 1, 15);
}

static void offer(uint16_t head)
{
	uint16_t *avail = at(AVAIL);

	avail[2 + m.offered % SIZE] = head;
	__atomic_store_n(&avail[1], ++m.offered, __ATOMIC_RELEASE);
	set(0x3000, 2, 0);
}

static bool is_done(void)
{
	const uint16_t *used = at(USED);

	return __atomic_load_n(&used[1], __ATOMIC_ACQUIRE) == m.offered;
}

static bool is_broken(void)
{
	return get(0x14, 1) & 64;
}

static void wait_done(void)
{
	for (unsigned i = 0; !is_done() && !is_broken() && i < 20000; i++)
		usleep(100);
}

static void put(
	unsigned i, uint64_t address, uint32_t bytes, uint16_t flags, uint16_t next)
{
	((struct descriptor *)at(QUEUE))[i] =
		(struct descriptor){address, bytes, flags, next};
}

/* The status of a request whose data is cut into pieces. */
static unsigned request(
	uint32_t type, uint64_t sector, uint32_t bytes, unsigned pieces, bool in)
{
	uint8_t *status = at(STATUS);
	uint32_t *header = at(HEADER), piece = bytes / MAX(pieces, 1u);
	unsigned i = 1;

	header[0] = type;
	memcpy(header + 2, &sector, sizeof(sector));
	*status = 0xee;
	put(0, HEADER, 16, 1, 1);
	for (uint32_t done = 0; done < bytes; i++) {
		uint32_t n = i < pieces ? piece : bytes - done;

		put(i, DATA + done, n, in ? 3 : 1, (uint16_t)(i + 1));
		done += n;
	}
	put(i, STATUS, 1, 2, 0);
	offer(0);
	wait_done();
	assert_true(is_done());
	return *status;
}

static int make(void **state)
{
	struct memory_options memory = {.bytes = 16 * MiB};
	struct disk_options o = {.serial = "disk0", .discard = true};
	struct err err = ERR_INIT;
	struct disk *disk;

	(void)state;
	memset(&m, 0, sizeof(m));
	m.vm.kvm_fd = m.vm.fd = -1;
	pthread_mutex_init(&m.vm.lock, NULL);
	pthread_cond_init(&m.vm.changed, NULL);
	bus_init(&m.vm.pio);
	bus_init(&m.vm.mmio);
	assert_int_equal(memory_new(&m.vm.memory, &memory, &err), 0);
	assert_int_equal(pci_new(&m.vm, &m.pci, &err), 0);
	o.blk = m.disk = blk_open("mem:virtio", NULL, BLK_O_RDWR | BLK_O_PROTOCOL, &err);
	assert_non_null(m.disk);
	assert_int_equal(blk_resize(m.disk, DISK_BYTES, BLK_PREALLOC_OFF, &err), 0);
	assert_int_equal(disk_new(&m.vm, &o, &disk, &err), 0);
	assert_int_equal(virtio_blk_new(&m.vm, m.pci, disk, 2, &err), 0);
	for (struct device *d = m.vm.devices; d; d = d->next) {
		if (d->ops->reset)
			d->ops->reset(d);
		if (d->ops->start)
			d->ops->start(d);
	}
	assert_int_equal(config_read(1, 0), 0x10421af4);
	m.bar = config_read(1, 0x20) & ~0xfu;
	config_write(1, 0x04, 0x406);
	return 0;
}

static int unmake(void **state)
{
	(void)state;
	vm_free(&m.vm);
	return blk_close(m.disk);
}

/* ---- as it should be ------------------------------------------------------------- */

static void it_is_found_on_pci(void **state)
{
	uint32_t size;

	(void)state;
	assert_int_equal(config_read(0, 0), 0x12378086);
	assert_true(config_read(2, 0) == UINT32_MAX);
	config_write(1, 0x20, UINT32_MAX);
	size = config_read(1, 0x20);
	assert_int_equal(size, 0xffffc000);
	config_write(1, 0x20, 0xd0000000);
	m.bar = 0xd0000000;
	assert_int_equal(get(0x12, 2), 2); /* queues */
	assert_int_equal(get(0x2000, 8), DISK_BYTES / 512);
	config_write(1, 0x20, 0x1000); /* over RAM it is nowhere */
	assert_int_equal(get(0x12, 2), 0xffff);
	config_write(1, 0x20, 0xd0000000);
	assert_int_equal(get(0x12, 2), 2);
}

static void features_are_those_offered(void **state)
{
	(void)state;
	set(0x14, 1, 0);
	set(0x14, 1, 3);
	set(0x08, 4, 0);
	set(0x0c, 4, 1u << 1); /* SIZE_MAX, which is not offered */
	set(0x08, 4, 1);
	set(0x0c, 4, 1);
	set(0x14, 1, 11);
	assert_int_equal(get(0x14, 1) & 8, 0);
	set(0x14, 1, 0);
	set(0x14, 1, 11); /* without VERSION_1 */
	assert_int_equal(get(0x14, 1) & 8, 0);
}

static void requests_against_a_model(void **state)
{
	uint8_t *model = calloc(1, DISK_BYTES), *data;
	unsigned seed = 5;

	(void)state;
	set_up(1u << 9 | 1u << 13 | 1u << 14 | 1u << 28);
	data = at(DATA);
	for (unsigned i = 0; i < 3000; i++) {
		uint32_t bytes = (1 + (unsigned)rand_r(&seed) % 32) * 512;
		uint64_t sector = (unsigned)rand_r(&seed) % (DISK_BYTES / 512 - 32);
		unsigned pieces = 1 + (unsigned)rand_r(&seed) % 8;

		switch (rand_r(&seed) % 5) {
		case 0:
			memset(data, 0xdd, bytes);
			assert_int_equal(request(0, sector, bytes, pieces, true), 0);
			assert_memory_equal(data, model + sector * 512, bytes);
			break;
		case 1:
			assert_int_equal(request(4, 0, 0, 0, false), 0);
			break;
		case 2: {
			struct {
				uint64_t sector;
				uint32_t sectors, flags;
			} range = {sector, bytes / 512, i & 1};

			memcpy(data, &range, sizeof(range));
			assert_int_equal(request(13, 0, sizeof(range), 1, false), 0);
			memset(model + sector * 512, 0, bytes);
			break;
		}
		default:
			for (uint32_t k = 0; k < bytes; k++)
				data[k] = (uint8_t)rand_r(&seed);
			memcpy(model + sector * 512, data, bytes);
			assert_int_equal(request(1, sector, bytes, pieces, false), 0);
		}
	}
	free(model);
}

static void what_cannot_be_is_an_error_of_the_request(void **state)
{
	(void)state;
	set_up(1u << 9);
	assert_int_equal(request(0, DISK_BYTES / 512, 512, 1, true), 1);
	assert_int_equal(request(1, UINT64_MAX, 512, 1, false), 1);
	assert_int_equal(request(1, DISK_BYTES / 512 - 1, 1024, 1, false), 1);
	assert_int_equal(request(0, 0, 100, 1, true), 1);
	assert_int_equal(request(77, 0, 512, 1, true), 2);
	assert_int_equal(request(11, 0, 16, 1, false), 2); /* discard, not negotiated */
	assert_int_equal(request(8, 0, 20, 1, true), 0);
	assert_memory_equal(at(DATA), "disk0", 6);
	assert_false(is_broken());
}

static void indirect_tables_are_followed(void **state)
{
	struct descriptor *table = at(INDIRECT);
	uint32_t *header = at(HEADER);
	uint8_t *status = at(STATUS);

	(void)state;
	set_up(1u << 9 | 1u << 28);
	table[0] = (struct descriptor){HEADER, 16, 1, 2};
	table[2] = (struct descriptor){DATA, 512, 3, 1};
	table[1] = (struct descriptor){STATUS, 1, 2, 0};
	memset(header, 0, 16);
	*status = 0xee;
	put(0, INDIRECT, 3 * 16, 4, 0);
	offer(0);
	wait_done();
	assert_int_equal(*status, 0);
}

/* ---- as it should not ------------------------------------------------------------ */

static void expect_broken(void)
{
	offer(0);
	wait_done();
	assert_true(is_broken());
	set(0x14, 1, 0);
	set_up(1u << 9);
	assert_int_equal(request(0, 0, 512, 1, true), 0);
	assert_false(is_broken());
}

static void rings_that_make_no_sense_break_the_device_till_reset(void **state)
{
	(void)state;
	set_up(1u << 9);
	put(0, HEADER, 16, 1, 0); /* comes back to itself */
	expect_broken();
	put(0, HEADER, 16, 1, SIZE); /* outside the table */
	expect_broken();
	put(0, 16 * MiB - 8, 16, 1, 1); /* outside of memory */
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
	put(0, INDIRECT, 17, 4, 0); /* half a descriptor */
	expect_broken();
	((struct descriptor *)at(INDIRECT))[0] = (struct descriptor){INDIRECT, 16, 4, 0};
	put(0, INDIRECT, 16, 4, 0); /* a table in a table */
	expect_broken();
	set(0x14, 1, 0);
	set(0x20, 8, 16 * MiB);
	set(0x1c, 2, 1); /* a queue outside of memory */
	assert_true(is_broken());
}

/* Whatever is in the rings and registers, the process is well and a reset helps. The driver
 * writes where the device reads, on purpose: that is a race by any standard. */
static void random_rings_and_registers(void **state)
{
	unsigned seed = 11;

	(void)state;
#ifdef __SANITIZE_THREAD__
	skip();
#endif
	for (unsigned i = 0; i < 3000; i++) {
		struct descriptor *table = at(QUEUE);

		set_up((uint32_t)rand_r(&seed) &
			(1u << 9 | 1u << 13 | 1u << 14 | 1u << 28));
		for (unsigned k = 0; k < 8; k++) {
			static const uint64_t places[] = {HEADER, STATUS, DATA, INDIRECT,
				QUEUE, AVAIL, 16 * MiB - 1};

			table[k].address =
				places[rand_r(&seed) % 7] + (unsigned)(rand_r(&seed) % 3);
			table[k].bytes = (unsigned)rand_r(&seed) % 600;
			table[k].flags = (uint16_t)(rand_r(&seed) % 8);
			table[k].next = (uint16_t)(rand_r(&seed) % 10);
			((struct descriptor *)at(INDIRECT))[k] = table[k];
			((uint8_t *)at(HEADER))[k] = (uint8_t)(rand_r(&seed) % 16);
		}
		offer((uint16_t)(rand_r(&seed) % 70));
		if (rand_r(&seed) % 3 == 0)
			((uint16_t *)at(AVAIL))[1] = (uint16_t)rand_r(&seed);
		set((unsigned)rand_r(&seed) % 0x4000, 1u << rand_r(&seed) % 4,
			(uint64_t)rand_r(&seed));
		get((unsigned)rand_r(&seed) % 0x4000, 1u << rand_r(&seed) % 4);
	}
	set(0x14, 1, 0);
	set_up(1u << 9);
	assert_int_equal(request(4, 0, 0, 0, false), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(it_is_found_on_pci, make, unmake),
		cmocka_unit_test_setup_teardown(features_are_those_offered, make, unmake),
		cmocka_unit_test_setup_teardown(requests_against_a_model, make, unmake),
		cmocka_unit_test_setup_teardown(
			what_cannot_be_is_an_error_of_the_request, make, unmake),
		cmocka_unit_test_setup_teardown(
			indirect_tables_are_followed, make, unmake),
		cmocka_unit_test_setup_teardown(
			rings_that_make_no_sense_break_the_device_till_reset, make,
			unmake),
		cmocka_unit_test_setup_teardown(random_rings_and_registers, make, unmake),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
