/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A network behind a stream socket: each packet comes after its length, 32 bits, big-endian, as
 * passt and QEMU's "-netdev stream" have it. What did not fit into the socket is kept and goes
 * first; a packet is read in as many pieces as it comes in.
 *
 * The peer is believed no more than a guest: a length that no packet has ends it.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/endian.h"
#include "base/iov.h"
#include "base/log.h"
#include "base/math.h"
#include "vmm/net.h"

#define LENGTH   4u
#define IN_BYTES (256u << 10)
#define SEGMENTS 513 /* a chain's, and the length */

struct net_stream {
	struct net net; /* first */
	int fd;
	bool gone; /* atomic */
	/* Of the one who sends: the rest of a packet. */
	uint8_t out[LENGTH + NET_PACKET_MAX];
	size_t out_at, out_bytes;
	struct iovec segment[SEGMENTS];
	/* Of the one who receives. */
	uint8_t in[IN_BYTES];
	size_t in_at, in_bytes;
};

static struct net_stream *stream_of(struct net *n)
{
	return (struct net_stream *)n;
}

static bool is_gone(struct net_stream *s)
{
	return __atomic_load_n(&s->gone, __ATOMIC_ACQUIRE);
}

static void lose(struct net_stream *s, const char *why)
{
	if (!__atomic_exchange_n(&s->gone, true, __ATOMIC_ACQ_REL))
		log_line(LOG_LEVEL_WARNING, "network stream: %s; the link is down", why);
}

/* ---- to the peer ----------------------------------------------------------------- */

/* Bytes that went, or -EAGAIN. */
static ssize_t send_some(struct net_stream *s, struct iovec *iov, int niov)
{
	struct msghdr msg = {.msg_iov = iov, .msg_iovlen = (size_t)niov};
	ssize_t ret;

	do
		ret = sendmsg(s->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
	while (ret < 0 && errno == EINTR);
	if (ret >= 0)
		return ret;
	if (errno == EAGAIN || errno == EWOULDBLOCK)
		return -EAGAIN;
	lose(s, strerror(errno));
	return -EPIPE;
}

static int send_rest(struct net_stream *s)
{
	while (s->out_at < s->out_bytes) {
		struct iovec rest = {s->out + s->out_at, s->out_bytes - s->out_at};
		ssize_t n = send_some(s, &rest, 1);

		if (n < 0)
			return (int)n;
		s->out_at += (size_t)n;
	}
	s->out_at = s->out_bytes = 0;
	return 0;
}

/* A packet of which a part went is offered again, and is through when the rest has gone. (One that is
 * offered in its place, as after a reset of the card, is lost.) */
static int stream_send(struct net *n, unsigned queue, const struct iovec *iov, int niov)
{
	struct net_stream *s = stream_of(n);
	struct iovec *all = s->segment;
	size_t bytes = iov_bytes(iov, niov);
	be32 length = be32_put((uint32_t)bytes);
	ssize_t sent;
	int ret;

	(void)queue;
	if (is_gone(s) || niov >= SEGMENTS || bytes > NET_PACKET_MAX)
		return 0;
	if (s->out_bytes) {
		ret = send_rest(s);
		return ret == -EAGAIN ? ret : 0;
	}
	all[0] = (struct iovec){&length, LENGTH};
	memcpy(all + 1, iov, (size_t)niov * sizeof(*iov));
	sent = send_some(s, all, niov + 1);
	if (sent < 0)
		return sent == -EAGAIN ? -EAGAIN : 0;
	if ((size_t)sent < LENGTH + bytes) {
		s->out_bytes = LENGTH + bytes - (size_t)sent;
		iov_to_buf(all, niov + 1, (size_t)sent, s->out, s->out_bytes);
		return -EAGAIN;
	}
	return 0;
}

/* ---- from the peer --------------------------------------------------------------- */

/* 0, -EAGAIN, or -EPIPE at the end. */
static int read_more(struct net_stream *s)
{
	ssize_t n;

	memmove(s->in, s->in + s->in_at, s->in_bytes);
	s->in_at = 0;
	do
		n = recv(
			s->fd, s->in + s->in_bytes, IN_BYTES - s->in_bytes, MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
		return -EAGAIN;
	if (n <= 0) {
		lose(s, n ? strerror(errno) : "the peer has closed it");
		return -EPIPE;
	}
	s->in_bytes += (size_t)n;
	return 0;
}

/* Whether a whole packet is there, and its length. */
static bool has_packet(const struct net_stream *s, size_t *bytes)
{
	if (s->in_bytes < LENGTH)
		return false;
	*bytes = be32_load(s->in + s->in_at);
	return *bytes > NET_PACKET_MAX || s->in_bytes - LENGTH >= *bytes;
}

static ssize_t stream_receive(
	struct net *n, unsigned queue, const struct iovec *iov, int niov)
{
	struct net_stream *s = stream_of(n);
	size_t bytes = 0;

	(void)queue;
	while (!has_packet(s, &bytes)) {
		int ret = is_gone(s) ? -EPIPE : read_more(s);

		if (ret)
			return ret;
	}
	if (bytes > NET_PACKET_MAX) {
		lose(s, "the peer sent a length that no packet has");
		s->in_bytes = 0;
		return -EPIPE;
	}
	iov_from_buf(iov, niov, 0, s->in + s->in_at + LENGTH,
		MIN(bytes, iov_bytes(iov, niov)));
	s->in_at += LENGTH + bytes;
	s->in_bytes -= LENGTH + bytes;
	return (ssize_t)bytes;
}

/* ---- opening --------------------------------------------------------------------- */

static int connect_to(const char *path, int *fd, struct err *err)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};

	if (strlen(path) >= sizeof(a.sun_path))
		return err_set(err, ENAMETOOLONG, "%s: too long for a socket", path);
	strcpy(a.sun_path, path);
	*fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (*fd < 0 || connect(*fd, (struct sockaddr *)&a, sizeof(a)))
		return err_errno(err, errno, "%s", path);
	return 0;
}

