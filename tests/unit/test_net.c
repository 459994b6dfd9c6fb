/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A virtio network card as a driver sees it, on a stream socket whose other end the test has, and on
 * the network in user mode: packets of all sizes in buffers of all shapes, what the guest does
 * not want, a peer that does not read, what is saved; and rings and peers that make no sense.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/endian.h"
#include "base/math.h"
#include "tests/unit/support_driver.h"
#include "vmm/virtio_net.h"

#define RX        0
#define TX        1
#define CTRL      2
#define HEADER    12u
#define MERGED    (1u << 15)
#define STATUS    (1u << 16)
#define CTRL_VQ   (1u << 17)
#define CTRL_RX   (1u << 18)
#define CTRL_VLAN (1u << 19)
#define EXTRA     (1u << 20)
#define ANNOUNCE  (1u << 21)
#define CTRL_MAC  (1u << 23)
#define OUT       DRIVER_BUFFERS
#define IN        (DRIVER_BUFFERS + 0x100000)
#define COMMAND   (DRIVER_BUFFERS + 0x800000)

static struct driver d;
static struct net *net;
static struct virtio_net *card;
static int peer;

static const uint8_t own_mac[6] = {0x52, 0x54, 0, 1, 2, 3};

static int make(void **state)
{
	struct virtio_net_options o = {
		.mac = {0x52, 0x54, 0, 1, 2, 3}, .mtu = 1400, .packed = true};
	struct opts *opts = opts_new();
	struct err err = ERR_INIT;
	int fds[2];

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	peer = fds[0];
	opts_setf(opts, "fd", "%d", fds[1]);
	o.net = net = net_open("stream", opts, 1, &err);
	assert_non_null(net);
	opts_free(opts);
	driver_make(&d);
	assert_int_equal(virtio_net_new(&d.guest.vm, d.guest.pci, &o, &card, &err), 0);
	driver_start(&d, 1);
	return 0;
}

static int unmake(void **state)
{
	(void)state;
	driver_free(&d);
	net_close(net);
	if (peer >= 0)
		close(peer);
	return 0;
}

/* ---- the peer -------------------------------------------------------------------- */

static void peer_take(void *data, size_t bytes)
{
	for (size_t n = 0; n < bytes;) {
		struct pollfd p = {.fd = peer, .events = POLLIN};
		ssize_t got;

		assert_int_equal(poll(&p, 1, 20000), 1);
		got = read(peer, (uint8_t *)data + n, bytes - n);
		assert_true(got > 0);
		n += (size_t)got;
	}
}

static void peer_expect(const uint8_t *packet, uint32_t bytes)
{
	uint8_t length[4], *got = malloc(bytes);

	peer_take(length, 4);
	assert_int_equal(be32_load(length), bytes);
	peer_take(got, bytes);
	assert_memory_equal(got, packet, bytes);
	free(got);
}

static void peer_give(const uint8_t *packet, uint32_t bytes)
{
	be32 length = be32_put(bytes);

	assert_int_equal(write(peer, &length, 4), 4);
	assert_int_equal(write(peer, packet, bytes), bytes);
}

/* ---- the guest ------------------------------------------------------------------- */

static unsigned seed;

static uint8_t *random_packet(uint32_t bytes)
{
	uint8_t *p = malloc(bytes);

	for (uint32_t i = 0; i < bytes; i++)
		p[i] = (uint8_t)rand_r(&seed);
	return p;
}

/* A packet in so many pieces, the header being cut, too. */
static void offer_packet(const uint8_t *packet, uint32_t bytes, unsigned pieces)
{
	uint32_t all = HEADER + bytes, done = 0;
	uint8_t *out = driver_at(&d, OUT);

	memset(out, 0, HEADER);
	memcpy(out + HEADER, packet, bytes);
	for (unsigned i = 0; i < pieces; i++) {
		uint32_t n = i + 1 < pieces ? all / pieces : all - done;

		driver_put(&d, TX, i, OUT + done, n, i + 1 < pieces ? DRIVER_NEXT : 0,
			i + 1);
		done += n;
	}
	driver_offer(&d, TX, 0);
}

