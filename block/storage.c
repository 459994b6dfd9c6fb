/* SPDX-License-Identifier: BSD-2-Clause */
/* See storage.h. */
#include "block/storage.h"

#include <errno.h>

#include "base/json.h"
#include "block/driver.h"

static struct blk *below_filters(struct blk *b)
{
	while (b->drv->kind == BLK_FILTER && b->file)
		b = b->file;
	return b;
}

int blk_identity(struct blk *b, char **out)
{
	const struct blk_storage_ops *ops;

	b = below_filters(b);
	ops = b->drv->storage;
	return ops && ops->identity ? ops->identity(b, out) : -ENOTSUP;
}

int blk_check_path(struct blk *b, unsigned *priority)
{
	const struct blk_storage_ops *ops;

	b = below_filters(b);
	ops = b->drv->storage;
	return ops && ops->check_path ? ops->check_path(b, priority) : -ENOTSUP;
}

int blk_fence(struct blk *b)
{
	const struct blk_storage_ops *ops;

	b = below_filters(b);
	ops = b->drv->storage;
	return ops && ops->fence ? ops->fence(b) : -ENOTSUP;
}

struct json *blk_describe(struct blk *b)
{
	const struct blk_storage_ops *ops;
	struct json *facts;

	b = below_filters(b);
	ops = b->drv->storage;
	if (!ops || !ops->describe)
		return NULL;
	facts = json_new_object();
	ops->describe(b, facts);
	return facts;
}
