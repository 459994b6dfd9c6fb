/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * NVMe controllers: registers, queues, life. See nvme_impl.h.
 *
 * A doorbell is an exit to us that stores its value and rings the queue's lane. Where the
 * guest has given us doorbells in memory (5.7, as Linux does) KVM rings the lanes of I/O
 * queues itself, and the values are read from there.
 */
#include "vmm/nvme_impl.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <linux/kvm.h>

#include "base/log.h"
#include "base/math.h"

#define BAR      0
#define MSIX_BAR 4

/* Registers (3.1). */
enum {
	AT_CAP = 0x00,
	AT_VS = 0x08,
	AT_INTMS = 0x0c,
	AT_INTMC = 0x10,
	AT_CC = 0x14,
	AT_CSTS = 0x1c,
	AT_AQA = 0x24,
	AT_ASQ = 0x28,
	AT_ACQ = 0x30,
	AT_BELLS = 0x1000,
	BAR_BYTES = 0x2000,
};
#define CAP_CONTIGUOUS (1ull << 16)
#define CAP_TIMEOUT    (60ull << 24) /* half seconds: a reset waits for the storage */
#define CAP_NVM        (1ull << 37)
#define VERSION        0x00010400u

#define CC_ENABLE      1u
#define CC_SETS        0x00003ff0u /* command set, page size, arbitration: all 0 */
#define CC_SHUTDOWN    0x0000c000u
#define CC_ENTRY_SIZES 0x00ff0000u
#define CC_KNOWN       (CC_ENABLE | CC_SETS | CC_SHUTDOWN | CC_ENTRY_SIZES)
#define CSTS_READY     1u
#define CSTS_FATAL     2u
#define CSTS_SHUTTING  4u
#define CSTS_SHUT      8u
#define CSTS_SHUTDOWN  12u

static uint32_t csts_of(const struct nvme *n)
{
	return __atomic_load_n(&n->csts, __ATOMIC_ACQUIRE);
}

void nvme_fail(struct nvme *n, const char *why)
{
	uint32_t old = __atomic_fetch_or(&n->csts, CSTS_FATAL, __ATOMIC_ACQ_REL);

	if (!(old & CSTS_FATAL))
		log_bounded(&n->vm->said, LOG_LEVEL_WARNING,
			"nvme in slot %u: %s; it waits for a reset by the guest",
			n->pci.slot, why);
}

void nvme_raise(struct nvme *n, enum nvme_event event)
{
	__atomic_fetch_or(&n->pending, event, __ATOMIC_ACQ_REL);
	lane_ring(&n->sq[0].lane);
}

/* ---- interrupts ------------------------------------------------------------------ */

/* Whether entries wait that the guest wants to hear of. */
static bool calls_for_pin(struct nvme_cq *cq)
{
	bool calls;

	pthread_mutex_lock(&cq->lock);
	calls = cq->exists && cq->interrupts && cq->head != cq->tail;
	pthread_mutex_unlock(&cq->lock);
	return calls;
}

static void update_pin(struct nvme *n)
{
	bool high = false;

	pthread_mutex_lock(&n->pin_lock);
	if (!pci_msix_enabled(&n->pci) &&
		!(__atomic_load_n(&n->masked, __ATOMIC_ACQUIRE) & 1))
		for (unsigned i = 0; i <= n->n_queues && !high; i++)
			high = calls_for_pin(&n->cq[i]);
	pci_set_intx(&n->pci, high);
	pthread_mutex_unlock(&n->pin_lock);
}

/* ---- doorbells in memory --------------------------------------------------------- */

/* The place of a queue's in one of the two pages. */
static uint32_t *place(const struct nvme *n, uint64_t page, unsigned id, bool completion)
{
	return memory_at(&n->vm->memory, page + 8 * id + (completion ? 4 : 0), 4);
}

static bool is_shadowed(const struct nvme *n, unsigned id)
{
	return id && __atomic_load_n(&n->shadowed, __ATOMIC_ACQUIRE);
}

static uint32_t shadow_load(const struct nvme *n, unsigned id, bool completion)
{
	return __atomic_load_n(place(n, n->shadow, id, completion), __ATOMIC_SEQ_CST);
}

/* From here on we are to be rung for. */
static void ask_for_bell(const struct nvme *n, unsigned id, bool completion, uint32_t at)
{
	__atomic_store_n(place(n, n->event_index, id, completion), at, __ATOMIC_SEQ_CST);
}

