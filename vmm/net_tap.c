/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Tap devices of the kernel. A packet goes between the guest's own buffers and the kernel in
 * one call, with the header in which checksums and segments are left to the other side.
 *
 * A queue that is not in use is detached, as the kernel would give it packets otherwise.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <linux/if.h>
#include <linux/if_tun.h>

#include "base/log.h"
#include "vmm/afterwards.h"
#include "vmm/net.h"
#include "vmm/vhost.h"

extern char **environ;

struct net_tap {
	struct net net; /* first */
	char name[IFNAMSIZ];
	const char *
		down; /* the script, of who waits to take it down; and where that is told, -1: nobody */
	int down_fd;
	int fd[NET_QUEUES_MAX];
	bool attached[NET_QUEUES_MAX];
};

static struct net_tap *tap_of(struct net *n)
{
	return (struct net_tap *)n;
}

/* ---- packets --------------------------------------------------------------------- */

/* What the kernel does not like of a packet is the guest's own loss. */
static int tap_send(struct net *n, unsigned queue, const struct iovec *iov, int niov)
{
	ssize_t ret;

	do
		ret = writev(tap_of(n)->fd[queue], iov, niov);
	while (ret < 0 && errno == EINTR);
	return ret < 0 && errno == EAGAIN ? -EAGAIN : 0;
}

static ssize_t tap_receive(
	struct net *n, unsigned queue, const struct iovec *iov, int niov)
{
	ssize_t ret;

	do
		ret = readv(tap_of(n)->fd[queue], iov, niov);
	while (ret < 0 && errno == EINTR);
	if (ret >= 0)
		return ret;
	/* A device that is down has nothing to read, and one that was deleted never again. */
	return errno == EAGAIN ? -EAGAIN : -EPIPE;
}

/* ---- settings -------------------------------------------------------------------- */

static unsigned long kernel_offloads(unsigned offloads)
{
	return (offloads & NET_CSUM ? TUN_F_CSUM : 0) |
	       (offloads & NET_TSO4 ? TUN_F_TSO4 : 0) |
	       (offloads & NET_TSO6 ? TUN_F_TSO6 : 0) |
	       (offloads & NET_ECN ? TUN_F_TSO_ECN : 0) |
	       (offloads & NET_UFO ? TUN_F_UFO : 0);
}

static int try_offloads(struct net_tap *t, unsigned offloads)
{
	return ioctl(t->fd[0], TUNSETOFFLOAD, kernel_offloads(offloads)) ? -errno : 0;
}

/* Segments need checksums; the guest may ask for whatever it likes. */
static void tap_set_offloads(struct net *n, unsigned offloads)
{
	offloads &= n->offloads;
	if (!(offloads & NET_CSUM))
		offloads = 0;
	if (!(offloads & (NET_TSO4 | NET_TSO6)))
		offloads &= ~(unsigned)NET_ECN;
	try_offloads(tap_of(n), offloads);
}

static void attach(struct net_tap *t, unsigned queue, bool on)
{
	struct ifreq r = {.ifr_flags = on ? IFF_ATTACH_QUEUE : IFF_DETACH_QUEUE};

	if (on != t->attached[queue] && ioctl(t->fd[queue], TUNSETQUEUE, &r) == 0)
		t->attached[queue] = on;
}

static void tap_set_pairs(struct net *n, unsigned pairs)
{
	for (unsigned i = 0; n->queues > 1 && i < n->queues; i++)
		attach(tap_of(n), i, i < pairs);
}

/* ---- opening --------------------------------------------------------------------- */

/* No signal is blocked or ignored. */
static int spawn(pid_t *pid, const char *script, char *const argv[])
{
	posix_spawnattr_t attr;
	sigset_t none, all;
	int ret = posix_spawnattr_init(&attr);

	if (ret)
		return ret;
	sigemptyset(&none);
	sigfillset(&all);
	posix_spawnattr_setsigmask(&attr, &none);
	posix_spawnattr_setsigdefault(&attr, &all);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
	ret = posix_spawn(pid, script, NULL, &attr, argv, environ);
	posix_spawnattr_destroy(&attr);
	return ret;
}

