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
 *    bytes. First the disk is fenced (blk_fence: whatever was sent before is ended), and
 *    changes of the same range wait two seconds; where there is no fence, doubt= seconds.
 * 5. A flush goes to every path that took changes since the last one, one at a time, and all is
 *    repeated before the next one where it fails. For a write that is to be stable the node flushes,
 *    where a path has no such writes; what such a write was told counts for a flush beside it.
 * 6. A path that answers EIO, and another that does not, is lost; where all answer so, the
 *    disk has the error.
 * 7. A path that comes back may come from a server that was started anew, of which the others, if
 *    nobody has used them since, have yet to tell. Before it is used all copies are written again.
 * 8. A request that costs more paths than there are, and twice as long as any one wait may take, ends
 *    with the path's error; so do all, where no path takes the copies. What is kept stays kept.
 *
 * Locks: `lock` around all of the state, held across no I/O; `probing` is shared by those
 * who ask a path how it is, and held alone by whoever fences, which would end their
 * questions. A keeper for each path, on a loop of its own, opens it, asks it now and then,
 * and brings it back.
 */
#include "backends/multipath.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/json.h"
#include "base/log.h"
#include "base/math.h"
#include "block/format.h"
#include "block/storage.h"

#define OPEN_GRACE_NS (2 * SECOND_NS) /* for the other paths, when one is up */

#define NO_PATH_S 60u
#define CHECK_S   5u
#define DOUBT_S   15u

/* ---- requests -------------------------------------------------------------------- */

static int issue_read(struct blk *path, const struct mp_request *r)
{
	return blk_preadv(path, r->offset, r->iov, r->niov, 0);
}

static int mp_preadv(
	struct blk *b, uint64_t offset, uint64_t bytes, const struct iovec *iov, int niov)
{
	struct mp_request r = {.issue = issue_read,
		.offset = offset,
		.bytes = bytes,
		.iov = iov,
		.niov = niov};

	return mp_run(b, &r);
}

static int mp_flush(struct blk *b)
{
	struct multipath *m = mp_of(b);
	int ret;

	task_lock(&m->lock);
	ret = mp_flush_all(m);
	task_unlock(&m->lock);
	return ret;
}

/* Without what the path would flush for by itself, which is the node's to do (settle_stable). */
static unsigned flags_for(const struct blk *path, const struct mp_request *r)
{
	return path->caps & BLK_CAP_FUA ? r->flags : r->flags & ~(unsigned)BLK_FUA;
}

static int settle_stable(struct blk *b, unsigned flags, int ret)
{
	struct multipath *m = mp_of(b);
	bool lacks;

	if (ret || !(flags & BLK_FUA))
		return ret;
	task_lock(&m->lock);
	lacks = m->lacks_fua;
	task_unlock(&m->lock);
	return lacks ? mp_flush(b) : 0;
}

static int issue_write(struct blk *path, const struct mp_request *r)
{
	return blk_pwritev(path, r->offset, r->iov, r->niov, flags_for(path, r));
}

static int mp_pwritev(struct blk *b, uint64_t offset, uint64_t bytes,
	const struct iovec *iov, int niov, unsigned flags)
{
	struct mp_request r = {.issue = issue_write,
		.offset = offset,
		.bytes = bytes,
		.iov = iov,
		.niov = niov,
		.flags = flags,
		.changes = true,
		.keeps = mp_keeps_copies(b)};

	return settle_stable(b, flags, mp_run(b, &r));
}

static int issue_zero(struct blk *path, const struct mp_request *r)
{
	return blk_zero(path, r->offset, r->bytes, flags_for(path, r) | BLK_NO_FALLBACK);
}

static int mp_zero(struct blk *b, uint64_t offset, uint64_t bytes, unsigned flags)
{
	struct mp_request r = {.issue = issue_zero,
		.offset = offset,
		.bytes = bytes,
		.flags = flags,
		.changes = true,
		.keeps = mp_keeps_copies(b)};

	return settle_stable(b, flags, mp_run(b, &r));
}

static int issue_discard(struct blk *path, const struct mp_request *r)
{
	return blk_discard(path, r->offset, r->bytes);
}

static int mp_discard(struct blk *b, uint64_t offset, uint64_t bytes)
{
	struct mp_request r = {.issue = issue_discard,
		.offset = offset,
		.bytes = bytes,
		.changes = true};

	return mp_run(b, &r);
}

