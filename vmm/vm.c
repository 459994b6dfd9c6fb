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

int vm_set_slot(struct vm *vm, unsigned slot, uint64_t base, uint64_t bytes, void *host,
	bool read_only)
{
	struct kvm_userspace_memory_region region = {.slot = slot,
		.flags = read_only ? KVM_MEM_READONLY : 0,
		.guest_phys_addr = base,
		.memory_size = bytes,
		.userspace_addr = (uintptr_t)host};

	if (vm->fd < 0) /* a board without KVM: every access comes to the bus */
		return 0;
	return ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, &region) ? -errno : 0;
}

static int give_memory(struct vm *vm, struct err *err)
{
	for (unsigned i = 0; i < vm->memory.n; i++) {
		const struct memory_region *r = &vm->memory.region[i];
		int ret = vm_set_slot(vm, i, r->base, r->bytes, r->host, false);

		if (ret)
			return err_errno(err, -ret, "/dev/kvm: cannot give it %llu MiB",
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

#define APIC_ID_MAX 254u /* 255 is all of them */

static int check_topology(const struct vm_topology *t, struct err *err)
{
	uint64_t cpus = (uint64_t)t->sockets * t->cores * t->threads;

	if (!cpus || cpus > VM_CPUS_MAX)
		return err_set(err, EINVAL,
			"%u sockets of %u cores of %u threads: 1 to %u "
			"processors can be had",
			t->sockets, t->cores, t->threads, VM_CPUS_MAX);
	if (vcpu_apic_id(t, (unsigned)cpus - 1) > APIC_ID_MAX)
		return err_set(err, EINVAL,
			"%u sockets of %u cores of %u threads have no "
			"numbers below %u",
			t->sockets, t->cores, t->threads, APIC_ID_MAX + 1);
	return 0;
}

int vm_new(struct vm *vm, const struct memory_options *memory,
	const struct vm_topology *topology, struct err *err)
{
	int ret = check_topology(topology, err);

	if (ret)
		return ret;
	*vm = (struct vm){.kvm_fd = -1,
		.fd = -1,
		.cpus = topology->sockets * topology->cores * topology->threads,
		.topology = *topology};
	pthread_mutex_init(&vm->lock, NULL);
	pthread_cond_init(&vm->changed, NULL);
	bus_init(&vm->pio);
	bus_init(&vm->mmio);
	ret = open_kvm(vm, err);
	ret = ret ? ret : make_vm(vm, err);
	ret = ret ? ret : memory_new(&vm->memory, memory, err);
	ret = ret ? ret : give_memory(vm, err);
	ret = ret ? ret : vm_keep_chips(vm, err);
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

void vm_remove_device(struct vm *vm, struct device *d)
{
	struct device **at = &vm->devices;

	while (*at && *at != d)
		at = &(*at)->next;
	assert(*at);
	*at = d->next;
	d->ops->free(d);
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
	state_free(vm->initial);
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

/* ---- asking ---------------------------------------------------------------------- */

void vm_ask(struct vm *vm, enum vm_request request)
{
	pthread_mutex_lock(&vm->lock);
	/* The worse wish stands: who failed is not reset. */
	if (request > vm->request)
		__atomic_store_n(&vm->request, request, __ATOMIC_RELEASE);
	pthread_cond_broadcast(&vm->changed);
	pthread_mutex_unlock(&vm->lock);
}

bool vm_has_request(const struct vm *vm)
{
	return __atomic_load_n(&vm->request, __ATOMIC_ACQUIRE) != VM_NOTHING;
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

static void want(struct vm *vm, enum vm_status status)
{
	pthread_mutex_lock(&vm->lock);
	vm->wanted = status;
	pthread_cond_broadcast(&vm->changed);
	pthread_mutex_unlock(&vm->lock);
}

/* Why it was first stopped stands. Whoever goes on before it had stopped lets it stop all the
 * same: devices keep requests until then. */
void vm_pause(struct vm *vm, enum vm_status why)
{
	pthread_mutex_lock(&vm->lock);
	if (vm->wanted == VM_STATUS_RUNNING)
		vm->wanted = why;
	vm->stop_once = true;
	pthread_cond_broadcast(&vm->changed);
	pthread_mutex_unlock(&vm->lock);
}

void vm_resume(struct vm *vm)
{
	want(vm, VM_STATUS_RUNNING);
}

enum vm_status vm_status(struct vm *vm)
{
	enum vm_status status;

	pthread_mutex_lock(&vm->lock);
	status = vm->wanted;
	pthread_mutex_unlock(&vm->lock);
	return status;
}

void vm_came_back(struct vm *vm)
{
	pthread_mutex_lock(&vm->lock);
	if (vm->wanted == VM_STATUS_SHUTDOWN || vm->wanted == VM_STATUS_IO_ERROR)
		vm->wanted = VM_STATUS_PAUSED;
	pthread_mutex_unlock(&vm->lock);
}

uint64_t vm_round(const struct vm *vm)
{
	return __atomic_load_n(&vm->round, __ATOMIC_ACQUIRE);
}

bool vm_stopping(struct vm *vm)
{
	return __atomic_load_n(&vm->stopping, __ATOMIC_ACQUIRE);
}

int vm_call(struct vm *vm, void (*fn)(void *arg), void *arg)
{
	struct vm_call call = {.fn = fn, .arg = arg}, **last = &vm->calls;

	pthread_mutex_lock(&vm->lock);
	while (*last)
		last = &(*last)->next;
	if (!vm->ended)
		*last = &call;
	pthread_cond_broadcast(&vm->changed);
	while (!call.done && !vm->ended)
		pthread_cond_wait(&vm->changed, &vm->lock);
	pthread_mutex_unlock(&vm->lock);
	return call.done ? 0 : -ESHUTDOWN;
}

void vm_notify(struct vm *vm, enum vm_event event, enum vm_request why)
{
	if (vm->notify)
		vm->notify(vm->notify_arg, event, why);
}

/* ---- running --------------------------------------------------------------------- */

static void start_devices(struct vm *vm)
{
	__atomic_store_n(&vm->stopping, false, __ATOMIC_RELEASE);
	for (struct device *d = vm->devices; d; d = d->next)
		if (d->ops->start)
			d->ops->start(d);
}

static void stop_devices(struct vm *vm)
{
	for (struct device *d = vm->devices; d; d = d->next)
		if (d->ops->stop)
			d->ops->stop(d);
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

int vm_reset(struct vm *vm)
{
	int ret = 0;

	for (struct device *d = vm->devices; d; d = d->next)
		if (d->ops->reset)
			d->ops->reset(d);
	ret = vm_reset_chips(vm);
	for (unsigned i = 0; i < vm->cpus && ret == 0; i++)
		ret = vcpu_reset(&vm->vcpu[i]);
	return ret;
}

/* Loading comes first: it says where the boot processor begins. */
static int begin_anew(struct vm *vm, struct err *err)
{
	int ret = vm->load ? vm->load(vm, vm->load_arg, err) : 0;

	if (ret)
		return ret;
	ret = vm_reset(vm);
	return ret ? err_errno(err, -ret, "a vCPU cannot be reset") : 0;
}

static int start_threads(struct vm *vm, struct err *err)
{
	int ret = 0;

	for (unsigned i = 0; i < vm->cpus && ret == 0; i++)
		ret = vcpu_start(&vm->vcpu[i], err);
	return ret;
}

/* The lock is held for the next two. */
static bool is_asked(const struct vm *vm)
{
	return vm->request || vm->calls;
}

static void answer_calls(struct vm *vm)
{
	while (vm->calls) {
		struct vm_call *call = vm->calls;

		pthread_mutex_unlock(&vm->lock);
		call->fn(call->arg);
		pthread_mutex_lock(&vm->lock);
		vm->calls = call->next;
		call->done = true;
		pthread_cond_broadcast(&vm->changed);
	}
}

/* In the guest, until somebody wants something else. The lock is held, and given up while
 * devices are told. What waits in them for its turn gives up before the vCPUs are waited for: one may
 * be resetting a device, and wait for that. */
static void run_guest(struct vm *vm)
{
	pthread_mutex_unlock(&vm->lock);
	vm_start_clock(vm);
	start_devices(vm);
	pthread_mutex_lock(&vm->lock);
	vm->running = true;
	__atomic_store_n(&vm->round, vm->round + 1, __ATOMIC_RELEASE);
	pthread_cond_broadcast(&vm->changed);
	while (!is_asked(vm) && vm->wanted == VM_STATUS_RUNNING && !vm->stop_once)
		pthread_cond_wait(&vm->changed, &vm->lock);
	vm->stop_once = false;
	__atomic_store_n(&vm->stopping, true, __ATOMIC_RELEASE);
	stop_vcpus(vm);
	pthread_mutex_unlock(&vm->lock);
	stop_devices(vm);
	vm_stop_clock(vm);
	pthread_mutex_lock(&vm->lock);
}

/* The next request; runs, stands and answers calls until there is one. Whoever waited for a call
 * finds that others have been told already whether it runs. */
static enum vm_request next_request(struct vm *vm, bool *ran)
{
	enum vm_request request;

	pthread_mutex_lock(&vm->lock);
	while (!vm->request) {
		bool runs = vm->wanted == VM_STATUS_RUNNING;

		if (runs != *ran) {
			*ran = runs;
			pthread_mutex_unlock(&vm->lock);
			vm_notify(vm, runs ? VM_EVENT_RESUME : VM_EVENT_STOP, VM_NOTHING);
			pthread_mutex_lock(&vm->lock);
		} else if (vm->calls) {
			answer_calls(vm);
		} else if (runs) {
			run_guest(vm);
		} else {
			pthread_cond_wait(&vm->changed, &vm->lock);
		}
	}
	request = vm->request;
	__atomic_store_n(&vm->request, VM_NOTHING, __ATOMIC_RELEASE);
	pthread_mutex_unlock(&vm->lock);
	return request;
}

/* Why it stood is over, whatever it was; that it stands is not. */
static void stand_anew(struct vm *vm)
{
	pthread_mutex_lock(&vm->lock);
	if (vm->wanted != VM_STATUS_RUNNING)
		vm->wanted = VM_STATUS_PRELAUNCH;
	pthread_mutex_unlock(&vm->lock);
}

/* Whether that is the end. */
static bool handle_request(
	struct vm *vm, enum vm_request request, int *ret, struct err *err)
{
	bool reset = request == VM_RESET || request == VM_RESET_OWNER;

	if (request == VM_FAILED) {
		vm_notify(vm, VM_EVENT_SHUTDOWN, request);
		*ret = err_set(err, EIO, "%s", vm->failure);
		return true;
	}
	if (reset && !vm->no_reboot) {
		vm_notify(vm, VM_EVENT_RESET, request);
		stand_anew(vm);
		*ret = begin_anew(vm, err);
		return *ret != 0;
	}
	vm_notify(vm, VM_EVENT_SHUTDOWN, request);
	if (!vm->no_shutdown || request == VM_QUIT)
		return true;
	want(vm, VM_STATUS_SHUTDOWN);
	return false;
}

static void end(struct vm *vm)
{
	pthread_mutex_lock(&vm->lock);
	vm->ended = true;
	vm->calls = NULL;
	pthread_cond_broadcast(&vm->changed);
	pthread_mutex_unlock(&vm->lock);
}

int vm_run(struct vm *vm, struct err *err)
{
	bool ran = vm->wanted == VM_STATUS_RUNNING, over = false;
	int ret = start_threads(vm, err);

	ret = ret ? ret : begin_anew(vm, err);
	if (ret == 0 && vm->begin)
		ret = vm->begin(vm, vm->begin_arg, err);
	while (ret == 0 && !over)
		over = handle_request(vm, next_request(vm, &ran), &ret, err);
	end(vm);
	return ret;
}

/* ---- interrupts ------------------------------------------------------------------ */

void vm_set_irq(struct vm *vm, unsigned gsi, bool high)
{
	struct kvm_irq_level line = {.irq = gsi, .level = high};

	if (ioctl(vm->fd, KVM_IRQ_LINE, &line))
		vm_fail(vm, "interrupt line %u: %s", gsi, strerror(errno));
}

struct nmi {
	struct vm *vm;
	int ret;
};

static void inject_nmi(void *arg)
{
	struct nmi *nmi = arg;

	for (unsigned i = 0; i < nmi->vm->cpus && nmi->ret == 0; i++)
		nmi->ret = vcpu_nmi(&nmi->vm->vcpu[i]);
}

int vm_inject_nmi(struct vm *vm)
{
	struct nmi nmi = {.vm = vm};
	int ret = vm_call(vm, inject_nmi, &nmi);

	return ret ? ret : nmi.ret;
}

int vm_send_msi(struct vm *vm, uint64_t address, uint32_t data)
{
	struct kvm_msi msi = {.address_lo = (uint32_t)address,
		.address_hi = (uint32_t)(address >> 32),
		.data = data};

	return ioctl(vm->fd, KVM_SIGNAL_MSI, &msi) < 0 ? -errno : 0;
}
