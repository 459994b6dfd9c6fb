/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Snapshots of the whole machine, which take long: jobs. Each has a thread of its own, that
 * waits for its turn and then for the machine's thread to do it.
 *
 *	created → running → waiting → pending → concluded → (dismissed) null
 *	                  ↘ aborting ↗
 *
 * The list is the thread's of the socket; a job's thread changes its status alone.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "block/format.h"
#include "vmm/qmp_impl.h"
#include "vmm/snapshot.h"

#define JOBS_MAX 16u
#define ID_MAX   64u
#define TAG_MAX  256u

enum kind { SAVE, LOAD, DELETE, SAVE_FILE };
static const char *const kind_names[] = {
	"snapshot-save", "snapshot-load", "snapshot-delete"};

struct qmp_job {
	struct qmp *q;
	char id[ID_MAX], tag[TAG_MAX];
	enum kind kind;
	pthread_t thread;
	const char *status; /* under jobs_lock, and so are ret and err */
	int ret;
	struct err err;
	struct qmp_job *next;
};

/* ---- doing it -------------------------------------------------------------------- */

struct work {
	struct vm *vm;
	enum kind kind;
	const char *tag;
	struct err *err;
	int ret;
};

static void do_work(void *arg)
{
	struct work *w = arg;

	if (w->kind == SAVE)
		w->ret = snapshot_save(w->vm, w->tag, w->err);
	else if (w->kind == LOAD)
		w->ret = snapshot_load(w->vm, w->tag, w->err);
	else if (w->kind == DELETE)
		w->ret = snapshot_delete(w->vm, w->tag, w->err);
	else
		w->ret = snapshot_save_file(w->vm, w->tag, w->err);
}

static int work(struct qmp *q, enum kind kind, const char *tag, struct err *err)
{
	struct work w = {.vm = q->what.vm, .kind = kind, .tag = tag, .err = err};
	int ret;

	pthread_mutex_lock(&q->storage_lock);
	ret = vm_call(q->what.vm, do_work, &w);
	pthread_mutex_unlock(&q->storage_lock);
	return ret ? err_set(err, ESHUTDOWN, "the machine is ending") : w.ret;
}

/* ---- jobs ------------------------------------------------------------------------ */

static void set_status(struct qmp_job *j, const char *status)
{
	struct json *data = json_new_object();

	json_put_string(data, "id", j->id);
	json_put_string(data, "status", status);
	pthread_mutex_lock(&j->q->jobs_lock);
	j->status = status;
	pthread_mutex_unlock(&j->q->jobs_lock);
	qmp_event(j->q, "JOB_STATUS_CHANGE", data);
}

static void *job_main(void *arg)
{
	struct qmp_job *j = arg;
	struct err err = ERR_INIT;
	int ret;

	set_status(j, "running");
	ret = work(j->q, j->kind, j->tag, &err);
	pthread_mutex_lock(&j->q->jobs_lock);
	j->ret = ret;
	j->err = err;
	pthread_mutex_unlock(&j->q->jobs_lock);
	if (ret) {
		set_status(j, "aborting");
	} else {
		set_status(j, "waiting");
		set_status(j, "pending");
	}
	set_status(j, "concluded");
	return NULL;
}

static struct qmp_job *find_job(struct qmp *q, const char *id)
{
	struct qmp_job *j = q->jobs;

	while (j && strcmp(j->id, id) != 0)
		j = j->next;
	return j;
}

static unsigned count_jobs(const struct qmp *q)
{
	unsigned n = 0;

	for (const struct qmp_job *j = q->jobs; j; j = j->next)
		n++;
	return n;
}

static int check_name(struct qmp_call *c, const char *what, const char *name, size_t max)
{
	if (*name && strlen(name) < max)
		return 0;
	return err_set(
		&c->err, EINVAL, "%s '%s' has 1 to %zu bytes", what, name, max - 1);
}

static int start_job(struct qmp_call *c, enum kind kind)
{
	const char *id = qmp_string(c, "job-id"), *tag = qmp_string(c, "tag");
	struct qmp_job *j;
	int ret;

	if (check_name(c, "job-id", id, ID_MAX) || check_name(c, "tag", tag, TAG_MAX))
		return -EINVAL;
	if (find_job(c->q, id))
		return err_set(&c->err, EEXIST, "there is a job '%s' already", id);
	if (count_jobs(c->q) == JOBS_MAX)
		return err_set(&c->err, E2BIG, "more than %u jobs", JOBS_MAX);
	j = calloc(1, sizeof(*j));
	if (!j)
		return err_errno(&c->err, ENOMEM, "job");
	j->q = c->q;
	j->kind = kind;
	strcpy(j->id, id);
	strcpy(j->tag, tag);
	set_status(j, "created");
	ret = pthread_create(&j->thread, NULL, job_main, j);
	if (ret) {
		set_status(j, "null");
		free(j);
		return err_errno(&c->err, ret, "job");
	}
	j->next = c->q->jobs;
	c->q->jobs = j;
	return 0;
}

