/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * byre-io: scripted reads, writes and discards on any image, with patterns and
 * verification. Commands come from -c, or from standard input behind a prompt; see io.h.
 */
#include "tools/io.h"

#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/aio.h"
#include "block/secret.h"
#include "tools/common.h"

/* The longest line of standard input. */
#define LINE_MAX_BYTES (1u << 20)

struct settings {
	struct io io;
	struct io_source source;
	const char *format;
	const char *file; /* what is to be opened; NULL: nothing */
	bool image_opts;
	const char **commands; /* -c */
	size_t n_commands;
};

static const char usage_text[] =
	"Usage: %s [OPTIONS]... [-c STRING]... [file]\n"
	"Scripted reads, writes and discards on disk images\n"
	"\n"
	"  --object OBJECTDEF   define a secret (secret,id=ID,data=...|file=...)\n"
	"  --image-opts         file is a list of options: "
	"driver=qcow2,file.filename=...\n"
	"  -c, --cmd STRING     run this command; without any, they are read from "
	"standard\n"
	"                       input\n"
	"  -f, --format FMT     the image's format; it is probed without this\n"
	"  -r, --read-only      open it for reading only\n"
	"  -s, --snapshot       write into a temporary overlay that is lost at the end\n"
	"  -n, --nocache        past the host's cache, as -t none\n"
	"  -C, --copy-on-read   copy what a backing file gives into the image\n"
	"  -m, --misalign       use buffers that are not aligned\n"
	"  -k, --native-aio     as -i native\n"
	"  -i, --aio=MODE       threads, io_uring, or native, which needs -n; the engine "
	"is\n                       chosen by BYRE_LOOP\n"
	"  -t, --cache=MODE     none, writeback, writethrough, directsync or unsafe\n"
	"  -d, --discard=MODE   unmap (the default) or ignore\n"
	"  -T, --trace EVENTS   accepted; there are no trace events\n"
	"  -U, --force-share    open without locks against others\n"
	"  -h, --help           show this text and exit\n"
	"  -V, --version        show the version and exit\n"
	"\n"
	"See '%s -c help' for the commands.\n";

enum { OPT_OBJECT = 256, OPT_IMAGE_OPTS };

static const struct option long_options[] = {
	{"help", no_argument, NULL, 'h'},
	{"version", no_argument, NULL, 'V'},
	{"cmd", required_argument, NULL, 'c'},
	{"format", required_argument, NULL, 'f'},
	{"read-only", no_argument, NULL, 'r'},
	{"snapshot", no_argument, NULL, 's'},
	{"nocache", no_argument, NULL, 'n'},
	{"copy-on-read", no_argument, NULL, 'C'},
	{"misalign", no_argument, NULL, 'm'},
	{"native-aio", no_argument, NULL, 'k'},
	{"aio", required_argument, NULL, 'i'},
	{"cache", required_argument, NULL, 't'},
	{"discard", required_argument, NULL, 'd'},
	{"trace", required_argument, NULL, 'T'},
	{"force-share", no_argument, NULL, 'U'},
	{"object", required_argument, NULL, OPT_OBJECT},
	{"image-opts", no_argument, NULL, OPT_IMAGE_OPTS},
	{NULL, 0, NULL, 0},
};

/* ---- commands from standard input ------------------------------------------------ */

struct reader {
	char *buf;
	size_t used, next; /* bytes held; of them given out */
	bool ended;
};

/* More bytes behind those held. The loop's other tasks run while a terminal is silent.
 * 0 or -errno. */
