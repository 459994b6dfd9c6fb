/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Virtio network cards. See virtio_net.h.
 *
 * Queues are rx0, tx0, rx1, tx1, … and the control queue, each with its loop to itself. A packet
 * goes between the guest's buffers and the network in one call. To receive one of unknown
 * size enough chains are taken for the largest there can be; those that it did not need
 * wait for the next, and are given back when the machine stops.
 *
 * Which packets the guest gets is decided here (5.1.6.5.1 to 3), since a network gives all it has.
 * Until the driver says something else that is every one.
 *
 * Where the kernel serves the queues of packets (vhost.h) their loops pass its interrupts on, and
 * packets are not filtered: the guest does that.
 *
 * Lock order: the queue's own, then `lock`; vhost_lock by itself.
 */
#include "vmm/virtio_net.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/aio.h"
#include "base/endian.h"
#include "base/iov.h"
#include "base/math.h"
#include "vmm/vhost.h"

#define ETHERNET      14u
#define MAC           6u
#define TAG           0x8100u
#define TABLE_MAX     64u /* addresses that are wanted beside the own; more: all */
#define VLANS         4096u
#define MORE_ROOM_NS  2000000
#define CHAINS_MAX    64u /* for one packet */
#define SEGMENTS_MAX  1024u
#define COMMAND_BYTES (64u << 10)

enum feature {
	F_CSUM = 0,
	F_GUEST_CSUM = 1,
	F_MTU = 3,
	F_MAC = 5,
	F_GUEST_TSO4 = 7,
	F_GUEST_TSO6 = 8,
	F_GUEST_ECN = 9,
	F_GUEST_UFO = 10,
	F_HOST_TSO4 = 11,
	F_HOST_TSO6 = 12,
	F_HOST_ECN = 13,
	F_HOST_UFO = 14,
	F_MRG_RXBUF = 15,
	F_STATUS = 16,
	F_CTRL_VQ = 17,
	F_CTRL_RX = 18,
	F_CTRL_VLAN = 19,
	F_CTRL_RX_EXTRA = 20,
	F_GUEST_ANNOUNCE = 21,
	F_MQ = 22,
	F_CTRL_MAC_ADDR = 23,
};

/* struct virtio_net_config. */
enum config { CONFIG_MAC = 0, CONFIG_STATUS = 6, CONFIG_PAIRS = 8, CONFIG_MTU = 10 };
#define CONFIG_BYTES    12
#define STATUS_LINK_UP  1
#define STATUS_ANNOUNCE 2

/* struct virtio_net_hdr. */
#define HEADER_BUFFERS 10

/* Commands (5.1.6.5). */
enum class {
	CLASS_RX = 0,
	CLASS_MAC = 1,
	CLASS_VLAN = 2,
	CLASS_ANNOUNCE = 3,
	CLASS_MQ = 4
};
enum rx_mode { PROMISC, ALL_MULTI, ALL_UNI, NO_MULTI, NO_UNI, NO_BROADCAST, RX_MODES };
enum { MAC_TABLE_SET = 0, MAC_ADDR_SET = 1 };
enum { VLAN_ADD = 0, VLAN_DEL = 1 };
#define ACK_OK    0
#define ACK_ERROR 1

/* What the guest wants to receive. */
struct filter {
	uint8_t mode[RX_MODES];
	uint8_t mac[MAC];
	uint8_t table[2][TABLE_MAX][MAC]; /* of single stations; of groups */
	uint8_t n_table[2];
	bool all[2]; /* the driver had more than there is room for */
	uint8_t vlan[VLANS / 8];
};

/* Of a queue that receives. */
struct receiver {
	struct virtio_chain *chain[CHAINS_MAX]; /* taken, unused */
	unsigned n_chains;
	struct iovec iov[SEGMENTS_MAX];
	uint64_t room_until_ns; /* so long the guest is waited for; 0: it is not */
	int wait_fd;            /* an epoll descriptor: the guest or the network */
	uint8_t spare[NET_PACKET_MAX];
};

struct virtio_net {
	struct virtio_device virtio; /* first */
	struct net *net;
	unsigned max_pairs;
	uint8_t mac[MAC];          /* as it was made */
	bool link_up;              /* atomic: by its owner */
	bool gone;                 /* atomic: the network has ended */
	struct receiver *receiver; /* of each pair */
	struct iovec *out[VIRTIO_NET_PAIRS_MAX];
	int send_wait_fd[VIRTIO_NET_PAIRS_MAX];
	int command_wait_fd; /* of the third queue, whose notifications the kernel gets; else -1 */
	/* Which queues the kernel serves now (vhost.h), a bit each; around changes of that, and of the
	 * link while it does: */
	pthread_mutex_t vhost_lock;
	uint32_t in_kernel;

