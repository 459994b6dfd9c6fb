# SPDX-License-Identifier: BSD-2-Clause
# shellcheck shell=sh
#
# A guest that writes and then waits to be looked at: sourced after own_machine and guest.sh.
#
#	waiting_guest		makes it and goes to its folder
#	start NAME OPTION...	runs it until it has written; $machine is what was started, and
#				$process is the same, until a test knows better
#	finish NAME		lets it write more and end
#
# It writes 2 MiB of Z at 8 MiB of its first disk, and then 1 MiB of zeros at 32 MiB.

waiting_guest () {
	guest_folder
	guest_modules virtio_pci virtio_blk
	guest_pack <<'END'
await vda
dd if=/dev/zero bs=64k count=32 2>/dev/null | tr '\000' 'Z' | dd of=/dev/vda bs=64k seek=128 conv=fsync 2>/dev/null
echo "WROTE $?"
read line
echo "HEARD $line"
dd if=/dev/zero of=/dev/vda bs=64k seek=512 count=16 conv=fsync 2>/dev/null
echo "WROTE MORE $?"
off
END
}

has_written () { grep -q '^WROTE 0' console; }
start () {
	start_name=$1
	shift
	rm -f keys && mkfifo keys
	byre run --kernel vmlinux --initrd initramfs --append "console=ttyS0 quiet panic=-1" -m 256M --cpus 2 "$@" \
		<keys >console 2>errors &
	machine=$! process=$!
	exec 7>keys
	if within 300 has_written; then
		pass "$start_name: the guest has written"
	else
		echo "# $(cat errors)"
		dmesg | grep 'type=1326\|avc:' | tail -n 3 | sed 's/^/# /' # what a filter ended, or a policy refused
		bail "$start_name: the guest has written" "$(tail -n 5 console)"
	fi
}
finish () {
	echo go >&7
	exec 7>&-
	wait $machine
	is $? 0 "$1: ended well"
	like "$(tr -d '\r' <console)" "^HEARD go" "$1: the guest heard what was typed"
	like "$(tr -d '\r' <console)" "^WROTE MORE 0" "$1: and wrote more"
	[ -s errors ] && sed 's/^/# /' errors
}
