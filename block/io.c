/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The gate: every data request to a node comes through here.
 *
 * What a caller got wrong is answered with an errno; what a driver got wrong is an
 * assertion. A plain request (aligned, in range, not too long, nothing to order or to
 * watch) goes straight to the driver: no allocation, no lock, one atomic load of the
 * size. The rest takes the slow way, in this order:
 *
 *	check → turn zeros into a zero request → wait for requests in the way → guard a
 *	probed disk's head → pieces that the driver takes → flush where FUA asks for it
 *
 * A request is cut into pieces at the driver's limits. A piece the driver cannot take as
 * it is (edges inside an alignment unit, memory it cannot use, too many segments) goes
 * through a bounce buffer of bounded size; for a write the units at its edges are read
 * first, and then the request is serialising: a write between the read and the write would
 * be undone. That is why nodes with an alignment track their writes, and why nobody else
 * has to.
 */
#include "block/gate.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/iov.h"
#include "base/math.h"
#include "block/format.h"

/* A request of up to this many bytes is bounced whole rather than cut at its edges. */
#define BOUNCE_SMALL (64u << 10)
#define BOUNCE_MAX   (1u << 20)
#define ZERO_BLOCK   (64u << 10)

/* Never written, so it costs no memory. */
static uint8_t zero_block[ZERO_BLOCK] __attribute__((aligned(4096)));

/* ---- the gate of a node ---------------------------------------------------------- */

static void fill_limits(struct blk_limits *l)
{
	l->request_align = l->request_align ? l->request_align : 1;
	l->mem_align = l->mem_align ? l->mem_align : 1;
	l->discard_align = l->discard_align ? l->discard_align : l->request_align;
	l->zero_align = l->zero_align ? l->zero_align : l->request_align;
	l->max_transfer = l->max_transfer ? l->max_transfer
					  : round_down(BLK_MAX_REQUEST, l->request_align);
	l->max_discard = l->max_discard ? l->max_discard : BLK_MAX_REQUEST;
	assert(is_pow2(l->request_align) && l->request_align <= BOUNCE_MAX);
	assert(is_pow2(l->mem_align) && l->mem_align <= 4096);
	assert(is_pow2(l->discard_align) && l->discard_align >= l->request_align);
	assert(is_pow2(l->zero_align) && l->zero_align >= l->request_align);
	assert(is_aligned(l->max_transfer, l->request_align));
	assert(l->max_transfer <= BLK_MAX_REQUEST);
}

static void set_plain(struct blk *b)
{
	struct blk_gate *g = b->gate;

	g->plain_read = !g->track_reads;
	g->plain_write =
		(b->flags & BLK_O_RDWR) && !g->track_writes && !b->probed &&
		!(b->flags & (BLK_O_ZEROES | BLK_O_ZEROES_UNMAP | BLK_O_WRITETHROUGH));
	g->plain_flags =
		(b->caps & BLK_CAP_FUA) && !(b->flags & BLK_O_NO_FLUSH) ? BLK_FUA : 0;
}

int blk_gate_new(struct blk *b)
{
	bool order_all = b->caps & BLK_CAP_SERIALISE;
	struct blk_gate *g = calloc(1, sizeof(*g));

	if (!g)
		return -ENOMEM;
	fill_limits(&b->limits);
	g->align_mask = b->limits.request_align - 1;
	g->mem_mask = b->limits.mem_align - 1;
	g->max_transfer = b->limits.max_transfer;
	g->track_reads = order_all;
	g->track_writes = order_all || g->align_mask;
	track_init(&g->track, order_all);
	b->gate = g;
	set_plain(b);
	return 0;
}

void blk_gate_free(struct blk *b)
{
	if (!b->gate)
		return;
	track_destroy(&b->gate->track);
	free(b->gate);
	b->gate = NULL;
}

void blk_track_requests(struct blk *b)
{
	b->gate->track_reads = b->gate->track_writes = true;
	set_plain(b);
}

/* ---- calls of the driver --------------------------------------------------------- */

static inline int answer(int ret)
{
	assert(ret <= 0 && ret > -4096);
	return ret;
}

