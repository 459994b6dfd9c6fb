/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Doing something on each thread. See everythread.h.
 *
 * The list of threads is read again until one reading finds none that has not done it: a
 * thread that was made meanwhile either comes from one that had done it, or is found. The
 * calling thread is the last, since it may not be able to read the list any more.
 */
#include "vmm/everythread.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/task.h"

#define THREADS_MAX 4096u
#define ANSWER_NS   (10ull * 1000 * 1000 * 1000)
#define LOOK_NS     (1000ull * 1000)

/* Of a call that is under way; the handler has no other way to find it. */
static struct {
	int (*fn)(void *arg);
	void *arg;
	int ret;          /* atomic */
	unsigned answers; /* atomic */
} call;

static void answer(int signal)
{
	int saved = errno, ret = call.fn(call.arg);

	(void)signal;
	if (ret)
		__atomic_store_n(&call.ret, ret, __ATOMIC_RELAXED);
	__atomic_fetch_add(&call.answers, 1, __ATOMIC_RELEASE);
	errno = saved;
}

/* Of io_uring or vhost: in our list, but never in our code. */
static bool is_kernels(pid_t tid)
{
	char path[64], name[32] = "";
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/task/%d/comm", (int)tid);
	f = fopen(path, "re");
	if (!f)
		return false;
	if (!fgets(name, sizeof(name), f))
		name[0] = '\0';
	fclose(f);
	return !strncmp(name, "iou-", 4) || !strncmp(name, "vhost-", 6);
}

struct roll {
	pid_t tid[THREADS_MAX];
	unsigned n;
};

static bool has_done_it(const struct roll *r, pid_t tid)
{
	for (unsigned i = 0; i < r->n; i++)
		if (r->tid[i] == tid)
			return true;
	return false;
}

/* One that has ended meanwhile is fine. */
static int wait_for_answer(pid_t tid, unsigned before)
{
	uint64_t end = clock_ns() + ANSWER_NS;

	while (__atomic_load_n(&call.answers, __ATOMIC_ACQUIRE) == before) {
		if (syscall(SYS_tgkill, getpid(), tid, 0))
			return errno == ESRCH ? 0 : -errno;
		if (clock_ns() > end)
			return -ETIMEDOUT;
		task_sleep_ns(LOOK_NS);
	}
	return __atomic_load_n(&call.ret, __ATOMIC_RELAXED);
}

static int ask(pid_t tid, const char *what, struct err *err)
{
	unsigned before = __atomic_load_n(&call.answers, __ATOMIC_RELAXED);
	int ret;

	if (is_kernels(tid))
		return 0;
	if (syscall(SYS_tgkill, getpid(), tid, THREAD_CALL_SIGNAL))
		return errno == ESRCH ? 0 : err_errno(err, errno, "%s", what);
	ret = wait_for_answer(tid, before);
	return ret ? err_errno(err, -ret, "%s: thread %d", what, (int)tid) : 0;
}

/* Asks those that have not done it. *more: there were some. */
static int ask_all(struct roll *r, bool *more, const char *what, struct err *err)
{
	DIR *dir = opendir("/proc/self/task");
	struct dirent *e;
	int ret = 0;

	*more = false;
	if (!dir)
		return err_errno(err, errno, "%s: /proc/self/task", what);
	while (ret == 0 && (e = readdir(dir))) {
		pid_t tid = (pid_t)atol(e->d_name);

		if (!isdigit((unsigned char)e->d_name[0]) || has_done_it(r, tid))
			continue;
		if (r->n == THREADS_MAX) {
			ret = err_set(err, EAGAIN, "%s: more than %u threads", what,
				THREADS_MAX);
			break;
		}
		r->tid[r->n++] = tid;
		*more = true;
		ret = ask(tid, what, err);
	}
	closedir(dir);
	return ret;
}

int every_thread(int (*fn)(void *arg), void *arg, const char *what, struct err *err)
{
	struct sigaction action = {.sa_handler = answer, .sa_flags = SA_RESTART}, before;
	struct roll *roll = calloc(1, sizeof(*roll));
	bool more = true;
	int ret = 0;

	if (!roll)
		return err_errno(err, ENOMEM, "%s", what);
	call.fn = fn;
	call.arg = arg;
	call.ret = 0;
	call.answers = 0;
	roll->tid[roll->n++] = (pid_t)syscall(SYS_gettid);
	sigaction(THREAD_CALL_SIGNAL, &action, &before);
	while (ret == 0 && more)
		ret = ask_all(roll, &more, what, err);
	sigaction(THREAD_CALL_SIGNAL, &before, NULL);
	free(roll);
	if (ret)
		return ret;
	ret = fn(arg);
	return ret ? err_errno(err, -ret, "%s", what) : 0;
}
