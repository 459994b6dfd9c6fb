#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: Linux finds NVMe and SATA disks and a CD-ROM drive and is content with them: what was in the
# images is read, what it writes, flushes and gives up is in the images, by message interrupts and
# by the pin; and it mounts the CD.
# timeout: 2400
. "$BYRE_SRC/tests/tap.sh"
. "$BYRE_SRC/tests/lab/lab.sh"
. "$BYRE_SRC/tests/lab/guest.sh"
long_test
[ -x "$BYRE_BUILD/byre" ] || skip_all "byre is built for x86-64 only"
own_machine --kvm --memory 1400
guest_folder

# ---- an initramfs, and a CD -----------------------------------------------------------------

mkdir -p root/cd
guest_modules virtio_pci virtio_blk nvme ahci sd_mod sr_mod isofs
guest_pack <<'END'
await vda nvme0n1 sda sr0
echo "BEGIN"
sh /dev/vda 2>&1
echo "END"
off
END

# The least there is of ISO 9660: one volume descriptor, one folder, one file of 1 MiB.
cat >mkcd <<'END'
sub both { my $n = shift; pack("VN", $n, $n) }
sub short { my $n = shift; pack("vn", $n, $n) }
sub record {
	my ($name, $block, $bytes, $flags) = @_;
	my $r = pack("C", 0) . both($block) . both($bytes) . pack("C7", 126, 1, 1, 0, 0, 0, 0) .
		pack("C3", $flags, 0, 0) . short(1) . pack("C", length $name) . $name;
	$r .= "\0" unless length($r) % 2;
	return pack("C", 1 + length $r) . $r;
}
my $data = "byre" x (1 << 18);
my $folder = record("\0", 18, 2048, 2) . record("\1", 18, 2048, 2) . record("FILE.;1", 19, length $data, 0);
my $volume = "\1CD001\1\0" . " " x 32 . pack("A32", "BYRE") . "\0" x 8 . both(19 + length($data) / 2048) . "\0" x 32 .
	short(1) . short(1) . short(2048) . both(0) . "\0" x 16 . record("\0", 18, 2048, 2) . " " x 623;
print "\0" x (16 * 2048), map { pack "a2048", $_ } $volume, "\377CD001\1", $folder;
print $data;
END
perl mkcd >cd.iso
echo "# a CD of $(wc -c <cd.iso) bytes"

# boot NAME APPEND OPTION...: runs the commands in the file `job`.
boot () {
	boot_name=$1
	boot_append=$2
	shift 2
	truncate -s %512 job
	timeout 900 byre run --kernel vmlinux --initrd initramfs --append "console=ttyS0 quiet panic=-1 $boot_append" \
		-m 256M --cpus 2 --disk file=job,format=raw,readonly "$@" </dev/null >console 2>errors
	guest_ended "$boot_name" $?
}

# ---- both kinds of interrupts ----------------------------------------------------------------

cat >job <<'END'
b=/bin/busybox
# Which is which depends on who was found first.
for d in $(cd /sys/block && echo nvme* sd*); do
	case $d:$($b cat /sys/block/$d/size) in nvme*:131072) nv=$d ;; nvme*) cold=$d ;; sd*:131072) sd=$d ;; esac
done
echo "nvme $($b cat /sys/block/$nv/device/serial) $($b cat /sys/block/$nv/size) of $($b cat /sys/block/$nv/device/model)"
echo "nvme queues $($b ls /sys/block/$nv/mq | $b wc -l)"
echo "nvme readonly $($b cat /sys/block/$cold/ro) $($b cat /sys/block/$cold/size)"
echo "disks $(echo /sys/block/sd* | $b wc -w)"
echo "sata $($b cat /sys/block/$sd/size) $($b cat /sys/block/$sd/device/model) depth $($b cat /sys/block/$sd/device/queue_depth)"
echo "zeroes $($b cat /sys/block/$nv/queue/write_zeroes_max_bytes) wwid $($b cat /sys/block/$nv/wwid)"
$b grep -E "nvme|ahci" /proc/interrupts | $b sed 's/^/interrupt /'
for d in $nv $sd; do
	[ $d = $sd ] && name=sata || name=nvme
	echo "$name read $($b dd if=/dev/$d bs=64k skip=16 count=1 2>/dev/null | $b md5sum)"
	$b dd if=/dev/zero bs=64k count=32 2>/dev/null | $b tr '\000' 'Z' | $b dd of=/dev/$d bs=64k seek=128 conv=fsync 2>/dev/null
	echo "$name wrote $?"
	# Several at once, each elsewhere, and all of it is read again from the disk itself.
	for i in 1 2 3 4 5 6 7 8; do
		$b dd if=/dev/zero bs=32k count=32 2>/dev/null | $b tr '\000' "$i" |
			$b dd of=/dev/$d bs=32k seek=$((1000 + 32 * i)) conv=fsync 2>/dev/null &
	done
	wait
	echo 3 >/proc/sys/vm/drop_caches
	echo "$name again $($b dd if=/dev/$d bs=32k skip=1032 count=256 2>/dev/null | $b md5sum)"
	$b blkdiscard -o 4194304 -l 1048576 /dev/$d
	echo "$name discarded $?"