static void send_packet(const uint8_t *packet, uint32_t bytes, unsigned pieces)
{
	offer_packet(packet, bytes, pieces);
	driver_wait(&d, TX, d.offered[TX]);
	assert_false(driver_broken(&d));
}

static uint64_t buffer_at(unsigned i)
{
	return IN + (uint64_t)i * 0x20000;
}

/* n buffers to receive, with heads from 0 on. */
static void offer_buffers(unsigned n, uint32_t bytes)
{
	for (unsigned i = 0; i < n; i++) {
		driver_put(&d, RX, i, buffer_at(i), bytes, DRIVER_WRITE, 0);
		driver_offer(&d, RX, (uint16_t)i);
	}
}

/* What has come since `first` was used, as one packet; all its buffers were used at once. */
static uint32_t gather(unsigned first, uint8_t *packet)
{
	const uint8_t *head = driver_at(&d, buffer_at(driver_used_head(&d, RX, first)));
	unsigned n = le16_load(head + 10);
	uint32_t bytes = 0;

	assert_int_equal(driver_used(&d, RX), (uint16_t)(first + n));
	for (unsigned i = 0; i < n; i++) {
		uint32_t here = driver_used_bytes(&d, RX, first + i),
			 skip = i ? 0 : HEADER;

		memcpy(packet + bytes,
			(uint8_t *)driver_at(
				&d, buffer_at(driver_used_head(&d, RX, first + i))) +
				skip,
			here - skip);
		bytes += here - skip;
	}
	return bytes;
}

static unsigned command(unsigned class, unsigned number, const void *data, uint32_t bytes)
{
	uint8_t *at = driver_at(&d, COMMAND);
	unsigned i = 1;

	at[0] = (uint8_t) class;
	at[1] = (uint8_t)number;
	if (bytes)
		memcpy(at + 2, data, bytes);
	at[0x20000] = 0xee;
	driver_put(&d, CTRL, 0, COMMAND, 2, DRIVER_NEXT, 1);
	if (bytes)
		driver_put(&d, CTRL, i++, COMMAND + 2, bytes, DRIVER_NEXT, 2);
	driver_put(&d, CTRL, i, COMMAND + 0x20000, 1, DRIVER_WRITE, 0);
	driver_offer(&d, CTRL, 0);
	driver_wait(&d, CTRL, d.offered[CTRL]);
	return at[0x20000];
}

/* ---- as it should be ------------------------------------------------------------- */

static void it_says_what_it_is(void **state)
{
	uint64_t features = driver_features(&d);

	(void)state;
	assert_true(features & MERGED && features & CTRL_VQ && features & 1u << 3);
	assert_false(features & 1u); /* checksums: the peer would not know what is left */
	for (unsigned i = 0; i < 6; i++)
		assert_int_equal(driver_config(&d, i, 1), own_mac[i]);
	assert_int_equal(driver_config(&d, 6, 2), 1);
	assert_int_equal(driver_config(&d, 8, 2), 1);
	assert_int_equal(driver_config(&d, 10, 2), 1400);
}

static void packets_of_all_sizes_go_out(void **state)
{
	(void)state;
	driver_set_up(&d, MERGED | CTRL_VQ, 3);
	seed = 1;
	for (unsigned i = 0; i < 500; i++) {
		uint32_t bytes = 14 + (unsigned)rand_r(&seed) % (i % 10 ? 1500 : 60000);
		uint8_t *p = random_packet(bytes);

		send_packet(p, bytes, 1 + (unsigned)rand_r(&seed) % 9);
		peer_expect(p, bytes);
		free(p);
	}
}

