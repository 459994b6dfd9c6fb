/* SPDX-License-Identifier: BSD-2-Clause */
/* The options of `byre run` that are about what its process may do. */
#include "tools/byre-confine.h"

#include <string.h>

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

int confine_option(struct confine_options *o, int c, const char *arg)
{
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
	default:
		return 1;
	}
}
