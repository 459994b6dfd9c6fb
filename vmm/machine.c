/* SPDX-License-Identifier: BSD-2-Clause */
/* The board. See machine.h. */
#include "vmm/machine.h"

#include <stdlib.h>
#include <string.h>

#include "base/math.h"
#include "vmm/acpi.h"
#include "vmm/ahci.h"
#include "vmm/boot.h"
#include "vmm/console.h"
#include "vmm/hotplug.h"
#include "vmm/nodes.h"
#include "vmm/nvme.h"
#include "vmm/pci.h"
#include "vmm/qmp.h"
#include "vmm/snapshot.h"
#include "vmm/virtio_blk.h"
#include "vmm/virtio_console.h"
#include "vmm/virtio_rng.h"
#include "vmm/virtio_scsi.h"

struct machine {
	struct vm vm;
	struct serial *serial;
	struct power *power;
	struct pci *pci;
	struct ahci *ahci; /* with ports that may be free; NULL: none */
	unsigned ahci_disks;
	struct virtio_scsi *scsi; /* NULL: none */
	struct hotplug *hotplug;
	struct acpi acpi;
	struct smbios smbios;
	struct boot *boot; /* or firmware */
	struct firmware *firmware;
	struct nodes nodes;
	struct qmp *qmp;
	struct chardev *chardev[CONSOLE_CHARDEVS];
	struct balloon *balloon; /* NULL: none */
	const char *restore;
	struct blk *restore_file; /* NULL: none */
	/* Slots whose disk is to go, and those that the guest has let go; atomic. */
	uint32_t leaving, ejected;
};

/* ---- disks ----------------------------------------------------------------------- */

static int attach_virtio(struct machine *m, const struct machine_disk *d,
	struct disk *disk, struct err *err)
{
	unsigned queues = MIN(d->queues ? d->queues : m->vm.cpus, VIRTIO_QUEUES_MAX);

	return virtio_blk_new(&m->vm, m->pci, disk, queues, d->packed, err);
}

/* One adapter for all: the first disk says what it is like. */
static int attach_scsi(struct machine *m, const struct machine_disk *d, struct disk *disk,
	struct err *err)
{
	unsigned queues = MIN(d->queues ? d->queues : m->vm.cpus, VIRTIO_SCSI_QUEUES_MAX);
	int ret = 0;

	if (!m->scsi)
		ret = virtio_scsi_new(&m->vm, m->pci, queues, d->packed, &m->scsi, err);
	return ret ? ret : virtio_scsi_attach(m->scsi, disk, err);
}

static int attach_nvme(struct machine *m, const struct machine_disk *d, struct disk *disk,
	struct err *err)
{
	/* OVMF's driver makes two, whatever is there, and does without the disk otherwise. */
	unsigned queues =
		MIN(d->queues ? d->queues : MAX(m->vm.cpus, 2u), NVME_QUEUES_MAX);

	return nvme_new(&m->vm, m->pci, disk, queues, err);
}

/* To a controller that has a port left, or a new one. */
static int attach_ahci(struct machine *m, const struct machine_disk *d, struct disk *disk,
	struct err *err)
{
	int ret = 0;

	if (m->ahci_disks % AHCI_PORTS == 0)
		ret = ahci_new(&m->vm, m->pci, &m->ahci, err);
	m->ahci_disks++;
	return ret ? ret : ahci_attach(m->ahci, disk, d->cdrom, err);
}

enum iface { IFACE_VIRTIO, IFACE_SCSI, IFACE_NVME, IFACE_AHCI };
const char *const machine_ifaces[] = {"virtio", "scsi", "nvme", "ahci", NULL};

static int (*const attach[])(struct machine *m, const struct machine_disk *d,
	struct disk *disk,
	struct err *err) = {attach_virtio, attach_scsi, attach_nvme, attach_ahci};

/* Which one it is, and whether that has what was asked for. */
static int choose_iface(const struct machine_disk *d, unsigned *iface, struct err *err)
{
	unsigned i = d->cdrom ? IFACE_AHCI : IFACE_VIRTIO;

	for (unsigned k = 0; d->iface && machine_ifaces[k]; k++)
		if (strcmp(machine_ifaces[k], d->iface) == 0)
			i = k;
	*iface = i;
	if (d->cdrom && i != IFACE_AHCI)
		return err_set(err, EINVAL, "a CD-ROM drive has the interface ahci");
	if (d->queues && i == IFACE_AHCI)
		return err_set(err, EINVAL, "the interface ahci has no queues to choose");
	if (d->disk.reservations && i != IFACE_SCSI)
		return err_set(
			err, EINVAL, "reservations (pr=on) are of the interface scsi");
	if (d->packed && i != IFACE_VIRTIO && i != IFACE_SCSI)
		return err_set(err, EINVAL, "packed rings are virtio's");
	return 0;
}

