/* SPDX-License-Identifier: BSD-2-Clause */
/* byre host: what this host can do for machines. */
#include <getopt.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/math.h"
#include "base/size.h"
#include "block/driver.h"
#include "tools/byre.h"
#include "tools/common.h"
#include "vmm/hostfacts.h"

static const char help[] = "Show what this host can do for machines.  Usage:\n\n"
			   "  %s host [--json]\n";

/* Optional libraries: what each brings, and whether this program has it. */
static const struct {
	const char *name, *what;
	bool there;
} libraries[] = {
	{"libiscsi", "iscsi://", true},
	{"libnfs", "nfs://", true},
#ifdef HAVE_LIBNBD
	{"libnbd", "nbd://", true},
#else
	{"libnbd", "nbd://", false},
#endif
#ifdef HAVE_LIBSMB2
	{"libsmb2", "smb://", true},
#else
	{"libsmb2", "smb://", false},
#endif
#ifdef HAVE_LIBDEFLATE
	{"libdeflate", "fast zlib clusters", true},
#else
	{"libdeflate", "fast zlib clusters", false},
#endif
};

/* ---- JSON ------------------------------------------------------------------------ */

/* What is not known is left out. */
static void put_switch(struct json *o, const char *key, int value)
{
	if (value != HOST_UNKNOWN)
		json_put_bool(o, key, value);
}

static struct json *words(const char *text)
{
	struct json *list = json_new_array();
	char *copy = strdup(text), *rest = copy, *word;

	while (copy && (word = strsep(&rest, " ")))
		if (*word)
			json_add(list, json_new_string(word));
	free(copy);
	return list;
}

static struct json *cpu_json(const struct host_facts *f)
{
	struct json *o = json_new_object();

	json_put_string(o, "model", f->cpu);
	json_put_int(o, "count", f->cpus);
	json_put_bool(o, "vmx", f->vmx);
	json_put_bool(o, "svm", f->svm);
	return o;
}

static struct json *kvm_json(const struct host_facts *f, const struct host_kernel *k)
{
	struct json *o = json_new_object(), *extensions;

	json_put_bool(o, "usable", !k->kvm_errno);
	if (k->kvm_errno)
		json_put_string(o, "error", strerror(k->kvm_errno));
	if (f->kvm_module[0])
		json_put_string(o, "module", f->kvm_module);
	put_switch(o, "nested-paging", f->nested_paging);
	put_switch(o, "nested", f->nested);
	put_switch(o, "posted-interrupts", f->posted_interrupts);
	if (k->kvm_errno)
		return o;
	json_put_int(o, "version", k->kvm_version);
	extensions = json_new_object();
	for (unsigned i = 0; i < k->n_extensions; i++)
		json_put_int(extensions, k->extension[i].name, k->extension[i].value);
	json_put(o, "extensions", extensions);
	return o;
}

static struct json *huge_json(const struct host_facts *f)
{
	struct json *list = json_new_array();

	for (unsigned i = 0; i < f->n_huge; i++) {
		struct json *o = json_new_object();

		json_put_int(o, "page-bytes", (int64_t)f->huge[i].page_bytes);
		json_put_int(o, "pages", (int64_t)f->huge[i].pages);
		json_put_int(o, "free", (int64_t)f->huge[i].free);
		json_add(list, o);
	}
	return list;
}

static struct json *nodes_json(const struct host_facts *f)
{
	struct json *list = json_new_array();

	for (unsigned i = 0; i < f->n_nodes; i++) {
		struct json *o = json_new_object();

		json_put_int(o, "node", f->node[i].number);
		json_put_string(o, "cpus", f->node[i].cpus);
		json_put_int(o, "memory-bytes", (int64_t)f->node[i].memory_bytes);
		json_put_int(o, "free-bytes", (int64_t)f->node[i].free_bytes);
		json_add(list, o);
	}
	return list;
}

static struct json *memory_json(const struct host_facts *f)
{
	struct json *o = json_new_object(), *ksm;

