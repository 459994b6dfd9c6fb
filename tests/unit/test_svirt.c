/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * sVirt's bookkeeping: pairs of categories are unique among processes and free when their
 * holder is dead, files are labelled by their role, and the last user puts a label back. Labels
 * are kept in a file here, since no SELinux is on where tests run.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/math.h"
#include "tests/unit/support_files.h"
#include "vmm/svirt.h"

/* ---- a store of labels: "FILE.label" beside each ------------------------------------ */

static int fail_get, fail_set; /* errno of the next attempts */

static int fake_get(void *arg, const char *path, char label[SVIRT_LABEL_MAX])
{
	char name[512];
	FILE *f;

	(void)arg;
	if (fail_get)
		return -fail_get;
	snprintf(name, sizeof(name), "%s.label", path);
	f = fopen(name, "re");
	if (!f)
		return -ENODATA;
	if (!fgets(label, SVIRT_LABEL_MAX, f))
		label[0] = '\0';
	fclose(f);
	return 0;
}

static int fake_set(void *arg, const char *path, const char *label)
{
	char name[512];
	FILE *f;

	(void)arg;
	if (fail_set)
		return -fail_set;
	snprintf(name, sizeof(name), "%s.label", path);
	if (!label[0])
		return unlink(name) && errno != ENOENT ? -errno : 0;
	f = fopen(name, "we");
	assert_non_null(f);
	fputs(label, f);
	fclose(f);
	return 0;
}

static const struct svirt_store fake = {fake_get, fake_set, NULL};

static const char *label_of(const char *path)
{
	static char label[SVIRT_LABEL_MAX];

	if (fake_get(NULL, path, label))
		return "";
	return label;
}

static struct svirt_options options;

static void open_one(struct svirt *s)
{
	struct err err = ERR_INIT;

	if (svirt_open(s, &options, &fake, &err))
		fail_msg("%s", err.msg);
}

static void close_one(struct svirt *s)
{
	struct err err = ERR_INIT;

	if (svirt_close(s, &err))
		fail_msg("%s", err.msg);
}

static void label(struct svirt *s, const char *path, enum svirt_role role)
{
	struct err err = ERR_INIT;

	if (svirt_label(s, path, role, &err))
		fail_msg("%s", err.msg);
}

/* Notes on files that the registry has: "DEV-INODE". */
static unsigned notes(void)
{
	DIR *dir = opendir(options.registry);
	struct dirent *e;
	unsigned n = 0;

	assert_non_null(dir);
	while ((e = readdir(dir)))
		n += strchr(e->d_name, '-') != NULL;
	closedir(dir);
	return n;
}

/* ---- pairs ----------------------------------------------------------------------- */

static void pairs_are_two_categories_in_order(void **state)
{
	struct svirt s;
	char text[SVIRT_LABEL_MAX];
	unsigned a, b;

	(void)state;
	for (unsigned i = 0; i < 200; i++) {
		open_one(&s);
		assert_int_equal(sscanf(s.pair, "c%u,c%u", &a, &b), 2);
		assert_true(a < b && b < SVIRT_CATEGORIES);
		svirt_process_label(&s, text);
		assert_true(strstr(text, "system_u:system_r:svirt_t:s0:c") == text);
		close_one(&s);
		snprintf(text, sizeof(text), "%s/%s", options.registry, s.pair);
		assert_int_equal(access(text, F_OK), -1);
	}
}

#define CHILDREN 40u

/* Each takes a pair, tells it, and keeps it until it is ended. */
static pid_t child_with_pair(int out)
{
	pid_t pid = fork();
	struct err err = ERR_INIT;
	struct svirt s;

	if (pid)
		return pid;
	alarm(60);
	if (svirt_open(&s, &options, &fake, &err) ||
		write(out, s.pair, sizeof(s.pair)) != sizeof(s.pair))
		_exit(1);
	for (;;)
		pause();
}

