/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Persistent reservations of a guest, down to a LUN that is a model of SPC-4's rules for "write
 * exclusive, registrants only": by one path, and by several which are lost and come back, with
 * another host that has a path of its own.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/endian.h"
#include "base/iov.h"
#include "base/json.h"
#include "base/math.h"
#include "base/opts.h"
#include "block/driver.h"
#include "block/storage.h"
#include "vmm/scsi_disk.h"

#define DISK_BYTES       (1 * MiB)
#define NEXUSES          4
#define STRANGER         3 /* another host's path */
#define REGISTRANTS_ONLY 5
#define EXCLUSIVE        3

/* ---- the LUN --------------------------------------------------------------------- */

static struct {
	pthread_mutex_t lock;
	bool broken[NEXUSES];
	uint64_t key[NEXUSES]; /* 0: not registered */
	bool held;
	unsigned holder; /* nexus */
	unsigned type;
	bool has_none, reserves_itself;
	unsigned writes;   /* that were not refused */
	bool drops_answer; /* the next command is done, and its path breaks */
} lun = {.lock = PTHREAD_MUTEX_INITIALIZER};

struct node {
	unsigned nexus;
};

static unsigned nexus_of(const struct blk *b)
{
	return ((struct node *)b->state)->nexus;
}

static int lun_open(struct blk *b, struct opts *opts, struct err *err)
{
	const char *name = opts_take(opts, "filename");
	struct node *n = b->state;

	n->nexus = name ? (unsigned)strtoul(name, NULL, 10) : 0;
	assert_true(n->nexus < NEXUSES);
	b->size = lun.broken[n->nexus] ? 0 : DISK_BYTES;
	return b->size ? 0 : err_set(err, ENOLINK, "nexus %u is broken", n->nexus);
}

/* lun.lock is taken. */
static int arrive(const struct blk *b)
{
	pthread_mutex_lock(&lun.lock);
	return lun.broken[nexus_of(b)] ? -ENOLINK : 0;
}

static int leave(int ret)
{
	pthread_mutex_unlock(&lun.lock);
	return ret;
}

static int lun_preadv(
	struct blk *b, uint64_t offset, uint64_t bytes, const struct iovec *iov, int niov)
{
	static const uint8_t zeros[DISK_BYTES];
	int ret = arrive(b);

	(void)offset;
	iov_from_buf(iov, niov, 0, zeros, bytes);
	return leave(ret);
}

static int lun_pwritev(struct blk *b, uint64_t offset, uint64_t bytes,
	const struct iovec *iov, int niov, unsigned flags)
{
	int ret = arrive(b);

	(void)offset;
	(void)bytes;
	(void)iov;
	(void)niov;
	(void)flags;
	if (ret == 0 && lun.held && !lun.key[nexus_of(b)])
		ret = -EBADE;
	lun.writes += ret == 0;
	return leave(ret);
}

static int lun_flush(struct blk *b)
{
	return leave(arrive(b));
}

static void release(void)
{
	lun.held = false;
}

static void unregister(unsigned nexus)
{
	if (lun.held && lun.holder == nexus)
		release();
	lun.key[nexus] = 0;
}

static void preempt(unsigned nexus, uint64_t victim, unsigned type)
{
	bool held_by_victim = lun.held && lun.key[lun.holder] == victim;

	for (unsigned i = 0; i < NEXUSES; i++)
		if (i != nexus && lun.key[i] == victim)
			lun.key[i] = 0;
	if (held_by_victim) {
		lun.held = true;
		lun.holder = nexus;
		lun.type = type;
	}
}

static int do_register(unsigned nexus, uint64_t to)
{
	if (to)
		lun.key[nexus] = to;
	else
		unregister(nexus);
	return 0;
}

