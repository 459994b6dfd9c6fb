/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * nbd://host[:port]/export, nbd+unix:///export?socket=path, nbds:// for TLS: an export of
 * any NBD server, by libnbd.
 *
 * Several requests are in flight on a connection, and with connections=N several connections
 * are used where the server says that a flush on one covers the others
 * (NBD_FLAG_CAN_MULTI_CONN). libnbd
 * has no reconnecting: where one connection breaks all are given up and the session
 * (session.h) makes them anew.
 *
 * Extents are the server's base:allocation; x-dirty-bitmap=CONTEXT asks for another, whose
 * set ranges are then told as data and all others as zero, as the peer's driver does.
 */
#ifdef HAVE_LIBNBD
#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include <libnbd.h>

#include "backends/session.h"
#include "base/iov.h"
#include "base/math.h"
#include "block/format.h"
#include "block/storage.h"

#define CONNECTIONS_MAX 16u
#define CONNECTIONS     1u        /* more cost a handshake each when opening */
#define TRANSFER_MAX    (2 * MiB) /* of a request; servers may say less */
#define ZERO_MAX        (1u << 30)
#define CONNECT_MS      10000u /* for the whole handshake */
#define PATH_CONNECT_MS 4000   /* where there may be another path */

struct nbd_facts {
	bool known, can_flush, can_fua, can_trim, can_zero, can_status, read_only;
	uint64_t size;
	uint32_t min_block, max_block;
};

struct connection {
	struct nbd_handle *h;
	struct remote remote;
	unsigned in_flight;
	struct nbd *n;
};

struct nbd {
	struct session session;
	char *uri, *certificates, *psk_file, *username, *context;
	bool inverted; /* the context names dirty ranges */
	uint64_t max_connections;

	/* Home loop; valid while the session is connected. */
	struct connection c[CONNECTIONS_MAX];
	unsigned n_connections;
	bool dead; /* one of them; nothing is begun on the others */
	struct nbd_facts facts;
};

static struct nbd *nbd_of(const struct blk *b)
{
	return b->state;
}

/* ---- names and options ----------------------------------------------------------- */

static int no_memory(struct err *err)
{
	return err_errno(err, ENOMEM, "nbd");
}

static bool is_uri(const char *name)
{
	return strstr(name, "://") != NULL;
}

/* "nbd:host:port[:exportname=x]" and "nbd:unix:path[:exportname=x]", older than URIs. */
static int old_name(const char *name, struct opts *opts, struct err *err)
{
	const char *rest = name + strlen("nbd:");
	const char *export = strstr(rest, ":exportname=");
	char *place = export ? strndup(rest, (size_t)(export - rest)) : strdup(rest);
	char *colon;
	int ret = 0;

	if (!place)
		return no_memory(err);
	colon = strrchr(place, ':');
	if (!strncmp(place, "unix:", 5)) {
		opts_set(opts, "path", place + 5);
	} else if (colon && colon != place) {
		*colon = '\0';
		opts_set(opts, "host", place);
		opts_set(opts, "port", colon + 1);
	} else {
		ret = err_set(err, EINVAL, "'%s': no host and port", name);
	}
	if (ret == 0 && export)
		opts_set(opts, "export", export + strlen(":exportname="));
	free(place);
	return ret;
}

static int node_parse_name(const char *name, struct opts *opts, struct err *err)
{
	if (!is_uri(name))
		return old_name(name, opts, err);
	opts_set(opts, "filename", name);
	return 0;
}

static const char *take_either(struct opts *opts, const char *one, const char *other)
{
	const char *value = opts_take(opts, one);

	return value ? value : opts_take(opts, other);
}

/* Percent-encodes what may not stand in that part of a URI. */
static char *encode(const char *text)
{
	static const char plain[] =
		"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
		"-._~/";
	char *out = malloc(3 * strlen(text) + 1), *at = out;

	for (; out && *text; text++)
		if (strchr(plain, *text))
			*at++ = *text;
		else
			at += sprintf(at, "%%%02X", (unsigned char)*text);
	if (out)
		*at = '\0';
	return out;
}

