#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: a command whose output cannot be written says so once, in a line, and fails: at once
# where the output would go on for ever.
. "$BYRE_SRC/tests/tap.sh"

[ -c /dev/full ] || skip_all "no /dev/full"
full () { "$@" >/dev/full; }
# told NAME
told () { is "$(cat err)" "byre-img: standard output: No space left on device" "$1: one line"; }

# 64 TiB that one L2 table is used for all over, every other cluster of it data: a map of
# 2^29 rows.
byre-img create -q -f qcow2 many.qcow2 64T
byre-io -c 'write 0 64k' many.qcow2 >/dev/null
python3 - many.qcow2 <<'PY'
import struct, sys
with open(sys.argv[1], "r+b") as f:
    head = f.read(48)
    n, at = struct.unpack(">I", head[36:40])[0], struct.unpack(">Q", head[40:48])[0]
    f.seek(at)
    entry = struct.unpack(">Q", f.read(8))[0]
    f.seek(at)
    f.write(struct.pack(">Q", entry & ~(1 << 63)) * n)
    l2 = entry & 0x00FFFFFFFFFFFE00
    f.seek(l2)
    data = struct.unpack(">Q", f.read(8))[0] & ~(1 << 63)
    f.seek(l2)
    f.write(struct.pack(">QQ", data, 0) * 4096)
PY
exits 1 "map" full timeout 20 byre-img map many.qcow2
told "map"
exits 1 "map in JSON" full timeout 20 byre-img map --output=json many.qcow2
told "map in JSON"
exits 1 "byre-io's map" full timeout 20 byre-io -r -c map many.qcow2
is "$(cat err)" "byre-io: standard output: No space left on device" "byre-io's map: one line"

byre-img create -q -f qcow2 a.qcow2 1M
byre-img snapshot -c one a.qcow2
for command in info "info --backing-chain --output=json" "snapshot -l" check "measure -O qcow2" map; do
	# shellcheck disable=SC2086 # a command and its options
	exits 1 "$command" full byre-img $command a.qcow2
	told "$command"
done

# But not what is to be done.
byre-io -c 'write -q 0 64k' a.qcow2
byre-img snapshot -d one a.qcow2
python3 - a.qcow2 <<'PY'
import struct, sys
with open(sys.argv[1], "r+b") as f:
    f.seek(struct.unpack(">Q", f.read(48)[40:48])[0])
    f.write(bytes(8))
PY
exits 3 "clusters leak" byre-img check a.qcow2
{ sleep 1; byre-img check -r leaks a.qcow2 2>&1; } | true
ok "a repair that nobody reads of" byre-img check a.qcow2
done_testing
