#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: one disk over two portals of a real iSCSI target: images as on one, a path that is cut
# under a random load is not noticed and nothing is lost, other disks are refused, and the
# same over NFS and NBD.
# timeout: 400
. "$BYRE_SRC/tests/tap.sh"
. "$BYRE_SRC/tests/backends/servers.sh"
. "$BYRE_SRC/tests/backends/images.sh"
need iscsi
own_network "$@"
have iptables || skip_all "iptables is not installed"

# Portals are told apart by address: each is a path that can be cut for itself.
second_portal () { target --op new --mode portal --param portal=127.0.0.2:3260; }
cut () { iptables -A INPUT -p tcp -d "$1" -j DROP && iptables -A OUTPUT -p tcp -d "$1" -j DROP; }
heal () { iptables -D INPUT -p tcp -d "$1" -j DROP && iptables -D OUTPUT -p tcp -d "$1" -j DROP; }

serve iscsi
second_portal
both=iscsi://127.0.0.1,127.0.0.2/iqn.2026-01.test:t1/1

# ---- images, as over one path -------------------------------------------------------------

url () { echo "$both"; }
peer_reads () { return 1; }
images_live_there iscsi

connections_break
byre-img info "iscsi://127.0.0.9:1,127.0.0.2/iqn.2026-01.test:t1/1" >out 2>err
is $? 0 "a path that is down at the start is no error"
like "$(cat err)" "path 0: .*127.0.0.9" "but is told"
not_ok "both down are one" byre-img info "iscsi://127.0.0.9:1,127.0.0.8:1/iqn.2026-01.test:t1/1"
is "$(wc -l <err)" 1 "in one line"
not_ok "an empty portal is a mistake" byre-img info "iscsi://127.0.0.1,/iqn.2026-01.test:t1/1"

target --op new --mode logicalunit --tid 1 --lun 2 -b "$PWD/lun.img"
target --op update --mode logicalunit --tid 1 --lun 2 --params scsi_sn=OTHER002
not_ok "another disk is refused" byre-img info --image-opts \
	driver=multipath,path.0=iscsi://127.0.0.1/iqn.2026-01.test:t1/1,path.1=iscsi://127.0.0.2/iqn.2026-01.test:t1/2
like "$(cat err)" "is another disk: " "and named"

# ---- a path is cut under load -------------------------------------------------------------

# load SECONDS FILE: random writes with flushes and reads of what was written, by the model.
ok "create" byre-img create -q -f qcow2 "$both" 128M
cat >load.py <<'PY'
import random, sys
random.seed(int(sys.argv[1]))
model = {}
for i in range(int(sys.argv[2])):
    block = random.randrange(2000)
    kind = random.random()
    if kind < .6:
        model[block] = random.randrange(1, 256)
        print("write -q -P %d %d 64k" % (model[block], block * 65536))
    elif kind < .9 and block in model:
        print("read -q -P %d %d 64k" % (model[block], block * 65536))
    else:
        print("flush")
    if i % 50 == 0:
        print("sleep 100")
with open("verify", "w") as out:
    for block in model:
        out.write("read -q -P %d %d 64k\n" % (model[block], block * 65536))
PY
# survives NAME: a load runs through; afterwards everything is there, by one path.
survives () {
	byre-io --image-opts "$image" <commands >io.out 2>io.err &
	io=$!
	"$2"
	if wait $io; then pass "$1: no error is seen"; else fail "$1: no error is seen" "$(cat io.err)"; fi
	is "$(sed 's/byre-io> //g' io.out | grep -c .)" 0 "$1: every byte is read again"
	sed -n 's/.*\(goes on through path [0-9]\).* after \(.*\)$/# \1 after \2/p' io.err
	byre-io -r -f qcow2 iscsi://127.0.0.1/iqn.2026-01.test:t1/1 <verify >io.out 2>io.err
	is "$?:$(sed 's/byre-io> //g' io.out | grep -c .)" 0:0 "$1: and is there afterwards"
	ok "$1: sound" byre-img check -q iscsi://127.0.0.1/iqn.2026-01.test:t1/1
}
image=driver=qcow2,file.driver=multipath,file.check-interval=1
image=$image,file.path.0.filename=iscsi://127.0.0.1/iqn.2026-01.test:t1/1,file.path.0.driver=iscsi,file.path.0.timeout=2
image=$image,file.path.1.filename=iscsi://127.0.0.2/iqn.2026-01.test:t1/1,file.path.1.driver=iscsi,file.path.1.timeout=2

