#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: images on a real server (iscsi): made, converted both ways, snapshotted, checked,
# encrypted, compressed; and a server that is killed under load and comes back, lose nothing.
# timeout: 300
. "$BYRE_SRC/tests/tap.sh"
. "$BYRE_SRC/tests/backends/servers.sh"
. "$BYRE_SRC/tests/backends/images.sh"
need iscsi
own_network "$@"
serve iscsi
images_live_there iscsi
silence_loses_nothing iscsi
a_power_cut_loses_nothing iscsi lun.img
a_restart_loses_nothing iscsi
done_testing
