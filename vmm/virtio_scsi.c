/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Virtio SCSI. See virtio_scsi.h.
 *
 * Queue 0 is for control, 1 for events, the others for requests. A request is a chain: a
 * header with unit, tag and CDB, data from the guest; then the response, data for the guest. Each
 * is a task of its queue's loop.
 *
 * Nothing that the block layer has begun can be called back. A task management function
 * marks the requests that it is about and waits until they are done; a marked one is answered
 * as aborted, and is not held when the machine stops: what the guest was told is gone never
 * happens later.
 */
#include "vmm/virtio_scsi.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/aio.h"
#include "base/endian.h"
#include "base/iov.h"
#include "base/math.h"
#include "vmm/scsi_disk.h"

enum feature { F_HOTPLUG = 1, F_CHANGE = 2 };
enum queue { QUEUE_CONTROL = 0, QUEUE_EVENTS = 1, QUEUE_REQUESTS = 2 };

/* struct virtio_scsi_config. */
enum config {
	NUM_QUEUES = 0,
	SEG_MAX = 4,
	MAX_SECTORS = 8,
	CMD_PER_LUN = 12,
	EVENT_INFO_SIZE = 16,
	SENSE_SIZE = 20, /* the driver may choose this and the next */
	CDB_SIZE = 24,
	MAX_CHANNEL = 28,
	MAX_TARGET = 30,
	MAX_LUN = 32,
	CONFIG_BYTES = 36,
};
#define SENSE_DEFAULT 96u
#define SENSE_MAX     252u
#define CDB_MAX       255u

struct header {
	uint8_t lun[8];
	le64 tag;
	uint8_t attribute, priority, crn;
};

struct response {
	le32 sense_bytes, residual;
	le16 qualifier;
	uint8_t status, response;
	uint8_t sense[SENSE_MAX];
};
#define RESPONSE_HEAD 12u

enum response_code {
	RESPONSE_OK = 0,
	RESPONSE_OVERRUN = 1,
	RESPONSE_ABORTED = 2,
	RESPONSE_BAD_TARGET = 3,
	RESPONSE_RESET = 4,
	RESPONSE_FAILURE = 9,
	FUNCTION_SUCCEEDED = 10,
	FUNCTION_REJECTED = 11,
	INCORRECT_LUN = 12,
};

struct event {
	le32 event;
	uint8_t lun[8];
	le32 reason;
};
enum event_type { TRANSPORT_RESET = 1, PARAMETER_CHANGE = 3 };
#define REASON_RESCAN   1
#define REASON_CAPACITY 0x092a /* additional sense code, qualifier above */

/* What the guest is still to be told about a target. */
enum pending { PENDING_RESCAN = 1, PENDING_CAPACITY = 2 };

struct unit {
	struct virtio_scsi *v;
	unsigned target;
	unsigned pending; /* enum pending; atomic */
	struct scsi_disk scsi;
};

/* A request under way. */
struct work {
	struct unit *unit;
	uint64_t tag;
	uint8_t ended_as; /* RESPONSE_OK, or what a function made of it; under the lock */
	struct work *next;
};

/* Those of one queue. */
struct running {
	struct task_mutex lock;
	struct task_cond changed;
	struct work *first;
};

struct virtio_scsi {
	struct virtio_device virtio; /* first */
	struct unit *unit[VIRTIO_SCSI_TARGETS];
	struct running running[VIRTIO_QUEUES_MAX];
	uint32_t sense_size, cdb_size; /* atomic */
};

static struct virtio_scsi *scsi_of(struct virtio_device *d)
{
	return (struct virtio_scsi *)d;
}

/* ---- units (5.6.6.1) ------------------------------------------------------------- */

/* One byte says that it is such an address, one is the target, two the unit with two bits in
 * front that tell how. *is_first: it is unit 0, the only one. NULL: no such target. */
static struct unit *find_unit(struct virtio_scsi *v, const uint8_t lun[8], bool *is_first)
{
	unsigned way = lun[2] >> 6;

