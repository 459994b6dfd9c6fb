#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: an image on a LUN that the kernel's LIO serves at two portals, one of them optimized
# (ALUA), under open-iscsi and dm-multipath: the same as on other storage; and a path that is
# cut under writes, either of them, is a pause and no error.
# timeout: 1500
. "$BYRE_SRC/tests/tap.sh"
. "$BYRE_SRC/tests/lab/lab.sh"
. "$BYRE_SRC/tests/lab/lio.sh"
. "$BYRE_SRC/tests/lab/multipath.sh"
. "$BYRE_SRC/tests/backends/images.sh"
own_machine --disk "$PWD/disk.img"
own_programs
cd /run || exit 1

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

# ---- reservations of the device, and of the LUN by paths of our own --------------------------

lun=iscsi://10.1.1.1/$name/0
reserved=driver=qcow2,file.reservation=on,file.cache.direct=on
here=$reserved,file.driver=host_device,file.filename=$device
there=driver=qcow2,file.reservation=on,file.filename=$lun
# hold_reserved IMAGE: as hold, by options.
hold_reserved () {
	rm -f held.in && mkfifo held.in
	byre-io --image-opts "$1" <held.in >held.out 2>held.err &
	holder=$!
	exec 9>held.in
	echo "write -P 9 0 64k" >&9
	wait_for grep -q wrote held.out
}
ok "create" byre-img create -q -f qcow2 "$device" 64M
ok "the device is reserved, by both its paths" hold_reserved "$here"
is "$(byre-img lock "$lun" | grep -c "reservation.*pid $holder")" 1 "the LUN says for whom"
not_ok "another initiator is refused" byre-io -c 'write -q 0 512' --image-opts "$there"
like "$(cat err)" "the LUN is reserved by .*, pid $holder\$" "with the holder's name"
not_ok "and cannot write unasked" byre-io -f qcow2 -c 'write -q 0 512' "$lun"
not_ok "another program of this host is refused" byre-io -c 'write -q 0 512' --image-opts "$here,file.locking=off"
like "$(cat err)" "reserved by .*, pid $holder\$" "with the holder's name, too"
echo flush >&9
ok "the holder noticed nothing" release
is "$(byre-img lock "$lun")" "$lun: nobody holds a lock" "and left nothing behind"

ok "reserved again" hold_reserved "$here"
key=$(byre-img lock --output json "$lun" | sed -n 's/.*"holder": "\(.*\)".*/\1/p')
ok "broken from elsewhere" byre-img lock --break "$key" "$lun"
echo "write -P 7 1M 64k" >&9
echo flush >&9
release
like "$(cat held.out held.err)" "Invalid exchange" "who lost it is told"
ok "and another has it" byre-io -c 'write -q -P 5 0 64k' --image-opts "$there"

ok "reserved once more" hold_reserved "$here"
key=$(byre-img lock --output json "$device" | sed -n 's/.*"holder": "\(0x.*\)".*/\1/p')
ok "broken from the same host" byre-img lock --break "$key" "$device"
echo "write -P 7 1M 64k" >&9
echo flush >&9
release
like "$(cat held.out held.err)" "Invalid exchange" "who lost it is told"
is "$(byre-img lock "$lun")" "$lun: nobody holds a lock" "nobody has it"

# ---- our own initiator: what the target says of its ports is heeded ----------------------------

both=driver=qcow2,file.driver=multipath,file.check-interval=1
for n in 1 2; do
	both=$both,file.path.$((n - 1)).driver=iscsi,file.path.$((n - 1)).timeout=2
	both=$both,file.path.$((n - 1)).filename=iscsi://10.1.$n.1/$name/0
done
priorities () { byre-img info --output json --image-opts "$both" | sed -n 's/.*"priority": \([0-9]*\).*/\1/p' | tr '\n' ' '; }
is "$(priorities)" "50 10 " "optimized, and not"
set_to $disk/alua/second/alua_access_state 0
set_to $disk/alua/second/preferred 1
is "$(priorities)" "50 80 " "preferred"
set_to $disk/alua/first/alua_access_state 2
is "$(byre-img info --output json --image-opts "$both" | grep -c '"state": "up"')" 1 "on standby a port is not used"
set_to $disk/alua/first/alua_access_state 0
set_to $disk/alua/second/preferred 0
set_to $disk/alua/second/alua_access_state 1

ok "create" byre-img create -q -f qcow2 "$lun" 64M
{
	for i in $(seq 1 60); do echo "write -q -P $i $((i * 512))k 512k"; [ $((i % 10)) != 0 ] || printf 'flush\nsleep 200\n'; done
	for i in $(seq 1 60); do echo "read -q -P $i $((i * 512))k 512k"; done
} >load.in
byre-io --image-opts "$both" <load.in >load.out 2>load.err &
load=$!
sleep 0.5
path del 1
sleep 5
path add 1
if wait $load; then pass "the optimized path is cut: no error is seen"; else fail "the optimized path is cut: no error is seen" "$(cat load.err)"; fi
is "$(sed 's/byre-io> //g' load.out | grep -c .)" 0 "every byte is read again"
sed -n 's/.*\(goes on through path [0-9]\).* after \(.*\)$/# \1 after \2/p' load.err
ok "sound" byre-img check -q "$lun"
done_testing
