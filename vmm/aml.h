/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * ACPI Machine Language, as much of it as this board's DSDT is made of (ACPI 6.4, 20). Code
 * goes into a buffer of a fixed size; what does not fit marks it full.
 *
 * A block (scope, device, package, buffer) is begun, filled and ended; its length is put in
 * afterwards, always in the longest form.
 */
#ifndef BYRE_VMM_AML_H
#define BYRE_VMM_AML_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct aml {
	uint8_t *data;
	size_t bytes, room;
	bool full;
};

typedef size_t aml_mark;

void aml_bytes(struct aml *a, const void *data, size_t bytes);
void aml_byte(struct aml *a, uint8_t b);
void aml_integer(struct aml *a, uint64_t n);
void aml_name(struct aml *a, const char *name); /* Name(name, …): the object follows */
void aml_eisa_id(struct aml *a, const char *id); /* "PNP0A03" as an integer */

/* Code. */
aml_mark aml_begin_method(struct aml *a, const char *name, unsigned args);
/* Ports as a region, and the 32-bit fields that make it up (19.6.100, 19.6.46). */
void aml_io_region(struct aml *a, const char *name, uint16_t base, uint8_t ports);
void aml_dword_fields(struct aml *a, const char *region, const char *const *names, unsigned n);
void aml_arg(struct aml *a, unsigned n);
void aml_reference(struct aml *a, const char *name); /* of a method it is a call: arguments follow */
/* If ((Arg0 & mask) != 0) { … }: ended by aml_end. */
aml_mark aml_begin_if_arg_has(struct aml *a, unsigned arg, uint32_t mask);
/* Notify (device, Arg…), and name = value. */
void aml_notify_arg(struct aml *a, const char *device, unsigned arg);
void aml_store(struct aml *a, uint64_t value, const char *name);

aml_mark aml_begin_scope(struct aml *a, const char *name);
aml_mark aml_begin_device(struct aml *a, const char *name);
aml_mark aml_begin_package(struct aml *a, uint8_t elements);
void aml_end(struct aml *a, aml_mark block);

/* Resource templates (6.4). */
aml_mark aml_begin_resources(struct aml *a);
void aml_io(struct aml *a, uint16_t base, uint8_t ports);
void aml_irq(struct aml *a, unsigned line);
void aml_bus_range(struct aml *a, uint16_t first, uint16_t last);
void aml_io_window(struct aml *a, uint16_t first, uint16_t last);
void aml_memory_window(struct aml *a, uint32_t first, uint32_t last);
void aml_end_resources(struct aml *a, aml_mark block);

#endif
