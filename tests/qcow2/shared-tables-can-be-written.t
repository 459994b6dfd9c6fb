#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: an L2 table that two L1 entries name, or an L1 table that two snapshots name, is no
# damage once its count says so: such an image is clean, opens for writing, and what is written
# through one owner is not seen through the other. Where count or flags deny it, it does not open.
. "$BYRE_SRC/tests/tap.sh"
have python3 || skip_all "python3 is not installed"

# poke FILE OUT STATEMENTS: python over d, with u(at), p(at, value) of 64 bits, p16(at, value).
poke () {
	python3 - "$@" <<'PY'
import struct, sys
d = bytearray(open(sys.argv[1], "rb").read())
u = lambda at: struct.unpack_from(">Q", d, at)[0]
p = lambda at, v: struct.pack_into(">Q", d, at, v)
p16 = lambda at, v: struct.pack_into(">H", d, at, v)
l1, reft, snaps = u(40), u(48), u(64)
count = lambda offset: u(reft) + 2 * (offset // 512)
exec(sys.argv[3])
open(sys.argv[2], "wb").write(d)
PY
}
clean () {
	exits 0 "$2" byre-img check "$1"
	! have qemu-img || exits 0 "$2, to the peer" qemu-img check "$1"
}

byre-img create -q -f qcow2 -o cluster_size=512 a.qcow2 256k
byre-io -c 'write -P 1 0 32k' a.qcow2 >/dev/null

# One L2 table (32 KiB of disk) for two places.
poke a.qcow2 shared.qcow2 'p(l1 + 16, u(l1))'
not_ok "L2: does not open while its count is 1" byre-io -c 'write 0 512' shared.qcow2
exits 0 "L2: repaired in one pass" byre-img check -r all shared.qcow2
clean shared.qcow2 "L2: clean"
cp shared.qcow2 fixed.qcow2
ok "L2: is written" byre-io -c 'write -P 2 0 512' shared.qcow2
ok "L2: the other place keeps what it had" byre-io -r -c 'read -P 1 64k 32k' shared.qcow2
ok "L2: is written there too" byre-io -c 'write -P 3 64k 1k' shared.qcow2
ok "L2: and both are right" byre-io -r -c 'read -P 2 0 512' -c 'read -P 1 512 32256' \
	-c 'read -P 3 64k 1k' -c 'read -P 1 65k 31k' shared.qcow2
byre-img check shared.qcow2 >out 2>&1
unlike "$(cat out)" "reference=" "L2: every count is right after that"
ok "L2: a snapshot of it" byre-img snapshot -c s fixed.qcow2
clean fixed.qcow2 "L2: clean with a snapshot"
ok "L2: the snapshot goes" byre-img snapshot -d s fixed.qcow2
clean fixed.qcow2 "L2: clean without it"

poke fixed.qcow2 bad.qcow2 'p(l1, u(l1) | 1 << 63)'
not_ok "L2: does not open with a copied flag" byre-io -c 'write 0 512' bad.qcow2
like "$(cat err)" "L1 entry 0 has the copied flag" "L2: and says which"
poke fixed.qcow2 bad.qcow2 'p16(count(u(l1)), 1)'
not_ok "L2: does not open with a count too low" byre-io -c 'write 0 512' bad.qcow2
like "$(cat err)" "is referenced 2 times, but its refcount is 1" "L2: and says so"

# One L1 table for two snapshots.
for i in one two; do byre-img snapshot -c $i a.qcow2; done
poke a.qcow2 shared.qcow2 'p(snaps + 72, u(snaps))'
not_ok "L1: does not open while its count is 1" byre-io -c 'write 0 512' shared.qcow2
exits 0 "L1: repaired in one pass" byre-img check -r all shared.qcow2
clean shared.qcow2 "L1: clean"
ok "L1: is written" byre-io -c 'write -P 2 0 512' shared.qcow2
clean shared.qcow2 "L1: clean after that"
ok "L1: one snapshot goes" byre-img snapshot -d one shared.qcow2
clean shared.qcow2 "L1: clean after that as well"
ok "L1: the other is applied" byre-img snapshot -a two shared.qcow2
ok "L1: and is whole" byre-io -r -c 'read -P 1 0 32k' shared.qcow2
clean shared.qcow2 "L1: clean at the end"
done_testing
