/* SPDX-License-Identifier: BSD-2-Clause */
/* What the command-line tools share; see common.h. */
#include "tools/common.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/math.h"
#include "base/size.h"
#include "base/text.h"
#include "block/secret.h"

const char *tool_name = "byre";
static bool named_as_peer;

/* What a library found with no caller to tell: a lie in an image on the data path, a
 * connection that was lost. From any thread. */
static void log_to_stderr(enum log_level level, const char *line)
{
	if (level == LOG_LEVEL_ERROR)
		tool_error("%s", line);
	else if (level == LOG_LEVEL_WARNING)
		tool_warning("%s", line);
}

void tool_set_name(const char *argv0, const char *ours, const char *peer)
{
	const char *base = argv0 ? strrchr(argv0, '/') : NULL;

	log_set_sink(log_to_stderr);
	base = base ? base + 1 : argv0;
	named_as_peer = base && !strcmp(base, peer);
	tool_name = named_as_peer ? peer : ours;
}

bool tool_is_peer(void)
{
	return named_as_peer;
}

/* The text as it may be shown. The caller frees it; no memory aborts, as in base/opts.c. */
__attribute__((format(printf, 1, 0))) static char *clean_text(const char *fmt, va_list ap)
{
	char *text;

	if (vasprintf(&text, fmt, ap) < 0)
		abort();
	text_clean(text);
	text_hide_passwords(text);
	return text;
}

void tool_line(FILE *out, const char *fmt, ...)
{
	va_list ap;
	char *text;

	va_start(ap, fmt);
	text = clean_text(fmt, ap);
	va_end(ap);
	fprintf(out, "%s\n", text);
	free(text);
}

__attribute__((format(printf, 2, 0))) static void say(
	const char *kind, const char *fmt, va_list ap)
{
	char *text = clean_text(fmt, ap);

	/* Results that were printed before stand before the message. */
	fflush(stdout);
	fprintf(stderr, "%s: %s%s\n", tool_name, kind, text);
	free(text);
}

void tool_error(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	say("", fmt, ap);
	va_end(ap);
}

void tool_warning(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	say("warning: ", fmt, ap);
	va_end(ap);
}

/* The libraries begin a message with the image's name; here it is named already. */
static const char *without_name(const char *msg, const char *name)
{
	size_t n = strlen(name);

	return n && !strncmp(msg, name, n) && !strncmp(msg + n, ": ", 2) ? msg + n + 2
									 : msg;
}

void tool_report(const char *where, const struct err *err)
{
	if (where)
		tool_error("%s: %s", where, without_name(err->msg, where));
	else
		tool_error("%s", err->msg);
	if (err->hint[0])
		fprintf(stderr, "%s\n", err->hint);
}

static struct blk *open_image(
	const struct tool_image *image, unsigned flags, struct err *err)
{
	struct opts *opts = image->more ? opts_dup(image->more) : opts_new();
	struct blk *b = NULL;

	if (image->image_opts) {
		if (!opts_parse(opts, image->name, "file", err))
			b = blk_open(NULL, opts, flags, err);
	} else {
		if (image->format)
			opts_set(opts, "driver", image->format);
		b = blk_open(image->name, opts, flags, err);
	}
	opts_free(opts);
	return b;
}

struct blk *tool_open(const struct tool_image *image, unsigned flags)
{
	struct err err = ERR_INIT;
	struct blk *b;

	if ((flags & BLK_O_SHARE) && (flags & BLK_O_RDWR)) {
		tool_error("Could not open '%s': force-share=on can only be used with "
			   "read-only "
			   "images",
			image->name);
		return NULL;
	}
	b = open_image(image, flags, &err);
	if (!b) {
		tool_error("Could not open '%s': %s", image->name,
			without_name(err.msg, image->name));
		if (err.hint[0])
			fprintf(stderr, "%s\n", err.hint);
		return NULL;
	}
	if ((flags & BLK_O_RDWR) && !image->format && !image->image_opts &&
		!strcmp(blk_driver_name(b), "raw"))
		tool_warning(
			"%s: the format was not given and its contents look like raw; "
			"writes that make it look like another format are refused "
			"(-f raw allows them)",
			image->name);
	return b;
}

int tool_close_quietly(struct blk *b, struct err *err)
{
	char *name;
	int ret;

	if (!b)
		return 0;
	name = strdup(blk_filename(b));
	ret = blk_close(b);
	if (ret < 0)
		err_errno(err, -ret, "%s: could not write everything out",
			name ? name : "image");
	free(name);
	return ret;
}

int tool_close(struct blk *b, int ret)
{
	struct err err = ERR_INIT;
	int closed = tool_close_quietly(b, &err);

	if (ret < 0 || closed >= 0)
		return ret;
	tool_report(NULL, &err);
	return closed;
}

int tool_add_object(const char *text)
{
	struct opts *opts = opts_new();
	struct err err = ERR_INIT;
	const char *type;
	int ret;

	if (!strcmp(text, "help") || !strcmp(text, "?")) {
		printf("Objects that can be given with --object:\n  secret\n");
		opts_free(opts);
		return 1;
	}
	ret = text[0] == '{' ? opts_parse_json(opts, text, &err)
			     : opts_parse(opts, text, "qom-type", &err);
	if (ret < 0)
		goto out;
	type = opts_take(opts, "qom-type");
	if (!type)
		ret = err_set(&err, EINVAL, "Parameter 'qom-type' is missing");
	else if (strcmp(type, "secret"))
		ret = err_set(&err, EINVAL,
			"Parameter 'qom-type' does not accept value '%s'", type);
	else
		ret = secret_add(opts, &err);
out:
	if (ret < 0)
		tool_report(NULL, &err);
	opts_free(opts);
	return ret < 0 ? -EINVAL : 0;
}