static int take_fd(struct opts *opts, int *out, struct err *err)
{
	uint64_t fd = 0;
	int type = 0, ret = opts_take_u64(opts, "fd", &fd, err);
	socklen_t bytes = sizeof(type);

	if (ret)
		return ret;
	if (fd > INT32_MAX || getsockopt((int)fd, SOL_SOCKET, SO_TYPE, &type, &bytes) ||
		type != SOCK_STREAM)
		return err_set(err, EINVAL, "fd: %llu is not a stream socket",
			(unsigned long long)fd);
	*out = (int)fd;
	fcntl(*out, F_SETFD, FD_CLOEXEC);
	return 0;
}

static void stream_close(struct net *n)
{
	if (stream_of(n)->fd >= 0)
		close(stream_of(n)->fd);
	free(n);
}

static const struct net_ops stream_ops = {
	.name = "stream",
	.send = stream_send,
	.receive = stream_receive,
	.close = stream_close,
};

struct net *net_stream_open(struct opts *opts, struct err *err)
{
	struct net_stream *s = calloc(1, sizeof(*s));
	const char *path = opts_take(opts, "path");
	int ret;

	if (!s) {
		err_errno(err, ENOMEM, "network stream");
		return NULL;
	}
	s->net = (struct net){.ops = &stream_ops, .queues = 1};
	s->fd = -1;
	if (opts_peek(opts, "fd") && !path)
		ret = take_fd(opts, &s->fd, err);
	else if (path)
		ret = connect_to(path, &s->fd, err);
	else
		ret = err_set(err, EINVAL, "stream: needs path=SOCKET or fd=N");
	if (ret) {
		stream_close(&s->net);
		return NULL;
	}
	s->net.queue[0].read_fd = s->net.queue[0].write_fd = s->fd;
	s->net.queue[0].write_events = POLLOUT;
	return &s->net;
}
