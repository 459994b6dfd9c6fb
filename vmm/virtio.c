/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The virtio transport. See virtio.h.
 *
 * Lock order: d->lock, a queue's, the PCI function's; config_lock inside of any. Whoever holds
 * d->lock may wait for the queues' tasks to end, so these never take it.
 */
#include "vmm/virtio.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <linux/kvm.h>

#include "base/endian.h"
#include "base/log.h"
#include "base/math.h"
#include "vmm/virtio_queue.h"

#define VENDOR         0x1af4
#define DEVICE_BASE    0x1040
#define SUBSYSTEM_BASE 0x40 /* of what has no interface of before 1.0 (4.1.2.1) */
#define VENDOR_CAP     0x09
#define BAR            4
#define MSIX_BAR       1

/* Where the structures lie in the BAR. */
enum {
	AT_COMMON = 0x0000,
	AT_ISR = 0x1000,
	AT_DEVICE = 0x2000,
	AT_NOTIFY = 0x3000,
	BAR_BYTES = 0x4000,
};
#define NOTIFY_STEP 4

enum capability_type {
	CAP_COMMON = 1,
	CAP_NOTIFY = 2,
	CAP_ISR = 3,
	CAP_DEVICE = 4,
	CAP_WINDOW = 5,
};

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
	QUEUE_NOTIFY_DATA = 0x38,
	QUEUE_RESET = 0x3a,
	COMMON_BYTES = 0x3c,
};

enum status {
	STATUS_DRIVER_OK = 4,
	STATUS_FEATURES_OK = 8,
	STATUS_NEEDS_RESET = 64,
};

/* ---- what queues and devices ask ------------------------------------------------- */

/* Set by the guest under the lock, and by whoever finds the device broken without it. */
static uint8_t status_of(const struct virtio_device *d)
{
	return __atomic_load_n(&d->status, __ATOMIC_ACQUIRE);
}

bool virtio_is_broken(const struct virtio_device *d)
{
	return status_of(d) & STATUS_NEEDS_RESET;
}

/* The guest may set the vector meanwhile. */
void virtio_interrupt(struct virtio_device *d, const uint16_t *vector, unsigned isr)
{
	if (pci_msix_enabled(&d->pci)) {
		pci_notify(&d->pci, __atomic_load_n(vector, __ATOMIC_RELAXED));
		return;
	}
	__atomic_fetch_or(&d->isr, isr, __ATOMIC_ACQ_REL);
	pci_set_intx(&d->pci, true);
}

bool virtio_has(const struct virtio_device *d, unsigned feature)
{
	return d->driver_features >> feature & 1;
}

/* ---- serving --------------------------------------------------------------------- */

static void start_or_fail(struct virtio_queue *q)
{
	if (q->enabled && virtio_queue_start(q))
		vm_fail(q->d->vm, "%s: no thread for a queue", q->d->ops->name);
}

/* d->lock is held for these. */
static void stop_serving(struct virtio_device *d)
{
	for (unsigned i = 0; i < d->n_queues; i++)
		virtio_queue_stop(&d->queue[i]);
	d->serving = false;
}

static void start_serving(struct virtio_device *d)
{
	unsigned ready = STATUS_FEATURES_OK | STATUS_DRIVER_OK;

	if (d->serving || d->paused || (status_of(d) & ready) != ready ||
		virtio_is_broken(d) || !pci_is_master(&d->pci))
		return;
	d->serving = true;
	for (unsigned i = 0; i < d->n_queues; i++)
		start_or_fail(&d->queue[i]);
}

void virtio_break(struct virtio_device *d, const char *why)
{
	uint8_t old = __atomic_fetch_or(&d->status, STATUS_NEEDS_RESET, __ATOMIC_ACQ_REL);

	if (old & STATUS_NEEDS_RESET)
		return;
	log_bounded(&d->vm->said, LOG_LEVEL_WARNING,
		"%s in slot %u: %s; it waits for a reset by the guest", d->ops->name,
		d->pci.slot, why);
	if (old & STATUS_DRIVER_OK)
		virtio_interrupt(d, &d->config_vector, VIRTIO_ISR_CONFIG);
}

