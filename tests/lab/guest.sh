# SPDX-License-Identifier: BSD-2-Clause
# shellcheck shell=sh
#
# A small guest for a machine of the lab that was brought up with --kvm: the lab's kernel, busybox, the
# programs of tests/guest. Sourced after lab.sh; what stands here runs in the machine.
#
#	own_guest [MODULE...]	makes it, in a folder that is a tmpfs, and goes there
#	run_guest OPTION...	runs it with the commands in the file `job`, which is the last disk.
#				What it says comes into the file console; 124 when it took too long
#	slow_timer		for a guest with OVMF, before it starts
#	beside_guest PID	KiB of memory of the process that are not the guest's
#	said			what it said between its BEGIN and its END
#
# The job is a disk, as every guest has those; its device is $job, and others of its kind come before it.

own_guest () {
	mkdir -p /run/vm && cd /run/vm || exit 1
	cp "$BYRE_BUILD/byre" "$BYRE_BUILD/byre-img" "$BYRE_BUILD/byre-io" "$BYRE_BUILD/lab/vmlinux" . && PATH=/run/vm:/run/vm/root/bin:$PATH
	mkdir -p root/bin root/dev root/proc root/sys root/mod
	cp "$(command -v busybox)" "$BYRE_BUILD"/tests/guest/* root/bin/ || bail "own_guest" "the programs of tests/guest are not built"
	guest_modules "$@"
	guest_init >root/init
	chmod +x root/init
	(cd root && find . | cpio -o -H newc 2>/dev/null) >initramfs
}

# QEMU's emulation of SVM ends with an assertion when a guest of its guest writes CR8 (the interrupt
# priority) while an interrupt waits to be delivered, and OVMF does so at the end of each tick of its periodic timer.
# Ticks that are far apart, also where the machine is busy with other things, do not meet. It concerns the
# periodic timer of the local APIC only, which no other guest here uses.
slow_timer () { echo 2000000 >/sys/module/kvm/parameters/min_timer_period_us; }

# In the order in which they have to be loaded.
guest_modules () {
	guest_n=10
	for module in virtio_pci virtio_blk "$@"; do
		for ko in $(modprobe --show-depends "$module" | sed -n 's/^insmod \([^ ]*\).*/\1/p'); do
			base=$(basename "$ko")
			ls root/mod/*-"$base" >/dev/null 2>&1 || cp "$ko" "root/mod/$guest_n-$base"
			guest_n=$((guest_n + 1))
		done
	done
}

guest_init () {
	cat <<'END'
#!/bin/busybox sh
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for ko in /mod/*; do insmod "$ko"; done
job=$(sed 's/.*job=\([a-z0-9]*\).*/\1/' /proc/cmdline)
for i in $(seq 300); do [ -b /dev/$job ] && break; sleep 0.1; done
echo "BEGIN"
sh /dev/$job 2>&1
echo "END"
poweroff -f
END
}

run_guest () {
	truncate -s %512 job
	timeout "${guest_seconds:-300}" byre run --kernel vmlinux --initrd initramfs \
		--append "console=ttyS0 quiet panic=-1 mitigations=off job=${job:-vdb}" -m "${guest_memory:-256M}" "$@" \
		--disk file=job,format=raw,readonly </dev/null >console 2>errors
}
said () { tr -d '\r' <console | sed -n '/^BEGIN/,/^END/p'; }

# beside_guest PID: KiB of a machine's process that are not the guest's memory, which is its largest mapping.
beside_guest () {
	awk '/^Size:/ { size = $2 }
		/^Pss:/ { all += $2; if (size > largest) { largest = size; guest = $2 } }
		END { print all - guest }' "/proc/$1/smaps" 2>/dev/null || echo 0
}
