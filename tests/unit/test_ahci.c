/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * An AHCI controller as a driver sees it, without KVM: a disk at port 0 and a CD-ROM drive at
 * port 1. Commands against a flat model, queued and not; errors and how they are recovered
 * from; resets; requests that were under way when the machine stopped; packets; and values
 * that no specification has.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backends/fault.h"
#include "base/endian.h"
#include "base/math.h"
#include "tests/unit/support_blk.h"
#include "tests/unit/support_bare.h"
#include "tests/unit/support_machine.h"
#include "vmm/ahci_impl.h"

#define DISK_BYTES (8 * MiB)
#define SECTORS    (DISK_BYTES / 512)
#define CD_BYTES   (1 * MiB)
#define LIST(p)    (0x100000ull + (p)*0x1000) /* guest-physical */
#define FIS(p)     (0x108000ull + (p)*0x1000)
#define TABLE(p)   (0x110000ull + (p)*0x40000)
#define TABLE_STEP 0x2000
#define DATA       0x400000ull

#define PX_IS   0x10
#define PX_IE   0x14
#define PX_CMD  0x18
#define PX_TFD  0x20
#define PX_SIG  0x24
#define PX_SSTS 0x28
#define PX_SCTL 0x2c
#define PX_SERR 0x30
#define PX_SACT 0x34
#define PX_CI   0x38

static struct driver {
	struct board b;
	struct blk *cd;
	struct disk *cd_disk;
	struct ahci *a;
	uint64_t bar;
	unsigned seed;
} m;

/* ---- a driver -------------------------------------------------------------------- */

static void *at(uint64_t address)
{
	return board_at(&m.b, address);
}

static uint32_t get(unsigned offset)
{
	return (uint32_t)bus_read(&m.b.vm.mmio, m.bar + offset, 4);
}

static void set(unsigned offset, uint32_t value)
{
	bus_write(&m.b.vm.mmio, m.bar + offset, 4, value);
}

static uint32_t port_get(unsigned port, unsigned reg)
{
	return get(0x100 + 0x80 * port + reg);
}

static void port_set(unsigned port, unsigned reg, uint32_t value)
{
	set(0x100 + 0x80 * port + reg, value);
}

static void start_port(unsigned port)
{
	port_set(port, 0x00, (uint32_t)LIST(port));
	port_set(port, 0x04, 0);
	port_set(port, 0x08, (uint32_t)FIS(port));
	port_set(port, 0x0c, 0);
	port_set(port, PX_SERR, UINT32_MAX);
	port_set(port, PX_IS, UINT32_MAX);
	port_set(port, PX_CMD, 0x10);
	port_set(port, PX_CMD, 0x11);
	assert_int_equal(port_get(port, PX_CMD) & 0xc011, 0xc011);
}

/* As after an error: the list is stopped, which forgets what is in it, and started. */
static void recover(unsigned port)
{
	port_set(port, PX_CMD, 0x10);
	assert_int_equal(port_get(port, PX_CMD) & 0x8001, 0);
	assert_int_equal(port_get(port, PX_CI), 0);
	assert_int_equal(port_get(port, PX_SACT), 0);
	port_set(port, PX_IS, UINT32_MAX);
	port_set(port, PX_CMD, 0x11);
}

static uint8_t *table_of(unsigned port, unsigned slot)
{
	return at(TABLE(port) + slot * TABLE_STEP);
}

static void put_prd(unsigned port, unsigned slot, unsigned i, uint64_t to, uint32_t bytes)
{
	uint8_t *prd = table_of(port, slot) + 0x80 + 16 * i;

	le64_store(prd, to);
	le32_store(prd + 8, 0);
	le32_store(prd + 12, bytes - 1);
}

/* A command with its data at `data`, in as many pieces. */
static void prepare(unsigned port, unsigned slot, const uint8_t fis[20], uint64_t data,
	uint32_t bytes, unsigned pieces, uint32_t flags)
{
	uint8_t *header = (uint8_t *)at(LIST(port)) + 32 * slot;
	uint32_t piece = round_down(bytes / MAX(pieces, 1u), 2), done = 0;

	for (unsigned i = 0; i < pieces; i++) {
		uint32_t n = i + 1 < pieces ? piece : bytes - done;

		put_prd(port, slot, i, data + done, n);
		done += n;
	}
	memcpy(table_of(port, slot), fis, 20);
	le32_store(header, 5 | flags | pieces << 16);
	le32_store(header + 4, 0xdddddddd);
	le64_store(header + 8, TABLE(port) + slot * TABLE_STEP);
}

static uint32_t moved(unsigned port, unsigned slot)
{
	return le32_load((uint8_t *)at(LIST(port)) + 32 * slot + 4);
}

static void issue(unsigned port, uint32_t slots)
{
	full_barrier();
	port_set(port, PX_CI, slots);
}

/* Until these bits are gone from the register, or the port has failed. */
static bool wait_slots(unsigned port, unsigned reg, uint32_t slots)
{
	for (unsigned i = 0; i < 50000; i++) {
		if (!(port_get(port, reg) & slots))
			return true;
		if (port_get(port, PX_IS) & 0x60000000)
			return false;
		usleep(50);
	}
	fail_msg("port %u: nothing happens", port);
	return false;
}

static void fill_fis(uint8_t fis[20], uint8_t command, uint64_t lba, unsigned count)
{
	memset(fis, 0, 20);
	fis[0] = 0x27;
	fis[1] = 0x80;
	fis[2] = command;
	for (unsigned i = 0; i < 3; i++) {
		fis[4 + i] = (uint8_t)(lba >> 8 * i);
		fis[8 + i] = (uint8_t)(lba >> (24 + 8 * i));
	}
	fis[7] = 0x40;
	le16_store(fis + 12, (uint16_t)count);
}

