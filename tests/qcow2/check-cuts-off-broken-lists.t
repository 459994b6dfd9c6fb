#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: a snapshot table or bitmaps that cannot be read are an error with a place and a value;
# -r all cuts them off where reading ends, and the active disk is as before.
. "$BYRE_SRC/tests/tap.sh"
have python3 qemu-img qemu-io || skip_all "python3 or qemu-img is not installed"

qemu-img create -q -f qcow2 good.qcow2 64M
qemu-img bitmap --add good.qcow2 b0
qemu-img bitmap --add -g 512 good.qcow2 b1
qemu-io -c 'write -P 1 0 1M' good.qcow2 >/dev/null
for i in 1 2 3; do byre-img snapshot -c s$i good.qcow2; done
byre-io -c 'write -P 2 0 128k' good.qcow2 >/dev/null
byre-img convert -O raw good.qcow2 good.raw
ok "sound at first" byre-img check good.qcow2

python3 - <<'PY'
import struct
d = open("good.qcow2", "rb").read()
u64 = lambda at: struct.unpack_from(">Q", d, at)[0]
snaps = u64(64)
ext = d.find(bytes.fromhex("23852875"))
directory = u64(ext + 24)
entry = 72  # of a snapshot: 40 + 24 + id and name, padded
table = u64(directory)
def made(name, at, text):
    e = bytearray(d)
    e[at:at + len(text)] = text
    open(name + ".qcow2", "wb").write(e)
p32, p64 = (lambda v: struct.pack(">I", v)), (lambda v: struct.pack(">Q", v))
made("extra-0", snaps + 36, p32(5000))
made("extra-1", snaps + entry + 36, p32(0xffffff00))
made("outside", 64, p64(1 << 28))
made("more", 60, p32(60000))
made("reserved", ext + 12, p32(1))
made("directory-outside", ext + 24, p64(1 << 28))
made("directory-short", ext + 16, p64(16))
made("directory-many", ext + 8, p32(9))
made("flags", directory + 12, p32(0x12))
made("kind", directory + 16, b"\2")
made("granularity", directory + 17, b"\3")
made("extra-data", directory + 20, p32(1))
made("nameless", directory + 18, b"\0\0")
made("table-unaligned", directory, p64(table + 512))
made("table-outside", directory, p64(1 << 28))
made("entry-reserved", table, p64(3))
made("entry-outside", table, p64(1 << 28))
PY

for image in extra-0 extra-1 outside more reserved directory-outside directory-short directory-many \
	flags kind granularity extra-data nameless table-unaligned table-outside entry-reserved entry-outside; do
	exits 2 "$image: found" byre-img check $image.qcow2
	like "$(cat out err)" "^ERROR" "$image: and told"
	ok "$image: repaired" byre-img check -r all $image.qcow2
	ok "$image: clean" byre-img check $image.qcow2
	ok "$image: clean to the peer" qemu-img check $image.qcow2
	byre-img convert -O raw $image.qcow2 out.raw
	same good.raw out.raw "$image: the disk is as before"
done
# A size in the header that is not the bitmaps'. The peer opens neither.
byre-img create -q -f qcow2 -o cluster_size=4k small.qcow2 64M
qemu-img bitmap --add -g 512 small.qcow2 b
python3 - <<'PY'
d = bytearray(open("small.qcow2", "rb").read())
d[24:32] = (1 << 20).to_bytes(8, "big")
open("small.qcow2", "wb").write(d)
PY
not_ok "smaller disk: not open to the peer" qemu-img check small.qcow2
exits 2 "smaller disk: found" byre-img check small.qcow2
like "$(cat out err)" "its table is not of the disk's size" "smaller disk: and told"
exits 0 "smaller disk: repaired" byre-img check -r all small.qcow2
ok "smaller disk: clean to the peer" qemu-img check small.qcow2

is "$(byre-img snapshot -l extra-1.qcow2 | sed -n '3,$s/^[0-9]* *\(s.\).*/\1/p')" "s1" "what could be read of the table is kept"
done_testing
