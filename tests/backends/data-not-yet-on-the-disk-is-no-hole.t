#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: what was just written is copied, also where the file system takes it for a hole until
# it is on the disk (ext4 without extents does).
. "$BYRE_SRC/tests/tap.sh"
. "$BYRE_SRC/tests/backends/devices.sh"
own_mounts "$@"
have mkfs.ext4 || skip_all "mkfs.ext4 is not installed"
mount_new ext4 there -O ^extent,^64bit || skip_all "it cannot be mounted"
cd there || exit 1

truncate -s 1M a.raw
printf hello | dd of=a.raw bs=1 seek=600000 conv=notrunc 2>/dev/null
ok "copied" byre-img convert -f raw -O raw a.raw b.raw
same a.raw b.raw "every byte"
printf again | dd of=a.raw bs=1 seek=100000 conv=notrunc 2>/dev/null
ok "to qcow2" byre-img convert -f raw -O qcow2 a.raw c.qcow2
ok "the same" byre-img compare -q -f raw -F qcow2 a.raw c.qcow2
truncate -s 1M d.raw
ok "written and copied in one go" sh -c "byre-io -f raw -c 'write -q -P 7 512k 4k' d.raw && byre-img convert -f raw -O raw d.raw e.raw"
same d.raw e.raw "every byte"
done_testing
