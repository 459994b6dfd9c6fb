#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: the same disk converted twice gives the same file, however many tasks work on it.
. "$BYRE_SRC/tests/tap.sh"
. "$BYRE_SRC/tests/img/peer.sh"

disk disk.raw 24
for options in '' '-c' '-c -o compression_type=zstd' '-o cluster_size=4k' '-c -o cluster_size=4k' '-o extended_l2=on'; do
	# shellcheck disable=SC2086 # options
	byre-img convert -f raw -O qcow2 $options -m 1 disk.raw one.qcow2
	for tasks in 8 16; do
		# shellcheck disable=SC2086
		byre-img convert -f raw -O qcow2 $options -m $tasks disk.raw new.qcow2
		same new.qcow2 one.qcow2 "$tasks tasks ($options)"
	done
done
done_testing
