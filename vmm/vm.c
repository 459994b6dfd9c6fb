/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The machine and its states. See vm.h.
 *
 * KVM has the 8259s, the I/O APIC, the local APICs and the PIT; the rest is ours.
 */
#include "vmm/vm.h"

#include <assert.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <linux/kvm.h>

#include "base/math.h"

/* Pages that KVM uses for itself on Intel; in the hole, below the firmware. */
#define IDENTITY_MAP 0xfeffc000ull
#define TSS_ADDRESS  0xfeffd000ul

/* ---- making it ------------------------------------------------------------------- */

static int need(int kvm_fd, long extension, const char *what, struct err *err)
{
	if (ioctl(kvm_fd, KVM_CHECK_EXTENSION, extension) > 0)
		return 0;
	return err_set(err, ENOTSUP, "/dev/kvm: this kernel has no %s", what);
}

static int open_kvm(struct vm *vm, struct err *err)
{
	int ret;

	vm->kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (vm->kvm_fd < 0)
		return err_errno(err, errno, "/dev/kvm");
	if (ioctl(vm->kvm_fd, KVM_GET_API_VERSION, 0) != KVM_API_VERSION)
		return err_set(err, ENOTSUP, "/dev/kvm: not version %d of its interface",
			KVM_API_VERSION);
	ret = need(vm->kvm_fd, KVM_CAP_IRQCHIP, "interrupt controllers (KVM_CAP_IRQCHIP)",
		err);
	ret = ret ? ret : need(vm->kvm_fd, KVM_CAP_PIT2, "timer (KVM_CAP_PIT2)", err);
	ret = ret ? ret : need(vm->kvm_fd, KVM_CAP_USER_MEMORY, "user memory", err);
	ret = ret ? ret : need(vm->kvm_fd, KVM_CAP_IMMEDIATE_EXIT, "immediate exit", err);
	ret = ret ? ret : need(vm->kvm_fd, KVM_CAP_SIGNAL_MSI, "message interrupts", err);
	ret = ret ? ret : need(vm->kvm_fd, KVM_CAP_IRQFD, "irqfd", err);
	ret = ret ? ret : need(vm->kvm_fd, KVM_CAP_IOEVENTFD, "ioeventfd", err);
	return ret;
}

static int make_vm(struct vm *vm, struct err *err)
{
	uint64_t identity = IDENTITY_MAP;
	struct kvm_pit_config pit = {.flags = KVM_PIT_SPEAKER_DUMMY};
	int bytes = ioctl(vm->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);

	vm->fd = ioctl(vm->kvm_fd, KVM_CREATE_VM, 0);
	if (vm->fd < 0 || bytes < 0)
		return err_errno(err, errno, "/dev/kvm: cannot make a machine");
	vm->run_bytes = (size_t)bytes;
	if (ioctl(vm->fd, KVM_SET_IDENTITY_MAP_ADDR, &identity) ||
		ioctl(vm->fd, KVM_SET_TSS_ADDR, TSS_ADDRESS) ||
		ioctl(vm->fd, KVM_CREATE_IRQCHIP, 0) ||
		ioctl(vm->fd, KVM_CREATE_PIT2, &pit))
		return err_errno(
			err, errno, "/dev/kvm: cannot make interrupt controllers");
	return 0;
}

static int give_memory(struct vm *vm, struct err *err)
{
	for (unsigned i = 0; i < vm->memory.n; i++) {
		const struct memory_region *r = &vm->memory.region[i];
		struct kvm_userspace_memory_region slot = {.slot = i,
			.guest_phys_addr = r->base,
			.memory_size = r->bytes,
			.userspace_addr = (uintptr_t)r->host};

		if (ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, &slot))
			return err_errno(err, errno, "/dev/kvm: cannot give it %llu MiB",
				(unsigned long long)(r->bytes >> 20));
	}
	return 0;
}

static int make_vcpus(struct vm *vm, struct err *err)
{
	int ret = 0;

	vm->vcpu = calloc(vm->cpus, sizeof(*vm->vcpu));
	if (!vm->vcpu)
		return err_errno(err, ENOMEM, "vCPUs");
	for (unsigned i = 0; i < vm->cpus; i++)
		vm->vcpu[i].fd = -1;
	for (unsigned i = 0; i < vm->cpus && ret == 0; i++)
		ret = vcpu_new(&vm->vcpu[i], vm, i, err);
	return ret;
}

int vm_new(struct vm *vm, const struct memory_options *memory, unsigned cpus,
	struct err *err)
{
	int ret;

	assert(cpus >= 1 && cpus <= VM_CPUS_MAX);
	*vm = (struct vm){.kvm_fd = -1, .fd = -1, .cpus = cpus};
	pthread_mutex_init(&vm->lock, NULL);
	pthread_cond_init(&vm->changed, NULL);
	bus_init(&vm->pio);
	bus_init(&vm->mmio);
	ret = open_kvm(vm, err);
	ret = ret ? ret : make_vm(vm, err);
	ret = ret ? ret : memory_new(&vm->memory, memory, err);
	ret = ret ? ret : give_memory(vm, err);
	ret = ret ? ret : make_vcpus(vm, err);
	if (ret)
		vm_free(vm);
	return ret;
}

