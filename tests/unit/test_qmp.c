/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The control socket without KVM: a machine whose thread does nothing but stand, go and answer calls.
 * First what clients do, then what no client should.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/math.h"
#include "base/task.h"
#include "tests/unit/support_bare.h"
#include "vmm/devices.h"
#include "vmm/disk.h"
#include "vmm/nodes.h"
#include "vmm/pci.h"
#include "vmm/qmp.h"

#define DISK_BYTES (1 * MiB)
#define OPEN       "{\"execute\": \"qmp_capabilities\"}"

static struct machine {
	struct vm vm;
	struct pci *pci;
	struct power *power;
	struct nodes nodes;
	struct disk *disk;
	struct qmp *qmp;
	pthread_t thread;
	int fd;
	char in[128 * KiB]; /* what came and was not looked at yet */
	size_t bytes;
} m;

static int room; /* of sockets for answers; 0: what they have */

/* ---- the machine ----------------------------------------------------------------- */

/* As vm_run(), of which this is what can be seen from outside. */
static void *stand_and_go(void *arg)
{
	bool ran = true;

	(void)arg;
	pthread_mutex_lock(&m.vm.lock);
	while (!m.vm.ending) {
		bool runs = m.vm.wanted == VM_STATUS_RUNNING;

		if (runs != ran) {
			ran = runs;
			pthread_mutex_unlock(&m.vm.lock);
			vm_notify(&m.vm, runs ? VM_EVENT_RESUME : VM_EVENT_STOP,
				VM_NOTHING);
			pthread_mutex_lock(&m.vm.lock);
		} else if (m.vm.calls) {
			struct vm_call *call = m.vm.calls;

			m.vm.calls = call->next;
			pthread_mutex_unlock(&m.vm.lock);
			call->fn(call->arg);
			pthread_mutex_lock(&m.vm.lock);
			call->done = true;
			pthread_cond_broadcast(&m.vm.changed);
		} else {
			pthread_cond_wait(&m.vm.changed, &m.vm.lock);
		}
	}
	m.vm.ended = true;
	pthread_cond_broadcast(&m.vm.changed);
	pthread_mutex_unlock(&m.vm.lock);
	return NULL;
}

static void end_machine(void)
{
	pthread_mutex_lock(&m.vm.lock);
	m.vm.ending = true;
	pthread_cond_broadcast(&m.vm.changed);
	pthread_mutex_unlock(&m.vm.lock);
	pthread_join(m.thread, NULL);
}

static int open_session(void)
{
	int ends[2];

	assert_int_equal(
		socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends),
		0);
	if (room) /* only root may have that much */
		setsockopt(ends[0], SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof(room));
	assert_int_equal(qmp_attach(m.qmp, ends[0], NULL), 0);
	return ends[1];
}

/* A disk of which write number `fail_at` fails, 0: none. */
static void make_disk(unsigned fail_at)
{
	struct disk_options o = {.id = "d0", .on_write_error = DISK_ENOSPC};
	struct opts *opts = opts_new();
	struct err err = ERR_INIT;

	opts_set(opts, "driver", "fault");
	opts_set(opts, "file.driver", "mem");
	opts_set(opts, "file.name", "qmp");
	opts_set(opts, "ops", "write");
	opts_setf(opts, "fail-at", "%u", fail_at);
	opts_set(opts, "errno", "ENOSPC");
	o.blk = blk_open(NULL, opts, BLK_O_RDWR, &err);
	opts_free(opts);
	if (!o.blk)
		fail_msg("%s", err.msg);
	assert_int_equal(blk_resize(o.blk, DISK_BYTES, BLK_PREALLOC_OFF, &err), 0);
	assert_int_equal(disk_new(&m.vm, &o, &m.disk, &err), 0);
	strcpy(m.disk->node, "n0");
	assert_int_equal(nodes_add(&m.nodes, "n0", o.blk, true, &err), 0);
}

