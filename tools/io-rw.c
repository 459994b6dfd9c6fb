/* SPDX-License-Identifier: BSD-2-Clause */
/* read, readv, write, writev: one request each, waited for. */
#include "tools/io.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/math.h"

#define WRITE_FILL 0xcd

static void failed(const char *what, int ret)
{
	printf("%s failed: %s\n", what, strerror(-ret));
}

/* ---- read, readv ----------------------------------------------------------------- */

struct read_args {
	struct io_report report;
	bool dump, vm_state;
	int pattern; /* < 0: none */
	bool have_from, have_length;
	uint64_t from, length; /* what part of the data the pattern is looked for in */
	uint64_t offset;
};

/* One option. 0, or a complaint was made. */
static int read_option(struct read_args *a, const struct io_command *cmd, int c)
{
	switch (c) {
	case 'b':
		a->vm_state = true;
		return 0;
	case 'C':
		a->report.terse = true;
		return 0;
	case 'l':
		a->have_length = true;
		return io_parse_size(optarg, &a->length) ? 0 : -EINVAL;
	case 'p': /* takes no effect in qemu-io either */
	case 'r': /* no I/O engine here needs its buffers registered */
		return 0;
	case 'P':
		return io_parse_pattern(optarg, &a->pattern) ? 0 : -EINVAL;
	case 'q':
		a->report.quiet = true;
		return 0;
	case 's':
		a->have_from = true;
		return io_parse_size(optarg, &a->from) ? 0 : -EINVAL;
	case 'v':
		a->dump = true;
		return 0;
	default:
		return io_usage(cmd);
	}
}

/* The VM state and compressed clusters are told apart by sectors. */
static int check_sectors(uint64_t offset, uint64_t bytes)
{
	const char *what = !is_aligned(offset, BLK_SECTOR)  ? "offset"
			   : !is_aligned(bytes, BLK_SECTOR) ? "count"
							    : NULL;

	if (!what)
		return 0;
	printf("%" PRIu64 " is not a sector-aligned value for '%s'\n",
		what[0] == 'o' ? offset : bytes, what);
	return -EINVAL;
}

/* Reads into buf and tells about it. */
static int read_and_tell(
	struct io *io, struct read_args *a, struct io_buffer *buf, const char *name)
{
	uint64_t began_ns = io_clock_ns(), took_ns;
	int ret = a->vm_state ? io_vm_state(io, a->offset, buf, false)
			      : io_read(io, a->offset, buf);

	took_ns = io_clock_ns() - began_ns;
	if (ret) {
		failed(name, ret);
		return ret;
	}
	if (a->pattern >= 0 && !io_verify(buf->data + a->from, a->length, a->pattern,
				       a->offset + a->from))
		ret = -EINVAL;
	if (!a->report.quiet && a->dump)
		io_dump(a->offset, buf->data, buf->bytes);
	io_report(&a->report, "read", a->offset, buf->bytes, took_ns);
	return ret;
}

static int read_run(struct io *io, const struct io_command *cmd, int argc, char **argv)
{
	struct read_args a = {.pattern = -1};
	struct io_buffer buf;
	uint64_t bytes;
	int c, ret;

	while ((c = getopt(argc, argv, "bCl:pP:qrs:v")) != -1) {
		ret = read_option(&a, cmd, c);
		if (ret)
			return ret;
	}
	if (optind != argc - 2)
		return io_usage(cmd);
	if (!io_parse_size(argv[optind], &a.offset) ||
		!io_parse_length(argv[optind + 1], &bytes))
		return -EINVAL;
	if (a.pattern < 0 && (a.have_from || a.have_length))
		return io_usage(cmd);
	if (!a.have_length)
		a.length = bytes - MIN(a.from, bytes);
	if (!range_inside(a.from, a.length, bytes)) {
		printf("pattern verification range exceeds end of read data\n");
		return -EINVAL;
	}
	if (a.vm_state && check_sectors(a.offset, bytes))
		return -EINVAL;
	if (!io_buffer_new(&buf, io, &bytes, 1, -1))
		return -ENOMEM;
	ret = read_and_tell(io, &a, &buf, "read");
	io_buffer_free(&buf);
	return ret;
}

