/* SPDX-License-Identifier: BSD-2-Clause */
/* A connection that may break and be made again. See session.h for the rules. */
#include <assert.h>
#include <string.h>

#include "backends/session.h"
#include "base/iov.h"
#include "base/log.h"
#include "base/math.h"

#define SECOND_NS       1000000000ull
#define RECONNECT_S     60u
#define TIMEOUT_S       30u
#define PATH_TIMEOUT_S  5u
#define KEPT_MAX        (64 * MiB)
#define FIRST_BACKOFF   (SECOND_NS / 20)
#define LONGEST_BACKOFF (2 * SECOND_NS)
#define SLICE_NS        (SECOND_NS / 10)
#define HOPELESS_LOSSES 3
#define ROUNDS_MAX      4
#define RENEW_NS        (2 * SECOND_NS)
#define DOUBT_LEAST     (2 * SECOND_NS)
#define DOUBT_MOST      (15 * SECOND_NS)

struct session_request {
	struct session *s;
	int (*issue)(struct blk *b, void *arg);
	void *arg;
	bool once;
	unsigned losses;
	uint64_t begun_ns, since_ns; /* the first attempt, the one under way */
	struct session_request *older, *newer;
};

int session_options(
	struct session *s, const struct blk *b, struct opts *opts, struct err *err)
{
	int ret;

	s->reconnect_ns = RECONNECT_S * SECOND_NS;
	s->timeout_ns = (b->flags & BLK_O_PATH ? PATH_TIMEOUT_S : TIMEOUT_S) * SECOND_NS;
	ret = opts_take_seconds(opts, "reconnect-delay", &s->reconnect_ns, err);
	return ret ? ret : opts_take_seconds(opts, "timeout", &s->timeout_ns, err);
}

/* ---- states ---------------------------------------------------------------------- */

static void changed(struct session *s)
{
	task_lock(&s->lock);
	task_cond_broadcast(&s->changed);
	task_unlock(&s->lock);
}

/* Until something has changed. */
static void wait_change(struct session *s)
{
	task_lock(&s->lock);
	task_cond_wait(&s->changed, &s->lock);
	task_unlock(&s->lock);
}

static bool is_overdue(const struct session *s)
{
	return clock_ns() - s->down_since_ns >= s->reconnect_ns;
}

/* 0 when the session is up. */
static int wait_up(struct session *s)
{
	while (!s->up) {
		if (s->closing || is_overdue(s))
			return SESSION_LOST;
		wait_change(s);
	}
	return 0;
}

static void come_back(void *arg);

/* Without a stack for it the next tick tries again. */
static void start_coming_back(struct session *s)
{
	if (!s->returning && !s->closing)
		s->returning = task_spawn(NULL, come_back, s) == 0;
}

static void lost(struct session *s)
{
	if (!s->up)
		return;
	s->up = false;
	s->untold = s->b->flags & BLK_O_PATH;
	s->down_since_ns = clock_ns();
	if (s->reconnect_ns)
		log_line(LOG_LEVEL_WARNING, "%s: the connection is lost", s->b->filename);
	s->ops->cut(s->b);
	changed(s);
	start_coming_back(s);
}

void session_lost(struct session *s)
{
	if (!s->closing)
		lost(s);
}

void session_note_loss(struct session *s)
{
	s->untold = false;
}

/* ---- requests -------------------------------------------------------------------- */

static void enter(struct session_request *r)
{
	struct session *s = r->s;

	r->since_ns = clock_ns();
	r->newer = NULL;
	r->older = s->newest;
	if (s->newest)
		s->newest->newer = r;
	else
		s->oldest = r;
	s->newest = r;
}

static void leave(struct session_request *r)
{
	struct session *s = r->s;

	if (r->older)
		r->older->newer = r->newer;
	else
		s->oldest = r->newer;
	if (r->newer)
		r->newer->older = r->older;
	else
		s->newest = r->older;
	if (!s->oldest && !s->up)
		changed(s);
}

/* A connection that breaks each time this is asked for is no better than none: other requests
 * shall not be cut off with it for ever. */
