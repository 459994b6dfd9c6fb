/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Inside byre-io: one open image, a table of commands, and what they share to read their
 * arguments and to report. The grammar and the output are qemu-io's, so that scripts made
 * for it run unchanged: results and complaints about arguments go to standard output,
 * what a library had to say goes to standard error behind the program's name.
 *
 * Everything runs as tasks of one loop: a command is run to its end before the next one
 * is read, but for aio_read and aio_write, which leave a task of their own behind.
 */
#ifndef BYRE_TOOLS_IO_H
#define BYRE_TOOLS_IO_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/task.h"
#include "block/blk.h"

/* The most bytes one command moves. */
#define IO_MAX_BYTES (INT32_MAX & ~(int64_t)511)

/* Where an image came from, so that it can be opened anew. */
struct io_source {
	char *name;        /* NULL: opts tell all */
	struct opts *opts; /* NULL: none */
	unsigned flags;    /* enum blk_open_flags */
	bool snapshot;     /* -s: changes go to a temporary overlay */
	bool copy_on_read; /* -C */
	bool native_aio;   /* -k, -i native: wants a cache mode that goes past the cache */
};

struct io {
	struct blk *b; /* NULL: no file open */
	struct io_source source;
	bool misalign; /* -m: buffers off a page's start */
	bool quit;

	struct task_mutex aio_lock;
	struct task_cond aio_idle;
	unsigned aio_running; /* under aio_lock */
};

enum io_command_flags {
	IO_ANYTIME = 1 << 0, /* needs no open file */
	IO_WRITES = 1 << 1,  /* needs a writable one */
};

/* A command's result is 0, or another value for the program to end with status 1. argv is
 * as main's: argv[0] is the name as typed. */
struct io_command {
	const char *name, *short_name;
	int (*run)(struct io *io, const struct io_command *cmd, int argc, char **argv);
	int args_min, args_max; /* args_max < 0: any number */
	unsigned flags;
	const char *args;  /* as help shows them */
	const char *brief; /* one line */
	const char *help;  /* the rest; NULL: nothing more to say */
};

/* io-command.c */
extern const struct io_command *const io_commands[]; /* by name, ends in NULL */
int io_run_line(struct io *io, const char *line);
/* Prints "name args -- brief" and returns -EINVAL. */
int io_usage(const struct io_command *cmd);

/* io-report.c */
struct io_report {
	bool quiet, terse;
};
/* "64 KiB", "1.500 MiB": up to three decimals, none where they are zeros. */
#define IO_SIZE_TEXT 40
char *io_size_text(char buf[IO_SIZE_TEXT], double bytes);
void io_report(const struct io_report *r, const char *did, uint64_t offset,
	uint64_t bytes, uint64_t took_ns);
void io_dump(uint64_t offset, const uint8_t *buf, size_t bytes);
uint64_t io_clock_ns(void);
/* These say on standard output what is wrong. */
bool io_parse_size(const char *text, uint64_t *out);
bool io_parse_length(const char *text, uint64_t *out); /* at most IO_MAX_BYTES */
bool io_parse_pattern(const char *text, int *out);

/* io-buffer.c */
/* A request's memory in one piece, seen through a vector as typed. */
struct io_buffer {
	uint8_t *data;
	size_t bytes;
	struct iovec *iov;
	int niov;
	void *alloc;
};
/* One segment for each length. False where memory is short or bytes is too large (said).
 */
bool io_buffer_new(struct io_buffer *buf, const struct io *io, const uint64_t *lengths,
	int n, int fill);
void io_buffer_free(struct io_buffer *buf);
/* Parses "off len [len...]" behind the options of a vectored command. */
bool io_buffer_parse(
	struct io_buffer *buf, const struct io *io, int n, char **lengths, int fill);
/* Fills it with a file's bytes over and over. */
int io_buffer_from_file(struct io_buffer *buf, const char *path);
/* Says where it does not hold. */
bool io_verify(const uint8_t *data, size_t bytes, int pattern, uint64_t offset);
/* -EIO for what lies outside the disk, before the engine words it otherwise. */
int io_check_range(struct io *io, uint64_t offset, uint64_t bytes);
int io_read(struct io *io, uint64_t offset, struct io_buffer *buf);
int io_write(struct io *io, uint64_t offset, struct io_buffer *buf, unsigned flags);
/* -b: the VM state, not the disk. */
int io_vm_state(struct io *io, uint64_t offset, struct io_buffer *buf, bool write);
/* blk_zero in pieces of at most BLK_MAX_REQUEST. */
int io_zero(struct io *io, uint64_t offset, uint64_t bytes, unsigned flags);

/* io-image.c */
int io_open(struct io *io, struct io_source *source, struct err *err);
int io_close(struct io *io, struct err *err);
/* What the command line and `open` begin with. */
#define IO_SOURCE_INIT {.flags = BLK_O_RDWR | BLK_O_DISCARD}
/* "threads", "native", "io_uring"; "ignore"/"off", "unmap"/"on". */
int io_set_aio_mode(const char *mode, struct io_source *source, struct err *err);
int io_set_discard_mode(const char *mode, unsigned *flags, struct err *err);
void io_source_clear(struct io_source *source);

/* io-aio.c */
void io_aio_drain(struct io *io);

/* Commands by file. */
extern const struct io_command io_cmd_read, io_cmd_readv, io_cmd_write, io_cmd_writev;
extern const struct io_command io_cmd_aio_read, io_cmd_aio_write, io_cmd_aio_flush;
extern const struct io_command io_cmd_open, io_cmd_close, io_cmd_reopen;
extern const struct io_command io_cmd_info, io_cmd_length, io_cmd_map, io_cmd_alloc;
extern const struct io_command io_cmd_flush, io_cmd_discard, io_cmd_truncate;
extern const struct io_command io_cmd_sleep, io_cmd_sigraise, io_cmd_abort;

#endif
