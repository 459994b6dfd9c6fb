#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: a guest's persistent reservations are its LUN's, over iSCSI by two paths of our own and on a device of
# dm-multipath: it registers, reserves and writes, others are kept out, and when another takes it away the guest
# hears of a reservation conflict, while the machine goes on.
# timeout: 1500
. "$BYRE_SRC/tests/tap.sh"
. "$BYRE_SRC/tests/lab/lab.sh"
. "$BYRE_SRC/tests/lab/lio.sh"
. "$BYRE_SRC/tests/lab/multipath.sh"
. "$BYRE_SRC/tests/lab/guest.sh"
[ -x "$BYRE_BUILD/byre" ] || skip_all "byre is built for x86-64 only"
command -v sg_persist >/dev/null || skip_all "sg_persist (sg3-utils) is not installed"
own_machine --kvm --memory 1400 --disk "$PWD/disk.img"
must lio
guest_folder

# ---- a guest with sg_persist, which does what is on its virtio disk -----------------------------

guest_modules virtio_pci virtio_blk virtio_scsi sd_mod sg
for file in $(command -v sg_persist) $(ldd "$(command -v sg_persist)" | grep -o '/[^ ]*'); do
	mkdir -p "root$(dirname "$file")" && cp -L "$file" "root$file"
done
guest_pack <<'END'
await vda sda
echo "BEGIN"
sh /dev/vda 2>&1
echo "END"
off
END

# It is fenced while it writes; the loop has an end also where nobody does that. Another has the LUN then, so that it
# can register and not write.
cat >job <<'END'
b=/bin/busybox
pr () { sg_persist -n "$@" /dev/sda >/out 2>&1; }
keys () { sg_persist -n -i -k /dev/sda | $b grep -c "$1"; }
put () { $b dd if=/dev/zero of=/dev/sda bs=4k count=1 oflag=direct conv=fsync 2>/err; }
put
echo "unreserved $?"
pr --out --reserve --param-rk=0x11 --prout-type=5
echo "unregistered $?"
pr --out --register --param-sark=0x11
echo "register $? keys $(keys 0x11)"
pr --out --reserve --param-rk=0x11 --prout-type=5
echo "reserve $?"
sg_persist -n -i -r /dev/sda | $b grep -c "Write Exclusive, registrants only" | $b sed 's/^/reservation /'
put
echo "reserved $?"
echo "READY"
for i in $($b seq 600); do put || break; $b sleep 0.1; done
echo "fenced $($b dmesg | $b grep -c 'reservation conflict') keys $(keys 0x11)"
for i in $($b seq 600); do sg_persist -n -i -r /dev/sda | $b grep -q scope: && break; $b sleep 0.1; done
pr --out --register-ignore --param-sark=0x12
echo "anew $?"
put
echo "again $?"
pr --out --clear --param-rk=0x12
echo "clear $? keys $(keys 0x12)"
exit
END
truncate -s %512 job

says () { tr -d '\r' <console | grep -q "$1"; }
# reserves NAME PATHS DISK: with so many registrations. Another initiator ends it.
lun=iscsi://10.1.1.1/$name/0
reserves () {
	timeout 600 byre run --kernel vmlinux --initrd initramfs --append "console=ttyS0 quiet panic=-1" -m 256M \
		--disk "$3,format=raw,iface=scsi,pr=on,werror=stop" --disk file=job,format=raw,readonly </dev/null >console 2>errors &
	machine=$!
	ok "$1: the guest has it" within 150 says READY
	like "$(byre-img lock "$lun")" "0x11" "$1: it is the LUN's"
	not_ok "$1: another is kept out" byre-io -f raw -c 'write -q 0 4k' "$lun"
	ok "$1: and takes it" byre-img lock --break 0x11 "$lun"
	rm -f held && mkfifo held
	byre-io --image-opts "driver=raw,file.driver=iscsi,file.reservation=on,file.filename=$lun" <held >held.out 2>&1 &
	exec 9>held
	wait $machine
	guest_ended "$1" $?
	echo "write 8k 4k" >&9
	exec 9>&-
	wait $!
	like "$(cat held.out)" "Invalid exchange" "$1: which took it from the other again"
	like "$(cat said)" "^unreserved 0" "$1: without a reservation everybody writes"
	like "$(cat said)" "^unregistered [1-9]" "$1: who is not registered cannot reserve"
	like "$(cat said)" "^register 0 keys $2" "$1: it registers, by $2 paths"
	like "$(cat said)" "^reserve 0" "$1: it reserves"
	like "$(cat said)" "^reservation 1" "$1: and sees that"
	like "$(cat said)" "^reserved 0" "$1: it writes"
	like "$(cat said)" "^fenced [1-9][0-9]* keys 0" "$1: when it is fenced it is told"
	like "$(cat said)" "^anew 0" "$1: it registers anew"
	like "$(cat said)" "^again 0" "$1: as a member again it writes"
	like "$(cat said)" "^clear 0 keys 0" "$1: and clears all"
	is "$(byre-img lock "$lun")" "$lun: nobody holds a lock" "$1: nothing is left"
}

both=file.driver=multipath,file.check-interval=1
for n in 1 2; do
	both=$both,file.path.$((n - 1)).driver=iscsi,file.path.$((n - 1)).filename=iscsi://10.1.$n.1/$name/0
	both=$both,file.path.$((n - 1)).initiator-name=iqn.2026-01.test:guest
done
reserves "two paths of our own" 2 "$both"

must multipath_device $name 10.1.1.1:3260 10.1.2.1:3260
device=$(cat out)
reserves "dm-multipath" 2 "file=$device"

# ---- refusals ------------------------------------------------------------------------------

refused () {
	refused_name=$1
	not_ok "$refused_name" byre run --kernel vmlinux --disk "$2"
	like "$(cat err)" "$3" "$refused_name: and it is said why"
}
refused "reservations of another interface" "file=$lun,format=raw,pr=on" "of the interface scsi"
refused "a part of the LUN" "file=$lun,format=raw,size=1M,iface=scsi,pr=on" "only a whole LUN"
refused "a file" "file=job,format=raw,cache=writeback,iface=scsi,pr=on" "only a whole LUN"
refused "the page cache" "file=$device,format=raw,cache=writeback,iface=scsi,pr=on" "cache=none"
refused "reserved by the program" "file.driver=iscsi,file.filename=$lun,file.reservation=on,format=raw,iface=scsi,pr=on" "so the guest cannot"
done_testing
