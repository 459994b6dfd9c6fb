/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * byre ctl: tells a running machine what to do, by its control socket. Each command is a few
 * QMP commands and what they say made readable.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/json.h"
#include "base/json_split.h"
#include "base/math.h"
#include "base/size.h"
#include "base/task.h"
#include "tools/byre.h"
#include "tools/common.h"

#define POLL_US    50000
#define REMOVAL_NS 30000000000ull
#define READ_BYTES 4096

struct ctl {
	int fd;
	struct json_split *in;
};

/* ---- talking --------------------------------------------------------------------- */

static int connect_to(struct ctl *c, const char *path)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};

	if (strlen(path) >= sizeof(a.sun_path)) {
		tool_error("%s: the name of a socket is shorter", path);
		return -1;
	}
	strcpy(a.sun_path, path);
	c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&a, sizeof(a))) {
		tool_error("%s: %s", path, strerror(errno));
		return -1;
	}
	return 0;
}

/* The next value; NULL when there will be none. */
static struct json *receive(struct ctl *c)
{
	char data[READ_BYTES], *text;
	struct json *v;
	ssize_t n;

	while (!(text = json_split_next(c->in))) {
		n = read(c->fd, data, sizeof(data));
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0 || json_split_add(c->in, data, (size_t)n))
			return NULL;
	}
	v = json_parse(text, NULL);
	free(text);
	return v;
}

static int transmit(struct ctl *c, const char *text)
{
	size_t bytes = strlen(text);

	while (bytes) {
		ssize_t n = send(c->fd, text, bytes, MSG_NOSIGNAL);

		if (n < 0 && errno != EINTR)
			return -errno;
		if (n > 0) {
			text += n;
			bytes -= (size_t)n;
		}
	}
	return 0;
}

/* The answer to what was sent; events pass by. */
static struct json *receive_answer(struct ctl *c)
{
	struct json *v;

	while ((v = receive(c)) && !json_get(v, "return") && !json_get(v, "error"))
		json_free(v);
	return v;
}

/* What it returns, the caller's; NULL after saying why there is nothing. Takes args. */
static struct json *call(struct ctl *c, const char *command, struct json *args)
{
	struct json *v = json_new_object(), *value = NULL;
	const struct json *error;
	char *text;

	json_put_string(v, "execute", command);
	if (args)
		json_put(v, "arguments", args);
	text = json_dump(v, 0);
	json_free(v);
	v = transmit(c, text) ? NULL : receive_answer(c);
	free(text);
	error = v ? json_get(v, "error") : NULL;
	if (!v)
		tool_error("%s: the machine has ended", command);
	else if (error)
		tool_error("%s", json_string_of(json_get(error, "desc")));
	else
		value = json_dup(json_get(v, "return"));
	json_free(v);
	return value;
}

/* As call(), where nothing of interest comes back. 0 or 1. */
static int order(struct ctl *c, const char *command, struct json *args)
{
	struct json *v = call(c, command, args);

	json_free(v);
	return v ? 0 : 1;
}

static struct json *argument(const char *key, const char *value)
{
	struct json *args = json_new_object();

	json_put_string(args, key, value);
	return args;
}

static int64_t int_of(const struct json *o, const char *key)
{
	const struct json *v = o ? json_get(o, key) : NULL;

	return v && json_kind_of(v) == JSON_INT ? json_int_of(v) : 0;
}

static const char *text_of(const struct json *o, const char *key)
{
	const struct json *v = o ? json_get(o, key) : NULL;

	return v && json_kind_of(v) == JSON_STRING ? json_string_of(v) : "";
}

/* ---- the machine ----------------------------------------------------------------- */

static int do_status(struct ctl *c, char **args)
{
	struct json *v = call(c, "query-status", NULL);

	(void)args;
	if (v)
		tool_line(stdout, "%s", text_of(v, "status"));
	json_free(v);
	return v ? 0 : 1;
}

static int do_stop(struct ctl *c, char **args)
{
	(void)args;
	return order(c, "stop", NULL);
}

static int do_cont(struct ctl *c, char **args)
{
	(void)args;
	return order(c, "cont", NULL);
}

static int do_reset(struct ctl *c, char **args)
{
	(void)args;
	return order(c, "system_reset", NULL);
}

static int do_powerdown(struct ctl *c, char **args)
{
	(void)args;
	return order(c, "system_powerdown", NULL);
}

static int do_quit(struct ctl *c, char **args)
{
	(void)args;
	return order(c, "quit", NULL);
}

