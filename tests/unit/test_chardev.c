/* SPDX-License-Identifier: BSD-2-Clause */
/* Character devices of the host, and the serial port on them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/math.h"
#include "tests/unit/support_driver.h"
#include "vmm/chardev.h"
#include "vmm/devices.h"

#define PORT 0x3f8

static struct guest g; /* of which the buses are of use */
static struct chardev *chardev;

static void make(const char *text)
{
	struct err err = ERR_INIT;
	struct serial *serial;

	chardev = chardev_open(text, &err);
	assert_non_null(chardev);
	guest_make(&g);
	assert_int_equal(serial_new(&g.vm, chardev, &serial, &err), 0);
	assert_int_equal(chardev_start(chardev, &err), 0);
}

static void unmake(void)
{
	chardev_stop(chardev);
	guest_free(&g);
	chardev_close(chardev);
}

static void guest_says(const char *text)
{
	while (*text)
		bus_write(&g.vm.pio, PORT, 1, (uint8_t)*text++);
}

static char guest_hears(void)
{
	for (unsigned i = 0; i < 100000; i++) {
		if (bus_read(&g.vm.pio, PORT + 5, 1) & 1)
			return (char)bus_read(&g.vm.pio, PORT, 1);
		usleep(100);
	}
	fail_msg("%s", "nothing came");
	return 0;
}

static void take(int fd, char *data, size_t bytes)
{
	for (size_t n = 0; n < bytes;) {
		struct pollfd p = {.fd = fd, .events = POLLIN};
		ssize_t got;

		assert_int_equal(poll(&p, 1, 20000), 1);
		got = read(fd, data + n, bytes - n);
		assert_true(got > 0);
		n += (size_t)got;
	}
}

/* Both ways; bytes that a terminal would change stay as they are. */
static void talk(int fd)
{
	char got[16];

	assert_int_equal(write(fd, "in\r\n\x03\x01", 6), 6);
	for (const char *p = "in\r\n\x03\x01"; *p; p++)
		assert_int_equal(guest_hears(), *p);
	guest_says("out\r\n");
	take(fd, got, 5);
	assert_memory_equal(got, "out\r\n", 5);
}

static int connect_to(const char *path)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	strcpy(a.sun_path, path);
	assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	return fd;
}

static void a_socket_takes_one_after_another(void **state)
{
	(void)state;
	make("socket=c.sock");
	guest_says("lost");
	for (unsigned i = 0; i < 3; i++) {
		int fd = connect_to("c.sock");

		talk(fd);
		close(fd);
	}
	unmake();
	assert_int_not_equal(access("c.sock", F_OK), 0);
}

static void a_socket_that_was_left_behind_is_no_obstacle(void **state)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX, .sun_path = "left.sock"};
	struct err err = ERR_INIT;
	int fd = socket(AF_UNIX, SOCK_STREAM, 0), file;

	(void)state;
	assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	close(fd);
	make("socket=left.sock");
	assert_null(chardev_open("socket=left.sock", &err)); /* somebody has it */
	assert_non_null(strstr(err.msg, "left.sock"));
	fd = connect_to("left.sock");
	talk(fd);
	close(fd);
	unmake();
	file = open("a-file", O_CREAT | O_WRONLY, 0666);
	close(file);
	assert_null(chardev_open("socket=a-file", &err));
	assert_int_equal(access("a-file", F_OK), 0);
}

static void a_pseudo_terminal_can_be_opened_again(void **state)
{
	int fd;

	(void)state;
	make("pty");
	for (unsigned i = 0; i < 20000; i++) /* more than it would keep */
		guest_says("x");
	for (unsigned i = 0; i < 2; i++) {
		fd = open(chardev_pty(chardev), O_RDWR | O_NOCTTY);
		assert_true(fd >= 0);
		talk(fd);
		close(fd);
	}
	unmake();
}

/* Who does not read loses, and the guest is not kept for long. */
static void a_reader_that_does_not_read_holds_nobody_up(void **state)
{
	uint64_t since = clock_ns();
	int fd;

	(void)state;
	make("socket=c.sock");
	fd = connect_to("c.sock");
	talk(fd);
	for (unsigned i = 0; i < 2 * MiB; i++)
		bus_write(&g.vm.pio, PORT, 1, 'x');
	assert_true(clock_ns() - since < 60000000000u);
	close(fd);
	unmake();
}

