/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the parts of the NVMe controller share: nvme.c has registers, queues and its life,
 * nvme_admin.c and nvme_io.c the commands. Sections are those of NVM Express 1.4.
 *
 * Threads: each submission queue is a lane. Administrative commands are done one after the
 * other on theirs, and make and delete the other queues; so the controller stops that lane
 * first and starts it last. I/O commands are a task each.
 *
 * A command is taken from its queue only when there is room for its completion, which is
 * kept free for it: nobody ever waits for the guest.
 *
 * Lock order: nvme.lock, then bell_lock; pin_lock, then a queue's lock.
 */
#ifndef BYRE_VMM_NVME_IMPL_H
#define BYRE_VMM_NVME_IMPL_H

#include <pthread.h>
#include <sys/uio.h>

#include "base/endian.h"
#include "vmm/lane.h"
#include "vmm/nvme.h"

#define NVME_PAGE	4096u
#define NVME_QUEUE_SIZE 256u /* entries of an I/O queue at most (MQES) */
#define NVME_ADMIN_SIZE 4096u
#define NVME_MDTS	8u /* a command moves 2^8 pages at most */
#define NVME_MOST_BYTES (NVME_PAGE << NVME_MDTS)
#define NVME_SEGMENTS	((1u << NVME_MDTS) + 1)
#define NVME_EVENTS_MAX 4u /* requests for events that are kept */
#define NVME_ALL	UINT32_MAX
#define NVME_FIRMWARE	"1       "
#define NVME_VENDOR	0xfb5d /* of PCI */

/* The status field of a completion (4.6.1), without its phase. */
enum nvme_status {
	NVME_OK = 0,
	NVME_INVALID_OPCODE = 0x4001, /* 0x4000: not to be tried again */
	NVME_INVALID_FIELD = 0x4002,
	NVME_TRANSFER_ERROR = 0x4004,
	NVME_INTERNAL_ERROR = 0x0006,
	NVME_SQ_DELETED = 0x0008,
	NVME_INVALID_NAMESPACE = 0x400b,
	NVME_SEQUENCE_ERROR = 0x400c,
	NVME_PRP_OFFSET = 0x4013,
	NVME_WRITE_PROTECTED = 0x4020,
	NVME_OUT_OF_RANGE = 0x4080,
	NVME_CAPACITY = 0x4081,
	NVME_CQ_INVALID = 0x4100,
	NVME_QUEUE_ID = 0x4101,
	NVME_QUEUE_BYTES = 0x4102,
	NVME_TOO_MANY_EVENTS = 0x4105,
	NVME_INVALID_VECTOR = 0x4108,
	NVME_INVALID_LOG = 0x4109,
	NVME_QUEUE_DELETION = 0x410c,
	NVME_NOT_SAVEABLE = 0x410d,
	NVME_WRITE_FAULT = 0x0280,
	NVME_READ_ERROR = 0x0281,
	NVME_AGAIN = 0xfffe, /* none: the machine is stopping, and it is made again */
	NVME_LATER = 0xffff, /* none yet: it is kept */
};

struct nvme_command {
	uint8_t opcode, flags;
	le16 id;
	le32 nsid, dw2, dw3;
	le64 metadata, prp1, prp2;
	le32 dw10, dw11, dw12, dw13, dw14, dw15;
};
_Static_assert(sizeof(struct nvme_command) == 64, "4.2");

struct nvme_completion {
	le32 result, reserved;
	le16 sq_head, sq;
	le32 id_status; /* id, phase, status */
};
_Static_assert(sizeof(struct nvme_completion) == 16, "4.6");

struct nvme_cq {
	pthread_mutex_t lock;
	bool exists, interrupts;
	uint16_t vector;
	uint64_t base;
	uint32_t size, head, tail;
	bool phase;
	uint32_t reserved; /* entries that commands under way will need */
	bool starved;	   /* a queue waits for room */
};

