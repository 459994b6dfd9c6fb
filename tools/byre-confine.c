/* SPDX-License-Identifier: BSD-2-Clause */
/* The options of `byre run` that are about what its process may do. */
#include "tools/byre-confine.h"

#include <string.h>

#include "block/driver.h"
#include "tools/common.h"

static int take_switch(const char *name, const char *arg, enum confine_when *out)
{
	if (!strcmp(arg, "on")) {
		*out = CONFINE_ON;
	} else if (!strcmp(arg, "off")) {
		*out = CONFINE_OFF;
	} else {
		tool_error("--%s=%s: on or off", name, arg);
		return 1;
	}
	return -1;
}

static int take_filter(const char *arg, enum confine_filter *out)
{
	static const char *const names[] = {"on", "log", "off"};

	for (unsigned i = 0; i < 3; i++)
		if (!strcmp(arg, names[i])) {
			*out = i;
			return -1;
		}
	tool_error("--seccomp=%s: on, log or off", arg);
	return 1;
}

static int take_path(struct confine_options *o, const char *path, bool write)
{
	struct err err = ERR_INIT;

	if (confine_allow(o, path, write, &err) == 0)
		return -1;
	tool_report(NULL, &err);
	return 1;
}

static int take_cgroup(struct keeper_options *o, const char *arg)
{
	struct err err = ERR_INIT;

	o->cgroup_wanted = true;
	if (cgroup_parse(arg, &o->cgroup, &err) == 0)
		return -1;
	tool_report("--cgroup", &err);
	return 1;
}

static int take_svirt(struct keeper_options *o, const char *arg)
{
	struct err err = ERR_INIT;

	o->svirt_wanted = true;
	if (svirt_parse(arg ? arg : "", &o->svirt, &err) == 0)
		return -1;
	tool_report("--svirt", &err);
	return 1;
}

int isolation_option(struct isolation *iso, int c, const char *arg)
{
	struct confine_options *o = &iso->confine;
	enum confine_when all = CONFINE_AUTO;
	int status;

	switch (c) {
	case OPT_CONFINE:
		status = take_switch("confine", arg, &all);
		o->off = all == CONFINE_OFF;
		return status;
	case OPT_SECCOMP:
		return take_filter(arg, &o->seccomp);
	case OPT_LANDLOCK:
		return take_switch("landlock", arg, &o->landlock);
	case OPT_NAMESPACES:
		return take_switch("namespaces", arg, &o->namespaces);
	case OPT_USER:
		o->user = arg;
		return -1;
	case OPT_ALLOW_READ:
		return take_path(o, arg, false);
	case OPT_ALLOW_WRITE:
		return take_path(o, arg, true);
	case OPT_CGROUP:
		return take_cgroup(&iso->keeper, arg);
	case OPT_SVIRT:
		return take_svirt(&iso->keeper, arg);
	default:
		return 1;
	}
}

void isolation_clear(struct isolation *iso)
{
	confine_options_clear(&iso->confine);
}

struct labelling {
	struct svirt *svirt;
	const struct disk_spec *disk;
	int ret;
	struct err *err;
};

static void label_file(const struct blk *b, bool backing, void *arg)
{
	struct labelling *l = arg;
	enum svirt_role role = backing             ? SVIRT_READ
			       : l->disk->shared   ? SVIRT_SHARED
			       : l->disk->writable ? SVIRT_WRITTEN
						   : SVIRT_READ;

	if (l->ret == 0)
		l->ret = svirt_label(l->svirt, blk_filename(b), role, l->err);
}

int isolation_label_disk(struct svirt *s, const struct disk_spec *disk, struct err *err)
{
	struct labelling l = {.svirt = s, .disk = disk, .err = err};

	blk_each_path(disk->disk.disk.blk, label_file, &l);
	return l.ret;
}
