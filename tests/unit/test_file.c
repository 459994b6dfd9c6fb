/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The file and host_device drivers on real files and loop devices: growth, holes,
 * zeroing, direct I/O, preallocation, copying, locks, refusals, and what a lost write
 * does to flushes.
 */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/iov.h"
#include "base/math.h"
#include "base/task.h"
#include "block/driver.h"
#include "block/format.h"
#include "tests/unit/support_blk.h"
#include "tests/unit/support_engine.h"
#include "tests/unit/support_files.h"

/* Opens path with the driver and further options. */
static struct blk *open_with(
	const char *driver, const char *path, const char *more, unsigned flags)
{
	char text[600];

	snprintf(text, sizeof(text), "driver=%s,filename=%s%s", driver, path, more);
	return node_open(text, flags);
}

static struct blk *open_file(const char *path, unsigned flags)
{
	return open_with("file", path, "", flags);
}

static int refused_file(
	const char *path, const char *more, unsigned flags, struct err *err)
{
	char text[600];

	snprintf(text, sizeof(text), "driver=file,filename=%s%s", path, more);
	return node_refused(text, flags, err);
}

static uint64_t allocated_bytes(const char *path)
{
	struct stat st;

	assert_int_equal(stat(path, &st), 0);
	return (uint64_t)st.st_blocks * 512;
}

static uint64_t file_bytes(const char *path)
{
	struct stat st;

	assert_int_equal(stat(path, &st), 0);
	return st.st_size;
}

static void expect_extent(struct blk *b, uint64_t offset, uint64_t bytes, unsigned kind)
{
	struct blk_extent e;

	assert_int_equal(blk_extent(b, offset, blk_size(b) - offset, &e), 0);
	assert_int_equal(e.bytes, bytes);
	assert_int_equal(e.flags & (BLK_EXT_DATA | BLK_EXT_ZERO), kind);
	assert_true(e.flags & BLK_EXT_ALLOCATED);
	assert_true(e.flags & BLK_EXT_HOST);
	assert_int_equal(e.host_offset, offset);
}

/* ---- data ------------------------------------------------------------------------ */

static void what_is_written_is_read_back(void)
{
	struct blk *b = open_file(scratch_file("rw.img", MiB), BLK_O_RDWR);
	uint8_t in[3][700], out[2100];
	struct iovec iov[3];

	for (int i = 0; i < 3; i++) {
		memset(in[i], 'a' + i, sizeof(in[i]));
		iov[i] = (struct iovec){in[i], sizeof(in[i])};
	}
	assert_int_equal(blk_pwritev(b, 12345, iov, 3, 0), 0);
	assert_int_equal(blk_pread(b, 12345, out, sizeof(out)), 0);
	assert_memory_equal(out, in, sizeof(out));
	node_expect(b, 12345 - 100, 100, 0);
	node_expect(b, 12345 + 2100, 100, 0);
	assert_int_equal(blk_flush(b), 0);
	assert_int_equal(blk_size(b), MiB);
	assert_int_equal(blk_close(b), 0);
}

static void write_past_the_end_makes_the_file_longer(void)
{
	const char *path = scratch_file("grow.img", 1000);
	struct blk *b = open_file(path, BLK_O_RDWR);

	assert_int_equal(blk_size(b), 1000);
	node_fill(b, 5000, 24, 0x5a);
	assert_int_equal(blk_size(b), 5024);
	node_expect(b, 0, 5000, 0);
	node_expect(b, 5000, 24, 0x5a);
	assert_int_equal(blk_close(b), 0);
	assert_int_equal(file_bytes(path), 5024);
}

/* Straight to the driver: the gate may answer for what is past the end by itself. */
static void read_across_the_end_gives_zeros(void)
{
	static const unsigned modes[] = {0, BLK_O_DIRECT};
	const char *path = scratch_file("odd.img", 0);
	struct blk *b = open_file(path, BLK_O_RDWR);
	uint8_t *buf = buf_alloc(16384);

	node_fill(b, 0, 1000, 7);
	assert_int_equal(blk_close(b), 0);
	for (size_t m = 0; m < ARRAY_LEN(modes); m++) {
		struct iovec iov[2] = {{buf, 4096}, {buf + 4096, 12288}};

		b = open_file(path, modes[m]);
		memset(buf, 0xee, 16384);
		assert_int_equal(b->drv->preadv(b, 0, 16384, iov, 2), 0);
		for (int i = 0; i < 16384; i++)
			assert_int_equal(buf[i], i < 1000 ? 7 : 0);
		memset(buf, 0xee, 16384);
		assert_int_equal(b->drv->preadv(b, 1 << 20, 16384, iov, 2), 0);
		assert_true(buf_is_zero(buf, 16384));
		assert_int_equal(blk_close(b), 0);
	}
	buf_free(buf);
}

