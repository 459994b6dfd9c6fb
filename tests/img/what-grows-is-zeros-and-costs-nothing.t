#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: a disk that is made or grows takes no tables for what is not there, shows nothing that lay on its
# storage before, and on storage that cannot grow does without what a repair would have to grow it for.
. "$BYRE_SRC/tests/tap.sh"

ok "a disk of 1 TiB with subclusters" byre-img create -q -f qcow2 -o extended_l2=on big.qcow2 1T
ok "takes less than 1 MiB" test "$(stat -c %s big.qcow2)" -lt 1048576
ok "it grows" byre-img resize -q big.qcow2 2T
ok "and still does" test "$(stat -c %s big.qcow2)" -lt 1048576
ok "sound" byre-img check -q big.qcow2

ok "one whose data are a raw file" byre-img create -q -f qcow2 -o data_file=data.raw,data_file_raw=on raw.qcow2 1M
head -c 8M /dev/zero | tr '\000' 'Z' >data.raw
ok "grows over what lay behind its end" byre-img resize -q raw.qcow2 4M
ok "that is zeros now" byre-io -r -f qcow2 -c 'read -q -P 0 1M 3M' raw.qcow2
ok "and was not touched before it" byre-io -r -f qcow2 -c 'read -q -P 0x5a 0 1M' raw.qcow2
ok "it shrinks" byre-img resize -q --shrink raw.qcow2 2M
ok "and grows" byre-img resize -q raw.qcow2 4M
ok "and is zeros again" byre-io -r -f qcow2 -c 'read -q -P 0 1M 3M' raw.qcow2

ok "one with lazy counts" byre-img create -q -f qcow2 -o lazy_refcounts=on lazy.qcow2 16M
truncate -s 32M lazy.qcow2
fixed=driver=qcow2,file.driver=raw,file.size=32M,file.file.filename=lazy.qcow2
mkfifo commands
byre-io --image-opts $fixed <commands >out 2>&1 &
writer=$!
exec 9>commands
printf 'write -P 7 0 1M\nflush\nread -v 0 16\n' >&9
for i in $(seq 300); do grep -q 00000000: out && break; sleep 0.1; done
like "$(cat out)" "00000000:  07 07" "it is written"
kill -KILL $writer
exec 9>&-
wait $writer 2>/dev/null
ok "on storage that cannot grow they are exact" byre-img check -q --image-opts $fixed
ok "and what was flushed is there" byre-io -r --image-opts -c 'read -q -P 7 0 1M' $fixed
done_testing
