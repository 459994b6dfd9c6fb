/* SPDX-License-Identifier: BSD-2-Clause */
/* AHCI controllers: registers, command lists, life. See ahci_impl.h. */
#include "vmm/ahci_impl.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/endian.h"
#include "base/iov.h"
#include "base/log.h"
#include "base/math.h"

#define BAR       5
#define BAR_BYTES 4096

/* The controller's registers (3.1). */
enum {
	AT_CAP = 0x00,
	AT_GHC = 0x04,
	AT_IS = 0x08,
	AT_PI = 0x0c,
	AT_VS = 0x10,
	AT_PORTS = 0x100,
	PORT_BYTES = 0x80,
};
/* Ports; 32 slots; AHCI only; 6 Gbit/s; CLO; queued commands; 64 bits. */
#define CAP                                                                              \
	((AHCI_PORTS - 1) | (AHCI_SLOTS - 1) << 8 | 1u << 18 | 3u << 20 | 1u << 24 |     \
		1u << 30 | 1u << 31)
#define VERSION    0x00010301u
#define GHC_RESET  1u
#define GHC_IE     2u
#define GHC_ENABLE 0x80000000u

/* A port's (3.3). */
enum {
	PX_CLB = 0x00,
	PX_CLBU = 0x04,
	PX_FB = 0x08,
	PX_FBU = 0x0c,
	PX_IS = 0x10,
	PX_IE = 0x14,
	PX_CMD = 0x18,
	PX_TFD = 0x20,
	PX_SIG = 0x24,
	PX_SSTS = 0x28,
	PX_SCTL = 0x2c,
	PX_SERR = 0x30,
	PX_SACT = 0x34,
	PX_CI = 0x38,
};
#define IS_D2H        (1u << 0)
#define IS_PIO        (1u << 1)
#define IS_BITS       (1u << 3) /* "set device bits" */
#define IS_CONNECTED  (1u << 6)
#define IS_OVERFLOW   (1u << 24)
#define IS_BUS_FATAL  (1u << 29)
#define IS_TASK_ERROR (1u << 30)
#define IS_KNOWN      0xfd8000ffu
#define CMD_START     (1u << 0)
#define CMD_POWERED   (3u << 1)
#define CMD_CLO       (1u << 3)
#define CMD_FIS       (1u << 4)
#define CMD_FIS_RUNS  (1u << 14)
#define CMD_RUNS      (1u << 15)
#define CMD_ATAPI     (1u << 24)
#define CMD_WRITABLE  0x0a000011u /* ST, FRE, LED, ASP */
#define CMD_SLOT      0x00001f00u
#define SERR_NEW      (1u << 26) /* another device */
#define LINK_UP       0x133      /* a device, 6 Gbit/s, active */
#define LIST_BYTES    1024
#define FIS_BYTES     256

/* FISes (SATA 3.2, 10.5), and where they are received (4.2.1). */
enum { FIS_COMMAND = 0x27, FIS_D2H = 0x34, FIS_PIO = 0x5f, FIS_BITS = 0xa1 };
enum { AT_FIS_PIO = 0x20, AT_FIS_D2H = 0x40, AT_FIS_BITS = 0x58 };
#define FIS_INTERRUPT 0x40
#define FIS_TO_HOST   0x20
#define FIS_IS_CMD    0x80
#define CONTROL_RESET 0x04

/* A command's header and table (4.2.2, 4.2.3). */
#define HEADER_BYTES 32
#define HEADER_ATAPI (1u << 5)
#define TABLE_PACKET 0x40
#define TABLE_PRDT   0x80
#define PRD_BYTES    16
#define PRD_MOST     0x3fffffu

#define NAP_NS 1000000u

static uint64_t list_header(const struct ahci_port *p, unsigned slot)
{
	return p->list + slot * HEADER_BYTES;
}

/* ---- interrupts; the lock is held for all that follow, but where it is said -------- */