/* The driver fills the queue up, the peer sends, whatever size the buffers have. */
static void packets_of_all_sizes_come_in(void **state)
{
	static const uint32_t sizes[] = {1526, 2048, 70000, 300};
	uint8_t *got = malloc(70000);

	(void)state;
	seed = 2;
	for (unsigned k = 0; k < ARRAY_LEN(sizes); k++) {
		uint16_t used = 0;

		driver_set_up(&d, MERGED, 2);
		offer_buffers(50, sizes[k]);
		for (unsigned i = 0; i < 200; i++) {
			uint32_t most = MIN(40 * sizes[k], 65000u);
			uint32_t bytes = 14 + (unsigned)rand_r(&seed) %
						      (i % 10 ? 1500 : most - 26);
			uint8_t *p = random_packet(bytes);
			uint16_t n = (uint16_t)div_round_up(HEADER + bytes, sizes[k]);

			peer_give(p, bytes);
			driver_wait(&d, RX, (uint16_t)(used + n));
			assert_int_equal(gather(used, got), bytes);
			assert_memory_equal(got, p, bytes);
			for (unsigned j = 0; j < n; j++, used++)
				driver_offer(
					&d, RX, (uint16_t)driver_used_head(&d, RX, used));
			free(p);
		}
	}
	free(got);
}

static void without_mergeable_buffers_a_packet_has_one_chain(void **state)
{
	uint8_t *p = random_packet(3000), *got = malloc(3000);

	(void)state;
	driver_set_up(&d, 0, 2);
	offer_buffers(3, 1526);
	peer_give(p, 3000); /* lost */
	peer_give(p, 1000);
	driver_wait(&d, RX, 1);
	assert_int_equal(gather(0, got), 1000);
	assert_memory_equal(got, p, 1000);
	usleep(20000);
	assert_int_equal(driver_used(&d, RX), 1);
	free(got);
	free(p);
}

/* Both layouts of rings, with event indexes: what is used at once is seen at once, whatever interrupts the
 * driver wants. */
static void a_packet_in_several_buffers_comes_at_once(void **state)
{
	static const uint64_t layouts[] = {0, 1ull << VIRTIO_F_EVENT_IDX,
		1ull << VIRTIO_F_RING_PACKED,
		1ull << VIRTIO_F_RING_PACKED | 1ull << VIRTIO_F_EVENT_IDX};
	uint64_t address[DRIVER_SIZE];
	struct guest *g = &d.guest;

	(void)state;
	seed = 4;
	for (unsigned k = 0; k < ARRAY_LEN(layouts); k++) {
		guest_set_up(g, MERGED | layouts[k], 2, DRIVER_SIZE);
		for (unsigned i = 0; i < DRIVER_SIZE; i++) {
			struct guest_buffer b = {buffer_at(i), 1526, true};

			address[guest_offer(g, RX, &b, 1)] = buffer_at(i);
		}
		for (unsigned i = 0; i < 200; i++) {
			uint32_t bytes = 14 + (unsigned)rand_r(&seed) % 9000, written,
				 done = 0;
			uint8_t *p = random_packet(bytes);
			unsigned n = 1, left;

			peer_give(p, bytes);
			for (left = 1; left; left--) {
				int id = done ? guest_done(g, RX, &written)
					      : guest_wait(g, RX, &written);
				uint32_t skip = done ? 0 : HEADER;
				const uint8_t *at;
				struct guest_buffer b;

				assert_true(id >= 0);
				at = guest_at(g, address[id]);
				if (!done)
					left = n = le16_load(at + 10);
				assert_memory_equal(at + skip, p + done, written - skip);
				done += written - skip;
				b = (struct guest_buffer){address[id], 1526, true};
				address[guest_offer(g, RX, &b, 1)] = b.address;
			}
			assert_int_equal(done, bytes);
			assert_int_equal(n, div_round_up(HEADER + bytes, 1526));
			free(p);
		}
	}
}

/* ---- what the guest wants -------------------------------------------------------- */

