/* SPDX-License-Identifier: BSD-2-Clause */
/* Users, capabilities, namespaces. See privilege.h. */
#include "vmm/privilege.h"

#include <grp.h>
#include <pwd.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <linux/capability.h>

#define CAPABILITIES_MAX 63

/* ---- users ----------------------------------------------------------------------- */

static bool is_number(const char *text, unsigned long *out)
{
	char *end;

	*out = strtoul(text, &end, 10);
	return *text >= '0' && *text <= '9' && !*end && *out < UINT32_MAX;
}

static int find_group(const char *name, gid_t *gid, struct err *err)
{
	const struct group *g = getgrnam(name);
	unsigned long number;

	if (g)
		*gid = g->gr_gid;
	else if (is_number(name, &number))
		*gid = (gid_t)number;
	else
		return err_set(err, ENOENT, "there is no group '%s'", name);
	return 0;
}

static int find_name(const char *name, bool has_group, struct user *out, struct err *err)
{
	const struct passwd *p = getpwnam(name);
	unsigned long number;

	if (!p && is_number(name, &number)) {
		out->uid = (uid_t)number;
		p = getpwuid(out->uid);
		if (!p && !has_group)
			return err_set(err, ENOENT,
				"user %lu has no group of its own: USER:GROUP", number);
	} else if (!p) {
		return err_set(err, ENOENT, "there is no user '%s'", name);
	}
	if (p)
		*out = (struct user){p->pw_uid, p->pw_gid};
	return 0;
}

int user_find(const char *text, struct user *out, struct err *err)
{
	const char *colon = strchr(text, ':');
	char *name = colon ? strndup(text, (size_t)(colon - text)) : strdup(text);
	int ret = name ? find_name(name, colon, out, err)
		       : err_errno(err, ENOMEM, "%s", text);

	if (ret == 0 && colon)
		ret = find_group(colon + 1, &out->gid, err);
	free(name);
	return ret;
}

/* ---- of a thread ----------------------------------------------------------------- */

/* The C library's functions would do it to all threads, each time. */
int become_user(const struct user *u)
{
	if (syscall(SYS_setgroups, 0, NULL) ||
		syscall(SYS_setresgid, u->gid, u->gid, u->gid) ||
		syscall(SYS_setresuid, u->uid, u->uid, u->uid))
		return -errno;
	return 0;
}

uint64_t device_capabilities(void)
{
	return 1ull << CAP_SYS_RAWIO | 1ull << CAP_SYS_ADMIN;
}

int drop_bounding_set(uint64_t but)
{
	for (unsigned long c = 0; c <= CAPABILITIES_MAX; c++) {
		if ((but >> c & 1) || prctl(PR_CAPBSET_READ, c, 0, 0, 0) != 1)
			continue;
		if (prctl(PR_CAPBSET_DROP, c, 0, 0, 0))
			return errno == EPERM ? 0 : -errno;
	}
	return 0;
}

int drop_capabilities(uint64_t but)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct set[_LINUX_CAPABILITY_U32S_3];

	memset(set, 0, sizeof(set));
	if (but && syscall(SYS_capget, &header, set))
		return -errno;
	for (unsigned i = 0; i < _LINUX_CAPABILITY_U32S_3; i++) {
		set[i].permitted &= (uint32_t)(but >> 32 * i);
		set[i].effective = set[i].permitted;
		set[i].inheritable = 0;
	}
	return syscall(SYS_capset, &header, set) ? -errno : 0;
}

int set_no_new_privileges(void)
{
	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ? -errno : 0;
}

int leave_shared_namespaces(bool network)
{
	int flags = CLONE_NEWIPC | CLONE_NEWUTS | (network ? CLONE_NEWNET : 0);

	return unshare(flags) ? -errno : 0;
}

/* ---- mounts ---------------------------------------------------------------------- */

int own_mounts(struct err *err)
{
	if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL))
		return err_errno(err, errno, "no mount namespace of its own");
	return 0;
}

/* With the same folder as new root and as place of the old one, the old one lies over the
 * new one, and is taken off. /proc is a folder that is there on every system. */
int empty_root(void)
{
	if (mount("byre", "/proc", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC,
		    "size=4k,mode=0555") ||
		chdir("/proc") || syscall(SYS_pivot_root, ".", ".") ||
		umount2(".", MNT_DETACH) || chdir("/") ||
		mount(NULL, "/", NULL,
			MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL))
		return -errno;
	return 0;
}
