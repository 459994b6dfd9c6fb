/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * SELinux labels. See svirt.h.
 *
 * The registry:
 *	lock		held (flock) for the moment in which notes are made and removed
 *	cA,cB		one for each pair, locked by who has it
 *	DEV-INODE	one for each file that was labelled: the label it had before. Who
 *			writes the file has it locked exclusively, who reads it shared
 *
 * Locks go with the last process that holds them, so what nobody has locked is nobody's. A
 * note that is there and not locked was left by a program that was killed: what it says is
 * the file's true label, whatever it has now.
 */
#include "vmm/svirt.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/opts.h"

#define PAIR_TRIES    10000u
#define XATTR         "security.selinux"
#define NOTE_PATH_MAX 400u

/* ---- the kernel's store ---------------------------------------------------------- */

static int kernel_get(void *arg, const char *path, char label[SVIRT_LABEL_MAX])
{
	ssize_t n = getxattr(path, XATTR, label, SVIRT_LABEL_MAX - 1);

	(void)arg;
	if (n < 0)
		return -errno;
	label[n] = '\0';
	return 0;
}

static int kernel_set(void *arg, const char *path, const char *label)
{
	(void)arg;
	if (!label[0])
		return removexattr(path, XATTR) && errno != ENODATA ? -errno : 0;
	return setxattr(path, XATTR, label, strlen(label) + 1, 0) ? -errno : 0;
}

const struct svirt_store svirt_kernel_store = {kernel_get, kernel_set, NULL};

int svirt_is_on(struct err *err)
{
	char label[SVIRT_LABEL_MAX];

	if (access("/sys/fs/selinux/enforce", F_OK) == 0 && svirt_own_label(label) == 0)
		return 0;
	return err_set(err, ENOTSUP, "SELinux is not on here (/sys/fs/selinux)");
}

int svirt_own_label(char label[SVIRT_LABEL_MAX])
{
	int fd = open("/proc/self/attr/current", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, label, SVIRT_LABEL_MAX - 1);
	int ret = n < 0 ? -errno : 0;

	if (fd >= 0)
		close(fd);
	label[n > 0 ? n : 0] = '\0';
	label[strcspn(label, "\n")] = '\0';
	return ret;
}

int svirt_set_exec_label(const char *label, struct err *err)
{
	int fd = open("/proc/self/attr/exec", O_WRONLY | O_CLOEXEC), ret = 0;

	if (fd < 0 || write(fd, label, strlen(label)) < 0)
		ret = err_errno(err, errno, "SELinux does not know the label %s", label);
	if (fd >= 0)
		close(fd);
	return ret;
}

/* ---- options --------------------------------------------------------------------- */

static int take(struct opts *opts, const char *key, const char *otherwise, char *out,
	size_t bytes, struct err *err)
{
	const char *value = opts_take(opts, key);

	if (!value)
		value = otherwise;
	if (!*value || strlen(value) >= bytes)
		return err_set(
			err, EINVAL, "%s=%s: 1 to %zu bytes", key, value, bytes - 1);
	strcpy(out, value);
	return 0;
}

int svirt_parse(const char *text, struct svirt_options *out, struct err *err)
{
	struct opts *opts = opts_new();
	int ret = opts_parse(opts, text, NULL, err);

	if (ret == 0)
		ret = take(opts, "process", "system_u:system_r:svirt_t:s0", out->process,
			sizeof(out->process), err);
	if (ret == 0)
		ret = take(opts, "image", "system_u:object_r:svirt_image_t:s0",
			out->image, sizeof(out->image), err);
	if (ret == 0)
		ret = take(opts, "content", "system_u:object_r:virt_content_t:s0",
			out->content, sizeof(out->content), err);
	if (ret == 0)
		ret = take(opts, "registry", SVIRT_REGISTRY, out->registry,
			sizeof(out->registry), err);
	ret = ret ? ret : opts_check_unused(opts, err);
	opts_free(opts);
	return ret;
}

/* ---- the registry ---------------------------------------------------------------- */