void nvme_fill_shadow(struct nvme *n)
{
	for (unsigned i = 1; i <= n->n_queues; i++) {
		uint32_t tail = __atomic_load_n(&n->sq[i].tail, __ATOMIC_ACQUIRE);

		*place(n, n->shadow, i, false) = tail;
		*place(n, n->shadow, i, true) = n->cq[i].head;
		ask_for_bell(n, i, false, tail);
		ask_for_bell(n, i, true, n->cq[i].head);
	}
}

static void move_bells(struct nvme *n, uint32_t base, uint32_t flags)
{
	for (unsigned i = 1; i <= n->n_queues; i++) {
		struct kvm_ioeventfd e = {.addr = base + AT_BELLS + 8 * i,
			.len = 0,
			.fd = n->sq[i].lane.event_fd,
			.flags = flags};

		ioctl(n->vm->fd, KVM_IOEVENTFD, &e); /* else it is an exit */
	}
}

/* bell_lock is held. */
static void place_bells(struct nvme *n)
{
	uint32_t to = n->shadowed ? n->bar_at : 0;

	if (to == n->bells_at)
		return;
	if (n->bells_at)
		move_bells(n, n->bells_at, KVM_IOEVENTFD_FLAG_DEASSIGN);
	if (to)
		move_bells(n, to, 0);
	n->bells_at = to;
}

/* A lane has no business with KVM's bells (confine.h): where it turns them on, the first
 * doorbell that is an exit has its vCPU place them. */
void nvme_set_shadow(struct nvme *n, bool on)
{
	pthread_mutex_lock(&n->bell_lock);
	__atomic_store_n(&n->shadowed, on, __ATOMIC_RELEASE);
	if (!on)
		place_bells(n);
	pthread_mutex_unlock(&n->bell_lock);
}

static void place_bells_now(struct nvme *n)
{
	pthread_mutex_lock(&n->bell_lock);
	place_bells(n);
	pthread_mutex_unlock(&n->bell_lock);
}

static void bar_moved(void *dev, uint32_t from, uint32_t to)
{
	struct nvme *n = dev;

	(void)from;
	pthread_mutex_lock(&n->bell_lock);
	n->bar_at = to;
	place_bells(n);
	pthread_mutex_unlock(&n->bell_lock);
}

/* ---- completion queues ----------------------------------------------------------- */

/* The lock is held for these. */
static uint32_t entries_used(const struct nvme_cq *cq)
{
	return (cq->tail + cq->size - cq->head) % cq->size;
}

static bool has_room(const struct nvme_cq *cq)
{
	return entries_used(cq) + cq->reserved < cq->size - 1;
}

static void set_head(struct nvme *n, struct nvme_cq *cq, uint32_t head)
{
	uint32_t taken = (head + cq->size - cq->head) % cq->size;

	if (head < cq->size && taken <= entries_used(cq))
		cq->head = head;
	else
		nvme_raise(n, NVME_EVENT_BELL_VALUE);
}

/* How far the guest has come, where it says so in memory only, and that we are to be rung for when it
 * goes on from there. The queue's lock is held, so that there are no more entries meanwhile than the
 * guest can take: one that goes on for longer does not mean it, and is not followed for ever. */
static void follow_head(struct nvme *n, struct nvme_cq *cq)
{
	unsigned id = (unsigned)(cq - n->cq);

	for (uint32_t i = 0; i <= cq->size; i++) {
		uint32_t head = shadow_load(n, id, true);

		set_head(n, cq, head);
		ask_for_bell(n, id, true, head);
		if (shadow_load(n, id, true) == head)
			return;
	}
	nvme_raise(n, NVME_EVENT_BELL_VALUE);
}

static bool has_room_now(struct nvme *n, struct nvme_cq *cq)
{
	if (!has_room(cq) && is_shadowed(n, (unsigned)(cq - n->cq)))
		follow_head(n, cq);
	return has_room(cq);
}

/* Keeps room for one completion, or remembers that somebody waits for it. */
static bool reserve(struct nvme *n, struct nvme_cq *cq)
{
	bool room;

	pthread_mutex_lock(&cq->lock);
	room = has_room_now(n, cq);
	if (room)
		cq->reserved++;
	else
		cq->starved = true;
	pthread_mutex_unlock(&cq->lock);
	return room;
}

