/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * System calls made from tasks, and the worker pool. What is asked of one is also asked
 * outside any loop: results must be the same.
 */
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/aio.h"
#include "base/iov.h"
#include "base/math.h"
#include "base/task.h"
#include "tests/unit/support_engine.h"

static int temp_file(void)
{
	const char *dir = getenv("TMPDIR");
	char path[256];

	snprintf(path, sizeof(path), "%s/byre-aio-XXXXXX", dir ? dir : "/tmp");
	int fd = mkstemp(path);
	assert_true(fd >= 0);
	unlink(path);
	return fd;
}

/* fn(arg) in a task, then by the plain thread. */
static void in_and_out_of_a_loop(int (*fn)(void *arg))
{
	run_in_loop(fn, NULL);
	assert_int_equal(fn(NULL), 0);
}

static void fill(uint8_t *buf, size_t bytes, unsigned seed)
{
	for (size_t i = 0; i < bytes; i++)
		buf[i] = (uint8_t)(seed + i * 7 + (i >> 8));
}

static int write_then_read(void *arg)
{
	enum { BYTES = 300000, PARTS = 5 };
	uint8_t *out = malloc(BYTES), *in = malloc(BYTES);
	struct iovec iov[PARTS];
	int fd = temp_file();

	(void)arg;
	fill(out, BYTES, 3);
	for (size_t i = 0; i < PARTS; i++)
		iov[i] = (struct iovec){out + i * BYTES / PARTS, BYTES / PARTS};
	assert_int_equal(aio_pwritev(fd, iov, PARTS, 12345, 0), BYTES);
	for (size_t i = 0; i < PARTS; i++)
		iov[i].iov_base = in + i * BYTES / PARTS;
	assert_int_equal(aio_preadv(fd, iov, PARTS, 12345), BYTES);
	assert_memory_equal(in, out, BYTES);

	/* One segment takes another path in the engine. */
	memset(in, 0, BYTES);
	iov[0] = (struct iovec){in, 1000};
	assert_int_equal(aio_preadv(fd, iov, 1, 12345), 1000);
	assert_memory_equal(in, out, 1000);
	fill(out, 1000, 99);
	iov[0].iov_base = out;
	assert_int_equal(aio_pwritev(fd, iov, 1, 0, RWF_DSYNC), 1000);
	assert_int_equal(pread(fd, in, 1000, 0), 1000);
	assert_memory_equal(in, out, 1000);
	close(fd);
	free(out);
	free(in);
	return 0;
}

static void what_was_written_is_read_back(void **state)
{
	(void)state;
	in_and_out_of_a_loop(write_then_read);
}

static int read_at_the_end(void *arg)
{
	char buf[64];
	struct iovec iov[2] = {{buf, 32}, {buf + 32, 32}};
	int fd = temp_file();

	(void)arg;
	assert_int_equal(pwrite(fd, "0123456789", 10, 0), 10);
	assert_int_equal(aio_preadv(fd, iov, 2, 4), 6);
	assert_memory_equal(buf, "456789", 6);
	assert_int_equal(aio_preadv(fd, iov, 1, 10), 0);
	assert_int_equal(aio_preadv(fd, iov, 2, (uint64_t)1 << 40), 0);
	close(fd);
	return 0;
}

static void reads_at_the_end_are_short(void **state)
{
	(void)state;
	in_and_out_of_a_loop(read_at_the_end);
}

static int errors_come_back(void *arg)
{
	char buf[16] = "";
	struct iovec iov = {buf, sizeof(buf)};
	int fd = open("/dev/null", O_RDONLY);
	int pipe_fds[2];

	(void)arg;
	assert_true(fd >= 0);
	assert_int_equal(pipe(pipe_fds), 0);
	assert_int_equal(aio_pwritev(fd, &iov, 1, 0, 0), -EBADF);
	assert_int_equal(aio_preadv(-1, &iov, 1, 0), -EBADF);
	assert_int_equal(aio_fdatasync(-1), -EBADF);
	assert_int_equal(aio_fdatasync(pipe_fds[0]), -EINVAL);
	assert_int_equal(aio_fallocate(fd, 0, 0, 1), -EBADF);
	assert_int_equal(aio_poll(-1, POLLIN, 1000000000), -EBADF);
	assert_int_equal(aio_poll(9999, POLLIN, -1), -EBADF);
	assert_int_equal(aio_poll(9999, POLLIN, 0), -EBADF);
	close(pipe_fds[0]);
	close(pipe_fds[1]);
	close(fd);
	return 0;
}

