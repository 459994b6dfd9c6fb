/* SPDX-License-Identifier: BSD-2-Clause */
/* Virtio entropy devices. See virtio_rng.h. */
#include "vmm/virtio_rng.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/iov.h"
#include "base/math.h"

#define ONCE 4096u /* bytes of one request: what is there is random, the rest untouched */

static void serve(struct virtio_device *d, struct virtio_chain *c)
{
	uint8_t bytes[ONCE];
	size_t want = MIN(c->in_bytes, (uint64_t)ONCE);
	ssize_t got = want ? getrandom(bytes, want, 0) : 0;

	(void)d;
	if (got < 0)
		got = 0; /* a signal: the guest asks again */
	iov_from_buf(c->iov + c->n_out, (int)c->n_in, 0, bytes, (size_t)got);
	explicit_bzero(bytes, sizeof(bytes));
	virtio_done(c, (uint32_t)got);
}

static void rng_free(struct virtio_device *d)
{
	free(d);
}

static const struct virtio_device_ops ops = {
	.name = "virtio-rng",
	.id = 4,
	.class_code = 0x00ff00, /* none of PCI's classes */
	.version = 1,
	.serve = serve,
	.free = rng_free,
};

int virtio_rng_new(struct vm *vm, struct pci *pci, struct err *err)
{
	struct virtio_device *d = calloc(1, sizeof(*d));
	int ret;

	if (!d)
		return err_errno(err, ENOMEM, "virtio-rng");
	d->ops = &ops;
	d->n_queues = 1;
	ret = virtio_add(d, vm, pci, -1, err);
	if (ret)
		free(d);
	return ret;
}
