/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Stacks and the switch between them: all that depends on the processor, and all that
 * sanitizers and valgrind must be told, is in this file.
 *
 * A switch saves what the ABI says a callee keeps, on the stack that is left, and nothing
 * else. The floating-point control words are such too, but nothing here changes them.
 * A task never changes thread, so thread-local storage needs no care.
 *
 * A stack is one mapping: a guard page, the stack growing down to it, and struct task on
 * top, where an overflow does not reach it. Ended tasks leave their mappings to a cache
 * of bounded size: a new mapping costs two system calls and the page faults of its first
 * use.
 */
#include <assert.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/loop_impl.h"
#include "base/math.h"

#ifdef HAVE_VALGRIND
#include <valgrind/valgrind.h>
#endif

#ifdef __has_feature
#if __has_feature(address_sanitizer)
#define CTX_ASAN 1
#endif
#if __has_feature(thread_sanitizer)
#define CTX_TSAN 1
#endif
#endif
#ifdef __SANITIZE_ADDRESS__
#define CTX_ASAN 1
#endif
#ifdef __SANITIZE_THREAD__
#define CTX_TSAN 1
#endif

#ifdef CTX_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#include <sanitizer/lsan_interface.h>
/* Redzones around every variable: frames are a few times larger. */
#define STACK_BYTES (4 * TASK_STACK_BYTES)
#else
#define STACK_BYTES TASK_STACK_BYTES
#endif
#ifdef CTX_TSAN
#include <sanitizer/tsan_interface.h>
#endif

/* Saves the context on the stack and its place in *from_sp, then goes on where to_sp was
 * saved. */
void byre_ctx_swap(void **from_sp, void *to_sp) __attribute__((visibility("hidden")));
/* Where a new context begins. */
void byre_ctx_first(void) __attribute__((visibility("hidden")));

#if defined(__x86_64__)

/* Popped by byre_ctx_swap, lowest address first. */
struct frame {
	uint64_t r15, r14, entry /* r13 */, arg /* r12 */, rbx, rbp, ret;
};

__asm__(".text\n"
	".p2align 4\n"
	".globl byre_ctx_swap\n"
	".hidden byre_ctx_swap\n"
	".type byre_ctx_swap, %function\n"
	"byre_ctx_swap:\n"
	"	.cfi_startproc\n"
	"	endbr64\n"
	"	pushq %rbp\n"
	"	pushq %rbx\n"
	"	pushq %r12\n"
	"	pushq %r13\n"
	"	pushq %r14\n"
	"	pushq %r15\n"
	"	movq %rsp, (%rdi)\n"
	"	movq %rsi, %rsp\n"
	"	popq %r15\n"
	"	popq %r14\n"
	"	popq %r13\n"
	"	popq %r12\n"
	"	popq %rbx\n"
	"	popq %rbp\n"
	"	ret\n"
	"	.cfi_endproc\n"
	".size byre_ctx_swap, .-byre_ctx_swap\n"
	".globl byre_ctx_first\n"
	".hidden byre_ctx_first\n"
	".type byre_ctx_first, %function\n"
	"byre_ctx_first:\n"
	"	.cfi_startproc\n"
	"	.cfi_undefined %rip\n" /* backtraces end here */
	"	movq %r12, %rdi\n"
	"	call *%r13\n"
	"	ud2\n"
	"	.cfi_endproc\n"
	".size byre_ctx_first, .-byre_ctx_first\n");

#elif defined(__aarch64__)

struct frame {
	uint64_t arg /* x19 */, entry /* x20 */, x21_to_x28[8], x29, ret /* x30 */;
	uint64_t d8_to_d15[8];
};

__asm__(".text\n"
	".p2align 4\n"
	".globl byre_ctx_swap\n"
	".hidden byre_ctx_swap\n"
	".type byre_ctx_swap, %function\n"
	"byre_ctx_swap:\n"
	"	.cfi_startproc\n"
	"	hint #34\n" /* bti c */
	"	sub sp, sp, #160\n"
	"	stp x19, x20, [sp]\n"
	"	stp x21, x22, [sp, #16]\n"
	"	stp x23, x24, [sp, #32]\n"
	"	stp x25, x26, [sp, #48]\n"
	"	stp x27, x28, [sp, #64]\n"
	"	stp x29, x30, [sp, #80]\n"
	"	stp d8, d9, [sp, #96]\n"
	"	stp d10, d11, [sp, #112]\n"
	"	stp d12, d13, [sp, #128]\n"
	"	stp d14, d15, [sp, #144]\n"
	"	mov x9, sp\n"
	"	str x9, [x0]\n"
	"	mov sp, x1\n"
	"	ldp x19, x20, [sp]\n"
	"	ldp x21, x22, [sp, #16]\n"
	"	ldp x23, x24, [sp, #32]\n"
	"	ldp x25, x26, [sp, #48]\n"
	"	ldp x27, x28, [sp, #64]\n"
	"	ldp x29, x30, [sp, #80]\n"
	"	ldp d8, d9, [sp, #96]\n"
	"	ldp d10, d11, [sp, #112]\n"
	"	ldp d12, d13, [sp, #128]\n"
	"	ldp d14, d15, [sp, #144]\n"
	"	add sp, sp, #160\n"
	"	ret\n"
	"	.cfi_endproc\n"
	".size byre_ctx_swap, .-byre_ctx_swap\n"
	".globl byre_ctx_first\n"
	".hidden byre_ctx_first\n"
	".type byre_ctx_first, %function\n"
	"byre_ctx_first:\n"
	"	.cfi_startproc\n"
	"	.cfi_undefined x30\n"
	"	mov x0, x19\n"
	"	blr x20\n"
	"	brk #1\n"
	"	.cfi_endproc\n"
	".size byre_ctx_first, .-byre_ctx_first\n");

