#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: a small file that claims clusters all over 15 TB gets no more counters for a snapshot
# than for a check.
. "$BYRE_SRC/tests/tap.sh"
have python3 || skip_all "python3 is not installed"

byre-img create -q -f qcow2 hostile.qcow2 16G
python3 - <<'PY'
import struct
f = open("hostile.qcow2", "r+b")
head = f.read(104)
l1 = struct.unpack(">Q", head[40:48])[0]
chunk, base, k = 2048 * 65536, 0x100000, 1
for t in range(14):
    at = base + t * 65536
    f.seek(l1 + 8 * t)
    f.write(struct.pack(">Q", at | 1 << 63))
    f.seek(at)
    f.write(struct.pack(">8192Q", *[(k + i) * chunk | 1 << 63 for i in range(8192)]))
    k += 8192
f.truncate((k + 1) * chunk)
PY
if [ ! -s hostile.qcow2 ] || [ "$(stat -c %s hostile.qcow2)" -lt 1000000000000 ]; then
	skip_all "no file of 15 TB here"
fi
byre-img snapshot -c s hostile.qcow2 >out 2>err
is $? 1 "refused"
like "$(cat err)" "memory\|more than" "for the memory it would take"
unlike "$(cat err)" "Cannot allocate" "by the limit and not by the machine"
done_testing
