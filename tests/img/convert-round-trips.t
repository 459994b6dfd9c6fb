#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: a disk that goes through any format, compressed or encrypted, by us or by the peer,
# comes out as it went in.
# timeout: 300
. "$BYRE_SRC/tests/tap.sh"
. "$BYRE_SRC/tests/img/peer.sh"

disk disk.raw 16
printf 'open sesame' >key
secret="--object secret,id=s,file=key"

# there NAME FORMAT OPTIONS...: convert to FORMAT and back.
there () {
	name=$1 format=$2
	shift 2
	ok "$name: written" byre-img convert -f raw -O "$format" "$@" disk.raw new."$format"
	ok "$name: compares" byre-img compare -f "$format" -F raw new."$format" disk.raw
	ok "$name: read back" byre-img convert -f "$format" -O raw new."$format" back.raw
	same back.raw disk.raw "$name: as it was"
	readable "$name: readable by the peer" new."$format" disk.raw -f "$format"
	if [ "$format" = qcow2 ]; then
		ok "$name: clean" byre-img check -q new.qcow2
		! have qemu-img || ok "$name: clean to the peer" qemu-img check -q new.qcow2
	fi
}
there "raw" raw
there "qcow2" qcow2
there "out of order" qcow2 -W -m 16
there "one at a time" qcow2 -m 1
there "small clusters" qcow2 -o cluster_size=512
there "large clusters" qcow2 -o cluster_size=2M
there "extended L2" qcow2 -o extended_l2=on
there "version 2" qcow2 -o compat=0.10
there "one-bit counts" qcow2 -o refcount_bits=1
there "zlib" qcow2 -c
there "zstd" qcow2 -c -o compression_type=zstd
there "zlib, small clusters" qcow2 -c -o cluster_size=4k
there "zlib, large clusters" qcow2 -c -o cluster_size=2M
there "zstd out of order" qcow2 -c -W -o compression_type=zstd
there "metadata preallocated" qcow2 -o preallocation=metadata
there "everything written" qcow2 -S 0
there "large holes only" qcow2 -S 64k
there "smallest holes" raw -S 512
there "copy offload" raw -C
there "a data file" qcow2 -o data_file=d.raw
there "a raw data file" qcow2 -o data_file=d2.raw,data_file_raw=on
for cache in none writethrough directsync unsafe; do
	there "cache $cache" qcow2 -t $cache -T writeback
done

# there_secret NAME FORMAT SOURCE-OPTIONS TARGET-OPTIONS
there_secret () {
	# shellcheck disable=SC2086 # options
	ok "$1: written" byre-img convert $secret -f raw -O "$2" -o "$4" disk.raw new.enc
	# shellcheck disable=SC2086
	ok "$1: read back" byre-img convert $secret --image-opts -O raw "driver=$2,file.filename=new.enc,$3" back.raw
	same back.raw disk.raw "$1: as it was"
	if have qemu-img; then
		# shellcheck disable=SC2086
		ok "$1: read by the peer" qemu-img convert $secret --image-opts -O raw "driver=$2,file.filename=new.enc,$3" back.raw
		same back.raw disk.raw "$1: as the peer sees it"
		# shellcheck disable=SC2086
		ok "$1: written by the peer" qemu-img convert $secret -f raw -O "$2" -o "$4" disk.raw new.enc
		# shellcheck disable=SC2086
		ok "$1: read by us" byre-img convert $secret --image-opts -O raw "driver=$2,file.filename=new.enc,$3" back.raw
		same back.raw disk.raw "$1: as we see it"
	fi
	printf 'wrong' >wrong
	not_ok "$1: a wrong passphrase opens nothing" byre-img convert --object secret,id=s,file=wrong --image-opts -O raw "driver=$2,file.filename=new.enc,$3" no.raw
	not_ok "$1: nor does none" byre-img convert -f "$2" -O raw new.enc no.raw
	ok "$1: and no target is made" test ! -e no.raw
}
there_secret "luks" luks key-secret=s key-secret=s,iter-time=10
there_secret "luks in qcow2" qcow2 encrypt.format=luks,encrypt.key-secret=s encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10

if have qemu-img; then
	for options in '' '-c' '-c -o compression_type=zstd' '-o cluster_size=4k' '-o extended_l2=on' '-o compat=0.10'; do
		# shellcheck disable=SC2086
		qemu-img convert -f raw -O qcow2 $options disk.raw theirs.qcow2
		ok "the peer's ($options)" byre-img convert -O raw theirs.qcow2 back.raw
		same back.raw disk.raw "the peer's ($options): as it was"
	done
fi

# Several sources make one disk; odd ends are filled up.
head -c 1000 disk.raw >odd.raw
ok "sources one after another" byre-img convert -f raw -O raw odd.raw disk.raw odd.raw cat.raw
{ cat odd.raw; head -c 24 /dev/zero; cat disk.raw; cat odd.raw; head -c 24 /dev/zero; } >want.raw
same cat.raw want.raw "sources one after another: as they were"
ok "the same, compressed" byre-img convert -f raw -c -O qcow2 odd.raw disk.raw odd.raw cat.qcow2
readable "the same, compressed: as they were" cat.qcow2 want.raw -f qcow2

: >empty.raw
ok "an empty disk" byre-img convert -f raw -O qcow2 empty.raw empty.qcow2
is "$(byre-img info empty.qcow2 | grep virtual)" "virtual size: 0 B (0 bytes)" "an empty disk stays empty"
done_testing
