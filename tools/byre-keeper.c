/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The keeper. See byre-keeper.h.
 *
 * With SELinux the machine's process has to become another domain. Policies let a program do
 * that when it is executed, not while it runs, so the child executes this program once more,
 * with the label that it is to have in the environment; what it finds there it compares with
 * what it is.
 */
#include "tools/byre-keeper.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tools/common.h"
#include "vmm/afterwards.h"

#define LABEL_VARIABLE "BYRE_SVIRT_LABEL"
#define READY_VARIABLE "BYRE_SVIRT_READY"

static bool is_kept, is_labelled;

bool keeper_is_there(void)
{
	return is_kept;
}

bool keeper_has_labelled(void)
{
	return is_labelled;
}

/* ---- the machine's side ---------------------------------------------------------- */

static void hand_on(int ready_fd)
{
	char number[16];

	if (ready_fd < 0)
		return;
	snprintf(number, sizeof(number), "%d", ready_fd);
	setenv(READY_VARIABLE, number, 1);
	fcntl(ready_fd, F_SETFD, 0);
}

bool keeper_executed_it(const struct keeper_options *o, int *ready_fd)
{
	const char *number = getenv(READY_VARIABLE);

	*ready_fd = -1;
	if (!o->svirt_wanted || !getenv(LABEL_VARIABLE))
		return false;
	if (number && fcntl(atoi(number), F_SETFD, FD_CLOEXEC) == 0)
		*ready_fd = atoi(number);
	unsetenv(READY_VARIABLE);
	return true;
}

static int become_labelled(const struct svirt *s, int ready_fd, char **argv)
{
	char label[SVIRT_LABEL_MAX];
	struct err err = ERR_INIT;

	svirt_process_label(s, label);
	if (svirt_set_exec_label(label, &err)) {
		tool_report("--svirt", &err);
		return 1;
	}
	svirt_inherit(s);
	hand_on(ready_fd);
	setenv(LABEL_VARIABLE, label, 1);
	execv("/proc/self/exe", argv);
	tool_error("--svirt: cannot be executed as %s: %s; the policy has to let it be "
		   "entered by this program's file (qemu_exec_t)",
		label, strerror(errno));
	return 1;
}

/* Waits for the word that it is in its control group. */
static int begin_child(const struct svirt *s, int go_fd, int ready_fd, char **argv)
{
	sigset_t child;
	char go;

	prctl(PR_SET_PDEATHSIG, SIGTERM);
	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	sigprocmask(SIG_UNBLOCK, &child, NULL);
	if (read(go_fd, &go, 1) != 1)
		_exit(1); /* the keeper has said why */
	close(go_fd);
	is_kept = true;
	return s ? become_labelled(s, ready_fd, argv) : -1;
}

/* This is the program that was executed: it has to be what it was to become. */
static int check_label(const char *wanted)
{
	char label[SVIRT_LABEL_MAX];

	is_kept = true;
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	prctl(PR_SET_NAME, "byre"); /* and not "exe" */
	if (svirt_own_label(label) == 0 && !strcmp(label, wanted)) {
		is_labelled = true;
		unsetenv(LABEL_VARIABLE);
		return -1;
	}
	tool_error("--svirt: this process is %s and not %s", label, wanted);
	return 1;
}

/* ---- the keeper's side ----------------------------------------------------------- */

static int exit_status_of(int status, bool background)
{
	if (WIFEXITED(status))
		return WEXITSTATUS(status);
	if (background)
		return KEEPER_SIGNALLED + WTERMSIG(status);
	tool_error("the machine's process was ended by signal %d (%s)", WTERMSIG(status),
		strsignal(WTERMSIG(status)));
	return 1;
}

/* What the terminal sends the child gets itself. */
static int wait_for_child(pid_t pid, bool background)
{
	sigset_t signals;
	siginfo_t info;
	int status;

	sigemptyset(&signals);
	sigaddset(&signals, SIGCHLD);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGINT);
	sigaddset(&signals, SIGHUP);
	while (waitpid(pid, &status, WNOHANG) != pid)
		if (sigwaitinfo(&signals, &info) > 0 && info.si_signo != SIGCHLD &&
			info.si_code != SI_KERNEL)
			kill(pid, info.si_signo);
	return exit_status_of(status, background);
}

/* Who started it would wait for the end of what it says. */
static void go_without_terminal(void)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	leave_terminal(null);
	if (null > STDERR_FILENO)
		close(null);
}

static int keep_child(pid_t pid, const struct cgroup *group, int go_fd, bool background)
{
	struct err err = ERR_INIT;

	if (group && cgroup_add(group, pid, &err)) {
		tool_report("--cgroup", &err);
		close(go_fd);
		wait_for_child(pid, false);
		return 1;
	}
	if (background)
		go_without_terminal();
	if (write(go_fd, "", 1) != 1)
		tool_error("the machine's process is gone");
	close(go_fd);
	return wait_for_child(pid, background);
}

/* Signals are blocked, so that none is lost between the two. */
static int split(
	const struct svirt *s, const struct cgroup *group, int ready_fd, char **argv)
{
	sigset_t child;
	int go[2];
	pid_t pid;

	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	sigprocmask(SIG_BLOCK, &child, NULL);
	if (pipe2(go, O_CLOEXEC) || (pid = fork()) < 0) {
		tool_error("no process for the machine: %s", strerror(errno));
		return 1;
	}
	if (pid == 0) {
		close(go[1]);
		return begin_child(s, go[0], ready_fd, argv);
	}
	close(go[0]);
	return keep_child(pid, group, go[1], ready_fd >= 0);
}

static int make_group(const struct cgroup_options *o, struct cgroup *group)
{
	struct err err = ERR_INIT;
	char root[64];

	if (cgroup_find_root(root, &err) || cgroup_make(group, root, o, &err)) {
		tool_report("--cgroup", &err);
		return 1;
	}
	return -1;
}

static int label_all(const struct svirt_options *o, struct svirt *s,
	keeper_list_files *list, void *machine)
{
	struct err err = ERR_INIT;

	if (svirt_is_on(&err) || svirt_open(s, o, &svirt_kernel_store, &err)) {
		tool_report("--svirt", &err);
		return 1;
	}
	return list(machine, s) ? 1 : -1;
}

static int put_back(struct svirt *s, int status)
{
	struct err err = ERR_INIT;

	if (svirt_close(s, &err) == 0)
		return status;
	tool_report("--svirt", &err);
	return status ? status : 1;
}

int keeper_run(const struct keeper_options *o, char **argv, keeper_list_files *list,
	void *machine)
{
	const char *label = getenv(LABEL_VARIABLE);
	struct cgroup group = {.made = false};
	struct svirt *s;
	int status = -1;

	if (o->svirt_wanted && label)
		return check_label(label);
	if (!o->svirt_wanted && !o->cgroup_wanted)
		return -1;
	s = calloc(1, sizeof(*s));
	if (!s)
		return 1;
	s->lock_fd = s->pair_fd = -1;
	if (o->cgroup_wanted)
		status = make_group(&o->cgroup, &group);
	if (status < 0 && o->svirt_wanted)
		status = label_all(&o->svirt, s, list, machine);
	if (status < 0)
		status = split(o->svirt_wanted ? s : NULL,
			o->cgroup_wanted ? &group : NULL, o->ready_fd, argv);
	if (is_kept) { /* the child; what is here is the keeper's */
		free(s);
		return status;
	}
	cgroup_remove(&group);
	status = put_back(s, status);
	free(s);
	return status;
}
