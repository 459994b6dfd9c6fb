/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A session with a simulated server: one that keeps what is written in memory, forgets it when it is
 * started anew or when it cannot store it, and says so once.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "backends/session.h"
#include "base/iov.h"
#include "block/storage.h"
#include "support_blk.h"

#define DISK_BYTES 65536u

static struct server {
	pthread_mutex_t lock;
	uint8_t cached[DISK_BYTES], stable[DISK_BYTES];
	unsigned generation;   /* of the server: a connection to another is broken */
	unsigned connected_to; /* of the connection */
	unsigned connections;  /* so far */
	atomic_bool loses;     /* the next flush finds that nothing can be stored */
	atomic_uint slow_ms;   /* a flush takes so long */
	unsigned
		refused_offset; /* writes here fail when they are repeated; DISK_BYTES: none */
	unsigned
		holds_at; /* the first write over this connection is held, and breaks it; 0: none */
	uint8_t held[4096]; /* to land later */
	uint64_t held_offset;
	bool breaks; /* writes there break the connection, too, each time */
} server = {.lock = PTHREAD_MUTEX_INITIALIZER};

static int serve_anew(void **state)
{
	(void)state;
	memset(server.cached, 0, sizeof(server.cached));
	memset(server.stable, 0, sizeof(server.stable));
	server.connections = 0;
	server.loses = false;
	server.slow_ms = 0;
	server.refused_offset = DISK_BYTES;
	server.breaks = false;
	server.holds_at = 0;
	return 0;
}

static void restart_server(void)
{
	pthread_mutex_lock(&server.lock);
	memcpy(server.cached, server.stable, DISK_BYTES);
	server.generation++;
	pthread_mutex_unlock(&server.lock);
}

static unsigned connections(void)
{
	unsigned n;

	pthread_mutex_lock(&server.lock);
	n = server.connections;
	pthread_mutex_unlock(&server.lock);
	return n;
}

/* ---- the driver: one session, and nothing else ------------------------------------- */

static struct session *session_of(struct blk *b)
{
	return b->state;
}

static int fake_connect(struct blk *b, struct err *err)
{
	(void)b;
	(void)err;
	pthread_mutex_lock(&server.lock);
	server.connected_to = server.generation;
	server.connections++;
	pthread_mutex_unlock(&server.lock);
	return 0;
}

static void fake_disconnect(struct blk *b, bool clean)
{
	(void)b;
	(void)clean;
}

static void fake_cut(struct blk *b)
{
	(void)b;
}

/* The lock is held. */
static int is_lost(void)
{
	return server.connected_to == server.generation ? 0 : SESSION_LOST;
}

/* It cannot store what it has, and says so to whoever asks first. */
static bool lose_once(void)
{
	bool loses;

	pthread_mutex_lock(&server.lock);
	loses = server.loses;
	if (loses)
		memcpy(server.cached, server.stable, DISK_BYTES);
	server.loses = false;
	pthread_mutex_unlock(&server.lock);
	return loses;
}

static int fake_write(
	struct blk *b, uint64_t offset, const struct iovec *iov, int niov, unsigned flags)
{
	int ret;

	(void)b;
	if (flags & BLK_FUA && lose_once()) {
		task_sleep_ns(300000000);
		return -EIO;
	}
	pthread_mutex_lock(&server.lock);
	ret = is_lost();
	if (ret == 0 && server.breaks && offset == server.refused_offset)
		ret = SESSION_LOST;
	if (ret == 0 && server.connections > 1 && offset == server.refused_offset)
		ret = -EIO;
	if (ret == 0 && server.connections == server.holds_at) {
		iov_to_buf(iov, niov, 0, server.held, sizeof(server.held));
		server.held_offset = offset;
		server.generation++;
		ret = SESSION_LOST;
	}
	if (ret == 0)
		iov_to_buf(iov, niov, 0, server.cached + offset, iov_bytes(iov, niov));
	pthread_mutex_unlock(&server.lock);
	return ret;
}

