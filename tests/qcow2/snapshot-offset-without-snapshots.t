#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: an offset of a snapshot table that none can have is an error that names it, whether there
# are snapshots or not: the peer does not open such an image, so it is not clean.
. "$BYRE_SRC/tests/tap.sh"
have python3 || skip_all "python3 is not installed"

byre-img create -q -f qcow2 a.qcow2 64M
for offset in 0x1234 0x8000000000000000; do
	python3 - $offset <<'PY'
import sys
d = bytearray(open("a.qcow2", "rb").read())
d[64:72] = int(sys.argv[1], 0).to_bytes(8, "big")
open("b.qcow2", "wb").write(d)
PY
	for command in 'check' 'info' 'check -r all'; do
		# shellcheck disable=SC2086 # several words
		not_ok "$offset: $command" byre-img $command b.qcow2
		like "$(cat err)" "Snapshot table offset invalid ($offset)" "$offset: $command says why"
	done
	! have qemu-img || not_ok "$offset: the peer agrees" qemu-img check b.qcow2
done
done_testing