/* One command in slot 0; whether it went well. */
static bool run(unsigned port, const uint8_t fis[20], uint32_t bytes, unsigned pieces)
{
	prepare(port, 0, fis, DATA, bytes, bytes ? pieces : 0, 0);
	issue(port, 1);
	return wait_slots(port, PX_CI, 1);
}

static bool command(uint8_t code, uint64_t lba, unsigned count, uint32_t bytes)
{
	uint8_t fis[20];

	fill_fis(fis, code, lba, count);
	return run(0, fis, bytes, 1);
}

static bool with_features(uint8_t code, uint8_t features, unsigned count, uint32_t bytes)
{
	uint8_t fis[20];

	fill_fis(fis, code, 0, count);
	fis[3] = features;
	return run(0, fis, bytes, 1);
}

static int make_with(const struct disk_options *o, unsigned flags)
{
	struct disk_options cd = {.id = "cd", .serial = "medium"};
	struct err err = ERR_INIT;
	uint8_t block[CD_BLOCK];

	memset(&m, 0, sizeof(m));
	board_new(&m.b, DISK_BYTES, o, flags);
	cd.blk = m.cd = node_open("driver=mem,size=1M", BLK_O_RDWR);
	for (unsigned i = 0; i < CD_BYTES / CD_BLOCK; i++) {
		memset(block, (int)i, sizeof(block));
		assert_int_equal(
			blk_pwrite(m.cd, i * sizeof(block), block, sizeof(block), 0), 0);
	}
	assert_int_equal(disk_new(&m.b.vm, &cd, &m.cd_disk, &err), 0);
	assert_int_equal(ahci_new(&m.b.vm, m.b.pci, &m.a, &err), 0);
	assert_int_equal(ahci_attach(m.a, m.b.disk, false, &err), 0);
	assert_int_equal(ahci_attach(m.a, m.cd_disk, true, &err), 0);
	board_reset(&m.b);
	board_start(&m.b);
	assert_int_equal(board_config_read(&m.b, 1, 0), 0x29228086);
	assert_int_equal(board_config_read(&m.b, 1, 8) >> 8, 0x010601);
	m.bar = board_config_read(&m.b, 1, 0x24) & ~0xfu;
	board_config_write(&m.b, 1, 0x04, 0x6);
	set(0x04, 0x80000002);
	start_port(0);
	start_port(1);
	return 0;
}

static int make(void **state)
{
	struct disk_options o = {.serial = "disk0",
		.discard = true,
		.on_read_error = DISK_STOP,
		.on_write_error = DISK_STOP};

	(void)state;
	return make_with(&o, BLK_O_RDWR | BLK_O_DISCARD);
}

static int make_reporting(void **state)
{
	struct disk_options o = {.serial = "disk0"};

	(void)state;
	return make_with(&o, BLK_O_RDWR);
}

static int make_read_only(void **state)
{
	struct disk_options o = {.serial = "disk0"};

	(void)state;
	return make_with(&o, 0);
}

static int unmake(void **state)
{
	(void)state;
	board_free(&m.b);
	return blk_close(m.cd);
}

/* ---- as it should be ------------------------------------------------------------- */

static void it_says_what_it_is(void **state)
{
	uint8_t *p = at(DATA), sum = 0;

	(void)state;
	assert_int_equal(get(0x0c), 0x3f);
	assert_int_equal(get(0x10), 0x00010301);
	assert_int_equal(get(0x00) & 0x1f, 5);
	assert_int_equal(port_get(0, PX_SSTS), 0x133);
	assert_int_equal(port_get(0, PX_SIG), 0x101);
	assert_int_equal(port_get(1, PX_SIG), 0xeb140101);
	assert_int_equal(port_get(2, PX_SSTS), 0);
	assert_int_equal(port_get(2, PX_TFD) & 0xff, 0x7f);
	assert_true(command(0xec, 0, 0, 512));
	assert_int_equal(moved(0, 0), 512);
	assert_int_equal(port_get(0, PX_IS) & 3, 2);
	assert_int_equal(((uint8_t *)at(FIS(0)))[0x20], 0x5f);
	assert_int_equal(((uint8_t *)at(FIS(0)))[0x20 + 15], 0x50);
	assert_int_equal(le64_load(p + 200), SECTORS);
	assert_memory_equal(p + 20, "idks 0              ", 20);
	assert_memory_equal(p + 54, "yBerS TA Aidks", 14);
	for (unsigned i = 0; i < 512; i++)
		sum += p[i];
	assert_int_equal(sum, 0);
	assert_string_equal(
		m.b.disk->boot_path, "/pci@i0cf8/pci8086,2922@1/drive@0/disk@0");
	assert_string_equal(
		m.cd_disk->boot_path, "/pci@i0cf8/pci8086,2922@1/drive@1/disk@0");
}

static void other_commands_of_a_disk(void **state)
{
	uint8_t *d2h = (uint8_t *)at(FIS(0)) + 0x40, *p = at(DATA), fis[20];

	(void)state;
	assert_true(command(0xe7, 0, 0, 0));
	assert_true(command(0xea, 0, 0, 0));
	assert_true(command(0xf8, 0, 0, 0));
	assert_int_equal(le32_load(d2h + 4), 0x40000000 | (SECTORS - 1));
	assert_true(command(0x27, 0, 0, 0));
	assert_int_equal(d2h[4] | d2h[5] << 8 | d2h[6] << 16, SECTORS - 1);
	assert_true(command(0xe5, 0, 0, 0));
	assert_int_equal(d2h[12], 0xff);
	assert_true(command(0xe0, 0, 0, 0));
	assert_true(command(0x40, 0, 8, 0));
	assert_true(command(0x42, SECTORS - 8, 8, 0));
	assert_true(command(0x90, 0, 0, 0));
	assert_true(command(0xc6, 0, 8, 0));
	assert_true(with_features(0xef, 0x82, 0, 0));
	assert_true(command(0xec, 0, 0, 512));
	assert_int_equal(le16_load(p + 170) & 1u << 5, 0);
	assert_int_equal(le16_load(p + 118), 0x108);
	assert_true(with_features(0xef, 0x02, 0, 0));
	assert_true(command(0xec, 0, 0, 512));
	assert_int_equal(le16_load(p + 170) & 1u << 5, 1u << 5);
	assert_true(with_features(0xef, 0x03, 0x46, 0));
	fill_fis(fis, 0xb0, 0xc24f00, 1);
	fis[3] = 0xda;
	assert_true(run(0, fis, 0, 0));
	assert_int_equal(d2h[5] | d2h[6] << 8, 0xc24f);
	fis[3] = 0xd0;
	assert_true(run(0, fis, 512, 1));
	assert_true(command(0x2f, 0x10, 1, 512));
	assert_int_equal(p[0], 0x80);
	assert_true(command(0x2f, 0, 1, 512));
	assert_int_equal(le16_load(p + 0x20), 1);
}

