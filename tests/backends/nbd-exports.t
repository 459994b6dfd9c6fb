#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: what NBD servers are like: several connections, unix sockets, exports that may only
# be read, that fail, that are slow, that stop, that forget what was not flushed and
# that say nothing at all.
# timeout: 400
. "$BYRE_SRC/tests/tap.sh"
. "$BYRE_SRC/tests/backends/servers.sh"
. "$BYRE_SRC/tests/backends/images.sh"
need nbd
have nbdkit || skip_all "nbdkit is not installed"
own_network "$@"

truncate -s 64M nbd.img
there=nbd://127.0.0.1
# kit ARGUMENT...: an nbdkit for nbd.img.
kit () {
	nbdkit -f -i 127.0.0.1 "$@" >kit.log 2>&1 &
	server=$!
	wait_for tcp_up 10809 || skip_all "nbdkit does not start here: $(tail -n 2 kit.log)"
}
connections () { ss -Htn state established dport = :10809 | grep -c .; }

LUN_SIZE=64M
serve nbd
ok "create -f raw on an export" byre-img create -q -f raw $there/disk 32M
not_ok "larger than the export" byre-img create -q -f raw $there/disk 65M
like "$(cat err)" "has 67108864 bytes" "larger than the export: said"
ok "a raw disk is converted to it" sh -c "yes | head -c 64M >yes.raw && byre-img convert -n -f raw -O raw yes.raw $there/disk"
ok "it is there" byre-img compare -q -f raw -F raw yes.raw $there/disk
not_ok "it cannot be grown" byre-img resize -q -f raw $there/disk 65M
like "$(cat err)" "Cannot grow the export: it has 67108864 bytes" "it cannot be grown: said"
not_ok "no such export" byre-img info $there/other
is "$(wc -l <err)" 1 "no such export: one line"
stop

shared () {
	qemu-nbd -t -f raw -x disk -b 127.0.0.1 --shared=16 nbd.img >nbd.log 2>&1 &
	server=$!
	wait_for tcp_up 10809
}
shared
opts=driver=raw,file.driver=nbd,file.host=127.0.0.1,file.export=disk,file.connections=4
(echo 'write -q -P 1 0 1M'; wait_for_go; echo 'read -q -P 1 0 1M') | byre-io --image-opts $opts >io.out 2>&1 &
client=$!
if have ss; then
	four () { [ "$(connections)" = 4 ]; }
	ok "connections=4" wait_for four
else
	skip "connections=4" "iproute2 has no ss"
fi
touch go
wait $client
is $?:"$(sed 's/byre-io> //g' io.out)" 0: "written over one and read over another"
not_ok "connections=17" byre-img info --image-opts ${opts%=4}=17
ok "random requests over four" "$model" --url $there/disk --url-opts connections=4 --no-peer --loops 3 \
	--tasks 8 --runs 2 --config raw=on,size=3M
port () { echo 10809; }
url () { echo $there/disk; }
restart_shared () { stop KILL; sleep 0.2; shared; }
load_options=,connections=4
under_load nbd "four connections, killed under load" restart_shared
load_options=
stop

qemu-nbd -t -f raw -x disk -k "$PWD/socket with a blank" nbd.img >nbd.log 2>&1 &
server=$!
wait_for test -S "socket with a blank"
ok "a unix socket, by options" byre-io -c 'write -q -P 9 0 4k' --image-opts \
	"driver=raw,file.driver=nbd,file.path=$PWD/socket with a blank,file.export=disk"
ok "by URI" byre-io -f raw -c 'read -q -P 9 0 4k' \
	"nbd+unix:///disk?socket=$(printf %s "$PWD/socket with a blank" | sed 's/ /%20/g')"
ok "by the older name" byre-io -f raw -c 'read -q -P 9 0 4k' "nbd:unix:$PWD/socket with a blank:exportname=disk"
stop

kit -r file nbd.img
ok "a read-only export can be read" byre-io -r -f raw -c 'read -q -P 9 0 4k' $there
not_ok "and not be written" byre-io -f raw -c 'write -q 0 4k' $there
like "$(cat err)" "$there: the export is read-only" "which is said"
stop

