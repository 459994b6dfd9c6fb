#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: a machine that is killed with -9 under a load, again and again and on every kind of image, leaves
# its image without corruption, and what the guest flushed is in it. BYRE_SOAK seconds of that, or a round for
# each kind.
# timeout: 1800
. "$BYRE_SRC/tests/tap.sh"
. "$BYRE_SRC/tests/lab/lab.sh"
. "$BYRE_SRC/tests/lab/guest.sh"
[ -x "$BYRE_BUILD/byre" ] || skip_all "byre is built for x86-64 only"
own_machine --kvm --memory 1400
own_guest
threads=4
seconds=${BYRE_SOAK:-0}

echo "record /dev/vda $threads" >job
printf secret >password
secret=secret,id=s,file=password
must byre-img create -q -f qcow2 base.qcow2 64M
must byre-io -c 'write -q -P 0x11 0 16M' base.qcow2

# kind N: how its image is made, and opened.
kind () {
	open=file=kill.qcow2,format=qcow2
	object=''
	case $(($1 % 4)) in
	0) make='-o compat=1.1' ;;
	1) make='-o lazy_refcounts=on,cluster_size=4k' ;;
	2) make='-o extended_l2=on -b base.qcow2 -F qcow2' ;;
	3)
		make="--object $secret -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10"
		open=$open,encrypt.key-secret=s object="--object $secret"
		;;
	esac
}

# The round takes longer from one to the next, so that it ends elsewhere.
enough () { [ "$(grep -c '^[0-9]* [0-9]*.$' console)" -ge $((20 + round * 7 % 60)) ]; }
round=0
until [ $round -ge 4 ] && [ "$(since_start)" -ge "$seconds" ]; do
	kind $round
	rm -f kill.qcow2 kill.raw
	: >console
	# shellcheck disable=SC2086 # options
	must byre-img create -q -f qcow2 $make kill.qcow2 64M
	# shellcheck disable=SC2086
	run_guest $object --disk "$open" &
	guest=$!
	within 300 enough || fail "round $round: the guest writes" "$(tail -n 5 console errors)"
	kill -KILL "$(pidof byre)"
	wait $guest
	tr -d '\r' <console >lines
	if [ $((round % 4)) -eq 3 ]; then
		secretly="--object $secret --image-opts driver=qcow2,encrypt.key-secret=s,file.filename=kill.qcow2"
	else
		secretly='-f qcow2 kill.qcow2'
	fi
	# Counts that are lazy are repaired by whoever opens the image for writing.
	[ $((round % 4)) -ne 1 ] || must byre-io -f qcow2 -c flush kill.qcow2
	# shellcheck disable=SC2086
	byre-img check -q $secretly >check.out 2>&1
	status=$?
	ok "round $round ($make): no worse than leaks" test $status -eq 0 -o $status -eq 3 || sed 's/^/# /' check.out
	# shellcheck disable=SC2086
	must byre-img convert -O raw $secretly kill.raw
	if record -c kill.raw $threads <lines >checked 2>&1; then
		pass "round $round: what was flushed is there"
		sed 's/^/# /' checked
	else
		fail "round $round: what was flushed is there" "$(cat checked)"
	fi
	round=$((round + 1))
done
done_testing
