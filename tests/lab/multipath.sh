# SPDX-License-Identifier: BSD-2-Clause
# shellcheck shell=sh
#
# A LUN by several paths in a guest: open-iscsi and dm-multipath. Sourced after lab.sh.
#
#	multipath_device TARGET PORTAL...	logs in at each and prints the device's name
#
# A dead path is found after noop_out_interval + noop_out_timeout seconds, and its requests go
# on by another replacement_timeout later.

multipath_device () {
	mp_target=$1
	shift
	/lib/systemd/systemd-udevd --daemon && modprobe iscsi_tcp && modprobe dm_multipath && modprobe scsi_dh_alua || return 1
	mkdir -p /etc/iscsi /run/lock/iscsi
	rm -rf /etc/iscsi/nodes
	echo "InitiatorName=iqn.2026-01.test:$(hostname)" >/etc/iscsi/initiatorname.iscsi
	cat >/etc/multipath.conf <<'END'
defaults {
	find_multipaths no
	polling_interval 1
	path_grouping_policy group_by_prio
	prio alua
	path_checker tur
	failback immediate
	no_path_retry 60
	user_friendly_names no
}
blacklist {
	protocol scsi:unspec
}
END
	iscsid && multipathd || return 1
	for mp_portal; do login "$mp_target" "$mp_portal" || return 1; done
	within 60 sh -c "[ \"\$(multipath -ll | grep -c 'active ready')\" = $# ]" || return 1
	within 60 sh -c 'ls /dev/mapper/3*' || return 1 # udev's, which may come after
	ls /dev/mapper/3*
}
login () {
	iscsiadm -m node -T "$1" -p "$2" -o new || return 1
	for setting in node.conn[0].timeo.noop_out_interval=1 node.conn[0].timeo.noop_out_timeout=2 \
		node.session.timeo.replacement_timeout=3; do
		iscsiadm -m node -T "$1" -p "$2" -o update -n "${setting%=*}" -v "${setting#*=}" || return 1
	done
	iscsiadm -m node -T "$1" -p "$2" --login
} >&2
