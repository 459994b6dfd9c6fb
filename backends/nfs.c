/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * nfs://server/export/file: images on an NFS server, versions 3 and 4, by libnfs and so
 * without a mount and without root.
 *
 * The URL's arguments are libnfs's (version=, nfsport=, mountport=, uid=, gid=, readahead=,
 * ...); one that libnfs does not know is an error here and not ignored.
 *
 * Writes are unstable ones (RFC 1813, 3.3.7) until a flush commits them. A server that
 * starts anew loses them, and its connections with them: the session (session.h) keeps
 * them until they are committed, and writes them again over the next connection. libnfs's own
 * reconnecting, which cannot do that, is off.
 *
 * Requests are one call each of at most what the server takes at once. While a connection
 * is made, libnfs's blocking calls are used: no request is in flight then, and the home
 * loop is the node's own.
 */
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/time.h>

#include <nfsc/libnfs.h>

#include "backends/session.h"
#include "base/iov.h"
#include "base/json.h"
#include "base/math.h"
#include "block/format.h"
#include "block/storage.h"

#define TRANSFER_MAX    (1 * MiB)
#define WRITE_LEAST     512
#define LATER_NS        100000000
#define CONNECT_MS      10000 /* an answer to one of the blocking calls */
#define PATH_CONNECT_MS 4000  /* where there may be another path */
#define SYN_COUNT                                                                        \
	3 /* of a connection that is not answered: some seven seconds; of a path three */

struct nfs {
	struct session session;
	char *url;
	bool writable, known;
	uint64_t fsid, inode;
	uint64_t changed_ns, bytes; /* as it was looked at last */

	/* Home loop; valid while the session is connected. */
	struct remote remote;
	struct nfs_context *ctx;
	struct nfsfh *fh;
	bool dead;
	uint32_t transfer_bytes,
		write_bytes; /* of a request; of what libnfs takes at once */
};

static struct nfs *nfs_of(const struct blk *b)
{
	return b->state;
}

/* ---- the URL --------------------------------------------------------------------- */

static const char *const url_arguments[] = {"version", "nfsport", "mountport", "uid",
	"gid", "readahead", "tcp-syncnt", "auto-traverse-mounts", "dircache", "if",
	"debug", "sec", "pagecache", "timeo", "retrans", NULL};

static bool is_known_argument(const char *name, size_t len)
{
	for (size_t i = 0; url_arguments[i]; i++)
		if (strlen(url_arguments[i]) == len &&
			!strncmp(url_arguments[i], name, len))
			return true;
	return false;
}

static int check_url(const char *url, struct err *err)
{
	const char *at = strchr(url, '?');

	while (at && *++at) {
		size_t len = strcspn(at, "=&");

		if (!is_known_argument(at, len))
			return err_set(err, EINVAL, "%s: unknown URL argument '%.*s'",
				url, (int)len, at);
		at = strchr(at, '&');
	}
	return 0;
}

/* server.host= and path=, as the peer has them, make a URL too. */
static int take_url(struct opts *opts, char **url, struct err *err)
{
	const char *name = opts_take(opts, "filename"),
		   *host = opts_take(opts, "server.host");
	const char *path = opts_take(opts, "path"), *user = opts_take(opts, "user");
	const char *group = opts_take(opts, "group"),
		   *type = opts_take(opts, "server.type");

	if (type && strcmp(type, "inet"))
		return err_set(err, EINVAL, "nfs: server.type '%s' is not 'inet'", type);
	if (name && (host || path || user || group))
		return err_set(err, EINVAL, "nfs: a URL and its parts were given");
	if (name)
		return (*url = strdup(name)) ? 0 : err_errno(err, ENOMEM, "nfs");
	if (!host || !path || path[0] != '/')
		return err_set(err, EINVAL, "nfs: no URL, and no server.host and path");
	if (asprintf(url, "nfs://%s%s%s%s%s%s", host, path, user ? "?uid=" : "",
		    user ? user : "", group ? (user ? "&gid=" : "?gid=") : "",
		    group ? group : "") < 0) {
		*url = NULL;
		return err_errno(err, ENOMEM, "nfs");
	}
	return 0;
}

/* ---- connecting, by blocking calls ----------------------------------------------- */

