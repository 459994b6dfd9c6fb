#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: a guest of byre has a network, by a tap, in user mode and by a socket, over which every byte arrives;
# random numbers; a console; and a balloon by which the host gets memory back.
# timeout: 900
. "$BYRE_SRC/tests/tap.sh"
. "$BYRE_SRC/tests/lab/lab.sh"
[ -x "$BYRE_BUILD/byre" ] || skip_all "byre is built for x86-64 only"
own_machine --kvm --memory 1400
mkdir -p /run/vm && cd /run/vm || exit 1
cp "$BYRE_BUILD/byre" "$BYRE_BUILD/lab/vmlinux" . && PATH=/run/vm:$PATH
modprobe tun || bail "modprobe tun" "this kernel has none"
ip link set lo up

# ---- an initramfs: the modules in their order, and what is to be done -----------------------

mkdir -p root/bin root/dev root/proc root/sys root/tmp root/mod
cp "$(command -v busybox)" root/bin/
n=10
for module in virtio_pci virtio_blk virtio_net virtio_rng virtio_console virtio_balloon; do
	for ko in $(modprobe --show-depends $module | sed -n 's/^insmod \([^ ]*\).*/\1/p'); do
		base=$(basename "$ko")
		ls root/mod/*-"$base" >/dev/null 2>&1 || cp "$ko" "root/mod/$n-$base"
		n=$((n + 1))
	done
done
cat >root/dhcp <<'END'
#!/bin/busybox sh
[ "$1" = bound ] && /bin/busybox ip addr add "$ip/24" dev "$interface" && /bin/busybox ip route add default via "$router"
exit 0
END
cat >root/init <<'END'
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
for ko in /mod/*; do case $ko in *balloon*) ;; *) insmod "$ko" ;; esac; done
for i in $(seq 100); do [ -b /dev/vda ] && break; sleep 0.1; done
ip link set lo up
ip link set eth0 up 2>/dev/null
echo "BEGIN"
cat /dev/vda >/tmp/job
. /tmp/job
echo "END"
poweroff -f
END
chmod +x root/init root/dhcp
(cd root && find . | cpio -o -H newc 2>/dev/null) >initramfs

# start NAME OPTION...: a guest that does what is in the file `job`. runner is its process.
start () {
	start_name=$1
	shift
	cp job disk
	head -c $((512 - $(wc -c <job) % 512)) /dev/zero | tr '\000' '\n' >>disk
	timeout 200 byre run --kernel vmlinux --initrd initramfs --append "console=ttyS0 quiet panic=-1" -m 256M \
		"$@" --disk file=disk,format=raw,readonly </dev/null >console 2>errors &
	runner=$!
}
# ended: it has come to its end, and well; what it said is in `said`.
ended () {
	wait $runner
	ended_status=$?
	tr -d '\r' <console | sed -n '/^BEGIN/,/^END/p' >said
	is $ended_status 0 "$start_name: ended well"
	like "$(cat said)" "^END" "$start_name: the guest got to its end" || { tail -n 30 console; cat errors; } | sed 's/^/# /'
}
says () { tr -d '\r' <console | grep -q "$1"; }
sum_of () { md5sum "$1" | cut -d' ' -f1; }
head -c 16M /dev/urandom >sent

# ---- a tap ----------------------------------------------------------------------------------

# 16 MiB both ways by TCP, with segments and checksums left to the other side.
cat >tap_job <<'END'
ip addr add 10.9.0.2/24 dev eth0
cat /sys/class/net/eth0/address
echo "queues $(ls -d /sys/class/net/eth0/queues/rx-* | wc -l)"
ping -c 3 -W 5 10.9.0.1 >/tmp/ping && echo "ping well"
nc -w 30 10.9.0.1 7000 >/tmp/got </dev/null
echo "got $(md5sum </tmp/got)"
nc -w 30 10.9.0.1 7001 </tmp/got
echo "gave $?"
END
# tap NAME QUEUES OPTION...
tap () {
	tap_name=$1 tap_queues=$2
	shift 2
	cp tap_job job
	timeout 200 busybox nc -l -p 7000 <sent >/dev/null &
	giver=$!
	timeout 200 busybox nc -l -p 7001 </dev/null >received &
	taker=$!
	start "$tap_name" --net "tap,ifname=tap$tap_queues,mac=52:54:00:00:00:17,queues=$tap_queues" "$@"
	ended
	kill $giver $taker 2>/dev/null
	wait $giver $taker 2>/dev/null
	like "$(cat said)" "^52:54:00:00:00:17" "$tap_name: it has its address"
	like "$(cat said)" "^ping well" "$tap_name: the host answers"
	like "$(cat said)" "^got $(sum_of sent)" "$tap_name: every byte comes"
	is "$(sum_of received)" "$(sum_of sent)" "$tap_name: and goes"
}
ok "a tap" ip tuntap add dev tap1 mode tap vnet_hdr
ok "with an address" ip addr add 10.9.0.1/24 dev tap1
ok "up" ip link set tap1 up
tap tap 1
ip link del tap1
ok "a tap with queues" ip tuntap add dev tap2 mode tap vnet_hdr multi_queue
ip addr add 10.9.0.1/24 dev tap2 && ip link set tap2 up
tap "two queues" 2 --cpus 2
like "$(cat said)" "^queues 2" "two queues: the guest has them"
ip link del tap2

# ---- user mode ------------------------------------------------------------------------------

mkdir -p www && cp sent www/sent
timeout 300 busybox httpd -f -p 127.0.0.1:7002 -h www &
server=$!
cat >job <<'END'
udhcpc -i eth0 -n -q -s /dhcp >/dev/null 2>&1
echo "address $(ip -4 -o addr show dev eth0 | sed 's/.*inet \([0-9.]*\).*/\1/')"
wget -q -O /tmp/got http://10.0.2.2:7002/sent
echo "got $(md5sum </tmp/got)"
echo LISTENING
nc -l -p 80 </tmp/got >/dev/null
echo "gave $?"
END
listens () { says LISTENING; }
start "user mode" --net user,hostfwd=tcp:127.0.0.1:7003-:80,hostfwd=tcp:127.0.0.1:7004-:81
within 150 listens && sleep 2
timeout 60 busybox nc 127.0.0.1 7003 </dev/null >received
ended
kill $server
wait $server 2>/dev/null
like "$(cat said)" "^address 10.0.2.15" "user mode: an address by DHCP"
like "$(cat said)" "^got $(sum_of sent)" "user mode: every byte comes"
is "$(sum_of received)" "$(sum_of sent)" "user mode: and goes, to who connects from outside"

