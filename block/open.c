/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * How a tree of nodes is opened and closed.
 *
 *	blk_open → open_tree: one node (open_node), then its backing files, one after the
 * other open_node: options that every node has → which driver → attempt attempt: make the
 * node; where the format is to be probed, open the file and look; driver->open, which
 * opens its children through blk_open_child → open_tree
 *
 * 1. Nodes are made in the order parent, children, and freed children first.
 * 2. A node's options are its own copy. What no driver took is an error, after the open.
 * 3. Backing files are opened read-only, by a loop and not by recursion; a chain that
 * comes back to a file it has, or is longer than BLK_MAX_CHAIN, is an error. Children nest
 * no deeper than NESTING_MAX.
 * 4. Whoever opens passes an err; drivers may rely on it.
 */
#include <assert.h>
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/math.h"
#include "block/format.h"
#include "block/gate.h"

#define NESTING_MAX   16
#define NODE_NAME_MAX 31

/* What a parent's flags do not mean for its children: either the parent has done it, or
 * it is about the parent's own format. */
#define NOT_BELOW        (BLK_O_ZEROES | BLK_O_ZEROES_UNMAP | BLK_O_WRITETHROUGH)
#define NOT_FOR_CHILDREN (NOT_BELOW | BLK_O_NO_IO | BLK_O_CHECK)
#define NOT_FOR_BACKING                                                                  \
	(NOT_FOR_CHILDREN | BLK_O_RDWR | BLK_O_PROTOCOL | BLK_O_SHARE_WRITE)

/* What is to be opened. */
struct request {
	const char *name;  /* NULL: by options alone */
	char *name_buf;    /* where name is a copy of the option */
	struct opts *opts; /* the caller's; taken from */
	unsigned flags;
	const struct blk_driver *drv; /* NULL: to be found out */
	struct blk *parent;
	struct err *err;
};

/* ---- options that every node has ------------------------------------------------- */

static int take_flag(struct request *r, const char *key, unsigned flag)
{
	bool on = r->flags & flag;
	int ret = opts_take_bool(r->opts, key, &on, r->err);

	r->flags = on ? r->flags | flag : r->flags & ~flag;
	return ret;
}

static int take_read_only(struct request *r)
{
	bool on = false;
	int ret = opts_take_bool(r->opts, "read-only", &on, r->err);

	if (on) /* "off" gives no more than the caller asked for */
		r->flags &= ~(unsigned)BLK_O_RDWR;
	return ret;
}

static int take_discard(struct request *r)
{
	const char *word = opts_take(r->opts, "discard");

	if (!word)
		return 0;
	r->flags &= ~(unsigned)BLK_O_DISCARD;
	if (!strcmp(word, "unmap") || !strcmp(word, "on"))
		r->flags |= BLK_O_DISCARD;
	else if (strcmp(word, "ignore") && strcmp(word, "off"))
		return err_set(r->err, EINVAL, "Invalid discard option");
	return 0;
}

static int take_detect_zeroes(struct request *r)
{
	static const char *const words[] = {"off", "on", "unmap", NULL};
	static const unsigned flags[] = {
		0, BLK_O_ZEROES, BLK_O_ZEROES | BLK_O_ZEROES_UNMAP};
	int which = -1;
	int ret = opts_take_enum(r->opts, "detect-zeroes", words, &which, r->err);

	if (ret)
		return ret;
	if (which >= 0) {
		r->flags &= ~(unsigned)(BLK_O_ZEROES | BLK_O_ZEROES_UNMAP);
		r->flags |= flags[which];
	}
	if ((r->flags & BLK_O_ZEROES_UNMAP) && !(r->flags & BLK_O_DISCARD))
		return err_set(r->err, EINVAL,
			"setting detect-zeroes to unmap is not allowed without setting "
			"discard "
			"operation to unmap");
	return 0;
}

/* Nodes are not found by name here; a name must be one all the same. */
static int take_node_name(struct request *r)
{
	const char *name = opts_take(r->opts, "node-name");
	size_t len = name ? strlen(name) : 0;

	if (!name)
		return 0;
	if (len == 0 || len > NODE_NAME_MAX || !isalpha((unsigned char)name[0]))
		return err_set(r->err, EINVAL, "Invalid node-name: '%s'", name);
	for (size_t i = 0; i < len; i++)
		if (!isalnum((unsigned char)name[i]) && !strchr("-._", name[i]))
			return err_set(r->err, EINVAL, "Invalid node-name: '%s'", name);
	return 0;
}