/* An image that was not opened by name gets the disk's. */
static int name_node(struct machine *m, struct disk *disk, struct err *err)
{
	const struct node *node = nodes_find_blk(&m->nodes, disk->blk);

	strcpy(disk->node, node ? node->name : disk->id);
	return node ? 0 : nodes_add(&m->nodes, disk->id, disk->blk, true, err);
}

static void forget_node(struct machine *m, const struct blk *blk)
{
	struct node *node = nodes_find_blk(&m->nodes, blk);

	if (node && node->with_disk)
		nodes_forget(&m->nodes, node);
}

/* A failure leaves nothing of it, and the blk open. */
static int add_disk(struct machine *m, const struct machine_disk *d, struct disk **out,
	struct err *err)
{
	unsigned iface;
	struct disk *disk;
	int ret = choose_iface(d, &iface, err);

	ret = ret ? ret : disk_new(&m->vm, &d->disk, &disk, err);
	if (ret)
		return ret;
	ret = name_node(m, disk, err);
	ret = ret ? ret : attach[iface](m, d, disk, err);
	if (ret) {
		forget_node(m, disk->blk);
		vm_remove_device(&m->vm, &disk->device);
		return ret;
	}
	*out = disk;
	return 0;
}

static int add_disks(struct machine *m, const struct machine_options *o, struct err *err)
{
	struct disk *disk;
	int ret = 0;

	for (unsigned i = 0; i < o->n_disks && ret == 0; i++)
		ret = add_disk(m, &o->disk[i], &disk, err);
	return ret;
}

/* Only one that was asked for: the guest may write what it likes. In a vCPU's thread. */
static void slot_ejected(void *arg, unsigned slot)
{
	struct machine *m = arg;
	uint32_t bit = 1u << slot;

	if (!(__atomic_load_n(&m->leaving, __ATOMIC_ACQUIRE) & bit))
		return;
	__atomic_fetch_or(&m->ejected, bit, __ATOMIC_RELEASE);
	qmp_wake(m->qmp);
}

/* ---- making one ------------------------------------------------------------------ */

/* Networks come before disks, whose number changes more often: guests name their interfaces by
 * the slot. */
static int add_nets(struct machine *m, const struct machine_options *o, struct err *err)
{
	int ret = 0;

	for (unsigned i = 0; i < o->n_nets && ret == 0; i++)
		ret = virtio_net_new(&m->vm, m->pci, &o->net[i], NULL, err);
	return ret;
}

static int add_others(struct machine *m, const struct machine_options *o, struct err *err)
{
	int ret = 0;

	if (o->console)
		ret = virtio_console_new(&m->vm, m->pci, o->console, err);
	if (ret == 0 && o->rng)
		ret = virtio_rng_new(&m->vm, m->pci, err);
	if (ret == 0 && o->balloon)
		ret = balloon_new(&m->vm, m->pci, &o->balloon_options, &m->balloon, err);
	return ret;
}

static int add_devices(
	struct machine *m, const struct machine_options *o, struct err *err)
{
	int ret = serial_new(&m->vm, o->serial, &m->serial, err);

	ret = ret ? ret : rtc_new(&m->vm, err);
	ret = ret ? ret : power_new(&m->vm, &m->power, err);
	ret = ret ? ret : pci_new(&m->vm, &m->pci, err);
	ret = ret ? ret : piix_new(&m->vm, m->pci, err);
	ret = ret ? ret : hotplug_new(&m->vm, m->power, &m->hotplug, err);
	if (ret == 0)
		hotplug_set_ejected(m->hotplug, slot_ejected, m);
	ret = ret ? ret : add_nets(m, o, err);
	ret = ret ? ret : add_disks(m, o, err);
	return ret ? ret : add_others(m, o, err);
}

