/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Filters on system calls. See seccomp.h.
 *
 * A program is: is it x86-64's own numbering → ioctl, the one that counts for speed → the
 * table from its top. Each entry is two instructions, so that no jump is long; the kernel
 * remembers which numbers are allowed whatever their arguments, and does not run the
 * program for those.
 *
 * What a pointer points to cannot be looked at. So clone3 is said not to exist, and the C
 * library takes clone, whose flags can.
 */
#include "vmm/seccomp.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <linux/audit.h>
#include <linux/fs.h>
#include <linux/if_tun.h>
#include <linux/kvm.h>
#include <linux/pr.h>
#include <linux/seccomp.h>
#include <linux/sockios.h>
#include <scsi/sg.h>
#include <asm/ioctls.h>

#include "base/math.h"
#include "block/driver.h"

#define X32_BIT 0x40000000u

/* Kinds of threads, as bits. */
#define M   (1u << CONFINE_MAIN)
#define V   (1u << CONFINE_VCPU)
#define L   (1u << CONFINE_LOOP)
#define C   (1u << CONFINE_CONSOLE)
#define ALL (M | V | L | C)

enum check {
	ANYHOW,
	OPENING,   /* where rules->may_open; vCPUs never */
	NOT_EXEC,  /* memory that is not executable: argument 2 */
	THREAD,    /* clone: a thread, and no process */
	NOT_THERE, /* -ENOSYS */
	OURSELVES, /* argument 0 is our process */
	READING,   /* prlimit64: sets nothing */
	NAMING,    /* prctl: names of threads and of memory */
	ADDRESSES, /* socket: Unix, internet, and asking which addresses we have */
};

struct call {
	int nr;
	unsigned kinds, needs; /* needs: 0, or one of these has to be asked for */
	enum check check;
};

