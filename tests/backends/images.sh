# SPDX-License-Identifier: BSD-2-Clause
# shellcheck shell=sh
#
# What every network backend has to show. Sourced by one test for each kind of server:
# images_live_there KIND, silence_loses_nothing KIND, a_power_cut_loses_nothing KIND FILE,
# a_restart_loses_nothing KIND.

peer_reads () { qemu-img info "$1" >/dev/null 2>&1; }

# same_there NAME URL FORMAT [OPTION...]: both tools find there what disk.raw holds.
same_there () {
	there_name=$1 there_url=$2 there_format=$3
	ok "$there_name: the same disk" byre-img compare -q -f raw -F "$there_format" disk.raw "$there_url"
	if peer_reads "$there_url"; then
		ok "$there_name: qemu-img sees the same" qemu-img compare -q -f raw -F "$there_format" disk.raw "$there_url"
	else
		skip "$there_name: qemu-img sees the same" "this qemu-img does not read such URLs"
	fi
}

# A name as the value of an option.
in_options () { printf '%s\n' "$1" | sed 's/,/,,/g'; }

images_live_there () {
	kind=$1
	there=$(url "$kind" a.img)
	python3 - <<'PY'
import random
random.seed(7)
data = bytearray(24 << 20)
for i in range(40):
    at = random.randrange(0, len(data) - 65536) & ~511
    data[at:at + 40960] = random.randbytes(20480) + bytes([i]) * 20480
open("disk.raw", "wb").write(data)
PY
	ok "create" byre-img create -q -f qcow2 "$there" 64M
	ok "written and read back" byre-io -f qcow2 -c 'write -q -P 5 1M 3M' -c 'write -q -z 2M 64k' \
		-c 'discard -q 3M 64k' -c 'read -q -P 5 1M 1M' -c 'read -q -P 0 2M 64k' -c 'write -q -P 6 777 1' \
		-c 'read -q -P 6 777 1' "$there"
	ok "a snapshot" byre-img snapshot -c one "$there"
	ok "written over" byre-io -f qcow2 -c 'write -q -P 7 1M 1M' "$there"
	ok "applied" byre-img snapshot -a one "$there"
	ok "as it was" byre-io -r -f qcow2 -c 'read -q -P 5 1M 1M' "$there"
	ok "deleted" byre-img snapshot -d one "$there"
	ok "sound" byre-img check -q "$there"
	ok "resized" byre-img resize -q "$there" 80M
	like "$(byre-img info "$there")" "virtual size: 80 MiB" "info"

	ok "raw to qcow2 there" byre-img convert -f raw -O qcow2 disk.raw "$there"
	same_there "qcow2" "$there" qcow2
	ok "sound" byre-img check -q "$there"
	ok "and back" byre-img convert -f qcow2 -O raw "$there" back.raw
	same disk.raw back.raw "every byte"
	# By another name, too, where the server says that it is the same.
	case $kind in
	nfs3) other="$there?uid=0" ;;
	nfs4) other="$there&uid=0" ;;
	*) other=$there ;;
	esac
	for same_place in "$there" "$other"; do
		not_ok "onto itself" byre-img convert -f qcow2 -O raw "$there" "$same_place"
		is "$(grep -c "the target is one of the sources" err):$(wc -l <err)" 1:1 "onto itself: said"
		not_ok "over its backing file" byre-img create -q -f qcow2 -F qcow2 -b "$there" "$same_place"
	done
	ok "which are untouched" byre-img compare -q -f raw -F qcow2 disk.raw "$there"
	ok "compressed there" byre-img convert -c -f raw -O qcow2 -o compression_type=zstd disk.raw "$there"
	same_there "compressed" "$there" qcow2
	printf secret >password
	secret=secret,id=s,file=password
	ok "encrypted there" byre-img convert --object $secret -f raw -O qcow2 \
		-o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10 disk.raw "$there"
	ok "the same through the passphrase" byre-img compare -q --object $secret --image-opts driver=raw,file.filename=disk.raw \
		"driver=qcow2,encrypt.key-secret=s,file.filename=$(in_options "$there")"
	not_ok "no such place" byre-img info "${there%/*}/nowhere"
	is "$(wc -l <err)" 1 "no such place: one line"
}

