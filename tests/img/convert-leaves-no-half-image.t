#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: a convert that fails, or is stopped by a signal, leaves no half-written file under
# the target's name, says so in a line, and never touches the target for wrong arguments.
. "$BYRE_SRC/tests/tap.sh"
. "$BYRE_SRC/tests/img/peer.sh"

disk disk.raw 8
echo precious >old

# Wrong arguments.
refused_alike "no names" convert
refused_alike "one name" convert disk.raw
refused_alike "no source" convert nothere new
refused_alike "an unknown target format" convert -O foo disk.raw new
refused_alike "an unknown source format" convert -f foo disk.raw new
refused_alike "no such cache" convert -t foo disk.raw new
refused_alike "no such source cache" convert -T foo disk.raw new
refused_alike "no tasks" convert -m 0 disk.raw new
refused_alike "too many tasks" convert -m 17 disk.raw new
refused_alike "not a number of tasks" convert -m x disk.raw new
refused_alike "not a rate" convert -r x disk.raw new
refused_alike "compressed raw" convert -c -f raw disk.raw new
refused_alike "compressed and preallocated" convert -c -O qcow2 -o preallocation=metadata disk.raw new
refused_alike "compressed and offloaded" convert -c -C -O qcow2 disk.raw new
refused_alike "offloaded and sparse" convert -C -S 4k disk.raw new
refused_alike "offloaded and salvaged" convert -C --salvage disk.raw new
refused_alike "no target there" convert -n disk.raw new
refused_alike "options for a target that is there" convert -n -o cluster_size=4k -O qcow2 disk.raw old
refused_alike "zero without -n" convert --target-is-zero disk.raw new
refused_alike "target options without -n" convert --target-image-opts disk.raw driver=raw,file.filename=new
refused_alike "target options and a format" convert -n --target-image-opts -O raw disk.raw driver=raw,file.filename=new
refused_alike "source options and a format" convert --image-opts -f raw driver=raw,file.filename=disk.raw new
refused_alike "an unknown option" convert -O qcow2 -o foo=bar disk.raw new
refused_alike "an empty option list" convert -O qcow2 -o '' disk.raw new
refused_alike "a backing file under raw" convert -B disk.raw -F raw disk.raw new
refused_alike "a backing file without its format" convert -O qcow2 -B disk.raw disk.raw new
refused_alike "a backing file under two sources" convert -O qcow2 -B disk.raw -F raw disk.raw disk.raw new
refused_alike "no such snapshot" convert -l nosuch -O qcow2 disk.raw new
refused_alike "an option for broken bitmaps alone" convert --skip-broken-bitmaps disk.raw new
refused_alike "an unknown letter" convert -s disk.raw new
refused_alike "a folder that is not there" convert disk.raw no/new
for arguments in '-c' '-c -O qcow2 -o data_file=d' '-c -O qcow2 --object secret,id=s,data=x -o encrypt.format=luks,encrypt.key-secret=s' '-O qcow2 -o foo=bar' '-O qcow2 -o cluster_size=3k' '-t foo' '-B disk.raw -F raw'; do
	# shellcheck disable=SC2086 # arguments
	not_ok "over an existing file: $arguments" byre-img convert -f raw $arguments disk.raw old
	is "$(cat old)" precious "the file is as it was: $arguments"
done
cp disk.raw copy.raw
not_ok "onto itself" byre-img convert -f raw -O raw copy.raw copy.raw
not_ok "onto itself by another name" byre-img convert -U -f raw -O qcow2 copy.raw ./copy.raw
same copy.raw disk.raw "onto itself: the file is as it was"

not_ok "into itself as data file" byre-img convert -f raw -O qcow2 -o data_file=copy.raw,data_file_raw=on copy.raw new.qcow2
same copy.raw disk.raw "into itself as data file: the file is as it was"
ok "into itself as data file: nothing is made" test ! -e new.qcow2

# What cannot be compressed is left alone: zeros are not even read.
byre-img create -q -f raw empty.raw 8M
for source in disk.raw empty.raw; do
	not_ok "compressed into raw, from $source" byre-img convert -n -c -f raw -O raw $source copy.raw
	same copy.raw disk.raw "compressed into raw, from $source: the file is as it was"
done
not_ok "-B without a backing file" byre-img convert -n -f raw -O raw -B empty.raw -F raw disk.raw copy.raw
same copy.raw disk.raw "-B without a backing file: the file is as it was"

