/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The options of byre run: one table for the command line and for the configuration file, which is
 * a JSON object whose keys are the long options. What is written is collected first, the
 * file's before the command line's, and then carried out in that order, so that the last word is the
 * command line's; what can be given more than once adds up.
 */
#include <getopt.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/math.h"
#include "base/opts.h"
#include "base/size.h"
#include "tools/byre-run.h"
#include "tools/common.h"

#define CONFIG_BYTES_MAX MiB

static const char help[] =
	"Start a machine and stay until it is turned off.  Usage:\n\n"
	"  %s run [options] [IMAGE...]\n\n"
	"Options:\n"
	"  -h, --help\n     show this text\n"
	"  --config FILE\n     options from a JSON object; those given here win\n"
	"  -m, --memory SIZE\n     the guest's memory (1G)\n"
	"  -c, --cpus N[,sockets=N][,cores=N][,threads=N]\n     processors (1), and how "
	"they are arranged\n"
	"  --mergeable, --huge-pages, --prealloc\n     memory that the kernel may share "
	"with other machines (KSM); of\n     2 MiB pages; all of it there before the "
	"start\n"
	"  --host-nodes LIST\n     NUMA nodes of the host that memory has to come from: "
	"0,2-3\n"
	"  --kernel FILE\n     a Linux kernel: a bzImage, or an ELF file with a PVH "
	"entry\n"
	"  --initrd FILE\n     its initramfs\n"
	"  --append TEXT\n     its command line\n"
	"  --firmware NAME\n     what starts instead of a kernel: bios (SeaBIOS, the "
	"default), uefi (OVMF),\n     or a file\n"
	"  --vars FILE\n     where UEFI keeps its variables; made where it is not there. "
	"Without it\n     they are forgotten at the end\n"
	"  --firmware-log FILE\n     where firmware writes what it does\n"
	"  --disk file=IMAGE[,option=value...]\n     a disk: "
	"iface=virtio|scsi|nvme|ahci, "
	"media=disk|cdrom, id=NAME, format=FMT,\n     readonly, share-rw=on, "
	"cache=MODE, "
	"discard=unmap, "
	"queues=N, packed=on,\n     serial=TEXT, boot=N, "
	"rerror=report|ignore|stop,\n     werror=report|ignore|stop|enospc, pr=on, "
	"bootindex=N,\n     throttling.iops-total= (-read, -write), "
	"throttling.bps-total=, and any\n     option of the image's format; IMAGE alone "
	"is "
	"file=IMAGE\n"
	"  --object OBJDEF\n     an object such as a secret\n" DEVICES_HELP
	"  --qmp unix:PATH\n     a socket that controls the machine (byre ctl)\n"
	"  -S, --paused\n     do not start it until it is told to go on\n"
	"  --restore NAME\n     begin with a snapshot that its disks have\n"
	"  --restore-file FILE\n     begin with memory and devices out of a file\n"
	"  --no-reboot, --no-shutdown\n     end when the guest resets it; stay, stopped, "
	"when it turns it off\n"
	"  --name TEXT, --uuid UUID\n     what it is called\n"
	"  --pidfile FILE, --daemonize\n     where its process number goes; go on in the "
	"background\n" CONFINE_HELP "\n"
	"The serial console is on standard input and output. On a terminal Ctrl-A x ends "
	"the\n"
	"machine, Ctrl-A p presses its power button, Ctrl-A Ctrl-A sends Ctrl-A.\n";

/* ---- setters --------------------------------------------------------------------- */

static int set_memory(struct run *r, const char *value, struct err *err)
{
	if (size_parse(value, 'M', NULL, &r->machine.memory.bytes) == 0)
		return 0;
	return err_set(err, EINVAL, "%s is not a size", value);
}

static int set_cpus(struct run *r, const char *value, struct err *err)
{
	int ret = run_read_topology(value, &r->machine.topology, err);

	return ret ? err_prefix(err, "%s", value) : 0;
}

static int set_uuid(struct run *r, const char *value, struct err *err)
{
	(void)err;
	r->machine.uuid = r->machine.smbios.uuid = value;
	return 0;
}

static int add_disk(struct run *r, const char *value, struct err *err)
{
	if (r->n_disks == MACHINE_DISKS_MAX)
		return err_set(err, E2BIG, "at most %u", MACHINE_DISKS_MAX);
	r->disk[r->n_disks++] = value;
	return 0;
}