static int make(void **state)
{
	struct qmp_machine parts = {.vm = &m.vm, .nodes = &m.nodes, .name = "guest"};
	struct err err = ERR_INIT;

	(void)state;
	memset(&m, 0, sizeof(m));
	bare_make(&m.vm, 16 * MiB);
	assert_int_equal(pci_new(&m.vm, &m.pci, &err), 0);
	assert_int_equal(power_new(&m.vm, &m.power, &err), 0);
	make_disk(2);
	parts.power = m.power;
	parts.pci = m.pci;
	m.qmp = qmp_new(&parts, &err);
	assert_non_null(m.qmp);
	m.fd = open_session();
	assert_int_equal(pthread_create(&m.thread, NULL, stand_and_go, NULL), 0);
	assert_int_equal(qmp_start(m.qmp, &err), 0);
	return 0;
}

static int make_with_room(void **state)
{
	int ret;

	room = 8 << 20;
	ret = make(state);
	room = 0;
	return ret;
}

static int unmake(void **state)
{
	struct err err = ERR_INIT;

	(void)state;
	end_machine();
	qmp_stop(m.qmp);
	qmp_free(m.qmp);
	close(m.fd);
	vm_free(&m.vm);
	return nodes_close_all(&m.nodes, &err);
}

/* ---- a client -------------------------------------------------------------------- */

static bool is_readable(int fd, int ms)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};

	return poll(&p, 1, ms) > 0;
}

/* The next line, without its end; NULL: it was closed, or nothing comes. */
static char *next_line(int fd)
{
	static char line[64 * KiB];
	char *end;

	while (!(end = memmem(m.in, m.bytes, "\r\n", 2))) {
		ssize_t n;

		if (!is_readable(fd, 10000))
			return NULL;
		n = read(fd, m.in + m.bytes, sizeof(m.in) - m.bytes);
		if (n <= 0)
			return NULL;
		m.bytes += (size_t)n;
	}
	assert_true((size_t)(end - m.in) < sizeof(line));
	memcpy(line, m.in, (size_t)(end - m.in));
	line[end - m.in] = 0;
	m.bytes -= (size_t)(end + 2 - m.in);
	memmove(m.in, end + 2, m.bytes);
	return line;
}

/* The next line has this in it. */
static void expect(const char *what)
{
	const char *line = next_line(m.fd);

	if (!line || !strstr(line, what))
		fail_msg("'%s' instead of '%s'", line ? line : "nothing", what);
}

static void say_bytes(const void *data, size_t bytes)
{
	const char *p = data;

	while (bytes) {
		ssize_t n = write(m.fd, p, bytes);

		if (n > 0) {
			p += n;
			bytes -= (size_t)n;
		} else if (errno == EAGAIN) {
			usleep(1000);
		} else {
			return; /* closed */
		}
	}
}

static void say(const char *text)
{
	say_bytes(text, strlen(text));
}

static void ask(const char *text, const char *answer)
{
	say(text);
	expect(answer);
}

static void negotiate(void)
{
	expect("{\"QMP\": {\"version\": {\"qemu\": {\"micro\": ");
	ask(OPEN, "{\"return\": {}}");
}

/* ---- as it should be ------------------------------------------------------------- */