void virtio_set_config(struct virtio_device *d, unsigned offset, const void *data,
	unsigned bytes, bool tell)
{
	assert(range_inside(offset, bytes, d->config_bytes));
	pthread_mutex_lock(&d->config_lock);
	memcpy(d->config + offset, data, bytes);
	d->config_generation++;
	pthread_mutex_unlock(&d->config_lock);
	if (tell && (status_of(d) & STATUS_DRIVER_OK))
		virtio_interrupt(d, &d->config_vector, VIRTIO_ISR_CONFIG);
}

/* ---- set-up by the guest; d->lock is held ---------------------------------------- */

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
		virtio_queue_reset(&d->queue[i]);
	if (d->ops->reset)
		d->ops->reset(d);
	pci_set_intx(&d->pci, false);
}

/* Who takes its memory away is about to give that to another system, which has to find it untouched, also
 * when it lets the device in again and has not reset it yet: the driver is no longer there. */
static void virtio_mastered(struct pci_function *f)
{
	struct virtio_device *d = container_of(f, struct virtio_device, pci);

	pthread_mutex_lock(&d->lock);
	if (!pci_is_master(f)) {
		stop_serving(d);
		__atomic_fetch_and(
			&d->status, (uint8_t)~STATUS_DRIVER_OK, __ATOMIC_ACQ_REL);
	}
	start_serving(d);
	pthread_mutex_unlock(&d->lock);
}

static struct virtio_queue *selected(struct virtio_device *d)
{
	return d->queue_select < d->n_queues ? &d->queue[d->queue_select] : NULL;
}

static void set_status(struct virtio_device *d, uint8_t value)
{
	/* Features that queues were set up with stay as they are. */
	const uint8_t lasting = STATUS_NEEDS_RESET | STATUS_FEATURES_OK;
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
	while (!__atomic_compare_exchange_n(&d->status, &old, value | (old & lasting),
		true, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
		;
	start_serving(d);
}

/* While the device is served: after it was reset alone. */
static void enable_queue(struct virtio_queue *q)
{
	if (!q || q->enabled || !(status_of(q->d) & STATUS_FEATURES_OK) ||
		(q->d->serving && !virtio_has(q->d, VIRTIO_F_RING_RESET)))
		return;
	if (!virtio_queue_fits(q)) {
		virtio_break(q->d, "a queue does not lie in memory");
		return;
	}
	q->enabled = true;
	if (q->d->serving)
		start_or_fail(q);
}

/* One queue alone (2.6.1); it is done when this returns. */
static void reset_one(struct virtio_queue *q)
{
	if (!q || !q->enabled || !virtio_has(q->d, VIRTIO_F_RING_RESET))
		return;
	virtio_queue_stop(q);
	virtio_queue_reset(q);
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
		if (q)
			virtio_queue_resize(q, value);
		break;
	case QUEUE_VECTOR:
		if (q)
			set_vector(d, &q->vector, value);
		break;
	case QUEUE_ENABLE:
		if (value == 1)
			enable_queue(q);
		break;
	case QUEUE_RESET:
		if (value == 1)
			reset_one(q);
		break;
	default:
		if (q && offset >= QUEUE_DESC && offset < QUEUE_NOTIFY_DATA && bytes >= 4)
			set_address(q, offset, bytes, value);
		break;
	}
}

static uint64_t address_of(const struct virtio_queue *q, unsigned offset)
{
	const uint64_t fields[] = {q->desc, q->avail, q->used};

	return fields[(offset - QUEUE_DESC) / 8] >> (offset & 4 ? 32 : 0);
}

static uint8_t generation(struct virtio_device *d)
{
	uint8_t n;

	pthread_mutex_lock(&d->config_lock);
	n = d->config_generation;
	pthread_mutex_unlock(&d->config_lock);
	return n;
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
		return generation(d);
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
		return q && offset >= QUEUE_DESC && offset < QUEUE_NOTIFY_DATA
			       ? address_of(q, offset)
			       : 0;
	}
}

/* ---- the BAR --------------------------------------------------------------------- */

