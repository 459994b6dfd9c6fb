/* SPDX-License-Identifier: BSD-2-Clause */
/* See support_files.h. */
#include "tests/unit/support_files.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include <linux/loop.h>

static char folder[PATH_MAX];
static pid_t owner;

static void fail(const char *what)
{
	perror(what);
	exit(99);
}

static void remove_folder(void)
{
	char path[2 * PATH_MAX];
	struct dirent *e;
	DIR *dir;

	if (getpid() != owner)
		return; /* a forked child that exits */
	dir = opendir(folder);
	if (!dir)
		return;
	while ((e = readdir(dir))) {
		snprintf(path, sizeof(path), "%s/%s", folder, e->d_name);
		if (strcmp(e->d_name, ".") && strcmp(e->d_name, ".."))
			remove(path);
	}
	closedir(dir);
	rmdir(folder);
}

static void make_folder(void)
{
	const char *tmp = getenv("TMPDIR");

	snprintf(folder, sizeof(folder), "%s/byre-test-XXXXXX",
		tmp && *tmp ? tmp : "/tmp");
	if (!mkdtemp(folder))
		fail(folder);
	owner = getpid();
	atexit(remove_folder);
}

const char *scratch_path(const char *name)
{
	static char *paths[256];
	static size_t n;
	char *path;

	if (!folder[0])
		make_folder();
	if (asprintf(&path, "%s/%s", folder, name) < 0)
		fail(name);
	for (size_t i = 0; i < n; i++) {
		if (strcmp(paths[i], path) == 0) {
			free(path);
			return paths[i];
		}
	}
	if (n == sizeof(paths) / sizeof(paths[0]))
		fail("too many scratch files");
	return paths[n++] = path;
}

const char *scratch_file(const char *name, uint64_t bytes)
{
	const char *path = scratch_path(name);
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

	if (fd < 0 || ftruncate(fd, bytes) < 0)
		fail(path);
	close(fd);
	return path;
}

bool program_there(const char *name)
{
	const char *const argv[] = {name, "--version", NULL};

	return program_run(argv) == 0;
}

pid_t program_start(const char *const argv[])
{
	pid_t pid;
	int null;

	if (strcmp(argv[1] ? argv[1] : "", "--version") != 0 && !program_there(argv[0]))
		return 0;
	pid = fork();
	if (pid < 0)
		fail("fork");
	if (pid == 0) {
		null = open("/dev/null", O_RDWR);
		dup2(null, 0);
		dup2(null, 1);
		dup2(null, 2);
		execvp(argv[0], (char *const *)argv);
		_exit(127);
	}
	return pid;
}

int program_run(const char *const argv[])
{
	pid_t pid = program_start(argv);
	int status;

	if (!pid)
		return 127;
	if (waitpid(pid, &status, 0) != pid)
		fail("waitpid");
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

void program_stop(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

static int configure_loop(int device, const char *path, unsigned sector_bytes)
{
	struct loop_config config = {
		.block_size = sector_bytes, .info.lo_flags = LO_FLAGS_AUTOCLEAR};
	int fd = open(path, O_RDWR | O_CLOEXEC), ret;

	if (fd < 0)
		return -1;
	config.fd = fd;
	ret = ioctl(device, LOOP_CONFIGURE, &config);
	close(fd);
	return ret;
}

const char *loop_device(const char *path, unsigned sector_bytes, int *fd)
{
	static char name[32];
	int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);

	if (control < 0)
		return NULL;
	/* Another process may take the free one first. */
	for (int tries = 0; tries < 8; tries++) {
		int n = ioctl(control, LOOP_CTL_GET_FREE);

		snprintf(name, sizeof(name), "/dev/loop%d", n);
		*fd = n < 0 ? -1 : open(name, O_RDWR | O_CLOEXEC);
		if (*fd >= 0 && configure_loop(*fd, path, sector_bytes) == 0) {
			close(control);
			return name;
		}
		if (*fd >= 0)
			close(*fd);
	}
	close(control);
	return NULL;
}
