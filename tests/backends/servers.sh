# SPDX-License-Identifier: BSD-2-Clause
# shellcheck shell=sh
#
# Real servers for tests of network backends: each test has a network and a set of processes
# of its own, so that default ports are free, nothing is reachable from outside and nothing
# is left behind. Sourced after tap.sh; the first call is
#
#	own_network "$@"
#
# which runs the test again in namespaces of its own. Then
#
#	serve KIND	starts a server for the folder or file of that kind and waits for it
#	restart KIND	kills it as a power cut would, and starts it again after a while
#	url KIND NAME	prints the URL of an image there; port KIND: the server's
#
# with KIND nfs3, nfs4, iscsi, nbd or smb. Servers are ended by the pid that was kept, and by the
# end of the namespace at the latest.

own_network () {
	if [ -z "$BYRE_OWN_NETWORK" ]; then
		[ "$(id -u)" -eq 0 ] || skip_all "namespaces need root"
		unshare -m -n -p -f true 2>/dev/null || skip_all "there are no namespaces to be had"
		have ip || skip_all "iproute2 is not installed"
		BYRE_OWN_NETWORK=yes exec unshare -m -n -p -f --kill-child sh "$0" "$@"
	fi
	mount -t proc proc /proc && mount -t tmpfs tmpfs /run && ip link set lo up ||
		skip_all "the namespaces cannot be furnished"
	leave_tmpfs || skip_all "there is no folder to be had that is on a disk"
}

# Ganesha 6 does not export a tmpfs, which /tmp is on some machines: then the test's folder,
# empty as yet, is one of the build's.
leave_tmpfs () {
	[ -n "$BYRE_LOG" ] && [ "$(stat -f -c %T .)" = tmpfs ] || return 0
	behind=$(mktemp -d "$BYRE_LOG/behind.XXXXXX") || return 1
	trap 'rm -rf "$behind"' EXIT
	mount --bind "$behind" "$PWD" && cd "$PWD"
}

tcp_up () { bash -c "exec 3<>/dev/tcp/127.0.0.1/$1"; }

