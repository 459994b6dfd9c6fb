/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A confined process: what each kind of thread may call, by running its filter on made-up
 * calls; and, in children of the test, that what is forbidden ends the process or is
 * refused, on threads that were there before too, and that what is needed works.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <linux/audit.h>
#include <linux/fs.h>
#include <linux/kvm.h>
#include <linux/seccomp.h>
#include <linux/sockios.h>
#include <linux/vhost.h>
#include <asm/ioctls.h>

#include "base/aio.h"
#include "base/math.h"
#include "base/task.h"
#include "block/driver.h"
#include "block/lockowner.h"
#include "tests/unit/support_files.h"
#include "vmm/confine.h"
#include "vmm/landlock.h"
#include "vmm/privilege.h"
#include "vmm/seccomp.h"

#define KILL        SECCOMP_RET_KILL_PROCESS
#define ALLOW       SECCOMP_RET_ALLOW
#define REFUSE(e)   (SECCOMP_RET_ERRNO | (uint32_t)(e))
#define NUMBERS_MAX 600

/* ---- filters on made-up calls ---------------------------------------------------- */

/* The few instructions of classic BPF that ours are made of. */
static uint32_t run(const struct seccomp_program *p, const struct seccomp_data *data)
{
	uint32_t a = 0;

	for (unsigned pc = 0; pc < p->n; pc++) {
		const struct sock_filter *i = &p->code[pc];
		bool yes;

		switch (i->code) {
		case BPF_LD | BPF_W | BPF_ABS:
			assert_true(i->k % 4 == 0 && i->k + 4 <= sizeof(*data));
			memcpy(&a, (const char *)data + i->k, 4);
			continue;
		case BPF_ALU | BPF_AND | BPF_K:
			a &= i->k;
			continue;
		case BPF_ALU | BPF_RSH | BPF_K:
			a >>= i->k;
			continue;
		case BPF_RET | BPF_K:
			return i->k;
		case BPF_JMP | BPF_JA:
			pc += i->k;
			continue;
		case BPF_JMP | BPF_JEQ | BPF_K:
			yes = a == i->k;
			break;
		case BPF_JMP | BPF_JSET | BPF_K:
			yes = a & i->k;
			break;
		default:
			fail_msg("instruction 0x%x", i->code);
			return 0;
		}
		pc += yes ? i->jt : i->jf;
	}
	fail_msg("it runs over its end");
	return 0;
}

static struct seccomp_rules rules;
static struct seccomp_program programs[CONFINE_KINDS];

static void build(unsigned needs, bool may_open)
{
	rules = (struct seccomp_rules){CONFINE_FILTER_KILL, needs, may_open};
	for (unsigned kind = 0; kind < CONFINE_KINDS; kind++)
		seccomp_build(&programs[kind], kind, &rules);
}

static uint32_t ask3(enum confine_kind kind, int nr, uint64_t a, uint64_t b, uint64_t c)
{
	struct seccomp_data data = {
		.nr = nr, .arch = AUDIT_ARCH_X86_64, .args = {a, b, c}};

	return run(&programs[kind], &data);
}

static uint32_t ask(enum confine_kind kind, int nr)
{
	return ask3(kind, nr, 0, 0, 0);
}

static uint32_t ask_ioctl(enum confine_kind kind, unsigned long request)
{
	return ask3(kind, SYS_ioctl, 3, request, 0);
}

static void nobody_makes_a_process_or_another_system(void **state)
{
	static const int never[] = {SYS_execve, SYS_execveat, SYS_fork, SYS_vfork,
		SYS_ptrace, SYS_process_vm_writev, SYS_mount, SYS_setuid, SYS_bpf,
		SYS_init_module, SYS_unshare, SYS_setns, SYS_keyctl, SYS_userfaultfd,
		SYS_personality, SYS_memfd_create, SYS_chmod, SYS_rename};
	const uint64_t thread = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND |
				CLONE_THREAD | CLONE_SYSVSEM;
	struct seccomp_data data = {.nr = SYS_read, .arch = AUDIT_ARCH_I386};

	(void)state;
	build(~0u, true);
	for (unsigned kind = 0; kind < CONFINE_KINDS; kind++) {
		for (size_t i = 0; i < ARRAY_LEN(never); i++)
			assert_int_equal(ask(kind, never[i]), KILL);
		assert_int_equal(ask(kind, SYS_read), ALLOW);
		assert_int_equal(ask(kind, SYS_read | 0x40000000), KILL);
		assert_int_equal(run(&programs[kind], &data), KILL);
		assert_int_equal(ask3(kind, SYS_clone, SIGCHLD, 0, 0), KILL);
		assert_int_equal(
			ask3(kind, SYS_clone, thread & ~CLONE_THREAD, 0, 0), KILL);
		assert_int_equal(ask3(kind, SYS_clone, thread, 0, 0),
			kind == CONFINE_MAIN ? ALLOW : KILL);
	}
	assert_int_equal(ask(CONFINE_MAIN, SYS_clone3), REFUSE(ENOSYS));
}

