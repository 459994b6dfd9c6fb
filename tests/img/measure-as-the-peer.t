#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: measure gives the peer's numbers, and a converted image is no larger than they say.
. "$BYRE_SRC/tests/tap.sh"
. "$BYRE_SRC/tests/img/peer.sh"

disk disk.raw 12
byre-img convert -f raw -O qcow2 disk.raw disk.qcow2
byre-img create -q -f qcow2 -b disk.qcow2 -F qcow2 top.qcow2 14M
byre-img snapshot -c s1 top.qcow2

for options in '' 'cluster_size=4k' 'cluster_size=2M' 'extended_l2=on' 'preallocation=full' 'refcount_bits=1' 'compat=0.10'; do
	for size in 0 1 1000 64k 1G 3T; do
		alike "$size as qcow2 ($options)" measure --size $size -O qcow2 ${options:+-o "$options"}
	done
	alike "a raw disk as qcow2 ($options)" measure -f raw -O qcow2 ${options:+-o "$options"} disk.raw
	alike "a qcow2 disk as qcow2 ($options)" measure -O qcow2 ${options:+-o "$options"} disk.qcow2
	says=$(byre-img measure -f raw -O qcow2 ${options:+-o "$options"} disk.raw | sed -n 's/^required size: //p')
	byre-img convert -f raw -O qcow2 ${options:+-o "$options"} disk.raw new.qcow2
	size=$(wc -c <new.qcow2)
	ok "$size bytes are no more than $says ($options)" test "$size" -le "$says"
done
alike "raw" measure --size 1G
alike "raw in JSON" measure --size 1G -O raw --output=json
alike "qcow2 in JSON" measure -O qcow2 --output=json disk.qcow2
alike "a chain" measure -O qcow2 top.qcow2
alike "a backing file in the options" measure -O qcow2 -o backing_file=disk.qcow2,backing_fmt=qcow2 top.qcow2
alike "a snapshot" measure -O qcow2 -l s1 top.qcow2
alike "a snapshot by its name" measure -O qcow2 -l snapshot.name=s1 top.qcow2
alike "luks" measure --object secret,id=s,data=x --size 1G -O luks -o key-secret=s

refused_alike "nothing to measure" measure
refused_alike "two things" measure --size 1G disk.raw
refused_alike "two names" measure disk.raw disk.qcow2
refused_alike "not a size" measure --size foo
refused_alike "too large a size" measure --size 16E
refused_alike "a negative size" measure --size -1
refused_alike "an unknown format" measure --size 1G -O foo
refused_alike "an unknown option" measure --size 1G -O qcow2 -o foo=bar
refused_alike "an option's help" measure --size 1G -O qcow2 -o help
refused_alike "a cluster size that cannot be" measure --size 1G -O qcow2 -o cluster_size=3k
refused_alike "a source format without a source" measure --size 1G -f qcow2
refused_alike "a snapshot without a source" measure --size 1G -l s1
refused_alike "no such snapshot" measure -l nosuch disk.qcow2
refused_alike "no such snapshot parameter" measure -l snapshot.foo=a disk.qcow2
refused_alike "no such file" measure nothere
done_testing
