/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Snapshots of the running machine: its memory and devices as the VM state of a qcow2
 * snapshot, and a snapshot of the same name in every writable disk, all of one moment.
 *
 * The machine stands while it is made. What a crash meanwhile leaves: disks as they were before,
 * and of the new snapshot those that were made already; one without its VM state is not
 * offered for restoring.
 */
#ifndef BYRE_VMM_SNAPSHOT_H
#define BYRE_VMM_SNAPSHOT_H

#include "vmm/vm.h"

struct blk;

/* All three only while the machine stands (vm_call), with disks open. Every writable disk has to
 * be one that has snapshots; the first of them takes the VM state. A failure leaves no
 * snapshot of that name that was not there before. */
int snapshot_save(struct vm *vm, const char *name, struct err *err);
/* Disks, memory and devices as they were. Nothing is changed where `name` is not there on all disks,
 * does not fit this machine, or the first disk cannot go back; later failures end the machine, whose
 * parts are of different moments (vm_fail). */
int snapshot_load(struct vm *vm, const char *name, struct err *err);
/* Wherever it is, also what is left of one that was not made, or deleted, on all disks: the state
 * first. An error of one disk does not keep the others'. -ENOENT: none has it. */
int snapshot_delete(struct vm *vm, const char *name, struct err *err);

/* To or from a file of its own, without the disks: RAM and devices. */
int snapshot_save_file(struct vm *vm, const char *path, struct err *err);
int snapshot_load_file(struct vm *vm, struct blk *b, struct err *err); /* which is the caller's */

#endif
