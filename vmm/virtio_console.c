/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Virtio consoles. See virtio_console.h.
 *
 * What comes in waits in a FIFO till the guest has buffers for it. What goes out is written
 * in order, a chain at a time; of one that was begun when the machine stops it is remembered how
 * much has been written, as it will be handed out again.
 */
#include "vmm/virtio_console.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "base/aio.h"
#include "base/iov.h"
#include "base/math.h"

#define FIFO   4096u
#define PIECE  4096u
#define NAP_NS 5000000 /* where the other side has no room */

enum { QUEUE_IN, QUEUE_OUT, QUEUES };

struct virtio_console {
	struct virtio_device virtio; /* first */
	struct chardev *chardev;
	uint64_t written; /* of the chain that is being written; by the queue's task */

	pthread_mutex_t lock; /* around what follows */
	uint8_t in[FIFO];
	unsigned first, n;
};

static struct virtio_console *console_of(struct virtio_device *d)
{
	return (struct virtio_console *)d;
}

static void wait_for_guest(struct virtio_queue *q, int64_t timeout_ns)
{
	aio_poll(q->lane.event_fd, POLLIN, timeout_ns);
	virtio_clear_event(q);
}

/* ---- in -------------------------------------------------------------------------- */

static unsigned receive(void *front, const uint8_t *data, unsigned bytes)
{
	struct virtio_console *v = front;
	unsigned n;

	pthread_mutex_lock(&v->lock);
	n = MIN(bytes, FIFO - v->n);
	for (unsigned i = 0; i < n; i++)
		v->in[(v->first + v->n++) % FIFO] = data[i];
	pthread_mutex_unlock(&v->lock);
	virtio_wake(&v->virtio.queue[QUEUE_IN]);
	return n;
}

static bool has_input(struct virtio_console *v)
{
	bool has;

	pthread_mutex_lock(&v->lock);
	has = v->n > 0;
	pthread_mutex_unlock(&v->lock);
	return has;
}

/* What waits, as much as the chain has room for. */
static void fill(struct virtio_console *v, struct virtio_chain *c)
{
	unsigned bytes, head;

	pthread_mutex_lock(&v->lock);
	bytes = (unsigned)MIN((uint64_t)v->n, c->in_bytes);
	head = MIN(bytes, FIFO - v->first);
	iov_from_buf(c->iov + c->n_out, (int)c->n_in, 0, v->in + v->first, head);
	iov_from_buf(c->iov + c->n_out, (int)c->n_in, head, v->in, bytes - head);
	v->first = (v->first + bytes) % FIFO;
	v->n -= bytes;
	pthread_mutex_unlock(&v->lock);
	virtio_done(c, bytes);
	chardev_ready(v->chardev);
}

static void run_in(struct virtio_console *v, struct virtio_queue *q)
{
	while (!virtio_stopping(q)) {
		struct virtio_chain *c = has_input(v) ? virtio_take(q) : NULL;

		if (c)
			fill(v, c);
		else
			wait_for_guest(q, -1);
	}
}

/* ---- out ------------------------------------------------------------------------- */

/* Bytes that were taken of the next piece; 0 where there is no room. */
static size_t write_piece(struct virtio_console *v, struct virtio_chain *c)
{
	uint8_t piece[PIECE];
	size_t bytes = MIN(c->out_bytes - v->written, (uint64_t)PIECE);

	iov_to_buf(c->iov, (int)c->n_out, v->written, piece, bytes);
	return chardev_write(v->chardev, piece, bytes);
}

static void write_chain(
	struct virtio_console *v, struct virtio_queue *q, struct virtio_chain *c)
{
	if (!c->again)
		v->written = 0;
	while (v->written < c->out_bytes) {
		size_t n = write_piece(v, c);

		v->written += n;
		if (virtio_stopping(q) && v->written < c->out_bytes) {
			virtio_hold(c);
			return;
		}
		if (!n)
			wait_for_guest(q, NAP_NS);
	}
	v->written = 0;
	virtio_done(c, 0);
}

static void run_out(struct virtio_console *v, struct virtio_queue *q)
{
	while (!virtio_stopping(q)) {
		struct virtio_chain *c = virtio_take(q);

		if (c)
			write_chain(v, q, c);
		else
			wait_for_guest(q, -1);
	}
}

static bool run(struct virtio_device *d, struct virtio_queue *q)
{
	if (q->index == QUEUE_IN)
		run_in(console_of(d), q);
	else
		run_out(console_of(d), q);
	return true;
}

/* ---- life ------------------------------------------------------------------------ */

/* What was typed for the system that was before is not for the next. */
static void reset(struct virtio_device *d)
{
	struct virtio_console *v = console_of(d);

	pthread_mutex_lock(&v->lock);
	v->first = v->n = 0;
	pthread_mutex_unlock(&v->lock);
	v->written = 0;
	chardev_ready(v->chardev);
}

static void console_state(struct virtio_device *d, struct state *s, unsigned version)
{
	struct virtio_console *v = console_of(d);
	uint32_t first = v->first, n = v->n;

	(void)version;
	state_u64(s, &v->written);
	state_bytes(s, v->in, sizeof(v->in));
	state_u32(s, &first);
	state_u32(s, &n);
	if (state_check(s, first < FIFO && n <= FIFO, "more waits than there is room")) {
		v->first = first;
		v->n = n;
	}
}

static void console_free(struct virtio_device *d)
{
	pthread_mutex_destroy(&console_of(d)->lock);
	free(d);
}

static const struct virtio_device_ops ops = {
	.name = "virtio-console",
	.id = 3,
	.class_code = 0x078000, /* another communication controller */
	.version = 1,
	.run = run,
	.reset = reset,
	.state = console_state,
	.free = console_free,
};

int virtio_console_new(
	struct vm *vm, struct pci *pci, struct chardev *chardev, struct err *err)
{
	struct virtio_console *v = calloc(1, sizeof(*v));
	int ret;

	if (!v)
		return err_errno(err, ENOMEM, "virtio-console");
	v->virtio.ops = &ops;
	v->virtio.n_queues = QUEUES;
	v->chardev = chardev;
	pthread_mutex_init(&v->lock, NULL);
	ret = virtio_add(&v->virtio, vm, pci, -1, err);
	if (ret) {
		console_free(&v->virtio);
		return ret;
	}
	chardev_attach(chardev, receive, v);
	return 0;
}
