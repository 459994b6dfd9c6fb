/* SPDX-License-Identifier: BSD-2-Clause */
/* Who holds a lock. See lockowner.h. */
#include "block/lockowner.h"

#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/json.h"

/* The most descriptors looked at for a holder: a busy host has some ten thousand. */
#define SEARCH_LIMIT 200000
#define FILE_KEY_MAX 64

/* ---- this host ------------------------------------------------------------------- */

struct search {
	char file[FILE_KEY_MAX]; /* as lock lines name it: "fe:00:12345" */
	unsigned budget;
	void (*fn)(void *arg, long pid, long long first, long long last);
	void *arg;
};

/* Reads "lock:\t1: OFDLCK ADVISORY  READ -1 fe:00:10952955 100 101". */
static bool parse_lock(
	const char *line, char file[FILE_KEY_MAX], long long *first, long long *last)
{
	char end[32];

	if (sscanf(line, "lock: %*d: %*s %*s %*s %*d %63s %lld %31s", file, first, end) !=
		3)
		return false;
	*last = strcmp(end, "EOF") == 0 ? INT64_MAX : atoll(end);
	return true;
}

static void look_at_fdinfo(struct search *s, const char *path, long pid)
{
	char line[256], file[FILE_KEY_MAX];
	long long first, last;
	FILE *f = fopen(path, "re");

	if (!f)
		return;
	while (fgets(line, sizeof(line), f))
		if (parse_lock(line, file, &first, &last) && !strcmp(file, s->file))
			s->fn(s->arg, pid, first, last);
	fclose(f);
}

/* How lock lines name the file: device numbers there are those of the superblock, which
 * stat() does not tell on btrfs, so our own lock on it shows. */
static bool find_key(struct search *s, int fd)
{
	char path[64], line[256];
	long long first, last;
	bool found = false;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	f = fopen(path, "re");
	if (!f)
		return false;
	while (!found && fgets(line, sizeof(line), f))
		found = parse_lock(line, s->file, &first, &last);
	fclose(f);
	return found;
}

static void look_at_process(struct search *s, long pid, int not_fd)
{
	char path[64];
	struct dirent *e;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%ld/fdinfo", pid);
	dir = opendir(path);
	if (!dir)
		return;
	while (s->budget && (e = readdir(dir))) {
		if (!isdigit((unsigned char)e->d_name[0]))
			continue;
		if (pid == getpid() && atoi(e->d_name) == not_fd)
			continue;
		s->budget--;
		snprintf(path, sizeof(path), "/proc/%ld/fdinfo/%.16s", pid, e->d_name);
		look_at_fdinfo(s, path, pid);
	}
	closedir(dir);
}

void lock_owners_here(int fd,
	void (*fn)(void *arg, long pid, long long first, long long last), void *arg)
{
	struct search s = {.budget = SEARCH_LIMIT, .fn = fn, .arg = arg};
	struct dirent *e;
	DIR *proc;

	if (!find_key(&s, fd))
		return;
	proc = opendir("/proc");
	if (!proc)
		return;
	while (s.budget && (e = readdir(proc)))
		if (isdigit((unsigned char)e->d_name[0]))
			look_at_process(&s, atol(e->d_name), fd);
	closedir(proc);
}

void lock_owner_of_pid(long pid, struct lock_owner *out)
{
	char path[64];
	FILE *f;

	*out = (struct lock_owner){.pid = pid};
	snprintf(path, sizeof(path), "/proc/%ld/comm", pid);
	f = fopen(path, "re");
	if (!f)
		return;
	if (fgets(out->program, sizeof(out->program), f))
		out->program[strcspn(out->program, "\n")] = '\0';
	fclose(f);
}

void lock_owner_text(const struct lock_owner *o, char *buf, unsigned long bytes)
{
	char pid[24] = "";

	if (o->pid)
		snprintf(pid, sizeof(pid), "pid %ld", o->pid);
	snprintf(buf, bytes, "%s%s%s%s%s%s%s",
		o->program[0] ? o->program
		: o->pid      ? "a program"
			      : "",
		pid[0] ? ", " : "", pid, o->host[0] ? ", on " : "", o->host,
		o->since[0] ? ", since " : "", o->since);
}