static void a_session_begins_with_a_greeting_and_negotiation(void **state)
{
	(void)state;
	expect("{\"QMP\": {\"version\": {\"qemu\": {\"micro\": ");
	ask("{\"execute\": \"query-status\", \"id\": 1}", "\"CommandNotFound\"");
	ask("{\"execute\": \"qmp_capabilities\", \"arguments\": {\"enable\": [\"oob\"]}}",
		"\"GenericError\"");
	ask("{\"execute\": \"qmp_capabilities\", \"id\": {\"a\": [1, null]}}",
		"{\"return\": {}, \"id\": {\"a\": [1, null]}}");
	ask(OPEN, "\"CommandNotFound\"");
	ask("{\"execute\": \"query-status\", \"id\": \"x\"}",
		"{\"return\": {\"running\": true, \"singlestep\": false, \"status\": "
		"\"running\"}, \"id\": \"x\"}");
	ask("{\"execute\": \"query-name\"}", "{\"return\": {\"name\": \"guest\"}}");
	ask("{\"execute\": \"query-uuid\"}",
		"\"UUID\": \"00000000-0000-0000-0000-000000000000\"");
	ask("{\"execute\": \"query-commands\"}", "{\"name\": \"block_resize\"}");
	ask("{\"execute\": \"query-balloon\"}", "\"class\": \"DeviceNotActive\"");
	ask("{\"execute\": \"query-memory-size-summary\"}", "\"base-memory\": 16777216");
	ask("{\"execute\": \"query-pci\"}", "\"vendor\": 32902, \"device\": 4663");
	ask("{\"execute\": \"nothing\"}", "\"CommandNotFound\"");
}

static void commands_come_in_pieces_and_heaps(void **state)
{
	static const char text[] = OPEN " {\"execute\"\n: \"query-kvm\", \"id\": 7}\r\n";

	(void)state;
	expect("QMP");
	for (size_t i = 0; i + 1 < sizeof(text); i++)
		say_bytes(text + i, 1);
	expect("{\"return\": {}}");
	expect("\"present\": true}, \"id\": 7}");
	for (unsigned i = 0; i < 100; i++)
		say("{\"execute\": \"query-kvm\"}");
	for (unsigned i = 0; i < 100; i++)
		expect("\"present\": true");
}

static void it_stands_and_goes_and_everybody_hears_of_it(void **state)
{
	(void)state;
	negotiate();
	say("{\"execute\": \"stop\", \"id\": 1}");
	expect("\"event\": \"STOP\"");
	expect("{\"return\": {}, \"id\": 1}");
	ask("{\"execute\": \"query-status\"}", "\"status\": \"paused\"");
	say("{\"execute\": \"cont\", \"id\": 2}");
	expect("{\"timestamp\": {\"seconds\": ");
	expect("{\"return\": {}, \"id\": 2}");
	ask("{\"execute\": \"cont\"}", "{\"return\": {}}");
	vm_pause(&m.vm, VM_STATUS_SHUTDOWN);
	expect("\"event\": \"STOP\"");
	ask("{\"execute\": \"cont\"}", "\"GenericError\"");
	say("{\"execute\": \"system_powerdown\"}");
	expect("\"event\": \"POWERDOWN\"");
	expect("{\"return\": {}}");
	vm_notify(&m.vm, VM_EVENT_RESET, VM_RESET_OWNER);
	expect("\"event\": \"RESET\", \"data\": {\"guest\": false, \"reason\": "
	       "\"host-qmp-system-reset\"}");
	vm_notify(&m.vm, VM_EVENT_SHUTDOWN, VM_POWER_OFF);
	expect("\"event\": \"SHUTDOWN\", \"data\": {\"guest\": true, \"reason\": "
	       "\"guest-shutdown\"}");
}

static void a_machine_that_ended_is_said_to_have(void **state)
{
	(void)state;
	negotiate();
	end_machine();
	ask("{\"execute\": \"stop\"}", "\"GenericError\"");
	ask("{\"execute\": \"quit\"}", "{\"return\": {}}");
	vm_notify(&m.vm, VM_EVENT_SHUTDOWN, VM_QUIT);
	qmp_stop(m.qmp);
	expect("\"reason\": \"host-qmp-quit\"");
	assert_int_equal(pthread_create(&m.thread, NULL, stand_and_go, NULL), 0);
}

