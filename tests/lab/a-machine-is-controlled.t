#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: a machine does what its control socket says: it stands and goes, its disks grow, come, go and are slowed
# down, a full file system stops it and loses nothing, snapshots take it back, and events tell of all that.
# timeout: 1800
. "$BYRE_SRC/tests/tap.sh"
. "$BYRE_SRC/tests/lab/lab.sh"
. "$BYRE_SRC/tests/lab/guest.sh"
. "$BYRE_SRC/tests/lab/listening.sh"
long_test
[ -x "$BYRE_BUILD/byre" ] || skip_all "byre is built for x86-64 only"
own_machine --kvm --memory 1400
guest_folder
export PYTHONPATH="$BYRE_SRC/tests/lab" PYTHONDONTWRITEBYTECODE=1 QMP=/run/vm/sock

# ---- a guest that does what its console says ------------------------------------------------

guest_modules virtio_pci virtio_blk button evdev
listening_guest

# steps NAME: as a QMP client, from stdin.
steps () {
	{ echo "from qmp import *"; cat; } >steps.py
	ok "$1" timeout 900 python3 steps.py
}
ticks () { grep -c "^tick" console; }

# ---- standing and going ---------------------------------------------------------------------

ok "an image" byre-img create -q -f qcow2 disk.qcow2 64M
ok "with something in it" byre-io -c 'write -q -P 0xa5 1M 64k' disk.qcow2
cat >config <<'END'
{"name": "guest", "uuid": "11111111-2222-3333-4444-555555555555", "cpus": 2, "memory": "64M",
 "disk": [{"file": "disk.qcow2", "format": "qcow2", "id": "d0", "serial": "s0"}]}
END
boot --config config --pidfile /run/vm/pid --paused=off
is "$(cat pid)" "$machine" "its number is told"
is "$(stat -c %a sock)" 600 "the socket is its owner's"
tell 'while sleep 0.05; do echo tick; done &'
within 30 grep -q tick console
steps "it stands" <<'END'
m.do("stop")
m.event("STOP")
assert m.do("query-status") == {"running": False, "singlestep": False, "status": "paused"}
END
before=$(ticks)
sleep 1
is "$(ticks)" "$before" "and its output does"
ok "it goes on" byre ctl sock cont
more () { [ "$(ticks)" -gt $((before + 5)) ]; }
ok "and its output does" within 30 more
tell 'kill $!'
steps "it is what it was made" <<'END'
assert m.do("query-name") == {"name": "guest"}
assert m.do("query-uuid") == {"UUID": "11111111-2222-3333-4444-555555555555"}
cpus = m.do("query-cpus-fast")
assert len(cpus) == 2 and all(c["thread-id"] > 1 for c in cpus)
assert m.do("query-memory-size-summary")["base-memory"] == 256 << 20
assert any(d["qdev_id"] == "d0" and d["regions"][0]["address"] for d in m.do("query-pci")[0]["devices"])
v = m.do("x-byre-stats")["vcpus"]
assert v[0]["exits"] > v[0]["io"] > 0 and any(c["mmio"] > 0 for c in v) # whichever loaded the drivers
END

# ---- disks -----------------------------------------------------------------------------------

