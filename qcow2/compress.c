/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Compressed clusters, in two steps (blk_pack). The clusters of a request are compressed side
 * by side on the CPU workers; stored, they lie one behind the other in guest order, in as few
 * writes as their places allow. A cluster that does not shrink is written plain.
 *
 * Packed clusters share host clusters, and the last sector of one may hold the first bytes of
 * the next. Rewriting such a sector puts the old bytes back with the new ones: a sector is
 * written whole or not at all, so a power cut cannot hurt the neighbour.
 */
#include "qcow2/qcow2.h"

/* Clusters that are stored, and linked, in one go. */
#define STORE_CLUSTERS 64u
/* Plain bytes of a long request that are in memory compressed at once. */
#define REQUEST_BYTES (4u << 20)

struct blk_packed {
	struct qcow2 *q;
	uint64_t offset; /* guest, of cluster 0 */
	uint64_t bytes;  /* plain; the last cluster may be cut by the disk's end */
	uint32_t n;
	const struct iovec *iov; /* the caller's */
	int niov;
	atomic_uint next; /* cluster that nobody compresses yet */
	uint8_t *out;     /* n × cluster_bytes */
	uint32_t *packed; /* bytes of each; 0: does not shrink */
	uint64_t *host;
};

static uint64_t plain_bytes(const struct blk_packed *w, uint32_t i)
{
	uint64_t at = (uint64_t)i << w->q->cluster_bits;

	return MIN((uint64_t)w->q->cluster_bytes, w->bytes - at);
}

/* Where cluster i lies in one piece in the caller's buffer; NULL where it does not. */
static const uint8_t *contiguous(const struct blk_packed *w, uint32_t i)
{
	size_t at = (size_t)i << w->q->cluster_bits;

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

static int compress_cluster(struct blk_packed *w, uint32_t i)
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
		iov_to_buf(w->iov, w->niov, (size_t)i << q->cluster_bits, bounce, bytes);
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
	struct blk_packed *w = arg;
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

static int compress_all(struct blk_packed *w)
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
static int write_packed(struct blk_packed *w, uint32_t first, uint32_t end)
{
	struct qcow2 *q = w->q;
	struct iovec iov[STORE_CLUSTERS];
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
			return qcow2_set_corrupt(q,
				"compressed data at 0x%" PRIx64
				" would overwrite metadata",
				host);
		ret = blk_pwritev(q->file, host, iov, n, 0);
	}
	return ret;
}

struct pack_link {
	const struct blk_packed *w;
	uint32_t first;
	struct qcow2_entry old[STORE_CLUSTERS];
};

static void pack_entry(void *arg, uint32_t i, struct qcow2_entry *e)
{
	struct pack_link *l = arg;
	const struct qcow2 *q = l->w->q;
	uint64_t host = l->w->host[l->first + i];
	uint64_t sectors =
		((host & (BLK_SECTOR - 1)) + l->w->packed[l->first + i] - 1) / BLK_SECTOR;

	l->old[i] = *e;
	*e = (struct qcow2_entry){
		QCOW2_COMPRESSED | sectors << q->compressed_shift | host, 0};
}

