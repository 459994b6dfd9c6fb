/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Flash. See flash.h.
 *
 * The guest reads it as memory, through a read-only slot of KVM's; a write comes here as a
 * command. While it does not show its array (status is to be read) the slot is gone, and
 * reads come here, too.
 *
 * What was written is put into the image when the array is shown again, that is after each
 * row of writes, and flushed: a crash before leaves the row out or in part, as a power cut does
 * with real flash, for which firmware's variable store is made. What the image does not take is
 * put there with the next row, at a reset and at the end, until it does.
 */
#include "vmm/flash.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/endian.h"
#include "base/log.h"
#include "base/math.h"

enum command {
	CMD_PROGRAM = 0x10,
	CMD_ERASE = 0x20,
	CMD_PROGRAM_TOO = 0x40,
	CMD_CLEAR_STATUS = 0x50,
	CMD_READ_STATUS = 0x70,
	CMD_READ_ID = 0x90,
	CMD_CONFIRM = 0xd0,
	CMD_READ_ARRAY = 0xff,
};
#define STATUS_READY 0x80
#define STATUS_ERROR 0x30 /* erase and program */

struct flash {
	struct device device; /* first */
	struct vm *vm;
	struct blk *blk; /* NULL: read-only */
	unsigned slot;
	uint64_t base;
	uint8_t *data;
	uint64_t bytes;

	pthread_mutex_t lock;
	uint8_t command; /* CMD_READ_ARRAY, or what is under way */
	uint8_t status;
	uint64_t dirty_from, dirty_to; /* what the image does not have yet */
	int told;                      /* of this error, which the guest may repeat */
};

/* ---- the array and its image; the lock is held ----------------------------------- */

static void show(struct flash *f, bool array)
{
	int ret =
		vm_set_slot(f->vm, f->slot, f->base, array ? f->bytes : 0, f->data, true);

	if (ret)
		vm_fail(f->vm, "flash: KVM does not take its memory: %s", strerror(-ret));
}

static void mark(struct flash *f, uint64_t from, uint64_t bytes)
{
	f->dirty_from = f->dirty_to ? MIN(f->dirty_from, from) : from;
	f->dirty_to = MAX(f->dirty_to, from + bytes);
}

static int write_back(struct flash *f)
{
	uint64_t from = f->dirty_from, bytes = f->dirty_to - from;
	int ret;

	if (!f->dirty_to)
		return 0;
	ret = blk_pwrite(f->blk, from, f->data + from, bytes, 0);
	ret = ret ? ret : blk_flush(f->blk);
	if (ret == 0)
		f->dirty_from = f->dirty_to = 0;
	else
		f->status |= STATUS_ERROR;
	if (ret && ret != f->told)
		log_line(LOG_LEVEL_ERROR, "%s: the firmware's variables: %s",
			blk_filename(f->blk), strerror(-ret));
	f->told = ret;
	return ret;
}

/* Programming clears bits and sets none. */
static void program(struct flash *f, uint64_t offset, unsigned bytes, uint64_t value)
{
	for (unsigned i = 0; i < bytes; i++)
		f->data[offset + i] &= (uint8_t)(value >> 8 * i);
	mark(f, offset, bytes);
}

static void erase(struct flash *f, uint64_t offset)
{
	uint64_t from = round_down(offset, FLASH_BLOCK);

	memset(f->data + from, 0xff, FLASH_BLOCK);
	mark(f, from, FLASH_BLOCK);
}

/* ---- commands; the lock is held -------------------------------------------------- */

static void begin(struct flash *f, uint8_t command)
{
	if (command == CMD_CLEAR_STATUS) {
		f->status = 0;
		return;
	}
	if (command == CMD_READ_ARRAY) {
		write_back(f);
		if (f->command != CMD_READ_ARRAY)
			show(f, true);
	} else if (f->command == CMD_READ_ARRAY) {
		show(f, false);
	}
	f->command = command;
}

static void finish(struct flash *f, uint64_t offset, unsigned bytes, uint64_t value)
{
	switch (f->command) {
	case CMD_PROGRAM:
	case CMD_PROGRAM_TOO:
		program(f, offset, bytes, value);
		break;
	case CMD_ERASE:
		if ((uint8_t)value == CMD_CONFIRM)
			erase(f, offset);
		else
			f->status |= STATUS_ERROR;
		break;
	default:
		break;
	}
	f->status |= STATUS_READY;
	f->command = CMD_READ_STATUS;
}

static void flash_write(void *dev, uint64_t offset, unsigned bytes, uint64_t value)
{
	struct flash *f = dev;

	if (!f->blk)
		return;
	pthread_mutex_lock(&f->lock);
	if (f->command == CMD_PROGRAM || f->command == CMD_PROGRAM_TOO ||
		f->command == CMD_ERASE)
		finish(f, offset, bytes, value);
	else
		begin(f, (uint8_t)value);
	pthread_mutex_unlock(&f->lock);
}

