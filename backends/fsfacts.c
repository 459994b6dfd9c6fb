/* SPDX-License-Identifier: BSD-2-Clause */
/* See fsfacts.h. */
#include "backends/fsfacts.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>
#include <linux/fs.h>

#include "backends/posix.h"
#include "base/json.h"
#include "base/math.h"

#define MAGIC_NFS   0x6969
#define MAGIC_SMB1  0xff534d42
#define MAGIC_SMB2  0xfe534d42
#define MAGIC_GFS2  0x01161970
#define MAGIC_OCFS2 0x7461636f
#define MAGIC_EXT   0xef53

/* ---- kinds ----------------------------------------------------------------------- */

/* One letter for each fact. */
#define L FS_REACH_LOCAL
#define N FS_REACH_NETWORK
#define C FS_REACH_CLUSTER
#define Y FACT_YES
#define X FACT_NO
#define U FACT_UNKNOWN

struct kind {
	uint32_t magic;
	const char *type;
	unsigned char reach, punch_hole, zero_range, reflink, direct, sparse;
};

/* Where a feature can be left out when the file system is made, or depends on the server or
 * the kernel, it is unknown here and settled further down. */
static const struct kind kinds[] = {
	/*                          reach punch zero reflink direct sparse */
	{MAGIC_EXT, "ext4", L, U, U, X, Y, Y},
	{0x58465342, "xfs", L, Y, Y, U, Y, Y},
	{0x9123683e, "btrfs", L, Y, Y, Y, Y, Y},
	{0xf2f52010, "f2fs", L, Y, Y, X, U, Y},
	{0xca451a4e, "bcachefs", L, Y, Y, Y, Y, Y},
	{0x2fc12fc1, "zfs", L, Y, U, U, U, Y},
	{0x01021994, "tmpfs", L, Y, X, X, U, Y},
	{0x858458f6, "ramfs", L, X, X, X, U, X},
	{0x4d44, "vfat", L, X, X, X, Y, X},
	{0x2011bab0, "exfat", L, X, X, X, Y, X},
	{MAGIC_NFS, "nfs", N, U, U, U, Y, U},
	{MAGIC_SMB1, "cifs", N, U, U, U, U, U},
	{MAGIC_SMB2, "cifs", N, Y, Y, U, U, Y},
	{0x00c36400, "ceph", N, Y, X, X, Y, X},
	{MAGIC_GFS2, "gfs2", C, Y, X, X, Y, Y},
	{MAGIC_OCFS2, "ocfs2", C, Y, X, U, Y, Y},
	{0x0bd00bd0, "lustre", C, U, U, X, Y, U},
	{0x47504653, "gpfs", C, U, U, U, Y, U},
	{0x65735546, "fuse", FS_REACH_UNKNOWN, U, U, U, U, U},
	{0x01021997, "9p", N, X, X, X, U, X},
	{0x794c7630, "overlay", FS_REACH_UNKNOWN, U, U, U, U, U},
};

#undef L
#undef N
#undef C
#undef Y
#undef X
#undef U

/* ---- mounts ---------------------------------------------------------------------- */

/* The value of a mount option ("" for one without); NULL where it is not there. */
static const char *option(const char *options, const char *name, char *buf, size_t size)
{
	size_t n = strlen(name);

	for (const char *p = options; p && *p; p += *p == ',') {
		size_t len = strcspn(p, ",");

		if (len >= n && !strncmp(p, name, n) && (p[n] == '=' || len == n)) {
			size_t from = MIN(len, n + 1);

			snprintf(buf, size, "%.*s", (int)(len - from), p + from);
			return buf;
		}
		p += len;
	}
	return NULL;
}

static bool has_option(const char *options, const char *name)
{
	char value[64];

	return option(options, name, value, sizeof(value));
}

static bool option_is(const char *options, const char *name, const char *wanted)
{
	char value[64];
	const char *v = option(options, name, value, sizeof(value));

	return v && !strcmp(v, wanted);
}

/* Version 4 has locks of its own, version 3 leaves them to a second protocol (NLM) that a
 * mount can do without. Holes came with 4.2; whether the server has them is its affair. */
static void judge_nfs(const char *options, struct fs_facts *f)
{
	unsigned minor = 0;
	bool v4 = f->version[0] == '4',
	     v42 = sscanf(f->version, "4.%u", &minor) == 1 && minor >= 2;
	bool local = has_option(options, "nolock") ||
		     option_is(options, "local_lock", "all") ||
		     option_is(options, "local_lock", "posix");

	if (!options || !f->version[0])
		return;
	f->locks = !v4 && local ? FS_LOCKS_THIS_HOST : FS_LOCKS_ALL_HOSTS;
	f->sparse = v42 ? FACT_UNKNOWN : FACT_NO;
	f->punch_hole = f->zero_range = f->reflink = f->sparse;
}

