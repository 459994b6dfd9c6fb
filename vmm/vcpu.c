/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A vCPU: a thread that is in the guest, or handles what made it leave. To make it leave
 * another sets immediate_exit and sends a signal, whose handler does nothing: KVM_RUN then
 * ends with EINTR, whether it had begun or not.
 */
#include "vmm/vm.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>
#include <linux/kvm.h>

#include "base/math.h"
#include "vmm/confine.h"

#define KICK_SIGNAL     (SIGRTMIN + 1)
#define CPUID_ENTRIES   256
#define FLAT_CODE       0x10
#define FLAT_DATA       0x18
#define CR0_PROTECTED   0x11 /* PE, ET */
#define MSR_MISC_ENABLE 0x1a0
#define FAST_STRINGS    1
#define LINT1_REGISTER  0x360
#define LINT1_MASK      0x10700 /* masked, delivery mode */
#define LINT1_NMI       0x400

const char *const vcpu_exit_names[VCPU_EXITS] = {
	"io", "mmio", "interrupt", "shutdown", "other"};

/* ---- what it is ------------------------------------------------------------------ */

static unsigned log2_up(unsigned n)
{
	unsigned bits = 0;

	while (1u << bits < n)
		bits++;
	return bits;
}

uint32_t vcpu_apic_id(const struct vm_topology *t, unsigned index)
{
	unsigned thread_bits = log2_up(t->threads), core_bits = log2_up(t->cores);
	unsigned thread = index % t->threads, core = index / t->threads % t->cores,
		 socket = index / t->threads / t->cores;

	return socket << (core_bits + thread_bits) | core << thread_bits | thread;
}

/* Intel's caches (leaf 4): the first two levels belong to a core, the third to the socket. */
static void set_cache(struct kvm_cpuid_entry2 *e, const struct vm_topology *t)
{
	unsigned level = e->eax >> 5 & 7, bits = log2_up(t->threads);

	if (level > 2)
		bits += log2_up(t->cores);
	e->eax = (e->eax & 0x3fff) | ((1u << bits) - 1) << 14 |
		 ((1u << log2_up(t->cores)) - 1) << 26;
}

/* Levels of the APIC's number (leaf 0xb): threads in a core, then processors in a socket. */
static void set_level(struct kvm_cpuid_entry2 *e, const struct vcpu *c)
{
	const struct vm_topology *t = &c->vm->topology;

	e->edx = c->apic_id;
	e->ecx = e->index & 0xff;
	e->eax = e->ebx = 0;
	if (e->index == 0) {
		e->eax = log2_up(t->threads);
		e->ebx = t->threads;
		e->ecx |= 1 << 8;
	} else if (e->index == 1) {
		e->eax = log2_up(t->threads) + log2_up(t->cores);
		e->ebx = t->cores * t->threads;
		e->ecx |= 2 << 8;
	}
}

/* Where it stands among the others; the rest as KVM offers it. */
static void set_topology(struct kvm_cpuid_entry2 *e, const struct vcpu *c)
{
	const struct vm_topology *t = &c->vm->topology;
	unsigned in_socket = t->cores * t->threads;

	switch (e->function) {
	case 0x1:
		e->ebx = (e->ebx & 0xff00) | c->apic_id << 24 | in_socket << 16;
		e->ecx |= 1u << 31; /* under a hypervisor */
		e->edx = (e->edx & ~(1u << 28)) | (in_socket > 1 ? 1u << 28 : 0);
		break;
	case 0x4:
		set_cache(e, t);
		break;
	case 0xb:
	case 0x1f:
		set_level(e, c);
		break;
	case 0x80000008:
		e->ecx = (e->ecx & ~0xf0ffu) | (in_socket - 1) |
			 (log2_up(t->threads) + log2_up(t->cores)) << 12;
		break;
	case 0x8000001d: /* as leaf 4, of AMD */
		e->eax = (e->eax & 0x3fff) |
			 ((e->eax >> 5 & 7) > 2 ? in_socket - 1 : t->threads - 1) << 14;
		break;
	case 0x8000001e:
		e->eax = c->apic_id;
		e->ebx = (c->apic_id >> log2_up(t->threads) & 0xff) | (t->threads - 1)
									      << 8;
		e->ecx = 0;
		break;
	default:
		break;
	}
}

