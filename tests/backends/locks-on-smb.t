#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: images on an SMB server are locked as local ones are, whoever opens them; a holder that
# was killed leaves nothing locked, one that lost its connection has its lock again or stops.
# timeout: 200
. "$BYRE_SRC/tests/tap.sh"
. "$BYRE_SRC/tests/backends/servers.sh"
need smb
own_network "$@"
serve smb

# hold NAME OPTION...: byre-io has the image open until there is a file NAME.go, and then does
# what NAME.after says, if anything. Its pid is in $holder.
hold () {
	hold_name=$1
	shift
	rm -f "$hold_name".go "$hold_name".out
	{
		echo "read 0 512"
		until [ -e "$hold_name".go ]; do sleep 0.05; done
		[ ! -e "$hold_name".after ] || cat "$hold_name".after
	} | byre-io "$@" >"$hold_name".out 2>"$hold_name".err &
	holder=$!
	wait_for grep -q "^512 bytes" "$hold_name".out
}
# let_go NAME PID
let_go () {
	touch "$1".go
	wait "$2"
}
refused () {
	refused_name=$1
	shift
	not_ok "$refused_name: refused" "$@"
	like "$(cat err)" 'Failed to get \(shared \)\{0,1\}"write" lock' "$refused_name: says why"
	like "$(cat err)" "Is another process using the image \[.*$image" "$refused_name: names the image"
}
write () { byre-io -c 'write -q -P 9 0 512' "$@"; }
read_ () { byre-io -r -c 'read -q 0 512' "$@"; }

# The same on a local file and there.
locks_keep_order () {
	what=$1 image=$2
	byre-img create -q -f qcow2 "$image" 1M || fail "$what: create"
	ok "$what: a writer" hold a -f qcow2 "$image"
	a=$holder
	refused "$what: a second writer" write -f qcow2 "$image"
	refused "$what: a second writer that probes" write "$image"
	refused "$what: a raw writer" write -f raw "$image"
	refused "$what: a reader" read_ -f qcow2 "$image"
	refused "$what: a reader that probes" byre-img info "$image"
	refused "$what: create" byre-img create -q -f qcow2 "$image" 2M
	refused "$what: convert" byre-img convert -f raw -O qcow2 one.raw "$image"
	ok "$what: a reader with -U" read_ -U -f qcow2 "$image"
	like "$(byre-img info -U "$image")" "virtual size: 1 MiB" "$what: it is what it was"
	ok "$what: it ends well" let_go a $a
	ok "$what: then a writer" write -f qcow2 "$image"

	ok "$what: a reader" hold a -r -f qcow2 "$image"
	a=$holder
	ok "$what: a second reader" read_ -f qcow2 "$image"
	ok "$what: one that probes" byre-img info "$image"
	refused "$what: a writer beside a reader" write -f qcow2 "$image"
	refused "$what: one that probes beside a reader" write "$image"
	ok "$what: the reader ends well" let_go a $a

	ok "$what: a raw writer" hold a -f raw "$image"
	a=$holder
	ok "$what: a second raw writer" byre-io -f raw -c 'read -q 0 512' "$image"
	ok "$what: a raw reader" read_ -f raw "$image"
	refused "$what: a qcow2 writer beside a raw one" write -f qcow2 "$image"
	refused "$what: one that probes beside a raw one" write "$image"
	refused "$what: a qcow2 reader beside a raw writer" read_ -f qcow2 "$image"
	ok "$what: the raw writer ends well" let_go a $a

	ok "$what: a writer to be killed" hold a -f qcow2 "$image"
	kill -9 $holder
	ok "$what: free soon" wait_for write -f qcow2 "$image"
	touch a.go
}
truncate -s 1M one.raw
locks_keep_order "a local file" "$PWD/local.img"
there=$(url smb l.img)
locks_keep_order "smb" "$there"

image=$there
hold a -f qcow2 "$image"
a=$holder
refused "by name" write -f qcow2 "$image"
like "$(cat err)" "(byre-io, pid $a, on $(uname -n), since " "the holder is named"
ok "from the note" grep -q '"program": "byre-io"' share/.l.img.owner
refused "without locks of its own" write --image-opts "driver=qcow2,file.locking=off,file.filename=$image"
let_go a $a
not_ok "the note is gone" test -e share/.l.img.owner