static bool is_hopeless(const struct session_request *r)
{
	const struct session *s = r->s;

	return r->losses >= HOPELESS_LOSSES &&
	       clock_ns() - r->begun_ns > s->reconnect_ns + 2 * s->timeout_ns;
}

/* On the home loop. */
static int attempt(void *arg)
{
	struct session_request *r = arg;
	struct session *s = r->s;
	int ret;

	r->begun_ns = clock_ns();
	do {
		ret = s->untold ? SESSION_LOST : wait_up(s);
		if (ret)
			return r->once && !r->losses ? SESSION_UNSENT : ret;
		enter(r);
		ret = r->issue(s->b, r->arg);
		leave(r);
		if (ret == SESSION_LOST) {
			lost(s);
			r->losses++;
		}
	} while (ret == SESSION_LOST && !r->once && !is_hopeless(r));
	return ret;
}

int session_run(struct session *s, int (*issue)(struct blk *b, void *arg), void *arg)
{
	struct session_request r = {.s = s, .issue = issue, .arg = arg};

	return remote_call(s->home, attempt, &r);
}

int session_run_once(struct session *s, int (*issue)(struct blk *b, void *arg), void *arg)
{
	struct session_request r = {.s = s, .issue = issue, .arg = arg, .once = true};

	return remote_call(s->home, attempt, &r);
}

/* ---- a sign of life --------------------------------------------------------------- */

/* Nobody's request, so nobody is told by it that a path was lost. */
static void renew(void *arg)
{
	struct session *s = arg;
	struct session_request r = {.s = s};
	int ret = 0;

	if (s->up && !s->closing) {
		enter(&r);
		ret = s->ops->renew(s->b);
		leave(&r);
	}
	if (ret == SESSION_LOST)
		lost(s);
	s->renewing = false;
	changed(s);
}

static void renew_in_time(struct session *s)
{
	if (!s->ops->renew || !s->up || s->renewing || s->closing ||
		clock_ns() - s->renewed_ns < RENEW_NS)
		return;
	s->renewed_ns = clock_ns();
	s->renewing = task_spawn(NULL, renew, s) == 0;
}

/* ---- changes, kept until they are flushed ---------------------------------------- */

struct change {
	struct session *s;
	uint64_t offset, bytes;
	int (*other)(struct blk *b, void *arg); /* neither written nor zeros; not kept */
	void *arg;
	const struct iovec *iov; /* NULL: zeros */
	int niov;
	unsigned flags;
	uint64_t seq; /* of a flush */
};

static int flush_issue(struct blk *b, void *arg)
{
	struct change *c = arg;

	c->seq = c->s->kept.seq;
	return c->s->ops->flush ? c->s->ops->flush(b) : 0;
}

static int take_behind_error(struct session *s)
{
	int ret = s->behind_error;

	s->behind_error = 0;
	return ret;
}

/* A guest's reservation is another's now. What was written before the fence is not written again,
 * over what others have written since; the next flush says that it may be lost. */
static void conflict(struct session *s)
{
	if (!s->passes || !s->kept.head)
		return;
	unflushed_drop(&s->kept, s->kept.seq);
	s->behind_error = -EBADE;
}

/* A server tells once of what it lost, and calls the rest well: after a flush that failed
 * all is written again before the next, over another connection. */
static void distrust(struct session *s, int ret)
{
	if (ret && ret != SESSION_LOST && ret != -ENOMEM && ret != -EBADE && s->keeps)
		s->doubtful = true;
}

/* The server may flush for a request that is to be stable, and tell that one what concerns all: those
 * that began before this moment are waited for. False: the connection was lost meanwhile, and what
 * they were told with it. */
static bool wait_stable(struct session *s)
{
	unsigned *stable = &s->stable[s->epoch++ % 2], connections = s->connections;

	while (*stable)
		wait_change(s);
	return s->up && s->connections == connections;
}

static int flush_once(struct change *c)
{
	struct session_request r = {.s = c->s, .issue = flush_issue, .arg = c};
	struct session *s = c->s;
	int ret;

	if (s->doubtful) {
		s->doubtful = false;
		lost(s);
	}
	ret = attempt(&r);
	distrust(s, ret);
	if (ret == 0 && !wait_stable(s))
		s->doubtful = true;
	if (ret == 0)
		ret = s->sync_error;
	return ret ? ret : take_behind_error(s);
}

