/* SPDX-License-Identifier: BSD-2-Clause */
/* What a host can do. See hostfacts.h. */
#include "vmm/hostfacts.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <linux/io_uring.h>
#include <linux/kvm.h>

#include "base/math.h"
#include "vmm/landlock.h"

/* ---- files ----------------------------------------------------------------------- */

static FILE *open_file(const char *root, const char *path)
{
	char name[PATH_MAX];

	if (snprintf(name, sizeof(name), "%s%s", root, path) >= (int)sizeof(name))
		return NULL;
	return fopen(name, "re");
}

static bool is_there(const char *root, const char *path)
{
	char name[PATH_MAX];

	return snprintf(name, sizeof(name), "%s%s", root, path) < (int)sizeof(name) &&
	       access(name, F_OK) == 0;
}

/* Its first line, cut to what there is room for. False, and "", where there is none. */
static bool read_line(const char *root, const char *path, char *out, size_t bytes)
{
	FILE *f = open_file(root, path);
	bool got = f && fgets(out, (int)bytes, f);

	if (f)
		fclose(f);
	if (!got)
		out[0] = '\0';
	out[strcspn(out, "\n")] = '\0';
	return got;
}

static uint64_t read_number(const char *root, const char *path)
{
	char line[64];

	return read_line(root, path, line, sizeof(line)) ? strtoull(line, NULL, 0) : 0;
}

/* Module parameters are Y and N, or numbers. */
static int read_switch(const char *root, const char *path)
{
	char line[64];

	if (!read_line(root, path, line, sizeof(line)))
		return HOST_UNKNOWN;
	if (line[0] == 'Y' || line[0] == 'N')
		return line[0] == 'Y';
	return isdigit((unsigned char)line[0]) ? (int)strtol(line, NULL, 10)
					       : HOST_UNKNOWN;
}

/* Calls fn for each name in a folder that is prefix and a number. */
static void each_numbered(const char *root, const char *folder, const char *prefix,
	void (*fn)(const char *root, unsigned number, struct host_facts *out),
	struct host_facts *out)
{
	char path[PATH_MAX];
	size_t length = strlen(prefix);
	struct dirent *e;
	DIR *dir;

	if (snprintf(path, sizeof(path), "%s%s", root, folder) >= (int)sizeof(path))
		return;
	dir = opendir(path);
	while (dir && (e = readdir(dir)))
		if (!strncmp(e->d_name, prefix, length) &&
			isdigit((unsigned char)e->d_name[length]))
			fn(root, (unsigned)strtoul(e->d_name + length, NULL, 10), out);
	if (dir)
		closedir(dir);
}

/* ---- processors ------------------------------------------------------------------ */

static bool has_word(const char *line, const char *word)
{
	size_t length = strlen(word);

	for (const char *p = line; (p = strstr(p, word)); p += length)
		if ((p == line || isspace((unsigned char)p[-1])) &&
			(!p[length] || isspace((unsigned char)p[length])))
			return true;
	return false;
}

/* What stands behind the colon. */
static const char *value_of(const char *line)
{
	const char *p = strchr(line, ':');

	return p ? p + 1 + strspn(p + 1, " \t") : "";
}

static void read_cpus(const char *root, struct host_facts *out)
{
	FILE *f = open_file(root, "/proc/cpuinfo");
	size_t room = 0;
	char *line = NULL;

	while (f && getline(&line, &room, f) >= 0) {
		line[strcspn(line, "\n")] = '\0';
		if (!strncmp(line, "processor", 9))
			out->cpus++;
		else if (!strncmp(line, "model name", 10))
			snprintf(out->cpu, sizeof(out->cpu), "%s", value_of(line));
		if (strncmp(line, "flags", 5))
			continue;
		out->vmx |= has_word(line, "vmx");
		out->svm |= has_word(line, "svm");
	}
	free(line);
	if (f)
		fclose(f);
}