struct growing {
	struct blk *b;
};

#define GROW_ROUNDS 40
#define GROW_UNIT   4096

static int write_every_fourth(void *arg, unsigned i)
{
	struct blk *b = ((struct growing *)arg)->b;
	uint8_t *buf = buf_alloc(GROW_UNIT);
	int ret = 0;

	memset(buf, 1 + i, GROW_UNIT);
	for (unsigned n = 0; n < GROW_ROUNDS && ret == 0; n++) {
		uint64_t offset = (uint64_t)(n * 4 + i) * GROW_UNIT;

		ret = blk_pwrite(b, offset, buf, GROW_UNIT, 0);
		if (ret == 0 && blk_size(b) < offset + GROW_UNIT)
			ret = -ERANGE; /* ran behind a completed write */
		if (ret == 0 && n % 8 == 0)
			ret = blk_flush(b);
	}
	buf_free(buf);
	return ret;
}

static void several_loops_grow_one_file_at_once(void **state)
{
	struct growing g = {open_file(scratch_file("loops.img", 0), BLK_O_RDWR)};

	(void)state;
	assert_int_equal(on_loops(4, write_every_fourth, &g), 0);
	assert_int_equal(blk_size(g.b), GROW_ROUNDS * 4 * GROW_UNIT);
	for (unsigned n = 0; n < GROW_ROUNDS * 4; n++)
		node_expect(g.b, (uint64_t)n * GROW_UNIT, GROW_UNIT, 1 + n % 4);
	assert_int_equal(blk_close(g.b), 0);
}

/* The kernel writes what fits under the limit and reports it as a short count. */
static void write_cut_short_is_an_error_in_the_end(void)
{
	const char *path = scratch_file("limit.img", 0);
	struct blk *b = open_file(path, BLK_O_RDWR);
	struct rlimit old, low;
	uint8_t *buf = buf_alloc(64 * KiB);

	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
	low = (struct rlimit){40 * KiB, old.rlim_max};
	memset(buf, 9, 64 * KiB);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &low), 0);
	assert_int_equal(blk_pwrite(b, 0, buf, 64 * KiB, 0), -EFBIG);
	assert_int_equal(blk_pwrite(b, 0, buf, 40 * KiB, 0), 0);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
	assert_int_equal(blk_size(b), file_bytes(path));
	node_expect(b, 0, 40 * KiB, 9);
	assert_int_equal(blk_flush(b), 0);
	buf_free(buf);
	assert_int_equal(blk_close(b), 0);
}

/* ---- holes ----------------------------------------------------------------------- */

static void extents_tell_holes_from_data(void)
{
	struct blk *b = open_file(scratch_file("holes.img", 64 * MiB), BLK_O_RDWR);

	/* Data at every even MiB up to 32: more runs than the first trips look up. */
	for (unsigned i = 0; i < 32; i += 2)
		node_fill(b, i * MiB, MiB, 1);
	assert_int_equal(blk_flush(b), 0);
	for (int round = 0; round < 2; round++) {
		for (unsigned i = 0; i < 31; i += 2) {
			expect_extent(b, i * MiB, MiB, BLK_EXT_DATA);
			expect_extent(b, i * MiB + 4096, MiB - 4096, BLK_EXT_DATA);
			if (i < 30)
				expect_extent(b, (i + 1) * MiB, MiB, BLK_EXT_ZERO);
		}
		expect_extent(b, 31 * MiB, 33 * MiB, BLK_EXT_ZERO);
	}
	assert_int_equal(blk_close(b), 0);
}

