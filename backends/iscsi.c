/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * iscsi://[user%password@]host[:port]/target/lun: a LUN by libiscsi, without root and
 * without the kernel's initiator.
 *
 * What the LUN is, its size, its blocks, what it can unmap, is asked when a connection is
 * made (SBC-3: READ CAPACITY (16), the block limits and provisioning pages). A command
 * that ends in UNIT ATTENTION or BUSY is sent again; one whose connection broke is the
 * session's to repeat (session.h). A new login has the node's own ISID, so that the target
 * ends the old session, and what may still run in it, before it grants the new one (RFC
 * 7143, 6.3.5: session reinstatement).
 *
 * While a connection is made, libiscsi's blocking calls are used: no request is in flight
 * then, and the home loop is the node's own.
 */
#include <inttypes.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include <iscsi/iscsi.h>
#include <iscsi/scsi-lowlevel.h>

#include "backends/reserve.h"
#include "backends/scsi.h"
#include "backends/session.h"
#include "base/iov.h"
#include "base/json.h"
#include "base/log.h"
#include "base/math.h"
#include "block/format.h"
#include "block/secret.h"
#include "block/storage.h"

#define TRANSFER_MAX   (1 * MiB)
#define CONNECT_S      10
#define PATH_CONNECT_S 4 /* where there may be another */
#define SYN_COUNT      3 /* of a portal that is silent: some seven seconds; of a path three */
#define RETRIES        8
#define RETRY_NS       20000000ull /* twice as long each time */
#define INITIATOR_NAME                                                                   \
	"iqn.2008-11.org.linux-kvm" /* as the peer's, for targets' access lists */
#define LBA_STATUS_BYTES 4096
#define IDENTITY_BYTES   4096
#define GROUPS_BYTES     4096

struct iscsi_facts {
	uint32_t block_bytes;
	uint64_t blocks;
	uint32_t max_transfer, max_unmap,
		unmap_granularity; /* blocks; 0: no limit told */
	uint64_t max_write_same;
	bool thin, unmap, write_same_unmaps, zero_after_unmap;
	bool read_only, fua;
	char *identity; /* NULL: the target does not say */
	int port_group; /* of this path; -1: it does not say */
	bool asymmetric;
};

struct iscsi {
	struct session session;
	char *url;   /* a secret: a password may be in it */
	char *shown; /* without */
	char *initiator;
	char *user, *password, *target_user, *target_password;
	enum iscsi_header_digest digest;
	uint32_t isid;
	uint8_t *zeros; /* one block */
	bool reserve;
	uint64_t key;      /* of reservations */
	atomic_bool taken; /* the reservation, by another: nothing is written any more */

	/* Home loop; valid while the session is connected. */
	struct remote remote;
	struct iscsi_context *ctx;
	int lun;
	bool dead, reserved;
	struct iscsi_facts facts;
	int port_group;
	bool asymmetric;
	bool no_write_same;
	bool short_flush; /* SYNCHRONIZE CACHE (10) */
	atomic_bool no_status;
};

static struct iscsi *iscsi_of(const struct blk *b)
{
	return b->state;
}

/* ---- options --------------------------------------------------------------------- */

static int take_string(struct opts *opts, const char *key, char **out, struct err *err)
{
	const char *value = opts_take(opts, key);

	if (!value)
		return 0;
	*out = strdup(value);
	return *out ? 0 : err_errno(err, ENOMEM, "iscsi");
}

/* A password by the name of its secret. */
static int take_secret(struct opts *opts, const char *key, char **out, struct err *err)
{
	const char *id = opts_take(opts, key);
	const void *data;
	size_t bytes;
	int ret;

	if (!id)
		return 0;
	ret = secret_find(id, &data, &bytes, err);
	if (ret)
		return ret;
	*out = strndup(data, bytes);
	return *out ? 0 : err_errno(err, ENOMEM, "iscsi");
}

static int take_digest(struct opts *opts, enum iscsi_header_digest *out, struct err *err)
{
	static const char *const words[] = {
		"none", "none-crc32c", "crc32c-none", "crc32c", NULL};
	static const enum iscsi_header_digest values[] = {ISCSI_HEADER_DIGEST_NONE,
		ISCSI_HEADER_DIGEST_NONE_CRC32C, ISCSI_HEADER_DIGEST_CRC32C_NONE,
		ISCSI_HEADER_DIGEST_CRC32C};
	int which = 1;
	int ret = opts_take_enum(opts, "header-digest", words, &which, err);

	*out = values[which];
	return ret;
}

/* portal=, target= and lun= make a URL too. */
static int take_place(struct opts *opts, char **url, struct err *err)
{
	const char *name = opts_take(opts, "filename"),
		   *portal = opts_take(opts, "portal");
	const char *target = opts_take(opts, "target");
	const char *transport = opts_take(opts, "transport");
	uint64_t lun = 0;
	int ret = opts_take_u64(opts, "lun", &lun, err);

	if (ret)
		return ret;
	if (transport && strcmp(transport, "tcp"))
		return err_set(
			err, EINVAL, "iscsi: transport '%s' is not 'tcp'", transport);
	if (name && (portal || target))
		return err_set(err, EINVAL, "iscsi: a URL and its parts were given");
	if (name) {
		*url = strdup(name);
		return *url ? 0 : err_errno(err, ENOMEM, "iscsi");
	}
	if (!portal || !target)
		return err_set(err, EINVAL, "iscsi: no URL, and no portal and target");
	if (asprintf(url, "iscsi://%s/%s/%" PRIu64, portal, target, lun) < 0) {
		*url = NULL;
		return err_errno(err, ENOMEM, "iscsi");
	}
	return 0;
}

/* "iscsi://user%password@host/…" without "%password". */
static char *without_password(const char *url)
{
	char *shown = strdup(url), *at = shown ? strchr(shown, '@') : NULL;
	char *percent = at ? memchr(shown, '%', (size_t)(at - shown)) : NULL;

	if (percent)
		memmove(percent, at, strlen(at) + 1);
	return shown;
}

