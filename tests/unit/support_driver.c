/* SPDX-License-Identifier: BSD-2-Clause */
/* A driver. See support_driver.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>
#include <unistd.h>

#include "base/math.h"
#include "tests/unit/support_driver.h"

#define QUEUE(q) (0x100000ull + 0x10000ull * (q))
#define AVAIL(q) (QUEUE(q) + 0x2000)
#define USED(q)  (QUEUE(q) + 0x3000)

enum {
	FEATURE_SELECT = 0x00,
	FEATURE = 0x04,
	DRIVER_FEATURE_SELECT = 0x08,
	DRIVER_FEATURE = 0x0c,
	STATUS = 0x14,
	QUEUE_SELECT = 0x16,
	QUEUE_SIZE = 0x18,
	QUEUE_ENABLE = 0x1c,
	DESC_AT = 0x20,
	AVAIL_AT = 0x28,
	USED_AT = 0x30,
	CONFIG = 0x2000,
	NOTIFY = 0x3000,
};

struct descriptor {
	uint64_t address;
	uint32_t bytes;
	uint16_t flags, next;
};

void driver_make(struct driver *d)
{
	struct memory_options memory = {.bytes = DRIVER_MEMORY};
	struct err err = ERR_INIT;

	memset(d, 0, sizeof(*d));
	d->vm.kvm_fd = d->vm.fd = -1;
	pthread_mutex_init(&d->vm.lock, NULL);
	pthread_cond_init(&d->vm.changed, NULL);
	bus_init(&d->vm.pio);
	bus_init(&d->vm.mmio);
	assert_int_equal(memory_new(&d->vm.memory, &memory, &err), 0);
	assert_int_equal(pci_new(&d->vm, &d->pci, &err), 0);
}

static uint32_t config_read(struct driver *d, unsigned slot, unsigned reg)
{
	bus_write(&d->vm.pio, 0xcf8, 4, 0x80000000u | slot << 11 | reg);
	return (uint32_t)bus_read(&d->vm.pio, 0xcfc, 4);
}

static void enable(struct driver *d)
{
	bus_write(&d->vm.pio, 0xcf8, 4, 0x80000000u | 1 << 11 | 4);
	bus_write(&d->vm.pio, 0xcfc, 4, 0x406);
}

void driver_start(struct driver *d, uint16_t id)
{
	for (struct device *dev = d->vm.devices; dev; dev = dev->next)
		if (dev->ops->reset)
			dev->ops->reset(dev);
	driver_go_on(d);
	assert_int_equal(config_read(d, 1, 0), 0x10401af4 + ((uint32_t)id << 16));
	d->bar = config_read(d, 1, 0x20) & ~0xfu;
	enable(d);
}

void driver_stop(struct driver *d)
{
	__atomic_store_n(&d->vm.stopping, true, __ATOMIC_RELEASE);
	for (struct device *dev = d->vm.devices; dev; dev = dev->next)
		if (dev->ops->stop)
			dev->ops->stop(dev);
}

void driver_go_on(struct driver *d)
{
	__atomic_store_n(&d->vm.stopping, false, __ATOMIC_RELEASE);
	for (struct device *dev = d->vm.devices; dev; dev = dev->next)
		if (dev->ops->start)
			dev->ops->start(dev);
}

void driver_free(struct driver *d)
{
	vm_free(&d->vm);
}

/* ---- registers ------------------------------------------------------------------- */

uint64_t driver_get(struct driver *d, unsigned offset, unsigned bytes)
{
	return bus_read(&d->vm.mmio, d->bar + offset, bytes);
}

void driver_set(struct driver *d, unsigned offset, unsigned bytes, uint64_t value)
{
	bus_write(&d->vm.mmio, d->bar + offset, bytes, value);
}

uint64_t driver_config(struct driver *d, unsigned offset, unsigned bytes)
{
	return driver_get(d, CONFIG + offset, bytes);
}

uint64_t driver_features(struct driver *d)
{
	uint64_t low;

	driver_set(d, FEATURE_SELECT, 4, 0);
	low = driver_get(d, FEATURE, 4);
	driver_set(d, FEATURE_SELECT, 4, 1);
	return low | driver_get(d, FEATURE, 4) << 32;
}

