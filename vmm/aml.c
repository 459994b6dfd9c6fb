/* SPDX-License-Identifier: BSD-2-Clause */
/* AML. See aml.h. */
#include "vmm/aml.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/endian.h"

enum {
	OP_ZERO = 0x00,
	OP_NAME = 0x08,
	OP_BYTE = 0x0a,
	OP_WORD = 0x0b,
	OP_DWORD = 0x0c,
	OP_QWORD = 0x0e,
	OP_SCOPE = 0x10,
	OP_BUFFER = 0x11,
	OP_PACKAGE = 0x12,
	OP_METHOD = 0x14,
	MULTI_NAME = 0x2f,
	OP_EXTENDED = 0x5b,
	OP_ARG0 = 0x68,
	OP_STORE = 0x70,
	OP_AND = 0x7b,
	OP_NOTIFY = 0x86,
	OP_IF = 0xa0,
	/* After OP_EXTENDED. */
	OP_REGION = 0x80,
	OP_FIELD = 0x81,
	OP_DEVICE = 0x82,
};
#define SYSTEM_IO    1
#define DWORD_ACCESS 3
#define LENGTH_BYTES 4 /* of a package length in its longest form */

void aml_bytes(struct aml *a, const void *data, size_t bytes)
{
	if (bytes > a->room - a->bytes) {
		a->full = true;
		return;
	}
	memcpy(a->data + a->bytes, data, bytes);
	a->bytes += bytes;
}

void aml_byte(struct aml *a, uint8_t b)
{
	aml_bytes(a, &b, 1);
}

static void word(struct aml *a, uint16_t n)
{
	le16 v = le16_put(n);

	aml_bytes(a, &v, sizeof(v));
}

static void dword(struct aml *a, uint32_t n)
{
	le32 v = le32_put(n);

	aml_bytes(a, &v, sizeof(v));
}

void aml_integer(struct aml *a, uint64_t n)
{
	le64 v = le64_put(n);

	if (n <= 1) {
		aml_byte(a, (uint8_t)n); /* ZeroOp, OneOp */
	} else if (n <= UINT8_MAX) {
		aml_byte(a, OP_BYTE);
		aml_byte(a, (uint8_t)n);
	} else if (n <= UINT16_MAX) {
		aml_byte(a, OP_WORD);
		word(a, (uint16_t)n);
	} else if (n <= UINT32_MAX) {
		aml_byte(a, OP_DWORD);
		dword(a, (uint32_t)n);
	} else {
		aml_byte(a, OP_QWORD);
		aml_bytes(a, &v, sizeof(v));
	}
}

static void segment(struct aml *a, const char *name, size_t bytes)
{
	char padded[4] = {'_', '_', '_', '_'};

	assert(bytes <= sizeof(padded));
	memcpy(padded, name, bytes);
	aml_bytes(a, padded, sizeof(padded));
}

/* "COM1", "\_SB" or "\_SB.PCI0.PCNT": an optional root, and segments that are padded with '_'. */
static void name_string(struct aml *a, const char *name)
{
	unsigned segments = 1;

	for (const char *p = name; *p; p++)
		segments += *p == '.';
	if (*name == '\\') {
		aml_byte(a, '\\');
		name++;
	}
	if (segments > 1) {
		aml_byte(a, MULTI_NAME);
		aml_byte(a, (uint8_t)segments);
	}
	for (;; name++) {
		size_t bytes = strcspn(name, ".");

		segment(a, name, bytes);
		name += bytes;
		if (!*name)
			break;
	}
}

void aml_name(struct aml *a, const char *name)
{
	aml_byte(a, OP_NAME);
	name_string(a, name);
}

/* Three letters of five bits, then four hexadecimal digits; big-endian (6.1.5). */
void aml_eisa_id(struct aml *a, const char *id)
{
	uint32_t n = (uint32_t)(id[0] - '@') << 26 | (uint32_t)(id[1] - '@') << 21 |
		     (uint32_t)(id[2] - '@') << 16 | (uint32_t)strtoul(id + 3, NULL, 16);

	aml_byte(a, OP_DWORD);
	dword(a, __builtin_bswap32(n));
}

/* ---- blocks ---------------------------------------------------------------------- */

static aml_mark begin(struct aml *a)
{
	aml_mark at = a->bytes;

	dword(a, 0);
	return at;
}

void aml_end(struct aml *a, aml_mark block)
{
	size_t n = a->bytes - block;

	if (a->full)
		return;
	/* Bits 6 and 7 of the first byte: three more follow, of eight bits each. */
	a->data[block] = (uint8_t)(0xc0 | (n & 0xf));
	a->data[block + 1] = (uint8_t)(n >> 4);
	a->data[block + 2] = (uint8_t)(n >> 12);
	a->data[block + 3] = (uint8_t)(n >> 20);
}

aml_mark aml_begin_scope(struct aml *a, const char *name)
{
	aml_mark at;

	aml_byte(a, OP_SCOPE);
	at = begin(a);
	name_string(a, name);
	return at;
}

aml_mark aml_begin_device(struct aml *a, const char *name)
{
	aml_mark at;

	aml_byte(a, OP_EXTENDED);
	aml_byte(a, OP_DEVICE);
	at = begin(a);
	name_string(a, name);
	return at;
}

