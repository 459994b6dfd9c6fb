/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Sessions of the control socket: listening, reading, writing. See qmp.h.
 *
 * Each session has a queue of output. Above OUT_PAUSE bytes its commands wait, so that answers
 * cannot pile up; above OUT_MAX, which events alone can reach, it is closed.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/json_split.h"
#include "base/math.h"
#include "base/room.h"
#include "base/opts.h"
#include "base/task.h"
#include "vmm/qmp_impl.h"

#define SESSIONS_MAX 32u
#define READ_BYTES   (16 * KiB)
#define OUT_PAUSE    (256 * KiB)
#define OUT_MAX      (4 * MiB)
#define GOODBYE_NS   1000000000ull

struct qmp_session {
	int fd;
	struct json_split *in;
	bool negotiated;
	bool ended; /* the other side has no more to say */
	bool broken;
	char *out; /* under q->lock, and so is `broken` */
	size_t out_bytes, out_room;
	struct qmp_session *next;
};

/* ---- output ---------------------------------------------------------------------- */

void qmp_wake(struct qmp *q)
{
	uint64_t one = 1;

	if (write(q->wake_fd, &one, sizeof(one)) < 0)
		return; /* it is awake: the counter is full */
}

/* The lock is held for the next two. */
static bool make_room(struct qmp_session *s, size_t bytes)
{
	char *out = room_grow(s->out, &s->out_room, bytes, OUT_MAX);

	if (!out)
		return false;
	s->out = out;
	return true;
}

static void put(struct qmp_session *s, const char *text, size_t bytes)
{
	if (s->broken || !make_room(s, s->out_bytes + bytes)) {
		s->broken = true;
		return;
	}
	memcpy(s->out + s->out_bytes, text, bytes);
	s->out_bytes += bytes;
}

/* As one line. */
static char *line_of(const struct json *v, size_t *bytes)
{
	char *text = json_dump(v, 0), *line;

	*bytes = strlen(text) + 2;
	line = realloc(text, *bytes + 1);
	if (!line)
		abort(); /* as all of JSON: see json.h */
	strcpy(line + *bytes - 2, "\r\n");
	return line;
}

static void send_value(struct qmp *q, struct qmp_session *s, struct json *v)
{
	size_t bytes;
	char *line = line_of(v, &bytes);

	pthread_mutex_lock(&q->lock);
	put(s, line, bytes);
	pthread_mutex_unlock(&q->lock);
	free(line);
	json_free(v);
}

static struct json *timestamp(void)
{
	struct json *t = json_new_object();
	struct timeval now;

	gettimeofday(&now, NULL);
	json_put_int(t, "seconds", now.tv_sec);
	json_put_int(t, "microseconds", now.tv_usec);
	return t;
}

void qmp_event(struct qmp *q, const char *name, struct json *data)
{
	struct json *e = json_new_object();
	size_t bytes;
	char *line;

	json_put(e, "timestamp", timestamp());
	json_put_string(e, "event", name);
	if (data)
		json_put(e, "data", data);
	line = line_of(e, &bytes);
	pthread_mutex_lock(&q->lock);
	for (struct qmp_session *s = q->sessions; s; s = s->next)
		if (__atomic_load_n(&s->negotiated, __ATOMIC_RELAXED))
			put(s, line, bytes);
	pthread_mutex_unlock(&q->lock);
	free(line);
	json_free(e);
	qmp_wake(q);
}

static size_t waiting(struct qmp *q, const struct qmp_session *s)
{
	size_t bytes;

	pthread_mutex_lock(&q->lock);
	bytes = s->out_bytes;
	pthread_mutex_unlock(&q->lock);
	return bytes;
}

