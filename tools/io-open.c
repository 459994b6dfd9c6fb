/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * open, close, reopen, and the words for modes that the command line and `open` share.
 *
 * reopen closes the image and opens it anew: where that fails the image is opened again
 * as it was, so that a refused change leaves it in use.
 */
#include "tools/io.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/math.h"
#include "block/driver.h"
#include "block/format.h"
#include "tools/common.h"

void io_source_clear(struct io_source *source)
{
	free(source->name);
	opts_free(source->opts);
	memset(source, 0, sizeof(*source));
}

int io_set_aio_mode(const char *mode, struct io_source *source, struct err *err)
{
	source->native_aio = !strcmp(mode, "native");
	if (source->native_aio || !strcmp(mode, "threads") || !strcmp(mode, "io_uring"))
		return 0;
	return err_set(err, EINVAL, "Invalid aio option: %s", mode);
}

int io_set_discard_mode(const char *mode, unsigned *flags, struct err *err)
{
	if (!strcmp(mode, "unmap") || !strcmp(mode, "on"))
		*flags |= BLK_O_DISCARD;
	else if (!strcmp(mode, "ignore") || !strcmp(mode, "off"))
		*flags &= ~(unsigned)BLK_O_DISCARD;
	else
		return err_set(err, EINVAL, "Invalid discard option: %s", mode);
	return 0;
}

/* ---- opening --------------------------------------------------------------------- */

/* -s: an empty overlay over b in the temporary folder. NULL with err set. */
static char *overlay_create(struct blk *b, struct err *err)
{
	const char *dir = getenv("TMPDIR");
	struct opts *opts;
	char *path, *real;
	int fd;

	if (asprintf(&path, "%s/byre-io.XXXXXX", dir && *dir ? dir : "/var/tmp") < 0) {
		err_set(err, ENOMEM, "out of memory");
		return NULL;
	}
	fd = mkstemp(path);
	if (fd < 0) {
		err_errno(err, errno, "cannot make a temporary overlay in %s", path);
		free(path);
		return NULL;
	}
	close(fd);
	opts = opts_new();
	opts_setf(opts, "size", "%" PRIu64, round_up(blk_size(b), BLK_SECTOR));
	real = realpath(blk_filename(b), NULL);
	opts_set(opts, "backing_file", real ? real : blk_filename(b));
	opts_set(opts, "backing_fmt", blk_driver_name(b));
	free(real);
	if (blk_create(path, "qcow2", opts, err)) {
		err_prefix(err, "temporary overlay %s", path);
		unlink(path);
		free(path);
		path = NULL;
	}
	opts_free(opts);
	return path;
}

/* Options in a name; it has been opened by it. */
static void merge_json(struct opts *opts, const char *name)
{
	struct opts *o;

	if (!name || strncmp(name, "json:", 5))
		return;
	o = opts_new();
	if (opts_parse_json(o, name + 5, NULL) == 0)
		opts_merge(opts, o, "backing.");
	opts_free(o);
}

static struct blk *open_snapshot(const struct io_source *s, struct err *err)
{
	unsigned base_flags = s->flags & ~(unsigned)BLK_O_RDWR;
	struct opts *opts;
	struct blk *b = blk_open(s->name, s->opts, base_flags, err);
	char *path;

	if (!b)
		return NULL;
	path = overlay_create(b, err);
	blk_close(b);
	if (!path)
		return NULL;
	opts = opts_new();
	opts_set(opts, "driver", "qcow2");
	opts_set(opts, "file.driver", "file");
	opts_set(opts, "file.filename", path);
	/* Options the base needs, such as its passphrase; the overlay names the file. */
	if (s->opts)
		opts_merge(opts, s->opts, "backing.");
	merge_json(opts, s->name);
	if (s->flags & BLK_O_SHARE)
		opts_set(opts, "backing.force-share", "on");
	b = blk_open(NULL, opts,
		(s->flags & ~(unsigned)BLK_O_SHARE) | BLK_O_NAMES_TRUSTED, err);
	opts_free(opts);
	unlink(path);
	free(path);
	return b;
}

