#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: compare tells same from different as the peer does, by message and exit status, and
# always names the first sector that differs.
. "$BYRE_SRC/tests/tap.sh"
. "$BYRE_SRC/tests/img/peer.sh"

disk disk.raw 20
byre-img convert -f raw -O qcow2 disk.raw disk.qcow2
byre-img convert -f raw -O qcow2 -c disk.raw packed.qcow2
cp disk.raw longer.raw && truncate -s 25M longer.raw
cp longer.raw more.raw && printf x | dd of=more.raw bs=1 seek=$((21 << 20)) conv=notrunc 2>/dev/null
cp disk.raw wrong.raw && printf x | dd of=wrong.raw bs=1 seek=$(((3 << 20) + 777)) conv=notrunc 2>/dev/null
printf y | dd of=wrong.raw bs=1 seek=$((19 << 20)) conv=notrunc 2>/dev/null

alike "raw and qcow2" compare -F raw disk.qcow2 disk.raw
alike "compressed or not" compare disk.qcow2 packed.qcow2
alike "quietly" compare -q disk.qcow2 packed.qcow2
alike "longer by zeros" compare -F raw disk.qcow2 longer.raw
alike "shorter by zeros" compare -f raw longer.raw disk.qcow2
alike "longer by zeros, strictly" compare -s -F raw disk.qcow2 longer.raw
alike "longer by data" compare -F raw disk.qcow2 more.raw
alike "longer by data, quietly" compare -q -F raw disk.qcow2 more.raw
alike "different" compare -F raw disk.qcow2 wrong.raw
alike "different the other way" compare -f raw wrong.raw packed.qcow2
exits 1 "the first of two differences" byre-img compare -F raw disk.qcow2 wrong.raw
is "$(cat out)" "Content mismatch at offset $(((3 << 20) + 512))!" "by its sector"
exits 0 "same: 0" byre-img compare -F raw disk.qcow2 disk.raw
exits 1 "different: 1" byre-img compare -q -F raw disk.qcow2 wrong.raw
exits 2 "not there: 2" byre-img compare disk.qcow2 nothere

byre-img create -q -f qcow2 empty.qcow2 10M
byre-img create -q -f qcow2 zeroed.qcow2 10M
byre-io -c 'write -z 1M 1M' zeroed.qcow2 >/dev/null
alike "zeros are zeros" compare empty.qcow2 zeroed.qcow2
exits 1 "allocated zeros are not holes, strictly" byre-img compare -s empty.qcow2 zeroed.qcow2
exits 0 "an image and itself, strictly" byre-img compare -s zeroed.qcow2 zeroed.qcow2

refused_alike "no names" compare
refused_alike "one name" compare a
refused_alike "three names" compare a b c
refused_alike "no such format" compare -f foo disk.qcow2 disk.raw
refused_alike "no such second format" compare -F foo disk.qcow2 disk.raw
refused_alike "no such cache" compare -T foo disk.qcow2 disk.raw
refused_alike "no such file" compare disk.qcow2 nothere
refused_alike "options and a format" compare --image-opts -f qcow2 driver=qcow2,file.filename=disk.qcow2 driver=qcow2,file.filename=packed.qcow2
refused_alike "an unknown word" compare --xx disk.qcow2 disk.raw
done_testing
