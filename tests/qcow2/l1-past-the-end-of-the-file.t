#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: an image cut short before its L1 table reads as zeros; repairing gives the table its
# place back, in one pass, and the disk can be written. Where only the offset in the header is
# wrong, nothing is grown and nothing freed, and once it is right again all is there.
. "$BYRE_SRC/tests/tap.sh"
have python3 || skip_all "python3 is not installed"

byre-img create -q -f qcow2 a.qcow2 64M
byre-io -c 'write -P 1 0 1M' a.qcow2 >/dev/null

python3 - <<'PY'
import struct
d = bytearray(open("a.qcow2", "rb").read())
l1 = struct.unpack_from(">Q", d, 40)[0]
open("cut.qcow2", "wb").write(d[:l1])
d[79] |= 1
open("dirty.qcow2", "wb").write(d[:l1])
d[79] &= ~1
struct.pack_into(">Q", d, 40, 1 << 30)
open("far.qcow2", "wb").write(d)
PY

exits 2 "cut: found" byre-img check cut.qcow2
ok "cut: reads as zeros" byre-io -r -c 'read -P 0 0 64M' cut.qcow2
exits 0 "cut: repaired in one pass" byre-img check -r all cut.qcow2
exits 0 "cut: clean" byre-img check cut.qcow2
! have qemu-img || exits 0 "cut: clean to the peer" qemu-img check cut.qcow2
ok "cut: reads as zeros still" byre-io -r -c 'read -P 0 0 64M' cut.qcow2
ok "cut: can be written" byre-io -c 'write -P 2 0 1M' cut.qcow2
ok "cut: and read" byre-io -r -c 'read -P 2 0 1M' -c 'read -P 0 1M 63M' cut.qcow2
byre-img check cut.qcow2 >out 2>&1
unlike "$(cat out)" "^ERROR" "cut: without errors"

not_ok "dirty: is not made an empty disk by opening it" byre-io -c 'write 0 512' dirty.qcow2
exits 0 "dirty: but by repairing it" byre-img check -r all dirty.qcow2
ok "dirty: then it can be written" byre-io -c 'write 0 512' dirty.qcow2

size=$(wc -c <far.qcow2)
exits 2 "offset: is not repaired" byre-img check -r all far.qcow2
is "$(wc -c <far.qcow2)" "$size" "offset: the file does not grow"
python3 - <<'PY'
a, d = open("a.qcow2", "rb").read(), bytearray(open("far.qcow2", "rb").read())
d[40:48] = a[40:48]
open("far.qcow2", "wb").write(d)
PY
exits 0 "offset: put right by hand, all is well" byre-img check far.qcow2
same a.qcow2 far.qcow2 "offset: and nothing was lost"
done_testing
