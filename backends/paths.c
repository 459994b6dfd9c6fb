/* SPDX-License-Identifier: BSD-2-Clause */
/* Which path takes the next request. See paths.h. */
#include "backends/paths.h"

#include <stddef.h>

#include "base/math.h"

const char *const path_state_names[] = {"unreached", "up", "standby", "failed"};
const char *const path_selector_names[] = {
	"round-robin", "queue-length", "service-time", NULL};

/* ---- groups ---------------------------------------------------------------------- */

static bool is_up(const struct path_set *s, unsigned i, uint32_t not_these)
{
	return s->path[i]->state == PATH_UP && !(not_these & 1u << i);
}

/* Better than what is in use, and not for long enough. */
static bool is_held_back(const struct path_set *s, const struct path *p, uint64_t now_ns)
{
	if (p->priority <= s->group)
		return false;
	return s->failback_ns == FAILBACK_NEVER || now_ns - p->since_ns < s->failback_ns;
}

/* The best priority to be had; where everything is held back, of that. 0: nothing is up. */
static unsigned best_group(const struct path_set *s, uint32_t not_these, uint64_t now_ns)
{
	unsigned best = 0, any = 0;

	for (unsigned i = 0; i < s->n; i++) {
		const struct path *p = s->path[i];

		if (!is_up(s, i, not_these))
			continue;
		any = MAX(any, p->priority);
		if (!is_held_back(s, p, now_ns))
			best = MAX(best, p->priority);
	}
	return best ? best : any;
}

/* ---- selectors ------------------------------------------------------------------- */

/* What a path costs; the lowest gets the request, of equals the one picked longest ago. A
 * path of unknown speed costs nothing, so that it becomes known. */
static uint64_t cost_of(const struct path_set *s, const struct path *p, uint64_t bytes)
{
	switch (s->selector) {
	case SELECT_QUEUE_LENGTH:
		return p->in_flight;
	case SELECT_SERVICE_TIME:
		return (p->bytes_in_flight + bytes) / BLK_SECTOR * p->ps_per_byte;
	case SELECT_ROUND_ROBIN:
		break;
	}
	return 0;
}

struct path *paths_pick(
	struct path_set *s, uint64_t bytes, uint32_t not_these, uint64_t now_ns)
{
	unsigned group = best_group(s, not_these, now_ns);
	struct path *best = NULL;
	uint64_t best_cost = 0;

	for (unsigned i = 0; i < s->n; i++) {
		struct path *p = s->path[i];
		uint64_t cost = cost_of(s, p, bytes);

		if (!is_up(s, i, not_these) || p->priority != group)
			continue;
		if (!best || cost < best_cost ||
			(cost == best_cost && p->turn < best->turn)) {
			best = p;
			best_cost = cost;
		}
	}
	if (!best)
		return NULL;
	if (!not_these) /* else it is an exception */
		s->group = group;
	best->turn = ++s->turn;
	return best;
}

/* ---- accounts -------------------------------------------------------------------- */

void path_begin(struct path *p, uint64_t bytes)
{
	p->in_flight++;
	p->bytes_in_flight += bytes;
}

void path_end(struct path *p, uint64_t bytes, uint64_t took_ns)
{
	/* It was done after all that was in flight with it. */
	uint64_t sectors = p->bytes_in_flight / BLK_SECTOR + 1;
	uint64_t now = MIN(took_ns, (uint64_t)1 << 40) * 1000 / (sectors * BLK_SECTOR);

	p->ps_per_byte = p->ps_per_byte ? (7 * p->ps_per_byte + now) / 8 : now;
	p->ps_per_byte = MAX(p->ps_per_byte, (uint64_t)1);
	p->in_flight--;
	p->bytes_in_flight -= bytes;
	p->busy_ns += took_ns;
}

void path_set_state(struct path *p, enum path_state state, uint64_t now_ns)
{
	if (p->state == PATH_UP && state != PATH_UP)
		p->losses++;
	if (p->state != state)
		p->since_ns = now_ns;
	p->state = state;
	if (state != PATH_UP)
		p->ps_per_byte = 0;
}
