/* SPDX-License-Identifier: BSD-2-Clause */
/* The log of a crash node, as its recording and its replaying half see it. */
#ifndef BYRE_BACKENDS_CRASH_LOG_H
#define BYRE_BACKENDS_CRASH_LOG_H

#include <pthread.h>
#include <stdatomic.h>

#include "backends/crash.h"

struct crash_log {
	pthread_mutex_t lock; /* over all below while it grows */
	atomic_uint users;
	struct crash_op *ops;
	size_t n, room;
	uint64_t events, data_bytes;
};

#endif