aml_mark aml_begin_package(struct aml *a, uint8_t elements)
{
	aml_mark at;

	aml_byte(a, OP_PACKAGE);
	at = begin(a);
	aml_byte(a, elements);
	return at;
}

/* ---- code ------------------------------------------------------------------------ */

aml_mark aml_begin_method(struct aml *a, const char *name, unsigned args)
{
	aml_mark at;

	aml_byte(a, OP_METHOD);
	at = begin(a);
	name_string(a, name);
	aml_byte(a, (uint8_t)args);
	return at;
}

void aml_io_region(struct aml *a, const char *name, uint16_t base, uint8_t ports)
{
	aml_byte(a, OP_EXTENDED);
	aml_byte(a, OP_REGION);
	name_string(a, name);
	aml_byte(a, SYSTEM_IO);
	aml_integer(a, base);
	aml_integer(a, ports);
}

void aml_dword_fields(
	struct aml *a, const char *region, const char *const *names, unsigned n)
{
	aml_mark at;

	aml_byte(a, OP_EXTENDED);
	aml_byte(a, OP_FIELD);
	at = begin(a);
	name_string(a, region);
	aml_byte(a, DWORD_ACCESS);
	for (unsigned i = 0; i < n; i++) {
		name_string(a, names[i]);
		aml_byte(a, 0x40); /* 32 bits, as a length of two bytes */
		aml_byte(a, 0x02);
	}
	aml_end(a, at);
}

void aml_reference(struct aml *a, const char *name)
{
	name_string(a, name);
}

void aml_arg(struct aml *a, unsigned n)
{
	aml_byte(a, (uint8_t)(OP_ARG0 + n));
}

aml_mark aml_begin_if_arg_has(struct aml *a, unsigned arg, uint32_t mask)
{
	aml_mark at;

	aml_byte(a, OP_IF);
	at = begin(a);
	aml_byte(a, OP_AND);
	aml_arg(a, arg);
	aml_integer(a, mask);
	aml_byte(a, OP_ZERO); /* the result goes nowhere else */
	return at;
}

void aml_notify_arg(struct aml *a, const char *device, unsigned arg)
{
	aml_byte(a, OP_NOTIFY);
	name_string(a, device);
	aml_arg(a, arg);
}

void aml_store(struct aml *a, uint64_t value, const char *name)
{
	aml_byte(a, OP_STORE);
	aml_integer(a, value);
	name_string(a, name);
}

/* ---- resources ------------------------------------------------------------------- */

#define BUFFER_SIZE_BYTES 3 /* WordPrefix and a word */

/* A buffer's size comes before its bytes, and is put in at the end. */
aml_mark aml_begin_resources(struct aml *a)
{
	aml_mark at;

	aml_byte(a, OP_BUFFER);
	at = begin(a);
	aml_byte(a, OP_WORD);
	word(a, 0);
	return at;
}

void aml_end_resources(struct aml *a, aml_mark block)
{
	size_t start = block + LENGTH_BYTES + BUFFER_SIZE_BYTES, n;

	aml_byte(a, 0x79); /* end tag; a checksum of 0 is not looked at */
	aml_byte(a, 0);
	n = a->bytes - start;
	if (!a->full) {
		a->data[block + LENGTH_BYTES + 1] = (uint8_t)n;
		a->data[block + LENGTH_BYTES + 2] = (uint8_t)(n >> 8);
	}
	aml_end(a, block);
}

void aml_io(struct aml *a, uint16_t base, uint8_t ports)
{
	aml_byte(a, 0x47);
	aml_byte(a, 1); /* all 16 bits are decoded */
	word(a, base);
	word(a, base);
	aml_byte(a, 1);
	aml_byte(a, ports);
}

void aml_irq(struct aml *a, unsigned line)
{
	aml_byte(a, 0x22);
	word(a, (uint16_t)(1u << line));
}

/* The head of an address space descriptor; fixed at both ends, decoded positively. */
static void space(struct aml *a, uint8_t tag, uint16_t bytes, uint8_t type, uint8_t flags)
{
	aml_byte(a, tag);
	word(a, bytes);
	aml_byte(a, type);
	aml_byte(a, 0x0c);
	aml_byte(a, flags);
}

static void word_space(
	struct aml *a, uint8_t type, uint8_t flags, uint16_t first, uint16_t last)
{
	space(a, 0x88, 13, type, flags);
	word(a, 0);
	word(a, first);
	word(a, last);
	word(a, 0);
	word(a, (uint16_t)(last - first + 1));
}

void aml_bus_range(struct aml *a, uint16_t first, uint16_t last)
{
	word_space(a, 2, 0, first, last);
}

void aml_io_window(struct aml *a, uint16_t first, uint16_t last)
{
	word_space(a, 1, 3, first, last);
}

void aml_memory_window(struct aml *a, uint32_t first, uint32_t last)
{
	space(a, 0x87, 23, 0, 1);
	dword(a, 0);
	dword(a, first);
	dword(a, last);
	dword(a, 0);
	dword(a, last - first + 1);
}