/* Codes of the same thing, with what they take. */
static const struct {
	uint8_t code;
	bool write, ext;
} codes[] = {{0x25, false, true}, {0x35, true, true}, {0x3d, true, true},
	{0xc8, false, false}, {0xca, true, false}, {0x20, false, false},
	{0x30, true, false}, {0x24, false, true}, {0x34, true, true},
	{0xc4, false, false}, {0x29, false, true}, {0x39, true, true},
	{0xc5, true, false}, {0xce, true, true}, {0x21, false, false},
	{0x31, true, false}};

static void move(uint8_t *model)
{
	unsigned i = (unsigned)rand_r(&m.seed) % ARRAY_LEN(codes);
	uint32_t sectors = 1 + (unsigned)rand_r(&m.seed) % (codes[i].ext ? 600 : 256);
	uint64_t first = (unsigned)rand_r(&m.seed) % (SECTORS - 600);
	uint8_t *data = at(DATA), fis[20];

	fill_fis(fis, codes[i].code, first, sectors);
	if (!codes[i].ext) {
		fis[8] = fis[9] = fis[10] = fis[13] = 0;
		fis[7] = (uint8_t)(0x40 | first >> 24);
	}
	for (uint32_t k = 0; k < sectors * 512; k++)
		data[k] = codes[i].write ? (uint8_t)rand_r(&m.seed) : 0xdd;
	assert_true(run(0, fis, sectors * 512, 1 + (unsigned)rand_r(&m.seed) % 90));
	assert_int_equal(moved(0, 0), sectors * 512);
	if (codes[i].write)
		memcpy(model + first * 512, data, sectors * 512);
	else
		assert_memory_equal(data, model + first * 512, sectors * 512);
}

/* A handful at once, each in a stretch of its own. */
static void move_queued(uint8_t *model)
{
	uint32_t slots = (uint32_t)rand_r(&m.seed) | 1u << 31;
	uint64_t first[32];
	uint32_t sectors[32];
	bool write[32];

	for (unsigned i = 0; i < 32; i++) {
		uint8_t fis[20], *data = at(DATA + i * 0x10000);

		first[i] = i * (SECTORS / 32) + (unsigned)rand_r(&m.seed) % 100;
		sectors[i] = 1 + (unsigned)rand_r(&m.seed) % 100;
		write[i] = rand_r(&m.seed) % 2;
		fill_fis(fis, write[i] ? 0x61 : 0x60, first[i], i << 3);
		fis[3] = (uint8_t)sectors[i];
		fis[7] |= rand_r(&m.seed) % 2 ? 0x80 : 0;
		memset(data, write[i] ? rand_r(&m.seed) : 0xdd, sectors[i] * 512);
		prepare(0, i, fis, DATA + i * 0x10000, sectors[i] * 512,
			1 + (unsigned)rand_r(&m.seed) % 4, 0);
	}
	port_set(0, PX_SACT, slots);
	issue(0, slots);
	assert_true(wait_slots(0, PX_SACT, slots));
	assert_int_equal(port_get(0, PX_CI), 0);
	for (unsigned i = 0; i < 32; i++) {
		uint8_t *data = at(DATA + i * 0x10000);

		if (!(slots >> i & 1))
			continue;
		if (write[i])
			memcpy(model + first[i] * 512, data, sectors[i] * 512);
		else
			assert_memory_equal(
				data, model + first[i] * 512, sectors[i] * 512);
	}
}

static void give_up(uint8_t *model)
{
	uint64_t first = (unsigned)rand_r(&m.seed) % (SECTORS - 600);
	uint32_t sectors = 1 + (unsigned)rand_r(&m.seed) % 600;
	uint8_t *p = at(DATA), zeros[512] = {0};

	memset(p, 0, 512);
	le64_store(p, first | (uint64_t)(sectors / 2) << 48);
	le64_store(
		p + 8, (first + sectors / 2) | (uint64_t)(sectors - sectors / 2) << 48);
	assert_true(with_features(0x06, 1, 1, 512));
	assert_true(command(0x25, first, sectors, sectors * 512));
	for (uint32_t i = 0; i < sectors; i++) {
		if (memcmp(p + i * 512, zeros, 512) == 0)
			memset(model + (first + i) * 512, 0, 512);
		assert_memory_equal(p + i * 512, model + (first + i) * 512, 512);
	}
}

static void commands_against_a_model(void **state)
{
	uint8_t *model = calloc(1, DISK_BYTES);

	(void)state;
	m.seed = 9;
	for (unsigned i = 0; i < 800; i++) {
		unsigned kind = (unsigned)rand_r(&m.seed) % 8;

		port_set(0, PX_IS, UINT32_MAX);
		if (kind == 0)
			give_up(model);
		else if (kind < 3)
			move_queued(model);
		else
			move(model);
	}
	free(model);
}

/* PCI's status has the pin, whether it is masked or not. */
static void expect_pin(bool high)
{
	assert_int_equal(m.a->pci.intx, high);
	assert_int_equal(board_config_read(&m.b, 1, 4) >> 19 & 1, high);
	board_config_write(&m.b, 1, 0x04, 0x406);
	assert_int_equal(board_config_read(&m.b, 1, 4) >> 19 & 1, high);
	board_config_write(&m.b, 1, 0x04, 0x6);
}

