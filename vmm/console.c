/* SPDX-License-Identifier: BSD-2-Clause */
/* The console's thread. See console.h. */
#include "vmm/console.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <termios.h>
#include <unistd.h>

#include "vmm/confine.h"

#define ESCAPE        1 /* Ctrl-A */
#define FULL_SLEEP_US 1000

struct console {
	struct vm *vm;
	struct serial *serial;
	struct power *power;
	int in_fd, signal_fd, end_fd;
	bool raw, escaped;
	struct termios before;
	pthread_t thread;
};

static void type(struct console *c, uint8_t key)
{
	while (!serial_receive(c->serial, &key, 1)) {
		struct pollfd end = {.fd = c->end_fd, .events = POLLIN};

		if (poll(&end, 1, 0) > 0)
			return;
		usleep(FULL_SLEEP_US);
	}
}

static void handle_key(struct console *c, uint8_t key)
{
	if (!c->raw || (!c->escaped && key != ESCAPE)) {
		type(c, key);
		return;
	}
	if (!c->escaped) {
		c->escaped = true;
		return;
	}
	c->escaped = false;
	if (key == 'x')
		vm_ask(c->vm, VM_QUIT);
	else if (key == 'p')
		power_press_button(c->power);
	else if (key == ESCAPE)
		type(c, key);
}

/* False: there will be no more. */
static bool read_keys(struct console *c)
{
	uint8_t keys[256];
	ssize_t n = read(c->in_fd, keys, sizeof(keys));

	if (n < 0)
		return errno == EINTR || errno == EAGAIN;
	for (ssize_t i = 0; i < n; i++)
		handle_key(c, keys[i]);
	return n > 0;
}

static void *console_main(void *arg)
{
	struct console *c = arg;
	struct pollfd fds[] = {{.fd = c->end_fd, .events = POLLIN},
		{.fd = c->signal_fd, .events = POLLIN},
		{.fd = c->in_fd, .events = POLLIN}};

	confine_thread(CONFINE_CONSOLE);
	while (poll(fds, 3, -1) >= 0 || errno == EINTR) {
		if (fds[0].revents)
			break;
		if (fds[1].revents) {
			vm_ask(c->vm, VM_QUIT);
			fds[1].fd = -1;
		}
		if (fds[2].revents && !read_keys(c))
			fds[2].fd = -1;
	}
	return NULL;
}

static void make_raw(struct console *c)
{
	struct termios raw;

	if (c->in_fd < 0 || tcgetattr(c->in_fd, &c->before))
		return;
	raw = c->before;
	cfmakeraw(&raw);
	raw.c_oflag |= OPOST | ONLCR; /* our own messages keep their shape */
	c->raw = tcsetattr(c->in_fd, TCSANOW, &raw) == 0;
}

static void console_free(struct console *c)
{
	if (c->raw)
		tcsetattr(c->in_fd, TCSANOW, &c->before);
	if (c->signal_fd >= 0)
		close(c->signal_fd);
	if (c->end_fd >= 0)
		close(c->end_fd);
	free(c);
}

int console_start(struct vm *vm, struct serial *serial, struct power *power, int in_fd,
	struct console **out, struct err *err)
{
	struct console *c = calloc(1, sizeof(*c));
	sigset_t signals;
	int ret;

	if (!c)
		return err_errno(err, ENOMEM, "console");
	*c = (struct console){.vm = vm, .serial = serial, .power = power, .in_fd = in_fd};
	sigemptyset(&signals);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGINT);
	sigaddset(&signals, SIGHUP);
	c->signal_fd = signalfd(-1, &signals, SFD_CLOEXEC);
	c->end_fd = eventfd(0, EFD_CLOEXEC);
	if (c->signal_fd < 0 || c->end_fd < 0) {
		ret = errno;
		console_free(c);
		return err_errno(err, ret, "console");
	}
	make_raw(c);
	ret = pthread_create(&c->thread, NULL, console_main, c);
	if (ret) {
		console_free(c);
		return err_errno(err, ret, "console");
	}
	*out = c;
	return 0;
}

void console_stop(struct console *c)
{
	uint64_t one = 1;

	if (!c)
		return;
	if (write(c->end_fd, &one, sizeof(one)) > 0)
		pthread_join(c->thread, NULL);
	console_free(c);
}
