#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: a snapshot operation that cannot be done changes nothing: a count that would not fit,
# a table that cannot be, an external data file, a name that is not there.
. "$BYRE_SRC/tests/tap.sh"
have python3 || skip_all "python3 is not installed"

for bits in 1 2; do
	byre-img create -q -f qcow2 -o refcount_bits=$bits a.qcow2 4M
	ok "$bits bits: an empty disk has a snapshot" byre-img snapshot -c empty a.qcow2
	byre-img snapshot -d empty a.qcow2
	byre-io -c 'write -P 1 0 1M' a.qcow2 >/dev/null
	n=0
	while byre-img snapshot -c s$n a.qcow2 2>err; do n=$((n + 1)); done
	is $n $(((1 << bits) - 2)) "$bits bits: as many as can be counted"
	like "$(cat err)" "would exceed the maximum refcount" "$bits bits: then it says why"
	ok "$bits bits: nothing leaks" byre-img check a.qcow2
	ok "$bits bits: reads" byre-io -c 'read -P 1 0 1M' a.qcow2
done
# Applying makes one more user of each cluster as well.
byre-io -c 'write -P 2 0 1M' a.qcow2 >/dev/null
byre-img snapshot -c last a.qcow2
cp a.qcow2 before.qcow2
byre-img snapshot -a s0 a.qcow2
ok "applied where counts allow" byre-img check a.qcow2

byre-img create -q -f qcow2 -o data_file=d.raw d.qcow2 4M
cp d.qcow2 before.qcow2
for op in -c -a -d; do
	not_ok "data file: $op" byre-img snapshot $op x d.qcow2
done
same before.qcow2 d.qcow2 "data file: untouched"

byre-img create -q -f qcow2 a.qcow2 64M
byre-io -c 'write -P 1 0 1M' a.qcow2 >/dev/null
byre-img snapshot -c one a.qcow2
cp a.qcow2 before.qcow2
for op in -a -d; do
	not_ok "no such snapshot: $op" byre-img snapshot $op none a.qcow2
done
same before.qcow2 a.qcow2 "no such snapshot: untouched"

# An L2 entry outside the file: what it names cannot be counted.
python3 - <<'PY'
import struct
d = bytearray(open("a.qcow2", "rb").read())
u64 = lambda at: struct.unpack_from(">Q", d, at)[0]
l2 = u64(u64(40)) & 0x00fffffffffffe00
struct.pack_into(">Q", d, l2, 1 << 40)
open("a.qcow2", "wb").write(d)
PY
cp a.qcow2 before.qcow2
for op in '-c two' '-d one'; do
	# shellcheck disable=SC2086 # two words
	not_ok "bad entry: $op" byre-img snapshot $op a.qcow2
	like "$(cat err)" "outside the file" "bad entry: says so"
done
exits 2 "bad entry: still just that" byre-img check a.qcow2
byre-img check a.qcow2 >ours 2>&1
byre-img check before.qcow2 >theirs 2>&1
same ours theirs "bad entry: nothing else changed"

# Tables whose count is zero: what the operation would free at its end is looked at first.
rm -f a.qcow2
byre-img create -q -f qcow2 a.qcow2 64M
byre-io -c 'write -P 1 0 1M' a.qcow2 >/dev/null
byre-img snapshot -c one a.qcow2
byre-io -c 'discard 0 1M' a.qcow2 >/dev/null
for table in 'u64(64)' 'u64(u64(64))' 'u64(40)'; do
	python3 - "$table" <<'PY'
import struct, sys
d = bytearray(open("a.qcow2", "rb").read())
u64 = lambda at: struct.unpack_from(">Q", d, at)[0]
struct.pack_into(">H", d, u64(u64(48)) + 2 * (eval(sys.argv[1]) // 65536), 0)
open("before.qcow2", "wb").write(d)
PY
	case $table in
		'u64(64)') ops='-c:two -d:one' ;;
		'u64(40)') ops='-a:one' ;;
		*) ops='-d:one' ;;
	esac
	for op in $ops; do
		cp before.qcow2 b.qcow2
		not_ok "$table: $op" byre-img snapshot "${op%:*}" "${op#*:}" b.qcow2
		like "$(cat err)" "is referenced, but its refcount is 0" "$table: $op says why"
		same before.qcow2 b.qcow2 "$table: $op changes nothing"
	done
done
done_testing
