/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Scatter lists. A request's buffers are `const struct iovec *iov, int niov`; the vector is
 * borrowed for the call. Positions are bytes from the start of the vector.
 */
#ifndef BYRE_BASE_IOV_H
#define BYRE_BASE_IOV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

/* The most segments of one request anywhere; the gate copies into one buffer above it. */
#define IOV_LIMIT 1024

size_t iov_bytes(const struct iovec *iov, int niov);

/* Writes to out[] the segments for [pos, pos + bytes) and returns how many; out has room for
 * niov. The range must lie inside the vector. Buffers are not copied. */
int iov_slice(struct iovec *out, const struct iovec *iov, int niov, size_t pos, size_t bytes);

/* Copies between the vector at pos and a flat buffer; the range must lie inside. */
void iov_to_buf(const struct iovec *iov, int niov, size_t pos, void *buf, size_t bytes);
void iov_from_buf(const struct iovec *iov, int niov, size_t pos, const void *buf, size_t bytes);
void iov_fill(const struct iovec *iov, int niov, size_t pos, int byte, size_t bytes);
bool iov_is_zero(const struct iovec *iov, int niov, size_t pos, size_t bytes);

/* True where all bytes are zero. Runs at memory speed (vectorised by the compiler). */
bool buf_is_zero(const void *buf, size_t bytes);

/* Buffers for I/O: aligned for direct I/O on any sane device (4096), size > 0 or NULL.
 * NULL on lack of memory. buf_free(NULL) is fine. */
void *buf_alloc(size_t bytes);
void buf_free(void *buf);

#endif
