#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: a damaged size in a snapshot table entry, so that its name or the next entries leave the
# file, is repaired in one pass: what still has its L1 table stays, with as much of a name as
# there is, what cannot be found any more goes, and the image opens for writing.
. "$BYRE_SRC/tests/tap.sh"
have python3 || skip_all "python3 is not installed"

# Small enough that 64 KiB from any entry on leave the file.
byre-img create -q -f qcow2 -o cluster_size=512 good.qcow2 1M
byre-io -c 'write -P 1 0 16k' good.qcow2 >/dev/null
for i in 1 2 3; do byre-img snapshot -c n$i good.qcow2; done
byre-io -c 'write -P 2 0 8k' good.qcow2 >/dev/null
byre-img convert -O raw good.qcow2 good.raw

# damage OUT ENTRY STATEMENTS: python over d, e is where the entry of 72 bytes lies.
damage () {
	python3 - "$@" <<'PY'
import struct, sys
d = bytearray(open("good.qcow2", "rb").read())
e = struct.unpack_from(">Q", d, 64)[0] + 72 * int(sys.argv[2])
p16 = lambda at, v: struct.pack_into(">H", d, at, v)
p64 = lambda at, v: struct.pack_into(">Q", d, at, v)
exec(sys.argv[3])
open(sys.argv[1], "wb").write(d)
PY
}
# repaired NAME LEFT: of the three snapshots.
repaired () {
	exits 2 "$1: found" byre-img check bad.qcow2
	not_ok "$1: does not open for writing" byre-io -c 'write 512k 512' bad.qcow2
	exits 0 "$1: repaired in one pass" byre-img check -r all bad.qcow2
	exits 0 "$1: clean" byre-img check bad.qcow2
	! have qemu-img || exits 0 "$1: clean to the peer" qemu-img check bad.qcow2
	is "$(byre-img snapshot -l bad.qcow2 | sed 1,2d | wc -l)" "$2" "$1: snapshots left"
	byre-img convert -O raw bad.qcow2 out.raw
	same good.raw out.raw "$1: the disk is as before"
	ok "$1: opens for writing" byre-io -c 'write 512k 512' bad.qcow2
}

damage bad.qcow2 2 'p16(e + 12, 0xff00)'
ok "id of the last: the disk can be read" byre-io -r -c 'read -P 2 0 8k' bad.qcow2
repaired "id of the last" 3
byre-img snapshot -a n1 bad.qcow2
ok "id of the last: the first is whole" byre-io -r -c 'read -P 1 0 16k' bad.qcow2

damage bad.qcow2 1 'p16(e + 14, 0xff00)'
repaired "name of the second" 2

damage bad.qcow2 0 'p16(e + 12, 0xff00)'
repaired "id of the first" 1

damage bad.qcow2 1 'p16(e + 14, 0xff00); p64(e, 1 << 40)'
repaired "nor has it a table" 1

# An empty L1 table needs no place.
python3 - <<'PY'
import struct
d = bytearray(open("good.qcow2", "rb").read())
e = struct.unpack_from(">Q", d, 64)[0]
struct.pack_into(">QI", d, e, 0x336e330000000000, 0)
open("bad.qcow2", "wb").write(d)
PY
byre-img check -r all bad.qcow2 >out 2>err
exits 0 "empty table: clean" byre-img check bad.qcow2
ok "empty table: opens for writing" byre-io -c 'write 512k 512' bad.qcow2
ok "empty table: can be deleted" byre-img snapshot -d n1 bad.qcow2
exits 0 "empty table: clean without it" byre-img check bad.qcow2

# Counts of one bit: the table is not written anew by what cannot know what is free.
damage bad.qcow2 2 'p16(e + 12, 0xff00); d[96:100] = bytes(4)'
exits 2 "counts too narrow: repaired as far as that goes" byre-img check -r all bad.qcow2
exits 2 "counts too narrow: nor by another pass" byre-img check -r all bad.qcow2
ok "counts too narrow: the disk can be read" byre-io -r -c 'read -P 2 0 8k' bad.qcow2
done_testing