/* Sorted by what it is for. */
static const struct call calls[] = {
	/* Waiting, time, the thread itself. */
	{SYS_futex, ALL, 0, ANYHOW},
	{SYS_read, ALL, 0, ANYHOW},
	{SYS_write, ALL, 0, ANYHOW},
	{SYS_io_uring_enter, M | L, 0, ANYHOW},
	{SYS_poll, ALL, 0, ANYHOW},
	{SYS_ppoll, ALL, 0, ANYHOW},
	{SYS_epoll_wait, M | L | C, 0, ANYHOW},
	{SYS_epoll_pwait, M | L | C, 0, ANYHOW},
	{SYS_epoll_pwait2, M | L | C, 0, ANYHOW},
	{SYS_epoll_ctl, M | L | C, 0, ANYHOW},
	{SYS_epoll_create1, M | L | C, 0, ANYHOW},
	{SYS_select, M | L | C, 0, ANYHOW},
	{SYS_pselect6, M | L | C, 0, ANYHOW},
	{SYS_clock_gettime, ALL, 0, ANYHOW},
	{SYS_clock_getres, ALL, 0, ANYHOW},
	{SYS_clock_nanosleep, ALL, 0, ANYHOW},
	{SYS_nanosleep, ALL, 0, ANYHOW},
	{SYS_gettimeofday, ALL, 0, ANYHOW},
	{SYS_time, ALL, 0, ANYHOW},
	{SYS_sched_yield, ALL, 0, ANYHOW},
	{SYS_sched_getaffinity, ALL, 0, ANYHOW},
	{SYS_restart_syscall, ALL, 0, ANYHOW},
	{SYS_rt_sigreturn, ALL, 0, ANYHOW},
	{SYS_rt_sigprocmask, ALL, 0, ANYHOW},
	{SYS_rt_sigaction, M, 0, ANYHOW},
	{SYS_sigaltstack, ALL, 0, ANYHOW},
	{SYS_set_robust_list, ALL, 0, ANYHOW},
	{SYS_rseq, ALL, 0, ANYHOW},
	{SYS_gettid, ALL, 0, ANYHOW},
	{SYS_getpid, ALL, 0, ANYHOW},
	{SYS_exit, ALL, 0, ANYHOW},
	{SYS_exit_group, ALL, 0, ANYHOW},
	{SYS_tgkill, ALL, 0, OURSELVES},
	{SYS_kill, M, 0, OURSELVES},
	{SYS_clone, M, 0, THREAD},
	{SYS_clone3, M, 0, NOT_THERE},
	{SYS_prctl, ALL, 0, NAMING},
	{SYS_seccomp, M, 0, ANYHOW}, /* it only takes away */

	/* Memory. */
	{SYS_mmap, ALL, 0, NOT_EXEC},
	{SYS_mprotect, ALL, 0, NOT_EXEC},
	{SYS_munmap, ALL, 0, ANYHOW},
	{SYS_mremap, ALL, 0, ANYHOW},
	{SYS_madvise, ALL, 0, ANYHOW},
	{SYS_mincore, M | L, 0, ANYHOW},
	{SYS_brk, ALL, 0, ANYHOW},
	{SYS_membarrier, ALL, 0, ANYHOW},

	/* Files that are open. A device on a vCPU may use its disk at once. */
	{SYS_pread64, ALL, 0, ANYHOW},
	{SYS_pwrite64, ALL, 0, ANYHOW},
	{SYS_preadv, ALL, 0, ANYHOW},
	{SYS_pwritev, ALL, 0, ANYHOW},
	{SYS_preadv2, ALL, 0, ANYHOW},
	{SYS_pwritev2, ALL, 0, ANYHOW},
	{SYS_readv, ALL, 0, ANYHOW},
	{SYS_writev, ALL, 0, ANYHOW},
	{SYS_fdatasync, ALL, 0, ANYHOW},
	{SYS_fsync, ALL, 0, ANYHOW},
	{SYS_fallocate, ALL, 0, ANYHOW},
	{SYS_ftruncate, ALL, 0, ANYHOW},
	{SYS_copy_file_range, M | L, 0, ANYHOW},
	{SYS_sync_file_range, M | L, 0, ANYHOW},
	{SYS_fadvise64, M | L, 0, ANYHOW},
	{SYS_lseek, ALL, 0, ANYHOW},
	{SYS_fstat, ALL, 0, ANYHOW},
	{SYS_newfstatat, ALL, 0, ANYHOW}, /* what fstat() is */
	{SYS_statx, M | L, 0, ANYHOW},
	{SYS_fstatfs, M | L, 0, ANYHOW},
	{SYS_fcntl, ALL, 0, ANYHOW},
	{SYS_close, ALL, 0, ANYHOW},
	{SYS_dup, M | L, 0, ANYHOW},
	{SYS_dup3, M | L, 0, ANYHOW},
	{SYS_eventfd2, ALL, 0, ANYHOW},
	{SYS_signalfd4, M, 0, ANYHOW},
	{SYS_pipe2, M | L, 0, ANYHOW},
	{SYS_timerfd_create, M | L, 0, ANYHOW},
	{SYS_timerfd_settime, M | L, 0, ANYHOW},
	{SYS_timerfd_gettime, M | L, 0, ANYHOW},
	{SYS_io_uring_setup, M | L, 0, ANYHOW},
	{SYS_io_uring_register, M | L, 0, ANYHOW},

	/* Names. */
	{SYS_openat, ALL, 0, OPENING},
	{SYS_open, ALL, 0, OPENING},
	{SYS_readlink, M | L, 0, OPENING},
	{SYS_readlinkat, M | L, 0, OPENING},
	{SYS_access, M | L, 0, OPENING},
	{SYS_faccessat, M | L, 0, OPENING},
	{SYS_faccessat2, M | L, 0, OPENING},
	{SYS_getdents64, M | L, 0, ANYHOW},
	{SYS_unlink, M | L, 0, OPENING}, /* notes beside images */
	{SYS_unlinkat, M | L, 0, OPENING},

	/* Sockets that are open, and who comes in by them. */
	{SYS_sendto, M | L | C, 0, ANYHOW},
	{SYS_sendmsg, M | L | C, 0, ANYHOW},
	{SYS_sendmmsg, M | L | C, 0, ANYHOW},
	{SYS_recvfrom, M | L | C, 0, ANYHOW},
	{SYS_recvmsg, M | L | C, 0, ANYHOW},
	{SYS_recvmmsg, M | L | C, 0, ANYHOW},
	{SYS_shutdown, M | L | C, 0, ANYHOW},
	{SYS_accept, M | L | C, 0, ANYHOW},
	{SYS_accept4, M | L | C, 0, ANYHOW},
	{SYS_getsockopt, M | L | C, 0, ANYHOW},
	{SYS_setsockopt, M | L | C, 0, ANYHOW},
	{SYS_getsockname, M | L | C, 0, ANYHOW},
	{SYS_getpeername, M | L | C, 0, ANYHOW},

	/* Others. */
	{SYS_socket, M | L, BLK_NEEDS_NETWORK, ADDRESSES},
	{SYS_dup2, M | L, BLK_NEEDS_NETWORK, ANYHOW},
	{SYS_connect, M | L, BLK_NEEDS_NETWORK, ANYHOW},
	{SYS_bind, M | L, BLK_NEEDS_NETWORK, ANYHOW},

	/* What libraries ask. */
	{SYS_getrandom, ALL, 0, ANYHOW},
	{SYS_uname, M | L, 0, ANYHOW},
	{SYS_sysinfo, M | L, 0, ANYHOW},
	{SYS_getrusage, M | L, 0, ANYHOW},
	{SYS_prlimit64, ALL, 0, READING},
	{SYS_getuid, M | L, 0, ANYHOW},
	{SYS_geteuid, M | L, 0, ANYHOW},
	{SYS_getgid, M | L, 0, ANYHOW},
	{SYS_getegid, M | L, 0, ANYHOW},
	{SYS_getppid, M | L, 0, ANYHOW},
};

