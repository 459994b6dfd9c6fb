/* SPDX-License-Identifier: BSD-2-Clause */
/* See storage.h. */
#include "block/storage.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "block/gate.h"

/* The operations of the place below b, which becomes its node. */
static const struct blk_storage_ops *ops_of(struct blk **b)
{
	static const struct blk_storage_ops none;

	*b = (struct blk *)(uintptr_t)blk_below_filters(*b);
	return (*b)->drv->storage ? (*b)->drv->storage : &none;
}

int blk_identity(struct blk *b, char **out)
{
	const struct blk_storage_ops *ops = ops_of(&b);

	return ops->identity ? ops->identity(b, out) : -ENOTSUP;
}

static bool is_chance(struct blk *a, struct blk *b)
{
	const struct blk_storage_ops *ops = ops_of(&a);

	return ops == ops_of(&b) && ops->is_same && !ops->is_same(a, b);
}

static bool is_same_disk(struct blk *a, struct blk *b)
{
	bool named = a->needs & BLK_NEEDS_NETWORK && a->filename && b->filename;
	char *of_a = NULL, *of_b = NULL;
	bool same = named && !strcmp(a->filename, b->filename);

	if (!same && !blk_identity(a, &of_a) && !blk_identity(b, &of_b))
		same = !strcmp(of_a, of_b) && !is_chance(a, b);
	free(of_a);
	free(of_b);
	return same;
}

bool blk_is_read_through(struct blk *b, struct blk *place)
{
	while (place->file)
		place = place->file;
	for (; b; b = b->backing) {
		if (b->drv->kind == BLK_PROTOCOL) {
			if (is_same_disk(b, place))
				return true;
			continue; /* several paths are one disk */
		}
		for (struct blk *c = b->children; c; c = c->sibling)
			if (blk_is_read_through(c, place))
				return true;
	}
	return false;
}

int blk_check_path(struct blk *b, unsigned *priority)
{
	const struct blk_storage_ops *ops = ops_of(&b);

	return ops->check_path ? ops->check_path(b, priority) : -ENOTSUP;
}

void blk_note_loss(struct blk *b)
{
	const struct blk_storage_ops *ops;

	while (b->file)
		b = b->file;
	ops = ops_of(&b);
	if (ops->note_loss)
		ops->note_loss(b);
}

int blk_fence(struct blk *b)
{
	const struct blk_storage_ops *ops = ops_of(&b);

	return ops->fence ? ops->fence(b) : -ENOTSUP;
}

bool blk_can_fence(struct blk *b)
{
	return ops_of(&b)->fence;
}

int blk_reserve(struct blk *b, bool join, struct err *err)
{
	const struct blk_storage_ops *ops = ops_of(&b);

	return ops->reserve ? ops->reserve(b, join, err) : 0;
}

void blk_release(struct blk *b)
{
	const struct blk_storage_ops *ops = ops_of(&b);

	if (ops->release)
		ops->release(b);
}

/* As ops_of, with raw looked through as well. */
static const struct blk_storage_ops *place_of(struct blk **b)
{
	const struct blk_storage_ops *ops = ops_of(b);

	if (strcmp((*b)->drv->name, "raw") != 0)
		return ops;
	*b = (*b)->file;
	return ops_of(b);
}

int blk_pr_begin(struct blk *b, struct err *err)
{
	struct blk *place = b;
	const struct blk_storage_ops *ops = place_of(&place);

	if (!ops->pr_begin || blk_size(b) != blk_size(place))
		return err_set(err, ENOTSUP,
			"%s: a guest can reserve only a whole LUN, with format=raw",
			blk_filename(b));
	return ops->pr_begin(place, err);
}

int blk_pr(struct blk *b, struct blk_pr *pr)
{
	const struct blk_storage_ops *ops = place_of(&b);

	return ops->pr ? ops->pr(b, pr) : -ENOTSUP;
}

bool blk_pr_repeats(const struct blk_pr *pr)
{
	return !pr->out || pr->action == BLK_PR_RESERVE || pr->action == BLK_PR_RELEASE ||
	       pr->action == BLK_PR_REGISTER_IGNORING;
}

static int no_locks(const struct blk *b, struct err *err)
{
	return err_set(err, ENOTSUP, "%s: '%s' has no locks that could be looked at",
		blk_filename(b), b->drv->name);
}

struct json *blk_holders(struct blk *b, struct err *err)
{
	const struct blk_storage_ops *ops = ops_of(&b);

	if (ops->holders)
		return ops->holders(b, err);
	no_locks(b, err);
	return NULL;
}

int blk_break_lock(struct blk *b, const char *holder, struct err *err)
{
	const struct blk_storage_ops *ops = ops_of(&b);

	return ops->break_lock ? ops->break_lock(b, holder, err) : no_locks(b, err);
}

struct json *blk_describe(struct blk *b)
{
	const struct blk_storage_ops *ops = ops_of(&b);
	struct json *facts;

	if (!ops->describe)
		return NULL;
	facts = json_new_object();
	ops->describe(b, facts);
	return facts;
}