static void arguments_count(void **state)
{
	const uint64_t rw = PROT_READ | PROT_WRITE, self = (uint64_t)getpid();

	(void)state;
	build(0, false);
	for (unsigned kind = 0; kind < CONFINE_KINDS; kind++) {
		assert_int_equal(ask3(kind, SYS_mmap, 0, 4096, rw), ALLOW);
		assert_int_equal(ask3(kind, SYS_mmap, 0, 4096, rw | PROT_EXEC), KILL);
		assert_int_equal(ask3(kind, SYS_mprotect, 0, 1, PROT_EXEC), KILL);
		assert_int_equal(ask3(kind, SYS_tgkill, self, 1, 1), ALLOW);
		assert_int_equal(ask3(kind, SYS_tgkill, 1, 1, 9), KILL);
		assert_int_equal(ask3(kind, SYS_prlimit64, 0, 3, 0), ALLOW);
		assert_int_equal(ask3(kind, SYS_prlimit64, 0, 3, 1), KILL);
		assert_int_equal(ask3(kind, SYS_prlimit64, 0, 3, 1ull << 32), KILL);
		assert_int_equal(ask3(kind, SYS_prctl, PR_SET_NAME, 0, 0), ALLOW);
		assert_int_equal(ask3(kind, SYS_prctl, PR_SET_DUMPABLE, 1, 0), KILL);
	}
}

static void ioctls_are_those_of_the_kind(void **state)
{
	(void)state;
	build(0, false);
	assert_int_equal(ask_ioctl(CONFINE_MAIN, KVM_RUN), ALLOW);
	assert_int_equal(ask_ioctl(CONFINE_VCPU, KVM_RUN), ALLOW);
	assert_int_equal(ask_ioctl(CONFINE_LOOP, KVM_RUN), KILL);
	assert_int_equal(ask_ioctl(CONFINE_CONSOLE, KVM_RUN), KILL);
	assert_int_equal(ask_ioctl(CONFINE_VCPU, VHOST_SET_VRING_KICK), ALLOW);
	assert_int_equal(ask_ioctl(CONFINE_CONSOLE, VHOST_SET_VRING_KICK), KILL);
	assert_int_equal(ask_ioctl(CONFINE_CONSOLE, TCSETS), ALLOW);
	assert_int_equal(ask_ioctl(CONFINE_VCPU, TCSETS), KILL);
	assert_int_equal(ask_ioctl(CONFINE_LOOP, FICLONERANGE), ALLOW);
	for (unsigned kind = 0; kind < CONFINE_KINDS; kind++) {
		assert_int_equal(ask_ioctl(kind, KVM_IRQ_LINE), ALLOW);
		assert_int_equal(ask_ioctl(kind, KVM_SIGNAL_MSI), ALLOW);
		assert_int_equal(ask_ioctl(kind, KVM_CREATE_VM), KILL);
		assert_int_equal(ask_ioctl(kind, KVM_CREATE_VCPU), KILL);
		assert_int_equal(ask_ioctl(kind, TIOCSTI), KILL);
	}
	assert_int_equal(ask_ioctl(CONFINE_MAIN, FS_IOC_SETFLAGS), ALLOW);
	assert_int_equal(ask_ioctl(CONFINE_VCPU, FS_IOC_SETFLAGS), KILL);
}

