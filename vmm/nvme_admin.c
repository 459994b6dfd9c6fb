/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Administrative commands of NVMe (5). See nvme_impl.h. They are done one after the other, by
 * the lane of the administrative queue, which alone makes and deletes the others.
 */
#include "vmm/nvme_impl.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/iov.h"
#include "base/math.h"

enum opcode {
	DELETE_SQ = 0x00,
	CREATE_SQ = 0x01,
	GET_LOG = 0x02,
	DELETE_CQ = 0x04,
	CREATE_CQ = 0x05,
	IDENTIFY = 0x06,
	ABORT = 0x08,
	SET_FEATURES = 0x09,
	GET_FEATURES = 0x0a,
	ASK_FOR_EVENT = 0x0c,
	SHADOW_DOORBELLS = 0x7c,
};

/* ---- what the guest gets --------------------------------------------------------- */

/* Of n->page, from an offset on. */
static uint16_t answer(
	struct nvme *n, struct nvme_request *r, uint64_t offset, uint64_t bytes)
{
	uint16_t status = nvme_map(r, bytes);

	if (status == NVME_OK && bytes)
		iov_from_buf(r->iov, r->niov, 0, n->page + offset, bytes);
	return status;
}

static void put_text(uint8_t *to, size_t bytes, const char *text)
{
	memset(to, ' ', bytes);
	memcpy(to, text, MIN(strlen(text), bytes));
}

/* ---- identify (5.15) ------------------------------------------------------------- */

static bool deallocates(const struct nvme *n)
{
	return n->disk->discard && !n->disk->read_only;
}

/* A UUID that is the same each time, of the disk's name and serial number (RFC 9562,
 * version 8; the hash is FNV-1a). */
static void put_uuid(const struct disk *d, uint8_t uuid[16])
{
	uint64_t hash[2] = {0xcbf29ce484222325, 0x84222325cbf29ce4};
	char name[DISK_ID_MAX + DISK_SERIAL_MAX];

	snprintf(name, sizeof(name), "%s/%s", d->id, d->serial);
	for (const char *p = name; *p; p++)
		for (unsigned i = 0; i < 2; i++)
			hash[i] = (hash[i] ^ (uint8_t)*p) * 0x100000001b3;
	memcpy(uuid, hash, 16);
	uuid[6] = (uuid[6] & 0x0f) | 0x80;
	uuid[8] = (uuid[8] & 0x3f) | 0x80;
}

static void put_name(const struct disk *d, uint8_t *to)
{
	uint8_t u[16];

	put_uuid(d, u);
	snprintf((char *)to, 256,
		"nqn.2014-08.org.nvmexpress:uuid:%02x%02x%02x%02x-%02x%02x-%02x%02x-"
		"%02x%02x-%02x%02x%02x%02x%02x%02x",
		u[0], u[1], u[2], u[3], u[4], u[5], u[6], u[7], u[8], u[9], u[10], u[11],
		u[12], u[13], u[14], u[15]);
}

static void fill_controller(struct nvme *n, uint8_t *p)
{
	le16_store(p, NVME_VENDOR);
	le16_store(p + 2, 0x1af4);
	put_text(p + 4, 20, n->disk->serial);
	put_text(p + 24, 40, "Byre NVMe disk");
	put_text(p + 64, 8, NVME_FIRMWARE);
	p[72] = 6; /* commands at once that do it good, as a power of two */
	p[77] = NVME_MDTS;
	le32_store(p + 80, 0x00010400);
	le32_store(p + 92, 1u << 8);    /* tells of changes of the namespace */
	p[111] = 1;                     /* an I/O controller */
	le16_store(p + 256, 1u << 8);   /* doorbells in memory */
	p[258] = 3;                     /* aborts at once, less one */
	p[259] = NVME_EVENTS_MAX - 1;   /* likewise */
	p[260] = 1u << 1 | 1;           /* one slot for firmware, read-only */
	p[261] = 1u << 2;               /* logs can be read in parts */
	le16_store(p + 266, 273 + 70);  /* kelvin: warm, */
	le16_store(p + 268, 273 + 100); /* too warm */
	p[512] = 0x66;                  /* sizes of entries */
	p[513] = 0x44;
	le32_store(p + 516, 1); /* namespaces */
	le16_store(p + 520, (uint16_t)(1u << 3 | (deallocates(n) ? 1u << 2 : 0)));
	p[525] = 3u << 1 | 1; /* flushes may be of all namespaces; a write cache */
	put_name(n->disk, p + 768);
}