/* ---- notes ----------------------------------------------------------------------- */

/* "dir/.name.owner" */
char *lock_note_path(const char *filename)
{
	const char *slash = strrchr(filename, '/'), *name = slash ? slash + 1 : filename;
	char *path;

	if (asprintf(&path, "%.*s.%s.owner", (int)(name - filename), filename, name) < 0)
		return NULL;
	return path;
}

static void own_host(char host[65])
{
	if (gethostname(host, 65))
		host[0] = '\0';
	host[64] = '\0';
}

char *lock_note_text(void)
{
	struct json *o = json_new_object();
	struct lock_owner me;
	time_t now = time(NULL);
	struct tm tm;
	char *text;

	lock_owner_of_pid(getpid(), &me);
	own_host(me.host);
	json_put_string(o, "host", me.host);
	json_put_int(o, "pid", me.pid);
	json_put_string(o, "program", me.program);
	if (gmtime_r(&now, &tm) &&
		strftime(me.since, sizeof(me.since), "%Y-%m-%d %H:%M:%S UTC", &tm))
		json_put_string(o, "since", me.since);
	text = json_dump(o, 0);
	json_free(o);
	return text;
}

static void take_text(const struct json *o, const char *key, char *out, size_t bytes)
{
	const struct json *v = json_get(o, key);
	size_t i = 0;

	if (!v || json_kind_of(v) != JSON_STRING)
		return;
	for (const char *p = json_string_of(v); *p && i + 1 < bytes; p++)
		out[i++] = isprint((unsigned char)*p) ? *p : '?';
	out[i] = '\0';
}

bool lock_note_parse(const char *text, struct lock_owner *out)
{
	struct json *o = json_parse(text, NULL);
	const struct json *pid = o ? json_get(o, "pid") : NULL;

	*out = (struct lock_owner){.pid = 0};
	if (!o || json_kind_of(o) != JSON_OBJECT) {
		json_free(o);
		return false;
	}
	take_text(o, "host", out->host, sizeof(out->host));
	take_text(o, "program", out->program, sizeof(out->program));
	take_text(o, "since", out->since, sizeof(out->since));
	if (pid && json_kind_of(pid) == JSON_INT && json_int_of(pid) > 0 &&
		json_int_of(pid) <= INT32_MAX)
		out->pid = (long)json_int_of(pid);
	json_free(o);
	return true;
}

bool lock_note_read(const char *filename, struct lock_owner *out)
{
	char *path = lock_note_path(filename), text[LOCK_NOTE_MAX + 1];
	int fd = path ? open(path,
				O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY)
		      : -1;
	struct stat st;
	ssize_t n = -1;

	free(path);
	if (fd < 0)
		return false;
	if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_nlink == 1)
		n = read(fd, text, LOCK_NOTE_MAX);
	close(fd);
	if (n <= 0)
		return false;
	text[n] = '\0';
	return lock_note_parse(text, out);
}

/* What is there already and is no note is somebody's, whatever its name. */
void lock_note_write(const char *filename)
{
	char *path = lock_note_path(filename), *text = lock_note_text();
	struct lock_owner old;
	int fd = -1;

	if (path && lock_note_read(filename, &old))
		unlink(path);
	if (path && text)
		fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
	if (fd >= 0) {
		if (write(fd, text, strlen(text)) < 0)
			unlink(path);
		close(fd);
	}
	free(path);
	free(text);
}

void lock_note_remove(const char *filename)
{
	struct lock_owner note;
	char host[65], *path;

	own_host(host);
	if (!lock_note_read(filename, &note) || note.pid != getpid() ||
		strcmp(note.host, host))
		return;
	path = lock_note_path(filename);
	if (path)
		unlink(path);
	free(path);
}
