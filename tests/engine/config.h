/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * One point of the matrix of images that the engine's tests walk: cluster size, version,
 * refcount width, subclusters, compression, backing file, encryption, data file, lazy
 * refcounts. A point is made at random or from text, written as text, and turned into an
 * image in the current folder.
 */
#ifndef BYRE_TESTS_ENGINE_CONFIG_H
#define BYRE_TESTS_ENGINE_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "block/blk.h"
#include "tests/engine/rng.h"

enum config_backing {
	BACKING_NONE,
	BACKING_SHORT, /* than the disk */
	BACKING_LONG,
	BACKING_ODD, /* short, and of no whole number of sectors */
};

enum config_data_file { DATA_FILE_NONE, DATA_FILE_EXTERNAL, DATA_FILE_RAW };

struct config {
	const char *
		segment; /* the image is this RAM disk (driver mem); NULL: CONFIG_IMAGE */
	const char *url;      /* or is on this server; a LUN or an export is there already */
	const char *url_opts; /* "timeout=2,…": what is told to the node besides; or NULL */
	bool raw;        /* a plain raw file: nothing else counts */
	uint32_t cluster_bytes;
	unsigned version, refcount_bits;
	bool extended_l2, zstd, luks, lazy;
	bool backing_qcow2; /* the backing file's format, else raw */
	enum config_backing backing;
	enum config_data_file data_file;
	uint64_t disk_bytes;
};

/* Files that config_create makes in the current folder. */
#define CONFIG_IMAGE     "disk.img"
#define CONFIG_BACKING   "base.img"
#define CONFIG_DATA_FILE "data.img"
#define CONFIG_SECRET    "sec0" /* id of the passphrase */
#define CONFIG_PASSWORD  "correct horse"

/* A random valid point. max_bytes bounds the disk's size. */
void config_random(struct config *c, struct rng *r, uint64_t max_bytes);
/* "cluster=65536,version=3,…": keys that are not given keep what *c has. What cannot go
 * together is an error. */
int config_parse(struct config *c, const char *text, struct err *err);
#define CONFIG_TEXT 256
char *config_text(const struct config *c, char buf[CONFIG_TEXT]);

/* Its size is its server's to change. */
bool config_is_fixed(const struct config *c);
bool config_has_snapshots(const struct config *c);
bool config_has_compression(const struct config *c);
/* Unit of allocation: cluster, or subcluster; 512 for raw. */
uint32_t config_cluster_bytes(const struct config *c);

/* Makes the passphrase known to the process. Call it once. */
int config_secret(struct err *err);
/* Makes the image and what it needs; initial[0, disk_bytes) becomes what it reads as. A raw
 * LUN or export, of which the first disk_bytes are used, reads as it did before. */
int config_create(
	const struct config *c, struct rng *r, uint8_t *initial, struct err *err);
/* Opens it as made by config_create. */
struct blk *config_open(const struct config *c, unsigned flags, struct err *err);
/* The same with an instrument (driver crash, fault) between format and file. */
struct blk *config_open_through(
	const struct config *c, const char *instrument, unsigned flags, struct err *err);
void config_remove(void);

/* Fills a buffer with one of: a byte over and over, noise, words that compress, zeros. */
void config_fill(struct rng *r, uint8_t *buf, size_t bytes);

/* Asks the installed qemu-img whether the image is clean and holds exactly bytes[]
 * (written to a scratch file). 1: it is not installed; 0: yes; -EIO: no, and its words
 * are in err. */
int config_ask_peer(
	const struct config *c, const uint8_t *data, uint64_t bytes, struct err *err);
/* The same for a snapshot's contents. */
int config_ask_peer_snapshot(const struct config *c, const char *name,
	const uint8_t *data, uint64_t bytes, struct err *err);

#endif