static void registry_path(
	const struct svirt *s, const char *name, char path[NOTE_PATH_MAX])
{
	snprintf(path, NOTE_PATH_MAX, "%s/%s", s->options.registry, name);
}

/* Opens a note that is still in its place when it is locked: one that is being removed is
 * not. The lock is not waited for: -EWOULDBLOCK. It is open for reading, which is all that
 * the machine may do with it (svirt_inherit). */
static int open_locked(const char *path, int flags, int how)
{
	struct stat st, now;
	int fd, ret;

	for (;;) {
		fd = open(path, flags | O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW,
			0600);
		if (fd < 0)
			return -errno;
		if (flock(fd, how | LOCK_NB)) {
			ret = -errno;
			close(fd);
			return ret;
		}
		if (fstat(fd, &st) == 0 && stat(path, &now) == 0 &&
			st.st_dev == now.st_dev && st.st_ino == now.st_ino)
			return fd;
		close(fd);
	}
}

static int enter_registry(struct svirt *s, struct err *err)
{
	char path[NOTE_PATH_MAX];

	registry_path(s, "lock", path);
	s->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (s->lock_fd < 0 || flock(s->lock_fd, LOCK_EX))
		return err_errno(err, errno, "%s", path);
	return 0;
}

static void leave_registry(struct svirt *s)
{
	if (s->lock_fd >= 0)
		close(s->lock_fd);
	s->lock_fd = -1;
}

/* With what is above it; private to its owner. */
static int make_registry(const char *registry, struct err *err)
{
	char path[128];

	snprintf(path, sizeof(path), "%s", registry);
	for (char *p = strchr(path + 1, '/'); p; p = strchr(p + 1, '/')) {
		*p = '\0';
		mkdir(path, 0755); /* what is wrong shows below */
		*p = '/';
	}
	if (mkdir(path, 0700) && errno != EEXIST)
		return err_errno(err, errno, "%s", path);
	return 0;
}

static unsigned random_below(unsigned n)
{
	uint32_t r;

	while (getrandom(&r, sizeof(r), 0) != sizeof(r))
		;
	return r % n;
}

static int take_pair(struct svirt *s, const char *pair, struct err *err)
{
	char path[NOTE_PATH_MAX];

	snprintf(s->pair, sizeof(s->pair), "%s", pair);
	registry_path(s, pair, path);
	s->pair_fd = open_locked(path, O_CREAT, LOCK_EX);
	if (s->pair_fd >= 0)
		return 0;
	err_errno(err, -s->pair_fd, "%s", path);
	s->pair_fd = -1;
	return -err->code;
}

static int take_any_pair(struct svirt *s, struct err *err)
{
	for (unsigned i = 0; i < PAIR_TRIES; i++) {
		unsigned a = random_below(SVIRT_CATEGORIES),
			 b = random_below(SVIRT_CATEGORIES);
		char pair[24];
		int ret;

		if (a >= b)
			continue;
		snprintf(pair, sizeof(pair), "c%u,c%u", a, b);
		ret = take_pair(s, pair, err);
		if (ret != -EWOULDBLOCK)
			return ret;
	}
	return err_set(
		err, EBUSY, "%s: no pair of categories is free", s->options.registry);
}

int svirt_open_pair(struct svirt *s, const struct svirt_options *o,
	const struct svirt_store *store, const char *pair, struct err *err)
{
	int ret;

	*s = (struct svirt){.options = *o, .store = *store, .lock_fd = -1, .pair_fd = -1};
	ret = make_registry(o->registry, err);
	if (ret)
		return ret;
	return pair ? take_pair(s, pair, err) : take_any_pair(s, err);
}

int svirt_open(struct svirt *s, const struct svirt_options *o,
	const struct svirt_store *store, struct err *err)
{
	return svirt_open_pair(s, o, store, NULL, err);
}

void svirt_process_label(const struct svirt *s, char label[SVIRT_LABEL_MAX])
{
	snprintf(label, SVIRT_LABEL_MAX, "%s:%s", s->options.process, s->pair);
}

