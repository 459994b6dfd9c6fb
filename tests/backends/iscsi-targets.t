#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: what iSCSI targets are like: CHAP, one way and both, header digests, LUNs of 4096-byte blocks,
# write-protected ones, ones that grow, that are not there, portals that go and come.
# timeout: 400
. "$BYRE_SRC/tests/tap.sh"
. "$BYRE_SRC/tests/backends/servers.sh"
. "$BYRE_SRC/tests/backends/images.sh"
need iscsi
own_network "$@"
serve iscsi

name=iqn.2026-01.test:t1
place=driver=raw,file.driver=iscsi,file.portal=127.0.0.1,file.target=$name
lun () { target --op new --mode logicalunit --tid 1 --lun "$@"; }
one_line () { is "$(wc -l <err)" 1 "$1: one line"; }

not_ok "no such target" byre-img info iscsi://127.0.0.1/iqn.2026-01.test:none/1
one_line "no such target"
like "$(cat err)" "iqn.2026-01.test:none.*cannot log in" "no such target: said"
not_ok "no such LUN" byre-img info iscsi://127.0.0.1/$name/7
one_line "no such LUN"
like "$(cat err)" "$name/7" "no such LUN: named"
not_ok "no target behind the port" byre-img info iscsi://127.0.0.1:3261/$name/1
one_line "no target behind the port"
not_ok "no LUN in the URL" byre-img info iscsi://127.0.0.1/$name
one_line "no LUN in the URL"
not_ok "the controller, LUN 0, is no disk" byre-img info iscsi://127.0.0.1/$name/0
like "$(cat err)" "is no disk" "the controller, LUN 0, is no disk: said"

for digest in none none-crc32c crc32c-none crc32c; do
	ok "header-digest=$digest" byre-io -c 'write -q -P 3 0 3M' -c 'read -q -P 3 0 3M' \
		--image-opts "$place,file.lun=1,file.header-digest=$digest"
done
target --op update --mode target --tid 1 --name HeaderDigest --value CRC32C
ok "a target that insists on digests" byre-io -c 'write -q -P 4 0 3M' -c 'read -q -P 4 0 3M' \
	--image-opts "$place,file.lun=1,file.header-digest=crc32c"
target --op update --mode target --tid 1 --name HeaderDigest --value None

# 4096-byte blocks
truncate -s 64M 4k.img
lun 2 -b "$PWD/4k.img" --blocksize 4096
there=iscsi://127.0.0.1/$name/2
ok "4096-byte blocks: raw, of any alignment" byre-io -f raw -c 'write -q -P 1 0 64k' -c 'write -q -P 2 777 5000' \
	-c 'read -q -P 1 0 777' -c 'read -q -P 2 777 5000' -c 'read -q -P 1 5777 1000' $there
ok "4096-byte blocks: random, raw" "$model" --url $there --no-peer --loops 3 --runs 3 --config raw=on,size=3M
ok "4096-byte blocks: random, qcow2" "$model" --url $there --no-peer --loops 3 --runs 3 --config cluster=65536,size=4M
ok "clusters of 512 bytes" byre-img create -q -f qcow2 -o cluster_size=512 $there 1M
ok "clusters of 512 bytes: written" byre-io -f qcow2 -c 'write -q -P 7 3k 1k' -c 'read -q -P 7 3k 1k' $there
ok "clusters of 512 bytes: sound" byre-img check -q $there

# write-protected
truncate -s 16M ro.img
lun 3 -b "$PWD/ro.img"
there=iscsi://127.0.0.1/$name/3
ok "an image" byre-img create -q -f qcow2 $there 8M
target --op update --mode logicalunit --tid 1 --lun 3 --params readonly=1
ok "write-protected: read" byre-io -r -f qcow2 -c 'read -q -P 0 0 1M' $there
not_ok "write-protected: not to be written" byre-io -f qcow2 -c 'write -q 0 512' $there
like "$(cat err)" "the LUN is write-protected" "write-protected: said"
one_line "write-protected"
target --op update --mode logicalunit --tid 1 --lun 3 --params readonly=0
rm -f io.out
(echo 'write -q -P 1 0 512'; echo flush; wait_for_go; echo 'write -P 2 512 512'; echo 'read -q -P 1 0 512') |
	byre-io -f raw $there >io.out 2>io.err &
client=$!
wait_for under_way 2
target --op update --mode logicalunit --tid 1 --lun 3 --params readonly=1
touch go
wait $client
like "$(cat io.out io.err)" "write failed: Operation not permitted" "write-protected while open: the write fails"

