/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A disk as a SCSI unit: each command, with what may be in its block and what may not, with
 * buffers that are too short; reads and writes of every kind against a flat model; and any
 * bytes at all, after which the unit works as before.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "backends/fault.h"
#include "base/endian.h"
#include "base/math.h"
#include "block/blk.h"
#include "vmm/scsi_disk.h"

#define DISK_BYTES  (1 * MiB)
#define DISK_BLOCKS (DISK_BYTES / 512)

/* What a check condition says. */
#define MEDIUM_READ  0x31100u
#define MEDIUM_WRITE 0x30c00u
#define LIST_LENGTH  0x51a00u
#define BAD_OPCODE   0x52000u
#define BAD_LBA      0x52100u
#define BAD_CDB      0x52400u
#define NO_UNIT      0x52500u
#define BAD_LIST     0x52600u
#define NO_SAVED     0x53900u
#define RESET        0x62900u
#define CAPACITY     0x62a09u
#define READ_ONLY    0x72700u
#define NO_SPACE     0x72707u
#define MISCOMPARE   0xe1d00u

static struct vm vm;
static struct blk *node;
static struct disk *disk;
static struct scsi_disk unit;
static uint8_t data[MiB + 512]; /* to and from the unit */
static struct scsi_request last;

/* Runs it with that much room in both directions; 0, or what the sense data says. */
static unsigned run_cdb(const uint8_t *cdb, uint64_t out, uint64_t in)
{
	/* Odd pieces, as a guest's are. */
	struct iovec out_iov[2] = {
		{data, MIN(out, 100ull)}, {data + MIN(out, 100ull), 0}};
	struct iovec in_iov[2] = {{data, MIN(in, 7ull)}, {data + MIN(in, 7ull), 0}};
	unsigned fixed;

	out_iov[1].iov_len = out - out_iov[0].iov_len;
	in_iov[1].iov_len = in - in_iov[0].iov_len;
	last = (struct scsi_request){.cdb = cdb,
		.out = out_iov,
		.in = in_iov,
		.n_out = 2,
		.n_in = 2,
		.out_bytes = out,
		.in_bytes = in};
	assert_int_equal(scsi_disk_execute(&unit, &last), 0);
	assert_true(last.done <= MAX(in, out));
	if (last.status == SCSI_GOOD)
		return 0;
	assert_int_equal(last.status, SCSI_CHECK_CONDITION);
	if (last.sense[0] == 0x72)
		return (unsigned)last.sense[1] << 16 | be16_load(last.sense + 2);
	assert_int_equal(last.sense[0], 0x70);
	assert_int_equal(last.sense_bytes, 18);
	fixed = (unsigned)last.sense[2] << 16;
	return fixed | be16_load(last.sense + 12);
}

#define RUN(out, in, ...) run_cdb((const uint8_t[SCSI_CDB_BYTES]){__VA_ARGS__}, out, in)

static void make_with(const char *what, unsigned flags, bool discard, const char *serial)
{
	struct disk_options o = {.serial = serial, .discard = discard};
	struct opts *opts = opts_new();
	struct err err = ERR_INIT;

	memset(&vm, 0, sizeof(vm));
	pthread_mutex_init(&vm.lock, NULL);
	pthread_cond_init(&vm.changed, NULL);
	assert_int_equal(opts_parse(opts, what, NULL, &err), 0);
	node = o.blk = blk_open(NULL, opts, flags | BLK_O_PROTOCOL, &err);
	opts_free(opts);
	assert_non_null(node);
	assert_int_equal(disk_new(&vm, &o, &disk, &err), 0);
	scsi_disk_init(&unit, disk);
	assert_int_equal(RUN(0, 0, 0x00), RESET);
	assert_int_equal(RUN(0, 0, 0x00), 0);
}

static int make(void **state)
{
	(void)state;
	make_with("driver=mem,size=1M", BLK_O_RDWR, true, "disk0");
	return 0;
}

static int make_to_fail(void **state)
{
	(void)state;
	make_with("driver=fault,file.driver=mem,file.size=1M", BLK_O_RDWR, true, NULL);
	return 0;
}

static int make_read_only(void **state)
{
	(void)state;
	make_with("driver=mem,size=1M", 0, true, NULL);
	return 0;
}

static int unmake(void **state)
{
	(void)state;
	disk->device.ops->free(&disk->device);
	pthread_mutex_destroy(&vm.lock);
	pthread_cond_destroy(&vm.changed);
	return blk_close(node);
}

