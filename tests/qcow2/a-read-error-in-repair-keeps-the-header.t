#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: a repair that has to write tables anew and meets an error, of any read or write, frees
# nothing at offset 0: the file begins with its header afterwards, opens, and can be repaired.
. "$BYRE_SRC/tests/tap.sh"
have python3 || skip_all "python3 is not installed"

byre-img create -q -f qcow2 good.qcow2 16M
byre-io -c 'write -P 1 0 1M' good.qcow2 >/dev/null
byre-img snapshot -c one good.qcow2
byre-img snapshot -c two good.qcow2
byre-img convert -O raw good.qcow2 good.raw

# As the old programs wrote them: entries without the extra data that version 3 wants.
python3 - <<'PY'
import struct
d = bytearray(open("good.qcow2", "rb").read())
at = struct.unpack_from(">Q", d, 64)[0]
n = struct.unpack_from(">I", d, 60)[0]
out, p = b"", at
for i in range(n):
    idl, nl = struct.unpack_from(">HH", d, p + 12)
    extra = struct.unpack_from(">I", d, p + 36)[0]
    e = bytearray(d[p:p + 40])
    struct.pack_into(">I", e, 36, 0)
    e += d[p + 40 + extra:p + 40 + extra + idl + nl]
    e += bytes(-len(e) % 8)
    out += e
    p += (40 + extra + idl + nl + 7) & ~7
d[at:p] = out + bytes(p - at - len(out))
open("short.qcow2", "wb").write(d)
PY
byre-img check short.qcow2 >out 2>err
is "$?" 2 "entries that are too short are found" || sed 's/^/# /' out err

for ops in read write flush; do
	struck=0
	for n in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
		cp short.qcow2 x.qcow2
		byre-img check -r all --image-opts "driver=qcow2,file.driver=fault,file.file.filename=x.qcow2,file.ops=$ops,file.fail-at=$n" >out 2>err
		status=$?
		[ $status -eq 0 ] || struck=$((struck + 1))
		[ $status -le 125 ] || fail "$ops $n: ended by a signal" "$(cat err)"
		is "$(head -c 4 x.qcow2 | od -An -tx1 | tr -d ' ')" 514649fb "$ops $n: the header is there"
		ok "$ops $n: opens" byre-img info x.qcow2
		is "$(byre-img snapshot -l x.qcow2 | grep -c -E ' (one|two) ')" 2 "$ops $n: with both snapshots"
		ok "$ops $n: is repaired when the disk is well" byre-img check -r all x.qcow2
		ok "$ops $n: and sound then" byre-img check x.qcow2
		byre-img convert -O raw x.qcow2 x.raw
		same good.raw x.raw "$ops $n: the disk is as before"
	done
	ok "$ops: some did fail ($struck)" [ $struck -ge 1 ]
done
done_testing
