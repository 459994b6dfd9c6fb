# SPDX-License-Identifier: BSD-2-Clause
# shellcheck shell=sh
#
# The vocabulary of tests that take a machine, or two: sourced after tap.sh.
#
#	long_test		is run where BYRE_LAB_LONG or BYRE_SOAK is set only; before own_machine
#	own_machine [OPTION...]	runs the test again in a VM of its own (the options are those
#				of `lab up`): what stands below happens in there. Before that the test's
#				function prepare_machine is called, where it has one, on the host
#
# or, from outside,
#
#	need_lab		a VM can be had, and there is a namespace of its own (servers.sh)
#	lab COMMAND...		tests/lab/lab

. "$BYRE_SRC/tests/backends/servers.sh"

LAB_DIR=$PWD/lab
export LAB_DIR

lab () { sh "$BYRE_SRC/tests/lab/lab" "$@"; }

# Guests of a guest are slow where /dev/kvm is emulated. A test that starts many of them is left out of what
# has to be over soon.
long_test () {
	[ -n "$BYRE_SOAK$BYRE_LAB_LONG$BYRE_IN_MACHINE" ] || skip_all "it takes long: make check-lab BYRE_LAB_LONG=yes, or make soak"
}

# The packages come by the network, so they do before there is none. Whatever is left of the
# test is ended with its namespace.
need_lab () {
	lab_missing=$(lab ready) || skip_all "$lab_missing"
	own_network
}

own_machine () {
	[ -z "$BYRE_IN_MACHINE" ] || return 0
	need_lab
	for try in 1 2 3; do
		run_in_machine "$@"
		[ $lab_status -eq 126 ] || break
		echo "# its machine hung or crashed, as emulated ones do ($try of 3)"
		lab down
	done
	echo "# done after $(since_start) s"
	[ $lab_status -eq 0 ] || consoles
	lab down
	exit $lab_status
}
run_in_machine () {
	rm -f disk.img && truncate -s 2G disk.img
	command -v prepare_machine >/dev/null && prepare_machine
	must lab up n1 "$@"
	echo "# up after $(since_start) s"
	lab run -t $((2400 + 3 * ${BYRE_SOAK:-0})) n1 "BYRE_IN_MACHINE=yes BYRE_SOAK=$BYRE_SOAK sh $0"
	lab_status=$?
}
# must COMMAND...: without which there is nothing to test. bail WHAT TEXT: as where it failed.
must () { "$@" >out 2>err || bail "$*" "$(tail -n 20 out err)"; }
bail () {
	consoles
	echo "$2" | sed 's/^/# /'
	echo "Bail out! $1"
	exit 1
}
# The last words of each machine, which are shown where a test has failed.
consoles () { tail -n 15 lab/*/console >&2; }
since_start () { echo $(($(date +%s) - lab_started)); }
lab_started=$(date +%s)

# client_network NAME N: a client beside the server, with a network of its own, where the server
# is 10.1.N.1. as NAME COMMAND...: runs it there. unplug NAME: pulls the plug for five seconds.
client_network () {
	ip netns add "$1" && ip link add "to-$1" type veth peer name eth0 netns "$1" &&
		ip addr add "10.1.$2.1/24" dev "to-$1" && ip link set "to-$1" up &&
		ip -n "$1" addr add "10.1.$2.2/24" dev eth0 && ip -n "$1" link set eth0 up
}
as () {
	as_client=$1
	shift
	nsenter --net="/run/netns/$as_client" "$@"
}
unplug () { ip link set "to-$1" down && sleep 5 && ip link set "to-$1" up; }

# A program on its own file system starts faster than over 9p, without a cache.
own_programs () {
	mkdir -p /run/programs && cp "$BYRE_BUILD/byre-img" "$BYRE_BUILD/byre-io" /run/programs &&
		PATH=/run/programs:$PATH
}

# hold IMAGE: opens it for writing and keeps it. release: lets go, and was content.
hold () {
	rm -f held.in && mkfifo held.in
	byre-io -f qcow2 "$1" <held.in >held.out 2>held.err &
	holder=$!
	exec 9>held.in
	echo "write -P 9 0 64k" >&9
	wait_for grep -q wrote held.out
}
release () {
	exec 9>&-
	wait "$holder"
}

# second_writer_is_refused IMAGE IMAGE [nameless]: one image by two ways; nameless where the holder has it
# by a local file system, of which nobody can tell that others reach it: it leaves no note.
second_writer_is_refused () {
	echo "# $1 is held, $2 is tried"
	ok "one holds it" hold "$1"
	not_ok "a second writer is refused" byre-io -f qcow2 -c 'write -q 0 512' "$2"
	like "$(sed -n 1p err)" "lock" "and told that it is for a lock"
	if [ -z "$3" ]; then
		grep -q "pid $holder" err || ask_again "$2"
		names_holder "$(hostname)"
	fi
	ok "the first noticed nothing" release
	ok "then it is free" byre-io -f qcow2 -c 'read -q -P 9 0 64k' "$2"
}

# A client may believe for a second that there is no such file as the note.
ask_again () {
	sleep 3
	byre-io -f qcow2 -c 'write -q 0 512' "$1" >out 2>err
}

# names_holder HOST: the refusal in the file err names who holds the image: the process where it
# can be seen, else the host, from the note beside the image.
names_holder () {
	like "$(cat err)" "pid ${holder:-none}\|, on $1, since 20" "it names the holder"
}

# within SECONDS COMMAND...: until it succeeds. They are seconds of a machine that has nothing else to do: one that is
# emulated on a busy host gets five times as many.
within () {
	within_end=$(($(date +%s) + 5 * $1))
	shift
	until "$@" >/dev/null 2>&1; do
		[ "$(date +%s)" -lt $within_end ] || return 1
		sleep 0.2
	done
}

# The load: 512 KiB at a time, each with a pattern of its own, a flush and a pause after every
# eighth. Then all is read again.
load_count=48
load_cache=writeback
patterns () {
	for i in $(seq 1 $load_count); do
		echo "$1 -P $i $((i * 512))k 512k"
		[ "$1" != write ] || [ $((i % 8)) -ne 7 ] || printf 'flush\nsleep 1000\n'
	done
}
# Seconds of the longest write, as byre-io told: 00.01 sec, or 0:01:07.71.
longest_write () {
	sed -n 's/.* ops; \([0-9.:]*\).*/\1/p' load.out |
		awk -F: '{ s = 0; for (i = 1; i <= NF; i++) s = 60 * s + $i; if (s > most) most = s } END { print most }'
}

