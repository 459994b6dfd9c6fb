/* SPDX-License-Identifier: BSD-2-Clause */
/* Keys and signals. See console.h. */
#include "vmm/console.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "vmm/confine.h"

struct console {
	struct vm *vm;
	struct power *power;
	struct chardev *chardev[CONSOLE_CHARDEVS];
	int signal_fd, end_fd;
	pthread_t thread;
	bool started;
};

/* A vCPU that waits for somebody to read is not waited for. */
static void quit(struct console *c)
{
	for (unsigned i = 0; i < CONSOLE_CHARDEVS; i++)
		if (c->chardev[i])
			chardev_hurry(c->chardev[i]);
	vm_ask(c->vm, VM_QUIT);
}

static void handle_key(void *arg, uint8_t key)
{
	struct console *c = arg;

	if (key == 'x')
		quit(c);
	else if (key == 'p')
		power_press_button(c->power);
}

static void *console_main(void *arg)
{
	struct console *c = arg;
	struct pollfd fds[] = {{.fd = c->end_fd, .events = POLLIN},
		{.fd = c->signal_fd, .events = POLLIN}};

	confine_thread(CONFINE_CONSOLE);
	while (poll(fds, 2, -1) >= 0 || errno == EINTR) {
		if (fds[0].revents)
			break;
		if (fds[1].revents) {
			quit(c);
			fds[1].fd = -1;
		}
	}
	return NULL;
}

static int start_chardevs(struct console *c, struct err *err)
{
	int ret = 0;

	for (unsigned i = 0; i < CONSOLE_CHARDEVS && ret == 0; i++) {
		if (!c->chardev[i])
			continue;
		chardev_set_keys(c->chardev[i], handle_key, c);
		ret = chardev_start(c->chardev[i], err);
	}
	return ret;
}

static int start_thread(struct console *c, struct err *err)
{
	sigset_t signals;
	int ret;

	sigemptyset(&signals);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGINT);
	sigaddset(&signals, SIGHUP);
	c->signal_fd = signalfd(-1, &signals, SFD_CLOEXEC);
	c->end_fd = eventfd(0, EFD_CLOEXEC);
	if (c->signal_fd < 0 || c->end_fd < 0)
		return err_errno(err, errno, "console");
	ret = pthread_create(&c->thread, NULL, console_main, c);
	c->started = ret == 0;
	return ret ? err_errno(err, ret, "console") : 0;
}

int console_start(struct vm *vm, struct power *power,
	struct chardev *const chardevs[CONSOLE_CHARDEVS], struct console **out,
	struct err *err)
{
	struct console *c = calloc(1, sizeof(*c));
	int ret;

	if (!c)
		return err_errno(err, ENOMEM, "console");
	*c = (struct console){.vm = vm, .power = power, .signal_fd = -1, .end_fd = -1};
	memcpy(c->chardev, chardevs, sizeof(c->chardev));
	ret = start_thread(c, err);
	ret = ret ? ret : start_chardevs(c, err);
	if (ret) {
		console_stop(c);
		return ret;
	}
	*out = c;
	return 0;
}

void console_stop(struct console *c)
{
	if (!c)
		return;
	for (unsigned i = 0; i < CONSOLE_CHARDEVS; i++)
		if (c->chardev[i])
			chardev_stop(c->chardev[i]);
	if (c->started && eventfd_write(c->end_fd, 1) == 0)
		pthread_join(c->thread, NULL);
	if (c->signal_fd >= 0)
		close(c->signal_fd);
	if (c->end_fd >= 0)
		close(c->end_fd);
	free(c);
}
