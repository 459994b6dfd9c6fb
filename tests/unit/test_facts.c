/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What mounts and sysfs tell: of network and cluster file systems and of disks that this
 * machine does not have, from the texts their kernels write. Then identity and path checks
 * on real files and a real device.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backends/devfacts.h"
#include "backends/fsfacts.h"
#include "base/math.h"
#include "block/storage.h"
#include "tests/unit/support_blk.h"
#include "tests/unit/support_files.h"

/* ---- mounts ---------------------------------------------------------------------- */

#define NFS   0x6969
#define SMB2  0xfe534d42
#define GFS2  0x01161970
#define OCFS2 0x7461636f
#define CEPH  0x00c36400

static void mounts_tell_whose_locks_reach_how_far(void **state)
{
	static const struct {
		uint64_t magic;
		const char *type, *options;
		enum fs_reach reach;
		enum fs_locks locks;
	} rows[] = {
		{NFS, "nfs4",
			"rw,vers=4.2,rsize=262144,hard,proto=tcp,local_lock=none,addr=::"
			"1",
			FS_REACH_NETWORK, FS_LOCKS_ALL_HOSTS},
		{NFS, "nfs", "rw,vers=3,rsize=32768,hard,mountproto=tcp,local_lock=none",
			FS_REACH_NETWORK, FS_LOCKS_ALL_HOSTS},
		{NFS, "nfs", "rw,vers=3,hard,nolock,local_lock=all", FS_REACH_NETWORK,
			FS_LOCKS_THIS_HOST},
		{NFS, "nfs", "rw,vers=3,hard,local_lock=posix", FS_REACH_NETWORK,
			FS_LOCKS_THIS_HOST},
		{NFS, "nfs", "rw,vers=3,hard,local_lock=flock", FS_REACH_NETWORK,
			FS_LOCKS_ALL_HOSTS},
		{NFS, NULL, NULL, FS_REACH_NETWORK, FS_LOCKS_UNKNOWN},
		{SMB2, "cifs", "rw,vers=3.1.1,cache=strict,serverino,mapposix",
			FS_REACH_NETWORK, FS_LOCKS_ALL_HOSTS},
		{SMB2, "cifs", "rw,vers=3.1.1,nobrl,serverino", FS_REACH_NETWORK,
			FS_LOCKS_THIS_HOST},
		{SMB2, "smb3", NULL, FS_REACH_NETWORK, FS_LOCKS_UNKNOWN},
		{GFS2, "gfs2", "rw", FS_REACH_CLUSTER, FS_LOCKS_ALL_HOSTS},
		{GFS2, "gfs2", "rw,localflocks", FS_REACH_CLUSTER, FS_LOCKS_THIS_HOST},
		{GFS2, "gfs2", "rw,lockproto=lock_nolock", FS_REACH_CLUSTER,
			FS_LOCKS_THIS_HOST},
		{OCFS2, "ocfs2", "rw,_netdev,cluster_stack=pcmk,coherency=full",
			FS_REACH_CLUSTER, FS_LOCKS_ALL_HOSTS},
		{OCFS2, "ocfs2", "rw,heartbeat=local", FS_REACH_CLUSTER,
			FS_LOCKS_THIS_HOST},
		{OCFS2, "ocfs2", "rw,cluster_stack=o2cb", FS_REACH_CLUSTER,
			FS_LOCKS_THIS_HOST},
		{CEPH, "ceph", "rw,name=admin,secret=<hidden>,acl", FS_REACH_NETWORK,
			FS_LOCKS_ALL_HOSTS},
		{0xef53, "ext4", "rw,errors=remount-ro", FS_REACH_LOCAL,
			FS_LOCKS_THIS_HOST},
		{0x12345678, "newfs", "rw", FS_REACH_UNKNOWN, FS_LOCKS_UNKNOWN},
	};
	struct fs_facts f;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		fs_facts_of_mount(rows[i].magic, rows[i].type, rows[i].options, &f);
		if (f.reach != rows[i].reach || f.locks != rows[i].locks)
			fail_msg("%s: reach %d locks %d", rows[i].options, f.reach,
				f.locks);
		if (rows[i].type)
			assert_string_equal(f.type, rows[i].type);
	}
}

static void holes_on_nfs_came_with_4_2(void **state)
{
	static const struct {
		const char *options, *version;
		enum fact fact;
	} rows[] = {
		{"rw,vers=3,hard", "3", FACT_NO},
		{"rw,vers=4.0,hard", "4.0", FACT_NO},
		{"rw,vers=4.1,hard", "4.1", FACT_NO},
		{"rw,vers=4.2,hard", "4.2", FACT_UNKNOWN},
		{"rw,hard,mountvers=3", "", FACT_UNKNOWN},
	};
	struct fs_facts f;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		fs_facts_of_mount(NFS, "nfs", rows[i].options, &f);
		assert_string_equal(f.version, rows[i].version);
		assert_int_equal(f.punch_hole, rows[i].fact);
		assert_int_equal(f.reflink, rows[i].fact);
		assert_int_equal(f.sparse, rows[i].fact);
		assert_int_equal(f.direct, FACT_YES);
	}
}

