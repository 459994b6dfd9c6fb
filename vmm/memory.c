/* SPDX-License-Identifier: BSD-2-Clause */
/* Guest memory. See memory.h. */
#include "vmm/memory.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <linux/mempolicy.h>

#include "base/math.h"

#define HUGE_BYTES (2u << 20)
#define PAGE_BYTES 4096u

/* Before the first page is touched. */
static int bind(void *host, uint64_t bytes, uint64_t nodes, struct err *err)
{
	if (syscall(SYS_mbind, host, bytes, MPOL_BIND, &nodes, sizeof(nodes) * 8 + 1,
		    0) == 0)
		return 0;
	return err_errno(err, errno,
		"cannot bind the guest's memory to NUMA nodes 0x%llx",
		(unsigned long long)nodes);
}

/* As MAP_POPULATE does it, but after the pages' nodes are known. */
static int populate(void *host, uint64_t bytes, struct err *err)
{
	if (madvise(host, bytes, MADV_POPULATE_WRITE) == 0)
		return 0;
	if (errno != EINVAL)
		return err_errno(err, errno,
			"%llu MiB of the guest's memory cannot be had",
			(unsigned long long)(bytes >> 20));
	for (uint64_t at = 0; at < bytes; at += 4096) /* before Linux 5.14 */
		((volatile uint8_t *)host)[at] = 0;
	return 0;
}

static bool is_populated(const struct memory_options *o)
{
	return o->prealloc || (o->huge && o->nodes);
}

static int map_region(struct memory *m, uint64_t base, uint64_t bytes,
	const struct memory_options *o, struct err *err)
{
	int flags = MAP_PRIVATE | MAP_ANONYMOUS;
	void *host;
	int ret;

	if (o->huge)
		flags |= MAP_HUGETLB | (21 << MAP_HUGE_SHIFT);
	/* A huge page that is not there when it is touched is no error but the end (SIGBUS).
	 * They are reserved, but only of all nodes together. */
	if (!o->prealloc && !o->huge)
		flags |= MAP_NORESERVE;
	host = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
	if (host == MAP_FAILED)
		return err_errno(err, errno,
			"cannot map %llu MiB of %smemory for the guest",
			(unsigned long long)(bytes >> 20), o->huge ? "huge-page " : "");
	if (!o->huge)
		madvise(host, bytes, MADV_HUGEPAGE);
	if (o->mergeable)
		madvise(host, bytes, MADV_MERGEABLE);
	madvise(host, bytes, MADV_DONTDUMP);
	madvise(host, bytes, MADV_DONTFORK); /* children would have what changes copied */
	m->region[m->n++] = (struct memory_region){base, bytes, host};
	ret = o->nodes ? bind(host, bytes, o->nodes, err) : 0;
	return ret || !is_populated(o) ? ret : populate(host, bytes, err);
}

int memory_new(struct memory *m, const struct memory_options *o, struct err *err)
{
	uint64_t low = MIN(o->bytes, MEMORY_HOLE_START);
	int ret;

	*m = (struct memory){.page_bytes = o->huge ? HUGE_BYTES : PAGE_BYTES};
	if (o->bytes < MEMORY_MIN || o->bytes > MEMORY_MAX || o->bytes % HUGE_BYTES)
		return err_set(err, EINVAL,
			"the guest's memory has to be a multiple of 2 MiB from %llu MiB "
			"to "
			"%llu GiB",
			MEMORY_MIN >> 20, MEMORY_MAX >> 30);
	ret = map_region(m, 0, low, o, err);
	if (ret == 0 && o->bytes > low)
		ret = map_region(m, MEMORY_HOLE_END, o->bytes - low, o, err);
	if (ret)
		memory_free(m);
	return ret;
}

void memory_free(struct memory *m)
{
	for (unsigned i = 0; i < m->n; i++)
		munmap(m->region[i].host, m->region[i].bytes);
	m->n = 0;
}

void *memory_at(const struct memory *m, uint64_t address, uint64_t bytes)
{
	for (unsigned i = 0; i < m->n; i++) {
		const struct memory_region *r = &m->region[i];

		if (address >= r->base &&
			range_inside(address - r->base, bytes, r->bytes))
			return r->host + (address - r->base);
	}
	return NULL;
}

uint64_t memory_address(const struct memory *m, const void *host)
{
	for (unsigned i = 0; i < m->n; i++) {
		uint64_t from = (uintptr_t)host - (uintptr_t)m->region[i].host;

		if (from < m->region[i].bytes)
			return m->region[i].base + from;
	}
	assert(!"RAM");
	return 0;
}

void memory_discard(const struct memory *m, void *host, uint64_t bytes)
{
	uintptr_t from = round_up((uintptr_t)host, m->page_bytes),
		  to = round_down((uintptr_t)host + bytes, m->page_bytes);

	if (from < to)
		madvise((void *)from, to - from, MADV_DONTNEED);
}

uint64_t memory_bytes(const struct memory *m)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < m->n; i++)
		n += m->region[i].bytes;
	return n;
}
