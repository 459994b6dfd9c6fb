/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The qcow2 format as it lies on disk (docs/interop/qcow2 of the QEMU project, versions 2
 * and 3). Everything is big-endian; nothing here is a number until be*_get() and a check.
 *
 *	header cluster      struct qcow2_header, header extensions, backing file name
 *	refcount table      be64[]: offset of refcount block i        (contiguous)
 *	  refcount block    one cluster of counts, 1 to 64 bits each
 *	L1 table            be64[]: offset of L2 table i | COPIED      (contiguous)
 *	  L2 table          one cluster of entries, 8 or 16 bytes each
 *	    data cluster    or the bytes of a compressed one
 *	snapshot table      struct qcow2_snapshot_entry[], each with an L1 table of its own
 *	bitmap directory    struct qcow2_bitmap_entry[], each with a table be64[] of clusters
 */
#ifndef BYRE_QCOW2_FORMAT_H
#define BYRE_QCOW2_FORMAT_H

#include "base/endian.h"

#define QCOW2_MAGIC	      0x514649fbu /* "QFI\xfb" */
#define QCOW2_V2_HEADER_BYTES 72u
#define QCOW2_V3_HEADER_BYTES 104u
#define QCOW2_HEADER_BYTES    112u /* what we write for version 3: with compression_type */

struct qcow2_header {
	be32 magic;
	be32 version;
	be64 backing_file_offset;
	be32 backing_file_size; /* bytes, at most 1023 */
	be32 cluster_bits;
	be64 size; /* bytes of the virtual disk */
	be32 crypt_method;
	be32 l1_size; /* entries */
	be64 l1_table_offset;
	be64 refcount_table_offset;
	be32 refcount_table_clusters;
	be32 nb_snapshots;
	be64 snapshots_offset;
	/* version 3 */
	be64 incompatible_features;
	be64 compatible_features;
	be64 autoclear_features;
	be32 refcount_order;
	be32 header_length;
	uint8_t compression_type;
	uint8_t padding[7];
};
_Static_assert(sizeof(struct qcow2_header) == QCOW2_HEADER_BYTES, "header");
_Static_assert(__builtin_offsetof(struct qcow2_header, snapshots_offset) == 64, "header");
_Static_assert(__builtin_offsetof(struct qcow2_header, incompatible_features) == 72, "v3");
_Static_assert(__builtin_offsetof(struct qcow2_header, compression_type) == 104, "v3");

enum qcow2_crypt { QCOW2_CRYPT_NONE, QCOW2_CRYPT_AES, QCOW2_CRYPT_LUKS };

enum qcow2_incompatible {
	QCOW2_INCOMPAT_DIRTY = 1 << 0,
	QCOW2_INCOMPAT_CORRUPT = 1 << 1,
	QCOW2_INCOMPAT_DATA_FILE = 1 << 2,
	QCOW2_INCOMPAT_COMPRESSION = 1 << 3,
	QCOW2_INCOMPAT_EXTL2 = 1 << 4,
	QCOW2_INCOMPAT_KNOWN = 31,
};
enum qcow2_compatible { QCOW2_COMPAT_LAZY_REFCOUNTS = 1 << 0 };
enum qcow2_autoclear {
	QCOW2_AUTOCLEAR_BITMAPS = 1 << 0,
	QCOW2_AUTOCLEAR_DATA_FILE_RAW = 1 << 1,
	QCOW2_AUTOCLEAR_KNOWN = 3,
};

/* Header extensions, after the header, each padded to 8 bytes, ended by type 0. */
struct qcow2_ext_header {
	be32 type;
	be32 length; /* bytes of data, without the padding */
};
enum qcow2_ext_type {
	QCOW2_EXT_END = 0,
	QCOW2_EXT_BACKING_FORMAT = 0xe2792aca,
	QCOW2_EXT_FEATURE_NAMES = 0x6803f857,
	QCOW2_EXT_BITMAPS = 0x23852875,
	QCOW2_EXT_CRYPTO = 0x0537be77,
	QCOW2_EXT_DATA_FILE = 0x44415441,
};
struct qcow2_feature_name {
	uint8_t type; /* 0 incompatible, 1 compatible, 2 autoclear */
	uint8_t bit;
	char name[46]; /* padded with zeros, not necessarily ended by one */
};
_Static_assert(sizeof(struct qcow2_feature_name) == 48, "feature name");
struct qcow2_ext_bitmaps {
	be32 nb_bitmaps;
	be32 reserved;
	be64 directory_size;
	be64 directory_offset;
};
_Static_assert(sizeof(struct qcow2_ext_bitmaps) == 24, "bitmaps extension");
struct qcow2_ext_crypto {
	be64 offset;
	be64 length;
};
_Static_assert(sizeof(struct qcow2_ext_crypto) == 16, "crypto extension");