static void update_pin(struct ahci *a)
{
	for (unsigned i = 0; i < AHCI_PORTS; i++)
		if (a->port[i].is & a->port[i].ie)
			a->is |= 1u << i;
	pci_set_intx(&a->pci, a->is && (a->ghc & GHC_IE));
}

/* ---- what the device sends ------------------------------------------------------- */

static void receive_fis(struct ahci_port *p, unsigned at, const void *fis, size_t bytes)
{
	uint8_t *to = memory_at(&p->a->vm->memory, p->fis, FIS_BYTES);

	if (to && (p->cmd & CMD_FIS))
		memcpy(to + at, fis, bytes);
}

static void set_task_file(struct ahci_port *p, uint8_t status, uint8_t error)
{
	p->tfd = (uint32_t)error << 8 | status;
}

/* The registers are where they are in a command's. */
static void send_d2h(struct ahci_port *p, const uint8_t *registers, uint8_t status,
	uint8_t error, bool interrupts)
{
	uint8_t fis[AHCI_FIS] = {FIS_D2H, interrupts ? FIS_INTERRUPT : 0, status, error};

	memcpy(fis + 4, registers + 4, 10);
	fis[11] = 0;
	set_task_file(p, status, error);
	receive_fis(p, AT_FIS_D2H, fis, sizeof(fis));
	if (interrupts)
		p->is |= IS_D2H;
}

/* Data came; its last words are what the status is after it. */
static void send_pio(struct ahci_port *p, const struct ahci_command *c)
{
	uint8_t fis[AHCI_FIS] = {
		FIS_PIO, FIS_INTERRUPT | FIS_TO_HOST, c->status | ATA_DATA, c->error};

	memcpy(fis + 4, c->answer + 4, 10);
	fis[11] = 0;
	fis[15] = c->status;
	le16_store(fis + 16, (uint16_t)c->moved);
	set_task_file(p, c->status, c->error);
	receive_fis(p, AT_FIS_PIO, fis, sizeof(fis));
	p->is |= IS_PIO;
}

/* Of queued commands that ended. */
static void send_bits(struct ahci_port *p, uint32_t done, uint8_t status, uint8_t error)
{
	uint8_t fis[8] = {FIS_BITS, FIS_INTERRUPT, status & 0x77, error};

	le32_store(fis + 4, done);
	p->sact &= ~done;
	p->tfd = (uint32_t)error << 8 | (p->tfd & 0x88) | (status & 0x77);
	receive_fis(p, AT_FIS_BITS, fis, sizeof(fis));
	p->is |= IS_BITS;
}

/* Who it is, after a reset. */
static void send_signature(struct ahci_port *p)
{
	uint8_t registers[AHCI_FIS] = {[4] = 1, [12] = 1};

	if (p->cdrom) {
		registers[5] = 0x14;
		registers[6] = 0xeb;
	}
	p->sig = p->cdrom ? 0xeb140101 : 0x00000101;
	send_d2h(p, registers, p->cdrom ? 0 : ATA_READY, 1, false);
}

/* ---- data ------------------------------------------------------------------------ */

static uint64_t prd_bytes(const uint8_t *prd)
{
	return (uint64_t)(le32_load(prd + 12) & PRD_MOST) + 1;
}

uint64_t ahci_room(const struct ahci_command *c)
{
	uint64_t bytes = 0;

	for (unsigned i = 0; i < c->entries; i++)
		bytes += prd_bytes(c->prdt + (size_t)i * PRD_BYTES);
	return bytes;
}

/* What follows on the last one becomes part of it. */
static int add_segment(struct ahci_command *c, uint64_t address, uint64_t bytes)
{
	uint8_t *host = memory_at(&c->p->a->vm->memory, address, bytes);
	struct iovec *last = c->niov ? &c->iov[c->niov - 1] : NULL;

	if (!host)
		return -EFAULT;
	if (last && (uint8_t *)last->iov_base + last->iov_len == host)
		last->iov_len += bytes;
	else if (c->niov == AHCI_SEGMENTS)
		return -EOVERFLOW;
	else
		c->iov[c->niov++] = (struct iovec){host, bytes};
	return 0;
}

