/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The copy engine between two made-up disks: a source whose extents, contents and bad
 * sectors are told by a function of the offset, and a target with clusters that keeps a
 * record of what was done to it, in which order.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/iov.h"
#include "base/math.h"
#include "base/task.h"
#include "block/copy.h"
#include "block/driver.h"
#include "block/format.h"
#include "tests/unit/support_engine.h"

#define DISK    (24 * MiB)
#define CLUSTER 65536u

/* ---- the source ------------------------------------------------------------------ */

/* A repeating pattern of extents with edges on no cluster's boundary. */
enum { PATTERN = 5 * 1000 * 512 };

static struct {
	uint64_t bad[4]; /* sectors' offsets that cannot be read */
	size_t n_bad;
	bool no_extents;
	atomic_uint reads;
} source;

static uint8_t source_byte(uint64_t offset)
{
	uint64_t in = offset % PATTERN;

	if (in < 700 * 512 || (in >= 3000 * 512 && in < 3001 * 512))
		return (uint8_t)(1 + offset / 512 % 251);
	if (in >= 1000 * 512 && in < 2500 * 512) /* stored; zeros but for some sectors */
		return in / 512 % 100 == 0 ? 7 : 0;
	return 0;
}

/* Where the pattern says that nothing is stored. */
static bool source_hole(uint64_t offset, uint64_t *end)
{
	static const uint64_t edges[] = {700, 1000, 2500, 3000, 3001, 5000};
	uint64_t in = offset % PATTERN;
	size_t i = 0;

	while (in >= edges[i] * 512)
		i++;
	*end = offset - in + edges[i] * 512;
	return i % 2;
}

static int source_open(struct blk *b, struct opts *opts, struct err *err)
{
	uint64_t size = DISK;

	if (opts_take_size(opts, "size", &size, err) < 0)
		return -EINVAL;
	blk_set_size(b, size);
	b->limits.request_align = 512;
	return 0;
}

static int source_preadv(
	struct blk *b, uint64_t offset, uint64_t bytes, const struct iovec *iov, int niov)
{
	uint8_t sector[512];

	(void)b;
	atomic_fetch_add(&source.reads, 1);
	for (size_t i = 0; i < source.n_bad; i++) {
		if (source.bad[i] >= offset && source.bad[i] < offset + bytes)
			return -EIO;
	}
	for (uint64_t pos = 0; pos < bytes; pos += 512) {
		memset(sector, source_byte(offset + pos), 512);
		iov_from_buf(iov, niov, pos, sector, 512);
	}
	task_yield();
	return 0;
}

static int source_extent(
	struct blk *b, uint64_t offset, uint64_t bytes, struct blk_extent *out)
{
	uint64_t end;
	bool hole = source_hole(offset, &end);

	(void)b;
	if (source.no_extents)
		return -EIO;
	out->bytes = MIN(bytes, end - offset);
	out->flags = BLK_EXT_ALLOCATED | (hole ? BLK_EXT_ZERO : BLK_EXT_DATA);
	return 0;
}

static const struct blk_driver source_driver = {
	.name = "source",
	.kind = BLK_PROTOCOL,
	.open = source_open,
	.preadv = source_preadv,
	.extent = source_extent,
};

/* ---- the target ------------------------------------------------------------------ */

enum what { WROTE, ZEROED };

struct event {
	enum what what;
	unsigned flags;
	uint64_t offset, bytes;
};

static struct {
	uint8_t *data;
	struct event *events;
	size_t n;
	atomic_uint busy, most_busy;
	uint64_t fail_at; /* writes that cover it fail with ENOSPC; UINT64_MAX: none */
	struct task_mutex lock;
	bool clusters;
} target;

static int target_open(struct blk *b, struct opts *opts, struct err *err)
{
	uint64_t size = DISK;

	if (opts_take_size(opts, "size", &size, err) < 0)
		return -EINVAL;
	blk_set_size(b, size);
	b->caps = BLK_CAP_COMPRESS | BLK_CAP_ZERO_INIT;
	return 0;
}