/* Somebody's program with the name of the device as its argument. */
static int run_script(const char *script, const char *name, struct err *err)
{
	char *const argv[] = {(char *)(uintptr_t)script, (char *)(uintptr_t)name, NULL};
	pid_t pid;
	int status, ret = spawn(&pid, script, argv);

	if (ret)
		return err_errno(err, ret, "%s", script);
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return err_errno(err, errno, "%s", script);
	if (!WIFEXITED(status) || WEXITSTATUS(status))
		return err_set(err, EIO, "%s %s has failed", script, name);
	return 0;
}

static void run_down_script(void *arg)
{
	const struct net_tap *t = arg;
	struct err err = ERR_INIT;

	if (run_script(t->down, t->name, &err))
		log_line(LOG_LEVEL_WARNING, "%s", err.msg);
}

static int leave_down_script(struct net_tap *t, const char *script, struct err *err)
{
	if (access(script, X_OK))
		return err_errno(err, errno, "%s", script);
	t->down = script;
	t->down_fd = afterwards_begin(run_down_script, t, err);
	return t->down_fd < 0 ? err_prefix(err, "%s", script) : 0;
}

static int open_queue(struct net_tap *t, unsigned i, bool multi, struct err *err)
{
	struct ifreq r = {.ifr_flags = (short)(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR |
					       (multi ? IFF_MULTI_QUEUE : 0))};
	int ret;

	memcpy(r.ifr_name, t->name, sizeof(r.ifr_name));
	t->fd[i] = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
	if (t->fd[i] < 0)
		return err_errno(err, errno, "/dev/net/tun");
	if (ioctl(t->fd[i], TUNSETIFF, &r)) {
		ret = err_errno(err, errno, "tap %s", t->name);
		if (ret == -EINVAL)
			err_hint(err, "a device that is there already has to be made %s",
				multi ? "with multi_queue" : "without multi_queue");
		return ret;
	}
	memcpy(t->name, r.ifr_name, sizeof(t->name)); /* "vm%d" has got its number */
	return 0;
}

static int take_name(struct net_tap *t, struct opts *opts, struct err *err)
{
	const char *name = opts_take(opts, "ifname");

	if (name && (!*name || strlen(name) >= sizeof(t->name)))
		return err_set(err, EINVAL, "ifname: '%s' has 1 to %zu characters", name,
			sizeof(t->name) - 1);
	snprintf(t->name, sizeof(t->name), "%s", name ? name : "byre%d");
	return 0;
}

/* One that a parent has opened: a queue of its own, with what header it has. */
static int take_fd(struct net_tap *t, struct opts *opts, struct err *err)
{
	uint64_t fd = 0;
	struct ifreq r = {.ifr_flags = 0};
	int ret = opts_take_u64(opts, "fd", &fd, err);

	if (ret)
		return ret;
	if (fd > INT32_MAX || ioctl((int)fd, TUNGETIFF, &r))
		return err_set(err, EINVAL, "fd: %llu is not a tap device's",
			(unsigned long long)fd);
	if (!(r.ifr_flags & IFF_TAP) || !(r.ifr_flags & IFF_NO_PI) ||
		!(r.ifr_flags & IFF_VNET_HDR))
		return err_set(err, EINVAL,
			"fd: %llu was not opened with IFF_TAP, IFF_NO_PI and "
			"IFF_VNET_HDR",
			(unsigned long long)fd);
	memcpy(t->name, r.ifr_name, sizeof(t->name));
	t->fd[0] = (int)fd;
	fcntl(t->fd[0], F_SETFD, FD_CLOEXEC);
	fcntl(t->fd[0], F_SETFL, O_RDWR | O_NONBLOCK);
	return 0;
}