static void release(struct nvme_cq *cq, unsigned entries)
{
	pthread_mutex_lock(&cq->lock);
	cq->reserved -= entries;
	pthread_mutex_unlock(&cq->lock);
}

/* The word with the phase comes last, as the guest waits for it. */
static void put_entry(struct nvme *n, struct nvme_cq *cq, const struct nvme_completion *e)
{
	uint64_t at = cq->base + cq->tail * sizeof(*e);
	uint8_t *to = memory_at(&n->vm->memory, at, sizeof(*e));

	memcpy(to, e, 12);
	__atomic_store_n((uint32_t *)(void *)(to + 12),
		le32_get(e->id_status) | (uint32_t)cq->phase << 16, __ATOMIC_RELEASE);
	if (++cq->tail == cq->size) {
		cq->tail = 0;
		cq->phase = !cq->phase;
	}
}

void nvme_complete(struct nvme_sq *sq, uint16_t id, uint16_t status, uint32_t result)
{
	struct nvme *n = sq->n;
	struct nvme_cq *cq = &n->cq[sq->cq];
	uint32_t head = __atomic_load_n(&sq->head, __ATOMIC_ACQUIRE);
	bool msix = pci_msix_enabled(&n->pci);
	struct nvme_completion e = {.result = le32_put(result),
		.sq_head = le16_put((uint16_t)head),
		.sq = le16_put((uint16_t)sq->id),
		.id_status = le32_put(id | (uint32_t)status << 17)};

	pthread_mutex_lock(&cq->lock);
	put_entry(n, cq, &e);
	cq->reserved--;
	if (!msix && is_shadowed(n, sq->cq))
		follow_head(n, cq); /* the pin is to go down */
	pthread_mutex_unlock(&cq->lock);
	if (!cq->interrupts)
		return;
	if (msix)
		pci_notify(&n->pci, cq->vector);
	else
		update_pin(n);
}

/* ---- submission queues ----------------------------------------------------------- */

/* How far the guest has filled it. */
static uint32_t tail_of(struct nvme_sq *sq)
{
	uint32_t tail;

	if (!is_shadowed(sq->n, sq->id))
		return __atomic_load_n(&sq->tail, __ATOMIC_ACQUIRE);
	tail = shadow_load(sq->n, sq->id, false);
	if (tail < sq->size)
		return tail;
	nvme_raise(sq->n, NVME_EVENT_BELL_VALUE);
	return sq->head;
}

static bool is_offered(struct nvme_sq *sq)
{
	uint32_t tail = tail_of(sq);

	if (tail == sq->head && is_shadowed(sq->n, sq->id)) {
		ask_for_bell(sq->n, sq->id, false, tail);
		tail = tail_of(sq);
	}
	return tail != sq->head;
}

static void take_held(struct nvme_sq *sq, struct nvme_command *c)
{
	*c = sq->held[0];
	sq->n_again--;
	sq->n_held--;
	memmove(sq->held, sq->held + 1, sq->n_held * sizeof(*sq->held));
}

static void take_offered(struct nvme_sq *sq, struct nvme_command *c)
{
	uint64_t at = sq->base + sq->head * sizeof(*c);

	memcpy(c, memory_at(&sq->n->vm->memory, at, sizeof(*c)), sizeof(*c));
	__atomic_store_n(&sq->head, (sq->head + 1) % sq->size, __ATOMIC_RELEASE);
}

/* The next command, with room for its completion. On the queue's lane. */
static bool take(struct nvme_sq *sq, struct nvme_command *c)
{
	if (csts_of(sq->n) & CSTS_FATAL)
		return false;
	if ((!sq->n_again && !is_offered(sq)) || !reserve(sq->n, &sq->n->cq[sq->cq]))
		return false;
	if (sq->n_again)
		take_held(sq, c);
	else
		take_offered(sq, c);
	return true;
}

void nvme_hold(struct nvme_sq *sq, const struct nvme_command *c)
{
	/* Each has its entry of the completion queue, and no queue has more of them. */
	sq->held[sq->n_held++] = *c;
}

static void serve_io_queue(void *arg)
{
	struct nvme_sq *sq = arg;
	struct nvme_request *r;

	while (!lane_stopping(&sq->lane)) {
		r = malloc(sizeof(*r));
		if (!r) {
			nvme_fail(sq->n, "there is no memory for a request");
			return;
		}
		if (!take(sq, &r->command)) {
			free(r);
			return;
		}
		r->sq = sq;
		if (task_spawn(NULL, nvme_serve_io, r))
			nvme_serve_io(r);
	}
}

