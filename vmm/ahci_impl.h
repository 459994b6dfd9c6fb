/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the parts of the AHCI controller share: ahci.c has registers, command lists and its
 * life, ahci_ata.c the commands of disks (ATA8-ACS), ahci_atapi.c those of CD-ROM drives
 * (MMC-5). Sections are those of Serial ATA AHCI 1.3.1.
 *
 * Threads: each port with a device is a lane. Queued commands (NCQ) are a task each; others are
 * done one after the other by the lane itself, as a device does. Registers of all ports are
 * under one lock, which is never held across a request.
 *
 * When the guest clears PxCMD.ST, or resets, it waits there until nothing is under way: after
 * that no buffer of its is touched.
 */
#ifndef BYRE_VMM_AHCI_IMPL_H
#define BYRE_VMM_AHCI_IMPL_H

#include <pthread.h>
#include <sys/uio.h>

#include "vmm/ahci.h"
#include "vmm/lane.h"

#define AHCI_SLOTS    32u
#define AHCI_SEGMENTS 1024u /* of one command's data, where they do not join */
#define AHCI_FIS      20u   /* bytes of a command's */
#define AHCI_PACKET   16u
#define AHCI_FIRMWARE "1       "
#define CD_BLOCK      2048u
#define ATA_PACKET    0xa0 /* the command that carries a packet */

/* The device's status and error (ATA8-ACS 6). */
#define ATA_BUSY     0x80
#define ATA_READY    0x50 /* with "seek complete", which old drivers look for */
#define ATA_FAULT    0x20
#define ATA_DATA     0x08
#define ATA_ERROR    0x01
#define ERROR_ABORT  0x04
#define ERROR_RANGE  0x10
#define ERROR_MEDIUM 0x40

struct ahci_port {
	struct ahci *a;
	unsigned index;
	struct disk *disk; /* NULL: nothing is there */
	bool cdrom;
	struct lane lane;
	pthread_cond_t idle; /* nothing is under way */

	/* Registers, under the controller's lock. */
	uint64_t list, fis;
	uint32_t is, ie, cmd, tfd, sig, sctl, serr, sact, ci;
	/* Slots: issued and not begun; begun and not ended; ended, and to begin again when the
	 * machine starts. One that is under way is not issued again, whatever CI says: so
	 * commands are at most as many as slots. */
	uint32_t todo, under_way, held;
	bool failed;	/* by an error, until ST is cleared */
	bool resetting; /* SRST is set in the last control FIS */

	/* The device's own, of its lane. */
	bool write_cache, ejected, locked;
	bool preserves; /* the settings of which ata_default_settings() speaks, over COMRESET */
	uint8_t multiple;	 /* sectors of READ MULTIPLE */
	uint8_t sense[3];	 /* key, code, qualifier */
	uint8_t queue_error[16]; /* log 0x10: which queued command failed, and how */
};

struct ahci {
	struct device device; /* first */
	struct vm *vm;
	struct pci_function pci;
	pthread_mutex_t lock;
	uint32_t ghc, is;
	struct ahci_port port[AHCI_PORTS];
};

/* A command under way. Functions that do it return 0, -ECANCELED (the machine is stopping),
 * -EFAULT (its data is not in memory), or another error, of which `status` and `error` become
 * the device's. */
struct ahci_command {
	struct ahci_port *p;
	unsigned slot;
	bool queued;
	uint8_t fis[AHCI_FIS], packet[AHCI_PACKET];
	uint8_t *header, *prdt; /* in the guest's memory */
	unsigned entries;	/* of the latter */
	uint8_t status, error;
	uint8_t answer[AHCI_FIS]; /* LBA and count of the FIS that ends it */
	bool pio_in;
	uint64_t moved; /* bytes of data */
	int niov;
	struct iovec iov[AHCI_SEGMENTS]; /* ahci_map() */
};

/* ahci.c */
/* The guest's buffers for this many bytes, which may be 0, into c->iov. -EOVERFLOW: there are
 * less, or in too many pieces. */
int ahci_map(struct ahci_command *c, uint64_t bytes);
/* Data for the guest; `most` as it asked. As much of it as there is room for. */
int ahci_give(struct ahci_command *c, const void *data, uint64_t bytes, uint64_t most);
/* How many bytes its buffers have. */
uint64_t ahci_room(const struct ahci_command *c);

/* ahci_ata.c */
int ata_command(struct ahci_command *c);
bool ata_is_queued(const struct ahci_command *c);
/* "words" are 16 bits. */
void ata_put_word(uint8_t *page, unsigned word, unsigned value);
/* Text as IDENTIFY has it: padded with spaces, bytes of a word swapped. */
void ata_put_text(uint8_t *page, unsigned word, unsigned words, const char *text);
/* -errno of the disk becomes the command's status. */
int ata_judge(struct ahci_command *c, int ret, bool read);
void ata_reset(struct ahci_port *p);
/* As after power-on. Of resets only that of the machine has to do with it: systems look at the
 * write cache when they find a disk, and not again after they have reset it for an error. */
void ata_default_settings(struct ahci_port *p);
void ahci_tell_tray(const struct ahci_port *p); /* how it is now, to those who ask the disk */

/* ahci_atapi.c */
int atapi_command(struct ahci_command *c);

#endif