static int take_driver(struct request *r)
{
	const char *name = opts_take(r->opts, "driver");

	if (!name)
		return 0;
	r->drv = blk_driver_find(name);
	if (!r->drv)
		return err_set(r->err, EINVAL, "Unknown driver '%s'", name);
	return 0;
}

static int take_common(struct request *r)
{
	int ret = take_driver(r);

	ret = ret ? ret : take_node_name(r);
	ret = ret ? ret : take_read_only(r);
	ret = ret ? ret : take_discard(r);
	ret = ret ? ret : take_detect_zeroes(r);
	ret = ret ? ret : take_flag(r, "cache.direct", BLK_O_DIRECT);
	ret = ret ? ret : take_flag(r, "cache.no-flush", BLK_O_NO_FLUSH);
	ret = ret ? ret : take_flag(r, "force-share", BLK_O_SHARE);
	if (!ret && (r->flags & BLK_O_SHARE) && (r->flags & BLK_O_RDWR))
		ret = err_set(r->err, EINVAL,
			"force-share=on can only be used with read-only images");
	return ret;
}

static int set_string(char **where, const char *text, struct err *err)
{
	*where = strdup(text);
	return *where ? 0 : err_errno(err, ENOMEM, "%s", text);
}

/* ---- which driver ---------------------------------------------------------------- */

/* A name becomes the options of a protocol driver. */
static int apply_name(struct request *r)
{
	const struct blk_driver *drv = r->drv;

	if (!r->name)
		return 0;
	if (opts_peek(r->opts, "filename"))
		return err_set(r->err, EINVAL,
			"'%s': a file name was given, and another with the option "
			"'filename'",
			r->name);
	if (drv->parse_name && blk_name_rest(drv, r->name) != r->name) {
		int ret = drv->parse_name(r->name, r->opts, r->err);

		return ret ? ret : take_driver(r);
	}
	opts_set(r->opts, "filename", blk_name_rest(drv, r->name));
	return 0;
}

/* Settles r->drv, or leaves it NULL for probing; puts the name where it belongs. */
static int choose_driver(struct request *r)
{
	bool by_file = opts_peek(r->opts, "file") || opts_has_prefix(r->opts, "file.");

	if (!r->drv && !r->name && opts_peek(r->opts, "filename")) {
		if (set_string(&r->name_buf, opts_peek(r->opts, "filename"), r->err))
			return -ENOMEM;
		r->name = r->name_buf;
		opts_del(r->opts, "filename");
	}
	if (!r->drv && !r->name && !by_file)
		return err_set(r->err, EINVAL, "Must specify either driver or file");
	if (!r->drv && r->name && (r->flags & BLK_O_PROTOCOL)) {
		r->drv = blk_driver_for_name(r->name);
		if (!r->drv)
			return err_set(r->err, EINVAL, "Unknown protocol '%.*s'",
				(int)strcspn(r->name, ":"), r->name);
	}
	if (r->drv && r->drv->kind == BLK_PROTOCOL) {
		if (!r->parent && !(r->flags & BLK_O_SOLE_WRITER))
			r->flags |= BLK_O_SHARE_WRITE;
		return apply_name(r);
	}
	if (r->name &&
		(opts_peek(r->opts, "file") || opts_peek(r->opts, "file.filename")))
		return err_set(r->err, EINVAL,
			"Can't specify 'file' and 'filename' options at the same time");
	if (r->name)
		opts_set(r->opts, "file.filename", r->name);
	return 0;
}

/* ---- one node -------------------------------------------------------------------- */

/* What people know the node by: the name given, without "file:", or the option. A path
 * that looks like a scheme is shown, and resolved against, as "./a:b". */
static int name_node(struct blk *b, const struct request *r)
{
	const char *name = r->name;
	bool protocol = r->drv && r->drv->kind == BLK_PROTOCOL;

	if (protocol && !(name && r->drv->parse_name))
		name = opts_peek(r->opts, "filename");
	if (!name)
		return 0;
	if (protocol && !r->drv->parse_name && !blk_name_is_path(name)) {
		b->filename = malloc(strlen(name) + 3);
		if (!b->filename)
			return err_errno(r->err, ENOMEM, "%s", name);
		strcpy(stpcpy(b->filename, "./"), name);
		return 0;
	}
	return set_string(&b->filename, name, r->err);
}

static struct blk *node_new(const struct request *r)
{
	struct blk *b = calloc(1, sizeof(*b));

