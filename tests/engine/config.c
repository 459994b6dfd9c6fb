/* SPDX-License-Identifier: BSD-2-Clause */
/* See config.h. */
#include "tests/engine/config.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/iov.h"
#include "base/math.h"
#include "block/format.h"
#include "block/secret.h"

static const char *const backing_names[] = {"none", "short", "long", "odd", NULL};
static const char *const data_file_names[] = {"none", "external", "raw", NULL};

/* ---- points of the matrix -------------------------------------------------------- */

/* Why this point is none; NULL where it is one. The rules are the format's. */
static const char *conflict(const struct config *c)
{
	if (c->raw)
		return NULL;
	if (!is_pow2(c->cluster_bytes) || c->cluster_bytes < 512 ||
		c->cluster_bytes > 2 * MiB)
		return "cluster size";
	if (!is_pow2(c->refcount_bits) || c->refcount_bits > 64)
		return "refcount width";
	if (c->version == 2 && (c->refcount_bits != 16 || c->extended_l2 || c->zstd ||
				       c->lazy || c->data_file != DATA_FILE_NONE))
		return "version 2 has none of that";
	if (c->extended_l2 && c->cluster_bytes < 16 * KiB)
		return "clusters too small for subclusters";
	if (c->data_file == DATA_FILE_RAW && c->backing != BACKING_NONE)
		return "a raw data file allows no backing file";
	if (c->backing == BACKING_ODD && c->backing_qcow2)
		return "only raw files have odd sizes";
	if (!c->disk_bytes || c->disk_bytes % BLK_SECTOR)
		return "disk size";
	if (c->url && c->data_file != DATA_FILE_NONE)
		return "a data file is beside a local image";
	return NULL;
}

void config_random(struct config *c, struct rng *r, uint64_t max_bytes)
{
	do {
		uint64_t most;

		memset(c, 0, sizeof(*c));
		c->cluster_bytes = 512u << rng_below(r, 13);
		c->version = rng_one_in(r, 4) ? 2 : 3;
		c->refcount_bits = rng_one_in(r, 2) ? 16 : 1u << rng_below(r, 7);
		c->extended_l2 = rng_one_in(r, 3);
		c->zstd = rng_one_in(r, 3);
		c->luks = rng_one_in(r, 6);
		c->lazy = rng_one_in(r, 4);
		c->backing = rng_one_in(r, 2) ? BACKING_NONE : rng_between(r, 1, 3);
		c->backing_qcow2 = c->backing && rng_one_in(r, 2);
		c->data_file = rng_one_in(r, 5) ? rng_between(r, 1, 2) : DATA_FILE_NONE;
		/* Some tens to hundreds of clusters: tables fill and grow. */
		most = MIN(max_bytes, MAX((uint64_t)c->cluster_bytes * 200, MiB));
		c->disk_bytes = rng_between(r, 1, most / BLK_SECTOR) * BLK_SECTOR;
	} while (conflict(c));
}

static int parse_keys(struct config *c, struct opts *o, struct err *err)
{
	uint64_t cluster = c->cluster_bytes, version = c->version;
	uint64_t bits = c->refcount_bits;
	int backing = (int)c->backing, data_file = (int)c->data_file;

	if (opts_take_bool(o, "raw", &c->raw, err) ||
		opts_take_size(o, "cluster", &cluster, err) ||
		opts_take_u64(o, "version", &version, err) ||
		opts_take_u64(o, "refcount", &bits, err) ||
		opts_take_bool(o, "subclusters", &c->extended_l2, err) ||
		opts_take_bool(o, "zstd", &c->zstd, err) ||
		opts_take_bool(o, "luks", &c->luks, err) ||
		opts_take_bool(o, "lazy", &c->lazy, err) ||
		opts_take_enum(o, "backing", backing_names, &backing, err) ||
		opts_take_bool(o, "backing_qcow2", &c->backing_qcow2, err) ||
		opts_take_enum(o, "data_file", data_file_names, &data_file, err) ||
		opts_take_size(o, "size", &c->disk_bytes, err))
		return -EINVAL;
	c->cluster_bytes = (uint32_t)cluster;
	c->version = (unsigned)version;
	c->refcount_bits = (unsigned)bits;
	c->backing = (enum config_backing)backing;
	c->data_file = (enum config_data_file)data_file;
	if (c->raw)
		*c = (struct config){.raw = true,
			.disk_bytes = c->disk_bytes,
			.url = c->url,
			.url_opts = c->url_opts};
	return opts_check_unused(o, err);
}

