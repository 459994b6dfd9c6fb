/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * smb://[domain;][user@]host[:port]/share/file[?arguments]: images on an SMB server,
 * dialects 2.02 to 3.1.1, by libsmb2 and so without a mount and without root.
 *
 * The URL's arguments are libsmb2's sec=, vers=, seal and sign, and password-secret=, which
 * names a secret; one that is neither is an error here. A password in the URL is one too.
 *
 * A flush is SMB2 FLUSH: the server writes the file to stable storage (MS-SMB2, 3.3.5.11).
 * What it had only acknowledged before it was started anew is lost, and with it the
 * connection: the session (session.h) writes it again over the next one. A server that has
 * forgotten the share, the user or the open file counts as a lost connection.
 *
 * libsmb2 (6.2) sets the rules of the rest:
 *
 * 1. Contexts are in a list of the whole process, which it does not lock: making and
 *    destroying one takes context_lock.
 * 2. It takes what credits it has for the size of a read or write, and where it has none
 *    sends one of no bytes, for which some servers end the connection. So at most
 *    CREDITS_IN_USE are in use, fewer than any usual server grants. An answer of no bytes
 *    before the file's end, and a connection that breaks soon, are taken for a server that
 *    grants fewer yet: half as many are used from then on.
 * 3. A flush's callback is kept in the file handle: one flush at a time.
 * 4. Buffers are filled and sent where they are, but only while the context is served:
 *    once the connection is given up it is not, and callers have theirs back.
 *
 * Image locks are share modes (MS-SMB2, 2.2.13: ShareAccess), which libsmb2 can ask for where
 * it has no call for byte ranges. The server refuses who does what another has not shared,
 * whoever that is, and forgets all of it with the connection: so who writes alone leaves a
 * note beside the image (lockowner.h), and a new connection goes on only where it is still
 * there. Whoever else had the image meanwhile has put another in its place.
 *
 * While a connection is made it is served right here, without the loop: no request is in
 * flight then, and the home loop is the node's own.
 */
#ifdef HAVE_LIBSMB2
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <smb2/smb2.h>

#include <smb2/libsmb2.h>

#include <smb2/libsmb2-raw.h>

#include "backends/session.h"
#include "base/endian.h"
#include "base/iov.h"
#include "base/json.h"
#include "base/log.h"
#include "base/math.h"
#include "block/format.h"
#include "block/imglock.h"
#include "block/lockowner.h"
#include "block/secret.h"
#include "block/storage.h"

#define TRANSFER_MAX                   (1 * MiB)
#define CREDIT_BYTES                   (64 * KiB) /* of a transfer, for one credit */
#define CREDITS_IN_USE                 64u
#define SOON                           256            /* transfers */
#define CONNECT_NS                     10000000000ull /* an answer, while connecting */
#define KNOCK_MS                       4000           /* two SYNs sent again */
#define AGAIN_MS                       50
#define AGAIN_TIMES                    10
#define INFO_BYTES                     4096
#define STATUS_NETWORK_SESSION_EXPIRED 0xC000035C /* MS-ERREF; nameless in libsmb2 */

/* Where an image is, and as whom. */
struct place {
	char *shown; /* as it was given; no password is in it */
	char *base;  /* the URL up to its arguments */
	char *args;  /* those of libsmb2's, each with an '&' after it */
	char *user, *domain, *password;
	uint64_t port;            /* 0: the URL's */
	bool sign, seal, secured; /* the last: sec= was given */
};

/* A connection. Whoever made it serves it until remote_start. */
struct link {
	struct smb2_context *ctx;
	struct remote remote;
	bool dead, started;
};

/* MS-SMB2, 2.2.14.2.9. */
struct disk_id {
	uint64_t file, volume;
	bool known;
};

/* The two ends of a connection; no length: not known. */
struct ends {
	struct sockaddr_storage here, there;
	socklen_t here_len, there_len;
};

struct facts {
	uint16_t dialect;
	uint32_t max_read, max_write;
};

struct smb {
	struct session session;
	struct place place;
	bool writable, locking, known;
	uint64_t written_us; /* when the file was, last, as it was opened */
	bool kept_out; /* since then nobody writes but who gets in while our lock is gone */
	bool taken; /* others may have written to the file: nothing is done to it any more */
	uint64_t index; /* of the file in its file system */
	struct disk_id id;
	struct facts facts; /* as learned first: read on all loops */

	/* Home loop; valid while the session is connected. */
	struct link link;
	struct ends ends; /* of this connection, or the one before */
	char *path;       /* in the share */
	uint32_t share;
	char *note; /* of our lock, as it lies beside the image; NULL: none */
	smb2_file_id file;
	struct smb2fh *fh;
	uint32_t transfer_bytes;

	struct task_mutex flushing;
	struct task_mutex turn, credit_lock; /* in this order */
	struct task_cond credit_freed;
	unsigned credits_used, credit_limit;
	unsigned transfers; /* answered on this connection */
};

static struct smb *smb_of(const struct blk *b)
{
	return b->state;
}

/* ---- where and as whom ----------------------------------------------------------- */

static void wipe(char *secret)
{
	if (secret)
		explicit_bzero(secret, strlen(secret));
	free(secret);
}

static void place_free(struct place *p)
{
	free(p->shown);
	free(p->base);
	free(p->args);
	free(p->user);
	free(p->domain);
	wipe(p->password);
	*p = (struct place){0};
}

static int no_memory(struct err *err)
{
	return err_errno(err, ENOMEM, "smb");
}

static int find_password(struct place *p, const char *id, size_t id_len, struct err *err)
{
	char *name = strndup(id, id_len);
	const void *data;
	size_t bytes;
	int ret = name ? secret_find(name, &data, &bytes, err) : no_memory(err);

	free(name);
	if (ret)
		return ret;
	wipe(p->password);
	p->password = strndup(data, bytes);
	return p->password ? 0 : no_memory(err);
}

static bool is_word(const char *at, size_t len, const char *word)
{
	return strlen(word) == len && !strncmp(at, word, len);
}

/* One argument "name[=value]" of the URL. */
static int take_argument(struct place *p, const char *at, size_t len, struct err *err)
{
	size_t name = MIN(strcspn(at, "="), len);
	bool valued = name < len;

	if (is_word(at, name, "password-secret") && valued)
		return find_password(p, at + name + 1, len - name - 1, err);
	if (is_word(at, name, "seal") && !valued)
		p->seal = true;
	else if (is_word(at, name, "sign") && !valued)
		p->sign = true;
	else if ((is_word(at, name, "sec") || is_word(at, name, "vers")) && valued)
		strcat(strncat(p->args, at, len), "&");
	else
		return err_set(err, EINVAL, "%s: unknown URL argument '%.*s'", p->shown,
			(int)len, at);
	p->secured |= is_word(at, name, "sec");
	return 0;
}