# What each kind needs. Prints what is missing.
missing_for () {
	case $1 in
	nfs3 | nfs4)
		have ganesha.nfsd rpcbind || echo "nfs-ganesha is not installed"
		have_fsal || echo "nfs-ganesha-vfs is not installed"
		;;
	iscsi) have tgtd tgtadm || echo "tgt is not installed" ;;
	nbd)
		have qemu-nbd || echo "qemu-nbd is not installed"
		byre-img info nbd:nowhere:1 2>&1 | grep -q "Unknown protocol" && echo "built without libnbd"
		;;
	smb)
		if byre-img info smb: 2>&1 | grep -q "Unknown protocol"; then
			echo "built without libsmb2"
		else
			have smbd smbpasswd || echo "samba is not installed"
		fi
		;;
	esac
}
have_fsal () { ls /usr/lib/*/ganesha/libfsalvfs.so >/dev/null 2>&1; }
need () {
	need_what=$(missing_for "$1")
	[ -z "$need_what" ] || skip_all "$need_what"
}

# Without the last parameter Ganesha 6 wants a capability that containers do not have.
start_nfs () {
	mkdir -p export /run/rpcbind /run/ganesha
	[ -n "$rpcbind_runs" ] || rpcbind -w 2>/dev/null
	rpcbind_runs=yes
	cat >ganesha.conf <<END
NFS_CORE_PARAM { NFS_Port=2049; MNT_Port=20048; NLM_Port=20047; Rquota_Port=20046; Protocols=3,4; Enable_NLM=true; Enable_UDP=false; mount_path_pseudo=true; allow_set_io_flusher_fail=true; }
NFSV4 { Only_Numeric_Owners=true; Grace_Period=5; Lease_Lifetime=6; Graceless=true; }
EXPORT { Export_Id=1; Path=$PWD/export; Pseudo=/exp; Protocols=3,4; Transports=TCP; SecType=none,sys; Squash=None; Access_Type=RW; PrivilegedPort=false; FSAL { Name=VFS; } }
$more_exports
END
	ganesha.nfsd -F -f ganesha.conf -L ganesha.log -p ganesha.pid >/dev/null 2>&1 &
	server=$!
	wait_for tcp_up 2049 && ! grep -q "No export entries" ganesha.log
}

target () { tgtadm -C 7 --lld iscsi "$@"; }
start_iscsi () {
	mkdir -p /run/tgtd /var/run/tgtd
	[ -e lun.img ] || truncate -s "${LUN_SIZE:-256M}" lun.img
	tgtd -f -C 7 --iscsi portal=127.0.0.1:3260 >tgtd.log 2>&1 &
	server=$!
	wait_for target --op show --mode sys || return 1
	target --op new --mode target --tid 1 -T iqn.2026-01.test:t1
	target --op new --mode logicalunit --tid 1 --lun 1 -b "$PWD/lun.img"
	target --op update --mode logicalunit --tid 1 --lun 1 --params thin_provisioning=1,scsi_sn=TEST0001
	target --op bind --mode target --tid 1 -I ALL
}

start_nbd () {
	[ -e nbd.img ] || truncate -s "${LUN_SIZE:-256M}" nbd.img
	qemu-nbd -t -f raw -e 16 -x disk -b 127.0.0.1 --discard=unmap nbd.img >nbd.log 2>&1 &
	server=$!
	wait_for tcp_up 10809
}

# libsmb2 finds the password in the file that NTLM_USER_FILE names. smbd has a process for
# each connection, all in a group of their own.
start_smb () {
	mkdir -p share samba
	cat >smb.conf <<END
[global]
	server role = standalone server
	smb ports = 1445
	interfaces = lo
	bind interfaces only = yes
	disable netbios = yes
	disable spoolss = yes
	load printers = no
	lock directory = $PWD/samba
	state directory = $PWD/samba
	cache directory = $PWD/samba
	private dir = $PWD/samba
	pid directory = $PWD/samba
	ncalrpc dir = $PWD/samba/ncalrpc
	passdb backend = tdbsam:$PWD/samba/passdb.tdb
	log file = $PWD/smbd.log
	$SMB_SETTINGS
[vm]
	path = $PWD/share
	read only = no
END
	printf 'secret\nsecret\n' | smbpasswd -c smb.conf -L -s -a root >/dev/null 2>&1 || return 1
	echo WORKGROUP:root:secret >users
	NTLM_USER_FILE=$PWD/users
	export NTLM_USER_FILE
	smbd -F -s smb.conf >/dev/null 2>&1 &
	server=$! group=-$!
	wait_for tcp_up 1445
}

serve () {
	group=
	case $1 in
	nfs3 | nfs4) start_nfs ;;
	iscsi) start_iscsi ;;
	nbd) start_nbd ;;
	smb) start_smb ;;
	esac || {
		[ "$tap_n" -eq 0 ] || { echo "Bail out! the server for $1 does not start"; exit 1; }
		skip_all "the server for $1 does not start here: $(tail -n 2 ./*.log 2>/dev/null)"
	}
}
stop () { kill -s "${1:-TERM}" -- "${group:-$server}" && wait $server 2>/dev/null; }
restart () {
	stop KILL
	sleep "${2:-1}"
	serve "$1"
}
url () {
	case $1 in
	nfs3) echo "nfs://127.0.0.1/exp/$2" ;;
	nfs4) echo "nfs://127.0.0.1/exp/$2?version=4" ;;
	iscsi) echo "iscsi://127.0.0.1/iqn.2026-01.test:t1/1" ;;
	nbd) echo "nbd://127.0.0.1/disk" ;;
	smb) echo "smb://root@127.0.0.1:1445/vm/$2" ;;
	esac
}
port () {
	case $1 in
	nfs3 | nfs4) echo 2049 ;;
	iscsi) echo 3260 ;;
	nbd) echo 10809 ;;
	smb) echo 1445 ;;
	esac
}
