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
	OP_EXTENDED = 0x5b,
	OP_DEVICE = 0x82,
};
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

/* "\_SB" or "COM1": an optional root and one segment, padded with '_'. */
static void name_string(struct aml *a, const char *name)
{
	char segment[4] = {'_', '_', '_', '_'};

	if (*name == '\\') {
		aml_byte(a, '\\');
		name++;
	}
	assert(strlen(name) <= sizeof(segment));
	memcpy(segment, name, strlen(name));
	aml_bytes(a, segment, sizeof(segment));
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