/* ---- what it is ------------------------------------------------------------------ */

static void it_says_what_it_is(void **state)
{
	(void)state;
	assert_int_equal(RUN(0, 96, 0x12, 0, 0, 0, 96), 0);
	assert_int_equal(last.done, 74);
	assert_int_equal(data[0], 0);
	assert_int_equal(data[4], 69);
	assert_memory_equal(data + 8, "BYRE    Disk            ", 24);
	assert_int_equal(RUN(0, 96, 0x12, 0, 0, 0, 5), 0);
	assert_int_equal(last.done, 5);
	assert_false(last.overrun);
	assert_int_equal(RUN(0, 4, 0x12, 0, 0, 0, 96), 0); /* less room than it says */
	assert_int_equal(last.done, 4);
	assert_true(last.overrun);
	assert_int_equal(RUN(0, 96, 0x12, 0, 0x80, 0, 96), BAD_CDB); /* no EVPD */
	assert_int_equal(RUN(0, 96, 0x12, 2, 0, 0, 96), BAD_CDB);
	assert_int_equal(RUN(0, 96, 0x12, 1, 0x81, 0, 96), BAD_CDB); /* no such page */
}

static void its_pages_are_those_it_lists(void **state)
{
	static const uint8_t pages[] = {0x00, 0x80, 0x83, 0xb0, 0xb1, 0xb2};

	(void)state;
	assert_int_equal(RUN(0, 255, 0x12, 1, 0, 0, 255), 0);
	assert_int_equal(last.done, 4 + sizeof(pages));
	assert_memory_equal(data + 4, pages, sizeof(pages));
	for (unsigned i = 0; i < sizeof(pages); i++) {
		assert_int_equal(RUN(0, 255, 0x12, 1, pages[i], 0, 255), 0);
		assert_int_equal(data[1], pages[i]);
		assert_int_equal(be16_load(data + 2), last.done - 4);
	}
	RUN(0, 255, 0x12, 1, 0x80, 0, 255);
	assert_int_equal(last.done, 9);
	assert_memory_equal(data + 4, "disk0", 5);
	RUN(0, 255, 0x12, 1, 0x83, 0, 255);
	assert_memory_equal(data + 8, "BYRE    disk0", 13);
	assert_int_equal(data[22] & 0xf, 3); /* NAA */
	assert_int_equal(data[25] >> 4, 3);
	RUN(0, 255, 0x12, 1, 0xb2, 0, 255);
	assert_int_equal(data[5] & 0xe0, 0xe0);
}

static void one_without_a_serial_number_has_no_name_of_that_sort(void **state)
{
	(void)state;
	assert_int_equal(RUN(0, 255, 0x12, 1, 0x80, 0, 255), BAD_CDB);
	RUN(0, 255, 0x12, 1, 0, 0, 255);
	assert_int_equal(data[5], 0x83);
	RUN(0, 255, 0x12, 1, 0x83, 0, 255);
	assert_int_equal(last.done, 4 + 12 + 5);
	assert_memory_equal(data + 8, "BYRE    disk0", 13);
}

static void it_tells_its_size(void **state)
{
	(void)state;
	assert_int_equal(RUN(0, 8, 0x25), 0);
	assert_int_equal(be32_load(data), DISK_BLOCKS - 1);
	assert_int_equal(be32_load(data + 4), 512);
	assert_int_equal(RUN(0, 32, 0x9e, 0x10, [13] = 32), 0);
	assert_int_equal(be64_load(data), DISK_BLOCKS - 1);
	assert_int_equal(data[14], 0xc0); /* thin; what is unmapped reads as zeros */
	assert_int_equal(RUN(0, 32, 0x9e, 0x12, [13] = 32), BAD_OPCODE);
}

static void it_has_one_unit(void **state)
{
	struct scsi_request r = {.cdb = (uint8_t[SCSI_CDB_BYTES]){0x12, [4] = 36},
		.in = &(struct iovec){data, 36},
		.n_in = 1,
		.in_bytes = 36};

	(void)state;
	assert_int_equal(RUN(0, 16, 0xa0, [9] = 16), 0);
	assert_int_equal(be32_load(data), 8);
	assert_int_equal(be64_load(data + 8), 0);
	assert_int_equal(RUN(0, 16, 0xa0, [2] = 1, [9] = 16), 0);
	assert_int_equal(be32_load(data), 0);
	assert_int_equal(RUN(0, 16, 0xa0, [2] = 3, [9] = 16), BAD_CDB);
	scsi_no_unit(&r);
	assert_int_equal(r.status, SCSI_GOOD);
	assert_int_equal(data[0], 0x7f);
	r.cdb = (uint8_t[SCSI_CDB_BYTES]){0x28};
	scsi_no_unit(&r);
	assert_int_equal(r.status, SCSI_CHECK_CONDITION);
	assert_int_equal(be16_load(r.sense + 12), 0x2500);
}