steps "its disk is told of" <<'END'
d = m.disk("d0")
assert d["io-status"] == "ok" and d["inserted"]["drv"] == "qcow2" and not d["inserted"]["ro"]
assert d["inserted"]["node-name"] == "d0" and d["inserted"]["file"] == "disk.qcow2"
image = d["inserted"]["image"]
assert image["virtual-size"] == 64 << 20 and image["cluster-size"] == 65536
END
guest 'dd if=/dev/vda of=/dev/null bs=64k count=16 iflag=direct 2>/dev/null' >/dev/null
guest 'dd if=/dev/zero of=/dev/vda bs=4k count=1 seek=1000 conv=fsync 2>/dev/null' >/dev/null
steps "and what it did" <<'END'
s = m.stats("d0")
assert s["rd_bytes"] >= 1 << 20 and s["rd_operations"] >= 2 and s["rd_total_time_ns"] > 0, s
assert s["wr_bytes"] == 4096 and s["wr_operations"] == 1 and s["flush_operations"] >= 1, s
assert s["failed_rd_operations"] == 0 and s["idle_time_ns"] > 0, s
END
ok "for people" byre ctl sock disks
like "$(cat out)" "^d0 *64 MiB qcow2 *rw ok *disk.qcow2" "a line for each"
ok "what they did" byre ctl sock stats
like "$(cat out)" "^d0 " "a line for each"
ok "it grows" byre ctl sock resize d0 96M
grown () { [ "$(guest 'cat /sys/block/vda/size')" = 196608 ]; }
ok "which the guest sees" within 30 grown
not_ok "not to what it cannot be" byre ctl sock resize d0 100
like "$(cat err)" "multiple of 512" "and says why"

steps "it is slowed down" <<'END'
limits = {"device": "d0", "bps": 0, "bps_rd": 0, "bps_wr": 0, "iops": 20, "iops_rd": 0, "iops_wr": 0}
m.do("block_set_io_throttle", limits)
assert m.disk("d0")["inserted"]["iops"] == 20
END
# shellcheck disable=SC2016 # the guest's
slow=$(guest 'read a b </proc/uptime; dd if=/dev/vda of=/dev/null bs=4k count=60 iflag=direct 2>/dev/null; read c b </proc/uptime; echo $((${c%.*} - ${a%.*}))')
ok "60 requests at 20 a second take 2 s at least, not $slow" test "$slow" -ge 2
steps "and let go again" <<'END'
m.do("block_set_io_throttle", {"device": "d0", "bps": 0, "bps_rd": 0, "bps_wr": 0, "iops": 0, "iops_rd": 0, "iops_wr": 0})
m.do("blockdev-snapshot-internal-sync", {"device": "d0", "name": "one"})
assert "already" in str(refused(m.do, "blockdev-snapshot-internal-sync", {"device": "d0", "name": "one"}))
assert [s["name"] for s in m.disk("d0")["inserted"]["image"]["snapshots"]] == ["one"]
m.do("blockdev-snapshot-internal-sync", {"device": "d0", "name": "two"})
assert m.do("blockdev-snapshot-delete-internal-sync", {"device": "d0", "name": "one"})["name"] == "one"
END

# ---- disks that come and go --------------------------------------------------------------------

ok "another image" byre-img create -q -f qcow2 hot.qcow2 32M
not_ok "one of a network is none to a machine that has given networks up" \
	byre ctl sock add-disk file=nbd://127.0.0.1:7999/none,format=raw,id=far
like "$(cat err)" "make connections" "and that is said"
ok "is a disk" byre ctl sock add-disk file=/run/vm/hot.qcow2,format=qcow2,id=hot,serial=HOT
is "$(cat out)" hot "of that name"
has_hot () { guest 'grep -l HOT /sys/block/*/serial' | grep -q serial; }
ok "which the guest finds" within 60 has_hot
not_ok "once" byre ctl sock add-disk file=/run/vm/hot.qcow2,format=qcow2,id=again
guest 'dd if=/dev/zero bs=64k count=16 2>/dev/null | tr "\000" Z | dd of=/dev/vdb bs=64k conv=fsync 2>/dev/null' >/dev/null
ok "and lets go" byre ctl sock remove-disk hot
has_none () { [ -z "$(guest 'grep -l HOT /sys/block/*/serial' | grep serial)" ]; }
ok "it has no such disk any more" within 30 has_none
ok "what it wrote is there" byre-io -c 'read -q -P 0x5a 0 1M' hot.qcow2
ok "sound" byre-img check -q hot.qcow2
steps "as other programs do it" <<'END'
node = {"node-name": "n1", "driver": "qcow2", "discard": "unmap", "file": {"driver": "file", "filename": "/run/vm/hot.qcow2"}}
m.do("blockdev-add", node)
m.do("device_add", {"driver": "virtio-blk-pci", "drive": "n1", "id": "vd1", "serial": "HOT"})
assert m.disk("vd1")["inserted"]["node-name"] == "n1"
assert "vd1" in str(refused(m.do, "blockdev-del", {"node-name": "n1"}))
END
ok "the guest finds it" within 60 has_hot
steps "and lets go of it" <<'END'
m.do("device_del", {"id": "vd1"})
assert m.event("DEVICE_DELETED")["device"] == "vd1"
assert refused(m.do, "device_del", {"id": "vd1"}).kind == "DeviceNotFound"
m.do("blockdev-del", {"node-name": "n1"})
END
ok "its image is free" byre-io -c 'read -q -P 0x5a 0 1M' hot.qcow2