static int flush_in_turn(struct change *c)
{
	struct session *s = c->s;
	int ret;

	for (unsigned round = 0; round < ROUNDS_MAX; round++) {
		ret = flush_once(c);
		if (ret)
			return ret;
		if (!s->doubtful) {
			unflushed_drop(&s->kept, c->seq);
			return 0;
		}
	}
	return -EIO;
}

/* On the home loop. One at a time: of two a server may tell one of what both lost. Whoever waited has
 * the result of one that began after it came. */
static int flush(void *arg)
{
	struct change *c = arg;
	struct session *s = c->s;
	uint64_t before = s->flushes;

	while (s->in_flush)
		wait_change(s);
	if (s->flushes > before)
		return s->flush_ret;
	s->in_flush = true;
	s->flushes++;
	s->flush_ret = flush_in_turn(c);
	s->in_flush = false;
	changed(s);
	return s->flush_ret;
}

static void flush_behind(void *arg)
{
	struct session *s = arg;
	int ret = flush(&(struct change){.s = s});

	/* What a lost connection takes is still kept. */
	if (ret && ret != SESSION_LOST)
		s->behind_error = ret;
	s->flushing = false;
	changed(s);
}

static void start_flush_behind(struct session *s)
{
	if (!s->flushing && !s->closing)
		s->flushing = task_spawn(NULL, flush_behind, s) == 0;
}

static bool has_room(const struct session *s, uint64_t bytes, size_t most)
{
	return !s->kept.head || s->kept.held_bytes + bytes <= most;
}

/* On the home loop, before a change. */
static int make_room(struct session *s, uint64_t bytes)
{
	int ret = 0;

	if (!has_room(s, bytes, KEPT_MAX / 2))
		start_flush_behind(s);
	while (ret == 0 && !has_room(s, bytes, KEPT_MAX)) {
		if (s->flushing)
			wait_change(s);
		else
			ret = flush(&(struct change){.s = s});
	}
	return ret;
}

/* Its connection was lost. The longer a server had it without an answer, the longer it may
 * have it yet. */
static void doubt(struct session *s, uint64_t offset, uint64_t bytes, bool repeated,
	uint64_t since_ns)
{
	uint64_t age_ns = clock_ns() - since_ns;

	doubts_forget(&s->doubts);
	if (s->doubts_changes)
		doubts_add(&s->doubts, offset, bytes, repeated,
			MIN(MAX(age_ns, DOUBT_LEAST), DOUBT_MOST));
}

static void wait_doubt(const struct change *c)
{
	while (doubts_overlap(&c->s->doubts, c->offset, c->bytes))
		task_sleep_ns(SLICE_NS);
}

static int make_change(const struct change *c)
{
	const struct session_ops *ops = c->s->ops;

	if (c->other)
		return c->other(c->s->b, c->arg);
	return c->iov ? ops->write(c->s->b, c->offset, c->iov, c->niov, c->flags)
		      : ops->zero(c->s->b, c->offset, c->bytes, c->flags);
}

static int keep(const struct change *c)
{
	struct session *s = c->s;

	if (c->other || !s->keeps || !s->ops->flush)
		return 0;
	return c->iov ? unflushed_add(&s->kept, c->offset, c->iov, c->niov)
		      : unflushed_add_zero(&s->kept, c->offset, c->bytes, c->flags);
}

/* Keeps before it answers: nothing runs between the server's answer and this but other
 * requests, and recovery waits until none is in flight. */
static int settle(const struct change *c, int ret, uint64_t began_ns)
{
	struct session *s = c->s;

	if (ret == SESSION_LOST)
		doubt(s, c->offset, c->bytes, false, began_ns);
	if (ret == -EBADE)
		conflict(s);
	if ((c->flags & BLK_FUA) && unflushed_is_in_doubt(ret))
		distrust(s, ret);
	return ret ? ret : keep(c);
}