	*is_first = way <= 1 && !(be16_load(lun + 2) & 0x3fff);
	if (lun[0] != 1 || lun[1] >= VIRTIO_SCSI_TARGETS)
		return NULL;
	return v->unit[lun[1]];
}

static void put_lun(uint8_t lun[8], unsigned target)
{
	memset(lun, 0, 8);
	lun[0] = 1;
	lun[1] = (uint8_t)target;
	lun[2] = 0x40;
}

/* ---- requests under way ---------------------------------------------------------- */

static void begin(struct running *r, struct work *w)
{
	task_lock(&r->lock);
	w->next = r->first;
	r->first = w;
	task_unlock(&r->lock);
}

/* What a function has made of it until now, which is what it is answered as. */
static enum response_code decide(struct running *r, const struct work *w)
{
	enum response_code as;

	task_lock(&r->lock);
	as = w->ended_as;
	task_unlock(&r->lock);
	return as;
}

/* When it was answered, or is held. */
static void end(struct running *r, struct work *w)
{
	struct work **at = &r->first;

	task_lock(&r->lock);
	while (*at != w)
		at = &(*at)->next;
	*at = w->next;
	if (w->ended_as)
		task_cond_broadcast(&r->changed);
	task_unlock(&r->lock);
}

/* Which requests a function is about. */
struct target_set {
	const struct unit *unit;
	bool all; /* else the one with this tag */
	uint64_t tag;
};

static bool is_meant(const struct target_set *set, const struct work *w)
{
	return w->unit == set->unit && (set->all || w->tag == set->tag);
}

static bool is_under_way(struct virtio_scsi *v, const struct target_set *set)
{
	bool found = false;

	for (unsigned i = QUEUE_REQUESTS; i < v->virtio.n_queues; i++) {
		task_lock(&v->running[i].lock);
		for (struct work *w = v->running[i].first; w; w = w->next)
			found |= is_meant(set, w);
		task_unlock(&v->running[i].lock);
	}
	return found;
}

/* Those of one queue, and waits for them. What comes meanwhile is not marked. */
static void end_all(
	struct running *r, const struct target_set *set, enum response_code as)
{
	bool wait = true;

	task_lock(&r->lock);
	for (struct work *w = r->first; w; w = w->next)
		if (is_meant(set, w) && !w->ended_as)
			w->ended_as = as;
	while (wait) {
		wait = false;
		for (struct work *w = r->first; w; w = w->next)
			wait |= is_meant(set, w) && w->ended_as;
		if (wait)
			task_cond_wait(&r->changed, &r->lock);
	}
	task_unlock(&r->lock);
}

/* ---- requests -------------------------------------------------------------------- */

/* The response, with as much sense data as the guest has room for. */
static void respond(struct virtio_chain *c, const struct response *response,
	uint32_t sense_size, uint64_t in_bytes)
{
	iov_from_buf(
		c->iov + c->n_out, (int)c->n_in, 0, response, RESPONSE_HEAD + sense_size);
	virtio_done(c, RESPONSE_HEAD + sense_size + (uint32_t)in_bytes);
}

static void fill_response(
	struct response *to, const struct scsi_request *r, uint32_t sense_size)
{
	uint64_t there = MAX(r->in_bytes, r->out_bytes);

	to->sense_bytes = le32_put(MIN(r->sense_bytes, sense_size));
	memcpy(to->sense, r->sense, r->sense_bytes);
	to->residual = le32_put((uint32_t)(there - MIN(r->done, there)));
	to->status = r->status;
	to->response = r->overrun ? RESPONSE_OVERRUN : RESPONSE_OK;
}

/* 0 with the response; -ECANCELED: it is to be held. */
static int execute(struct running *running, struct work *w, bool is_first,
	struct scsi_request *r, struct response *response, uint32_t sense_size)
{
	enum response_code as;
	int ret = 0;

	if (is_first)
		ret = scsi_disk_execute(&w->unit->scsi, r);
	else
		scsi_no_unit(r);
	as = decide(running, w);
	if (ret && !as)
		return ret;
	if (ret == 0)
		fill_response(response, r, sense_size);
	if (as)
		response->response = (uint8_t)as;
	return 0;
}

