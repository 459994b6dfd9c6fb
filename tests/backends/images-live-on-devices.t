#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: images on block devices with sectors of 512 and of 4096 bytes, through the page cache
# and past it: made, written, converted, snapshotted, checked, compared, resized; devices that
# are full, grow while they are open, or may not be written.
# timeout: 240
. "$BYRE_SRC/tests/tap.sh"
. "$BYRE_SRC/tests/backends/devices.sh"
own_mounts "$@"

python3 - <<'PY'
import random
random.seed(11)
data = bytearray(24 << 20)
for i in range(40):
    at = random.randrange(0, len(data) - 65536) & ~511
    data[at:at + 40960] = random.randbytes(20480) + bytes([i]) * 20480
open("disk.raw", "wb").write(data)
PY
peer () { have qemu-img && { ok "$1" qemu-img compare -q -f raw -F "$2" disk.raw "$device" || ls -l "$device"; }; }

for sector in 512 4096; do
	for cache in writeback none; do
		on="sectors of $sector, $cache"
		direct=
		[ $cache = none ] && direct=-n
		truncate -s 0 volume && truncate -s 64M volume
		attach volume --sector-size $sector
		head -c 1M /dev/urandom >"$device"

		ok "create ($on)" byre-img create -q -f qcow2 "$device" 256M
		like "$(byre-img info -v "$device")" "logical block size: $sector" "info"
		# shellcheck disable=SC2086 # no option or one
		ok "written and read back" byre-io $direct -f qcow2 -c 'write -q -P 5 1M 3M' -c 'write -q -z 2M 64k' \
			-c 'discard -q 3M 64k' -c 'read -q -P 5 1M 1M' -c 'read -q -P 0 2M 64k' \
			-c 'write -q -P 6 777 1' -c 'read -q -P 6 777 1' -c 'read -q -P 0 778 100' "$device"
		ok "a snapshot" byre-img snapshot -c one "$device"
		ok "written over" byre-io -f qcow2 -c 'write -q -P 7 1M 1M' "$device"
		ok "applied" byre-img snapshot -a one "$device"
		ok "as it was" byre-io -r -f qcow2 -c 'read -q -P 5 1M 1M' "$device"
		ok "deleted" byre-img snapshot -d one "$device"
		ok "resized" byre-img resize -q "$device" 300M
		ok "and smaller" byre-img resize -q --shrink "$device" 100M
		ok "sound" byre-img check -q -T $cache "$device"

		ok "raw to qcow2 ($on)" byre-img convert -t $cache -f raw -O qcow2 disk.raw "$device"
		ok "the same" byre-img compare -q -T $cache -f raw -F qcow2 disk.raw "$device"
		peer "qemu-img sees the same" qcow2
		ok "sound" byre-img check -q "$device"
		ok "and back" byre-img convert -T $cache -f qcow2 -O raw "$device" back.raw
		same disk.raw back.raw "every byte"
		ok "compressed" byre-img convert -c -t $cache -f raw -O qcow2 disk.raw "$device"
		ok "the same" byre-img compare -q -T $cache -f raw -F qcow2 disk.raw "$device"
		ok "clusters of a sector ($on)" byre-img convert -t $cache -f raw -O qcow2 -o cluster_size=512 disk.raw "$device"
		ok "the same" byre-img compare -q -T $cache -f raw -F qcow2 disk.raw "$device"
		ok "sound" byre-img check -q "$device"

		ok "raw ($on)" byre-img convert -t $cache -f raw -O raw disk.raw "$device"
		cmp -n $((24 << 20)) disk.raw "$device" >out 2>&1
		is $? 0 "every byte"
		# shellcheck disable=SC2086
		ok "odd writes" byre-io $direct -f raw -c 'write -q -P 1 1000 3000' -c 'write -q -z 5000 100' \
			-c 'read -q -P 1 1000 3000' -c 'read -q -P 0 5000 100' -c 'write -q -P 2 67108863 1' \
			-c 'read -q -P 2 67108863 1' "$device"
		not_ok "and none past the end" byre-io -f raw -c 'write -q 64M 512' "$device"
		like "$(byre-img measure --output=json -O raw -f raw "$device")" '"required": 67108864' "measured"
		not_ok "raw on a device does not grow" byre-img resize -q -f raw "$device" 65M
		like "$(cat err)" "Cannot grow device files" "and says so"
		release
	done
