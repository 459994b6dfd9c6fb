#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: a snapshot brings back the size its disk had, larger or smaller than now; bitmaps that
# do not fit any more are flagged. (Version 2 with snapshots is not resized, by either program.)
. "$BYRE_SRC/tests/tap.sh"

size () { byre-img info --output=json "$1" | sed -n 's/^    "virtual-size": \([0-9]*\),$/\1/p'; }
clean () {
	ok "$2" byre-img check "$1"
	! have qemu-img || ok "$2, to the peer" qemu-img check "$1"
}

for cs in 512 4k 64k; do
	byre-img create -q -f qcow2 -o cluster_size=$cs a.qcow2 1M
	byre-io -c 'write -P 1 0 1M' a.qcow2 >/dev/null
	byre-img snapshot -c small a.qcow2
	ok "$cs: grown" byre-img resize -q a.qcow2 40M
	byre-io -c 'write -P 2 512k 38M' a.qcow2 >/dev/null
	byre-img snapshot -c large a.qcow2
	byre-img convert -O raw a.qcow2 large.raw
	clean a.qcow2 "$cs: clean"
	ok "$cs: small again" byre-img snapshot -a small a.qcow2
	is "$(size a.qcow2)" 1048576 "$cs: with its size"
	ok "$cs: and its bytes" byre-io -c 'read -P 1 0 1M' a.qcow2
	clean a.qcow2 "$cs: clean when small"
	byre-io -c 'write -P 9 4k 8k' a.qcow2 >/dev/null
	ok "$cs: large again" byre-img snapshot -a large a.qcow2
	is "$(size a.qcow2)" 41943040 "$cs: with its size"
	byre-img convert -O raw a.qcow2 out.raw
	same large.raw out.raw "$cs: and its bytes"
	clean a.qcow2 "$cs: clean when large"
	byre-img snapshot -d small a.qcow2
	byre-img snapshot -d large a.qcow2
	clean a.qcow2 "$cs: clean without snapshots"
	byre-img convert -O raw a.qcow2 out.raw
	same large.raw out.raw "$cs: the disk stays"
done

if have qemu-img; then
	qemu-img create -q -f qcow2 b.qcow2 1M
	byre-img snapshot -c s b.qcow2
	byre-img resize -q b.qcow2 2M
	qemu-img bitmap --add --disable b.qcow2 map
	byre-img snapshot -a s b.qcow2
	like "$(byre-img info b.qcow2)" "in-use" "a bitmap of another size is in use"
	clean b.qcow2 "bitmaps: clean"
fi
done_testing
