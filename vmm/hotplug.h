/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * PCI devices that come and go while the guest runs, by ACPI (6.3): the guest hears an event, asks
 * which slots are concerned, and says when it has let one go.
 */
#ifndef BYRE_VMM_HOTPLUG_H
#define BYRE_VMM_HOTPLUG_H

#include "vmm/aml.h"
#include "vmm/devices.h"

#define HOTPLUG_PORT  0xae00
#define HOTPLUG_EVENT 1 /* \_GPE._E01 */

struct hotplug;

int hotplug_new(struct vm *vm, struct power *power, struct hotplug **out, struct err *err);
/* Called, in a vCPU's thread, when the guest has let a slot go; the device must not be taken away
 * from there, but by a vm_call(). */
void hotplug_set_ejected(
	struct hotplug *h, void (*ejected)(void *arg, unsigned slot), void *arg);

/* There is a new device in this slot; the guest is told. From any thread. */
void hotplug_added(struct hotplug *h, unsigned slot);
/* The guest is asked to let it go, which it may do, or not. */
void hotplug_request_eject(struct hotplug *h, unsigned slot);

/* Into the PCI bus's scope, and beside it: the other half, in the guest's language. */
void hotplug_describe(struct aml *a);
void hotplug_describe_event(struct aml *a);

#endif