	pthread_mutex_t lock; /* around what follows */
	struct filter filter;
	uint16_t pairs; /* in use */
	bool announce;  /* the guest is to tell the network where it is */
};

static struct virtio_net *net_of(struct virtio_device *d)
{
	return (struct virtio_net *)d;
}

/* ---- the link -------------------------------------------------------------------- */

static bool is_up(struct virtio_net *v)
{
	return __atomic_load_n(&v->link_up, __ATOMIC_ACQUIRE) &&
	       !__atomic_load_n(&v->gone, __ATOMIC_ACQUIRE);
}

static void tell_status(struct virtio_net *v)
{
	le16 status;

	pthread_mutex_lock(&v->lock);
	status = le16_put(
		(is_up(v) ? STATUS_LINK_UP : 0) | (v->announce ? STATUS_ANNOUNCE : 0));
	virtio_set_config(&v->virtio, CONFIG_STATUS, &status, sizeof(status), true);
	pthread_mutex_unlock(&v->lock);
}

/* Who serves the pair of that queue; NULL: this card. The kernel knows no packed rings. */
static struct vhost *vhost_of(const struct virtio_net *v, unsigned queue)
{
	return v->virtio.features >> VIRTIO_F_RING_PACKED & 1
		       ? NULL
		       : v->net->queue[queue / 2].vhost;
}

static int backend_of(struct virtio_net *v, unsigned queue)
{
	return is_up(v) ? v->net->queue[queue / 2].read_fd : -1;
}

/* What the kernel serves goes by the link, too. */
static void follow_link(struct virtio_net *v)
{
	pthread_mutex_lock(&v->vhost_lock);
	for (unsigned i = 0; i < 2 * v->max_pairs; i++)
		if (v->in_kernel >> i & 1)
			vhost_set_tap(vhost_of(v, i), i % 2, backend_of(v, i));
	pthread_mutex_unlock(&v->vhost_lock);
}

void virtio_net_set_link(struct virtio_net *v, bool up)
{
	if (__atomic_exchange_n(&v->link_up, up, __ATOMIC_ACQ_REL) == up)
		return;
	follow_link(v);
	tell_status(v);
}

static void lose_network(struct virtio_net *v)
{
	if (!__atomic_exchange_n(&v->gone, true, __ATOMIC_ACQ_REL))
		tell_status(v);
}

/* ---- what is wanted -------------------------------------------------------------- */

static bool in_table(const struct filter *f, bool group, const uint8_t *mac)
{
	for (unsigned i = 0; i < f->n_table[group]; i++)
		if (!memcmp(f->table[group][i], mac, MAC))
			return true;
	return f->all[group];
}

static bool station_wanted(const struct filter *f, const uint8_t *mac)
{
	static const uint8_t everybody[MAC] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

	if (f->mode[PROMISC])
		return true;
	if (!memcmp(mac, everybody, MAC))
		return !f->mode[NO_BROADCAST];
	if (mac[0] & 1)
		return !f->mode[NO_MULTI] &&
		       (f->mode[ALL_MULTI] || in_table(f, true, mac));
	return !f->mode[NO_UNI] &&
	       (f->mode[ALL_UNI] || !memcmp(mac, f->mac, MAC) || in_table(f, false, mac));
}

static bool is_wanted(struct virtio_net *v, const uint8_t frame[ETHERNET + 2])
{
	bool wanted = true;

	pthread_mutex_lock(&v->lock);
	if (virtio_has(&v->virtio, F_CTRL_RX))
		wanted = station_wanted(&v->filter, frame);
	if (wanted && virtio_has(&v->virtio, F_CTRL_VLAN) &&
		be16_load(frame + 2 * MAC) == TAG) {
		unsigned vlan = be16_load(frame + ETHERNET) % VLANS;

		wanted = v->filter.vlan[vlan / 8] >> vlan % 8 & 1;
	}
	pthread_mutex_unlock(&v->lock);
	return wanted;
}

static bool pair_in_use(struct virtio_net *v, unsigned pair)
{
	bool used;

	pthread_mutex_lock(&v->lock);
	used = pair < v->pairs;
	pthread_mutex_unlock(&v->lock);
	return used;
}

