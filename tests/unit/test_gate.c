/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The gate: random requests through disks with odd limits against a flat model, the
 * driver asserting its side of the contract; and what each flag and each fallback does.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "base/iov.h"
#include "base/math.h"
#include "support_odd.h"

const struct blk_driver *const blk_drivers[] = {
	&odd_driver, &plain_driver, &fmt_driver, &pass_driver, NULL};

static int clear(void **state)
{
	(void)state;
	odd_clear();
	return 0;
}

static struct blk *open_odd(const char *name, unsigned flags)
{
	struct err err = ERR_INIT;
	struct blk *b = blk_open(name, NULL, flags | BLK_O_PROTOCOL, &err);

	if (!b)
		fail_msg("%s", err.msg);
	return b;
}

/* ---- random requests against a flat array ---------------------------------------- */

struct model {
	struct blk *b;
	struct odd_disk *disk;
	unsigned seed;
	uint8_t *bytes; /* ODD_ROOM: what the disk should read as */
	uint8_t *memory;
	struct iovec *iov;
	int niov;
};

#define MAX_SEGMENTS 3000
#define MEMORY       (300u << 10)

static uint64_t below(struct model *m, uint64_t n)
{
	return n ? ((uint64_t)rand_r(&m->seed) << 20 ^ (uint64_t)rand_r(&m->seed)) % n
		 : 0;
}

/* A range: mostly short, at any alignment, often at the end of the disk. */
static void pick_range(struct model *m, uint64_t limit, uint64_t *offset, uint64_t *bytes)
{
	static const uint64_t units[] = {1, 1, 512, 4096};
	uint64_t unit = units[below(m, ARRAY_LEN(units))];
	uint64_t most = below(m, 4) ? 10000 : 200000;

	*offset = below(m, limit + 1) / unit * unit;
	*bytes = below(m, most) / unit * unit;
	if (*bytes > limit - *offset || below(m, 10) == 0)
		*bytes = MIN(limit - *offset, most);
}

/* Cuts m->memory into segments of one of several shapes. */
static void pick_memory(struct model *m, uint64_t bytes)
{
	uint64_t shape = below(m, 4);
	size_t pos = shape == 1 ? below(m, 100) : 0;

	m->niov = 0;
	while (bytes > 0 && m->niov < MAX_SEGMENTS - 1) {
		uint64_t n = bytes;

		if (shape == 2)
			n = MIN(bytes, 512 * (1 + below(m, 8)));
		else if (shape == 3)
			n = MIN(bytes, 1 + below(m, 90));
		m->iov[m->niov++] = (struct iovec){m->memory + pos, n};
		pos += n;
		bytes -= n;
	}
	m->iov[m->niov++] = (struct iovec){m->memory + pos, bytes};
}

static void do_read(struct model *m, uint64_t offset, uint64_t bytes)
{
	pick_memory(m, bytes);
	iov_fill(m->iov, m->niov, 0, 0xee, bytes);
	assert_int_equal(blk_preadv(m->b, offset, m->iov, m->niov, 0), 0);
	for (uint64_t i = 0; i < bytes; i++) {
		uint8_t c;

		if (i % 997 &&
			i + 1 != bytes) /* whole compare below; this names the place */
			continue;
		iov_to_buf(m->iov, m->niov, i, &c, 1);
		if (c != m->bytes[offset + i])
			fail_msg("byte %llu is wrong", (unsigned long long)(offset + i));
	}
	uint8_t *flat = malloc(bytes + 1);

	iov_to_buf(m->iov, m->niov, 0, flat, bytes);
	assert_memory_equal(flat, m->bytes + offset, bytes);
	free(flat);
}

static void check_stable(struct model *m, uint64_t offset, uint64_t bytes)
{
	assert_memory_equal(m->disk->stable + offset, m->bytes + offset, bytes);
}