static int add_net(struct run *r, const char *value, struct err *err)
{
	if (r->devices.n_nets == MACHINE_NETS_MAX)
		return err_set(err, E2BIG, "at most %u", MACHINE_NETS_MAX);
	r->devices.net[r->devices.n_nets++] = value;
	return 0;
}

/* "0,2-3" */
static int set_nodes(struct run *r, const char *value, struct err *err)
{
	uint64_t nodes = 0;

	for (const char *p = value; *p;) {
		char *end;
		unsigned long first = strtoul(p, &end, 10), last = first;

		if (end > p && *end == '-') {
			p = end + 1;
			last = strtoul(p, &end, 10);
		}
		if (end == p || first > last || last > 63 || (*end && *end != ','))
			return err_set(
				err, EINVAL, "%s is no list of nodes like 0,2-3", value);
		for (; first <= last; first++)
			nodes |= 1ull << first;
		p = *end ? end + 1 : end;
	}
	if (!nodes)
		return err_set(err, EINVAL, "no node is named");
	r->machine.memory.nodes = nodes;
	return 0;
}

static int add_qmp(struct run *r, const char *value, struct err *err)
{
	if (r->machine.n_qmp == MACHINE_QMP_MAX)
		return err_set(err, E2BIG, "at most %u", MACHINE_QMP_MAX);
	r->machine.qmp[r->machine.n_qmp++] = value;
	return 0;
}

/* Says itself what there is to say. */
static int add_object(struct run *r, const char *value, struct err *err)
{
	(void)r;
	(void)err;
	return tool_add_object(value) ? -EINVAL : 0;
}

/* ---- the table ------------------------------------------------------------------- */

enum kind {
	SWITCH,    /* a bool */
	TEXT,      /* a string, kept as it is */
	VALUE,     /* set() makes something of it */
	LIST,      /* likewise, and there can be several */
	ISOLATION, /* byre-confine.c's, by its number; perhaps several */
	LABELS,    /* likewise, and its value may be missing */
	SWITCHED,  /* TEXT that begins with on or off */
};

static const struct entry {
	const char *name;
	char letter; /* 0: none */
	enum kind kind;
	size_t offset; /* SWITCH, TEXT: in struct run; ISOLATION, LABELS: the number */
	int (*set)(struct run *r, const char *value, struct err *err);
} table[] = {
	{"memory", 'm', VALUE, 0, set_memory},
	{"cpus", 'c', VALUE, 0, set_cpus},
	{"mergeable", 0, SWITCH, offsetof(struct run, machine.memory.mergeable), NULL},
	{"huge-pages", 0, SWITCH, offsetof(struct run, machine.memory.huge), NULL},
	{"prealloc", 0, SWITCH, offsetof(struct run, machine.memory.prealloc), NULL},
	{"host-nodes", 0, VALUE, 0, set_nodes},
	{"kernel", 0, TEXT, offsetof(struct run, machine.kernel), NULL},
	{"initrd", 0, TEXT, offsetof(struct run, machine.initrd), NULL},
	{"append", 0, TEXT, offsetof(struct run, machine.cmdline), NULL},
	{"firmware", 0, TEXT, offsetof(struct run, firmware.name), NULL},
	{"vars", 0, TEXT, offsetof(struct run, firmware.vars), NULL},
	{"firmware-log", 0, TEXT, offsetof(struct run, firmware.log), NULL},
	{"disk", 0, LIST, 0, add_disk},
	{"object", 0, LIST, 0, add_object},
	{"net", 0, LIST, 0, add_net},
	{"serial", 0, TEXT, offsetof(struct run, devices.serial), NULL},
	{"console", 0, TEXT, offsetof(struct run, devices.console), NULL},
	{"rng", 0, SWITCHED, offsetof(struct run, devices.rng), NULL},
	{"balloon", 0, SWITCHED, offsetof(struct run, devices.balloon), NULL},
	{"qmp", 0, LIST, 0, add_qmp},
	{"paused", 'S', SWITCH, offsetof(struct run, machine.paused), NULL},
	{"restore", 0, TEXT, offsetof(struct run, machine.restore), NULL},
	{"restore-file", 0, TEXT, offsetof(struct run, machine.restore_file), NULL},
	{"no-reboot", 0, SWITCH, offsetof(struct run, machine.no_reboot), NULL},
	{"no-shutdown", 0, SWITCH, offsetof(struct run, machine.no_shutdown), NULL},
	{"name", 0, TEXT, offsetof(struct run, machine.name), NULL},
	{"uuid", 0, VALUE, 0, set_uuid},
	{"pidfile", 0, TEXT, offsetof(struct run, pidfile), NULL},
	{"daemonize", 0, SWITCH, offsetof(struct run, daemonize), NULL},
	{"confine", 0, ISOLATION, OPT_CONFINE, NULL},
	{"seccomp", 0, ISOLATION, OPT_SECCOMP, NULL},
	{"landlock", 0, ISOLATION, OPT_LANDLOCK, NULL},
	{"namespaces", 0, ISOLATION, OPT_NAMESPACES, NULL},
	{"user", 0, ISOLATION, OPT_USER, NULL},
	{"allow-read", 0, ISOLATION, OPT_ALLOW_READ, NULL},
	{"allow-write", 0, ISOLATION, OPT_ALLOW_WRITE, NULL},
	{"cgroup", 0, ISOLATION, OPT_CGROUP, NULL},
	{"svirt", 0, LABELS, OPT_SVIRT, NULL},
};

