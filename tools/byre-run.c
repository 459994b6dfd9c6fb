/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * byre run: a machine from its options (byre-options.c): images are opened, the machine is made
 * and run, and everything is closed again.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/math.h"
#include "block/driver.h"
#include "block/secret.h"
#include "tools/byre-run.h"
#include "tools/byre.h"
#include "tools/common.h"
#include "vmm/console.h"
#include "vmm/disk_options.h"

#define MEMORY_DEFAULT (1ull << 30)

_Static_assert(LEFTOVERS_MAX >= MACHINE_QMP_MAX + CONSOLE_CHARDEVS + 1, "and a pidfile");

/* Before any thread is made: the console's alone hears them. */
static void block_signals(void)
{
	sigset_t signals;

	sigemptyset(&signals);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGINT);
	sigaddset(&signals, SIGHUP);
	pthread_sigmask(SIG_BLOCK, &signals, NULL);
	signal(SIGPIPE, SIG_IGN);
}

/* ---- what its process may do ------------------------------------------------------ */

static int label_disk(struct svirt *s, const char *text, struct err *err)
{
	struct disk_spec spec;
	int ret = disk_options_look(&spec, text, err);

	if (ret == 0)
		ret = isolation_label_disk(s, &spec, err);
	blk_close(spec.disk.disk.blk);
	return ret ? err_prefix(err, "--disk %s", text) : 0;
}

/* All that the machine reads and writes, for SELinux. */
static int label_files(void *arg, struct svirt *s)
{
	const struct run *r = arg;
	const char *read[] = {
		r->machine.kernel, r->machine.initrd, r->machine.restore_file};
	struct err err = ERR_INIT;
	int ret = 0;

	for (unsigned i = 0; i < r->n_disks && ret == 0; i++)
		ret = label_disk(s, r->disk[i], &err);
	for (unsigned i = 0; i < ARRAY_LEN(read) && ret == 0; i++)
		if (read[i])
			ret = svirt_label(s, read[i], SVIRT_READ, &err);
	/* It cannot be made by a process that may reach its own files only. */
	if (ret == 0 && r->firmware.vars)
		ret = svirt_label(s, r->firmware.vars, SVIRT_WRITTEN, &err);
	if (ret)
		tool_report("--svirt", &err);
	return ret;
}

/* Before anything is opened: -1, or the exit status. */
static int begin(struct run *r, char **argv)
{
	struct err err = ERR_INIT;
	int status;

	block_signals();
	status = keeper_run(&r->isolation.keeper, argv, label_files, r);
	if (status >= 0)
		return status;
	r->isolation.confine.ends_with_parent = keeper_is_there();
	r->isolation.confine.labelled = keeper_has_labelled();
	if (confine_begin(&r->isolation.confine, &err) == 0)
		return -1;
	tool_report(NULL, &err);
	return 1;
}

/* Everything is open when the machine is there; from then on the process is confined. */
static int confine(struct run *r, struct err *err)
{
	struct confine_options *c = &r->isolation.confine;
	int ret = 0;

	for (unsigned i = 0; i < r->machine.n_disks && ret == 0; i++)
		ret = confine_allow_disk(c, r->machine.disk[i].disk.blk, err);
	if (ret == 0 && r->machine.firmware.vars)
		ret = confine_allow_disk(c, r->machine.firmware.vars, err);
	for (unsigned i = 0; i < r->machine.n_nets && ret == 0; i++)
		if (r->machine.net[i].net->opens_sockets)
			ret = confine_allow_guest_network(c, err);
	return ret ? ret : confine_process(c, err);
}

/* ---- in the background ----------------------------------------------------------- */

/* The child goes on; its parent stays until the machine is ready, or has failed, and ends with
 * that. Returns where the child says so, -1: nobody waits. */
static int go_into_background(void)
{
	int ends[2], status = 0;
	pid_t child;
	char ready;

	if (pipe2(ends, O_CLOEXEC) || (child = fork()) < 0) {
		tool_error("--daemonize: %s", strerror(errno));
		exit(1);
	}
	if (child == 0) {
		close(ends[0]);
		setsid();
		return ends[1];
	}
	close(ends[1]);
	if (read(ends[0], &ready, 1) == 1)
		_exit(0);
	if (waitpid(child, &status, 0) < 0 || !WIFEXITED(status))
		_exit(1);
	if (WEXITSTATUS(status) > KEEPER_SIGNALLED)
		tool_error("--daemonize: the machine's process was ended by signal %d",
			WEXITSTATUS(status) - KEEPER_SIGNALLED);
	_exit(WEXITSTATUS(status) != 0);
}