static void change_after_extents_were_asked_for_shows(void)
{
	const char *path = scratch_file("change.img", 8 * MiB);
	struct blk *b = open_file(path, BLK_O_RDWR);
	int fd;

	expect_extent(b, 0, 8 * MiB, BLK_EXT_ZERO);
	node_fill(b, MiB, MiB, 1);
	expect_extent(b, 0, MiB, BLK_EXT_ZERO);
	expect_extent(b, MiB, MiB, BLK_EXT_DATA);
	assert_int_equal(blk_zero(b, MiB, MiB, BLK_MAY_UNMAP), 0);
	expect_extent(b, 0, 8 * MiB, BLK_EXT_ZERO);
	/* Another's change too. */
	fd = open(path, O_WRONLY);
	assert_int_equal(pwrite(fd, path, 8, 4 * MiB), 8);
	close(fd);
	expect_extent(b, 0, 4 * MiB, BLK_EXT_ZERO);
	expect_extent(b, 4 * MiB, 4096, BLK_EXT_DATA);
	assert_int_equal(blk_resize(b, 2 * MiB, BLK_PREALLOC_OFF, NULL), 0);
	expect_extent(b, 0, 2 * MiB, BLK_EXT_ZERO);
	assert_int_equal(blk_close(b), 0);
}

static void zeroing_with_unmap_gives_space_back(void)
{
	const char *path = scratch_file("unmap.img", 0);
	struct blk *b = open_file(path, BLK_O_RDWR | BLK_O_DISCARD);

	node_fill(b, 0, 4 * MiB, 3);
	assert_true(allocated_bytes(path) >= 4 * MiB);
	assert_int_equal(blk_zero(b, MiB, 3 * MiB, BLK_MAY_UNMAP), 0);
	assert_true(allocated_bytes(path) < 2 * MiB);
	assert_int_equal(blk_allocated(b), allocated_bytes(path));
	node_expect(b, 0, MiB, 3);
	node_expect(b, MiB, 3 * MiB, 0);
	assert_int_equal(blk_discard(b, 0, MiB), 0);
	assert_true(allocated_bytes(path) < MiB);
	node_expect(b, 0, MiB, 0);
	assert_int_equal(blk_close(b), 0);
}

static void zeroing_without_unmap_keeps_the_space(void)
{
	const char *path = scratch_file("keep.img", 0);
	struct blk *b = open_file(path, BLK_O_RDWR);

	node_fill(b, 0, 2 * MiB, 3);
	assert_int_equal(blk_zero(b, 0, 2 * MiB, 0), 0);
	assert_true(allocated_bytes(path) >= 2 * MiB);
	node_expect(b, 0, 2 * MiB, 0);
	assert_int_equal(blk_close(b), 0);
}

static void zeroing_past_the_end_makes_the_file_longer(void)
{
	static const unsigned flags[] = {0, BLK_MAY_UNMAP};

	for (size_t i = 0; i < ARRAY_LEN(flags); i++) {
		const char *path = scratch_file("zgrow.img", 0);
		struct blk *b = open_file(path, BLK_O_RDWR);

		node_fill(b, 0, 8192, 3);
		/* The driver itself: a gate may not let this through to it. */
		assert_int_equal(b->drv->zero(b, 4096, 60 * KiB, flags[i]), 0);
		assert_int_equal(blk_size(b), 64 * KiB);
		node_expect(b, 0, 4096, 3);
		node_expect(b, 4096, 60 * KiB, 0);
		assert_int_equal(blk_close(b), 0);
		assert_int_equal(file_bytes(path), 64 * KiB);
	}
}

/* ---- size ------------------------------------------------------------------------ */

static void resize_preallocates_as_told(void)
{
	const char *path = scratch_file("size.img", 10000);
	struct blk *b = open_file(path, BLK_O_RDWR);
	struct err err = ERR_INIT;

	node_fill(b, 0, 10000, 5);
	assert_int_equal(blk_resize(b, MiB, BLK_PREALLOC_OFF, &err), 0);
	assert_true(allocated_bytes(path) < MiB / 2);
	assert_int_equal(blk_resize(b, 3 * MiB + 1000, BLK_PREALLOC_FALLOC, &err), 0);
	assert_true(allocated_bytes(path) >= 2 * MiB);
	assert_int_equal(blk_resize(b, 6 * MiB + 77, BLK_PREALLOC_FULL, &err), 0);
	assert_true(allocated_bytes(path) >= 5 * MiB);
	assert_int_equal(blk_size(b), 6 * MiB + 77);
	assert_int_equal(file_bytes(path), 6 * MiB + 77);
	node_expect(b, 0, 10000, 5);
	node_expect(b, 10000, 6 * MiB + 77 - 10000, 0);
	expect_extent(b, 4 * MiB, 2 * MiB + 77, BLK_EXT_DATA);
	assert_int_equal(blk_resize(b, 512, BLK_PREALLOC_OFF, &err), 0);
	assert_int_equal(file_bytes(path), 512);
	assert_int_equal(blk_close(b), 0);
}

