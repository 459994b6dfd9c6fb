/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What only formats can do: finding the operation, through filters, and saying which
 * format has none. Creating an image is three steps, so that a file that is there is
 * touched only when what can be checked has been checked:
 *
 *	names and types of the options → the protocol makes an empty file → the format
 * fills it
 *
 * A file that this made is removed when a later step fails; one that was there is left.
 */
#include "block/format.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/json.h"
#include "base/math.h"
#include "base/size.h"
#include "block/gate.h"

const char *const blk_prealloc_names[] = {"off", "metadata", "falloc", "full", NULL};

/* ---- finding the operation ------------------------------------------------------- */

static struct blk *format_of(struct blk *b)
{
	while (b->drv->kind == BLK_FILTER && b->file)
		b = b->file;
	return b;
}

/* Never NULL: drivers without the table have no operation in it. */
static const struct blk_format_ops *ops_of(const struct blk *b)
{
	static const struct blk_format_ops none;

	return b->drv->format ? b->drv->format : &none;
}

static int cannot(const struct blk *b, const char *what, struct err *err)
{
	return err_set(
		err, ENOTSUP, "driver '%s' does not support %s", b->drv->name, what);
}

/* ---- creating -------------------------------------------------------------------- */

static const struct blk_create_opt *find_opt(
	const struct blk_driver *drv, const char *name)
{
	const struct blk_create_opt *o = drv->format ? drv->format->create_opts : NULL;

	for (; o && o->name; o++)
		if (!strcmp(o->name, name))
			return o;
	return NULL;
}

/* Reads a value by its type and forgets it: the driver will read it again. */
static int check_value(const struct blk_create_opt *o, const char *key, const char *value,
	struct err *err)
{
	struct opts *one = opts_new();
	uint64_t n;
	bool flag;
	int ret = 0;

	opts_set(one, key, value);
	if (!strcmp(o->type, "size"))
		ret = opts_take_size(one, key, &n, err);
	else if (!strcmp(o->type, "num"))
		ret = opts_take_u64(one, key, &n, err);
	else if (!strncmp(o->type, "bool", 4))
		ret = opts_take_bool(one, key, &flag, err);
	opts_free(one);
	return ret;
}

/* Sorts options into those of the format and those that only the protocol knows. */
struct sorting {
	const struct blk_driver *drv, *proto;
	struct opts *for_proto;
	struct err *err;
	int ret;
};

static void sort_option(const char *key, const char *value, void *arg)
{
	struct sorting *s = arg;
	const struct blk_create_opt *o = find_opt(s->drv, key);
	const struct blk_create_opt *p = find_opt(s->proto, key);

	if (s->ret)
		return;
	if (o || p)
		s->ret = check_value(o ? o : p, key, value, s->err);
	else if (strcmp(key, "size"))
		s->ret = err_set(s->err, EINVAL, "Invalid parameter '%s'", key);
	if (!s->ret && p && !o)
		opts_set(s->for_proto, key, value);
}

/* Options are moved once the walk over them is done. */
static void move_option(const char *key, const char *value, void *arg)
{
	(void)value;
	opts_del(arg, key);
}

/* The protocol node of a file. */
static struct blk *open_alone(const char *filename, unsigned flags, struct err *err)
{
	return blk_open(filename, NULL, flags | BLK_O_PROTOCOL | BLK_O_SOLE_WRITER, err);
}

/* What somebody uses is refused here, before it is truncated. */
static int look_before(const char *filename, struct err *err)
{
	struct err why = ERR_INIT;
	struct blk *b = open_alone(filename, BLK_O_RDWR, &why);

	blk_close(b);
	if (b || why.code != EAGAIN)
		return 0; /* any other fault create will meet again */
	*err = why;
	return -EAGAIN;
}

static int fill(const char *filename, const struct blk_driver *drv, struct opts *opts,
	struct err *err)
{
	struct blk *file = open_alone(filename, BLK_O_RDWR | BLK_O_DISCARD, err);
	int ret, closed;

