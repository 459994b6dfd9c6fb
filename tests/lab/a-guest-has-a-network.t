#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: a guest of byre has a network, by a tap, in user mode and by a socket, over which every byte arrives.
# timeout: 2400
. "$BYRE_SRC/tests/tap.sh"
. "$BYRE_SRC/tests/lab/lab.sh"
[ -x "$BYRE_BUILD/byre" ] || skip_all "byre is built for x86-64 only"
own_machine --kvm --memory 1400
. "$BYRE_SRC/tests/lab/guests.sh"
modprobe -a tun vhost_net || bail "modprobe tun, vhost_net" "this kernel has none"
ip link set lo up
sum_of () { md5sum <"$1" | sed 's/ .*//'; }
must dd if=/dev/urandom of=sent bs=1M count=16
sent=$(sum_of sent)
[ ${#sent} -eq 32 ] || bail "md5sum" "$sent"

# ---- a tap ----------------------------------------------------------------------------------

# 16 MiB both ways by TCP, with segments and checksums left to the other side. busybox's nc ends when the
# other side does, whatever it has still to send: so whoever only receives has something to read that does
# not end.
mkfifo endless && exec 9<>endless
cat >tap_job <<'END'
mkfifo /tmp/endless
exec 4<>/tmp/endless
ip addr add 10.9.0.2/24 dev eth0
cat /sys/class/net/eth0/address
echo "queues $(ls -d /sys/class/net/eth0/queues/rx-* | wc -l)"
ping -c 3 -W 5 10.9.0.1 >/tmp/ping && echo "ping well"
nc -w 30 10.9.0.1 7000 >/tmp/got <&4
echo "got $(md5sum </tmp/got)"
nc -w 30 10.9.0.1 7001 </tmp/got
echo "gave $?"
END
# listens_on PORT: somebody does.
listens_on () { cat /proc/net/tcp /proc/net/tcp6 | grep -q ":$(printf %04X "$1") 0*:0000 0A"; }
# tap NAME QUEUES [MORE [OPTION...]]; while it runs the command $meanwhile is.
meanwhile=:
tap () {
	tap_name=$1 tap_queues=$2 tap_more=${3:+,$3}
	shift $(($# > 2 ? 3 : 2))
	cp tap_job job
	timeout 500 busybox nc -l -p 7000 <sent >/dev/null &
	giver=$!
	timeout 500 busybox nc -l -p 7001 <&9 >received &
	taker=$!
	ok "$tap_name: somebody listens" within 60 listens_on 7000
	ok "$tap_name: and takes" within 60 listens_on 7001
	start "$tap_name" --net "tap,ifname=tap$tap_queues,mac=52:54:00:00:00:17,queues=$tap_queues$tap_more" "$@"
	$meanwhile
	ended
	kill $giver $taker 2>/dev/null
	wait $giver $taker 2>/dev/null
	like "$(cat said)" "^52:54:00:00:00:17" "$tap_name: it has its address"
	like "$(cat said)" "^ping well" "$tap_name: the host answers"
	like "$(cat said)" "^got $sent" "$tap_name: every byte comes"
	is "$(sum_of received)" "$sent" "$tap_name: and goes"
}
cat >up <<'END'
#!/bin/sh
ip addr add 10.9.0.1/24 dev "$1" && ip link set "$1" up
END
cat >down <<'END'
#!/bin/sh
echo "$1 is no more" >down.out
END
chmod +x up down
# The kernel serves its queues (vhost-net), and gives them back and takes them again while packets are on their way.
stands_and_goes () {
	within 150 says "^ping well" || return
	grep -l '^vhost-' /proc/[0-9]*/comm >served
	for i in 1 2 3 4 5; do # until it has ended
		byre ctl sock stop && byre ctl sock cont || return
		echo "$i" >pauses
		sleep 0.3
	done
}
meanwhile=stands_and_goes
tap "by the kernel" 1 script=./up,downscript=./down,vhost=on --qmp unix:sock,server=on,wait=off
meanwhile=:
like "$(cat served)" comm "by the kernel: which has a thread for it"
ok "by the kernel: the machine stood and went on, $(cat pauses) times" test "$(cat pauses)" -ge 1
is "$(cat down.out)" "tap1 is no more" "what was to run at its end has run"
ok "a tap with queues" ip tuntap add dev tap2 mode tap vnet_hdr multi_queue
ip addr add 10.9.0.1/24 dev tap2 && ip link set tap2 up
tap "two queues" 2 packed=on --cpus 2
like "$(cat said)" "^queues 2" "two queues: the guest has them"
ip link del tap2

# ---- user mode ------------------------------------------------------------------------------

mkdir -p www && cp sent www/sent
timeout 300 busybox httpd -f -p 127.0.0.1:7002 -h www &
server=$!
# A name server of one name, which is the host's; the guest's is 10.0.2.3.
printf 'nameserver 127.0.0.1\n' >/etc/resolv.conf
cat >names.py <<'END'
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("127.0.0.1", 53))
while True:
    q, who = s.recvfrom(512)
    end = q.index(b"\0", 12) + 5
    here = q[12:end - 4] == b"\4barn\4test\0" and q[end - 4:end] == b"\0\1\0\1"
    answer = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + bytes([10, 11, 12, 13]) if here else b""
    s.sendto(q[:2] + b"\x81\x80\0\1\0" + bytes([here]) + b"\0\0\0\0" + q[12:end] + answer, who)
END
timeout 300 python3 names.py &
names=$!
has_names () { grep -q "0100007F:0035" /proc/net/udp; }
within 60 has_names
cat >job <<'END'
udhcpc -i eth0 -n -q -s /dhcp >/dev/null 2>&1
for i in 1 2 3; do nslookup barn.test 10.0.2.3 >/tmp/named 2>&1 && break; done
sed 's/^Address[^:]*: *10/named 10/' /tmp/named
echo "address $(ip -4 -o addr show dev eth0 | sed 's/.*inet \([0-9.]*\).*/\1/')"
wget -q -O /tmp/got http://10.0.2.2:7002/sent
echo "got $(md5sum </tmp/got)"
echo LISTENING
nc -l -p 80 </tmp/got >/dev/null
echo "gave $?"
END
listens () { says LISTENING; }
start "user mode" --net user,hostfwd=tcp:127.0.0.1:7003-:80,hostfwd=tcp:127.0.0.1:7004-:81
within 400 listens
for i in $(seq 60); do # nc has to start, too
	timeout 300 busybox nc 127.0.0.1 7003 <&9 >received
	[ ! -s received ] || break
	sleep 1
done
ended
kill $server $names
wait $server $names 2>/dev/null
like "$(cat said)" "^address 10.0.2.15" "user mode: an address by DHCP"
like "$(cat said)" "^named 10.11.12.13" "user mode: names, by the host's name servers"
like "$(cat said)" "^got $sent" "user mode: every byte comes"
is "$(sum_of received)" "$sent" "user mode: and goes, to who connects from outside"

# ---- a socket: what speaks at its other end sends back what it gets ------------------------------

cat >job <<'END'
ip addr add 10.8.0.2/24 dev eth0
ping -c 3 -W 5 10.8.0.1 >/tmp/ping && echo "ping well"
for i in $(seq 600); do [ "$(cat /sys/class/net/eth0/carrier)" = 0 ] && break; sleep 0.2; done
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
timeout 500 python3 peer.py >peer.log 2>&1 &
peer=$!
within 100 test -S peer.sock
start stream --net stream,path=peer.sock
ended
kill $peer 2>/dev/null
wait $peer 2>/dev/null
like "$(cat said)" "^ping well" "stream: the peer answers" || sed 's/^/# /' peer.log said
like "$(cat said)" "^carrier 0" "stream: the link is down when the peer has gone"
like "$(cat errors)" "the link is down" "stream: and it is told"

# ---- refusals ------------------------------------------------------------------------------

refused () {
	refused_name=$1 refused_text=$2
	shift 2
	not_ok "$refused_name" timeout 100 byre run --kernel vmlinux "$@" </dev/null
	like "$(cat err)" "$refused_text" "$refused_name: and it is said why"
}
refused "an unknown network" "no network is called 'token-ring'" --net token-ring
refused "an option that nobody knows" "speed" --net user,speed=9
refused "an address that is none" "mac" --net user,mac=53:54:00:00:00:01
refused "a forward that is none" "hostfwd" --net user,hostfwd=80
refused "two queues in user mode" "only a tap" --net user,queues=2
refused "a socket that is not there" "nowhere.sock" --net stream,path=nowhere.sock
done_testing