static int do_nmi(struct ctl *c, char **args)
{
	(void)args;
	return order(c, "inject-nmi", NULL);
}

/* As it comes back. What is no JSON would be waited for to become some. */
static int do_qmp(struct ctl *c, char **args)
{
	struct err err = ERR_INIT;
	struct json *asked = json_parse(args[0], &err), *v = NULL;
	char *text;
	int status;

	if (!asked) {
		tool_report("qmp", &err);
		return 1;
	}
	json_free(asked);
	if (transmit(c, args[0]) == 0 && transmit(c, "\n") == 0)
		v = receive_answer(c);
	text = v ? json_dump(v, 0) : NULL;
	status = v && json_get(v, "return") ? 0 : 1;

	if (text)
		printf("%s\n", text);
	else
		tool_error("the machine has ended");
	free(text);
	json_free(v);
	return status;
}

/* ---- tables ---------------------------------------------------------------------- */

static void print_disk(const struct json *disk)
{
	const struct json *in = json_get(disk, "inserted");
	const struct json *image = in ? json_get(in, "image") : NULL;
	const char *state = text_of(disk, "io-status");
	const struct json *ro = in ? json_get(in, "ro") : NULL;
	char size[32];

	tool_line(stdout, "%-16s %10s %-8s %-2s %-8s %s", text_of(disk, "device"),
		size_human(size, sizeof(size), (uint64_t)int_of(image, "virtual-size")),
		text_of(in, "drv"), ro && json_bool_of(ro) ? "ro" : "rw", state,
		text_of(in, "file"));
}

static int do_disks(struct ctl *c, char **args)
{
	struct json *v = call(c, "query-block", NULL);

	(void)args;
	if (!v)
		return 1;
	printf("%-16s %10s %-8s %-2s %-8s %s\n", "DISK", "SIZE", "FORMAT", "", "STATE",
		"IMAGE");
	for (size_t i = 0; i < json_array_len(v); i++)
		print_disk(json_array_at(v, i));
	json_free(v);
	return 0;
}

static void print_exits(const struct json *cpus)
{
	printf("%-16s %12s %12s %12s %12s %12s\n", "CPU", "EXITS", "IO", "MMIO",
		"INTERRUPT", "OTHER");
	for (size_t i = 0; i < json_array_len(cpus); i++) {
		const struct json *o = json_array_at(cpus, i);

		printf("%-16" PRId64 " %12" PRId64 " %12" PRId64 " %12" PRId64
		       " %12" PRId64 " %12" PRId64 "\n",
			int_of(o, "cpu-index"), int_of(o, "exits"), int_of(o, "io"),
			int_of(o, "mmio"), int_of(o, "interrupt"),
			int_of(o, "other") + int_of(o, "shutdown"));
	}
}

static void print_requests(const struct json *disks)
{
	printf("%-16s %12s %12s %12s %12s %12s\n", "DISK", "READS", "WRITES", "FLUSHES",
		"READ", "WRITTEN");
	for (size_t i = 0; i < json_array_len(disks); i++) {
		const struct json *o = json_array_at(disks, i), *s = json_get(o, "stats");
		char in[32], out[32];

		tool_line(stdout,
			"%-16s %12" PRId64 " %12" PRId64 " %12" PRId64 " %12s %12s",
			text_of(o, "device"), int_of(s, "rd_operations"),
			int_of(s, "wr_operations"), int_of(s, "flush_operations"),
			size_human(in, sizeof(in), (uint64_t)int_of(s, "rd_bytes")),
			size_human(out, sizeof(out), (uint64_t)int_of(s, "wr_bytes")));
	}
}

static int do_stats(struct ctl *c, char **args)
{
	struct json *cpus = call(c, "x-byre-stats", NULL);
	struct json *disks = cpus ? call(c, "query-blockstats", NULL) : NULL;

	(void)args;
	if (disks) {
		print_exits(json_get(cpus, "vcpus"));
		print_requests(disks);
	}
	json_free(cpus);
	json_free(disks);
	return disks ? 0 : 1;
}

/* ---- disks ----------------------------------------------------------------------- */

static int do_resize(struct ctl *c, char **args)
{
	struct json *what;
	uint64_t bytes;

	if (tool_size(args[1], "size", &bytes))
		return 1;
	what = argument("device", args[0]);
	json_put_int(what, "size", (int64_t)bytes);
	return order(c, "block_resize", what);
}

