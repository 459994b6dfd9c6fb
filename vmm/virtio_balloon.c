/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Virtio balloons. See virtio_balloon.h.
 *
 * A page that the guest puts into the balloon, or reports as free, is given back to the host; when
 * the guest touches it, it is there again, with zeros. So there is nothing to do for a page that
 * comes out of it, and a guest that lies about its pages harms itself. With pages of 2 MiB (--huge-pages) only whole ones
 * can be given back: that is what reports are made of, and the balloon's rarely.
 *
 * Statistics come in a buffer that is kept, and given back where new ones are wanted
 * (5.5.6.3).
 */
#include "vmm/virtio_balloon.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "base/aio.h"
#include "base/endian.h"
#include "base/iov.h"
#include "base/math.h"

#define PAGE_SHIFT 12
#define PAGES_MAX  65536u /* of one request */
#define PAGES_ONCE 1024u
#define STATS_MAX  64u /* of one report */

enum feature {
	F_STATS = 1,
	F_DEFLATE_ON_OOM = 2,
	F_REPORTING = 5,
};

/* struct virtio_balloon_config. */
enum config { CONFIG_PAGES = 0, CONFIG_ACTUAL = 4, CONFIG_BYTES = 8 };

/*
 * The specification numbers all five queues; Linux leaves out those whose feature was not
 * negotiated. So reports come by any of the last.
 */
enum { QUEUE_INFLATE, QUEUE_DEFLATE, QUEUE_STATS, QUEUES = 5 };

struct stat {
	le16 tag;
	le64 value;
};

struct balloon {
	struct virtio_device virtio; /* first */
	uint64_t stats_ns;

	pthread_mutex_t lock; /* around what follows */
	uint32_t pages;       /* that are asked for */
	struct balloon_stats stats;
};

static struct balloon *balloon_of(struct virtio_device *d)
{
	return (struct balloon *)d;
}

static void wait_for_guest(struct virtio_queue *q, int64_t timeout_ns)
{
	aio_poll(q->lane.event_fd, POLLIN, timeout_ns);
	virtio_clear_event(q);
}

/* ---- pages ----------------------------------------------------------------------- */

struct run {
	uint64_t first, pages;
};

static void discard_run(struct balloon *b, const struct run *r)
{
	const struct memory *m = &b->virtio.vm->memory;
	void *host = memory_at(m, r->first << PAGE_SHIFT, r->pages << PAGE_SHIFT);

	if (host && r->pages)
		memory_discard(m, host, r->pages << PAGE_SHIFT);
}

/* Neighbours go in one call, in whichever direction they come. What is not in memory is
 * nothing to give back, nor is it joined with what is. */
static void add_page(struct balloon *b, struct run *r, uint64_t page)
{
	if (!memory_at(&b->virtio.vm->memory, page << PAGE_SHIFT, 1u << PAGE_SHIFT))
		return;
	if (r->pages && page == r->first + r->pages) {
		r->pages++;
		return;
	}
	if (r->pages && page + 1 == r->first) {
		r->first--;
		r->pages++;
		return;
	}
	discard_run(b, r);
	*r = (struct run){page, 1};
}

static void inflate(struct balloon *b, struct virtio_chain *c)
{
	le32 pages[PAGES_ONCE];
	struct run r = {0, 0};
	uint64_t bytes = round_down(c->out_bytes, sizeof(*pages));

	for (uint64_t at = 0; at < bytes; at += sizeof(pages)) {
		size_t n = MIN(bytes - at, sizeof(pages));

		iov_to_buf(c->iov, (int)c->n_out, at, pages, n);
		for (size_t i = 0; i < n / sizeof(*pages); i++)
			add_page(b, &r, le32_get(pages[i]));
	}
	discard_run(b, &r);
}

static void serve_pages(struct balloon *b, struct virtio_chain *c, bool in)
{
	if (c->out_bytes > PAGES_MAX * sizeof(le32))
		virtio_break(&b->virtio, "more pages in a request than there may be");
	else if (in)
		inflate(b, c);
	virtio_done(c, 0);
}

/* The buffers are the free pages themselves. */
static void serve_report(struct balloon *b, struct virtio_chain *c)
{
	bool taken = virtio_has(&b->virtio, F_REPORTING);

	for (unsigned i = c->n_out; taken && i < c->n_out + c->n_in; i++)
		memory_discard(
			&b->virtio.vm->memory, c->iov[i].iov_base, c->iov[i].iov_len);
	virtio_done(c, 0);
}

/* ---- statistics ------------------------------------------------------------------ */

static void take_stats(struct balloon *b, struct virtio_chain *c)
{
	struct balloon_stats stats = {.when_ns = clock_ns()};
	struct stat s;

	for (unsigned i = 0; i < STATS_MAX && (i + 1) * sizeof(s) <= c->out_bytes; i++) {
		unsigned tag;

		iov_to_buf(c->iov, (int)c->n_out, i * sizeof(s), &s, sizeof(s));
		tag = le16_get(s.tag);
		if (tag >= BALLOON_STATS)
			continue;
		stats.has[tag] = true;
		stats.value[tag] = le64_get(s.value);
	}
	pthread_mutex_lock(&b->lock);
	b->stats = stats;
	pthread_mutex_unlock(&b->lock);
}

/* The one buffer is kept till it is time to ask again. A guest that offers another meanwhile gets the
 * first back. */
