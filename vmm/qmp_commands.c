/* SPDX-License-Identifier: BSD-2-Clause */
/* The table of commands, and those that are about the machine as a whole. */
#include <stdio.h>
#include <string.h>

#include "vmm/pci.h"
#include "vmm/qmp_impl.h"

/* ---- running and standing -------------------------------------------------------- */

static const char *status_name(enum vm_status status)
{
	switch (status) {
	case VM_STATUS_RUNNING:
		return "running";
	case VM_STATUS_PRELAUNCH:
		return "prelaunch";
	case VM_STATUS_IO_ERROR:
		return "io-error";
	case VM_STATUS_SHUTDOWN:
		return "shutdown";
	default:
		return "paused";
	}
}

static int query_status(struct qmp_call *c)
{
	enum vm_status status = vm_status(c->q->what.vm);

	c->result = json_new_object();
	json_put_bool(c->result, "running", status == VM_STATUS_RUNNING);
	json_put_bool(c->result, "singlestep", false);
	json_put_string(c->result, "status", status_name(status));
	return 0;
}

static void nothing(void *arg)
{
	(void)arg;
}

/* Until what was asked for is so, and events have told of it. */
static int settle(struct qmp_call *c)
{
	if (vm_call(c->q->what.vm, nothing, NULL))
		return err_set(&c->err, ESHUTDOWN, "the machine is ending");
	return 0;
}

static int stop(struct qmp_call *c)
{
	vm_pause(c->q->what.vm, VM_STATUS_PAUSED);
	return settle(c);
}

static int cont(struct qmp_call *c)
{
	switch (vm_status(c->q->what.vm)) {
	case VM_STATUS_RUNNING:
		return 0;
	case VM_STATUS_SHUTDOWN:
		return err_set(&c->err, EINVAL,
			"the machine was turned off and has to be reset first");
	default:
		vm_resume(c->q->what.vm);
		return settle(c);
	}
}

static int powerdown(struct qmp_call *c)
{
	power_press_button(c->q->what.power);
	return 0;
}

static int reset(struct qmp_call *c)
{
	vm_ask(c->q->what.vm, VM_RESET_OWNER);
	return 0;
}

static int quit(struct qmp_call *c)
{
	__atomic_store_n(&c->q->quit_asked, true, __ATOMIC_RELAXED);
	vm_ask(c->q->what.vm, VM_QUIT);
	return 0;
}

static int inject_nmi(struct qmp_call *c)
{
	int ret = vm_inject_nmi(c->q->what.vm);

	return ret ? err_errno(&c->err, -ret, "no NMI") : 0;
}

/* ---- what it is ------------------------------------------------------------------ */

static int query_version(struct qmp_call *c)
{
	c->result = json_new_object();
	json_put(c->result, "qemu", qmp_version());
	json_put_string(c->result, "package", "byre " BYRE_VERSION);
	return 0;
}

static void add_name(struct json *list, const char *name)
{
	struct json *one = json_new_object();

	json_put_string(one, "name", name);
	json_add(list, one);
}

static int query_commands(struct qmp_call *c)
{
	c->result = json_new_array();
	add_name(c->result, "qmp_capabilities");
	for (const struct qmp_command *entry = qmp_commands; entry->name; entry++)
		add_name(c->result, entry->name);
	return 0;
}

static int query_name(struct qmp_call *c)
{
	c->result = json_new_object();
	if (c->q->what.name)
		json_put_string(c->result, "name", c->q->what.name);
	return 0;
}

static int query_uuid(struct qmp_call *c)
{
	const char *uuid = c->q->what.uuid;

	c->result = json_new_object();
	json_put_string(
		c->result, "UUID", uuid ? uuid : "00000000-0000-0000-0000-000000000000");
	return 0;
}

static int query_kvm(struct qmp_call *c)
{
	c->result = json_new_object();
	json_put_bool(c->result, "enabled", true);
	json_put_bool(c->result, "present", true);
	return 0;
}

static struct json *cpu_facts(const struct vcpu *v)
{
	struct json *o = json_new_object(), *props = json_new_object();
	const struct vm_topology *t = &v->vm->topology;
	char path[40];

