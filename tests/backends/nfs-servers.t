#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: what NFS servers are like: users and groups, the URL's arguments, exports that are not
# there or may only be read, files that are not ours or that somebody removes.
# timeout: 400
. "$BYRE_SRC/tests/tap.sh"
. "$BYRE_SRC/tests/backends/servers.sh"
. "$BYRE_SRC/tests/backends/images.sh"
need nfs3
own_network "$@"
mkdir -p export/open export/closed export/theirs export/folder readonly
chmod 777 export/open
# libnfs 4 looks in version 4 at what the folder allows.
chown 1234:5678 export/theirs
for version in 3 4; do
	byre-img create -q -f qcow2 export/theirs/private$version.img 16M
	chown 1234:5678 export/theirs/private$version.img
	chmod 600 export/theirs/private$version.img
done
byre-img create -q -f qcow2 readonly/r.img 16M
more_exports="EXPORT { Export_Id=2; Path=$PWD/readonly; Pseudo=/ro; Protocols=3,4; Transports=TCP; SecType=none,sys; Squash=None; Access_Type=RO; PrivilegedPort=false; FSAL { Name=VFS; } }"
serve nfs3

one_line () { is "$(wc -l <err)" 1 "$1: one line"; }
for version in 3 4; do
	v="NFS $version"
	of () { echo "nfs://127.0.0.1/$1?version=$version$2"; }
	theirs='&uid=1234&gid=5678'
	private=theirs/private$version.img

	ok "$v: made as somebody" byre-img create -q -f qcow2 "$(of exp/open/a$version.img $theirs)" 16M
	is "$(stat -c %u:%g export/open/a$version.img)" 1234:5678 "$v: it is theirs"
	ok "$v: a file of their own" byre-io -f qcow2 -c 'write -q 0 64k' "$(of exp/$private $theirs)"
	not_ok "$v: is nothing for others" byre-io -r -f qcow2 -c 'read -q 0 64k' "$(of exp/$private '&uid=1235&gid=5678')"
	like "$(cat err)" "$private.*\([Pp]ermission denied\|ACCES\)" "$v: is nothing for others: said"
	one_line "$v: is nothing for others"
	ok "$v: options" byre-io -r -f qcow2 -c 'read -q 0 64k' "$(of exp/$private $theirs)&readahead=131072&nfsport=2049"
	not_ok "$v: none such" byre-img info "$(of exp/$private '&readahed=1')"
	like "$(cat err)" "unknown URL argument 'readahed'" "$v: none such: said"

	not_ok "$v: a folder that is not ours" byre-img create -q -f qcow2 "$(of exp/closed/b.img '&uid=1234')" 16M
	like "$(cat err)" "b.img.*\([Pp]ermission denied\|ACCES\)" "$v: a folder that is not ours: said"
	one_line "$v: a folder that is not ours"

	not_ok "$v: no such export" byre-img info "$(of nowhere/a.img)"
	one_line "$v: no such export"
	not_ok "$v: no such file" byre-img info "$(of exp/nowhere.img)"
	one_line "$v: no such file"
	like "$(cat err)" "nowhere.img.*No such file\|nowhere.img.*NOENT" "$v: no such file: said"
	not_ok "$v: a folder" byre-img info "$(of exp/folder)"
	one_line "$v: a folder"

	ok "$v: of a read-only export, read" byre-io -r -f qcow2 -c 'read -q 0 64k' "$(of ro/r.img)"
	not_ok "$v: not written" byre-io -f qcow2 -c 'write -q 0 64k' "$(of ro/r.img)"
	like "$(cat err)" "r.img.*\([Rr]ead-only\|ROFS\|ACCESS denied\)" "$v: not written: said"
	not_ok "$v: not made" byre-img create -q -f qcow2 "$(of ro/new.img)" 16M
	one_line "$v: not made"

	# A file that is removed while it is open is an error, and nothing is written to another.
	rm -f export/c.img
	ok "$v: an image" byre-img create -q -f raw "$(of exp/c.img)" 16M
	rm -f io.out
	(echo 'write -q -P 1 0 64k'; echo flush; wait_for_go; echo 'write -P 2 0 64k'; echo flush) |
		byre-io --image-opts "driver=raw,file.filename=$(of exp/c.img),file.reconnect-delay=3" >io.out 2>io.err &
	client=$!
	wait_for under_way 2
	rm export/c.img
	truncate -s 16M export/c.img
	touch go
	wait $client
	ok "$v: removed while open: nothing is written to another of its name" cmp -n 65536 export/c.img /dev/zero

	# Through a restart of the server, too.
	rm -f export/d.img
	ok "$v: an image" byre-img create -q -f raw "$(of exp/d.img)" 16M
	rm -f io.out
	(echo 'write -q -P 1 0 64k'; wait_for_go; echo 'write -P 2 0 64k'; echo flush) |
		byre-io --image-opts "driver=raw,file.filename=$(of exp/d.img),file.reconnect-delay=3" >io.out 2>io.err &
	client=$!
	wait_for under_way 1
	stop KILL
	touch go
	mv export/d.img export/old.img
	truncate -s 16M export/d.img
	serve nfs$version
	wait $client
	ok "$v: another file after a restart: nothing is written to it" cmp -n 65536 export/d.img /dev/zero
	like "$(cat io.out io.err)" "write failed\|severed" "$v: another file after a restart: an error"
	rm -f export/*.img
done

# A client that is silent for longer than a lease (six seconds here, looked at every few) is
# forgotten by a server of version 4. One that has nothing to do is not silent; one that was
# stopped opens its file again.
of () { echo "nfs://127.0.0.1/exp/$1.img?version=4"; }
for which in idle stopped; do
	byre-img create -q -f raw export/$which.img 16M
	rm -f io.out go
	(echo 'write -q -P 1 0 64k'; wait_for_go; echo 'write -q -P 2 64k 64k'; echo flush; echo 'read -q -P 1 0 64k') |
		byre-io -f raw "$(of $which)" >io.out 2>io.err &
	client=$!
	wait_for under_way 1
	[ $which = idle ] || kill -STOP $client
	sleep 16
	[ $which = idle ] || kill -CONT $client
	touch go
	wait $client
	is "$?:$(sed 's/byre-io> //g' io.out | grep -v '^$')" 0: "$which for longer than a lease: nobody sees it"
	byre-io -r -f raw -c 'read -q -P 1 0 64k' -c 'read -q -P 2 64k 64k' export/$which.img >io.out
	ok "$which for longer than a lease: all is there" test ! -s io.out
	case $which in
	idle) is "$(cat io.err)" '' "idle: one connection" ;;
	stopped) like "$(cat io.err)" "connected again" "stopped: another connection" ;;
	esac
done
done_testing
