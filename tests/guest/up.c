/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The first process of a guest that is there to be timed: says UP, waits long enough to be looked at, and turns the
 * machine off.
 */
#include <fcntl.h>
#include <sys/reboot.h>
#include <unistd.h>

int main(void)
{
	int fd = open("/dev/console", O_RDWR);

	if (fd < 0 || write(fd, "UP\n", 3) != 3)
		return 1;
	sleep(2);
	reboot(RB_POWER_OFF);
	return 1;
}