static void it_lists_its_commands(void **state)
{
	unsigned n;

	(void)state;
	assert_int_equal(RUN(0, 4096, 0xa3, 0x0c, [8] = 16), 0);
	n = be32_load(data) / 8;
	assert_true(n > 20 && last.done == 4 + n * 8);
	for (unsigned i = 0; i < n; i++) {
		uint8_t cdb[SCSI_CDB_BYTES] = {0xa3, 0x0c, 1, data[4 + 8 * i], [8] = 16};
		unsigned bytes = data[4 + 8 * i + 7];
		uint8_t saved[512];

		memcpy(saved, data, sizeof(saved));
		cdb[2] = data[4 + 8 * i + 5] & 1 ? 2 : 1;
		cdb[5] = data[4 + 8 * i + 3];
		assert_int_equal(run_cdb(cdb, 0, 4096), 0);
		assert_int_equal(data[1], 3);
		assert_int_equal(be16_load(data + 2), bytes);
		assert_int_equal(data[4], cdb[3]);
		memcpy(data, saved, sizeof(saved));
	}
	assert_int_equal(RUN(0, 64, 0xa3, 0x0c, 1, 0xc1, [9] = 64), 0);
	assert_int_equal(data[1], 1);
	assert_int_equal(RUN(0, 64, 0xa3, 0x0c, 2, 0x28, [9] = 64), BAD_CDB);
	assert_int_equal(RUN(0, 64, 0xa3, 0x0c, 0x80, [9] = 64), BAD_CDB);
	assert_int_equal(RUN(0, 64, 0xa3, 0x0b), BAD_OPCODE);
}

/* ---- unit attention and sense ---------------------------------------------------- */

static void attentions_are_told_once_and_in_order(void **state)
{
	struct err err = ERR_INIT;

	(void)state;
	scsi_disk_reset(&unit);
	assert_int_equal(disk_resize(disk, 2 * DISK_BYTES, &err), 0);
	scsi_disk_attend(&unit, SCSI_ATTENTION_CAPACITY);
	assert_int_equal(RUN(0, 96, 0x12, 0, 0, 0, 96), 0); /* not these */
	assert_int_equal(RUN(0, 16, 0xa0, [9] = 16), 0);
	assert_int_equal(RUN(0, 512, 0x28, [8] = 1), RESET);
	assert_int_equal(RUN(0, 0, 0xc1), CAPACITY);
	assert_int_equal(RUN(0, 8, 0x25), 0);
	assert_int_equal(be32_load(data), 2 * DISK_BLOCKS - 1);
	scsi_disk_attend(&unit, SCSI_ATTENTION_CAPACITY);
	assert_int_equal(RUN(0, 18, 0x03, 0, 0, 0, 18), 0); /* that takes it */
	assert_int_equal(data[2], 6);
	assert_int_equal(be16_load(data + 12), 0x2a09);
	assert_int_equal(RUN(0, 18, 0x03, 1, 0, 0, 18), 0);
	assert_int_equal(last.done, 8);
	assert_int_equal(data[0], 0x72);
	assert_int_equal(data[1], 0);
}

static void commands_that_there_are_not_and_bits_that_may_not_be_set(void **state)
{
	(void)state;
	assert_int_equal(RUN(0, 0, 0x04), BAD_OPCODE);
	assert_int_equal(RUN(0, 0, 0xff), BAD_OPCODE);
	assert_int_equal(RUN(0, 0, 0x00, [5] = 4), BAD_CDB);         /* NACA */
	assert_int_equal(RUN(0, 512, 0x28, 0x20, [8] = 1), BAD_CDB); /* protection */
}

/* ---- blocks ---------------------------------------------------------------------- */

