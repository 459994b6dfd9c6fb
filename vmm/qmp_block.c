/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Commands about disks: what they are, what they did, their size, their limits, and snapshots of
 * one alone. A disk is named by its id or by that of its image.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/math.h"
#include "base/task.h"
#include "block/format.h"
#include "vmm/qmp_impl.h"

struct disk *qmp_disk(struct qmp_call *c, const char *name)
{
	struct disk *d = c->q->what.vm->disks;

	while (d && strcmp(d->id, name) != 0 && strcmp(d->node, name) != 0)
		d = d->next;
	if (!d)
		qmp_fail(c, "DeviceNotFound", "there is no disk '%s'", name);
	return d;
}

/* By one of two arguments. */
static struct disk *disk_of(struct qmp_call *c, const char *one, const char *other)
{
	const char *name = qmp_string(c, one), *second = qmp_string(c, other);

	if (!name == !second) {
		err_set(&c->err, EINVAL, "one of '%s' and '%s' is needed", one, other);
		return NULL;
	}
	return qmp_disk(c, name ? name : second);
}

/* ---- what they are --------------------------------------------------------------- */

static void put_snapshots(struct json *o, struct blk *b)
{
	struct blk_snapshot *list = NULL;
	struct json *array;
	size_t n = 0;

	if (blk_snapshot_list(b, &list, &n, NULL))
		return;
	array = n ? json_new_array() : NULL;
	for (size_t i = 0; i < n; i++)
		json_add(array, blk_snapshot_facts(&list[i]));
	if (array)
		json_put(o, "snapshots", array);
	blk_snapshots_free(list, n);
}

static void put_specific(struct json *o, struct blk *b)
{
	struct json *data = blk_format_info(b), *specific;

	if (!data)
		return;
	specific = json_new_object();
	json_put_string(specific, "type", blk_driver_name(b));
	json_put(specific, "data", data);
	json_put(o, "format-specific", specific);
}

static struct json *image_facts(struct blk *b)
{
	struct json *o = json_new_object();
	bool dirty = false, encrypted = false;
	int64_t allocated = blk_allocated(b);
	uint32_t cluster = 0;

	blk_traits(b, &cluster, &dirty, &encrypted);
	json_put_int(o, "virtual-size", (int64_t)blk_size(b));
	json_put_string(o, "filename", blk_filename(b));
	json_put_string(o, "format", blk_driver_name(b));
	if (cluster)
		json_put_int(o, "cluster-size", cluster);
	if (allocated >= 0)
		json_put_int(o, "actual-size", allocated);
	if (encrypted)
		json_put_bool(o, "encrypted", true);
	if (blk_backing_name(b))
		json_put_string(o, "backing-filename", blk_backing_name(b));
	if (blk_backing_format(b))
		json_put_string(o, "backing-filename-format", blk_backing_format(b));
	put_snapshots(o, b);
	put_specific(o, b);
	json_put_bool(o, "dirty-flag", dirty);
	return o;
}

static void put_limits(struct json *o, const struct disk_limits *l)
{
	static const char *const suffix[] = {"", "_rd", "_wr"};
	char key[16];

	for (unsigned i = 0; i < ARRAY_LEN(suffix); i++) {
		snprintf(key, sizeof(key), "bps%s", suffix[i]);
		json_put_int(o, key, (int64_t)l->bps[i]);
		snprintf(key, sizeof(key), "iops%s", suffix[i]);
		json_put_int(o, key, (int64_t)l->iops[i]);
	}
}

static unsigned backing_depth(const struct blk *b)
{
	unsigned depth = 0;

	while ((b = blk_backing(b)))
		depth++;
	return depth;
}

static struct json *cache_facts(const struct blk *b)
{
	struct json *o = json_new_object();

	json_put_bool(o, "writeback", !(blk_flags(b) & BLK_O_WRITETHROUGH));
	json_put_bool(o, "direct", blk_flags(b) & BLK_O_DIRECT);
	json_put_bool(o, "no-flush", blk_flags(b) & BLK_O_NO_FLUSH);
	return o;
}