static void do_write(struct model *m, uint64_t offset, uint64_t bytes)
{
	unsigned flags = below(m, 4) == 0 ? BLK_FUA : 0;
	uint8_t *flat = malloc(bytes + 1);

	for (uint64_t i = 0; i < bytes; i++)
		flat[i] = (uint8_t)rand_r(&m->seed);
	pick_memory(m, bytes);
	iov_from_buf(m->iov, m->niov, 0, flat, bytes);
	assert_int_equal(blk_pwritev(m->b, offset, m->iov, m->niov, flags), 0);
	memcpy(m->bytes + offset, flat, bytes);
	free(flat);
	if (flags)
		check_stable(m, offset, bytes);
}

static void do_zero(struct model *m, uint64_t offset, uint64_t bytes)
{
	unsigned flags = below(m, 4) == 0 ? BLK_FUA : 0;
	int ret;

	flags |= below(m, 2) ? BLK_MAY_UNMAP : 0;
	flags |= below(m, 4) ? 0 : BLK_NO_FALLBACK;
	ret = blk_zero(m->b, offset, bytes, flags);
	if (flags & BLK_NO_FALLBACK && ret == -ENOTSUP) {
		do_read(m, offset, bytes);
		return;
	}
	assert_int_equal(ret, 0);
	memset(m->bytes + offset, 0, bytes);
	if (flags & BLK_FUA)
		check_stable(m, offset, bytes);
}

/* Each byte stays or becomes zero; the model follows. */
static void do_discard(struct model *m, uint64_t offset, uint64_t bytes)
{
	uint8_t *now = malloc(bytes + 1);

	assert_int_equal(blk_discard(m->b, offset, bytes), 0);
	assert_int_equal(blk_pread(m->b, offset, now, bytes), 0);
	for (uint64_t i = 0; i < bytes; i++)
		assert_true(now[i] == 0 || now[i] == m->bytes[offset + i]);
	memcpy(m->bytes + offset, now, bytes);
	free(now);
}

static void random_requests(struct model *m, int rounds)
{
	bool grows = m->disk->caps & BLK_CAP_GROW;

	for (int i = 0; i < rounds; i++) {
		uint64_t limit = grows ? ODD_ROOM - 8192 : blk_size(m->b), offset, bytes;

		pick_range(m, limit, &offset, &bytes);
		switch (below(m, 8)) {
		case 0:
		case 1:
		case 2:
			do_write(m, offset, bytes);
			break;
		case 3:
			do_zero(m, offset, bytes);
			break;
		case 4:
			do_discard(m, offset, bytes);
			break;
		case 5:
			assert_int_equal(blk_flush(m->b), 0);
			check_stable(m, 0, blk_size(m->b));
			break;
		default:
			do_read(m, offset, bytes);
			break;
		}
	}
	do_read(m, 0, MIN(blk_size(m->b), (uint64_t)200000));
}

struct shape {
	const char *what;
	uint64_t size;
	struct blk_limits limits;
	unsigned caps, flags;
	bool no_zero;
};

static const struct shape shapes[] = {
	{"bytes", 200001, {0}, 0, BLK_O_DISCARD, false},
	{"bytes, short transfers", 200001, {.max_transfer = 777, .max_discard = 1001},
		BLK_CAP_FUA, BLK_O_DISCARD, false},
	{"sectors", 200192, {.request_align = 512}, BLK_CAP_FUA, BLK_O_DISCARD, false},
	{"sectors, odd size", 200001, {.request_align = 512}, 0, BLK_O_DISCARD, true},
	{"sectors, short transfers", 200192, {.request_align = 512, .max_transfer = 1536},
		0, BLK_O_DISCARD, true},
	{"4 KiB units and memory", 204800, {.request_align = 4096, .mem_align = 512},
		BLK_CAP_FUA, BLK_O_DISCARD, false},
	{"large units", 300000, {.request_align = 128 << 10}, 0, BLK_O_DISCARD, false},
	{"aligned memory", 200001, {.mem_align = 64, .max_transfer = 8192}, 0,
		BLK_O_DISCARD, false},
	{"zero and discard units", 250000,
		{.request_align = 512,
			.zero_align = 8192,
			.discard_align = 4096,
			.max_discard = 20000},
		BLK_CAP_FUA, BLK_O_DISCARD, false},
	{"grows", 1000, {0}, BLK_CAP_GROW, BLK_O_DISCARD, false},
	{"grows by units", 1000,
		{.request_align = 512, .mem_align = 512, .zero_align = 4096},
		BLK_CAP_GROW | BLK_CAP_FUA, BLK_O_DISCARD, false},
	{"grows by units, writes zeros", 1000, {.request_align = 4096}, BLK_CAP_GROW,
		BLK_O_DISCARD, true},
	{"ordered", 200001, {.request_align = 512}, BLK_CAP_SERIALISE, BLK_O_DISCARD,
		false},
	{"finds zeros, no discard", 200192, {.request_align = 512}, 0, BLK_O_ZEROES,
		false},
};