static void blocks_outside_and_buffers_too_short(void **state)
{
	(void)state;
	assert_int_equal(RUN(0, 512, 0x28, [2] = 0, 0, 0x08, 0, [8] = 1), BAD_LBA);
	assert_int_equal(RUN(0, 1024, 0x28, [2] = 0, 0, 0x07, 0xff, [8] = 2), BAD_LBA);
	assert_int_equal(RUN(0, 512, 0x88, [2] = 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
				 0xff, [13] = 2),
		BAD_LBA);
	assert_int_equal(RUN(512, 0, 0x8a, [2] = 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
				 0xff, [13] = 1),
		BAD_LBA);
	assert_int_equal(RUN(512, 0, 0x0a, 0x1f, 0xff, 0xff, 1), BAD_LBA);
	assert_int_equal(RUN(0, 0, 0x28, [4] = 0x08), 0); /* none, at the very end */
	memset(data, 'w', 2048);
	assert_int_equal(RUN(2048, 0, 0x2a, [8] = 4), 0);
	assert_int_equal(last.done, 2048);
	assert_false(last.overrun);
	memset(data, 0, 2048);
	assert_int_equal(RUN(0, 700, 0x28, [8] = 4), 0);
	assert_true(last.overrun);
	assert_int_equal(last.done, 700);
	assert_int_equal(data[699], 'w');
	memset(data, 'x', 2048);
	assert_int_equal(RUN(1024, 0, 0x2a, [8] = 4), 0); /* half of it is not there */
	assert_true(last.overrun);
	assert_int_equal(last.done, 0);
	assert_int_equal(RUN(0, 2048, 0x28, [8] = 4), 0);
	assert_int_equal(data[0], 'w');
	assert_int_equal(RUN(0, 4096, 0x28, [8] = 4), 0); /* more room than data */
	assert_int_equal(last.done, 2048);
	assert_false(last.overrun);
}

static uint8_t model[DISK_BYTES];

/* A CDB for blocks, in one of the lengths that there are. */
static void block_cdb(uint8_t *cdb, const uint8_t *opcodes, uint64_t lba, uint32_t blocks,
	unsigned *seed)
{
	unsigned kind = (unsigned)rand_r(seed) % 4;

	memset(cdb, 0, SCSI_CDB_BYTES);
	while (!opcodes[kind])
		kind = (unsigned)rand_r(seed) % 4;
	cdb[0] = opcodes[kind];
	if (kind == 0) {
		be32_store(cdb, (uint32_t)(cdb[0] << 24 | lba));
		cdb[4] = (uint8_t)blocks;
	} else if (kind == 1) {
		be32_store(cdb + 2, (uint32_t)lba);
		be16_store(cdb + 7, (uint16_t)blocks);
	} else if (kind == 2) {
		be32_store(cdb + 2, (uint32_t)lba);
		be32_store(cdb + 6, blocks);
	} else {
		be64_store(cdb + 2, lba);
		be32_store(cdb + 10, blocks);
	}
}

static void one_random_command(unsigned *seed)
{
	static const uint8_t reads[] = {0x08, 0x28, 0xa8, 0x88};
	static const uint8_t writes[] = {0x0a, 0x2a, 0xaa, 0x8a};
	static const uint8_t sames[] = {0, 0x41, 0, 0x93};
	static const uint8_t verifies[] = {0, 0x2f, 0, 0x8f};
	static const uint8_t flushes[] = {0, 0x35, 0, 0x91};
	uint32_t blocks = 1 + (unsigned)rand_r(seed) % 64, bytes = blocks * 512;
	uint64_t lba = (unsigned)rand_r(seed) % (DISK_BLOCKS - blocks + 1);
	uint8_t cdb[SCSI_CDB_BYTES], *there = model + lba * 512;

	switch (rand_r(seed) % 8) {
	case 0:
	case 1:
		block_cdb(cdb, reads, lba, blocks, seed);
		assert_int_equal(run_cdb(cdb, 0, bytes), 0);
		assert_memory_equal(data, there, bytes);
		break;
	case 2:
	case 3:
		for (uint32_t i = 0; i < bytes; i++)
			data[i] = (uint8_t)rand_r(seed);
		memcpy(there, data, bytes);
		block_cdb(cdb, writes, lba, blocks, seed);
		if (cdb[0] >> 5)
			cdb[1] = rand_r(seed) % 2 ? 0x08 : 0;
		assert_int_equal(run_cdb(cdb, bytes, 0), 0);
		break;
	case 4:
		memset(data, rand_r(seed) % 2 ? 0 : rand_r(seed), 512);
		for (uint32_t i = 0; i < blocks; i++)
			memcpy(there + i * 512, data, 512);
		block_cdb(cdb, sames, lba, blocks, seed);
		cdb[1] = rand_r(seed) % 2 ? 0x08 : 0;
		assert_int_equal(run_cdb(cdb, 512, 0), 0);
		break;
	case 5:
		memset(data, 0, 24);
		be16_store(data, 22);
		be16_store(data + 2, 16);
		be64_store(data + 8, lba);
		be32_store(data + 16, blocks);
		memset(there, 0, bytes); /* it says that they read as zeros */
		memset(cdb, 0, sizeof(cdb));
		cdb[0] = 0x42;
		cdb[8] = 24;
		assert_int_equal(run_cdb(cdb, 24, 0), 0);
		break;
	case 6:
		memcpy(data, there, bytes);
		data[bytes - 1] ^= (uint8_t)(rand_r(seed) % 2);
		block_cdb(cdb, verifies, lba, blocks, seed);
		cdb[1] = 0x02;
		assert_int_equal(run_cdb(cdb, bytes, 0),
			memcmp(data, there, bytes) ? MISCOMPARE : 0);
		break;
	default:
		block_cdb(cdb, flushes, lba, blocks, seed);
		assert_int_equal(run_cdb(cdb, 0, 0), 0);
	}
}

