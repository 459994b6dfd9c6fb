/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * byre-img: disk images made, copied, looked at and kept in order, with the commands,
 * options, output and exit codes of qemu-img. A link named qemu-img to it is a drop-in.
 *
 * This file finds the command and runs it as the first task of a loop; each command is a
 * file of its own (img-COMMAND.c).
 */
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "base/math.h"
#include "base/task.h"
#include "block/driver.h"
#include "block/secret.h"
#include "tools/img.h"

/* The release of qemu-img whose options and output these are. */
#define PEER_RELEASE "10.0.2"

struct command {
	const char *name;
	int (*run)(int argc, char **argv);
	const char *what;
};

static const struct command commands[] = {
	{"check", img_check, "Look for inconsistencies of an image, and repair them"},
	{"compare", img_compare, "Tell whether two images hold the same disk"},
	{"convert", img_convert,
		"Copy images into a new one, of another format if wanted"},
	{"create", img_create, "Make a new image"},
	{"info", img_info, "Show what an image is"},
	{"lock", img_lock, "Show, test or break the locks of an image"},
	{"map", img_map, "Show where the data of an image lies"},
	{"measure", img_measure, "Tell how large a file a new image needs"},
	{"resize", img_resize, "Grow or shrink an image"},
	{"snapshot", img_snapshot,
		"List, make, apply or delete snapshots inside an image"},
};

static void print_formats(void)
{
	size_t n = 0, column = 0;

	printf("\nSupported image formats:\n");
	for (n = 0; blk_drivers[n]; n++) {
		const char *name = blk_drivers[n]->name;

		if (!column || column + 1 + strlen(name) > 78)
			column = (size_t)printf("\n  %s", name) - 1;
		else
			column += (size_t)printf(" %s", name);
	}
	printf("\n");
}

static void print_help(void)
{
	printf("Disk image utility.  Usage:\n\n"
	       "  %s [standard options] COMMAND [--help | command options]\n\n"
	       "Standard options:\n"
	       "  -h, --help\n     show this text\n"
	       "  -V, --version\n     show the version\n"
	       "  -T, --trace TRACE\n     accepted for compatibility\n\n"
	       "Commands (%s COMMAND --help tells more):\n\n",
		tool_name, tool_name);
	for (size_t i = 0; i < ARRAY_LEN(commands); i++)
		printf("  %s - %s\n", commands[i].name, commands[i].what);
	print_formats();
}

static void print_version(void)
{
	/* Programs read a release off this line to know which options they may use. */
	if (!strcmp(tool_name, "qemu-img"))
		printf("qemu-img version " PEER_RELEASE " (byre-img " BYRE_VERSION ")\n");
	else
		printf("byre-img version " BYRE_VERSION " (as qemu-img " PEER_RELEASE
		       ")\n");
}

static const struct command *find_command(const char *name)
{
	for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
		if (!strcmp(commands[i].name, name))
			return &commands[i];
	}
	return NULL;
}

/* -1: go on with the command at optind. */
static int standard_options(int argc, char **argv)
{
	static const struct option options[] = {
		{"help", no_argument, NULL, 'h'},
		{"version", no_argument, NULL, 'V'},
		{"trace", required_argument, NULL, 'T'},
		{NULL, 0, NULL, 0},
	};
	int c;

	while ((c = getopt_long(argc, argv, "+hVT:", options, NULL)) >= 0) {
		switch (c) {
		case 'h':
			print_help();
			return 0;
		case 'V':
			print_version();
			return 0;
		case 'T':
			break;
		default:
			return img_usage(NULL, NULL);
		}
	}
	return -1;
}

struct run {
	const struct command *command;
	int argc;
	char **argv;
};

static int run_command(void *arg)
{
	struct run *run = arg;
	char self[64];

	snprintf(self, sizeof(self), "%s %s", tool_name, run->command->name);
	run->argv[0] = self;
	optind = 0; /* getopt starts anew */
	return run->command->run(run->argc, run->argv);
}

int main(int argc, char **argv)
{
	struct err err = ERR_INIT;
	struct run run;
	int ret;

	tool_set_name(argv[0], "byre-img", "qemu-img");
	signal(SIGPIPE, SIG_IGN); /* a repair goes on when nobody reads any more */
	if (argc > 0)
		argv[0] = (char *)tool_name;
	ret = standard_options(argc, argv);
	if (ret >= 0)
		return tool_flush_stdout() < 0 ? 1 : ret;
	if (optind >= argc)
		return img_usage(NULL, "Not enough arguments");
	run.command = find_command(argv[optind]);
	if (!run.command)
		return img_usage(NULL, "Command not found: %s", argv[optind]);
	run.argc = argc - optind;
	run.argv = argv + optind;
	ret = loop_run(run_command, &run, &err);
	if (ret < 0) {
		tool_report(NULL, &err);
		ret = 1;
	}
	secrets_clear();
	if (tool_flush_stdout() < 0 && !ret)
		ret = 1;
	tool_die_of_signal();
	return ret;
}
