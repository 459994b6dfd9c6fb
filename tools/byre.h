/* SPDX-License-Identifier: BSD-2-Clause */
/* The commands of byre: each is a function over its own argv that returns the exit code. */
#ifndef BYRE_TOOLS_BYRE_H
#define BYRE_TOOLS_BYRE_H

int byre_host(int argc, char **argv);
int byre_run(int argc, char **argv);
int byre_ctl(int argc, char **argv);
int byre_snapshot(int argc, char **argv);
int byre_restore(int argc, char **argv);

#endif
