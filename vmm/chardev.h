/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Where the bytes of a serial port or a console go and come from: the terminal that the
 * program runs on, a pseudo-terminal, a unix socket that listens, a file, or nowhere.
 *
 * What comes in is read by a thread of its own and offered to the device. What goes out is the
 * device's call. Where nobody is at the other end (a socket without a connection, a pseudo-terminal
 * that nobody has opened) it goes nowhere.
 */
#ifndef BYRE_VMM_CHARDEV_H
#define BYRE_VMM_CHARDEV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct chardev;
struct vm;

/* "stdio", "pty", "socket=PATH", "file=PATH" (which is appended to) or "none". NULL with err
 * set. */
struct chardev *chardev_open(const char *text, struct err *err);
void chardev_close(struct chardev *c); /* NULL is fine */
bool chardev_is_stdio(const struct chardev *c);
/* A pseudo-terminal's name; NULL for others. */
const char *chardev_pty(const struct chardev *c);
/* The file of its socket; NULL for others. */
const char *chardev_socket(const struct chardev *c);

/* Whom bytes are for: receive takes some of them and returns how many; what it did not take it is
 * offered again after chardev_ready(). Called from the thread. Before chardev_start(). */
void chardev_attach(struct chardev *c, unsigned (*receive)(void *front, const uint8_t *data,
	unsigned bytes), void *front);
void chardev_ready(struct chardev *c); /* from any thread */
/* Who hears of the keys that follow Ctrl-A on a terminal. Before chardev_start(). */
void chardev_set_keys(struct chardev *c, void (*key)(void *arg, uint8_t key), void *arg);

/* Starts to read, and makes a terminal raw; gives it back as it was. */
int chardev_start(struct chardev *c, struct err *err);
void chardev_stop(struct chardev *c);

/* How many bytes were taken, 0 where there is no room now. Does not wait. From any thread. */
size_t chardev_write(struct chardev *c, const uint8_t *data, size_t bytes);
/* For a device of `vm` that cannot be told to wait: waits, with a terminal or a file as long as the
 * machine need not stop; what others do not take soon is lost. */
void chardev_put(struct chardev *c, uint8_t byte, struct vm *vm);
/* The machine is to end: nobody is waited for any more. From any thread. */
void chardev_hurry(struct chardev *c);

#endif
