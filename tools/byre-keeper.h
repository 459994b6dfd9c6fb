/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The keeper: where something has to be done when the machine has ended that its process may
 * not do any more (labels put back, a control group removed), another process waits for it.
 * It opens nothing for the machine, hands signals on, and ends as it does.
 */
#ifndef BYRE_TOOLS_BYRE_KEEPER_H
#define BYRE_TOOLS_BYRE_KEEPER_H

#include "vmm/cgroup.h"
#include "vmm/svirt.h"

struct keeper_options {
	bool cgroup_wanted, svirt_wanted;
	int ready_fd; /* where it is said that the machine is ready; -1: nobody waits */
	struct cgroup_options cgroup;
	struct svirt_options svirt;
};

/* Calls label for each file that the machine is to reach. 0, or an exit status after saying
 * why. */
typedef int keeper_list_files(void *machine, struct svirt *svirt);

/* Called while there is one thread and the machine has nothing open. -1 in the process that is
 * to be the machine (this one, where no keeper is needed); else the keeper's exit status, when
 * all is over. argv is the whole program's. */
int keeper_run(const struct keeper_options *o, char **argv, keeper_list_files *list,
	void *machine);
/* The exit status of a keeper in the background whose machine was ended by a signal, less its number: who started it
 * has a terminal to tell that on. */
#define KEEPER_SIGNALLED 128

/* Whether this program was executed once more, to be the machine; *ready_fd: that of the first. */
bool keeper_executed_it(const struct keeper_options *o, int *ready_fd);
/* True in the process that a keeper waits for; and if it has a label of SELinux's from it. */
bool keeper_is_there(void);
bool keeper_has_labelled(void);

#endif
