/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The multipath node over lanes to one simulated server: lanes that break and come back, a
 * server that starts anew and forgets what was not flushed, and writes whose lane broke
 * that land later, the worst moment within what a fence or the doubt allows. Whatever
 * happens, each region reads as its writer left it, and as flushed after a restart.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backends/paths.h"
#include "base/iov.h"
#include "base/json.h"
#include "base/math.h"
#include "base/task.h"
#include "block/driver.h"
#include "support_blk.h"

#define DISK_BYTES (1 * MiB)
#define LANES      3
#define LATE_MAX   64
#define DOUBT_NS   1000000000u /* of the model's runs without a fence */

/* ---- the server ------------------------------------------------------------------ */

/* A write that was on a lane when it broke, and is still on its way. */
struct late {
	uint64_t offset, bytes;
	uint64_t until_ns; /* it does not land later, which nobody would fence */
	uint8_t data[64 << 10];
};

static struct server {
	pthread_mutex_t lock;
	uint8_t cached[DISK_BYTES], stable[DISK_BYTES];
	uint8_t written_by[DISK_BYTES / 512]; /* lane */
	bool flushes_apart;                   /* a lane flushes only what came by it */
	bool broken[LANES];
	unsigned generation[LANES]; /* of the connection */
	atomic_bool fences, standby[LANES], faulty[LANES];
	const char *name[LANES];
	struct late *late[LATE_MAX];
	unsigned n_late, landed_late;
	atomic_uint requests[LANES];
	atomic_uint slow_flush_ms;
	bool fua; /* lanes have stable writes of their own */
	atomic_bool
		loses; /* the next flush finds that nothing can be stored, and says so once */
	uint64_t
		cursed_offset; /* a write there breaks its lane, each time; DISK_BYTES: none */
	unsigned seed;
} server = {.lock = PTHREAD_MUTEX_INITIALIZER};

struct lane_node {
	unsigned lane;
	unsigned generation; /* of its connection, as a session has it */
};

static unsigned chance(unsigned n)
{
	unsigned r;

	pthread_mutex_lock(&server.lock);
	r = (unsigned)rand_r(&server.seed) % n;
	pthread_mutex_unlock(&server.lock);
	return r;
}

static void serve_anew(void)
{
	memset(&server.cached, 0, sizeof(server.cached));
	memset(&server.stable, 0, sizeof(server.stable));
	memset(server.broken, 0, sizeof(server.broken));
	for (unsigned i = 0; i < LANES; i++) {
		server.name[i] = "one";
		server.standby[i] = server.faulty[i] = false;
		server.requests[i] = 0;
	}
	server.fences = true;
	server.flushes_apart = false;
	server.landed_late = 0;
	server.slow_flush_ms = 0;
	server.loses = server.fua = false;
	server.cursed_offset = DISK_BYTES;
	server.seed = 1;
}

static void break_lane(unsigned lane)
{
	pthread_mutex_lock(&server.lock);
	server.broken[lane] = true;
	server.generation[lane]++;
	pthread_mutex_unlock(&server.lock);
}

static void heal_lane(unsigned lane)
{
	pthread_mutex_lock(&server.lock);
	server.broken[lane] = false;
	pthread_mutex_unlock(&server.lock);
}

static void land_late_writes(bool discard)
{
	pthread_mutex_lock(&server.lock);
	for (unsigned i = 0; i < server.n_late; i++) {
		struct late *w = server.late[i];

		if (!discard && (server.fences || clock_ns() < w->until_ns)) {
			memcpy(server.cached + w->offset, w->data, w->bytes);
			server.landed_late++;
		}
		free(w);
	}
	server.n_late = 0;
	pthread_mutex_unlock(&server.lock);
}

/* As a server that is killed: every connection breaks, what was not flushed is gone, and
 * nothing is on its way any more. */