static void arguments_are_those_of_the_table(void **state)
{
	static const struct {
		const char *text, *answer;
	} rows[] = {
		{"\"block_resize\", \"arguments\": {\"device\": \"d0\"}",
			"'size' is missing"},
		{"\"block_resize\", \"arguments\": {\"device\": \"d0\", \"size\": \"1\"}",
			"'size' is to be an integer"},
		{"\"block_resize\", \"arguments\": {\"device\": 1, \"size\": 1}",
			"'device' is to be a string"},
		{"\"block_resize\", \"arguments\": {\"size\": 1}", "is needed"},
		{"\"block_resize\", \"arguments\": {\"device\": \"d0\", \"node-name\": "
		 "\"n0\", \"size\": 1}",
			"is needed"},
		{"\"block_resize\", \"arguments\": {\"device\": \"d1\", \"size\": 512}",
			"\"DeviceNotFound\""},
		{"\"block_resize\", \"arguments\": {\"device\": \"d0\", \"size\": -1}",
			"cannot be"},
		{"\"block_resize\", \"arguments\": {\"device\": \"d0\", \"size\": 5}",
			"multiple of 512"},
		{"\"query-kvm\", \"arguments\": {\"a\": 1}", "'a' is not known"},
		{"\"query-kvm\", \"arguments\": []", "'arguments'"},
		{"\"query-kvm\", \"what\": 1", "'what'"},
		{"7", "'execute'"},
		{"\"job-dismiss\", \"arguments\": {\"id\": \"x\"}",
			"\"DeviceNotActive\""},
		{"\"blockdev-add\"", "is missing"},
		{"\"blockdev-add\", \"arguments\": {\"driver\": \"mem\", \"node-name\": "
		 "\"d0\"}",
			"already"},
		{"\"device_add\", \"arguments\": {\"driver\": \"cow\", \"drive\": "
		 "\"n0\"}",
			"cannot be added"},
		{"\"device_add\", \"arguments\": {\"driver\": \"virtio-blk-pci\", "
		 "\"drive\": \"n0\", \"bus\": \"pci.1\"}",
			"no bus 'pci.1'"},
		{"\"device_del\", \"arguments\": {\"id\": \"/machine/peripheral/d1\"}",
			"no device 'd1'"},
		{"\"device_add\", \"arguments\": {\"driver\": \"virtio-blk-pci\", "
		 "\"drive\": \"n0\", \"colour\": 1}",
			"colour"},
		{"\"device_add\", \"arguments\": {\"driver\": \"virtio-blk-pci\", "
		 "\"drive\": \"n0\", \"serial\": \"123456789012345678901\"}",
			"longer than 20"},
		{"\"snapshot-save\", \"arguments\": {\"job-id\": \"j\", \"tag\": \"t\", "
		 "\"vmstate\": \"d0\", \"devices\": [\"d0\", 1]}",
			"strings"},
		{"\"snapshot-save\", \"arguments\": {\"job-id\": \"j\", \"tag\": \"t\", "
		 "\"devices\": []}",
			"'d0' is missing"},
		{"\"x-byre-add-disk\", \"arguments\": {\"options\": \"file=/nowhere\"}",
			"/nowhere"},
	};
	char text[512];

	(void)state;
	negotiate();
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		snprintf(text, sizeof(text), "{\"execute\": %s}", rows[i].text);
		ask(text, rows[i].answer);
	}
}