hold a --image-opts "driver=qcow2,file.locking=off,file.filename=$image"
a=$holder
ok "locking=off keeps no -U reader out" read_ -U -f qcow2 "$image"
ok "nor one of its kind" read_ --image-opts "driver=qcow2,file.locking=off,file.filename=$image"
let_go a $a

two=driver=qcow2,file.driver=multipath,file.path.0=$image,file.path.1=$image
ok "two paths do not keep each other out" hold a --image-opts "$two"
a=$holder
refused "who has one" write -f qcow2 "$image"
refused "to read" read_ -f qcow2 "$image"
ok "two paths end well" let_go a $a

# A reader's lock is gone with its connection, too, and what somebody writes meanwhile is not what it began
# to read. It stands still here until that is done.
echo "read -q 0 512" >b.after
hold b -r -f qcow2 "$image"
b=$holder
kill -STOP $b
restart smb 0.3
ok "a writer gets in while a reader's connection is gone" write -f qcow2 "$image"
kill -CONT $b
ok "the reader is told" wait_for grep -q "somebody wrote to it" b.err
kill $b
touch b.go # or what writes its commands would wait
wait $b 2>/dev/null

# The connection ends under load and comes back, the lock with it.
for i in $(seq 0 39); do echo "write -q -P $((i + 1)) $((i * 8))k 8k"; echo "sleep 20"; done >a.after
for i in $(seq 0 39); do echo "read -q -P $((i + 1)) $((i * 8))k 8k"; done >>a.after
hold a -f qcow2 "$image"
a=$holder
restart smb 0.3
ok "a new connection is made" wait_for grep -q "connected again" a.err
refused "with the lock" write -f qcow2 "$image"
touch a.go
sleep 0.3
restart smb 0.3
ok "under load" let_go a $a
is "$(sed 's/byre-io> //g' a.out | grep -v '512 bytes\|512/512' | grep -c .)" 0 "every byte is read again"
is "$(grep -c "connected again" a.err)" 2 "after two losses"
ok "sound" byre-img check -q "$image"

# The server does not hear that the connection was given up, and still has the old lock.
if iptables -L -n >/dev/null 2>&1; then
	hold a --image-opts "driver=qcow2,file.filename=$image,file.timeout=1"
	a=$holder
	iptables -I INPUT -p tcp --dport 1445 -j DROP
	touch a.go
	sleep 3
	iptables -D INPUT -p tcp --dport 1445 -j DROP
	began=$(date +%s)
	ok "the end of the connection is lost" let_go a $a
	like "$(cat a.err)" "connected again" "a new one was made"
	ok "its own old lock does not keep it out" test $(($(date +%s) - began)) -lt 20
	is "$(sed 's/byre-io> //g' a.out | grep -v '512 bytes\|512/512' | grep -c .)" 0 "with every byte"
else
	skip "the end of the connection is lost" "iptables is not usable here"
fi

# Somebody reads while the holder is away: it waits, and goes on.
hold a --image-opts "driver=qcow2,file.filename=$image"
a=$holder
kill -STOP $a
restart smb 0
hold b -r -f qcow2 "$image"
b=$holder
kill -CONT $a
touch a.go
sleep 1
not_ok "not while another reads" grep -q "connected again" a.err
let_go b $b
ok "the holder waits for a reader" let_go a $a
is "$(sed 's/byre-io> //g' a.out | grep -v '512 bytes\|512/512' | grep -c .)" 0 "and every byte is there"

# Somebody writes while it is away: what it knows of the image is wrong now.
hold a --image-opts "driver=qcow2,file.filename=$image,file.reconnect-delay=2"
a=$holder
kill -STOP $a
restart smb 0
ok "another writes meanwhile" byre-io -f qcow2 -c 'write -q -P 77 0 1M' "$image"
kill -CONT $a
not_ok "the holder stops" let_go a $a
like "$(cat a.err)" "another program may have written to it" "the holder says why"
ok "what the other wrote is there" byre-io -r -f qcow2 -c 'read -q -P 77 0 1M' "$image"
ok "and sound" byre-img check -q "$image"

echo "somebody's" >share/.m.img.owner
ok "a file of the note's name" byre-img create -q -f qcow2 "$(url smb m.img)" 1M
is "$(cat share/.m.img.owner)" "somebody's" "is left alone"
done_testing