static void resize_refuses_what_makes_no_sense(void)
{
	struct blk *b = open_file(scratch_file("nosense.img", MiB), BLK_O_RDWR);
	struct err err = ERR_INIT;

	assert_int_equal(blk_resize(b, 2 * MiB, BLK_PREALLOC_METADATA, &err), -ENOTSUP);
	assert_string_equal(err.msg, "Unsupported preallocation mode: metadata");
	assert_int_equal(blk_resize(b, 512, BLK_PREALLOC_FULL, &err), -ENOTSUP);
	assert_true(blk_resize(b, BLK_MAX_SIZE - 511, BLK_PREALLOC_FALLOC, &err) < 0);
	assert_int_equal(blk_size(b), MiB);
	assert_int_equal(blk_close(b), 0);
}

/* ---- direct I/O ------------------------------------------------------------------ */

static void direct_io_tells_its_alignment_and_works(void)
{
	const char *path = scratch_file("direct.img", 0);
	struct blk *b = open_file(path, BLK_O_RDWR | BLK_O_DIRECT);

	assert_true(is_pow2(b->limits.request_align));
	assert_true(b->limits.request_align >= 512);
	assert_true(is_pow2(b->limits.mem_align));
	node_fill(b, 0, MiB, 0x11);
	node_fill(b, 8192, 4096, 0x22);
	node_expect(b, 0, 8192, 0x11);
	node_expect(b, 8192, 4096, 0x22);
	if (b->caps & BLK_CAP_FUA) {
		uint8_t *buf = buf_alloc(4096);

		memset(buf, 0x33, 4096);
		assert_int_equal(blk_pwrite(b, 0, buf, 4096, BLK_FUA), 0);
		buf_free(buf);
		node_expect(b, 0, 4096, 0x33);
	}
	assert_int_equal(blk_zero(b, 65536, 65536, BLK_FUA), 0);
	node_expect(b, 65536, 65536, 0);
	assert_int_equal(blk_flush(b), 0);
	assert_int_equal(blk_close(b), 0);
}

static void file_system_without_direct_io_says_so(void)
{
	struct err err;

	assert_int_equal(refused_file("/proc/version", "", BLK_O_DIRECT, &err), -EINVAL);
	assert_string_equal(err.msg,
		"Could not open '/proc/version': filesystem does not support O_DIRECT");
}

/* ---- refusals -------------------------------------------------------------------- */

static void only_files_and_block_devices_are_opened(void)
{
	const char *fifo = scratch_path("fifo"), *folder = scratch_path("folder");
	struct err err;

	mkfifo(fifo, 0600);
	mkdir(folder, 0700);
	assert_int_equal(refused_file(fifo, "", 0, &err), -EINVAL);
	assert_int_equal(refused_file(fifo, "", BLK_O_RDWR, &err), -EINVAL);
	assert_int_equal(refused_file(folder, "", 0, &err), -EISDIR);
	assert_int_equal(refused_file("/dev/null", "", 0, &err), -EINVAL);
	assert_int_equal(refused_file(scratch_path("absent"), "", 0, &err), -ENOENT);
	assert_non_null(strstr(err.msg, "Could not open '"));
	assert_non_null(strstr(err.msg, "': No such file or directory"));
}

static void file_that_may_not_be_written_says_so(void **state)
{
	const char *path = scratch_file("readonly.img", 4096);
	struct err err;
	bool root = geteuid() == 0;

	(void)state;
	chmod(path, 0444);
	if (root)
		assert_int_equal(seteuid(65534), 0);
	refused_file(path, "", BLK_O_RDWR, &err);
	if (root)
		assert_int_equal(seteuid(0), 0);
	assert_int_equal(err.code, EACCES);
	assert_non_null(strstr(err.msg, "': Permission denied"));
}

