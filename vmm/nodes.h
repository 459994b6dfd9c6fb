/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The images that a machine has open, by name. A node that came with its disk has the disk's name
 * and goes with it; one that was opened for itself stays until it is closed by name.
 *
 * One thread at a time: that which makes the machine, then that of the control socket.
 */
#ifndef BYRE_VMM_NODES_H
#define BYRE_VMM_NODES_H

#include "block/blk.h"

#define NODES_MAX     64u
#define NODE_NAME_MAX 32u /* with the 0; as of a disk's id */

struct node {
	char name[NODE_NAME_MAX];
	struct blk *blk;
	bool with_disk;
	struct node *next;
};

struct nodes {
	struct node *first;
	unsigned n;
	int ret; /* of the first close that failed */
	struct err err;
};

/* The blk is the nodes' from then on. -EEXIST, -E2BIG: it stays the caller's. */
int nodes_add(struct nodes *n, const char *name, struct blk *blk, bool with_disk, struct err *err);
struct node *nodes_find(const struct nodes *n, const char *name); /* NULL: none */
struct node *nodes_find_blk(const struct nodes *n, const struct blk *blk);
/* Forgets it, or all; what is open is the caller's again. */
void nodes_forget(struct nodes *n, struct node *node);
void nodes_forget_all(struct nodes *n);
/* 0, or -errno where what was written did not all go out. It is gone in any case. */
int nodes_close(struct nodes *n, struct node *node, struct err *err);
/* All of them: 0, or the first failure since the beginning. */
int nodes_close_all(struct nodes *n, struct err *err);

#endif
