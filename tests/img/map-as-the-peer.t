#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: map shows the extents that the peer shows.
. "$BYRE_SRC/tests/tap.sh"
. "$BYRE_SRC/tests/img/peer.sh"
need_peer
[ $peer_new = yes ] || skip_all "qemu-img 10 is not installed"

{
	qemu-img create -f qcow2 base.qcow2 10M
	qemu-io -c 'write -P 1 0 1M' -c 'write -P 2 5M 100k' base.qcow2
	qemu-img create -f qcow2 -b base.qcow2 -F qcow2 mid.qcow2 12M
	qemu-io -c 'write -P 3 64k 64k' -c 'write -z 5M 64k' -c 'write -z 8M 128k' mid.qcow2
	cp mid.qcow2 packed.qcow2
	qemu-io -c 'write -c -P 9 2M 64k' packed.qcow2
	qemu-img create -f qcow2 -b mid.qcow2 -F qcow2 top.qcow2
	qemu-io -c 'write -P 4 11M 64k' -c 'discard 128k 64k' top.qcow2
	qemu-img create -f raw disk.raw 1M
	qemu-io -f raw -c 'write 64k 64k' disk.raw
	qemu-img create -f qcow2 -o data_file=d.raw,data_file_raw=on data.qcow2 3M
	qemu-io -c 'write 64k 64k' data.qcow2
	qemu-img create -f qcow2 -o data_file=d2.raw data2.qcow2 3M
	qemu-io -c 'write 64k 64k' data2.qcow2
	qemu-img create -f qcow2 -o extended_l2=on sub.qcow2 3M
	qemu-io -c 'write 10k 20k' -c 'write -z 64k 4k' -c 'write 200k 2k' sub.qcow2
	qemu-img create -f qcow2 -o preallocation=metadata pre.qcow2 3M
	qemu-io -c 'write 64k 64k' pre.qcow2
	qemu-img create -f qcow2 -o cluster_size=512 tiny.qcow2 1M
	qemu-io -c 'write 10k 20k' -c 'write -z 64k 4k' -c 'write 200k 2k' tiny.qcow2
} >/dev/null
head -c 1000 /dev/urandom >odd.raw
: >empty.raw

for image in base.qcow2 mid.qcow2 packed.qcow2 top.qcow2 disk.raw data.qcow2 data2.qcow2 pre.qcow2 tiny.qcow2 odd.raw empty.raw; do
	alike "$image" map $image
	alike "$image in JSON" map --output=json $image
done
# The peer also tells where an unallocated subcluster would lie; we do not.
alike "subclusters" map sub.qcow2
alike "a part" map --start-offset=64k --max-length=100k top.qcow2
alike "a part in JSON" map -s 64k -l 100k --output=json top.qcow2
alike "odd bytes" map -s 1000 -l 1 --output json base.qcow2
alike "past the end" map --start-offset=64M --output=json base.qcow2
alike "nothing" map --max-length=0 base.qcow2
refused_alike "no name" map
refused_alike "not a start" map -s foo base.qcow2
refused_alike "not a length" map -l foo base.qcow2
refused_alike "a negative length" map -l -1 base.qcow2
refused_alike "no such output" map --output=foo base.qcow2
refused_alike "no such file" map nothere
done_testing
