/* SPDX-License-Identifier: BSD-2-Clause */
/* The board. See machine.h. */
#include "vmm/machine.h"

#include <stdlib.h>

#include "base/math.h"
#include "vmm/acpi.h"
#include "vmm/boot.h"
#include "vmm/console.h"
#include "vmm/virtio_blk.h"

struct machine {
	struct vm vm;
	struct serial *serial;
	struct power *power;
	struct pci *pci;
	int console_in;
};

static int add_disks(struct machine *m, const struct machine_options *o, struct err *err)
{
	int ret = 0;

	for (unsigned i = 0; i < o->n_disks && ret == 0; i++) {
		const struct machine_disk *d = &o->disk[i];
		struct virtio_blk_options blk = {.blk = d->blk,
			.queues = MIN(d->queues ? d->queues : o->cpus, VIRTIO_QUEUES_MAX),
			.serial = d->serial[0] ? d->serial : NULL,
			.discard = d->discard};

		ret = virtio_blk_new(&m->vm, m->pci, &blk, err);
	}
	return ret;
}

static int add_devices(
	struct machine *m, const struct machine_options *o, struct err *err)
{
	int ret = serial_new(&m->vm, o->console_out, &m->serial, err);

	ret = ret ? ret : rtc_new(&m->vm, err);
	ret = ret ? ret : power_new(&m->vm, &m->power, err);
	ret = ret ? ret : pci_new(&m->vm, &m->pci, err);
	return ret ? ret : add_disks(m, o, err);
}

static int load(struct machine *m, const struct machine_options *o, struct err *err)
{
	struct boot_options boot = {
		.kernel = o->kernel, .initrd = o->initrd, .cmdline = o->cmdline};
	int ret = acpi_install(&m->vm, &boot.rsdp, err);

	return ret ? ret : boot_linux(&m->vm, &boot, err);
}

struct machine *machine_new(const struct machine_options *o, struct err *err)
{
	struct machine *m = calloc(1, sizeof(*m));

	if (!m) {
		err_errno(err, ENOMEM, "machine");
		return NULL;
	}
	m->console_in = o->console_in;
	if (vm_new(&m->vm, &o->memory, o->cpus, err)) {
		free(m);
		return NULL;
	}
	if (add_devices(m, o, err) || load(m, o, err)) {
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
	free(m);
}
