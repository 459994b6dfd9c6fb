/* SPDX-License-Identifier: BSD-2-Clause */
/* The table of commands, and how a line becomes one of them. Words are parted by blanks;
 * there is no quoting. */
#include "tools/io.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/common.h"

#define WORDS_MAX 4096

int io_usage(const struct io_command *cmd)
{
	printf("%s%s%s -- %s\n", cmd->name, *cmd->args ? " " : "", cmd->args, cmd->brief);
	return -EINVAL;
}

static const struct io_command *find(const char *name)
{
	for (size_t i = 0; io_commands[i]; i++) {
		const struct io_command *c = io_commands[i];

		if (!strcmp(c->name, name) ||
			(c->short_name && !strcmp(c->short_name, name)))
			return c;
	}
	return NULL;
}

static int help_run(struct io *io, const struct io_command *cmd, int argc, char **argv)
{
	(void)io, (void)cmd;
	if (argc == 2) {
		const struct io_command *c = find(argv[1]);

		if (!c) {
			printf("command %s not found\n", argv[1]);
			return -ENOENT;
		}
		io_usage(c);
		if (c->help)
			printf("\n%s\n", c->help);
		return 0;
	}
	for (size_t i = 0; io_commands[i]; i++)
		io_usage(io_commands[i]);
	printf("\nUse 'help commandname' for extended help.\n");
	return 0;
}

static const struct io_command help_command = {
	.name = "help",
	.short_name = "?",
	.run = help_run,
	.args_max = 1,
	.flags = IO_ANYTIME,
	.args = "[command]",
	.brief = "lists the commands, or explains one",
};

static int quit_run(struct io *io, const struct io_command *cmd, int argc, char **argv)
{
	(void)cmd, (void)argc, (void)argv;
	io->quit = true;
	return 0;
}

static const struct io_command quit_command = {
	.name = "quit",
	.short_name = "q",
	.run = quit_run,
	.args_max = -1,
	.flags = IO_ANYTIME,
	.args = "",
	.brief = "ends the program",
};

const struct io_command *const io_commands[] = {
	&io_cmd_abort,
	&io_cmd_aio_flush,
	&io_cmd_aio_read,
	&io_cmd_aio_write,
	&io_cmd_alloc,
	&io_cmd_close,
	&io_cmd_discard,
	&io_cmd_flush,
	&help_command,
	&io_cmd_info,
	&io_cmd_length,
	&io_cmd_map,
	&io_cmd_open,
	&quit_command,
	&io_cmd_read,
	&io_cmd_readv,
	&io_cmd_reopen,
	&io_cmd_sigraise,
	&io_cmd_sleep,
	&io_cmd_truncate,
	&io_cmd_write,
	&io_cmd_writev,
	NULL,
};

/* Complains where a command cannot run with so many arguments, or not on this file. */
static int ready(struct io *io, const struct io_command *cmd, int args, const char *name)
{
	if (!(cmd->flags & IO_ANYTIME) && !io->b) {
		fprintf(stderr, "no file open, try 'help open'\n");
		return -EINVAL;
	}
	if (args < cmd->args_min || (cmd->args_max >= 0 && args > cmd->args_max)) {
		fprintf(stderr, "bad argument count %d to %s, expected ", args, name);
		if (cmd->args_max < 0)
			fprintf(stderr, "at least %d", cmd->args_min);
		else if (cmd->args_min == cmd->args_max)
			fprintf(stderr, "%d", cmd->args_min);
		else
			fprintf(stderr, "between %d and %d", cmd->args_min,
				cmd->args_max);
		fprintf(stderr, " arguments\n");
		return -EINVAL;
	}
	if ((cmd->flags & IO_WRITES) && blk_read_only(io->b)) {
		tool_error("Block node is read-only");
		return -EACCES;
	}
	return 0;
}

static int run_words(struct io *io, int argc, char **argv)
{
	const struct io_command *cmd = find(argv[0]);
	int ret;

	if (!cmd) {
		fprintf(stderr, "command \"%s\" not found\n", argv[0]);
		return -EINVAL;
	}
	optind = 0; /* glibc: begin anew, with another argv */
	ret = ready(io, cmd, argc - 1, argv[0]);
	if (!ret)
		ret = cmd->run(io, cmd, argc, argv);
	fflush(stdout);
	return ret;
}

int io_run_line(struct io *io, const char *line)
{
	char *copy = strdup(line), *save = NULL;
	char **words = calloc(WORDS_MAX + 1, sizeof(*words));
	int n = 0, ret = 0;

	if (!copy || !words) {
		ret = -ENOMEM;
		tool_error("out of memory");
		goto out;
	}
	for (char *w = strtok_r(copy, " ", &save); w; w = strtok_r(NULL, " ", &save)) {
		if (n == WORDS_MAX) {
			fprintf(stderr, "a command has at most %d words\n", WORDS_MAX);
			ret = -E2BIG;
			goto out;
		}
		words[n++] = w;
	}
	if (n)
		ret = run_words(io, n, words);
out:
	free(words);
	free(copy);
	return ret;
}
