#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: every kind of qcow2 image made and filled by one side is read bit for bit by the
# other: converted, compared, checked, mapped and described alike; both ways.
# timeout: 900
. "$BYRE_SRC/tests/tap.sh"

peer_at_least 8 0 && have qemu-io || skip_all "no qemu-img and qemu-io of version 8 or later"

# Options that open an encrypted image as well as a plain one.
secret='--object secret,id=s,data=correct-horse'
key () {
	case $1 in
	*encrypt*) echo ",encrypt.key-secret=s" ;;
	esac
}

# fill PROGRAM ARGS...: the same contents whoever writes them: parts of clusters, whole
# ones, zeros, freed ones that are written again, the disk's very end.
fill () {
	fill_program=$1
	shift
	$fill_program "$@" -c 'write -q -P 1 0 100k' -c 'write -q -P 2 300k 2M' -c 'write -q -z 1M 256k' \
		-c 'write -q -zu 640k 128k' -c 'discard -q 2M 256k' -c 'write -q -P 3 2M 256k' \
		-c 'write -q -P 4 3000001 77' -c 'writev -q -P 5 4M 1k 3 65536 7' -c 'aio_write -q -P 6 5M 1M' \
		-c 'aio_write -q -P 7 6M 1M' -c aio_flush -c 'write -q -P 8 8387072 1536' \
		-c 'write -q -P 9 4200000 5000' -c flush >>filled 2>&1
}
# Some clusters stored compressed; $1 is the cluster size, which divides all of these.
pack () {
	pack_program=$1
	shift
	$pack_program "$@" -c 'write -q -c -P 11 10M 2M' -c 'write -q -c -P 12 12M 2M' -c 'write -q -P 13 12M 512' \
		-c 'write -q -c -s words 14M 2M' >>filled 2>&1
}

# map_of PROGRAM ARGS...: extents by what they read as and where they lie. qemu-img parts
# unallocated subclusters by whether their cluster has space on the host: join those. Holes of the file in what is
# data are shown or not by how much of it is allocated, with a limit at which some of these images lie and which the file
# system's own work moves: they count as data.
map_of () {
	"$@" --output=json 2>>filled | tr -d ' []}' | tr '{' '\n' | grep start | sed 's/,$//' | awk -F, '
		function number(s) { sub(/.*:/, "", s); return s + 0 }
		function show() { if (n) print start, n, what, host }
		{
			s = number($1); l = number($2)
			sub(/^[^,]*,[^,]*,/, "")
			o = ""
			if ($0 ~ /"present":true/ && match($0, /"offset":[0-9]*/))
				o = number(substr($0, RSTART, RLENGTH))
			sub(/,"offset":[0-9]*/, "")
			sub(/"zero":true,"data":true/, "\"zero\":false,\"data\":true")
			if ($0 == what && s == start + n && (o == "" ? host == "" : host != "" && o == host + n)) {
				n += l
			} else {
				show(); start = s; n = l; what = $0; host = o
			}
		}
		END { show() }'
}

# what remains of the disk in plain bytes
plain () {
	rm -f want.raw
	if [ -n "$backing" ]; then
		qemu-img convert -f "${backing%%,*}" -O raw base.img want.raw
	else
		: >want.raw
	fi
	truncate -s 16M want.raw
	fill qemu-io -f raw want.raw
	case $do_pack in
	yes) qemu-io -f raw -c 'write -q -P 11 10M 2M' -c 'write -q -P 12 12M 2M' -c 'write -q -P 13 12M 512' \
		-c 'write -q -s words 14M 2M' want.raw >>filled 2>&1 ;;
	esac
}

