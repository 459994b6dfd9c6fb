/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A machine without KVM, for tests that are the guest's driver of a device: memory and buses, and
 * what the machine does to all of its devices. Interrupts go nowhere.
 */
#ifndef BYRE_TESTS_UNIT_SUPPORT_BARE_H
#define BYRE_TESTS_UNIT_SUPPORT_BARE_H

#include "vmm/vm.h"

/* Freed by vm_free(). */
void bare_make(struct vm *vm, uint64_t memory_bytes);
void bare_reset(struct vm *vm);
void bare_start(struct vm *vm);
void bare_stop(struct vm *vm);
/* The sections of all devices, in the order of their list. */
void bare_state(struct vm *vm, struct state *s);

/* Configuration space of function 0, by mechanism #1. */
uint32_t bare_config_read(struct vm *vm, unsigned slot, unsigned reg);
void bare_config_write(struct vm *vm, unsigned slot, unsigned reg, uint32_t value);

/* A fence, which ThreadSanitizer does not know, by an access that is one on this machine. */
void full_barrier(void);

#endif
