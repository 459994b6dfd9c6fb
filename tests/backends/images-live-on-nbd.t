#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: images on a real server (nbd): made, converted both ways, snapshotted, checked,
# encrypted, compressed; and a server that is killed under load and comes back, lose nothing.
# timeout: 300
. "$BYRE_SRC/tests/tap.sh"
. "$BYRE_SRC/tests/backends/servers.sh"
. "$BYRE_SRC/tests/backends/images.sh"
need nbd
own_network "$@"
serve nbd
images_live_there nbd
silence_loses_nothing nbd
a_power_cut_loses_nothing nbd disk.img
a_restart_loses_nothing nbd
done_testing
