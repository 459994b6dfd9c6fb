#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: byre run confines its process by default, and a guest still boots, writes and flushes: each of its threads has a
# filter, no new privileges and no capabilities, the root folder is empty, and with --user it is another's.
# timeout: 2400
. "$BYRE_SRC/tests/tap.sh"
. "$BYRE_SRC/tests/lab/lab.sh"
. "$BYRE_SRC/tests/lab/guest.sh"
. "$BYRE_SRC/tests/lab/waiting.sh"
long_test
[ -x "$BYRE_BUILD/byre" ] || skip_all "byre is built for x86-64 only"
own_machine --kvm --memory 1400
waiting_guest

# of FIELD: its values over all threads, each once.
of () {
	sed -n "s/^$1:[[:space:]]*//p" /proc/$process/task/*/status | tr '\t' ' ' | sort -u | tr '\n' '|'
}
confined () {
	is "$(of Seccomp)" "2|" "$1: every thread has a filter"
	is "$(of NoNewPrivs)" "1|" "$1: and no way to new privileges"
	for set in CapInh CapPrm CapEff CapBnd CapAmb; do
		is "$(of $set)" "0000000000000000|" "$1: and no capabilities ($set)"
	done
	ok "$1: there are threads" test "$(ls /proc/$process/task | wc -l)" -ge 6
}

# ---- as it is started by root ---------------------------------------------------------------

ok "an image" byre-img create -q -f qcow2 disk.qcow2 64M
start "by default" --disk file=disk.qcow2,format=qcow2,queues=2,discard=unmap
confined "by default"
is "$(of Uid)" "0 0 0 0|" "by default: it stays who it was"
is "$(ls -A /proc/$machine/root/)" "" "by default: its root folder is empty"
for ns in mnt ipc uts net; do
	ok "by default: its $ns namespace is its own" \
		test "$(readlink /proc/$machine/ns/$ns)" != "$(readlink /proc/self/ns/$ns)"
done
filters=$(of Seccomp_filters)
is "$filters" "1|2|" "by default: vCPUs, loops and the console have a narrower one"
finish "by default"
ok "what it wrote is in the image" byre-io -r -c 'read -q -P 0x5a 8M 2M' -c 'read -q -P 0 32M 1M' disk.qcow2
ok "and the image is sound" byre-img check -q disk.qcow2

# ---- without io_uring, whose loops make other calls --------------------------------------------

ok "an image" byre-img create -q -f qcow2 disk.qcow2 64M
BYRE_LOOP=epoll
export BYRE_LOOP
start "epoll" --disk file=disk.qcow2,format=qcow2
confined "epoll"
finish "epoll"
unset BYRE_LOOP
ok "epoll: what it wrote is in the image" byre-io -r -c 'read -q -P 0x5a 8M 2M' disk.qcow2

# ---- as somebody else ------------------------------------------------------------------------

ok "an image" byre-img create -q -f qcow2 -o preallocation=metadata disk.qcow2 64M
start "--user" --user nobody:nogroup --disk file=disk.qcow2,format=qcow2
confined "--user"
id=$(id -u nobody) group=$(sed -n 's/^nogroup:[^:]*:\([0-9]*\):.*/\1/p' /etc/group)
is "$(of Uid)" "$id $id $id $id|" "--user: all threads are nobody's"
is "$(of Gid)" "$group $group $group $group|" "--user: and nogroup's"
is "$(of Groups)" "|" "--user: and in no other group"
finish "--user"
ok "--user: what it wrote is in the image" byre-io -r -c 'read -q -P 0x5a 8M 2M' disk.qcow2

# ---- in a control group, with somebody who removes it ------------------------------------------

group=/sys/fs/cgroup/machine
mkdir -p /sys/fs/cgroup
[ -e /sys/fs/cgroup/cgroup.controllers ] || mount -t cgroup2 none /sys/fs/cgroup
ok "an image" byre-img create -q -f qcow2 disk.qcow2 64M
start "--cgroup" --cgroup machine,memory=700M,cpu=150,pids=60 --user nobody --disk file=disk.qcow2,format=qcow2
is "$(cat $group/memory.max $group/cpu.max $group/pids.max | tr '\n' ',')" "734003200,150000 100000,60," "--cgroup: limits are set"
process=$(head -n 1 $group/cgroup.procs) # a thread of the kernel's own, for KVM, is there too
ok "--cgroup: a process is in it, which is not the one that was started" test "$process" -ne $machine
ok "--cgroup: and all its memory counts" test "$(cat $group/memory.current)" -gt 50000000
confined "--cgroup"
kill -TERM $machine
exec 7>&-
wait $machine
is $? 0 "--cgroup: a signal to who waits ends it well"
not_ok "--cgroup: the group is gone" test -e $group
ok "--cgroup: what it wrote is in the image" byre-io -r -c 'read -q -P 0x5a 8M 2M' disk.qcow2

# ---- switched off ----------------------------------------------------------------------------

ok "an image" byre-img create -q -f qcow2 disk.qcow2 64M
start "off" --confine=off --disk file=disk.qcow2,format=qcow2
is "$(of Seccomp)" "0|" "off: no filter"
is "$(of NoNewPrivs)" "0|" "off: nor anything else"
finish "off"

# ---- what cannot be ----------------------------------------------------------------------------

not_ok "a user nobody knows" byre run --kernel vmlinux --user nobody-knows-me
like "$(cat err)" "nobody-knows-me" "is named"
not_ok "namespaces for one who is not root" setpriv --reuid nobody --regid nogroup --clear-groups byre run --kernel vmlinux --namespaces=on
like "$(cat err)" "need root" "and that is said"
done_testing
