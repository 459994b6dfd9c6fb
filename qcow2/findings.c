/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a check has to say. Tables are read in no order, so findings are kept, sorted when a
 * step ends, and only then put into words.
 */
#include "qcow2/check.h"

#include <stdarg.h>
#include <stdio.h>

/* Findings told one by one in each step; the others are counted and summed up in a line.
 */
#define MAX_FINDINGS (256u << 10)

void check_found(struct check *c, enum finding_kind kind, uint64_t key, uint64_t x,
	uint64_t y, uint64_t z)
{
	struct finding *v;

	if (!c->out->report)
		return;
	if (c->n_found == c->cap_found) {
		size_t cap = c->cap_found ? c->cap_found * 2 : 256;

		v = cap <= MAX_FINDINGS ? realloc(c->found, cap * sizeof(*v)) : NULL;
		if (!v) {
			c->n_untold++;
			return;
		}
		c->found = v;
		c->cap_found = cap;
	}
	c->found[c->n_found] = (struct finding){key, c->n_found, x, y, z, kind};
	c->n_found++;
}

void check_say(struct check *c, bool error, const char *fmt, ...)
{
	char line[512];
	va_list ap;

	if (!c->out->report)
		return;
	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	c->out->report(c->out->arg, error, line);
}

static const char *kind_name(uint64_t kind)
{
	static const char *const names[] = {
		[QCOW2_DATA] = "data",
		[QCOW2_K_HEADER] = "header",
		[QCOW2_K_L1] = "active L1 table",
		[QCOW2_K_L2] = "L2 table",
		[QCOW2_K_REFTABLE] = "refcount table",
		[QCOW2_K_REFBLOCK] = "refcount block",
		[QCOW2_K_SNAPSHOTS] = "snapshot table",
		[QCOW2_K_SNAPSHOT_L1] = "inactive L1 table",
		[QCOW2_K_LUKS] = "encryption header",
		[QCOW2_K_BITMAPS] = "bitmaps",
	};

	return names[kind];
}

static void tell_table(struct check *c, const struct finding *f)
{
	switch (f->kind) {
	case FOUND_PAST_END:
		check_say(c, true,
			"ERROR: counting reference for region exceeding the end of the "
			"file by one cluster or more: offset 0x%" PRIx64
			" size 0x%" PRIx64,
			f->a, f->b);
		break;
	case FOUND_L1_RESERVED:
		check_say(c, true,
			"ERROR found L1 entry with reserved bits set: %" PRIx64, f->a);
		break;
	case FOUND_L1_UNALIGNED:
		check_say(c, true,
			"ERROR l2_offset=%" PRIx64
			": Table is not cluster aligned; L1 entry corrupted",
			f->a);
		break;
	case FOUND_L1_NOWHERE:
		check_say(c, true,
			"ERROR found L1 entry with flags but no L2 table: %" PRIx64,
			f->a);
		break;
	case FOUND_REFT_RESERVED:
		check_say(c, true,
			"ERROR refcount table entry %" PRIu64 " has reserved bits set",
			f->a);
		break;
	case FOUND_REFBLOCK_UNALIGNED:
		check_say(c, true,
			"ERROR refcount block %" PRIu64
			" is not cluster aligned; refcount table entry corrupted",
			f->a);
		break;
	case FOUND_REFBLOCK_OUTSIDE:
		check_say(c, true, "ERROR refcount block %" PRIu64 " is outside image",
			f->a);
		break;
	case FOUND_REFBLOCK_SHARED:
		check_say(c, true, "ERROR refcount block %" PRIu64 " refcount=%" PRIu64,
			f->a, f->b);
		break;
	default:
		check_say(c, true,
			"ERROR cluster %" PRIu64 " is used by the %s and the %s at once",
			f->a, kind_name(f->b), kind_name(f->c));
		break;
	}
}

