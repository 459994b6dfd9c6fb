/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The multipath driver: one disk over two or more paths, each a protocol node of any kind.
 * Nobody above sees a path fail as long as another is left, or one comes back in time.
 *
 *	path.0=iscsi://a/iqn…/1,path.1=iscsi://b/iqn…/1
 *
 *	RUNNING ──a path is lost──> RECOVERING ──restored through another──> RUNNING
 *
 * 1. Paths are one disk: what each says it is (blk_identity) is compared before it is used,
 *    and each time it comes back.
 * 2. A request whose path was lost is made again on another. Requests of the same range
 *    never run at once (BLK_CAP_SERIALISE), so that repeating keeps their order.
 * 3. What was acknowledged and not flushed may be lost with a path: its server may have kept
 *    it in memory. So copies are kept until a flush (unflushed.h), as in session.h, but here
 *    and not in the paths: a path that repeated its own writes later would undo what others
 *    have written since. While RECOVERING no request is in flight; all copies are written
 *    again, in their order, through one path.
 * 4. A change whose path was lost without an answer is in doubt: it may still land, and must
 *    not do so over what is written later. Its own repetition is harmless, being the same
 *    bytes. First the disk is fenced (blk_fence: whatever was sent before is ended); where
 *    there is no such thing, changes of the same range wait, doubt= seconds at most.
 * 5. A flush goes to every path that took changes since the last one.
 * 6. A path that answers EIO, and another that does not, is lost; where all answer so, the
 *    disk has the error.
 *
 * Locks: `lock` around all of the state, held across no I/O; `probing` is shared by those
 * who ask a path how it is, and held alone by whoever fences, which would end their
 * questions. A keeper for each path, on the home loop, opens it, asks it now and then, and
 * brings it back.
 */
#include <assert.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "backends/paths.h"
#include "backends/unflushed.h"
#include "base/aio.h"
#include "base/iov.h"
#include "base/json.h"
#include "base/log.h"
#include "base/math.h"
#include "block/driver.h"
#include "block/format.h"

#define SECOND_NS     1000000000ull
#define TICK_NS       (SECOND_NS / 5)
#define KEPT_MAX      (64 * MiB)
#define SECONDS_MAX   (1u << 20)
#define OPEN_GRACE_NS (2 * SECOND_NS) /* for the other paths, when one is up */
#define PROBE_BYTES   512u

#define NO_PATH_S 60u
#define CHECK_S   5u
#define DOUBT_S   15u

struct lane {
	struct path path; /* first */
	struct multipath *m;
	unsigned index;
	struct opts *opts;       /* of its node, as "path" and "path.…" */
	unsigned fixed_priority; /* 0: as the path says */
	struct blk *b; /* set once, under the lock; only then anything but UNREACHED */
	char *name;
	bool tried, took_changes; /* since the last flush */
	struct err err;           /* of the first attempt to open */
	int error;                /* for which it was lost */
};

/* A change that may still land. */
struct doubt {
	uint64_t offset, bytes, until_ns;
	struct doubt *next;
};

struct multipath {
	struct blk *b;
	struct lane lane[PATHS_MAX];
	bool assume_same;
	uint64_t no_path_ns, check_ns, doubt_ns;
	struct loop *home;
	int wake_fd; /* readable when the node is being closed */
	struct task_rwlock probing;

	struct task_mutex lock; /* around everything below, and lanes */
	struct task_cond changed;
	struct path_set set;
	bool closing, opening, recovering, recoverer_runs;
	unsigned tasks;            /* on the home loop */
	unsigned in_flight;        /* requests given to a path */
	uint64_t no_path_since_ns; /* 0: one is up */
	uint64_t lost_ns;          /* when recovering began */
	int flush_error;           /* answers every flush for good */
	char *identity;
	bool knows_size;
	struct unflushed kept;
	struct doubt *doubts;

	uint64_t recoveries, last_recovery_ns, repeated_bytes;
};

static struct multipath *mp_of(const struct blk *b)
{
	return b->state;
}

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * SECOND_NS + (uint64_t)ts.tv_nsec;
}

/* ---- states; the lock is held ---------------------------------------------------- */

/* What only the way can be to blame for. */
static bool is_path_error(int ret)
{
	switch (-ret) {
	case ENOLINK:
	case ENOTCONN:
	case ECONNRESET:
	case ECONNABORTED:
	case EPIPE:
	case ESHUTDOWN:
	case ETIMEDOUT:
	case EHOSTDOWN:
	case EHOSTUNREACH:
	case ENETDOWN:
	case ENETUNREACH:
	case ENODEV:
	case ENXIO:
		return true;
	default:
		return false;
	}
}

