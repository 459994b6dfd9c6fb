#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: internal snapshots made by one side are listed, read, applied and deleted by the
# other, on both versions, with subclusters and with encryption.
# timeout: 300
. "$BYRE_SRC/tests/tap.sh"

peer_at_least 8 0 && have qemu-io || skip_all "no qemu-img and qemu-io of version 8 or later"

secret='--object secret,id=s,data=correct-horse'

# one NAME CREATE-OPTIONS MAKER OTHER
one () {
	name="$1: $3 makes, $4 uses" opts=$2 maker=$3 other=$4
	here="driver=qcow2,file.filename=this.qcow2"
	case $opts in
	*encrypt*) here="$here,encrypt.key-secret=s" ;;
	esac
	rm -f this.qcow2
	# shellcheck disable=SC2086 # words
	{
		ok "$name: created" $maker-img create -q -f qcow2 $secret -o "$opts" this.qcow2 16M || return
		$maker-io $secret --image-opts "$here" -c 'write -q -P 1 0 1M' -c 'write -q -P 2 4M 1M' >/dev/null
		ok "$name: first snapshot" $maker-img snapshot $secret --image-opts -c first "$here"
		$maker-io $secret --image-opts "$here" -c 'write -q -P 3 512k 1M' -c 'write -q -z 4M 64k' >/dev/null
		ok "$name: second snapshot" $maker-img snapshot $secret --image-opts -c second "$here"
		$maker-io $secret --image-opts "$here" -c 'write -q -P 4 0 64k' >/dev/null

		ok "$name: clean" $other-img check $secret --image-opts "$here"
		is "$($other-img snapshot $secret --image-opts -l "$here")" \
			"$($maker-img snapshot $secret --image-opts -l "$here")" "$name: listed alike"
		for snap in first second; do
			rm -f a.raw b.raw
			$other-img convert $secret -l snapshot.name=$snap --image-opts "$here" -O raw a.raw
			$maker-img convert $secret -l snapshot.name=$snap --image-opts "$here" -O raw b.raw
			is "$(cmp a.raw b.raw 2>&1)" "" "$name: $snap reads alike"
		done
		ok "$name: applied" $other-img snapshot $secret --image-opts -a first "$here"
		ok "$name: the disk is as it was" $maker-io $secret --image-opts "$here" -c 'read -P 1 0 1M' \
			-c 'read -P 0 1M 3M' -c 'read -P 2 4M 1M'
		ok "$name: written after it" $other-io $secret --image-opts "$here" -c 'write -P 5 0 128k' -c 'write -P 6 6M 64k'
		ok "$name: clean after it" $maker-img check $secret --image-opts "$here"
		ok "$name: deleted" $other-img snapshot $secret --image-opts -d first "$here"
		ok "$name: clean without it" $maker-img check $secret --image-opts "$here"
		ok "$name: applied again" $maker-img snapshot $secret --image-opts -a second "$here"
		ok "$name: the disk is as it was then" $other-io $secret --image-opts "$here" -c 'read -P 1 0 512k' \
			-c 'read -P 3 512k 1M' -c 'read -P 0 4M 64k' -c 'read -P 2 4160k 960k'
		ok "$name: deleted too" $maker-img snapshot $secret --image-opts -d second "$here"
		ok "$name: clean at the end, says $other" $other-img check $secret --image-opts "$here"
		ok "$name: clean at the end, says $maker" $maker-img check $secret --image-opts "$here"
	}
}

for pair in "byre qemu" "qemu byre"; do
	# shellcheck disable=SC2086 # words
	{
		one "version 3" compat=1.1 $pair
		one "version 2" compat=0.10 $pair
		one "clusters of 4 KiB" cluster_size=4k $pair
		one "subclusters" extended_l2=on $pair
		one "refcounts of 64 bits" refcount_bits=64 $pair
		one "LUKS" encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10 $pair
	}
done

done_testing
