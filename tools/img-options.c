/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What several subcommands do with their options: the shared ones, creation options with
 * their help and types, and the snapshot parameter.
 */
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "base/math.h"
#include "base/size.h"
#include "block/driver.h"
#include "block/storage.h"
#include "tools/img.h"

int img_usage(const char *command, const char *fmt, ...)
{
	char msg[512];
	va_list ap;

	if (fmt) {
		va_start(ap, fmt);
		vsnprintf(msg, sizeof(msg), fmt, ap);
		va_end(ap);
		tool_error("%s", msg);
	}
	fprintf(stderr, "Try '%s%s%s --help' for more info\n", tool_name,
		command ? " " : "", command ? command : "");
	return 1;
}

int img_expect_names(const char *command, int argc, int n, const char *what)
{
	if (argc - optind == n)
		return 0;
	return img_usage(command, "Expecting %s", what);
}

static void print_help(const char *text)
{
	const char *mark;

	for (; (mark = strstr(text, "%s")); text = mark + 2) {
		fwrite(text, 1, (size_t)(mark - text), stdout);
		fputs(tool_name, stdout);
	}
	fputs(text, stdout);
}

static int take_output(struct img_common *common)
{
	if (!strcmp(optarg, "json"))
		common->json = true;
	else if (!strcmp(optarg, "human"))
		common->json = false;
	else
		return img_usage(common->command,
			"--output expects 'human' or 'json' not '%s'", optarg);
	return -1;
}

int img_common_option(struct img_common *common, int opt)
{
	int ret;

	switch (opt) {
	case 'h':
		print_help(common->help);
		return 0;
	case 'f':
		common->format = optarg;
		return -1;
	case 'T':
		common->cache = optarg;
		return -1;
	case 'q':
		common->quiet = true;
		return -1;
	case 'p':
		common->progress = true;
		return -1;
	case 'U':
		common->share = true;
		return -1;
	case IMG_OPT_IMAGE_OPTS:
		common->image_opts = true;
		return -1;
	case IMG_OPT_OUTPUT:
		return take_output(common);
	case IMG_OPT_OBJECT:
		ret = tool_add_object(optarg);
		return ret < 0 ? 1 : ret > 0 ? 0 : -1;
	default: /* getopt has said what it is */
		return img_usage(common->command, NULL);
	}
}

int img_check_image_opts(bool image_opts, const char *format)
{
	if (!image_opts || !format)
		return 0;
	tool_error("--image-opts and --format are mutually exclusive");
	return -EINVAL;
}

/*
 * Creation options.
 */

static const struct blk_create_opt *options_of(const struct blk_driver *drv)
{
	static const struct blk_create_opt none[] = {{NULL, NULL, NULL, NULL}};

	return drv && drv->format && drv->format->create_opts ? drv->format->create_opts
							      : none;
}

int img_target_find(
	const char *format, const char *filename, struct img_target *out, struct err *err)
{
	out->format = blk_driver_find(format);
	out->protocol = NULL;
	if (!out->format || out->format->kind == BLK_FILTER)
		return err_set(err, EINVAL, "Unknown file format '%s'", format);
	if (!out->format->format || !out->format->format->create)
		return err_set(err, EINVAL,
			"Format driver '%s' does not support image creation", format);
	if (!filename)
		return 0;
	out->protocol = blk_driver_for_name(filename);
	if (!out->protocol)
		return err_set(err, EINVAL, "Unknown protocol '%.*s'",
			(int)strcspn(filename, ":"), filename);
	if (out->protocol == out->format)
		out->protocol = NULL;
	return 0;
}

bool img_wants_help(const char *text)
{
	while (*text) {
		size_t n = strcspn(text, ",");

		if ((n == 4 && !strncmp(text, "help", n)) || (n == 1 && text[0] == '?'))
			return true;
		text += n;
		text += *text == ',';
	}
	return false;
}

static const struct blk_create_opt *find_option(
	const struct img_target *target, const char *name)
{
	const struct blk_create_opt *o;

	for (o = options_of(target->format); o->name; o++) {
		if (!strcmp(o->name, name))
			return o;
	}
	for (o = options_of(target->protocol); o->name; o++) {
		if (!strcmp(o->name, name))
			return o;
	}
	return NULL;
}

bool img_has_option(const struct img_target *target, const char *name)
{
	return find_option(target, name) != NULL;
}

