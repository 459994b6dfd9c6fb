/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * One virtual machine: an ordinary process, each vCPU a thread of it. Everything hangs off
 * struct vm; there are no globals.
 *
 * States: STOPPED (no vCPU runs, devices stand still) ⇄ RUNNING; ENDED is for good. Who wants
 * a change asks, from any thread; the thread in vm_run() makes it when every vCPU has left
 * the guest.
 */
#ifndef BYRE_VMM_VM_H
#define BYRE_VMM_VM_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/log.h"
#include "vmm/bus.h"
#include "vmm/device.h"
#include "vmm/memory.h"

#define VM_CPUS_MAX 64u

/* How processors are told to be arranged: their product is how many there are. */
struct vm_topology {
	unsigned sockets, cores, threads; /* cores of a socket, threads of a core; each at least 1 */
};

enum vm_request {
	VM_NOTHING,
	VM_RESET,       /* by the guest */
	VM_RESET_OWNER, /* by its owner */
	VM_POWER_OFF,   /* by the guest */
	VM_QUIT,        /* by its owner */
	VM_FAILED,    /* vm->failure says why */
};

/* Why it stands, or that it does not. */
enum vm_status {
	VM_STATUS_RUNNING,
	VM_STATUS_PRELAUNCH, /* was never started */
	VM_STATUS_PAUSED,
	VM_STATUS_IO_ERROR, /* a disk failed, and its policy says stop */
	VM_STATUS_SHUTDOWN, /* the guest turned it off, and it is kept */
};

enum vm_event {
	VM_EVENT_STOP,
	VM_EVENT_RESUME,
	VM_EVENT_RESET,
	VM_EVENT_POWERDOWN, /* the button was pressed */
	VM_EVENT_SHUTDOWN,
};

/* What made a vCPU leave the guest. */
enum vcpu_exit {
	VCPU_EXIT_IO,
	VCPU_EXIT_MMIO,
	VCPU_EXIT_INTERRUPT, /* of the host, a kick */
	VCPU_EXIT_SHUTDOWN,  /* a reset or the end */
	VCPU_EXIT_OTHER,
	VCPU_EXITS
};
extern const char *const vcpu_exit_names[VCPU_EXITS];

struct vcpu {
	struct vm *vm;
	unsigned index;
	uint32_t apic_id; /* socket, core and thread in bit fields of their own */
	int fd;
	struct kvm_run *run;
	pthread_t thread;
	bool started;
	int tid; /* of the thread; atomic, 0 before it runs */
	uint64_t round; /* of the machine's, that it went into last */
	uint64_t exits[VCPU_EXITS]; /* its thread counts, anybody reads; atomic */
	struct state *initial; /* as KVM made it: what a reset goes back to */
};

/* Work for the thread in vm_run() while the machine stands still. */
struct vm_call {
	void (*fn)(void *arg);
	void *arg;
	bool done;
	struct vm_call *next;
};

struct disk_failure; /* disk.h */

struct vm {
	int kvm_fd, fd;
	size_t run_bytes;
	struct memory memory;
	struct bus pio, mmio;
	struct device *devices;
	struct disk *disks; /* disk.h */
	struct vcpu *vcpu;
	unsigned cpus;
	struct vm_topology topology;
	/* Where the boot processor begins, flat 32-bit protected mode; entry 0: at the reset
	 * vector. */
	uint32_t entry, entry_ebx, entry_esi;
	struct state *initial; /* of KVM's chips */
	uint64_t clock;	       /* KVM's, when it was stopped; 0: it runs on */

	/* Puts what is to be started into memory, at each reset; NULL: firmware needs nothing. */
	int (*load)(struct vm *vm, void *arg, struct err *err);
	void *load_arg;
	bool no_reboot;	  /* a reset ends it */
	bool no_shutdown; /* when the guest turns it off it stays, stopped */
	/* Once, when vm_run() has everything in place and before anything runs; NULL: nothing. */
	int (*begin)(struct vm *vm, void *arg, struct err *err);
	void *begin_arg;
	/* What happened, from any thread; NULL: nobody wants to know. `why` is the request that
	 * made it a reset or a shutdown, else VM_NOTHING. They do not block. */
	void (*notify)(void *arg, enum vm_event event, enum vm_request why);
	void (*disk_failed)(void *arg, const struct disk_failure *f);
	void *notify_arg; /* of both */

