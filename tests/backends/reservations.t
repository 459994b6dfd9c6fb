#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: a LUN is one writer's by a persistent reservation: another is refused with the holder's
# name, over one path or two, and one whose reservation is taken away writes nothing more.
# timeout: 120
. "$BYRE_SRC/tests/tap.sh"
. "$BYRE_SRC/tests/backends/servers.sh"
need iscsi
own_network "$@"
serve iscsi
target --op new --mode portal --param portal=127.0.0.2:3260
lun=iscsi://127.0.0.1/iqn.2026-01.test:t1/1
other=iscsi://127.0.0.2/iqn.2026-01.test:t1/1
mine=driver=qcow2,file.reservation=on,file.filename=$lun
both=driver=qcow2,file.driver=multipath
for i in 0 1; do
	both=$both,file.path.$i.driver=iscsi,file.path.$i.reservation=on
	both=$both,file.path.$i.filename=iscsi://127.0.0.$((i + 1))/iqn.2026-01.test:t1/1
done
ok "create" byre-img create -q -f qcow2 "$lun" 64M

# hold IMAGE: a program that has it open and writes when told to by a line in ./go.
hold () {
	mkfifo go.$$
	byre-io --image-opts "$1" <go.$$ >held.out 2>held.err &
	holder=$!
	exec 7>go.$$
	rm go.$$
	echo "write -q -P 1 0 64k" >&7
	wait_for sh -c "byre-img lock $lun | grep -q reservation"
}
told () { echo "$1" >&7; }
let_go () { exec 7>&-; wait $holder; }

is "$(byre-img lock "$lun")" "$lun: nobody holds a lock" "nobody holds it"
ok "and it could be had" byre-img lock --test "$lun"

hold "$mine"
not_ok "a second writer is refused" byre-io -c 'write 0 512' --image-opts "$mine"
like "$(cat err)" "the LUN is reserved by .*, pid $holder\$" "with the holder's name"
is "$(wc -l <err)" 1 "in one line"
not_ok "a reader, too" byre-io -r -c 'read 0 512' --image-opts "$mine"
ok "unless it insists" byre-io -r -U -c 'read 0 512' --image-opts "$mine"
not_ok "a writer that asks for nothing is stopped by the target" byre-io -f qcow2 -c 'write 0 512' "$lun"
not_ok "two paths are no way around" byre-io -c 'write 0 512' --image-opts "$both"
like "$(cat err)" "reserved by" "and are told"
like "$(byre-img lock "$lun")" "reservation: .*pid $holder" "lock names it"
not_ok "and tells by its exit status" byre-img lock --test "$lun"
told "write -q -P 2 64k 64k"
told "flush"
ok "the holder ends in peace" let_go
ok "and then another may write" byre-io -c 'read -q -P 2 64k 64k' -c 'write -q 0 512' --image-opts "$mine"
ok "over two paths" byre-io -c 'write -q 0 512' -c 'read -q -P 2 64k 64k' --image-opts "$both"
is "$(byre-img lock "$lun")" "$lun: nobody holds a lock" "and nothing is left behind"

# ---- over two paths, one of which is lost -------------------------------------------------

hold "$both"
not_ok "one who comes by the other path is refused" byre-io -c 'write 0 512' --image-opts \
	"driver=qcow2,file.reservation=on,file.filename=$other"
if have iptables; then
	iptables -A INPUT -p tcp -d 127.0.0.2 -j DROP
	for i in 1 2 3 4 5 6; do told "write -q -P $i $((i * 64))k 64k"; done
	told "flush"
	not_ok "and when that path is lost" byre-io -c 'write 0 512' --image-opts "$mine"
	ok "the holder ends in peace" let_go
	iptables -D INPUT -p tcp -d 127.0.0.2 -j DROP
	is "$(cat held.err | grep -vc 'is lost\|goes on\|is back\|no answer\|the connection')" 0 "and saw no error"
else
	let_go
	skip "a path is lost" "iptables is not installed"
fi
is "$(byre-img lock "$lun")" "$lun: nobody holds a lock" "nothing is left behind, by the lost path neither"

# ---- taken away ---------------------------------------------------------------------------

hold "$mine"
key=$(byre-img lock --output json "$lun" | sed -n 's/.*"holder": "\(.*\)".*/\1/p')
not_ok "a key that nobody has breaks nothing" byre-img lock --break 0x1234 "$lun"
not_ok "nor does a word" byre-img lock --break "$holder" "$lun"
ok "broken by its key" byre-img lock --break "$key" "$lun"
told "write -P 9 1M 64k"
told "flush"
told "write -P 9 2M 64k"
let_go
like "$(cat held.err held.out)" "reservation was taken away" "who lost it is told"
ok "and wrote nothing more" byre-io -r -f qcow2 -c 'read -q -P 0 1M 64k' -c 'read -q -P 0 2M 64k' "$lun"
ok "sound" byre-img check -q "$lun"
ok "the other has it" byre-io -c 'write -q -P 7 0 64k' --image-opts "$mine"

hold "$mine"
kill -KILL $holder
exec 7>&-
wait $holder 2>/dev/null
not_ok "one that was killed leaves it behind" byre-io -c 'write 0 512' --image-opts "$mine"
key=$(byre-img lock --output json "$lun" | sed -n 's/.*"holder": "\(.*\)".*/\1/p')
ok "to be broken by hand" byre-img lock --break "$key" "$lun"
ok "and then it can be had" byre-io -c 'write -q 0 512' --image-opts "$mine"
not_ok "0 is no key" byre-io -c 'write 0 512' --image-opts "$mine,file.reservation-key=0"
done_testing
