#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: what the peer puts into images and seldom does: legacy AES, bitmaps, VM state, the
# dirty bit, chains, a resized disk with snapshots.
# timeout: 300
. "$BYRE_SRC/tests/tap.sh"

peer_at_least 8 0 && have qemu-io || skip_all "no qemu-img and qemu-io of version 8 or later"
secret='--object secret,id=s,data=correct-horse'

# Legacy AES: readable, and not written unless asked for.
aes=driver=qcow2,file.filename=aes.qcow2,encrypt.key-secret=s
# shellcheck disable=SC2086 # words
if qemu-img create -q -f qcow2 $secret -o encrypt.format=aes,encrypt.key-secret=s aes.qcow2 8M >out 2>&1; then
	qemu-io $secret --image-opts $aes -c 'write -q -P 1 100k 3M' -c 'write -q -P 2 5M 777' >/dev/null
	ok "legacy AES is read" byre-io -r $secret --image-opts $aes -c 'read -P 1 100k 3M' -c 'read -P 2 5M 777' \
		-c 'read -P 0 0 100k'
	ok "legacy AES is checked" byre-img check $secret --image-opts $aes
else
	skip "legacy AES" "this qemu-img does not make such images"
fi

# Bitmaps: kept and trusted while nothing is written; not trusted after that.
qemu-img create -q -f qcow2 bitmap.qcow2 8M
qemu-io -c 'write -q -P 1 0 1M' bitmap.qcow2
qemu-img bitmap --add bitmap.qcow2 b0
qemu-img bitmap --add --disable bitmap.qcow2 b1
qemu-io -c 'write -q -P 2 1M 1M' bitmap.qcow2
is "$(info_json byre bitmap.qcow2 | grep -v actual-size)" \
	"$(info_json qemu bitmap.qcow2 | grep -v actual-size)" "bitmaps are described alike"
cp bitmap.qcow2 before.qcow2
ok "reading an image with bitmaps" byre-io -r -c 'read -P 1 0 1M' bitmap.qcow2
ok "opening it for writing" byre-io -c 'read -P 1 0 1M' bitmap.qcow2
is "$(cmp bitmap.qcow2 before.qcow2 2>&1)" "" "that changed nothing"
ok "our check knows bitmaps" byre-img check bitmap.qcow2
ok "writing to it" byre-io -c 'write -q -P 3 2M 64k' bitmap.qcow2
ok "qemu-img finds it clean" qemu-img check bitmap.qcow2
like "$(qemu-img info bitmap.qcow2)" 'in-use' "the enabled bitmap is not trusted any more"
ok "so do we" byre-img check bitmap.qcow2

# VM state in a snapshot survives what is done around it.
qemu-img create -q -f qcow2 state.qcow2 8M
qemu-io -c 'write -q -P 1 0 1M' -c 'write -q -b -P 9 0 100k' state.qcow2 >/dev/null 2>&1
qemu-img snapshot -c one state.qcow2
ok "a write beside VM state" byre-io -c 'write -q -P 2 0 64k' state.qcow2
ok "a snapshot beside it" byre-img snapshot -c two state.qcow2
ok "and its deletion" byre-img snapshot -d two state.qcow2
ok "the snapshot comes back" byre-img snapshot -a one state.qcow2
ok "clean" qemu-img check state.qcow2
ok "VM state and disk are as they were" qemu-io -r -c 'read -b -P 9 0 100k' -c 'read -P 1 0 1M' state.qcow2

# A process that was killed: the dirty bit, leaks; both sides repair it.
for side in byre qemu; do
	for other in byre qemu; do
		rm -f lazy.qcow2
		$side-img create -q -f qcow2 -o lazy_refcounts=on lazy.qcow2 8M
		$side-io -c 'write -P 1 0 1M' -c flush -c abort lazy.qcow2 >/dev/null 2>&1
		ok "$side was killed: $other opens it for writing" $other-io -c 'read -P 1 0 1M' -c 'write -P 2 2M 64k' lazy.qcow2
		ok "and leaves it clean, says byre-img" byre-img check lazy.qcow2
		ok "and qemu-img" qemu-img check lazy.qcow2
	done
done

# Chains of both sides' images.
byre-img create -q -f qcow2 -o cluster_size=4k one.qcow2 2M
qemu-img create -q -f qcow2 -F qcow2 -b one.qcow2 two.qcow2 6M
byre-img create -q -f qcow2 -o extended_l2=on -F qcow2 -b two.qcow2 three.qcow2 8M
byre-io -c 'write -q -P 1 0 2M' one.qcow2
qemu-io -c 'write -q -P 2 1M 3M' two.qcow2
byre-io -c 'write -q -P 3 3500k 2k' -c 'write -q -z 1536k 2k' three.qcow2
for side in byre qemu; do
	rm -f $side.raw
	ok "$side-img reads a chain" $side-img convert -O raw three.qcow2 $side.raw
	$side-img map --output=json three.qcow2 | tr -d ' ' >$side.map
	$side-img map three.qcow2 >$side.human
done
is "$(cmp byre.raw qemu.raw 2>&1)" "" "the chain reads alike"
is "$(diff qemu.map byre.map)" "" "the chain's maps are alike"
is "$(diff qemu.human byre.human)" "" "the chain's maps for people are alike"

# Snapshots of several disk sizes.
byre-img create -q -f qcow2 sized.qcow2 4M
byre-io -c 'write -q -P 1 0 4M' sized.qcow2
byre-img snapshot -c small sized.qcow2
ok "a disk with a snapshot grows" byre-img resize sized.qcow2 9M
byre-io -c 'write -q -P 2 8M 1M' sized.qcow2
byre-img snapshot -c large sized.qcow2
ok "qemu-img applies the smaller" qemu-img snapshot -a small sized.qcow2
is "$(byre-io -c length sized.qcow2)" "4 MiB" "the disk is small again"
ok "we apply the larger" byre-img snapshot -a large sized.qcow2
is "$(qemu-io -c length sized.qcow2)" "9 MiB" "the disk is large again"
ok "what was there is there" qemu-io -c 'read -P 1 0 4M' -c 'read -P 0 4M 4M' -c 'read -P 2 8M 1M' sized.qcow2
ok "all is clean" qemu-img check sized.qcow2

done_testing