static int issue_extent(struct blk *path, const struct mp_request *r)
{
	return blk_extent(path, r->offset, r->bytes, r->out);
}

static int mp_extent(
	struct blk *b, uint64_t offset, uint64_t bytes, struct blk_extent *out)
{
	struct mp_request r = {
		.issue = issue_extent, .offset = offset, .bytes = bytes, .out = out};
	int ret = mp_run(b, &r);

	if (ret == 0 && (out->flags & BLK_EXT_HOST))
		out->host = b;
	return ret;
}

/* ---- options --------------------------------------------------------------------- */

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
	return opts_take_seconds(opts, "failback", ns, err);
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
	ret = ret ? ret : opts_take_seconds(opts, "no-path-timeout", &m->no_path_ns, err);
	ret = ret ? ret : opts_take_seconds(opts, "check-interval", &m->check_ns, err);
	ret = ret ? ret : opts_take_seconds(opts, "doubt", &m->doubt_ns, err);
	ret = ret ? ret : opts_take_bool(opts, "assume-same", &m->assume_same, err);
	if (ret == 0 && !m->check_ns)
		ret = err_set(err, EINVAL, "check-interval: at least one second");
	m->set.selector = selector;
	return ret;
}

/* ---- open and close -------------------------------------------------------------- */

static int start_task(
	struct multipath *m, struct loop *loop, void (*fn)(void *arg), void *arg)
{
	int ret;

	task_lock(&m->lock);
	ret = task_spawn(loop, fn, arg);
	if (ret == 0)
		m->tasks++;
	task_unlock(&m->lock);
	return ret;
}

static int start_keeper(struct lane *l, struct err *err)
{
	l->loop = loop_start(err);
	return l->loop ? start_task(l->m, l->loop, mp_keep, l) : -err->code;
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
	ret = start_task(m, m->home, mp_tick, m);
	for (unsigned i = 0; i < m->set.n && ret == 0; i++)
		ret = start_keeper(&m->lane[i], err);
	return ret && !err->code ? err_errno(err, -ret, "multipath") : ret;
}

