/* SPDX-License-Identifier: BSD-2-Clause */
/* A disk that is reserved over all of its paths: by the node itself, or by a guest of its user. */
#include "backends/multipath.h"

#include "backends/reserve.h"
#include "base/endian.h"
#include "block/storage.h"

/* ---- the node's own -------------------------------------------------------------- */

/* The first path reserves the disk where it is to be reserved, others join; by turns. */
int mp_reserve(struct lane *l, struct blk *b, struct err *err)
{
	struct multipath *m = l->m;
	bool join;
	int ret;

	task_lock(&m->reserving);
	task_lock(&m->lock);
	join = m->reserved;
	task_unlock(&m->lock);
	ret = blk_reserve(b, join, err);
	task_lock(&m->lock);
	if (ret == 0)
		m->reserved = true;
	else if (join && ret == -EBADE)
		mp_refuse(m);
	task_unlock(&m->lock);
	task_unlock(&m->reserving);
	return ret;
}

/* ---- a guest's reservations ------------------------------------------------------ */

/* A reserve_run, over the path ctx. */
static int run_pr(void *ctx, struct scsi_command *c)
{
	bool out = c->cdb[0] == RESERVE_OPCODE_OUT;
	struct blk_pr pr = {.action = c->cdb[1],
		.scope_type = c->cdb[2],
		.out = out ? c->out : NULL,
		.in = c->in,
		.in_bytes = c->in_bytes};
	int ret = blk_pr(ctx, &pr);

	c->got = pr.got;
	return ret;
}

int mp_follow_guest(struct lane *l, struct blk *b, struct err *err)
{
	struct multipath *m = l->m;
	int ret = 0;

	task_lock(&m->reserving);
	if (m->passes)
		ret = blk_pr_begin(b, err);
	if (ret == 0 && m->guest_registers) {
		ret = reserve_follow(run_pr, b, m->guest_key);
		if (ret)
			err_errno(err, -ret, "path %u (%s): the guest's registration",
				l->index, blk_filename(b));
	}
	task_unlock(&m->reserving);
	return ret;
}

/* The paths that can be used now; those that come up later follow (multipath_keep.c). */
static unsigned paths_up(struct multipath *m, struct lane *up[PATHS_MAX])
{
	unsigned n = 0;

	task_lock(&m->lock);
	for (unsigned i = 0; i < m->set.n; i++)
		if (m->lane[i].path.state == PATH_UP)
			up[n++] = &m->lane[i];
	task_unlock(&m->lock);
	return n;
}

int mp_pr_begin(struct blk *b, struct err *err)
{
	struct multipath *m = mp_of(b);
	struct lane *up[PATHS_MAX];
	unsigned n;
	int ret = 0;

	task_lock(&m->reserving);
	n = paths_up(m, up);
	for (unsigned i = 0; i < n && ret == 0; i++)
		ret = blk_pr_begin(up[i]->b, err);
	if (ret == 0) {
		task_lock(&m->lock);
		m->passes = true;
		task_unlock(&m->lock);
	}
	task_unlock(&m->reserving);
	return ret;
}

struct through {
	struct blk_pr *pr;
	bool registered; /* the guest is, under the key that it says */
};

/* 0 where the guest holds it, as it says; -EBADE where it does not. */
static int issue_look(struct blk *path, const struct mp_request *r)
{
	const struct blk_pr *pr = ((const struct through *)r->out)->pr;
	struct reserve_state now;
	int ret = reserve_look(run_pr, path, &now);

	if (ret)
		return ret;
	return reserve_is_ours(&now, be64_load(pr->out)) &&
			       now.type == (pr->scope_type & 0xf)
		       ? 0
		       : -EBADE;
}

/* The guest knows of one path, and may reserve again what it holds; by another than the one that
 * holds it, that is a conflict. */
static int issue_pr(struct blk *path, const struct mp_request *r)
{
	const struct through *t = r->out;
	int ret = blk_pr(path, t->pr);

	if (ret == -EBADE && t->registered && t->pr->action == BLK_PR_RESERVE)
		return issue_look(path, r);
	return ret;
}

static int through_one(struct blk *b, struct blk_pr *pr)
{
	struct multipath *m = mp_of(b);
	struct through t = {.pr = pr};
	struct mp_request r = {.issue = issue_pr, .out = &t, .once = !blk_pr_repeats(pr)};

	task_lock(&m->reserving);
	t.registered =
		pr->out && m->guest_registers && m->guest_key == be64_load(pr->out);
	task_unlock(&m->reserving);
	return mp_run(b, &r);
}

/* The path that holds it may be lost, and to all others a release is none of theirs, and well. */
static int check_released(struct blk *b, struct blk_pr *pr)
{
	struct through t = {.pr = pr};
	struct mp_request r = {.issue = issue_look, .out = &t};

	return mp_run(b, &r) == -EBADE ? 0 : -EIO;
}

/* What concerns each path's own registration; one that is lost follows when it is back. The first
 * refusal decides, and nothing is taken back: the guest hears of it, and whatever it does next it
 * does to all. *missing: there are paths that it was not done to. */
static int through_all(struct multipath *m, struct blk_pr *pr, bool *missing)
{
	struct lane *up[PATHS_MAX];
	unsigned n = paths_up(m, up);
	int ret = -ENOLINK;

	*missing = n < m->set.n;

	for (unsigned i = 0; i < n; i++) {
		uint64_t began_ns = clock_ns();
		int one = blk_pr(up[i]->b, pr);

		if (mp_is_path_error(one)) {
			task_lock(&m->lock);
			mp_lose(up[i], PATH_FAILED, one, began_ns);
			task_unlock(&m->lock);
			*missing = true;
		} else if (ret == -ENOLINK || ret == 0) {
			ret = one;
		}
	}
	return ret;
}

static bool registers(const struct blk_pr *pr)
{
	return pr->action == BLK_PR_REGISTER || pr->action == BLK_PR_REGISTER_IGNORING;
}

/* Reservations of one path only would be in the way of the guest's other paths, which it does not
 * know of: types 1 and 3 (SPC-4, 5.13.4) are refused. */
static bool is_for_one_path(const struct blk_pr *pr)
{
	unsigned type = pr->scope_type & 0xf;

	return (type == 1 || type == 3) && !registers(pr) && pr->action != BLK_PR_CLEAR;
}

int mp_pr(struct blk *b, struct blk_pr *pr)
{
	struct multipath *m = mp_of(b);
	bool all = pr->out && (registers(pr) || pr->action == BLK_PR_RELEASE), missing;
	int ret;

	if (pr->out && is_for_one_path(pr))
		return -ENOTSUP;
	if (!all)
		return through_one(b, pr);
	task_lock(&m->reserving);
	ret = through_all(m, pr, &missing);
	if (ret == 0 && registers(pr)) {
		m->guest_registers = true;
		m->guest_key = be64_load(pr->out + 8);
	}
	task_unlock(&m->reserving);
	return ret == 0 && missing && pr->action == BLK_PR_RELEASE ? check_released(b, pr)
								   : ret;
}
