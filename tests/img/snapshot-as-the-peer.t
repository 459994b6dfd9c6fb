#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: snapshots are made, listed, applied and deleted; either program goes on with what
# the other has done.
. "$BYRE_SRC/tests/tap.sh"
. "$BYRE_SRC/tests/img/peer.sh"

byre-img create -q -f qcow2 a.qcow2 16M
byre-io -c 'write -P 1 0 1M' a.qcow2 >/dev/null
ok "made" byre-img snapshot -c one a.qcow2
is "$(cat out)" "" "without a word"
byre-io -c 'write -P 2 0 64k' a.qcow2 >/dev/null
ok "another" byre-img snapshot -c 'two, with a longer name' a.qcow2
byre-io -c 'write -P 3 512k 2M' a.qcow2 >/dev/null
byre-img convert -O raw a.qcow2 three.raw
byre-img snapshot -l a.qcow2 >list
is "$(sed -n 1p list)" "Snapshot list:" "listed"
is "$(sed -n 2p list)" "ID      TAG               VM_SIZE                DATE        VM_CLOCK     ICOUNT" "in columns"
is "$(sed -n '3,$p' list | cut -c 1-14)" "$(printf '1       one   \n2       two, w')" "in order"
alike "listed as by the peer" snapshot -l a.qcow2
alike "listed by default" snapshot a.qcow2
alike "in info" info a.qcow2
alike "in info's JSON" info --output=json a.qcow2
ok "clean" byre-img check a.qcow2
! have qemu-img || ok "clean to the peer" qemu-img check a.qcow2

ok "read by name" byre-img convert -l one -O raw a.qcow2 one.raw
ok "read by ID" byre-img convert -l snapshot.id=2 -O raw a.qcow2 two.raw
if have qemu-img; then
	qemu-img convert -l one -O raw a.qcow2 want.raw
	same one.raw want.raw "as the peer reads it"
	qemu-img convert -l snapshot.id=2 -O raw a.qcow2 want.raw
	same two.raw want.raw "as the peer reads it by ID"
fi
ok "applied" byre-img snapshot -a one a.qcow2
ok "applied: the disk is what it was" byre-img compare -F raw a.qcow2 one.raw
ok "applied by ID" byre-img snapshot -a 2 a.qcow2
ok "applied by ID: the disk is what it was" byre-img compare -F raw a.qcow2 two.raw
ok "clean after it" byre-img check a.qcow2
if have qemu-img qemu-io; then
	qemu-img check -q a.qcow2
	is $? 0 "clean to the peer after it"
	qemu-img snapshot -c theirs a.qcow2
	qemu-io -c 'write -P 9 0 3M' a.qcow2 >/dev/null
	ok "one of the peer's applied" byre-img snapshot -a theirs a.qcow2
	ok "one of the peer's applied: the disk is what it was" byre-img compare -F raw a.qcow2 two.raw
	ok "one of the peer's deleted" byre-img snapshot -d theirs a.qcow2
	ok "the peer deletes one of ours" qemu-img snapshot -d one a.qcow2
else
	byre-img snapshot -d one a.qcow2
fi
ok "deleted" byre-img snapshot -d 'two, with a longer name' a.qcow2
is "$(byre-img snapshot -l a.qcow2)" "" "none left"
is "$(byre-img check a.qcow2 | head -n 1)" "No errors were found on the image." "no cluster was lost"

byre-img snapshot -c again a.qcow2
byre-img snapshot -c again a.qcow2
ok "two of a name: the first goes" byre-img snapshot -d again a.qcow2
like "$(byre-img snapshot -l a.qcow2)" "^2       again" "two of a name: the second stays"
byre-img create -q -f raw b.raw 1M
alike "raw has none" snapshot -l b.raw
refused_alike "no name" snapshot
refused_alike "two actions" snapshot -l -c x a.qcow2
refused_alike "two other actions" snapshot -c x -d y a.qcow2
refused_alike "deleting none" snapshot -d nosuch a.qcow2
refused_alike "deleting by ID" snapshot -d 2 a.qcow2
refused_alike "applying none" snapshot -a nosuch a.qcow2
refused_alike "raw cannot" snapshot -f raw -c x b.raw
refused_alike "while others write" snapshot -U -c x a.qcow2
refused_alike "no such file" snapshot -c x nothere
done_testing
