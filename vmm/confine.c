/* SPDX-License-Identifier: BSD-2-Clause */
/* Confining the process. See confine.h. */
#include "vmm/confine.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/log.h"
#include "base/task.h"
#include "block/driver.h"
#include "block/lockowner.h"
#include "vmm/everythread.h"
#include "vmm/landlock.h"
#include "vmm/privilege.h"
#include "vmm/seccomp.h"

/* One for each kind; NULL while nothing is filtered. Read by threads at their start. */
static struct seccomp_program *programs;

/* ---- what is to go on working ---------------------------------------------------- */

int confine_allow(
	struct confine_options *o, const char *path, bool write, struct err *err)
{
	struct confine_path *p = &o->path[o->n_paths];

	if (o->n_paths == CONFINE_PATHS_MAX)
		return err_set(err, ENOSPC, "more than %u paths are to stay reachable",
			CONFINE_PATHS_MAX);
	*p = (struct confine_path){strdup(path), write};
	if (!p->path)
		return err_errno(err, ENOMEM, "%s", path);
	o->n_paths++;
	return 0;
}

void confine_options_clear(struct confine_options *o)
{
	while (o->n_paths)
		free(o->path[--o->n_paths].path);
}

/* The folder that the path is in. */
static int allow_folder(
	struct confine_options *o, const char *path, bool write, struct err *err)
{
	char *folder = strdup(path), *slash = folder ? strrchr(folder, '/') : NULL;
	int ret;

	if (!folder)
		return err_errno(err, ENOMEM, "%s", path);
	if (slash == folder)
		slash++;
	if (slash)
		*slash = '\0';
	ret = confine_allow(o, slash ? folder : ".", write, err);
	free(folder);
	return ret;
}

struct allowing {
	struct confine_options *o;
	bool reopens;
	int ret;
	struct err *err;
};

/* The note that says who has the image is removed at the end. */
static void allow_note(const struct blk *b, bool backing, void *arg)
{
	struct allowing *a = arg;
	struct lock_owner owner;
	bool noted = !backing && lock_note_read(blk_filename(b), &owner) &&
		     owner.pid == getpid();

	if (a->ret == 0 && (a->reopens || noted))
		a->ret = allow_folder(a->o, blk_filename(b), true, a->err);
}

/* Whose file is replaced when the network changes. */
static int allow_resolver(struct confine_options *o, struct err *err)
{
	char resolver[PATH_MAX];

	return realpath("/etc/resolv.conf", resolver)
		       ? allow_folder(o, resolver, false, err)
		       : 0;
}

int confine_allow_guest_network(struct confine_options *o, struct err *err)
{
	o->guest_network = true;
	return allow_resolver(o, err);
}

unsigned confine_needs(const struct confine_options *o)
{
	return o->needs | (o->guest_network ? BLK_NEEDS_NETWORK : 0);
}

/* Where addresses of names are to be found. What the library loads for it was loaded for the
 * first connection. */
static int allow_names(struct confine_options *o, struct err *err)
{
	int ret = confine_allow(o, "/etc", false, err);

	if (ret == 0)
		ret = allow_resolver(o, err);
	if (ret == 0)
		ret = confine_allow(o, "/usr/share", false, err); /* certificates */
	return ret;
}

/* Paths to the same device come and go, and what kind they are is read below /sys. */
static int allow_devices(struct confine_options *o, struct err *err)
{
	int ret = confine_allow(o, "/dev", true, err);

	ret = ret ? ret : confine_allow(o, "/sys", false, err);
	return ret ? ret : confine_allow(o, "/proc", false, err);
}

