/* SPDX-License-Identifier: BSD-2-Clause */
/* The options of `byre run` that are about what its process may do (vmm/confine.h). */
#ifndef BYRE_TOOLS_BYRE_CONFINE_H
#define BYRE_TOOLS_BYRE_CONFINE_H

#include "block/blk.h"
#include "tools/byre-keeper.h"
#include "vmm/confine.h"
#include "vmm/disk_options.h"

struct isolation {
	struct confine_options confine;
	struct keeper_options keeper;
};

enum {
	OPT_CONFINE = 512,
	OPT_SECCOMP,
	OPT_LANDLOCK,
	OPT_NAMESPACES,
	OPT_USER,
	OPT_ALLOW_READ,
	OPT_ALLOW_WRITE,
	OPT_CGROUP,
	OPT_SVIRT,
};

#define CONFINE_HELP                                                                     \
	"  --user NAME[:GROUP]\n     who the machine's process becomes (root only)\n"    \
	"  --seccomp=on|log|off, --landlock=on|off, --namespaces=on|off, "               \
	"--confine=on|off\n     what keeps it in; on where it is to be had, and a "      \
	"system call\n     that it does not need ends it\n"                              \
	"  --allow-read PATH, --allow-write PATH\n     what it may still open\n"          \
	"  --cgroup PATH[,memory=SIZE][,cpu=PERCENT][,pids=N][,io-weight=N]\n     a "     \
	"control group for it\n"                                                         \
	"  --svirt[=process=LABEL,image=LABEL,content=LABEL,registry=FOLDER]\n     SELinux "\
	"labels of its own for the process and its disks\n"

/* -1: it was one of ours, go on; else the exit status. */
int isolation_option(struct isolation *iso, int c, const char *arg);
void isolation_clear(struct isolation *iso);

/* Labels the files of a disk that was opened to be looked at. 0 or -errno. */
int isolation_label_disk(
	struct svirt *s, const struct disk_spec *disk, struct err *err);

#endif