static int take_options(struct blk *b, struct opts *opts, struct err *err)
{
	struct iscsi *s = iscsi_of(b);
	int ret = take_place(opts, &s->url, err);

	if (ret == 0 && !(s->shown = without_password(s->url)))
		ret = err_errno(err, ENOMEM, "iscsi");

	ret = ret ? ret : take_string(opts, "initiator-name", &s->initiator, err);
	ret = ret ? ret : take_string(opts, "user", &s->user, err);
	ret = ret ? ret : take_secret(opts, "password-secret", &s->password, err);
	ret = ret ? ret : take_string(opts, "target-user", &s->target_user, err);
	ret = ret ? ret
		  : take_secret(opts, "target-password-secret", &s->target_password, err);
	ret = ret ? ret : take_digest(opts, &s->digest, err);
	ret = ret ? ret : opts_take_bool(opts, "reservation", &s->reserve, err);
	s->key = reserve_own_key();
	ret = ret ? ret : opts_take_u64(opts, "reservation-key", &s->key, err);
	if (ret == 0 && !s->key)
		ret = err_set(err, EINVAL, "iscsi: reservation-key: 0 is no key");
	ret = ret ? ret : session_options(&s->session, b, opts, err);
	if (ret == 0 &&
		(!s->user != !s->password || !s->target_user != !s->target_password))
		ret = err_set(err, EINVAL,
			"iscsi: a user and the secret of a password go together");
	return ret;
}

/* ---- sense ----------------------------------------------------------------------- */

enum { AGAIN = -EAGAIN };

#define SENSE_SPACE_ALLOCATION_FAILED    0x2707
#define ATTENTION_RESERVATION_PREEMPTED  0x2a03
#define ATTENTION_REGISTRATION_PREEMPTED 0x2a05
/* Not by this port. */
#define SENSE_STANDBY     0x040b
#define SENSE_UNAVAILABLE 0x040c

/* What a command that did not end well means. AGAIN: send it once more. */
static int error_of(const struct scsi_task *task, int status)
{
	const struct scsi_sense *s = &task->sense;

	switch (status) {
	case SCSI_STATUS_GOOD:
		return 0;
	case SCSI_STATUS_BUSY:
	case SCSI_STATUS_TASK_SET_FULL:
	case SCSI_STATUS_TASK_ABORTED:
		return AGAIN;
	case SCSI_STATUS_RESERVATION_CONFLICT:
		return -EBADE;
	case SCSI_STATUS_CHECK_CONDITION:
		break;
	default:
		return -EIO;
	}
	switch (s->key) {
	case SCSI_SENSE_NO_SENSE:
	case SCSI_SENSE_RECOVERED_ERROR:
		return 0;
	case SCSI_SENSE_UNIT_ATTENTION:
	case SCSI_SENSE_COMMAND_ABORTED:
		return AGAIN;
	case SCSI_SENSE_NOT_READY:
		if (s->ascq == SENSE_STANDBY || s->ascq == SENSE_UNAVAILABLE)
			return -EHOSTDOWN;
		return s->ascq >> 8 == 0x04 ? AGAIN : -EIO; /* becoming ready */
	case SCSI_SENSE_ILLEGAL_REQUEST:
		if (s->ascq == SCSI_SENSE_ASCQ_INVALID_OPERATION_CODE ||
			s->ascq == SCSI_SENSE_ASCQ_INVALID_FIELD_IN_CDB ||
			s->ascq == SCSI_SENSE_ASCQ_INVALID_FIELD_IN_PARAMETER_LIST)
			return -ENOTSUP;
		return -EIO;
	case SCSI_SENSE_DATA_PROTECTION:
		return s->ascq == SENSE_SPACE_ALLOCATION_FAILED ? -ENOSPC : -EPERM;
	default:
		return -EIO;
	}
}

/* ---- connecting, by blocking calls ----------------------------------------------- */

static int failed(
	struct iscsi *s, struct iscsi_context *ctx, const char *what, struct err *err)
{
	const char *why = iscsi_get_error(ctx);

	/* So it says when there is no connection, being told not to make another. */
	if (why && strstr(why, "Can not reconnect right now"))
		why = "no connection to the portal, or it was broken off";
	return err_set(err, EIO, "%s: %s: %s", s->shown, what,
		why && *why ? why : "no reason given");
}

static struct scsi_task *task_of(struct scsi_command *m)
{
	return scsi_create_task((int)m->cdb_bytes, m->cdb,
		m->in    ? SCSI_XFER_READ
		: m->out ? SCSI_XFER_WRITE
			 : SCSI_XFER_NONE,
		(int)(m->in ? m->in_bytes : m->out_bytes));
}

static struct iscsi_data data_of(const struct scsi_command *m)
{
	return (struct iscsi_data){
		.size = m->out_bytes, .data = (unsigned char *)(uintptr_t)m->out};
}

static void take_data(struct scsi_command *m, const struct scsi_task *task)
{
	m->got = 0;
	if (!m->in || task->datain.size <= 0)
		return;
	m->got = MIN((size_t)task->datain.size, m->in_bytes);
	memcpy(m->in, task->datain.data, m->got);
}

/* A reserve_run. */
static int run_blocking(void *ctx, struct scsi_command *m)
{
	struct iscsi *s = ctx;
	struct iscsi_data out = data_of(m);
	int ret = AGAIN;

	for (int i = 0; i < RETRIES && ret == AGAIN; i++) {
		struct scsi_task *task = task_of(m);

		if (!task)
			return -ENOMEM;
		if (!iscsi_scsi_command_sync(
			    s->ctx, s->lun, task, m->out ? &out : NULL)) {
			scsi_free_scsi_task(task);
			return -EIO;
		}
		ret = error_of(task, task->status);
		if (ret == 0)
			take_data(m, task);
		scsi_free_scsi_task(task);
	}
	return ret == AGAIN ? -EIO : ret;
}

/* Answers with data, after UNIT ATTENTIONs; NULL where there is none to be had. */
static struct scsi_task *ask(struct iscsi *s, int evpd, int page, int bytes)
{
	for (int i = 0; i < RETRIES; i++) {
		struct scsi_task *task =
			iscsi_inquiry_sync(s->ctx, s->lun, evpd, page, bytes);

		if (!task)
			return NULL;
		if (task->status == SCSI_STATUS_GOOD && task->datain.size > 0)
			return task;
		if (error_of(task, task->status) != AGAIN) {
			scsi_free_scsi_task(task);
			return NULL;
		}
		scsi_free_scsi_task(task);
	}
	return NULL;
}

/* Byte 5 of standard INQUIRY data: its target port group support. */
static bool tells_port_groups(const struct scsi_task *task)
{
	return task->datain.size > 5 && (task->datain.data[5] & 0x30);
}

static int learn_type(struct iscsi *s, struct iscsi_facts *f, struct err *err)
{
	struct scsi_task *task = ask(s, 0, 0, 255);
	const struct scsi_inquiry_standard *inq =
		task ? scsi_datain_unmarshall(task) : NULL;
	int ret = 0;

	if (!inq)
		ret = failed(s, s->ctx, "INQUIRY", err);
	else if (inq->device_type != SCSI_INQUIRY_PERIPHERAL_DEVICE_TYPE_DIRECT_ACCESS)
		ret = err_set(err, ENOTSUP, "%s: LUN %d is no disk (device type %d)",
			s->shown, s->lun, inq->device_type);
	else
		f->asymmetric = tells_port_groups(task);
	if (task)
		scsi_free_scsi_task(task);
	return ret;
}

