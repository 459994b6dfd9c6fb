/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The state of the machine as a whole: KVM's chips here, vCPUs and devices by their own
 * descriptions. And the clock that KVM gives its guests, which stands while they do.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <linux/kvm.h>

#include "base/math.h"
#include "vmm/vm.h"

#define MACHINE_VERSION 1
#define CHIPS_VERSION   1

/* ---- chips ----------------------------------------------------------------------- */

static void chip(struct vm *vm, struct state *s, unsigned id)
{
	struct kvm_irqchip c = {.chip_id = id};

	if (!state_loading(s) && ioctl(vm->fd, KVM_GET_IRQCHIP, &c))
		state_fail(s, "KVM does not tell interrupt controller %u", id);
	state_bytes(s, &c.chip, sizeof(c.chip));
	if (state_loading(s) && !state_ret(s, NULL) && ioctl(vm->fd, KVM_SET_IRQCHIP, &c))
		state_fail(s, "KVM does not take interrupt controller %u", id);
}

static void pit(struct vm *vm, struct state *s)
{
	struct kvm_pit_state2 p;

	if (!state_loading(s) && ioctl(vm->fd, KVM_GET_PIT2, &p))
		state_fail(s, "KVM does not tell the timer");
	state_bytes(s, &p, sizeof(p));
	if (state_loading(s) && !state_ret(s, NULL) && ioctl(vm->fd, KVM_SET_PIT2, &p))
		state_fail(s, "KVM does not take the timer");
}

static void chips_state(struct vm *vm, struct state *s)
{
	if (!state_begin(s, "chips", 0, CHIPS_VERSION))
		return;
	chip(vm, s, KVM_IRQCHIP_PIC_MASTER);
	chip(vm, s, KVM_IRQCHIP_PIC_SLAVE);
	chip(vm, s, KVM_IRQCHIP_IOAPIC);
	pit(vm, s);
	state_end(s);
}

int vm_keep_chips(struct vm *vm, struct err *err)
{
	vm->initial = state_new();
	if (!vm->initial)
		return err_errno(err, ENOMEM, "/dev/kvm");
	chips_state(vm, vm->initial);
	return state_ret(vm->initial, err);
}

int vm_reset_chips(struct vm *vm)
{
	size_t bytes;
	const uint8_t *data = state_data(vm->initial, &bytes);
	struct state *s = state_open(data, bytes);
	int ret;

	if (!s)
		return -ENOMEM;
	chips_state(vm, s);
	ret = state_ret(s, NULL);
	state_free(s);
	return ret;
}

/* ---- the clock ------------------------------------------------------------------- */

/* Kernels without it let the clock run on, which guests see as a jump. */
void vm_stop_clock(struct vm *vm)
{
	struct kvm_clock_data clock = {.clock = 0};

	if (ioctl(vm->fd, KVM_GET_CLOCK, &clock) == 0)
		vm->clock = clock.clock;
}

/* Guests are told that they stood, so that no watchdog of theirs barks. */
void vm_start_clock(struct vm *vm)
{
	struct kvm_clock_data clock = {.clock = vm->clock};

	if (vm->clock)
		ioctl(vm->fd, KVM_SET_CLOCK, &clock);
	for (unsigned i = 0; vm->clock && i < vm->cpus; i++)
		ioctl(vm->vcpu[i].fd, KVM_KVMCLOCK_CTRL, 0);
	vm->clock = 0;
}

/* ---- all of it ------------------------------------------------------------------- */

/* What the state is of; another machine does not fit. */
static void machine_state(struct vm *vm, struct state *s)
{
	uint64_t bytes = memory_bytes(&vm->memory), clock = vm->clock;
	uint32_t cpus = vm->cpus;

	if (!state_begin(s, "machine", 0, MACHINE_VERSION))
		return;
	state_u64(s, &bytes);
	state_u32(s, &cpus);
	state_u64(s, &clock);
	if (state_loading(s) && bytes != memory_bytes(&vm->memory))
		state_fail(s, "it had %llu MiB of memory, and here are %llu MiB",
			(unsigned long long)(bytes / MiB),
			(unsigned long long)(memory_bytes(&vm->memory) / MiB));
	if (state_loading(s) && cpus != vm->cpus)
		state_fail(s, "it had %u vCPUs, and here are %u", cpus, vm->cpus);
	state_end(s);
	if (!state_ret(s, NULL))
		vm->clock = clock;
}

static void device_state(struct device *d, struct state *s)
{
	unsigned version = state_begin(s, d->ops->name, d->instance, d->ops->version);

	if (!version)
		return;
	d->ops->state(d, s, version);
	state_end(s);
}

static struct device *find_device(struct vm *vm, const char *name, unsigned instance)
{
	struct device *d = vm->devices;

	while (d && (!d->ops->state || d->instance != instance ||
			    strcmp(d->ops->name, name) != 0))
		d = d->next;
	return d;
}

static void save_devices(struct vm *vm, struct state *s)
{
	for (struct device *d = vm->devices; d; d = d->next)
		if (d->ops->state)
			device_state(d, s);
}

static void skip_section(
	struct state *s, const char *name, unsigned instance, unsigned version)
{
	if (!state_begin(s, name, instance, version))
		return;
	state_skip(s);
	state_end(s);
}

static void skip_device(struct device *d, struct state *s)
{
	skip_section(s, d->ops->name, d->instance, d->ops->version);
}

/* In whatever order they were saved; each once. */
static void each_device(
	struct vm *vm, struct state *s, void (*fn)(struct device *d, struct state *s))
{
	char name[STATE_NAME_MAX];
	unsigned instance;

	for (struct device *d = vm->devices; d; d = d->next)
		d->loaded = false;
	while (state_peek(s, name, &instance)) {
		struct device *d = find_device(vm, name, instance);

		if (!d || d->loaded) {
			state_fail(s, "%s %u was there%s", name, instance,
				d ? " twice" : ", and is not here");
			return;
		}
		fn(d, s);
		d->loaded = true;
	}
	for (struct device *d = vm->devices; d; d = d->next)
		if (d->ops->state && !d->loaded)
			state_fail(s, "%s %u is here, and was not there", d->ops->name,
				d->instance);
}

void vm_state(struct vm *vm, struct state *s)
{
	machine_state(vm, s);
	chips_state(vm, s);
	for (unsigned i = 0; i < vm->cpus; i++)
		vcpu_state(&vm->vcpu[i], s);
	if (state_loading(s))
		each_device(vm, s, device_state);
	else
		save_devices(vm, s);
}

void vm_state_look(struct vm *vm, struct state *s)
{
	uint64_t clock = vm->clock;

	machine_state(vm, s);
	vm->clock = clock;
	skip_section(s, "chips", 0, CHIPS_VERSION);
	for (unsigned i = 0; i < vm->cpus; i++)
		skip_section(s, "vcpu", i, VCPU_STATE_VERSION);
	each_device(vm, s, skip_device);
}
