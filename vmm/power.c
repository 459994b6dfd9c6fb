/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Turning off and on again: ACPI's fixed registers (ACPI 6.4, 4.8.3), with a power button
 * and the timer; and, of the keyboard controller, the pulse on the reset line.
 */
#include <stdlib.h>
#include <time.h>

#include "vmm/devices.h"

#define TIMER_HZ     3579545u
#define I8042_STATUS 0x64
#define PULSE_RESET  0xfe

/* Of PM1: status, enable, control; two bytes each. Then the timer, and the first 16 general-purpose
 * events (4.8.4). */
enum { STATUS = 0, ENABLE = 2, CONTROL = 4, PM1_END = 8 };
enum { GPE_STATUS = POWER_GPE_PORT - POWER_PORT, GPE_ENABLE = GPE_STATUS + 2 };
#define BUTTON     (1u << 8)
#define SCI_ENABLE (1u << 0)
#define SLEEP      (1u << 13)

struct power {
	struct device device; /* first */
	struct vm *vm;
	pthread_mutex_t lock;
	uint16_t status, enable, control;
	uint16_t gpe_status, gpe_enable;
};

/* The lock is held. */
static void update(struct power *p)
{
	vm_set_irq(p->vm, POWER_SCI,
		(p->status & p->enable) || (p->gpe_status & p->gpe_enable));
}

void power_raise_event(struct power *p, unsigned event)
{
	pthread_mutex_lock(&p->lock);
	p->gpe_status |= (uint16_t)(1u << event);
	update(p);
	pthread_mutex_unlock(&p->lock);
}

void power_press_button(struct power *p)
{
	pthread_mutex_lock(&p->lock);
	p->status |= BUTTON;
	update(p);
	pthread_mutex_unlock(&p->lock);
	vm_notify(p->vm, VM_EVENT_POWERDOWN, VM_NOTHING);
}

static uint32_t timer_value(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint32_t)(((uint64_t)ts.tv_sec * TIMER_HZ +
				  (uint64_t)ts.tv_nsec * TIMER_HZ / 1000000000) &
			  0xffffff);
}

/* The registers as eight bytes, so that any width of access will do. */
static uint64_t registers(const struct power *p)
{
	return p->status | (uint64_t)p->enable << 16 | (uint64_t)p->control << 32;
}

static uint64_t power_read(void *dev, uint64_t offset, unsigned bytes)
{
	struct power *p = dev;
	uint64_t value;

	(void)bytes;
	if (offset >= POWER_TIMER_PORT - POWER_PORT && offset < GPE_STATUS)
		return timer_value() >> 8 * (offset - (POWER_TIMER_PORT - POWER_PORT));
	pthread_mutex_lock(&p->lock);
	if (offset >= GPE_STATUS)
		value = (p->gpe_status | (uint64_t)p->gpe_enable << 16) >>
			8 * (offset - GPE_STATUS);
	else
		value = registers(p) >> 8 * offset;
	pthread_mutex_unlock(&p->lock);
	return value;
}

/* The lock is held. */
static void write_control(struct power *p, uint16_t value)
{
	p->control = value & ~SLEEP;
	if ((value & SLEEP) && (value >> 10 & 7) == POWER_S5)
		vm_ask(p->vm, VM_POWER_OFF);
}

/* A byte at a time or more, as PM1; the lock is held. */
static void write_gpe(struct power *p, uint64_t offset, unsigned bytes, uint64_t value)
{
	for (unsigned i = 0; i < bytes; i++, offset++) {
		uint16_t byte = (uint16_t)((value >> 8 * i & 0xff) << 8 * (offset & 1));
		uint16_t keep = (uint16_t) ~(0xff << 8 * (offset & 1));

		if (offset < GPE_ENABLE)
			p->gpe_status &= (uint16_t)~byte;
		else
			p->gpe_enable = (p->gpe_enable & keep) | byte;
	}
	update(p);
}

/* Byte by byte: status bits are cleared by writing ones. */
static void power_write(void *dev, uint64_t offset, unsigned bytes, uint64_t value)
{
	struct power *p = dev;
	uint64_t now, mask;

	if (offset >= GPE_STATUS) {
		pthread_mutex_lock(&p->lock);
		write_gpe(p, offset, bytes, value);
		pthread_mutex_unlock(&p->lock);
	}
	if (offset + bytes > PM1_END - 2)
		return;
	mask = ((uint64_t)1 << 8 * bytes) - 1;
	pthread_mutex_lock(&p->lock);
	if (offset < ENABLE)
		p->status &= (uint16_t) ~(value << 8 * offset);
	now = (registers(p) & ~(mask << 8 * offset)) | value << 8 * offset;
	if (offset + bytes > ENABLE && offset < CONTROL)
		p->enable = (uint16_t)(now >> 16);
	if (offset + bytes > CONTROL)
		write_control(p, (uint16_t)(now >> 32));
	update(p);
	pthread_mutex_unlock(&p->lock);
}

static const struct bus_ops power_bus = {power_read, power_write};

/*
 * No keyboard and no controller, but for its reset: all ones, by which firmware knows that nobody answers. One
 * that were there and silent would be waited for, in OVMF for seconds and by a hundred thousand exits.
 */
static uint64_t i8042_read(void *dev, uint64_t offset, unsigned bytes)
{
	(void)dev;
	(void)offset;
	(void)bytes;
	return 0xff;
}

static void i8042_write(void *dev, uint64_t offset, unsigned bytes, uint64_t value)
{
	(void)offset;
	(void)bytes;
	if (value == PULSE_RESET)
		vm_ask(((struct power *)dev)->vm, VM_RESET);
}

static const struct bus_ops i8042_bus = {i8042_read, i8042_write};

static void power_reset(struct device *d)
{
	struct power *p = (struct power *)d;

	pthread_mutex_lock(&p->lock);
	p->status = p->enable = 0;
	p->gpe_status = p->gpe_enable = 0;
	p->control = SCI_ENABLE; /* there is no legacy mode to come out of */
	update(p);
	pthread_mutex_unlock(&p->lock);
}

static void power_state(struct device *d, struct state *s, unsigned version)
{
	struct power *p = (struct power *)d;

	(void)version;
	state_u16(s, &p->status);
	state_u16(s, &p->enable);
	state_u16(s, &p->control);
	state_u16(s, &p->gpe_status);
	state_u16(s, &p->gpe_enable);
	update(p);
}

static void power_free(struct device *d)
{
	struct power *p = (struct power *)d;

	pthread_mutex_destroy(&p->lock);
	free(p);
}

static const struct device_ops power_ops = {
	.name = "power",
	.reset = power_reset,
	.version = 1,
	.state = power_state,
	.free = power_free,
};

int power_new(struct vm *vm, struct power **out, struct err *err)
{
	struct power *p = calloc(1, sizeof(*p));
	int ret;

	if (!p)
		return err_errno(err, ENOMEM, "power");
	p->device.ops = &power_ops;
	p->vm = vm;
	pthread_mutex_init(&p->lock, NULL);
	ret = bus_add(&vm->pio, POWER_PORT, 16, &power_bus, p);
	ret = ret ? ret : bus_add(&vm->pio, I8042_STATUS, 1, &i8042_bus, p);
	if (ret) {
		power_free(&p->device);
		return err_errno(err, -ret, "power");
	}
	vm_add_device(vm, &p->device);
	*out = p;
	return 0;
}