static int learn_identity(struct iscsi *s, struct iscsi_facts *f, struct err *err)
{
	struct scsi_task *task =
		ask(s, 1, SCSI_INQUIRY_PAGECODE_DEVICE_IDENTIFICATION, IDENTITY_BYTES);
	int ret = 0;

	f->port_group = -1;
	if (!task)
		return 0;
	if (scsi_identity(task->datain.data, task->datain.size, &f->identity) == -ENOMEM)
		ret = err_errno(err, ENOMEM, "%s", s->shown);
	f->port_group = scsi_port_group(task->datain.data, task->datain.size);
	scsi_free_scsi_task(task);
	return ret;
}

static int learn_capacity(struct iscsi *s, struct iscsi_facts *f, struct err *err)
{
	const struct scsi_readcapacity16 *rc = NULL;
	struct scsi_task *task = NULL;
	int ret = AGAIN;

	for (int i = 0; i < RETRIES && ret == AGAIN; i++) {
		if (task)
			scsi_free_scsi_task(task);
		task = iscsi_readcapacity16_sync(s->ctx, s->lun);
		ret = task ? error_of(task, task->status) : -EIO;
	}
	rc = ret == 0 ? scsi_datain_unmarshall(task) : NULL;
	if (!rc) {
		ret = failed(s, s->ctx, "READ CAPACITY (16)", err);
	} else if (!is_pow2(rc->block_length) || rc->block_length < BLK_SECTOR ||
		   rc->block_length > 64 * KiB ||
		   rc->returned_lba >= BLK_MAX_SIZE / rc->block_length) {
		ret = err_set(err, ENOTSUP,
			"%s: LUN %d has blocks of %" PRIu32 " bytes up to %" PRIu64,
			s->shown, s->lun, rc->block_length, rc->returned_lba);
	} else {
		f->block_bytes = rc->block_length;
		f->blocks = rc->returned_lba + 1;
		f->thin = rc->lbpme;
		f->zero_after_unmap = rc->lbprz;
	}
	if (task)
		scsi_free_scsi_task(task);
	return ret;
}

/* What is optional in SBC stays as it was where a target has nothing to say of it. */
static void learn_limits(struct iscsi *s, struct iscsi_facts *f)
{
	struct scsi_task *task = ask(s, 1, SCSI_INQUIRY_PAGECODE_BLOCK_LIMITS, 255);
	const struct scsi_inquiry_block_limits *bl =
		task ? scsi_datain_unmarshall(task) : NULL;
	const struct scsi_inquiry_logical_block_provisioning *lbp;

	if (bl) {
		f->max_transfer = bl->max_xfer_len;
		f->max_unmap = bl->max_unmap;
		f->unmap_granularity = bl->opt_unmap_gran;
		f->max_write_same = bl->max_ws_len;
	}
	if (task)
		scsi_free_scsi_task(task);
	if (!f->thin)
		return;
	task = ask(s, 1, SCSI_INQUIRY_PAGECODE_LOGICAL_BLOCK_PROVISIONING, 255);
	lbp = task ? scsi_datain_unmarshall(task) : NULL;
	if (lbp) {
		f->unmap = lbp->lbpu;
		f->write_same_unmaps = lbp->lbpws;
	}
	if (task)
		scsi_free_scsi_task(task);
}

static void learn_mode(struct iscsi *s, struct iscsi_facts *f)
{
	struct scsi_task *task = iscsi_modesense6_sync(s->ctx, s->lun, 0,
		SCSI_MODESENSE_PC_CURRENT, SCSI_MODEPAGE_RETURN_ALL_PAGES, 0, 255);
	const struct scsi_mode_sense *ms = NULL;

	if (task && task->status == SCSI_STATUS_GOOD)
		ms = scsi_datain_unmarshall(task);
	if (ms) {
		f->read_only = ms->device_specific_parameter & 0x80;
		f->fua = ms->device_specific_parameter & 0x10;
	}
	if (task)
		scsi_free_scsi_task(task);
}

static int learn(struct iscsi *s, struct iscsi_facts *f, struct err *err)
{
	int ret;

	*f = (struct iscsi_facts){0};
	ret = learn_type(s, f, err);
	if (ret == 0)
		ret = learn_capacity(s, f, err);
	if (ret == 0)
		ret = learn_identity(s, f, err);
	if (ret)
		return ret;
	learn_limits(s, f);
	learn_mode(s, f);
	return 0;
}

static bool is_same_name(const char *a, const char *b)
{
	return a && b ? strcmp(a, b) == 0 : a == b;
}

/* Facts are read on all loops, and so stay as they were learned first. What comes back under
 * the same name has to be the same disk: nothing is written to another. Takes `now`. */
static int settle_facts(struct iscsi *s, struct iscsi_facts *now, struct err *err)
{
	int ret = 0;

	s->port_group = now->port_group;
	s->asymmetric = now->asymmetric;
	if (!s->facts.block_bytes) {
		s->facts = *now;
		return 0;
	}
	if (!is_same_name(now->identity, s->facts.identity))
		ret = err_set(err, EIO,
			"%s: the LUN came back as another disk: %s, not %s", s->shown,
			now->identity ? now->identity : "one without a name",
			s->facts.identity ? s->facts.identity : "the one without a name");
	else if (now->block_bytes != s->facts.block_bytes ||
		 now->blocks < s->facts.blocks)
		ret = err_set(err, EIO,
			"%s: the LUN came back as another disk: %" PRIu64
			" blocks of %" PRIu32 " bytes, not %" PRIu64 " of %" PRIu32,
			s->shown, now->blocks, now->block_bytes, s->facts.blocks,
			s->facts.block_bytes);
	free(now->identity);
	return ret;
}

static int fd_of(void *ctx)
{
	struct iscsi *s = ctx;

	return s->dead ? -1 : iscsi_get_fd(s->ctx);
}

static int events_of(void *ctx)
{
	struct iscsi *s = ctx;

	return s->dead ? 0 : iscsi_which_events(s->ctx);
}

/* Without its own reconnecting libiscsi closes the socket and cancels what is under way. */
static void service(void *ctx, int revents)
{
	struct iscsi *s = ctx;

	if (!s->dead && (iscsi_service(s->ctx, revents) < 0 || iscsi_get_fd(s->ctx) < 0 ||
				!iscsi_is_logged_in(s->ctx)))
		s->dead = true;
	if (s->dead) {
		remote_abandon(&s->remote);
		session_lost(&s->session);
	}
	session_tick(&s->session);
}

