/* SPDX-License-Identifier: BSD-2-Clause */
/* The PCI bus. See pci.h. */
#include "vmm/pci.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/endian.h"
#include "base/math.h"

#define PORT     0xcf8 /* the address; the data, from 0xcfc on */
#define RESET_AT 1     /* the reset control register of PC chipsets, 0xcf9 */
#define ENABLED  0x80000000u

/* Configuration space. */
enum {
	COMMAND = 0x04,
	STATUS = 0x06,
	REVISION = 0x08,
	HEADER = 0x0e,
	BAR0 = 0x10,
	SUBSYSTEM = 0x2c,
	CAPABILITIES = 0x34,
	LINE = 0x3c,
	PIN = 0x3d,
	FIRST_CAPABILITY = 0x40,
};
#define COMMAND_MEMORY      0x0002
#define COMMAND_MASTER      0x0004
#define COMMAND_NO_INTX     0x0400
#define STATUS_INTERRUPT    0x08
#define STATUS_CAPABILITIES 0x0010
#define HEADER_MULTI        0x80

#define CAPABILITY_MSIX 0x11
#define MSIX_ENABLE     0x80 /* of the upper byte of its control */
#define MSIX_MASK_ALL   0x40
#define MSIX_BYTES      4096
#define MSIX_PENDING_AT 2048
#define VECTOR_BYTES    16
#define VECTOR_MASKED   1

/* A window's fields, from the start of its capability on. */
enum {
	WINDOW_BAR = 4,
	WINDOW_OFFSET = 8,
	WINDOW_LENGTH = 12,
	WINDOW_DATA = 16,
	WINDOW_BYTES = 20,
};

struct pci {
	struct device device; /* first */
	struct vm *vm;
	/* Around the address and the slots; and around the pins and, again, the slots: an access
	 * that moves a BAR holds the first and waits for accesses that may want the second. */
	pthread_mutex_t lock, pin_lock;
	uint32_t address;
	uint8_t reset_control;
	struct pci_function *function[PCI_SLOTS][PCI_FUNCTIONS];
	struct pci_function bridge;
	uint32_t next_base;
};

/* ---- MSI-X ----------------------------------------------------------------------- */

static bool is_enabled(const struct pci_function *f)
{
	return f->vectors && (f->config[f->msix_capability + 3] & MSIX_ENABLE);
}

static bool is_masked(const struct pci_function *f, unsigned i)
{
	return (f->config[f->msix_capability + 3] & MSIX_MASK_ALL) ||
	       (f->vector[i].control & VECTOR_MASKED);
}

bool pci_msix_enabled(struct pci_function *f)
{
	bool on;

	pthread_mutex_lock(&f->lock);
	on = is_enabled(f);
	pthread_mutex_unlock(&f->lock);
	return on;
}

void pci_notify(struct pci_function *f, unsigned vector)
{
	struct pci_vector v = {.address = 0};
	bool now = false;

	if (vector >= f->vectors)
		return;
	pthread_mutex_lock(&f->lock);
	if (is_enabled(f) && is_masked(f, vector)) {
		f->pending[vector / 64] |= (uint64_t)1 << vector % 64;
	} else if (is_enabled(f)) {
		v = f->vector[vector];
		now = true;
	}
	pthread_mutex_unlock(&f->lock);
	/* An address that is no local APIC's is the guest's own mistake. */
	if (now)
		vm_send_msi(f->vm, v.address, v.data);
}

/* Sends what was held back. The lock is held. */
static void send_pending(struct pci_function *f)
{
	for (unsigned i = 0; i < f->vectors; i++) {
		uint64_t bit = (uint64_t)1 << i % 64;

		if (!(f->pending[i / 64] & bit) || !is_enabled(f) || is_masked(f, i))
			continue;
		f->pending[i / 64] &= ~bit;
		vm_send_msi(f->vm, f->vector[i].address, f->vector[i].data);
	}
}