void driver_set_up(struct driver *d, uint64_t features, unsigned queues)
{
	features |= (uint64_t)1 << VIRTIO_F_VERSION_1;
	driver_set(d, STATUS, 1, 0);
	driver_set(d, STATUS, 1, 3);
	driver_set(d, DRIVER_FEATURE_SELECT, 4, 0);
	driver_set(d, DRIVER_FEATURE, 4, (uint32_t)features);
	driver_set(d, DRIVER_FEATURE_SELECT, 4, 1);
	driver_set(d, DRIVER_FEATURE, 4, features >> 32);
	driver_set(d, STATUS, 1, 11);
	assert_int_equal(driver_get(d, STATUS, 1), 11);
	for (unsigned q = 0; q < queues; q++) {
		driver_set(d, QUEUE_SELECT, 2, q);
		driver_set(d, QUEUE_SIZE, 2, DRIVER_SIZE);
		driver_set(d, DESC_AT, 8, QUEUE(q));
		driver_set(d, AVAIL_AT, 8, AVAIL(q));
		driver_set(d, USED_AT, 8, USED(q));
		memset(driver_at(d, QUEUE(q)), 0, 0x8000);
		driver_set(d, QUEUE_ENABLE, 2, 1);
		d->offered[q] = 0;
	}
	driver_set(d, STATUS, 1, 15);
}

/* ---- rings ----------------------------------------------------------------------- */

void *driver_at(struct driver *d, uint64_t address)
{
	return memory_at(&d->vm.memory, address, 1);
}

void driver_put(struct driver *d, unsigned queue, unsigned i, uint64_t address,
	uint32_t bytes, unsigned flags, unsigned next)
{
	((struct descriptor *)driver_at(d, QUEUE(queue)))[i] =
		(struct descriptor){address, bytes, (uint16_t)flags, (uint16_t)next};
}

void driver_offer(struct driver *d, unsigned queue, uint16_t head)
{
	uint16_t *avail = driver_at(d, AVAIL(queue));

	avail[2 + d->offered[queue] % DRIVER_SIZE] = head;
	__atomic_store_n(&avail[1], ++d->offered[queue], __ATOMIC_RELEASE);
	driver_set(d, NOTIFY + 4 * queue, 2, queue);
}

uint16_t driver_used(struct driver *d, unsigned queue)
{
	const uint16_t *used = driver_at(d, USED(queue));

	return __atomic_load_n(&used[1], __ATOMIC_ACQUIRE);
}

static const uint32_t *used_element(struct driver *d, unsigned queue, unsigned n)
{
	return (const uint32_t *)driver_at(d, USED(queue) + 4) + 2 * (n % DRIVER_SIZE);
}

uint32_t driver_used_head(struct driver *d, unsigned queue, unsigned n)
{
	return used_element(d, queue, n)[0];
}

uint32_t driver_used_bytes(struct driver *d, unsigned queue, unsigned n)
{
	return used_element(d, queue, n)[1];
}

void driver_wait(struct driver *d, unsigned queue, uint16_t n)
{
	unsigned i = 0;

	while ((int16_t)(driver_used(d, queue) - n) < 0 && !driver_broken(d)) {
		assert_true(i++ < 100000);
		usleep(100);
	}
}

uint32_t driver_do(struct driver *d, unsigned queue, uint64_t address, uint32_t bytes,
	unsigned flags)
{
	driver_put(d, queue, 0, address, bytes, flags, 0);
	driver_offer(d, queue, 0);
	driver_wait(d, queue, d->offered[queue]);
	return driver_used_bytes(d, queue, (uint16_t)(d->offered[queue] - 1));
}

bool driver_broken(struct driver *d)
{
	return driver_get(d, STATUS, 1) & 64;
}

void driver_wait_broken(struct driver *d)
{
	for (unsigned i = 0; i < 100000 && !driver_broken(d); i++)
		usleep(100);
	assert_true(driver_broken(d));
}

/* ---- state ----------------------------------------------------------------------- */

static struct device *device_of(struct driver *d)
{
	return d->vm.devices; /* the one that was added last */
}

static void one_state(struct device *dev, struct state *s)
{
	unsigned version =
		state_begin(s, dev->ops->name, dev->instance, dev->ops->version);

	if (!version)
		return;
	dev->ops->state(dev, s, version);
	state_end(s);
}

struct state *driver_save(struct driver *d)
{
	struct state *s = state_new();

	assert_non_null(s);
	one_state(device_of(d), s);
	assert_int_equal(state_ret(s, NULL), 0);
	return s;
}

int driver_load(struct driver *d, struct state *saved)
{
	size_t bytes;
	const uint8_t *data = state_data(saved, &bytes);
	struct state *s = state_open(data, bytes);
	int ret;

	assert_non_null(s);
	device_of(d)->ops->reset(device_of(d));
	one_state(device_of(d), s);
	ret = state_ret(s, NULL);
	state_free(s);
	return ret;
}

void driver_check_state(struct driver *d)
{
	struct state *first = driver_save(d), *second;
	size_t first_bytes, second_bytes;
	const uint8_t *a = state_data(first, &first_bytes), *b;

	assert_int_equal(driver_load(d, first), 0);
	second = driver_save(d);
	b = state_data(second, &second_bytes);
	assert_int_equal(first_bytes, second_bytes);
	assert_memory_equal(a, b, first_bytes);
	state_free(second);
	state_free(first);
}
