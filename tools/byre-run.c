/* SPDX-License-Identifier: BSD-2-Clause */
/* byre run: a machine from the command line. */
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/math.h"
#include "base/opts.h"
#include "base/size.h"
#include "base/task.h"
#include "block/secret.h"
#include "tools/byre-confine.h"
#include "tools/byre-firmware.h"
#include "tools/byre.h"
#include "tools/common.h"
#include "vmm/machine.h"
#include "vmm/vm.h"

#define MEMORY_DEFAULT (1ull << 30)

static const char help[] =
	"Start a machine and stay until it is turned off.  Usage:\n\n"
	"  %s run [options] --kernel FILE [--disk file=FILE,...]...\n\n"
	"Options:\n"
	"  -h, --help\n     show this text\n"
	"  -m, --memory SIZE\n     the guest's memory (1G)\n"
	"  -c, --cpus N[,sockets=N][,cores=N][,threads=N]\n     processors (1), and how "
	"they are arranged\n"
	"  --mergeable, --huge-pages, --prealloc\n     memory that the kernel may share "
	"with other "
	"machines (KSM); of\n     2 MiB pages; all of it there before the start\n"
	"  --kernel FILE\n     a Linux kernel: a bzImage, or an ELF file with a PVH "
	"entry\n"
	"  --initrd FILE\n     its initramfs\n"
	"  --append TEXT\n     its command line\n"
	"  --firmware NAME\n     what starts instead of a kernel: bios (SeaBIOS, the "
	"default), uefi "
	"(OVMF),\n     or a file\n"
	"  --vars FILE\n     where UEFI keeps its variables; made where it is not there. "
	"Without it\n"
	"     they are forgotten at the end\n"
	"  --firmware-log FILE\n     where firmware writes what it does\n"
	"  --disk file=IMAGE[,option=value...]\n     a disk: "
	"iface=virtio|scsi|nvme|ahci, "
	"media=disk|cdrom, format=FMT, readonly,\n     cache=MODE, discard=unmap, "
	"queues=N, packed=on, serial=TEXT, and any\n     option of the image's format\n"
	"  --object OBJDEF\n     an object such as a secret\n" CONFINE_HELP "\n"
	"The serial console is on standard input and output. On a terminal Ctrl-A x ends "
	"the\n"
	"machine, Ctrl-A p presses its power button, Ctrl-A Ctrl-A sends Ctrl-A.\n";

enum {
	OPT_KERNEL = 256,
	OPT_INITRD,
	OPT_APPEND,
	OPT_FIRMWARE,
	OPT_VARS,
	OPT_FIRMWARE_LOG,
	OPT_DISK,
	OPT_OBJECT,
	OPT_MERGEABLE,
	OPT_HUGE,
	OPT_PREALLOC,
};

/* ---- disks ----------------------------------------------------------------------- */

static int take_serial(struct opts *opts, struct machine_disk *d, struct err *err)
{
	const char *serial = opts_take(opts, "serial");

	if (!serial)
		return 0;
	if (strlen(serial) >= DISK_SERIAL_MAX)
		return err_set(err, EINVAL, "serial '%s' is longer than %u bytes", serial,
			DISK_SERIAL_MAX - 1);
	d->disk.serial = strdup(serial);
	return 0;
}

/* Which device the guest sees; a CD-ROM drive's is AHCI's, and never written. */
static int take_device(
	struct opts *opts, struct machine_disk *d, bool *read_only, struct err *err)
{
	static const char *const media[] = {"disk", "cdrom", NULL};
	int iface = 0, medium = 0;
	bool given = opts_peek(opts, "iface");
	int ret = opts_take_enum(opts, "iface", machine_ifaces, &iface, err);

	ret = ret ? ret : opts_take_enum(opts, "media", media, &medium, err);
	if (given)
		d->iface = machine_ifaces[iface];
	d->cdrom = medium;
	*read_only = *read_only || medium;
	return ret;
}

static int take_disk_options(
	struct opts *opts, struct machine_disk *d, unsigned *flags, struct err *err)
{
	const char *cache = opts_take(opts, "cache"),
		   *discard = opts_peek(opts, "discard");
	bool read_only = false;
	uint64_t queues = 0;
	int ret = opts_take_bool(opts, "readonly", &read_only, err);

