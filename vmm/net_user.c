/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A network in user mode, by libslirp: the guest is behind an address translation that needs
 * no rights on the host, with DHCP and DNS. The host is 10.0.2.2, the guest 10.0.2.15.
 *
 * The library is entered under `lock`, from the thread that waits for its sockets and from the
 * card's queue that sends. What it has for the guest waits in a ring; what does not fit is
 * lost, as on a wire. Lock order: lock, then ring_lock.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/iov.h"
#include "base/log.h"
#include "base/math.h"
#include "base/task.h"
#include "vmm/net.h"

#ifdef HAVE_LIBSLIRP
#include <slirp/libslirp.h>

#define RING_BYTES (1u << 20)
#define POLLS_MAX  1024u
#define MS         1000000ull

struct slirp_timer {
	SlirpTimerCb fn;
	void *arg;
	int64_t at_ms; /* -1: not set */
	struct slirp_timer *next;
};

struct net_user {
	struct net net; /* first */
	pthread_t thread;
	bool started;
	int kick_fd; /* sockets may have changed, or it ends */
	bool ending; /* atomic */
	struct log_bound said;

	pthread_mutex_t lock; /* around the library and what follows */
	Slirp *slirp;
	struct slirp_timer *timers;
	struct pollfd polls[POLLS_MAX];
	unsigned n_polls;
	uint8_t packet[NET_PACKET_MAX];

	pthread_mutex_t ring_lock; /* around what follows */
	uint8_t ring[RING_BYTES];  /* packets, each after its length */
	size_t ring_at, ring_bytes;
	int ready_fd; /* there is something in it */
};

static void ring_bell(int fd)
{
	uint64_t one = 1;

	if (write(fd, &one, sizeof(one)) < 0)
		return; /* it rings already */
}

static void clear_bell(int fd)
{
	uint64_t n;

	if (read(fd, &n, sizeof(n)) < 0)
		return; /* it was clear */
}

/* ---- the ring; ring_lock is held ------------------------------------------------- */

/* The ring from `at` on, as two pieces. */
static void pieces(struct net_user *u, size_t at, struct iovec out[2])
{
	at %= RING_BYTES;
	out[0] = (struct iovec){u->ring + at, RING_BYTES - at};
	out[1] = (struct iovec){u->ring, at};
}

static void ring_put(struct net_user *u, const void *data, size_t bytes)
{
	struct iovec to[2];

	pieces(u, u->ring_at + u->ring_bytes, to);
	iov_from_buf(to, 2, 0, data, bytes);
	u->ring_bytes += bytes;
}

static void ring_take(struct net_user *u, void *data, size_t bytes)
{
	struct iovec from[2];

	pieces(u, u->ring_at, from);
	iov_to_buf(from, 2, 0, data, bytes);
	u->ring_at = (u->ring_at + bytes) % RING_BYTES;
	u->ring_bytes -= bytes;
}

/* As much of a packet as there is room for. */
static void ring_take_packet(
	struct net_user *u, uint32_t bytes, const struct iovec *iov, int niov)
{
	size_t end = u->ring_at + bytes, left = bytes;

	for (int i = 0; i < niov && left; i++) {
		size_t n = MIN(iov[i].iov_len, left);

		ring_take(u, iov[i].iov_base, n);
		left -= n;
	}
	u->ring_at = end % RING_BYTES;
	u->ring_bytes -= left;
}

/* ---- what the library calls; lock is held ---------------------------------------- */

static ssize_t to_guest(const void *data, size_t bytes, void *arg)
{
	struct net_user *u = arg;
	uint32_t length = (uint32_t)bytes;

	pthread_mutex_lock(&u->ring_lock);
	if (bytes <= NET_PACKET_MAX &&
		RING_BYTES - u->ring_bytes >= sizeof(length) + bytes) {
		ring_put(u, &length, sizeof(length));
		ring_put(u, data, bytes);
		ring_bell(u->ready_fd);
	}
	pthread_mutex_unlock(&u->ring_lock);
	return (ssize_t)bytes;
}

