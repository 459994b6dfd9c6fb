/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the programs that run inside a guest share. They are static and have nothing of Byre's in them,
 * so that an initramfs can hold them; the same programs look at the disk from outside
 * afterwards.
 */
#ifndef BYRE_TESTS_GUEST_SUPPORT_H
#define BYRE_TESTS_GUEST_SUPPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SECTOR_BYTES 512u

/* Prints what went wrong and where, and ends with 1. */
void die(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

uint64_t number(const char *text);

/* A device or a file, past the page cache where it can be; its size. */
int disk_open(const char *name, bool write, uint64_t *bytes);

void *buffer(size_t bytes);

/* Fills whole sectors, each of its own kind: the key and its place are in every word. */
void pattern_fill(void *buf, size_t bytes, uint64_t key);
/* The first byte that is not so; bytes where all are. */
size_t pattern_differs(const void *buf, size_t bytes, uint64_t key);

double seconds(void);

#endif
