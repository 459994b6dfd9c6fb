/* SPDX-License-Identifier: BSD-2-Clause */
/* A driver. See support_driver.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/unit/support_driver.h"

#define QUEUE(q) (GUEST_RINGS + GUEST_RING_BYTES * (q))
#define AVAIL(q) (QUEUE(q) + GUEST_AVAIL)
#define USED(q)  (QUEUE(q) + GUEST_USED)

enum {
	FEATURE_SELECT = 0x00,
	FEATURE = 0x04,
	STATUS = 0x14,
	CONFIG = 0x2000,
	NOTIFY = 0x3000
};

struct descriptor {
	uint64_t address;
	uint32_t bytes;
	uint16_t flags, next;
};

void driver_make(struct driver *d)
{
	memset(d, 0, sizeof(*d));
	guest_make(&d->guest);
}

void driver_start(struct driver *d, uint16_t id)
{
	guest_start(&d->guest);
	assert_int_equal(
		guest_config_read(&d->guest, 1, 0), 0x10401af4 + ((uint32_t)id << 16));
}

void driver_stop(struct driver *d)
{
	guest_stop(&d->guest);
}

void driver_go_on(struct driver *d)
{
	guest_go_on(&d->guest);
}

void driver_free(struct driver *d)
{
	guest_free(&d->guest);
}

/* ---- registers ------------------------------------------------------------------- */

uint64_t driver_get(struct driver *d, unsigned offset, unsigned bytes)
{
	return guest_get(&d->guest, offset, bytes);
}

void driver_set(struct driver *d, unsigned offset, unsigned bytes, uint64_t value)
{
	guest_set(&d->guest, offset, bytes, value);
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
	guest_set_up(&d->guest, features, queues, DRIVER_SIZE);
	memset(d->offered, 0, sizeof(d->offered));
}

/* ---- rings ----------------------------------------------------------------------- */

void *driver_at(struct driver *d, uint64_t address)
{
	return guest_at(&d->guest, address);
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

void driver_check_state(struct driver *d)
{
	size_t first_bytes, second_bytes;
	uint8_t *first = guest_save(&d->guest, &first_bytes), *second;

	assert_int_equal(guest_load(&d->guest, first, first_bytes), 0);
	second = guest_save(&d->guest, &second_bytes);
	assert_int_equal(first_bytes, second_bytes);
	assert_memory_equal(first, second, first_bytes);
	free(second);
	free(first);
}