static int set_cpuid(struct vcpu *c)
{
	struct kvm_cpuid2 *id =
		calloc(1, sizeof(*id) + CPUID_ENTRIES * sizeof(*id->entries));
	int ret = 0;

	if (!id)
		return -ENOMEM;
	id->nent = CPUID_ENTRIES;
	if (ioctl(c->vm->kvm_fd, KVM_GET_SUPPORTED_CPUID, id))
		ret = -errno;
	for (unsigned i = 0; ret == 0 && i < id->nent; i++)
		set_topology(&id->entries[i], c);
	if (ret == 0 && ioctl(c->fd, KVM_SET_CPUID2, id))
		ret = -errno;
	free(id);
	return ret;
}

/* LINT0 takes the 8259's interrupts, LINT1 NMIs, as firmware leaves them. */
static int set_lapic(struct vcpu *c)
{
	struct kvm_lapic_state lapic;
	uint32_t *lint0 = (uint32_t *)(void *)(lapic.regs + 0x350);
	uint32_t *lint1 = (uint32_t *)(void *)(lapic.regs + LINT1_REGISTER);

	if (ioctl(c->fd, KVM_GET_LAPIC, &lapic))
		return -errno;
	*lint0 = (*lint0 & ~0x700u) | 0x700;
	*lint1 = (*lint1 & ~0x700u) | LINT1_NMI;
	return ioctl(c->fd, KVM_SET_LAPIC, &lapic) ? -errno : 0;
}

static int set_msrs(struct vcpu *c)
{
	struct kvm_msrs *msrs = calloc(1, sizeof(*msrs) + sizeof(*msrs->entries));
	int ret;

	if (!msrs)
		return -ENOMEM;
	msrs->nmsrs = 1;
	msrs->entries[0].index = MSR_MISC_ENABLE;
	msrs->entries[0].data = FAST_STRINGS;
	ret = ioctl(c->fd, KVM_SET_MSRS, msrs) < 0 ? -errno : 0;
	free(msrs);
	return ret;
}

int vcpu_new(struct vcpu *c, struct vm *vm, unsigned index, struct err *err)
{
	int ret;

	*c = (struct vcpu){.vm = vm,
		.index = index,
		.apic_id = vcpu_apic_id(&vm->topology, index),
		.fd = -1};
	c->fd = ioctl(vm->fd, KVM_CREATE_VCPU, (unsigned long)c->apic_id);
	if (c->fd < 0)
		return err_errno(err, errno, "/dev/kvm: cannot make vCPU %u", index);
	c->run = mmap(NULL, vm->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, c->fd, 0);
	if (c->run == MAP_FAILED) {
		c->run = NULL;
		return err_errno(err, errno, "vCPU %u", index);
	}
	ret = set_cpuid(c);
	ret = ret ? ret : set_lapic(c);
	ret = ret ? ret : set_msrs(c);
	ret = ret ? ret : vcpu_keep(c);
	return ret ? err_errno(err, -ret, "vCPU %u cannot be set up", index) : 0;
}

void vcpu_free(struct vcpu *c)
{
	if (c->started)
		pthread_join(c->thread, NULL);
	c->started = false;
	if (c->run)
		munmap(c->run, c->vm->run_bytes);
	if (c->fd >= 0)
		close(c->fd);
	state_free(c->initial);
	c->initial = NULL;
	c->run = NULL;
	c->fd = -1;
}

/* ---- registers after a reset ----------------------------------------------------- */

static struct kvm_segment flat(unsigned selector, unsigned type)
{
	return (struct kvm_segment){.selector = (uint16_t)selector,
		.limit = 0xffffffff,
		.type = (uint8_t)type,
		.present = 1,
		.db = 1,
		.s = 1,
		.g = 1};
}

/* Flat 32-bit protected mode without paging, as the Linux boot protocols want it. */
static int enter_flat(struct vcpu *c)
{
	const struct vm *vm = c->vm;
	struct kvm_regs regs = {.rip = vm->entry,
		.rbx = vm->entry_ebx,
		.rsi = vm->entry_esi,
		.rflags = 2};
	struct kvm_sregs s;

	if (ioctl(c->fd, KVM_GET_SREGS, &s))
		return -errno;
	s.cs = flat(FLAT_CODE, 0xb);
	s.ds = s.es = s.fs = s.gs = s.ss = flat(FLAT_DATA, 0x3);
	s.cr0 = CR0_PROTECTED;
	s.cr3 = s.cr4 = s.efer = 0;
	if (ioctl(c->fd, KVM_SET_SREGS, &s) || ioctl(c->fd, KVM_SET_REGS, &regs))
		return -errno;
	return 0;
}

