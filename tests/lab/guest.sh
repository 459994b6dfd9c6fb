# SPDX-License-Identifier: BSD-2-Clause
# shellcheck shell=sh
#
# Guests for a machine of the lab that was brought up with --kvm: the lab's kernel, busybox, and an initramfs.
# Sourced after lab.sh; what stands here runs in the machine.
#
#	guest_folder		goes to a folder that is a tmpfs, with our programs and the kernel
#	guest_modules MODULE...	what the guest loads, in /mod
#	guest_pack		makes the initramfs. What its init does comes from stdin, when busybox's programs
#				are in place, file systems mounted, modules loaded; await DEVICE... waits for disks
#	guest_ended NAME STATUS	how a guest that is to say BEGIN and END has ended; what it said comes into
#				the file said
#
# A small guest that does what a disk says:
#
#	own_guest [MODULE...]	makes it, with the programs of tests/guest, and goes to its folder
#	run_guest OPTION...	runs it with the commands in the file `job`, which is the last disk.
#				What it says comes into the file console; 124 when it took too long
#	slow_timer		for a guest with OVMF, before it starts
#	beside_guest PID	KiB of memory of the process that are not the guest's
#	said			what it said between its BEGIN and its END
#
# The job is a disk, as every guest has those; its device is $job, and others of its kind come before it.

guest_folder () {
	mkdir -p /run/vm && cd /run/vm || exit 1
	cp "$BYRE_BUILD/byre" "$BYRE_BUILD/byre-img" "$BYRE_BUILD/byre-io" "$BYRE_BUILD/lab/vmlinux" . && PATH=/run/vm:$PATH
	mkdir -p root/bin root/dev root/proc root/sys root/tmp root/mod
	cp "$(command -v busybox)" root/bin/
}

# In the order in which they have to be loaded.
guest_modules () {
	guest_n=10
	for module; do
		for ko in $(modprobe --show-depends "$module" | sed -n 's/^insmod \([^ ]*\).*/\1/p'); do
			base=$(basename "$ko")
			ls root/mod/*-"$base" >/dev/null 2>&1 || cp "$ko" "root/mod/$guest_n-$base"
			guest_n=$((guest_n + 1))
		done
	done
}

guest_pack () {
	{ guest_begins && cat; } >root/init && chmod +x root/init && (cd root && find . | cpio -o -H newc 2>/dev/null) >initramfs
}
guest_begins () {
	cat <<'END'
#!/bin/busybox sh
export PATH=/sbin:/usr/sbin:/bin:/usr/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
for ko in /mod/*; do insmod "$ko"; done
# When the console has said everything.
off () { stty sane </dev/console; poweroff -f; }
await () {
	for device; do
		for i in $(seq 300); do [ -b "/dev/$device" ] && break; sleep 0.1; done
	done
}
END
}

said () { tr -d '\r' <console | sed -n '/^BEGIN/,/^END/p'; }
guest_ended () {
	said >said
	is "$2" 0 "$1: ended well" || sed 's/^/# /' errors
	like "$(cat said)" "^END" "$1: the guest got to its end" || tail -n 30 console | sed 's/^/# /'
}

own_guest () {
	guest_folder
	PATH=$PATH:/run/vm/root/bin
	cp "$BYRE_BUILD"/tests/guest/* root/bin/ || bail "own_guest" "the programs of tests/guest are not built"
	guest_modules virtio_pci virtio_blk "$@"
	guest_init | guest_pack
}

# QEMU's emulation of SVM ends with an assertion when a guest of its guest writes CR8 (the interrupt
# priority) while an interrupt waits to be delivered, and OVMF does so at the end of each tick of its periodic timer.
# Ticks that are far apart, also where the machine is busy with other things, do not meet. It concerns the
# periodic timer of the local APIC only, which no other guest here uses.
slow_timer () { echo 2000000 >/sys/module/kvm/parameters/min_timer_period_us; }

guest_init () {
	cat <<'END'
job=$(sed 's/.*job=\([a-z0-9]*\).*/\1/' /proc/cmdline)
await $job
echo "BEGIN"
sh /dev/$job 2>&1
echo "END"
off
END
}

run_guest () {
	truncate -s %512 job
	timeout "${guest_seconds:-600}" byre run --kernel vmlinux --initrd initramfs \
		--append "console=ttyS0 quiet panic=-1 mitigations=off job=${job:-vdb}" -m "${guest_memory:-256M}" "$@" \
		--disk file=job,format=raw,readonly </dev/null >console 2>errors
}

# beside_guest PID: KiB of a machine's process that are not the guest's memory, which is its largest mapping.
beside_guest () {
	awk '/^Size:/ { size = $2 }
		/^Pss:/ { all += $2; if (size > largest) { largest = size; guest = $2 } }
		END { print all - guest }' "/proc/$1/smaps" 2>/dev/null || echo 0
}
