/* SPDX-License-Identifier: BSD-2-Clause */
/* Reservations of block devices. See hostreserve.h. */
#include "backends/hostreserve.h"

#include <errno.h>
#include <sys/ioctl.h>
#include <linux/pr.h>
#include <scsi/sg.h>

#include "backends/posix.h"
#include "base/endian.h"
#include "base/json.h"
#include "base/math.h"

#define SENSE_BYTES     64
#define TIMEOUT_MS      10000
#define RETRIES         4
#define STATUS_CONFLICT 0x18
#define STATUS_CHECK    0x02

/* ---- commands -------------------------------------------------------------------- */

/* What a SCSI status means. Of check conditions that are not unit attentions only one is
 * to be expected: the device does not know the command. */
static int error_of(int status)
{
	if (status == 0)
		return 0;
	if (status == STATUS_CONFLICT)
		return -EBADE;
	return status == STATUS_CHECK ? -ENOTSUP : -EIO;
}

/* These calls answer with a SCSI status where the device had one, and never with its sense data. What
 * may have been a unit attention, which each path that heard of a preemption has, is tried again; where
 * it was not, a command that was refused is refused again. */
static int pr_call(int fd, unsigned long request, void *arg)
{
	int ret = STATUS_CHECK;

	for (int i = 0; i < RETRIES && ret == STATUS_CHECK; i++)
		ret = posix_ioctl(fd, request, arg);

	/* Older kernels add a byte of their own to the status. */
	if (ret > 0 && (ret & 0xff) == STATUS_CONFLICT)
		return -EBADE;
	if (ret > UINT8_MAX)
		return -ENOLINK;
	if (ret > 0)
		return error_of(ret);
	return ret == -EOPNOTSUPP || ret == -ENOTTY || ret == -EINVAL ? -ENOTSUP : ret;
}

/* Types as the kernel numbers them, by their numbers in SPC-4; 0: there is none. */
static const uint8_t kernel_types[16] = {
	[1] = PR_WRITE_EXCLUSIVE,
	[3] = PR_EXCLUSIVE_ACCESS,
	[5] = PR_WRITE_EXCLUSIVE_REG_ONLY,
	[6] = PR_EXCLUSIVE_ACCESS_REG_ONLY,
	[7] = PR_WRITE_EXCLUSIVE_ALL_REGS,
	[8] = PR_EXCLUSIVE_ACCESS_ALL_REGS,
};
#define SPECIFIC_PORTS 0x0c /* SPEC_I_PT, ALL_TG_PT: of the parameter list's flags */

static int tell(int fd, const struct scsi_command *c)
{
	const uint8_t *out = c->out;
	unsigned action = c->cdb[1], type = c->cdb[2] < 16 ? kernel_types[c->cdb[2]] : 0;
	uint64_t key = be64_load(out);
	uint64_t action_key = be64_load(out + 8);
	struct pr_registration registration = {.old_key = key,
		.new_key = action_key,
		.flags = action == BLK_PR_REGISTER_IGNORING ? PR_FL_IGNORE_KEY : 0};
	struct pr_reservation reservation = {.key = key, .type = type};
	struct pr_preempt preemption = {
		.old_key = action_key, .new_key = key, .type = type};
	struct pr_clear clearing = {.key = key};

	switch (action) {
	case BLK_PR_REGISTER:
	case BLK_PR_REGISTER_IGNORING:
		return out[20] & SPECIFIC_PORTS
			       ? -ENOTSUP
			       : pr_call(fd, IOC_PR_REGISTER, &registration);
	case BLK_PR_CLEAR:
		return pr_call(fd, IOC_PR_CLEAR, &clearing);
	default:
		break;
	}
	if (!type)
		return -ENOTSUP;
	switch (action) {
	case BLK_PR_RESERVE:
		return pr_call(fd, IOC_PR_RESERVE, &reservation);
	case BLK_PR_RELEASE:
		return pr_call(fd, IOC_PR_RELEASE, &reservation);
	case BLK_PR_PREEMPT:
		return pr_call(fd, IOC_PR_PREEMPT, &preemption);
	case BLK_PR_PREEMPT_AND_ABORT:
		return pr_call(fd, IOC_PR_PREEMPT_ABORT, &preemption);
	default:
		return -ENOTSUP;
	}
}

static bool is_attention(const uint8_t sense[SENSE_BYTES])
{
	unsigned format = sense[0] & 0x7f;
	unsigned key = format >= 0x72 ? sense[1] & 0xf : sense[2] & 0xf;

	return key == 6;
}