/* Whether a frame for this station, with this tag, comes in; one that always does follows it. */
static bool comes(const uint8_t mac[6], unsigned vlan)
{
	static uint16_t mark;
	uint8_t p[64] = {0}, last[64] = {0}, got[64];
	uint16_t used = driver_used(&d, RX);
	bool came;

	memcpy(p, mac, 6);
	memcpy(last, own_mac, 6);
	last[20] = (uint8_t)++mark;
	if (vlan) {
		be16_store(p + 12, 0x8100);
		be16_store(p + 14, (uint16_t)(vlan | 0x6000));
	}
	peer_give(p, 64);
	peer_give(last, 64);
	for (;;) {
		driver_wait(&d, RX, (uint16_t)(used + 1));
		memcpy(got,
			(uint8_t *)driver_at(
				&d, buffer_at(driver_used_head(&d, RX, used))) +
				HEADER,
			64);
		driver_offer(&d, RX, (uint16_t)driver_used_head(&d, RX, used));
		came = memcmp(got, last, 64) != 0;
		if (!came)
			return false;
		assert_memory_equal(got, p, 64);
		used++;
		driver_wait(&d, RX, (uint16_t)(used + 1));
		driver_offer(&d, RX, (uint16_t)driver_used_head(&d, RX, used));
		return true;
	}
}

static const uint8_t everybody[6] = {255, 255, 255, 255, 255, 255};
static const uint8_t group[6] = {1, 0, 0x5e, 0, 0, 1},
		     other_group[6] = {1, 0, 0x5e, 0, 0, 2};
static const uint8_t station[6] = {2, 0, 0, 0, 0, 1}, other[6] = {2, 0, 0, 0, 0, 2};

static void set_mode(unsigned mode, uint8_t on)
{
	assert_int_equal(command(0, mode, &on, 1), 0);
}

static void only_what_is_wanted_comes(void **state)
{
	struct {
		le32 n;
		uint8_t mac[1][6];
		le32 n_groups;
		uint8_t group[1][6];
	} __attribute__((packed))
	table = {le32_put(1), {{2, 0, 0, 0, 0, 1}}, le32_put(1), {{1, 0, 0x5e, 0, 0, 1}}};

	(void)state;
	driver_set_up(&d, MERGED | CTRL_VQ | CTRL_RX | EXTRA | CTRL_MAC, 3);
	offer_buffers(8, 1526);
	assert_true(comes(other, 0));
	set_mode(0, 0);
	assert_false(comes(other, 0));
	assert_true(comes(own_mac, 0));
	assert_true(comes(everybody, 0));
	assert_false(comes(group, 0));
	set_mode(1, 1);
	assert_true(comes(group, 0));
	set_mode(1, 0);
	assert_int_equal(command(1, 0, &table, sizeof(table)), 0);
	assert_true(comes(group, 0));
	assert_false(comes(other_group, 0));
	assert_true(comes(station, 0));
	assert_false(comes(other, 0));
	set_mode(3, 1);
	assert_false(comes(group, 0));
	set_mode(5, 1);
	assert_false(comes(everybody, 0));
	set_mode(2, 1);
	assert_true(comes(other, 0));
}

static void of_tagged_frames_those_of_its_lans_come(void **state)
{
	le16 five = le16_put(5);

	(void)state;
	driver_set_up(&d, MERGED | CTRL_VQ | CTRL_VLAN, 3);
	offer_buffers(8, 1526);
	assert_true(comes(other, 0));
	assert_false(comes(other, 5));
	assert_int_equal(command(2, 0, &five, 2), 0);
	assert_true(comes(other, 5));
	assert_false(comes(other, 6));
	assert_int_equal(command(2, 1, &five, 2), 0);
	assert_false(comes(other, 5));
}