static int tell(unsigned nexus, const struct blk_pr *pr)
{
	uint64_t key = be64_load(pr->out), to = be64_load(pr->out + 8);

	if (pr->action == BLK_PR_REGISTER_IGNORING)
		return do_register(nexus, to);
	if (key != lun.key[nexus])
		return -EBADE;
	if (pr->action == BLK_PR_REGISTER)
		return do_register(nexus, to);
	if (!key)
		return -EBADE;
	switch (pr->action) {
	case BLK_PR_RESERVE:
		if (lun.held)
			return lun.holder == nexus ? 0 : -EBADE;
		lun.held = true;
		lun.holder = nexus;
		lun.type = pr->scope_type;
		return 0;
	case BLK_PR_RELEASE:
		if (lun.held && lun.holder == nexus)
			release();
		return 0;
	case BLK_PR_CLEAR:
		release();
		memset(lun.key, 0, sizeof(lun.key));
		return 0;
	case BLK_PR_PREEMPT:
	case BLK_PR_PREEMPT_AND_ABORT:
		preempt(nexus, to, pr->scope_type);
		return 0;
	default:
		return -ENOTSUP;
	}
}

static int ask(struct blk_pr *pr)
{
	uint8_t p[8 + 8 * NEXUSES] = {0};
	size_t n = 8;

	if (pr->action == 0) {
		for (unsigned i = 0; i < NEXUSES; i++)
			if (lun.key[i]) {
				be64_store(p + n, lun.key[i]);
				n += 8;
			}
	} else if (pr->action == 1 && lun.held) {
		be64_store(p + 8, lun.key[lun.holder]);
		p[21] = (uint8_t)lun.type;
		n = 24;
	} else if (pr->action != 1) {
		return -ENOTSUP;
	}
	be32_store(p + 4, (uint32_t)n - 8);
	pr->got = MIN(n, pr->in_bytes);
	memcpy(pr->in, p, pr->got);
	return 0;
}

static int lun_pr(struct blk *b, struct blk_pr *pr)
{
	int ret = arrive(b);

	if (ret == 0)
		ret = pr->out ? tell(nexus_of(b), pr) : ask(pr);
	if (ret == 0 && lun.drops_answer) {
		lun.drops_answer = false;
		lun.broken[nexus_of(b)] = true;
		ret = -ENOLINK;
	}
	return leave(ret);
}

static int lun_pr_begin(struct blk *b, struct err *err)
{
	if (lun.reserves_itself)
		return err_set(err, EBUSY, "%s: is reserved", blk_filename(b));
	return lun.has_none ? err_set(err, ENOTSUP, "none") : 0;
}

static int lun_identity(struct blk *b, char **out)
{
	(void)b;
	*out = strdup("one");
	return 0;
}

static int lun_check(struct blk *b, unsigned *priority)
{
	*priority = BLK_PATH_OPTIMIZED;
	return leave(arrive(b));
}

static const struct blk_storage_ops lun_storage = {
	.identity = lun_identity,
	.check_path = lun_check,
	.pr_begin = lun_pr_begin,
	.pr = lun_pr,
};

static const struct blk_driver lun_driver = {
	.name = "lun",
	.kind = BLK_PROTOCOL,
	.schemes = (const char *const[]){"lun", NULL},
	.state_bytes = sizeof(struct node),
	.open = lun_open,
	.preadv = lun_preadv,
	.pwritev = lun_pwritev,
	.flush = lun_flush,
	.storage = &lun_storage,
};

extern const struct blk_driver blk_multipath_driver, blk_raw_driver;
const struct blk_driver *const blk_drivers[] = {
	&blk_multipath_driver, &blk_raw_driver, &lun_driver, NULL};

static void break_nexus(unsigned nexus, bool broken)
{
	pthread_mutex_lock(&lun.lock);
	lun.broken[nexus] = broken;
	pthread_mutex_unlock(&lun.lock);
}

static uint64_t key_of(unsigned nexus)
{
	uint64_t key;

	pthread_mutex_lock(&lun.lock);
	key = lun.key[nexus];
	pthread_mutex_unlock(&lun.lock);
	return key;
}

/* ---- the guest ------------------------------------------------------------------- */

#define BAD_OPCODE  0x52000u
#define BAD_CDB     0x52400u
#define LIST_LENGTH 0x51a00u
#define WRITE_ERROR 0x30c00u
#define FAILURE     0x44400u
#define CONFLICT    0x18u

#define ONE_PATH "driver=raw,file.driver=lun,file.filename=0"
#define MANY_PATHS                                                                       \
	"driver=raw,file.driver=multipath,file.path.0=lun:0,file.path.1=lun:1,"          \
	"file.path.2=lun:2,file.check-interval=1,file.doubt=0"

