/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Who sits before the machine: what is typed goes to the serial port, and a few keys and
 * signals to the machine. Where input is a terminal it is made raw; after Ctrl-A there
 * come x (end it), p (power button), Ctrl-A (itself).
 */
#ifndef BYRE_VMM_CONSOLE_H
#define BYRE_VMM_CONSOLE_H

#include "vmm/devices.h"

struct console;

/* A thread that reads in_fd (-1: only signals). */
int console_start(struct vm *vm, struct serial *serial, struct power *power, int in_fd,
	struct console **out, struct err *err);
/* Ends it and gives the terminal back as it was. NULL is fine. */
void console_stop(struct console *c);

#endif
