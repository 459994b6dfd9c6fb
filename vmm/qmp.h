/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The control socket: JSON commands, answers and events, as programs know them from the QEMU
 * Machine Protocol (docs/interop/qmp-spec of QEMU).
 *
 * One thread has all of it: it polls listeners and sessions, and carries commands out one after
 * the other, whoever sent them. What takes long is a job, with a thread of its own. Events come from any thread
 * and are put into the sessions' queues. All is bounded: a session that does not read its
 * answers is not read from any more, and one that lets events pile up is closed. The machine
 * never waits for a session.
 */
#ifndef BYRE_VMM_QMP_H
#define BYRE_VMM_QMP_H

#include "base/err.h"
#include "vmm/afterwards.h"

struct json;
struct qmp;

/* What it controls; the caller's, and there for as long as the struct qmp. */
struct qmp_machine {
	struct vm *vm;
	struct machine *machine;
	struct power *power;
	struct pci *pci;
	struct nodes *nodes;
	struct balloon *balloon; /* NULL: none */
	const char *name, *uuid; /* NULL: none */
};

/* From now on the VM's events come here. NULL with err set. */
struct qmp *qmp_new(const struct qmp_machine *what, struct err *err);
/* "unix:PATH[,server=on,wait=off]" or "PATH": a socket that its owner may use. */
int qmp_listen(struct qmp *q, const char *address, struct err *err);
/* A session over a connected socket, which is q's from then on. Before qmp_start(). */
int qmp_attach(struct qmp *q, int fd, struct err *err);
int qmp_start(struct qmp *q, struct err *err);
/* When vm_run() has returned: sessions get what is left for them, soon, and are closed. NULL,
 * or not started: nothing. */
void qmp_stop(struct qmp *q);
/* The files of its sockets. */
void qmp_note_files(const struct qmp *q, struct leftovers *l);
void qmp_free(struct qmp *q);

/* Its thread looks whether there is something to do. From any thread. */
void qmp_wake(struct qmp *q);
void qmp_device_deleted(struct qmp *q, const char *id);
/* To all sessions; data NULL: none. From any thread. Takes data. */
void qmp_event(struct qmp *q, const char *name, struct json *data);

#endif
