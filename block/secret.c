/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Secrets by name. Each lies in pages of its own that are kept out of swap (where the
 * limit allows) and core dumps and wiped before they are given back.
 */
#include "block/secret.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/math.h"

/* As large as the key files that LUKS tools take. */
#define SECRET_LIMIT (8 * MiB)

struct secret {
	struct secret *next;
	char *id;
	uint8_t *data;
	size_t bytes, room;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct secret *secrets;

static struct secret *secret_new(size_t room)
{
	struct secret *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	s->room = room + 1;
	s->data = mmap(NULL, s->room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
		-1, 0);
	if (s->data == MAP_FAILED) {
		free(s);
		return NULL;
	}
	/* As good as can be had: unprivileged processes may lock little. */
	(void)mlock(s->data, s->room);
	(void)madvise(s->data, s->room, MADV_DONTDUMP);
	return s;
}

static void secret_free(struct secret *s)
{
	if (!s)
		return;
	explicit_bzero(s->data, s->room);
	munmap(s->data, s->room);
	free(s->id);
	free(s);
}

static int sextet(unsigned char c)
{
	if (isupper(c))
		return c - 'A';
	if (islower(c))
		return c - 'a' + 26;
	if (isdigit(c))
		return c - '0' + 52;
	return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* RFC 4648, in place; white space between characters is skipped. */
static int base64_decode(struct secret *s)
{
	size_t out = 0, chars = 0, pads = 0;
	uint32_t bits = 0;

	for (size_t i = 0; i < s->bytes; i++) {
		unsigned char c = s->data[i];
		int v = sextet(c);

		if (isspace(c))
			continue;
		if (c == '=')
			pads++;
		else if (v < 0 || pads > 0)
			return -EINVAL;
		bits = bits << 6 | (uint32_t)(v < 0 ? 0 : v);
		if (++chars % 4 == 0) {
			s->data[out++] = (uint8_t)(bits >> 16);
			s->data[out++] = (uint8_t)(bits >> 8);
			s->data[out++] = (uint8_t)bits;
		}
	}
	if (chars % 4 || pads > 2 || pads > out)
		return -EINVAL;
	explicit_bzero(s->data + (out - pads), s->room - (out - pads));
	s->bytes = out - pads;
	return 0;
}

static int read_all(int fd, struct secret *s)
{
	while (s->bytes < s->room) {
		ssize_t n = read(fd, s->data + s->bytes, s->room - s->bytes);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			return 0;
		s->bytes += (size_t)n;
	}
	return -EFBIG;
}

static struct secret *from_file(const char *path, struct err *err)
{
	struct secret *s = NULL;
	int fd = open(path, O_RDONLY | O_CLOEXEC), ret;
	struct stat st;

	if (fd < 0 || fstat(fd, &st)) {
		err_errno(err, errno, "Unable to read %s", path);
		if (fd >= 0)
			close(fd);
		return NULL;
	}
	/* The size is a hint: it may be a pipe. */
	s = secret_new(S_ISREG(st.st_mode) && (uint64_t)st.st_size <= SECRET_LIMIT
			       ? (size_t)st.st_size
			       : SECRET_LIMIT);
	ret = s ? read_all(fd, s) : -ENOMEM;
	close(fd);
	if (ret) {
		secret_free(s);
		err_errno(err, -ret, "Unable to read %s", path);
		return NULL;
	}
	return s;
}

/* The copy among the options is wiped as soon as it has been made into a secret. */
static struct secret *from_option(const char *data, struct err *err)
{
	size_t bytes = strlen(data);
	struct secret *s = secret_new(bytes);

	if (!s) {
		err_errno(err, ENOMEM, "secret");
		return NULL;
	}
	memcpy(s->data, data, bytes);
	s->bytes = bytes;
	explicit_bzero((char *)(uintptr_t)data, bytes);
	return s;
}

static int check_id(const char *id, struct err *err)
{
	if (!id)
		return err_set(err, EINVAL, "Parameter 'id' is missing");
	if (!isalpha((unsigned char)id[0]))
		return err_set(err, EINVAL, "Parameter 'id' expects an identifier");
	for (const char *p = id; *p; p++)
		if (!isalnum((unsigned char)*p) && !strchr("-._", *p))
			return err_set(
				err, EINVAL, "Parameter 'id' expects an identifier");
	return 0;
}

static struct secret *find(const char *id)
{
	for (struct secret *s = secrets; s; s = s->next)
		if (!strcmp(s->id, id))
			return s;
	return NULL;
}

static int put(struct secret *s, const char *id, struct err *err)
{
	int ret = 0;

	s->id = strdup(id);
	if (!s->id)
		return err_errno(err, ENOMEM, "secret");
	pthread_mutex_lock(&lock);
	if (find(id)) {
		ret = err_set(err, EEXIST, "There is a secret '%s' already", id);
	} else {
		s->next = secrets;
		secrets = s;
	}
	pthread_mutex_unlock(&lock);
	return ret;
}

int secret_add(struct opts *opts, struct err *err)
{
	static const char *const formats[] = {"raw", "base64", NULL};
	const char *id = opts_take(opts, "id");
	const char *data = opts_take(opts, "data"), *file = opts_take(opts, "file");
	struct secret *s;
	int format = 0;
	int ret = check_id(id, err);

	ret = ret ? ret : opts_take_enum(opts, "format", formats, &format, err);
	ret = ret ? ret : opts_check_unused(opts, err);
	if (!ret && data && file)
		ret = err_set(err, EINVAL, "'file' and 'data' are mutually exclusive");
	if (!ret && !data && !file)
		ret = err_set(err, EINVAL, "Must provide 'file' or 'data'");
	if (ret)
		return ret;
	s = data ? from_option(data, err) : from_file(file, err);
	if (!s)
		return -(err ? err->code : EIO);
	if (format == 1 && base64_decode(s))
		ret = err_set(err, EINVAL, "Secret '%s' is not valid base64", id);
	ret = ret ? ret : put(s, id, err);
	if (ret)
		secret_free(s);
	return ret;
}

int secret_find(const char *id, const void **data, size_t *bytes, struct err *err)
{
	struct secret *s;

	pthread_mutex_lock(&lock);
	s = find(id);
	pthread_mutex_unlock(&lock);
	if (!s)
		return err_set(err, ENOENT, "No secret with id '%s'", id);
	*data = s->data;
	*bytes = s->bytes;
	return 0;
}

void secrets_clear(void)
{
	pthread_mutex_lock(&lock);
	while (secrets) {
		struct secret *s = secrets;

		secrets = s->next;
		secret_free(s);
	}
	pthread_mutex_unlock(&lock);
}