const struct io_command io_cmd_read = {
	.name = "read",
	.short_name = "r",
	.run = read_run,
	.args_min = 2,
	.args_max = -1,
	.args = "[-bCqrv] [-P pattern [-s off] [-l len]] off len",
	.brief = "reads bytes at an offset",
	.help = " 'read -v 512 1k' shows the kilobyte that lies 512 bytes into the "
		"disk.\n\n"
		" -b, -- read the VM state instead of the disk\n"
		" -C, -- report in comma-separated numbers\n"
		" -l, -- with -P: how many bytes have to hold the pattern\n"
		" -p, -- accepted for old scripts\n"
		" -P, -- fail unless every byte is this one\n"
		" -q, -- report nothing\n"
		" -r, -- use a registered buffer where that means something\n"
		" -s, -- with -P: where in what was read the pattern begins\n"
		" -v, -- show the bytes\n",
};

static int readv_run(struct io *io, const struct io_command *cmd, int argc, char **argv)
{
	struct read_args a = {.pattern = -1};
	struct io_buffer buf;
	int c, ret;

	while ((c = getopt(argc, argv, "CP:qrv")) != -1) {
		ret = read_option(&a, cmd, c);
		if (ret)
			return ret;
	}
	if (optind > argc - 2)
		return io_usage(cmd);
	if (!io_parse_size(argv[optind], &a.offset) ||
		!io_buffer_parse(&buf, io, argc - optind - 1, argv + optind + 1, -1))
		return -EINVAL;
	a.length = buf.bytes;
	ret = read_and_tell(io, &a, &buf, "readv");
	io_buffer_free(&buf);
	return ret;
}

const struct io_command io_cmd_readv = {
	.name = "readv",
	.run = readv_run,
	.args_min = 2,
	.args_max = -1,
	.args = "[-Cqrv] [-P pattern] off len [len..]",
	.brief = "reads bytes at an offset into several buffers",
	.help = " 'readv -v 512 1k 1k' reads two kilobytes into two buffers and shows "
		"them.\n\n"
		" -C, -- report in comma-separated numbers\n"
		" -P, -- fail unless every byte is this one\n"
		" -q, -- report nothing\n"
		" -r, -- use registered buffers where that means something\n"
		" -v, -- show the bytes\n",
};

/* ---- write, writev --------------------------------------------------------------- */

struct write_args {
	struct io_report report;
	bool vm_state, zero, have_pattern, registered;
	int pattern;
	const char *source; /* -s */
	unsigned flags;     /* enum blk_request_flags */
	uint64_t offset, bytes;
};

static int write_option(struct write_args *a, const struct io_command *cmd, int c)
{
	switch (c) {
	case 'b':
		a->vm_state = true;
		return 0;
	case 'c':
		a->flags |= BLK_COMPRESSED;
		return 0;
	case 'C':
		a->report.terse = true;
		return 0;
	case 'f':
		a->flags |= BLK_FUA;
		return 0;
	case 'n':
		a->flags |= BLK_NO_FALLBACK;
		return 0;
	case 'p': /* takes no effect in qemu-io either */
		return 0;
	case 'r': /* no I/O engine here needs its buffers registered */
		a->registered = true;
		return 0;
	case 'q':
		a->report.quiet = true;
		return 0;
	case 'P':
		a->have_pattern = true;
		return io_parse_pattern(optarg, &a->pattern) ? 0 : -EINVAL;
	case 's':
		a->source = optarg;
		return 0;
	case 'u':
		a->flags |= BLK_MAY_UNMAP;
		return 0;
	case 'z':
		a->zero = true;
		return 0;
	default:
		return io_usage(cmd);
	}
}

/* Options that do not go together. */
static int write_conflicts(const struct write_args *a)
{
	const char *problem = NULL;

	if (a->vm_state && a->zero)
		problem = "-b and -z cannot be specified at the same time";
	else if ((a->flags & BLK_FUA) && (a->vm_state || (a->flags & BLK_COMPRESSED)))
		problem = "-f and -b or -c cannot be specified at the same time";
	else if ((a->flags & BLK_NO_FALLBACK) && !a->zero)
		problem = "-n requires -z to be specified";
	else if ((a->flags & BLK_MAY_UNMAP) && !a->zero)
		problem = "-u requires -z to be specified";
	else if (a->zero + a->have_pattern + (a->source != NULL) > 1)
		problem = "Only one of -z, -P, and -s can be specified at the same time";
	else if (a->zero && a->registered)
		problem = "cannot combine zero write with registered I/O buffer";
	if (problem)
		printf("%s\n", problem);
	return problem ? -EINVAL : 0;
}

static int write_and_tell(
	struct io *io, struct write_args *a, struct io_buffer *buf, const char *name)
{
	uint64_t began_ns = io_clock_ns(), took_ns;
	int ret;

