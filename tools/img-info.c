/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * byre-img info: what an image is, from its own metadata. Nothing but the image is opened
 * (no backing file, no data file, no passphrase), except with --backing-chain, which
 * opens the images of the chain one after another in the same way.
 *
 * Both outputs are made from one tree of facts, in the order the peer prints its JSON in.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/size.h"
#include "block/driver.h"
#include "block/storage.h"
#include "tools/common-tree.h"
#include "tools/img.h"

static const char help[] =
	"Show what an image is.  Usage:\n\n"
	"  %s info [-f FMT | --image-opts] [-b] [-U] [-v] [--object OBJDEF]\n"
	"        [--output human|json] FILENAME\n\n"
	"Options:\n"
	"  -h, --help\n     show this text\n"
	"  -f, --format FMT\n     the image's format; found out from its contents by "
	"default\n"
	"  --image-opts\n     FILENAME is a list of options "
	"(driver=...,file.filename=...)\n"
	"  -b, --backing-chain\n     go on with the backing files, down the chain\n"
	"  -U, --force-share\n     open the image even if another program writes to it\n"
	"  -v, --verbose\n     also what the storage can do that the image lies on\n"
	"  --object OBJDEF\n     an object such as a secret\n"
	"  --output human|json\n     form of the output (human)\n";

struct info {
	struct img_common common;
	bool chain;
	bool storage; /* tell of it */
};

/*
 * Facts of one node.
 */

static void put_snapshots(struct json *o, const struct blk_snapshot *list, size_t n)
{
	struct json *array;

	if (!n)
		return;
	array = json_new_array();
	for (size_t i = 0; i < n; i++)
		json_add(array, blk_snapshot_facts(&list[i]));
	json_put(o, "snapshots", array);
}

/* The name of the backing file as a path from here; NULL where it cannot be made one. */
static char *full_backing_name(struct blk *b)
{
	char *full = NULL;

	if (!blk_backing_name(b))
		return NULL;
	if (blk_resolve_name(blk_filename(b), blk_backing_name(b), true, &full, NULL) < 0)
		return NULL;
	return full;
}

static bool is_file_protocol(const char *driver)
{
	return !strcmp(driver, "file") || !strcmp(driver, "host_device");
}

static void put_specific(struct json *o, struct blk *b)
{
	const char *driver = blk_driver_name(b);
	struct json *data = blk_format_info(b), *specific;

	if (!data && is_file_protocol(driver))
		data = json_new_object();
	if (!data)
		return;
	specific = json_new_object();
	json_put_string(specific, "type", is_file_protocol(driver) ? "file" : driver);
	json_put(specific, "data", data);
	json_put(o, "format-specific", specific);
}

static void put_storage(struct json *o, struct blk *b)
{
	struct json *facts = b->drv->kind == BLK_PROTOCOL ? blk_describe(b) : NULL;

	if (facts)
		json_put(o, "storage", facts);
}

static struct json *node_facts(const struct info *info, struct blk *b,
	const struct blk_snapshot *snapshots, size_t n);

static struct json *children_facts(const struct info *info, struct blk *b)
{
	struct json *array = json_new_array(), *child;

	if (blk_file(b)) {
		child = json_new_object();
		json_put_string(child, "name", "file");
		json_put(child, "info", node_facts(info, blk_file(b), NULL, 0));
		json_add(array, child);
	}
	return array;
}

static struct json *node_facts(const struct info *info, struct blk *b,
	const struct blk_snapshot *snapshots, size_t n)
{
	struct json *o = json_new_object();
	bool dirty = false, encrypted = false;
	int64_t allocated = blk_allocated(b);
	uint32_t cluster = 0;
	char *full = full_backing_name(b);

	blk_traits(b, &cluster, &dirty, &encrypted);
	json_put(o, "children", children_facts(info, b));
	if (blk_backing_format(b))
		json_put_string(o, "backing-filename-format", blk_backing_format(b));
	put_snapshots(o, snapshots, n);
	json_put_int(o, "virtual-size", (int64_t)tool_disk_bytes(b));
	json_put_string(o, "filename", blk_filename(b));
	if (cluster)
		json_put_int(o, "cluster-size", cluster);
	json_put_string(o, "format", blk_driver_name(b));
	if (allocated >= 0)
		json_put_int(o, "actual-size", allocated);
	put_specific(o, b);
	if (info->storage)
		put_storage(o, b);
	if (full)
		json_put_string(o, "full-backing-filename", full);
	if (encrypted)
		json_put_bool(o, "encrypted", true);
	if (blk_backing_name(b))
		json_put_string(o, "backing-filename", blk_backing_name(b));
	json_put_bool(o, "dirty-flag", dirty);
	free(full);
	return o;
}

