/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * aio_read, aio_write, aio_flush: a request is a task of its own that reports when it
 * ends. The command has succeeded once the request is on its way. Invariant:
 * io->aio_running counts the tasks, and whoever closes the image waits for it to be zero.
 */
#include "tools/io.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define WRITE_FILL 0xcd

struct request {
	struct io *io;
	struct io_report report;
	struct io_buffer buf;
	bool write, zero, dump, registered;
	int pattern; /* < 0: none to look for */
	unsigned flags;
	uint64_t offset, bytes, began_ns;
};

static void request_free(struct request *r)
{
	io_buffer_free(&r->buf);
	free(r);
}

static void read_ended(struct request *r, int ret, uint64_t took_ns)
{
	if (ret) {
		printf("readv failed: %s\n", strerror(-ret));
		return;
	}
	if (r->pattern >= 0)
		io_verify(r->buf.data, r->bytes, r->pattern, r->offset);
	if (!r->report.quiet && r->dump)
		io_dump(r->offset, r->buf.data, r->bytes);
	io_report(&r->report, "read", r->offset, r->bytes, took_ns);
}

static void request_task(void *arg)
{
	struct request *r = arg;
	struct io *io = r->io;
	uint64_t took_ns;
	int ret;

	if (!r->write) {
		ret = io_read(io, r->offset, &r->buf);
	} else if (r->zero) {
		ret = io_zero(io, r->offset, r->bytes, r->flags);
	} else {
		ret = io_write(io, r->offset, &r->buf, r->flags);
	}
	took_ns = io_clock_ns() - r->began_ns;
	if (!r->write)
		read_ended(r, ret, took_ns);
	else if (ret)
		printf("aio_write failed: %s\n", strerror(-ret));
	else
		io_report(&r->report, "wrote", r->offset, r->bytes, took_ns);
	fflush(stdout);
	request_free(r);

	task_lock(&io->aio_lock);
	if (!--io->aio_running)
		task_cond_broadcast(&io->aio_idle);
	task_unlock(&io->aio_lock);
}

static int request_start(struct request *r)
{
	struct io *io = r->io;
	int ret;

	r->began_ns = io_clock_ns();
	task_lock(&io->aio_lock);
	io->aio_running++;
	task_unlock(&io->aio_lock);
	ret = task_spawn(NULL, request_task, r);
	if (ret) {
		task_lock(&io->aio_lock);
		io->aio_running--;
		task_unlock(&io->aio_lock);
		printf("cannot start a request: %s\n", strerror(-ret));
		request_free(r);
	}
	task_yield();
	return ret;
}

void io_aio_drain(struct io *io)
{
	task_lock(&io->aio_lock);
	while (io->aio_running)
		task_cond_wait(&io->aio_idle, &io->aio_lock);
	task_unlock(&io->aio_lock);
}

static struct request *request_new(struct io *io, bool write)
{
	struct request *r = calloc(1, sizeof(*r));

	if (!r) {
		printf("no memory for a request\n");
		return NULL;
	}
	r->io = io;
	r->write = write;
	r->pattern = write ? WRITE_FILL : -1;
	return r;
}

/* Parses the options both commands have, and those of each. invalid: -i was given. */
static int options(struct request *r, const struct io_command *cmd, int argc, char **argv,
	bool *invalid)
{
	const char *known = r->write ? "CfiP:qruz" : "CiP:qrv";
	int c;

	while ((c = getopt(argc, argv, known)) != -1) {
		switch (c) {
		case 'C':
			r->report.terse = true;
			break;
		case 'f':
			r->flags |= BLK_FUA;
			break;
		case 'i':
			*invalid = true;
			break;
		case 'P':
			if (!io_parse_pattern(optarg, &r->pattern))
				return -EINVAL;
			break;
		case 'q':
			r->report.quiet = true;
			break;
		case 'r': /* no I/O engine here needs its buffers registered */
			r->registered = true;
			break;
		case 'u':
			r->flags |= BLK_MAY_UNMAP;
			break;
		case 'v':
			r->dump = true;
			break;
		case 'z':
			r->zero = true;
			break;
		default:
			return io_usage(cmd);
		}
	}
	return optind > argc - 2 ? io_usage(cmd) : 0;
}