int config_parse(struct config *c, const char *text, struct err *err)
{
	struct opts *o = opts_new();
	int ret = opts_parse(o, text, NULL, err);

	if (!ret)
		ret = parse_keys(c, o, err);
	opts_free(o);
	if (!ret && conflict(c))
		ret = err_set(err, EINVAL, "%s: %s", text, conflict(c));
	return ret;
}

char *config_text(const struct config *c, char buf[CONFIG_TEXT])
{
	if (c->raw)
		snprintf(buf, CONFIG_TEXT, "raw=on,size=%" PRIu64, c->disk_bytes);
	else
		snprintf(buf, CONFIG_TEXT,
			"cluster=%u,version=%u,refcount=%u,subclusters=%s,zstd=%s,luks=%"
			"s,"
			"lazy=%s,backing=%s,backing_qcow2=%s,data_file=%s,size=%" PRIu64,
			c->cluster_bytes, c->version, c->refcount_bits,
			c->extended_l2 ? "on" : "off", c->zstd ? "on" : "off",
			c->luks ? "on" : "off", c->lazy ? "on" : "off",
			backing_names[c->backing], c->backing_qcow2 ? "on" : "off",
			data_file_names[c->data_file], c->disk_bytes);
	return buf;
}

bool config_is_fixed(const struct config *c)
{
	return c->raw && c->url && strncmp(c->url, "nfs:", 4) != 0;
}

bool config_has_snapshots(const struct config *c)
{
	return !c->raw && c->data_file == DATA_FILE_NONE;
}

bool config_has_compression(const struct config *c)
{
	return !c->raw && c->data_file == DATA_FILE_NONE && !c->luks;
}

uint32_t config_cluster_bytes(const struct config *c)
{
	return c->raw ? BLK_SECTOR : c->cluster_bytes;
}

/* ---- making and opening ---------------------------------------------------------- */

int config_secret(struct err *err)
{
	struct opts *o = opts_new();
	int ret;

	opts_set(o, "id", CONFIG_SECRET);
	opts_set(o, "data", CONFIG_PASSWORD);
	ret = secret_add(o, err);
	opts_free(o);
	return ret;
}

void config_fill(struct rng *r, uint8_t *buf, size_t bytes)
{
	uint64_t kind = rng_below(r, 8), word = rng_next(r);

	if (kind < 3) {
		memset(buf, kind ? (int)(word & 0xff) : 0, bytes);
		return;
	}
	for (size_t i = 0; i < bytes; i += sizeof(word)) {
		/* Half noise, half the same words: compresses, and no two places are
		 * alike. */
		uint64_t w = kind < 6 && i % 16 ? word : rng_next(r);

		memcpy(buf + i, &w, MIN(bytes - i, sizeof(w)));
	}
}

static uint64_t backing_bytes(const struct config *c, struct rng *r)
{
	uint64_t sectors = c->disk_bytes / BLK_SECTOR;

	switch (c->backing) {
	case BACKING_SHORT:
		return rng_between(r, 1, sectors) * BLK_SECTOR;
	case BACKING_LONG:
		return rng_between(r, sectors, sectors * 2) * BLK_SECTOR;
	default:
		return rng_between(r, 0, c->disk_bytes - 1) | 1;
	}
}