static void no_two_processes_have_the_same_pair(void **state)
{
	char pair[CHILDREN][sizeof(((struct svirt *)0)->pair)];
	pid_t pid[CHILDREN];
	int fds[2];

	(void)state;
	assert_int_equal(pipe(fds), 0);
	for (unsigned i = 0; i < CHILDREN; i++) {
		pid[i] = child_with_pair(fds[1]);
		assert_true(pid[i] > 0);
	}
	for (unsigned i = 0; i < CHILDREN; i++)
		assert_int_equal(read(fds[0], pair[i], sizeof(pair[i])), sizeof(pair[i]));
	for (unsigned i = 0; i < CHILDREN; i++)
		for (unsigned k = 0; k < i; k++)
			assert_string_not_equal(pair[i], pair[k]);
	for (unsigned i = 0; i < CHILDREN; i++) {
		kill(pid[i], SIGKILL);
		waitpid(pid[i], NULL, 0);
	}
	close(fds[0]);
	close(fds[1]);
}

static void a_pair_is_free_when_its_holder_is_dead(void **state)
{
	struct svirt first, second;
	struct err err = ERR_INIT;
	char path[256], pair[sizeof(first.pair)];
	int fds[2];
	pid_t pid;

	(void)state;
	assert_int_equal(pipe(fds), 0);
	pid = child_with_pair(fds[1]);
	assert_int_equal(read(fds[0], pair, sizeof(pair)), sizeof(pair));
	snprintf(path, sizeof(path), "%s/%s", options.registry, pair);
	assert_int_equal(access(path, F_OK), 0);
	assert_int_equal(
		svirt_open_pair(&first, &options, &fake, pair, &err), -EWOULDBLOCK);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	assert_int_equal(svirt_open_pair(&first, &options, &fake, pair, &err), 0);
	assert_int_equal(
		svirt_open_pair(&second, &options, &fake, pair, &err), -EWOULDBLOCK);
	close_one(&first);
	assert_int_equal(access(path, F_OK), -1);
	close(fds[0]);
	close(fds[1]);
}

static bool is_there(const char *name)
{
	char path[256];

	snprintf(path, sizeof(path), "%s/%s", options.registry, name);
	return access(path, F_OK) == 0;
}

static void put(const char *name)
{
	char path[256];

	snprintf(path, sizeof(path), "%s/%s", options.registry, name);
	fclose(fopen(path, "we"));
}

/* The registry may be a folder that is somebody else's, too. */
static void pairs_of_the_dead_are_swept_up_and_nothing_else(void **state)
{
	static const char *const strangers[] = {
		"c1,c2,v", "c2,c1", "c1,c1024", "main.c,v", "c1, c2", "a,b"};
	struct svirt s, other;

	(void)state;
	open_one(&s);
	open_one(&other);
	put("c1000,c1001");
	for (unsigned i = 0; i < ARRAY_LEN(strangers); i++)
		put(strangers[i]);
	close_one(&s);
	assert_false(is_there("c1000,c1001"));
	assert_true(is_there(other.pair));
	for (unsigned i = 0; i < ARRAY_LEN(strangers); i++)
		assert_true(is_there(strangers[i]));
	close_one(&other);
}

/* ---- files ----------------------------------------------------------------------- */

static void files_are_labelled_by_role_and_put_back(void **state)
{
	const char *disk = scratch_file("disk", 1), *base = scratch_file("base", 1),
		   *shared = scratch_file("shared", 1);
	char want[SVIRT_LABEL_MAX];
	struct svirt s;

	(void)state;
	fake_set(NULL, disk, "u:r:home_t:s0");
	fake_set(NULL, base, "u:r:base_t:s0");
	open_one(&s);
	label(&s, disk, SVIRT_WRITTEN);
	label(&s, base, SVIRT_READ);
	label(&s, shared, SVIRT_SHARED);
	snprintf(want, sizeof(want), "system_u:object_r:svirt_image_t:s0:%s", s.pair);
	assert_string_equal(label_of(disk), want);
	assert_string_equal(label_of(base), "system_u:object_r:virt_content_t:s0");
	assert_string_equal(label_of(shared), "system_u:object_r:svirt_image_t:s0");
	/* Once more, as what only reads it: it is written all the same. */
	label(&s, disk, SVIRT_READ);
	assert_string_equal(label_of(disk), want);
	assert_int_equal(s.n_files, 3);
	close_one(&s);
	assert_string_equal(label_of(disk), "u:r:home_t:s0");
	assert_string_equal(label_of(base), "u:r:base_t:s0");
	assert_string_equal(label_of(shared), ""); /* it had none */
	assert_int_equal(notes(), 0);
}