/* What the new domain may not read the kernel closes. Where that cannot be helped the keeper
 * alone holds the lock. */
static void hand_on(const struct svirt *s, int fd)
{
	char path[32];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	s->store.set(s->store.arg, path, s->options.content);
	fcntl(fd, F_SETFD, 0);
}

void svirt_inherit(const struct svirt *s)
{
	hand_on(s, s->pair_fd);
	for (unsigned i = 0; i < s->n_files; i++)
		hand_on(s, s->file[i].note_fd);
}

/* ---- files ----------------------------------------------------------------------- */

static void label_of_role(
	const struct svirt *s, enum svirt_role role, char label[SVIRT_LABEL_MAX])
{
	if (role == SVIRT_WRITTEN)
		snprintf(label, SVIRT_LABEL_MAX, "%s:%s", s->options.image, s->pair);
	else
		snprintf(label, SVIRT_LABEL_MAX, "%s",
			role == SVIRT_SHARED ? s->options.image : s->options.content);
}

static void note_path(
	const struct svirt *s, const struct stat *st, char path[NOTE_PATH_MAX])
{
	char name[64];

	snprintf(name, sizeof(name), "%llx-%llx", (unsigned long long)st->st_dev,
		(unsigned long long)st->st_ino);
	registry_path(s, name, path);
}

/* The label that the file has now; "" where it has none. */
static int label_now(const struct svirt *s, const char *path, char label[SVIRT_LABEL_MAX])
{
	int ret = s->store.get(s->store.arg, path, label);

	if (ret == -ENODATA)
		label[0] = '\0';
	return ret == -ENODATA ? 0 : ret;
}

/* What the note says is what was there before all machines; where it says nothing yet, it is
 * what is there now, and *made is set. */
