#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: SeaBIOS finds NVMe and SATA disks and a CD-ROM drive, and boots from each kind of disk: the
# boot sector there reads the next one, says what is in it, and turns the machine off.
# timeout: 1500
. "$BYRE_SRC/tests/tap.sh"
. "$BYRE_SRC/tests/lab/lab.sh"
[ -x "$BYRE_BUILD/byre" ] || skip_all "byre is built for x86-64 only"
[ -f /usr/share/seabios/bios-256k.bin ] || skip_all "seabios is not installed"
own_machine --kvm --memory 1400
mkdir -p /run/vm && cd /run/vm || exit 1
cp "$BYRE_BUILD/byre" . && PATH=/run/vm:$PATH

# boot_sector: ds, es = 0; int 0x13, ah=0x42 with the packet at 0x40 (one sector, number 1, to 0x7e00);
# each byte from there to a 0 goes to port 0x3f8; then S5 to port 0x604. Without interrupts, in which the firmware
# writes there what is left of its own last line.
cat >boot_sector <<'END'
my $code = pack("H*", "31c08ed88ec0" . "be407cb442cd13" . "fabe007e" . "ac84c07406baf803eeebf5" . "ba0406b80034ef" . "f4ebfd");
print pack("a64 H32 a430 H4", $code, "10000100007e00000100000000000000", "", "55aa");
print pack("a512", "started from $ARGV[0]\r\n");
END

for iface in nvme ahci; do
	perl boot_sector $iface >disk.img
	truncate -s 4M disk.img cd.iso
	timeout 500 byre run -m 64M --firmware-log $iface.log --disk file=disk.img,format=raw,iface=$iface \
		--disk file=cd.iso,format=raw,media=cdrom </dev/null >console 2>errors
	is $? 0 "$iface: ended well"
	sed 's/^/# /' errors
	like "$(tr -d '\r' <console)" "started from $iface" "$iface: its boot sector was started, and has read"
	like "$(cat $iface.log)" "DVD/CD.*Byre CD-ROM" "$iface: the CD-ROM drive is found"
done
like "$(cat ahci.log)" "AHCI/0: Byre SATA disk" "the SATA disk is named"
done_testing