static void guest_error(const char *text, void *arg)
{
	struct net_user *u = arg;

	log_bounded(&u->said, LOG_LEVEL_WARNING, "network user: %s", text);
}

static int64_t now_ns(void *arg)
{
	(void)arg;
	return (int64_t)clock_ns();
}

static void *timer_new(SlirpTimerCb fn, void *fn_arg, void *arg)
{
	struct net_user *u = arg;
	struct slirp_timer *t = calloc(1, sizeof(*t));

	if (!t)
		return NULL;
	*t = (struct slirp_timer){fn, fn_arg, -1, u->timers};
	u->timers = t;
	return t;
}

static void timer_free(void *timer, void *arg)
{
	struct net_user *u = arg;
	struct slirp_timer **at = &u->timers;

	while (*at && *at != timer)
		at = &(*at)->next;
	if (*at)
		*at = (*at)->next;
	free(timer);
}

static void timer_mod(void *timer, int64_t at_ms, void *arg)
{
	struct slirp_timer *t = timer;

	if (t)
		t->at_ms = at_ms;
	ring_bell(((struct net_user *)arg)->kick_fd);
}

/* All descriptors are asked for before each wait. */
static void poll_fd(int fd, void *arg)
{
	(void)fd;
	(void)arg;
}

static void notify(void *arg)
{
	ring_bell(((struct net_user *)arg)->kick_fd);
}

static const SlirpCb callbacks = {
	.send_packet = to_guest,
	.guest_error = guest_error,
	.clock_get_ns = now_ns,
	.timer_new = timer_new,
	.timer_free = timer_free,
	.timer_mod = timer_mod,
	.register_poll_fd = poll_fd,
	.unregister_poll_fd = poll_fd,
	.notify = notify,
};

/* ---- its thread ------------------------------------------------------------------ */

static int add_poll(int fd, int events, void *arg)
{
	struct net_user *u = arg;

	if (u->n_polls == POLLS_MAX)
		return -1;
	u->polls[u->n_polls] = (struct pollfd){.fd = fd,
		.events = (short)((events & SLIRP_POLL_IN ? POLLIN : 0) |
				  (events & SLIRP_POLL_OUT ? POLLOUT : 0) |
				  (events & SLIRP_POLL_PRI ? POLLPRI : 0))};
	return (int)u->n_polls++;
}

static int get_revents(int i, void *arg)
{
	const struct net_user *u = arg;
	short r = i >= 0 && (unsigned)i < u->n_polls ? u->polls[i].revents : 0;

	return (r & POLLIN ? SLIRP_POLL_IN : 0) | (r & POLLOUT ? SLIRP_POLL_OUT : 0) |
	       (r & POLLPRI ? SLIRP_POLL_PRI : 0) | (r & POLLERR ? SLIRP_POLL_ERR : 0) |
	       (r & POLLHUP ? SLIRP_POLL_HUP : 0);
}

static int timeout_ms(const struct net_user *u, uint32_t most)
{
	int64_t now = (int64_t)(clock_ns() / MS), ms = MIN(most, (uint32_t)INT32_MAX);

	for (const struct slirp_timer *t = u->timers; t; t = t->next)
		if (t->at_ms >= 0)
			ms = MIN(ms, MAX(t->at_ms - now, (int64_t)0));
	return (int)ms;
}

/* One at a time from the start, as a timer may free another. */
static void run_timers(struct net_user *u)
{
	struct slirp_timer *t = u->timers;

	while (t) {
		if (t->at_ms >= 0 && t->at_ms <= (int64_t)(clock_ns() / MS)) {
			t->at_ms = -1;
			t->fn(t->arg);
			t = u->timers;
		} else {
			t = t->next;
		}
	}
}

