/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Who sits before the machine: the keys and signals that are for the machine itself. After
 * Ctrl-A on a terminal there come x (end it), p (power button), Ctrl-A (itself); SIGTERM, SIGINT
 * and SIGHUP end it.
 */
#ifndef BYRE_VMM_CONSOLE_H
#define BYRE_VMM_CONSOLE_H

#include "vmm/chardev.h"
#include "vmm/devices.h"

#define CONSOLE_CHARDEVS 2u

struct console;

/* Starts these (NULL: none), and a thread that waits for signals. */
int console_start(struct vm *vm, struct power *power,
	struct chardev *const chardevs[CONSOLE_CHARDEVS], struct console **out, struct err *err);
/* Ends all of it. NULL is fine. */
void console_stop(struct console *c);

#endif