	pthread_mutex_t lock;
	pthread_cond_t changed;
	/* Under the lock. */
	enum vm_request request;
	enum vm_status wanted; /* RUNNING, or why it is to stand */
	bool stop_once;	       /* it is to come to rest, be it only for a moment */
	struct vm_call *calls;
	bool running;	 /* vCPUs may be in the guest */
	uint64_t round;	 /* how often that began; atomic to who has no lock */
	unsigned inside; /* vCPUs that are, or are about to be */
	bool ending;
	bool ended; /* vm_run() has returned, or is about to */
	bool stopping; /* atomic, too: devices are to come to rest */
	char failure[256];
	struct log_bound said; /* of what its guest makes devices say */
	int unstored; /* vm_free: -errno of what a device could not store of what it had been given */
};

/* Opens /dev/kvm, makes the machine with its interrupt controllers and memory, no devices. -EINVAL:
 * more processors than VM_CPUS_MAX, or spread so wide that an APIC has no number for one. */
int vm_new(struct vm *vm, const struct memory_options *memory,
	const struct vm_topology *topology, struct err *err);
void vm_add_device(struct vm *vm, struct device *d); /* the VM's from then on */
void vm_remove_device(struct vm *vm, struct device *d); /* frees it; only while it stands */
void vm_free(struct vm *vm);

/* A range of memory that KVM backs by host memory: RAM, or with read_only ROM, where writes
 * come to the bus. bytes 0 takes the slot away. */
int vm_set_slot(struct vm *vm, unsigned slot, uint64_t base, uint64_t bytes, void *host,
	bool read_only);
#define VM_SLOT_ROM 8u /* from here on; below it is RAM */

/* Runs until it is powered off: 0. -EIO with err set where a vCPU failed. One thread calls. With
 * vm->wanted other than RUNNING it begins standing still. */
int vm_run(struct vm *vm, struct err *err);
/* From any thread, devices included. */
void vm_ask(struct vm *vm, enum vm_request request);
bool vm_has_request(const struct vm *vm); /* one that is not met yet: no vCPU enters the guest */
void vm_fail(struct vm *vm, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* To stand still, and why; returns at once. It stands when a vm_call() has been answered. */
void vm_pause(struct vm *vm, enum vm_status why);
void vm_resume(struct vm *vm);
/* It is as it was at another time: that it was turned off, or had an error of its storage, is over. */
void vm_came_back(struct vm *vm);
enum vm_status vm_status(struct vm *vm);
/* How often it began to run, or went on; that of its last run where it stands. */
uint64_t vm_round(const struct vm *vm);
/* Whether devices are coming to rest: who would wait for long gives up. */
bool vm_stopping(struct vm *vm);
/* Calls fn in the thread of vm_run() while no vCPU and no device runs; then the machine goes
 * on, or stands, as before. Waits for it. Not from vCPUs, devices or fn. -ESHUTDOWN: it ended. */
int vm_call(struct vm *vm, void (*fn)(void *arg), void *arg);
void vm_notify(struct vm *vm, enum vm_event event, enum vm_request why);
/* A non-maskable interrupt, on every vCPU that would take one from its pin. */
int vm_inject_nmi(struct vm *vm);

/* The state of KVM's part, vCPUs and all devices, in their order. Only while it stands. */
void vm_state(struct vm *vm, struct state *s);
/* Loading, before it is: whether the state is this machine's, section by section. Nothing changes. */
void vm_state_look(struct vm *vm, struct state *s);
/* vm_state.c: KVM's interrupt controllers, timer and clock. */
int vm_keep_chips(struct vm *vm, struct err *err); /* as a reset will make them again */
int vm_reset_chips(struct vm *vm);
void vm_stop_clock(struct vm *vm);
void vm_start_clock(struct vm *vm);
/* As after power-on, without what vm->load loads. Only while it stands. 0 or -errno. */
int vm_reset(struct vm *vm);

/* Interrupts. GSI 0 to 15 are the ISA lines; level-triggered ones stay as set. */
void vm_set_irq(struct vm *vm, unsigned gsi, bool high);
/* A message as PCI devices send: address and data of the MSI. -errno. */
int vm_send_msi(struct vm *vm, uint64_t address, uint32_t data);

/* vcpu.c */
uint32_t vcpu_apic_id(const struct vm_topology *t, unsigned index);
int vcpu_new(struct vcpu *c, struct vm *vm, unsigned index, struct err *err);
int vcpu_start(struct vcpu *c, struct err *err); /* its thread; waits for vm->running */
void vcpu_kick(struct vcpu *c);			 /* leaves the guest soon */
int vcpu_reset(struct vcpu *c);			 /* not while it runs; 0 or -errno */
int vcpu_nmi(struct vcpu *c);			 /* likewise */

/* vcpu_state.c: its section, both ways. A reset loads what vcpu_keep kept. */
#define VCPU_STATE_VERSION 2u
void vcpu_state(struct vcpu *c, struct state *s);
int vcpu_keep(struct vcpu *c);
int vcpu_restore(struct vcpu *c);
void vcpu_free(struct vcpu *c);

#endif
