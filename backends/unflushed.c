/* SPDX-License-Identifier: BSD-2-Clause */
/* Copies of acknowledged writes. See unflushed.h. */
#include <stdlib.h>

#include "backends/unflushed.h"
#include "base/iov.h"

static struct unflushed_write *new_write(
	uint64_t offset, uint64_t bytes, size_t data_bytes)
{
	struct unflushed_write *w = malloc(sizeof(*w) + data_bytes);

	if (w)
		*w = (struct unflushed_write){
			.offset = offset, .bytes = bytes, .zero = !data_bytes};
	return w;
}

struct unflushed_write *unflushed_copy(uint64_t offset, const struct iovec *iov, int niov)
{
	size_t bytes = iov_bytes(iov, niov);
	struct unflushed_write *w = new_write(offset, bytes, bytes);

	if (w)
		iov_to_buf(iov, niov, 0, w->data, bytes);
	return w;
}

struct unflushed_write *unflushed_zero(uint64_t offset, uint64_t bytes, unsigned flags)
{
	struct unflushed_write *w = new_write(offset, bytes, 0);

	if (w)
		w->flags = flags;
	return w;
}

static size_t memory_of(const struct unflushed_write *w)
{
	return sizeof(*w) + (w->zero ? 0 : w->bytes);
}

void unflushed_add(struct unflushed *u, struct unflushed_write *w)
{
	w->seq = ++u->seq;
	if (u->head)
		u->tail->next = w;
	else
		u->head = w;
	u->tail = w;
	u->held_bytes += memory_of(w);
}

void unflushed_drop(struct unflushed *u, uint64_t seq)
{
	while (u->head && u->head->seq <= seq) {
		struct unflushed_write *w = u->head;

		u->head = w->next;
		u->held_bytes -= memory_of(w);
		free(w);
	}
}
