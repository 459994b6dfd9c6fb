#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: convert flattens a chain, or with -B copies only what the source itself holds onto a
# backing file that holds the rest; zeros hide what is below them.
. "$BYRE_SRC/tests/tap.sh"
. "$BYRE_SRC/tests/img/peer.sh"

{
	byre-img create -f qcow2 base.qcow2 10M
	byre-io -c 'write -P 1 0 1M' -c 'write -P 2 5M 100k' base.qcow2
	byre-img create -f qcow2 -b base.qcow2 -F qcow2 top.qcow2 12M
	byre-io -c 'write -P 3 64k 64k' -c 'write -z 5M 64k' -c 'write -z 8M 128k' -c 'write -P 9 11M 64k' top.qcow2
} >/dev/null
ok "flat" byre-img convert -O raw top.qcow2 flat.raw
for options in '' '-c' '-W -m 16' '-S 0'; do
	# shellcheck disable=SC2086 # options
	ok "onto its backing file ($options)" byre-img convert -O qcow2 $options -B base.qcow2 -F qcow2 top.qcow2 new.qcow2
	ok "same disk ($options)" byre-img compare new.qcow2 top.qcow2
	readable "same disk to the peer ($options)" new.qcow2 flat.raw
	like "$(byre-img info new.qcow2)" "^backing file: base.qcow2$" "names its backing file ($options)"
done
byre-img convert -O qcow2 -B base.qcow2 -F qcow2 top.qcow2 new.qcow2
is "$(byre-img map --output=json new.qcow2 | grep -c '"start": 0, "length": 65536, "depth": 1')" 1 "what the backing file has is not copied"
if [ $peer_new = yes ]; then
	qemu-img convert -O qcow2 -B base.qcow2 -F qcow2 top.qcow2 theirs.qcow2
	is "$(qemu-img map --output=json new.qcow2)" "$(qemu-img map --output=json theirs.qcow2)" "laid out as the peer does"
fi
ok "by options" byre-img convert -O qcow2 -o backing_file=base.qcow2,backing_fmt=qcow2 top.qcow2 new.qcow2
ok "by options: same disk" byre-img compare new.qcow2 top.qcow2

# A source that stands alone hides all of the backing file.
byre-img create -q -f qcow2 alone.qcow2 6M
byre-io -c 'write -P 7 64k 64k' alone.qcow2 >/dev/null
byre-img create -q -f raw full.raw 4M
byre-io -f raw -c 'write -P 0xaa 0 4M' full.raw >/dev/null
ok "from a source that stands alone" byre-img convert -O qcow2 -B full.raw -F raw alone.qcow2 new.qcow2
ok "zeros are written over what is below" byre-img compare new.qcow2 alone.qcow2
like "$(byre-img map --output=json new.qcow2 | tail -n 1)" '"start": 4194304, .*"present": false' "but not where nothing is below"

# Over an existing image.
byre-img create -q -f qcow2 -b full.raw -F raw over.qcow2 6M
ok "over an image with a backing file" byre-img convert -n -O qcow2 alone.qcow2 over.qcow2
ok "over an image with a backing file: same disk" byre-img compare over.qcow2 alone.qcow2
byre-img convert -O qcow2 full.raw over.qcow2
byre-img resize -q over.qcow2 6M
ok "over an image that is full" byre-img convert -n -O qcow2 alone.qcow2 over.qcow2
ok "over an image that is full: same disk" byre-img compare over.qcow2 alone.qcow2
byre-img create -q -f raw over.raw 8M
byre-io -f raw -c 'write -P 5 0 8M' over.raw >/dev/null
ok "over a raw file" byre-img convert -n -O raw alone.qcow2 over.raw
head -c 6M over.raw >head.raw
ok "over a raw file: same disk" byre-img compare -F raw alone.qcow2 head.raw
ok "by target options" byre-img convert -n --target-image-opts alone.qcow2 driver=raw,file.filename=over.raw
byre-img create -q -f qcow2 zero.qcow2 6M
ok "known to be zero" byre-img convert -n --target-is-zero -O qcow2 alone.qcow2 zero.qcow2
ok "known to be zero: same disk" byre-img compare zero.qcow2 alone.qcow2
done_testing