static void restart_server(void)
{
	for (unsigned i = 0; i < LANES; i++)
		break_lane(i);
	land_late_writes(true);
	pthread_mutex_lock(&server.lock);
	memcpy(server.cached, server.stable, DISK_BYTES);
	pthread_mutex_unlock(&server.lock);
}

/* ---- a lane: the driver ---------------------------------------------------------- */

static unsigned lane_of(const struct blk *b)
{
	return ((struct lane_node *)b->state)->lane;
}

static int lane_open(struct blk *b, struct opts *opts, struct err *err)
{
	struct lane_node *n = b->state;
	const char *name = opts_take(opts, "filename");

	n->lane = name ? (unsigned)atoi(name) : 0;
	assert_true(n->lane < LANES);
	pthread_mutex_lock(&server.lock);
	n->generation = server.generation[n->lane];
	b->size = server.broken[n->lane] ? 0 : DISK_BYTES;
	pthread_mutex_unlock(&server.lock);
	b->caps |= server.fua ? BLK_CAP_FUA : 0;
	return b->size ? 0 : err_set(err, ENOLINK, "lane %u is broken", n->lane);
}

/* Takes a while. 0 where the connection is still the same one; that it is another is told to every
 * request until it is noted, as sessions do. */
static int travel(struct blk *b, unsigned *generation)
{
	struct lane_node *n = b->state;
	int ret;

	pthread_mutex_lock(&server.lock);
	*generation = server.generation[n->lane];
	ret = server.broken[n->lane] || n->generation != *generation ? -ENOLINK : 0;
	server.requests[n->lane]++;
	pthread_mutex_unlock(&server.lock);
	if (ret == 0)
		task_sleep_ns(chance(500) * 1000);
	return ret;
}

static int lane_preadv(
	struct blk *b, uint64_t offset, uint64_t bytes, const struct iovec *iov, int niov)
{
	unsigned lane = lane_of(b), generation;
	int ret = travel(b, &generation);

	pthread_mutex_lock(&server.lock);
	if (ret == 0 && server.generation[lane] != generation)
		ret = -ENOLINK;
	if (ret == 0 && server.faulty[lane])
		ret = -EIO;
	if (ret == 0)
		iov_from_buf(iov, niov, 0, server.cached + offset, bytes);
	pthread_mutex_unlock(&server.lock);
	return ret;
}

/* The lane broke under it: it was done, or will be, or never was. server.lock is held. */
static void strand(uint64_t offset, uint64_t bytes, const uint8_t *data)
{
	unsigned fate = (unsigned)rand_r(&server.seed) % 3;
	struct late *w;

	if (fate == 0)
		memcpy(server.cached + offset, data, bytes);
	if (fate != 1 || server.n_late == LATE_MAX)
		return;
	w = malloc(sizeof(*w));
	w->offset = offset;
	w->bytes = bytes;
	w->until_ns = clock_ns() + DOUBT_NS / 2;
	memcpy(w->data, data, bytes);
	server.late[server.n_late++] = w;
}