/* Segments start aligned, and so end so but for the last: its end is request_align's. */
static bool memory_fits(const struct blk *b, const struct iovec *iov, int niov)
{
	uintptr_t bits = 0;

	if (b->gate->mem_mask == 0)
		return true;
	for (int i = 0; i < niov; i++) {
		bits |= (uintptr_t)iov[i].iov_base;
		bits |= i + 1 < niov ? iov[i].iov_len : 0;
	}
	return !(bits & b->gate->mem_mask);
}

/* The driver takes it as it is, and it lies inside the disk. */
static inline bool is_plain(const struct blk *b, uint64_t offset, size_t bytes,
	const struct iovec *iov, int niov)
{
	const struct blk_gate *g = b->gate;
	uint64_t size = blk_size(b);

	return bytes - 1 < g->max_transfer && niov <= IOV_LIMIT &&
	       !((offset | bytes) & g->align_mask) && range_inside(offset, bytes, size) &&
	       memory_fits(b, iov, niov);
}

static int driver_read(
	struct blk *b, uint64_t offset, size_t bytes, const struct iovec *iov, int niov)
{
	assert(bytes > 0 && bytes <= b->gate->max_transfer);
	assert(!((offset | bytes) & b->gate->align_mask));
	return answer(b->drv->preadv(b, offset, bytes, iov, niov));
}

static int driver_write(struct blk *b, uint64_t offset, size_t bytes,
	const struct iovec *iov, int niov, unsigned flags)
{
	assert(bytes > 0 && bytes <= b->gate->max_transfer);
	assert(!((offset | bytes) & b->gate->align_mask));
	return answer(b->drv->pwritev(b, offset, bytes, iov, niov, flags));
}

/* A read of whole units into one buffer, zeros past the end. */
static int read_units(struct blk *b, uint64_t offset, void *buf, size_t bytes)
{
	uint64_t align = b->limits.request_align;
	uint64_t end = round_up(blk_size(b), align);
	size_t inside = offset >= end ? 0 : MIN(bytes, end - offset);
	struct iovec iov = {.iov_base = buf, .iov_len = inside};
	int ret = inside ? driver_read(b, offset, inside, &iov, 1) : 0;

	if (!ret)
		memset((char *)buf + inside, 0, bytes - inside);
	return ret;
}

/* ---- pieces ---------------------------------------------------------------------- */

/* What is left of a request, and its next piece. */
struct walk {
	struct blk *b;
	uint64_t offset; /* of the piece */
	const struct iovec *iov;
	int niov;
	size_t total;     /* of the vector, which may be longer than the request */
	size_t pos, left; /* in the vector */
	size_t bytes;     /* of the piece */
	bool bounce;
	struct iovec *slice; /* room for niov; NULL until needed */
	const struct iovec *part;
	int n_part;
};

/* The vector of the piece: the caller's own where it is the whole request. */
static int walk_slice(struct walk *w)
{
	if (w->bytes == w->total) {
		w->part = w->iov;
		w->n_part = w->niov;
		return 0;
	}
	if (!w->slice)
		w->slice = malloc((size_t)w->niov * sizeof(*w->slice));
	if (!w->slice)
		return -ENOMEM;
	w->part = w->slice;
	w->n_part = iov_slice(w->slice, w->iov, w->niov, w->pos, w->bytes);
	return 0;
}

/* Chooses the next piece; w->left > 0. */
static int walk_choose(struct walk *w)
{
	const struct blk *b = w->b;
	uint64_t align = b->limits.request_align;
	uint64_t head = w->offset & (align - 1);
	uint64_t whole = round_up(head + w->left, align);
	uint64_t small = MIN(MAX((uint64_t)BOUNCE_SMALL, align), b->limits.max_transfer);
	uint64_t max = b->limits.max_transfer;
	int ret;

	w->bounce = true;
	if (whole != w->left && whole <= small) {
		w->bytes = w->left;
		return 0;
	}
	if (head || w->left < align) {
		w->bytes = MIN(w->left, align - head);
		return 0;
	}
	w->bytes = MIN(round_down(w->left, align), max);
	ret = walk_slice(w);
	if (ret)
		return ret;
	w->bounce = w->n_part > IOV_LIMIT || !memory_fits(b, w->part, w->n_part);
	if (w->bounce)
		w->bytes = MIN(w->bytes, (size_t)BOUNCE_MAX);
	return 0;
}