# ---- a socket: what speaks at its other end sends back what it gets ------------------------------

cat >job <<'END'
ip addr add 10.8.0.2/24 dev eth0
ping -c 3 -W 5 10.8.0.1 >/tmp/ping && echo "ping well"
for i in $(seq 50); do [ "$(cat /sys/class/net/eth0/carrier)" = 0 ] && break; sleep 0.2; done
echo "carrier $(cat /sys/class/net/eth0/carrier)"
END
cat >peer.py <<'END'
import socket, struct
listener = socket.socket(socket.AF_UNIX)
listener.bind("peer.sock")
listener.listen(1)
s = listener.accept()[0].makefile("rwb")
pings = 0
while pings < 3:
    frame = bytearray(s.read(struct.unpack(">I", s.read(4))[0]))
    if frame[12:14] == b"\x08\x06" and frame[21] == 1:
        frame[21] = 2
        frame[22:32], frame[32:42] = b"RT\0\0\0\x18" + frame[38:42], frame[22:32]
    elif frame[12:14] == b"\x08\0" and frame[23] == 1 and frame[34] == 8:
        frame[26:30], frame[30:34] = frame[30:34], frame[26:30]
        total = (frame[36] << 8 | frame[37]) + 0x800   # the type becomes 0, and so the checksum
        total = (total & 0xffff) + (total >> 16)
        frame[34], frame[36], frame[37] = 0, total >> 8, total & 0xff
        pings += 1
    else:
        continue
    frame[0:6], frame[6:12] = frame[6:12], b"RT\0\0\0\x18"
    s.write(struct.pack(">I", len(frame)) + frame)
    s.flush()
END
timeout 200 python3 peer.py >peer.log 2>&1 &
peer=$!
within 20 test -S peer.sock
start stream --net stream,path=peer.sock
ended
kill $peer 2>/dev/null
wait $peer 2>/dev/null
like "$(cat said)" "^ping well" "stream: the peer answers" || sed 's/^/# /' peer.log said
like "$(cat said)" "^carrier 0" "stream: the link is down when the peer has gone"
like "$(cat errors)" "the link is down" "stream: and it is told"