# with_load NAME IMAGE COMMAND...: a load on the image, and the command a second after it began.
# Sets load_status; what the load said is in load.out and load.err.
with_load () {
	load_name=$1 load_image=$2
	shift 2
	ok "$load_name: create" byre-img create -q -f qcow2 "$load_image" 256M
	{ patterns write; patterns 'read -q'; } >load.in
	byre-io -f qcow2 -t $load_cache "$load_image" <load.in >load.out 2>load.err &
	load_pid=$!
	within 60 grep -q wrote load.out
	kill -0 $load_pid 2>/dev/null || fail "$load_name: the load was over before"
	"$@" || fail "$load_name: $*"
	wait $load_pid
	load_status=$?
}

# undisturbed NAME IMAGE COMMAND...: nobody sees an error, and every byte is there.
undisturbed () {
	with_load "$@"
	is $load_status 0 "$load_name: no error is seen" || sed 's/^/# /' load.err
	is "$(grep -c wrote load.out)" $load_count "$load_name: all is written"
	unlike "$(grep failed load.out)" "failed" "$load_name: every byte is read again"
	ok "$load_name: sound" byre-img check -q "$load_image"
	patterns 'read -q' >load.in
	ok "$load_name: every byte is there afterwards" sh -c "byre-io -r -f qcow2 $load_image <load.in"
}

# nothing_acknowledged_is_lost NAME IMAGE COMMAND...: for a client in the kernel that lets
# programs see errors. A write that succeeded is there, and one that did not has said so. A flush may
# fail, too: nobody knows then what the server had and lost, so what the one before it covered is there, and
# every later flush fails until the image is opened anew.
nothing_acknowledged_is_lost () {
	with_load "$@"
	is "$(grep -c 'wrote\|write failed' load.out)" $load_count "$load_name: every write was answered"
	if grep -q 'flush failed' load.out; then
		sed '/flush failed/q' load.out | grep 'wrote\|write failed' >before
		is "$(grep -c 'flush failed' load.out)" $(((load_count + 7 - $(wc -l <before)) / 8)) \
			"$load_name: a flush failed, and so did every one after it"
		like "$(cat load.err)" "closing" "$load_name: and closing it"
		byre-img check -q "$load_image" >out 2>err
		like $? '^[03]$' "$load_name: nothing worse than leaks"
		head -n -8 before >answers
	else
		ok "$load_name: sound" byre-img check -q "$load_image"
		ok "$load_name: some were done after it" grep -q "wrote.* $((load_count * 524288))$" load.out
		grep wrote load.out >answers
	fi
	sed -n 's/.*wrote .* at offset //p' answers | while read -r offset; do
		echo "read -q -P $((offset / 524288)) $offset 512k"
	done >load.in
	echo "# $load_name: $(wc -l <load.in) of $load_count writes were promised"
	ok "$load_name: what was promised is there afterwards" sh -c "byre-io -r -f qcow2 $load_image <load.in"
}