static void vector_word(const struct pci_vector *v, unsigned word, uint32_t *out)
{
	const uint32_t words[4] = {
		(uint32_t)v->address, (uint32_t)(v->address >> 32), v->data, v->control};

	*out = words[word];
}

static void set_vector_word(struct pci_vector *v, unsigned word, uint32_t value)
{
	if (word == 0)
		v->address = (v->address & ~(uint64_t)UINT32_MAX) | value;
	else if (word == 1)
		v->address = (uint32_t)v->address | (uint64_t)value << 32;
	else if (word == 2)
		v->data = value;
	else
		v->control = value & VECTOR_MASKED;
}

static uint32_t read_word(struct pci_function *f, uint64_t at)
{
	uint64_t i = at / VECTOR_BYTES;
	uint32_t value = 0;

	if (at >= MSIX_PENDING_AT) {
		i = (at - MSIX_PENDING_AT) / 8;
		if (i < ARRAY_LEN(f->pending))
			value = (uint32_t)(f->pending[i] >> (at & 4 ? 32 : 0));
	} else if (i < f->vectors) {
		vector_word(&f->vector[i], at / 4 % 4, &value);
	}
	return value;
}

static uint64_t msix_read(void *dev, uint64_t offset, unsigned bytes)
{
	struct pci_function *f = dev;
	uint64_t value;

	if (bytes < 4 || offset % bytes)
		return UINT64_MAX;
	pthread_mutex_lock(&f->lock);
	value = read_word(f, offset);
	if (bytes == 8)
		value |= (uint64_t)read_word(f, offset + 4) << 32;
	pthread_mutex_unlock(&f->lock);
	return value;
}

static void msix_write(void *dev, uint64_t offset, unsigned bytes, uint64_t value)
{
	struct pci_function *f = dev;
	uint64_t i = offset / VECTOR_BYTES;

	if (bytes < 4 || offset % bytes || i >= f->vectors)
		return;
	pthread_mutex_lock(&f->lock);
	set_vector_word(&f->vector[i], offset / 4 % 4, (uint32_t)value);
	if (bytes == 8)
		set_vector_word(
			&f->vector[i], offset / 4 % 4 + 1, (uint32_t)(value >> 32));
	send_pending(f);
	pthread_mutex_unlock(&f->lock);
}

static const struct bus_ops msix_bus = {msix_read, msix_write};

void pci_set_vectors(struct pci_function *f, unsigned vectors, unsigned bar)
{
	unsigned at = pci_add_capability(f, CAPABILITY_MSIX, 12);

	f->vectors = MIN(vectors, PCI_VECTORS_MAX);
	f->msix_capability = at;
	le16_store(f->config + at + 2, (uint16_t)(f->vectors - 1));
	f->writable[at + 3] = MSIX_ENABLE | MSIX_MASK_ALL;
	le32_store(f->config + at + 4, bar);
	le32_store(f->config + at + 8, MSIX_PENDING_AT | bar);
	pci_set_bar(f, bar, MSIX_BYTES, &msix_bus, f);
}

/* ---- interrupt pin --------------------------------------------------------------- */

/* As SeaBIOS has it for this host bridge, so that what it writes into configuration space is
 * true, too. */
unsigned pci_gsi(unsigned slot, unsigned pin)
{
	return (slot + pin + 3) % 4 < 2 ? 10 : 11;
}

uint32_t pci_window_start(const struct vm *vm)
{
	return (uint32_t)MAX(vm->memory.region[0].bytes, 2 * GiB);
}

/* Several slots share a line, which is high as long as one of them wants it. */
static bool line_wanted(const struct pci *pci, unsigned gsi)
{
	for (unsigned i = 0; i < PCI_SLOTS * PCI_FUNCTIONS; i++) {
		const struct pci_function *f =
			pci->function[i / PCI_FUNCTIONS][i % PCI_FUNCTIONS];

		if (f && f->intx && pci_gsi(f->slot, 0) == gsi &&
			!(le16_load(f->config + COMMAND) & COMMAND_NO_INTX))
			return true;
	}
	return false;
}

