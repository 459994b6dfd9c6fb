/* SPDX-License-Identifier: BSD-2-Clause */
/* Requests in flight: see track.h. The list is as long as the node's queue is deep. */
#include "block/track.h"

#include <assert.h>

void track_init(struct track *t, bool order_all)
{
	*t = (struct track){.order_all = order_all};
	pthread_mutex_init(&t->lock, NULL);
}

void track_destroy(struct track *t)
{
	assert(!t->oldest);
	pthread_mutex_destroy(&t->lock);
}

static bool conflict(
	const struct track *t, const struct tracked *a, const struct tracked *b)
{
	if (a->end <= b->start || b->end <= a->start)
		return false;
	return a->serialising || b->serialising ||
	       (t->order_all && (a->write || b->write));
}

static struct tracked *older_conflict(struct track *t, struct tracked *r)
{
	for (struct tracked *o = r->older; o; o = o->older)
		if (conflict(t, r, o))
			return o;
	return NULL;
}

void track_begin(struct track *t, struct tracked *r, uint64_t start, uint64_t end,
	bool write, bool serialising)
{
	struct tracked *o;

	*r = (struct tracked){
		.start = start, .end = end, .write = write, .serialising = serialising};
	pthread_mutex_lock(&t->lock);
	r->older = t->newest;
	if (t->newest)
		t->newest->newer = r;
	else
		t->oldest = r;
	t->newest = r;
	while ((o = older_conflict(t, r))) {
		struct waiter w;

		waiter_init(&w);
		w.next = o->waiters;
		o->waiters = &w;
		pthread_mutex_unlock(&t->lock);
		waiter_wait(&w);
		pthread_mutex_lock(&t->lock);
	}
	pthread_mutex_unlock(&t->lock);
}

void track_end(struct track *t, struct tracked *r)
{
	struct waiter *w, *next;

	pthread_mutex_lock(&t->lock);
	if (r->older)
		r->older->newer = r->newer;
	else
		t->oldest = r->newer;
	if (r->newer)
		r->newer->older = r->older;
	else
		t->newest = r->older;
	w = r->waiters;
	pthread_mutex_unlock(&t->lock);
	for (; w; w = next) {
		next = w->next; /* w is gone once woken */
		waiter_wake(w);
	}
}