	if (!file)
		return -err->code;
	ret = drv->format->create(filename, file, opts, err);
	assert(ret <= 0 && (!ret || err->code > 0));
	if (!ret)
		ret = opts_check_unused(opts, err);
	closed = blk_close(file);
	if (!ret && closed)
		ret = err_errno(err, -closed, "Could not write out '%s'", filename);
	return ret;
}

static int create_two(const char *filename, const struct blk_driver *drv,
	const struct blk_driver *proto, struct opts *opts, struct opts *for_proto,
	struct err *err)
{
	const char *rest = proto->parse_name ? filename : blk_name_rest(proto, filename);
	struct opts *dry = opts_dup(opts);
	int ret = drv->format->create(filename, NULL, dry, err);

	if (!ret)
		ret = opts_check_unused(dry, err);
	opts_free(dry);
	if (!ret)
		ret = look_before(filename, err);
	if (ret)
		return ret;
	opts_set(for_proto, "size", "0");
	ret = proto->format->create(rest, NULL, for_proto, err);
	if (ret)
		return ret;
	/* From here on what was there before, if anything, is gone: a half-made image does
	 * not take its place. */
	ret = fill(filename, drv, opts, err);
	if (ret && proto->format->remove)
		proto->format->remove(rest);
	return ret;
}

static bool can_create(const struct blk_driver *drv)
{
	return drv->format && drv->format->create;
}

static int create(
	const char *filename, const char *format, struct opts *opts, struct err *err)
{
	const struct blk_driver *drv = blk_driver_find(format);
	const struct blk_driver *proto = blk_driver_for_name(filename);
	struct sorting s = {.drv = drv, .proto = proto, .err = err};

	if (!drv)
		return err_set(err, EINVAL, "Unknown file format '%s'", format);
	if (!can_create(drv))
		return err_set(err, ENOTSUP,
			"Format driver '%s' does not support image creation", format);
	if (!proto)
		return err_set(err, EINVAL, "Unknown protocol '%.*s'",
			(int)strcspn(filename, ":"), filename);
	if (!can_create(proto))
		return err_set(err, ENOTSUP,
			"Protocol driver '%s' does not support image creation",
			proto->name);
	s.for_proto = opts_new();
	opts_each(opts, sort_option, &s);
	if (!s.ret && drv->kind == BLK_PROTOCOL) {
		s.ret = drv->format->create(
			blk_name_rest(drv, filename), NULL, opts, err);
		s.ret = s.ret ? s.ret : opts_check_unused(opts, err);
	} else if (!s.ret) {
		opts_each(s.for_proto, move_option, opts);
		s.ret = create_two(filename, drv, proto, opts, s.for_proto, err);
	}
	opts_free(s.for_proto);
	return s.ret;
}

int blk_create(
	const char *filename, const char *format, struct opts *opts, struct err *err)
{
	struct err unused = ERR_INIT;

	return create(filename, format, opts, err ? err : &unused);
}

#define CLEAR_BYTES (64u << 10)

int blk_create_on_device(const char *filename, struct opts *opts, struct err *err)
{
	uint64_t bytes = 0, there;
	struct blk *b;
	int ret = opts_take_size(opts, "size", &bytes, err), closed;

	if (ret)
		return ret;
	b = open_alone(filename, BLK_O_RDWR, err);
	if (!b)
		return -err->code;
	there = blk_size(b);
	if (bytes > there)
		ret = err_set(err, ENOSPC,
			"'%s' has %" PRIu64 " bytes, and cannot be made %" PRIu64,
			filename, there, bytes);
	else if ((ret = blk_zero(b, 0, MIN(there, (uint64_t)CLEAR_BYTES), 0)))
		err_errno(err, -ret, "Could not clear the start of '%s'", filename);
	closed = blk_close(b);
	if (!ret && closed)
		ret = err_errno(err, -closed, "Could not write out '%s'", filename);
	return ret;
}

