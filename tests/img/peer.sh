# SPDX-License-Identifier: BSD-2-Clause
# shellcheck shell=sh
#
# Comparing byre-img with an installed qemu-img. Sourced after tap.sh.
#
# `ours` is byre-img started under the peer's name, so that messages can be compared whole.

mkdir -p .bin
ln -sf "$BYRE_BUILD/byre-img" .bin/qemu-img
ours=$PWD/.bin/qemu-img

# The release whose output ours is. Older ones print other things: there only what both
# do to images is compared.
peer_new=no
peer_at_least 10 0 && peer_new=yes

# need_peer: this test is all about the peer.
need_peer () {
	have qemu-img qemu-io || skip_all "qemu-img is not installed"
}

# alike NAME ARGS...: same exit status and stdout for both, on the same files.
alike () {
	peer_name=$1
	shift
	if [ $peer_new = no ]; then
		skip "$peer_name" "qemu-img 10 is not installed"
		return 0
	fi
	qemu-img "$@" >peer.out 2>peer.err
	peer_status=$?
	"$ours" "$@" >our.out 2>our.err
	our_status=$?
	if [ $peer_status -ne $our_status ]; then
		fail "$peer_name" "exit status $our_status, the peer's is $peer_status: $*" "$(cat our.out our.err)" "the peer:" "$(cat peer.out peer.err)"
	elif ! cmp -s our.out peer.out; then
		fail "$peer_name" "output differs: $*" "$(diff peer.out our.out)" "$(cat our.err)"
	else
		pass "$peer_name"
	fi
}

# alike_err NAME ARGS...: stderr too.
alike_err () {
	alike "$@" || return
	if [ $peer_new = yes ] && ! cmp -s our.err peer.err; then
		fail "$1 (messages)" "$(diff peer.err our.err)"
	fi
}

# refused_alike NAME ARGS...: both refuse with the same status; ours in one line that begins
# with its name (and hints, if any, after it).
refused_alike () {
	peer_name=$1
	shift
	"$ours" "$@" >our.out 2>our.err
	our_status=$?
	if [ $our_status -eq 0 ] || [ $our_status -gt 125 ]; then
		fail "$peer_name" "exit status $our_status: $*" "$(cat our.err)"
		return
	fi
	if ! head -n 1 our.err | grep -q '^qemu-img[a-z -]*: .'; then
		fail "$peer_name" "no message: $*" "$(cat our.err)"
		return
	fi
	if [ -e new ]; then
		fail "$peer_name" "left a file: $*"
		return
	fi
	if [ $peer_new = yes ]; then
		qemu-img "$@" >peer.out 2>peer.err
		peer_status=$?
		rm -f new
		if [ $peer_status -ne $our_status ]; then
			fail "$peer_name" "exit status $our_status, the peer's is $peer_status: $*" "$(cat our.err)" "the peer:" "$(cat peer.err)"
			return
		fi
	fi
	pass "$peer_name"
}

# twins DIR1 DIR2: two folders for commands that change images.
# both NAME ARGS...: runs ARGS with byre-img in ours/ and with qemu-img in theirs/; same
# exit status and stdout.
both () {
	peer_name=$1
	shift
	mkdir -p ours theirs
	(cd ours && "$ours" "$@") >our.out 2>our.err
	our_status=$?
	if [ $peer_new = no ]; then
		! have qemu-img || (cd theirs && qemu-img "$@") >peer.out 2>peer.err
		is $our_status 0 "$peer_name"
		return
	fi
	(cd theirs && qemu-img "$@") >peer.out 2>peer.err
	peer_status=$?
	if [ $peer_status -ne $our_status ]; then
		fail "$peer_name" "exit status $our_status, the peer's is $peer_status: $*" "$(cat our.out our.err)" "the peer:" "$(cat peer.out peer.err)"
	elif ! cmp -s our.out peer.out; then
		fail "$peer_name" "output differs: $*" "$(diff peer.out our.out)" "$(cat our.err)"
	else
		pass "$peer_name"
	fi
}

# readable NAME IMAGE RAW [OPTIONS...]: the peer finds nothing wrong with IMAGE and reads
# RAW's bytes from it.
readable () {
	peer_name=$1 peer_image=$2 peer_raw=$3
	shift 3
	if ! have qemu-img; then
		skip "$peer_name" "qemu-img is not installed"
		return 0
	fi
	if qemu-img compare "$@" -F raw "$peer_image" "$peer_raw" >out 2>err; then
		pass "$peer_name"
	else
		fail "$peer_name" "$(cat out err)"
	fi
}

# A raw disk with what disks have: text, random bytes, zeros that are stored, holes, and
# parts of clusters. disk FILE MIB
disk () {
	python3 - "$1" "$2" <<'PY'
import random, sys
random.seed(4)
path, mib = sys.argv[1], int(sys.argv[2])
with open(path, "wb") as f:
    f.truncate(mib << 20)
    for i in range(mib):
        at = i << 20
        kind = i % 5
        if kind == 0:
            f.seek(at)
            f.write(random.randbytes(1 << 20))
        elif kind == 1:
            f.seek(at + 4096)
            f.write((b"the quick brown fox %d\n" % i) * 20000)
        elif kind == 2:
            f.seek(at)
            f.write(bytes(300 << 10))
            f.write(random.randbytes(1000))
        elif kind == 3:
            for k in range(0, 1 << 20, 128 << 10):
                f.seek(at + k + 512)
                f.write(random.randbytes(5000))
    f.truncate(mib << 20)
PY
}