/* An image that is open; limits are the disk's where there is one. */
static struct json *node_facts(struct blk *b, const char *name, struct disk *d)
{
	struct json *o = json_new_object();
	struct disk_limits limits = {.iops = {0}};
	bool dirty = false, encrypted = false;
	uint32_t cluster = 0;

	blk_traits(b, &cluster, &dirty, &encrypted);
	if (d)
		limits = disk_limits_of(d);
	json_put_string(o, "node-name", name);
	json_put_string(o, "drv", blk_driver_name(b));
	json_put_bool(o, "ro", blk_read_only(b));
	json_put_string(o, "file", blk_filename(b));
	json_put_bool(o, "active", true);
	json_put_bool(o, "encrypted", encrypted);
	json_put(o, "children", json_new_array()); /* none has a name */
	json_put_int(o, "backing_file_depth", backing_depth(b));
	if (blk_backing_name(b))
		json_put_string(o, "backing_file", blk_backing_name(b));
	json_put_string(o, "detect_zeroes",
		!(blk_flags(b) & (BLK_O_ZEROES | BLK_O_ZEROES_UNMAP)) ? "off"
		: blk_flags(b) & BLK_O_ZEROES_UNMAP                   ? "unmap"
								      : "on");
	put_limits(o, &limits);
	json_put_int(o, "write_threshold", 0);
	json_put(o, "cache", cache_facts(b));
	json_put(o, "image", image_facts(b));
	return o;
}

/* It says whether the last stop was for this disk, as long as the machine stands for one. */
static const char *io_status(const struct qmp_call *c, const struct disk *d)
{
	uint64_t round = __atomic_load_n(&d->error_round, __ATOMIC_ACQUIRE);
	int error = __atomic_load_n(&d->last_error, __ATOMIC_RELAXED);

	if (!error || round != vm_round(c->q->what.vm) ||
		vm_status(c->q->what.vm) != VM_STATUS_IO_ERROR)
		return "ok";
	return error == ENOSPC || error == EDQUOT ? "nospace" : "failed";
}

static struct json *disk_facts(const struct qmp_call *c, struct disk *d)
{
	struct json *o = json_new_object();

	json_put_string(o, "device", d->id);
	json_put_string(o, "qdev", d->id);
	json_put_string(o, "type", "unknown");
	json_put_bool(o, "locked", __atomic_load_n(&d->tray_locked, __ATOMIC_RELAXED));
	json_put_bool(o, "removable", d->removable);
	if (d->removable)
		json_put_bool(
			o, "tray_open", __atomic_load_n(&d->tray_open, __ATOMIC_RELAXED));
	json_put_string(o, "io-status", io_status(c, d));
	json_put(o, "inserted", node_facts(d->blk, d->node, d));
	return o;
}

int qmp_query_block(struct qmp_call *c)
{
	c->result = json_new_array();
	pthread_mutex_lock(&c->q->storage_lock);
	for (struct disk *d = c->q->what.vm->disks; d; d = d->next)
		json_add(c->result, disk_facts(c, d));
	pthread_mutex_unlock(&c->q->storage_lock);
	return 0;
}

static struct disk *user_of(struct disk *d, const struct blk *b)
{
	while (d && d->blk != b)
		d = d->next;
	return d;
}

int qmp_query_nodes(struct qmp_call *c)
{
	c->result = json_new_array();
	pthread_mutex_lock(&c->q->storage_lock);
	for (const struct node *n = c->q->what.nodes->first; n; n = n->next)
		json_add(c->result, node_facts(n->blk, n->name,
					    user_of(c->q->what.vm->disks, n->blk)));
	pthread_mutex_unlock(&c->q->storage_lock);
	return 0;
}

/* ---- what they did --------------------------------------------------------------- */

static struct disk_count count_of(const struct disk *d, enum disk_kind kind)
{
	const struct disk_count *c = &d->count[kind];

	return (struct disk_count){__atomic_load_n(&c->requests, __ATOMIC_RELAXED),
		__atomic_load_n(&c->failed, __ATOMIC_RELAXED),
		__atomic_load_n(&c->bytes, __ATOMIC_RELAXED),
		__atomic_load_n(&c->ns, __ATOMIC_RELAXED)};
}

