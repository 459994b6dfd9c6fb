/* SPDX-License-Identifier: BSD-2-Clause */
/* Sizes and numbers as people and qemu-img write them. */
#ifndef BYRE_BASE_SIZE_H
#define BYRE_BASE_SIZE_H

#include <stddef.h>
#include <stdint.h>

/* "512", "64k", "1.5G", "0x10000": suffixes b k K M G T P E are powers of 1024; without one
 * the unit is default_suffix ('B' for bytes). -EINVAL for nonsense, -ERANGE above
 * INT64_MAX. `end` NULL: the whole text must be a size. */
int size_parse(const char *text, char default_suffix, const char **end, uint64_t *out_bytes);

/* As qemu-img prints sizes: "1.5 GiB", "512 B", three significant digits. Returns buf. */
char *size_human(char *buf, size_t buf_bytes, uint64_t bytes);

/* A whole decimal, hexadecimal (0x) number; -EINVAL, -ERANGE. */
int u64_parse(const char *text, uint64_t *out);

#endif
