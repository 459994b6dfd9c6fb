/* SPDX-License-Identifier: BSD-2-Clause */
/* What is done when a process has ended, and the files that go with it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/unit/support_files.h"
#include "vmm/afterwards.h"

static char *file(const char *name)
{
	return strdup(scratch_file(name, 1));
}

static void unlink_it(void *path)
{
	unlink(path);
}

/* Our only child; 0 where the kernel does not tell. */
static pid_t child(void)
{
	char path[64];
	int pid = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/task/%d/children", (int)getpid());
	f = fopen(path, "r");
	if (f && fscanf(f, "%d", &pid) != 1)
		pid = 0;
	if (f)
		fclose(f);
	return pid;
}

/* Whoever ends a whole service tells it, too. */
static void it_is_done_at_the_end_and_waited_for(void **state)
{
	struct err err = ERR_INIT;
	char *path = file("one");
	int fd = afterwards_begin(unlink_it, path, &err);

	(void)state;
	assert_true(fd >= 0);
	if (child())
		kill(child(), SIGTERM);
	usleep(10000);
	assert_int_equal(access(path, F_OK), 0);
	afterwards_end(fd);
	assert_int_not_equal(access(path, F_OK), 0);
	afterwards_end(-1);
	free(path);
}

static void files_go_when_it_is_told(void **state)
{
	struct leftovers l = {.fd = -1};
	struct err err = ERR_INIT;
	char *path = file("one"), *replaced = file("two"), *other = file("three"),
	     *rewritten = file("four");
	const struct timespec later[2] = {{.tv_sec = 1}, {.tv_sec = 1}};

	(void)state;
	leftovers_note(&l, path);
	leftovers_note(&l, replaced);
	leftovers_note(&l, scratch_path("none"));
	leftovers_note(&l, rewritten);
	assert_int_equal(l.n, 3);
	assert_int_equal(leftovers_watch(&l, &err), 0);
	assert_int_equal(rename(other, replaced), 0);
	assert_int_equal(utimensat(AT_FDCWD, rewritten, later, 0), 0);
	leftovers_remove(&l);
	assert_int_not_equal(access(path, F_OK), 0);
	assert_int_equal(access(replaced, F_OK), 0); /* it is another's */
	assert_int_equal(access(rewritten, F_OK), 0);
	unlink(replaced);
	unlink(rewritten);
	free(path);
	free(rewritten);
	free(replaced);
	free(other);
}

static void files_go_when_it_is_killed(void **state)
{
	char *path = file("one");
	int ends[2];
	pid_t pid;
	char byte;

	(void)state;
	assert_int_equal(pipe(ends), 0);
	pid = fork();
	if (pid == 0) {
		struct leftovers l = {.fd = -1};
		struct err err = ERR_INIT;

		leftovers_note(&l, path);
		if (leftovers_watch(&l, &err) == 0 && write(ends[1], "", 1) == 1)
			pause();
		_exit(1);
	}
	close(ends[1]);
	assert_int_equal(read(ends[0], &byte, 1), 1);
	assert_int_equal(access(path, F_OK), 0);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	for (unsigned i = 0; i < 6000 && access(path, F_OK) == 0; i++)
		usleep(10000);
	assert_int_not_equal(access(path, F_OK), 0);
	close(ends[0]);
	free(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(it_is_done_at_the_end_and_waited_for),
		cmocka_unit_test(files_go_when_it_is_told),
		cmocka_unit_test(files_go_when_it_is_killed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