static void commands_that_make_no_sense_are_refused(void **state)
{
	uint8_t bytes[600] = {0};
	le32 many = le32_put(UINT32_MAX);
	le16 four = le16_put(4096);

	(void)state;
	driver_set_up(&d, CTRL_VQ | CTRL_RX | CTRL_VLAN | CTRL_MAC, 3);
	assert_int_equal(command(0, 0, NULL, 0), 1);
	assert_int_equal(command(0, 2, bytes, 1), 1); /* not negotiated */
	assert_int_equal(command(0, 99, bytes, 1), 1);
	assert_int_equal(command(1, 0, &many, 4), 1);
	assert_int_equal(command(1, 0, bytes, 4), 1); /* half of it */
	assert_int_equal(command(1, 0, bytes, 8), 0);
	assert_int_equal(command(1, 1, bytes, 5), 1);
	assert_int_equal(command(2, 0, &four, 2), 1);
	assert_int_equal(command(2, 2, bytes, 2), 1);
	assert_int_equal(command(4, 0, &four, 2), 1);
	assert_int_equal(command(77, 0, bytes, 600), 1);
	assert_false(driver_broken(&d));
}

/* ---- the link, stopping, state --------------------------------------------------- */

static void wait_status(unsigned status)
{
	for (unsigned i = 0; i < 50000 && driver_config(&d, 6, 2) != status; i++)
		usleep(100);
	assert_int_equal(driver_config(&d, 6, 2), status);
}

static void a_cable_that_is_pulled_takes_nothing(void **state)
{
	uint8_t *p = random_packet(100);

	(void)state;
	driver_set_up(&d, MERGED | STATUS, 2);
	virtio_net_set_link(card, false);
	assert_int_equal(driver_config(&d, 6, 2), 0);
	send_packet(p, 100, 1);
	virtio_net_set_link(card, true);
	assert_int_equal(driver_config(&d, 6, 2), 1);
	p[0] ^= 1;
	send_packet(p, 100, 1);
	peer_expect(p, 100);
	free(p);
}

static void the_link_is_down_when_the_peer_has_gone(void **state)
{
	uint8_t *p = random_packet(100);

	(void)state;
	driver_set_up(&d, MERGED | STATUS, 2);
	offer_buffers(4, 1526);
	close(peer);
	peer = -1;
	wait_status(0);
	send_packet(p, 100, 1);
	free(p);
}

static void a_peer_that_sends_nonsense_is_left(void **state)
{
	uint8_t length[4] = {0xff, 0xff, 0xff, 0xff};

	(void)state;
	driver_set_up(&d, MERGED | STATUS, 2);
	offer_buffers(4, 1526);
	assert_int_equal(write(peer, length, 4), 4);
	wait_status(0);
	assert_false(driver_broken(&d));
}

/* The queue is full of packets that a peer does not read; the machine stops and goes on, and each
 * arrives once. */
static void a_slow_peer_is_waited_for_across_a_stop(void **state)
{
	const unsigned n = 60;
	const uint32_t bytes = 30000;

	(void)state;
	driver_set_up(&d, MERGED, 2);
	for (unsigned i = 0; i < n; i++) {
		uint64_t at = OUT + (uint64_t)i * 0x8000;
		uint8_t *p = driver_at(&d, at);

		memset(p, 0, HEADER);
		memset(p + HEADER, (int)i + 1, bytes);
		driver_put(&d, TX, i, at, HEADER + bytes, 0, 0);
		driver_offer(&d, TX, (uint16_t)i);
	}
	usleep(100000);
	assert_true(driver_used(&d, TX) < n);
	driver_stop(&d);
	driver_check_state(&d);
	driver_go_on(&d);
	for (unsigned i = 0; i < n; i++) {
		uint8_t *p = malloc(bytes);

		memset(p, (int)i + 1, bytes);
		peer_expect(p, bytes);
		free(p);
	}
	driver_wait(&d, TX, (uint16_t)n);
}

