#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: an image on a server (nfs3) and a flat array that are told the same never differ,
# also where the server is killed and packets are lost under several random writers.
# timeout: 600
. "$BYRE_SRC/tests/tap.sh"
. "$BYRE_SRC/tests/backends/servers.sh"
. "$BYRE_SRC/tests/backends/images.sh"
need nfs3
own_network "$@"
serve nfs3
random_requests_are_right nfs3
restarts_lose_nothing nfs3
lost_packets_lose_nothing nfs3
done_testing
