/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A device of the machine: its life, from being made to being freed. What it does on a bus is
 * bus.h's, what it is on PCI pci.h's.
 *
 * Order: new → (reset) → [start ⇄ stop]* → free. Between stop and start nothing of the device
 * runs and its state does not change; reset, save and load happen only then.
 */
#ifndef BYRE_VMM_DEVICE_H
#define BYRE_VMM_DEVICE_H

struct device;

struct device_ops {
	const char *name;
	void (*reset)(struct device *d); /* as after power-on */
	void (*start)(struct device *d); /* vCPUs are about to run */
	void (*stop)(struct device *d);	 /* vCPUs do not run; returns when nothing is under way */
	void (*free)(struct device *d);
};

struct device {
	const struct device_ops *ops;
	struct device *next;
};

#endif