struct command {
	uint32_t request;
	unsigned kinds, needs;
};

/* Most often used first. Not there: what makes a machine or a vCPU, and TIOCSTI, which types
 * into the terminal of whoever started us. */
static const struct command commands[] = {
	{KVM_RUN, M | V, 0},
	{KVM_IRQ_LINE, ALL, 0},
	{KVM_SIGNAL_MSI, ALL, 0},
	{KVM_IOEVENTFD, M | V, 0},
	{KVM_IRQFD, M | V | L, 0},
	{KVM_SET_GSI_ROUTING, M | V, 0},
	{KVM_SET_USER_MEMORY_REGION, M | V, 0},
	{KVM_GET_DIRTY_LOG, M | L | C, 0},
	{KVM_CLEAR_DIRTY_LOG, M | L | C, 0},
	{KVM_CHECK_EXTENSION, M, 0},
	{KVM_GET_MSR_INDEX_LIST, M, 0},
	{KVM_NMI, M | C, 0},
	{KVM_INTERRUPT, M, 0},
	{KVM_KVMCLOCK_CTRL, M, 0},
	{KVM_GET_CLOCK, M, 0},
	{KVM_SET_CLOCK, M, 0},
	{KVM_GET_IRQCHIP, M, 0},
	{KVM_SET_IRQCHIP, M, 0},
	{KVM_GET_PIT2, M, 0},
	{KVM_SET_PIT2, M, 0},
	{KVM_GET_REGS, M | V, 0},
	{KVM_SET_REGS, M | V, 0},
	{KVM_GET_SREGS, M | V, 0},
	{KVM_SET_SREGS, M | V, 0},
	{KVM_GET_MSRS, M | V, 0},
	{KVM_SET_MSRS, M | V, 0},
	{KVM_GET_FPU, M, 0},
	{KVM_SET_FPU, M, 0},
	{KVM_GET_LAPIC, M | V, 0},
	{KVM_SET_LAPIC, M | V, 0},
	{KVM_GET_XSAVE, M, 0},
	{KVM_GET_XSAVE2, M, 0},
	{KVM_SET_XSAVE, M, 0},
	{KVM_GET_XCRS, M, 0},
	{KVM_SET_XCRS, M, 0},
	{KVM_GET_DEBUGREGS, M, 0},
	{KVM_SET_DEBUGREGS, M, 0},
	{KVM_GET_MP_STATE, M | V, 0},
	{KVM_SET_MP_STATE, M | V, 0},
	{KVM_GET_VCPU_EVENTS, M | V, 0},
	{KVM_SET_VCPU_EVENTS, M | V, 0},
	{KVM_GET_TSC_KHZ, M, 0},
	{KVM_SET_TSC_KHZ, M, 0},
	{KVM_GET_NESTED_STATE, M, 0},
	{KVM_SET_NESTED_STATE, M, 0},
	{KVM_SMI, M | V, 0},

	{TUNSETOFFLOAD, M | V | L, 0},
	{TUNSETVNETHDRSZ, M | V | L, 0},
	{TUNSETQUEUE, M | V | L, 0},

	{FICLONERANGE, M | L, 0},
	{FIDEDUPERANGE, M | L, BLK_NEEDS_FILES}, /* what a path that came back can do */
	{SIOCGIFINDEX, M | L,
		BLK_NEEDS_NETWORK}, /* fe80::1%eth0, as a name server has it */
	/* Of a file that is made, or opened, while the machine runs. */
	{FS_IOC_GETFLAGS, M | L, 0},
	{FS_IOC_SETFLAGS, M | L, 0},
	{FS_IOC_FSGETXATTR, M | L, 0},
	{FS_IOC_FSSETXATTR, M | L, 0},
	{BLKGETSIZE64, ALL, 0},
	{BLKSSZGET, M | L, 0},
	{BLKROGET, M | L, 0},
	{BLKDISCARD, ALL, 0},
	{BLKZEROOUT, ALL, 0},
	{FIONREAD, M | L | C, 0},
	{FIONBIO, M | L | C, 0},
	{SG_IO, M | L, BLK_NEEDS_RIGHTS | BLK_NEEDS_FILES},
	{IOC_PR_REGISTER, M | L, BLK_NEEDS_RIGHTS | BLK_NEEDS_FILES},
	{IOC_PR_RESERVE, M | L, BLK_NEEDS_RIGHTS | BLK_NEEDS_FILES},
	{IOC_PR_RELEASE, M | L, BLK_NEEDS_RIGHTS | BLK_NEEDS_FILES},
	{IOC_PR_PREEMPT, M | L, BLK_NEEDS_RIGHTS | BLK_NEEDS_FILES},
	{IOC_PR_PREEMPT_ABORT, M | L, BLK_NEEDS_RIGHTS | BLK_NEEDS_FILES},
	{IOC_PR_CLEAR, M | L, BLK_NEEDS_RIGHTS | BLK_NEEDS_FILES},

	{TCGETS, ALL, 0},
	{TCSETS, M | C, 0},
	{TIOCGWINSZ, M | C, 0},
};
#define VHOST_TYPE 0xafu /* of all of vhost's */

