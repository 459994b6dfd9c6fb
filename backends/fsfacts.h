/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the file system can do that a file lies on. Three sources, the later ones better:
 * its kind (statfs), how it is mounted (mountinfo), and the file itself where a question
 * changes nothing. What none of them settles is unknown: on a network it is often the
 * server that decides.
 */
#ifndef BYRE_BACKENDS_FSFACTS_H
#define BYRE_BACKENDS_FSFACTS_H

#include <stdbool.h>
#include <stdint.h>

struct json;

enum fact { FACT_UNKNOWN, FACT_NO, FACT_YES };

/* Who else may have the same file. */
enum fs_reach { FS_REACH_UNKNOWN, FS_REACH_LOCAL, FS_REACH_NETWORK, FS_REACH_CLUSTER };

/* Who sees an open file description lock. */
enum fs_locks { FS_LOCKS_UNKNOWN, FS_LOCKS_NONE, FS_LOCKS_THIS_HOST, FS_LOCKS_ALL_HOSTS };

struct fs_facts {
	char type[32];	  /* as mount(8) names it */
	char version[16]; /* of the protocol; "" where there is none */
	enum fs_reach reach;
	enum fs_locks locks;
	enum fact punch_hole, zero_range, reflink, direct;
	enum fact sparse; /* holes can be found (SEEK_HOLE) */
	uint32_t direct_align; /* bytes; 0 = unknown */
};

/* What the kind (f_type of statfs) and the mount tell. type and options are those of the
 * super block in mountinfo, NULL where it does not list the mount. */
void fs_facts_of_mount(uint64_t magic, const char *type, const char *options,
	struct fs_facts *out);
/* All three sources, for an open regular file. Blocks as the file system does. */
void fs_facts_of_file(int fd, struct fs_facts *out);
/* ext4 takes what is written and not yet on the disk for holes, in files whose blocks are
 * listed one by one (made by ext2, ext3, or without extents; seen up to Linux 6.18). What
 * SEEK_DATA says there must not be believed. */
bool fs_hides_unwritten_data(int fd);
/* Puts them into an object. */
void fs_facts_describe(const struct fs_facts *f, struct json *o);

#endif
