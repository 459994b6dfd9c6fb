/* SPDX-License-Identifier: BSD-2-Clause */
/* Disks between devices and the block layer. See disk.h. */
#include "vmm/disk.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/iov.h"
#include "base/log.h"
#include "base/math.h"
#include "base/task.h"
#include "block/driver.h"

#define SECOND   1000000000ull
#define BURST_NS (SECOND / 10) /* that much of its rate may be used at once */
#define NAP_NS   (SECOND / 50)
/* Of zeros that may have to be written out. */
#define SLOW_PIECE (64ull << 20)

const char *const disk_policy_names[] = {"report", "ignore", "stop", "enospc", NULL};

uint64_t disk_bytes(const struct disk *d)
{
	return blk_size(d->blk);
}

/* ---- limits ---------------------------------------------------------------------- */

/* For how long this much is all of the rate. */
static uint64_t price(uint64_t rate, uint64_t amount)
{
	return rate ? (uint64_t)((double)amount * (double)SECOND / (double)rate) : 0;
}

/* When this much of the rate may be used; it is then. The lock is held. */
static uint64_t take_turn(uint64_t *next, uint64_t rate, uint64_t amount, uint64_t now)
{
	uint64_t from = now > BURST_NS ? now - BURST_NS : 0, turn;

	if (!rate)
		return 0;
	turn = MAX(*next, from);
	*next = turn + price(rate, amount);
	return turn;
}

static uint64_t turn_of(struct disk *d, enum disk_kind kind, uint64_t bytes)
{
	unsigned which[] = {0, kind == DISK_READ ? 1 : 2};
	uint64_t turn = 0, now = clock_ns();

	pthread_mutex_lock(&d->lock);
	for (size_t i = 0; i < ARRAY_LEN(which); i++) {
		unsigned k = which[i];

		turn = MAX(
			turn, take_turn(&d->next_iops_ns[k], d->limits.iops[k], 1, now));
		turn = MAX(turn,
			take_turn(&d->next_bps_ns[k], d->limits.bps[k], bytes, now));
	}
	pthread_mutex_unlock(&d->lock);
	return turn;
}

/* It is paid for again when its turn has come. */
static void give_turn_back(struct disk *d, enum disk_kind kind, uint64_t bytes)
{
	unsigned which[] = {0, kind == DISK_READ ? 1 : 2};

	pthread_mutex_lock(&d->lock);
	for (size_t i = 0; i < ARRAY_LEN(which); i++) {
		unsigned k = which[i];

		d->next_iops_ns[k] -=
			MIN(d->next_iops_ns[k], price(d->limits.iops[k], 1));
		d->next_bps_ns[k] -=
			MIN(d->next_bps_ns[k], price(d->limits.bps[k], bytes));
	}
	pthread_mutex_unlock(&d->lock);
}

static bool any_limit(const struct disk_limits *l)
{
	for (unsigned i = 0; i < 3; i++)
		if (l->iops[i] || l->bps[i])
			return true;
	return false;
}

int disk_limits_check(const struct disk_limits *l, struct err *err)
{
	if ((l->iops[0] && (l->iops[1] || l->iops[2])) ||
		(l->bps[0] && (l->bps[1] || l->bps[2])))
		return err_set(err, EINVAL,
			"a limit is for all requests or for reads and writes, not both");
	return 0;
}

/* A debt that the old rate left is forgotten. */
void disk_set_limits(struct disk *d, const struct disk_limits *limits)
{
	pthread_mutex_lock(&d->lock);
	d->limits = *limits;
	memset(d->next_iops_ns, 0, sizeof(d->next_iops_ns));
	memset(d->next_bps_ns, 0, sizeof(d->next_bps_ns));
	__atomic_store_n(&d->limited, any_limit(limits), __ATOMIC_RELAXED);
	pthread_mutex_unlock(&d->lock);
}

struct disk_limits disk_limits_of(struct disk *d)
{
	struct disk_limits limits;

	pthread_mutex_lock(&d->lock);
	limits = d->limits;
	pthread_mutex_unlock(&d->lock);
	return limits;
}

/* -ECANCELED: the machine stops meanwhile. */
static int wait_turn(struct disk *d, enum disk_kind kind, uint64_t bytes)
{
	uint64_t turn, now;

	if (!__atomic_load_n(&d->limited, __ATOMIC_RELAXED) || kind == DISK_FLUSH)
		return 0;
	turn = turn_of(d, kind, bytes);
	while ((now = clock_ns()) < turn) {
		if (vm_stopping(d->vm)) {
			give_turn_back(d, kind, bytes);
			return -ECANCELED;
		}
		task_sleep_ns(MIN(turn - now, NAP_NS));
	}
	return 0;
}

