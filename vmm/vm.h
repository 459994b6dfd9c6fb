/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * One virtual machine: an ordinary process, each vCPU a thread of it. Everything hangs off
 * struct vm; there are no globals.
 *
 * States: STOPPED (no vCPU runs) ⇄ RUNNING; ENDED is for good. Who wants a change asks
 * (vm_request); the thread in vm_run() makes it when every vCPU has left the guest.
 */
#ifndef BYRE_VMM_VM_H
#define BYRE_VMM_VM_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "vmm/bus.h"
#include "vmm/device.h"
#include "vmm/memory.h"

#define VM_CPUS_MAX 64u

enum vm_request {
	VM_NOTHING,
	VM_RESET,
	VM_POWER_OFF,
	VM_FAILED, /* vm->failure says why */
};

struct vcpu {
	struct vm *vm;
	unsigned index;
	int fd;
	struct kvm_run *run;
	pthread_t thread;
	bool started;
	uint64_t exits, pio_exits, mmio_exits;
};

struct vm {
	int kvm_fd, fd;
	size_t run_bytes;
	struct memory memory;
	struct bus pio, mmio;
	struct device *devices;
	struct vcpu *vcpu;
	unsigned cpus;
	/* Where the boot processor begins, flat 32-bit protected mode; entry 0: at the reset
	 * vector. */
	uint32_t entry, entry_ebx, entry_esi;

	pthread_mutex_t lock;
	pthread_cond_t changed;
	/* Under the lock. */
	enum vm_request request;
	bool running;	 /* vCPUs may be in the guest */
	unsigned inside; /* vCPUs that are, or are about to be */
	bool ending;
	char failure[256];
};

/* Opens /dev/kvm, makes the machine with its interrupt controllers and memory, no devices. */
int vm_new(struct vm *vm, const struct memory_options *memory, unsigned cpus, struct err *err);
void vm_add_device(struct vm *vm, struct device *d); /* the VM's from then on */
void vm_free(struct vm *vm);

/* Runs until it is powered off: 0. -EIO with err set where a vCPU failed. One thread calls. */
int vm_run(struct vm *vm, struct err *err);
/* From any thread, devices included. */
void vm_ask(struct vm *vm, enum vm_request request);
void vm_fail(struct vm *vm, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Interrupts. GSI 0 to 15 are the ISA lines; level-triggered ones stay as set. */
void vm_set_irq(struct vm *vm, unsigned gsi, bool high);
/* A message as PCI devices send: address and data of the MSI. -errno. */
int vm_send_msi(struct vm *vm, uint64_t address, uint32_t data);

/* vcpu.c */
int vcpu_new(struct vcpu *c, struct vm *vm, unsigned index, struct err *err);
int vcpu_start(struct vcpu *c, struct err *err); /* its thread; waits for vm->running */
void vcpu_kick(struct vcpu *c);			 /* leaves the guest soon */
int vcpu_reset(struct vcpu *c);			 /* not while it runs; 0 or -errno */
void vcpu_free(struct vcpu *c);

#endif