/* At each reset. */
static int load(struct vm *vm, void *arg, struct err *err)
{
	struct machine *m = arg;
	uint64_t rsdp = 0;
	int ret;

	if (m->firmware) {
		firmware_load(m->firmware);
		return 0;
	}
	ret = acpi_install(vm, &m->acpi, &rsdp, err);
	ret = ret ? ret : smbios_install(vm, &m->smbios, err);
	return ret ? ret : boot_load(vm, m->boot, rsdp, err);
}

static int open_boot(struct machine *m, const struct machine_options *o, struct err *err)
{
	struct boot_options boot = {
		.kernel = o->kernel, .initrd = o->initrd, .cmdline = o->cmdline};

	int ret = acpi_build(&m->vm, &m->acpi, err);

	ret = ret ? ret : smbios_build(&m->vm, &o->smbios, &m->smbios, err);
	if (ret)
		return ret;
	m->vm.load = load;
	m->vm.load_arg = m;
	if (!o->kernel)
		return firmware_new(
			&m->vm, &o->firmware, &m->acpi, &m->smbios, &m->firmware, err);
	m->boot = boot_open(&boot, err);
	return m->boot ? 0 : -err->code;
}

/* Before anything runs. */
static int begin(struct vm *vm, void *arg, struct err *err)
{
	struct machine *m = arg;
	int ret = 0;

	if (m->restore)
		return snapshot_load(vm, m->restore, err);
	if (m->restore_file)
		ret = snapshot_load_file(vm, m->restore_file, err);
	blk_close(m->restore_file);
	m->restore_file = NULL;
	return ret;
}

/* A process that is confined cannot open it any more when it is read. */
static int open_restore_file(struct machine *m, const char *path, struct err *err)
{
	if (path)
		m->restore_file = blk_open_format(path, "raw", 0, err);
	return !path || m->restore_file ? 0 : -err->code;
}

static void set_manners(struct machine *m, const struct machine_options *o)
{
	m->chardev[0] = o->serial;
	m->chardev[1] = o->console;
	m->restore = o->restore;
	m->vm.begin = begin;
	m->vm.begin_arg = m;
	m->vm.no_reboot = o->no_reboot;
	m->vm.no_shutdown = o->no_shutdown;
	if (o->paused)
		m->vm.wanted = VM_STATUS_PRELAUNCH;
}

static int open_control(
	struct machine *m, const struct machine_options *o, struct err *err)
{
	struct qmp_machine parts = {.vm = &m->vm,
		.machine = m,
		.power = m->power,
		.pci = m->pci,
		.nodes = &m->nodes,
		.balloon = m->balloon,
		.name = o->name,
		.uuid = o->uuid};
	int ret = 0;

	m->qmp = qmp_new(&parts, err);
	if (!m->qmp)
		return -err->code;
	for (unsigned i = 0; i < o->n_qmp && ret == 0; i++)
		ret = qmp_listen(m->qmp, o->qmp[i], err);
	return ret;
}

static void free_parts(struct machine *m)
{
	qmp_free(m->qmp);
	vm_free(&m->vm);
	boot_close(m->boot);
	acpi_free(&m->acpi);
	smbios_free(&m->smbios);
	blk_close(m->restore_file);
}

struct machine *machine_new(const struct machine_options *o, struct err *err)
{
	struct machine *m = calloc(1, sizeof(*m));

	if (!m) {
		err_errno(err, ENOMEM, "machine");
		return NULL;
	}
	if (vm_new(&m->vm, &o->memory, &o->topology, err)) {
		free(m);
		return NULL;
	}
	set_manners(m, o);
	if (open_restore_file(m, o->restore_file, err) || add_devices(m, o, err) ||
		open_boot(m, o, err) || open_control(m, o, err)) {
		free_parts(m);
		nodes_forget_all(&m->nodes);
		free(m);
		return NULL;
	}
	return m;
}

void machine_note_files(const struct machine *m, struct leftovers *l)
{
	qmp_note_files(m->qmp, l);
	for (unsigned i = 0; i < CONSOLE_CHARDEVS; i++)
		if (m->chardev[i] && chardev_socket(m->chardev[i]))
			leftovers_note(l, chardev_socket(m->chardev[i]));
}

/* ---- running --------------------------------------------------------------------- */

