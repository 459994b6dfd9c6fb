#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: of a file cut short, check -r all takes no count from clusters that tables still name,
# and what is written afterwards is not found in other places of the disk.
. "$BYRE_SRC/tests/tap.sh"
have python3 || skip_all "python3 is not installed"

byre-img create -q -f qcow2 a.qcow2 16M
byre-io -c 'write -P 1 0 512k' a.qcow2 >/dev/null
ok "sound at first" byre-img check a.qcow2

# The first data cluster loses its entry (a leak that stays inside), the last two their bytes.
python3 - <<'PY'
import struct
d = bytearray(open("a.qcow2", "rb").read())
u64 = lambda at: struct.unpack_from(">Q", d, at)[0]
mask = 0x00fffffffffffe00
l2 = u64(u64(40)) & mask
hosts = [u64(l2 + 8 * i) & mask for i in range(8)]
assert hosts[6] == max(hosts) - 65536 and hosts[7] == max(hosts)
struct.pack_into(">Q", d, l2, 0)
open("a.qcow2", "wb").write(d[:hosts[6]])
PY

exits 2 "found" byre-img check a.qcow2
byre-img check -r all a.qcow2 >out 2>err
byre-img check a.qcow2 >out 2>err
unlike "$(cat out err)" "refcount=0" "no named cluster has a count of 0"
if have qemu-img; then
	qemu-img check a.qcow2 >out 2>err
	unlike "$(cat out err)" "refcount=0" "none to the peer either"
fi

# With counts lowered, these would be given the very clusters that guest 384k and 448k name.
ok "writes go on" byre-io -c 'write -P 7 1M 512k' a.qcow2
for at in 384k 448k; do
	not_ok "$at does not show what was written elsewhere" byre-io -r -c "read -P 7 $at 64k" a.qcow2
done
ok "what was written is there" byre-io -r -c 'read -P 7 1M 512k' a.qcow2
ok "what was whole still reads" byre-io -r -c 'read -P 1 64k 320k' a.qcow2
done_testing
