#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: images on a real server (nfs4): made, converted both ways, snapshotted, checked,
# encrypted, compressed; and a server that is killed under load and comes back, lose nothing.
# timeout: 300
. "$BYRE_SRC/tests/tap.sh"
. "$BYRE_SRC/tests/backends/servers.sh"
. "$BYRE_SRC/tests/backends/images.sh"
need nfs4
own_network "$@"
serve nfs4
images_live_there nfs4
silence_loses_nothing nfs4
a_power_cut_loses_nothing nfs4 export/c.img
a_restart_loses_nothing nfs4
done_testing
