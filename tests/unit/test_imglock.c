/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Image locks: what conflicts, what a refusal says and leaves behind, and that the peer's
 * programs and we keep each other out.
 */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "block/imglock.h"
#include "tests/unit/support_files.h"

#define READER        IMGLOCK_CONSISTENT_READ
#define WRITER        (IMGLOCK_CONSISTENT_READ | IMGLOCK_WRITE | IMGLOCK_RESIZE)
#define NO_WRITERS    (IMGLOCK_CONSISTENT_READ | IMGLOCK_WRITE_UNCHANGED)
#define NO_WRITERS_AT 201 /* byte that says so: the second permission, not shared */

struct user {
	int fd;
	struct imglock lock;
	struct err err;
};

static void user_open(struct user *u, const char *path)
{
	memset(u, 0, sizeof(*u));
	u->fd = open(path, O_RDWR | O_CLOEXEC);
	assert_true(u->fd >= 0);
}

static int user_set(struct user *u, unsigned perm, unsigned shared)
{
	memset(&u->err, 0, sizeof(u->err));
	return imglock_set(&u->lock, u->fd, "disk.img", perm, shared, &u->err);
}

/* What others may do is what only an independent description can tell. */
static int try_as_other(const char *path, unsigned perm, unsigned shared)
{
	struct user u;
	int ret;

	user_open(&u, path);
	ret = user_set(&u, perm, shared);
	close(u.fd);
	return ret;
}

static void every_pair_of_permissions_conflicts_as_defined(void **state)
{
	const char *path = scratch_file("pairs.img", 4096);

	(void)state;
	for (unsigned perm = 0; perm < 16; perm++) {
		for (unsigned shared = 0; shared < 16; shared += 3) {
			struct user u;

			user_open(&u, path);
			assert_int_equal(user_set(&u, perm, shared), 0);
			for (unsigned bit = 1; bit < 16; bit <<= 1) {
				assert_int_equal(try_as_other(path, bit, IMGLOCK_ALL),
					shared & bit ? 0 : -EAGAIN);
				assert_int_equal(
					try_as_other(path, 0, IMGLOCK_ALL & ~bit),
					perm & bit ? -EAGAIN : 0);
			}
			close(u.fd);
		}
	}
}

static void second_writer_is_refused_in_the_known_words(void **state)
{
	const char *path = scratch_file("two.img", 4096);
	struct user a, b;

	(void)state;
	user_open(&a, path);
	user_open(&b, path);
	assert_int_equal(user_set(&a, WRITER, NO_WRITERS), 0);
	assert_int_equal(user_set(&b, WRITER, NO_WRITERS), -EAGAIN);
	assert_string_equal(b.err.msg, "Failed to get \"write\" lock");
	assert_non_null(
		strstr(b.err.hint, "Is another process using the image [disk.img]?"));
	assert_non_null(strstr(b.err.hint, "this process"));
	assert_int_equal(user_set(&b, READER, NO_WRITERS), -EAGAIN);
	assert_string_equal(b.err.msg, "Failed to get shared \"write\" lock");
	close(a.fd);
	assert_int_equal(user_set(&b, WRITER, NO_WRITERS), 0);
	close(b.fd);
}

static void refused_user_keeps_what_it_had(void **state)
{
	const char *path = scratch_file("keep.img", 4096);
	struct user a, b;

	(void)state;
	user_open(&a, path);
	user_open(&b, path);
	assert_int_equal(user_set(&a, READER, IMGLOCK_ALL & ~IMGLOCK_RESIZE), 0);
	assert_int_equal(user_set(&b, READER | IMGLOCK_WRITE, IMGLOCK_ALL), 0);
	assert_int_equal(user_set(&b, WRITER, NO_WRITERS), -EAGAIN);
	/* Still holding write, still not holding resize nor refusing writers. */
	assert_int_equal(
		try_as_other(path, READER, IMGLOCK_ALL & ~IMGLOCK_WRITE), -EAGAIN);
	assert_int_equal(try_as_other(path, IMGLOCK_WRITE, IMGLOCK_ALL), 0);
	close(a.fd);
	assert_int_equal(try_as_other(path, 0, IMGLOCK_ALL & ~IMGLOCK_RESIZE), 0);
	close(b.fd);
}

static void giving_up_permissions_lets_others_in(void **state)
{
	const char *path = scratch_file("down.img", 4096);
	struct user a;

	(void)state;
	user_open(&a, path);
	assert_int_equal(user_set(&a, WRITER, NO_WRITERS), 0);
	assert_int_equal(try_as_other(path, WRITER, NO_WRITERS), -EAGAIN);
	assert_int_equal(user_set(&a, 0, IMGLOCK_ALL), 0);
	assert_int_equal(try_as_other(path, WRITER, NO_WRITERS), 0);
	close(a.fd);
}

static void refusal_names_the_process_that_holds_the_image(void **state)
{
	const char *path = scratch_file("held.img", 4096);
	char text[64];
	int ready[2];
	struct user u;
	pid_t pid;

	(void)state;
	assert_int_equal(pipe(ready), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		user_open(&u, path);
		if (user_set(&u, WRITER, NO_WRITERS) == 0 && write(ready[1], "x", 1) == 1)
			pause();
		_exit(1);
	}
	assert_int_equal(read(ready[0], text, 1), 1);
	user_open(&u, path);
	assert_int_equal(user_set(&u, WRITER, NO_WRITERS), -EAGAIN);
	snprintf(text, sizeof(text), "(test_imglock, pid %d)", (int)pid);
	assert_non_null(strstr(u.err.hint, text));
	program_stop(pid);
	close(u.fd);
	close(ready[0]);
	close(ready[1]);
}