int img_set_backing(const struct img_target *target, struct opts *opts, const char *name,
	const char *format, const char **out, struct err *err)
{
	if (name && !img_has_option(target, "backing_file"))
		return err_set(err, ENOTSUP,
			"Backing file not supported for file format '%s'",
			target->format->name);
	if (format && !img_has_option(target, "backing_fmt"))
		return err_set(err, ENOTSUP,
			"Backing format not supported for file format '%s'",
			target->format->name);
	if (name)
		opts_set(opts, "backing_file", name);
	if (format)
		opts_set(opts, "backing_fmt", format);
	*out = opts_peek(opts, "backing_file");
	if (*out && !**out)
		return err_set(
			err, EINVAL, "Expected backing file name, got empty string");
	return 0;
}

/* Every option once, in the order of the tables, the format's first. */
static size_t all_options(
	const struct img_target *target, const struct blk_create_opt ***out)
{
	const struct blk_create_opt *tables[2] = {
		options_of(target->format), options_of(target->protocol)};
	const struct blk_create_opt **list = NULL;
	size_t n = 0, size = 0;

	for (size_t t = 0; t < 2; t++) {
		for (const struct blk_create_opt *o = tables[t]; o->name; o++)
			size++;
	}
	list = calloc(size + 1, sizeof(*list));
	for (size_t t = 0; list && t < 2; t++) {
		for (const struct blk_create_opt *o = tables[t]; o->name; o++) {
			if (find_option(target, o->name) == o)
				list[n++] = o;
		}
	}
	*out = list;
	return n;
}

static int by_name(const void *a, const void *b)
{
	const struct blk_create_opt *const *x = a, *const *y = b;

	return strcmp((*x)->name, (*y)->name);
}

void img_print_options(const struct img_target *target)
{
	const struct blk_create_opt **list;
	size_t n = all_options(target, &list);

	if (target->protocol)
		printf("Supported options:\n");
	else
		printf("Supported %s options:\n", target->format->name);
	if (n)
		qsort(list, n, sizeof(*list), by_name);
	for (size_t i = 0; i < n; i++) {
		int width = printf("  %s=<%s>", list[i]->name, list[i]->type);

		printf("%*s - %s\n", width < 24 ? 24 - width : 0, "", list[i]->help);
	}
	if (!target->protocol && target->format->kind == BLK_FORMAT)
		printf("\nThe protocol level may support further options.\n"
		       "Specify the target filename to include those options.\n");
	free(list);
}

/* A comma at either end that is not half of a doubled one leaves an option without a
 * name. */
static bool is_option_list(const char *text)
{
	size_t n = strlen(text), lead = strspn(text, ","), tail = 0;

	while (tail < n && text[n - 1 - tail] == ',')
		tail++;
	return n && !(lead & 1) && !(tail & 1);
}

int img_parse_options(struct opts *opts, const char *text)
{
	struct err err = ERR_INIT;

	if (!is_option_list(text))
		err_set(&err, EINVAL, "Invalid option list: %s", text);
	else if (!opts_parse(opts, text, NULL, &err))
		return 0;
	tool_report(NULL, &err);
	return -EINVAL;
}

struct check_state {
	const struct img_target *target;
	struct opts *out;
	struct err *err;
	int ret;
};

static int check_bool(const struct opts *opts, const char *name, struct err *err)
{
	struct opts *copy = opts_dup(opts);
	bool unused = false;
	int ret = opts_take_bool(copy, name, &unused, err);

	opts_free(copy);
	return ret;
}

static int check_value(const struct blk_create_opt *o, const char *value,
	struct opts *out, struct err *err)
{
	uint64_t n;

	if (!strcmp(o->type, "size")) {
		if (size_parse(value, 'B', NULL, &n))
			return err_set(err, EINVAL,
				"Parameter '%s' expects a non-negative number below 2^63 "
				"with an "
				"optional suffix k, M, G, T, P or E, not '%s'",
				o->name, value);
		opts_setf(out, o->name, "%" PRIu64, n);
		return 0;
	}
	if (!strcmp(o->type, "num")) {
		if (u64_parse(value + strspn(value, " \t+"), &n))
			return err_set(
				err, EINVAL, "Parameter '%s' expects a number", o->name);
		opts_setf(out, o->name, "%" PRIu64, n);
		return 0;
	}
	/* Words keep their spelling, for the line that says what is made. */
	opts_set(out, o->name, value);
	return strncmp(o->type, "bool", 4) ? 0 : check_bool(out, o->name, err);
}

