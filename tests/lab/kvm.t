#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: a machine of the lab has a /dev/kvm that runs guests, whether or not this one has.
# timeout: 900
. "$BYRE_SRC/tests/tap.sh"
. "$BYRE_SRC/tests/lab/lab.sh"
own_machine --kvm
cd /run || exit 1

ok "there is one" test -c /dev/kvm
# KVM_GET_API_VERSION has answered 12 since Linux 2.6.22.
python3 -c 'import fcntl; print(fcntl.ioctl(open("/dev/kvm", "r+b", 0), 0xAE00, 0))' >out 2>err
is "$(cat out)" 12 "it opens and knows its version"

# A boot sector that ends the machine with 42, which QEMU's device for that makes 85.
cp "$BYRE_BUILD/lab/sector" . &&
	exits 85 "a guest runs on it" timeout 400 qemu-system-x86_64 -M pc -accel kvm -cpu host -m 16 -nodefaults \
		-display none -device isa-debug-exit,iobase=0xf4,iosize=1 -drive if=floppy,file=sector,format=raw,readonly=on
done_testing
