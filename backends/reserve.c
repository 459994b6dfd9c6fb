/* SPDX-License-Identifier: BSD-2-Clause */
/* Persistent reservations. See reserve.h. */
#include "backends/reserve.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/endian.h"
#include "base/json.h"
#include "base/math.h"

/* ---- keys ------------------------------------------------------------------------ */

#define HOST_BYTES 5
#define PID_MASK   0xffffffu

static bool is_host_char(unsigned char c)
{
	return isalnum(c) || c == '-' || c == '_';
}

uint64_t reserve_own_key(void)
{
	char host[65] = "host";
	uint64_t key = 0;
	size_t len, from;

	if (gethostname(host, sizeof(host) - 1) || !host[0])
		strcpy(host, "host");
	len = strcspn(host, ".");
	from = len > HOST_BYTES ? len - HOST_BYTES : 0;
	for (size_t i = from; i < from + HOST_BYTES; i++)
		key = key << 8 | (i < len ? (unsigned char)host[i] : 0);
	return key << 24 | ((uint64_t)getpid() & PID_MASK);
}

/* The host's part where the key is of our make. */
static bool host_of(uint64_t key, char host[HOST_BYTES + 1])
{
	size_t n = 0;

	for (int i = HOST_BYTES - 1; i >= 0; i--) {
		unsigned char c = key >> (24 + 8 * i) & 0xff;

		if (c ? !is_host_char(c) || (size_t)(HOST_BYTES - 1 - i) != n : n == 0)
			return false;
		if (c)
			host[n++] = (char)c;
	}
	host[n] = '\0';
	return (key & PID_MASK) != 0;
}

void reserve_name(uint64_t key, char name[RESERVE_NAME_MAX])
{
	char host[HOST_BYTES + 1];

	if (host_of(key, host))
		snprintf(name, RESERVE_NAME_MAX, "%s%s, pid %u",
			strlen(host) == HOST_BYTES ? "…" : "", host,
			(unsigned)(key & PID_MASK));
	else
		snprintf(name, RESERVE_NAME_MAX, "key 0x%" PRIx64, key);
}

/* ---- commands (SPC-4, 6.15 and 6.16) --------------------------------------------- */

#define OPCODE_IN 0x5e
#define IN_BYTES  (8 + 8 * RESERVE_KEYS_MAX)

enum { READ_KEYS = 0, READ_RESERVATION = 1, REPORT_CAPABILITIES = 2 };
#define WRITE_EXCLUSIVE_REGISTRANTS_ONLY 5

static int ask(reserve_run *run, void *ctx, int action, uint8_t *in, size_t *got)
{
	struct scsi_command c = {.cdb = {OPCODE_IN, (uint8_t)action},
		.cdb_bytes = 10,
		.in = in,
		.in_bytes = IN_BYTES};
	int ret;

	c.cdb[7] = IN_BYTES >> 8;
	c.cdb[8] = IN_BYTES & 0xff;
	ret = run(ctx, &c);
	*got = c.got;
	return ret;
}

static int tell(reserve_run *run, void *ctx, int action, uint64_t key,
	uint64_t action_key, bool persist)
{
	uint8_t out[BLK_PR_OUT_BYTES] = {0};
	struct scsi_command c = {.cdb = {RESERVE_OPCODE_OUT, (uint8_t)action,
					 WRITE_EXCLUSIVE_REGISTRANTS_ONLY},
		.cdb_bytes = 10,
		.out = out,
		.out_bytes = sizeof(out)};

	c.cdb[8] = BLK_PR_OUT_BYTES;
	be64_store(out, key);
	be64_store(out + 8, action_key);
	out[20] = persist;
	return run(ctx, &c);
}

