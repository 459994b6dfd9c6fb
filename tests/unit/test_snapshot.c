/* SPDX-License-Identifier: BSD-2-Clause */
/* Snapshots of a machine, as far as they are its disks': deleting them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>

#include "base/math.h"
#include "block/format.h"
#include "tests/unit/support_bare.h"
#include "tests/unit/support_files.h"
#include "vmm/disk.h"
#include "vmm/snapshot.h"

#define DISKS 3

static struct machine {
	struct vm vm;
	struct disk *disk[DISKS];
	struct blk *blk[DISKS];
} m;

static void add_disk(unsigned i, const char *format)
{
	struct opts *o = opts_new();
	struct err err = ERR_INIT;
	char id[8], name[16];

	snprintf(id, sizeof(id), "d%u", i);
	snprintf(name, sizeof(name), "%s.img", id);
	opts_set(o, "size", "1M");
	assert_int_equal(blk_create(scratch_path(name), format, o, &err), 0);
	opts_free(o);
	m.blk[i] = blk_open_format(scratch_path(name), format, BLK_O_RDWR, &err);
	assert_non_null(m.blk[i]);
	assert_int_equal(
		disk_new(&m.vm, &(struct disk_options){.id = id, .blk = m.blk[i]},
			&m.disk[i], &err),
		0);
}

static int make(void **state)
{
	(void)state;
	bare_make(&m.vm, 16 * MiB);
	add_disk(0, "qcow2");
	add_disk(1, "raw");
	add_disk(2, "qcow2");
	return 0;
}

static int unmake(void **state)
{
	(void)state;
	vm_free(&m.vm);
	for (unsigned i = 0; i < DISKS; i++)
		assert_int_equal(blk_close(m.blk[i]), 0);
	return 0;
}

static size_t snapshots_of(unsigned i)
{
	struct blk_snapshot *list;
	struct err err = ERR_INIT;
	size_t n;

	assert_int_equal(blk_snapshot_list(m.blk[i], &list, &n, &err), 0);
	blk_snapshots_free(list, n);
	return n;
}

static void a_name_is_deleted_wherever_it_is(void **state)
{
	struct err err = ERR_INIT;

	(void)state;
	assert_int_equal(blk_snapshot_create(m.blk[2], "half", &err), 0);
	assert_int_equal(snapshot_delete(&m.vm, "half", &err), 0);
	assert_int_equal(snapshots_of(2), 0);
	assert_int_equal(blk_snapshot_create(m.blk[0], "whole", &err), 0);
	assert_int_equal(blk_snapshot_create(m.blk[2], "other", &err), 0);
	assert_int_equal(blk_snapshot_create(m.blk[2], "whole", &err), 0);
	assert_int_equal(snapshot_delete(&m.vm, "whole", &err), 0);
	assert_int_equal(snapshots_of(0), 0);
	assert_int_equal(snapshots_of(2), 1);
	assert_int_equal(snapshot_delete(&m.vm, "whole", &err), -ENOENT);
	assert_string_equal(err.msg, "no disk has a snapshot 'whole'");
}

static void a_name_that_is_anothers_id_is_no_id(void **state)
{
	struct err err = ERR_INIT;

	(void)state;
	assert_int_equal(blk_snapshot_create(m.blk[0], "before", &err), 0);
	assert_int_equal(blk_snapshot_create(m.blk[2], "1", &err), 0);
	assert_int_equal(snapshot_delete(&m.vm, "1", &err), 0);
	assert_int_equal(snapshots_of(0), 1);
	assert_int_equal(snapshots_of(2), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(
			a_name_is_deleted_wherever_it_is, make, unmake),
		cmocka_unit_test_setup_teardown(
			a_name_that_is_anothers_id_is_no_id, make, unmake),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