	if (!b) {
		err_errno(r->err, ENOMEM, "node");
		return NULL;
	}
	b->flags = r->flags;
	b->drv = r->drv;
	if (r->parent)
		blk_node_join(b, r->parent);
	if (name_node(b, r)) {
		blk_node_free(b);
		return NULL;
	}
	return b;
}

int blk_reflag(struct blk *b, unsigned flags, struct err *err)
{
	unsigned old = b->flags;
	int ret;

	b->flags = (old & ~(unsigned)BLK_O_SHARE_WRITE) | (flags & BLK_O_SHARE_WRITE);
	if (b->flags == old)
		return 0;
	if (b->drv->reflag)
		ret = b->drv->reflag(b, err);
	else
		ret = b->file ? blk_reflag(b->file, flags, err) : 0;
	if (ret)
		b->flags = old;
	return ret;
}

/* Opens the file and looks what is in it. Whether others may write to it depends on that,
 * so for the look they may; the driver's blk_open_child then says how it is to be. */
static int probe(struct blk *b, struct request *r)
{
	int score, ret;

	b->file = blk_open_child(
		b, r->opts, "file", NULL, r->flags | BLK_O_SHARE_WRITE, r->err);
	if (!b->file)
		return -r->err->code;
	ret = blk_probe_node(b->file, &b->drv, &score, r->err);
	if (ret)
		return ret;
	b->probed = score == BLK_PROBE_ANY;
	return 0;
}

static int run_driver(struct blk *b, struct request *r)
{
	const char *file;
	int ret;

	if (b->drv->state_bytes) {
		b->state = calloc(1, b->drv->state_bytes);
		if (!b->state)
			return err_errno(r->err, ENOMEM, "%s", b->drv->name);
	}
	ret = b->drv->open(b, r->opts, r->err);
	if (ret) {
		assert(ret < 0 && r->err->code > 0);
		return ret;
	}
	assert(b->size <= BLK_MAX_SIZE);
	/* A format is known by the name of its file. */
	file = b->file && b->drv->kind != BLK_PROTOCOL ? b->file->filename : NULL;
	if (file) {
		free(b->filename);
		b->filename = NULL;
		ret = set_string(&b->filename, file, r->err);
	}
	if (!ret && blk_gate_new(b))
		ret = err_errno(r->err, ENOMEM, "%s", b->drv->name);
	if (ret && b->drv->close)
		b->drv->close(b);
	return ret;
}

static int check_options(const struct blk *b, const struct request *r)
{
	const char *key = opts_first_unused(r->opts);

	if (!key)
		return 0;
	if (b->drv->kind == BLK_PROTOCOL)
		return err_set(r->err, EINVAL,
			"Block protocol '%s' doesn't support the option '%s'",
			b->drv->name, key);
	return err_set(r->err, EINVAL,
		"Block format '%s' does not support the option '%s'", b->drv->name, key);
}

/* Makes the node that r describes; r->opts is used up. */
static struct blk *attempt(struct request *r)
{
	struct blk *b = node_new(r);

	if (!b)
		return NULL;
	if ((!b->drv && probe(b, r)) || run_driver(b, r)) {
		blk_close_children(b);
		blk_node_free(b);
		return NULL;
	}
	if (check_options(b, r)) {
		blk_close(b);
		return NULL;
	}
	return b;
}

static bool is_refused_writing(const struct err *err)
{
	return err->code == EACCES || err->code == EPERM || err->code == EROFS;
}

/* auto-read-only: what may not be written is opened to be read. */
static struct blk *attempt_twice(struct request *r)
{
	struct opts *first = r->opts, *again = opts_dup(r->opts);
	struct blk *b = attempt(r);

	if (!b && is_refused_writing(r->err)) {
		*r->err = (struct err)ERR_INIT;
		r->opts = again;
		r->flags &= ~(unsigned)BLK_O_RDWR;
		b = attempt(r);
		r->opts = first;
	}
	opts_free(again);
	return b;
}

static struct blk *open_node(struct request *r)
{
	bool twice = false;
	struct blk *b = NULL;
	int ret = take_common(r);

	ret = ret ? ret : opts_take_bool(r->opts, "auto-read-only", &twice, r->err);
	ret = ret ? ret : choose_driver(r);
	if (!ret)
		b = twice && (r->flags & BLK_O_RDWR) ? attempt_twice(r) : attempt(r);
	free(r->name_buf);
	r->name_buf = NULL;
	return b;
}

