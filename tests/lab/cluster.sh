# SPDX-License-Identifier: BSD-2-Clause
# shellcheck shell=sh
#
# A node of a cluster of two, n1 and n2, at 10.9.0.1 and 10.9.0.2. In the guest:
#
#	join		corosync and DLM
#	format DEVICE	GFS2 for two
#	attach DEVICE	mounts it at /gfs
#
# Nobody is fenced: here a node that is silent is dead, since the test has killed it.

join () {
	mkdir -p /etc/corosync /etc/dlm /run/corosync /var/lib/corosync /var/log/cluster
	cat >/etc/corosync/corosync.conf <<-'END'
	totem {
		version: 2
		cluster_name: lab
		transport: knet
		crypto_cipher: none
		crypto_hash: none
		token: 10000
	}
	nodelist {
		node {
			ring0_addr: 10.9.0.1
			name: n1
			nodeid: 1
		}
		node {
			ring0_addr: 10.9.0.2
			name: n2
			nodeid: 2
		}
	}
	quorum {
		provider: corosync_votequorum
		two_node: 1
		wait_for_all: 0
	}
	logging {
		to_stderr: no
		to_syslog: no
		to_logfile: yes
		logfile: /run/corosync.log
	}
	END
	printf 'enable_fencing=0\nenable_quorum_lockspace=0\n' >/etc/dlm/dlm.conf
	modprobe dlm && modprobe gfs2 || return 1
	mkdir -p /dev/misc
	for device in dlm-control dlm-monitor dlm_plock; do ln -sf ../$device /dev/misc/$device; done
	corosync && within 60 both_are_members && dlm_controld && within 60 dlm_tool status
}
# Else each may be a cluster of its own for a while, in which it mounts what the other has.
both_are_members () { corosync-quorumtool -s | grep -q '^Nodes: *2'; }
format () { mkfs.gfs2 -O -q -p lock_dlm -t lab:gfs -j 2 -J 8 "$1"; }
attach () { mkdir -p /gfs && mount -t gfs2 -o noatime "$1" /gfs; }
