/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The luks driver: what is written is read back, by any shape of request, from tasks and
 * threads, after reopening, and by qemu-img; and it is not to be seen in the file.
 *
 * timeout: 300
 */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/json.h"
#include "base/math.h"
#include "base/task.h"
#include "block/blk.h"
#include "block/format.h"
#include "block/secret.h"
#include "tests/unit/support_engine.h"
#include "tests/unit/support_files.h"

#define DISK_BYTES (3 * MiB)
#define HEADER     2068480u
#define RDWR       (BLK_O_RDWR | BLK_O_DISCARD)

static void add_secret(const char *options)
{
	struct opts *o = opts_new();
	struct err err = ERR_INIT;

	assert_int_equal(opts_parse(o, options, NULL, &err), 0);
	assert_int_equal(secret_add(o, &err), 0);
	opts_free(o);
}

static void set_up(void)
{
	add_secret("id=right,data=open sesame");
	add_secret("id=wrong,data=open barley");
}

static int create(const char *path, const char *options, struct err *err)
{
	struct opts *o = opts_new();
	int ret;

	assert_int_equal(opts_parse(o, options, NULL, err), 0);
	ret = blk_create(path, "luks", o, err);
	opts_free(o);
	return ret;
}

static const char *new_disk(const char *name, const char *more)
{
	const char *path = scratch_path(name);
	struct err err = ERR_INIT;
	char options[256];

	snprintf(options, sizeof(options), "key-secret=right,iter-time=0,size=%llu%s",
		DISK_BYTES, more);
	assert_int_equal(create(path, options, &err), 0);
	return path;
}

static struct blk *open_with(
	const char *path, const char *more, unsigned flags, struct err *err)
{
	struct opts *o = opts_new();
	struct blk *b;

	assert_int_equal(opts_parse(o, more, NULL, err), 0);
	opts_set(o, "driver", "luks");
	b = blk_open(path, o, flags, err);
	opts_free(o);
	return b;
}

static struct blk *open_disk(const char *path, unsigned flags)
{
	struct err err = ERR_INIT;
	struct blk *b = open_with(path, "key-secret=right", flags, &err);

	if (!b)
		print_error("%s\n", err.msg);
	assert_non_null(b);
	return b;
}

static uint64_t file_size(const char *path)
{
	struct stat st;

	assert_int_equal(stat(path, &st), 0);
	return (uint64_t)st.st_size;
}

static uint32_t next_random(uint32_t *state)
{
	*state = *state * 1664525 + 1013904223;
	return *state >> 8;
}

/* Cuts a buffer into up to 7 segments of any length. */
static int cut(struct iovec *iov, uint8_t *buf, size_t bytes, uint32_t *seed)
{
	int n = 0;

	while (bytes) {
		size_t part = 1 + next_random(seed) % bytes;

		if (next_random(seed) % 2)
			part = MIN(bytes, (part | 511) + 1);
		if (n == 6)
			part = bytes;
		iov[n++] = (struct iovec){buf, part};
		buf += part;
		bytes -= part;
	}
	return n;
}

static int compare(struct blk *b, const uint8_t *expect, uint8_t *got)
{
	int ret = blk_pread(b, 0, got, DISK_BYTES);

	return ret ? ret : memcmp(got, expect, DISK_BYTES) ? -EBADMSG : 0;
}

/* Odd and even requests against an array of bytes. */
static int write_and_read(void *arg)
{
	struct blk *b = arg;
	uint8_t *expect = malloc(DISK_BYTES), *got = malloc(DISK_BYTES);
	uint32_t seed = 77;
	struct iovec iov[8];
	int ret = blk_zero(b, 0, DISK_BYTES, 0);

	memset(expect, 0, DISK_BYTES);
	for (int round = 0; round < 150 && !ret; round++) {
		size_t at = next_random(&seed) % DISK_BYTES, n = next_random(&seed);

		n = 1 + n % (round % 8 ? 20000 : 2500000);
		if (round % 3 == 0) {
			at &= ~511ul;
			n = (n | 511) + 1;
		}
		n = MIN(n, DISK_BYTES - at);
		if (round % 2) {
			for (size_t i = 0; i < n; i++)
				expect[at + i] = next_random(&seed);
			memcpy(got, expect + at, n);
			ret = blk_pwritev(b, at, iov, cut(iov, got, n, &seed),
				round % 4 == 1 ? BLK_FUA : 0);
			/* The caller's memory stays as it was. */
			if (!ret && memcmp(got, expect + at, n))
				ret = -EFAULT;
		} else {
			memset(got, 0x55, n);
			ret = blk_preadv(b, at, iov, cut(iov, got, n, &seed), 0);
			if (!ret && memcmp(got, expect + at, n))
				ret = -EBADMSG;
		}
	}
	if (!ret)
		ret = compare(b, expect, got);
	free(expect);
	free(got);
	return ret;
}

