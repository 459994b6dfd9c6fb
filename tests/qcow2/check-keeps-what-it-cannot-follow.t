#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: while a table cannot be followed, repairing frees nothing: what looks like a leak may
# be what that table names. Once the entry is right again, everything is there.
. "$BYRE_SRC/tests/tap.sh"
have python3 || skip_all "python3 is not installed"

byre-img create -q -f qcow2 a.qcow2 64M
byre-io -c 'write -P 1 0 1M' a.qcow2 >/dev/null
byre-img snapshot -c one a.qcow2
byre-io -c 'write -P 2 0 1M' a.qcow2 >/dev/null

# poke FILE OFFSET-EXPRESSION VALUE: one 64-bit number.
poke () {
	python3 - "$@" <<'PY'
import struct, sys
d = bytearray(open(sys.argv[1], "rb").read())
u64 = lambda at: struct.unpack_from(">Q", d, at)[0]
at = eval(sys.argv[2])
print(u64(at))
struct.pack_into(">Q", d, at, eval(sys.argv[3], {"old": u64(at)}))
open(sys.argv[1], "wb").write(d)
PY
}

for where in 'u64(40)' 'u64(64)'; do
	cp a.qcow2 b.qcow2
	old=$(poke b.qcow2 "$where" 'old | 512')
	exits 2 "$where: found" byre-img check b.qcow2
	like "$(cat out err)" "^Leaked cluster" "$where: with what looks leaked"
	exits 2 "$where: -r leaks" byre-img check -r leaks b.qcow2
	unlike "$(cat out err)" "^Repairing cluster" "$where: frees nothing"
	exits 2 "$where: -r all" byre-img check -r all b.qcow2
	unlike "$(cat out err)" "^Repairing cluster" "$where: frees nothing either"
	poke b.qcow2 "$where" "$old" >/dev/null
	exits 0 "$where: put right by hand, all is well" byre-img check b.qcow2
	same a.qcow2 b.qcow2 "$where: and nothing was lost"
done
done_testing