int reserve_look(reserve_run *run, void *ctx, struct reserve_state *out)
{
	uint8_t in[IN_BYTES];
	size_t got;
	int ret = ask(run, ctx, READ_KEYS, in, &got);

	*out = (struct reserve_state){0};
	if (ret || got < 8)
		return ret ? ret : -EIO;
	got = MIN(got, (size_t)be32_load(in + 4) + 8);
	for (size_t at = 8; at + 8 <= got && out->n_keys < RESERVE_KEYS_MAX; at += 8)
		out->keys[out->n_keys++] = be64_load(in + at);
	ret = ask(run, ctx, READ_RESERVATION, in, &got);
	if (ret || got < 8)
		return ret ? ret : -EIO;
	out->held = be32_load(in + 4) >= 16 && got >= 24;
	if (out->held) {
		out->holder = be64_load(in + 8);
		out->type = in[21] & 0xf;
	}
	return 0;
}

/* A unit that can keeps it through a loss of power: else who comes back after one cannot know
 * whether another had it meanwhile. */
static bool can_persist(reserve_run *run, void *ctx)
{
	uint8_t in[IN_BYTES];
	size_t got;

	return ask(run, ctx, REPORT_CAPABILITIES, in, &got) == 0 && got >= 4 &&
	       (in[2] & 1);
}

bool reserve_is_ours(const struct reserve_state *now, uint64_t key)
{
	for (unsigned i = 0; i < now->n_keys; i++)
		if (now->keys[i] == key)
			return now->held && now->holder == key;
	return false;
}

/* The last word on persistence counts for everybody (SPC-4, 5.13.5), so each says the same. */
static void unregister(reserve_run *run, void *ctx, uint64_t key)
{
	tell(run, ctx, BLK_PR_REGISTER, key, 0, can_persist(run, ctx));
}

/* A path that is registered already, as all of a host's are by the kernel, is refused. */
static int enrol(reserve_run *run, void *ctx, uint64_t key)
{
	return tell(run, ctx, BLK_PR_REGISTER, 0, key, can_persist(run, ctx));
}

int reserve_take(reserve_run *run, void *ctx, uint64_t key, uint64_t *holder)
{
	struct reserve_state now;
	int ret = reserve_look(run, ctx, &now);

	*holder = now.holder;
	if (ret == 0 && now.held)
		ret = -EBUSY;
	if (ret)
		return ret;
	ret = enrol(run, ctx, key);
	if (ret == 0) {
		ret = tell(run, ctx, BLK_PR_RESERVE, key, 0, false);
		if (ret)
			unregister(run, ctx, key);
	}
	if (ret != -EBADE)
		return ret;
	/* Another was faster. */
	ret = reserve_look(run, ctx, &now);
	*holder = now.held ? now.holder : 0;
	return ret ? ret : -EBUSY;
}

int reserve_join(reserve_run *run, void *ctx, uint64_t key)
{
	struct reserve_state now;
	int ret = reserve_look(run, ctx, &now);

	if (ret == 0 && !reserve_is_ours(&now, key))
		ret = -EBADE;
	if (ret)
		return ret;
	ret = enrol(run, ctx, key);
	/* It may have been lost in between. */
	if (ret == 0)
		ret = reserve_look(run, ctx, &now);
	if (ret == 0 && !reserve_is_ours(&now, key)) {
		unregister(run, ctx, key);
		ret = -EBADE;
	}
	return ret;
}

/* Ends the registrations of a key, and what its paths had under way where the unit can. */
static int preempt(reserve_run *run, void *ctx, uint64_t key, uint64_t victim)
{
	int ret = tell(run, ctx, BLK_PR_PREEMPT_AND_ABORT, key, victim, false);

	return ret == 0 || ret == -EBADE
		       ? ret
		       : tell(run, ctx, BLK_PR_PREEMPT, key, victim, false);
}

void reserve_drop(reserve_run *run, void *ctx, uint64_t key)
{
	/* By another path that is closed after this one there is nothing left to do. */
	if (tell(run, ctx, BLK_PR_PREEMPT, key, key, false) == -EBADE)
		return;
	tell(run, ctx, BLK_PR_RELEASE, key, 0, false);
	unregister(run, ctx, key);
}