static void walk_next(struct walk *w)
{
	w->offset += w->bytes;
	w->pos += w->bytes;
	w->left -= w->bytes;
}

static int bounce_read(struct walk *w)
{
	uint64_t align = w->b->limits.request_align;
	uint64_t start = round_down(w->offset, align);
	size_t bytes = round_up(w->offset + w->bytes, align) - start;
	uint8_t *buf = buf_alloc(bytes);
	int ret;

	if (!buf)
		return -ENOMEM;
	ret = read_units(w->b, start, buf, bytes);
	if (!ret)
		iov_from_buf(
			w->iov, w->niov, w->pos, buf + (w->offset - start), w->bytes);
	buf_free(buf);
	return ret;
}

/* Reads the units that the piece covers in part, then writes all. The request is
 * serialising where there are such units. */
static int bounce_write(struct walk *w, unsigned flags)
{
	uint64_t align = w->b->limits.request_align;
	uint64_t start = round_down(w->offset, align), end = w->offset + w->bytes;
	size_t bytes = round_up(end, align) - start;
	uint64_t last = start + bytes - align;
	bool head = w->offset > start, tail = start + bytes > end;
	uint8_t *buf = buf_alloc(bytes);
	struct iovec iov = {.iov_base = buf, .iov_len = bytes};
	int ret = 0;

	if (!buf)
		return -ENOMEM;
	if (head || (tail && last == start))
		ret = read_units(w->b, start, buf, align);
	if (!ret && tail && last > start)
		ret = read_units(w->b, last, buf + (last - start), align);
	if (!ret) {
		iov_to_buf(w->iov, w->niov, w->pos, buf + (w->offset - start), w->bytes);
		ret = driver_write(w->b, start, bytes, &iov, 1, flags);
	}
	buf_free(buf);
	return ret;
}

/* Any range inside the disk, or past its end where the node grows. */
static int read_pieces(
	struct blk *b, uint64_t offset, size_t bytes, const struct iovec *iov, int niov)
{
	uint64_t end = round_up(blk_size(b), b->limits.request_align);
	size_t inside = offset >= end ? 0 : MIN(bytes, end - offset);
	struct walk w = {.b = b,
		.offset = offset,
		.iov = iov,
		.niov = niov,
		.total = bytes,
		.left = inside};
	int ret = 0;

	while (w.left > 0 && !ret) {
		ret = walk_choose(&w);
		if (!ret && w.bounce)
			ret = bounce_read(&w);
		else if (!ret)
			ret = driver_read(b, w.offset, w.bytes, w.part, w.n_part);
		walk_next(&w);
	}
	free(w.slice);
	if (!ret)
		iov_fill(iov, niov, inside, 0, bytes - inside);
	return ret;
}

static int write_pieces(struct blk *b, uint64_t offset, size_t bytes,
	const struct iovec *iov, int niov, unsigned flags)
{
	struct walk w = {.b = b,
		.offset = offset,
		.iov = iov,
		.niov = niov,
		.total = bytes,
		.left = bytes};
	int ret = 0;

	while (w.left > 0 && !ret) {
		ret = walk_choose(&w);
		if (!ret && w.bounce)
			ret = bounce_write(&w, flags);
		else if (!ret)
			ret = driver_write(b, w.offset, w.bytes, w.part, w.n_part, flags);
		walk_next(&w);
	}
	free(w.slice);
	return ret;
}

/* ---- checks, order, stability ---------------------------------------------------- */

static int check_range(const struct blk *b, uint64_t offset, uint64_t bytes)
{
	uint64_t limit = b->caps & BLK_CAP_GROW ? BLK_MAX_SIZE : blk_size(b);

	return range_inside(offset, bytes, limit) ? 0 : -EIO;
}