static void check_option(const char *key, const char *value, void *arg)
{
	struct check_state *s = arg;
	const struct blk_create_opt *o = find_option(s->target, key);

	if (s->ret < 0)
		return;
	s->ret = o ? check_value(o, value, s->out, s->err)
		   : err_set(s->err, EINVAL, "Invalid parameter '%s'", key);
}

int img_check_options(const struct img_target *target, struct opts *opts, struct err *err)
{
	struct opts *checked = opts_new();
	struct check_state s = {target, checked, err, 0};

	opts_each(opts, check_option, &s);
	if (!s.ret)
		opts_merge(opts, checked, "");
	opts_free(checked);
	return s.ret;
}

void img_print_formatting(const char *filename, const char *format,
	const struct img_target *target, const struct opts *opts)
{
	const struct blk_create_opt **list;
	size_t n = all_options(target, &list);

	printf("Formatting '%s', fmt=%s", filename, format);
	for (size_t i = 0; i < n; i++) {
		const char *value = opts_peek(opts, list[i]->name);

		if (!value)
			value = list[i]->def;
		if (!value)
			continue;
		printf(" %s=", list[i]->name);
		for (; *value; value++) {
			/* As it would have to be given again. */
			if (*value == ',')
				putchar(',');
			putchar(*value);
		}
	}
	printf("\n");
	fflush(stdout);
	free(list);
}

char *img_local_path(const char *filename)
{
	size_t word = strcspn(filename, ":/");

	if (!strncmp(filename, "file:", 5))
		return strdup(filename + 5);
	return filename[word] == ':' ? NULL : strdup(filename);
}

/* Nothing is read, so it may be in use, and needs no passphrase. */
#define LOOK (BLK_O_NO_IO | BLK_O_NO_BACKING | BLK_O_SHARE)

struct img_place img_look_at_place(const char *filename)
{
	struct img_place p = {.path = img_local_path(filename)};
	struct err err = ERR_INIT;

	if (!p.path)
		p.node = blk_open_format(filename, "raw", LOOK, &err);
	return p;
}

void img_leave_place(struct img_place *p)
{
	free(p->path);
	blk_close(p->node);
	*p = (struct img_place){0};
}

bool img_is_place_of(const struct img_place *p, struct blk *b)
{
	return (p->path && blk_uses_file(b, p->path)) ||
	       (p->node && blk_is_read_through(b, p->node));
}

static int same_name(struct err *err)
{
	return err_set(err, EINVAL,
		"Error: Trying to create an image with the same filename as the backing "
		"file");
}

static bool is_same_path(const char *a, const char *b)
{
	struct stat sa, sb;

	return !stat(a, &sa) && !stat(b, &sb) && sa.st_dev == sb.st_dev &&
	       sa.st_ino == sb.st_ino;
}

/* One step down the chain; b stays open. */
static struct blk *open_next(const struct blk *b, struct err *err)
{
	struct blk *next = NULL;
	char *path;

	if (!blk_resolve_name(blk_filename(b), blk_backing_name(b), false, &path, err)) {
		next = blk_open_format(path, blk_backing_format(b), LOOK, err);
		free(path);
	}
	if (!next)
		err_prefix(err, "Could not open backing file");
	return next;
}

/* The backing files below b are there, and none lies at the target's place. */
static int check_below(
	const struct blk *b, const struct img_place *target, struct err *err)
{
	struct blk *opened = NULL;
	int ret = 0;

	for (int n = 0; ret == 0 && blk_backing_name(b); n++) {
		struct blk *next = n < BLK_MAX_CHAIN ? open_next(b, err) : NULL;

		if (n == BLK_MAX_CHAIN)
			ret = err_set(err, ELOOP,
				"The chain of backing files is longer than %d images",
				BLK_MAX_CHAIN);
		else if (!next)
			ret = -err->code;
		else if (img_is_place_of(target, next))
			ret = same_name(err);
		blk_close(opened);
		b = opened = next;
	}
	blk_close(opened);
	return ret;
}

int img_open_backing(const char *filename, const char *name, const char *format,
	struct blk **out, struct err *err)
{
	struct img_place target = {.path = img_local_path(filename)};
	struct blk *b = NULL;
	char *path = NULL;
	int ret = blk_resolve_name(filename, name, true, &path, err);