static void errors_are_those_of_the_system_call(void **state)
{
	(void)state;
	in_and_out_of_a_loop(errors_come_back);
}

static int allocate_and_sync(void *arg)
{
	int fd = temp_file();
	struct stat st;

	(void)arg;
	assert_int_equal(aio_fallocate(fd, 0, 0, 1 << 20), 0);
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_size, 1 << 20);
	assert_int_equal(
		aio_fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 1 << 20),
		0);
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_size, 1 << 20);
	assert_true(st.st_blocks < 16);
	assert_int_equal(aio_fallocate(fd, 0, 0, 0), -EINVAL);
	assert_int_equal(aio_fdatasync(fd), 0);
	close(fd);
	return 0;
}

static void fallocate_and_fdatasync_work(void **state)
{
	(void)state;
	in_and_out_of_a_loop(allocate_and_sync);
}

/* Many requests at once, more than the submission queue holds. */
#define FLOCK_TASKS 400
#define FLOCK_BLOCK 4096

struct sheep {
	int fd;
	unsigned index;
};

static int write_and_check_block(void *arg)
{
	const struct sheep *s = arg;
	uint8_t *out = malloc(FLOCK_BLOCK), *in = malloc(FLOCK_BLOCK);
	struct iovec iov = {out, FLOCK_BLOCK};
	uint64_t offset = (uint64_t)s->index * FLOCK_BLOCK;

	fill(out, FLOCK_BLOCK, s->index);
	for (int i = 0; i < 3; i++) {
		iov.iov_base = out;
		assert_int_equal(aio_pwritev(s->fd, &iov, 1, offset, 0), FLOCK_BLOCK);
		iov.iov_base = in;
		memset(in, 0, FLOCK_BLOCK);
		assert_int_equal(aio_preadv(s->fd, &iov, 1, offset), FLOCK_BLOCK);
		assert_memory_equal(in, out, FLOCK_BLOCK);
	}
	free(out);
	free(in);
	return 0;
}

static int flock_(void *arg)
{
	static struct sheep sheep[FLOCK_TASKS];
	struct task_group g;
	int fd = temp_file();

	(void)arg;
	task_group_init(&g);
	for (unsigned i = 0; i < FLOCK_TASKS; i++) {
		sheep[i] = (struct sheep){fd, i};
		assert_int_equal(
			task_group_spawn(&g, NULL, write_and_check_block, &sheep[i]), 0);
	}
	assert_int_equal(task_group_wait(&g), 0);
	close(fd);
	return 0;
}

static void more_requests_than_the_queue_holds_all_complete(void **state)
{
	(void)state;
	run_in_loop(flock_, NULL);
}

/* Large enough that engines treat them apart. */
#define LARGE_BYTES (1u << 20)

static int write_and_check_large(void *arg)
{
	const struct sheep *s = arg;
	uint8_t *out = malloc(LARGE_BYTES), *in = calloc(1, LARGE_BYTES);
	struct iovec iov[2] = {{out, 4096}, {out + 4096, LARGE_BYTES - 4096}};
	uint64_t offset = (uint64_t)s->index * LARGE_BYTES;

	fill(out, LARGE_BYTES, s->index);
	assert_int_equal(aio_pwritev(s->fd, iov, 2, offset, 0), LARGE_BYTES);
	iov[0].iov_base = in;
	iov[1].iov_base = in + 4096;
	assert_int_equal(aio_preadv(s->fd, iov, 2, offset), LARGE_BYTES);
	assert_memory_equal(in, out, LARGE_BYTES);
	free(out);
	free(in);
	return 0;
}