	ret = ret ? ret : opts_take_bool(opts, "packed", &d->packed, err);
	ret = ret ? ret : take_device(opts, d, &read_only, err);
	ret = ret ? ret : opts_take_u64(opts, "queues", &queues, err);
	ret = ret ? ret : take_serial(opts, d, err);
	if (ret == 0 && queues > VM_CPUS_MAX)
		ret = err_set(err, EINVAL, "queues: 1 to %u", VM_CPUS_MAX);
	if (ret == 0 && cache && blk_cache_mode(cache, flags))
		ret = err_set(err, EINVAL, "'%s' is not a cache mode", cache);
	d->queues = (unsigned)queues;
	d->disk.discard =
		discard && (!strcmp(discard, "unmap") || !strcmp(discard, "on"));
	if (!read_only)
		*flags |= BLK_O_RDWR;
	return ret;
}

/* "file=disk.qcow2,format=qcow2,…": what is left is the block layer's. *writable not NULL: only
 * to be looked at, and that is how it would be opened. */
static int open_disk(
	const char *text, struct machine_disk *d, bool *writable, struct err *err)
{
	struct opts *opts = opts_new();
	const char *format;
	unsigned flags = 0;
	char *file;
	int ret = opts_parse(opts, text, "file", err);

	file = opts_peek(opts, "file") ? strdup(opts_peek(opts, "file")) : NULL;
	opts_del(opts, "file"); /* the block layer has another of that name */
	format = opts_take(opts, "format");
	if (ret == 0 && !file && !opts_peek(opts, "driver") &&
		!opts_has_prefix(opts, "file."))
		ret = err_set(err, EINVAL, "a disk needs file=IMAGE");
	if (ret == 0 && format)
		opts_set(opts, "driver", format);
	ret = ret ? ret : take_disk_options(opts, d, &flags, err);
	if (writable) {
		*writable = flags & BLK_O_RDWR;
		flags = (flags & ~BLK_O_RDWR) | BLK_O_SHARE;
	}
	if (ret == 0) {
		d->disk.blk = blk_open(file, opts, flags, err);
		ret = d->disk.blk ? 0 : -err->code;
	}
	opts_free(opts);
	free(file);
	return ret ? err_prefix(err, "--disk %s", text) : 0;
}

/* ---- the command ----------------------------------------------------------------- */

static int parse_memory(const char *text, struct memory_options *m)
{
	if (size_parse(text, 'M', NULL, &m->bytes) == 0)
		return -1;
	tool_error("--memory %s: not a size", text);
	return 1;
}

/* What is not told is what makes the product right; cores are what there are most of. */
static int fill_topology(uint64_t cpus, struct vm_topology *t)
{
	uint64_t told = (t->sockets ? t->sockets : 1ull) * (t->cores ? t->cores : 1ull) *
			(t->threads ? t->threads : 1ull);

	if (!cpus)
		cpus = told;
	if (cpus % told)
		return -EINVAL;
	if (!t->cores)
		t->cores = (unsigned)(cpus / told);
	else if (!t->sockets)
		t->sockets = (unsigned)(cpus / told);
	else if (!t->threads)
		t->threads = (unsigned)(cpus / told);
	t->sockets = MAX(t->sockets, 1u);
	t->threads = MAX(t->threads, 1u);
	return (uint64_t)t->sockets * t->cores * t->threads == cpus ? 0 : -EINVAL;
}

/* "4", "8,sockets=2,cores=2,threads=2" */
static int read_topology(const char *text, struct vm_topology *t, struct err *err)
{
	struct opts *opts = opts_new();
	uint64_t cpus = 0, sockets = 0, cores = 0, threads = 0;
	int ret = opts_parse(opts, text, "cpus", err);

	ret = ret ? ret : opts_take_u64(opts, "cpus", &cpus, err);
	ret = ret ? ret : opts_take_u64(opts, "sockets", &sockets, err);
	ret = ret ? ret : opts_take_u64(opts, "cores", &cores, err);
	ret = ret ? ret : opts_take_u64(opts, "threads", &threads, err);
	ret = ret ? ret : opts_check_unused(opts, err);
	opts_free(opts);
	if (ret)
		return ret;
	if (cpus > VM_CPUS_MAX || sockets > VM_CPUS_MAX || cores > VM_CPUS_MAX ||
		threads > VM_CPUS_MAX)
		return err_set(err, EINVAL, "1 to %u processors can be had", VM_CPUS_MAX);
	*t = (struct vm_topology){(unsigned)sockets, (unsigned)cores, (unsigned)threads};
	ret = fill_topology(cpus, t);
	return ret ? err_set(err, EINVAL,
			     "sockets, cores and threads do not make that many "
			     "processors")
		   : 0;
}