static void requests_match_a_flat_array(void **state)
{
	struct model m;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(shapes); i++) {
		const struct shape *s = &shapes[i];

		memset(&m, 0, sizeof(m));
		m.seed = (unsigned)i + 1;
		m.disk = odd_add("d", s->size);
		m.disk->limits = s->limits;
		m.disk->caps = s->caps;
		m.disk->no_zero = s->no_zero;
		m.b = open_odd("d", BLK_O_RDWR | s->flags);
		m.bytes = calloc(1, ODD_ROOM);
		m.memory = aligned_alloc(4096, MEMORY);
		m.iov = calloc(MAX_SEGMENTS, sizeof(*m.iov));
		random_requests(&m, 1500);
		assert_int_equal(blk_close(m.b), 0);
		free(m.bytes);
		free(m.memory);
		free(m.iov);
		odd_clear();
	}
}

/* ---- errors of the caller -------------------------------------------------------- */

static void bad_requests_are_errors(void **state)
{
	struct odd_disk *d = odd_add("d", 10000);
	struct blk *b = open_odd("d", BLK_O_RDWR | BLK_O_DISCARD);
	struct iovec iov = {.iov_base = d, .iov_len = (size_t)BLK_MAX_REQUEST + 1};
	char buf[512];

	(void)state;
	assert_int_equal(blk_pread(b, 9999, buf, 2), -EIO);
	assert_int_equal(blk_pread(b, 10001, buf, 0), -EIO);
	assert_int_equal(blk_pread(b, UINT64_MAX, buf, 2), -EIO);
	assert_int_equal(blk_pread(b, 10000, buf, 0), 0);
	assert_int_equal(blk_pwrite(b, 9999, buf, 2, 0), -EIO);
	assert_int_equal(blk_zero(b, 9999, 2, 0), -EIO);
	assert_int_equal(blk_zero(b, 1, UINT64_MAX, 0), -EIO);
	assert_int_equal(blk_discard(b, 9999, 2), -EIO);
	assert_int_equal(blk_preadv(b, 0, &iov, 1, 0), -EINVAL);
	assert_int_equal(blk_pwritev(b, 0, &iov, 1, 0), -EINVAL);
	assert_int_equal(blk_preadv(b, 0, &iov, -1, 0), -EINVAL);
	iov.iov_len = 512;
	assert_int_equal(blk_preadv(b, 0, &iov, 1, BLK_FUA), -EINVAL);
	assert_int_equal(blk_pwrite(b, 0, buf, 512, 1 << 20), -EINVAL);
	assert_int_equal(blk_zero(b, 0, 512, BLK_COMPRESSED), -EINVAL);
	assert_int_equal(blk_pwrite(b, 0, buf, 512, BLK_COMPRESSED), -ENOTSUP);
	assert_int_equal(blk_pwrite(b, 0, buf, 512, BLK_SERIALISE), -EINVAL);
	assert_int_equal(d->reads + d->writes + d->zeros + d->discards, 0);
	blk_close(b);
}