	if (a->vm_state)
		ret = io_vm_state(io, a->offset, buf, true);
	else if (a->zero)
		ret = io_zero(io, a->offset, a->bytes, a->flags & ~BLK_COMPRESSED);
	else
		ret = io_write(io, a->offset, buf, a->flags);
	took_ns = io_clock_ns() - began_ns;
	if (ret) {
		failed(name, ret);
		return ret;
	}
	io_report(&a->report, "wrote", a->offset, a->bytes, took_ns);
	return 0;
}

/* The length of `write`: only a zero request without fallback needs no buffer for it. */
static bool write_length(struct write_args *a, const char *text)
{
	if (!io_parse_size(text, &a->bytes))
		return false;
	if (a->bytes > IO_MAX_BYTES && !(a->flags & BLK_NO_FALLBACK)) {
		printf("length cannot exceed %" PRIu64 " without -n, given %s\n",
			(uint64_t)IO_MAX_BYTES, text);
		return false;
	}
	return true;
}

static int write_run(struct io *io, const struct io_command *cmd, int argc, char **argv)
{
	struct write_args a = {.pattern = WRITE_FILL};
	struct io_buffer buf = {.data = NULL};
	int c, ret;

	while ((c = getopt(argc, argv, "bcCfnpP:qrs:uz")) != -1) {
		ret = write_option(&a, cmd, c);
		if (ret)
			return ret;
	}
	if (optind != argc - 2)
		return io_usage(cmd);
	ret = write_conflicts(&a);
	if (ret)
		return ret;
	if (!io_parse_size(argv[optind], &a.offset) ||
		!write_length(&a, argv[optind + 1]))
		return -EINVAL;
	if ((a.vm_state || (a.flags & BLK_COMPRESSED)) &&
		check_sectors(a.offset, a.bytes))
		return -EINVAL;
	if (!a.zero && !io_buffer_new(&buf, io, &a.bytes, 1, a.pattern))
		return -ENOMEM;
	if (a.source)
		ret = io_buffer_from_file(&buf, a.source);
	if (!ret)
		ret = write_and_tell(io, &a, &buf, "write");
	io_buffer_free(&buf);
	return ret;
}

const struct io_command io_cmd_write = {
	.name = "write",
	.short_name = "w",
	.run = write_run,
	.args_min = 2,
	.args_max = -1,
	.flags = IO_WRITES,
	.args = "[-bcCfnqruz] [-P pattern | -s source_file] off len",
	.brief = "writes bytes at an offset",
	.help = " 'write 512 1k' writes a kilobyte of 0xcd 512 bytes into the disk.\n\n"
		" -b, -- write the VM state instead of the disk\n"
		" -c, -- store it compressed\n"
		" -C, -- report in comma-separated numbers\n"
		" -f, -- make it stable before the command ends (FUA)\n"
		" -n, -- with -z: fail rather than write zeros out\n"
		" -p, -- accepted for old scripts\n"
		" -P, -- write this byte over and over\n"
		" -q, -- report nothing\n"
		" -r, -- use a registered buffer where that means something\n"
		" -s, -- write the bytes of this file over and over\n"
		" -u, -- with -z: space may be given back\n"
		" -z, -- write zeros as zeros, without moving them\n",
};

static int writev_run(struct io *io, const struct io_command *cmd, int argc, char **argv)
{
	struct write_args a = {.pattern = WRITE_FILL};
	struct io_buffer buf;
	int c, ret;

	while ((c = getopt(argc, argv, "CfP:qr")) != -1) {
		ret = write_option(&a, cmd, c);
		if (ret)
			return ret;
	}
	if (optind > argc - 2)
		return io_usage(cmd);
	if (!io_parse_size(argv[optind], &a.offset) ||
		!io_buffer_parse(
			&buf, io, argc - optind - 1, argv + optind + 1, a.pattern))
		return -EINVAL;
	a.bytes = buf.bytes;
	ret = write_and_tell(io, &a, &buf, "writev");
	io_buffer_free(&buf);
	return ret;
}

const struct io_command io_cmd_writev = {
	.name = "writev",
	.run = writev_run,
	.args_min = 2,
	.args_max = -1,
	.flags = IO_WRITES,
	.args = "[-Cfqr] [-P pattern] off len [len..]",
	.brief = "writes bytes from several buffers at an offset",
	.help = " 'writev 512 1k 1k' writes two kilobytes of 0xcd from two buffers.\n\n"
		" -C, -- report in comma-separated numbers\n"
		" -f, -- make it stable before the command ends (FUA)\n"
		" -P, -- write this byte over and over\n"
		" -q, -- report nothing\n"
		" -r, -- use registered buffers where that means something\n",
};