/* A function that is about it waits until the guest has the response. */
static void serve_unit(struct virtio_scsi *v, struct virtio_chain *c,
	const struct header *header, struct scsi_request *r, uint32_t sense_size)
{
	struct running *running = &v->running[c->q->index];
	struct response response = {.response = RESPONSE_BAD_TARGET};
	struct work w = {.tag = le64_get(header->tag)};
	bool is_first;

	w.unit = find_unit(v, header->lun, &is_first);
	if (!w.unit) {
		respond(c, &response, sense_size, 0);
		return;
	}
	begin(running, &w);
	if (execute(running, &w, is_first, r, &response, sense_size))
		virtio_hold(c);
	else
		respond(c, &response, sense_size, MIN(r->done, r->in_bytes));
	end(running, &w);
}

/* Cuts the chain up: what follows the header and the response is data. */
static void parse(struct virtio_chain *c, struct scsi_request *r, struct iovec *segments,
	uint64_t head, uint64_t tail)
{
	r->out = segments;
	r->out_bytes = c->out_bytes - head;
	r->n_out = iov_slice(segments, c->iov, (int)c->n_out, head, r->out_bytes);
	r->in = segments + c->n_out;
	r->in_bytes = c->in_bytes - tail;
	r->n_in = iov_slice(
		segments + c->n_out, c->iov + c->n_out, (int)c->n_in, tail, r->in_bytes);
}

static void serve_request(struct virtio_scsi *v, struct virtio_chain *c)
{
	uint32_t sense_size = __atomic_load_n(&v->sense_size, __ATOMIC_RELAXED);
	uint32_t cdb_size = __atomic_load_n(&v->cdb_size, __ATOMIC_RELAXED);
	struct iovec *segments = malloc((c->n_out + c->n_in) * sizeof(*segments));
	uint8_t cdb[SCSI_CDB_BYTES] = {0};
	struct scsi_request r = {.cdb = cdb};
	struct header header;

	if (!segments || c->out_bytes < sizeof(header) + cdb_size ||
		c->in_bytes < RESPONSE_HEAD + sense_size) {
		free(segments);
		virtio_break(&v->virtio, "a request has no header, or no response");
		virtio_done(c, 0);
		return;
	}
	iov_to_buf(c->iov, (int)c->n_out, 0, &header, sizeof(header));
	iov_to_buf(c->iov, (int)c->n_out, sizeof(header), cdb,
		MIN(cdb_size, SCSI_CDB_BYTES));
	parse(c, &r, segments, sizeof(header) + cdb_size, RESPONSE_HEAD + sense_size);
	serve_unit(v, c, &header, &r, sense_size);
	free(segments);
}

/* ---- control (5.6.6.2) ----------------------------------------------------------- */

struct function {
	le32 type, subtype;
	uint8_t lun[8];
	le64 tag;
};
struct notification {
	le32 type;
	uint8_t lun[8];
	le32 events;
};
enum control_type { CONTROL_FUNCTION = 0, CONTROL_QUERY = 1, CONTROL_SUBSCRIBE = 2 };
enum function_type {
	ABORT_TASK = 0,
	ABORT_TASK_SET = 1,
	CLEAR_TASK_SET = 3,
	NEXUS_RESET = 4,
	UNIT_RESET = 5,
	QUERY_TASK = 6,
	QUERY_TASK_SET = 7,
};

/* Requests that were held when the machine stopped are under way for the guest, and are
 * known here only once their queue has taken them again. */
static void catch_up(struct virtio_scsi *v)
{
	for (unsigned i = QUEUE_REQUESTS; i < v->virtio.n_queues; i++)
		while (virtio_is_catching_up(&v->virtio.queue[i]))
			task_sleep_ns(1000000);
}

/* Requests wait for the machine to go on: what a function is told of them is not the end. */
static bool is_holding(struct virtio_scsi *v)
{
	bool holding = false;

	for (unsigned i = QUEUE_REQUESTS; i < v->virtio.n_queues; i++)
		holding |= virtio_is_holding(&v->virtio.queue[i]);
	return holding;
}