static void read_kvm_module(const char *root, struct host_facts *out)
{
	bool intel = is_there(root, "/sys/module/kvm_intel/parameters");

	out->nested = out->nested_paging = out->posted_interrupts = HOST_UNKNOWN;
	if (!intel && !is_there(root, "/sys/module/kvm_amd/parameters"))
		return;
	strcpy(out->kvm_module, intel ? "kvm_intel" : "kvm_amd");
	out->nested = read_switch(root, intel ? "/sys/module/kvm_intel/parameters/nested"
					      : "/sys/module/kvm_amd/parameters/nested");
	out->nested_paging =
		read_switch(root, intel ? "/sys/module/kvm_intel/parameters/ept"
					: "/sys/module/kvm_amd/parameters/npt");
	out->posted_interrupts =
		read_switch(root, intel ? "/sys/module/kvm_intel/parameters/enable_apicv"
					: "/sys/module/kvm_amd/parameters/avic");
}

/* ---- memory ---------------------------------------------------------------------- */

/* "MemTotal:  123 kB", or "Node 0 MemTotal:  123 kB". */
static uint64_t meminfo(const char *root, const char *path, const char *key)
{
	FILE *f = open_file(root, path);
	char line[256];
	uint64_t kib = 0;

	while (f && fgets(line, sizeof(line), f)) {
		const char *p = strstr(line, key);

		if (p && p[strlen(key)] == ':') {
			kib = strtoull(value_of(p), NULL, 10);
			break;
		}
	}
	if (f)
		fclose(f);
	return kib * KiB;
}

static void add_huge(const char *root, unsigned kib, struct host_facts *out)
{
	struct host_huge *h = &out->huge[out->n_huge];
	char path[128];

	if (out->n_huge == HOST_HUGE_SIZES_MAX)
		return;
	out->n_huge++;
	h->page_bytes = kib * KiB;
	snprintf(path, sizeof(path),
		"/sys/kernel/mm/hugepages/hugepages-%ukB/nr_hugepages", kib);
	h->pages = read_number(root, path);
	snprintf(path, sizeof(path),
		"/sys/kernel/mm/hugepages/hugepages-%ukB/free_hugepages", kib);
	h->free = read_number(root, path);
}

static int by_size(const void *a, const void *b)
{
	uint64_t x = ((const struct host_huge *)a)->page_bytes;
	uint64_t y = ((const struct host_huge *)b)->page_bytes;

	return x < y ? -1 : x > y;
}

static void add_node(const char *root, unsigned number, struct host_facts *out)
{
	struct host_node *n = &out->node[out->n_nodes];
	char path[128];

	if (out->n_nodes == HOST_NODES_MAX)
		return;
	out->n_nodes++;
	n->number = number;
	snprintf(path, sizeof(path), "/sys/devices/system/node/node%u/cpulist", number);
	read_line(root, path, n->cpus, sizeof(n->cpus));
	snprintf(path, sizeof(path), "/sys/devices/system/node/node%u/meminfo", number);
	n->memory_bytes = meminfo(root, path, "MemTotal");
	n->free_bytes = meminfo(root, path, "MemFree");
}

static int by_number(const void *a, const void *b)
{
	unsigned x = ((const struct host_node *)a)->number;
	unsigned y = ((const struct host_node *)b)->number;

	return x < y ? -1 : x > y;
}

/* "always [madvise] never" */
static void read_thp(const char *root, struct host_facts *out)
{
	char line[64], *open, *close;

	read_line(
		root, "/sys/kernel/mm/transparent_hugepage/enabled", line, sizeof(line));
	open = strchr(line, '[');
	close = open ? strchr(open, ']') : NULL;
	if (close)
		snprintf(out->thp, sizeof(out->thp), "%.*s", (int)(close - open - 1),
			open + 1);
}

static void read_memory(const char *root, struct host_facts *out)
{
	out->memory_bytes = meminfo(root, "/proc/meminfo", "MemTotal");
	out->available_bytes = meminfo(root, "/proc/meminfo", "MemAvailable");
	out->ksm = read_switch(root, "/sys/kernel/mm/ksm/run");
	out->ksm_shared = read_number(root, "/sys/kernel/mm/ksm/pages_shared");
	out->ksm_sharing = read_number(root, "/sys/kernel/mm/ksm/pages_sharing");
	read_thp(root, out);
	each_numbered(root, "/sys/kernel/mm/hugepages", "hugepages-", add_huge, out);
	each_numbered(root, "/sys/devices/system/node", "node", add_node, out);
	qsort(out->huge, out->n_huge, sizeof(*out->huge), by_size);
	qsort(out->node, out->n_nodes, sizeof(*out->node), by_number);
}

/* ---- what confines --------------------------------------------------------------- */

