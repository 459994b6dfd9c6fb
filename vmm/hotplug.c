/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Hot-plug of PCI devices. See hotplug.h.
 *
 * Three registers of 32 bits, a bit for each slot: those that came and those that are to go,
 * which are cleared by reading, and one to which the guest writes the slot that it has let
 * go.
 */
#include "vmm/hotplug.h"

#include <stdio.h>
#include <stdlib.h>

#include "vmm/pci.h"

enum { CAME = 0, GOES = 4, EJECT = 8, PORTS = 12 };
#define FIRST_SLOT 2u /* behind the bridges */

struct hotplug {
	struct device device; /* first */
	struct power *power;
	pthread_mutex_t lock;
	uint32_t came, goes;
	void (*ejected)(void *arg, unsigned slot);
	void *arg;
};

void hotplug_set_ejected(
	struct hotplug *h, void (*ejected)(void *arg, unsigned slot), void *arg)
{
	h->ejected = ejected;
	h->arg = arg;
}

static void tell(struct hotplug *h, uint32_t *slots, unsigned slot)
{
	pthread_mutex_lock(&h->lock);
	*slots |= 1u << slot;
	pthread_mutex_unlock(&h->lock);
	power_raise_event(h->power, HOTPLUG_EVENT);
}

void hotplug_added(struct hotplug *h, unsigned slot)
{
	tell(h, &h->came, slot);
}

void hotplug_request_eject(struct hotplug *h, unsigned slot)
{
	tell(h, &h->goes, slot);
}

/* ---- registers ------------------------------------------------------------------- */

static uint32_t take(uint32_t *slots)
{
	uint32_t value = *slots;

	*slots = 0;
	return value;
}

static uint64_t hotplug_read(void *dev, uint64_t offset, unsigned bytes)
{
	struct hotplug *h = dev;
	uint32_t value = 0;

	if (bytes != 4)
		return 0;
	pthread_mutex_lock(&h->lock);
	if (offset == CAME)
		value = take(&h->came);
	else if (offset == GOES)
		value = take(&h->goes);
	pthread_mutex_unlock(&h->lock);
	return value;
}

static void hotplug_write(void *dev, uint64_t offset, unsigned bytes, uint64_t value)
{
	struct hotplug *h = dev;

	if (offset != EJECT || bytes != 4 || !h->ejected)
		return;
	for (unsigned slot = FIRST_SLOT; slot < PCI_SLOTS; slot++)
		if (value >> slot & 1)
			h->ejected(h->arg, slot);
}

static const struct bus_ops hotplug_bus = {hotplug_read, hotplug_write};

/* ---- in the guest's language ----------------------------------------------------- */

static void name_slot(char name[5], unsigned slot)
{
	snprintf(name, 5, "S%02X", slot);
}

static void describe_slot(struct aml *a, unsigned slot)
{
	char name[5];
	aml_mark device, method;

	name_slot(name, slot);
	device = aml_begin_device(a, name);
	aml_name(a, "_ADR");
	aml_integer(a, slot << 16);
	aml_name(a, "_SUN");
	aml_integer(a, slot);
	method = aml_begin_method(a, "_EJ0", 1);
	aml_store(a, 1u << slot, "PCEJ");
	aml_end(a, method);
	aml_end(a, device);
}

/* TELL (slots, what): notifies each slot whose bit is set. */
static void describe_tell(struct aml *a)
{
	aml_mark method = aml_begin_method(a, "TELL", 2), test;
	char name[5];

	for (unsigned slot = FIRST_SLOT; slot < PCI_SLOTS; slot++) {
		name_slot(name, slot);
		test = aml_begin_if_arg_has(a, 0, 1u << slot);
		aml_notify_arg(a, name, 1);
		aml_end(a, test);
	}
	aml_end(a, method);
}

#define DEVICE_CHECK  1
#define EJECT_REQUEST 3

void hotplug_describe(struct aml *a)
{
	static const char *const fields[] = {"PCIU", "PCID", "PCEJ"};
	aml_mark method;

	aml_io_region(a, "HPIO", HOTPLUG_PORT, PORTS);
	aml_dword_fields(a, "HPIO", fields, 3);
	for (unsigned slot = FIRST_SLOT; slot < PCI_SLOTS; slot++)
		describe_slot(a, slot);
	describe_tell(a);
	method = aml_begin_method(a, "PCNT", 0);
	aml_reference(a, "TELL");
	aml_reference(a, "PCIU");
	aml_integer(a, DEVICE_CHECK);
	aml_reference(a, "TELL");
	aml_reference(a, "PCID");
	aml_integer(a, EJECT_REQUEST);
	aml_end(a, method);
}

void hotplug_describe_event(struct aml *a)
{
	aml_mark scope = aml_begin_scope(a, "\\_GPE"),
		 method = aml_begin_method(a, "_E01", 0);

	aml_reference(a, "\\_SB.PCI0.PCNT");
	aml_end(a, method);
	aml_end(a, scope);
}

/* ---- life ------------------------------------------------------------------------ */

static void hotplug_reset(struct device *d)
{
	struct hotplug *h = (struct hotplug *)d;

	h->came = h->goes = 0;
}

static void hotplug_state(struct device *d, struct state *s, unsigned version)
{
	struct hotplug *h = (struct hotplug *)d;

	(void)version;
	state_u32(s, &h->came);
	state_u32(s, &h->goes);
}

static void hotplug_free(struct device *d)
{
	struct hotplug *h = (struct hotplug *)d;

	pthread_mutex_destroy(&h->lock);
	free(h);
}

static const struct device_ops hotplug_ops = {
	.name = "hotplug",
	.reset = hotplug_reset,
	.version = 1,
	.state = hotplug_state,
	.free = hotplug_free,
};

int hotplug_new(struct vm *vm, struct power *power, struct hotplug **out, struct err *err)
{
	struct hotplug *h = calloc(1, sizeof(*h));
	int ret;

	if (!h)
		return err_errno(err, ENOMEM, "hotplug");
	h->device.ops = &hotplug_ops;
	h->power = power;
	pthread_mutex_init(&h->lock, NULL);
	ret = bus_add(&vm->pio, HOTPLUG_PORT, PORTS, &hotplug_bus, h);
	if (ret) {
		hotplug_free(&h->device);
		return err_errno(err, -ret, "hotplug");
	}
	vm_add_device(vm, &h->device);
	*out = h;
	return 0;
}