static void read_only_nodes_take_no_changes(void **state)
{
	struct odd_disk *d = odd_add("d", 10000);
	struct blk *b = open_odd("d", BLK_O_DISCARD);
	char buf[512];

	(void)state;
	assert_true(blk_read_only(b));
	assert_int_equal(blk_pread(b, 0, buf, 512), 0);
	assert_int_equal(blk_pwrite(b, 0, buf, 512, 0), -EACCES);
	assert_int_equal(blk_zero(b, 0, 512, 0), -EACCES);
	assert_int_equal(blk_discard(b, 0, 512), -EACCES);
	assert_int_equal(blk_resize(b, 512, BLK_PREALLOC_OFF, NULL), -EACCES);
	assert_int_equal(blk_copy_range(b, 0, b, 512, 512, 0), -EACCES);
	assert_int_equal(blk_flush(b), 0);
	assert_int_equal(d->flushes + d->writes, 0);
	assert_int_equal(blk_close(b), 0);
}

static void errors_of_the_driver_come_through(void **state)
{
	struct odd_disk *d = odd_add("d", 10000);
	struct blk *b = open_odd("d", BLK_O_RDWR | BLK_O_DISCARD);
	char buf[512];

	(void)state;
	d->fail = -ENOSPC;
	assert_int_equal(blk_pread(b, 0, buf, 512), -ENOSPC);
	assert_int_equal(blk_pwrite(b, 0, buf, 512, 0), -ENOSPC);
	assert_int_equal(blk_zero(b, 0, 512, 0), -ENOSPC);
	assert_int_equal(blk_discard(b, 0, 512), -ENOSPC);
	assert_int_equal(blk_close(b), -ENOSPC); /* the flush */
}

static void reads_past_the_end_of_a_growing_node_are_zeros(void **state)
{
	struct odd_disk *d = odd_add("d", 1000);
	struct blk *b;
	uint8_t buf[4096];

	(void)state;
	d->caps = BLK_CAP_GROW;
	memset(d->bytes, 7, 1000);
	b = open_odd("d", BLK_O_RDWR);
	memset(buf, 0xee, sizeof(buf));
	assert_int_equal(blk_pread(b, 500, buf, sizeof(buf)), 0);
	assert_int_equal(buf[499], 7);
	assert_true(buf_is_zero(buf + 500, sizeof(buf) - 500));
	memset(buf, 0xee, sizeof(buf));
	assert_int_equal(blk_pread(b, BLK_MAX_SIZE - 4096, buf, sizeof(buf)), 0);
	assert_true(buf_is_zero(buf, sizeof(buf)));
	assert_int_equal(blk_pread(b, BLK_MAX_SIZE - 4095, buf, sizeof(buf)), -EIO);
	assert_int_equal(d->reads, 1);
	assert_int_equal(blk_size(b), 1000);
	assert_int_equal(blk_pwrite(b, 3000, "x", 1, 0), 0);
	assert_int_equal(blk_size(b), 3001);
	blk_close(b);
}

/* ---- flags --------------------------------------------------------------------------
 */

static void plain_requests_go_down_as_they_are(void **state)
{
	struct odd_disk *d = odd_add("d", 65536);
	struct blk *b;
	uint8_t *buf = buf_alloc(65536);

	(void)state;
	memset(buf, 1, 65536);
	d->limits.request_align = 512;
	b = open_odd("d", BLK_O_RDWR);
	assert_int_equal(blk_pwrite(b, 512, buf, 60928, 0), 0);
	assert_int_equal(d->writes, 1);
	assert_int_equal(d->reads, 0);
	assert_int_equal(blk_pread(b, 0, buf, 65536), 0);
	assert_int_equal(d->reads, 1);
	/* One unit touched in part is one read and one write. */
	assert_int_equal(blk_pwrite(b, 700, buf, 100, 0), 0);
	assert_int_equal(d->writes, 2);
	assert_int_equal(d->reads, 2);
	/* Two edges. */
	assert_int_equal(blk_pwrite(b, 700, buf, 2000, 0), 0);
	assert_int_equal(d->writes, 3);
	assert_int_equal(d->reads, 4);
	blk_close(b);
	buf_free(buf);
}