static void the_last_reader_puts_it_back(void **state)
{
	const char *base = scratch_file("common", 1);
	struct svirt first, second;
	struct err err = ERR_INIT;

	(void)state;
	fake_set(NULL, base, "u:r:base_t:s0");
	open_one(&first);
	open_one(&second);
	label(&first, base, SVIRT_READ);
	label(&second, base, SVIRT_READ);
	/* Nobody writes what another reads. */
	close_one(&first);
	assert_string_equal(label_of(base), "system_u:object_r:virt_content_t:s0");
	open_one(&first);
	assert_int_equal(svirt_label(&first, base, SVIRT_WRITTEN, &err), -EBUSY);
	assert_non_null(strstr(err.msg, "common"));
	close_one(&second);
	assert_string_equal(label_of(base), "u:r:base_t:s0");
	label(&first, base, SVIRT_WRITTEN);
	open_one(&second);
	assert_int_equal(svirt_label(&second, base, SVIRT_READ, &err), -EBUSY);
	close_one(&second);
	close_one(&first);
	assert_string_equal(label_of(base), "u:r:base_t:s0");
	assert_int_equal(notes(), 0);
}

static void a_file_has_one_label_for_all(void **state)
{
	static const enum svirt_role roles[2][2] = {
		{SVIRT_SHARED, SVIRT_READ}, {SVIRT_READ, SVIRT_SHARED}};
	const char *disk = scratch_file("lun", 1);
	struct svirt first, second;
	struct err err = ERR_INIT;

	(void)state;
	for (unsigned i = 0; i < 2; i++) {
		char before[SVIRT_LABEL_MAX];

		open_one(&first);
		open_one(&second);
		label(&first, disk, roles[i][0]);
		snprintf(before, sizeof(before), "%s", label_of(disk));
		assert_int_equal(svirt_label(&second, disk, roles[i][1], &err), -EBUSY);
		assert_string_equal(label_of(disk), before);
		label(&second, disk, roles[i][0]);
		close_one(&first);
		assert_string_equal(label_of(disk), before);
		close_one(&second);
		assert_string_equal(label_of(disk), "");
	}
	assert_int_equal(notes(), 0);
}

static void what_a_killed_one_left_is_put_back_by_the_next(void **state)
{
	const char *disk = scratch_file("left", 1);
	struct svirt s;
	pid_t pid;

	(void)state;
	fake_set(NULL, disk, "u:r:home_t:s0");
	pid = fork();
	if (pid == 0) {
		open_one(&s);
		label(&s, disk, SVIRT_WRITTEN);
		_exit(0); /* as if killed: nothing is put back */
	}
	waitpid(pid, NULL, 0);
	assert_non_null(strstr(label_of(disk), "svirt_image_t"));
	open_one(&s);
	label(&s, disk, SVIRT_READ);
	close_one(&s);
	assert_string_equal(label_of(disk), "u:r:home_t:s0");
}

