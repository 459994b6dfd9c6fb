/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Image locks. Facts of the protocol (see imglock.h) were read off /proc/locks while the
 * peer held images, and the tests run against it.
 *
 * 1. Locks are only ever shared ones (but see imglock_set for CIFS), so any number of users
 * can hold the same byte; who conflicts is found by asking whether a write lock on the
 * opposite byte *could* be had.
 * 2. New bytes are locked before the question is asked. Of two who open at the same
 * moment at least one sees the other; both may be refused, never both let in.
 * 3. Bytes no longer wanted are given up last, and only when nothing can fail any more.
 *
 * Who holds the image is found out by lockowner.h.
 */
#include "block/imglock.h"

#include <assert.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/vfs.h>
#include <unistd.h>

#define HELD_BASE     100 /* byte of permission bit 0 that is held */
#define UNSHARED_BASE 200 /* byte of permission bit 0 that others may not hold */
#define PROBE_BYTE    300
#define PERM_BITS     4

#define CIFS_MAGIC 0xFF534D42
#define SMB2_MAGIC 0xFE534D42
#define FAR_ORIGIN ((off_t)1 << 62)

const char *const imglock_perm_names[PERM_BITS] = {
	"consistent read", "write", "write unchanged", "resize"};

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

/* Locks a byte for each bit of mask, those of `exclusive` for ourselves alone. */
static int lock_bytes(
	int fd, unsigned mask, unsigned exclusive, off_t base, off_t *failed)
{
	int ret = 0;

	for (int bit = 0; bit < PERM_BITS && ret == 0; bit++) {
		if (!(mask & 1u << bit))
			continue;
		*failed = base + bit;
		ret = lock_byte(
			fd, base + bit, exclusive & 1u << bit ? F_WRLCK : F_RDLCK);
	}
	return ret;
}

/* ---- who holds it ---------------------------------------------------------------- */

/* What one process of this host holds. */
struct holders {
	off_t origin;
	struct imglock_holder *list;
	unsigned n, max;
};

static unsigned bits_of(off_t base, long long first, long long last)
{
	unsigned bits = 0;

	for (int bit = 0; bit < PERM_BITS; bit++)
		if (first <= base + bit && base + bit <= last)
			bits |= 1u << bit;
	return bits;
}

static void add_lock(void *arg, long pid, long long first, long long last)
{
	struct holders *h = arg;
	unsigned perm = bits_of(h->origin + HELD_BASE, first, last), i = 0;
	unsigned unshared = bits_of(h->origin + UNSHARED_BASE, first, last);

	if (!perm && !unshared)
		return;
	while (i < h->n && h->list[i].owner.pid != pid)
		i++;
	if (i == h->max)
		return;
	if (i == h->n) {
		h->list[h->n] = (struct imglock_holder){.perm = 0};
		lock_owner_of_pid(pid, &h->list[h->n++].owner);
	}
	h->list[i].perm |= perm;
	h->list[i].unshared |= unshared;
}

/* The bits of a base whose byte another has locked. -errno. */
static int locked_by_others(int fd, off_t base, unsigned *bits)
{
	*bits = 0;
	for (int bit = 0; bit < PERM_BITS; bit++) {
		struct flock fl = {.l_type = F_WRLCK,
			.l_whence = SEEK_SET,
			.l_start = base + bit,
			.l_len = 1};

		if (fcntl(fd, F_OFD_GETLK, &fl) != 0)
			return -errno;
		if (fl.l_type != F_UNLCK)
			*bits |= 1u << bit;
	}
	return 0;
}

int imglock_holders(int fd, const char *filename, struct imglock_holder *list,
	unsigned max, unsigned *n)
{
	struct holders h = {.origin = origin(fd), .list = list, .max = max};
	struct imglock_holder rest = {.perm = 0};
	int ret = locked_by_others(fd, h.origin + HELD_BASE, &rest.perm);

	*n = 0;
	if (ret == 0)
		ret = locked_by_others(fd, h.origin + UNSHARED_BASE, &rest.unshared);
	if (ret)
		return ret;
	/* A lock of our own, where it is in nobody's way, for the search to begin with. */
	if (lock_byte(fd, h.origin + PROBE_BYTE, F_RDLCK) == 0) {
		lock_owners_here(fd, add_lock, &h);
		lock_byte(fd, h.origin + PROBE_BYTE, F_UNLCK);
	}
	for (unsigned i = 0; i < h.n; i++) {
		rest.perm &= ~list[i].perm;
		rest.unshared &= ~list[i].unshared;
	}
	if ((rest.perm || rest.unshared) && h.n < max) {
		lock_note_read(filename, &rest.owner);
		list[h.n++] = rest;
	}
	*n = h.n;
	return 0;
}

