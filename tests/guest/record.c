/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * record DISK THREADS: until it is killed, each thread writes records into a part of the disk that is its own,
 * round and round, flushes, and says "THREAD NUMBER" when that is done.
 *
 * record -c DISK THREADS <WHAT-IT-SAID: looks from outside whether every record that was said is there, unless a
 * later one came into its place.
 */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/engine/rng.h"
#include "tests/guest/support.h"

#define SLOT_BYTES  (64u << 10)
#define SLOTS       24u
#define PART_BYTES  ((uint64_t)SLOTS * SLOT_BYTES)
#define THREADS_MAX 16u

struct record {
	uint64_t thread, number, bytes;
};

struct part {
	pthread_t thread;
	int fd;
	uint64_t index;
};

/* Of sizes that end anywhere in a cluster, most of them small. */
static uint64_t record_bytes(uint64_t thread, uint64_t n)
{
	struct rng rng = {thread << 32 | n};
	uint64_t most = rng_one_in(&rng, 4) ? SLOT_BYTES : 8 * SECTOR_BYTES;

	return rng_between(&rng, 1, most / SECTOR_BYTES) * SECTOR_BYTES;
}
static off_t place(uint64_t thread, uint64_t n)
{
	return (off_t)(thread * PART_BYTES + n % SLOTS * SLOT_BYTES);
}
static void make(uint8_t *buf, uint64_t thread, uint64_t n, uint64_t bytes)
{
	struct record head = {thread, n, bytes};

	pattern_fill(buf, bytes, thread << 40 ^ n);
	memcpy(buf, &head, sizeof(head));
}

static void *work(void *arg)
{
	struct part *p = arg;
	uint8_t *buf = buffer(SLOT_BYTES);
	char said[64];

	for (uint64_t n = 1;; n++) {
		uint64_t bytes = record_bytes(p->index, n);
		int length;

		make(buf, p->index, n, bytes);
		if (pwrite(p->fd, buf, bytes, place(p->index, n)) != (ssize_t)bytes ||
			fdatasync(p->fd))
			die("record %" PRIu64 " of thread %" PRIu64 ": %m", n, p->index);
		/* In one piece, or the lines of threads would be mixed. */
		length = snprintf(
			said, sizeof(said), "%" PRIu64 " %" PRIu64 "\n", p->index, n);
		if (write(STDOUT_FILENO, said, (size_t)length) != length)
			die("stdout: %m");
	}
	return NULL;
}

static void write_records(int fd, uint64_t threads)
{
	static struct part parts[THREADS_MAX];

	for (uint64_t i = 0; i < threads; i++) {
		parts[i] = (struct part){.fd = fd, .index = i};
		if (pthread_create(&parts[i].thread, NULL, work, &parts[i]))
			die("no memory");
	}
	pthread_join(parts[0].thread, NULL);
}

/* The number of the whole record that is in a slot, or 0. */
static uint64_t what_is_in(int fd, uint64_t thread, uint64_t slot)
{
	static uint8_t *found, *wanted;
	struct record head;

	found = found ? found : buffer(SLOT_BYTES);
	wanted = wanted ? wanted : buffer(SLOT_BYTES);
	if (pread(fd, found, SLOT_BYTES, place(thread, slot)) != SLOT_BYTES)
		die("the disk is too short");
	memcpy(&head, found, sizeof(head));
	if (head.thread != thread || head.number % SLOTS != slot || !head.number ||
		head.bytes != record_bytes(thread, head.number))
		return 0;
	make(wanted, thread, head.number, head.bytes);
	return memcmp(found, wanted, head.bytes) ? 0 : head.number;
}

/*
 * What is said comes later than what is done: the guest's console is slow. So there may be later
 * records than the last one that was said, and one more that was begun after them all.
 */
static void check_part(int fd, uint64_t thread, uint64_t said)
{
	uint64_t in[SLOTS], last = said;

	for (uint64_t slot = 0; slot < SLOTS; slot++) {
		in[slot] = what_is_in(fd, thread, slot);
		if (in[slot] > last)
			last = in[slot];
	}
	for (uint64_t n = said > SLOTS ? said - SLOTS + 1 : 1; n <= said; n++)
		if (in[n % SLOTS] < n && n % SLOTS != (last + 1) % SLOTS)
			die("record %" PRIu64 " of thread %" PRIu64
			    " was flushed; in its place is %" PRIu64 " (of %" PRIu64 ")",
				n, thread, in[n % SLOTS], last);
}

/* A line that the end cut off is no line. */
static void check_records(int fd, uint64_t threads)
{
	uint64_t last[THREADS_MAX] = {0}, thread, n, all = 0;
	char line[256], end;

	while (fgets(line, sizeof(line), stdin))
		if (sscanf(line, "%" SCNu64 " %" SCNu64 "%c", &thread, &n, &end) == 3 &&
			end == '\n' && thread < threads && n == last[thread] + 1)
			last[thread] = n;
	for (uint64_t i = 0; i < threads; i++) {
		check_part(fd, i, last[i]);
		all += last[i];
	}
	printf("%" PRIu64 " records were flushed, and the last of each thread is there\n",
		all);
}

int main(int argc, char **argv)
{
	bool check = argc == 4 && !strcmp(argv[1], "-c");
	char **args = argv + (check ? 2 : 1);
	uint64_t bytes, threads;
	int fd;

	if (argc != (check ? 4 : 3))
		die("record [-c] DISK THREADS");
	fd = disk_open(args[0], !check, &bytes);
	threads = number(args[1]);
	if (!threads || threads > THREADS_MAX || bytes < threads * PART_BYTES)
		die("1 to %u threads, and %" PRIu64 " bytes for each", THREADS_MAX,
			PART_BYTES);
	if (check)
		check_records(fd, threads);
	else
		write_records(fd, threads);
	return 0;
}