static int change_issue(struct blk *b, void *arg)
{
	struct change *c = arg;
	struct session *s = c->s;
	unsigned *stable = c->flags & BLK_FUA ? &s->stable[s->epoch % 2] : NULL;
	uint64_t began_ns = clock_ns();
	int ret;

	(void)b;
	if (stable)
		++*stable;
	ret = settle(c, make_change(c), began_ns);
	if (stable && --*stable == 0)
		changed(s); /* for a flush, to which all this has to be known */
	return ret;
}

static int change(void *arg)
{
	struct change *c = arg;
	struct session_request r = {.s = c->s, .issue = change_issue, .arg = c};
	int ret = make_room(c->s, c->iov ? c->bytes : 0);

	if (ret)
		return ret;
	wait_doubt(c);
	return attempt(&r);
}

int session_write(struct session *s, uint64_t offset, const struct iovec *iov, int niov,
	unsigned flags)
{
	struct change c = {.s = s,
		.offset = offset,
		.iov = iov,
		.niov = niov,
		.bytes = iov_bytes(iov, niov),
		.flags = flags};

	return remote_call(s->home, change, &c);
}

int session_zero(struct session *s, uint64_t offset, uint64_t bytes, unsigned flags)
{
	struct change c = {.s = s, .offset = offset, .bytes = bytes, .flags = flags};

	return remote_call(s->home, change, &c);
}

int session_change(struct session *s, uint64_t offset, uint64_t bytes,
	int (*issue)(struct blk *b, void *arg), void *arg)
{
	struct change c = {
		.s = s, .offset = offset, .bytes = bytes, .other = issue, .arg = arg};

	return remote_call(s->home, change, &c);
}

int session_flush(struct session *s)
{
	struct change c = {.s = s};

	return remote_call(s->home, flush, &c);
}

/* ---- coming back ----------------------------------------------------------------- */

static int repeat_one(struct session *s, const struct unflushed_write *w)
{
	struct iovec iov = {.iov_base = (void *)(uintptr_t)w->data, .iov_len = w->bytes};

	return w->zero ? s->ops->zero(s->b, w->offset, w->bytes, w->flags)
		       : s->ops->write(s->b, w->offset, &iov, 1, 0);
}

/* For now, that is. */
static bool is_busy(int ret)
{
	return ret == -ENOMEM || ret == -EAGAIN || ret == -EBUSY;
}

/* Each counts as a request in flight, whose silence is noticed. One that the server refuses is no reason
 * to lose the others. */
static int repeat(struct session *s)
{
	int first = 0;

	for (const struct unflushed_write *w = s->kept.head; w; w = w->next) {
		struct session_request r = {.s = s};
		int ret;

		enter(&r);
		ret = repeat_one(s, w);
		leave(&r);
		if (ret == SESSION_LOST)
			doubt(s, w->offset, w->bytes, true, r.since_ns);
		if (ret == SESSION_LOST || is_busy(ret))
			return ret;
		first = first ? first : ret;
	}
	return first;
}

static void disconnect(struct session *s, bool clean)
{
	if (s->connected)
		s->ops->disconnect(s->b, clean);
	s->connected = false;
}

/* Once: what is there now is not what it was, which does not pass by waiting. */
static void tell_refusal(struct session *s, const struct err *err)
{
	if (err->code == ESTALE && !s->told)
		log_line(LOG_LEVEL_ERROR, "%s", err->msg);
	s->told = err->code == ESTALE;
}

/* What a server refuses to take again is lost: that is told with every flush. Where there may be room
 * later, all is written again before the next. */
static void remember(struct session *s, int ret)
{
	if (ret == -EBADE && s->passes) {
		conflict(s);
	} else if (unflushed_may_fit_later(ret)) {
		s->behind_error = ret;
		s->doubtful = true;
	} else {
		s->sync_error = ret;
	}
}

/* One try. */
static bool reconnect(struct session *s)
{
	struct err err = ERR_INIT;
	int ret;

	if (s->ops->connect(s->b, &err)) {
		tell_refusal(s, &err);
		return false;
	}
	s->connected = true;
	ret = repeat(s);
	if (ret == SESSION_LOST || is_busy(ret) || s->closing) {
		s->ops->cut(s->b);
		disconnect(s, false);
		return false;
	}
	if (ret) {
		log_line(LOG_LEVEL_ERROR,
			"%s: unflushed data could not be written again after a lost "
			"connection: %s",
			s->b->filename, strerror(-ret));
		remember(s, ret);
	}
	log_line(LOG_LEVEL_WARNING, "%s: connected again", s->b->filename);
	return true;
}

