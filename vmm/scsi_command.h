/* SPDX-License-Identifier: BSD-2-Clause */
/* Between scsi_disk.c and scsi_pages.c: how commands of a unit answer. */
#ifndef BYRE_VMM_SCSI_COMMAND_H
#define BYRE_VMM_SCSI_COMMAND_H

#include "vmm/scsi_disk.h"

/* What a check condition says: sense key, additional code and qualifier (SPC-4, 4.5.6). */
#define SCSI_SENSE(key, code) ((unsigned)(key) << 16 | (unsigned)(code))
enum scsi_sense {
	SENSE_NONE = 0,
	SENSE_READ_ERROR = SCSI_SENSE(0x3, 0x1100),
	SENSE_WRITE_ERROR = SCSI_SENSE(0x3, 0x0c00),
	SENSE_INTERNAL_FAILURE = SCSI_SENSE(0x4, 0x4400),
	SENSE_LIST_LENGTH = SCSI_SENSE(0x5, 0x1a00),
	SENSE_BAD_OPCODE = SCSI_SENSE(0x5, 0x2000),
	SENSE_LBA_RANGE = SCSI_SENSE(0x5, 0x2100),
	SENSE_BAD_CDB = SCSI_SENSE(0x5, 0x2400),
	SENSE_NO_UNIT = SCSI_SENSE(0x5, 0x2500),
	SENSE_BAD_LIST = SCSI_SENSE(0x5, 0x2600),
	SENSE_NO_SAVED = SCSI_SENSE(0x5, 0x3900),
	SENSE_RESET = SCSI_SENSE(0x6, 0x2900),
	SENSE_CAPACITY = SCSI_SENSE(0x6, 0x2a09),
	SENSE_READ_ONLY = SCSI_SENSE(0x7, 0x2700),
	SENSE_NO_SPACE = SCSI_SENSE(0x7, 0x2707),
	SENSE_MISCOMPARE = SCSI_SENSE(0xe, 0x1d00),
};

/* Ends it with a check condition; 0, for the command to return. */
int scsi_check(const struct scsi_disk *s, struct scsi_request *r, enum scsi_sense sense);
/* Sense data, in either format; how many bytes. */
unsigned scsi_sense(uint8_t out[SCSI_SENSE_BYTES], enum scsi_sense sense, bool descriptor);
/* Data for the guest, of which it allowed that much; 0. */
int scsi_reply(struct scsi_request *r, const void *data, size_t bytes, uint64_t allowed);

/* scsi_pages.c */
int scsi_inquiry(struct scsi_disk *s, struct scsi_request *r);
int scsi_mode_sense(struct scsi_disk *s, struct scsi_request *r);
int scsi_mode_select(struct scsi_disk *s, struct scsi_request *r);

#define SCSI_RANGES_MAX 255u /* of one UNMAP */
#define SCSI_BLOCKS_MAX (BLK_MAX_REQUEST / SCSI_BLOCK) /* that one command may be about */

#endif