/* Data with holes, written in pieces of any length; initial[] gets what it reads as. */
static int backing_contents(const struct config *c, struct blk *b, uint64_t bytes,
	struct rng *r, uint8_t *initial, struct err *err)
{
	uint8_t *buf = buf_alloc(64 * KiB);
	int ret = buf ? 0 : err_set(err, ENOMEM, "out of memory");

	for (uint64_t pos = 0; !ret && pos < bytes;) {
		size_t n = MIN(rng_between(r, 1, 64 * KiB), bytes - pos);

		if (!rng_one_in(r, 3)) {
			config_fill(r, buf, n);
			ret = blk_pwrite(b, pos, buf, n, 0);
			if (ret)
				err_errno(err, -ret, "writing the backing file");
			if (pos < c->disk_bytes)
				memcpy(initial + pos, buf, MIN(n, c->disk_bytes - pos));
		}
		pos += n;
	}
	buf_free(buf);
	return ret;
}

static int backing_create(
	const struct config *c, struct rng *r, uint8_t *initial, struct err *err)
{
	const char *format = c->backing_qcow2 ? "qcow2" : "raw";
	uint64_t bytes = backing_bytes(c, r);
	struct opts *o = opts_new();
	struct blk *b;
	int ret, closed;

	opts_setf(o, "size", "%" PRIu64, round_up(bytes, BLK_SECTOR));
	ret = blk_create(CONFIG_BACKING, format, o, err);
	opts_free(o);
	if (ret)
		return ret;
	if (bytes % BLK_SECTOR && truncate(CONFIG_BACKING, (off_t)bytes))
		return err_errno(err, errno, "truncate %s", CONFIG_BACKING);
	b = blk_open_format(CONFIG_BACKING, format, BLK_O_RDWR, err);
	if (!b)
		return -EIO;
	ret = backing_contents(c, b, bytes, r, initial, err);
	closed = blk_close(b);
	if (!ret && closed)
		ret = err_errno(err, -closed, "closing the backing file");
	return ret;
}

/* The backing file as the image names it: a RAM disk is beside nothing, and what is on a
 * server is not beside a local file. */
static void backing_name(const struct config *c, struct opts *o)
{
	char *cwd = c->segment || c->url ? getcwd(NULL, 0) : NULL;

	if (cwd)
		opts_setf(o, "backing_file", "%s/%s", cwd, CONFIG_BACKING);
	else
		opts_set(o, "backing_file", CONFIG_BACKING);
	free(cwd);
}

static void create_opts(const struct config *c, struct opts *o)
{
	opts_setf(o, "size", "%" PRIu64, c->disk_bytes);
	if (c->raw)
		return;
	opts_setf(o, "cluster_size", "%u", c->cluster_bytes);
	opts_set(o, "compat", c->version == 2 ? "0.10" : "1.1");
	if (c->refcount_bits != 16)
		opts_setf(o, "refcount_bits", "%u", c->refcount_bits);
	if (c->extended_l2)
		opts_set(o, "extended_l2", "on");
	if (c->zstd)
		opts_set(o, "compression_type", "zstd");
	if (c->lazy)
		opts_set(o, "lazy_refcounts", "on");
	if (c->luks) {
		opts_set(o, "encrypt.format", "luks");
		opts_set(o, "encrypt.key-secret", CONFIG_SECRET);
		opts_set(o, "encrypt.iter-time", "10");
	}
	if (c->backing) {
		backing_name(c, o);
		opts_set(o, "backing_fmt", c->backing_qcow2 ? "qcow2" : "raw");
	}
	if (c->data_file) {
		opts_set(o, "data_file", CONFIG_DATA_FILE);
		if (c->data_file == DATA_FILE_RAW)
			opts_set(o, "data_file_raw", "on");
	}
}