static void the_pin_follows_the_registers(void **state)
{
	(void)state;
	port_set(0, PX_IS, UINT32_MAX);
	set(0x08, UINT32_MAX);
	port_set(0, PX_IE, 1);
	expect_pin(false);
	assert_true(command(0xe7, 0, 0, 0));
	expect_pin(true);
	assert_int_equal(get(0x08), 1);
	set(0x04, 0x80000000);
	expect_pin(false);
	set(0x04, 0x80000002);
	expect_pin(true);
	set(0x08, 1); /* the port still calls */
	expect_pin(true);
	port_set(0, PX_IS, 1);
	expect_pin(true);
	set(0x08, 1);
	expect_pin(false);
}

/* The write cache, and sectors of a multiple. */
static void expect_settings(bool cache, unsigned multiple)
{
	uint8_t *p = at(DATA);

	assert_true(command(0xec, 0, 0, 512));
	assert_int_equal(le16_load(p + 170) & 1u << 5, cache ? 1u << 5 : 0);
	assert_int_equal(le16_load(p + 118), 0x100 | multiple);
}

static void resets_leave_a_device_as_it_was(void **state)
{
	uint8_t fis[20] = {0x27};

	(void)state;
	assert_true(with_features(0xef, 0x82, 0, 0));
	assert_true(command(0xc6, 0, 8, 0));
	fis[15] = 4; /* SRST, and not any more */
	prepare(0, 0, fis, 0, 0, 0, 0x500);
	issue(0, 1);
	assert_true(wait_slots(0, PX_CI, 1));
	fis[15] = 0;
	prepare(0, 1, fis, 0, 0, 0, 0);
	issue(0, 2);
	assert_true(wait_slots(0, PX_CI, 2));
	assert_int_equal(port_get(0, PX_TFD), 0x0150);
	assert_int_equal(((uint8_t *)at(FIS(0)))[0x40], 0x34);
	expect_settings(false, 8);

	/* Nothing begins while the link is off. */
	port_set(0, PX_SCTL, 0x304);
	fill_fis(fis, 0x25, 0, 1);
	prepare(0, 0, fis, DATA, 512, 1, 0);
	issue(0, 1);
	usleep(10000);
	assert_int_equal(port_get(0, PX_CI), 1);
	port_set(0, PX_SCTL, 0x300);
	assert_true(wait_slots(0, PX_CI, 1));
	port_set(0, PX_SCTL, 0x301);
	port_set(0, PX_SCTL, 0x300);
	expect_settings(false, 8);

	port_set(1, PX_CMD, 0x10);
	port_set(1, PX_SCTL, 0x301);
	assert_int_equal(port_get(1, PX_SSTS), 0);
	port_set(1, PX_SCTL, 0x300);
	assert_int_equal(port_get(1, PX_SSTS), 0x133);
	assert_int_equal(port_get(1, PX_SIG), 0xeb140101);
	assert_int_equal(port_get(1, PX_IS) & 0x40, 0x40);
	port_set(1, PX_IS, UINT32_MAX);
	assert_int_equal(port_get(1, PX_IS) & 0x40, 0x40);
	port_set(1, PX_SERR, UINT32_MAX);
	assert_int_equal(port_get(1, PX_IS) & 0x40, 0);

	set(0x04, 0x80000001);
	assert_int_equal(get(0x04), 0x80000000);
	assert_int_equal(port_get(0, PX_CMD) & 0x8001, 0);
	assert_int_equal(port_get(0, PX_SIG), 0x101);
	start_port(0);
	expect_settings(false, 8);
}

static void link_reset(void)
{
	port_set(0, PX_SCTL, 0x301);
	port_set(0, PX_SCTL, 0x300);
	recover(0);
}

static unsigned sata_features(unsigned word)
{
	assert_true(command(0xec, 0, 0, 512));
	return le16_load((uint8_t *)at(DATA) + 2 * word) & 1u << 6;
}

/* Unless it was told not to, once. The reset of the machine asks nobody. */
static void settings_outlive_a_reset_of_the_link(void **state)
{
	struct err err = ERR_INIT;

	(void)state;
	assert_true(sata_features(78));
	assert_true(sata_features(79));
	assert_true(with_features(0xef, 0x90, 6, 0));
	assert_true(sata_features(78));
	assert_false(sata_features(79));
	board_stop(&m.b);
	board_check_state(&m.b);
	board_start(&m.b);
	assert_false(sata_features(79));
	assert_true(with_features(0xef, 0x10, 6, 0));
	assert_true(sata_features(79));
	assert_true(with_features(0xef, 0x90, 6, 0));
	assert_true(with_features(0xef, 0x82, 0, 0));
	link_reset();
	expect_settings(true, 16);
	assert_true(sata_features(79));
	assert_true(with_features(0xef, 0x82, 0, 0));
	link_reset();
	expect_settings(false, 16);
	board_stop(&m.b);
	assert_int_equal(
		board_load_older(&m.b, board_save(&m.b), "ahci", 1, AHCI_PORTS, &err), 0);
	board_start(&m.b);
	expect_settings(false, 16);
	assert_true(sata_features(79));
	board_stop(&m.b);
	board_reset(&m.b);
	board_start(&m.b);
	board_config_write(&m.b, 1, 0x04, 0x6);
	start_port(0);
	expect_settings(true, 16);
}

/* What a software reset ends does not come later. The disk is slow enough for the reset to be asked for
 * while the second request waits. */