static void what_disks_need_is_there_for_them_alone(void **state)
{
	(void)state;
	build(0, false);
	assert_int_equal(ask3(CONFINE_LOOP, SYS_socket, AF_INET, 1, 0), REFUSE(EPERM));
	assert_int_equal(ask3(CONFINE_VCPU, SYS_socket, AF_INET, 1, 0), KILL);
	assert_int_equal(ask(CONFINE_LOOP, SYS_connect), REFUSE(EPERM));
	assert_int_equal(ask_ioctl(CONFINE_LOOP, 0x2285 /* SG_IO */), REFUSE(EPERM));
	assert_int_equal(ask_ioctl(CONFINE_LOOP, SIOCGIFINDEX), REFUSE(EPERM));
	assert_int_equal(ask_ioctl(CONFINE_LOOP, FIDEDUPERANGE), REFUSE(EPERM));
	assert_int_equal(ask(CONFINE_LOOP, SYS_openat), REFUSE(EACCES));
	build(BLK_NEEDS_NETWORK, true);
	assert_int_equal(ask3(CONFINE_LOOP, SYS_socket, AF_INET, 1, 0), ALLOW);
	assert_int_equal(ask3(CONFINE_LOOP, SYS_socket, AF_PACKET, 3, 0), KILL);
	assert_int_equal(ask3(CONFINE_VCPU, SYS_socket, AF_INET, 1, 0), KILL);
	assert_int_equal(ask(CONFINE_LOOP, SYS_connect), ALLOW);
	assert_int_equal(ask_ioctl(CONFINE_LOOP, SIOCGIFINDEX), ALLOW);
	assert_int_equal(ask(CONFINE_LOOP, SYS_openat), ALLOW);
	assert_int_equal(ask(CONFINE_VCPU, SYS_openat), REFUSE(EACCES));
	build(BLK_NEEDS_RIGHTS, false);
	assert_int_equal(ask_ioctl(CONFINE_LOOP, 0x2285), ALLOW);
	assert_int_equal(ask_ioctl(CONFINE_VCPU, 0x2285), KILL);
}

/* A thread's filter comes on top of the process's. */
static void every_kind_is_a_part_of_the_process(void **state)
{
	unsigned allowed[CONFINE_KINDS] = {0};

	(void)state;
	build(~0u, true);
	for (int nr = 0; nr < NUMBERS_MAX; nr++)
		for (unsigned kind = 0; kind < CONFINE_KINDS; kind++)
			if (ask(kind, nr) == ALLOW) {
				assert_int_equal(ask(CONFINE_MAIN, nr), ALLOW);
				allowed[kind]++;
			}
	for (unsigned kind = CONFINE_VCPU; kind < CONFINE_KINDS; kind++)
		assert_in_range(allowed[kind], 20, allowed[CONFINE_MAIN] - 1);
}

static void a_log_instead_of_an_end(void **state)
{
	const struct seccomp_rules log = {.filter = CONFINE_FILTER_LOG};

	(void)state;
	seccomp_build(&programs[CONFINE_VCPU], CONFINE_VCPU, &log);
	assert_int_equal(ask(CONFINE_VCPU, SYS_execve), SECCOMP_RET_LOG);
	seccomp_build(&programs[CONFINE_LOOP], CONFINE_LOOP, &log);
	assert_int_equal(ask3(CONFINE_LOOP, SYS_socket, AF_INET, 1, 0), SECCOMP_RET_LOG);
	assert_int_equal(ask(CONFINE_VCPU, SYS_read), ALLOW);
}

/* ---- children -------------------------------------------------------------------- */

static struct confine_options options;
static const char *readable, *secret;

/* The wait status of a child that does fn. It reports by its exit status: 0 is fine. */
static int in_child(int (*fn)(void))
{
	int status = 0;
	pid_t pid = fork();

	if (pid == 0) {
		alarm(60);
		_exit(fn());
	}
	assert_true(pid > 0 && waitpid(pid, &status, 0) == pid);
	return status;
}

#define ends_well(fn) assert_int_equal(in_child(fn), 0)
#define ends_by_filter(fn)                                                               \
	do {                                                                             \
		int status_ = in_child(fn);                                              \
		assert_true(WIFSIGNALED(status_));                                       \
		assert_int_equal(WTERMSIG(status_), SIGSYS);                             \
	} while (0)

static bool confine_now(void)
{
	struct err err = ERR_INIT;
	int ret = confine_begin(&options, &err);

	ret = ret ? ret : confine_process(&options, &err);
	if (ret)
		fprintf(stderr, "%s\n", err.msg);
	return ret == 0;
}

static int fork_one(void)
{
	return confine_now() ? fork() < 0 : 1;
}