/* pin_lock is held. */
static void set_line(struct pci *pci, const struct pci_function *f)
{
	unsigned gsi = pci_gsi(f->slot, 0);

	vm_set_irq(f->vm, gsi, line_wanted(pci, gsi));
}

void pci_set_intx(struct pci_function *f, bool high)
{
	struct pci *pci = f->pci;

	if (!pci)
		return;
	pthread_mutex_lock(&pci->pin_lock);
	if (f->intx != high) {
		__atomic_store_n(&f->intx, high, __ATOMIC_RELEASE);
		set_line(pci, f);
	}
	pthread_mutex_unlock(&pci->pin_lock);
}

/* The guest lets the pin through or does not. */
static void mask_pin(struct pci_function *f)
{
	if (!f->pci || !f->config[PIN])
		return;
	pthread_mutex_lock(&f->pci->pin_lock);
	set_line(f->pci, f);
	pthread_mutex_unlock(&f->pci->pin_lock);
}

/* ---- BARs ------------------------------------------------------------------------ */

static bool memory_on(const struct pci_function *f)
{
	return f->config[COMMAND] & COMMAND_MEMORY;
}

static void unmap_bar(struct pci_function *f, struct pci_bar *bar)
{
	if (!bar->mapped)
		return;
	bus_remove(&f->vm->mmio, bar->mapped);
	if (bar->moved)
		bar->moved(bar->dev, bar->mapped, 0);
	bar->mapped = 0;
}

/* Where the guest puts it over RAM or over another it is nowhere. */
static void map_bar(struct pci_function *f, unsigned i)
{
	struct pci_bar *bar = &f->bar[i];
	uint32_t base = le32_load(f->config + BAR0 + 4 * i) & ~0xfu;

	if (!memory_on(f))
		base = 0;
	if (base == bar->mapped)
		return;
	unmap_bar(f, bar);
	if (!base || base < f->vm->memory.region[0].bytes ||
		base + (uint64_t)bar->bytes > MEMORY_HOLE_END)
		return;
	if (bus_add(&f->vm->mmio, base, bar->bytes, bar->ops, bar->dev))
		return;
	bar->mapped = base;
	if (bar->moved)
		bar->moved(bar->dev, 0, base);
}

static void map_bars(struct pci_function *f)
{
	for (unsigned i = 0; i < PCI_BARS; i++)
		if (f->bar[i].bytes)
			map_bar(f, i);
}

void pci_set_bar(struct pci_function *f, unsigned i, uint32_t bytes,
	const struct bus_ops *ops, void *dev)
{
	f->bar[i] = (struct pci_bar){.bytes = bytes, .ops = ops, .dev = dev};
	le32_store(f->writable + BAR0 + 4 * i, ~(bytes - 1));
}

/* ---- configuration space --------------------------------------------------------- */

void pci_function_init(
	struct pci_function *f, struct vm *vm, const struct pci_identity *id)
{
	f->vm = vm;
	pthread_mutex_init(&f->lock, NULL);
	le16_store(f->config, id->vendor);
	le16_store(f->config + 2, id->device);
	le32_store(f->config + REVISION, id->class_code << 8 | id->revision);
	le16_store(f->config + SUBSYSTEM, id->subsystem_vendor);
	le16_store(f->config + SUBSYSTEM + 2, id->subsystem);
	f->config[PIN] = id->interrupts;
	le16_store(f->writable + COMMAND,
		COMMAND_MEMORY | COMMAND_MASTER | COMMAND_NO_INTX | 1);
	f->writable[LINE] = 0xff;
	f->writable[0x0c] = 0xff; /* cache line size */
	f->last_link = f->config + CAPABILITIES;
	f->next_capability = FIRST_CAPABILITY;
}