static void record(enum what what, uint64_t offset, uint64_t bytes, unsigned flags)
{
	task_lock(&target.lock);
	assert_in_range(target.n, 0, 99999);
	target.events[target.n++] = (struct event){what, flags, offset, bytes};
	task_unlock(&target.lock);
}

static int target_pwritev(struct blk *b, uint64_t offset, uint64_t bytes,
	const struct iovec *iov, int niov, unsigned flags)
{
	unsigned busy = atomic_fetch_add(&target.busy, 1) + 1;

	(void)b;
	if (busy > atomic_load(&target.most_busy))
		atomic_store(&target.most_busy, busy);
	record(WROTE, offset, bytes, flags);
	iov_to_buf(iov, niov, 0, target.data + offset, bytes);
	task_sleep_ns(100000);
	atomic_fetch_sub(&target.busy, 1);
	return target.fail_at >= offset && target.fail_at < offset + bytes ? -ENOSPC : 0;
}

static int target_preadv(
	struct blk *b, uint64_t offset, uint64_t bytes, const struct iovec *iov, int niov)
{
	(void)b;
	iov_from_buf(iov, niov, 0, target.data + offset, bytes);
	return 0;
}

static int target_zero(struct blk *b, uint64_t offset, uint64_t bytes, unsigned flags)
{
	(void)b;
	record(ZEROED, offset, bytes, flags);
	memset(target.data + offset, 0, bytes);
	return 0;
}

struct blk_packed {
	uint64_t offset, bytes;
	const struct iovec *iov;
	int niov;
};

static int target_pack(struct blk *b, uint64_t offset, uint64_t bytes,
	const struct iovec *iov, int niov, struct blk_packed **out)
{
	(void)b;
	*out = malloc(sizeof(**out));
	assert_non_null(*out);
	**out = (struct blk_packed){offset, bytes, iov, niov};
	return 0;
}

static int target_write_packed(struct blk *b, struct blk_packed *p)
{
	return target_pwritev(b, p->offset, p->bytes, p->iov, p->niov, BLK_COMPRESSED);
}

static void target_packed_free(struct blk_packed *p)
{
	free(p);
}

static void target_traits(struct blk *b, uint32_t *cluster, bool *dirty, bool *encrypted)
{
	(void)b, (void)dirty, (void)encrypted;
	*cluster = target.clusters ? CLUSTER : 0;
}

static const struct blk_format_ops target_format = {.traits = target_traits};

static const struct blk_driver target_driver = {
	.name = "target",
	.kind = BLK_PROTOCOL,
	.open = target_open,
	.preadv = target_preadv,
	.pwritev = target_pwritev,
	.pack = target_pack,
	.write_packed = target_write_packed,
	.packed_free = target_packed_free,
	.zero = target_zero,
	.format = &target_format,
};

const struct blk_driver *const blk_drivers[] = {&source_driver, &target_driver, NULL};

/* ---- a job ----------------------------------------------------------------------- */

struct run {
	struct copy_job job;
	struct copy_source sources[3];
	uint64_t sizes[3]; /* of the sources' disks; 0: DISK */
	int ret;
	struct err err;
	uint64_t last_done, last_total, salvaged[16];
	size_t n_salvaged;
	uint64_t cancel_at;
	atomic_bool cancel;
};

static struct blk *open_disk(const char *driver, uint64_t size, unsigned flags)
{
	struct opts *opts = opts_new();
	struct err err = ERR_INIT;
	struct blk *b;

	opts_set(opts, "driver", driver);
	opts_setf(opts, "size", "%llu", (unsigned long long)size);
	b = blk_open(NULL, opts, flags, &err);
	if (!b)
		print_error("%s\n", err.msg);
	assert_non_null(b);
	opts_free(opts);
	return b;
}

