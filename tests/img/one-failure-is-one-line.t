#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: what fails is said once. The flush at the end that fails for the same reason adds no
# line, and what becomes of the target stands in the same one.
. "$BYRE_SRC/tests/tap.sh"
. "$BYRE_SRC/tests/img/peer.sh"

disk disk.raw 4
# faulty FORMAT FILE OP N: from its Nth on each such operation fails.
faulty () { echo "driver=$1,file.driver=fault,file.file.filename=$2,file.ops=$3,file.fail-at=$4,file.sticky=on"; }
# one_line NAME REGEX: err is one line that matches.
one_line () {
	is "$(grep -c . err)" 1 "$1: one line" || cat err >&2
	like "$(cat err)" "$2" "$1: what it says"
}
# SIGXFSZ is ignored as nohup would SIGHUP.
limited () { (trap '' XFSZ; ulimit -f 2048; exec "$@"); }

for format in raw qcow2; do
	byre-img create -q -f $format there 4M
	exits 1 "no space over an existing $format" limited byre-img convert -n -f raw -O $format -S 0 disk.raw there
	one_line "no space over an existing $format" "^byre-img: there: error while writing at byte [0-9]*: File too large; 'there' is incomplete$"
	for op in write flush; do
		byre-img create -q -f $format there 4M
		exits 1 "$op fails in $format" byre-img convert -n --target-image-opts -f raw disk.raw "$(faulty $format there $op 1)"
		one_line "$op fails in $format" "^byre-img: .*: Input/output error; '.*there.*' is incomplete$"
	done
done

# Whichever of its writes or flushes it is that fails; @ stands for the image.
for step in "resize @ 40T" "resize --shrink @ 1M" "resize --preallocation=metadata @ 8M" "snapshot -c x @" "snapshot -a one @" "snapshot -d one @"; do
	for op in write flush; do
		for n in 1 2 3 4 5; do
			byre-img convert -f raw -O qcow2 disk.raw a.qcow2
			byre-img snapshot -c one a.qcow2
			byre-io -c 'write 0 1M' a.qcow2 >/dev/null
			command=$(echo "$step" | sed "s/@/--image-opts $(faulty qcow2 a.qcow2 $op $n)/")
			# shellcheck disable=SC2086 # a command and its options
			byre-img $command >out 2>err || one_line "$step, $op $n" "Input/output error"
		done
	done
done
done_testing
