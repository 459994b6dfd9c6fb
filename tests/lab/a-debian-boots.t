#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: a Debian disk, which byre-img made a QCOW2 of, starts by firmware and GRUB from each kind of disk, works, has
# a network, starts again when it reboots, and goes down by the power button. Afterwards image and file system are sound, and what
# it wrote is there. Under BYRE_SOAK every firmware with every kind of disk.
# timeout: 2700
. "$BYRE_SRC/tests/tap.sh"
. "$BYRE_SRC/tests/lab/lab.sh"
long_test
. "$BYRE_SRC/tests/lab/debian.sh"
. "$BYRE_SRC/tests/lab/guest.sh"
[ -x "$BYRE_BUILD/byre" ] || skip_all "byre is built for x86-64 only"
need_debian
prepare_machine () {
	mkdir -p disk && must byre-img convert -c -f raw -O qcow2 -o compression_type=zstd "$debian.raw" disk/debian.qcow2
	must byre-img compare -q -f raw -F qcow2 "$debian.raw" disk/debian.qcow2
	rm -f disk.img && must mke2fs -q -t ext4 -d disk disk.img 4G
	rm -rf disk
}
own_machine --kvm --memory 1400 --disk "$PWD/disk.img"

# Each takes a minute or two. A kind of disk is a row of disk_of.
matrix='bios:virtio uefi:nvme'
[ -z "$BYRE_SOAK" ] ||
	matrix='bios:virtio bios:nvme bios:ahci bios:scsi uefi:virtio uefi:nvme uefi:ahci uefi:scsi'
disk_of () {
	case $1 in
	virtio) echo /dev/vda3 ;;
	nvme) echo /dev/nvme0n1p3 ;;
	ahci | scsi) echo /dev/sda3 ;;
	esac
}

slow_timer
mkdir -p /run/vm && mount -t ext4 /dev/sda /run/vm && cd /run/vm || bail "the disk" ""
cp "$BYRE_BUILD/byre" "$BYRE_BUILD/byre-img" "$BYRE_SRC/tests/lab/typist" . && PATH=/run/vm:$PATH

# What the guest fetches, by the network in user mode.
head -c 4M /dev/urandom >fetched
timeout 1700 busybox httpd -f -p 127.0.0.1:7002 -h . &

# A part of the packages is held against their sums, as reading it all takes a minute here.
cat >job <<'END'
echo "firmware $([ -d /sys/firmware/efi ] && echo uefi || echo bios)"
echo "root $(findmnt -n -o SOURCE /)"
echo "failed units: $(systemctl list-units --failed --plain --no-legend | wc -l)"
dpkg --audit && apt-get -q check && echo "packages: complete"
cd / && cat /var/lib/dpkg/info/bash.md5sums /var/lib/dpkg/info/systemd.md5sums | md5sum --ignore-missing --quiet -c && echo "packages: whole"
if [ ! -e /var/again ]; then
	touch /var/again
	echo "reboots"
	systemctl reboot
	sleep 1000
fi
for i in $(seq 300); do ip -4 -o address show scope global | grep -q inet && break; sleep 1; done
ip -4 -o address show scope global | sed 's/.* inet \([0-9./]*\).*/address \1/'
/usr/lib/apt/apt-helper -q download-file http://10.0.2.2:7002/fetched /var/fetched && echo "fetched $(md5sum </var/fetched)"
head -c 4M /dev/urandom >/var/kept && sync /var/kept && echo "kept $(md5sum </var/kept)"
echo "up $(cut -d ' ' -f 1 /proc/uptime)"
exit
END
truncate -s %512 job

# The root partition of an image, as an option for e2fsprogs: out.raw and where it begins.
partition () { rm -f out.raw && byre-img convert -f qcow2 -O raw "$1" out.raw; }
root="out.raw?offset=$((debian_root_mib << 20))"

# by_key COMMAND...: on a terminal, where Ctrl-A p presses the power button at its END. by_socket COMMAND...:
# the control socket does.
by_key () { timeout 1100 typist console END '\x01p' "$@" >errors 2>&1; }
has_ended () { tr -d '\r' <console | grep -qx END; }
by_socket () {
	: >console
	timeout 1100 "$@" --qmp sock </dev/null >console 2>errors &
	machine=$!
	within 1000 has_ended && byre ctl sock powerdown >>errors 2>&1
	wait $machine
}

first=yes button=by_key
for row in $matrix; do
	firmware=${row%:*} iface=${row#*:}
	case $firmware in
	bios) started='--firmware bios' ;;
	uefi) started='--firmware uefi --vars vars.fd' ;;
	esac
	rm -f vars.fd over.qcow2
	must byre-img create -q -f qcow2 -b debian.qcow2 -F qcow2 over.qcow2
	began=$(date +%s)
	# shellcheck disable=SC2086 # options
	$button byre run $started -m 512M --net user --disk "file=over.qcow2,format=qcow2,iface=$iface" \
		--disk file=job,format=raw,readonly,serial=job
	is $? 0 "$row: the power button turned it off"
	tr -d '\r' <console >lines
	echo "# $row: $(($(date +%s) - began)) s, $(sed -n 's/^up/at its end it was up for/p' lines) s"
	like "$(cat lines)" "^firmware $firmware" "$row: started by it"
	like "$(cat lines)" "^root $(disk_of "$iface")" "$row: from the disk"
	like "$(cat lines)" "^failed units: 0" "$row: every unit is well"
	like "$(cat lines)" "^packages: complete" "$row: dpkg and apt find nothing amiss"
	like "$(cat lines)" "^packages: whole" "$row: files have their sums"
	like "$(cat lines)" "^address 10.0.2.15" "$row: it has an address"
	like "$(cat lines)" "^fetched $(md5sum <fetched)" "$row: and what apt fetched is whole"
	[ $first = no ] || is "$(grep -c '^reboots\|^BEGIN' lines)" 3 "$row: it rebooted, and came up again"
	like "$(cat lines)" "^END" "$row: it got to its end"
	ok "$row: the image is sound" byre-img check -q over.qcow2
	ok "$row: converted" partition over.qcow2
	ok "$row: the file system is clean" e2fsck -f -n "$root"
	is "kept $(debugfs -R 'cat /var/kept' "$root" 2>/dev/null | md5sum)" "$(grep '^kept' lines)" "$row: what it wrote is there"
	# It reboots once, which takes long: elsewhere it finds the file of that being there.
	sed -i 's,/var/again,/etc/fstab,' job
	first=no button=by_socket
done
done_testing