static struct disk_count sum(struct disk_count a, struct disk_count b)
{
	return (struct disk_count){a.requests + b.requests, a.failed + b.failed,
		a.bytes + b.bytes, a.ns + b.ns};
}

/* "rd_operations" and its like; "failed_rd_operations". */
static void put_count(struct json *o, const char *kind, struct disk_count c)
{
	char key[48];

	snprintf(key, sizeof(key), "%s_operations", kind);
	json_put_int(o, key, (int64_t)(c.requests - MIN(c.requests, c.failed)));
	snprintf(key, sizeof(key), "failed_%s_operations", kind);
	json_put_int(o, key, (int64_t)c.failed);
	snprintf(key, sizeof(key), "%s_total_time_ns", kind);
	json_put_int(o, key, (int64_t)c.ns);
	if (!strcmp(kind, "flush"))
		return;
	snprintf(key, sizeof(key), "%s_bytes", kind);
	json_put_int(o, key, (int64_t)c.bytes);
}

/* What QEMU counts and there is none of here: requests of one kind merged into others, and those that make no sense,
 * which devices answer themselves. */
static void put_zeroes(struct json *o)
{
	static const char *const keys[] = {"rd_merged", "wr_merged", "unmap_merged",
		"invalid_rd_operations", "invalid_wr_operations",
		"invalid_flush_operations", "invalid_unmap_operations",
		"zone_append_bytes", "zone_append_operations",
		"zone_append_total_time_ns", "zone_append_merged",
		"failed_zone_append_operations", "invalid_zone_append_operations"};

	for (size_t i = 0; i < ARRAY_LEN(keys); i++)
		json_put_int(o, keys[i], 0);
}

/* Zeroes that the guest writes are writes. */
static struct json *counts(const struct disk *d)
{
	uint64_t last = __atomic_load_n(&d->last_ns, __ATOMIC_RELAXED);
	struct json *o = json_new_object();

	put_count(o, "rd", count_of(d, DISK_READ));
	put_count(o, "wr", sum(count_of(d, DISK_WRITE), count_of(d, DISK_ZERO)));
	put_count(o, "flush", count_of(d, DISK_FLUSH));
	put_count(o, "unmap", count_of(d, DISK_DISCARD));
	if (last)
		json_put_int(o, "idle_time_ns", (int64_t)(clock_ns() - last));
	json_put_int(o, "wr_highest_offset",
		(int64_t)__atomic_load_n(&d->highest, __ATOMIC_RELAXED));
	put_zeroes(o);
	json_put_bool(o, "account_invalid", false);
	json_put_bool(o, "account_failed", true);
	json_put(o, "timed_stats", json_new_array());
	return o;
}

int qmp_query_blockstats(struct qmp_call *c)
{
	if (qmp_bool(c, "query-nodes", false))
		return err_set(
			&c->err, ENOTSUP, "query-nodes: only disks have statistics");
	c->result = json_new_array();
	for (const struct disk *d = c->q->what.vm->disks; d; d = d->next) {
		struct json *o = json_new_object();

		json_put_string(o, "device", d->id);
		json_put_string(o, "qdev", d->id);
		json_put_string(o, "node-name", d->node);
		json_put(o, "stats", counts(d));
		json_add(c->result, o);
	}
	return 0;
}

/* ---- size and limits ------------------------------------------------------------- */

int qmp_block_resize(struct qmp_call *c)
{
	struct disk *d = disk_of(c, "device", "node-name");
	int64_t bytes = qmp_int(c, "size", 0);
	int ret;

	if (!d)
		return -EINVAL;
	if (bytes < 0 || (uint64_t)bytes > BLK_MAX_SIZE)
		return err_set(&c->err, EINVAL, "size %" PRId64 " cannot be", bytes);
	pthread_mutex_lock(&c->q->storage_lock);
	ret = disk_resize(d, (uint64_t)bytes, &c->err);
	pthread_mutex_unlock(&c->q->storage_lock);
	return ret;
}