int nvme_start_sq(struct nvme_sq *sq)
{
	sq->n_again = sq->n_held;
	return lane_start(&sq->lane);
}

void nvme_stop_sq(struct nvme_sq *sq)
{
	if (!sq->lane.loop)
		return;
	lane_stop(&sq->lane);
	release(&sq->n->cq[sq->cq], sq->n_held - sq->n_again);
	sq->n_again = sq->n_held;
}

/* ---- the administrative queue ---------------------------------------------------- */

/* Type, what it is, and the log that tells more (5.2). */
static uint32_t describe_event(unsigned event)
{
	if (event == NVME_EVENT_NAMESPACE)
		return 2 | 0 << 8 | 4 << 16;
	return 0 | (event == NVME_EVENT_BELL ? 0 : 1) << 8 | 1 << 16;
}

static void tell_events(struct nvme *n)
{
	unsigned wanted = NVME_EVENT_BELL | NVME_EVENT_BELL_VALUE, now;

	if (n->feature[NVME_F_EVENTS] & 1u << 8)
		wanted |= NVME_EVENT_NAMESPACE;
	while (n->n_kept) {
		now = __atomic_load_n(&n->pending, __ATOMIC_ACQUIRE) & wanted & ~n->told;
		if (!now || !reserve(n, &n->cq[0]))
			return;
		now &= -now;
		__atomic_fetch_and(&n->pending, ~now, __ATOMIC_ACQ_REL);
		n->told |= now;
		nvme_complete(
			&n->sq[0], n->kept[--n->n_kept], NVME_OK, describe_event(now));
	}
}