static void wrong_option_words_are_errors(void)
{
	const char *path = scratch_file("words.img", 4096);
	struct err err;

	assert_int_equal(refused_file(path, ",locking=maybe", 0, &err), -EINVAL);
	assert_int_equal(refused_file(path, ",aio=posix", 0, &err), -EINVAL);
	assert_int_equal(refused_file(path, ",drop-cache=perhaps", 0, &err), -EINVAL);
	assert_int_equal(refused_file(path, ",lcoking=on", 0, &err), -EINVAL);
	blk_close(open_with("file", path, ",aio=native,drop-cache=on,locking=on", 0));
	blk_close(open_with("file", path, ",aio=io_uring,aio-max-batch=4", BLK_O_RDWR));
}

/* As a format opens its file: below something, it is not shared. */
static const char *under_a_format(const char *path, const char *more)
{
	static char text[600];

	snprintf(text, sizeof(text), "driver=trace,file.driver=file,file.filename=%s%s",
		path, more);
	return text;
}

static void second_writer_of_a_format_is_locked_out(void)
{
	const char *path = scratch_file("locked.img", 4096);
	struct blk *b = node_open(under_a_format(path, ""), BLK_O_RDWR);
	struct err err;

	assert_int_equal(refused_file(path, "", BLK_O_RDWR, &err), -EAGAIN);
	assert_string_equal(err.msg, "Failed to get \"write\" lock");
	assert_non_null(strstr(err.hint, "Is another process using the image ["));
	assert_int_equal(node_refused(under_a_format(path, ""), 0, &err), -EAGAIN);
	assert_string_equal(err.msg, "Failed to get shared \"write\" lock");
	/* A reader by force, one that does not mind, and one that takes no locks. */
	blk_close(node_open(under_a_format(path, ""), BLK_O_SHARE));
	blk_close(open_file(path, 0));
	blk_close(node_open(under_a_format(path, ",file.locking=off"), BLK_O_RDWR));
	assert_int_equal(blk_close(b), 0);
	blk_close(node_open(under_a_format(path, ""), BLK_O_RDWR));
}

static void locks_are_tightened_when_a_format_is_found(void)
{
	const char *path = scratch_file("probed.img", 4096);
	struct blk *a = open_file(path, BLK_O_RDWR), *b = open_file(path, 0);
	struct err err;

	/* The other is a raw reader: it goes with a format's writer, not with another
	 * one. */
	a->flags &= ~BLK_O_SHARE_WRITE;
	assert_int_equal(a->drv->reflag(a, &err), 0);
	assert_int_equal(refused_file(path, "", BLK_O_RDWR, &err), -EAGAIN);
	b->flags &= ~BLK_O_SHARE_WRITE;
	assert_int_equal(b->drv->reflag(b, &err), -EAGAIN);
	a->flags |= BLK_O_SHARE_WRITE;
	assert_int_equal(a->drv->reflag(a, &err), 0);
	blk_close(open_file(path, BLK_O_RDWR));
	assert_int_equal(blk_close(a), 0);
	assert_int_equal(blk_close(b), 0);
}

static void writers_of_a_raw_disk_may_be_two(void)
{
	const char *path = scratch_file("shared.img", 4096);
	struct blk *a = open_file(path, BLK_O_RDWR), *b = open_file(path, BLK_O_RDWR);

	assert_int_equal(blk_close(a), 0);
	assert_int_equal(blk_close(b), 0);
}

/* ---- copying --------------------------------------------------------------------- */

static void copy_inside_the_kernel_is_whole_or_refused(void)
{
	struct blk *src = open_file(scratch_file("src.img", 0), BLK_O_RDWR);
	struct blk *dst = open_file(scratch_file("dst.img", 0), BLK_O_RDWR);
	int ret;

	node_fill(src, 0, 3 * MiB, 0x61);
	ret = blk_copy_range(src, MiB, dst, 8192, 2 * MiB, 0);
	if (ret == -ENOTSUP) {
		assert_int_equal(blk_size(dst), 0);
	} else {
		assert_int_equal(ret, 0);
		assert_int_equal(blk_size(dst), 2 * MiB + 8192);
		node_expect(dst, 0, 8192, 0);
		node_expect(dst, 8192, 2 * MiB, 0x61);
	}
	/* Past the source's end there is nothing a kernel would copy. */
	assert_int_equal(
		src->drv->copy_range(src, 2 * MiB, dst, 0, 2 * MiB, 0), -ENOTSUP);
	assert_int_equal(blk_close(src), 0);
	assert_int_equal(blk_close(dst), 0);
}

