/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Commands by which images are opened and closed, and disks come and go: an image first
 * (blockdev-add), then a device over it (device_add); or both at once, as on the command line.
 */
#include <stdlib.h>
#include <string.h>

#include "base/math.h"
#include "vmm/disk_options.h"
#include "vmm/qmp_impl.h"

/* The call's arguments as options; NULL with c->err set. */
static struct opts *options_of(struct qmp_call *c)
{
	struct opts *opts = opts_new();
	char *text = c->args ? json_dump(c->args, 0) : NULL;
	int ret = text ? opts_parse_json(opts, text, &c->err) : 0;

	free(text);
	if (ret == 0)
		return opts;
	opts_free(opts);
	return NULL;
}

static int need(struct qmp_call *c, const char *value, const char *name)
{
	return value ? 0 : err_set(&c->err, EINVAL, "argument '%s' is missing", name);
}

/* ---- images ---------------------------------------------------------------------- */

/* What is an image's child is described in it. A string would be the name of another node, of
 * which none can be shared; it is not to be taken for a file's. (The paths of our `multipath`
 * are names of files.) */
static int refuse_references(struct qmp_call *c, const struct json *o)
{
	static const char *const children[] = {"file", "backing", "data-file"};
	int ret = 0;

	for (unsigned i = 0; o && i < ARRAY_LEN(children) && ret == 0; i++) {
		const struct json *child = json_get(o, children[i]);

		if (!child)
			continue;
		if (json_kind_of(child) == JSON_STRING)
			return err_set(&c->err, ENOTSUP,
				"'%s' cannot be the name of another node: an object has "
				"to describe it",
				children[i]);
		if (json_kind_of(child) == JSON_OBJECT)
			ret = refuse_references(c, child);
	}
	return ret;
}

static int open_node(struct qmp_call *c, struct opts *opts)
{
	const char *name = opts_peek(opts, "node-name");
	struct blk *blk;
	int ret = need(c, name, "node-name");

	ret = ret ? ret : need(c, opts_peek(opts, "driver"), "driver");
	if (ret)
		return ret;
	if (disk_find(c->q->what.vm, name))
		return err_set(&c->err, EEXIST, "there is a disk '%s' already", name);
	blk = blk_open(NULL, opts, BLK_O_RDWR | BLK_O_SOLE_WRITER, &c->err);
	if (!blk)
		return -c->err.code;
	ret = nodes_add(c->q->what.nodes, name, blk, false, &c->err);
	if (ret)
		blk_close(blk);
	return ret;
}

int qmp_blockdev_add(struct qmp_call *c)
{
	struct opts *opts = refuse_references(c, c->args) ? NULL : options_of(c);
	int ret = opts ? open_node(c, opts) : -EINVAL;

	opts_free(opts);
	return ret;
}

static struct node *find_node(struct qmp_call *c, const char *name)
{
	struct node *node = nodes_find(c->q->what.nodes, name);

	if (!node)
		qmp_fail(c, "DeviceNotFound", "there is no node '%s'", name);
	return node;
}

int qmp_blockdev_del(struct qmp_call *c)
{
	struct node *node = find_node(c, qmp_string(c, "node-name"));
	int ret;

	if (!node)
		return -EINVAL;
	for (const struct disk *d = c->q->what.vm->disks; d; d = d->next)
		if (d->blk == node->blk)
			return err_set(&c->err, EBUSY, "disk '%s' is using it", d->id);
	pthread_mutex_lock(&c->q->storage_lock);
	ret = nodes_close(c->q->what.nodes, node, &c->err);
	pthread_mutex_unlock(&c->q->storage_lock);
	return ret;
}

/* ---- devices --------------------------------------------------------------------- */

/* Others' names for what is an option of ours. */
static int take_device(struct qmp_call *c, struct opts *opts, struct disk_spec *s)
{
	const char *driver = opts_take(opts, "driver"), *drive = opts_take(opts, "drive"),
		   *queues = opts_take(opts, "num-queues"), *bus = opts_take(opts, "bus");
	const struct node *node;
	int ret = need(c, driver, "driver");

	ret = ret ? ret : need(c, drive, "drive");
	if (ret)
		return ret;
	if (strcmp(driver, "virtio-blk-pci") != 0 && strcmp(driver, "virtio-blk") != 0)
		return err_set(&c->err, EINVAL,
			"'%s' cannot be added; virtio-blk-pci can", driver);
	if (bus && strcmp(bus, "pci.0") != 0)
		return err_set(&c->err, EINVAL,
			"there is no bus '%s'; pci.0 is the only one", bus);
	node = find_node(c, drive);
	if (!node)
		return -EINVAL;
	if (queues)
		opts_set(opts, "queues", queues);
	ret = disk_options_take(s, opts, &c->err);
	s->disk.disk.blk = node->blk;
	s->disk.disk.discard = blk_flags(node->blk) & BLK_O_DISCARD;
	return ret ? ret : opts_check_unused(opts, &c->err);
}

int qmp_device_add(struct qmp_call *c)
{
	struct opts *opts = options_of(c);
	struct disk_spec s = {.disk = {.queues = 0}};
	int ret = opts ? take_device(c, opts, &s) : -EINVAL;

	opts_free(opts);
	return ret ? ret : machine_add_disk(c->q->what.machine, &s.disk, &c->err);
}

int qmp_device_del(struct qmp_call *c)
{
	const char *id = qmp_string(c, "id");

	if (!strncmp(id, QMP_PERIPHERAL, strlen(QMP_PERIPHERAL)))
		id += strlen(QMP_PERIPHERAL);
	if (!disk_find(c->q->what.vm, id))
		return qmp_fail(c, "DeviceNotFound", "there is no device '%s'", id);
	return machine_remove_disk(c->q->what.machine, id, &c->err);
}

/* "file=…,…" as of the command line. Tells what the disk is called. */
int qmp_add_disk(struct qmp_call *c)
{
	const struct disk *d = c->q->what.vm->disks;
	struct disk_spec s;
	int ret = disk_options_open(&s, qmp_string(c, "options"), &c->err);

	if (ret)
		return ret;
	ret = machine_add_disk(c->q->what.machine, &s.disk, &c->err);
	if (ret) {
		blk_close(s.disk.disk.blk);
		return ret;
	}
	for (d = c->q->what.vm->disks; d->blk != s.disk.disk.blk;)
		d = d->next;
	c->result = json_new_object();
	json_put_string(c->result, "id", d->id);
	return 0;
}
