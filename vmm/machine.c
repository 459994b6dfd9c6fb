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
#include "vmm/nvme.h"
#include "vmm/virtio_blk.h"
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
	int console_in;
};

/* ---- disks ----------------------------------------------------------------------- */

static int attach_virtio(struct machine *m, const struct machine_disk *d,
	struct disk *disk, unsigned cpus, struct err *err)
{
	unsigned queues = MIN(d->queues ? d->queues : cpus, VIRTIO_QUEUES_MAX);

	return virtio_blk_new(&m->vm, m->pci, disk, queues, d->packed, err);
}

/* One adapter for all: the first disk says what it is like. */
static int attach_scsi(struct machine *m, const struct machine_disk *d, struct disk *disk,
	unsigned cpus, struct err *err)
{
	unsigned queues = MIN(d->queues ? d->queues : cpus, VIRTIO_SCSI_QUEUES_MAX);
	int ret = 0;

	if (!m->scsi)
		ret = virtio_scsi_new(&m->vm, m->pci, queues, d->packed, &m->scsi, err);
	return ret ? ret : virtio_scsi_attach(m->scsi, disk, err);
}

static int attach_nvme(struct machine *m, const struct machine_disk *d, struct disk *disk,
	unsigned cpus, struct err *err)
{
	unsigned queues = MIN(d->queues ? d->queues : cpus, NVME_QUEUES_MAX);

	return nvme_new(&m->vm, m->pci, disk, queues, err);
}

/* To a controller that has a port left, or a new one. */
static int attach_ahci(struct machine *m, const struct machine_disk *d, struct disk *disk,
	unsigned cpus, struct err *err)
{
	int ret = 0;

	(void)cpus;
	if (m->ahci_disks % AHCI_PORTS == 0)
		ret = ahci_new(&m->vm, m->pci, &m->ahci, err);
	m->ahci_disks++;
	return ret ? ret : ahci_attach(m->ahci, disk, d->cdrom, err);
}

enum iface { IFACE_VIRTIO, IFACE_SCSI, IFACE_NVME, IFACE_AHCI };
const char *const machine_ifaces[] = {"virtio", "scsi", "nvme", "ahci", NULL};

static int (*const attach[])(struct machine *m, const struct machine_disk *d,
	struct disk *disk, unsigned cpus,
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
	if (d->packed && i != IFACE_VIRTIO && i != IFACE_SCSI)
		return err_set(err, EINVAL, "packed rings are virtio's");
	return 0;
}

static int add_disk(
	struct machine *m, const struct machine_disk *d, unsigned cpus, struct err *err)
{
	unsigned iface;
	struct disk *disk;
	int ret = choose_iface(d, &iface, err);

	ret = ret ? ret : disk_new(&m->vm, &d->disk, &disk, err);
	return ret ? ret : attach[iface](m, d, disk, cpus, err);
}

static int add_disks(struct machine *m, const struct machine_options *o, struct err *err)
{
	int ret = 0;

	for (unsigned i = 0; i < o->n_disks && ret == 0; i++)
		ret = add_disk(m, &o->disk[i], m->vm.cpus, err);
	return ret;
}

/* ---- the rest of it -------------------------------------------------------------- */

static int add_devices(
	struct machine *m, const struct machine_options *o, struct err *err)
{
	int ret = serial_new(&m->vm, o->console_out, &m->serial, err);

	ret = ret ? ret : rtc_new(&m->vm, err);
	ret = ret ? ret : power_new(&m->vm, &m->power, err);
	ret = ret ? ret : pci_new(&m->vm, &m->pci, err);
	ret = ret ? ret : piix_new(&m->vm, m->pci, err);
	ret = ret ? ret : hotplug_new(&m->vm, m->power, &m->hotplug, err);
	return ret ? ret : add_disks(m, o, err);
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

struct machine *machine_new(const struct machine_options *o, struct err *err)
{
	struct machine *m = calloc(1, sizeof(*m));

	if (!m) {
		err_errno(err, ENOMEM, "machine");
		return NULL;
	}
	m->console_in = o->console_in;
	if (vm_new(&m->vm, &o->memory, &o->topology, err)) {
		free(m);
		return NULL;
	}
	if (add_devices(m, o, err) || open_boot(m, o, err)) {
		machine_free(m);
		return NULL;
	}
	return m;
}

int machine_run(struct machine *m, struct err *err)
{
	struct console *console = NULL;
	int ret =
		console_start(&m->vm, m->serial, m->power, m->console_in, &console, err);

	if (ret == 0)
		ret = vm_run(&m->vm, err);
	console_stop(console);
	return ret;
}

void machine_free(struct machine *m)
{
	vm_free(&m->vm);
	boot_close(m->boot);
	acpi_free(&m->acpi);
	smbios_free(&m->smbios);
	free(m);
}