static void writethrough_makes_every_write_stable(void **state)
{
	struct odd_disk *d = odd_add("d", 65536);
	struct blk *b = open_odd("d", BLK_O_RDWR | BLK_O_WRITETHROUGH);

	(void)state;
	assert_int_equal(blk_pwrite(b, 5, "abc", 3, 0), 0);
	assert_memory_equal(d->stable + 5, "abc", 3);
	assert_int_equal(d->flushes, 1);
	assert_int_equal(blk_zero(b, 5, 2, 0), 0);
	assert_memory_equal(d->stable + 5, "\0\0c", 3);
	blk_close(b);
	d->caps = BLK_CAP_FUA;
	b = open_odd("d", BLK_O_RDWR | BLK_O_WRITETHROUGH);
	d->flushes = 0;
	assert_int_equal(blk_pwrite(b, 5, "xyz", 3, 0), 0);
	assert_memory_equal(d->stable + 5, "xyz", 3);
	assert_int_equal(d->flushes, 0);
	assert_int_equal(d->fuas, 1);
	blk_close(b);
}

static void unsafe_nodes_never_wait_for_the_disk(void **state)
{
	struct odd_disk *d = odd_add("d", 65536);
	struct blk *b;

	(void)state;
	d->caps = BLK_CAP_FUA;
	b = open_odd("d", BLK_O_RDWR | BLK_O_NO_FLUSH);
	assert_int_equal(blk_pwrite(b, 5, "abc", 3, BLK_FUA), 0);
	assert_int_equal(blk_flush(b), 0);
	assert_int_equal(blk_close(b), 0);
	assert_int_equal(d->flushes + d->fuas, 0);
	assert_memory_equal(d->bytes + 5, "abc", 3);
}

static void discards_need_leave(void **state)
{
	struct odd_disk *d = odd_add("d", 65536);
	struct blk *b = open_odd("d", BLK_O_RDWR);

	(void)state;
	d->limits.discard_align = 4096;
	assert_int_equal(blk_discard(b, 0, 65536), 0);
	assert_int_equal(blk_zero(b, 0, 4096, BLK_MAY_UNMAP), 0);
	assert_int_equal(d->discards + d->unmaps, 0);
	blk_close(b);
	b = open_odd("d", BLK_O_RDWR | BLK_O_DISCARD);
	assert_int_equal(blk_zero(b, 0, 4096, BLK_MAY_UNMAP), 0);
	assert_int_equal(d->unmaps, 1);
	/* Parts of units are left out; nothing is left of a short one. */
	assert_int_equal(blk_discard(b, 1, 8190), 0);
	assert_int_equal(d->discards, 0);
	assert_int_equal(blk_discard(b, 1, 8191), 0);
	assert_int_equal(d->discards, 1);
	blk_close(b);
}

static void zeros_are_found_where_asked(void **state)
{
	struct odd_disk *d = odd_add("d", 65536);
	static const uint8_t zeros[8192];
	struct blk *b = open_odd("d", BLK_O_RDWR | BLK_O_DISCARD | BLK_O_ZEROES);

	(void)state;
	assert_int_equal(blk_pwrite(b, 4096, zeros, 8192, 0), 0);
	assert_int_equal(d->zeros, 1);
	assert_int_equal(d->unmaps + d->writes, 0);
	assert_int_equal(blk_pwrite(b, 4096, "a\0", 2, 0), 0);
	assert_int_equal(d->writes, 1);
	blk_close(b);
	b = open_odd("d", BLK_O_RDWR | BLK_O_DISCARD | BLK_O_ZEROES | BLK_O_ZEROES_UNMAP);
	assert_int_equal(blk_pwrite(b, 4096, zeros, 8192, BLK_FUA), 0);
	assert_int_equal(d->unmaps, 1);
	blk_close(b);
	/* Below a format its requests are no guest writes. */
	odd_add_fmt("f", 65536, false, NULL, NULL);
	b = blk_open("f", NULL, BLK_O_RDWR | BLK_O_ZEROES, NULL);
	assert_non_null(b);
	assert_int_equal(blk_flags(blk_file(b)) & BLK_O_ZEROES, 0);
	blk_close(b);
}