/* It has no terminal from now on. */
static void tell_parent(int parent, int null)
{
	if (parent < 0)
		return;
	leave_terminal(null);
	if (write(parent, "", 1) < 1)
		tool_error("--daemonize: %s", strerror(errno));
	close(parent);
}

static int write_pidfile(const char *name, struct leftovers *l, struct err *err)
{
	FILE *f = name ? fopen(name, "we") : NULL;
	bool good;

	if (!name)
		return 0;
	good = f && fprintf(f, "%ld\n", (long)getpid()) > 0;
	if (f && fclose(f))
		good = false;
	if (f)
		leftovers_note(l, name);
	return good ? 0 : err_errno(err, errno, "--pidfile %s", name);
}

/* ---- the machine ----------------------------------------------------------------- */

static int open_disks(struct run *r, struct disk_spec *specs, struct err *err)
{
	for (unsigned i = 0; i < r->n_disks; i++) {
		if (disk_options_open(&specs[i], r->disk[i], err))
			return err_prefix(err, "--disk %s", r->disk[i]);
		r->machine.disk[r->machine.n_disks++] = specs[i].disk;
	}
	return 0;
}

/* Of a machine that did not come to be. */
static void close_disks(struct run *r)
{
	for (unsigned i = 0; i < r->machine.n_disks; i++)
		blk_close(r->machine.disk[i].disk.blk);
}

/* The last that is done before the guest runs. */
static int settle(struct run *r, struct machine *m, struct leftovers *l, struct err *err)
{
	int ret = write_pidfile(r->pidfile, l, err);

	machine_note_files(m, l);
	ret = ret ? ret : leftovers_watch(l, err);
	return ret ? ret : confine(r, err);
}

static int run_made(struct run *r, struct machine *m, int parent, struct err *err)
{
	struct leftovers leftovers = {.fd = -1};
	struct err closing = ERR_INIT;
	int null = open("/dev/null", O_RDWR | O_CLOEXEC), closed;
	int ret = null < 0 ? err_errno(err, errno, "/dev/null") : 0;

	ret = ret ? ret : settle(r, m, &leftovers, err);
	if (ret == 0) {
		tell_parent(parent, null);
		ret = machine_run(m, err);
	}
	if (null >= 0)
		close(null);
	closed = machine_free(m, &closing);
	if (ret == 0 && closed) {
		*err = closing;
		ret = closed;
	}
	leftovers_remove(&leftovers);
	return ret;
}

static int run_machine(struct run *r, int parent, struct err *err)
{
	struct disk_spec *specs = calloc(MACHINE_DISKS_MAX, sizeof(*specs));
	struct machine *m = NULL;
	int ret = specs ? open_disks(r, specs, err) : err_errno(err, ENOMEM, "disks");

	if (ret == 0 && !r->machine.kernel)
		ret = firmware_choose(&r->firmware, &r->machine.firmware, err);
	ret = ret ? ret : devices_open(&r->devices, &r->machine, err);
	if (ret == 0) {
		m = machine_new(&r->machine, err);
		ret = m ? 0 : -err->code;
	}
	if (m)
		ret = run_made(r, m, parent, err);
	else
		close_disks(r);
	devices_close(&r->machine);
	free(specs);
	return ret;
}

int byre_run(int argc, char **argv)
{
	struct run r = {.machine = {.firmware = {.log_fd = -1},
				.memory = {.bytes = MEMORY_DEFAULT},
				.topology = {1, 1, 1}}};
	struct err err = ERR_INIT;
	int status = run_options(&r, argc, argv), parent = -1;

	if (status < 0) {
		bool again = keeper_executed_it(&r.isolation.keeper, &parent);

		if (r.daemonize && !again)
			parent = go_into_background();
		if (r.daemonize)
			afterwards_leave_terminal();
		r.isolation.keeper.ready_fd = parent;
		status = begin(&r, argv - 1);
	}
	if (status < 0) {
		status = run_machine(&r, parent, &err) ? 1 : 0;
		if (status)
			tool_report(NULL, &err);
	}
	isolation_clear(&r.isolation);
	if (firmware_release(&r.machine.firmware)) {
		tool_error("the firmware's variables: not all of them were stored");
		status = 1;
	}
	secrets_clear();
	run_options_free(&r);
	return status;
}