/* ---- waiting --------------------------------------------------------------------- */

static int watch(int epoll_fd, int fd, short events)
{
	struct epoll_event e = {.events = events == POLLOUT ? EPOLLOUT : EPOLLIN};

	return epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &e) ? -errno : 0;
}

static int open_wait(int *out, int event_fd, int fd, short events)
{
	int ret;

	*out = epoll_create1(EPOLL_CLOEXEC);
	if (*out < 0)
		return -errno;
	ret = watch(*out, event_fd, POLLIN);
	return ret ? ret : watch(*out, fd, events);
}

/* For the guest, or for what the descriptor waits for, too. */
static void wait_for(struct virtio_queue *q, int wait_fd)
{
	aio_poll(wait_fd, POLLIN, -1);
	virtio_clear_event(q);
}

/* ---- by the kernel (vhost.h) ----------------------------------------------------- */

static int enter_kernel(struct virtio_net *v, struct virtio_queue *q)
{
	int ret;

	pthread_mutex_lock(&v->vhost_lock);
	ret = vhost_start(
		vhost_of(v, q->index), q->index % 2, q, backend_of(v, q->index));
	if (ret == 0)
		v->in_kernel |= 1u << q->index;
	pthread_mutex_unlock(&v->vhost_lock);
	return ret;
}

static void leave_kernel(struct virtio_net *v, struct virtio_queue *q)
{
	pthread_mutex_lock(&v->vhost_lock);
	v->in_kernel &= ~(1u << q->index);
	vhost_stop(vhost_of(v, q->index), q->index % 2, q);
	pthread_mutex_unlock(&v->vhost_lock);
}

static bool take_event(int fd)
{
	uint64_t count;

	return read(fd, &count, sizeof(count)) == sizeof(count);
}

static void hear_kernel(struct virtio_net *v, struct virtio_queue *q)
{
	const struct vhost *h = vhost_of(v, q->index);

	if (take_event(h->queue[q->index % 2].call_fd))
		virtio_tell_guest(q);
	if (take_event(h->queue[q->index % 2].err_fd))
		virtio_break(&v->virtio, "a descriptor chain makes no sense");
}

/* What the kernel did before it stopped the guest hears of before the queue may be seen at rest. */
static void run_in_kernel(struct virtio_net *v, struct virtio_queue *q, int wait_fd)
{
	int ret = enter_kernel(v, q);

	if (ret)
		virtio_break(&v->virtio, "the kernel does not serve its queues");
	while (!virtio_stopping(q)) {
		wait_for(q, wait_fd);
		hear_kernel(v, q);
	}
	if (ret == 0) {
		leave_kernel(v, q);
		hear_kernel(v, q);
	}
}

/* ---- receiving ------------------------------------------------------------------- */

static size_t header_bytes(const struct virtio_net *v)
{
	return v->net->vnet_header ? 0 : NET_HEADER;
}

/* What of a chain is used, if it has the room. */
static size_t room_of(const struct virtio_chain *c)
{
	return MIN(c->in_bytes, (uint64_t)NET_PACKET_MAX);
}

static size_t taken_room(const struct receiver *r)
{
	size_t bytes = 0;

	for (unsigned i = 0; i < r->n_chains; i++)
		bytes += room_of(r->chain[i]);
	return bytes;
}

static unsigned chains_of_packet(const struct virtio_net *v)
{
	return virtio_has(&v->virtio, F_MRG_RXBUF) ? CHAINS_MAX : 1;
}

static bool has_enough(const struct virtio_net *v, const struct receiver *r)
{
	return r->n_chains == chains_of_packet(v) || taken_room(r) >= NET_PACKET_MAX;
}

/* Takes chains till the largest packet fits, or there are no more. False: there is none, or
 * the device is broken. */
static bool take_chains(struct virtio_net *v, struct virtio_queue *q, struct receiver *r)
{
	while (!has_enough(v, r)) {
		struct virtio_chain *c = virtio_take(q);

		if (!c)
			break;
		if (c->in_bytes < NET_HEADER) {
			virtio_break(&v->virtio, "no room for a packet's header");
			virtio_done(c, 0);
			return false;
		}
		r->chain[r->n_chains++] = c;
	}
	return r->n_chains > 0;
}

/* Where a packet goes: behind the place of the header where the network has none, and with
 * what no chain has room for into the spare. */