static int execute(void)
{
	if (confine_now())
		execl("/bin/true", "true", (char *)NULL);
	return 1;
}

static int make_socket(void)
{
	return confine_now() ? socket(AF_INET, SOCK_STREAM, 0) < 0 : 1;
}

/* An error, and not the end: an image of a network may be asked for at any time. */
static int refuse_socket(void)
{
	return confine_now() && socket(AF_INET, SOCK_STREAM, 0) < 0 && errno == EPERM ? 0
										      : 1;
}

static int open_secret(void)
{
	return confine_now() && open(secret, O_RDONLY) < 0 && errno == EACCES ? 0 : 1;
}

static void what_is_forbidden_ends_the_process(void **state)
{
	(void)state;
	options = (struct confine_options){.namespaces = CONFINE_OFF};
	ends_by_filter(fork_one);
	ends_by_filter(execute);
	ends_well(refuse_socket);
	ends_well(open_secret);
	options.seccomp = CONFINE_FILTER_LOG;
	ends_well(fork_one);
	ends_well(make_socket);
	options.off = true;
	options.seccomp = CONFINE_FILTER_KILL;
	ends_well(fork_one);
}

/* Without the filter, so that it is Landlock that decides. */
static int open_what_is_allowed(void)
{
	if (!confine_now())
		return 1;
	if (open(readable, O_RDONLY) < 0)
		return 2;
	if (open(readable, O_WRONLY) >= 0 || errno != EACCES)
		return 3;
	if (unlink(readable) == 0 || errno != EACCES)
		return 4;
	if (open(secret, O_RDONLY) >= 0 || errno != EACCES)
		return 5;
	execl("/bin/true", "true", (char *)NULL);
	return errno == EACCES ? 0 : 6;
}

static int write_where_allowed(void)
{
	if (!confine_now())
		return 1;
	if (open(readable, O_WRONLY) < 0 || truncate(readable, 1) || unlink(readable))
		return 2;
	return open(readable, O_WRONLY | O_CREAT | O_EXCL, 0600) < 0 ? 3 : 0;
}

static void landlock_leaves_what_was_asked_for(void **state)
{
	struct err err = ERR_INIT;

	(void)state;
	if (!landlock_version())
		skip();
	options = (struct confine_options){
		.namespaces = CONFINE_OFF, .seccomp = CONFINE_FILTER_OFF};
	assert_int_equal(confine_allow(&options, readable, false, &err), 0);
	assert_int_equal(confine_allow(&options, "/nowhere/at/all", true, &err), 0);
	ends_well(open_what_is_allowed);
	confine_options_clear(&options);
	assert_int_equal(confine_allow(&options, scratch_path("open"), true, &err), 0);
	ends_well(write_where_allowed);
	confine_options_clear(&options);
}

/* ---- threads --------------------------------------------------------------------- */

static struct loop *early;
static int result;

static void *use_a_loop(void *arg);

static void write_a_file(void *arg)
{
	char text[4096] = "written";
	struct iovec iov = {text, sizeof(text)};
	int fd = *(int *)arg;

	result = 0;
	if (aio_pwritev(fd, &iov, 1, 0, 0) != sizeof(text) || aio_fdatasync(fd))
		result = 10;
}

static void open_from_a_loop(void *arg)
{
	(void)arg;
	result = open(secret, O_RDONLY) < 0 && errno == EACCES ? 0 : 11;
}

static void fork_from_a_loop(void *arg)
{
	(void)arg;
	result = (int)syscall(SYS_fork);
}

/* As a device does whose queue the guest starts. */
static void *use_a_loop(void *arg)
{
	struct err err = ERR_INIT;
	struct loop *loop;

	confine_thread(CONFINE_VCPU);
	loop = loop_start(&err);
	if (!loop || task_spawn(loop, write_a_file, arg))
		result = 12;
	if (loop)
		loop_stop(loop);
	return NULL;
}

static int on_thread(void *(*fn)(void *arg), void *arg)
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, fn, arg))
		return 20;
	pthread_join(thread, NULL);
	return result;
}

static int vcpus_start_loops(void)
{
	int fd = open(scratch_path("disk"), O_RDWR | O_CREAT, 0600);

	result = 13;
	return fd >= 0 && confine_now() ? on_thread(use_a_loop, &fd) : 1;
}

