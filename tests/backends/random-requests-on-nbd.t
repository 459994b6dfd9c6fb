#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: an image on a server (nbd) and a flat array that are told the same never differ,
# also where the server is killed and packets are lost under several random writers.
# timeout: 600
. "$BYRE_SRC/tests/tap.sh"
. "$BYRE_SRC/tests/backends/servers.sh"
. "$BYRE_SRC/tests/backends/images.sh"
need nbd
own_network "$@"
serve nbd
random_requests_are_right nbd
restarts_lose_nothing nbd
lost_packets_lose_nothing nbd
done_testing
