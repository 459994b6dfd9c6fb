/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Reading and writing many tables at once, for passes over a whole image.
 *
 * A pass is limited by system calls and by waiting, so clusters are taken in the order
 * they lie on disk, neighbours in one request, and several tasks keep requests in flight.
 * Each task owns one buffer: IN_FLIGHT_BYTES bounds them all.
 *
 * The tasks run on the caller's loop, so the calls of one pass's fn never run at the same
 * instant; fn must not park. What they gather needs no lock.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/iov.h"
#include "qcow2/qcow2.h"

#define REQUEST_BYTES   (1u << 20)
#define IN_FLIGHT_BYTES (16u << 20)

/* Reads metadata; what lies past the end of the file is zeros, as for any sparse part. */
static int read_meta(struct qcow2 *q, uint64_t offset, void *buf, size_t bytes)
{
	uint64_t size = blk_size(q->file);
	size_t there = offset >= size ? 0 : MIN((uint64_t)bytes, size - offset);
	int ret = there ? blk_pread(q->file, offset, buf, there) : 0;

	memset((char *)buf + there, 0, bytes - there);
	return ret;
}

int qcow2_table_read(struct qcow2 *q, uint64_t offset, uint64_t entries, uint64_t **out)
{
	size_t bytes = entries * sizeof(uint64_t);
	uint64_t *table = malloc(MAX(bytes, sizeof(uint64_t)));

	if (!table)
		return -ENOMEM;
	for (size_t pos = 0; pos < bytes; pos += REQUEST_BYTES) {
		int ret = read_meta(q, offset + pos, (char *)table + pos,
			MIN(bytes - pos, (size_t)REQUEST_BYTES));

		if (ret) {
			free(table);
			return ret;
		}
	}
	for (uint64_t i = 0; i < entries; i++) {
		be64 raw;

		memcpy(&raw, &table[i], sizeof(raw));
		table[i] = be64_get(raw);
	}
	*out = table;
	return 0;
}

int qcow2_table_write(struct qcow2 *q, enum qcow2_kind kind, uint64_t offset,
	uint64_t entries, const uint64_t *table)
{
	uint64_t batch = MIN(entries, (uint64_t)REQUEST_BYTES / sizeof(be64));
	be64 *buf;
	int ret = 0;

	if (!entries)
		return 0;
	buf = buf_alloc(batch * sizeof(*buf));
	if (!buf)
		return -ENOMEM;
	for (uint64_t done = 0; !ret && done < entries; done += batch) {
		batch = MIN(batch, entries - done);
		for (uint64_t i = 0; i < batch; i++)
			buf[i] = be64_put(table[done + i]);
		ret = qcow2_meta_write(
			q, kind, offset + done * sizeof(*buf), buf, batch * sizeof(*buf));
	}
	buf_free(buf);
	return ret;
}

struct pass {
	struct qcow2 *q;
	enum qcow2_kind kind;
	const uint64_t *offsets;
	uint32_t *order; /* NULL: offsets ascend as they are */
	size_t n, next;
	size_t buf_clusters;
	int ret;
	int (*fn)(void *arg, size_t i, uint8_t *cluster, bool *changed);
	void *arg;
};

static size_t nth(const struct pass *p, size_t i)
{
	return p->order ? p->order[i] : i;
}

/* Takes the next run of neighbours: p->next .. + the result. */
static size_t take_run(struct pass *p)
{
	uint64_t expect = p->offsets[nth(p, p->next)];
	size_t n = 0;

	while (n < p->buf_clusters && p->next + n < p->n &&
		p->offsets[nth(p, p->next + n)] == expect) {
		expect += p->q->cluster_bytes;
		n++;
	}
	p->next += n;
	return n;
}

/* Reads one run, has each cluster seen, and writes back those that changed. */
static int do_run(struct pass *p, size_t first, size_t n, uint8_t *buf)
{
	size_t cs = p->q->cluster_bytes;
	uint64_t offset = p->offsets[nth(p, first)];
	size_t dirty = 0; /* clusters before i that changed and are not written yet */
	int ret = read_meta(p->q, offset, buf, n * cs);

	for (size_t i = 0; !ret && i <= n; i++) {
		bool changed = false;

		if (i < n)
			ret = p->fn(p->arg, nth(p, first + i), buf + i * cs, &changed);
		if (ret)
			break;
		if (changed) {
			dirty++;
		} else if (dirty) {
			ret = qcow2_meta_write(p->q, p->kind, offset + (i - dirty) * cs,
				buf + (i - dirty) * cs, dirty * cs);
			dirty = 0;
		}
	}
	return ret;
}

static int run_pass(void *arg)
{
	struct pass *p = arg;
	uint8_t *buf;
	int ret = 0;

	if (p->next >= p->n || p->ret)
		return 0;
	buf = buf_alloc(p->buf_clusters * p->q->cluster_bytes);
	if (!buf)
		return p->ret = -ENOMEM;
	while (!ret && !p->ret && p->next < p->n) {
		size_t first = p->next;

		ret = do_run(p, first, take_run(p), buf);
	}
	buf_free(buf);
	if (ret)
		p->ret = ret; /* the other tasks stop */
	return ret;
}

static int by_offset(const void *a, const void *b, void *arg)
{
	const uint64_t *offsets = arg;
	uint64_t x = offsets[*(const uint32_t *)a], y = offsets[*(const uint32_t *)b];

	return x < y ? -1 : x > y;
}

/* Leaves p->order NULL where nothing has to be sorted. */
static int sort_offsets(struct pass *p)
{
	size_t i = 1;

	while (i < p->n && p->offsets[i - 1] <= p->offsets[i])
		i++;
	if (i >= p->n)
		return 0;
	if (p->n > UINT32_MAX)
		return -EFBIG;
	p->order = malloc(p->n * sizeof(*p->order));
	if (!p->order)
		return -ENOMEM;
	for (i = 0; i < p->n; i++)
		p->order[i] = (uint32_t)i;
	qsort_r(p->order, p->n, sizeof(*p->order), by_offset, (void *)p->offsets);
	return 0;
}

int qcow2_clusters_each(struct qcow2 *q, enum qcow2_kind kind, const uint64_t *offsets,
	size_t n, int (*fn)(void *arg, size_t i, uint8_t *cluster, bool *changed),
	void *arg)
{
	struct pass p = {
		.q = q, .kind = kind, .offsets = offsets, .n = n, .fn = fn, .arg = arg};
	size_t buf_bytes = MAX(q->cluster_bytes, REQUEST_BYTES);
	struct task_group group;
	int ret;

	if (!n)
		return 0;
	ret = sort_offsets(&p);
	if (ret)
		return ret;
	p.buf_clusters = MIN(buf_bytes / q->cluster_bytes, n);
	task_group_init(&group);
	for (size_t i = 0; !ret && i < MIN(IN_FLIGHT_BYTES / buf_bytes, n); i++)
		ret = task_group_spawn(&group, NULL, run_pass, &p);
	if (ret)
		p.ret = ret;
	ret = task_group_wait(&group);
	free(p.order);
	return p.ret ? p.ret : ret;
}
