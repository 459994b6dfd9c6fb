/* SPDX-License-Identifier: BSD-2-Clause */
/* The kinds of networks by their names. See net.h. */
#include "vmm/net.h"

#include <string.h>

struct net *net_open(
	const char *name, struct opts *opts, unsigned queues, struct err *err)
{
	if (!strcmp(name, "tap"))
		return net_tap_open(opts, queues, err);
	if (queues > 1) {
		err_set(err, EINVAL, "%s: only a tap has more than one queue", name);
		return NULL;
	}
	if (!strcmp(name, "stream"))
		return net_stream_open(opts, err);
	if (!strcmp(name, "user"))
		return net_user_open(opts, err);
	err_set(err, EINVAL, "no network is called '%s' (tap, stream or user)", name);
	return NULL;
}

void net_close(struct net *n)
{
	if (n)
		n->ops->close(n);
}
