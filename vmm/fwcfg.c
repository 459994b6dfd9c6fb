/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The firmware configuration device. See fwcfg.h.
 *
 * Two ways to read: a byte at a time from the data port, or by a request in the guest's memory
 * whose address is written to the DMA register. What the guest asks for is clamped to the
 * item; behind an item's end there are zeros. Nothing can be written.
 */
#include "vmm/fwcfg.h"

#include <stdlib.h>
#include <string.h>

#include "base/endian.h"
#include "base/math.h"

#define PORT          0x510
#define ITEMS_MAX     64u
#define DMA_COUNT_MAX (64u << 20) /* of one request; firmware asks for less */

/* Offsets from PORT. */
enum { SELECTOR = 0, DATA = 1, DMA = 4, PORTS = 12 };

#define ID_TRADITIONAL 1
#define ID_DMA         2
#define DMA_SIGNATURE  0x51454d5520434647ull

enum dma_control {
	DMA_ERROR = 1,
	DMA_READ = 2,
	DMA_SKIP = 4,
	DMA_SELECT = 8,
	DMA_WRITE = 16
};

struct dma_request {
	be32 control, bytes;
	be64 address;
};

/* In the directory. */
struct file {
	be32 bytes;
	be16 key, reserved;
	char name[FWCFG_NAME_MAX];
};

struct item {
	uint16_t key;
	uint8_t *data;
	size_t bytes;
};

struct fwcfg {
	struct device device; /* first */
	struct vm *vm;
	struct item item[ITEMS_MAX];
	unsigned n;
	struct file directory[ITEMS_MAX];
	unsigned files;

	pthread_mutex_t lock;
	uint16_t selected;
	uint32_t offset;
	uint64_t dma_address;
};

/* ---- items ----------------------------------------------------------------------- */

int fwcfg_add(struct fwcfg *f, enum fwcfg_key key, const void *data, size_t bytes)
{
	struct item *i = &f->item[f->n];

	if (f->n == ITEMS_MAX)
		return -ENOSPC;
	i->data = malloc(MAX(bytes, (size_t)1));
	if (!i->data)
		return -ENOMEM;
	memcpy(i->data, data, bytes);
	i->key = (uint16_t)key;
	i->bytes = bytes;
	f->n++;
	return 0;
}

int fwcfg_add_u16(struct fwcfg *f, enum fwcfg_key key, uint16_t value)
{
	le16 v = le16_put(value);

	return fwcfg_add(f, key, &v, sizeof(v));
}

int fwcfg_add_u64(struct fwcfg *f, enum fwcfg_key key, uint64_t value)
{
	le64 v = le64_put(value);

	return fwcfg_add(f, key, &v, sizeof(v));
}

int fwcfg_add_file(struct fwcfg *f, const char *name, const void *data, size_t bytes)
{
	struct file *entry = &f->directory[f->files];
	uint16_t key = (uint16_t)(FWCFG_FILES + f->files);
	int ret;

	if (f->files == ITEMS_MAX || strlen(name) >= FWCFG_NAME_MAX)
		return -ENOSPC;
	ret = fwcfg_add(f, key, data, bytes);
	if (ret)
		return ret;
	*entry = (struct file){.bytes = be32_put((uint32_t)bytes), .key = be16_put(key)};
	strcpy(entry->name, name);
	f->files++;
	return 0;
}

static const struct item *find(const struct fwcfg *f, uint16_t key)
{
	for (unsigned i = 0; i < f->n; i++)
		if (f->item[i].key == key)
			return &f->item[i];
	return NULL;
}

/* One byte of the directory: a number, then its entries. */
static uint8_t directory_byte(const struct fwcfg *f, uint32_t offset)
{
	be32 count = be32_put(f->files);

	if (offset < sizeof(count))
		return count.b[offset];
	offset -= (uint32_t)sizeof(count);
	if (offset >= f->files * sizeof(struct file))
		return 0;
	return ((const uint8_t *)f->directory)[offset];
}

static void select_item(struct fwcfg *f, uint16_t key)
{
	f->selected = key & 0x3fff; /* the two upper bits are of old uses */
	if (key & 0x8000)
		f->selected |= 0x8000; /* items of one architecture */
	f->offset = 0;
}

static void take(struct fwcfg *f, uint8_t *out, uint32_t bytes)
{
	const struct item *i = find(f, f->selected);

	for (uint32_t k = 0; out && k < bytes; k++) {
		uint32_t at = f->offset + k;

		if (at < f->offset)
			out[k] = 0;
		else if (f->selected == FWCFG_DIRECTORY)
			out[k] = directory_byte(f, at);
		else
			out[k] = i && at < i->bytes ? i->data[at] : 0;
	}
	f->offset = f->offset + bytes < f->offset ? UINT32_MAX : f->offset + bytes;
}

