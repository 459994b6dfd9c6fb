#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: an image on a server (nfs4) and a flat array that are told the same never differ,
# also where the server is killed and packets are lost under several random writers.
# timeout: 600
. "$BYRE_SRC/tests/tap.sh"
. "$BYRE_SRC/tests/backends/servers.sh"
. "$BYRE_SRC/tests/backends/images.sh"
need nfs4
own_network "$@"
serve nfs4
random_requests_are_right nfs4
restarts_lose_nothing nfs4
lost_packets_lose_nothing nfs4
done_testing