static int packet_room(struct virtio_net *v, struct receiver *r, size_t *room)
{
	size_t skip = header_bytes(v);
	unsigned n = 0;

	*room = 0;
	for (unsigned i = 0; i < r->n_chains; i++) {
		struct virtio_chain *c = r->chain[i];
		size_t bytes = room_of(c) - skip;

		if (n + c->n_in >= SEGMENTS_MAX)
			break;
		n += (unsigned)iov_slice(
			r->iov + n, c->iov + c->n_out, (int)c->n_in, skip, bytes);
		*room += bytes;
		skip = 0;
	}
	r->iov[n++] = (struct iovec){r->spare, sizeof(r->spare)};
	return (int)n;
}

/* Gives the guest the chains that have `bytes`, header included. */
static void give(struct receiver *r, size_t bytes)
{
	uint32_t written[CHAINS_MAX];
	unsigned n = 0;
	le16 buffers;

	while (bytes) {
		size_t here = MIN(bytes, room_of(r->chain[n]));

		written[n++] = (uint32_t)here;
		bytes -= here;
	}
	buffers = le16_put((uint16_t)n);
	iov_from_buf(r->chain[0]->iov + r->chain[0]->n_out, (int)r->chain[0]->n_in,
		HEADER_BUFFERS, &buffers, sizeof(buffers));
	virtio_done_many(r->chain, written, n);
	r->n_chains -= n;
	memmove(r->chain, r->chain + n, r->n_chains * sizeof(*r->chain));
}

/* One packet; false: there is none now. */
static bool receive_one(struct virtio_net *v, unsigned pair, struct receiver *r)
{
	static const uint8_t no_header[NET_HEADER];
	uint8_t frame[ETHERNET + 2] = {0};
	size_t header = header_bytes(v), at = NET_HEADER - header;
	size_t room;
	int n = packet_room(v, r, &room);
	ssize_t bytes = v->net->ops->receive(v->net, pair, r->iov, n);

	if (bytes == -EPIPE)
		lose_network(v);
	if (bytes < 0)
		return false;
	r->room_until_ns = 0;
	if ((size_t)bytes > room || (size_t)bytes < at + ETHERNET || !is_up(v))
		return true; /* lost */
	iov_to_buf(r->iov, n, at, frame, MIN(sizeof(frame), (size_t)bytes - at));
	if (!is_wanted(v, frame))
		return true;
	if (header)
		iov_from_buf(r->chain[0]->iov + r->chain[0]->n_out,
			(int)r->chain[0]->n_in, 0, no_header, header);
	give(r, (size_t)bytes + header);
	return true;
}

/* Where there is less room than a packet may need the guest, which fills the queue up as a rule, gets
 * a moment to do so. True: it had it. */
static bool has_had_time(struct virtio_net *v, struct virtio_queue *q, struct receiver *r)
{
	uint64_t now;

	if (has_enough(v, r))
		return true;
	now = clock_ns();
	if (!r->room_until_ns)
		r->room_until_ns = now + MORE_ROOM_NS;
	if (now >= r->room_until_ns)
		return true;
	aio_poll(q->lane.event_fd, POLLIN, (int64_t)(r->room_until_ns - now));
	virtio_clear_event(q);
	return false;
}

static void receive_some(
	struct virtio_net *v, struct virtio_queue *q, unsigned pair, struct receiver *r)
{
	if (!take_chains(v, q, r))
		wait_for(q, q->lane.event_fd);
	else if (has_had_time(v, q, r) && !receive_one(v, pair, r))
		wait_for(q, __atomic_load_n(&v->gone, __ATOMIC_ACQUIRE) ? q->lane.event_fd
									: r->wait_fd);
}

static void receive(struct virtio_net *v, struct virtio_queue *q, unsigned pair)
{
	struct receiver *r = &v->receiver[pair];

	while (!virtio_stopping(q)) {
		if (pair_in_use(v, pair))
			receive_some(v, q, pair, r);
		else
			wait_for(q, q->lane.event_fd);
	}
	for (unsigned i = 0; i < r->n_chains; i++)
		virtio_hold(r->chain[i]);
	r->n_chains = 0;
}

/* ---- sending --------------------------------------------------------------------- */