/* ---- conflicts ------------------------------------------------------------------- */

struct wanted {
	off_t byte;
	long pid;
};

static void match_byte(void *arg, long pid, long long first, long long last)
{
	struct wanted *w = arg;

	if (!w->pid && first <= w->byte && w->byte <= last)
		w->pid = pid;
}

/* Who has locked this byte: a process of this host, or who left a note. */
static void find_owner(int fd, const char *filename, off_t byte, struct lock_owner *out)
{
	struct wanted w = {.byte = byte};

	*out = (struct lock_owner){.pid = 0};
	lock_owners_here(fd, match_byte, &w);
	if (w.pid)
		lock_owner_of_pid(w.pid, out);
	else
		lock_note_read(filename, out);
}

int imglock_refused(const char *filename, const struct lock_owner *owner,
	const char *what, enum imglock_perm perm, struct err *err)
{
	char text[200];

	lock_owner_text(owner, text, sizeof(text));
	err_set(err, EAGAIN, "Failed to get %s\"%s\" lock", what,
		imglock_perm_names[__builtin_ctz(perm)]);
	if (!text[0])
		err_hint(err, "Is another process using the image [%s]?", filename);
	else if (owner->pid == getpid() && !owner->host[0])
		err_hint(err,
			"Is another process using the image [%s]? (this process has it "
			"open)",
			filename);
	else
		err_hint(err, "Is another process using the image [%s]? (%s)", filename,
			text);
	return -EAGAIN;
}

static int refuse_byte(int fd, const char *filename, off_t byte, const char *what,
	int bit, struct err *err)
{
	struct lock_owner owner;

	find_owner(fd, filename, byte, &owner);
	return imglock_refused(filename, &owner, what, 1u << bit, err);
}

/* For a lock that could not be had at all. */
static int refuse_failed(
	int fd, const char *filename, off_t start, off_t failed, struct err *err)
{
	off_t byte = failed - start;

	return byte < UNSHARED_BASE ? refuse_byte(fd, filename, failed, "",
					      (int)(byte - HELD_BASE), err)
				    : refuse_byte(fd, filename, failed, "shared ",
					      (int)(byte - UNSHARED_BASE), err);
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
		return refuse_byte(fd, filename, base + bit, what, bit, err);
	}
	return 0;
}

int imglock_set(struct imglock *l, int fd, const char *filename, unsigned perm,
	unsigned shared, struct err *err)
{
	unsigned unshared = IMGLOCK_ALL & ~shared;
	unsigned new_perm = perm & ~l->perm, new_unshared = unshared & ~l->unshared;
	off_t start = origin(fd), failed = 0;
	/* Two who open an image by one CIFS client may share a handle, and then neither is
	 * shown the other's locks; but it does keep them from taking an exclusive one twice. */
	unsigned alone = start ? perm & unshared : 0;
	int ret;

	assert(!(perm & ~IMGLOCK_ALL));

	ret = lock_bytes(fd, new_perm, alone, start + HELD_BASE, &failed);
	if (ret == 0)
		ret = lock_bytes(fd, new_unshared, alone, start + UNSHARED_BASE, &failed);
	if (ret < 0) {
		ret = start && (ret == -EACCES || ret == -EAGAIN)
			      ? refuse_failed(fd, filename, start, failed, err)
			      : lock_failed(-ret, failed, err);
		goto undo;
	}
	ret = check_bytes(fd, filename, perm & ~alone, start + UNSHARED_BASE, "", err);
	if (ret == 0)
		ret = check_bytes(fd, filename, unshared & ~alone, start + HELD_BASE,
			"shared ", err);
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

void imglock_drop(struct imglock *l, int fd)
{
	imglock_set(l, fd, "", 0, IMGLOCK_ALL, NULL);
}
