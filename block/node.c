/* SPDX-License-Identifier: BSD-2-Clause */
/* A node: facts about it, and its end. A node is closed before its children, since it may
 * have to write to them; a chain of backing files is closed by a loop from the top down.
 */
#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/math.h"
#include "block/gate.h"

/* ---- facts ----------------------------------------------------------------------- */

const struct blk *blk_below_filters(const struct blk *b)
{
	while (b->drv->kind == BLK_FILTER && b->file)
		b = b->file;
	return b;
}

const char *blk_filename(const struct blk *b)
{
	return b->filename ? b->filename : "";
}

const char *blk_driver_name(const struct blk *b)
{
	return b->drv->name;
}

uint64_t blk_size(const struct blk *b)
{
	return __atomic_load_n(&b->size, __ATOMIC_ACQUIRE);
}

void blk_set_size(struct blk *b, uint64_t bytes)
{
	__atomic_store_n(&b->size, bytes, __ATOMIC_RELEASE);
}

void blk_raise_size(struct blk *b, uint64_t bytes)
{
	uint64_t now = blk_size(b);

	while (now < bytes && !__atomic_compare_exchange_n(&b->size, &now, bytes, true,
				      __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
		;
}

bool blk_read_only(const struct blk *b)
{
	return !(b->flags & BLK_O_RDWR);
}

unsigned blk_flags(const struct blk *b)
{
	return b->flags;
}

struct blk *blk_file(const struct blk *b)
{
	return b->file;
}

struct blk *blk_backing(const struct blk *b)
{
	return blk_below_filters(b)->backing;
}

const char *blk_backing_name(const struct blk *b)
{
	return blk_below_filters(b)->backing_name;
}

const char *blk_backing_format(const struct blk *b)
{
	return blk_below_filters(b)->backing_format;
}

static bool is_file(const struct blk *b, const struct stat *file)
{
	struct stat st;

	return b->drv->kind == BLK_PROTOCOL && b->filename && !stat(b->filename, &st) &&
	       st.st_dev == file->st_dev && st.st_ino == file->st_ino;
}

/* Around the lists of children: a node with several paths opens some of them late, on a
 * thread of its own. */
static pthread_mutex_t tree_lock = PTHREAD_MUTEX_INITIALIZER;

static bool uses(const struct blk *b, const struct stat *file)
{
	for (; b; b = b->backing) {
		if (is_file(b, file))
			return true;
		for (const struct blk *c = b->children; c; c = c->sibling)
			if (uses(c, file))
				return true;
	}
	return false;
}

bool blk_uses_file(const struct blk *b, const char *path)
{
	struct stat st;
	bool found;

	if (stat(path, &st))
		return false;
	pthread_mutex_lock(&tree_lock);
	found = uses(b, &st);
	pthread_mutex_unlock(&tree_lock);
	return found;
}

static unsigned needs(const struct blk *b)
{
	unsigned all = 0;

	for (; b; b = b->backing) {
		all |= b->needs;
		for (const struct blk *c = b->children; c; c = c->sibling)
			all |= needs(c);
	}
	return all;
}

static atomic_uint needs_left = ~0u;

void blk_limit_needs(unsigned left)
{
	atomic_store(&needs_left, left);
}

static const char *name_of_need(enum blk_needs what)
{
	switch (what) {
	case BLK_NEEDS_NETWORK:
		return "to make connections";
	case BLK_NEEDS_FILES:
		return "to open paths to it again";
	case BLK_NEEDS_PROGRAM:
		return "to run a program";
	case BLK_NEEDS_RIGHTS:
		return "to reserve a device";
	}
	return "";
}

int blk_need(struct blk *b, enum blk_needs what, struct err *err)
{
	b->needs |= what;
	if (what & atomic_load(&needs_left))
		return 0;
	return err_set(err, EPERM,
		"%s%sit would have %s, which this process is confined not to do",
		blk_filename(b), b->filename ? ": " : "", name_of_need(what));
}

unsigned blk_needs(const struct blk *b)
{
	unsigned all;

	pthread_mutex_lock(&tree_lock);
	all = needs(b);
	pthread_mutex_unlock(&tree_lock);
	return all;
}

static void each_path(const struct blk *b, bool backing,
	void (*fn)(const struct blk *node, bool backing, void *arg), void *arg)
{
	for (; b; b = b->backing, backing = true) {
		if (b->drv->local && b->filename)
			fn(b, backing, arg);
		for (const struct blk *c = b->children; c; c = c->sibling)
			each_path(c, backing, fn, arg);
	}
}

void blk_each_path(const struct blk *b,
	void (*fn)(const struct blk *node, bool backing, void *arg), void *arg)
{
	pthread_mutex_lock(&tree_lock);
	each_path(b, false, fn, arg);
	pthread_mutex_unlock(&tree_lock);
}

int blk_cache_mode(const char *mode, unsigned *flags)
{
	static const struct {
		const char *name;
		unsigned flags;
	} modes[] = {
		{"none", BLK_O_DIRECT},
		{"off", BLK_O_DIRECT},
		{"writeback", 0},
		{"writethrough", BLK_O_WRITETHROUGH},
		{"directsync", BLK_O_DIRECT | BLK_O_WRITETHROUGH},
		{"unsafe", BLK_O_NO_FLUSH},
	};

	for (size_t i = 0; i < ARRAY_LEN(modes); i++)
		if (!strcmp(mode, modes[i].name)) {
			*flags &= ~(unsigned)(BLK_O_DIRECT | BLK_O_WRITETHROUGH |
					      BLK_O_NO_FLUSH);
			*flags |= modes[i].flags;
			return 0;
		}
	return -EINVAL;
}

/* ---- close ----------------------------------------------------------------------- */

void blk_node_join(struct blk *b, struct blk *parent)
{
	pthread_mutex_lock(&tree_lock);
	b->parent = parent;
	b->nesting = parent->nesting + 1;
	b->sibling = parent->children;
	parent->children = b;
	pthread_mutex_unlock(&tree_lock);
}

static void leave_parent(struct blk *b)
{
	struct blk **link;

	if (!b->parent)
		return;
	pthread_mutex_lock(&tree_lock);
	if (b->parent->file == b)
		b->parent->file = NULL;
	if (b->parent->data_file == b)
		b->parent->data_file = NULL;
	for (link = &b->parent->children; *link != b; link = &(*link)->sibling)
		;
	*link = b->sibling;
	pthread_mutex_unlock(&tree_lock);
}

void blk_node_free(struct blk *b)
{
	leave_parent(b);
	blk_gate_free(b);
	free(b->filename);
	free(b->backing_name);
	free(b->backing_format);
	free(b->state);
	free(b);
}

int blk_close_children(struct blk *b)
{
	int ret = 0;

	while (b->children) {
		int child = blk_close(b->children);

		ret = ret ? ret : child;
	}
	return ret;
}

/* One node and its children, not its backing file. The first error counts. */
static int close_node(struct blk *b)
{
	/* Paths were flushed by the node over them, which knows when one can do without. */
	int flush = b->flags & BLK_O_PATH ? 0 : blk_flush(b);
	int own = b->drv->close ? b->drv->close(b) : 0;
	int children;

	assert(own <= 0);
	children = blk_close_children(b);
	blk_node_free(b);
	return flush ? flush : own ? own : children;
}

int blk_close(struct blk *b)
{
	int ret = 0;

	while (b) {
		struct blk *backing = b->backing;
		int node = close_node(b);

		ret = ret ? ret : node;
		b = backing;
	}
	return ret;
}
