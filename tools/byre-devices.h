/* SPDX-License-Identifier: BSD-2-Clause */
/* Devices of a machine that are not disks, from the command line of byre run. */
#ifndef BYRE_TOOLS_BYRE_DEVICES_H
#define BYRE_TOOLS_BYRE_DEVICES_H

#include "vmm/machine.h"

/* What was said of them; parsed when everything else is known, since it opens things. */
struct device_args {
	const char *net[MACHINE_NETS_MAX];
	unsigned n_nets;
	const char *serial, *console, *rng, *balloon;
};

/* Opens all of it. -errno with err set; devices_close() is due either way. */
int devices_open(const struct device_args *a, struct machine_options *o, struct err *err);
void devices_close(struct machine_options *o);

/* For the help of byre run. */
#define DEVICES_HELP \
	"  --net user[,hostfwd=tcp|udp:ADDR:PORT-:PORT...][,restrict=on]\n" \
	"  --net tap[,ifname=NAME][,queues=N][,script=FILE][,downscript=FILE]" \
	"[,vhost=on|off] | tap,fd=N\n" \
	"  --net stream,path=SOCKET | stream,fd=N\n     a virtio network card; each also " \
	"mac=ADDRESS, mtu=N, packed=on\n" \
	"  --serial, --console stdio|pty|socket=PATH|file=PATH|none\n     the serial " \
	"port " \
	"(stdio) and a virtio console, hvc0 (none)\n" \
	"  --rng on|off\n     random numbers for the guest (on)\n" \
	"  --balloon " \
	"on[,size=SIZE][,deflate-on-oom=off][,reporting=off][,stats=SECONDS]\n" \
	"     a virtio balloon; the guest is to have SIZE of its memory\n"

#endif
