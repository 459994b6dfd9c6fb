#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: Linux drives the SCSI adapter: finds its disks with their sizes and serial numbers, writes, flushes, discards
# and zeroes them, and hears of nothing amiss; the same over packed rings, of SCSI and of virtio block disks.
# timeout: 1800
. "$BYRE_SRC/tests/tap.sh"
. "$BYRE_SRC/tests/lab/lab.sh"
. "$BYRE_SRC/tests/lab/guest.sh"
[ -x "$BYRE_BUILD/byre" ] || skip_all "byre is built for x86-64 only"
own_machine --kvm --memory 1400
guest_folder

# ---- an initramfs: what is to be done is on the last disk, a virtio one ------------------------

guest_modules virtio_pci virtio_blk virtio_scsi sd_mod
guest_pack <<'END'
await vda sdb
echo "BEGIN"
sh /dev/vda 2>&1
echo "errors $(dmesg | grep -c 'I/O error\|Sense Key\|reset by')"
echo "END"
off
END

# boot NAME OPTION...: runs the commands in the file `job`, which is the first virtio disk.
boot () {
	boot_name=$1
	shift
	truncate -s %512 job
	timeout 600 byre run --kernel vmlinux --initrd initramfs --append "console=ttyS0 quiet panic=-1" -m 256M \
		--disk file=job,format=raw,readonly "$@" </dev/null >console 2>errors
	guest_ended "$boot_name" $?
}

cat >scsi-job <<'END'
b=/bin/busybox
serial () { $b tail -c +5 /sys/block/$1/device/vpd_pg80; }
one=sda two=sdb # they are probed at once, and which gets which name is chance
[ "$(serial sda)" = lab0 ] || { one=sdb two=sda; }
for d in $one $two; do
	s=/sys/block/$d
	[ $d = $one ] && d=one || d=two
	echo "disk $d $($b cat $s/size) ro=$($b cat $s/ro) type=$($b cat $s/device/type) serial=$(serial ${s##*/})"
	echo "$d cache=$($b cat $s/queue/write_cache) discard=$($b cat $s/queue/discard_max_bytes) zeroes=$($b cat $s/queue/write_zeroes_max_bytes) rotational=$($b cat $s/queue/rotational)"
	echo "$d mode=$($b cat $s/device/scsi_disk/*/provisioning_mode) zeroing=$($b cat $s/device/scsi_disk/*/zeroing_mode)"
done
echo "wwid $($b cat /sys/block/$one/device/wwid)"
echo "features $($b cut -c 35 /sys/bus/virtio/devices/virtio*/features | $b tr -d '\n')"
echo "read $($b dd if=/dev/$one bs=64k skip=16 count=1 2>/dev/null | $b md5sum)"
$b dd if=/dev/zero bs=64k count=64 2>/dev/null | $b tr '\000' 'Z' | $b dd of=/dev/$one bs=64k seek=128 conv=fsync 2>/dev/null
echo "wrote $?"
for i in 0 1 2 3; do
	$b dd if=/dev/zero bs=4k count=512 2>/dev/null | $b tr '\000' "$i" | $b dd of=/dev/$one bs=4k seek=$((8192 + i * 512)) conv=fsync 2>/dev/null &
done
wait
$b blkdiscard -o 10485760 -l 1048576 /dev/$one
echo "discarded $?"
echo "then $($b dd if=/dev/$one bs=1M skip=10 count=1 2>/dev/null | $b tr -d '\000' | $b wc -c)"
$b dd if=/dev/zero of=/dev/$two bs=512 count=1 2>/dev/null
echo "read-only $?"
[ -b /dev/vdb ] || exit
echo "block features $($b cut -c 35 /sys/block/vdb/device/features)"
for i in 0 1 2 3; do
	$b dd if=/dev/zero bs=4k count=512 2>/dev/null | $b tr '\000' "$i" | $b dd of=/dev/vdb bs=4k seek=$((i * 512)) conv=fsync 2>/dev/null &
done
wait
echo "block read $($b dd if=/dev/vdb bs=1M skip=4 count=1 2>/dev/null | $b tr -d 2 | $b wc -c)"
exit
END

scsi_boot () {
	name=$1
	shift
	cp scsi-job job
	ok "$name: an image" byre-img create -q -f qcow2 disk.qcow2 64M
	ok "$name: with something in it" byre-io -c 'write -q -P 0xa5 1M 64k' disk.qcow2
	ok "$name: and another" byre-img create -q -f raw second.img 8M
	boot "$name" "$@" --disk "file=disk.qcow2,format=qcow2,iface=scsi,serial=lab0,discard=unmap$packed" \
		--disk file=second.img,format=raw,iface=scsi,readonly,serial=lab1
	like "$(cat said)" "^disk one 131072 ro=0 type=0 serial=lab0" "$name: the first disk"
	like "$(cat said)" "^disk two 16384 ro=1 type=0 serial=lab1" "$name: the second disk"
	like "$(cat said)" "^one cache=write back discard=[1-9][0-9]* zeroes=[1-9][0-9]* rotational=0" "$name: has a cache, and discards"
	like "$(cat said)" "^one mode=unmap zeroing=writesame_16_unmap" "$name: unmaps to zeros"
	like "$(cat said)" "^wwid naa.3" "$name: it has a name"
	pattern=$(head -c 65536 /dev/zero | tr '\000' '\245' | md5sum)
	like "$(cat said)" "^read ${pattern%% *}" "$name: what was in the image is read"
	like "$(cat said)" "^wrote 0" "$name: it is written"
	like "$(cat said)" "^discarded 0" "$name: it is discarded"
	like "$(cat said)" "^then 0" "$name: and reads as zeros"
	like "$(cat said)" "^read-only 1" "$name: what is read-only is not written"
	like "$(cat said)" "^errors 0" "$name: nothing went wrong"
	ok "$name: what it wrote is in the image" byre-io -r -c 'read -q -P 0x5a 8M 2M' -c 'read -q -P 0 10M 1M' \
		-c 'read -q -P 0x5a 11M 1M' -c 'read -q -P 0x30 32M 2M' -c 'read -q -P 0x31 34M 2M' \
		-c 'read -q -P 0x32 36M 2M' -c 'read -q -P 0x33 38M 2M' disk.qcow2
	ok "$name: sound" byre-img check -q disk.qcow2
}

packed=
scsi_boot "two processors" --cpus 2
like "$(cat said)" "^features 00" "split rings"
packed=,packed=on
ok "an image for a block disk" byre-img create -q -f qcow2 block.qcow2 8M
scsi_boot "packed rings" --cpus 2 --disk file=block.qcow2,format=qcow2,packed=on
like "$(cat said)" "^features 011" "the adapter's rings are packed"
like "$(cat said)" "^block features 1" "and the block disk's"
like "$(cat said)" "^block read 0" "it is written and read"
ok "what it wrote is in the image" byre-io -r -c 'read -q -P 0x30 0 2M' -c 'read -q -P 0x31 2M 2M' \
	-c 'read -q -P 0x32 4M 2M' -c 'read -q -P 0x33 6M 2M' block.qcow2
ok "sound" byre-img check -q block.qcow2

not_ok "a disk by no interface that there is" byre run --kernel vmlinux --disk file=disk.qcow2,iface=floppy
like "$(cat err)" "floppy" "and it is named"
done_testing