static int reader_fill(struct reader *r)
{
	ssize_t n;

	memmove(r->buf, r->buf + r->next, r->used - r->next);
	r->used -= r->next;
	r->next = 0;
	if (r->used == LINE_MAX_BYTES)
		return -E2BIG;
	/* A plain file cannot be polled and never makes us wait: the read tells. */
	(void)aio_poll(STDIN_FILENO, POLLIN, -1);
	do {
		n = read(STDIN_FILENO, r->buf + r->used, LINE_MAX_BYTES - r->used);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	r->used += (size_t)n;
	r->ended = n == 0;
	return 0;
}

/* The next line without its end, good until the next call; NULL at the end of input, or
 * with *ret set. */
static char *reader_line(struct reader *r, int *ret)
{
	char *line, *end;

	while (!(end = memchr(r->buf + r->next, '\n', r->used - r->next)) && !r->ended) {
		*ret = reader_fill(r);
		if (*ret)
			return NULL;
	}
	if (!end && r->next == r->used)
		return NULL;
	if (!end)
		end = r->buf + r->used;
	*end = '\0';
	line = r->buf + r->next;
	r->next = (size_t)(end - r->buf) + (end != r->buf + r->used);
	return line;
}

static int run_prompt(struct io *io)
{
	struct reader r = {.buf = malloc(LINE_MAX_BYTES + 1)};
	int ret = r.buf ? 0 : -ENOMEM, failed = 0;

	while (!ret && !io->quit) {
		char *line;

		printf("%s> ", tool_name);
		fflush(stdout);
		line = reader_line(&r, &ret);
		if (!line)
			break;
		if (io_run_line(io, line))
			failed = -EIO;
	}
	if (ret)
		tool_error("cannot read commands: %s", strerror(-ret));
	free(r.buf);
	return ret ? ret : failed;
}

/* ---- the first task -------------------------------------------------------------- */

static int open_file(struct settings *s, struct err *err)
{
	int ret;

	if (s->format || s->image_opts)
		s->source.opts = opts_new();
	if (s->image_opts) {
		ret = opts_parse(s->source.opts, s->file, NULL, err);
		if (ret)
			return ret;
	} else {
		s->source.name = strdup(s->file);
		if (!s->source.name)
			return err_set(err, ENOMEM, "out of memory");
		if (s->format)
			opts_set(s->source.opts, "driver", s->format);
	}
	return io_open(&s->io, &s->source, err);
}

static int run(void *arg)
{
	struct settings *s = arg;
	struct err err = ERR_INIT;
	int ret = 0, closed = 0;

	if (s->file && open_file(s, &err)) {
		tool_report(NULL, &err);
		io_source_clear(&s->source);
		return -EIO;
	}
	for (size_t i = 0; i < s->n_commands && !s->io.quit; i++)
		if (io_run_line(&s->io, s->commands[i]))
			ret = -EIO;
	if (!s->n_commands)
		ret = run_prompt(&s->io);
	io_aio_drain(&s->io);
	if (s->io.b)
		closed = io_close(&s->io, &err);
	if (closed)
		tool_report(NULL, &err);
	return ret ? ret : closed;
}

/* ---- options --------------------------------------------------------------------- */

static void print_usage(void)
{
	printf(usage_text, tool_name, tool_name);
}

static int mode_option(struct settings *s, int c, struct err *err)
{
	switch (c) {
	case 't':
		if (blk_cache_mode(optarg, &s->source.flags))
			return err_set(err, EINVAL, "Invalid cache option: %s", optarg);
		return 0;
	case 'd':
		return io_set_discard_mode(optarg, &s->source.flags, err);
	case 'i':
		return io_set_aio_mode(optarg, &s->source, err);
	default:
		return io_set_aio_mode("native", &s->source, err);
	}
}

/* One option. -1: go on; else the exit status. */
static int option(struct settings *s, int c)
{
	struct err err = ERR_INIT;

	switch (c) {
	case 'c':
		s->commands[s->n_commands++] = optarg;
		return -1;
	case 'f':
		s->format = optarg;
		return -1;
	case 'r':
		s->source.flags &= ~(unsigned)BLK_O_RDWR;
		return -1;
	case 's':
		s->source.snapshot = true;
		return -1;
	case 'n':
		blk_cache_mode("none", &s->source.flags);
		return -1;
	case 'C':
		s->source.copy_on_read = true;
		return -1;
	case 'm':
		s->io.misalign = true;
		return -1;
	case 'U':
		s->source.flags |= BLK_O_SHARE;
		return -1;
	case 'T':
		tool_warning("trace event '%s' does not exist", optarg);
		return -1;
	case OPT_OBJECT:
		return tool_add_object(optarg) ? 1 : -1;
	case OPT_IMAGE_OPTS:
		s->image_opts = true;
		return -1;
	case 't':
	case 'd':
	case 'i':
	case 'k':
		if (!mode_option(s, c, &err))
			return -1;
		tool_report(NULL, &err);
		return 1;
	case 'V':
		printf("%s version %s\n", tool_name, BYRE_VERSION);
		return 0;
	case 'h':
		print_usage();
		return 0;
	default:
		print_usage();
		return 1;
	}
}

/* What can only be judged when all options are known. -1: go on. */
static int check_options(struct settings *s, int argc, char **argv)
{
	if (argc - optind > 1) {
		print_usage();
		return 1;
	}
	if (s->format && s->image_opts) {
		tool_error("--image-opts and -f are mutually exclusive");
		return 1;
	}
	s->file = argv[optind];
	return -1;
}

int main(int argc, char **argv)
{
	struct settings s = {.source = IO_SOURCE_INIT};
	struct err err = ERR_INIT;
	int c, status = -1;

	tool_set_name(argc ? argv[0] : NULL, "byre-io", "qemu-io");
	signal(SIGPIPE, SIG_IGN); /* commands go on when nobody reads any more */
	s.commands = calloc((size_t)argc + 1, sizeof(*s.commands));
	if (!s.commands) {
		tool_error("out of memory");
		return 1;
	}
	while (status < 0 && (c = getopt_long(argc, argv, "hVc:d:f:rsnCmki:t:T:U",
				      long_options, NULL)) != -1)
		status = option(&s, c);
	if (status < 0)
		status = check_options(&s, argc, argv);
	if (status < 0) {
		int ret = loop_run(run, &s, &err);

		if (ret && err.code)
			tool_report(NULL, &err);
		status = ret ? 1 : 0;
	}
	secrets_clear();
	free(s.commands);
	return tool_flush_stdout() < 0 ? 1 : status;
}
