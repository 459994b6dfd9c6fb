#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: each line here was once a difference from the peer, found by giving both tools the
# same commands.
. "$BYRE_SRC/tests/tap.sh"
. "$BYRE_SRC/tests/img/peer.sh"
peer_at_least 10 0 || skip_all "qemu-img 10 is not installed"

disk disk.raw 4

# The ID of one snapshot is the name of another.
for tool in qemu-img "$ours"; do
	qemu-img create -q -f qcow2 m.qcow2 1M
	qemu-img snapshot -c keep m.qcow2
	qemu-img snapshot -c 1 m.qcow2
	"$tool" snapshot -d keep m.qcow2
	"$tool" snapshot -l m.qcow2 | awk 'NR > 2 { print $1, $2 }'
done >left
is "$(cat left)" "2 1
2 1" "snapshot -d deletes by name, an ID notwithstanding"

# Sizes are what was asked for.
resized () { # NAME ARGS...
	resized_name=$1
	shift
	for tool in qemu-img "$ours"; do
		head -c 1000001 disk.raw >odd.raw
		head -c 1M disk.raw >even.raw
		qemu-img create -q -f qcow2 q.qcow2 4M
		"$tool" resize "$@" >out 2>err
		echo "$? $(stat -c %s odd.raw even.raw | tr '\n' ' ') $(qemu-img info --output=json q.qcow2 | grep -m1 virtual-size)"
	done >sizes
	is "$(sort -u sizes | wc -l)" 1 "resize: $resized_name"
}
resized "qcow2 takes whole sectors, by a difference" q.qcow2 +1
resized "qcow2 takes whole sectors" q.qcow2 4194305
resized "qcow2 takes whole sectors, shrinking" --shrink q.qcow2 1000000
resized "raw to the byte" -f raw --shrink even.raw 1000000
resized "raw by bytes" -f raw --shrink even.raw -1000
resized "an odd raw file counts in sectors" -f raw odd.raw +1000
resized "an odd raw file, one byte more" -f raw odd.raw 1000002
resized "an odd raw file, itself" -f raw odd.raw 1000001
resized "part of a unit" q.qcow2 +.5M
resized "a blank before it" q.qcow2 ' 8M'

# Long options, and values by other words.
alike "convert: --output-format, --options" convert --output-format qcow2 --options cluster_size=4k -f raw disk.raw t.qcow2
alike "convert: --output-cache" convert --output-cache none -f raw -O qcow2 disk.raw t.qcow2
qemu-img snapshot -c one t.qcow2
alike "convert: --snapshot" convert --snapshot one t.qcow2 t.raw
alike "measure: --options" measure -O qcow2 --options cluster_size=4k disk.raw
alike "measure: options of the file" measure -O qcow2 -o nocow=on --size 1M
alike "measure: options of a raw file" measure -O raw -o preallocation=full --size 1M
alike "measure: an extent size hint" measure -O raw -o extent_size_hint=1M --size 1M
alike "compare: --left-format, --right-format" compare --left-format raw --right-format qcow2 disk.raw t.qcow2
alike "compare: a bad object is no difference" compare --object bad disk.raw disk.raw
for word in yes y true no n false; do
	alike "create: lazy_refcounts=$word" create -f qcow2 -o lazy_refcounts=$word,extended_l2=$word w.qcow2 1M
done
alike "create: lazy_refcounts=maybe" create -f qcow2 -o lazy_refcounts=maybe w.qcow2 1M
alike "create: refcount_bits=+16" create -f qcow2 -o refcount_bits=+16 w.qcow2 1M
alike "create: refcount_bits=0x10" create -f qcow2 -o refcount_bits=0x10 w.qcow2 1M

# compare -s sees how data is stored.
yes abc | head -c 1M >y
qemu-img convert -O qcow2 -f raw y plain.qcow2
qemu-img convert -c -O qcow2 -f raw y packed.qcow2
alike "compare -s: compressed is another state" compare -s plain.qcow2 packed.qcow2

# Reserved clusters have a place.
qemu-img create -q -f qcow2 -o extended_l2=on,cluster_size=128k sub.qcow2 1M
qemu-io -c 'write -q 8k 4k' -c 'write -q 512k 4k' sub.qcow2
alike "map: subclusters nobody wrote have the place of their cluster" map --output=json sub.qcow2

# Chains that cannot be opened.
cp disk.raw gone.raw
qemu-img create -q -f qcow2 -b gone.raw -F raw mid.qcow2
rm gone.raw
refused_alike "create: a backing file whose own is missing" create -f qcow2 -b mid.qcow2 -F qcow2 new.qcow2
ok "nothing was made" test ! -e new.qcow2
refused_alike "create: a backing format that there is not" create -u -b x -F nosuch -f qcow2 new.qcow2 1M

# Options for a data file that info does not open.
qemu-img create -q -f qcow2 -o data_file=d.dat d.qcow2 1M
ok "info: a data file by options" byre-img info --image-opts driver=qcow2,data-file.driver=file,data-file.filename=d.dat,file.filename=d.qcow2
alike "info: a disk of no name" info --image-opts driver=null-co
done_testing
