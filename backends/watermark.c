/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The watermark filter: a volume of fixed size is made larger by its administrator's
 * program before it is full.
 *
 *	driver=watermark,room=1G,hook=/usr/local/sbin/grow,file.filename=/dev/vg/lv
 *
 * A format takes space from the front of a device to its end, so how far writes reach is
 * how full it is. The mark lies `room` bytes before the end. The first write past it
 * starts the hook and goes on; the mark then is gone until the device has grown, so that
 * one crossing is one run. A format that finds no room asks for it (resize): that waits
 * for the hook that runs, or runs it, and looks how large the device is now.
 *
 * The hook is a program, run without a shell as
 *
 *	HOOK FILENAME END SIZE
 *
 * where END is how far was written or, where that does not fit, is to be written, and SIZE
 * that of the device, both in bytes. What it has to do is enlarge the device; whether it
 * did is seen by the device's size. Only options name it, never an image, and nodes that
 * are opened read-only never run it.
 *
 * It runs in a task of a loop of the node's own: requests come from any thread, and closing
 * waits for it. `lock` is over all that changes and over each resize of the child; it is
 * not held while the hook runs.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "backends/filter.h"
#include "base/log.h"
#include "base/math.h"
#include "base/task.h"

#define ROOM_DEFAULT    GiB
#define TIMEOUT_DEFAULT 60u
#define TIMEOUT_MAX     86400u
#define SECOND_NS       1000000000ull
#define LOOK_NS         (10ull * 1000 * 1000) /* how often the hook is looked at */
#define GRACE_NS        (5 * SECOND_NS)       /* from SIGTERM to SIGKILL */
#define RETRY_NS        (5 * SECOND_NS)       /* after a hook that brought nothing */
#define NO_MARK         UINT64_MAX

struct watermark {
	char *hook;
	uint64_t room, timeout_s;
	struct loop *loop; /* NULL: read-only, nothing will be written */
	_Atomic uint64_t mark;

	struct task_mutex lock;
	struct task_cond idle;
	bool running;
	uint64_t end, size; /* what the hook is told */
	uint64_t failed_ns; /* when it last brought nothing; 0 = it has not */
};

static struct watermark *watermark_of(const struct blk *b)
{
	return b->state;
}

/* ---- the hook -------------------------------------------------------------------- */

/* Our signals are not its own: none is blocked or ignored, and those of our terminal do
 * not reach it. Results go to stdout: what it prints is a message. */