static void what_is_written_is_read_back(void **state)
{
	struct blk *b = open_disk(new_disk("random", ""), RDWR);

	(void)state;
	assert_int_equal(blk_size(b), DISK_BYTES);
	assert_int_equal(write_and_read(b), 0); /* from a plain thread */
	run_in_loop(write_and_read, b);         /* and from a task */
	assert_int_equal(blk_close(b), 0);
}

/* Tasks on the disk at once, each in a part of its own that is not whole sectors. */
struct part {
	struct blk *b;
	size_t at, bytes;
	uint8_t fill;
};

static int keep_to_my_part(void *arg)
{
	struct part *p = arg;
	uint8_t *buf = malloc(p->bytes), *got = malloc(p->bytes);
	int ret = 0;

	for (int round = 0; round < 12 && !ret; round++) {
		memset(buf, p->fill + round, p->bytes);
		ret = blk_pwrite(p->b, p->at, buf, p->bytes, 0);
		if (!ret)
			ret = blk_pread(p->b, p->at, got, p->bytes);
		if (!ret && memcmp(buf, got, p->bytes))
			ret = -EBADMSG;
	}
	free(buf);
	free(got);
	return ret;
}

static int tasks_at_once(void *arg)
{
	struct task_group group;
	struct loop *loops[2];
	struct part parts[12];
	struct err err = ERR_INIT;
	size_t at = 100;
	int ret;

	task_group_init(&group);
	for (int i = 0; i < 2; i++)
		loops[i] = loop_start(&err);
	for (unsigned i = 0; i < ARRAY_LEN(parts); i++) {
		parts[i] = (struct part){arg, at, 1000 + i * 17000, (uint8_t)(i * 20)};
		at += parts[i].bytes;
		ret = task_group_spawn(&group, loops[i % 2], keep_to_my_part, &parts[i]);
		assert(ret == 0);
	}
	ret = task_group_wait(&group);
	for (int i = 0; i < 2; i++)
		loop_stop(loops[i]);
	return ret;
}

static void tasks_of_several_loops_do_not_disturb_each_other(void **state)
{
	struct blk *b = open_disk(new_disk("tasks", ""), RDWR);

	(void)state;
	run_in_loop(tasks_at_once, b);
	assert_int_equal(blk_close(b), 0);
}

static void the_file_shows_nothing_of_it(void **state)
{
	const char *path = new_disk("hidden", "");
	struct blk *b = open_disk(path, RDWR);
	static uint8_t buf[DISK_BYTES], file[HEADER + DISK_BYTES];
	FILE *f;

	(void)state;
	memset(buf, 'x', DISK_BYTES);
	assert_int_equal(blk_pwrite(b, 0, buf, DISK_BYTES, 0), 0);
	assert_int_equal(blk_close(b), 0);
	f = fopen(path, "rb");
	assert_non_null(f);
	assert_int_equal(fread(file, 1, HEADER + DISK_BYTES, f), HEADER + DISK_BYTES);
	fclose(f);
	assert_null(memmem(file, HEADER + DISK_BYTES, "xxxxxxxx", 8));
	assert_null(memmem(file, HEADER + DISK_BYTES, "sesame", 6));
	/* Sectors of the same content are not the same, nor are blocks in a sector. */
	assert_memory_not_equal(file + HEADER, file + HEADER + 512, 512);
	assert_memory_not_equal(file + HEADER, file + HEADER + 16, 16);

	b = open_disk(path, 0);
	memset(file, 0, DISK_BYTES);
	assert_int_equal(compare(b, buf, file), 0);
	blk_close(b);
}

static void passphrases_are_needed_and_right(void **state)
{
	static const char *const bad[][2] = {
		{"", "Parameter 'key-secret' is required for cipher"},
		{"key-secret=wrong", "Invalid password, cannot unlock any keyslot"},
		{"key-secret=nobody", "nobody"},
		{"key-secret=right,key=x", "key"},
	};
	const char *path = new_disk("locked", "");

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		struct err err = ERR_INIT;

		assert_null(open_with(path, bad[i][0], RDWR, &err));
		assert_non_null(strstr(err.msg, bad[i][1]));
	}
}