/* ---- create ---------------------------------------------------------------------- */

static int create(const char *path, const char *options, struct err *err)
{
	struct opts *opts = opts_new();
	const struct blk_driver *file = blk_driver_find("file");
	int ret;

	memset(err, 0, sizeof(*err));
	assert_int_equal(opts_parse(opts, options, NULL, err), 0);
	ret = file->format->create(path, NULL, opts, err);
	opts_free(opts);
	return ret;
}

static void create_makes_a_file_as_told(void)
{
	const char *path = scratch_path("new.img");
	struct err err;

	assert_int_equal(create(path, "size=1000000", &err), 0);
	assert_int_equal(file_bytes(path), 1000000);
	assert_true(allocated_bytes(path) < 100000);
	assert_int_equal(create(path, "size=2M,preallocation=falloc", &err), 0);
	assert_true(allocated_bytes(path) >= 2 * MiB);
	assert_int_equal(create(path, "size=1M,preallocation=full,nocow=on", &err), 0);
	assert_int_equal(file_bytes(path), MiB);
	assert_true(allocated_bytes(path) >= MiB && allocated_bytes(path) < 2 * MiB);
	unlink(path);
}

static void failed_create_leaves_things_as_they_were(void)
{
	const char *path = scratch_path("fail.img");
	struct blk *b;
	struct err err;

	assert_true(create(path, "size=8E", &err) < 0);
	assert_true(create(path, "size=1M,preallocation=metadata", &err) < 0);
	assert_true(create(path, "size=1M,preallocation=some", &err) < 0);
	assert_true(create(path, "size=4P,preallocation=falloc", &err) < 0);
	assert_int_not_equal(access(path, F_OK), 0);
	assert_int_equal(create(scratch_path("absent/x"), "size=1M", &err), -ENOENT);

	b = node_open(under_a_format(scratch_file("fail.img", 0), ""), BLK_O_RDWR);
	node_fill(b, 0, 5000, 1);
	assert_int_equal(create(path, "size=1M", &err), -EAGAIN);
	assert_string_equal(err.msg, "Failed to get \"write\" lock");
	assert_int_equal(file_bytes(path), 5000);
	assert_int_equal(blk_close(b), 0);
	assert_int_equal(file_bytes(path), 5000);
	unlink(path);
}

/* ---- other file systems ---------------------------------------------------------- */

/* A mounted file system of that type, NULL where this process may not mount one. */
static const char *mounted(const char *type, const char *options)
{
	const char *folder = scratch_path(type);

	mkdir(folder, 0700);
	return mount(type, folder, type, 0, options) == 0 ? folder : NULL;
}

static const char *file_in(const char *folder, uint64_t bytes)
{
	static char path[600];
	int fd;

	snprintf(path, sizeof(path), "%s/disk.img", folder);
	fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, bytes), 0);
	close(fd);
	return path;
}

/* Zeroes twice each way: what the file system refuses is learned the first time. */
static void zero_all_ways(const char *path)
{
	struct blk *b = open_file(path, BLK_O_RDWR | BLK_O_DISCARD);
	struct blk_extent e;

	node_fill(b, 0, 4 * MiB, 6);
	for (unsigned i = 0; i < 4; i++) {
		assert_int_equal(
			blk_zero(b, i * MiB, 8192, i & 1 ? BLK_MAY_UNMAP : 0), 0);
		assert_int_equal(blk_discard(b, i * MiB + 16384, 4096), 0);
		node_expect(b, i * MiB, 8192, 0);
		node_expect(b, i * MiB + 8192, 8192, 6);
		node_expect(b, i * MiB + 20480, 8192, 6);
	}
	assert_int_equal(blk_extent(b, 3 * MiB + 20480, 4096, &e), 0);
	assert_true(e.flags & BLK_EXT_DATA);
	assert_int_equal(blk_resize(b, 6 * MiB, BLK_PREALLOC_FALLOC, NULL), 0);
	node_expect(b, 4 * MiB, 2 * MiB, 0);
	assert_int_equal(blk_flush(b), 0);
	assert_int_equal(blk_close(b), 0);
}

