/* SPDX-License-Identifier: BSD-2-Clause */
/* Disks as people write them. See disk_options.h. */
#include "vmm/disk_options.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/math.h"
#include "block/driver.h"

#define RATE_MAX 1000000000000000ull

static int take_name(
	struct opts *opts, const char *key, char *out, size_t bytes, struct err *err)
{
	const char *value = opts_take(opts, key);

	if (value && strlen(value) >= bytes)
		return err_set(err, EINVAL, "%s '%s' is longer than %zu bytes", key,
			value, bytes - 1);
	if (value)
		snprintf(out, bytes, "%s", value);
	return 0;
}

static int take_names(struct disk_spec *s, struct opts *opts, struct err *err)
{
	int ret = take_name(opts, "id", s->id, sizeof(s->id), err);

	ret = ret ? ret : take_name(opts, "serial", s->serial, sizeof(s->serial), err);
	s->disk.disk.id = s->id[0] ? s->id : NULL;
	s->disk.disk.serial = s->serial[0] ? s->serial : NULL;
	return ret;
}

/* A read never wants for space. */
static int take_policies(struct disk_options *d, struct opts *opts, struct err *err)
{
	static const char *const of_reads[] = {"report", "ignore", "stop", NULL};
	int reads = DISK_REPORT, writes = DISK_ENOSPC, ret;

	ret = opts_take_enum(opts, "rerror", of_reads, &reads, err);
	ret = ret ? ret : opts_take_enum(opts, "werror", disk_policy_names, &writes, err);
	d->on_read_error = (enum disk_policy)reads;
	d->on_write_error = (enum disk_policy)writes;
	return ret;
}

static int take_rate(struct opts *opts, const char *key, uint64_t *rate, struct err *err)
{
	int ret = opts_take_size(opts, key, rate, err);

	if (ret == 0 && *rate > RATE_MAX)
		return err_set(err, EINVAL, "%s: at most %llu", key, RATE_MAX);
	return ret;
}

static int take_limits(struct disk_limits *l, struct opts *opts, struct err *err)
{
	static const char *const kinds[] = {"total", "read", "write"};
	char key[40];
	int ret = 0;

	for (unsigned i = 0; i < ARRAY_LEN(kinds) && ret == 0; i++) {
		snprintf(key, sizeof(key), "throttling.iops-%s", kinds[i]);
		ret = take_rate(opts, key, &l->iops[i], err);
		snprintf(key, sizeof(key), "throttling.bps-%s", kinds[i]);
		ret = ret ? ret : take_rate(opts, key, &l->bps[i], err);
	}
	return ret ? ret : disk_limits_check(l, err);
}

/* From 1 on; bootindex counts from 0. */
static int take_boot(struct disk_options *d, struct opts *opts, struct err *err)
{
	uint64_t boot = 0, index = 0;
	bool has_boot = opts_peek(opts, "boot"), has_index = opts_peek(opts, "bootindex");
	int ret = opts_take_u64(opts, "boot", &boot, err);

	ret = ret ? ret : opts_take_u64(opts, "bootindex", &index, err);
	if (ret)
		return ret;
	if ((has_boot && !boot) || boot > DISK_BOOT_MAX || index >= DISK_BOOT_MAX)
		return err_set(err, EINVAL, "boot: 1 to %u", DISK_BOOT_MAX);
	if (has_boot && has_index)
		return err_set(err, EINVAL, "boot and bootindex are the same");
	d->boot = (unsigned)(has_index ? index + 1 : boot);
	return 0;
}

static int take_queues(struct machine_disk *d, struct opts *opts, struct err *err)
{
	uint64_t queues = 0;
	int ret = opts_take_bool(opts, "packed", &d->packed, err);

	ret = ret ? ret : opts_take_u64(opts, "queues", &queues, err);

	if (ret == 0 && queues > VM_CPUS_MAX)
		return err_set(err, EINVAL, "queues: 1 to %u", VM_CPUS_MAX);
	d->queues = (unsigned)queues;
	return ret;
}