/* The operands: off len [len...]; zeros have no buffer. */
static int operands(struct request *r, int argc, char **argv)
{
	int fill = r->write ? r->pattern : -1;

	if (r->zero && optind != argc - 2) {
		printf("-z supports only a single length parameter\n");
		return -EINVAL;
	}
	if ((r->flags & BLK_MAY_UNMAP) && !r->zero) {
		printf("-u requires -z to be specified\n");
		return -EINVAL;
	}
	if (r->zero && r->registered) {
		printf("cannot combine zero write with registered I/O buffer\n");
		return -EINVAL;
	}
	if (!io_parse_size(argv[optind], &r->offset))
		return -EINVAL;
	if (r->zero)
		return io_parse_size(argv[optind + 1], &r->bytes) ? 0 : -EINVAL;
	if (!io_buffer_parse(&r->buf, r->io, argc - optind - 1, argv + optind + 1, fill))
		return -EINVAL;
	r->bytes = r->buf.bytes;
	return 0;
}

static int aio_run(struct io *io, const struct io_command *cmd, int argc, char **argv)
{
	bool write = cmd == &io_cmd_aio_write, invalid = false;
	struct request *r = request_new(io, write);
	int ret;

	if (!r)
		return -ENOMEM;
	ret = options(r, cmd, argc, argv, &invalid);
	if (!ret && !invalid)
		ret = operands(r, argc, argv);
	if (ret || invalid) {
		request_free(r);
		if (!ret)
			printf("injecting invalid %s request\n",
				write ? "write" : "read");
		return ret;
	}
	return request_start(r);
}

const struct io_command io_cmd_aio_read = {
	.name = "aio_read",
	.run = aio_run,
	.args_min = 2,
	.args_max = -1,
	.args = "[-Ciqrv] [-P pattern] off len [len..]",
	.brief = "starts a read and does not wait for it",
	.help = " 'aio_read -v 512 1k 1k' reads two kilobytes and shows them when they "
		"are there.\n"
		" The command succeeds once the request is on its way: what becomes of "
		"it is only\n"
		" reported. aio_flush waits for all that are.\n\n"
		" -C, -- report in comma-separated numbers\n"
		" -i, -- start nothing: an invalid request\n"
		" -P, -- say so where a byte is not this one\n"
		" -q, -- report nothing\n"
		" -r, -- use registered buffers where that means something\n"
		" -v, -- show the bytes\n",
};

const struct io_command io_cmd_aio_write = {
	.name = "aio_write",
	.run = aio_run,
	.args_min = 2,
	.args_max = -1,
	.flags = IO_WRITES,
	.args = "[-Cfiqruz] [-P pattern] off len [len..]",
	.brief = "starts a write and does not wait for it",
	.help = " 'aio_write 512 1k 1k' writes two kilobytes of 0xcd from two buffers.\n"
		" The command succeeds once the request is on its way: what becomes of "
		"it is only\n"
		" reported. aio_flush waits for all that are.\n\n"
		" -C, -- report in comma-separated numbers\n"
		" -f, -- make it stable before it is reported (FUA)\n"
		" -i, -- start nothing: an invalid request\n"
		" -P, -- write this byte over and over\n"
		" -q, -- report nothing\n"
		" -r, -- use registered buffers where that means something\n"
		" -u, -- with -z: space may be given back\n"
		" -z, -- write zeros as zeros, without moving them\n",
};

static int aio_flush_run(
	struct io *io, const struct io_command *cmd, int argc, char **argv)
{
	(void)cmd, (void)argc, (void)argv;
	io_aio_drain(io);
	return 0;
}

const struct io_command io_cmd_aio_flush = {
	.name = "aio_flush",
	.run = aio_flush_run,
	.args = "",
	.brief = "waits for every request that was started",
};
