/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * See devfacts.h. A partition's folder lies inside its disk's, and what belongs to the
 * disk (queue, device) is looked for there. sysfs files hold one value each, ended by a
 * newline; names that come out of hardware are padded with blanks.
 */
#include "backends/devfacts.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/json.h"
#include "base/math.h"
#include "block/storage.h"

#define PATH_BYTES 512

struct where {
	const char *dir;  /* of the device */
	const char *disk; /* from there to its disk: "" or "/.." */
};

/* ---- reading sysfs --------------------------------------------------------------- */

static bool there(const struct where *w, const char *name)
{
	char path[PATH_BYTES];
	struct stat st;

	snprintf(path, sizeof(path), "%s%s/%s", w->dir, w->disk, name);
	return stat(path, &st) == 0;
}

/* The value without blanks around it; "" where there is none. */
static const char *text_of(
	const struct where *w, const char *name, char *buf, size_t size)
{
	char path[PATH_BYTES], line[256] = "";
	char *start = line, *end;
	FILE *in;

	snprintf(path, sizeof(path), "%s%s/%s", w->dir, w->disk, name);
	in = fopen(path, "re");
	if (in && !fgets(line, sizeof(line), in))
		line[0] = '\0';
	if (in)
		fclose(in);
	while (isspace((unsigned char)*start))
		start++;
	end = start + strlen(start);
	while (end > start && isspace((unsigned char)end[-1]))
		end--;
	snprintf(buf, size, "%.*s", (int)(end - start), start);
	return buf;
}

static uint64_t number_of(const struct where *w, const char *name)
{
	char text[32];

	return strtoull(text_of(w, name, text, sizeof(text)), NULL, 10);
}

static unsigned count_entries(const struct where *w, const char *name)
{
	char path[PATH_BYTES];
	struct dirent *e;
	unsigned n = 0;
	DIR *d;

	snprintf(path, sizeof(path), "%s%s/%s", w->dir, w->disk, name);
	d = opendir(path);
	while (d && (e = readdir(d)))
		n += e->d_name[0] != '.';
	if (d)
		closedir(d);
	return n;
}

/* The kernel's name of the disk: DEVNAME= in uevent. */
static void find_name(const struct where *w, char *buf, size_t size)
{
	char path[PATH_BYTES], line[256];
	FILE *in;

	buf[0] = '\0';
	snprintf(path, sizeof(path), "%s%s/uevent", w->dir, w->disk);
	in = fopen(path, "re");
	while (in && fgets(line, sizeof(line), in)) {
		line[strcspn(line, "\n")] = '\0';
		if (!strncmp(line, "DEVNAME=", 8))
			snprintf(buf, size, "%.*s", (int)size - 1, line + 8);
	}
	if (in)
		fclose(in);
}

/* ---- what it is ------------------------------------------------------------------ */

static bool begins(const char *text, const char *with)
{
	return !strncmp(text, with, strlen(with));
}

/* Device-mapper puts its user's name before the uuid; kpartx "partN-" before that. */
static const char *dm_kind(const char *uuid, unsigned *partition)
{
	if (begins(uuid, "part") && isdigit((unsigned char)uuid[4])) {
		char *rest;

		*partition = strtoul(uuid + 4, &rest, 10);
		uuid = *rest == '-' ? rest + 1 : rest;
	}
	return begins(uuid, "mpath-")   ? "multipath"
	       : begins(uuid, "LVM-")   ? "lvm"
	       : begins(uuid, "CRYPT-") ? "crypt"
					: "device-mapper";
}

static const char *plain_kind(const struct where *w)
{
	static const struct {
		const char *name, *kind;
	} kinds[] = {{"nvme", "nvme"}, {"vd", "virtio"}, {"nbd", "nbd"}, {"rbd", "rbd"},
		{"zram", "zram"}, {"ram", "ram"}};
	char name[64];

	if (there(w, "loop"))
		return "loop";
	if (there(w, "md"))
		return "raid";
	if (there(w, "device/scsi_level"))
		return "scsi";
	find_name(w, name, sizeof(name));
	for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
		if (begins(name, kinds[i].name))
			return kinds[i].kind;
	}
	return "disk";
}

/* multipath-tools puts the type of the designator before it: 3 is NAA, which the disks
 * below call by that name. */
static void set_dm_wwid(struct dev_facts *f, const char *uuid)
{
	const char *mpath = strstr(uuid, "mpath-");

	if (mpath && mpath[6] == '3')
		snprintf(f->wwid, sizeof(f->wwid), "naa.%s", mpath + 7);
	else if (mpath || begins(uuid, "LVM-"))
		snprintf(f->wwid, sizeof(f->wwid), "%s", mpath ? mpath : uuid);
}