static int large_side_by_side(void *arg)
{
	struct sheep sheep[8];
	struct task_group g;
	int fd = temp_file();

	(void)arg;
	task_group_init(&g);
	for (unsigned i = 0; i < 8; i++) {
		sheep[i] = (struct sheep){fd, i};
		task_group_spawn(&g, NULL, write_and_check_large, &sheep[i]);
	}
	assert_int_equal(task_group_wait(&g), 0);
	close(fd);
	return 0;
}

static void large_requests_go_side_by_side(void **state)
{
	(void)state;
	in_and_out_of_a_loop(large_side_by_side);
}

/* ---- poll ------------------------------------------------------------------------ */

static int poll_timeouts(void *arg)
{
	int fds[2];

	(void)arg;
	assert_int_equal(pipe(fds), 0);
	assert_int_equal(aio_poll(fds[0], POLLIN, 0), 0);
	for (int i = 0; i < 3; i++) {
		uint64_t start = monotonic_ns();
		assert_int_equal(aio_poll(fds[0], POLLIN, 5000000), 0);
		assert_true(monotonic_ns() - start >= 5000000);
	}
	assert_int_equal(aio_poll(fds[1], POLLOUT, -1), POLLOUT);
	assert_int_equal(write(fds[1], "x", 1), 1);
	assert_int_equal(aio_poll(fds[0], POLLIN, 0), POLLIN);
	assert_int_equal(aio_poll(fds[0], POLLIN, 1000000000), POLLIN);
	assert_int_equal(aio_poll(fds[0], POLLIN, -1), POLLIN);
	close(fds[1]);
	assert_true(aio_poll(fds[0], POLLOUT, -1) & POLLHUP);
	close(fds[0]);
	return 0;
}

static void poll_answers_or_times_out(void **state)
{
	(void)state;
	in_and_out_of_a_loop(poll_timeouts);
}

static int poll_regular_file(void *arg)
{
	int fd = temp_file();

	(void)arg;
	assert_int_equal(aio_poll(fd, POLLIN | POLLOUT, -1), POLLIN | POLLOUT);
	close(fd);
	return 0;
}

static void regular_files_are_always_ready(void **state)
{
	(void)state;
	in_and_out_of_a_loop(poll_regular_file);
}

static void write_later(void *arg)
{
	task_sleep_ns(3000000);
	assert_int_equal(write(*(int *)arg, "x", 1), 1);
}

static int poll_until_written(void *arg)
{
	int fds[2];

	(void)arg;
	assert_int_equal(pipe(fds), 0);
	assert_int_equal(task_spawn(NULL, write_later, &fds[1]), 0);
	uint64_t start = monotonic_ns();
	assert_int_equal(aio_poll(fds[0], POLLIN, 10000000000), POLLIN);
	uint64_t took_ns = monotonic_ns() - start;
	assert_true(took_ns >= 3000000 && took_ns < 5000000000);
	close(fds[0]);
	close(fds[1]);
	return 0;
}

static void answered_poll_does_not_wait_for_its_timeout(void **state)
{
	(void)state;
	run_in_loop(poll_until_written, NULL);
}

/* Echo over a socket pair: a reader and a writer wait on the same descriptor at once. */
#define ECHO_BYTES (1 << 20)

static int send_all(void *arg)
{
	int fd = *(int *)arg;
	char buf[3000];

	memset(buf, 'e', sizeof(buf));
	for (size_t done = 0; done < ECHO_BYTES;) {
		ssize_t n = write(fd, buf, MIN(sizeof(buf), ECHO_BYTES - done));
		if (n > 0)
			done += (size_t)n;
		else
			assert_int_equal(aio_poll(fd, POLLOUT, -1) & POLLOUT, POLLOUT);
	}
	return 0;
}

static int receive_all(void *arg)
{
	int fd = *(int *)arg;
	char buf[5000];

	for (size_t done = 0; done < ECHO_BYTES;) {
		ssize_t n = read(fd, buf, sizeof(buf));
		assert_true(n != 0);
		if (n > 0)
			done += (size_t)n;
		else
			assert_int_equal(
				aio_poll(fd, POLLIN, 5000000000) & POLLIN, POLLIN);
	}
	return 0;
}