	if (!ret && (!strcmp(name, filename) ||
			    (target.path && is_same_path(path, target.path))))
		ret = same_name(err);
	if (!ret && out && !(b = blk_open_format(path, format, LOOK, err))) {
		ret = -err->code;
		if (!err->hint[0])
			err_hint(err, "Could not open backing image.");
	}
	if (!ret && b && !target.path)
		target = img_look_at_place(filename);
	if (!ret && b && img_is_place_of(&target, b))
		ret = same_name(err);
	if (!ret && b)
		ret = check_below(b, &target, err);
	if (ret) {
		blk_close(b);
		b = NULL;
	}
	if (out)
		*out = b;
	img_leave_place(&target);
	free(path);
	return ret;
}

int img_make(const char *filename, const char *format, struct opts *opts, struct err *err)
{
	char *path = img_local_path(filename);
	struct stat st;
	int ret;

	if (path && lstat(path, &st) < 0)
		tool_tell_on_signal(path, true);
	else if (path)
		tool_tell_on_signal(path, false);
	ret = blk_create(filename, format, opts, err);
	tool_tell_on_signal(NULL, false);
	free(path);
	return ret;
}

/*
 * Snapshots.
 */

static int find_snapshot(
	struct blk *b, const char *id, const char *name, char **found, struct err *err)
{
	struct blk_snapshot *list = NULL;
	size_t n = 0, i;
	int ret = blk_snapshot_list(b, &list, &n, err);

	if (ret < 0)
		return ret;
	for (i = 0; i < n; i++) {
		if ((!id || !strcmp(list[i].id, id)) &&
			(!name || !strcmp(list[i].name, name)))
			break;
	}
	if (i < n)
		*found = strdup(list[i].id);
	blk_snapshots_free(list, n);
	return i < n ? (*found ? 0 : -ENOMEM)
		     : err_set(err, ENOENT, "Can't find snapshot");
}

static int parse_snapshot(struct opts *opts, const char *param, const char **id,
	const char **name, struct err *err)
{
	int ret = opts_parse(opts, param, NULL, err);

	if (ret < 0)
		return ret;
	*id = opts_take(opts, "snapshot.id");
	*name = opts_take(opts, "snapshot.name");
	ret = opts_check_unused(opts, err);
	if (!ret && !*id && !*name)
		ret = err_set(
			err, EINVAL, "neither snapshot.id nor snapshot.name is given");
	return ret;
}

int img_load_snapshot(struct blk *b, const char *param)
{
	struct opts *opts = opts_new();
	const char *id = NULL, *name = NULL;
	struct err err = ERR_INIT;
	char *found = NULL;
	int ret;

	if (strncmp(param, "snapshot.", 9)) {
		ret = blk_snapshot_load(b, param, &err);
	} else {
		ret = parse_snapshot(opts, param, &id, &name, &err);
		if (ret < 0) {
			tool_report(NULL, &err);
			tool_error("Failed in parsing snapshot param '%s'", param);
			goto out;
		}
		ret = find_snapshot(b, id, name, &found, &err);
		if (!ret)
			ret = blk_snapshot_load(b, found, &err);
	}
	if (ret < 0)
		tool_error("%s: Failed to load snapshot: %s ('%s')", blk_filename(b),
			err.msg, param);
out:
	free(found);
	opts_free(opts);
	return ret;
}

static void print_snapshot(const struct blk_snapshot *s)
{
	time_t sec = (time_t)s->date_sec;
	uint64_t clock = s->vm_clock_nsec / 1000000000;
	char date[32] = "", size[32], vm_clock[48], icount[24] = "--";
	struct tm tm;

	if (localtime_r(&sec, &tm))
		strftime(date, sizeof(date), "%Y-%m-%d %H:%M:%S", &tm);
	snprintf(vm_clock, sizeof(vm_clock), "%04" PRIu64 ":%02u:%02u.%03u", clock / 3600,
		(unsigned)(clock / 60 % 60), (unsigned)(clock % 60),
		(unsigned)(s->vm_clock_nsec / 1000000 % 1000));
	if (s->icount != UINT64_MAX)
		snprintf(icount, sizeof(icount), "%" PRIu64, s->icount);
	tool_line(stdout, "%-7s %-16s %8s %19s %15s %10s", s->id, s->name,
		size_human(size, sizeof(size), s->vm_state_bytes), date, vm_clock,
		icount);
}

void img_print_snapshots(const struct blk_snapshot *list, size_t n)
{
	if (!n)
		return;
	printf("Snapshot list:\n");
	printf("%-7s %-16s %8s %19s %15s %10s\n", "ID", "TAG", "VM_SIZE", "DATE",
		"VM_CLOCK", "ICOUNT");
	for (size_t i = 0; i < n && !tool_check_stdout(); i++)
		print_snapshot(&list[i]);
}