# grown while open. This target does not say so by itself.
truncate -s 16M grown.img
lun 4 -b "$PWD/grown.img"
there=iscsi://127.0.0.1/$name/4
not_ok "not to be grown from here" byre-img resize -q -f raw $there 32M
like "$(cat err)" "its size is set at the target" "not to be grown from here: said"
rm -f io.out
(echo 'write -q -P 1 0 64k'; wait_for_go; echo 'read -q -P 1 0 64k'; echo 'truncate 32M'
	echo 'write -q -P 5 20M 64k'; echo 'read -q -P 5 20M 64k'; echo 'length') |
	byre-io --image-opts "driver=iscsi,filename=$there" >io.out 2>&1 &
client=$!
wait_for under_way 1
truncate -s 32M grown.img
target --op delete --mode logicalunit --tid 1 --lun 4
lun 4 -b "$PWD/grown.img"
touch go
wait $client
is "$(sed 's/byre-io> //g' io.out)" "32 MiB" "grown while open: written past the old end"
ok "and as large afterwards" byre-img resize -q -f raw $there 32M

# portals
ok "a portal that goes" target --op new --mode portal --param portal=127.0.0.1:13260
there=iscsi://127.0.0.1:13260/$name/1
ok "create" byre-img create -q -f qcow2 $there 64M
session () { target --op show --mode conn --tid 1 | sed -n 's/^Session: //p' | head -n 1; }
rm -f io.out
(
	for i in $(seq 1 40); do echo "write -q -P $i $((i * 64))k 64k"; done
	wait_for_go
	for i in $(seq 1 40); do echo "read -q -P $i $((i * 64))k 64k"; done
) | byre-io -f qcow2 $there >io.out 2>io.err &
client=$!
wait_for under_way 40
target --op delete --mode portal --param portal=127.0.0.1:13260
target --op delete --mode conn --tid 1 --sid "$(session)" --cid 0
touch go
sleep 2
target --op new --mode portal --param portal=127.0.0.1:13260
wait $client
is $?:"$(sed 's/byre-io> //g' io.out)" 0: "and comes: no error"
like "$(cat io.err)" "connected again" "and comes: told"

# CHAP
printf 'secretsecret12' >password
printf 'wrongwrong1234' >wrong
printf 'targettarget12' >back
chap="--object secret,id=chap,file=password --object secret,id=back,file=back --object secret,id=wrong,file=wrong"
target --op new --mode account --user vm --password secretsecret12
target --op bind --mode account --tid 1 --user vm
try () {
	try_name=$1 try_what=$2 try_opts=$3
	shift 3
	# shellcheck disable=SC2086 # words
	$try_what "$try_name" byre-img info $chap --image-opts "$place,file.lun=1$try_opts" "$@"
}
silent () { # about passwords
	one_line "$1"
	unlike "$(cat out err)" "secretsecret12\|wrongwrong1234\|targettarget12" "$1: no password is told"
}
try "CHAP" ok ,file.user=vm,file.password-secret=chap
try "CHAP: a wrong password" not_ok ,file.user=vm,file.password-secret=wrong
silent "CHAP: a wrong password"
try "CHAP: a wrong name" not_ok ,file.user=nobody,file.password-secret=chap
silent "CHAP: a wrong name"
try "CHAP: nothing given" not_ok ""
silent "CHAP: nothing given"
try "CHAP: a name without a password" not_ok ,file.user=vm
like "$(cat err)" "go together" "CHAP: a name without a password: said"
try "CHAP: no such secret" not_ok ,file.user=vm,file.password-secret=none
ok "CHAP: in the URL" byre-img info -f raw "iscsi://vm%secretsecret12@127.0.0.1/$name/1"
unlike "$(cat out)" secretsecret12 "CHAP: in the URL: not told"
not_ok "CHAP: a wrong one in the URL" byre-img info -f raw "iscsi://vm%wrongwrong1234@127.0.0.1/$name/1"
silent "CHAP: a wrong one in the URL"
not_ok "CHAP: in the URL of no LUN" byre-img info -f raw "iscsi://vm%secretsecret12@127.0.0.1/$name/9"
silent "CHAP: in the URL of no LUN"
not_ok "CHAP: in what is no URL" byre-img info -f raw "iscsi://vm%secretsecret12@127.0.0.1/"
silent "CHAP: in what is no URL"
not_ok "CHAP: in the URL of a new image" byre-img create -f qcow2 "iscsi://vm%wrongwrong1234@127.0.0.1/$name/1" 1M
unlike "$(cat err)" wrongwrong1234 "CHAP: in the URL of a new image: not told"

target --op new --mode account --user array --password targettarget12
target --op bind --mode account --tid 1 --user array --outgoing
try "mutual CHAP" ok ,file.user=vm,file.password-secret=chap,file.target-user=array,file.target-password-secret=back
try "mutual CHAP: a target that does not know its own" not_ok \
	,file.user=vm,file.password-secret=chap,file.target-user=array,file.target-password-secret=wrong
silent "mutual CHAP: a target that does not know its own"

done_testing