static void *make_a_ring(void *arg)
{
	char params[120] = {0};

	confine_thread(*(enum confine_kind *)arg);
	result = syscall(SYS_io_uring_setup, 4, params) < 0;
	return NULL;
}

static int ring_on_a_vcpu(void)
{
	enum confine_kind kind = CONFINE_VCPU;

	return confine_now() ? on_thread(make_a_ring, &kind) : 1;
}

static int ring_on_the_console(void)
{
	enum confine_kind kind = CONFINE_CONSOLE;

	return confine_now() ? on_thread(make_a_ring, &kind) : 1;
}

static int on_early_loop(void (*fn)(void *arg))
{
	struct err err = ERR_INIT;

	early = loop_start(&err);
	result = 14;
	if (!early || !confine_now() || task_spawn(early, fn, NULL))
		return 1;
	loop_stop(early);
	return result;
}

static int early_loop_opens(void)
{
	return on_early_loop(open_from_a_loop);
}

static int early_loop_forks(void)
{
	return on_early_loop(fork_from_a_loop);
}

static void threads_have_what_their_kind_needs(void **state)
{
	(void)state;
	options = (struct confine_options){.namespaces = CONFINE_OFF};
	loop_set_engine("auto", NULL);
	ends_well(vcpus_start_loops);
	loop_set_engine("epoll", NULL);
	ends_well(vcpus_start_loops);
	loop_set_engine("auto", NULL);
	ends_by_filter(ring_on_a_vcpu);
	ends_by_filter(ring_on_the_console);
}

static void threads_that_were_there_are_confined_too(void **state)
{
	(void)state;
	options = (struct confine_options){.namespaces = CONFINE_OFF};
	ends_by_filter(early_loop_forks);
	if (!landlock_version())
		skip();
	options.seccomp = CONFINE_FILTER_OFF;
	ends_well(early_loop_opens);
}

/* ---- users and namespaces -------------------------------------------------------- */

/* Of all threads: each line that begins with `field` is as it should be. */
static bool all_are(const char *field, const char *wanted)
{
	char path[64], line[256];
	unsigned seen = 0;

	for (int tid = getpid(); tid < getpid() + 20000; tid++) {
		FILE *f;

		snprintf(path, sizeof(path), "/proc/self/task/%d/status", tid);
		f = fopen(path, "re");
		while (f && fgets(line, sizeof(line), f)) {
			if (strncmp(line, field, strlen(field)))
				continue;
			seen++;
			if (strcmp(line + strlen(field), wanted)) {
				fprintf(stderr, "%s: %s", path, line);
				fclose(f);
				return false;
			}
		}
		if (f)
			fclose(f);
	}
	return seen >= 3; /* with the early loop and the maker */
}

static int become_another(void)
{
	struct err err = ERR_INIT;

	early = loop_start(&err);
	if (!early || !confine_now())
		return 1;
	if (!all_are("Uid:", "\t65534\t65534\t65534\t65534\n") ||
		!all_are("Gid:", "\t12345\t12345\t12345\t12345\n") ||
		!all_are("NoNewPrivs:", "\t1\n"))
		return 2;
	if (!all_are("CapEff:", "\t0000000000000000\n") ||
		!all_are("CapPrm:", "\t0000000000000000\n") ||
		!all_are("CapBnd:", "\t0000000000000000\n"))
		return 3;
	loop_stop(early);
	return 0;
}

static int root_is_empty(void)
{
	struct stat st;

	if (!confine_now())
		return 1;
	if (stat(secret, &st) == 0 || errno != ENOENT || stat("/etc", &st) == 0)
		return 2;
	return mkdir("/a", 0700) == 0 || stat("/", &st) || st.st_nlink != 2 ? 3 : 0;
}

static void root_becomes_somebody_else(void **state)
{
	struct err err = ERR_INIT;

	(void)state;
	if (geteuid() != 0)
		skip();
	options = (struct confine_options){.namespaces = CONFINE_OFF,
		.seccomp = CONFINE_FILTER_OFF,
		.user = "65534:12345"};
	assert_int_equal(confine_allow(&options, "/proc", false, &err), 0);
	ends_well(become_another);
	confine_options_clear(&options);
	options.user = "nobody-of-that-name";
	assert_int_not_equal(confine_process(&options, &err), 0);
	assert_non_null(strstr(err.msg, "nobody-of-that-name"));
}

