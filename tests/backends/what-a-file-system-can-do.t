#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: what info says that a file system can do is what its system calls then do, on file
# systems with and without each ability; under the peer's name info says no more than the peer.
. "$BYRE_SRC/tests/tap.sh"
. "$BYRE_SRC/tests/backends/devices.sh"
own_mounts "$@"

# What the kernel really does with a file in folder $1: lines of "fact answer".
tried () {
	python3 - "$1" <<'PY'
import ctypes, errno, fcntl, mmap, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
path = sys.argv[1] + "/tried"
with open(path, "wb") as f:
    f.write(os.urandom(1 << 20))
    f.flush()
    os.fsync(f.fileno())
fd = os.open(path, os.O_RDWR)

def say(what, works):
    print(what, "yes" if works else "no")

def fallocate(mode, at, n):
    return libc.fallocate(fd, mode, ctypes.c_long(at), ctypes.c_long(n)) == 0

say("punch-hole", fallocate(1 | 2, 65536, 65536) and os.pread(fd, 65536, 65536) == bytes(65536))
say("zero-range", fallocate(16, 262144, 65536) and os.pread(fd, 65536, 262144) == bytes(65536))
other = os.open(path + ".clone", os.O_RDWR | os.O_CREAT)
try:
    fcntl.ioctl(other, 0x40049409, fd)
    say("reflink", True)
except OSError:
    say("reflink", False)
holes = os.open(path + ".holes", os.O_RDWR | os.O_CREAT)
os.ftruncate(holes, 1 << 20)
os.pwrite(holes, b"x" * 4096, 1 << 19)
try:
    say("sparse-reads", os.lseek(holes, 0, os.SEEK_DATA) == 1 << 19)
except OSError:
    say("sparse-reads", False)
try:
    direct = os.open(path, os.O_RDONLY | os.O_DIRECT)
    say("direct-io", os.preadv(direct, [mmap.mmap(-1, 4096)], 0) == 4096)
except OSError:
    say("direct-io", False)
# Two descriptions, the write lock of one in the way of the other's.
ofd_setlk, lock = 37, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 1, 0)
fcntl.fcntl(fd, ofd_setlk, lock)
again = os.open(path, os.O_RDWR)
try:
    fcntl.fcntl(again, ofd_setlk, lock)
    print("locks none")
except OSError:
    print("locks this-host")
PY
}
# What info says, in the same form.
said () {
	byre-img info -U --output=json -f raw "$1/tried" | python3 -c '
import json, sys
storage = json.load(sys.stdin)["children"][0]["info"]["storage"]
for fact in "punch-hole zero-range reflink sparse-reads direct-io locks".split():
    print(fact, storage[fact])'
}
named () { byre-img info -U -v -f raw "$1/tried" | sed -n 's/^ *file system: //p'; }

check () {
	check_name=$1 check_type=$2 check_dir=$3
	tried "$check_dir" >tried.out 2>tried.err
	said "$check_dir" >said.out 2>said.err
	# Not believed where one kernel gives a wrong answer, whatever this one does.
	[ "$check_dir" != ext4old ] || sed -i 's/^sparse-reads .*/sparse-reads no/' tried.out
	is "$(cat said.out)" "$(cat tried.out)" "$check_name: every fact" || sed 's/^/# /' tried.err said.err
	is "$(named "$check_dir")" "$check_type" "$check_name: named"
}
on () {
	on_name=$1 on_type=$2 on_dir=$3
	shift 3
	if ! have "mkfs.$on_type" && [ "$on_type" != tmpfs ]; then
		skip "$on_name" "mkfs.$on_type is not installed"
	elif ! mount_new "$on_type" "$on_dir" "$@"; then
		skip "$on_name" "it cannot be mounted: $(tail -n 1 mkfs.err)"
	else
		check "$on_name" "$on_type" "$on_dir"
		umount "$on_dir"
	fi
}

on "ext4" ext4 ext4
on "ext4 without extents" ext4 ext4old -O ^extent,^64bit
on "XFS" xfs xfs
on "XFS without shared blocks" xfs xfsold -m reflink=0
on "btrfs" btrfs btrfs
on "tmpfs" tmpfs tmpfs

# Compatible by default.
mkdir .bin
ln -s "$BYRE_BUILD/byre-img" .bin/qemu-img
truncate -s 1M a.raw
unlike "$(.bin/qemu-img info --output=json -f raw a.raw)" storage "the peer's JSON has no such key"
like "$(.bin/qemu-img info --output=json -v -f raw a.raw)" '"storage": {' "unless it is asked for"
unlike "$(byre-img info -f raw a.raw)" Storage: "nor have people, unless they ask"
like "$(byre-img info -v -f raw a.raw)" "^    Storage:" "and then they have"
byre-img create -q -f qcow2 -b a.raw -F raw top.qcow2
is "$(byre-img info --output=json --backing-chain top.qcow2 | grep -c '"storage": {')" 2 "one for each file of a chain"
ok "info writes nothing" sh -c 'chmod a-w a.raw; cp -p a.raw b.raw; byre-img info -v -f raw a.raw; cmp a.raw b.raw'
done_testing
