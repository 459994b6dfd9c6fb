/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The subcommands of byre-img: each is a function over its own argv (argv[0] is
 * "byre-img COMMAND", which getopt begins its messages with) that returns the exit code.
 */
#ifndef BYRE_TOOLS_IMG_H
#define BYRE_TOOLS_IMG_H

#include <getopt.h>
#include <stdbool.h>
#include <stdio.h>

#include "base/opts.h"
#include "block/format.h"
#include "tools/common.h"

int img_check(int argc, char **argv);
int img_compare(int argc, char **argv);
int img_convert(int argc, char **argv);
int img_create(int argc, char **argv);
int img_info(int argc, char **argv);
int img_lock(int argc, char **argv);
int img_map(int argc, char **argv);
int img_measure(int argc, char **argv);
int img_resize(int argc, char **argv);
int img_snapshot(int argc, char **argv);

/*
 * Options that mean the same everywhere.
 */

enum img_long_option {
	IMG_OPT_OBJECT = 256,
	IMG_OPT_IMAGE_OPTS,
	IMG_OPT_OUTPUT,
	IMG_OPT_FIRST, /* a command's own begin here */
};

/* What the shared options have set so far. */
struct img_common {
	const char *command; /* its name, for messages */
	const char *help;    /* its help text; %s stands for the program's name */
	const char *format;  /* -f */
	const char *cache;   /* -T; NULL: default */
	bool image_opts, quiet, progress, share, json;
};

/* Handles a shared option. -1: go on; >= 0: leave with this exit code. Also what getopt
 * found wrong. */
int img_common_option(struct img_common *common, int opt);

/* Says what is wrong with the arguments, and where help is to be had. Returns 1. */
int img_usage(const char *command, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
/* Exactly `n` names have to be left; "what" is "one image file name". 0 or exit code. */
int img_expect_names(const char *command, int argc, int n, const char *what);
/* --image-opts and -f exclude each other. 0 or -EINVAL after saying so. */
int img_check_image_opts(bool image_opts, const char *format);

/*
 * Creation options: -o, help, and the line that says what is being made.
 */

struct blk_driver;

/* Who takes options for a new image: the format, and the protocol its file lives on. */
struct img_target {
	const struct blk_driver *format;
	const struct blk_driver *protocol; /* NULL: no file name yet */
};

/* -EINVAL with err set where one is not known. filename may be NULL. */
int img_target_find(const char *format, const char *filename, struct img_target *out,
	struct err *err);
/* True where "help" or "?" is among the options of text. */
bool img_wants_help(const char *text);
void img_print_options(const struct img_target *target);
/* Adds one -o argument. -EINVAL after saying why. */
int img_parse_options(struct opts *opts, const char *text);
/* Each option must be known and of its type; sizes become plain numbers of bytes. */
int img_check_options(
	const struct img_target *target, struct opts *opts, struct err *err);
bool img_has_option(const struct img_target *target, const char *name);
/* "Formatting 'x', fmt=… size=…". */
void img_print_formatting(const char *filename, const char *format,
	const struct img_target *target, const struct opts *opts);
/* A local file under this name as a path, owned by the caller; NULL for anything else. */
char *img_local_path(const char *filename);

/* Where a name leads: to a local file, or by a URL to one that is there (then it is opened, for
 * nothing but being looked at). Both NULL: nowhere yet. */
struct img_place {
	char *path;
	struct blk *node;
};
struct img_place img_look_at_place(const char *filename);
void img_leave_place(struct img_place *p);
/* Whether b, or anything that it is read through, lies there. */
bool img_is_place_of(const struct img_place *p, struct blk *b);

/* A backing file's name and format, as arguments give them (NULL: not), into the options that say the
 * same; *out is the name that stands there then, NULL: none. */
int img_set_backing(const struct img_target *target, struct opts *opts, const char *name,
	const char *format, const char **out, struct err *err);
/* Looks at the backing file `name` of an image to be made: that it, and what lies below it,
 * is not the new image's own file, and that it opens. *out is the caller's to close; out
 * NULL: it need not be there. */
int img_open_backing(const char *filename, const char *name, const char *format,
	struct blk **out, struct err *err);

/* blk_create, with a file that was not there before removed should a signal end it. */
int img_make(
	const char *filename, const char *format, struct opts *opts, struct err *err);

/* The disk as snapshot `param` saw it ("ID_OR_NAME" or "snapshot.id=…,snapshot.name=…").
 * -errno after saying why. */
int img_load_snapshot(struct blk *b, const char *param);
void img_print_snapshots(const struct blk_snapshot *list, size_t n);

#endif