/* ---- sysfs ----------------------------------------------------------------------- */

/* Makes DIR/name, folders included, with this text. */
static void put(const char *dir, const char *name, const char *text)
{
	char path[400];
	FILE *out;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	for (char *p = path + strlen(dir); (p = strchr(p + 1, '/'));) {
		*p = '\0';
		assert_true(mkdir(path, 0755) == 0 || errno == EEXIST);
		*p = '/';
	}
	out = fopen(path, "w");
	assert_non_null(out);
	fprintf(out, "%s\n", text);
	fclose(out);
}

static const char *fake(const char *name)
{
	const char *dir = scratch_path(name);

	assert_int_equal(mkdir(dir, 0755), 0);
	return dir;
}

static void expect_identity(const struct dev_facts *f, const char *wanted)
{
	char *id = NULL;

	assert_int_equal(dev_facts_identity(f, &id), 0);
	assert_string_equal(id, wanted);
	free(id);
}

static void a_scsi_disk_and_its_partition(void **state)
{
	const char *disk = fake("sda");
	struct dev_facts f;
	char part[400];

	(void)state;
	put(disk, "uevent", "MAJOR=8\nMINOR=0\nDEVNAME=sda\nDEVTYPE=disk");
	put(disk, "ro", "0");
	put(disk, "queue/logical_block_size", "512");
	put(disk, "queue/physical_block_size", "4096");
	put(disk, "queue/optimal_io_size", "1048576");
	put(disk, "queue/rotational", "1");
	put(disk, "queue/discard_granularity", "65536");
	put(disk, "queue/discard_max_bytes", "33553920");
	put(disk, "queue/write_zeroes_max_bytes", "0");
	put(disk, "device/scsi_level", "6");
	put(disk, "device/vendor", "LIO-ORG ");
	put(disk, "device/model", "disk one        ");
	put(disk, "device/wwid", "naa.6001405abcdef0123456789abcdef012");
	put(disk, "device/access_state", "active/non-optimized");
	put(disk, "device/preferred_path", "0");
	put(disk, "sda1/partition", "1");
	put(disk, "sda1/ro", "1");

	dev_facts_read(disk, &f);
	assert_string_equal(f.kind, "scsi");
	assert_string_equal(f.vendor, "LIO-ORG");
	assert_string_equal(f.model, "disk one");
	assert_int_equal(f.logical_block, 512);
	assert_int_equal(f.physical_block, 4096);
	assert_int_equal(f.optimal_io, 1048576);
	assert_int_equal(f.discard_granularity, 65536);
	assert_int_equal(f.discard_max, 33553920);
	assert_int_equal(f.zeroes_max, 0);
	assert_true(f.rotational);
	assert_false(f.read_only);
	assert_int_equal(dev_facts_priority(&f), BLK_PATH_NON_OPTIMIZED);
	expect_identity(&f, "naa.6001405abcdef0123456789abcdef012");

	snprintf(part, sizeof(part), "%s/sda1", disk);
	dev_facts_read(part, &f);
	assert_string_equal(f.kind, "scsi");
	assert_int_equal(f.partition, 1);
	assert_true(f.read_only);
	assert_int_equal(f.logical_block, 512);
	expect_identity(&f, "naa.6001405abcdef0123456789abcdef012-part1");
}

static void path_states(void **state)
{
	static const struct {
		const char *access;
		bool preferred;
		unsigned priority;
	} rows[] = {
		{"active/optimized", false, BLK_PATH_OPTIMIZED},
		{"active/optimized", true, BLK_PATH_PREFERRED},
		{"active/non-optimized", false, BLK_PATH_NON_OPTIMIZED},
		{"standby", false, BLK_PATH_STANDBY},
		{"standby", true, BLK_PATH_STANDBY},
		{"unavailable", false, BLK_PATH_UNAVAILABLE},
		{"transitioning", true, BLK_PATH_UNAVAILABLE},
		{"", false, BLK_PATH_OPTIMIZED},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct dev_facts f = {.preferred = rows[i].preferred};

		snprintf(f.access, sizeof(f.access), "%s", rows[i].access);
		assert_int_equal(dev_facts_priority(&f), rows[i].priority);
	}
}

static void device_mapper_by_its_uuid(void **state)
{
	static const struct {
		const char *name, *uuid, *kind, *identity;
		unsigned partition, paths;
	} rows[] = {
		{"dm-0", "mpath-36001405abcdef0123456789abcdef012", "multipath",
			"naa.6001405abcdef0123456789abcdef012", 0, 2},
		{"dm-1", "part2-mpath-36001405abcdef0123456789abcdef012", "multipath",
			"naa.6001405abcdef0123456789abcdef012-part2", 2, 0},
		{"dm-2", "mpath-SATA_DISK_0001", "multipath", "mpath-SATA_DISK_0001", 0,
			2},
		{"dm-3", "LVM-aB3xaB3xaB3xaB3xaB3xaB3xaB3xaB3xdE4y", "lvm",
			"LVM-aB3xaB3xaB3xaB3xaB3xaB3xaB3xaB3xdE4y", 0, 0},
		{"dm-4", "CRYPT-LUKS2-0011-name", "crypt", NULL, 0, 0},
		{"dm-5", "", "device-mapper", NULL, 0, 0},
	};
	struct dev_facts f;
	char *id;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		const char *dir = fake(rows[i].name);

		put(dir, "dm/uuid", rows[i].uuid);
		put(dir, "slaves/sda", "");
		put(dir, "slaves/sdb", "");
		dev_facts_read(dir, &f);
		assert_string_equal(f.kind, rows[i].kind);
		assert_int_equal(f.partition, rows[i].partition);
		assert_int_equal(f.paths, rows[i].paths);
		if (rows[i].identity)
			expect_identity(&f, rows[i].identity);
		else
			assert_int_equal(dev_facts_identity(&f, &id), -ENOTSUP);
	}
}