/* The path said that it did not do it. */
static bool is_answer(int ret)
{
	return ret == -EHOSTDOWN || ret == -EIO;
}

static void note_paths(struct multipath *m)
{
	bool up = false;

	for (unsigned i = 0; i < m->set.n; i++)
		up |= m->lane[i].path.state == PATH_UP;
	if (up)
		m->no_path_since_ns = 0;
	else if (!m->no_path_since_ns)
		m->no_path_since_ns = now_ns();
	task_cond_broadcast(&m->changed);
}

static void recover(void *arg);

/* Without a stack for it the next tick tries again. */
static void start_recovering(struct multipath *m)
{
	if (!m->recovering || m->recoverer_runs || m->closing)
		return;
	if (task_spawn(m->home, recover, m) == 0) {
		m->recoverer_runs = true;
		m->tasks++;
	}
}

static void lose(struct lane *l, enum path_state state, int error)
{
	struct multipath *m = l->m;
	bool was_up = l->path.state == PATH_UP;

	path_set_state(&l->path, state, now_ns());
	if (!was_up)
		return;
	log_line(LOG_LEVEL_WARNING, "%s: path %u (%s) is lost: %s", m->b->filename,
		l->index, l->name, strerror(-error));
	l->error = error;
	l->took_changes = false;
	if (!m->recovering) {
		m->recovering = true;
		m->lost_ns = now_ns();
	}
	start_recovering(m);
	note_paths(m);
}

static bool is_overdue(const struct multipath *m)
{
	return m->no_path_since_ns && now_ns() - m->no_path_since_ns >= m->no_path_ns;
}

/* ---- doubts; the lock is held ---------------------------------------------------- */

static void forget_doubts(struct multipath *m, bool all)
{
	struct doubt **link = &m->doubts;

	while (*link) {
		struct doubt *d = *link;

		if (all || d->until_ns <= now_ns()) {
			*link = d->next;
			free(d);
		} else {
			link = &d->next;
		}
	}
}

static bool is_in_doubt(const struct multipath *m, uint64_t offset, uint64_t bytes)
{
	for (const struct doubt *d = m->doubts; d; d = d->next)
		if (ranges_overlap(offset, bytes, d->offset, d->bytes))
			return true;
	return false;
}

/* Where there is no memory for it, all of the disk is in doubt by the one there is. */
static void add_doubt(struct multipath *m, uint64_t offset, uint64_t bytes)
{
	struct doubt *d = malloc(sizeof(*d));

	if (!d && m->doubts) {
		m->doubts->offset = 0;
		m->doubts->bytes = UINT64_MAX;
		m->doubts->until_ns = now_ns() + m->doubt_ns;
	}
	if (!d)
		return;
	*d = (struct doubt){.offset = offset,
		.bytes = bytes,
		.until_ns = now_ns() + m->doubt_ns,
		.next = m->doubts};
	m->doubts = d;
}

static void wait_doubt(struct multipath *m, uint64_t offset, uint64_t bytes)
{
	while (!m->closing && is_in_doubt(m, offset, bytes)) {
		task_cond_wait(&m->changed, &m->lock); /* a tick at the latest */
		forget_doubts(m, false);
	}
}

/* ---- requests -------------------------------------------------------------------- */

struct request {
	int (*issue)(struct blk *path, const struct request *r);
	uint64_t offset, bytes;
	const struct iovec *iov;
	int niov;
	unsigned flags;
	struct blk_extent *out;
	bool changes, keeps;
};

/* Waits for a path to be usable. The lock is held. */
static int next_lane(
	struct multipath *m, uint64_t bytes, uint32_t not_these, struct lane **out)
{
	struct path *p = NULL;

	for (;;) {
		if (!m->recovering)
			p = paths_pick(&m->set, bytes, not_these, now_ns());
		if (p)
			break;
		if (m->closing || is_overdue(m) || (not_these && !m->recovering))
			return -ENOLINK;
		task_cond_wait(&m->changed, &m->lock);
	}
	*out = container_of(p, struct lane, path);
	return 0;
}

/* One size for all: a path may not know yet what was written past the end by another. */
static void share_size(struct multipath *m, struct lane *l)
{
	blk_raise_size(l->b, blk_size(m->b));
}

static void count(struct path *p, const struct request *r, int ret)
{
	if (ret)
		p->errors++;
	if (r->changes && r->iov) {
		p->writes++;
		p->written_bytes += r->bytes;
	} else if (r->iov) {
		p->reads++;
		p->read_bytes += r->bytes;
	} else {
		p->others++;
	}
}

