/* SPDX-License-Identifier: BSD-2-Clause */
/* See history.h. Memory that is not to be had ends the test program: nothing can be said
 * without it. */
#include "tests/engine/history.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/iov.h"
#include "base/math.h"

#define PIECE (256 * KiB)

/* Room for one more element of an array. */
static void *room(void *v, size_t n, size_t *cap, size_t elem_bytes)
{
	if (n < *cap)
		return v;
	*cap = *cap ? *cap * 2 : 4;
	v = realloc(v, *cap * elem_bytes);
	if (!v)
		abort();
	return v;
}

uint64_t history_hash(const uint8_t sector[BLK_SECTOR])
{
	uint64_t h = 0x243f6a8885a308d3u;

	if (buf_is_zero(sector, BLK_SECTOR))
		return HISTORY_ZERO;
	for (size_t i = 0; i < BLK_SECTOR; i += 8) {
		uint64_t w;

		memcpy(&w, sector + i, 8);
		h = (h ^ w) * 0x9e3779b97f4a7c15u;
		h ^= h >> 29;
	}
	return h <= HISTORY_ZERO ? h + 3 : h;
}

void history_init(
	struct history *h, const uint8_t *data, uint64_t bytes, uint64_t max_bytes)
{
	uint32_t op;

	memset(h, 0, sizeof(*h));
	h->n_sectors = max_bytes / BLK_SECTOR;
	h->sectors = calloc(h->n_sectors, sizeof(*h->sectors));
	if (!h->sectors)
		abort();
	op = history_begin(h, 0);
	for (uint64_t i = 0; i < h->n_sectors; i++)
		history_set(h, op, i,
			i < bytes / BLK_SECTOR ? history_hash(data + i * BLK_SECTOR)
					       : HISTORY_ABSENT);
	history_end(h, op, 0);
}

void history_free(struct history *h)
{
	for (uint64_t i = 0; i < h->n_sectors; i++)
		free(h->sectors[i].v);
	for (size_t i = 0; i < h->n_snaps; i++)
		free(h->snaps[i].hashes);
	free(h->sectors);
	free(h->ops);
	free(h->flushes);
	free(h->snaps);
	memset(h, 0, sizeof(*h));
}

uint32_t history_begin(struct history *h, uint64_t time)
{
	size_t cap = h->cap_ops;

	h->ops = room(h->ops, h->n_ops, &cap, sizeof(*h->ops));
	h->cap_ops = (uint32_t)cap;
	h->ops[h->n_ops] = (struct history_op){time, HISTORY_NEVER};
	return h->n_ops++;
}

void history_end(struct history *h, uint32_t op, uint64_t time)
{
	h->ops[op].end = time;
}

void history_set(struct history *h, uint32_t op, uint64_t sector, uint64_t hash)
{
	struct history_sector *s = &h->sectors[sector];
	size_t cap = s->cap;

	s->v = room(s->v, s->n, &cap, sizeof(*s->v));
	s->cap = (uint32_t)cap;
	s->v[s->n++] = (struct history_version){op, hash};
}

uint64_t history_newest(const struct history *h, uint64_t sector)
{
	const struct history_sector *s = &h->sectors[sector];
	const struct history_version *newest = &s->v[s->n - 1];

	return h->ops[newest->op].end == HISTORY_NEVER ? 0 : newest->hash;
}

void history_flushed(struct history *h, uint64_t begin, uint64_t end)
{
	h->flushes = room(h->flushes, h->n_flushes, &h->cap_flushes, sizeof(*h->flushes));
	h->flushes[h->n_flushes++] = (struct history_flush){begin, end};
}

void history_snapshot_created(struct history *h, uint32_t op, const char *name)
{
	struct history_snapshot *s;

	h->snaps = room(h->snaps, h->n_snaps, &h->cap_snaps, sizeof(*h->snaps));
	s = &h->snaps[h->n_snaps++];
	snprintf(s->name, sizeof(s->name), "%s", name);
	s->created = op;
	s->deleted = UINT32_MAX;
	s->hashes = malloc(h->n_sectors * sizeof(*s->hashes));
	if (!s->hashes)
		abort();
	for (uint64_t i = 0; i < h->n_sectors; i++)
		s->hashes[i] = history_newest(h, i);
}

void history_snapshot_deleted(struct history *h, uint32_t op, const char *name)
{
	for (size_t i = 0; i < h->n_snaps; i++)
		if (!strcmp(h->snaps[i].name, name))
			h->snaps[i].deleted = op;
}

/* When the last flush that was done by `time` began: what was done before it is certain.
 */
static uint64_t certain_before(const struct history *h, uint64_t time)
{
	uint64_t before = 0;

	for (size_t i = 0; i < h->n_flushes; i++)
		if (h->flushes[i].end <= time)
			before = MAX(before, h->flushes[i].begin);
	return before;
}

