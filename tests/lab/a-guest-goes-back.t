#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: a snapshot is taken while a guest writes into its file system, the guest writes on, and is taken back: it goes
# on from there, and so does its file system, which is clean at the end. The same from the image alone: what was on the
# disk then is a file system as after a power cut.
# timeout: 1500
. "$BYRE_SRC/tests/tap.sh"
. "$BYRE_SRC/tests/lab/lab.sh"
. "$BYRE_SRC/tests/lab/guest.sh"
. "$BYRE_SRC/tests/lab/listening.sh"
[ -x "$BYRE_BUILD/byre" ] || skip_all "byre is built for x86-64 only"
own_machine --kvm --memory 1400
QMP=/run/vm/sock
guest_folder
guest_modules virtio_pci virtio_blk ext4
listening_guest

must mke2fs -q -t ext4 -E lazy_itable_init=0 fs.raw 48M
must byre-img convert -f raw -O qcow2 fs.raw disk.qcow2
boot disk.qcow2 --cpus 2
# Each file has its number in it, and so has the line that tells of it once it is on the disk; so, too, does the
# shell's memory. A hundred are kept.
tell 'mkdir /mnt; mount /dev/vda /mnt && echo MOUNTED'
within 60 grep -q "^MOUNTED" console || bail "the file system is there" "$(tail -n 5 console)"
tell 'work () { n=0; while [ ! -e /stop ]; do yes $n | dd of=/mnt/$((n % 100)) bs=4k count=32 iflag=fullblock conv=fsync 2>/dev/null; echo "at $n"; n=$((n + 1)); done; echo "last $((n - 1))"; }'
tell 'work &'
# numbers: what the guest told of; number: the last. reached N: it is there, or further. back: the first after it went
# back.
numbers () { sed -n 's/^at \([0-9]*\)\r$/\1/p' console; }
number () { numbers | tail -n 1; }
back () { numbers | awk '$1 < last { print $1; exit } { last = $1 }'; }
reached () { [ "$(number)" -ge "$1" ]; }
ok "the guest writes" within 60 reached 5
sure=$(number)
ok "a snapshot meanwhile" byre snapshot sock then
then=$(number) # or some before: what the guest's own console had not sent yet is told only after it
ok "the guest writes on" within 60 reached $((then + 10))
before=$(number)
ok "and goes back" byre restore sock then
is_back () { [ -n "$(back)" ]; }
ok "it goes on" within 60 is_back
first=$(back)
ok "at $first, where it was ($sure to $then), and not at $before" test "$first" -gt "$sure" -a "$first" -le $((then + 3))
ok "it writes once more" within 60 reached $((then + 5))
tell ': >/stop'
has_stopped () { grep -q "^last" console; }
ok "it stops when it is told to" within 60 has_stopped
last=$(tr -d '\r' <console | sed -n 's/^last //p')
tell 'umount /mnt && echo UNMOUNTED; off'
ended "it ends"
like "$(cat console)" "^UNMOUNTED" "it lets go of its file system"
ok "the image is sound" byre-img check -q disk.qcow2
ok "converted" byre-img convert -f qcow2 -O raw disk.qcow2 out.raw
ok "the file system is clean" e2fsck -f -n out.raw
is "$(debugfs -R "cat /$((last % 100))" out.raw 2>/dev/null | sort -u | head -n 1)" "$last" "what was told of last is in it"

ok "as the image has it" byre-img convert -f qcow2 -l then -O raw disk.qcow2 out.raw
e2fsck -f -y out.raw >repair 2>&1
ok "its journal is all there is to do" test $? -le 1
ok "the file system is clean then" e2fsck -f -n out.raw
is "$(debugfs -R "cat /$((sure % 100))" out.raw 2>/dev/null | sort -u | head -n 1)" "$sure" "and what was told of before is in it"

# From when it was off: it goes on from there as from any other time.
boot_again () {
	start disk.qcow2 --cpus 2 --no-shutdown --restore then
	within 60 reached 1 || bail "it goes on from the snapshot" "$(tail -n 5 console errors)"
}
boot_again
status () { byre ctl $QMP status; }
is_off () { status | grep -q shutdown; }
tell ': >/stop; off'
ok "it is turned off, and stays" within 60 is_off
not_ok "it cannot just go on" byre ctl $QMP cont
ok "but back, from there" byre restore $QMP then
like "$(status)" "paused" "where it stands"
: >console
ok "and goes on" byre ctl $QMP cont
ok "as it did then" within 60 reached 1
ok "it ends" byre ctl $QMP quit
wait $machine

# One that a full disk refuses: what has its name for an id, on another, is not taken away for it.
must byre-img create -q -f qcow2 first.qcow2 16M
must byre-img snapshot -c before first.qcow2
mkdir full && must mount -t tmpfs -o size=1M tmpfs full
must byre-img create -q -f qcow2 full/second.qcow2 16M
dd if=/dev/zero of=full/rest bs=4k 2>/dev/null
byre run --firmware bios -m 32M --paused --serial none --qmp unix:$QMP,server=on,wait=off \
	--disk first.qcow2 --disk full/second.qcow2 </dev/null >console 2>errors &
machine=$!
within 60 byre ctl $QMP status || bail "a machine that does nothing" "$(cat errors)"
not_ok "a snapshot for which one disk has no room" byre snapshot $QMP 1
like "$(cat err)" "No space left" "which is said"
rm full/rest
ok "a second time" byre snapshot $QMP 1
ok "it ends" byre ctl $QMP quit
wait $machine
is "$(byre-img snapshot -l first.qcow2 | awk '$1 ~ /^[0-9]+$/ { print $1 ":" $2 }' | tr '\n' ' ')" "1:before 2:1 " "both are there"

# A disk that has no room to go back is as it was, and so is the machine.
rm full/second.qcow2
must mount -o remount,size=8M full
must byre-img create -q -f qcow2 full/third.qcow2 16M
byre run --firmware bios -m 32M --paused --serial none --qmp unix:$QMP,server=on,wait=off \
	--disk full/third.qcow2 </dev/null >console 2>errors &
machine=$!
within 60 byre ctl $QMP status || bail "another that does nothing" "$(cat errors)"
ok "a snapshot" byre snapshot $QMP a
dd if=/dev/zero of=full/rest bs=4k 2>/dev/null
not_ok "the disk has no room to go back" byre restore $QMP a
like "$(cat err)" "No space left" "which is said"
like "$(status)" "prelaunch" "and the machine stands as it did"
rm full/rest
ok "with room it goes back" byre restore $QMP a
ok "the snapshot is deleted" byre ctl $QMP delete a
ok "it ends" byre ctl $QMP quit
wait $machine
is $? 0 "and well"
ok "its image is sound" byre-img check -q full/third.qcow2
done_testing