unsigned pci_add_capability(struct pci_function *f, uint8_t id, unsigned bytes)
{
	unsigned at = f->next_capability;

	f->config[at] = id;
	*f->last_link = (uint8_t)at;
	f->last_link = f->config + at + 1;
	f->next_capability = (unsigned)round_up(at + bytes, 4);
	f->config[STATUS] |= STATUS_CAPABILITIES;
	return at;
}

static void write_byte(struct pci_function *f, unsigned at, uint8_t value)
{
	uint8_t mask = f->writable[at];

	value = (uint8_t)((f->config[at] & ~mask) | (value & mask));
	__atomic_store_n(&f->config[at], value, __ATOMIC_RELEASE);
}

bool pci_is_master(const struct pci_function *f)
{
	return __atomic_load_n(&f->config[COMMAND], __ATOMIC_ACQUIRE) & COMMAND_MASTER;
}

static void config_write(
	struct pci_function *f, unsigned at, unsigned bytes, uint64_t value)
{
	pthread_mutex_lock(&f->lock);
	for (unsigned i = 0; i < bytes && at + i < PCI_CONFIG_BYTES; i++)
		write_byte(f, at + i, (uint8_t)(value >> 8 * i));
	if (f->vectors)
		send_pending(f);
	pthread_mutex_unlock(&f->lock);
	if (at < COMMAND + 2 && at + bytes > COMMAND)
		mask_pin(f);
	map_bars(f);
}

static uint8_t read_byte(const struct pci_function *f, unsigned at)
{
	if (at >= PCI_CONFIG_BYTES)
		return 0xff;
	if (at == STATUS && __atomic_load_n(&f->intx, __ATOMIC_ACQUIRE))
		return f->config[at] | STATUS_INTERRUPT;
	return f->config[at];
}

static uint64_t config_read(const struct pci_function *f, unsigned at, unsigned bytes)
{
	uint64_t value = 0;

	for (unsigned i = 0; i < bytes; i++)
		value |= (uint64_t)read_byte(f, at + i) << 8 * i;
	return value;
}

/* ---- windows --------------------------------------------------------------------- */

void pci_set_window(struct pci_function *f, unsigned capability)
{
	f->window = capability;
	f->writable[capability + WINDOW_BAR] = 0xff;
	memset(f->writable + capability + WINDOW_OFFSET, 0xff,
		WINDOW_BYTES - WINDOW_OFFSET);
}

static void close_window(struct pci_function *f)
{
	for (unsigned i = WINDOW_BAR; f->window && i < WINDOW_BYTES; i++)
		f->config[f->window + i] &= (uint8_t)~f->writable[f->window + i];
}

struct look {
	struct pci_function *f;
	const struct pci_bar *bar;
	uint32_t offset, bytes;
	uint32_t data; /* as it was written */
};

/* Whether an access to configuration space is one through a window that is open. The lock is
 * held. */
static bool looks_through(
	struct pci_function *f, unsigned at, unsigned bytes, struct look *l)
{
	const uint8_t *w;
	unsigned bar;

	if (!f || !f->window ||
		!ranges_overlap(at, bytes, f->window + WINDOW_DATA, sizeof(l->data)))
		return false;
	w = f->config + f->window;
	bar = w[WINDOW_BAR];
	*l = (struct look){.f = f,
		.offset = le32_load(w + WINDOW_OFFSET),
		.bytes = le32_load(w + WINDOW_LENGTH),
		.data = le32_load(w + WINDOW_DATA)};
	if (bar >= PCI_BARS || (l->bytes != 1 && l->bytes != 2 && l->bytes != 4) ||
		l->offset % l->bytes ||
		!range_inside(l->offset, l->bytes, f->bar[bar].bytes))
		return false;
	l->bar = &f->bar[bar];
	return true;
}

