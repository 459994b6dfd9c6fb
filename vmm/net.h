/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a network card of the machine is attached to: a tap device, a stream socket (passt, or
 * whoever speaks its framing), or a network in user mode. Each is one file that ends in
 * its table of operations.
 *
 * Packets are Ethernet frames in scatter lists; nothing here waits. There are `queues` pairs of
 * queues, which may be used at once, each direction of each by one thread at a time.
 *
 * Where vnet_header is set a packet begins with NET_HEADER bytes that say what is still to
 * be done with it (virtio 1.2, 5.1.6: checksum, segments).
 */
#ifndef BYRE_VMM_NET_H
#define BYRE_VMM_NET_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/err.h"
#include "base/opts.h"

#define NET_HEADER     12u
#define NET_PACKET_MAX (NET_HEADER + 65535u + 18u) /* the largest segment, with a tag */
#define NET_QUEUES_MAX 16u

/* Work that may be left to the guest with what it receives. */
enum net_offload {
	NET_CSUM = 1,
	NET_TSO4 = 2,
	NET_TSO6 = 4,
	NET_ECN = 8,
	NET_UFO = 16,
};

struct net;
struct vhost;

struct net_ops {
	const char *name; /* as in --net */
	/* 0 also where the packet is nobody's and lost; -EAGAIN: try again when write_fd is ready
	 * for write_events. */
	int (*send)(struct net *n, unsigned queue, const struct iovec *iov, int niov);
	/* One packet: its bytes, of which those that found room are there. -EAGAIN: none, until
	 * read_fd is readable; -EPIPE: there will be no more. */
	ssize_t (*receive)(struct net *n, unsigned queue, const struct iovec *iov, int niov);
	/* What the guest takes (enum net_offload). NULL without vnet_header. */
	void (*set_offloads)(struct net *n, unsigned offloads);
	/* How many pairs are in use, from the first on. The others' descriptors are not looked
	 * at. NULL: of no interest. */
	void (*set_pairs)(struct net *n, unsigned pairs);
	void (*close)(struct net *n);
};

struct net {
	const struct net_ops *ops;
	unsigned queues;
	bool vnet_header;
	bool opens_sockets; /* while it runs, for the guest's connections */
	unsigned offloads;  /* that set_offloads knows */
	struct {
		int read_fd, write_fd;
		short write_events; /* POLLIN or POLLOUT */
		struct vhost *vhost; /* where the kernel serves this pair of the card's queues (vhost.h),
				      * with read_fd as the tap; NULL: the card does */
	} queue[NET_QUEUES_MAX];
};

/* Each takes its own options out of opts. NULL with err set. */
struct net *net_tap_open(struct opts *opts, unsigned queues, struct err *err);
struct net *net_stream_open(struct opts *opts, struct err *err);
struct net *net_user_open(struct opts *opts, struct err *err);

/* By its name: "tap", "stream" or "user". */
struct net *net_open(const char *name, struct opts *opts, unsigned queues, struct err *err);
void net_close(struct net *n); /* NULL is fine; not before the card is gone */

#endif