static void read_cgroup(const char *root, struct host_facts *out)
{
	static const char *const roots[] = {"/sys/fs/cgroup", "/sys/fs/cgroup/unified"};
	char path[96];

	for (size_t i = 0; i < ARRAY_LEN(roots) && !out->cgroup_root[0]; i++) {
		snprintf(path, sizeof(path), "%s/cgroup.controllers", roots[i]);
		if (!is_there(root, path))
			continue;
		strcpy(out->cgroup_root, roots[i]);
		read_line(root, path, out->cgroup, sizeof(out->cgroup));
	}
}

static void count_group(const char *root, unsigned number, struct host_facts *out)
{
	(void)root;
	(void)number;
	out->iommu_groups++;
}

static void read_selinux(const char *root, struct host_facts *out)
{
	int enforces = read_switch(root, "/sys/fs/selinux/enforce");

	strcpy(out->selinux, enforces == 1   ? "enforcing"
			     : enforces == 0 ? "permissive"
					     : "off");
}

void host_facts_read(const char *root, struct host_facts *out)
{
	*out = (struct host_facts){.cpus = 0};
	read_cpus(root, out);
	read_kvm_module(root, out);
	read_memory(root, out);
	each_numbered(root, "/sys/kernel/iommu_groups", "", count_group, out);
	out->io_uring_disabled = read_switch(root, "/proc/sys/kernel/io_uring_disabled");
	out->vhost_net = is_there(root, "/dev/vhost-net");
	out->tun = is_there(root, "/dev/net/tun");
	read_line(root, "/proc/sys/kernel/seccomp/actions_avail", out->seccomp,
		sizeof(out->seccomp));
	read_cgroup(root, out);
	read_selinux(root, out);
}

/* ---- the kernel ------------------------------------------------------------------ */

/* Those that we use or that tell what a guest can be given. */
static struct host_extension extensions[] = {
	{"irqchip", KVM_CAP_IRQCHIP, 0},
	{"pit2", KVM_CAP_PIT2, 0},
	{"irqfd", KVM_CAP_IRQFD, 0},
	{"ioeventfd", KVM_CAP_IOEVENTFD, 0},
	{"signal-msi", KVM_CAP_SIGNAL_MSI, 0},
	{"immediate-exit", KVM_CAP_IMMEDIATE_EXIT, 0},
	{"readonly-memory", KVM_CAP_READONLY_MEM, 0},
	{"split-irqchip", KVM_CAP_SPLIT_IRQCHIP, 0},
	{"dirty-log-protect", KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, 0},
	{"dirty-ring", KVM_CAP_DIRTY_LOG_RING, 0},
	{"hyperv-cpuid", KVM_CAP_HYPERV_CPUID, 0},
	{"nested-state", KVM_CAP_NESTED_STATE, 0},
	{"tsc-control", KVM_CAP_TSC_CONTROL, 0},
	{"max-vcpus", KVM_CAP_MAX_VCPUS, 0},
	{"memory-slots", KVM_CAP_NR_MEMSLOTS, 0},
};

static void ask_kvm(struct host_kernel *out)
{
	int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	if (fd < 0) {
		out->kvm_errno = errno;
		return;
	}
	out->kvm_version = ioctl(fd, KVM_GET_API_VERSION, 0);
	for (size_t i = 0; i < ARRAY_LEN(extensions); i++) {
		long number = extensions[i].number;

		extensions[i].value = ioctl(fd, KVM_CHECK_EXTENSION, number);
	}
	out->extension = extensions;
	out->n_extensions = ARRAY_LEN(extensions);
	close(fd);
}

static int try_io_uring(void)
{
	struct io_uring_params params = {.flags = 0};
	int fd = (int)syscall(SYS_io_uring_setup, 4, &params);

	if (fd < 0)
		return errno;
	close(fd);
	return 0;
}

/* A mode that takes no filter at all: EFAULT tells that the kernel would have taken one. */
static bool has_seccomp(void)
{
	return prctl(PR_SET_SECCOMP, 2 /* a filter */, NULL, 0, 0) != 0 &&
	       errno == EFAULT;
}

void host_kernel_ask(struct host_kernel *out)
{
	*out = (struct host_kernel){.kvm_errno = 0};
	ask_kvm(out);
	out->io_uring_errno = try_io_uring();
	out->landlock = landlock_version();
	out->seccomp = has_seccomp();
}