static int failed(struct nfs_context *ctx, const char *url, int ret, const char *what,
	struct err *err)
{
	const char *why = nfs_get_error(ctx);
	int code = ret < 0 && ret > -4096 ? -ret : EIO;

	/* What a broken or refused connection gives is no errno of its own. */
	if (code == EFAULT || code == EINTR)
		code = EIO;
	return err_set(
		err, code, "%s: %s: %s", url, what, why && *why ? why : strerror(code));
}

/* A context with the export mounted, and in *path the file in it. */
static int mount_export(const char *url, bool is_path, struct nfs_context **out,
	char **path, struct err *err)
{
	struct nfs_context *ctx = nfs_init_context();
	struct nfs_url *parsed = NULL;
	int ret;

	if (!ctx)
		return err_errno(err, ENOMEM, "%s", url);
	nfs_set_tcp_syncnt(ctx, is_path ? 1 : SYN_COUNT);
	parsed = nfs_parse_url_full(ctx, url);
	if (!parsed) {
		ret = failed(ctx, url, -EINVAL, "not an NFS URL", err);
		goto out;
	}
	nfs_set_autoreconnect(ctx, 0);
	nfs_set_timeout(ctx, is_path ? PATH_CONNECT_MS : CONNECT_MS);
	ret = nfs_mount(ctx, parsed->server, parsed->path);
	if (ret < 0) {
		ret = failed(ctx, url, ret, "cannot mount", err);
		goto out;
	}
	*path = strdup(parsed->file);
	ret = *path ? 0 : err_errno(err, ENOMEM, "%s", url);
out:
	if (parsed)
		nfs_destroy_url(parsed);
	if (ret)
		nfs_destroy_context(ctx);
	else
		*out = ctx;
	return ret;
}

/* What comes back under the same name has to be the same file: nothing is written to
 * another. */
static int look_at_file(struct nfs *n, struct nfs_context *ctx, struct nfsfh *fh,
	uint64_t *size, struct err *err)
{
	struct nfs_stat_64 st;
	int ret = nfs_fstat64(ctx, fh, &st);

	if (ret < 0)
		return failed(ctx, n->url, ret, "cannot look at it", err);
	if (!S_ISREG(st.nfs_mode))
		return err_set(err, EINVAL, "%s: not a regular file", n->url);
	if (st.nfs_size > BLK_MAX_SIZE)
		return err_set(err, EFBIG, "%s: the file is too large (%llu bytes)",
			n->url, (unsigned long long)st.nfs_size);
	if (n->known && (n->inode != st.nfs_ino || n->fsid != st.nfs_dev))
		return err_set(
			err, ESTALE, "%s: another file has taken its name", n->url);
	n->inode = st.nfs_ino;
	n->fsid = st.nfs_dev;
	n->changed_ns = st.nfs_ctime * 1000000000ull + st.nfs_ctime_nsec;
	n->bytes = st.nfs_size;
	*size = st.nfs_size;
	return 0;
}

static int fd_of(void *ctx)
{
	struct nfs *n = ctx;

	return n->dead ? -1 : nfs_get_fd(n->ctx);
}

static int events_of(void *ctx)
{
	struct nfs *n = ctx;

	return n->dead ? 0 : nfs_which_events(n->ctx);
}

static void service(void *ctx, int revents)
{
	struct nfs *n = ctx;

	if (!n->dead && nfs_service(n->ctx, revents) < 0)
		n->dead = true;
	if (n->dead) {
		remote_abandon(&n->remote);
		session_lost(&n->session);
	}
	session_tick(&n->session);
}

static const struct remote_ops remote_ops = {fd_of, events_of, service};

static int node_connect(struct blk *b, struct err *err)
{
	struct nfs *n = nfs_of(b);
	uint64_t size = 0, most;
	char *path;
	int ret = mount_export(n->url, b->flags & BLK_O_PATH, &n->ctx, &path, err);

	if (ret)
		return ret;
	n->fh = NULL;
	n->dead = false;
	ret = nfs_open(n->ctx, path, n->writable ? O_RDWR : O_RDONLY, &n->fh);
	free(path);
	ret = ret < 0 ? failed(n->ctx, n->url, ret, "cannot open", err)
		      : look_at_file(n, n->ctx, n->fh, &size, err);
	if (ret == 0 && remote_start(&n->remote, &remote_ops, n))
		ret = err_errno(err, ENOMEM, "%s", n->url);
	if (ret) {
		nfs_destroy_context(n->ctx);
		return ret;
	}
	if (!n->known)
		b->size = size;
	n->known = true;
	/* libnfs knows neither for version 4. */
	most = MIN(nfs_get_readmax(n->ctx), nfs_get_writemax(n->ctx));
	n->transfer_bytes =
		most ? (uint32_t)MIN(most, (uint64_t)TRANSFER_MAX) : TRANSFER_MAX;
	n->write_bytes = n->transfer_bytes;
	remote_forget_unsent(nfs_get_fd(n->ctx));
	nfs_set_timeout(n->ctx, -1); /* the session has its own */
	return 0;
}