int confine_allow_disk(struct confine_options *o, const struct blk *b, struct err *err)
{
	unsigned needs = blk_needs(b), before = o->needs;
	struct allowing a = {.o = o, .reopens = needs & BLK_NEEDS_FILES, .err = err};

	if (needs & BLK_NEEDS_FILES)
		needs |= BLK_NEEDS_NETWORK; /* of whatever kind the other paths are */
	o->needs |= needs;
	blk_each_path(b, allow_note, &a);
	if (a.ret == 0 && (needs & ~before & BLK_NEEDS_NETWORK))
		a.ret = allow_names(o, err);
	if (a.ret == 0 && (needs & ~before & BLK_NEEDS_FILES))
		a.ret = allow_devices(o, err);
	return a.ret;
}

/* ---- beginning ------------------------------------------------------------------- */

static int check_user(const struct confine_options *o, struct user *user, struct err *err)
{
	if (!o->user)
		return 0;
	if (geteuid() != 0)
		return err_set(err, EPERM, "--user needs root");
	return user_find(o->user, user, err);
}

static int begin_namespaces(struct confine_options *o, struct err *err)
{
	int ret;

	if (o->namespaces == CONFINE_OFF)
		return 0;
	if (geteuid() != 0) {
		if (o->namespaces == CONFINE_ON)
			return err_set(err, EPERM, "namespaces need root");
		o->namespaces = CONFINE_OFF;
		return 0;
	}
	ret = own_mounts(err);
	if (ret && o->namespaces == CONFINE_AUTO) {
		log_line(LOG_LEVEL_INFO, "namespaces are not to be had here");
		o->namespaces = CONFINE_OFF;
		ret = 0;
	}
	return ret;
}

int confine_begin(struct confine_options *o, struct err *err)
{
	struct user user; /* whether there is one; who it is is asked again */
	int ret;

	if (o->off)
		return 0;
	ret = check_user(o, &user, err);
	return ret ? ret : begin_namespaces(o, err);
}

/* ---- giving up ------------------------------------------------------------------- */

struct giving_up {
	bool namespaces, network, empty_root, labelled;
	bool keeps_capabilities; /* the last thread: a policy does not let it give them up */
	const struct user *user; /* NULL: as now */
	uint64_t capabilities;   /* that stay */
	int rules_fd;            /* Landlock's; -1: none */
	const char *step;        /* of the last thread */
};

static int install(enum confine_kind kind)
{
	return programs ? seccomp_install(&programs[kind], false) : 0;
}

/* One thread: others in a signal handler, then the one that confines the process, which
 * empties the root for all. A thread that was there before is a loop or a worker, but the one
 * that makes them; the filter of these two comes last. */
static int give_up(void *arg)
{
	struct giving_up *g = arg;
	bool is_main = getpid() == gettid();
	int ret = 0;

	g->step = "root folder";
	if (is_main && g->empty_root)
		ret = empty_root();
	if (ret == 0 && g->namespaces) {
		g->step = "namespaces";
		ret = leave_shared_namespaces(g->network);
	}
	if (ret == 0) {
		g->step = "the capabilities' bounding set";
		ret = drop_bounding_set(g->capabilities);
	}
	if (ret == 0 && g->user) {
		g->step = "user";
		ret = become_user(g->user);
	}
	if (ret == 0) {
		g->step = "capabilities";
		ret = drop_capabilities(g->capabilities);
		g->keeps_capabilities = ret == -EACCES && g->labelled;
		ret = g->keeps_capabilities ? 0 : ret;
	}
	if (ret == 0) {
		g->step = "no new privileges";
		ret = set_no_new_privileges();
	}
	if (ret == 0 && g->rules_fd >= 0) {
		g->step = "Landlock";
		ret = landlock_enter(g->rules_fd);
	}
	if (ret == 0 && !is_main) {
		g->step = "seccomp";
		ret = install(thread_is_maker() ? CONFINE_MAIN : CONFINE_LOOP);
	}
	return ret;
}

