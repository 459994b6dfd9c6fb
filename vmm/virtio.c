/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The virtio transport. See virtio.h.
 *
 * Life of a queue: set up by the guest → DRIVER_OK: its loop starts, a task there waits for
 * the guest's notifications (an ioeventfd) and starts a task for each chain → reset, or the
 * machine stops: the waiting task ends, chains under way are waited for, the loop ends.
 *
 * Lock order: d->lock, then the PCI function's.
 */
#include "vmm/virtio.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <linux/kvm.h>

#include "base/aio.h"
#include "base/endian.h"
#include "base/log.h"
#include "base/math.h"

#define VENDOR      0x1af4
#define DEVICE_BASE 0x1040
#define VENDOR_CAP  0x09
#define BAR         4
#define MSIX_BAR    1

/* Where the structures lie in the BAR. */
enum {
	AT_COMMON = 0x0000,
	AT_ISR = 0x1000,
	AT_DEVICE = 0x2000,
	AT_NOTIFY = 0x3000,
	BAR_BYTES = 0x4000,
};
#define NOTIFY_STEP 4

enum capability_type { CAP_COMMON = 1, CAP_NOTIFY = 2, CAP_ISR = 3, CAP_DEVICE = 4 };

/* struct virtio_pci_common_cfg (4.1.4.3). */
enum common {
	DEVICE_FEATURE_SELECT = 0x00,
	DEVICE_FEATURE = 0x04,
	DRIVER_FEATURE_SELECT = 0x08,
	DRIVER_FEATURE = 0x0c,
	CONFIG_VECTOR = 0x10,
	NUM_QUEUES = 0x12,
	DEVICE_STATUS = 0x14,
	CONFIG_GENERATION = 0x15,
	QUEUE_SELECT = 0x16,
	QUEUE_SIZE = 0x18,
	QUEUE_VECTOR = 0x1a,
	QUEUE_ENABLE = 0x1c,
	QUEUE_NOTIFY_OFF = 0x1e,
	QUEUE_DESC = 0x20,
	QUEUE_DRIVER = 0x28,
	QUEUE_DEVICE = 0x30,
	COMMON_BYTES = 0x38,
};

enum status {
	STATUS_DRIVER_OK = 4,
	STATUS_FEATURES_OK = 8,
	STATUS_NEEDS_RESET = 64,
};
#define ISR_QUEUE  1
#define ISR_CONFIG 2

/* ---- rings (2.7) ----------------------------------------------------------------- */

struct descriptor {
	le64 address;
	le32 bytes;
	le16 flags, next;
};
#define DESC_NEXT     1
#define DESC_WRITE    2
#define DESC_INDIRECT 4

struct used_element {
	le32 id, bytes;
};
#define RING_HEADER        4 /* flags, index */
#define AVAIL_NO_INTERRUPT 1

static uint16_t load16(const void *p)
{
	return __atomic_load_n((const uint16_t *)p, __ATOMIC_ACQUIRE);
}

static bool has_rings(const struct virtio_queue *q)
{
	const struct memory *m = &q->d->vm->memory;
	uint64_t n = q->size;

	return memory_at(m, q->desc, n * sizeof(struct descriptor)) &&
	       memory_at(m, q->avail, RING_HEADER + 2 * n) &&
	       memory_at(m, q->used, RING_HEADER + n * sizeof(struct used_element)) &&
	       !(q->desc & 15) && !(q->avail & 1) && !(q->used & 3);
}

static uint8_t *ring(const struct virtio_queue *q, uint64_t at)
{
	return memory_at(&q->d->vm->memory, at, 1); /* has_rings was asked */
}

static int add_segment(
	struct virtio_chain *c, const struct memory *m, const struct descriptor *d)
{
	uint64_t bytes = le32_get(d->bytes);
	unsigned n = c->n_out + c->n_in;
	bool write = le16_get(d->flags) & DESC_WRITE;
	void *host;

	if (n == VIRTIO_CHAIN_MAX || (!write && c->n_in))
		return -EINVAL;
	host = memory_at(m, le64_get(d->address), bytes);
	if (!host || !bytes)
		return -EINVAL;
	c->iov[n] = (struct iovec){host, bytes};
	if (write) {
		c->n_in++;
		c->in_bytes += bytes;
	} else {
		c->n_out++;
		c->out_bytes += bytes;
	}
	return 0;
}

