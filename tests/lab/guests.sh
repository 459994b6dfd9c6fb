# SPDX-License-Identifier: BSD-2-Clause
# shellcheck shell=sh
#
# Guests of byre in a machine of the lab, for tests of devices: sourced after own_machine. A guest has
# the drivers of virtio (that of the balloon it loads itself), busybox, and does what is in the file `job`.

. "$BYRE_SRC/tests/lab/guest.sh"
guest_folder

guest_modules virtio_pci virtio_blk virtio_net virtio_rng virtio_console virtio_balloon
mkdir -p root/later && mv root/mod/*balloon* root/later/
cat >root/dhcp <<'END'
#!/bin/busybox sh
[ "$1" = bound ] && /bin/busybox ip addr add "$ip/24" dev "$interface" && /bin/busybox ip route add default via "$router"
exit 0
END
chmod +x root/dhcp
guest_pack <<'END'
await vda
ip link set lo up
ip link set eth0 up 2>/dev/null
echo "BEGIN"
cat /dev/vda >/tmp/job
. /tmp/job
echo "END"
off
END

# start NAME OPTION...: a guest that does what is in the file `job`. runner is its process.
start () {
	start_name=$1
	shift
	cp job disk
	head -c $((512 - $(wc -c <job) % 512)) /dev/zero | tr '\000' '\n' >>disk
	timeout 900 byre run --kernel vmlinux --initrd initramfs --append "console=ttyS0 quiet panic=-1" -m 256M \
		"$@" --disk file=disk,format=raw,readonly </dev/null >console 2>errors &
	runner=$!
}
# ended: it has come to its end, and well; what it said is in `said`.
ended () {
	wait $runner
	guest_ended "$start_name" $?
}
says () { tr -d '\r' <console | grep -q "$1"; }
