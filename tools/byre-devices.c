/* SPDX-License-Identifier: BSD-2-Clause */
/* Networks, consoles, the balloon: what is said of them and what it opens. */
#include "tools/byre-devices.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/math.h"
#include "base/opts.h"
#include "tools/common.h"

#define SECOND 1000000000ull

/* ---- networks -------------------------------------------------------------------- */

/* "hostfwd=" may be there several times: each becomes a key of its own. */
static char *number_forwards(const char *text)
{
	static const char key[] = "hostfwd=";
	size_t room = 2 * strlen(text) + 1, n = 0;
	unsigned number = 0;
	char *out = malloc(room);

	for (const char *p = text; out && *p;) {
		if (p == text || p[-1] != ',' || strncmp(p, key, sizeof(key) - 1) != 0) {
			out[n++] = *p++;
			continue;
		}
		n += (size_t)snprintf(out + n, room - n, "hostfwd.%u=", number++);
		p += sizeof(key) - 1;
	}
	if (out)
		out[n] = 0;
	return out;
}

static int parse_mac(const char *text, uint8_t mac[6], struct err *err)
{
	unsigned b[6];
	int end = 0;

	if (sscanf(text, "%2x:%2x:%2x:%2x:%2x:%2x%n", b, b + 1, b + 2, b + 3, b + 4,
		    b + 5, &end) != 6 ||
		text[end] || strlen(text) != 17 || (b[0] & 1))
		return err_set(err, EINVAL,
			"mac: '%s' is not a station's address like 52:54:00:12:34:56",
			text);
	for (unsigned i = 0; i < 6; i++)
		mac[i] = (uint8_t)b[i];
	return 0;
}

static int take_mac(struct opts *opts, uint8_t mac[6], struct err *err)
{
	const char *text = opts_take(opts, "mac");

	if (text)
		return parse_mac(text, mac, err);
	mac[0] = 0x52;
	mac[1] = 0x54;
	mac[2] = 0;
	if (getrandom(mac + 3, 3, 0) != 3)
		return err_errno(err, errno, "mac");
	return 0;
}

static int take_card(struct opts *opts, struct virtio_net_options *n, uint64_t *queues,
	struct err *err)
{
	uint64_t mtu = 0;
	int ret = take_mac(opts, n->mac, err);

	ret = ret ? ret : opts_take_u64(opts, "queues", queues, err);
	ret = ret ? ret : opts_take_u64(opts, "mtu", &mtu, err);
	ret = ret ? ret : opts_take_bool(opts, "packed", &n->packed, err);
	if (ret == 0 && (*queues < 1 || *queues > NET_QUEUES_MAX))
		ret = err_set(err, EINVAL, "queues: 1 to %u", NET_QUEUES_MAX);
	if (ret == 0 && mtu && (mtu < 68 || mtu > 65535))
		ret = err_set(err, EINVAL, "mtu: 68 to 65535");
	n->mtu = (uint16_t)mtu;
	return ret;
}

static int open_net(const char *text, struct virtio_net_options *n, struct err *err)
{
	struct opts *opts = opts_new();
	char *numbered = number_forwards(text);
	const char *kind;
	uint64_t queues = 1;
	int ret = numbered ? opts_parse(opts, numbered, "type", err)
			   : err_errno(err, ENOMEM, "net");

	kind = ret == 0 ? opts_take(opts, "type") : NULL;
	if (ret == 0 && !kind)
		ret = err_set(err, EINVAL, "it begins with user, tap or stream");
	ret = ret ? ret : take_card(opts, n, &queues, err);
	if (ret == 0) {
		n->net = net_open(kind, opts, (unsigned)queues, err);
		ret = n->net ? 0 : -err->code;
	}
	ret = ret ? ret : opts_check_unused(opts, err);
	opts_free(opts);
	free(numbered);
	return ret ? err_prefix(err, "--net %s", text) : 0;
}

/* ---- consoles -------------------------------------------------------------------- */

static int open_chardev(
	const char *option, const char *text, struct chardev **out, struct err *err)
{
	*out = chardev_open(text, err);
	if (!*out)
		return err_prefix(err, "%s", option);
	if (chardev_pty(*out))
		fprintf(stderr, "%s: %s\n", option, chardev_pty(*out));
	return 0;
}

static int open_consoles(
	const struct device_args *a, struct machine_options *o, struct err *err)
{
	bool console = a->console && strcmp(a->console, "none") != 0;
	int ret = console ? open_chardev("--console", a->console, &o->console, err) : 0;
	bool taken = o->console && chardev_is_stdio(o->console);
	const char *serial = a->serial ? a->serial : taken ? "none" : "stdio";

	ret = ret ? ret : open_chardev("--serial", serial, &o->serial, err);
	if (ret == 0 && taken && chardev_is_stdio(o->serial))
		ret = err_set(err, EINVAL,
			"--serial and --console: one of them can have stdio");
	return ret;
}

/* ---- the rest -------------------------------------------------------------------- */

static int parse_rng(const char *text, struct machine_options *o, struct err *err)
{
	struct opts *opts = opts_new();
	int ret = opts_parse(opts, text, "rng", err);

	ret = ret ? ret : opts_take_bool(opts, "rng", &o->rng, err);
	ret = ret ? ret : opts_check_unused(opts, err);
	opts_free(opts);
	return ret ? err_prefix(err, "--rng %s", text) : 0;
}

static int take_balloon(struct opts *opts, struct machine_options *o, struct err *err)
{
	struct balloon_options *b = &o->balloon_options;
	bool deflate = true, reporting = true;
	int ret = opts_take_bool(opts, "balloon", &o->balloon, err);

	ret = ret ? ret : opts_take_size(opts, "size", &b->target, err);
	ret = ret ? ret : opts_take_bool(opts, "deflate-on-oom", &deflate, err);
	ret = ret ? ret : opts_take_bool(opts, "reporting", &reporting, err);
	ret = ret ? ret : opts_take_seconds(opts, "stats", &b->stats_ns, err);
	b->no_deflate = !deflate;
	b->no_reporting = !reporting;
	if (ret == 0 && b->target > o->memory.bytes)
		ret = err_set(err, EINVAL, "size: the machine has less memory");
	return ret ? ret : opts_check_unused(opts, err);
}

static int parse_balloon(const char *text, struct machine_options *o, struct err *err)
{
	struct opts *opts = opts_new();
	int ret = opts_parse(opts, text, "balloon", err);

	o->balloon = true;
	ret = ret ? ret : take_balloon(opts, o, err);
	opts_free(opts);
	return ret ? err_prefix(err, "--balloon %s", text) : 0;
}

int devices_open(const struct device_args *a, struct machine_options *o, struct err *err)
{
	int ret = 0;

	o->rng = true;
	if (a->rng)
		ret = parse_rng(a->rng, o, err);
	if (ret == 0 && a->balloon)
		ret = parse_balloon(a->balloon, o, err);
	ret = ret ? ret : open_consoles(a, o, err);
	for (unsigned i = 0; i < a->n_nets && ret == 0; i++) {
		ret = open_net(a->net[i], &o->net[i], err);
		o->n_nets++;
	}
	return ret;
}

void devices_close(struct machine_options *o)
{
	for (unsigned i = 0; i < o->n_nets; i++)
		net_close(o->net[i].net);
	chardev_close(o->serial);
	chardev_close(o->console);
}