/* Follows a table from its i-th descriptor. Each is copied before it is looked at. */
static int walk(struct virtio_chain *c, const uint8_t *table, unsigned entries,
	unsigned i, bool indirect)
{
	const struct memory *m = &c->q->d->vm->memory;
	struct descriptor d;

	for (unsigned steps = 0; steps < entries; steps++) {
		unsigned flags;
		int ret;

		if (i >= entries)
			return -EINVAL;
		memcpy(&d, table + (size_t)i * sizeof(d), sizeof(d));
		flags = le16_get(d.flags);
		if (flags & DESC_INDIRECT) {
			uint64_t bytes = le32_get(d.bytes);
			const uint8_t *below = memory_at(m, le64_get(d.address), bytes);

			/* One such table is all of the chain (2.7.5.3.1). */
			if (indirect || (flags & DESC_NEXT) || !below || steps ||
				bytes % sizeof(d) || !bytes ||
				bytes / sizeof(d) > VIRTIO_CHAIN_MAX)
				return -EINVAL;
			return walk(c, below, (unsigned)(bytes / sizeof(d)), 0, true);
		}
		ret = add_segment(c, m, &d);
		if (ret || !(flags & DESC_NEXT))
			return ret;
		i = le16_get(d.next);
	}
	return -EINVAL; /* it comes back to itself */
}

/* The chain that begins there. */
static struct virtio_chain *chain_new(struct virtio_queue *q, uint16_t head, int *ret)
{
	struct virtio_chain *c = malloc(sizeof(*c));

	if (!c) {
		*ret = -ENOMEM;
		return NULL;
	}
	c->q = q;
	c->n_out = c->n_in = 0;
	c->out_bytes = c->in_bytes = 0;
	c->head = head;
	*ret = walk(c, ring(q, q->desc), q->size, head, false);
	if (*ret == 0)
		return c;
	free(c);
	return NULL;
}

static bool take_held(struct virtio_queue *q, uint16_t *head)
{
	bool there;

	task_lock(&q->lock);
	there = q->n_again > 0;
	if (there) {
		*head = q->held[0];
		q->n_again--;
		q->n_held--;
		memmove(q->held, q->held + 1, q->n_held * sizeof(*q->held));
	}
	task_unlock(&q->lock);
	return there;
}

/* The next chain; NULL where there is none, or *ret is set. On the queue's loop. A guest that
 * offers more than there are descriptors has offered some twice. */
static struct virtio_chain *next_chain(struct virtio_queue *q, int *ret)
{
	uint8_t *avail = ring(q, q->avail);
	struct virtio_chain *c;
	uint16_t offered, head;

	*ret = 0;
	if (take_held(q, &head))
		return chain_new(q, head, ret);
	offered = (uint16_t)(load16(avail + 2) - q->next_avail);
	if (!offered)
		return NULL;
	if (offered > q->size || q->in_flight >= q->size) {
		*ret = -EINVAL;
		return NULL;
	}
	c = chain_new(
		q, load16(avail + RING_HEADER + 2 * (q->next_avail % q->size)), ret);
	if (c)
		q->next_avail++;
	return c;
}

static bool wants_interrupt(const struct virtio_queue *q)
{
	const uint16_t *flags = (const void *)ring(q, q->avail);

	return !(__atomic_load_n(flags, __ATOMIC_SEQ_CST) & AVAIL_NO_INTERRUPT);
}

/* The guest may set the vector meanwhile. */
static void interrupt(struct virtio_device *d, const uint16_t *vector, unsigned isr)
{
	if (pci_msix_enabled(&d->pci)) {
		pci_notify(&d->pci, __atomic_load_n(vector, __ATOMIC_RELAXED));
		return;
	}
	__atomic_fetch_or(&d->isr, isr, __ATOMIC_ACQ_REL);
	pci_set_intx(&d->pci, true);
}

/* The chain is not under way any more; it is told by its queue, as it may be gone. */
static void ended(struct virtio_queue *q)
{
	task_lock(&q->lock);
	q->in_flight--;
	task_cond_broadcast(&q->changed);
	task_unlock(&q->lock);
}

void virtio_hold(struct virtio_chain *c)
{
	struct virtio_queue *q = c->q;

	task_lock(&q->lock);
	assert(q->n_held <
		VIRTIO_QUEUE_SIZE); /* in_flight is bounded by the queue's size */
	q->held[q->n_held++] = c->head;
	task_unlock(&q->lock);
	free(c);
	ended(q);
}