static void facts_need_no_passphrase(void **state)
{
	const char *path = new_disk("facts", "");
	struct err err = ERR_INIT;
	struct blk *b = blk_open(path, NULL, BLK_O_NO_IO, &err); /* probed */
	bool dirty = true, encrypted = false;
	uint32_t cluster = 1;
	struct json *info;
	uint8_t buf[512];

	(void)state;
	assert_non_null(b);
	assert_string_equal(blk_driver_name(b), "luks");
	assert_int_equal(blk_size(b), DISK_BYTES);
	info = blk_format_info(b);
	assert_int_equal(json_int_of(json_get(info, "payload-offset")), HEADER);
	json_free(info);
	blk_traits(b, &cluster, &dirty, &encrypted);
	assert_true(encrypted && !dirty && cluster == 0);
	assert_true(blk_pread(b, 0, buf, 512) < 0);
	blk_close(b);
}

/* Holes of the file decrypt to noise: nobody may skip them. */
static void everything_is_data(void **state)
{
	struct blk *b = open_disk(new_disk("data", ""), 0);
	struct blk_extent e;

	(void)state;
	assert_int_equal(blk_extent(b, 0, DISK_BYTES, &e), 0);
	assert_int_equal(e.bytes, DISK_BYTES);
	assert_int_equal(e.flags, BLK_EXT_DATA | BLK_EXT_ALLOCATED | BLK_EXT_EOF);
	blk_close(b);
}

static void zeros_read_as_zeros_and_the_rest_stays(void **state)
{
	const char *path = new_disk("zeros", "");
	struct blk *b = open_disk(path, RDWR);
	uint8_t *buf = malloc(MiB);

	(void)state;
	memset(buf, 7, MiB);
	assert_int_equal(blk_pwrite(b, 0, buf, MiB, 0), 0);
	assert_int_equal(blk_zero(b, 1000, 100000, BLK_MAY_UNMAP), 0);
	assert_int_equal(blk_pread(b, 0, buf, MiB), 0);
	for (size_t i = 0; i < MiB; i++)
		assert_int_equal(buf[i], i >= 1000 && i < 101000 ? 0 : 7);
	assert_int_equal(blk_close(b), 0);
	free(buf);
}

static void resizing_keeps_what_is_there(void **state)
{
	const char *path = new_disk("resize", "");
	struct blk *b = open_disk(path, RDWR);
	struct err err = ERR_INIT;
	uint8_t buf[1024];

	(void)state;
	memset(buf, 9, sizeof(buf));
	assert_int_equal(blk_pwrite(b, 0, buf, 1024, 0), 0);
	assert_int_equal(blk_resize(b, 4 * MiB, BLK_PREALLOC_OFF, &err), 0);
	assert_int_equal(file_size(path), HEADER + 4 * MiB);
	assert_int_equal(blk_pwrite(b, 4 * MiB - 1024, buf, 1024, 0), 0);
	assert_int_equal(blk_resize(b, 1024, BLK_PREALLOC_OFF, &err), 0);
	assert_int_equal(file_size(path), HEADER + 1024);
	assert_true(blk_resize(b, 1000, BLK_PREALLOC_OFF, &err) < 0);
	assert_true(blk_resize(b, BLK_MAX_SIZE, BLK_PREALLOC_OFF, &err) < 0);
	memset(buf, 0, sizeof(buf));
	assert_int_equal(blk_pread(b, 0, buf, 1024), 0);
	assert_int_equal(buf[0], 9);
	assert_int_equal(buf[1023], 9);
	assert_int_equal(blk_close(b), 0);
	b = open_disk(path, 0);
	assert_int_equal(blk_size(b), 1024);
	blk_close(b);
}

static void a_file_without_its_payload_is_refused(void **state)
{
	const char *path = new_disk("cut", "");
	struct err err = ERR_INIT;

	(void)state;
	assert_int_equal(truncate(path, HEADER - 512), 0);
	assert_null(open_with(path, "key-secret=right", RDWR, &err));
	assert_non_null(strstr(err.msg, "payload"));
	assert_null(blk_open(path, NULL, BLK_O_NO_IO, &err));
	assert_int_equal(truncate(path, HEADER), 0);
	blk_close(open_disk(path, RDWR)); /* an empty disk is a disk */
}