static uint32_t cut(const struct look *l, uint64_t value)
{
	return (uint32_t)(value & (((uint64_t)1 << 8 * l->bytes) - 1));
}

/* ---- the ports ------------------------------------------------------------------- */

/* The function and register that the address names. The lock is held. */
static struct pci_function *addressed(const struct pci *pci, unsigned *at)
{
	uint32_t a = pci->address;

	*at = a & 0xfc;
	if (!(a & ENABLED) || (a >> 16 & 0xff))
		return NULL;
	return pci->function[a >> 11 & (PCI_SLOTS - 1)][a >> 8 & (PCI_FUNCTIONS - 1)];
}

/* What is to be read through a window comes into it first. Accesses to BARs are made without the
 * lock: they may take long, and no function goes while a vCPU is here. */
static void fill_window(struct pci *pci, unsigned offset, unsigned bytes)
{
	struct pci_function *f;
	struct look l;
	uint64_t data;
	unsigned at;
	bool there;

	pthread_mutex_lock(&pci->lock);
	f = addressed(pci, &at);
	there = looks_through(f, at + offset, bytes, &l);
	pthread_mutex_unlock(&pci->lock);
	if (!there)
		return;
	data = l.bar->ops->read(l.bar->dev, l.offset, l.bytes);
	pthread_mutex_lock(&pci->lock);
	le32_store(l.f->config + l.f->window + WINDOW_DATA, cut(&l, data));
	pthread_mutex_unlock(&pci->lock);
}

static uint64_t port_read(void *dev, uint64_t offset, unsigned bytes)
{
	struct pci *pci = dev;
	struct pci_function *f;
	uint64_t value = UINT64_MAX;
	unsigned at;

	if (offset >= 4)
		fill_window(pci, (unsigned)offset - 4, bytes);
	pthread_mutex_lock(&pci->lock);
	f = addressed(pci, &at);
	if (offset == RESET_AT && bytes == 1)
		value = pci->reset_control;
	else if (offset < 4)
		value = pci->address >> 8 * offset;
	else if (f)
		value = config_read(f, at + (unsigned)offset - 4, bytes);
	pthread_mutex_unlock(&pci->lock);
	return value;
}

static void port_write(void *dev, uint64_t offset, unsigned bytes, uint64_t value)
{
	struct pci *pci = dev;
	struct pci_function *f;
	bool was_master, through = false;
	struct look l;
	unsigned at;

	pthread_mutex_lock(&pci->lock);
	f = addressed(pci, &at);
	was_master = f && pci_is_master(f);
	if (offset == 0 && bytes == 4)
		pci->address = (uint32_t)value;
	else if (offset == RESET_AT && bytes == 1)
		pci->reset_control = value & 0x0e;
	else if (offset >= 4 && f)
		config_write(f, at + (unsigned)offset - 4, bytes, value);
	if (offset >= 4)
		through = looks_through(f, at + (unsigned)offset - 4, bytes, &l);
	pthread_mutex_unlock(&pci->lock);
	/* A function goes only while no vCPU runs. */
	if (f && f->mastered && pci_is_master(f) != was_master)
		f->mastered(f);
	if (through)
		l.bar->ops->write(l.bar->dev, l.offset, l.bytes, cut(&l, l.data));
	if (offset == RESET_AT && bytes == 1 && (value & 4))
		vm_ask(pci->vm, VM_RESET);
}

static const struct bus_ops port_bus = {port_read, port_write};

/* ---- slots ----------------------------------------------------------------------- */

/* As firmware does: one after the other, each on a multiple of its size. */
static void place_bars(struct pci *pci, struct pci_function *f)
{
	for (unsigned i = 0; i < PCI_BARS; i++) {
		uint32_t bytes = f->bar[i].bytes;

		if (!bytes)
			continue;
		pci->next_base = (uint32_t)round_up(pci->next_base, bytes);
		le32_store(f->config + BAR0 + 4 * i, pci->next_base);
		pci->next_base += bytes;
	}
	f->config[LINE] = (uint8_t)pci_gsi(f->slot, 0);
}