static uint64_t config_read(struct virtio_device *d, unsigned offset, unsigned bytes)
{
	uint64_t value = 0;

	pthread_mutex_lock(&d->config_lock);
	for (unsigned i = 0; i < bytes; i++)
		if (offset + i < d->config_bytes)
			value |= (uint64_t)d->config[offset + i] << 8 * i;
	pthread_mutex_unlock(&d->config_lock);
	return value;
}

static void config_write(
	struct virtio_device *d, unsigned offset, unsigned bytes, uint64_t value)
{
	if (!d->ops->config_written)
		return;
	pthread_mutex_lock(&d->config_lock);
	for (unsigned i = 0; i < bytes; i++)
		if (offset + i < d->config_bytes)
			d->config[offset + i] = (uint8_t)(value >> 8 * i);
	pthread_mutex_unlock(&d->config_lock);
	d->ops->config_written(d, offset, bytes);
}

/* Reading the interrupt status clears it (4.1.4.5). */
static uint64_t isr_read(struct virtio_device *d)
{
	unsigned isr = __atomic_exchange_n(&d->isr, 0, __ATOMIC_ACQ_REL);

	pci_set_intx(&d->pci, false);
	/* Raised meanwhile, for what is not told here. */
	if (__atomic_load_n(&d->isr, __ATOMIC_SEQ_CST))
		pci_set_intx(&d->pci, true);
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
		virtio_queue_kick(&d->queue[offset / NOTIFY_STEP]);
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
			.fd = d->queue[i].kick_fd,
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
	pci_set_window(&d->pci, add_capability(d, CAP_WINDOW, 0, 0, 20));
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

/* Of its queues, that many. */
static void undo(struct virtio_device *d, unsigned queues)
{
	for (unsigned i = 0; i < queues; i++)
		virtio_queue_free(&d->queue[i]);
	pthread_mutex_destroy(&d->lock);
	pthread_mutex_destroy(&d->config_lock);
}

static void virtio_free(struct device *dev)
{
	struct virtio_device *d = (struct virtio_device *)dev;

	virtio_stop(dev);
	pci_remove(&d->pci);
	undo(d, d->n_queues);
	d->ops->free(d);
}

/* ---- state ----------------------------------------------------------------------- */

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
	state_check(s,
		!(d->status & STATUS_FEATURES_OK) || !(d->driver_features & ~d->features),
		"the guest took features that it was not offered");
	state_u8(s, &d->config_generation);
	state_u32(s, &isr);
	state_bytes(s, d->config, d->config_bytes);
	d->isr = isr;
	for (unsigned i = 0; i < d->n_queues; i++)
		virtio_queue_state(&d->queue[i], s);
	if (d->ops->state)
		d->ops->state(d, s, version);
}

int virtio_add(struct virtio_device *d, struct vm *vm, struct pci *pci, int slot,
	struct err *err)
{
	struct pci_identity id = {.vendor = VENDOR,
		.device = DEVICE_BASE + d->ops->id,
		.subsystem_vendor = VENDOR,
		.subsystem = (uint16_t)(SUBSYSTEM_BASE + d->ops->id),
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
	d->features |= 1ull << VIRTIO_F_VERSION_1 | 1ull << VIRTIO_F_INDIRECT_DESC |
		       1ull << VIRTIO_F_EVENT_IDX | 1ull << VIRTIO_F_RING_RESET;
	d->paused = true;
	pthread_mutex_init(&d->lock, NULL);
	pthread_mutex_init(&d->config_lock, NULL);
	pci_function_init(&d->pci, vm, &id);
	d->pci.mastered = virtio_mastered;
	pci_set_vectors(&d->pci, d->n_queues + 1, MSIX_BAR);
	pci_set_bar(&d->pci, BAR, BAR_BYTES, &bar_bus, d);
	d->pci.bar[BAR].moved = bar_moved;
	add_capabilities(d);
	for (unsigned i = 0; i < d->n_queues; i++) {
		int ret = virtio_queue_init(&d->queue[i], d, i);

		if (ret) {
			undo(d, i);
			return err_errno(err, -ret, "virtio");
		}
	}
	if (pci_add(pci, &d->pci, slot, err)) {
		undo(d, d->n_queues);
		return -err->code;
	}
	d->device.instance = d->pci.slot;
	vm_add_device(vm, &d->device);
	return 0;
}
