/* SPDX-License-Identifier: BSD-2-Clause */
/* What tests and tools may ask of RAM disks besides opening them; see mem.c. */
#ifndef BYRE_BACKENDS_MEM_H
#define BYRE_BACKENDS_MEM_H

#include <stdint.h>

#include "base/err.h"

/* Bytes of pages a named segment has; 0 where there is none of that name. */
uint64_t mem_pages_bytes(const char *name);
/* Makes `to` a copy of `from`, replacing what it was; neither may be open for writing.
 * -ENOENT where there is no `from`. */
int mem_copy(const char *from, const char *to);
/* Forgets a named segment; nodes that have it open keep it until they close. */
void mem_drop(const char *name);

#endif
