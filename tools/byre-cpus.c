/* SPDX-License-Identifier: BSD-2-Clause */
/* The processors of byre run and how they are arranged. */
#include "base/math.h"
#include "base/opts.h"
#include "tools/byre-run.h"

/* What is not told is what makes the product right; cores are what there are most of. */
static int fill_topology(uint64_t cpus, struct vm_topology *t)
{
	uint64_t told = (t->sockets ? t->sockets : 1ull) * (t->cores ? t->cores : 1ull) *
			(t->threads ? t->threads : 1ull);

	if (!cpus)
		cpus = told;
	if (cpus % told)
		return -EINVAL;
	if (!t->cores)
		t->cores = (unsigned)(cpus / told);
	else if (!t->sockets)
		t->sockets = (unsigned)(cpus / told);
	else if (!t->threads)
		t->threads = (unsigned)(cpus / told);
	t->sockets = MAX(t->sockets, 1u);
	t->threads = MAX(t->threads, 1u);
	return (uint64_t)t->sockets * t->cores * t->threads == cpus ? 0 : -EINVAL;
}

/* "4", "8,sockets=2,cores=2,threads=2" */
int run_read_topology(const char *text, struct vm_topology *t, struct err *err)
{
	struct opts *opts = opts_new();
	uint64_t cpus = 0, sockets = 0, cores = 0, threads = 0;
	int ret = opts_parse(opts, text, "cpus", err);
	bool given = opts_peek(opts, "cpus");

	ret = ret ? ret : opts_take_u64(opts, "cpus", &cpus, err);
	ret = ret ? ret : opts_take_u64(opts, "sockets", &sockets, err);
	ret = ret ? ret : opts_take_u64(opts, "cores", &cores, err);
	ret = ret ? ret : opts_take_u64(opts, "threads", &threads, err);
	ret = ret ? ret : opts_check_unused(opts, err);
	opts_free(opts);
	if (ret)
		return ret;
	if ((given && !cpus) || cpus > VM_CPUS_MAX || sockets > VM_CPUS_MAX ||
		cores > VM_CPUS_MAX || threads > VM_CPUS_MAX)
		return err_set(err, EINVAL, "1 to %u processors can be had", VM_CPUS_MAX);
	*t = (struct vm_topology){(unsigned)sockets, (unsigned)cores, (unsigned)threads};
	ret = fill_topology(cpus, t);
	return ret ? err_set(err, EINVAL,
			     "sockets, cores and threads do not make that many "
			     "processors")
		   : 0;
}