static struct vm vm;
static struct blk *node;
static struct disk *disk;
static struct scsi_disk unit;
static uint8_t data[4096];

static int open_disk(const char *what, bool reservations)
{
	struct disk_options o = {.reservations = reservations};
	struct opts *opts = opts_new();
	struct err err = ERR_INIT;
	int ret;

	assert_int_equal(opts_parse(opts, what, NULL, &err), 0);
	node = o.blk = blk_open(NULL, opts, BLK_O_RDWR, &err);
	opts_free(opts);
	if (!node)
		fprintf(stderr, "%s\n", err.msg);
	assert_non_null(node);
	ret = disk_new(&vm, &o, &disk, &err);
	if (ret) {
		blk_close(node);
		return ret;
	}
	scsi_disk_init(&unit, disk);
	scsi_disk_execute(
		&unit, &(struct scsi_request){.cdb = (const uint8_t[SCSI_CDB_BYTES]){0}});
	return 0;
}

static void close_disk(void)
{
	disk->device.ops->free(&disk->device);
	assert_int_equal(blk_close(node), 0);
}

/* 0, what the sense data says, or CONFLICT. */
static unsigned run_cdb(const uint8_t *cdb, uint64_t out, uint64_t in)
{
	struct iovec out_iov = {data, out}, in_iov = {data, in};
	struct scsi_request r = {.cdb = cdb,
		.out = &out_iov,
		.in = &in_iov,
		.n_out = 1,
		.n_in = 1,
		.out_bytes = out,
		.in_bytes = in};

	assert_int_equal(scsi_disk_execute(&unit, &r), 0);
	if (r.status != SCSI_CHECK_CONDITION)
		return r.status;
	return (unsigned)r.sense[2] << 16 | be16_load(r.sense + 12);
}

#define RUN(out, in, ...) run_cdb((const uint8_t[SCSI_CDB_BYTES]){__VA_ARGS__}, out, in)

static unsigned out(unsigned action, unsigned type, uint64_t key, uint64_t to)
{
	memset(data, 0, BLK_PR_OUT_BYTES);
	be64_store(data, key);
	be64_store(data + 8, to);
	return RUN(24, 0, 0x5f, (uint8_t)action, (uint8_t)type, 0, 0, 0, 0, 0, 24);
}

static unsigned write_block(void)
{
	return RUN(512, 0, 0x2a, 0, 0, 0, 0, 0, 0, 0, 1);
}

/* Another host does it. */
static int stranger(unsigned action, unsigned type, uint64_t key, uint64_t to)
{
	uint8_t list[BLK_PR_OUT_BYTES] = {0};
	struct blk_pr pr = {
		.action = (uint8_t)action, .scope_type = (uint8_t)type, .out = list};
	int ret;

	be64_store(list, key);
	be64_store(list + 8, to);
	pthread_mutex_lock(&lun.lock);
	ret = tell(STRANGER, &pr);
	pthread_mutex_unlock(&lun.lock);
	return ret;
}

static int make(void **state)
{
	(void)state;
	memset(&vm, 0, sizeof(vm));
	pthread_mutex_init(&vm.lock, NULL);
	pthread_cond_init(&vm.changed, NULL);
	memset(lun.broken, 0, sizeof(lun.broken));
	memset(lun.key, 0, sizeof(lun.key));
	lun.held = lun.has_none = lun.reserves_itself = lun.drops_answer = false;
	return 0;
}

/* ---- by one path ----------------------------------------------------------------- */

static void without_the_option_there_are_none(void **state)
{
	(void)state;
	assert_int_equal(open_disk(ONE_PATH, false), 0);
	assert_int_equal(RUN(0, 512, 0x5e, 0, 0, 0, 0, 0, 0, 2, 0), BAD_OPCODE);
	assert_int_equal(out(BLK_PR_REGISTER, 0, 0, 1), BAD_OPCODE);
	assert_int_equal(key_of(0), 0);
	close_disk();
}

static void what_has_none_is_refused(void **state)
{
	(void)state;
	assert_int_equal(open_disk(ONE_PATH ",size=512k", true), -ENOTSUP);
	lun.has_none = true;
	assert_int_equal(open_disk(ONE_PATH, true), -ENOTSUP);
	lun.has_none = false;
	lun.reserves_itself = true;
	assert_int_equal(open_disk(ONE_PATH, true), -EBUSY);
	assert_int_equal(open_disk(MANY_PATHS, true), -EBUSY);
}

