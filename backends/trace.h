/* SPDX-License-Identifier: BSD-2-Clause */
/* What is asked of a trace node (see trace.c) besides opening it. */
#ifndef BYRE_BACKENDS_TRACE_H
#define BYRE_BACKENDS_TRACE_H

#include <stdint.h>

struct blk;

enum trace_kind {
	TRACE_READ,
	TRACE_WRITE,
	TRACE_FLUSH,
	TRACE_ZERO,
	TRACE_DISCARD,
	TRACE_RESIZE,
	TRACE_COPY, /* into this node */
	TRACE_KINDS,
};

/* One operation that has ended. */
struct trace_op {
	enum trace_kind kind;
	uint64_t offset, bytes; /* resize: bytes is the new size */
	unsigned flags;         /* enum blk_request_flags */
	int result;             /* 0 or -errno */
	uint64_t start_ns;      /* CLOCK_MONOTONIC */
	uint64_t ns;            /* it took */
};

struct trace_counter {
	uint64_t ops, bytes, failed, ns;
};

/* The nearest trace node at or below root; NULL where there is none. */
struct blk *trace_find(struct blk *root);
/* fn is called as each operation ends, from whichever task or thread made it, one at a
 * time; it must not park nor use the node. NULL: none. No request may be in flight. */
void trace_set_callback(
	struct blk *b, void (*fn)(void *arg, const struct trace_op *op), void *arg);
void trace_counters(struct blk *b, struct trace_counter out[TRACE_KINDS]);

#endif