static int do_balloon(struct ctl *c, char **args)
{
	struct json *what;
	uint64_t bytes;

	if (tool_size(args[0], "size", &bytes))
		return 1;
	what = json_new_object();
	json_put_int(what, "value", (int64_t)bytes);
	return order(c, "balloon", what);
}

static int do_add_disk(struct ctl *c, char **args)
{
	struct json *v = call(c, "x-byre-add-disk", argument("options", args[0]));

	if (v)
		tool_line(stdout, "%s", text_of(v, "id"));
	json_free(v);
	return v ? 0 : 1;
}

/* 1: it is there, 0: it is not, -1: nobody tells. */
static int has_disk(struct ctl *c, const char *id)
{
	struct json *v = call(c, "query-blockstats", NULL);
	int found = v ? 0 : -1;

	for (size_t i = 0; v && i < json_array_len(v); i++)
		if (!strcmp(text_of(json_array_at(v, i), "device"), id))
			found = 1;
	json_free(v);
	return found;
}

/* The guest has its own mind. */
static int do_remove_disk(struct ctl *c, char **args)
{
	uint64_t end = clock_ns() + REMOVAL_NS;
	int found;

	if (order(c, "device_del", argument("id", args[0])))
		return 1;
	while ((found = has_disk(c, args[0])) > 0 && clock_ns() < end)
		usleep(POLL_US);
	if (found > 0)
		tool_error("%s: the guest has not let it go", args[0]);
	return found ? 1 : 0;
}

/* ---- snapshots ------------------------------------------------------------------- */

static const struct json *find_job(const struct json *jobs, const char *id)
{
	for (size_t i = 0; i < json_array_len(jobs); i++)
		if (!strcmp(text_of(json_array_at(jobs, i), "id"), id))
			return json_array_at(jobs, i);
	return NULL;
}

/* -1: it goes on; else the status it ended with. */
static int look_at_job(struct ctl *c, const char *id)
{
	struct json *jobs = call(c, "query-jobs", NULL);
	const struct json *job = jobs ? find_job(jobs, id) : NULL;
	int status = -1;

	if (!job) {
		status = 1;
	} else if (!strcmp(text_of(job, "status"), "concluded")) {
		status = json_get(job, "error") ? 1 : 0;
		if (status)
			tool_error("%s", text_of(job, "error"));
	}
	json_free(jobs);
	return status;
}

static int run_job(struct ctl *c, const char *command, const char *tag)
{
	struct json *args = argument("tag", tag);
	char id[40];
	int status;

	snprintf(id, sizeof(id), "ctl-%ld", (long)getpid());
	json_put_string(args, "job-id", id);
	if (order(c, command, args))
		return 1;
	while ((status = look_at_job(c, id)) < 0)
		usleep(POLL_US);
	if (order(c, "job-dismiss", argument("id", id)))
		status = 1;
	return status;
}

static int do_snapshot(struct ctl *c, char **args)
{
	return run_job(c, "snapshot-save", args[0]);
}

static int do_restore(struct ctl *c, char **args)
{
	return run_job(c, "snapshot-load", args[0]);
}

static int do_delete(struct ctl *c, char **args)
{
	return run_job(c, "snapshot-delete", args[0]);
}

static int do_snapshots(struct ctl *c, char **args)
{
	struct json *v = call(
		c, "human-monitor-command", argument("command-line", "info snapshots"));
	char *text = v ? strdup(json_string_of(v)) : NULL, *rest = text, *line;

	(void)args;
	while (rest && (line = strsep(&rest, "\n")) && *line) {
		line[strcspn(line, "\r")] = 0;
		tool_line(stdout, "%s", line);
	}
	free(text);
	json_free(v);
	return v ? 0 : 1;
}

/* The machine may have another folder than we. */
static int do_save_file(struct ctl *c, char **args)
{
	char *here = *args[0] == '/' ? strdup("") : getcwd(NULL, 0), *path = NULL;
	int status = 1;

	if (!here || asprintf(&path, "%s%s%s", here, *here ? "/" : "", args[0]) < 0)
		tool_error("%s: %s", args[0], strerror(errno));
	else
		status = order(c, "x-byre-save-file", argument("path", path));
	free(here);
	free(path);
	return status;
}

/* ---- the command ----------------------------------------------------------------- */

