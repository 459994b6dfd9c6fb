/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The entropy device, the console and the balloon as a driver sees them: what they are for,
 * what they do across a stop, and what no driver would ask for.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/endian.h"
#include "base/math.h"
#include "tests/unit/support_driver.h"
#include "vmm/virtio_balloon.h"
#include "vmm/virtio_console.h"
#include "vmm/virtio_rng.h"

#define DATA DRIVER_BUFFERS

static struct driver d;

static int unmake(void **state)
{
	(void)state;
	driver_free(&d);
	return 0;
}

static void random_chains(unsigned queues, uint64_t features, unsigned seed)
{
	static const uint64_t places[] = {
		DATA, DATA + 0x10000, 0x100000, 0x110000, DRIVER_MEMORY - 1};

	for (unsigned i = 0; i < 1000; i++) {
		driver_set_up(&d, features, queues);
		for (unsigned k = 0; k < 8 * queues; k++)
			driver_put(&d, k % queues, k / queues, places[rand_r(&seed) % 5],
				(unsigned)rand_r(&seed) % (k % 5 ? 300 : 300000),
				(unsigned)rand_r(&seed) % 8,
				(unsigned)rand_r(&seed) % 10);
		for (unsigned q = 0; q < queues; q++)
			driver_offer(&d, q, (uint16_t)(rand_r(&seed) % 9));
		driver_set(&d, 0x2000 + (unsigned)rand_r(&seed) % 16,
			1u << rand_r(&seed) % 4, (uint64_t)rand_r(&seed));
	}
}

/* ---- random numbers -------------------------------------------------------------- */

static int make_rng(void **state)
{
	struct err err = ERR_INIT;

	(void)state;
	driver_make(&d);
	assert_int_equal(virtio_rng_new(&d.guest.vm, d.guest.pci, &err), 0);
	driver_start(&d, 4);
	return 0;
}

static void numbers_are_random_and_not_more_than_asked_for(void **state)
{
	uint8_t *data = driver_at(&d, DATA), first[64];
	static const uint8_t zeros[64];

	(void)state;
	driver_set_up(&d, 0, 1);
	assert_int_equal(driver_do(&d, 0, DATA, 64, DRIVER_WRITE), 64);
	memcpy(first, data, 64);
	assert_memory_equal(data + 64, zeros, 64);
	assert_memory_not_equal(first, zeros, 64);
	driver_do(&d, 0, DATA, 64, DRIVER_WRITE);
	assert_memory_not_equal(first, data, 64);
	assert_int_equal(driver_do(&d, 0, DATA, 1, DRIVER_WRITE), 1);
	assert_int_equal(driver_do(&d, 0, DATA, 1 << 20, DRIVER_WRITE), 4096);
	assert_int_equal(driver_do(&d, 0, DATA, 64, 0), 0); /* nowhere to put them */
	assert_false(driver_broken(&d));
	driver_stop(&d);
	driver_check_state(&d);
}

static void random_chains_for_random_numbers(void **state)
{
	(void)state;
	random_chains(1, 0, 21);
	driver_set_up(&d, 0, 1);
	assert_int_equal(driver_do(&d, 0, DATA, 64, DRIVER_WRITE), 64);
}

/* ---- the console ----------------------------------------------------------------- */

static struct chardev *chardev;
static int peer;

static int connect_to(const char *path)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	strcpy(a.sun_path, path);
	assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	return fd;
}

static int make_console(void **state)
{
	struct err err = ERR_INIT;

	(void)state;
	chardev = chardev_open("socket=console.sock", &err);
	assert_non_null(chardev);
	driver_make(&d);
	assert_int_equal(virtio_console_new(&d.guest.vm, d.guest.pci, chardev, &err), 0);
	assert_int_equal(chardev_start(chardev, &err), 0);
	peer = connect_to("console.sock");
	driver_start(&d, 3);
	return 0;
}

static int unmake_console(void **state)
{
	chardev_stop(chardev);
	unmake(state);
	chardev_close(chardev);
	close(peer);
	assert_int_not_equal(access("console.sock", F_OK), 0);
	return 0;
}

static void hear(uint8_t *data, size_t bytes)
{
	for (size_t n = 0; n < bytes;) {
		struct pollfd p = {.fd = peer, .events = POLLIN};
		ssize_t got;

		assert_int_equal(poll(&p, 1, 20000), 1);
		got = read(peer, data + n, bytes - n);
		assert_true(got > 0);
		n += (size_t)got;
	}
}

