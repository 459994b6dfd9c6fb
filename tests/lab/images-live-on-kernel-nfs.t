#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: images on the kernel's NFS 4.2, server and client, on XFS: made, converted both ways,
# snapshotted, checked, encrypted, compressed; locked against others, other clients and the
# server's own programs; and a server that is restarted, and a network that is cut, lose nothing.
# timeout: 1500
. "$BYRE_SRC/tests/tap.sh"
. "$BYRE_SRC/tests/lab/lab.sh"
. "$BYRE_SRC/tests/backends/images.sh"
own_machine --disk "$PWD/disk.img"
own_programs
cd /run || exit 1
must client_network client 1
must client_network other 2

mkdir -p /srv
must mkfs.xfs -q /dev/sda
must mount /dev/sda /srv
echo "/srv 10.1.0.0/16(rw,no_root_squash,fsid=0,no_subtree_check)" >/etc/exports
must modprobe nfsd
must mount -t nfsd nfsd /proc/fs/nfsd
# Clients reclaim their locks within this time when the server has started again.
echo 10 >/proc/fs/nfsd/nfsv4leasetime && echo 10 >/proc/fs/nfsd/nfsv4gracetime
server () { exportfs -a && rpc.nfsd -N 3 8; }
must server
must rpc.mountd -N 3
echo Y >/proc/fs/nfsd/v4_end_grace
# Two clients on one machine are one to the server, unless they say otherwise.
must modprobe nfs
mount_at () {
	must ip netns exec "$1" sh -c "echo $1 >/sys/fs/nfs/net/nfs_client/identifier"
	mkdir -p "/mnt/$1"
	must as "$1" mount -t nfs -o vers=4.2 "10.1.$2.1:/" "/mnt/$1"
}
mount_at client 1
mount_at other 2

url () { echo "/mnt/client/$2"; }
images_live_there nfs

ok "create" byre-img create -q -f qcow2 /mnt/client/locked.img 64M
second_writer_is_refused /mnt/client/locked.img /mnt/client/locked.img
second_writer_is_refused /mnt/client/locked.img /mnt/other/locked.img
second_writer_is_refused /mnt/client/locked.img /srv/locked.img
second_writer_is_refused /srv/locked.img /mnt/client/locked.img nameless

restart_server () { rpc.nfsd 0 && sleep 2 && server; }
undisturbed "a restart" /mnt/client/restart.img restart_server
undisturbed "a cut" /mnt/client/cut.img unplug client
done_testing