static int read_initial(const struct config *c, uint8_t *initial, struct err *err)
{
	struct blk *b = config_open(c, 0, err);
	int ret;

	if (!b)
		return -EIO;
	ret = blk_pread(b, 0, initial, c->disk_bytes);
	if (ret)
		err_errno(err, -ret, "reading %s", c->url);
	blk_close(b);
	return ret;
}

int config_create(
	const struct config *c, struct rng *r, uint8_t *initial, struct err *err)
{
	char name[1024];
	struct opts *o;
	int ret = 0;

	config_remove();
	snprintf(name, sizeof(name), "%s%s", c->segment ? "mem:" : "",
		c->segment ? c->segment
		: c->url   ? c->url
			   : CONFIG_IMAGE);
	memset(initial, 0, c->disk_bytes);
	if (!c->raw && c->backing)
		ret = backing_create(c, r, initial, err);
	if (ret)
		return ret;
	o = opts_new();
	create_opts(c, o);
	ret = blk_create(name, c->raw ? "raw" : "qcow2", o, err);
	opts_free(o);
	if (ret == 0 && config_is_fixed(c))
		ret = read_initial(c, initial, err);
	return ret;
}

static void format_opts(const struct config *c, struct opts *o)
{
	opts_set(o, "driver", c->raw ? "raw" : "qcow2");
	if (config_is_fixed(c))
		opts_setf(o, "size", "%" PRIu64, c->disk_bytes);
	if (c->luks)
		opts_set(o, "encrypt.key-secret", CONFIG_SECRET);
}

static int url_opts(
	const struct config *c, struct opts *o, const char *prefix, struct err *err)
{
	char key[64], *text = strdup(c->url_opts ? c->url_opts : ""), *rest = text;
	int ret = text ? 0 : err_errno(err, ENOMEM, "options");

	snprintf(key, sizeof(key), "%sfilename", prefix);
	opts_set(o, key, c->url);
	for (char *one; ret == 0 && (one = strsep(&rest, ",")) != NULL;) {
		char *value = strchr(one, '=');

		if (value) {
			*value++ = '\0';
			snprintf(key, sizeof(key), "%s%s", prefix, one);
			opts_set(o, key, value);
		} else if (*one) {
			ret = err_set(err, EINVAL, "'%s': no KEY=VALUE", one);
		}
	}
	free(text);
	return ret;
}

/* The node that holds the image's bytes, under prefix. */
static int file_opts(
	const struct config *c, struct opts *o, const char *prefix, struct err *err)
{
	char key[64];

	if (c->url)
		return url_opts(c, o, prefix, err);
	snprintf(key, sizeof(key), "%sdriver", prefix);
	opts_set(o, key, c->segment ? "mem" : "file");
	snprintf(key, sizeof(key), "%s%s", prefix, c->segment ? "name" : "filename");
	opts_set(o, key, c->segment ? c->segment : CONFIG_IMAGE);
	return 0;
}

static struct blk *open_node(
	const struct config *c, const char *instrument, unsigned flags, struct err *err)
{
	struct opts *o = opts_new();
	struct blk *b = NULL;

	format_opts(c, o);
	if (instrument)
		opts_set(o, "file.driver", instrument);
	if (file_opts(c, o, instrument ? "file.file." : "file.", err) == 0)
		b = blk_open(NULL, o, flags, err);
	opts_free(o);
	return b;
}

struct blk *config_open(const struct config *c, unsigned flags, struct err *err)
{
	return open_node(c, NULL, flags, err);
}

struct blk *config_open_through(
	const struct config *c, const char *instrument, unsigned flags, struct err *err)
{
	return open_node(c, instrument, flags, err);
}

void config_remove(void)
{
	unlink(CONFIG_IMAGE);
	unlink(CONFIG_BACKING);
	unlink(CONFIG_DATA_FILE);
}

/* ---- the peer's opinion ---------------------------------------------------------- */