done
$b mount -t iso9660 -o ro /dev/sr0 /cd
echo "cd mounted $?"
echo "cd $($b ls -l /cd | $b sed 's/  */ /g' | $b cut -d' ' -f5,9 | $b tr '\n' ' ')"
echo "cd sum $($b md5sum </cd/file)"
$b umount /cd
$b dmesg | $b grep -E 'nvme|ata[0-9]|ahci|sd |sr ' >log
echo "complaints $($b grep -ciE 'error|fail|exception|timeout|reset|invalid' log)"
$b grep -qiE 'error|fail|exception|timeout|reset|invalid' log && $b sed 's/^/dmesg /' log
exit
END

pattern=$(head -c 65536 /dev/zero | tr '\000' '\245' | md5sum)
again=$(for i in 1 2 3 4 5 6 7 8; do head -c 1048576 /dev/zero | tr '\000' "$i"; done | md5sum)
for interrupts in msi pin; do
	for d in nvme sata; do
		ok "an image" byre-img create -q -f qcow2 $d.qcow2 64M
		ok "with something in it" byre-io -c 'write -q -P 0xa5 1M 64k' -c 'write -q -P 0x33 4M 1M' $d.qcow2
	done
	ok "and one that is read-only" byre-img create -q -f raw cold.img 8M
	append=
	set --
	if [ $interrupts = pin ]; then # and more disks than a controller has ports
		append=pci=nomsi
		for i in 1 2 3 4 5 6; do
			byre-img create -q -f raw $i.img 1M
			set -- "$@" --disk file=$i.img,format=raw,iface=ahci
		done
	fi
	boot $interrupts "$append" "$@" --disk file=nvme.qcow2,format=qcow2,iface=nvme,queues=2,serial=disk0,discard=unmap \
		--disk file=cold.img,format=raw,iface=nvme,readonly --disk file=sata.qcow2,format=qcow2,iface=ahci,discard=unmap \
		--disk file=cd.iso,format=raw,media=cdrom
	like "$(cat said)" "^nvme disk0  *131072 of Byre NVMe disk" "$interrupts: the NVMe disk"
	[ $interrupts = pin ] || like "$(cat said)" "^nvme queues 2" "$interrupts: has two queues"
	like "$(cat said)" "^nvme readonly 1 16384" "$interrupts: and one is read-only"
	like "$(cat said)" "^zeroes [1-9][0-9]* wwid uuid" "$interrupts: which writes zeroes, and has a name"
	[ $interrupts = msi ] || like "$(cat said)" "^disks 7" "$interrupts: seven SATA disks have two controllers"
	like "$(cat said)" "^sata 131072 Byre SATA disk *depth 3[12]" "$interrupts: the SATA disk, with queued commands"
	for d in nvme sata; do
		like "$(cat said)" "^$d read ${pattern%% *}" "$interrupts: $d: what was in the image is read"
		like "$(cat said)" "^$d wrote 0" "$interrupts: $d: it is written"
		like "$(cat said)" "^$d again ${again%% *}" "$interrupts: $d: what was written at once is read"
		like "$(cat said)" "^$d discarded 0" "$interrupts: $d: space is given back"
	done
	like "$(cat said)" "^cd mounted 0" "$interrupts: the CD is mounted"
	like "$(cat said)" "^cd .*1048576 file" "$interrupts: and has its file"
	sum=$(tail -c 1048576 cd.iso | md5sum)
	like "$(cat said)" "^cd sum ${sum%% *}" "$interrupts: which is read"
	like "$(cat said)" "^complaints 0" "$interrupts: no driver complains"
	sed -n 's/^dmesg /# /p; s/^interrupt /# /p' said
	for d in nvme sata; do
		ok "$interrupts: $d: what it wrote is in the image, and what it gave up is not" byre-io -r -c 'read -q -P 0x5a 8M 2M' \
			-c 'read -q -P 0xa5 1M 64k' -c 'read -q -P 0x31 33816576 1M' -c 'read -q -P 0 4M 1M' $d.qcow2
		ok "$interrupts: $d: sound" byre-img check -q $d.qcow2
	done
done

# ---- refusals ------------------------------------------------------------------------------

not_ok "no such interface" byre run --kernel vmlinux --disk file=1.img,format=raw,iface=floppy
like "$(cat err)" "iface" "and it is named"
not_ok "no such medium" byre run --kernel vmlinux --disk file=1.img,format=raw,media=tape
not_ok "a CD-ROM drive on NVMe" byre run --kernel vmlinux --disk file=1.img,format=raw,iface=nvme,media=cdrom
like "$(cat err)" "CD-ROM" "and it is said why"
done_testing