/* -EAGAIN, or it is done with. */
static int send_one(struct virtio_net *v, unsigned pair, struct virtio_chain *c)
{
	size_t skip = header_bytes(v);
	int n = iov_slice(v->out[pair], c->iov, (int)c->n_out, skip, c->out_bytes - skip);

	if (!is_up(v) || c->out_bytes < NET_HEADER + ETHERNET ||
		c->out_bytes > NET_PACKET_MAX)
		return 0;
	return v->net->ops->send(v->net, pair, v->out[pair], n);
}

static void send_chain(struct virtio_net *v, struct virtio_queue *q, unsigned pair,
	struct virtio_chain *c)
{
	if (c->out_bytes < NET_HEADER) {
		virtio_break(&v->virtio, "a packet without its header");
		virtio_done(c, 0);
		return;
	}
	while (send_one(v, pair, c) == -EAGAIN) {
		if (virtio_stopping(q)) {
			virtio_hold(c);
			return;
		}
		wait_for(q, v->send_wait_fd[pair]);
	}
	virtio_done(c, 0);
}

static void send_all(struct virtio_net *v, struct virtio_queue *q, unsigned pair)
{
	while (!virtio_stopping(q)) {
		struct virtio_chain *c = virtio_take(q);

		if (c)
			send_chain(v, q, pair, c);
		else
			wait_for(q, q->lane.event_fd);
	}
}

/* ---- commands -------------------------------------------------------------------- */

struct command {
	uint8_t class, number;
	const uint8_t *data;
	size_t bytes;
};

/* As many pairs as are served from now on; the lock is held. */
static void use_pairs(struct virtio_net *v, unsigned pairs)
{
	v->pairs = (uint16_t)pairs;
	if (v->net->ops->set_pairs)
		v->net->ops->set_pairs(v->net, pairs);
	for (unsigned i = 0; i < v->max_pairs; i++)
		virtio_wake(&v->virtio.queue[2 * i]);
}

static bool set_pairs(struct virtio_net *v, const struct command *k)
{
	unsigned pairs = k->bytes >= 2 ? le16_load(k->data) : 0;

	if (k->number || !virtio_has(&v->virtio, F_MQ) || !pairs || pairs > v->max_pairs)
		return false;
	use_pairs(v, pairs);
	return true;
}

static bool set_mode(struct virtio_net *v, const struct command *k)
{
	if (k->number >= RX_MODES || !k->bytes ||
		!virtio_has(
			&v->virtio, k->number <= ALL_MULTI ? F_CTRL_RX : F_CTRL_RX_EXTRA))
		return false;
	v->filter.mode[k->number] = k->data[0] != 0;
	return true;
}

/* One of the two tables: a number and so many addresses. Its bytes, 0 where it is cut off. */
static size_t set_table(struct filter *f, bool group, const uint8_t *data, size_t bytes)
{
	uint32_t n = bytes >= 4 ? le32_load(data) : UINT32_MAX;

	if (bytes < 4 || n > (bytes - 4) / MAC)
		return 0;
	f->all[group] = n > TABLE_MAX;
	f->n_table[group] = (uint8_t)(n > TABLE_MAX ? 0 : n);
	memcpy(f->table[group], data + 4, f->n_table[group] * MAC);
	return 4 + (size_t)n * MAC;
}

static bool set_tables(struct virtio_net *v, const struct command *k)
{
	struct filter *f = malloc(sizeof(*f));
	size_t at = 0;
	bool ok = f != NULL;

	if (ok) {
		*f = v->filter;
		at = set_table(f, false, k->data, k->bytes);
		ok = at && set_table(f, true, k->data + at, k->bytes - at);
	}
	if (ok)
		v->filter = *f;
	free(f);
	return ok;
}

static bool set_mac(struct virtio_net *v, const struct command *k)
{
	if (k->number == MAC_TABLE_SET && virtio_has(&v->virtio, F_CTRL_RX))
		return set_tables(v, k);
	if (k->number != MAC_ADDR_SET || k->bytes < MAC ||
		!virtio_has(&v->virtio, F_CTRL_MAC_ADDR))
		return false;
	memcpy(v->filter.mac, k->data, MAC);
	virtio_set_config(&v->virtio, CONFIG_MAC, k->data, MAC, false);
	return true;
}

static bool set_vlan(struct virtio_net *v, const struct command *k)
{
	unsigned vlan = k->bytes >= 2 ? le16_load(k->data) : VLANS;

	if (!virtio_has(&v->virtio, F_CTRL_VLAN) || vlan >= VLANS || k->number > VLAN_DEL)
		return false;
	if (k->number == VLAN_ADD)
		v->filter.vlan[vlan / 8] |= (uint8_t)(1 << vlan % 8);
	else
		v->filter.vlan[vlan / 8] &= (uint8_t) ~(1 << vlan % 8);
	return true;
}