void virtio_done(struct virtio_chain *c, uint32_t written)
{
	struct virtio_queue *q = c->q;
	uint8_t *used = ring(q, q->used);
	struct used_element e = {le32_put(c->head), le32_put(written)};

	pthread_mutex_lock(&q->used_lock);
	memcpy(used + RING_HEADER + sizeof(e) * (q->next_used % q->size), &e, sizeof(e));
	q->next_used++;
	/* Sequentially consistent, as is the question whether the guest wants to be told: one
	 * of the two, it or we, sees what the other wrote. */
	__atomic_store_n((uint16_t *)(void *)(used + 2), q->next_used, __ATOMIC_SEQ_CST);
	pthread_mutex_unlock(&q->used_lock);
	if (wants_interrupt(q))
		interrupt(q->d, &q->vector, ISR_QUEUE);
	free(c);
	ended(q);
}

/* ---- serving --------------------------------------------------------------------- */

/* Set by the guest under the lock, and by whoever finds the device broken without it. */
static uint8_t status_of(const struct virtio_device *d)
{
	return __atomic_load_n(&d->status, __ATOMIC_ACQUIRE);
}

static bool is_broken(const struct virtio_device *d)
{
	return status_of(d) & STATUS_NEEDS_RESET;
}

struct virtio_chain *virtio_take(struct virtio_queue *q)
{
	struct virtio_chain *c;
	int ret;

	if (is_broken(q->d))
		return NULL;
	c = next_chain(q, &ret);
	if (ret == -EINVAL)
		virtio_break(q->d, "a descriptor chain makes no sense");
	else if (ret)
		virtio_break(q->d, "there is no memory for a request");
	if (!c)
		return NULL;
	task_lock(&q->lock);
	q->in_flight++;
	task_unlock(&q->lock);
	return c;
}

static void serve_chain(void *arg)
{
	struct virtio_chain *c = arg;

	c->q->d->ops->serve(c->q->d, c);
}

/* Starts what the guest has offered. */
static void serve_offered(struct virtio_queue *q)
{
	struct virtio_chain *c;

	while ((c = virtio_take(q)))
		if (task_spawn(NULL, serve_chain, c))
			serve_chain(c);
}

bool virtio_stopping(struct virtio_queue *q)
{
	bool stopping;

	task_lock(&q->lock);
	stopping = q->stopping;
	task_unlock(&q->lock);
	return stopping;
}

void virtio_clear_event(struct virtio_queue *q)
{
	uint64_t count;

	if (read(q->event_fd, &count, sizeof(count)) < 0)
		return; /* it was clear */
}

bool virtio_has(const struct virtio_device *d, unsigned feature)
{
	return d->driver_features >> feature & 1;
}

/* What was offered before the machine stopped has its notification still to come, or not
 * any more: so it is looked at first. */
static void queue_main(void *arg)
{
	struct virtio_queue *q = arg;

	if (!q->d->ops->run || !q->d->ops->run(q->d, q))
		while (!virtio_stopping(q)) {
			serve_offered(q);
			aio_poll(q->event_fd, POLLIN, -1);
			virtio_clear_event(q);
		}
	task_lock(&q->lock);
	while (q->in_flight)
		task_cond_wait(&q->changed, &q->lock);
	q->stopped = true;
	task_cond_broadcast(&q->changed);
	task_unlock(&q->lock);
}

static int start_queue(struct virtio_queue *q)
{
	struct err err = ERR_INIT;

	q->stopping = q->stopped = false;
	q->n_again = q->n_held;
	q->loop = loop_start(&err);
	if (!q->loop)
		return -err.code;
	if (task_spawn(q->loop, queue_main, q) == 0)
		return 0;
	loop_stop(q->loop);
	q->loop = NULL;
	return -ENOMEM;
}

static void ring_bell(struct virtio_queue *q)
{
	uint64_t one = 1;

	if (write(q->event_fd, &one, sizeof(one)) < 0)
		return; /* it is full of them */
}

static void stop_queue(struct virtio_queue *q)
{
	if (!q->loop)
		return;
	task_lock(&q->lock);
	q->stopping = true;
	task_unlock(&q->lock);
	ring_bell(q);
	task_lock(&q->lock);
	while (!q->stopped)
		task_cond_wait(&q->changed, &q->lock);
	task_unlock(&q->lock);
	loop_stop(q->loop);
	q->loop = NULL;
}