static bool is_registered(const struct reserve_state *now, uint64_t key)
{
	for (unsigned i = 0; i < now->n_keys; i++)
		if (now->keys[i] == key)
			return true;
	return false;
}

/* Where the path is registered under the victim's key itself: a program of this host, by the
 * kernel's paths. */
static void break_own(reserve_run *run, void *ctx, uint64_t victim)
{
	tell(run, ctx, BLK_PR_PREEMPT, victim, victim, false);
	tell(run, ctx, BLK_PR_RELEASE, victim, 0, false);
	unregister(run, ctx, victim);
}

int reserve_break(reserve_run *run, void *ctx, uint64_t key, uint64_t victim)
{
	struct reserve_state now;
	int ret = reserve_look(run, ctx, &now);

	if (ret || !is_registered(&now, victim))
		return ret ? ret : -ENOENT;
	ret = enrol(run, ctx, key);
	if (ret == 0) {
		ret = preempt(run, ctx, key, victim);
		tell(run, ctx, BLK_PR_RELEASE, key, 0, false);
		unregister(run, ctx, key);
	} else if (ret == -EBADE) {
		break_own(run, ctx, victim);
		ret = 0;
	}
	if (ret == 0)
		ret = reserve_look(run, ctx, &now);
	return ret == 0 && is_registered(&now, victim) ? -EBADE : ret;
}

int reserve_break_named(reserve_run *run, void *ctx, uint64_t key, const char *filename,
	const char *victim, struct err *err)
{
	uint64_t victim_key;
	char *end;
	int ret;

	errno = 0;
	victim_key = strtoull(victim, &end, 0);
	if (errno || *end || !victim_key)
		return err_set(err, EINVAL, "%s: '%s' is not a reservation's key",
			filename, victim);
	ret = reserve_break(run, ctx, key, victim_key);
	if (ret == -ENOENT)
		return err_set(err, ENOENT, "%s: nothing is registered under the key %s",
			filename, victim);
	return ret ? err_errno(err, -ret, "%s: cannot take the reservation from %s",
			     filename, victim)
		   : 0;
}

int reserve_pass(reserve_run *run, void *ctx, struct blk_pr *pr)
{
	struct scsi_command c = {.cdb = {pr->out ? RESERVE_OPCODE_OUT : OPCODE_IN,
					 pr->action, pr->out ? pr->scope_type : 0},
		.cdb_bytes = 10,
		.out = pr->out,
		.out_bytes = pr->out ? BLK_PR_OUT_BYTES : 0,
		.in = pr->out ? NULL : pr->in,
		.in_bytes = pr->out ? 0 : pr->in_bytes};
	int ret;

	be16_store(c.cdb + 7, (uint16_t)(c.out_bytes + c.in_bytes));
	ret = run(ctx, &c);
	pr->got = c.got;
	return ret;
}

int reserve_follow(reserve_run *run, void *ctx, uint64_t key)
{
	struct reserve_state now;
	int ret = reserve_look(run, ctx, &now);

	if (ret || (key && !is_registered(&now, key)))
		return ret;
	return tell(run, ctx, BLK_PR_REGISTER_IGNORING, 0, key, can_persist(run, ctx));
}

static struct json *holder_facts(uint64_t key, const struct reserve_state *now)
{
	bool holds = now->held && now->holder == key;
	char name[RESERVE_NAME_MAX], word[32];
	struct json *o = json_new_object();

	reserve_name(key, name);
	snprintf(word, sizeof(word), "0x%" PRIx64, key);
	json_put_string(o, "holder", word);
	json_put_string(o, "kind", holds ? "reservation" : "registration");
	json_put_string(o, "name", name);
	return o;
}

void reserve_describe(const struct reserve_state *now, struct json *array)
{
	for (unsigned i = 0; i < now->n_keys; i++) {
		bool again = false;

		for (unsigned j = 0; j < i; j++)
			again |= now->keys[j] == now->keys[i];
		if (!again)
			json_add(array, holder_facts(now->keys[i], now));
	}
}