	json_put_int(o, "bytes", (int64_t)f->memory_bytes);
	json_put_int(o, "available-bytes", (int64_t)f->available_bytes);
	if (f->ksm != HOST_UNKNOWN) {
		ksm = json_new_object();
		json_put_bool(ksm, "running", f->ksm == 1);
		json_put_int(ksm, "pages-shared", (int64_t)f->ksm_shared);
		json_put_int(ksm, "pages-sharing", (int64_t)f->ksm_sharing);
		json_put(o, "ksm", ksm);
	}
	if (f->thp[0])
		json_put_string(o, "transparent-huge-pages", f->thp);
	json_put(o, "huge-pages", huge_json(f));
	json_put(o, "numa", nodes_json(f));
	return o;
}

static struct json *io_json(const struct host_facts *f, const struct host_kernel *k)
{
	struct json *o = json_new_object();

	json_put_bool(o, "io-uring", !k->io_uring_errno);
	if (k->io_uring_errno)
		json_put_string(o, "io-uring-error", strerror(k->io_uring_errno));
	if (f->io_uring_disabled != HOST_UNKNOWN)
		json_put_int(o, "io-uring-disabled", f->io_uring_disabled);
	json_put_bool(o, "vhost-net", f->vhost_net);
	json_put_bool(o, "tun", f->tun);
	json_put_int(o, "iommu-groups", f->iommu_groups);
	return o;
}

static struct json *confinement_json(
	const struct host_facts *f, const struct host_kernel *k)
{
	struct json *o = json_new_object();

	json_put_bool(o, "seccomp", k->seccomp);
	json_put(o, "seccomp-actions", words(f->seccomp));
	json_put_int(o, "landlock", k->landlock);
	if (f->cgroup_root[0])
		json_put_string(o, "cgroup", f->cgroup_root);
	json_put(o, "cgroup-controllers", words(f->cgroup));
	json_put_string(o, "selinux", f->selinux);
	return o;
}

static struct json *storage_json(void)
{
	struct json *o = json_new_object(), *list = json_new_array();

	for (const struct blk_driver *const *d = blk_drivers; *d; d++)
		json_add(list, json_new_string((*d)->name));
	json_put(o, "drivers", list);
	list = json_new_object();
	for (size_t i = 0; i < ARRAY_LEN(libraries); i++)
		json_put_bool(list, libraries[i].name, libraries[i].there);
	json_put(o, "libraries", list);
	return o;
}

static void print_json(const struct host_facts *f, const struct host_kernel *k)
{
	struct json *o = json_new_object();
	char *text;

	json_put(o, "cpu", cpu_json(f));
	json_put(o, "kvm", kvm_json(f, k));
	json_put(o, "memory", memory_json(f));
	json_put(o, "io", io_json(f, k));
	json_put(o, "confinement", confinement_json(f, k));
	json_put(o, "storage", storage_json());
	text = json_dump(o, 4);
	puts(text);
	free(text);
	json_free(o);
}

/* ---- text ------------------------------------------------------------------------ */

static const char *yes(int value)
{
	return value == HOST_UNKNOWN ? "not known" : value ? "yes" : "no";
}

static void print_cpu(const struct host_facts *f, const struct host_kernel *k)
{
	tool_line(stdout, "processors: %u, %s", f->cpus,
		f->cpu[0] ? f->cpu : "of an unknown kind");
	tool_line(stdout, "virtualization: %s", f->vmx ? "VMX" : f->svm ? "SVM" : "none");
	if (k->kvm_errno)
		tool_line(stdout, "KVM: /dev/kvm cannot be opened: %s",
			strerror(k->kvm_errno));
	else
		tool_line(stdout, "KVM: version %d%s%s", k->kvm_version,
			f->kvm_module[0] ? ", " : "", f->kvm_module);
	tool_line(stdout, "nested paging (EPT, RVI): %s", yes(f->nested_paging));
	tool_line(stdout, "guests with guests: %s", yes(f->nested));
	tool_line(
		stdout, "posted interrupts (APICv, AVIC): %s", yes(f->posted_interrupts));
	for (unsigned i = 0; i < k->n_extensions; i++)
		tool_line(
			stdout, "  %s: %d", k->extension[i].name, k->extension[i].value);
}

