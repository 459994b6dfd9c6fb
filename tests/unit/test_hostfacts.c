/* SPDX-License-Identifier: BSD-2-Clause */
/* What a host can do, read from files of hosts that this one is not; and what is missing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/math.h"
#include "tests/unit/support_files.h"
#include "vmm/hostfacts.h"

static struct host_facts facts;

/* Makes root/path with its folders. */
static void put(const char *root, const char *path, const char *text)
{
	char name[512];
	FILE *f;

	snprintf(name, sizeof(name), "%s%s", root, path);
	for (char *p = strchr(name + strlen(root) + 1, '/'); p; p = strchr(p + 1, '/')) {
		*p = '\0';
		assert_true(mkdir(name, 0700) == 0 || errno == EEXIST);
		*p = '/';
	}
	f = fopen(name, "we");
	assert_non_null(f);
	fputs(text, f);
	fclose(f);
}

static const char *new_root(const char *name)
{
	const char *root = scratch_path(name);

	assert_int_equal(mkdir(root, 0700), 0);
	return root;
}

static void a_host_that_has_everything(void **state)
{
	const char *root = new_root("intel");

	(void)state;
	put(root, "/proc/cpuinfo",
		"processor\t: 0\nmodel name\t: Some CPU @ 2.00GHz\nflags\t\t: fpu vmx "
		"avx\n\nprocessor\t: 1\nmodel name\t: Some CPU @ 2.00GHz\nflags\t\t: fpu "
		"vmx avx\n");
	put(root, "/sys/module/kvm_intel/parameters/ept", "Y\n");
	put(root, "/sys/module/kvm_intel/parameters/nested", "1\n");
	put(root, "/sys/module/kvm_intel/parameters/enable_apicv", "N\n");
	put(root, "/proc/meminfo",
		"MemTotal:  2048 kB\nMemFree: 9 kB\nMemAvailable: 1024 kB\n");
	put(root, "/sys/kernel/mm/ksm/run", "1\n");
	put(root, "/sys/kernel/mm/ksm/pages_shared", "12\n");
	put(root, "/sys/kernel/mm/ksm/pages_sharing", "345\n");
	put(root, "/sys/kernel/mm/transparent_hugepage/enabled",
		"always [madvise] never\n");
	put(root, "/sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages", "2\n");
	put(root, "/sys/kernel/mm/hugepages/hugepages-1048576kB/free_hugepages", "1\n");
	put(root, "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "64\n");
	put(root, "/sys/devices/system/node/node10/cpulist", "8-9\n");
	put(root, "/sys/devices/system/node/node2/cpulist", "0-3,6\n");
	put(root, "/sys/devices/system/node/node2/meminfo",
		"Node 2 MemTotal:       4096 kB\nNode 2 MemFree:        1 kB\n");
	put(root, "/sys/kernel/iommu_groups/0/type", "DMA\n");
	put(root, "/sys/kernel/iommu_groups/17/type", "DMA\n");
	put(root, "/proc/sys/kernel/io_uring_disabled", "2\n");
	put(root, "/dev/vhost-net", "");
	put(root, "/dev/net/tun", "");
	put(root, "/proc/sys/kernel/seccomp/actions_avail", "kill_process log allow\n");
	put(root, "/sys/fs/cgroup/cgroup.controllers", "cpu io memory pids\n");
	put(root, "/sys/fs/selinux/enforce", "1");
	host_facts_read(root, &facts);

	assert_string_equal(facts.cpu, "Some CPU @ 2.00GHz");
	assert_int_equal(facts.cpus, 2);
	assert_true(facts.vmx);
	assert_false(facts.svm);
	assert_string_equal(facts.kvm_module, "kvm_intel");
	assert_int_equal(facts.nested_paging, 1);
	assert_int_equal(facts.nested, 1);
	assert_int_equal(facts.posted_interrupts, 0);
	assert_int_equal(facts.memory_bytes, 2 * MiB);
	assert_int_equal(facts.available_bytes, MiB);
	assert_int_equal(facts.ksm, 1);
	assert_int_equal(facts.ksm_shared, 12);
	assert_int_equal(facts.ksm_sharing, 345);
	assert_string_equal(facts.thp, "madvise");
	assert_int_equal(facts.n_huge, 2);
	assert_int_equal(facts.huge[0].page_bytes, 2 * MiB);
	assert_int_equal(facts.huge[0].pages, 64);
	assert_int_equal(facts.huge[1].page_bytes, GiB);
	assert_int_equal(facts.huge[1].free, 1);
	assert_int_equal(facts.n_nodes, 2);
	assert_int_equal(facts.node[0].number, 2);
	assert_string_equal(facts.node[0].cpus, "0-3,6");
	assert_int_equal(facts.node[0].memory_bytes, 4 * MiB);
	assert_int_equal(facts.node[1].number, 10);
	assert_int_equal(facts.iommu_groups, 2);
	assert_int_equal(facts.io_uring_disabled, 2);
	assert_true(facts.vhost_net && facts.tun);
	assert_string_equal(facts.seccomp, "kill_process log allow");
	assert_string_equal(facts.cgroup_root, "/sys/fs/cgroup");
	assert_string_equal(facts.cgroup, "cpu io memory pids");
	assert_string_equal(facts.selinux, "enforcing");
}

static void another_kind(void **state)
{
	const char *root = new_root("amd");

	(void)state;
	put(root, "/proc/cpuinfo", "processor\t: 0\nflags\t\t: svm_lock npt svm\n");
	put(root, "/sys/module/kvm_amd/parameters/npt", "1\n");
	put(root, "/sys/module/kvm_amd/parameters/nested", "0\n");
	put(root, "/sys/fs/cgroup/unified/cgroup.controllers", "\n");
	put(root, "/sys/fs/selinux/enforce", "0");
	host_facts_read(root, &facts);
	assert_true(facts.svm);
	assert_string_equal(facts.kvm_module, "kvm_amd");
	assert_int_equal(facts.nested_paging, 1);
	assert_int_equal(facts.nested, 0);
	assert_int_equal(facts.posted_interrupts, HOST_UNKNOWN);
	assert_string_equal(facts.cgroup_root, "/sys/fs/cgroup/unified");
	assert_string_equal(facts.cgroup, "");
	assert_string_equal(facts.selinux, "permissive");
	/* A word that only begins or ends like it is another. */
	put(root, "/proc/cpuinfo", "processor\t: 0\nflags\t\t: svm_lock xsvm\n");
	host_facts_read(root, &facts);
	assert_false(facts.svm);
}

static void nothing_at_all(void **state)
{
	(void)state;
	host_facts_read(new_root("empty"), &facts);
	assert_int_equal(facts.cpus, 0);
	assert_string_equal(facts.cpu, "");
	assert_int_equal(facts.nested_paging, HOST_UNKNOWN);
	assert_int_equal(facts.ksm, HOST_UNKNOWN);
	assert_int_equal(facts.io_uring_disabled, HOST_UNKNOWN);
	assert_int_equal(facts.n_huge, 0);
	assert_int_equal(facts.n_nodes, 0);
	assert_string_equal(facts.thp, "");
	assert_string_equal(facts.cgroup_root, "");
	assert_string_equal(facts.selinux, "off");
}

static void odd_files(void **state)
{
	const char *root = new_root("odd");
	char path[128], text[600];

	(void)state;
	memset(text, 'x', sizeof(text));
	text[sizeof(text) - 1] = '\0';
	put(root, "/sys/kernel/mm/transparent_hugepage/enabled", "]always[\n");
	put(root, "/sys/kernel/mm/ksm/run", "\n");
	put(root, "/proc/sys/kernel/seccomp/actions_avail", text);
	put(root, "/sys/devices/system/node/node0/cpulist", text);
	for (unsigned i = 1; i < 2 * HOST_HUGE_SIZES_MAX; i++) {
		snprintf(path, sizeof(path),
			"/sys/kernel/mm/hugepages/hugepages-%ukB/nr_hugepages", i);
		put(root, path, "1");
	}
	host_facts_read(root, &facts);
	assert_string_equal(facts.thp, "");
	assert_int_equal(facts.ksm, HOST_UNKNOWN);
	assert_int_equal(strlen(facts.seccomp), sizeof(facts.seccomp) - 1);
	assert_int_equal(strlen(facts.node[0].cpus), sizeof(facts.node[0].cpus) - 1);
	assert_int_equal(facts.n_huge, HOST_HUGE_SIZES_MAX);
}

static void the_kernel_answers(void **state)
{
	struct host_kernel k;

	(void)state;
	host_kernel_ask(&k);
	assert_true(k.landlock >= 0);
	if (k.kvm_errno)
		assert_int_equal(k.n_extensions, 0);
	else
		assert_true(k.kvm_version == 12 && k.n_extensions > 5);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_host_that_has_everything),
		cmocka_unit_test(another_kind),
		cmocka_unit_test(nothing_at_all),
		cmocka_unit_test(odd_files),
		cmocka_unit_test(the_kernel_answers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