static void fill_namespace(struct nvme *n, uint8_t *p)
{
	uint64_t blocks = disk_bytes(n->disk) / BLK_SECTOR;

	le64_store(p, blocks);
	le64_store(p + 8, blocks);
	le64_store(p + 16, blocks);
	p[24] = deallocates(n) ? 1 : 0; /* thin */
	if (deallocates(n))
		p[33] = 1u << 3; /* write zeroes may deallocate */
	p[99] = n->disk->read_only;
	p[130] = 9; /* 512 bytes */
}

static uint16_t identify(struct nvme *n, struct nvme_request *r)
{
	uint32_t nsid = le32_get(r->command.nsid);
	uint8_t *p = n->page;

	memset(p, 0, NVME_PAGE);
	switch (le32_get(r->command.dw10) & 0xff) {
	case 0: /* a namespace */
		if (nsid != 1 && nsid != NVME_ALL)
			return NVME_INVALID_NAMESPACE;
		fill_namespace(n, p);
		break;
	case 1:
		fill_controller(n, p);
		break;
	case 2: /* the namespaces that follow this one */
		if (nsid >= NVME_ALL - 1)
			return NVME_INVALID_NAMESPACE;
		le32_store(p, nsid < 1);
		break;
	case 3: /* its names */
		if (nsid != 1)
			return NVME_INVALID_NAMESPACE;
		p[0] = 3; /* a UUID */
		p[1] = 16;
		put_uuid(n->disk, p + 4);
		break;
	default:
		return NVME_INVALID_FIELD;
	}
	return answer(n, r, 0, NVME_PAGE);
}

/* ---- logs (5.14) ----------------------------------------------------------------- */

static uint64_t counted(const uint64_t *n)
{
	return __atomic_load_n(n, __ATOMIC_RELAXED);
}

static void fill_health(struct nvme *n, uint8_t *p)
{
	const struct disk_count *c = n->disk->count;

	le16_store(p + 1, 273 + 27);
	p[3] = 100; /* spare */
	p[4] = 10;
	le64_store(p + 32, div_round_up(counted(&c[DISK_READ].bytes), 512000));
	le64_store(p + 48, div_round_up(counted(&c[DISK_WRITE].bytes), 512000));
	le64_store(p + 64, counted(&c[DISK_READ].requests));
	le64_store(p + 80, counted(&c[DISK_WRITE].requests));
	le64_store(
		p + 160, counted(&c[DISK_READ].failed) + counted(&c[DISK_WRITE].failed));
}

/* Its bytes; 0: there is none of this number. */
static uint64_t fill_log(struct nvme *n, unsigned id)
{
	uint8_t *p = n->page;

	switch (id) {
	case 1: /* errors: none is kept */
		return 64;
	case 2:
		fill_health(n, p);
		return 512;
	case 3: /* firmware */
		p[0] = 1;
		put_text(p + 8, 8, NVME_FIRMWARE);
		return 512;
	case 4: /* changed namespaces */
		le32_store(p, __atomic_load_n(&n->changed, __ATOMIC_ACQUIRE));
		return NVME_PAGE;
	default:
		return 0;
	}
}

