/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Writing guest data. A request falls into pieces of three kinds, by what the L2 entries say:
 *
 *	in place	the clusters are ours alone and hold data: write, nothing else
 *	fill		the cluster is ours, but these subclusters (or all of a reserved cluster)
 *			are not written yet: write with their edges, then set their bits
 *	allocate	the clusters are missing, shared or compressed: take new ones, write with
 *			copied edges, then point the entries there and drop the old references
 *
 * I1: entries change after the data write completed. What a crash leaves before the next
 * commit: the old entries, and clusters that nobody counts on disk. A write that fails gives
 * its clusters back and leaves the entries as they were.
 *
 * Fill and allocate hold the guest clusters in the in-flight list, so that of two such writes
 * to one cluster the second sees the first's result. Writes in place need no order: the
 * cluster they write to is not handed out again while they last (I5).
 */
#include "qcow2/qcow2.h"

/* The most that one allocation covers: bounds the entries on the stack and the bounce. */
#define WRITE_CLUSTERS 128u
#define WRITE_BYTES    (8u << 20)

struct piece {
	struct qcow2 *q;
	const struct iovec *iov; /* of the whole request */
	int niov;
	size_t pos;      /* of the piece in the vector */
	uint64_t offset; /* guest */
	uint64_t bytes;
	uint32_t n; /* clusters it touches, all in one L2 slice */
	struct qcow2_entry e[WRITE_CLUSTERS];
};

bool qcow2_entry_owned(const struct qcow2 *q, struct qcow2_entry e)
{
	return !(e.desc & QCOW2_COMPRESSED) && (e.desc & QCOW2_COPIED) &&
	       (q->external_data || (e.desc & QCOW2_OFFSET_MASK));
}

/* Better leaked than freed: an entry that points at metadata had no right to a reference. */
static void drop_range(struct qcow2 *q, uint64_t host, uint64_t bytes)
{
	if (qcow2_overlap_ok(q, QCOW2_DATA, host, bytes))
		qcow2_free_later(q, host, bytes, true);
	else
		qcow2_set_corrupt(
			q, "an L2 entry points at metadata at 0x%" PRIx64, host);
}

void qcow2_entry_drop(struct qcow2 *q, struct qcow2_entry e)
{
	if (e.desc & QCOW2_COMPRESSED) {
		uint64_t host = e.desc & q->compressed_offset_mask;
		uint64_t sectors = (e.desc & ~QCOW2_COMPRESSED) >> q->compressed_shift;

		drop_range(
			q, host, (sectors + 1) * BLK_SECTOR - (host & (BLK_SECTOR - 1)));
	} else if (!q->external_data && (e.desc & QCOW2_OFFSET_MASK)) {
		drop_range(q, e.desc & QCOW2_OFFSET_MASK, q->cluster_bytes);
	}
}

/* ---- data to host clusters ------------------------------------------------------- */

static int write_encrypted(struct qcow2 *q, uint64_t guest, uint64_t host,
	const struct iovec *iov, int niov, size_t bytes)
{
	size_t chunk = MIN(bytes, (size_t)(1 * MiB));
	uint8_t *buf = buf_alloc(chunk);
	int ret = buf ? 0 : -ENOMEM;

	for (size_t pos = 0; pos < bytes && ret == 0; pos += chunk) {
		size_t n = MIN(chunk, bytes - pos);

		iov_to_buf(iov, niov, pos, buf, n);
		ret = qcow2_encrypt(q, guest + pos, host + pos, buf, n);
		if (ret == 0)
			ret = blk_pwrite(q->data, host + pos, buf, n, 0);
	}
	buf_free(buf);
	return ret;
}

static int write_host(struct qcow2 *q, uint64_t guest, uint64_t host,
	const struct iovec *iov, int niov, size_t bytes)
{
	if (!q->external_data && !qcow2_overlap_ok(q, QCOW2_DATA, host, bytes))
		return qcow2_set_corrupt(q,
			"guest offset 0x%" PRIx64 " maps to metadata at 0x%" PRIx64,
			guest, host);
	if (q->encrypted)
		return write_encrypted(q, guest, host, iov, niov, bytes);
	return blk_pwritev(q->data, host, iov, niov, 0);
}