done

# Full, to the last cluster: each write that was accepted can be flushed and is there. With small
# clusters the refcount table has to move meanwhile, with wide counts there is a block for every
# few clusters. Large writes to 1 MiB before the end, then small ones.
fill () {
	python3 - "$1" <<'PY'
import sys
def write(at, n):
    print(f"write -P {at // 512 % 250 + 1} {at} {n}")
large = (int(sys.argv[1]) >> 16) - 16
for i in range(large):
    write(i << 16, 1 << 16)
for i in range(2200):
    write((large << 16) + i * 512, 512)
PY
}
accepted () {
	sed -n 's/.*wrote \([0-9]*\)\/[0-9]* bytes at offset \([0-9]*\)$/\2 \1/p' io.out |
		while read -r at n; do echo "read -q -P $((at / 512 % 250 + 1)) $at $n"; done
}
release
for options in cluster_size=64k cluster_size=512 cluster_size=512,refcount_bits=64 cluster_size=4k,refcount_bits=1; do
	for size in 2M 5M 8M 8456k 17M; do
		truncate -s 0 volume && truncate -s $size volume
		attach volume
		byre-img create -q -f qcow2 -o $options "$device" 64M
		fill "$(blockdev --getsize64 "$device")" >commands
		byre-io -f qcow2 "$device" <commands >io.out 2>io.err
		ok "$size are full ($options)" grep -q "write failed: No space left on device" io.out io.err
		is "$(cat io.out io.err | grep -v 'write failed: No space left on device\|wrote \| KiB, \| bytes, \|^byre-io> $')" "" "and nothing else is said"
		ok "sound" byre-img check -q -f qcow2 "$device"
		accepted >commands
		ok "not before" test "$(wc -l <commands)" -gt 20
		ok "every accepted byte is there" byre-io -r -f qcow2 "$device" <commands
		is "$(sed 's/byre-io> //g' out | grep -c .)" 0 "without a word"
		release
	done
done
rm commands

# A device that is too small: one message.
truncate -s 0 volume && truncate -s 1M volume
attach volume
not_ok "a device that is too small" byre-img convert -f raw -O qcow2 disk.raw "$device"
like "$(cat err)" "No space left on device" "is full"
is "$(wc -l <err)" 1 "in one line"
truncate -s 8M volume && losetup -c "$device"
byre-img create -q -f qcow2 "$device" 64M
not_ok "full in the middle of a write" byre-io -f qcow2 -c 'write -q -P 1 0 4M' -c 'write -q -P 2 4M 16M' "$device"
ok "sound" byre-img check -q -f qcow2 "$device"
ok "what was written before is there" byre-io -r -f qcow2 -c 'read -q -P 1 0 4M' "$device"

# Grown while it is open: by whoever has it open, at the next request that needs it.
mkfifo commands
byre-io -f qcow2 "$device" <commands >io.out 2>&1 &
writer=$!
exec 3>commands
echo 'write -P 3 4M 16M' >&3
ok "no room" wait_for grep -q "No space left" io.out
truncate -s 32M volume && losetup -c "$device"
echo 'write -P 4 4M 16M' >&3
ok "room after the device has grown" wait_for grep -q "wrote 16777216" io.out
exec 3>&-
wait $writer
ok "sound" byre-img check -q -f qcow2 "$device"
ok "all is there" byre-io -r -f qcow2 -c 'read -q -P 1 0 4M' -c 'read -q -P 4 4M 16M' "$device"
ok "a raw disk takes its new size" byre-img resize -q -f raw "$device" 32M

# Not to be written.
truncate -s 0 volume && truncate -s 8M volume
release
attach volume -r
for command in "create -f qcow2 $device 4M" "convert -f raw -O raw disk.raw $device" "resize -f raw $device 4M"; do
	# shellcheck disable=SC2086 # words
	not_ok "read-only: ${command%% *}" byre-img $command
	like "$(cat err)" "read-only" "says so"
	is "$(wc -l <err)" 1 "in one line"
done
ok "read-only: read" byre-io -r -f raw -c 'read -q -P 0 0 8M' "$device"
done_testing
