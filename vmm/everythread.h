/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Doing something on each thread of the process: what a thread gives up (Landlock, its
 * capabilities, a namespace) the kernel takes from that thread alone, and some are there
 * before the process is confined: the loop of a disk on a network, a worker.
 */
#ifndef BYRE_VMM_EVERYTHREAD_H
#define BYRE_VMM_EVERYTHREAD_H

#include "base/err.h"

/* Runs fn(arg) on each other thread, in a signal handler: system calls only; then on the
 * calling one. fn returns 0 or -errno; the first failure is the result, with err set, and then
 * some threads have done it and some not. Threads of the kernel's own (io_uring's workers,
 * which end when they are idle) are left out. `what` names it in messages. One caller at a
 * time. */
int every_thread(int (*fn)(void *arg), void *arg, const char *what, struct err *err);

#endif