static int check_request(const struct blk *b, uint64_t offset, const struct iovec *iov,
	int niov, size_t bytes, unsigned flags, unsigned known)
{
	if (niov < 0 || (niov > 0 && !iov) || bytes > BLK_MAX_REQUEST || (flags & ~known))
		return -EINVAL;
	if ((flags & BLK_SERIALISE) && !b->gate->track_reads)
		return -EINVAL;
	return check_range(b, offset, bytes);
}

/* Units that the range touches. */
static void begin(struct blk *b, struct tracked *t, uint64_t offset, uint64_t bytes,
	bool write, bool serialising)
{
	uint64_t align = b->limits.request_align;

	track_begin(&b->gate->track, t, round_down(offset, align),
		round_up(offset + bytes, align), write, serialising);
}

/* A flush of the node itself. Formats write out their metadata even where flushes are
 * turned off, so that it does not pile up here: it is the protocol that leaves out the
 * wait. */
static int driver_flush(struct blk *b)
{
	if (!b->drv->flush || !(b->flags & BLK_O_RDWR))
		return 0;
	if ((b->flags & BLK_O_NO_FLUSH) && b->drv->kind == BLK_PROTOCOL)
		return 0;
	return answer(b->drv->flush(b));
}

/* How a write becomes stable when it ends. */
struct stable {
	unsigned flags; /* for the driver */
	bool flush;     /* afterwards */
};

static struct stable stable_by(const struct blk *b, unsigned flags)
{
	bool fua = (flags & BLK_FUA) || (b->flags & BLK_O_WRITETHROUGH);

	if (!fua || (b->flags & BLK_O_NO_FLUSH))
		return (struct stable){0};
	if (b->caps & BLK_CAP_FUA)
		return (struct stable){.flags = BLK_FUA};
	return (struct stable){.flush = true};
}

/* ---- the head of a probed raw disk ----------------------------------------------- */

static bool is_guarded(const struct blk *b, uint64_t offset)
{
	return b->probed && offset < BLK_PROBE_BYTES;
}

/* Would the disk pass for another format with this in it? data NULL: zeros. */
static int check_head(struct blk *b, uint64_t offset, uint64_t bytes, const uint8_t *data)
{
	uint8_t *head = buf_alloc(BLK_PROBE_BYTES);
	struct iovec all = {.iov_base = head, .iov_len = BLK_PROBE_BYTES};
	size_t len = MIN(bytes, BLK_PROBE_BYTES - offset);
	size_t size = MIN(blk_size(b), (uint64_t)BLK_PROBE_BYTES);
	int ret, score;

	if (!head)
		return -ENOMEM;
	memset(head, 0, BLK_PROBE_BYTES);
	all.iov_len = size;
	ret = size ? read_pieces(b, 0, size, &all, 1) : 0;
	if (!ret) {
		if (data)
			memcpy(head + offset, data, len);
		else
			memset(head + offset, 0, len);
		blk_probe_head(head, MAX(size, offset + len), b->filename, &score);
		if (score > BLK_PROBE_ANY)
			ret = -EPERM;
	}
	buf_free(head);
	return ret;
}

/* ---- reads and writes ------------------------------------------------------------ */

static int read_slow(struct blk *b, uint64_t offset, size_t bytes,
	const struct iovec *iov, int niov, unsigned flags)
{
	struct tracked t;
	int ret = check_request(b, offset, iov, niov, bytes, flags, BLK_SERIALISE);

	if (ret || bytes == 0)
		return ret;
	if (b->gate->track_reads)
		begin(b, &t, offset, bytes, false, flags & BLK_SERIALISE);
	ret = read_pieces(b, offset, bytes, iov, niov);
	if (b->gate->track_reads)
		track_end(&b->gate->track, &t);
	return ret;
}

int blk_preadv(
	struct blk *b, uint64_t offset, const struct iovec *iov, int niov, unsigned flags)
{
	size_t bytes = iov_bytes(iov, niov);

	if (b->gate->plain_read && !flags && is_plain(b, offset, bytes, iov, niov))
		return answer(b->drv->preadv(b, offset, bytes, iov, niov));
	return read_slow(b, offset, bytes, iov, niov, flags);
}