static void a_guest_reserves(void **state)
{
	(void)state;
	assert_int_equal(open_disk(ONE_PATH, true), 0);
	assert_int_equal(out(BLK_PR_RESERVE, REGISTRANTS_ONLY, 1, 0), CONFLICT);
	assert_int_equal(out(BLK_PR_REGISTER, 0, 0, 0x11), 0);
	assert_int_equal(out(BLK_PR_RESERVE, REGISTRANTS_ONLY, 0x11, 0), 0);
	assert_int_equal(write_block(), 0);

	assert_int_equal(RUN(0, 512, 0x5e, 0, 0, 0, 0, 0, 0, 2, 0), 0);
	assert_int_equal(be32_load(data + 4), 8);
	assert_int_equal(be64_load(data + 8), 0x11);
	assert_int_equal(RUN(0, 512, 0x5e, 1, 0, 0, 0, 0, 0, 2, 0), 0);
	assert_int_equal(be64_load(data + 8), 0x11);
	assert_int_equal(data[21], REGISTRANTS_ONLY);
	/* As much as there is room for. */
	memset(data, 0xee, sizeof(data));
	assert_int_equal(RUN(0, 512, 0x5e, 0, 0, 0, 0, 0, 0, 0, 4), 0);
	assert_int_equal(data[4], 0xee);
	assert_int_equal(RUN(0, 0, 0x5e), 0);

	assert_int_equal(out(BLK_PR_RELEASE, REGISTRANTS_ONLY, 0x11, 0), 0);
	assert_int_equal(out(BLK_PR_REGISTER, 0, 0x11, 0), 0);
	assert_false(lun.held);
	assert_int_equal(key_of(0), 0);
	close_disk();
}

/* And is a member again when it registers anew; the machine is not stopped by it. */
static void a_fenced_guest_is_told(void **state)
{
	(void)state;
	assert_int_equal(open_disk(ONE_PATH, true), 0);
	assert_int_equal(out(BLK_PR_REGISTER, 0, 0, 0x11), 0);
	assert_int_equal(out(BLK_PR_RESERVE, REGISTRANTS_ONLY, 0x11, 0), 0);
	disk->policy[0] = disk->policy[1] = DISK_STOP;
	assert_int_equal(stranger(BLK_PR_REGISTER, 0, 0, 0x33), 0);
	assert_int_equal(stranger(BLK_PR_PREEMPT, REGISTRANTS_ONLY, 0x33, 0x11), 0);
	assert_int_equal(write_block(), CONFLICT);
	assert_int_equal(out(BLK_PR_REGISTER, 0, 0x11, 0x12), CONFLICT);
	assert_int_equal(out(BLK_PR_REGISTER_IGNORING, 0, 0, 0x12), 0);
	assert_int_equal(write_block(), 0);
	close_disk();
}

static void nonsense_is_refused(void **state)
{
	(void)state;
	assert_int_equal(open_disk(ONE_PATH, true), 0);
	assert_int_equal(out(BLK_PR_REGISTER, 0, 0, 0x11), 0);
	assert_int_equal(out(7, 0, 0x11, 0x12), BAD_CDB);
	assert_int_equal(out(31, 0, 0x11, 0x12), BAD_CDB);
	assert_int_equal(RUN(24, 0, 0x5f, 0, 0, 0, 0, 0, 0, 0, 23), LIST_LENGTH);
	assert_int_equal(
		RUN(24, 0, 0x5f, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff), LIST_LENGTH);
	assert_int_equal(RUN(23, 0, 0x5f, 0, 0, 0, 0, 0, 0, 0, 24), LIST_LENGTH);
	assert_int_equal(RUN(0, 512, 0x5e, 9, 0, 0, 0, 0, 0, 2, 0), BAD_CDB);
	assert_int_equal(key_of(0), 0x11);
	close_disk();
}

/* ---- by several ------------------------------------------------------------------ */

static bool is_state(unsigned lane, const char *wanted)
{
	struct json *facts = blk_describe(node->file);
	const struct json *path = json_array_at(json_get(facts, "paths"), lane);
	bool is = !strcmp(json_string_of(json_get(path, "state")), wanted);

	json_free(facts);
	return is;
}

