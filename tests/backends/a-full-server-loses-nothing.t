#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: a server whose disk is full is an error that says so, the image stays sound, and goes on
# once there is room: on NFS, on a thin LUN and on a sparse export.
# timeout: 400
. "$BYRE_SRC/tests/tap.sh"
. "$BYRE_SRC/tests/backends/servers.sh"
. "$BYRE_SRC/tests/backends/images.sh"
have mke2fs || skip_all "e2fsprogs is not installed"
own_network "$@"

# A file system of 32 MiB, where all that is served lies.
mkdir export
truncate -s 32M small.ext4
mke2fs -q -t ext4 -m 0 small.ext4 && mount -o loop small.ext4 export || skip_all "no loop device is to be had"
ln -s export/lun.img lun.img
ln -s export/nbd.img nbd.img
LUN_SIZE=128M

# leave KIB: all but that is used.
leave () {
	free=$(df -k --output=avail export | tail -n 1)
	dd if=/dev/zero of=export/filler bs=1k count=$((free - $1)) 2>/dev/null
	sync
}
# This target calls it an error of the medium.
words_for () {
	case $1 in
	iscsi) echo "Input/output error" ;;
	*) echo "No space left on device" ;;
	esac
}

# full_there KIND: writes until nothing fits, makes room, goes on.
full_there () {
	kind=$1
	there=$(url "$kind" full.img)
	if [ -n "$(missing_for "$kind")" ]; then
		skip "$kind" "$(missing_for "$kind")"
		return
	fi
	words=$(words_for "$kind")
	truncate -s $LUN_SIZE export/lun.img export/nbd.img
	serve "$kind"
	ok "$kind: create" byre-img create -q -f qcow2 "$there" 64M
	leave 8192
	(
		for i in $(seq 1 4); do echo "write -q -P $i $((i - 1))M 1M"; done
		echo flush
		for i in $(seq 5 14); do echo "write -q -P $i $((i - 1))M 1M"; done
		echo flush
		echo length
		while [ ! -e roomy ]; do sleep 0.1; done
		for i in $(seq 1 14); do echo "write -q -P $((i + 20)) $((i + 19))M 1M"; done
		echo flush
		echo "read -q -P 1 0 1M"
		for i in $(seq 1 14); do echo "read -q -P $((i + 20)) $((i + 19))M 1M"; done
	) | byre-io -f qcow2 "$there" >io.out 2>io.err &
	client=$!
	# When all of that is done: what fits only then would take the room of the rest.
	wait_for grep -q "64 MiB" io.out
	rm export/filler
	sync
	touch roomy
	wait $client
	rm roomy
	like "$(cat io.out io.err)" "$words" "$kind: full: it is told"
	is "$(cat io.out io.err | sed 's/byre-io> //g; /^64 MiB$/d' | grep -v "^$" | grep -v "$words")" "" "$kind: nothing else is"
	byre-img check -q "$there"
	status=$?
	ok "$kind: sound, or leaks only" test $status -eq 0 -o $status -eq 3
	for i in $(seq 1 4); do echo "read -q -P $i $((i - 1))M 1M"; done >commands
	for i in $(seq 1 14); do echo "read -q -P $((i + 20)) $((i + 19))M 1M"; done >>commands
	byre-io -r -f qcow2 "$there" <commands >io.out 2>&1
	is $?:"$(sed 's/byre-io> //g' io.out | grep -v '^$')" 0: "$kind: all that was flushed is there"
	stop KILL
	rm -rf export/*
}

for kind in nfs3 nfs4 iscsi nbd; do full_there $kind; done
umount export
done_testing
