/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * byre-img snapshot: snapshots inside an image, listed, made, applied, deleted.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tools/img.h"

static const char help[] =
	"List, make, apply or delete snapshots inside an image.  Usage:\n\n"
	"  %s snapshot [-f FMT | --image-opts] [-l | -c|-a|-d SNAPSHOT] [-U] [-q]\n"
	"        [--object OBJDEF] FILENAME\n\n"
	"Options:\n"
	"  -h, --help\n     show this text\n"
	"  -q, --quiet\n     no output but errors\n"
	"  -f, --format FMT\n     the image's format; found out from its contents by "
	"default\n"
	"  --image-opts\n     FILENAME is a list of options "
	"(driver=...,file.filename=...)\n"
	"  -U, --force-share\n     open the image even if another program writes to it\n"
	"  --object OBJDEF\n     an object such as a secret\n"
	"  -l, --list\n     list the snapshots (the default)\n"
	"  -c, --create SNAPSHOT\n     make one of this name\n"
	"  -a, --apply SNAPSHOT\n     make the disk what it was then\n"
	"  -d, --delete SNAPSHOT\n     delete the one of this name\n";

static int list_snapshots(struct blk *b)
{
	struct blk_snapshot *list = NULL;
	size_t n = 0;

	/* A format without snapshots has none to list. */
	if (!blk_snapshot_list(b, &list, &n, NULL)) {
		img_print_snapshots(list, n);
		blk_snapshots_free(list, n);
	}
	return 0;
}

/* By name only, as the peer does: the ID of one may be the name of another. */
static int delete_snapshot(struct blk *b, const char *name, struct err *err)
{
	struct blk_snapshot *list = NULL;
	size_t n = 0, i = 0;
	int ret;

	if (!blk_snapshot_list(b, &list, &n, NULL)) {
		while (i < n && strcmp(list[i].name, name))
			i++;
	}
	if (i == n)
		ret = err_set(err, ENOENT, "snapshot not found");
	else
		ret = blk_snapshot_delete(b, name, err);
	blk_snapshots_free(list, n);
	return ret;
}

static int run(struct blk *b, int action, const char *name)
{
	struct err err = ERR_INIT;
	bool changed;
	const char *what = "create";
	int ret;

	switch (action) {
	case 'c':
		ret = blk_snapshot_create(b, name, &err);
		break;
	case 'a':
		what = "apply";
		ret = blk_snapshot_apply(b, name, &changed, &err);
		break;
	case 'd':
		what = "delete";
		ret = delete_snapshot(b, name, &err);
		break;
	default:
		return list_snapshots(b);
	}
	/* What to do about it is part of the line, as the peer has but one here. */
	if (ret < 0)
		tool_error("%s: Could not %s snapshot '%s': %s%s%s", blk_filename(b),
			what, name, err.msg, err.hint[0] ? ". " : "", err.hint);
	return ret;
}

/* Remembers what is to be done; there may be one thing only. */
static int set_action(int *action, const char **name, int c)
{
	if (*action)
		return img_usage("snapshot", "Cannot mix '-l', '-a', '-c', '-d'");
	*action = c;
	*name = optarg;
	return -1;
}

int img_snapshot(int argc, char **argv)
{
	static const struct option options[] = {
		{"help", no_argument, NULL, 'h'},
		{"quiet", no_argument, NULL, 'q'},
		{"format", required_argument, NULL, 'f'},
		{"image-opts", no_argument, NULL, IMG_OPT_IMAGE_OPTS},
		{"force-share", no_argument, NULL, 'U'},
		{"object", required_argument, NULL, IMG_OPT_OBJECT},
		{"list", no_argument, NULL, 'l'},
		{"create", required_argument, NULL, 'c'},
		{"apply", required_argument, NULL, 'a'},
		{"delete", required_argument, NULL, 'd'},
		{NULL, 0, NULL, 0},
	};
	struct img_common common = {.command = "snapshot", .help = help};
	const char *name = NULL;
	struct tool_image image;
	unsigned flags;
	struct blk *b;
	int c, ret, action = 0;

	while ((c = getopt_long(argc, argv, "hqf:Ulc:a:d:", options, NULL)) >= 0) {
		if (c == 'l' || c == 'c' || c == 'a' || c == 'd')
			ret = set_action(&action, &name, c);
		else
			ret = img_common_option(&common, c);
		if (ret >= 0)
			return ret;
	}
	ret = img_expect_names("snapshot", argc, 1, "one image file name");
	if (ret)
		return ret;
	if (img_check_image_opts(common.image_opts, common.format))
		return 1;
	/* Only applying reads or writes the disk itself, and none looks behind the image.
	 */
	flags = BLK_O_NO_BACKING | (common.share ? BLK_O_SHARE : 0);
	flags |= action && action != 'l' ? BLK_O_RDWR : 0;
	image = (struct tool_image){argv[optind], common.format, common.image_opts, NULL};
	b = tool_open(&image, flags);
	if (!b)
		return 1;
	ret = tool_close(b, run(b, action, name));
	return ret < 0 ? 1 : 0;
}
