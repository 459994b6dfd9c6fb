/* SPDX-License-Identifier: BSD-2-Clause */
/* Commands about the image as a whole, and those that move no data. */
#include "tools/io.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "base/math.h"
#include "block/format.h"
#include "tools/common-tree.h"
#include "tools/common.h"

/* ---- info, length ---------------------------------------------------------------- */

/* Where VM state lies: behind the guest range that the L2 tables of the disk map. */
static uint64_t vm_state_offset(
	const struct blk *b, uint32_t cluster_bytes, const struct json *facts)
{
	const struct json *ext = facts ? json_get(facts, "extended-l2") : NULL;
	uint64_t entry =
		ext && json_kind_of(ext) == JSON_BOOL && json_bool_of(ext) ? 16 : 8;
	uint64_t span = (uint64_t)cluster_bytes * (cluster_bytes / entry);

	return span ? div_round_up(blk_size(b), span) * span : 0;
}

static int info_run(struct io *io, const struct io_command *cmd, int argc, char **argv)
{
	char cluster[IO_SIZE_TEXT], state[IO_SIZE_TEXT];
	struct json *facts = blk_format_info(io->b);
	uint32_t cluster_bytes = 0;
	bool dirty, encrypted;

	(void)cmd, (void)argc, (void)argv;
	blk_traits(io->b, &cluster_bytes, &dirty, &encrypted);
	printf("format name: %s\n", blk_driver_name(io->b));
	printf("cluster size: %s\n", io_size_text(cluster, cluster_bytes));
	printf("vm state offset: %s\n",
		io_size_text(
			state, (double)vm_state_offset(io->b, cluster_bytes, facts)));
	if (facts) {
		printf("Format specific information:\n");
		tool_print_tree(facts, 1);
	}
	json_free(facts);
	return 0;
}

const struct io_command io_cmd_info = {
	.name = "info",
	.short_name = "i",
	.run = info_run,
	.args = "",
	.brief = "tells the format's own facts about the image",
};

static int length_run(struct io *io, const struct io_command *cmd, int argc, char **argv)
{
	char text[IO_SIZE_TEXT];

	(void)cmd, (void)argc, (void)argv;
	/* In sectors, as the peer counts. */
	printf("%s\n", io_size_text(text, (double)round_up(blk_size(io->b), BLK_SECTOR)));
	return 0;
}

const struct io_command io_cmd_length = {
	.name = "length",
	.short_name = "l",
	.run = length_run,
	.args = "",
	.brief = "tells the size of the disk",
};

/* ---- alloc, map ------------------------------------------------------------------ */

/* The run at offset that this layer has, or has not, up to end. */
static int run_at(
	struct io *io, uint64_t offset, uint64_t end, bool *allocated, uint64_t *bytes)
{
	*bytes = 0;
	while (offset < end) {
		struct blk_extent e;
		int ret = blk_extent(io->b, offset, end - offset, &e);
		bool here;

		if (ret)
			return ret;
		here = e.flags & BLK_EXT_ALLOCATED;
		if (*bytes && here != *allocated)
			break;
		*allocated = here;
		*bytes += e.bytes;
		offset += e.bytes;
	}
	return 0;
}

static int alloc_run(struct io *io, const struct io_command *cmd, int argc, char **argv)
{
	uint64_t size = blk_size(io->b), offset, bytes = BLK_SECTOR, sum = 0, run, end;
	char text[IO_SIZE_TEXT];
	bool allocated = false;

	(void)cmd;
	if (!io_parse_size(argv[1], &offset))
		return -EINVAL;
	if (argc == 3 && !io_parse_size(argv[2], &bytes))
		return -EINVAL;
	bytes = offset < size ? MIN(bytes, size - offset) : 0;
	end = offset + bytes;
	for (uint64_t pos = offset; pos < end; pos += run) {
		int ret = run_at(io, pos, end, &allocated, &run);

		if (ret) {
			printf("is_allocated failed: %s\n", strerror(-ret));
			return ret;
		}
		sum += allocated ? run : 0;
	}
	printf("%" PRIu64 "/%" PRIu64 " bytes allocated at offset %s\n", sum, bytes,
		io_size_text(text, (double)offset));
	return 0;
}

const struct io_command io_cmd_alloc = {
	.name = "alloc",
	.short_name = "a",
	.run = alloc_run,
	.args_min = 1,
	.args_max = 2,
	.args = "offset [count]",
	.brief = "tells how much of a range this image holds itself",
};

static int map_run(struct io *io, const struct io_command *cmd, int argc, char **argv)
{
	uint64_t size = blk_size(io->b), run;
	char at[IO_SIZE_TEXT], length[IO_SIZE_TEXT];
	bool allocated = false;

	(void)cmd, (void)argc, (void)argv;
	for (uint64_t pos = 0; pos < size; pos += run) {
		int ret = run_at(io, pos, size, &allocated, &run);

		if (ret) {
			printf("Failed to get allocation status: %s\n", strerror(-ret));
			return ret;
		}
		printf("%s (0x%" PRIx64 ") bytes %s at offset %s (0x%" PRIx64 ")\n",
			io_size_text(length, (double)run), run,
			allocated ? "    allocated" : "not allocated",
			io_size_text(at, (double)pos), pos);
		ret = tool_check_stdout();
		if (ret)
			return ret;
	}
	return 0;
}

const struct io_command io_cmd_map = {
	.name = "map",
	.run = map_run,
	.args = "",
	.brief = "tells which ranges this image holds itself",
};

/* ---- flush, discard, truncate ---------------------------------------------------- */