static int both_ways(void *arg)
{
	struct task_group g;
	int fds[2];

	(void)arg;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
	task_group_init(&g);
	for (int i = 0; i < 2; i++) {
		task_group_spawn(&g, NULL, send_all, &fds[i]);
		task_group_spawn(&g, NULL, receive_all, &fds[i]);
	}
	assert_int_equal(task_group_wait(&g), 0);
	close(fds[0]);
	close(fds[1]);
	return 0;
}

static void reader_and_writer_share_a_descriptor(void **state)
{
	(void)state;
	run_in_loop(both_ways, NULL);
}

static int poll_one_event(void *arg)
{
	assert_int_equal(aio_poll(*(int *)arg, POLLIN, 2000000000), POLLIN);
	return 0;
}

static int poll_by_many(void *arg)
{
	struct task_group g;
	int fds[2];

	(void)arg;
	assert_int_equal(pipe(fds), 0);
	task_group_init(&g);
	for (int i = 0; i < 5; i++)
		task_group_spawn(&g, NULL, poll_one_event, &fds[0]);
	assert_int_equal(task_spawn(NULL, write_later, &fds[1]), 0);
	assert_int_equal(task_group_wait(&g), 0);
	close(fds[0]);
	close(fds[1]);
	return 0;
}

static void every_poller_of_a_descriptor_is_answered(void **state)
{
	(void)state;
	run_in_loop(poll_by_many, NULL);
}

/* A poll that ends leaves nothing behind that would answer for the next descriptor of the
 * same number. */
static int reuse_descriptors(void *arg)
{
	(void)arg;
	for (int i = 0; i < 50; i++) {
		int fds[2];
		assert_int_equal(pipe(fds), 0);
		int kept = dup(fds[0]); /* the description lives on */
		assert_int_equal(aio_poll(fds[0], POLLIN, 100000), 0);
		close(fds[0]);
		assert_int_equal(write(fds[1], "x", 1), 1);
		int other[2];
		assert_int_equal(pipe(other), 0); /* takes the number */
		assert_int_equal(aio_poll(other[0], POLLIN, 100000), 0);
		close(other[0]);
		close(other[1]);
		close(kept);
		close(fds[1]);
	}
	return 0;
}

static void closed_descriptors_do_not_answer_for_their_successors(void **state)
{
	(void)state;
	run_in_loop(reuse_descriptors, NULL);
}

/* ---- workers --------------------------------------------------------------------- */

static long square(void *arg)
{
	long n = *(long *)arg;

	return n * n;
}

static int call_square(void *arg)
{
	long n = -1000000;

	(void)arg;
	assert_true(worker_call(WORKER_CPU, square, &n) == n * n);
	assert_true(worker_call(WORKER_BLOCKING, square, &n) == n * n);
	return 0;
}

static void worker_results_come_back(void **state)
{
	(void)state;
	in_and_out_of_a_loop(call_square);
}

static long thread_is_other(void *arg)
{
	return !pthread_equal(*(pthread_t *)arg, pthread_self());
}

static int where_jobs_run(void *arg)
{
	pthread_t self = pthread_self();

	assert_int_equal(worker_call(WORKER_CPU, thread_is_other, &self), *(int *)arg);
	return 0;
}

static void jobs_leave_the_loop_but_stay_with_a_plain_thread(void **state)
{
	int yes = 1, no = 0;

	(void)state;
	run_in_loop(where_jobs_run, &yes);
	assert_int_equal(where_jobs_run(&no), 0);
}

static struct {
	unsigned inside; /* atomic */
	unsigned wanted;
} crowd;

/* Holds its thread until `wanted` are inside at once, for at most a minute. */
static long join_crowd(void *arg)
{
	(void)arg;
	unsigned n = __atomic_add_fetch(&crowd.inside, 1, __ATOMIC_RELAXED);
	for (int i = 0; i < 60000 && n < crowd.wanted; i++) {
		usleep(1000);
		n = __atomic_load_n(&crowd.inside, __ATOMIC_RELAXED);
	}
	return n >= crowd.wanted;
}

