#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: a guest that writes, zeroes, discards, flushes and reads at random all over a disk reads what it
# wrote, and the image holds it afterwards: on an image, an encrypted one, a chain of three, one on
# NFS, NBD and SMB servers, and one on a LUN over two portals of which one is cut meanwhile.
# timeout: 1800
. "$BYRE_SRC/tests/tap.sh"
. "$BYRE_SRC/tests/lab/lab.sh"
long_test
. "$BYRE_SRC/tests/lab/guest.sh"
[ -x "$BYRE_BUILD/byre" ] || skip_all "byre is built for x86-64 only"
own_machine --kvm --memory 1400 --disk "$PWD/disk.img"
own_guest
operations=${VERIFY_OPERATIONS:-400} seed=1
[ -z "$BYRE_SOAK" ] || seed=$(date +%s) operations=20000

# verified NAME DISK IMAGE-OPTION...: the guest's disk is DISK; IMAGE-OPTIONs are how byre-img
# finds the same image.
verified () {
	name=$1 disk=$2
	shift 2
	seed=$((seed + 1))
	echo "verify /dev/vda 2 $operations $seed" >job
	# shellcheck disable=SC2086 # options
	run_guest --cpus 2 $object --disk "$disk,discard=unmap,queues=2" &
	guest=$!
	[ -z "$meanwhile" ] || $meanwhile
	wait $guest
	is "$?" 0 "$name: the guest ended" || sed 's/^/# /' errors
	like "$(said)" '^verified' "$name: it read what it wrote (seed $seed)"
	# shellcheck disable=SC2086
	ok "$name: sound" byre-img check -q $object "$@"
	rm -f out.raw
	# shellcheck disable=SC2086
	ok "$name: converted" byre-img convert $object -O raw "$@" out.raw
	ok "$name: the image holds it" verify -n out.raw 2 "$operations" $seed
}
object='' meanwhile=''

# ---- files ---------------------------------------------------------------------------------

must byre-img create -q -f qcow2 plain.qcow2 48M
verified "qcow2" file=plain.qcow2,format=qcow2 -f qcow2 plain.qcow2

must byre-img create -q -f qcow2 -b plain.qcow2 -F qcow2 middle.qcow2
must byre-io -c 'write -q -P 7 1M 5M' middle.qcow2
must byre-img create -q -f qcow2 -o extended_l2=on -b middle.qcow2 -F qcow2 top.qcow2
verified "a chain of three" file=top.qcow2,format=qcow2 -f qcow2 top.qcow2

printf secret >password
object='--object secret,id=s,file=password'
# shellcheck disable=SC2086
must byre-img create -q $object -f qcow2 -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10 luks.qcow2 48M
verified "encrypted" file=luks.qcow2,format=qcow2,encrypt.key-secret=s \
	--image-opts driver=qcow2,encrypt.key-secret=s,file.filename=luks.qcow2
object=''
rm -f plain.qcow2 middle.qcow2 top.qcow2 luks.qcow2

# ---- over the network ------------------------------------------------------------------------

# Servers do not export a tmpfs.
mkdir -p net && mke2fs -q -t ext4 /dev/sda && mount /dev/sda net && cd net || bail "a file system" ""
for link in ../*; do [ -d "$link" ] || ln -s "$link" .; done

for kind in nfs3 nbd smb; do
	missing=$(missing_for $kind)
	if [ -n "$missing" ]; then
		skip $kind "$missing"
		continue
	fi
	serve $kind
	there=$(url $kind guest.qcow2)
	must byre-img create -q -f qcow2 "$there" 48M
	verified $kind "file=$there,format=qcow2" -f qcow2 "$there"
	stop KILL
done

# A portal is reached for as long as its address is ours.
path () { ip addr "$1" "10.1.$2.1/32" dev lo; }
began () { grep -q '^BEGIN' console; }
cut_one () {
	within 300 began || return
	sleep 1
	path del 2
	echo "# cut at $(since_start) s"
	sleep 8
	path add 2
	echo "# healed at $(since_start) s"
}
if [ -z "$(missing_for iscsi)" ]; then
	path add 1
	path add 2
	serve iscsi
	for n in 1 2; do target --op new --mode portal --param "portal=10.1.$n.1:3260"; done
	there=iscsi://10.1.1.1,10.1.2.1/iqn.2026-01.test:t1/1
	must byre-img create -q -f qcow2 "$there" 48M
	operations=$((operations * 4)) meanwhile=cut_one
	# A comma within an option is two.
	verified "iSCSI" "file=$(echo "$there" | sed 's/,/,,/'),format=qcow2" -f qcow2 "$there"
	stop KILL
else
	skip "iSCSI" "$(missing_for iscsi)"
fi
done_testing