static void finish_shutdown(struct nvme *n)
{
	uint32_t csts = csts_of(n);

	if ((csts & CSTS_SHUTDOWN) != CSTS_SHUTTING || disk_flush(n->disk) == -ECANCELED)
		return;
	__atomic_compare_exchange_n(&n->csts, &csts, csts ^ CSTS_SHUTDOWN, false,
		__ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

static void serve_admin(void *arg)
{
	struct nvme_sq *sq = arg;
	struct nvme *n = sq->n;
	struct nvme_request *r = &n->admin;

	finish_shutdown(n);
	tell_events(n);
	/* Nothing more is done while one is held. */
	while (!lane_stopping(&sq->lane) && sq->n_held == sq->n_again &&
		take(sq, &r->command)) {
		uint16_t status;

		r->sq = sq;
		r->result = 0;
		status = nvme_admin(n, r);
		if (status == NVME_AGAIN)
			nvme_hold(sq, &r->command);
		else if (status == NVME_LATER)
			release(&n->cq[0], 1);
		else
			nvme_complete(sq, le16_get(r->command.id), status, r->result);
		tell_events(n);
	}
}

/* ---- starting and stopping; the lock is held ------------------------------------- */

static void start_all(struct nvme *n)
{
	int ret = 0;

	if (n->paused || !(csts_of(n) & CSTS_READY))
		return;
	for (unsigned i = n->n_queues + 1; i-- > 0 && ret == 0;)
		if (n->sq[i].exists)
			ret = nvme_start_sq(&n->sq[i]);
	if (ret)
		vm_fail(n->vm, "nvme: no thread for a queue");
}

static void stop_all(struct nvme *n)
{
	for (unsigned i = 0; i <= n->n_queues; i++)
		nvme_stop_sq(&n->sq[i]);
}

static void forget_queues(struct nvme *n)
{
	for (unsigned i = 0; i <= n->n_queues; i++) {
		struct nvme_sq *sq = &n->sq[i];
		struct nvme_cq *cq = &n->cq[i];

		pthread_mutex_lock(&sq->lock);
		sq->exists = false;
		sq->base = sq->size = sq->tail = sq->head = sq->cq = 0;
		sq->n_held = sq->n_again = 0;
		pthread_mutex_unlock(&sq->lock);
		pthread_mutex_lock(&cq->lock);
		cq->exists = cq->interrupts = cq->starved = false;
		cq->base = cq->size = cq->head = cq->tail = cq->reserved = 0;
		cq->vector = 0;
		cq->phase = false;
		pthread_mutex_unlock(&cq->lock);
	}
}

/* Whatever the guest had made is gone, but for the place of the administrative queues. */
static void disable(struct nvme *n)
{
	stop_all(n);
	forget_queues(n);
	nvme_set_shadow(n, false);
	n->shadow = n->event_index = 0;
	n->n_kept = 0;
	n->told = 0;
	__atomic_store_n(&n->pending, 0, __ATOMIC_RELEASE);
	__atomic_store_n(&n->changed, false, __ATOMIC_RELEASE);
	nvme_default_features(n);
	__atomic_store_n(&n->csts, 0, __ATOMIC_RELEASE);
	pci_set_intx(&n->pci, false);
}

static bool lies_in_memory(const struct nvme *n, uint64_t base, uint64_t bytes)
{
	return base % NVME_PAGE == 0 && memory_at(&n->vm->memory, base, bytes);
}

static bool make_admin_queues(struct nvme *n)
{
	struct nvme_sq *sq = &n->sq[0];
	struct nvme_cq *cq = &n->cq[0];

	sq->size = (n->aqa & 0xfff) + 1;
	sq->base = n->asq;
	cq->size = (n->aqa >> 16 & 0xfff) + 1;
	cq->base = n->acq;
	cq->phase = cq->interrupts = true;
	sq->exists = cq->exists =
		sq->size >= 2 && cq->size >= 2 &&
		lies_in_memory(n, sq->base, sq->size * sizeof(struct nvme_command)) &&
		lies_in_memory(n, cq->base, cq->size * sizeof(struct nvme_completion));
	return sq->exists;
}

static void enable(struct nvme *n)
{
	forget_queues(n);
	if ((n->cc & CC_SETS) || !make_admin_queues(n)) {
		forget_queues(n);
		nvme_fail(n, "its configuration or queues make no sense");
		return;
	}
	__atomic_store_n(&n->csts, CSTS_READY, __ATOMIC_RELEASE);
	start_all(n);
}

static void shut_down(struct nvme *n)
{
	bool works = (csts_of(n) & (CSTS_READY | CSTS_FATAL)) == CSTS_READY;

	__atomic_fetch_and(&n->csts, ~CSTS_SHUTDOWN, __ATOMIC_ACQ_REL);
	__atomic_fetch_or(&n->csts, works ? CSTS_SHUTTING : CSTS_SHUT, __ATOMIC_ACQ_REL);
	lane_ring(&n->sq[0].lane);
}

static void write_cc(struct nvme *n, uint32_t value)
{
	uint32_t changed = n->cc ^ value;

	__atomic_store_n(&n->cc, value & CC_KNOWN, __ATOMIC_RELEASE);
	if ((changed & CC_ENABLE) && (value & CC_ENABLE))
		enable(n);
	else if (changed & CC_ENABLE)
		disable(n);
	if ((changed & CC_SHUTDOWN) && (value & CC_SHUTDOWN))
		shut_down(n);
}

/* ---- the BAR --------------------------------------------------------------------- */

static uint64_t capabilities(void)
{
	return (NVME_QUEUE_SIZE - 1) | CAP_CONTIGUOUS | CAP_TIMEOUT | CAP_NVM;
}

static uint32_t read_register(struct nvme *n, uint64_t offset)
{
	switch (offset) {
	case AT_CAP:
		return (uint32_t)capabilities();
	case AT_CAP + 4:
		return (uint32_t)(capabilities() >> 32);
	case AT_VS:
		return VERSION;
	case AT_INTMS:
	case AT_INTMC:
		return n->masked;
	case AT_CC:
		return n->cc;
	case AT_CSTS:
		return csts_of(n);
	case AT_AQA:
		return n->aqa;
	case AT_ASQ:
		return (uint32_t)n->asq;
	case AT_ASQ + 4:
		return (uint32_t)(n->asq >> 32);
	case AT_ACQ:
		return (uint32_t)n->acq;
	case AT_ACQ + 4:
		return (uint32_t)(n->acq >> 32);
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

static void write_register(struct nvme *n, uint64_t offset, uint32_t value)
{
	bool off = !(n->cc & CC_ENABLE);

	switch (offset) {
	case AT_INTMS:
		__atomic_fetch_or(&n->masked, value, __ATOMIC_ACQ_REL);
		break;
	case AT_INTMC:
		__atomic_fetch_and(&n->masked, ~value, __ATOMIC_ACQ_REL);
		break;
	case AT_CC:
		write_cc(n, value);
		break;
	case AT_AQA:
		if (off)
			n->aqa = value & 0x0fff0fff;
		break;
	case AT_ASQ:
	case AT_ASQ + 4:
		if (off)
			set_half(&n->asq, offset & 4, value);
		break;
	case AT_ACQ:
	case AT_ACQ + 4:
		if (off)
			set_half(&n->acq, offset & 4, value);
		break;
	default:
		break;
	}
}

static uint64_t bar_read(void *dev, uint64_t offset, unsigned bytes)
{
	struct nvme *n = dev;
	uint64_t value;

	if (bytes < 4 || offset % bytes || offset >= AT_BELLS)
		return 0;
	pthread_mutex_lock(&n->lock);
	value = read_register(n, offset);
	if (bytes == 8)
		value |= (uint64_t)read_register(n, offset + 4) << 32;
	pthread_mutex_unlock(&n->lock);
	return value;
}

static void ring_sq(struct nvme *n, struct nvme_sq *sq, uint32_t value)
{
	pthread_mutex_lock(&sq->lock);
	if (!sq->exists)
		nvme_raise(n, NVME_EVENT_BELL);
	else if (value >= sq->size)
		nvme_raise(n, NVME_EVENT_BELL_VALUE);
	else
		__atomic_store_n(&sq->tail, value, __ATOMIC_RELEASE);
	pthread_mutex_unlock(&sq->lock);
	lane_ring(&sq->lane);
}

/* Queues that wait for room there go on. */
static void ring_cq(struct nvme *n, unsigned id, uint32_t value)
{
	struct nvme_cq *cq = &n->cq[id];
	bool starved = false;

	pthread_mutex_lock(&cq->lock);
	if (!cq->exists) {
		nvme_raise(n, NVME_EVENT_BELL);
	} else {
		if (is_shadowed(n, id))
			follow_head(n, cq);
		else
			set_head(n, cq, value);
		starved = cq->starved;
		cq->starved = false;
	}
	pthread_mutex_unlock(&cq->lock);
	for (unsigned i = 0; i <= n->n_queues && starved; i++)
		lane_ring(&n->sq[i].lane);
	if (!pci_msix_enabled(&n->pci))
		update_pin(n);
}

static void ring_bell(struct nvme *n, uint64_t offset, uint32_t value)
{
	uint64_t id = offset / 8;

	if (!(csts_of(n) & CSTS_READY))
		return;
	if (is_shadowed(n, (unsigned)MIN(id, 1u)))
		place_bells_now(n);
	if (id > n->n_queues)
		nvme_raise(n, NVME_EVENT_BELL);
	else if (offset & 4)
		ring_cq(n, (unsigned)id, value);
	else
		ring_sq(n, &n->sq[id], value);
}

static void bar_write(void *dev, uint64_t offset, unsigned bytes, uint64_t value)
{
	struct nvme *n = dev;

	if (bytes < 4 || offset % bytes)
		return;
	if (offset >= AT_BELLS) {
		ring_bell(n, offset - AT_BELLS, (uint32_t)value);
		return;
	}
	pthread_mutex_lock(&n->lock);
	write_register(n, offset, (uint32_t)value);
	if (bytes == 8)
		write_register(n, offset + 4, (uint32_t)(value >> 32));
	pthread_mutex_unlock(&n->lock);
	if (offset == AT_INTMS || offset == AT_INTMC)
		update_pin(n);
}

static const struct bus_ops bar_bus = {bar_read, bar_write};

/* ---- life ------------------------------------------------------------------------ */

static void nvme_reset(struct device *dev)
{
	struct nvme *n = (struct nvme *)dev;

	pthread_mutex_lock(&n->lock);
	disable(n);
	n->cc = n->aqa = n->masked = 0;
	n->asq = n->acq = 0;
	pthread_mutex_unlock(&n->lock);
	pci_function_reset(&n->pci);
}

static void nvme_start(struct device *dev)
{
	struct nvme *n = (struct nvme *)dev;

	pthread_mutex_lock(&n->lock);
	n->paused = false;
	start_all(n);
	pthread_mutex_unlock(&n->lock);
}

static void nvme_stop(struct device *dev)
{
	struct nvme *n = (struct nvme *)dev;

	pthread_mutex_lock(&n->lock);
	n->paused = true;
	stop_all(n);
	pthread_mutex_unlock(&n->lock);
}

static void free_queues(struct nvme *n)
{
	for (unsigned i = 0; i <= n->n_queues; i++) {
		lane_destroy(&n->sq[i].lane);
		pthread_mutex_destroy(&n->sq[i].lock);
		pthread_mutex_destroy(&n->cq[i].lock);
	}
	pthread_mutex_destroy(&n->lock);
	pthread_mutex_destroy(&n->pin_lock);
	pthread_mutex_destroy(&n->bell_lock);
	free(n);
}

static void nvme_free(struct device *dev)
{
	struct nvme *n = (struct nvme *)dev;

	nvme_stop(dev);
	pci_remove(&n->pci);
	free_queues(n);
}

/* ---- state ----------------------------------------------------------------------- */

static void cq_state(struct nvme *n, struct nvme_cq *cq, struct state *s)
{
	uint32_t most = cq == n->cq ? NVME_ADMIN_SIZE : NVME_QUEUE_SIZE;

	state_bool(s, &cq->exists);
	state_bool(s, &cq->interrupts);
	state_u16(s, &cq->vector);
	state_u64(s, &cq->base);
	state_u32(s, &cq->size);
	state_u32(s, &cq->head);
	state_u32(s, &cq->tail);
	state_bool(s, &cq->phase);
	if (cq->exists)
		state_check(s,
			cq->size >= 2 && cq->size <= most && cq->head < cq->size &&
				cq->tail < cq->size && cq->vector < n->pci.vectors &&
				lies_in_memory(n, cq->base,
					cq->size * sizeof(struct nvme_completion)),
			"a completion queue cannot be");
}

static void sq_state(struct nvme *n, struct nvme_sq *sq, struct state *s)
{
	uint32_t held = sq->n_held, most = sq->id ? NVME_QUEUE_SIZE : NVME_ADMIN_SIZE;

	state_bool(s, &sq->exists);
	state_u64(s, &sq->base);
	state_u32(s, &sq->size);
	state_u32(s, &sq->tail);
	state_u32(s, &sq->cq);
	state_u32(s, &sq->head);
	state_u32(s, &held);
	if (sq->exists)
		state_check(s,
			sq->size >= 2 && sq->size <= most && sq->tail < sq->size &&
				sq->head < sq->size && sq->cq <= n->n_queues &&
				!sq->id == !sq->cq &&
				lies_in_memory(n, sq->base,
					sq->size * sizeof(struct nvme_command)),
			"a submission queue cannot be");
	/* Administrative commands are done one after the other. */
	if (!state_check(s,
		    held < (!sq->exists     ? 1
				   : sq->id ? NVME_QUEUE_SIZE
					    : 2),
		    "more commands are kept than there can be"))
		return;
	sq->n_held = sq->n_again = held;
	for (unsigned i = 0; i < held; i++)
		state_bytes(s, &sq->held[i], sizeof(sq->held[i]));
}

static void events_state(struct nvme *n, struct state *s)
{
	uint32_t kept = n->n_kept, pending = n->pending, told = n->told;

	state_u32(s, &kept);
	state_u32(s, &pending);
	state_u32(s, &told);
	state_bool(s, &n->changed);
	if (!state_check(s, kept <= NVME_EVENTS_MAX, "too many events are asked for"))
		return;
	n->n_kept = kept;
	n->pending = pending;
	n->told = told;
	for (unsigned i = 0; i < kept; i++)
		state_u16(s, &n->kept[i]);
}

static void shadow_state(struct nvme *n, struct state *s)
{
	bool on = n->shadowed;

	state_bool(s, &on);
	state_u64(s, &n->shadow);
	state_u64(s, &n->event_index);
	if (!state_loading(s))
		return;
	if (state_check(s,
		    !on || (lies_in_memory(n, n->shadow, NVME_PAGE) &&
				   lies_in_memory(n, n->event_index, NVME_PAGE)),
		    "its doorbells do not lie in memory"))
		nvme_set_shadow(n, on);
}

static void registers_state(struct nvme *n, struct state *s)
{
	state_u32(s, &n->cc);
	state_u32(s, &n->aqa);
	state_u32(s, &n->masked);
	state_u64(s, &n->asq);
	state_u64(s, &n->acq);
	state_u32(s, &n->csts);
	for (unsigned i = 0; i < NVME_FEATURES; i++)
		state_u32(s, &n->feature[i]);
	state_u32(s, &n->cold);
}

/* Each queue that is there has what it needs. */
static void check_queues(struct nvme *n, struct state *s)
{
	for (unsigned i = 0; i <= n->n_queues && !state_ret(s, NULL); i++)
		state_check(s, !n->sq[i].exists || n->cq[n->sq[i].cq].exists,
			"a submission queue has no completion queue");
	state_check(s,
		!(n->csts & CSTS_READY) || (n->sq[0].exists && (n->cc & CC_ENABLE)),
		"it is ready, and is off or has no queue");
}

static void nvme_state(struct device *dev, struct state *s, unsigned version)
{
	struct nvme *n = (struct nvme *)dev;
	uint32_t queues = n->n_queues;

	(void)version;
	pci_function_state(&n->pci, s);
	state_u32(s, &queues);
	state_check(s, queues == n->n_queues, "it had another number of queues");
	registers_state(n, s);
	for (unsigned i = 0; i <= n->n_queues; i++) {
		cq_state(n, &n->cq[i], s);
		sq_state(n, &n->sq[i], s);
	}
	events_state(n, s);
	shadow_state(n, s);
	check_queues(n, s);
	if (state_loading(s) && state_ret(s, NULL)) {
		disable(n); /* what was loaded is never looked at */
		n->cc = 0;
	}
}

static const struct device_ops nvme_ops = {
	.name = "nvme",
	.reset = nvme_reset,
	.start = nvme_start,
	.stop = nvme_stop,
	.version = 1,
	.state = nvme_state,
	.free = nvme_free,
};

/* ---- making one ------------------------------------------------------------------ */

/* Also while the machine stands: it is told when it goes on. */
static void resized(void *front)
{
	struct nvme *n = front;

	__atomic_store_n(&n->changed, true, __ATOMIC_RELEASE);
	nvme_raise(n, NVME_EVENT_NAMESPACE);
}

static int init_queues(struct nvme *n)
{
	int ret = 0;

	for (unsigned i = 0; i <= n->n_queues; i++) {
		int one = lane_init(
			&n->sq[i].lane, i ? serve_io_queue : serve_admin, &n->sq[i]);

		ret = ret ? ret : one;
		n->sq[i].n = n;
		n->sq[i].id = i;
		pthread_mutex_init(&n->sq[i].lock, NULL);
		pthread_mutex_init(&n->cq[i].lock, NULL);
	}
	pthread_mutex_init(&n->lock, NULL);
	pthread_mutex_init(&n->pin_lock, NULL);
	pthread_mutex_init(&n->bell_lock, NULL);
	return ret;
}

static void init_pci(struct nvme *n)
{
	/* As bhyve's, of which drivers know nothing but the class: for the IDs that QEMU has
	 * Linux leaves out write zeroes and names. */
	static const struct pci_identity id = {.vendor = NVME_VENDOR,
		.device = 0x0a0a,
		.subsystem_vendor = 0x1af4,
		.subsystem = 0x1100,
		.class_code = 0x010802,
		.revision = 2,
		.interrupts = true};

	pci_function_init(&n->pci, n->vm, &id);
	pci_set_vectors(&n->pci, n->n_queues + 1, MSIX_BAR);
	pci_set_bar(&n->pci, BAR, BAR_BYTES, &bar_bus, n);
	n->pci.bar[BAR].moved = bar_moved;
}

/* The names are those by which firmware looks for it, whatever the IDs are. */
static void set_front(struct nvme *n, struct disk *disk)
{
	disk->iface = "nvme";
	disk->front = n;
	disk->resized = resized;
	snprintf(disk->boot_path, sizeof(disk->boot_path),
		"/pci@i0cf8/pci8086,5845@%x/namespace@1,0", n->pci.slot);
}

int nvme_new(struct vm *vm, struct pci *pci, struct disk *disk, unsigned queues,
	struct err *err)
{
	struct nvme *n = calloc(1, sizeof(*n));
	int ret;

	if (!n)
		return err_errno(err, ENOMEM, "nvme");
	n->device.ops = &nvme_ops;
	n->vm = vm;
	n->disk = disk;
	n->n_queues = queues;
	n->paused = true;
	ret = init_queues(n);
	init_pci(n);
	if (ret)
		err_errno(err, -ret, "nvme");
	else
		ret = pci_add(pci, &n->pci, -1, err);
	if (ret) {
		pci_remove(&n->pci);
		free_queues(n);
		return ret;
	}
	nvme_default_features(n);
	n->device.instance = n->pci.slot;
	set_front(n, disk);
	vm_add_device(vm, &n->device);
	return 0;
}