static int write_part(struct piece *p, uint64_t host, uint64_t bytes)
{
	struct qcow2_part part;
	int ret;

	qcow2_part_init(&part, p->iov, p->niov, p->pos, bytes);
	ret = part.iov ? write_host(p->q, p->offset, host, part.iov, part.n, bytes)
		       : -ENOMEM;
	qcow2_part_free(&part);
	return ret;
}

/* Whether [offset, offset + bytes) reads as zeros by what the tables say. */
static int reads_zero(struct qcow2 *q, uint64_t offset, uint64_t bytes, bool *zero)
{
	uint64_t backing = q->b->backing ? blk_size(q->b->backing) : 0;

	*zero = true;
	while (bytes && *zero) {
		struct qcow2_run run;
		int ret = qcow2_map(q, offset, bytes, &run);

		if (ret < 0)
			return ret;
		*zero = run.type == QCOW2_ZERO_PLAIN || run.type == QCOW2_ZERO_ALLOC ||
			(run.type == QCOW2_UNALLOCATED && offset >= backing);
		offset += run.bytes;
		bytes -= run.bytes;
	}
	return 0;
}

/* A piece with what surrounds it: guest range [lo, hi) in one buffer each side. */
struct edges {
	uint64_t lo, hi;
	uint8_t *head, *tail;
};

static int edge_read(struct qcow2 *q, uint64_t offset, uint64_t bytes, uint8_t **out)
{
	struct iovec iov = {NULL, bytes};

	*out = NULL;
	if (!bytes)
		return 0;
	*out = iov.iov_base = buf_alloc(bytes);
	return *out ? qcow2_read_guest(q, offset, bytes, &iov, 1) : -ENOMEM;
}

static int write_joined(
	struct piece *p, const struct edges *x, uint64_t host_lo, uint64_t bytes)
{
	uint64_t end = p->offset + bytes;
	struct iovec *iov = malloc((p->niov + 2) * sizeof(*iov));
	int n = 0, ret;

	if (!iov)
		return -ENOMEM;
	if (x->head)
		iov[n++] = (struct iovec){x->head, p->offset - x->lo};
	n += iov_slice(iov + n, p->iov, p->niov, p->pos, bytes);
	if (x->tail)
		iov[n++] = (struct iovec){x->tail, x->hi - end};
	ret = write_host(p->q, x->lo, host_lo, iov, n, x->hi - x->lo);
	free(iov);
	return ret;
}

/* Writes `bytes` of the piece and its edges [lo, hi), whose first byte goes to host_lo. Edges
 * of zeros on clusters that are zeros already are left out. */
static int write_with_edges(
	struct piece *p, struct edges *x, uint64_t host_lo, uint64_t bytes, bool fresh)
{
	struct qcow2 *q = p->q;
	uint64_t end = p->offset + bytes;
	bool head_zero = false, tail_zero = false;
	int ret = 0;

	if (fresh && !q->encrypted) {
		ret = reads_zero(q, x->lo, p->offset - x->lo, &head_zero);
		if (ret == 0)
			ret = reads_zero(q, end, x->hi - end, &tail_zero);
	}
	if (ret == 0 && head_zero && tail_zero)
		return write_part(p, host_lo + (p->offset - x->lo), bytes);
	if (ret == 0)
		ret = edge_read(q, x->lo, p->offset - x->lo, &x->head);
	if (ret == 0)
		ret = edge_read(q, end, x->hi - end, &x->tail);
	if (ret == 0)
		ret = write_joined(p, x, host_lo, bytes);
	buf_free(x->head);
	buf_free(x->tail);
	return ret;
}

/* ---- in place -------------------------------------------------------------------- */