/* The connection is there when something has come through. */
static void say_hello(void)
{
	uint8_t *data = driver_at(&d, DATA);

	assert_int_equal(write(peer, "hello", 5), 5);
	for (unsigned n = 0; n < 5;)
		n += driver_do(&d, 0, DATA + n, 5 - n, DRIVER_WRITE);
	assert_memory_equal(data, "hello", 5);
}

static void what_is_said_on_either_side_is_heard(void **state)
{
	uint8_t *data = driver_at(&d, DATA), got[70000];
	unsigned seed = 3;

	(void)state;
	driver_set_up(&d, 0, 2);
	say_hello();
	for (uint32_t bytes = 1; bytes < 70000; bytes = bytes * 3 + 1) {
		for (uint32_t i = 0; i < bytes; i++)
			data[i] = (uint8_t)rand_r(&seed);
		driver_put(&d, 1, 0, DATA, bytes, 0, 0);
		driver_offer(&d, 1, 0);
		hear(got, bytes);
		assert_memory_equal(got, data, bytes);
		driver_wait(&d, 1, d.offered[1]);
	}
	driver_do(&d, 1, DATA, 4, DRIVER_WRITE); /* nothing is said */
	assert_false(driver_broken(&d));
}

/* More than it keeps by itself: the rest waits outside. */
static void what_is_typed_waits_for_a_slow_guest(void **state)
{
	uint8_t said[20000], *data = driver_at(&d, DATA);
	uint32_t n = 0;

	(void)state;
	driver_set_up(&d, 0, 2);
	say_hello();
	for (unsigned i = 0; i < sizeof(said); i++)
		said[i] = (uint8_t)(i * 7 + i / 256);
	assert_int_equal(write(peer, said, sizeof(said)), sizeof(said));
	usleep(50000);
	while (n < sizeof(said))
		n += driver_do(&d, 0, DATA + n, 1000, DRIVER_WRITE);
	assert_memory_equal(data, said, sizeof(said));
}

/* A chain of which part was written when the machine stopped is gone on with, not begun anew; what
 * was typed is there afterwards. */
static void nothing_is_said_twice_across_a_stop(void **state)
{
	const uint32_t bytes = 4 << 20;
	uint8_t *data = driver_at(&d, DATA), *got = malloc(bytes);

	(void)state;
	driver_set_up(&d, 0, 2);
	say_hello();
	for (uint32_t i = 0; i < bytes; i++)
		data[i] = (uint8_t)(i * 13 + i / 256);
	driver_put(&d, 1, 0, DATA, bytes, 0, 0);
	driver_offer(&d, 1, 0);
	usleep(50000); /* the socket is full */
	assert_int_equal(driver_used(&d, 1), 0);
	assert_int_equal(write(peer, "typed", 5), 5);
	usleep(50000);
	driver_stop(&d);
	driver_check_state(&d);
	driver_go_on(&d);
	hear(got, bytes);
	assert_memory_equal(got, data, bytes);
	driver_wait(&d, 1, 1);
	assert_int_equal(driver_do(&d, 0, DATA, 5, DRIVER_WRITE), 5);
	assert_memory_equal(data, "typed", 5);
	free(got);
}

static void a_console_that_nobody_hears_does_not_stop_the_guest(void **state)
{
	(void)state;
	driver_set_up(&d, 0, 2);
	say_hello();
	close(peer);
	for (unsigned i = 0; i < 20; i++)
		driver_do(&d, 1, DATA, 1 << 20, 0);
	peer = connect_to("console.sock");
	say_hello();
}

static void random_chains_for_the_console(void **state)
{
	(void)state;
	random_chains(2, 0, 22);
	close(peer); /* it is full of them */
	peer = connect_to("console.sock");
	driver_set_up(&d, 0, 2);
	driver_do(&d, 1, DATA, 0x10, 0);
	assert_false(driver_broken(&d));
}

/* ---- the balloon ----------------------------------------------------------------- */

#define F_STATS     (1u << 1)
#define F_REPORTING (1u << 5)

static struct balloon *balloon;

static int make_balloon(void **state)
{
	struct balloon_options o = {.target = 12 << 20, .stats_ns = 20000000};
	struct err err = ERR_INIT;

	(void)state;
	driver_make(&d);
	assert_int_equal(balloon_new(&d.guest.vm, d.guest.pci, &o, &balloon, &err), 0);
	driver_start(&d, 5);
	return 0;
}