static void zero_without_fallback_is_all_or_nothing(void **state)
{
	struct odd_disk *d = odd_add("d", 65536);
	struct blk *b;

	(void)state;
	d->limits.zero_align = 4096;
	b = open_odd("d", BLK_O_RDWR);
	memset(d->bytes, 1, 65536);
	assert_int_equal(blk_zero(b, 1, 8191, BLK_NO_FALLBACK), -ENOTSUP);
	assert_int_equal(blk_zero(b, 0, 8191, BLK_NO_FALLBACK), -ENOTSUP);
	assert_int_equal(d->writes + d->zeros, 0);
	assert_int_equal(d->bytes[0], 1);
	assert_int_equal(blk_zero(b, 0, 8192, BLK_NO_FALLBACK), 0);
	d->no_zero = true;
	assert_int_equal(blk_zero(b, 8192, 8192, BLK_NO_FALLBACK), -ENOTSUP);
	assert_int_equal(d->writes, 0);
	assert_int_equal(blk_zero(b, 8192, 8192, 0), 0);
	assert_int_equal(d->writes, 1);
	blk_close(b);
}

static void compressed_writes_go_down_whole(void **state)
{
	struct odd_disk *d = odd_add("d", 65536);
	struct blk *b;
	uint8_t *buf = buf_alloc(65536);

	(void)state;
	memset(buf, 0, 65536);
	d->caps = BLK_CAP_COMPRESS;
	d->limits = (struct blk_limits){
		.request_align = 512, .max_transfer = 16384, .optimal = 4096};
	b = open_odd("d", BLK_O_RDWR | BLK_O_ZEROES);
	assert_int_equal(blk_pwrite(b, 100, buf, 4096, BLK_COMPRESSED), -EINVAL);
	assert_int_equal(blk_pwrite(b, 0, buf, 4097, BLK_COMPRESSED), -EINVAL);
	assert_int_equal(d->writes, 0);
	assert_int_equal(blk_pwrite(b, 0, buf, 65536, BLK_COMPRESSED), 0);
	assert_int_equal(d->writes, 4);
	assert_int_equal(d->zeros, 0);
	blk_close(b);
	buf_free(buf);
}

/* ---- a disk that was probed ---------------------------------------------------------
 */

static void a_probed_disk_does_not_turn_into_another_format(void **state)
{
	struct odd_disk *d = odd_add("d", 65536);
	struct err err = ERR_INIT;
	struct blk *b = blk_open("d", NULL, BLK_O_RDWR | BLK_O_DISCARD, &err);
	uint8_t buf[4096] = "FMT!";

	(void)state;
	assert_non_null(b);
	assert_string_equal(blk_driver_name(b), "plain");
	assert_int_equal(blk_pwrite(b, 0, buf, 4096, 0), -EPERM);
	assert_int_equal(blk_pwrite(b, 0, "FMT", 3, 0), 0);
	assert_int_equal(blk_pwrite(b, 3, "!", 1, 0), -EPERM);
	assert_int_equal(blk_pwrite(b, 3, "?", 1, 0), 0);
	assert_int_equal(blk_pwrite(b, 100, buf, 4096, 0), 0);
	assert_int_equal(blk_pwrite(b, 4096, buf, 4096, 0), 0);
	assert_ptr_equal(d->written, buf);
	assert_int_equal(blk_zero(b, 0, 512, 0), 0);
	assert_memory_equal(d->bytes, "\0\0\0\0", 4);
	/* What was looked at is a copy, so that it is that which is written. */
	memset(buf, 1, sizeof(buf));
	assert_int_equal(blk_pwrite(b, 1024, buf, 4096, 0), 0);
	assert_ptr_not_equal(d->written, buf);
	assert_memory_equal(d->bytes + 1024, buf, 4096);
	blk_close(b);
	/* Stated, it is the user's own business. */
	b = blk_open_format("d", "plain", BLK_O_RDWR, &err);
	assert_int_equal(blk_pwrite(b, 0, buf, 4096, 0), 0);
	blk_close(b);
}

/* ---- copies and sizes -----------------------------------------------------------------
 */