/* host, port, path and export make a URI too. */
static int take_uri(struct opts *opts, char **uri, bool tls, struct err *err)
{
	const char *name = opts_take(opts, "filename");
	const char *host = take_either(opts, "server.host", "host");
	const char *port = take_either(opts, "server.port", "port");
	const char *path = take_either(opts, "server.path", "path");
	const char *export = opts_take(opts, "export");
	char *e, *p;
	int n = -1;

	opts_take(opts, "server.type"); /* the parts say it */
	if (name && (host || path || export))
		return err_set(err, EINVAL, "nbd: a URI and its parts were given");
	if (name)
		return (*uri = strdup(name)) ? 0 : no_memory(err);
	if (!host == !path)
		return err_set(err, EINVAL, "nbd: one of host and path has to be given");
	e = encode(export ? export : "");
	p = encode(path ? path : "");
	if (e && p && path)
		n = asprintf(uri, "nbd%s+unix:///%s?socket=%s", tls ? "s" : "", e, p);
	else if (e && p)
		n = asprintf(uri, "nbd%s://%s:%s/%s", tls ? "s" : "", host,
			port ? port : "10809", e);
	free(e);
	free(p);
	if (n < 0)
		*uri = NULL;
	return n < 0 ? no_memory(err) : 0;
}

static int take_string(struct opts *opts, const char *key, char **out, struct err *err)
{
	const char *value = opts_take(opts, key);

	if (!value)
		return 0;
	*out = strdup(value);
	return *out ? 0 : no_memory(err);
}

static int take_options(struct blk *b, struct opts *opts, struct err *err)
{
	struct nbd *n = nbd_of(b);
	bool tls = opts_peek(opts, "tls-certificates") || opts_peek(opts, "tls-psk-file");
	int ret = take_uri(opts, &n->uri, tls, err);

	n->max_connections = CONNECTIONS;
	ret = ret ? ret : take_string(opts, "tls-certificates", &n->certificates, err);
	ret = ret ? ret : take_string(opts, "tls-psk-file", &n->psk_file, err);
	ret = ret ? ret : take_string(opts, "tls-username", &n->username, err);
	ret = ret ? ret : take_string(opts, "x-dirty-bitmap", &n->context, err);
	ret = ret ? ret : opts_take_u64(opts, "connections", &n->max_connections, err);
	ret = ret ? ret : session_options(&n->session, b, opts, err);
	if (ret == 0 && (n->max_connections < 1 || n->max_connections > CONNECTIONS_MAX))
		ret = err_set(err, EINVAL, "nbd: connections: 1 to %u", CONNECTIONS_MAX);
	n->inverted = n->context != NULL;
	if (ret == 0 && !n->context &&
		!(n->context = strdup(LIBNBD_CONTEXT_BASE_ALLOCATION)))
		ret = no_memory(err);
	return ret;
}

/* ---- connecting, by blocking calls ----------------------------------------------- */

static int failed(const struct nbd *n, const char *what, struct err *err)
{
	const char *why = nbd_get_error();
	int code = nbd_get_errno();

	return err_set(err, code > 0 ? code : EIO, "%s: %s: %s", n->uri, what,
		why ? why : "no reason given");
}

/* A server that takes the connection and then says nothing is not waited for for ever. */
static int shake_hands(struct nbd *n, struct nbd_handle *h, struct err *err)
{
	bool is_path = n->session.b->flags & BLK_O_PATH;
	unsigned wait_ms = is_path ? PATH_CONNECT_MS : CONNECT_MS;
	uint64_t until_ms = clock_ns() / 1000000 + wait_ms, now;

	if (nbd_aio_connect_uri(h, n->uri) < 0)
		return failed(n, "cannot connect", err);
	while (nbd_aio_is_connecting(h) && (now = clock_ns() / 1000000) < until_ms)
		if (nbd_poll(h, (int)(until_ms - now)) < 0)
			return failed(n, "cannot connect", err);
	if (nbd_aio_is_ready(h))
		return 0;
	if (nbd_aio_is_connecting(h))
		return err_set(err, ETIMEDOUT, "%s: no answer for %u seconds", n->uri,
			wait_ms / 1000);
	return err_set(err, EIO, "%s: the server ended the connection", n->uri);
}