/* Also if one in between could not label it. */
static void a_true_label_is_not_forgotten(void **state)
{
	const char *disk = scratch_file("kept", 1);
	struct err err = ERR_INIT;
	struct svirt s;

	(void)state;
	fake_set(NULL, disk, "u:r:home_t:s0");
	if (fork() == 0) {
		open_one(&s);
		label(&s, disk, SVIRT_WRITTEN);
		_exit(0);
	}
	wait(NULL);
	open_one(&s);
	fail_set = EPERM;
	assert_int_equal(svirt_label(&s, disk, SVIRT_WRITTEN, &err), -EPERM);
	fail_set = 0;
	assert_int_equal(notes(), 1);
	label(&s, disk, SVIRT_READ);
	close_one(&s);
	assert_string_equal(label_of(disk), "u:r:home_t:s0");
	assert_int_equal(notes(), 0);
}

static void what_cannot_be_labelled(void **state)
{
	const char *disk = scratch_file("nfs", 1);
	struct err err = ERR_INIT;
	struct svirt s;

	(void)state;
	open_one(&s);
	fail_set = ENOTSUP; /* a file system without labels is left alone */
	assert_int_equal(svirt_label(&s, disk, SVIRT_WRITTEN, &err), 0);
	assert_int_equal(s.n_files, 0);
	fail_get = ENOTSUP; /* also where that shows at the first look */
	assert_int_equal(svirt_label(&s, disk, SVIRT_WRITTEN, &err), 0);
	assert_int_equal(notes(), 0);
	fail_get = 0;
	fail_set = EPERM;
	assert_int_equal(svirt_label(&s, disk, SVIRT_WRITTEN, &err), -EPERM);
	assert_non_null(strstr(err.msg, "nfs"));
	assert_int_equal(svirt_label(&s, "/no/such/file", SVIRT_READ, &err), -ENOENT);
	fail_set = 0;
	assert_int_equal(notes(), 0);
	label(&s, disk, SVIRT_WRITTEN);
	fail_set = EIO;
	assert_int_equal(svirt_close(&s, &err), -EIO);
	assert_non_null(strstr(err.msg, "put back"));
	fail_set = 0;
}

static void options_are_checked(void **state)
{
	struct svirt_options o;
	struct err err = ERR_INIT;
	char longer[300] = "image=";

	(void)state;
	assert_int_equal(svirt_parse("", &o, &err), 0);
	assert_string_equal(o.registry, SVIRT_REGISTRY);
	assert_int_equal(svirt_parse("process=u:r:p_t:s0,image=u:r:i_t:s0", &o, &err), 0);
	assert_string_equal(o.process, "u:r:p_t:s0");
	assert_string_equal(o.image, "u:r:i_t:s0");
	assert_int_equal(svirt_parse("color=red", &o, &err), -EINVAL);
	memset(longer + 6, 'x', sizeof(longer) - 7);
	assert_int_equal(svirt_parse(longer, &o, &err), -EINVAL);
	assert_int_equal(svirt_parse("content=", &o, &err), -EINVAL);
	if (access("/sys/fs/selinux/enforce", F_OK))
		assert_int_equal(svirt_is_on(&err), -ENOTSUP);
}

static int make_registry(void **state)
{
	struct err err = ERR_INIT;

	(void)state;
	if (svirt_parse("", &options, &err))
		return -1;
	snprintf(options.registry, sizeof(options.registry), "%s",
		scratch_path("run/svirt"));
	return strcmp(options.registry, scratch_path("run/svirt"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(pairs_are_two_categories_in_order),
		cmocka_unit_test(no_two_processes_have_the_same_pair),
		cmocka_unit_test(a_pair_is_free_when_its_holder_is_dead),
		cmocka_unit_test(pairs_of_the_dead_are_swept_up_and_nothing_else),
		cmocka_unit_test(files_are_labelled_by_role_and_put_back),
		cmocka_unit_test(a_file_has_one_label_for_all),
		cmocka_unit_test(a_true_label_is_not_forgotten),
		cmocka_unit_test(the_last_reader_puts_it_back),
		cmocka_unit_test(what_a_killed_one_left_is_put_back_by_the_next),
		cmocka_unit_test(what_cannot_be_labelled),
		cmocka_unit_test(options_are_checked),
	};

	return cmocka_run_group_tests(tests, make_registry, NULL);
}