int tool_cache(const char *mode, const char *what, unsigned *flags)
{
	if (!blk_cache_mode(mode, flags))
		return 0;
	tool_error("Invalid %s option: %s", what, mode);
	return -EINVAL;
}

/* Only the sign of a negative number is wrong with it, or it is too large. */
static bool is_out_of_range(const char *text, int ret)
{
	uint64_t n;

	text += strspn(text, " \t");
	return ret == -ERANGE ||
	       (text[0] == '-' && size_parse(text + 1, 'B', NULL, &n) != -EINVAL);
}

int tool_number(
	const char *text, const char *what, uint64_t min, uint64_t max, uint64_t *out)
{
	uint64_t n;
	int ret = size_parse(text, 'B', NULL, &n);

	if (!ret && n >= min && n <= max) {
		*out = n;
		return 0;
	}
	if (ret && !is_out_of_range(text, ret))
		tool_error("Invalid %s specified: '%s'.", what, text);
	else
		tool_error("'%s': Invalid %s specified. Must be between %" PRIu64
			   " and %" PRIu64 ".",
			text, what, min, max);
	return -EINVAL;
}

int tool_size(const char *text, const char *what, uint64_t *out_bytes)
{
	return tool_number(text, what, 0, INT64_MAX, out_bytes);
}

uint64_t tool_disk_bytes(struct blk *b)
{
	return round_up(blk_size(b), BLK_SECTOR);
}

/*
 * Progress.
 */

static struct {
	bool shown;
	double min_percent, printed, now;
} progress;

static volatile sig_atomic_t progress_asked;

static void on_usr1(int sig)
{
	(void)sig;
	progress_asked = 1;
}

static void progress_print(void)
{
	printf("    (%3.2f/100%%)\r", progress.now);
	fflush(stdout);
	progress.printed = progress.now;
}

void progress_begin(bool show, double min_percent)
{
	struct sigaction sa = {.sa_handler = on_usr1, .sa_flags = SA_RESTART};

	progress.shown = show;
	progress.min_percent = min_percent;
	progress.now = 0;
	progress_asked = 0;
	sigaction(SIGUSR1, &sa, NULL);
	if (show)
		progress_print();
}

void progress_update(uint64_t done, uint64_t total)
{
	bool due;

	progress.now = total ? 100.0 * (double)done / (double)total : 100.0;
	due = progress.now - progress.printed > progress.min_percent ||
	      (done == total && progress.printed < 100);
	if (progress_asked || (progress.shown && due)) {
		progress_asked = 0;
		progress_print();
	}
}

void progress_end(void)
{
	/* SIGUSR1 stays harmless: a late one must not end the process. */
	if (!progress.shown)
		return;
	printf("\n");
	if (fflush(stdout))
		clearerr(stdout);
	progress.shown = false;
}

/*
 * Signals.
 */

atomic_bool tool_cancel;
static atomic_int caught;

static void on_stop(int sig)
{
	atomic_store(&caught, sig);
	atomic_store(&tool_cancel, true);
}

/* nohup and background jobs of a shell have some ignored: they keep that. */
static void handle_signals(const struct sigaction *sa)
{
	static const int signals[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT};
	struct sigaction old;

	for (size_t i = 0; i < ARRAY_LEN(signals); i++) {
		if (!sigaction(signals[i], NULL, &old) && old.sa_handler != SIG_IGN)
			sigaction(signals[i], sa, NULL);
	}
}

void tool_catch_signals(void)
{
	handle_signals(&(const struct sigaction){
		.sa_handler = on_stop,
		.sa_flags = (int)SA_RESETHAND | SA_RESTART,
	});
}

/* What on_doom does and says: made before, as a signal handler may not. */
static char *doomed_path, *doomed_note;

static void on_doom(int sig)
{
	if (!doomed_path || !unlink(doomed_path))
		(void)!write(STDERR_FILENO, doomed_note, strlen(doomed_note));
	signal(sig, SIG_DFL);
	raise(sig); /* comes when this handler returns */
}

void tool_tell_on_signal(const char *path, bool remove)
{
	handle_signals(&(const struct sigaction){.sa_handler = SIG_DFL});
	free(doomed_path);
	free(doomed_note);
	doomed_path = doomed_note = NULL;
	if (!path)
		return;
	doomed_path = remove ? strdup(path) : NULL;
	if ((remove && !doomed_path) ||
		asprintf(&doomed_note, "%s: interrupted: '%s' %s\n", tool_name, path,
			remove ? "has been removed" : "is incomplete") < 0)
		doomed_note = NULL;
	if (doomed_note)
		handle_signals(&(const struct sigaction){.sa_handler = on_doom});
}

int tool_interrupted(void)
{
	return atomic_load(&caught);
}

void tool_die_of_signal(void)
{
	int sig = atomic_load(&caught);

	if (!sig)
		return;
	fflush(NULL);
	signal(sig, SIG_DFL);
	raise(sig);
}

int tool_check_stdout(void)
{
	static int code;

	if (code || !ferror(stdout))
		return -code;
	code = errno ? errno : EIO;
	if (code != EPIPE) /* whoever read has seen enough */
		tool_error("standard output: %s", strerror(code));
	return -code;
}

int tool_flush_stdout(void)
{
	fflush(stdout); /* ferror tells how it went */
	return tool_check_stdout();
}