static void end_everywhere(
	struct virtio_scsi *v, const struct target_set *set, enum response_code as)
{
	for (unsigned i = QUEUE_REQUESTS; i < v->virtio.n_queues; i++)
		end_all(&v->running[i], set, as);
}

static uint8_t do_function(struct virtio_scsi *v, const struct function *f)
{
	enum function_type type = le32_get(f->subtype);
	struct target_set set = {.tag = le64_get(f->tag), .all = true};
	bool is_first;
	struct unit *u = find_unit(v, f->lun, &is_first);

	if (!u)
		return RESPONSE_BAD_TARGET;
	if (!is_first && type != NEXUS_RESET)
		return INCORRECT_LUN;
	set.unit = u;
	catch_up(v);
	switch (type) {
	case ABORT_TASK:
	case ABORT_TASK_SET:
	case CLEAR_TASK_SET:
		set.all = type != ABORT_TASK;
		end_everywhere(v, &set, RESPONSE_ABORTED);
		return RESPONSE_OK;
	case NEXUS_RESET:
	case UNIT_RESET:
		end_everywhere(v, &set, RESPONSE_RESET);
		/* Modes stay: drivers do not look at them again, and flush or not as they were. */
		scsi_disk_attend(&u->scsi, SCSI_ATTENTION_RESET);
		return RESPONSE_OK;
	case QUERY_TASK:
	case QUERY_TASK_SET:
		set.all = type == QUERY_TASK_SET;
		return is_under_way(v, &set) ? FUNCTION_SUCCEEDED : RESPONSE_OK;
	default:
		return FUNCTION_REJECTED;
	}
}

/* Of what may be subscribed to nothing ever happens here. */
static unsigned do_notification(
	struct virtio_scsi *v, const struct notification *n, uint8_t answer[5])
{
	bool is_first;
	bool there = find_unit(v, n->lun, &is_first);

	le32_store(answer, 0);
	answer[4] = there && is_first ? RESPONSE_OK
		    : there           ? INCORRECT_LUN
				      : RESPONSE_BAD_TARGET;
	return 5;
}

/* The answer to a chain's first bytes; 0: it makes no sense. */
static unsigned answer_control(
	struct virtio_scsi *v, const struct virtio_chain *c, uint8_t answer[5])
{
	struct notification n;
	struct function f;
	le32 type;

	if (c->out_bytes < sizeof(type))
		return 0;
	iov_to_buf(c->iov, (int)c->n_out, 0, &type, sizeof(type));
	if (le32_get(type) == CONTROL_FUNCTION && c->out_bytes >= sizeof(f)) {
		iov_to_buf(c->iov, (int)c->n_out, 0, &f, sizeof(f));
		answer[0] = do_function(v, &f);
		return 1;
	}
	if ((le32_get(type) == CONTROL_QUERY || le32_get(type) == CONTROL_SUBSCRIBE) &&
		c->out_bytes >= sizeof(n)) {
		iov_to_buf(c->iov, (int)c->n_out, 0, &n, sizeof(n));
		return do_notification(v, &n, answer);
	}
	return 0;
}

static void serve_control(struct virtio_scsi *v, struct virtio_chain *c)
{
	uint8_t answer[5];
	unsigned bytes = answer_control(v, c, answer);

	if (!bytes || c->in_bytes < bytes) {
		virtio_break(&v->virtio, "a control request makes no sense");
		virtio_done(c, 0);
		return;
	}
	if (is_holding(v)) {
		virtio_hold(c);
		return;
	}
	iov_from_buf(c->iov + c->n_out, (int)c->n_in, 0, answer, bytes);
	virtio_done(c, bytes);
}

static void serve(struct virtio_device *d, struct virtio_chain *c)
{
	if (c->q->index == QUEUE_CONTROL)
		serve_control(scsi_of(d), c);
	else
		serve_request(scsi_of(d), c);
}

/* ---- events (5.6.6.3) ------------------------------------------------------------ */