/* tmpfs punches holes and zeroes no ranges. */
static void zeroing_works_without_zero_range(void **state)
{
	const char *folder = mounted("tmpfs", "size=16m"), *path;

	(void)state;
	if (!folder)
		skip();
	path = file_in(folder, 0);
	zero_all_ways(path);
	assert_true(allocated_bytes(path) >= 4 * MiB);
	umount2(folder, MNT_DETACH);
}

/* ramfs has no fallocate at all, and takes no direct I/O. */
static void zeroing_works_without_fallocate(void **state)
{
	const char *folder = mounted("ramfs", ""), *path;
	struct err err;

	(void)state;
	if (!folder)
		skip();
	path = file_in(folder, 0);
	zero_all_ways(path);
	assert_int_equal(refused_file(path, "", BLK_O_DIRECT, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "does not support O_DIRECT"));
	umount2(folder, MNT_DETACH);
}

static void full_file_system_is_an_error_and_no_more(void **state)
{
	const char *folder = mounted("tmpfs", "size=2m"), *path;
	struct err err = ERR_INIT;
	struct blk *b;
	uint8_t *buf;

	(void)state;
	if (!folder)
		skip();
	path = file_in(folder, 0);
	b = open_file(path, BLK_O_RDWR);
	buf = buf_alloc(4 * MiB);
	memset(buf, 1, 4 * MiB);
	node_fill(b, 0, MiB, 2);
	assert_int_equal(blk_pwrite(b, MiB, buf, 4 * MiB, 0), -ENOSPC);
	node_expect(b, 0, MiB, 2);
	assert_int_equal(blk_size(b), file_bytes(path));
	assert_int_equal(blk_resize(b, MiB, BLK_PREALLOC_OFF, &err), 0);
	assert_int_equal(blk_resize(b, 8 * MiB, BLK_PREALLOC_FULL, &err), -ENOSPC);
	assert_int_equal(blk_size(b), MiB);
	assert_int_equal(file_bytes(path), MiB);
	assert_int_equal(blk_flush(b), 0);
	buf_free(buf);
	assert_int_equal(blk_close(b), 0);
	/* A file longer than any disk may be. */
	assert_int_equal(refused_file(file_in(folder, INT64_MAX), "", 0, &err), -EFBIG);
	umount2(folder, MNT_DETACH);
}

/* ---- block devices --------------------------------------------------------------- */

static void block_device_works_in_its_sectors(void **state)
{
	static const unsigned sectors[] = {512, 4096};
	const char *back = scratch_file("disk.img", 16 * MiB), *dev;
	struct err err = ERR_INIT;
	struct blk *b;
	int fd;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(sectors); i++) {
		dev = loop_device(back, sectors[i], &fd);
		if (!dev)
			skip();
		b = open_file(dev, BLK_O_RDWR | BLK_O_DIRECT | BLK_O_DISCARD);
		assert_string_equal(blk_driver_name(b), "host_device");
		assert_int_equal(blk_size(b), 16 * MiB);
		assert_int_equal(b->limits.request_align, sectors[i]);
		assert_int_equal(b->caps & BLK_CAP_GROW, 0);
		node_fill(b, 0, 4 * MiB, 0x77);
		node_expect(b, MiB, MiB, 0x77);
		assert_int_equal(blk_zero(b, MiB, 8192, 0), 0);
		assert_int_equal(blk_zero(b, 2 * MiB, MiB, BLK_MAY_UNMAP), 0);
		assert_int_equal(blk_discard(b, 3 * MiB, MiB), 0);
		node_expect(b, MiB, 8192, 0);
		node_expect(b, MiB + 8192, MiB - 8192, 0x77);
		node_expect(b, 2 * MiB, MiB, 0);
		assert_int_equal(
			blk_resize(b, 32 * MiB, BLK_PREALLOC_OFF, &err), -ENOSPC);
		assert_string_equal(err.msg, "Cannot grow device files");
		assert_int_equal(blk_resize(b, MiB, BLK_PREALLOC_FULL, &err), -ENOTSUP);
		/* A smaller image leaves the rest of the device unused. */
		assert_int_equal(blk_resize(b, MiB, BLK_PREALLOC_OFF, &err), 0);
		assert_int_equal(blk_size(b), 16 * MiB);
		assert_int_equal(blk_flush(b), 0);
		assert_int_equal(blk_close(b), 0);
		assert_int_equal(
			create(dev, "size=1M,preallocation=full", &err), -ENOTSUP);
		/* Creating on it takes no space and leaves no old magic. */
		assert_int_equal(create(dev, "size=64M", &err), -ENOSPC);
		assert_int_equal(create(dev, "size=1M", &err), 0);
		b = open_with("host_device", dev, "", 0);
		node_expect(b, 0, 4096, 0);
		node_expect(b, 4096, 4096, 0x77);
		assert_int_equal(blk_close(b), 0);
		close(fd);
	}
}