/* d->lock is held for these. */
static void stop_serving(struct virtio_device *d)
{
	for (unsigned i = 0; i < d->n_queues; i++)
		stop_queue(&d->queue[i]);
	d->serving = false;
}

static void start_serving(struct virtio_device *d)
{
	if (d->serving || d->paused || !(status_of(d) & STATUS_DRIVER_OK) || is_broken(d))
		return;
	d->serving = true;
	for (unsigned i = 0; i < d->n_queues; i++) {
		struct virtio_queue *q = &d->queue[i];

		if (q->enabled && start_queue(q)) {
			vm_fail(d->vm, "%s: no thread for a queue", d->ops->name);
			return;
		}
	}
}

void virtio_break(struct virtio_device *d, const char *why)
{
	uint8_t old = __atomic_fetch_or(&d->status, STATUS_NEEDS_RESET, __ATOMIC_ACQ_REL);

	if (old & STATUS_NEEDS_RESET)
		return;
	log_line(LOG_LEVEL_WARNING,
		"%s in slot %u: %s; it waits for a reset by the guest", d->ops->name,
		d->pci.slot, why);
	if (old & STATUS_DRIVER_OK)
		interrupt(d, &d->config_vector, ISR_CONFIG);
}

void virtio_config_changed(struct virtio_device *d)
{
	pthread_mutex_lock(&d->lock);
	d->config_generation++;
	pthread_mutex_unlock(&d->lock);
	if (status_of(d) & STATUS_DRIVER_OK)
		interrupt(d, &d->config_vector, ISR_CONFIG);
}

/* ---- set-up by the guest; d->lock is held ---------------------------------------- */

static void reset_queue(struct virtio_queue *q)
{
	q->size = VIRTIO_QUEUE_SIZE;
	q->vector = PCI_NO_VECTOR;
	q->enabled = false;
	q->desc = q->avail = q->used = 0;
	q->next_avail = q->next_used = 0;
	q->n_held = q->n_again = 0;
}

static void reset_device(struct virtio_device *d)
{
	stop_serving(d);
	d->driver_features = 0;
	d->feature_select = d->driver_feature_select = 0;
	d->queue_select = 0;
	d->config_vector = PCI_NO_VECTOR;
	__atomic_store_n(&d->status, 0, __ATOMIC_RELEASE);
	__atomic_store_n(&d->isr, 0, __ATOMIC_RELEASE);
	for (unsigned i = 0; i < d->n_queues; i++)
		reset_queue(&d->queue[i]);
	if (d->ops->reset)
		d->ops->reset(d);
	pci_set_intx(&d->pci, false);
}

static struct virtio_queue *selected(struct virtio_device *d)
{
	return d->queue_select < d->n_queues ? &d->queue[d->queue_select] : NULL;
}

static void set_status(struct virtio_device *d, uint8_t value)
{
	uint8_t old;

	if (!value) {
		reset_device(d);
		return;
	}
	/* Only what was offered, and the first version's interface is not there. */
	if ((value & STATUS_FEATURES_OK) &&
		((d->driver_features & ~d->features) ||
			!(d->driver_features >> VIRTIO_F_VERSION_1 & 1)))
		value &= (uint8_t)~STATUS_FEATURES_OK;
	old = status_of(d);
	while (!__atomic_compare_exchange_n(&d->status, &old,
		value | (old & STATUS_NEEDS_RESET), true, __ATOMIC_ACQ_REL,
		__ATOMIC_ACQUIRE))
		;
	start_serving(d);
}

static void enable_queue(struct virtio_queue *q)
{
	if (!q || q->enabled || q->d->serving)
		return;
	if (has_rings(q))
		q->enabled = true;
	else
		virtio_break(q->d, "a queue does not lie in memory");
}

static void set_queue_size(struct virtio_queue *q, uint64_t size)
{
	if (q && !q->enabled && is_pow2(size) && size <= VIRTIO_QUEUE_SIZE)
		q->size = (uint16_t)size;
}

static void set_vector(struct virtio_device *d, uint16_t *vector, uint64_t value)
{
	uint16_t n = value < d->pci.vectors ? (uint16_t)value : PCI_NO_VECTOR;

	__atomic_store_n(vector, n, __ATOMIC_RELAXED);
}