static void a_reset_waits_for_queued_requests(void **state)
{
	struct disk_limits slow = {.iops = {4}}, none = {.iops = {0}};
	uint8_t fis[20], there[512], *data = at(DATA);

	(void)state;
	disk_set_limits(m.b.disk, &slow);
	memset(data, 0x5a, 1024);
	for (unsigned i = 0; i < 2; i++) {
		fill_fis(fis, 0x61, i, i << 3);
		fis[3] = 1;
		prepare(0, i, fis, DATA + 512 * i, 512, 1, 0);
	}
	port_set(0, PX_SACT, 3);
	issue(0, 3);
	assert_true(wait_slots(0, PX_CI, 3)); /* they are taken over */
	memset(fis, 0, sizeof(fis));
	fis[0] = 0x27;
	fis[15] = 4;
	prepare(0, 2, fis, 0, 0, 0, 0x500);
	issue(0, 4);
	assert_true(wait_slots(0, PX_CI, 4));
	disk_set_limits(m.b.disk, &none);
	assert_int_equal(blk_pread(m.b.blk, 512, there, sizeof(there)), 0);
	assert_memory_equal(there, data, sizeof(there));
	fis[15] = 0;
	prepare(0, 3, fis, 0, 0, 0, 0);
	issue(0, 8);
	assert_true(wait_slots(0, PX_CI, 8));
	assert_int_equal(port_get(0, PX_TFD), 0x0150);
	recover(0);
	assert_true(command(0xec, 0, 0, 512));
}

/* A slot whose command is under way is not issued again, and can be when it has ended. The
 * disk is too slow for more than one to end meanwhile. */
static void a_slot_under_way_is_not_issued_again(void **state)
{
	struct disk_limits slow = {.iops = {4}}, none = {.iops = {0}};
	uint8_t fis[20];

	(void)state;
	disk_set_limits(m.b.disk, &slow);
	for (unsigned i = 0; i < 2; i++) {
		fill_fis(fis, 0x61, i, i << 3);
		fis[3] = 1;
		prepare(0, i, fis, DATA, 512, 1, 0);
	}
	port_set(0, PX_SACT, 3);
	issue(0, 1);
	assert_true(wait_slots(0, PX_SACT, 1));
	issue(0, 2);
	for (unsigned i = 0; i < 50; i++) {
		assert_true(wait_slots(0, PX_CI, 2));
		issue(0, 2);
		usleep(1000);
	}
	disk_set_limits(m.b.disk, &none);
	assert_true(wait_slots(0, PX_SACT, 2));
	recover(0);
	assert_int_equal(m.b.disk->count[DISK_WRITE].requests, 2);
	for (unsigned i = 0; i < 1000; i++) {
		port_set(0, PX_SACT, 2);
		issue(0, 2);
		assert_true(wait_slots(0, PX_SACT, 2));
	}
	assert_int_equal(m.b.disk->count[DISK_WRITE].requests, 1002);
}

/* ---- as it should not ------------------------------------------------------------ */

/* It fails with this error, the port stands, and goes on when it was told to. */
static void expect_error(bool went_well, unsigned error)
{
	assert_false(went_well);
	assert_int_equal(port_get(0, PX_IS) & 0x60000000, 0x40000000);
	assert_int_equal(port_get(0, PX_TFD) & 1, 1);
	assert_int_equal(port_get(0, PX_TFD) >> 8, error);
	assert_int_equal(port_get(0, PX_CI), 1);
	recover(0);
	assert_true(command(0x25, 0, 8, 4096));
	port_set(0, PX_IS, UINT32_MAX);
}

static void expect_bus_error(bool went_well)
{
	assert_false(went_well);
	assert_int_equal(port_get(0, PX_IS) & 0x60000000, 0x20000000);
	recover(0);
	assert_true(command(0x25, 0, 8, 4096));
	port_set(0, PX_IS, UINT32_MAX);
}

static void what_cannot_be_is_an_error_and_stops_the_port(void **state)
{
	uint8_t fis[20], *p = at(DATA);

	(void)state;
	expect_error(command(0x25, SECTORS, 1, 512), 0x10);
	expect_error(command(0x35, SECTORS - 1, 2, 1024), 0x10);
	expect_error(command(0x25, UINT64_MAX >> 16, 1, 512), 0x10);
	expect_error(command(0x42, SECTORS, 1, 0), 0x10);
	expect_error(command(0x25, 0, 0, 512), 0x10);  /* 65536 sectors */
	expect_error(command(0x25, 0, 8, 4095), 0x04); /* room for less */
	expect_error(command(0xec, 0, 0, 0), 0x04);
	expect_error(command(0xa1, 0, 0, 512), 0x04);
	expect_error(command(0xa0, 0, 0, 512), 0x04);
	expect_error(command(0x00, 0, 0, 0), 0x04);
	expect_error(command(0x2f, 0x55, 1, 512), 0x04);
	expect_error(command(0xc6, 0, 7, 0), 0x04);
	expect_error(command(0xb0, 0, 1, 512), 0x04);
	expect_error(with_features(0xef, 0x99, 0, 0), 0x04);
	expect_error(with_features(0xef, 0x10, 5, 0), 0x04);
	expect_error(with_features(0x06, 1, 0, 512), 0x04);
	expect_error(with_features(0x06, 0, 1, 512), 0x04);
	expect_error(with_features(0x06, 1, 9, 9 * 512), 0x04);
	memset(p, 0, 512);
	le64_store(p, SECTORS | 1ull << 48);
	expect_error(with_features(0x06, 1, 1, 512), 0x10);
	fill_fis(fis, 0xc8, 0, 1);
	fis[7] = 0; /* cylinders and heads */
	expect_error(run(0, fis, 512, 1), 0x04);

	prepare(0, 0, fis, BOARD_RAM - 256, 512, 1, 0);
	fill_fis(table_of(0, 0), 0xc8, 0, 1);
	issue(0, 1);
	expect_bus_error(wait_slots(0, PX_CI, 1));
	prepare(0, 0, fis, DATA, 512, 1, 0);
	le64_store((uint8_t *)at(LIST(0)) + 8, BOARD_RAM - 128);
	issue(0, 1);
	expect_bus_error(wait_slots(0, PX_CI, 1));
	fis[0] = 0x46; /* not a command */
	expect_bus_error(run(0, fis, 512, 1));
	port_set(0, PX_CMD, 0x10);
	port_set(0, 0x00, (uint32_t)BOARD_RAM);
	port_set(0, PX_CMD, 0x11);
	assert_int_equal(port_get(0, PX_IS) & 0x60000000, 0x20000000);
	port_set(0, PX_CMD, 0x10);
	start_port(0);
	assert_true(command(0x25, 0, 8, 4096));
}