/* Where in the cluster, from `start` on, written subclusters end; at most `end`. */
static uint64_t written_until(
	const struct qcow2 *q, struct qcow2_entry e, uint64_t start, uint64_t end)
{
	unsigned sc = (unsigned)(start >> q->subcluster_bits);

	if (!q->extl2)
		return e.desc & QCOW2_ZERO ? start : end;
	while (sc < QCOW2_SUBCLUSTERS && (e.bitmap >> sc & 1))
		sc++;
	return MIN(MAX((uint64_t)sc << q->subcluster_bits, start), end);
}

/* As above, for subclusters that are not written. */
static uint64_t unwritten_until(
	const struct qcow2 *q, struct qcow2_entry e, uint64_t start, uint64_t end)
{
	unsigned sc = (unsigned)(start >> q->subcluster_bits);

	if (!q->extl2)
		return e.desc & QCOW2_ZERO ? end : start;
	while (sc < QCOW2_SUBCLUSTERS && !(e.bitmap >> sc & 1))
		sc++;
	return MIN(MAX((uint64_t)sc << q->subcluster_bits, start), end);
}

static uint64_t host_of(const struct qcow2 *q, struct qcow2_entry e, uint64_t offset)
{
	return (e.desc & QCOW2_OFFSET_MASK) + qcow2_in_cluster(q, offset);
}

/* Bytes from the start of the piece that lie written and in one run on the host. */
static uint64_t in_place_bytes(const struct piece *p)
{
	const struct qcow2 *q = p->q;
	uint64_t base = p->e[0].desc & QCOW2_OFFSET_MASK, done = 0;

	for (uint32_t i = 0; i < p->n; i++) {
		uint64_t start = i ? 0 : qcow2_in_cluster(q, p->offset);
		uint64_t end = MIN((uint64_t)q->cluster_bytes, start + p->bytes - done),
			 until;

		if (!qcow2_entry_owned(q, p->e[i]) ||
			(p->e[i].desc & QCOW2_OFFSET_MASK) !=
				base + ((uint64_t)i << q->cluster_bits))
			break;
		until = written_until(q, p->e[i], start, end);
		done += until - start;
		if (until < q->cluster_bytes)
			break;
	}
	return done;
}

/* ---- fill ------------------------------------------------------------------------ */

struct fill {
	struct qcow2 *q;
	unsigned first, n; /* subclusters */
};

static void fill_entry(void *arg, uint32_t i, struct qcow2_entry *e)
{
	struct fill *f = arg;
	uint64_t mask = ((f->n == 32 ? 0 : 1ull << f->n) - 1) << f->first & QCOW2_SUB_ALL;

	(void)i;
	if (!f->q->extl2) {
		e->desc &= ~QCOW2_ZERO;
		return;
	}
	e->bitmap = (e->bitmap | mask) & ~(mask << 32);
}

static int fill_locked(struct piece *p, uint64_t *done)
{
	struct qcow2 *q = p->q;
	uint64_t start = qcow2_in_cluster(q, p->offset), bytes;
	struct edges x = {0};
	struct fill f = {.q = q};
	int ret = qcow2_entries_read(q, p->offset, 1, p->e);

	*done = 0;
	if (ret < 0 || !qcow2_entry_owned(q, p->e[0]))
		return ret;
	bytes = unwritten_until(q, p->e[0], start,
			MIN((uint64_t)q->cluster_bytes, start + p->bytes)) -
		start;
	if (!bytes)
		return 0; /* somebody else filled it meanwhile: look again */
	x.lo = round_down(p->offset, q->subcluster_bytes);
	x.hi = round_up(p->offset + bytes, q->subcluster_bytes);
	ret = qcow2_l2_prepare(q, p->offset);
	if (ret == 0)
		ret = write_with_edges(p, &x, host_of(q, p->e[0], x.lo), bytes, false);
	if (ret < 0)
		return ret;
	f.first = (unsigned)(qcow2_in_cluster(q, x.lo) >> q->subcluster_bits);
	f.n = (unsigned)((x.hi - x.lo) >> q->subcluster_bits);
	ret = qcow2_l2_update(q, p->offset, 1, fill_entry, &f);
	*done = bytes;
	return ret;
}

/* ---- allocate -------------------------------------------------------------------- */