static const struct remote_ops remote_ops = {fd_of, events_of, service};

static int set_credentials(struct iscsi *s, const struct iscsi_url *url, struct err *err)
{
	const char *user = s->user ? s->user : url->user;
	const char *password = s->user ? s->password : url->passwd;
	const char *target_user = s->target_user ? s->target_user : url->target_user;
	const char *target_password =
		s->target_user ? s->target_password : url->target_passwd;

	if (*user && iscsi_set_initiator_username_pwd(s->ctx, user, password))
		return failed(s, s->ctx, "CHAP", err);
	if (*target_user &&
		iscsi_set_target_username_pwd(s->ctx, target_user, target_password))
		return failed(s, s->ctx, "CHAP of the target", err);
	return 0;
}

static int log_in(struct iscsi *s, struct err *err)
{
	struct iscsi_url *url = iscsi_parse_full_url(s->ctx, s->url);
	bool is_path = s->session.b->flags & BLK_O_PATH;
	int ret;

	if (!url)
		return failed(s, s->ctx, "not an iSCSI URL", err);
	s->lun = url->lun;
	iscsi_set_targetname(s->ctx, url->target);
	iscsi_set_session_type(s->ctx, ISCSI_SESSION_NORMAL);
	iscsi_set_header_digest(s->ctx, s->digest);
	iscsi_set_isid_random(s->ctx, s->isid, 0);
	iscsi_set_noautoreconnect(s->ctx, 1);
	iscsi_set_timeout(s->ctx, is_path ? PATH_CONNECT_S : CONNECT_S);
	iscsi_set_tcp_syncnt(s->ctx, is_path ? 1 : SYN_COUNT);
	ret = set_credentials(s, url, err);
	if (ret == 0 && iscsi_full_connect_sync(s->ctx, url->portal, url->lun))
		ret = failed(s, s->ctx, "cannot log in", err);
	iscsi_destroy_url(url);
	if (ret == 0)
		remote_forget_unsent(iscsi_get_fd(s->ctx));
	return ret;
}

/* ---- the reservation, while connecting ------------------------------------------- */

static int is_reserved(struct iscsi *s, uint64_t holder, struct err *err)
{
	char name[RESERVE_NAME_MAX] = "another";

	if (holder)
		reserve_name(holder, name);
	return err_set(err, EBUSY, "%s: the LUN is reserved by %s", s->shown, name);
}

static void note_taken(struct iscsi *s)
{
	if (!atomic_exchange(&s->taken, true))
		log_line(LOG_LEVEL_ERROR,
			"%s: the reservation was taken away; nothing is written any "
			"more",
			s->shown);
}

/* Over another connection it has to be there still: had it been another's for a while, what
 * is known of the disk would be worth nothing. */
static int look_whether_kept(struct iscsi *s, const struct reserve_state *now)
{
	if (!reserve_is_ours(now, s->key))
		note_taken(s);
	return 0;
}

static int refuse_reader(
	struct iscsi *s, struct blk *b, const struct reserve_state *now, struct err *err)
{
	if ((b->flags & (BLK_O_RDWR | BLK_O_SHARE)) || !now->held ||
		now->holder == s->key)
		return 0;
	return is_reserved(s, now->holder, err);
}

static int reserve_failed(struct iscsi *s, int ret, uint64_t holder, struct err *err)
{
	if (ret == -EBUSY)
		return is_reserved(s, holder, err);
	if (ret == -ENOTSUP)
		return err_set(err, ENOTSUP,
			"%s: the target has no persistent reservations", s->shown);
	return err_errno(err, -ret, "%s: cannot reserve the LUN", s->shown);
}

/* While connecting. Several paths are told when (node_reserve). */
static int settle_reservation(struct iscsi *s, struct blk *b, struct err *err)
{
	bool takes = (b->flags & BLK_O_RDWR) && !(b->flags & BLK_O_PATH) && !s->reserved;
	struct reserve_state now;
	uint64_t holder = 0;
	int ret;

	if (takes && s->facts.read_only)
		return 0; /* it will be refused */
	if (takes) {
		ret = reserve_take(run_blocking, s, s->key, &holder);
		s->reserved = ret == 0;
	} else {
		ret = reserve_look(run_blocking, s, &now);
		holder = now.holder;
	}
	if (ret)
		return reserve_failed(s, ret, holder, err);
	if (takes)
		return 0;
	return s->reserved ? look_whether_kept(s, &now) : refuse_reader(s, b, &now, err);
}

static int node_connect(struct blk *b, struct err *err)
{
	struct iscsi *s = iscsi_of(b);
	struct iscsi_facts now = {0};
	int ret;

	s->ctx = iscsi_create_context(s->initiator ? s->initiator : INITIATOR_NAME);
	if (!s->ctx)
		return err_errno(err, ENOMEM, "%s", s->shown);
	s->dead = false;
	ret = log_in(s, err);
	if (ret == 0)
		ret = learn(s, &now, err);
	if (ret == 0)
		ret = settle_facts(s, &now, err);
	else
		free(now.identity);
	if (ret == 0 && s->reserve)
		ret = settle_reservation(s, b, err);
	/* From here on the session's own limit counts. */
	iscsi_set_timeout(s->ctx, 0);
	if (ret == 0 && remote_start(&s->remote, &remote_ops, s))
		ret = err_errno(err, ENOMEM, "%s", s->shown);
	if (ret) {
		iscsi_destroy_context(s->ctx);
		s->ctx = NULL;
	}
	return ret;
}

/* ---- one command ----------------------------------------------------------------- */

struct command {
	struct remote_wait wait; /* first */
	int status;
};

static struct command *command_new(struct iscsi *s)
{
	struct command *c = calloc(1, sizeof(*c));

	if (c)
		remote_wait_begin(&s->remote, &c->wait);
	return c;
}

/* An abandoned command's task is freed where libiscsi gives it back. */
static void commanded(struct iscsi_context *ctx, int status, void *data, void *arg)
{
	struct command *c = arg;

	(void)ctx;
	if (!remote_is_wanted(&c->wait)) {
		if (data)
			scsi_free_scsi_task(data);
		free(c);
		return;
	}
	c->status = status;
	remote_answer(&c->wait);
}

/* Waits for a task that was sent, and tells what became of it. The task stays the caller's,
 * but where *task is NULL afterwards. */
