/* SPDX-License-Identifier: BSD-2-Clause */
/* Limits by a control group: what the kernel is told, in a folder that looks like one of its, and
 * that what makes no sense is refused before. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/math.h"
#include "tests/unit/support_files.h"
#include "vmm/cgroup.h"

static const char *read_back(const char *name)
{
	static char text[128];
	FILE *f = fopen(scratch_path(name), "re");

	assert_non_null(f);
	if (!fgets(text, sizeof(text), f))
		text[0] = '\0';
	fclose(f);
	return text;
}

static void options_are_checked(void **state)
{
	static const char *const bad[] = {"", "/", "..", "a/../b", "a//b", "a/", ".",
		"g,memory=much", "g,cpu=999999999", "g,io-weight=10001", "g,color=red"};
	struct cgroup_options o;
	struct err err = ERR_INIT;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		assert_int_equal(cgroup_parse(bad[i], &o, &err), -EINVAL);
	assert_int_equal(
		cgroup_parse(
			"/machines/a.b,memory=1G,cpu=150,pids=99,io-weight=50", &o, &err),
		0);
	assert_string_equal(o.path, "machines/a.b");
	assert_int_equal(o.memory_bytes, GiB);
	assert_int_equal(o.cpu_percent, 150);
	assert_int_equal(o.pids, 99);
	assert_int_equal(o.io_weight, 50);
}

/* One that is there stays there. */
static void limits_are_written(void **state)
{
	struct cgroup_options o;
	struct err err = ERR_INIT;
	struct cgroup g;
	char pid[32];

	(void)state;
	assert_int_equal(mkdir(scratch_path("root"), 0700), 0);
	assert_int_equal(mkdir(scratch_path("root/there"), 0700), 0);
	scratch_file("root/there/memory.max", 0);
	scratch_file("root/there/cpu.max", 0);
	scratch_file("root/there/pids.max", 0);
	scratch_file("root/there/io.weight", 0);
	scratch_file("root/there/cgroup.procs", 0);
	scratch_file("root/cgroup.subtree_control", 0);
	assert_int_equal(
		cgroup_parse("there,memory=64M,cpu=150,pids=99,io-weight=50", &o, &err),
		0);
	assert_int_equal(cgroup_make(&g, scratch_path("root"), &o, &err), 0);
	assert_false(g.made);
	assert_int_equal(cgroup_add(&g, getpid(), &err), 0);
	assert_string_equal(read_back("root/there/memory.max"), "67108864");
	assert_string_equal(read_back("root/there/cpu.max"), "150000 100000");
	assert_string_equal(read_back("root/there/pids.max"), "99");
	assert_string_equal(read_back("root/there/io.weight"), "default 50");
	snprintf(pid, sizeof(pid), "%ld", (long)getpid());
	assert_string_equal(read_back("root/there/cgroup.procs"), pid);
	cgroup_remove(&g);
	assert_int_equal(access(scratch_path("root/there"), F_OK), 0);
}

static void what_was_made_is_removed(void **state)
{
	struct cgroup_options o;
	struct err err = ERR_INIT;
	struct cgroup g;

	(void)state;
	assert_int_equal(cgroup_parse("new", &o, &err), 0);
	assert_int_equal(cgroup_make(&g, scratch_path("root"), &o, &err), 0);
	assert_true(g.made);
	assert_int_equal(access(scratch_path("root/new"), F_OK), 0);
	cgroup_remove(&g);
	assert_int_equal(access(scratch_path("root/new"), F_OK), -1);

	/* No such controller, and no folder above. */
	assert_int_equal(cgroup_parse("new,memory=1G", &o, &err), 0);
	assert_int_equal(cgroup_make(&g, scratch_path("root"), &o, &err), -ENOTSUP);
	assert_non_null(strstr(err.msg, "memory"));
	assert_int_equal(access(scratch_path("root/new"), F_OK), -1);
	assert_int_equal(cgroup_parse("above/new", &o, &err), 0);
	assert_int_equal(cgroup_make(&g, scratch_path("root"), &o, &err), -ENOENT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(options_are_checked),
		cmocka_unit_test(limits_are_written),
		cmocka_unit_test(what_was_made_is_removed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