static void fill(uint64_t address, uint64_t bytes)
{
	memset(driver_at(&d, address), 0xaa, bytes);
}

static bool is_gone(uint64_t address, uint64_t bytes)
{
	const uint8_t *p = driver_at(&d, address);

	for (uint64_t i = 0; i < bytes; i++)
		if (p[i])
			return false;
	return true;
}

static void inflate(unsigned queue, const uint32_t *pages, unsigned n)
{
	memcpy(driver_at(&d, DATA), pages, n * sizeof(*pages));
	driver_do(&d, queue, DATA, (uint32_t)(n * sizeof(*pages)), 0);
}

static void pages_in_the_balloon_are_the_hosts(void **state)
{
	/* Up, down, alone, twice, and outside of memory. */
	static const uint32_t pages[] = {0x800, 0x801, 0x802, 0x810, 0x80f, 0x80e, 0x820,
		0x820, 0x1000, UINT32_MAX, 0xfff};
	unsigned left = 0;

	(void)state;
	driver_set_up(&d, 0, 2);
	fill(0x800000, 0x40000);
	fill(0xfff000, 0x1000);
	inflate(1, pages, ARRAY_LEN(pages)); /* out of it */
	for (unsigned i = 0; i < 0x40; i++)
		assert_false(is_gone(0x800000 + i * 0x1000, 0x1000));
	inflate(0, pages, ARRAY_LEN(pages));
	for (unsigned i = 0; i < 0x40; i++) {
		bool in = false;

		for (unsigned k = 0; k < ARRAY_LEN(pages); k++)
			in |= pages[k] == 0x800 + i;
		assert_int_equal(is_gone(0x800000 + i * 0x1000, 0x1000), in);
		left += !in;
	}
	assert_int_equal(left, 0x40 - 7);
	assert_true(is_gone(0xfff000, 0x1000));
	assert_false(driver_broken(&d));
}

static void more_pages_than_there_may_be_break_it_till_reset(void **state)
{
	const uint32_t page = 0x800;

	(void)state;
	driver_set_up(&d, 0, 2);
	driver_put(&d, 0, 0, DATA, 4 * 65536 + 4, 0, 0);
	driver_offer(&d, 0, 0);
	driver_wait_broken(&d);
	driver_set_up(&d, 0, 2);
	fill(0x800000, 0x1000);
	inflate(0, &page, 1);
	assert_true(is_gone(0x800000, 0x1000));
}

/* By whichever queue a driver takes for it. */
static void free_pages_that_are_reported_are_the_hosts(void **state)
{
	(void)state;
	for (unsigned queue = 2; queue < 5; queue++) {
		driver_set_up(&d, F_REPORTING | (queue > 2 ? F_STATS : 0), 5);
		fill(0x800000, 0x10000);
		driver_do(&d, queue, 0x800800, 0xf000, DRIVER_WRITE);
		assert_false(is_gone(0x800000, 0x1000)); /* whole pages only */
		assert_true(is_gone(0x801000, 0xe000));
		assert_false(is_gone(0x80f000, 0x1000));
		fill(0x800000, 0x10000);
		driver_do(&d, queue, 0x800000, 0x10000, 0); /* not to be written */
		assert_false(is_gone(0x800000, 0x10000));
	}
	driver_set_up(&d, 0, 5); /* not negotiated */
	driver_do(&d, 4, 0x800000, 0x10000, DRIVER_WRITE);
	assert_false(is_gone(0x800000, 0x10000));
}

static void the_guest_is_told_how_much_it_may_have(void **state)
{
	(void)state;
	driver_set_up(&d, 0, 2);
	assert_int_equal(driver_config(&d, 0, 4), 1024); /* pages: 4 of 16 MiB */
	balloon_set_target(balloon, 8 << 20);
	assert_int_equal(driver_config(&d, 0, 4), 2048);
	balloon_set_target(balloon, 1ull << 60);
	assert_int_equal(driver_config(&d, 0, 4), 0);
	balloon_set_target(balloon, 8 << 20);
	driver_set(&d, 0x2004, 4, 512);
	assert_true(balloon_actual(balloon) == 14 << 20);
	driver_set(&d, 0x2000, 4, 7); /* not the guest's */
	assert_int_equal(driver_config(&d, 0, 4), 2048);
	driver_set(&d, 0x2004, 4, UINT32_MAX);
	assert_true(balloon_actual(balloon) == 0);
}