static void disks_are_told_of_and_changed(void **state)
{
	static uint8_t data[512];
	struct iovec iov = {data, sizeof(data)};

	(void)state;
	negotiate();
	ask("{\"execute\": \"query-block\"}",
		"[{\"device\": \"d0\", \"qdev\": \"d0\", \"type\": \"unknown\", "
		"\"locked\": "
		"false, \"removable\": false, \"io-status\": \"ok\", \"inserted\": "
		"{\"node-name\": \"n0\", \"drv\": \"fault\", \"ro\": false, ");
	ask("{\"execute\": \"query-named-block-nodes\", \"arguments\": {\"flat\": true}}",
		"\"virtual-size\": 1048576");
	assert_int_equal(disk_write(m.disk, 0, &iov, 1, 0), 0);
	assert_int_equal(disk_read(m.disk, 0, &iov, 1), 0);
	ask("{\"execute\": \"query-blockstats\"}",
		"\"wr_operations\": 1, \"failed_wr_operations\": 0, ");
	ask("{\"execute\": \"query-blockstats\"}", "\"wr_highest_offset\": 512, ");
	ask("{\"execute\": \"query-blockstats\"}", "\"invalid_unmap_operations\": 0, ");
	ask("{\"execute\": \"query-blockstats\"}", "\"timed_stats\": []");
	ask("{\"execute\": \"block_resize\", \"arguments\": {\"node-name\": \"n0\", "
	    "\"size\": 2097152}}",
		"{\"return\": {}}");
	assert_int_equal(disk_bytes(m.disk), 2 * MiB);
	ask("{\"execute\": \"block_set_io_throttle\", \"arguments\": {\"device\": "
	    "\"d0\", "
	    "\"bps\": 0, \"bps_rd\": 7, \"bps_wr\": 0, \"iops\": 20, \"iops_rd\": 0, "
	    "\"iops_wr\": 0}}",
		"{\"return\": {}}");
	ask("{\"execute\": \"query-block\"}",
		"\"bps\": 0, \"iops\": 20, \"bps_rd\": 7, \"iops_rd\": 0");
	ask("{\"execute\": \"block_set_io_throttle\", \"arguments\": {\"device\": "
	    "\"d0\", "
	    "\"bps\": 1, \"bps_rd\": 7, \"bps_wr\": 0, \"iops\": 20, \"iops_rd\": 0, "
	    "\"iops_wr\": 0}}",
		"not both");
	ask("{\"execute\": \"blockdev-snapshot-internal-sync\", \"arguments\": "
	    "{\"device\": \"d0\", \"name\": \"s\"}}",
		"\"GenericError\"");
}

static void a_failure_stops_the_machine_and_is_told(void **state)
{
	static uint8_t data[512];
	struct iovec iov = {data, sizeof(data)};

	(void)state;
	negotiate();
	assert_int_equal(disk_write(m.disk, 0, &iov, 1, 0), 0);
	assert_int_equal(disk_write(m.disk, 0, &iov, 1, 0), -ECANCELED);
	expect("\"event\": \"BLOCK_IO_ERROR\", \"data\": {\"device\": \"d0\", "
	       "\"node-name\": \"n0\", \"qom-path\": \"/machine/peripheral/d0\", "
	       "\"operation\": \"write\", "
	       "\"action\": \"stop\", \"nospace\": true, ");
	expect("\"event\": \"STOP\"");
	ask("{\"execute\": \"query-status\"}", "\"status\": \"io-error\"");
	ask("{\"execute\": \"query-block\"}", "\"io-status\": \"nospace\"");
	say("{\"execute\": \"cont\"}");
	expect("\"event\": \"RESUME\"");
	expect("{\"return\": {}}");
	assert_int_equal(disk_write(m.disk, 0, &iov, 1, 0), 0);
	ask("{\"execute\": \"query-block\"}", "\"io-status\": \"ok\"");
}

static void images_are_opened_and_closed_by_name(void **state)
{
	(void)state;
	negotiate();
	ask("{\"execute\": \"blockdev-add\", \"arguments\": {\"driver\": \"mem\", "
	    "\"name\": \"qmp2\", \"node-name\": \"n1\", \"size\": 4096}}",
		"{\"return\": {}}");
	ask("{\"execute\": \"query-named-block-nodes\"}", "\"node-name\": \"n1\"");
	ask("{\"execute\": \"blockdev-add\", \"arguments\": {\"driver\": \"mem\", "
	    "\"name\": \"qmp3\", \"node-name\": \"n1\"}}",
		"already");
	ask("{\"execute\": \"blockdev-add\", \"arguments\": {\"driver\": \"mem\", "
	    "\"name\": \"qmp3\", \"node-name\": \"n2\", \"colour\": {\"a\": 1}}}",
		"colour.a");
	/* The name of a node, which is no file's. */
	ask("{\"execute\": \"blockdev-add\", \"arguments\": {\"driver\": \"raw\", "
	    "\"node-name\": \"n2\", \"file\": \"n1\"}}",
		"'file' cannot be the name of another node");
	ask("{\"execute\": \"blockdev-add\", \"arguments\": {\"driver\": \"qcow2\", "
	    "\"node-name\": \"n2\", \"file\": {\"driver\": \"raw\", \"file\": \"n1\"}}}",
		"'file' cannot be the name of another node");
	ask("{\"execute\": \"blockdev-del\", \"arguments\": {\"node-name\": \"n0\"}}",
		"'d0' is using it");
	ask("{\"execute\": \"blockdev-del\", \"arguments\": {\"node-name\": \"n1\"}}",
		"{\"return\": {}}");
	ask("{\"execute\": \"blockdev-del\", \"arguments\": {\"node-name\": \"n1\"}}",
		"\"DeviceNotFound\"");
}