static void refusal_names_the_holder_of_a_process_lock(void **state)
{
	struct flock fl = {
		.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = 201, .l_len = 1};
	const char *path = scratch_file("process.img", 4096);
	int ready[2], fd;
	char text[64];
	struct user u;
	pid_t pid;

	(void)state;
	assert_int_equal(pipe(ready), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		fd = open(path, O_RDWR);
		if (fcntl(fd, F_SETLK, &fl) == 0 && write(ready[1], "x", 1) == 1)
			pause();
		_exit(1);
	}
	assert_int_equal(read(ready[0], text, 1), 1);
	user_open(&u, path);
	assert_int_equal(user_set(&u, WRITER, NO_WRITERS), -EAGAIN);
	snprintf(text, sizeof(text), "(test_imglock, pid %d)", (int)pid);
	assert_non_null(strstr(u.err.hint, text));
	program_stop(pid);
	close(u.fd);
	close(ready[0]);
	close(ready[1]);
}

static void whole_file_lock_of_a_stranger_is_an_error(void **state)
{
	const char *path = scratch_file("strange.img", 4096);
	struct flock fl = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
	struct user a, b;

	(void)state;
	user_open(&a, path);
	user_open(&b, path);
	assert_int_equal(fcntl(a.fd, F_OFD_SETLK, &fl), 0);
	assert_int_equal(user_set(&b, READER, IMGLOCK_ALL), -EAGAIN);
	assert_string_equal(b.err.msg, "Failed to lock byte 100");
	close(a.fd);
	close(b.fd);
}

/* ---- beside the peer ------------------------------------------------------------- */

/* Waits until somebody keeps writers out of path. It asks only: a lock taken for a moment could be met by
 * the one that is waited for. */
static bool wait_until_held(const char *path)
{
	struct timespec tick = {.tv_nsec = 10000000};

	for (int i = 0; i < 6000; i++) {
		struct flock fl = {.l_type = F_WRLCK,
			.l_whence = SEEK_SET,
			.l_start = NO_WRITERS_AT,
			.l_len = 1};
		int fd = open(path, O_RDWR);

		assert_int_equal(fcntl(fd, F_OFD_GETLK, &fl), 0);
		close(fd);
		if (fl.l_type != F_UNLCK)
			return true;
		nanosleep(&tick, NULL);
	}
	return false;
}

static const char *peer_image(const char *name)
{
	const char *path = scratch_path(name);
	const char *const argv[] = {
		"qemu-img", "create", "-q", "-f", "qcow2", path, "1M", NULL};

	if (program_run(argv) != 0)
		skip();
	return path;
}

static void image_the_peer_holds_is_refused_here(void **state)
{
	const char *path = peer_image("peer.qcow2");
	const char *const argv[] = {"qemu-io", "-c", "sleep 60000", path, NULL};
	char text[64];
	struct user u;
	pid_t pid;

	(void)state;
	pid = program_start(argv);
	if (!pid)
		skip();
	assert_true(wait_until_held(path));
	user_open(&u, path);
	assert_int_equal(user_set(&u, WRITER, NO_WRITERS), -EAGAIN);
	assert_string_equal(u.err.msg, "Failed to get \"write\" lock");
	snprintf(text, sizeof(text), "(qemu-io, pid %d)", (int)pid);
	assert_non_null(strstr(u.err.hint, text));
	assert_int_equal(user_set(&u, READER, NO_WRITERS), -EAGAIN);
	assert_int_equal(user_set(&u, READER, IMGLOCK_ALL), 0);
	close(u.fd);
	program_stop(pid);
}

static void image_held_here_is_refused_by_the_peer(void **state)
{
	const char *path = peer_image("ours.qcow2");
	const char *const writer[] = {"qemu-io", "-c", "read 0 512", path, NULL};
	const char *const reader[] = {"qemu-io", "-r", "-c", "read 0 512", path, NULL};
	const char *const forced[] = {
		"qemu-io", "-U", "-r", "-c", "read 0 512", path, NULL};
	struct user u;

	(void)state;
	user_open(&u, path);
	assert_int_equal(program_run(writer), 0);
	assert_int_equal(user_set(&u, WRITER, NO_WRITERS), 0);
	assert_int_not_equal(program_run(writer), 0);
	assert_int_not_equal(program_run(reader), 0);
	assert_int_equal(program_run(forced), 0);
	assert_int_equal(user_set(&u, READER, NO_WRITERS), 0);
	assert_int_not_equal(program_run(writer), 0);
	assert_int_equal(program_run(reader), 0);
	close(u.fd);
	assert_int_equal(program_run(writer), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_pair_of_permissions_conflicts_as_defined),
		cmocka_unit_test(second_writer_is_refused_in_the_known_words),
		cmocka_unit_test(refused_user_keeps_what_it_had),
		cmocka_unit_test(giving_up_permissions_lets_others_in),
		cmocka_unit_test(refusal_names_the_process_that_holds_the_image),
		cmocka_unit_test(refusal_names_the_holder_of_a_process_lock),
		cmocka_unit_test(whole_file_lock_of_a_stranger_is_an_error),
		cmocka_unit_test(image_the_peer_holds_is_refused_here),
		cmocka_unit_test(image_held_here_is_refused_by_the_peer),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