static void commands_against_a_model(void **state)
{
	unsigned seed = 7;

	(void)state;
	memset(model, 0, sizeof(model));
	for (unsigned i = 0; i < 6000; i++)
		one_random_command(&seed);
	assert_int_equal(blk_pread(node, 0, data, DISK_BYTES), 0);
	assert_memory_equal(data, model, DISK_BYTES);
}

static void same_and_unmap_have_their_limits(void **state)
{
	(void)state;
	memset(data, 0, 512);
	assert_int_equal(RUN(512, 0, 0x41, 0), BAD_CDB);             /* none */
	assert_int_equal(RUN(512, 0, 0x93, [10] = 0x80), BAD_CDB);   /* too many */
	assert_int_equal(RUN(512, 0, 0x41, 0x10, [8] = 1), BAD_CDB); /* anchored */
	assert_int_equal(RUN(511, 0, 0x41, 0, [8] = 1), 0);          /* part of a block */
	assert_true(last.overrun);
	assert_int_equal(
		RUN(0, 0, 0x93, 0x09, [13] = 8), 0); /* zeros that are not sent */
	assert_int_equal(RUN(0, 0, 0x42, 0), 0);
	assert_int_equal(RUN(7, 0, 0x42, [8] = 7), LIST_LENGTH);
	assert_int_equal(RUN(8, 0, 0x42, [8] = 24), LIST_LENGTH);
	memset(data, 0, 8192);
	be16_store(data, 8190);
	be16_store(data + 2, 16);
	assert_int_equal(RUN(8, 0, 0x42, [8] = 8), BAD_LIST); /* more than there is */
	be16_store(data + 2, 16 * 256);
	assert_int_equal(
		RUN(8192, 0, 0x42, [7] = 0x20), BAD_LIST); /* more than it takes */
	be16_store(data + 2, 32);
	be32_store(data + 16, 8);
	be64_store(data + 24, DISK_BLOCKS);
	be32_store(data + 32, 1);
	memset(data + 512, 'u', 512);
	assert_int_equal(blk_pwrite(node, 0, data + 512, 512, 0), 0);
	assert_int_equal(RUN(64, 0, 0x42, [8] = 40), BAD_LBA); /* the second one */
	assert_int_equal(blk_pread(node, 0, data, 512), 0);
	assert_int_equal(data[0], 'u'); /* and the first was not done */
}

static void a_disk_that_keeps_its_space_does_not_unmap(void **state)
{
	(void)state;
	disk->discard = false;
	assert_int_equal(RUN(24, 0, 0x42, [8] = 24), BAD_OPCODE);
	assert_int_equal(RUN(512, 0, 0x41, 0x08, [8] = 1), BAD_CDB);
	assert_int_equal(RUN(0, 32, 0x9e, 0x10, [13] = 32), 0);
	assert_int_equal(data[14], 0);
	assert_int_equal(RUN(0, 255, 0x12, 1, 0xb2, 0, 255), 0);
	assert_int_equal(data[5], 0);
}