static int change(struct blk *b, uint64_t offset, uint64_t bytes, const uint8_t *data)
{
	unsigned lane = lane_of(b), generation;
	int ret = travel(b, &generation);

	pthread_mutex_lock(&server.lock);
	if (ret == 0 && server.faulty[lane]) {
		ret = -EIO;
	} else if (ret == 0 && offset == server.cursed_offset) {
		server.generation[lane]++;
		ret = -ENOLINK;
	} else if (ret == 0 && server.generation[lane] != generation) {
		strand(offset, bytes, data);
		ret = -ENOLINK;
	} else if (ret == 0) {
		memcpy(server.cached + offset, data, bytes);
		memset(server.written_by + offset / 512, (int)lane, bytes / 512);
	}
	pthread_mutex_unlock(&server.lock);
	return ret;
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

static int lane_pwritev(struct blk *b, uint64_t offset, uint64_t bytes,
	const struct iovec *iov, int niov, unsigned flags)
{
	uint8_t *flat;
	int ret;

	if (flags & BLK_FUA && lose_once()) {
		task_sleep_ns(300000000);
		return -EIO;
	}
	flat = malloc(bytes);
	iov_to_buf(iov, niov, 0, flat, bytes);
	ret = change(b, offset, bytes, flat);
	free(flat);
	return ret;
}

static int lane_zero(struct blk *b, uint64_t offset, uint64_t bytes, unsigned flags)
{
	uint8_t *flat = calloc(1, bytes);
	int ret;

	(void)flags;
	ret = change(b, offset, bytes, flat);
	free(flat);
	return ret;
}

/* server.lock is held. */
static void make_stable(unsigned lane)
{
	for (unsigned i = 0; i < DISK_BYTES / 512; i++)
		if (!server.flushes_apart || server.written_by[i] == lane)
			memcpy(server.stable + i * 512, server.cached + i * 512, 512);
}

static int lane_flush(struct blk *b)
{
	unsigned lane = lane_of(b), generation;
	int ret = travel(b, &generation);

	task_sleep_ns(server.slow_flush_ms * 1000000ull);
	pthread_mutex_lock(&server.lock);
	if (ret == 0 && server.generation[lane] != generation)
		ret = -ENOLINK;
	if (ret == 0 && atomic_exchange(&server.loses, false)) {
		memcpy(server.cached, server.stable, DISK_BYTES);
		ret = -ENOSPC;
	}
	if (ret == 0)
		make_stable(lane);
	pthread_mutex_unlock(&server.lock);
	return ret;
}

static int lane_identity(struct blk *b, char **out)
{
	const char *name = server.name[lane_of(b)];

	*out = name ? strdup(name) : NULL;
	return name ? 0 : -ENOTSUP;
}

static int lane_check(struct blk *b, unsigned *priority)
{
	unsigned lane = lane_of(b), generation;

	*priority = server.standby[lane] ? BLK_PATH_STANDBY : BLK_PATH_OPTIMIZED;
	return travel(b, &generation);
}

static void lane_note_loss(struct blk *b)
{
	struct lane_node *n = b->state;

	pthread_mutex_lock(&server.lock);
	n->generation = server.generation[n->lane];
	pthread_mutex_unlock(&server.lock);
}

static int lane_fence(struct blk *b)
{
	unsigned generation;
	int ret = server.fences ? travel(b, &generation) : -ENOTSUP;

	if (ret == 0)
		land_late_writes(chance(2));
	return ret;
}

static const struct blk_storage_ops lane_storage = {
	.identity = lane_identity,
	.check_path = lane_check,
	.note_loss = lane_note_loss,
	.fence = lane_fence,
};

static const struct blk_driver lane_driver = {
	.name = "lane",
	.kind = BLK_PROTOCOL,
	.schemes = (const char *const[]){"lane", NULL},
	.state_bytes = sizeof(struct lane_node),
	.open = lane_open,
	.preadv = lane_preadv,
	.pwritev = lane_pwritev,
	.zero = lane_zero,
	.flush = lane_flush,
	.storage = &lane_storage,
};

extern const struct blk_driver blk_multipath_driver;
const struct blk_driver *const blk_drivers[] = {
	&blk_multipath_driver, &lane_driver, NULL};

#define THREE                                                                            \
	"driver=multipath,path.0=lane:0,path.1=lane:1,path.2=lane:2,check-interval=1"

static int64_t fact(struct blk *b, const char *key)
{
	struct json *facts = blk_describe(b);
	int64_t n = json_int_of(json_get(facts, key));

	json_free(facts);
	return n;
}

/* Until a check has found the lane usable again; ten seconds at most. */
static void wait_up(struct blk *b, unsigned lane)
{
	bool up = false;

	for (unsigned i = 0; i < 200 && !up; i++) {
		struct json *facts = blk_describe(b);
		const struct json *path = json_array_at(json_get(facts, "paths"), lane);

		up = !strcmp(json_string_of(json_get(path, "state")), "up");
		json_free(facts);
		if (!up)
			usleep(50000);
	}
	assert_true(up);
}

/* ---- the model ------------------------------------------------------------------- */

#define WRITERS      6
#define REGION_BYTES (DISK_BYTES / WRITERS / 4096 * 4096)

struct writer {
	struct blk *b;
	unsigned i, seed;
	atomic_bool *stop;
	uint8_t model[REGION_BYTES];
	uint8_t scratch[REGION_BYTES];
	unsigned done;
};

static uint64_t pick(struct writer *w, uint64_t n)
{
	return (uint64_t)rand_r(&w->seed) % n;
}

static int step(struct writer *w)
{
	uint64_t base = (uint64_t)w->i * REGION_BYTES;
	uint64_t offset = pick(w, 64) * 512, bytes = (1 + pick(w, 16)) * 512;
	struct iovec iov = {w->scratch, bytes};
	int ret = 0;

	switch (pick(w, 8)) {
	case 0:
		ret = blk_flush(w->b);
		break;
	case 1:
		memset(w->model + offset, 0, bytes);
		ret = blk_zero(w->b, base + offset, bytes, 0);
		break;
	case 2:
	case 3:
		ret = blk_preadv(w->b, base + offset, &iov, 1, 0);
		if (ret == 0)
			assert_memory_equal(w->scratch, w->model + offset, bytes);
		break;
	default:
		memset(w->model + offset, (int)pick(w, 256), bytes);
		memcpy(w->scratch, w->model + offset, bytes);
		ret = blk_pwritev(w->b, base + offset, &iov, 1, pick(w, 9) ? 0 : BLK_FUA);
	}
	w->done++;
	return ret;
}

static int write_on(void *arg, unsigned i)
{
	struct writer *w = (struct writer *)arg + i;
	int ret = 0;

	while (ret == 0 && !atomic_load(w->stop))
		ret = step(w);
	return ret;
}

struct chaos {
	atomic_bool stop;
	unsigned rounds;
	bool restarts, cuts_all;
};

/* Breaks lanes, heals them, lets late writes land while doubts last. */
static void *make_chaos(void *arg)
{
	struct chaos *c = arg;

	for (unsigned i = 0; i < c->rounds; i++) {
		unsigned lane = chance(LANES);

		usleep(100000 + chance(200000));
		break_lane(lane);
		if (c->cuts_all && chance(2))
			break_lane((lane + 1) % LANES);
		if (c->restarts && chance(3) == 0)
			restart_server();
		usleep(chance(200000));
		land_late_writes(false);
		for (unsigned l = 0; l < LANES; l++)
			if (!c->cuts_all || chance(3) || i == c->rounds - 1)
				heal_lane(l);
	}
	for (unsigned l = 0; l < LANES; l++)
		heal_lane(l);
	atomic_store(&c->stop, true);
	return NULL;
}

static void verify(struct blk *b, const struct writer *w)
{
	uint8_t *bytes = malloc(REGION_BYTES);

	for (unsigned i = 0; i < WRITERS; i++) {
		assert_int_equal(
			blk_pread(b, (uint64_t)i * REGION_BYTES, bytes, REGION_BYTES), 0);
		assert_memory_equal(bytes, w[i].model, REGION_BYTES);
	}
	free(bytes);
}

static void run_model(const char *options, struct chaos c)
{
	struct writer *w = calloc(WRITERS, sizeof(*w));
	pthread_t thread;
	struct blk *b = node_open(options, BLK_O_RDWR);
	unsigned done = 0;

	for (unsigned i = 0; i < WRITERS; i++) {
		w[i].b = b;
		w[i].i = i;
		w[i].seed = i + 1;
		w[i].stop = &c.stop;
	}
	assert_int_equal(pthread_create(&thread, NULL, make_chaos, &c), 0);
	assert_int_equal(on_loops(WRITERS, write_on, w), 0);
	pthread_join(thread, NULL);
	verify(b, w);
	assert_int_equal(blk_flush(b), 0);
	restart_server();
	for (unsigned i = 0; i < LANES; i++)
		heal_lane(i);
	verify(b, w);
	for (unsigned i = 0; i < WRITERS; i++)
		done += w[i].done;
	assert_true(done > 100);
	assert_true(fact(b, "failovers") > 0);
	assert_int_equal(blk_close(b), 0);
	/* And the server has them itself. */
	for (unsigned i = 0; i < WRITERS; i++)
		assert_memory_equal(server.stable + (size_t)i * REGION_BYTES, w[i].model,
			REGION_BYTES);
	free(w);
}

static void broken_lanes_are_not_seen(void **state)
{
	(void)state;
	serve_anew();
	run_model(THREE, (struct chaos){.rounds = 12});
}

static void lanes_that_all_break_are_waited_for(void **state)
{
	(void)state;
	serve_anew();
	run_model(THREE ",selector=round-robin",
		(struct chaos){.rounds = 8, .cuts_all = true});
}

static void a_server_that_forgets_is_told_again(void **state)
{
	(void)state;
	serve_anew();
	run_model(THREE ",selector=queue-length",
		(struct chaos){.rounds = 10, .restarts = true});
}

static void without_a_fence_doubts_are_waited_for(void **state)
{
	(void)state;
	serve_anew();
	server.fences = false;
	run_model(THREE ",doubt=1", (struct chaos){.rounds = 8});
}

static void every_path_that_took_writes_is_flushed(void **state)
{
	(void)state;
	serve_anew();
	server.flushes_apart = true;
	run_model(THREE ",selector=round-robin", (struct chaos){.rounds = 4});
}

/* ---- single questions ------------------------------------------------------------ */

static void other_disks_are_refused(void **state)
{
	struct err err = ERR_INIT;

	(void)state;
	serve_anew();
	server.name[1] = "two";
	node_refused(THREE, BLK_O_RDWR, &err);
	assert_non_null(strstr(err.msg, "another disk"));
	server.name[0] = server.name[1] = server.name[2] = NULL;
	node_refused(THREE, BLK_O_RDWR, &err);
	assert_non_null(strstr(err.msg, "nothing proves"));
	blk_close(node_open(THREE ",assume-same=on", BLK_O_RDWR));
}

static void no_path_is_an_error_in_time(void **state)
{
	struct err err = ERR_INIT;
	struct blk *b;

	(void)state;
	serve_anew();
	b = node_open(THREE ",no-path-timeout=1", BLK_O_RDWR);
	node_fill(b, 0, 4096, 7);
	for (unsigned i = 0; i < LANES; i++)
		break_lane(i);
	assert_int_equal(blk_pread(b, 0, (uint8_t[512]){0}, 512), -ENOLINK);
	assert_int_equal(blk_flush(b), -ENOLINK);
	node_refused(THREE, BLK_O_RDWR, &err);
	assert_non_null(strstr(err.msg, "broken"));
	for (unsigned i = 0; i < LANES; i++)
		heal_lane(i);
	wait_up(b, 0);
	node_expect(b, 0, 4096, 7);
	assert_int_equal(blk_close(b), 0);
	assert_int_equal(server.stable[100], 7);
}

static void late_paths_join(void **state)
{
	struct blk *b;

	(void)state;
	serve_anew();
	break_lane(0);
	b = node_open(THREE, BLK_O_RDWR);
	assert_int_equal(server.requests[0], 0);
	heal_lane(0);
	break_lane(1);
	break_lane(2);
	node_fill(b, 0, 4096, 1);
	assert_true(server.requests[0] > 0);
	assert_int_equal(blk_close(b), 0);
}

static void the_better_path_is_used_and_used_again(void **state)
{
	struct blk *b;
	unsigned before;

	(void)state;
	serve_anew();
	b = node_open(THREE ",priority.1=100,failback=immediate", BLK_O_RDWR);
	for (int i = 0; i < 20; i++)
		node_fill(b, 0, 4096, i);
	assert_true(server.requests[1] >= 20);
	assert_true(server.requests[0] < 10 && server.requests[2] < 10);
	break_lane(1);
	for (int i = 0; i < 20; i++)
		node_fill(b, 0, 4096, i);
	assert_int_equal(fact(b, "priority-in-use"), BLK_PATH_OPTIMIZED);
	heal_lane(1);
	wait_up(b, 1);
	before = server.requests[1];
	for (int i = 0; i < 20; i++)
		node_fill(b, 0, 4096, i);
	assert_true(server.requests[1] >= before + 20);
	assert_int_equal(blk_close(b), 0);
}

/* The server was started anew before it came, and of the other paths nobody has asked anything since. */
static void a_path_that_comes_shows_what_was_acknowledged(void **state)
{
	uint8_t bytes[4096], want[4096];
	struct blk *b;

	(void)state;
	serve_anew();
	break_lane(1);
	b = node_open("driver=multipath,path.0=lane:0,path.1=lane:1,path.2=lane:2,"
		      "check-interval=60,priority.1=100,failback=immediate",
		BLK_O_RDWR);
	node_fill(b, 0, 4096, 7);
	restart_server();
	for (unsigned i = 0; i < LANES; i++)
		heal_lane(i);
	wait_up(b, 1);
	memset(want, 7, sizeof(want));
	assert_int_equal(blk_pread(b, 0, bytes, sizeof(bytes)), 0);
	assert_memory_equal(bytes, want, sizeof(bytes));
	assert_int_equal(blk_close(b), 0);
	assert_memory_equal(server.stable, want, sizeof(want));
}

static void *flush_on(void *arg)
{
	return (void *)(intptr_t)blk_flush(arg);
}

/* One is under way when the server is started anew, and another came meanwhile: neither is done before
 * what both cover is stable. */
static void a_flush_does_not_pass_another(void **state)
{
	uint8_t want[4096];
	struct blk *b;
	pthread_t first, second;
	void *ret[2];

	(void)state;
	serve_anew();
	b = node_open(THREE, BLK_O_RDWR);
	node_fill(b, 0, 4096, 7);
	server.slow_flush_ms = 300;
	assert_int_equal(pthread_create(&first, NULL, flush_on, b), 0);
	usleep(100000);
	assert_int_equal(pthread_create(&second, NULL, flush_on, b), 0);
	usleep(100000);
	restart_server();
	for (unsigned i = 0; i < LANES; i++)
		heal_lane(i);
	pthread_join(second, &ret[1]);
	pthread_join(first, &ret[0]);
	assert_null(ret[0]);
	assert_null(ret[1]);
	memset(want, 7, sizeof(want));
	assert_memory_equal(server.stable, want, sizeof(want));
	assert_int_equal(blk_close(b), 0);
}

static void a_standby_path_takes_nothing(void **state)
{
	struct blk *b;

	(void)state;
	serve_anew();
	server.standby[0] = server.standby[1] = true;
	b = node_open(THREE, BLK_O_RDWR);
	for (int i = 0; i < 20; i++)
		node_fill(b, 0, 4096, i);
	assert_true(server.requests[2] >= 20);
	assert_true(server.requests[0] < 10);
	assert_int_equal(blk_close(b), 0);
}

static void an_error_of_one_path_is_tried_on_another(void **state)
{
	uint8_t sector[512];
	struct blk *b;

	(void)state;
	serve_anew();
	b = node_open(THREE, BLK_O_RDWR);
	server.faulty[0] = true;
	for (int i = 0; i < 20; i++) {
		node_fill(b, 0, 4096, i);
		node_expect(b, 0, 4096, i);
	}
	server.faulty[1] = server.faulty[2] = true;
	assert_int_equal(blk_pread(b, 0, sector, sizeof(sector)), -EIO);
	server.faulty[0] = server.faulty[1] = server.faulty[2] = false;
	assert_int_equal(blk_pread(b, 0, sector, sizeof(sector)), 0);
	assert_int_equal(blk_close(b), 0);
}

static void options_are_checked(void **state)
{
	struct err err = ERR_INIT;

	(void)state;
	serve_anew();
	assert_int_equal(node_refused("driver=multipath", 0, &err), -EINVAL);
	assert_int_equal(node_refused(THREE ",selector=luck", 0, &err), -EINVAL);
	assert_int_equal(node_refused(THREE ",check-interval=0", 0, &err), -EINVAL);
	assert_int_equal(node_refused(THREE ",priority.0=1", 0, &err), -EINVAL);
	assert_int_equal(node_refused(THREE ",path.0.nonsense=1", 0, &err), -EINVAL);
	assert_int_equal(node_refused(THREE ",failback=soon", 0, &err), -EINVAL);
}

/* ---- selectors ------------------------------------------------------------------- */

static void selectors_choose(void **state)
{
	struct path p[3] = {{0}};
	struct path_set s = {.path = {&p[0], &p[1], &p[2]}, .n = 3};
	unsigned got[3] = {0};

	(void)state;
	for (unsigned i = 0; i < 3; i++) {
		p[i].priority = BLK_PATH_OPTIMIZED;
		path_set_state(&p[i], PATH_UP, 0);
	}
	for (unsigned i = 0; i < 30; i++)
		got[paths_pick(&s, 4096, 0, 1) - p]++;
	assert_int_equal(got[0], 10);
	assert_int_equal(got[1], 10);
	s.selector = SELECT_QUEUE_LENGTH;
	path_begin(&p[0], 4096);
	path_begin(&p[1], 4096);
	assert_ptr_equal(paths_pick(&s, 4096, 0, 1), &p[2]);
	path_end(&p[0], 4096, 1000);
	path_end(&p[1], 4096, 1000);
	/* The slow one gets the rest. */
	s.selector = SELECT_SERVICE_TIME;
	p[0].ps_per_byte = 1000;
	p[1].ps_per_byte = p[2].ps_per_byte = 100000;
	for (unsigned i = 0; i < 20; i++)
		assert_ptr_equal(paths_pick(&s, 4096, 0, 1), &p[0]);
	for (unsigned i = 0; i < 200; i++)
		path_begin(&p[0], 4096);
	assert_ptr_not_equal(paths_pick(&s, 4096, 0, 1), &p[0]);
}

static void failback_waits(void **state)
{
	struct path p[2] = {{0}};
	struct path_set s = {.path = {&p[0], &p[1]}, .n = 2, .failback_ns = 1000};

	(void)state;
	p[0].priority = BLK_PATH_OPTIMIZED;
	p[1].priority = BLK_PATH_NON_OPTIMIZED;
	path_set_state(&p[1], PATH_UP, 0);
	assert_ptr_equal(paths_pick(&s, 1, 0, 10), &p[1]);
	path_set_state(&p[0], PATH_UP, 100);
	assert_ptr_equal(paths_pick(&s, 1, 0, 200), &p[1]);
	assert_ptr_equal(paths_pick(&s, 1, 0, 1200), &p[0]);
	s.failback_ns = FAILBACK_NEVER;
	path_set_state(&p[0], PATH_FAILED, 1300);
	assert_ptr_equal(paths_pick(&s, 1, 0, 1300), &p[1]);
	path_set_state(&p[0], PATH_UP, 1400);
	assert_ptr_equal(paths_pick(&s, 1, 0, 1 << 30), &p[1]);
	path_set_state(&p[1], PATH_FAILED, 1 << 30);
	assert_ptr_equal(paths_pick(&s, 1, 0, 1 << 30), &p[0]);
	assert_null(paths_pick(&s, 1, 1, 1 << 30));
}

/* Over a path that has none, a write that is to be stable flushes; what is lost then may be more. */
static void a_stable_write_that_fails_loses_no_other(void **state)
{
	uint8_t byte = 8;
	struct blk *b;

	(void)state;
	serve_anew();
	b = node_open(THREE, BLK_O_RDWR);
	node_fill(b, 0, 4096, 7);
	server.loses = true;
	assert_int_equal(blk_pwrite(b, 4096, &byte, 1, BLK_FUA), -ENOSPC);
	assert_int_equal(blk_flush(b), 0);
	assert_int_equal(server.stable[0], 7);
	assert_int_equal(blk_close(b), 0);
}

static void *write_stable(void *arg)
{
	uint8_t byte = 8;

	return (void *)(intptr_t)blk_pwrite(arg, 4096, &byte, 1, BLK_FUA);
}

/* Over a path that has such writes: that one is told what concerns all, later than a flush is told
 * nothing. */
static void a_flush_beside_a_stable_write_is_no_lie(void **state)
{
	struct blk *b;
	pthread_t thread;
	void *ret;

	(void)state;
	serve_anew();
	server.fua = true;
	b = node_open("driver=multipath,path.0=lane:0", BLK_O_RDWR);
	node_fill(b, 0, 4096, 7);
	server.loses = true;
	assert_int_equal(pthread_create(&thread, NULL, write_stable, b), 0);
	while (server.loses)
		usleep(1000);
	assert_int_equal(blk_flush(b), 0);
	assert_int_equal(server.stable[0], 7);
	pthread_join(thread, &ret);
	assert_int_equal((intptr_t)ret, -EIO);
	assert_int_equal(blk_close(b), 0);
}

/* A request that no path survives ends, and the others go on. */
static void what_loses_every_path_ends(void **state)
{
	uint8_t byte = 8;
	struct blk *b;

	(void)state;
	serve_anew();
	b = node_open(THREE ",no-path-timeout=5,doubt=0", BLK_O_RDWR);
	node_fill(b, 0, 4096, 7);
	server.cursed_offset = 4096;
	assert_true(blk_pwrite(b, 4096, &byte, 1, 0) < 0);
	for (unsigned i = 0; i < LANES; i++)
		wait_up(b, i);
	assert_int_equal(blk_pread(b, 0, &byte, 1), 0);
	assert_int_equal(byte, 7);
	assert_int_equal(blk_flush(b), 0);
	assert_int_equal(server.stable[0], 7);
	assert_int_equal(blk_close(b), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(selectors_choose),
		cmocka_unit_test(failback_waits),
		cmocka_unit_test(options_are_checked),
		cmocka_unit_test(other_disks_are_refused),
		cmocka_unit_test(no_path_is_an_error_in_time),
		cmocka_unit_test(late_paths_join),
		cmocka_unit_test(the_better_path_is_used_and_used_again),
		cmocka_unit_test(a_path_that_comes_shows_what_was_acknowledged),
		cmocka_unit_test(a_flush_does_not_pass_another),
		cmocka_unit_test(a_standby_path_takes_nothing),
		cmocka_unit_test(an_error_of_one_path_is_tried_on_another),
		cmocka_unit_test(broken_lanes_are_not_seen),
		cmocka_unit_test(lanes_that_all_break_are_waited_for),
		cmocka_unit_test(a_server_that_forgets_is_told_again),
		cmocka_unit_test(without_a_fence_doubts_are_waited_for),
		cmocka_unit_test(a_stable_write_that_fails_loses_no_other),
		cmocka_unit_test(a_flush_beside_a_stable_write_is_no_lie),
		cmocka_unit_test(what_loses_every_path_ends),
		cmocka_unit_test(every_path_that_took_writes_is_flushed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
