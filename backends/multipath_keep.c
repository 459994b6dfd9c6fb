/* SPDX-License-Identifier: BSD-2-Clause */
/* The keepers of a multipath node's lanes. See multipath.h. */
#include "backends/multipath.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "base/aio.h"
#include "base/iov.h"
#include "base/log.h"
#include "base/math.h"
#include "block/storage.h"

#define PROBE_BYTES 512u

static int is_same_disk(
	struct multipath *m, struct lane *l, struct blk *b, struct err *err)
{
	char *identity = NULL;
	int ret = blk_identity(b, &identity);

	if (ret == -ENOTSUP && (m->assume_same || m->set.n == 1))
		return 0;
	if (ret)
		return err_set(err, -ret,
			"path %u (%s): nothing proves which disk it is (assume-same=on "
			"does without)",
			l->index, blk_filename(b));
	task_lock(&m->lock);
	if (!m->identity) {
		m->identity = identity;
		identity = NULL;
	} else if (strcmp(m->identity, identity)) {
		ret = err_set(err, EINVAL,
			"path %u (%s) is another disk: %s, and the first is %s", l->index,
			blk_filename(b), identity, m->identity);
	}
	task_unlock(&m->lock);
	free(identity);
	return ret;
}

/* Growing is seen by the paths one after the other; smaller is another disk. */
static int has_size(struct multipath *m, struct lane *l, struct blk *b, struct err *err)
{
	uint64_t bytes = blk_size(b);
	int ret = 0;

	task_lock(&m->lock);
	if (!m->knows_size) {
		blk_set_size(m->b, bytes);
		m->b->limits = b->limits;
		m->b->caps = b->caps;
		m->knows_size = true;
	} else if (b->limits.request_align > m->b->limits.request_align) {
		/* It would write what lies around a request, too. */
		ret = err_set(err, EINVAL,
			"path %u (%s) has blocks of %u bytes, and the disk of %u",
			l->index, blk_filename(b), b->limits.request_align,
			m->b->limits.request_align);
	} else if (bytes < blk_size(m->b) && !(b->caps & BLK_CAP_GROW)) {
		ret = err_set(err, EINVAL,
			"path %u (%s) has %llu bytes, and the disk has %llu", l->index,
			blk_filename(b), (unsigned long long)bytes,
			(unsigned long long)blk_size(m->b));
	}
	m->lacks_fua |= !(b->caps & BLK_CAP_FUA);
	task_unlock(&m->lock);
	return ret;
}

static int ask(struct lane *l, struct blk *b, unsigned *priority)
{
	uint8_t *head;
	int ret;

	*priority = BLK_PATH_OPTIMIZED;
	task_rdlock(&l->m->probing);
	ret = blk_check_path(b, priority);
	if (ret == -ENOTSUP) {
		head = buf_alloc(PROBE_BYTES);
		ret = head ? blk_pread(b, 0, head, PROBE_BYTES) : -ENOMEM;
		buf_free(head);
	}
	task_rdunlock(&l->m->probing);
	return ret;
}

static void come_up(struct lane *l, unsigned priority)
{
	struct multipath *m = l->m;
	bool was_lost = l->path.state == PATH_FAILED || l->path.state == PATH_STANDBY;
	bool usable = priority > BLK_PATH_STANDBY;

	if (usable && l->fixed_priority)
		priority = l->fixed_priority;
	l->path.priority = priority;
	if (!usable) {
		mp_lose(l, PATH_STANDBY, -EHOSTDOWN, clock_ns());
		return;
	}
	if (l->path.state == PATH_UP)
		return;
	path_set_state(&l->path, PATH_UP, clock_ns());
	if (was_lost && !m->opening) {
		log_line(LOG_LEVEL_WARNING, "%s: path %u (%s) is back", m->b->filename,
			l->index, l->name);
		if (m->open_flags & BLK_O_RDWR)
			mp_recover(m); /* rule 7 */
	}
	mp_note_paths(m);
}

static bool is_up(struct lane *l)
{
	bool up;

	task_lock(&l->m->lock);
	up = l->path.state == PATH_UP;
	task_unlock(&l->m->lock);
	return up;
}

/* Once for a reason. The lock is held. */
static void tell(struct lane *l, int ret, const struct err *err)
{
	if (err->code && l->error != ret)
		log_line(LOG_LEVEL_ERROR, "%s: %s", l->m->b->filename, err->msg);
	l->error = ret;
}