static void nvme_and_others(void **state)
{
	const char *nvme = fake("nvme0n1"), *vd = fake("vda"), *md = fake("md0");
	struct dev_facts f;
	char *id;

	(void)state;
	put(nvme, "uevent", "MAJOR=259\nDEVNAME=nvme0n1");
	put(nvme, "wwid", "eui.0025385b71b0a2c3");
	put(nvme, "device/model", "Solid One");
	dev_facts_read(nvme, &f);
	assert_string_equal(f.kind, "nvme");
	assert_string_equal(f.model, "Solid One");
	expect_identity(&f, "eui.0025385b71b0a2c3");

	put(vd, "uevent", "DEVNAME=vda");
	dev_facts_read(vd, &f);
	assert_string_equal(f.kind, "virtio");
	assert_int_equal(dev_facts_identity(&f, &id), -ENOTSUP);
	put(md, "md/level", "raid1");
	dev_facts_read(md, &f);
	assert_string_equal(f.kind, "raid");
	dev_facts_read("/nowhere", &f);
	assert_string_equal(f.kind, "disk");
}

/* ---- real ones ------------------------------------------------------------------- */

static void a_file_is_the_same_by_whichever_name(void **state)
{
	const char *path = scratch_file("one", 1 << 20), *other = scratch_path("two");
	char text[500], *a = NULL, *b = NULL;
	struct fs_facts facts;
	unsigned priority = 0;
	struct blk *x, *y;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	(void)state;
	fs_facts_of_file(fd, &facts);
	close(fd);
	assert_int_equal(link(path, other), 0);
	snprintf(text, sizeof(text), "driver=file,filename=%s", path);
	x = node_open(text, 0);
	snprintf(text, sizeof(text), "driver=file,filename=%s", other);
	y = node_open(text, 0);
	if (facts.reach == FS_REACH_LOCAL) {
		assert_int_equal(blk_identity(x, &a), 0);
		assert_int_equal(blk_identity(y, &b), 0);
		assert_string_equal(a, b);
		assert_int_equal(strncmp(a, "file:", 5), 0);
	} else {
		assert_int_equal(blk_identity(x, &a), -ENOTSUP);
	}
	assert_int_equal(blk_check_path(x, &priority), 0);
	assert_int_equal(priority, BLK_PATH_OPTIMIZED);
	assert_int_equal(blk_fence(x), -ENOTSUP);
	free(a);
	free(b);
	blk_close(x);
	blk_close(y);
}

/* The page cache holds what is read: only a look past it finds that the device is gone. */
static void a_path_check_reaches_the_device(void **state)
{
	const char *path = scratch_file("disk", 1 << 20), *dev;
	char text[500], buf[4096], *id;
	unsigned priority;
	struct blk *b;
	int fd;

	(void)state;
	dev = loop_device(path, 4096, &fd);
	if (!dev)
		skip();
	for (int direct = 0; direct < 2; direct++) {
		snprintf(text, sizeof(text), "driver=host_device,filename=%s", dev);
		b = node_open(text, direct ? BLK_O_DIRECT : 0);
		priority = 0;
		assert_int_equal(blk_check_path(b, &priority), 0);
		assert_int_equal(priority, BLK_PATH_OPTIMIZED);
		assert_int_equal(blk_check_path(b, &priority), 0);
		assert_int_equal(blk_identity(b, &id), -ENOTSUP);
		blk_close(b);
	}
	b = node_open(text, 0);
	assert_int_equal(blk_pread(b, 0, buf, sizeof(buf)), 0);
	assert_int_equal(truncate(path, 0), 0);
	assert_int_equal(blk_pread(b, 0, buf, sizeof(buf)), 0);
	assert_true(blk_check_path(b, &priority) < 0);
	blk_close(b);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(mounts_tell_whose_locks_reach_how_far),
		cmocka_unit_test(holes_on_nfs_came_with_4_2),
		cmocka_unit_test(a_scsi_disk_and_its_partition),
		cmocka_unit_test(path_states),
		cmocka_unit_test(device_mapper_by_its_uuid),
		cmocka_unit_test(nvme_and_others),
		cmocka_unit_test(a_file_is_the_same_by_whichever_name),
		cmocka_unit_test(a_path_check_reaches_the_device),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
