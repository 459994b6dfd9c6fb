/* SPDX-License-Identifier: BSD-2-Clause */
/* Copies of acknowledged writes. See unflushed.h. */
#include <errno.h>
#include <stdlib.h>

#include "backends/unflushed.h"
#include "base/iov.h"

static struct unflushed_write *add(
	struct unflushed *u, uint64_t offset, uint64_t bytes, size_t data_bytes)
{
	struct unflushed_write *w = malloc(sizeof(*w) + data_bytes);

	if (!w)
		return NULL;
	*w = (struct unflushed_write){
		.offset = offset, .bytes = bytes, .seq = ++u->seq, .zero = !data_bytes};
	if (u->head)
		u->tail->next = w;
	else
		u->head = w;
	u->tail = w;
	u->held_bytes += sizeof(*w) + data_bytes;
	return w;
}

int unflushed_add(struct unflushed *u, uint64_t offset, const struct iovec *iov, int niov)
{
	size_t bytes = iov_bytes(iov, niov);
	struct unflushed_write *w = add(u, offset, bytes, bytes);

	if (!w)
		return -ENOMEM;
	iov_to_buf(iov, niov, 0, w->data, bytes);
	return 0;
}

int unflushed_add_zero(
	struct unflushed *u, uint64_t offset, uint64_t bytes, unsigned flags)
{
	struct unflushed_write *w = add(u, offset, bytes, 0);

	if (!w)
		return -ENOMEM;
	w->flags = flags;
	return 0;
}

void unflushed_drop(struct unflushed *u, uint64_t seq)
{
	while (u->head && u->head->seq <= seq) {
		struct unflushed_write *w = u->head;

		u->head = w->next;
		u->held_bytes -= sizeof(*w) + (w->zero ? 0 : w->bytes);
		free(w);
	}
}
