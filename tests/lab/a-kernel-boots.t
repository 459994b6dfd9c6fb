#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: byre runs a Linux kernel under a real KVM to its init, with its disks from the block layer:
# what was in the image is there, what the guest wrote and flushed is in the image, also when
# the machine is killed.
# timeout: 1500
. "$BYRE_SRC/tests/tap.sh"
. "$BYRE_SRC/tests/lab/lab.sh"
. "$BYRE_SRC/tests/lab/guest.sh"
[ -x "$BYRE_BUILD/byre" ] || skip_all "byre is built for x86-64 only"
own_machine --kvm --memory 1400
guest_folder

# ---- an initramfs: the modules in their order, and what is to be done -----------------------

guest_modules virtio_pci virtio_blk
guest_pack <<'END'
await vda
echo "BEGIN"
echo "cpus $(nproc)"
echo "memory $(sed -n 's/MemTotal: *//p' /proc/meminfo)"
for d in /sys/block/vd*; do echo "disk ${d##*/} $(cat $d/size) ro=$(cat $d/ro) serial=$(cat $d/serial)"; done
sh /dev/vdb 2>&1
echo "END"
off
END

# boot NAME OPTION...: runs the commands in the file `job`, which is the second disk. The kernel's command line has
# $kernel_words, too; it is the ELF file within the package's bzImage, which takes a while to unpack itself.
kernel=vmlinux
boot () {
	boot_name=$1
	shift
	truncate -s %512 job
	timeout 600 byre run --kernel $kernel --initrd initramfs --append "console=ttyS0 quiet panic=-1 $kernel_words" -m 256M \
		"$@" --disk file=job,format=raw,readonly </dev/null >console 2>errors
	guest_ended "$boot_name" $?
}

# ---- it boots -----------------------------------------------------------------------------

ok "an image" byre-img create -q -f qcow2 disk.qcow2 64M
ok "with something in it" byre-io -c 'write -q -P 0xa5 1M 64k' disk.qcow2
cat >job <<'END'
b=/bin/busybox
echo "read $($b dd if=/dev/vda bs=64k skip=16 count=1 2>/dev/null | $b md5sum)"
$b dd if=/dev/zero bs=64k count=32 2>/dev/null | $b tr '\000' 'Z' | $b dd of=/dev/vda bs=64k seek=128 conv=fsync 2>/dev/null
echo "wrote $?"
echo "packages" $($b cat /sys/devices/system/cpu/cpu[01]/topology/physical_package_id)
echo "uuid $($b cat /sys/class/dmi/id/product_uuid)"
exit
END
uuid=5f3c1f4e-2f0e-4f0c-9a76-0f4d5a3c2b1e
kernel=$(ls "$BYRE_BUILD"/lab/guest/boot/vmlinuz-*)
boot "two processors, as a bzImage" --cpus 2,sockets=2 --uuid $uuid --disk file=disk.qcow2,format=qcow2,queues=2,serial=disk0,discard=unmap
kernel=vmlinux
like "$(cat said)" "^cpus 2" "it has two processors"
like "$(cat said)" "^packages 0 1" "in two sockets"
like "$(cat said)" "^uuid $uuid" "and its name"
like "$(cat said)" "^disk vda 131072 ro=0 serial=disk0" "and the disk"
like "$(cat said)" "^disk vdb 1 ro=1" "and one that is read-only"
pattern=$(head -c 65536 /dev/zero | tr '\000' '\245' | md5sum)
like "$(cat said)" "^read ${pattern%% *}" "what was in the image is read"
like "$(cat said)" "^wrote 0" "and it is written"
ok "what it wrote is in the image" byre-io -r -c 'read -q -P 0x5a 8M 2M' -c 'read -q -P 0xa5 1M 64k' disk.qcow2
ok "sound" byre-img check -q disk.qcow2

# ---- an encrypted one, over a backing file ---------------------------------------------------

printf secret >password
secret=secret,id=s,file=password
ok "an encrypted overlay" byre-img create -q --object $secret -f qcow2 -b disk.qcow2 -F qcow2 \
	-o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10 over.qcow2