static int fake_flush(struct blk *b)
{
	bool loses = atomic_exchange(&server.loses, false);
	int ret;

	(void)b;
	task_sleep_ns(server.slow_ms * 1000000ull);
	pthread_mutex_lock(&server.lock);
	ret = is_lost();
	if (ret == 0 && loses) {
		memcpy(server.cached, server.stable, DISK_BYTES);
		ret = -EIO;
	} else if (ret == 0) {
		memcpy(server.stable, server.cached, DISK_BYTES);
	}
	pthread_mutex_unlock(&server.lock);
	return ret;
}

static int fake_read(struct blk *b, void *arg)
{
	int ret;

	(void)b;
	pthread_mutex_lock(&server.lock);
	ret = is_lost();
	if (ret == 0)
		memcpy(arg, server.cached, DISK_BYTES);
	pthread_mutex_unlock(&server.lock);
	return ret;
}

static const struct session_ops session_ops = {
	.connect = fake_connect,
	.disconnect = fake_disconnect,
	.cut = fake_cut,
	.write = fake_write,
	.flush = fake_flush,
};

static int node_open_fake(struct blk *b, struct opts *opts, struct err *err)
{
	int ret = session_options(session_of(b), b, opts, err);

	opts_take(opts, "filename");
	b->size = DISK_BYTES;
	b->caps |= BLK_CAP_FUA;
	return ret ? ret : session_open(session_of(b), b, &session_ops, err);
}

static int node_close_fake(struct blk *b)
{
	session_close(session_of(b));
	return 0;
}

static int node_preadv_fake(
	struct blk *b, uint64_t offset, uint64_t bytes, const struct iovec *iov, int niov)
{
	uint8_t all[DISK_BYTES];
	int ret = session_run(session_of(b), fake_read, all);

	if (ret == 0)
		iov_from_buf(iov, niov, 0, all + offset, bytes);
	return ret;
}

static int node_pwritev_fake(struct blk *b, uint64_t offset, uint64_t bytes,
	const struct iovec *iov, int niov, unsigned flags)
{
	(void)bytes;
	return session_write(session_of(b), offset, iov, niov, flags);
}

static int node_flush_fake(struct blk *b)
{
	return session_flush(session_of(b));
}

static void note_loss_fake(struct blk *b)
{
	session_note_loss(session_of(b));
}

static const struct blk_storage_ops fake_storage_ops = {.note_loss = note_loss_fake};

static const struct blk_driver fake_driver = {
	.name = "fake",
	.kind = BLK_PROTOCOL,
	.schemes = (const char *const[]){"fake", NULL},
	.state_bytes = sizeof(struct session),
	.open = node_open_fake,
	.close = node_close_fake,
	.preadv = node_preadv_fake,
	.pwritev = node_pwritev_fake,
	.flush = node_flush_fake,
	.storage = &fake_storage_ops,
};

const struct blk_driver *const blk_drivers[] = {&fake_driver, NULL};

/* ---- what is promised ------------------------------------------------------------- */

static struct blk *open_fake(void)
{
	return node_open("driver=fake,filename=x", BLK_O_RDWR);
}

static void *flush_on(void *arg)
{
	return (void *)(intptr_t)blk_flush(arg);
}

static bool is_stable(uint8_t value)
{
	uint8_t want[4096];

	memset(want, value, sizeof(want));
	return memcmp(server.stable, want, sizeof(want)) == 0;
}

static void a_server_that_forgets_is_told_again(void **state)
{
	struct blk *b = open_fake();
	uint8_t byte;

	(void)state;
	node_fill(b, 0, 4096, 7);
	restart_server();
	assert_int_equal(blk_pread(b, 0, &byte, 1), 0);
	assert_int_equal(byte, 7);
	assert_int_equal(blk_flush(b), 0);
	assert_true(is_stable(7));
	assert_int_equal(server.connections, 2);
	assert_int_equal(blk_close(b), 0);
}