#define ADD_DISK_RAW(node)                                                               \
	"{\"execute\": \"blockdev-add\", \"arguments\": {\"node-name\": \"" node         \
	"\", \"driver\": \"raw\", \"file\": {\"driver\": \"file\", \"filename\": "       \
	"\"disk.raw\"}}}"

static void an_image_is_nobody_elses_meanwhile(void **state)
{
	FILE *disk = fopen("disk.raw", "w");

	(void)state;
	assert_non_null(disk);
	assert_int_equal(ftruncate(fileno(disk), 4096), 0);
	fclose(disk);
	negotiate();
	ask(ADD_DISK_RAW("n1"), "{\"return\": {}}");
	ask(ADD_DISK_RAW("n2"), "lock");
	ask("{\"execute\": \"blockdev-del\", \"arguments\": {\"node-name\": \"n1\"}}",
		"{\"return\": {}}");
	ask(ADD_DISK_RAW("n2"), "{\"return\": {}}");
	unlink("disk.raw");
}

static void a_job_goes_its_way(void **state)
{
	bool concluded = false, answered = false;
	const char *line;

	(void)state;
	negotiate();
	say("{\"execute\": \"snapshot-save\", \"arguments\": {\"job-id\": \"j\", "
	    "\"tag\": "
	    "\"t\", \"vmstate\": \"n0\", \"devices\": [\"d0\"]}}");
	expect("\"event\": \"JOB_STATUS_CHANGE\", \"data\": {\"id\": \"j\", \"status\": "
	       "\"created\"}");
	/* A disk without snapshots: it fails. The answer comes before the job's end or after. */
	while (!(concluded && answered) && (line = next_line(m.fd))) {
		assert_null(strstr(line, "pending"));
		concluded |= strstr(line, "concluded") != NULL;
		answered |= !strcmp(line, "{\"return\": {}}");
	}
	assert_true(concluded && answered);
	ask("{\"execute\": \"query-jobs\"}",
		"\"type\": \"snapshot-save\", \"status\": \"concluded\"");
	ask("{\"execute\": \"job-cancel\", \"arguments\": {\"id\": \"j\"}}", "cancelled");
	say("{\"execute\": \"job-dismiss\", \"arguments\": {\"id\": \"j\"}}");
	expect("\"status\": \"null\"");
	expect("{\"return\": {}}");
	ask("{\"execute\": \"query-jobs\"}", "{\"return\": []}");
	ask("{\"execute\": \"human-monitor-command\", \"arguments\": {\"command-line\": "
	    "\"savevm a\"}}",
		"{\"return\": \"Error: ");
	ask("{\"execute\": \"human-monitor-command\", \"arguments\": {\"command-line\": "
	    "\"savevm\"}}",
		"needs a name");
	ask("{\"execute\": \"human-monitor-command\", \"arguments\": {\"command-line\": "
	    "\"info snapshots\"}}",
		"There is no snapshot");
	ask("{\"execute\": \"human-monitor-command\", \"arguments\": {\"command-line\": "
	    "\"dance\"}}",
		"unknown command: 'dance'");
}

/* ---- as it should not ------------------------------------------------------------ */

