/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A device of the machine: its life, from being made to being freed. What it does on a bus is
 * bus.h's, what it is on PCI pci.h's.
 *
 * Order: new → (reset) → [start ⇄ stop]* → free. Between stop and start nothing of the device
 * runs and its state does not change; reset and state happen only then.
 */
#ifndef BYRE_VMM_DEVICE_H
#define BYRE_VMM_DEVICE_H

#include "vmm/state.h"

struct device;

struct device_ops {
	const char *name; /* shorter than STATE_NAME_MAX */
	void (*reset)(struct device *d); /* as after power-on */
	void (*start)(struct device *d); /* vCPUs are about to run */
	void (*stop)(struct device *d);	 /* vCPUs do not run; returns when nothing is under way */
	/* Saves or loads (state.h), in a section with the device's name and instance. Loading
	 * happens after a reset, and ends with the device as it was when it was saved: mapped
	 * where it was, its interrupt line as it was. Version 1 and up; NULL: it has no state. */
	unsigned version;
	void (*state)(struct device *d, struct state *s, unsigned version);
	void (*free)(struct device *d);
};

struct device {
	const struct device_ops *ops;
	unsigned instance; /* tells devices of one name apart: of PCI functions the slot */
	bool loaded;	   /* vm_state(): its section was there */
	struct device *next;
};

#endif