static void root_gets_an_empty_root(void **state)
{
	(void)state;
	if (geteuid() != 0)
		skip();
	options = (struct confine_options){.seccomp = CONFINE_FILTER_LOG};
	ends_well(root_is_empty);
	options.landlock = CONFINE_OFF;
	ends_well(root_is_empty);
}

/* ---- what disks need ------------------------------------------------------------- */

struct seen {
	unsigned own, backing;
};

static void see(const struct blk *b, bool backing, void *arg)
{
	struct seen *s = arg;

	assert_non_null(strstr(blk_filename(b), backing ? "below.img" : "above.qcow2"));
	if (backing)
		s->backing++;
	else
		s->own++;
}

static struct blk *open_text(const char *text)
{
	struct opts *o = opts_new();
	struct err err = ERR_INIT;
	struct blk *b;

	assert_int_equal(opts_parse(o, text, NULL, &err), 0);
	b = blk_open(NULL, o, BLK_O_RDWR, &err);
	if (!b)
		fail_msg("%s: %s", text, err.msg);
	opts_free(o);
	return b;
}

static void disks_tell_what_they_need(void **state)
{
	const char *below = scratch_file("below.img", 1 << 20);
	char text[512];
	struct err err = ERR_INIT;
	struct blk *b;

	(void)state;
	snprintf(text, sizeof(text), "driver=raw,file.driver=file,file.filename=%s",
		below);
	b = open_text(text);
	assert_int_equal(blk_needs(b), 0);
	options = (struct confine_options){.off = false};
	assert_int_equal(confine_allow_disk(&options, b, &err), 0);
	assert_int_equal(options.needs, 0);
	assert_int_equal(options.n_paths, 0);
	/* Its note has to be removed at the end. */
	lock_note_write(below);
	assert_int_equal(confine_allow_disk(&options, b, &err), 0);
	assert_int_equal(options.n_paths, 1);
	assert_true(
		options.path[0].write && strstr(below, options.path[0].path) == below);
	lock_note_remove(below);
	confine_options_clear(&options);
	blk_close(b);

	/* As a watermark's hook, which only devices have. */
	snprintf(text, sizeof(text), "driver=raw,file.driver=file,file.filename=%s",
		below);
	b = open_text(text);
	b->file->needs = BLK_NEEDS_PROGRAM;
	assert_int_equal(blk_needs(b), BLK_NEEDS_PROGRAM);
	assert_int_equal(confine_allow_disk(&options, b, &err), 0);
	assert_int_equal(confine_process(&options, &err), -EPERM);
	blk_close(b);
}

static bool is_refused(const char *text, const char *why)
{
	struct opts *o = opts_new();
	struct err err = ERR_INIT;
	struct blk *b = NULL;

	if (opts_parse(o, text, NULL, &err) == 0)
		b = blk_open(NULL, o, BLK_O_RDWR, &err);
	opts_free(o);
	if (!b && err.code == EPERM && strstr(err.msg, why))
		return true;
	fprintf(stderr, "%s: %s\n", text, b ? "opened" : err.msg);
	return false;
}

/* Whose server is not looked for, whose paths are not opened, whose program is not there. */
static int refuse_later(void)
{
	if (!confine_now())
		return 1;
	if (blk_driver_find("nbd") &&
		!is_refused("driver=nbd,server.host=localhost,server.port=1",
			"to make connections"))
		return 2;
	if (!is_refused("driver=multipath,path.0=a,path.1=b", "to open paths"))
		return 3;
	return 0;
}

static void what_was_given_up_is_refused_to_later_disks(void **state)
{
	(void)state;
	options = (struct confine_options){.namespaces = CONFINE_OFF};
	ends_well(refuse_later);
}

static void a_tree_tells_its_files(void **state)
{
	const char *below = scratch_file("below.img", 1 << 20);
	const char *above = scratch_file("above.qcow2", 1 << 20);
	struct seen seen = {0};
	char text[1024];
	struct blk *b;

	(void)state;
	/* An overlay of qcow2 would do as well; what matters is who is whose child. */
	snprintf(text, sizeof(text),
		"driver=raw,file.driver=trace,file.file.driver=file,"
		"file.file.filename=%s",
		above);
	b = open_text(text);
	b->backing = blk_open_format(below, "raw", 0, NULL);
	assert_non_null(b->backing);
	blk_each_path(b, see, &seen);
	assert_int_equal(seen.own, 1);
	assert_int_equal(seen.backing, 1);
	blk_close(b);
}

