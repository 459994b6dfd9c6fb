/* SPDX-License-Identifier: BSD-2-Clause */
/* Control groups. See cgroup.h. */
#include "vmm/cgroup.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/opts.h"
#include "base/task.h"
#include "vmm/hostfacts.h"

#define CPU_PERIOD_US  100000u
#define CPU_MAX        (100u * 1024)
#define IO_WEIGHT_MAX  10000u
#define REMOVE_TRIES   50u /* the last thread's end may be seen a moment later */
#define REMOVE_WAIT_NS (20ull * 1000 * 1000)

/* ---- options --------------------------------------------------------------------- */

/* Names below the root, none of which leads out of it. */
static bool is_path_below(const char *path)
{
	const char *p = path;

	if (!*p)
		return false;
	while (*p) {
		size_t length = strcspn(p, "/");

		if (!length || (length <= 2 && p[0] == '.' && p[length - 1] == '.'))
			return false;
		p += length;
		if (*p && !*++p)
			return false;
	}
	return true;
}

static int take_path(struct opts *opts, struct cgroup_options *out, struct err *err)
{
	const char *path = opts_take(opts, "path");

	while (path && *path == '/')
		path++;
	if (!path || !is_path_below(path) || strlen(path) >= sizeof(out->path))
		return err_set(err, EINVAL, "'%s' is no path of a control group",
			path ? path : "");
	strcpy(out->path, path);
	return 0;
}

static int take_limits(struct opts *opts, struct cgroup_options *out, struct err *err)
{
	int ret = opts_take_size(opts, "memory", &out->memory_bytes, err);

	ret = ret ? ret : opts_take_u64(opts, "cpu", &out->cpu_percent, err);
	ret = ret ? ret : opts_take_u64(opts, "pids", &out->pids, err);
	ret = ret ? ret : opts_take_u64(opts, "io-weight", &out->io_weight, err);
	if (ret)
		return ret;
	if (out->cpu_percent > CPU_MAX)
		return err_set(err, EINVAL, "cpu=%" PRIu64 ": at most %u per cent",
			out->cpu_percent, CPU_MAX);
	if (out->io_weight > IO_WEIGHT_MAX)
		return err_set(err, EINVAL, "io-weight=%" PRIu64 ": at most %u",
			out->io_weight, IO_WEIGHT_MAX);
	return opts_check_unused(opts, err);
}

int cgroup_parse(const char *text, struct cgroup_options *out, struct err *err)
{
	struct opts *opts = opts_new();
	int ret = opts_parse(opts, text, "path", err);

	*out = (struct cgroup_options){.memory_bytes = 0};
	ret = ret ? ret : take_path(opts, out, err);
	ret = ret ? ret : take_limits(opts, out, err);
	opts_free(opts);
	return ret;
}

int cgroup_find_root(char root[64], struct err *err)
{
	struct host_facts *facts = calloc(1, sizeof(*facts));

	if (!facts)
		return err_errno(err, ENOMEM, "control groups");
	host_facts_read("", facts);
	memcpy(root, facts->cgroup_root, sizeof(facts->cgroup_root));
	free(facts);
	return root[0] ? 0
		       : err_set(err, ENOTSUP,
				 "control groups of version 2 are not mounted "
				 "(/sys/fs/cgroup)");
}

/* ---- the group ------------------------------------------------------------------- */

static int put(const char *folder, const char *name, const char *text)
{
	char path[600];
	int fd, ret = 0;

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (write(fd, text, strlen(text)) < 0)
		ret = -errno;
	close(fd);
	return ret;
}

/* Has to be enabled in the folder above; where that may not be, the limit tells. */
static void enable(const struct cgroup *g, const char *controller)
{
	char above[512], text[32];

	strcpy(above, g->path);
	*strrchr(above, '/') = '\0';
	snprintf(text, sizeof(text), "+%s", controller);
	put(above, "cgroup.subtree_control", text);
}

static int limit(const struct cgroup *g, const char *controller, const char *name,
	const char *value, struct err *err)
{
	int ret;

	enable(g, controller);
	ret = put(g->path, name, value);
	if (ret == -ENOENT)
		return err_set(err, ENOTSUP,
			"cgroup %s: the %s controller is not to be had there", g->path,
			controller);
	return ret ? err_errno(err, -ret, "cgroup %s: %s", g->path, name) : 0;
}

static int set_limits(
	const struct cgroup *g, const struct cgroup_options *o, struct err *err)
{
	char value[64];
	int ret = 0;

	if (o->memory_bytes) {
		snprintf(value, sizeof(value), "%" PRIu64, o->memory_bytes);
		ret = limit(g, "memory", "memory.max", value, err);
	}
	if (ret == 0 && o->cpu_percent) {
		snprintf(value, sizeof(value), "%" PRIu64 " %u",
			o->cpu_percent * CPU_PERIOD_US / 100, CPU_PERIOD_US);
		ret = limit(g, "cpu", "cpu.max", value, err);
	}
	if (ret == 0 && o->pids) {
		snprintf(value, sizeof(value), "%" PRIu64, o->pids);
		ret = limit(g, "pids", "pids.max", value, err);
	}
	if (ret == 0 && o->io_weight) {
		snprintf(value, sizeof(value), "default %" PRIu64, o->io_weight);
		ret = limit(g, "io", "io.weight", value, err);
	}
	return ret;
}

int cgroup_make(struct cgroup *g, const char *root, const struct cgroup_options *o,
	struct err *err)
{
	int ret;

	snprintf(g->path, sizeof(g->path), "%s/%s", root, o->path);
	g->made = mkdir(g->path, 0755) == 0;
	if (!g->made && errno != EEXIST)
		return err_errno(err, errno, "cgroup %s", g->path);
	ret = set_limits(g, o, err);
	if (ret)
		cgroup_remove(g);
	return ret;
}

int cgroup_add(const struct cgroup *g, pid_t pid, struct err *err)
{
	char text[32];
	int ret;

	snprintf(text, sizeof(text), "%ld", (long)pid);
	ret = put(g->path, "cgroup.procs", text);
	return ret ? err_errno(err, -ret, "cgroup %s", g->path) : 0;
}

void cgroup_remove(const struct cgroup *g)
{
	for (unsigned i = 0; g->made && i < REMOVE_TRIES; i++) {
		if (rmdir(g->path) == 0 || errno != EBUSY)
			return;
		task_sleep_ns(REMOVE_WAIT_NS);
	}
}