static int call_join_crowd(void *arg)
{
	return worker_call(*(enum worker_kind *)arg, join_crowd, NULL) ? 0 : -ETIMEDOUT;
}

static int gather(void *arg)
{
	struct task_group g;

	task_group_init(&g);
	crowd.inside = 0;
	for (unsigned i = 0; i < crowd.wanted; i++)
		task_group_spawn(&g, NULL, call_join_crowd, arg);
	return task_group_wait(&g);
}

static void blocking_jobs_run_64_at_once(void **state)
{
	enum worker_kind kind = WORKER_BLOCKING;

	(void)state;
	crowd.wanted = 64;
	run_in_loop(gather, &kind);
}

static void cpu_jobs_run_one_a_processor(void **state)
{
	enum worker_kind kind = WORKER_CPU;
	cpu_set_t set;

	(void)state;
	assert_int_equal(sched_getaffinity(0, sizeof(set), &set), 0);
	assert_int_equal(worker_cpu_count(), CPU_COUNT(&set));
	crowd.wanted = worker_cpu_count();
	run_in_loop(gather, &kind);
}

/* Every kind of wait at once on several loops. */
#define MIX_LOOPS 4

static int mix(void *arg)
{
	int fd = *(int *)arg, fds[2];
	uint8_t *buf = calloc(1, 8192);
	struct iovec iov = {buf, 8192};

	assert_int_equal(pipe(fds), 0);
	for (unsigned i = 0; i < 25; i++) {
		long n = i;
		assert_int_equal(aio_pwritev(fd, &iov, 1, 8192 * (i % 7), 0), 8192);
		assert_int_equal(worker_call(WORKER_CPU, square, &n), n * n);
		assert_int_equal(aio_preadv(fd, &iov, 1, 8192 * (i % 7)), 8192);
		assert_int_equal(aio_poll(fds[0], POLLIN, 50000), 0);
		assert_int_equal(worker_call(WORKER_BLOCKING, square, &n), n * n);
		task_sleep_ns(10000);
	}
	close(fds[0]);
	close(fds[1]);
	free(buf);
	return 0;
}

static void all_waits_at_once_on_several_loops(void **state)
{
	struct loop *loops[MIX_LOOPS];
	struct task_group g;
	int fd = temp_file();

	(void)state;
	task_group_init(&g);
	for (int i = 0; i < MIX_LOOPS; i++) {
		loops[i] = loop_start(NULL);
		assert_non_null(loops[i]);
		for (int k = 0; k < 6; k++)
			assert_int_equal(task_group_spawn(&g, loops[i], mix, &fd), 0);
	}
	assert_int_equal(task_group_wait(&g), 0);
	for (int i = 0; i < MIX_LOOPS; i++)
		loop_stop(loops[i]);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_was_written_is_read_back),
		cmocka_unit_test(reads_at_the_end_are_short),
		cmocka_unit_test(errors_are_those_of_the_system_call),
		cmocka_unit_test(fallocate_and_fdatasync_work),
		cmocka_unit_test(more_requests_than_the_queue_holds_all_complete),
		cmocka_unit_test(large_requests_go_side_by_side),
		cmocka_unit_test(poll_answers_or_times_out),
		cmocka_unit_test(regular_files_are_always_ready),
		cmocka_unit_test(answered_poll_does_not_wait_for_its_timeout),
		cmocka_unit_test(reader_and_writer_share_a_descriptor),
		cmocka_unit_test(every_poller_of_a_descriptor_is_answered),
		cmocka_unit_test(closed_descriptors_do_not_answer_for_their_successors),
		cmocka_unit_test(worker_results_come_back),
		cmocka_unit_test(jobs_leave_the_loop_but_stay_with_a_plain_thread),
		cmocka_unit_test(blocking_jobs_run_64_at_once),
		cmocka_unit_test(cpu_jobs_run_one_a_processor),
		cmocka_unit_test(all_waits_at_once_on_several_loops),
	};

	return run_on_engines("aio", tests, ARRAY_LEN(tests));
}
