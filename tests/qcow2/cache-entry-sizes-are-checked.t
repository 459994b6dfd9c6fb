#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: l2-cache-entry-size has no effect, but one that the peer refuses is refused.
. "$BYRE_SRC/tests/tap.sh"

byre-img create -q -f qcow2 a.qcow2 4M
byre-img create -q -f qcow2 -o cluster_size=512 b.qcow2 4M
# with FILE SIZE PROGRAM
with () { "$3" --image-opts -c 'read 0 512' "driver=qcow2,file.filename=$1,l2-cache-entry-size=$2"; }
peer=no
! peer_at_least 10 0 || ! have qemu-io || peer=yes

for arguments in "a.qcow2 3" "a.qcow2 0" "a.qcow2 256" "a.qcow2 1000" "a.qcow2 128k" "a.qcow2 x" "a.qcow2 99E" "a.qcow2 -1" "b.qcow2 1k"; do
	# shellcheck disable=SC2086 # a file and a size
	not_ok "refused: $arguments" with $arguments byre-io
	[ $peer = no ] || exits 1 "refused by the peer: $arguments" with $arguments qemu-io
done
with a.qcow2 3 byre-io 2>err
like "$(cat err)" "L2 cache entry size must be a power of two between 512 and the cluster size (65536), not 3$" "says what it may be"
for arguments in "a.qcow2 512" "a.qcow2 4k" "a.qcow2 64k" "b.qcow2 512"; do
	# shellcheck disable=SC2086 # a file and a size
	ok "taken: $arguments" with $arguments byre-io
	[ $peer = no ] || ok "taken by the peer: $arguments" with $arguments qemu-io
done
done_testing