static void on_progress(void *arg, uint64_t done, uint64_t total)
{
	struct run *r = arg;

	assert_true(done >= r->last_done && done <= total);
	r->last_done = done;
	r->last_total = total;
	if (r->cancel_at && done >= r->cancel_at)
		atomic_store(&r->cancel, true);
}

static void on_salvaged(void *arg, uint64_t offset, int code)
{
	struct run *r = arg;

	assert_int_equal(code, EIO);
	assert_in_range(r->n_salvaged, 0, 15);
	r->salvaged[r->n_salvaged++] = offset;
}

static int run_main(void *arg)
{
	struct run *r = arg;
	uint64_t total = 0;

	if (!r->job.n_sources)
		r->job.n_sources = 1;
	for (size_t i = 0; i < r->job.n_sources; i++) {
		uint64_t size = r->sizes[i] ? r->sizes[i] : DISK;

		r->sources[i].b = open_disk("source", size, 0);
		r->sources[i].bytes = round_up(size, 512);
		total += r->sources[i].bytes;
	}
	r->job.sources = r->sources;
	r->job.dst = open_disk("target", total, BLK_O_RDWR | BLK_O_DISCARD);
	r->job.progress = on_progress;
	r->job.salvaged = on_salvaged;
	r->job.cancel = &r->cancel;
	r->job.arg = r;
	target.data = calloc(1, total);
	target.events = calloc(100000, sizeof(*target.events));
	target.n = 0;
	atomic_store(&target.most_busy, 0);
	r->ret = copy_run(&r->job, &r->err);
	blk_close(r->job.dst);
	for (size_t i = 0; i < r->job.n_sources; i++)
		blk_close(r->sources[i].b);
	return 0;
}

static void run(struct run *r)
{
	run_in_loop(run_main, r);
}

static int setup(void **state)
{
	(void)state;
	memset(&source, 0, sizeof(source));
	memset(&target, 0, sizeof(target));
	target.fail_at = UINT64_MAX;
	target.clusters = true;
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	free(target.data);
	free(target.events);
	return 0;
}

/* What the disk at `offset` of the sources together is. */
static uint8_t expected(const struct run *r, uint64_t offset)
{
	size_t i = 0;

	for (; offset >= r->sources[i].bytes; i++)
		offset -= r->sources[i].bytes;
	return offset < (r->sizes[i] ? r->sizes[i] : DISK) ? source_byte(offset) : 0;
}

static void check_data(const struct run *r, uint64_t total)
{
	for (uint64_t pos = 0; pos < total; pos += 512) {
		uint8_t want = expected(r, pos);

		if (target.data[pos] != want || target.data[pos + 511] != want)
			fail_msg("byte %llu is %d, not %d", (unsigned long long)pos,
				target.data[pos], want);
	}
}

static uint64_t written(void)
{
	uint64_t bytes = 0;

	for (size_t i = 0; i < target.n; i++)
		bytes += target.events[i].bytes;
	return bytes;
}

/* ---- tests ----------------------------------------------------------------------- */

static void the_disk_arrives(void **state)
{
	static const uint64_t sparse[] = {0, 512, 4096, 65536, 16 * MiB};

	for (size_t i = 0; i < ARRAY_LEN(sparse); i++) {
		struct run r = {.job = {.min_sparse = sparse[i], .target_is_zero = true}};

		run(&r);
		assert_int_equal(r.ret, 0);
		assert_int_equal(r.last_done, DISK);
		assert_int_equal(r.last_total, DISK);
		check_data(&r, DISK);
		if (!sparse[i])
			assert_int_equal(written(), DISK);
		else
			assert_true(written() < DISK / 2);
		teardown(state);
	}
	setup(state);
}