int ahci_map(struct ahci_command *c, uint64_t bytes)
{
	int ret = 0;

	c->niov = 0;
	for (unsigned i = 0; i < c->entries && bytes && ret == 0; i++) {
		uint8_t prd[PRD_BYTES]; /* it is read once */
		uint64_t n;

		memcpy(prd, c->prdt + (size_t)i * PRD_BYTES, sizeof(prd));
		n = MIN(prd_bytes(prd), bytes);
		ret = add_segment(c, le64_load(prd), n);
		bytes -= n;
	}
	return ret ? ret : bytes ? -EOVERFLOW : 0;
}

int ahci_give(struct ahci_command *c, const void *data, uint64_t bytes, uint64_t most)
{
	uint64_t n = MIN(bytes, most);
	int ret;

	n = MIN(n, ahci_room(c));
	ret = ahci_map(c, n);
	if (ret)
		return ret;
	iov_from_buf(c->iov, c->niov, 0, data, n);
	c->moved = n;
	return 0;
}

/* ---- commands -------------------------------------------------------------------- */

static uint32_t link_status(const struct ahci_port *p)
{
	unsigned wanted = p->sctl & 0xf;

	if (!p->disk || wanted == 1)
		return 0;
	return wanted == 4 ? 4 : LINK_UP;
}

static bool may_begin(const struct ahci_port *p)
{
	return link_status(p) == LINK_UP && (p->cmd & CMD_START) && !p->failed;
}

/* Its slot is free in the same moment in which registers say so. */
static void ended(struct ahci_port *p, unsigned slot)
{
	p->under_way &= ~(1u << slot);
	if (!p->under_way)
		pthread_cond_broadcast(&p->idle);
	update_pin(p->a);
}

/* Nothing more is begun until the guest clears ST. */
static void fail_port(struct ahci_port *p, uint32_t bits)
{
	p->failed = true;
	p->is |= bits;
}

/* Out of memory that is the guest's: its list or tables are nowhere. */
static void fail_bus(struct ahci_port *p)
{
	log_bounded(&p->a->vm->said, LOG_LEVEL_WARNING,
		"ahci in slot %u: port %u: a command does not lie in memory",
		p->a->pci.slot, p->index);
	fail_port(p, IS_BUS_FATAL);
}

static void end_well(struct ahci_command *c)
{
	struct ahci_port *p = c->p;
	uint32_t bit = 1u << c->slot;

	le32_store(c->header + 4, (uint32_t)c->moved);
	if (c->queued) {
		send_bits(p, bit, c->status, 0);
		return;
	}
	if (c->pio_in)
		send_pio(p, c);
	if (!c->pio_in || c->fis[2] == ATA_PACKET) /* else that was the end */
		send_d2h(p, c->answer, c->status, 0, true);
	p->ci &= ~bit;
}

static void note_queue_error(struct ahci_command *c)
{
	uint8_t *log = c->p->queue_error;

	memset(log, 0, sizeof(c->p->queue_error));
	log[0] = (uint8_t)c->slot;
	log[2] = c->status;
	log[3] = c->error;
	memcpy(log + 4, c->answer + 4, 10);
	log[11] = 0;
}

/* Its slot's bit stays, by which the guest sees which one it was. */
static void end_badly(struct ahci_command *c, int ret)
{
	struct ahci_port *p = c->p;

	if (ret == -EFAULT) {
		fail_bus(p);
		return;
	}
	if (ret == -EOVERFLOW)
		p->is |= IS_OVERFLOW;
	if (c->queued) {
		note_queue_error(c);
		send_bits(p, 0, c->status, c->error);
	} else {
		send_d2h(p, c->answer, c->status, c->error, true);
	}
	fail_port(p, IS_TASK_ERROR);
}

