/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a library has to say when there is no caller to tell: a lie found in an image on the
 * data path, an automatic repair. Libraries never print; a program sets where lines go.
 */
#ifndef BYRE_BASE_LOG_H
#define BYRE_BASE_LOG_H

#include <stdatomic.h>
#include <stdint.h>

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARNING, LOG_LEVEL_INFO };

/* One line without newline, at most 1023 bytes. Called from any thread. NULL: dropped. */
typedef void log_sink(enum log_level level, const char *line);
void log_set_sink(log_sink *sink);

void log_line(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* For lines that a guest can cause as often as it likes: ten in ten seconds of each of these, which is zero
 * at first; the next line after that says how many were left out. */
struct log_bound {
	_Atomic uint64_t since_ns;
	atomic_uint lines;
};
void log_bounded(struct log_bound *b, enum log_level level, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

#endif