static void read_what(const struct where *w, struct dev_facts *f)
{
	char uuid[144];

	text_of(w, "dm/uuid", uuid, sizeof(uuid));
	if (there(w, "dm")) {
		f->kind = dm_kind(uuid, &f->partition);
		set_dm_wwid(f, uuid);
		if (!strcmp(f->kind, "multipath") && !f->partition)
			f->paths = count_entries(w, "slaves");
		return;
	}
	f->kind = plain_kind(w);
	text_of(w, "device/vendor", f->vendor, sizeof(f->vendor));
	text_of(w, "device/model", f->model, sizeof(f->model));
	text_of(w, "device/wwid", f->wwid, sizeof(f->wwid));
	if (!f->wwid[0])
		text_of(w, "wwid", f->wwid, sizeof(f->wwid));
	text_of(w, "device/access_state", f->access, sizeof(f->access));
	f->preferred = number_of(w, "device/preferred_path") == 1;
}

void dev_facts_read(const char *dir, struct dev_facts *out)
{
	const struct where itself = {dir, ""};
	struct where w = itself;

	*out = (struct dev_facts){.kind = "disk"};
	out->partition = number_of(&itself, "partition");
	if (out->partition)
		w.disk = "/..";
	read_what(&w, out);
	out->read_only = number_of(&itself, "ro");
	out->rotational = number_of(&w, "queue/rotational");
	out->logical_block = number_of(&w, "queue/logical_block_size");
	out->physical_block = number_of(&w, "queue/physical_block_size");
	out->optimal_io = number_of(&w, "queue/optimal_io_size");
	out->discard_granularity = number_of(&w, "queue/discard_granularity");
	out->discard_max = number_of(&w, "queue/discard_max_bytes");
	out->zeroes_max = number_of(&w, "queue/write_zeroes_max_bytes");
}

/* ---- telling --------------------------------------------------------------------- */

static void put_text(struct json *o, const char *key, const char *text)
{
	if (text[0])
		json_put_string(o, key, text);
}

static void put_bytes(struct json *o, const char *key, uint64_t bytes)
{
	if (bytes)
		json_put_int(o, key, (int64_t)MIN(bytes, (uint64_t)INT64_MAX));
}

void dev_facts_describe(const struct dev_facts *f, struct json *o)
{
	json_put_string(o, "kind", f->kind);
	put_bytes(o, "partition", f->partition);
	put_text(o, "vendor", f->vendor);
	put_text(o, "model", f->model);
	put_text(o, "wwid", f->wwid);
	put_bytes(o, "paths", f->paths);
	put_text(o, "access-state", f->access);
	if (f->access[0])
		json_put_bool(o, "preferred-path", f->preferred);
	json_put_bool(o, "read-only", f->read_only);
	json_put_bool(o, "rotational", f->rotational);
	put_bytes(o, "logical-block-size", f->logical_block);
	put_bytes(o, "physical-block-size", f->physical_block);
	put_bytes(o, "optimal-io-size", f->optimal_io);
	json_put_bool(o, "discard", f->discard_max != 0);
	if (f->discard_max) {
		put_bytes(o, "discard-granularity", f->discard_granularity);
		put_bytes(o, "discard-max-bytes", f->discard_max);
	}
	json_put_bool(o, "write-zeroes", f->zeroes_max != 0);
}

int dev_facts_identity(const struct dev_facts *f, char **out)
{
	char *id;
	int n;

	if (!f->wwid[0])
		return -ENOTSUP;
	if (f->partition)
		n = asprintf(&id, "%s-part%u", f->wwid, f->partition);
	else
		n = asprintf(&id, "%s", f->wwid);
	if (n < 0)
		return -ENOMEM;
	*out = id;
	return 0;
}

unsigned dev_facts_priority(const struct dev_facts *f)
{
	static const struct {
		const char *state;
		unsigned priority;
	} states[] = {{"active/optimized", BLK_PATH_OPTIMIZED},
		{"active/non-optimized", BLK_PATH_NON_OPTIMIZED},
		{"lba-dependent", BLK_PATH_NON_OPTIMIZED}, {"standby", BLK_PATH_STANDBY},
		{"unavailable", BLK_PATH_UNAVAILABLE}, {"offline", BLK_PATH_UNAVAILABLE},
		{"transitioning", BLK_PATH_UNAVAILABLE}};

	for (size_t i = 0; i < ARRAY_LEN(states); i++) {
		if (strcmp(f->access, states[i].state) != 0)
			continue;
		return f->preferred && states[i].priority >= BLK_PATH_NON_OPTIMIZED
			       ? BLK_PATH_PREFERRED
			       : states[i].priority;
	}
	return BLK_PATH_OPTIMIZED; /* no asymmetry known */
}