static int spawn(const char *const argv[], pid_t *pid)
{
	static const int defaults[] = {
		SIGPIPE, SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM};
	posix_spawn_file_actions_t files;
	posix_spawnattr_t attr;
	sigset_t none, set;
	int ret;

	sigemptyset(&none);
	sigemptyset(&set);
	for (size_t i = 0; i < ARRAY_LEN(defaults); i++)
		sigaddset(&set, defaults[i]);
	posix_spawn_file_actions_init(&files);
	posix_spawnattr_init(&attr);
	posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_adddup2(&files, STDERR_FILENO, STDOUT_FILENO);
	posix_spawnattr_setsigmask(&attr, &none);
	posix_spawnattr_setsigdefault(&attr, &set);
	posix_spawnattr_setflags(&attr,
		POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
	ret = posix_spawn(pid, argv[0], &files, &attr, (char *const *)argv, environ);
	posix_spawn_file_actions_destroy(&files);
	posix_spawnattr_destroy(&attr);
	return -ret;
}

/* True when it has ended before the deadline. The status is 0 where somebody else in the
 * process took it. */
static bool wait_for(pid_t pid, uint64_t deadline_ns, int *status)
{
	for (;;) {
		pid_t got = waitpid(pid, status, WNOHANG);

		if (got < 0 && errno != EINTR)
			*status = 0;
		if (got == pid || (got < 0 && errno != EINTR))
			return true;
		if (clock_ns() >= deadline_ns)
			return false;
		task_sleep_ns(LOOK_NS);
	}
}

static void run(const char *const argv[], uint64_t timeout_s, const char *filename)
{
	const char *hook = argv[0];
	int status = 0, ret;
	pid_t pid;

	ret = spawn(argv, &pid);
	if (ret < 0) {
		log_line(LOG_LEVEL_WARNING, "%s: hook '%s' could not be run: %s",
			filename, hook, strerror(-ret));
		return;
	}
	if (!wait_for(pid, clock_ns() + timeout_s * SECOND_NS, &status)) {
		log_line(LOG_LEVEL_WARNING,
			"%s: hook '%s' has run for %" PRIu64 " seconds: ended", filename,
			hook, timeout_s);
		kill(-pid, SIGTERM);
		if (!wait_for(pid, clock_ns() + GRACE_NS, &status)) {
			kill(-pid, SIGKILL);
			wait_for(pid, UINT64_MAX, &status);
		}
		return;
	}
	if (WIFSIGNALED(status))
		log_line(LOG_LEVEL_WARNING, "%s: hook '%s' was ended by signal %d",
			filename, hook, WTERMSIG(status));
	else if (WEXITSTATUS(status))
		log_line(LOG_LEVEL_WARNING, "%s: hook '%s' failed with exit status %d",
			filename, hook, WEXITSTATUS(status));
}

/* Under lock: how large the device is now, and the mark for that. */
static void look_anew(struct blk *b)
{
	struct watermark *w = watermark_of(b);
	uint64_t before = blk_size(b), now;

	filter_resize(b, before, BLK_PREALLOC_OFF, NULL);
	now = blk_size(b);
	if (now <= before)
		return;
	atomic_store(&w->mark, now > w->room ? now - w->room : 0);
	w->failed_ns = 0;
}

static void hook_task(void *arg)
{
	struct blk *b = arg;
	struct watermark *w = watermark_of(b);
	const char *filename = blk_filename(b->file);
	char end[24], size[24];
	const char *argv[] = {w->hook, filename, end, size, NULL};

	snprintf(end, sizeof(end), "%" PRIu64, w->end);
	snprintf(size, sizeof(size), "%" PRIu64, w->size);
	run(argv, w->timeout_s, filename);
	task_lock(&w->lock);
	look_anew(b);
	if (blk_size(b) <= w->size) {
		w->failed_ns = clock_ns();
		log_line(LOG_LEVEL_WARNING,
			"%s: hook '%s' has run and the device is no larger", filename,
			w->hook);
	}
	w->running = false;
	task_cond_broadcast(&w->idle);
	task_unlock(&w->lock);
}

/* Under lock, with none running. */
static void start_hook(struct blk *b, uint64_t end)
{
	struct watermark *w = watermark_of(b);

	atomic_store(&w->mark, NO_MARK);
	w->end = end;
	w->size = blk_size(b);
	w->running = task_spawn(w->loop, hook_task, b) == 0;
	if (!w->running)
		log_line(LOG_LEVEL_WARNING, "%s: no memory to run hook '%s'",
			blk_filename(b->file), w->hook);
}

static void wait_idle(struct watermark *w)
{
	while (w->running)
		task_cond_wait(&w->idle, &w->lock);
}

/* ---- crossing -------------------------------------------------------------------- */

/* A write that reaches `end` is on its way. */
static void note_write(struct blk *b, uint64_t end)
{
	struct watermark *w = watermark_of(b);

	if (end <= atomic_load(&w->mark))
		return;
	task_lock(&w->lock);
	if (!w->running && end > atomic_load(&w->mark))
		start_hook(b, end);
	task_unlock(&w->lock);
}

static int watermark_pwritev(struct blk *b, uint64_t offset, uint64_t bytes,
	const struct iovec *iov, int niov, unsigned flags)
{
	note_write(b, offset + bytes);
	return filter_pwritev(b, offset, bytes, iov, niov, flags);
}

static int watermark_zero(struct blk *b, uint64_t offset, uint64_t bytes, unsigned flags)
{
	note_write(b, offset + bytes);
	return filter_zero(b, offset, bytes, flags);
}

static int watermark_copy_range(struct blk *src, uint64_t src_offset, struct blk *dst,
	uint64_t dst_offset, uint64_t bytes, unsigned flags)
{
	note_write(dst, dst_offset + bytes);
	return filter_copy_range(src, src_offset, dst, dst_offset, bytes, flags);
}

/* Several that find no room at once need not each wait for a hook that brings none. */
static bool failed_lately(const struct watermark *w)
{
	return w->failed_ns && clock_ns() - w->failed_ns < RETRY_NS;
}

/* What does not fit waits for the hook. */
static int watermark_resize(
	struct blk *b, uint64_t bytes, enum blk_prealloc prealloc, struct err *err)
{
	struct watermark *w = watermark_of(b);
	struct err first = ERR_INIT;
	int ret;

	task_lock(&w->lock);
	wait_idle(w);
	look_anew(b);
	ret = filter_resize(b, bytes, prealloc, &first);
	if (ret == -ENOSPC && bytes > blk_size(b) && !failed_lately(w)) {
		start_hook(b, bytes);
		wait_idle(w);
		ret = filter_resize(b, bytes, prealloc, &first);
	}
	task_unlock(&w->lock);
	if (ret < 0 && err)
		*err = first;
	return ret;
}

/* ---- the node -------------------------------------------------------------------- */

static int take_options(struct watermark *w, struct opts *opts, struct err *err)
{
	const char *hook = opts_take(opts, "hook");
	int ret;

	w->room = ROOM_DEFAULT;
	w->timeout_s = TIMEOUT_DEFAULT;
	ret = opts_take_size(opts, "room", &w->room, err);
	if (ret == 0)
		ret = opts_take_u64(opts, "hook-timeout", &w->timeout_s, err);
	if (ret < 0)
		return ret;
	if (!hook || hook[0] != '/')
		return err_set(err, EINVAL,
			"watermark: hook= has to be the path of a program, from / on");
	if (!w->timeout_s || w->timeout_s > TIMEOUT_MAX)
		return err_set(err, EINVAL,
			"watermark: hook-timeout=%" PRIu64 " is not between 1 and %u",
			w->timeout_s, TIMEOUT_MAX);
	if (access(hook, X_OK) != 0)
		return err_errno(err, errno, "watermark: hook '%s'", hook);
	w->hook = strdup(hook);
	return w->hook ? 0 : err_errno(err, ENOMEM, "watermark");
}

static int open_over(struct blk *b, struct opts *opts, struct err *err)
{
	struct watermark *w = watermark_of(b);
	uint64_t size;
	int ret = filter_open(b, opts, err);

	if (ret < 0)
		return ret;
	if (b->caps & BLK_CAP_GROW)
		return err_set(err, EINVAL,
			"watermark: '%s' grows by itself: there is no mark to be crossed",
			blk_filename(b->file));
	atomic_store(&w->mark, NO_MARK);
	if (!(b->flags & BLK_O_RDWR))
		return 0;
	size = blk_size(b);
	atomic_store(&w->mark, size > w->room ? size - w->room : 0);
	w->loop = loop_start(err);
	return w->loop ? 0 : -err->code;
}

static int watermark_open(struct blk *b, struct opts *opts, struct err *err)
{
	struct watermark *w = watermark_of(b);
	int ret = take_options(w, opts, err);

	if (ret == 0)
		ret = blk_need(b, BLK_NEEDS_PROGRAM, err);
	if (ret == 0)
		ret = open_over(b, opts, err);
	if (ret < 0)
		free(w->hook);
	return ret;
}

static int watermark_close(struct blk *b)
{
	struct watermark *w = watermark_of(b);

	if (w->loop)
		loop_stop(w->loop);
	free(w->hook);
	return 0;
}

const struct blk_driver blk_watermark_driver = {
	.name = "watermark",
	.kind = BLK_FILTER,
	.state_bytes = sizeof(struct watermark),
	.open = watermark_open,
	.close = watermark_close,
	.preadv = filter_preadv,
	.pwritev = watermark_pwritev,
	.flush = filter_flush,
	.zero = watermark_zero,
	.discard = filter_discard,
	.extent = filter_extent,
	.resize = watermark_resize,
	.copy_range = watermark_copy_range,
	.allocated = filter_allocated,
};