/* Takes the lock, and the command. What another's error has ended is not told any more. */
static void finish(struct ahci_command *c, int ret)
{
	struct ahci_port *p = c->p;

	pthread_mutex_lock(&p->a->lock);
	if (ret == -ECANCELED)
		p->held |= 1u << c->slot;
	else if (!p->failed && ret == 0)
		end_well(c);
	else if (!p->failed)
		end_badly(c, ret);
	ended(p, c->slot);
	pthread_mutex_unlock(&p->a->lock);
	free(c);
}

static void do_command(void *arg)
{
	struct ahci_command *c = arg;

	finish(c, c->p->cdrom ? atapi_command(c) : ata_command(c));
}

/* What a reset ends is waited for, and not told. On the lane, whose tasks those are, so that none
 * begins meanwhile, and it must not block. The lock is held, and given up meanwhile. */
static void end_others(struct ahci_port *p, unsigned slot)
{
	bool failed = p->failed;

	p->failed = true; /* finish() tells nothing then */
	while (p->under_way & ~(1u << slot)) {
		pthread_mutex_unlock(&p->a->lock);
		task_sleep_ns(NAP_NS);
		pthread_mutex_lock(&p->a->lock);
	}
	p->failed = failed;
	/* Nor are they made again; those from before a stop were taken over, and out of CI. */
	p->held = 0;
	p->todo &= p->ci;
}

/* A control FIS: SRST set begins a reset, cleared ends it (ATA8-AST). */
static void control(struct ahci_command *c)
{
	struct ahci_port *p = c->p;
	bool reset = c->fis[15] & CONTROL_RESET;

	pthread_mutex_lock(&p->a->lock);
	if (reset && !p->resetting)
		end_others(p, c->slot);
	p->ci &= ~(1u << c->slot); /* the guest sees only now that it is done */
	if (p->resetting && !reset) {
		ata_reset(p);
		send_signature(p);
	}
	p->resetting = reset;
	ended(p, c->slot);
	pthread_mutex_unlock(&p->a->lock);
	free(c);
}

/* ---- the command list ------------------------------------------------------------ */

/* The slot to begin next, which is then under way. Without the lock. */
static bool next_slot(struct ahci_port *p, unsigned *slot)
{
	bool there;

	pthread_mutex_lock(&p->a->lock);
	there = may_begin(p) && p->todo;
	if (there) {
		*slot = (unsigned)__builtin_ctz(p->todo);
		p->todo &= p->todo - 1;
		p->under_way |= 1u << *slot;
		p->cmd = (p->cmd & ~CMD_SLOT) | *slot << 8;
	}
	pthread_mutex_unlock(&p->a->lock);
	return there;
}

/* Its header, FIS and packet are copied before they are looked at; its data is mapped when
 * it is known how much there is to be. */
static int fetch(struct ahci_command *c)
{
	const struct memory *m = &c->p->a->vm->memory;
	uint8_t *table;
	uint32_t flags;

	c->header = memory_at(m, list_header(c->p, c->slot), HEADER_BYTES);
	if (!c->header)
		return -EFAULT;
	flags = le32_load(c->header);
	c->entries = flags >> 16;
	table = memory_at(m, le64_load(c->header + 8) & ~(uint64_t)0x7f,
		TABLE_PRDT + (uint64_t)c->entries * PRD_BYTES);
	if (!table)
		return -EFAULT;
	memcpy(c->fis, table, sizeof(c->fis));
	memcpy(c->packet, table + TABLE_PACKET, sizeof(c->packet));
	c->prdt = table + TABLE_PRDT;
	c->status = ATA_READY;
	memcpy(c->answer, c->fis, sizeof(c->answer));
	return 0;
}

/* A queued command is taken over at once, and done when it is done; another keeps the
 * device busy. */