/* Reads come here while the slot is gone; the last of them may find it back. */
static uint64_t flash_read(void *dev, uint64_t offset, unsigned bytes)
{
	struct flash *f = dev;
	uint64_t value = 0;

	pthread_mutex_lock(&f->lock);
	if (f->command == CMD_READ_ARRAY)
		memcpy(&value, f->data + offset, bytes);
	else if (f->command != CMD_READ_ID)
		value = f->status;
	pthread_mutex_unlock(&f->lock);
	return value;
}

static const struct bus_ops flash_bus = {flash_read, flash_write};

/* ---- life ------------------------------------------------------------------------ */

static void flash_reset(struct device *d)
{
	struct flash *f = (struct flash *)d;

	write_back(f);
	if (f->command != CMD_READ_ARRAY)
		show(f, true);
	f->command = CMD_READ_ARRAY;
	f->status = 0;
}

/* What is loaded goes into the image, too, which is no part of a snapshot. */
static void flash_state(struct device *d, struct state *s, unsigned version)
{
	struct flash *f = (struct flash *)d;
	uint64_t bytes = f->bytes;
	uint8_t command = f->command;
	int ret;

	(void)version;
	write_back(f);
	state_u64(s, &bytes);
	if (!state_check(s, bytes == f->bytes, "its size was another"))
		return;
	state_bytes(s, f->data, f->bytes);
	state_u8(s, &command);
	state_u8(s, &f->status);
	if (!state_loading(s))
		return;
	if ((command == CMD_READ_ARRAY) != (f->command == CMD_READ_ARRAY))
		show(f, command == CMD_READ_ARRAY);
	f->command = command;
	mark(f, 0, f->bytes);
	ret = write_back(f);
	if (ret)
		state_fail(s, "its image does not take it: %s", strerror(-ret));
}

static void flash_free(struct device *d)
{
	struct flash *f = (struct flash *)d;
	int ret = write_back(f);

	if (ret)
		f->vm->unstored = ret;
	bus_remove(&f->vm->mmio, f->base);
	if (f->data)
		munmap(f->data, f->bytes);
	pthread_mutex_destroy(&f->lock);
	free(f);
}

static const struct device_ops flash_ops = {
	.name = "flash",
	.reset = flash_reset,
	.version = 1,
	.state = flash_state,
	.free = flash_free,
};
static const struct device_ops rom_ops = {
	.name = "rom",
	.free = flash_free,
};

static struct flash *make(struct vm *vm, unsigned slot, uint64_t base, uint64_t bytes)
{
	struct flash *f = calloc(1, sizeof(*f));
	void *data = MAP_FAILED;

	if (f)
		data = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (data == MAP_FAILED) {
		free(f);
		return NULL;
	}
	f->vm = vm;
	f->slot = slot;
	f->device.instance = slot;
	f->base = base;
	f->data = data;
	f->bytes = bytes;
	f->command = CMD_READ_ARRAY;
	pthread_mutex_init(&f->lock, NULL);
	return f;
}

static int add(struct flash *f, const struct device_ops *ops, struct err *err)
{
	int ret = bus_add(&f->vm->mmio, f->base, f->bytes, &flash_bus, f);

	ret = ret ? ret : vm_set_slot(f->vm, f->slot, f->base, f->bytes, f->data, true);
	if (ret) {
		flash_free(&f->device);
		return err_errno(err, -ret, "%llu bytes of firmware at 0x%llx",
			(unsigned long long)f->bytes, (unsigned long long)f->base);
	}
	f->device.ops = ops;
	vm_add_device(f->vm, &f->device);
	return 0;
}

int flash_new_rom(struct vm *vm, unsigned slot, uint64_t base, const void *data,
	size_t bytes, struct err *err)
{
	struct flash *f = make(vm, slot, base, bytes);

	if (!f)
		return err_errno(err, ENOMEM, "firmware");
	memcpy(f->data, data, bytes);
	return add(f, &rom_ops, err);
}

int flash_new(
	struct vm *vm, unsigned slot, uint64_t base, struct blk *blk, struct err *err)
{
	uint64_t bytes = blk_size(blk);
	struct flash *f;
	int ret;

	if (!bytes || bytes % FLASH_BLOCK || bytes > FLASH_BYTES_MAX)
		return err_set(err, EINVAL,
			"%s: %llu bytes are no flash: a multiple of %u up to %llu MiB",
			blk_filename(blk), (unsigned long long)bytes, FLASH_BLOCK,
			FLASH_BYTES_MAX / MiB);
	f = make(vm, slot, base, bytes);
	if (!f)
		return err_errno(err, ENOMEM, "firmware");
	ret = blk_pread(blk, 0, f->data, f->bytes);
	if (ret) {
		flash_free(&f->device);
		return err_errno(err, -ret, "%s", blk_filename(blk));
	}
	f->blk = blk;
	return add(f, &flash_ops, err);
}