static void errors_of_the_disk_are_told(void **state)
{
	struct fault_plan plan = {.ops = FAULT_READ, .at = 1, .error = EIO};

	(void)state;
	fault_arm(fault_find(node), &plan);
	assert_int_equal(RUN(0, 512, 0x28, [8] = 1), MEDIUM_READ);
	assert_int_equal(last.done, 0);
	plan.ops = FAULT_WRITE;
	fault_arm(fault_find(node), &plan);
	assert_int_equal(RUN(512, 0, 0x2a, [8] = 1), MEDIUM_WRITE);
	plan.error = ENOSPC;
	fault_arm(fault_find(node), &plan);
	assert_int_equal(RUN(512, 0, 0x2a, [8] = 1), NO_SPACE);
	plan.ops = FAULT_FLUSH;
	plan.error = EIO;
	fault_arm(fault_find(node), &plan);
	assert_int_equal(RUN(0, 0, 0x35), MEDIUM_WRITE);
	plan.ops = FAULT_WRITE;
	plan.error = EBADE; /* what a backend says of another's reservation */
	fault_arm(fault_find(node), &plan);
	last = (struct scsi_request){.cdb = (uint8_t[SCSI_CDB_BYTES]){0x2a, [8] = 1},
		.out = &(struct iovec){data, 512},
		.n_out = 1,
		.out_bytes = 512};
	assert_int_equal(scsi_disk_execute(&unit, &last), 0);
	assert_int_equal(last.status, SCSI_RESERVATION_CONFLICT);
	fault_disarm(fault_find(node));
	disk->policy[1] = DISK_STOP;
	plan.error = EIO;
	fault_arm(fault_find(node), &plan);
	assert_int_equal(scsi_disk_execute(&unit, &last), -ECANCELED);
	assert_int_equal(scsi_disk_execute(&unit, &last), 0);
	assert_int_equal(last.status, SCSI_GOOD);
}

static void what_is_read_only_is_not_written(void **state)
{
	(void)state;
	assert_int_equal(RUN(0, 512, 0x28, [8] = 1), 0);
	assert_int_equal(RUN(512, 0, 0x2a, [8] = 1), READ_ONLY);
	assert_int_equal(RUN(512, 0, 0x41, 0, [8] = 1), READ_ONLY);
	assert_int_equal(RUN(24, 0, 0x42, [8] = 24), READ_ONLY);
	assert_int_equal(RUN(0, 64, 0x1a, 0, 0x3f, 0, 64), 0);
	assert_int_equal(data[2] & 0x80, 0x80);
	assert_int_equal(RUN(0, 0, 0x1b, 0, 0, 0, 0), 0);
}

/* ---- mode pages ------------------------------------------------------------------ */

static void mode_pages_are_read_and_changed(void **state)
{
	(void)state;
	assert_int_equal(RUN(0, 64, 0x1a, 0, 0x3f, 0, 64), 0);
	assert_int_equal(last.done, 4 + 8 + 20 + 12);
	assert_int_equal(data[0], last.done - 1);
	assert_int_equal(data[3], 8);
	assert_int_equal(be32_load(data + 4), DISK_BLOCKS);
	assert_int_equal(RUN(0, 64, 0x1a, 0x08, 0x08, 0, 64), 0);
	assert_int_equal(last.done, 24);
	assert_int_equal(data[6], 0x04); /* WCE */
	assert_int_equal(RUN(0, 64, 0x5a, 0x08, 0x48, [8] = 64), 0);
	assert_int_equal(be16_load(data), last.done - 2);
	assert_int_equal(data[8 + 2], 0x04); /* may be changed */
	assert_int_equal(RUN(0, 64, 0x1a, 0, 0xff, 0, 64), NO_SAVED);
	assert_int_equal(RUN(0, 64, 0x1a, 0, 0x01, 0, 64), BAD_CDB);
	assert_int_equal(RUN(0, 64, 0x1a, 0, 0x08, 1, 64), BAD_CDB);

	RUN(0, 64, 0x1a, 0x08, 0x3f, 0, 64);
	data[4 + 2] = 0;         /* no cache */
	data[4 + 20 + 2] = 0x04; /* sense data of the other sort */
	assert_int_equal(RUN(36, 0, 0x15, 0x10, 0, 0, 36), 0);
	assert_false(unit.write_cache);
	assert_int_equal(RUN(0, 0, 0xc1), BAD_OPCODE);
	assert_int_equal(last.sense[0], 0x72);
	assert_int_equal(last.sense_bytes, 8);
	RUN(0, 64, 0x1a, 0x08, 0x3f, 0, 64);
	assert_int_equal(data[4 + 2], 0);
	scsi_disk_reset(&unit);
	assert_true(unit.write_cache);
}

