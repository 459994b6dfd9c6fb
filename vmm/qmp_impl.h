/* SPDX-License-Identifier: BSD-2-Clause */
/* What the files of the control socket (qmp_*.c) share. See qmp.h. */
#ifndef BYRE_VMM_QMP_IMPL_H
#define BYRE_VMM_QMP_IMPL_H

#include <pthread.h>

#include "base/json.h"
#include "vmm/devices.h"
#include "vmm/disk.h"
#include "vmm/machine.h"
#include "vmm/nodes.h"
#include "vmm/qmp.h"

#define QMP_PERIPHERAL "/machine/peripheral/" /* and the id of a device that was named */

struct qmp_session;
struct qmp_job;

struct qmp {
	struct qmp_machine what;
	int wake_fd;
	int listener[MACHINE_QMP_MAX];
	char *path[MACHINE_QMP_MAX];
	unsigned n_listeners;
	pthread_t thread;
	bool started;
	bool quit_asked;	      /* atomic */
	bool ending;		      /* atomic */
	pthread_mutex_t lock;	      /* around the list of sessions and their output */
	struct qmp_session *sessions; /* the thread of q adds and removes */
	unsigned n_sessions;
	/* Around calls of block/format.h, which exclude each other. */
	pthread_mutex_t storage_lock;
	/* Jobs; under their lock. The list is the thread's of q. */
	pthread_mutex_t jobs_lock;
	struct qmp_job *jobs;
};

/* A command while it is carried out. Errors are of class GenericError unless it says else. */
struct qmp_call {
	struct qmp *q;
	const struct json *args; /* an object; NULL: there are none */
	struct json *result;	 /* NULL: an empty object */
	const char *class;
	struct err err;
};

/* `args` lists the arguments that there may be: "name:type" with s, i, b, l, o for string, integer, bool,
 * list, object, "name?type" where it may be missing; NULL: whatever there is. */
struct qmp_command {
	const char *name, *args;
	int (*run)(struct qmp_call *c); /* 0 or -errno with c->err set */
};

extern const struct qmp_command qmp_commands[]; /* ends in a NULL name */

/* Answers one command: {"return": …} or {"error": …}, the caller's. *negotiated is that of its
 * session. */
struct json *qmp_answer(struct qmp *q, const char *text, bool *negotiated);

struct json *qmp_error(const char *class, const char *text); /* {"error": …} */
struct json *qmp_version(void);				      /* {"micro": …, …} */

/* Arguments; they have been checked by the table. NULL, or dflt, where it is missing. */
const char *qmp_string(const struct qmp_call *c, const char *name);
int64_t qmp_int(const struct qmp_call *c, const char *name, int64_t dflt);
bool qmp_bool(const struct qmp_call *c, const char *name, bool dflt);

/* The call's error, of this class. */
int qmp_fail(struct qmp_call *c, const char *class, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* qmp_events.c: the VM's hooks. */
void qmp_vm_event(void *arg, enum vm_event event, enum vm_request why);
void qmp_disk_failed(void *arg, const struct disk_failure *f);

/* qmp_block.c. */
struct disk *qmp_disk(struct qmp_call *c, const char *name); /* by its name or its node's */
int qmp_query_block(struct qmp_call *c);
int qmp_query_blockstats(struct qmp_call *c);
int qmp_query_nodes(struct qmp_call *c);
int qmp_block_resize(struct qmp_call *c);
int qmp_block_throttle(struct qmp_call *c);
int qmp_snapshot_disk(struct qmp_call *c);
int qmp_snapshot_disk_delete(struct qmp_call *c);

/* qmp_plug.c: images and disks that come and go. */
int qmp_blockdev_add(struct qmp_call *c);
int qmp_blockdev_del(struct qmp_call *c);
int qmp_device_add(struct qmp_call *c);
int qmp_device_del(struct qmp_call *c);
int qmp_add_disk(struct qmp_call *c);

/* qmp_jobs.c: snapshots of the whole machine. */
int qmp_snapshot_save(struct qmp_call *c);
int qmp_snapshot_load(struct qmp_call *c);
int qmp_snapshot_delete(struct qmp_call *c);
int qmp_query_jobs(struct qmp_call *c);
int qmp_job_dismiss(struct qmp_call *c);
int qmp_job_cancel(struct qmp_call *c);
int qmp_save_file(struct qmp_call *c);
int qmp_human(struct qmp_call *c);
void qmp_jobs_end(struct qmp *q); /* waits for them */

#endif