static int check_source(const struct io_source *s, struct err *err)
{
	bool writable = s->flags & BLK_O_RDWR;

	if (writable && !s->snapshot && (s->flags & BLK_O_SHARE))
		return err_set(err, EINVAL,
			"force-share=on can only be used with read-only images");
	if (!writable && s->copy_on_read)
		return err_set(err, EINVAL, "Can't use copy-on-read on read-only device");
	if (s->native_aio && !(s->flags & BLK_O_DIRECT))
		return err_set(err, EINVAL,
			"aio=native was specified, but it requires cache.direct=on, "
			"which was not specified.");
	return 0;
}

/* The format was guessed to be raw: what looks like another one's header cannot be
 * written. */
static void warn_probed(const struct blk *b)
{
	if (!b->probed || blk_read_only(b))
		return;
	fprintf(stderr,
		"WARNING: Image format was not specified for '%s' and probing guessed "
		"raw.\n"
		"         Guessing is unsafe for raw images: writes that make the first "
		"sector look like another format are refused.\n"
		"         Say 'raw' to lift this.\n",
		blk_filename(b));
}

static struct blk *open_source(const struct io_source *s, struct err *err)
{
	bool writable = s->flags & BLK_O_RDWR;
	struct blk *b;

	if (check_source(s, err))
		return NULL;
	if (s->snapshot && writable)
		return open_snapshot(s, err);
	b = blk_open(s->name, s->opts, s->flags, err);
	/* read-only=on among the options, and no -r. */
	if (b && writable && blk_read_only(b)) {
		blk_close(b);
		err_set(err, EACCES, "Block node is read-only");
		return NULL;
	}
	return b;
}

/* Opens what source says; source is io's where it returns 0, else still the caller's. */
int io_open(struct io *io, struct io_source *source, struct err *err)
{
	const char *name = source->name;
	size_t name_len = name ? strlen(name) : 0;
	struct blk *b = open_source(source, err);

	if (!b) {
		/* The library's message begins with the name; ours does already. */
		if (name && !strncmp(err->msg, name, name_len) &&
			!strncmp(err->msg + name_len, ": ", 2))
			memmove(err->msg, err->msg + name_len + 2,
				strlen(err->msg + name_len + 2) + 1);
		return name ? err_prefix(err, "can't open device %s", name)
			    : err_prefix(err, "can't open");
	}
	warn_probed(b);
	io->b = b;
	io->source = *source;
	memset(source, 0, sizeof(*source));
	return 0;
}

static int close_file(struct io *io, struct err *err)
{
	char *name = strdup(blk_filename(io->b));
	int ret;

	io_aio_drain(io);
	ret = blk_close(io->b);
	io->b = NULL;
	if (ret)
		err_errno(err, -ret, "closing %s", name ? name : "the image");
	free(name);
	return ret;
}

int io_close(struct io *io, struct err *err)
{
	int ret = close_file(io, err);

	io_source_clear(&io->source);
	return ret;
}

/* ---- open ------------------------------------------------------------------------ */

static int open_option(
	struct io_source *s, const struct io_command *cmd, int c, struct err *err)
{
	switch (c) {
	case 'r':
		s->flags &= ~(unsigned)BLK_O_RDWR;
		return 0;
	case 's':
		s->snapshot = true;
		return 0;
	case 'C':
		s->copy_on_read = true;
		return 0;
	case 'n':
		return blk_cache_mode("none", &s->flags);
	case 'k':
		s->native_aio = true;
		return 0;
	case 'U':
		s->flags |= BLK_O_SHARE;
		return 0;
	case 't':
		if (blk_cache_mode(optarg, &s->flags))
			return err_set(err, EINVAL, "Invalid cache option: %s", optarg);
		return 0;
	case 'd':
		return io_set_discard_mode(optarg, &s->flags, err);
	case 'i':
		return io_set_aio_mode(optarg, s, err);
	case 'o':
		if (!s->opts)
			s->opts = opts_new();
		return opts_parse(s->opts, optarg, NULL, err);
	default:
		return io_usage(cmd);
	}
}