# ---- snapshots of all of it --------------------------------------------------------------------

guest 'mark=before' >/dev/null
steps "a snapshot" <<'END'
m.job("snapshot-save", {"tag": "all", "vmstate": "d0", "devices": ["d0"]})
assert "already" in str(refused(m.job, "snapshot-save", {"tag": "all", "vmstate": "d0", "devices": ["d0"]}))
END
# shellcheck disable=SC2016
guest 'mark=after; dd if=/dev/zero of=/dev/vda bs=64k count=1 seek=16 conv=fsync 2>/dev/null' >/dev/null
ok "there is one" byre ctl sock snapshots
like "$(cat out)" "all " "of that name"
ok "back to it" byre restore sock all
# shellcheck disable=SC2016
is "$(guest 'echo $mark')" before "memory is as it was"
# shellcheck disable=SC2016
is "$(guest 'echo 3 >/proc/sys/vm/drop_caches; dd if=/dev/vda bs=64k skip=16 count=1 2>/dev/null | tr -d "\245" | wc -c')" 0 \
	"and the disk"
ok "by the monitor's name" byre ctl sock qmp \
	'{"execute": "human-monitor-command", "arguments": {"command-line": "savevm typed"}}'
is "$(cat out)" '{"return": ""}' "which says nothing"
ok "one less" byre ctl sock delete typed
not_ok "and no more of it" byre restore sock typed
like "$(cat err)" "typed" "which is said"
ok "another" byre snapshot sock last

# ---- turned off, by the button -------------------------------------------------------------------

steps "the reset button" <<'END'
m.do("system_reset")
assert m.event("RESET") == {"guest": False, "reason": "host-qmp-system-reset"}
END
again () { [ "$(grep -c "^READY" console)" -eq 2 ]; }
ok "it starts anew" within 150 again
# shellcheck disable=SC2016
is "$(guest 'echo mark$mark')" mark "and has forgotten"
tell 'dd if=/dev/input/event0 of=/dev/null bs=24 count=1 2>/dev/null; poweroff -f'
sleep 1
steps "the power button" <<'END'
m.do("system_powerdown")
m.event("POWERDOWN")
assert m.event("SHUTDOWN") == {"guest": True, "reason": "guest-shutdown"}
END
ended "the guest turns it off"
not_ok "nobody is there any more" byre ctl sock status
not_ok "its number is gone" test -e pid
ok "its disk is sound" byre-img check -q disk.qcow2

# ---- from a snapshot -----------------------------------------------------------------------------

