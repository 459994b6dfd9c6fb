/* SPDX-License-Identifier: BSD-2-Clause */
/* Character devices of the host. See chardev.h. */
#include "vmm/chardev.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <termios.h>
#include <unistd.h>

#include "base/log.h"
#include "base/math.h"
#include "vmm/confine.h"
#include "vmm/vm.h"

#define ESCAPE      1 /* Ctrl-A */
#define WAITING_MAX 4096u
#define WRITE_MAX   4096u /* what a pipe that is ready takes without waiting */
#define PATIENCE_MS 100
#define LOOK_MS     250 /* whether somebody has opened a pseudo-terminal */

enum kind { KIND_STDIO, KIND_PTY, KIND_SOCKET, KIND_FILE, KIND_NONE };

struct chardev {
	enum kind kind;
	char path[sizeof(((struct sockaddr_un *)NULL)->sun_path)];
	int listen_fd, in_fd;
	unsigned (*receive)(void *front, const uint8_t *data, unsigned bytes);
	void *front;
	void (*key)(void *arg, uint8_t key);
	void *key_arg;

	pthread_mutex_t lock; /* around */
	int out_fd;
	bool stuck;   /* nobody took anything for a while */
	bool failed;  /* writing did, which was told */
	bool hurried; /* atomic */

	/* Of the thread. */
	pthread_t thread;
	bool started;
	bool ending; /* atomic */
	int wake_fd;
	bool raw, escaped, absent;
	struct termios before;
	uint8_t waiting[WAITING_MAX]; /* that the device has not taken */
	unsigned n_waiting;
};

static void wake(struct chardev *c)
{
	uint64_t one = 1;

	if (write(c->wake_fd, &one, sizeof(one)) < 0)
		return; /* it is awake */
}

static void clear_wake(struct chardev *c)
{
	uint64_t n;

	if (read(c->wake_fd, &n, sizeof(n)) < 0)
		return; /* it was clear */
}

/* ---- in -------------------------------------------------------------------------- */

/* What is typed at a device that does not listen is lost in the end; a pipe waits. */
static void add(struct chardev *c, uint8_t byte)
{
	if (c->n_waiting < WAITING_MAX)
		c->waiting[c->n_waiting++] = byte;
}

static void add_key(struct chardev *c, uint8_t key)
{
	if (!c->raw || (!c->escaped && key != ESCAPE)) {
		add(c, key);
		return;
	}
	if (!c->escaped) {
		c->escaped = true;
		return;
	}
	c->escaped = false;
	if (key == ESCAPE)
		add(c, key);
	else if (c->key)
		c->key(c->key_arg, key);
}

static void offer(struct chardev *c)
{
	unsigned n = c->n_waiting;

	if (!n)
		return;
	if (c->receive)
		n = c->receive(c->front, c->waiting, n);
	c->n_waiting -= n;
	memmove(c->waiting, c->waiting + n, c->n_waiting);
}

static void hang_up(struct chardev *c)
{
	if (c->kind != KIND_SOCKET) {
		c->in_fd = -1;
		return;
	}
	pthread_mutex_lock(&c->lock);
	close(c->in_fd);
	c->in_fd = c->out_fd = -1;
	pthread_mutex_unlock(&c->lock);
}

/* A pseudo-terminal that nobody has open gives an error, and may be opened again. */
static void read_some(struct chardev *c)
{
	uint8_t keys[256];
	size_t room = c->raw ? sizeof(keys)
			     : MIN(sizeof(keys), (size_t)(WAITING_MAX - c->n_waiting));
	ssize_t n = read(c->in_fd, keys, room);

	for (ssize_t i = 0; i < n; i++)
		add_key(c, keys[i]);
	c->absent = n < 0 && c->kind == KIND_PTY;
	if (n == 0 || (n < 0 && !c->absent && errno != EINTR && errno != EAGAIN))
		hang_up(c);
}

/* One at a time; others wait in the queue of the socket. */
static void accept_one(struct chardev *c)
{
	int fd = accept4(c->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd < 0)
		return;
	pthread_mutex_lock(&c->lock);
	c->in_fd = c->out_fd = fd;
	c->stuck = false;
	pthread_mutex_unlock(&c->lock);
}

static void *chardev_main(void *arg)
{
	struct chardev *c = arg;

	confine_thread(CONFINE_CONSOLE);
	while (!__atomic_load_n(&c->ending, __ATOMIC_ACQUIRE)) {
		bool full = c->n_waiting == WAITING_MAX && !c->raw;
		int in = c->in_fd >= 0 ? c->in_fd : c->listen_fd;
		struct pollfd fds[] = {{.fd = c->wake_fd, .events = POLLIN},
			{.fd = full || c->absent ? -1 : in, .events = POLLIN}};

		if (poll(fds, 2, c->absent ? LOOK_MS : -1) < 0 && errno != EINTR)
			break;
		clear_wake(c);
		c->absent = false;
		if (fds[1].revents && c->in_fd >= 0)
			read_some(c);
		else if (fds[1].revents)
			accept_one(c);
		offer(c);
	}
	return NULL;
}