	snprintf(path, sizeof(path), "/machine/unattached/cpu[%u]", v->index);
	json_put_int(o, "thread-id", __atomic_load_n(&v->tid, __ATOMIC_RELAXED));
	json_put_int(props, "core-id", v->index / t->threads % t->cores);
	json_put_int(props, "thread-id", v->index % t->threads);
	json_put_int(props, "socket-id", v->index / t->threads / t->cores);
	json_put(o, "props", props);
	json_put_string(o, "qom-path", path);
	json_put_int(o, "cpu-index", v->index);
	json_put_string(o, "target", "x86_64");
	return o;
}

static int query_cpus(struct qmp_call *c)
{
	const struct vm *vm = c->q->what.vm;

	c->result = json_new_array();
	for (unsigned i = 0; i < vm->cpus; i++)
		json_add(c->result, cpu_facts(&vm->vcpu[i]));
	return 0;
}

static int query_memory(struct qmp_call *c)
{
	const struct memory *m = &c->q->what.vm->memory;
	uint64_t bytes = 0;

	for (unsigned i = 0; i < m->n; i++)
		bytes += m->region[i].bytes;
	c->result = json_new_object();
	json_put_int(c->result, "base-memory", (int64_t)bytes);
	json_put_int(c->result, "plugged-memory", 0);
	return 0;
}

static int need_balloon(struct qmp_call *c)
{
	return c->q->what.balloon ? 0
				  : qmp_fail(c, "DeviceNotActive",
					    "the machine has no balloon (run --balloon)");
}

static int query_balloon(struct qmp_call *c)
{
	int ret = need_balloon(c);

	if (ret)
		return ret;
	c->result = json_new_object();
	json_put_int(c->result, "actual", (int64_t)balloon_actual(c->q->what.balloon));
	return 0;
}

static int set_balloon(struct qmp_call *c)
{
	int64_t bytes = qmp_int(c, "value", 0);
	int ret = need_balloon(c);

	if (ret)
		return ret;
	if (bytes <= 0)
		return err_set(&c->err, EINVAL, "value: a guest has more than no memory");
	balloon_set_target(c->q->what.balloon, (uint64_t)bytes);
	return 0;
}

/* ---- statistics ------------------------------------------------------------------ */

static struct json *exits_of(const struct vcpu *v)
{
	struct json *o = json_new_object();
	uint64_t all = 0;

	json_put_int(o, "cpu-index", v->index);
	for (unsigned i = 0; i < VCPU_EXITS; i++) {
		uint64_t n = __atomic_load_n(&v->exits[i], __ATOMIC_RELAXED);

		json_put_int(o, vcpu_exit_names[i], (int64_t)n);
		all += n;
	}
	json_put_int(o, "exits", (int64_t)all);
	return o;
}

static int stats(struct qmp_call *c)
{
	const struct vm *vm = c->q->what.vm;
	struct json *list = json_new_array();

	for (unsigned i = 0; i < vm->cpus; i++)
		json_add(list, exits_of(&vm->vcpu[i]));
	c->result = json_new_object();
	json_put(c->result, "vcpus", list);
	return 0;
}

/* ---- PCI ------------------------------------------------------------------------- */

static struct json *regions_of(const struct pci_facts *f)
{
	struct json *list = json_new_array();

	for (unsigned i = 0; i < PCI_BARS; i++) {
		struct json *o;

		if (!f->bar[i].bytes)
			continue;
		o = json_new_object();
		json_put_int(o, "bar", i);
		json_put_string(o, "type", "memory");
		json_put_int(o, "address", f->bar[i].base);
		json_put_int(o, "size", f->bar[i].bytes);
		json_put_bool(o, "prefetch", false);
		json_put_bool(o, "mem_type_64", false);
		json_add(list, o);
	}
	return list;
}

