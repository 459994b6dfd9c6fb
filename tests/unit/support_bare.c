/* SPDX-License-Identifier: BSD-2-Clause */
/* A machine without KVM. See support_bare.h. */
#include "tests/unit/support_bare.h"

#include <assert.h>
#include <string.h>

void bare_make(struct vm *vm, uint64_t memory_bytes)
{
	struct memory_options memory = {.bytes = memory_bytes};
	struct err err = ERR_INIT;
	int ret;

	memset(vm, 0, sizeof(*vm));
	vm->kvm_fd = vm->fd = -1;
	pthread_mutex_init(&vm->lock, NULL);
	pthread_cond_init(&vm->changed, NULL);
	bus_init(&vm->pio);
	bus_init(&vm->mmio);
	ret = memory_new(&vm->memory, &memory, &err);
	assert(ret == 0);
}

void bare_reset(struct vm *vm)
{
	for (struct device *d = vm->devices; d; d = d->next)
		if (d->ops->reset)
			d->ops->reset(d);
}

void bare_start(struct vm *vm)
{
	__atomic_store_n(&vm->stopping, false, __ATOMIC_RELEASE);
	for (struct device *d = vm->devices; d; d = d->next)
		if (d->ops->start)
			d->ops->start(d);
}

void bare_stop(struct vm *vm)
{
	__atomic_store_n(&vm->stopping, true, __ATOMIC_RELEASE);
	for (struct device *d = vm->devices; d; d = d->next)
		if (d->ops->stop)
			d->ops->stop(d);
}

void bare_state(struct vm *vm, struct state *s)
{
	for (struct device *d = vm->devices; d; d = d->next) {
		unsigned version;

		if (!d->ops->state)
			continue;
		version = state_begin(s, d->ops->name, d->instance, d->ops->version);
		if (!version)
			return;
		d->ops->state(d, s, version);
		state_end(s);
	}
}

uint32_t bare_config_read(struct vm *vm, unsigned slot, unsigned reg)
{
	bus_write(&vm->pio, 0xcf8, 4, 0x80000000u | slot << 11 | reg);
	return (uint32_t)bus_read(&vm->pio, 0xcfc, 4);
}

void bare_config_write(struct vm *vm, unsigned slot, unsigned reg, uint32_t value)
{
	bus_write(&vm->pio, 0xcf8, 4, 0x80000000u | slot << 11 | reg);
	bus_write(&vm->pio, 0xcfc, 4, value);
}

void full_barrier(void)
{
	static unsigned order;

	__atomic_fetch_add(&order, 1, __ATOMIC_SEQ_CST);
}