struct link {
	struct qcow2 *q;
	uint64_t guest; /* of the first cluster */
	uint64_t host;
	uint64_t lo, hi; /* guest range that was written */
};

/* Bits of the subclusters of guest cluster `guest` that [lo, hi) covers. */
static uint64_t covered(const struct link *l, uint64_t guest)
{
	const struct qcow2 *q = l->q;
	uint64_t from = MAX(l->lo, guest), to = MIN(l->hi, guest + q->cluster_bytes);
	unsigned first = (unsigned)((from - guest) >> q->subcluster_bits);
	unsigned end = (unsigned)((to - guest) >> q->subcluster_bits);

	return ((1ull << end) - 1) & ~((1ull << first) - 1);
}

static void link_entry(void *arg, uint32_t i, struct qcow2_entry *e)
{
	struct link *l = arg;
	uint64_t at = (uint64_t)i << l->q->cluster_bits;

	e->desc = (l->host + at) | QCOW2_COPIED;
	if (l->q->extl2) {
		uint64_t bits = covered(l, l->guest + at);

		e->bitmap = (e->bitmap & ~QCOW2_SUB_ALL & ~(bits << 32)) | bits;
	}
}

/* A cluster that moves takes all its data along; one that had none grows by subclusters. */
static uint64_t edge_unit(const struct qcow2 *q, struct qcow2_entry e)
{
	bool holds = (e.desc & QCOW2_COMPRESSED) || (e.bitmap & QCOW2_SUB_ALL);

	return q->extl2 && !holds ? q->subcluster_bytes : q->cluster_bytes;
}

static uint32_t unowned(const struct piece *p)
{
	uint32_t n = 0;

	while (n < p->n && !qcow2_entry_owned(p->q, p->e[n]))
		n++;
	return n;
}

/* Host clusters for guest clusters from `guest`: the same place in a data file. */
static int alloc_data(struct qcow2 *q, uint64_t guest, uint32_t n, struct qcow2_alloc *a)
{
	if (!q->external_data)
		return qcow2_alloc(q, n, false, a);
	*a = (struct qcow2_alloc){.offset = guest, .n = n};
	return 0;
}

static int alloc_locked(struct piece *p, uint64_t *done)
{
	struct qcow2 *q = p->q;
	uint64_t guest = round_down(p->offset, q->cluster_bytes), bytes;
	struct link l = {.q = q, .guest = guest};
	struct qcow2_alloc a;
	struct edges x = {0};
	int ret = qcow2_entries_read(q, p->offset, p->n, p->e);

	*done = 0;
	p->n = ret == 0 ? unowned(p) : 0;
	if (!p->n)
		return ret; /* somebody else allocated it meanwhile: look again */
	ret = qcow2_l2_prepare(q, p->offset);
	if (ret == 0)
		ret = alloc_data(q, guest, p->n, &a);
	if (ret < 0)
		return ret;
	bytes = MIN(p->bytes, (a.n << q->cluster_bits) - (p->offset - guest));
	x.lo = round_down(p->offset, edge_unit(q, p->e[0]));
	x.hi = round_up(p->offset + bytes, edge_unit(q, p->e[a.n - 1]));
	ret = write_with_edges(p, &x, a.offset + (x.lo - guest), bytes, a.fresh);
	if (ret == 0) {
		l.host = a.offset;
		l.lo = x.lo;
		l.hi = x.hi;
		ret = qcow2_l2_update(q, guest, (uint32_t)a.n, link_entry, &l);
	}
	if (ret < 0) {
		if (!q->external_data)
			qcow2_unalloc(q, a.offset, a.n << q->cluster_bits);
		return ret;
	}
	for (uint32_t i = 0; i < a.n; i++)
		qcow2_entry_drop(q, p->e[i]);
	*done = bytes;
	return 0;
}

/* ---- requests -------------------------------------------------------------------- */