/* Until all paths were tried, or one is up and the others had their time. */
static int wait_for_paths(struct multipath *m, struct err *err)
{
	uint64_t began = clock_ns();
	unsigned tried, up;

	for (;;) {
		tried = up = 0;
		for (unsigned i = 0; i < m->set.n; i++) {
			tried += m->lane[i].tried;
			up += m->lane[i].path.state == PATH_UP;
		}
		if (tried == m->set.n || (up && clock_ns() - began >= OPEN_GRACE_NS))
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
	while (m->tasks) /* the ticker's lasts until nothing is in doubt, for whoever writes next */
		task_cond_wait(&m->changed, &m->lock);
	task_unlock(&m->lock);
	for (unsigned i = 0; i < m->set.n; i++)
		if (m->lane[i].loop)
			loop_stop(m->lane[i].loop);
	loop_stop(m->home);
}

static int mp_close(struct blk *b)
{
	struct multipath *m = mp_of(b);

	assert(!m->in_flight);
	stop(m);
	for (unsigned i = 0; i < m->set.n; i++)
		if (m->lane[i].path.state == PATH_UP)
			blk_release(m->lane[i].b);
	if (m->wake_fd >= 0)
		close(m->wake_fd);
	for (unsigned i = 0; i < m->set.n; i++) {
		opts_free(m->lane[i].opts);
		free(m->lane[i].name);
	}
	unflushed_free(&m->kept);
	free(m->identity);
	return 0;
}

static int mp_open(struct blk *b, struct opts *opts, struct err *err)
{
	struct multipath *m = mp_of(b);
	int ret;

	m->b = b;
	m->open_flags = b->flags;
	m->wake_fd = -1;
	m->opening = true;
	ret = blk_need(b, BLK_NEEDS_FILES, err);
	ret = ret ? ret : take_options(m, opts, err);
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

struct resizing {
	enum blk_prealloc prealloc;
	struct err *err;
};

static int issue_resize(struct blk *path, const struct mp_request *r)
{
	const struct resizing *w = r->out;

	*w->err = (struct err)ERR_INIT;
	return blk_resize(path, r->bytes, w->prealloc, w->err);
}

static void set_sizes(struct multipath *m, uint64_t bytes)
{
	task_lock(&m->lock);
	blk_set_size(m->b, bytes);
	for (unsigned i = 0; i < m->set.n; i++)
		if (m->lane[i].b)
			blk_set_size(m->lane[i].b, bytes);
	task_unlock(&m->lock);
}

/* A device's size may be more than was asked for: it is as the path has it. */
static uint64_t largest(struct multipath *m)
{
	uint64_t bytes = 0;

	for (unsigned i = 0; i < m->set.n; i++)
		if (m->lane[i].path.state == PATH_UP)
			bytes = MAX(bytes, blk_size(m->lane[i].b));
	return bytes;
}

/* What is kept lies inside the old size, and must not be repeated behind a smaller one. */
static int mp_resize(
	struct blk *b, uint64_t bytes, enum blk_prealloc prealloc, struct err *err)
{
	struct multipath *m = mp_of(b);
	struct err why = ERR_INIT;
	struct resizing w = {.prealloc = prealloc, .err = &why};
	struct mp_request r = {.issue = issue_resize,
		.bytes = bytes,
		.out = &w,
		.changes = true,
		.resizes = true};
	int ret = mp_flush(b);

	if (ret == 0)
		ret = mp_run(b, &r);
	if (ret) {
		if (why.code && err)
			*err = why;
		else
			err_errno(err, -ret, "Could not resize '%s'", b->filename);
		return ret;
	}
	set_sizes(m, b->caps & BLK_CAP_GROW ? bytes : largest(m));
	return 0;
}

static int issue_allocated(struct blk *path, const struct mp_request *r)
{
	int64_t bytes = blk_allocated(path);

	*(int64_t *)r->out = bytes;
	return bytes < 0 ? (int)bytes : 0;
}

static int64_t mp_allocated(struct blk *b)
{
	int64_t bytes = 0;
	struct mp_request r = {.issue = issue_allocated, .out = &bytes};
	int ret = mp_run(b, &r);

	return ret ? ret : bytes;
}

/* Others' locks on what the paths lie on. */
static int mp_reflag(struct blk *b, struct err *err)
{
	struct multipath *m = mp_of(b);
	struct blk *paths[PATHS_MAX];
	unsigned n = 0, flags;
	int ret = 0;

	task_lock(&m->lock);
	flags = m->open_flags = b->flags;
	for (unsigned i = 0; i < m->set.n; i++)
		if (m->lane[i].b)
			paths[n++] = m->lane[i].b;
	task_unlock(&m->lock);
	for (unsigned i = 0; i < n && ret == 0; i++)
		ret = blk_reflag(paths[i], flags, err);
	return ret;
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
		o, "seconds-in-state", (int64_t)((clock_ns() - p->since_ns) / SECOND_NS));
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

/* Through whichever path is up. */
struct looking {
	struct json *list;
	const char *holder;
	struct err *err;
};

static int issue_holders(struct blk *path, const struct mp_request *r)
{
	struct looking *w = r->out;

	*w->err = (struct err)ERR_INIT;
	json_free(w->list);
	w->list = blk_holders(path, w->err);
	return w->list ? 0 : -w->err->code;
}

static struct json *mp_holders(struct blk *b, struct err *err)
{
	struct looking w = {.err = err};
	struct mp_request r = {.issue = issue_holders, .out = &w};

	return mp_run(b, &r) == 0 ? w.list : NULL;
}

static int issue_break(struct blk *path, const struct mp_request *r)
{
	struct looking *w = r->out;

	*w->err = (struct err)ERR_INIT;
	return blk_break_lock(path, w->holder, w->err);
}

static int mp_break_lock(struct blk *b, const char *holder, struct err *err)
{
	struct looking w = {.holder = holder, .err = err};
	struct mp_request r = {.issue = issue_break, .out = &w, .once = true};

	return mp_run(b, &r);
}

static const struct blk_storage_ops storage_ops = {
	.holders = mp_holders,
	.break_lock = mp_break_lock,
	.identity = mp_identity,
	.describe = mp_describe,
	.pr_begin = mp_pr_begin,
	.pr = mp_pr,
};

const struct blk_driver blk_multipath_driver = {
	.name = "multipath",
	.kind = BLK_PROTOCOL,
	.state_bytes = sizeof(struct multipath),
	.open = mp_open,
	.close = mp_close,
	.reflag = mp_reflag,
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