static int connect_one(struct nbd *n, struct nbd_handle **out, struct err *err)
{
	struct nbd_handle *h = nbd_create();
	int ret = 0;

	if (!h)
		return failed(n, "cannot connect", err);
	/* The user wrote the URI: names inside images are never URIs. */
	if (nbd_set_uri_allow_local_file(h, true) < 0 ||
		nbd_add_meta_context(h, n->context) < 0 ||
		(n->certificates && nbd_set_tls_certificates(h, n->certificates) < 0) ||
		(n->psk_file && nbd_set_tls_psk_file(h, n->psk_file) < 0) ||
		(n->username && nbd_set_tls_username(h, n->username) < 0))
		ret = failed(n, "cannot connect", err);
	if (ret == 0)
		ret = shake_hands(n, h, err);
	if (ret) {
		nbd_close(h);
		return ret;
	}
	remote_forget_unsent(nbd_aio_get_fd(h));
	setsockopt(nbd_aio_get_fd(h), IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
	*out = h;
	return 0;
}

static int learn(
	struct nbd *n, struct nbd_handle *h, struct nbd_facts *f, struct err *err)
{
	int64_t size = nbd_get_size(h);
	int64_t min = nbd_get_block_size(h, LIBNBD_SIZE_MINIMUM);
	int64_t max = nbd_get_block_size(h, LIBNBD_SIZE_MAXIMUM);

	if (size < 0 || (uint64_t)size > BLK_MAX_SIZE)
		return err_set(err, EFBIG, "%s: the export says its size is %" PRId64,
			n->uri, size);
	*f = (struct nbd_facts){
		.known = true,
		.size = (uint64_t)size,
		.min_block =
			min > 0 && min <= (int64_t)(64 * KiB) && is_pow2((uint64_t)min)
				? (uint32_t)min
				: 1,
		.can_flush = nbd_can_flush(h) > 0,
		.can_fua = nbd_can_fua(h) > 0,
		.can_trim = nbd_can_trim(h) > 0,
		.can_zero = nbd_can_zero(h) > 0,
		.read_only = nbd_is_read_only(h) > 0,
		.can_status = nbd_can_meta_context(h, n->context) > 0,
	};
	f->max_block =
		max > 0 && max < (int64_t)TRANSFER_MAX ? (uint32_t)max : TRANSFER_MAX;
	f->max_block = MAX(f->max_block - f->max_block % f->min_block, f->min_block);
	if (n->inverted && !f->can_status)
		return err_set(err, EINVAL, "%s: the server has no metadata context '%s'",
			n->uri, n->context);
	return 0;
}

/* Facts are read on all loops, and so stay as they were learned first. What comes back under
 * the same name has to be the same disk, and able to do as much. */
static int settle_facts(struct nbd *n, const struct nbd_facts *now, struct err *err)
{
	const struct nbd_facts *was = &n->facts;

	if (!was->known) {
		n->facts = *now;
		return 0;
	}
	if (now->size == was->size && now->min_block <= was->min_block &&
		now->max_block >= was->max_block && now->can_flush >= was->can_flush &&
		now->can_fua >= was->can_fua && now->read_only <= was->read_only)
		return 0;
	return err_set(err, EIO,
		"%s: the export came back as another: %" PRIu64 " bytes, not %" PRIu64,
		n->uri, now->size, was->size);
}

static bool is_dead(const struct connection *c)
{
	return nbd_aio_is_dead(c->h) || nbd_aio_is_closed(c->h);
}

/* Of each connection by itself: what is in flight on one ends when that one does. */
static int fd_of(void *ctx)
{
	struct connection *c = ctx;

	return is_dead(c) ? -1 : nbd_aio_get_fd(c->h);
}

static int events_of(void *ctx)
{
	struct connection *c = ctx;
	unsigned direction = is_dead(c) ? 0 : nbd_aio_get_direction(c->h);

	return (direction & LIBNBD_AIO_DIRECTION_READ ? POLLIN : 0) |
	       (direction & LIBNBD_AIO_DIRECTION_WRITE ? POLLOUT : 0);
}

static void service(void *ctx, int revents)
{
	struct connection *c = ctx;
	struct nbd *n = c->n;
	int events = events_of(c);

	if ((revents & (POLLIN | POLLHUP | POLLERR)) && (events & POLLIN))
		nbd_aio_notify_read(c->h);
	else if ((revents & POLLOUT) && (events & POLLOUT))
		nbd_aio_notify_write(c->h);
	if (is_dead(c)) {
		n->dead = true;
		session_lost(&n->session);
	}
	session_tick(&n->session);
}

static const struct remote_ops remote_ops = {fd_of, events_of, service};

static void node_cut(struct blk *b)
{
	struct nbd *n = nbd_of(b);

	for (unsigned i = 0; i < n->n_connections; i++)
		remote_cut(nbd_aio_get_fd(n->c[i].h));
}

static void node_disconnect(struct blk *b, bool clean)
{
	struct nbd *n = nbd_of(b);

	for (unsigned i = 0; i < n->n_connections; i++) {
		struct connection *c = &n->c[i];

		if (clean && !n->dead) {
			nbd_aio_disconnect(c->h, 0);
			remote_push(&c->remote);
		}
		remote_stop(&c->remote);
		nbd_close(c->h);
	}
	n->n_connections = 0;
}

static int add_connection(struct nbd *n, struct nbd_handle *h, struct err *err)
{
	struct connection *c = &n->c[n->n_connections];

	*c = (struct connection){.h = h, .n = n};
	if (remote_start(&c->remote, &remote_ops, c)) {
		nbd_close(h);
		return no_memory(err);
	}
	n->n_connections++;
	return 0;
}

static int node_connect(struct blk *b, struct err *err)
{
	struct nbd *n = nbd_of(b);
	struct nbd_handle *h = NULL;
	struct err unused = ERR_INIT;
	struct nbd_facts now;
	bool many;
	int ret = connect_one(n, &h, err);

	if (ret)
		return ret;
	n->dead = false;
	n->n_connections = 0;
	ret = learn(n, h, &now, err);
	if (ret == 0)
		ret = settle_facts(n, &now, err);
	if (ret) {
		nbd_close(h);
		return ret;
	}
	many = nbd_can_multi_conn(h) > 0;
	ret = add_connection(n, h, err);
	/* A server may allow fewer than we would like. */
	while (ret == 0 && many && n->n_connections < n->max_connections &&
		connect_one(n, &h, &unused) == 0)
		ret = add_connection(n, h, err);
	if (ret)
		node_disconnect(b, false);
	return ret;
}

/* ---- one command ----------------------------------------------------------------- */

struct command {
	struct waiter done;
	int error; /* errno, 0: done */
	bool reads;
	/* Of a block status. */
	const struct nbd *n;
	uint64_t offset, bytes;
	uint32_t status;
	bool told;
};

static int completed(void *arg, int *error)
{
	struct command *c = arg;
	bool asked_for = c->reads; /* judge_read() */

	c->error = *error;
	waiter_wake(&c->done);
	return !asked_for; /* libnbd forgets it */
}

#define COMPLETED(c) ((nbd_completion_callback){.callback = completed, .user_data = (c)})

static struct connection *least_busy(struct nbd *n)
{
	struct connection *best = &n->c[0];

	for (unsigned i = 1; i < n->n_connections; i++)
		if (n->c[i].in_flight < best->in_flight)
			best = &n->c[i];
	return best;
}

/* Whether the server sent data at all is what libnbd looks at when it is asked, and only then. What did
 * not come of them is zeros. */
static void judge_read(struct connection *x, struct command *c, int64_t cookie)
{
	if (nbd_aio_command_completed(x->h, (uint64_t)cookie) < 0 && !c->error)
		c->error = nbd_get_errno() ? nbd_get_errno() : EIO;
}

/* The end of a command that was started on x. */
static int finish(struct connection *x, struct command *c, int64_t cookie)
{
	struct nbd *n = x->n;

	if (cookie < 0) {
		if (is_dead(x))
			n->dead = true;
		return n->dead ? SESSION_LOST
			       : -(nbd_get_errno() ? nbd_get_errno() : EIO);
	}
	x->in_flight++;
	remote_push(&x->remote);
	waiter_wait(&c->done);
	if (c->reads)
		judge_read(x, c, cookie);
	x->in_flight--;
	if (!c->error)
		return 0;
	/* A broken connection ends what is in flight on it with ENOTCONN. A server that is
	 * being stopped refuses what it has not begun with NBD_ESHUTDOWN, over a connection
	 * that is still to be cut. */
	if (is_dead(x) || c->error == ENOTCONN)
		n->dead = true;
	if (n->dead || c->error == ESHUTDOWN)
		return SESSION_LOST;
	return -c->error;
}

struct transfer {
	uint64_t offset, bytes;
	const struct iovec *iov;
	int niov;
	unsigned flags;
};

static int issue_read(struct blk *b, void *arg)
{
	const struct transfer *t = arg;
	struct nbd *n = nbd_of(b);
	void *flat = t->niov == 1 ? t->iov->iov_base : buf_alloc(t->bytes);
	struct connection *x = least_busy(n);
	struct command c = {.reads = true};
	int ret = flat ? 0 : -ENOMEM;

	waiter_init(&c.done);
	if (ret == 0 && n->dead)
		ret = SESSION_LOST;
	if (ret == 0)
		ret = finish(x, &c,
			nbd_aio_pread(x->h, flat, t->bytes, t->offset, COMPLETED(&c), 0));
	if (t->niov != 1) {
		if (ret == 0)
			iov_from_buf(t->iov, t->niov, 0, flat, t->bytes);
		buf_free(flat);
	}
	return ret;
}

static int issue_write(
	struct blk *b, uint64_t offset, const struct iovec *iov, int niov, unsigned flags)
{
	struct nbd *n = nbd_of(b);
	size_t bytes = iov_bytes(iov, niov);
	uint8_t *copy = niov == 1 ? NULL : buf_alloc(bytes);
	const void *flat = copy ? copy : iov->iov_base;
	struct connection *x = least_busy(n);
	struct command c = {.error = 0};
	int ret;

	if (niov != 1 && !copy)
		return -ENOMEM;
	if (copy)
		iov_to_buf(iov, niov, 0, copy, bytes);
	waiter_init(&c.done);
	ret = n->dead ? SESSION_LOST
		      : finish(x, &c,
				nbd_aio_pwrite(x->h, flat, bytes, offset, COMPLETED(&c),
					flags & BLK_FUA ? LIBNBD_CMD_FLAG_FUA : 0));
	buf_free(copy);
	return ret;
}

static int issue_zero(struct blk *b, uint64_t offset, uint64_t bytes, unsigned flags)
{
	struct nbd *n = nbd_of(b);
	struct connection *x = least_busy(n);
	struct command c = {.error = 0};
	uint32_t nbd_flags = (flags & BLK_FUA ? LIBNBD_CMD_FLAG_FUA : 0) |
			     (flags & BLK_MAY_UNMAP ? 0 : LIBNBD_CMD_FLAG_NO_HOLE);

	if (!n->facts.can_zero)
		return -ENOTSUP;
	waiter_init(&c.done);
	return n->dead ? SESSION_LOST
		       : finish(x, &c,
				 nbd_aio_zero(
					 x->h, bytes, offset, COMPLETED(&c), nbd_flags));
}

static int issue_flush(struct blk *b)
{
	struct nbd *n = nbd_of(b);
	struct connection *x = least_busy(n);
	struct command c = {.error = 0};

	if (!n->facts.can_flush)
		return 0;
	waiter_init(&c.done);
	return n->dead ? SESSION_LOST
		       : finish(x, &c, nbd_aio_flush(x->h, COMPLETED(&c), 0));
}

static int issue_trim(struct blk *b, void *arg)
{
	const struct transfer *t = arg;
	struct nbd *n = nbd_of(b);
	struct connection *x = least_busy(n);
	struct command c = {.error = 0};

	waiter_init(&c.done);
	return n->dead ? SESSION_LOST
		       : finish(x, &c,
				 nbd_aio_trim(
					 x->h, t->bytes, t->offset, COMPLETED(&c), 0));
}

static int node_preadv(
	struct blk *b, uint64_t offset, uint64_t bytes, const struct iovec *iov, int niov)
{
	struct transfer t = {offset, bytes, iov, niov, 0};

	return session_run(&nbd_of(b)->session, issue_read, &t);
}

static int node_pwritev(struct blk *b, uint64_t offset, uint64_t bytes,
	const struct iovec *iov, int niov, unsigned flags)
{
	(void)bytes;
	return session_write(&nbd_of(b)->session, offset, iov, niov, flags);
}

static int node_flush(struct blk *b)
{
	return session_flush(&nbd_of(b)->session);
}

static int node_zero(struct blk *b, uint64_t offset, uint64_t bytes, unsigned flags)
{
	return session_zero(&nbd_of(b)->session, offset, bytes, flags);
}

static int node_discard(struct blk *b, uint64_t offset, uint64_t bytes)
{
	struct transfer t = {.offset = offset, .bytes = bytes};

	return nbd_of(b)->facts.can_trim ? session_change(&nbd_of(b)->session, offset,
						   bytes, issue_trim, &t)
					 : -ENOTSUP;
}

/* ---- extents --------------------------------------------------------------------- */

#define STATE_DIRTY 1u /* of a dirty bitmap's context */

static int extents_told(void *arg, const char *context, uint64_t offset,
	uint32_t *entries, size_t n_entries, int *error)
{
	struct command *c = arg;

	(void)error;
	if (strcmp(context, c->n->context) || offset != c->offset || n_entries < 2)
		return 0;
	c->bytes = entries[0];
	c->status = entries[1];
	/* One extent is answered at a time; what goes on like it belongs to it. */
	for (size_t i = 2; i + 1 < n_entries && entries[i + 1] == c->status; i += 2)
		c->bytes += entries[i];
	c->told = true;
	return 0;
}

static int issue_status(struct blk *b, void *arg)
{
	struct command *c = arg;
	struct nbd *n = nbd_of(b);
	struct connection *x = least_busy(n);
	nbd_extent_callback extents = {.callback = extents_told, .user_data = c};
	uint64_t bytes = c->bytes;
	int ret;

	waiter_init(&c->done);
	c->n = n;
	c->told = false;
	c->error = 0;
	ret = n->dead ? SESSION_LOST
		      : finish(x, c,
				nbd_aio_block_status(x->h, bytes, c->offset, extents,
					COMPLETED(c), 0));
	if (ret == SESSION_LOST)
		c->bytes = bytes;
	return ret ? ret : c->told && c->bytes ? 0 : -EIO;
}

static unsigned status_flags(const struct nbd *n, uint32_t status)
{
	if (n->inverted)
		return status & STATE_DIRTY ? BLK_EXT_DATA : BLK_EXT_ZERO;
	return (status & LIBNBD_STATE_HOLE ? 0u : BLK_EXT_DATA) |
	       (status & LIBNBD_STATE_ZERO ? BLK_EXT_ZERO : 0u);
}

/* An extent that ends within a block, as some servers tell at the end of an image, is cut to
 * whole ones, and a block that is not of one kind is data. */
static void settle_status(const struct nbd *n, struct command *c)
{
	c->bytes = round_down(c->bytes, n->facts.min_block);
	if (c->bytes)
		return;
	c->bytes = n->facts.min_block;
	c->status = n->inverted ? STATE_DIRTY : 0;
}

static int node_extent(
	struct blk *b, uint64_t offset, uint64_t bytes, struct blk_extent *out)
{
	struct nbd *n = nbd_of(b);
	struct command c = {.offset = round_down(offset, n->facts.min_block),
		.bytes = MIN(bytes, (uint64_t)ZERO_MAX)};
	int ret;

	out->bytes = bytes;
	out->flags = BLK_EXT_DATA;
	if (n->facts.can_status) {
		ret = session_run(&n->session, issue_status, &c);
		if (ret)
			return ret;
		settle_status(n, &c);
		out->bytes = MIN(c.bytes - (offset - c.offset), bytes);
		out->flags = status_flags(n, c.status);
	}
	out->flags |= BLK_EXT_ALLOCATED | BLK_EXT_HOST;
	out->host = b;
	out->host_offset = offset;
	return 0;
}

/* The protocol has no request for it. */
static int node_resize(
	struct blk *b, uint64_t bytes, enum blk_prealloc prealloc, struct err *err)
{
	struct nbd *n = nbd_of(b);

	if (prealloc != BLK_PREALLOC_OFF)
		return err_set(err, ENOTSUP, "Unsupported preallocation mode: %s",
			blk_prealloc_names[prealloc]);
	if (bytes > n->facts.size)
		return err_set(err, EINVAL,
			"Cannot grow the export: it has %" PRIu64
			" bytes, and its size is set at the server",
			n->facts.size);
	return 0;
}

static void node_note_loss(struct blk *b)
{
	session_note_loss(&nbd_of(b)->session);
}

static const struct blk_storage_ops storage_ops = {
	.note_loss = node_note_loss,
};

/* ---- open and close -------------------------------------------------------------- */

static const struct session_ops session_ops = {
	.connect = node_connect,
	.disconnect = node_disconnect,
	.cut = node_cut,
	.write = issue_write,
	.zero = issue_zero,
	.flush = issue_flush,
};

static int node_close(struct blk *b)
{
	struct nbd *n = nbd_of(b);

	session_close(&n->session);
	free(n->uri);
	free(n->certificates);
	free(n->psk_file);
	free(n->username);
	free(n->context);
	return 0;
}

static int node_open(struct blk *b, struct opts *opts, struct err *err)
{
	struct nbd *n = nbd_of(b);
	int ret = take_options(b, opts, err);

	if (ret == 0)
		ret = session_open(&n->session, b, &session_ops, err);
	if (ret == 0 && n->facts.read_only && (b->flags & BLK_O_RDWR))
		ret = err_set(err, EACCES, "%s: the export is read-only", n->uri);
	if (ret) {
		node_close(b);
		return ret;
	}
	b->size = n->facts.size;
	b->limits.request_align = n->facts.min_block;
	b->limits.max_transfer = n->facts.max_block;
	b->limits.max_discard = ZERO_MAX;
	b->caps |= BLK_CAP_SERIALISE;
	if (n->facts.can_fua)
		b->caps |= BLK_CAP_FUA;
	return 0;
}

static const struct blk_create_opt create_opts[] = {
	{"size", "size", "Virtual disk size", NULL},
	{NULL, NULL, NULL, NULL},
};

static int node_create(
	const char *filename, struct blk *file, struct opts *opts, struct err *err)
{
	(void)file;
	return blk_create_on_device(filename, opts, err);
}

static const struct blk_format_ops format_ops = {
	.create_opts = create_opts,
	.create = node_create,
};

static const char *const schemes[] = {"nbd", "nbd+unix", "nbds", "nbds+unix", NULL};

const struct blk_driver blk_nbd_driver = {
	.name = "nbd",
	.kind = BLK_PROTOCOL,
	.schemes = schemes,
	.state_bytes = sizeof(struct nbd),
	.parse_name = node_parse_name,
	.open = node_open,
	.close = node_close,
	.preadv = node_preadv,
	.pwritev = node_pwritev,
	.flush = node_flush,
	.zero = node_zero,
	.discard = node_discard,
	.extent = node_extent,
	.resize = node_resize,
	.format = &format_ops,
	.storage = &storage_ops,
};

#endif