static void accept(struct ahci_command *c)
{
	struct ahci_port *p = c->p;
	uint32_t bit = 1u << c->slot;

	pthread_mutex_lock(&p->a->lock);
	if (c->queued) {
		p->ci &= ~bit;
		p->sact |= bit;
		send_d2h(p, c->answer, ATA_READY, 0, false);
	} else {
		set_task_file(p, ATA_READY | ATA_BUSY, 0);
	}
	pthread_mutex_unlock(&p->a->lock);
}

static void begin(struct ahci_command *c)
{
	if (fetch(c) || c->fis[0] != FIS_COMMAND) {
		finish(c, -EFAULT);
		return;
	}
	if (!(c->fis[1] & FIS_IS_CMD)) {
		control(c);
		return;
	}
	c->queued = !c->p->cdrom && ata_is_queued(c);
	accept(c);
	if (!c->queued || task_spawn(NULL, do_command, c))
		do_command(c);
}

static void serve_port(void *arg)
{
	struct ahci_port *p = arg;
	struct ahci_command *c;
	unsigned slot;

	while (!lane_stopping(&p->lane) && next_slot(p, &slot)) {
		c = calloc(1, sizeof(*c));
		if (!c) {
			pthread_mutex_lock(&p->a->lock);
			fail_port(p, IS_BUS_FATAL);
			ended(p, slot);
			pthread_mutex_unlock(&p->a->lock);
			return;
		}
		c->p = p;
		c->slot = slot;
		begin(c);
	}
}

/* Until nothing is under way. It gives the lock up meanwhile. */
static void drain(struct ahci_port *p)
{
	while (p->under_way)
		pthread_cond_wait(&p->idle, &p->a->lock);
}

static void stop_list(struct ahci_port *p)
{
	p->cmd &= ~CMD_START;
	drain(p);
	p->cmd &= ~(CMD_START | CMD_SLOT);
	p->ci = p->sact = p->todo = p->held = 0;
	p->failed = false;
	if (p->disk)
		p->tfd &= ~(uint32_t)ATA_BUSY;
}

static void start_list(struct ahci_port *p)
{
	if (!memory_at(&p->a->vm->memory, p->list, LIST_BYTES)) {
		fail_bus(p);
		update_pin(p->a);
	}
	p->cmd |= CMD_START;
	lane_ring(&p->lane);
}

/* ---- resets ---------------------------------------------------------------------- */

/* The device after COMRESET, or power-on. */
static void reset_device(struct ahci_port *p)
{
	p->resetting = false;
	if (!p->preserves)
		ata_default_settings(p);
	ata_reset(p);
	if (p->disk) {
		send_signature(p);
		p->serr |= SERR_NEW;
		p->is |= IS_CONNECTED;
	} else {
		p->sig = UINT32_MAX;
		p->tfd = 0x7f;
	}
}

static void reset_port(struct ahci_port *p)
{
	stop_list(p);
	p->is = p->ie = p->sctl = p->serr = 0;
	p->cmd = 0;
	reset_device(p);
}

/* Of the controller (10.4.3); where lists and FISes lie stays. */
static void reset_all(struct ahci *a)
{
	a->ghc = GHC_ENABLE;
	for (unsigned i = 0; i < AHCI_PORTS; i++)
		reset_port(&a->port[i]);
	a->is = 0;
	update_pin(a);
}

/* ---- registers of a port --------------------------------------------------------- */

static uint32_t port_read(const struct ahci_port *p, unsigned reg)
{
	switch (reg) {
	case PX_CLB:
		return (uint32_t)p->list;
	case PX_CLBU:
		return (uint32_t)(p->list >> 32);
	case PX_FB:
		return (uint32_t)p->fis;
	case PX_FBU:
		return (uint32_t)(p->fis >> 32);
	case PX_IS:
		return p->is;
	case PX_IE:
		return p->ie;
	case PX_CMD:
		return p->cmd | CMD_POWERED | (p->cmd & CMD_START ? CMD_RUNS : 0) |
		       (p->cmd & CMD_FIS ? CMD_FIS_RUNS : 0) | (p->cdrom ? CMD_ATAPI : 0);
	case PX_TFD:
		return p->tfd;
	case PX_SIG:
		return p->sig;
	case PX_SSTS:
		return link_status(p);
	case PX_SCTL:
		return p->sctl;
	case PX_SERR:
		return p->serr;
	case PX_SACT:
		return p->sact;
	case PX_CI:
		return p->ci;
	default:
		return 0;
	}
}

