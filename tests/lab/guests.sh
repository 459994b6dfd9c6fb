# SPDX-License-Identifier: BSD-2-Clause
# shellcheck shell=sh
#
# Guests of byre in a machine of the lab, for tests of devices: sourced after own_machine. A guest has
# the drivers of virtio (that of the balloon it loads itself), busybox, and does what is in the file `job`.

mkdir -p /run/vm && cd /run/vm || exit 1
cp "$BYRE_BUILD/byre" "$BYRE_BUILD/lab/vmlinux" . && PATH=/run/vm:$PATH

mkdir -p root/bin root/dev root/proc root/sys root/tmp root/mod
cp "$(command -v busybox)" root/bin/
n=10
for module in virtio_pci virtio_blk virtio_net virtio_rng virtio_console virtio_balloon; do
	for ko in $(modprobe --show-depends $module | sed -n 's/^insmod \([^ ]*\).*/\1/p'); do
		base=$(basename "$ko")
		ls root/mod/*-"$base" >/dev/null 2>&1 || cp "$ko" "root/mod/$n-$base"
		n=$((n + 1))
	done
done
cat >root/dhcp <<'END'
#!/bin/busybox sh
[ "$1" = bound ] && /bin/busybox ip addr add "$ip/24" dev "$interface" && /bin/busybox ip route add default via "$router"
exit 0
END
cat >root/init <<'END'
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
for ko in /mod/*; do case $ko in *balloon*) ;; *) insmod "$ko" ;; esac; done
for i in $(seq 100); do [ -b /dev/vda ] && break; sleep 0.1; done
ip link set lo up
ip link set eth0 up 2>/dev/null
echo "BEGIN"
cat /dev/vda >/tmp/job
. /tmp/job
echo "END"
poweroff -f
END
chmod +x root/init root/dhcp
(cd root && find . | cpio -o -H newc 2>/dev/null) >initramfs

# start NAME OPTION...: a guest that does what is in the file `job`. runner is its process.
start () {
	start_name=$1
	shift
	cp job disk
	head -c $((512 - $(wc -c <job) % 512)) /dev/zero | tr '\000' '\n' >>disk
	timeout 400 byre run --kernel vmlinux --initrd initramfs --append "console=ttyS0 quiet panic=-1" -m 256M \
		"$@" --disk file=disk,format=raw,readonly </dev/null >console 2>errors &
	runner=$!
}
# ended: it has come to its end, and well; what it said is in `said`.
ended () {
	wait $runner
	ended_status=$?
	tr -d '\r' <console | sed -n '/^BEGIN/,/^END/p' >said
	is $ended_status 0 "$start_name: ended well"
	like "$(cat said)" "^END" "$start_name: the guest got to its end" || { tail -n 30 console; cat errors; } | sed 's/^/# /'
}
says () { tr -d '\r' <console | grep -q "$1"; }