/* A half or all of a 64-bit address. */
static void set_address(
	struct virtio_queue *q, unsigned offset, unsigned bytes, uint64_t value)
{
	uint64_t *fields[] = {&q->desc, &q->avail, &q->used}, *field;
	unsigned shift = offset & 4 ? 32 : 0;

	field = fields[(offset - QUEUE_DESC) / 8];
	if (q->enabled)
		return;
	if (bytes == 8)
		*field = value;
	else
		*field = (*field & ~((uint64_t)UINT32_MAX << shift)) | value << shift;
}

static void common_write(
	struct virtio_device *d, unsigned offset, unsigned bytes, uint64_t value)
{
	struct virtio_queue *q = selected(d);

	switch (offset) {
	case DEVICE_FEATURE_SELECT:
		d->feature_select = (uint32_t)value;
		break;
	case DRIVER_FEATURE_SELECT:
		d->driver_feature_select = (uint32_t)value;
		break;
	case DRIVER_FEATURE:
		if (d->driver_feature_select < 2 &&
			!(status_of(d) & STATUS_FEATURES_OK)) {
			unsigned shift = 32 * d->driver_feature_select;

			d->driver_features &= ~((uint64_t)UINT32_MAX << shift);
			d->driver_features |= (value & UINT32_MAX) << shift;
		}
		break;
	case CONFIG_VECTOR:
		set_vector(d, &d->config_vector, value);
		break;
	case DEVICE_STATUS:
		set_status(d, (uint8_t)value);
		break;
	case QUEUE_SELECT:
		d->queue_select = (uint16_t)value;
		break;
	case QUEUE_SIZE:
		set_queue_size(q, value);
		break;
	case QUEUE_VECTOR:
		if (q)
			set_vector(d, &q->vector, value);
		break;
	case QUEUE_ENABLE:
		if (value == 1)
			enable_queue(q);
		break;
	default:
		if (q && offset >= QUEUE_DESC && offset < COMMON_BYTES && bytes >= 4)
			set_address(q, offset, bytes, value);
		break;
	}
}

static uint64_t address_of(const struct virtio_queue *q, unsigned offset)
{
	const uint64_t fields[] = {q->desc, q->avail, q->used};

	return fields[(offset - QUEUE_DESC) / 8] >> (offset & 4 ? 32 : 0);
}

static uint64_t common_read(struct virtio_device *d, unsigned offset)
{
	const struct virtio_queue *q = selected(d);

	switch (offset) {
	case DEVICE_FEATURE_SELECT:
		return d->feature_select;
	case DEVICE_FEATURE:
		return d->feature_select < 2 ? d->features >> 32 * d->feature_select : 0;
	case DRIVER_FEATURE_SELECT:
		return d->driver_feature_select;
	case DRIVER_FEATURE:
		return d->driver_feature_select < 2
			       ? d->driver_features >> 32 * d->driver_feature_select
			       : 0;
	case CONFIG_VECTOR:
		return d->config_vector;
	case NUM_QUEUES:
		return d->n_queues;
	case DEVICE_STATUS:
		return status_of(d);
	case CONFIG_GENERATION:
		return d->config_generation;
	case QUEUE_SELECT:
		return d->queue_select;
	case QUEUE_SIZE:
		return q ? q->size : 0;
	case QUEUE_VECTOR:
		return q ? q->vector : PCI_NO_VECTOR;
	case QUEUE_ENABLE:
		return q && q->enabled;
	case QUEUE_NOTIFY_OFF:
		return d->queue_select;
	default:
		return q && offset >= QUEUE_DESC && offset < COMMON_BYTES
			       ? address_of(q, offset)
			       : 0;
	}
}

/* ---- the BAR --------------------------------------------------------------------- */

static uint64_t config_read(
	const struct virtio_device *d, unsigned offset, unsigned bytes)
{
	uint64_t value = 0;

	for (unsigned i = 0; i < bytes; i++)
		if (offset + i < d->config_bytes)
			value |= (uint64_t)d->config[offset + i] << 8 * i;
	return value;
}

static void config_write(
	struct virtio_device *d, unsigned offset, unsigned bytes, uint64_t value)
{
	if (!d->ops->config_written)
		return;
	for (unsigned i = 0; i < bytes; i++)
		if (offset + i < d->config_bytes)
			d->config[offset + i] = (uint8_t)(value >> 8 * i);
	d->ops->config_written(d, offset, bytes);
}