/* ---- one call -------------------------------------------------------------------- */

struct call {
	struct remote_wait wait; /* first */
	int ret;                 /* as libnfs tells it */
	const struct iovec *iov; /* of a read */
	int niov;
	size_t room;
	struct nfs_stat_64 *st;
};

static struct call *call_new(struct nfs *n, const struct call *like)
{
	struct call *c = malloc(sizeof(*c));

	if (c) {
		*c = *like;
		remote_wait_begin(&n->remote, &c->wait);
	}
	return c;
}

static bool names_one_of(const char *why, const char *const *names)
{
	while (*names && !strstr(why, *names))
		names++;
	return *names;
}

/* "NFS: Write failed with NFS3ERR_NOSPC(-28)". */
static int errno_in_words(const char *why)
{
	const char *name = strstr(why, "NFS3ERR_");
	const char *number = name ? strchr(name, '(') : NULL;
	long code = number ? strtol(number + 1, NULL, 10) : 0;

	return code < 0 && code > -4096 && code != -ERANGE ? (int)code : -EIO;
}

/* libnfs has no errno for many codes (-EFAULT, -ERANGE), and tells in words what it was. A
 * server that no longer knows the client, or that it has the file open, is connected to anew
 * (RFC 7530, 9.6.2 and 9.6.3); one that will answer later is asked again later. */
static int judge(struct nfs_context *ctx, int ret)
{
	static const char *const forgotten[] = {"NFS4ERR_EXPIRED", "NFS4ERR_BAD_STATEID",
		"NFS4ERR_STALE_STATEID", "NFS4ERR_OLD_STATEID", "NFS4ERR_STALE_CLIENTID",
		"NFS4ERR_ADMIN_REVOKED", NULL};
	static const char *const later[] = {
		"NFS3ERR_JUKEBOX", "NFS4ERR_DELAY", "NFS4ERR_GRACE", NULL};
	const char *why =
		nfs_get_error(ctx); /* a callback's data is none with version 3 */

	if (why && names_one_of(why, forgotten))
		return SESSION_LOST;
	if (why && names_one_of(why, later))
		return -EAGAIN;
	if (ret == -EFAULT || ret == -ERANGE)
		return why ? errno_in_words(why) : -EIO;
	return ret;
}

static void called(int ret, struct nfs_context *ctx, void *data, void *arg)
{
	struct call *c = arg;

	if (!remote_is_wanted(&c->wait)) {
		free(c);
		return;
	}
	c->ret = ret < 0 ? judge(ctx, ret) : ret;
	if (ret > 0 && c->iov)
		iov_from_buf(c->iov, c->niov, 0, data, MIN((size_t)ret, c->room));
	if (ret == 0 && c->st)
		*c->st = *(struct nfs_stat_64 *)data;
	remote_answer(&c->wait);
}

/* The end of a call that was started with `started`. */
static int finish(struct nfs *n, struct call *c, int started)
{
	int ret;

	if (started != 0) {
		remote_wait_cancel(&c->wait);
		free(c);
		return n->dead ? SESSION_LOST : -ENOMEM;
	}
	remote_push(&n->remote);
	if (!remote_wait_end(&c->wait))
		return SESSION_LOST;
	ret = c->ret;
	free(c);
	return ret < 0 && n->dead ? SESSION_LOST : ret;
}

/* Makes one call with a struct call as given, and waits for it. */
#define CALL_ONCE(n, like, function, ...)                                                \
	({                                                                               \
		struct call *call_c = (n)->dead ? NULL : call_new(n, &(like));           \
		int call_ret = (n)->dead ? SESSION_LOST : -ENOMEM;                       \
		if (call_c)                                                              \
			call_ret = finish(n, call_c,                                     \
				function((n)->ctx, __VA_ARGS__, called, call_c));        \
		call_ret;                                                                \
	})