static bool end_announcing(struct virtio_net *v, const struct command *k)
{
	le16 status = le16_put(is_up(v) ? STATUS_LINK_UP : 0);

	if (k->number || !virtio_has(&v->virtio, F_GUEST_ANNOUNCE))
		return false;
	v->announce = false;
	virtio_set_config(&v->virtio, CONFIG_STATUS, &status, sizeof(status), false);
	return true;
}

static bool do_command(struct virtio_net *v, const struct command *k)
{
	switch (k->class) {
	case CLASS_RX:
		return set_mode(v, k);
	case CLASS_MAC:
		return set_mac(v, k);
	case CLASS_VLAN:
		return set_vlan(v, k);
	case CLASS_ANNOUNCE:
		return end_announcing(v, k);
	case CLASS_MQ:
		return set_pairs(v, k);
	default:
		return false;
	}
}

/* Class and number, then its data; the answer is one byte. */
static void serve_command(struct virtio_net *v, struct virtio_chain *c)
{
	size_t bytes = c->out_bytes;
	uint8_t *copy = bytes <= COMMAND_BYTES ? malloc(MAX(bytes, (size_t)1)) : NULL;
	uint8_t ack = ACK_ERROR;

	if (!c->in_bytes || bytes < 2) {
		virtio_break(&v->virtio, "a command without a head or a place to answer");
		virtio_done(c, 0);
		free(copy);
		return;
	}
	if (copy) {
		struct command k = {.data = copy + 2, .bytes = bytes - 2};

		iov_to_buf(c->iov, (int)c->n_out, 0, copy, bytes);
		k.class = copy[0];
		k.number = copy[1];
		pthread_mutex_lock(&v->lock);
		if (do_command(v, &k))
			ack = ACK_OK;
		pthread_mutex_unlock(&v->lock);
	}
	free(copy);
	iov_from_buf(c->iov + c->n_out, (int)c->n_in, 0, &ack, 1);
	virtio_done(c, 1);
}

/* The driver's notifications may go to where the kernel would look for them. */
static void wait_for_command(struct virtio_net *v, struct virtio_queue *q)
{
	if (q->kick_fd == q->lane.event_fd) {
		wait_for(q, q->lane.event_fd);
		return;
	}
	wait_for(q, v->command_wait_fd);
	take_event(q->kick_fd);
}

static void serve_commands(struct virtio_net *v, struct virtio_queue *q)
{
	while (!virtio_stopping(q)) {
		struct virtio_chain *c = virtio_take(q);

		if (c)
			serve_command(v, c);
		else
			wait_for_command(v, q);
	}
}

/* ---- queues ---------------------------------------------------------------------- */

static unsigned guest_offloads(const struct virtio_device *d)
{
	return (virtio_has(d, F_GUEST_CSUM) ? NET_CSUM : 0) |
	       (virtio_has(d, F_GUEST_TSO4) ? NET_TSO4 : 0) |
	       (virtio_has(d, F_GUEST_TSO6) ? NET_TSO6 : 0) |
	       (virtio_has(d, F_GUEST_ECN) ? NET_ECN : 0) |
	       (virtio_has(d, F_GUEST_UFO) ? NET_UFO : 0);
}

/* The first queue that receives sets the network to what the driver has negotiated. */
static void begin(struct virtio_net *v)
{
	bool announce;

	if (v->net->ops->set_offloads)
		v->net->ops->set_offloads(v->net, guest_offloads(&v->virtio));
	pthread_mutex_lock(&v->lock);
	use_pairs(v, v->pairs);
	announce = v->announce;
	pthread_mutex_unlock(&v->lock);
	if (announce)
		tell_status(v);
}

/* Without several pairs the third queue is for commands (5.1.2). */
static bool run(struct virtio_device *d, struct virtio_queue *q)
{
	struct virtio_net *v = net_of(d);
	unsigned pairs = virtio_has(d, F_MQ) ? v->max_pairs : 1;

	if (q->index == 0)
		begin(v);
	if (q->index == 2 * pairs)
		serve_commands(v, q);
	else if (q->index > 2 * pairs)
		while (!virtio_stopping(q))
			wait_for(q, q->lane.event_fd);
	else if (vhost_of(v, q->index))
		run_in_kernel(v, q,
			q->index % 2 ? v->send_wait_fd[q->index / 2]
				     : v->receiver[q->index / 2].wait_fd);
	else if (q->index % 2)
		send_all(v, q, q->index / 2);
	else
		receive(v, q, q->index / 2);
	return true;
}

