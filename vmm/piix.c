/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The south bridge as firmware looks for it beside an i440FX: the PIIX3's ISA bridge, whose
 * interrupt routing is remembered (the lines are fixed, pci_gsi), and the PIIX4's power
 * management, which says that its registers are at POWER_PORT and do not move.
 *
 * Firmware that finds the second one would set up system management mode, which is not
 * there, unless that is done already: the byte at 0x5b says so.
 */
#include <stdlib.h>

#include "base/endian.h"
#include "vmm/devices.h"
#include "vmm/pci.h"

#define PIRQ_ROUTES     0x60 /* four bytes, one for each pin */
#define DEVICE_ACTIVITY 0x5b
#define SMI_IS_SET_UP   0x02
#define PM_BASE         0x40
#define PM_MISC         0x80 /* bit 0: the base is decoded */

struct piix {
	struct device device; /* first */
	struct pci_function isa, pm;
};

static void piix_reset(struct device *d)
{
	struct piix *p = (struct piix *)d;

	pci_function_reset(&p->isa);
	pci_function_reset(&p->pm);
	for (unsigned i = 0; i < 4; i++)
		p->isa.config[PIRQ_ROUTES + i] = 0x80; /* routed nowhere */
	le32_store(p->pm.config + PM_BASE, POWER_PORT | 1);
	p->pm.config[PM_MISC] = 1;
	p->pm.config[DEVICE_ACTIVITY] = SMI_IS_SET_UP;
}

static void piix_state(struct device *d, struct state *s, unsigned version)
{
	struct piix *p = (struct piix *)d;

	(void)version;
	pci_function_state(&p->isa, s);
	pci_function_state(&p->pm, s);
}

static void piix_free(struct device *d)
{
	struct piix *p = (struct piix *)d;

	pci_remove(&p->pm);
	pci_remove(&p->isa);
	free(p);
}

static const struct device_ops piix_ops = {
	.name = "piix",
	.reset = piix_reset,
	.version = 1,
	.state = piix_state,
	.free = piix_free,
};

int piix_new(struct vm *vm, struct pci *pci, struct err *err)
{
	static const struct pci_identity isa = {
		.vendor = 0x8086, .device = 0x7000, .class_code = 0x060100};
	static const struct pci_identity pm = {.vendor = 0x8086,
		.device = 0x7113,
		.class_code = 0x068000,
		.revision = 3};
	struct piix *p = calloc(1, sizeof(*p));
	int ret;

	if (!p)
		return err_errno(err, ENOMEM, "piix");
	p->device.ops = &piix_ops;
	pci_function_init(&p->isa, vm, &isa);
	pci_function_init(&p->pm, vm, &pm);
	le32_store(p->isa.writable + PIRQ_ROUTES, UINT32_MAX);
	p->pm.writable[PM_MISC] = 1;
	ret = pci_add(pci, &p->isa, PIIX_SLOT, err);
	ret = ret ? ret : pci_add_function(pci, &p->pm, PIIX_SLOT, 3, err);
	if (ret) {
		piix_free(&p->device);
		return ret;
	}
	vm_add_device(vm, &p->device);
	return 0;
}