static int wait_for(struct iscsi *s, struct command *c, struct scsi_task **task)
{
	int status;

	if (!*task) {
		remote_wait_cancel(&c->wait);
		free(c);
		return s->dead || !iscsi_is_logged_in(s->ctx) ? SESSION_LOST : -ENOMEM;
	}
	remote_push(&s->remote);
	if (!remote_wait_end(&c->wait)) {
		*task = NULL;
		return SESSION_LOST;
	}
	status = c->status;
	free(c);
	switch (status) {
	case SCSI_STATUS_CANCELLED:
	case SCSI_STATUS_ERROR:
	case SCSI_STATUS_TIMEOUT:
		s->dead = true; /* nothing here cancels but a broken connection */
		return SESSION_LOST;
	default:
		return error_of(*task, status);
	}
}

struct request {
	struct scsi_task *(*send)(
		struct iscsi *s, const struct request *r, struct command *c);
	uint64_t offset, bytes;
	const struct iovec *iov;
	int niov;
	unsigned flags;
	/* What answers with data is looked at here. */
	int (*receive)(struct iscsi *s, struct scsi_task *task, const struct request *r);
	void *out;
	bool changes; /* the disk, or makes a change stable */
};

static struct scsi_task *send_capacity(
	struct iscsi *s, const struct request *r, struct command *c);
static void look_at_attention(
	struct blk *b, const struct request *r, const struct scsi_task *task);

static int run(struct blk *b, const struct request *r)
{
	struct iscsi *s = iscsi_of(b);
	uint64_t wait_ns = RETRY_NS;
	int ret = AGAIN;

	for (int i = 0; i < RETRIES && ret == AGAIN; i++) {
		struct command *c;
		struct scsi_task *task;

		if (r->changes && atomic_load(&s->taken))
			return -EBADE;
		c = command_new(s);
		if (!c)
			return -ENOMEM;
		task = s->dead ? NULL : r->send(s, r, c);
		ret = wait_for(s, c, &task);
		/* A target that did less than it was asked for and calls it good. */
		if (ret == 0 && r->iov &&
			task->residual_status != SCSI_RESIDUAL_NO_RESIDUAL)
			ret = -EIO;
		if (ret == 0 && r->receive)
			ret = r->receive(s, task, r);
		if (ret == AGAIN)
			look_at_attention(b, r, task);
		if (ret == AGAIN && task->sense.key != SCSI_SENSE_UNIT_ATTENTION) {
			task_sleep_ns(wait_ns);
			wait_ns *= 2;
		}
		if (task)
			scsi_free_scsi_task(task);
	}
	if (ret == -EBADE && s->reserved)
		note_taken(s);
	return ret == AGAIN ? -EIO : ret;
}

static int issue(struct blk *b, void *arg)
{
	return run(b, arg);
}

#define BLOCKS(s, bytes) ((bytes) / (s)->facts.block_bytes)

/* struct scsi_iovec has the members of struct iovec; libiscsi counts on it as well. */
static struct scsi_iovec *vector(const struct request *r)
{
	_Static_assert(
		sizeof(struct scsi_iovec) == sizeof(struct iovec), "the same layout");
	return (struct scsi_iovec *)(uintptr_t)r->iov;
}

static struct scsi_task *send_read(
	struct iscsi *s, const struct request *r, struct command *c)
{
	return iscsi_read16_iov_task(s->ctx, s->lun, BLOCKS(s, r->offset), r->bytes,
		s->facts.block_bytes, 0, 0, 0, 0, 0, commanded, c, vector(r), r->niov);
}

static struct scsi_task *send_write(
	struct iscsi *s, const struct request *r, struct command *c)
{
	return iscsi_write16_iov_task(s->ctx, s->lun, BLOCKS(s, r->offset), NULL,
		r->bytes, s->facts.block_bytes, 0, 0, (r->flags & BLK_FUA) != 0, 0, 0,
		commanded, c, vector(r), r->niov);
}

static struct scsi_task *send_flush(
	struct iscsi *s, const struct request *r, struct command *c)
{
	(void)r;
	return s->short_flush ? iscsi_synchronizecache10_task(
					s->ctx, s->lun, 0, 0, 0, 0, commanded, c)
			      : iscsi_synchronizecache16_task(
					s->ctx, s->lun, 0, 0, 0, 0, commanded, c);
}

static struct scsi_task *send_zero(
	struct iscsi *s, const struct request *r, struct command *c)
{
	bool unmap = (r->flags & BLK_MAY_UNMAP) && s->facts.write_same_unmaps &&
		     s->facts.zero_after_unmap;

	return iscsi_writesame16_task(s->ctx, s->lun, BLOCKS(s, r->offset), s->zeros,
		s->facts.block_bytes, BLOCKS(s, r->bytes), 0, unmap, 0, 0, commanded, c);
}

static struct scsi_task *send_unmap(
	struct iscsi *s, const struct request *r, struct command *c)
{
	struct unmap_list list = {
		.lba = BLOCKS(s, r->offset), .num = BLOCKS(s, r->bytes)};

	return iscsi_unmap_task(s->ctx, s->lun, 0, 0, &list, 1, commanded, c);
}

static struct scsi_task *send_capacity(
	struct iscsi *s, const struct request *r, struct command *c)
{
	(void)r;
	return iscsi_readcapacity16_task(s->ctx, s->lun, commanded, c);
}

static struct scsi_task *send_status(
	struct iscsi *s, const struct request *r, struct command *c)
{
	return iscsi_get_lba_status_task(
		s->ctx, s->lun, BLOCKS(s, r->offset), LBA_STATUS_BYTES, commanded, c);
}

/* ---- the size -------------------------------------------------------------------- */

static int receive_capacity(
	struct iscsi *s, struct scsi_task *task, const struct request *r)
{
	const struct scsi_readcapacity16 *rc = scsi_datain_unmarshall(task);

	if (!rc || rc->block_length != s->facts.block_bytes ||
		rc->returned_lba >= BLK_MAX_SIZE / rc->block_length)
		return -EIO;
	*(uint64_t *)r->out = (rc->returned_lba + 1) * s->facts.block_bytes;
	return 0;
}

static int issue_capacity(struct blk *b, void *arg)
{
	struct request r = {
		.send = send_capacity, .receive = receive_capacity, .out = arg};

	return run(b, &r);
}

/* Said before the next command, which has not been done: the LUN was made larger; another has
 * taken the reservation away, and may have given it up again, so that the target itself
 * would not refuse what comes. */
static void look_at_attention(
	struct blk *b, const struct request *r, const struct scsi_task *task)
{
	struct iscsi *s = iscsi_of(b);
	uint64_t bytes;