static void copies_are_offloaded_or_refused(void **state)
{
	struct odd_disk *d = odd_add("d", 65536), *e = odd_add("e", 65536);
	struct blk *a, *b, *f;

	(void)state;
	odd_add_fmt("f", 65536, false, NULL, NULL);
	d->limits.request_align = 512;
	memset(d->bytes, 5, 65536);
	a = open_odd("d", BLK_O_RDWR);
	b = open_odd("e", BLK_O_RDWR);
	f = blk_open("f", NULL, BLK_O_RDWR, NULL);
	assert_int_equal(blk_copy_range(a, 512, b, 1, 1024, 0), 0);
	assert_true(e->bytes[0] == 0 && e->bytes[1] == 5 && e->bytes[1024] == 5);
	assert_int_equal(e->bytes[1025], 0);
	assert_int_equal(blk_copy_range(a, 512, b, 1, 1024, BLK_FUA), 0);
	assert_int_equal(e->stable[1024], 5);
	assert_int_equal(blk_copy_range(a, 500, b, 0, 1024, 0), -ENOTSUP);
	assert_int_equal(blk_copy_range(a, 512, b, 0, 1000, 0), -ENOTSUP);
	assert_int_equal(blk_copy_range(a, 0, f, 0, 512, 0), -ENOTSUP);
	assert_int_equal(blk_copy_range(a, 65536, b, 0, 512, 0), -EIO);
	assert_int_equal(blk_copy_range(a, 0, b, 65536, 512, 0), -EIO);
	assert_int_equal(blk_copy_range(a, 0, a, 512, 1024, 0), -EINVAL);
	assert_int_equal(blk_copy_range(a, 0, a, 1024, 1024, 0), 0);
	assert_int_equal(blk_copy_range(a, 0, b, 0, 512, BLK_COMPRESSED), -EINVAL);
	assert_int_equal(e->copies, 2);
	blk_close(a);
	blk_close(b);
	blk_close(f);
}

static void sizes_change_within_reason(void **state)
{
	struct err err = ERR_INIT;
	struct blk *b, *f;

	(void)state;
	odd_add("d", 65536);
	odd_add_fmt("f", 65536, false, NULL, NULL);
	b = open_odd("d", BLK_O_RDWR);
	f = blk_open("f", NULL, BLK_O_RDWR, &err);
	assert_int_equal(blk_resize(b, 100, BLK_PREALLOC_OFF, &err), 0);
	assert_int_equal(blk_size(b), 100);
	assert_int_equal(blk_resize(b, BLK_MAX_SIZE + 1, BLK_PREALLOC_OFF, &err), -EFBIG);
	assert_int_equal(blk_resize(f, 1024, BLK_PREALLOC_OFF, &err), -ENOTSUP);
	assert_string_equal(err.msg, "Image format driver 'fmt' does not support resize");
	blk_close(b);
	blk_close(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(requests_match_a_flat_array, clear),
		cmocka_unit_test_teardown(bad_requests_are_errors, clear),
		cmocka_unit_test_teardown(read_only_nodes_take_no_changes, clear),
		cmocka_unit_test_teardown(errors_of_the_driver_come_through, clear),
		cmocka_unit_test_teardown(
			reads_past_the_end_of_a_growing_node_are_zeros, clear),
		cmocka_unit_test_teardown(plain_requests_go_down_as_they_are, clear),
		cmocka_unit_test_teardown(writethrough_makes_every_write_stable, clear),
		cmocka_unit_test_teardown(unsafe_nodes_never_wait_for_the_disk, clear),
		cmocka_unit_test_teardown(discards_need_leave, clear),
		cmocka_unit_test_teardown(zeros_are_found_where_asked, clear),
		cmocka_unit_test_teardown(zero_without_fallback_is_all_or_nothing, clear),
		cmocka_unit_test_teardown(compressed_writes_go_down_whole, clear),
		cmocka_unit_test_teardown(
			a_probed_disk_does_not_turn_into_another_format, clear),
		cmocka_unit_test_teardown(copies_are_offloaded_or_refused, clear),
		cmocka_unit_test_teardown(sizes_change_within_reason, clear),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
