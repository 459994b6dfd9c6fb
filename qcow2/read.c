/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Reading: map a run, fetch it from where it lies, go on. A request of several runs fetches
 * them side by side, since each may be a request of its own to the storage below.
 */
#include "qcow2/qcow2.h"

/* Runs of one request in flight at once. */
#define READ_TASKS 8u

void qcow2_part_init(
	struct qcow2_part *p, const struct iovec *iov, int niov, size_t pos, size_t bytes)
{
	p->iov = niov <= (int)ARRAY_LEN(p->small) ? p->small
						  : malloc(niov * sizeof(*p->iov));
	p->n = p->iov ? iov_slice(p->iov, iov, niov, pos, bytes) : 0;
}

void qcow2_part_free(struct qcow2_part *p)
{
	if (p->iov != p->small)
		free(p->iov);
}

/* The backing file may be shorter: zeros behind its end. Or longer: zeros behind ours, which
 * is what copy-on-write puts there and growing must find. */
static int read_backing(struct qcow2 *q, uint64_t offset, uint64_t bytes,
	const struct iovec *iov, int niov)
{
	struct blk *backing = q->b->backing;
	uint64_t have = 0, size = backing ? MIN(blk_size(backing), blk_size(q->b)) : 0;
	struct qcow2_part p;
	int ret = 0;

	if (offset < size)
		have = MIN(bytes, size - offset);
	if (have) {
		qcow2_part_init(&p, iov, niov, 0, have);
		ret = p.iov ? blk_preadv(backing, offset, p.iov, p.n, 0) : -ENOMEM;
		qcow2_part_free(&p);
	}
	if (have < bytes)
		iov_fill(iov, niov, have, 0, bytes - have);
	return ret;
}

/* The file may end inside the last cluster that was written in part; a node that does not
 * grow does not give zeros behind its end. */
static int read_plain(
	struct qcow2 *q, uint64_t host, uint64_t bytes, const struct iovec *iov, int niov)
{
	uint64_t size = blk_size(q->data), there;
	struct qcow2_part p;
	int ret;

	if ((q->data->caps & BLK_CAP_GROW) || range_inside(host, bytes, size))
		return blk_preadv(q->data, host, iov, niov, 0);
	there = host < size ? size - host : 0;
	iov_fill(iov, niov, there, 0, bytes - there);
	if (!there)
		return 0;
	qcow2_part_init(&p, iov, niov, 0, there);
	ret = p.iov ? blk_preadv(q->data, host, p.iov, p.n, 0) : -ENOMEM;
	qcow2_part_free(&p);
	return ret;
}

static bool whole_sectors(const struct iovec *iov, int niov)
{
	for (int i = 0; i < niov; i++)
		if (!is_aligned(iov[i].iov_len, BLK_SECTOR))
			return false;
	return true;
}

/* Reads cipher text straight into the caller's buffers and decrypts it there. */
static int read_encrypted(struct qcow2 *q, uint64_t offset, uint64_t host,
	const struct iovec *iov, int niov)
{
	int ret = blk_preadv(q->data, host, iov, niov, 0);

	for (int i = 0; i < niov && ret == 0; i++) {
		ret = qcow2_decrypt(q, offset, host, iov[i].iov_base, iov[i].iov_len);
		offset += iov[i].iov_len;
		host += iov[i].iov_len;
	}
	return ret;
}

/* For vectors that cut sectors. */
static int read_encrypted_bounced(struct qcow2 *q, uint64_t offset, uint64_t host,
	uint64_t bytes, const struct iovec *iov, int niov)
{
	uint64_t chunk = MIN(bytes, 1 * MiB);
	uint8_t *buf = buf_alloc(chunk);
	int ret = buf ? 0 : -ENOMEM;

	for (uint64_t pos = 0; pos < bytes && ret == 0; pos += chunk) {
		size_t n = MIN(chunk, bytes - pos);

		ret = blk_pread(q->data, host + pos, buf, n);
		if (ret == 0)
			ret = qcow2_decrypt(q, offset + pos, host + pos, buf, n);
		if (ret == 0)
			iov_from_buf(iov, niov, pos, buf, n);
	}
	buf_free(buf);
	return ret;
}

static int read_compressed(struct qcow2 *q, const struct qcow2_run *run, uint64_t offset,
	const struct iovec *iov, int niov)
{
	uint64_t in_cluster = qcow2_in_cluster(q, offset);
	uint8_t *plain = buf_alloc(q->cluster_bytes);
	int ret = plain ? qcow2_read_compressed(q, run, plain) : -ENOMEM;

	if (ret == 0)
		iov_from_buf(iov, niov, 0, plain + in_cluster, run->bytes);
	buf_free(plain);
	return ret;
}

static int read_run(struct qcow2 *q, const struct qcow2_run *run, uint64_t offset,
	const struct iovec *iov, int niov)
{
	switch (run->type) {
	case QCOW2_UNALLOCATED:
		return read_backing(q, offset, run->bytes, iov, niov);
	case QCOW2_ZERO_PLAIN:
	case QCOW2_ZERO_ALLOC:
		iov_fill(iov, niov, 0, 0, run->bytes);
		return 0;
	case QCOW2_COMPRESSED_TYPE:
		return read_compressed(q, run, offset, iov, niov);
	case QCOW2_NORMAL:
		break;
	}
	if (!q->encrypted)
		return read_plain(q, run->host, run->bytes, iov, niov);
	if (whole_sectors(iov, niov))
		return read_encrypted(q, offset, run->host, iov, niov);
	return read_encrypted_bounced(q, offset, run->host, run->bytes, iov, niov);
}

/* One run of a request, on a task of its own. */
struct run_read {
	struct qcow2 *q;
	struct qcow2_run run;
	uint64_t offset;
	struct qcow2_part part;
};

