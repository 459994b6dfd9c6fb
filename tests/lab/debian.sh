# SPDX-License-Identifier: BSD-2-Clause
# shellcheck shell=sh
#
# A Debian of this machine's own release as a disk, for machines to boot: sourced after lab.sh.
#
#	need_debian	makes it, or skips the test where that cannot be done; before own_machine
#
# It is BYRE_BUILD/lab/debian.raw, sparse, 1.5 GiB, made once and again when this file changes:
# debootstrap's smallest system with systemd, Debian's kernel and GRUB, which starts it by BIOS (a partition for
# its core) and by UEFI (a partition with \EFI\BOOT\BOOTX64.EFI). No loop device is needed: partitions
# are written at their offsets, and tools that the host may not have are run from the new
# system itself.
#
# The system runs, each time it is up, the script that a disk with the serial number "job" begins with, and says
# BEGIN, what the script said and END on its serial console. Then it waits for its power button.

debian=$BYRE_BUILD/lab/debian
debian_esp_mib=2 debian_root_mib=34 debian_mib=1536

# /usr/sbin/policy-rc.d is not needed: in a chroot nothing runs that could start anything.
debian_packages=systemd-sysv,udev,dbus,initramfs-tools,zstd,linux-image-amd64,grub-pc-bin,grub-efi-amd64-bin,fdisk
debian_packages=$debian_packages,mtools,dosfstools,kmod,iproute2

need_debian () {
	[ -z "$BYRE_IN_MACHINE" ] || return 0
	debian_missing=$(lab ready) || skip_all "$debian_missing"
	have debootstrap mke2fs || skip_all "debootstrap or e2fsprogs is not installed"
	mkdir -p "$BYRE_BUILD/lab"
	(flock 9 && make_debian) >"$debian.log" 2>&1 9>"$debian.lock" ||
		skip_all "no Debian to boot: $(grep -v '^ *$' "$debian.log" | tail -n 1)"
}

make_debian () {
	debian_stamp=$(cat /etc/os-release "$BYRE_SRC/tests/lab/debian.sh" | cksum)
	[ "$(cat "$debian.stamp" 2>/dev/null)" != "$debian_stamp" ] || return 0
	debian_tree=$debian.tree
	rm -rf "$debian_tree" "$debian.raw" "$debian.stamp"
	debian_before && debian_bootstrap && debian_furnish && debian_loaders && debian_disk || return 1
	rm -rf "$debian_tree"
	echo "$debian_stamp" >"$debian.stamp"
}

