/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Queues of virtio devices: chains under way and at rest, the loop that serves them, their
 * state. See virtio_queue.h.
 *
 * Life of a queue: set up by the guest → DRIVER_OK: its loop starts, a task there waits for
 * the guest's notifications (an ioeventfd) and starts a task for each chain → reset, or the
 * machine stops: the waiting task ends, chains under way are waited for, the loop ends. Those
 * that were held are kept as they were taken: in a packed ring their descriptors may have been
 * overwritten by then.
 */
#include "vmm/virtio_queue.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>

#include "base/iov.h"
#include "base/math.h"
#include "vmm/vring.h"

/* ---- chains ---------------------------------------------------------------------- */

#define SPARE_MAX    32u /* chains that a queue keeps for the next requests */
#define TOGETHER_MAX 64u /* descriptors that wait to be one interrupt */

/* The queue's lock is held. NULL: no memory. */
static struct virtio_chain *chain_new(struct virtio_queue *q)
{
	struct virtio_chain *c = q->spare;

	if (c) {
		q->spare = c->next;
		q->n_spare--;
	} else {
		c = malloc(sizeof(*c));
	}
	if (!c)
		return NULL;
	c->q = q;
	c->n_out = c->n_in = 0;
	c->out_bytes = c->in_bytes = c->done = 0;
	c->next = NULL;
	c->again = false;
	return c;
}

static void chain_free(struct virtio_chain *c)
{
	struct virtio_queue *q = c->q;

	if (q->n_spare == SPARE_MAX) {
		free(c);
		return;
	}
	c->next = q->spare;
	q->spare = c;
	q->n_spare++;
}

static void free_list(struct virtio_chain **list)
{
	struct virtio_chain *c;

	while ((c = *list)) {
		*list = c->next;
		free(c);
	}
}

/* None runs; of others' queues tasks may ask about this one. */
static void forget_chains(struct virtio_queue *q)
{
	task_lock(&q->lock);
	free_list(&q->again);
	free_list(&q->held);
	free_list(&q->spare);
	q->held_end = &q->held;
	q->n_spare = q->catching_up = 0;
	task_unlock(&q->lock);
}

/* What was held goes behind what was already waiting to be taken again. The lock is held, or
 * nothing runs. */
static void take_again(struct virtio_queue *q)
{
	struct virtio_chain **end = &q->again;

	while (*end)
		end = &(*end)->next;
	*end = q->held;
	q->held = NULL;
	q->held_end = &q->held;
	q->catching_up = 0;
	for (struct virtio_chain *c = q->again; c; c = c->next) {
		c->again = true;
		q->catching_up++;
	}
}

/* The chain is not under way any more; the lock is held, and it is the last of it. */
static void ended(struct virtio_queue *q, bool again)
{
	q->in_flight--;
	q->catching_up -= again;
}

void virtio_hold(struct virtio_chain *c)
{
	struct virtio_queue *q = c->q;

	c->next = NULL;
	task_lock(&q->lock);
	*q->held_end = c;
	q->held_end = &c->next;
	ended(q, c->again);
	task_unlock(&q->lock);
}

/* The lock is held. */
static void tell(struct virtio_queue *q)
{
	unsigned n = q->untold;

	q->untold = 0;
	if (n && q->ring->wants_interrupt(q, n))
		virtio_interrupt(q->d, &q->vector, VIRTIO_ISR_QUEUE);
}

static void tell_of_all(void *arg)
{
	struct virtio_queue *q = arg;

	task_lock(&q->lock);
	q->telling = false;
	tell(q);
	task_unlock(&q->lock);
}

/* Behind what the loop has ready now, so that what ended together is one interrupt. The lock is
 * held. */
static void tell_soon(struct virtio_queue *q)
{
	if (!q->telling && loop_self() == q->lane.loop)
		q->telling = task_spawn(NULL, tell_of_all, q) == 0;
	if (!q->telling || q->untold >= TOGETHER_MAX)
		tell(q);
}

/* The interrupt is sent before the queue may be seen at rest, which waits for all tasks: a
 * machine whose state is saved has it. */
void virtio_done_many(
	struct virtio_chain *const *chains, const uint32_t *written, unsigned n)
{
	struct virtio_queue *q = chains[0]->q;

	task_lock(&q->lock);
	q->ring->give_back(q, chains, written, n);
	for (unsigned i = 0; i < n; i++) {
		bool again = chains[i]->again;

		q->untold += chains[i]->descs;
		chain_free(chains[i]);
		ended(q, again);
	}
	tell_soon(q);
	task_unlock(&q->lock);
}