	if (task->sense.key != SCSI_SENSE_UNIT_ATTENTION)
		return;
	switch (task->sense.ascq) {
	case SCSI_SENSE_ASCQ_CAPACITY_DATA_HAS_CHANGED:
		if (r->send != send_capacity && issue_capacity(b, &bytes) == 0)
			blk_set_size(b, bytes);
		break;
	case ATTENTION_RESERVATION_PREEMPTED:
	case ATTENTION_REGISTRATION_PREEMPTED:
		if (s->reserved)
			note_taken(s);
		break;
	default:
		break;
	}
}

static int node_resize(
	struct blk *b, uint64_t bytes, enum blk_prealloc prealloc, struct err *err)
{
	struct iscsi *s = iscsi_of(b);
	uint64_t now;
	int ret = session_run(&s->session, issue_capacity, &now);

	if (ret)
		return err_errno(err, -ret, "Could not read the size of '%s'", s->shown);
	blk_set_size(b, now);
	if (prealloc != BLK_PREALLOC_OFF)
		return err_set(err, ENOTSUP, "Unsupported preallocation mode: %s",
			blk_prealloc_names[prealloc]);
	if (bytes > now)
		return err_set(err, EINVAL,
			"Cannot grow the LUN: it has %" PRIu64
			" bytes, and its size is set "
			"at the target",
			now);
	return 0;
}

/* ---- requests -------------------------------------------------------------------- */

static int node_preadv(
	struct blk *b, uint64_t offset, uint64_t bytes, const struct iovec *iov, int niov)
{
	struct request r = {.send = send_read,
		.offset = offset,
		.bytes = bytes,
		.iov = iov,
		.niov = niov};

	return session_run(&iscsi_of(b)->session, issue, &r);
}

static int node_pwritev(struct blk *b, uint64_t offset, uint64_t bytes,
	const struct iovec *iov, int niov, unsigned flags)
{
	(void)bytes;
	return session_write(&iscsi_of(b)->session, offset, iov, niov, flags);
}

static int issue_write(
	struct blk *b, uint64_t offset, const struct iovec *iov, int niov, unsigned flags)
{
	struct request r = {.send = send_write,
		.changes = true,
		.offset = offset,
		.bytes = iov_bytes(iov, niov),
		.iov = iov,
		.niov = niov,
		.flags = flags};

	return run(b, &r);
}

static int node_flush(struct blk *b)
{
	return session_flush(&iscsi_of(b)->session);
}

/* Of SYNCHRONIZE CACHE a LUN may know the short form only (SBC-3: both are optional), and none where it
 * has no write cache. */
static int issue_flush(struct blk *b)
{
	struct request r = {.send = send_flush, .changes = true};
	struct iscsi *s = iscsi_of(b);
	int ret = run(b, &r);

	if (ret == -ENOTSUP) {
		s->short_flush = !s->short_flush;
		ret = run(b, &r);
	}
	return ret == -ENOTSUP ? 0 : ret;
}

static int node_zero(struct blk *b, uint64_t offset, uint64_t bytes, unsigned flags)
{
	unsigned others = flags & ~(unsigned)BLK_FUA;
	int ret = session_zero(&iscsi_of(b)->session, offset, bytes, others);

	/* WRITE SAME has no such bit. */
	return ret == 0 && (flags & BLK_FUA) ? node_flush(b) : ret;
}

static int issue_zero(struct blk *b, uint64_t offset, uint64_t bytes, unsigned flags)
{
	struct request r = {.send = send_zero,
		.changes = true,
		.offset = offset,
		.bytes = bytes,
		.flags = flags};
	struct iscsi *s = iscsi_of(b);
	int ret = s->no_write_same ? -ENOTSUP : run(b, &r);

	if (ret == -ENOTSUP)
		s->no_write_same = true;
	return ret;
}

static int node_discard(struct blk *b, uint64_t offset, uint64_t bytes)
{
	struct iscsi *s = iscsi_of(b);
	struct request r = {
		.send = send_unmap, .changes = true, .offset = offset, .bytes = bytes};

	return s->facts.unmap ? session_run(&s->session, issue, &r) : -ENOTSUP;
}

/* ---- extents --------------------------------------------------------------------- */

static int receive_status(
	struct iscsi *s, struct scsi_task *task, const struct request *r)
{
	const struct scsi_get_lba_status *status = scsi_datain_unmarshall(task);
	const struct scsi_lba_status_descriptor *d;
	struct blk_extent *out = r->out;
	uint64_t bytes;

	if (!status || !status->num_descriptors)
		return -EIO;
	d = &status->descriptors[0];
	if (d->lba != BLOCKS(s, r->offset) || !d->num_blocks)
		return -EIO;
	bytes = (uint64_t)d->num_blocks * s->facts.block_bytes;
	out->bytes = MIN(bytes, r->bytes);
	if (d->provisioning == SCSI_PROVISIONING_TYPE_DEALLOCATED &&
		s->facts.zero_after_unmap)
		out->flags = BLK_EXT_ZERO;
	return 0;
}

/* Where the target does not tell, or tells nonsense, all of it is data. */
static int node_extent(
	struct blk *b, uint64_t offset, uint64_t bytes, struct blk_extent *out)
{
	struct iscsi *s = iscsi_of(b);
	struct request r = {.send = send_status,
		.receive = receive_status,
		.offset = round_down(offset, b->limits.request_align),
		.bytes = bytes,
		.out = out};
	int ret;

	out->bytes = bytes;
	out->flags = BLK_EXT_DATA;
	if (s->facts.thin && !s->no_status) {
		ret = session_run(&s->session, issue, &r);
		if (ret == -ENOTSUP || ret == -EIO)
			s->no_status = true;
		else if (ret)
			return ret;
	}
	out->flags |= BLK_EXT_ALLOCATED | BLK_EXT_HOST;
	out->host = b;
	out->host_offset = offset;
	return 0;
}

/* ---- one path of several --------------------------------------------------------- */

static struct scsi_task *send_ready(
	struct iscsi *s, const struct request *r, struct command *c)
{
	(void)r;
	return iscsi_testunitready_task(s->ctx, s->lun, commanded, c);
}

/* A command that is made here and not by libiscsi. */
static struct scsi_task *send_made(
	struct iscsi *s, const struct request *r, struct command *c)
{
	struct scsi_command *m = r->out;
	struct iscsi_data out = data_of(m);
	struct scsi_task *task = task_of(m);

	if (task && iscsi_scsi_command_async(
			    s->ctx, s->lun, task, commanded, m->out ? &out : NULL, c)) {
		scsi_free_scsi_task(task);
		task = NULL;
	}
	return task;
}

