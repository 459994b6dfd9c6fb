#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: resize sets, grows and shrinks as the peer does; what is cut off is gone, what is
# added reads as zeros.
. "$BYRE_SRC/tests/tap.sh"
. "$BYRE_SRC/tests/img/peer.sh"

disk disk.raw 10
mkdir -p ours theirs
for d in ours theirs; do
	byre-img convert -f raw -O qcow2 disk.raw $d/a.qcow2
	cp disk.raw $d/a.raw
done
size () { byre-img info --output=json -f "$2" "$1" | sed -n 's/^    "virtual-size": \([0-9]*\),$/\1/p'; }
step () {
	for format in qcow2 raw; do
		both "$1 ($format)" resize -f $format "$2" "$3" a.$format "$4"
		! have qemu-img || is "$(size ours/a.$format $format)" "$(size theirs/a.$format $format)" "$1: same size ($format)"
	done
}
step "to a size" -q -q 20M
step "by a size" --preallocation off +4M
step "down by a size" --shrink -q -15M
step "up again" --preallocation falloc 30M
step "to the size it has" -q -q 30M
for format in qcow2 raw; do
	ok "the same disk ($format)" byre-img compare -f $format -F $format ours/a.$format theirs/a.$format
done
head -c 9M disk.raw >want.raw
byre-img convert -O raw ours/a.qcow2 got.raw
head -c 9M got.raw >got9.raw
same got9.raw want.raw "what is kept is as it was"
head -c 30M got.raw | tail -c 21M >tail.raw
head -c 21M /dev/zero >zeros.raw
same tail.raw zeros.raw "what is added is zeros"
ok "clean" byre-img check ours/a.qcow2
! have qemu-img || ok "clean to the peer" qemu-img check ours/a.qcow2

# A backing file that is longer must not show.
byre-img create -q -f qcow2 -b disk.raw -F raw top.qcow2 4M
byre-img resize -q top.qcow2 8M
byre-img convert -O raw top.qcow2 top.raw
tail -c 4M top.raw >tail.raw
head -c 4M /dev/zero >zeros.raw
same tail.raw zeros.raw "a longer backing file does not show in what is added"

byre-img convert -f raw -O qcow2 disk.raw a.qcow2
refused_alike "no arguments" resize
refused_alike "no size" resize a.qcow2
refused_alike "two sizes" resize a.qcow2 1M 2M
refused_alike "shrinking without --shrink" resize a.qcow2 5M
refused_alike "shrinking by more than there is" resize --shrink a.qcow2 -20T
refused_alike "nothing" resize --shrink a.qcow2 0
refused_alike "not a size" resize a.qcow2 foo
refused_alike "not a size to add" resize a.qcow2 +foo
refused_alike "an empty size" resize a.qcow2 ''
refused_alike "too large" resize a.qcow2 100E
refused_alike "too large for the format" resize a.qcow2 4P
refused_alike "no such preallocation" resize --preallocation=foo a.qcow2 20M
refused_alike "preallocated while shrinking" resize --preallocation=falloc --shrink a.qcow2 1M
refused_alike "preallocated metadata in raw" resize -f raw --preallocation=metadata ours/a.raw 64M
refused_alike "no such file" resize nothere 1M
ok "none of it changed the disk" byre-img compare -F raw a.qcow2 disk.raw
is "$(byre-img resize a.qcow2 11M)" "Image resized." "says so"
byre-img create -q -f raw half.raw 2M
ok "down by a fraction" byre-img resize -q -f raw --shrink half.raw -.5M
is "$(stat -c %s half.raw)" 1572864 "down by a fraction: half a MiB less"
done_testing