/* ---- errors ---------------------------------------------------------------------- */

static const char *const kind_names[DISK_KINDS] = {
	"read", "write", "write zeroes", "discard", "flush"};

static void tell(struct disk *d, enum disk_kind kind, int error, enum disk_policy action)
{
	struct disk_failure f = {
		.disk = d, .kind = kind, .error = error, .action = action};
	bool stops = action == DISK_STOP;

	log_bounded(stops ? &d->said_stop : &d->said, LOG_LEVEL_WARNING, "%s: %s: %s%s",
		d->id, kind_names[kind], strerror(error),
		stops ? "; the machine stops" : "");
	if (d->vm->disk_failed)
		d->vm->disk_failed(d->vm->notify_arg, &f);
}

/* The request's own fault. Storage that has become read-only is none, and neither is what it says
 * to reading, writing or flushing. */
static bool is_refusal(const struct disk *d, enum disk_kind kind, int ret)
{
	if (ret == -EROFS)
		return d->read_only;
	return (kind == DISK_ZERO || kind == DISK_DISCARD) &&
	       (ret == -ENOTSUP || ret == -EINVAL);
}

/* What the guest gets to see of an error. */
static int judge(struct disk *d, enum disk_kind kind, int ret)
{
	enum disk_policy policy = d->policy[kind != DISK_READ];

	if (ret == 0 || is_refusal(d, kind, ret))
		return ret;
	if (ret == -EBADE && d->reservations)
		return ret; /* what reservations are for */
	if (policy == DISK_ENOSPC)
		policy = ret == -ENOSPC || ret == -EDQUOT ? DISK_STOP : DISK_REPORT;
	tell(d, kind, -ret, policy);
	if (policy == DISK_IGNORE)
		return 0;
	if (policy == DISK_REPORT)
		return ret;
	__atomic_store_n(&d->last_error, -ret, __ATOMIC_RELAXED);
	__atomic_store_n(&d->error_round, vm_round(d->vm), __ATOMIC_RELEASE);
	vm_pause(d->vm, VM_STATUS_IO_ERROR);
	return -ECANCELED;
}

static void add(uint64_t *to, uint64_t n)
{
	__atomic_fetch_add(to, n, __ATOMIC_RELAXED);
}

static int finish(
	struct disk *d, enum disk_kind kind, uint64_t bytes, uint64_t since, int ret)
{
	struct disk_count *c = &d->count[kind];
	uint64_t now;

	add(&c->requests, 1);
	now = clock_ns();
	add(&c->ns, now - since);
	__atomic_store_n(&d->last_ns, now, __ATOMIC_RELAXED);
	if (ret)
		add(&c->failed, 1);
	else
		add(&c->bytes, bytes);
	return judge(d, kind, ret);
}