/* The next thing to be told, which counts as told then. */
static bool next_event(struct virtio_scsi *v, struct event *e)
{
	for (unsigned i = 0; i < VIRTIO_SCSI_TARGETS; i++) {
		unsigned pending, bit;

		if (!v->unit[i])
			continue;
		pending = __atomic_load_n(&v->unit[i]->pending, __ATOMIC_ACQUIRE);
		bit = pending & -pending;
		if (!bit)
			continue;
		__atomic_fetch_and(&v->unit[i]->pending, ~bit, __ATOMIC_ACQ_REL);
		put_lun(e->lun, i);
		e->event = le32_put(
			bit == PENDING_RESCAN ? TRANSPORT_RESET : PARAMETER_CHANGE);
		e->reason =
			le32_put(bit == PENDING_RESCAN ? REASON_RESCAN : REASON_CAPACITY);
		return true;
	}
	return false;
}

static bool has_event(const struct virtio_scsi *v)
{
	for (unsigned i = 0; i < VIRTIO_SCSI_TARGETS; i++)
		if (v->unit[i] && __atomic_load_n(&v->unit[i]->pending, __ATOMIC_ACQUIRE))
			return true;
	return false;
}

/* Chains are taken when there is something to put into them. */
static void send_events(struct virtio_scsi *v, struct virtio_queue *q)
{
	struct virtio_chain *c;
	struct event e;

	while (has_event(v) && (c = virtio_take(q))) {
		uint32_t bytes = 0;

		if (c->in_bytes < sizeof(e)) {
			virtio_break(&v->virtio, "there is no room for an event");
		} else if (next_event(v, &e)) {
			iov_from_buf(c->iov + c->n_out, (int)c->n_in, 0, &e, sizeof(e));
			bytes = sizeof(e);
		}
		virtio_done(c, bytes);
	}
}

static bool run(struct virtio_device *d, struct virtio_queue *q)
{
	if (q->index != QUEUE_EVENTS)
		return false;
	while (!virtio_stopping(q)) {
		send_events(scsi_of(d), q);
		aio_poll(q->lane.event_fd, POLLIN, -1);
		virtio_clear_event(q);
	}
	return true;
}

/* The guest hears of it where it has agreed to. */
static void tell(struct unit *u, enum pending what, enum feature feature)
{
	if (!virtio_has(&u->v->virtio, feature))
		return;
	__atomic_fetch_or(&u->pending, what, __ATOMIC_ACQ_REL);
	virtio_wake(&u->v->virtio.queue[QUEUE_EVENTS]);
}

static void resized(void *front)
{
	struct unit *u = front;

	scsi_disk_attend(&u->scsi, SCSI_ATTENTION_CAPACITY);
	tell(u, PENDING_CAPACITY, F_CHANGE);
}

/* ---- configuration --------------------------------------------------------------- */

static void fill_config(struct virtio_scsi *v)
{
	uint8_t *config = v->virtio.config;

	v->virtio.config_bytes = CONFIG_BYTES;
	le32_store(config + NUM_QUEUES, v->virtio.n_queues - QUEUE_REQUESTS);
	le32_store(config + SEG_MAX, VIRTIO_QUEUE_SIZE - 2);
	le32_store(config + MAX_SECTORS, 0xffff);
	le32_store(config + CMD_PER_LUN, VIRTIO_QUEUE_SIZE / 2);
	le32_store(config + EVENT_INFO_SIZE, sizeof(struct event));
	le32_store(config + SENSE_SIZE, v->sense_size);
	le32_store(config + CDB_SIZE, v->cdb_size);
	le16_store(config + MAX_CHANNEL, 0);
	le16_store(config + MAX_TARGET, VIRTIO_SCSI_TARGETS - 1);
	le32_store(config + MAX_LUN, 0);
}

/* The two sizes, where they can be; the rest is as it was. */
static void take_config(struct virtio_scsi *v)
{
	uint32_t sense = le32_load(v->virtio.config + SENSE_SIZE);
	uint32_t cdb = le32_load(v->virtio.config + CDB_SIZE);

	if (sense <= SENSE_MAX)
		__atomic_store_n(&v->sense_size, sense, __ATOMIC_RELAXED);
	if (cdb <= CDB_MAX)
		__atomic_store_n(&v->cdb_size, cdb, __ATOMIC_RELAXED);
	fill_config(v);
}