/* One attempt. The lock is held, and not across the request. */
static int attempt(struct lane *l, const struct request *r)
{
	struct multipath *m = l->m;
	struct unflushed_write *copy = NULL;
	uint64_t began = now_ns();
	int ret;

	share_size(m, l);
	path_begin(&l->path, r->bytes);
	m->in_flight++;
	if (r->changes)
		l->took_changes = true;
	task_unlock(&m->lock);

	ret = r->issue(l->b, r);
	if (ret == 0 && r->keeps) {
		copy = r->iov ? unflushed_copy(r->offset, r->iov, r->niov)
			      : unflushed_zero(r->offset, r->bytes,
					r->flags & ~(unsigned)BLK_FUA);
		ret = copy ? 0 : -ENOMEM;
	}

	task_lock(&m->lock);
	if (copy)
		unflushed_add(&m->kept, copy);
	if (ret == 0)
		blk_raise_size(m->b, blk_size(l->b));
	path_end(&l->path, r->bytes, now_ns() - began);
	count(&l->path, r, ret);
	if (--m->in_flight == 0 && m->recovering)
		task_cond_broadcast(&m->changed);
	return ret;
}

/* Those that answered EIO where another then did it. */
static void lose_faulty(struct multipath *m, uint32_t faulty)
{
	for (unsigned i = 0; i < m->set.n; i++)
		if (faulty & 1u << i)
			lose(&m->lane[i], PATH_FAILED, -EIO);
}

/* The lock is held. */
static int run_locked(struct multipath *m, const struct request *r)
{
	uint32_t faulty = 0;
	struct lane *l;
	int ret;

	if (r->changes)
		wait_doubt(m, r->offset, r->bytes);
	for (;;) {
		ret = next_lane(m, r->bytes, faulty, &l);
		if (ret)
			return faulty ? -EIO : ret;
		ret = attempt(l, r);
		if (ret == -EIO) {
			faulty |= 1u << l->index;
			continue;
		}
		if (!is_path_error(ret))
			break;
		if (r->changes && !is_answer(ret))
			add_doubt(m, r->offset, r->bytes);
		lose(l, PATH_FAILED, ret);
	}
	if (ret == 0)
		lose_faulty(m, faulty);
	return ret;
}

static int flush_all(struct multipath *m);

static int run(struct blk *b, const struct request *r)
{
	struct multipath *m = mp_of(b);
	int ret = 0;

	task_lock(&m->lock);
	if (r->keeps && m->kept.head && m->kept.held_bytes + r->bytes > KEPT_MAX)
		ret = flush_all(m);
	if (ret == 0)
		ret = run_locked(m, r);
	task_unlock(&m->lock);
	return ret;
}

static bool keeps_copies(const struct blk *b)
{
	return !(b->flags & BLK_O_NO_FLUSH);
}

static int issue_read(struct blk *path, const struct request *r)
{
	return blk_preadv(path, r->offset, r->iov, r->niov, 0);
}

static int mp_preadv(
	struct blk *b, uint64_t offset, uint64_t bytes, const struct iovec *iov, int niov)
{
	struct request r = {.issue = issue_read,
		.offset = offset,
		.bytes = bytes,
		.iov = iov,
		.niov = niov};

	return run(b, &r);
}

static int issue_write(struct blk *path, const struct request *r)
{
	return blk_pwritev(path, r->offset, r->iov, r->niov, r->flags);
}

static int mp_pwritev(struct blk *b, uint64_t offset, uint64_t bytes,
	const struct iovec *iov, int niov, unsigned flags)
{
	struct request r = {.issue = issue_write,
		.offset = offset,
		.bytes = bytes,
		.iov = iov,
		.niov = niov,
		.flags = flags,
		.changes = true,
		.keeps = keeps_copies(b)};

	return run(b, &r);
}

static int issue_zero(struct blk *path, const struct request *r)
{
	return blk_zero(path, r->offset, r->bytes, r->flags | BLK_NO_FALLBACK);
}

static int mp_zero(struct blk *b, uint64_t offset, uint64_t bytes, unsigned flags)
{
	struct request r = {.issue = issue_zero,
		.offset = offset,
		.bytes = bytes,
		.flags = flags,
		.changes = true,
		.keeps = keeps_copies(b)};

	return run(b, &r);
}

static int issue_discard(struct blk *path, const struct request *r)
{
	return blk_discard(path, r->offset, r->bytes);
}

static int mp_discard(struct blk *b, uint64_t offset, uint64_t bytes)
{
	struct request r = {.issue = issue_discard,
		.offset = offset,
		.bytes = bytes,
		.changes = true};

	return run(b, &r);
}

static int issue_extent(struct blk *path, const struct request *r)
{
	return blk_extent(path, r->offset, r->bytes, r->out);
}