static void too_many_pieces_are_refused(void **state)
{
	uint8_t fis[20];
	unsigned n = 2048;

	(void)state;
	fill_fis(fis, 0x25, 0, 8);
	prepare(0, 0, fis, DATA, 4096, 1, 0);
	for (unsigned i = 0; i < n; i++) /* over the next tables, which nobody uses */
		put_prd(0, 0, i, DATA + 8 * i, 2);
	le32_store(at(LIST(0)), 5 | n << 16);
	issue(0, 1);
	expect_error(wait_slots(0, PX_CI, 1), 0x04);
}

static void a_disk_that_fails_is_told_of(void **state)
{
	uint8_t *p = at(DATA);

	(void)state;
	board_fail(&m.b, FAULT_READ, 1);
	expect_error(command(0x25, 77, 8, 4096), 0x40);
	board_fail(&m.b, FAULT_WRITE, 1);
	assert_false(command(0x35, 77, 8, 4096));
	assert_int_equal(port_get(0, PX_TFD), 0x0471);
	recover(0);
	/* Of two queued commands one fails; a log tells which, and the other is made again. */
	for (unsigned i = 3; i < 6; i++) {
		uint8_t fis[20];

		fill_fis(fis, 0x60, i == 4 ? SECTORS : i, i << 3);
		fis[3] = 1;
		prepare(0, i, fis, DATA, 512, 1, 0);
	}
	port_set(0, PX_SACT, 0x38);
	issue(0, 0x38);
	assert_false(wait_slots(0, PX_SACT, 1u << 4));
	assert_int_equal(port_get(0, PX_TFD) & 1, 1);
	assert_int_equal(port_get(0, PX_SACT) & 1u << 4, 1u << 4);
	recover(0);
	assert_true(command(0x2f, 0x10, 1, 512));
	assert_int_equal(p[0], 4);
	assert_int_equal(p[2] & 1, 1);
	assert_int_equal(p[3], 0x10);
	assert_int_equal(p[4] | p[5] << 8, SECTORS);
}

static void a_read_only_disk_is_not_written(void **state)
{
	(void)state;
	expect_error(command(0x35, 0, 8, 4096), 0x04);
	expect_error(with_features(0x06, 1, 1, 512), 0x04);
	assert_true(command(0xec, 0, 0, 512));
	assert_int_equal(le16_load((uint8_t *)at(DATA) + 338), 0);
}

/* ---- the machine stops ----------------------------------------------------------- */

static void a_request_under_way_is_made_again(void **state)
{
	uint8_t fis[20];

	(void)state;
	memset(at(DATA), 0x5a, 4096);
	board_fail(&m.b, FAULT_WRITE, 1);
	fill_fis(fis, 0x35, 16, 8);
	prepare(0, 0, fis, DATA, 4096, 2, 0);
	issue(0, 1);
	board_wait_stop(&m.b);
	assert_int_equal(port_get(0, PX_CI), 1);
	assert_int_equal(port_get(0, PX_TFD) & 0x80, 0x80);
	board_check_state(&m.b);
	board_start(&m.b);
	assert_true(wait_slots(0, PX_CI, 1));
	memset(at(DATA), 0, 4096);
	assert_true(command(0x25, 16, 8, 4096));
	assert_int_equal(((uint8_t *)at(DATA))[4095], 0x5a);
}

static void queued_requests_under_way_are_made_again(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 32; i++) {
		uint8_t fis[20];

		fill_fis(fis, 0x61, i * 8, i << 3);
		fis[3] = 8;
		memset(at(DATA + i * 4096), (int)i + 1, 4096);
		prepare(0, i, fis, DATA + i * 4096, 4096, 1, 0);
	}
	board_fail(&m.b, FAULT_WRITE, 5);
	port_set(0, PX_SACT, UINT32_MAX);
	issue(0, UINT32_MAX);
	board_wait_stop(&m.b);
	assert_int_not_equal(port_get(0, PX_SACT), 0);
	board_check_state(&m.b);
	board_start(&m.b);
	assert_true(wait_slots(0, PX_SACT, UINT32_MAX));
	memset(at(DATA), 0, 32 * 4096);
	assert_true(command(0x25, 0, 256, 32 * 4096));
	for (unsigned i = 0; i < 32; i++)
		assert_int_equal(((uint8_t *)at(DATA))[i * 4096], i + 1);
}

static void what_is_kept_is_forgotten_when_the_list_stops(void **state)
{
	uint8_t fis[20];

	(void)state;
	board_fail(&m.b, FAULT_WRITE, 1);
	fill_fis(fis, 0x35, 16, 8);
	prepare(0, 0, fis, DATA, 4096, 2, 0);
	issue(0, 1);
	for (unsigned i = 0; vm_status(&m.b.vm) == VM_STATUS_RUNNING && i < 300000; i++)
		usleep(100);
	recover(0);
	board_stop(&m.b);
	board_check_state(&m.b);
	board_start(&m.b);
	assert_true(command(0x25, 0, 8, 4096));
}

/* ---- a CD-ROM drive -------------------------------------------------------------- */

/* Whether it went well; then its data, of as many bytes as asked, is at DATA. */
static bool packet(const uint8_t cdb[12], uint32_t bytes)
{
	uint8_t fis[20];

	fill_fis(fis, 0xa0, 0, 0);
	fis[3] = 1;
	memset(at(DATA), 0xdd, MAX(bytes, 64u));
	prepare(1, 0, fis, DATA, bytes, bytes ? 1 : 0, 0x20);
	memcpy(table_of(1, 0) + 0x40, cdb, 12);
	issue(1, 1);
	return wait_slots(1, PX_CI, 1);
}