static struct json *function_facts(
	const struct qmp *q, unsigned slot, unsigned function, const struct pci_facts *f)
{
	struct json *o = json_new_object(), *class = json_new_object(),
		    *id = json_new_object();
	const struct disk *d = q->what.vm->disks;

	while (d && (function || !d->plug || d->plug->instance != slot))
		d = d->next;
	json_put_int(o, "bus", 0);
	json_put_int(o, "slot", slot);
	json_put_int(o, "function", function);
	json_put_string(o, "qdev_id", d ? d->id : "");
	json_put_int(class, "class", f->id.class_code >> 8);
	json_put(o, "class_info", class);
	json_put_int(id, "vendor", f->id.vendor);
	json_put_int(id, "device", f->id.device);
	json_put_int(id, "subsystem-vendor", f->id.subsystem_vendor);
	json_put_int(id, "subsystem", f->id.subsystem);
	json_put(o, "id", id);
	json_put_int(o, "irq_pin", f->id.interrupts);
	if (f->id.interrupts)
		json_put_int(o, "irq", f->line);
	json_put(o, "regions", regions_of(f));
	return o;
}

struct look {
	const struct qmp *q;
	struct json *list;
};

/* While it stands: BARs move as the guest likes. */
static void look_at_slots(void *arg)
{
	struct look *l = arg;
	struct pci_facts facts;

	for (unsigned i = 0; i < PCI_SLOTS; i++)
		for (unsigned f = 0; f < PCI_FUNCTIONS; f++)
			if (pci_look(l->q->what.pci, i, f, &facts))
				json_add(l->list, function_facts(l->q, i, f, &facts));
}

static int query_pci(struct qmp_call *c)
{
	struct look l = {.q = c->q, .list = json_new_array()};
	struct json *bus = json_new_object();
	int ret = vm_call(c->q->what.vm, look_at_slots, &l);

	json_put_int(bus, "bus", 0);
	json_put(bus, "devices", l.list);
	c->result = json_new_array();
	json_add(c->result, bus);
	return ret ? err_set(&c->err, ESHUTDOWN, "the machine is ending") : 0;
}

/* ---- the table ------------------------------------------------------------------- */

#define LIMITS "bps:i bps_rd:i bps_wr:i iops:i iops_rd:i iops_wr:i"

const struct qmp_command qmp_commands[] = {
	{"query-version", "", query_version},
	{"query-commands", "", query_commands},
	{"query-status", "", query_status},
	{"query-name", "", query_name},
	{"query-uuid", "", query_uuid},
	{"query-kvm", "", query_kvm},
	{"query-cpus-fast", "", query_cpus},
	{"query-memory-size-summary", "", query_memory},
	{"query-balloon", "", query_balloon},
	{"balloon", "value:i", set_balloon},
	{"query-pci", "", query_pci},
	{"stop", "", stop},
	{"cont", "", cont},
	{"system_powerdown", "", powerdown},
	{"system_reset", "", reset},
	{"quit", "", quit},
	{"inject-nmi", "", inject_nmi},
	{"x-byre-stats", "", stats},
	{"query-block", "", qmp_query_block},
	{"query-blockstats", "query-nodes?b", qmp_query_blockstats},
	{"query-named-block-nodes", "flat?b", qmp_query_nodes},
	{"block_resize", "device?s node-name?s size:i", qmp_block_resize},
	{"block_set_io_throttle", "device?s id?s " LIMITS, qmp_block_throttle},
	{"blockdev-snapshot-internal-sync", "device:s name:s", qmp_snapshot_disk},
	{"blockdev-snapshot-delete-internal-sync", "device:s id?s name?s",
		qmp_snapshot_disk_delete},
	{"blockdev-add", NULL, qmp_blockdev_add},
	{"blockdev-del", "node-name:s", qmp_blockdev_del},
	{"device_add", NULL, qmp_device_add},
	{"device_del", "id:s", qmp_device_del},
	{"x-byre-add-disk", "options:s", qmp_add_disk},
	{"snapshot-save", "job-id:s tag:s vmstate?s devices?l", qmp_snapshot_save},
	{"snapshot-load", "job-id:s tag:s vmstate?s devices?l", qmp_snapshot_load},
	{"snapshot-delete", "job-id:s tag:s devices?l", qmp_snapshot_delete},
	{"x-byre-save-file", "path:s", qmp_save_file},
	{"query-jobs", "", qmp_query_jobs},
	{"job-dismiss", "id:s", qmp_job_dismiss},
	{"job-cancel", "id:s", qmp_job_cancel},
	{"human-monitor-command", "command-line:s cpu-index?i", qmp_human},
	{NULL, NULL, NULL},
};
