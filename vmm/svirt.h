/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * SELinux labels in the manner of sVirt: every machine has a pair of categories that no other on
 * this host has, and its process can reach the files of that pair and no other machine's.
 *
 *	the process		svirt_t with the pair
 *	a writable disk		svirt_image_t with the pair
 *	one that is shared	svirt_image_t without categories
 *	all that is only read	virt_content_t: read-only disks, backing files, kernels
 *
 * A registry on this host (a folder of small files, locked while they are in use) keeps pairs
 * apart, and what label a file had before: the last machine that uses a file puts it back. What a
 * program that was killed left behind is found by the next.
 */
#ifndef BYRE_VMM_SVIRT_H
#define BYRE_VMM_SVIRT_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

#define SVIRT_CATEGORIES 1024u
#define SVIRT_LABEL_MAX	 256u
#define SVIRT_FILES_MAX	 512u
#define SVIRT_REGISTRY	 "/run/byre/svirt"

/* How labels are read and set: -errno. A file without one: -ENODATA, "" sets that again. A
 * place that has no labels: -ENOTSUP, and its files are left alone. */
struct svirt_store {
	int (*get)(void *arg, const char *path, char label[SVIRT_LABEL_MAX]);
	int (*set)(void *arg, const char *path, const char *label);
	void *arg;
};
extern const struct svirt_store svirt_kernel_store;

struct svirt_options {
	char registry[128];
	char process[128], image[128], content[128]; /* labels without categories */
};

enum svirt_role { SVIRT_WRITTEN, SVIRT_SHARED, SVIRT_READ };

struct svirt_file {
	char *path;
	int note_fd;
};

struct svirt {
	struct svirt_options options;
	struct svirt_store store;
	int lock_fd; /* of the registry */
	int pair_fd;
	char pair[24]; /* "c12,c345" */
	struct svirt_file file[SVIRT_FILES_MAX];
	unsigned n_files;
};

/* "" or "type=,image=,content=,registry=" */
int svirt_parse(const char *text, struct svirt_options *out, struct err *err);
/* -ENOTSUP with err set where SELinux is off. */
int svirt_is_on(struct err *err);

/* Takes a pair. It belongs to this process and those that it makes, until the last has ended. */
int svirt_open(struct svirt *s, const struct svirt_options *o,
	const struct svirt_store *store, struct err *err);
/* The same with this pair; -EWOULDBLOCK where another has it. */
int svirt_open_pair(struct svirt *s, const struct svirt_options *o,
	const struct svirt_store *store, const char *pair, struct err *err);
/* The program that this process becomes goes on holding the pair and the files. */
void svirt_inherit(const struct svirt *s);
/* Of the process that is to be confined. */
void svirt_process_label(const struct svirt *s, char label[SVIRT_LABEL_MAX]);
/* Labels a file; one that another machine writes is refused (-EBUSY). A path that was given
 * before keeps its first role. */
int svirt_label(struct svirt *s, const char *path, enum svirt_role role, struct err *err);
/* Puts labels back and gives the pair back; -errno of the first that could not be. */
int svirt_close(struct svirt *s, struct err *err);

/* What the calling thread's next program will be labelled as, and what this one is. */
int svirt_set_exec_label(const char *label, struct err *err);
int svirt_own_label(char label[SVIRT_LABEL_MAX]);

#endif