/* ---- which disks ----------------------------------------------------------------- */

static struct disk *first_writable(struct qmp_call *c)
{
	struct disk *d = c->q->what.vm->disks;

	while (d && d->read_only)
		d = d->next;
	return d;
}

static bool is_listed(const struct json *list, const struct disk *d)
{
	for (size_t i = 0; i < json_array_len(list); i++) {
		const char *name = json_string_of(json_array_at(list, i));

		if (!strcmp(name, d->id) || !strcmp(name, d->node))
			return true;
	}
	return false;
}

/* A snapshot is of all disks that are written to, and of no other: what is listed has to be that. */
static int check_devices(struct qmp_call *c)
{
	const struct json *list = c->args ? json_get(c->args, "devices") : NULL;

	if (!list)
		return 0;
	for (size_t i = 0; i < json_array_len(list); i++) {
		const struct json *v = json_array_at(list, i);
		const struct disk *d;

		if (json_kind_of(v) != JSON_STRING)
			return err_set(&c->err, EINVAL, "devices are strings");
		d = qmp_disk(c, json_string_of(v));
		if (!d)
			return -EINVAL;
		if (d->read_only)
			return err_set(&c->err, EROFS, "disk '%s' is read-only", d->id);
	}
	for (const struct disk *d = c->q->what.vm->disks; d; d = d->next)
		if (!d->read_only && !is_listed(list, d))
			return err_set(&c->err, EINVAL,
				"a snapshot is of all writable disks; '%s' is missing",
				d->id);
	return 0;
}

static int check_disks(struct qmp_call *c)
{
	const char *name = qmp_string(c, "vmstate");
	const struct disk *d = name ? qmp_disk(c, name) : NULL;

	if (name && !d)
		return -EINVAL;
	if (name && d != first_writable(c))
		return err_set(&c->err, EINVAL,
			"the machine's state goes to the first writable disk, not to "
			"'%s'",
			name);
	return check_devices(c);
}

int qmp_snapshot_save(struct qmp_call *c)
{
	return check_disks(c) ? -EINVAL : start_job(c, SAVE);
}

int qmp_snapshot_load(struct qmp_call *c)
{
	return check_disks(c) ? -EINVAL : start_job(c, LOAD);
}

int qmp_snapshot_delete(struct qmp_call *c)
{
	return check_disks(c) ? -EINVAL : start_job(c, DELETE);
}

/* At once, and without a job: who asks for it waits. */
int qmp_save_file(struct qmp_call *c)
{
	return work(c->q, SAVE_FILE, qmp_string(c, "path"), &c->err);
}

/* ---- looking after them ---------------------------------------------------------- */

static const char *status_of(struct qmp_job *j)
{
	const char *status;

	pthread_mutex_lock(&j->q->jobs_lock);
	status = j->status;
	pthread_mutex_unlock(&j->q->jobs_lock);
	return status;
}

static struct json *job_facts(struct qmp_job *j)
{
	struct json *o = json_new_object();
	bool over;

	pthread_mutex_lock(&j->q->jobs_lock);
	over = !strcmp(j->status, "concluded");
	json_put_string(o, "id", j->id);
	json_put_string(o, "type", kind_names[j->kind]);
	json_put_string(o, "status", j->status);
	json_put_int(o, "current-progress", over);
	json_put_int(o, "total-progress", 1);
	if (j->ret)
		json_put_string(o, "error", j->err.msg);
	pthread_mutex_unlock(&j->q->jobs_lock);
	return o;
}

int qmp_query_jobs(struct qmp_call *c)
{
	c->result = json_new_array();
	for (struct qmp_job *j = c->q->jobs; j; j = j->next)
		json_add(c->result, job_facts(j));
	return 0;
}

static struct qmp_job *job_of(struct qmp_call *c)
{
	const char *id = qmp_string(c, "id");
	struct qmp_job *j = find_job(c->q, id);

	if (!j)
		qmp_fail(c, "DeviceNotActive", "there is no job '%s'", id);
	return j;
}

static void end_job(struct qmp_job *j)
{
	struct qmp_job **at = &j->q->jobs;

	while (*at != j)
		at = &(*at)->next;
	*at = j->next;
	pthread_join(j->thread, NULL);
	set_status(j, "null");
	free(j);
}

