#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: an image on a LUN that the kernel's LIO serves at two portals, one of them optimized
# (ALUA), under open-iscsi and dm-multipath: the same as on other storage; and a path that is
# cut under writes, either of them, is a pause and no error.
# timeout: 600
. "$BYRE_SRC/tests/tap.sh"
. "$BYRE_SRC/tests/lab/lab.sh"
. "$BYRE_SRC/tests/lab/multipath.sh"
. "$BYRE_SRC/tests/backends/images.sh"
own_machine --disk "$PWD/disk.img"
own_programs
cd /run || exit 1

# A portal is reached for as long as its address is ours.
path () { ip addr "$1" "10.1.$2.1/32" dev lo; }
must path add 1
must path add 2

# ---- the target -------------------------------------------------------------------------

name=iqn.2026-01.test:lio
disk=/sys/kernel/config/target/core/iblock_0/disk
set_to () { mkdir -p "$(dirname "$1")" && printf %s "$2" >"$1"; }
lio () {
	modprobe target_core_mod && modprobe target_core_iblock && modprobe iscsi_target_mod && mkdir -p $disk || return 1
	set_to $disk/control udev_path=/dev/sda && set_to $disk/enable 1 || return 1
	set_to $disk/wwn/vpd_unit_serial 01234567-89ab-cdef-0123-456789abcdef
	set_to $disk/attrib/emulate_tpu 1
	mkdir -p $disk/alua/first $disk/alua/second
	group first 1 0 && group second 2 1 && portal 1 first && portal 2 second
}
# group NAME ID STATE: 0 is active/optimized, 1 active/non-optimized; told by the target only.
group () {
	set_to $disk/alua/"$1"/tg_pt_gp_id "$2" && set_to $disk/alua/"$1"/alua_access_type 1 &&
		set_to $disk/alua/"$1"/alua_access_state "$3"
}
portal () {
	tpg=/sys/kernel/config/target/iscsi/$name/tpgt_$1
	mkdir -p "$tpg/lun/lun_0" "$tpg/np/10.1.$1.1:3260" && ln -s $disk "$tpg/lun/lun_0/disk" &&
		set_to "$tpg/lun/lun_0/alua_tg_pt_gp" "$2" && set_to "$tpg/attrib/authentication" 0 &&
		set_to "$tpg/attrib/generate_node_acls" 1 && set_to "$tpg/attrib/cache_dynamic_acls" 1 &&
		set_to "$tpg/attrib/demo_mode_write_protect" 0 && set_to "$tpg/enable" 1
}
must lio

# ---- the initiator ----------------------------------------------------------------------

must multipath_device $name 10.1.1.1:3260 10.1.2.1:3260
device=$(cat out)
paths=$(multipath -ll | tr '\n' ' ')
like "$paths" "prio=50.*active ready.*prio=10.*active ready" "two paths, one of them optimized"

url () { echo "$device"; }
images_live_there multipath
ok "create" byre-img create -q -f qcow2 "$device" 64M
second_writer_is_refused "$device" "$device"

seen () { multipath -ll | grep -c "$1" | grep -qx "$2"; }
# The path stays cut until it is seen to have failed, and some time longer.
cut_path () {
	cut_at=$(date +%s)
	path del "$1"
	ok "path $1 fails" within 60 seen 'failed faulty' 1
	echo "# path $1 is seen to have failed $(($(date +%s) - cut_at)) s after it was cut"
	sleep 3
	path add "$1"
}
load_cache=none
for n in 1 2; do
	undisturbed "path $n cut" "$device" cut_path $n
	echo "# path $n: the longest write took $(longest_write) s"
	ok "path $n comes back" within 60 seen 'active ready' 2
done
done_testing