/*
 * The same for people.
 */

static void indent(unsigned depth)
{
	printf("%*s", (int)(4 * depth), "");
}

static const char *text_of(const struct json *o, const char *key)
{
	const struct json *v = json_get(o, key);

	return v ? json_string_of(v) : NULL;
}

static void print_backing(const struct json *o, unsigned depth)
{
	const char *name = text_of(o, "backing-filename");
	const char *full = text_of(o, "full-backing-filename");
	const char *format = text_of(o, "backing-filename-format");

	if (!name)
		return;
	indent(depth);
	if (!full)
		tool_line(
			stdout, "backing file: %s (cannot determine actual path)", name);
	else if (strcmp(full, name))
		tool_line(stdout, "backing file: %s (actual path: %s)", name, full);
	else
		tool_line(stdout, "backing file: %s", name);
	if (format) {
		indent(depth);
		tool_line(stdout, "backing file format: %s", format);
	}
}

static void print_sizes(const struct json *o, bool protocol, unsigned depth)
{
	int64_t bytes = json_int_of(json_get(o, "virtual-size"));
	const struct json *allocated = json_get(o, "actual-size");
	char text[32];

	indent(depth);
	printf("%s: %s (%" PRId64 " bytes)\n", protocol ? "file length" : "virtual size",
		size_human(text, sizeof(text), (uint64_t)bytes), bytes);
	indent(depth);
	printf("disk size: %s\n", allocated ? size_human(text, sizeof(text),
						      (uint64_t)json_int_of(allocated))
					    : "unavailable");
}

static void print_traits(const struct json *o, unsigned depth)
{
	const struct json *cluster = json_get(o, "cluster-size");

	if (json_get(o, "encrypted")) {
		indent(depth);
		printf("encrypted: yes\n");
	}
	if (cluster) {
		indent(depth);
		printf("cluster_size: %" PRId64 "\n", json_int_of(cluster));
	}
	if (json_bool_of(json_get(o, "dirty-flag"))) {
		indent(depth);
		printf("cleanly shut down: no\n");
	}
}

static int is_member(const char *key, const struct json *v, void *arg)
{
	(void)key, (void)v, (void)arg;
	return 1;
}

static void print_specific(const struct json *o, unsigned depth)
{
	const struct json *specific = json_get(o, "format-specific"), *data;

	data = specific ? json_get(specific, "data") : NULL;
	if (!data || !json_object_each(data, is_member, NULL))
		return;
	indent(depth);
	printf("Format specific information:\n");
	tool_print_tree(data, depth + 1);
}

static void print_storage(const struct json *o, unsigned depth)
{
	const struct json *storage = json_get(o, "storage");

	if (!storage)
		return;
	indent(depth);
	printf("Storage:\n");
	tool_print_tree(storage, depth + 1);
}

static void print_node(const struct json *o, const struct blk_snapshot *snapshots,
	size_t n, const char *path, unsigned depth)
{
	const struct json *children = json_get(o, "children");
	bool protocol = *path && !json_array_len(children);

	indent(depth);
	tool_line(stdout, "%s: %s", protocol ? "filename" : "image",
		text_of(o, "filename"));
	indent(depth);
	printf("%s: %s\n", protocol ? "protocol type" : "file format",
		text_of(o, "format"));
	print_sizes(o, protocol, depth);
	print_traits(o, depth);
	print_backing(o, depth);
	img_print_snapshots(snapshots, n);
	print_specific(o, depth);
	print_storage(o, depth);
	for (size_t i = 0; i < json_array_len(children); i++) {
		const struct json *child = json_array_at(children, i);
		char *inner;

		if (asprintf(&inner, "%s/%s", path, text_of(child, "name")) < 0)
			continue;
		indent(depth);
		printf("Child node '%s':\n", inner);
		print_node(json_get(child, "info"), NULL, 0, inner, depth + 1);
		free(inner);
	}
}

/*
 * The image, and its chain.
 */

/* One image of the chain. */
struct link {
	struct json *facts;
	struct blk_snapshot *snapshots;
	size_t n_snapshots;
	char *name;        /* of the image itself, as it was opened */
	char *next_format; /* of the backing file; NULL: probe */
	char *next;        /* NULL at the end */
};

static void link_free(struct link *l)
{
	json_free(l->facts);
	blk_snapshots_free(l->snapshots, l->n_snapshots);
	free(l->name);
	free(l->next);
	free(l->next_format);
}

/* The backing file to go on with: a name inside an image is a plain path and nothing
 * else. */
