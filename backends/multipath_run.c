/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A request over one path or another, and what happens when a path is lost: see the rules in
 * multipath.c. Everything here that touches the node's state holds its lock, and gives it
 * away across I/O.
 */
#include "backends/multipath.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/math.h"
#include "block/storage.h"

#define KEPT_MAX       (64 * MiB)
#define HOPELESS_LEAST (10 * SECOND_NS)

/* ---- states; the lock is held ---------------------------------------------------- */

bool mp_is_path_error(int ret)
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

void mp_note_paths(struct multipath *m)
{
	bool up = false;

	for (unsigned i = 0; i < m->set.n; i++)
		up |= m->lane[i].path.state == PATH_UP;
	if (up && m->no_path_since_ns)
		m->held_up_ns +=
			clock_ns() - m->no_path_since_ns; /* which is another wait */
	if (up)
		m->no_path_since_ns = 0;
	else if (!m->no_path_since_ns)
		m->no_path_since_ns = clock_ns();
	task_cond_broadcast(&m->changed);
}

static void recover(void *arg);

/* Without a stack for it the next tick tries again. */
void mp_start_recovering(struct multipath *m)
{
	if (!m->recovering || m->recoverer_runs || m->closing)
		return;
	if (task_spawn(m->home, recover, m) == 0) {
		m->recoverer_runs = true;
		m->tasks++;
	}
}

void mp_recover(struct multipath *m)
{
	m->repeats++;
	m->recovering = true;
	mp_start_recovering(m);
}

void mp_lose(struct lane *l, enum path_state state, int error, uint64_t since_ns)
{
	struct multipath *m = l->m;
	bool was_up = l->path.state == PATH_UP;

	path_set_state(&l->path, state, clock_ns());
	if (!was_up)
		return;
	log_line(LOG_LEVEL_WARNING, "%s: path %u (%s) is lost: %s", m->b->filename,
		l->index, l->name, strerror(-error));
	l->error = error;
	l->took_changes = false;
	if (!m->lost_ns) {
		m->lost_ns = since_ns;
		m->held_up_ns = clock_ns();
	}
	mp_recover(m);
	mp_note_paths(m);
}

/* What cost more paths than there are, for twice as long as any one wait may take: a request that
 * no path survives, or copies that none takes. */
static bool is_hopeless(const struct multipath *m, uint64_t since_ns, unsigned losses)
{
	uint64_t most_ns = MAX(2 * (m->no_path_ns + m->doubt_ns), HOPELESS_LEAST);

	return losses > m->set.n && clock_ns() - since_ns > most_ns;
}

static bool is_overdue(const struct multipath *m)
{
	if (is_hopeless(m, m->held_up_ns, m->failed_restores))
		return true;
	return m->no_path_since_ns && clock_ns() - m->no_path_since_ns >= m->no_path_ns;
}

/* ---- doubts; the lock is held ---------------------------------------------------- */

#define FENCED_NS (2 * SECOND_NS)
#define ALL_BYTES UINT64_MAX

/* A new size that comes late takes what has been written behind it. */
static void doubt(struct multipath *m, const struct mp_request *r)
{
	uint64_t offset = r->resizes ? r->bytes : r->offset;

	doubts_add(&m->doubts, offset, r->resizes ? ALL_BYTES - offset : r->bytes, false,
		m->doubt_ns);
}

static bool is_in_doubt(struct multipath *m, const struct mp_request *r)
{
	return r->resizes ? doubts_overlap(&m->doubts, 0, ALL_BYTES)
			  : doubts_overlap(&m->doubts, r->offset, r->bytes);
}

static void wait_doubt(struct multipath *m, const struct mp_request *r)
{
	while (!m->closing && is_in_doubt(m, r))
		task_cond_wait(&m->changed, &m->lock); /* for a tick */
}

/* ---- requests -------------------------------------------------------------------- */

/* Waits for a path to be usable. The lock is held. */
int mp_next_lane(
	struct multipath *m, uint64_t bytes, uint32_t not_these, struct lane **out)
{
	struct path *p = NULL;