/* Events that lead to it may be told again. */
static void log_was_read(struct nvme *n, unsigned id)
{
	if (id == 1)
		n->told &= ~(unsigned)(NVME_EVENT_BELL | NVME_EVENT_BELL_VALUE);
	if (id == 4) {
		n->told &= ~(unsigned)NVME_EVENT_NAMESPACE;
		__atomic_store_n(&n->changed, false, __ATOMIC_RELEASE);
	}
}

static uint16_t get_log(struct nvme *n, struct nvme_request *r)
{
	const struct nvme_command *c = &r->command;
	uint32_t dw10 = le32_get(c->dw10);
	uint64_t dwords = (uint64_t)(le32_get(c->dw11) & 0xffff) << 16 | dw10 >> 16;
	uint64_t from = (uint64_t)le32_get(c->dw13) << 32 | le32_get(c->dw12), bytes;
	uint16_t status;

	memset(n->page, 0, NVME_PAGE);
	bytes = fill_log(n, dw10 & 0xff);
	if (!bytes)
		return NVME_INVALID_LOG;
	if (from > bytes || from % 4)
		return NVME_INVALID_FIELD;
	status = answer(n, r, from, MIN(4 * (dwords + 1), bytes - from));
	if (status == NVME_OK && !(dw10 & 1u << 15))
		log_was_read(n, dw10 & 0xff);
	return status;
}

/* ---- features (5.13, 5.21) ------------------------------------------------------- */

void nvme_default_features(struct nvme *n)
{
	memset(n->feature, 0, sizeof(n->feature));
	n->feature[NVME_F_TEMPERATURE] = 273 + 70;
	n->feature[NVME_F_WRITE_CACHE] = 1;
	n->feature[NVME_F_QUEUES] = (n->n_queues - 1) << 16 | (n->n_queues - 1);
	n->cold = 0;
}

/* Which of the two thresholds is meant; NULL: one of a sensor that is not there. */
static uint32_t *threshold(struct nvme *n, uint32_t dw11)
{
	if (dw11 >> 16 & 0xf)
		return NULL;
	return dw11 >> 20 & 3 ? &n->cold : &n->feature[NVME_F_TEMPERATURE];
}

static bool has_queues(const struct nvme *n)
{
	for (unsigned i = 1; i <= n->n_queues; i++)
		if (n->sq[i].exists || n->cq[i].exists)
			return true;
	return false;
}

/* What is written from now on is stable when it ends; what was before, when this does. */
static uint16_t set_write_cache(struct nvme *n, bool on)
{
	int ret = 0;

	__atomic_store_n(&n->feature[NVME_F_WRITE_CACHE], on, __ATOMIC_SEQ_CST);
	if (!on)
		ret = disk_flush(n->disk);
	return ret == -ECANCELED ? NVME_AGAIN : ret ? NVME_WRITE_FAULT : NVME_OK;
}

static uint16_t set_feature(struct nvme *n, struct nvme_request *r, unsigned id)
{
	uint32_t value = le32_get(r->command.dw11), *at = &n->feature[id];

	switch (id) {
	case NVME_F_POWER:
		return value & 0x1f ? NVME_INVALID_FIELD : NVME_OK; /* one state */
	case NVME_F_TEMPERATURE:
		at = threshold(n, value);
		if (!at)
			return NVME_INVALID_FIELD;
		value &= 0xffff;
		break;
	case NVME_F_WRITE_CACHE:
		return set_write_cache(n, value & 1);
	case NVME_F_QUEUES:
		if ((value & 0xffff) == 0xffff || value >> 16 == 0xffff)
			return NVME_INVALID_FIELD;
		if (has_queues(n))
			return NVME_SEQUENCE_ERROR;
		value = r->result = n->feature[id]; /* all there are */
		break;
	case NVME_F_VECTOR:
		/* Nothing is ever coalesced. */
		return (value & 0xffff) < n->pci.vectors ? NVME_OK : NVME_INVALID_FIELD;
	default:
		break;
	}
	__atomic_store_n(at, value, __ATOMIC_RELAXED);
	return NVME_OK;
}

