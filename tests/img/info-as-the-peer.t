#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: info prints what the peer prints, for people and for programs, of images that the
# peer made; it opens nothing but the image.
. "$BYRE_SRC/tests/tap.sh"
. "$BYRE_SRC/tests/img/peer.sh"
need_peer
[ $peer_new = yes ] || skip_all "qemu-img 10 is not installed"

secret="--object secret,id=s,data=abc"
{
	qemu-img create -f qcow2 base.qcow2 10M
	qemu-io -c 'write -P 1 0 1M' -c 'write -P 2 5M 100k' base.qcow2
	qemu-img create -f qcow2 -b base.qcow2 -F qcow2 mid.qcow2 12M
	qemu-io -c 'write -P 3 64k 64k' -c 'write -z 5M 64k' mid.qcow2
	qemu-img create -f qcow2 -b mid.qcow2 -F qcow2 top.qcow2
	qemu-img snapshot -c one top.qcow2
	qemu-img snapshot -c 'one with a name that is longer' top.qcow2
	qemu-img create -f raw disk.raw 1M
	qemu-io -f raw -c 'write 64k 64k' disk.raw
	# shellcheck disable=SC2086 # options
	qemu-img create $secret -f qcow2 -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10 luks.qcow2 1M
	# shellcheck disable=SC2086
	qemu-img create $secret -f qcow2 -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10 -b base.qcow2 -F qcow2 luks-on.qcow2
	# shellcheck disable=SC2086
	qemu-img create $secret -f qcow2 -o encrypt.format=aes,encrypt.key-secret=s aes.qcow2 1M
	# shellcheck disable=SC2086
	qemu-img create $secret -f luks -o key-secret=s,iter-time=10 disk.luks 1M
	qemu-img create -f qcow2 -o data_file=d.raw,data_file_raw=on data.qcow2 3M
	rm d.raw
	qemu-img create -f qcow2 -o compat=0.10 v2.qcow2 3M
	qemu-img create -f qcow2 -o lazy_refcounts=on,extended_l2=on,refcount_bits=1,compression_type=zstd v3.qcow2 3G
	qemu-img create -f qcow2 bitmaps.qcow2 3M
	qemu-img bitmap --add bitmaps.qcow2 b0
	qemu-img bitmap --add -g 32k --disable bitmaps.qcow2 b1
	qemu-img create -f qcow2 -u -b nothere -F qcow2 orphan.qcow2 1M
	qemu-img create -f qcow2 -u -b nbd://host/x -F raw net.qcow2 1M
} >/dev/null
python3 - <<'PY'
d = bytearray(open("v3.qcow2", "rb").read())
d[79] |= 1; open("dirty.qcow2", "wb").write(d)
d[79] ^= 3; open("corrupt.qcow2", "wb").write(d)
open("odd.raw", "wb").write(bytes(1000))
open("empty.raw", "wb")
PY

for image in base.qcow2 mid.qcow2 top.qcow2 disk.raw luks.qcow2 luks-on.qcow2 aes.qcow2 disk.luks data.qcow2 \
	v2.qcow2 v3.qcow2 bitmaps.qcow2 orphan.qcow2 net.qcow2 dirty.qcow2 corrupt.qcow2 odd.raw empty.raw; do
	alike "$image" info $image
	alike "$image in JSON" info --output=json $image
done
alike "a chain" info --backing-chain top.qcow2
alike "a chain in JSON" info -b --output json top.qcow2
alike "by a longer path" info "$PWD/top.qcow2"
alike "by a path from here" info ./top.qcow2
alike "by file:" info file:top.qcow2
alike "by options" info --image-opts driver=qcow2,file.filename=top.qcow2
alike "by json:" info 'json:{"driver":"qcow2","file":{"driver":"file","filename":"top.qcow2"}}'
alike "as raw" info -f raw top.qcow2
alike "shared" info -U top.qcow2

printf 'QFI\373\0\0\0\3' >short.qcow2
refused_alike "no name" info
refused_alike "two names" info a b
refused_alike "no such output" info --output=foo disk.raw
refused_alike "no such file" info nothere
refused_alike "not that format" info -f qcow2 disk.raw
refused_alike "no such format" info -f foo disk.raw
refused_alike "options and a format" info --image-opts -f qcow2 driver=qcow2,file.filename=top.qcow2
refused_alike "an unknown option" info --image-opts driver=qcow2,foo=bar,file.filename=top.qcow2
refused_alike "options without a file" info --image-opts driver=qcow2
refused_alike "an unknown driver" info --image-opts driver=foo,file.filename=top.qcow2
refused_alike "an empty name" info ''
refused_alike "a folder" info .
refused_alike "an unknown protocol" info foo:bar
refused_alike "half of a JSON object" info 'json:{'
refused_alike "a header that is cut off" info short.qcow2
refused_alike "a chain that breaks off" info -b orphan.qcow2
refused_alike "an option of other commands" info -q disk.raw
done_testing
