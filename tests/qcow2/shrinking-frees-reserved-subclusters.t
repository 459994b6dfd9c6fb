#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: clusters that were preallocated over a backing file, with no subcluster of theirs in
# use, go when the disk is cut off before them.
. "$BYRE_SRC/tests/tap.sh"

byre-img create -q -f raw base.raw 64M
byre-img create -q -f qcow2 -b base.raw -F raw -o extended_l2=on,preallocation=metadata a.qcow2
ok "shrunk" byre-img resize -q --shrink a.qcow2 1M
ok "sound" byre-img check -q a.qcow2
ok "the file is small" test "$(stat -c %s a.qcow2)" -lt 3000000
is "$(byre-img map --output=json a.qcow2 | grep -c '"depth": 0')" 0 "what is left shows the backing file"
done_testing