#define PACKET(bytes, ...) packet((const uint8_t[12]){__VA_ARGS__}, bytes)

/* It failed for this reason. */
static void expect_sense(bool went_well, unsigned key, unsigned code)
{
	uint8_t *p = at(DATA);

	assert_false(went_well);
	assert_int_equal(port_get(1, PX_TFD) >> 12, key);
	recover(1);
	assert_true(PACKET(18, 0x03, 0, 0, 0, 18));
	assert_int_equal(p[2], key);
	assert_int_equal(p[12], code);
	assert_true(PACKET(18, 0x03, 0, 0, 0, 18));
	assert_int_equal(p[2], 0);
}

static void a_cd_says_what_it_is(void **state)
{
	uint8_t *p = at(DATA), fis[20];

	(void)state;
	fill_fis(fis, 0xa1, 0, 0);
	assert_true(run(1, fis, 512, 1));
	assert_int_equal(le16_load(p), 0x85c0);
	assert_memory_equal(p + 20, "emidmu", 6);
	assert_true(PACKET(0, 0x00));
	assert_true(PACKET(36, 0x12, 0, 0, 0, 36));
	assert_int_equal(p[0], 5);
	assert_memory_equal(p + 8, "Byre    CD-ROM  ", 16);
	assert_true(PACKET(8, 0x25));
	assert_int_equal(be32_load(p), CD_BYTES / CD_BLOCK - 1);
	assert_int_equal(be32_load(p + 4), CD_BLOCK);
	assert_true(PACKET(20, 0x43, 0, 0, 0, 0, 0, 0, 0, 20));
	assert_int_equal(be16_load(p), 18);
	assert_int_equal(p[14], 0xaa);
	assert_int_equal(be32_load(p + 16), CD_BYTES / CD_BLOCK);
	assert_true(PACKET(12, 0x43, 2, 1, 0, 0, 0, 0, 0, 12));
	assert_int_equal(be32_load(p + 8), 0x000200);
	assert_true(PACKET(64, 0x46, 0, 0, 0, 0, 0, 0, 0, 64));
	assert_int_equal(be16_load(p + 6), 8);
	assert_int_equal(be32_load(p) + 4, moved(1, 0));
	assert_true(PACKET(64, 0x46, 2, 0, 3, 0, 0, 0, 0, 64));
	assert_int_equal(moved(1, 0), 16);
	assert_true(PACKET(8, 0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8));
	assert_int_equal(p[5], 2);
	assert_true(PACKET(8, 0x4a, 1, 0, 0, 0x40, 0, 0, 0, 8));
	assert_int_equal(p[2], 0x80);
	assert_true(PACKET(64, 0x5a, 0, 0x2a, 0, 0, 0, 0, 0, 64));
	assert_int_equal(be16_load(p) + 2, moved(1, 0));
	assert_int_equal(p[8], 0x2a);
	assert_true(PACKET(64, 0x5a, 0, 0x3f, 0, 0, 0, 0, 0, 64));
	assert_true(PACKET(34, 0x51, 0, 0, 0, 0, 0, 0, 0, 34));
	assert_int_equal(p[2], 0x0e);
	assert_true(PACKET(4, 0x12, 0, 0, 0, 36)); /* room for less */
	assert_int_equal(moved(1, 0), 4);
}

static void a_cd_is_read(void **state)
{
	uint8_t *p = at(DATA), fis[20];

	(void)state;
	assert_true(PACKET(3 * CD_BLOCK, 0x28, 0, 0, 0, 0, 7, 0, 0, 3));
	assert_int_equal(p[0], 7);
	assert_int_equal(p[3 * CD_BLOCK - 1], 9);
	assert_true(PACKET(2 * CD_BLOCK, 0xa8, 0, 0, 0, 1, 0, 0, 0, 0, 2));
	assert_int_equal(p[CD_BLOCK], 1);
	assert_true(PACKET(0, 0x28, 0, 0, 0, 0, 7, 0, 0, 0));
	expect_sense(PACKET(CD_BLOCK, 0x28, 0, 0, 0, 2, 0, 0, 0, 1), 5, 0x21);
	expect_sense(
		PACKET(CD_BLOCK, 0xa8, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff),
		5, 0x21);
	expect_sense(PACKET(CD_BLOCK, 0x28, 0, 0, 0, 0, 0, 0, 0, 2), 5, 0x24);
	expect_sense(PACKET(CD_BLOCK, 0x2a, 0, 0, 0, 0, 0, 0, 0, 1), 5, 0x20);
	expect_sense(PACKET(36, 0x12, 1, 0x80, 0, 36), 5, 0x24);
	expect_sense(PACKET(20, 0x43, 0, 5, 0, 0, 0, 0, 0, 20), 5, 0x24);
	fill_fis(fis, 0xec, 0, 0);
	assert_false(run(1, fis, 512, 1));
	assert_int_equal(((uint8_t *)at(FIS(1)))[0x46], 0xeb);
	recover(1);
	fill_fis(fis, 0x35, 0, 1);
	assert_false(run(1, fis, 512, 1));
	recover(1);
}

static const struct disk *cd(void)
{
	const struct disk *d = m.b.vm.disks;

	while (!d->removable)
		d = d->next;
	return d;
}

