/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * verify [-n] DISK THREADS OPERATIONS SEED: random writes, zeroes, discards, flushes and reads all over
 * a disk, and a look at everything in the end. What it did follows from the seed: with -n
 * nothing is done but that look, by another program at another time, from outside.
 *
 * A thread has a part of the disk for itself, in blocks of 4 KiB. Of each it keeps what it
 * wrote last: nothing yet (whatever is there is right), zeroes, or the pattern of a number.
 * What was discarded may be anything.
 */
#include <errno.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "tests/engine/rng.h"
#include "tests/guest/support.h"

#define BLOCK_BYTES 4096u
#define BLOCKS_MAX  64u /* of one request */
#define THREADS_MAX 64u

enum { ANYTHING = 0, ZEROES = 1, FIRST_NUMBER = 2 };

struct part {
	pthread_t thread;
	const char *name;
	int fd;
	bool only_look;
	uint64_t first, blocks, operations, seed; /* first: in blocks */
	uint32_t *holds, number;
	uint8_t *buf;
};

static uint64_t key(const struct part *p, uint64_t block)
{
	return p->seed << 48 ^ (p->first + block) << 24 ^ p->holds[block];
}

static void check_block(const struct part *p, uint64_t block, const uint8_t *data)
{
	static const uint8_t zeroes[BLOCK_BYTES];
	uint64_t at = (p->first + block) * BLOCK_BYTES;
	size_t differs;

	if (p->holds[block] == ANYTHING)
		return;
	if (p->holds[block] == ZEROES) {
		if (memcmp(data, zeroes, BLOCK_BYTES))
			die("%s: no zeroes in the block at %" PRIu64, p->name, at);
		return;
	}
	differs = pattern_differs(data, BLOCK_BYTES, key(p, block));
	if (differs < BLOCK_BYTES)
		die("%s: byte %" PRIu64 " is not what was written (number %u)", p->name,
			at + differs, p->holds[block]);
}

static void look(struct part *p, uint64_t block, uint64_t n)
{
	off_t at = (off_t)((p->first + block) * BLOCK_BYTES);
	ssize_t got = pread(p->fd, p->buf, n * BLOCK_BYTES, at);

	if (got != (ssize_t)(n * BLOCK_BYTES))
		die("%s: read %" PRIu64 " blocks at %jd: %s", p->name, n, (intmax_t)at,
			got < 0 ? strerror(errno) : "short");
	for (uint64_t i = 0; i < n; i++)
		check_block(p, block + i, p->buf + i * BLOCK_BYTES);
}

static void put(struct part *p, uint64_t block, uint64_t n)
{
	off_t at = (off_t)((p->first + block) * BLOCK_BYTES);

	p->number++;
	for (uint64_t i = 0; i < n; i++) {
		p->holds[block + i] = p->number;
		if (!p->only_look)
			pattern_fill(
				p->buf + i * BLOCK_BYTES, BLOCK_BYTES, key(p, block + i));
	}
	if (!p->only_look &&
		pwrite(p->fd, p->buf, n * BLOCK_BYTES, at) != (ssize_t)(n * BLOCK_BYTES))
		die("%s: write %" PRIu64 " blocks at %jd: %m", p->name, n, (intmax_t)at);
}

/* A disk that cannot discard says so, which is right as well. */
static void drop(struct part *p, uint64_t block, uint64_t n, bool zero)
{
	uint64_t range[2] = {(p->first + block) * BLOCK_BYTES, n * BLOCK_BYTES};

	for (uint64_t i = 0; i < n; i++)
		p->holds[block + i] = zero ? ZEROES : ANYTHING;
	if (p->only_look)
		return;
	if (ioctl(p->fd, zero ? BLKZEROOUT : BLKDISCARD, range) &&
		(zero || errno != EOPNOTSUPP))
		die("%s: %s %" PRIu64 " blocks at %" PRIu64 ": %m", p->name,
			zero ? "zero" : "discard", n, range[0]);
}

static void flush(const struct part *p)
{
	if (!p->only_look && fsync(p->fd))
		die("%s: flush: %m", p->name);
}

static void operate(struct part *p, struct rng *rng)
{
	uint64_t n = rng_between(rng, 1, BLOCKS_MAX), kind = rng_below(rng, 100);
	uint64_t block = rng_below(rng, p->blocks - n + 1);

	if (kind < 55)
		put(p, block, n);
	else if (kind < 60)
		drop(p, block, n, true);
	else if (kind < 63)
		drop(p, block, n, false);
	else if (kind < 68)
		flush(p);
	else if (!p->only_look)
		look(p, block, n);
}

static void *work(void *arg)
{
	struct part *p = arg;
	struct rng rng = {p->seed};

	for (uint64_t i = 0; i < p->operations; i++)
		operate(p, &rng);
	flush(p);
	for (uint64_t block = 0; block < p->blocks; block += BLOCKS_MAX) {
		uint64_t left = p->blocks - block;

		look(p, block, left < BLOCKS_MAX ? left : BLOCKS_MAX);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	bool only_look = argc > 1 && !strcmp(argv[1], "-n");
	static struct part parts[THREADS_MAX];
	char **args = argv + (only_look ? 2 : 1);
	uint64_t bytes, threads, blocks;
	int fd;

	if (argc != (only_look ? 6 : 5))
		die("verify [-n] DISK THREADS OPERATIONS SEED");
	fd = disk_open(args[0], !only_look, &bytes);
	threads = number(args[1]);
	if (!threads || threads > THREADS_MAX)
		die("1 to %u threads", THREADS_MAX);
	blocks = bytes / BLOCK_BYTES / threads;
	if (blocks < BLOCKS_MAX)
		die("%s is too small", args[0]);
	for (uint64_t i = 0; i < threads; i++) {
		struct part *p = &parts[i];

		*p = (struct part){.name = args[0],
			.fd = fd,
			.only_look = only_look,
			.first = i * blocks,
			.blocks = blocks,
			.operations = number(args[2]),
			.seed = number(args[3]) * THREADS_MAX + i,
			.holds = calloc(blocks, sizeof(*p->holds)),
			.number = FIRST_NUMBER - 1,
			.buf = buffer(BLOCKS_MAX * BLOCK_BYTES)};
		if (!p->holds || pthread_create(&p->thread, NULL, work, p))
			die("no memory");
	}
	for (uint64_t i = 0; i < threads; i++)
		pthread_join(parts[i].thread, NULL);
	puts("verified");
	return 0;
}