static void zeros_are_written_where_the_target_is_not_zero(void **state)
{
	struct run r = {.job = {.min_sparse = 4096}};

	(void)state;
	run(&r);
	assert_int_equal(r.ret, 0);
	assert_int_equal(written(), DISK);
	for (size_t i = 0; i < target.n; i++)
		assert_int_equal(!(target.events[i].flags & BLK_MAY_UNMAP),
			target.events[i].what == WROTE);
	check_data(&r, DISK);
}

static void zeros_are_written_as_far_as_the_backing_file_goes(void **state)
{
	struct run r = {.job = {.min_sparse = 4096,
				.target_is_zero = true,
				.backing_bytes = 10 * MiB + 512}};
	uint64_t end = 0;

	(void)state;
	run(&r);
	assert_int_equal(r.ret, 0);
	check_data(&r, DISK);
	for (size_t i = 0; i < target.n; i++) {
		if (target.events[i].what == ZEROED)
			end = MAX(end, target.events[i].offset + target.events[i].bytes);
	}
	assert_true(end <= 10 * MiB + CLUSTER);
	assert_true(written() >= 10 * MiB);
}

static void clusters_are_laid_out_in_order(void **state)
{
	struct run r = {
		.job = {.min_sparse = 4096, .target_is_zero = true, .parallel = 16}};
	uint64_t end = 0;

	(void)state;
	run(&r);
	assert_int_equal(r.ret, 0);
	for (size_t i = 0; i < target.n; i++) {
		assert_true(target.events[i].offset >= end);
		end = target.events[i].offset + target.events[i].bytes;
	}
	assert_int_equal(atomic_load(&target.most_busy), 1);
}

static void writes_overlap_where_order_does_not_matter(void **state)
{
	struct run r = {.job = {.min_sparse = 4096,
				.target_is_zero = true,
				.out_of_order = true}};

	(void)state;
	run(&r);
	assert_int_equal(r.ret, 0);
	check_data(&r, DISK);
	assert_true(atomic_load(&target.most_busy) > 1);
}

/* Every compressed write is whole clusters, or ends with the disk. */
static void check_compressed(uint64_t total)
{
	uint64_t end = 0;

	for (size_t i = 0; i < target.n; i++) {
		const struct event *e = &target.events[i];

		assert_int_equal(e->what, WROTE);
		assert_true(e->flags & BLK_COMPRESSED);
		assert_int_equal(e->offset % CLUSTER, 0);
		assert_true(e->bytes % CLUSTER == 0 || e->offset + e->bytes == total);
		assert_true(e->offset >= end);
		end = e->offset + e->bytes;
	}
}

static void compressed_writes_are_whole_clusters_in_order(void **state)
{
	for (unsigned parallel = 1; parallel <= 16; parallel += 5) {
		struct run r = {.job = {.min_sparse = 4096,
					.target_is_zero = true,
					.compressed = true,
					.parallel = parallel}};

		run(&r);
		assert_int_equal(r.ret, 0);
		check_data(&r, DISK);
		check_compressed(DISK);
		teardown(state);
	}
	setup(state);
}

static void sources_follow_each_other_at_any_byte(void **state)
{
	for (int compressed = 0; compressed < 2; compressed++) {
		struct run r = {
			.job = {.n_sources = 3,
				.min_sparse = 4096,
				.target_is_zero = true,
				.compressed = compressed},
			.sizes = {3 * MiB + 512 * 77, 1000 * 512, 5 * MiB + 512},
		};
		uint64_t total = 8 * MiB + 512 * 1078;

		run(&r);
		assert_int_equal(r.ret, 0);
		check_data(&r, total);
		if (compressed)
			check_compressed(total);
		teardown(state);
	}
	setup(state);
}

