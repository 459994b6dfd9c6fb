/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Compressed clusters. One request carries several clusters: they are compressed side by side
 * on the CPU workers, packed one behind the other in guest order, and written in as few
 * writes as their places allow. A cluster that does not shrink is written plain.
 *
 * Packed clusters share host clusters, and the last sector of one may hold the first bytes of
 * the next. Rewriting such a sector puts the old bytes back with the new ones: a sector is
 * written whole or not at all, so a power cut cannot hurt the neighbour.
 */
#include "qcow2/qcow2.h"

/* Plain bytes of one batch; at least two clusters, so that two cores have work. */
#define BATCH_BYTES    (4u << 20)
#define BATCH_CLUSTERS 64u

struct batch {
	struct qcow2 *q;
	uint64_t offset; /* guest, of cluster 0 */
	uint32_t n;
	const struct iovec *iov; /* of the request */
	int niov;
	size_t pos;
	uint64_t bytes; /* of the batch; the last cluster may be cut by the disk's end */
	atomic_uint next;
	uint8_t *out;			  /* n × cluster_bytes */
	uint32_t packed[BATCH_CLUSTERS];  /* bytes; 0: does not shrink */
	uint64_t host[BATCH_CLUSTERS];
};

static uint64_t plain_bytes(const struct batch *w, uint32_t i)
{
	uint64_t at = (uint64_t)i << w->q->cluster_bits;

	return MIN((uint64_t)w->q->cluster_bytes, w->bytes - at);
}

/* Where cluster i lies in one piece in the caller's buffer; NULL where it does not. */
static const uint8_t *contiguous(const struct batch *w, uint32_t i)
{
	size_t at = w->pos + ((size_t)i << w->q->cluster_bits);

	if (plain_bytes(w, i) < w->q->cluster_bytes)
		return NULL;
	for (int k = 0; k < w->niov; k++) {
		if (at < w->iov[k].iov_len)
			return w->iov[k].iov_len - at >= w->q->cluster_bytes
				? (const uint8_t *)w->iov[k].iov_base + at
				: NULL;
		at -= w->iov[k].iov_len;
	}
	return NULL;
}

static int compress_cluster(struct batch *w, uint32_t i)
{
	const struct qcow2 *q = w->q;
	const uint8_t *plain = contiguous(w, i);
	uint8_t *bounce = NULL;
	ssize_t got;

	if (!plain) {
		uint64_t bytes = plain_bytes(w, i);

		bounce = buf_alloc(q->cluster_bytes);
		if (!bounce)
			return -ENOMEM;
		iov_to_buf(w->iov, w->niov, w->pos + ((size_t)i << q->cluster_bits), bounce, bytes);
		memset(bounce + bytes, 0, q->cluster_bytes - bytes);
		plain = bounce;
	}
	/* One byte less than a cluster: what is no smaller is stored plain. */
	got = codec_compress(q->codec, w->out + ((size_t)i << q->cluster_bits),
		q->cluster_bytes - 1, plain, q->cluster_bytes);
	buf_free(bounce);
	if (got < 0 && got != -ENOSPC)
		return (int)got;
	w->packed[i] = got < 0 ? 0 : (uint32_t)got;
	return 0;
}

static long compress_some(void *arg)
{
	struct batch *w = arg;
	unsigned i;
	int ret = 0;

	while (ret == 0 && (i = atomic_fetch_add(&w->next, 1)) < w->n)
		ret = compress_cluster(w, i);
	return ret;
}

static int compress_task(void *arg)
{
	return (int)worker_call(WORKER_CPU, compress_some, arg);
}

static int compress_all(struct batch *w)
{
	unsigned tasks = MIN(worker_cpu_count(), w->n);
	struct task_group g;
	int ret = 0, ended;

	if (tasks <= 1)
		return compress_task(w);
	task_group_init(&g);
	for (unsigned i = 0; i < tasks && ret == 0; i++)
		ret = task_group_spawn(&g, NULL, compress_task, w);
	ended = task_group_wait(&g);
	return ret < 0 ? ret : ended;
}

/* Writes clusters [first, end), all of which shrank, and whose places are known: one write
 * for each run that is contiguous on the host. */
static int write_packed(struct batch *w, uint32_t first, uint32_t end)
{
	struct qcow2 *q = w->q;
	struct iovec iov[BATCH_CLUSTERS];
	int ret = 0;

	while (first < end && ret == 0) {
		uint64_t host = w->host[first], bytes = 0;
		int n = 0;

		for (; first < end && w->host[first] == host + bytes; first++, n++) {
			iov[n].iov_base = w->out + ((size_t)first << q->cluster_bits);
			iov[n].iov_len = w->packed[first];
			bytes += w->packed[first];
		}
		if (!qcow2_overlap_ok(q, QCOW2_DATA, host, bytes))
			return qcow2_set_corrupt(q, "compressed data at 0x%" PRIx64
				" would overwrite metadata", host);
		ret = blk_pwritev(q->file, host, iov, n, 0);
	}
	return ret;
}

struct pack_link {
	const struct batch *w;
	uint32_t first;
	struct qcow2_entry old[BATCH_CLUSTERS];
};