int machine_run(struct machine *m, struct err *err)
{
	struct console *console = NULL;
	int ret = console_start(&m->vm, m->power, m->chardev, &console, err);

	ret = ret ? ret : qmp_start(m->qmp, err);
	ret = ret ? ret : vm_run(&m->vm, err);
	qmp_stop(m->qmp);
	console_stop(console);
	return ret;
}

int machine_free(struct machine *m, struct err *err)
{
	int ret;

	free_parts(m);
	ret = nodes_close_all(&m->nodes, err);
	if (ret == 0 && m->vm.unstored)
		ret = err_errno(err, -m->vm.unstored,
			"the firmware's variables: not all of them were stored");
	free(m);
	return ret;
}

/* ---- changing it while it runs --------------------------------------------------- */

struct change {
	struct machine *m;
	const struct machine_disk *add;
	struct disk *disk;
	int ret;
	struct err *err;
};

static void do_add(void *arg)
{
	struct change *c = arg;

	c->ret = add_disk(c->m, c->add, &c->disk, c->err);
	if (c->ret == 0)
		c->disk->plug->ops->reset(c->disk->plug);
}

static void do_remove(void *arg)
{
	struct change *c = arg;

	vm_remove_device(&c->m->vm, c->disk->plug);
	vm_remove_device(&c->m->vm, &c->disk->device);
}

static int call(struct change *c, void (*fn)(void *arg))
{
	if (vm_call(&c->m->vm, fn, c))
		return err_set(c->err, ESHUTDOWN, "the machine is ending");
	return c->ret;
}

static const struct disk *user_of(const struct vm *vm, const struct blk *blk)
{
	const struct disk *d = vm->disks;

	while (d && d->blk != blk)
		d = d->next;
	return d;
}

int machine_add_disk(struct machine *m, const struct machine_disk *d, struct err *err)
{
	struct change c = {.m = m, .add = d, .err = err};
	const struct disk *user = user_of(&m->vm, d->disk.blk);
	int ret;

	if (d->cdrom || (d->iface && strcmp(d->iface, "virtio") != 0))
		return err_set(err, ENOTSUP, "a disk that is added is a virtio disk");
	if (user)
		return err_set(err, EBUSY, "disk '%s' has this image", user->id);
	ret = call(&c, do_add);
	if (ret == 0)
		hotplug_added(m->hotplug, c.disk->plug->instance);
	return ret;
}

int machine_remove_disk(struct machine *m, const char *id, struct err *err)
{
	const struct disk *d = disk_find(&m->vm, id);

	if (!d)
		return err_set(err, ENOENT, "there is no disk '%s'", id);
	if (!d->plug)
		return err_set(err, ENOTSUP, "disk '%s' has no slot of its own", id);
	__atomic_fetch_or(&m->leaving, 1u << d->plug->instance, __ATOMIC_RELEASE);
	hotplug_request_eject(m->hotplug, d->plug->instance);
	return 0;
}

static struct disk *disk_in(const struct vm *vm, unsigned slot)
{
	struct disk *d = vm->disks;

	while (d && !(d->plug && d->plug->instance == slot))
		d = d->next;
	return d;
}

/* Its image goes with it, unless it was opened for itself. A guest may let a slot go as often as it
 * likes: what comes late is of a disk that has gone, and the next one in the slot stays. While this
 * one is taken out no vCPU is underway with such a write. */
static void remove_from(struct machine *m, unsigned slot)
{
	struct err err = ERR_INIT;
	struct change c = {.m = m, .disk = disk_in(&m->vm, slot), .err = &err};
	uint32_t bit = 1u << slot;
	char id[DISK_ID_MAX];
	struct node *node;

	if (!(__atomic_fetch_and(&m->leaving, ~bit, __ATOMIC_ACQ_REL) & bit) || !c.disk)
		return;
	strcpy(id, c.disk->id);
	node = nodes_find_blk(&m->nodes, c.disk->blk);
	if (call(&c, do_remove))
		return;
	__atomic_fetch_and(&m->ejected, ~bit, __ATOMIC_ACQ_REL);
	if (node->with_disk)
		nodes_close(&m->nodes, node, NULL);
	qmp_device_deleted(m->qmp, id);
}

void machine_take_ejected(struct machine *m)
{
	uint32_t slots = __atomic_exchange_n(&m->ejected, 0, __ATOMIC_ACQUIRE);

	for (unsigned i = 0; i < PCI_SLOTS; i++)
		if (slots >> i & 1)
			remove_from(m, i);
}