/* -1: none, because there is none or it is not wanted. */
static int make_rules(const struct confine_options *o, int *fd, struct err *err)
{
	*fd = -1;
	if (o->landlock == CONFINE_OFF)
		return 0;
	if (!landlock_version()) {
		if (o->landlock == CONFINE_ON)
			return err_set(err, ENOTSUP, "this kernel has no Landlock");
		log_line(LOG_LEVEL_WARNING, "this kernel has no Landlock: file names are "
					    "left to the other means");
		return 0;
	}
	*fd = landlock_make(o, err);
	return *fd < 0 ? -err->code : 0;
}

static bool may_open(const struct confine_options *o)
{
	return o->n_paths || (confine_needs(o) & (BLK_NEEDS_NETWORK | BLK_NEEDS_FILES));
}

static int make_programs(const struct confine_options *o, struct err *err)
{
	struct seccomp_rules rules = {
		.filter = o->seccomp, .needs = confine_needs(o), .may_open = may_open(o)};
	struct seccomp_program *p;

	if (o->seccomp == CONFINE_FILTER_OFF)
		return 0;
	p = calloc(CONFINE_KINDS, sizeof(*p));
	if (!p)
		return err_errno(err, ENOMEM, "seccomp");
	for (unsigned kind = 0; kind < CONFINE_KINDS; kind++)
		seccomp_build(&p[kind], kind, &rules);
	programs = p;
	return 0;
}

static void entered(void)
{
	confine_thread(CONFINE_LOOP);
}

static int check(const struct confine_options *o, struct user *user, struct err *err)
{
	if (o->needs & BLK_NEEDS_PROGRAM) {
		err_set(err, EPERM,
			"a disk that runs a program (watermark) cannot belong to a "
			"machine that is confined");
		err_hint(err, "--confine=off lets it run, and the machine loose");
		return -err->code;
	}
	if (o->user && (o->needs & BLK_NEEDS_RIGHTS))
		return err_set(err, EPERM,
			"--user: the reservation of a local device needs root");
	return check_user(o, user, err);
}

/* While the calling thread may still do so: the others are given theirs before. */
static int finish(const struct confine_options *o, struct err *err)
{
	int ret = 0;

	if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0))
		return err_errno(err, errno, "no memory dumps");
	/* Which another user's process had forgotten. */
	if (o->ends_with_parent && prctl(PR_SET_PDEATHSIG, SIGTERM, 0, 0, 0))
		return err_errno(err, errno, "no signal at the parent's end");
	if (o->seccomp != CONFINE_FILTER_OFF)
		ret = install(CONFINE_MAIN);
	return ret ? err_errno(err, -ret, "seccomp") : 0;
}

int confine_process(const struct confine_options *o, struct err *err)
{
	struct user user;
	struct giving_up g = {.namespaces = o->namespaces != CONFINE_OFF,
		.network = !(confine_needs(o) & BLK_NEEDS_NETWORK),
		.labelled = o->labelled,
		.user = o->user ? &user : NULL,
		.capabilities = o->needs & BLK_NEEDS_RIGHTS ? device_capabilities() : 0,
		.step = "threads"};
	int ret;

	if (o->off)
		return 0;
	assert(!programs);
	ret = check(o, &user, err);
	ret = ret ? ret : make_programs(o, err);
	ret = ret ? ret : thread_set_maker(entered, err);
	ret = ret ? ret : make_rules(o, &g.rules_fd, err);
	if (ret)
		return err_prefix(err, "cannot be confined");
	g.empty_root = g.namespaces && !may_open(o);
	ret = every_thread(give_up, &g, "threads", err);
	if (g.rules_fd >= 0)
		close(g.rules_fd);
	if (g.keeps_capabilities)
		log_line(LOG_LEVEL_INFO, "SELinux does not let capabilities be given up: "
					 "its policy has to "
					 "deny their use");
	ret = ret ? ret : finish(o, err);
	if (ret == 0)
		blk_limit_needs(o->needs);
	return ret ? err_prefix(err, "cannot be confined (%s)", g.step) : 0;
}

/* A thread that cannot be confined must not meet the guest. */
void confine_thread(enum confine_kind kind)
{
	if (install(kind))
		abort();
}