void vm_add_device(struct vm *vm, struct device *d)
{
	d->next = vm->devices;
	vm->devices = d;
}

static void end_vcpus(struct vm *vm)
{
	pthread_mutex_lock(&vm->lock);
	vm->ending = true;
	vm->running = false;
	pthread_cond_broadcast(&vm->changed);
	pthread_mutex_unlock(&vm->lock);
	for (unsigned i = 0; vm->vcpu && i < vm->cpus; i++) {
		vcpu_kick(&vm->vcpu[i]);
		vcpu_free(&vm->vcpu[i]);
	}
	free(vm->vcpu);
	vm->vcpu = NULL;
}

void vm_free(struct vm *vm)
{
	end_vcpus(vm);
	while (vm->devices) {
		struct device *d = vm->devices;

		vm->devices = d->next;
		d->ops->free(d);
	}
	if (vm->fd >= 0)
		close(vm->fd);
	if (vm->kvm_fd >= 0)
		close(vm->kvm_fd);
	memory_free(&vm->memory);
	bus_free(&vm->pio);
	bus_free(&vm->mmio);
	pthread_cond_destroy(&vm->changed);
	pthread_mutex_destroy(&vm->lock);
}

/* ---- running --------------------------------------------------------------------- */

void vm_ask(struct vm *vm, enum vm_request request)
{
	pthread_mutex_lock(&vm->lock);
	/* The worse wish stands: who failed is not reset. */
	if (request > vm->request)
		vm->request = request;
	pthread_cond_broadcast(&vm->changed);
	pthread_mutex_unlock(&vm->lock);
}

void vm_fail(struct vm *vm, const char *fmt, ...)
{
	va_list ap;

	pthread_mutex_lock(&vm->lock);
	if (!vm->failure[0]) {
		va_start(ap, fmt);
		vsnprintf(vm->failure, sizeof(vm->failure), fmt, ap);
		va_end(ap);
	}
	pthread_mutex_unlock(&vm->lock);
	vm_ask(vm, VM_FAILED);
}

static void each_device(struct vm *vm, void (*fn)(struct device *d))
{
	for (struct device *d = vm->devices; d; d = d->next)
		fn(d);
}

static void start_device(struct device *d)
{
	if (d->ops->start)
		d->ops->start(d);
}

static void stop_device(struct device *d)
{
	if (d->ops->stop)
		d->ops->stop(d);
}

static void reset_device(struct device *d)
{
	if (d->ops->reset)
		d->ops->reset(d);
}

/* Until every vCPU has left the guest. The lock is held. */
static void stop_vcpus(struct vm *vm)
{
	vm->running = false;
	for (unsigned i = 0; i < vm->cpus; i++)
		vcpu_kick(&vm->vcpu[i]);
	while (vm->inside)
		pthread_cond_wait(&vm->changed, &vm->lock);
}

static int reset(struct vm *vm)
{
	int ret = 0;

	each_device(vm, reset_device);
	for (unsigned i = 0; i < vm->cpus && ret == 0; i++)
		ret = vcpu_reset(&vm->vcpu[i]);
	return ret;
}

static int start_threads(struct vm *vm, struct err *err)
{
	int ret = 0;

	for (unsigned i = 0; i < vm->cpus && ret == 0; i++)
		ret = vcpu_start(&vm->vcpu[i], err);
	return ret;
}

/* What is to be done next, when no vCPU runs any more. */
static enum vm_request run_until_asked(struct vm *vm)
{
	enum vm_request request;

	each_device(vm, start_device);
	pthread_mutex_lock(&vm->lock);
	vm->running = true;
	pthread_cond_broadcast(&vm->changed);
	while (vm->request == VM_NOTHING)
		pthread_cond_wait(&vm->changed, &vm->lock);
	stop_vcpus(vm);
	request = vm->request;
	vm->request = VM_NOTHING;
	pthread_mutex_unlock(&vm->lock);
	each_device(vm, stop_device);
	return request;
}

int vm_run(struct vm *vm, struct err *err)
{
	enum vm_request request;
	int ret = start_threads(vm, err);

	if (ret)
		return ret;
	do {
		ret = reset(vm);
		if (ret)
			return err_errno(err, -ret, "a vCPU cannot be reset");
		request = run_until_asked(vm);
	} while (request == VM_RESET && !vm->entry);
	/* A kernel that was loaded into memory is not there any more: its end is the end. */
	if (request == VM_FAILED)
		return err_set(err, EIO, "%s", vm->failure);
	return 0;
}

/* ---- interrupts ------------------------------------------------------------------ */

void vm_set_irq(struct vm *vm, unsigned gsi, bool high)
{
	struct kvm_irq_level line = {.irq = gsi, .level = high};

	if (ioctl(vm->fd, KVM_IRQ_LINE, &line))
		vm_fail(vm, "interrupt line %u: %s", gsi, strerror(errno));
}

int vm_send_msi(struct vm *vm, uint64_t address, uint32_t data)
{
	struct kvm_msi msi = {.address_lo = (uint32_t)address,
		.address_hi = (uint32_t)(address >> 32),
		.data = data};

	return ioctl(vm->fd, KVM_SIGNAL_MSI, &msi) < 0 ? -errno : 0;
}