/* ---- DMA ------------------------------------------------------------------------- */

static uint32_t transfer(
	struct fwcfg *f, uint32_t control, uint64_t address, uint32_t bytes)
{
	uint8_t *to = NULL;

	if (control & DMA_SELECT)
		select_item(f, (uint16_t)(control >> 16));
	if (control & DMA_WRITE)
		return DMA_ERROR;
	if (control & DMA_READ) {
		to = memory_at(&f->vm->memory, address, bytes);
		if (bytes && (!to || bytes > DMA_COUNT_MAX))
			return DMA_ERROR;
	}
	if (control & (DMA_READ | DMA_SKIP))
		take(f, to, bytes);
	return 0;
}

static void run_request(struct fwcfg *f)
{
	struct dma_request r, *at = memory_at(&f->vm->memory, f->dma_address, sizeof(r));

	f->dma_address = 0;
	if (!at)
		return;
	memcpy(&r, at, sizeof(r));
	r.control = be32_put(
		transfer(f, be32_get(r.control), be64_get(r.address), be32_get(r.bytes)));
	memcpy(&at->control, &r.control, sizeof(r.control));
}

/* ---- ports ----------------------------------------------------------------------- */

static uint64_t fwcfg_read(void *dev, uint64_t offset, unsigned bytes)
{
	struct fwcfg *f = dev;
	uint8_t data[8] = {0};

	if (offset >= DMA) {
		be64 signature = be64_put(DMA_SIGNATURE);

		for (unsigned i = 0; i < bytes && offset - DMA + i < sizeof(signature);
			i++)
			data[i] = signature.b[offset - DMA + i];
		return le64_load(data);
	}
	if (offset != DATA)
		return UINT64_MAX;
	pthread_mutex_lock(&f->lock);
	take(f, data, bytes);
	pthread_mutex_unlock(&f->lock);
	return le64_load(data);
}

static void fwcfg_write(void *dev, uint64_t offset, unsigned bytes, uint64_t value)
{
	struct fwcfg *f = dev;
	uint32_t half = __builtin_bswap32((uint32_t)value);

	pthread_mutex_lock(&f->lock);
	if (offset == SELECTOR && bytes == 2) {
		select_item(f, (uint16_t)value);
	} else if (offset == DMA && bytes == 4) {
		f->dma_address = (uint64_t)half << 32;
	} else if (offset == DMA + 4 && bytes == 4) {
		f->dma_address |= half;
		run_request(f);
	}
	pthread_mutex_unlock(&f->lock);
}

static const struct bus_ops fwcfg_bus = {fwcfg_read, fwcfg_write};

/* ---- life ------------------------------------------------------------------------ */

static void fwcfg_reset(struct device *d)
{
	struct fwcfg *f = (struct fwcfg *)d;

	f->selected = 0;
	f->offset = 0;
	f->dma_address = 0;
}

static void fwcfg_state(struct device *d, struct state *s, unsigned version)
{
	struct fwcfg *f = (struct fwcfg *)d;

	(void)version;
	state_u16(s, &f->selected);
	state_u32(s, &f->offset);
	state_u64(s, &f->dma_address);
}

static void fwcfg_free(struct device *d)
{
	struct fwcfg *f = (struct fwcfg *)d;

	for (unsigned i = 0; i < f->n; i++)
		free(f->item[i].data);
	pthread_mutex_destroy(&f->lock);
	free(f);
}

static const struct device_ops fwcfg_ops = {
	.name = "fwcfg",
	.reset = fwcfg_reset,
	.version = 1,
	.state = fwcfg_state,
	.free = fwcfg_free,
};

int fwcfg_new(struct vm *vm, struct fwcfg **out, struct err *err)
{
	struct fwcfg *f = calloc(1, sizeof(*f));
	le32 id = le32_put(ID_TRADITIONAL | ID_DMA);
	int ret;

	if (!f)
		return err_errno(err, ENOMEM, "fwcfg");
	f->device.ops = &fwcfg_ops;
	f->vm = vm;
	pthread_mutex_init(&f->lock, NULL);
	ret = fwcfg_add(f, FWCFG_SIGNATURE, "QEMU", 4);
	ret = ret ? ret : fwcfg_add(f, FWCFG_ID, &id, sizeof(id));
	ret = ret ? ret : bus_add(&vm->pio, PORT, PORTS, &fwcfg_bus, f);
	if (ret) {
		fwcfg_free(&f->device);
		return err_errno(err, -ret, "fwcfg");
	}
	vm_add_device(vm, &f->device);
	*out = f;
	return 0;
}