static void *user_main(void *arg)
{
	struct net_user *u = arg;

	pthread_mutex_lock(&u->lock);
	while (!__atomic_load_n(&u->ending, __ATOMIC_ACQUIRE)) {
		uint32_t most = UINT32_MAX;
		int ms, ret;

		u->n_polls = 0;
		add_poll(u->kick_fd, SLIRP_POLL_IN, u);
		slirp_pollfds_fill(u->slirp, &most, add_poll, u);
		ms = timeout_ms(u, most);
		pthread_mutex_unlock(&u->lock);
		ret = poll(u->polls, u->n_polls, ms);
		clear_bell(u->kick_fd);
		pthread_mutex_lock(&u->lock);
		slirp_pollfds_poll(u->slirp, ret < 0, get_revents, u);
		run_timers(u);
	}
	pthread_mutex_unlock(&u->lock);
	return NULL;
}

/* ---- packets --------------------------------------------------------------------- */

static int user_send(struct net *n, unsigned queue, const struct iovec *iov, int niov)
{
	struct net_user *u = (struct net_user *)n;
	size_t bytes = iov_bytes(iov, niov);

	(void)queue;
	if (bytes > sizeof(u->packet))
		return 0;
	pthread_mutex_lock(&u->lock);
	iov_to_buf(iov, niov, 0, u->packet, bytes);
	slirp_input(u->slirp, u->packet, (int)bytes);
	pthread_mutex_unlock(&u->lock);
	ring_bell(u->kick_fd);
	return 0;
}

static ssize_t user_receive(
	struct net *n, unsigned queue, const struct iovec *iov, int niov)
{
	struct net_user *u = (struct net_user *)n;
	uint32_t bytes = 0;
	ssize_t ret = -EAGAIN;

	(void)queue;
	pthread_mutex_lock(&u->ring_lock);
	if (u->ring_bytes) {
		ring_take(u, &bytes, sizeof(bytes));
		ring_take_packet(u, bytes, iov, niov);
		ret = (ssize_t)bytes;
	} else {
		clear_bell(u->ready_fd);
	}
	pthread_mutex_unlock(&u->ring_lock);
	return ret;
}

/* ---- opening --------------------------------------------------------------------- */

static void user_close(struct net *n)
{
	struct net_user *u = (struct net_user *)n;

	__atomic_store_n(&u->ending, true, __ATOMIC_RELEASE);
	if (u->started) {
		ring_bell(u->kick_fd);
		pthread_join(u->thread, NULL);
	}
	if (u->slirp)
		slirp_cleanup(u->slirp);
	while (u->timers)
		timer_free(u->timers, u);
	if (u->kick_fd >= 0)
		close(u->kick_fd);
	if (u->ready_fd >= 0)
		close(u->ready_fd);
	pthread_mutex_destroy(&u->ring_lock);
	pthread_mutex_destroy(&u->lock);
	free(u);
}

static const struct net_ops user_ops = {
	.name = "user",
	.send = user_send,
	.receive = user_receive,
	.close = user_close,
};

/* "ADDRESS:PORT", either of which may be missing where dflt has one. */
static bool parse_end(const char *text, size_t bytes, struct in_addr *address, int *port)
{
	const char *colon = memchr(text, ':', bytes);
	char host[INET_ADDRSTRLEN] = "";
	size_t n = colon ? (size_t)(colon - text) : 0;
	char *end;
	long p;

	if (!colon || n >= sizeof(host))
		return false;
	memcpy(host, text, n);
	if (n && inet_pton(AF_INET, host, address) != 1)
		return false;
	p = strtol(colon + 1, &end, 10);
	*port = (int)p;
	return end == text + bytes && end > colon + 1 && p > 0 && p < 65536;
}