/* ---- a network disk -------------------------------------------------------------- */

static char port[8], url[64];

static pid_t start_server(void)
{
	const char *const argv[] = {"nbdkit", "-f", "-i", "127.0.0.1", "-p", port, "--",
		"file", scratch_path("served.img"), NULL};

	return program_start(argv);
}

/* The server may take a moment to listen. */
static struct blk *open_served(void)
{
	for (unsigned i = 0; i < 100; i++) {
		struct blk *b = blk_open(url, NULL, BLK_O_PROTOCOL, NULL);

		if (b)
			return b;
		usleep(50000);
	}
	return NULL;
}

static int served[2], again[2];

/* Twice: over the connection it has, and, confined, over another. */
static int read_twice(void)
{
	char data[512], word = 0;
	struct err err = ERR_INIT;
	struct blk *b = open_served();

	if (!b || confine_allow_disk(&options, b, &err) || !confine_now())
		return 1;
	if (blk_pread(b, 0, data, sizeof(data)) || write(served[1], &word, 1) != 1 ||
		read(again[0], &word, 1) != 1)
		return 2;
	if (blk_pread(b, 512, data, sizeof(data)))
		return 3;
	return blk_close(b) ? 4 : 0;
}

/* nbdkit ends with the thread that started it, so this one stays until all has been read. */
static void *restart_server(void *arg)
{
	pid_t *server = arg;
	char word = 0;

	if (read(served[0], &word, 1) != 1)
		return NULL;
	program_stop(*server);
	*server = start_server();
	if (write(again[1], &word, 1) != 1)
		return NULL;
	while (read(served[0], &word, 1) > 0)
		;
	return NULL;
}

static void a_network_disk_connects_again(void **state)
{
	pthread_t thread;
	pid_t server;

	(void)state;
	if (!program_there("nbdkit") || !blk_driver_find("nbd"))
		skip();
	snprintf(port, sizeof(port), "%d", 20000 + getpid() % 10000);
	snprintf(url, sizeof(url), "nbd://localhost:%s", port);
	scratch_file("served.img", 1 << 20);
	assert_true(pipe2(served, O_CLOEXEC) == 0 && pipe2(again, O_CLOEXEC) == 0);
	server = start_server();
	assert_int_equal(pthread_create(&thread, NULL, restart_server, &server), 0);
	options = (struct confine_options){.off = false};
	ends_well(read_twice);
	close(served[1]);
	pthread_join(thread, NULL);
	program_stop(server);
	close(served[0]);
	close(again[0]);
	close(again[1]);
}

static int make_files(void **state)
{
	(void)state;
	assert_int_equal(mkdir(scratch_path("open"), 0700), 0);
	readable = scratch_file("open/readable", 4096);
	secret = scratch_file("secret", 4096);
	return 0;
}

#ifdef __SANITIZE_THREAD__
static void not_with_this_sanitizer(void **state)
{
	(void)state;
	skip(); /* it makes system calls of its own, in threads of its own */
}
#endif

int main(void)
{
#ifdef __SANITIZE_THREAD__
	const struct CMUnitTest none[] = {cmocka_unit_test(not_with_this_sanitizer)};

	return cmocka_run_group_tests(none, NULL, NULL);
#endif
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nobody_makes_a_process_or_another_system),
		cmocka_unit_test(arguments_count),
		cmocka_unit_test(ioctls_are_those_of_the_kind),
		cmocka_unit_test(what_disks_need_is_there_for_them_alone),
		cmocka_unit_test(every_kind_is_a_part_of_the_process),
		cmocka_unit_test(a_log_instead_of_an_end),
		cmocka_unit_test(what_is_forbidden_ends_the_process),
		cmocka_unit_test(landlock_leaves_what_was_asked_for),
		cmocka_unit_test(threads_have_what_their_kind_needs),
		cmocka_unit_test(threads_that_were_there_are_confined_too),
		cmocka_unit_test(root_becomes_somebody_else),
		cmocka_unit_test(root_gets_an_empty_root),
		cmocka_unit_test(disks_tell_what_they_need),
		cmocka_unit_test(what_was_given_up_is_refused_to_later_disks),
		cmocka_unit_test(a_tree_tells_its_files),
		cmocka_unit_test(a_network_disk_connects_again),
	};

	return cmocka_run_group_tests(tests, make_files, NULL);
}
