/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A vCPU's registers, saved and loaded: what KVM has of it (Documentation/virt/kvm/api.rst).
 *
 * The order of loading is KVM's own need: special registers first, since they say which
 * others there are; model-specific ones before the local APIC, whose timer hangs on one of
 * them; events last.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <linux/kvm.h>

#include "base/math.h"
#include "vmm/vm.h"

#define VERSION  1
#define MSRS_MAX 512u

/* One block of KVM's, as KVM lays it out. */
static void block(struct vcpu *c, struct state *s, unsigned long get, unsigned long set,
	void *data, size_t bytes, const char *what)
{
	if (!state_loading(s) && ioctl(c->fd, get, data)) {
		state_fail(s, "KVM does not tell %s (errno %d)", what, errno);
		return;
	}
	state_bytes(s, data, bytes);
	if (state_loading(s) && !state_ret(s, NULL) && ioctl(c->fd, set, data))
		state_fail(s, "KVM does not take %s (errno %d)", what, errno);
}

/* ---- model-specific registers ---------------------------------------------------- */

#define MSRS_BYTES (sizeof(struct kvm_msrs) + MSRS_MAX * sizeof(struct kvm_msr_entry))

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

/* The register that KVM does not take is written on its own, and so named. */
static void write_msrs(struct vcpu *c, struct state *s, struct kvm_msrs *m)
{
	int taken = ioctl(c->fd, KVM_SET_MSRS, m);

	if (taken < 0)
		state_fail(s, "KVM takes no model-specific registers (errno %d)", errno);
	else if ((unsigned)taken < m->nmsrs)
		state_fail(s, "KVM does not take 0x%llx in model-specific register 0x%x",
			(unsigned long long)m->entries[taken].data,
			m->entries[taken].index);
}

static void state_msrs(struct vcpu *c, struct state *s)
{
	struct kvm_msrs *m = calloc(1, MSRS_BYTES);
	uint32_t n;

	if (!m || (!state_loading(s) && (list_msrs(c, m) || read_msrs(c, m)))) {
		state_fail(s, "KVM does not tell model-specific registers");
		free(m);
		return;
	}
	n = m->nmsrs;
	state_u32(s, &n);
	if (state_check(s, n <= MSRS_MAX, "too many model-specific registers")) {
		m->nmsrs = n;
		for (unsigned i = 0; i < n; i++) {
			state_u32(s, &m->entries[i].index);
			uint64_t data = m->entries[i].data;

			state_u64(s, &data);
			m->entries[i].data = data;
		}
	}
	if (state_loading(s) && !state_ret(s, NULL))
		write_msrs(c, s, m);
	free(m);
}

/* ---- all of it ------------------------------------------------------------------- */

#define BLOCK(name, type)                                                                \
	block(c, s, KVM_GET_##name, KVM_SET_##name, &type, sizeof(type), #name)

static void blocks(struct vcpu *c, struct state *s)
{
	struct kvm_sregs sregs;
	struct kvm_regs regs;
	struct kvm_xcrs xcrs;
	struct kvm_xsave xsave;
	struct kvm_lapic_state lapic;
	struct kvm_mp_state mp;
	struct kvm_debugregs debug;
	struct kvm_vcpu_events events;

	BLOCK(SREGS, sregs);
	BLOCK(XCRS, xcrs);
	BLOCK(XSAVE, xsave);
	state_msrs(c, s);
	BLOCK(LAPIC, lapic);
	BLOCK(REGS, regs);
	BLOCK(DEBUGREGS, debug);
	BLOCK(MP_STATE, mp);
	BLOCK(VCPU_EVENTS, events);
}

void vcpu_state(struct vcpu *c, struct state *s)
{
	if (!state_begin(s, "vcpu", c->index, VERSION))
		return;
	blocks(c, s);
	state_end(s);
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
