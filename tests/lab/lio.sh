# SPDX-License-Identifier: BSD-2-Clause
# shellcheck shell=sh
#
# The kernel's own target, LIO, with a LUN at two portals of this machine. Sourced after lab.sh.
#
#	lio			serves /dev/sda as LUN 0 of $name at 10.1.1.1 (active/optimized) and at
#				10.1.2.1 (active/non-optimized); its object is the folder $disk
#	path add|del N		portal 10.1.N.1 can be reached, or cannot
#	set_to FILE TEXT	an attribute, below $disk for one

# A portal is reached for as long as its address is ours.
path () { ip addr "$1" "10.1.$2.1/32" dev lo; }
name=iqn.2026-01.test:lio
disk=/sys/kernel/config/target/core/iblock_0/disk
set_to () { mkdir -p "$(dirname "$1")" && printf %s "$2" >"$1"; }
lio () {
	path add 1 && path add 2 || return 1
	mkdir -p /var/target/pr # where it keeps reservations through a loss of power
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