/* ---- writing a program ----------------------------------------------------------- */

struct writer {
	struct seccomp_program *p;
	const struct seccomp_rules *rules;
	enum confine_kind kind;
	uint32_t refusal; /* what becomes of what is not allowed */
};

#define RET_ERRNO(e) (SECCOMP_RET_ERRNO | (uint32_t)(e))

static void put(struct writer *w, uint16_t code, uint32_t k, uint8_t yes, uint8_t no)
{
	assert(w->p->n < SECCOMP_PROGRAM_MAX);
	w->p->code[w->p->n++] = (struct sock_filter){code, yes, no, k};
}

static void load(struct writer *w, size_t offset)
{
	put(w, BPF_LD | BPF_W | BPF_ABS, (uint32_t)offset, 0, 0);
}

/* The low or high half of an argument. */
static void load_argument(struct writer *w, unsigned i, bool high)
{
	load(w, offsetof(struct seccomp_data, args) + 8 * i + (high ? 4 : 0));
}

static void ret(struct writer *w, uint32_t what)
{
	put(w, BPF_RET | BPF_K, what, 0, 0);
}

static void ret_if_equal(struct writer *w, uint32_t k, uint32_t what)
{
	put(w, BPF_JMP | BPF_JEQ | BPF_K, k, 0, 1);
	ret(w, what);
}

static void ret_unless_equal(struct writer *w, uint32_t k, uint32_t what)
{
	put(w, BPF_JMP | BPF_JEQ | BPF_K, k, 1, 0);
	ret(w, what);
}

static bool is_for(const struct writer *w, unsigned kinds)
{
	return kinds >> w->kind & 1;
}

/* What was not asked for is an error to whoever does it, for an image that is added later, and not the
 * machine's end. */
static uint32_t answer(const struct writer *w, unsigned needs)
{
	if (!needs || (needs & w->rules->needs))
		return SECCOMP_RET_ALLOW;
	return w->rules->filter == CONFINE_FILTER_LOG ? SECCOMP_RET_LOG
						      : RET_ERRNO(EPERM);
}

static void write_thread_check(struct writer *w)
{
	const uint32_t all =
		CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD;

	load_argument(w, 0, false);
	put(w, BPF_ALU | BPF_AND | BPF_K, all, 0, 0);
	ret_if_equal(w, all, SECCOMP_RET_ALLOW);
}