static int parse_cpus(const char *text, struct vm_topology *t)
{
	struct err err = ERR_INIT;

	if (read_topology(text, t, &err) == 0)
		return -1;
	err_prefix(&err, "--cpus %s", text);
	tool_report(NULL, &err);
	return 1;
}

static int parse_disk(const char *text, struct machine_options *o)
{
	struct err err = ERR_INIT;

	if (o->n_disks == MACHINE_DISKS_MAX) {
		tool_error("--disk: at most %u", MACHINE_DISKS_MAX);
		return 1;
	}
	if (open_disk(text, &o->disk[o->n_disks], NULL, &err)) {
		tool_report(NULL, &err);
		return 1;
	}
	o->n_disks++;
	return -1;
}

/* -1: go on; else the exit status. Disks are opened when everything else is known. */
static int option(struct machine_options *o, struct isolation *iso, int c,
	struct firmware_choice *firmware, const char **disks, unsigned *n_disks)
{
	switch (c) {
	case 'm':
		return parse_memory(optarg, &o->memory);
	case 'c':
		return parse_cpus(optarg, &o->topology);
	case OPT_KERNEL:
		o->kernel = optarg;
		return -1;
	case OPT_INITRD:
		o->initrd = optarg;
		return -1;
	case OPT_APPEND:
		o->cmdline = optarg;
		return -1;
	case OPT_FIRMWARE:
		firmware->name = optarg;
		return -1;
	case OPT_VARS:
		firmware->vars = optarg;
		return -1;
	case OPT_FIRMWARE_LOG:
		firmware->log = optarg;
		return -1;
	case OPT_DISK:
		disks[(*n_disks)++] = optarg;
		return -1;
	case OPT_OBJECT:
		return tool_add_object(optarg) ? 1 : -1;
	case OPT_MERGEABLE:
		o->memory.mergeable = true;
		return -1;
	case OPT_HUGE:
		o->memory.huge = true;
		return -1;
	case OPT_PREALLOC:
		o->memory.prealloc = true;
		return -1;
	case 'h':
		printf(help, tool_name);
		return 0;
	default:
		return isolation_option(iso, c, optarg);
	}
}

/* Before any thread is made: the console's alone hears them. */
static void block_signals(void)
{
	sigset_t signals;

	sigemptyset(&signals);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGINT);
	sigaddset(&signals, SIGHUP);
	pthread_sigmask(SIG_BLOCK, &signals, NULL);
	signal(SIGPIPE, SIG_IGN);
}

struct files {
	const struct machine_options *o;
	const char *vars;
	const char **disks;
	unsigned n_disks;
};

static int label_disk(struct svirt *s, const char *text, struct err *err)
{
	struct machine_disk d = {.queues = 0};
	bool writable = false;
	int ret = open_disk(text, &d, &writable, err);

	if (ret == 0)
		ret = isolation_label_disk(s, d.disk.blk, writable, err);
	blk_close(d.disk.blk);
	free((char *)d.disk.serial);
	return ret;
}

/* All that the machine reads and writes, for SELinux. */
static int label_files(void *arg, struct svirt *s)
{
	const struct files *f = arg;
	const char *kernel[] = {f->o->kernel, f->o->initrd};
	struct err err = ERR_INIT;
	int ret = 0;

	for (unsigned i = 0; i < f->n_disks && ret == 0; i++)
		ret = label_disk(s, f->disks[i], &err);
	for (unsigned i = 0; i < ARRAY_LEN(kernel) && ret == 0; i++)
		if (kernel[i])
			ret = svirt_label(s, kernel[i], SVIRT_READ, &err);
	/* It cannot be made by a process that may reach its own files only. */
	if (ret == 0 && f->vars)
		ret = svirt_label(s, f->vars, SVIRT_WRITTEN, &err);
	if (ret)
		tool_report("--svirt", &err);
	return ret;
}

