/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A vCPU's registers, saved and loaded: what KVM has of it (Documentation/virt/kvm/api.rst).
 *
 * Reading and setting have orders of their own, which are KVM's need, and the file a third. Reading: what
 * waits for the vCPU may be done to it when its state or its events are asked for, so these come first.
 * Setting: out of any virtualization of the guest's own, then special registers, since they say which
 * others there are; the local APIC before its timer's register, which it would clear; events last.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <linux/kvm.h>

#include "base/math.h"
#include "vmm/vm.h"

#define MSRS_MAX       512u
#define FEAT_CTL       0x3au
#define MTRRS_VARIABLE 16u   /* two for each range */
#define NESTED_BYTES   8192u /* more than KVM has of any kind */

struct registers {
	struct kvm_mp_state mp;
	struct kvm_vcpu_events events;
	struct kvm_sregs sregs;
	struct kvm_xcrs xcrs;
	struct kvm_lapic_state lapic;
	struct kvm_regs regs;
	struct kvm_debugregs debug;
	struct kvm_msrs *msrs;
	struct kvm_nested_state *nested; /* size 0: none */
	struct kvm_xsave xsave;          /* last, as it ends in an array of no length */
};

/* ---- model-specific registers ---------------------------------------------------- */

#define MSRS_BYTES (sizeof(struct kvm_msrs) + MSRS_MAX * sizeof(struct kvm_msr_entry))

/* Memory types, which KVM has and does not list. */
static void list_mtrrs(struct kvm_msrs *m)
{
	static const uint32_t fixed[] = {0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b,
		0x26c, 0x26d, 0x26e, 0x26f, 0x2ff};
	unsigned n = ARRAY_LEN(fixed) + MTRRS_VARIABLE;

	if (m->nmsrs + n > MSRS_MAX)
		return;
	for (unsigned i = 0; i < ARRAY_LEN(fixed); i++)
		m->entries[m->nmsrs++].index = fixed[i];
	for (unsigned i = 0; i < MTRRS_VARIABLE; i++)
		m->entries[m->nmsrs++].index = 0x200 + i;
}

static int list_msrs(struct vcpu *c, struct kvm_msrs *m)
{
	struct kvm_msr_list *list =
		calloc(1, sizeof(*list) + MSRS_MAX * sizeof(*list->indices));
	int ret = 0;

	if (!list)
		return -ENOMEM;
	list->nmsrs = MSRS_MAX;
	if (ioctl(c->vm->kvm_fd, KVM_GET_MSR_INDEX_LIST, list))
		ret = -errno;
	m->nmsrs = ret ? 0 : list->nmsrs;
	for (unsigned i = 0; i < m->nmsrs; i++)
		m->entries[i].index = list->indices[i];
	list_mtrrs(m);
	free(list);
	return ret;
}

/* KVM stops at the first that this vCPU does not have: that one is left out. */
static int read_msrs(struct vcpu *c, struct kvm_msrs *m)
{
	struct kvm_msrs *part = calloc(1, MSRS_BYTES);
	unsigned n = m->nmsrs, kept = 0;

	if (!part)
		return -ENOMEM;
	for (unsigned i = 0; i < n;) {
		int got;

		part->nmsrs = n - i;
		memcpy(part->entries, m->entries + i, (n - i) * sizeof(*m->entries));
		got = ioctl(c->fd, KVM_GET_MSRS, part);
		if (got < 0)
			got = 0;
		i += (unsigned)got + 1;
		memcpy(m->entries + kept, part->entries,
			(unsigned)got * sizeof(*m->entries));
		kept += (unsigned)got;
	}
	m->nmsrs = kept;
	free(part);
	return 0;
}

/* The register that KVM does not take is named. */
static void write_msrs(struct vcpu *c, struct state *s, const struct kvm_msrs *m)
{
	int taken = ioctl(c->fd, KVM_SET_MSRS, m);

	if (taken < 0)
		state_fail(s, "KVM takes no model-specific registers (errno %d)", errno);
	else if ((unsigned)taken < m->nmsrs)
		state_fail(s, "KVM does not take 0x%llx in model-specific register 0x%x",
			(unsigned long long)m->entries[taken].data,
			m->entries[taken].index);
}

static void state_msrs(struct state *s, struct kvm_msrs *m)
{
	uint32_t n = m->nmsrs;

	state_u32(s, &n);
	if (!state_check(s, n <= MSRS_MAX, "too many model-specific registers"))
		return;
	m->nmsrs = n;
	for (unsigned i = 0; i < n; i++) {
		uint64_t data = m->entries[i].data;

		state_u32(s, &m->entries[i].index);
		state_u64(s, &data);
		m->entries[i].data = data;
	}
}

/* ---- the guest's own virtualization ---------------------------------------------- */

static bool knows_nested(const struct vcpu *c)
{
	int bytes = ioctl(c->vm->kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_NESTED_STATE);

	return bytes > 0 && (unsigned)bytes <= NESTED_BYTES;
}