static void what_it_was_told_is_saved(void **state)
{
	const uint8_t mac[6] = {2, 0, 0, 0, 0, 9};
	uint8_t *saved;
	size_t bytes;

	(void)state;
	driver_set_up(&d, MERGED | STATUS | CTRL_VQ | CTRL_RX | CTRL_MAC | ANNOUNCE, 3);
	offer_buffers(8, 1526);
	set_mode(0, 0);
	assert_int_equal(command(1, 1, mac, 6), 0);
	assert_int_equal(driver_config(&d, 5, 1), 9);
	driver_stop(&d);
	driver_check_state(&d);
	saved = guest_save(&d.guest, &bytes);
	driver_go_on(&d);
	driver_set(&d, 0x14, 1, 0);
	assert_int_equal(driver_config(&d, 5, 1), own_mac[5]);
	driver_stop(&d);
	assert_int_equal(guest_load(&d.guest, saved, bytes), 0);
	driver_go_on(&d);
	free(saved);
	assert_int_equal(driver_config(&d, 5, 1), 9);
	wait_status(3); /* it is to say where it is now */
	assert_int_equal(command(3, 0, NULL, 0), 0);
	assert_int_equal(driver_config(&d, 6, 2), 1);
	{
		uint8_t p[64] = {0}, got[64];

		peer_give(p, 64); /* not for it */
		memcpy(p, mac, 6);
		peer_give(p, 64);
		driver_wait(&d, RX, 1);
		assert_int_equal(gather(0, got), 64);
		assert_memory_equal(got, p, 64);
	}
}

/* Its section is the first, and the card's own part the last of it. */
static size_t bytes_of_card(void)
{
	struct state *s = state_new();
	struct device *dev = d.guest.vm.devices;
	size_t bytes;

	state_begin(s, dev->ops->name, dev->instance, 1);
	dev->ops->state(dev, s, 1);
	state_end(s);
	state_data(s, &bytes);
	state_free(s);
	return bytes;
}

static void a_state_that_cannot_be_is_refused(void **state)
{
	uint8_t *saved;
	size_t bytes;

	(void)state;
	driver_set_up(&d, MERGED, 2);
	driver_stop(&d);
	saved = guest_save(&d.guest, &bytes);
	assert_int_equal(le16_load(saved + bytes_of_card() - 2), 1); /* pairs of queues */
	le16_store(saved + bytes_of_card() - 2, 99);
	assert_int_equal(guest_load(&d.guest, saved, bytes), -EINVAL);
	free(saved);
}

/* ---- as it should not ------------------------------------------------------------ */

static void expect_recovery(void)
{
	uint8_t *p = random_packet(200);

	driver_wait_broken(&d);
	driver_set_up(&d, MERGED | CTRL_VQ, 3);
	send_packet(p, 200, 2);
	peer_expect(p, 200);
	free(p);
}

static void chains_that_make_no_sense_break_the_card_till_reset(void **state)
{
	(void)state;
	driver_set_up(&d, MERGED | CTRL_VQ, 3);
	driver_put(&d, TX, 0, OUT, HEADER - 1, 0, 0); /* half a header */
	driver_offer(&d, TX, 0);
	expect_recovery();
	driver_put(&d, TX, 0, OUT, 100, DRIVER_WRITE, 0); /* nothing to send */
	driver_offer(&d, TX, 0);
	expect_recovery();
	driver_put(&d, RX, 0, IN, HEADER - 1, DRIVER_WRITE, 0);
	driver_offer(&d, RX, 0);
	driver_wait_broken(&d);
	driver_offer(&d, RX, 0); /* and it rings again */
	usleep(50000);
	expect_recovery();
	driver_put(&d, RX, 0, IN, 2000, 0, 0); /* nowhere to receive */
	driver_offer(&d, RX, 0);
	expect_recovery();
	driver_put(&d, CTRL, 0, COMMAND, 2, 0, 0); /* nowhere to answer */
	driver_offer(&d, CTRL, 0);
	expect_recovery();
	driver_put(&d, CTRL, 0, COMMAND, 1, DRIVER_WRITE, 0); /* no command */
	driver_offer(&d, CTRL, 0);
	expect_recovery();
	driver_put(&d, TX, 0, DRIVER_MEMORY - 8, 16, 0, 0);
	driver_offer(&d, TX, 0);
	expect_recovery();
}

