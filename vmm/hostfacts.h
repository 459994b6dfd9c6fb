/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a host can do for machines. Two halves: what files say, read below a root folder, so
 * that any host can be looked at that left its files somewhere; and what only the kernel we
 * run on can answer.
 */
#ifndef BYRE_VMM_HOSTFACTS_H
#define BYRE_VMM_HOSTFACTS_H

#include <stdbool.h>
#include <stdint.h>

#define HOST_NODES_MAX	    64u
#define HOST_HUGE_SIZES_MAX 8u
#define HOST_UNKNOWN	    (-1)

struct host_huge {
	uint64_t page_bytes, pages, free;
};

struct host_node {
	unsigned number;
	char cpus[256]; /* "0-3,8-11" */
	uint64_t memory_bytes, free_bytes;
};

/* From files. Numbers are HOST_UNKNOWN, texts "" where nothing says. */
struct host_facts {
	char cpu[128];
	unsigned cpus;
	bool vmx, svm;
	char kvm_module[16];  /* "kvm_intel", "kvm_amd" */
	int nested_paging;    /* EPT, RVI: 0 or 1 */
	int nested;	      /* guests may have guests: 0 or 1 */
	int posted_interrupts; /* APICv, AVIC: 0 or 1 */

	uint64_t memory_bytes, available_bytes;
	int ksm; /* 0 off, 1 on, 2 off and unmerged */
	uint64_t ksm_shared, ksm_sharing; /* pages: kept, and standing for more */
	char thp[16];			  /* "always", "madvise", "never" */
	struct host_huge huge[HOST_HUGE_SIZES_MAX];
	unsigned n_huge;
	struct host_node node[HOST_NODES_MAX];
	unsigned n_nodes;

	unsigned iommu_groups;
	int io_uring_disabled; /* the sysctl: 0, 1, 2 */
	bool vhost_net, tun;
	char seccomp[128];     /* actions the kernel knows */
	char cgroup_root[64];  /* where version 2 is mounted; "": nowhere */
	char cgroup[128];      /* its controllers */
	char selinux[16];      /* "enforcing", "permissive", "off" */
};

struct host_extension {
	const char *name;
	int number, value; /* as KVM_CHECK_EXTENSION has them */
};

/* From the kernel. */
struct host_kernel {
	int kvm_errno; /* of opening /dev/kvm; 0: it opens */
	int kvm_version;
	const struct host_extension *extension;
	unsigned n_extensions;
	int io_uring_errno; /* of making one; 0: it can be had */
	int landlock;	    /* version of its interface; 0: none */
	bool seccomp;
};

void host_facts_read(const char *root, struct host_facts *out);
/* The list of extensions is one, shared by all callers. */
void host_kernel_ask(struct host_kernel *out);

#endif
