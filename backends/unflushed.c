/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Copies of acknowledged writes. See unflushed.h.
 *
 * They come and go in one order, so they lie one after the other in segments, the oldest
 * first; a segment goes when its last one does, and a few are kept for the next. A write
 * that does not fit into what is left of a segment goes on in the next one, cut at CUT,
 * which is a whole number of any disk's blocks.
 */
#include <errno.h>
#include <stdlib.h>

#include "backends/unflushed.h"
#include "base/iov.h"
#include "base/math.h"

#define SEGMENT_BYTES (2 * MiB)
#define SPARE_MAX     4
#define CUT           (64 * KiB)
#define LEAST         (2 * CUT) /* what is worth beginning at a segment's end */

struct unflushed_segment {
	struct unflushed_segment *next;
	size_t used;
	unsigned writes;
	_Alignas(16) uint8_t room[SEGMENT_BYTES];
};

static struct unflushed_segment *segment_new(struct unflushed *u)
{
	struct unflushed_segment *g = u->spare;

	if (g) {
		u->spare = g->next;
		u->spares--;
	} else {
		g = malloc(sizeof(*g));
	}
	if (!g)
		return NULL;
	g->next = NULL;
	g->used = g->writes = 0;
	if (u->newest)
		u->newest->next = g;
	else
		u->oldest = g;
	u->newest = g;
	return g;
}

static void segment_done(struct unflushed *u)
{
	struct unflushed_segment *g = u->oldest;

	u->oldest = g->next;
	if (!u->oldest)
		u->newest = NULL;
	if (u->spares == SPARE_MAX) {
		free(g);
		return;
	}
	g->next = u->spare;
	u->spare = g;
	u->spares++;
}

static size_t room_of(const struct unflushed_segment *g)
{
	size_t left = g ? SEGMENT_BYTES - g->used : 0;

	return left > sizeof(struct unflushed_write)
		       ? left - sizeof(struct unflushed_write)
		       : 0;
}

/* Room for data_bytes of data, or fewer where *data_bytes comes back as less. */
static struct unflushed_write *add(struct unflushed *u, size_t *data_bytes)
{
	struct unflushed_segment *g = u->newest;
	struct unflushed_write *w;
	size_t room = room_of(g);

	if (room < MIN(*data_bytes, (size_t)LEAST) || !room) {
		g = segment_new(u);
		room = room_of(g);
	}
	if (!g)
		return NULL;
	if (*data_bytes > room)
		*data_bytes = round_down(room, CUT);
	w = (void *)(g->room + g->used);
	*w = (struct unflushed_write){.seq = ++u->seq, .zero = !*data_bytes};
	g->used = MIN(round_up(g->used + sizeof(*w) + *data_bytes, 16), SEGMENT_BYTES);
	g->writes++;
	if (u->head)
		u->tail->next = w;
	else
		u->head = w;
	u->tail = w;
	u->held_bytes += sizeof(*w) + *data_bytes;
	return w;
}

int unflushed_add(struct unflushed *u, uint64_t offset, const struct iovec *iov, int niov)
{
	size_t bytes = iov_bytes(iov, niov), pos = 0;

	while (pos < bytes) {
		size_t piece = bytes - pos;
		struct unflushed_write *w = add(u, &piece);

		if (!w)
			return -ENOMEM;
		w->offset = offset + pos;
		w->bytes = piece;
		iov_to_buf(iov, niov, pos, w->data, piece);
		pos += piece;
	}
	return 0;
}

int unflushed_add_zero(
	struct unflushed *u, uint64_t offset, uint64_t bytes, unsigned flags)
{
	size_t none = 0;
	struct unflushed_write *w = add(u, &none);

	if (!w)
		return -ENOMEM;
	w->offset = offset;
	w->bytes = bytes;
	w->flags = flags;
	return 0;
}

bool unflushed_is_in_doubt(int ret)
{
	switch (-ret) {
	case 0:
	case ENOTSUP:
	case ENOSPC:
	case EDQUOT:
	case EBADE:
	case ENOMEM:
	case EINVAL:
	case EPERM:
		return false;
	default:
		return true;
	}
}

bool unflushed_may_fit_later(int ret)
{
	return ret == -ENOSPC || ret == -EDQUOT || ret == -ENOMEM || ret == -EAGAIN ||
	       ret == -EBUSY;
}

void unflushed_drop(struct unflushed *u, uint64_t seq)
{
	while (u->head && u->head->seq <= seq) {
		struct unflushed_write *w = u->head;

		u->head = w->next;
		u->held_bytes -= sizeof(*w) + (w->zero ? 0 : w->bytes);
		if (--u->oldest->writes == 0)
			segment_done(u);
	}
}

void unflushed_free(struct unflushed *u)
{
	unflushed_drop(u, UINT64_MAX);
	while (u->spare) {
		struct unflushed_segment *g = u->spare;

		u->spare = g->next;
		free(g);
	}
	u->spares = 0;
}