static void note_end(struct disk *d, uint64_t end)
{
	uint64_t highest = __atomic_load_n(&d->highest, __ATOMIC_RELAXED);

	while (end > highest && !__atomic_compare_exchange_n(&d->highest, &highest, end,
					true, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
		;
}

/* ---- requests -------------------------------------------------------------------- */

int disk_read(struct disk *d, uint64_t offset, const struct iovec *iov, int niov)
{
	uint64_t bytes = iov_bytes(iov, niov), since = clock_ns();
	int ret = wait_turn(d, DISK_READ, bytes);

	if (ret)
		return ret;
	ret = blk_preadv(d->blk, offset, iov, niov, 0);
	return finish(d, DISK_READ, bytes, since, ret);
}

int disk_write(struct disk *d, uint64_t offset, const struct iovec *iov, int niov,
	unsigned flags)
{
	uint64_t bytes = iov_bytes(iov, niov), since = clock_ns();
	int ret = wait_turn(d, DISK_WRITE, bytes);

	if (ret)
		return ret;
	ret = blk_pwritev(d->blk, offset, iov, niov, flags);
	if (ret == 0)
		note_end(d, offset + bytes);
	return finish(d, DISK_WRITE, bytes, since, ret);
}

static int zero_piece(struct disk *d, uint64_t offset, uint64_t bytes, unsigned flags)
{
	uint64_t since = clock_ns();
	int ret = wait_turn(d, DISK_ZERO, bytes);

	if (ret)
		return ret;
	ret = blk_zero(d->blk, offset, bytes, flags);
	if (ret == 0)
		note_end(d, offset + bytes);
	return finish(d, DISK_ZERO, bytes, since, ret);
}

static int discard_piece(struct disk *d, uint64_t offset, uint64_t bytes, unsigned flags)
{
	uint64_t since = clock_ns();
	int ret = wait_turn(d, DISK_DISCARD, bytes);

	(void)flags;
	if (ret)
		return ret;
	if (d->discard)
		ret = blk_discard(d->blk, offset, bytes);
	return finish(d, DISK_DISCARD, bytes, since, ret);
}

/* So much may be asked for that nobody could wait for it. Pieces end where a multiple of their
 * size does, and so at no odd place of the storage's. */
static int in_pieces(struct disk *d, const struct disk_range *r, uint64_t most,
	int (*piece)(struct disk *, uint64_t, uint64_t, unsigned))
{
	uint64_t offset = r->offset, bytes = r->bytes;
	int ret = 0;

	while (bytes && ret == 0) {
		uint64_t n = MIN(bytes, most - offset % most);

		ret = r->done && vm_stopping(d->vm) ? -ECANCELED
						    : piece(d, offset, n, r->flags);
		if (ret == 0 && r->done)
			*r->done += n;
		offset += n;
		bytes -= n;
	}
	return ret;
}

int disk_zero(struct disk *d, const struct disk_range *r)
{
	bool fast = d->discard && d->discard_zeroes && (r->flags & BLK_MAY_UNMAP);

	return in_pieces(d, r, fast ? BLK_MAX_REQUEST : SLOW_PIECE, zero_piece);
}

int disk_discard(struct disk *d, const struct disk_range *r)
{
	return in_pieces(d, r, BLK_MAX_REQUEST, discard_piece);
}

int disk_flush(struct disk *d)
{
	uint64_t since = clock_ns();

	return finish(d, DISK_FLUSH, 0, since, blk_flush(d->blk));
}

int disk_reserve(struct disk *d, struct blk_pr *pr)
{
	return blk_pr(d->blk, pr);
}

/* ---- control --------------------------------------------------------------------- */

int disk_resize(struct disk *d, uint64_t bytes, struct err *err)
{
	int ret;

	if (d->read_only)
		return err_set(err, EROFS, "%s is read-only", d->id);
	if (bytes % BLK_SECTOR)
		return err_set(err, EINVAL, "%s: a size is a multiple of %u bytes", d->id,
			BLK_SECTOR);
	ret = blk_resize(d->blk, bytes, BLK_PREALLOC_OFF, err);
	if (ret == 0 && d->resized)
		d->resized(d->front);
	return ret;
}

struct disk *disk_find(struct vm *vm, const char *id)
{
	struct disk *d = vm->disks;

	while (d && strcmp(d->id, id) != 0)
		d = d->next;
	return d;
}

static void disk_free(struct device *dev)
{
	struct disk *d = (struct disk *)dev, **at = &d->vm->disks;

	while (*at && *at != d)
		at = &(*at)->next;
	if (*at)
		*at = d->next;
	pthread_mutex_destroy(&d->lock);
	free(d);
}

static const struct device_ops disk_ops = {
	.name = "disk",
	.free = disk_free,
};

static int name_disk(struct disk *d, const char *id, struct err *err)
{
	unsigned n = 0;

	if (!id) {
		do
			snprintf(d->id, sizeof(d->id), "disk%u", n++);
		while (disk_find(d->vm, d->id));
		return 0;
	}
	if (!*id || strlen(id) >= sizeof(d->id))
		return err_set(err, EINVAL, "a disk's id '%s' has 1 to %zu characters",
			id, sizeof(d->id) - 1);
	if (disk_find(d->vm, id))
		return err_set(err, EEXIST, "there is a disk '%s' already", id);
	strcpy(d->id, id);
	return 0;
}

int disk_new(
	struct vm *vm, const struct disk_options *o, struct disk **out, struct err *err)
{
	struct disk *d = calloc(1, sizeof(*d)), **last = &vm->disks;
	int ret;

	if (!d)
		return err_errno(err, ENOMEM, "disk");
	d->device.ops = &disk_ops;
	d->vm = vm;
	d->blk = o->blk;
	d->read_only = blk_read_only(o->blk);
	d->discard = o->discard;
	d->reservations = o->reservations;
	d->discard_zeroes = o->blk->caps & BLK_CAP_ZERO_UNMAP;
	d->boot = o->boot;
	d->policy[0] = o->on_read_error;
	d->policy[1] = o->on_write_error;
	ret = o->reservations ? blk_pr_begin(o->blk, err) : 0;
	ret = ret ? ret : name_disk(d, o->id, err);
	if (ret) {
		free(d);
		return ret;
	}
	if (o->serial)
		snprintf(d->serial, sizeof(d->serial), "%s", o->serial);
	pthread_mutex_init(&d->lock, NULL);
	disk_set_limits(d, &o->limits);
	while (*last)
		last = &(*last)->next;
	*last = d;
	vm_add_device(vm, &d->device);
	*out = d;
	return 0;
}