static void set_half(uint64_t *field, bool upper, uint32_t value)
{
	if (upper)
		*field = (uint32_t)*field | (uint64_t)value << 32;
	else
		*field = (*field & ~(uint64_t)UINT32_MAX) | value;
}

static void write_cmd(struct ahci_port *p, uint32_t value)
{
	bool runs = p->cmd & CMD_START;

	p->cmd = (value & CMD_WRITABLE & ~CMD_START) | (p->cmd & (CMD_SLOT | CMD_START));
	if ((value & CMD_CLO) && p->disk)
		p->tfd &= ~(uint32_t)(ATA_BUSY | ATA_DATA);
	if (runs && !(value & CMD_START))
		stop_list(p);
	else if (!runs && (value & CMD_START))
		start_list(p);
}

/* COMRESET is there as long as it is asked for (3.3.11). */
static void write_sctl(struct ahci_port *p, uint32_t value)
{
	bool was = (p->sctl & 0xf) == 1, is = (value & 0xf) == 1;

	p->sctl = value & 0xfff;
	if (is && !was && p->disk) {
		p->failed = true;
		drain(p);
		p->ci = p->sact = p->todo = p->held = 0;
		p->tfd = 0x7f;
	} else if (was && !is && p->disk) {
		p->failed = false;
		reset_device(p);
	}
	if (may_begin(p))
		lane_ring(&p->lane);
}

static void issue(struct ahci_port *p, uint32_t slots)
{
	uint32_t fresh = slots & ~(p->ci | p->under_way);

	if (!(p->cmd & CMD_START))
		return;
	p->ci |= fresh;
	p->todo |= fresh;
	lane_ring(&p->lane);
}

static void port_write(struct ahci_port *p, unsigned reg, uint32_t value)
{
	switch (reg) {
	case PX_CLB:
	case PX_CLBU:
		if (!(p->cmd & CMD_START))
			set_half(&p->list, reg == PX_CLBU,
				reg == PX_CLB ? value & ~1023u : value);
		break;
	case PX_FB:
	case PX_FBU:
		if (!(p->cmd & CMD_FIS))
			set_half(&p->fis, reg == PX_FBU,
				reg == PX_FB ? value & ~255u : value);
		break;
	case PX_IS:
		p->is &= ~value | (p->serr & SERR_NEW ? IS_CONNECTED : 0);
		break;
	case PX_IE:
		p->ie = value & IS_KNOWN;
		break;
	case PX_CMD:
		write_cmd(p, value);
		break;
	case PX_SCTL:
		write_sctl(p, value);
		break;
	case PX_SERR:
		p->serr &= ~value;
		if (!(p->serr & SERR_NEW))
			p->is &= ~IS_CONNECTED;
		break;
	case PX_SACT:
		if (p->cmd & CMD_START)
			p->sact |= value;
		break;
	case PX_CI:
		issue(p, value);
		break;
	default:
		break;
	}
}

/* ---- the BAR --------------------------------------------------------------------- */

static uint32_t read_register(struct ahci *a, uint64_t offset)
{
	uint64_t port = (offset - AT_PORTS) / PORT_BYTES;

	if (offset >= AT_PORTS)
		return port < AHCI_PORTS ? port_read(&a->port[port],
						   (unsigned)(offset % PORT_BYTES))
					 : 0;
	switch (offset) {
	case AT_CAP:
		return CAP;
	case AT_GHC:
		return a->ghc;
	case AT_IS:
		return a->is;
	case AT_PI:
		return (1u << AHCI_PORTS) - 1;
	case AT_VS:
		return VERSION;
	default:
		return 0;
	}
}

