/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * byre: runs virtual machines whose disks are the block layer.
 *
 * This file finds the command; they are in files of their own (byre-COMMAND.c).
 */
#include <stdio.h>
#include <string.h>

#include "base/math.h"
#include "tools/byre.h"
#include "tools/common.h"

static const struct {
	const char *name;
	int (*run)(int argc, char **argv);
	const char *what;
} commands[] = {
	{"host", byre_host, "Show what this host can do for machines"},
	{"run", byre_run, "Start a machine and stay until it is turned off"},
	{"ctl", byre_ctl, "Control a running machine"},
	{"snapshot", byre_snapshot, "Make a snapshot of a running machine"},
	{"restore", byre_restore, "Take a running machine back to a snapshot"},
};

static void print_help(FILE *out)
{
	fprintf(out,
		"Virtual machines.  Usage:\n\n  %s COMMAND [--help | "
		"options]\n\nCommands:\n",
		tool_name);
	for (size_t i = 0; i < ARRAY_LEN(commands); i++)
		fprintf(out, "  %-9s %s\n", commands[i].name, commands[i].what);
}

int main(int argc, char **argv)
{
	tool_set_name(argc ? argv[0] : NULL, "byre", "byre");
	if (argc < 2) {
		print_help(stderr);
		return 1;
	}
	if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h")) {
		print_help(stdout);
		return tool_flush_stdout() < 0;
	}
	if (!strcmp(argv[1], "--version") || !strcmp(argv[1], "-V")) {
		printf("%s version %s\n", tool_name, BYRE_VERSION);
		return tool_flush_stdout() < 0;
	}
	for (size_t i = 0; i < ARRAY_LEN(commands); i++)
		if (!strcmp(argv[1], commands[i].name))
			return commands[i].run(argc - 1, argv + 1);
	tool_error("'%s' is not a command; '%s --help' lists them", argv[1], tool_name);
	return 1;
}
