#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: images on the kernel's SMB 3.1.1 client and Samba: made, converted both ways,
# snapshotted, checked, encrypted, compressed; locked against others, of this client and another; and a server that
# is killed, and a network that is cut, lose nothing that was acknowledged.
# timeout: 1500
. "$BYRE_SRC/tests/tap.sh"
. "$BYRE_SRC/tests/lab/lab.sh"
. "$BYRE_SRC/tests/backends/images.sh"
own_machine --disk "$PWD/disk.img"
own_programs
cd /run || exit 1
must client_network client 1
must client_network other 2

mkdir -p /srv samba
must mkfs.xfs -q /dev/sda
must mount /dev/sda /srv
cat >smb.conf <<'END'
[global]
	interfaces = 10.1.1.1/24 10.1.2.1/24
	bind interfaces only = yes
	server min protocol = SMB3_11
	disable netbios = yes
	load printers = no
	passdb backend = tdbsam:/run/samba/passdb.tdb
	lock directory = /run/samba
	state directory = /run/samba
	cache directory = /run/samba
	pid directory = /run/samba
	private dir = /run/samba
	ncalrpc dir = /run/samba
	log file = /run/samba/log
[srv]
	path = /srv
	read only = no
	strict sync = yes
END
printf 'secret\nsecret\n' | smbpasswd -c smb.conf -L -s -a root >/dev/null
server () { smbd -D -s smb.conf; }
must server
must wait_for bash -c "exec 3<>/dev/tcp/10.1.1.1/445"
modprobe cifs
mount_at () {
	mkdir -p "/mnt/$1"
	must as "$1" mount.cifs "//10.1.$2.1/srv" "/mnt/$1" -o vers=3.1.1,username=root,password=secret,hard
}
mount_at client 1
mount_at other 2

url () { echo "/mnt/client/$2"; }
images_live_there cifs

ok "create" byre-img create -q -f qcow2 /mnt/client/locked.img 64M
second_writer_is_refused /mnt/client/locked.img /mnt/client/locked.img
second_writer_is_refused /mnt/client/locked.img /mnt/other/locked.img
second_writer_is_refused /mnt/other/locked.img /mnt/client/locked.img

# The client's calls fail while its server cannot be reached for long (EAGAIN, EHOSTDOWN).
# smbd is many processes, in one group.
restart_server () {
	kill -s KILL -- "-$(cat samba/smbd.pid)" && sleep 2 && server
}
nothing_acknowledged_is_lost "a server killed" /mnt/client/killed.img restart_server
nothing_acknowledged_is_lost "a cut" /mnt/client/cut.img unplug client
done_testing