/* The lock is held. */
static void put(struct pci *pci, struct pci_function *f, unsigned slot, unsigned function)
{
	pthread_mutex_lock(&pci->pin_lock);
	pci->function[slot][function] = f;
	pthread_mutex_unlock(&pci->pin_lock);
	f->pci = pci;
	f->slot = slot;
	f->function = function;
	if (function)
		pci->function[slot][0]->config[HEADER] |= HEADER_MULTI;
	place_bars(pci, f);
}

int pci_add(struct pci *pci, struct pci_function *f, int slot, struct err *err)
{
	unsigned i = slot >= 0 ? (unsigned)slot : 1;

	pthread_mutex_lock(&pci->lock);
	while (slot < 0 && i < PCI_SLOTS && pci->function[i][0])
		i++;
	if (i < PCI_SLOTS && !pci->function[i][0])
		put(pci, f, i, 0);
	pthread_mutex_unlock(&pci->lock);
	return f->pci ? 0 : err_set(err, ENOSPC, "no PCI slot is free");
}

int pci_add_function(struct pci *pci, struct pci_function *f, unsigned slot,
	unsigned function, struct err *err)
{
	pthread_mutex_lock(&pci->lock);
	if (pci->function[slot][0] && !pci->function[slot][function])
		put(pci, f, slot, function);
	pthread_mutex_unlock(&pci->lock);
	return f->pci ? 0
		      : err_set(err, EEXIST, "PCI slot %u has function %u, or no first",
				slot, function);
}

void pci_remove(struct pci_function *f)
{
	struct pci *pci = f->pci;

	if (pci) {
		pthread_mutex_lock(&pci->lock);
		pthread_mutex_lock(&pci->pin_lock);
		pci->function[f->slot][f->function] = NULL;
		if (f->intx)
			set_line(pci, f);
		pthread_mutex_unlock(&pci->pin_lock);
		pthread_mutex_unlock(&pci->lock);
		for (unsigned i = 0; i < PCI_BARS; i++)
			unmap_bar(f, &f->bar[i]);
	}
	pthread_mutex_destroy(&f->lock);
}

bool pci_look(struct pci *pci, unsigned slot, unsigned function, struct pci_facts *out)
{
	const struct pci_function *f;

	pthread_mutex_lock(&pci->lock);
	f = pci->function[slot][function];
	if (f) {
		*out = (struct pci_facts){.line = f->config[LINE]};
		out->id = (struct pci_identity){.vendor = le16_load(f->config),
			.device = le16_load(f->config + 2),
			.subsystem_vendor = le16_load(f->config + SUBSYSTEM),
			.subsystem = le16_load(f->config + SUBSYSTEM + 2),
			.class_code = le32_load(f->config + REVISION) >> 8,
			.revision = f->config[REVISION],
			.interrupts = f->config[PIN] != 0};
		for (unsigned i = 0; i < PCI_BARS; i++) {
			out->bar[i].base = f->bar[i].mapped;
			out->bar[i].bytes = f->bar[i].bytes;
		}
	}
	pthread_mutex_unlock(&pci->lock);
	return f != NULL;
}

void pci_function_reset(struct pci_function *f)
{
	pthread_mutex_lock(&f->lock);
	le16_store(f->config + COMMAND, 0);
	close_window(f);
	if (f->vectors)
		f->config[f->msix_capability + 3] &=
			(uint8_t) ~(MSIX_ENABLE | MSIX_MASK_ALL);
	for (unsigned i = 0; i < f->vectors; i++)
		f->vector[i] = (struct pci_vector){.control = VECTOR_MASKED};
	memset(f->pending, 0, sizeof(f->pending));
	pthread_mutex_unlock(&f->lock);
	pci_set_intx(f, false);
	map_bars(f);
}

