#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: a guest of byre has random numbers, a console, and a balloon by which the host gets memory back.
# timeout: 2400
. "$BYRE_SRC/tests/tap.sh"
. "$BYRE_SRC/tests/lab/lab.sh"
long_test
[ -x "$BYRE_BUILD/byre" ] || skip_all "byre is built for x86-64 only"
own_machine --kvm --memory 1400
. "$BYRE_SRC/tests/lab/guests.sh"

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
head -c 131072 /dev/zero | tr '\000' x >/dev/hvc0
sleep 1
END
cat >talk.py <<'END'
import socket
s = socket.socket(socket.AF_UNIX)
s.connect("hvc.sock")
s.sendall(b"a line\n")
said = b""
while len(said) < 16 + 131072:
    more = s.recv(65536)
    if not more:
        break
    said += more
print(said[:15].decode(), len(said), said.count(b"x"))
END
listens () { says LISTENING; }
start devices --console socket=hvc.sock
within 400 listens
timeout 900 python3 talk.py >talked 2>&1
ended
like "$(cat said)" "^rng virtio_rng" "the guest has a source of random numbers"
like "$(cat said)" "^random 100000" "which gives them"
packed=$(sed -n 's/^packed //p' said)
ok "that are random" test "${packed:-0}" -gt 8192
like "$(cat said)" "^heard a line" "the guest hears what is said to its console"
is "$(cat talked)" "hello from hvc0 131088 131072" "and what it says is heard, all of it"

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
sleep 10
for ko in /later/*; do insmod $ko; done
sleep 150
END
machine () { pgrep -P $runner; }
rss () { awk '/^Rss:/ { print $2 }' "/proc/$(machine)/smaps_rollup"; }
full () { says FULL; }
rss_has_fallen () { [ $(($(rss) + $1)) -lt $rss_full ]; }
# measure SECONDS KIB: whether so much comes back in that time. The machine ends then.
measure () {
	rss_full=0
	within 400 full && rss_full=$(rss)
	within "$1" rss_has_fallen "$2"
	measured=$?
	echo "# $start_name: $rss_full KiB, then $(rss) KiB"
	kill -TERM "$(machine)"
	wait $runner
	is $? 0 "$start_name: SIGTERM ends it"
	ok "$start_name: it was full" test "$rss_full" -gt 130000
}
start "free pages are reported" --balloon on
measure 140 100000
is $measured 0 "the guest's free pages are the host's again"
start "a balloon" --balloon size=160M,reporting=off
measure 140 60000
is $measured 0 "what is in the balloon is the host's again"
start "no balloon" --rng off
measure 10 20000
is $measured 1 "and without one nothing is"

# ---- refusals ------------------------------------------------------------------------------

refused () {
	refused_name=$1 refused_text=$2
	shift 2
	not_ok "$refused_name" timeout 100 byre run --kernel vmlinux "$@" </dev/null
	like "$(cat err)" "$refused_text" "$refused_name: and it is said why"
}
refused "a terminal for two" "stdio" --serial stdio --console stdio
refused "a balloon of more than there is" "size" --balloon size=2G
done_testing