# check_all WHAT: this.qcow2 is what it should be, as both sides say.
check_all () {
	what=$1
	here="driver=qcow2,file.filename=this.qcow2$(key "$opts")"
	for side in byre qemu; do
		rm -f copy.raw
		# shellcheck disable=SC2086 # words
		{
			ok "$what: $side-img check finds nothing" $side-img check $secret --image-opts "$here"
			ok "$what: $side-img reads it" $side-img convert $secret --image-opts "$here" -O raw copy.raw &&
				is "$(cmp copy.raw want.raw 2>&1)" "" "$what: $side-img reads what was written"
			ok "$what: $side-img compare agrees" $side-img compare $secret --image-opts "$here" \
				driver=raw,file.filename=want.raw
			map_of $side-img map $secret --image-opts "$here" >$side.map
			info_json $side $secret --image-opts "$here" 2>&1 |
				sed -e '/"actual-size"/d' -e '/"filename": "json:/d' -e '/"filename": "this/d' >$side.info
		}
	done
	is "$(diff qemu.map byre.map)" "" "$what: the maps are alike"
	is "$(diff qemu.info byre.info)" "" "$what: the descriptions are alike"
}

# one NAME CREATE-OPTIONS [BACKING [PACK]]: BACKING is format,bytes.
one () {
	name=$1 opts=$2 backing=$3 do_pack=$4
	rm -f ./*.raw ./*.img ./*.qcow2 ./*.data filled
	seq 1 100000 >words
	base=
	if [ -n "$backing" ]; then
		qemu-img create -q -f "${backing%%,*}" base.img "${backing#*,}"
		qemu-io -f "${backing%%,*}" -c 'write -q -P 21 64k 1M' -c 'write -q -P 22 2500k 100k' base.img >>filled
		base="-b base.img -F ${backing%%,*}"
	fi
	plain
	for maker in byre qemu; do
		rm -f this.qcow2 this.data
		here="driver=qcow2,discard=unmap,file.filename=this.qcow2$(key "$opts")"
		# shellcheck disable=SC2086 # words
		ok "$name, by $maker: created" $maker-img create -q -f qcow2 $secret -o "$opts" $base this.qcow2 16M || return
		if ! fill $maker-io $secret --image-opts "$here" ||
			{ [ "$do_pack" = yes ] && ! pack $maker-io $secret --image-opts "$here"; }; then
			fail "$name, by $maker: filled" "$(cat filled)"
			continue
		fi
		check_all "$name, by $maker"
	done
}

for size in 512 1k 4k 32k 256k 2M; do
	one "clusters of $size" "cluster_size=$size" "" yes
done
one "version 2" compat=0.10 "" yes
one "version 2, small clusters" compat=0.10,cluster_size=1k "" yes
for bits in 1 2 4 8 32 64; do
	one "refcounts of $bits bits" "refcount_bits=$bits" "" yes
done
one "subclusters" extended_l2=on "" yes
one "subclusters of 512 bytes" extended_l2=on,cluster_size=16k "" yes
one "subclusters of 64 KiB" extended_l2=on,cluster_size=2M
one "zstd" compression_type=zstd "" yes
one "zstd, large clusters" compression_type=zstd,cluster_size=2M "" yes
one "lazy refcounts" lazy_refcounts=on "" yes
for mode in metadata falloc full; do
	one "preallocation $mode" "preallocation=$mode"
	one "preallocation $mode, small clusters" "preallocation=$mode,cluster_size=4k"
done
one "preallocation with subclusters" preallocation=metadata,extended_l2=on
one "a data file" data_file=this.data
one "a raw data file" data_file=this.data,data_file_raw=on
one "a data file, small clusters" data_file=this.data,cluster_size=4k
one "a backing file" compat=1.1 qcow2,16M yes
one "a shorter backing file" compat=1.1 qcow2,2M yes
one "a longer backing file" compat=1.1 raw,20M yes
one "a backing file of odd size" compat=1.1 raw,2600001 yes
one "a backing file and subclusters" extended_l2=on raw,3M yes
one "a backing file and version 2" compat=0.10 raw,3M yes
luks=encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10
one "LUKS" "$luks"
one "LUKS, small clusters" "$luks,cluster_size=4k"
one "LUKS and subclusters" "$luks,extended_l2=on"
one "LUKS and a backing file" "$luks" raw,3M
one "LUKS, other ciphers" "$luks,encrypt.cipher-mode=cbc,encrypt.ivgen-alg=essiv,encrypt.ivgen-hash-alg=sha256"
one "LUKS, AES-128" "$luks,encrypt.cipher-alg=aes-128"

done_testing