/* ---- life ------------------------------------------------------------------------ */

static void reset(struct virtio_device *d)
{
	struct virtio_net *v = net_of(d);
	le16 status = le16_put(is_up(v) ? STATUS_LINK_UP : 0);

	pthread_mutex_lock(&v->lock);
	v->filter = (struct filter){.mode = {[PROMISC] = 1}};
	memcpy(v->filter.mac, v->mac, MAC);
	v->announce = false;
	v->pairs = 1;
	pthread_mutex_unlock(&v->lock);
	virtio_set_config(d, CONFIG_MAC, v->mac, MAC, false);
	virtio_set_config(d, CONFIG_STATUS, &status, sizeof(status), false);
}

/* Another host's switches do not know that the guest is here now. */
static void net_state(struct virtio_device *d, struct state *s, unsigned version)
{
	struct virtio_net *v = net_of(d);
	struct filter *f = &v->filter;
	uint8_t *status = d->config + CONFIG_STATUS;

	(void)version;
	state_bytes(s, f->mode, sizeof(f->mode));
	state_bytes(s, f->mac, sizeof(f->mac));
	for (unsigned i = 0; i < 2; i++) {
		state_u8(s, &f->n_table[i]);
		state_bool(s, &f->all[i]);
		if (!state_check(s, f->n_table[i] <= TABLE_MAX,
			    "more addresses than there is room for"))
			f->n_table[i] = 0;
		state_bytes(s, f->table[i], sizeof(f->table[i]));
	}
	state_bytes(s, f->vlan, sizeof(f->vlan));
	state_u16(s, &v->pairs);
	if (!state_check(s, v->pairs && v->pairs <= v->max_pairs,
		    "more pairs of queues than there are"))
		v->pairs = 1;
	if (!state_loading(s))
		return;
	v->announce = virtio_has(d, F_GUEST_ANNOUNCE);
	*status =
		(uint8_t)((*status & ~STATUS_LINK_UP) | (is_up(v) ? STATUS_LINK_UP : 0));
}

static void close_fd(int fd)
{
	if (fd >= 0)
		close(fd);
}

static void net_device_free(struct virtio_device *d)
{
	struct virtio_net *v = net_of(d);

	for (unsigned i = 0; i < v->max_pairs; i++) {
		free(v->out[i]);
		close_fd(v->send_wait_fd[i]);
		if (v->receiver)
			close_fd(v->receiver[i].wait_fd);
	}
	close_fd(v->command_wait_fd);
	free(v->receiver);
	pthread_mutex_destroy(&v->lock);
	pthread_mutex_destroy(&v->vhost_lock);
	free(v);
}

static const struct virtio_device_ops ops = {
	.name = "virtio-net",
	.id = 1,
	.class_code = 0x020000, /* Ethernet */
	.version = 1,
	.run = run,
	.reset = reset,
	.state = net_state,
	.free = net_device_free,
};

static uint64_t bits(unsigned on, uint64_t first, uint64_t second)
{
	return on ? (uint64_t)1 << first | (uint64_t)1 << second : 0;
}

static uint64_t features_of(
	const struct virtio_net *v, const struct virtio_net_options *o)
{
	uint64_t features = 1u << F_MAC | 1u << F_MRG_RXBUF | 1u << F_STATUS |
			    1u << F_CTRL_VQ | 1u << F_CTRL_RX | 1u << F_CTRL_RX_EXTRA |
			    1u << F_CTRL_VLAN | 1u << F_CTRL_MAC_ADDR |
			    1u << F_GUEST_ANNOUNCE;

	features |= bits(v->net->offloads & NET_CSUM, F_CSUM, F_GUEST_CSUM);
	features |= bits(v->net->offloads & NET_TSO4, F_HOST_TSO4, F_GUEST_TSO4);
	features |= bits(v->net->offloads & NET_TSO6, F_HOST_TSO6, F_GUEST_TSO6);
	features |= bits(v->net->offloads & NET_ECN, F_HOST_ECN, F_GUEST_ECN);
	features |= bits(v->net->offloads & NET_UFO, F_HOST_UFO, F_GUEST_UFO);
	if (v->max_pairs > 1)
		features |= 1u << F_MQ;
	if (o->mtu)
		features |= 1u << F_MTU;
	if (o->packed)
		features |= 1ull << VIRTIO_F_RING_PACKED;
	return features;
}