/* The same until the server has time for it, or the session for no more of that. */
#define CALL(...)                                                                        \
	({                                                                               \
		int call_made;                                                           \
		while ((call_made = CALL_ONCE(__VA_ARGS__)) == -EAGAIN)                  \
			task_sleep_ns(LATER_NS);                                         \
		call_made;                                                               \
	})

static void node_disconnect(struct blk *b, bool clean)
{
	struct nfs *n = nfs_of(b);
	struct call c = {.ret = 0};

	if (clean && !n->dead)
		CALL_ONCE(n, c, nfs_close_async, n->fh); /* which frees it */
	remote_stop(&n->remote);
	nfs_destroy_context(n->ctx);
	n->ctx = NULL;
}

static void node_cut(struct blk *b)
{
	remote_cut(fd_of(nfs_of(b)));
}

/* ---- requests -------------------------------------------------------------------- */

struct transfer {
	uint64_t offset, bytes;
	const struct iovec *iov;
	int niov;
};

/* What of the vector is still to be filled. */
static int read_rest(struct nfs *n, struct transfer *t, uint64_t pos)
{
	struct iovec *iov = malloc(t->niov * sizeof(*iov));
	struct call c = {.iov = iov, .room = t->bytes - pos};
	int ret = -ENOMEM;

	if (iov) {
		c.niov = iov_slice(iov, t->iov, t->niov, pos, c.room);
		ret = CALL(n, c, nfs_pread_async, n->fh, t->offset + pos, c.room);
	}
	free(iov);
	return ret;
}

/* A server may answer with less than was asked for; with nothing where the file has
 * ended. */
static int issue_read(struct blk *b, void *arg)
{
	struct transfer *t = arg;
	struct nfs *n = nfs_of(b);
	struct call c = {.iov = t->iov, .niov = t->niov, .room = t->bytes};
	int ret = CALL(n, c, nfs_pread_async, n->fh, t->offset, t->bytes);
	uint64_t done = 0;

	while (ret > 0 && (done += ret) < t->bytes)
		ret = read_rest(n, t, done);
	if (ret == 0)
		iov_fill(t->iov, t->niov, done, 0, t->bytes - done);
	return ret < 0 ? ret : 0;
}

static int node_preadv(
	struct blk *b, uint64_t offset, uint64_t bytes, const struct iovec *iov, int niov)
{
	struct transfer t = {offset, bytes, iov, niov};

	return session_run(&nfs_of(b)->session, issue_read, &t);
}

/* libnfs 4 has room for some 2 KiB in a write of version 4, and says so by failing. */
static int write_some(struct nfs *n, uint64_t offset, const uint8_t *buf, size_t bytes)
{
	for (;;) {
		size_t step = MIN(bytes, (size_t)n->write_bytes);
		struct call c = {.ret = 0};
		int ret = CALL(n, c, nfs_pwrite_async, n->fh, offset, step,
			(void *)(uintptr_t)buf);

		if (ret > 0 && (size_t)ret > step)
			return -EIO; /* a server that has more than it was sent */
		if (ret != -ENOMEM || step <= WRITE_LEAST)
			return ret;
		n->write_bytes = step / 2;
	}
}

static int write_flat(struct nfs *n, uint64_t offset, const uint8_t *buf, size_t bytes)
{
	while (bytes) {
		int ret = write_some(n, offset, buf, bytes);

		if (ret <= 0)
			return ret ? ret : -EIO;
		offset += ret;
		buf += ret;
		bytes -= ret;
	}
	return 0;
}

static int issue_write(
	struct blk *b, uint64_t offset, const struct iovec *iov, int niov, unsigned flags)
{
	struct nfs *n = nfs_of(b);
	size_t bytes = iov_bytes(iov, niov);
	uint8_t *flat = NULL;
	int ret;

	(void)flags;
	if (niov == 1)
		return write_flat(n, offset, iov->iov_base, bytes);
	flat = buf_alloc(bytes);
	if (!flat)
		return -ENOMEM;
	iov_to_buf(iov, niov, 0, flat, bytes);
	ret = write_flat(n, offset, flat, bytes);
	buf_free(flat);
	return ret;
}

