/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Errors: messages of bounded length. A text is first made in a buffer of its own, so
 * that callers may pass the old message as an argument of the new one. Names in it may come
 * from an image: control characters are taken out of all that is kept.
 */
#include "base/err.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/text.h"

static const char cut[] = "...";

/* vsnprintf of one clean line that shows where it cut: its end becomes "...". */
__attribute__((format(printf, 3, 0))) static void format_cut(
	char *out, size_t out_bytes, const char *fmt, va_list ap)
{
	int n = vsnprintf(out, out_bytes, fmt, ap);

	if (n < 0)
		snprintf(out, out_bytes, "%s", "message could not be formatted");
	else if ((size_t)n >= out_bytes)
		memcpy(out + out_bytes - sizeof(cut), cut, sizeof(cut));
	text_clean(out);
}

int err_set(struct err *err, int code, const char *fmt, ...)
{
	char text[sizeof(err->msg)];
	va_list ap;

	assert(code > 0);
	if (!err)
		return -code;
	va_start(ap, fmt);
	format_cut(text, sizeof(text), fmt, ap);
	va_end(ap);
	memcpy(err->msg, text, sizeof(text));
	err->hint[0] = 0;
	err->code = code;
	return -code;
}

int err_errno(struct err *err, int code, const char *fmt, ...)
{
	char text[sizeof(err->msg)], why[128];
	va_list ap;

	assert(code > 0);
	if (!err)
		return -code;
	va_start(ap, fmt);
	format_cut(text, sizeof(text), fmt, ap);
	va_end(ap);
	return err_set(err, code, "%s: %s", text, strerror_r(code, why, sizeof(why)));
}

int err_prefix(struct err *err, const char *fmt, ...)
{
	char text[sizeof(err->msg)], hint[sizeof(err->hint)];
	va_list ap;
	int ret;

	if (!err)
		return -EIO;
	assert(err->code > 0);
	va_start(ap, fmt);
	format_cut(text, sizeof(text), fmt, ap);
	va_end(ap);
	memcpy(hint, err->hint, sizeof(hint));
	ret = err_set(err, err->code, "%s: %s", text, err->msg);
	memcpy(err->hint, hint, sizeof(hint));
	return ret;
}

void err_hint(struct err *err, const char *fmt, ...)
{
	char text[sizeof(err->hint)];
	va_list ap;

	if (!err)
		return;
	va_start(ap, fmt);
	format_cut(text, sizeof(text), fmt, ap);
	va_end(ap);
	memcpy(err->hint, text, sizeof(text));
}