static int receive_made(struct iscsi *s, struct scsi_task *task, const struct request *r)
{
	(void)s;
	take_data(r->out, task);
	return 0;
}

/* A reserve_run, on the home loop. */
static int run_made(void *ctx, struct scsi_command *m)
{
	struct request r = {.send = send_made, .receive = receive_made, .out = m};

	return run(ctx, &r);
}

static int issue_check(struct blk *b, void *arg)
{
	struct iscsi *s = iscsi_of(b);
	struct request ready = {.send = send_ready};
	struct scsi_command c;
	uint8_t *list;
	int is_ready = run(b, &ready), ret;
	unsigned *priority = arg;

	/* A port on standby is not ready, and a path all the same. */
	if ((is_ready && is_ready != -EHOSTDOWN) || !s->asymmetric)
		return is_ready;
	list = malloc(GROUPS_BYTES);
	if (!list)
		return -ENOMEM;
	scsi_report_port_groups(&c, list, GROUPS_BYTES);
	ret = run_made(b, &c);
	if (ret == 0)
		*priority = scsi_group_priority(list, c.got, s->port_group);
	free(list);
	if (ret == 0 && is_ready)
		*priority = MIN(*priority, (unsigned)BLK_PATH_STANDBY);
	return ret == -ENOTSUP ? is_ready : ret;
}

static int node_check_path(struct blk *b, unsigned *priority)
{
	*priority = BLK_PATH_OPTIMIZED;
	return session_run(&iscsi_of(b)->session, issue_check, priority);
}

static void reset_done(struct iscsi_context *ctx, int status, void *data, void *arg)
{
	struct command *c = arg;

	(void)ctx;
	if (!remote_is_wanted(&c->wait)) {
		free(c);
		return;
	}
	c->status = status;
	if (status == SCSI_STATUS_GOOD &&
		(!data || *(uint32_t *)data != ISCSI_TMR_FUNC_COMPLETE))
		c->status = SCSI_STATUS_CHECK_CONDITION;
	remote_answer(&c->wait);
}

/* LOGICAL UNIT RESET: the unit ends every command it has, by any path and of anybody, before
 * it answers (SAM-5, LOGICAL UNIT RESET). */
static int issue_reset(struct blk *b, void *arg)
{
	struct iscsi *s = iscsi_of(b);
	struct command *c = command_new(s);
	int status;

	(void)arg;
	if (!c)
		return -ENOMEM;
	if (s->dead || iscsi_task_mgmt_lun_reset_async(
			       s->ctx, (uint32_t)s->lun, reset_done, c)) {
		remote_wait_cancel(&c->wait);
		free(c);
		return s->dead || !iscsi_is_logged_in(s->ctx) ? SESSION_LOST : -ENOMEM;
	}
	remote_push(&s->remote);
	if (!remote_wait_end(&c->wait))
		return SESSION_LOST;
	status = c->status;
	free(c);
	if (status == SCSI_STATUS_GOOD)
		return 0;
	return status == SCSI_STATUS_CHECK_CONDITION ? -ENOTSUP : SESSION_LOST;
}

static int node_fence(struct blk *b)
{
	return session_run(&iscsi_of(b)->session, issue_reset, NULL);
}

static int node_identity(struct blk *b, char **out)
{
	const char *identity = iscsi_of(b)->facts.identity;

	if (!identity)
		return -ENOTSUP;
	*out = strdup(identity);
	return *out ? 0 : -ENOMEM;
}

static void node_describe(struct blk *b, struct json *facts)
{
	const struct iscsi_facts *f = &iscsi_of(b)->facts;

	if (f->identity)
		json_put_string(facts, "identity", f->identity);
	json_put_int(facts, "block-size", f->block_bytes);
	json_put_bool(facts, "thin-provisioned", f->thin);
	json_put_bool(facts, "discard", f->unmap);
	json_put_bool(facts, "reads-zeros-after-discard", f->zero_after_unmap);
	json_put_bool(facts, "write-protected", f->read_only);
	json_put_bool(facts, "asymmetric-access", f->asymmetric);
}

/* ---- who holds it ---------------------------------------------------------------- */

static int issue_look(struct blk *b, void *arg)
{
	return reserve_look(run_made, b, arg);
}

static struct json *node_holders(struct blk *b, struct err *err)
{
	struct iscsi *s = iscsi_of(b);
	struct reserve_state now;
	struct json *list;
	int ret = session_run(&s->session, issue_look, &now);

	if (ret) {
		err_errno(err, -ret, "%s: cannot read the reservation", s->shown);
		return NULL;
	}
	list = json_new_array();
	reserve_describe(&now, list);
	return list;
}

struct breaking {
	const char *victim;
	struct err *err;
};

static int issue_break(struct blk *b, void *arg)
{
	const struct breaking *w = arg;
	struct iscsi *s = iscsi_of(b);

	return reserve_break_named(run_made, b, s->key, s->shown, w->victim, w->err);
}

static int node_break_lock(struct blk *b, const char *holder, struct err *err)
{
	struct breaking w = {.victim = holder, .err = err};
	int ret = session_run(&iscsi_of(b)->session, issue_break, &w);

	/* Where it did not come to that, there was no connection. */
	return ret && !err->code ? err_errno(err, -ret, "%s", iscsi_of(b)->shown) : ret;
}

struct reserving {
	bool join;
	uint64_t holder;
};

static int issue_reserve(struct blk *b, void *arg)
{
	struct iscsi *s = iscsi_of(b);
	struct reserving *r = arg;
	int ret = r->join ? reserve_join(run_made, b, s->key)
			  : reserve_take(run_made, b, s->key, &r->holder);

	s->reserved = ret == 0;
	return ret;
}

static int node_reserve(struct blk *b, bool join, struct err *err)
{
	struct iscsi *s = iscsi_of(b);
	struct reserving r = {.join = join};
	int ret;

	if (!s->reserve || !(b->flags & BLK_O_RDWR) || s->facts.read_only)
		return 0;
	ret = session_run(&s->session, issue_reserve, &r);
	return ret ? reserve_failed(s, ret, r.holder, err) : 0;
}

/* On the home loop. What other paths then hear of it is no news. */
static int issue_drop(struct blk *b, void *arg)
{
	struct iscsi *s = iscsi_of(b);

	(void)arg;
	if (!s->reserved || atomic_load(&s->taken))
		return 0;
	s->reserved = false;
	reserve_drop(run_made, b, s->key);
	return 0;
}

static void node_release(struct blk *b)
{
	session_run(&iscsi_of(b)->session, issue_drop, NULL);
}

/* ---- a guest's reservations ------------------------------------------------------ */

static int issue_pr(struct blk *b, void *arg)
{
	return reserve_pass(run_made, b, arg);
}

