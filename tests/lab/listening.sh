# SPDX-License-Identifier: BSD-2-Clause
# shellcheck shell=sh
#
# A guest that does what its console says, in a machine with a control socket, $QMP. Sourced after guest.sh.
#
#	listening_guest		makes its initramfs, after guest_folder and guest_modules
#	start OPTION...		starts the machine, whose process is $machine; its keyboard is 9. It is
#				confined, but for files in the folder
#	boot OPTION...		and waits for the guest to listen
#	ended NAME		the machine has ended, by itself and well
#	tell COMMANDS		to the guest
#	guest COMMANDS		and what it says to that

listening_guest () {
	echo 0 >number
	guest_pack <<'END'
stty -echo </dev/console
await vda
echo "READY"
while read -r line; do eval "$line"; done
END
}

start () {
	rm -f keys
	mkfifo keys
	exec 9<>keys
	: >console
	byre run --kernel vmlinux --initrd initramfs --append "console=ttyS0 quiet panic=-1" -m 256M \
		--qmp unix:$QMP,server=on,wait=off --allow-write /run/vm "$@" <keys >console 2>errors &
	machine=$!
}
is_ready () { grep -q "^READY" console; }
boot () {
	start "$@"
	within 150 is_ready || bail "the guest is ready" "$(tail -n 5 console errors)"
}
ended () {
	within 60 gone || { kill -KILL $machine; fail "$1: it ends"; }
	wait $machine
	is $? 0 "$1" || sed 's/^/# /' errors
}
gone () { ! kill -0 $machine; }

tell () { printf '%s\n' "$1" >&9; } # whose backslashes are not ours to look at
next_number () { # in a file: half of it is asked in subshells
	told=$(($(cat number) + 1))
	echo $told >number
}
guest () {
	next_number
	tell "echo BEGIN$told; $1; echo END$told"
	within 60 grep -q "^END$told" console || echo "the guest does not answer"
	tr -d '\r' <console | sed -n "/^BEGIN$told\$/,/^END$told\$/p" | sed '1d;$d'
}