/* ---- backing files --------------------------------------------------------------- */

/* True where the options say what to open, and not only how. */
static bool names_a_place(const struct opts *o)
{
	const char *driver = opts_peek(o, "driver");
	const struct blk_driver *drv = driver ? blk_driver_find(driver) : NULL;

	return opts_peek(o, "filename") || opts_peek(o, "file") ||
	       opts_has_prefix(o, "file.") || (drv && drv->kind == BLK_PROTOCOL);
}

/* The one file is the other, by name or by where it lies. */
static bool same_file(const char *a, const char *b)
{
	struct stat sa, sb;

	if (!strcmp(a, b))
		return true;
	return blk_name_is_path(a) && blk_name_is_path(b) && !stat(a, &sa) &&
	       !stat(b, &sb) && sa.st_dev == sb.st_dev && sa.st_ino == sb.st_ino;
}

/* `n` is `count` nodes below `top`. Looks for n among what is above it. */
static int check_chain(
	const struct blk *top, const struct blk *n, unsigned count, struct err *err)
{
	if (count >= BLK_MAX_CHAIN)
		return err_set(err, ELOOP,
			"The chain of backing files is longer than %d images",
			BLK_MAX_CHAIN);
	for (const struct blk *b = top; b != n; b = b->backing)
		if (b->filename && n->filename && same_file(b->filename, n->filename))
			return err_set(err, ELOOP,
				"The chain of backing files comes back to '%s'",
				n->filename);
	return 0;
}

/* The driver that the image says its backing file has: a format, for a name that is a
 * path. */
static int state_format(
	const struct blk *b, struct opts *o, bool trusted, struct err *err)
{
	const struct blk_driver *drv;

	if (!b->backing_format || opts_peek(o, "driver"))
		return 0;
	drv = blk_driver_find(b->backing_format);
	if (!drv)
		return err_set(err, EINVAL, "Unknown driver '%s'", b->backing_format);
	if (!trusted && drv->kind != BLK_FORMAT && drv != blk_driver_for_name("path"))
		return err_set(err, EPERM,
			"The image says that its backing file is '%s', which is no "
			"format",
			b->backing_format);
	opts_set(o, "driver", b->backing_format);
	return 0;
}

/* What options say of a backing file. */
struct backing {
	struct opts *opts; /* backing.… */
	char *name;        /* backing=name; NULL: not given */
	bool none;         /* backing= */
};

static int take_backing(struct opts *o, struct backing *out, struct err *err)
{
	const char *name = opts_peek(o, "backing");

	*out = (struct backing){.none = name && !name[0]};
	if (name && name[0] && set_string(&out->name, name, err))
		return -ENOMEM;
	out->opts = opts_take_prefix(o, "backing.");
	opts_del(o, "backing");
	return 0;
}

static void backing_free(struct backing *w)
{
	opts_free(w->opts);
	free(w->name);
	*w = (struct backing){0};
}

/* Opens a node and hands out what its options say of its backing file. */
static struct blk *open_one(struct request *r, struct backing *w)
{
	const struct blk_format_ops *ops;
	struct blk *b;

	*w = (struct backing){0};
	if (take_backing(r->opts, w, r->err))
		return NULL;
	b = open_node(r);
	ops = b ? b->drv->format : NULL;
	if (b && (w->name || !opts_empty(w->opts)) && !b->backing_name &&
		!(ops && ops->set_backing)) {
		err_set(r->err, EINVAL, "Driver '%s' does not support backing files",
			b->drv->name);
		blk_close(b);
		b = NULL;
	}
	if (!b)
		backing_free(w);
	return b;
}

static bool wants_backing(const struct blk *b, const struct backing *w)
{
	if (w->none || (b->flags & (BLK_O_NO_BACKING | BLK_O_NO_IO)))
		return false;
	return b->backing_name || w->name || !opts_empty(w->opts);
}

/* The backing file of b as w has it, or else the image; not yet its own backing file,
 * which w is about afterwards. */
static struct blk *open_backing(struct blk *b, struct backing *w, struct err *err)
{
	bool trusted = b->flags & BLK_O_NAMES_TRUSTED;
	struct backing now = *w;
	struct request r = {
		.opts = now.opts,
		.flags = (b->flags & ~(unsigned)NOT_FOR_BACKING) | BLK_O_DISCARD |
			 BLK_O_BACKED,
		.err = err,
	};
	struct blk *backing = NULL;
	int ret = 0;