/* "tcp:ADDRESS:PORT-ADDRESS:PORT": of the host, by default 127.0.0.1, and of the guest. */
static int add_forward(struct net_user *u, const char *text, struct err *err)
{
	struct in_addr host = {htonl(INADDR_LOOPBACK)}, guest;
	const char *dash = strchr(text, '-');
	bool udp = !strncmp(text, "udp:", 4);
	int host_port, guest_port;

	inet_pton(AF_INET, "10.0.2.15", &guest);
	if ((!udp && strncmp(text, "tcp:", 4) != 0) || !dash ||
		!parse_end(text + 4, (size_t)(dash - text) - 4, &host, &host_port) ||
		!parse_end(dash + 1, strlen(dash + 1), &guest, &guest_port))
		return err_set(err, EINVAL,
			"hostfwd: '%s' is not like tcp:127.0.0.1:8080-:80", text);
	if (slirp_add_hostfwd(u->slirp, udp, host, host_port, guest, guest_port))
		return err_errno(err, errno, "hostfwd %s", text);
	return 0;
}

static int add_forwards(struct net_user *u, struct opts *opts, struct err *err)
{
	const char *one = opts_take(opts, "hostfwd");
	int ret = one ? add_forward(u, one, err) : 0;

	for (unsigned i = 0; ret == 0; i++) {
		char key[32];
		const char *text;

		snprintf(key, sizeof(key), "hostfwd.%u", i);
		text = opts_take(opts, key);
		if (!text)
			break;
		ret = add_forward(u, text, err);
	}
	return ret;
}

static int start(struct net_user *u, bool restricted, struct err *err)
{
	SlirpConfig c = {.version = 1,
		.restricted = restricted,
		.in_enabled = true,
		.in6_enabled = true,
		.vprefix_len = 64};

	inet_pton(AF_INET, "10.0.2.0", &c.vnetwork);
	inet_pton(AF_INET, "255.255.255.0", &c.vnetmask);
	inet_pton(AF_INET, "10.0.2.2", &c.vhost);
	inet_pton(AF_INET, "10.0.2.15", &c.vdhcp_start);
	inet_pton(AF_INET, "10.0.2.3", &c.vnameserver);
	inet_pton(AF_INET6, "fec0::", &c.vprefix_addr6);
	inet_pton(AF_INET6, "fec0::2", &c.vhost6);
	inet_pton(AF_INET6, "fec0::3", &c.vnameserver6);
	u->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	u->ready_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (u->kick_fd < 0 || u->ready_fd < 0)
		return err_errno(err, errno, "network user");
	u->slirp = slirp_new(&c, &callbacks, u);
	return u->slirp ? 0 : err_set(err, EIO, "network user: libslirp does not start");
}

static int start_thread(struct net_user *u, struct err *err)
{
	int ret = pthread_create(&u->thread, NULL, user_main, u);

	u->started = ret == 0;
	return ret ? err_errno(err, ret, "network user") : 0;
}

struct net *net_user_open(struct opts *opts, struct err *err)
{
	struct net_user *u = calloc(1, sizeof(*u));
	bool restricted = false;

	if (!u) {
		err_errno(err, ENOMEM, "network user");
		return NULL;
	}
	u->net = (struct net){.ops = &user_ops, .queues = 1, .opens_sockets = true};
	u->kick_fd = u->ready_fd = -1;
	pthread_mutex_init(&u->lock, NULL);
	pthread_mutex_init(&u->ring_lock, NULL);
	if (opts_take_bool(opts, "restrict", &restricted, err) ||
		start(u, restricted, err) || add_forwards(u, opts, err) ||
		start_thread(u, err)) {
		user_close(&u->net);
		return NULL;
	}
	u->net.queue[0].read_fd = u->ready_fd;
	u->net.queue[0].write_fd = u->kick_fd; /* never waited for */
	u->net.queue[0].write_events = POLLIN;
	return &u->net;
}

#else

struct net *net_user_open(struct opts *opts, struct err *err)
{
	(void)opts;
	err_set(err, ENOTSUP, "network user: built without libslirp");
	return NULL;
}

#endif
