/* SPDX-License-Identifier: BSD-2-Clause */
/* Queues that the kernel serves. See vhost.h. */
#include "vmm/vhost.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <linux/vhost.h>

#include "base/math.h"
#include "vmm/vring.h"

#define MRG_RXBUF 15
#define FEATURES                                                                         \
	(1ull << MRG_RXBUF | 1ull << VIRTIO_F_INDIRECT_DESC |                            \
		1ull << VIRTIO_F_EVENT_IDX | 1ull << VIRTIO_F_VERSION_1)

/* ---- life ------------------------------------------------------------------------ */

static int open_events(struct vhost *h)
{
	int ret = 0;

	for (unsigned i = 0; i < 2; i++) {
		int *fds[] = {
			&h->queue[i].kick_fd, &h->queue[i].call_fd, &h->queue[i].err_fd};

		for (unsigned k = 0; k < ARRAY_LEN(fds); k++) {
			*fds[k] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
			if (*fds[k] < 0)
				ret = -errno;
		}
	}
	return ret;
}

static int begin(struct vhost *h)
{
	uint64_t features;

	h->fd = open("/dev/vhost-net", O_RDWR | O_CLOEXEC);
	if (h->fd < 0 || ioctl(h->fd, VHOST_SET_OWNER) ||
		ioctl(h->fd, VHOST_GET_FEATURES, &features))
		return -errno;
	return (features & FEATURES) == FEATURES ? open_events(h) : -ENOTSUP;
}

struct vhost *vhost_net_open(struct err *err)
{
	struct vhost *h = malloc(sizeof(*h));
	int ret;

	if (!h) {
		err_errno(err, ENOMEM, "/dev/vhost-net");
		return NULL;
	}
	*h = (struct vhost){-1, {{-1, -1, -1}, {-1, -1, -1}}};
	ret = begin(h);
	if (ret == 0)
		return h;
	err_errno(err, -ret, "/dev/vhost-net");
	vhost_free(h);
	return NULL;
}

static void close_fd(int fd)
{
	if (fd >= 0)
		close(fd);
}

void vhost_free(struct vhost *h)
{
	if (!h)
		return;
	close_fd(h->fd);
	for (unsigned i = 0; i < 2; i++) {
		close_fd(h->queue[i].kick_fd);
		close_fd(h->queue[i].call_fd);
		close_fd(h->queue[i].err_fd);
	}
	free(h);
}

/* ---- a queue --------------------------------------------------------------------- */

static int call(const struct vhost *h, unsigned long request, const void *arg)
{
	return ioctl(h->fd, request, arg) ? -errno : 0;
}

static int set_memory(const struct vhost *h, const struct memory *m)
{
	struct vhost_memory *table =
		calloc(1, sizeof(*table) + m->n * sizeof(table->regions[0]));
	int ret;

	if (!table)
		return -ENOMEM;
	table->nregions = m->n;
	for (unsigned i = 0; i < m->n; i++)
		table->regions[i] =
			(struct vhost_memory_region){.guest_phys_addr = m->region[i].base,
				.memory_size = m->region[i].bytes,
				.userspace_addr = (uintptr_t)m->region[i].host};
	ret = call(h, VHOST_SET_MEM_TABLE, table);
	free(table);
	return ret;
}

/* The same for both queues of the pair, whichever comes first. */
static int set_up(const struct vhost *h, const struct virtio_device *d)
{
	uint64_t features = d->driver_features & FEATURES;
	int ret = call(h, VHOST_SET_FEATURES, &features);

	return ret ? ret : set_memory(h, &d->vm->memory);
}

static uint64_t host_of(const struct virtio_queue *q, uint64_t address)
{
	return (uintptr_t)vring_at(q, address);
}

static int set_ring(const struct vhost *h, unsigned which, const struct virtio_queue *q)
{
	struct vhost_vring_state size = {which, q->size}, place = {which, q->next_used};
	struct vhost_vring_addr rings = {.index = which,
		.desc_user_addr = host_of(q, q->desc),
		.avail_user_addr = host_of(q, q->avail),
		.used_user_addr = host_of(q, q->used)};
	struct vhost_vring_file err = {which, h->queue[which].err_fd},
				notify = {which, h->queue[which].call_fd},
				kick = {which, h->queue[which].kick_fd};
	int ret = call(h, VHOST_SET_VRING_NUM, &size);

	ret = ret ? ret : call(h, VHOST_SET_VRING_BASE, &place);
	ret = ret ? ret : call(h, VHOST_SET_VRING_ADDR, &rings);
	ret = ret ? ret : call(h, VHOST_SET_VRING_ERR, &err);
	ret = ret ? ret : call(h, VHOST_SET_VRING_CALL, &notify);
	return ret ? ret : call(h, VHOST_SET_VRING_KICK, &kick);
}

int vhost_set_tap(struct vhost *h, unsigned which, int tap_fd)
{
	struct vhost_vring_file backend = {which, tap_fd};

	return call(h, VHOST_NET_SET_BACKEND, &backend);
}

int vhost_start(struct vhost *h, unsigned which, struct virtio_queue *q, int tap_fd)
{
	int ret = set_up(h, q->d);

	virtio_forget_taken(q);
	ret = ret ? ret : set_ring(h, which, q);
	ret = ret ? ret : vhost_set_tap(h, which, tap_fd);
	/* What was offered before it was listening. */
	eventfd_write(h->queue[which].kick_fd, 1);
	return ret;
}

void vhost_stop(struct vhost *h, unsigned which, struct virtio_queue *q)
{
	vhost_set_tap(h, which, -1);
	q->next_used = vring_load16(vring_at(q, q->used) + 2);
	q->next_avail = q->next_used;
}