static void config_written(struct virtio_device *d, unsigned offset, unsigned bytes)
{
	(void)offset;
	(void)bytes;
	take_config(scsi_of(d));
}

/* ---- life ------------------------------------------------------------------------ */

static void reset(struct virtio_device *d)
{
	struct virtio_scsi *v = scsi_of(d);

	v->sense_size = SENSE_DEFAULT;
	v->cdb_size = SCSI_CDB_BYTES;
	fill_config(v);
	for (unsigned i = 0; i < VIRTIO_SCSI_TARGETS; i++) {
		if (!v->unit[i])
			continue;
		v->unit[i]->pending = 0;
		scsi_disk_reset(&v->unit[i]->scsi);
	}
}

static void scsi_state(struct virtio_device *d, struct state *s, unsigned version)
{
	struct virtio_scsi *v = scsi_of(d);

	(void)version;
	take_config(v);
	for (unsigned i = 0; i < VIRTIO_SCSI_TARGETS; i++) {
		bool there = v->unit[i];
		uint32_t pending;

		state_bool(s, &there);
		state_check(s, there == (v->unit[i] != NULL), "it had other targets");
		if (!v->unit[i])
			continue;
		pending = v->unit[i]->pending;
		state_u32(s, &pending);
		state_check(s, !(pending & ~(PENDING_RESCAN | PENDING_CAPACITY)),
			"an event that there is not");
		v->unit[i]->pending = pending;
		scsi_disk_state(&v->unit[i]->scsi, s);
	}
}

static void scsi_free(struct virtio_device *d)
{
	struct virtio_scsi *v = scsi_of(d);

	for (unsigned i = 0; i < VIRTIO_SCSI_TARGETS; i++)
		free(v->unit[i]);
	free(v);
}

static const struct virtio_device_ops ops = {
	.name = "virtio-scsi",
	.id = 8,
	.class_code = 0x010000,
	.version = 1,
	.serve = serve,
	.run = run,
	.config_written = config_written,
	.reset = reset,
	.state = scsi_state,
	.free = scsi_free,
};

int virtio_scsi_new(struct vm *vm, struct pci *pci, unsigned queues, bool packed,
	struct virtio_scsi **out, struct err *err)
{
	struct virtio_scsi *v = calloc(1, sizeof(*v));
	int ret;

	if (!v)
		return err_errno(err, ENOMEM, "virtio-scsi");
	v->virtio.ops = &ops;
	v->virtio.n_queues = queues + QUEUE_REQUESTS;
	v->virtio.features = 1u << F_HOTPLUG | 1u << F_CHANGE;
	if (packed)
		v->virtio.features |= 1ull << VIRTIO_F_RING_PACKED;
	reset(&v->virtio);
	ret = virtio_add(&v->virtio, vm, pci, -1, err);
	if (ret) {
		free(v);
		return ret;
	}
	*out = v;
	return 0;
}

int virtio_scsi_attach(struct virtio_scsi *v, struct disk *disk, struct err *err)
{
	unsigned target = 0;
	struct unit *u;

	while (target < VIRTIO_SCSI_TARGETS && v->unit[target])
		target++;
	if (target == VIRTIO_SCSI_TARGETS)
		return err_set(err, ENOSPC, "%s: there are %u SCSI disks already",
			disk->id, VIRTIO_SCSI_TARGETS);
	u = calloc(1, sizeof(*u));
	if (!u)
		return err_errno(err, ENOMEM, "%s", disk->id);
	u->v = v;
	u->target = target;
	scsi_disk_init(&u->scsi, disk);
	v->unit[target] = u;
	disk->iface = "scsi";
	disk->front = u;
	disk->resized = resized;
	snprintf(disk->boot_path, sizeof(disk->boot_path),
		"/pci@i0cf8/scsi@%x/channel@0/disk@%x,0", v->virtio.pci.slot, target);
	tell(u, PENDING_RESCAN, F_HOTPLUG);
	return 0;
}
