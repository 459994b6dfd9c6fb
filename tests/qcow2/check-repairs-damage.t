#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# timeout: 300
# Goal: some forty kinds of damage are found as the peer finds them; what can be repaired is clean
# to both programs afterwards with the disk intact, and what cannot is left as it is.
. "$BYRE_SRC/tests/tap.sh"
have python3 || skip_all "python3 is not installed"

damage () { python3 "$BYRE_SRC/tests/qcow2/damage.py" "$@"; }
both_check () {
	byre-img check "$1" >our.out 2>&1
	our=$?
	have qemu-img || return 0
	qemu-img check "$1" >peer.out 2>&1
	peer=$?
}
# What ours tells otherwise: metadata upon metadata is an error of its own, a block that
# cannot be read is one error and not an internal one for each cluster, and a block whose
# entry has reserved bits does not leak.
stricter () { case $1 in table-is-l1 | table-is-l2 | l1-is-table | block-unaligned | block-reserved) return 0 ;; *) return 1 ;; esac; }

byre-img create -q -f qcow2 good.qcow2 64M
byre-io -c 'write -P 1 0 1M' -c 'write -z 2M 256k' -c 'write -P 3 33M 64k' good.qcow2 >/dev/null
byre-img convert -O raw good.qcow2 good.raw

damage list >kinds
while read -r kind after; do
	damage good.qcow2 bad.qcow2 "$kind"
	both_check bad.qcow2
	if have qemu-img && peer_at_least 10 0 && ! stricter "$kind"; then
		is "$our $(cat our.out)" "$peer $(cat peer.out)" "$kind: found as by the peer"
	fi
	cp bad.qcow2 fixed.qcow2
	byre-img check -r all fixed.qcow2 >out 2>err
	status=$?
	both_check fixed.qcow2
	if [ "$after" = worse ]; then
		is $status 2 "$kind: is not repaired"
		is $our 2 "$kind: still found"
		continue
	fi
	is $status 0 "$kind: repaired" || sed 's/^/# /' err
	is $our 0 "$kind: clean afterwards"
	! have qemu-img || is $peer 0 "$kind: clean to the peer"
	[ "$after" = clean ] || {
		byre-img convert -O raw fixed.qcow2 fixed.raw
		same good.raw fixed.raw "$kind: every byte is there"
	}
done <kinds
done_testing