/* Cuts the piece to what one L2 slice and one allocation cover. */
static void piece_bound(struct piece *p)
{
	struct qcow2 *q = p->q;
	uint64_t in_cluster = qcow2_in_cluster(q, p->offset);
	uint64_t n = div_round_up(in_cluster + p->bytes, q->cluster_bytes);

	n = MIN(n, MAX((uint64_t)WRITE_BYTES >> q->cluster_bits, (uint64_t)1));
	n = MIN(n, (uint64_t)WRITE_CLUSTERS);
	n = MIN(n, qcow2_slice_left(q, p->offset));
	p->n = (uint32_t)n;
	p->bytes = MIN(p->bytes, (n << q->cluster_bits) - in_cluster);
}

static int write_piece(struct piece *p, uint64_t *done)
{
	struct qcow2 *q = p->q;
	struct qcow2_inflight f;
	int ret;

	piece_bound(p);
	ret = qcow2_entries_read(q, p->offset, p->n, p->e);
	if (ret < 0)
		return ret;
	if (qcow2_entry_owned(q, p->e[0])) {
		*done = in_place_bytes(p);
		if (*done)
			return write_part(p, host_of(q, p->e[0], p->offset), *done);
		qcow2_inflight_begin(q, &f, qcow2_cluster_of(q, p->offset), 1);
		ret = fill_locked(p, done);
	} else {
		p->n = unowned(p);
		qcow2_inflight_begin(q, &f, qcow2_cluster_of(q, p->offset), p->n);
		ret = alloc_locked(p, done);
	}
	qcow2_inflight_end(q, &f);
	return ret;
}

int qcow2_write_guest(struct qcow2 *q, uint64_t offset, uint64_t bytes,
	const struct iovec *iov, int niov)
{
	uint64_t pos = 0, done;
	int ret = 0;

	while (pos < bytes && ret == 0) {
		struct piece p; /* its entries are not worth clearing each time */

		p.q = q;
		p.iov = iov;
		p.niov = niov;
		p.pos = pos;
		p.offset = offset + pos;
		p.bytes = bytes - pos;
		ret = write_piece(&p, &done);
		pos += ret == 0 ? done : 0;
	}
	return ret;
}

/* What the image is fit for is known inside an epoch only: while an exclusive operation runs
 * its tables may be gone for a moment, and it may leave the image clean, and so not prepared
 * for writing any more. */
int qcow2_change_begin(struct qcow2 *q, struct qcow2_change *c)
{
	c->frees_before = q->frees_done;
	for (;;) {
		int ret = q->loaded && !q->corrupt ? qcow2_commit_if_pressed(q) : 0;

		if (ret < 0)
			return ret;
		c->epoch = qcow2_enter(q);
		if (q->corrupt || !q->loaded)
			ret = -EIO;
		else if (!q->header_stale)
			ret = qcow2_prepare_write(q);
		if (ret == 0 && q->write_prepared)
			return 0;
		qcow2_leave(q, c->epoch);
		if (ret == 0) /* not in an epoch */
			ret = qcow2_commit(q);
		if (ret < 0)
			return ret;
	}
}

bool qcow2_change_again(struct qcow2 *q, const struct qcow2_change *c, int ret)
{
	qcow2_leave(q, c->epoch);
	return ret == -ENOSPC && qcow2_commit_frees(q, c->frees_before) > 0;
}

int qcow2_pwritev(struct blk *b, uint64_t offset, uint64_t bytes, const struct iovec *iov,
	int niov, unsigned flags)
{
	struct qcow2 *q = b->state;
	struct qcow2_change c;
	int ret;

	if (flags & BLK_COMPRESSED)
		return qcow2_write_compressed(q, offset, bytes, iov, niov);
	if (q->encrypted && !q->cipher)
		return -EACCES;
	do {
		ret = qcow2_change_begin(q, &c);
		if (ret < 0)
			return ret;
		ret = qcow2_write_guest(q, offset, bytes, iov, niov);
	} while (qcow2_change_again(q, &c, ret));
	return ret;
}

int qcow2_flush(struct blk *b)
{
	struct qcow2 *q = b->state;

	return q->corrupt ? -EIO : qcow2_commit(q);
}
