/* SPDX-License-Identifier: BSD-2-Clause */
/* Choosing firmware. See byre-firmware.h. */
#include "tools/byre-firmware.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "block/blk.h"
#include "block/format.h"

/* ---- variables ------------------------------------------------------------------- */

static int copy(struct blk *from, struct blk *to, struct err *err)
{
	uint64_t bytes = blk_size(from);
	void *data = malloc(bytes ? bytes : 1);
	int ret = data ? blk_pread(from, 0, data, bytes) : -ENOMEM;

	ret = ret ? ret : blk_pwrite(to, 0, data, bytes, 0);
	ret = ret ? ret : blk_flush(to);
	free(data);
	return ret ? err_errno(err, -ret, "%s", blk_filename(from)) : 0;
}

static struct blk *open_raw(const char *name, unsigned flags, struct err *err)
{
	return blk_open_format(name, "raw", flags, err);
}

/* In memory, for as long as the machine runs. */
static int open_forgetful(struct blk *template, struct blk **out, struct err *err)
{
	struct blk *b = blk_open("mem:vars", NULL, BLK_O_RDWR | BLK_O_PROTOCOL, err);
	int ret =
		b ? blk_resize(b, blk_size(template), BLK_PREALLOC_OFF, err) : -err->code;

	ret = ret ? ret : copy(template, b, err);
	if (ret)
		blk_close(b);
	else
		*out = b;
	return ret;
}

/* The new file has another name until all of it is there. */
static int make_vars(struct blk *template, const char *name, struct err *err)
{
	struct opts *opts = opts_new();
	char *part = NULL;
	struct blk *b;
	int ret;

	if (asprintf(&part, "%s.new", name) < 0) {
		opts_free(opts);
		return err_errno(err, ENOMEM, "%s", name);
	}
	opts_setf(opts, "size", "%llu", (unsigned long long)blk_size(template));
	ret = blk_create(part, "raw", opts, err);
	opts_free(opts);
	b = ret ? NULL : open_raw(part, BLK_O_RDWR, err);
	if (b) {
		int closed;

		ret = copy(template, b, err);
		closed = blk_close(b);
		if (ret == 0 && closed)
			ret = err_errno(err, -closed, "%s", part);
	} else if (ret == 0) {
		ret = -err->code;
	}
	if (ret == 0 && rename(part, name))
		ret = err_errno(err, errno, "%s", name);
	if (ret)
		unlink(part);
	free(part);
	return ret;
}

static int open_vars(
	const char *name, const char *template_name, struct blk **out, struct err *err)
{
	bool make = name && template_name && access(name, F_OK) != 0;
	struct blk *template = NULL;
	int ret = 0;

	if (template_name && (make || !name)) {
		template = open_raw(template_name, 0, err);
		ret = template ? 0 : -err->code;
	}
	if (ret == 0 && template && !name)
		ret = open_forgetful(template, out, err);
	if (ret == 0 && make)
		ret = make_vars(template, name, err);
	blk_close(template);
	if (ret == 0 && name) {
		*out = blk_open(name, NULL, BLK_O_RDWR | BLK_O_SOLE_WRITER, err);
		ret = *out ? 0 : -err->code;
	}
	return ret;
}

/* ---- all of it ------------------------------------------------------------------- */

int firmware_choose(
	const struct firmware_choice *c, struct firmware_options *out, struct err *err)
{
	struct firmware_files files;
	int ret = firmware_find(c->name ? c->name : "bios", &files, err);

	*out = (struct firmware_options){.log_fd = -1};
	if (ret)
		return ret;
	out->code = files.code;
	if (c->log) {
		out->log_fd =
			open(c->log, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
		if (out->log_fd < 0)
			return err_errno(err, errno, "%s", c->log);
	}
	ret = open_vars(c->vars, files.vars_template, &out->vars, err);
	return ret ? err_prefix(err, "the firmware's variables") : 0;
}

int firmware_release(struct firmware_options *o)
{
	int ret = blk_close(o->vars);

	if (o->log_fd >= 0)
		close(o->log_fd);
	*o = (struct firmware_options){.log_fd = -1};
	return ret;
}