static void write_register(struct ahci *a, uint64_t offset, uint32_t value)
{
	uint64_t port = (offset - AT_PORTS) / PORT_BYTES;

	if (offset >= AT_PORTS && port < AHCI_PORTS)
		port_write(&a->port[port], (unsigned)(offset % PORT_BYTES), value);
	else if (offset == AT_GHC && (value & GHC_RESET))
		reset_all(a);
	else if (offset == AT_GHC)
		a->ghc = GHC_ENABLE | (value & GHC_IE);
	else if (offset == AT_IS)
		a->is &= ~value;
	update_pin(a);
}

static uint64_t bar_read(void *dev, uint64_t offset, unsigned bytes)
{
	struct ahci *a = dev;
	uint64_t value;

	if (bytes < 4 || offset % bytes)
		return 0;
	pthread_mutex_lock(&a->lock);
	value = read_register(a, offset);
	if (bytes == 8)
		value |= (uint64_t)read_register(a, offset + 4) << 32;
	pthread_mutex_unlock(&a->lock);
	return value;
}

static void bar_write(void *dev, uint64_t offset, unsigned bytes, uint64_t value)
{
	struct ahci *a = dev;

	if (bytes < 4 || offset % bytes)
		return;
	pthread_mutex_lock(&a->lock);
	write_register(a, offset, (uint32_t)value);
	if (bytes == 8)
		write_register(a, offset + 4, (uint32_t)(value >> 32));
	pthread_mutex_unlock(&a->lock);
}

static const struct bus_ops bar_bus = {bar_read, bar_write};

/* ---- life; without the lock ------------------------------------------------------ */

static void ahci_reset(struct device *dev)
{
	struct ahci *a = (struct ahci *)dev;

	pthread_mutex_lock(&a->lock);
	for (unsigned i = 0; i < AHCI_PORTS; i++) {
		a->port[i].list = a->port[i].fis = 0;
		ata_default_settings(&a->port[i]);
	}
	reset_all(a);
	pthread_mutex_unlock(&a->lock);
	pci_function_reset(&a->pci);
}

static void ahci_start(struct device *dev)
{
	struct ahci *a = (struct ahci *)dev;
	int ret = 0;

	for (unsigned i = 0; i < AHCI_PORTS && ret == 0; i++) {
		struct ahci_port *p = &a->port[i];

		p->todo |= p->held;
		p->held = 0;
		if (p->disk)
			ret = lane_start(&p->lane);
	}
	if (ret)
		vm_fail(a->vm, "ahci: no thread for a port");
}

static void ahci_stop(struct device *dev)
{
	struct ahci *a = (struct ahci *)dev;

	for (unsigned i = 0; i < AHCI_PORTS; i++)
		lane_stop(&a->port[i].lane);
}

static void free_ports(struct ahci *a)
{
	for (unsigned i = 0; i < AHCI_PORTS; i++) {
		lane_destroy(&a->port[i].lane);
		pthread_cond_destroy(&a->port[i].idle);
	}
	pthread_mutex_destroy(&a->lock);
	free(a);
}

static void ahci_free(struct device *dev)
{
	struct ahci *a = (struct ahci *)dev;

	ahci_stop(dev);
	pci_remove(&a->pci);
	free_ports(a);
}

/* ---- state ----------------------------------------------------------------------- */

static void device_state(struct ahci_port *p, struct state *s)
{
	state_bool(s, &p->write_cache);
	state_bool(s, &p->ejected);
	state_bool(s, &p->locked);
	state_u8(s, &p->multiple);
	state_bytes(s, p->sense, sizeof(p->sense));
	state_bytes(s, p->queue_error, sizeof(p->queue_error));
}