	*w = (struct backing){0};
	if (!now.name && !names_a_place(now.opts)) {
		if (b->backing_name)
			ret = blk_resolve_name(blk_filename(b), b->backing_name, trusted,
				&now.name, err);
		ret = ret ? ret : state_format(b, now.opts, trusted, err);
	}
	r.name = now.name;
	if (!ret)
		backing = open_one(&r, w);
	backing_free(&now);
	if (!backing)
		err_prefix(err, "Could not open backing file");
	return backing;
}

/* ---- trees ----------------------------------------------------------------------- */

/* A json: name becomes options; those given beside it win. */
static int apply_json(struct request *r)
{
	struct opts *o;
	int ret;

	if (!r->name || strncmp(r->name, "json:", 5))
		return 0;
	o = opts_new();
	ret = opts_parse_json(o, r->name + 5, r->err);
	if (ret) {
		err_prefix(r->err, "Could not parse the JSON options");
	} else {
		opts_merge(o, r->opts, "");
		opts_merge(r->opts, o, "");
		r->name = NULL;
	}
	opts_free(o);
	return ret;
}

static struct blk *open_tree(struct request *r)
{
	struct backing w = {0};
	struct blk *top, *b;
	unsigned count = 1;

	if (apply_json(r))
		return NULL;
	top = open_one(r, &w);
	for (b = top; b && wants_backing(b, &w); b = b->backing, count++) {
		b->backing = open_backing(b, &w, r->err);
		if (!b->backing || check_chain(top, b->backing, count, r->err)) {
			blk_close(top);
			top = NULL;
			break;
		}
	}
	backing_free(&w);
	return top;
}

static unsigned child_flags(const struct blk *parent, unsigned flags)
{
	bool filter = parent->drv && parent->drv->kind == BLK_FILTER;

	flags &= ~(unsigned)(filter ? NOT_BELOW : NOT_FOR_CHILDREN);
	if (!filter || (parent->flags & BLK_O_PROTOCOL))
		flags |= BLK_O_PROTOCOL;
	if (flags & BLK_O_SOLE_WRITER)
		flags &= ~(unsigned)BLK_O_SHARE_WRITE;
	return flags | BLK_O_DISCARD; /* the parent decides what is discarded */
}

static struct blk *open_child_tree(struct blk *parent, struct opts *opts,
	const char *prefix, const char *default_name, unsigned flags, struct err *err)
{
	struct request r = {.flags = flags, .parent = parent, .err = err};
	char dotted[64];
	struct blk *b = NULL;
	int n = snprintf(dotted, sizeof(dotted), "%s.", prefix);

	assert(n > 0 && (size_t)n < sizeof(dotted));
	r.name = opts_take(opts, prefix);
	r.opts = opts_take_prefix(opts, dotted);
	if (!r.name && !names_a_place(r.opts))
		r.name = default_name;
	if ((!r.name || !r.name[0]) && opts_empty(r.opts))
		err_set(err, EINVAL, "A block device must be specified for \"%s\"",
			prefix);
	else if (parent->nesting + 1 >= NESTING_MAX)
		err_set(err, ELOOP, "Nodes nest deeper than %d", NESTING_MAX);
	else
		b = open_tree(&r);
	opts_free(r.opts);
	return b;
}

struct blk *blk_open_child(struct blk *parent, struct opts *opts, const char *prefix,
	const char *default_name, unsigned flags, struct err *err)
{
	bool file = !strcmp(prefix, "file");
	struct blk *b;

	flags = child_flags(parent, flags);
	if (file && parent->file) /* opened to be probed */
		return blk_reflag(parent->file, flags, err) ? NULL : parent->file;
	b = open_child_tree(parent, opts, prefix, default_name, flags, err);
	if (file)
		parent->file = b;
	return b;
}

struct blk *blk_open(
	const char *filename, const struct opts *opts, unsigned flags, struct err *err)
{
	struct err unused = ERR_INIT;
	struct request r = {
		.name = filename,
		.opts = opts ? opts_dup(opts) : opts_new(),
		.flags = flags,
		.err = err ? err : &unused,
	};
	struct blk *b = open_tree(&r);

	assert(b || r.err->code > 0);
	opts_free(r.opts);
	return b;
}

struct blk *blk_open_format(
	const char *filename, const char *format, unsigned flags, struct err *err)
{
	struct opts *o = opts_new();
	struct blk *b;

	if (format)
		opts_set(o, "driver", format);
	b = blk_open(filename, o, flags, err);
	opts_free(o);
	return b;
}