static void nonsense_is_answered_and_forgotten(void **state)
{
	static const struct {
		const char *text;
		size_t bytes;
	} rows[] = {
		{"}", 1},
		{"[]", 2},
		{"7 ", 2},
		{"word ", 5},
		{"{\"execute\": \"query-kvm\",}", 25},
		{"{\"execute\": \"query-\0kvm\"", 20},
		{"{\"execute\": {\"a\": 1}}", 21},
		{"{\"execute\": \"query-kvm\n", 23},
		{"{\"a\": \xff", 7},
		{"{\"execute\": \"stop\", \"execute\": \"stop\"}", 38},
		{"{}", 2},
		{"{\"execute\": null}", 17},
		{"\0", 1},
	};
	char deep[65];

	(void)state;
	negotiate();
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		say_bytes(rows[i].text, rows[i].bytes);
		expect("{\"error\": {\"class\": \"GenericError\", \"desc\": ");
		ask("{\"execute\": \"query-kvm\"}", "\"present\": true");
	}
	memset(deep, '[', sizeof(deep));
	say_bytes(deep, sizeof(deep));
	expect("deeper");
	ask("{\"execute\": \"query-kvm\"}", "\"present\": true");
}

static void what_is_too_long_ends_the_session(void **state)
{
	static char big[64 * KiB];

	(void)state;
	negotiate();
	memset(big, ' ', sizeof(big));
	say("{");
	for (unsigned i = 0; i < 20; i++)
		say_bytes(big, sizeof(big));
	expect("too long");
	assert_null(next_line(m.fd));
}

static void who_does_not_read_is_closed(void **state)
{
	(void)state;
	negotiate();
	for (unsigned i = 0; i < 80000; i++)
		vm_notify(&m.vm, VM_EVENT_RESUME, VM_NOTHING);
	for (unsigned i = 0; i < 1000; i++) { /* it is closed soon */
		struct pollfd p = {.fd = m.fd, .events = 0};

		if (poll(&p, 1, 10) > 0 && (p.revents & POLLHUP))
			break;
		assert_true(i < 999);
	}
}

/* Answers alone never pile up: commands wait. */
static void who_does_not_read_answers_is_not_read(void **state)
{
	static const char text[] = "{\"execute\": \"query-commands\"}";
	unsigned sent = 0, got = 0, idle = 0;

	(void)state;
	negotiate();
	while (idle < 50) {
		if (write(m.fd, text, sizeof(text) - 1) == (ssize_t)sizeof(text) - 1) {
			sent++;
			idle = 0;
		} else {
			usleep(10000);
			idle++;
		}
		assert_true(sent < 100000);
	}
	while (got < sent - 1) { /* of the last one a part may have gone out */
		expect("query-kvm");
		got++;
	}
}

/* Who sends all first, ends, and then reads, gets every answer. */
static void who_ends_gets_all_answers(void **state)
{
	static const char text[] = "{\"execute\": \"query-commands\"}";
	static char all[2000 * (sizeof(text) - 1)];
	const unsigned n = 2000;

	(void)state;
	for (unsigned i = 0; i < n; i++)
		memcpy(all + i * (sizeof(text) - 1), text, sizeof(text) - 1);
	negotiate();
	say_bytes(all, sizeof(all));
	assert_int_equal(shutdown(m.fd, SHUT_WR), 0);
	for (unsigned i = 0; i < n; i++)
		expect("query-kvm");
	assert_null(next_line(m.fd));
}

static void random_commands(void **state)
{
	static const char *const words[] = {"{", "}", "[", "]", "\"execute\"", ":", ",",
		"\"query-block\"", "\"arguments\"", "{\"device\": \"d0\"}", "1", "null",
		"\"block_resize\"", "\"id\"", "\"size\"", "-1", "\"", "\\", "\n", "\xff",
		"{\"execute\": \"query-status\"}", "1e999", "\"\\ud800\"", " ",
		"{\"execute\": \"block_resize\", \"arguments\": ", "\x01"};
	unsigned seed = 3;
	char data[4096];

	(void)state;
	negotiate();
	for (unsigned i = 0; i < 30000; i++) {
		say(words[(unsigned)rand_r(&seed) % ARRAY_LEN(words)]);
		while (is_readable(m.fd, 0))
			assert_true(read(m.fd, data, sizeof(data)) > 0);
	}
}