int qmp_block_throttle(struct qmp_call *c)
{
	static const char *const bps[] = {"bps", "bps_rd", "bps_wr"};
	static const char *const iops[] = {"iops", "iops_rd", "iops_wr"};
	struct disk *d = disk_of(c, "device", "id");
	struct disk_limits l;

	if (!d)
		return -EINVAL;
	for (unsigned i = 0; i < ARRAY_LEN(bps); i++) {
		int64_t b = qmp_int(c, bps[i], 0), n = qmp_int(c, iops[i], 0);

		if (b < 0 || n < 0)
			return err_set(&c->err, EINVAL, "a limit is not negative");
		l.bps[i] = (uint64_t)b;
		l.iops[i] = (uint64_t)n;
	}
	if (disk_limits_check(&l, &c->err))
		return -EINVAL;
	disk_set_limits(d, &l);
	return 0;
}

/* ---- snapshots of one disk ------------------------------------------------------- */

struct snapshot {
	struct disk *d;
	const char *id, *name; /* one may be NULL */
	struct json *facts;
	struct err *err;
	int ret;
};

/* The entry that both fit, where both are given. */
static const struct blk_snapshot *find(
	const struct snapshot *s, const struct blk_snapshot *list, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if ((!s->id || !strcmp(s->id, list[i].id)) &&
			(!s->name || !strcmp(s->name, list[i].name)))
			return &list[i];
	return NULL;
}

static void create(void *arg)
{
	struct snapshot *s = arg;
	struct blk_snapshot *list = NULL;
	size_t n = 0;

	s->ret = blk_snapshot_list(s->d->blk, &list, &n, s->err);
	if (s->ret == 0 && find(s, list, n))
		s->ret = err_set(s->err, EEXIST, "%s has a snapshot '%s' already",
			s->d->id, s->name);
	blk_snapshots_free(list, n);
	if (s->ret == 0) /* which flushes first */
		s->ret = blk_snapshot_create(s->d->blk, s->name, s->err);
}

static void delete (void *arg)
{
	struct snapshot *s = arg;
	const struct blk_snapshot *found;
	struct blk_snapshot *list = NULL;
	size_t n = 0;

	s->ret = blk_snapshot_list(s->d->blk, &list, &n, s->err);
	found = s->ret ? NULL : find(s, list, n);
	if (s->ret == 0 && !found)
		s->ret = err_set(s->err, ENOENT, "%s has no such snapshot", s->d->id);
	if (found) {
		s->facts = blk_snapshot_facts(found);
		s->ret = blk_snapshot_delete_id(s->d->blk, found->id, s->err);
	}
	blk_snapshots_free(list, n);
}

static int while_it_stands(struct qmp_call *c, struct snapshot *s, void (*fn)(void *arg))
{
	int ret;

	s->err = &c->err;
	pthread_mutex_lock(&c->q->storage_lock);
	ret = vm_call(c->q->what.vm, fn, s);
	pthread_mutex_unlock(&c->q->storage_lock);
	return ret ? err_set(&c->err, ESHUTDOWN, "the machine is ending") : s->ret;
}

int qmp_snapshot_disk(struct qmp_call *c)
{
	struct snapshot s = {
		.d = qmp_disk(c, qmp_string(c, "device")), .name = qmp_string(c, "name")};

	if (!s.d)
		return -EINVAL;
	if (!*s.name)
		return err_set(&c->err, EINVAL, "a snapshot needs a name");
	return while_it_stands(c, &s, create);
}

int qmp_snapshot_disk_delete(struct qmp_call *c)
{
	struct snapshot s = {.d = qmp_disk(c, qmp_string(c, "device")),
		.id = qmp_string(c, "id"),
		.name = qmp_string(c, "name")};

	if (!s.d)
		return -EINVAL;
	if (!s.id && !s.name)
		return err_set(&c->err, EINVAL, "one of 'id' and 'name' is needed");
	if (while_it_stands(c, &s, delete)) {
		json_free(s.facts);
		return -EINVAL;
	}
	c->result = s.facts;
	return 0;
}
