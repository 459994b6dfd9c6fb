#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: an image on GFS2, on a LUN with two paths, shared by two nodes. One holds it and the
# other is refused; one is killed under writes, and the other has the image after recovery,
# sound and with every byte that was flushed; a path is cut and nobody notices.
# timeout: 1800
. "$BYRE_SRC/tests/tap.sh"
. "$BYRE_SRC/tests/lab/lab.sh"
need iscsi
need_lab

# The LUN is served here; a node reaches it by two networks of its own.
LUN_SIZE=1G serve iscsi
node () { lab up "n$1" --cpus 1 --wire "n$2,10.9.0.$1/24" --path 2 --path 3; }
node 1 2 &
n1_starts=$!
must node 2 1
wait $n1_starts || bail "n1" "it does not start"
echo "# both up after $(since_start) s"

# on NODE COMMAND: with the vocabulary of this folder.
on () {
	lab run -t 600 "$1" "
		for vocabulary in tap.sh lab/lab.sh lab/multipath.sh lab/cluster.sh; do . $BYRE_SRC/tests/\$vocabulary; done
		own_programs; cd /run; $2"
}
multipath="multipath_device iqn.2026-01.test:t1 10.0.2.2:3260 10.0.3.2:3260 >/run/device"
on n1 "$multipath && join" >n1.log 2>&1 &
n1_joins=$!
on n2 "$multipath && join" >n2.log 2>&1
n2_status=$?
wait $n1_joins && [ $n2_status -eq 0 ] || bail "a cluster" "$(tail -n 20 n1.log n2.log)"
must on n1 'format $(cat /run/device)'
on n2 'within 60 attach $(cat /run/device)' >n2.log 2>&1 &
n2_mounts=$!
must on n1 'within 60 attach $(cat /run/device)'
wait $n2_mounts || bail "a mount" "$(tail -n 20 n2.log)"
echo "# both mounted after $(since_start) s"

# ---- one holds it -----------------------------------------------------------------------

# What the writer says goes to a file on the host, which outlives it. Where the next write is
# done, the flush before it was.
ok "create" on n1 'byre-img create -q -f qcow2 /gfs/a.img 512M'
for i in $(seq 0 249); do
	printf 'write -P %d %dk 512k\nflush\nsleep 50\n' $((i + 1)) $((i * 512))
done >load
on n1 "byre-io -f qcow2 /gfs/a.img <$PWD/load >$PWD/written 2>&1" >n1.log 2>&1 &
within 60 grep -q wrote written || fail "n1 writes" "$(cat n1.log)"
not_ok "the other is refused" on n2 "byre-io -f qcow2 -c 'write -q 0 512' /gfs/a.img"
like "$(cat err)" "lock" "and told that it is for a lock"
names_holder n1

# ---- and is killed ----------------------------------------------------------------------

within 60 sh -c '[ "$(grep -c wrote written)" -gt 20 ]'
lab kill n1
killed=$(date +%s)
flushed=$(($(grep -c wrote written) - 1))
echo "# n1 is killed after $flushed writes that were flushed"
ok "it was killed under writes" test "$flushed" -ge 20 -a "$flushed" -lt 249
ok "the other takes it" on n2 "within 90 byre-io -f qcow2 -c 'write -q -P 255 300M 64k' /gfs/a.img"
echo "# n2 has it $(($(date +%s) - killed)) s after"
on n2 'byre-img check -q /gfs/a.img || byre-img check -q -r leaks /gfs/a.img' >out 2>err
is $? 0 "it is sound, or had leaks that were repaired"
ok "and it is now" on n2 'byre-img check -q /gfs/a.img'
for i in $(seq 0 $((flushed - 1))); do
	echo "read -q -P $((i + 1)) $((i * 512))k 512k"
done >reads
ok "every byte that was flushed" on n2 "byre-io -r -f qcow2 /gfs/a.img <$PWD/reads"
ok "and what the other wrote" on n2 "byre-io -r -f qcow2 -c 'read -q -P 255 300M 64k' /gfs/a.img"

# ---- a path is cut ----------------------------------------------------------------------

# The wire to the dead node is the guest's first link.
on n2 "
	now_cut () { touch $PWD/cut && within 100 test -e $PWD/healed; }
	undisturbed 'a path cut' /gfs/b.img now_cut
	done_testing" &
cut_seen=$!
within 100 test -e cut
lab cut n2 eth1
sleep 15
lab heal n2 eth1
touch healed
wait $cut_seen || tap_failed=1
echo "# done after $(since_start) s"
lab down
done_testing