static void a_cd_comes_out_unless_it_is_locked(void **state)
{
	(void)state;
	assert_true(PACKET(0, 0x1e, 0, 0, 0, 1));
	assert_true(cd()->tray_locked && !cd()->tray_open);
	expect_sense(PACKET(0, 0x1b, 0, 0, 0, 2), 5, 0x53);
	assert_true(PACKET(0, 0x1e, 0, 0, 0, 0));
	assert_true(PACKET(0, 0x1b, 0, 0, 0, 2));
	expect_sense(PACKET(0, 0x00), 2, 0x3a);
	expect_sense(PACKET(CD_BLOCK, 0x28, 0, 0, 0, 0, 0, 0, 0, 1), 2, 0x3a);
	assert_true(PACKET(8, 0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8));
	assert_int_equal(((uint8_t *)at(DATA))[5], 1);
	board_stop(&m.b);
	board_check_state(&m.b);
	board_start(&m.b);
	expect_sense(PACKET(0, 0x00), 2, 0x3a);
	assert_true(cd()->tray_open && !cd()->tray_locked);
	assert_true(PACKET(0, 0x1b, 0, 0, 0, 3));
	assert_false(cd()->tray_open);
	assert_true(PACKET(0, 0x00));
}

/* ---- anything -------------------------------------------------------------------- */

static void random_command(unsigned port, unsigned slot)
{
	static const uint8_t plain[] = {0x25, 0x35, 0x60, 0x61, 0xec, 0xa0, 0xa1, 0x06,
		0xef, 0x2f, 0x20, 0xca, 0xb0, 0x08};
	static const uint8_t packets[] = {0x00, 0x03, 0x12, 0x1b, 0x1e, 0x25, 0x28, 0x43,
		0x46, 0x4a, 0x51, 0x5a, 0xa8};
	uint8_t fis[20], *table = table_of(port, slot);

	fill_fis(fis, plain[(unsigned)rand_r(&m.seed) % ARRAY_LEN(plain)],
		(unsigned)rand_r(&m.seed) % (SECTORS + 100),
		rand_r(&m.seed) % 2 ? slot << 3 : (unsigned)rand_r(&m.seed) % 70);
	fis[3] = (uint8_t)(rand_r(&m.seed) % 4);
	if (rand_r(&m.seed) % 16 == 0)
		fis[rand_r(&m.seed) % 16] = (uint8_t)rand_r(&m.seed);
	prepare(port, slot, fis, DATA + (unsigned)rand_r(&m.seed) % 4096,
		512 * (1 + (unsigned)rand_r(&m.seed) % 64), (unsigned)rand_r(&m.seed) % 4,
		0);
	for (unsigned i = 0; i < 12; i++)
		table[0x40 + i] = (uint8_t)(rand_r(&m.seed) % 4 ? 0 : rand_r(&m.seed));
	table[0x40] = packets[(unsigned)rand_r(&m.seed) % ARRAY_LEN(packets)];
	if (rand_r(&m.seed) % 16 == 0)
		le64_store(table + 0x80, (uint64_t)rand_r(&m.seed));
	if (rand_r(&m.seed) % 32 == 0)
		le32_store(
			(uint8_t *)at(LIST(port)) + 32 * slot, (uint32_t)rand_r(&m.seed));
}

/* Whatever is in tables and registers, the process is well and a reset helps. The driver
 * writes where the device reads, on purpose: that is a race by any standard. */
static void random_commands_and_registers(void **state)
{
	(void)state;
#ifdef __SANITIZE_THREAD__
	skip();
#endif
	m.seed = 13;
	for (unsigned i = 0; i < 6000; i++) {
		unsigned port = (unsigned)rand_r(&m.seed) % 3;
		unsigned slot = (unsigned)rand_r(&m.seed) % 32;

		random_command(port, slot);
		port_set(port, PX_SACT, 1u << slot);
		issue(port, 1u << slot);
		if (port_get(port, PX_IS) & 0x60000000) {
			port_set(port, PX_CMD, 0x10);
			start_port(port);
		}
		if (rand_r(&m.seed) % 8 == 0)
			set((unsigned)rand_r(&m.seed) % 0x400 & ~3u,
				(uint32_t)rand_r(&m.seed));
		get((unsigned)rand_r(&m.seed) % 0x1000 & ~3u);
	}
	set(0x04, 1);
	start_port(0);
	assert_true(command(0x25, 0, 8, 4096));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(it_says_what_it_is, make, unmake),
		cmocka_unit_test_setup_teardown(other_commands_of_a_disk, make, unmake),
		cmocka_unit_test_setup_teardown(commands_against_a_model, make, unmake),
		cmocka_unit_test_setup_teardown(
			the_pin_follows_the_registers, make, unmake),
		cmocka_unit_test_setup_teardown(
			resets_leave_a_device_as_it_was, make, unmake),
		cmocka_unit_test_setup_teardown(
			settings_outlive_a_reset_of_the_link, make, unmake),
		cmocka_unit_test_setup_teardown(
			a_reset_waits_for_queued_requests, make, unmake),
		cmocka_unit_test_setup_teardown(
			a_slot_under_way_is_not_issued_again, make, unmake),
		cmocka_unit_test_setup_teardown(
			what_cannot_be_is_an_error_and_stops_the_port, make, unmake),
		cmocka_unit_test_setup_teardown(
			too_many_pieces_are_refused, make, unmake),
		cmocka_unit_test_setup_teardown(
			a_disk_that_fails_is_told_of, make_reporting, unmake),
		cmocka_unit_test_setup_teardown(
			a_read_only_disk_is_not_written, make_read_only, unmake),
		cmocka_unit_test_setup_teardown(
			a_request_under_way_is_made_again, make, unmake),
		cmocka_unit_test_setup_teardown(
			queued_requests_under_way_are_made_again, make, unmake),
		cmocka_unit_test_setup_teardown(
			what_is_kept_is_forgotten_when_the_list_stops, make, unmake),
		cmocka_unit_test_setup_teardown(a_cd_says_what_it_is, make, unmake),
		cmocka_unit_test_setup_teardown(a_cd_is_read, make, unmake),
		cmocka_unit_test_setup_teardown(
			a_cd_comes_out_unless_it_is_locked, make, unmake),
		cmocka_unit_test_setup_teardown(
			random_commands_and_registers, make, unmake),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