static const struct entry *find(const char *name)
{
	for (size_t i = 0; i < ARRAY_LEN(table); i++)
		if (!strcmp(table[i].name, name))
			return &table[i];
	return NULL;
}

/* ---- what was written ------------------------------------------------------------ */

struct setting {
	const struct entry *entry;
	const char *file; /* NULL: on the command line */
	char *value;
	struct setting *next;
};

static struct setting **end_of(struct setting **list)
{
	while (*list)
		list = &(*list)->next;
	return list;
}

static int add(struct setting **list, const struct entry *e, const char *file,
	const char *value, struct err *err)
{
	struct setting *s = calloc(1, sizeof(*s));

	if (s)
		s->value = strdup(value);
	if (!s || !s->value) {
		free(s);
		return err_errno(err, ENOMEM, "options");
	}
	s->entry = e;
	s->file = file;
	*end_of(list) = s;
	return 0;
}

static int set_switch(bool *field, const char *value, struct err *err)
{
	*field = !strcmp(value, "on");
	if (!*field && strcmp(value, "off") != 0)
		return err_set(err, EINVAL, "on or off, not '%s'", value);
	return 0;
}

static int carry_out(struct run *r, const struct setting *s, struct err *err)
{
	const struct entry *e = s->entry;
	char *field = (char *)r + e->offset;

	if (e->kind == SWITCH)
		return set_switch((bool *)field, s->value, err);
	if (e->kind == ISOLATION || e->kind == LABELS) /* it says itself what is wrong */
		return isolation_option(&r->isolation, (int)e->offset, s->value) < 0
			       ? 0
			       : -EINVAL;
	if (e->kind != TEXT && e->kind != SWITCHED)
		return e->set(r, s->value, err);
	memcpy(field, &s->value, sizeof(s->value));
	return 0;
}

static int carry_out_all(struct run *r)
{
	struct err err = ERR_INIT;

	for (const struct setting *s = r->settings; s; s = s->next) {
		if (carry_out(r, s, &err) == 0)
			continue;
		if (err.code && s->file)
			err_prefix(&err, "%s: %s", s->file, s->entry->name);
		else if (err.code)
			err_prefix(&err, "--%s", s->entry->name);
		if (err.code)
			tool_report(NULL, &err);
		return 1;
	}
	return -1;
}

void run_options_free(struct run *r)
{
	while (r->settings) {
		struct setting *s = r->settings;

		r->settings = s->next;
		free(s->value);
		free(s);
	}
}

/* ---- the file -------------------------------------------------------------------- */

struct config {
	const char *name;
	const struct entry *entry;
	struct setting **list;
	struct err *err;
};

static void put_escaped(FILE *f, const char *text)
{
	for (; *text; text++) {
		if (*text == ',')
			fputc(',', f);
		fputc(*text, f);
	}
}

struct words {
	FILE *f;
	bool some, bad;
};

static void put_word(const char *key, const char *value, void *arg)
{
	struct words *w = arg;

	if (strpbrk(key, ",="))
		w->bad = true;
	fprintf(w->f, "%s%s=", w->some ? "," : "", key);
	put_escaped(w->f, value);
	w->some = true;
}