# What dpkg and the initramfs are told before they are there. Nobody looks at what is left out, and half of
# the time is the writing of files. Modules of an initramfs are by name, as it is not
# this machine's hardware that it will find.
debian_before () {
	mkdir -p "$debian_tree/etc/dpkg/dpkg.cfg.d" "$debian_tree/etc/initramfs-tools/conf.d" \
		"$debian_tree/etc/initramfs-tools/hooks" || return 1
	cat >"$debian_tree/etc/dpkg/dpkg.cfg.d/lab" <<-'END'
		force-unsafe-io
		path-exclude=/usr/share/doc/*
		path-exclude=/usr/share/locale/*
		path-exclude=/usr/share/man/*
		path-exclude=/lib/modules/*/kernel/sound/*
		path-exclude=/lib/modules/*/kernel/drivers/gpu/*
		path-exclude=/lib/modules/*/kernel/drivers/media/*
		path-exclude=/lib/modules/*/kernel/drivers/infiniband/*
		path-exclude=/lib/modules/*/kernel/drivers/net/wireless/*
		path-exclude=/lib/modules/*/kernel/drivers/net/ethernet/*
		path-include=/lib/modules/*/kernel/drivers/net/ethernet/intel/*
	END
	echo MODULES=list >"$debian_tree/etc/initramfs-tools/conf.d/lab"
	cat >"$debian_tree/etc/initramfs-tools/hooks/lab" <<-'END'
		#!/bin/sh
		[ "$1" != prereqs ] || exit 0
		. /usr/share/initramfs-tools/hook-functions
		manual_add_modules virtio_pci virtio_blk virtio_scsi sd_mod nvme ahci ext4
	END
	chmod 755 "$debian_tree/etc/initramfs-tools/hooks/lab"
}

# By the mirror that this machine's own apt uses for its own release.
debian_bootstrap () {
	# shellcheck disable=SC1091
	debian_suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
	# shellcheck disable=SC2016 # apt's variables
	debian_mirror=$(apt-get indextargets --format '$(REPO_URI) $(CODENAME) $(COMPONENT)' 'Created-By: Packages' |
		awk -v suite="$debian_suite" '$2 == suite && $3 == "main" && $1 ~ /^https?:/ { print $1; exit }')
	http_proxy=${http_proxy-$(apt-config shell proxy Acquire::http::Proxy | sed "s/^proxy='\(.*\)'/\1/")}
	[ -z "$http_proxy" ] || export http_proxy
	timeout 900 debootstrap --variant=minbase --include=$debian_packages "$debian_suite" "$debian_tree" ${debian_mirror:+"$debian_mirror"} &&
		return
	tail -n 3 "$debian_tree/debootstrap/debootstrap.log"
	return 1
}

in_debian () { env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 chroot "$debian_tree" "$@"; }

debian_furnish () {
	rm -f "$debian_tree"/var/cache/apt/archives/*.deb
	echo debian >"$debian_tree/etc/hostname"
	echo 'LABEL=debian / ext4 errors=remount-ro 0 1' >"$debian_tree/etc/fstab"
	printf '[Match]\nType=ether\n[Network]\nDHCP=ipv4\n' >"$debian_tree/etc/systemd/network/lab.network"
	cat >"$debian_tree/usr/local/sbin/job" <<-'END'
		#!/bin/sh
		exec >/dev/ttyS0 2>&1
		job=/dev/disk/by-id/virtio-job
		for i in $(seq 300); do [ -b $job ] && break; sleep 0.1; done
		echo BEGIN
		sh $job
		echo END
	END
	chmod 755 "$debian_tree/usr/local/sbin/job"
	cat >"$debian_tree/etc/systemd/system/job.service" <<-'END'
		[Unit]
		Description=What a test wants to have done
		Wants=systemd-logind.service
		After=systemd-logind.service
		[Service]
		Type=oneshot
		RemainAfterExit=yes
		TimeoutStartSec=infinity
		ExecStart=/usr/local/sbin/job
		[Install]
		WantedBy=multi-user.target
	END
	# A machine inside one that is emulated, on processors that others use as well, may take its time.
	mkdir -p "$debian_tree/etc/systemd/system.conf.d" "$debian_tree/etc/systemd/system/service.d"
	printf '[Manager]\nDefaultTimeoutStartSec=15min\nDefaultTimeoutStopSec=15min\nDefaultDeviceTimeoutSec=15min\n' \
		>"$debian_tree/etc/systemd/system.conf.d/lab.conf"
	printf '[Service]\nTimeoutStartSec=15min\nWatchdogSec=0\n' >"$debian_tree/etc/systemd/system/service.d/lab.conf"
	# What it does by the clock, or for people who log in, only takes its time.
	in_debian systemctl -q mask serial-getty@ttyS0.service getty@tty1.service systemd-networkd-wait-online.service \
		apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service \
		fstrim.timer systemd-update-utmp.service systemd-update-utmp-runlevel.service &&
		in_debian systemctl -q enable job.service systemd-networkd.service
}

# One configuration for both. GRUB's own installer wants a block device to write to; its
# images are made as it would, and the two numbers that it writes into one are written by
# debian_disk.
debian_loaders () {
	mkdir -p "$debian_tree/boot/grub"
	cat >"$debian_tree/boot/grub/grub.cfg" <<-'END'
		serial --unit=0 --speed=115200
		terminal_input serial
		terminal_output serial
		linux /vmlinuz root=LABEL=debian ro console=ttyS0 quiet mitigations=off
		initrd /initrd.img
		boot
	END
	# shellcheck disable=SC2016 # GRUB's variable
	printf 'search --label --set=root debian\nset prefix=($root)/boot/grub\n' >"$debian_tree/boot/grub/early.cfg"
	debian_modules='part_gpt ext2 search search_label normal configfile linux serial terminal echo boot reboot halt'
	# shellcheck disable=SC2086 # a list
	in_debian grub-mkimage -O i386-pc -p /boot/grub -c /boot/grub/early.cfg -o /boot/grub/core.img biosdisk $debian_modules &&
		in_debian grub-mkimage -O x86_64-efi -p /boot/grub -c /boot/grub/early.cfg -o /boot/grub/bootx64.efi $debian_modules &&
		in_debian mkfs.vfat -C /boot/grub/esp $(((debian_root_mib - debian_esp_mib) * 1024)) &&
		in_debian mmd -i /boot/grub/esp ::EFI ::EFI/BOOT &&
		in_debian mcopy -i /boot/grub/esp /boot/grub/bootx64.efi ::EFI/BOOT/BOOTX64.EFI
}

# shellcheck disable=SC2059 # the format is what is made
le64 () { printf "$(printf '\\%o' $(($1 & 255)) $((($1 >> 8) & 255)) $((($1 >> 16) & 255)) 0 0 0 0 0)"; }
debian_put () { dd of="$debian.raw" bs="${2:-512}" seek="$1" conv=notrunc status=none; }

# The boot sector (440 bytes, then the partition table begins) holds at 0x5c the sector of the core, and
# the core's first sector at 0x1f4 that of its second: GRUB manual, "Images"; "BIOS installation".
debian_disk () {
	truncate -s ${debian_mib}M "$debian_tree/boot/grub/gpt" || return 1
	in_debian sfdisk -q /boot/grub/gpt <<-END || return 1
		label: gpt
		start=2048, size=2048, type=21686148-6449-6E6F-744E-656564454649
		start=$((debian_esp_mib * 2048)), size=$(((debian_root_mib - debian_esp_mib) * 2048)), type=uefi
		start=$((debian_root_mib * 2048)), size=$(((debian_mib - debian_root_mib - 1) * 2048)), type=linux
	END
	mv "$debian_tree/boot/grub/gpt" "$debian.raw"
	debian_boot=$debian_tree/usr/lib/grub/i386-pc/boot.img
	head -c 440 "$debian_boot" | debian_put 0 &&
		le64 2048 | debian_put $((0x5c)) 1 &&
		debian_put 2048 <"$debian_tree/boot/grub/core.img" &&
		le64 2049 | debian_put $((2048 * 512 + 0x1f4)) 1 &&
		debian_put $((debian_esp_mib * 2048)) <"$debian_tree/boot/grub/esp" || return 1
	rm -f "$debian_tree/boot/grub/esp" "$debian_tree/boot/grub/core.img" "$debian_tree/boot/grub/bootx64.efi"
	mke2fs -q -t ext4 -L debian -E offset=$((debian_root_mib << 20)),root_owner=0:0,lazy_itable_init=1 -d "$debian_tree" \
		"$debian.raw" $((debian_mib - debian_root_mib - 1))M
}