int blk_measure(const char *format, struct opts *opts, struct blk *src,
	struct blk_measure *out, struct err *err)
{
	const struct blk_driver *drv = blk_driver_find(format);
	struct blk_measure m = {0};
	int ret;

	if (!drv)
		return err_set(err, EINVAL, "Unknown file format '%s'", format);
	if (!drv->format || !drv->format->measure)
		return err_set(err, ENOTSUP,
			"Block driver '%s' does not support size measurement", format);
	ret = drv->format->measure(opts, src, &m, err);
	ret = ret ? ret : opts_check_unused(opts, err);
	if (!ret)
		*out = m;
	return ret;
}

/* ---- checking -------------------------------------------------------------------- */

int blk_check(struct blk *b, struct blk_check *c, unsigned fix, struct err *err)
{
	b = format_of(b);
	if (!ops_of(b)->check)
		return err_set(err, ENOTSUP, "This image format does not support checks");
	if (fix && blk_read_only(b))
		return err_set(err, EACCES, "Block node is read-only");
	return ops_of(b)->check(b, c, fix, err);
}

/* ---- snapshots ------------------------------------------------------------------- */

int blk_snapshot_list(
	struct blk *b, struct blk_snapshot **list, size_t *n, struct err *err)
{
	b = format_of(b);
	if (!ops_of(b)->snapshot_list)
		return cannot(b, "snapshots", err);
	*list = NULL;
	*n = 0;
	return ops_of(b)->snapshot_list(b, list, n, err);
}

void blk_snapshots_free(struct blk_snapshot *list, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		free(list[i].id);
		free(list[i].name);
	}
	free(list);
}

struct json *blk_snapshot_facts(const struct blk_snapshot *s)
{
	struct json *o = json_new_object();

	if (s->icount != UINT64_MAX)
		json_put_int(o, "icount", (int64_t)s->icount);
	json_put_int(o, "vm-clock-nsec", (int64_t)(s->vm_clock_nsec % 1000000000));
	json_put_string(o, "name", s->name);
	json_put_int(o, "date-sec", s->date_sec);
	json_put_int(o, "date-nsec", s->date_nsec);
	json_put_int(o, "vm-clock-sec", (int64_t)(s->vm_clock_nsec / 1000000000));
	json_put_string(o, "id", s->id);
	json_put_int(o, "vm-state-size", (int64_t)s->vm_state_bytes);
	return o;
}

/* The node that has the operation and may be written, flushed so that the snapshot is of
 * what was said to be written. */
static int prepare_change(struct blk *b, struct err *err)
{
	int ret;

	if (blk_read_only(b))
		return err_set(err, EACCES, "Block node is read-only");
	ret = blk_flush(b);
	return ret ? err_errno(err, -ret, "Could not flush '%s'", blk_filename(b)) : 0;
}

int blk_snapshot_create_with(struct blk *b, const char *name, uint64_t vm_state_bytes,
	uint64_t vm_clock_nsec, struct err *err)
{
	struct blk_snapshot what = {.name = (char *)(uintptr_t)name,
		.vm_state_bytes = vm_state_bytes,
		.vm_clock_nsec = vm_clock_nsec,
		.icount = 0}; /* as the peer's tool: no instruction was counted */
	struct timespec now;
	int ret;

	b = format_of(b);
	if (!ops_of(b)->snapshot_create)
		return cannot(b, "snapshots", err);
	ret = prepare_change(b, err);
	if (ret)
		return ret;
	clock_gettime(CLOCK_REALTIME, &now);
	what.date_sec = (uint32_t)now.tv_sec;
	what.date_nsec = (uint32_t)now.tv_nsec;
	what.disk_bytes = blk_size(b);
	return ops_of(b)->snapshot_create(b, &what, err);
}

int blk_snapshot_create(struct blk *b, const char *name, struct err *err)
{
	return blk_snapshot_create_with(b, name, 0, 0, err);
}

