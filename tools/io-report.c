/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * How byre-io reads numbers and reports: the forms are qemu-io's, learnt by trying it.
 * - Sizes have three decimals (six below 1 KiB) and none where all of them are zeros.
 * - Times under a second are "00.12 sec", longer ones and all terse ones "H:MM:SS.cc".
 */
#include "tools/io.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/size.h"

uint64_t io_clock_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

char *io_size_text(char buf[IO_SIZE_TEXT], double bytes)
{
	static const char *const units[] = {
		" bytes", " KiB", " MiB", " GiB", " TiB", " PiB", " EiB"};
	size_t unit = 0;
	char number[32], *dot;

	while (bytes >= 1024 && unit + 1 < sizeof(units) / sizeof(units[0])) {
		bytes /= 1024;
		unit++;
	}
	snprintf(number, sizeof(number), "%.*f", unit ? 3 : 6, bytes);
	dot = strchr(number, '.');
	if (dot && strspn(dot + 1, "0") == strlen(dot + 1))
		*dot = '\0';
	snprintf(buf, IO_SIZE_TEXT, "%s%s", number, units[unit]);
	return buf;
}

static void time_text(char *buf, size_t buf_bytes, uint64_t ns, bool terse)
{
	uint64_t sec = ns / 1000000000u;
	unsigned centi = (unsigned)(ns / 10000000u % 100);

	if (sec || terse)
		snprintf(buf, buf_bytes, "%" PRIu64 ":%02u:%02u.%02u", sec / 3600,
			(unsigned)(sec / 60 % 60), (unsigned)(sec % 60), centi);
	else
		snprintf(buf, buf_bytes, "00.%02u sec", centi);
}

void io_report(const struct io_report *r, const char *did, uint64_t offset,
	uint64_t bytes, uint64_t took_ns)
{
	char took[40], size[IO_SIZE_TEXT], rate[IO_SIZE_TEXT];
	double sec = (double)(took_ns ? took_ns : 1) / 1e9;

	if (r->quiet)
		return;
	time_text(took, sizeof(took), took_ns, r->terse);
	if (r->terse) {
		printf("%" PRIu64 ",1,%s,%.3f,%.3f\n", bytes, took, (double)bytes / sec,
			1 / sec);
		return;
	}
	printf("%s %" PRIu64 "/%" PRIu64 " bytes at offset %" PRIu64 "\n", did, bytes,
		bytes, offset);
	printf("%s, 1 ops; %s (%s/sec and %.4f ops/sec)\n",
		io_size_text(size, (double)bytes), took,
		io_size_text(rate, (double)bytes / sec), 1 / sec);
}

void io_dump(uint64_t offset, const uint8_t *buf, size_t bytes)
{
	for (size_t i = 0; i < bytes; i += 16) {
		size_t n = bytes - i < 16 ? bytes - i : 16;

		printf("%08" PRIx64 ": ", offset + i);
		for (size_t j = 0; j < n; j++)
			printf(" %02x", buf[i + j]);
		printf("  ");
		for (size_t j = 0; j < n; j++)
			putchar(isalnum(buf[i + j]) ? buf[i + j] : '.');
		putchar('\n');
	}
}

bool io_parse_size(const char *text, uint64_t *out)
{
	int ret = size_parse(text, 'B', NULL, out);

	if (ret == -ERANGE)
		printf("Parsing error: argument too large -- %s\n", text);
	else if (ret)
		printf("Parsing error: non-numeric argument, or "
		       "extraneous/unrecognized suffix -- %s\n",
			text);
	return !ret;
}

bool io_parse_length(const char *text, uint64_t *out)
{
	if (!io_parse_size(text, out))
		return false;
	if (*out > IO_MAX_BYTES) {
		printf("length cannot exceed %" PRIu64 ", given %s\n",
			(uint64_t)IO_MAX_BYTES, text);
		return false;
	}
	return true;
}

bool io_parse_pattern(const char *text, int *out)
{
	char *end;
	long n;

	errno = 0;
	n = strtol(text, &end, 0);
	if (errno || end == text || *end || n < 0 || n > 255) {
		printf("%s is not a valid pattern byte\n", text);
		return false;
	}
	*out = (int)n;
	return true;
}
