/* SPDX-License-Identifier: BSD-2-Clause */
/* See support.h. */
#include "tests/guest/support.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "tests/engine/rng.h"

void die(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	exit(1);
}

uint64_t number(const char *text)
{
	char *end;
	uint64_t n = strtoull(text, &end, 10);

	if (*text < '0' || *text > '9' || *end)
		die("%s is no number", text);
	return n;
}

int disk_open(const char *name, bool write, uint64_t *bytes)
{
	int flags = (write ? O_RDWR : O_RDONLY) | O_CLOEXEC;
	int fd = open(name, flags | O_DIRECT);
	off_t size;

	if (fd < 0 && errno == EINVAL)
		fd = open(name, flags);
	size = fd < 0 ? -1 : lseek(fd, 0, SEEK_END);
	if (size < 0)
		die("%s: %m", name);
	*bytes = (uint64_t)size;
	return fd;
}

void *buffer(size_t bytes)
{
	void *buf = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);

	if (!buf)
		die("no memory");
	return buf;
}

void pattern_fill(void *buf, size_t bytes, uint64_t key)
{
	struct rng rng = {key};
	uint64_t *word = buf;

	for (size_t i = 0; i < bytes / sizeof(*word); i++)
		word[i] = rng_next(&rng);
}

size_t pattern_differs(const void *buf, size_t bytes, uint64_t key)
{
	struct rng rng = {key};
	const uint64_t *word = buf;
	size_t i = 0;

	while (i < bytes / sizeof(*word) && word[i] == rng_next(&rng))
		i++;
	return i * sizeof(*word);
}

double seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}