bool history_is_certain(const struct history *h, uint32_t op, uint64_t time)
{
	return h->ops[op].end <= certain_before(h, time);
}

static bool allowed(const struct history *h, uint64_t sector, uint64_t hash,
	uint64_t time, uint64_t certain)
{
	const struct history_sector *s = &h->sectors[sector];

	for (uint32_t i = s->n; i-- > 0;) {
		const struct history_op *op = &h->ops[s->v[i].op];

		if (op->begin > time)
			continue;
		if (s->v[i].hash == hash || !s->v[i].hash)
			return true;
		if (op->end <= certain)
			return false;
	}
	return false;
}

/* Which operation wrote this, for the message. */
static void find_origin(const struct history *h, uint64_t hash, char *buf, size_t bytes)
{
	for (uint64_t s = 0; s < h->n_sectors; s++) {
		for (uint32_t i = 0; i < h->sectors[s].n; i++) {
			if (h->sectors[s].v[i].hash != hash)
				continue;
			snprintf(buf, bytes, "what operation %u wrote to sector %" PRIu64,
				h->sectors[s].v[i].op, s);
			return;
		}
	}
	snprintf(buf, bytes, "what nobody wrote");
}

static int complain(const struct history *h, uint64_t sector, uint64_t hash,
	uint64_t time, uint64_t certain, struct err *err)
{
	const struct history_sector *s = &h->sectors[sector];
	char origin[96], known[256] = "";
	size_t used = 0;

	find_origin(h, hash, origin, sizeof(origin));
	for (uint32_t i = s->n; i-- > 0 && used + 64 < sizeof(known);) {
		const struct history_op *op = &h->ops[s->v[i].op];

		used += (size_t)snprintf(known + used, sizeof(known) - used,
			" op %u [%" PRIu64 ",%" PRId64 "]%s", s->v[i].op, op->begin,
			(int64_t)op->end,
			s->v[i].hash == HISTORY_ZERO     ? "=0"
			: s->v[i].hash == HISTORY_ABSENT ? "=absent"
							 : "");
	}
	return err_set(err, EIO,
		"sector %" PRIu64 " holds %s%s at time %" PRIu64
		", certain before %" PRIu64 "; its versions are%s",
		sector, hash == HISTORY_ZERO ? "zeros, like " : "", origin, time, certain,
		known);
}

/* Calls fn for each sector with the hash of what b reads there. */
static int each_sector(const struct history *h, struct blk *b,
	int (*fn)(void *arg, uint64_t sector, uint64_t hash), void *arg, struct err *err)
{
	uint64_t size = blk_size(b) / BLK_SECTOR;
	uint8_t *buf = buf_alloc(PIECE);
	int ret = buf ? 0 : err_set(err, ENOMEM, "out of memory");

	if (!ret && size > h->n_sectors)
		ret = err_set(err, EIO, "the disk has %" PRIu64 " sectors", size);
	for (uint64_t s = 0; !ret && s < size; s += PIECE / BLK_SECTOR) {
		uint64_t n = MIN(size - s, PIECE / BLK_SECTOR);

		ret = blk_pread(b, s * BLK_SECTOR, buf, n * BLK_SECTOR);
		if (ret)
			err_errno(
				err, -ret, "reading sectors %" PRIu64 "+%" PRIu64, s, n);
		for (uint64_t i = 0; !ret && i < n; i++)
			ret = fn(arg, s + i, history_hash(buf + i * BLK_SECTOR));
	}
	for (uint64_t s = size; !ret && s < h->n_sectors; s++)
		ret = fn(arg, s, HISTORY_ABSENT);
	buf_free(buf);
	return ret;
}

struct check {
	const struct history *h;
	const struct history_snapshot *snap;
	uint64_t time, certain;
	struct err *err;
};

static int check_sector(void *arg, uint64_t sector, uint64_t hash)
{
	struct check *c = arg;

	if (allowed(c->h, sector, hash, c->time, c->certain))
		return 0;
	return complain(c->h, sector, hash, c->time, c->certain, c->err);
}

int history_check(const struct history *h, struct blk *b, uint64_t time, struct err *err)
{
	struct check c = {h, NULL, time, certain_before(h, time), err};

	return each_sector(h, b, check_sector, &c, err);
}

static int check_snapshot_sector(void *arg, uint64_t sector, uint64_t hash)
{
	struct check *c = arg;
	char origin[96];

	if (!c->snap->hashes[sector] || c->snap->hashes[sector] == hash)
		return 0;
	find_origin(c->h, hash, origin, sizeof(origin));
	return err_set(c->err, EIO, "snapshot %s: sector %" PRIu64 " holds %s",
		c->snap->name, sector, origin);
}

int history_check_snapshot(const struct history *h, const struct history_snapshot *s,
	struct blk *b, struct err *err)
{
	struct check c = {h, s, 0, 0, err};

	return each_sector(h, b, check_snapshot_sector, &c, err);
}