/* Runs a shell command; what it printed goes into err where it fails. */
static int shell(struct err *err, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
static int shell(struct err *err, const char *fmt, ...)
{
	char command[1024], said[768];
	size_t n;
	FILE *f;
	va_list ap;
	int status;

	va_start(ap, fmt);
	vsnprintf(command, sizeof(command), fmt, ap);
	va_end(ap);
	f = popen(command, "re");
	if (!f)
		return err_errno(err, errno, "popen");
	n = fread(said, 1, sizeof(said) - 1, f);
	said[n] = '\0';
	while (fgetc(f) != EOF)
		;
	status = pclose(f);
	if (status == 0)
		return 0;
	for (size_t i = 0; i < n; i++)
		if (said[i] == '\n')
			said[i] = ' ';
	return err_set(err, EIO, "%s: exit status %d: %s", command,
		WIFEXITED(status) ? WEXITSTATUS(status) : -1, said);
}

static bool peer_installed(void)
{
	static int known = -1;

	if (known < 0)
		known = system("qemu-img --version >/dev/null 2>&1") == 0;
	return known;
}

static int write_scratch(
	const char *path, const uint8_t *data, uint64_t bytes, struct err *err)
{
	FILE *f = fopen(path, "we");
	size_t n;

	if (!f)
		return err_errno(err, errno, "%s", path);
	n = fwrite(data, 1, bytes, f);
	if (fclose(f) || n != bytes)
		return err_set(err, EIO, "%s: short write", path);
	return 0;
}

/* The image as qemu-img's arguments name it. Options take no URL. */
static void peer_name(const struct config *c, char *buf, size_t buf_bytes)
{
	if (c->url)
		snprintf(buf, buf_bytes, "-f %s '%s'", c->raw ? "raw" : "qcow2", c->url);
	else
		snprintf(buf, buf_bytes, "--image-opts driver=%s,file.filename=%s%s",
			c->raw ? "raw" : "qcow2", CONFIG_IMAGE,
			c->luks ? ",encrypt.key-secret=" CONFIG_SECRET : "");
}

/* Only options say which secret, and a part of a LUN is no image to the peer. */
static bool peer_can_open(const struct config *c)
{
	return peer_installed() && !(c->url && c->luks) && !config_is_fixed(c);
}

#define PEER_SCRATCH "peer.raw"

static const char *peer_scratch(const struct config *c)
{
	return c->url ? "-F raw " PEER_SCRATCH : "driver=raw,file.filename=" PEER_SCRATCH;
}

#define PEER_OBJECT "--object secret,id=" CONFIG_SECRET ",data='" CONFIG_PASSWORD "'"

int config_ask_peer(
	const struct config *c, const uint8_t *data, uint64_t bytes, struct err *err)
{
	char name[768];
	int ret = 0;

	if (!peer_can_open(c))
		return 1;
	peer_name(c, name, sizeof(name));
	if (!c->raw)
		ret = shell(err, "qemu-img check " PEER_OBJECT " %s 2>&1", name);
	if (!ret)
		ret = write_scratch(PEER_SCRATCH, data, bytes, err);
	if (!ret)
		ret = shell(err, "qemu-img compare " PEER_OBJECT " %s %s 2>&1", name,
			peer_scratch(c));
	unlink(PEER_SCRATCH);
	return ret;
}

int config_ask_peer_snapshot(const struct config *c, const char *snapshot,
	const uint8_t *data, uint64_t bytes, struct err *err)
{
	char name[768];
	int ret;

	if (!peer_can_open(c))
		return 1;
	peer_name(c, name, sizeof(name));
	ret = write_scratch(PEER_SCRATCH, data, bytes, err);
	if (!ret)
		ret = shell(err,
			"qemu-img convert " PEER_OBJECT
			" -l snapshot.name=%s %s -O raw snap.raw 2>&1 && "
			"qemu-img compare -f raw -F raw snap.raw " PEER_SCRATCH " 2>&1",
			snapshot, name);
	unlink(PEER_SCRATCH);
	unlink("snap.raw");
	return ret;
}
