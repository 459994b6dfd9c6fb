#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: create takes the peer's options, prints its line, and makes images that say the same
# of themselves to either program.
. "$BYRE_SRC/tests/tap.sh"
. "$BYRE_SRC/tests/img/peer.sh"
need_peer

secret="--object secret,id=s,data=abc"

both "a raw image" create -f raw a.raw 1M
both "raw is the default; sizes have fractions" create b.raw 1.5k
both "any number of bytes" create c.raw 100
both "a qcow2 image" create -f qcow2 a.qcow2 1M
both "quietly" create -q -f qcow2 a1.qcow2 1M
both "of no size" create -f qcow2 a2.qcow2 0
both "of hexadecimal size" create -f qcow2 a3.qcow2 0x1000
both "with the size among the options" create -f qcow2 -o size=2M a4.qcow2
both "with options" create -f qcow2 -o cluster_size=4k -o lazy_refcounts=on,refcount_bits=64 o1.qcow2 1M
both "version 2" create -f qcow2 -o compat=0.10 o2.qcow2 64M
both "extended L2, zstd" create -f qcow2 -o extended_l2=on,compression_type=zstd o3.qcow2 64M
both "metadata preallocated" create -f qcow2 -o preallocation=metadata o4.qcow2 5M
both "space preallocated" create -f qcow2 -o preallocation=falloc o5.qcow2 5M
both "written out" create -f qcow2 -o preallocation=full o6.qcow2 5M
both "a data file" create -f qcow2 -o data_file=d.raw,data_file_raw=on o7.qcow2 5M
both "on a backing file" create -f qcow2 -b a.qcow2 -F qcow2 b1.qcow2
both "on a backing file, larger" create -f qcow2 -b a.raw -F raw b2.qcow2 4M
both "on a backing file by options" create -f qcow2 -o backing_file=b1.qcow2,backing_fmt=qcow2 b3.qcow2
both "on a backing file that is not there" create -f qcow2 -u -b 'no,such' -F raw b4.qcow2 1M
both "raw, preallocated" create -f raw -o preallocation=falloc p.raw 1M
# shellcheck disable=SC2086 # options
both "luks in qcow2" create $secret -f qcow2 -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10 e1.qcow2 1M
# shellcheck disable=SC2086
both "luks" create $secret -f luks -o key-secret=s,iter-time=10 e2.luks 1M
both "a name that begins with a dash" create -f qcow2 -- -a.qcow2 1M

# What they say of themselves.
facts () {
	"$1" info -f "${2##*.}" "$2" | grep -v -e 'disk size' -e 'file length' -e 'uuid' -e iters -e 'key offset'
}
for image in a.qcow2 a2.qcow2 o1.qcow2 o2.qcow2 o3.qcow2 o4.qcow2 o7.qcow2 b1.qcow2 b3.qcow2 b4.qcow2 e1.qcow2 e2.luks; do
	[ $peer_new = yes ] || break
	is "$(cd ours && facts qemu-img $image)" "$(cd theirs && facts qemu-img $image)" "$image: the peer says the same of both"
	is "$(cd ours && facts "$ours" $image)" "$(cd theirs && facts qemu-img $image)" "$image: we say what the peer says"
done
for image in a a2 o1 o2 o3 o4 o5 o6 o7 b1; do
	# The peer looks for data files from where it is started.
	ok "$image.qcow2: the peer's check finds nothing" sh -c "cd ours && qemu-img check -q $image.qcow2"
done

if [ $peer_new = yes ]; then
	alike "options of qcow2" create -f qcow2 -o help
	alike "options with those of the file" create -f qcow2 -o help x.qcow2
	alike "options of luks with those of the file" create -f luks -o help x.luks
	alike "options of raw with those of the file" create -f raw -o '?' x.raw
fi
done_testing