int qmp_job_dismiss(struct qmp_call *c)
{
	struct qmp_job *j = job_of(c);

	if (!j)
		return -EINVAL;
	if (strcmp(status_of(j), "concluded") != 0)
		return err_set(&c->err, EBUSY, "job '%s' is %s: it cannot be dismissed",
			j->id, status_of(j));
	end_job(j);
	return 0;
}

/* Half a snapshot is none: once it runs there is no way back but to wait. */
int qmp_job_cancel(struct qmp_call *c)
{
	struct qmp_job *j = job_of(c);

	return j ? err_set(&c->err, EBUSY, "job '%s' is %s: it cannot be cancelled",
			   j->id, status_of(j))
		 : -EINVAL;
}

void qmp_jobs_end(struct qmp *q)
{
	while (q->jobs)
		end_job(q->jobs);
}

/* ---- as people type them --------------------------------------------------------- */

static bool has_snapshot(struct disk *d, const char *name)
{
	struct blk_snapshot *list = NULL;
	bool found = false;
	size_t n = 0;

	if (d->read_only)
		return true;
	if (blk_snapshot_list(d->blk, &list, &n, NULL))
		return false;
	for (size_t i = 0; i < n && !found; i++)
		found = !strcmp(list[i].name, name);
	blk_snapshots_free(list, n);
	return found;
}

static void print_snapshot(FILE *f, const struct blk_snapshot *s)
{
	unsigned long long ms = s->vm_clock_nsec / 1000000;
	time_t when = s->date_sec;
	char date[32] = "";
	struct tm tm;

	if (localtime_r(&when, &tm))
		strftime(date, sizeof(date), "%Y-%m-%d %H:%M:%S", &tm);
	fprintf(f, "%-9s %-17s %8llu MiB %19s %4llu:%02llu:%02llu.%03llu\r\n", s->id,
		s->name, (unsigned long long)(s->vm_state_bytes >> 20), date,
		ms / 3600000, ms / 60000 % 60, ms / 1000 % 60, ms % 1000);
}

/* Those that the machine can go back to: all disks have them, and one the machine's state. */
static void print_snapshots(struct qmp_call *c, FILE *f)
{
	struct disk *first = first_writable(c);
	struct blk_snapshot *list = NULL;
	size_t n = 0, shown = 0;

	if (first && blk_snapshot_list(first->blk, &list, &n, NULL))
		n = 0;
	for (size_t i = 0; i < n; i++) {
		bool everywhere = list[i].vm_state_bytes != 0;

		for (struct disk *d = first->next; d && everywhere; d = d->next)
			everywhere = has_snapshot(d, list[i].name);
		if (!everywhere)
			continue;
		if (!shown++)
			fprintf(f, "%-9s %-17s %12s %19s %13s\r\n", "ID", "TAG",
				"VM SIZE", "DATE", "VM CLOCK");
		print_snapshot(f, &list[i]);
	}
	if (!shown)
		fprintf(f, "There is no snapshot of the machine.\r\n");
	blk_snapshots_free(list, n);
}

static void do_human(struct qmp_call *c, FILE *f, const char *word, const char *rest)
{
	static const char *const words[] = {"savevm", "loadvm", "delvm"};
	struct err err = ERR_INIT;

	if (!strcmp(word, "info") && !strcmp(rest, "snapshots")) {
		pthread_mutex_lock(&c->q->storage_lock);
		print_snapshots(c, f);
		pthread_mutex_unlock(&c->q->storage_lock);
		return;
	}
	for (unsigned i = 0; i < 3; i++) {
		if (strcmp(word, words[i]) != 0)
			continue;
		if (!*rest || strlen(rest) >= TAG_MAX)
			fprintf(f, "Error: %s needs a name\r\n", word);
		else if (work(c->q, (enum kind)i, rest, &err))
			fprintf(f, "Error: %s\r\n", err.msg);
		return;
	}
	fprintf(f, "unknown command: '%s'\r\n", word);
}

/* What it says is for people, errors too. */
int qmp_human(struct qmp_call *c)
{
	char word[16] = "", rest[TAG_MAX + 1] = "", *text = NULL;
	size_t bytes;
	FILE *f = open_memstream(&text, &bytes);
	struct json *said;

	if (!f)
		return err_errno(&c->err, ENOMEM, "human-monitor-command");
	sscanf(qmp_string(c, "command-line"), "%15s %256[^\r\n]", word, rest);
	do_human(c, f, word, rest);
	if (fclose(f)) {
		free(text);
		return err_errno(&c->err, ENOMEM, "human-monitor-command");
	}
	said = json_new_string(text);
	free(text);
	c->result = said;
	return 0;
}
