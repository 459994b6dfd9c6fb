#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: a message names the image, the thing and the value in one line, with the peer's words
# in it where scripts may look for them.
. "$BYRE_SRC/tests/tap.sh"

byre-img create -q -f qcow2 a.qcow2 4M
byre-img create -q -f raw big.raw 8M
byre-io -c 'write 0 64k' a.qcow2 >/dev/null
# said REGEX ARGS...: fails with one line, and the peer's hint after it if there is one.
said () {
	said_regex=$1
	shift
	not_ok "$*" byre-img "$@"
	like "$(head -n 1 err)" "^byre-img: $said_regex$" "$*: names it"
}
said "a.qcow2: New image size must be positive" resize --shrink a.qcow2 -20T
said "a.qcow2: Preallocation can only be used for growing images" resize --preallocation=falloc --shrink a.qcow2 1M
said "a.qcow2: Use the --shrink option to perform a shrink operation." resize a.qcow2 1M
said "a.qcow2: .*" resize a.qcow2 4P
said "big.raw: .*" resize -f raw --preallocation=metadata big.raw 64M
said "a.qcow2: Could not delete snapshot 'n2': snapshot not found" snapshot -d n2 a.qcow2
said "a.qcow2: Could not apply snapshot 'n2': snapshot not found" snapshot -a n2 a.qcow2
said "big.raw: Could not create snapshot 'n2': .*" snapshot -c n2 -f raw big.raw
said "a.qcow2: Failed to load snapshot: Can't find snapshot ('n2')" convert -l n2 -O raw a.qcow2 x
said "a.qcow2: Failed to load snapshot: Can't find snapshot ('snapshot.name=n2')" convert -l snapshot.name=n2 -O raw a.qcow2 x
said "big.raw: This image format does not support checks" check -f raw big.raw
said "a.qcow2: output file is smaller than input file (4194304 of 8388608 bytes)" convert -n -f raw -O qcow2 big.raw a.qcow2
said "x: Compression not supported for this file format ('raw')" convert -c -O raw a.qcow2 x
said "x: Compression and preallocation not supported at the same time" convert -c -O qcow2 -o preallocation=metadata a.qcow2 x
said "'16E': Invalid image size specified. Must be between 0 and 9223372036854775807." create x 16E

byre-io -c 'write -c 0 64k' a.qcow2 >/dev/null
said "a.qcow2: File contains external, encrypted or compressed clusters." map a.qcow2

# An image whose L2 table cannot be read.
byre-img create -q -f qcow2 b.qcow2 4M
byre-io -c 'write 0 64k' b.qcow2 >/dev/null
python3 - b.qcow2 <<'PY'
import struct, sys
with open(sys.argv[1], "r+b") as f:
    at = struct.unpack(">Q", f.read(48)[40:])[0]
    f.seek(at)
    f.write(struct.pack(">Q", 1 << 63 | 1 << 40))
PY
not_ok "measure of a lying image" byre-img measure -O qcow2 b.qcow2
like "$(sed -n 1p err)" "^byre-img: b.qcow2: image is corrupt: L2 table offset 0x10000000000 outside the file (L1 index: 0x0)$" \
	"the structure, its value and its place"
like "$(sed -n 2p err)" "^byre-img: b.qcow2: Unable to get block status at offset 0: Input/output error$" "and what was asked of it"
byre-img create -q -f qcow2 c.qcow2 4M
said "c.qcow2: Check failed: .*" check -r all --image-opts driver=qcow2,file.driver=fault,file.file.filename=c.qcow2,file.ops=read,file.fail-at=3,file.sticky=on
done_testing