	for (;;) {
		if (!m->recovering)
			p = paths_pick(&m->set, bytes, not_these, clock_ns());
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

static void count(struct path *p, const struct mp_request *r, int ret)
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

static int keep_copy(struct multipath *m, const struct mp_request *r)
{
	return r->iov ? unflushed_add(&m->kept, r->offset, r->iov, r->niov)
		      : unflushed_add_zero(
				&m->kept, r->offset, r->bytes, r->flags & BLK_MAY_UNMAP);
}

/* One attempt. The lock is held, and not across the request. */
static int attempt(struct lane *l, const struct mp_request *r, uint64_t *began_ns)
{
	struct multipath *m = l->m;
	int ret;

	*began_ns = clock_ns();
	share_size(m, l);
	path_begin(&l->path, r->bytes);
	m->in_flight++;
	task_unlock(&m->lock);

	ret = r->issue(l->b, r);

	task_lock(&m->lock);
	if (ret == 0 && r->keeps)
		ret = keep_copy(m, r);
	/* Now, and not before: a flush that was under way meanwhile did not cover it. */
	if (r->changes && l->path.state == PATH_UP)
		l->took_changes = true;
	if (ret == 0)
		blk_raise_size(m->b, blk_size(l->b));
	path_end(&l->path, r->bytes, clock_ns() - *began_ns);
	count(&l->path, r, ret);
	if (--m->in_flight == 0 && m->recovering)
		task_cond_broadcast(&m->changed);
	return ret;
}

void mp_refuse(struct multipath *m)
{
	m->refused = m->flush_error = -EBADE;
}

/* What was written before belongs to the time before the fence: it is not written again, over what
 * others have written since, and the next flush says that it may be lost. */
static void mp_conflict(struct multipath *m)
{
	if (!m->passes) {
		mp_refuse(m);
	} else if (m->kept.head) {
		unflushed_drop(&m->kept, m->kept.seq);
		m->owes = -EBADE;
	}
}

/* Those that answered EIO where another then did it. */
static void lose_faulty(struct multipath *m, uint32_t faulty)
{
	for (unsigned i = 0; i < m->set.n; i++)
		if (faulty & 1u << i)
			mp_lose(&m->lane[i], PATH_FAILED, -EIO, clock_ns());
}

/* A path may flush for a request that is to be stable, and its server tells once of what it lost: as
 * much as it had may be gone. */
static void doubt_stable(struct multipath *m, const struct mp_request *r, int ret)
{
	if ((r->flags & BLK_FUA) && m->kept.head && unflushed_is_in_doubt(ret))
		mp_recover(m);
}

static int run_over_lanes(struct multipath *m, const struct mp_request *r)
{
	uint32_t faulty = 0;
	uint64_t first_ns = clock_ns(), began_ns, losses;
	unsigned cost = 0;
	struct lane *l;
	int ret;

	if (r->changes)
		wait_doubt(m, r);
	if (r->changes && m->refused)
		return m->refused;
	for (;;) {
		ret = mp_next_lane(m, r->bytes, faulty, &l);
		if (ret)
			return faulty ? -EIO : ret;
		losses = l->path.losses;
		ret = attempt(l, r, &began_ns);
		/* Lost meanwhile, and told to another request: this may be an answer by a server that
		 * has forgotten. What it changed is kept, and so repeated. */
		if (ret == 0 && !r->changes && !r->once && losses != l->path.losses)
			continue;
		doubt_stable(m, r, ret);
		if (ret == -EIO) {
			faulty |= 1u << l->index;
			continue;
		}
		if (!mp_is_path_error(ret))
			break;
		if (r->changes && !is_answer(ret))
			doubt(m, r);
		mp_lose(l, PATH_FAILED, ret, began_ns);
		if ((r->once && !is_answer(ret)) || is_hopeless(m, first_ns, ++cost))
			return ret;
	}
	if (ret == 0)
		lose_faulty(m, faulty);
	if (r->changes && ret == -EBADE)
		mp_conflict(m);
	return ret;
}

/* The lock is held. Flushes wait for stable requests that began before they ended (flush_in_turn). */
static int run_locked(struct multipath *m, const struct mp_request *r)
{
	unsigned *stable = r->flags & BLK_FUA ? &m->stable[m->flushes % 2] : NULL;
	int ret;

	if (stable)
		++*stable;
	ret = run_over_lanes(m, r);
	if (stable && --*stable == 0)
		task_cond_broadcast(&m->changed);
	return ret;
}

int mp_run(struct blk *b, const struct mp_request *r)
{
	struct multipath *m = mp_of(b);
	int ret = 0;

	task_lock(&m->lock);
	if (r->keeps && m->kept.head &&
		m->kept.held_bytes + (r->iov ? r->bytes : 0) > KEPT_MAX)
		ret = mp_flush_all(m);
	if (ret == 0)
		ret = run_locked(m, r);
	task_unlock(&m->lock);
	return ret;
}

/* ---- flush ----------------------------------------------------------------------- */

struct flushing {
	struct lane *lane;
	uint64_t losses; /* when it began */
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
			f[n++] = (struct flushing){
				.lane = &m->lane[i], .losses = m->lane[i].path.losses};
		}
	return n;
}

/* A server tells once of what it lost, and calls the rest well: all is written again before the next
 * flush. */
static void doubt_flushed(struct multipath *m, struct lane *l, int ret)
{
	l->took_changes = l->path.state == PATH_UP;
	if (ret == -EBADE) {
		mp_conflict(m);
		m->owes = 0; /* it is being told */
	} else if (mp_keeps_copies(m->b)) {
		mp_recover(m);
	} else {
		m->flush_error = ret;
	}
}

/* True: once more, through what is left. A flush that one path cannot do is done when all
 * was repeated through another. *error is the disk's own. */
static bool judge_flush(
	struct multipath *m, const struct flushing *f, unsigned n, int *error)
{
	bool again = false;