static uint16_t get_feature(struct nvme *n, struct nvme_request *r, unsigned id)
{
	uint32_t dw11 = le32_get(r->command.dw11), *at = &n->feature[id];

	if (id == NVME_F_TEMPERATURE)
		at = threshold(n, dw11);
	if (!at || (id == NVME_F_VECTOR && (dw11 & 0xffff) >= n->pci.vectors))
		return NVME_INVALID_FIELD;
	r->result = id == NVME_F_VECTOR ? (dw11 & 0xffff) | 1u << 16 : *at;
	return NVME_OK;
}

static uint16_t do_feature(struct nvme *n, struct nvme_request *r, bool set)
{
	uint32_t dw10 = le32_get(r->command.dw10);
	unsigned id = dw10 & 0xff;

	if (!id || id >= NVME_FEATURES || id == 3)
		return NVME_INVALID_FIELD;
	if (set && (dw10 & 1u << 31))
		return NVME_NOT_SAVEABLE;
	return set ? set_feature(n, r, id) : get_feature(n, r, id);
}

/* ---- queues (5.3 to 5.6) --------------------------------------------------------- */

/* Number, entries and place of a new queue. */
static uint16_t check_queue(struct nvme *n, const struct nvme_command *c, bool exists,
	size_t entry_bytes, unsigned entry_log)
{
	uint32_t dw10 = le32_get(c->dw10), entries = (dw10 >> 16) + 1;
	uint64_t base = le64_get(c->prp1);

	if (!(dw10 & 0xffff) || (dw10 & 0xffff) > n->n_queues || exists)
		return NVME_QUEUE_ID;
	if (entries < 2 || entries > NVME_QUEUE_SIZE || entry_log != entry_bytes)
		return NVME_QUEUE_BYTES;
	if (!(le32_get(c->dw11) & 1)) /* in one piece */
		return NVME_INVALID_FIELD;
	if (base % NVME_PAGE)
		return NVME_PRP_OFFSET;
	return memory_at(&n->vm->memory, base, (uint64_t)entries << entry_bytes)
		       ? NVME_OK
		       : NVME_INVALID_FIELD;
}

/* The number as an index, whatever it is. */
static unsigned index_of(const struct nvme *n, const struct nvme_command *c)
{
	return MIN(le32_get(c->dw10) & 0xffff, n->n_queues);
}

static uint16_t create_cq(struct nvme *n, const struct nvme_command *c)
{
	struct nvme_cq *cq = &n->cq[index_of(n, c)];
	uint32_t dw11 = le32_get(c->dw11), cc = __atomic_load_n(&n->cc, __ATOMIC_ACQUIRE);
	uint16_t status = check_queue(n, c, cq->exists, 4, cc >> 20 & 0xf);

	if (status)
		return status;
	if (dw11 >> 16 >= n->pci.vectors)
		return NVME_INVALID_VECTOR;
	pthread_mutex_lock(&cq->lock);
	cq->base = le64_get(c->prp1);
	cq->size = (le32_get(c->dw10) >> 16) + 1;
	cq->vector = (uint16_t)(dw11 >> 16);
	cq->interrupts = dw11 >> 1 & 1;
	cq->head = cq->tail = cq->reserved = 0;
	cq->phase = true;
	cq->starved = false;
	cq->exists = true;
	pthread_mutex_unlock(&cq->lock);
	return NVME_OK;
}

static void set_exists(struct nvme_sq *sq, bool exists)
{
	pthread_mutex_lock(&sq->lock);
	sq->exists = exists;
	pthread_mutex_unlock(&sq->lock);
}

