#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: what byre run is told and cannot do is an error in one line that names it, before anything is opened: on the
# command line as in a file.
. "$BYRE_SRC/tests/tap.sh"
[ -x "$BYRE_BUILD/byre" ] || skip_all "byre is built for x86-64 only"

# refused WHAT OPTION...: what is said has WHAT.
refused () {
	refused_what=$1
	shift
	not_ok "$*" "$BYRE_BUILD/byre" "$@"
	is "$(wc -l <err)" 1 "$*: one line"
	like "$(cat err)" "^byre: .*$refused_what" "$*: with the reason"
}
refused "nothing to start" run
refused "unrecognized option '--colour'" run --colour
refused "'--balloon' requires an argument" run --balloon
refused "unrecognized option '--colour'" host --colour
refused "cpus: 0: 1 to 64 processors" run --cpus 0 x.qcow2
refused "cpus: 65: 1 to 64 processors" run --cpus 65 x.qcow2
refused "do not make that many" run --cpus 6,sockets=4 x.qcow2
refused "Invalid parameter .colours." run --cpus 2,colours=1 x.qcow2
refused "lots is not a size" run -m lots x.qcow2
refused "no list of nodes" run --host-nodes 3-1 x.qcow2
refused "append is for a machine with --kernel" run --append quiet x.qcow2
refused "initrd is for a machine with --kernel" run --initrd x x.qcow2
refused "firmware is for a machine without --kernel" run --kernel x --firmware bios
refused "vars is for a machine without --kernel" run --kernel x --vars x
refused "two beginnings" run --restore a --restore-file b x.qcow2
refused "Could not open .nowhere.qcow2." run nowhere.qcow2

byre-img create -q -f qcow2 x.qcow2 1M
refused "boot: 1 to 255" run --disk file=x.qcow2,boot=0
refused "are the same" run --disk file=x.qcow2,boot=1,bootindex=0
refused "Parameter .rerror." run --disk file=x.qcow2,rerror=enospc
refused "not both" run --disk file=x.qcow2,throttling.iops-total=1,throttling.iops-read=1
refused "option .colour." run --disk file=x.qcow2,colour=red
refused "Parameter .iface." run --disk file=x.qcow2,iface=ide

# config WHAT TEXT: in a file.
config () {
	echo "$2" >config
	refused "$1" run --config config x.qcow2
}
config "'colour' is not an option" '{"colour": 1}'
config "cpus: 0: 1 to 64" '{"cpus": 0}'
config "'kernel' cannot be a value of that kind" '{"kernel": true}'
config "'rng' cannot be a value of that kind" '{"rng": 1}'
config "JSON" '{"cpus": 1'
config "no JSON object" '[]'
config "Could not open .nowhere." '{"rng": false, "balloon": true, "svirt": false, "disk": "nowhere"}'
done_testing
