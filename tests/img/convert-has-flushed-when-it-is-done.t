#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: a command that says it is done has flushed what it wrote; a flush or a write that
# fails is a failure, whenever it comes.
. "$BYRE_SRC/tests/tap.sh"
. "$BYRE_SRC/tests/img/peer.sh"

disk disk.raw 4
truncate -s 4M new.raw
on () { echo "driver=raw,file.driver=fault,file.file.filename=new.raw,file.ops=$1,file.fail-at=$2,file.sticky=on"; }

ok "nothing fails" byre-img convert -n --target-image-opts -f raw disk.raw "$(on flush 1000)"
same new.raw disk.raw "the disk arrives"
for op in flush write; do
	exits 1 "$op fails" byre-img convert -n --target-image-opts -f raw disk.raw "$(on $op 1)"
	like "$(cat err)" "Input/output error" "$op fails: says so"
	like "$(cat err)" "' is incomplete$" "$op fails: says what that leaves"
done
done_testing
