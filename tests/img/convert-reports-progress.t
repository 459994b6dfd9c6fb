#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: progress has the peer's form, with -p and on SIGUSR1, and is not there otherwise.
. "$BYRE_SRC/tests/tap.sh"
. "$BYRE_SRC/tests/img/peer.sh"

disk disk.raw 10
byre-img convert -p -f raw -O qcow2 disk.raw new.qcow2 >out
is "$(tr '\r' '\n' <out | head -n 1)" "    (0.00/100%)" "begins at 0"
like "$(tr '\r' '\n' <out)" "^    (100.00/100%)$" "ends at 100"
is "$(tr '\r' '\n' <out | grep -v '^$' | grep -v '^    ([0-9]*\.[0-9][0-9]/100%)$')" "" "nothing else"
is "$(tail -c 1 out | od -An -c | tr -d ' ')" '\n' "ends with a new line"
byre-img convert -f raw -O qcow2 disk.raw new.qcow2 >out
is "$(cat out)" "" "none without -p"
byre-img convert -p -q -f raw -O qcow2 disk.raw new.qcow2 >out
is "$(cat out)" "" "none with -q"
byre-img compare -p -F raw new.qcow2 disk.raw >out
like "$(tr '\r' '\n' <out)" "^    (100.00/100%)$" "compare has it too"
like "$(tr '\r' '\n' <out)" "^Images are identical.$" "and its result"

byre-img convert -f raw -S 0 -r 2M -O qcow2 disk.raw new.qcow2 >out &
pid=$!
# That it listens, its kernel says; that it copies, the image.
listens () { [ $((0x$(sed -n 's/^SigCgt:[^0-9a-f]*//p' /proc/$pid/status) & 0x200)) -ne 0 ]; }
rm -f new.qcow2
until listens && [ -s new.qcow2 ]; do kill -0 $pid || break; sleep 0.02; done
kill -USR1 $pid
wait $pid
is $? 0 "SIGUSR1 does not end it"
is "$(tr '\r' '\n' <out | grep -c '^    ([0-9]*\.[0-9][0-9]/100%)$')" 1 "but has it print once"

start=$(date +%s)
byre-img convert -f raw -S 0 -r 5M -O raw disk.raw new.raw
took=$(($(date +%s) - start))
ok "10 MiB at 5 MiB a second take over a second" test $took -ge 1
done_testing
