/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Image locks. Facts of the protocol (see imglock.h) were read off /proc/locks while the
 * peer held images, and the tests run against it.
 *
 * 1. Locks are only ever shared ones, so any number of users can hold the same byte; who
 *    conflicts is found by asking whether a write lock on the opposite byte *could* be
 * had.
 * 2. New bytes are locked before the question is asked. Of two who open at the same
 * moment at least one sees the other; both may be refused, never both let in.
 * 3. Bytes no longer wanted are given up last, and only when nothing can fail any more.
 *
 * Open file description locks carry no pid. Who holds the image is looked up in
 * /proc/PID/fdinfo, whose "lock:" lines name device, inode and range. That is a courtesy:
 * bounded, and silent where /proc is hidden or in another pid namespace.
 */
#include "block/imglock.h"

#include <assert.h>
#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/vfs.h>
#include <unistd.h>

#define HELD_BASE     100 /* byte of permission bit 0 that is held */
#define UNSHARED_BASE 200 /* byte of permission bit 0 that others may not hold */
#define PERM_BITS     4

#define CIFS_MAGIC 0xFF534D42
#define SMB2_MAGIC 0xFE534D42
#define FAR_ORIGIN ((off_t)1 << 62)

/* The most descriptors looked at for a holder: a busy host has some ten thousand. */
#define SEARCH_LIMIT 200000

static const char *const perm_names[PERM_BITS] = {
	"consistent read", "write", "write unchanged", "resize"};

struct holder {
	long pid;
	char program[64];
};

/* ---- locking bytes --------------------------------------------------------------- */

static int lock_byte(int fd, off_t byte, short type)
{
	struct flock fl = {
		.l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};

	return fcntl(fd, F_OFD_SETLK, &fl) == 0 ? 0 : -errno;
}

/* Where byte 0 of the protocol lies in the file. On CIFS a lock forbids to read and write
 * what it covers, to its holder too, and an image that is locked in its head could not be
 * written (nor can the peer's). There the bytes lie far behind every image's end. */
static off_t origin(int fd)
{
	struct statfs fs;
	uint32_t magic = fstatfs(fd, &fs) == 0 ? (uint32_t)fs.f_type : 0;

	return magic == CIFS_MAGIC || magic == SMB2_MAGIC ? FAR_ORIGIN : 0;
}

static void unlock_bytes(int fd, unsigned perm, unsigned unshared)
{
	off_t start = origin(fd);

	for (int bit = 0; bit < PERM_BITS; bit++) {
		if (perm & 1u << bit)
			lock_byte(fd, start + HELD_BASE + bit, F_UNLCK);
		if (unshared & 1u << bit)
			lock_byte(fd, start + UNSHARED_BASE + bit, F_UNLCK);
	}
}

static int lock_failed(int code, off_t byte, struct err *err)
{
	switch (code) {
	case EINVAL: /* a kernel before 3.15, or a file system that refuses */
	case ENOLCK:
	case ENOSYS:
	case EOPNOTSUPP:
		return err_set(err, ENOTSUP,
			"Failed to lock byte %lld: the file system has no such locks "
			"(%s)",
			(long long)byte, strerror(code));
	case EACCES:
	case EAGAIN: /* someone who is not of this protocol has locked the whole file */
		return err_set(err, EAGAIN, "Failed to lock byte %lld", (long long)byte);
	default:
		return err_errno(err, code, "Failed to lock byte %lld", (long long)byte);
	}
}

static int lock_bytes(int fd, unsigned mask, off_t base, off_t *failed)
{
	int ret = 0;

	for (int bit = 0; bit < PERM_BITS && ret == 0; bit++) {
		if (!(mask & 1u << bit))
			continue;
		*failed = base + bit;
		ret = lock_byte(fd, base + bit, F_RDLCK);
	}
	return ret;
}

/* ---- who holds it ---------------------------------------------------------------- */

/* What stands between the two pids' column and the range in a "lock:" line:
 * "fe:00:12345". */
struct lock_key {
	char file[64];
	off_t byte;
};

/* Reads "lock:\t1: OFDLCK ADVISORY  READ -1 fe:00:10952955 100 101". */
static bool parse_lock(const char *line, char file[64], long long *first, long long *last)
{
	char end[32];

	if (sscanf(line, "lock: %*d: %*s %*s %*s %*d %63s %lld %31s", file, first, end) !=
		3)
		return false;
	*last = strcmp(end, "EOF") == 0 ? INT64_MAX : atoll(end);
	return true;
}

/* True where the fdinfo file at path has a lock on key->byte of key->file; with key->file
 * empty any lock will do, and fills it in. */
static bool fdinfo_matches(const char *path, struct lock_key *key)
{
	char line[256], file[64];
	long long first, last;
	bool found = false;
	FILE *f = fopen(path, "re");

	if (!f)
		return false;
	while (!found && fgets(line, sizeof(line), f)) {
		if (!parse_lock(line, file, &first, &last))
			continue;
		if (!key->file[0]) {
			memcpy(key->file, file, sizeof(file));
			found = true;
		} else {
			found = strcmp(file, key->file) == 0 && first <= key->byte &&
				key->byte <= last;
		}
	}
	fclose(f);
	return found;
}

