#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: images on a real server (nfs3): made, converted both ways, snapshotted, checked,
# encrypted, compressed; and a server that is killed under load and comes back, lose nothing.
# timeout: 300
. "$BYRE_SRC/tests/tap.sh"
. "$BYRE_SRC/tests/backends/servers.sh"
. "$BYRE_SRC/tests/backends/images.sh"
need nfs3
own_network "$@"
serve nfs3
images_live_there nfs3
silence_loses_nothing nfs3
a_power_cut_loses_nothing nfs3 export/c.img
a_restart_loses_nothing nfs3
done_testing