struct nvme_sq {
	struct nvme *n;
	unsigned id;
	struct lane lane;
	pthread_mutex_t lock; /* of the four fields that follow, against the doorbell */
	bool exists;
	uint64_t base;
	uint32_t size;
	uint32_t tail; /* atomic, too */
	uint32_t cq;
	uint32_t head; /* the lane's; atomic */
	/* Commands that were taken and not done when the machine stopped: they are made again,
	 * and first, when it starts. The lane's. */
	struct nvme_command held[NVME_QUEUE_SIZE];
	unsigned n_held, n_again; /* in all; which may be made: those from before the start */
};

struct nvme_request {
	struct nvme_sq *sq;
	struct nvme_command command;
	uint32_t result;
	int niov;
	struct iovec iov[NVME_SEGMENTS]; /* nvme_map() */
};

/* Asynchronous events, as bits. */
enum nvme_event {
	NVME_EVENT_BELL = 1,	   /* a doorbell of no queue */
	NVME_EVENT_BELL_VALUE = 2, /* a value that no queue has */
	NVME_EVENT_NAMESPACE = 4,
};

/* Features that are values which are kept (5.21.1). */
enum nvme_feature {
	NVME_F_ARBITRATION = 1,
	NVME_F_POWER = 2,
	NVME_F_TEMPERATURE = 4,
	NVME_F_RECOVERY = 5,
	NVME_F_WRITE_CACHE = 6,
	NVME_F_QUEUES = 7,
	NVME_F_COALESCING = 8,
	NVME_F_VECTOR = 9,
	NVME_F_ATOMICITY = 10,
	NVME_F_EVENTS = 11,
	NVME_FEATURES = 12,
};

struct nvme {
	struct device device; /* first */
	struct vm *vm;
	struct pci_function pci;
	struct disk *disk;
	unsigned n_queues; /* of I/O, at most; the administrative one is number 0 */

	pthread_mutex_t lock; /* of registers, and around starting and stopping */
	uint32_t cc, aqa, masked;
	uint64_t asq, acq;
	uint32_t csts; /* atomic */
	bool paused;
	pthread_mutex_t pin_lock;

	struct nvme_sq sq[NVME_QUEUES_MAX + 1];
	struct nvme_cq cq[NVME_QUEUES_MAX + 1];

	/* Of the administrative lane, but for `pending` and `changed`, which are atomic. */
	struct nvme_request admin;
	uint8_t page[NVME_PAGE];
	uint32_t feature[NVME_FEATURES], cold; /* the lower threshold of temperature */
	uint16_t kept[NVME_EVENTS_MAX];
	unsigned n_kept;
	unsigned pending, told; /* told: held back until its log is read */
	bool changed;		/* the namespace, since its log was read */

	/* Doorbells in memory (5.7): the guest's, and from where on it is to ring the real ones. */
	bool shadowed; /* atomic; set after the two */
	uint64_t shadow, event_index;
	pthread_mutex_t bell_lock; /* of where KVM rings bells */
	uint32_t bar_at, bells_at; /* 0: nowhere */
};

/* nvme.c */
void nvme_complete(struct nvme_sq *sq, uint16_t id, uint16_t status, uint32_t result);
/* The machine is stopping: the command is made again when it starts. */
void nvme_hold(struct nvme_sq *sq, const struct nvme_command *c);
void nvme_raise(struct nvme *n, enum nvme_event event);
void nvme_fill_shadow(struct nvme *n); /* with what the doorbells have said so far */
void nvme_set_shadow(struct nvme *n, bool on);
int nvme_start_sq(struct nvme_sq *sq);
void nvme_stop_sq(struct nvme_sq *sq); /* from a task, too */
/* The controller cannot go on until the guest resets it (CSTS.CFS). */
void nvme_fail(struct nvme *n, const char *why);

/* nvme_admin.c: a status, NVME_LATER or NVME_AGAIN. */
uint16_t nvme_admin(struct nvme *n, struct nvme_request *r);
void nvme_default_features(struct nvme *n);

/* nvme_io.c */
/* The guest's buffers of this many bytes (4.3) into r->iov; a status. */
uint16_t nvme_map(struct nvme_request *r, uint64_t bytes);
/* A task: makes the request and ends it. */
void nvme_serve_io(void *arg);

#endif