boot "encrypted" --object $secret --disk file=over.qcow2,format=qcow2,encrypt.key-secret=s
like "$(cat said)" "^read ${pattern%% *}" "encrypted: what is in the backing file is read"
ok "encrypted: sound" byre-img check -q over.qcow2
ok "encrypted: the backing file is as it was" byre-io -r -c 'read -q -P 0x5a 8M 2M' disk.qcow2

# ---- killed --------------------------------------------------------------------------------

cat >job <<'END'
b=/bin/busybox
i=0
while true; do
	$b dd if=/dev/zero bs=64k count=1 2>/dev/null | $b tr '\000' "$($b printf "\\$($b printf %o $((65 + i % 26)))")" |
		$b dd of=/dev/vda bs=64k seek=$i conv=fsync 2>/dev/null
	echo "flushed $i"
	i=$((i + 1))
done
END
truncate -s %512 job
ok "an image" byre-img create -q -f qcow2 kill.qcow2 64M
byre run --kernel vmlinux --initrd initramfs --append "console=ttyS0 quiet" -m 256M --disk file=kill.qcow2,format=qcow2 \
	--disk file=job,format=raw,readonly </dev/null >console 2>errors &
machine=$!
enough () { [ "$(grep -c '^flushed' console)" -ge 20 ]; }
within 150 enough || fail "the guest writes" "$(tail -n 5 console)"
kill -KILL $machine
wait $machine 2>/dev/null
flushed=$(grep -c '^flushed' console)
echo "# killed after $flushed flushed writes"
byre-img check -q kill.qcow2
status=$?
ok "killed: no worse than leaks" test $status -eq 0 -o $status -eq 3
for i in $(seq 0 $((flushed - 1))); do echo "read -q -P $((65 + i % 26)) $((i * 64))k 64k"; done >commands
byre-io -r kill.qcow2 <commands >io.out 2>&1
is "$?:$(sed 's/byre-io> //g' io.out | grep -c .)" 0:0 "killed: all that was flushed is there"

# ---- a triple fault ------------------------------------------------------------------------

# The kernel is loaded each time before the processor goes on, which KVM on AMD's has left where firmware begins.
cat >job <<'END'
b=/bin/busybox
n=$($b head -c 1 /dev/vda | $b tr '\000\001\002' 012)
echo "boot $n"
[ "$n" = 2 ] && exit
printf "\\00$((n + 1))" | $b dd of=/dev/vda conv=notrunc,fsync 2>/dev/null
$b reboot -f
END
ok "an image" byre-img create -q -f qcow2 faults.qcow2 1M
kernel_words=reboot=t
boot "triple faults" --disk file=faults.qcow2,format=qcow2
kernel_words=
is "$(said | grep '^boot' | tr '\n' ' ')" "boot 0 boot 1 boot 2 " "triple faults: each time it begins anew"

# ---- refusals ------------------------------------------------------------------------------

not_ok "nothing to start" byre run
like "$(cat err)" "nothing to start" "is said"
not_ok "something else" byre run --kernel job
is "$(wc -l <err)" 1 "in one line"
not_ok "no disk" byre run --kernel vmlinux --disk file=nowhere.qcow2
like "$(cat err)" "nowhere.qcow2" "and it is named"
not_ok "an initramfs larger than memory" byre run --kernel vmlinux -m 64M --initrd vmlinux
# Firmware that enters protected mode (its descriptors are at 0x40) and loads an integer into the x87 from where there
# is no memory: fild word [0xd0000000].
zeros () { head -c "$1" /dev/zero; }
{
	zeros 65536
	printf '\056\146\017\001\026\100\000\017\040\300\014\001\017\042\300\270\010\000\216\330\147\337\005\000\000\000\320\364' && zeros 36
	printf '\017\000\120\000\017\000\000\000\000\000\000\000\000\000\000\000\000\000\000\000\000\000\000\000\377\377\000\000\000\222\317\000' && zeros 65424
	printf '\352\000\000\000\360' && zeros 11
} >odd.bin
not_ok "what KVM cannot emulate" timeout 60 byre run --firmware ./odd.bin
like "$(cat err)" "cannot emulate an instruction at 0xf0014: 67 df 05 00 00 00 d0" "is told with its place"
# ---- machines whose firmware does nothing ---------------------------------------------------