/* Locks come from what joins the nodes, which a mount can do without. */
static void judge_cluster(uint64_t magic, const char *options, struct fs_facts *f)
{
	char stack[16];
	bool joined = true;

	if (!options || (magic != MAGIC_GFS2 && magic != MAGIC_OCFS2))
		return;
	/* OCFS2's own stack (o2cb) keeps POSIX locks to the node. */
	if (magic == MAGIC_OCFS2)
		joined = option(options, "cluster_stack", stack, sizeof(stack)) &&
			 strcmp(stack, "o2cb") != 0;
	if (has_option(options, "localflocks") ||
		option_is(options, "lockproto", "lock_nolock"))
		joined = false;
	f->locks = joined ? FS_LOCKS_ALL_HOSTS : FS_LOCKS_THIS_HOST;
}

static void judge_locks(
	uint64_t magic, const char *type, const char *options, struct fs_facts *f)
{
	switch (f->reach) {
	case FS_REACH_LOCAL:
		f->locks = FS_LOCKS_THIS_HOST;
		break;
	case FS_REACH_CLUSTER:
		judge_cluster(magic, options, f);
		break;
	case FS_REACH_NETWORK:
		if (magic == MAGIC_NFS)
			judge_nfs(options, f);
		else if ((magic == MAGIC_SMB1 || magic == MAGIC_SMB2) && options)
			f->locks = has_option(options, "nobrl") ? FS_LOCKS_THIS_HOST
								: FS_LOCKS_ALL_HOSTS;
		else if (!strcmp(type, "ceph"))
			f->locks = FS_LOCKS_ALL_HOSTS;
		break;
	default:
		break;
	}
}

void fs_facts_of_mount(
	uint64_t magic, const char *type, const char *options, struct fs_facts *out)
{
	const struct kind *k = NULL;

	*out = (struct fs_facts){.reach = FS_REACH_UNKNOWN};
	for (size_t i = 0; i < ARRAY_LEN(kinds) && !k; i++) {
		if (kinds[i].magic == (uint32_t)magic)
			k = &kinds[i];
	}
	if (!type)
		type = k ? k->type : "";
	snprintf(out->type, sizeof(out->type), "%s", type);
	option(options, "vers", out->version, sizeof(out->version));
	if (!k)
		return;
	out->reach = k->reach;
	out->punch_hole = k->punch_hole;
	out->zero_range = k->zero_range;
	out->reflink = k->reflink;
	out->direct = k->direct;
	out->sparse = k->sparse;
	judge_locks(magic, type, options, out);
}

/* The mount of an open file: "mnt_id: N" in fdinfo, 0 where that is not to be read. */
static unsigned mount_id(int fd)
{
	char path[64], line[128];
	unsigned id = 0;
	FILE *in;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	in = fopen(path, "re");
	while (in && !id && fgets(line, sizeof(line), in))
		id = strncmp(line, "mnt_id:", 7) ? 0 : strtoul(line + 7, NULL, 10);
	if (in)
		fclose(in);
	return id;
}

/* Cuts "ID PARENT … - TYPE SOURCE OPTIONS\n" into its type and options. */
static bool cut_mount(char *line, char **type, char **options)
{
	char *at = strstr(line, " - "), *source;

	if (!at)
		return false;
	*type = at + 3;
	source = strchr(*type, ' ');
	*options = source ? strchr(source + 1, ' ') : NULL;
	if (!*options)
		return false;
	*source = '\0';
	++*options;
	(*options)[strcspn(*options, "\n")] = '\0';
	return true;
}

static void find_mount(int fd, uint64_t magic, struct fs_facts *out)
{
	unsigned id = mount_id(fd);
	FILE *in = id ? fopen("/proc/self/mountinfo", "re") : NULL;
	char *line = NULL, *type = NULL, *options = NULL;
	size_t size = 0;
	bool found = false;

	while (in && !found && getline(&line, &size, in) > 0)
		found = strtoul(line, NULL, 10) == id && cut_mount(line, &type, &options);
	fs_facts_of_mount(magic, found ? type : NULL, found ? options : NULL, out);
	free(line);
	if (in)
		fclose(in);
}

/* ---- the file itself ------------------------------------------------------------- */

/* Asking for a lock takes none. */
static void ask_locks(int fd, struct fs_facts *f)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 1};

	if (fcntl(fd, F_OFD_GETLK, &lock) != 0)
		f->locks = FS_LOCKS_NONE;
}

static void ask_direct(int fd, struct fs_facts *f)
{
	char path[64];
	int again;
#ifdef STATX_DIOALIGN
	struct statx sx;

	if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &sx) == 0 &&
		sx.stx_mask & STATX_DIOALIGN) {
		f->direct_align = sx.stx_dio_offset_align;
		f->direct = f->direct_align ? FACT_YES : FACT_NO;
		return;
	}
