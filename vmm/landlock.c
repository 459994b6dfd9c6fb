/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Landlock. See landlock.h.
 *
 * The interface grew by versions, and a kernel refuses rights that it does not know; the
 * system's header may be older than the kernel. So rights are written down here, by the
 * version they came with, and masked by what the kernel has.
 */
#include "vmm/landlock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <linux/landlock.h>

#include "base/math.h"
#include "block/driver.h"

/* Rights to files that came later than version 1, and what else there is by now. */
#define REFER          (1ull << 13) /* version 2 */
#define TRUNCATE       (1ull << 14) /* 3 */
#define IOCTL_DEV      (1ull << 15) /* 5 */
#define ALL_OF_1       (REFER - 1)
#define NET_BIND       (1ull << 0) /* 4 */
#define NET_CONNECT    (1ull << 1)
#define SCOPE_ABSTRACT (1ull << 0) /* 6: Unix sockets without a file */

#define READ (LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR)
#define WRITE                                                                            \
	(LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_MAKE_REG |                   \
		LANDLOCK_ACCESS_FS_REMOVE_FILE | TRUNCATE | IOCTL_DEV)
/* What a rule on a file, not a folder, can be about. */
#define OF_FILES                                                                         \
	(LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_WRITE_FILE |                    \
		LANDLOCK_ACCESS_FS_READ_FILE | TRUNCATE | IOCTL_DEV)

struct rules_attr {
	uint64_t files, net, scoped; /* net from version 4 on, scoped from 6 */
};

int landlock_version(void)
{
	long version = syscall(
		SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);

	return version > 0 ? (int)version : 0;
}

static uint64_t known_rights(int version)
{
	return ALL_OF_1 | (version >= 2 ? REFER : 0) | (version >= 3 ? TRUNCATE : 0) |
	       (version >= 5 ? IOCTL_DEV : 0);
}

static int create(int version, unsigned needs)
{
	struct rules_attr attr = {.files = known_rights(version)};
	size_t bytes = version >= 6   ? sizeof(attr)
		       : version >= 4 ? offsetof(struct rules_attr, scoped)
				      : offsetof(struct rules_attr, net);
	int fd;

	if (version >= 4 && !(needs & BLK_NEEDS_NETWORK))
		attr.net = NET_BIND | NET_CONNECT;
	/* Signals are not: threads confined one by one could not send each other any on
	 * some kernels, and the filter lets them reach this process only. */
	if (version >= 6 && !(needs & BLK_NEEDS_NETWORK))
		attr.scoped = SCOPE_ABSTRACT;
	fd = (int)syscall(SYS_landlock_create_ruleset, &attr, bytes, 0);
	return fd < 0 ? -errno : fd;
}

static int allow(int rules_fd, const struct confine_path *p, uint64_t known)
{
	struct landlock_path_beneath_attr rule = {
		.allowed_access = (READ | (p->write ? WRITE : 0)) & known};
	struct stat st;
	int ret = 0;

	rule.parent_fd = open(p->path, O_PATH | O_CLOEXEC);
	if (rule.parent_fd < 0)
		return 0; /* it cannot be opened later either */
	if (fstat(rule.parent_fd, &st))
		ret = -errno;
	else if (!S_ISDIR(st.st_mode))
		rule.allowed_access &= OF_FILES;
	if (ret == 0 && syscall(SYS_landlock_add_rule, rules_fd,
				LANDLOCK_RULE_PATH_BENEATH, &rule, 0))
		ret = -errno;
	close(rule.parent_fd);
	return ret;
}

int landlock_make(const struct confine_options *o, struct err *err)
{
	int version = landlock_version(), fd = create(version, confine_needs(o)), ret = 0;

	if (fd < 0)
		return err_errno(err, -fd, "Landlock");
	for (unsigned i = 0; i < o->n_paths && ret == 0; i++) {
		ret = allow(fd, &o->path[i], known_rights(version));
		if (ret)
			err_errno(err, -ret, "Landlock: %s", o->path[i].path);
	}
	if (ret) {
		close(fd);
		return ret;
	}
	return fd;
}

int landlock_enter(int rules_fd)
{
	return syscall(SYS_landlock_restrict_self, rules_fd, 0) ? -errno : 0;
}
