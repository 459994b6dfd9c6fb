/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Errors.
 *
 * Data path: 0 or -errno, nothing else. Control path: also a caller-owned `struct err`
 * that holds one message. The message is made where the fault is seen and names the image,
 * the thing and the value; callers prefix what they were doing:
 *
 *	return err_set(err, EINVAL, "L2 table %u at 0x%" PRIx64 " lies outside the file", ...);
 *	...
 *	return err_prefix(err, "%s", b->filename);
 *
 * Libraries never print and never exit: tools print `err.msg` as one line, and `err.hint`,
 * if it is not empty, as a line of its own.
 */
#ifndef BYRE_BASE_ERR_H
#define BYRE_BASE_ERR_H

#include <errno.h>

struct err {
	int code;	/* errno value, positive; 0 while nothing is set */
	char msg[1024]; /* one line, no control characters; cut with "..." when longer */
	char hint[256]; /* optional second line, likewise */
};

#define ERR_INIT                                                                         \
	{                                                                                \
		0, "", ""                                                                \
	}

/* Stores the message; the last one set wins. err may be NULL. Returns -code (code > 0). */
int err_set(struct err *err, int code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* As err_set, with ": strerror(code)" appended. */
int err_errno(struct err *err, int code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* Puts "fmt: " before the message that is there. Returns -err->code, or -EIO for a NULL err
 * so that a lost message never turns into success. */
int err_prefix(struct err *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Sets the second line. Returns nothing: use it beside err_set. */
void err_hint(struct err *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