static int flush_run(struct io *io, const struct io_command *cmd, int argc, char **argv)
{
	int ret = blk_flush(io->b);

	(void)cmd, (void)argc, (void)argv;
	if (ret)
		printf("flush failed: %s\n", strerror(-ret));
	return ret;
}

const struct io_command io_cmd_flush = {
	.name = "flush",
	.short_name = "f",
	.run = flush_run,
	.args = "",
	.brief = "makes everything written so far stable",
};

static int discard_run(struct io *io, const struct io_command *cmd, int argc, char **argv)
{
	struct io_report report = {false, false};
	uint64_t offset, bytes, began_ns;
	int c, ret;

	while ((c = getopt(argc, argv, "Cq")) != -1) {
		if (c != 'C' && c != 'q')
			return io_usage(cmd);
		report.terse |= c == 'C';
		report.quiet |= c == 'q';
	}
	if (optind != argc - 2)
		return io_usage(cmd);
	if (!io_parse_size(argv[optind], &offset) ||
		!io_parse_length(argv[optind + 1], &bytes))
		return -EINVAL;
	began_ns = io_clock_ns();
	ret = io_check_range(io, offset, bytes);
	for (uint64_t pos = 0; !ret && pos < bytes; pos += BLK_MAX_REQUEST)
		ret = blk_discard(
			io->b, offset + pos, MIN(bytes - pos, (uint64_t)BLK_MAX_REQUEST));
	if (ret) {
		printf("discard failed: %s\n", strerror(-ret));
		return ret;
	}
	io_report(&report, "discard", offset, bytes, io_clock_ns() - began_ns);
	return 0;
}

const struct io_command io_cmd_discard = {
	.name = "discard",
	.short_name = "d",
	.run = discard_run,
	.args_min = 2,
	.args_max = -1,
	.flags = IO_WRITES,
	.args = "[-Cq] off len",
	.brief = "gives the space of a range back",
	.help = " 'discard 512 1k' gives back the kilobyte 512 bytes into the disk.\n\n"
		" -C, -- report in comma-separated numbers\n"
		" -q, -- report nothing\n",
};

static int truncate_run(
	struct io *io, const struct io_command *cmd, int argc, char **argv)
{
	enum blk_prealloc prealloc = BLK_PREALLOC_OFF;
	struct err err = ERR_INIT;
	const char *mode = "off";
	uint64_t bytes;
	int c, ret;

	while ((c = getopt(argc, argv, "m:")) != -1) {
		if (c != 'm')
			return io_usage(cmd);
		mode = optarg;
	}
	if (optind != argc - 1)
		return io_usage(cmd);
	while (blk_prealloc_names[prealloc] && strcmp(blk_prealloc_names[prealloc], mode))
		prealloc++;
	if (!blk_prealloc_names[prealloc]) {
		ret = err_set(&err, EINVAL, "Invalid preallocation mode '%s'", mode);
	} else {
		if (!io_parse_size(argv[optind], &bytes))
			return -EINVAL;
		ret = blk_resize(io->b, bytes, prealloc, &err);
	}
	if (ret)
		tool_report(NULL, &err);
	return ret;
}

const struct io_command io_cmd_truncate = {
	.name = "truncate",
	.short_name = "t",
	.run = truncate_run,
	.args_min = 1,
	.args_max = 3,
	.flags = IO_WRITES,
	.args = "[-m prealloc_mode] off",
	.brief = "makes the disk this large",
	.help = " 'truncate -m falloc 1G' makes it a gigabyte with space for what is "
		"new.\n\n"
		" -m, -- off, metadata, falloc or full\n",
};

/* ---- sleep, sigraise, abort ------------------------------------------------------ */

static bool parse_number(const char *text, long max, long *out)
{
	char *end;

	errno = 0;
	*out = strtol(text, &end, 0);
	return !errno && end != text && !*end && *out >= 0 && *out <= max;
}

static int sleep_run(struct io *io, const struct io_command *cmd, int argc, char **argv)
{
	long ms;

	(void)io, (void)cmd, (void)argc;
	if (!parse_number(argv[1], INT32_MAX, &ms)) {
		printf("%s is not a valid number\n", argv[1]);
		return -EINVAL;
	}
	task_sleep_ns((uint64_t)ms * 1000000u);
	return 0;
}

const struct io_command io_cmd_sleep = {
	.name = "sleep",
	.run = sleep_run,
	.args_min = 1,
	.args_max = 1,
	.flags = IO_ANYTIME,
	.args = "milliseconds",
	.brief = "waits, while requests that were started go on",
};

static int sigraise_run(
	struct io *io, const struct io_command *cmd, int argc, char **argv)
{
	uint64_t n;

	(void)io, (void)cmd, (void)argc;
	if (!io_parse_size(argv[1], &n))
		return -EINVAL;
	if (n >= NSIG) {
		printf("signal argument '%s' is too large to be a valid signal\n",
			argv[1]);
		return -EINVAL;
	}
	fflush(stdout);
	return raise((int)n) ? -errno : 0;
}

const struct io_command io_cmd_sigraise = {
	.name = "sigraise",
	.run = sigraise_run,
	.args_min = 1,
	.args_max = 1,
	.flags = IO_ANYTIME,
	.args = "signal",
	.brief = "sends the program a signal",
	.help = " 'sigraise 15' ends it by SIGTERM.\n",
};

static int abort_run(struct io *io, const struct io_command *cmd, int argc, char **argv)
{
	(void)io, (void)cmd, (void)argc, (void)argv;
	fflush(stdout);
	abort();
}

const struct io_command io_cmd_abort = {
	.name = "abort",
	.run = abort_run,
	.flags = IO_ANYTIME,
	.args = "",
	.brief = "ends the program as a crash would, by abort(3)",
};