void virtio_done(struct virtio_chain *c, uint32_t written)
{
	virtio_done_many(&c, &written, 1);
}

/* ---- serving --------------------------------------------------------------------- */

static void set_listening(struct virtio_queue *q, bool listening)
{
	if (q->listening && !listening)
		q->ring->look_away(q);
	q->listening = listening;
}

/* From the ring. Where there is no more the guest is asked to notify, and then what it offers
 * meanwhile is looked for once more. -EINVAL: its rings make no sense. */
static int next_chain(struct virtio_queue *q, struct virtio_chain *c)
{
	int ret = q->ring->next(q, c);

	if (ret == 0 && !q->listening) {
		set_listening(q, true);
		if (q->ring->listen(q))
			ret = q->ring->next(q, c);
	}
	if (ret > 0)
		set_listening(q, false);
	return ret;
}

static struct virtio_chain *pop_again(struct virtio_queue *q)
{
	struct virtio_chain *c = q->again;

	q->again = c->next;
	c->next = NULL;
	return c;
}

/* The lock is held. A guest that offers more than there are descriptors has offered some
 * twice. */
static struct virtio_chain *take(struct virtio_queue *q, int *ret)
{
	struct virtio_chain *c = chain_new(q);

	*ret = c ? next_chain(q, c) : -ENOMEM;
	if (*ret > 0 && q->in_flight >= q->size)
		*ret = -EINVAL;
	if (*ret > 0)
		return c;
	if (c)
		chain_free(c);
	return NULL;
}

struct virtio_chain *virtio_take(struct virtio_queue *q)
{
	struct virtio_chain *c;
	int ret = 0;

	if (virtio_is_broken(q->d))
		return NULL;
	task_lock(&q->lock);
	c = q->again ? pop_again(q) : take(q, &ret);
	if (c)
		q->in_flight++;
	task_unlock(&q->lock);
	if (ret == -EINVAL)
		virtio_break(q->d, "a descriptor chain makes no sense");
	else if (ret < 0)
		virtio_break(q->d, "there is no memory for a request");
	return c;
}

static void serve_chain(void *arg)
{
	struct virtio_chain *c = arg;

	c->q->d->ops->serve(c->q->d, c);
}

/* Starts what the guest has offered. */
static void serve_offered(struct virtio_queue *q)
{
	struct virtio_chain *c;

	while ((c = virtio_take(q)))
		if (task_spawn(NULL, serve_chain, c))
			serve_chain(c);
}

bool virtio_stopping(struct virtio_queue *q)
{
	return lane_stopping(&q->lane);
}

bool virtio_is_holding(struct virtio_queue *q)
{
	bool holding;

	task_lock(&q->lock);
	holding = q->held;
	task_unlock(&q->lock);
	return holding;
}

bool virtio_is_catching_up(struct virtio_queue *q)
{
	bool again;

	task_lock(&q->lock);
	again = q->catching_up && !virtio_is_broken(q->d);
	task_unlock(&q->lock);
	return again;
}

void virtio_clear_event(struct virtio_queue *q)
{
	lane_clear(&q->lane);
}

/* What was offered before the machine stopped has its notification still to come, or not
 * any more: so it is looked at first. */
static void serve_queue(void *arg)
{
	struct virtio_queue *q = arg;

	if (!q->d->ops->run || !q->d->ops->run(q->d, q))
		serve_offered(q);
}

int virtio_queue_start(struct virtio_queue *q)
{
	q->listening = false;
	return lane_start(&q->lane);
}

void virtio_forget_taken(struct virtio_queue *q)
{
	task_lock(&q->lock);
	free_list(&q->again);
	q->catching_up = 0;
	task_unlock(&q->lock);
}

void virtio_tell_guest(struct virtio_queue *q)
{
	virtio_interrupt(q->d, &q->vector, VIRTIO_ISR_QUEUE);
}

void virtio_queue_kick(struct virtio_queue *q)
{
	eventfd_write(q->kick_fd, 1);
}

void virtio_wake(struct virtio_queue *q)
{
	lane_ring(&q->lane);
}

void virtio_queue_stop(struct virtio_queue *q)
{
	if (!q->lane.loop)
		return;
	lane_stop(&q->lane);
	assert(!q->in_flight); /* each was a task's of the loop */
	/* Before any queue starts: another's tasks may ask (virtio_is_catching_up). */
	task_lock(&q->lock);
	take_again(q);
	task_unlock(&q->lock);
}

/* ---- set-up ---------------------------------------------------------------------- */

void virtio_queue_reset(struct virtio_queue *q)
{
	q->size = VIRTIO_QUEUE_SIZE;
	q->vector = PCI_NO_VECTOR;
	q->enabled = false;
	q->desc = q->avail = q->used = 0;
	q->next_avail = q->next_used = 0;
	q->avail_lap = q->used_lap = true;
	forget_chains(q);
}

