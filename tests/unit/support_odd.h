/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Disks in memory with odd limits, and drivers over them, for tests of the block core
 * with a table of drivers of their own:
 *
 *	odd	protocol ("odd:name" and plain paths): bytes by name; asserts the driver's
 * side of the contract, counts calls, keeps a second copy of what is stable plain
 * format like raw: any file is one fmt	format with a header of one sector that may name a
 * backing file pass	filter
 */
#ifndef BYRE_TESTS_UNIT_SUPPORT_ODD_H
#define BYRE_TESTS_UNIT_SUPPORT_ODD_H

#include <pthread.h>
#include <stdatomic.h>

#include "block/driver.h"
#include "block/format.h"

#define ODD_ROOM (1u << 20)

/* An operation in flight, to see who runs beside whom. */
struct odd_op {
	uint64_t start, end;
	bool write;
	struct odd_op *next;
};

struct odd_disk {
	struct odd_disk *next;
	char name[64];
	/* What opening it gives; set between odd_add and blk_open. */
	struct blk_limits limits;
	unsigned caps;
	bool no_zero;    /* zero says -ENOTSUP */
	bool yields;     /* gives way in the middle of every operation */
	bool no_overlap; /* asserts that nothing that overlaps runs beside a write */
	bool read_only;  /* opening it to write is -EACCES */
	bool busy;       /* opening it to be the only writer is -EAGAIN */
	int fail;        /* -errno of every data call; 0: none */
	int close_ret;

	pthread_mutex_t lock; /* everything below */
	uint64_t size;
	uint8_t bytes[ODD_ROOM], stable[ODD_ROOM];
	struct odd_op *ops;
	unsigned opens; /* now open */
	unsigned flags; /* of the last open or reflag */
	unsigned reads, writes, zeros, unmaps, discards, flushes, fuas, copies;
	uint64_t largest; /* request */
	const void *written; /* where the last write found its bytes */
};

extern const struct blk_driver odd_driver, plain_driver, fmt_driver, pass_driver;

/* A new disk of zeros. It stays until odd_clear. */
struct odd_disk *odd_add(const char *name, uint64_t size);
/* NULL where there is none of that name. */
struct odd_disk *odd_find(const char *name);
/* A new disk that holds an image of `fmt`; empty ones have no data of their own. backing
 * and its format may be NULL. */
struct odd_disk *odd_add_fmt(const char *name, uint64_t size, bool empty,
	const char *backing, const char *backing_format);
/* Forgets all; none may be open. */
void odd_clear(void);

#endif