static void host_device_driver_wants_a_device(void)
{
	char text[600];
	struct err err;

	snprintf(text, sizeof(text), "driver=host_device,filename=%s",
		scratch_file("plain.img", 4096));
	assert_int_equal(node_refused(text, 0, &err), -EINVAL);
}

/*
 * A disk that loses writes: a loop device over a file on a file system too small for it.
 * The writes end well, in the page cache; the first sync fails, and the kernel then
 * counts the pages as clean. Our flush must go on failing.
 */
static void lost_write_fails_every_later_flush(void **state)
{
	const char *folder = mounted("tmpfs", "size=1m"), *dev;
	struct blk *b, *reader, *other;
	int fd, first;

	(void)state;
	if (!folder)
		skip();
	dev = loop_device(file_in(folder, 16 * MiB), 512, &fd);
	if (!dev) {
		umount2(folder, MNT_DETACH);
		skip();
	}
	b = open_with("host_device", dev, "", BLK_O_RDWR);
	node_fill(b, 0, 8 * MiB, 1);
	/* A reader has nothing to sync; another writer's first flush covers what it found. */
	reader = open_with("host_device", dev, "", 0);
	assert_int_equal(reader->drv->flush(reader), 0);
	other = open_with("host_device", dev, "", BLK_O_RDWR);
	assert_true(blk_flush(other) < 0);
	assert_int_equal(blk_close(reader), 0);
	assert_true(blk_close(other) < 0);
	first = blk_flush(b);
	assert_true(first < 0);
	assert_int_equal(blk_flush(b), first);
	node_fill(b, 0, 4096, 1);
	assert_int_equal(blk_flush(b), first);
	assert_int_equal(blk_close(b), first);
	close(fd);
	umount2(folder, MNT_DETACH);
}

static int plain_group(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(file_that_may_not_be_written_says_so),
		cmocka_unit_test(block_device_works_in_its_sectors),
		cmocka_unit_test(lost_write_fails_every_later_flush),
		cmocka_unit_test(zeroing_works_without_zero_range),
		cmocka_unit_test(zeroing_works_without_fallocate),
		cmocka_unit_test(full_file_system_is_an_error_and_no_more),
	};

	return cmocka_run_group_tests_name("file outside any loop", tests, NULL, NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		LOOP_TEST(what_is_written_is_read_back),
		LOOP_TEST(write_past_the_end_makes_the_file_longer),
		LOOP_TEST(read_across_the_end_gives_zeros),
		cmocka_unit_test(several_loops_grow_one_file_at_once),
		LOOP_TEST(write_cut_short_is_an_error_in_the_end),
		LOOP_TEST(extents_tell_holes_from_data),
		LOOP_TEST(change_after_extents_were_asked_for_shows),
		LOOP_TEST(zeroing_with_unmap_gives_space_back),
		LOOP_TEST(zeroing_without_unmap_keeps_the_space),
		LOOP_TEST(zeroing_past_the_end_makes_the_file_longer),
		LOOP_TEST(resize_preallocates_as_told),
		LOOP_TEST(resize_refuses_what_makes_no_sense),
		LOOP_TEST(direct_io_tells_its_alignment_and_works),
		LOOP_TEST(file_system_without_direct_io_says_so),
		LOOP_TEST(only_files_and_block_devices_are_opened),
		LOOP_TEST(wrong_option_words_are_errors),
		LOOP_TEST(second_writer_of_a_format_is_locked_out),
		LOOP_TEST(locks_are_tightened_when_a_format_is_found),
		LOOP_TEST(writers_of_a_raw_disk_may_be_two),
		LOOP_TEST(copy_inside_the_kernel_is_whole_or_refused),
		LOOP_TEST(create_makes_a_file_as_told),
		LOOP_TEST(failed_create_leaves_things_as_they_were),
		LOOP_TEST(host_device_driver_wants_a_device),
	};

	return plain_group() + run_on_engines("file", tests, ARRAY_LEN(tests));
}
