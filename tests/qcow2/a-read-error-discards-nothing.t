#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: check -r all of an image that cannot be read right now, whatever the storage calls the
# error, discards neither snapshots nor bitmaps: the same image read again later has them all.
. "$BYRE_SRC/tests/tap.sh"

byre-img create -q -f qcow2 good.qcow2 16M
byre-io -c 'write -P 1 0 1M' good.qcow2 >/dev/null
byre-img snapshot -c one good.qcow2
byre-io -c 'write -P 2 512k 1M' good.qcow2 >/dev/null
byre-img snapshot -c two good.qcow2
bitmaps=0
if have qemu-img && qemu-img bitmap --add good.qcow2 b0 && qemu-img bitmap --add -g 512 good.qcow2 b1; then
	bitmaps=2
fi
byre-img convert -O raw good.qcow2 good.raw
ok "sound at first" byre-img check good.qcow2

count_snapshots () { byre-img snapshot -l "$1" | grep -c -E ' (one|two) '; }
count_bitmaps () { byre-img info "$1" | grep -c 'name: b[01]'; }
is "$(count_snapshots good.qcow2)" 2 "with two snapshots"
is "$(count_bitmaps good.qcow2)" $bitmaps "and its bitmaps"

# Past the last read of a check the fault never strikes: that one has to succeed, or the
# numbers above it would prove nothing.
for errno in ETIMEDOUT ENXIO ENODEV EIO 22; do
	n=1 struck=0
	while [ $n -le 12 ]; do
		cp good.qcow2 x.qcow2
		byre-img check -r all --image-opts "driver=qcow2,file.driver=fault,file.file.filename=x.qcow2,file.ops=read,file.fail-at=$n,file.errno=$errno" >out 2>err
		status=$?
		[ $status -eq 0 ] || struck=$((struck + 1))
		[ $status -le 125 ] || fail "$errno, read $n: ended by a signal" "$(cat err)"
		is "$(count_snapshots x.qcow2) $(count_bitmaps x.qcow2)" "2 $bitmaps" "$errno, read $n: everything is still there" || sed 's/^/# /' out err
		byre-img check x.qcow2 >out 2>err || fail "$errno, read $n: not sound" "$(cat out err)"
		n=$((n + 1))
	done
	ok "$errno: reads did fail ($struck)" [ $struck -ge 5 ]
	byre-img convert -O raw x.qcow2 x.raw
	same good.raw x.raw "$errno: the disk is as before"
done
done_testing