static int find_next(struct blk *b, struct link *l)
{
	struct err err = ERR_INIT;

	if (!blk_backing_name(b))
		return 0;
	if (blk_resolve_name(
		    blk_filename(b), blk_backing_name(b), false, &l->next, &err) < 0) {
		tool_report(blk_filename(b), &err);
		return -EINVAL;
	}
	if (blk_backing_format(b))
		l->next_format = strdup(blk_backing_format(b));
	return 0;
}

static int look(const struct info *info, const struct tool_image *image, struct link *l)
{
	unsigned flags = BLK_O_NO_IO | BLK_O_NO_BACKING;
	struct blk *b = tool_open(image, flags | (info->common.share ? BLK_O_SHARE : 0));
	int ret = 0;

	if (!b)
		return -EIO;
	l->name = strdup(blk_filename(b));
	/* A format without snapshots is no fault here. */
	if (blk_snapshot_list(b, &l->snapshots, &l->n_snapshots, NULL) < 0) {
		l->snapshots = NULL;
		l->n_snapshots = 0;
	}
	l->facts = node_facts(info, b, l->snapshots, l->n_snapshots);
	if (info->chain)
		ret = find_next(b, l);
	return tool_close(b, ret);
}

static bool seen(const struct link *chain, size_t n, const char *name)
{
	for (size_t i = 0; i < n; i++) {
		if (chain[i].name && !strcmp(chain[i].name, name))
			return true;
	}
	return false;
}

/* Fills chain[] from the top down; *n is how many have to be freed, whatever comes out.
 */
static int look_down(
	const struct info *info, const char *name, struct link *chain, size_t *n)
{
	struct tool_image image = {
		name, info->common.format, info->common.image_opts, NULL};

	for (;;) {
		struct link *l = &chain[(*n)++];
		int ret = look(info, &image, l);

		if (ret < 0 || !l->next)
			return ret;
		if (seen(chain, *n, l->next)) {
			tool_error(
				"Backing file '%s' creates an infinite loop.", l->next);
			return -ELOOP;
		}
		if (*n == BLK_MAX_CHAIN) {
			tool_error("%s: more than %d images in the chain", name,
				BLK_MAX_CHAIN);
			return -ELOOP;
		}
		image = (struct tool_image){l->next, l->next_format, false, NULL};
	}
}

static void print_chain(const struct info *info, struct link *chain, size_t n)
{
	struct json *all = NULL;
	char *text;

	if (!info->common.json) {
		for (size_t i = 0; i < n && !tool_check_stdout(); i++) {
			if (i)
				putchar('\n');
			print_node(chain[i].facts, chain[i].snapshots,
				chain[i].n_snapshots, "", 0);
		}
		return;
	}
	if (info->chain) {
		all = json_new_array();
		for (size_t i = 0; i < n; i++) {
			json_add(all, chain[i].facts);
			chain[i].facts = NULL; /* all owns it now */
		}
	}
	text = json_dump(all ? all : chain[0].facts, 4);
	printf("%s\n", text);
	free(text);
	json_free(all);
}

int img_info(int argc, char **argv)
{
	static const struct option options[] = {
		{"help", no_argument, NULL, 'h'},
		{"format", required_argument, NULL, 'f'},
		{"image-opts", no_argument, NULL, IMG_OPT_IMAGE_OPTS},
		{"backing-chain", no_argument, NULL, 'b'},
		{"force-share", no_argument, NULL, 'U'},
		{"verbose", no_argument, NULL, 'v'},
		{"object", required_argument, NULL, IMG_OPT_OBJECT},
		{"output", required_argument, NULL, IMG_OPT_OUTPUT},
		{NULL, 0, NULL, 0},
	};
	struct info info = {.common = {.command = "info", .help = help}};
	struct link *chain;
	size_t n = 0;
	int c, ret;

	while ((c = getopt_long(argc, argv, "hf:bUv", options, NULL)) >= 0) {
		if (c == 'b') {
			info.chain = true;
			continue;
		}
		if (c == 'v') {
			info.storage = true;
			continue;
		}
		ret = img_common_option(&info.common, c);
		if (ret >= 0)
			return ret;
	}
	ret = img_expect_names("info", argc, 1, "one image file name");
	if (ret)
		return ret;
	if (img_check_image_opts(info.common.image_opts, info.common.format))
		return 1;
	/* Programs made for the peer find what they know. */
	if (info.common.json && !tool_is_peer())
		info.storage = true;
	chain = calloc(BLK_MAX_CHAIN, sizeof(*chain));
	if (!chain) {
		tool_error("out of memory");
		return 1;
	}
	ret = look_down(&info, argv[optind], chain, &n);
	if (!ret)
		print_chain(&info, chain, n);
	while (n)
		link_free(&chain[--n]);
	free(chain);
	return ret < 0 ? 1 : 0;
}