static int open_run(struct io *io, const struct io_command *cmd, int argc, char **argv)
{
	struct io_source source = IO_SOURCE_INIT;
	struct err err = ERR_INIT;
	int c, ret = 0;

	while (!ret && (c = getopt(argc, argv, "rsCnki:t:d:o:U")) != -1)
		ret = open_option(&source, cmd, c, &err);
	if (ret)
		goto out;
	if (io->b) {
		ret = err_set(&err, EBUSY, "file open already, try 'help close'");
	} else if (optind == argc - 1) {
		source.name = strdup(argv[optind]);
		ret = source.name ? 0 : err_set(&err, ENOMEM, "out of memory");
	} else if (optind != argc || !source.opts) {
		ret = io_usage(cmd);
	}
	if (!ret)
		ret = io_open(io, &source, &err);
out:
	if (err.code)
		tool_report(NULL, &err);
	io_source_clear(&source);
	return ret;
}

const struct io_command io_cmd_open = {
	.name = "open",
	.short_name = "o",
	.run = open_run,
	.args_min = 1,
	.args_max = -1,
	.flags = IO_ANYTIME,
	.args = "[-rsCnkU] [-t cache] [-d discard] [-o options] [path]",
	.brief = "opens an image",
	.help = " 'open -n -o driver=raw /tmp/data' opens a raw file past the page "
		"cache.\n\n"
		" -r, -- for reading only\n"
		" -s, -- changes go to a temporary overlay and are lost at close\n"
		" -C, -- what a backing file gives is copied into the image\n"
		" -n, -- past the host's cache, as -t none\n"
		" -U, -- without locks against others\n"
		" -k, -- as -i native\n"
		" -i, -- threads, io_uring, or native, which needs -n: the engine is "
		"chosen by BYRE_LOOP here\n"
		" -t, -- cache mode: none, writeback, writethrough, directsync, unsafe\n"
		" -d, -- discard mode: unmap (the default), ignore\n"
		" -o, -- options of the drivers: driver=qcow2,file.filename=...\n",
};

/* ---- close ----------------------------------------------------------------------- */

static int close_run(struct io *io, const struct io_command *cmd, int argc, char **argv)
{
	struct err err = ERR_INIT;
	int ret = io_close(io, &err);

	(void)cmd, (void)argc, (void)argv;
	if (ret)
		tool_report(NULL, &err);
	return ret;
}

const struct io_command io_cmd_close = {
	.name = "close",
	.short_name = "c",
	.run = close_run,
	.args = "",
	.brief = "closes the image",
};

/* ---- reopen ---------------------------------------------------------------------- */

struct reopen_args {
	bool mode_given, cache_given;
	unsigned flags;
	struct opts *opts; /* what -o added; NULL: nothing */
};

static int reopen_option(
	struct reopen_args *a, const struct io_command *cmd, int c, struct err *err)
{
	switch (c) {
	case 'r':
	case 'w':
		if (a->mode_given)
			return err_set(err, EINVAL, "Only one -r/-w option may be given");
		a->mode_given = true;
		if (c == 'r')
			a->flags &= ~(unsigned)BLK_O_RDWR;
		else
			a->flags |= BLK_O_RDWR;
		return 0;
	case 'c':
		a->cache_given = true;
		if (blk_cache_mode(optarg, &a->flags))
			return err_set(err, EINVAL, "Invalid cache option: %s", optarg);
		return 0;
	case 'o':
		if (!a->opts)
			a->opts = opts_new();
		return opts_parse(a->opts, optarg, NULL, err);
	default:
		return io_usage(cmd);
	}
}

/* Takes read-only= out of the options, which here is a matter of flags. */
static int take_read_only(struct reopen_args *a, struct err *err)
{
	bool read_only;
	int ret;

	if (!a->opts || !opts_peek(a->opts, "read-only"))
		return 0;
	if (a->mode_given)
		return err_set(err, EINVAL, "Cannot set both -r/-w and 'read-only'");
	ret = opts_take_bool(a->opts, "read-only", &read_only, err);
	if (ret)
		return ret;
	opts_del(a->opts, "read-only");
	a->flags &= ~(unsigned)BLK_O_RDWR;
	a->flags |= read_only ? 0 : BLK_O_RDWR;
	return 0;
}

