/* SPDX-License-Identifier: BSD-2-Clause */
/* What is done when the machine has ended. See afterwards.h. */
#include "vmm/afterwards.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

/* As read() of one byte. */
static ssize_t await(int fd)
{
	ssize_t n;
	char byte;

	do
		n = read(fd, &byte, 1);
	while (n < 0 && errno == EINTR);
	return n;
}

static bool terminal_is_left;

void afterwards_leave_terminal(void)
{
	terminal_is_left = true;
}

void leave_terminal(int null)
{
	for (int fd = 0; null >= 0 && fd <= STDERR_FILENO; fd++)
		dup3(null, fd, 0); /* which a confined process may call */
}

/* A copy of the machine has what the machine has: nobody looks into it. What is to end the
 * machine, and may be sent to all of its control group, does not end this. */
static void become_another(void)
{
	prctl(PR_SET_DUMPABLE, 0);
	signal(SIGTERM, SIG_IGN);
	signal(SIGINT, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	setsid();
	if (terminal_is_left)
		leave_terminal(open("/dev/null", O_RDWR));
}

/* When the machine has closed its end, or is no more, it is time. Our own end stays open as long as this process is
 * there. The machine may leave itself an empty root folder (privilege.h), and with it all who share its mounts: so they
 * are not shared, where it has the right to do either. */
static void wait_for_end(int fd)
{
	int kept = dup2(fd, STDERR_FILENO + 1);

	fcntl(kept, F_SETFD, FD_CLOEXEC);
	unshare(CLONE_NEWNS);
	close_range((unsigned)kept + 1, ~0u, 0);
	if (write(kept, "", 1) == 1)
		await(kept);
}

int afterwards_begin(void (*fn)(void *arg), void *arg, struct err *err)
{
	int ends[2], ret;
	pid_t pid;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends))
		return err_errno(err, errno, "socketpair");
	pid = fork();
	if (pid == 0) {
		become_another();
		wait_for_end(ends[1]);
		fn(arg);
		_exit(0);
	}
	ret = pid < 0 ? err_errno(err, errno, "fork") : 0;
	close(ends[1]);
	if (ret == 0 && await(ends[0]) != 1)
		ret = err_set(err, EIO, "nobody waits for the machine's end");
	if (ret == 0)
		return ends[0];
	close(ends[0]);
	return ret;
}

void afterwards_end(int fd)
{
	if (fd < 0)
		return;
	shutdown(fd, SHUT_WR);
	await(fd);
	close(fd);
}

/* ---- files ----------------------------------------------------------------------- */

void leftovers_note(struct leftovers *l, const char *path)
{
	struct leftover *f = &l->file[l->n];
	struct stat st;

	if (l->n == LEFTOVERS_MAX || lstat(path, &st))
		return;
	*f = (struct leftover){strdup(path), st.st_dev, st.st_ino, st.st_mtim};
	l->n += f->path != NULL;
}

static bool is_there(const struct leftover *f)
{
	struct stat st;

	return lstat(f->path, &st) == 0 && st.st_dev == f->dev && st.st_ino == f->ino &&
	       st.st_mtim.tv_sec == f->modified.tv_sec &&
	       st.st_mtim.tv_nsec == f->modified.tv_nsec;
}

static void remove_all(void *arg)
{
	const struct leftovers *l = arg;

	for (unsigned i = 0; i < l->n; i++)
		if (is_there(&l->file[i]))
			unlink(l->file[i].path);
}

int leftovers_watch(struct leftovers *l, struct err *err)
{
	if (!l->n)
		return 0;
	l->fd = afterwards_begin(remove_all, l, err);
	return l->fd < 0 ? err_prefix(err, "a process that removes files at the end") : 0;
}

void leftovers_remove(struct leftovers *l)
{
	remove_all(l);
	afterwards_end(l->fd);
	for (unsigned i = 0; i < l->n; i++)
		free(l->file[i].path);
	*l = (struct leftovers){.fd = -1};
}