/* A window came later than states that do not have it: it is there from now on, and closed. */
static void add_window(const struct pci_function *f, uint8_t *saved)
{
	unsigned link = CAPABILITIES;

	while (f->config[link] != f->window)
		link = f->config[link] + 1u;
	if (saved[link])
		return;
	saved[link] = (uint8_t)f->window;
	memcpy(saved + f->window, f->config + f->window, WINDOW_BYTES);
}

/* The two states of a bit that the guest cannot change make it another device. */
static void load_config(struct pci_function *f, struct state *s, const uint8_t *saved)
{
	for (unsigned i = 0; i < PCI_CONFIG_BYTES; i++) {
		if (!state_check(s, !((f->config[i] ^ saved[i]) & ~f->writable[i]),
			    "it was another PCI device"))
			return;
		f->config[i] = saved[i];
	}
}

static void vector_state(struct pci_vector *v, struct state *s)
{
	state_u64(s, &v->address);
	state_u32(s, &v->data);
	state_u32(s, &v->control);
	v->control &= VECTOR_MASKED;
}

void pci_function_state(struct pci_function *f, struct state *s)
{
	uint8_t config[PCI_CONFIG_BYTES];
	bool intx = f->intx;

	memcpy(config, f->config, sizeof(config));
	state_bytes(s, config, sizeof(config));
	for (unsigned i = 0; i < f->vectors; i++)
		vector_state(&f->vector[i], s);
	state_bytes(s, f->pending, sizeof(f->pending));
	state_bool(s, &intx);
	if (!state_loading(s) || state_ret(s, NULL))
		return;
	if (f->window)
		add_window(f, config);
	load_config(f, s, config);
	map_bars(f);
	pci_set_intx(f, intx);
}

/* ---- the host bridge ------------------------------------------------------------- */

static void pci_reset(struct device *d)
{
	struct pci *pci = (struct pci *)d;

	pci->address = 0;
	pci->reset_control = 0;
}

static void pci_state(struct device *d, struct state *s, unsigned version)
{
	struct pci *pci = (struct pci *)d;

	(void)version;
	state_u32(s, &pci->address);
	state_u8(s, &pci->reset_control);
	pci_function_state(&pci->bridge, s);
}

static void pci_free(struct device *d)
{
	struct pci *pci = (struct pci *)d;

	pthread_mutex_destroy(&pci->bridge.lock);
	pthread_mutex_destroy(&pci->pin_lock);
	pthread_mutex_destroy(&pci->lock);
	free(pci);
}

static const struct device_ops pci_ops = {
	.name = "pci",
	.reset = pci_reset,
	.version = 1,
	.state = pci_state,
	.free = pci_free,
};

int pci_new(struct vm *vm, struct pci **out, struct err *err)
{
	static const struct pci_identity i440fx = {.vendor = 0x8086,
		.device = 0x1237,
		.class_code = 0x060000,
		.revision = 2,
		.subsystem_vendor = 0x1af4,
		.subsystem = 0x1100};
	struct pci *pci = calloc(1, sizeof(*pci));
	int ret;

	if (!pci)
		return err_errno(err, ENOMEM, "pci");
	pci->device.ops = &pci_ops;
	pci->vm = vm;
	pci->next_base = pci_window_start(vm);
	pthread_mutex_init(&pci->lock, NULL);
	pthread_mutex_init(&pci->pin_lock, NULL);
	pci_function_init(&pci->bridge, vm, &i440fx);
	ret = bus_add(&vm->pio, PORT, 8, &port_bus, pci);
	if (ret) {
		pci_free(&pci->device);
		return err_errno(err, -ret, "pci");
	}
	vm_add_device(vm, &pci->device);
	*out = pci;
	return pci_add(pci, &pci->bridge, 0, err);
}