/* Compressed requests go down whole or not at all: the driver knows its clusters. */
static int write_compressed(struct blk *b, uint64_t offset, size_t bytes,
	const struct iovec *iov, int niov, unsigned flags)
{
	if (!(b->caps & BLK_CAP_COMPRESS))
		return -ENOTSUP;
	if ((offset | bytes) & b->gate->align_mask)
		return -EINVAL;
	if (b->limits.optimal && !is_aligned(b->limits.max_transfer, b->limits.optimal) &&
		bytes > b->limits.max_transfer)
		return -EINVAL;
	return write_pieces(b, offset, bytes, iov, niov, flags | BLK_COMPRESSED);
}

int blk_pack(struct blk *b, uint64_t offset, const struct iovec *iov, int niov,
	struct blk_packed **out)
{
	size_t bytes = iov_bytes(iov, niov);
	int ret = check_request(b, offset, iov, niov, bytes, 0, 0);

	if (ret)
		return ret;
	if (blk_read_only(b))
		return -EACCES;
	if (!b->drv->pack || !(b->caps & BLK_CAP_COMPRESS))
		return -ENOTSUP;
	if (!bytes || ((offset | bytes) & b->gate->align_mask))
		return -EINVAL;
	return answer(b->drv->pack(b, offset, bytes, iov, niov, out));
}

int blk_write_packed(struct blk *b, struct blk_packed *p)
{
	int ret = answer(b->drv->write_packed(b, p));

	if (!ret && (b->flags & BLK_O_WRITETHROUGH))
		ret = driver_flush(b);
	return ret;
}

void blk_packed_free(struct blk *b, struct blk_packed *p)
{
	if (p)
		b->drv->packed_free(p);
}

static int write_now(struct blk *b, uint64_t offset, size_t bytes,
	const struct iovec *iov, int niov, unsigned flags, unsigned driver_flags)
{
	if (flags & BLK_COMPRESSED)
		return write_compressed(b, offset, bytes, iov, niov, driver_flags);
	return write_pieces(b, offset, bytes, iov, niov, driver_flags);
}

/* What is looked at is what is written: the caller's memory may be a guest's, which can change it
 * in between. */
static int write_guarded(struct blk *b, uint64_t offset, size_t bytes,
	const struct iovec *iov, int niov, unsigned flags, unsigned driver_flags)
{
	size_t len = MIN(bytes, (size_t)BLK_PROBE_BYTES - offset);
	struct iovec *all = malloc(((size_t)niov + 1) * sizeof(*all));
	uint8_t *head = buf_alloc(BLK_PROBE_BYTES);
	int n = 1, ret = all && head ? 0 : -ENOMEM;

	if (!ret) {
		iov_to_buf(iov, niov, 0, head, len);
		all[0] = (struct iovec){head, len};
		if (len < bytes)
			n += iov_slice(all + 1, iov, niov, len, bytes - len);
		task_lock(&b->gate->guard);
		ret = check_head(b, offset, bytes, head);
		ret = ret ? ret
			  : write_now(b, offset, bytes, all, n, flags, driver_flags);
		task_unlock(&b->gate->guard);
	}
	buf_free(head);
	free(all);
	return ret;
}

static int write_ordered(struct blk *b, uint64_t offset, size_t bytes,
	const struct iovec *iov, int niov, unsigned flags, unsigned driver_flags)
{
	if (is_guarded(b, offset))
		return write_guarded(b, offset, bytes, iov, niov, flags, driver_flags);
	return write_now(b, offset, bytes, iov, niov, flags, driver_flags);
}

static bool becomes_zero(const struct blk *b, const struct iovec *iov, int niov,
	size_t bytes, unsigned flags)
{
	return (b->flags & (BLK_O_ZEROES | BLK_O_ZEROES_UNMAP)) &&
	       !(flags & BLK_COMPRESSED) && iov_is_zero(iov, niov, 0, bytes);
}