void chardev_attach(struct chardev *c,
	unsigned (*receive)(void *front, const uint8_t *data, unsigned bytes),
	void *front)
{
	c->receive = receive;
	c->front = front;
}

void chardev_set_keys(struct chardev *c, void (*key)(void *arg, uint8_t key), void *arg)
{
	c->key = key;
	c->key_arg = arg;
}

void chardev_ready(struct chardev *c)
{
	wake(c);
}

/* ---- out ------------------------------------------------------------------------- */

/* The lock is held. *error: why it is not worth waiting, a full disk, say. */
static size_t write_some(struct chardev *c, const uint8_t *data, size_t bytes, int *error)
{
	struct pollfd out = {.fd = c->out_fd, .events = POLLOUT};
	ssize_t n;

	if (c->out_fd < 0)
		return bytes;
	if (poll(&out, 1, 0) <= 0)
		return 0;
	if (!(out.revents & POLLOUT) || (out.revents & (POLLHUP | POLLERR)))
		return bytes; /* there is nobody */
	n = write(c->out_fd, data, MIN(bytes, (size_t)WRITE_MAX));
	if (n >= 0)
		return (size_t)n;
	if (errno == EAGAIN || errno == EINTR)
		return 0;
	*error = errno == EPIPE || errno == ECONNRESET ? 0 : errno; /* there is nobody */
	return bytes;
}

size_t chardev_write(struct chardev *c, const uint8_t *data, size_t bytes)
{
	int error = 0;
	bool tell;
	size_t n;

	pthread_mutex_lock(&c->lock);
	n = write_some(c, data, bytes, &error);
	if (n)
		c->stuck = false;
	tell = error && !c->failed;
	c->failed = c->failed || error;
	pthread_mutex_unlock(&c->lock);
	if (tell)
		log_line(LOG_LEVEL_WARNING, "%s: what the guest says is lost: %s",
			c->kind == KIND_STDIO ? "console" : c->path, strerror(error));
	return n;
}

/* Whether it is worth trying again. The descriptor may be another meanwhile, or none. */
static bool wait_for_room(struct chardev *c, struct vm *vm)
{
	struct pollfd out = {.events = POLLOUT};
	bool stuck, patient = c->kind == KIND_STDIO || c->kind == KIND_FILE;

	if (__atomic_load_n(&c->hurried, __ATOMIC_ACQUIRE) || vm_stopping(vm))
		patient = false;
	pthread_mutex_lock(&c->lock);
	stuck = c->stuck;
	out.fd = c->out_fd;
	pthread_mutex_unlock(&c->lock);
	if (stuck && !patient)
		return false;
	if (poll(&out, 1, PATIENCE_MS) != 0 || patient)
		return true;
	pthread_mutex_lock(&c->lock);
	c->stuck = true;
	pthread_mutex_unlock(&c->lock);
	return false;
}

void chardev_put(struct chardev *c, uint8_t byte, struct vm *vm)
{
	while (!chardev_write(c, &byte, 1))
		if (!wait_for_room(c, vm))
			return;
}

void chardev_hurry(struct chardev *c)
{
	__atomic_store_n(&c->hurried, true, __ATOMIC_RELEASE);
}

/* ---- opening --------------------------------------------------------------------- */

static int open_pty(struct chardev *c, struct err *err)
{
	struct termios raw;
	int fd = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK), slave;

	if (fd < 0)
		return err_errno(err, errno, "pty");
	c->in_fd = c->out_fd = fd;
	if (grantpt(fd) || unlockpt(fd) || ptsname_r(fd, c->path, sizeof(c->path)))
		return err_errno(err, errno, "pty");
	/* The guest's own terminal does what a terminal does. */
	slave = open(c->path, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (slave < 0 || tcgetattr(slave, &raw))
		return err_errno(err, errno, "%s", c->path);
	cfmakeraw(&raw);
	tcsetattr(slave, TCSANOW, &raw);
	close(slave);
	return 0;
}

static bool is_stale(const struct sockaddr_un *a)
{
	struct stat st;
	int fd;
	bool refused;

	if (lstat(a->sun_path, &st) || !S_ISSOCK(st.st_mode))
		return false;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	refused = fd >= 0 && connect(fd, (const struct sockaddr *)a, sizeof(*a)) &&
		  errno == ECONNREFUSED;
	if (fd >= 0)
		close(fd);
	return refused;
}