int blk_snapshot_apply(
	struct blk *b, const char *id_or_name, bool *changed, struct err *err)
{
	int ret;

	*changed = false;
	b = format_of(b);
	if (!ops_of(b)->snapshot_apply)
		return cannot(b, "snapshots", err);
	ret = prepare_change(b, err);
	return ret ? ret : ops_of(b)->snapshot_apply(b, id_or_name, changed, err);
}

static int delete_snapshot(
	struct blk *b, const char *id_or_name, bool id_first, struct err *err)
{
	int ret;

	b = format_of(b);
	if (!ops_of(b)->snapshot_delete)
		return cannot(b, "snapshots", err);
	ret = prepare_change(b, err);
	return ret ? ret : ops_of(b)->snapshot_delete(b, id_or_name, id_first, err);
}

int blk_snapshot_delete(struct blk *b, const char *id_or_name, struct err *err)
{
	return delete_snapshot(b, id_or_name, false, err);
}

int blk_snapshot_delete_id(struct blk *b, const char *id, struct err *err)
{
	return delete_snapshot(b, id, true, err);
}

int blk_snapshot_load(struct blk *b, const char *id_or_name, struct err *err)
{
	b = format_of(b);
	if (!ops_of(b)->snapshot_load)
		return cannot(b, "snapshots", err);
	if (!blk_read_only(b))
		return err_set(err, EINVAL,
			"A snapshot can be looked at only in an image opened read-only");
	return ops_of(b)->snapshot_load(b, id_or_name, err);
}

int blk_vm_state_read(struct blk *b, uint64_t offset, const struct iovec *iov, int niov)
{
	b = format_of(b);
	return ops_of(b)->vm_state_read ? ops_of(b)->vm_state_read(b, offset, iov, niov)
					: -ENOTSUP;
}

int blk_vm_state_write(struct blk *b, uint64_t offset, const struct iovec *iov, int niov)
{
	b = format_of(b);
	if (blk_read_only(b))
		return -EACCES;
	return ops_of(b)->vm_state_write ? ops_of(b)->vm_state_write(b, offset, iov, niov)
					 : -ENOTSUP;
}

int blk_vm_state_of(struct blk *b, const char *id_or_name, uint64_t offset,
	const struct iovec *iov, int niov)
{
	b = format_of(b);
	return ops_of(b)->vm_state_of
		       ? ops_of(b)->vm_state_of(b, id_or_name, offset, iov, niov)
		       : -ENOTSUP;
}

int blk_vm_state_forget(struct blk *b)
{
	b = format_of(b);
	if (blk_read_only(b))
		return -EACCES;
	return ops_of(b)->vm_state_forget ? ops_of(b)->vm_state_forget(b) : -ENOTSUP;
}

/* ---- telling about itself -------------------------------------------------------- */

struct json *blk_format_info(struct blk *b)
{
	b = format_of(b);
	return ops_of(b)->info ? ops_of(b)->info(b) : NULL;
}

void blk_traits(struct blk *b, uint32_t *cluster_bytes, bool *dirty, bool *encrypted)
{
	uint32_t cluster = 0;
	bool is_dirty = false, is_encrypted = false;

	b = format_of(b);
	if (ops_of(b)->traits)
		ops_of(b)->traits(b, &cluster, &is_dirty, &is_encrypted);
	if (cluster_bytes)
		*cluster_bytes = cluster;
	if (dirty)
		*dirty = is_dirty;
	if (encrypted)
		*encrypted = is_encrypted;
}

int64_t blk_allocated(struct blk *b)
{
	int64_t bytes, data = 0;

	if (b->drv->allocated)
		return b->drv->allocated(b);
	if (!b->file)
		return -ENOTSUP;
	bytes = blk_allocated(b->file);
	if (b->data_file)
		data = blk_allocated(b->data_file);
	return bytes < 0 ? bytes : data < 0 ? data : bytes + data;
}