static void write_check(struct writer *w, enum check check)
{
	static const uint32_t families[] = {AF_UNIX, AF_INET, AF_INET6, AF_NETLINK};

	switch (check) {
	case ANYHOW:
		ret(w, SECCOMP_RET_ALLOW);
		break;
	case NOT_THERE:
		ret(w, RET_ERRNO(ENOSYS));
		break;
	case OPENING:
		ret(w, w->rules->may_open && w->kind != CONFINE_VCPU ? SECCOMP_RET_ALLOW
								     : RET_ERRNO(EACCES));
		break;
	case NOT_EXEC:
		load_argument(w, 2, false);
		put(w, BPF_JMP | BPF_JSET | BPF_K, PROT_EXEC, 1, 0);
		ret(w, SECCOMP_RET_ALLOW);
		break;
	case THREAD:
		write_thread_check(w);
		break;
	case OURSELVES:
		load_argument(w, 0, false);
		ret_if_equal(w, (uint32_t)getpid(), SECCOMP_RET_ALLOW);
		break;
	case READING:
		load_argument(w, 2, true);
		ret_unless_equal(w, 0, w->refusal);
		load_argument(w, 2, false);
		ret_if_equal(w, 0, SECCOMP_RET_ALLOW);
		break;
	case NAMING:
		load_argument(w, 0, false);
		ret_if_equal(w, PR_SET_NAME, SECCOMP_RET_ALLOW);
		ret_if_equal(w, PR_SET_VMA, SECCOMP_RET_ALLOW);
		break;
	case ADDRESSES:
		load_argument(w, 0, false);
		for (size_t i = 0; i < ARRAY_LEN(families); i++)
			ret_if_equal(w, families[i], SECCOMP_RET_ALLOW);
		break;
	}
	ret(w, w->refusal);
}

/* "Not this call" jumps over the check, whose length is known when it has been written. */
static void write_call(struct writer *w, const struct call *c)
{
	unsigned at = w->p->n, length;

	put(w, BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)c->nr, 0, 0);
	write_check(w, c->check);
	length = w->p->n - at - 1;
	assert(length <= UINT8_MAX);
	w->p->code[at].jf = (uint8_t)length;
}

static void write_commands(struct writer *w)
{
	load_argument(w, 1, false);
	for (size_t i = 0; i < ARRAY_LEN(commands); i++)
		if (is_for(w, commands[i].kinds))
			ret_if_equal(
				w, commands[i].request, answer(w, commands[i].needs));
	if (w->kind != CONFINE_CONSOLE) {
		put(w, BPF_ALU | BPF_RSH | BPF_K, _IOC_TYPESHIFT, 0, 0);
		put(w, BPF_ALU | BPF_AND | BPF_K, _IOC_TYPEMASK, 0, 0);
		ret_if_equal(w, VHOST_TYPE, SECCOMP_RET_ALLOW);
	}
	ret(w, w->refusal);
}

/* The commands are more than a conditional jump reaches over, so one without a condition
 * does. */
static void write_ioctl(struct writer *w)
{
	unsigned over;

	put(w, BPF_JMP | BPF_JEQ | BPF_K, SYS_ioctl, 1, 0);
	over = w->p->n;
	put(w, BPF_JMP | BPF_JA, 0, 0, 0);
	write_commands(w);
	w->p->code[over].k = w->p->n - over - 1;
}

void seccomp_build(struct seccomp_program *p, enum confine_kind kind,
	const struct seccomp_rules *rules)
{
	struct writer w = {.p = p,
		.rules = rules,
		.kind = kind,
		.refusal = rules->filter == CONFINE_FILTER_LOG
				   ? SECCOMP_RET_LOG
				   : SECCOMP_RET_KILL_PROCESS};

	p->n = 0;
	load(&w, offsetof(struct seccomp_data, arch));
	ret_unless_equal(&w, AUDIT_ARCH_X86_64, SECCOMP_RET_KILL_PROCESS);
	load(&w, offsetof(struct seccomp_data, nr));
	put(&w, BPF_JMP | BPF_JSET | BPF_K, X32_BIT, 0, 1);
	ret(&w, SECCOMP_RET_KILL_PROCESS);
	write_ioctl(&w);
	for (size_t i = 0; i < ARRAY_LEN(calls); i++) {
		if (!is_for(&w, calls[i].kinds))
			continue;
		if (answer(&w, calls[i].needs) == SECCOMP_RET_ALLOW)
			write_call(&w, &calls[i]);
		else
			ret_if_equal(
				&w, (uint32_t)calls[i].nr, answer(&w, calls[i].needs));
	}
	ret(&w, w.refusal);
}

int seccomp_install(const struct seccomp_program *p, bool all_threads)
{
	struct sock_fprog program = {p->n, (struct sock_filter *)(uintptr_t)p->code};
	long ret = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
		all_threads ? SECCOMP_FILTER_FLAG_TSYNC : 0, &program);

	/* A thread that could not be brought in line is its number. */
	return ret < 0 ? -errno : ret > 0 ? -EBUSY : 0;
}
