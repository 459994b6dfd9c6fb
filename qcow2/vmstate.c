/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * VM state: what a machine's memory and devices are saved into, before a snapshot takes it
 * along. It lies behind the disk in the guest's address space, from the first L2 table that
 * maps nothing of the disk on, and is written and read like guest data. What a crash leaves
 * is what it leaves of guest data.
 */
#include "qcow2/qcow2.h"

/* Where it lies behind a disk of that size. Only whole sectors can be encrypted. */
static int locate_behind(struct qcow2 *q, uint64_t disk_bytes, uint64_t offset,
	uint64_t bytes, uint64_t *at)
{
	uint64_t start = qcow2_vm_state_offset(q, disk_bytes);

	if (q->external_data)
		return -ENOTSUP; /* nothing behind the disk belongs to a data file */
	if (offset > BLK_MAX_SIZE - start || bytes > BLK_MAX_SIZE - start - offset)
		return -EFBIG;
	if (!is_aligned(offset | bytes, q->b->limits.request_align))
		return -EINVAL;
	if (q->encrypted && !q->cipher)
		return -EACCES;
	*at = start + offset;
	return 0;
}

static int locate(struct qcow2 *q, uint64_t offset, uint64_t bytes, uint64_t *at)
{
	return locate_behind(q, blk_size(q->b), offset, bytes, at);
}

static bool is_covered(const struct qcow2 *q, uint64_t end)
{
	return end <= q->l1_entries * qcow2_l2_span(q);
}

/* A longer L1. */
static int cover(struct qcow2 *q, uint64_t end)
{
	uint64_t entries = qcow2_l1_needed(q, end);
	int ret;

	if (entries * 8 > QCOW2_MAX_L1_BYTES)
		return -EFBIG;
	qcow2_exclusive_begin(q);
	ret = q->corrupt || !q->loaded ? -EIO : qcow2_prepare_write(q);
	if (ret == 0 && !is_covered(q, end))
		ret = qcow2_l1_grow(q, (uint32_t)entries, NULL);
	qcow2_exclusive_end(q);
	return ret;
}

/* As qcow2_change_begin, with an L1 that reaches to end. */
static int change_begin(struct qcow2 *q, uint64_t end, struct qcow2_change *c)
{
	for (;;) {
		int ret = qcow2_change_begin(q, c);

		if (ret < 0 || is_covered(q, end))
			return ret;
		qcow2_leave(q, c->epoch);
		ret = cover(q, end);
		if (ret < 0)
			return ret;
	}
}

int qcow2_vm_state_write(
	struct blk *b, uint64_t offset, const struct iovec *iov, int niov)
{
	struct qcow2 *q = b->state;
	size_t bytes = iov_bytes(iov, niov);
	struct qcow2_change c;
	uint64_t at;
	int ret = locate(q, offset, bytes, &at);

	if (ret < 0)
		return ret;
	do {
		ret = change_begin(q, at + bytes, &c);
		if (ret < 0)
			return ret;
		ret = qcow2_write_guest(q, at, bytes, iov, niov);
	} while (qcow2_change_again(q, &c, ret));
	return ret;
}

static int read_held(
	struct qcow2 *q, uint64_t at, size_t bytes, const struct iovec *iov, int niov)
{
	uint64_t end = q->l1_entries * qcow2_l2_span(q);
	size_t there = end > at ? MIN((uint64_t)bytes, end - at) : 0;
	struct qcow2_part part;
	int ret;

	iov_fill(iov, niov, there, 0, bytes - there);
	if (!there)
		return 0;
	qcow2_part_init(&part, iov, niov, 0, there);
	ret = part.iov ? qcow2_read_guest(q, at, there, part.iov, part.n) : -ENOMEM;
	qcow2_part_free(&part);
	return ret;
}

int qcow2_vm_state_read(struct blk *b, uint64_t offset, const struct iovec *iov, int niov)
{
	struct qcow2 *q = b->state;
	size_t bytes = iov_bytes(iov, niov);
	unsigned epoch;
	uint64_t at;
	int ret = locate(q, offset, bytes, &at);

	if (ret < 0)
		return ret;
	epoch = qcow2_enter(q);
	ret = q->loaded ? read_held(q, at, bytes, iov, niov) : -EIO;
	qcow2_leave(q, epoch);
	return ret;
}

/* In exclusive mode no request sees whose tables these are, and with the lock no commit, which would
 * write them as the disk's. */
static int read_by(struct qcow2 *q, _Atomic uint64_t *l1, uint32_t entries, uint64_t at,
	size_t bytes, const struct iovec *iov, int niov)
{
	_Atomic uint64_t *active;
	uint32_t active_entries;
	int ret;

	qcow2_exclusive_begin(q);
	task_lock(&q->commit_lock);
	active = q->l1;
	active_entries = q->l1_entries;
	q->l1 = l1;
	q->l1_entries = entries;
	ret = q->loaded ? read_held(q, at, bytes, iov, niov) : -EIO;
	q->l1 = active;
	q->l1_entries = active_entries;
	task_unlock(&q->commit_lock);
	qcow2_exclusive_end(q);
	return ret;
}

int qcow2_vm_state_of(struct blk *b, const char *id_or_name, uint64_t offset,
	const struct iovec *iov, int niov)
{
	struct qcow2 *q = b->state;
	size_t bytes = iov_bytes(iov, niov);
	uint64_t at, disk_bytes;
	_Atomic uint64_t *l1;
	uint32_t entries;
	int ret = qcow2_snapshot_l1(q, id_or_name, &l1, &entries, &disk_bytes, NULL);

	if (ret)
		return ret;
	ret = locate_behind(q, disk_bytes, offset, bytes, &at);
	if (ret == 0)
		ret = read_by(q, l1, entries, at, bytes, iov, niov);
	free((void *)l1);
	return ret;
}

/* A crash leaves part of it, which is in nobody's way, or leaks. */
int qcow2_vm_state_forget(struct blk *b)
{
	struct qcow2 *q = b->state;
	uint64_t start, end;
	int ret;

	if (q->external_data)
		return 0;
	qcow2_exclusive_begin(q);
	start = qcow2_vm_state_offset(q, blk_size(b));
	end = q->l1_entries * qcow2_l2_span(q);
	ret = q->corrupt || !q->loaded ? -EIO : qcow2_prepare_write(q);
	if (ret == 0 && start < end)
		ret = qcow2_forget_held(q, start, end);
	qcow2_exclusive_end(q);
	return ret;
}