/* A socket that was left behind by one that was killed goes. */
static int open_socket(struct chardev *c, struct err *err)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), ret;

	strcpy(a.sun_path, c->path);
	c->listen_fd = fd;
	if (fd >= 0 && is_stale(&a))
		unlink(c->path);
	if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof(a))) {
		ret = err_errno(err, errno, "%s", c->path);
		c->path[0] = 0; /* it is another's */
		return ret;
	}
	return listen(fd, 1) ? err_errno(err, errno, "%s", c->path) : 0;
}

static int open_kind(struct chardev *c, struct err *err)
{
	switch (c->kind) {
	case KIND_STDIO:
		c->in_fd = STDIN_FILENO;
		c->out_fd = STDOUT_FILENO;
		return 0;
	case KIND_PTY:
		return open_pty(c, err);
	case KIND_SOCKET:
		return open_socket(c, err);
	case KIND_FILE:
		c->out_fd =
			open(c->path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
		return c->out_fd < 0 ? err_errno(err, errno, "%s", c->path) : 0;
	default:
		return 0;
	}
}

static int parse(struct chardev *c, const char *text, struct err *err)
{
	static const char *const names[] = {"stdio", "pty", "socket=", "file=", "none"};

	for (unsigned i = 0; i < ARRAY_LEN(names); i++) {
		size_t n = strlen(names[i]);
		bool path = names[i][n - 1] == '=';

		if (path ? strncmp(text, names[i], n) != 0 : strcmp(text, names[i]) != 0)
			continue;
		c->kind = (enum kind)i;
		if (path && (!text[n] || strlen(text + n) >= sizeof(c->path)))
			return err_set(err, EINVAL,
				"'%s': a path has 1 to %zu characters", text,
				sizeof(c->path) - 1);
		if (path)
			strcpy(c->path, text + n);
		return 0;
	}
	return err_set(err, EINVAL,
		"'%s' is none of stdio, pty, socket=PATH, file=PATH and none", text);
}

struct chardev *chardev_open(const char *text, struct err *err)
{
	struct chardev *c = calloc(1, sizeof(*c));

	if (!c) {
		err_errno(err, ENOMEM, "%s", text);
		return NULL;
	}
	c->kind = KIND_NONE;
	c->listen_fd = c->in_fd = c->out_fd = -1;
	pthread_mutex_init(&c->lock, NULL);
	c->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (c->wake_fd < 0) {
		err_errno(err, errno, "%s", text);
		chardev_close(c);
		return NULL;
	}
	if (parse(c, text, err) || open_kind(c, err)) {
		chardev_close(c);
		return NULL;
	}
	return c;
}

void chardev_close(struct chardev *c)
{
	if (!c)
		return;
	chardev_stop(c);
	if (c->out_fd >= 0 && c->kind != KIND_STDIO)
		close(c->out_fd);
	if (c->listen_fd >= 0)
		close(c->listen_fd);
	if (c->kind == KIND_SOCKET && c->path[0])
		unlink(c->path);
	if (c->wake_fd >= 0)
		close(c->wake_fd);
	pthread_mutex_destroy(&c->lock);
	free(c);
}

bool chardev_is_stdio(const struct chardev *c)
{
	return c->kind == KIND_STDIO;
}

const char *chardev_pty(const struct chardev *c)
{
	return c->kind == KIND_PTY ? c->path : NULL;
}

const char *chardev_socket(const struct chardev *c)
{
	return c->kind == KIND_SOCKET ? c->path : NULL;
}

/* ---- running --------------------------------------------------------------------- */

static void make_raw(struct chardev *c)
{
	struct termios raw;

	if (c->kind != KIND_STDIO || tcgetattr(c->in_fd, &c->before))
		return;
	raw = c->before;
	cfmakeraw(&raw);
	raw.c_oflag |= OPOST | ONLCR; /* our own messages keep their shape */
	c->raw = tcsetattr(c->in_fd, TCSANOW, &raw) == 0;
}

static void make_sane(struct chardev *c)
{
	if (c->raw)
		tcsetattr(STDIN_FILENO, TCSANOW, &c->before);
	c->raw = false;
}

int chardev_start(struct chardev *c, struct err *err)
{
	int ret;

	if (c->in_fd < 0 && c->listen_fd < 0)
		return 0;
	make_raw(c);
	ret = pthread_create(&c->thread, NULL, chardev_main, c);
	c->started = ret == 0;
	if (ret)
		make_sane(c);
	return ret ? err_errno(err, ret, "console") : 0;
}

void chardev_stop(struct chardev *c)
{
	if (!c->started)
		return;
	__atomic_store_n(&c->ending, true, __ATOMIC_RELEASE);
	wake(c);
	pthread_join(c->thread, NULL);
	c->started = false;
	make_sane(c);
}