static void pack_entry(void *arg, uint32_t i, struct qcow2_entry *e)
{
	struct pack_link *l = arg;
	const struct qcow2 *q = l->w->q;
	uint64_t host = l->w->host[l->first + i];
	uint64_t sectors = ((host & (BLK_SECTOR - 1)) + l->w->packed[l->first + i] - 1) / BLK_SECTOR;

	l->old[i] = *e;
	*e = (struct qcow2_entry){ QCOW2_COMPRESSED | sectors << q->compressed_shift | host, 0 };
}

/* Clusters [first, end) of the batch: allocate, write, link, drop the old. */
static int store_packed_locked(struct batch *w, uint32_t first, uint32_t end)
{
	struct qcow2 *q = w->q;
	uint64_t guest = w->offset + ((uint64_t)first << q->cluster_bits);
	struct pack_link l = { .w = w, .first = first };
	uint32_t n = end - first;
	int ret = qcow2_entries_read(q, guest, n, l.old); /* refuses entries that cannot be */

	if (ret == 0)
		ret = qcow2_l2_prepare(q, guest);
	if (ret == 0)
		ret = qcow2_alloc_compressed(q, n, w->packed + first, w->host + first);
	if (ret < 0)
		return ret;
	ret = write_packed(w, first, end);
	if (ret == 0)
		ret = qcow2_l2_update(q, guest, n, pack_entry, &l);
	for (uint32_t i = 0; i < n; i++) {
		if (ret == 0)
			qcow2_entry_drop(q, l.old[i]);
		else
			qcow2_unalloc(q, w->host[first + i], w->packed[first + i]);
	}
	return ret;
}

static int store_packed(struct batch *w, uint32_t first, uint32_t end)
{
	struct qcow2_inflight f;
	int ret;

	qcow2_inflight_begin(w->q, &f, qcow2_cluster_of(w->q, w->offset) + first, end - first);
	ret = store_packed_locked(w, first, end);
	qcow2_inflight_end(w->q, &f);
	return ret;
}

static int store_plain(struct batch *w, uint32_t i)
{
	size_t at = (size_t)i << w->q->cluster_bits;
	struct qcow2_part p;
	int ret;

	qcow2_part_init(&p, w->iov, w->niov, w->pos + at, plain_bytes(w, i));
	ret = p.iov ? qcow2_write_guest(w->q, w->offset + at, plain_bytes(w, i), p.iov, p.n)
		    : -ENOMEM;
	qcow2_part_free(&p);
	return ret;
}

static int store_all(struct batch *w)
{
	int ret = 0;

	for (uint32_t i = 0, end; i < w->n && ret == 0; i = end) {
		end = i + 1;
		if (!w->packed[i]) {
			ret = store_plain(w, i);
			continue;
		}
		while (end < w->n && w->packed[end])
			end++;
		ret = store_packed(w, i, end);
	}
	return ret;
}

static int write_batch(struct batch *w)
{
	unsigned epoch;
	int ret;

	w->out = buf_alloc((size_t)w->n << w->q->cluster_bits);
	if (!w->out)
		return -ENOMEM;
	ret = compress_all(w);
	if (ret == 0) {
		epoch = qcow2_enter(w->q);
		ret = store_all(w);
		qcow2_leave(w->q, epoch);
	}
	buf_free(w->out);
	return ret;
}

int qcow2_write_compressed(struct qcow2 *q, uint64_t offset, uint64_t bytes,
	const struct iovec *iov, int niov)
{
	uint64_t most = MAX((uint64_t)BATCH_BYTES >> q->cluster_bits, (uint64_t)2);
	uint64_t pos = 0;
	int ret = 0;

	if (q->external_data || q->encrypted)
		return -ENOTSUP;
	if (qcow2_in_cluster(q, offset) ||
		(qcow2_in_cluster(q, bytes) && offset + bytes != blk_size(q->b)))
		return -EINVAL;
	while (pos < bytes && ret == 0) {
		struct batch w = { .q = q, .offset = offset + pos, .iov = iov, .niov = niov,
			.pos = pos };
		uint64_t n = MIN(most, div_round_up(bytes - pos, q->cluster_bytes));

		n = MIN(n, (uint64_t)BATCH_CLUSTERS);
		w.n = (uint32_t)MIN(n, qcow2_slice_left(q, w.offset));
		w.bytes = MIN((uint64_t)w.n << q->cluster_bits, bytes - pos);
		ret = write_batch(&w);
		pos += w.bytes;
	}
	return ret;
}

/* ---- reading --------------------------------------------------------------------------------------- */

struct inflate {
	enum codec codec;
	uint8_t *out;
	const uint8_t *in;
	size_t out_bytes, in_bytes;
};

static long inflate_run(void *arg)
{
	struct inflate *x = arg;

	return codec_decompress(x->codec, x->out, x->out_bytes, x->in, x->in_bytes);
}

int qcow2_read_compressed(struct qcow2 *q, const struct qcow2_run *run, uint8_t *out)
{
	uint64_t end = MAX(blk_size(q->file), (uint64_t)q->fresh_from);
	struct inflate x = { .codec = q->codec, .out = out, .out_bytes = q->cluster_bytes };
	uint8_t *in;
	int ret;

	/* The file may end inside the last sector of the stream. */
	x.in_bytes = MIN((uint64_t)run->compressed_bytes, end - run->host);
	x.in = in = buf_alloc(x.in_bytes);
	if (!in)
		return -ENOMEM;
	ret = blk_pread(q->file, run->host, in, x.in_bytes);
	if (ret == 0)
		ret = (int)worker_call(WORKER_CPU, inflate_run, &x);
	buf_free(in);
	return ret;
}