static int mp_extent(
	struct blk *b, uint64_t offset, uint64_t bytes, struct blk_extent *out)
{
	struct request r = {
		.issue = issue_extent, .offset = offset, .bytes = bytes, .out = out};
	int ret = run(b, &r);

	if (ret == 0 && (out->flags & BLK_EXT_HOST))
		out->host = b;
	return ret;
}

/* ---- flush ----------------------------------------------------------------------- */

struct flushing {
	struct lane *lane;
	int ret;
};

static int flush_lane(void *arg)
{
	struct flushing *f = arg;

	f->ret = blk_flush(f->lane->b);
	return 0;
}

/* Flushes these at once. Without a stack for a task, one after the other. */
static void flush_lanes(struct flushing *f, unsigned n)
{
	struct task_group group;

	task_group_init(&group);
	for (unsigned i = 0; i < n; i++)
		if (i == n - 1 || task_group_spawn(&group, NULL, flush_lane, &f[i]))
			flush_lane(&f[i]);
	task_group_wait(&group);
}

/* The lanes with changes to flush, which are no longer marked so. The lock is held. */
static unsigned collect(struct multipath *m, struct flushing *f)
{
	unsigned n = 0;

	for (unsigned i = 0; i < m->set.n; i++)
		if (m->lane[i].took_changes) {
			m->lane[i].took_changes = false;
			f[n++] = (struct flushing){.lane = &m->lane[i]};
		}
	return n;
}

/* True: once more, through what is left. A flush that one path cannot do is done when all
 * was repeated through another. */
static bool judge_flush(struct multipath *m, const struct flushing *f, unsigned n)
{
	bool again = false;

	for (unsigned i = 0; i < n; i++) {
		int ret = f[i].ret;
		struct lane *l = f[i].lane;

		if (ret == 0)
			continue;
		l->path.errors++;
		if (is_path_error(ret) ||
			(ret == -EIO && keeps_copies(m->b) &&
				paths_pick(&m->set, 0, 1u << l->index, now_ns()))) {
			lose(l, PATH_FAILED, ret);
			again = true;
		} else if (!m->flush_error) {
			m->flush_error = ret;
		}
	}
	return again;
}

/* The lock is held, and not across requests. */
static int flush_all(struct multipath *m)
{
	struct flushing f[PATHS_MAX];
	struct lane *any;
	uint64_t seq;
	bool again;
	unsigned n;
	int ret;

	do {
		ret = next_lane(m, 0, 0, &any); /* and nothing is being restored */
		if (ret)
			return ret;
		n = collect(m, f);
		seq = m->kept.seq;
		m->in_flight++;
		task_unlock(&m->lock);
		if (n)
			flush_lanes(f, n);
		task_lock(&m->lock);
		if (--m->in_flight == 0 && m->recovering)
			task_cond_broadcast(&m->changed);
		again = judge_flush(m, f, n);
	} while (again && !m->flush_error);
	if (m->flush_error)
		return m->flush_error;
	unflushed_drop(&m->kept, seq);
	return 0;
}

static int mp_flush(struct blk *b)
{
	struct multipath *m = mp_of(b);
	int ret;

	task_lock(&m->lock);
	ret = flush_all(m);
	task_unlock(&m->lock);
	return ret;
}

/* ---- recovering ------------------------------------------------------------------ */

static int repeat_one(struct blk *path, const struct unflushed_write *w)
{
	struct iovec iov = {.iov_base = (void *)(uintptr_t)w->data, .iov_len = w->bytes};

	/* It may be that only another path could zero. */
	return w->zero ? blk_zero(path, w->offset, w->bytes, w->flags)
		       : blk_pwritev(path, w->offset, &iov, 1, 0);
}

/* No request is in flight, and none begins: what is kept stays as it is. */
static int repeat_kept(struct multipath *m, struct lane *l)
{
	int ret = 0;

	for (const struct unflushed_write *w = m->kept.head; w && ret == 0; w = w->next) {
		ret = repeat_one(l->b, w);
		m->repeated_bytes += w->bytes;
	}
	return ret;
}

static int fence(struct multipath *m, struct lane *l)
{
	int ret;

	task_wrlock(&m->probing);
	ret = blk_fence(l->b);
	task_wrunlock(&m->probing);
	return ret;
}

/* Through this path, all becomes as it was acknowledged. The lock is not held. */
static int restore(struct multipath *m, struct lane *l, bool doubts, bool *fenced)
{
	int ret = doubts ? fence(m, l) : 0;

	*fenced = doubts && ret == 0;
	if (ret && is_path_error(ret))
		return ret;
	blk_raise_size(l->b, blk_size(m->b));
	return repeat_kept(m, l);
}