# ---- random numbers, a console -----------------------------------------------------------------

cat >job <<'END'
echo "rng $(cat /sys/class/misc/hw_random/rng_current)"
echo "random $(head -c 100000 /dev/hwrng | wc -c)"
echo "packed $(head -c 8192 /dev/hwrng | gzip | wc -c)"
exec 3<>/dev/hvc0
stty -F /dev/hvc0 raw -echo
echo LISTENING
read -r line </dev/hvc0
echo "heard $line"
echo "hello from hvc0" >/dev/hvc0
head -c 1048576 /dev/zero | tr '\000' x >/dev/hvc0
sleep 1
END
cat >talk.py <<'END'
import socket
s = socket.socket(socket.AF_UNIX)
s.connect("hvc.sock")
s.sendall(b"a line\n")
said = b""
while len(said) < 16 + 1048576:
    more = s.recv(65536)
    if not more:
        break
    said += more
print(said[:15].decode(), len(said), said.count(b"x"))
END
start devices --console socket=hvc.sock
within 150 listens
timeout 60 python3 talk.py >talked 2>&1
ended
like "$(cat said)" "^rng virtio_rng" "the guest has a source of random numbers"
like "$(cat said)" "^random 100000" "which gives them"
packed=$(sed -n 's/^packed //p' said)
ok "that are random" test "${packed:-0}" -gt 8192
like "$(cat said)" "^heard a line" "the guest hears what is said to its console"
is "$(cat talked)" "hello from hvc0 1048592 1048576" "and what it says is heard, all of it"

cat >job <<'END'
echo "once" >/dev/hvc0
END
start "a file" --console file=hvc.log
ended
is "$(tr -d '\r' <hvc.log)" once "a console may be a file"

# ---- the balloon -------------------------------------------------------------------------------

# The guest fills its memory and lets go of it; then it has its driver. What the process has in memory is
# measured before and after.
cat >job <<'END'
mount -o remount,size=90% /tmp
dd if=/dev/zero bs=1M count=128 2>/dev/null | tr '\000' x >/tmp/much
rm /tmp/much
echo FULL
sleep 3
for ko in /mod/*balloon*; do insmod $ko; done
sleep 150
END
machine () { pgrep -P $runner; }
rss () { awk '/^Rss:/ { print $2 }' "/proc/$(machine)/smaps_rollup"; }
full () { says FULL; }
rss_has_fallen () { [ $(($(rss) + $1)) -lt $rss_full ]; }
# measure SECONDS KIB: whether so much comes back in that time. The machine ends then.
measure () {
	rss_full=0
	within 150 full && rss_full=$(rss)
	within "$1" rss_has_fallen "$2"
	measured=$?
	echo "# $start_name: $rss_full KiB, then $(rss) KiB"
	kill -TERM "$(machine)"
	wait $runner
	is $? 0 "$start_name: SIGTERM ends it"
	ok "$start_name: it was full" test "$rss_full" -gt 130000
}
start "free pages are reported" --balloon on
measure 100 100000
is $measured 0 "the guest's free pages are the host's again"
start "a balloon" --balloon size=160M,reporting=off
measure 100 60000
is $measured 0 "what is in the balloon is the host's again"
start "no balloon" --rng off
measure 10 20000
is $measured 1 "and without one nothing is"

# ---- refusals ------------------------------------------------------------------------------

refused () {
	refused_name=$1 refused_text=$2
	shift 2
	not_ok "$refused_name" timeout 20 byre run --kernel vmlinux "$@" </dev/null
	like "$(cat err)" "$refused_text" "$refused_name: and it is said why"
}
refused "an unknown network" "no network is called 'token-ring'" --net token-ring
refused "an option that nobody knows" "speed" --net user,speed=9
refused "an address that is none" "mac" --net user,mac=53:54:00:00:00:01
refused "a forward that is none" "hostfwd" --net user,hostfwd=80
refused "two queues in user mode" "only a tap" --net user,queues=2
refused "a socket that is not there" "nowhere.sock" --net stream,path=nowhere.sock
refused "a terminal for two" "stdio" --serial stdio --console stdio
refused "a balloon of more than there is" "size" --balloon size=2G
done_testing
