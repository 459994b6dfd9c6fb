/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * rate DISK read|write DEPTH SECONDS: 4 KiB requests at random places, past the page cache, DEPTH of
 * them in flight; prints how many there were in a second. For benchmarks.
 */
#include <errno.h>
#include <linux/aio_abi.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tests/engine/rng.h"
#include "tests/guest/support.h"

#define BLOCK_BYTES 4096u
#define DEPTH_MAX   256u

static struct iocb requests[DEPTH_MAX];

static void submit(aio_context_t aio, struct iocb *one)
{
	if (syscall(SYS_io_submit, aio, 1, &one) != 1)
		die("io_submit: %m");
}

static void prepare(
	struct iocb *one, int fd, bool write, struct rng *rng, uint64_t blocks)
{
	if (!one->aio_buf) {
		one->aio_buf = (uintptr_t)buffer(BLOCK_BYTES);
		memset((void *)(uintptr_t)one->aio_buf, 0x5a, BLOCK_BYTES);
	}
	one->aio_fildes = (uint32_t)fd;
	one->aio_lio_opcode = write ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD;
	one->aio_nbytes = BLOCK_BYTES;
	one->aio_offset = (int64_t)(rng_below(rng, blocks) * BLOCK_BYTES);
}

int main(int argc, char **argv)
{
	struct io_event done[DEPTH_MAX];
	struct rng rng = {1};
	aio_context_t aio = 0;
	uint64_t bytes, depth, count = 0, in_flight;
	double start, end;
	bool write;
	int fd;

	if (argc != 5)
		die("rate DISK read|write DEPTH SECONDS");
	write = !strcmp(argv[2], "write");
	fd = disk_open(argv[1], write, &bytes);
	depth = number(argv[3]);
	if (!depth || depth > DEPTH_MAX || bytes < BLOCK_BYTES)
		die("a depth from 1 to %u", DEPTH_MAX);
	if (syscall(SYS_io_setup, depth, &aio))
		die("io_setup: %m");
	start = seconds();
	end = start + (double)number(argv[4]);
	for (uint64_t i = 0; i < depth; i++) {
		prepare(&requests[i], fd, write, &rng, bytes / BLOCK_BYTES);
		submit(aio, &requests[i]);
	}
	for (in_flight = depth; in_flight;) {
		long n = syscall(SYS_io_getevents, aio, 1, depth, done, NULL);

		if (n < 0 && errno != EINTR)
			die("io_getevents: %m");
		for (long i = 0; i < n; i++) {
			struct iocb *one = (struct iocb *)(uintptr_t)done[i].obj;

			if (done[i].res != BLOCK_BYTES)
				die("a request ended with %lld", (long long)done[i].res);
			count++;
			in_flight--;
			if (seconds() < end) {
				prepare(one, fd, write, &rng, bytes / BLOCK_BYTES);
				submit(aio, one);
				in_flight++;
			}
		}
	}
	printf("rate %.0f\n", (double)count / (seconds() - start));
	return 0;
}
