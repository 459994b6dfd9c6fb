/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A process that can do no more than its machine needs: what a guest could make of it, if it
 * found a fault in a device, is bounded by this.
 *
 *	confine_begin      one thread, nothing open: a view of the file system of our own
 *	(disks, networks, /dev/kvm and the vCPUs are opened, devices made)
 *	confine_process    everything below, for good
 *	confine_thread     each thread, at its start: what its kind does not need
 *
 * In this order, each step needing what a later one takes away: namespaces; bounding set;
 * user; capabilities; no_new_privs; Landlock; no dumps and no debugger; seccomp.
 *
 * It is the process that is confined, so what is in force is a fact of the process and not of
 * a struct vm.
 */
#ifndef BYRE_VMM_CONFINE_H
#define BYRE_VMM_CONFINE_H

#include <stdbool.h>

#include "base/err.h"

enum confine_kind {
	CONFINE_MAIN, /* also makes threads, and ends the machine */
	CONFINE_VCPU,
	CONFINE_LOOP, /* loops of disks and networks, workers */
	CONFINE_CONSOLE,
	CONFINE_KINDS,
};

enum confine_filter { CONFINE_FILTER_KILL, CONFINE_FILTER_LOG, CONFINE_FILTER_OFF };

enum confine_when {
	CONFINE_AUTO, /* where it is to be had */
	CONFINE_ON,   /* or it is an error */
	CONFINE_OFF,
};

#define CONFINE_PATHS_MAX 512u

/* What may still be opened by name. */
struct confine_path {
	char *path;
	bool write; /* also writing, and making and removing files */
};

/* Zero is all of it, as far as it is to be had. */
struct confine_options {
	bool off; /* nothing of all this */
	enum confine_filter seccomp;
	enum confine_when landlock;
	enum confine_when namespaces; /* mount, IPC, UTS and network; needs root */
	const char *user;	      /* "NAME[:GROUP]"; NULL: as now */
	bool ends_with_parent;	      /* by SIGTERM */
	bool labelled;		      /* SELinux has a domain for it, which may deny it to change its
				       * capabilities and is then what denies their use */

	unsigned needs;	    /* enum blk_needs of all disks */
	bool guest_network; /* connections of the guest's are made here */
	struct confine_path path[CONFINE_PATHS_MAX];
	unsigned n_paths;
};

struct blk;

/* -ENOSPC with err set where there are too many; path is copied. */
int confine_allow(struct confine_options *o, const char *path, bool write, struct err *err);
/* What a disk that is open goes on needing. */
int confine_allow_disk(struct confine_options *o, const struct blk *b, struct err *err);
/* Connections that a guest makes through this process: their sockets, and the host's name servers. */
int confine_allow_guest_network(struct confine_options *o, struct err *err);
/* enum blk_needs: what the process goes on doing, for disks and the guest. */
unsigned confine_needs(const struct confine_options *o);
void confine_options_clear(struct confine_options *o);

/* -errno with err set: nothing may run then. */
int confine_begin(struct confine_options *o, struct err *err);
int confine_process(const struct confine_options *o, struct err *err);

/* Of the calling thread. Nothing where the process is not confined. */
void confine_thread(enum confine_kind kind);

#endif