boot_again () {
	start "$@"
	within 100 byre ctl sock stop # it is answered when all is in place; keys come to nothing before
	byre ctl sock cont
	# shellcheck disable=SC2016
	is "$(guest 'echo $mark')" before "$1: it goes on where it was"
	ok "$1: it ends" byre ctl sock quit
	ended "$1: well"
}
boot_again --restore last --config config
start --restore nosuch --config config
wait $machine
is $? 1 "a snapshot that is not there"
like "$(cat errors)" "nosuch" "is named"
start --restore last --config config --paused
stands () { [ "$(byre ctl sock status)" = prelaunch ]; }
ok "it stands at first" within 60 stands
ok "its memory goes into a file" byre ctl sock save-file memory
not_ok "not where there is no place" byre ctl sock save-file /nowhere/memory
ok "it ends" byre ctl sock quit
ended "well"
boot_again --restore-file memory --config config
ok "its disk is sound still" byre-img check -q disk.qcow2

# ---- a full file system --------------------------------------------------------------------------

mkdir -p small && mount -t tmpfs -o size=6M none small
ok "an image where there is little room" byre-img create -q -f qcow2 small/full.qcow2 64M
boot small/full.qcow2 --no-shutdown
cat >steps.py <<'END'
from qmp import *
open("listening", "w").close()
e = m.event("BLOCK_IO_ERROR")
assert e["device"] == "disk0" and e["operation"] == "write" and e["action"] == "stop" and e["nospace"], e
m.event("STOP")
assert m.do("query-status")["status"] == "io-error"
assert m.disk("disk0")["io-status"] == "nospace"
END
timeout 900 python3 steps.py >steps.out 2>&1 &
client=$!
within 30 test -e listening
next_number
tell "echo BEGIN$told; dd if=/dev/zero bs=64k count=192 2>/dev/null | tr '\\000' Z | dd of=/dev/vda bs=64k conv=fsync 2>/dev/null; echo rc=\$?; echo END$told"
wait $client
is $? 0 "the machine stops, and says so" || sed 's/^/# /' steps.out
mount -o remount,size=64M small
ok "there is room now" byre ctl sock cont
finished () { grep -q "^END$told" console; }
ok "the guest's write ends" within 60 finished
like "$(cat console)" "^rc=0" "and was none the wiser"
ok "it is running" byre ctl sock status
is "$(cat out)" running "as it says"
tell 'poweroff -f'
is_off () { [ "$(byre ctl sock status)" = shutdown ]; }
ok "turned off it stays" within 60 is_off
not_ok "and does not go on" byre ctl sock cont
ok "it ends" byre ctl sock quit
ended "when it is told to"
ok "all of it is there" byre-io -r -c 'read -q -P 0x5a 0 12M' small/full.qcow2
ok "sound" byre-img check -q small/full.qcow2

# ---- beginnings and ends ---------------------------------------------------------------------------

boot small/full.qcow2 --no-reboot
steps "a reset is the end" <<'END'
m.do("system_reset")
assert m.event("SHUTDOWN") == {"guest": False, "reason": "host-qmp-system-reset"}
END
ended "with --no-reboot"
exec 9>&-
ok "in the background" timeout 60 byre run --kernel vmlinux --initrd initramfs -m 256M --qmp sock --pidfile /run/vm/pid \
	--daemonize small/full.qcow2
machine=$(cat pid)
ok "it runs" byre ctl sock status
steps "a client that says quit" <<'END'
m.do("quit")
assert m.event("SHUTDOWN") == {"guest": False, "reason": "host-qmp-quit"}
END
ok "is obeyed" within 60 gone
not_ok "a failure is told in the foreground" timeout 60 byre run --kernel vmlinux --daemonize nowhere.qcow2
like "$(cat err)" "nowhere" "with its reason"
for bad in '{"colour": 1}' '{"cpus": [1]}' '{"paused": "yes"}' '{"disk": {"a=b": 1}}' '[]' '{"cpus": 1'; do
	echo "$bad" >bad
	not_ok "a file that is wrong: $bad" timeout 20 byre run --config bad
	is "$(wc -l <err)" 1 "in one line"
done
not_ok "no option" timeout 20 byre run small/full.qcow2 --disk file=disk.qcow2,werror=perhaps
like "$(cat err)" "werror" "is named"
umount small
done_testing