/* Reading the interrupt status clears it (4.1.4.5). */
static uint64_t isr_read(struct virtio_device *d)
{
	unsigned isr = __atomic_exchange_n(&d->isr, 0, __ATOMIC_ACQ_REL);

	pci_set_intx(&d->pci, false);
	return isr;
}

static uint64_t bar_read(void *dev, uint64_t offset, unsigned bytes)
{
	struct virtio_device *d = dev;
	uint64_t value = 0;

	if (offset >= AT_ISR && offset < AT_DEVICE)
		return offset == AT_ISR ? isr_read(d) : 0;
	pthread_mutex_lock(&d->lock);
	if (offset < COMMON_BYTES)
		value = common_read(d, (unsigned)offset);
	else if (offset >= AT_DEVICE && offset < AT_NOTIFY)
		value = config_read(d, (unsigned)offset - AT_DEVICE, bytes);
	pthread_mutex_unlock(&d->lock);
	return value;
}

/* Notifications come here only where KVM does not take them itself. */
static void notify(struct virtio_device *d, uint64_t offset)
{
	if (offset / NOTIFY_STEP < d->n_queues)
		ring_bell(&d->queue[offset / NOTIFY_STEP]);
}

static void bar_write(void *dev, uint64_t offset, unsigned bytes, uint64_t value)
{
	struct virtio_device *d = dev;

	if (offset >= AT_NOTIFY) {
		notify(d, offset - AT_NOTIFY);
		return;
	}
	pthread_mutex_lock(&d->lock);
	if (offset < COMMON_BYTES)
		common_write(d, (unsigned)offset, bytes, value);
	else if (offset >= AT_DEVICE)
		config_write(d, (unsigned)offset - AT_DEVICE, bytes, value);
	pthread_mutex_unlock(&d->lock);
}

static const struct bus_ops bar_bus = {bar_read, bar_write};

/* KVM rings the bells itself while the BAR lies there; where it cannot, the bus does. */
static void bar_moved(void *dev, uint32_t from, uint32_t to)
{
	struct virtio_device *d = dev;

	for (unsigned i = 0; i < d->n_queues; i++) {
		struct kvm_ioeventfd e = {
			.addr = (to ? to : from) + AT_NOTIFY + NOTIFY_STEP * i,
			.len = 0,
			.fd = d->queue[i].event_fd,
			.flags = to ? 0 : KVM_IOEVENTFD_FLAG_DEASSIGN};

		ioctl(d->vm->fd, KVM_IOEVENTFD, &e);
	}
}

/* struct virtio_pci_cap (4.1.4). */
static unsigned add_capability(struct virtio_device *d, enum capability_type type,
	uint32_t at, uint32_t bytes, unsigned size)
{
	unsigned cap = pci_add_capability(&d->pci, VENDOR_CAP, size);
	uint8_t *p = d->pci.config + cap;

	p[2] = (uint8_t)size;
	p[3] = (uint8_t)type;
	p[4] = BAR;
	le32_store(p + 8, at);
	le32_store(p + 12, bytes);
	return cap;
}

static void add_capabilities(struct virtio_device *d)
{
	unsigned notify_cap;

	add_capability(d, CAP_COMMON, AT_COMMON, COMMON_BYTES, 16);
	add_capability(d, CAP_ISR, AT_ISR, 1, 16);
	add_capability(d, CAP_DEVICE, AT_DEVICE, VIRTIO_CONFIG_MAX, 16);
	notify_cap = add_capability(
		d, CAP_NOTIFY, AT_NOTIFY, NOTIFY_STEP * VIRTIO_QUEUES_MAX, 20);
	le32_store(d->pci.config + notify_cap + 16, NOTIFY_STEP);
}

/* ---- life ------------------------------------------------------------------------ */

static void virtio_reset(struct device *dev)
{
	struct virtio_device *d = (struct virtio_device *)dev;

	pthread_mutex_lock(&d->lock);
	reset_device(d);
	pthread_mutex_unlock(&d->lock);
	pci_function_reset(&d->pci);
}

static void virtio_start(struct device *dev)
{
	struct virtio_device *d = (struct virtio_device *)dev;

	pthread_mutex_lock(&d->lock);
	d->paused = false;
	start_serving(d);
	pthread_mutex_unlock(&d->lock);
}

static void virtio_stop(struct device *dev)
{
	struct virtio_device *d = (struct virtio_device *)dev;

	pthread_mutex_lock(&d->lock);
	d->paused = true;
	stop_serving(d);
	pthread_mutex_unlock(&d->lock);
}