# connections_break: from here on one may do so while a program logs in, which costs libiscsi something.
connections_break () {
	LSAN_OPTIONS=suppressions=$BYRE_SRC/tests/backends/lsan.supp:print_suppressions=0
	export LSAN_OPTIONS
}

# converse OPTION...: byre-io does what the file `before` says and tells that it has; what the
# file `after` says it does once there is a file `go`. Comes back in between.
converse () {
	rm -f go io.out
	{
		cat before
		echo "read 0 512"
		until [ -e go ]; do sleep 0.05; done
		cat after
	} | byre-io "$@" >io.out 2>io.err &
	writer=$!
	wait_for grep -q "^512 bytes" io.out
}
# goes_on NAME: it ends well, and has read what it should.
goes_on () {
	touch go
	if wait $writer; then pass "$1: no error is seen"; else fail "$1: no error is seen" "$(cat io.err)"; fi
	is "$(sed 's/byre-io> //g' io.out | grep -v '512 bytes\|512/512' | grep -c .)" 0 "$1: every byte is read again"
}
# under_way N: the byre-io that writes io.out has done N commands.
under_way () { [ "$(grep -o "byre-io>" io.out | wc -l)" -gt "$1" ]; }
# wait_for_go: what writes commands for it waits here for a file called go.
wait_for_go () { until [ -e go ]; do sleep 0.05; done; rm go; }

# The network swallows everything for a while, longer than a request may wait: the connection
# is given up, made again, and nobody above notices.
silence_loses_nothing () {
	kind=$1
	connections_break
	there=$(url "$kind" c.img)
	ok "create" byre-img create -q -f qcow2 "$there" 64M
	{
		for i in $(seq 20 39); do echo "write -q -P $((i + 1)) $((i * 512))k 512k"; done
		for i in $(seq 0 39); do echo "read -q -P $((i + 1)) $((i * 512))k 512k"; done
	} >after
	for i in $(seq 0 19); do echo "write -q -P $((i + 1)) $((i * 512))k 512k"; done >before
	converse --image-opts "driver=qcow2,file.filename=$there,file.timeout=2"
	ip link set lo down
	touch go
	sleep 4
	wait_for grep -q "no answer for 2 seconds\|connection is lost" io.err
	ip link set lo up
	goes_on silence
	like "$(cat io.err)" "no answer for 2 seconds\|connection is lost" "silence: it is told"
	ok "silence: sound" byre-img check -q "$there"
}

# The server's machine loses power: what it had acknowledged and not been told to flush is
# gone from FILE, where it keeps the image c.img.
a_power_cut_loses_nothing () {
	kind=$1
	connections_break
	there=$(url "$kind" c.img)
	{
		echo "write -q -P 1 0 1M"
		echo "flush"
		echo "write -q -P 2 1M 1M"
		echo "write -q -P 3 1536k 1M"
	} >before
	{
		echo "read -q -P 1 0 1M"
		echo "read -q -P 2 1M 512k"
		echo "read -q -P 3 1536k 1M"
	} >after
	converse -f raw "$there"
	stop KILL
	dd if=/dev/zero of="$2" bs=1M seek=1 count=2 conv=notrunc 2>/dev/null
	serve "$kind"
	goes_on "power cut"
	like "$(cat io.err)" "connected again" "power cut: it is told"
}