cuts_one () {
	sleep 0.5
	cut 127.0.0.2
	sleep 5
	heal 127.0.0.2
}
python3 load.py 1 1500 >commands
survives "one is cut" cuts_one

cuts_both () {
	sleep 0.5
	cut 127.0.0.2
	cut 127.0.0.1
	sleep 5
	heal 127.0.0.1
	sleep 3
	heal 127.0.0.2
}
python3 load.py 2 1500 >commands
survives "both are cut" cuts_both

dies () {
	sleep 0.5
	restart iscsi 1
	second_portal
}
python3 load.py 3 1500 >commands
survives "the target is killed" dies

# ---- other kinds --------------------------------------------------------------------------

nbd_pair () {
	truncate -s 64M disk2.img
	for port in 10901 10902; do
		qemu-nbd -t -f raw -e 16 -x disk -b 127.0.0.1 -p $port --cache=none disk2.img >nbd-$port.log 2>&1 &
		eval "nbd_$port=$!"
		wait_for tcp_up $port
	done
	pair=driver=multipath,path.0=nbd://127.0.0.1:10901/disk,path.1=nbd://127.0.0.1:10902/disk
	not_ok "nothing proves that NBD exports are one" byre-img info --image-opts "$pair"
	like "$(cat err)" "nothing proves which disk it is" "and that is said"
	{
		for i in $(seq 0 59); do echo "write -q -P $((i + 1)) ${i}M 1M"; [ $((i % 10)) != 0 ] || echo "sleep 100"; done
		for i in $(seq 0 59); do echo "read -q -P $((i + 1)) ${i}M 1M"; done
	} >commands
	byre-io --image-opts "$pair,assume-same=on,doubt=1" <commands >io.out 2>io.err &
	io=$!
	sleep 0.3
	kill -KILL $nbd_10902
	if wait $io; then pass "NBD: no error is seen"; else fail "NBD: no error is seen" "$(cat io.err)"; fi
	is "$(sed 's/byre-io> //g' io.out | grep -c .)" 0 "NBD: every byte"
	kill $nbd_10901
}
if [ -z "$(missing_for nbd)" ]; then nbd_pair; else skip "multipath over NBD" "$(missing_for nbd)"; fi

nfs_pair () {
	start_nfs
	ok "NFS: create" byre-img create -q -f qcow2 "nfs://127.0.0.1/exp/m.img" 128M
	image=driver=qcow2,file.driver=multipath,file.check-interval=1,file.doubt=1
	for i in 0 1; do
		image="$image,file.path.$i.driver=nfs,file.path.$i.timeout=2"
		image="$image,file.path.$i.filename=nfs://127.0.0.$((i + 1))/exp/m.img"
	done
	python3 load.py 5 800 >commands
	byre-io --image-opts "$image" <commands >io.out 2>io.err &
	io=$!
	sleep 0.5
	cut 127.0.0.2
	if wait $io; then pass "NFS: no error is seen"; else fail "NFS: no error is seen" "$(cat io.err)"; fi
	is "$(sed 's/byre-io> //g' io.out | grep -c .)" 0 "NFS: every byte is read again"
	heal 127.0.0.2
	byre-io -r --image-opts "$image" <verify >io.out 2>io.err
	is "$?:$(sed 's/byre-io> //g' io.out | grep -c .)" 0:0 "NFS: and is there afterwards"
}
if [ -z "$(missing_for nfs3)" ]; then nfs_pair; else skip "multipath over NFS" "$(missing_for nfs3)"; fi
done_testing