int disk_options_take(struct disk_spec *s, struct opts *opts, struct err *err)
{
	int ret = take_names(s, opts, err);

	ret = ret ? ret : take_policies(&s->disk.disk, opts, err);
	ret = ret ? ret : take_limits(&s->disk.disk.limits, opts, err);
	ret = ret ? ret : take_boot(&s->disk.disk, opts, err);
	ret = ret ? ret : opts_take_bool(opts, "pr", &s->disk.disk.reservations, err);
	return ret ? ret : take_queues(&s->disk, opts, err);
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

/* Of both: the device passes discards on where the image takes them. */
static int take_image_options(
	struct disk_spec *s, struct opts *opts, unsigned *flags, struct err *err)
{
	const char *cache = opts_take(opts, "cache"),
		   *discard = opts_peek(opts, "discard");
	bool read_only = false;
	int ret = opts_take_bool(opts, "readonly", &read_only, err);

	ret = ret ? ret : opts_take_bool(opts, "share-rw", &s->shared, err);
	ret = ret ? ret : take_device(opts, &s->disk, &read_only, err);
	if (ret == 0 && cache && blk_cache_mode(cache, flags))
		ret = err_set(err, EINVAL, "'%s' is not a cache mode", cache);
	/* Others' writes do not come into this host's cache. */
	if ((s->disk.disk.reservations || s->shared) && !cache)
		*flags |= BLK_O_DIRECT;
	s->disk.disk.discard =
		discard && (!strcmp(discard, "unmap") || !strcmp(discard, "on"));
	s->writable = !read_only;
	if (!s->shared)
		*flags |= BLK_O_SOLE_WRITER;
	return ret;
}

/* The block layer has another option of the name "file", and one that is "driver". */
static int take_file(struct opts *opts, char **file, struct err *err)
{
	const char *name = opts_peek(opts, "file"), *format;

	*file = name ? strdup(name) : NULL;
	if (name && !*file)
		return err_errno(err, ENOMEM, "disk");
	opts_del(opts, "file");
	format = opts_take(opts, "format");
	if (!*file && !opts_peek(opts, "driver") && !opts_has_prefix(opts, "file."))
		return err_set(err, EINVAL, "a disk needs file=IMAGE");
	if (format)
		opts_set(opts, "driver", format);
	return 0;
}

/* Two programs would write a format's tables; and what is smaller than the storage's blocks is
 * read and written back, by each host for itself. */
static int check_shared(const struct blk *b, struct err *err)
{
	uint32_t align = 0;

	for (const struct blk *n = b; n; n = n->file)
		align = MAX(align, n->limits.request_align);
	if (strcmp(blk_driver_name(b), "raw") != 0)
		return err_set(err, EINVAL,
			"share-rw=on: a disk that others write is raw, and not %s",
			blk_driver_name(b));
	if (align > BLK_SECTOR)
		return err_set(err, ENOTSUP,
			"share-rw=on: its storage has blocks of %u bytes, and the guest "
			"%u",
			align, BLK_SECTOR);
	return 0;
}

static int open_spec(struct disk_spec *s, const char *text, bool look, struct err *err)
{
	struct opts *opts = opts_new();
	unsigned flags = look ? BLK_O_SHARE : 0;
	char *file = NULL;
	int ret = opts_parse(opts, text, "file", err);

	memset(s, 0, sizeof(*s));
	ret = ret ? ret : take_file(opts, &file, err);
	ret = ret ? ret : disk_options_take(s, opts, err);
	ret = ret ? ret : take_image_options(s, opts, &flags, err);
	if (s->writable && !look)
		flags |= BLK_O_RDWR;
	if (ret == 0) {
		s->disk.disk.blk = blk_open(file, opts, flags, err);
		ret = s->disk.disk.blk ? 0 : -err->code;
	}
	if (ret == 0 && s->shared)
		ret = check_shared(s->disk.disk.blk, err);
	if (ret) {
		blk_close(s->disk.disk.blk);
		s->disk.disk.blk = NULL;
	}
	opts_free(opts);
	free(file);
	return ret;
}

int disk_options_open(struct disk_spec *s, const char *text, struct err *err)
{
	return open_spec(s, text, false, err);
}

int disk_options_look(struct disk_spec *s, const char *text, struct err *err)
{
	return open_spec(s, text, true, err);
}