/* An object as the list of options that it stands for: a=1,b=2. */
static int add_object_text(const struct config *c, const struct json *v)
{
	char *json = json_dump(v, 0), *text = NULL;
	struct opts *opts = opts_new();
	struct words w = {.f = NULL};
	size_t bytes;
	int ret = opts_parse_json(opts, json, c->err);

	free(json);
	w.f = ret ? NULL : open_memstream(&text, &bytes);
	if (w.f) {
		opts_each(opts, put_word, &w);
		ret = fclose(w.f) ? -ENOMEM : 0;
	}
	if (ret == 0 && (!text || w.bad))
		ret = err_set(
			c->err, EINVAL, "'%s': a key of it cannot be", c->entry->name);
	ret = ret ? ret : add(c->list, c->entry, c->name, text, c->err);
	free(text);
	opts_free(opts);
	return ret;
}

static bool takes_lists(const struct entry *e)
{
	return e->kind == LIST || e->kind == ISOLATION || e->kind == LABELS;
}

static int add_one(const struct config *c, const struct json *v)
{
	char number[32];

	switch (json_kind_of(v)) {
	case JSON_BOOL:
		if (c->entry->kind == LABELS) /* whose value may be missing */
			return json_bool_of(v)
				       ? add(c->list, c->entry, c->name, "", c->err)
				       : 0;
		if (c->entry->kind != SWITCH && c->entry->kind != SWITCHED)
			break;
		return add(c->list, c->entry, c->name, json_bool_of(v) ? "on" : "off",
			c->err);
	case JSON_STRING:
		if (c->entry->kind == SWITCH)
			break;
		return add(c->list, c->entry, c->name, json_string_of(v), c->err);
	case JSON_INT:
		if (c->entry->kind != VALUE)
			break;
		snprintf(number, sizeof(number), "%lld", (long long)json_int_of(v));
		return add(c->list, c->entry, c->name, number, c->err);
	case JSON_OBJECT:
		if (!takes_lists(c->entry))
			break;
		return add_object_text(c, v);
	default:
		break;
	}
	return err_set(
		c->err, EINVAL, "'%s' cannot be a value of that kind", c->entry->name);
}

static int add_member(const char *key, const struct json *v, void *arg)
{
	struct config *c = arg;
	int ret = 0;

	c->entry = find(key);
	if (!c->entry)
		return err_set(c->err, EINVAL, "'%s' is not an option", key);
	if (json_kind_of(v) != JSON_ARRAY || !takes_lists(c->entry))
		return add_one(c, v);
	for (size_t i = 0; i < json_array_len(v) && ret == 0; i++)
		ret = add_one(c, json_array_at(v, i));
	return ret;
}

static int read_file(const char *name, char *text, size_t bytes, struct err *err)
{
	FILE *f = fopen(name, "re");
	size_t n;
	int ret = 0;

	if (!f)
		return err_set(err, errno, "%s", strerror(errno));
	n = fread(text, 1, bytes - 1, f);
	text[n] = 0;
	if (ferror(f))
		ret = err_set(err, EIO, "it cannot be read");
	else if (fgetc(f) != EOF || strlen(text) != n)
		ret = err_set(err, EINVAL, "it is longer than 1 MiB, or no text");
	fclose(f);
	return ret;
}

static int read_config(const char *name, struct setting **list)
{
	struct err err = ERR_INIT;
	struct config c = {.name = name, .list = list, .err = &err};
	char *text = malloc(CONFIG_BYTES_MAX + 1);
	struct json *v = NULL;
	int ret = text ? read_file(name, text, CONFIG_BYTES_MAX + 1, &err)
		       : err_errno(&err, ENOMEM, "options");

	if (ret == 0 && !(v = json_parse(text, &err)))
		ret = -err.code;
	if (ret == 0 && json_kind_of(v) != JSON_OBJECT)
		ret = err_set(&err, EINVAL, "it is no JSON object");
	ret = ret ? ret : json_object_each(v, add_member, &c);
	json_free(v);
	free(text);
	if (ret == 0)
		return -1;
	err_prefix(&err, "--config %s", name);
	tool_report(NULL, &err);
	return 1;
}

/* ---- the command line ------------------------------------------------------------ */

#define FIRST_LONG 1000
enum { OPT_CONFIG = FIRST_LONG + ARRAY_LEN(table) };