/* The server tells the first of what both lost: the second is not well before it was written again. */
static void of_two_flushes_the_second_is_no_lie(void **state)
{
	struct blk *b = open_fake();
	pthread_t thread;
	void *first;

	(void)state;
	node_fill(b, 0, 4096, 7);
	server.slow_ms = 200;
	server.loses = true;
	assert_int_equal(pthread_create(&thread, NULL, flush_on, b), 0);
	while (server.loses) /* until it has begun */
		usleep(1000);
	assert_int_equal(blk_flush(b), 0);
	assert_true(is_stable(7));
	pthread_join(thread, &first);
	assert_int_equal((intptr_t)first, -EIO);
	assert_int_equal(blk_close(b), 0);
}

/* Those that wait are served by one. */
static void flushes_that_wait_are_one(void **state)
{
	struct blk *b = open_fake();
	pthread_t thread[8];
	void *ret;

	(void)state;
	node_fill(b, 0, 4096, 7);
	server.slow_ms = 100;
	for (unsigned i = 0; i < 8; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, flush_on, b), 0);
	for (unsigned i = 0; i < 8; i++) {
		pthread_join(thread[i], &ret);
		assert_null(ret);
	}
	assert_true(((struct session *)b->state)->flushes < 8);
	assert_true(is_stable(7));
	assert_int_equal(blk_close(b), 0);
}

/* One that the server does not take again is told with every flush; the others are there. */
static void one_that_is_refused_costs_no_other(void **state)
{
	struct blk *b = open_fake();
	uint8_t byte;

	(void)state;
	node_fill(b, 0, 4096, 7);
	node_fill(b, 4096, 4096, 8);
	node_fill(b, 8192, 4096, 9);
	server.refused_offset = 4096;
	restart_server();
	assert_int_equal(blk_pread(b, 8192, &byte, 1), 0);
	assert_int_equal(byte, 9);
	assert_int_equal(blk_pread(b, 0, &byte, 1), 0);
	assert_int_equal(byte, 7);
	assert_int_equal(blk_flush(b), -EIO);
	assert_int_equal(blk_flush(b), -EIO);
	blk_close(b);
}

/* Where each try breaks the connection, the end is an error, and of that one alone. */
static void what_breaks_every_connection_ends(void **state)
{
	struct blk *b = node_open(
		"driver=fake,filename=x,reconnect-delay=4,timeout=1", BLK_O_RDWR);
	uint8_t byte = 8;

	(void)state;
	node_fill(b, 0, 4096, 7);
	server.refused_offset = 4096;
	server.breaks = true;
	assert_int_equal(blk_pwrite(b, 4096, &byte, 1, 0), SESSION_LOST);
	assert_true(server.connections > 2 && server.connections < 200);
	assert_int_equal(blk_flush(b), 0);
	assert_true(is_stable(7));
	assert_int_equal(blk_close(b), 0);
}

static void *write_stable(void *arg)
{
	uint8_t byte = 8;

	return (void *)(intptr_t)blk_pwrite(arg, 4096, &byte, 1, BLK_FUA);
}

/* Such a write is told what concerns all, and it may be told later than a flush is told nothing. */
static void a_flush_beside_a_stable_write_is_no_lie(void **state)
{
	struct blk *b = open_fake();
	pthread_t thread;
	void *ret;

	(void)state;
	node_fill(b, 0, 4096, 7);
	server.loses = true;
	assert_int_equal(pthread_create(&thread, NULL, write_stable, b), 0);
	while (server.loses) /* until it has begun */
		usleep(1000);
	assert_int_equal(blk_flush(b), 0);
	assert_true(is_stable(7));
	pthread_join(thread, &ret);
	assert_int_equal((intptr_t)ret, -EIO);
	assert_int_equal(blk_close(b), 0);
}

