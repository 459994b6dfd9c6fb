#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: an image on a server (smb) and a flat array that are told the same never differ,
# also where the server is killed and packets are lost under several random writers.
# timeout: 300
. "$BYRE_SRC/tests/tap.sh"
. "$BYRE_SRC/tests/backends/servers.sh"
. "$BYRE_SRC/tests/backends/images.sh"
need smb
own_network "$@"
serve smb
random_requests_are_right smb
restarts_lose_nothing smb
lost_packets_lose_nothing smb
done_testing