static void virtio_free(struct device *dev)
{
	struct virtio_device *d = (struct virtio_device *)dev;

	virtio_stop(dev);
	pci_remove(&d->pci);
	for (unsigned i = 0; i < d->n_queues; i++) {
		close(d->queue[i].event_fd);
		pthread_mutex_destroy(&d->queue[i].used_lock);
	}
	pthread_mutex_destroy(&d->lock);
	d->ops->free(d);
}

/* ---- state ----------------------------------------------------------------------- */

static void queue_state(struct virtio_queue *q, struct state *s)
{
	uint32_t held = q->n_held;

	state_u16(s, &q->size);
	state_u16(s, &q->vector);
	state_bool(s, &q->enabled);
	state_u64(s, &q->desc);
	state_u64(s, &q->avail);
	state_u64(s, &q->used);
	state_u16(s, &q->next_avail);
	state_u16(s, &q->next_used);
	state_u32(s, &held);
	if (!state_check(s,
		    is_pow2(q->size) && q->size <= VIRTIO_QUEUE_SIZE && held <= q->size,
		    "a queue's size cannot be") ||
		!state_check(
			s, !q->enabled || has_rings(q), "a queue does not lie in memory"))
		q->enabled = false; /* it is never looked at */
	else
		q->n_held = held;
	for (unsigned i = 0; i < q->n_held; i++)
		state_u16(s, &q->held[i]);
}

static void virtio_state(struct device *dev, struct state *s, unsigned version)
{
	struct virtio_device *d = (struct virtio_device *)dev;
	uint64_t features = d->features;
	uint32_t queues = d->n_queues, isr = d->isr;

	pci_function_state(&d->pci, s);
	state_u64(s, &features);
	state_u32(s, &queues);
	state_check(s, features == d->features, "it offered other features");
	state_check(s, queues == d->n_queues, "it had another number of queues");
	state_u64(s, &d->driver_features);
	state_u32(s, &d->feature_select);
	state_u32(s, &d->driver_feature_select);
	state_u16(s, &d->queue_select);
	state_u16(s, &d->config_vector);
	state_u8(s, &d->status);
	state_u8(s, &d->config_generation);
	state_u32(s, &isr);
	state_bytes(s, d->config, d->config_bytes);
	d->isr = isr;
	for (unsigned i = 0; i < d->n_queues; i++)
		queue_state(&d->queue[i], s);
	if (d->ops->state)
		d->ops->state(d, s, version);
}

int virtio_add(struct virtio_device *d, struct vm *vm, struct pci *pci, int slot,
	struct err *err)
{
	struct pci_identity id = {.vendor = VENDOR,
		.device = DEVICE_BASE + d->ops->id,
		.subsystem_vendor = VENDOR,
		.subsystem = d->ops->id,
		.class_code = d->ops->class_code,
		.revision = 1,
		.interrupts = true};

	assert(d->n_queues && d->n_queues <= VIRTIO_QUEUES_MAX);
	d->device_ops = (struct device_ops){.name = d->ops->name,
		.reset = virtio_reset,
		.start = virtio_start,
		.stop = virtio_stop,
		.version = d->ops->version,
		.state = virtio_state,
		.free = virtio_free};
	d->device.ops = &d->device_ops;
	d->vm = vm;
	d->features |=
		(uint64_t)1 << VIRTIO_F_VERSION_1 | (uint64_t)1 << VIRTIO_F_INDIRECT_DESC;
	d->paused = true;
	pthread_mutex_init(&d->lock, NULL);
	pci_function_init(&d->pci, vm, &id);
	pci_set_vectors(&d->pci, d->n_queues + 1, MSIX_BAR);
	pci_set_bar(&d->pci, BAR, BAR_BYTES, &bar_bus, d);
	d->pci.bar[BAR].moved = bar_moved;
	add_capabilities(d);
	for (unsigned i = 0; i < d->n_queues; i++) {
		struct virtio_queue *q = &d->queue[i];

		*q = (struct virtio_queue){.d = d, .index = i};
		q->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (q->event_fd < 0)
			return err_errno(err, errno, "virtio");
		pthread_mutex_init(&q->used_lock, NULL);
		reset_queue(q);
	}
	if (pci_add(pci, &d->pci, slot, err))
		return -err->code;
	d->device.instance = d->pci.slot;
	vm_add_device(vm, &d->device);
	return 0;
}