/* Its size makes a ring of the layout: packed ones need not be powers of two (2.8.10.1). */
static bool is_size(const struct virtio_device *d, uint64_t size)
{
	return size && size <= VIRTIO_QUEUE_SIZE &&
	       (is_pow2(size) || virtio_has(d, VIRTIO_F_RING_PACKED));
}

bool virtio_queue_fits(struct virtio_queue *q)
{
	q->ring = virtio_has(q->d, VIRTIO_F_RING_PACKED) ? &vring_packed : &vring_split;
	q->event_idx = virtio_has(q->d, VIRTIO_F_EVENT_IDX);
	return is_size(q->d, q->size) && q->ring->fits(q);
}

void virtio_queue_resize(struct virtio_queue *q, uint64_t size)
{
	if (!q->enabled && is_size(q->d, size))
		q->size = (uint16_t)size;
}

int virtio_queue_init(struct virtio_queue *q, struct virtio_device *d, unsigned index)
{
	int ret;

	*q = (struct virtio_queue){.d = d, .index = index, .held_end = &q->held};
	virtio_queue_reset(q);
	ret = lane_init(&q->lane, serve_queue, q);
	q->kick_fd = q->lane.event_fd;
	return ret;
}

void virtio_queue_free(struct virtio_queue *q)
{
	lane_destroy(&q->lane);
	forget_chains(q);
}

/* ---- state ----------------------------------------------------------------------- */

static void segment_state(struct virtio_chain *c, struct iovec *iov, struct state *s)
{
	const struct memory *m = &c->q->d->vm->memory;
	bool loading = state_loading(s);
	uint64_t address = loading ? 0 : memory_address(m, iov->iov_base);
	uint32_t bytes = (uint32_t)iov->iov_len;

	state_u64(s, &address);
	state_u32(s, &bytes);
	if (!loading)
		return;
	*iov = (struct iovec){memory_at(m, address, bytes), bytes};
	state_check(s, iov->iov_base && bytes, "a buffer does not lie in memory");
}

static void chain_state(struct virtio_chain *c, struct state *s)
{
	uint32_t n_out = c->n_out, n_in = c->n_in;

	state_u16(s, &c->id);
	state_u16(s, &c->descs);
	state_u32(s, &n_out);
	state_u32(s, &n_in);
	if (!state_check(s,
		    n_out <= VIRTIO_CHAIN_MAX && n_in <= VIRTIO_CHAIN_MAX - n_out &&
			    c->descs && c->descs <= c->q->size,
		    "a chain has more parts than one can"))
		return;
	c->n_out = n_out;
	c->n_in = n_in;
	for (unsigned i = 0; i < n_out + n_in; i++)
		segment_state(c, &c->iov[i], s);
	c->out_bytes = iov_bytes(c->iov, (int)n_out);
	c->in_bytes = iov_bytes(c->iov + n_out, (int)n_in);
}

/* Those that are to be taken again. */
static void held_state(struct virtio_queue *q, struct state *s)
{
	uint32_t n = q->catching_up;

	state_u32(s, &n);
	if (!state_loading(s)) {
		for (struct virtio_chain *c = q->again; c; c = c->next)
			chain_state(c, s);
		return;
	}
	while (n-- &&
		state_check(s, n < q->size && q->enabled, "more than a queue has")) {
		struct virtio_chain *c = chain_new(q);

		if (!c) {
			state_fail(s, "no memory");
			return;
		}
		chain_state(c, s);
		*q->held_end = c;
		q->held_end = &c->next;
	}
	take_again(q);
}

void virtio_queue_state(struct virtio_queue *q, struct state *s)
{
	state_u16(s, &q->size);
	state_u16(s, &q->vector);
	state_bool(s, &q->enabled);
	state_u64(s, &q->desc);
	state_u64(s, &q->avail);
	state_u64(s, &q->used);
	state_u16(s, &q->next_avail);
	state_bool(s, &q->avail_lap);
	state_u16(s, &q->next_used);
	state_bool(s, &q->used_lap);
	if (!state_check(s, is_size(q->d, q->size), "a queue's size cannot be") ||
		!state_check(s, !q->enabled || virtio_queue_fits(q),
			"a queue does not lie in memory"))
		virtio_queue_reset(q); /* it is never looked at */
	else if (q->enabled && q->ring == &vring_packed)
		state_check(s, q->next_avail < q->size && q->next_used < q->size,
			"a ring's position lies outside of it");
	held_state(q, s);
}