# A server killed under load and started again: no error is seen, nothing is lost that was
# acknowledged, and what was flushed is there.
a_restart_loses_nothing () {
	kind=$1
	connections_break
	there=$(url "$kind" b.img)
	ok "create" byre-img create -q -f qcow2 "$there" 256M
	for i in $(seq 0 39); do echo "write -q -P $((i + 1)) $((i * 512))k 512k"; done >before
	{
		for i in $(seq 40 79); do echo "write -q -P $((i + 1)) $((i * 512))k 512k"; done
		for i in $(seq 0 79); do echo "read -q -P $((i + 1)) $((i * 512))k 512k"; done
	} >after
	converse -f qcow2 "$there"
	touch go
	restart "$kind" 1
	goes_on "killed under load"
	ok "sound" byre-img check -q "$there"
	for i in $(seq 0 79); do echo "read -q -P $((i + 1)) $((i * 512))k 512k"; done >commands
	byre-io -f qcow2 -r "$there" <commands >io.out 2>io.err
	is $? 0 "and is there afterwards"
	stop KILL
	began=$(date +%s)
	not_ok "a server that does not come back is an error" byre-io -c 'read 0 512' --image-opts \
		"driver=raw,file.filename=$there"
	ok "in bounded time" test $(($(date +%s) - began)) -lt 15
}

# ---- random requests ------------------------------------------------------------------

model=$BYRE_BUILD/tests/model/model
model_seed=1
[ -z "$BYRE_SOAK" ] || model_seed=$(date +%s)
model_seconds=16
[ -z "$BYRE_SOAK" ] || model_seconds=$((BYRE_SOAK / 2))

# model_there KIND ARGUMENT...: random sequences on an image there and on a flat array, which
# never differ (tests/model).
model_there () {
	model_kind=$1
	shift
	"$model" --seed "$model_seed" --url "$(url "$model_kind" model.img)" "$@"
}

random_requests_are_right () {
	kind=$1
	there=$(url "$kind" model.img)
	ok "create" byre-img create -q -f qcow2 "$there" 1M
	no_peer=
	peer_reads "$there" || no_peer=--no-peer
	ok "qcow2: plain calls, seed $model_seed" model_there "$kind" $no_peer --loops 0 \
		--seconds $((model_seconds / 8))
	ok "qcow2: three loops, seed $model_seed" model_there "$kind" $no_peer --loops 3 \
		--seconds $((model_seconds / 4))
	ok "raw: three loops, seed $model_seed" model_there "$kind" $no_peer --loops 3 \
		--seconds $((model_seconds / 8)) --config raw=on,size=3M
}

# under_load KIND NAME COMMAND...: the command, over and over beside several random writers with
# flushes. No request may fail and no byte be wrong; how long the longest one took is told.
load_options='' # of the node, each after a comma
under_load () {
	kind=$1 load_name=$2
	shift 2
	connections_break
	model_there "$kind" --no-peer --loops 3 --tasks 8 --rounds 4 --ops 400 --patience 60 \
		--url-opts "timeout=2$load_options" \
		--seconds $((model_seconds * 3 / 4)) >load.out 2>load.err &
	load=$!
	times=0
	sleep 0.5 # a connection has to be there to be lost
	while kill -0 $load 2>/dev/null; do
		sleep 0.$((times * 37 % 100))
		"$@" || fail "$load_name: $*"
		times=$((times + 1))
		sleep 1
	done
	if wait $load; then
		pass "$load_name"
	else
		fail "$load_name" "$(grep '^#' load.out)" "$(tail -n 5 load.err)"
	fi
	echo "# $times times:$(tail -n 1 load.out | tr -d '#')"
	ok "$load_name: more than once" test $times -gt 1
	like "$(cat load.err)" "connected again" "$load_name: the connection was made anew"
}

# Killed as by a power cut of the server's program, and back after a moment.
restarts_lose_nothing () { under_load "$1" "killed under load" restart "$1" 0.3; }

# cut_off CHAIN FLAG PORT: packets are dropped for longer than a request may wait, and then are not for
# a while.
cut_off () {
	iptables -I "$1" -p tcp "$2" "$3" -j DROP || return 1
	sleep 3.5
	iptables -D "$1" -p tcp "$2" "$3" -j DROP
	sleep 1.5
}
lost_packets_lose_nothing () {
	if ! iptables -L -n >/dev/null 2>&1; then
		skip "packets are lost" "iptables is not usable here"
		return
	fi
	under_load "$1" "requests are lost" cut_off INPUT --dport "$(port "$1")"
	under_load "$1" "answers are lost" cut_off INPUT --sport "$(port "$1")"
}