/* Ten seconds at most. */
static void wait_for(unsigned lane, const char *wanted)
{
	for (unsigned i = 0; i < 200 && !is_state(lane, wanted); i++)
		usleep(50000);
	assert_true(is_state(lane, wanted));
}

static void open_many(void)
{
	assert_int_equal(open_disk(MANY_PATHS, true), 0);
	for (unsigned i = 0; i < 3; i++)
		wait_for(i, "up");
}

static void all_paths_are_registered(void **state)
{
	(void)state;
	open_many();
	assert_int_equal(out(BLK_PR_REGISTER, 0, 0, 0x11), 0);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(key_of(i), 0x11);
	assert_int_equal(out(BLK_PR_RESERVE, REGISTRANTS_ONLY, 0x11, 0), 0);
	for (unsigned i = 0; i < 9; i++)
		assert_int_equal(write_block(), 0);
	/* Whichever has it. */
	assert_int_equal(out(BLK_PR_RELEASE, REGISTRANTS_ONLY, 0x11, 0), 0);
	assert_false(lun.held);
	assert_int_equal(out(BLK_PR_RESERVE, EXCLUSIVE, 0x11, 0), BAD_CDB);
	assert_int_equal(out(BLK_PR_REGISTER, 0, 0x11, 0), 0);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(key_of(i), 0);
	close_disk();
}

static void a_path_that_comes_back_follows(void **state)
{
	(void)state;
	open_many();
	break_nexus(1, true);
	wait_for(1, "failed");
	assert_int_equal(out(BLK_PR_REGISTER, 0, 0, 0x11), 0);
	assert_int_equal(out(BLK_PR_RESERVE, REGISTRANTS_ONLY, 0x11, 0), 0);
	assert_int_equal(key_of(1), 0);
	break_nexus(1, false);
	wait_for(1, "up");
	assert_int_equal(key_of(1), 0x11);
	/* It missed that the guest has gone. */
	break_nexus(1, true);
	wait_for(1, "failed");
	assert_int_equal(out(BLK_PR_REGISTER, 0, 0x11, 0), 0);
	assert_int_equal(key_of(1), 0x11);
	break_nexus(1, false);
	wait_for(1, "up");
	assert_int_equal(key_of(1), 0);
	close_disk();
}

/* Breaking it while it is asked, where nobody has noticed yet. */
static void a_path_that_is_lost_meanwhile_follows(void **state)
{
	(void)state;
	open_many();
	break_nexus(2, true);
	assert_int_equal(out(BLK_PR_REGISTER, 0, 0, 0x11), 0);
	assert_int_equal(key_of(0), 0x11);
	break_nexus(2, false);
	wait_for(2, "up");
	assert_int_equal(key_of(2), 0x11);
	close_disk();
}

/* Done or not, that is an error; done twice it would be a conflict, which says that it was not. */
static void what_cannot_be_done_twice_is_not(void **state)
{
	(void)state;
	open_many();
	assert_int_equal(out(BLK_PR_REGISTER, 0, 0, 0x11), 0);
	assert_int_equal(out(BLK_PR_RESERVE, REGISTRANTS_ONLY, 0x11, 0), 0);
	lun.drops_answer = true;
	assert_int_equal(out(BLK_PR_CLEAR, 0, 0x11, 0), FAILURE);
	assert_false(lun.held);
	assert_int_equal(out(BLK_PR_REGISTER, 0, 0, 0x11), 0);
	close_disk();
}

/* One of them holds it, and the guest knows of one. */
static void the_holder_reserves_by_any_path(void **state)
{
	(void)state;
	open_many();
	assert_int_equal(out(BLK_PR_REGISTER, 0, 0, 0x11), 0);
	lun.drops_answer = true;
	assert_int_equal(out(BLK_PR_RESERVE, REGISTRANTS_ONLY, 0x11, 0), 0);
	assert_true(lun.held);
	for (unsigned i = 0; i < 6; i++)
		assert_int_equal(out(BLK_PR_RESERVE, REGISTRANTS_ONLY, 0x11, 0), 0);
	assert_int_equal(stranger(BLK_PR_REGISTER, 0, 0, 0x33), 0);
	assert_int_equal(stranger(BLK_PR_PREEMPT, REGISTRANTS_ONLY, 0x33, 0x11), 0);
	assert_int_equal(out(BLK_PR_REGISTER, 0, 0, 0x11), 0);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(
			out(BLK_PR_RESERVE, REGISTRANTS_ONLY, 0x11, 0), CONFLICT);
	close_disk();
}