static uint16_t create_sq(struct nvme *n, const struct nvme_command *c)
{
	struct nvme_sq *sq = &n->sq[index_of(n, c)];
	uint32_t cq = le32_get(c->dw11) >> 16,
		 cc = __atomic_load_n(&n->cc, __ATOMIC_ACQUIRE);
	uint16_t status = check_queue(n, c, sq->exists, 6, cc >> 16 & 0xf);

	if (status)
		return status;
	if (!cq || cq > n->n_queues || !n->cq[cq].exists)
		return NVME_CQ_INVALID;
	pthread_mutex_lock(&sq->lock);
	sq->base = le64_get(c->prp1);
	sq->size = (le32_get(c->dw10) >> 16) + 1;
	sq->cq = cq;
	sq->head = sq->tail = 0;
	sq->n_held = sq->n_again = 0;
	sq->exists = true;
	pthread_mutex_unlock(&sq->lock);
	if (nvme_start_sq(sq) == 0)
		return NVME_OK;
	set_exists(sq, false);
	return NVME_INTERNAL_ERROR;
}

/* What it had begun is ended first. */
static uint16_t delete_sq(struct nvme *n, const struct nvme_command *c)
{
	unsigned id = le32_get(c->dw10) & 0xffff;
	struct nvme_sq *sq = &n->sq[index_of(n, c)];

	if (!id || id > n->n_queues || !sq->exists)
		return NVME_QUEUE_ID;
	set_exists(sq, false);
	nvme_stop_sq(sq);
	sq->n_held = sq->n_again = 0;
	return NVME_OK;
}

static uint16_t delete_cq(struct nvme *n, const struct nvme_command *c)
{
	unsigned id = le32_get(c->dw10) & 0xffff;
	struct nvme_cq *cq = &n->cq[index_of(n, c)];

	if (!id || id > n->n_queues || !cq->exists)
		return NVME_QUEUE_ID;
	for (unsigned i = 1; i <= n->n_queues; i++)
		if (n->sq[i].exists && n->sq[i].cq == id)
			return NVME_QUEUE_DELETION;
	pthread_mutex_lock(&cq->lock);
	cq->exists = false;
	pthread_mutex_unlock(&cq->lock);
	return NVME_OK;
}

static uint16_t set_shadow(struct nvme *n, const struct nvme_command *c)
{
	uint64_t page[] = {le64_get(c->prp1), le64_get(c->prp2)};

	for (size_t i = 0; i < ARRAY_LEN(page); i++)
		if (page[i] % NVME_PAGE || !memory_at(&n->vm->memory, page[i], NVME_PAGE))
			return NVME_INVALID_FIELD;
	if (n->shadowed) /* lanes look there */
		return NVME_SEQUENCE_ERROR;
	n->shadow = page[0];
	n->event_index = page[1];
	nvme_fill_shadow(n);
	nvme_set_shadow(n, true);
	return NVME_OK;
}

/* ---- all of them ----------------------------------------------------------------- */

static uint16_t keep_event(struct nvme *n, const struct nvme_command *c)
{
	if (n->n_kept == NVME_EVENTS_MAX)
		return NVME_TOO_MANY_EVENTS;
	n->kept[n->n_kept++] = le16_get(c->id);
	return NVME_LATER;
}

uint16_t nvme_admin(struct nvme *n, struct nvme_request *r)
{
	const struct nvme_command *c = &r->command;

	if (c->flags) /* fused, or with a list of another kind */
		return NVME_INVALID_FIELD;
	switch (c->opcode) {
	case DELETE_SQ:
		return delete_sq(n, c);
	case CREATE_SQ:
		return create_sq(n, c);
	case GET_LOG:
		return get_log(n, r);
	case DELETE_CQ:
		return delete_cq(n, c);
	case CREATE_CQ:
		return create_cq(n, c);
	case IDENTIFY:
		return identify(n, r);
	case ABORT:
		r->result = 1; /* it was not: it ends by itself */
		return NVME_OK;
	case SET_FEATURES:
		return do_feature(n, r, true);
	case GET_FEATURES:
		return do_feature(n, r, false);
	case ASK_FOR_EVENT:
		return keep_event(n, c);
	case SHADOW_DOORBELLS:
		return set_shadow(n, c);
	default:
		return NVME_INVALID_OPCODE;
	}
}
