/* SPDX-License-Identifier: BSD-2-Clause */
/* The images of a machine. See nodes.h. */
#include "vmm/nodes.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct node *nodes_find(const struct nodes *n, const char *name)
{
	struct node *node = n->first;

	while (node && strcmp(node->name, name) != 0)
		node = node->next;
	return node;
}

struct node *nodes_find_blk(const struct nodes *n, const struct blk *blk)
{
	struct node *node = n->first;

	while (node && node->blk != blk)
		node = node->next;
	return node;
}

int nodes_add(struct nodes *n, const char *name, struct blk *blk, bool with_disk,
	struct err *err)
{
	struct node **last = &n->first, *node;

	if (!*name || strlen(name) >= NODE_NAME_MAX)
		return err_set(err, EINVAL, "a node's name '%s' has 1 to %u bytes", name,
			NODE_NAME_MAX - 1);
	if (nodes_find(n, name))
		return err_set(err, EEXIST, "there is a node '%s' already", name);
	if (n->n == NODES_MAX)
		return err_set(err, E2BIG, "more than %u nodes", NODES_MAX);
	node = calloc(1, sizeof(*node));
	if (!node)
		return err_errno(err, ENOMEM, "node");
	snprintf(node->name, sizeof(node->name), "%s", name);
	node->blk = blk;
	node->with_disk = with_disk;
	while (*last)
		last = &(*last)->next;
	*last = node;
	n->n++;
	return 0;
}

void nodes_forget(struct nodes *n, struct node *node)
{
	struct node **at = &n->first;

	while (*at != node)
		at = &(*at)->next;
	*at = node->next;
	n->n--;
	free(node);
}

void nodes_forget_all(struct nodes *n)
{
	while (n->first)
		nodes_forget(n, n->first);
}

int nodes_close(struct nodes *n, struct node *node, struct err *err)
{
	struct err why = ERR_INIT;
	int ret = blk_close(node->blk);

	if (ret)
		err_errno(&why, -ret, "%s: not all that was written went to the image",
			node->name);
	nodes_forget(n, node);
	if (ret && n->ret == 0) {
		n->ret = ret;
		n->err = why;
	}
	if (ret && err)
		*err = why;
	return ret;
}

int nodes_close_all(struct nodes *n, struct err *err)
{
	while (n->first)
		nodes_close(n, n->first, NULL);
	if (n->ret)
		*err = n->err;
	return n->ret;
}
