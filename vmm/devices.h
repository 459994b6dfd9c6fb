/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The devices of the board that are neither PCI nor virtio, each in a file of its name. The
 * functions make one and give it to the machine; -errno with err set where they cannot.
 */
#ifndef BYRE_VMM_DEVICES_H
#define BYRE_VMM_DEVICES_H

#include "vmm/chardev.h"
#include "vmm/vm.h"

/* ---- serial.c: a 16550A at 0x3f8, ISA line 4 ------------------------------------- */

struct serial;

/* The character device is the caller's, and is there for as long as the machine. */
int serial_new(struct vm *vm, struct chardev *chardev, struct serial **out, struct err *err);

/* ---- rtc.c: MC146818 clock and CMOS at 0x70 -------------------------------------- */

int rtc_new(struct vm *vm, struct err *err);

/* ---- power.c: ACPI's registers at 0x600, reset by the keyboard controller --------- */

#define POWER_PORT	 0x600
#define POWER_SCI	 9
#define POWER_TIMER_PORT 0x608
#define POWER_GPE_PORT	 0x60c /* general-purpose events 0 to 15: status, enable */
#define POWER_S5	 5 /* SLP_TYP that turns it off */

struct power;

int power_new(struct vm *vm, struct power **out, struct err *err);
/* The power button: what the guest makes of it is its own affair. From any thread. */
void power_press_button(struct power *p);
/* A general-purpose event: the guest runs \_GPE._Exx. From any thread. */
void power_raise_event(struct power *p, unsigned event);

/* ---- piix.c: the south bridge on PCI: ISA bridge 00:01.0, power management 00:01.3 -- */

#define PIIX_SLOT 1

struct pci;
int piix_new(struct vm *vm, struct pci *pci, struct err *err);

#endif