/* Asks an opened path. */
static void check(struct lane *l)
{
	struct multipath *m = l->m;
	uint64_t began_ns = clock_ns();
	struct err err = ERR_INIT;
	unsigned priority;
	int ret;

	if (!is_up(l))
		blk_note_loss(l->b);
	ret = ask(l, l->b, &priority);
	if (ret == 0 && !is_up(l)) {
		ret = is_same_disk(m, l, l->b, &err);
		ret = ret ? ret : has_size(m, l, l->b, &err);
		ret = ret ? ret : mp_follow_guest(l, l->b, &err);
	}
	task_lock(&m->lock);
	if (ret == 0) {
		come_up(l, priority);
	} else {
		mp_lose(l, PATH_FAILED, ret, began_ns);
		tell(l, ret, &err);
	}
	task_unlock(&m->lock);
}

static int look_at_new(struct lane *l, struct blk *b, unsigned *priority, struct err *err)
{
	int ret = is_same_disk(l->m, l, b, err);

	ret = ret ? ret : has_size(l->m, l, b, err);
	if (ret)
		return ret;
	ret = ask(l, b, priority);
	if (ret)
		return err_errno(err, -ret, "path %u (%s)", l->index, blk_filename(b));
	ret = mp_reserve(l, b, err);
	return ret ? ret : mp_follow_guest(l, b, err);
}

static unsigned open_flags(struct multipath *m)
{
	unsigned flags;

	task_lock(&m->lock);
	flags = m->open_flags;
	task_unlock(&m->lock);
	return flags | BLK_O_PATH | BLK_O_DIRECT;
}

/* Each path has a page cache of its own where the kernel has one, so none is used. */
static struct blk *open_lane(struct lane *l, unsigned *priority, struct err *err)
{
	struct opts *opts = opts_dup(l->opts);
	struct blk *b =
		blk_open_child(l->m->b, opts, "path", NULL, open_flags(l->m), err);

	opts_free(opts);
	if (b && look_at_new(l, b, priority, err)) {
		blk_close(b);
		b = NULL;
	}
	return b;
}

/* Where the flags have changed since, nobody has told this one. */
static void adopt(struct lane *l, struct blk *b)
{
	struct multipath *m = l->m;
	struct err err = ERR_INIT;

	task_lock(&m->lock);
	l->b = b;
	free(l->name);
	l->name = strdup(blk_filename(b));
	path_set_state(&l->path, PATH_FAILED, clock_ns());
	task_unlock(&m->lock);
	if (blk_reflag(b, open_flags(m), &err))
		log_line(LOG_LEVEL_WARNING, "%s: path %u: %s", m->b->filename, l->index,
			err.msg);
}

static void reach(struct lane *l)
{
	struct multipath *m = l->m;
	struct err err = ERR_INIT;
	unsigned priority = 0;
	struct blk *b = open_lane(l, &priority, &err);

	if (b)
		adopt(l, b);
	task_lock(&m->lock);
	if (!l->tried && !b) {
		l->err = err;
		if (!m->opening)
			log_line(LOG_LEVEL_WARNING, "%s: path %u: %s", m->b->filename,
				l->index, err.msg);
	}
	l->tried = true;
	if (b)
		come_up(l, priority);
	task_cond_broadcast(&m->changed);
	task_unlock(&m->lock);
}

static bool is_closing(struct multipath *m)
{
	bool closing;

	task_lock(&m->lock);
	closing = m->closing;
	task_unlock(&m->lock);
	return closing;
}

/* Until then, or until the node is being closed. */
static void rest(struct multipath *m, uint64_t ns)
{
	aio_poll(m->wake_fd, POLLIN, (int64_t)ns);
}

/* A second at a time, since it may be lost meanwhile: then it is asked sooner. */
static void rest_between_checks(struct lane *l)
{
	struct multipath *m = l->m;
	uint64_t until_ns = clock_ns() + m->check_ns;

	do
		rest(m, MIN(m->check_ns, SECOND_NS));
	while (is_up(l) && !is_closing(m) && clock_ns() < until_ns);
}

void mp_keep(void *arg)
{
	struct lane *l = arg;
	struct multipath *m = l->m;

	while (!is_closing(m)) {
		if (l->b)
			check(l);
		else
			reach(l);
		rest_between_checks(l);
	}
	task_lock(&m->lock);
	mp_task_ended(m);
	task_unlock(&m->lock);
}

/* Time passes for those who wait. */
void mp_tick(void *arg)
{
	struct multipath *m = arg;
	bool closing;

	task_lock(&m->lock);
	while (!m->closing || m->tasks > 1 || m->doubts.head) {
		mp_start_recovering(m);
		if (m->opening || m->no_path_since_ns || m->lost_ns || m->doubts.head)
			task_cond_broadcast(&m->changed); /* and who waits looks next */
		doubts_forget(&m->doubts);
		closing = m->closing;
		task_unlock(&m->lock);
		if (closing)
			task_sleep_ns(TICK_NS);
		else
			rest(m, TICK_NS);
		task_lock(&m->lock);
	}
	mp_task_ended(m);
	task_unlock(&m->lock);
}
