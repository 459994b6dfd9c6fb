/* SPDX-License-Identifier: BSD-2-Clause */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backends/fault.h"
#include "base/endian.h"
#include "tests/unit/support_bare.h"
#include "tests/unit/support_blk.h"
#include "tests/unit/support_machine.h"

void board_new(struct board *b, uint64_t disk_bytes, const struct disk_options *o,
	unsigned flags)
{
	struct disk_options options = *o;
	struct err err = ERR_INIT;
	char text[128];

	memset(b, 0, sizeof(*b));
	bare_make(&b->vm, BOARD_RAM);
	assert_int_equal(pci_new(&b->vm, &b->pci, &err), 0);
	snprintf(text, sizeof(text), "driver=fault,file.driver=mem,file.size=%llu",
		(unsigned long long)disk_bytes);
	b->blk = node_open(text, flags);
	options.blk = b->blk;
	assert_int_equal(disk_new(&b->vm, &options, &b->disk, &err), 0);
}

void board_free(struct board *b)
{
	vm_free(&b->vm);
	assert_int_equal(blk_close(b->blk), 0);
}

void board_reset(struct board *b)
{
	bare_reset(&b->vm);
}

void board_start(struct board *b)
{
	vm_resume(&b->vm);
	bare_start(&b->vm);
}

void board_stop(struct board *b)
{
	bare_stop(&b->vm);
}

void board_fail(struct board *b, unsigned ops, unsigned nth)
{
	struct fault_plan plan = {.ops = ops, .at = nth, .error = EIO};

	fault_arm(fault_find(b->blk), &plan);
}

void board_wait_stop(struct board *b)
{
	for (unsigned i = 0; vm_status(&b->vm) == VM_STATUS_RUNNING && i < 50000; i++)
		usleep(100);
	assert_int_equal(vm_status(&b->vm), VM_STATUS_IO_ERROR);
	board_stop(b);
}

void *board_at(struct board *b, uint64_t address)
{
	return memory_at(&b->vm.memory, address, 1);
}

uint32_t board_config_read(struct board *b, unsigned slot, unsigned reg)
{
	return bare_config_read(&b->vm, slot, reg);
}

void board_config_write(struct board *b, unsigned slot, unsigned reg, uint32_t value)
{
	bare_config_write(&b->vm, slot, reg, value);
}

/* ---- state ----------------------------------------------------------------------- */

struct state *board_save(struct board *b)
{
	struct state *s = state_new();

	assert_non_null(s);
	bare_state(&b->vm, s);
	assert_int_equal(state_ret(s, NULL), 0);
	return s;
}

int board_load(struct board *b, const uint8_t *data, size_t bytes, struct err *err)
{
	struct state *s = state_open(data, bytes);
	int ret;

	assert_non_null(s);
	bare_state(&b->vm, s);
	ret = state_ret(s, err);
	state_free(s);
	return ret;
}

#define HEADER_BYTES (STATE_NAME_MAX + 12) /* name, number, version, length */

int board_load_older(struct board *b, struct state *s, const char *name, unsigned version,
	size_t fewer, struct err *err)
{
	size_t bytes, n = 0, found = 0;
	const uint8_t *from = state_data(s, &bytes), *end = from + bytes;
	uint8_t *older = malloc(bytes);
	int ret;

	while (from < end) {
		size_t length = HEADER_BYTES + le32_load(from + HEADER_BYTES - 4);
		size_t kept = length;

		memcpy(older + n, from, length);
		if (strcmp((const char *)from, name) == 0) {
			kept -= fewer;
			le32_store(older + n + HEADER_BYTES - 8, version);
			le32_store(older + n + HEADER_BYTES - 4,
				(uint32_t)(kept - HEADER_BYTES));
			found++;
		}
		n += kept;
		from += length;
	}
	assert_true(found);
	state_free(s);
	board_reset(b);
	ret = board_load(b, older, n, err);
	free(older);
	return ret;
}

static void load_changed(
	struct board *b, const uint8_t *data, size_t bytes, size_t at, uint8_t change)
{
	uint8_t *copy = malloc(bytes);

	memcpy(copy, data, bytes);
	copy[at] ^= change;
	board_reset(b);
	board_load(b, copy, bytes, NULL);
	board_start(b);
	board_stop(b);
	free(copy);
}

void board_check_state(struct board *b)
{
	struct state *first = board_save(b), *second;
	struct err err = ERR_INIT;
	size_t bytes, again;
	const uint8_t *data = state_data(first, &bytes), *data_again;
	uint8_t *ram = malloc(BOARD_RAM);

	memcpy(ram, board_at(b, 0), BOARD_RAM);
	for (size_t at = 0; at < bytes; at += 1 + at / 64)
		load_changed(b, data, bytes, at, (uint8_t)(at % 3 ? 0xff : 0x01));
	memcpy(board_at(b, 0), ram, BOARD_RAM);
	free(ram);
	board_reset(b);
	assert_int_equal(board_load(b, data, bytes, &err), 0);
	second = board_save(b);
	data_again = state_data(second, &again);
	assert_int_equal(again, bytes);
	assert_memory_equal(data_again, data, bytes);
	state_free(first);
	state_free(second);
}