#else
#error "base/switch.c knows x86-64 and aarch64"
#endif

/* One mapping. In the cache it is linked through task.next. */
struct stack {
	char *map; /* the guard page */
	size_t map_bytes;
	unsigned valgrind_id;
	struct task task;
};

/* Enough for the deepest queue of one image on each of a few loops; a cached stack keeps
 * the 8 to 16 KiB that its tasks touched. */
#define STACKS_CACHED 256

static struct {
	pthread_mutex_t lock;
	struct task *free;
	unsigned len;
} cache = {.lock = PTHREAD_MUTEX_INITIALIZER};

static struct stack *stack_of(struct task *t)
{
	return container_of(t, struct stack, task);
}

static struct task *stack_map(void)
{
	size_t guard = (size_t)sysconf(_SC_PAGESIZE);
	size_t bytes = guard + STACK_BYTES;
	char *map = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK | MAP_NORESERVE, -1, 0);

	if (map == MAP_FAILED)
		return NULL;
	if (mprotect(map, guard, PROT_NONE)) {
		munmap(map, bytes);
		return NULL;
	}

	uintptr_t top = (uintptr_t)map + bytes - sizeof(struct stack);
	struct stack *s = (struct stack *)round_down(top, 64);
	s->map = map;
	s->map_bytes = bytes;
	s->task.ctx.stack_bottom = map + guard;
	s->task.ctx.stack_bytes = (size_t)((char *)s - (map + guard));
#ifdef CTX_ASAN
	__lsan_register_root_region(map + guard, STACK_BYTES);
#endif
#ifdef HAVE_VALGRIND
	s->valgrind_id = VALGRIND_STACK_REGISTER(map + guard, s);
#endif
	return &s->task;
}

static void stack_unmap(struct task *t)
{
	struct stack *s = stack_of(t);

#ifdef CTX_ASAN
	__lsan_unregister_root_region(t->ctx.stack_bottom, STACK_BYTES);
#endif
#ifdef HAVE_VALGRIND
	VALGRIND_STACK_DEREGISTER(s->valgrind_id);
#endif
	munmap(s->map, s->map_bytes);
}

static struct task *cache_take(void)
{
	pthread_mutex_lock(&cache.lock);
	struct task *t = cache.free;
	if (t) {
		cache.free = t->next;
		cache.len--;
	}
	pthread_mutex_unlock(&cache.lock);
	return t;
}

static bool cache_give(struct task *t)
{
	pthread_mutex_lock(&cache.lock);
	bool room = cache.len < STACKS_CACHED;
	if (room) {
		t->next = cache.free;
		cache.free = t;
		cache.len++;
	}
	pthread_mutex_unlock(&cache.lock);
	return room;
}

/* The first function on every task's stack. */
static void ctx_entered(struct task *t)
{
#ifdef CTX_ASAN
	__sanitizer_finish_switch_fiber(NULL, NULL, NULL);
#endif
	task_main(t);
}

struct task *task_alloc(void)
{
	struct task *t = cache_take();

	if (!t && !(t = stack_map()))
		return NULL;

	/* The frame ends at the stack's 64-byte aligned end, as the ABIs want it. */
	struct frame *f = (struct frame *)stack_of(t) - 1;
	memset(f, 0, sizeof(*f));
	f->ret = (uintptr_t)byre_ctx_first;
	f->entry = (uintptr_t)ctx_entered;
	f->arg = (uintptr_t)t;
	t->ctx.sp = f;
	t->ctx.fake_stack = NULL;
#ifdef CTX_TSAN
	t->ctx.fiber = __tsan_create_fiber(0);
#endif
	return t;
}

void task_free(struct task *t)
{
#ifdef CTX_TSAN
	__tsan_destroy_fiber(t->ctx.fiber);
#endif
#ifdef CTX_ASAN
	/* The last frames did not return and left their redzones poisoned. */
	__asan_unpoison_memory_region(t->ctx.stack_bottom, t->ctx.stack_bytes);
#endif
	if (!cache_give(t))
		stack_unmap(t);
}

bool ctx_on_valgrind(void)
{
#ifdef HAVE_VALGRIND
	return RUNNING_ON_VALGRIND;
#else
	return false;
#endif
}

void ctx_init_thread(struct ctx *c)
{
	memset(c, 0, sizeof(*c));
#ifdef CTX_ASAN
	pthread_attr_t attr;
	void *bottom;

	int ret = pthread_getattr_np(pthread_self(), &attr);
	assert(!ret);
	pthread_attr_getstack(&attr, &bottom, &c->stack_bytes);
	pthread_attr_destroy(&attr);
	c->stack_bottom = bottom;
#endif
#ifdef CTX_TSAN
	c->fiber = __tsan_get_current_fiber();
#endif
}

void ctx_switch(struct ctx *from, struct ctx *to)
{
#ifdef CTX_ASAN
	__sanitizer_start_switch_fiber(
		&from->fake_stack, to->stack_bottom, to->stack_bytes);
#endif
#ifdef CTX_TSAN
	__tsan_switch_to_fiber(to->fiber, 0);
#endif
	byre_ctx_swap(&from->sp, to->sp);
#ifdef CTX_ASAN
	__sanitizer_finish_switch_fiber(from->fake_stack, NULL, NULL);
#endif
}

void ctx_leave(struct ctx *from, struct ctx *to)
{
#ifdef CTX_ASAN
	__sanitizer_start_switch_fiber(NULL, to->stack_bottom, to->stack_bytes);
#endif
#ifdef CTX_TSAN
	__tsan_switch_to_fiber(to->fiber, 0);
#endif
	byre_ctx_swap(&from->sp, to->sp);
	__builtin_unreachable();
}