/* Before anything is opened. */
static int begin(struct isolation *iso, struct files *files, char **argv)
{
	struct err err = ERR_INIT;
	int status;

	block_signals();
	status = keeper_run(&iso->keeper, argv, label_files, files);
	if (status >= 0)
		return status;
	iso->confine.ends_with_parent = keeper_is_there();
	if (confine_begin(&iso->confine, &err) == 0)
		return -1;
	tool_report(NULL, &err);
	return 1;
}

static int close_disks(struct machine_options *o)
{
	int status = 0;

	for (unsigned i = 0; i < o->n_disks; i++)
		if (tool_close(o->disk[i].disk.blk, 0) < 0)
			status = 1;
	return status;
}

/* Everything is open when the machine is there; from then on the process is confined. */
static int confine(
	const struct machine_options *o, struct confine_options *c, struct err *err)
{
	int ret = 0;

	for (unsigned i = 0; i < o->n_disks && ret == 0; i++)
		ret = confine_allow_disk(c, o->disk[i].disk.blk, err);
	if (ret == 0 && o->firmware.vars)
		ret = confine_allow_disk(c, o->firmware.vars, err);
	return ret ? ret : confine_process(c, err);
}

static int run_machine(const struct machine_options *o, struct confine_options *c)
{
	struct err err = ERR_INIT;
	struct machine *m = machine_new(o, &err);
	int ret = m ? confine(o, c, &err) : -err.code;

	ret = ret ? ret : machine_run(m, &err);

	if (m)
		machine_free(m);
	if (ret)
		tool_report(NULL, &err);
	return ret ? 1 : 0;
}

static int open_firmware(struct machine_options *o, const struct firmware_choice *c)
{
	struct err err = ERR_INIT;

	if (firmware_choose(c, &o->firmware, &err) == 0)
		return -1;
	tool_report(NULL, &err);
	return 1;
}

int byre_run(int argc, char **argv)
{
	static const struct option options[] = {
		{"help", no_argument, NULL, 'h'},
		{"memory", required_argument, NULL, 'm'},
		{"cpus", required_argument, NULL, 'c'},
		{"mergeable", no_argument, NULL, OPT_MERGEABLE},
		{"huge-pages", no_argument, NULL, OPT_HUGE},
		{"prealloc", no_argument, NULL, OPT_PREALLOC},
		{"kernel", required_argument, NULL, OPT_KERNEL},
		{"initrd", required_argument, NULL, OPT_INITRD},
		{"append", required_argument, NULL, OPT_APPEND},
		{"firmware", required_argument, NULL, OPT_FIRMWARE},
		{"vars", required_argument, NULL, OPT_VARS},
		{"firmware-log", required_argument, NULL, OPT_FIRMWARE_LOG},
		{"disk", required_argument, NULL, OPT_DISK},
		{"object", required_argument, NULL, OPT_OBJECT},
		CONFINE_LONG_OPTIONS,
		{NULL, 0, NULL, 0},
	};
	struct firmware_choice firmware = {NULL, NULL, NULL};
	struct machine_options o = {.firmware = {.log_fd = -1},
		.memory = {.bytes = MEMORY_DEFAULT},
		.topology = {1, 1, 1},
		.console_in = STDIN_FILENO,
		.console_out = STDOUT_FILENO};
	struct isolation *iso = calloc(1, sizeof(*iso));
	const char **disks = calloc((size_t)argc + 1, sizeof(*disks));
	unsigned n_disks = 0;
	int c, status = disks && iso ? -1 : 1, closed;

	while (status < 0 && (c = getopt_long(argc, argv, "hm:c:", options, NULL)) >= 0)
		status = option(&o, iso, c, &firmware, disks, &n_disks);
	if (status < 0 && optind < argc) {
		tool_error("run: '%s' was not expected", argv[optind]);
		status = 1;
	}
	if (status < 0)
		status = begin(iso, &(struct files){&o, firmware.vars, disks, n_disks},
			argv - 1);
	for (unsigned i = 0; status < 0 && i < n_disks; i++)
		status = parse_disk(disks[i], &o);
	if (status < 0 && !o.kernel)
		status = open_firmware(&o, &firmware);
	if (status < 0)
		status = run_machine(&o, &iso->confine);
	closed = close_disks(&o);
	if (firmware_release(&o.firmware))
		closed = 1;
	secrets_clear();
	free(disks);
	if (iso)
		isolation_clear(iso);
	free(iso);
	return status ? status : closed;
}
