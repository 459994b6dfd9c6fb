/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Requests in flight.
 *
 * A request reads a mapping, then does I/O at the host offset it found. Meanwhile another
 * request may drop that mapping and free the cluster. I5: the cluster is handed out again
 * only when every request that may have read the old mapping has ended. Each request counts
 * itself into the current period (one of two parities); after a flip, the old parity only
 * falls, and at zero what was dropped before the flip is nobody's.
 *
 * The same count keeps exclusive operations (snapshots) and requests apart, and a list of
 * guest ranges keeps changes of one mapping in order.
 */
#include "qcow2/qcow2.h"

void qcow2_epochs_init(struct qcow2_epochs *e)
{
	memset(e, 0, sizeof(*e));
	pthread_mutex_init(&e->lock, NULL);
}

/* Until none runs. The lock is held, and given up meanwhile. */
static void wait_for_exclusive(struct qcow2_epochs *e)
{
	struct waiter w;

	while (e->exclusive) {
		waiter_init(&w);
		w.next = e->waiting;
		e->waiting = &w;
		pthread_mutex_unlock(&e->lock);
		waiter_wait(&w);
		pthread_mutex_lock(&e->lock);
	}
}

unsigned qcow2_enter(struct qcow2 *q)
{
	struct qcow2_epochs *e = &q->epochs;
	unsigned epoch;

	pthread_mutex_lock(&e->lock);
	wait_for_exclusive(e);
	epoch = e->current;
	e->active[epoch]++;
	pthread_mutex_unlock(&e->lock);
	return epoch;
}

void qcow2_leave(struct qcow2 *q, unsigned epoch)
{
	struct qcow2_epochs *e = &q->epochs;
	struct waiter *wake = NULL;

	pthread_mutex_lock(&e->lock);
	assert(e->active[epoch] > 0);
	e->active[epoch]--;
	if (e->drainer && e->active[0] + e->active[1] == 0) {
		wake = e->drainer;
		e->drainer = NULL;
	}
	pthread_mutex_unlock(&e->lock);
	if (wake)
		waiter_wake(wake);
}

void qcow2_epoch_flip(struct qcow2 *q)
{
	struct qcow2_epochs *e = &q->epochs;

	pthread_mutex_lock(&e->lock);
	assert(e->active[!e->current] == 0);
	e->current = !e->current;
	pthread_mutex_unlock(&e->lock);
}

bool qcow2_epoch_drained(struct qcow2 *q)
{
	struct qcow2_epochs *e = &q->epochs;
	bool drained;

	pthread_mutex_lock(&e->lock);
	drained = e->active[!e->current] == 0;
	pthread_mutex_unlock(&e->lock);
	return drained;
}

void qcow2_exclusive_begin(struct qcow2 *q)
{
	struct qcow2_epochs *e = &q->epochs;
	struct waiter w;

	pthread_mutex_lock(&e->lock);
	wait_for_exclusive(e); /* many may write VM state that needs a longer L1 */
	e->exclusive = true;
	if (e->active[0] + e->active[1] == 0) {
		pthread_mutex_unlock(&e->lock);
		return;
	}
	waiter_init(&w);
	e->drainer = &w;
	pthread_mutex_unlock(&e->lock);
	waiter_wait(&w);
}

void qcow2_exclusive_end(struct qcow2 *q)
{
	struct qcow2_epochs *e = &q->epochs;
	struct waiter *w, *next;

	pthread_mutex_lock(&e->lock);
	assert(e->exclusive);
	e->exclusive = false;
	w = e->waiting;
	e->waiting = NULL;
	pthread_mutex_unlock(&e->lock);
	for (; w; w = next) {
		next = w->next;
		waiter_wake(w);
	}
}

static struct qcow2_inflight *inflight_overlap(
	struct qcow2 *q, uint64_t first, uint64_t n)
{
	for (struct qcow2_inflight *f = q->inflight; f; f = f->next)
		if (ranges_overlap(f->first, f->n, first, n))
			return f;
	return NULL;
}

void qcow2_inflight_begin(
	struct qcow2 *q, struct qcow2_inflight *f, uint64_t first, uint64_t n)
{
	struct qcow2_inflight *other;
	struct waiter w;

	pthread_mutex_lock(&q->inflight_lock);
	while ((other = inflight_overlap(q, first, n))) {
		waiter_init(&w);
		w.next = other->waiters;
		other->waiters = &w;
		pthread_mutex_unlock(&q->inflight_lock);
		waiter_wait(&w);
		pthread_mutex_lock(&q->inflight_lock);
	}
	*f = (struct qcow2_inflight){.first = first, .n = n, .next = q->inflight};
	q->inflight = f;
	pthread_mutex_unlock(&q->inflight_lock);
}

void qcow2_inflight_end(struct qcow2 *q, struct qcow2_inflight *f)
{
	struct qcow2_inflight **link;
	struct waiter *w, *next;

	pthread_mutex_lock(&q->inflight_lock);
	for (link = &q->inflight; *link != f; link = &(*link)->next)
		assert(*link);
	*link = f->next;
	w = f->waiters;
	pthread_mutex_unlock(&q->inflight_lock);
	for (; w; w = next) {
		next = w->next;
		waiter_wake(w);
	}
}