static void only_bad_sectors_are_lost(void **state)
{
	struct run r = {
		.job = {.min_sparse = 4096, .target_is_zero = true, .salvage = true}};
	static const uint64_t bad[] = {0, 512 * 300, 512 * 301, PATTERN + 512 * 50};

	(void)state;
	memcpy(source.bad, bad, sizeof(bad));
	source.n_bad = ARRAY_LEN(bad);
	run(&r);
	assert_int_equal(r.ret, 0);
	assert_int_equal(r.job.salvaged_bytes, 4 * 512);
	assert_int_equal(r.n_salvaged, 4);
	for (size_t i = 0; i < 4; i++) {
		assert_int_equal(target.data[bad[i]], 0);
		memset(target.data + bad[i], source_byte(bad[i]), 512);
	}
	check_data(&r, DISK);
	teardown(&(void *){NULL});

	/* Not even extents can be had. */
	setup(&(void *){NULL});
	source.no_extents = true;
	r = (struct run){
		.job = {.min_sparse = 4096, .target_is_zero = true, .salvage = true}};
	run(&r);
	assert_int_equal(r.ret, 0);
	check_data(&r, DISK);
}

static void the_first_failure_ends_it(void **state)
{
	struct run r = {.job = {.min_sparse = 4096, .target_is_zero = true}};

	(void)state;
	source.bad[0] = PATTERN + 512 * 50;
	source.n_bad = 1;
	run(&r);
	assert_int_equal(r.ret, -EIO);
	assert_non_null(strstr(r.err.msg, "error while reading at byte "));
	for (size_t i = 0; i < target.n; i++)
		assert_true(target.events[i].offset < PATTERN + 512 * 700);
	teardown(&(void *){NULL});

	setup(&(void *){NULL});
	target.fail_at = 3 * MiB;
	r = (struct run){.job = {.target_is_zero = true}};
	run(&r);
	assert_int_equal(r.ret, -ENOSPC);
	assert_non_null(strstr(r.err.msg, "error while writing at byte "));
	assert_true(written() <= 4 * MiB);
	teardown(&(void *){NULL});

	setup(&(void *){NULL});
	source.no_extents = true;
	r = (struct run){.job = {.target_is_zero = true}};
	run(&r);
	assert_int_equal(r.ret, -EIO);
}

static void cancelling_ends_it(void **state)
{
	struct run r = {.job = {.target_is_zero = true}, .cancel_at = 5 * MiB};

	(void)state;
	run(&r);
	assert_int_equal(r.ret, -ECANCELED);
	assert_true(written() < DISK);
}

static void the_rate_is_kept(void **state)
{
	struct run r = {.job = {.min_sparse = 4096,
				.target_is_zero = true,
				.rate_bytes = 20 * MiB}};
	uint64_t start = monotonic_ns();

	(void)state;
	run(&r);
	assert_int_equal(r.ret, 0);
	/* Over 10 MiB are data; the last piece does not wait for its own cost. */
	assert_true(monotonic_ns() - start > 400000000);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(the_disk_arrives, setup, teardown),
		cmocka_unit_test_setup_teardown(
			zeros_are_written_where_the_target_is_not_zero, setup, teardown),
		cmocka_unit_test_setup_teardown(
			zeros_are_written_as_far_as_the_backing_file_goes, setup,
			teardown),
		cmocka_unit_test_setup_teardown(
			clusters_are_laid_out_in_order, setup, teardown),
		cmocka_unit_test_setup_teardown(
			writes_overlap_where_order_does_not_matter, setup, teardown),
		cmocka_unit_test_setup_teardown(
			compressed_writes_are_whole_clusters_in_order, setup, teardown),
		cmocka_unit_test_setup_teardown(
			sources_follow_each_other_at_any_byte, setup, teardown),
		cmocka_unit_test_setup_teardown(
			only_bad_sectors_are_lost, setup, teardown),
		cmocka_unit_test_setup_teardown(
			the_first_failure_ends_it, setup, teardown),
		cmocka_unit_test_setup_teardown(cancelling_ends_it, setup, teardown),
		cmocka_unit_test_setup_teardown(the_rate_is_kept, setup, teardown),
	};

	return run_on_engines("copy", tests, ARRAY_LEN(tests));
}