static int ask(int fd, struct scsi_command *c)
{
	int ret = -EIO;

	for (int i = 0; i < RETRIES; i++) {
		uint8_t sense[SENSE_BYTES] = {0};
		struct sg_io_hdr io = {.interface_id = 'S',
			.dxfer_direction = SG_DXFER_FROM_DEV,
			.cmd_len = (unsigned char)c->cdb_bytes,
			.cmdp = c->cdb,
			.dxferp = c->in,
			.dxfer_len = (unsigned)c->in_bytes,
			.sbp = sense,
			.mx_sb_len = sizeof(sense),
			.timeout = TIMEOUT_MS};

		ret = posix_ioctl(fd, SG_IO, &io);
		if (ret < 0)
			return ret == -ENOTTY || ret == -EINVAL ? -ENOTSUP : ret;
		if (io.host_status || (io.driver_status & 0xf & ~8))
			return -EIO;
		ret = error_of(io.status);
		c->got = c->in_bytes - MIN((size_t)MAX(io.resid, 0), c->in_bytes);
		if (io.status != STATUS_CHECK || !is_attention(sense))
			break;
	}
	return ret;
}

/* A reserve_run; ctx is the descriptor. */
static int run(void *ctx, struct scsi_command *c)
{
	int fd = *(const int *)ctx;

	return c->cdb[0] == RESERVE_OPCODE_OUT ? tell(fd, c) : ask(fd, c);
}

/* ---- one device ------------------------------------------------------------------ */

int host_reserve_options(struct host_reserve *r, struct opts *opts, struct err *err)
{
	int ret = opts_take_bool(opts, "reservation", &r->wanted, err);

	r->key = reserve_own_key();
	ret = ret ? ret : opts_take_u64(opts, "reservation-key", &r->key, err);
	if (ret == 0 && !r->key)
		ret = err_set(err, EINVAL, "reservation-key: 0 is no key");
	return ret;
}

static int refuse(const char *filename, uint64_t holder, struct err *err)
{
	char name[RESERVE_NAME_MAX] = "another";

	if (holder)
		reserve_name(holder, name);
	return err_set(
		err, EBUSY, "Could not open '%s': it is reserved by %s", filename, name);
}

int host_reserve_begin(struct host_reserve *r, int fd, const char *filename, bool writer,
	bool join, struct err *err)
{
	struct reserve_state now = {.held = false};
	uint64_t holder = 0;
	int ret;

	if (!r->wanted)
		return 0;
	if (writer) {
		ret = join ? reserve_join(run, &fd, r->key)
			   : reserve_take(run, &fd, r->key, &holder);
		r->held = ret == 0;
	} else {
		ret = reserve_look(run, &fd, &now);
		holder = now.holder;
		if (ret == 0 && now.held && holder != r->key)
			ret = -EBUSY;
	}
	if (ret == -EBUSY)
		return refuse(filename, holder, err);
	if (ret == -ENOTSUP)
		return err_set(err, ENOTSUP,
			"Could not open '%s': the device has no persistent reservations",
			filename);
	return ret ? err_errno(err, -ret, "Could not reserve '%s'", filename) : 0;
}

int host_reserve_check(const struct host_reserve *r, int fd)
{
	struct reserve_state now;
	int ret;

	if (!r->held)
		return 0;
	ret = reserve_look(run, &fd, &now);
	return ret ? ret : reserve_is_ours(&now, r->key) ? 0 : -EBADE;
}

void host_reserve_end(struct host_reserve *r, int fd)
{
	if (r->held)
		reserve_drop(run, &fd, r->key);
	r->held = false;
}

void host_reserve_holders(int fd, struct json *array)
{
	struct reserve_state now;

	if (reserve_look(run, &fd, &now) == 0)
		reserve_describe(&now, array);
}

int host_reserve_pass_begin(
	const struct host_reserve *r, struct blk *b, int fd, struct err *err)
{
	struct reserve_state now;
	int ret;

	if (r->wanted)
		return err_set(err, EBUSY,
			"%s: reservation=on reserves it for this program, so the guest "
			"cannot",
			b->filename);
	ret = blk_need(b, BLK_NEEDS_RIGHTS, err);
	if (ret)
		return ret;
	ret = reserve_look(run, &fd, &now);
	if (ret == -ENOTSUP)
		return err_set(err, ENOTSUP,
			"%s: the device has no persistent reservations", b->filename);
	if (ret)
		return err_errno(
			err, -ret, "%s: cannot read the reservation", b->filename);
	return 0;
}

int host_reserve_pass(int fd, struct blk_pr *pr)
{
	return reserve_pass(run, &fd, pr);
}

int host_reserve_break(const struct host_reserve *r, int fd, const char *filename,
	const char *holder, struct err *err)
{
	return reserve_break_named(run, &fd, r->key, filename, holder, err);
}
