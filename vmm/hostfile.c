/* SPDX-License-Identifier: BSD-2-Clause */
/* Files of the host. See hostfile.h. */
#include "vmm/hostfile.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/aio.h"

static int check(struct hostfile *f, struct err *err)
{
	struct stat st;

	if (fstat(f->fd, &st))
		return err_errno(err, errno, "%s", f->name);
	if (!S_ISREG(st.st_mode) || st.st_size <= 0)
		return err_set(
			err, EINVAL, "%s: not a file with something in it", f->name);
	f->bytes = (uint64_t)st.st_size;
	return 0;
}

int hostfile_open(struct hostfile *f, const char *name, struct err *err)
{
	int ret;

	*f = (struct hostfile){.name = name, .fd = open(name, O_RDONLY | O_CLOEXEC)};
	if (f->fd < 0)
		return err_errno(err, errno, "%s", name);
	ret = check(f, err);
	if (ret)
		hostfile_close(f);
	return ret;
}

void hostfile_close(struct hostfile *f)
{
	if (f->fd >= 0)
		close(f->fd);
	*f = HOSTFILE_NONE;
}

int hostfile_read(const struct hostfile *f, uint64_t offset, void *buf, uint64_t bytes,
	struct err *err)
{
	uint8_t *at = buf;

	while (bytes) {
		struct iovec iov = {at, bytes};
		ssize_t n = aio_preadv(f->fd, &iov, 1, offset);

		if (n < 0)
			return err_errno(err, (int)-n, "%s", f->name);
		if (n == 0)
			return err_set(err, EIO, "%s: ends at %llu, and had %llu bytes",
				f->name, (unsigned long long)offset,
				(unsigned long long)f->bytes);
		at += n;
		offset += (uint64_t)n;
		bytes -= (uint64_t)n;
	}
	return 0;
}