/* L1 and L2 entries, refcount and bitmap table entries. */
#define QCOW2_COPIED	    (1ull << 63) /* the refcount is exactly one */
#define QCOW2_COMPRESSED    (1ull << 62)
#define QCOW2_ZERO	    (1ull << 0)		     /* standard clusters of version 3 */
#define QCOW2_OFFSET_MASK   0x00fffffffffffe00ull    /* bits 9 to 55 */
#define QCOW2_L1_RESERVED   0x7f000000000001ffull
#define QCOW2_L2_RESERVED   0x3f000000000001feull    /* of a standard descriptor */
#define QCOW2_REFT_RESERVED 0x00000000000001ffull
#define QCOW2_REFT_OFFSET_MASK 0xfffffffffffffe00ull
#define QCOW2_HOST_LIMIT    (1ull << 56) /* host offsets of L2 tables and clusters stay below */

/* Extended L2 entries: the second word. Subcluster i: bit i allocated, bit 32 + i zero. */
#define QCOW2_SUBCLUSTERS 32u
#define QCOW2_SUB_ALL	  0xffffffffull

struct qcow2_snapshot_entry {
	be64 l1_table_offset;
	be32 l1_size; /* entries */
	be16 id_size;
	be16 name_size;
	be32 date_sec;
	be32 date_nsec;
	be64 vm_clock_nsec;
	be32 vm_state_size;
	be32 extra_data_size;
	/* extra data, id, name, padding to 8 */
};
_Static_assert(sizeof(struct qcow2_snapshot_entry) == 40, "snapshot entry");
struct qcow2_snapshot_extra {
	be64 vm_state_size;
	be64 disk_size;
	be64 icount; /* UINT64_MAX: none */
};
_Static_assert(sizeof(struct qcow2_snapshot_extra) == 24, "snapshot extra data");

struct qcow2_bitmap_entry {
	be64 table_offset;
	be32 table_size; /* entries */
	be32 flags;
	uint8_t type;
	uint8_t granularity_bits;
	be16 name_size;
	be32 extra_data_size;
	/* extra data, name, padding to 8 */
};
_Static_assert(sizeof(struct qcow2_bitmap_entry) == 24, "bitmap entry");
enum qcow2_bitmap_flags {
	QCOW2_BITMAP_IN_USE = 1 << 0,
	QCOW2_BITMAP_AUTO = 1 << 1,
	QCOW2_BITMAP_EXTRA_COMPATIBLE = 1 << 2,
};

/* Limits: of the format where it has one, else such that hostile images stay cheap and
 * every image the peer makes opens. */
#define QCOW2_MIN_CLUSTER_BITS	    9u
#define QCOW2_MAX_CLUSTER_BITS	    21u
#define QCOW2_MIN_EXTL2_BITS	    14u
#define QCOW2_MAX_L1_BYTES	    (32u << 20)
/* Of all L1 tables together: a thousand snapshots of a 128 TiB disk with 64 KiB clusters. */
#define QCOW2_MAX_L1_ENTRIES	    (1ull << 28)
#define QCOW2_MAX_REFTABLE_BYTES    (8u << 20)
#define QCOW2_MAX_SNAPSHOTS	    65536u
#define QCOW2_MAX_SNAPSHOT_TABLE    (64u << 20) /* bytes */
#define QCOW2_MAX_SNAPSHOT_EXTRA    1024u
#define QCOW2_MAX_BITMAPS	    65535u
#define QCOW2_MAX_BITMAP_DIRECTORY  (64u << 20) /* bytes */
#define QCOW2_MAX_BACKING_NAME	    1023u
#define QCOW2_MAX_LUKS_HEADER	    (16u << 20) /* bytes */

#endif