static void port_state(struct ahci_port *p, struct state *s)
{
	uint8_t kind = !p->disk ? 0 : p->cdrom ? 2 : 1, saved = kind;
	uint32_t *fields[] = {&p->is, &p->ie, &p->cmd, &p->tfd, &p->sig, &p->sctl,
		&p->serr, &p->sact, &p->ci, &p->todo, &p->held};

	state_u8(s, &saved);
	state_check(s, saved == kind, "it had another device at a port");
	state_u64(s, &p->list);
	state_u64(s, &p->fis);
	for (size_t i = 0; i < ARRAY_LEN(fields); i++)
		state_u32(s, fields[i]);
	state_bool(s, &p->failed);
	state_bool(s, &p->resetting);
	device_state(p, s);
	ahci_tell_tray(p);
}

static void ahci_state(struct device *dev, struct state *s, unsigned version)
{
	struct ahci *a = (struct ahci *)dev;

	pci_function_state(&a->pci, s);
	state_u32(s, &a->ghc);
	state_u32(s, &a->is);
	for (unsigned i = 0; i < AHCI_PORTS; i++)
		port_state(&a->port[i], s);
	/* Before version 2 that could not be turned off. */
	for (unsigned i = 0; i < AHCI_PORTS && version >= 2; i++)
		state_bool(s, &a->port[i].preserves);
}

static const struct device_ops ahci_ops = {
	.name = "ahci",
	.reset = ahci_reset,
	.start = ahci_start,
	.stop = ahci_stop,
	.version = 2,
	.state = ahci_state,
	.free = ahci_free,
};

/* ---- making one ------------------------------------------------------------------ */

static int init_ports(struct ahci *a)
{
	int ret = 0;

	for (unsigned i = 0; i < AHCI_PORTS; i++) {
		struct ahci_port *p = &a->port[i];
		int one = lane_init(&p->lane, serve_port, p);

		ret = ret ? ret : one;
		p->a = a;
		p->index = i;
		pthread_cond_init(&p->idle, NULL);
	}
	pthread_mutex_init(&a->lock, NULL);
	return ret;
}

int ahci_new(struct vm *vm, struct pci *pci, struct ahci **out, struct err *err)
{
	/* An ICH9's: every system has a driver for it. */
	static const struct pci_identity id = {.vendor = 0x8086,
		.device = 0x2922,
		.subsystem_vendor = 0x1af4,
		.subsystem = 0x1100,
		.class_code = 0x010601,
		.revision = 2,
		.interrupts = true};
	struct ahci *a = calloc(1, sizeof(*a));
	int ret;

	if (!a)
		return err_errno(err, ENOMEM, "ahci");
	a->device.ops = &ahci_ops;
	a->vm = vm;
	ret = init_ports(a);
	pci_function_init(&a->pci, vm, &id);
	pci_set_bar(&a->pci, BAR, BAR_BYTES, &bar_bus, a);
	if (ret)
		err_errno(err, -ret, "ahci");
	else
		ret = pci_add(pci, &a->pci, -1, err);
	if (ret) {
		pci_remove(&a->pci);
		free_ports(a);
		return ret;
	}
	a->device.instance = a->pci.slot;
	vm_add_device(vm, &a->device);
	*out = a;
	return 0;
}

int ahci_attach(struct ahci *a, struct disk *disk, bool cdrom, struct err *err)
{
	unsigned i = 0;

	while (i < AHCI_PORTS && a->port[i].disk)
		i++;
	if (i == AHCI_PORTS)
		return err_set(
			err, ENOSPC, "%s: all %u ports are taken", disk->id, AHCI_PORTS);
	a->port[i].disk = disk;
	a->port[i].cdrom = disk->removable = cdrom;
	disk->iface = "ahci";
	disk->front = a;
	snprintf(disk->boot_path, sizeof(disk->boot_path),
		"/pci@i0cf8/pci8086,2922@%x/drive@%x/disk@0", a->pci.slot, i);
	return 0;
}