static void write_out(struct qmp *q, struct qmp_session *s)
{
	ssize_t n;

	pthread_mutex_lock(&q->lock);
	n = s->out_bytes ? send(s->fd, s->out, s->out_bytes, MSG_DONTWAIT | MSG_NOSIGNAL)
			 : 0;
	if (n > 0) {
		s->out_bytes -= (size_t)n;
		memmove(s->out, s->out + n, s->out_bytes);
	} else if (n < 0 && errno != EAGAIN && errno != EINTR) {
		s->broken = true;
	}
	pthread_mutex_unlock(&q->lock);
}

/* ---- sessions -------------------------------------------------------------------- */

static struct json *greeting(void)
{
	struct json *all = json_new_object(), *hello = json_new_object(),
		    *version = json_new_object();

	json_put(version, "qemu", qmp_version());
	json_put_string(version, "package", "byre " BYRE_VERSION);
	json_put(hello, "version", version);
	json_put(hello, "capabilities", json_new_array());
	json_put(all, "QMP", hello);
	return all;
}

static void session_free(struct qmp_session *s)
{
	if (!s)
		return;
	if (s->fd >= 0)
		close(s->fd);
	json_split_free(s->in);
	free(s->out);
	free(s);
}

int qmp_attach(struct qmp *q, int fd, struct err *err)
{
	struct qmp_session *s =
		q->n_sessions < SESSIONS_MAX ? calloc(1, sizeof(*s)) : NULL;

	if (s) {
		s->fd = fd;
		s->in = json_split_new();
	}
	if (!s || !s->in) {
		session_free(s);
		if (!s)
			close(fd);
		return err_set(err, EBUSY, "no more sessions");
	}
	send_value(q, s, greeting());
	pthread_mutex_lock(&q->lock);
	s->next = q->sessions;
	q->sessions = s;
	q->n_sessions++;
	pthread_mutex_unlock(&q->lock);
	return 0;
}

static void drop(struct qmp *q, struct qmp_session *s)
{
	struct qmp_session **at = &q->sessions;

	pthread_mutex_lock(&q->lock);
	while (*at != s)
		at = &(*at)->next;
	*at = s->next;
	q->n_sessions--;
	pthread_mutex_unlock(&q->lock);
	session_free(s);
}

/* Answers what has come. False: not all of it, as the answers are not taken. */
static bool answer_all(struct qmp *q, struct qmp_session *s)
{
	bool negotiated = s->negotiated;
	struct json *answer;
	char *text;

	while (waiting(q, s) < OUT_PAUSE) {
		text = json_split_next(s->in);
		if (!text)
			return true;
		answer = qmp_answer(q, text, &negotiated);
		free(text);
		send_value(q, s, answer);
		__atomic_store_n(&s->negotiated, negotiated, __ATOMIC_RELAXED);
	}
	return false;
}

static void read_in(struct qmp *q, struct qmp_session *s)
{
	char *data = malloc(READ_BYTES);
	ssize_t n = data ? recv(s->fd, data, READ_BYTES, MSG_DONTWAIT) : -1;
	int ret = 0;

	if (n > 0)
		ret = json_split_add(s->in, data, (size_t)n);
	else if (n == 0 || (data && errno != EAGAIN && errno != EINTR))
		s->ended = true;
	free(data);
	if (ret) {
		send_value(q, s, qmp_error("GenericError", "this is too long"));
		s->ended = true;
	}
}

/* What is to be polled for; a session that does not take its answers is not read from. */
static short wanted(struct qmp *q, const struct qmp_session *s)
{
	size_t bytes = waiting(q, s);

	return (short)((bytes ? POLLOUT : 0) |
		       (!s->ended && bytes < OUT_PAUSE ? POLLIN : 0));
}

static void serve(struct qmp *q, struct qmp_session *s, short events)
{
	bool all, over;

	if (events & (POLLERR | POLLNVAL))
		s->ended = true;
	if ((events & (POLLIN | POLLHUP)) && !s->ended && waiting(q, s) < OUT_PAUSE)
		read_in(q, s);
	do {
		all = answer_all(q, s);
		write_out(q, s);
	} while (!all && waiting(q, s) < OUT_PAUSE);
	pthread_mutex_lock(&q->lock);
	over = s->broken || (s->ended && !s->out_bytes) || (events & POLLERR);
	pthread_mutex_unlock(&q->lock);
	if (over)
		drop(q, s);
}