/* Clusters [first, end) of the batch: allocate, write, link, drop the old. */
static int store_packed_locked(struct blk_packed *w, uint32_t first, uint32_t end)
{
	struct qcow2 *q = w->q;
	uint64_t guest = w->offset + ((uint64_t)first << q->cluster_bits);
	struct pack_link l = {.w = w, .first = first};
	uint32_t n = end - first;
	int ret = qcow2_entries_read(
		q, guest, n, l.old); /* refuses entries that cannot be */

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

static int store_packed(struct blk_packed *w, uint32_t first, uint32_t end)
{
	struct qcow2_inflight f;
	int ret;

	qcow2_inflight_begin(
		w->q, &f, qcow2_cluster_of(w->q, w->offset) + first, end - first);
	ret = store_packed_locked(w, first, end);
	qcow2_inflight_end(w->q, &f);
	return ret;
}

static int store_plain(struct blk_packed *w, uint32_t i)
{
	size_t at = (size_t)i << w->q->cluster_bits;
	struct qcow2_part p;
	int ret;

	qcow2_part_init(&p, w->iov, w->niov, at, plain_bytes(w, i));
	ret = p.iov ? qcow2_write_guest(
			      w->q, w->offset + at, plain_bytes(w, i), p.iov, p.n)
		    : -ENOMEM;
	qcow2_part_free(&p);
	return ret;
}

/* How many clusters from i on shrank and are linked by one slice. */
static uint32_t packed_run(const struct blk_packed *w, uint32_t i)
{
	uint64_t at = w->offset + ((uint64_t)i << w->q->cluster_bits), most = w->n - i;
	uint32_t n = 0;

	most = MIN(most, qcow2_slice_left(w->q, at));
	most = MIN(most, (uint64_t)STORE_CLUSTERS);
	while (n < most && w->packed[i + n])
		n++;
	return n;
}

static int store_all(struct blk_packed *w)
{
	int ret = 0;

	for (uint32_t i = 0, n; i < w->n && ret == 0; i += n) {
		n = packed_run(w, i);
		if (n) {
			ret = store_packed(w, i, i + n);
		} else {
			ret = store_plain(w, i);
			n = 1;
		}
	}
	return ret;
}

void qcow2_packed_free(struct blk_packed *w)
{
	buf_free(w->out);
	free(w->packed);
	free(w->host);
	free(w);
}

int qcow2_pack(struct blk *b, uint64_t offset, uint64_t bytes, const struct iovec *iov,
	int niov, struct blk_packed **out)
{
	struct qcow2 *q = b->state;
	struct blk_packed *w;
	int ret = -ENOMEM;

	if (q->external_data || q->encrypted)
		return -ENOTSUP;
	if (qcow2_in_cluster(q, offset) ||
		(qcow2_in_cluster(q, bytes) && offset + bytes != blk_size(b)))
		return -EINVAL;
	w = calloc(1, sizeof(*w));
	if (!w)
		return -ENOMEM;
	w->q = q;
	w->offset = offset;
	w->bytes = bytes;
	w->n = (uint32_t)div_round_up(bytes, q->cluster_bytes);
	w->iov = iov;
	w->niov = niov;
	w->out = buf_alloc((size_t)w->n << q->cluster_bits);
	w->packed = calloc(w->n, sizeof(*w->packed));
	w->host = calloc(w->n, sizeof(*w->host));
	if (w->out && w->packed && w->host)
		ret = compress_all(w);
	if (ret < 0)
		qcow2_packed_free(w);
	else
		*out = w;
	return ret;
}

int qcow2_write_packed(struct blk *b, struct blk_packed *w)
{
	struct qcow2 *q = b->state;
	struct qcow2_change c;
	int ret = qcow2_change_begin(q, &c);

	if (ret < 0)
		return ret;
	ret = store_all(w); /* not made again: what it has stored would be stored anew */
	qcow2_leave(q, c.epoch);
	return ret;
}

/* Compressed writes in one step: what is in memory at once is bounded. */
int qcow2_write_compressed(struct qcow2 *q, uint64_t offset, uint64_t bytes,
	const struct iovec *iov, int niov)
{
	uint64_t most = MAX((uint64_t)REQUEST_BYTES, (uint64_t)q->cluster_bytes), step;
	int ret = 0;

	for (uint64_t pos = 0; pos < bytes && ret == 0; pos += step) {
		struct blk_packed *w = NULL;
		struct qcow2_part p;

		step = MIN(bytes - pos, most);
		qcow2_part_init(&p, iov, niov, pos, step);
		ret = p.iov ? qcow2_pack(q->b, offset + pos, step, p.iov, p.n, &w)
			    : -ENOMEM;
		if (ret == 0)
			ret = qcow2_write_packed(q->b, w);
		if (w)
			qcow2_packed_free(w);
		qcow2_part_free(&p);
	}
	return ret;
}

/* ---- reading --------------------------------------------------------------------- */

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
	struct inflate x = {.codec = q->codec, .out = out, .out_bytes = q->cluster_bytes};
	uint8_t *in;
	int ret;

	/* The file may end inside the last sector of the stream. */
	x.in_bytes = MIN((uint64_t)run->compressed_bytes, end - run->host);
	x.in = in = buf_alloc(x.in_bytes);
	if (!in)
		return -ENOMEM;
	ret = qcow2_meta_read(q, run->host, in, x.in_bytes); /* zeros behind the end */
	if (ret == 0)
		ret = (int)worker_call(WORKER_CPU, inflate_run, &x);
	buf_free(in);
	return ret;
}