/* ---- listening ------------------------------------------------------------------- */

static int connect_to(const char *path)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	strcpy(a.sun_path, path);
	assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	return fd;
}

static void sockets_are_their_owners(void **state)
{
	struct qmp_machine parts = {.vm = &m.vm, .nodes = &m.nodes};
	struct err err = ERR_INIT;
	struct qmp *q, *other;
	struct stat st;
	char path[200];

	(void)state;
	unlink("sock");
	q = qmp_new(&parts, &err);
	assert_int_equal(qmp_listen(q, "unix:sock,server=on,wait=off", &err), 0);
	assert_int_equal(stat("sock", &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	/* In use: not taken away. */
	other = qmp_new(&parts, &err);
	assert_int_equal(qmp_listen(other, "sock", &err), -EADDRINUSE);
	assert_int_equal(qmp_listen(other, "unix:sock2,server=off", &err), -EINVAL);
	assert_int_equal(qmp_listen(other, "unix:sock2,wait=on", &err), -EINVAL);
	assert_int_equal(qmp_listen(other, "unix:sock2,colour=1", &err), -EINVAL);
	assert_int_equal(qmp_listen(other, "unix:", &err), -EINVAL);
	assert_int_equal(qmp_listen(other, "tcp:127.0.0.1:4444", &err), -EINVAL);
	memset(path, 'x', sizeof(path));
	path[sizeof(path) - 1] = 0;
	assert_int_equal(qmp_listen(other, path, &err), -EINVAL);
	qmp_free(other);
	assert_int_equal(qmp_start(q, &err), 0);
	close(m.fd);
	m.fd = connect_to("sock");
	m.bytes = 0;
	negotiate();
	qmp_free(q);
	assert_int_equal(stat("sock", &st), -1);
	assert_null(next_line(m.fd));
}

/* Left behind by one that was killed. */
static void a_socket_that_nobody_has_is_replaced(void **state)
{
	struct qmp_machine parts = {.vm = &m.vm, .nodes = &m.nodes};
	struct sockaddr_un a = {.sun_family = AF_UNIX, .sun_path = "stale"};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	struct err err = ERR_INIT;
	struct qmp *q;

	(void)state;
	unlink("stale");
	assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	close(fd);
	q = qmp_new(&parts, &err);
	assert_int_equal(qmp_listen(q, "stale", &err), 0);
	qmp_free(q);
}

#define WITH(test) cmocka_unit_test_setup_teardown(test, make, unmake)

int main(void)
{
	const struct CMUnitTest tests[] = {
		WITH(a_session_begins_with_a_greeting_and_negotiation),
		WITH(commands_come_in_pieces_and_heaps),
		WITH(it_stands_and_goes_and_everybody_hears_of_it),
		WITH(a_machine_that_ended_is_said_to_have),
		WITH(arguments_are_those_of_the_table),
		WITH(disks_are_told_of_and_changed),
		WITH(a_failure_stops_the_machine_and_is_told),
		WITH(images_are_opened_and_closed_by_name),
		WITH(an_image_is_nobody_elses_meanwhile),
		WITH(a_job_goes_its_way),
		WITH(nonsense_is_answered_and_forgotten),
		WITH(what_is_too_long_ends_the_session),
		WITH(who_does_not_read_is_closed),
		WITH(who_does_not_read_answers_is_not_read),
		cmocka_unit_test_setup_teardown(
			who_ends_gets_all_answers, make_with_room, unmake),
		WITH(random_commands),
		WITH(sockets_are_their_owners),
		WITH(a_socket_that_nobody_has_is_replaced),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