{ zeros 131056 && printf '\372\364\353\375' && zeros 12; } >idle.bin
idle () {
	byre run --firmware ./idle.bin --qmp unix:idle.sock,server=on,wait=off "$@" </dev/null >idle.out 2>&1 &
	idle=$!
	within 60 byre ctl idle.sock status || fail "a machine that is idle" "$(cat idle.out)"
}
end_idle () {
	byre ctl idle.sock quit >/dev/null
	wait $idle
}
# Variables that it could write are one machine's, as disks are.
ok "variables" byre-img create -q -f raw vars.fd 128K
idle --vars vars.fd
not_ok "another machine with its variables" timeout 60 byre run --firmware ./idle.bin --vars vars.fd
like "$(cat err)" "using the image .vars.fd.*(byre, pid $idle)" "is refused"
not_ok "and a tool that would write them" byre-io -f raw -c 'write -q 0 512' vars.fd
ok "it ends well" end_idle
# What it leaves, which is nothing, though it may not remove files itself.
idle --pidfile idle.pid
is "$(cat idle.pid)" $idle "its number is in a file"
ok "it ends well" end_idle
not_ok "its socket is gone" test -e idle.sock
not_ok "and that file" test -e idle.pid
idle --pidfile idle.pid
kill -KILL $idle
wait $idle
not_there () { [ ! -e idle.sock ] && [ ! -e idle.pid ]; }
ok "also when it is killed" within 30 not_there
# A file of its memory is opened before it may not open anything any more.
idle --allow-write /run/vm
ok "its memory goes into a file" byre ctl idle.sock save-file memory
ok "it ends well" end_idle
idle --restore-file memory
is "$(byre ctl idle.sock status)" running "it goes on from there, confined"
ok "it ends well" end_idle

# ---- its memory -----------------------------------------------------------------------------

idle -m 64M --mergeable --host-nodes 0
flags () { sed -n "/^Size: *65536 kB/,/^VmFlags/s/^VmFlags://p" /proc/$idle/smaps; }
like "$(flags)" " mg" "its memory may be shared"
like "$(cat /proc/$idle/numa_maps)" "bind:0" "and is of one node"
ok "it ends well" end_idle
echo 40 >/proc/sys/vm/nr_hugepages
if [ "$(cat /proc/sys/vm/nr_hugepages)" -eq 40 ]; then
	idle -m 64M --huge-pages
	like "$(flags)" " ht" "its pages are huge"
	ok "it ends well" end_idle
else
	skip "huge pages" "there are none"
fi
not_ok "more of them than there are" timeout 60 byre run --firmware ./idle.bin -m 128M --huge-pages
like "$(cat err)" "cannot map 128 MiB of huge-page memory" "is said"
echo 0 >/proc/sys/vm/nr_hugepages
not_ok "a node that is not there" timeout 60 byre run --firmware ./idle.bin -m 64M --host-nodes 9
like "$(cat err)" "NUMA nodes 0x200" "is named"

# ---- what it goes back to -------------------------------------------------------------------

# A snapshot is gone back to by its name, though that is another's id, and nothing is done for a machine that it does
# not fit.
snaps=names.qcow2
write () { byre-io -f qcow2 -c "write -q -P $1 0 64k" $snaps; }
holds () { byre-io -r -f qcow2 -c "read -q -P $1 0 64k" $snaps; }
ok "an image" byre-img create -q -f qcow2 $snaps 1M
for name in base 1; do
	idle --disk file=$snaps,format=qcow2
	ok "a snapshot '$name'" byre snapshot idle.sock $name
	ok "it ends" end_idle
	ok "something is written" write ${#name}
done
idle --disk file=$snaps,format=qcow2 --restore 1
ok "back to '1', which is the id of 'base'" end_idle
ok "it has what was written before '1'" holds 4
not_ok "not with another number of processors" timeout 60 byre run --firmware ./idle.bin --disk file=$snaps,format=qcow2 --restore base --cpus 2
like "$(cat err)" "it had 1 vCPUs" "is said"
ok "and the disk is as it was" holds 4
idle --disk file=$snaps,format=qcow2 --restore base
ok "back to 'base'" end_idle
ok "before anything was written" holds 0
done_testing