static void tell_entry(struct check *c, const struct finding *f)
{
	switch (f->kind) {
	case FOUND_L2_RESERVED:
		check_say(c, true,
			"ERROR found l2 entry with reserved bits set: %" PRIx64, f->a);
		break;
	case FOUND_DATA_UNALIGNED:
		check_say(c, true,
			"ERROR offset=%" PRIx64
			": Data cluster is not properly aligned; L2 entry corrupted.",
			f->a);
		break;
	case FOUND_PREALLOC_UNALIGNED:
	case FIXED_PREALLOC_UNALIGNED:
		check_say(c, f->kind == FOUND_PREALLOC_UNALIGNED,
			"%s offset=%" PRIx64 ": Preallocated cluster is not properly "
			"aligned; L2 entry corrupted.",
			f->kind == FOUND_PREALLOC_UNALIGNED ? "ERROR" : "Repairing",
			f->a);
		break;
	case FOUND_BITMAP_BAD:
		check_say(c, true,
			"ERROR offset=%" PRIx64
			": Allocated cluster has corrupted subcluster allocation bitmap",
			f->a);
		break;
	case FOUND_BITMAP_UNALLOCATED:
		check_say(c, true,
			"ERROR: Unallocated cluster has non-zero subcluster allocation "
			"map");
		break;
	case FOUND_BITMAP_COMPRESSED:
		check_say(c, true,
			"ERROR compressed cluster %" PRIu64
			" with non-zero subcluster allocation bitmap, entry=0x%" PRIx64,
			f->a, f->b);
		break;
	case FOUND_COMPRESSED_DATA_FILE:
		check_say(c, true,
			"ERROR compressed cluster %" PRIu64
			" with data file, entry=0x%" PRIx64,
			f->a, f->b);
		break;
	default:
		check_say(c, true,
			"ERROR guest offset=%" PRIx64 ": data file offset=%" PRIx64
			" is another",
			f->a, f->b);
		break;
	}
}

static void tell_count(struct check *c, const struct finding *f)
{
	const char *verb = f->kind == FIXED_REFCOUNT || f->kind == FIXED_L2_COPIED ||
					   f->kind == FIXED_DATA_COPIED ||
					   f->kind == FIXED_COMPRESSED_COPIED
				   ? "Repairing"
				   : "ERROR";
	bool error = *verb == 'E';

	switch (f->kind) {
	case FOUND_REFCOUNT_HIGH:
		check_say(c, false,
			"Leaked cluster %" PRIu64 " refcount=%" PRIu64
			" reference=%" PRIu64,
			f->a, f->b, f->c);
		break;
	case FOUND_REFCOUNT_LOW:
	case FIXED_REFCOUNT:
		check_say(c, error,
			"%s cluster %" PRIu64 " refcount=%" PRIu64 " reference=%" PRIu64,
			verb, f->a, f->b, f->c);
		break;
	case FOUND_L2_COPIED:
	case FIXED_L2_COPIED:
		check_say(c, error,
			"%s OFLAG_COPIED L2 cluster: l1_index=%" PRIu64
			" l1_entry=%" PRIx64 " refcount=%" PRIu64,
			verb, f->a, f->b, f->c);
		break;
	case FOUND_DATA_COPIED:
	case FIXED_DATA_COPIED:
		check_say(c, error,
			"%s OFLAG_COPIED data cluster: l2_entry=%" PRIx64
			" refcount=%" PRIu64,
			verb, f->a, f->b);
		break;
	default:
		check_say(c, error,
			"%s OFLAG_COPIED compressed cluster: l2_entry=%" PRIx64, verb,
			f->a);
		break;
	}
}

static int by_key(const void *a, const void *b)
{
	const struct finding *x = a, *y = b;

	if (x->key != y->key)
		return x->key < y->key ? -1 : 1;
	return x->seq < y->seq ? -1 : x->seq > y->seq;
}

void check_tell(struct check *c)
{
	if (c->n_found)
		qsort(c->found, c->n_found, sizeof(*c->found), by_key);
	for (size_t i = 0; i < c->n_found; i++) {
		const struct finding *f = &c->found[i];

		if (f->kind >= FOUND_REFCOUNT_LOW)
			tell_count(c, f);
		else if (f->kind >= FOUND_L2_RESERVED &&
			 f->kind <= FOUND_DATA_FILE_OFFSET)
			tell_entry(c, f);
		else
			tell_table(c, f);
	}
	if (c->n_untold)
		check_say(c, true, "%" PRIu64 " further findings are not listed",
			c->n_untold);
	c->n_found = 0;
	c->n_untold = 0;
}