kit --filter=error file nbd.img error-pwrite=EIO error-pwrite-rate=1 error-pwrite-file="$PWD/fail"
ok "an image" byre-img create -q -f qcow2 $there 32M
rm -f io.out
(
	echo 'write -P 1 0 1M'
	echo 'flush'
	wait_for under_way 2
	touch fail
	echo 'write -P 2 1M 1M'
	wait_for under_way 3
	rm fail
	echo 'write -P 3 2M 1M'
	echo 'flush'
	echo 'read -P 1 0 1M'
	echo 'read -P 3 2M 1M'
) | byre-io -f qcow2 $there >io.out 2>io.err
is "$(cat io.out io.err | grep -c "Input/output error")" 1 "a write that fails: told once"
is "$(cat io.out | grep -c "^\(byre-io> \)*\(wrote\|read\)")" 4 "the others do not"
ok "and the image is sound" byre-img check -q $there
ok "with what was written" byre-io -r -f qcow2 -c 'read -q -P 1 0 1M' -c 'read -q -P 3 2M 1M' $there
stop

# An export of a file that ends where the last compressed cluster does.
seq 1 1000000 | head -c 1M >text.raw
ok "packed" byre-img convert -c -f raw -O qcow2 text.raw packed.qcow2
ok "to the byte" test $(($(stat -c %s packed.qcow2) % 512)) -ne 0
kit -r file packed.qcow2
ok "an image that ends within a sector" byre-img compare -q -f raw -F qcow2 text.raw $there
stop

# One that has no room for all of it twice.
kit memory 3456k
ok "an image for a small export" byre-img create -q -f qcow2 $there 3M
ok "what was given up is to be had again, without a flush" byre-io -d unmap -f qcow2 -c 'write -q -P 1 0 3M' \
	-c 'discard -q 0 3M' -c 'write -q -P 2 0 3M' -c 'discard -q 1M 1M' -c 'aio_write -q -P 3 1M 512k' \
	-c 'aio_write -q -P 4 1536k 512k' -c aio_flush $there
ok "and is what was written" byre-io -r -f qcow2 -c 'read -q -P 2 0 1M' -c 'read -q -P 3 1M 512k' \
	-c 'read -q -P 4 1536k 512k' -c 'read -q -P 2 2M 1M' $there
ok "and sound" byre-img check -q -f qcow2 $there
stop

kit --filter=delay file nbd.img rdelay=1 wdelay=1
began=$(date +%s%N)
for i in $(seq 0 15); do echo "aio_write -q -P $i $((20 + i))M 4k"; done >commands
echo aio_flush >>commands
ok "a slow server" sh -c "byre-io -f raw $there <commands"
took=$((($(date +%s%N) - began) / 1000000))
ok "is asked for many things at once ($took ms)" test $took -lt 9000
stop

# It refuses what it has not begun, which is no answer.
kit --filter=delay file nbd.img wdelay=1
for i in $(seq 0 99); do echo "aio_write -q -P $((i + 1)) $((i * 64))k 64k"; done >commands
echo aio_flush >>commands
rm -f io.out
byre-io -f raw $there <commands >io.out 2>io.err &
writer=$!
wait_for under_way 90
stop TERM
kit file nbd.img
if wait $writer; then pass "a server that is stopped in order: no error"; else fail "a server that is stopped in order: no error" "$(cat io.out io.err)"; fi
like "$(cat io.err)" "connected again" "a server that is stopped in order: it is told"
for i in $(seq 0 99); do echo "read -q -P $((i + 1)) $((i * 64))k 64k"; done >commands
byre-io -r -f raw $there <commands >io.out 2>&1
is $?:"$(sed 's/byre-io> //g' io.out)" 0: "a server that is stopped in order: all is there"
stop

# What was not flushed is gone with its program, as after a power cut.
forgetful () { kit --filter=cache file nbd.img cache=writeback; }
restart_forgetful () { stop KILL; sleep 0.2; forgetful; }
forgetful
rm -f io.out
(echo 'write -q -P 1 0 1M'; echo flush; echo 'write -q -P 2 0 64k'; wait_for_go; echo 'read -q -P 2 0 64k') |
	byre-io -f raw $there >io.out 2>io.err &
writer=$!
wait_for under_way 3
stop KILL
is "$(od -An -tx1 -N1 nbd.img)" " 01" "what was not flushed is forgotten"
forgetful
touch go
wait $writer
is $?:"$(sed 's/byre-io> //g' io.out)" 0: "and is written again"
url () { echo $there; }
under_load nbd "a forgetful server, killed under load" restart_forgetful
stop

# It takes the connection and never says a word.
have python3 || skip_all "python3 is not installed"
python3 -c 'import socket, time
s = socket.create_server(("127.0.0.1", 10809))
time.sleep(300)' &
server=$!
wait_for tcp_up 10809
began=$(date +%s)
not_ok "a server that says nothing" byre-img info $there
like "$(cat err)" "no answer for 10 seconds" "is given up, which is said"
ok "after a while" test $(($(date +%s) - began)) -lt 60
stop

done_testing