/* The others wait for the first one to wake them. */
int vcpu_reset(struct vcpu *c)
{
	int ret = vcpu_restore(c);

	if (ret || c->index || !c->vm->entry)
		return ret;
	return enter_flat(c);
}

/* As a chipset would raise it: by LINT1, which the guest may have masked. */
int vcpu_nmi(struct vcpu *c)
{
	struct kvm_lapic_state lapic;
	uint32_t lint1;

	if (ioctl(c->fd, KVM_GET_LAPIC, &lapic))
		return -errno;
	memcpy(&lint1, lapic.regs + LINT1_REGISTER, sizeof(lint1));
	if ((lint1 & LINT1_MASK) != LINT1_NMI)
		return 0;
	return ioctl(c->fd, KVM_NMI) ? -errno : 0;
}

/* ---- exits ----------------------------------------------------------------------- */

static uint64_t load(const uint8_t *p, unsigned bytes)
{
	uint64_t value = 0;

	memcpy(&value, p, bytes);
	return value;
}

static void do_pio(struct vcpu *c)
{
	struct kvm_run *run = c->run;
	uint8_t *data = (uint8_t *)run + run->io.data_offset;
	uint64_t value;

	for (uint32_t i = 0; i < run->io.count; i++, data += run->io.size) {
		if (run->io.direction == KVM_EXIT_IO_OUT) {
			bus_write(&c->vm->pio, run->io.port, run->io.size,
				load(data, run->io.size));
			continue;
		}
		value = bus_read(&c->vm->pio, run->io.port, run->io.size);
		memcpy(data, &value, run->io.size);
	}
}

static void do_mmio(struct vcpu *c)
{
	struct kvm_run *run = c->run;
	unsigned bytes = run->mmio.len;
	uint64_t value;

	if (run->mmio.is_write) {
		bus_write(&c->vm->mmio, run->mmio.phys_addr, bytes,
			load(run->mmio.data, bytes));
		return;
	}
	value = bus_read(&c->vm->mmio, run->mmio.phys_addr, bytes);
	memcpy(run->mmio.data, &value, bytes);
}

static void count_exit(struct vcpu *c, uint32_t reason)
{
	enum vcpu_exit kind =
		reason == KVM_EXIT_IO     ? VCPU_EXIT_IO
		: reason == KVM_EXIT_MMIO ? VCPU_EXIT_MMIO
		: reason == KVM_EXIT_INTR ? VCPU_EXIT_INTERRUPT
		: reason == KVM_EXIT_SHUTDOWN || reason == KVM_EXIT_SYSTEM_EVENT
			? VCPU_EXIT_SHUTDOWN
			: VCPU_EXIT_OTHER;

	/* One writer: no locked instruction for each exit. */
	__atomic_store_n(&c->exits[kind], c->exits[kind] + 1, __ATOMIC_RELAXED);
}

/* Says what the guest was at, if KVM tells. */
static void fail_internally(struct vcpu *c)
{
	const struct kvm_run *run = c->run;
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	char place[32] = "";
	char bytes[3 * sizeof(run->emulation_failure.insn_bytes) + 1] = "";
	unsigned n = 0;

	if (run->internal.suberror != KVM_INTERNAL_ERROR_EMULATION) {
		vm_fail(c->vm, "vCPU %u: KVM cannot go on (internal error %u)", c->index,
			run->internal.suberror);
		return;
	}
	if (run->emulation_failure.ndata >= 3 &&
		run->emulation_failure.flags &
			KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES)
		n = MIN(run->emulation_failure.insn_size,
			sizeof(run->emulation_failure.insn_bytes));
	for (unsigned i = 0; i < n; i++)
		sprintf(bytes + 3 * i, " %02x", run->emulation_failure.insn_bytes[i]);
	if (ioctl(c->fd, KVM_GET_REGS, &regs) == 0 &&
		ioctl(c->fd, KVM_GET_SREGS, &sregs) == 0)
		snprintf(place, sizeof(place), " at 0x%llx",
			(unsigned long long)(sregs.cs.base + regs.rip));
	vm_fail(c->vm, "vCPU %u: KVM cannot emulate an instruction%s%s%s", c->index,
		place, n ? ":" : "", bytes);
}

