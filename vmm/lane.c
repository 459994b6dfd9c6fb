/* SPDX-License-Identifier: BSD-2-Clause */
/* Loops of devices' queues. See lane.h. */
#include "vmm/lane.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/aio.h"

int lane_init(struct lane *l, void (*serve)(void *arg), void *arg)
{
	*l = (struct lane){.serve = serve, .arg = arg};
	l->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return l->event_fd < 0 ? -errno : 0;
}

void lane_destroy(struct lane *l)
{
	assert(!l->loop);
	if (l->event_fd >= 0)
		close(l->event_fd);
}

bool lane_stopping(const struct lane *l)
{
	return __atomic_load_n(&l->stopping, __ATOMIC_ACQUIRE);
}

void lane_ring(struct lane *l)
{
	uint64_t one = 1;

	if (write(l->event_fd, &one, sizeof(one)) < 0)
		return; /* it is full of them */
}

void lane_clear(struct lane *l)
{
	uint64_t count;

	if (read(l->event_fd, &count, sizeof(count)) < 0)
		return; /* it was clear */
}

/* Who serves may have heard the bell that was to end it. */
static void lane_main(void *arg)
{
	struct lane *l = arg;

	for (;;) {
		l->serve(l->arg);
		if (lane_stopping(l))
			break;
		aio_poll(l->event_fd, POLLIN, -1);
		lane_clear(l);
	}
}

int lane_start(struct lane *l)
{
	struct err err = ERR_INIT;

	if (l->loop)
		return 0;
	__atomic_store_n(&l->stopping, false, __ATOMIC_RELEASE);
	l->loop = loop_start(&err);
	if (!l->loop)
		return -err.code;
	if (task_spawn(l->loop, lane_main, l) == 0)
		return 0;
	loop_stop(l->loop);
	l->loop = NULL;
	return -ENOMEM;
}

void lane_stop(struct lane *l)
{
	if (!l->loop)
		return;
	__atomic_store_n(&l->stopping, true, __ATOMIC_RELEASE);
	lane_ring(l);
	loop_stop(l->loop);
	l->loop = NULL;
}
