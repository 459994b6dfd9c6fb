/* SPDX-License-Identifier: BSD-2-Clause */
/* Address spaces of devices. See bus.h. */
#include "vmm/bus.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/math.h"

void bus_init(struct bus *b)
{
	*b = (struct bus){.n = 0};
	pthread_rwlock_init(&b->lock, NULL);
}

void bus_free(struct bus *b)
{
	pthread_rwlock_destroy(&b->lock);
	free(b->range);
	b->range = NULL;
	b->n = b->room = 0;
}

/* The first range that ends behind address. */
static unsigned find(const struct bus *b, uint64_t address)
{
	unsigned low = 0, high = b->n;

	while (low < high) {
		unsigned mid = (low + high) / 2;
		const struct bus_range *r = &b->range[mid];

		if (address - r->base >= r->bytes && address >= r->base)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

static int make_room(struct bus *b)
{
	struct bus_range *more;
	unsigned room = b->room ? 2 * b->room : 16;

	if (b->n < b->room)
		return 0;
	more = realloc(b->range, room * sizeof(*more));
	if (!more)
		return -ENOMEM;
	b->range = more;
	b->room = room;
	return 0;
}

int bus_add(struct bus *b, uint64_t base, uint64_t bytes, const struct bus_ops *ops,
	void *dev)
{
	unsigned i;
	int ret;

	pthread_rwlock_wrlock(&b->lock);
	i = find(b, base);
	if (!bytes || base + bytes - 1 < base)
		ret = -EINVAL;
	else if (i < b->n && b->range[i].base <= base + bytes - 1)
		ret = -EEXIST;
	else
		ret = make_room(b);
	if (ret == 0) {
		memmove(b->range + i + 1, b->range + i, (b->n - i) * sizeof(*b->range));
		b->range[i] = (struct bus_range){base, bytes, ops, dev};
		b->n++;
	}
	pthread_rwlock_unlock(&b->lock);
	return ret;
}

void bus_remove(struct bus *b, uint64_t base)
{
	unsigned i;

	pthread_rwlock_wrlock(&b->lock);
	i = find(b, base);
	if (i < b->n && b->range[i].base == base) {
		b->n--;
		memmove(b->range + i, b->range + i + 1, (b->n - i) * sizeof(*b->range));
	}
	pthread_rwlock_unlock(&b->lock);
}

/* The range that has all of the access; NULL. The lock is held. */
static const struct bus_range *range_of(
	const struct bus *b, uint64_t address, unsigned bytes)
{
	unsigned i = find(b, address);
	const struct bus_range *r = i < b->n ? &b->range[i] : NULL;

	if (!r || address < r->base || !range_inside(address - r->base, bytes, r->bytes))
		return NULL;
	return r;
}

static uint64_t ones(unsigned bytes)
{
	return bytes >= 8 ? UINT64_MAX : ((uint64_t)1 << 8 * bytes) - 1;
}

uint64_t bus_read(struct bus *b, uint64_t address, unsigned bytes)
{
	const struct bus_range *r;
	uint64_t value = UINT64_MAX;

	pthread_rwlock_rdlock(&b->lock);
	r = range_of(b, address, bytes);
	if (r && r->ops->read)
		value = r->ops->read(r->dev, address - r->base, bytes);
	pthread_rwlock_unlock(&b->lock);
	return value & ones(bytes);
}

void bus_write(struct bus *b, uint64_t address, unsigned bytes, uint64_t value)
{
	const struct bus_range *r;

	pthread_rwlock_rdlock(&b->lock);
	r = range_of(b, address, bytes);
	if (r && r->ops->write)
		r->ops->write(r->dev, address - r->base, bytes, value & ones(bytes));
	pthread_rwlock_unlock(&b->lock);
}
