/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * random IMAGE FORMAT read|write COUNT: 4 KiB requests all over an image, 32 in flight on
 * one loop, at the offsets that `qemu-img bench -s 4k -S STEP -d 32` takes: each STEP
 * further, around the disk's end. STEP is prime to the disk's size, so no two places
 * follow each other. What is measured is the program's processor time.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/iov.h"
#include "base/math.h"
#include "base/task.h"
#include "block/blk.h"

#define DEPTH         32
#define REQUEST_BYTES 4096u
#define STEP_BYTES    (104729u * REQUEST_BYTES)

struct bench {
	struct blk *b;
	bool write;
	uint64_t left, offset, size; /* one loop and no wait between: no lock needed */
	const char *name, *format;
};

static int worker(void *arg)
{
	struct bench *s = arg;
	void *buf = buf_alloc(REQUEST_BYTES);
	int ret = 0;

	if (!buf)
		return -ENOMEM;
	memset(buf, 0x5a, REQUEST_BYTES);
	while (s->left && ret == 0) {
		uint64_t offset = s->offset;

		s->left--;
		s->offset = (offset + STEP_BYTES) % s->size;
		if (s->write)
			ret = blk_pwrite(s->b, offset, buf, REQUEST_BYTES, 0);
		else
			ret = blk_pread(s->b, offset, buf, REQUEST_BYTES);
	}
	buf_free(buf);
	return ret;
}

static int bench(void *arg)
{
	struct bench *s = arg;
	struct err err = ERR_INIT;
	struct task_group group;
	int ret, closed;

	s->b = blk_open_format(s->name, s->format, s->write ? BLK_O_RDWR : 0, &err);
	if (!s->b) {
		fprintf(stderr, "random: %s\n", err.msg);
		return -err.code;
	}
	s->size = round_down(blk_size(s->b), REQUEST_BYTES);
	task_group_init(&group);
	for (unsigned i = 0; i < DEPTH; i++)
		task_group_spawn(&group, NULL, worker, s);
	ret = task_group_wait(&group);
	closed = blk_close(s->b);
	return ret ? ret : closed;
}

int main(int argc, char **argv)
{
	struct err err = ERR_INIT;
	struct bench s = {0};
	int ret;

	if (argc != 5) {
		fprintf(stderr, "usage: random IMAGE FORMAT read|write COUNT\n");
		return 2;
	}
	s.name = argv[1];
	s.format = argv[2];
	s.write = !strcmp(argv[3], "write");
	s.left = strtoull(argv[4], NULL, 10);
	ret = loop_run(bench, &s, &err);
	if (ret < 0)
		fprintf(stderr, "random: %s: %s\n", s.name,
			err.msg[0] ? err.msg : strerror(-ret));
	return ret < 0;
}