	for (unsigned i = 0; i < n; i++) {
		int ret = f[i].ret;
		struct lane *l = f[i].lane;

		/* Lost meanwhile: what answered may have been another connection, to a
		 * server that had forgotten. All is repeated. */
		if (f[i].losses != l->path.losses || l->path.state != PATH_UP)
			again = true;
		if (ret == 0)
			continue;
		l->path.errors++;
		if (mp_is_path_error(ret) ||
			(ret == -EIO && mp_keeps_copies(m->b) &&
				paths_pick(&m->set, 0, 1u << l->index, clock_ns()))) {
			mp_lose(l, PATH_FAILED, ret, clock_ns());
			again = true;
		} else {
			*error = *error ? *error : ret;
			doubt_flushed(m, l, ret);
		}
	}
	return again;
}

/* A conflict once; for want of room, until the copies have been repeated. */
static int tell_owed(struct multipath *m)
{
	int ret = m->owes;

	if (ret == -EBADE)
		m->owes = 0;
	return ret;
}

/* Those that began before this moment: what they were told decides, too. */
static void wait_stable(struct multipath *m)
{
	unsigned *stable = &m->stable[m->flushes++ % 2];

	while (*stable)
		task_cond_wait(&m->changed, &m->lock);
}

/* One at a time. The lock is held, and not across requests. */
static int flush_in_turn(struct multipath *m)
{
	struct flushing f[PATHS_MAX];
	uint64_t first_ns = clock_ns(), seq;
	struct lane *any;
	bool again;
	unsigned n, repeats, rounds = 0;
	int ret;

	if (m->owes == -EBADE)
		return tell_owed(m);
	if (m->owes)
		mp_recover(m);
	m->owes = 0;
	do {
		ret = mp_next_lane(m, 0, 0, &any); /* and nothing is being restored */
		if (ret || m->owes)
			return ret ? ret : tell_owed(m);
		n = collect(m, f);
		seq = m->kept.seq;
		repeats = m->repeats;
		m->in_flight++;
		task_unlock(&m->lock);
		if (n)
			flush_lanes(f, n);
		task_lock(&m->lock);
		if (--m->in_flight == 0 && m->recovering)
			task_cond_broadcast(&m->changed);
		again = judge_flush(m, f, n, &ret);
		wait_stable(m);
		again |= repeats != m->repeats;
		if (again && is_hopeless(m, first_ns, ++rounds))
			ret = -ENOLINK;
	} while (again && !ret && !m->flush_error);
	if (ret || m->flush_error)
		return ret ? ret : m->flush_error;
	unflushed_drop(&m->kept, seq);
	return 0;
}

/* What another has under way is not stable before that has ended, though no lane is marked for it any
 * more; and a server may tell one of two of an error that concerns both. */
int mp_flush_all(struct multipath *m)
{
	int ret;

	while (m->flushing)
		task_cond_wait(&m->changed, &m->lock);
	m->flushing = true;
	ret = flush_in_turn(m);
	m->flushing = false;
	task_cond_broadcast(&m->changed);
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

/* What came of an attempt to restore. */
struct restoring {
	struct lane *lane;
	bool fences;     /* since something may still land that was sent */
	uint64_t losses; /* of the lane, when it began */
	uint64_t bytes;
	const struct unflushed_write *failed; /* the copy that could not be repeated */
	int ret;
};

/* No request is in flight, and none begins: what is kept stays as it is. One that the disk refuses is
 * no reason to lose the others. */
static void repeat_kept(struct multipath *m, struct restoring *r)
{
	for (const struct unflushed_write *w = m->kept.head; w; w = w->next) {
		int ret = repeat_one(r->lane->b, w);

		if (mp_is_path_error(ret)) {
			r->ret = ret;
			r->failed = w;
			return;
		}
		if (ret == 0)
			r->bytes += w->bytes;
		else if (!r->ret)
			r->ret = ret;
	}
}

static int fence(struct multipath *m, struct lane *l)
{
	int ret;

	if (!blk_can_fence(l->b))
		return -ENOTSUP;
	task_wrlock(&m->probing);
	ret = blk_fence(l->b);
	task_wrunlock(&m->probing);
	return ret;
}

/* A copy that may yet land must not do so over another. False: none is written again, the disk being
 * another's or the node being closed. What a target had received and not begun when
 * it was fenced, it begins within moments, now that it answers. */
static bool may_repeat(struct multipath *m)
{
	bool may;

	task_lock(&m->lock);
	while (!m->closing && doubts_of_copies(&m->doubts))
		task_cond_wait(&m->changed, &m->lock);
	may = !m->closing && !m->refused;
	task_unlock(&m->lock);
	return may;
}

/* Through this path, all becomes as it was acknowledged. The lock is not held. */
static void restore(struct multipath *m, struct restoring *r)
{
	struct lane *l = r->lane;

	if (r->fences) {
		r->ret = fence(m, l);
		if (mp_is_path_error(r->ret))
			return;
		if (r->ret == 0) {
			task_lock(&m->lock);
			doubts_shorten(&m->doubts, FENCED_NS);
			task_unlock(&m->lock);
		}
	}
	r->ret = 0;
	blk_raise_size(l->b, blk_size(m->b));
	if (may_repeat(m))
		repeat_kept(m, r);
}

/* A path, when nothing is in flight. NULL: the node is being closed. The lock is held. */
static struct lane *wait_for_restoring(struct multipath *m)
{
	struct path *p = NULL;

	while (!m->closing) {
		if (m->in_flight == 0)
			p = paths_pick(&m->set, 0, 0, clock_ns());
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
		if (ret == -EBADE)
			mp_conflict(m);
		else if (unflushed_may_fit_later(ret))
			m->owes = ret;
		else
			m->flush_error = ret;
	}
	m->recovering = false;
	m->failed_restores = 0;
	if (!m->lost_ns)
		return; /* a path came, none went */
	m->recoveries++;
	m->last_recovery_ns = clock_ns() - m->lost_ns;
	m->lost_ns = 0;
	log_line(LOG_LEVEL_WARNING, "%s: goes on through path %u (%s) after %.1f s",
		m->b->filename, l->index, l->name, (double)m->last_recovery_ns / 1e9);
}

/* True where it has come to an end, good or bad; else another path is to try. */
static bool judge_restoring(struct multipath *m, const struct restoring *r)
{
	struct lane *l = r->lane;
	uint32_t bit = 1u << l->index;

	m->repeated_bytes += r->bytes;
	if (mp_is_path_error(r->ret)) {
		if (r->failed && !is_answer(r->ret))
			doubts_add(&m->doubts, r->failed->offset, r->failed->bytes, true,
				m->doubt_ns);
		mp_lose(l, PATH_FAILED, r->ret, clock_ns());
		return false;
	}
	if (r->ret == -EIO && paths_pick(&m->set, 0, bit, clock_ns())) {
		mp_lose(l, PATH_FAILED, r->ret, clock_ns());
		return false;
	}
	/* Lost meanwhile, and perhaps found again: by a server that had forgotten it all. */
	if (l->path.losses != r->losses || l->path.state != PATH_UP)
		return false;
	l->took_changes = true;
	recovered(m, l, r->ret);
	return true;
}

void mp_task_ended(struct multipath *m)
{
	m->tasks--;
	task_cond_broadcast(&m->changed);
}

static void recover(void *arg)
{
	struct multipath *m = arg;
	struct lane *l;
	bool ended = false;

	task_lock(&m->lock);
	while (!ended && m->recovering && (l = wait_for_restoring(m))) {
		struct restoring r = {.lane = l,
			.fences = m->doubts.head && m->lost_ns,
			.losses = l->path.losses};

		task_unlock(&m->lock);
		restore(m, &r);
		task_lock(&m->lock);
		ended = judge_restoring(m, &r);
		m->failed_restores += !ended;
	}
	m->recoverer_runs = false;
	mp_task_ended(m);
	task_unlock(&m->lock);
}