static int write_slow(struct blk *b, uint64_t offset, size_t bytes,
	const struct iovec *iov, int niov, unsigned flags)
{
	const unsigned known = BLK_FUA | BLK_COMPRESSED | BLK_SERIALISE;
	struct stable stable = stable_by(b, flags);
	bool tracked = b->gate->track_writes;
	struct tracked t;
	int ret;

	if (!(b->flags & BLK_O_RDWR))
		return -EACCES;
	ret = check_request(b, offset, iov, niov, bytes, flags, known);
	if (ret || bytes == 0)
		return ret;
	if (becomes_zero(b, iov, niov, bytes, flags)) {
		if (b->flags & BLK_O_ZEROES_UNMAP)
			flags |= BLK_MAY_UNMAP;
		return blk_zero(b, offset, bytes, flags);
	}
	if (tracked)
		begin(b, &t, offset, bytes, true,
			(flags & BLK_SERIALISE) ||
				((offset | bytes) & b->gate->align_mask));
	ret = write_ordered(b, offset, bytes, iov, niov, flags, stable.flags);
	if (tracked)
		track_end(&b->gate->track, &t);
	if (!ret && stable.flush)
		ret = driver_flush(b);
	return ret;
}

int blk_pwritev(
	struct blk *b, uint64_t offset, const struct iovec *iov, int niov, unsigned flags)
{
	size_t bytes = iov_bytes(iov, niov);

	if (b->gate->plain_write && !(flags & ~b->gate->plain_flags) &&
		is_plain(b, offset, bytes, iov, niov))
		return answer(b->drv->pwritev(b, offset, bytes, iov, niov, flags));
	return write_slow(b, offset, bytes, iov, niov, flags);
}

int blk_pread(struct blk *b, uint64_t offset, void *buf, size_t bytes)
{
	struct iovec iov = {.iov_base = buf, .iov_len = bytes};

	return blk_preadv(b, offset, &iov, 1, 0);
}

int blk_pwrite(
	struct blk *b, uint64_t offset, const void *buf, size_t bytes, unsigned flags)
{
	struct iovec iov = {.iov_base = (void *)(uintptr_t)buf, .iov_len = bytes};

	return blk_pwritev(b, offset, &iov, 1, flags);
}

/* ---- zero ------------------------------------------------------------------------ */

/* Writes zeros out, BOUNCE_MAX at a time. */
static int write_zeros(
	struct blk *b, uint64_t offset, uint64_t bytes, unsigned driver_flags)
{
	struct iovec iov[BOUNCE_MAX / ZERO_BLOCK];
	int ret = 0;

	for (size_t i = 0; i < ARRAY_LEN(iov); i++)
		iov[i] = (struct iovec){.iov_base = zero_block, .iov_len = ZERO_BLOCK};
	while (bytes > 0 && !ret) {
		/* Up to a round offset, so that only the first piece and the last are
		 * odd. */
		uint64_t n = MIN(bytes, BOUNCE_MAX - (offset & (BOUNCE_MAX - 1)));
		int niov = (int)div_round_up(n, ZERO_BLOCK);

		iov[niov - 1].iov_len = n - (uint64_t)(niov - 1) * ZERO_BLOCK;
		ret = write_pieces(b, offset, n, iov, niov, driver_flags);
		iov[niov - 1].iov_len = ZERO_BLOCK;
		offset += n;
		bytes -= n;
	}
	return ret;
}

/* The part of a range that is whole units, the disk's end counting as one. Empty where
 * there is none. */
struct middle {
	uint64_t start, end; /* multiples of request_align */
};

static struct middle middle_of(
	const struct blk *b, uint64_t offset, uint64_t bytes, uint64_t align)
{
	uint64_t end = offset + bytes;
	struct middle m = {.start = round_up(offset, align)};

	if (end == blk_size(b))
		m.end = round_up(end, b->limits.request_align);
	else
		m.end = round_down(end, align);
	if (m.end <= m.start)
		m.start = m.end = end;
	return m;
}