/* A path, when nothing is in flight. NULL: the node is being closed. The lock is held. */
static struct lane *wait_for_restoring(struct multipath *m)
{
	struct path *p = NULL;

	while (!m->closing) {
		if (m->in_flight == 0)
			p = paths_pick(&m->set, 0, 0, now_ns());
		if (p)
			return container_of(p, struct lane, path);
		task_cond_wait(&m->changed, &m->lock);
	}
	return NULL;
}

static void recovered(struct multipath *m, const struct lane *l, int ret)
{
	if (ret) {
		log_line(LOG_LEVEL_ERROR,
			"%s: unflushed data could not be written again through path %u: "
			"%s",
			m->b->filename, l->index, strerror(-ret));
		m->flush_error = ret;
	}
	m->recovering = false;
	m->recoveries++;
	m->last_recovery_ns = now_ns() - m->lost_ns;
	log_line(LOG_LEVEL_WARNING, "%s: goes on through path %u (%s) after %.1f s",
		m->b->filename, l->index, l->name, (double)m->last_recovery_ns / 1e9);
}

static void task_ended(struct multipath *m)
{
	m->tasks--;
	task_cond_broadcast(&m->changed);
}

static void recover(void *arg)
{
	struct multipath *m = arg;
	struct lane *l;

	task_lock(&m->lock);
	while (m->recovering && (l = wait_for_restoring(m))) {
		bool doubts = m->doubts, fenced;
		int ret;

		l->took_changes = true;
		task_unlock(&m->lock);
		ret = restore(m, l, doubts, &fenced);
		task_lock(&m->lock);
		if (fenced)
			forget_doubts(m, true);
		if (is_path_error(ret))
			lose(l, PATH_FAILED, ret);
		else
			recovered(m, l, ret);
	}
	m->recoverer_runs = false;
	task_ended(m);
	task_unlock(&m->lock);
}

/* ---- keeping a path -------------------------------------------------------------- */

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
	} else if (bytes < blk_size(m->b) && !(b->caps & BLK_CAP_GROW)) {
		ret = err_set(err, EINVAL,
			"path %u (%s) has %llu bytes, and the disk has %llu", l->index,
			blk_filename(b), (unsigned long long)bytes,
			(unsigned long long)blk_size(m->b));
	}
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
		lose(l, PATH_STANDBY, -EHOSTDOWN);
		return;
	}
	if (l->path.state == PATH_UP)
		return;
	path_set_state(&l->path, PATH_UP, now_ns());
	if (was_lost && !m->opening)
		log_line(LOG_LEVEL_WARNING, "%s: path %u (%s) is back", m->b->filename,
			l->index, l->name);
	note_paths(m);
}

static bool is_up(struct lane *l)
{
	bool up;

	task_lock(&l->m->lock);
	up = l->path.state == PATH_UP;
	task_unlock(&l->m->lock);
	return up;
}