static int node_pwritev(struct blk *b, uint64_t offset, uint64_t bytes,
	const struct iovec *iov, int niov, unsigned flags)
{
	int ret = session_write(&nfs_of(b)->session, offset, iov, niov, flags);

	if (ret == 0 && offset + bytes > blk_size(b))
		blk_raise_size(b, offset + bytes);
	return ret;
}

static int issue_flush(struct blk *b)
{
	struct call c = {.ret = 0};

	return CALL(nfs_of(b), c, nfs_fsync_async, nfs_of(b)->fh);
}

/* A server of version 4 forgets a client that has been silent for a lease, and with it that the
 * file is open (RFC 7530, 9.5); reading renews it, libnfs does not. One of version 3 does
 * not mind. */
static int issue_renewal(struct blk *b)
{
	uint8_t byte;
	const struct iovec iov = {&byte, 1};
	struct call c = {.iov = &iov, .niov = 1, .room = 1};

	return CALL_ONCE(nfs_of(b), c, nfs_pread_async, nfs_of(b)->fh, 0, 1);
}

static int node_flush(struct blk *b)
{
	return session_flush(&nfs_of(b)->session);
}

static int issue_stat(struct blk *b, void *arg)
{
	struct call c = {.st = arg};

	return CALL(nfs_of(b), c, nfs_fstat64_async, nfs_of(b)->fh);
}

static int64_t node_allocated(struct blk *b)
{
	struct nfs_stat_64 st;
	int ret = session_run(&nfs_of(b)->session, issue_stat, &st);

	return ret < 0 ? ret : (int64_t)st.nfs_used;
}

static int issue_truncate(struct blk *b, void *arg)
{
	const uint64_t *bytes = arg;
	struct call c = {.ret = 0};

	return CALL(nfs_of(b), c, nfs_ftruncate_async, nfs_of(b)->fh, *bytes);
}

static int node_resize(
	struct blk *b, uint64_t bytes, enum blk_prealloc prealloc, struct err *err)
{
	struct nfs *n = nfs_of(b);
	int ret;

	if (prealloc != BLK_PREALLOC_OFF)
		return err_set(err, ENOTSUP, "Unsupported preallocation mode: %s",
			blk_prealloc_names[prealloc]);
	/* Kept writes past a new end would make the file longer again. */
	ret = session_flush(&n->session);
	if (ret == 0)
		ret = session_change(
			&n->session, bytes, UINT64_MAX - bytes, issue_truncate, &bytes);
	if (ret)
		return err_errno(err, -ret, "Failed to resize '%s'", n->url);
	blk_set_size(b, bytes);
	return 0;
}

/* ---- open and close -------------------------------------------------------------- */

static const struct session_ops session_ops = {
	.connect = node_connect,
	.disconnect = node_disconnect,
	.cut = node_cut,
	.write = issue_write,
	.flush = issue_flush,
	.renew = issue_renewal,
};

static int node_close(struct blk *b)
{
	struct nfs *n = nfs_of(b);

	session_close(&n->session);
	free(n->url);
	return 0;
}

static int node_open(struct blk *b, struct opts *opts, struct err *err)
{
	struct nfs *n = nfs_of(b);
	int ret = take_url(opts, &n->url, err);

	if (ret == 0)
		ret = check_url(n->url, err);
	if (ret == 0)
		ret = session_options(&n->session, b, opts, err);
	n->writable = b->flags & BLK_O_RDWR;
	if (ret == 0)
		ret = session_open(&n->session, b, &session_ops, err);
	if (ret) {
		node_close(b);
		return ret;
	}
	b->limits.max_transfer = n->transfer_bytes;
	b->caps |= BLK_CAP_GROW | BLK_CAP_ZERO_INIT | BLK_CAP_SERIALISE;
	return 0;
}

/* ---- what the server tells -------------------------------------------------------- */

/* The file system's ID and the file's in it: the same by every address of a server, and by
 * every server that says that it has the same file system. */
static int node_identity(struct blk *b, char **out)
{
	const struct nfs *n = nfs_of(b);

	if (asprintf(out, "nfs:%llx:%llx", (unsigned long long)n->fsid,
		    (unsigned long long)n->inode) < 0)
		return -ENOMEM;
	return 0;
}