/* In slices, so that closing need not wait long. */
static void back_off(struct session *s, uint64_t ns)
{
	for (; ns && !s->closing; ns -= MIN(ns, SLICE_NS))
		task_sleep_ns(MIN(ns, SLICE_NS));
}

static void come_back(void *arg)
{
	struct session *s = arg;
	bool brief = s->down_since_ns - s->up_since_ns < SECOND_NS;
	uint64_t wait_ns = FIRST_BACKOFF;

	while (s->oldest)
		wait_change(s);
	disconnect(s, false);
	s->brief_ns =
		brief ? MIN(MAX(s->brief_ns * 2, FIRST_BACKOFF), LONGEST_BACKOFF) : 0;
	back_off(s, s->brief_ns);
	/* A copy that may yet land must not do so over another. */
	while (!s->closing && (doubts_of_copies(&s->doubts) || !reconnect(s))) {
		if (is_overdue(s))
			changed(s); /* who waits gives up */
		back_off(s, wait_ns);
		wait_ns = MIN(wait_ns * 2, LONGEST_BACKOFF);
	}
	s->returning = false;
	s->up = !s->closing;
	s->connections++;
	s->up_since_ns = clock_ns();
	changed(s);
}

void session_tick(struct session *s)
{
	const struct session_request *r = s->oldest;

	if (r && s->timeout_ns && clock_ns() - r->since_ns >= s->timeout_ns) {
		if (s->up)
			log_line(LOG_LEVEL_WARNING, "%s: no answer for %llu seconds",
				s->b->filename,
				(unsigned long long)(s->timeout_ns / SECOND_NS));
		if (s->up)
			lost(s);
		else
			s->ops->cut(s->b); /* a write that is being repeated */
	}
	if (!s->up && s->connected)
		start_coming_back(s);
	renew_in_time(s);
}

/* ---- open and close -------------------------------------------------------------- */

struct opening {
	struct session *s;
	struct err *err;
};

static int open_home(void *arg)
{
	struct opening *o = arg;
	int ret = o->s->ops->connect(o->s->b, o->err);

	o->s->up = o->s->connected = ret == 0;
	return ret;
}

int session_open(
	struct session *s, struct blk *b, const struct session_ops *ops, struct err *err)
{
	struct opening o = {.s = s, .err = err};
	int ret = blk_need(b, BLK_NEEDS_NETWORK, err);

	if (ret)
		return ret;
	s->b = b;
	s->ops = ops;
	s->keeps = (b->flags & BLK_O_RDWR) && !(b->flags & (BLK_O_NO_FLUSH | BLK_O_PATH));
	s->doubts_changes =
		(b->flags & BLK_O_RDWR) && !(b->flags & BLK_O_PATH) && !ops->ends_old;
	if (b->flags & BLK_O_PATH)
		s->reconnect_ns = 0;
	s->home = loop_start(err);
	if (!s->home)
		return -err->code;
	return remote_call(s->home, open_home, &o);
}

static int close_home(void *arg)
{
	struct session *s = arg;
	struct session_request goodbye = {.s = s};

	s->closing = true;
	changed(s);
	while (s->returning || s->flushing || s->renewing)
		wait_change(s);
	assert(!s->oldest);
	/* Or it lands over what the next one writes. */
	while (doubts_forget(&s->doubts), s->doubts.head)
		task_sleep_ns(SLICE_NS);
	/* A server that has no answer to a goodbye is cut off like any other. */
	enter(&goodbye);
	disconnect(s, s->up);
	leave(&goodbye);
	unflushed_free(&s->kept);
	return 0;
}

void session_close(struct session *s)
{
	if (!s->home)
		return;
	/* It cannot fail but for want of a stack: then there is no way to end in order. */
	while (remote_call(s->home, close_home, s))
		;
	loop_stop(s->home);
	s->home = NULL;
}