/* The path that holds it is away, and the others cannot release it. */
static void what_is_not_released_is_an_error(void **state)
{
	unsigned holder;

	(void)state;
	open_many();
	assert_int_equal(out(BLK_PR_REGISTER, 0, 0, 0x11), 0);
	assert_int_equal(out(BLK_PR_RESERVE, REGISTRANTS_ONLY, 0x11, 0), 0);
	holder = lun.holder;
	break_nexus(holder, true);
	wait_for(holder, "failed");
	assert_int_equal(out(BLK_PR_RELEASE, REGISTRANTS_ONLY, 0x11, 0), WRITE_ERROR);
	break_nexus(holder, false);
	wait_for(holder, "up");
	assert_int_equal(out(BLK_PR_RELEASE, REGISTRANTS_ONLY, 0x11, 0), 0);
	assert_false(lun.held);
	close_disk();
}

static unsigned flush_disk(void)
{
	return RUN(0, 0, 0x35);
}

/* A conflict is the answer to one request. What was written before the fence is not written again over
 * what others may have written since. */
static void a_guest_that_is_let_in_again_can_flush(void **state)
{
	(void)state;
	open_many();
	assert_int_equal(out(BLK_PR_REGISTER, 0, 0, 0x11), 0);
	assert_int_equal(out(BLK_PR_RESERVE, REGISTRANTS_ONLY, 0x11, 0), 0);
	assert_int_equal(write_block(), 0);
	assert_int_equal(stranger(BLK_PR_REGISTER, 0, 0, 0x33), 0);
	assert_int_equal(stranger(BLK_PR_PREEMPT, REGISTRANTS_ONLY, 0x33, 0x11), 0);
	/* The copies are refused, which the next flush says. */
	break_nexus(1, true);
	wait_for(1, "failed");
	assert_int_equal(flush_disk(), CONFLICT);
	assert_int_equal(out(BLK_PR_REGISTER, 0, 0, 0x12), 0);
	lun.writes = 0;
	assert_int_equal(flush_disk(), 0);
	break_nexus(1, false);
	wait_for(1, "up");
	assert_int_equal(flush_disk(), 0);
	assert_int_equal(lun.writes, 0);
	assert_int_equal(write_block(), 0);
	assert_int_equal(flush_disk(), 0);
	close_disk();
}

static void a_path_that_comes_back_undoes_no_fence(void **state)
{
	(void)state;
	open_many();
	assert_int_equal(out(BLK_PR_REGISTER, 0, 0, 0x11), 0);
	assert_int_equal(out(BLK_PR_RESERVE, REGISTRANTS_ONLY, 0x11, 0), 0);
	break_nexus(1, true);
	wait_for(1, "failed");
	assert_int_equal(stranger(BLK_PR_REGISTER, 0, 0, 0x33), 0);
	assert_int_equal(stranger(BLK_PR_PREEMPT, REGISTRANTS_ONLY, 0x33, 0x11), 0);
	break_nexus(1, false);
	wait_for(1, "up");
	assert_int_equal(key_of(1), 0);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(write_block(), CONFLICT);
	/* Not for good. */
	assert_int_equal(out(BLK_PR_REGISTER, 0, 0, 0x12), 0);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(write_block(), 0);
	close_disk();
}

#define TEST(name) cmocka_unit_test_setup(name, make)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(without_the_option_there_are_none),
		TEST(what_has_none_is_refused),
		TEST(a_guest_reserves),
		TEST(a_fenced_guest_is_told),
		TEST(nonsense_is_refused),
		TEST(all_paths_are_registered),
		TEST(a_path_that_comes_back_follows),
		TEST(a_path_that_is_lost_meanwhile_follows),
		TEST(what_cannot_be_done_twice_is_not),
		TEST(the_holder_reserves_by_any_path),
		TEST(what_is_not_released_is_an_error),
		TEST(a_guest_that_is_let_in_again_can_flush),
		TEST(a_path_that_comes_back_undoes_no_fence),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