static void offer_stats(uint64_t free)
{
	uint8_t *p = driver_at(&d, DATA);

	le16_store(p, BALLOON_FREE);
	le64_store(p + 2, free);
	le16_store(p + 10, 999); /* of a later specification */
	le64_store(p + 12, 1);
	le16_store(p + 20, BALLOON_CACHES);
	le64_store(p + 22, 77);
	driver_put(&d, 2, 0, DATA, 30 + 5, 0, 0); /* and a piece of one */
	driver_offer(&d, 2, 0);
}

static void wait_stats(uint64_t free)
{
	struct balloon_stats s = {.when_ns = 0};

	for (unsigned i = 0; i < 100000 && s.value[BALLOON_FREE] != free; i++) {
		usleep(100);
		balloon_get_stats(balloon, &s);
	}
	assert_true(s.when_ns && s.has[BALLOON_FREE] && s.value[BALLOON_FREE] == free);
	assert_true(s.has[BALLOON_CACHES] && s.value[BALLOON_CACHES] == 77);
	assert_false(s.has[BALLOON_TOTAL]);
}

static void statistics_come_when_they_are_asked_for(void **state)
{
	(void)state;
	driver_set_up(&d, F_STATS, 3);
	for (unsigned i = 1; i <= 3; i++) {
		offer_stats(1000 + i);
		wait_stats(1000 + i);
		driver_wait(&d, 2, (uint16_t)i); /* new ones are wanted */
	}
	offer_stats(2000);
	driver_stop(&d);
	driver_check_state(&d);
	driver_go_on(&d);
	driver_wait(&d, 2, 4);
	offer_stats(2001);
	wait_stats(2001);
}

static void what_is_asked_for_is_saved(void **state)
{
	uint8_t *saved;
	size_t bytes;

	(void)state;
	driver_set_up(&d, F_REPORTING, 4);
	balloon_set_target(balloon, 6 << 20);
	driver_set(&d, 0x2004, 4, 100);
	driver_stop(&d);
	driver_check_state(&d);
	saved = guest_save(&d.guest, &bytes);
	balloon_set_target(balloon, 1 << 20);
	assert_int_equal(guest_load(&d.guest, saved, bytes), 0);
	driver_go_on(&d);
	assert_int_equal(driver_config(&d, 0, 4), (10 << 20) / 4096);
	assert_int_equal(driver_config(&d, 4, 4), 100);
	free(saved);
}

static void random_chains_for_the_balloon(void **state)
{
	const uint32_t page = 0xc00;

	(void)state;
#ifdef __SANITIZE_THREAD__
	skip();
#endif
	random_chains(5, F_STATS | F_REPORTING, 23);
	driver_set_up(&d, 0, 2);
	fill(0xc00000, 0x1000);
	inflate(0, &page, 1);
	assert_true(is_gone(0xc00000, 0x1000));
}

#define RNG_TEST(name) cmocka_unit_test_setup_teardown(name, make_rng, unmake)
#define CONSOLE_TEST(name)                                                               \
	cmocka_unit_test_setup_teardown(name, make_console, unmake_console)
#define BALLOON_TEST(name) cmocka_unit_test_setup_teardown(name, make_balloon, unmake)

int main(void)
{
	const struct CMUnitTest tests[] = {
		RNG_TEST(numbers_are_random_and_not_more_than_asked_for),
		RNG_TEST(random_chains_for_random_numbers),
		CONSOLE_TEST(what_is_said_on_either_side_is_heard),
		CONSOLE_TEST(what_is_typed_waits_for_a_slow_guest),
		CONSOLE_TEST(nothing_is_said_twice_across_a_stop),
		CONSOLE_TEST(a_console_that_nobody_hears_does_not_stop_the_guest),
		CONSOLE_TEST(random_chains_for_the_console),
		BALLOON_TEST(pages_in_the_balloon_are_the_hosts),
		BALLOON_TEST(more_pages_than_there_may_be_break_it_till_reset),
		BALLOON_TEST(free_pages_that_are_reported_are_the_hosts),
		BALLOON_TEST(the_guest_is_told_how_much_it_may_have),
		BALLOON_TEST(statistics_come_when_they_are_asked_for),
		BALLOON_TEST(what_is_asked_for_is_saved),
		BALLOON_TEST(random_chains_for_the_balloon),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