/* ---- listening ------------------------------------------------------------------- */

/* One that nobody listens on any more is in the way. */
static void remove_stale(const struct sockaddr_un *a)
{
	struct stat st;
	int fd;

	if (lstat(a->sun_path, &st) || !S_ISSOCK(st.st_mode))
		return;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return;
	if (connect(fd, (const struct sockaddr *)a, sizeof(*a)) && errno == ECONNREFUSED)
		unlink(a->sun_path);
	close(fd);
}

static int open_listener(struct qmp *q, const char *path, struct err *err)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd, ret;

	if (!*path || strlen(path) >= sizeof(a.sun_path))
		return err_set(err, EINVAL, "'%s': a socket's path has 1 to %zu bytes",
			path, sizeof(a.sun_path) - 1);
	strcpy(a.sun_path, path);
	remove_stale(&a);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return err_errno(err, errno, "socket");
	/* Before it is bound, so that nobody else gets in between. */
	if (fchmod(fd, 0600) || bind(fd, (struct sockaddr *)&a, sizeof(a)) ||
		listen(fd, (int)SESSIONS_MAX)) {
		ret = errno;
		close(fd);
		return err_errno(err, ret, "%s", path);
	}
	q->listener[q->n_listeners] = fd;
	q->path[q->n_listeners++] = strdup(path);
	return 0;
}

/* What it is, it is: only the words that say so are known. */
static int check_manner(struct opts *opts, struct err *err)
{
	bool server = true, wait = false;
	int ret = opts_take_bool(opts, "server", &server, err);

	ret = ret ? ret : opts_take_bool(opts, "wait", &wait, err);
	if (ret == 0 && (!server || wait))
		ret = err_set(err, EINVAL, "only server=on,wait=off");
	return ret ? ret : opts_check_unused(opts, err);
}

/* "tcp:…" is not the name of a file here; "./tcp:…" is. */
static bool has_scheme(const char *address)
{
	size_t n = strspn(address, "abcdefghijklmnopqrstuvwxyz");

	return n && address[n] == ':';
}

int qmp_listen(struct qmp *q, const char *address, struct err *err)
{
	struct opts *opts = opts_new();
	const char *path;
	int ret = 0;

	if (q->n_listeners == MACHINE_QMP_MAX)
		ret = err_set(err, E2BIG, "more than %u sockets", MACHINE_QMP_MAX);
	if (!strncmp(address, "unix:", 5))
		address += 5;
	else if (ret == 0 && has_scheme(address))
		ret = err_set(err, EINVAL, "'%s': only unix:PATH can be had", address);
	ret = ret ? ret : opts_parse(opts, address, "path", err);
	path = opts_take(opts, "path");
	ret = ret ? ret : check_manner(opts, err);
	ret = ret ? ret : open_listener(q, path ? path : "", err);
	opts_free(opts);
	return ret ? err_prefix(err, "control socket") : 0;
}

static void accept_one(struct qmp *q, int listener)
{
	int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd >= 0)
		qmp_attach(q, fd, NULL);
}

/* ---- the thread ------------------------------------------------------------------ */

struct polled {
	struct pollfd fds[1 + MACHINE_QMP_MAX + SESSIONS_MAX];
	struct qmp_session *session[SESSIONS_MAX];
	unsigned n, n_sessions;
};

static void prepare(struct qmp *q, struct polled *p)
{
	p->n = p->n_sessions = 0;
	p->fds[p->n++] = (struct pollfd){.fd = q->wake_fd, .events = POLLIN};
	for (unsigned i = 0; i < q->n_listeners; i++)
		p->fds[p->n++] = (struct pollfd){.fd = q->listener[i], .events = POLLIN};
	for (struct qmp_session *s = q->sessions; s; s = s->next) {
		p->fds[p->n++] = (struct pollfd){.fd = s->fd, .events = wanted(q, s)};
		p->session[p->n_sessions++] = s;
	}
}