#endif
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	again = posix_open_fd(path, O_RDONLY | O_DIRECT, 0);
	if (again >= 0)
		close(again);
	if (again >= 0 || again == -EINVAL)
		f->direct = again >= 0 ? FACT_YES : FACT_NO;
}

/* Whether blocks can be shared, by asking to share a block with itself: all refuse that,
 * those that cannot share at all in their own way. An empty file has no block to ask
 * about. */
static void ask_reflink(int fd, struct fs_facts *f)
{
	_Alignas(struct file_dedupe_range)
		uint8_t buf[sizeof(struct file_dedupe_range) +
			    sizeof(struct file_dedupe_range_info)];
	struct file_dedupe_range *ask = (void *)buf;
	struct stat st;
	int ret;

	if (fstat(fd, &st) != 0 || !st.st_size)
		return;
	memset(buf, 0, sizeof(buf));
	ask->src_length = MIN((uint64_t)st.st_size, 4 * KiB);
	ask->dest_count = 1;
	ask->info[0].dest_fd = fd;
	ret = ioctl(fd, FIDEDUPERANGE, ask) == 0 ? ask->info[0].status : -errno;
	if (ret == -EOPNOTSUPP || ret == -ENOTTY)
		f->reflink = FACT_NO;
	else if (ask->info[0].status == -EINVAL)
		f->reflink = FACT_YES;
}

/* Files whose blocks are listed one by one, as ext2 and ext3 had them, cannot be zeroed in
 * place; only files of extents can. */
static void ask_extents(int fd, struct fs_facts *f)
{
	int flags = 0;

	if (ioctl(fd, FS_IOC_GETFLAGS, &flags) != 0)
		return;
	f->zero_range = flags & FS_EXTENT_FL ? FACT_YES : FACT_NO;
	/* Under this name it may be a driver of its own, which cannot. */
	if (flags & FS_EXTENT_FL || strcmp(f->type, "ext2") != 0)
		f->punch_hole = FACT_YES;
}

bool fs_hides_unwritten_data(int fd)
{
	struct statfs st;
	int flags = 0;

	return fstatfs(fd, &st) == 0 && (uint32_t)st.f_type == MAGIC_EXT &&
	       ioctl(fd, FS_IOC_GETFLAGS, &flags) == 0 && !(flags & FS_EXTENT_FL);
}

/* A hole that was found can be found. None at all says nothing. */
static void ask_sparse(int fd, struct fs_facts *f)
{
	struct stat st;
	off_t was = lseek(fd, 0, SEEK_CUR), hole = lseek(fd, 0, SEEK_HOLE);

	if (hole < 0 && errno == EINVAL)
		f->sparse = FACT_NO;
	else if (hole >= 0 && fstat(fd, &st) == 0 && hole < st.st_size)
		f->sparse = FACT_YES;
	if (was >= 0)
		lseek(fd, was, SEEK_SET);
}

void fs_facts_of_file(int fd, struct fs_facts *out)
{
	struct statfs st = {0};
	uint64_t magic;

	if (fstatfs(fd, &st) != 0)
		st.f_type = 0;
	magic = (uint32_t)st.f_type;
	find_mount(fd, magic, out);
	ask_locks(fd, out);
	ask_direct(fd, out);
	ask_sparse(fd, out);
	if (magic == MAGIC_EXT)
		ask_extents(fd, out);
	if (fs_hides_unwritten_data(fd))
		out->sparse = FACT_NO;
	/* Over a network the client refuses this one itself, whatever the server can. */
	if (out->reach == FS_REACH_LOCAL || out->reach == FS_REACH_UNKNOWN)
		ask_reflink(fd, out);
}

/* ---- telling --------------------------------------------------------------------- */

void fs_facts_describe(const struct fs_facts *f, struct json *o)
{
	static const char *const fact[] = {"unknown", "no", "yes"};
	static const char *const reach[] = {"unknown", "local", "network", "cluster"};
	static const char *const locks[] = {"unknown", "none", "this-host", "all-hosts"};

	json_put_string(o, "file-system", f->type[0] ? f->type : "unknown");
	if (f->version[0])
		json_put_string(o, "version", f->version);
	json_put_string(o, "reach", reach[f->reach]);
	json_put_string(o, "locks", locks[f->locks]);
	json_put_string(o, "punch-hole", fact[f->punch_hole]);
	json_put_string(o, "zero-range", fact[f->zero_range]);
	json_put_string(o, "reflink", fact[f->reflink]);
	json_put_string(o, "sparse-reads", fact[f->sparse]);
	json_put_string(o, "direct-io", fact[f->direct]);
	if (f->direct_align)
		json_put_int(o, "direct-io-alignment", f->direct_align);
}