static void packets_too_short_or_long_are_lost(void **state)
{
	uint8_t *p = random_packet(70000);

	(void)state;
	driver_set_up(&d, MERGED, 2);
	send_packet(p, 13, 1);
	send_packet(p, 0, 1);
	send_packet(p, 70000, 3);
	send_packet(p, 14, 1);
	peer_expect(p, 14);
	free(p);
}

/* The peer reads late, and gets each packet whole though the guest sends no other. */
static void what_a_full_socket_took_in_part_is_finished(void **state)
{
	uint8_t *p = random_packet(65000);
	int bytes = 16384;
	unsigned n = 0;

	(void)state;
	assert_int_equal(setsockopt(net->queue[0].write_fd, SOL_SOCKET, SO_SNDBUF, &bytes,
				 sizeof(bytes)),
		0);
	driver_set_up(&d, MERGED, 2);
	do {
		offer_packet(p, 65000, 2);
		usleep(20000);
	} while (driver_used(&d, TX) == ++n);
	for (unsigned i = 0; i < n; i++)
		peer_expect(p, 65000);
	driver_wait(&d, TX, d.offered[TX]);
	free(p);
}

/* Whatever is in the rings the process is well and a reset helps. The driver writes where the device
 * reads, on purpose: that is a race by any standard. */
static void random_rings(void **state)
{
	(void)state;
#ifdef __SANITIZE_THREAD__
	skip();
#endif
	seed = 3;
	for (unsigned i = 0; i < 1000; i++) {
		uint8_t junk[4096];

		driver_set_up(&d,
			(uint32_t)rand_r(&seed) &
				(MERGED | CTRL_RX | CTRL_VLAN | CTRL_MAC),
			3);
		for (unsigned k = 0; k < 24; k++) {
			static const uint64_t places[] = {
				OUT, IN, COMMAND, 0x100000, 0x110000, DRIVER_MEMORY - 1};

			driver_put(&d, k % 3, k / 3, places[rand_r(&seed) % 6],
				(unsigned)rand_r(&seed) % (k % 5 ? 300 : 200000),
				(unsigned)rand_r(&seed) % 8,
				(unsigned)rand_r(&seed) % 10);
		}
		for (unsigned k = 0; k < 6; k++)
			((uint8_t *)driver_at(&d, COMMAND))[k] =
				(uint8_t)(rand_r(&seed) % 5);
		for (unsigned q = 0; q < 3; q++)
			driver_offer(&d, q, (uint16_t)(rand_r(&seed) % 9));
		send(peer, "\0\0\0\20sixteen bytes...", 20, MSG_DONTWAIT);
		while (recv(peer, junk, sizeof(junk), MSG_DONTWAIT) > 0)
			;
	}
	driver_set_up(&d, MERGED | CTRL_VQ, 3);
	assert_int_equal(command(77, 0, NULL, 0), 1);
	assert_false(driver_broken(&d));
}

/* ---- in user mode ---------------------------------------------------------------- */

#ifdef HAVE_LIBSLIRP
static int make_user(void **state)
{
	struct virtio_net_options o = {.mac = {0x52, 0x54, 0, 1, 2, 3}};
	struct opts *opts = opts_new();
	struct err err = ERR_INIT;

	(void)state;
	peer = -1;
	o.net = net = net_open("user", opts, 1, &err);
	assert_non_null(net);
	opts_free(opts);
	driver_make(&d);
	assert_int_equal(virtio_net_new(&d.guest.vm, d.guest.pci, &o, &card, &err), 0);
	driver_start(&d, 1);
	return 0;
}