# Nor onto what a source is read through: the peer is kept off by its locks.
byre-img create -q -f qcow2 -b copy.raw -F raw top.qcow2
for arguments in '-O raw' '-O qcow2' '-n -O raw' '-U -n -O raw'; do
	# shellcheck disable=SC2086 # arguments
	not_ok "onto its own backing file: $arguments" byre-img convert $arguments top.qcow2 copy.raw
	same copy.raw disk.raw "onto its own backing file: it is as it was: $arguments"
done
not_ok "onto a backing file that is not there" byre-img convert -f raw -O qcow2 -B nothere -F raw disk.raw old
not_ok "onto its new backing file" byre-img convert -f raw -O qcow2 -B old -F raw disk.raw old
is "$(cat old)" precious "the file is as it was"

head -c 64k disk.raw >small.raw
cp small.raw small2.raw
not_ok "into a smaller file" byre-img convert -n -f raw -O raw disk.raw small2.raw
same small2.raw small.raw "into a smaller file: it is as it was"

# No space: a file may not grow beyond this. SIGXFSZ is ignored as nohup would SIGHUP.
limited () { (trap '' XFSZ; ulimit -f 2048; exec "$@"); }
for format in raw qcow2; do
	not_ok "no space for $format" limited byre-img convert -f raw -O $format -S 0 disk.raw new
	is "$(wc -l <err)" 1 "no space for $format: one line"
	ok "no space for $format: nothing stays" test ! -e new
done

# Signals. A slow copy is stopped in the middle.
for signal in INT TERM HUP QUIT; do
	case $signal in INT) status=130 ;; TERM) status=143 ;; HUP) status=129 ;; QUIT) status=131 ;; esac
	# A background job of this shell has SIGINT ignored: ask env for the default.
	(
		trap - INT
		env --default-signal=$signal byre-img convert -f raw -S 0 -r 512k -O qcow2 disk.raw new >out 2>err &
		pid=$!
		while [ ! -s new ] && kill -0 $pid; do sleep 0.02; done
		kill -$signal $pid
		wait $pid
		echo $? >status
	)
	is "$(cat status)" $status "$signal: ends as by the signal"
	is "$(cat err)" "byre-img: interrupted: 'new' has been removed" "$signal: says what became of the target"
	ok "$signal: the target is gone" test ! -e new
done
byre-img create -q -f raw there.raw 8M
blocks=$(stat -c %b there.raw)
(
	env --default-signal=TERM byre-img convert -n -f raw -S 0 -r 512k -O raw disk.raw there.raw >out 2>err &
	pid=$!
	while [ "$(stat -c %b there.raw)" -eq "$blocks" ] && kill -0 $pid; do sleep 0.02; done
	kill -TERM $pid
	wait $pid
)
is "$(cat err)" "byre-img: interrupted: 'there.raw' is incomplete" "a target that was there is called incomplete"
ok "and stays" test -e there.raw

# Making the image takes a while: it is written out.
if env --default-signal=TERM true 2>/dev/null; then
	(
		env --default-signal=TERM byre-img create -q -f raw -o preallocation=full huge.raw 20G >out 2>err &
		pid=$!
		while [ ! -s huge.raw ] && kill -0 $pid; do sleep 0.02; done
		kill -TERM $pid
		wait $pid
		echo $? >status
	)
	is "$(cat status)" 143 "create, stopped: ends as by the signal"
	is "$(cat err)" "byre-img: interrupted: 'huge.raw' has been removed" "create, stopped: says what became of the file"
	ok "create, stopped: the file is gone" test ! -e huge.raw
fi
# Made over a file that was there: it cannot be put back, but that is said.
truncate -s 20G large.raw
(
	env --default-signal=TERM byre-img create -q -f raw -o preallocation=full large.raw 20G >out 2>err &
	pid=$!
	while [ "$(stat -c %b large.raw)" -eq 0 ] && kill -0 $pid; do sleep 0.02; done
	kill -TERM $pid
	wait $pid
	echo $? >status
)
is "$(cat status)" 143 "while it is made: ends as by the signal"
is "$(cat err)" "byre-img: interrupted: 'large.raw' is incomplete" "while it is made: says what became of the target"
rm -f large.raw

# Nobody reads the progress any more.
byre-img convert -p -f raw -S 0 -O qcow2 disk.raw new 2>err | head -c 5 >/dev/null
ok "a copy whose progress nobody reads is whole" byre-img compare -q -f raw -F qcow2 disk.raw new
done_testing