static const struct {
	const char *name, *args; /* their names */
	int n_args;
	int (*run)(struct ctl *c, char **args);
	const char *what;
} commands[] = {
	{"status", "", 0, do_status, "whether it runs"},
	{"stop", "", 0, do_stop, "stand still"},
	{"cont", "", 0, do_cont, "go on"},
	{"reset", "", 0, do_reset, "the reset button"},
	{"powerdown", "", 0, do_powerdown, "the power button"},
	{"quit", "", 0, do_quit, "end at once"},
	{"nmi", "", 0, do_nmi, "a non-maskable interrupt"},
	{"disks", "", 0, do_disks, "its disks"},
	{"stats", "", 0, do_stats, "what its processors and disks did"},
	{"resize", "DISK SIZE", 2, do_resize, "another size for a disk"},
	{"balloon", "SIZE", 1, do_balloon, "how much of its memory the guest is to have"},
	{"add-disk", "OPTIONS", 1, do_add_disk, "one more disk, as with run --disk"},
	{"remove-disk", "DISK", 1, do_remove_disk,
		"a disk less, when the guest lets it go"},
	{"snapshot", "NAME", 1, do_snapshot, "a snapshot of memory, devices and disks"},
	{"restore", "NAME", 1, do_restore, "go back to a snapshot"},
	{"snapshots", "", 0, do_snapshots, "which there are"},
	{"delete", "NAME", 1, do_delete, "delete a snapshot"},
	{"save-file", "FILE", 1, do_save_file,
		"memory and devices into a file, for run --restore-file"},
	{"qmp", "JSON", 1, do_qmp, "a command of the protocol, as it is"},
};

static void print_help(void)
{
	char text[64];

	printf("Control a running machine.  Usage:\n\n  %s ctl SOCKET COMMAND "
	       "[ARGUMENT...]\n\n"
	       "SOCKET is that of run --qmp.\n\nCommands:\n",
		tool_name);
	for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
		snprintf(text, sizeof(text), "%s %s", commands[i].name, commands[i].args);
		printf("  %-20s %s\n", text, commands[i].what);
	}
}

static int greet(struct ctl *c)
{
	struct json *v = receive(c);
	bool good = v && json_kind_of(v) == JSON_OBJECT && json_get(v, "QMP");

	json_free(v);
	if (!good) {
		tool_error("this is no control socket");
		return 1;
	}
	return order(c, "qmp_capabilities", NULL);
}

static int run_command(const char *path, size_t which, char **args)
{
	struct ctl c = {.fd = -1, .in = json_split_new()};
	int status = 1;

	if (!c.in)
		tool_error("out of memory");
	else if (connect_to(&c, path) == 0 && greet(&c) == 0)
		status = commands[which].run(&c, args);
	if (c.fd >= 0)
		close(c.fd);
	json_split_free(c.in);
	return tool_flush_stdout() < 0 ? 1 : status;
}

/* argv: SOCKET COMMAND ARGUMENT… */
static int control(int argc, char **argv)
{
	for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
		if (strcmp(argv[1], commands[i].name) != 0)
			continue;
		if (argc - 2 == commands[i].n_args)
			return run_command(argv[0], i, argv + 2);
		tool_error("ctl: usage: %s ctl SOCKET %s %s", tool_name, argv[1],
			commands[i].args);
		return 1;
	}
	tool_error("ctl: '%s' is not a command; '%s ctl --help' lists them", argv[1],
		tool_name);
	return 1;
}

int byre_ctl(int argc, char **argv)
{
	if (argc > 1 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))) {
		print_help();
		return tool_flush_stdout() < 0 ? 1 : 0;
	}
	if (argc < 3) {
		tool_error("ctl: usage: %s ctl SOCKET COMMAND [ARGUMENT...]", tool_name);
		return 1;
	}
	return control(argc - 1, argv + 1);
}

/* byre snapshot, byre restore: SOCKET NAME. */
static int shorthand(int argc, char **argv, const char *command)
{
	char *args[] = {NULL, (char *)(uintptr_t)command, NULL};

	if (argc == 2 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))) {
		printf("%s %s SOCKET NAME: as %s ctl SOCKET %s NAME\n", tool_name,
			command, tool_name, command);
		return tool_flush_stdout() < 0 ? 1 : 0;
	}
	if (argc != 3) {
		tool_error("usage: %s %s SOCKET NAME", tool_name, command);
		return 1;
	}
	args[0] = argv[1];
	args[2] = argv[2];
	return control(3, args);
}

int byre_snapshot(int argc, char **argv)
{
	return shorthand(argc, argv, "snapshot");
}

int byre_restore(int argc, char **argv)
{
	return shorthand(argc, argv, "restore");
}
