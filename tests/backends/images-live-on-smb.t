#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: images on a real server (smb): made, converted both ways, snapshotted, checked,
# encrypted, compressed; and a server that is killed under load and comes back, closes the
# share, grants few credits or has another file under the name, loses nothing.
# timeout: 300
. "$BYRE_SRC/tests/tap.sh"
. "$BYRE_SRC/tests/backends/servers.sh"
. "$BYRE_SRC/tests/backends/images.sh"
need smb
own_network "$@"
serve smb
images_live_there smb

dd if=disk.raw of=small.raw bs=1M count=2 2>/dev/null
for arguments in vers=2.02 vers=2.10 vers=3.0 sign seal "vers=3.0&seal"; do
	there=$(url smb "small.img?$arguments")
	ok "$arguments: there" byre-img convert -f raw -O qcow2 small.raw "$there"
	ok "$arguments: the same" byre-img compare -q -f raw -F qcow2 small.raw "$there"
done
refused () {
	not_ok "$1: refused" byre-img info "$2"
	is "$(wc -l <err)" 1 "$1: one line"
	like "$(cat err)" "$3" "$1: says so"
}
refused "sealing needs version 3" "$(url smb "small.img?vers=2&seal")" "only use seal with SMB3"
refused "an unknown argument" "$(url smb "small.img?vers=3&shout")" "unknown URL argument 'shout'"
refused "a share only" "smb://root@127.0.0.1:1445/vm" "no file in it"
mkdir share/folder
refused "a folder" "$(url smb folder)" "Is a directory"
refused "a password in the URL" "smb://root:x@127.0.0.1:1445/vm/small.img" "give it as a secret"

printf secret >password
printf wrong >wrong
plain () { env -u NTLM_USER_FILE "$@"; }
ok "a secret's password, by URL" plain byre-img info --object secret,id=p,file=password \
	"$(url smb "small.img?password-secret=p")"
ok "by options" plain byre-img info --object secret,id=p,file=password --image-opts \
	driver=qcow2,file.filename=smb://127.0.0.1/vm/small.img,file.user=root,file.password-secret=p,file.port=1445,file.sign=on
ok "create with one" plain byre-img create -q --object secret,id=p,file=password -f qcow2 \
	"$(url smb "new.img?password-secret=p")" 1M
not_ok "a wrong one" plain byre-img info --object secret,id=p,file=wrong "$(url smb "small.img?password-secret=p")"
like "$(cat err)" "LOGON_FAILURE" "a wrong one: says so"
not_ok "none" plain byre-img info "$(url smb small.img)"

there=$(url smb d.img)
ok "create" byre-img create -q -f raw "$there" 20M
for i in $(seq 0 39); do echo "write -q -P $((i + 1)) $((i * 512))k 512k"; done >before
for i in $(seq 0 39); do echo "read -q -P $((i + 1)) $((i * 512))k 512k"; done >after
converse -f raw "$there"
smbcontrol -s smb.conf smbd close-share vm
goes_on "a share that is closed"
like "$(cat io.err)" "connected again" "a share that is closed: it is told"

echo "write -q -P 1 0 64k" >before
echo "write -q -P 2 0 64k" >after
converse --image-opts "driver=raw,file.filename=$there,file.reconnect-delay=2"
stop KILL
mv share/d.img share/first.img
truncate -s 20M share/d.img
serve smb
touch go
not_ok "another file under the name is not written to" wait $writer
like "$(cat io.out io.err)" "severed" "another file under the name: an error"
ok "it is as it was" cmp -n 20971520 share/d.img /dev/zero

SMB_SETTINGS="smb2 max credits = 8" restart smb 0
there=$(url smb credits.img)
ok "few credits: there" byre-img convert -m 16 -W -f raw -O qcow2 disk.raw "$there"
ok "few credits: the same" byre-img compare -q -f raw -F qcow2 disk.raw "$there"
restart smb 0
mkdir share/full
mount -t tmpfs -o size=1M tmpfs share/full
not_ok "a share that is full" byre-img convert -f raw -O raw disk.raw "$(url smb full/disk.img)"
like "$(cat err)" "No space left" "a share that is full: says so"

silence_loses_nothing smb
a_power_cut_loses_nothing smb share/c.img
a_restart_loses_nothing smb
done_testing