static int write_note(
	const struct svirt *s, const char *note, const char *path, bool *made)
{
	char label[SVIRT_LABEL_MAX + 1];
	struct stat st;
	int ret, fd;

	if (stat(note, &st))
		return -errno;
	*made = !st.st_size;
	ret = *made ? label_now(s, path, label) : 0;
	if (ret || !*made)
		return ret;
	fd = open(note, O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return -errno;
	/* With its end marked, so that no label is something too. */
	strcat(label, "\n");
	if (write(fd, label, strlen(label)) != (ssize_t)strlen(label))
		ret = -EIO;
	close(fd);
	return ret;
}

static int read_note(int note_fd, char label[SVIRT_LABEL_MAX])
{
	ssize_t n = pread(note_fd, label, SVIRT_LABEL_MAX - 1, 0);

	if (n <= 0)
		return n < 0 ? -errno : -EINVAL;
	label[n] = '\0';
	label[strcspn(label, "\n")] = '\0';
	return 0;
}

static bool is_known(const struct svirt *s, const struct stat *file)
{
	struct stat st;

	for (unsigned i = 0; i < s->n_files; i++)
		if (stat(s->file[i].path, &st) == 0 && st.st_dev == file->st_dev &&
			st.st_ino == file->st_ino)
			return true;
	return false;
}

/* Locks the note as the role needs it: exclusively, or with those who have given the file the
 * same label. *first: nobody else has it. */
static int lock_note(const struct svirt *s, const char *note, const char *path,
	enum svirt_role role, const char *label, bool *first)
{
	int fd = open_locked(note, O_CREAT, LOCK_EX);
	char now[SVIRT_LABEL_MAX];

	*first = fd >= 0;
	if (fd != -EWOULDBLOCK || role == SVIRT_WRITTEN)
		return fd;
	fd = open_locked(note, O_CREAT, LOCK_SH);
	if (fd >= 0 && (label_now(s, path, now) || strcmp(now, label) != 0)) {
		close(fd);
		return -EWOULDBLOCK;
	}
	return fd;
}

static int set_label(const struct svirt *s, const char *note, const char *path,
	const char *label, bool *made)
{
	int ret = write_note(s, note, path, made);

	return ret ? ret : s->store.set(s->store.arg, path, label);
}

/* The registry is locked. */
static int label_file(struct svirt *s, const char *path, const struct stat *st,
	enum svirt_role role, struct err *err)
{
	struct svirt_file *f = &s->file[s->n_files];
	char note[NOTE_PATH_MAX], label[SVIRT_LABEL_MAX];
	bool first, made = false;
	int ret = 0;

	note_path(s, st, note);
	label_of_role(s, role, label);
	f->note_fd = lock_note(s, note, path, role, label, &first);
	if (f->note_fd == -EWOULDBLOCK)
		return err_set(err, EBUSY,
			"%s: another machine uses it, and not in the same way", path);
	if (f->note_fd < 0)
		return err_errno(err, -f->note_fd, "%s", note);
	if (first)
		ret = set_label(s, note, path, label, &made);
	f->path = ret ? NULL : strdup(path);
	if (f->path) {
		if (role != SVIRT_WRITTEN)
			flock(f->note_fd, LOCK_SH);
		s->n_files++;
		return 0;
	}
	if (made)
		unlink(note);
	close(f->note_fd);
	if (ret == -ENOTSUP)
		return 0;
	return err_errno(
		err, ret ? -ret : ENOMEM, "%s cannot be labelled %s", path, label);
}

int svirt_label(struct svirt *s, const char *path, enum svirt_role role, struct err *err)
{
	struct stat st;
	int ret;

	if (stat(path, &st))
		return err_errno(err, errno, "%s", path);
	if (is_known(s, &st))
		return 0;
	if (s->n_files == SVIRT_FILES_MAX)
		return err_set(
			err, ENOSPC, "more than %u files to label", SVIRT_FILES_MAX);
	ret = enter_registry(s, err);
	if (ret == 0)
		ret = label_file(s, path, &st, role, err);
	leave_registry(s);
	return ret;
}

/* The registry is locked. Somebody else who still uses it puts it back later. */
static int restore(struct svirt *s, struct svirt_file *f, struct err *err)
{
	char note[NOTE_PATH_MAX], label[SVIRT_LABEL_MAX];
	struct stat st;
	int ret;

	if (flock(f->note_fd, LOCK_EX | LOCK_NB))
		return 0;
	ret = read_note(f->note_fd, label);
	ret = ret ? ret : s->store.set(s->store.arg, f->path, label);
	if (ret == 0 && stat(f->path, &st) == 0) {
		note_path(s, &st, note);
		unlink(note);
	}
	return ret ? err_errno(err, -ret, "%s: its label could not be put back", f->path)
		   : 0;
}

static bool is_pair(const char *name)
{
	unsigned a, b;
	int end = 0;

	return sscanf(name, "c%4u,c%4u%n", &a, &b, &end) == 2 && !name[end] && a < b &&
	       b < SVIRT_CATEGORIES;
}

/* Pairs whose holder was killed are free, but their files are still there. */
static void sweep_pairs(const struct svirt *s)
{
	DIR *d = opendir(s->options.registry);
	const struct dirent *e;
	char path[NOTE_PATH_MAX];
	int fd;

	while (d && (e = readdir(d))) {
		if (!is_pair(e->d_name))
			continue;
		registry_path(s, e->d_name, path);
		fd = open_locked(path, 0, LOCK_EX);
		if (fd >= 0) {
			unlink(path);
			close(fd);
		}
	}
	if (d)
		closedir(d);
}

int svirt_close(struct svirt *s, struct err *err)
{
	struct err later = ERR_INIT;
	int ret = s->pair_fd >= 0 ? enter_registry(s, err) : 0;
	char path[NOTE_PATH_MAX];

	while (s->n_files) {
		struct svirt_file *f = &s->file[--s->n_files];

		if (s->lock_fd >= 0 && restore(s, f, ret ? &later : err) && !ret)
			ret = -err->code;
		close(f->note_fd);
		free(f->path);
	}
	if (s->pair_fd >= 0) {
		registry_path(s, s->pair, path);
		unlink(path);
		close(s->pair_fd);
		s->pair_fd = -1;
		sweep_pairs(s);
	}
	leave_registry(s);
	return ret;
}