static void more_than_the_port_takes_waits(void **state)
{
	char said[8000];
	int fd;

	(void)state;
	make("socket=c.sock");
	fd = connect_to("c.sock");
	for (unsigned i = 0; i < sizeof(said); i++)
		said[i] = (char)('a' + i % 23);
	assert_int_equal(write(fd, said, sizeof(said)), sizeof(said));
	usleep(50000);
	for (unsigned i = 0; i < sizeof(said); i++)
		assert_int_equal(guest_hears(), said[i]);
	close(fd);
	unmake();
}

static void a_file_is_appended_to(void **state)
{
	char got[9] = "";
	int fd;

	(void)state;
	unlink("log");
	for (unsigned i = 0; i < 2; i++) {
		make("file=log");
		guest_says(i ? "two\n" : "one\n");
		unmake();
	}
	fd = open("log", O_RDONLY);
	assert_int_equal(read(fd, got, sizeof(got)), 8);
	assert_string_equal(got, "one\ntwo\n");
	close(fd);
}

/* A disk that is full: nobody waits for it. */
static void what_cannot_be_stored_is_lost(void **state)
{
	(void)state;
	make("file=/dev/full");
	guest_says("lost");
	assert_int_equal(chardev_write(chardev, (const uint8_t *)"lost", 4), 4);
	unmake();
}

#define MUCH 100000u /* more than a pipe takes */

static void *say_much(void *arg)
{
	(void)arg;
	for (unsigned i = 0; i < MUCH; i++)
		bus_write(&g.vm.pio, PORT, 1, 'x');
	return NULL;
}

/* The keys that end the machine come by way of the port. */
static void the_port_is_not_held_while_nobody_reads(void **state)
{
	char *said = malloc(MUCH);
	struct pollfd full = {.events = POLLOUT};
	pthread_t thread;

	(void)state;
	assert_int_equal(mkfifo("fifo", 0600), 0);
	full.fd = open("fifo", O_RDWR | O_NONBLOCK);
	make("file=fifo");
	assert_int_equal(pthread_create(&thread, NULL, say_much, NULL), 0);
	while (poll(&full, 1, 0) == 1)
		usleep(1000);
	usleep(10000);
	assert_int_equal(bus_read(&g.vm.pio, PORT + 5, 1), 0x60);
	take(full.fd, said, MUCH);
	pthread_join(thread, NULL);
	unmake();
	close(full.fd);
	unlink("fifo");
	free(said);
}

/* Else the vCPU that writes would keep the machine from stopping, and whoever asked for that, for ever. */
static void nobody_is_waited_for_when_the_machine_stops(void **state)
{
	char nothing[4096] = {0};
	int fd;

	(void)state;
	assert_int_equal(mkfifo("full", 0600), 0);
	fd = open("full", O_RDWR | O_NONBLOCK);
	make("file=full");
	while (write(fd, nothing, sizeof(nothing)) > 0)
		;
	__atomic_store_n(&g.vm.stopping, true, __ATOMIC_RELEASE);
	guest_says("what nobody reads");
	unmake();
	close(fd);
}

static void nowhere_takes_everything(void **state)
{
	(void)state;
	make("none");
	guest_says("something");
	unmake();
}

static void what_cannot_be_is_refused(void **state)
{
	static const char *const texts[] = {"", "sock", "socket=", "file=", "pty=1",
		"file=/nowhere/at/all", "socket=/nowhere/at/all"};
	char path[300] = "socket=";

	(void)state;
	for (unsigned i = 0; i < ARRAY_LEN(texts); i++) {
		struct err err = ERR_INIT;

		assert_null(chardev_open(texts[i], &err));
		assert_true(err.msg[0]);
	}
	memset(path + 7, 'x', 200);
	assert_null(chardev_open(path, NULL));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_socket_takes_one_after_another),
		cmocka_unit_test(a_socket_that_was_left_behind_is_no_obstacle),
		cmocka_unit_test(a_pseudo_terminal_can_be_opened_again),
		cmocka_unit_test(a_reader_that_does_not_read_holds_nobody_up),
		cmocka_unit_test(more_than_the_port_takes_waits),
		cmocka_unit_test(a_file_is_appended_to),
		cmocka_unit_test(what_cannot_be_stored_is_lost),
		cmocka_unit_test(the_port_is_not_held_while_nobody_reads),
		cmocka_unit_test(nobody_is_waited_for_when_the_machine_stops),
		cmocka_unit_test(nowhere_takes_everything),
		cmocka_unit_test(what_cannot_be_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