static void take_wake(struct qmp *q)
{
	uint64_t count;

	if (read(q->wake_fd, &count, sizeof(count)) < 0)
		return; /* nobody did */
}

static void serve_all(struct qmp *q, const struct polled *p)
{
	const struct pollfd *listener = p->fds + 1, *session = listener + q->n_listeners;

	take_wake(q);
	if (q->what.machine)
		machine_take_ejected(q->what.machine);
	/* Those that are served here are not those that are accepted below. */
	for (unsigned i = 0; i < p->n_sessions; i++)
		serve(q, p->session[i], session[i].revents);
	for (unsigned i = 0; i < q->n_listeners; i++)
		if (listener[i].revents)
			accept_one(q, q->listener[i]);
}

static bool is_ending(struct qmp *q)
{
	return __atomic_load_n(&q->ending, __ATOMIC_ACQUIRE);
}

/* What is left goes out, where it is taken soon. */
static void say_goodbye(struct qmp *q)
{
	uint64_t end = clock_ns() + GOODBYE_NS;

	for (struct qmp_session *s = q->sessions; s; s = s->next) {
		while (waiting(q, s) && !s->broken && clock_ns() < end) {
			struct pollfd out = {.fd = s->fd, .events = POLLOUT};

			if (poll(&out, 1, 50) > 0)
				write_out(q, s);
		}
	}
}

static void *qmp_main(void *arg)
{
	struct qmp *q = arg;
	struct polled p;

	while (!is_ending(q)) {
		prepare(q, &p);
		if (poll(p.fds, p.n, -1) < 0 && errno != EINTR)
			break;
		serve_all(q, &p);
	}
	say_goodbye(q);
	return NULL;
}

/* ---- life ------------------------------------------------------------------------ */

struct qmp *qmp_new(const struct qmp_machine *what, struct err *err)
{
	struct qmp *q = calloc(1, sizeof(*q));

	if (!q || (q->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) < 0) {
		err_errno(err, q ? errno : ENOMEM, "control socket");
		free(q);
		return NULL;
	}
	q->what = *what;
	pthread_mutex_init(&q->lock, NULL);
	pthread_mutex_init(&q->storage_lock, NULL);
	pthread_mutex_init(&q->jobs_lock, NULL);
	what->vm->notify = qmp_vm_event;
	what->vm->disk_failed = qmp_disk_failed;
	what->vm->notify_arg = q;
	return q;
}

int qmp_start(struct qmp *q, struct err *err)
{
	int ret = pthread_create(&q->thread, NULL, qmp_main, q);

	if (ret)
		return err_errno(err, ret, "control socket");
	q->started = true;
	return 0;
}

void qmp_stop(struct qmp *q)
{
	if (!q || !q->started)
		return;
	__atomic_store_n(&q->ending, true, __ATOMIC_RELEASE);
	qmp_wake(q);
	pthread_join(q->thread, NULL);
	q->started = false;
	qmp_jobs_end(q);
}

void qmp_note_files(const struct qmp *q, struct leftovers *l)
{
	for (unsigned i = 0; i < q->n_listeners; i++)
		leftovers_note(l, q->path[i]);
}

void qmp_free(struct qmp *q)
{
	if (!q)
		return;
	qmp_stop(q);
	q->what.vm->notify = NULL;
	q->what.vm->disk_failed = NULL;
	while (q->sessions)
		drop(q, q->sessions);
	for (unsigned i = 0; i < q->n_listeners; i++) {
		close(q->listener[i]);
		unlink(q->path[i]);
		free(q->path[i]);
	}
	close(q->wake_fd);
	pthread_mutex_destroy(&q->jobs_lock);
	pthread_mutex_destroy(&q->storage_lock);
	pthread_mutex_destroy(&q->lock);
	free(q);
}