static int cannot_change(const char *key, struct err *err)
{
	return err_set(err, EINVAL, "Cannot change the option '%s'", key);
}

/* What an image is stays: another format over the same file would write over it. Options
 * that say again what is so are taken out. */
static int check_changes(struct io *io, struct reopen_args *a, struct err *err)
{
	const struct blk *file = blk_file(io->b) ? blk_file(io->b) : io->b;
	bool share = blk_flags(io->b) & BLK_O_SHARE, want_share = share;
	const struct {
		const char *key, *now;
	} fixed[] = {
		{"driver", blk_driver_name(io->b)},
		{"filename", blk_filename(io->b)},
		{"file", ""},
		{"file.driver", blk_driver_name(file)},
		{"file.filename", blk_filename(file)},
	};

	if (!a->opts)
		return 0;
	if (a->cache_given && opts_has_prefix(a->opts, "cache."))
		return err_set(err, EINVAL, "Cannot set both -c and the cache options");
	for (size_t i = 0; i < ARRAY_LEN(fixed); i++) {
		const char *want = opts_peek(a->opts, fixed[i].key);

		if (want && strcmp(want, fixed[i].now))
			return cannot_change(fixed[i].key, err);
		opts_del(a->opts, fixed[i].key);
	}
	if (opts_take_bool(a->opts, "force-share", &want_share, err))
		return -EINVAL;
	return want_share == share ? 0 : cannot_change("force-share", err);
}

static int reopen(struct io *io, const struct reopen_args *a, struct err *err)
{
	struct io_source old = io->source, new = old;
	struct err back = ERR_INIT;
	int ret;

	memset(&io->source, 0, sizeof(io->source));
	new.name = old.name ? strdup(old.name) : NULL;
	new.opts = old.opts ? opts_dup(old.opts) : opts_new();
	new.flags = a->flags;
	if (a->opts)
		opts_merge(new.opts, a->opts, "");
	if (old.name && !new.name)
		ret = err_set(err, ENOMEM, "out of memory");
	else
		ret = close_file(io, err);
	if (!ret)
		ret = io_open(io, &new, err);
	if (ret && !io->b && io_open(io, &old, &back))
		tool_report(NULL, &back);
	io_source_clear(&new);
	io_source_clear(&old);
	return ret;
}

static int reopen_run(struct io *io, const struct io_command *cmd, int argc, char **argv)
{
	struct reopen_args a = {.flags = io->source.flags};
	struct err err = ERR_INIT;
	int c, ret = 0;

	while (!ret && (c = getopt(argc, argv, "rwc:o:")) != -1)
		ret = reopen_option(&a, cmd, c, &err);
	if (!ret && optind != argc)
		ret = io_usage(cmd);
	if (!ret)
		ret = take_read_only(&a, &err);
	if (!ret && io->source.snapshot)
		ret = err_set(&err, ENOTSUP, "an overlay of -s cannot be reopened");
	if (!ret)
		ret = check_changes(io, &a, &err);
	if (!ret)
		ret = reopen(io, &a, &err);
	if (err.code)
		tool_report(NULL, &err);
	opts_free(a.opts);
	return ret;
}

const struct io_command io_cmd_reopen = {
	.name = "reopen",
	.run = reopen_run,
	.args_max = -1,
	.args = "[(-r|-w)] [-c cache] [-o options]",
	.brief = "opens the image anew with other options",
	.help = " 'reopen -o lazy-refcounts=on' lets refcounts of a qcow2 image lag "
		"behind.\n\n"
		" -r, -- for reading only\n"
		" -w, -- for writing\n"
		" -c, -- cache mode, as of open -t\n"
		" -o, -- options of the drivers, added to those the image was opened "
		"with\n",
};