/* Administrators number file systems (fsid=), those of two servers alike. */
static bool node_is_same(const struct blk *a, const struct blk *b)
{
	const struct nfs *x = nfs_of(a), *y = nfs_of(b);

	return x->changed_ns == y->changed_ns && x->bytes == y->bytes;
}

static int node_check_path(struct blk *b, unsigned *priority)
{
	struct nfs_stat_64 st;
	int ret = session_run(&nfs_of(b)->session, issue_stat, &st);

	*priority = BLK_PATH_OPTIMIZED;
	return ret < 0 ? ret : 0;
}

static void node_describe(struct blk *b, struct json *facts)
{
	char *identity = NULL;

	if (node_identity(b, &identity) == 0)
		json_put_string(facts, "identity", identity);
	free(identity);
	json_put_int(facts, "max-transfer", b->limits.max_transfer);
}

static void node_note_loss(struct blk *b)
{
	session_note_loss(&nfs_of(b)->session);
}

static const struct blk_storage_ops storage_ops = {
	.identity = node_identity,
	.is_same = node_is_same,
	.describe = node_describe,
	.check_path = node_check_path,
	.note_loss = node_note_loss,
};

/* ---- create ---------------------------------------------------------------------- */

static int make_file(struct nfs_context *ctx, const char *url, const char *path,
	uint64_t bytes, struct err *err)
{
	struct nfsfh *fh;
	bool made = true;
	int ret = nfs_open2(ctx, path, O_RDWR | O_CREAT | O_EXCL, 0644, &fh);

	if (ret == -EEXIST) {
		made = false;
		ret = nfs_open(ctx, path, O_RDWR, &fh);
	}
	if (ret < 0)
		return failed(ctx, url, ret, "cannot create", err);
	ret = nfs_ftruncate(ctx, fh, 0);
	if (ret == 0)
		ret = nfs_ftruncate(ctx, fh, bytes);
	if (ret == 0)
		ret = nfs_fsync(ctx, fh);
	if (ret < 0)
		failed(ctx, url, ret, "cannot create", err);
	nfs_close(ctx, fh);
	if (ret < 0 && made)
		nfs_unlink(ctx, path);
	return ret < 0 ? -err->code : 0;
}

static int node_create(
	const char *filename, struct blk *file, struct opts *opts, struct err *err)
{
	struct nfs_context *ctx;
	uint64_t bytes = 0;
	char *path;
	int ret = opts_take_size(opts, "size", &bytes, err);

	(void)file;
	if (ret == 0)
		ret = check_url(filename, err);
	if (ret == 0)
		ret = mount_export(filename, false, &ctx, &path, err);
	if (ret)
		return ret;
	ret = make_file(ctx, filename, path, bytes, err);
	free(path);
	nfs_destroy_context(ctx);
	return ret;
}

static int node_remove(const char *filename)
{
	struct err err = ERR_INIT;
	struct nfs_context *ctx;
	char *path;
	int ret = mount_export(filename, false, &ctx, &path, &err);

	if (ret)
		return ret;
	ret = nfs_unlink(ctx, path);
	free(path);
	nfs_destroy_context(ctx);
	return ret < 0 ? -EIO : 0;
}

static int node_parse_name(const char *name, struct opts *opts, struct err *err)
{
	(void)err;
	opts_set(opts, "filename", name);
	return 0;
}

static const struct blk_create_opt node_create_opts[] = {
	{"size", "size", "Virtual disk size", NULL},
	{NULL, NULL, NULL, NULL},
};

static const struct blk_format_ops node_format_ops = {
	.create_opts = node_create_opts,
	.create = node_create,
	.remove = node_remove,
};

static const char *const node_schemes[] = {"nfs", NULL};

const struct blk_driver blk_nfs_driver = {
	.name = "nfs",
	.kind = BLK_PROTOCOL,
	.schemes = node_schemes,
	.state_bytes = sizeof(struct nfs),
	.parse_name = node_parse_name,
	.open = node_open,
	.close = node_close,
	.preadv = node_preadv,
	.pwritev = node_pwritev,
	.flush = node_flush,
	.resize = node_resize,
	.allocated = node_allocated,
	.format = &node_format_ops,
	.storage = &storage_ops,
};
