/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Sizes as qemu-img reads and prints them. The rules, learnt by trying it:
 * - leading white space and a '+' are fine, white space after the number is not;
 * - hexadecimal has neither fraction nor suffix ("0x1B" is 27, "0x10k" is nonsense);
 * - a fraction needs a unit above bytes, and the result is rounded to the nearest byte;
 * - there are no exponents: the e of "1.5e" means exa, so "1e3" is nonsense;
 * - "-1" is a number out of range, "-1k" is nonsense.
 */
#include "base/size.h"

#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/math.h"

static const char units[] = "bkmgtpe";

/* The unit's number of bytes, 0 where c is none. */
static uint64_t unit_bytes(char c)
{
	const char *u = c ? strchr(units, tolower((unsigned char)c)) : NULL;

	return u ? 1ull << (10 * (u - units)) : 0;
}

static bool starts_hex(const char *p)
{
	return p[0] == '0' && (p[1] == 'x' || p[1] == 'X');
}

/* Digits of a base up to the first other character. -EINVAL without any; on overflow
 * -ERANGE with *end behind the digits all the same. */
static int digits_parse(const char *p, unsigned base, const char **end, uint64_t *out)
{
	uint64_t n = 0;
	bool overflow = false;
	const char *start = p;

	for (;; p++) {
		unsigned char c = (unsigned char)tolower((unsigned char)*p);
		unsigned d = 99;

		if (isdigit(c))
			d = c - (unsigned)'0';
		else if (isxdigit(c))
			d = c - (unsigned)'a' + 10;

		if (d >= base)
			break;
		overflow |= mul_overflow(n, base, &n);
		overflow |= add_overflow(n, d, &n);
	}
	if (p == start)
		return -EINVAL;
	*end = p;
	*out = n;
	return overflow ? -ERANGE : 0;
}

/* ".5" and the like; *end behind it. */
static double fraction_parse(const char *p, const char **end)
{
	const char *first = ++p;
	double v = 0;

	while (isdigit((unsigned char)*p))
		p++;
	*end = p;
	/* From the last digit up: "9999…" sums to 1.0 as strtod would have it. */
	while (p > first)
		v = (v + (*--p - '0')) / 10;
	return v;
}

/* whole + fraction units to bytes. */
static int scale(uint64_t whole, double fraction, uint64_t unit, uint64_t *out)
{
	uint64_t n, part;

	if (fraction >= 1.0) { /* 0.99999999999999999999 */
		fraction = 0;
		if (add_overflow(whole, (uint64_t)1, &whole))
			return -ERANGE;
	}
	if (fraction > 0 && unit == 1)
		return -EINVAL;
	part = (uint64_t)(fraction * (double)unit + 0.5);
	if (mul_overflow(whole, unit, &n) || add_overflow(n, part, &n) || n > INT64_MAX)
		return -ERANGE;
	*out = n;
	return 0;
}

static int decimal_size(
	const char *p, char default_suffix, const char **end, uint64_t *out)
{
	uint64_t whole = 0, unit;
	double fraction = 0;
	bool digits = isdigit((unsigned char)*p);
	bool too_big = false;

	if (digits)
		too_big = digits_parse(p, 10, &p, &whole) == -ERANGE;
	if (*p == '.') {
		if (!digits && !isdigit((unsigned char)p[1]))
			return -EINVAL;
		fraction = fraction_parse(p, &p);
	} else if (!digits) {
		return -EINVAL;
	}
	unit = unit_bytes(*p);
	if (unit)
		p++;
	else
		unit = unit_bytes(default_suffix);
	*end = p;
	return too_big ? -ERANGE : scale(whole, fraction, unit, out);
}

int size_parse(
	const char *text, char default_suffix, const char **end, uint64_t *out_bytes)
{
	const char *p = text, *stop;
	uint64_t n = 0;
	bool negative = false;
	int ret;

	assert(unit_bytes(default_suffix));
	while (isspace((unsigned char)*p))
		p++;
	if (*p == '+' || *p == '-')
		negative = *p++ == '-';
	if (starts_hex(p)) {
		ret = digits_parse(p + 2, 16, &stop, &n);
		if (!ret)
			ret = scale(n, 0, unit_bytes(default_suffix), &n);
	} else {
		ret = decimal_size(p, default_suffix, &stop, &n);
	}
	if (ret && ret != -ERANGE)
		return ret;
	if (!end && *stop)
		return -EINVAL;
	if (negative)
		return isdigit((unsigned char)stop[-1]) ? -ERANGE : -EINVAL;
	if (ret)
		return ret;
	if (end)
		*end = stop;
	*out_bytes = n;
	return 0;
}

char *size_human(char *buf, size_t buf_bytes, uint64_t bytes)
{
	static const char *const names[] = {
		"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
	double v = (double)bytes;
	size_t i = 0;

	/* The next unit from 1000 on, so that three digits are enough. */
	for (; v >= 1000 && i + 1 < ARRAY_LEN(names); i++)
		v /= 1024;
	snprintf(buf, buf_bytes, "%.3g %s", v, names[i]);
	return buf;
}

int u64_parse(const char *text, uint64_t *out)
{
	unsigned base = starts_hex(text) ? 16 : 10;
	const char *stop;
	uint64_t n;
	int ret = digits_parse(text + (base == 16 ? 2 : 0), base, &stop, &n);

	if (ret && ret != -ERANGE)
		return ret;
	if (*stop)
		return -EINVAL;
	if (ret)
		return ret;
	*out = n;
	return 0;
}