static void mode_pages_that_cannot_be_are_refused(void **state)
{
	(void)state;
	RUN(0, 64, 0x5a, 0x00, 0x3f, [8] = 64);
	assert_int_equal(RUN(48, 0, 0x55, 0x10, [8] = 48), 0); /* as it was */
	assert_int_equal(RUN(48, 0, 0x55, 0x11, [8] = 48), BAD_CDB);
	assert_int_equal(RUN(48, 0, 0x55, 0x10, [8] = 7), LIST_LENGTH);
	assert_int_equal(RUN(40, 0, 0x55, 0x10, [8] = 48), LIST_LENGTH);
	assert_int_equal(RUN(48, 0, 0x55, 0x10, [8] = 47), BAD_LIST);
	data[16 + 3] ^= 1; /* what may not be changed */
	data[16 + 2] ^= 4;
	assert_int_equal(RUN(48, 0, 0x55, 0x10, [8] = 48), BAD_LIST);
	assert_true(unit.write_cache); /* nor was what may */
	data[16 + 3] ^= 1;
	data[16 + 1] = 0xff;
	assert_int_equal(RUN(48, 0, 0x55, 0x10, [8] = 48), BAD_LIST);
	data[16 + 1] = 18;
	data[16] = 0x3f;
	assert_int_equal(RUN(48, 0, 0x55, 0x10, [8] = 48), BAD_LIST);
	data[16] = 8;
	be32_store(data + 12, 4096); /* other blocks */
	assert_int_equal(RUN(48, 0, 0x55, 0x10, [8] = 48), BAD_LIST);
	be16_store(data + 6, 0xffff);
	assert_int_equal(RUN(48, 0, 0x55, 0x10, [8] = 48), LIST_LENGTH);
}

/* ---- anything -------------------------------------------------------------------- */

static void random_bytes_as_commands(void **state)
{
	unsigned seed = 13;

	(void)state;
	for (unsigned i = 0; i < 100000; i++) {
		uint8_t cdb[SCSI_CDB_BYTES];
		unsigned few = (unsigned)rand_r(&seed) % 3;

		for (unsigned k = 0; k < sizeof(cdb); k++)
			cdb[k] =
				rand_r(&seed) % 4 < (int)few ? (uint8_t)rand_r(&seed) : 0;
		cdb[0] = (uint8_t)rand_r(&seed);
		for (unsigned k = 0; k < 64; k++)
			data[k] = (uint8_t)(rand_r(&seed) % 3 ? 0 : rand_r(&seed));
		run_cdb(cdb, (unsigned)rand_r(&seed) % 2000,
			(unsigned)rand_r(&seed) % 2000);
	}
	scsi_disk_reset(&unit);
	assert_int_equal(RUN(0, 0, 0x00), RESET);
	assert_int_equal(RUN(0, 512, 0x28, [8] = 1), 0);
}

#define TEST(name)         cmocka_unit_test_setup_teardown(name, make, unmake)
#define TEST_TO_FAIL(name) cmocka_unit_test_setup_teardown(name, make_to_fail, unmake)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(it_says_what_it_is),
		TEST(its_pages_are_those_it_lists),
		TEST_TO_FAIL(one_without_a_serial_number_has_no_name_of_that_sort),
		TEST(it_tells_its_size),
		TEST(it_has_one_unit),
		TEST(it_lists_its_commands),
		TEST(attentions_are_told_once_and_in_order),
		TEST(commands_that_there_are_not_and_bits_that_may_not_be_set),
		TEST(blocks_outside_and_buffers_too_short),
		TEST(commands_against_a_model),
		TEST(same_and_unmap_have_their_limits),
		TEST(a_disk_that_keeps_its_space_does_not_unmap),
		TEST_TO_FAIL(errors_of_the_disk_are_told),
		cmocka_unit_test_setup_teardown(
			what_is_read_only_is_not_written, make_read_only, unmake),
		TEST(mode_pages_are_read_and_changed),
		TEST(mode_pages_that_cannot_be_are_refused),
		TEST(random_bytes_as_commands),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