/* libsmb2 would take "user:password@" for the user's name, and show it. */
static int refuse_password(const char *url, struct err *err)
{
	const char *user = strstr(url, "://"), *at, *colon;

	user = user ? user + 3 : url;
	at = memchr(user, '@', strcspn(user, "/?"));
	colon = at ? memchr(user, ':', (size_t)(at - user)) : NULL;
	if (!colon)
		return 0;
	return err_set(err, EINVAL,
		"%.*s%s: a password in a URL is seen by everyone on the machine: give it "
		"as a secret (password-secret=)",
		(int)(colon - url), url, at);
}

static int take_url(struct place *p, const char *url, struct err *err)
{
	const char *at = strchr(url, '?');
	int ret = refuse_password(url, err);

	if (ret)
		return ret;
	p->shown = strdup(url);
	p->base = strndup(url, strcspn(url, "?"));
	p->args = calloc(1, 2 * strlen(url) + 1);
	if (!p->shown || !p->base || !p->args)
		return no_memory(err);
	for (; ret == 0 && at; at = strchr(at, '&')) {
		size_t len = strcspn(++at, "&");

		ret = take_argument(p, at, len, err);
	}
	return ret;
}

/* What libsmb2 is to know of it in one. Without sec= it would try Kerberos only. */
static struct smb2_url *parse(const struct place *p, struct smb2_context *ctx)
{
	struct smb2_url *parsed = NULL;
	char *url;

	if (asprintf(&url, "%s?%s%s%s%s", p->base, p->args,
		    p->secured ? "" : "sec=ntlmssp&", p->sign ? "sign&" : "",
		    p->seal ? "seal&" : "") < 0)
		return NULL;
	parsed = smb2_parse_url(ctx, url);
	free(url);
	return parsed;
}

static int take_string(struct opts *opts, const char *key, char **out, struct err *err)
{
	const char *value = opts_take(opts, key);

	if (!value)
		return 0;
	*out = strdup(value);
	return *out ? 0 : no_memory(err);
}

static int take_place(struct place *p, struct opts *opts, struct err *err)
{
	const char *name = opts_take(opts, "filename"), *id;
	int ret;

	if (!name)
		return err_set(err, EINVAL, "smb: no URL (filename=)");
	ret = take_url(p, name, err);
	ret = ret ? ret : take_string(opts, "user", &p->user, err);
	ret = ret ? ret : take_string(opts, "domain", &p->domain, err);
	ret = ret ? ret : opts_take_u64(opts, "port", &p->port, err);
	ret = ret ? ret : opts_take_bool(opts, "sign", &p->sign, err);
	ret = ret ? ret : opts_take_bool(opts, "seal", &p->seal, err);
	id = opts_take(opts, "password-secret");
	if (ret == 0 && id)
		ret = find_password(p, id, strlen(id), err);
	if (ret == 0 && p->port > UINT16_MAX)
		ret = err_set(err, EINVAL, "smb: port: at most %u", UINT16_MAX);
	return ret;
}

/* ---- one call -------------------------------------------------------------------- */

struct call {
	struct remote_wait wait; /* first */
	bool answered;
	int status; /* NTSTATUS, or what a wrapper of libsmb2's makes of it */
	void (*take)(const void *reply, void *out); /* what a good answer brings */
	void *out;
};

/* From calls that tell the server's own status. ENETRESET is libsmb2's for what a new
 * connection may cure: the share was closed, the file, ... */
static int error_of(uint32_t status)
{
	int code;

	switch (status) {
	case SMB2_STATUS_USER_SESSION_DELETED:
	case STATUS_NETWORK_SESSION_EXPIRED:
		return SESSION_LOST;
	case SMB2_STATUS_FILE_IS_A_DIRECTORY:
		return -EISDIR;
	case SMB2_STATUS_SHARING_VIOLATION:
		return -EAGAIN; /* nothing else is */
	default:
		code = nterror_to_errno(status);
		return code == ENETRESET ? SESSION_LOST : -code;
	}
}

static struct call *call_new(struct link *l, const struct call *like)
{
	struct call *c = malloc(sizeof(*c));

	if (c) {
		*c = *like;
		remote_wait_begin(&l->remote, &c->wait);
	}
	return c;
}

static void call_drop(struct call *c)
{
	remote_wait_cancel(&c->wait);
	free(c);
}

static void answered(struct smb2_context *ctx, int status, void *reply, void *arg)
{
	struct call *c = arg;

	(void)ctx;
	if (!remote_is_wanted(&c->wait)) {
		free(c);
		return;
	}
	c->status = status;
	if (status == SMB2_STATUS_SUCCESS && c->take)
		c->take(reply, c->out);
	c->answered = true;
	remote_answer(&c->wait);
}

/* Where there is no remote yet. */
static void serve(struct link *l, const struct call *c)
{
	uint64_t start = clock_ns();

	while (!c->answered && !l->dead) {
		struct pollfd p = {.fd = smb2_get_fd(l->ctx),
			.events = (short)smb2_which_events(l->ctx)};
		uint64_t gone = clock_ns() - start;
		int left_ms =
			gone < CONNECT_NS ? (int)((CONNECT_NS - gone) / 1000000) : 0;
		int got = left_ms && p.fd >= 0 ? poll(&p, 1, left_ms) : 0;

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0 || smb2_service(l->ctx, p.revents) < 0)
			l->dead = true;
	}
	if (!c->answered)
		remote_abandon(&l->remote);
}

/* Waits for a call that was made. False: nothing came, and it is no longer ours. */
static bool wait_for(struct link *l, struct call *c)
{
	if (l->started)
		remote_push(&l->remote);
	else
		serve(l, c);
	return remote_wait_end(&c->wait);
}

/* The end of one that is a PDU: 0 or -errno. */
static int finish(struct link *l, struct call *c, struct smb2_pdu *pdu)
{
	int ret;

	if (!pdu) {
		call_drop(c);
		return -ENOMEM;
	}
	smb2_queue_pdu(l->ctx, pdu);
	if (!wait_for(l, c))
		return SESSION_LOST;
	ret = error_of((uint32_t)c->status);
	free(c);
	if (ret == SESSION_LOST)
		l->dead = true;
	return ret;
}

