/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * PCI: one bus behind configuration mechanism #1 (ports 0xcf8 and 0xcfc; PCI Local Bus 3.0,
 * 3.2.2.3), with memory BARs and MSI-X (6.8.2). A device fills in a struct pci_function and
 * adds it; its BARs have addresses from the start, as firmware would have given them, and
 * may be moved by the guest.
 */
#ifndef BYRE_VMM_PCI_H
#define BYRE_VMM_PCI_H

#include "vmm/vm.h"

#define PCI_SLOTS	  32
#define PCI_FUNCTIONS	  8
#define PCI_BARS	  6
#define PCI_CONFIG_BYTES  256
#define PCI_VECTORS_MAX	  128u
#define PCI_NO_VECTOR	  0xffff
#define PCI_WINDOW_END	  0xfec00000ull /* of BARs: the I/O APIC */

struct pci;
struct pci_function;

struct pci_bar {
	uint32_t bytes; /* power of two from 4096 on; 0: there is none */
	const struct bus_ops *ops;
	void *dev;
	/* It lies elsewhere now; 0: nowhere. NULL: of no interest. */
	void (*moved)(void *dev, uint32_t from, uint32_t to);
	uint32_t mapped; /* where it is on the bus now; 0: nowhere */
};

struct pci_vector {
	uint64_t address;
	uint32_t data, control; /* bit 0: masked */
};

struct pci_function {
	struct vm *vm;
	struct pci *pci;
	unsigned slot, function;
	uint8_t config[PCI_CONFIG_BYTES];
	uint8_t writable[PCI_CONFIG_BYTES]; /* bits that the guest may change */
	struct pci_bar bar[PCI_BARS];
	unsigned next_capability; /* where the next one goes */
	uint8_t *last_link;
	/* The guest has let it use memory, or has taken that away (pci_is_master). On a vCPU, without a
	 * lock; it may wait. NULL: of no interest. */
	void (*mastered)(struct pci_function *f);
	unsigned window; /* the capability of pci_set_window(); 0: none */

	/* MSI-X, when vectors is not 0. */
	unsigned vectors, msix_capability;
	pthread_mutex_t lock; /* around what follows */
	struct pci_vector vector[PCI_VECTORS_MAX];
	uint64_t pending[PCI_VECTORS_MAX / 64];
	bool intx;
};

struct pci_identity {
	uint16_t vendor, device, subsystem_vendor, subsystem;
	uint32_t class_code; /* class, subclass, interface */
	uint8_t revision;
	bool interrupts; /* pin A */
};

/* The host bridge (i440FX) and its ports. */
int pci_new(struct vm *vm, struct pci **out, struct err *err);

void pci_function_init(struct pci_function *f, struct vm *vm, const struct pci_identity *id);
/* A capability of `bytes` with this ID; what follows the two first bytes is the caller's to
 * fill in. Returns its offset. */
unsigned pci_add_capability(struct pci_function *f, uint8_t id, unsigned bytes);
/* This capability, the last one and of 20 bytes, is a window to the function's BARs as virtio has
 * it (1.2, 4.1.4.9): BAR, offset and length are the guest's to write, and accesses to its last
 * four bytes are made there. They come from a vCPU, as those of BARs do, and need no BAR to be
 * anywhere. */
void pci_set_window(struct pci_function *f, unsigned capability);
void pci_set_bar(struct pci_function *f, unsigned i, uint32_t bytes, const struct bus_ops *ops,
	void *dev);
/* MSI-X with its table in a BAR of its own. */
void pci_set_vectors(struct pci_function *f, unsigned vectors, unsigned bar);
/* Into the first free slot, or this one; -ENOSPC. The second into one function of a slot. */
int pci_add(struct pci *pci, struct pci_function *f, int slot, struct err *err);
int pci_add_function(struct pci *pci, struct pci_function *f, unsigned slot, unsigned function,
	struct err *err);
void pci_remove(struct pci_function *f);
/* What a function is, as configuration space tells it now; false: there is none. */
struct pci_facts {
	struct pci_identity id;
	uint8_t line;
	struct {
		uint32_t base, bytes;
	} bar[PCI_BARS];
};
bool pci_look(struct pci *pci, unsigned slot, unsigned function, struct pci_facts *out);
void pci_function_reset(struct pci_function *f);
/* Bus master: whether it may use the guest's memory now. */
bool pci_is_master(const struct pci_function *f);
/* Part of a device's section. Loading maps its BARs where they were. */
void pci_function_state(struct pci_function *f, struct state *s);

/* The MSI-X vector; with MSI-X off, and for PCI_NO_VECTOR, nothing. From any thread. */
void pci_notify(struct pci_function *f, unsigned vector);
bool pci_msix_enabled(struct pci_function *f);
/* The pin, level-triggered. */
void pci_set_intx(struct pci_function *f, bool high);
/* GSI of a slot's pin (0 = A), for the firmware's tables. */
unsigned pci_gsi(unsigned slot, unsigned pin);
/* Where the window for BARs begins: 2 GiB, or where RAM below 4 GiB ends. */
uint32_t pci_window_start(const struct vm *vm);

#endif