static void state_nested(struct state *s, struct kvm_nested_state *n)
{
	uint32_t bytes = n->size;

	state_u32(s, &bytes);
	if (state_check(s, !bytes || (bytes >= sizeof(*n) && bytes <= NESTED_BYTES),
		    "a nested state of a size that cannot be"))
		state_bytes(s, n, bytes);
	state_check(s, n->size == bytes, "a nested state of two sizes");
}

/* Intel's processors in VMX operation take no registers that are not: this ends it. Others have no
 * such register. */
static void leave_vmx(const struct vcpu *c)
{
	uint64_t buf[(sizeof(struct kvm_msrs) + sizeof(struct kvm_msr_entry)) / 8] = {0};
	struct kvm_msrs *m = (void *)buf;

	m->nmsrs = 1;
	m->entries[0].index = FEAT_CTL;
	if (ioctl(c->fd, KVM_SET_MSRS, m) < 0)
		return;
}

/* ---- all of it ------------------------------------------------------------------- */

static void get_block(const struct vcpu *c, struct state *s, unsigned long request,
	void *data, const char *what)
{
	if (!state_ret(s, NULL) && ioctl(c->fd, request, data))
		state_fail(s, "KVM does not tell %s (errno %d)", what, errno);
}

static void set_block(const struct vcpu *c, struct state *s, unsigned long request,
	const void *data, const char *what)
{
	if (!state_ret(s, NULL) && ioctl(c->fd, request, data))
		state_fail(s, "KVM does not take %s (errno %d)", what, errno);
}

#define GET(name, data) get_block(c, s, KVM_GET_##name, data, #name)
#define SET(name, data) set_block(c, s, KVM_SET_##name, data, #name)

static void get(struct vcpu *c, struct state *s, struct registers *r)
{
	GET(MP_STATE, &r->mp);
	GET(VCPU_EVENTS, &r->events);
	GET(SREGS, &r->sregs);
	GET(XCRS, &r->xcrs);
	GET(XSAVE, &r->xsave);
	GET(LAPIC, &r->lapic);
	GET(REGS, &r->regs);
	GET(DEBUGREGS, &r->debug);
	if (list_msrs(c, r->msrs) || read_msrs(c, r->msrs))
		state_fail(s, "KVM does not tell model-specific registers");
	if (knows_nested(c)) {
		r->nested->size = NESTED_BYTES;
		GET(NESTED_STATE, r->nested);
	}
}

static void set(struct vcpu *c, struct state *s, const struct registers *r)
{
	leave_vmx(c);
	SET(SREGS, &r->sregs);
	if (r->nested->size)
		SET(NESTED_STATE, r->nested);
	SET(XCRS, &r->xcrs);
	SET(XSAVE, &r->xsave);
	SET(LAPIC, &r->lapic);
	if (!state_ret(s, NULL))
		write_msrs(c, s, r->msrs);
	SET(REGS, &r->regs);
	SET(DEBUGREGS, &r->debug);
	SET(MP_STATE, &r->mp);
	SET(VCPU_EVENTS, &r->events);
}

static void describe(struct state *s, struct registers *r, unsigned version)
{
	state_bytes(s, &r->sregs, sizeof(r->sregs));
	state_bytes(s, &r->xcrs, sizeof(r->xcrs));
	state_bytes(s, &r->xsave, sizeof(r->xsave));
	state_msrs(s, r->msrs);
	state_bytes(s, &r->lapic, sizeof(r->lapic));
	state_bytes(s, &r->regs, sizeof(r->regs));
	state_bytes(s, &r->debug, sizeof(r->debug));
	state_bytes(s, &r->mp, sizeof(r->mp));
	state_bytes(s, &r->events, sizeof(r->events));
	if (version >= 2) /* 1 was without */
		state_nested(s, r->nested);
}

static void move(struct vcpu *c, struct state *s, struct registers *r, unsigned version)
{
	if (!state_loading(s))
		get(c, s, r);
	describe(s, r, version);
	if (state_loading(s))
		set(c, s, r);
}

void vcpu_state(struct vcpu *c, struct state *s)
{
	unsigned version = state_begin(s, "vcpu", c->index, VCPU_STATE_VERSION);
	struct registers r = {
		.msrs = calloc(1, MSRS_BYTES), .nested = calloc(1, NESTED_BYTES)};

	if (!r.msrs || !r.nested)
		state_fail(s, "there is no memory for it");
	else if (version)
		move(c, s, &r, version);
	state_end(s);
	free(r.nested);
	free(r.msrs);
}

int vcpu_keep(struct vcpu *c)
{
	c->initial = state_new();
	if (!c->initial)
		return -ENOMEM;
	vcpu_state(c, c->initial);
	return state_ret(c->initial, NULL);
}

int vcpu_restore(struct vcpu *c)
{
	size_t bytes;
	const uint8_t *data = state_data(c->initial, &bytes);
	struct state *s = state_open(data, bytes);
	int ret;

	if (!s)
		return -ENOMEM;
	vcpu_state(c, s);
	ret = state_ret(s, NULL);
	state_free(s);
	return ret;
}