/* The end of one that libsmb2 wraps: 0 or more, or -errno. */
static int finish_wrapped(struct link *l, struct call *c, int started)
{
	int ret;

	if (started < 0) {
		call_drop(c);
		return l->dead ? SESSION_LOST : -ENOMEM;
	}
	if (!wait_for(l, c))
		return SESSION_LOST;
	ret = c->status;
	free(c);
	if (ret == -ENETRESET)
		l->dead = true;
	return ret < 0 && l->dead ? SESSION_LOST : ret;
}

/* Makes one call with a struct call as given, and waits for it. */
#define MAKE(l, like, finish_it, function, ...)                                          \
	({                                                                               \
		struct link *make_l = (l);                                               \
		struct call *make_c = make_l->dead ? NULL : call_new(make_l, &(like));   \
		int make_ret = make_l->dead ? SESSION_LOST : -ENOMEM;                    \
		if (make_c)                                                              \
			make_ret = finish_it(make_l, make_c,                             \
				function(make_l->ctx, ##__VA_ARGS__, answered, make_c)); \
		make_ret;                                                                \
	})
#define COMMAND(l, like, ...) MAKE(l, like, finish, __VA_ARGS__)
#define CALL(l, like, ...)    MAKE(l, like, finish_wrapped, __VA_ARGS__)

/* ---- commands on files ----------------------------------------------------------- */

struct opened {
	smb2_file_id file;
	struct disk_id id;
};

/* MS-SMB2, 2.2.13.2; offsets count from its start. */
struct create_context {
	le32 next;
	le16 name, name_bytes, reserved, data;
	le32 data_bytes;
};

struct disk_id_answer {
	le64 file, volume;
};

/* Looks for the answer to "QFid" among the create contexts. */
static void find_disk_id(const uint8_t *at, size_t bytes, struct disk_id *out)
{
	struct create_context head;
	struct disk_id_answer answer;

	while (at && bytes >= sizeof(head)) {
		memcpy(&head, at, sizeof(head));
		if (le16_get(head.name_bytes) == 4 && le16_get(head.name) + 4u <= bytes &&
			!memcmp(at + le16_get(head.name), "QFid", 4) &&
			le32_get(head.data_bytes) >= sizeof(answer) &&
			le16_get(head.data) + sizeof(answer) <= bytes) {
			memcpy(&answer, at + le16_get(head.data), sizeof(answer));
			*out = (struct disk_id){
				le64_get(answer.file), le64_get(answer.volume), true};
		}
		if (!le32_get(head.next) || le32_get(head.next) >= bytes)
			return;
		at += le32_get(head.next);
		bytes -= le32_get(head.next);
	}
}

static void take_opened(const void *reply, void *out)
{
	const struct smb2_create_reply *r = reply;
	struct opened *o = out;

	memcpy(o->file, r->file_id, sizeof(o->file));
	if (r->create_context_length)
		find_disk_id(r->create_context, r->create_context_length, &o->id);
}

#define SHARE_BOTH (SMB2_FILE_SHARE_READ | SMB2_FILE_SHARE_WRITE)

struct how {
	uint32_t access, share, disposition, options;
};

/* CREATE, the only way to open. */
static int open_file(
	struct link *l, const char *path, const struct how *how, struct opened *out)
{
	static const uint8_t ask_id[24] = {
		[4] = sizeof(struct create_context), [6] = 4, [16] = 'Q', 'F', 'i', 'd'};
	struct smb2_create_request req = {
		.requested_oplock_level = SMB2_OPLOCK_LEVEL_NONE,
		.impersonation_level = SMB2_IMPERSONATION_IMPERSONATION,
		.desired_access =
			how->access | SMB2_FILE_READ_ATTRIBUTES | SMB2_SYNCHRONIZE,
		.share_access = how->share,
		.create_disposition = how->disposition,
		.create_options = SMB2_FILE_NON_DIRECTORY_FILE | how->options,
		.name = path,
		.create_context = (uint8_t *)(uintptr_t)ask_id,
		.create_context_length = sizeof(ask_id),
	};
	struct call c = {.take = take_opened, .out = out};

	*out = (struct opened){.id.known = false};
	return COMMAND(l, c, smb2_cmd_create_async, &req);
}

static int close_file(struct link *l, const smb2_file_id file)
{
	struct smb2_close_request req = {.flags = 0};
	struct call c = {.status = 0};

	memcpy(req.file_id, file, sizeof(req.file_id));
	return COMMAND(l, c, smb2_cmd_close_async, &req);
}

static int set_file_size(struct link *l, const smb2_file_id file, uint64_t bytes)
{
	struct smb2_file_end_of_file_info info = {.end_of_file = bytes};
	struct smb2_set_info_request req = {.info_type = SMB2_0_INFO_FILE,
		.file_info_class = SMB2_FILE_END_OF_FILE_INFORMATION,
		.input_data = &info};
	struct call c = {.status = 0};

	memcpy(req.file_id, file, sizeof(req.file_id));
	return COMMAND(l, c, smb2_cmd_set_info_async, &req);
}

static int delete_file(struct link *l, const char *path)
{
	static const struct how how = {.access = SMB2_DELETE,
		.share = SHARE_BOTH,
		.disposition = SMB2_FILE_OPEN,
		.options = SMB2_FILE_DELETE_ON_CLOSE};
	struct opened o;
	int ret = open_file(l, path, &how, &o);

	return ret ? ret : close_file(l, o.file);
}

/* What was asked for is libsmb2's to free, and has to be freed. */
struct info {
	struct smb2_context *ctx;
	struct smb2_file_all_info *file;
	struct smb2_file_fs_volume_info *volume;
};

static void take_file_info(const void *reply, void *out)
{
	((struct info *)out)->file =
		((const struct smb2_query_info_reply *)reply)->output_buffer;
}

static void take_volume_info(const void *reply, void *out)
{
	((struct info *)out)->volume =
		((const struct smb2_query_info_reply *)reply)->output_buffer;
}

struct file_facts {
	uint64_t size, allocated, index;
	uint64_t written_us; /* when it was, last */
};

static int look_at_file(struct link *l, const smb2_file_id file, struct file_facts *out)
{
	struct smb2_query_info_request req = {.info_type = SMB2_0_INFO_FILE,
		.file_info_class = SMB2_FILE_ALL_INFORMATION,
		.output_buffer_length = INFO_BYTES};
	struct info info = {.ctx = l->ctx};
	struct call c = {.take = take_file_info, .out = &info};
	int ret;

	memcpy(req.file_id, file, sizeof(req.file_id));
	ret = COMMAND(l, c, smb2_cmd_query_info_async, &req);
	if (ret)
		return ret;
	if (!info.file)
		return -EIO;
	*out = (struct file_facts){.size = info.file->standard.end_of_file,
		.allocated = info.file->standard.allocation_size,
		.index = info.file->index_number,
		.written_us = info.file->basic.last_write_time.tv_sec * 1000000ull +
			      info.file->basic.last_write_time.tv_usec};
	smb2_free_data(info.ctx, info.file);
	return 0;
}

/* ---- the note beside an image ---------------------------------------------------- */

/* A handle for the calls that libsmb2 wraps; freed with the context. */
static struct smb2fh *handle_of(struct link *l, const struct opened *o)
{
	return smb2_fh_from_file_id(l->ctx, (smb2_file_id *)(uintptr_t)&o->file);
}

static int read_note(struct link *l, const char *note, char text[LOCK_NOTE_MAX + 1])
{
	static const struct how how = {.access = SMB2_FILE_READ_DATA,
		.share = SHARE_BOTH | SMB2_FILE_SHARE_DELETE,
		.disposition = SMB2_FILE_OPEN};
	struct call c = {.status = 0};
	struct opened o;
	struct smb2fh *fh;
	int ret = open_file(l, note, &how, &o), n;

	if (ret)
		return ret;
	fh = handle_of(l, &o);
	n = fh ? CALL(l, c, smb2_pread_async, fh, (uint8_t *)text, LOCK_NOTE_MAX, 0)
	       : -ENOMEM;
	ret = close_file(l, o.file);
	text[n > 0 ? MIN(n, LOCK_NOTE_MAX) : 0] = '\0';
	return n < 0 ? n : ret;
}

/* Stable, as it has to be there after the server was started anew. */
static int fill_note(struct link *l, const struct opened *o, const char *text)
{
	struct smb2fh *fh = handle_of(l, o);
	struct call c = {.status = 0};
	uint32_t bytes = (uint32_t)strlen(text);
	int n = fh ? CALL(l, c, smb2_pwrite_async, fh, (const uint8_t *)text, bytes, 0)
		   : -ENOMEM;

	if (n >= 0 && (uint32_t)n != bytes)
		n = -EIO;
	return n < 0 ? n : CALL(l, c, smb2_fsync_async, fh);
}

/* What is there already and is no note is somebody's, whatever its name. */
static int write_note(struct link *l, const char *note, const char *text)
{
	struct how how = {.access = SMB2_FILE_WRITE_DATA, .share = SMB2_FILE_SHARE_READ};
	char old[LOCK_NOTE_MAX + 1];
	struct lock_owner owner;
	struct opened o;
	int ret = read_note(l, note, old);

	if (ret && ret != -ENOENT)
		return ret;
	if (ret == 0 && !lock_note_parse(old, &owner))
		return -EEXIST;
	how.disposition = ret ? SMB2_FILE_CREATE : SMB2_FILE_OVERWRITE;
	ret = open_file(l, note, &how, &o);
	if (ret)
		return ret;
	ret = fill_note(l, &o, text);
	close_file(l, o.file);
	if (ret)
		delete_file(l, note);
	return ret;
}

static void find_owner(struct link *l, const char *path, struct lock_owner *out)
{
	char *note = lock_note_path(path), text[LOCK_NOTE_MAX + 1];

	*out = (struct lock_owner){.pid = 0};
	if (note && read_note(l, note, text) == 0)
		lock_note_parse(text, out);
	free(note);
}

/* A share mode does not tell what it was that the other has not shared. */
static int refused(struct link *l, const struct place *p, const char *path, bool writes,
	struct err *err)
{
	struct lock_owner owner;

	find_owner(l, path, &owner);
	return imglock_refused(
		p->shown, &owner, writes ? "" : "shared ", IMGLOCK_WRITE, err);
}

/* ---- connecting ------------------------------------------------------------------ */

static pthread_mutex_t context_lock = PTHREAD_MUTEX_INITIALIZER;

static void link_close(struct link *l)
{
	pthread_mutex_lock(&context_lock);
	smb2_destroy_context(l->ctx);
	pthread_mutex_unlock(&context_lock);
	l->ctx = NULL;
}

static int failed(const struct place *p, int ret, const char *what, struct err *err)
{
	return err_errno(err, -ret, "%s: %s", p->shown, what);
}

/* libsmb2 has words for it, but for a socket's error. */
static int cannot_connect(
	const struct place *p, struct smb2_context *ctx, int ret, struct err *err)
{
	const char *why = smb2_get_error(ctx);
	size_t len = strcspn(why, "\n");
	int code = ret < 0 && ret > -4096 ? -ret : EIO;

	while (len && strchr(" .", why[len - 1]))
		len--;
	if (!len || !strncmp(why, "Socket connect", strlen("Socket connect")))
		return err_errno(err, code, "%s: cannot connect", p->shown);
	return err_set(err, code, "%s: cannot connect: %.*s", p->shown, (int)len, why);
}

static int log_in(struct link *l, const struct place *p, const struct smb2_url *url,
	struct err *err)
{
	struct call like = {.status = 0}, *c;
	char *server = NULL;
	int ret;

	if (asprintf(&server, p->port ? "%s:%u" : "%s", url->server, (unsigned)p->port) <
		0)
		return no_memory(err);
	smb2_set_security_mode(
		l->ctx, SMB2_NEGOTIATE_SIGNING_ENABLED |
				(p->sign ? SMB2_NEGOTIATE_SIGNING_REQUIRED : 0));
	if (p->user || url->user)
		smb2_set_user(l->ctx, p->user ? p->user : url->user);
	if (p->password)
		smb2_set_password(l->ctx, p->password);
	if (p->domain || url->domain)
		smb2_set_domain(l->ctx, p->domain ? p->domain : url->domain);
	c = call_new(l, &like);
	if (!c) {
		free(server);
		return no_memory(err);
	}
	ret = smb2_connect_share_async(l->ctx, server, url->share, NULL, answered, c);
	free(server);
	if (ret < 0)
		call_drop(c);
	else if (!wait_for(l, c))
		ret = -ETIMEDOUT;
	else {
		ret = c->status;
		free(c);
	}
	return ret ? cannot_connect(p, l->ctx, ret, err) : 0;
}

/* A context with the share connected, and in *path the file in it. */
static int link_open(struct link *l, const struct place *p, char **path, struct err *err)
{
	struct smb2_url *url = NULL;
	int ret;

	*l = (struct link){.dead = false};
	pthread_mutex_lock(&context_lock);
	l->ctx = smb2_init_context();
	pthread_mutex_unlock(&context_lock);
	if (!l->ctx)
		return err_errno(err, ENOMEM, "%s", p->shown);
	url = parse(p, l->ctx);
	if (!url || !url->server || !url->share || !url->path || !*url->path)
		ret = err_set(err, EINVAL, "%s: not an SMB URL: %s", p->shown,
			url ? "no file in it" : smb2_get_error(l->ctx));
	else
		ret = log_in(l, p, url, err);
	if (ret == 0 && !(*path = strdup(url->path)))
		ret = err_errno(err, ENOMEM, "%s", p->shown);
	smb2_destroy_url(url);
	if (ret)
		link_close(l);
	return ret;
}

static int fd_of(void *ctx)
{
	struct smb *n = ctx;

	return n->link.dead ? -1 : smb2_get_fd(n->link.ctx);
}

static int events_of(void *ctx)
{
	struct smb *n = ctx;

	return n->link.dead ? 0 : smb2_which_events(n->link.ctx);
}

static void service(void *ctx, int revents)
{
	struct smb *n = ctx;

	if (!n->link.dead && smb2_service(n->link.ctx, revents) < 0)
		n->link.dead = true;
	if (n->link.dead)
		remote_abandon(&n->link.remote);
	/* A lock is gone with it, and others get in until it is back. */
	if (n->link.dead && n->share == SMB2_FILE_SHARE_READ)
		session_lost(&n->session);
	session_tick(&n->session);
}

static const struct remote_ops remote_ops = {fd_of, events_of, service};

/* What comes back under the same name has to be the same file: nothing is written to
 * another. */
static int settle_file(struct blk *b, const struct opened *o, struct err *err)
{
	struct smb *n = smb_of(b);
	struct file_facts now;
	int ret = look_at_file(&n->link, o->file, &now);

	if (ret)
		return failed(&n->place, ret, "cannot look at it", err);
	if (now.size > BLK_MAX_SIZE)
		return err_set(err, EFBIG,
			"%s: the file is too large (%" PRIu64 " bytes)", n->place.shown,
			now.size);
	if (n->known && n->index != now.index)
		return err_set(err, ESTALE, "%s: another file has taken its name",
			n->place.shown);
	if (n->known && n->kept_out && n->written_us != now.written_us)
		return err_set(err, ESTALE,
			"%s: somebody wrote to it while the connection, and with it the "
			"lock, was gone",
			n->place.shown);
	if (!n->known)
		b->size = now.size;
	n->known = true;
	n->index = now.index;
	n->written_us = now.written_us;
	n->kept_out = !n->writable && n->share != SHARE_BOTH;
	n->id = o->id;
	return 0;
}

static int learn_limits(struct smb *n, struct err *err)
{
	struct smb2_context *ctx = n->link.ctx;
	struct facts now = {.dialect = smb2_get_dialect(ctx),
		.max_read = smb2_get_max_read_size(ctx),
		.max_write = smb2_get_max_write_size(ctx)};
	uint32_t most = MIN(now.max_read, now.max_write);

	if (most < BLK_SECTOR)
		return err_set(err, EPROTO, "%s: the server takes %u bytes at once",
			n->place.shown, most);
	if (now.dialect == SMB2_VERSION_0202)
		most = MIN(most, (uint32_t)CREDIT_BYTES);
	n->transfer_bytes = MIN(most, (uint32_t)TRANSFER_MAX);
	if (!n->facts.dialect)
		n->facts = now;
	return 0;
}

/* As the file driver's locks. A disk's other paths are opens of their own, which must not
 * keep each other out. */
static uint32_t share_of(const struct blk *b)
{
	const unsigned shared = BLK_O_SHARE_WRITE | BLK_O_SHARE | BLK_O_PATH;

	return !smb_of(b)->locking || (b->flags & shared) ? SHARE_BOTH
							  : SMB2_FILE_SHARE_READ;
}

/* A note that cannot be left is of no consequence; one that was left and is gone is. */
static int settle_note(struct smb *n, struct err *err)
{
	char *note = lock_note_path(n->path), now[LOCK_NOTE_MAX + 1];
	int ret = 0;

	if (!note)
		return err_errno(err, ENOMEM, "%s", n->place.shown);
	if (!n->note) {
		n->note = lock_note_text();
		if (n->note && write_note(&n->link, note, n->note)) {
			free(n->note);
			n->note = NULL;
		}
	} else {
		ret = read_note(&n->link, note, now);
		if (ret == -ENOENT || (ret == 0 && strcmp(now, n->note)))
			ret = -ESTALE;
	}
	free(note);
	if (ret == -ESTALE) {
		n->taken = true;
		return err_set(err, ESTALE,
			"%s: another program may have written to it while the connection "
			"was lost: it is left alone",
			n->place.shown);
	}
	return ret ? failed(&n->place, ret, "cannot find the lock's note", err) : 0;
}

/* While the lock is still there: so the note is ours. */
static void remove_note(struct smb *n)
{
	char *note = n->note ? lock_note_path(n->path) : NULL;

	if (note)
		delete_file(&n->link, note);
	free(note);
	free(n->note);
	n->note = NULL;
}

/* Opens the file of the node's as n->share says. */
static int open_image(struct blk *b, struct err *err)
{
	struct smb *n = smb_of(b);
	struct how how = {
		.access = SMB2_FILE_READ_DATA | (n->writable ? SMB2_FILE_WRITE_DATA : 0),
		.share = n->share,
		.disposition = SMB2_FILE_OPEN};
	struct opened o;
	int ret = open_file(&n->link, n->path, &how, &o);

	if (ret == -EAGAIN)
		return refused(&n->link, &n->place, n->path, n->writable, err);
	if (ret)
		return failed(&n->place, ret, "cannot open", err);
	ret = settle_file(b, &o, err);
	if (ret == 0 && n->writable && n->share == SMB2_FILE_SHARE_READ)
		ret = settle_note(n, err);
	memcpy(n->file, o.file, sizeof(n->file));
	n->fh = ret ? NULL : handle_of(&n->link, &o);
	if (ret == 0 && !n->fh)
		ret = err_errno(err, ENOMEM, "%s", n->place.shown);
	if (ret)
		close_file(&n->link, o.file);
	return ret;
}

static void note_ends(struct smb *n)
{
	struct ends *e = &n->ends;
	int fd = smb2_get_fd(n->link.ctx);

	e->here_len = sizeof(e->here);
	e->there_len = sizeof(e->there);
	if (getsockname(fd, (struct sockaddr *)&e->here, &e->here_len) ||
		getpeername(fd, (struct sockaddr *)&e->there, &e->there_len))
		e->here_len = 0;
}

/* Where the network lost the end of a connection, the server believes that it is there, and
 * keeps what it locks for minutes. A SYN between the same two ports is answered for the old
 * connection, which our kernel then resets (RFC 9293, 3.5.1: half-open connections). Returns
 * the socket, to be kept for so long, or -1. */
static int end_half_open(const struct ends *e)
{
	const struct linger at_once = {.l_onoff = 1};
	const int on = 1;
	int fd = e->here_len ? socket(e->there.ss_family,
				       SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
			     : -1;

	if (fd < 0)
		return -1;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
	if (bind(fd, (const struct sockaddr *)&e->here, e->here_len) == 0 &&
		(connect(fd, (const struct sockaddr *)&e->there, e->there_len) == 0 ||
			errno == EINPROGRESS))
		return fd;
	close(fd);
	return -1;
}

/* What keeps the file from us may be our own, from before. */
static int open_again(struct blk *b, struct err *err)
{
	struct smb *n = smb_of(b);
	int ret = open_image(b, err);
	int knock = ret == -EAGAIN ? end_half_open(&n->ends) : -1;

	for (int i = 0; i < AGAIN_TIMES && ret == -EAGAIN && knock >= 0; i++) {
		poll(NULL, 0, AGAIN_MS);
		ret = open_image(b, err);
	}
	if (knock >= 0)
		close(knock);
	return ret;
}

static int node_connect(struct blk *b, struct err *err)
{
	struct smb *n = smb_of(b);
	char *path;
	int ret = n->taken ? failed(&n->place, -ESTALE, "cannot open", err)
			   : link_open(&n->link, &n->place, &path, err);

	if (ret)
		return ret;
	free(n->path);
	n->path = path;
	ret = n->known ? open_again(b, err) : open_image(b, err);
	ret = ret ? ret : learn_limits(n, err);
	if (ret == 0) {
		n->transfers = 0;
		n->link.started = true;
		if (remote_start(&n->link.remote, &remote_ops, n))
			ret = err_errno(err, ENOMEM, "%s", n->place.shown);
	}
	if (ret) {
		link_close(&n->link);
		return ret;
	}
	note_ends(n);
	remote_forget_unsent(smb2_get_fd(n->link.ctx));
	return 0;
}

/* After a goodbye that may not have arrived. */
static void leave_nothing(const struct ends *e)
{
	struct pollfd p = {.fd = end_half_open(e), .events = POLLOUT};

	if (p.fd < 0)
		return;
	poll(&p, 1, KNOCK_MS);
	close(p.fd);
}

static void node_disconnect(struct blk *b, bool clean)
{
	struct smb *n = smb_of(b);
	struct call c = {.status = 0};
	int ret = 0;

	if (!clean && n->transfers < SOON)
		n->credit_limit = MAX(n->credit_limit / 2, 1u);
	if (clean)
		remove_note(n);
	if (clean)
		ret = close_file(&n->link, n->file);
	if (clean && ret == 0)
		COMMAND(&n->link, c, smb2_cmd_logoff_async);
	remote_stop(&n->link.remote);
	link_close(&n->link);
	if (ret && n->share == SMB2_FILE_SHARE_READ)
		leave_nothing(&n->ends);
}

static void node_cut(struct blk *b)
{
	remote_cut(fd_of(smb_of(b)));
}

/* ---- requests -------------------------------------------------------------------- */

/* First come, first served. */
static unsigned take_credits(struct smb *n, size_t bytes)
{
	unsigned credits = (unsigned)((bytes + CREDIT_BYTES - 1) / CREDIT_BYTES);

	task_lock(&n->turn);
	task_lock(&n->credit_lock);
	while (n->credits_used && n->credits_used + credits > n->credit_limit)
		task_cond_wait(&n->credit_freed, &n->credit_lock);
	n->credits_used += credits;
	task_unlock(&n->credit_lock);
	task_unlock(&n->turn);
	return credits;
}

static void give_credits(struct smb *n, unsigned credits)
{
	task_lock(&n->credit_lock);
	n->credits_used -= credits;
	task_cond_broadcast(&n->credit_freed);
	task_unlock(&n->credit_lock);
}

/* Those errors that libsmb2 has no errno for may mean that the server has forgotten us: the
 * file is asked for, with a call that tells. */
static int settle_error(struct smb *n, int ret)
{
	struct file_facts unused;

	if (ret == -EIO && look_at_file(&n->link, n->file, &unused) == SESSION_LOST)
		return SESSION_LOST;
	return ret;
}

static uint32_t step_of(const struct smb *n, size_t bytes)
{
	size_t most =
		MIN((size_t)n->transfer_bytes, n->credit_limit * (size_t)CREDIT_BYTES);

	return (uint32_t)MIN(bytes, most);
}

/* The end of a transfer: how many bytes. */
static int settle_transfer(struct smb *n, int ret, uint32_t step, unsigned credits)
{
	give_credits(n, credits);
	n->transfers++;
	return ret > 0 ? (int)MIN((uint32_t)ret, step) : settle_error(n, ret);
}

static int read_some(struct smb *n, uint64_t offset, uint8_t *buf, size_t bytes)
{
	struct call c = {.status = 0};
	uint32_t step = step_of(n, bytes);
	unsigned credits = take_credits(n, step);
	int ret = CALL(&n->link, c, smb2_pread_async, n->fh, buf, step, offset);

	return settle_transfer(n, ret, step, credits);
}

static int write_some(struct smb *n, uint64_t offset, const uint8_t *buf, size_t bytes)
{
	struct call c = {.status = 0};
	uint32_t step = step_of(n, bytes);
	unsigned credits = take_credits(n, step);
	int ret = CALL(&n->link, c, smb2_pwrite_async, n->fh, buf, step, offset);

	return settle_transfer(n, ret, step, credits);
}

static int give_up(struct smb *n)
{
	n->link.dead = true;
	n->transfers = 0;
	return SESSION_LOST;
}

/* Nothing was read: at the end of the file, where the rest is zeros, or for want of credits. */
static int read_nothing(struct smb *n, uint64_t offset, uint8_t *buf, size_t bytes)
{
	struct file_facts now;
	int ret = look_at_file(&n->link, n->file, &now);

	if (ret)
		return ret;
	if (offset < now.size)
		return give_up(n);
	memset(buf, 0, bytes);
	return 0;
}

/* A server may answer with less than was asked for. */
static int read_flat(struct smb *n, uint64_t offset, uint8_t *buf, size_t bytes)
{
	while (bytes) {
		int ret = read_some(n, offset, buf, bytes);

		if (ret < 0)
			return ret;
		if (ret == 0)
			return read_nothing(n, offset, buf, bytes);
		offset += (unsigned)ret;
		buf += ret;
		bytes -= (unsigned)ret;
	}
	return 0;
}

static int write_flat(struct smb *n, uint64_t offset, const uint8_t *buf, size_t bytes)
{
	while (bytes) {
		int ret = write_some(n, offset, buf, bytes);

		if (ret <= 0)
			return ret ? ret : give_up(n);
		offset += (unsigned)ret;
		buf += ret;
		bytes -= (unsigned)ret;
	}
	return 0;
}

struct transfer {
	uint64_t offset, bytes;
	const struct iovec *iov;
	int niov;
};

static int issue_read(struct blk *b, void *arg)
{
	struct transfer *t = arg;
	uint8_t *flat;
	int ret;

	if (t->niov == 1)
		return read_flat(smb_of(b), t->offset, t->iov->iov_base, t->bytes);
	flat = buf_alloc(t->bytes);
	if (!flat)
		return -ENOMEM;
	ret = read_flat(smb_of(b), t->offset, flat, t->bytes);
	if (ret == 0)
		iov_from_buf(t->iov, t->niov, 0, flat, t->bytes);
	buf_free(flat);
	return ret;
}

static int node_preadv(
	struct blk *b, uint64_t offset, uint64_t bytes, const struct iovec *iov, int niov)
{
	struct transfer t = {offset, bytes, iov, niov};

	return session_run(&smb_of(b)->session, issue_read, &t);
}

static int issue_write(
	struct blk *b, uint64_t offset, const struct iovec *iov, int niov, unsigned flags)
{
	size_t bytes = iov_bytes(iov, niov);
	uint8_t *flat;
	int ret;

	(void)flags;
	if (niov == 1)
		return write_flat(smb_of(b), offset, iov->iov_base, bytes);
	flat = buf_alloc(bytes);
	if (!flat)
		return -ENOMEM;
	iov_to_buf(iov, niov, 0, flat, bytes);
	ret = write_flat(smb_of(b), offset, flat, bytes);
	buf_free(flat);
	return ret;
}

static int node_pwritev(struct blk *b, uint64_t offset, uint64_t bytes,
	const struct iovec *iov, int niov, unsigned flags)
{
	int ret = session_write(&smb_of(b)->session, offset, iov, niov, flags);

	if (ret == 0 && offset + bytes > blk_size(b))
		blk_raise_size(b, offset + bytes);
	return ret;
}

static int issue_flush(struct blk *b)
{
	struct smb *n = smb_of(b);
	struct call c = {.status = 0};
	int ret;

	task_lock(&n->flushing);
	ret = CALL(&n->link, c, smb2_fsync_async, n->fh);
	task_unlock(&n->flushing);
	return settle_error(n, ret);
}

static int node_flush(struct blk *b)
{
	return session_flush(&smb_of(b)->session);
}

static int issue_look(struct blk *b, void *arg)
{
	return look_at_file(&smb_of(b)->link, smb_of(b)->file, arg);
}

static int64_t node_allocated(struct blk *b)
{
	struct file_facts now;
	int ret = session_run(&smb_of(b)->session, issue_look, &now);

	return ret < 0 ? ret : (int64_t)now.allocated;
}

static int issue_truncate(struct blk *b, void *arg)
{
	const uint64_t *bytes = arg;

	return set_file_size(&smb_of(b)->link, smb_of(b)->file, *bytes);
}

static int node_resize(
	struct blk *b, uint64_t bytes, enum blk_prealloc prealloc, struct err *err)
{
	struct smb *n = smb_of(b);
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
		return err_errno(err, -ret, "Failed to resize '%s'", n->place.shown);
	blk_set_size(b, bytes);
	return 0;
}

/* ---- what only the server knows -------------------------------------------------- */

struct identity {
	struct disk_id id;
	uint32_t serial;
};

static int issue_identity(struct blk *b, void *arg)
{
	struct smb *n = smb_of(b);
	struct identity *out = arg;
	struct smb2_query_info_request req = {.info_type = SMB2_0_INFO_FILESYSTEM,
		.file_info_class = SMB2_FILE_FS_VOLUME_INFORMATION,
		.output_buffer_length = INFO_BYTES};
	struct info info = {.ctx = n->link.ctx};
	struct call c = {.take = take_volume_info, .out = &info};
	int ret;

	memcpy(req.file_id, n->file, sizeof(req.file_id));
	ret = COMMAND(&n->link, c, smb2_cmd_query_info_async, &req);
	if (ret)
		return ret;
	if (!info.volume)
		return -EIO;
	*out = (struct identity){n->id, info.volume->volume_serial_number};
	smb2_free_data(info.ctx, info.volume);
	return 0;
}

/* Samba's volume id is a device number, the same on many servers: the serial number, which
 * it makes of its own name and the share's, goes with it. */
static int node_identity(struct blk *b, char **out)
{
	struct identity i;
	int ret = session_run(&smb_of(b)->session, issue_identity, &i);

	if (ret)
		return ret;
	if (!i.id.known)
		return -ENOTSUP;
	if (asprintf(out, "smb:%08" PRIx32 "-%" PRIx64 ":%" PRIx64, i.serial, i.id.volume,
		    i.id.file) < 0)
		return -ENOMEM;
	return 0;
}

static const char *dialect_name(uint16_t dialect)
{
	switch (dialect) {
	case SMB2_VERSION_0202:
		return "2.0.2";
	case SMB2_VERSION_0210:
		return "2.1";
	case SMB2_VERSION_0300:
		return "3.0";
	case SMB2_VERSION_0302:
		return "3.0.2";
	case SMB2_VERSION_0311:
		return "3.1.1";
	default:
		return "unknown";
	}
}

static void node_describe(struct blk *b, struct json *facts)
{
	const struct smb *n = smb_of(b);

	json_put_string(facts, "dialect", dialect_name(n->facts.dialect));
	json_put_int(facts, "max-read", n->facts.max_read);
	json_put_int(facts, "max-write", n->facts.max_write);
	json_put_bool(facts, "sign", n->place.sign);
	json_put_bool(facts, "seal", n->place.seal);
}

static int issue_echo(struct blk *b, void *arg)
{
	struct call c = {.status = 0};

	(void)arg;
	return CALL(&smb_of(b)->link, c, smb2_echo_async);
}

/* ECHO does not touch the file: a look at it tells that the share and the open are there. */
static int node_check_path(struct blk *b, unsigned *priority)
{
	struct smb *n = smb_of(b);
	struct file_facts now;
	int ret = session_run(&n->session, issue_echo, NULL);

	if (ret == 0)
		ret = session_run(&n->session, issue_look, &now);
	if (ret == 0)
		*priority = BLK_PATH_OPTIMIZED;
	return ret;
}

static void node_note_loss(struct blk *b)
{
	session_note_loss(&smb_of(b)->session);
}

static const struct blk_storage_ops storage_ops = {
	.identity = node_identity,
	.describe = node_describe,
	.check_path = node_check_path,
	.note_loss = node_note_loss,
};

/* ---- open and close -------------------------------------------------------------- */

static const struct session_ops session_ops = {
	.connect = node_connect,
	.disconnect = node_disconnect,
	.cut = node_cut,
	.write = issue_write,
	.flush = issue_flush,
};

static int node_close(struct blk *b)
{
	struct smb *n = smb_of(b);

	session_close(&n->session);
	place_free(&n->place);
	free(n->path);
	free(n->note);
	return 0;
}

/* A share mode cannot be changed: the file is opened anew. What the session repeats over a new
 * connection starts from there. */
static int issue_reflag(struct blk *b, void *arg)
{
	struct smb *n = smb_of(b);
	struct err unused = ERR_INIT;
	uint32_t old = n->share;
	int ret;

	remove_note(n);
	ret = close_file(&n->link, n->file);
	if (ret)
		return ret;
	n->share = share_of(b);
	ret = open_image(b, arg);
	if (n->link.dead)
		return SESSION_LOST;
	if (ret) {
		n->share = old;
		open_image(b, &unused); /* else the session will, over a new connection */
	}
	return ret;
}

static int node_reflag(struct blk *b, struct err *err)
{
	struct smb *n = smb_of(b);
	struct err why = ERR_INIT;
	int ret;

	if (share_of(b) == n->share)
		return 0;
	ret = session_run(&n->session, issue_reflag, &why);
	if (ret && !why.code)
		err_errno(&why, -ret, "%s: cannot open it anew", n->place.shown);
	if (ret && err)
		*err = why;
	return ret;
}

/* On and auto are the same: every server has share modes. */
static int take_locking(struct smb *n, struct opts *opts, struct err *err)
{
	static const char *const names[] = {"off", "on", "auto", NULL};
	int choice = 1, ret = opts_take_enum(opts, "locking", names, &choice, err);

	n->locking = choice != 0;
	return ret;
}

static int node_open(struct blk *b, struct opts *opts, struct err *err)
{
	struct smb *n = smb_of(b);
	int ret = take_place(&n->place, opts, err);

	ret = ret ? ret : take_locking(n, opts, err);

	if (ret == 0)
		ret = session_options(&n->session, b, opts, err);
	n->writable = b->flags & BLK_O_RDWR;
	n->share = share_of(b);
	n->credit_limit = CREDITS_IN_USE;
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

/* ---- create ---------------------------------------------------------------------- */

static int size_file(struct link *l, const struct opened *o, uint64_t bytes)
{
	struct smb2fh *fh = handle_of(l, o);
	struct call c = {.status = 0};
	int ret = fh ? set_file_size(l, o->file, 0) : -ENOMEM;

	ret = ret ? ret : set_file_size(l, o->file, bytes);
	return ret ? ret : CALL(l, c, smb2_fsync_async, fh);
}

static int make_file(struct link *l, const struct place *p, const char *path,
	uint64_t bytes, struct err *err)
{
	struct how how = {.access = SMB2_FILE_READ_DATA | SMB2_FILE_WRITE_DATA,
		.share = SMB2_FILE_SHARE_READ,
		.disposition = SMB2_FILE_CREATE};
	struct opened o;
	bool made = true;
	int ret = open_file(l, path, &how, &o);

	if (ret == -EEXIST) {
		made = false;
		how.disposition = SMB2_FILE_OPEN;
		ret = open_file(l, path, &how, &o);
	}
	if (ret == -EAGAIN)
		return refused(l, p, path, true, err);
	if (ret)
		return failed(p, ret, "cannot create", err);
	ret = size_file(l, &o, bytes);
	close_file(l, o.file);
	if (ret && made)
		delete_file(l, path);
	return ret ? failed(p, ret, "cannot create", err) : 0;
}

static int node_create(
	const char *filename, struct blk *file, struct opts *opts, struct err *err)
{
	struct place p = {.shown = NULL};
	struct link l;
	uint64_t bytes = 0;
	char *path;
	int ret = opts_take_size(opts, "size", &bytes, err);

	(void)file;
	ret = ret ? ret : take_url(&p, filename, err);
	ret = ret ? ret : link_open(&l, &p, &path, err);
	if (ret == 0) {
		ret = make_file(&l, &p, path, bytes, err);
		free(path);
		link_close(&l);
	}
	place_free(&p);
	return ret;
}

static int node_remove(const char *filename)
{
	struct place p = {.shown = NULL};
	struct err err = ERR_INIT;
	struct link l;
	char *path;
	int ret = take_url(&p, filename, &err);

	ret = ret ? ret : link_open(&l, &p, &path, &err);
	if (ret == 0) {
		ret = delete_file(&l, path);
		free(path);
		link_close(&l);
	}
	place_free(&p);
	return ret;
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

static const char *const node_schemes[] = {"smb", NULL};

const struct blk_driver blk_smb_driver = {
	.name = "smb",
	.kind = BLK_PROTOCOL,
	.schemes = node_schemes,
	.state_bytes = sizeof(struct smb),
	.parse_name = node_parse_name,
	.open = node_open,
	.close = node_close,
	.reflag = node_reflag,
	.preadv = node_preadv,
	.pwritev = node_pwritev,
	.flush = node_flush,
	.resize = node_resize,
	.allocated = node_allocated,
	.format = &node_format_ops,
	.storage = &storage_ops,
};

#endif