static void handle_exit(struct vcpu *c)
{
	const struct kvm_run *run = c->run;

	count_exit(c, run->exit_reason);
	switch (run->exit_reason) {
	case KVM_EXIT_IO:
		do_pio(c);
		break;
	case KVM_EXIT_MMIO:
		do_mmio(c);
		break;
	case KVM_EXIT_INTR:
	case KVM_EXIT_IRQ_WINDOW_OPEN:
		break;
	case KVM_EXIT_SHUTDOWN: /* a triple fault, which is how some guests reboot */
		vm_ask(c->vm, VM_RESET);
		break;
	case KVM_EXIT_SYSTEM_EVENT:
		vm_ask(c->vm, run->system_event.type == KVM_SYSTEM_EVENT_RESET
				      ? VM_RESET
				      : VM_POWER_OFF);
		break;
	case KVM_EXIT_FAIL_ENTRY:
		vm_fail(c->vm, "vCPU %u cannot enter the guest: hardware reason 0x%llx",
			c->index,
			(unsigned long long)
				run->fail_entry.hardware_entry_failure_reason);
		break;
	case KVM_EXIT_INTERNAL_ERROR:
		fail_internally(c);
		break;
	default:
		vm_fail(c->vm, "vCPU %u: unknown exit %u", c->index, run->exit_reason);
		break;
	}
}

/* ---- the thread ------------------------------------------------------------------ */

static void kicked(int signal)
{
	(void)signal;
}

/* Until the machine runs anew: in each of its rounds a vCPU goes in once. False: the machine ends. */
static bool wait_for_round(struct vcpu *c)
{
	struct vm *vm = c->vm;
	bool go;

	pthread_mutex_lock(&vm->lock);
	while (!(vm->running && c->round != vm->round) && !vm->ending)
		pthread_cond_wait(&vm->changed, &vm->lock);
	go = !vm->ending;
	if (go) {
		c->round = vm->round;
		vm->inside++;
		__atomic_store_n(&c->run->immediate_exit, 0, __ATOMIC_RELEASE);
	}
	pthread_mutex_unlock(&vm->lock);
	return go;
}

static void has_left(struct vm *vm)
{
	pthread_mutex_lock(&vm->lock);
	vm->inside--;
	pthread_cond_broadcast(&vm->changed);
	pthread_mutex_unlock(&vm->lock);
}

/* True: it goes on. */
static bool enter_guest(struct vcpu *c)
{
	if (ioctl(c->fd, KVM_RUN, 0) == 0) {
		handle_exit(c);
		return true;
	}
	if (errno == EINTR || errno == EAGAIN)
		count_exit(c, KVM_EXIT_INTR);
	else
		vm_fail(c->vm, "vCPU %u: %s", c->index, strerror(errno));
	return false;
}

/* Whoever asked for a reset is not let in again before: KVM may leave a vCPU as after INIT when
 * it meets a triple fault, and it would go on where firmware begins.
 *
 * An access that made it leave is finished by the next KVM_RUN, and may take several: with
 * immediate_exit they are made until there is nothing to finish, before the vCPU counts as outside.
 * Its registers are whole then. */
static void run_guest(struct vcpu *c)
{
	while (!__atomic_load_n(&c->run->immediate_exit, __ATOMIC_ACQUIRE) &&
		!vm_has_request(c->vm))
		enter_guest(c);
	__atomic_store_n(&c->run->immediate_exit, 1, __ATOMIC_RELEASE);
	while (enter_guest(c))
		;
}

static void *vcpu_main(void *arg)
{
	struct vcpu *c = arg;

	confine_thread(CONFINE_VCPU);
	__atomic_store_n(&c->tid, (int)gettid(), __ATOMIC_RELAXED);
	while (wait_for_round(c)) {
		run_guest(c);
		has_left(c->vm);
	}
	return NULL;
}

int vcpu_start(struct vcpu *c, struct err *err)
{
	struct sigaction action = {.sa_handler = kicked};
	int ret;

	sigaction(KICK_SIGNAL, &action, NULL);
	ret = pthread_create(&c->thread, NULL, vcpu_main, c);
	if (ret)
		return err_errno(err, ret, "vCPU %u: no thread", c->index);
	c->started = true;
	return 0;
}

void vcpu_kick(struct vcpu *c)
{
	if (!c->started)
		return;
	__atomic_store_n(&c->run->immediate_exit, 1, __ATOMIC_RELEASE);
	pthread_kill(c->thread, KICK_SIGNAL);
}
