#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: zeros become holes as -S says, whether the source stores them or not.
. "$BYRE_SRC/tests/tap.sh"
. "$BYRE_SRC/tests/img/peer.sh"

python3 - <<'PY'
d = bytearray(1 << 20)
for i in range(0, 1 << 20, 8192):
    d[i] = 1
open("comb.raw", "wb").write(d)
open("zeros.raw", "wb").write(bytes(4 << 20))
PY
allocated () {
	byre-img info --output=json "$1" | sed -n 's/^    "actual-size": \([0-9]*\),$/\1/p'
}
byre-img convert -f raw -O raw zeros.raw new.raw
is "$(allocated new.raw)" 0 "zeros that were stored are not any more"
byre-img convert -f raw -O raw -S 0 zeros.raw new.raw
is "$(allocated new.raw)" 4194304 "-S 0 writes them out"
byre-img convert -f raw -O qcow2 -S 0 zeros.raw new.qcow2
like "$(byre-img check new.qcow2)" "^64/64 = 100.00% allocated" "-S 0 allocates all of a qcow2 image"
ok "which is clean" byre-img check new.qcow2
byre-img convert -f raw -O qcow2 zeros.raw new.qcow2
unlike "$(byre-img check new.qcow2)" "allocated" "without it nothing is allocated"
ok "still the same disk" byre-img compare -F raw new.qcow2 zeros.raw

byre-img convert -f raw -O qcow2 -o cluster_size=4k comb.raw new.qcow2
like "$(byre-img check new.qcow2)" "^128/256 = 50.00% allocated" "4 KiB holes by default"
byre-img convert -f raw -O qcow2 -o cluster_size=4k -S 16k comb.raw new.qcow2
like "$(byre-img check new.qcow2)" "^256/256 = 100.00% allocated" "-S 16k leaves smaller ones alone"
for size in 512 4k 64k 16M; do
	byre-img convert -f raw -O raw -S $size comb.raw new.raw
	same new.raw comb.raw "-S $size keeps the disk as it was"
done
refused_alike "not a size" convert -S foo comb.raw new.raw
refused_alike "not whole sectors" convert -S 1000 comb.raw new.raw
refused_alike "too large" convert -S 16G comb.raw new.raw
refused_alike "negative" convert -S -1 comb.raw new.raw
done_testing