static int run_read_task(void *arg)
{
	struct run_read *r = arg;
	int ret = read_run(r->q, &r->run, r->offset, r->part.iov, r->part.n);

	qcow2_part_free(&r->part);
	free(r);
	return ret;
}

static int run_read_spawn(struct qcow2 *q, struct task_group *g,
	const struct qcow2_run *run, uint64_t offset, const struct iovec *iov, int niov,
	size_t pos)
{
	struct run_read *r = malloc(sizeof(*r));
	int ret;

	if (!r)
		return -ENOMEM;
	*r = (struct run_read){.q = q, .run = *run, .offset = offset};
	qcow2_part_init(&r->part, iov, niov, pos, run->bytes);
	ret = r->part.iov ? task_group_spawn(g, NULL, run_read_task, r) : -ENOMEM;
	if (ret < 0) {
		qcow2_part_free(&r->part);
		free(r);
	}
	return ret;
}

/* Worth a task of its own: waits for I/O or the processor. */
static bool run_waits(const struct qcow2 *q, const struct qcow2_run *run)
{
	return run->type == QCOW2_NORMAL || run->type == QCOW2_COMPRESSED_TYPE ||
	       (run->type == QCOW2_UNALLOCATED && q->b->backing);
}

static int read_runs(struct qcow2 *q, uint64_t offset, uint64_t bytes,
	struct qcow2_run *run, const struct iovec *iov, int niov)
{
	struct task_group g;
	size_t pos = 0;
	unsigned running = 0;
	int ret = 0, ended;

	task_group_init(&g);
	for (;;) {
		if (run_waits(q, run)) {
			ret = run_read_spawn(q, &g, run, offset + pos, iov, niov, pos);
			running++;
		} else {
			iov_fill(iov, niov, pos, 0, run->bytes);
		}
		pos += run->bytes;
		if (ret < 0 || pos == bytes)
			break;
		if (running == READ_TASKS) {
			ret = task_group_wait(&g);
			running = 0;
		}
		if (ret == 0)
			ret = qcow2_map(q, offset + pos, bytes - pos, run);
		if (ret < 0)
			break;
	}
	ended = task_group_wait(&g);
	return ret < 0 ? ret : ended;
}

int qcow2_read_guest(struct qcow2 *q, uint64_t offset, uint64_t bytes,
	const struct iovec *iov, int niov)
{
	struct qcow2_run run;
	int ret = qcow2_map(q, offset, bytes, &run);

	if (ret < 0)
		return ret;
	if (run.bytes == bytes)
		return read_run(q, &run, offset, iov, niov);
	return read_runs(q, offset, bytes, &run, iov, niov);
}

int qcow2_preadv(
	struct blk *b, uint64_t offset, uint64_t bytes, const struct iovec *iov, int niov)
{
	struct qcow2 *q = b->state;
	unsigned epoch;
	int ret;

	if (q->encrypted && !q->cipher)
		return -EACCES;
	epoch = qcow2_enter(q);
	/* The tables may be gone, and a repair could not bring them back. */
	ret = q->loaded ? qcow2_read_guest(q, offset, bytes, iov, niov) : -EIO;
	qcow2_leave(q, epoch);
	return ret;
}

/*
 * Whether the file is much emptier than its counts say, as after preallocation=metadata: then
 * the file below is asked where holes are. Looked at once; the peer draws the same line, a
 * ninth and two clusters, so that both tools' maps agree.
 */
static bool mostly_holes(struct qcow2 *q)
{
	int64_t on_disk = blk_allocated(q->file);
	uint64_t clusters, line, used = 0;

	if (on_disk < 0)
		return false;
	clusters = (uint64_t)on_disk >> q->cluster_bits;
	line = MAX(clusters * 10 / 9, clusters + 2);
	return qcow2_count_used(q, qcow2_cluster_of(q, q->fresh_from), line, &used) ==
		       0 &&
	       used >= line;
}

static void describe(struct qcow2 *q, const struct qcow2_run *run, struct blk_extent *out)
{
	out->bytes = run->bytes;
	switch (run->type) {
	case QCOW2_UNALLOCATED:
		out->flags = 0;
		break;
	case QCOW2_ZERO_PLAIN:
	case QCOW2_ZERO_ALLOC:
		out->flags = BLK_EXT_ZERO | BLK_EXT_ALLOCATED;
		break;
	case QCOW2_COMPRESSED_TYPE:
		out->flags = BLK_EXT_DATA | BLK_EXT_ALLOCATED | BLK_EXT_COMPRESSED;
		break;
	case QCOW2_NORMAL:
		out->flags = BLK_EXT_DATA | BLK_EXT_ALLOCATED;
		break;
	}
	if (!q->encrypted && (run->type == QCOW2_NORMAL ||
				     run->type == QCOW2_ZERO_ALLOC || run->reserved)) {
		out->flags |= BLK_EXT_HOST;
		out->host_offset = run->host;
		out->host = q->data;
	}
	if (run->type == QCOW2_NORMAL && (out->flags & BLK_EXT_HOST)) {
		if (!q->holes_known) {
			q->holes = mostly_holes(q);
			q->holes_known = true;
		}
		if (q->holes)
			out->flags |= BLK_EXT_RECURSE;
	}
}

int qcow2_extent(struct blk *b, uint64_t offset, uint64_t bytes, struct blk_extent *out)
{
	struct qcow2 *q = b->state;
	struct qcow2_run run;
	unsigned epoch = qcow2_enter(q);
	int ret = q->loaded ? qcow2_map(q, offset, bytes, &run) : -EIO;

	if (ret == 0)
		describe(q, &run, out);
	qcow2_leave(q, epoch);
	return ret;
}
