/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Timers of one loop: a pairing heap whose nodes live in the waiting functions' frames.
 * Adding is one comparison, removing an arbitrary one is cheap (a poll that is answered
 * before its timeout does that), and neither can fail for lack of memory.
 */
#include <assert.h>
#include <time.h>

#include "base/loop_impl.h"

uint64_t clock_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

uint64_t deadline_after(uint64_t ns)
{
	uint64_t deadline;

	return __builtin_add_overflow(clock_ns(), ns, &deadline) ? UINT64_MAX : deadline;
}

static bool before(const struct timer *a, const struct timer *b)
{
	return a->deadline_ns != b->deadline_ns ? a->deadline_ns < b->deadline_ns
						: a->seq < b->seq;
}

/* Both are roots: without siblings. Either may be NULL. */
static struct timer *merge(struct timer *a, struct timer *b)
{
	if (!a || !b)
		return a ? a : b;
	if (before(b, a)) {
		struct timer *t = a;
		a = b;
		b = t;
	}
	b->prev = a;
	b->next = a->child;
	if (a->child)
		a->child->prev = b;
	a->child = b;
	return a;
}

/* Makes one heap of a list of siblings: pairs from the left, then all from the right. */
static struct timer *merge_siblings(struct timer *first)
{
	struct timer *pairs = NULL, *heap = NULL;

	while (first) {
		struct timer *a = first, *b = a->next;
		first = b ? b->next : NULL;
		a->next = a->prev = NULL;
		if (b)
			b->next = b->prev = NULL;
		a = merge(a, b);
		a->next = pairs;
		pairs = a;
	}
	while (pairs) {
		struct timer *a = pairs;
		pairs = a->next;
		a->next = NULL;
		heap = merge(heap, a);
	}
	return heap;
}

void timer_add(struct timer_heap *h, struct timer *t, uint64_t deadline_ns,
	void (*fn)(struct timer *t))
{
	*t = (struct timer){.deadline_ns = deadline_ns, .seq = h->seq++, .fn = fn};
	h->root = merge(h->root, t);
}

void timer_remove(struct timer_heap *h, struct timer *t)
{
	struct timer *children = merge_siblings(t->child);

	if (t == h->root) {
		h->root = children;
		return;
	}
	assert(t->prev);
	if (t->prev->child == t)
		t->prev->child = t->next;
	else
		t->prev->next = t->next;
	if (t->next)
		t->next->prev = t->prev;
	h->root = merge(h->root, children);
}

void timer_expire(struct timer_heap *h)
{
	if (!h->root)
		return;

	uint64_t now = clock_ns();
	while (h->root && h->root->deadline_ns <= now) {
		struct timer *t = h->root;
		timer_remove(h, t);
		t->fn(t);
	}
}