/* Within the least time that it is in doubt, or never. */
static void *land_later(void *arg)
{
	uint64_t began_ns = clock_ns();

	usleep(800000);
	pthread_mutex_lock(&server.lock);
	if (clock_ns() - began_ns < 1500000000)
		memcpy(server.cached + server.held_offset, server.held,
			sizeof(server.held));
	pthread_mutex_unlock(&server.lock);
	return arg;
}

/* A server has what it was sent over a connection that is lost, and carries it out when it likes. */
static void what_lands_late_lands_over_nothing_newer(void **state)
{
	struct blk *b = open_fake();
	pthread_t thread;

	(void)state;
	server.holds_at = 1;
	assert_int_equal(pthread_create(&thread, NULL, land_later, NULL), 0);
	node_fill(b, 0, 4096, 7);
	node_fill(b, 0, 4096, 8);
	pthread_join(thread, NULL);
	assert_int_equal(blk_flush(b), 0);
	assert_true(is_stable(8));
	assert_int_equal(blk_close(b), 0);
}

/* Nor over what the next one writes who opens it. */
static void what_may_land_late_is_waited_for(void **state)
{
	struct blk *b = open_fake();
	uint64_t began_ns = clock_ns();

	(void)state;
	server.holds_at = 1;
	node_fill(b, 0, 4096, 7);
	assert_int_equal(blk_close(b), 0);
	assert_true(clock_ns() - began_ns >= 2000000000);
}

/* Neither does one of the copies that were written again. */
static void a_copy_that_lands_late_lands_over_no_other(void **state)
{
	struct blk *b = open_fake();
	pthread_t thread;
	uint8_t byte;

	(void)state;
	node_fill(b, 0, 4096, 7);
	node_fill(b, 0, 4096, 8);
	server.holds_at = 2;
	restart_server();
	assert_int_equal(pthread_create(&thread, NULL, land_later, NULL), 0);
	assert_int_equal(blk_pread(b, 0, &byte, 1), 0);
	pthread_join(thread, NULL);
	assert_int_equal(blk_flush(b), 0);
	assert_true(is_stable(8));
	assert_int_equal(blk_close(b), 0);
}

/* Of several paths one: what a server that has forgotten says, nobody hears before the loss is noted. */
static void a_path_that_was_lost_is_not_used_before_that_is_noted(void **state)
{
	struct blk *b = node_open("driver=fake,filename=x", BLK_O_RDWR | BLK_O_PATH);
	uint8_t byte;

	(void)state;
	node_fill(b, 0, 4096, 7);
	restart_server();
	assert_int_equal(blk_pread(b, 0, &byte, 1), SESSION_LOST);
	while (connections() < 2)
		usleep(1000);
	usleep(20000);
	assert_int_equal(blk_flush(b), SESSION_LOST);
	assert_int_equal(blk_pread(b, 0, &byte, 1), SESSION_LOST);
	blk_note_loss(b);
	assert_int_equal(blk_pread(b, 0, &byte, 1), 0);
	assert_int_equal(byte, 0);
	assert_int_equal(blk_close(b), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(a_server_that_forgets_is_told_again, serve_anew),
		cmocka_unit_test_setup(of_two_flushes_the_second_is_no_lie, serve_anew),
		cmocka_unit_test_setup(flushes_that_wait_are_one, serve_anew),
		cmocka_unit_test_setup(one_that_is_refused_costs_no_other, serve_anew),
		cmocka_unit_test_setup(what_breaks_every_connection_ends, serve_anew),
		cmocka_unit_test_setup(
			what_lands_late_lands_over_nothing_newer, serve_anew),
		cmocka_unit_test_setup(
			a_flush_beside_a_stable_write_is_no_lie, serve_anew),
		cmocka_unit_test_setup(what_may_land_late_is_waited_for, serve_anew),
		cmocka_unit_test_setup(
			a_copy_that_lands_late_lands_over_no_other, serve_anew),
		cmocka_unit_test_setup(
			a_path_that_was_lost_is_not_used_before_that_is_noted,
			serve_anew),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
