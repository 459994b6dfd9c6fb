/* SPDX-License-Identifier: BSD-2-Clause */
/* One sink for the whole process, set before the first loop starts. */
#include "base/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>

static _Atomic(log_sink *) sink_now;

void log_set_sink(log_sink *sink)
{
	atomic_store(&sink_now, sink);
}

void log_line(enum log_level level, const char *fmt, ...)
{
	log_sink *sink = atomic_load(&sink_now);
	char line[1024];
	va_list ap;

	if (!sink)
		return;
	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	sink(level, line);
}