static void run_stats(struct balloon *b, struct virtio_queue *q)
{
	struct virtio_chain *kept = NULL, *c;
	uint64_t due = clock_ns() + b->stats_ns, now;

	while (!virtio_stopping(q)) {
		while ((c = virtio_take(q))) {
			if (kept)
				virtio_done(kept, 0);
			kept = c;
			take_stats(b, c);
		}
		now = clock_ns();
		if (now >= due) {
			if (kept)
				virtio_done(kept, 0);
			kept = NULL;
			due = now + b->stats_ns;
		}
		wait_for_guest(q, (int64_t)(due - now));
	}
	if (kept)
		virtio_hold(kept);
}

/* ---- queues ---------------------------------------------------------------------- */

static void serve(struct virtio_device *d, struct virtio_chain *c)
{
	struct balloon *b = balloon_of(d);

	if (c->q->index <= QUEUE_DEFLATE)
		serve_pages(b, c, c->q->index == QUEUE_INFLATE);
	else
		serve_report(b, c);
}

static bool run(struct virtio_device *d, struct virtio_queue *q)
{
	if (q->index != QUEUE_STATS || !virtio_has(d, F_STATS))
		return false;
	run_stats(balloon_of(d), q);
	return true;
}

/* ---- control --------------------------------------------------------------------- */

static void tell_pages(struct balloon *b, bool tell)
{
	le32 pages;

	pthread_mutex_lock(&b->lock);
	pages = le32_put(b->pages);
	virtio_set_config(&b->virtio, CONFIG_PAGES, &pages, sizeof(pages), tell);
	pthread_mutex_unlock(&b->lock);
}

static void set_pages(struct balloon *b, uint64_t target)
{
	uint64_t all = memory_bytes(&b->virtio.vm->memory);

	pthread_mutex_lock(&b->lock);
	b->pages = (uint32_t)((all - MIN(target, all)) >> PAGE_SHIFT);
	pthread_mutex_unlock(&b->lock);
}

void balloon_set_target(struct balloon *b, uint64_t bytes)
{
	set_pages(b, bytes);
	tell_pages(b, true);
}

static uint32_t guests_word(struct balloon *b)
{
	uint32_t word;

	pthread_mutex_lock(&b->virtio.config_lock);
	word = le32_load(b->virtio.config + CONFIG_ACTUAL);
	pthread_mutex_unlock(&b->virtio.config_lock);
	return word;
}

uint64_t balloon_actual(struct balloon *b)
{
	uint64_t all = memory_bytes(&b->virtio.vm->memory);

	return all - MIN((uint64_t)guests_word(b) << PAGE_SHIFT, all);
}

void balloon_get_stats(struct balloon *b, struct balloon_stats *out)
{
	pthread_mutex_lock(&b->lock);
	*out = b->stats;
	pthread_mutex_unlock(&b->lock);
}

/* The guest may say how much is in it, and nothing else. */
static void config_written(struct virtio_device *d, unsigned offset, unsigned bytes)
{
	(void)bytes;
	if (offset < CONFIG_ACTUAL)
		tell_pages(balloon_of(d), false);
}

/* ---- life ------------------------------------------------------------------------ */

/* The next driver begins with an empty one. */
static void reset(struct virtio_device *d)
{
	le32 none = le32_put(0);

	virtio_set_config(d, CONFIG_ACTUAL, &none, sizeof(none), false);
}

/* What is asked for is in the configuration, too, which has the last word: it may change while the
 * state is saved. */
static void balloon_state(struct virtio_device *d, struct state *s, unsigned version)
{
	struct balloon *b = balloon_of(d);
	uint32_t pages = b->pages;

	(void)version;
	state_u32(s, &pages);
	if (state_loading(s))
		pages = le32_load(d->config + CONFIG_PAGES);
	if (!state_check(s, pages <= memory_bytes(&d->vm->memory) >> PAGE_SHIFT,
		    "it asks for more memory than there is") ||
		!state_loading(s))
		return;
	b->pages = pages;
}

static void balloon_free(struct virtio_device *d)
{
	pthread_mutex_destroy(&balloon_of(d)->lock);
	free(d);
}

static const struct virtio_device_ops ops = {
	.name = "virtio-balloon",
	.id = 5,
	.class_code = 0x00ff00, /* none of PCI's classes */
	.version = 1,
	.serve = serve,
	.run = run,
	.config_written = config_written,
	.reset = reset,
	.state = balloon_state,
	.free = balloon_free,
};

int balloon_new(struct vm *vm, struct pci *pci, const struct balloon_options *o,
	struct balloon **out, struct err *err)
{
	struct balloon *b = calloc(1, sizeof(*b));
	int ret;

	if (!b)
		return err_errno(err, ENOMEM, "virtio-balloon");
	b->virtio.ops = &ops;
	b->virtio.vm = vm;
	b->virtio.n_queues = QUEUES;
	b->virtio.config_bytes = CONFIG_BYTES;
	b->virtio.features = (o->no_deflate ? 0 : 1u << F_DEFLATE_ON_OOM) |
			     (o->no_reporting ? 0 : 1u << F_REPORTING) |
			     (o->stats_ns ? 1u << F_STATS : 0);
	b->stats_ns = o->stats_ns;
	pthread_mutex_init(&b->lock, NULL);
	set_pages(b, o->target ? o->target : UINT64_MAX);
	le32_store(b->virtio.config + CONFIG_PAGES, b->pages);
	ret = virtio_add(&b->virtio, vm, pci, -1, err);
	if (ret) {
		balloon_free(&b->virtio);
		return ret;
	}
	if (out)
		*out = b;
	return 0;
}