static void fill_getopt(struct option *options, char *letters)
{
	size_t n = ARRAY_LEN(table);

	*letters++ = 'h';
	for (size_t i = 0; i < n; i++) {
		const struct entry *e = &table[i];

		options[i] = (struct option){e->name,
			e->kind == SWITCH || e->kind == LABELS ? optional_argument
							       : required_argument,
			NULL, FIRST_LONG + (int)i};
		if (!e->letter)
			continue;
		*letters++ = e->letter;
		if (e->kind != SWITCH)
			*letters++ = ':';
	}
	*letters = 0;
	options[n] = (struct option){"help", no_argument, NULL, 'h'};
	options[n + 1] = (struct option){"config", required_argument, NULL, OPT_CONFIG};
	options[n + 2] = (struct option){NULL, 0, NULL, 0};
}

static const struct entry *entry_of(int c)
{
	if (c >= FIRST_LONG)
		return &table[c - FIRST_LONG];
	for (size_t i = 0; i < ARRAY_LEN(table); i++)
		if (table[i].letter == c)
			return &table[i];
	return NULL;
}

/* What the command line has, in two lists: -1, or the exit status. */
static int read_line(int argc, char **argv, struct setting **files, struct setting **line)
{
	struct option options[ARRAY_LEN(table) + 3];
	char letters[2 * ARRAY_LEN(table) + 2];
	struct err err = ERR_INIT;
	const struct entry *e;
	int c;

	fill_getopt(options, letters);
	while ((c = getopt_long(argc, argv, letters, options, NULL)) >= 0) {
		if (c == 'h') {
			printf(help, tool_name);
			return 0;
		}
		if (c == OPT_CONFIG) {
			c = read_config(optarg, files);
			if (c >= 0)
				return c;
			continue;
		}
		e = entry_of(c);
		if (!e)
			return 1;
		if (add(line, e, NULL,
			    optarg              ? optarg
			    : e->kind == SWITCH ? "on"
						: "",
			    &err)) {
			tool_report(NULL, &err);
			return 1;
		}
	}
	return -1;
}

/* Images by their names alone: the first disks. */
static int read_images(int argc, char **argv, struct setting **list)
{
	struct err err = ERR_INIT;

	for (int i = optind; i < argc; i++) {
		char *text = NULL;
		size_t bytes;
		FILE *f = open_memstream(&text, &bytes);
		int ret;

		if (f)
			put_word("file", argv[i], &(struct words){.f = f});
		ret = !f || fclose(f) ? err_errno(&err, ENOMEM, "options")
				      : add(list, find("disk"), NULL, text, &err);
		free(text);
		if (ret) {
			tool_report(NULL, &err);
			return 1;
		}
	}
	return -1;
}

/* It has one beginning. Firmware alone is for those who name it, or who control the machine and may
 * bring a disk later. */
static int check_start(const struct run *r)
{
	if (r->machine.restore && r->machine.restore_file) {
		tool_error("--restore and --restore-file are two beginnings");
		return 1;
	}
	if (r->machine.kernel || r->n_disks || r->firmware.name || r->machine.n_qmp)
		return -1;
	tool_error("there is nothing to start: it takes an image, --disk or --kernel");
	return 1;
}

/* What would not be looked at is not taken. */
static int refuse_unused(const struct run *r)
{
	const bool kernel = r->machine.kernel;
	const struct {
		const char *name, *value;
		bool of_kernel;
	} options[] = {
		{"initrd", r->machine.initrd, true},
		{"append", r->machine.cmdline, true},
		{"firmware", r->firmware.name, false},
		{"vars", r->firmware.vars, false},
		{"firmware-log", r->firmware.log, false},
	};

	for (size_t i = 0; i < ARRAY_LEN(options); i++) {
		if (!options[i].value || options[i].of_kernel == kernel)
			continue;
		tool_error("--%s is for a machine %s --kernel", options[i].name,
			kernel ? "without" : "with");
		return 1;
	}
	return -1;
}

int run_options(struct run *r, int argc, char **argv)
{
	struct setting *images = NULL, *line = NULL;
	char *command = argv[0];
	int status;

	argv[0] = (char *)(uintptr_t)tool_name; /* whom getopt's errors are from */
	status = read_line(argc, argv, &r->settings, &line);
	argv[0] = command;
	if (status < 0)
		status = read_images(argc, argv, &images);
	*end_of(&r->settings) = images;
	*end_of(&r->settings) = line;
	status = status < 0 ? carry_out_all(r) : status;
	status = status < 0 ? refuse_unused(r) : status;
	return status < 0 ? check_start(r) : status;
}