/* [start, end) by the driver. -ENOTSUP with *start moved to what is still to do. */
static int driver_zero(struct blk *b, uint64_t *start, uint64_t end, unsigned flags)
{
	uint64_t align = b->limits.zero_align;
	uint64_t max = MAX(round_down(b->limits.max_discard, align), align);
	int ret = 0;

	if (*start < end && !b->drv->zero)
		return -ENOTSUP;
	while (*start < end && !ret) {
		uint64_t n = MIN(end - *start, max);

		ret = answer(b->drv->zero(b, *start, n, flags));
		if (!ret)
			*start += n;
	}
	return ret;
}

static int zero_pieces(struct blk *b, uint64_t offset, uint64_t bytes, unsigned flags,
	unsigned driver_flags)
{
	uint64_t end = offset + bytes;
	struct middle m = middle_of(b, offset, bytes, b->limits.zero_align);
	bool edges = m.start > offset || m.end < end;
	int ret;

	if ((flags & BLK_NO_FALLBACK) && edges)
		return -ENOTSUP;
	ret = m.start > offset ? write_zeros(b, offset, m.start - offset, driver_flags)
			       : 0;
	if (!ret) {
		ret = driver_zero(b, &m.start, m.end,
			driver_flags | (flags & (BLK_MAY_UNMAP | BLK_NO_FALLBACK)));
		if (ret == -ENOTSUP && !(flags & BLK_NO_FALLBACK))
			ret = write_zeros(
				b, m.start, MIN(m.end, end) - m.start, driver_flags);
	}
	if (!ret && m.end < end)
		ret = write_zeros(b, m.end, end - m.end, driver_flags);
	return ret;
}

int blk_zero(struct blk *b, uint64_t offset, uint64_t bytes, unsigned flags)
{
	const unsigned known = BLK_FUA | BLK_MAY_UNMAP | BLK_NO_FALLBACK | BLK_SERIALISE;
	struct stable stable = stable_by(b, flags);
	bool tracked = b->gate->track_writes, guarded = is_guarded(b, offset);
	struct tracked t;
	int ret;

	if (!(b->flags & BLK_O_RDWR))
		return -EACCES;
	if (flags & ~known || ((flags & BLK_SERIALISE) && !b->gate->track_reads))
		return -EINVAL;
	ret = check_range(b, offset, bytes);
	if (ret || bytes == 0)
		return ret;
	if (!(b->flags & BLK_O_DISCARD))
		flags &= ~(unsigned)BLK_MAY_UNMAP;
	if (tracked)
		begin(b, &t, offset, bytes, true,
			(flags & BLK_SERIALISE) ||
				((offset | bytes) & b->gate->align_mask));
	if (guarded) {
		task_lock(&b->gate->guard);
		ret = check_head(b, offset, bytes, NULL);
	}
	if (!ret)
		ret = zero_pieces(b, offset, bytes, flags, stable.flags);
	if (guarded)
		task_unlock(&b->gate->guard);
	if (tracked)
		track_end(&b->gate->track, &t);
	if (!ret && stable.flush)
		ret = driver_flush(b);
	return ret;
}

/* ---- discard, flush, copy, resize ------------------------------------------------ */

static int discard_pieces(struct blk *b, struct middle m)
{
	uint64_t align = b->limits.discard_align;
	uint64_t max = MAX(round_down(b->limits.max_discard, align), align);
	int ret = 0;

	while (m.start < m.end && !ret) {
		uint64_t n = MIN(m.end - m.start, max);

		ret = answer(b->drv->discard(b, m.start, n));
		m.start += n;
	}
	return ret == -ENOTSUP ? 0 : ret; /* it is a hint */
}

int blk_discard(struct blk *b, uint64_t offset, uint64_t bytes)
{
	bool tracked = b->gate->track_writes;
	uint64_t size = blk_size(b);
	struct middle m;
	struct tracked t;
	int ret;

	if (!(b->flags & BLK_O_RDWR))
		return -EACCES;
	ret = check_range(b, offset, bytes);
	if (ret || bytes == 0 || offset >= size)
		return ret;
	bytes = MIN(bytes, size - offset);
	if (!(b->flags & BLK_O_DISCARD) || !b->drv->discard)
		return 0;
	if (is_guarded(b, offset) && check_head(b, offset, bytes, NULL))
		return 0;
	m = middle_of(b, offset, bytes, b->limits.discard_align);
	if (m.start >= m.end)
		return 0;
	if (tracked)
		begin(b, &t, m.start, m.end - m.start, true, false);
	ret = discard_pieces(b, m);
	if (tracked)
		track_end(&b->gate->track, &t);
	return ret;
}