static void print_memory(const struct host_facts *f)
{
	char total[32], free[32];

	tool_line(stdout, "memory: %s, %s of it available",
		size_human(total, sizeof(total), f->memory_bytes),
		size_human(free, sizeof(free), f->available_bytes));
	for (unsigned i = 0; i < f->n_nodes; i++)
		tool_line(stdout, "  node %u: %s, %s free, processors %s",
			f->node[i].number,
			size_human(total, sizeof(total), f->node[i].memory_bytes),
			size_human(free, sizeof(free), f->node[i].free_bytes),
			f->node[i].cpus);
	for (unsigned i = 0; i < f->n_huge; i++)
		tool_line(stdout,
			"  huge pages of %s: %" PRIu64 ", %" PRIu64 " of them free",
			size_human(total, sizeof(total), f->huge[i].page_bytes),
			f->huge[i].pages, f->huge[i].free);
	tool_line(stdout, "transparent huge pages: %s", f->thp[0] ? f->thp : "no");
	if (f->ksm == HOST_UNKNOWN)
		tool_line(stdout, "KSM: no");
	else
		tool_line(stdout, "KSM: %s, %" PRIu64 " pages stand for %" PRIu64 " more",
			f->ksm == 1 ? "running" : "stopped", f->ksm_shared,
			f->ksm_sharing);
}

static void print_io(const struct host_facts *f, const struct host_kernel *k)
{
	if (k->io_uring_errno)
		tool_line(stdout, "io_uring: no (%s)", strerror(k->io_uring_errno));
	else
		tool_line(stdout, "io_uring: yes");
	if (f->io_uring_disabled > 0)
		tool_line(stdout, "  kernel.io_uring_disabled: %d", f->io_uring_disabled);
	tool_line(stdout, "vhost-net: %s", yes(f->vhost_net));
	tool_line(stdout, "tun: %s", yes(f->tun));
	tool_line(stdout, "IOMMU groups: %u", f->iommu_groups);
}

static void print_confinement(const struct host_facts *f, const struct host_kernel *k)
{
	tool_line(stdout, "seccomp: %s", yes(k->seccomp));
	if (k->landlock)
		tool_line(stdout, "Landlock: version %d", k->landlock);
	else
		tool_line(stdout, "Landlock: no");
	if (f->cgroup_root[0])
		tool_line(stdout, "cgroup version 2: %s: %s", f->cgroup_root,
			f->cgroup[0] ? f->cgroup : "no controllers");
	else
		tool_line(stdout, "cgroup version 2: no");
	tool_line(stdout, "SELinux: %s", f->selinux);
}

static void print_storage(void)
{
	printf("drivers:");
	for (const struct blk_driver *const *d = blk_drivers; *d; d++)
		printf(" %s", (*d)->name);
	printf("\n");
	for (size_t i = 0; i < ARRAY_LEN(libraries); i++)
		tool_line(stdout, "  %s (%s): %s", libraries[i].name, libraries[i].what,
			yes(libraries[i].there));
}

static void print_text(const struct host_facts *f, const struct host_kernel *k)
{
	print_cpu(f, k);
	print_memory(f);
	print_io(f, k);
	print_confinement(f, k);
	print_storage();
}

/* ---- the command ----------------------------------------------------------------- */

/* -1: go on; else the exit status. */
static int parse(int argc, char **argv, bool *json)
{
	static const struct option options[] = {
		{"help", no_argument, NULL, 'h'},
		{"json", no_argument, NULL, 'j'},
		{NULL, 0, NULL, 0},
	};
	int c;

	argv[0] = (char *)(uintptr_t)tool_name; /* whom getopt's errors are from */
	while ((c = getopt_long(argc, argv, "h", options, NULL)) >= 0) {
		if (c == 'j') {
			*json = true;
		} else if (c == 'h') {
			printf(help, tool_name);
			return tool_flush_stdout() < 0;
		} else {
			return 1;
		}
	}
	if (optind == argc)
		return -1;
	tool_error("host: '%s' was not expected", argv[optind]);
	return 1;
}

int byre_host(int argc, char **argv)
{
	struct host_facts *facts = calloc(1, sizeof(*facts));
	struct host_kernel kernel;
	bool json = false;
	int status = facts ? parse(argc, argv, &json) : 1;

	if (status < 0) {
		host_facts_read("", facts);
		host_kernel_ask(&kernel);
		if (json)
			print_json(facts, &kernel);
		else
			print_text(facts, &kernel);
		status = tool_flush_stdout() < 0;
	}
	free(facts);
	return status;
}
