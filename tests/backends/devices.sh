# SPDX-License-Identifier: BSD-2-Clause
# shellcheck shell=sh
#
# Block devices and file systems of a test's own, by loop devices. Sourced after tap.sh; the
# first call is
#
#	own_mounts "$@"
#
# which runs the test again in a mount namespace of its own, or skips it where there are no
# loop devices to be had. Then
#
#	attach FILE [OPTION...]	binds a loop device to FILE with these options of losetup; its
#				path is in $device. It is released when the test ends, however
#				it ends. At most five in a test.
#	release			gives all of them back now
#	mount_new KIND DIR [OPTION...]	makes a file system (options of its mkfs) and mounts it

own_mounts () {
	if [ -z "$BYRE_OWN_MOUNTS" ]; then
		[ "$(id -u)" -eq 0 ] || skip_all "loop devices and mounts need root"
		have losetup || skip_all "losetup is not installed"
		unshare -m true 2>/dev/null || skip_all "there are no namespaces to be had"
		BYRE_OWN_MOUNTS=yes exec unshare -m sh "$0" "$@"
	fi
	truncate -s 1M try.img
	attach try.img
	[ -n "$device" ] || skip_all "there are no loop devices to be had"
	release
	rm try.img
}

# The loop device lives as long as somebody has it open: this shell does.
held=4
attach () {
	device=$(losetup -f --show "$@" 2>attach.err) || device=
	[ -n "$device" ] || return 1
	held=$((held + 1))
	case " $* " in
	*" -r "*) eval "exec $held<$device" ;;
	*) eval "exec $held<>$device" ;;
	esac
	losetup -d "$device"
	# A number is used again while who had it last may not be quite gone.
	[ "$1" = try.img ] || wait_for byre-img lock --test -q "$device"
}
release () {
	while [ $held -gt 4 ]; do
		eval "exec $held>&-"
		held=$((held - 1))
	done
}

mount_new () {
	mount_kind=$1 mount_dir=$2
	shift 2
	mkdir -p "$mount_dir"
	if [ "$mount_kind" = tmpfs ]; then
		mount -t tmpfs tmpfs "$mount_dir"
		return
	fi
	truncate -s 512M "$mount_dir.img"
	"mkfs.$mount_kind" -q "$@" "$mount_dir.img" >mkfs.err 2>&1 &&
		mount -t "$mount_kind" -o loop "$mount_dir.img" "$mount_dir" 2>>mkfs.err
}
