/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Virtio 1.2 over PCI (4.1): what all virtio devices share. A device says what it is and
 * serves its queues; the guest's rings are read and written here (vring.h) only.
 *
 * The guest is hostile. Addresses are looked up (memory_at) when a chain is taken, what a
 * descriptor says is read once, and a queue whose rings make no sense breaks the device
 * (DEVICE_NEEDS_RESET), never the process.
 *
 * A queue is served on a loop of its own, a thread of its own, in one of two ways. With
 * ops->serve each chain that the guest offers is handed to it, as a task of its own. With
 * ops->run the device has the loop to itself, and takes chains when it wants them, as a network
 * card does that receives.
 */
#ifndef BYRE_VMM_VIRTIO_H
#define BYRE_VMM_VIRTIO_H

#include <sys/uio.h>

#include "base/task.h"
#include "vmm/lane.h"
#include "vmm/pci.h"

#define VIRTIO_QUEUES_MAX 64u
#define VIRTIO_QUEUE_SIZE 256u	/* offered; the guest may take less */
#define VIRTIO_CHAIN_MAX  512u	/* segments of one chain */
#define VIRTIO_CONFIG_MAX 256u

enum virtio_feature {
	VIRTIO_F_INDIRECT_DESC = 28,
	VIRTIO_F_EVENT_IDX = 29,
	VIRTIO_F_VERSION_1 = 32,
	VIRTIO_F_RING_PACKED = 34,
	VIRTIO_F_RING_RESET = 40,
};

struct virtio_queue;
struct virtio_device;
struct vring_ops;

/* A chain of buffers that the guest offers: what the device may read comes first. */
struct virtio_chain {
	struct virtio_queue *q;
	struct virtio_chain *next;
	uint16_t id;	/* the driver's name for it */
	uint16_t descs; /* of a packed ring that it takes up */
	bool again;	/* was held when the machine stopped */
	unsigned n_out, n_in; /* segments that the device reads, writes */
	uint64_t out_bytes, in_bytes;
	uint64_t done; /* the device's own; 0 at first, and kept where it is held, unless in a saved state */
	struct iovec iov[VIRTIO_CHAIN_MAX]; /* out, then in */
};

struct virtio_device_ops {
	const char *name; /* "virtio-blk" */
	uint16_t id;	  /* 2 = block */
	uint32_t class_code;
	/* Serves a chain and ends it (virtio_done) or keeps it for later (virtio_hold). The chain
	 * is the task's own and lies on the heap. */
	void (*serve)(struct virtio_device *d, struct virtio_chain *c);
	/* Instead of serve, for queues where it returns true: serves the queue until
	 * virtio_stopping(q), and then ends what it took. A task of the queue's loop. It
	 * waits for the guest with aio_poll(q->lane.event_fd) and then calls virtio_take until there
	 * is no more; the file descriptor becomes readable, too, when it is to stop. */
	bool (*run)(struct virtio_device *d, struct virtio_queue *q);
	/* The guest wrote to the device's configuration. NULL: it is read-only. */
	void (*config_written)(struct virtio_device *d, unsigned offset, unsigned bytes);
	/* The guest reset it, or the machine was; queues do not run. NULL: nothing to do. */
	void (*reset)(struct virtio_device *d);
	/* What the device has beside queues and configuration; see device.h. NULL: nothing. */
	void (*state)(struct virtio_device *d, struct state *s, unsigned version);
	unsigned version; /* of all of its state, 1 and up */
	void (*free)(struct virtio_device *d);
};

struct virtio_queue {
	struct virtio_device *d;
	unsigned index;
	/* Set by the guest while the device is off; under the device's lock. */
	uint16_t size, vector;
	bool enabled;
	uint64_t desc, avail, used; /* guest-physical; packed: the ring, driver's and device's area */
	const struct vring_ops *ring; /* of the layout; once enabled */
	bool event_idx;

	struct lane lane;
	int kick_fd; /* the guest's notification: the lane's bell, or, from before the guest runs, the
		      * event of whoever else serves the queue */
	/* On the loop. */
	bool listening;
	uint16_t next_avail;
	bool avail_lap; /* of packed rings: 1 the first time round, then 0, … */
	struct virtio_chain *again; /* taken before the machine stopped; they come first */

	struct task_mutex lock; /* around what follows */
	uint16_t next_used;
	bool used_lap;
	unsigned untold; /* descriptors given back about which the guest was not asked yet */
	bool telling;	 /* a task will */
	unsigned in_flight, catching_up; /* chains; those of them, or of `again`, that were held */
	struct virtio_chain *held, **held_end; /* are taken again after the next start */
	struct virtio_chain *spare;
	unsigned n_spare;
};

struct virtio_device {
	struct device device; /* first */
	struct device_ops device_ops;
	const struct virtio_device_ops *ops;
	struct vm *vm;
	struct pci_function pci;
	uint64_t features;	      /* offered; RING_PACKED is for the maker to set */
	uint8_t config[VIRTIO_CONFIG_MAX]; /* see virtio_set_config() */
	unsigned config_bytes;
	unsigned n_queues;
	struct virtio_queue queue[VIRTIO_QUEUES_MAX];

	pthread_mutex_t lock; /* around what follows and queues' set-up */
	uint64_t driver_features;
	uint32_t feature_select, driver_feature_select;
	uint16_t queue_select, config_vector;
	uint8_t status;
	unsigned isr;
	bool serving; /* queues have their loops */
	bool paused;

	pthread_mutex_t config_lock; /* around config and */
	uint8_t config_generation;
};

/* Makes the PCI function and gives it to the machine; ops, features, config and n_queues are
 * set. On failure the caller frees. */
int virtio_add(struct virtio_device *d, struct vm *vm, struct pci *pci, int slot, struct err *err);

/* Ends a chain, of which `written` bytes of its in-part were filled. */
void virtio_done(struct virtio_chain *c, uint32_t written);
/* Ends n > 0 chains of one queue at once: the guest sees all of them or none, as it has to with
 * a packet that lies in several. */
void virtio_done_many(struct virtio_chain *const *chains, const uint32_t *written, unsigned n);
/* The machine is stopping, and the chain is not served: it will be handed out again, as it is,
 * when the machine starts, here or where its state was loaded. Its iov must not be changed. */
void virtio_hold(struct virtio_chain *c);
/* For ops->run: the next chain, NULL where there is none (or the device is broken). */
struct virtio_chain *virtio_take(struct virtio_queue *q);
bool virtio_stopping(struct virtio_queue *q);
/* From any thread: the bell is rung. */
void virtio_wake(struct virtio_queue *q);
/* For a queue that the kernel serves, from its loop: what was taken and not ended is the
 * kernel's to do; the guest is to look at what was used. */
void virtio_forget_taken(struct virtio_queue *q);
void virtio_tell_guest(struct virtio_queue *q);
/* Chains are held, and the machine is about to stop. */
bool virtio_is_holding(struct virtio_queue *q);
/* Some of those that were held when it stopped are not ended yet; never true for good. */
bool virtio_is_catching_up(struct virtio_queue *q);
/* After aio_poll() said that the bell was rung. */
void virtio_clear_event(struct virtio_queue *q);
/* Whether the driver has taken a feature. */
bool virtio_has(const struct virtio_device *d, unsigned feature);
/* The rings make no sense, or the device cannot go on. */
void virtio_break(struct virtio_device *d, const char *why);
/* Changes bytes of the configuration while the guest may look, and tells it where wanted. From
 * any thread. */
void virtio_set_config(struct virtio_device *d, unsigned offset, const void *data, unsigned bytes,
	bool tell);

#endif