/* Asks an opened path. */
static void check(struct lane *l)
{
	struct multipath *m = l->m;
	struct err err = ERR_INIT;
	unsigned priority;
	int ret = ask(l, l->b, &priority);

	if (ret == 0 && !is_up(l)) {
		ret = is_same_disk(m, l, l->b, &err);
		ret = ret ? ret : has_size(m, l, l->b, &err);
		if (ret && l->error != ret) /* once */
			log_line(LOG_LEVEL_ERROR, "%s: %s", m->b->filename, err.msg);
	}
	task_lock(&m->lock);
	if (ret == 0) {
		come_up(l, priority);
	} else {
		lose(l, PATH_FAILED, ret);
		l->error = ret;
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
	return ret ? err_errno(err, -ret, "path %u (%s)", l->index, blk_filename(b)) : 0;
}

/* Each path has a page cache of its own where the kernel has one, so none is used. */
static struct blk *open_lane(struct lane *l, unsigned *priority, struct err *err)
{
	struct opts *opts = opts_dup(l->opts);
	struct blk *b = blk_open_child(l->m->b, opts, "path", NULL,
		l->m->b->flags | BLK_O_PATH | BLK_O_DIRECT, err);

	opts_free(opts);
	if (b && look_at_new(l, b, priority, err)) {
		blk_close(b);
		b = NULL;
	}
	return b;
}

static void reach(struct lane *l)
{
	struct multipath *m = l->m;
	struct err err = ERR_INIT;
	unsigned priority = 0;
	struct blk *b = open_lane(l, &priority, &err);

	task_lock(&m->lock);
	if (!l->tried && !b) {
		l->err = err;
		if (!m->opening)
			log_line(LOG_LEVEL_WARNING, "%s: path %u: %s", m->b->filename,
				l->index, err.msg);
	}
	l->tried = true;
	if (b) {
		l->b = b;
		free(l->name);
		l->name = strdup(blk_filename(b));
		path_set_state(&l->path, PATH_FAILED, now_ns());
		come_up(l, priority);
	}
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

static void keep(void *arg)
{
	struct lane *l = arg;
	struct multipath *m = l->m;

	while (!is_closing(m)) {
		if (l->b)
			check(l);
		else
			reach(l);
		rest(m, l->path.state == PATH_UP ? m->check_ns
						 : MIN(m->check_ns, SECOND_NS));
	}
	task_lock(&m->lock);
	task_ended(m);
	task_unlock(&m->lock);
}

/* Time passes for those who wait. */
static void tick(void *arg)
{
	struct multipath *m = arg;

	task_lock(&m->lock);
	while (!m->closing) {
		start_recovering(m);
		if (m->opening || m->no_path_since_ns || m->doubts)
			task_cond_broadcast(&m->changed);
		task_unlock(&m->lock);
		rest(m, TICK_NS);
		task_lock(&m->lock);
	}
	task_ended(m);
	task_unlock(&m->lock);
}

/* ---- options --------------------------------------------------------------------- */

static int take_seconds(struct opts *opts, const char *key, uint64_t *ns, struct err *err)
{
	uint64_t seconds = *ns / SECOND_NS;
	int ret = opts_take_u64(opts, key, &seconds, err);

	if (ret == 0 && seconds > SECONDS_MAX)
		ret = err_set(err, EINVAL, "%s: at most %u seconds", key, SECONDS_MAX);
	*ns = seconds * SECOND_NS;
	return ret;
}

static int take_failback(struct opts *opts, uint64_t *ns, struct err *err)
{
	const char *word = opts_peek(opts, "failback");

	*ns = 0;
	if (!word)
		return 0;
	if (!strcmp(word, "immediate") || !strcmp(word, "manual")) {
		*ns = !strcmp(word, "manual") ? FAILBACK_NEVER : 0;
		opts_del(opts, "failback");
		return 0;
	}
	return take_seconds(opts, "failback", ns, err);
}

/* "path.N" and "path.N.…" become "path" and "path.…". False: there is none. */
static bool take_path(struct lane *l, struct opts *opts)
{
	char key[24], dotted[24];
	struct opts *below;
	const char *name;

	snprintf(key, sizeof(key), "path.%u", l->index);
	snprintf(dotted, sizeof(dotted), "path.%u.", l->index);
	if (!opts_peek(opts, key) && !opts_has_prefix(opts, dotted))
		return false;
	l->opts = opts_new();
	below = opts_take_prefix(opts, dotted);
	opts_merge(l->opts, below, "path.");
	opts_free(below);
	name = opts_take(opts, key);
	if (name)
		opts_set(l->opts, "path", name);
	return true;
}

static int take_priority(struct lane *l, struct opts *opts, struct err *err)
{
	uint64_t priority = 0;
	char key[24];
	int ret;

	snprintf(key, sizeof(key), "priority.%u", l->index);
	ret = opts_take_u64(opts, key, &priority, err);
	if (ret == 0 && (priority > 1000 || (priority && priority <= BLK_PATH_STANDBY)))
		ret = err_set(err, EINVAL, "%s: a number from %d to 1000", key,
			BLK_PATH_STANDBY + 1);
	l->fixed_priority = priority;
	return ret;
}

static int take_paths(struct multipath *m, struct opts *opts, struct err *err)
{
	int ret = 0;

	for (unsigned i = 0; i < PATHS_MAX && ret == 0; i++) {
		struct lane *l = &m->lane[i];

		l->m = m;
		l->index = i;
		l->err = (struct err)ERR_INIT;
		if (!take_path(l, opts))
			break;
		ret = take_priority(l, opts, err);
		m->set.path[i] = &l->path;
		m->set.n++;
	}
	if (ret == 0 && !m->set.n)
		ret = err_set(err, EINVAL, "multipath: no path is given (path.0=…)");
	return ret;
}

static int take_options(struct multipath *m, struct opts *opts, struct err *err)
{
	int selector = SELECT_SERVICE_TIME;
	int ret = take_paths(m, opts, err);

	m->no_path_ns = NO_PATH_S * SECOND_NS;
	m->check_ns = CHECK_S * SECOND_NS;
	m->doubt_ns = DOUBT_S * SECOND_NS;
	ret = ret ? ret
		  : opts_take_enum(opts, "selector", path_selector_names, &selector, err);
	ret = ret ? ret : take_failback(opts, &m->set.failback_ns, err);
	ret = ret ? ret : take_seconds(opts, "no-path-timeout", &m->no_path_ns, err);
	ret = ret ? ret : take_seconds(opts, "check-interval", &m->check_ns, err);
	ret = ret ? ret : take_seconds(opts, "doubt", &m->doubt_ns, err);
	ret = ret ? ret : opts_take_bool(opts, "assume-same", &m->assume_same, err);
	if (ret == 0 && !m->check_ns)
		ret = err_set(err, EINVAL, "check-interval: at least one second");
	m->set.selector = selector;
	return ret;
}

/* ---- open and close -------------------------------------------------------------- */

static int start_task(struct multipath *m, void (*fn)(void *arg), void *arg)
{
	int ret;

	task_lock(&m->lock);
	ret = task_spawn(m->home, fn, arg);
	if (ret == 0)
		m->tasks++;
	task_unlock(&m->lock);
	return ret;
}

static int start(struct multipath *m, struct err *err)
{
	int ret;

	m->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (m->wake_fd < 0)
		return err_errno(err, errno, "multipath");
	m->home = loop_start(err);
	if (!m->home)
		return -err->code;
	ret = start_task(m, tick, m);
	for (unsigned i = 0; i < m->set.n && ret == 0; i++)
		ret = start_task(m, keep, &m->lane[i]);
	return ret ? err_errno(err, -ret, "multipath") : 0;
}

/* Until all paths were tried, or one is up and the others had their time. */
static int wait_for_paths(struct multipath *m, struct err *err)
{
	uint64_t began = now_ns();
	unsigned tried, up;

	for (;;) {
		tried = up = 0;
		for (unsigned i = 0; i < m->set.n; i++) {
			tried += m->lane[i].tried;
			up += m->lane[i].path.state == PATH_UP;
		}
		if (tried == m->set.n || (up && now_ns() - began >= OPEN_GRACE_NS))
			break;
		task_cond_wait(&m->changed, &m->lock);
	}
	if (up)
		return 0;
	for (unsigned i = 0; i < m->set.n; i++)
		if (m->lane[i].err.code) {
			*err = m->lane[i].err;
			return -err->code;
		}
	return err_set(err, EHOSTDOWN, "multipath: all paths are on standby");
}

/* A path that is another disk is a mistake to be told, not a path to be tried later. */
static int refuse_strangers(struct multipath *m, struct err *err)
{
	for (unsigned i = 0; i < m->set.n; i++) {
		struct lane *l = &m->lane[i];

		if (l->err.code == EINVAL || l->err.code == ENOTSUP) {
			*err = l->err;
			return -err->code;
		}
		if (l->err.code)
			log_line(LOG_LEVEL_WARNING, "path %u: %s", i, l->err.msg);
	}
	return 0;
}

static int settle(struct blk *b, struct multipath *m)
{
	const char *name = NULL;

	for (unsigned i = 0; i < m->set.n && !name; i++)
		name = m->lane[i].b ? m->lane[i].name : NULL;
	if (!b->filename)
		b->filename = strdup(name);
	b->caps |= BLK_CAP_SERIALISE | BLK_CAP_FUA;
	m->opening = false;
	return b->filename ? 0 : -ENOMEM;
}

static void stop(struct multipath *m)
{
	uint64_t one = 1;

	if (!m->home)
		return;
	task_lock(&m->lock);
	m->closing = true;
	task_cond_broadcast(&m->changed);
	if (write(m->wake_fd, &one, sizeof(one)) < 0)
		log_line(LOG_LEVEL_ERROR, "multipath: %s", strerror(errno));
	while (m->tasks)
		task_cond_wait(&m->changed, &m->lock);
	task_unlock(&m->lock);
	loop_stop(m->home);
}

static int mp_close(struct blk *b)
{
	struct multipath *m = mp_of(b);

	assert(!m->in_flight);
	stop(m);
	if (m->wake_fd >= 0)
		close(m->wake_fd);
	for (unsigned i = 0; i < m->set.n; i++) {
		opts_free(m->lane[i].opts);
		free(m->lane[i].name);
	}
	unflushed_drop(&m->kept, UINT64_MAX);
	forget_doubts(m, true);
	free(m->identity);
	return 0;
}

static int mp_open(struct blk *b, struct opts *opts, struct err *err)
{
	struct multipath *m = mp_of(b);
	int ret;

	m->b = b;
	m->wake_fd = -1;
	m->opening = true;
	ret = take_options(m, opts, err);
	ret = ret ? ret : start(m, err);
	if (ret == 0) {
		task_lock(&m->lock);
		ret = wait_for_paths(m, err);
		ret = ret ? ret : refuse_strangers(m, err);
		if (ret == 0 && settle(b, m))
			ret = err_errno(err, ENOMEM, "multipath");
		task_unlock(&m->lock);
	}
	if (ret)
		mp_close(b);
	return ret;
}

/* ---- size ------------------------------------------------------------------------ */

static int mp_resize(
	struct blk *b, uint64_t bytes, enum blk_prealloc prealloc, struct err *err)
{
	struct multipath *m = mp_of(b);
	struct lane *l = NULL;
	int ret;

	task_lock(&m->lock);
	ret = next_lane(m, 0, 0, &l);
	task_unlock(&m->lock);
	if (ret)
		return err_errno(err, -ret, "%s", b->filename);
	ret = blk_resize(l->b, bytes, prealloc, err);
	if (ret)
		return ret;
	task_lock(&m->lock);
	l->took_changes = true;
	blk_set_size(b, blk_size(l->b));
	for (unsigned i = 0; i < m->set.n; i++)
		if (m->lane[i].b)
			blk_set_size(m->lane[i].b, blk_size(b));
	task_unlock(&m->lock);
	return 0;
}

static int64_t mp_allocated(struct blk *b)
{
	struct multipath *m = mp_of(b);
	struct lane *l;
	int ret;

	task_lock(&m->lock);
	ret = next_lane(m, 0, 0, &l);
	task_unlock(&m->lock);
	return ret ? ret : blk_allocated(l->b);
}

/* ---- facts ----------------------------------------------------------------------- */

static struct json *lane_facts(const struct lane *l)
{
	const struct path *p = &l->path;
	struct json *o = json_new_object();

	json_put_int(o, "path", l->index);
	if (l->name)
		json_put_string(o, "name", l->name);
	json_put_string(o, "state", path_state_names[p->state]);
	if (p->state != PATH_UP && (l->error || l->err.code))
		json_put_string(o, "error", l->b ? strerror(-l->error) : l->err.msg);
	json_put_int(o, "priority", p->priority);
	json_put_int(
		o, "seconds-in-state", (int64_t)((now_ns() - p->since_ns) / SECOND_NS));
	json_put_int(o, "in-flight", p->in_flight);
	json_put_int(o, "reads", (int64_t)p->reads);
	json_put_int(o, "read-bytes", (int64_t)p->read_bytes);
	json_put_int(o, "writes", (int64_t)p->writes);
	json_put_int(o, "written-bytes", (int64_t)p->written_bytes);
	json_put_int(o, "others", (int64_t)p->others);
	json_put_int(o, "errors", (int64_t)p->errors);
	json_put_int(o, "losses", (int64_t)p->losses);
	json_put_int(o, "busy-ms", (int64_t)(p->busy_ns / 1000000));
	return o;
}

static void mp_describe(struct blk *b, struct json *facts)
{
	struct multipath *m = mp_of(b);
	struct json *paths = json_new_array();

	task_lock(&m->lock);
	if (m->identity)
		json_put_string(facts, "identity", m->identity);
	json_put_string(facts, "selector", path_selector_names[m->set.selector]);
	json_put_int(facts, "priority-in-use", m->set.group);
	json_put_int(facts, "failovers", (int64_t)m->recoveries);
	json_put_int(facts, "last-failover-ms", (int64_t)(m->last_recovery_ns / 1000000));
	json_put_int(facts, "repeated-bytes", (int64_t)m->repeated_bytes);
	json_put_int(facts, "unflushed-bytes", (int64_t)m->kept.held_bytes);
	for (unsigned i = 0; i < m->set.n; i++)
		json_add(paths, lane_facts(&m->lane[i]));
	task_unlock(&m->lock);
	json_put(facts, "paths", paths);
}

static int mp_identity(struct blk *b, char **out)
{
	struct multipath *m = mp_of(b);

	task_lock(&m->lock);
	*out = m->identity ? strdup(m->identity) : NULL;
	task_unlock(&m->lock);
	return *out ? 0 : m->identity ? -ENOMEM : -ENOTSUP;
}

static const struct blk_storage_ops storage_ops = {
	.identity = mp_identity,
	.describe = mp_describe,
};

const struct blk_driver blk_multipath_driver = {
	.name = "multipath",
	.kind = BLK_PROTOCOL,
	.state_bytes = sizeof(struct multipath),
	.open = mp_open,
	.close = mp_close,
	.preadv = mp_preadv,
	.pwritev = mp_pwritev,
	.flush = mp_flush,
	.zero = mp_zero,
	.discard = mp_discard,
	.extent = mp_extent,
	.resize = mp_resize,
	.allocated = mp_allocated,
	.storage = &storage_ops,
};
