#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: check tells clean, leaked, corrupt, impossible and unsupported by exit status and
# output as the peer does, and repairs what the peer repairs.
. "$BYRE_SRC/tests/tap.sh"
. "$BYRE_SRC/tests/img/peer.sh"
need_peer

{
	qemu-img create -f qcow2 good.qcow2 10M
	qemu-io -c 'write -P 1 0 1M' -c 'write -P 2 5M 100k' good.qcow2
	qemu-img convert -c -O qcow2 good.qcow2 packed.qcow2
	qemu-img create -f qcow2 empty.qcow2 10M
	qemu-img create -f raw disk.raw 64k
} >/dev/null
python3 - <<'PY'
import struct
d = open("good.qcow2", "rb").read()
u64 = lambda at: struct.unpack(">Q", d[at:at + 8])[0]
l2 = u64(u64(40)) & 0x00fffffffffffe00
refs = u64(u64(48))
def made(name, *changes):
    e = bytearray(d)
    for at, text in changes:
        e[at:at + len(text)] = text
    open(name, "wb").write(e)
made("leak.qcow2", (l2, bytes(8)))
made("free.qcow2", (refs + 2 * 5, bytes(2)))
made("both.qcow2", (refs + 2 * 5, bytes(2)), (l2 + 8, bytes(8)))
made("far.qcow2", (l2 + 8, struct.pack(">Q", 1 << 63 | 0x7000000000)))
PY

alike "clean" check good.qcow2
alike "clean, in JSON" check --output=json good.qcow2
alike "clean, quietly" check -q good.qcow2
alike "compressed" check packed.qcow2
alike "compressed, in JSON" check --output=json packed.qcow2
alike "empty" check empty.qcow2
alike "leaked" check leak.qcow2
alike "leaked, in JSON" check --output=json leak.qcow2
alike "raw has no check" check -f raw disk.raw
exits 0 "clean: 0" byre-img check good.qcow2
exits 3 "leaked: 3" byre-img check leak.qcow2
exits 3 "leaked, quietly: 3" byre-img check -q leak.qcow2
is "$(cat out)" "" "quiet prints no summary"
exits 2 "corrupt: 2" byre-img check free.qcow2
exits 2 "corrupt and leaked: 2" byre-img check both.qcow2
exits 2 "a cluster past the end: 2" byre-img check far.qcow2
exits 63 "unsupported: 63" byre-img check -f raw disk.raw
exits 1 "not there: 1" byre-img check nothere

for image in leak free both; do
	cp $image.qcow2 r.qcow2
	exits 0 "$image: -r all repairs it" byre-img check -r all r.qcow2
	like "$(cat out)" "^The following inconsistencies were found and repaired:$" "$image: says what it did"
	like "$(cat out)" "^Double checking the fixed image now...$" "$image: looks again"
	exits 0 "$image: clean afterwards" byre-img check r.qcow2
	ok "$image: clean to the peer" qemu-img check r.qcow2
done
cp leak.qcow2 r.qcow2
both_leak () { cp leak.qcow2 ours/r.qcow2 && cp leak.qcow2 theirs/r.qcow2; }
mkdir -p ours theirs
both_leak
both "-r leaks" check -r leaks r.qcow2
both_leak
both "-r leaks, in JSON" check -r leaks --output=json r.qcow2
both_leak
both "-r all, quietly" check -q -r all r.qcow2

refused_alike "no name" check
refused_alike "no such repair" check -r foo good.qcow2
refused_alike "no such cache" check -T foo good.qcow2
refused_alike "repair while others write" check -U -r all good.qcow2
refused_alike "no such output" check --output=foo good.qcow2
done_testing
