/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Who holds an image: what is found on this host, the note that is left for others, and that
 * a note of a stranger's making says nothing it should not.
 */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "block/imglock.h"
#include "tests/unit/support_files.h"

#define NO_WRITERS (IMGLOCK_CONSISTENT_READ | IMGLOCK_WRITE_UNCHANGED)

static void put(const char *path, const char *text)
{
	FILE *f = fopen(path, "we");

	assert_non_null(f);
	fputs(text, f);
	fclose(f);
}

static void holders_are_listed_with_what_they_hold(void **state)
{
	const char *path = scratch_file("held.img", 4096);
	struct imglock_holder list[4];
	struct imglock lock = {0};
	int holder = open(path, O_RDWR | O_CLOEXEC),
	    fd = open(path, O_RDONLY | O_CLOEXEC);
	unsigned n = 9;

	(void)state;
	assert_int_equal(imglock_holders(fd, path, list, 4, &n), 0);
	assert_int_equal(n, 0);
	assert_int_equal(
		imglock_set(&lock, holder, path, IMGLOCK_CONSISTENT_READ | IMGLOCK_WRITE,
			NO_WRITERS, NULL),
		0);
	assert_int_equal(imglock_holders(fd, path, list, 4, &n), 0);
	assert_int_equal(n, 1);
	assert_int_equal(list[0].owner.pid, getpid());
	assert_int_equal(list[0].perm, IMGLOCK_CONSISTENT_READ | IMGLOCK_WRITE);
	assert_int_equal(list[0].unshared, IMGLOCK_WRITE | IMGLOCK_RESIZE);
	assert_string_equal(list[0].owner.program, "test_lockowner");
	/* The holder itself sees nobody else. */
	assert_int_equal(imglock_holders(holder, path, list, 4, &n), 0);
	assert_int_equal(n, 0);
	close(holder);
	close(fd);
}

static void a_note_names_its_writer(void **state)
{
	const char *path = scratch_file("noted.img", 4096);
	const char *note = scratch_path(".noted.img.owner");
	struct lock_owner o;
	char host[65], text[200];

	(void)state;
	assert_false(lock_note_read(path, &o));
	lock_note_write(path);
	assert_int_equal(access(note, F_OK), 0);
	assert_true(lock_note_read(path, &o));
	assert_int_equal(gethostname(host, sizeof(host)), 0);
	assert_string_equal(o.host, host);
	assert_int_equal(o.pid, getpid());
	assert_string_equal(o.program, "test_lockowner");
	assert_true(o.since[0]);
	lock_owner_text(&o, text, sizeof(text));
	assert_non_null(strstr(text, "test_lockowner, pid "));
	assert_non_null(strstr(text, ", since 20"));
	lock_note_remove(path);
	assert_int_not_equal(access(note, F_OK), 0);
}

static void a_note_of_another_stays(void **state)
{
	const char *path = scratch_file("other.img", 4096);
	const char *note = scratch_path(".other.img.owner");

	(void)state;
	put(note, "{\"host\": \"elsewhere\", \"pid\": 1, \"program\": \"byre-io\"}");
	lock_note_remove(path);
	assert_int_equal(access(note, F_OK), 0);
}

static void what_is_no_note_is_not_read(void **state)
{
	static const char *const no_notes[] = {"", "x", "[]", "null", "{", "12"};
	const char *path = scratch_file("odd.img", 4096);
	const char *note = scratch_path(".odd.img.owner");
	struct lock_owner o;
	char text[200];

	(void)state;
	for (size_t i = 0; i < sizeof(no_notes) / sizeof(*no_notes); i++) {
		put(note, no_notes[i]);
		assert_false(lock_note_read(path, &o));
	}
	put(note, "{\"host\": \"a\\nb\\u001b[1m\", \"pid\": -4, \"program\": 7, "
		  "\"since\": []}");
	assert_true(lock_note_read(path, &o));
	assert_string_equal(o.host, "a?b?[1m");
	assert_int_equal(o.pid, 0);
	assert_string_equal(o.program, "");
	put(note, "{}");
	assert_true(lock_note_read(path, &o));
	lock_owner_text(&o, text, sizeof(text));
	assert_string_equal(text, "");
	assert_int_equal(unlink(note), 0);
	assert_int_equal(mkfifo(note, 0600), 0);
	assert_false(lock_note_read(path, &o));
	assert_int_equal(unlink(note), 0);
	assert_int_equal(symlink(path, note), 0);
	lock_note_write(path); /* does not follow it into the image */
	assert_false(lock_note_read(path, &o));
}

static void a_long_host_name_is_cut(void **state)
{
	const char *path = scratch_file("long.img", 4096);
	const char *note = scratch_path(".long.img.owner");
	char text[1200];
	struct lock_owner o;

	(void)state;
	snprintf(text, sizeof(text), "{\"host\": \"%01000d\"}", 0);
	put(note, text);
	assert_true(lock_note_read(path, &o));
	assert_int_equal(strlen(o.host), sizeof(o.host) - 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(holders_are_listed_with_what_they_hold),
		cmocka_unit_test(a_note_names_its_writer),
		cmocka_unit_test(a_note_of_another_stays),
		cmocka_unit_test(what_is_no_note_is_not_read),
		cmocka_unit_test(a_long_host_name_is_cut),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