static int open_queues(
	struct net_tap *t, struct opts *opts, unsigned queues, struct err *err)
{
	int ret = 0;

	if (opts_peek(opts, "fd")) {
		if (queues > 1)
			return err_set(err, EINVAL, "fd: one descriptor is one queue");
		return take_fd(t, opts, err);
	}
	ret = take_name(t, opts, err);
	for (unsigned i = 0; i < queues && ret == 0; i++)
		ret = open_queue(t, i, queues > 1, err);
	return ret;
}

/* What the kernel takes; headers as virtio has them. */
static int set_up(struct net_tap *t, struct err *err)
{
	int header = NET_HEADER;
	unsigned most = NET_CSUM | NET_TSO4 | NET_TSO6 | NET_ECN;

	for (unsigned i = 0; i < t->net.queues; i++)
		if (ioctl(t->fd[i], TUNSETVNETHDRSZ, &header))
			return err_errno(err, errno, "tap %s: header", t->name);
	if (try_offloads(t, most | NET_UFO) == 0)
		t->net.offloads = most | NET_UFO;
	else if (try_offloads(t, most) == 0)
		t->net.offloads = most;
	try_offloads(t, 0);
	return 0;
}

static void tap_close(struct net *n)
{
	struct net_tap *t = tap_of(n);

	afterwards_end(t->down_fd);
	for (unsigned i = 0; i < NET_QUEUES_MAX; i++) {
		vhost_free(n->queue[i].vhost);
		if (t->fd[i] >= 0)
			close(t->fd[i]);
	}
	free(t);
}

static const struct net_ops tap_ops = {
	.name = "tap",
	.send = tap_send,
	.receive = tap_receive,
	.set_offloads = tap_set_offloads,
	.set_pairs = tap_set_pairs,
	.close = tap_close,
};

/* vhost=on|off; without it the kernel serves the queues where it can. All of them or none. */
static int open_vhost(struct net_tap *t, struct opts *opts, struct err *err)
{
	bool asked = opts_peek(opts, "vhost"), wanted = true;
	struct err why = ERR_INIT;
	int ret = opts_take_bool(opts, "vhost", &wanted, err);
	unsigned n = 0;

	if (ret || !wanted)
		return ret;
	while (n < t->net.queues && (t->net.queue[n].vhost = vhost_net_open(&why)))
		n++;
	if (n == t->net.queues)
		return 0;
	while (n--) {
		vhost_free(t->net.queue[n].vhost);
		t->net.queue[n].vhost = NULL;
	}
	return asked ? err_set(err, why.code, "tap %s: vhost: %s", t->name, why.msg) : 0;
}

static int run_scripts(struct net_tap *t, struct opts *opts, struct err *err)
{
	const char *up = opts_take(opts, "script"), *down = opts_take(opts, "downscript");
	int ret = up ? run_script(up, t->name, err) : 0;

	return ret || !down ? ret : leave_down_script(t, down, err);
}

struct net *net_tap_open(struct opts *opts, unsigned queues, struct err *err)
{
	struct net_tap *t = calloc(1, sizeof(*t));

	if (!t) {
		err_errno(err, ENOMEM, "tap");
		return NULL;
	}
	t->down_fd = -1;
	t->net = (struct net){.ops = &tap_ops, .queues = queues, .vnet_header = true};
	for (unsigned i = 0; i < NET_QUEUES_MAX; i++)
		t->fd[i] = -1;
	if (open_queues(t, opts, queues, err) || set_up(t, err) ||
		open_vhost(t, opts, err) || run_scripts(t, opts, err)) {
		tap_close(&t->net);
		return NULL;
	}
	for (unsigned i = 0; i < queues; i++) {
		t->attached[i] = true;
		t->net.queue[i].read_fd = t->net.queue[i].write_fd = t->fd[i];
		t->net.queue[i].write_events = POLLOUT;
	}
	return &t->net;
}
