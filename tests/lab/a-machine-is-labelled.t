#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: where SELinux enforces a policy, --svirt makes a machine one that reaches its own disks and no other machine's: each
# has its pair of categories, disks are labelled while it runs and have their old labels afterwards, and a machine whose keeper was
# killed leaves nothing that the next does not put right.
# timeout: 1500
. "$BYRE_SRC/tests/tap.sh"
. "$BYRE_SRC/tests/lab/lab.sh"
. "$BYRE_SRC/tests/lab/guest.sh"
. "$BYRE_SRC/tests/lab/waiting.sh"
[ -x "$BYRE_BUILD/byre" ] || skip_all "byre is built for x86-64 only"
command -v secilc >/dev/null || skip_all "secilc, which compiles a policy, is not installed"

# The order of the initial identifiers is the kernel's (security/selinux: initial_sid_to_string).
prepare_machine () {
	sids="kernel security unlabeled fs file file_labels init any_socket port netif netmsg node igmp_packet icmp_socket
		tcp_socket sysctl_modprobe sysctl sysctl_fs sysctl_kernel sysctl_net sysctl_net_unix sysctl_vm sysctl_dev kmod
		policy scmp_packet devnull"
	{
		for sid in $sids; do
			echo "(sid $sid)"
			case $sid in
			kernel | init) echo "(sidcontext $sid (system_u system_r host_t ((s0) (s0 (range c0 c1023)))))" ;;
			*) echo "(sidcontext $sid (system_u object_r other_t ((s0) (s0))))" ;;
			esac
		done
		echo "(sidorder ("$sids"))"
		seq -f '(category c%g)' 0 1023
		echo "(categoryorder ($(seq -s ' ' -f 'c%g' 0 1023)))"
	} >numbers.cil
	must secilc -c 30 -o policy -f /dev/null "$BYRE_SRC/tests/lab/machines.cil" numbers.cil
}
own_machine --kvm --memory 1400 --append security=selinux
policy=$PWD/policy
waiting_guest

image=system_u:object_r:svirt_image_t:s0 content=system_u:object_r:virt_content_t:s0 other=system_u:object_r:other_t:s0
label () { stat -c %C "$1"; }
pair_of () { tr -d '\0\n' </proc/"$1"/attr/current | sed -n 's/^system_u:system_r:svirt_t:s0:\(c[0-9]*,c[0-9]*\)$/\1/p'; }
# The process that a keeper keeps.
kept_by () { tr -d " " </proc/"$1"/task/"$1"/children; }
# as_machine PAIR COMMAND...: what a machine could do that has been taken over.
as_machine () (
	printf 'system_u:system_r:svirt_t:s0:%s' "$1" >/proc/self/attr/exec
	shift
	exec ./busybox "$@"
)
is_denied () { not_ok "$@" && like "$(cat err)" "denied\|not permitted" "by the policy"; }
# Capabilities and io_uring it tries, and does without.
denials () {
	dmesg | grep 'avc: *denied' | grep "scontext=system_u:system_r:svirt_t" |
		grep -v 'tclass=\(capability\|anon_inode\)\|{ [gs]etcap }'
}

not_ok "without SELinux it does not start" byre run --kernel vmlinux --svirt
like "$(cat err)" "SELinux is not on" "and that is said"
must mount -t selinuxfs none /sys/fs/selinux
must dd if="$policy" of=/sys/fs/selinux/load bs=1M
echo 1 >/sys/fs/selinux/enforce
echo 0 >/proc/sys/kernel/printk_ratelimit # or denials may be left out
is "$(cat /sys/fs/selinux/enforce)" 1 "a policy is enforced"
cp "$(command -v busybox)" busybox

# ---- one machine ------------------------------------------------------------------------------

must byre-img create -q -f qcow2 base.qcow2 64M
must byre-img create -q -f qcow2 -b base.qcow2 -F qcow2 disk.qcow2
must byre-img create -q -f raw shared.img 1M
must byre-img create -q -f raw read.img 1M
must byre-img create -q -f raw secret.img 1M
must chcon "$other" disk.qcow2 shared.img
not_ok "a program that the policy lets nobody enter a machine by is not run" byre run --kernel vmlinux --svirt
like "$(cat err)" "the policy has to let it" "and that is said"
must chcon -t qemu_exec_t byre busybox
not_ok "a label that the policy does not have" byre run --kernel vmlinux --svirt=process=system_u:system_r:nobody_t:s0
like "$(cat err)" "nobody_t" "is named"