static bool process_holds(long pid, int not_fd, struct lock_key *key, unsigned *budget)
{
	char path[64];
	struct dirent *e;
	bool found = false;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%ld/fdinfo", pid);
	dir = opendir(path);
	if (!dir)
		return false;
	while (!found && *budget && (e = readdir(dir))) {
		if (!isdigit((unsigned char)e->d_name[0]))
			continue;
		if (pid == getpid() && atoi(e->d_name) == not_fd)
			continue;
		--*budget;
		snprintf(path, sizeof(path), "/proc/%ld/fdinfo/%.16s", pid, e->d_name);
		found = fdinfo_matches(path, key);
	}
	closedir(dir);
	return found;
}

static void program_of(struct holder *h)
{
	char path[64];
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%ld/comm", h->pid);
	f = fopen(path, "re");
	if (!f)
		return;
	if (fgets(h->program, sizeof(h->program), f))
		h->program[strcspn(h->program, "\n")] = '\0';
	fclose(f);
}

/* Fills in what can be found; h->pid stays 0 where nothing can. */
static void find_holder(int fd, off_t byte, struct holder *h)
{
	struct lock_key key = {.byte = byte};
	unsigned budget = SEARCH_LIMIT;
	char path[64];
	struct dirent *e;
	DIR *proc;

	/* Device numbers in lock lines are those of the superblock, which stat() does not
	 * tell on btrfs: our own lock on the same file shows how the line must look. */
	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	if (!fdinfo_matches(path, &key))
		return;
	proc = opendir("/proc");
	if (!proc)
		return;
	while (h->pid == 0 && budget && (e = readdir(proc))) {
		if (!isdigit((unsigned char)e->d_name[0]))
			continue;
		if (process_holds(atol(e->d_name), fd, &key, &budget))
			h->pid = atol(e->d_name);
	}
	closedir(proc);
	if (h->pid)
		program_of(h);
}

/* ---- conflicts ------------------------------------------------------------------- */

static int refuse(int fd, const char *filename, const char *what, int bit,
	const struct flock *other, struct err *err)
{
	struct holder h = {.pid = other->l_pid > 0 ? other->l_pid : 0};

	if (h.pid)
		program_of(&h);
	else
		find_holder(fd, other->l_start, &h);

	err_set(err, EAGAIN, "Failed to get %s\"%s\" lock", what, perm_names[bit]);
	if (!h.pid)
		err_hint(err, "Is another process using the image [%s]?", filename);
	else if (h.pid == getpid())
		err_hint(err,
			"Is another process using the image [%s]? (this process has it "
			"open)",
			filename);
	else
		err_hint(err, "Is another process using the image [%s]? (%s, pid %ld)",
			filename, h.program[0] ? h.program : "a program", h.pid);
	return -EAGAIN;
}

/* Asks for each bit of mask whether another holds the byte that forbids it. */
static int check_bytes(int fd, const char *filename, unsigned mask, off_t base,
	const char *what, struct err *err)
{
	for (int bit = 0; bit < PERM_BITS; bit++) {
		struct flock fl = {.l_type = F_WRLCK,
			.l_whence = SEEK_SET,
			.l_start = base + bit,
			.l_len = 1};

		if (!(mask & 1u << bit))
			continue;
		if (fcntl(fd, F_OFD_GETLK, &fl) != 0)
			return lock_failed(errno, base + bit, err);
		if (fl.l_type == F_UNLCK)
			continue;
		fl.l_start = base + bit; /* of the range found, the byte that matters */
		return refuse(fd, filename, what, bit, &fl, err);
	}
	return 0;
}

int imglock_set(struct imglock *l, int fd, const char *filename, unsigned perm,
	unsigned shared, struct err *err)
{
	unsigned unshared = IMGLOCK_ALL & ~shared;
	unsigned new_perm = perm & ~l->perm, new_unshared = unshared & ~l->unshared;
	off_t start = origin(fd), failed = 0;
	int ret;

	assert(!(perm & ~IMGLOCK_ALL));

	ret = lock_bytes(fd, new_perm, start + HELD_BASE, &failed);
	if (ret == 0)
		ret = lock_bytes(fd, new_unshared, start + UNSHARED_BASE, &failed);
	if (ret < 0) {
		ret = lock_failed(-ret, failed, err);
		goto undo;
	}
	ret = check_bytes(fd, filename, perm, start + UNSHARED_BASE, "", err);
	if (ret == 0)
		ret = check_bytes(
			fd, filename, unshared, start + HELD_BASE, "shared ", err);
	if (ret < 0)
		goto undo;

	unlock_bytes(fd, l->perm & ~perm, l->unshared & ~unshared);
	l->perm = perm;
	l->unshared = unshared;
	return 0;
undo:
	unlock_bytes(fd, new_perm, new_unshared);
	return ret;
}