static void in_user_mode_the_host_answers(void **state)
{
	const uint8_t ask[42] = {255, 255, 255, 255, 255, 255, 0x52, 0x54, 0, 1, 2, 3, 8,
		6, 0, 1, 8, 0, 6, 4, 0, 1, 0x52, 0x54, 0, 1, 2, 3, 10, 0, 2, 15, 0, 0, 0,
		0, 0, 0, 10, 0, 2, 2};
	uint8_t got[1600];
	uint16_t used = 0;

	(void)state;
	driver_set_up(&d, MERGED, 2);
	offer_buffers(16, 1526);
	send_packet(ask, sizeof(ask), 1);
	do { /* it tells of its own IPv6 router, too */
		driver_wait(&d, RX, ++used);
		assert_true(gather(used - 1u, got) >= 42);
	} while (be16_load(got + 12) != 0x0806 && used < 15);
	assert_int_equal(be16_load(got + 20), 2); /* a reply */
	assert_memory_equal(got + 28, ask + 38, 4);
	assert_memory_equal(got, own_mac, 6);
}
#endif

static void what_cannot_be_opened_is_named(void **state)
{
	static const char *const texts[][3] = {
		{"stream", "fd=0x7fffffff", "fd"},
		{"stream", "path=nowhere.sock", "nowhere.sock"},
		{"stream", "", "path"},
		{"tap", "ifname=a-name-that-is-too-long", "ifname"},
		{"tap", "fd=0", "fd"},
		{"token", "", "token"},
#ifdef HAVE_LIBSLIRP
		{"user", "hostfwd=tcp:127.0.0.1:0-:80", "hostfwd"},
		{"user", "hostfwd=tcp:127.0.0.1:70000-:80", "hostfwd"},
		{"user", "hostfwd=sctp::80-:80", "hostfwd"},
		{"user", "hostfwd=tcp:1.2.3:80-:80", "hostfwd"},
		{"user", "hostfwd=tcp:127.0.0.1:80", "hostfwd"},
#endif
	};

	(void)state;
	for (unsigned i = 0; i < ARRAY_LEN(texts); i++) {
		struct opts *opts = opts_new();
		struct err err = ERR_INIT;

		assert_int_equal(opts_parse(opts, texts[i][1], NULL, &err), 0);
		assert_null(net_open(texts[i][0], opts, 1, &err));
		assert_non_null(strstr(err.msg, texts[i][2]));
		opts_free(opts);
	}
}

#define CARD_TEST(name) cmocka_unit_test_setup_teardown(name, make, unmake)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CARD_TEST(it_says_what_it_is),
		CARD_TEST(packets_of_all_sizes_go_out),
		CARD_TEST(packets_of_all_sizes_come_in),
		CARD_TEST(without_mergeable_buffers_a_packet_has_one_chain),
		CARD_TEST(a_packet_in_several_buffers_comes_at_once),
		CARD_TEST(only_what_is_wanted_comes),
		CARD_TEST(of_tagged_frames_those_of_its_lans_come),
		CARD_TEST(commands_that_make_no_sense_are_refused),
		CARD_TEST(a_cable_that_is_pulled_takes_nothing),
		CARD_TEST(the_link_is_down_when_the_peer_has_gone),
		CARD_TEST(a_peer_that_sends_nonsense_is_left),
		CARD_TEST(a_slow_peer_is_waited_for_across_a_stop),
		CARD_TEST(what_it_was_told_is_saved),
		CARD_TEST(a_state_that_cannot_be_is_refused),
		CARD_TEST(chains_that_make_no_sense_break_the_card_till_reset),
		CARD_TEST(packets_too_short_or_long_are_lost),
		CARD_TEST(what_a_full_socket_took_in_part_is_finished),
		CARD_TEST(random_rings),
#ifdef HAVE_LIBSLIRP
		cmocka_unit_test_setup_teardown(
			in_user_mode_the_host_answers, make_user, unmake),
#endif
		cmocka_unit_test(what_cannot_be_opened_is_named),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