static int node_pr(struct blk *b, struct blk_pr *pr)
{
	struct session *s = &iscsi_of(b)->session;

	return blk_pr_repeats(pr) ? session_run(s, issue_pr, pr)
				  : session_run_once(s, issue_pr, pr);
}

static int node_pr_begin(struct blk *b, struct err *err)
{
	struct iscsi *s = iscsi_of(b);
	struct reserve_state now;
	int ret;

	if (s->reserve)
		return err_set(err, EBUSY,
			"%s: reservation=on reserves it for this program, so the guest "
			"cannot",
			s->shown);
	ret = session_run(&s->session, issue_look, &now);
	if (ret)
		return err_errno(err, -ret, "%s: cannot read the reservation", s->shown);
	s->session.passes = true;
	return 0;
}

static void node_note_loss(struct blk *b)
{
	session_note_loss(&iscsi_of(b)->session);
}

static const struct blk_storage_ops storage_ops = {
	.holders = node_holders,
	.break_lock = node_break_lock,
	.reserve = node_reserve,
	.release = node_release,
	.pr_begin = node_pr_begin,
	.pr = node_pr,
	.identity = node_identity,
	.describe = node_describe,
	.check_path = node_check_path,
	.note_loss = node_note_loss,
	.fence = node_fence,
};

/* ---- open and close -------------------------------------------------------------- */

static void log_out(struct iscsi *s)
{
	struct command *c = command_new(s);

	if (!c)
		return;
	if (iscsi_logout_async(s->ctx, commanded, c)) {
		remote_wait_cancel(&c->wait);
		free(c);
		return;
	}
	remote_push(&s->remote);
	if (remote_wait_end(&c->wait))
		free(c);
}

static void node_disconnect(struct blk *b, bool clean)
{
	struct iscsi *s = iscsi_of(b);

	if (clean && !s->dead && !(b->flags & BLK_O_PATH))
		issue_drop(b, NULL);
	if (clean && !s->dead)
		log_out(s);
	remote_stop(&s->remote);
	iscsi_destroy_context(s->ctx);
	s->ctx = NULL;
}

static void node_cut(struct blk *b)
{
	remote_cut(fd_of(iscsi_of(b)));
}

static const struct session_ops session_ops = {
	.connect = node_connect,
	.disconnect = node_disconnect,
	.cut = node_cut,
	.write = issue_write,
	.zero = issue_zero,
	.flush = issue_flush,
	.ends_old = true, /* reinstatement, of the same ISID (RFC 7143, 6.3.5) */
};

static void wipe(char *secret)
{
	if (secret)
		explicit_bzero(secret, strlen(secret));
	free(secret);
}

static int node_close(struct blk *b)
{
	struct iscsi *s = iscsi_of(b);

	session_close(&s->session);
	free(s->shown);
	free(s->facts.identity);
	wipe(s->url);
	free(s->initiator);
	free(s->user);
	free(s->target_user);
	wipe(s->password);
	wipe(s->target_password);
	buf_free(s->zeros);
	return 0;
}

static void set_limits(struct blk *b)
{
	const struct iscsi_facts *f = &iscsi_of(b)->facts;
	uint64_t block = f->block_bytes, unit = MAX(f->unmap_granularity, 1u) * block;
	uint64_t most = f->max_transfer ? f->max_transfer * block : TRANSFER_MAX;
	uint64_t most_zero = f->max_write_same ? f->max_write_same : 65536;
	uint64_t most_unmap = f->max_unmap ? f->max_unmap : 65536;

	b->size = f->blocks * block;
	b->limits.request_align = block;
	b->limits.max_transfer = MIN(most, (uint64_t)TRANSFER_MAX);
	b->limits.discard_align = is_pow2(unit) && unit <= GiB ? unit : block;
	most_zero = MIN(most_zero, most_unmap);
	b->limits.max_discard = MIN(most_zero, (uint64_t)BLK_MAX_REQUEST / block) * block;
	b->caps |= BLK_CAP_SERIALISE;
	if (f->fua)
		b->caps |= BLK_CAP_FUA;
	if (f->write_same_unmaps && f->zero_after_unmap)
		b->caps |= BLK_CAP_ZERO_UNMAP;
}

static int node_open(struct blk *b, struct opts *opts, struct err *err)
{
	struct iscsi *s = iscsi_of(b);
	int ret = take_options(b, opts, err);

	if (ret == 0 && getrandom(&s->isid, sizeof(s->isid), 0) != sizeof(s->isid))
		ret = err_errno(err, errno, "no random numbers");
	s->isid &= 0xffffff;
	if (ret == 0)
		ret = session_open(&s->session, b, &session_ops, err);
	if (ret == 0 && s->facts.read_only && (b->flags & BLK_O_RDWR))
		ret = err_set(err, EACCES, "%s: the LUN is write-protected", s->shown);
	if (ret == 0) {
		s->zeros = buf_alloc(s->facts.block_bytes);
		ret = s->zeros ? 0 : err_errno(err, ENOMEM, "%s", s->shown);
	}
	if (ret) {
		node_close(b);
		return ret;
	}
	memset(s->zeros, 0, s->facts.block_bytes);
	set_limits(b);
	free(b->filename);
	b->filename = strdup(s->shown);
	return 0;
}

/* "iscsi://user@a:3260,b/target/lun" is one disk over two portals. */
static int node_parse_name(const char *name, struct opts *opts, struct err *err)
{
	const char *host = strstr(name, "://"), *end, *at, *next;
	unsigned n = 0;

	host = host ? host + 3 : name;
	end = host + strcspn(host, "/");
	at = memrchr(host, '@', (size_t)(end - host));
	host = at ? at + 1 : host;
	if (!memchr(host, ',', (size_t)(end - host))) {
		opts_set(opts, "filename", name);
		return 0;
	}
	opts_set(opts, "driver", "multipath");
	for (const char *begin = host; begin <= end; begin = next + 1, n++) {
		char key[24];

		next = memchr(begin, ',', (size_t)(end - begin));
		next = next ? next : end;
		if (next == begin)
			return err_set(err, EINVAL, "iscsi: an empty portal in the URL");
		snprintf(key, sizeof(key), "path.%u", n);
		opts_setf(opts, key, "%.*s%.*s%s", (int)(host - name), name,
			(int)(next - begin), begin, end);
	}
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

static const char *const schemes[] = {"iscsi", NULL};

const struct blk_driver blk_iscsi_driver = {
	.name = "iscsi",
	.kind = BLK_PROTOCOL,
	.schemes = schemes,
	.state_bytes = sizeof(struct iscsi),
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