/* What wakes a queue's loop beside its bell. */
static int open_vhost_wait(struct virtio_queue *q, struct vhost *h, int *wait_fd)
{
	unsigned which = q->index % 2;
	int ret = open_wait(wait_fd, q->lane.event_fd, h->queue[which].call_fd, POLLIN);

	q->kick_fd = h->queue[which].kick_fd;
	return ret ? ret : watch(*wait_fd, h->queue[which].err_fd, POLLIN);
}

static int open_vhost_pair(struct virtio_net *v, unsigned i, struct vhost *h)
{
	struct virtio_queue *rx = &v->virtio.queue[2 * i];
	int ret = open_vhost_wait(rx, h, &v->receiver[i].wait_fd);

	return ret ? ret : open_vhost_wait(rx + 1, h, &v->send_wait_fd[i]);
}

static int open_pair(struct virtio_net *v, unsigned i)
{
	if (vhost_of(v, 2 * i))
		return open_vhost_pair(v, i, vhost_of(v, 2 * i));
	const struct virtio_queue *rx = &v->virtio.queue[2 * i], *tx = rx + 1;
	int ret = open_wait(&v->receiver[i].wait_fd, rx->lane.event_fd,
		v->net->queue[i].read_fd, POLLIN);

	ret = ret ? ret
		  : open_wait(&v->send_wait_fd[i], tx->lane.event_fd,
			    v->net->queue[i].write_fd, v->net->queue[i].write_events);
	v->out[i] = calloc(VIRTIO_CHAIN_MAX, sizeof(*v->out[i]));
	return ret || v->out[i] ? ret : -ENOMEM;
}

/* Without several pairs the third queue is for commands. */
static int open_command_wait(struct virtio_net *v)
{
	const struct virtio_queue *q = &v->virtio.queue[2];

	if (v->max_pairs == 1 || !vhost_of(v, 2))
		return 0;
	return open_wait(&v->command_wait_fd, q->lane.event_fd, q->kick_fd, POLLIN);
}

static struct virtio_net *make(const struct virtio_net_options *o)
{
	struct virtio_net *v = calloc(1, sizeof(*v));

	if (!v)
		return NULL;
	v->net = o->net;
	v->max_pairs = o->net->queues;
	v->pairs = 1;
	v->link_up = true;
	v->command_wait_fd = -1;
	memcpy(v->mac, o->mac, MAC);
	pthread_mutex_init(&v->lock, NULL);
	pthread_mutex_init(&v->vhost_lock, NULL);
	v->receiver = calloc(v->max_pairs, sizeof(*v->receiver));
	for (unsigned i = 0; i < v->max_pairs; i++) {
		v->send_wait_fd[i] = -1;
		if (v->receiver)
			v->receiver[i].wait_fd = -1;
	}
	v->virtio.ops = &ops;
	v->virtio.n_queues = 2 * v->max_pairs + 1;
	v->virtio.features = features_of(v, o);
	v->virtio.config_bytes = CONFIG_BYTES;
	memcpy(v->virtio.config + CONFIG_MAC, o->mac, MAC);
	le16_store(v->virtio.config + CONFIG_STATUS, STATUS_LINK_UP);
	le16_store(v->virtio.config + CONFIG_PAIRS, (uint16_t)v->max_pairs);
	le16_store(v->virtio.config + CONFIG_MTU, o->mtu);
	if (v->receiver)
		return v;
	net_device_free(&v->virtio);
	return NULL;
}

int virtio_net_new(struct vm *vm, struct pci *pci, const struct virtio_net_options *o,
	struct virtio_net **out, struct err *err)
{
	struct virtio_net *v = make(o);
	int ret = v ? virtio_add(&v->virtio, vm, pci, -1, err)
		    : err_errno(err, ENOMEM, "virtio-net");

	if (ret) {
		if (v)
			net_device_free(&v->virtio);
		return ret;
	}
	/* From here on the machine frees it. */
	for (unsigned i = 0; i < v->max_pairs && ret == 0; i++)
		ret = open_pair(v, i);
	ret = ret ? ret : open_command_wait(v);
	if (ret)
		return err_errno(err, -ret, "virtio-net");
	if (out)
		*out = v;
	return 0;
}
