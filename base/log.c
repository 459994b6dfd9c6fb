/* SPDX-License-Identifier: BSD-2-Clause */
/* One sink for the whole process, set before the first loop starts. */
#include "base/log.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>

#include "base/task.h"

#define BOUND_NS    10000000000ull
#define BOUND_LINES 10u

static _Atomic(log_sink *) sink_now;

void log_set_sink(log_sink *sink)
{
	atomic_store(&sink_now, sink);
}

__attribute__((format(printf, 2, 0))) static void say(
	enum log_level level, const char *fmt, va_list ap)
{
	log_sink *sink = atomic_load(&sink_now);
	char line[1024];

	if (!sink)
		return;
	vsnprintf(line, sizeof(line), fmt, ap);
	sink(level, line);
}

void log_line(enum log_level level, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	say(level, fmt, ap);
	va_end(ap);
}

static bool may_say(struct log_bound *b, unsigned *left_out)
{
	uint64_t since = atomic_load(&b->since_ns), now = clock_ns();

	*left_out = 0;
	if (now - since >= BOUND_NS &&
		atomic_compare_exchange_strong(&b->since_ns, &since, now)) {
		unsigned lines = atomic_exchange(&b->lines, 0);

		*left_out = lines > BOUND_LINES ? lines - BOUND_LINES : 0;
	}
	return atomic_fetch_add(&b->lines, 1) < BOUND_LINES;
}

void log_bounded(struct log_bound *b, enum log_level level, const char *fmt, ...)
{
	unsigned left_out;
	va_list ap;

	if (!may_say(b, &left_out))
		return;
	if (left_out)
		log_line(level, "(%u lines like the next were left out)", left_out);
	va_start(ap, fmt);
	say(level, fmt, ap);
	va_end(ap);
}