# What it says goes into files that it may write.
touch console errors second.out out err
chcon "$image" console errors second.out out err
before=$(denials)
shared=file=shared.img,format=raw,share-rw=on,cache=writeback # which lies in memory, without direct I/O
start "one" --svirt --disk file=disk.qcow2,format=qcow2,discard=unmap --disk $shared --disk file=read.img,format=raw,readonly
process=$(kept_by $machine)
one=$(pair_of "$process")
like "$one" "^c[0-9]*,c[0-9]*$" "the process has a pair of categories"
is "$(label disk.qcow2)" "$image:$one" "and so has its disk"
is "$(label shared.img)" "$image" "one that others may write has none"
for file in base.qcow2 read.img vmlinux initramfs; do
	is "$(label $file)" "$content" "what it only reads is labelled so: $file"
done
is "$(label secret.img)" "system_u:object_r:tmpfs_t:s0" "and nothing else is"

# ---- another ----------------------------------------------------------------------------------

must byre-img create -q -f qcow2 second.qcow2 64M
byre run --kernel vmlinux --initrd initramfs -m 128M -S --svirt --disk file=second.qcow2,format=qcow2 \
	--disk $shared --disk file=base.qcow2,format=qcow2,readonly \
	--qmp unix:second.sock </dev/null >second.out 2>&1 &
second=$!
within 120 byre ctl second.sock status || bail "the second machine is there" "$(cat second.out; byre ctl second.sock status 2>&1; denials | tail -n 3)"
two=$(pair_of "$(kept_by $second)")
ok "another machine has another pair" test "$two" != "$one"
is "$(label second.qcow2)" "$image:$two" "and its disk has that"
is "$(denials)" "$before" "so far nothing was refused that it needs"
not_ok "a third cannot have a disk that one writes" byre run --kernel vmlinux --svirt --disk file=disk.qcow2,format=qcow2
like "$(cat err)" "disk.qcow2: another machine uses it" "and that is said"

ok "what is taken over reads its own disk" as_machine "$one" dd if=disk.qcow2 of=/dev/null count=1
ok "and writes it" as_machine "$one" dd if=/dev/null of=disk.qcow2 conv=notrunc
ok "and what both share" as_machine "$one" dd if=/dev/null of=shared.img conv=notrunc
ok "and reads the backing file" as_machine "$one" dd if=base.qcow2 of=/dev/null count=1
ok "the other reads its own, too" as_machine "$two" dd if=second.qcow2 of=/dev/null count=1
is_denied "a backing file it cannot write" as_machine "$one" dd if=/dev/null of=base.qcow2 conv=notrunc
is_denied "it cannot read the other's disk" as_machine "$one" dd if=second.qcow2 of=/dev/null count=1
is_denied "nor what is nobody's" as_machine "$one" dd if=secret.img of=/dev/null count=1
is_denied "nor end the other" as_machine "$one" kill -9 "$(kept_by $second)"
is_denied "and the other cannot read its disk" as_machine "$two" dd if=disk.qcow2 of=/dev/null count=1
like "$(denials)" "{ open } .*second.qcow2\|{ read } .*second.qcow2" "the kernel's log has such denials"

# ---- afterwards -------------------------------------------------------------------------------

finish "one"
is "$(label disk.qcow2)" "$other" "its disk has the label that it had"
is "$(label read.img)" "system_u:object_r:tmpfs_t:s0" "and so has what it read"
is "$(label base.qcow2)" "$content" "what another still reads keeps its label"
is "$(label shared.img)" "$image" "and what another still writes"
ok "what it wrote is in the image" byre-io -r -c 'read -q -P 0x5a 8M 2M' disk.qcow2
kept=$(kept_by $second)
kill -9 $second
gone () { ! kill -0 "$kept"; }
ok "with its keeper a machine ends" within 30 gone
is "$(label second.qcow2)" "$image:$two" "but labels are as they were"
start "the next" --svirt --disk file=second.qcow2,format=qcow2 --disk file=base.qcow2,format=qcow2,readonly \
	--disk $shared
process=$(kept_by $machine)
is "$(label second.qcow2)" "$image:$(pair_of "$process")" "the next machine labels them anew"
finish "the next"
is "$(label second.qcow2)" "system_u:object_r:tmpfs_t:s0" "and puts back what they had before both"
is "$(label base.qcow2)" "system_u:object_r:tmpfs_t:s0" "also what is read"
is "$(label shared.img)" "$other" "and what is shared"

ok "one in the background" timeout 120 byre run --kernel vmlinux --initrd initramfs -m 128M -S --svirt --daemonize \
	--disk file=second.qcow2,format=qcow2 --qmp unix:third.sock
sleep 2
ok "is there when who started it is not" byre ctl third.sock status
like "$(label second.qcow2)" "^$image:c" "and its disk is labelled"
ok "it is ended" byre ctl third.sock quit
as_before () { [ "$(label second.qcow2)" = system_u:object_r:tmpfs_t:s0 ]; }
ok "and then no more" within 30 as_before
is "$(ls /run/byre/svirt)" "lock" "nothing is left in the registry"
done_testing