static void creating_nonsense_is_refused(void **state)
{
	static const char *const bad[][2] = {
		{"size=1M", "Parameter 'key-secret' is required for cipher"},
		{"size=1M,key-secret=nobody", "nobody"},
		{"size=1M,key-secret=right,cipher-alg=rot13", "rot13"},
		{"size=1M,key-secret=right,iter-time=soon", "iter-time"},
		{"size=1M,key-secret=right,preallocation=some", "some"},
		{"size=1M,key-secret=right,detached-header=on", "Detached"},
		{"size=9223372036854775807,key-secret=right", "too large"},
		{"size=1M,key-secret=right,colour=red", "colour"},
	};
	const char *path = scratch_path("nonsense");

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		struct err err = ERR_INIT;

		assert_true(create(path, bad[i][0], &err) < 0);
		assert_non_null(strstr(err.msg, bad[i][1]));
		assert_int_not_equal(access(path, F_OK), 0);
	}
}

static void creating_allocates_if_asked(void **state)
{
	const char *path = new_disk("full", ",preallocation=full");
	struct stat st;

	(void)state;
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_size, HEADER + DISK_BYTES);
	assert_true(st.st_blocks * 512ull >= DISK_BYTES);
	path = new_disk("metadata", ",preallocation=metadata");
	assert_int_equal(stat(path, &st), 0);
	assert_true(st.st_blocks * 512ull < DISK_BYTES);
}

static void measuring_counts_the_header(void **state)
{
	struct err err = ERR_INIT;
	struct blk_measure m;
	struct opts *o = opts_new();

	(void)state;
	opts_set(o, "size", "1M");
	opts_set(o, "key-secret", "right");
	assert_int_equal(blk_measure("luks", o, NULL, &m, &err), 0);
	assert_int_equal(m.required, HEADER + MiB);
	assert_int_equal(m.fully_allocated, HEADER + MiB);
	opts_free(o);
}

static void qemu_img_reads_the_same(void **state)
{
	const char *path = new_disk("qemu", ",cipher-alg=aes-128"),
		   *raw = scratch_path("raw");
	char image[256], plain[256];
	const char *const argv[] = {"qemu-img", "compare", "--object",
		"secret,id=s,data=open sesame", "--image-opts", image, plain, NULL};
	uint8_t *buf = malloc(DISK_BYTES);
	struct blk *b;
	FILE *f;

	(void)state;
	if (!program_there("qemu-img")) {
		free(buf);
		skip();
	}
	for (size_t i = 0; i < DISK_BYTES; i++)
		buf[i] = i >> 10 ^ i;
	b = open_disk(path, RDWR);
	assert_int_equal(blk_pwrite(b, 0, buf, DISK_BYTES, 0), 0);
	assert_int_equal(blk_close(b), 0);
	f = fopen(raw, "wb");
	assert_non_null(f);
	assert_int_equal(fwrite(buf, 1, DISK_BYTES, f), DISK_BYTES);
	assert_int_equal(fclose(f), 0);
	snprintf(image, sizeof(image), "driver=luks,key-secret=s,file.filename=%s", path);
	snprintf(plain, sizeof(plain), "driver=raw,file.filename=%s", raw);
	assert_int_equal(program_run(argv), 0);
	free(buf);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_written_is_read_back),
		cmocka_unit_test(tasks_of_several_loops_do_not_disturb_each_other),
		cmocka_unit_test(the_file_shows_nothing_of_it),
		cmocka_unit_test(passphrases_are_needed_and_right),
		cmocka_unit_test(facts_need_no_passphrase),
		cmocka_unit_test(everything_is_data),
		cmocka_unit_test(zeros_read_as_zeros_and_the_rest_stays),
		cmocka_unit_test(resizing_keeps_what_is_there),
		cmocka_unit_test(a_file_without_its_payload_is_refused),
		cmocka_unit_test(creating_nonsense_is_refused),
		cmocka_unit_test(creating_allocates_if_asked),
		cmocka_unit_test(measuring_counts_the_header),
		cmocka_unit_test(qemu_img_reads_the_same),
	};
	int failed;

	set_up();
	failed = run_on_engines("luks disk", tests, ARRAY_LEN(tests));
	secrets_clear();
	return failed;
}
