/* SPDX-License-Identifier: BSD-2-Clause */
/* Changes that may still land. See doubts.h. */
#include <stdlib.h>

#include "backends/doubts.h"
#include "base/math.h"
#include "base/task.h"

static void link_doubt(struct doubts *d, struct doubt *one, const struct doubt *what)
{
	*one = *what;
	one->next = d->head;
	d->head = one;
}

void doubts_add(
	struct doubts *d, uint64_t offset, uint64_t bytes, bool repeated, uint64_t ns)
{
	struct doubt what = {.offset = offset,
		.bytes = bytes,
		.repeated = repeated,
		.until_ns = clock_ns() + ns};
	struct doubt *one = malloc(sizeof(*one)), *all = &d->last_resort;

	if (one) {
		link_doubt(d, one, &what);
		return;
	}
	what.offset = 0;
	what.bytes = UINT64_MAX;
	what.repeated = true;
	if (all->bytes)
		all->until_ns = MAX(all->until_ns, what.until_ns);
	else
		link_doubt(d, all, &what);
}

void doubts_shorten(struct doubts *d, uint64_t ns)
{
	uint64_t until_ns = clock_ns() + ns;

	for (struct doubt *one = d->head; one; one = one->next)
		one->until_ns = MIN(one->until_ns, until_ns);
}

void doubts_forget(struct doubts *d)
{
	struct doubt **link = &d->head;
	uint64_t now_ns = clock_ns();

	while (*link) {
		struct doubt *one = *link;

		if (one->until_ns > now_ns) {
			link = &one->next;
			continue;
		}
		*link = one->next;
		if (one == &d->last_resort)
			one->bytes = 0;
		else
			free(one);
	}
}

bool doubts_overlap(const struct doubts *d, uint64_t offset, uint64_t bytes)
{
	uint64_t now_ns = clock_ns();

	for (const struct doubt *one = d->head; one; one = one->next)
		if (one->until_ns > now_ns &&
			ranges_overlap(offset, bytes, one->offset, one->bytes))
			return true;
	return false;
}

bool doubts_of_copies(const struct doubts *d)
{
	uint64_t now_ns = clock_ns();

	for (const struct doubt *one = d->head; one; one = one->next)
		if (one->until_ns > now_ns && one->repeated)
			return true;
	return false;
}