int blk_flush(struct blk *b)
{
	return driver_flush(b);
}

/* Tracked ends are entered in the order of their nodes' addresses, so that two copies the
 * other way round cannot wait for each other. */
static void begin_copy(struct blk *src, uint64_t src_offset, struct blk *dst,
	uint64_t dst_offset, uint64_t bytes, struct tracked *ts, struct tracked *td)
{
	bool src_first = (uintptr_t)src < (uintptr_t)dst;

	if (src_first && src->gate->track_reads)
		begin(src, ts, src_offset, bytes, false, false);
	if (dst->gate->track_writes)
		begin(dst, td, dst_offset, bytes, true, false);
	if (!src_first && src->gate->track_reads)
		begin(src, ts, src_offset, bytes, false, false);
}

static int check_copy(struct blk *src, uint64_t src_offset, struct blk *dst,
	uint64_t dst_offset, uint64_t bytes, unsigned flags)
{
	uint64_t odd = (src_offset | bytes) & src->gate->align_mask;

	odd |= (dst_offset | bytes) & dst->gate->align_mask;
	if (!(dst->flags & BLK_O_RDWR))
		return -EACCES;
	if (bytes > BLK_MAX_REQUEST || (flags & ~(unsigned)BLK_FUA))
		return -EINVAL;
	if (check_range(src, src_offset, bytes) || check_range(dst, dst_offset, bytes))
		return -EIO;
	if (src == dst && ranges_overlap(src_offset, bytes, dst_offset, bytes))
		return -EINVAL;
	if (odd || src->drv != dst->drv || !src->drv->copy_range ||
		!range_inside(src_offset, bytes, blk_size(src)) ||
		is_guarded(dst, dst_offset) || (src == dst && src->gate->track_reads))
		return -ENOTSUP;
	return 0;
}

int blk_copy_range(struct blk *src, uint64_t src_offset, struct blk *dst,
	uint64_t dst_offset, uint64_t bytes, unsigned flags)
{
	struct stable stable = stable_by(dst, flags);
	struct tracked ts, td;
	int ret = check_copy(src, src_offset, dst, dst_offset, bytes, flags);

	if (ret || bytes == 0)
		return ret;
	begin_copy(src, src_offset, dst, dst_offset, bytes, &ts, &td);
	ret = answer(src->drv->copy_range(
		src, src_offset, dst, dst_offset, bytes, stable.flags));
	if (src->gate->track_reads)
		track_end(&src->gate->track, &ts);
	if (dst->gate->track_writes)
		track_end(&dst->gate->track, &td);
	if (!ret && stable.flush)
		ret = driver_flush(dst);
	return ret;
}

int blk_resize(struct blk *b, uint64_t bytes, enum blk_prealloc prealloc, struct err *err)
{
	bool tracked = b->gate->track_writes;
	uint64_t old = blk_size(b);
	struct tracked t;
	int ret;

	if (!(b->flags & BLK_O_RDWR))
		return err_set(err, EACCES, "Block node is read-only");
	if (bytes > BLK_MAX_SIZE)
		return err_set(
			err, EFBIG, "Size %llu is too large", (unsigned long long)bytes);
	if (!b->drv->resize)
		return err_set(err, ENOTSUP,
			"Image format driver '%s' does not support resize", b->drv->name);
	if (tracked)
		begin(b, &t, MIN(old, bytes), BLK_MAX_SIZE - MIN(old, bytes), true, true);
	ret = answer(b->drv->resize(b, bytes, prealloc, err));
	if (tracked)
		track_end(&b->gate->track, &t);
	assert(ret || (b->caps & BLK_CAP_GROW) || blk_size(b) >= bytes);
	return ret;
}
